"""Families of random projections."""

from __future__ import annotations

from typing import Any

import numpy as np

from slide import _validation as check
from slide._kernels import hashing as _hashing
from slide._kernels import projections as _projections
from slide._kernels import rotations as _rotations
from slide._memory import check_memory, padded
from slide.hashing._family import CodeFamily, check_dim, checked_cosine, table_bytes
from slide.hashing.inclusion import inclusion_of

TRANSFORMS = (None, "sign_alsh", "l2_alsh", "simple_lsh")
"""In the order of the kernels' numbers for them."""

TERMS = {None: (0, 1.0), "sign_alsh": (2, 0.75), "l2_alsh": (3, 0.83), "simple_lsh": (1, 1.0)}
"""Appended coordinates m, and the norm U that no scaled weight vector exceeds."""

KEEP_NOTHING = ("sparse", "hadamard")
"""Projections for which no kernel keeps the neurons' projections."""


def _n_nonzero(dim: int) -> int:
    return min(dim, max(16, -(-dim // 3)))


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
    # Kept projections of neurons, coefficients in both orders, codes, and queries' probes.
    width = padded(n_functions * family.n_tables)
    n_bytes = 4 * width * (n_neurons + 2 * padded(dim)) + 8 * family.n_tables * n_neurons
    n_bytes += 24 * family.n_tables * (2 * family.n_probes + 4) * n_threads
    check_memory(
        f"{family!r} on {n_neurons:,} neurons",
        n_bytes + table_bytes(n_neurons, family.n_tables, n_threads),
    )
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


class SimHash(CodeFamily):
    """Signs of random projections (Charikar, STOC 2002).

    Parameters
    ----------
    n_bits : int
        K, the projections of a table, 1 to 62: more make buckets smaller.
    n_tables : int
        L, 1 to 10,000: more find more.
    projection : {"gaussian", "rademacher", "sparse", "hadamard", "principal"}
        Normal coefficients; random signs; random signs at a random third of the coordinates, but
        at least 16, for additions only (Achlioptas, PODS 2001; Li et al., KDD 2006); fast
        rotations; or functions that follow the data, for hidden layers.
        ``"hadamard"``: three rounds of random signs and a Walsh-Hadamard transform (Andoni et al.,
        NIPS 2015) of the vector, padded to a power of two of at least 64. Tables share rotations,
        but every bit has an output of its own. On vectors of 128 values it is many times faster.
        ``"sparse"`` and ``"hadamard"`` go with ``transform=None`` and one probe, on output layers.
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

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or out of range, or does not go with the projection.
    MemoryError
        If the functions, codes or tables would not fit into the memory that is available.

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
            "projection",
            projection,
            ("gaussian", "rademacher", "sparse", "hadamard", "principal"),
        )
        self.transform = check.check_in("transform", transform, (None, "sign_alsh", "simple_lsh"))
        if transform is not None and projection == "principal":
            raise ValueError(
                f"transform={transform!r} with principal projections: only one of them"
            )
        self.n_probes = check.check_positive_int("n_probes", n_probes, high=1 << min(n_bits, 12))
        if projection in KEEP_NOTHING and (transform is not None or self.n_probes > 1):
            raise ValueError(
                f"projection={projection!r} is for transform=None and n_probes=1, "
                f"got transform={transform!r}, n_probes={n_probes}"
            )

    def _kernel(self, dim: int, seed: int) -> Any:
        if self.projection == "principal":
            raise ValueError(f"{self!r}: principal projections depend on a layer's inputs")
        if self.projection == "hadamard":
            return _rotations.FastSimHash(dim, self.n_bits, self.n_tables, seed)
        if self.projection == "sparse":
            n = _n_nonzero(dim)
            return _hashing.SparseSimHash(dim, self.n_bits, self.n_tables, n, seed)
        rademacher = self.projection == "rademacher"
        return _hashing.SimHash(dim, self.n_bits, self.n_tables, rademacher, seed)

    def retriever(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> Any:
        if self.projection == "principal":
            raise ValueError(f"{self!r}: principal projections are for hidden layers")
        if self.transform is None and self.n_probes == 1:
            return super().retriever(n_neurons, dim, seed, n_threads)
        return self.tracker(n_neurons, dim, seed, n_threads)

    def tracker(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> Any:
        if self.projection in KEEP_NOTHING:
            raise ValueError(
                f"projection={self.projection!r} is for output layers; hidden layers keep their "
                "neurons' projections, of 'gaussian', 'rademacher' or 'principal'"
            )
        layer = n_neurons, dim, seed, n_threads
        return _projection_retriever(self, self.n_bits, 0.0, self.projection, *layer)

    def _function_bytes(self, dim: int) -> int:
        if self.projection == "hadamard":
            return 8 * self.n_tables
        width = _n_nonzero(dim) if self.projection == "sparse" else padded(dim)
        return 4 * self.n_bits * self.n_tables * width

    def cost(self, dim: int) -> int:
        dim = check_dim(dim)
        if self.projection == "hadamard":
            order = _rotations.order_of(dim)
            if self.n_bits > order:
                return self.n_tables * -(-self.n_bits // order) * _rotations.rotation_cost(order)
            return -(-self.n_tables // (order // self.n_bits)) * _rotations.rotation_cost(order)
        width = _n_nonzero(dim) if self.projection == "sparse" else dim
        return self.n_bits * self.n_tables * width

    def collision_probability(self, cosine: Any) -> np.ndarray:
        """Return the probability that one bit of two vectors is equal: 1 - angle / pi.

        Raises
        ------
        TypeError, ValueError
            If a cosine is no number from -1 to 1.

        Notes
        -----
        Exact for Gaussian projections. For random signs and fast rotations it is the limit of many
        coordinates of similar size: of vectors with a few large ones, bits of ``"rademacher"`` and
        ``"sparse"`` projections agree more or less often.
        """
        return 1 - np.arccos(checked_cosine(cosine)) / np.pi

    def no_inclusion(self) -> str | None:
        if self.n_probes > 1:
            return f"with n_probes={self.n_probes} it depends on the query's distance from borders"
        return None

    def inclusion(self, retriever: Any, n_neurons: int, dim: int, n_threads: int) -> Any:
        terms = TERMS[self.transform]
        layer = retriever, n_neurons, n_threads
        return inclusion_of(self, self.collision_probability, 0.0, terms, *layer)

    def get_config(self) -> dict[str, Any]:
        return {
            "n_bits": self.n_bits,
            "n_tables": self.n_tables,
            "projection": self.projection,
            "transform": self.transform,
            "n_probes": self.n_probes,
        }


class E2LSH(CodeFamily):
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

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or out of range. `codes` does where there is a transform.
    MemoryError
        If the functions, codes or tables would not fit into the memory that is available.

    Notes
    -----
    Projections are float32 numbers: of vectors whose norm is more than 2^24 widths, neighbouring
    cells are not told apart.

    Examples
    --------
    >>> E2LSH(n_functions=4, n_tables=2).width
    2.5
    >>> E2LSH(2, 3, transform=None).codes([[1.0, -2.0]]).shape
    (1, 3)
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

    def _kernel(self, dim: int, seed: int) -> Any:
        if self.transform is not None:
            raise ValueError(
                f"transform={self.transform!r} maps neurons and queries differently: codes are of "
                "E2LSH(..., transform=None)"
            )
        return _hashing.E2LSH(dim, self.n_functions, self.n_tables, self.width, seed)

    def _function_bytes(self, dim: int) -> int:
        return 4 * self.n_functions * self.n_tables * padded(dim)

    def cost(self, dim: int) -> int:
        return self.n_functions * self.n_tables * check_dim(dim)

    def retriever(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> Any:
        layer = n_neurons, dim, seed, n_threads
        return _projection_retriever(self, self.n_functions, self.width, "gaussian", *layer)

    def collision_probability(self, distance: Any) -> np.ndarray:
        """Return the probability that one function agrees on two vectors at this distance.

        Raises
        ------
        TypeError, ValueError
            If a distance is no number of at least 0.

        Notes
        -----
        ``1 - 2 Phi(-w/c) - 2c / (sqrt(2 pi) w) (1 - exp(-w^2 / 2c^2))`` for distance c and width w
        (Datar et al., 2004).
        """
        from scipy.special import erf  # here: `import slide` would wait for it

        c = check.real_array("distance", distance).astype(np.float64)
        if not (c >= 0).all():
            raise ValueError(f"distance must be at least 0, got {c[~(c >= 0)][0]}")
        r = np.maximum(self.width / np.maximum(c, 1e-12), 1e-150)
        return erf(r / np.sqrt(2)) + np.sqrt(2 / np.pi) * np.expm1(-(r**2) / 2) / r

    def no_inclusion(self) -> str | None:
        if self.n_probes > 1:
            return f"with n_probes={self.n_probes} it depends on the query's distance from borders"
        return None

    def inclusion(self, retriever: Any, n_neurons: int, dim: int, n_threads: int) -> Any:
        terms = TERMS[self.transform]
        cells = 1 << _bits(self.n_functions)
        return inclusion_of(
            self,
            lambda distance: _same_cell(distance / self.width, cells),
            self.width,
            terms,
            retriever,
            n_neurons,
            n_threads,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            "n_functions": self.n_functions,
            "n_tables": self.n_tables,
            "width": self.width,
            "transform": self.transform,
            "n_probes": self.n_probes,
        }


def _bits(n_functions: int) -> int:
    """Return the bits that a code has for one quantized function."""
    return min(8, 63 // n_functions)


def _same_cell(sigma: np.ndarray, n_cells: int) -> np.ndarray:
    """Return the probability that two projections are in the same cell modulo `n_cells`.

    Their difference is normal with standard deviation `sigma` cells. They are k cells apart with
    probability ``E max(0, 1 - |T - k|)``, a second difference of ``E max(0, a - T)``; k = 0 is the
    formula of Datar et al. (2004).
    """
    from scipy.special import ndtr  # here: `import slide` would wait for it

    # Beyond, all cells are as likely but for exp(-2 pi^2).
    near = np.clip(sigma, 1e-12, n_cells)

    def below(a: int) -> np.ndarray:
        z = a / near
        return a * ndtr(z) + near * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)

    p = np.zeros_like(near)
    for k in range(-9 * n_cells, 10 * n_cells, n_cells):
        p += below(k + 1) - 2 * below(k) + below(k - 1)
    return np.where(sigma > n_cells, 1 / n_cells, np.clip(p, 0, 1))
