"""Inner-product transforms before any family: identities, kernels against NumPy, probabilities.

Frequencies are compared within 5 standard errors; seeds are given.
"""

import numpy as np
import pytest
import reference as ref

import slide
from slide import hashing, rebuilds
from slide._kernels.optim import Parameters
from slide._memory import aligned_zeros, padded
from slide.hashing import DWTA, E2LSH, WTA, CrossPolytope, MinHash, SimHash, Transformed
from slide.sampling import LSH

SIGMAS = 5.0
TERMS = {None: (0, 1.0), "sign_alsh": (2, 0.75), "l2_alsh": (3, 0.83), "simple_lsh": (1, 1.0)}
EUCLIDEAN = E2LSH(2, 9, transform=None)
FAMILIES = [
    Transformed(SimHash(6, 9), "simple_lsh"),
    Transformed(SimHash(6, 9, "hadamard"), "sign_alsh", n_ranges=3),
    Transformed(SimHash(6, 9, "sparse"), "simple_lsh", n_ranges=5, centred=True),
    Transformed(SimHash(60, 2, "rademacher"), "simple_lsh", n_ranges=40),  # range mixed in
    Transformed(CrossPolytope(1, 9), "simple_lsh", n_ranges=2),
    Transformed(CrossPolytope(1, 9, "hadamard"), "sign_alsh", centred=True),
    Transformed(EUCLIDEAN, "l2_alsh"),
    Transformed(EUCLIDEAN, "l2_alsh", n_ranges=4, centred=True),
    Transformed(EUCLIDEAN, centred=True),
    Transformed(WTA(2, 9, 4), centred=True),
    Transformed(DWTA(2, 9, 4), centred=True),
    Transformed(MinHash(1, 9, 8), centred=True),
]


def aligned(X):
    rows = aligned_zeros((len(X), padded(X.shape[1])))
    rows[:, : X.shape[1]] = X
    return rows


def parameters(weights):
    none = np.zeros((len(weights), 0), np.float32)
    return Parameters(aligned(weights), none, none, weights.shape[1], weights.shape[1] - 1)


def vectors(n=300, dim=15, seed=0):
    """Weights of norms that differ by a factor of 20, around a common vector; queries."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(n, dim)) * rng.uniform(0.1, 2.0, (n, 1)) + 0.4 * rng.normal(size=dim)
    return w.astype(np.float32), rng.normal(size=(20, dim)).astype(np.float32)


# ----------------------------------------------------------------------------- identities


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("n_ranges", [1, 4])
@pytest.mark.parametrize("name", ["sign_alsh", "simple_lsh", "l2_alsh"])
def test_identities(name, n_ranges, centred):
    """The angle or distance of P(w) and Q(q) depends on w . q and, but for Simple-LSH, on a power
    of |w| that is below U^(2^(m+1))."""
    w, q = vectors()
    family = Transformed(EUCLIDEAN if name == "l2_alsh" else SimHash(), name, n_ranges, centred)
    m, bound = TERMS[name]
    P, Q = family.neurons(w), family.queries(q)
    assert P.shape == (300, 15 + m)
    assert Q.shape == (20, 15 + m)
    which, limits = family.ranges(w)
    v = w - w.mean(axis=0, dtype=float) if centred else w.astype(float)
    norm = np.linalg.norm(v, axis=1)
    scaled = bound * v / limits[which][:, None]
    unit = q / np.linalg.norm(q.astype(float), axis=1, keepdims=True)
    inner = scaled @ unit.T
    power = np.linalg.norm(scaled, axis=1)[:, None]
    last = power ** (2 ** (m + 1))
    assert power.max() <= bound + 1e-12
    lengths = np.linalg.norm(P, axis=1)[:, None] * np.linalg.norm(Q, axis=1)
    if name == "simple_lsh":
        # The cosine is w . q over the range's largest norm and |q|.
        np.testing.assert_allclose(P @ Q.T / lengths, inner, atol=1e-12)
        np.testing.assert_allclose(np.linalg.norm(P, axis=1), 1)
    elif name == "sign_alsh":
        np.testing.assert_allclose(P @ Q.T / lengths, inner / np.sqrt(m / 4 + last))
        assert last.max() <= bound**8 + 1e-12  # 0.1
    else:
        squared = ((P[:, None] - Q) ** 2).sum(axis=2)
        np.testing.assert_allclose(squared, 1 + m / 4 - 2 * inner + last)
        assert last.max() <= bound**16 + 1e-12  # 0.05
    # Ranges: of the same size, by norm, each with its largest norm for a limit.
    assert np.ptp(np.bincount(which)) <= 1
    for r in range(n_ranges - 1):
        assert limits[r] == pytest.approx(norm[which == r].max())
        assert norm[which == r].max() <= norm[which == r + 1].min()
    assert limits[-1] == pytest.approx(1.1 * norm.max())


def test_a_centre_leaves_the_ranking():
    w, q = vectors()
    centred = Transformed(WTA(1, 1, 2), centred=True)
    before, after = w @ q.T, centred.neurons(w) @ centred.queries(q).T
    np.testing.assert_array_equal(np.argsort(before, axis=0), np.argsort(after, axis=0))
    np.testing.assert_allclose(centred.neurons(w).mean(axis=0), 0, atol=1e-9)


# ----------------------------------------------------------------------------- kernels


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_kernels_hash_what_numpy_transforms(family):
    """Codes are those of the family itself for P(w) and Q(q), and the range. A value within
    rounding of a border may fall on either side: 1% of the codes may differ."""
    w, q = vectors()
    retriever = family.retriever(300, 15, 7, 1)
    kernel = retriever.family
    kernel.fit_to(parameters(w))
    which, limits = family.ranges(w)
    arrays = kernel.arrays
    if family.centred:
        np.testing.assert_allclose(arrays["centre"][:15], w.mean(axis=0), rtol=1e-5, atol=1e-6)
    else:
        assert not arrays["centre"].any()
    if family.transform:
        np.testing.assert_allclose(arrays["limits"], limits, rtol=1e-5)
    inner_w = family.family.codes(family.neurons(w), 7)
    inner_q = family.family.codes(family.queries(q), 7)
    codes, asked = kernel.hash(aligned(w)), kernel.query_hash(aligned(q))
    bits = {SimHash: 6, CrossPolytope: 5, E2LSH: 63}.get(type(family.family))
    if family.n_ranges == 1:
        assert (codes == inner_w).mean() > 0.99
        assert (asked == inner_q).mean() > 0.99
    elif family.family is EUCLIDEAN or family.n_ranges == 40:
        # Mixed: neurons have one code if and only if range and code of the family are the same.
        for t in range(family.n_tables):
            pairs = np.unique(np.column_stack([which.astype(np.uint64), inner_w[:, t]]), axis=0)
            assert len(np.unique(codes[:, t])) == pytest.approx(len(pairs), abs=6)
        assert kernel.code_bits == 63
    else:
        ranges = which[:, None].astype(np.uint64) << np.uint64(bits)
        assert (codes == inner_w | ranges).mean() > 0.98
        assert (asked == inner_q).mean() > 0.99
        assert kernel.code_bits == bits + (family.n_ranges - 1).bit_length()


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_neurons_are_found_under_their_own_transform(family):
    """What shares a table's code in its range is found, and nothing else but strangers."""
    w, q = vectors()
    active = LSH(family, 300, strategy="union").active_set(300, 15, 7, 1)
    active.select_batch(parameters(w), aligned(q), [[]] * 20)
    inner_w = family.family.codes(family.neurons(w), 7)
    inner_q = family.family.codes(family.queries(q), 7)
    wanted = (inner_q[:, None, :] == inner_w[None]).any(axis=2)
    found = np.zeros_like(wanted)
    for i, ids in enumerate(active.retriever.query(aligned(q), 300)):
        found[i, ids] = True
    # Long codes share a slot and 8 bits of tag with strangers: some per thousand in every table
    # and range.
    assert (wanted & ~found).mean() < 0.01
    strangers = 0.02 + family.n_tables * family.n_ranges / 2**11 * (family.n_ranges > 4)
    assert (found & ~wanted).mean() < strangers
    assert wanted.any() or family.n_ranges == 40


@pytest.mark.parametrize(
    ("family", "one"),
    [
        (Transformed(SimHash(2, 3), "simple_lsh"), "angle"),
        (Transformed(SimHash(2, 3), "sign_alsh", n_ranges=2, centred=True), "angle"),
        (Transformed(E2LSH(1, 3, transform=None), "l2_alsh", n_ranges=2), "distance"),
    ],
)
def test_retrieval_is_as_probable_as_theory_says(family, one):
    """Over 1,000 draws of the functions: 1 - (1 - p^K)^L."""
    w, q = vectors(n=12, dim=30, seed=1)
    w[:6] += 0.5 * q[0]
    P, Q = family.neurons(w), family.queries(q[:1])
    counts = np.zeros(12)
    p, query = parameters(w), aligned(q[:1])
    for seed in range(1000):
        active = LSH(family, 12).active_set(12, 30, seed, 1)
        active.select_batch(p, query, [[]])
        counts[active.retriever.query(query, 12)[0]] += 1
    for j in range(12):
        if one == "angle":
            expected = ref.retrieval_probability(ref.simhash_collision(P[j], Q[0]), 2, 3)
        else:
            single = ref.e2lsh_collision(np.linalg.norm(P[j] - Q[0]), 2.5)
            expected = ref.retrieval_probability(single, 1, 3)
        error = SIGMAS * np.sqrt(expected * (1 - expected) / 1000)
        # Mixed codes among 12 neurons: one slot bit and 8 of tag.
        strangers = 0.0 if one == "angle" else 0.02
        assert counts[j] / 1000 == pytest.approx(expected, abs=error + 1e-4 + strangers)


def test_the_longest_range_comes_first():
    w, q = vectors(n=400)
    family = Transformed(SimHash(2, 8), "simple_lsh", n_ranges=4)
    active = LSH(family, 400).active_set(400, 15, 0, 1)
    active.select_batch(parameters(w), aligned(q), [[]] * 20)
    which, _ = family.ranges(w)
    for most in (10, 60, 400):
        for found in active.retriever.query(aligned(q), most):
            assert (np.diff(which[found]) <= 0).all()
            assert len(set(found)) == len(found)
            if most == 10:
                assert set(which[found]) == {3}


def test_weights_that_outgrow_their_limits_are_fitted_anew():
    w, q = vectors()
    family = Transformed(SimHash(4, 6), "simple_lsh", n_ranges=3, centred=True)
    for change, fitted in (
        (lambda w: w * 1.0, False),
        (lambda w: w * 1.05, False),
        (lambda w: w * 1.3, True),
        (lambda w: w * 0.4, True),
        (lambda w: w + 1.0, True),
        (lambda w: w + 0.02, False),
    ):
        active = LSH(family, 300, rebuild_every=1).active_set(300, 15, 0, 1)
        p = parameters(w)
        active.select_batch(p, aligned(q[:1]), [[]], step=0)
        arrays = active.retriever.arrays
        before = {name: arrays[name].copy() for name in ("centre", "limits")}
        np.asarray(p.weights)[:, :15] = change(w)
        active.weights_moved()
        active.select_batch(p, aligned(q[:1]), [[]], step=5)
        changed = any((arrays[name] != before[name]).any() for name in before)
        assert changed == fitted
        if fitted:
            np.testing.assert_allclose(arrays["limits"], family.ranges(change(w))[1], rtol=1e-4)
        # In the buckets of the codes that the functions now give.
        codes = active.retriever.family.hash(aligned(change(w)))
        for t in range(6):
            for j in range(0, 300, 7):
                assert j in active.retriever.tables.bucket(t, int(codes[j, t]))


def test_zero_weights_and_queries():
    w = np.zeros((20, 15), np.float32)
    for family in FAMILIES:
        if family.n_ranges > 20:
            continue
        active = LSH(family, 20).active_set(20, 15, 0, 1)
        active.select_batch(parameters(w), aligned(np.zeros((1, 15))), [[]])
        for ids in active.retriever.query(aligned(np.zeros((1, 15))), 20):
            assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("inner", [SimHash(3, 9), CrossPolytope(1, 9), WTA(2, 9, 4)], ids=repr)
def test_neurons_that_are_all_their_mean_are_found(inner):
    w, q = np.ones((200, 15), np.float32), vectors()[1]
    active = LSH(Transformed(inner, centred=True), 200).active_set(200, 15, 0, 1)
    active.select_batch(parameters(w), aligned(q), [[]] * 20)
    assert active.retriever.statistics()["outside"] == 0
    assert isinstance(inner, WTA) or all(map(len, active.retriever.query(aligned(q), 200)))


# ----------------------------------------------------------------------------- recall


def recall(family, w, q):
    """Of the 10 largest among 100 neurons retrieved, over 4 draws of the functions."""
    best, found = np.argsort(-q @ w.T, axis=1)[:, :10], []
    for seed in range(4):
        active = LSH(family, 100).active_set(*w.shape, seed, 1)
        active.select_batch(parameters(w), aligned(q), [[]] * len(q))
        ids = active.retriever.query(aligned(q), 100)
        found += [np.isin(b, i).mean() for b, i in zip(best, ids, strict=True)]
    return np.mean(found)


def test_ranges_find_more_where_norms_have_a_long_tail():
    rng = np.random.default_rng(3)
    w = rng.normal(size=(2000, 24)) * np.exp(0.7 * rng.normal(size=(2000, 1)))
    q = rng.normal(size=(50, 24)).astype(np.float32)
    one, many = (
        recall(Transformed(SimHash(6, 20), "simple_lsh", n), w.astype(np.float32), q)
        for n in (1, 8)
    )
    assert one + 0.1 < many


@pytest.mark.parametrize("inner", [SimHash(6, 20), DWTA(2, 20, 4)], ids=repr)
def test_a_centre_finds_more_where_weights_have_much_in_common(inner):
    rng = np.random.default_rng(4)
    w = (rng.normal(size=(2000, 24)) + 4 * rng.normal(size=24)).astype(np.float32)
    q = rng.normal(size=(50, 24)).astype(np.float32)
    assert recall(inner, w, q) + 0.03 < recall(Transformed(inner, centred=True), w, q)


# ------------------------------------------------------------------- configuration, errors


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_configurations_come_back(family):
    copy = hashing.get(hashing.serialize(family))
    assert repr(copy) == repr(family)
    assert copy.get_config() == family.get_config()
    m = TERMS[family.transform][0]
    assert family.cost(20) == family.family.cost(20 + m)
    with pytest.raises(ValueError, match="differently"):
        family.codes(np.ones((2, 15)))


@pytest.mark.parametrize(
    ("make_it", "words"),
    [
        (lambda: Transformed("clusters", centred=True), "without a look at the data.*Clusters"),
        (lambda: Transformed(E2LSH(), "l2_alsh"), "no transform of its own"),
        (lambda: Transformed(SimHash(n_probes=2), "simple_lsh"), "one probe"),
        (lambda: Transformed(SimHash(4, 2, "principal"), "simple_lsh"), "without a look"),
        (lambda: Transformed(FAMILIES[0], "simple_lsh"), "no transform of its own"),
        (lambda: Transformed(SimHash(), "l2_alsh"), "'l2_alsh' does not suit SimHash"),
        (lambda: Transformed(EUCLIDEAN, "simple_lsh"), "'simple_lsh' does not suit E2LSH"),
        (lambda: Transformed(DWTA(), "simple_lsh"), "does not suit DWTA"),
        (lambda: Transformed(MinHash(), "sign_alsh"), "does not suit MinHash"),
        (lambda: Transformed(SimHash(), "alsh"), "transform must be one of"),
        (lambda: Transformed(SimHash()), "nothing is transformed"),
        (lambda: Transformed(DWTA(), n_ranges=3, centred=True), "n_ranges=3 without a transform"),
        (lambda: Transformed(SimHash(), "simple_lsh", n_ranges=0), "n_ranges"),
        (lambda: FAMILIES[2].neurons(np.ones((3, 4))), "3 rows, fewer than the 5 ranges"),
        (lambda: FAMILIES[0].neurons(np.ones(4)), r"W must have shape \(n, d\)"),
        (lambda: FAMILIES[0].queries([[np.nan]]), "X has values that are not finite"),
        (lambda: FAMILIES[2].ranges(np.ones((3, 4))), "3 rows, fewer than the 5 ranges"),
    ],
)
def test_what_cannot_be(make_it, words):
    with pytest.raises(ValueError, match=words):
        make_it()


def test_centred_must_be_a_boolean():
    with pytest.raises(TypeError, match="centred must be True or False"):
        Transformed(SimHash(), "simple_lsh", centred=1)


def test_tables_are_not_renewed_one_by_one():
    sampler = LSH(FAMILIES[0], 10, schedule=rebuilds.Rolling())
    with pytest.raises(ValueError, match="schedule='rolling' with Transformed"):
        sampler.active_set(50, 15, 0, 1)


def test_damaged_limits_are_refused(tmp_path):
    model = slide.Sequential(
        [slide.Input(8, sparse=False), slide.Dense(50, "softmax", sampler=LSH(FAMILIES[1], 10))]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(np.ones((4, 8)), np.arange(4), verbose=0)
    active = model.layers[0]._active
    for bad in ([1.0, 0.5, 2.0], [0.0, 1.0, 2.0]):
        state = active.get_state()
        state["functions.limits"] = np.array(bad)
        with pytest.raises(ValueError, match="limits of norms do not ascend"):
            active.set_state(state)


def test_memory_is_asked_for_first(monkeypatch):
    from slide import _memory

    monkeypatch.setattr(_memory, "available_memory", lambda: 10**6)
    with pytest.raises(MemoryError, match=r"Transformed.* on 1,000,000 neurons"):
        FAMILIES[0].retriever(10**6, 100, 0, 1)
