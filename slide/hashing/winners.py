"""Families of winner-take-all functions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from slide import _validation as check
from slide._kernels import winners as _winners
from slide._memory import padded
from slide.hashing._family import CodeFamily, check_dim, checked_vector


class WTA(CodeFamily):
    """Winner take all (Yagnik et al., ICCV 2011).

    One function is the position of the largest among ``n_bins`` randomly chosen coordinates, of
    equals the first: it depends on the order of a vector's values alone. Zeros compete like other
    values.

    Parameters
    ----------
    n_functions : int
        K, the functions of a table, 1 to 63.
    n_tables : int
        L, 1 to 10,000.
    n_bins : int
        Coordinates that compete in one function, 2 to 64. Vectors need at least as many values.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or out of range, the functions do not fit into a code,
        or vectors have fewer than `n_bins` values.
    MemoryError
        If the functions, codes or tables would not fit into the memory that is available.

    Examples
    --------
    >>> WTA(n_functions=2, n_tables=3, n_bins=2).codes([[1.0, 2.0, 0.0]]).shape
    (1, 3)
    """

    _densified = False

    def __init__(self, n_functions: int = 6, n_tables: int = 50, n_bins: int = 8):
        self.n_functions = check.check_positive_int("n_functions", n_functions, high=63)
        self.n_tables = check.check_positive_int("n_tables", n_tables, high=10_000)
        self.n_bins = check.check_positive_int("n_bins", n_bins, low=2, high=64)
        if self.n_functions * (self.n_bins - 1).bit_length() > 63:
            raise ValueError(
                f"n_functions={n_functions} of n_bins={n_bins} do not fit into a code of 63 bits"
            )

    def _kernel(self, dim: int, seed: int) -> Any:
        if dim < self.n_bins:
            raise ValueError(f"n_bins={self.n_bins} is more than the {dim} values of a vector")
        return _winners.Winners(
            dim, self.n_functions, self.n_tables, self.n_bins, self._densified, seed
        )

    def _function_bytes(self, dim: int) -> int:
        pool = 64 if self._densified else 0
        return 4 * self.n_tables * self.n_bins * (self.n_functions + pool) + 4 * padded(dim)

    def cost(self, dim: int) -> int:
        check_dim(dim)
        return self.n_functions * self.n_tables * self.n_bins

    def _agreements(self, x: Any, y: Any) -> tuple[int, int, int]:
        """Return the bins where the same coordinate wins, all bins, and those of zeros in both."""
        x, y = checked_vector("x", x), checked_vector("y", y)
        if x.shape != y.shape or len(x) < self.n_bins:
            raise ValueError(
                f"x and y must be vectors of equal length >= {self.n_bins}, "
                f"got shapes {x.shape} and {y.shape}"
            )
        m, d = self.n_bins, len(x)
        both = sum(math.comb(int(np.sum((x < x[i]) & (y < y[i]))), m - 1) for i in range(d))
        return both, math.comb(d, m), math.comb(int(np.sum((x == 0) & (y == 0))), m)

    def collision_probability(self, x: Any, y: Any) -> float:
        """Return the probability that one function agrees on two vectors.

        Parameters
        ----------
        x, y : array-like, shape (d,)
            Without equal values among a vector's coordinates.

        Raises
        ------
        TypeError, ValueError
            If x and y are no finite vectors of the same length, or have fewer than `n_bins` values.

        Notes
        -----
        Coordinate i wins in both if all others of its bin are smaller in both: summed over i,
        C(s_i, m - 1) / C(d, m) with s_i the coordinates smaller than i in x and in y (Yagnik et
        al., 2011). With two bins it is (1 + tau) / 2, tau Kendall's rank correlation.
        """
        both, bins, _ = self._agreements(x, y)
        return both / bins

    def no_inclusion(self) -> str | None:
        return "its collision probability depends on the order of all coordinates"

    def get_config(self) -> dict[str, Any]:
        return {
            "n_functions": self.n_functions,
            "n_tables": self.n_tables,
            "n_bins": self.n_bins,
        }


class DWTA(WTA):
    """Densified winner take all (Chen & Shrivastava, UAI 2018).

    One function is the position of the largest among ``n_bins`` randomly chosen coordinates. Where
    they are all 0, up to 63 other random bins of the table are tried in a fixed random order (fewer
    where `n_functions` codes with so many would not fit 63 bits: with 8 bins 15 from 8 functions
    on, 7 with 10, 3 from 11 on, 1 from 13 on), and the code says how many tries it took, so that a
    borrowed position never matches one that is not. A bin that stays empty leaves the vector
    without a code; `collision_probability` is for enough tries. But neurons whose weights and bias
    are all 0 are in buckets of random positions without tries, as those of weights in random order,
    so that a layer that begins with them is trained.

    Parameters
    ----------
    n_functions : int
        K, the functions of a table, 1 to 20.
    n_tables : int
        L, 1 to 10,000.
    n_bins : int
        Coordinates that compete in one function, 2 to 64. Vectors need at least as many values.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or out of range, the functions do not fit into a code,
        or vectors have fewer than `n_bins` values.
    MemoryError
        If the functions, codes or tables would not fit into the memory that is available.

    Examples
    --------
    >>> DWTA(n_functions=2, n_tables=3, n_bins=2).codes([[1.0, 2.0, 0.0]]).shape
    (1, 3)
    """

    _densified = True

    def __init__(self, n_functions: int = 6, n_tables: int = 50, n_bins: int = 8):
        check.check_positive_int("n_functions", n_functions, high=20)
        super().__init__(n_functions, n_tables, n_bins)
        if 63 // self.n_functions - (self.n_bins - 1).bit_length() < 1:
            raise ValueError(
                f"n_functions={n_functions} of n_bins={n_bins} do not fit into a code of 63 bits"
            )

    def collision_probability(self, x: Any, y: Any) -> float:
        """Return the probability that one function agrees on two vectors.

        Parameters
        ----------
        x, y : array-like, shape (d,)
            Without equal values among a vector's coordinates, but for the zeros of vectors that
            have no value below 0.

        Raises
        ------
        TypeError, ValueError
            If x and y are no finite vectors of the same length, or have fewer than `n_bins` values.

        Notes
        -----
        Coordinate i wins in both if all others of its bin are smaller in both: summed over i,
        C(s_i, m - 1) / C(d, m) with s_i the coordinates smaller than i in x and in y (Yagnik et
        al., ICCV 2011), given that the bin is not zero in both vectors; 0 if all of them are.
        """
        both, bins, empty = self._agreements(x, y)
        return both / (bins - empty) if bins > empty else 0.0
