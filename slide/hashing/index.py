"""Maximum-inner-product search: the rows with the largest products with a query."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from slide import _validation as check
from slide import hashing, saving
from slide._kernels.index import Searcher
from slide._kernels.optim import Parameters
from slide._kernels.sampling import ActiveSet
from slide._memory import aligned_zeros, check_memory, padded
from slide._threads import n_threads as _n_threads
from slide._threads import one_blas_thread

__all__ = ["Index", "NotFittedError"]

FORMAT = "slide-index"
VERSION = 1

MAX_ROWS = 2**31 - 17
LARGEST_NORM = 1e18
"""Products of such vectors, and their sums, are far from the end of float32."""

BLOCK_FLOATS = 1 << 22
"""Queries are padded in blocks of about so many values, 16 MB."""

LEARNING_ROUNDS = 2
"""Of families that learn cells: more did not find more in trained layers."""


class NotFittedError(ValueError, AttributeError):
    """An index is used before `fit`; like scikit-learn's error of this name."""


class Index:
    """Finds the rows with the largest inner products with queries.

    A hash family retrieves `n_candidates` rows for a query, and these are ranked by their true
    products. Where the tables return fewer than are asked for, all rows are looked at, so that
    every query gets `k` rows. Rows can be inserted and removed at any time.

    Parameters
    ----------
    family : HashFamily or str
        `slide.hashing.Sketches`, `Clusters`, `SimHash` or another; ``"auto"`` is `Sketches`, which
        find most in the same time, of a size that suits the rows.
    n_candidates : int, float or None
        Rows whose products are computed, or (a float) this fraction of the rows, in (0, 1]. None:
        256, but at least four for each one asked for and 0.04% of the rows.
    random_state : int or None
        Seed of the hash functions; None is 0. The same seed gives the same results.
    n_jobs : int or None
        Threads: None is joblib's default, 1 unless a context says otherwise, -1 all processors.
        Results do not depend on it.

    Attributes
    ----------
    family_ : HashFamily
        In use since `fit`.
    labels_ : ndarray of int32, shape (n_rows,)
        Of the rows in the index, in the order in which they came.
    n_rows : int
        Rows in the index.
    n_features_in_ : int
        Values of a row.
    n_products : float
        Multiplications a query of the last call of `query`: those of hash functions or codes, and
        those of the candidates' products. All rows have ``n_rows * n_features_in_``.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or out of range.

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.eye(4, dtype=np.float32)
    >>> index = Index().fit(rows, labels=[10, 11, 12, 13])
    >>> ids, scores = index.query([[0.0, 3.0, 1.0, 2.0]], k=2)
    >>> ids
    array([[11, 13]], dtype=int32)
    >>> index.remove([11])
    >>> index.query([[0.0, 3.0, 1.0, 2.0]], k=2)[0]
    array([[13, 12]], dtype=int32)

    Notes
    -----
    Of rows with equal products, those with smaller labels come first. Rows inserted after `fit` are
    first kept beside the tables and looked at by every query; when they are 1,024 more than an
    eighth of the rows, or half of the rows is gone, tables are made anew.
    """

    def __init__(
        self,
        family: Any = "auto",
        n_candidates: int | float | None = None,
        random_state: int | None = None,
        n_jobs: int | None = None,
    ):
        self.family = family if _is_auto(family) else hashing.get(family)
        self.n_candidates = check_candidates(n_candidates)
        if random_state is not None:
            random_state = check.check_positive_int(
                "random_state", random_state, low=0, high=2**63 - 1
            )
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.n_products = 0.0
        _n_threads(n_jobs)
        self._lock = threading.Lock()
        self._searcher: Any = None

    def __repr__(self) -> str:
        return (
            f"Index(family={self.family!r}, n_candidates={self.n_candidates!r}, "
            f"random_state={self.random_state!r}, n_jobs={self.n_jobs!r})"
        )

    # Rows -----------------------------------------------------------------------------

    def fit(self, W: Any, bias: Any = None, labels: Any = None, X_sample: Any = None) -> Index:
        """Take rows, in place of those of before.

        Parameters
        ----------
        W : array-like or sparse, shape (n, d)
            Finite. Sparse rows are made dense.
        bias : array-like, shape (n,), optional
            Is added to the rows' products.
        labels : array-like of int, shape (n,), optional
            What queries return for the rows: different integers of at least 0. None: 0, 1, ...
        X_sample : array-like or sparse, shape (m, d), optional
            Queries like those to come. Their mean makes `Sketches` better where it is far from 0.

        Returns
        -------
        Index
            This one.

        Raises
        ------
        ValueError
            If a shape is wrong, a value is not finite or a vector's norm beyond 1e18, there is no
            row, or labels repeat.
        MemoryError
            If there is not enough memory.
        """
        rows, d = self._checked_rows(W, bias, None, "W")
        check.check_has_rows(rows, "W")
        new_labels = _checked_labels(labels, len(rows), np.empty(0, np.int32), 0)
        sample = None if X_sample is None else _checked_queries(X_sample, d, "X_sample")
        # The mean is what is used; and the caller may write to the queries.
        sample = None if sample is None or sample.shape[0] == 0 else _mean(sample, d)
        with self._lock:
            family, searcher = self._built(rows, new_labels, d, sample)
            self.family_, self.n_features_in_ = family, d
            self._next_label = int(new_labels.max()) + 1
            self._rows, self._more = rows, rows[:0]
            self._labels, self._gone = new_labels, np.zeros(len(rows), np.uint8)
            self._sample, self._searcher = sample, searcher
        return self

    def insert(self, W: Any, labels: Any = None, bias: Any = None) -> np.ndarray:
        """Add rows.

        Parameters
        ----------
        W : array-like or sparse, shape (n, d)
        labels : array-like of int, shape (n,), optional
            None: the numbers after the largest label that there ever was.
        bias : array-like, shape (n,), optional

        Returns
        -------
        ndarray of int32, shape (n,)
            The labels.

        Raises
        ------
        ValueError
            As `fit`; if a label is there already.
        NotFittedError
            Before `fit`.
        """
        self._check_fitted()
        rows, d = self._checked_rows(W, bias, self.n_features_in_, "W")
        with self._lock:
            self._check_width("W", d)
            present = self._labels[self._gone == 0]
            new_labels = _checked_labels(labels, len(rows), present, self._next_label)
            if len(self._labels) + len(rows) > MAX_ROWS:
                raise ValueError(f"{len(rows)} more rows: at most {MAX_ROWS} fit")
            if len(rows):
                self._change(
                    _joined(self._more, rows),
                    np.concatenate([self._labels, new_labels]),
                    np.concatenate([self._gone, np.zeros(len(rows), np.uint8)]),
                )
                self._next_label = max(self._next_label, int(new_labels.max()) + 1)
        return new_labels.copy()

    def remove(self, labels: Any) -> None:
        """Take rows out.

        Parameters
        ----------
        labels : int or array-like of int

        Raises
        ------
        ValueError
            If a label is given twice. Nothing is removed then.
        KeyError
            If there is no row with a label. Nothing is removed then.
        NotFittedError
            Before `fit`.
        """
        self._check_fitted()
        wanted = np.atleast_1d(_integers("labels", labels))
        if wanted.ndim != 1:
            raise ValueError(f"labels must be a vector of integers, got shape {wanted.shape}")
        _check_different("labels", wanted)
        with self._lock:
            alive = np.flatnonzero(self._gone == 0)
            order = alive[np.argsort(self._labels[alive])]
            place = np.searchsorted(self._labels[order], wanted)
            known = place < len(order)
            known[known] = self._labels[order[place[known]]] == wanted[known]
            if not known.all():
                raise KeyError(f"no row has label {wanted[int(np.argmin(known))]}")
            gone = self._gone.copy()
            gone[order[place]] = 1
            self._change(self._more, self._labels, gone)

    @property
    def n_rows(self) -> int:
        self._check_fitted()
        return int(len(self._gone) - np.count_nonzero(self._gone))

    @property
    def labels_(self) -> np.ndarray:
        self._check_fitted()
        return self._labels[self._gone == 0]

    def _change(self, more: np.ndarray, labels: np.ndarray, gone: np.ndarray) -> None:
        """Take rows beside the tables and marks; make tables anew if it is time."""
        n_built, n_gone = len(self._rows), int(np.count_nonzero(gone))
        if len(gone) > n_gone and (len(more) > n_built // 8 + 1024 or 2 * n_gone > len(gone)):
            here = gone == 0
            rows = aligned_zeros((len(gone) - n_gone, self._rows.shape[1]))
            n = int(np.count_nonzero(here[:n_built]))
            rows[:n], rows[n:] = self._rows[here[:n_built]], more[here[n_built:]]
            labels, gone = labels[here], np.zeros(len(rows), np.uint8)
            self.family_, searcher = self._built(rows, labels, self.n_features_in_, self._sample)
            self._rows, more = rows, rows[:0]
        else:
            old = self._searcher
            searcher = Searcher(
                old.active, old.params, more, labels, gone, self.random_state or 0, old.n_threads
            )
        self._more, self._labels, self._gone, self._searcher = more, labels, gone, searcher

    def _built(self, rows: np.ndarray, labels: np.ndarray, d: int, sample: Any) -> Any:
        family = auto_family(len(rows), d) if _is_auto(self.family) else self.family
        gone = np.zeros(len(rows), np.uint8)
        searcher = make_searcher(
            family, rows, d, rows[:0], labels, gone, self.random_state or 0, self._threads()
        )
        return family, build(searcher, family, d, sample)

    def _threads(self) -> int:
        return _n_threads(self.n_jobs)

    def _check_fitted(self) -> None:
        if self._searcher is None:
            raise NotFittedError("this Index has no rows: call fit first")

    def _check_width(self, name: str, d: int) -> None:
        """For what was checked before the lock was had: another thread may have called `fit`."""
        if d != self.n_features_in_:
            raise ValueError(f"{name} must have {self.n_features_in_} columns, got {d}")

    def _checked_rows(self, W: Any, bias: Any, d: int | None, name: str) -> tuple[np.ndarray, int]:
        """Return rows as the kernels read them, a bias in the last column, and the columns of W."""
        if not sp.issparse(W):
            W = check.plain_array(name, W)
        if W.ndim != 2 or W.shape[1] < 1:
            raise ValueError(f"{name} must have shape (n, d) with d >= 1, got {W.shape}")
        n, d = W.shape[0], W.shape[1] if d is None else d
        if n > MAX_ROWS:
            raise ValueError(f"{name} has {n} rows, at most {MAX_ROWS} fit")
        W = check.check_features(W, d, name)
        if bias is not None:
            bias = check.plain_array("bias", bias)
            if bias.shape != (n,):
                raise ValueError(f"bias must have shape ({n},), got {bias.shape}")
            bias = check.check_features(bias[:, np.newaxis], 1, "bias")[:, 0]
        check_memory(f"{n:,} rows of {d} values", 4 * n * padded(d + 1))
        rows = aligned_zeros((n, padded(d + 1))) if n else np.zeros((0, padded(d + 1)), np.float32)
        for first, block in _blocks(W, d, bias):
            rows[first : first + len(block)] = block
        _check_norms(name, rows)
        return rows, d

    # Queries --------------------------------------------------------------------------

    def query(self, X: Any, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows with the largest products with every query, best first.

        Parameters
        ----------
        X : array-like or sparse, shape (m, d)
        k : int
            Rows of a query, at most `n_rows`.

        Returns
        -------
        ids : ndarray of int32, shape (m, k)
            Labels of the rows.
        scores : ndarray of float32, shape (m, k)
            Their products with the query, bias added.

        Raises
        ------
        ValueError
            If the shape is wrong, a value is not finite or a norm beyond 1e18, or there are fewer
            than k rows.
        NotFittedError
            Before `fit`.
        """
        self._check_fitted()
        X = _checked_queries(X, self.n_features_in_, "X")
        m = X.shape[0]
        with self._lock:
            self._check_width("X", X.shape[1])
            k = self._checked_k(k)
            searcher = self._searcher
            searcher.reserve(*self._candidates(k))
            ids, scores = np.empty((m, k), np.int32), np.empty((m, k), np.float32)
            products = 0
            for first, block in _blocks(X, self.n_features_in_, 1.0):
                at = slice(first, first + len(block))
                ids[at], scores[at], more = searcher.query(block, k)
                products += more
            if m:
                self.n_products = products / m
        return ids, scores

    def exact(self, X: Any, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """Return what `query` should find, by a product with all rows, block by block.

        Parameters
        ----------
        X : array-like or sparse, shape (m, d)
        k : int

        Returns
        -------
        ids, scores : ndarray
            As from `query`, whose sums may have another rounding.

        Raises
        ------
        ValueError
            If the shape is wrong, a value is not finite or a norm beyond 1e18, or there are fewer
            than k rows.
        NotFittedError
            Before `fit`.
        """
        self._check_fitted()
        X = _checked_queries(X, self.n_features_in_, "X")
        with self._lock:
            self._check_width("X", X.shape[1])
            k = self._checked_k(k)
            here = self._gone == 0
            n_built, labels = len(self._rows), self._labels[here]
            parts = [
                rows if keep.all() else rows[keep]
                for rows, keep in ((self._rows, here[:n_built]), (self._more, here[n_built:]))
            ]
            found = [
                _best(block, parts, labels, k)
                for _, block in _blocks(X, self.n_features_in_, 1.0, 256)
            ]
        if not found:
            return np.empty((0, k), np.int32), np.empty((0, k), np.float32)
        ids, scores = zip(*found, strict=True)
        return np.concatenate(ids), np.concatenate(scores)

    def recall(self, X: Any, k: int = 10) -> float:
        """Return the mean share of the `k` best rows that `query` finds.

        Parameters
        ----------
        X : array-like or sparse, shape (m, d)
            At least one query.
        k : int

        Returns
        -------
        float
            In [0, 1]. Rows whose product equals that of the last of the best, within the rounding
            of float32, count as one of them.

        Raises
        ------
        ValueError
            If the shape is wrong, a value is not finite or a norm beyond 1e18, there is no query,
            or there are fewer than k rows.
        NotFittedError
            Before `fit`.
        """
        _, best = self.exact(X, k)
        check.check_has_rows(best, "X")
        _, scores = self.query(X, k)
        size = np.abs(best).max(axis=1, keepdims=True)
        return float((scores >= best[:, -1:] - 1e-5 * size).mean())

    def _checked_k(self, k: Any) -> int:
        n = len(self._gone) - int(np.count_nonzero(self._gone))
        if n == 0:
            raise ValueError("all rows were removed")
        return check.check_positive_int("k", k, high=n)

    def _candidates(self, k: int) -> tuple[int, bool]:
        return n_candidates_of(check_candidates(self.n_candidates), len(self._rows), k)

    # Files ----------------------------------------------------------------------------

    def save(self, path: Any) -> None:
        """Write the index with its tables to a file (safetensors, no pickle).

        It is written beside `path` and then renamed: a crash leaves the old file.

        Raises
        ------
        NotFittedError
            Before `fit`.
        OSError
            If the file cannot be written.
        """
        self._check_fitted()
        with self._lock:
            config, arrays = self._described()
            saving.write(arrays, FORMAT, VERSION, config, path)

    def _described(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        d = self.n_features_in_
        config = {
            "auto": _is_auto(self.family),
            "family": hashing.serialize(self.family_),
            "n_candidates": self.n_candidates,
            "random_state": self.random_state,
            "n_features": d,
            "next_label": self._next_label,
        }
        arrays = {
            "rows": self._rows[:, : d + 1],
            "more": self._more[:, : d + 1],
            "labels": self._labels.copy(),
            "gone": self._gone.copy(),
        }
        if self._sample is not None:
            arrays["sample"] = self._sample
        for name, array in self._searcher.active.get_state().items():
            arrays[f"active.{name}"] = array
        return config, arrays

    def __reduce__(self) -> Any:
        """For `pickle` and `copy`: what `save` writes, and `n_jobs`."""
        cls = type(self)
        if not hasattr(self, "family_"):
            return cls, (self.family, self.n_candidates, self.random_state, self.n_jobs)
        with self._lock:
            return _unpickled, (cls, *self._described(), self.n_jobs)

    @classmethod
    def load(cls, path: Any, n_jobs: int | None = None) -> Index:
        """Return the index that `save` wrote to `path`.

        Parameters
        ----------
        path : str or path
        n_jobs : int or None
            As in the constructor.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is damaged or not one of ours; the message says where.
        """
        _n_threads(n_jobs)

        def restore(config: Any, shapes: Any, tensor: Any) -> Index:
            return cls._restored(config, list(shapes), tensor, n_jobs)

        return saving.read(path, FORMAT, VERSION, "index", restore)

    @classmethod
    def _restored(cls, config: Any, names: list[str], tensor: Any, n_jobs: int | None) -> Index:
        family = hashing.get(config["family"])
        index = cls(
            family="auto" if check.check_bool("auto", config["auto"]) else family,
            n_candidates=config["n_candidates"],
            random_state=config["random_state"],
            n_jobs=n_jobs,
        )
        d = check.check_positive_int("n_features", config["n_features"], high=MAX_ROWS)
        labels, gone = tensor("labels"), tensor("gone")
        rows, more = (_stored_rows(tensor(name), d, name) for name in ("rows", "more"))
        n = len(rows) + len(more)
        if not len(rows) or labels.shape != (n,) or gone.shape != (n,) or labels.dtype != np.int32:
            raise ValueError(f"{n} rows with labels {labels.shape} and marks {gone.shape}")
        if gone.dtype != np.uint8 or gone.max() > 1:
            raise ValueError("marks of rows that are gone are not 0 or 1")
        _check_different("labels", labels[gone == 0])
        next_label = check.check_positive_int("next_label", config["next_label"], low=0)
        if labels.min() < 0 or labels.max() >= next_label:
            raise ValueError(f"labels up to {labels.max()}, the next is {next_label}")
        index._sample = None
        if "sample" in names:
            index._sample = check.check_features(tensor("sample"), d, "sample")
        seed, threads = index.random_state or 0, index._threads()
        searcher = make_searcher(family, rows, d, more, labels, gone, seed, threads)
        searcher.active.set_state({n[7:]: tensor(n) for n in names if n.startswith("active.")})
        index.family_, index.n_features_in_, index._next_label = family, d, next_label
        index._rows, index._more, index._labels, index._gone = rows, more, labels, gone
        index._searcher = searcher
        return index


def _unpickled(
    cls: type[Index], config: dict[str, Any], arrays: dict[str, np.ndarray], n_jobs: int | None
) -> Index:
    return cls._restored(config, list(arrays), arrays.__getitem__, n_jobs)


def auto_family(n: int, d: int) -> Any:
    """Return the family for n rows of d values when none is asked for.

    With 670,091 outputs of 128 inputs, 64 components and cells of all groups found 99% of the ten
    best, 32 components 95%. With 13,043, whose codes are all looked at, 32 found all.
    """
    most = 64 if n > 32768 else 32
    while most > 16 and most >= 2 * d:
        most //= 2
    return hashing.Sketches(n_components=most, n_probes=64)


def n_candidates_of(n_candidates: int | float | None, n: int, k: int) -> tuple[int, bool]:
    """Return how many of the n rows in the tables a query for k retrieves, and whether all."""
    if n_candidates is None:
        n_candidates = max(256, 4 * k, round(0.0004 * n))
    elif isinstance(n_candidates, float):
        n_candidates = max(k, round(n_candidates * n))
    return max(k, n_candidates), max(k, n_candidates) >= n


def make_searcher(
    family: Any,
    rows: np.ndarray,
    d: int,
    more: np.ndarray,
    labels: np.ndarray,
    gone: np.ndarray,
    seed: int,
    n_threads: int,
) -> Any:
    """Return the kernel for rows of d values and a bias, with empty tables."""
    retriever = family.retriever(len(rows), d + 1, seed, n_threads)
    active = ActiveSet(len(rows), retriever, 0, 0, 0, 0, 0, False, (1.0, 0.0, 0), n_threads)
    nothing = np.zeros((len(rows), 0), np.float32)
    params = Parameters(rows, nothing, nothing, d + 1, d, 0.0)
    return Searcher(active, params, more, labels, gone, seed, n_threads)


def build(searcher: Any, family: Any, d: int, sample: Any = None) -> Any:
    """Fill the tables; return the kernel."""
    if sample is not None and sample.shape[0]:
        mean = _mean(sample, d)
        for _, block in _blocks(mean, d, 1.0):
            searcher.observe(block)
    learns = isinstance(family, (hashing.Clusters, hashing.Sketches))
    with one_blas_thread():
        searcher.build(LEARNING_ROUNDS if learns else 0)
    return searcher


def _mean(sample: Any, d: int) -> np.ndarray:
    return np.asarray(sample.mean(axis=0), np.float32).reshape(1, d)


def _is_auto(family: Any) -> bool:
    return isinstance(family, str) and family == "auto"


def check_candidates(n: Any) -> int | float | None:
    """Return a number of candidates, a fraction or None."""
    if n is None:
        return None
    if isinstance(n, float):
        return check.check_fraction("n_candidates", n)
    return check.check_positive_int("n_candidates", n, high=MAX_ROWS)


def _integers(name: str, values: Any) -> np.ndarray:
    array = check.plain_array(name, values)
    if array.size == 0:
        return array.astype(np.int32)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {array.dtype}")
    return array


def _check_different(name: str, values: np.ndarray) -> None:
    ordered = np.sort(values)
    same = ordered[1:] == ordered[:-1]
    if same.any():
        raise ValueError(f"{name} has {ordered[int(same.argmax())]} more than once")


def _checked_labels(labels: Any, n: int, present: np.ndarray, first: int) -> np.ndarray:
    """Return the labels of n new rows beside those present; None: from `first` on."""
    if labels is None:
        if first + n > 2**31:
            raise ValueError(f"labels {first} to {first + n - 1} do not fit into int32")
        return np.arange(first, first + n, dtype=np.int32)
    labels = _integers("labels", labels)
    if labels.shape != (n,):
        raise ValueError(f"labels must have shape ({n},), got {labels.shape}")
    wrong = (labels < 0) | (labels >= 2**31)
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(f"labels[{at}] is {labels[at]}; it must be in [0, 2**31)")
    labels = labels.astype(np.int32)
    _check_different("labels", labels)
    there = np.isin(labels, present)
    if there.any():
        raise ValueError(f"label {labels[int(there.argmax())]} is there already")
    return labels


def _checked_queries(X: Any, d: int, name: str) -> Any:
    X = check.check_features(X, d, name)
    if sp.issparse(X):
        squares = X.multiply(X)
        norms = np.sqrt(np.asarray(squares.sum(axis=1))).ravel()
    else:
        norms = _norms(X)
    _refuse_norms(name, norms)
    return X


def _norms(rows: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.sqrt(np.einsum("ij,ij->i", rows, rows))


def _check_norms(name: str, rows: np.ndarray) -> None:
    _refuse_norms(name, _norms(rows))


def _refuse_norms(name: str, norms: np.ndarray) -> None:
    wrong = ~(norms < LARGEST_NORM)
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(f"{name}: the norm of row {at} is {norms[at]:g}, beyond {LARGEST_NORM:g}")


def _joined(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    rows = aligned_zeros((len(a) + len(b), b.shape[1]))
    rows[: len(a)], rows[len(a) :] = a, b
    return rows


def _stored_rows(array: np.ndarray, d: int, name: str) -> np.ndarray:
    if array.dtype != np.float32 or array.ndim != 2 or array.shape[1] != d + 1:
        raise ValueError(f"{name} is {array.dtype}{array.shape}, rows have {d + 1} values")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} has values that are not finite")
    if not len(array):
        return np.zeros((0, padded(d + 1)), np.float32)
    rows = aligned_zeros((len(array), padded(d + 1)))
    rows[:, : d + 1] = array
    _check_norms(name, rows)
    return rows


def _blocks(
    X: Any, d: int, last: Any, height: int | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of the first row of every block, and its rows padded with zeros.

    last : of column d, a number or one for each row; None: 0
    """
    n, ld = X.shape[0], padded(d + 1)
    height = max(1, min(n, height or BLOCK_FLOATS // ld))
    for first in range(0, n, height):
        stop = min(first + height, n)
        block = np.zeros((stop - first, ld), np.float32)
        if sp.issparse(X):
            start, end = X.indptr[first], X.indptr[stop]
            row = np.repeat(np.arange(stop - first), np.diff(X.indptr[first : stop + 1]))
            block[row, X.indices[start:end]] = X.data[start:end]
        else:
            block[:, :d] = X[first:stop]
        if last is not None:
            block[:, d] = last[first:stop] if np.ndim(last) else last
        yield first, block


def _best(
    queries: np.ndarray, parts: list[np.ndarray], labels: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best of all rows, of equals those with the smallest labels.

    Only scores that beat the k-th best so far are sorted: about k of each block, because blocks
    double until they are large.
    """
    m, first, height = len(queries), 0, max(64, 2 * k)
    query = np.empty(0, np.int64)
    ids, scores, border = np.empty(0, np.int32), np.empty(0, np.float32), None
    for rows in parts:
        at = 0
        while at < len(rows):
            block = rows[at : at + height]
            z = queries @ block.T
            if border is None:
                more, column = (i.ravel() for i in np.indices(z.shape))
            else:
                more, column = np.nonzero(z >= border[:, np.newaxis])
            query = np.concatenate([query, more])
            ids = np.concatenate([ids, labels[first + at + column]])
            scores = np.concatenate([scores, z[more, column]])
            order = np.lexsort((ids, -scores, query))
            starts = np.searchsorted(query[order], np.arange(m))
            order = order[np.arange(len(order)) - starts[query[order]] < k]
            query, ids, scores = query[order], ids[order], scores[order]
            if len(query) == m * k:
                border = scores[k - 1 :: k]
            at, height = at + len(block), min(2 * height, 16384)
        first += len(rows)
    return ids.reshape(m, k), scores.reshape(m, k)
