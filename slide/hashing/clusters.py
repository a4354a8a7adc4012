"""The family whose tables depend on the weights."""

from __future__ import annotations

import math
from typing import Any

from slide import _validation as check
from slide._kernels import clusters as _clusters
from slide._memory import check_memory, padded
from slide.hashing._family import HashFamily


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
    capacity_factor : float, optional
        Balanced cells: the capacity of each is the average number of neurons times this, rounded
        up, as that of experts in a mixture (Fedus, Zoph & Shazeer, JMLR 2022); at least 1. None:
        no bound.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or out of range.
    MemoryError
        If the cells of a layer would not fit into the memory that is available.

    Notes
    -----
    With ``capacity_factor`` all neurons that are assigned go to their nearest cells first. Of those
    that are too many for a cell the most similar to its centroid stay; the others, most similar
    first, go to the nearest cells with room. Groups are bounded before their cells, by what these
    hold together. This greedy pass costs less than two more assignments; balanced k-means proper
    solves an assignment problem in cubic time (Malinen & Franti, S+SSPR 2014) or lets full cells
    compete less (Banerjee & Ghosh, IEEE Transactions on Neural Networks 2004).

    Examples
    --------
    >>> Clusters(n_cells=128)
    Clusters(n_cells=128, n_tables=1, n_groups='auto', n_probes=8, capacity_factor=None)
    """

    def __init__(
        self,
        n_cells: int | str = "auto",
        n_tables: int = 1,
        n_groups: int | str = "auto",
        n_probes: int = 8,
        capacity_factor: float | None = None,
    ):
        self.n_cells: Any = n_cells
        if n_cells != "auto":
            self.n_cells = check.check_positive_int("n_cells", n_cells, high=1 << 24)
        self.n_groups: Any = n_groups
        if n_groups != "auto":
            self.n_groups = check.check_positive_int("n_groups", n_groups, high=1 << 20)
        self.n_tables = check.check_positive_int("n_tables", n_tables, high=10_000)
        self.n_probes = check.check_positive_int("n_probes", n_probes, high=1 << 20)
        self.capacity_factor = capacity_factor
        if capacity_factor is not None:
            self.capacity_factor = check.check_finite_float(
                "capacity_factor", capacity_factor, at_least=1.0
            )

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

    def capacity(self, n_neurons: int) -> int:
        """Return the most neurons of a cell in a layer of that size; 0: any number."""
        if self.capacity_factor is None:
            return 0
        groups, cells = self.layout(n_neurons)
        n_cells = groups * cells
        # Less a little, so that 1.1 times 10 is 11 and not, as floats have it, somewhat more.
        return math.ceil(min(self.capacity_factor, n_cells) * n_neurons / n_cells - 1e-9)

    def retriever(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> Any:
        groups, cells = self.layout(n_neurons)
        # Of every cell and group two rows of floats, and where a cell begins in each table; of
        # every neuron its place in each, and on each thread that of a table more and a coefficient;
        # its code, norm, mark and, in bounded cells, its similarity.
        bounded = 0 if self.capacity_factor is None else 12
        n_bytes = self.n_tables * 8 * groups * (cells + 1) * padded(dim)
        n_bytes += n_neurons * (4 * self.n_tables + 8 * n_threads + 13 + bounded)
        n_bytes += 4 * groups * cells * (self.n_tables + n_threads)
        check_memory(f"{self!r} of {n_neurons:,} neurons", n_bytes)
        return _clusters.ClusterRetriever(
            n_neurons,
            dim,
            self.n_tables,
            groups,
            cells,
            self.n_probes,
            n_threads,
            self.capacity(n_neurons),
        )

    def no_inclusion(self) -> str | None:
        return (
            "for given weights it retrieves the same neurons again and again, each with "
            "probability 0 or 1; with Mixture([LSH(...), Uniform(...)]) the random tail corrects "
            "for what is left out"
        )

    def get_config(self) -> dict[str, Any]:
        return {
            "n_cells": self.n_cells,
            "n_tables": self.n_tables,
            "n_groups": self.n_groups,
            "n_probes": self.n_probes,
            "capacity_factor": self.capacity_factor,
        }
