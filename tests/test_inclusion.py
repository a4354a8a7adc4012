"""Inclusion probabilities: formulas, frequencies over redrawn functions, and weighted estimates.

Frequencies and means over fixed seeds are compared within 5 standard errors, which a correct
sampler exceeds in one comparison of 1.7 million.
"""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from test_network import assert_same, gradients_of_one_step, make_model, oracle
from test_sampling import SIGMAS, active_set, inputs, parameters, select_one

import slide
from slide import hashing, sampling
from slide.hashing import retrieval_probability
from slide.hashing.inclusion import FLOOR
from slide.hashing.projections import _same_cell
from slide.losses import BinaryCrossentropy

# -------------------------------------------------------------------------------- formulas


def test_retrieval_probability_sums_over_all_outcomes():
    """Every one of the 2^L outcomes of L tables, and of every table of K functions."""
    p, K, L = 0.7, 2, 4
    outcomes = np.array(list(itertools.product([0, 1], repeat=K * L)))
    weights = np.prod(np.where(outcomes == 1, p, 1 - p), axis=1)
    count = outcomes.reshape(-1, L, K).all(axis=2).sum(axis=1)
    for m in range(1, L + 1):
        assert retrieval_probability(p, K, L, m) == pytest.approx(weights[count >= m].sum())
    # Of tau tables the first ones are as good as any.
    for tau in range(1, L + 1):
        some = outcomes.reshape(-1, L, K).all(axis=2)[:, :tau].any(axis=1)
        assert retrieval_probability(p, K, tau) == pytest.approx(weights[some].sum())


def test_retrieval_probability_of_many_tables():
    p = np.linspace(0, 1, 21)
    for K, L, m in [(9, 50, 1), (9, 50, 2), (1, 10, 10), (3, 1000, 17)]:
        expected = stats.binom.sf(m - 1, L, p**K)
        np.testing.assert_allclose(retrieval_probability(p, K, L, m), expected, rtol=1e-9)
    # Where 1 - (1 - s)^L would lose all digits.
    assert retrieval_probability(1e-3, 6, 10) == pytest.approx(1e-17, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1.5, 1, 1), "collision"),
        ((float("nan"), 1, 1), "collision"),
        ((0.5, 0, 1), "n_functions"),
        ((0.5, 1, 0), "n_tables"),
        ((0.5, 1, 3, 4), "min_count"),
    ],
)
def test_retrieval_probability_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        retrieval_probability(*arguments)


def test_cells_of_e2lsh_meet_modulo_their_number():
    """Of 4 cells, by the density of the difference of the projections."""
    t = np.linspace(-60, 60, 400_001)
    for sigma in (0.05, 0.5, 2.0, 3.9, 4.1, 20.0):
        density = np.exp(-((t / sigma) ** 2) / 2) / math.sqrt(2 * math.pi) / sigma
        apart = np.abs((t + 2) % 4 - 2)  # from the nearest multiple of 4
        expected = (density * np.maximum(0, 1 - apart)).sum() * (t[1] - t[0])
        expected /= stats.norm.cdf(60 / sigma) - stats.norm.cdf(-60 / sigma)
        assert _same_cell(np.array([sigma]), 4)[0] == pytest.approx(expected, rel=5e-3)


# ------------------------------------------------------------------- what is retrieved, exactly


def test_an_enumerated_case_is_exact():
    """One projection in the plane: its directions are enumerated, every degree of the circle.

    Angles between vectors are whole degrees, so 360 directions between them hit each with exactly
    its probability, and the mean of the weighted sums is the sum.
    """
    degrees = np.array([10, 45, 75, 100, 170])
    w = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)
    p = parameters(w * [[1.0], [3.0], [0.5], [1.0], [2.0]])
    x = np.array([2.0, 0.0])
    sampler = sampling.LSH(hashing.SimHash(1, 1), 5, correction="logq")
    active = active_set(sampler, p)
    projections = active.retriever.arrays["projections"]
    estimate, hits = np.zeros(5), np.zeros(5)
    for k in range(360):
        angle = np.radians(k + 0.5)
        projections[0, :2] = np.cos(angle), np.sin(angle)
        active.weights_replaced()
        _, _, ids, pi = select_one(active, p, x, seed=1)
        hits[ids] += 1
        estimate[ids] += 1 / pi
        np.testing.assert_allclose(pi, 1 - degrees[ids] / 180, rtol=1e-5)
    np.testing.assert_array_equal(hits, 2 * (180 - degrees))
    np.testing.assert_allclose(estimate / 360, 1, rtol=1e-5)


EXACT = {
    "simhash": hashing.SimHash(2, 3),
    "long codes": hashing.SimHash(16, 30),
    "simple_lsh": hashing.SimHash(2, 3, transform="simple_lsh"),
    "sign_alsh": hashing.SimHash(2, 3, transform="sign_alsh"),
    "l2_alsh": hashing.E2LSH(2, 3),
    "e2lsh": hashing.E2LSH(2, 3, transform=None),
    "cross-polytope": hashing.CrossPolytope(1, 3, dim=6),
}


def some_layer(seed, n, dim, spread=2.0):
    """Neurons at all angles to the returned input, and of many norms."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(dim)
    w = rng.standard_normal((n, dim)) / math.sqrt(dim)
    w += np.linspace(-1, spread, n)[:, None] * x / np.linalg.norm(x)
    return parameters(w * rng.uniform(0.5, 1.5, (n, 1))), x


def redrawn(family, p, seed=0, **kwargs):
    """An active set that draws new functions before every step."""
    sampler = sampling.LSH(
        family,
        **{"max_active": len(p.weights), **kwargs},
        rebuild_every=1,
        new_functions_every=1,
        correction="logq",
    )
    return active_set(sampler, p, seed)


def frequencies(active, p, x, n_draws):
    """Hits of every neuron, its probability, and of every draw the sum of the weights."""
    hits, pi = np.zeros(len(p.weights)), np.full(len(p.weights), np.nan)
    sums = np.zeros((n_draws, len(p.weights)))
    for step in range(n_draws):
        _, _, ids, found = select_one(active, p, x, step=step)
        hits[ids] += 1
        pi[ids] = found
        sums[step, ids] = 1 / found
    return hits, pi, sums


@pytest.mark.parametrize("name", EXACT)
def test_probabilities_are_frequencies_over_redrawn_functions(name):
    p, x = some_layer(0, 40, 6)
    n = 800
    hits, pi, _ = frequencies(redrawn(EXACT[name], p), p, x, n)
    pi = np.nan_to_num(pi, nan=0.0)
    z = (hits - n * pi) / np.sqrt(np.maximum(n * pi * (1 - pi), 1e-3))
    assert np.abs(z[pi > 0]).max() < SIGMAS
    assert ((pi > 0.02) & (pi < 0.98)).sum() > 10, "nothing to compare"


@pytest.mark.parametrize("projection", ["rademacher", "sparse", "hadamard"])
def test_probabilities_of_other_projections_are_near_in_many_dimensions(projection):
    """They are limits: within 0.01 and 5 standard errors at 100 dimensions, and in the mean."""
    p, x = some_layer(1, 40, 100)
    n = 600
    hits, pi, _ = frequencies(redrawn(hashing.SimHash(2, 3, projection=projection), p), p, x, n)
    error = np.sqrt(pi * (1 - pi) / n)
    assert (np.abs(hits / n - pi) < 0.01 + SIGMAS * error).all()
    assert abs((hits / n - pi).mean()) < 0.01
    assert pi.min() < 0.3
    assert pi.max() > 0.8


def test_probabilities_agree_with_the_public_formulas():
    p, x = some_layer(2, 50, 8)
    w = np.asarray(p.weights)[:, :8].astype(float)
    cosine = w @ x / np.linalg.norm(w, axis=1) / np.linalg.norm(x)
    distance = np.linalg.norm(w - x, axis=1)
    for family, at in [
        (hashing.SimHash(4, 10), cosine),
        (hashing.CrossPolytope(2, 10, dim=6), cosine),
        (hashing.E2LSH(1, 10, transform=None), distance),
    ]:
        K = getattr(family, "n_bits", None) or family.n_functions
        kernel = active_set(sampling.LSH(family, 50, correction="logq"), p).inclusion
        some = slice(None, None, 8 if isinstance(family, hashing.CrossPolytope) else 1)
        w_, at = w[some], at[some]
        found = kernel.probabilities(w_ @ x, (w_ * w_).sum(axis=1), x @ x)
        expected = retrieval_probability(family.collision_probability(at), K, 10)
        np.testing.assert_allclose(found, np.maximum(expected, FLOOR), rtol=2e-3)


def test_improbable_neurons_weigh_no_more_than_the_floor_lets_them():
    p = parameters(np.array([[1.0, 0.0], [-1.0, 1e-4]]))
    kernel = active_set(sampling.LSH(hashing.SimHash(9, 2), 2, correction="logq"), p).inclusion
    pi = kernel.probabilities(np.array([1.0, -1.0]), np.ones(2), 1.0)
    np.testing.assert_allclose(pi, [1.0, FLOOR], rtol=1e-12)


def test_zero_vectors_are_at_a_right_angle():
    p, _ = some_layer(3, 10, 4)
    kernel = active_set(sampling.LSH(hashing.SimHash(1, 1), 5, correction="logq"), p).inclusion
    assert kernel.probabilities(np.zeros(1), np.zeros(1), 1.0)[0] == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("name", ["l2_alsh", "sign_alsh", "simple_lsh"])
def test_probabilities_of_neurons_that_outgrew_their_tables(name):
    """Weights four times as long as those that the tables were built from are improbable no more
    than a little: the sums stay near the number of neurons."""
    rng = np.random.default_rng(0)
    w, x = 0.05 * rng.standard_normal((300, 9)), np.abs(rng.standard_normal((50, 9)))
    sums = []
    for seed in range(10):
        active = active_set(sampling.LSH(EXACT[name], 300, correction="logq"), parameters(w), seed)
        active.select_batch(parameters(w), inputs(x), [[]] * 50, step=0)
        own = active.select_batch(parameters(4 * w), inputs(x), [[]] * 50, step=1)[2]
        sums += [(1 / pi).sum() for _, pi in own]
    assert 300 / 1.5 < np.mean(sums) < 300 * 1.5


@pytest.mark.parametrize(
    "family",
    [
        hashing.SimHash(2, 3),
        hashing.SimHash(2, 3, "sparse"),
        hashing.SimHash(2, 3, "hadamard"),
        hashing.CrossPolytope(1, 6, dim=3),
    ],
    ids=repr,
)
def test_neurons_of_zeros_are_retrieved_as_at_a_right_angle(family):
    p, x = parameters(np.zeros((200, 9))), inputs(np.random.default_rng(0).standard_normal((20, 9)))
    sums = []
    for seed in range(40):
        active = active_set(sampling.LSH(family, 200, correction="logq"), p, seed)
        own = active.select_batch(p, x, [[]] * 20)[2]
        sums.append(np.mean([(1 / pi).sum() for _, pi in own]))
    assert abs(np.mean(sums) - 200) < SIGMAS * np.std(sums) / math.sqrt(40)
    # They stay in their buckets.
    before = active.get_state()
    active.weights_moved()
    active.select_batch(p, x[:1], [[]], step=100)
    assert active.n_rebuilds == 1
    np.testing.assert_array_equal(active.get_state()["tables.ids"], before["tables.ids"])


ORDERS = [hashing.DWTA(2, 6, 4), hashing.MinHash(2, 6, 5)]


@pytest.mark.parametrize("family", ORDERS, ids=repr)
def test_neurons_of_zeros_are_retrieved_as_those_of_random_weights(family):
    """Families of orders and sets have no angle: zeros are like values in random order."""
    rng = np.random.default_rng(0)
    x = inputs(rng.standard_normal((20, 16)))
    found = {}
    for name, w in (("zeros", np.zeros((200, 16))), ("random", rng.standard_normal((200, 16)))):
        counts = []
        for seed in range(40):
            active = active_set(sampling.LSH(family, 200, rebuild_every=50), parameters(w), seed)
            own = active.select_batch(parameters(w), x, [[]] * 20)[2]
            assert active.retriever.statistics()["outside"] == 0
            counts.append(np.mean([len(ids) for ids, _ in own]))
        found[name] = np.mean(counts), np.std(counts) / math.sqrt(40)
        if name == "zeros":
            # They stay in their buckets.
            before = active.get_state()
            active.weights_moved()
            active.select_batch(parameters(w), x[:1], [[]], step=100)
            assert active.n_rebuilds == 1
            np.testing.assert_array_equal(active.get_state()["tables.ids"], before["tables.ids"])
    assert found["zeros"][0] == pytest.approx(found["random"][0], rel=0.25)
    if isinstance(family, hashing.DWTA):
        mean, error = found["zeros"]
        assert abs(mean - 200 * retrieval_probability(1 / 4, 2, 6)) < SIGMAS * error


@pytest.mark.parametrize("family", ORDERS, ids=repr)
def test_other_neurons_without_a_code_stay_outside(family):
    """Weights that are not above 0 have no set; few values in many may have no winner."""
    w = np.zeros((90, 1200))
    w[:, :3] = -np.random.default_rng(0).random((90, 3))
    w[30:60] = 0
    active = active_set(sampling.LSH(family, 90), parameters(w))
    active.select_batch(parameters(w), inputs(np.ones((1, 1200))), [[]])
    state, codes = active.get_state(), family.codes(w, seed=0)
    nowhere = codes == 2**64 - 1
    assert nowhere[30:60].all()
    nowhere[30:60] = False
    assert nowhere.any()
    for t, starts in enumerate(state["tables.starts"]):
        members = state["tables.ids"][t][: starts[-1]]
        np.testing.assert_array_equal(np.sort(members), np.flatnonzero(~nowhere[:, t]))


@pytest.mark.parametrize(
    "family", [*ORDERS, *(hashing.Transformed(family, centred=True) for family in ORDERS)], ids=repr
)
def test_layers_of_orders_that_begin_at_zero_learn(family):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((400, 8)).astype(np.float32), rng.integers(0, 50, 400)
    x += 2 * rng.standard_normal((50, 8)).astype(np.float32)[y]
    sampler = sampling.LSH(family, 30, rebuild_every=5)
    output = slide.Dense(50, "softmax", sampler=sampler, kernel_initializer="zeros")
    model = slide.Sequential([slide.Input(8, sparse=False), slide.Dense(16, "relu"), output])
    model.compile(slide.optimizers.Adam(0.01))
    model.fit(x, y, batch_size=50, epochs=10, verbose=0, n_jobs=1)
    assert model.evaluate(x, y)["loss"] < 0.8 * math.log(50)


@pytest.mark.parametrize("correction", [None, "logq"])
def test_a_layer_that_begins_at_zero_learns(correction):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((400, 8)).astype(np.float32), rng.integers(0, 50, 400)
    x += 2 * rng.standard_normal((50, 8)).astype(np.float32)[y]
    sampler = sampling.LSH(hashing.SimHash(2, 4), 30, rebuild_every=5, correction=correction)
    output = slide.Dense(50, "softmax", sampler=sampler, kernel_initializer="zeros")
    model = slide.Sequential([slide.Input(8, sparse=False), slide.Dense(16, "relu"), output])
    model.compile(slide.optimizers.Adam(0.01))
    model.fit(x, y, batch_size=50, epochs=10, verbose=0, n_jobs=1)
    assert model.evaluate(x, y)["loss"] < 0.8 * math.log(50)


# ------------------------------------------------------------------------------ two phases


def test_of_too_many_a_known_share_is_kept():
    """All are in one bucket: the probability is the share alone, and labels take no part in it."""
    p = parameters(np.ones((60, 3)))
    active = redrawn(hashing.SimHash(2, 2), p, max_active=13)
    counts = np.zeros(60)
    n = 2000
    _, _, own = active.select_batch(p, inputs(np.ones((n, 3))), [[7, 3, 50]] * n)
    for ids, pi in own:
        assert len(ids) == 13
        np.testing.assert_array_equal(ids[:3], [7, 3, 50])
        np.testing.assert_array_equal(pi[:3], 1)
        np.testing.assert_allclose(pi[3:], 10 / 57, rtol=1e-5)
        counts[ids[3:]] += 1
    others = np.delete(counts, [7, 3, 50])
    z = (others - n * 10 / 57) / math.sqrt(n * 10 / 57 * 47 / 57)
    assert np.abs(z).max() < SIGMAS
    assert counts[[7, 3, 50]].sum() == 0


def test_more_labels_than_may_be_active_leave_one_retrieved():
    p = parameters(np.ones((60, 3)))
    active = redrawn(hashing.SimHash(2, 2), p, max_active=5)
    _, _, ids, pi = select_one(active, p, np.ones(3), range(9))
    assert len(ids) == 10
    assert pi[9] == pytest.approx(1 / 51, rel=1e-5)


# ------------------------------------------------------------------------- tails by frequency


def counted(active, counts):
    """Let the active set have seen labels, `counts` of each, and order them before the next."""
    p = parameters(np.zeros((len(counts), 3)))
    state = active.get_state()
    state.update(counts=np.array(counts, np.int64), next_order=np.zeros(1, np.int64))
    active.set_state(state)
    active.select_batch(p, inputs(np.zeros((1, 3))), [[]])
    return p


def expected_pi(counts, power, n):
    """By bisection for c."""
    q = (np.asarray(counts, float) + 1) ** power
    q += 0.1 * q.mean()
    low, high = 0.0, 1e9
    for _ in range(200):
        c = (low + high) / 2
        low, high = (c, high) if np.minimum(1, c * q).sum() < n else (low, c)
    return np.minimum(1, low * q)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("power", [0.0, 0.75, 1.0])
def test_unigram_probabilities_are_exact(power, shared):
    counts = np.array([0, 0, 1, 2, 3, 5, 8, 13, 21, 500])
    active = active_set(sampling.Unigram(4, power, shared=shared), parameters(np.zeros((10, 3))))
    p = counted(active, counts)
    pi = expected_pi(counts, power, 4)
    n = 2000
    hits, x = np.zeros(10), inputs(np.zeros((1, 3)))
    if shared:
        for step in range(n):
            ids, found, _ = active.select_batch(p, x, [[]], step=step)
            assert len(set(ids)) == 4
            assert np.abs(found - pi[ids]).max() < 1e-5
            hits[ids] += 1
    else:
        for ids, found in active.select_batch(p, inputs(np.zeros((n, 3))), [[]] * n)[2]:
            assert len(set(ids)) == 4
            assert np.abs(found - pi[ids]).max() < 1e-5
            hits[ids] += 1
    z = (hits - n * pi) / np.sqrt(np.maximum(n * pi * (1 - pi), 1e-9))
    assert np.abs(z[pi < 1 - 1e-9]).max() < SIGMAS
    np.testing.assert_array_equal(hits[pi > 1 - 1e-9], n)
    assert power == 0 or pi[9] == pytest.approx(1)


@pytest.mark.parametrize("shared", [True, False])
def test_unigram_tail_of_all_neurons_and_of_one(shared):
    p = parameters(np.zeros((7, 3)))
    for n in (1, 7):
        active = active_set(sampling.Unigram(n, shared=shared), p)
        ids, pi, own = active.select_batch(p, inputs(np.zeros((1, 3))), [[]])
        ids, pi = (ids, pi) if shared else own[0]
        assert len(set(ids)) == n
        np.testing.assert_allclose(pi, n / 7, rtol=1e-6)


def test_own_unigram_tail_leaves_the_probabilities_of_others_alone():
    """Labels and frequent neurons are never drawn twice; probabilities are of a draw from all but
    the frequent ones."""
    counts = 200 * np.arange(30)
    sampler = sampling.Mixture([sampling.Frequent(3), sampling.Unigram(6, shared=False)])
    active = active_set(sampler, parameters(np.zeros((30, 3))))
    p = counted(active, counts)
    pi = expected_pi(counts[:27], 0.75, 6)
    n = 1500
    hits = np.zeros(30)
    shared, _, own = active.select_batch(p, inputs(np.zeros((n, 3))), [[5, 26]] * n)
    assert set(shared) == {27, 28, 29}
    for ids, found in own:
        assert len(set(ids)) == len(ids) <= 8
        np.testing.assert_array_equal(ids[:2], [5, 26])
        np.testing.assert_array_equal(found[:2], 1)
        np.testing.assert_allclose(found[2:], pi[ids[2:]], rtol=1e-5)
        hits[ids[2:]] += 1
    assert hits[[5, 26, 27, 28, 29]].sum() == 0
    others = np.delete(np.arange(27), [5, 26])
    z = (hits[others] - n * pi[others]) / np.sqrt(n * pi[others] * (1 - pi[others]))
    assert np.abs(z).max() < SIGMAS


def test_without_correction_unigram_tails_have_weight_one():
    for shared in (True, False):
        active = active_set(
            sampling.Unigram(4, correction=None, shared=shared), parameters(np.zeros((10, 3)))
        )
        p = counted(active, np.arange(10))
        _, pi, own = active.select_batch(p, inputs(np.zeros((1, 3))), [[]])
        np.testing.assert_array_equal(pi if shared else own[0][1], 1)


@pytest.mark.parametrize("shared", [True, False])
def test_unigram_state_comes_back(shared):
    sampler = sampling.Mixture([sampling.Frequent(3), sampling.Unigram(6, shared=shared)])
    active = active_set(sampler, parameters(np.zeros((30, 3))))
    p = counted(active, np.arange(30))
    other = active_set(sampler, parameters(np.zeros((30, 3))), seed=5)
    other.set_state(active.get_state())
    for step in range(1, 6):
        a, b = (
            each.select_batch(p, inputs(np.zeros((2, 3))), [[1], [2]], step=step)
            for each in (active, other)
        )
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])
        for (ids, pi), (ids_, pi_) in zip(a[2], b[2], strict=True):
            np.testing.assert_array_equal(ids, ids_)
            np.testing.assert_array_equal(pi, pi_)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tail.order", lambda a: a[:-1]),
        ("tail.order", lambda a: np.zeros_like(a)),
        ("tail.order", lambda a: a + 1),
        ("tail.sums", lambda a: a[::-1].copy()),
        ("tail.sums", lambda a: a * 2),
        ("tail.sums", lambda a: a * np.nan),
        ("tail.items", lambda a: a - 1),
        ("counts", lambda a: a - 1),
    ],
)
def test_unigram_state_that_cannot_be_is_refused(name, change):
    active = active_set(sampling.Unigram(6), parameters(np.zeros((30, 3))))
    counted(active, np.arange(30))
    before, state = active.get_state(), active.get_state()
    state[name] = change(state[name])
    with pytest.raises(ValueError, match="layer"):
        active.set_state(state)
    for key, array in active.get_state().items():
        np.testing.assert_array_equal(array, before[key])


# ---------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("family", "words"),
    [
        (hashing.Clusters(), "retrieves the same neurons .* tail corrects"),
        (hashing.Sketches(n_cells=8), "random tail .*correct"),
        (hashing.WTA(), "order of all coordinates"),
        (hashing.DWTA(), "order of all coordinates"),
        (hashing.MinHash(), "sets of the largest"),
        (hashing.SimHash(6, 5, n_probes=2), "n_probes=2"),
        (hashing.E2LSH(6, 5, n_probes=3), "n_probes=3"),
    ],
)
def test_families_without_a_formula_are_named(family, words):
    with pytest.raises(ValueError, match=words) as caught:
        sampling.LSH(family, correction="logq")
    assert repr(family) in str(caught.value)
    assert sampling.LSH(family).correction is None


def test_corrections_that_are_none():
    simhash = hashing.SimHash(6, 5)
    with pytest.raises(ValueError, match="correction"):
        sampling.LSH(simhash, correction="inverse")
    with pytest.raises(ValueError, match="min_active=3"):
        sampling.LSH(simhash, 10, 3, correction="logq")
    logq = sampling.LSH(simhash, 10, correction="logq")
    for tail in (sampling.Uniform(5), sampling.Unigram(5)):
        with pytest.raises(ValueError, match="set correction=None"):
            sampling.Mixture([logq, tail])
    with pytest.raises(ValueError, match="one each"):
        sampling.Mixture([sampling.Uniform(5), sampling.Unigram(5)])
    model = slide.Sequential(
        [slide.Input(4, sparse=False), slide.Dense(20, "relu", sampler=logq), slide.Dense(3)]
    )
    with pytest.raises(ValueError, match="correction is for output layers"):
        model.build()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n": 0}, "n must"),
        ({"n": 1.5}, "n must"),
        ({"n": 3, "power": -0.1}, "power"),
        ({"n": 3, "power": 1.5}, "power"),
        ({"n": 3, "power": float("nan")}, "power"),
        ({"n": 3, "correction": "no"}, "correction"),
        ({"n": 3, "shared": 1}, "shared"),
    ],
)
def test_unigram_refuses(arguments, words):
    with pytest.raises((ValueError, TypeError), match=words):
        sampling.Unigram(**arguments)
    with pytest.raises(ValueError, match="layer of 10 neurons"):
        sampling.Unigram(11).active_set(10, 4, 0, 1)


def test_descriptions_come_back():
    for sampler in (
        sampling.Unigram(0.25, 0.5, None, False),
        sampling.LSH(hashing.SimHash(3, 4), 10, correction="logq"),
        sampling.Mixture([sampling.Frequent(3), sampling.Unigram(4)]),
    ):
        again = sampling.get(sampling.serialize(sampler))
        assert repr(again) == repr(sampler)
        assert sampling.serialize(again) == sampling.serialize(sampler)


# ------------------------------------------------------------------------------- estimates

HEADS = {
    "simhash": lambda: sampling.LSH(hashing.SimHash(3, 3), max_active=15, rebuild_every=50),
    "dwta": lambda: sampling.LSH(hashing.DWTA(1, 3, 3), max_active=15),
    "clusters": lambda: sampling.LSH(hashing.Clusters(8), max_active=15),
    "sketches": lambda: sampling.LSH(hashing.Sketches(16), max_active=15),
}
TAILS = {
    "uniform, shared": lambda: sampling.Uniform(20),
    "uniform, own": lambda: sampling.Uniform(20, shared=False),
    "unigram, shared": lambda: sampling.Unigram(20),
    "unigram, own": lambda: sampling.Unigram(20, shared=False),
}


def estimates(active, p, x, labels, f, n_draws, first_step=0):
    """Of every draw, the sum of f(id) / pi over the sample."""
    out, x = np.empty(n_draws), inputs(x)
    for step in range(n_draws):
        shared, pi, own = active.select_batch(p, x, [labels], step=first_step + step)
        ids, own_pi = own[0]
        fresh = ~np.isin(shared, ids)
        out[step] = (f[ids] / own_pi).sum() + (f[shared] / pi)[fresh].sum()
    return out


def assert_unbiased(estimate, truth):
    error = estimate.std() / math.sqrt(len(estimate))
    assert abs(estimate.mean() - truth) < SIGMAS * error
    assert error < 0.05 * truth, "too noisy to tell"
    return error


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("head", [None, *HEADS])
def test_the_partition_function_is_unbiased_with_a_tail(head, tail):
    """Whatever the head retrieves, the mean over draws of the tail is the sum over the layer."""
    p, x = some_layer(4, 80, 6, spread=1.0)
    parts = [HEADS[head]()] if head else []
    active = active_set(sampling.Mixture([*parts, sampling.Frequent(4), TAILS[tail]()]), p)
    counts = np.arange(80) % 9
    labels = [[i] for i in np.repeat(np.arange(80), counts)]
    active.select_batch(p, inputs(np.tile(x, (len(labels), 1))), labels)
    f = np.exp(np.asarray(p.weights)[:, :6] @ x)
    assert_unbiased(estimates(active, p, x, [2, 77], f, 300, 1), f.sum())


@pytest.mark.parametrize("most", [20, 80], ids=["two phases", "all kept"])
@pytest.mark.parametrize("name", ["simhash", "sign_alsh", "e2lsh", "cross-polytope"])
def test_the_partition_function_is_unbiased_over_redrawn_functions(name, most):
    p, x = some_layer(5, 80, 6, spread=1.0)
    active = redrawn(EXACT[name], p, max_active=most)
    f = np.exp(0.5 * np.asarray(p.weights)[:, :6] @ x)
    estimate = estimates(active, p, x, [2, 40], f, 800)
    assert_unbiased(estimate, f.sum())
    assert estimate.std() > 1e-3, "nothing was left to chance"


def test_tables_that_are_renewed_one_by_one_are_unbiased():
    p, x = some_layer(6, 60, 6, spread=1.0)
    family = hashing.SimHash(2, 3)
    sampler = sampling.LSH(family, 60, rebuild_every=1, schedule="rolling", correction="logq")
    active = active_set(sampler, p)
    f = np.exp(0.5 * np.asarray(p.weights)[:, :6] @ x)
    # After three steps all tables have new functions: those draws are independent.
    assert_unbiased(estimates(active, p, x, [], f, 1800)[::3], f.sum())


def test_functions_that_stay_the_same_are_biased_and_uncorrected_ones_as_well():
    """What the two tests above could not tell apart, they would not test."""
    p, x = some_layer(5, 80, 6, spread=1.0)
    f = np.exp(0.5 * np.asarray(p.weights)[:, :6] @ x)
    fixed = active_set(sampling.LSH(hashing.SimHash(2, 3), 20, correction="logq"), p)
    plain = active_set(
        sampling.LSH(hashing.SimHash(2, 3), 20, rebuild_every=1, new_functions_every=1), p
    )
    for active in (fixed, plain):
        estimate = estimates(active, p, x, [], f, 1000)
        error = estimate.std() / math.sqrt(len(estimate))
        assert abs(estimate.mean() - f.sum()) > 2 * SIGMAS * error


# --------------------------------------------------------------------------------- networks

LOSSES = [
    ("softmax", "categorical_crossentropy"),
    ("sigmoid", BinaryCrossentropy("sum")),
    ("sigmoid", BinaryCrossentropy("mean")),
    ("tanh", "mean_squared_error"),
]
LOGQ = {
    "unigram, shared": lambda: sampling.Unigram(15),
    "unigram, own": lambda: sampling.Unigram(15, shared=False),
    "frequent and unigram": lambda: sampling.Mixture([sampling.Frequent(3), sampling.Unigram(12)]),
    "head and own unigram": lambda: sampling.Mixture(
        [sampling.LSH(hashing.SimHash(3, 2), max_active=10), sampling.Unigram(9, shared=False)]
    ),
    "lsh": lambda: sampling.LSH(
        hashing.SimHash(2, 3), 25, rebuild_every=1, new_functions_every=1, correction="logq"
    ),
    "lsh and frequent": lambda: sampling.Mixture(
        [
            sampling.LSH(
                hashing.SimHash(2, 3, transform="simple_lsh"),
                15,
                rebuild_every=1,
                new_functions_every=1,
                correction="logq",
            ),
            sampling.Frequent(5),
        ]
    ),
}


@pytest.mark.parametrize(("activation", "loss"), LOSSES)
@pytest.mark.parametrize("name", LOGQ)
def test_weighted_losses_and_gradients_against_the_oracle(name, activation, loss):
    """A kernel with the same state, seed and step tells what the network's step selects."""
    rng = np.random.default_rng(20)
    model = make_model([4, 40], [activation], sparse=False, sampler=LOGQ[name]())
    twin = make_model([4, 40], [activation], sparse=False, sampler=LOGQ[name]())
    x = rng.normal(size=(5, 4)).astype(np.float32)
    y = np.zeros((5, 40), np.float32)
    y[np.arange(5)[:, None], rng.permuted(np.tile(np.arange(40), (5, 1)), axis=1)[:, :3]] = 1.0
    if loss == "mean_squared_error":
        y *= rng.normal(size=y.shape).astype(np.float32)
    twin.compile(slide.optimizers.SGD(1.0), loss)
    model.compile(slide.optimizers.SGD(1.0), loss)
    model.train_on_batch(x, y, n_jobs=1)  # labels were counted
    start = twin.get_weights()
    twin.train_on_batch(x, y, n_jobs=1)
    twin.set_weights(start)
    model.set_weights(start)
    active, log_pi = selected_by(twin, x, y)
    assert (log_pi[active] < -0.01).any()
    found = one_more_step(model, x, y)
    assert_same(found, oracle(model, x, y, loss, None, active, log_pi))


def test_all_neurons_by_frequency_are_no_sampling():
    rng = np.random.default_rng(21)
    x = rng.normal(size=(6, 4)).astype(np.float32)
    y = np.eye(17, dtype=np.float32)[rng.integers(0, 17, 6)]
    for activation, loss in LOSSES:
        full = make_model([4, 17], [activation], sparse=False)
        expected = gradients_of_one_step(full, x, y, loss)
        for shared in (True, False):
            sampler = sampling.Unigram(1.0, shared=shared)
            model = make_model([4, 17], [activation], sparse=False, sampler=sampler)
            assert_same(gradients_of_one_step(model, x, y, loss), expected)


@pytest.mark.parametrize("name", ["lsh", "unigram, shared", "unigram, own", "head and own unigram"])
def test_gradients_of_sums_over_outputs_are_unbiased(name):
    """Binary cross-entropy, exact in expectation: 5 standard errors along 40 random directions.

    A single neuron that is drawn with probability 0.01 is too far from normal for that.
    """
    rng = np.random.default_rng(22)
    sampler = LOGQ[name]()
    for part in getattr(sampler, "samplers", [sampler]):
        if isinstance(part, sampling.Unigram):
            part.n, part.power = 30, 0.5
    model = make_model([4, 60], ["sigmoid"], sparse=False, sampler=sampler)
    x = rng.normal(size=(4, 4)).astype(np.float32)
    y = (rng.random((4, 60)) < 0.05).astype(np.float32)
    loss = BinaryCrossentropy("sum")
    truth = np.concatenate([g.ravel() for g in oracle(model, x, y, loss)[1]])
    directions = rng.choice([-1.0, 1.0], (len(truth), 40))
    draws = gradients_over_draws(model, x, y, loss, 300) @ directions
    error = draws.std(axis=0) / math.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - truth @ directions) < SIGMAS * error).all()
    assert (error > 0.01).all(), "nothing was drawn at random"
    assert (error < 0.2 * np.linalg.norm(truth)).all(), "too noisy to tell"


@pytest.mark.parametrize("name", ["lsh", "unigram, shared", "unigram, own"])
def test_softmax_gradients_have_the_bias_of_a_ratio_only(name):
    """1 / Z is estimated by the inverse of an unbiased estimate: a bias of the order of its
    relative variance, well below what leaving the weights away does to the gradient."""
    rng = np.random.default_rng(23)
    x = rng.normal(size=(4, 4)).astype(np.float32)
    y = np.eye(60, dtype=np.float32)[[1, 20, 33, 59]]
    loss = "categorical_crossentropy"
    bias = []
    for correction in ("logq", None):
        sampler = LOGQ[name]()
        sampler.correction = correction
        model = make_model([4, 60], ["softmax"], sparse=False, sampler=sampler)
        truth = np.concatenate([g.ravel() for g in oracle(model, x, y, loss)[1]])
        draws = gradients_over_draws(model, x, y, loss, 250)
        bias.append(np.linalg.norm(draws.mean(axis=0) - truth) / np.linalg.norm(truth))
    assert bias[0] < 0.1
    assert bias[0] < bias[1] / 2


@pytest.mark.parametrize("name", LOGQ)
def test_a_saved_model_goes_on_as_the_one_that_was_saved(name, tmp_path):
    rng = np.random.default_rng(24)
    x = rng.normal(size=(30, 4)).astype(np.float32)
    y = rng.integers(0, 40, 30)
    model = make_model([4, 40], ["softmax"], sparse=False, sampler=LOGQ[name]())
    model.compile(slide.optimizers.SGD(0.1), "categorical_crossentropy")
    model.fit(x, y, batch_size=8, verbose=0)
    model.save(tmp_path / "model.slide")
    again = slide.load(tmp_path / "model.slide")
    for one in (model, again):
        one.fit(x, y, batch_size=8, verbose=0)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def gradients_over_draws(model, x, y, loss, n):
    start = model.get_weights()
    model.compile(slide.optimizers.SGD(1.0), loss)
    draws = []
    family = getattr(model.layers[-1].active_set(1).retriever, "family", None)
    for i in range(n):
        if family is not None:  # weights that are set build the tables anew, but draw nothing
            family.renew(i, 0, family.n_tables)
        model.train_on_batch(x, y, n_jobs=1)
        after = model.get_weights()
        model.set_weights(start)
        draws.append(np.concatenate([(b - a).ravel() for b, a in zip(start, after, strict=True)]))
    return np.array(draws, np.float64)


def one_more_step(model, x, y):
    before = model.get_weights()
    loss = model.train_on_batch(x, y, n_jobs=1)["loss"]
    after = model.get_weights()
    model.set_weights(before)
    return loss, [b.astype(float) - a for b, a in zip(before, after, strict=True)]


def selected_by(model, x, y):
    """Active neurons and logs of their probabilities, (n, n_out), of the model's next step."""
    layer, n_out = model.layers[-1], y.shape[1]
    rows = inputs(np.hstack([x, np.ones((len(x), 1), np.float32)]))
    shared, pi, own = layer.active_set(1).select_batch(
        layer._parameters(False), rows, [np.flatnonzero(row) for row in y], model.seed, model.step
    )
    active, log_pi = np.zeros((len(x), n_out), bool), np.zeros((len(x), n_out))
    for s, (ids, own_pi) in enumerate(own):
        active[s, shared], log_pi[s, shared] = True, np.log(pi)
        active[s, ids], log_pi[s, ids] = True, np.log(own_pi)
    return active, log_pi


@pytest.mark.parametrize(
    "change",
    [
        {"strategy": "union"},
        {"strategy": "top_k"},
        {"query": "label"},
        {"candidates": 2.0},
        {"bucket_size": 8},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", [hashing.SimHash(4, 6), hashing.Sketches()], ids=repr)
def test_no_correction_of_what_has_other_probabilities(family, change):
    name = next(iter(change))
    with pytest.raises(ValueError, match=f"correction='logq' with {name}="):
        sampling.LSH(family, correction="logq", **change)
