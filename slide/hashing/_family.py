"""What all hash families share."""

from __future__ import annotations

from typing import Any

import numpy as np

from slide import _validation as check
from slide._kernels import retrieval as _retrieval
from slide._memory import padded


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

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


class CodeFamily(HashFamily):
    """Families whose functions are drawn without looking at the data."""

    def _kernel(self, dim: int, seed: int) -> Any:
        raise NotImplementedError

    def retriever(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> Any:
        return _retrieval.HashRetriever(self._kernel(dim, seed), n_neurons, n_threads)

    def codes(self, X: Any, seed: int = 0) -> np.ndarray:
        """Return the codes of vectors.

        Parameters
        ----------
        X : array-like or sparse, shape (n, d)
        seed : int
            Of the functions that are drawn, at least 0.

        Returns
        -------
        ndarray of uint64, shape (n, n_tables)
            All functions of a table packed into one number, without overlap.
        """
        seed = check.check_positive_int("seed", seed, low=0, high=2**63 - 1)
        X = X.toarray() if hasattr(X, "toarray") else np.asarray(X)
        if X.ndim != 2 or X.shape[1] < 1:
            raise ValueError(f"X must have shape (n, d) with d >= 1, got {X.shape}")
        X = check.check_features(X, X.shape[1], "X")
        rows = np.zeros((len(X), padded(X.shape[1])), np.float32)
        rows[:, : X.shape[1]] = X
        return self._kernel(X.shape[1], seed).hash(rows)
