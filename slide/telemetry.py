"""Is the retrieval good? What training measures, and `Diagnosis`, a closer look.

`Sequential.fit` logs for every layer with a sampler, in the history and to callbacks, with the
layer's name and an underscore before if there are several:

================ ===============================================================================
``time_query``   seconds to find neurons: hashing the input, reading buckets, random draws
``time_dot``     seconds to compute the neurons of a sample's own
``time_shared``  seconds to compute those that all samples of a batch share, and their part of the
                 input's gradient
``time_update``  seconds of the optimizer's steps
``time_rebuild`` seconds of looking after the tables
``candidates``   neurons of a sample that were retrieved, or filled in for want of them
``table_age``    steps since tables were refreshed, their mean at the end of the epoch
``rebuilds``     of the epoch; in a rolling schedule of single tables
================ ===============================================================================

The last three are of layers with tables. Several sampled layers have an ``active_fraction`` each.
An output layer with ``LSH()`` also has ``time_choice``, in any case without its name: the seconds
of looking for a hash family, see `slide.sampling.LSH`, on the clock. The other times are as on the
clock if all threads had the same work, so their sum is at most what training took. Those to find
and compute neurons, and with ``update="hogwild"`` to update them, come from one sample in 16.

`slide.callbacks.Telemetry` adds the share of the largest activations that is found, and how buckets
are filled; `Sequential.diagnose` measures that on given data, and says what to change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from slide import hashing, sampling
from slide._kernels import diagnosis as _kernels

if TYPE_CHECKING:
    from slide.layers import Dense

__all__ = ["Diagnosis", "LayerDiagnosis"]

PHASES = ("query", "dot", "shared", "update", "rebuild")

LOGS = (*(f"time_{phase}" for phase in PHASES), "candidates", "table_age", "rebuilds")
"""Names of what `fit` logs, less the layers'."""

MEASURES = (
    "recall",
    "table_recall",
    "bucket_load",
    "largest_bucket",
    "empty_buckets",
    "overfull_buckets",
)
"""Names of what `slide.callbacks.Telemetry` adds."""

BLOCK_FLOATS = 1 << 22
"""Activations of so many pairs of input and neuron are in memory at a time."""

PANEL = 1024
"""Neurons whose codes are looked at for drift."""


# What training measures ---------------------------------------------------------------


def phase_seconds(clocks: np.ndarray) -> list[dict[str, float]]:
    """Return seconds by phase, one dict a layer.

    clocks : (n_layers, 11), what calls of the kernels' `train` measured, summed
    """
    query, dot, shared, step, _, samples, timed, stepped, update, rebuild, whole = clocks.T
    query, dot = (part * samples / np.maximum(1.0, timed) for part in (query, dot))
    step = step * samples / np.maximum(1.0, stepped)
    # What is estimated from some of the samples cannot be more than there was.
    guessed = (query + dot + step).sum()
    sure = (shared + update + rebuild).sum()
    share = min(1.0, max(0.0, whole.max(initial=0.0) - sure) / guessed) if guessed else 1.0
    table = (share * query, share * dot, shared, update + share * step, rebuild)
    return [
        dict(zip(PHASES, (float(part) for part in row), strict=True))
        for row in np.column_stack(table)
    ]


def retrieving(layer: Dense) -> Any:
    """Return the layer's `ActiveSet` if it has tables that exist, else None."""
    active = getattr(layer._active, "active", layer._active)
    return None if getattr(active, "retriever", None) is None else active


def sampled_layers(layers: list[Dense]) -> list[tuple[int, str, Dense]]:
    """Return number, prefix of names and layer for those with a sampler."""
    found = [(i, layer) for i, layer in enumerate(layers) if layer.sampler is not None]
    return [(i, f"{layer.name}_" if len(found) > 1 else "", layer) for i, layer in found]


def training_logs(
    layers: list[Dense], clocks: np.ndarray, products: np.ndarray, rebuilds: list[float]
) -> dict[str, float]:
    """Return the logs of `LOGS` and, if several layers have samplers, their active fractions.

    clocks, products : what calls of the kernels' `train` measured and counted, summed
    rebuilds : of each layer before the epoch
    """
    found: dict[str, float] = {}
    seconds = phase_seconds(clocks)
    for i, prefix, layer in sampled_layers(layers):
        found.update({f"{prefix}time_{phase}": value for phase, value in seconds[i].items()})
        if prefix:
            active_fraction = products[i, 4] / max(1.0, products[i, 5]) / layer.units
            found[f"{prefix}active_fraction"] = float(active_fraction)
        active = retrieving(layer)
        if active is not None:
            found[f"{prefix}candidates"] = float(clocks[i, 4] / max(1.0, clocks[i, 5]))
            found[f"{prefix}table_age"] = active.maintenance()["table_age"]
            found[f"{prefix}rebuilds"] = float(active.n_rebuilds - rebuilds[i])
    return found


def count_rebuilds(layers: list[Dense]) -> list[float]:
    """Return how often the tables of every layer have been rebuilt so far."""
    actives = [retrieving(layer) for layer in layers]
    return [0.0 if active is None else float(active.n_rebuilds) for active in actives]


# What tables return -------------------------------------------------------------------


def largest(
    weights: np.ndarray, x: np.ndarray, k: int, without: np.ndarray | None = None
) -> np.ndarray:
    """Return which neurons have each input's k largest activations, those as large as the k-th
    included: (n, n_neurons / 8) uint8, rounded up, a bit a neuron, the lowest first.

    weights : (n_neurons, ld), the bias after the last weight
    x : (n, ld) inputs, a 1 after the last value
    without : neurons that do not count at all
    """
    n_rows, n_neurons = max(1, BLOCK_FLOATS // len(weights)), len(weights)
    bits = np.empty((len(x), (n_neurons + 7) // 8), np.uint8)
    for first in range(0, len(x), n_rows):
        z = x[first : first + n_rows] @ weights.T
        if without is not None:
            z[:, without] = -np.inf
        least = np.partition(z, n_neurons - k, axis=1)[:, n_neurons - k]
        bits[first : first + n_rows] = np.packbits(
            z >= least[:, np.newaxis], axis=1, bitorder="little"
        )
    return bits


def recall_of(bits: np.ndarray, k: int, indptr: np.ndarray, ids: np.ndarray) -> float:
    """Return the share of the k largest activations, as `largest` gives them, that is among the
    neurons ``ids[indptr[i]:indptr[i + 1]]`` of input i."""
    rows = np.repeat(np.arange(len(bits)), np.diff(indptr))
    found = bits[rows, ids >> 3] >> (ids & 7) & 1
    return float(np.minimum(k, np.bincount(rows[found == 1], minlength=len(bits))).mean() / k)


def loads(active: Any) -> dict[str, float]:
    """Return how an active set's buckets are filled; see `LayerDiagnosis`."""
    tables = active.retriever.tables
    buckets = tables.n_tables * (2.0**tables.code_bits if tables.code_bits else tables.n_slots)
    sizes = _kernels.bucket_sizes(tables)
    overfull = sizes[sizes > active.max_active]
    return {
        "buckets": float(buckets),
        "bucket_load": float(sizes.mean()) if len(sizes) else 0.0,
        "largest_bucket": float(sizes.max(initial=0)),
        "empty_buckets": 1.0 - len(sizes) / buckets,
        "overfull_buckets": len(overfull) / buckets,
        "overfull_neurons": float(overfull.sum() / max(1, sizes.sum())),
    }


def drift(layer: Dense, active: Any, n_threads: int) -> float:
    """Return the share of the places of neurons that a rebuild would change."""
    n, ids = layer.units, active.rebuilds.due()
    if not active.retriever.places_jointly:
        panel = np.unique(np.linspace(0, n - 1, min(n, PANEL)).astype(np.int32))
        n, ids = len(panel), np.intersect1d(panel, ids, assume_unique=True)
    are, belong = _kernels.places(active, layer._parameters(False), ids, n_threads)
    return float((are != belong).sum() / (n * are.shape[1]))


def measures(layer: Dense, x: np.ndarray, k: int, n_threads: int) -> dict[str, float]:
    """Return what `MEASURES` names, for the inputs x of a layer with tables."""
    active = retrieving(layer)
    k = min(k, layer.units)
    indptr, ids = _kernels.retrieved(active, layer._parameters(False), x, n_threads)
    found = {"recall": recall_of(largest(layer._weights, x, k), k, indptr, ids), **loads(active)}
    if active.n_frequent and active.n_frequent + k <= layer.units:
        best = largest(layer._weights, x, k, ids[: active.n_frequent])
        found["table_recall"] = recall_of(best, k, indptr, ids)
    return {name: found[name] for name in MEASURES if name in found}


# Diagnosis ----------------------------------------------------------------------------


@dataclass
class LayerDiagnosis:
    """What `Sequential.diagnose` found about one layer; None where there is no such thing.

    Attributes
    ----------
    name, sampler : str
    units, k, samples : int
    recall : float
        Share of the k largest activations, biases included, that the tables return or that are
        frequent labels. Of a tie either counts. Without tables: the share of the neurons that are
        computed, which is what random ones find.
    table_recall : float or None
        The same of the tables alone: without frequent labels, on either side. None if there are no
        tables or no frequent labels.
    label_recall : float or None
        The share that is found of the true labels, if they were given and the layer is the output.
    active_fraction : float
        Share of the neurons that training computes, without labels; of a hidden layer's that stay.
    candidates, budget : float or None
        Neurons that the tables return a sample, and how many they may.
    nothing_found : float or None
        Share of the inputs for which they return none.
    bucket_load, largest_bucket : float or None
        Mean neurons of a bucket (of clusters: a cell) that is not empty, and of the largest.
    buckets, empty_buckets, overfull_buckets, overfull_neurons : float or None
        Their number; shares of them that hold no neuron, or more than `budget`, which no query can
        read to the end; the share of the neurons in the latter.
    drift : float or None
        Share of the places of neurons in tables that a rebuild would change, because their weights
        belong elsewhere by now. Of clusters: by the centroids as they are. A neuron that balanced
        cells keep out of its nearest one is where it belongs. None for sketches, which a rebuild
        renews wherever neurons are.
    renewed_recall : float or None
        Of sketches in one cell: the recall that tables alone would have if they were made now.
    table_age, rebuilds, rebuild_seconds : float or None
        Steps since tables were refreshed, rebuilds so far and the seconds of one.
    rebuild_due : bool or None
        Whether the next step begins with a rebuild, or a look whether one is needed.
    times : dict of str to float
        Seconds of the last epoch by phase; see `slide.telemetry`. Empty before training.
    train_seconds : float or None
        Of the last epoch, all layers.
    table_bytes, weight_bytes : int
        Memory of the tables with the hash functions, and of the weights.
    advice : list of str
        What to change, most important first.
    """

    name: str
    sampler: str
    units: int
    k: int
    samples: int
    recall: float
    table_recall: float | None
    label_recall: float | None
    active_fraction: float
    weight_bytes: int
    table_bytes: int
    times: dict[str, float]
    train_seconds: float | None
    advice: list[str]
    candidates: float | None = None
    budget: float | None = None
    nothing_found: float | None = None
    buckets: float | None = None
    bucket_load: float | None = None
    largest_bucket: float | None = None
    empty_buckets: float | None = None
    overfull_buckets: float | None = None
    overfull_neurons: float | None = None
    drift: float | None = None
    renewed_recall: float | None = None
    table_age: float | None = None
    rebuilds: float | None = None
    rebuild_seconds: float | None = None
    rebuild_due: bool | None = None

    def __getitem__(self, name: str) -> Any:
        if name not in {field.name for field in fields(self)}:
            raise KeyError(name)
        return getattr(self, name)

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as a dict of values that JSON can hold."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(_page(self))


class Diagnosis(Mapping[str, LayerDiagnosis]):
    """What `Sequential.diagnose` returns: a `LayerDiagnosis` for each layer with a sampler.

    A mapping from the layers' names; printed, a page with advice.

    Parameters
    ----------
    layers : list of LayerDiagnosis
    """

    def __init__(self, layers: list[LayerDiagnosis]):
        self.layers = list(layers)

    def __getitem__(self, name: str) -> LayerDiagnosis:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (layer.name for layer in self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return all as a dict of values that JSON can hold, by the layers' names."""
        return {layer.name: layer.to_dict() for layer in self.layers}

    def __str__(self) -> str:
        return "\n\n".join(str(layer) for layer in self.layers)

    def __repr__(self) -> str:
        return f"<Diagnosis of {', '.join(self)}; print it for a page>"


def diagnose_layer(
    layer: Dense,
    x: np.ndarray | None,
    labels: Any,
    n_samples: int,
    k: int,
    n_threads: int,
    clocks: np.ndarray | None,
    number: int,
    step: int,
) -> LayerDiagnosis:
    """Return the diagnosis of one layer.

    x : its inputs, a 1 after the last value; None without tables
    labels : CSR indicator, or None
    clocks : what the last epoch measured, or None
    """
    active = retrieving(layer)
    times = {} if clocks is None else phase_seconds(clocks)[number]
    found = LayerDiagnosis(
        name=str(layer.name),
        sampler=repr(layer.sampler),
        units=layer.units,
        k=k,
        samples=n_samples,
        recall=1.0,
        table_recall=None,
        label_recall=None,
        active_fraction=_random_fraction(layer),
        weight_bytes=int(layer._weights.nbytes),
        table_bytes=0,
        times=times,
        train_seconds=None if clocks is None else float(clocks[number, 10]),
        advice=[],
    )
    if active is None or x is None:
        if not layer.hidden or isinstance(layer.sampler, sampling.Uniform):
            found.recall = found.active_fraction
        return found
    indptr, ids = _kernels.retrieved(active, layer._parameters(False), x, n_threads)
    counts = np.diff(indptr)
    own = counts - active.n_frequent
    bits = largest(layer._weights, x, k)
    found.recall = recall_of(bits, k, indptr, ids)
    if active.n_frequent and active.n_frequent + k <= layer.units:
        frequent = ids[: active.n_frequent]  # of every row the first
        bits = largest(layer._weights, x, k, frequent)
        found.table_recall = recall_of(bits, k, indptr, ids)
    if labels is not None and labels.nnz:
        rows = np.repeat(np.arange(len(counts)), counts)
        keys = np.repeat(np.arange(len(counts)), np.diff(labels.indptr)) * layer.units
        hit = np.isin(keys + labels.indices, rows * layer.units + ids)
        found.label_recall = float(hit.mean())
    assert layer.sampler is not None
    part: Any = sampling.lsh_of(layer.sampler, layer.units)
    if layer.hidden:
        fraction = 0.05 if part.max_active is None else part.max_active
        kept = sampling._hidden_count(part, "max_active", fraction, layer.units)
        computed = np.minimum(kept, np.maximum(own, active.min_active))
    else:
        computed = np.maximum(own, active.min_active) + active.n_shared + active.n_own_tail
    found.active_fraction = float(np.minimum(computed, layer.units).mean() / layer.units)
    found.candidates, found.budget = float(own.mean()), float(active.max_active)
    found.nothing_found = float((own == 0).mean())
    for name, value in loads(active).items():
        setattr(found, name, value)
    if part.hash.drifts:
        found.drift = drift(layer, active, n_threads)
    elif part.hash.layout(layer.units) == (1, 1):
        # Of more cells it would take long.
        from slide import tuning  # which imports this module

        renewed = sampling.LSH(part.hash, max_active=int(active.max_active)).active_set(
            layer.units, layer.n_in + 1, 0, n_threads
        )
        tuning.build_tables(renewed, layer._parameters(False), x, seed=0, n_threads=n_threads)
        indptr, ids = _kernels.retrieved(renewed, layer._parameters(False), x, n_threads)
        found.renewed_recall = recall_of(bits, k, indptr, ids)
    work = active.maintenance()
    found.table_age, found.rebuilds = work["table_age"], work["n_rebuilds"]
    found.rebuild_seconds = work.get("rebuild_seconds")
    next_rebuild, _, built = active.get_state()["schedule"]
    found.rebuild_due = bool(not built or next_rebuild <= step)
    arrays = active.retriever.arrays.values()
    found.table_bytes = int(active.nbytes + sum(array.nbytes for array in arrays))
    found.advice = _advice(layer, found)
    return found


def _random_fraction(layer: Dense) -> float:
    """Return the share of the neurons that a sampler without tables computes or keeps."""
    sampler: Any = layer.sampler
    parts: list[Any] = sampling.parts(sampler, layer.units)
    if hasattr(sampler, "fraction"):
        return float(sampler.fraction)
    n = sum(part.count(layer.units) for part in parts if hasattr(part, "count"))
    return min(1.0, n / layer.units)


def _advice(layer: Dense, d: LayerDiagnosis) -> list[str]:
    assert d.candidates is not None
    assert d.budget is not None
    assert layer.sampler is not None
    part: Any = sampling.lsh_of(layer.sampler, layer.units)
    ranks = isinstance(part.hash, hashing.Sketches)
    partition = hasattr(part.hash, "n_cells")
    budget = "candidates" if layer.hidden else "max_active"
    coarser = "more n_probes or fewer n_cells" if partition else "more tables or fewer bits"
    finer = "more bits (or functions) a table"
    if partition:
        finer = "more n_cells"
    if ranks:
        several = part.hash.layout(layer.units) != (1, 1)
        finer = f"more {'candidates or ' if several else ''}n_components of its sketches"
    advice = []
    found = d.recall if d.table_recall is None else d.table_recall
    good = found >= 0.9  # then it matters little what tables look like
    if not good and d.renewed_recall is not None and d.renewed_recall > found + 0.05:
        would = f"recall@{d.k} would be {d.renewed_recall:.2f} if sketches were made now"
        if d.rebuild_due:
            advice.append(f"{would}, and they are before the next step")
        else:
            advice.append(f"{would}, and not {d.table_age:.0f} steps ago: a smaller rebuild_every")
    chance = d.candidates / layer.units
    if found < 0.5:
        if d.candidates < 0.5 * d.budget:
            advice.append(
                f"recall@{d.k} {found:.2f}, and tables return {d.candidates:.0f} of "
                f"{d.budget:.0f} neurons that they may: {coarser}"
            )
        else:
            advice.append(
                f"recall@{d.k} {found:.2f} with {d.candidates:.0f} neurons a sample: "
                f"a larger {budget}, or {finer}"
            )
        if found < 2 * chance and not partition:
            advice.append(
                f"random neurons would find {chance:.2f}: another hash family, as "
                f"slide.hashing.Clusters"
            )
        active = retrieving(layer)
        if not layer.hidden and not active.n_tail and not active.n_own_tail:
            advice.append(
                "neurons that are never retrieved are never pushed down, and hide others: "
                "Mixture([LSH(...), Uniform(n, shared=False)]), or sampler='auto'"
            )
    if d.nothing_found and d.nothing_found > 0.05:
        advice.append(f"{d.nothing_found:.0%} of the inputs find no neuron: {coarser}")
    if d.drift and d.drift > 0.2 and not good:
        if d.rebuild_due:
            advice.append(
                f"{d.drift:.0%} of the places are out of date, but a rebuild comes before the next "
                f"step"
            )
        else:
            advice.append(
                f"{d.drift:.0%} of the places are out of date after {d.table_age:.0f} steps: a "
                f"smaller rebuild_every"
            )
    if d.overfull_neurons and d.overfull_neurons > 0.2 and not ranks and not good:
        advice.append(
            f"{d.overfull_neurons:.0%} of the neurons are in buckets with more than {budget}, of "
            f"which any part is read: {finer}"
        )
    whole = d.train_seconds or 0.0
    if whole and d.times.get("rebuild", 0.0) > 0.2 * whole:
        share = d.times["rebuild"] / whole
        advice.append(
            f"rebuilds take {share:.0%} of the training: a larger rebuild_every, or "
            f"schedule='drift'"
        )
    if whole and d.times.get("query", 0.0) > 0.3 * whole:
        share = d.times["query"] / whole
        fewer = "fewer n_probes" if partition else "fewer tables"
        if ranks:
            fewer = "fewer n_components, or cells instead of sketches: sampling.Auto(fast=True)"
        advice.append(f"finding neurons takes {share:.0%} of the training: {fewer}")
    return advice


def _count(n: float) -> str:
    return f"{n:,.0f}" if n < 1e9 else f"{n:.3g}"


def _page(d: LayerDiagnosis) -> list[str]:
    def share(value: float) -> str:
        return f"{value:.1%}"

    lines = [
        f"{d.name}: {d.units:,} neurons, {d.samples} inputs",
        f"  sampler          {d.sampler}",
        f"  recall@{d.k:<9} {d.recall:.2f} of the largest activations"
        + ("" if d.label_recall is None else f", {d.label_recall:.2f} of the true labels"),
    ]
    if d.table_recall is not None:
        lines.append(f"  tables alone     {d.table_recall:.2f}, without frequent labels")
    lines += [
        f"  active           {share(d.active_fraction)} of the neurons",
    ]
    if d.candidates is not None and d.budget is not None:
        lines += [
            f"  retrieved        {d.candidates:,.0f} neurons a sample, at most {d.budget:,.0f}; "
            f"none for {share(d.nothing_found or 0)}",
        ]
    if d.candidates is not None and d.buckets is not None and d.buckets > 1:
        lines += [
            f"  buckets          {_count(d.buckets or 0)}: {share(d.empty_buckets or 0)} empty, "
            f"{share(d.overfull_buckets or 0)} overfull with {share(d.overfull_neurons or 0)} of "
            f"the neurons",
            f"  load             {d.bucket_load:,.1f} neurons a bucket that is not empty, at most "
            f"{d.largest_bucket:,.0f}",
        ]
    if d.candidates is not None:
        old = "" if d.drift is None else f", {share(d.drift)} of the places out of date"
        if d.renewed_recall is not None:
            old = f", recall@{d.k} {d.renewed_recall:.2f} if made now"
        lines += [
            f"  tables           {d.table_age:,.0f} steps old{old}"
            + (", a rebuild is due" if d.rebuild_due else ""),
            f"  rebuilds         {d.rebuilds:,.0f}"
            + ("" if d.rebuild_seconds is None else f", {1e3 * d.rebuild_seconds:,.1f} ms each"),
        ]
    if d.train_seconds:
        parts = [f"{name} {share(value / d.train_seconds)}" for name, value in d.times.items()]
        lines.append(f"  time             {', '.join(parts)} of {d.train_seconds:.2f} s an epoch")
    lines.append(
        f"  memory           {d.table_bytes / 1e6:,.1f} MB of tables, "
        f"{d.weight_bytes / 1e6:,.1f} MB of weights"
    )
    if d.candidates is not None:
        lines += [f"  -> {line}" for line in d.advice or ["nothing to change"]]
    return lines
