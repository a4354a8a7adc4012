"""Hash families: how neurons come into tables and queries find them.

Every family hashes a neuron's weights with its bias, ``[w, b]``, against a layer's input with a
one, ``[x, 1]``, so that what is near is what has a large activation ``w . x + b``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.special import ndtr

from slide import _validation as check
from slide._kernels import hashing as _hashing
from slide._kernels import projections as _projections
from slide._kernels import sampling as _sampling
from slide._memory import padded

__all__ = ["DWTA", "E2LSH", "Clusters", "HashFamily", "SimHash", "get", "serialize"]


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


class _Codes(HashFamily):
    """Families whose functions are drawn without looking at the data."""

    def _kernel(self, dim: int, seed: int) -> Any:
        raise NotImplementedError

    def retriever(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> Any:
        return _sampling.HashRetriever(self._kernel(dim, seed), n_neurons, n_threads)

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


TRANSFORMS = (None, "sign_alsh", "l2_alsh", "simple_lsh")
"""In the order of the kernels' numbers for them."""

TERMS = {None: (0, 1.0), "sign_alsh": (2, 0.75), "l2_alsh": (3, 0.83), "simple_lsh": (1, 1.0)}
"""Appended coordinates m, and the norm U that no scaled weight vector exceeds."""


def _projection_retriever(
    family: Any,
    n_functions: int,
    cell: float,
    projection: str,
    n_neurons: int,
    dim: int,
    seed: int,
    n_threads: int,
) -> Any:
    """Return the kernel of a family with a transform and probes; `cell` 0 stands for signs."""
    return _projections.ProjectionRetriever(
        n_neurons,
        dim,
        n_functions,
        family.n_tables,
        cell,
        projection,
        TRANSFORMS.index(family.transform),
        *TERMS[family.transform],
        family.n_probes,
        seed,
        n_threads,
    )


class SimHash(_Codes):
    """Signs of random projections (Charikar, STOC 2002).

    Parameters
    ----------
    n_bits : int
        K, the projections of a table, 1 to 62: more make buckets smaller.
    n_tables : int
        L, 1 to 10,000: more find more.
    projection : {"gaussian", "rademacher", "principal"}
        Normal coefficients, random signs, or functions that follow the data, for hidden layers.
        ``"principal"`` is not in the papers: a random rotation of the first ``K L`` principal
        components of the layer's inputs, which are centred, estimated while training (Mitliagkas et
        al., NIPS 2013). On these few directions, where the inputs differ, angles are wide enough to
        tell neurons apart. What the probes find is ranked by the estimate of the activation that
        the projections give, before candidates are computed; with ``n_probes = 2 ** n_bits`` all
        neurons are ranked and no table is looked at.
    transform : {None, "sign_alsh", "simple_lsh"}
        What weight vectors (scaled to norms of at most U) and queries are put under, so that the
        signs agree where the inner product is large, not only where the angle is small.
        ``"sign_alsh"``: ``P(w) = [w, 1/2 - |w|^2, 1/2 - |w|^4]``, ``Q(q) = [q, 0, 0]``, U = 0.75
        (Shrivastava & Li, UAI 2015). ``"simple_lsh"``: ``P(w) = [w, sqrt(1 - |w|^2)]``,
        ``Q(q) = [q, 0]``, U = 1 (Neyshabur & Srebro, ICML 2015).
    n_probes : int
        Most buckets that a query looks into in one table: its own, then those whose codes differ in
        the bits with the smallest projections (Lv et al., VLDB 2007), the nearest of all tables
        first.

    Notes
    -----
    With a transform, with several probes, and in hidden layers, the projections of all neurons are
    kept: ``4 n_bits n_tables`` bytes a neuron.

    Examples
    --------
    >>> SimHash(n_bits=4, n_tables=2).codes([[1.0, 2.0], [2.0, 4.0]]).shape
    (2, 2)
    """

    tracks = True

    def __init__(
        self,
        n_bits: int = 9,
        n_tables: int = 50,
        projection: str = "gaussian",
        transform: str | None = None,
        n_probes: int = 1,
    ):
        self.n_bits = check.check_positive_int("n_bits", n_bits, high=62)
        self.n_tables = check.check_positive_int("n_tables", n_tables, high=10_000)
        self.projection = check.check_in(
            "projection", projection, ("gaussian", "rademacher", "principal")
        )
        self.transform = check.check_in("transform", transform, (None, "sign_alsh", "simple_lsh"))
        if transform is not None and projection == "principal":
            raise ValueError(
                f"transform={transform!r} with principal projections: only one of them"
            )
        self.n_probes = check.check_positive_int("n_probes", n_probes, high=1 << min(n_bits, 12))

    def _kernel(self, dim: int, seed: int) -> Any:
        if self.projection == "principal":
            raise ValueError(f"{self!r}: principal projections depend on a layer's inputs")
        rademacher = self.projection == "rademacher"
        return _hashing.SimHash(dim, self.n_bits, self.n_tables, rademacher, seed)

    def retriever(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> Any:
        if self.projection == "principal":
            raise ValueError(f"{self!r}: principal projections are for hidden layers")
        if self.transform is None and self.n_probes == 1:
            return super().retriever(n_neurons, dim, seed, n_threads)
        return self.tracker(n_neurons, dim, seed, n_threads)

    def tracker(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> Any:
        layer = n_neurons, dim, seed, n_threads
        return _projection_retriever(self, self.n_bits, 0.0, self.projection, *layer)

    def collision_probability(self, cosine: Any) -> np.ndarray:
        """Return the probability that one bit of two vectors is equal: 1 - angle / pi."""
        return 1 - np.arccos(np.clip(cosine, -1, 1)) / np.pi

    def get_config(self) -> dict[str, Any]:
        return {
            "n_bits": self.n_bits,
            "n_tables": self.n_tables,
            "projection": self.projection,
            "transform": self.transform,
            "n_probes": self.n_probes,
        }


class E2LSH(HashFamily):
    """Quantized random projections, for Euclidean distance (Datar et al., SCG 2004).

    A function is ``floor((a . v + b) / width)`` with normal coefficients a and b uniform in
    [0, width).

    Parameters
    ----------
    n_functions : int
        K, the functions of a table, 1 to 31.
    n_tables : int
        L, 1 to 10,000.
    width : float
        Width of a cell.
    transform : {"l2_alsh", None}
        ``"l2_alsh"``: weight vectors, scaled to norms of at most U = 0.83, become
        ``[w, |w|^2, |w|^4, |w|^8]`` and unit queries ``[q, 1/2, 1/2, 1/2]``, whose distance falls
        with their inner product (Shrivastava & Li, NIPS 2014). None: distance as it is.
    n_probes : int
        Most buckets that a query looks into in one table, by the distance of its projections from
        the cells' borders (Lv et al., VLDB 2007), the nearest of all tables first.

    Examples
    --------
    >>> E2LSH(n_functions=4, n_tables=2).width
    2.5
    """

    tracks = True

    def __init__(
        self,
        n_functions: int = 6,
        n_tables: int = 5,
        width: float = 2.5,
        transform: str | None = "l2_alsh",
        n_probes: int = 1,
    ):
        self.n_functions = check.check_positive_int("n_functions", n_functions, high=31)
        self.n_tables = check.check_positive_int("n_tables", n_tables, high=10_000)
        self.width = check.check_finite_float("width", width, at_least=1e-6, at_most=1e6)
        self.transform = check.check_in("transform", transform, (None, "l2_alsh"))
        self.n_probes = check.check_positive_int(
            "n_probes", n_probes, high=3 ** min(n_functions, 7)
        )

    def retriever(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> Any:
        layer = n_neurons, dim, seed, n_threads
        return _projection_retriever(self, self.n_functions, self.width, "gaussian", *layer)

    def collision_probability(self, distance: Any) -> np.ndarray:
        """Return the probability that one function agrees on two vectors at this distance.

        Notes
        -----
        ``1 - 2 Phi(-w/c) - 2c / (sqrt(2 pi) w) (1 - exp(-w^2 / 2c^2))`` for distance c and width w
        (Datar et al., 2004).
        """
        c = np.maximum(np.asarray(distance, np.float64), 1e-12)
        r = self.width / c
        tail = 2 / (np.sqrt(2 * np.pi) * r) * (1 - np.exp(-(r**2) / 2))
        return 1 - 2 * ndtr(-r) - tail

    def get_config(self) -> dict[str, Any]:
        return {
            "n_functions": self.n_functions,
            "n_tables": self.n_tables,
            "width": self.width,
            "transform": self.transform,
            "n_probes": self.n_probes,
        }


class DWTA(_Codes):
    """Densified winner take all (Chen & Shrivastava, UAI 2018).

    One function is the position of the largest among ``n_bins`` randomly chosen coordinates. Where
    they are all 0, other functions' coordinates are tried in a fixed random order, and the code
    says how many tries it took, so that a borrowed position never matches one that is not.

    Parameters
    ----------
    n_functions : int
        K, the functions of a table, 1 to 20.
    n_tables : int
        L, 1 to 10,000.
    n_bins : int
        Coordinates that compete in one function, 2 to 64. Vectors need at least as many values.

    Examples
    --------
    >>> DWTA(n_functions=2, n_tables=3, n_bins=2).codes([[1.0, 2.0, 0.0]]).shape
    (1, 3)
    """

    def __init__(self, n_functions: int = 6, n_tables: int = 50, n_bins: int = 8):
        self.n_functions = check.check_positive_int("n_functions", n_functions, high=20)
        self.n_tables = check.check_positive_int("n_tables", n_tables, high=10_000)
        self.n_bins = check.check_positive_int("n_bins", n_bins, low=2, high=64)
        if 63 // self.n_functions - (self.n_bins - 1).bit_length() < 1:
            raise ValueError(
                f"n_functions={n_functions} of n_bins={n_bins} do not fit into a code of 63 bits"
            )

    def _kernel(self, dim: int, seed: int) -> Any:
        if dim < self.n_bins:
            raise ValueError(f"n_bins={self.n_bins} is more than the {dim} values of a vector")
        return _hashing.DWTA(dim, self.n_functions, self.n_tables, self.n_bins, seed)

    def collision_probability(self, x: Any, y: Any) -> float:
        """Return the probability that one function agrees on two vectors.

        Parameters
        ----------
        x, y : array-like, shape (d,)
            Without equal values among a vector's coordinates, but for the zeros of vectors that
            have no value below 0.

        Notes
        -----
        Coordinate i wins in both if all others of its bin are smaller in both: summed over i,
        C(s_i, m - 1) / C(d, m) with s_i the coordinates smaller than i in x and in y (Yagnik et
        al., ICCV 2011), given that the bin is not zero in both vectors.
        """
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        if x.ndim != 1 or x.shape != y.shape or len(x) < self.n_bins:
            raise ValueError(
                f"x and y must be vectors of equal length >= {self.n_bins}, "
                f"got shapes {x.shape} and {y.shape}"
            )
        m, d = self.n_bins, len(x)
        bins = math.comb(d, m)
        both = sum(math.comb(int(np.sum((x < x[i]) & (y < y[i]))), m - 1) for i in range(d))
        return both / (bins - math.comb(int(np.sum((x == 0) & (y == 0))), m))

    def get_config(self) -> dict[str, Any]:
        return {
            "n_functions": self.n_functions,
            "n_tables": self.n_tables,
            "n_bins": self.n_bins,
        }


class Clusters(HashFamily):
    """Data-dependent tables: spherical k-means over the neurons' directions.

    Each table partitions the neurons into cells around centroids of the directions of their
    weights. A query ranks all cells by the inner product with their mean weight vectors, which is
    the mean activation of their neurons, and takes whole cells, best first. Every rebuild makes one
    iteration of k-means (Dhillon & Modha 2001), so the cells follow the weights.

    Parameters
    ----------
    n_cells : int or "auto"
        Cells of a table. ``"auto"``: about one per 100 neurons up to 65,536 neurons, one per 40
        beyond.
    n_tables : int
        Partitions, each from other random starts.
    n_groups : int or "auto"
        With more than one, cells are found through groups, in two levels: the cost of a query and
        of a rebuild falls from ``n_cells`` to about ``2 sqrt(n_cells)`` products. ``"auto"``: one
        group up to 1,024 cells, ``sqrt(n_cells)`` beyond.
    n_probes : int
        Groups that a query looks into, best first, over all tables.

    Examples
    --------
    >>> Clusters(n_cells=128)
    Clusters(n_cells=128, n_tables=1, n_groups='auto', n_probes=8)
    """

    def __init__(
        self,
        n_cells: int | str = "auto",
        n_tables: int = 1,
        n_groups: int | str = "auto",
        n_probes: int = 8,
    ):
        self.n_cells: Any = n_cells
        if n_cells != "auto":
            self.n_cells = check.check_positive_int("n_cells", n_cells, high=1 << 24)
        self.n_groups: Any = n_groups
        if n_groups != "auto":
            self.n_groups = check.check_positive_int("n_groups", n_groups, high=1 << 20)
        self.n_tables = check.check_positive_int("n_tables", n_tables, high=10_000)
        self.n_probes = check.check_positive_int("n_probes", n_probes, high=1 << 20)

    def layout(self, n_neurons: int) -> tuple[int, int]:
        """Return (groups, cells of a group) for a layer of that size."""
        cells = self.n_cells
        if cells == "auto":
            cells = max(1, n_neurons // (100 if n_neurons <= 65_536 else 40))
        cells = min(cells, n_neurons)
        groups = self.n_groups
        if groups == "auto":
            groups = 1 if cells <= 1024 else round(math.sqrt(cells))
        groups = min(groups, cells)
        return groups, -(-cells // groups)

    def retriever(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> Any:
        groups, cells = self.layout(n_neurons)
        return _sampling.ClusterRetriever(
            n_neurons, dim, self.n_tables, groups, cells, self.n_probes, n_threads
        )

    def get_config(self) -> dict[str, Any]:
        return {
            "n_cells": self.n_cells,
            "n_tables": self.n_tables,
            "n_groups": self.n_groups,
            "n_probes": self.n_probes,
        }


def get(identifier: Any) -> HashFamily:
    """Return a hash family from its name, itself or what `serialize` gave."""
    return check.resolve("hash", identifier, HashFamily, (SimHash, DWTA, E2LSH, Clusters))


def serialize(family: HashFamily) -> dict[str, Any]:
    """Return a description that `get` turns back into an equal family."""
    return check.serialize_config(family)
