"""Bounded buckets, strategies, exact ranking, queries by labels: against brute force and formulas.

Frequencies are compared within 5 standard errors, chi-square statistics with their 1 - 1e-6
quantile; seeds are given.
"""

import itertools

import numpy as np
import pytest
import reference as ref
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from strategies import seeds

import slide
from slide import hashing, sampling
from slide._kernels.optim import Parameters
from slide._kernels.tables import Tables
from slide._memory import aligned_zeros, padded
from slide.hashing import DWTA, E2LSH, WTA, SimHash
from slide.sampling import LSH, Mixture, Uniform

SIGMAS = 5.0
NO_BUCKET = 2**64 - 1


def aligned(X):
    rows = aligned_zeros((len(X), padded(X.shape[1])))
    rows[:, : X.shape[1]] = X
    return rows


def parameters(weights):
    """Of rows whose last column is the bias."""
    none = np.zeros((len(weights), 0), np.float32)
    return Parameters(aligned(weights), none, none, weights.shape[1], weights.shape[1] - 1)


class Layer:
    """The active set of an output layer with these weights."""

    def __init__(self, sampler, weights, seed=0):
        self.active = sampler.active_set(*weights.shape, seed, 1)
        self.p = parameters(weights)
        self.active.select_batch(self.p, aligned(np.ones((1, weights.shape[1]))), [[]])
        self.retriever = self.active.retriever

    def ask(self, x, most, seed=0, labels=None):
        return self.retriever.query(aligned(x), most, seed, labels, self.p)


def assert_equally_likely(counts, expected):
    """`expected`: of every count. What is drawn without replacement varies less than chi-square."""
    counts = np.asarray(counts, float)
    assert expected > 20
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < stats.chi2.ppf(1 - 1e-6, len(counts) - 1)
    assert statistic > stats.chi2.ppf(1e-9, len(counts) - 1) * 0.01


# ----------------------------------------------------------------------------- buckets


@given(
    seed=seeds,
    n_items=st.integers(1, 60),
    code_bits=st.integers(1, 9),
    capacity=st.integers(1, 20),
    n_moves=st.integers(0, 6),
)
@settings(max_examples=150, deadline=None)
def test_fifo_buckets_show_the_last_that_came(seed, n_items, code_bits, capacity, n_moves):
    rng = np.random.default_rng(seed)
    tables = Tables(n_items, 1, code_bits, 0, 1)
    tables.limit(capacity, "fifo")
    order = []  # (item, code) as they came
    for _ in range(n_moves + 1):
        items = rng.permutation(n_items)[: rng.integers(0, n_items + 1)].astype(np.int32)
        codes = rng.integers(0, min(4, 1 << code_bits), len(items)).astype(np.uint64)
        codes <<= np.uint64(max(0, code_bits - 2))
        codes[rng.random(len(items)) < 0.1] = NO_BUCKET
        tables.move(0, codes, items)
        order = [pair for pair in order if pair[0] not in set(items)]
        order += [(int(i), int(c)) for i, c in zip(items, codes, strict=True) if c != NO_BUCKET]
    for code in {code for _, code in order}:
        members = [item for item, own in order if own == code]
        assert tables.bucket(0, code).tolist() == members[-capacity:]
    assert tables.sizes(0).sum() == len(order)


@pytest.mark.parametrize("code_bits", [1, 9])  # without tags and with
def test_reservoirs_show_any_members_equally_often(code_bits):
    """12 of the 20 that came stay, and one comes anew: singles and pairs of the 4 shown."""
    n_seeds, shown, pairs = 4000, np.zeros(21, int), np.zeros((21, 21), int)
    for seed in range(n_seeds):
        tables = Tables(50, 1, code_bits, 0, 1)
        tables.limit(4, "reservoir", seed)
        codes = np.zeros(50, np.uint64)
        codes[21:] = 1  # in code_bits = 9 tags tell them apart within a slot
        codes[12:21] = 1
        codes[20] = NO_BUCKET
        first = codes.copy()
        first[12:20] = 0
        tables.move(0, first)
        tables.move(0, codes[12:20], np.arange(12, 20, dtype=np.int32))
        tables.move(0, np.zeros(1, np.uint64), np.array([20], np.int32))
        found = tables.bucket(0, 0)
        assert len(set(found)) == len(found) == 4
        shown[found] += 1
        for a, b in itertools.permutations(found, 2):
            pairs[a, b] += 1
    members = [*range(12), 20]
    assert shown.sum() == shown[members].sum()
    assert_equally_likely(shown[members], n_seeds * 4 / 13)
    upper = pairs[np.ix_(members, members)][np.triu_indices(13, 1)]
    assert_equally_likely(upper, n_seeds * 6 / 78)


def test_reservoirs_draw_anew_when_items_come_again():
    tables = Tables(40, 1, 1, 0, 1)
    tables.limit(5, "reservoir", 3)
    drawn = set()
    for _ in range(5):
        tables.move(0, np.zeros(40, np.uint64))
        drawn.add(tuple(sorted(tables.bucket(0, 0))))
    assert len(drawn) == 5


def test_state_of_a_reservoir_draws_on():
    old = Tables(60, 2, 4, 0, 1)
    old.limit(3, "reservoir", 9)
    codes = np.random.default_rng(0).integers(0, 4, (2, 60)).astype(np.uint64)
    for t in (0, 1):
        old.move(t, codes[t])
    old.move(1, codes[0])
    new = Tables(60, 2, 4, 0, 1)
    new.limit(3, "reservoir", 9)
    new.set_state(old.get_state())
    for tables in (old, new):
        tables.move(1, codes[1, :30], np.arange(30, dtype=np.int32))
    for code in range(4):
        np.testing.assert_array_equal(old.bucket(1, code), new.bucket(1, code))
    state = old.get_state()
    state["inserts"] = np.array([1, -1])
    with pytest.raises(ValueError, match="inserts"):
        new.set_state(state)


@pytest.mark.parametrize("capacity", [0, 3])
@pytest.mark.parametrize("code_bits", [3, 9])
def test_statistics_of_buckets(code_bits, capacity):
    rng = np.random.default_rng(1)
    tables = Tables(100, 2, code_bits, 0, 1)
    if capacity:
        tables.limit(capacity, "fifo")
    codes = rng.integers(0, 8, (2, 100)).astype(np.uint64) << np.uint64(code_bits - 3)
    codes[0, :7] = NO_BUCKET
    loads = []
    for t in range(2):
        tables.move(t, codes[t])
        own = np.unique(codes[t][codes[t] != NO_BUCKET], return_counts=True)[1]
        np.testing.assert_array_equal(tables.loads(t), own)
        loads.append(own)
    all_loads = np.concatenate(loads)
    n_buckets = 1 << code_bits
    hidden = np.maximum(all_loads - capacity, 0).sum() / 193 if capacity else 0
    wanted = {
        "n_buckets": n_buckets,
        "empty": np.mean([1 - len(own) / n_buckets for own in loads]),
        "mean_load": all_loads.mean(),
        "max_load": all_loads.max(),
        "load_of_item": (all_loads**2).sum() / 193,
        "overfull": (all_loads > capacity).mean() if capacity else 0,
        "hidden": hidden,
        "outside": 7 / 200,
    }
    found = tables.statistics()
    assert found == pytest.approx(wanted)
    assert capacity == 0 or found["hidden"] > 0
    with pytest.raises(IndexError, match="table 2 of 2"):
        tables.loads(2)


def test_tables_in_use_get_no_bound():
    tables = Tables(10, 1, 3, 0, 1)
    for capacity, overflow in ((0, "fifo"), (3, "lifo")):
        with pytest.raises(ValueError, match="capacity"):
            tables.limit(capacity, overflow)
    tables.move(0, np.zeros(10, np.uint64))
    with pytest.raises(ValueError, match="in use"):
        tables.limit(3, "fifo")


@pytest.mark.parametrize("family", [SimHash(1, 1), SimHash(1, 1, transform="simple_lsh")], ids=repr)
@pytest.mark.parametrize("overflow", ["fifo", "reservoir"])
def test_full_buckets_do_not_prefer_ids(family, overflow):
    """Which neurons of a layer's overfull bucket are shown, over seeds: halves of the ids."""
    rng = np.random.default_rng(2)
    w = rng.normal(size=(200, 9)).astype(np.float32)
    low = total = 0
    for seed in range(60):
        sampler = LSH(family, 200, bucket_size=10, overflow=overflow)
        active = Layer(sampler, w, seed)
        for found in active.ask(w[:2], 200):
            low += (found < 100).sum()
            total += len(found)
            assert len(found) <= 10
        assert active.retriever.bucket_loads(0).sum() == 200
    assert total > 900
    assert abs(low / total - 0.5) < SIGMAS * 0.5 / np.sqrt(total)


# ----------------------------------------------------------------------------- strategies

CODED = [SimHash(3, 12), WTA(1, 12, 4), SimHash(3, 12, "hadamard")]
KEPT = SimHash(3, 12, transform="simple_lsh")


def layer(n=400, dim=20, seed=3, n_queries=12):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_queries, dim)).astype(np.float32)
    w = rng.normal(size=(n, dim)).astype(np.float32)
    w[: n // 4] += 1.5 * x[rng.integers(0, n_queries, n // 4)]
    return w, x


def collisions(family, active, w, x):
    """(queries, neurons): in how many tables a neuron is in the query's bucket."""
    if family is KEPT:
        arrays = active.retriever.arrays
        a = arrays["projections"][:36, : x.shape[1]].astype(float)
        bits = (x @ a.T > 0).reshape(len(x), 12, 3)
        codes = (bits * [4, 2, 1]).sum(axis=2)
        return (codes[:, :, None] == arrays["codes"][None]).sum(axis=1)
    # The first tables have the seed that the retriever's kernel was made with.
    codes = family.codes(np.vstack([w, x]), 0)
    return (codes[len(w) :, None, :] == codes[None, : len(w), :]).sum(axis=2)


@pytest.mark.parametrize("family", [*CODED, KEPT], ids=repr)
@pytest.mark.parametrize("strategy", ["union", "threshold", "top_k", "vanilla"])
def test_strategies_take_what_brute_force_counts(family, strategy):
    w, x = layer()
    m = {"threshold": 3}.get(strategy, 1)
    arguments = {"min_collisions": 3} if strategy == "threshold" else {}
    active = Layer(LSH(family, 400, strategy=strategy, **arguments), w)
    counts = collisions(family, active, w, x)
    assert counts.max() > 5
    assert (counts == 0).any()
    for most in (400, 40, 7, 1):
        for i, found in enumerate(active.ask(x, most, seed=most)):
            eligible = np.flatnonzero(counts[i] >= m)
            assert len(set(found)) == len(found) == min(most, len(eligible))
            assert set(found) <= set(eligible)
            if strategy == "top_k":
                best = np.sort(counts[i])[::-1][: len(found)]
                np.testing.assert_array_equal(np.sort(counts[i][found])[::-1], best)
    # Nothing of a query is left for the next one.
    again = [active.ask(x[i : i + 1], 400)[0] for i in range(len(x))]
    for i, found in enumerate(active.ask(x, 400)):
        assert set(found) == set(again[i])


@pytest.mark.parametrize("strategy", ["union", "threshold", "top_k"])
def test_what_does_not_fit_is_left_out_at_random(strategy):
    """Of equals; in a top-k those at the last level."""
    w, x = layer(n=100)
    active = Layer(LSH(CODED[0], 100, strategy=strategy), w)
    counts = collisions(CODED[0], active, w, x[:1])[0]
    level = {"union": 1, "threshold": 2}.get(strategy)
    if level is None:
        level = int(np.argmax(np.bincount(counts)[1:]) + 1)  # the most frequent number
        equals, sure = np.flatnonzero(counts == level), np.flatnonzero(counts > level)
    else:
        equals, sure = np.flatnonzero(counts >= level), np.zeros(0, int)
    room = len(sure) + len(equals) // 2
    n_draws, taken = 600, np.zeros(100, int)
    for seed in range(n_draws):
        found = active.ask(x[:1], room, seed)[0]
        assert len(found) == room
        assert set(sure) <= set(found)
        taken[found] += 1
    assert taken.sum() == taken[equals].sum() + n_draws * len(sure)
    assert_equally_likely(taken[equals], n_draws * (room - len(sure)) / len(equals))


def test_vanilla_looks_at_tables_in_random_order():
    """The first full table decides: each of the 12 equally often, whatever was first before."""
    w, x = layer(n=600)
    family = SimHash(2, 12)
    active = Layer(LSH(family, 600), w)
    codes = family.codes(np.vstack([w, x[:1]]), 0)
    inside = codes[:600] == codes[600]
    room = inside.sum(axis=0).min()
    n_draws, first = 1200, np.zeros(12, int)
    for seed in range(n_draws):
        found = active.ask(x[:1], int(room), seed)[0]
        tables = np.flatnonzero(inside[found].all(axis=0))
        assert len(tables) == 1  # 60 neurons and more have no second table in common
        first[tables[0]] += 1
    assert_equally_likely(first, n_draws / 12)


@pytest.mark.parametrize("m", [1, 2, 4])
def test_thresholds_are_passed_as_often_as_the_binomial_tail_says(m):
    """Over 1,500 draws of the functions (SLIDE, section 3.1.2): s = p^K."""
    n_seeds, K, L = 1500, 2, 8
    rng = np.random.default_rng(4)
    x = rng.normal(size=(1, 30))
    w = rng.normal(size=(8, 30)) + np.linspace(-0.5, 3, 8)[:, None] * x
    counts = np.zeros(8)
    sampler = LSH(SimHash(K, L), 8, strategy="threshold", min_collisions=m)
    weights, query = parameters(w.astype(np.float32)), aligned(x.astype(np.float32))
    for seed in range(n_seeds):
        active = sampler.active_set(8, 30, seed, 1)
        active.select_batch(weights, query, [[]])
        counts[active.retriever.query(query, 8)[0]] += 1
    for j in range(8):
        s = ref.simhash_collision(w[j], x[0]) ** K
        expected = stats.binom.sf(m - 1, L, s)
        error = SIGMAS * np.sqrt(expected * (1 - expected) / n_seeds)
        assert counts[j] / n_seeds == pytest.approx(expected, abs=error + 1e-4)


@pytest.mark.parametrize("strategy", sampling.STRATEGIES)
def test_labels_and_shared_neurons_are_not_retrieved_again(strategy):
    w, x = layer()
    sampler = Mixture([LSH(SimHash(1, 6), 100, strategy=strategy), sampling.Frequent(50)])
    active = sampler.active_set(400, 20, 0, 1)
    labels = [[3, 60], [390]] * 6
    shared, _, own = active.select_batch(parameters(w), aligned(x), labels)
    for (ids, _), y in zip(own, labels, strict=True):
        assert ids[: len(y)].tolist() == y
        assert len(set(ids)) == len(ids) == 100
        assert not set(ids[len(y) :]) & set(shared)


# ----------------------------------------------------------------------------- ranking


@pytest.mark.parametrize(
    "family", [SimHash(2, 5), KEPT, hashing.Clusters(16), E2LSH(2, 5), DWTA(1, 5, 4)], ids=repr
)
def test_ranked_candidates_are_the_largest(family):
    w, x = layer()
    plain = Layer(LSH(family, 120), w).ask(x, 120, seed=5)
    ranked = Layer(LSH(family, 30, candidates=120), w)
    z = x.astype(float) @ w.astype(float).T
    for i, found in enumerate(ranked.ask(x, 30, seed=5)):
        best = plain[i][np.argsort(-z[i][plain[i]])[:30]]
        assert set(found) == set(best)
    # With room for more than the candidates nothing is ranked.
    wide = ranked.ask(x, 120, seed=5)
    assert all(set(a) == set(b) for a, b in zip(wide, plain, strict=True))


def test_what_ranking_rejects_can_be_drawn_and_labels_are_no_candidates():
    """The tail of 50 comes from rejected candidates and from the other neurons alike; a bucket has
    about half of the layer."""
    w, x = layer(n_queries=40)
    head = LSH(SimHash(1, 1), 20, candidates=400)
    sampler = Mixture([head, Uniform(50, shared=False)])
    active = sampler.active_set(400, 20, 0, 1)
    _, _, own = active.select_batch(parameters(w), aligned(x), [[5]] * 40)
    near = SimHash(1, 1).codes(np.vstack([w, x]), 0)[:, 0]
    z = x.astype(float) @ w.astype(float).T
    drawn = expected = variance = 0.0
    for i, (ids, _) in enumerate(own):
        assert len(set(ids)) == len(ids) == 70
        assert ids[0] == 5
        candidates = np.setdiff1d(np.flatnonzero(near[:400] == near[400 + i]), [5])
        kept = candidates[np.argsort(-z[i][candidates])[:19]]
        assert set(ids[1:20]) == set(kept)
        rejected = np.setdiff1d(candidates, kept)
        drawn += np.isin(ids[20:], rejected).sum()
        share = len(rejected) / 380
        expected += 50 * share
        variance += 50 * share * (1 - share)
    assert abs(drawn - expected) < SIGMAS * np.sqrt(variance)


def test_a_layer_ranks_by_its_present_weights():
    """After training, new weights and loading: what half of all random tables' buckets hold."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=(40, 8)).astype(np.float32)
    y = rng.integers(0, 50, 40)
    for candidates, low, high in ((50, 0.99, 1.0), (None, 0.0, 0.5)):
        model = slide.Sequential(
            [
                slide.Input(8, sparse=False),
                slide.Dense(50, "softmax", sampler=LSH(SimHash(1, 20), 5, candidates=candidates)),
            ]
        )
        model.compile(slide.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
        for _ in range(3):
            model.fit(x, y, batch_size=5, verbose=0, n_jobs=1)
            best = model.predict(x, top_k=5)[0]
            found = model.predict(x, top_k=5, exact=False)[0]
            recall = np.mean([np.isin(a, b).mean() for a, b in zip(best, found, strict=True)])
            assert low <= recall <= high
            w, b = model.get_weights()
            model.set_weights([w[:, ::-1].copy(), b[::-1].copy()])


# ----------------------------------------------------------------------------- labels


@pytest.mark.parametrize("family", [SimHash(2, 5), KEPT, hashing.Clusters(16)], ids=repr)
def test_queries_are_the_weights_of_labels(family):
    w, x = layer()
    by_label = Layer(LSH(family, 60, query="label"), w)
    by_input = Layer(LSH(family, 60), w)
    label = np.arange(7, 19)
    found = by_label.ask(x, 60, seed=2, labels=label[:, None].tolist())
    for i, ids in enumerate(found):
        assert label[i] not in ids
        assert len(ids) == 60
    # As the same retriever finds for a row of weights, up to the order of the tables.
    wide = by_label.ask(x, 400, seed=2, labels=label[:, None].tolist())
    rows = by_input.ask(w[label], 400, seed=2)
    for i, ids in enumerate(wide):
        assert set(ids) | {label[i]} == set(rows[i])
    without = by_label.ask(x, 60, seed=2)
    for a, b in zip(without, by_input.ask(x, 60, seed=2), strict=True):
        np.testing.assert_array_equal(a, b)


def test_several_labels_have_equal_shares():
    """Three bundles of weights, each found by its label: 30 of each where there is room for 90."""
    rng = np.random.default_rng(9)
    bundles = 9 * np.eye(20)[:3].repeat(100, axis=0) + 0.01 * rng.normal(size=(300, 20))
    w, x = bundles.astype(np.float32), rng.normal(size=(1, 20)).astype(np.float32)
    layer = Layer(LSH(SimHash(12, 6), 90, query="label"), w)
    for seed, room, shares in ((0, 90, [30, 30, 30]), (1, 6, [2, 2, 2]), (2, 300, [99] * 3)):
        found = layer.ask(x, room, seed, [[0, 100, 200]])[0]
        assert np.bincount(found // 100, minlength=3).tolist() == shares
    got = np.zeros(3)
    for seed in range(300):  # what is left over is anybody's
        got += np.bincount(layer.ask(x, 4, seed, [[0, 100, 200]])[0] // 100, minlength=3)
    assert_equally_likely(got, 400)


def test_training_asks_for_labels_and_predictions_for_inputs():
    w, x = layer()
    active = LSH(SimHash(2, 3), 60, query="label").active_set(400, 20, 0, 1)
    _, _, own = active.select_batch(parameters(w), aligned(x[:1]), [[7]])
    near = SimHash(2, 3).codes(w, 0)
    wanted = np.flatnonzero((near == near[7]).any(axis=1))
    assert set(own[0][0]) <= set(wanted)
    assert len(own[0][0]) == 60


# --------------------------------------------------------------------- models, bad input


SAMPLERS = [
    LSH(SimHash(3, 10), 20, strategy="top_k", bucket_size=8),
    LSH(SimHash(3, 10), 20, strategy="threshold", min_collisions=3, bucket_size=9, overflow="fifo"),
    LSH(SimHash(2, 10, transform="sign_alsh", n_probes=2), 20, strategy="union", bucket_size=9),
    LSH(DWTA(1, 10, 4), 20, strategy="vanilla", candidates=2.0, query="label"),
    LSH(
        hashing.Transformed(SimHash(2, 10), "simple_lsh", 3, True), 20, candidates=45, bucket_size=9
    ),
    LSH(hashing.Transformed(E2LSH(2, 10, transform=None), "l2_alsh", 2), 20, new_functions_every=2),
]


def model_of(sampler, hidden=False):
    layers = [slide.Input(12, sparse=False)]
    if hidden:
        layers += [slide.Dense(60, "relu", sampler=sampler), slide.Dense(60, "softmax")]
    else:
        layers += [slide.Dense(60, "softmax", sampler=sampler)]
    model = slide.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_models_go_on_from_files_on_any_number_of_threads(sampler, tmp_path):
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(60, 12)).astype(np.float32), rng.integers(0, 60, 60)
    config = sampler.get_config()
    config["rebuild_every"] = 3
    sampler = LSH(**config)
    assert sampler.get_config() == config
    assert repr(sampler) == repr(sampling.get(sampling.serialize(sampler)))
    one, two = model_of(sampler), model_of(sampler)
    one.fit(x, y, batch_size=5, verbose=0, n_jobs=1)
    two.fit(x, y, batch_size=5, verbose=0, n_jobs=2)
    two.save(tmp_path / "two.slide")
    two = slide.load(tmp_path / "two.slide")
    assert two.layers[0].sampler.get_config() == config
    for model, n_jobs in ((one, 2), (two, 1)):
        model.fit(x, y, batch_size=5, verbose=0, n_jobs=n_jobs)
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    states = [model.layers[0]._active.get_state() for model in (one, two)]
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name])


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if s.query == "input"], ids=repr)
def test_hidden_layers_have_strategies_too(sampler):
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(60, 12)).astype(np.float32), rng.integers(0, 60, 60)
    model = model_of(sampler, hidden=True)
    model.fit(x, y, batch_size=5, epochs=2, verbose=0)
    active = model.active_sets(x)[0].toarray() != 0
    assert 0 < active.sum(axis=1).max() <= 20


@pytest.mark.parametrize(
    ("make_it", "words"),
    [
        (lambda: LSH(strategy="best"), "strategy must be one of 'vanilla'.*'best'"),
        (lambda: LSH(query="weights"), "query must be one of"),
        (lambda: LSH("sim_hash", min_collisions=3), "min_collisions=3 with strategy='vanilla'"),
        (
            lambda: LSH(SimHash(2, 5), strategy="threshold", min_collisions=6),
            "min_collisions must be.*6",
        ),
        (lambda: LSH("sim_hash", strategy="threshold", min_collisions=0), "min_collisions"),
        (lambda: LSH("sim_hash", bucket_size=0), "bucket_size"),
        (lambda: LSH("sim_hash", overflow="fifo"), "overflow='fifo' of buckets without"),
        (lambda: LSH("sim_hash", bucket_size=5, overflow="lifo"), "overflow must be one of"),
    ],
)
def test_arguments_that_cannot_be(make_it, words):
    with pytest.raises(ValueError, match=words):
        make_it()


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        (LSH("clusters", 5, strategy="top_k"), "strategy='top_k'.*Clusters.*taken whole"),
        (LSH("clusters", 5, bucket_size=7), "bucket_size=7 with Clusters"),
        (LSH(SimHash(2, 3), 5, candidates=4), "candidates=4 must be between max_active, 5"),
        (LSH(SimHash(2, 3), 5, candidates=61), "candidates=61 must be between"),
        (LSH(SimHash(2, 3), 5, scale=2.0), "scale is for hidden"),
    ],
    ids=repr,
)
def test_samplers_that_do_not_fit_an_output_layer(sampler, words):
    model = model_of(sampler)
    with pytest.raises(ValueError, match=words):
        model.fit(np.ones((2, 12)), np.array([0, 1]), verbose=0)


def test_hidden_layers_have_no_labels():
    model = model_of(LSH(SimHash(2, 3), 5, query="label"), hidden=True)
    with pytest.raises(ValueError, match="query='label' is for output layers"):
        model.fit(np.ones((2, 12)), np.array([0, 1]), verbose=0)


def test_memory_of_counters_is_asked_for_first(monkeypatch):
    monkeypatch.setattr(sampling, "check_memory", _refuse)
    sampler = LSH(SimHash(2, 3), 5, strategy="union", candidates=8)
    with pytest.raises(MemoryError, match=r"LSH.*488"):
        sampler.active_set(60, 12, 0, 1)


def _refuse(what, n_bytes):
    raise MemoryError(f"{what}: {n_bytes}")


def test_queries_that_do_not_fit():
    w, x = layer()
    retriever = LSH(SimHash(2, 3), 5).active_set(400, 20, 0, 1).retriever
    with pytest.raises(ValueError, match="not been built"):
        retriever.query(aligned(x), 5)
    retriever = Layer(LSH(SimHash(2, 3), 5), w).retriever
    with pytest.raises(ValueError, match="rows of 16 floats, not 32"):
        retriever.query(aligned(x[:, :5]), 5)
    with pytest.raises(ValueError, match="label 400 of 400"):
        retriever.query(aligned(x[:1]), 5, labels=[[400]])
    with pytest.raises(ValueError, match="labels of 2 rows, not 1"):
        retriever.query(aligned(x[:1]), 5, labels=[[1], [2]])
    for arguments, words in (
        ({"min_collisions": 4}, "min_collisions=4"),
        ({"query": "x"}, "query='x'"),
        ({"n_candidates": 401}, "401 candidates"),
    ):
        with pytest.raises(ValueError, match=words):
            retriever.equip(**arguments)
