"""The family that ranks neurons by sketches of their weights."""

from __future__ import annotations

import math
from typing import Any

from slide import _validation as check
from slide._kernels import sketches as _sketches
from slide._memory import check_memory, padded
from slide.hashing._family import HashFamily


class Sketches(HashFamily):
    """Short codes of the weights that tell neurons' activations apart: the largest are retrieved.
    """

    n_tables = 1

    def __init__(
        self,
        n_components: int = 32,
        n_cells: int | str = "auto",
        n_probes: int = 8,
        candidates: int | float | None = None,
    ):
        self.n_components = check.check_positive_int("n_components", n_components, high=1024)
        self.n_cells: Any = n_cells
        self.n_probes = check.check_positive_int("n_probes", n_probes, high=1 << 20)
        self.candidates = candidates

    def retriever(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> Any:
        cells = self.n_cells
        if cells == "auto":
            cells = 1 if n_neurons <= 32768 else round(4 * math.sqrt(n_neurons))
        cells = min(cells, n_neurons)
        groups = 1 if cells <= 1024 else round(math.sqrt(cells))
        candidates = self.candidates or max(16384, round(0.03 * n_neurons))
        if isinstance(candidates, float):
            candidates = max(1, round(candidates * n_neurons))
        return _sketches.SketchRetriever(
            n_neurons, dim, self.n_components, groups, -(-cells // groups), self.n_probes,
            candidates, n_threads,
        )

    def no_inclusion(self) -> str | None:
        return (
            "for given weights it retrieves the same neurons again and again, each with "
            "probability 0 or 1; with Mixture([LSH(...), Uniform(...)]) the random tail corrects "
            "for what is left out"
        )

    def get_config(self) -> dict[str, Any]:
        return {
            "n_components": self.n_components,
            "n_cells": self.n_cells,
            "n_probes": self.n_probes,
            "candidates": self.candidates,
        }
