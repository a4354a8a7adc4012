"""Tables of random projections: what is kept of the weights, transforms, buckets and probes.

Frequencies are compared within 5 standard errors: a correct family fails one comparison in 1.7
million by chance, and the seeds are given.
"""

import itertools

import numpy as np
import pytest
import reference as ref

import slide
from slide import hashing, sampling
from slide._kernels.optim import Parameters
from slide._memory import aligned_zeros, padded
from slide.hashing import E2LSH, SimHash
from slide.sampling import LSH

SIGMAS = 5.0
TERMS = {None: (0, 1.0), "sign_alsh": (2, 0.75), "l2_alsh": (3, 0.83), "simple_lsh": (1, 1.0)}
FAMILIES = {
    "simhash": SimHash(4, 3),
    "rademacher": SimHash(4, 3, "rademacher", n_probes=3),
    "sign_alsh": SimHash(4, 3, transform="sign_alsh"),
    "simple_lsh": SimHash(4, 3, transform="simple_lsh", n_probes=5),
    "l2_alsh": E2LSH(3, 4),
    "e2lsh": E2LSH(3, 4, width=1.0, transform=None, n_probes=4),
    "long": SimHash(30, 2, transform="sign_alsh"),
}


def aligned(X):
    rows = aligned_zeros((len(X), padded(X.shape[1])))
    rows[:, : X.shape[1]] = X
    return rows


def parameters(weights):
    """Of rows whose last column is the bias."""
    none = np.zeros((len(weights), 0), np.float32)
    return Parameters(aligned(weights), none, none, weights.shape[1], weights.shape[1] - 1)


def built(family, p, dim, seed=0):
    """The retriever of a layer with these weights."""
    selector = LSH(family, 1.0).selector(len(p.weights), dim, seed, 1)
    selector.active.select_batch(p, aligned(np.ones((1, dim))), [[]])
    return selector.active.retriever


def projections(retriever, family, w=None, x=None):
    """(n, L K) products of P(w) or Q(x) with the functions, and E2LSH's offsets added."""
    arrays = retriever.arrays
    k = family.n_tables * (family.n_bits if isinstance(family, SimHash) else family.n_functions)
    dim = (w if x is None else x).shape[1]
    functions = np.hstack([arrays["projections"][:k, :dim], arrays["terms"][:, :k].T])
    m, bound = TERMS[family.transform]
    if x is None:
        vectors = w
        if m:
            vectors = ref.transformed(family.transform, w, m, bound, arrays["scale"][0])
    elif family.transform == "l2_alsh":
        vectors = ref.transformed_query("l2_alsh", x, m)
    else:
        vectors = np.hstack([x, np.zeros((len(x), m))])  # signs do not know lengths
    found = vectors.astype(np.float64) @ functions.astype(np.float64).T
    return found + arrays["offsets"][0, :k] if isinstance(family, E2LSH) else found


def codes_of(values, family):
    """(n, L) codes and (n, L) distances of the nearest projection from a border, in cells."""
    if isinstance(family, SimHash):
        cells, near, bits = (values > 0).astype(int), np.abs(values), 1
    else:
        values = values / family.width
        cells = np.floor(values).astype(int)
        near = np.minimum(values - cells, 1 - (values - cells))
        bits = min(8, 63 // family.n_functions)
    cells = cells.reshape(len(values), family.n_tables, -1)
    codes = np.zeros(cells.shape[:2], np.uint64)
    for k in range(cells.shape[2]):
        codes = codes << np.uint64(bits) | (cells[:, :, k] % (1 << bits)).astype(np.uint64)
    return codes, near.reshape(cells.shape).min(axis=2)


def check_tables(layer, rounding=1e-4):
    """All neurons are in the buckets of their weights, each once a table. Where a projection is
    within rounding of a border, both sides are right."""
    active = layer._active.active if layer.hidden else layer._active
    retriever, family = active.retriever, layer.sampler.hash
    w = layer._weights[:, : layer.n_in + 1].astype(np.float64)
    arrays, k = retriever.arrays, projections(retriever, family, w=w).shape[1]
    # What is kept goes along by differences: some hundred roundings.
    exact = w @ arrays["projections"][:k, : w.shape[1]].astype(np.float64).T
    np.testing.assert_allclose(arrays["kept"][:, :k], exact, rtol=1e-4, atol=rounding)
    if family.transform is not None:
        norms = (w**2).sum(axis=1)
        np.testing.assert_allclose(arrays["norms"], norms, rtol=1e-4)
        largest, scale = np.sqrt(norms.max()), arrays["scale"][0]
        assert 0.9999 * largest <= scale <= 2.0001 * largest
    codes, near = codes_of(projections(retriever, family, w=w), family)
    assert (near > rounding).mean() > 0.9  # most are checked
    for table in range(family.n_tables):
        assert retriever.tables.sizes(table).sum() == layer.units
        for neuron in np.flatnonzero(near[:, table] > rounding):
            assert neuron in retriever.tables.bucket(table, int(codes[neuron, table]))


def network(family, hidden=True, activation="tanh", output="softmax", **arguments):
    """LSH on a dense input and on a sampled one; or above, in an output layer."""
    layers = [slide.Input(12, sparse=False), slide.Dense(40, "tanh")]
    if hidden:
        sampler = LSH(family, max_active=0.3, candidates=1.0, **arguments)
        layers += [slide.Dense(60, activation, sampler=sampler) for _ in range(2)]
        layers.append(slide.Dense(5, output))
    else:
        layers.append(slide.Dense(60, "softmax", sampler=LSH(family, max_active=20, **arguments)))
    return slide.Sequential(layers)


def samples(n, width, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 12)).astype(np.float32)
    return x, np.eye(width, dtype=np.float32)[rng.integers(0, width, n)]


# ----------------------------------------------------------------------------- tables


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("update", ["batch", "hogwild"])
@pytest.mark.parametrize("name", FAMILIES)
def test_neurons_are_in_the_buckets_of_their_weights(name, update, optimizer):
    rate = {
        "sgd": slide.optimizers.SGD(0.1),
        "momentum": slide.optimizers.SGD(0.05, momentum=0.8),
        "adam": slide.optimizers.Adam(0.01),
    }[optimizer]
    model = network(FAMILIES[name])
    x, y = samples(60, 5)
    model.compile(rate, "categorical_crossentropy", update=update)
    for _ in range(2):
        model.fit(x, y, batch_size=4, verbose=0, n_jobs=1)
        model.predict(x[:1])  # looks after the tables as the next step would
        for layer in model.layers[1:3]:
            check_tables(layer)
    # Between epochs rows are behind the clock, and tables as far as the weights are.
    model.train_on_batch(x[:6], y[:6])
    model.train_on_batch(x[6:12], y[6:12])
    model.predict(x[:1])
    for layer in model.layers[1:3]:
        check_tables(layer)


@pytest.mark.parametrize("name", FAMILIES)
def test_output_layers_have_the_same_tables(name):
    model = network(FAMILIES[name], hidden=False, rebuild_every=1)
    x, y = samples(60, 60)
    model.compile("adam", "categorical_crossentropy")
    model.fit(x, y, batch_size=6, verbose=0, n_jobs=2)
    model.predict(x[:1], top_k=1, exact=False)
    retriever = model.layers[1]._active.retriever
    if "kept" in retriever.arrays:
        check_tables(model.layers[1])
    else:
        assert name == "simhash"


@pytest.mark.parametrize(
    "arguments",
    [{"rebuild_every": 4}, {"rebuild_every": 4, "new_functions_every": 1}],
    ids=["refreshed", "new functions"],
)
@pytest.mark.parametrize(
    ("first", "second"), list(itertools.product(["batch", "hogwild"], repeat=2))
)
@pytest.mark.parametrize("name", ["simhash", "sign_alsh", "l2_alsh"])
def test_tables_after_a_change_of_the_update(name, first, second, arguments):
    """Some of a neuron's changes were kept in step and others were not, between two rebuilds."""
    model = network(FAMILIES[name], **arguments)
    x, y = samples(60, 5)
    sgd = slide.optimizers.SGD(0.3)
    for update in (first, second):
        model.compile(sgd, "categorical_crossentropy", update=update)
        for at in (0, 30):
            model.train_on_batch(x[at : at + 30], y[at : at + 30])
    assert model.step == 4
    model.predict(x[:1])
    for layer in model.layers[1:3]:
        check_tables(layer)


def test_tables_after_weights_are_replaced():
    model = network(FAMILIES["simple_lsh"], rebuild_every=100)
    x, y = samples(20, 5)
    model.compile("sgd", "categorical_crossentropy")
    model.fit(x, y, batch_size=5, verbose=0)
    model.set_weights([10 * w[..., ::-1] for w in model.get_weights()])
    model.predict(x)
    for layer in model.layers[1:3]:
        check_tables(layer, 1e-3)


@pytest.mark.parametrize("name", ["sign_alsh", "simple_lsh", "l2_alsh"])
def test_weights_that_outgrow_the_scale_are_all_hashed_anew(name):
    """Large targets: the norms by which all weights are divided grow within some steps."""
    model = network(FAMILIES[name], activation="linear", output="linear")
    x, _ = samples(30, 5)
    y = 20 * np.random.default_rng(1).normal(size=(30, 5))
    model.compile(slide.optimizers.SGD(0.03), "mean_squared_error")
    scales = []
    for _ in range(8):
        model.train_on_batch(x[:5], y[:5])
        model.predict(x[:1])
        for layer in model.layers[1:3]:
            check_tables(layer, 1e-3)
        scales.append(
            [layer._active.active.retriever.arrays["scale"][0] for layer in model.layers[1:3]]
        )
    assert all(len(set(column)) > 1 for column in zip(*scales, strict=True))


def test_new_functions_are_other_ones():
    model = network(FAMILIES["simhash"], rebuild_every=1, new_functions_every=3)
    x, y = samples(20, 5)
    model.compile("sgd", "categorical_crossentropy")
    found = []
    for _ in range(7):  # the first step builds, the next make the rebuilds 1 to 6
        model.train_on_batch(x, y)
        found.append(model.layers[1]._active.active.retriever.arrays["projections"].copy())
    same = [np.array_equal(a, b) for a, b in itertools.pairwise(found)]
    assert same == [True, True, False, True, True, False]


@pytest.mark.parametrize("projection", ["gaussian", "rademacher"])
def test_coefficients(projection):
    family = SimHash(10, 50, projection, "sign_alsh")
    arrays = family.tracker(5, 40, 0, 1).arrays
    a = arrays["projections"][:500, :40]
    if projection == "rademacher":
        assert set(np.unique(a)) == {-1, 1}
        assert abs(a.mean()) < SIGMAS / np.sqrt(a.size)
    np.testing.assert_array_equal(arrays["columns"][:, :500], a.T)
    for values in (a, arrays["terms"][:, :500]):
        n = values.size
        if projection == "gaussian" or values is not a:
            assert abs(values.mean()) < SIGMAS / np.sqrt(n)
            assert abs(values.var() - 1) < SIGMAS * np.sqrt(2 / n)
            assert abs((values**4).mean() - 3) < SIGMAS * np.sqrt(96 / n)
    assert np.abs(np.corrcoef(a[:10])[np.triu_indices(10, 1)]).max() < SIGMAS / np.sqrt(40)
    offsets = E2LSH(5, 100, width=2.5).tracker(5, 40, 0, 1).arrays["offsets"][0, :500]
    assert 0 <= offsets.min() < 0.1
    assert 2.4 < offsets.max() <= 2.5
    assert abs(offsets.mean() - 1.25) < SIGMAS * 2.5 / np.sqrt(12 * 500)


# --------------------------------------------------------------- transforms, probabilities


def test_identities_of_the_transforms():
    """The angle or distance of P(w) and Q(q) depends on w . q and on a vanishing power of |w|."""
    rng = np.random.default_rng(0)
    w, q = rng.normal(size=(50, 7)), rng.normal(size=(20, 7))
    scale = 1.1 * np.linalg.norm(w, axis=1).max()
    unit = q / np.linalg.norm(q, axis=1, keepdims=True)
    for name in ("sign_alsh", "simple_lsh", "l2_alsh"):
        m, bound = TERMS[name]
        p = ref.transformed(name, w, m, bound, scale)
        scaled = w * bound / scale
        norm = np.linalg.norm(scaled, axis=1)[:, None]
        assert norm.max() < bound
        query = ref.transformed_query(name, q, m)
        lengths = np.linalg.norm(p, axis=1)[:, None] * np.linalg.norm(query, axis=1)
        cosine = p @ query.T / lengths
        inner, last = scaled @ unit.T, norm ** (2 ** (m + 1))
        if name == "sign_alsh":
            np.testing.assert_allclose(cosine, inner / np.sqrt(m / 4 + last))
        elif name == "simple_lsh":
            np.testing.assert_allclose(cosine, inner, atol=1e-12)
        else:
            squared = ((p[:, None] - query) ** 2).sum(axis=2)
            np.testing.assert_allclose(squared, 1 + m / 4 - 2 * inner + last)


def test_collision_probabilities_against_the_integral():
    family = E2LSH(1, 1, width=1.7)
    for distance in (0.05, 0.5, 1.0, 4.0):
        expected = ref.e2lsh_collision(distance, 1.7)
        assert family.collision_probability(distance) == pytest.approx(expected, abs=1e-6)
    assert family.collision_probability(0.0) == pytest.approx(1.0)
    x, y = np.array([1.0, 2.0]), np.array([2.0, -1.5])
    cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    assert SimHash().collision_probability(cosine) == pytest.approx(ref.simhash_collision(x, y))


@pytest.mark.parametrize(
    "family",
    [
        SimHash(1, 1),
        SimHash(2, 1, "rademacher"),
        SimHash(1, 1, transform="sign_alsh"),
        SimHash(2, 1, transform="simple_lsh"),
        E2LSH(1, 1, width=2.5),
        E2LSH(2, 1, width=1.5),
        E2LSH(1, 1, width=2.0, transform=None),
        SimHash(1, 3, transform="sign_alsh"),
    ],
    ids=repr,
)
def test_neurons_are_found_as_often_as_theory_says(family):
    """Over 1,000 draws of the functions: weights and biases against inputs and a one.

    Projections on random signs are not quite normal: with 40 coordinates the probability differs
    by less than 0.01.
    """
    n_seeds, dim = 1000, 40
    rng = np.random.default_rng(1)
    w = rng.normal(size=(12, dim)) * np.linspace(0.2, 1.0, 12)[:, None]
    x = rng.normal(size=(3, dim))
    w[:6] += 1.2 * x[0] * np.linspace(0.2, 1.0, 6)[:, None]
    if isinstance(family, E2LSH) and family.transform is None:
        w, x = w / 8, x / 8
    p, queries, counts = parameters(w), aligned(x), np.zeros((3, 12))
    for seed in range(n_seeds):
        for i, found in enumerate(built(family, p, dim, seed).query(queries, 12)):
            counts[i, found] += 1
    m, bound = TERMS[family.transform]
    scale = built(family, p, dim).arrays["scale"][0]
    points = ref.transformed(family.transform, w, m, bound, scale) if m else w
    places = ref.transformed_query(family.transform, x, m) if m else x
    for i, query in enumerate(places):
        for j, point in enumerate(points):
            if isinstance(family, SimHash):
                one, k = ref.simhash_collision(point, query), family.n_bits
            else:
                one = ref.e2lsh_collision(np.linalg.norm(point - query), family.width)
                k = family.n_functions
            expected = ref.retrieval_probability(one, k, family.n_tables)
            error = SIGMAS * np.sqrt(expected * (1 - expected) / n_seeds)
            slack = 0.01 if getattr(family, "projection", "") == "rademacher" else 1e-4
            assert counts[i, j] / n_seeds == pytest.approx(expected, abs=error + slack)


# ----------------------------------------------------------------------------- probes


def all_probes(values, family):
    """Every bucket near a query: (cost, code) of one table, cheapest first, from all sets of
    changes: bits that flip, or cells that go up or down by one."""
    if isinstance(family, SimHash):
        options = [[(0.0, int(v > 0)), (v * v, int(v <= 0))] for v in values]
        bits = 1
    else:
        values, bits = values / family.width, min(8, 63 // family.n_functions)
        options = []
        for v in values:
            cell = int(np.floor(v))
            options.append(
                [(0.0, cell), ((v - cell) ** 2, cell - 1), ((cell + 1 - v) ** 2, cell + 1)]
            )
    found = []
    for choice in itertools.product(*options):
        code = 0
        for _, cell in choice:
            code = code << bits | cell % (1 << bits)
        found.append((sum(cost for cost, _ in choice), code))
    return sorted(found)


PROBED = [
    *[SimHash(5, 1, n_probes=n) for n in (1, 2, 7, 32)],
    *[SimHash(5, 1, transform="sign_alsh", n_probes=n) for n in (3, 32)],
    SimHash(5, 1, "rademacher", "simple_lsh", 11),
    *[E2LSH(2, 1, width=1.0, transform=None, n_probes=n) for n in (1, 2, 5, 9)],
    *[E2LSH(2, 1, width=0.3, n_probes=n) for n in (6, 9)],
]


@pytest.mark.parametrize("family", PROBED, ids=repr)
def test_buckets_are_visited_by_ascending_cost(family):
    """One table: the buckets of the neurons found, in order, against all sets of changes.

    1,100 neurons make tables of codes of up to 16 bits without strangers.
    """
    rng = np.random.default_rng(2)
    w = rng.normal(size=(1100, 8)).astype(np.float32)
    x = rng.normal(size=(20, 8)).astype(np.float32)
    retriever = built(family, parameters(w), 8)
    own, _ = codes_of(projections(retriever, family, w=w), family)
    kept = retriever.arrays["codes"]
    assert (kept[0] == own[:, 0]).mean() > 0.99
    values = projections(retriever, family, x=x)
    for i, found in enumerate(retriever.query(aligned(x), 1100)):
        probes = all_probes(values[i], family)
        cost_of = {code: cost for cost, code in probes}
        assert len(set(found)) == len(found)
        visited = [code for code, _ in itertools.groupby(int(kept[0, j]) for j in found)]
        assert len(set(visited)) == len(visited)
        costs = [cost_of[code] for code in visited]
        # Costs are sums in float32.
        assert all(a <= b + 1e-5 for a, b in itertools.pairwise(costs))
        limit = probes[family.n_probes - 1][0]
        full = {int(code) for code in kept[0]}
        wanted = {code for cost, code in probes if cost < limit - 1e-5} & full
        assert wanted <= set(visited)
        assert max(costs, default=0) <= limit + 1e-5
        members = np.isin(kept[0], np.array(visited, np.uint64))
        assert set(found) == set(np.flatnonzero(members))


@pytest.mark.parametrize(
    "family",
    [SimHash(4, 3, n_probes=3), SimHash(4, 3, transform="sign_alsh"), E2LSH(2, 3, 1.0, n_probes=4)],
    ids=repr,
)
def test_tables_are_probed_together(family):
    """The own buckets of all tables, then L (n_probes - 1) others, the nearest of all first."""
    rng = np.random.default_rng(3)
    w = rng.normal(size=(1100, 8)).astype(np.float32)
    x = rng.normal(size=(30, 8)).astype(np.float32)
    retriever = built(family, parameters(w), 8)
    kept, values = retriever.arrays["codes"], projections(retriever, family, x=x)
    per_table, checked = values.shape[1] // 3, 0
    for i, found in enumerate(retriever.query(aligned(x), 1100)):
        probes = []
        for t in range(3):
            row = values[i, t * per_table : (t + 1) * per_table]
            probes += [(cost, t, code) for cost, code in all_probes(row, family)]
        probes.sort()
        last = 3 * family.n_probes
        if probes[last][0] - probes[last - 1][0] < 1e-4:
            continue
        wanted = np.zeros(1100, bool)
        for _, t, code in probes[:last]:
            wanted |= kept[t] == np.uint64(code)
        assert set(found) == set(np.flatnonzero(wanted))
        checked += 1
    assert checked > 20


@pytest.mark.parametrize("n_functions", [4, 7])
def test_all_neighbouring_cells_are_visited(n_functions):
    """With 3^K probes: also where most sets of changes go to both sides of one cell."""
    family = E2LSH(n_functions, 1, 3.0, None, n_probes=3**n_functions)
    rng = np.random.default_rng(4)
    w = rng.normal(size=(3000, 8)).astype(np.float32)
    x = rng.normal(size=(3, 8)).astype(np.float32)
    retriever = built(family, parameters(w), 8)
    cells = np.floor(projections(retriever, family, w=w) / 3.0)
    near = np.floor(projections(retriever, family, x=x) / 3.0)
    for i, found in enumerate(retriever.query(aligned(x), 3000)):
        wanted = np.flatnonzero((np.abs(cells - near[i]) <= 1).all(axis=1))
        assert len(wanted) > 300
        # But for projections within rounding of a border.
        assert len(set(wanted) - set(found)) <= 2
        # Strangers in mixed codes: 9 bits of slot and 8 of tag.
        strangers = 3000 * 3**n_functions / 2**17
        assert len(set(found) - set(wanted)) < strangers + SIGMAS * np.sqrt(strangers) + 2


def test_retrieval_stops_at_so_many():
    rng = np.random.default_rng(5)
    w, x = rng.normal(size=(300, 8)), rng.normal(size=(10, 8))
    family = SimHash(4, 2, n_probes=16)
    retriever = built(family, parameters(w.astype(np.float32)), 8)
    whole = retriever.query(aligned(x), 300)
    assert all(len(found) == 300 for found in whole)
    for most in (1, 7, 299):
        for found in retriever.query(aligned(x), most):
            assert len(set(found)) == len(found) == most


def test_few_candidates_of_many_probes_are_nearly_the_largest():
    """Ranked by activation, what is found has the most of the winners: better than by chance."""
    rng = np.random.default_rng(6)
    w, x = rng.normal(size=(1000, 17)), rng.normal(size=(50, 17))
    best = np.argsort(-(x @ w.T), axis=1)[:, :20]
    for family in (
        SimHash(6, 10, n_probes=20),
        SimHash(6, 10, transform="sign_alsh", n_probes=20),
        SimHash(6, 10, transform="simple_lsh", n_probes=20),
        E2LSH(4, 10, width=1.0, n_probes=20),
    ):
        retriever = built(family, parameters(w.astype(np.float32)), 17)
        found = retriever.query(aligned(x.astype(np.float32)), 200)
        recall = np.mean([np.isin(b, f).mean() for b, f in zip(best, found, strict=True)])
        assert recall > (0.5 if isinstance(family, SimHash) else 0.3)  # 0.2 by chance


# ----------------------------------------------------------------------------- principal


def principal_layer(n_bits, n_tables, x, seed=1):
    """A model with one linear hidden layer that was trained so little that only functions
    changed."""
    family = SimHash(n_bits, n_tables, "principal", n_probes=2**n_bits)
    model = slide.Sequential(
        [
            slide.Input(12, sparse=False),
            slide.Dense(50, "linear", sampler=LSH(family, 0.2, candidates=1.0)),
            slide.Dense(5, "softmax"),
        ],
        seed=seed,
    )
    model.compile(slide.optimizers.SGD(1e-4), "categorical_crossentropy")
    y = np.eye(5, dtype=np.float32)[np.random.default_rng(seed).integers(0, 5, len(x))]
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, n_jobs=1)
    return model, model.layers[0]._active.active.retriever.arrays


def recall_of_winners(model, x):
    w, b = model.get_weights()[:2]
    wanted = ref.winners(x.astype(float) @ w + b, 10)
    return (wanted & (model.active_sets(x)[0].toarray() != 0)).sum() / wanted.sum()


@pytest.mark.parametrize("rank", [3, 12])
def test_principal_projections_that_lose_nothing_choose_the_winners(rank):
    """As many functions as directions in which inputs differ, or more: the estimates are the
    activations."""
    rng = np.random.default_rng(8)
    x = (rng.normal(size=(1000, rank)) @ rng.normal(size=(rank, 12)) + 1).astype(np.float32)
    model, arrays = principal_layer(4, 3, x)
    a = arrays["projections"][:12, :13].astype(float)
    np.testing.assert_allclose(a @ a.T, np.eye(12), atol=1e-4)
    assert recall_of_winners(model, x) > 0.999  # equals but for rounding


def test_more_principal_functions_than_inputs_lose_nothing_either():
    """No more than 13 of 16 rows of 13 values are orthonormal; the others must not count."""
    x = np.random.default_rng(8).normal(size=(1000, 12)).astype(np.float32)
    model, arrays = principal_layer(4, 4, x)
    a = arrays["projections"][:16, :13].astype(float)
    products = a @ a.T
    np.testing.assert_allclose(products, np.diag(np.diag(products)), atol=1e-3)
    assert recall_of_winners(model, x) > 0.999


@pytest.mark.parametrize("n_bits", [3, 31, 32, 62])
def test_all_neurons_are_ranked_only_if_all_buckets_are_probed(n_bits):
    family = SimHash(n_bits, 1, "principal", n_probes=8)
    selector = LSH(family, 5).selector(100, 17, 0, 1)
    assert selector.active.retriever.counts_collisions == (n_bits > 3)


def test_principal_functions_are_orthonormal_and_follow_the_inputs():
    """On inputs of three directions that differ, three functions and a mean are all there is."""
    rng = np.random.default_rng(7)
    basis = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    x = rng.normal(size=(2000, 3)) * [3.0, 2.0, 1.5] @ basis[:3]
    x += 0.05 * rng.normal(size=x.shape) + 5 * basis[3]
    model = slide.Sequential(
        [
            slide.Input(12, sparse=False),
            slide.Dense(50, "relu", sampler=LSH(SimHash(3, 1, "principal", n_probes=8), 0.2)),
            slide.Dense(5, "softmax"),
        ]
    )
    model.compile(slide.optimizers.SGD(1e-4), "categorical_crossentropy")
    y = np.eye(5, dtype=np.float32)[rng.integers(0, 5, 2000)]
    model.fit(x.astype(np.float32), y, batch_size=16, epochs=2, verbose=0, n_jobs=1)
    arrays = model.layers[0]._active.active.retriever.arrays
    a = arrays["projections"][:3, :13].astype(float)
    np.testing.assert_allclose(a @ a.T, np.eye(3), atol=1e-4)
    # The plane that they span is the one in which inputs differ.
    assert np.linalg.norm(a[:, :12] @ basis[:3].T) ** 2 > 0.98 * 3
    assert abs(a[:, 12]).max() < 0.05  # the one for the bias does not differ
    mean = arrays["projections"][3, :13]
    np.testing.assert_allclose(mean, [*x.mean(axis=0), 1], atol=0.5)


def test_principal_bits_have_the_same_share_of_the_variance():
    rng = np.random.default_rng(3)
    spectrum = 1 / (1 + np.arange(12))
    x = rng.normal(size=(1000, 12)) * spectrum @ np.linalg.qr(rng.normal(size=(12, 12)))[0]
    shares = []
    for seed in range(8):
        _, arrays = principal_layer(4, 2, x.astype(np.float32), seed)
        shares.append((x @ arrays["projections"][:8, :12].T).var(axis=0))
    shares = np.mean(shares, axis=0)
    assert (0.5 * shares.mean() < shares).all()
    assert (shares < 2 * shares.mean()).all()


def test_principal_projections_have_their_place():
    with pytest.raises(ValueError, match="principal"):
        SimHash(4, 2, "principal", transform="sign_alsh")
    with pytest.raises(ValueError, match="principal"):
        SimHash(4, 2, "principal").codes(np.ones((2, 3)))
    with pytest.raises(ValueError, match="hidden"):
        sampling.LSH(hashing.SimHash(4, 2, "principal"), 5).active_set(20, 5, 0, 1)


def test_more_tables_than_neurons():
    """A query keeps its code in every table."""
    x = np.random.default_rng(0).random((64, 8), dtype=np.float32)
    family = SimHash(6, 10_000, n_probes=2)
    model = slide.Sequential(
        [
            slide.Input(8, sparse=False),
            slide.Dense(20, "softmax", sampler=LSH(family, max_active=20)),
        ]
    )
    model.compile()
    model.fit(x, np.arange(64) % 20, verbose=0, n_jobs=1)
    ids, _ = model.predict(x, top_k=20, exact=False, n_jobs=1)
    for row in np.sort(ids, axis=1):
        found = row[row >= 0]
        assert len(np.unique(found)) == len(found) > 0


@pytest.mark.parametrize("n_probes", [3, 4])
def test_principal_neurons_fill_up_with_others(n_probes):
    """What the probes found and was not kept can fill the set up; what was kept cannot again."""
    family = SimHash(2, 8, "principal", n_probes=n_probes)
    sampler = LSH(family, max_active=0.05, min_active=50)
    rng = np.random.default_rng(0)
    p = parameters(rng.standard_normal((100, 33)).astype(np.float32))
    selector = sampler.selector(100, 33, 0, 1)
    x = np.abs(rng.standard_normal((20, 33))).astype(np.float32)
    x[:, -1] = 1
    _, _, own = selector.active.select_batch(p, aligned(x), [[]] * 20)
    for ids, _ in own:
        assert len(np.unique(ids)) == len(ids) == 50
