"""Telemetry: times, recall, loads of buckets, `diagnose`, and that none of it changes training."""

import json

import numpy as np
import pytest
import reference

import slide
from slide import _plots, hashing, sampling, telemetry
from slide._kernels import diagnosis
from slide._kernels.tables import Tables
from slide.callbacks import Telemetry
from slide.sampling import LSH, Frequent, Mixture, Uniform

N, D, H = 150, 12, 16

OUTPUTS = {
    "simhash": LSH(hashing.SimHash(4, 5), max_active=40, rebuild_every=3),
    "probing": LSH(hashing.SimHash(4, 3, n_probes=3), max_active=40, rebuild_every=3),
    "e2lsh": LSH(hashing.E2LSH(2, 4), max_active=40, rebuild_every=3),
    "wta": LSH(hashing.WTA(2, 4), max_active=40, rebuild_every=3),
    "dwta": LSH(hashing.DWTA(2, 4), max_active=40, rebuild_every=3),
    "minhash": LSH(hashing.MinHash(2, 4), max_active=40, rebuild_every=3),
    "crosspolytope": LSH(hashing.CrossPolytope(1, 4), max_active=40, rebuild_every=3),
    "clusters": LSH(hashing.Clusters(n_cells=10), max_active=40, rebuild_every=3),
    "balanced": LSH(hashing.Clusters(9, 2, 3, capacity_factor=1.0), max_active=40, rebuild_every=3),
    "sketches": LSH(hashing.Sketches(16, n_cells=4), max_active=40, rebuild_every=3),
    "rolling": LSH(hashing.SimHash(4, 5), 40, rebuild_every=4, schedule="rolling"),
    "drift": LSH(hashing.SimHash(4, 5), 40, rebuild_every=2, schedule="drift"),
    "mixture": Mixture([LSH(hashing.Clusters(n_cells=10), 30), Frequent(8), Uniform(10)]),
    "auto": "auto",
    "uniform": Uniform(20),
    "frequent": Frequent(20),
}

HIDDEN = {
    "lsh": LSH(hashing.SimHash(3, 4), 0.3),
    "principal": LSH(hashing.SimHash(3, 4, projection="principal"), 0.3),
    "clusters": LSH(hashing.Clusters(n_cells=4), 0.3),
    "uniform": Uniform(0.3),
    "standout": sampling.Standout(0.3, beta=-1.0),
    "winners": sampling.WinnerTakeAll(0.3),
}


def data(n=200, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, D)).astype(np.float32), rng.integers(0, N, n)


def make(output="auto", hidden=None, update="batch", steps="auto", seed=3):
    layers = [slide.Input(D, sparse=False), slide.Dense(H, activation="relu", name="first")]
    if hidden is not None:
        layers.append(slide.Dense(40, activation="relu", sampler=hidden, name="middle"))
    layers.append(slide.Dense(N, activation="softmax", sampler=output, name="last"))
    model = slide.Sequential(layers, seed=seed)
    model.compile(slide.optimizers.Adam(0.01), update=update, steps_per_execution=steps)
    return model


def same_weights(a, b):
    pairs = zip(a.get_weights(), b.get_weights(), strict=True)
    return all(np.array_equal(one, two) for one, two in pairs)


def last_inputs(model, x):
    """The output layer's inputs by NumPy, for layers that compute all neurons."""
    weights = model.get_weights()[:-2]
    for w, b in zip(weights[::2], weights[1::2], strict=True):
        x = np.maximum(x @ w + b, 0)
    return x


# ---------------------------------------------------------------------------------- times


@pytest.mark.parametrize("update", ["batch", "hogwild"])
@pytest.mark.parametrize("hidden", [None, LSH(hashing.SimHash(3, 4), 0.3)])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_phases_are_no_more_than_the_whole(update, hidden, n_jobs):
    x, y = data()
    parts = [LSH(max_active=20), sampling.Frequent(10), sampling.Uniform(10, shared=False)]
    model = make(sampling.Mixture(parts), hidden, update)
    logs = model.fit(x, y, batch_size=32, epochs=2, verbose=0, n_jobs=n_jobs).history
    seconds = len(x) / np.array(logs["samples_per_second"])
    times = {name: np.array(values) for name, values in logs.items() if "time_" in name}
    assert len(times) == 5 * (1 + (hidden is not None))
    assert all((values >= 0).all() for values in times.values())
    assert (sum(times.values()) <= seconds).all()
    prefix = "" if hidden is None else "last_"
    for phase in ("query", "dot", "update"):
        assert (times[f"{prefix}time_{phase}"] > 0).all()
    assert (times[f"{prefix}time_shared"] > 0).all() == (update == "batch")
    assert times[f"{prefix}time_rebuild"][0] > 0  # the first build
    assert logs[f"{prefix}rebuilds"] == [0, 0]
    if hidden is not None:
        assert logs["middle_rebuilds"] == [6, 7]  # after every step; the first built the tables
        assert logs["last_active_fraction"] == logs["active_fraction"]


def test_phases_from_clocks():
    # Query, dot, shared, hogwild's steps; candidates, samples, timed, stepped; updates, rebuilds,
    # all.
    row = [0.5, 0.25, 1.0, 0.0, 40.0, 32.0, 4.0, 0.0, 2.0, 3.0, 100.0]
    (found,) = telemetry.phase_seconds(np.array([row]))
    assert found == {"query": 4.0, "dot": 2.0, "shared": 1.0, "update": 2.0, "rebuild": 3.0}
    # Of 9 seconds 6 are sure: the rest is shared among the estimates.
    (found,) = telemetry.phase_seconds(np.array([[*row[:-1], 9.0]]))
    assert found == {"query": 2.0, "dot": 1.0, "shared": 1.0, "update": 2.0, "rebuild": 3.0}
    (found,) = telemetry.phase_seconds(np.array([[0, 0, 0, 1.0, 0, 30, 0, 10, 0, 0, 100.0]]))
    assert found["update"] == 3.0


def test_batches_of_any_size_are_timed():
    x, y = data(160)
    model = make()
    batches = [(x[i : i + 1], y[i : i + 1]) for i in range(160)]
    model.fit(batches, verbose=0, n_jobs=1)
    assert model._clocks[1, 5] == 160
    assert model._clocks[1, 6] == 10  # one in 16


def test_candidates_and_the_age_of_tables():
    x, y = data(96)
    # All buckets of one function together are all neurons: a budget of 30 is always reached.
    model = make(LSH(hashing.SimHash(1, 8), max_active=30, rebuild_every=4))
    logs = model.fit(x, y, batch_size=16, epochs=2, verbose=0, n_jobs=1).history
    assert logs["candidates"] == [29, 29]  # the label is one of the 30
    # Steps 0 to 5 with a rebuild before step 4, then 6 to 11 with one before step 8.
    assert logs["rebuilds"] == [1, 1]
    assert logs["table_age"] == [1, 3]


def test_no_sampler_no_telemetry():
    x, y = data()
    model = make(None)
    recorded = Telemetry()
    logs = model.fit(x, y, verbose=0, callbacks=[recorded]).history
    assert not any(name.endswith((*telemetry.LOGS, *telemetry.MEASURES)) for name in logs)
    assert len(recorded.records) == 1


# ------------------------------------------------------------------------------- diagnose


@pytest.mark.parametrize("name", OUTPUTS)
def test_recall_is_that_of_brute_force(name):
    x, y = data()
    model = make(OUTPUTS[name])
    model.fit(x, y, batch_size=32, epochs=2, verbose=0, n_jobs=1)
    k = 7
    found = model.diagnose(x, y, k=k, n=len(x), n_jobs=1)["last"]
    assert found.samples == len(x)
    if name in ("uniform", "frequent"):
        assert found.recall == found.active_fraction == 20 / N
        assert found.candidates is None
        return
    active = model.layers[-1]._active
    a = last_inputs(model, x)
    padded = np.zeros((len(x), model.layers[-1]._weights.shape[1]), np.float32)
    padded[:, :H], padded[:, H] = a, 1
    indptr, ids = diagnosis.retrieved(active, model.layers[-1]._parameters(False), padded)
    w, b = model.get_weights()[-2:]
    largest = np.argsort(-(a @ w + b), axis=1)[:, :k]
    rows = [set(ids[indptr[i] : indptr[i + 1]]) for i in range(len(x))]
    hits = [len(rows[i] & set(largest[i])) for i in range(len(x))]
    assert found.recall == pytest.approx(np.sum(hits) / k / len(x), abs=2e-3)
    if active.n_frequent:
        z = a @ w + b
        frequent = ids[: active.n_frequent]
        assert all(set(frequent) <= row for row in rows)
        z[:, frequent] = -np.inf
        largest = np.argsort(-z, axis=1)[:, :k]
        hits = [len(rows[i] & set(largest[i])) for i in range(len(x))]
        assert found.table_recall == pytest.approx(np.sum(hits) / k / len(x), abs=2e-3)
        assert found.table_recall < found.recall
    else:
        assert found.table_recall is None
    assert found.label_recall == np.mean([y[i] in rows[i] for i in range(len(x))])
    assert 0 < found.recall <= 1
    sizes = np.array([len(row) for row in rows]) - active.n_frequent
    assert found.candidates == pytest.approx(sizes.mean())
    assert found.nothing_found == (sizes == 0).mean()


@pytest.mark.parametrize("name", OUTPUTS)
def test_loads_are_those_of_the_tables(name):
    if name in ("uniform", "frequent"):
        return
    x, y = data()
    model = make(OUTPUTS[name])
    model.fit(x, y, batch_size=32, verbose=0, n_jobs=1)
    found = model.diagnose(x, n_jobs=1)["last"]
    active = model.layers[-1]._active
    # A neuron's bucket in a table is known by its slot and tag.
    state, tables = active.get_state(), active.retriever.tables
    sizes = []
    for t, starts in enumerate(state["tables.starts"]):
        slots = np.repeat(np.arange(tables.n_slots), np.diff(starts))
        tags = state["tables.tags"][t][: len(slots)] if "tables.tags" in state else 0
        sizes.append(np.unique(256 * slots + tags, return_counts=True)[1])
    sizes = np.concatenate(sizes)
    assert np.array_equal(np.sort(diagnosis.bucket_sizes(tables)), np.sort(sizes))
    buckets = tables.n_tables * (2**tables.code_bits if tables.code_bits else tables.n_slots)
    assert found.buckets == buckets
    assert found.bucket_load == pytest.approx(sizes.mean())
    assert found.largest_bucket == sizes.max()
    assert found.empty_buckets == pytest.approx(1 - len(sizes) / buckets)
    full = sizes > active.max_active
    assert found.overfull_buckets == pytest.approx(full.sum() / buckets)
    assert found.overfull_neurons == pytest.approx(sizes[full].sum() / sizes.sum())
    assert found.table_bytes > active.nbytes
    assert found.weight_bytes == model.layers[-1]._weights.nbytes


def test_loads_of_a_table_made_by_hand():
    tables = Tables(10, 1, 2, 0, 1)
    tables.move(0, np.array([0, 0, 0, 0, 0, 0, 0, 3, 3, 1], np.uint64))

    class Active:
        class retriever:
            pass

        max_active = 5

    Active.retriever.tables = tables
    found = telemetry.loads(Active)
    assert found == {
        "buckets": 4,
        "bucket_load": pytest.approx(10 / 3),
        "largest_bucket": 7,
        "empty_buckets": 0.25,
        "overfull_buckets": 0.25,
        "overfull_neurons": 0.7,
    }
    Active.max_active = 7
    assert telemetry.loads(Active)["overfull_buckets"] == 0


@pytest.mark.parametrize("without", [None, np.array([3, 20])])
@pytest.mark.parametrize("n", [21, 24])
def test_the_largest_and_the_share_of_them_that_is_found(n, without, monkeypatch):
    monkeypatch.setattr(telemetry, "BLOCK_FLOATS", 3 * n)  # several blocks
    rng = np.random.default_rng(0)
    w = rng.integers(-2, 3, (n, 4)).astype(np.float32)  # many activations are equal
    x, k = rng.integers(-2, 3, (10, 4)).astype(np.float32), 5
    z = x @ w.T
    if without is not None:
        z[:, without] = -np.inf
    wanted = z >= np.sort(z, axis=1)[:, [-k]]
    assert (wanted.sum(axis=1) > k).any()
    bits = telemetry.largest(w, x, k, without)
    np.testing.assert_array_equal(
        np.unpackbits(bits, axis=1, bitorder="little")[:, :n].astype(bool), wanted
    )
    sets = [rng.permutation(n)[:size].astype(np.int32) for size in (0, n, *range(8))]
    hits = [min(k, wanted[i, ids].sum()) for i, ids in enumerate(sets)]
    indptr = np.cumsum([0, *map(len, sets)])
    found = telemetry.recall_of(bits, k, indptr, np.concatenate(sets))
    assert found == pytest.approx(np.mean(hits) / k)
    assert 0 < found < 1


def test_drift_is_the_share_of_codes_that_changed():
    x, y = data()
    model = make(LSH(hashing.SimHash(4, 5), max_active=40, rebuild_every=10_000))
    model.fit(x, y, batch_size=200, verbose=0, n_jobs=1)
    layer = model.layers[-1]
    before = layer._weights.copy()
    assert 0 < model.diagnose(x)["last"].drift < 1
    # Tables are those of the weights before the first step.
    other = make(LSH(hashing.SimHash(4, 5), max_active=40))
    other.build(False)
    w = np.ascontiguousarray(other.layers[-1]._weights)
    layer._weights[...] = w
    assert model.diagnose(x)["last"].drift == 0
    layer._weights[:15] = -w[:15]  # every bit of 15 of 150 neurons, but for those at 0
    assert model.diagnose(x)["last"].drift == pytest.approx(0.1)
    layer._weights[...] = before


def test_drift_is_what_a_rebuild_moves():
    x, y = data()
    model = make(LSH(hashing.SimHash(4, 5), max_active=40, rebuild_every=10_000))
    model.fit(x, y, batch_size=100, verbose=0, n_jobs=1)
    active = model.layers[-1]._active

    def places():
        state = active.get_state()
        slots = np.stack(
            [np.repeat(np.arange(len(s) - 1), np.diff(s)) for s in state["tables.starts"]]
        )
        if "tables.tags" in state:
            slots = 256 * slots + state["tables.tags"]
        return np.take_along_axis(slots, np.argsort(state["tables.ids"], axis=1), axis=1)

    before = places()
    drift = model.diagnose(x)["last"].drift
    model.set_weights(model.get_weights())
    model.predict(x[:1], top_k=1, exact=False, n_jobs=1)  # tables of the present weights
    moved = before != places()
    assert 0 < moved.mean() < moved.any(axis=0).mean()
    assert drift == pytest.approx(moved.mean())
    assert model.diagnose(x)["last"].drift == 0


def cells_of(active):
    """(tables, neurons): the cell that each neuron is in."""
    state = active.get_state()
    cells = [np.repeat(np.arange(len(s) - 1), np.diff(s)) for s in state["tables.starts"]]
    return np.take_along_axis(np.stack(cells), np.argsort(state["tables.ids"], axis=1), axis=1)


@pytest.mark.parametrize("n_groups", [1, 3])
def test_drift_of_balanced_cells_is_what_a_rebuild_moves(n_groups):
    x, y = data()
    family = hashing.Clusters(12, 2, n_groups, capacity_factor=1.0)
    model = make(LSH(family, max_active=30, rebuild_every=10_000))
    model.compile("sgd")
    layer = model.layers[-1]
    model.build(sparse=False)
    layer._weights[::2, 0] += 1     # half of the neurons are alike, too many for their cells
    model.predict(x[:1], top_k=1, exact=False, n_jobs=1)
    arrays, w = layer._active.retriever.arrays, layer._weights
    before = cells_of(layer._active)

    def belong(capacity, changed):
        return np.stack(
            [
                reference.balanced_cells(
                    w, arrays["group_centroids"][t], arrays["centroids"][t], capacity, kept
                )
                for t, kept in enumerate(np.where(changed, -1, before))
            ]
        )

    # Many are kept out of their nearest cells on purpose, and belong where they are.
    assert (belong(N, np.ones(N, bool)) != before).mean() > 0.05
    for moved in (False, True):
        if moved:
            layer._active.weights_moved()
        assert model.diagnose(x, n=5)["last"].drift == 0
    model.set_weights(model.get_weights())
    model.predict(x[:1], top_k=1, exact=False, n_jobs=1)
    before = cells_of(layer._active)
    model.train_on_batch(x[:2], y[:2])
    changed = layer._active.get_state()["dirty"] == 1
    assert 10 < changed.sum() < 100
    w[changed] += np.random.default_rng(0).normal(0, 0.1, (changed.sum(), w.shape[1]))
    moved = belong(family.capacity(N), changed) != before
    assert 0.01 < moved.mean() < changed.mean()
    assert model.diagnose(x)["last"].drift == pytest.approx(moved.mean(), abs=1e-9)


def test_what_a_rebuild_does_not_look_at_is_no_drift():
    """Cells whose centroids moved are nearer to other neurons, which stay until they change."""
    x, y = data()
    model = make(LSH(hashing.Clusters(12), max_active=30, rebuild_every=1))
    model.compile("sgd")
    for i in range(4):
        model.train_on_batch(x[i : i + 1], y[i : i + 1])
    active = model.layers[-1]._active
    changed = active.get_state()["dirty"] == 1
    w, centroids = model.layers[-1]._weights, active.retriever.arrays["centroids"][0]
    w[changed] += np.random.default_rng(0).normal(0, 0.3, (changed.sum(), w.shape[1]))
    elsewhere = np.argmax(w @ centroids.T, axis=1) != cells_of(active)[0]
    assert (elsewhere & changed).any()
    assert (elsewhere & ~changed).any()
    drift = model.diagnose(x)["last"].drift
    assert drift == pytest.approx((elsewhere & changed).mean())


@pytest.mark.parametrize("name", OUTPUTS)
def test_diagnose_changes_nothing(name):
    x, y = data()
    models = make(OUTPUTS[name]), make(OUTPUTS[name])
    for looked, model in enumerate(models):
        for i in range(4):
            if i % 2:
                model.fit(x, y, batch_size=32, epochs=1, verbose=0, n_jobs=2)
            else:
                model.partial_fit(x[:64], y[:64], batch_size=32, n_jobs=2)
            if looked:
                layer = model.layers[-1]
                before = layer._weights.copy(), layer._active.get_state(), model.step
                model.diagnose(x, y, n=50)
                assert np.array_equal(before[0], layer._weights)
                assert before[2] == model.step
                for key, array in layer._active.get_state().items():
                    assert np.array_equal(array, before[1][key]), key
    assert same_weights(*models)


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_layers(name):
    x, y = data()
    models = make("auto", HIDDEN[name]), make("auto", HIDDEN[name])
    for looked, model in enumerate(models):
        for _ in range(2):
            model.fit(x, y, batch_size=32, epochs=1, verbose=0, n_jobs=1)
            if looked:
                found = model.diagnose(x, y, k=3, n_jobs=1)
    assert same_weights(*models)
    assert list(found) == ["middle", "last"]
    assert found["middle"].label_recall is None
    assert found["last"].label_recall is not None
    assert "middle: 40 neurons" in str(found)
    model = models[1]
    if name in ("lsh", "clusters"):
        # Its input is that of a layer with all neurons.
        a = np.maximum(x @ model.get_weights()[0] + model.get_weights()[1], 0)
        w, b = model.get_weights()[2:4]
        rows = np.sort(np.random.default_rng([3, model.step]).permutation(len(x))[:256])
        z = (a @ w + b)[rows]
        padded = np.zeros((len(rows), model.layers[1]._weights.shape[1]), np.float32)
        padded[:, :H], padded[:, H] = a[rows], 1
        active = model.layers[1]._active.active
        indptr, ids = diagnosis.retrieved(active, model.layers[1]._parameters(False), padded)
        largest = np.argsort(-z, axis=1)[:, :3]
        hits = [
            len(set(ids[indptr[i] : indptr[i + 1]]) & set(largest[i])) for i in range(len(rows))
        ]
        assert found["middle"].recall == pytest.approx(np.mean(hits) / 3)
        assert found["middle"].active_fraction <= 12 / 40
    elif name == "uniform":
        assert found["middle"].recall == found["middle"].active_fraction == 0.3
    elif name in ("standout", "winners"):
        assert (found["middle"].recall, found["middle"].active_fraction) == (1, 0.3)


def test_the_page_and_its_advice():
    x, y = data()
    # 12 bits for 150 neurons: hardly a bucket holds two.
    model = make(LSH(hashing.SimHash(12, 1), max_active=100, rebuild_every=1000))
    model.fit(x, y, batch_size=32, verbose=0, n_jobs=1)
    found = model.diagnose(x, y, k=10)
    page = str(found)
    assert f"recall@10 {found['last'].recall:.2f}, and tables return" in page
    assert "more tables or fewer bits" in page
    assert "of the inputs find no neuron" in page
    assert found["last"]["recall"] == found["last"].recall
    assert json.loads(json.dumps(found.to_dict()))["last"]["k"] == 10
    assert repr(found).startswith("<Diagnosis of last;")
    with pytest.raises(KeyError):
        found["first"]
    with pytest.raises(KeyError):
        found["last"]["nothing"]
    # One bucket holds all: nothing is empty, and most neurons are in buckets larger than 20.
    model = make(LSH(hashing.SimHash(1, 1), max_active=20, rebuild_every=1000))
    model.fit(x, y, batch_size=32, verbose=0, n_jobs=1)
    assert "in buckets with more than max_active" in str(model.diagnose(x))
    # Everything is retrieved.
    model = make(LSH(hashing.SimHash(1, 40), max_active=N, rebuild_every=1))
    model.fit(x, y, batch_size=200, verbose=0, n_jobs=1)
    assert model.diagnose(x)["last"].recall > 0.99


@pytest.mark.parametrize("n_cells", [1, 4])
def test_old_sketches_are_renewed_first(n_cells):
    """They have no places that could be out of date."""
    x, y = data()
    family = hashing.Sketches(16, n_cells=n_cells)
    model = make(LSH(family, max_active=30, rebuild_every=1000))
    model.fit(x, y, batch_size=16, verbose=0, n_jobs=1)
    layer = model.layers[-1]
    layer._weights[:, :H] *= -1  # wherever its sketches say that it is large, it is small
    found = model.diagnose(x)["last"]
    assert found.drift is None
    assert found.recall < 0.5
    first, second = found.advice[:2]
    if n_cells == 1:
        assert found.renewed_recall > 0.9
        assert first.startswith(f"recall@10 would be {found.renewed_recall:.2f} if sketches were")
        assert "12 steps ago: a smaller rebuild_every" in first
        assert f"12 steps old, recall@10 {found.renewed_recall:.2f} if made now" in str(found)
    else:
        second = first
        assert found.renewed_recall is None
    assert ("candidates" in second) == (n_cells > 1)
    assert "n_components" in second
    assert "out of date" not in str(found)
    model.set_weights(model.get_weights())
    model.predict(x[:1], top_k=1, exact=False, n_jobs=1)
    found = model.diagnose(x)["last"]
    assert found.renewed_recall == (found.recall if n_cells == 1 else None)
    assert not any("made now" in line for line in found.advice)


def test_what_diagnose_refuses():
    x, y = data()
    model = make()
    with pytest.raises(RuntimeError, match="before training"):
        model.diagnose(x)
    model.build(False)
    with pytest.raises(RuntimeError, match="'last' has no tables before training"):
        model.diagnose(x)
    model.fit(x, y, verbose=0)
    bad = x.copy()
    bad[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"x\[3, 2\] is nan"):
        model.diagnose(bad)
    with pytest.raises(ValueError, match="columns, got 11"):
        model.diagnose(x[:, 1:])
    with pytest.raises(ValueError, match="x has no rows"):
        model.diagnose(x[:0])
    with pytest.raises(ValueError, match="k=151 of the 150 neurons of layer 'last'"):
        model.diagnose(x, k=N + 1)
    with pytest.raises(ValueError, match="k must be"):
        model.diagnose(x, k=0)
    with pytest.raises(ValueError, match="n must be"):
        model.diagnose(x, n=0)
    with pytest.raises(ValueError, match="y"):
        model.diagnose(x, y[:-1])
    with pytest.raises(ValueError, match="y"):
        model.diagnose(x, np.full(len(x), N))
    with pytest.raises(ValueError, match="no layer has a sampler"):
        make(None).diagnose(x)


def test_a_loaded_model_is_diagnosed(tmp_path):
    x, y = data()
    model = make(OUTPUTS["clusters"])
    model.fit(x, y, batch_size=32, verbose=0, n_jobs=1)
    model.save(tmp_path / "model")
    found = slide.load(tmp_path / "model").diagnose(x, n_jobs=1)["last"]
    expected = model.diagnose(x, n_jobs=1)["last"]
    assert (found.recall, found.drift) == (expected.recall, expected.drift)
    assert found.times == {}
    assert expected.times


# ------------------------------------------------------------------------------- callback


def test_the_callback_and_its_file(tmp_path):
    x, y = data(160)
    path = tmp_path / "telemetry.jsonl"
    model = make(OUTPUTS["simhash"], steps=1)
    recorded = Telemetry(path, every=2, k=5)
    history = model.fit(
        x, y, batch_size=32, epochs=2, verbose=0, n_jobs=1, callbacks=[recorded]
    ).history
    assert [(r["epoch"], r["batch"]) for r in recorded.records] == [
        (e, b) for e in range(2) for b in (1, 3, None)
    ]
    assert [r["step"] for r in recorded.records] == [2, 4, 5, 7, 9, 10]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == recorded.records
    for name in {*telemetry.MEASURES, *telemetry.LOGS} - {"table_recall"}:
        assert history[name] == [recorded.records[2][name], recorded.records[5][name]]
    times = [r["time_update"] for r in recorded.records]
    assert times[0] < times[1] < times[2]  # since the epoch began
    # The last batch's inputs are those of before its step.
    active = model.layers[-1]._active
    sizes = diagnosis.bucket_sizes(active.retriever.tables)
    assert recorded.records[-1]["largest_bucket"] == sizes.max()
    a = model._recent[1][:, :H]
    w, b = model.get_weights()[-2:]
    indptr, ids = diagnosis.retrieved(active, model.layers[-1]._parameters(False), model._recent[1])
    largest = np.argsort(-(a @ w + b), axis=1)[:, :5]
    hits = [len(set(ids[indptr[i] : indptr[i + 1]]) & set(largest[i])) for i in range(32)]
    assert recorded.records[-1]["recall"] == pytest.approx(np.mean(hits) / 5)


@pytest.mark.parametrize("hidden", [None, LSH(hashing.SimHash(3, 4), 0.3)])
def test_recent_inputs(hidden):
    x, y = data(50)
    model = make("auto", hidden)
    model.compile(slide.optimizers.SGD(0.0))
    model.fit(x, y, batch_size=20, verbose=0, shuffle=False, n_jobs=2)
    # The last batch has 10 rows; those after it are of the batch before.
    rows = [*range(40, 50), *range(30, 40)]
    recent = model._recent[1]
    w, b = model.get_weights()[:2]
    assert np.allclose(recent[:, :H], np.maximum(x[rows] @ w + b, 0), atol=1e-6)
    assert (recent[:, H] == 1).all()
    assert (recent[:, H + 1 :] == 0).all()
    assert model._recent[0] is None
    if hidden is not None:
        middle = model._recent[2]
        assert middle.shape == (20, 48)
        assert (middle[:, 40] == 1).all()
        assert ((middle[:, :40] > 0).sum(axis=1) <= 12).all()
        assert (middle[:, :40] > 0).any()


@pytest.mark.parametrize("update", ["batch", "hogwild"])
def test_the_callback_does_not_change_training(update):
    x, y = data()
    models = [make(OUTPUTS["mixture"], OUTPUTS["simhash"], update, steps=2) for _ in range(2)]
    for model, callbacks in zip(models, ([], [Telemetry(every=1)]), strict=True):
        model.fit(x, y, batch_size=32, epochs=2, verbose=0, n_jobs=1, callbacks=callbacks)
    assert same_weights(*models)
    names = {name for record in callbacks[0].records for name in record}
    assert "middle_table_recall" not in names
    assert "last_table_recall" in names
    assert {"middle_recall", "last_recall", "middle_time_query"} <= names


def test_nan_is_null_in_the_file(tmp_path):
    recorded = Telemetry(tmp_path / "file")
    recorded.model = make(None)
    recorded.on_train_begin()
    recorded.on_epoch_end(0, {"loss": float("nan"), "n": np.float32(1.5)})
    (line,) = (tmp_path / "file").read_text().splitlines()
    assert json.loads(line)["loss"] is None
    assert json.loads(line)["n"] == 1.5


def test_what_the_callback_refuses(tmp_path):
    with pytest.raises(ValueError, match="every"):
        Telemetry(every=0)
    with pytest.raises(ValueError, match="k must"):
        Telemetry(k=0)
    with pytest.raises(ValueError, match="n must"):
        Telemetry(n=33)
    with pytest.raises(ValueError, match="plot=True needs a path"):
        Telemetry(plot=True)
    with pytest.raises(ValueError, match="no records"):
        Telemetry().plot()
    recorded = Telemetry(tmp_path / "no" / "file")
    x, y = data()
    model = make()
    with pytest.raises(OSError, match="no"):
        model.fit(x, y, verbose=0, callbacks=[recorded])
    assert model.step == 0


def test_the_plot(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    x, y = data()
    recorded = Telemetry(tmp_path / "t", plot=True)
    model = make(OUTPUTS["simhash"], HIDDEN["lsh"])
    model.fit(x, y, epochs=2, verbose=0, n_jobs=1, callbacks=[recorded])
    assert (tmp_path / "t.png").stat().st_size > 1000
    figure = recorded.plot()
    assert isinstance(figure, matplotlib.figure.Figure)
    recall = figure.axes[0].lines
    assert [line.get_label() for line in recall] == ["last recall@10", "middle recall@10"]
    assert list(recall[0].get_ydata()) == [r["last_recall"] for r in recorded.records]
    assert list(recall[0].get_xdata()) == [1, 2]
    assert len(figure.axes[1].lines) == 10


def test_no_plot_of_nothing(tmp_path):
    """What ended the training comes out, and later callbacks have their turn."""
    pytest.importorskip("matplotlib")
    model = slide.Sequential([slide.Input(3), slide.Dense(2, "softmax")])
    model.compile()

    class Stop(slide.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            raise KeyboardInterrupt

        def on_train_end(self, logs=None):
            self.ended = True

    stop = Stop()
    with pytest.raises(KeyboardInterrupt):
        model.fit(
            np.eye(3, dtype=np.float32),
            [0, 1, 0],
            verbose=0,
            callbacks=[Telemetry(tmp_path / "t.json", plot=True), stop],
        )
    assert stop.ended


def test_a_plot_without_matplotlib(tmp_path, monkeypatch):
    import builtins

    real = builtins.__import__

    def fake(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fake)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        _plots._figure()
    with pytest.raises(ImportError, match="plots need matplotlib"):
        Telemetry(tmp_path / "x", plot=True)


def test_what_a_loaded_model_is_told(tmp_path):
    """Candidates are ranked by the weights, which new tables have not seen yet."""
    sampler = LSH(hashing.SimHash(4, 8), max_active=20, candidates=4.0)
    model = slide.Sequential(
        [slide.Input(12, sparse=False), slide.Dense(300, "softmax", sampler=sampler, name="out")]
    )
    model.compile()
    x = np.random.default_rng(0).standard_normal((64, 12)).astype(np.float32)
    model.fit(x, np.arange(64), verbose=0, n_jobs=1)
    expected = model.diagnose(x)["out"]
    model.save(tmp_path / "m")
    found = slide.load(tmp_path / "m").diagnose(x)["out"]
    assert found.recall == expected.recall > 0.05


def test_a_sampler_that_was_just_set_has_nothing_to_measure():
    sampler = LSH(hashing.SimHash(4, 8), max_active=20)
    model = slide.Sequential(
        [slide.Input(12, sparse=False), slide.Dense(300, "softmax", sampler=sampler)]
    )
    model.compile()
    x = np.random.default_rng(0).standard_normal((64, 12)).astype(np.float32)
    telemetry = Telemetry()
    change = slide.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: model.set_sampler("auto") if epoch == 0 else None
    )
    model.fit(x, np.arange(64), epochs=2, verbose=0, n_jobs=1, callbacks=[change, telemetry])
    assert ["recall" in record for record in telemetry.records] == [False, True]
