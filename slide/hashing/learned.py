"""The family whose functions learn from pairs of inputs and neurons."""

from __future__ import annotations

from typing import Any

from slide import _validation as check
from slide._kernels import learned as _learned
from slide._memory import check_memory, padded
from slide.hashing._family import HashFamily, table_bytes


class Learned(HashFamily):
    """Signs of projections that are trained to tell what a query should find from what it need not.

    Bits are the signs of ``a . (w - c)`` of a neuron's weights and of ``a . (x - m)`` of an input,
    with the means c and m of both. They begin as those of `slide.hashing.SimHash`. At every rebuild
    some rounds of gradient ascent take place on inputs of the last batches: the bits of an input
    and of the neurons with its largest activations should agree, the bits of an input and of others
    that share most bits with it should not. All neurons are then hashed anew.

    Parameters
    ----------
    n_bits : int
        K, the bits of a table, 1 to 62.
    n_tables : int
        L, 1 to 10,000.
    n_rounds : int
        Of learning, at every rebuild.
    rate : float
        Length of a round's step, on functions of length ``sqrt(dim)``.

    Raises
    ------
    TypeError, ValueError
        If an argument is of a wrong type or out of range.
    MemoryError
        If the tables of a layer would not fit into the memory that is available.

    Notes
    -----
    MONGOOSE (Chen et al., ICLR 2021) and LSS (learned hashing of large output layers for inference)
    train projections on pairs that should have been retrieved and on pairs that should not have
    been, with the hyperbolic tangent for the sign; so does this, but centred on both sides. A round
    looks at 32 inputs, and for each at the activations of at most 16,384 neurons: the 10 largest
    are to be found, and of 200 others, the 100 largest not among them, the 20 whose bits agree most
    are not.

    With ``strategy="top_k"`` of `slide.sampling.LSH` neurons are ranked by agreement over all
    tables.

    Examples
    --------
    >>> Learned(n_bits=6, n_tables=20)
    Learned(n_bits=6, n_tables=20, n_rounds=4, rate=1.0)
    """

    def __init__(self, n_bits: int = 6, n_tables: int = 20, n_rounds: int = 4, rate: float = 1.0):
        self.n_bits = check.check_positive_int("n_bits", n_bits, high=62)
        self.n_tables = check.check_positive_int("n_tables", n_tables, high=10_000)
        self.n_rounds = check.check_positive_int("n_rounds", n_rounds, high=10_000)
        self.rate = check.check_finite_float("rate", rate, at_least=0.0, at_most=1e3)

    def retriever(self, n_neurons: int, dim: int, seed: int, n_threads: int) -> Any:
        n = self.n_bits * self.n_tables
        n_bytes = 4 * padded(dim) * (2 * n + 2048) + 4 * 210 * n + 16 * min(n_neurons, 16384)
        check_memory(
            f"{self!r} on {n_neurons:,} neurons",
            n_bytes + table_bytes(n_neurons, self.n_tables, n_threads),
        )
        kernel = _learned.Learned(
            n_neurons, dim, self.n_bits, self.n_tables, self.n_rounds, self.rate, seed
        )
        return _learned.LearnedRetriever(kernel, n_neurons, n_threads)

    def get_config(self) -> dict[str, Any]:
        return {
            "n_bits": self.n_bits,
            "n_tables": self.n_tables,
            "n_rounds": self.n_rounds,
            "rate": self.rate,
        }
