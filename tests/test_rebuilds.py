"""Schedules of rebuilds: when tables change, what is in them, and what it costs."""

import math

import numpy as np
import pytest
import reference

import slide
from slide import rebuilds, sampling
from slide._kernels.optim import Parameters
from slide._memory import aligned_zeros, padded
from slide.hashing import DWTA, E2LSH, Clusters, SimHash

DIM = 9
CODED = [SimHash(4, 3), SimHash(9, 2, "rademacher"), DWTA(2, 3, 3)]
BALANCED = [Clusters(7, 2, capacity_factor=1.0), Clusters(12, 2, 3, 3, capacity_factor=1.2)]
GROUPED = [Clusters(6), Clusters(7, 2), Clusters(12, 2, 3, 3), *BALANCED]
PROJECTED = [SimHash(4, 3, n_probes=3), SimHash(3, 4, transform="sign_alsh"), E2LSH(2, 3)]


def padded_rows(X):
    X = np.atleast_2d(X)
    rows = aligned_zeros((len(X), padded(X.shape[1])))
    rows[:, : X.shape[1]] = X
    return rows


def layer(n, seed=0):
    """Random neurons: the kernel's parameters, and a view of the weights."""
    rows = padded_rows(np.random.default_rng(seed).standard_normal((n, DIM)))
    none = np.zeros((n, 0), np.float32)
    return Parameters(rows, none, none, DIM, DIM - 1), rows[:, :DIM]


def lsh(family, schedule, every=10, **arguments):
    return sampling.LSH(family, max_active=5, rebuild_every=every, schedule=schedule, **arguments)


def make(family, schedule, n, every=10, n_threads=1, seed=0, **arguments):
    return lsh(family, schedule, every, **arguments).active_set(n, DIM, seed, n_threads)


def maintain(active, p, step, n_threads=1):
    active.select_batch(p, padded_rows(np.ones((1, DIM))), [[]], 7, step, n_threads)


def mark(active, ids):
    """Mark neurons as changed, as optimizer steps do."""
    state = active.get_state()
    state["dirty"][ids] = 1
    active.set_state(state)


def places(active):
    """(neurons, tables): slot and tag by which the neurons are found, -1 where they are not."""
    state, tables = active.get_state(), active.retriever.tables
    found = np.full(state["tables.ids"].T.shape, -1)
    for t, (ids, starts) in enumerate(
        zip(state["tables.ids"], state["tables.starts"], strict=True)
    ):
        end = starts[-1]
        found[ids[:end], t] = 256 * np.repeat(np.arange(tables.n_slots), np.diff(starts))
        if "tables.tags" in state:
            found[ids[:end], t] += state["tables.tags"][t, :end]
    return found


def assert_found_by(active, codes):
    """Every neuron is in its code's bucket of every table, and in no other."""
    for t in range(codes.shape[1]):
        for code in np.unique(codes[:, t]):
            wanted = np.flatnonzero(codes[:, t] == code)
            found = np.sort(active.retriever.tables.bucket(t, int(code)))
            np.testing.assert_array_equal(found, wanted)
        assert active.retriever.tables.sizes(t).sum() == len(codes)


def hashed(active, w):
    return active.retriever.family.hash(padded_rows(w))


def same_state(one, other):
    one, other = one.get_state(), other.get_state()
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


# ------------------------------------------------------------------------------------- fixed


@pytest.mark.parametrize(("every", "decay"), [(7, 0.0), (5, 0.3), (20, 0.1)])
def test_rebuilds_of_the_fixed_schedule_are_where_the_formula_puts_them(every, decay):
    p, _ = layer(20)
    active = make(SimHash(2, 3), "fixed", 20, every, rebuild_decay=decay)
    due, last, codes = float(every), 0, 20 * 3
    for step in range(300):
        dirty = [step % 20, (step * 7) % 20]
        if step:
            mark(active, dirty)
        marked = np.count_nonzero(active.get_state()["dirty"])
        maintain(active, p, step)
        found = active.maintenance()
        if step >= due:
            codes += marked * 3
            # Chen et al.: t rebuilds take the sum over i < t of N0 exp(lambda i), here with
            # every gap rounded up to whole steps.
            t = int(found["n_rebuilds"])
            formula = sum(every * math.exp(decay * i) for i in range(t))
            assert formula - 1e-6 <= step <= formula + t
            due, last = step + every * math.exp(decay * t), step
        assert found["hashed_codes"] == codes
        assert found["hashed_neurons"] == codes / 3
        assert found["table_age"] == found["oldest_table"] == step - last
    assert found["n_rebuilds"] >= 5
    assert found["seconds"] > 0
    assert "drift" not in found


@pytest.mark.parametrize("schedule", ["fixed", "drift"])
def test_tables_that_are_built_late_are_not_rebuilt_at_once(schedule):
    """As those of a sampler that a trained layer gets; of new functions as well."""
    p, _ = layer(20)
    active = make(SimHash(2, 3), schedule, 20, 5)
    for step in range(83, 98):
        if step == 95:
            active.weights_replaced()
        maintain(active, p, step)
        mark(active, [3])
        due = active.get_state()["schedule"][0]
        assert due == (88 if step < 88 else 93 if step < 93 else 98)
    assert active.get_state()["schedule"][1] == (2 if schedule == "fixed" else 0)
    active.weights_replaced()
    maintain(active, p, 99)
    assert active.get_state()["schedule"][0] == 104


@pytest.mark.parametrize("schedule", ["fixed", rebuilds.Drift(0.0, n_sampled=3000), "rolling"])
def test_seconds_of_a_rebuild_are_those_of_rebuilds_alone(schedule):
    """Neither the first build counts, nor what a file says of rebuilds before."""
    p, w = layer(3000)
    active, again = (make(SimHash(6, 20), schedule, 3000, 20) for _ in range(2))
    rng = np.random.default_rng(0)

    def train(active, steps):
        for step in steps:
            w[:5] = rng.standard_normal((5, DIM))
            mark(active, range(5))
            maintain(active, p, step)

    maintain(active, p, 0)
    assert "rebuild_seconds" not in active.maintenance()
    train(active, range(1, 200))
    found = active.maintenance()
    assert 0 < found["rebuild_seconds"] * found["n_rebuilds"] < found["seconds"]
    again.set_state(active.get_state())
    assert "rebuild_seconds" not in again.maintenance()
    train(again, range(200, 230))
    found, n = again.maintenance(), again.n_rebuilds - active.n_rebuilds
    assert found["rebuild_seconds"] * n == pytest.approx(found["seconds"], rel=0.5)


# ------------------------------------------------------------------------------------- drift


@pytest.mark.parametrize("family", CODED + PROJECTED, ids=repr)
def test_drift_is_the_share_of_neurons_and_tables_that_a_rebuild_would_move(family):
    p, w = layer(50)
    active = make(family, rebuilds.Drift(0.0, n_sampled=50), 50)
    maintain(active, p, 0)
    before = places(active)
    w[10:30] = w[10:30, ::-1]
    mark(active, np.arange(5, 25))  # 25 to 29 changed unknown to all
    maintain(active, p, 9)
    np.testing.assert_array_equal(places(active), before)
    maintain(active, p, 10)
    found = active.maintenance()
    moved = places(active) != before
    assert moved.any()
    assert not moved[:10].any()
    assert not moved[25:].any()
    assert found["drift"] == moved.mean()
    assert found["n_rebuilds"] == 1
    # To build, to move 20, two panels, and the look at the 20 of them that changed.
    n_tables = active.retriever.tables.n_tables
    assert found["hashed_codes"] == n_tables * (50 + 20 + 2 * 50 + 20)
    maintain(active, p, 20)
    assert active.maintenance()["drift"] == 0


@pytest.mark.parametrize("family", GROUPED, ids=repr)
def test_drift_of_clusters_is_the_share_of_other_nearest_cells(family):
    p, w = layer(80)
    active = make(family, rebuilds.Drift(0.9, n_sampled=80), 80)
    maintain(active, p, 0)
    before = nearest(active, w)
    w[10:40] = w[10:40, ::-1]
    mark(active, np.arange(5, 40))
    maintain(active, p, 10)
    share = (nearest(active, w) != before).mean()
    assert 0.1 < share == active.maintenance()["drift"]
    assert active.n_rebuilds == 0


def nearest(active, w):
    """(neurons, tables): the nearest cell of the nearest group."""
    arrays = active.retriever.arrays
    found = []
    for groups, cells in zip(arrays["group_centroids"], arrays["centroids"], strict=True):
        g = np.argmax(w @ groups[:, :DIM].T, axis=1) if len(groups) > 1 else np.zeros(len(w), int)
        m = len(cells) // len(groups)
        scores = np.einsum("id,ijd->ij", w, cells[:, :DIM].reshape(-1, m, DIM)[g])
        found.append(g * m + scores.argmax(1))
    return np.array(found).T


@pytest.mark.parametrize("family", [*CODED, *PROJECTED, GROUPED[2]], ids=repr)
def test_no_rebuild_while_weights_stand_still(family):
    p, _ = layer(40)
    active = make(family, rebuilds.Drift(0.0, 40), 40, every=3)
    for step in range(20):
        maintain(active, p, step)
        mark(active, np.arange(40))  # touched, and what they were
    assert active.n_rebuilds == 0
    assert active.maintenance()["drift"] == 0
    assert active.maintenance()["oldest_table"] == 19


def test_drift_of_a_panel_is_an_unbiased_estimate():
    # Of 600 neurons 150 have all of their codes changed (a sign of every bit), 300 are marked.
    n, n_flipped, n_marked, m = 600, 150, 300, 60
    estimates = []
    for seed in range(200):
        p, w = layer(n)
        active = make(SimHash(4, 3), rebuilds.Drift(0.9, m), n)
        x = padded_rows(np.ones((1, DIM)))
        active.select_batch(p, x, [[]], seed, 0)
        w[::4] *= -1
        mark(active, np.arange(0, n, 2))
        active.select_batch(p, x, [[]], seed, 10)
        estimates.append(active.maintenance()["drift"])
    # Given how many k of the panel are marked, the count of flipped ones among them is
    # hypergeometric with mean k / 2: the ratio's mean is the share. 5 standard errors.
    share = n_flipped / n
    error = np.std(estimates) / math.sqrt(len(estimates))
    assert abs(np.mean(estimates) - share) < 5 * error
    # The ratio's variance is about f^2 q (1 - q) / k with f = 1/2, q = 1/2, k about m f; the
    # sample of 200 gives it within 5 of its standard errors, sqrt(2 / 200) each.
    variance = (n_marked / n) ** 2 * 0.25 / (m * n_marked / n) * (1 - m / n)
    assert abs(np.var(estimates) / variance - 1) < 0.5


@pytest.mark.parametrize("family", [*CODED, *PROJECTED, *GROUPED], ids=repr)
def test_a_look_changes_nothing_and_a_rebuild_forgets_what_changed(family):
    p, w = layer(40)
    active = make(family, rebuilds.Drift(0.0, 40), 40)
    maintain(active, p, 0)
    w[5] += 1e-7  # another weight, no other code
    mark(active, [5])
    before = active.get_state()
    maintain(active, p, 10)
    after = active.get_state()
    assert after.keys() == before.keys()
    for name in after.keys() - {"schedule", "maintenance"}:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    w[5] *= -1
    maintain(active, p, 20)
    assert active.n_rebuilds == 1
    assert not active.get_state()["dirty"].any()


@pytest.mark.parametrize(("flipped", "due"), [(0, False), (40, False), (60, True), (150, True)])
def test_a_rebuild_comes_when_drift_is_above_the_threshold(flipped, due):
    p, w = layer(200)
    active = make(SimHash(6, 2), rebuilds.Drift(0.25, 200), 200)
    maintain(active, p, 0)
    codes = hashed(active, w)
    w[:flipped] *= -1
    mark(active, np.arange(200))
    maintain(active, p, 10)
    assert active.n_rebuilds == due
    assert active.maintenance()["drift"] == flipped / 200
    assert_found_by(active, hashed(active, w) if due else codes)
    # Looks go on at the same pace, and what has drifted adds up.
    w[flipped : flipped + 20] *= -1
    mark(active, np.arange(flipped, flipped + 20))
    maintain(active, p, 19)
    assert active.maintenance()["drift"] == flipped / 200
    maintain(active, p, 20)
    assert active.maintenance()["drift"] == ((0 if due else flipped) + 20) / 200
    assert active.n_rebuilds == (flipped >= 40)


def test_new_functions_of_a_drift_schedule():
    p, w = layer(50)
    active = make(SimHash(4, 3), rebuilds.Drift(0.0), 50, new_functions_every=2)
    maintain(active, p, 0)
    for rebuild in range(1, 5):
        old = active.retriever.arrays["projections"].copy()
        w *= -1
        mark(active, np.arange(50))
        maintain(active, p, 10 * rebuild)
        assert active.n_rebuilds == rebuild
        new = active.retriever.arrays["projections"]
        assert np.array_equal(new, old) == (rebuild % 2 == 1)
        assert_found_by(active, hashed(active, w))


# ----------------------------------------------------------------------------------- rolling


@pytest.mark.parametrize(("n", "every"), [(50, 12), (7, 100), (50, 1)])
@pytest.mark.parametrize("family", CODED, ids=repr)
def test_tables_are_renewed_one_after_the_other(family, n, every):
    p, w = layer(n)
    active = make(family, "rolling", n, every)
    n_tables = family.n_tables
    steps = -(-every // n_tables)
    maintain(active, p, 0)
    codes, seen = hashed(active, w), w.copy()
    rng = np.random.default_rng(0)
    for step in range(1, 2 * n_tables * steps + 1):
        w[:] = rng.standard_normal(w.shape)  # all weights move in every step
        table, done = (step - 1) // steps % n_tables, (step - 1) % steps
        new = slice(n * done // steps, n * (done + 1) // steps)
        seen[new] = w[new]
        old = {k: a.copy() for k, a in active.retriever.family.arrays.items()}
        maintain(active, p, step)
        arrays = active.retriever.family.arrays
        for name in old:
            by_table = [a.reshape(n_tables, -1) for a in (arrays[name], old[name])]
            changed = (by_table[0] != by_table[1]).any(axis=1)
            assert changed[table] == (done == steps - 1)
            assert changed.sum() == changed[table]
        if done == steps - 1:
            # What was hashed, slice by slice, by the functions that queries now have.
            codes[:, table] = hashed(active, seen)[:, table]
        assert_found_by(active, codes)
    found = active.maintenance()
    assert found["n_rebuilds"] == 2 * n_tables
    assert found["hashed_codes"] == 3 * n * n_tables
    assert found["table_age"] == steps * (n_tables - 1) / 2
    assert found["oldest_table"] == steps * (n_tables - 1)


def test_every_renewal_has_other_functions():
    p, _ = layer(30)
    active = make(SimHash(4, 2), "rolling", 30, 2)
    seen = []
    for step in range(9):
        maintain(active, p, step)
        seen.append(active.retriever.arrays["projections"].reshape(2, -1)[step % 2].tobytes())
    assert len(set(seen)) == 9


@pytest.mark.parametrize("every", [10**6, 10**30])
def test_a_round_may_be_longer_than_any_training(every):
    p, w = layer(30)
    active = make(SimHash(4, 2), "rolling", 30, every)
    maintain(active, p, 0)
    codes = hashed(active, w)
    for step in range(1, 5):
        maintain(active, p, step)
    assert_found_by(active, codes)
    state = active.get_state()
    state["round"][1] = active.rebuilds.roll_steps - 1
    active.set_state(state)
    maintain(active, p, 5)
    assert active.n_rebuilds == 1


def test_queries_in_a_round_are_those_of_the_old_tables():
    n = 60
    p, w = layer(n)
    active = sampling.LSH(SimHash(4, 3), n, rebuild_every=15, schedule="rolling").active_set(
        n, DIM, 0, 1
    )
    x = padded_rows(np.random.default_rng(1).standard_normal((4, DIM)))
    for step in range(16):
        _, _, own = active.select_batch(p, x, [[]] * 4, step=step)
        codes, queries = hashed(active, w), hashed(active, x[:, :DIM])
        for (ids, _), query in zip(own, queries, strict=True):
            np.testing.assert_array_equal(
                np.sort(ids), np.flatnonzero((codes == query).any(axis=1))
            )


@pytest.mark.parametrize("every", [2, 24, 100])
@pytest.mark.parametrize("family", GROUPED, ids=repr)
def test_a_round_of_clusters_is_an_iteration_of_k_means(family, every):
    n = 90
    p, w = layer(n)
    active = make(family, "rolling", n, every)
    arrays, n_tables = active.retriever.arrays, family.n_tables
    maintain(active, p, 0)
    steps = -(-every // n_tables)
    step = 0
    for _ in range(2):
        w[:] = np.random.default_rng(step).standard_normal(w.shape)
        for t in range(n_tables):
            old = {name: a.copy() for name, a in arrays.items()}
            before = places(active)
            wanted = nearest(active, w)[:, t]
            if family.capacity_factor:
                near = wanted
                centroids = (old[name][t, :, :DIM] for name in ("group_centroids", "centroids"))
                capacity = family.capacity(n)
                wanted = reference.balanced_cells(w, *centroids, capacity, np.full(n, -1))
                assert np.bincount(wanted).max() <= capacity < np.bincount(near).max()
            for done in range(steps):
                step += 1
                maintain(active, p, step)
                if 2 * (done + 1) < steps:
                    np.testing.assert_array_equal(places(active), before)
                    for name in old:
                        np.testing.assert_array_equal(arrays[name], old[name])
            cells = places(active)[:, t] // 256
            np.testing.assert_array_equal(cells, wanted)
            others = np.arange(n_tables) != t
            np.testing.assert_array_equal(places(active)[:, others], before[:, others])
            unit = w / np.linalg.norm(w, axis=1, keepdims=True)
            m = arrays["centroids"].shape[1] // arrays["group_centroids"].shape[1]
            for prefix, ids in [("", cells)] + [("group_", cells // m)] * (m < 7 and n_tables == 2):
                for c in range(arrays[prefix + "means"].shape[1]):
                    members = ids == c
                    if not members.any():
                        continue
                    centroid = unit[members].sum(axis=0)
                    centroid /= np.linalg.norm(centroid)
                    np.testing.assert_allclose(
                        arrays[prefix + "centroids"][t, c, :DIM], centroid, atol=1e-5
                    )
                    np.testing.assert_allclose(
                        arrays[prefix + "means"][t, c, :DIM], w[members].mean(axis=0), atol=1e-5
                    )
            for name in old:
                np.testing.assert_array_equal(arrays[name][others], old[name][others])
    assert active.n_rebuilds == 2 * n_tables
    assert active.maintenance()["hashed_codes"] == 3 * n * n_tables


def test_cells_that_a_round_leaves_empty_start_from_a_neuron():
    p, w = layer(12)
    active = make(Clusters(6), "rolling", 12, 2)
    maintain(active, p, 0)
    w[:] = w[0]
    for step in range(1, 3):
        maintain(active, p, step)
    centroids = active.retriever.arrays["centroids"][0, :, :DIM]
    np.testing.assert_allclose(centroids, np.tile(w[0] / np.linalg.norm(w[0]), (6, 1)), atol=1e-6)
    w[:] = 0
    for step in range(3, 9):
        maintain(active, p, step)
    assert np.isfinite(active.retriever.arrays["centroids"]).all()


def test_new_weights_restart_the_round():
    p, w = layer(40)
    active = make(SimHash(4, 2), "rolling", 40, 10)
    for step in range(8):
        maintain(active, p, step)
    w *= -1
    active.weights_replaced()
    maintain(active, p, 8)
    assert_found_by(active, hashed(active, w))
    for step in range(9, 13):
        maintain(active, p, step)
    assert active.n_rebuilds == 1
    maintain(active, p, 13)
    assert active.n_rebuilds == 2
    assert_found_by(active, hashed(active, w))


# ------------------------------------------------------------------- threads, states, models

SCHEDULES = {
    "fixed": lambda: "fixed",
    "drift": lambda: rebuilds.Drift(0.03, 20),
    "rolling": lambda: "rolling",
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("family", [CODED[0], DWTA(2, 3, 3), *GROUPED, *PROJECTED], ids=repr)
def test_states_are_the_same_with_threads_and_go_on_from_anywhere(family, schedule):
    if schedule == "rolling" and family in PROJECTED:
        pytest.skip("has no rolling schedule")
    (p, w), n = layer(300), 300
    one = make(family, SCHEDULES[schedule](), n)
    other = make(family, SCHEDULES[schedule](), n, n_threads=2)
    rng = np.random.default_rng(0)
    for step in range(33):
        maintain(one, p, step)
        maintain(other, p, step, 2)
        maintain(other, p, step, 2)  # as a prediction before the step does
        same_state(one, other)
        if step % 7 == 3:
            state = other.get_state()
            other = make(family, SCHEDULES[schedule](), n, n_threads=2, seed=step)
            other.set_state(state)
            same_state(one, other)
        ids = rng.choice(n, 30, replace=False)
        w[ids] += 0.3 * rng.standard_normal((30, DIM)).astype(np.float32)
        mark(one, ids)
        mark(other, ids)
    assert one.n_rebuilds >= 3


N_FEATURES, N_LABELS = 12, 60
OUTPUT = {
    "simhash": SimHash(4, 5),
    "dwta": DWTA(2, 5, 4),
    "codes of 48 bits": DWTA(6, 2, 4),
    "clusters": Clusters(9, 2),
    "groups": Clusters(12, 1, 3),
    "probes": SimHash(4, 3, n_probes=2),
    "e2lsh": E2LSH(3, 3),
}


def network(family, schedule, update="batch", hidden=False):
    sampler = sampling.LSH(OUTPUT[family], 15, rebuild_every=9, schedule=SCHEDULES[schedule]())
    middle = slide.Dense(40, "tanh", sampler=sampler if hidden else None)
    last = None if hidden else sampling.Mixture([sampler, sampling.Uniform(5)])
    model = slide.Sequential(
        [
            slide.Input(N_FEATURES, sparse=not hidden),
            middle,
            slide.Dense(N_LABELS, "softmax", sampler=last),
        ],
        seed=3,
    )
    model.compile(slide.optimizers.Adam(0.03), update=update)
    return model


def samples(n=60):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, N_FEATURES)).astype(np.float32)
    return x, rng.integers(0, N_LABELS, n)


def same_weights(a, b):
    for one, two in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


NETWORKS = [
    *[(family, "drift", hidden) for family in OUTPUT for hidden in (False, True)],
    *[
        (family, "rolling", hidden)
        for family in ("simhash", "dwta", "codes of 48 bits", "clusters", "groups")
        for hidden in (False, True)
        if (family, hidden) != ("simhash", True)
    ],
]


@pytest.mark.parametrize("update", ["batch", "hogwild"])
@pytest.mark.parametrize(("family", "schedule", "hidden"), NETWORKS)
def test_models_go_on_from_a_file_within_a_round(tmp_path, family, schedule, hidden, update):
    x, y = samples()
    n_jobs = 1 if update == "hogwild" else 2
    whole, model = (network(family, schedule, update, hidden) for _ in range(2))
    whole.fit(x, y, batch_size=7, epochs=4, verbose=0, n_jobs=n_jobs)
    model.fit(x, y, batch_size=7, epochs=2, verbose=0, n_jobs=n_jobs)
    model.predict(x, top_k=3, exact=hidden)  # looks after the tables for the next step
    model.save(tmp_path / "m")
    loaded = slide.load(tmp_path / "m")
    assert loaded.get_config() == model.get_config()
    loaded.fit(x, y, batch_size=7, epochs=4, initial_epoch=2, verbose=0, n_jobs=n_jobs)
    same_weights(loaded, whole)
    kernels = [m.layers[0 if hidden else 1]._active for m in (loaded, whole)]
    actives = [k.active if hidden else k for k in kernels]
    for name, array in actives[0].get_state().items():
        np.testing.assert_array_equal(array, actives[1].get_state()[name], err_msg=name)
    assert actives[0].n_rebuilds >= 1


@pytest.mark.parametrize(("family", "schedule"), [("simhash", "rolling"), ("groups", "drift")])
def test_hogwild_with_threads_learns(family, schedule):
    x, y = samples()
    model = network(family, schedule, "hogwild")
    history = model.fit(x, y, batch_size=7, epochs=8, verbose=0, n_jobs=2).history
    assert history["loss"][-1] < history["loss"][0]
    assert model.layers[1]._active.n_rebuilds > 1


# ------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("round", lambda a: a + np.array([2, 0]), "step .* of table"),
        ("round", lambda a: a + np.array([0, 4]), "step .* of table"),
        ("round", lambda a: a - 9, "round is out of range"),
        ("round", lambda a: a[:1], "round has another shape"),
        ("pending", lambda a: a + np.uint64(1 << 4), "pending codes are out of range"),
        ("pending", lambda a: a[1:], "pending has another shape"),
        ("pending", lambda a: a.astype(np.int64), "pending has another shape or dtype"),
        ("refreshed", lambda a: a - 99, "refreshed is out of range"),
        ("maintenance", lambda a: a[:1], "maintenance has another shape"),
        ("maintenance", lambda a: a - [0, 1e6, 0], "maintenance is out of range"),
        ("maintenance", lambda a: a + np.array([0, 0, 3]), "maintenance is out of range"),
        ("maintenance", lambda a: a * np.nan, "maintenance is out of range"),
        ("panel", lambda a: a + 40, "panel is out of range"),
        ("panel", lambda a: a.astype(np.int64), "panel has another shape or dtype"),
        ("panel_codes", lambda a: a[:, :1], "panel_codes has another shape"),
    ],
)
def test_damaged_states_are_refused_and_change_nothing(name, change, words):
    schedule = rebuilds.Drift(0.1, 20) if name.startswith("panel") else "rolling"
    p, _ = layer(40)
    active, fresh = (make(SimHash(4, 2), schedule, 40, every=8) for _ in range(2))
    for step in range(7):
        maintain(active, p, step)
    before, state = fresh.get_state(), active.get_state()
    state[name] = np.ascontiguousarray(change(state[name]))
    with pytest.raises(ValueError, match=words):
        fresh.set_state(state)
    for key, array in fresh.get_state().items():
        np.testing.assert_array_equal(array, before[key])


def test_pending_cells_are_checked_as_well():
    p, _ = layer(40)
    active = make(Clusters(5), "rolling", 40)
    maintain(active, p, 0)
    state = active.get_state()
    for wrong in (5, 2**64 - 1):
        state["pending"][7] = wrong
        with pytest.raises(ValueError, match="pending codes are out of range"):
            active.set_state(state)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: rebuilds.Drift(1.0), ValueError, "threshold must be less than 1, got 1.0"),
        (lambda: rebuilds.Drift(-0.1), ValueError, "threshold must be at least 0, got -0.1"),
        (lambda: rebuilds.Drift(math.nan), ValueError, "threshold must be finite, got nan"),
        (lambda: rebuilds.Drift("1"), TypeError, "threshold must be a number, got '1'"),
        (lambda: rebuilds.Drift(0.1, 0), ValueError, "n_sampled must be between 1 and .*got 0"),
        (
            lambda: sampling.LSH(new_functions_every=2**63),
            ValueError,
            "new_functions_every must be between",
        ),
        (lambda: sampling.LSH(schedule="daily"), ValueError, "schedule 'daily' is unknown.*Drift"),
        (lambda: sampling.LSH(schedule=3), TypeError, "schedule must be a Schedule, .*got 3"),
        (
            lambda: sampling.LSH(rebuild_decay=0.1, schedule="drift"),
            ValueError,
            r"rebuild_decay=0.1 with schedule=Drift\(",
        ),
        (
            lambda: sampling.LSH(new_functions_every=2, schedule="rolling"),
            ValueError,
            r"new_functions_every=2 with schedule=Rolling\(\)",
        ),
    ],
)
def test_arguments_that_cannot_be(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize("family", PROJECTED, ids=repr)
def test_kept_projections_have_no_rolling_schedule(family):
    with pytest.raises(ValueError, match=r"schedule='rolling' with .*cannot be renewed"):
        make(family, "rolling", 30)
    model = slide.Sequential([slide.Input(5), slide.Dense(30, sampler=lsh(family, "rolling"))])
    model.compile("sgd", "mean_squared_error")
    with pytest.raises(ValueError, match=r"schedule='rolling' with .*cannot be renewed"):
        model.fit(np.ones((2, 5)), np.ones((2, 30)), verbose=0)


@pytest.mark.parametrize("schedule", ["fixed", "drift", "rolling", rebuilds.Drift(0.2, 9)])
def test_schedules_come_back_from_their_descriptions(schedule):
    sampler = sampling.LSH(schedule=schedule)
    again = sampling.get(sampling.serialize(sampler))
    assert again.get_config() == sampler.get_config()
    assert repr(again) == repr(sampler)
    assert rebuilds.get(rebuilds.serialize(sampler.schedule)).get_config() == (
        sampler.schedule.get_config()
    )


def test_layers_without_tables_have_no_maintenance():
    active = sampling.Uniform(5).active_set(20, DIM, 0, 1)
    assert set(active.maintenance().values()) == {0.0}


def test_larger_layers_wait_longer():
    """As long as that a step's share of a rebuild does not depend on the size."""
    assert [sampling.default_every(n) for n in (10, 51_200, 102_400, 670_091)] == [50, 50, 100, 654]
    model = slide.Sequential([slide.Input(3), slide.Dense(60_000, "softmax", sampler="auto")])
    model.compile("sgd", "categorical_crossentropy")
    X = np.ones((60, 3), np.float32)
    y = np.arange(60)
    history = model.fit(X, y, batch_size=1, epochs=1, verbose=0).history
    assert history["rebuilds"] == [1]  # after 58 steps
