"""What all hash families share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from slide import _validation as check
from slide._kernels import retrieval as _retrieval
from slide._memory import check_memory, padded
from slide._threads import n_threads as _n_threads

BLOCK_FLOATS = 1 << 22
"""Rows are hashed in blocks of about so many padded values, 16 MB."""


class HashFamily:
    """Base class of the families: configuration, and the kernels made from it."""

    n_tables: int
    tracks: bool = False
    """Whether tables can follow the weights after every step at little cost."""

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as values that JSON can hold."""
        raise NotImplementedError(f"{type(self).__name__} must define get_config()")

    def retriever(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> Any:
        """Return the kernel that holds `n_neurons` vectors of `dim` values in tables."""
        raise NotImplementedError(f"{type(self).__name__} must define retriever()")

    def tracker(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> Any:
        """Return the same for a layer whose tables are looked after in every step."""
        return self.retriever(n_neurons, dim, seed, n_threads)

    draws: bool = False
    """Whether neurons can be drawn by their activations instead of retrieved."""
    drifts: bool = True
    """Whether codes tell that what is kept of neurons is out of date."""

    def no_inclusion(self) -> str | None:
        """Return why ``correction="logq"`` is not possible; None: it is."""
        return "its kernel has no formula for it"

    def inclusion(self, retriever: Any, n_neurons: int, dim: int, n_threads: int) -> Any:
        """Return the kernel of the probabilities with which `retriever` finds neurons; None if they
        are drawn, and it knows them."""
        raise NotImplementedError(f"{type(self).__name__} must define inclusion()")

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


class CodeFamily(HashFamily):
    """Families whose functions are drawn without looking at the data."""

    def _kernel(self, dim: int, seed: int) -> Any:
        raise NotImplementedError

    def _function_bytes(self, dim: int) -> int:
        """Return the memory that the functions' parameters take."""
        raise NotImplementedError

    def _checked_kernel(self, dim: int, seed: int, n_bytes: int, what: str) -> Any:
        check_memory(f"{self!r} {what}", self._function_bytes(dim) + n_bytes)
        return self._kernel(dim, seed)

    def retriever(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> Any:
        tables = table_bytes(n_neurons, self.n_tables, n_threads)
        kernel = self._checked_kernel(dim, seed, tables, f"on {n_neurons:,} neurons")
        return _retrieval.HashRetriever(kernel, n_neurons, n_threads)

    def cost(self, dim: int) -> int:
        """Return the operations that all `n_tables` codes of one vector take.

        Parameters
        ----------
        dim : int
            Values of the vector.

        Returns
        -------
        int
            Multiply-adds; an addition, or a comparison of two values, counts as one too.
        """
        raise NotImplementedError

    def codes(self, X: Any, seed: int = 0, n_jobs: int | None = None) -> np.ndarray:
        """Return the codes of vectors.

        Parameters
        ----------
        X : array-like or sparse, shape (n, d)
            Finite. Sparse rows are made dense block by block.
        seed : int
            Of the functions that are drawn, at least 0.
        n_jobs : int or None
            Threads: None is joblib's default, 1 unless a context says otherwise, -1 all
            processors. Codes do not depend on it.

        Returns
        -------
        ndarray of uint64, shape (n, n_tables)
            All functions of a table packed into one number, without overlap where they fit into 63
            bits. ``2**64 - 1`` is the code of a vector that is in no bucket, such as one of zeros.

        Raises
        ------
        ValueError
            If the shape is wrong, or a value is NaN or infinite; the message has its row.
        MemoryError
            If the functions and the codes need more memory than there is.
        """
        seed = check.check_positive_int("seed", seed, low=0, high=2**63 - 1)
        threads = _n_threads(n_jobs)
        if not sp.issparse(X):
            X = check.plain_array("X", X)
        if X.ndim != 2 or X.shape[1] < 1:
            raise ValueError(f"X must have shape (n, d) with d >= 1, got {X.shape}")
        n, dim = X.shape
        X = check.check_features(X, dim, "X")
        kernel = self._checked_kernel(dim, seed, 8 * n * self.n_tables, f"on {n:,} vectors")
        out = np.empty((n, self.n_tables), np.uint64)
        for first, rows in _blocks(X, dim):
            kernel.hash(rows, threads, out[first : first + len(rows)])
        return out


def checked_cosine(cosine: Any) -> np.ndarray:
    """Return cosines in [-1, 1], of which rounding may have led out.

    Raises
    ------
    TypeError
        If these are no real numbers.
    ValueError
        If one is NaN or further out.
    """
    c = check.real_array("cosine", cosine).astype(np.float64)
    bad = ~(np.abs(c) <= 1 + 1e-6)
    if bad.any():
        raise ValueError(f"cosine must be from -1 to 1, got {c[bad][0]}")
    return np.clip(c, -1, 1)


def checked_vector(name: str, x: Any) -> np.ndarray:
    """Return a vector of finite numbers; TypeError or ValueError if it is none."""
    x = check.real_array(name, x).astype(np.float64)
    if x.ndim != 1:
        raise ValueError(f"{name} must have shape (d,), got {x.shape}")
    if not np.isfinite(x).all():
        at = int(np.argmin(np.isfinite(x)))
        raise ValueError(f"{name}[{at}] is {x[at]}, not a finite number")
    return x


def table_bytes(n_neurons: int, n_tables: int, n_threads: int) -> int:
    """Return the most that tables take: ids, tags and starts, and the codes while they are built.

    Each thread has the space of one table more.
    """
    return 6 * (n_tables + n_threads) * n_neurons + max(8 * n_neurons, 1 << 25)


def check_dim(dim: int) -> int:
    """Return `dim` after a check of its range."""
    return check.check_positive_int("dim", dim, high=2**31 - 1)


def _blocks(X: Any, dim: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of the first row of every block, and its rows padded with zeros."""
    height = max(1, min(X.shape[0], BLOCK_FLOATS // padded(dim)))
    block = np.zeros((height, padded(dim)), np.float32)
    for first in range(0, X.shape[0], height):
        last = min(first + height, X.shape[0])
        rows = block[: last - first]
        if sp.issparse(X):
            rows[:] = 0
            start, stop = X.indptr[first], X.indptr[last]
            row = np.repeat(np.arange(last - first), np.diff(X.indptr[first : last + 1]))
            rows[row, X.indices[start:stop]] = X.data[start:stop]
        else:
            rows[:, :dim] = X[first:last]
        yield first, rows
