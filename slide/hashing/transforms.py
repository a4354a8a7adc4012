"""Transforms of weights and queries that turn inner products into angles or distances."""

from __future__ import annotations

from typing import Any

import numpy as np

from slide import _validation as check
from slide._kernels import retrieval as _retrieval
from slide._kernels import transforms as _transforms
from slide._memory import check_memory
from slide.hashing._family import CodeFamily, HashFamily, check_dim, table_bytes
from slide.hashing.crosspolytope import CrossPolytope
from slide.hashing.projections import E2LSH, TERMS, TRANSFORMS, SimHash


class Transformed(CodeFamily):
    """A family that hashes neurons and queries after different transforms.

    Most families find what points in the query's direction, or is near it. A layer wants what has
    a large inner product with it. With a transform P of the weights and another, Q, of the query,
    the angle or the distance of P(w) and Q(q) depends on their inner product.

    Parameters
    ----------
    family : HashFamily
        `SimHash` (of any projections but the principal ones) or `CrossPolytope`, for angles;
        `E2LSH` with ``transform=None``, for distances; to be centred only, `WTA`, `DWTA` or
        `MinHash`. With one probe and no transform of its own.
    transform : {None, "sign_alsh", "simple_lsh", "l2_alsh"}
        Of weights w with norms of at most U, and queries q of length 1:

        ``"sign_alsh"``, for angles: ``P(w) = [w, 1/2 - |w|^2, 1/2 - |w|^4]``, ``Q(q) = [q, 0, 0]``,
        U = 0.75 (Shrivastava & Li, UAI 2015).

        ``"simple_lsh"``, for angles: ``P(w) = [w, sqrt(1 - |w|^2)]``, ``Q(q) = [q, 0]``, U = 1
        (Neyshabur & Srebro, ICML 2015).

        ``"l2_alsh"``, for distances: ``P(w) = [w, |w|^2, |w|^4, |w|^8]``,
        ``Q(q) = [q, 1/2, 1/2, 1/2]``, U = 0.83 (Shrivastava & Li, NIPS 2014).
    n_ranges : int
        Parts of the neurons by their norms, of the same size when they are fitted; at most as many
        as there are neurons. Each is scaled
        by its own largest norm, so that a few long weight vectors do not make all others short,
        and has buckets of its own; a query looks into those of the longest first (norm-ranging
        LSH, Yan et al., NeurIPS 2018).
    centred : bool
        The mean of all neurons' weights is taken off each before it is hashed. All inner products
        with a query change by the same number, so their order stays; but what neurons have in
        common no longer makes them all alike.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or out of range, the family cannot be transformed, the
        transform does not suit it, or nothing is transformed. `codes` always does.
    MemoryError
        If the tables of a layer would not fit into the memory that is available.

    Notes
    -----
    Centre and largest norms are fitted when the tables are built and when functions are drawn anew;
    between, when a rebuild finds a norm above the highest limit (which is 10% above the largest
    norm), all below half of it, or the mean a tenth of the weights' standard deviation away from
    the centre. All neurons are then hashed anew.

    With L2-ALSH, ``|P(w) - Q(q)|^2 = 1 + m/4 - 2 w . q + |w|^(2^(m+1))`` for m = 3 terms; with
    Sign-ALSH the cosine is ``w . q / sqrt(m/4 + |w|^(2^(m+1)))`` for m = 2; with Simple-LSH it is
    ``w . q``.

    `SimHash` and `E2LSH` have transforms of their own as well, which keep all neurons' projections
    and go with several probes, but not with ranges or a centre.

    Examples
    --------
    >>> from slide.hashing import SimHash
    >>> family = Transformed(SimHash(9, 50, "hadamard"), "simple_lsh", n_ranges=2, centred=True)
    >>> family.n_tables
    50
    >>> P = family.neurons([[0.3, 0.4], [2.0, 0.0]])
    >>> P.shape
    (2, 3)
    """

    def __init__(
        self,
        family: HashFamily | str | dict[str, Any],
        transform: str | None = None,
        n_ranges: int = 1,
        centred: bool = False,
    ):
        from slide import hashing  # which imports this module

        self.family: Any = hashing.get(family)
        self.transform = check.check_in("transform", transform, TRANSFORMS)
        self.n_ranges = check.check_positive_int("n_ranges", n_ranges, high=1 << 16)
        self.centred = check.check_bool("centred", centred)
        own = getattr(self.family, "transform", None)
        probes = getattr(self.family, "n_probes", 1)
        if (
            not isinstance(self.family, CodeFamily)
            or isinstance(self.family, Transformed)
            or own is not None
            or probes != 1
            or getattr(self.family, "projection", "") == "principal"
        ):
            raise ValueError(
                f"family must draw its functions without a look at the data, with one probe and "
                f"no transform of its own, got {self.family!r}"
            )
        suited: tuple[str | None, ...] = (None,)
        if isinstance(self.family, (SimHash, CrossPolytope)):
            suited = (None, "sign_alsh", "simple_lsh")
        elif isinstance(self.family, E2LSH):
            suited = (None, "l2_alsh")
        if transform not in suited:
            raise ValueError(
                f"transform={transform!r} does not suit {self.family!r}: "
                f"what does is {', '.join(map(repr, suited))}"
            )
        if transform is None and self.n_ranges > 1:
            raise ValueError(f"n_ranges={n_ranges} without a transform: nothing is scaled")
        if transform is None and not self.centred:
            raise ValueError("transform=None and centred=False: nothing is transformed")
        self.n_tables = self.family.n_tables

    def _kernel(self, dim: int, seed: int) -> Any:
        raise ValueError(
            f"{self!r} maps neurons and queries differently: codes are those that its family gives "
            "to what neurons() and queries() return"
        )

    def _function_bytes(self, dim: int) -> int:
        return self.family._function_bytes(dim + TERMS[self.transform][0])

    def cost(self, dim: int) -> int:
        return self.family.cost(check_dim(dim) + TERMS[self.transform][0])

    def retriever(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> Any:
        m, bound = TERMS[self.transform]
        n_bytes = self._function_bytes(dim) + table_bytes(n_neurons, self.n_tables, n_threads)
        check_memory(f"{self!r} on {n_neurons:,} neurons", n_bytes + 4 * n_neurons)
        kernel = _transforms.Transformed(
            self.family._kernel(dim + m, seed),
            TRANSFORMS.index(self.transform),
            m,
            bound,
            min(self.n_ranges, n_neurons),
            self.centred,
            n_neurons,
        )
        return _retrieval.HashRetriever(kernel, n_neurons, n_threads)

    def neurons(self, W: Any) -> np.ndarray:
        """Return P(w) of the weights of a layer.

        Parameters
        ----------
        W : array-like, shape (n, d)
            Rows of weights and bias; at least `n_ranges` of them.

        Returns
        -------
        ndarray of float64, shape (n, d + m)
            Centred, scaled by U over the largest norm of their range (over 1.1 times it in the
            range of the longest), with the m terms of the transform appended.

        Raises
        ------
        ValueError
            If W has not two dimensions or fewer rows than there are ranges, or a value is not
            finite.
        """
        return _mapped(self._centred(W), self)[0]

    def ranges(self, W: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the range of every row of `W`, 0 for the shortest, and the ranges' limits.

        Raises
        ------
        ValueError
            If W has not two dimensions or fewer rows than there are ranges, or a value is not
            finite.
        """
        return _mapped(self._centred(W), self)[1:]

    def _centred(self, W: Any) -> np.ndarray:
        W = _rows(W, "W")
        if self.n_ranges > len(W):
            raise ValueError(f"W has {len(W)} rows, fewer than the {self.n_ranges} ranges")
        return W - W.mean(axis=0) if self.centred else W

    def queries(self, X: Any) -> np.ndarray:
        """Return Q(q) of queries, scaled to length 1 where a transform wants it.

        Parameters
        ----------
        X : array-like, shape (n, d)

        Returns
        -------
        ndarray of float64, shape (n, d + m)

        Raises
        ------
        ValueError
            If X has not two dimensions or no values, or a value is not finite.
        """
        X = _rows(X, "X")
        m = TERMS[self.transform][0]
        if m:
            X = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-30)
        return np.hstack([X, np.full((len(X), m), 0.5 if self.transform == "l2_alsh" else 0.0)])

    def get_config(self) -> dict[str, Any]:
        return {
            "family": check.serialize_config(self.family),
            "transform": self.transform,
            "n_ranges": self.n_ranges,
            "centred": self.centred,
        }

    def __repr__(self) -> str:
        return (
            f"Transformed({self.family!r}, transform={self.transform!r}, "
            f"n_ranges={self.n_ranges}, centred={self.centred})"
        )


def _rows(values: Any, name: str) -> np.ndarray:
    rows = np.asarray(values, np.float64)
    if rows.ndim != 2 or rows.size == 0:
        raise ValueError(f"{name} must have shape (n, d) with n, d >= 1, got {rows.shape}")
    if not np.isfinite(rows).all():
        raise ValueError(f"{name} has values that are not finite")
    return rows


def _mapped(W: np.ndarray, family: Transformed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return P(w) of centred rows, their ranges and the ranges' limits."""
    n, (m, bound) = len(W), TERMS[family.transform]
    norms = np.linalg.norm(W, axis=1)
    last = n * np.arange(1, family.n_ranges + 1) // family.n_ranges - 1
    limits = np.maximum(np.sort(norms)[last], 1e-30)
    limits[-1] = max(1.1 * norms.max(), 1e-30)
    which = np.minimum(np.searchsorted(limits, norms), family.n_ranges - 1)
    if family.transform is None:
        return W, which, limits
    scaled = W * (bound / limits[which])[:, np.newaxis]
    powers = [((norms / limits[which] * bound) ** 2) ** (2**j) for j in range(m)]
    if family.transform == "simple_lsh":
        powers = [np.sqrt(np.maximum(0, 1 - powers[0]))]
    elif family.transform == "sign_alsh":
        powers = [0.5 - power for power in powers]
    return np.column_stack([scaled, *powers]), which, limits
