"""The family that ranks neurons by sketches of their weights."""

from __future__ import annotations

import math
from typing import Any

from slide import _validation as check
from slide._kernels import sketches as _sketches
from slide._memory import check_memory, padded
from slide.hashing._family import HashFamily

ONE_CELL = 32_768
"""Layers of up to so many neurons are ranked as a whole."""


class Sketches(HashFamily):
    """Neurons ranked by estimates of their activations from short codes of their weights.

    The weights of a trained layer are close to a subspace of few dimensions. Every neuron keeps the
    components of its weights along the layer's first principal components, rotated so that all
    vary alike, in 7 bits each, and its exact product with the mean input of about the last 50
    batches (in a hidden layer above one that samples, of 16 samples of each). A query scores
    neurons by integer products with these sketches, 8 or 16 neurons an instruction, and takes the
    best. A layer of more than 32,768 neurons is first divided into the cells of `Clusters`, and
    only the best cells are scored.

    Every rebuild makes one iteration towards the principal components and renews all sketches, so
    they follow the weights; what training changes in between is not seen.

    With ``LSH(Sketches(), correction="logq")`` neurons are drawn in proportion to the exponentials
    of their scores, and weighted by the inverse of their inclusion probabilities: the
    sum in softmax's denominator is then estimated without bias and with little variance. The layer
    has one cell then, and at most 2,048 neurons for each one of `max_active`: draws compare with
    65,536 different numbers, and rarer neurons would never be drawn.

    Parameters
    ----------
    n_components : int
        Of a sketch: a power of two, 16 to 1,024. The cost of a query grows with it. More than the
        inputs have are no use.
    n_cells : int or "auto"
        Cells that the neurons are divided into. ``"auto"``: 1 up to 32,768 neurons, beyond that
        4 times the square root of their number.
    n_probes : int
        Groups of cells that a query looks into, where there are more than 1,024 cells.
    candidates : int, float or None
        So many neurons, or (a float) this fraction of the layer, in (0, 1], are scored at least, by
        whole cells. None: 3% of the layer, at least 16,384.

    Raises
    ------
    ValueError
        If a number is out of range.
    MemoryError
        If the sketches of a layer would not fit into the memory that is available.

    Notes
    -----
    With the inputs' mean m, ``w.x = w.m + w.(x - m)``. The first term is exact. The second is
    estimated in the subspace of the components, learned by subspace iteration (Golub & Van Loan,
    Matrix Computations, section 8.2) on a sample of 4,096 neurons. A Hadamard rotation spreads
    the variance over them before rounding. Neurons are drawn nearly independently, with
    probability ``min(1, exp(score - tau))``; a part of the scores tells with which tau there are a
    little fewer than ``max_active``. Where there are more, those with the largest
    ``exp(score) / u``, *u* uniform, are kept: priority sampling (Duffield, Lund & Thorup, J. ACM
    2007). Scores are at least the logarithm of half of the layer's mean weight.

    Examples
    --------
    >>> Sketches(16)
    Sketches(n_components=16, n_cells='auto', n_probes=64, candidates=None)
    """

    n_tables = 1
    draws = True
    drifts = False

    def __init__(
        self,
        n_components: int = 32,
        n_cells: int | str = "auto",
        n_probes: int = 64,
        candidates: int | float | None = None,
    ):
        self.n_components = check.check_positive_int("n_components", n_components, high=1024)
        if self.n_components < 16 or self.n_components & (self.n_components - 1):
            raise ValueError(
                f"n_components must be a power of two from 16 to 1024, got "
                f"n_components={n_components}"
            )
        self.n_cells: Any = n_cells
        if n_cells != "auto":
            self.n_cells = check.check_positive_int("n_cells", n_cells, high=1 << 24)
        self.n_probes = check.check_positive_int("n_probes", n_probes, high=1 << 20)
        self.candidates = candidates
        if isinstance(candidates, float):
            check.check_fraction("candidates", candidates)
        elif candidates is not None:
            self.candidates = check.check_positive_int("candidates", candidates, high=2**31 - 1)

    def layout(self, n_neurons: int) -> tuple[int, int]:
        """Return (groups, cells of a group) for a layer of that size."""
        cells = self.n_cells
        if cells == "auto":
            cells = 1 if n_neurons <= ONE_CELL else round(4 * math.sqrt(n_neurons))
        cells = min(cells, n_neurons)
        groups = 1 if cells <= 1024 else round(math.sqrt(cells))
        return groups, -(-cells // groups)

    def retriever(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> Any:
        groups, cells = self.layout(n_neurons)
        candidates = self.candidates
        if candidates is None:
            candidates = max(16_384, round(0.03 * n_neurons))
        elif isinstance(candidates, float):
            candidates = max(1, round(candidates * n_neurons))
        check_memory(
            f"{self!r} for {n_neurons:,} neurons of {dim - 1:,} inputs",
            n_neurons * (self.n_components + 20 + 80 * n_threads)
            + 4 * padded(dim) * (2 * self.n_components + 2 * groups * cells)
            + 4 * self.n_components * min(n_neurons, 4096),
        )
        return _sketches.SketchRetriever(
            n_neurons,
            dim,
            self.n_components,
            groups,
            cells,
            self.n_probes,
            min(candidates, n_neurons),
            n_threads,
        )

    def no_inclusion(self) -> str | None:
        if self.n_cells not in ("auto", 1):
            return (
                f"with n_cells={self.n_cells} only neurons of some cells can be drawn; set "
                f"n_cells=1, or let the random tail of Mixture([LSH(...), Uniform(...)]) correct "
                f"for what is left out"
            )
        return None

    def inclusion(self, retriever: Any, n_neurons: int, dim: int, n_threads: int) -> Any:
        if self.layout(n_neurons) != (1, 1):
            raise ValueError(
                f"{self!r} divides a layer of {n_neurons:,} neurons into cells, and only neurons "
                f"of some cells can be drawn: set n_cells=1, or correction=None with a random tail "
                f"as in Mixture([LSH(...), Uniform(...)])"
            )
        return None

    def get_config(self) -> dict[str, Any]:
        return {
            "n_components": self.n_components,
            "n_cells": self.n_cells,
            "n_probes": self.n_probes,
            "candidates": self.candidates,
        }
