"""The family of the corners of randomly rotated cross-polytopes."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from slide import _validation as check
from slide._kernels import rotations as _rotations
from slide._memory import padded
from slide.hashing._family import CodeFamily, check_dim, checked_cosine
from slide.hashing.inclusion import inclusion_of


class CrossPolytope(CodeFamily):
    """The nearest corner of a randomly rotated cross-polytope (Andoni et al., NIPS 2015).

    A function is the index of the rotated vector's largest coordinate in magnitude, with its sign.
    For angles it separates near from far with fewer functions than signs of projections do.

    Parameters
    ----------
    n_functions : int
        K, the functions of a table, 1 to 31. Each takes ``1 + log2(dim)`` of a code's 63 bits.
    n_tables : int
        L, 1 to 10,000.
    rotation : {"gaussian", "hadamard"}
        A matrix of normal coefficients, or three rounds of random signs and a Walsh-Hadamard
        transform of the vector, padded to a power of two of at least 64.
    dim : int or None
        Coordinates of the rotated vector that take part, at least 2 and at most the vectors'
        length; fewer cost less and tell less apart. None: as many as a vector has.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or out of range, the functions do not fit into a code,
        or `dim` is more than vectors have values.
    MemoryError
        If the functions, codes or tables would not fit into the memory that is available.

    Examples
    --------
    >>> family = CrossPolytope(n_functions=2, n_tables=3, dim=8)
    >>> family.codes(np.eye(9)).shape
    (9, 3)
    >>> print(family.collision_probability(np.cos(0.3)).round(3))
    0.722
    """

    def __init__(
        self,
        n_functions: int = 1,
        n_tables: int = 50,
        rotation: str = "gaussian",
        dim: int | None = None,
    ):
        self.n_functions = check.check_positive_int("n_functions", n_functions, high=31)
        self.n_tables = check.check_positive_int("n_tables", n_tables, high=10_000)
        self.rotation = check.check_in("rotation", rotation, ("gaussian", "hadamard"))
        if dim is not None:
            dim = check.check_positive_int("dim", dim, low=2, high=1 << 30)
            self._check_bits(dim)
        self.dim = dim

    def _check_bits(self, target: int) -> None:
        if self.n_functions * (2 * target - 1).bit_length() > 63:
            raise ValueError(
                f"n_functions={self.n_functions} of dim={target} do not fit into a code of 63 bits"
            )

    def _target(self, dim: int) -> int:
        target = dim if self.dim is None else self.dim
        if target > dim:
            raise ValueError(f"dim={self.dim} is more than the {dim} values of a vector")
        self._check_bits(target)
        return target

    def _kernel(self, dim: int, seed: int) -> Any:
        fast = self.rotation == "hadamard"
        target = self._target(dim)
        return _rotations.CrossPolytope(dim, self.n_functions, self.n_tables, target, fast, seed)

    def _function_bytes(self, dim: int) -> int:
        if self.rotation == "hadamard":
            return 8 * self.n_tables
        return 4 * self.n_functions * self.n_tables * self._target(dim) * padded(dim)

    def cost(self, dim: int) -> int:
        dim = check_dim(dim)
        target = self._target(dim)
        if self.rotation == "gaussian":
            return self.n_functions * self.n_tables * target * (dim + 1)
        order = _rotations.order_of(dim)
        rotations = -(-self.n_functions // min(self.n_functions, order // target))
        return self.n_tables * (
            rotations * _rotations.rotation_cost(order) + self.n_functions * target
        )

    def collision_probability(self, cosine: Any, dim: int | None = None) -> np.ndarray:
        """Return the probability that one function agrees on two vectors.

        Parameters
        ----------
        cosine : array-like
            Of their angle.
        dim : int or None
            Coordinates that take part. None: as the family's `dim`.

        Raises
        ------
        TypeError, ValueError
            If a cosine is no number from -1 to 1, or the number of coordinates is out of range, or
            None here and in the family.

        Notes
        -----
        Of a Gaussian rotation, coordinate i of the two rotated vectors is a pair (X, Y) of normal
        variables with correlation `cosine`, independent of the others, so that ``P = 2 d E[1(X > 0,
        Y > 0) Q(X, Y)^(d-1)]`` with ``Q(u, v) = P(|X| < u, |Y| < v)``, which Owen's T function
        gives. The integral over the quadrant is by Gauss and Legendre's rule in the sum and the
        difference of X and Y, in units of their standard deviations; its error is below 1e-4. A
        fast rotation is one in the limit of many coordinates.
        """
        if dim is None and self.dim is None:
            raise ValueError("dim=None: the probability depends on the number of coordinates")
        dim = self.dim if dim is None else check.check_positive_int("dim", dim, high=2**31 - 1)
        cosine = checked_cosine(cosine)
        found = [_collision(float(c), dim) for c in np.ravel(cosine)]
        return np.reshape(found, cosine.shape)[()]

    def no_inclusion(self) -> str | None:
        return None

    def inclusion(self, retriever: Any, n_neurons: int, dim: int, n_threads: int) -> Any:
        target = self._target(dim)

        def collision(cosine: np.ndarray) -> np.ndarray:
            return np.exp(_log_collision(target)(np.arccos(cosine)))

        return inclusion_of(self, collision, 0.0, (0, 1.0), retriever, n_neurons, n_threads)

    def get_config(self) -> dict[str, Any]:
        return {
            "n_functions": self.n_functions,
            "n_tables": self.n_tables,
            "rotation": self.rotation,
            "dim": self.dim,
        }


@functools.lru_cache(maxsize=8)
def _log_collision(dim: int) -> Any:
    """Return the log of the probability as a function of the angle.

    One value takes some 100 ms: a spline between a few of them, whose log is smooth, follows them
    within 0.1% up to an angle of 2. Where they fall to 0 it goes on straight.
    """
    from scipy.interpolate import CubicSpline  # here: `import slide` would wait for it

    angles = np.pi * np.linspace(0, 0.8, 13)
    values = CubicSpline(angles, [math.log(_collision(float(np.cos(a)), dim)) for a in angles])
    slope = float(values(angles[-1], 1))

    def log_collision(angle: np.ndarray) -> np.ndarray:
        beyond = np.maximum(angle - angles[-1], 0)
        return np.minimum(values(np.minimum(angle, angles[-1])) + slope * beyond, 0)

    return log_collision


def _collision(rho: float, dim: Any) -> float:
    if abs(rho) > 1 - 1e-12:
        return float(rho > 0)
    half_sum, half_difference = np.sqrt((1 + rho) / 2), np.sqrt((1 - rho) / 2)
    nodes, weights = np.polynomial.legendre.leggauss(160)
    g = 5.0 * (nodes[:, np.newaxis] + 1)  # half the sum of X and Y, over its standard deviation
    # Half their difference; both signs alike. X and Y are positive where it is below half the sum.
    most = np.minimum(10.0, g * half_sum / half_difference)
    h = most * (nodes + 1) / 2
    u, v = g * half_sum - h * half_difference, g * half_sum + h * half_difference
    density = np.exp(-(g**2 + h**2) / 2) / (2 * np.pi)
    inside = _both_below(np.maximum(u, 1e-300), v, rho)
    values = 2 * density * inside ** (dim - 1) * weights[:, np.newaxis] * weights * 5.0 * most / 2
    return float(min(1.0, 2 * dim * values.sum()))


def _both_below(u: np.ndarray, v: np.ndarray, rho: float) -> np.ndarray:
    """P(|X| < u, |Y| < v) of standard normal variables with correlation rho; u, v > 0.

    Notes
    -----
    From Owen's formula for the bivariate normal distribution (Owen, Ann. Math. Stat. 1956).
    """
    from scipy.special import ndtr, owens_t  # here: `import slide` would wait for them

    root = np.sqrt(1 - rho**2)
    corners = sum(
        owens_t(u, (v - r * u) / (u * root)) + owens_t(v, (u - r * v) / (v * root))
        for r in (rho, -rho)
    )
    return np.clip(1 - 2 * corners, 0, np.minimum(1 - 2 * ndtr(-u), 1 - 2 * ndtr(-v)))
