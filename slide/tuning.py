"""Which hash family suits a layer: measured on its weights and inputs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from slide import _validation as check
from slide import hashing, sampling
from slide._kernels import diagnosis as _kernels
from slide._kernels.optim import Parameters
from slide._memory import aligned_zeros, check_memory, padded
from slide._threads import n_threads as _n_threads
from slide._threads import one_blas_thread
from slide.hashing.sketches import ONE_CELL
from slide.telemetry import largest, recall_of

__all__ = ["Choice", "Measurement", "candidates", "choose"]

RECALL, FALL, MORE = 0.9, 0.1, 0.01
"""Of the families of an `LSH` that chooses: share of the ten largest activations that is enough, by
how much it may fall where none has it, and by how much another must find more."""

EPOCHS, SECONDS = 0.5, 1.0
"""What its comparison of families may take: so many times the training of the epoch before it, or
so long where that is more, which is enough for small layers."""


@dataclass
class Measurement:
    """One family on one layer.

    Attributes
    ----------
    family : HashFamily
    recall : float
        Share of the k largest activations that are among the neurons retrieved. Of `Sketches` that
        draw: retrieved by predictions.
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
        Of a layer that chooses in `Sequential.fit`, also earlier ones, of families that there was
        no time to measure again; they come last.
    left_out : list of (HashFamily, str)
        Families that were not measured, and why.
    """

    sampler: sampling.Sampler
    reason: str
    measured: list[Measurement]
    left_out: list[tuple[hashing.HashFamily, str]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{'recall':>7} {'neurons':>8} {'query':>9} {'build':>9} {'a sample':>9}  family"]
        lines += [
            f"{m.recall:7.3f} {m.retrieved:8.0f} {1e6 * m.query_seconds:6.1f} us "
            f"{1e3 * m.build_seconds:6.1f} ms {1e6 * m.seconds:6.1f} us  {m.family!r}"
            for m in self.measured
        ]
        lines += [f"left out: {family!r}: {why}" for family, why in self.left_out]
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
            "left_out": [
                {"family": hashing.serialize(family), "why": why} for family, why in self.left_out
            ],
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
            left_out = [(hashing.get(row["family"]), str(row["why"])) for row in values["left_out"]]
            found = cls(sampling.get(values["sampler"]), str(values["reason"]), rows, left_out)
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"not a choice: {values!r}: {error!r}") from error
        if not rows:
            raise ValueError(f"not a choice, nothing was measured: {values!r}")
        return found


def candidates(n_neurons: int, n_retrieved: int) -> list[hashing.HashFamily]:
    """Return the families that `choose` compares for a layer of that size.

    Those come first that find most in trained layers, in less time or in another way than those
    before: where time is short, the last ones are left out.

    SimHash gets so many bits that buckets hold about an eighth of what is to be retrieved, with 50
    tables or with 8 that are asked for 16 buckets each; or two bits less and 8 tables, asked for 4.

    Examples
    --------
    >>> [type(family).__name__ for family in candidates(10_000, 200)][:5]
    ['Sketches', 'Clusters', 'Sketches', 'Clusters', 'Sketches']
    """
    finer = max(1, n_neurons // 30)
    n_bits = min(20, max(2, round(math.log2(max(4.0, 8.0 * n_neurons / max(1, n_retrieved))))))
    return [
        hashing.Sketches(16),
        hashing.Clusters(),
        hashing.Sketches(32),
        hashing.Clusters(n_cells=finer, n_probes=16),
        hashing.Sketches(64),
        hashing.SimHash(n_bits, 8, n_probes=min(16, 2**n_bits)),
        hashing.SimHash(max(2, n_bits - 2), 8, n_probes=4),
        hashing.SimHash(n_bits, 50),
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
    budget: float | None = None,
    _split: bool = True,  # False: max_active neurons are retrieved, whatever would be recommended
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
        Neurons of an active set, or (a float) this fraction of the layer, in (0, 1]. A family is
        measured with as many as it retrieves in the sampler that is recommended with it: half of
        them, the others being drawn at random; but all of them if that is one or the whole layer,
        and with `Sketches` that draw. Their recall is that of what predictions retrieve.
    k : int
        Of how many largest activations the share is measured. Where fewer are retrieved, not all
        can be found.
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
    budget : float, optional
        Seconds. After the first family, another is measured only if there is time for one that
        takes as long as the slowest so far; it and all after it are left out otherwise. None: all
        are measured.

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
    started = time.perf_counter()
    check.check_fraction("recall", recall)
    if budget is not None:
        check.check_finite_float("budget", budget, at_least=0.0)
    given = None if families is None else [hashing.get(family) for family in families]
    if given == []:
        raise ValueError("families is empty")
    bench = _Bench(
        weights, X, bias, max_active, k, n_queries, batch_size, n_jobs, random_state, _split
    )
    measured, left_out = bench.compare(
        given or bench.candidates(),
        math.inf if budget is None else budget,
        started,
        given is None,
    )
    return bench.choice(measured, left_out, recall)


def review(
    sampler: sampling.LSH,
    weights: np.ndarray,
    X: np.ndarray,
    bias: Any,
    epoch_seconds: float,
    **options: Any,
) -> Choice | None:
    """Return the choice that an `LSH` that chooses should have for a layer, None if its own.

    epoch_seconds : of the training before
    options : `batch_size` and `n_jobs` of `choose`
    """
    started = time.perf_counter()
    budget = max(SECONDS, EPOCHS * epoch_seconds)
    most = sampler.limits(len(weights))[0]
    bench = _Bench(weights, X, bias, most, min(10, (most + 1) // 2), len(X), **options)
    old = sampler.choice
    if old is None:
        return bench.choice(*bench.compare(bench.candidates(), budget, started), RECALL)
    was, now = old.measured[0], bench.measure(old.measured[0].family)
    fell = now.recall < (RECALL if was.recall >= RECALL else was.recall - FALL)
    if now.recall >= RECALL or not (fell or old.left_out):
        return None
    known = {repr(m.family): m for m in old.measured}
    others = [f for f in bench.candidates() if repr(f) != repr(now.family)]
    if not fell:
        # To compare those that did not find enough again soon would find that again.
        others = [family for family in others if repr(family) not in known]
    # What nobody knows may find enough.
    others.sort(key=lambda f: -known[repr(f)].recall if repr(f) in known else -RECALL)
    measured, left_out = bench.compare(others, budget, started)
    if not fell and not measured:
        return None
    found = bench.choice([now, *measured], left_out, RECALL)
    reason = f"recall@{bench.k} of {now.family!r} went from {was.recall:.2f} to {now.recall:.2f}"
    again = {repr(m.family) for m in found.measured}
    earlier = [m for m in old.measured if repr(m.family) not in again]
    never = [(family, why) for family, why in left_out if repr(family) not in known]
    if found.measured[0].recall > now.recall + MORE:
        reason = f"{reason}; now {found.reason}"
        return Choice(found.sampler, reason, [*found.measured, *earlier], never)
    reason = f"{reason}; no family finds a point more.{_left(left_out)}"
    rest = [m for m in found.measured if m is not now]
    # What another fall is measured from is the recall at the last look at all families.
    return Choice(old.sampler, reason, [now if fell else was, *rest, *earlier], never)


def sampler_with(family: hashing.HashFamily, n_neurons: int, most: int) -> sampling.Sampler:
    """Return the sampler that is recommended with a family, for so many neurons of a layer."""
    few = n_neurons <= min(ONE_CELL, sampling.DRAWN * most)
    if family.draws and family.no_inclusion() is None and few:
        return sampling.LSH(family, max_active=most, correction="logq")
    if most < 2 or most == n_neurons:
        return sampling.LSH(family, max_active=most)
    head = (most + 1) // 2
    tail = sampling.Uniform(most - head, shared=False)
    return sampling.Mixture([sampling.LSH(family, max_active=head), tail])


def head_of(family: hashing.HashFamily, n_neurons: int, most: int) -> int:
    """Return how many neurons `sampler_with` a family retrieves, or draws by activation."""
    part = sampling.lsh_of(sampler_with(family, n_neurons, most), n_neurons)
    assert part is not None
    return part.limits(n_neurons)[0]


class _Bench:
    """A layer's weights and inputs, on which families are measured.

    Parameters are those of `choose`, which says what is raised.
    """

    def __init__(
        self,
        weights: Any,
        X: Any,
        bias: Any,
        max_active: int | float,
        k: int,
        n_queries: int,
        batch_size: int,
        n_jobs: int | None,
        random_state: int = 0,
        split: bool = True,
    ):
        weights = _checked_matrix("weights", weights)
        X = _checked_matrix("X", X)
        self.n_neurons, self.n_inputs = n_neurons, n_inputs = weights.shape
        if X.shape[1] != n_inputs:
            raise ValueError(f"X has {X.shape[1]} columns, the weights {n_inputs}")
        self.k = check.check_positive_int("k", k, high=n_neurons)
        n_queries = min(check.check_positive_int("n_queries", n_queries), len(X))
        self.split = split
        self.batch_size = check.check_positive_int("batch_size", batch_size)
        if isinstance(max_active, float):
            self.most = max(1, round(check.check_fraction("max_active", max_active) * n_neurons))
        else:
            self.most = check.check_positive_int("max_active", max_active, high=n_neurons)
        self.seed = check.check_positive_int("random_state", random_state, low=0, high=2**63 - 1)
        self.n_threads = _n_threads(n_jobs)
        check_memory(
            "weights and queries",
            4 * padded(n_inputs + 1) * (n_neurons + n_queries) + n_neurons * n_queries // 8,
        )
        rows = aligned_zeros((n_neurons, padded(n_inputs + 1)))
        rows[:, :n_inputs] = weights
        if bias is not None:
            bias = np.asarray(bias, np.float32)
            if bias.shape != (n_neurons,) or not np.isfinite(bias).all():
                raise ValueError(f"bias must be {n_neurons} finite numbers, got shape {bias.shape}")
            rows[:, n_inputs] = bias
        picked = np.random.default_rng(self.seed).permutation(len(X))[:n_queries]
        self.queries = padded_inputs(X[picked])
        self.best = largest(rows, self.queries, self.k)
        none = np.zeros((n_neurons, 0), np.float32)
        self.parameters = Parameters(rows, none, none, n_inputs + 1, n_inputs)

    def candidates(self) -> list[hashing.HashFamily]:
        """Return those of the layer, for what families retrieve that do not draw."""
        return candidates(self.n_neurons, head_of(hashing.Clusters(), self.n_neurons, self.most))

    def measure(self, family: hashing.HashFamily) -> Measurement:
        """Return what a family finds, and its times."""
        most = head_of(family, self.n_neurons, self.most) if self.split else self.most
        lsh = sampling.LSH(family, max_active=most)
        active = lsh.active_set(self.n_neurons, self.n_inputs + 1, self.seed, self.n_threads)
        build = build_tables(
            active, self.parameters, self.queries, seed=self.seed, n_threads=self.n_threads
        )
        query = math.inf
        for _ in range(3):
            began = time.perf_counter()
            indptr, ids = _kernels.retrieved(active, self.parameters, self.queries, 1, self.seed)
            query = min(query, (time.perf_counter() - began) / len(self.queries))
        every = lsh.rebuild_every or sampling.default_every(self.n_neurons)
        return Measurement(
            family=family,
            recall=recall_of(self.best, self.k, indptr, ids),
            retrieved=float(np.diff(indptr).mean()),
            query_seconds=query,
            build_seconds=build,
            rebuild_every=every,
            seconds=query + build / (every * self.batch_size),
        )

    def compare(
        self,
        families: list[hashing.HashFamily],
        budget: float,
        started: float,
        may_skip: bool = True,
    ) -> tuple[list[Measurement], list[tuple[hashing.HashFamily, str]]]:
        """Measure families, one at least that has room; return those that are left out as well.

        budget : seconds from `started`, a reading of the clock
        may_skip : whether those that do not fit into memory are left out
        """
        measured: list[Measurement] = []
        left_out: list[tuple[hashing.HashFamily, str]] = []
        slowest = 0.0
        for i, family in enumerate(families):
            began = time.perf_counter()
            spent = began - started
            if measured and spent + slowest > budget:
                why = f"no time, {spent:.2f} of {budget:.2f} s were spent, {slowest:.2f} on one"
                left_out += [(other, why) for other in families[i:]]
                break
            try:
                measured.append(self.measure(family))
            except MemoryError as error:
                if not may_skip:
                    raise
                left_out.append((family, str(error)))
            slowest = max(slowest, time.perf_counter() - began)
        return measured, left_out

    def choice(
        self,
        measured: list[Measurement],
        left_out: list[tuple[hashing.HashFamily, str]],
        recall: float,
    ) -> Choice:
        """Return what is recommended; MemoryError if no family had room."""
        if not measured:
            raise MemoryError(left_out[-1][1])
        enough = [m for m in measured if m.recall >= recall]
        if enough:
            best = min(enough, key=lambda m: m.seconds)
            reason = (
                f"{best.family!r}: recall@{self.k} {best.recall:.2f} of {self.n_neurons:,} neurons "
                f"with {best.retrieved:.0f} retrieved, and the least time of the {len(enough)} "
                f"families with {recall} or more."
            )
        else:
            best = max(measured, key=lambda m: m.recall)
            reason = (
                f"{best.family!r}: the highest recall@{self.k}, {best.recall:.2f}, with "
                f"{best.retrieved:.0f} of {self.n_neurons:,} neurons; none has {recall}. Retrieve "
                f"more."
            )
        rest = sorted((m for m in measured if m is not best), key=lambda m: (-m.recall, m.seconds))
        sampler = sampler_with(best.family, self.n_neurons, self.most)
        return Choice(sampler, reason + _left(left_out), [best, *rest], left_out)


def _left(left_out: list[tuple[hashing.HashFamily, str]]) -> str:
    return f" {len(left_out)} families were left out." if left_out else ""


def build_tables(active: Any, parameters: Parameters, queries: np.ndarray, **options: Any) -> float:
    """Build an active set's tables for padded inputs; return the seconds of building them once.

    options : of `ActiveSet.select_batch`
    """
    with one_blas_thread():
        # Inputs can be shown to tables that exist, and families that follow them build others.
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
