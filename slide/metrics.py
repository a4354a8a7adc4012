"""Metrics of ranked predictions.

Every metric compares the true labels with the ids that a model ranks first, best first, as
`Sequential.predict` gives them with ``top_k``. An id of -1 says that there was no prediction for
the place, which counts as a miss. A label is any entry of the targets that is not 0, however small;
to `accuracy` only the largest of a row is (each of them, if there are several).

Samples without labels count: they can score no hit, so they are 0 in accuracy, P@k and nDCG@k (as
in the scripts of the extreme classification repository) and add nothing to either sum of PSP@k.
"""

from __future__ import annotations

import re
from typing import Any, Protocol, runtime_checkable

import numpy as np
from scipy import sparse

from slide import _validation as check

__all__ = [
    "Accuracy",
    "Metric",
    "NDCGAtK",
    "PSPAtK",
    "PrecisionAtK",
    "accuracy",
    "get",
    "ndcg_at_k",
    "precision_at_k",
    "propensities",
    "psp_at_k",
    "serialize",
]


def accuracy(Y: Any, ids: Any) -> float:
    """Share of the samples whose first id is (one of) their labels, or that agree on the one label.

    With several labels a sample, as of many sigmoid outputs, this is P@1.

    Parameters
    ----------
    Y : sparse matrix or array of shape (n, n_labels), or integer array of shape (n,)
        Labels: an indicator, or targets between 0 and 1 of which the largest of a row is its label,
        or one class a sample. A single column has the label where it is more than 1/2.
    ids : integer array of shape (n, at least 1)
        Predicted ids, best first; -1 for no prediction. With a single column, 0 where the label is
        predicted and -1 where it is not; a sample without both is a hit.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    ValueError
        Shapes disagree, there are no samples, or an id is no label or occurs twice in a row.

    Examples
    --------
    >>> from slide.metrics import accuracy
    >>> accuracy([2, 0, 1], [[2, 1], [0, 2], [0, 1]])
    0.6666666666666666
    >>> accuracy([[1], [0], [0]], [[0], [-1], [0]])
    0.6666666666666666
    """
    labels, ids = _checked(Y, ids, 1)
    return float(labels.agreement(ids).mean())


def precision_at_k(Y: Any, ids: Any, k: int = 1) -> float:
    """Mean share of the first `k` ids that are labels of their sample (P@k).

    Parameters
    ----------
    Y : sparse matrix or array of shape (n, n_labels), or integer array of shape (n,)
        Labels: an indicator whose non-zero entries are labels, or one class a sample.
    ids : integer array of shape (n, at least k)
        Predicted ids, best first; -1 for no prediction.
    k : int, default 1
        How many ids count. The divisor is `k` also for samples with fewer labels.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    ValueError
        As in `accuracy`, or `k` is out of range.

    Examples
    --------
    >>> from slide.metrics import precision_at_k
    >>> precision_at_k([[1, 0, 1], [0, 1, 0]], [[0, 2], [0, 1]], k=2)
    0.75
    """
    labels, ids = _checked(Y, ids, k)
    return float(labels.hits(ids).mean())


def ndcg_at_k(Y: Any, ids: Any, k: int = 5) -> float:
    """Mean normalised discounted cumulative gain of the first `k` ids (nDCG@k).

    A hit in place r (from 1) gains ``1 / log2(r + 1)``; a sample's gain is divided by the best
    one possible, the sum over the first ``min(k, number of labels)`` places.

    Parameters
    ----------
    Y : sparse matrix or array of shape (n, n_labels), or integer array of shape (n,)
        Labels: an indicator whose non-zero entries are labels, or one class a sample.
    ids : integer array of shape (n, at least k)
        Predicted ids, best first; -1 for no prediction.
    k : int, default 5
        How many ids count.

    Returns
    -------
    float
        Between 0 and 1; samples without labels count as 0.

    Raises
    ------
    ValueError
        As in `precision_at_k`.

    Examples
    --------
    >>> from slide.metrics import ndcg_at_k
    >>> ndcg_at_k([[1, 0, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 1]], k=3)
    0.75
    """
    labels, ids = _checked(Y, ids, k)
    gain = 1 / np.log2(np.arange(2, k + 2))
    best = np.concatenate([[np.inf], np.cumsum(gain)])  # without labels: 0 / inf
    return float(((labels.hits(ids) @ gain) / best[np.minimum(labels.counts, k)]).mean())


def psp_at_k(Y: Any, ids: Any, k: int = 5, propensities: Any = None) -> float:
    """Propensity-scored precision of the first `k` ids (PSP@k).

    Hits are weighted by the inverse of their label's propensity, so that rare labels count more;
    their sum over all samples is divided by the largest sum that any ranking could reach.

    Parameters
    ----------
    Y : sparse matrix or array of shape (n, n_labels), or integer array of shape (n,)
        Labels: an indicator whose non-zero entries are labels, or one class a sample.
    ids : integer array of shape (n, at least k)
        Predicted ids, best first; -1 for no prediction.
    k : int, default 5
        How many ids count.
    propensities : array of shape (n_labels,)
        Propensity of each label, positive; see `propensities`.

    Returns
    -------
    float
        Between 0 and 1; 0 if no sample has a label.

    Raises
    ------
    ValueError
        As in `precision_at_k`, or the propensities are missing, too few or not positive.

    References
    ----------
    Jain, Prabhu, Varma, "Extreme multi-label loss functions for recommendation, tagging, ranking
    and other missing label applications", KDD 2016.

    Examples
    --------
    >>> from slide.metrics import psp_at_k
    >>> psp_at_k([[1, 0], [0, 1]], [[0], [0]], k=1, propensities=[1.0, 0.25])
    0.2
    """
    labels, ids = _checked(Y, ids, k)
    if propensities is None:
        raise ValueError("psp_at_k needs the labels' propensities; see slide.metrics.propensities")
    p = _checked_propensities(propensities)
    if labels.n_labels is not None and len(p) != labels.n_labels:
        raise ValueError(f"propensities has {len(p)} entries, but Y has {labels.n_labels} labels")
    # Of integer labels, those that occur must have one; other ids are misses all the same.
    largest = int(labels.columns.max(initial=-1))
    if largest >= len(p):
        raise ValueError(f"propensities has {len(p)} entries, but Y names label {largest}")
    hits = labels.hits(ids)
    reached = (1 / p[ids[hits]]).sum()
    weights = 1 / p[labels.columns]
    order = np.lexsort((-weights, labels.rows))
    place = np.arange(len(order)) - np.repeat(
        np.cumsum(labels.counts) - labels.counts, labels.counts
    )
    best = weights[order[place < k]].sum()
    return float(reached / best) if best else 0.0


def propensities(Y_train: Any, A: float = 0.55, B: float = 1.5) -> np.ndarray:
    """Estimate how likely each label is to be recorded where it applies.

    ``p = 1 / (1 + C (n + B)^-A)`` for a label of n training samples, with
    ``C = (ln N - 1) (B + 1)^A`` for N samples (C = 0, so p = 1, where ln N < 1).

    Parameters
    ----------
    Y_train : sparse matrix or array of shape (N, n_labels), or integer array of shape (N,)
        Labels of the training samples.
    A, B : float, default 0.55 and 1.5
        Customary values are 0.5 and 0.4 for WikiLSHTC-325K and Wikipedia-500K, 0.6 and 2.6 for
        Amazon-670K and Amazon-3M.

    Returns
    -------
    ndarray of shape (n_labels,), float64
        Between 0 and 1. Of an integer array, up to the largest label that occurs.

    Raises
    ------
    TypeError
        `A` or `B` is no real number.
    ValueError
        `Y_train` has no samples, `A` is not finite or `B` not positive, or propensities are not.

    References
    ----------
    Jain, Prabhu, Varma, KDD 2016.
    """
    A, B = check.check_finite_float("A", A), check.check_finite_float("B", B, above=0)
    labels = _Labels("Y_train", Y_train)
    if labels.n == 0:
        raise ValueError("Y_train has no samples")
    n = np.bincount(labels.columns, minlength=labels.n_labels or 0)
    with np.errstate(all="ignore"):
        p = 1 / (1 + max(np.log(labels.n) - 1, 0.0) * ((B + 1) / (n + B)) ** A)
    if not (p > 0).all():
        raise ValueError(f"A={A} and B={B}: propensities are not positive numbers")
    return p


@runtime_checkable
class Metric(Protocol):
    """What `compile` accepts as a metric, beside the names of the metrics here.

    Attributes
    ----------
    name : str
        The key of the metric in logs and histories.
    k : int
        How many ids the metric looks at.
    """

    name: str
    k: int

    def __call__(self, Y: Any, ids: np.ndarray) -> float: ...


class Accuracy:
    """Share of the samples whose first id is (one of) their labels; see `accuracy`.

    Of one sigmoid output, the share of those that it tells apart at 1/2 (Keras's binary accuracy).
    Of many sigmoid outputs it is P@1, not the share of outputs that are right.
    """

    name = "accuracy"
    k = 1

    def __call__(self, Y: Any, ids: Any) -> float:
        return accuracy(Y, ids)

    def __repr__(self) -> str:
        return "Accuracy()"

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal metric."""
        return {}


class _AtK:
    prefix: str

    def __init__(self, k: int) -> None:
        self.k = _checked_k(k)

    @property
    def name(self) -> str:
        return f"{self.prefix}@{self.k}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.k})"

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal metric."""
        return {"k": self.k}


class PrecisionAtK(_AtK):
    """Mean share of the first `k` ids that are labels; see `precision_at_k`.

    Parameters
    ----------
    k : int, default 1
        How many ids count.

    Raises
    ------
    TypeError
        If `k` is no integer.
    ValueError
        If `k` is less than 1.
    """

    prefix = "precision"

    def __init__(self, k: int = 1) -> None:
        super().__init__(k)

    def __call__(self, Y: Any, ids: Any) -> float:
        return precision_at_k(Y, ids, self.k)


class NDCGAtK(_AtK):
    """Mean normalised discounted cumulative gain of the first `k` ids; see `ndcg_at_k`.

    Parameters
    ----------
    k : int, default 5
        How many ids count.

    Raises
    ------
    TypeError
        If `k` is no integer.
    ValueError
        If `k` is less than 1.
    """

    prefix = "ndcg"

    def __init__(self, k: int = 5) -> None:
        super().__init__(k)

    def __call__(self, Y: Any, ids: Any) -> float:
        return ndcg_at_k(Y, ids, self.k)


class PSPAtK(_AtK):
    """Propensity-scored precision of the first `k` ids; see `psp_at_k`.

    Parameters
    ----------
    k : int, default 5
        How many ids count.
    propensities : array of shape (n_labels,), optional
        Propensity of each label. By default `prepare` estimates them from the training labels,
        which `Sequential.fit` does with labels that are given as an array, each time anew.
    A, B : float, default 0.55 and 1.5
        Constants of that estimate; see `slide.metrics.propensities`.

    Attributes
    ----------
    propensities : ndarray of shape (n_labels,), float64, or None
        Those in use; None before `prepare`.

    Raises
    ------
    TypeError
        If `k`, `A` or `B` is no number.
    ValueError
        If `k` is less than 1, `A` or `B` is not finite, `B` is not positive, or propensities are
        not a vector of positive numbers.
    """

    prefix = "psp"

    def __init__(
        self, k: int = 5, propensities: Any = None, A: float = 0.55, B: float = 1.5
    ) -> None:
        super().__init__(k)
        self._given = propensities is not None
        self.propensities: np.ndarray | None = (
            None if propensities is None else _checked_propensities(propensities)
        )
        self.A = check.check_finite_float("A", A)
        self.B = check.check_finite_float("B", B, above=0.0)

    def prepare(self, Y_train: Any) -> PSPAtK:
        """Estimate the propensities from the training labels, unless they were given.

        Parameters
        ----------
        Y_train : sparse matrix or array of shape (N, n_labels), or integer array of shape (N,)
            Labels of the training samples.

        Returns
        -------
        PSPAtK
            The metric itself.

        Raises
        ------
        ValueError
            If there are no samples, or `Y_train` is not what `propensities` takes.
        """
        if not self._given:
            self.propensities = propensities(Y_train, self.A, self.B)
        return self

    def check_labels(self, name: str, n: int) -> None:
        """Refuse another number of labels than that of the propensities that were given.

        Those that `prepare` estimated may still be estimated anew.
        """
        if self._given and self.propensities is not None and len(self.propensities) != n:
            raise ValueError(
                f"{name}, {self.name}: propensities has {len(self.propensities)} entries, one a "
                f"label is needed, of {n}"
            )

    def __call__(self, Y: Any, ids: Any) -> float:
        if self.propensities is None:
            raise ValueError(
                f"{self.name} needs propensities: call prepare(Y_train) with the training labels "
                "or give PSPAtK(propensities=...)"
            )
        return psp_at_k(Y, ids, self.k, self.propensities)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal metric; propensities only if they were given."""
        given = None
        if self._given and self.propensities is not None:
            given = self.propensities.tolist()
        return {"k": self.k, "propensities": given, "A": self.A, "B": self.B}


CLASSES = (Accuracy, PrecisionAtK, NDCGAtK, PSPAtK)
_AT_K = {
    "precision": PrecisionAtK,
    "p": PrecisionAtK,
    "ndcg": NDCGAtK,
    "psp": PSPAtK,
}
KNOWN = "'accuracy', 'precision@k' (or 'P@k'), 'ndcg@k' and 'psp@k', with a number for k"


def get(identifier: Any) -> Any:
    """Resolve a metric by its name.

    Parameters
    ----------
    identifier : str, dict or metric
        ``"accuracy"``, ``"precision@1"`` (or ``"P@1"``), ``"ndcg@5"``, ``"psp@5"`` with any k, in
        upper or lower case; what `serialize` gives; or an object with `name`, `k` and
        ``__call__(Y, ids)``.

    Returns
    -------
    Metric
        A new metric for a name; an object is returned as it is.

    Raises
    ------
    ValueError
        There is no metric of this name.
    TypeError
        The object is no metric.

    Examples
    --------
    >>> from slide import metrics
    >>> metrics.get("P@3")
    PrecisionAtK(3)
    """
    if isinstance(identifier, str):
        name = identifier.strip().lower()
        if name in ("accuracy", "acc"):
            return Accuracy()
        match = re.fullmatch(r"([a-z]+)@([0-9]{1,9})", name)
        if match and match[1] in _AT_K and int(match[2]) > 0:
            return _AT_K[match[1]](int(match[2]))
        raise ValueError(f"unknown metric {identifier!r}; known are {KNOWN}")
    if isinstance(identifier, dict):
        return check.resolve("metric", identifier, Metric, CLASSES)
    if isinstance(identifier, type) or not isinstance(identifier, Metric):
        raise TypeError(
            f"a metric must be a name ({KNOWN}) or an object with name, k and "
            f"__call__(Y, ids), not {identifier!r}"
        )
    return identifier


def serialize(metric: Any) -> dict[str, Any]:
    """Return a description that `get` turns back into an equal metric, if its class is slide's."""
    return check.serialize_config(metric)


def check_output(name: str, metric: Any, units: int, activation: str) -> None:
    """Refuse a metric that has no meaning for an output layer; `name` is for the message.

    Raises
    ------
    ValueError
        If it looks at more ids than there are outputs, or has propensities of another number of
        them; if there is one output, and it ranks or asks for another activation than sigmoid.
    """
    if units == 1 and isinstance(metric, _AtK):
        raise ValueError(
            f"{name}, {metric.name} of one output: there is nothing to rank; 'accuracy' looks at a "
            f"sigmoid output at 1/2"
        )
    if metric.k > units:
        raise ValueError(
            f"{name}, {metric.name} of {units} outputs: k={metric.k} must be at most {units}"
        )
    if units == 1 and activation != "sigmoid" and isinstance(metric, Accuracy):
        raise ValueError(
            f"{name}, accuracy of one output with activation {activation!r} instead of 'sigmoid': "
            f"nothing says where a label begins; compare predict(x) with a threshold of your own"
        )
    if isinstance(metric, PSPAtK):
        metric.check_labels(name, units)


class _Labels:
    """The labels of samples as sorted, unique (row, column) pairs."""

    def __init__(self, name: str, Y: Any) -> None:
        if sparse.issparse(Y):
            Y = sparse.csr_matrix(check.csr_arrays(name, Y), Y.shape)
        else:
            Y = check.plain_array(name, Y)
            if Y.ndim == 1:
                self._from_classes(name, Y)
                return
            if Y.ndim != 2:
                raise ValueError(f"{name} must have 1 or 2 dimensions, not {Y.ndim}")
            Y = sparse.csr_matrix(Y)
        if not Y.has_canonical_format or not Y.data.all():
            Y = Y.copy()
            Y.sum_duplicates()
            Y.eliminate_zeros()
        self.n, self.n_labels = Y.shape
        self.counts = np.diff(Y.indptr)
        self.rows = np.repeat(np.arange(self.n), self.counts)
        self.columns = Y.indices
        self.values = Y.data

    def _from_classes(self, name: str, y: np.ndarray) -> None:
        if not np.issubdtype(y.dtype, np.integer):
            if y.size:
                raise ValueError(f"{name} of one dimension must hold integers, not {y.dtype}")
            y = y.astype(np.int64)
        if y.size and y.min() < 0:
            row = int(np.argmax(y < 0))
            raise ValueError(f"{name}[{row}] = {y[row]} is negative")
        self.n = len(y)
        self.n_labels = None
        self.counts = np.ones(self.n, np.int64)
        self.rows = np.arange(self.n)
        self.columns = y.astype(np.int64)
        self.values = np.ones(self.n, bool)

    def hits(self, ids: np.ndarray) -> np.ndarray:
        """Which of the ids, an array of shape (n, k), are labels of their row."""
        if self.n_labels is None:
            return ids == self.columns[:, None]
        if not len(self.columns):
            return np.zeros(ids.shape, bool)
        return self._find(ids)[1]

    def agreement(self, ids: np.ndarray) -> np.ndarray:
        """Where the ids, an array of shape (n, 1), are a largest entry of their row.

        Of a single column, where they are 0 and the entry is more than 1/2, or neither.
        """
        if self.n_labels == 1:
            has_label = np.zeros(self.n, bool)
            has_label[self.rows] = self.values > 0.5
            return (ids[:, 0] == 0) == has_label
        if self.n_labels is None or not len(self.columns):
            return self.hits(ids)
        at, found = self._find(ids)
        some = self.counts > 0
        largest = np.zeros(self.n, self.values.dtype)
        largest[some] = np.maximum.reduceat(
            self.values, (np.cumsum(self.counts) - self.counts)[some]
        )
        return found & (self.values[at] == largest[:, None])

    def _find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of ids among the labels, and whether they are there."""
        assert self.n_labels is not None
        # A column more for the id -1, which is no label.
        width = self.n_labels + 1
        labels = self.rows.astype(np.int64) * width + self.columns
        wanted = np.arange(self.n, dtype=np.int64)[:, None] * width + np.where(
            ids < 0, self.n_labels, ids
        )
        at = np.minimum(np.searchsorted(labels, wanted), len(labels) - 1)
        return at, labels[at] == wanted


def _checked_k(k: Any) -> int:
    if isinstance(k, (bool, np.bool_)) or not isinstance(k, (int, np.integer)):
        raise TypeError(f"k must be an integer, not {k!r}")
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    return int(k)


def _checked_propensities(values: Any) -> np.ndarray:
    p = np.asarray(values, dtype=np.float64)
    if p.ndim != 1:
        raise ValueError(f"propensities must have 1 dimension, not {p.ndim}")
    bad = ~(np.isfinite(p) & (p > 0))
    if bad.any():
        i = int(np.argmax(bad))
        raise ValueError(f"propensities[{i}] = {p[i]} is not a positive number")
    return p


def _checked(Y: Any, ids: Any, k: Any) -> tuple[_Labels, np.ndarray]:
    """The labels, and the first k columns of the ids, once they fit together."""
    k = _checked_k(k)
    labels = _Labels("Y", Y)
    ids = check.plain_array("ids", ids)
    if ids.ndim != 2:
        raise ValueError(f"ids must have 2 dimensions, not {ids.ndim}")
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"ids must hold integers, not {ids.dtype}")
    if len(ids) != labels.n:
        raise ValueError(f"ids has {len(ids)} rows and Y has {labels.n}")
    if labels.n == 0:
        raise ValueError("there are no samples to measure")
    if ids.shape[1] < k:
        raise ValueError(f"ids has {ids.shape[1]} columns, but k is {k}")
    ids = ids[:, :k].astype(np.int64, copy=False)
    bad = ids < -1
    if labels.n_labels is not None:
        bad |= ids >= labels.n_labels
    if bad.any():
        row, column = (int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"ids[{row}, {column}] = {ids[row, column]} is no label and not -1")
    in_order = np.sort(ids, axis=1)
    twice = (in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] >= 0)
    if twice.any():
        row, column = (int(i) for i in np.argwhere(twice)[0])
        raise ValueError(f"row {row} of ids names label {in_order[row, column]} twice")
    return labels, ids
