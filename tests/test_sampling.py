"""Which neurons are computed: retrieval, clusters, random and frequent ones, and the schedule.

Frequencies are compared within 5 standard errors: with the seeds given, a correct sampler fails
one comparison in 1.7 million by chance, and some tests make hundreds.
"""

import math
import re

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from strategies import seeds

import slide
from slide import hashing, sampling
from slide._kernels.clusters import ClusterRetriever
from slide._kernels.optim import Parameters
from slide._memory import aligned_zeros, padded

SIGMAS = 5.0


def parameters(weights):
    """Rows of weights whose last column is the bias, as a layer keeps them."""
    weights = np.atleast_2d(weights)
    n, dim = weights.shape
    rows = aligned_zeros((n, padded(dim)))
    rows[:, :dim] = weights
    none = np.zeros((n, 0), np.float32)
    return Parameters(rows, none, none, dim, dim - 1)


def inputs(X):
    X = np.atleast_2d(X)
    rows = aligned_zeros((len(X), padded(X.shape[1])))
    rows[:, : X.shape[1]] = X
    return rows


def random_layer(seed, n, dim=9):
    return parameters(np.random.default_rng(seed).standard_normal((n, dim)))


def active_set(sampler, p, seed=0, n_threads=1):
    return sampler.active_set(len(p.weights), p.weights.shape[1], seed, n_threads)


def select_one(active, p, x, labels=(), **kwargs):
    shared, pi, own = active.select_batch(p, inputs(x), [list(labels)], **kwargs)
    return shared, pi, *own[0]


def with_dirty(active, ids, **changes):
    """Mark neurons as changed, as optimizer steps do."""
    state = active.get_state()
    state["dirty"][:] = 0
    state["dirty"][ids] = 1
    state.update(changes)
    active.set_state(state)


def assert_frequencies(counts, n, probability):
    """Each count of `n` independent draws is as likely as `probability` says."""
    z = (np.asarray(counts) - n * probability) / np.sqrt(n * probability * (1 - probability))
    assert np.abs(z).max() < SIGMAS


def assert_uniform_inclusion(counts, n, size):
    """Chi-square of inclusion counts in `n` samples of `size` without replacement."""
    N, p = len(counts), size / len(counts)
    chi2 = (N - 1) / N * ((counts - n * p) ** 2).sum() / (n * p * (1 - p))
    assert 1e-5 < stats.chi2.sf(chi2, N - 1) < 1 - 1e-5


# --------------------------------------------------------------------------------- retrieval


@pytest.mark.parametrize(
    "family",
    [
        hashing.SimHash(4, 6),
        hashing.SimHash(11, 20),
        hashing.SimHash(6, 3, projection="rademacher"),
        hashing.DWTA(1, 8, 3),
        hashing.DWTA(2, 6, 2),
    ],
    ids=repr,
)
def test_hash_retrieval_is_the_union_of_the_buckets(family):
    p = random_layer(0, 300)
    active = active_set(sampling.LSH(family, max_active=300), p)
    X = inputs(np.random.default_rng(1).standard_normal((30, 9)))
    _, _, own = active.select_batch(p, X, [[]] * 30)
    kernel = active.retriever.family
    neurons, queries = kernel.hash(np.asarray(p.weights)), kernel.hash(X)
    found = 0
    for (ids, pi), query in zip(own, queries, strict=True):
        wanted = np.flatnonzero((neurons == query).any(axis=1))
        np.testing.assert_array_equal(np.sort(ids), wanted)
        assert (pi == 1).all()
        found += len(wanted)
    assert 0 < found < 30 * 300


def test_long_codes_lose_no_member():
    p = random_layer(0, 300)
    active = active_set(sampling.LSH(hashing.SimHash(40, 5), max_active=300), p)
    _, _, own = active.select_batch(p, np.asarray(p.weights), [[]] * 300)
    for i, (ids, _) in enumerate(own):
        assert i in ids
    # Strangers: 299 others, 2^-(6 + 8) each, in 5 tables.
    rate = 300 * 299 * 5 / 2**14
    assert sum(len(ids) - 1 for ids, _ in own) <= rate + 5 * math.sqrt(rate)


@pytest.mark.parametrize(("n_functions", "n_bins"), [(1, 2), (2, 2), (6, 8)])
def test_zero_queries_find_nothing_in_dwta_and_zero_neurons_are_anywhere(n_functions, n_bins):
    weights = np.random.default_rng(0).standard_normal((400, 16))
    weights[::3] = 0
    p = parameters(weights)
    sampler = sampling.LSH(hashing.DWTA(n_functions, 20, n_bins), max_active=400)
    active = active_set(sampler, p)
    X = np.vstack([weights[1:40:3], np.zeros(16)])
    _, _, own = active.select_batch(p, inputs(X), [[]] * len(X))
    assert len(own[-1][0]) == 0
    for i, (ids, _) in enumerate(own[:-1]):
        assert 1 + 3 * i in ids
    # In a table a zero neuron meets a query by chance.
    assert active.retriever.statistics()["outside"] == 0
    zeros = set(range(0, 400, 3))
    share = np.mean([len(zeros & set(ids)) for ids, _ in own[:-1]]) / len(zeros)
    expected = 1 - (1 - n_bins**-n_functions) ** 20
    if active.retriever.tables.code_bits <= 14:  # longer codes may meet strangers
        assert share == pytest.approx(expected, abs=0.05)
    # Neurons that come to life move into their buckets; those that die leave theirs.
    alive = weights[1].copy()
    np.asarray(p.weights)[0, :16] = alive
    np.asarray(p.weights)[1] = 0
    with_dirty(active, [0, 1])
    _, _, ids, _ = select_one(active, p, alive, step=50)
    assert 0 in ids
    codes = active.retriever.family.hash(inputs(alive))[0]
    buckets = [active.retriever.tables.bucket(t, int(code)) for t, code in enumerate(codes)]
    assert all(0 in bucket for bucket in buckets)
    assert not all(1 in bucket for bucket in buckets)


@pytest.mark.parametrize("cosine", [0.2, 0.6, 0.9])
def test_probability_of_retrieval_is_slides_formula(cosine):
    # Functions are redrawn: each draw is one trial.
    rng = np.random.default_rng(2)
    x = rng.standard_normal(6)
    other = rng.standard_normal(6)
    other -= other @ x / (x @ x) * x
    w = cosine * x / np.linalg.norm(x) + math.sqrt(1 - cosine**2) * other / np.linalg.norm(other)
    p = parameters(np.vstack([w, -x, -x]))
    sampler = sampling.LSH(hashing.SimHash(n_bits=3, n_tables=5), max_active=3)
    trials = 2000
    hits = sum(0 in select_one(active_set(sampler, p, seed), p, x)[2] for seed in range(trials))
    p1 = reference.simhash_collision(x, w)
    assert_frequencies([hits], trials, reference.retrieval_probability(p1, 3, 5))


@given(
    seed=seeds,
    n=st.integers(1, 150),
    family=st.sampled_from(
        [
            hashing.SimHash(1, 3),
            hashing.SimHash(9, 4),
            hashing.DWTA(2, 5, 2),
            hashing.Clusters(1, 1),
            hashing.Clusters(12, 2),
            hashing.Clusters(12, 3, n_groups=4, n_probes=3),
            None,
        ]
    ),
    data=st.data(),
)
@settings(max_examples=200, deadline=None)
def test_every_set_keeps_its_promises(seed, n, family, data):
    rng = np.random.default_rng(seed)
    parts = []
    most = least = n_frequent = n_random = 0
    if family is not None:
        least = data.draw(st.integers(0, n), "min_active")
        most = data.draw(st.integers(max(1, least), n + 5), "max_active")
        parts.append(sampling.LSH(family, most, least, rebuild_every=2))
    if n > 1 and data.draw(st.booleans(), "frequent"):
        n_frequent = data.draw(st.integers(1, n - 1), "n_frequent")
        parts.append(sampling.Frequent(n_frequent))
    shared = data.draw(st.booleans(), "shared")
    if not parts or data.draw(st.booleans(), "uniform"):
        n_random = data.draw(st.integers(1, n - n_frequent), "n_random")
        parts.append(sampling.Uniform(n_random, shared=shared))
    p = random_layer(seed, n)
    active = active_set(sampling.Mixture(parts), p)
    for step in range(4):
        labels = [rng.permutation(n)[: rng.integers(0, min(n, 6) + 1)] for _ in range(3)]
        X = inputs(rng.standard_normal((3, 9)))
        common, common_pi, own = active.select_batch(p, X, labels, seed, step)
        assert len(common) == n_frequent + n_random * shared
        assert len(np.unique(common)) == len(common)
        frequent = set(common[len(common) - n_frequent :])
        for (ids, pi), label in zip(own, labels, strict=True):
            np.testing.assert_array_equal(ids[: len(label)], label)
            np.testing.assert_array_equal(pi[: len(label)], 1)
            assert len(np.unique(ids)) == len(ids)
            assert ids.min(initial=0) >= 0
            assert ids.max(initial=0) < n
            assert not set(ids[len(label) :]) & frequent
            drawn = 0 if shared else n_random
            assert len(ids) <= max(len(label), min(most, n), least) + drawn
            assert len(set(ids) | frequent) >= min(least, n)
            assert len(ids) >= min(least, n - n_frequent)
            assert ((pi > 0) & (pi <= 1)).all()
        assert ((common_pi > 0) & (common_pi <= 1)).all()


@pytest.mark.parametrize("n_labels", [0, 3, 20, 30])
def test_labels_come_first_and_retrieval_stops_at_max_active(n_labels):
    p = parameters(np.ones((100, 5)))  # all in one bucket
    active = active_set(sampling.LSH(hashing.SimHash(3, 2), max_active=20), p)
    labels = np.random.default_rng(0).permutation(100)[:n_labels]
    _, _, ids, _ = select_one(active, p, np.ones(5), labels)
    np.testing.assert_array_equal(ids[:n_labels], labels)
    assert len(ids) == max(20, n_labels)


def test_min_active_fills_with_random_neurons_of_weight_1():
    weights = -np.ones((200, 5))
    weights[:10] = 1
    p = parameters(weights)  # 10 neurons in the bucket of the query, the rest opposite
    active = active_set(sampling.LSH(hashing.SimHash(5, 2), max_active=80, min_active=50), p)
    counts = np.zeros(200)
    n = 1500
    _, _, own = active.select_batch(p, inputs(np.ones((n, 5))), [[17]] * n)
    for ids, pi in own:
        assert len(ids) == 50
        assert ids[0] == 17
        assert set(ids[1:11]) == set(range(10))
        assert (pi == 1).all()
        counts[ids[11:]] += 1
    others = np.delete(np.arange(10, 200), 7)
    assert_uniform_inclusion(counts[others], n, 39)


# ---------------------------------------------------------------------------------- fairness


@pytest.mark.parametrize(
    "family",
    [
        hashing.SimHash(3, 1),  # exact slots
        hashing.SimHash(12, 1),  # slots and tags
        hashing.SimHash(40, 1),  # mixed codes
        hashing.Clusters(1, 1),
    ],
    ids=repr,
)
def test_a_full_set_does_not_prefer_neurons_by_their_ids(family):
    n, n_neurons, most = 6000, 256, 16
    p = parameters(np.ones((n_neurons, 5)))
    active = active_set(sampling.LSH(family, max_active=most), p)
    _, _, own = active.select_batch(p, inputs(np.ones((n, 5))), [[]] * n)
    counts = np.bincount(np.concatenate([ids for ids, _ in own]), minlength=n_neurons)
    assert all(len(ids) == most for ids, _ in own)
    assert_frequencies(counts, n, most / n_neurons)


def test_a_full_set_does_not_prefer_tables():
    # 4 tables have 4 different neurons each in the bucket of the query; 4 are taken.
    p = parameters(np.ones((64, 5)))
    active = active_set(sampling.LSH(hashing.SimHash(4, 4), max_active=4), p)
    select_one(active, p, np.ones(5))
    query = active.retriever.family.hash(inputs(np.ones(5)))[0]
    for table in range(4):
        codes = np.full(64, query[table] ^ np.uint64(1), np.uint64)
        codes[4 * table : 4 * table + 4] = query[table]
        active.retriever.tables.move(table, codes)
    n = 4000
    _, _, own = active.select_batch(p, inputs(np.ones((n, 5))), [[]] * n)
    counts = np.bincount(np.concatenate([ids for ids, _ in own]), minlength=64)
    assert_frequencies(counts[:16], n, 1 / 4)
    assert not counts[16:].any()


# ---------------------------------------------------------------------------------- clusters


def cells_of(active):
    """The cell of every neuron in every table, (L, n); each neuron is in exactly one."""
    state = active.retriever.tables.get_state()
    n_tables, n = state["ids"].shape
    everybody = np.tile(np.arange(n), (n_tables, 1))
    np.testing.assert_array_equal(np.sort(state["ids"], axis=1), everybody)
    out = np.empty((n_tables, n), int)
    for t in range(n_tables):
        assert state["starts"][t, -1] == n
        out[t, state["ids"][t]] = np.repeat(
            np.arange(state["starts"].shape[1] - 1), np.diff(state["starts"][t])
        )
    return out


def assert_nearest(w, centroids, chosen):
    """Each row's chosen centroid has the largest inner product but for rounding."""
    scores = w @ centroids.T.astype(float)
    best = scores.max(axis=1)
    tolerance = 1e-5 * (np.linalg.norm(w, axis=1) + 1e-30)
    assert (scores[np.arange(len(w)), chosen] >= best - tolerance).all()


def assert_assignment(active, w, ids, n_groups):
    arrays, cells = active.retriever.arrays, cells_of(active)
    w = w[ids].astype(float)
    for t in range(len(cells)):
        centroids, chosen = arrays["centroids"][t], cells[t, ids]
        if n_groups == 1:
            assert_nearest(w, centroids, chosen)
            continue
        width = len(centroids) // n_groups
        assert_nearest(w, arrays["group_centroids"][t], chosen // width)
        for g in range(n_groups):
            of_group = chosen // width == g
            assert_nearest(
                w[of_group], centroids[g * width : (g + 1) * width], chosen[of_group] - g * width
            )


def assert_means(active, w, n_groups):
    arrays, cells = active.retriever.arrays, cells_of(active)
    for t in range(len(cells)):
        width = arrays["means"].shape[1] // n_groups
        kinds = [("means", cells[t])]
        if n_groups > 1:
            kinds.append(("group_means", cells[t] // width))
        for name, of in kinds:
            for c in range(arrays[name].shape[1]):
                members = w[of == c].astype(float)
                wanted = members.mean(axis=0) if len(members) else np.zeros(w.shape[1])
                np.testing.assert_allclose(arrays[name][t, c], wanted, rtol=1e-4, atol=1e-6)


def directions(w, cells, n):
    unit = w / np.sqrt((w.astype(float) ** 2).sum(axis=1, keepdims=True))
    sums = np.array([unit[cells == c].sum(axis=0) for c in range(n)])
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


LAYOUTS = [(12, 1), (40, 5), (37, 37), (64, 8)]


@pytest.mark.parametrize("most", [12, 40, 600])
def test_what_one_sample_has_is_free_for_the_next(most):
    """Small sets are forgotten neuron by neuron, large ones all at once; frequent neurons stay."""
    n = 10_000
    p = random_layer(2, n)
    active = active_set(
        sampling.Mixture(
            [sampling.LSH(hashing.Sketches(16), max_active=most), sampling.Frequent(30)]
        ),
        p,
    )
    rng = np.random.default_rng(5)
    x = inputs(np.repeat(rng.standard_normal((1, 9)), 9, axis=0))
    ranked = np.argsort(-(np.asarray(p.weights) @ x[0]))
    frequent = ranked[:30]      # which would be found
    active.select_batch(p, x, [frequent.tolist()] * len(x))
    shared, _, alone, _ = select_one(active, p, x[0, :9], step=1)
    assert set(shared) == set(frequent)
    assert len(alone) == most
    assert not set(alone) & set(frequent)
    assert len(set(alone) & set(ranked[30 : 30 + 2 * most])) > most / 2
    # Labels that are found without being labels, too, and frequent ones; the last sample has none.
    labels = [[int(alone[i]), *frequent[i : i + 4].tolist()] for i in range(8)] + [[]]
    _, _, own = active.select_batch(p, x, labels, step=1)
    assert set(own[-1][0]) == set(alone)
    for label, (ids, _) in zip(labels, own, strict=True):
        assert len(set(ids)) == len(ids) == most
        assert ids[: len(label)].tolist() == label
        found = set(ids[len(label) :])
        assert not found & set(frequent)
        assert found <= set(alone)      # but for what the labels leave no room


@pytest.mark.parametrize(("n_cells", "n_groups"), LAYOUTS)
def test_clusters_partition_the_neurons_around_their_centroids(n_cells, n_groups):
    p = random_layer(0, 500)
    w = np.asarray(p.weights)
    family = hashing.Clusters(n_cells, 3, n_groups)
    active = active_set(sampling.LSH(family, max_active=50), p)
    select_one(active, p, np.ones(9), seed=5)
    cells = cells_of(active)
    assert_assignment(active, w, np.arange(500), n_groups)
    assert_means(active, w, n_groups)
    if n_groups < 37:
        assert (np.bincount(cells[0]) > 0).sum() > n_cells / 2
    assert (cells[0] != cells[1]).any()  # tables start from different neurons


@pytest.mark.parametrize(("n_cells", "n_groups"), LAYOUTS)
def test_a_refresh_moves_exactly_the_changed_neurons(n_cells, n_groups):
    rng = np.random.default_rng(3)
    p = random_layer(0, 400)
    w = np.asarray(p.weights)
    active = active_set(
        sampling.LSH(hashing.Clusters(n_cells, 3, n_groups), max_active=50, rebuild_every=10), p
    )
    select_one(active, p, np.ones(9))
    before = cells_of(active)
    w[:200, :9] = rng.standard_normal((200, 9))
    marked = rng.permutation(200)[:80]  # others changed, too, but nobody said so
    with_dirty(active, marked)
    select_one(active, p, np.ones(9), step=9)
    np.testing.assert_array_equal(cells_of(active), before)
    select_one(active, p, np.ones(9), step=10)
    after = cells_of(active)
    rest = np.setdiff1d(np.arange(400), marked)
    np.testing.assert_array_equal(after[:, rest], before[:, rest])
    assert (after[:, marked] != before[:, marked]).any()
    assert_assignment(active, w, marked, n_groups)
    assert_means(active, w, n_groups)
    assert not active.get_state()["dirty"].any()
    # The centroids are the directions of what was in the cells before.
    arrays = active.retriever.arrays
    for t in range(3):
        count = np.bincount(before[t], minlength=arrays["centroids"].shape[1])
        with np.errstate(invalid="ignore"):
            wanted = directions(w, before[t], len(count))
        np.testing.assert_allclose(arrays["centroids"][t][count > 0], wanted[count > 0], atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(arrays["centroids"][t], axis=1), 1, rtol=1e-5)


def best_first(active, x, n_groups, n_probes):
    """(members of the cell, mean activation) of the cells that a query takes, in order."""
    arrays, cells = active.retriever.arrays, cells_of(active)
    n_tables, n_cells = arrays["means"].shape[:2]
    width = n_cells // n_groups
    candidates = [(t, c) for t in range(n_tables) for c in range(n_cells)]
    if n_groups > 1:
        groups = [
            (arrays["group_means"][t, g].astype(float) @ x, t, g)
            for t in range(n_tables)
            for g in range(n_groups)
            if (cells[t] // width == g).any()
        ]
        probed = {(t, g) for _, t, g in sorted(groups, reverse=True)[:n_probes]}
        candidates = [(t, c) for t, c in candidates if (t, c // width) in probed]
    found = [
        (arrays["means"][t, c].astype(float) @ x, np.flatnonzero(cells[t] == c))
        for t, c in candidates
    ]
    found = [(score, members) for score, members in found if len(members)]
    return sorted(found, key=lambda pair: -pair[0])


@pytest.mark.parametrize(("n_cells", "n_groups"), LAYOUTS)
@pytest.mark.parametrize("most", [1, 7, 60, 300])
def test_cells_are_taken_best_first_until_the_budget(n_cells, n_groups, most):
    p = random_layer(0, 300)
    n_probes = 4
    family = hashing.Clusters(n_cells, 2, n_groups, n_probes)
    active = active_set(sampling.LSH(family, max_active=most), p)
    X = np.random.default_rng(1).standard_normal((20, 9))
    labels = [[i, 299 - i] for i in range(20)]
    _, _, own = active.select_batch(p, inputs(X), labels)
    for x, label, (ids, _) in zip(X, labels, own, strict=True):
        taken, left = label.copy(), ids[2:]
        for _, members in best_first(active, np.append(x, np.zeros(7)), n_groups, n_probes):
            new = set(members) - set(taken)
            here = left[: len(new)]
            assert set(here) == new or (len(here) < len(new) and set(here) <= new)
            taken, left = taken + list(here), left[len(new) :]
        assert len(left) == 0
        assert len(ids) <= max(most, 2)
        if n_groups == 1:
            assert len(ids) == max(most, 2)


@pytest.mark.parametrize("schedule", ["fixed", "rolling"])
@pytest.mark.parametrize(("n_tables", "n_cells", "n_groups"), [(1, 1100, 1), (2, 1200, 30)])
def test_bytes_stand_for_the_means_of_many_cells(n_tables, n_cells, n_groups, schedule):
    """The first cell that is taken is as good as the best, but for rounding to 7 bits, also with
    biases far larger than weights, after cells have changed, and in a copy of the state."""
    p = random_layer(5, 4000, 16)
    np.asarray(p.weights)[:, 15] = -30 + np.random.default_rng(2).standard_normal(4000)
    family = hashing.Clusters(n_cells, n_tables, n_groups, n_tables * n_groups)
    sampler = sampling.LSH(family, max_active=1, rebuild_every=2, schedule=schedule)
    X = np.maximum(np.random.default_rng(1).standard_normal((150, 16)), 0)
    X[:, 15] = 1
    active, again = active_set(sampler, p), active_set(sampler, p)
    for step in range(7):
        np.asarray(p.weights)[:, :15] *= np.float32(0.9)
        active.weights_moved()
        active.select_batch(p, inputs(X), [[]] * 150, step=step)
    again.select_batch(p, inputs(X), [[]] * 150)
    again.set_state({name: array.copy() for name, array in active.get_state().items()})
    for maker in (again, active):
        _, _, own = maker.select_batch(p, inputs(X), [[]] * 150, step=6)
        means, cells = maker.retriever.arrays["means"], cells_of(maker)
        for x, (ids, _) in zip(X, own, strict=True):
            full = [np.unique(cells[t]) for t in range(n_tables)]
            scores = [means[t].astype(float) @ x for t in range(n_tables)]
            best = max(scores[t][full[t]].max() for t in range(n_tables))
            found = max(scores[t][cells[t, ids[0]]] for t in range(n_tables))
            spread = np.concatenate([scores[t][full[t]] for t in range(n_tables)]).std()
            assert found > best - 0.05 * spread


@pytest.mark.parametrize("most", [40, 700, 2900, 4000])
def test_cells_beyond_the_best_few(most):
    """A query that needs more cells than were put in order first gets them, each neuron once, and
    in the same order as a query that wants fewer."""
    p = random_layer(6, 4000, 16)
    family = hashing.Clusters(1200, 1, 30, 30)
    active = active_set(sampling.LSH(family, max_active=most), p)
    few = active_set(sampling.LSH(family, max_active=20), p)
    X = np.random.default_rng(1).standard_normal((20, 16))
    labels = [[i, 2 * i + 30] for i in range(20)]
    _, _, own = active.select_batch(p, inputs(X), labels)
    _, _, first = few.select_batch(p, inputs(X), labels)
    for label, (ids, _), (best, _) in zip(labels, own, first, strict=True):
        assert list(ids[:2]) == label
        assert len(ids) == len(set(ids)) == most
        # The last cell of the smaller set may be cut at another place.
        assert len(np.intersect1d(ids[:40], best)) >= 15


def uneven_layer(n, dim=9):
    """Half of the neurons are alike, so that k-means puts far too many into some cells."""
    rng = np.random.default_rng(4)
    w = rng.standard_normal((n, dim))
    w[::2, 0] += 6
    return parameters(w * rng.uniform(0.5, 2, (n, 1)))


def balanced(active, t, w, capacity, kept):
    arrays = active.retriever.arrays
    groups, cells = (arrays[name][t, :, : w.shape[1]] for name in ("group_centroids", "centroids"))
    return reference.balanced_cells(w, groups, cells, capacity, kept)


@pytest.mark.parametrize("capacity_factor", [1.0, 1.3])
@pytest.mark.parametrize("n", [480, 501])
@pytest.mark.parametrize(("n_cells", "n_groups"), LAYOUTS)
def test_balanced_cells_hold_no_more_than_their_share(n_cells, n_groups, n, capacity_factor):
    p = uneven_layer(n)
    w = np.asarray(p.weights)[:, :9]
    family = hashing.Clusters(n_cells, 3, n_groups, capacity_factor=capacity_factor)
    capacity = family.capacity(n)
    n_cells = math.prod(family.layout(n))
    assert capacity == math.ceil(capacity_factor * n / n_cells)
    active = active_set(sampling.LSH(family, max_active=50, rebuild_every=10), p)
    select_one(active, p, np.ones(9), seed=5)
    rng = np.random.default_rng(3)
    kept = np.full((3, n), -1)
    for step in range(10, 50, 10):
        cells = cells_of(active)
        for t in range(3):
            assert np.bincount(cells[t]).max() <= capacity
            np.testing.assert_array_equal(cells[t], balanced(active, t, w, capacity, kept[t]))
        assert_means(active, np.asarray(p.weights), n_groups)
        # Neurons that nobody marks stay, and changed ones take the places that these leave.
        marked = rng.permutation(n)[: n // 2]
        w[marked] = w[rng.permutation(marked)] + 0.1 * rng.standard_normal((len(marked), 9))
        with_dirty(active, marked)
        kept = cells
        kept[:, marked] = -1
        select_one(active, p, np.ones(9), step=step)
    assert active.n_rebuilds == 4


def test_neurons_leave_their_nearest_cell_only_if_it_is_full():
    p = uneven_layer(600)
    w = np.asarray(p.weights)[:, :9].astype(float)
    active = active_set(sampling.LSH(hashing.Clusters(12, capacity_factor=1.5), 50), p)
    select_one(active, p, np.ones(9))
    (cells,), centroids = cells_of(active), active.retriever.arrays["centroids"][0, :, :9]
    scores = w @ centroids.T
    nearest, count = scores.argmax(axis=1), np.bincount(cells, minlength=12)
    assert count.max() == 75 < np.bincount(nearest).max()
    cosines = scores / np.linalg.norm(w, axis=1, keepdims=True)
    for i in np.flatnonzero(cells != nearest):
        full = np.flatnonzero(scores[i] > scores[i, cells[i]])
        assert (count[full] == 75).all()
        stay = (cells == nearest) & (nearest == nearest[i])
        assert stay.sum() == 75
        assert cosines[stay, nearest[i]].min() > cosines[i, nearest[i]]


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("n_groups", [1, 3])
def test_equal_neurons_fill_one_cell_after_the_other(n_groups, value):
    p = parameters(np.full((70, 4), value))
    family = hashing.Clusters(12, 2, n_groups, capacity_factor=1.0)
    active = active_set(sampling.LSH(family, 70), p)
    select_one(active, p, np.ones(4))
    np.testing.assert_array_equal(cells_of(active), [np.arange(70) // 6] * 2)


@pytest.mark.parametrize("n_groups", [1, 5])
def test_new_functions_keep_the_balance(n_groups):
    p = uneven_layer(400)
    w = np.asarray(p.weights)[:, :9]
    family = hashing.Clusters(20, 2, n_groups, capacity_factor=1.2)
    active = active_set(sampling.LSH(family, 50, rebuild_every=1, new_functions_every=1), p)
    seen = []
    for step in range(3):
        select_one(active, p, np.ones(9), step=step)
        seen.append(cells_of(active))
        for t in range(2):
            wanted = balanced(active, t, w, 24, np.full(400, -1))
            np.testing.assert_array_equal(seen[-1][t], wanted)
            assert np.bincount(wanted).max() == 24
    assert (seen[0] != seen[1]).any()


def test_without_a_bound_and_with_one_that_is_far_cells_are_the_same():
    states = []
    for capacity_factor in (None, 1e300):
        p = uneven_layer(500)
        family = hashing.Clusters(12, 2, 3, capacity_factor=capacity_factor)
        active = active_set(sampling.LSH(family, 50, rebuild_every=1), p)
        for step in range(3):
            select_one(active, p, np.ones(9), step=step)
            with_dirty(active, np.arange(0, 500, 3))
        states.append(active.get_state())
    assert np.diff(states[0]["tables.starts"]).max() > 2 * 500 / 12
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name])


def test_more_neurons_than_places_are_refused():
    with pytest.raises(ValueError, match="4 cells of 2 neurons for 9"):
        ClusterRetriever(9, 5, 1, 2, 2, 1, 1, 2)


def test_balance_survives_weights_that_are_not_finite():
    weights = np.ones((90, 4))
    weights[::3], weights[1::3, 2] = np.nan, np.inf
    p = parameters(weights)
    for n_groups in (1, 3):
        family = hashing.Clusters(9, 2, n_groups, capacity_factor=1.0)
        active = active_set(sampling.LSH(family, 9, rebuild_every=1), p)
        for step in range(3):
            select_one(active, p, np.ones(4), step=step)
            for cells in cells_of(active):
                assert np.bincount(cells).tolist() == [10] * 9


@pytest.mark.parametrize("capacity_factor", [None, 1.0])
@pytest.mark.parametrize("n_groups", [1, 6])
def test_clusters_are_the_same_with_any_number_of_threads(n_groups, capacity_factor):
    states = []
    for n_threads in (1, 2, 3):
        p = random_layer(0, 1000)
        family = hashing.Clusters(30, 3, n_groups, capacity_factor=capacity_factor)
        sampler = sampling.LSH(family, max_active=20, rebuild_every=5)
        active = active_set(sampler, p, n_threads=n_threads)
        select_one(active, p, np.ones(9), n_threads=n_threads)
        np.asarray(p.weights)[:300, :9] *= -1
        with_dirty(active, np.arange(300))
        select_one(active, p, np.ones(9), step=5, n_threads=n_threads)
        assert active.n_rebuilds == 1
        states.append(active.get_state())
    for state in states[1:]:
        for name, array in states[0].items():
            np.testing.assert_array_equal(array, state[name])


@pytest.mark.parametrize("family", [hashing.SimHash(9, 30), hashing.DWTA(3, 30, 4)], ids=repr)
def test_tables_are_the_same_with_any_number_of_threads(family):
    states = []
    for n_threads in (1, 2, 3):
        p = random_layer(0, 1000)
        active = active_set(sampling.LSH(family, 20, rebuild_every=5), p, n_threads=n_threads)
        select_one(active, p, np.ones(9), n_threads=n_threads)
        np.asarray(p.weights)[:300, :9] *= -1
        with_dirty(active, np.arange(300))
        select_one(active, p, np.ones(9), step=5, n_threads=n_threads)
        states.append(active.get_state())
    for state in states[1:]:
        for name, array in states[0].items():
            np.testing.assert_array_equal(array, state[name])


@pytest.mark.parametrize("capacity_factor", [None, 1.0])
@pytest.mark.parametrize("n_groups", [1, 3])
@pytest.mark.parametrize(
    "weights",
    [
        pytest.param(np.ones((1, 4)), id="one"),
        pytest.param(np.zeros((1, 4)), id="one-zero"),
        pytest.param(np.eye(5, 4), id="fewer-than-cells"),
        pytest.param(np.ones((70, 4)), id="all-equal"),
        pytest.param(np.zeros((70, 4)), id="all-zero"),
        pytest.param(np.vstack([np.ones((35, 4)), -np.ones((35, 4))]), id="opposite"),
        pytest.param(np.vstack([np.zeros((35, 4)), np.ones((35, 4))]), id="half-zero"),
        pytest.param(np.full((9, 4), 1e-25), id="tiny"),
        pytest.param(np.full((9, 4), 1e18), id="huge"),
    ],
)
def test_clusters_of_odd_layers(weights, n_groups, capacity_factor):
    n = len(weights)
    p = parameters(weights)
    family = hashing.Clusters(20, 2, n_groups, capacity_factor=capacity_factor)
    sampler = sampling.LSH(family, max_active=n, rebuild_every=1)
    active = active_set(sampler, p)
    for step in range(4):
        _, _, ids, _ = select_one(active, p, [1.0, 2.0, 3.0, 1.0], step=step)
        largest = max(np.bincount(cells).max() for cells in cells_of(active))
        assert capacity_factor is None or largest == -(-n // math.prod(family.layout(n)))
        assert len(np.unique(ids)) == len(ids)
        if n_groups == 1:  # all cells are looked at: nobody is lost, and empty ones do no harm
            assert sorted(ids) == list(range(n))
        assert_means(active, np.asarray(p.weights), 1 if n_groups == 1 else min(3, n))
        with_dirty(active, np.arange(0, n, 2))
    assert all(np.isfinite(array).all() for array in active.retriever.arrays.values())


def test_probes_without_groups_cost_no_memory():
    # All cells of a table are one group then; probes are at most one a table.
    active_set(sampling.LSH(hashing.Clusters(1000, 1, 1, n_probes=1 << 20)), random_layer(0, 2000))


# --------------------------------------------------------------------- random and frequent ones


@pytest.mark.parametrize(("n", "n_frequent"), [(10, 0), (80, 0), (100, 0), (10, 30), (60, 30)])
def test_shared_random_neurons_are_a_uniform_sample_without_replacement(n, n_frequent):
    N, steps = 100, 2000
    parts = [sampling.Uniform(n)]
    if n_frequent:
        parts.append(sampling.Frequent(n_frequent))
    p = random_layer(0, N)
    active = active_set(sampling.Mixture(parts), p)
    X = inputs(np.ones((1, 9)))
    counts = np.zeros(N)
    for step in range(steps):
        shared, pi, own = active.select_batch(p, X, [[]], seed=1, step=step)
        assert len(np.unique(shared)) == n + n_frequent
        np.testing.assert_array_equal(shared[n:], np.sort(shared[n:]))
        np.testing.assert_allclose(pi[:n], n / (N - n_frequent), rtol=1e-6)
        np.testing.assert_array_equal(pi[n:], 1)
        assert len(own[0][0]) == 0
        counts[shared[:n]] += 1
    # Before there are labels, the first neurons are as good as any.
    frequent = shared[n:]
    assert not counts[frequent].any()
    rest = np.delete(counts, frequent)
    if n + n_frequent == N:
        assert (rest == steps).all()
    else:
        assert_uniform_inclusion(rest, steps, n)


def test_shared_neurons_are_those_of_the_seed_and_the_step():
    p, X = random_layer(0, 1000), inputs(np.ones((2, 9)))
    active, other = (active_set(sampling.Uniform(20), p) for _ in range(2))

    def shared(active_, seed, step):
        return active_.select_batch(p, X, [[], []], seed, step)[0].tolist()

    first = shared(active, 1, 7)
    assert shared(active, 1, 8) != first
    assert shared(active, 2, 7) != first
    assert shared(active, 1, 7) == first
    assert shared(other, 1, 7) == first


@pytest.mark.parametrize("n", [5, 40, 97])
def test_own_random_neurons_are_uniform_and_each_samples_own(n):
    N, samples = 100, 2500
    p = random_layer(0, N)
    active = active_set(sampling.Uniform(n, shared=False), p)
    shared, _, own = active.select_batch(p, inputs(np.ones((samples, 9))), [[3, 50]] * samples)
    assert len(shared) == 0
    counts = np.zeros(N)
    for ids, pi in own:
        assert ids[:2].tolist() == [3, 50]
        assert len(ids) == n + 2
        np.testing.assert_array_equal(pi[:2], 1)
        np.testing.assert_allclose(pi[2:], n / 98, rtol=1e-6)
        counts[ids[2:]] += 1
    assert len({tuple(np.sort(ids)) for ids, _ in own[:50]}) > 30
    assert_uniform_inclusion(np.delete(counts, [3, 50]), samples, n)


def test_own_random_neurons_are_no_more_than_there_are():
    p = random_layer(0, 10)
    active = active_set(sampling.Uniform(9, shared=False), p)
    _, _, ids, pi = select_one(active, p, np.ones(9), [4, 1, 8])
    assert sorted(ids) == list(range(10))
    np.testing.assert_array_equal(pi, 1)


@pytest.mark.parametrize("shared", [True, False])
def test_random_neurons_have_no_weights_without_a_correction(shared):
    p = random_layer(0, 100)
    active = active_set(sampling.Uniform(7, correction=None, shared=shared), p)
    _, common_pi, _, own_pi = select_one(active, p, np.ones(9), [1])
    assert (common_pi == 1).all()
    assert (own_pi == 1).all()
    assert len(common_pi) + len(own_pi) == 8


def test_own_random_neurons_beside_frequent_labels():
    # Labels that are frequent are not among those that a draw may take: they must not be counted
    # out of them a second time. 4 frequent, all labels; 1 of the other 6 is drawn by chance 3/6.
    p = random_layer(0, 10)
    sampler = sampling.Mixture([sampling.Frequent(4), sampling.Uniform(3, shared=False)])
    active = active_set(sampler, p)
    n = 3000
    labels = [[0, 1, 2, 3]] * n
    shared, _, own = active.select_batch(p, inputs(np.ones((n, 9))), labels)
    assert sorted(shared) == [0, 1, 2, 3]
    counts = np.zeros(10)
    for ids, pi in own:
        assert len(ids) == 7
        np.testing.assert_allclose(pi, [1] * 4 + [0.5] * 3)
        counts[ids[4:]] += 1
    assert_uniform_inclusion(counts[4:], n, 3)


@given(seed=seeds, n=st.integers(2, 60), batches=st.integers(1, 12), data=st.data())
@settings(max_examples=100, deadline=None)
def test_frequent_neurons_are_those_with_the_largest_counts(seed, n, batches, data):
    n_frequent = data.draw(st.integers(1, n - 1))
    n_random = data.draw(st.integers(1, n - n_frequent))
    rng = np.random.default_rng(seed)
    p = random_layer(0, n)
    active = active_set(
        sampling.Mixture([sampling.Frequent(n_frequent), sampling.Uniform(n_random)]), p
    )
    counts = np.zeros(n, int)
    looked_again = 0
    for step in range(batches):
        labels = [rng.permutation(n)[: rng.integers(0, 4)] for _ in range(rng.integers(1, 9))]
        for row in labels:
            counts[row] += 1
        X = inputs(np.ones((len(labels), 9)))
        shared, _, own = active.select_batch(p, X, labels, seed, step)
        if counts.sum() > looked_again:
            # Looked for again when there is an eighth more to count.
            looked_again = counts.sum() + counts.sum() // 8
            wanted = np.lexsort((np.arange(n), -counts))[:n_frequent]
        elif step == 0:
            wanted = np.arange(n_random, n_random + n_frequent)
        assert set(shared[n_random:]) == set(wanted)
        assert not set(shared[:n_random]) & set(shared[n_random:])
        for (ids, _), label in zip(own, labels, strict=True):
            np.testing.assert_array_equal(ids, label)


# -------------------------------------------------------------------------- unbiased estimates

SAMPLERS = [
    sampling.Uniform(20),
    sampling.Uniform(90),
    sampling.Uniform(20, shared=False),
    sampling.Mixture([sampling.Frequent(15), sampling.Uniform(20)]),
    sampling.Mixture([sampling.Frequent(15), sampling.Uniform(20, shared=False)]),
    sampling.Mixture([sampling.LSH(hashing.Clusters(12, 2), max_active=25), sampling.Uniform(20)]),
    sampling.Mixture(
        [
            sampling.LSH(hashing.Clusters(12, 2, 3, 2), max_active=25),
            sampling.Frequent(5),
            sampling.Uniform(20, shared=False),
        ]
    ),
    sampling.Mixture(
        [
            sampling.LSH(hashing.SimHash(4, 3), max_active=15),
            sampling.Frequent(15),
            sampling.Uniform(20),
        ]
    ),
    sampling.Mixture([sampling.LSH(hashing.DWTA(1, 4, 3), max_active=30), sampling.Uniform(20)]),
]


def weighted(shared, shared_pi, own, own_pi):
    """Ids and inclusion probabilities of a sample's set; what is own and shared counts as own."""
    also = ~np.isin(shared, own)
    return np.append(shared[also], own), np.append(shared_pi[also], own_pi).astype(float)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_the_sampled_partition_function_is_unbiased(sampler):
    # sum exp(z) / pi over a set estimates sum exp(z) over the layer (Spring & Shrivastava 2017);
    # the mean over steps is within 5 of its standard errors.
    rng = np.random.default_rng(0)
    p = random_layer(0, 120, 5)
    X, labels = rng.standard_normal((5, 5)), [[0, 1], [2], [5, 40, 119], [], [0, 1, 2, 3, 4, 9]]
    z = np.asarray(p.weights)[:, :5] @ X.T
    full = np.exp(z).sum(axis=0)
    active = active_set(sampler, p)
    X, estimates = inputs(X), []
    for step in range(1000):
        shared, shared_pi, own = active.select_batch(p, X, labels, seed=3, step=step)
        sets = [weighted(shared, shared_pi, *one) for one in own]
        estimates.append([(np.exp(z[ids, s]) / pi).sum() for s, (ids, pi) in enumerate(sets)])
    error = np.std(estimates, axis=0) / math.sqrt(len(estimates))
    assert (np.abs(np.mean(estimates, axis=0) - full) < SIGMAS * error + 1e-5 * full).all()
    assert (error < 0.05 * full).all()


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_training_takes_these_sets_and_weights(sampler):
    rng = np.random.default_rng(1)
    n, dim = 120, 4
    labels = [[0, 1], [2], [5, 40, 119], [7], [0, 1, 2, 3, 4, 9]]
    X = rng.standard_normal((5, dim)).astype(np.float32)
    Y = np.zeros((5, n), np.float32)
    for row, of_row in zip(Y, labels, strict=True):
        row[of_row] = 1
    model = slide.Sequential(
        [
            slide.Input(dim, sparse=False),
            slide.Dense(n, "softmax", sampler=sampler, bias_initializer="glorot_uniform"),
        ],
        seed=6,
    )
    model.compile(slide.optimizers.SGD(1e-9), "categorical_crossentropy")
    model.build()
    layer = model.layers[0]
    w, b = model.get_weights()
    # Another active set of the same seed goes through the same steps.
    twin = sampler.active_set(n, dim + 1, layer._seed, 1)
    p = parameters(np.column_stack([w.T, b]))
    x = inputs(np.column_stack([X, np.ones(5)]))
    for step in range(5):
        logs = model.train_on_batch(X, Y, n_jobs=1)
        shared, shared_pi, own = twin.select_batch(p, x, labels, seed=6, step=step)
        mask, log_pi = np.zeros((5, n), bool), np.zeros((5, n))
        for s, one in enumerate(own):
            ids, pi = weighted(shared, shared_pi, *one)
            mask[s, ids] = True
            log_pi[s, ids] = np.log(pi)
        losses, _ = reference.categorical_crossentropy(
            X.astype(float) @ w + b, Y.astype(float), mask, log_pi
        )
        assert logs["loss"] == pytest.approx(losses.mean(), rel=1e-5)
        assert logs["active_fraction"] == pytest.approx(mask.mean())


# ---------------------------------------------------------------------------------- schedule


@pytest.mark.parametrize(("every", "decay"), [(1, 0.0), (7, 0.0), (50, 0.0), (5, 0.3), (50, 0.1)])
def test_rebuilds_come_as_in_slide(every, decay):
    p, X = random_layer(0, 20), inputs(np.ones((1, 9)))
    sampler = sampling.LSH(
        hashing.SimHash(2, 1), max_active=5, rebuild_every=every, rebuild_decay=decay
    )
    active = active_set(sampler, p)
    steps = []
    for step in range(1000):
        before = active.n_rebuilds
        active.select_batch(p, X, [[]], step=step)
        assert before <= active.n_rebuilds <= before + 1
        if active.n_rebuilds > before:
            steps.append(step)
    gaps = np.diff([0, *steps])
    t = np.arange(len(steps))
    np.testing.assert_array_equal(gaps, np.ceil(every * np.exp(decay * t) - 1e-9))
    # The paper's formula; steps are whole numbers, so each gap may be one longer.
    formula = np.cumsum(every * np.exp(decay * t))
    assert (np.abs(steps - formula) <= t + 1e-6).all()
    assert len(steps) > 5


@pytest.mark.parametrize("every", [0, 1, 3])
def test_new_functions_come_every_so_many_rebuilds(every):
    p, X = random_layer(0, 50), inputs(np.ones((1, 9)))
    sampler = sampling.LSH(
        hashing.SimHash(4, 3), max_active=5, rebuild_every=10, new_functions_every=every
    )
    active = active_set(sampler, p)
    active.select_batch(p, X, [[]])
    kernel = active.retriever.family
    for rebuild in range(1, 8):
        old = kernel.arrays["projections"].copy()
        active.select_batch(p, X, [[]], step=10 * rebuild)
        changed = (kernel.arrays["projections"] != old).any()
        assert changed == (every > 0 and rebuild % every == 0)
        codes = kernel.hash(np.asarray(p.weights))
        for table in range(3):
            for neuron in range(50):
                assert neuron in active.retriever.tables.bucket(table, int(codes[neuron, table]))


@pytest.mark.parametrize("family", [hashing.SimHash(5, 4), hashing.DWTA(2, 4, 2)], ids=repr)
def test_only_changed_neurons_are_inserted_again(family):
    p, X = random_layer(0, 60), inputs(np.ones((1, 9)))
    w = np.asarray(p.weights)
    sampler = sampling.LSH(family, max_active=5, rebuild_every=10, new_functions_every=2)
    active = active_set(sampler, p)
    active.select_batch(p, X, [[]])
    kernel, tables = active.retriever.family, active.retriever.tables
    codes = kernel.hash(w)
    w *= -1
    marked = [0, 13, 59]
    with_dirty(active, marked)
    active.select_batch(p, X, [[]], step=10)
    codes[marked] = kernel.hash(w)[marked]

    def assert_members():
        for table in range(4):
            for code in np.unique(codes[:, table]):
                wanted = np.flatnonzero(codes[:, table] == code)
                np.testing.assert_array_equal(np.sort(tables.bucket(table, int(code))), wanted)

    assert_members()
    active.select_batch(p, X, [[]], step=20)  # new functions: all
    codes = kernel.hash(w)
    assert_members()


def small_model(sampler, **kwargs):
    model = slide.Sequential(
        [slide.Input(6, sparse=False), slide.Dense(80, "softmax", sampler=sampler, **kwargs)]
    )
    model.compile(slide.optimizers.SGD(0.1), "categorical_crossentropy")
    model.build()
    return model


def test_training_marks_the_neurons_that_it_moves():
    model = small_model(sampling.LSH(hashing.SimHash(3, 3), max_active=10, rebuild_every=4))
    rng = np.random.default_rng(0)
    X = rng.standard_normal((8, 6)).astype(np.float32)
    moved = np.zeros(80, bool)
    for step in range(10):
        before = np.vstack(model.get_weights())
        model.train_on_batch(X, rng.integers(0, 80, 8))
        active = model.layers[0]._active
        if step and step % 4 == 0:
            moved[:] = False
        assert active.n_rebuilds == step // 4
        moved |= (np.vstack(model.get_weights()) != before).any(axis=0)
        np.testing.assert_array_equal(active.get_state()["dirty"] != 0, moved)
        assert 0 < moved.sum() < 80


def test_new_weights_are_found_at_once():
    # Without biases a row of weights and the features that equal it have the same codes.
    sampler = sampling.LSH(hashing.SimHash(6, 10), max_active=80, rebuild_every=10**6)
    model = small_model(sampler, use_bias=False)
    X = np.random.default_rng(0).standard_normal((80, 6)).astype(np.float32)
    model.train_on_batch(X, np.arange(80))
    model.set_weights([X.T])
    ids, scores = model.predict(X, top_k=80, exact=False)
    for i in range(80):
        assert i in ids[i]
        found = ids[i][ids[i] >= 0]
        assert len(np.unique(found)) == len(found)
        assert (np.diff(scores[i][: len(found)]) <= 0).all()


def test_prediction_through_tables_adds_the_frequent_neurons():
    head = sampling.LSH(hashing.Clusters(10, 2), max_active=8)
    model = small_model(sampling.Mixture([head, sampling.Frequent(4), sampling.Uniform(10)]))
    X = np.random.default_rng(0).standard_normal((9, 6)).astype(np.float32)
    model.train_on_batch(X, [70, 70, 71, 72, 72, 73, 73, 73, 5])
    ids, _ = model.predict(X, top_k=80, exact=False)
    for row in ids:
        found = row[row >= 0]
        assert len(found) == 8 + 4
        assert len(np.unique(found)) == len(found)
        assert {70, 72, 73} <= set(found)


# ------------------------------------------------------------------------------------- state


def trained_set(parts, n=60):
    p = random_layer(0, n)
    active = active_set(sampling.Mixture(parts), p)
    rng = np.random.default_rng(0)
    for step in range(7):
        labels = [rng.permutation(n)[:3] for _ in range(4)]
        active.select_batch(p, inputs(rng.standard_normal((4, 9))), labels, step=step)
    with_dirty(active, [3, 9])
    return p, active


@pytest.mark.parametrize(
    "family",
    [
        hashing.SimHash(20, 3),
        hashing.DWTA(2, 3, 2),
        hashing.Clusters(6, 2),
        hashing.Clusters(9, 2, 3),
    ],
    ids=repr,
)
def test_a_set_goes_on_from_its_state(family):
    parts = [
        sampling.LSH(family, 20, rebuild_every=3, rebuild_decay=0.1, new_functions_every=2),
        sampling.Frequent(5),
        sampling.Uniform(8),
    ]
    p, active = trained_set(parts)
    state = active.get_state()
    again = active_set(sampling.Mixture(parts), p, seed=99)
    again.set_state({name: array.copy() for name, array in state.items()})
    rng = np.random.default_rng(1)
    for step in range(7, 25):
        labels = [rng.permutation(60)[:3] for _ in range(4)]
        X = inputs(rng.standard_normal((4, 9)))
        one, other = (a.select_batch(p, X, labels, 5, step) for a in (active, again))
        np.testing.assert_array_equal(one[0], other[0])
        for (ids, pi), (other_ids, other_pi) in zip(one[2], other[2], strict=True):
            np.testing.assert_array_equal(ids, other_ids)
            np.testing.assert_array_equal(pi, other_pi)
    assert active.n_rebuilds == again.n_rebuilds > 2


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("counts", lambda a: a[:-1], "counts"),
        ("counts", lambda a: -a, "counts"),
        ("counts", lambda a: a.astype(np.int32), "counts"),
        ("frequent", lambda a: a + 60, "frequent"),
        ("frequent", lambda a: a * 0, "frequent"),
        ("next_order", lambda a: a[:0], "next_order"),
        ("dirty", lambda a: a[:-1], "marks of changed"),
        ("dirty", lambda a: a.astype(np.float32), "marks of changed"),
        ("schedule", lambda a: a[:-1], "schedule"),
        ("schedule", lambda a: a * np.nan, "schedule"),
        ("schedule", lambda a: a - 1e6, "schedule"),
        ("tables.ids", lambda a: a - 1, "table 0 has an id twice, or out of range"),
        ("tables.starts", lambda a: a[:, ::-1], "starts"),
        ("functions.coordinates", lambda a: a + 9, "coordinate is out of range"),
        ("functions.coordinates", lambda a: a[1:], "coordinates"),
        ("functions.coordinates", lambda a: a.astype(np.float32), "coordinates"),
    ],
)
def test_damaged_state_is_refused_and_changes_nothing(name, change, words):
    parts = [sampling.LSH(hashing.DWTA(2, 3, 2), 20), sampling.Frequent(5), sampling.Uniform(8)]
    p, active = trained_set(parts)
    fresh = active_set(sampling.Mixture(parts), p, seed=99)
    before, state = fresh.get_state(), active.get_state()
    state[name] = np.ascontiguousarray(change(state[name]))
    with pytest.raises(ValueError, match=words):
        fresh.set_state(state)
    for key, array in fresh.get_state().items():
        np.testing.assert_array_equal(array, before[key])


# --------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: sampling.LSH(max_active=0), "max_active must be at least 1, got 0"),
        (lambda: sampling.LSH(max_active=-5), "max_active must be at least 1, got -5"),
        (lambda: sampling.LSH(min_active=-1), "min_active must be at least 0, got -1"),
        (lambda: sampling.LSH(max_active=5, min_active=6), "min_active=6 .* max_active=5"),
        (lambda: sampling.LSH(rebuild_every=0), "rebuild_every must be at least 1, got 0"),
        (lambda: sampling.LSH(rebuild_decay=-0.1), "rebuild_decay must be at least 0, got -0.1"),
        (lambda: sampling.LSH(rebuild_decay=math.nan), "rebuild_decay must be finite, got nan"),
        (lambda: sampling.LSH(new_functions_every=-1), "new_functions_every .*got -1"),
        (lambda: sampling.LSH("maxhash"), "hash 'maxhash' is unknown"),
        (lambda: sampling.Uniform(0), "n must be at least 1, got 0"),
        (lambda: sampling.Uniform(-3), "n must be at least 1, got -3"),
        (lambda: sampling.Uniform(0.0), "n must be greater than 0, got 0.0"),
        (lambda: sampling.Uniform(1.5), "n must be at most 1, got 1.5"),
        (lambda: sampling.Uniform(math.nan), "n must be finite, got nan"),
        (lambda: sampling.Uniform(5, correction="pi"), "correction must be one of .*; got 'pi'"),
        (lambda: sampling.Frequent(0), "n must be at least 1, got 0"),
        (lambda: sampling.Frequent(2.0), "n must be at most 1, got 2.0"),
        (lambda: sampling.Mixture([]), r"samplers .*got \[\]"),
        (lambda: sampling.Mixture(["lsh", "lsh"]), "samplers must be at most one each .*LSH"),
        (
            lambda: sampling.Mixture([sampling.Uniform(3), sampling.Uniform(4)]),
            r"samplers must be at most one each .*Uniform\(n=4",
        ),
        (lambda: sampling.Mixture([sampling.Mixture(["lsh"])]), "samplers must be at most one"),
        (lambda: sampling.Mixture(["softmax"]), "sampler 'softmax' is unknown; known are"),
        (lambda: sampling.get("best"), "sampler 'best' is unknown; known are Auto, Frequent, LSH"),
        (lambda: slide.Dense(5, sampler="best"), "sampler 'best' is unknown"),
    ],
)
def test_values_out_of_range_are_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: sampling.LSH(max_active="2"), "max_active must be an integer, got '2'"),
        (lambda: sampling.LSH(min_active=None), "min_active must be an integer, got None"),
        (lambda: sampling.LSH(rebuild_every="50"), "rebuild_every must be an integer, got '50'"),
        (lambda: sampling.LSH(rebuild_decay="0"), "rebuild_decay must be a number, got '0'"),
        (lambda: sampling.LSH(new_functions_every=True), "new_functions_every .*got True"),
        (lambda: sampling.LSH(5), "hash must be a HashFamily, a name or a config dict, got 5"),
        (lambda: sampling.Uniform(True), "n must be an integer, got True"),
        (lambda: sampling.Uniform("all"), "n must be an integer, got 'all'"),
        (lambda: sampling.Uniform(5, shared=1), "shared must be True or False, got 1"),
        (lambda: sampling.Frequent(None), "n must be an integer, got None"),
        (lambda: sampling.Mixture(sampling.Uniform(3)), r"samplers .*got Uniform\(n=3"),
        (lambda: sampling.Mixture("lsh"), "samplers .*got 'lsh'"),
        (lambda: sampling.Mixture([3]), "sampler must be a Sampler, .*got 3"),
        (lambda: sampling.get(3), "sampler must be a Sampler, a name or a config dict, got 3"),
    ],
)
def test_values_of_a_wrong_type_are_refused_by_name(make, words):
    with pytest.raises(TypeError, match=words):
        make()


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        (sampling.Uniform(11), r"Uniform\(n=11.* on a layer of 10 neurons"),
        (sampling.Frequent(11), r"Frequent\(n=11\) on a layer of 10 neurons"),
        (sampling.LSH(min_active=11), "min_active=11 on a layer of 10 neurons"),
        (
            sampling.Mixture([sampling.Uniform(6), sampling.Frequent(5)]),
            "5 frequent and 6 random neurons of a layer of 10",
        ),
        (sampling.LSH(hashing.DWTA(n_bins=10)), "n_bins=10 is more than the 7 values"),
    ],
    ids=repr,
)
def test_samplers_that_do_not_fit_the_layer_are_refused(sampler, words):
    with pytest.raises(ValueError, match=re.compile(words)):
        sampler.active_set(10, 7, 0, 1)
    model = slide.Sequential(
        [slide.Input(6, sparse=False), slide.Dense(10, "softmax", sampler=sampler)]
    )
    model.compile()
    with pytest.raises(ValueError, match=re.compile(words)):
        model.fit(np.ones((3, 6)), [0, 1, 2], verbose=0)


def test_auto_is_a_mixture_by_the_layers_size():
    for n in [1, 3, 4, 100, 13_043, 32_768]:
        active = sampling.get("auto").active_set(n, 9, 0, 1)
        assert active.max_active == min(n, max(32, min(256, round(0.02 * n))))
        assert active.draws
        assert active.n_shared == active.n_own_tail == 0
    for n in [1, 3, 4, 100, 13_043]:
        active = sampling.Auto(fast=True).active_set(n, 9, 0, 1)
        assert active.max_active <= n
        assert not active.draws
    assert 0.03 < (active.max_active + active.n_frequent + active.n_own_tail) / 13_043 < 0.05
    active = sampling.get("auto").active_set(32_769, 9, 0, 1)
    assert not active.draws
    assert (active.max_active, active.n_frequent, active.n_own_tail) == (200, 819, 200)
    assert active.corrected


def test_counts_and_limits_by_the_layers_size():
    assert sampling.Uniform(0.25).count(10) == 2
    assert sampling.Uniform(1.0).count(10) == 10
    assert sampling.Frequent(0.001).count(10) == 1
    assert sampling.LSH().limits(100) == (64, 0)
    assert sampling.LSH().limits(20) == (20, 0)
    assert sampling.LSH().limits(13_043) == (391, 0)
    assert sampling.LSH().limits(670_091) == (4096, 0)
    assert sampling.LSH(max_active=50, min_active=5).limits(20) == (20, 5)


def test_layers_that_cannot_have_samplers():
    sampler = sampling.Uniform(3)
    for part in (sampling.Frequent(3), sampling.Auto()):
        model = slide.Sequential(
            [slide.Input(5, sparse=False), slide.Dense(8, "relu", sampler=part), slide.Dense(4)]
        )
        with pytest.raises(ValueError, match="this sampler is for output layers"):
            model.build()
    model = slide.Sequential(
        [slide.Input(5, sparse=True), slide.Dense(8, "softmax", sampler=sampler)]
    )
    model.compile()
    with pytest.raises(ValueError, match="has a sampler and sparse features as its input"):
        model.fit(np.ones((3, 5)), [0, 1, 2], verbose=0)


@pytest.mark.parametrize(
    "sampler", [*SAMPLERS, sampling.get("auto"), sampling.Frequent(0.5)], ids=repr
)
def test_samplers_come_back_from_their_descriptions(sampler):
    again = sampling.get(sampling.serialize(sampler))
    assert type(again) is type(sampler)
    assert again.get_config() == sampler.get_config()
    assert sampling.get(sampler) is sampler


def test_batches_that_cannot_be_are_refused():
    p, X = random_layer(0, 20), inputs(np.ones((1, 9)))
    active = active_set(sampling.Uniform(5), p)
    for labels in ([[20]], [[-1]], [[3, 3]]):
        with pytest.raises(ValueError, match="labels"):
            active.select_batch(p, X, labels)
    with pytest.raises(ValueError, match="label sets"):
        active.select_batch(p, X, [[1], [2]])
    with pytest.raises(ValueError, match="for 20 neurons"):
        active.select_batch(random_layer(0, 19), X, [[1]])
    with pytest.raises(ValueError, match="n_threads=2 of 1"):
        active.select_batch(p, X, [[1]], n_threads=2)
