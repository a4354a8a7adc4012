"""The family for the Jaccard similarity of sets of large coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np

from slide import _validation as check
from slide._kernels import minhash as _minhash
from slide.hashing._family import CodeFamily, check_dim, checked_vector


class MinHash(CodeFamily):
    """MinHash of the set of a vector's largest coordinates, by one permutation a table.

    The set are the `top_k` largest values above 0, of equals those of smaller indices; a vector
    without a value above 0 is in no bucket. But neurons whose weights and bias are all 0 are in
    those of random sets, about as those of random weights, so that a layer that begins with them
    is trained. What is left of the values is which are large: a neuron is found by inputs that are
    large where its weights are.

    Parameters
    ----------
    n_functions : int
        K, the functions of a table, 1 to 31: the smallest members of a set in K equal parts of a
        random permutation (Li, Owen & Zhang, NIPS 2012).
    n_tables : int
        L, 1 to 10,000.
    top_k : int
        Most members of a set.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or out of range, or vectors have more than 2^24 values.
    MemoryError
        If the functions, codes or tables would not fit into the memory that is available.

    Notes
    -----
    A part without members takes the value of part ``hash(part, 1)``, ``hash(part, 2)``, ..., the
    first that has some (optimal densification, Shrivastava, ICML 2017). Functions of one table
    draw without replacement, and of sets smaller than K they share values: K of them agree with
    probability J^K only nearly. On small sets it is less, by half for sets of 20 and K = 8; of sets
    of one or two members it is more.

    Examples
    --------
    >>> family = MinHash(n_functions=2, n_tables=3, top_k=2)
    >>> family.codes([[1.0, 2.0, 0.0, 3.0]]).shape
    (1, 3)
    >>> family.collision_probability([1.0, 2.0, 0.0, 3.0], [0.0, 2.0, 3.0, 1.0])
    0.3333333333333333
    """

    def __init__(self, n_functions: int = 2, n_tables: int = 50, top_k: int = 30):
        self.n_functions = check.check_positive_int("n_functions", n_functions, high=31)
        self.n_tables = check.check_positive_int("n_tables", n_tables, high=10_000)
        self.top_k = check.check_positive_int("top_k", top_k, high=2**31 - 1)

    def _kernel(self, dim: int, seed: int) -> Any:
        if dim > 2**24:
            raise ValueError(f"vectors of {dim} values: MinHash takes at most {2**24}")
        return _minhash.MinHash(dim, self.n_functions, self.n_tables, self.top_k, seed)

    def _function_bytes(self, dim: int) -> int:
        return 4 * dim * (self.n_tables + 1)

    def cost(self, dim: int) -> int:
        dim = check_dim(dim)
        return dim + self.n_tables * min(self.top_k, dim)

    def members(self, x: Any) -> np.ndarray:
        """Return the set that stands for a vector: at most `top_k` indices, ascending.

        Parameters
        ----------
        x : array-like, shape (d,)

        Raises
        ------
        ValueError
            If x is no vector.
        """
        x = checked_vector("x", x).astype(np.float32)
        first = np.argsort(-x, kind="stable")[: self.top_k]
        return np.sort(first[x[first] > 0])

    def collision_probability(self, x: Any, y: Any) -> float:
        """Return the probability that one function agrees on two sets, ``|A and B| / |A or B|``.

        Parameters
        ----------
        x, y : array-like, shape (d,)
            A and B are their sets; 0 if one of them is empty.

        Raises
        ------
        ValueError
            If x and y are no vectors of the same length.
        """
        if np.shape(x) != np.shape(y):
            raise ValueError(f"x and y differ in shape: {np.shape(x)} and {np.shape(y)}")
        a, b = self.members(x), self.members(y)
        return len(np.intersect1d(a, b)) / max(1, len(np.union1d(a, b)))

    def no_inclusion(self) -> str | None:
        return "its collision probability depends on the sets of the largest coordinates"

    def get_config(self) -> dict[str, Any]:
        return {
            "n_functions": self.n_functions,
            "n_tables": self.n_tables,
            "top_k": self.top_k,
        }
