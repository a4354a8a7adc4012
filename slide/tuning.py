"""Which hash family suits a layer: measured on its weights and inputs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from slide import _validation as check
from slide import hashing, sampling
from slide._kernels import diagnosis as _kernels
from slide._kernels.optim import Parameters
from slide._memory import aligned_zeros, check_memory, padded
from slide._threads import n_threads as _n_threads
from slide.hashing.sketches import ONE_CELL
from slide.telemetry import found_of_largest

__all__ = ["Choice", "Measurement", "candidates", "choose"]

RECALL, FALL, MORE = 0.9, 0.1, 0.01
"""Of the families of an `LSH` that chooses: share of the ten largest activations that is enough, by
how much it may fall where none has it, and by how much another must find more."""


@dataclass
class Measurement:
    """One family on one layer.

    Attributes
    ----------
    family : HashFamily
    recall : float
        Share of the k largest activations that are among the neurons retrieved.
    retrieved : float
        Neurons of a query, in the mean.
    query_seconds : float
        Of a query, on one thread.
    build_seconds : float
        Of building the tables; a rebuild costs about as much.
    rebuild_every : int
        Steps from rebuild to rebuild.
    seconds : float
        Of a training sample: its query, and its share of the rebuilds.
    """

    family: hashing.HashFamily
    recall: float
    retrieved: float
    query_seconds: float
    build_seconds: float
    rebuild_every: int
    seconds: float


@dataclass
class Choice:
    """What `choose` found, most recommended first; ``print`` shows it as a table.

    Attributes
    ----------
    sampler : Sampler
        For an output layer: the best family with the budget that was asked for.
    reason : str
        Why that one.
    measured : list of Measurement
    """

    sampler: sampling.Sampler
    reason: str
    measured: list[Measurement]

    def __str__(self) -> str:
        lines = [f"{'recall':>7} {'neurons':>8} {'query':>9} {'build':>9} {'a sample':>9}  family"]
        lines += [
            f"{m.recall:7.3f} {m.retrieved:8.0f} {1e6 * m.query_seconds:6.1f} us "
            f"{1e3 * m.build_seconds:6.1f} ms {1e6 * m.seconds:6.1f} us  {m.family!r}"
            for m in self.measured
        ]
        return "\n".join([*lines, self.reason])

    def to_dict(self) -> dict[str, Any]:
        """Return it as values that JSON can hold."""
        rows = []
        for m in self.measured:
            row = {name: value for name, value in asdict(m).items() if name != "family"}
            rows.append({"family": hashing.serialize(m.family), **row})
        return {
            "sampler": sampling.serialize(self.sampler),
            "reason": self.reason,
            "measured": rows,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Choice:
        """Return what `to_dict` was called of.

        Raises
        ------
        ValueError
            If it is not what `to_dict` gives.
        """
        try:
            rows = [
                Measurement(**{**row, "family": hashing.get(row["family"])})
                for row in values["measured"]
            ]
            for row in rows:
                check.check_finite_float("recall", row.recall, at_least=0.0, at_most=1.0)
                for name in ("retrieved", "query_seconds", "build_seconds", "seconds"):
                    check.check_finite_float(name, getattr(row, name), at_least=0.0)
                check.check_positive_int("rebuild_every", row.rebuild_every)
            found = cls(sampling.get(values["sampler"]), str(values["reason"]), rows)
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"not a choice: {values!r}: {error!r}") from error
        if not rows:
            raise ValueError(f"not a choice, nothing was measured: {values!r}")
        return found


def candidates(n_neurons: int, n_retrieved: int) -> list[hashing.HashFamily]:
    """Return the families that `choose` compares for a layer of that size.

    SimHash gets so many bits that buckets hold about an eighth of what is to be retrieved, with 50
    tables or with 8 that are asked for 16 buckets each; or two bits less and 8 tables, asked for 4.

    Examples
    --------
    >>> [type(family).__name__ for family in candidates(10_000, 200)][2:]
    ['Sketches', 'Clusters', 'Clusters', 'SimHash', 'SimHash', 'SimHash']
    """
    finer = max(1, n_neurons // 30)
    n_bits = min(20, max(2, round(math.log2(max(4.0, 8.0 * n_neurons / max(1, n_retrieved))))))
    return [
        hashing.Sketches(16),
        hashing.Sketches(32),
        hashing.Sketches(64),
        hashing.Clusters(),
        hashing.Clusters(n_cells=finer, n_probes=16),
        hashing.SimHash(n_bits, 50),
        hashing.SimHash(n_bits, 8, n_probes=min(16, 2**n_bits)),
        hashing.SimHash(max(2, n_bits - 2), 8, n_probes=4),
    ]


def choose(
    weights: Any,
    X: Any,
    bias: Any = None,
    *,
    max_active: int | float = 0.02,
    k: int = 10,
    recall: float = 0.9,
    families: Iterable[hashing.HashFamily | str] | None = None,
    n_queries: int = 512,
    batch_size: int = 256,
    n_jobs: int | None = None,
    random_state: int = 0,
) -> Choice:
    """Measure hash families on a layer's weights and inputs, and choose one.

    Tables are built from the weights as they are; queries are timed, and what they return is
    compared with all activations. Of the families whose recall is enough, the one that costs a
    training sample least is recommended; if none is, the one of the highest recall. Weights and
    inputs of an untrained layer tell little: measure after an epoch, and again when
    `Sequential.diagnose` shows less recall.

    Parameters
    ----------
    weights : array-like of shape (n_neurons, n_inputs)
        The transpose of what `Sequential.get_weights` returns for the layer.
    X : array-like of shape (n, n_inputs)
        The layer's inputs: for an output layer, the activations of the layer below.
    bias : array-like of shape (n_neurons,), optional
    max_active : int or float
        Neurons that a query may return, or (a float) this fraction of the layer, in (0, 1].
    k : int
        Of how many largest activations the share is measured.
    recall : float
        Wanted share, in (0, 1].
    families : iterable of HashFamily or str, optional
        To compare. None: `candidates`.
    n_queries : int
        Of the rows of X so many are used, chosen at random.
    batch_size : int
        Samples that a training step will have: rebuilds come by steps.
    n_jobs : int, optional
        Threads, as in `Sequential.fit`. The time of a query is that of one thread.
    random_state : int
        Seed of the families and of the choice of rows.

    Returns
    -------
    Choice

    Raises
    ------
    TypeError, ValueError
        If an array has a wrong shape or values that are not finite, or a number is out of range.
    MemoryError
        If a family's tables would not fit into the memory that is available. Of `candidates`, those
        that do not are left out, as long as one does.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> W, X = rng.standard_normal((2000, 16)), rng.standard_normal((100, 16))
    >>> choice = choose(W, X, families=["clusters", "sketches"], recall=0.95)
    >>> type(choice.measured[0].family).__name__
    'Sketches'
    """
    weights = _checked_matrix("weights", weights)
    X = _checked_matrix("X", X)
    n_neurons, n_inputs = weights.shape
    if X.shape[1] != n_inputs:
        raise ValueError(f"X has {X.shape[1]} columns, the weights {n_inputs}")
    k = check.check_positive_int("k", k, high=n_neurons)
    check.check_fraction("recall", recall)
    n_queries = check.check_positive_int("n_queries", n_queries)
    batch_size = check.check_positive_int("batch_size", batch_size)
    if isinstance(max_active, float):
        most = max(1, round(check.check_fraction("max_active", max_active) * n_neurons))
    else:
        most = check.check_positive_int("max_active", max_active, high=n_neurons)
    seed = check.check_positive_int("random_state", random_state, low=0, high=2**63 - 1)
    n_threads = _n_threads(n_jobs)
    chosen = candidates(n_neurons, most) if families is None else [hashing.get(f) for f in families]
    if not chosen:
        raise ValueError("families is empty")
    check_memory("weights and queries", 4 * padded(n_inputs + 1) * (n_neurons + n_queries))
    rows = aligned_zeros((n_neurons, padded(n_inputs + 1)))
    rows[:, :n_inputs] = weights
    if bias is not None:
        bias = np.asarray(bias, np.float32)
        if bias.shape != (n_neurons,) or not np.isfinite(bias).all():
            raise ValueError(f"bias must be {n_neurons} finite numbers, got shape {bias.shape}")
        rows[:, n_inputs] = bias
    picked = np.random.default_rng(seed).permutation(len(X))[:n_queries]
    queries = padded_inputs(X[picked])
    none = np.zeros((n_neurons, 0), np.float32)
    parameters = Parameters(rows, none, none, n_inputs + 1, n_inputs)
    measured: list[Measurement] = []
    sets: list[tuple[np.ndarray, np.ndarray]] = []
    for family in chosen:
        try:
            measurement, found = _measure(
                family, parameters, n_inputs, queries, most, batch_size, seed, n_threads
            )
        except MemoryError:
            if families is not None or (family is chosen[-1] and not measured):
                raise
            continue
        measured.append(measurement)
        sets.append(found)
    for measurement, hits in zip(measured, found_of_largest(rows, queries, k, sets), strict=True):
        measurement.recall = float(hits.mean() / k)
    enough = [m for m in measured if m.recall >= recall]
    best = min(enough, key=lambda m: m.seconds) if enough else max(measured, key=lambda m: m.recall)
    rest = sorted((m for m in measured if m is not best), key=lambda m: (-m.recall, m.seconds))
    if enough:
        reason = (
            f"{best.family!r}: recall@{k} {best.recall:.2f} of {n_neurons:,} neurons with {most} "
            f"retrieved, and the least time of the {len(enough)} families with {recall} or more."
        )
    else:
        reason = (
            f"{best.family!r}: the highest recall@{k}, {best.recall:.2f}; none has {recall} with "
            f"{most} of {n_neurons:,} neurons. Retrieve more."
        )
    return Choice(sampler_with(best.family, n_neurons, most), reason, [best, *rest])


def review(
    sampler: sampling.LSH, weights: np.ndarray, X: np.ndarray, bias: Any, **options: Any
) -> Choice | None:
    """Return the choice that an `LSH` that chooses should have for a layer, None if its own.

    options : of `choose`
    """
    most = sampler.limits(len(weights))[0]
    options = {**options, "k": min(10, most), "max_active": most, "recall": RECALL}
    if sampler.choice is None:
        return choose(weights, X, bias, **options)
    was = sampler.choice.measured[0]
    now = choose(weights, X, bias, families=[was.family], **options).measured[0]
    # Where no family found enough, comparing them again soon would find that again.
    if now.recall >= (RECALL if was.recall >= RECALL else was.recall - FALL):
        return None
    found = choose(weights, X, bias, **options)
    best = found.measured[0]
    fell = f"recall@{options['k']} of {now.family!r} went from {was.recall:.2f} to {now.recall:.2f}"
    if best.recall > now.recall + MORE:
        return Choice(found.sampler, f"{fell}; now {found.reason}", found.measured)
    others = [m for m in found.measured if repr(m.family) != repr(now.family)]
    reason = f"{fell}; no family finds a point more."
    return Choice(sampler.choice.sampler, reason, [now, *others])


def sampler_with(family: hashing.HashFamily, n_neurons: int, most: int) -> sampling.Sampler:
    """Return the sampler that is recommended with a family, for so many neurons of a layer."""
    if family.draws and family.no_inclusion() is None and n_neurons <= ONE_CELL:
        return sampling.LSH(family, max_active=most, correction="logq")
    if most < 2 or most == n_neurons:
        return sampling.LSH(family, max_active=most)
    head = (most + 1) // 2
    tail = sampling.Uniform(most - head, shared=False)
    return sampling.Mixture([sampling.LSH(family, max_active=head), tail])


def _measure(
    family: hashing.HashFamily,
    parameters: Parameters,
    n_inputs: int,
    queries: np.ndarray,
    most: int,
    batch_size: int,
    seed: int,
    n_threads: int,
) -> tuple[Measurement, tuple[np.ndarray, np.ndarray]]:
    """Return a family's measurement, yet without its recall, and the neurons that it found."""
    n_neurons = len(parameters.weights)
    lsh = sampling.LSH(family, max_active=most)
    active = lsh.active_set(n_neurons, n_inputs + 1, seed, n_threads)
    build = build_tables(active, parameters, queries, seed=seed, n_threads=n_threads)
    query = math.inf
    for _ in range(3):
        began = time.perf_counter()
        indptr, ids = _kernels.retrieved(active, parameters, queries, 1, seed)
        query = min(query, (time.perf_counter() - began) / len(queries))
    every = lsh.rebuild_every or max(50, n_neurons // 256)
    measurement = Measurement(
        family=family,
        recall=math.nan,
        retrieved=float(np.diff(indptr).mean()),
        query_seconds=query,
        build_seconds=build,
        rebuild_every=every,
        seconds=query + build / (every * batch_size),
    )
    return measurement, (indptr, ids)


def build_tables(active: Any, parameters: Parameters, queries: np.ndarray, **options: Any) -> float:
    """Build an active set's tables for padded inputs; return the seconds of building them once.

    options : of `ActiveSet.select_batch`
    """
    # Inputs can be shown to tables that exist, and families that follow the inputs build others.
    active.select_batch(parameters, queries[:1], [[]], **options)
    active.retriever.show(queries)
    active.weights_replaced()
    began = time.perf_counter()
    active.select_batch(parameters, queries[:1], [[]], **options)
    return time.perf_counter() - began


def padded_inputs(X: np.ndarray) -> np.ndarray:
    """Return a layer's inputs as its kernels read them, a 1 after the last value."""
    n_inputs = X.shape[1]
    queries = aligned_zeros((len(X), padded(n_inputs + 1)))
    queries[:, :n_inputs] = X
    queries[:, n_inputs] = 1
    return queries


def _checked_matrix(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be a matrix of numbers, got {array.dtype} {array.shape}")
    if 0 in array.shape:
        raise ValueError(f"{name} is empty: {array.shape}")
    array = array.astype(np.float32, copy=False)
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        i, j = bad[0]
        raise ValueError(f"{name} has {array[i, j]} in row {i}, column {j}; it must be finite")
    return array
