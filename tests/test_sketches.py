"""Sketches: what they rank, draw and refuse, against all activations."""

import numpy as np
import pytest

import slide
from slide import hashing, sampling, tuning
from slide._kernels.optim import Parameters
from slide._memory import aligned_zeros, padded

SIGMAS = 5.0


def inputs(X):
    rows = aligned_zeros((len(X), padded(X.shape[1])))
    rows[:, : X.shape[1]] = X
    return rows


def parameters(W):
    """Rows of weights whose last column is the bias, as a layer keeps them."""
    none = np.zeros((len(W), 0), np.float32)
    return Parameters(inputs(W), none, none, W.shape[1], W.shape[1] - 1)


def active_set(sampler, W, n_threads=1):
    return sampler.active_set(*W.shape, 0, n_threads)


def layer(seed, n, n_in, rank=6, noise=0.1):
    """Weights near a subspace, as those of trained layers, with biases, and inputs to them."""
    rng = np.random.default_rng(seed)
    basis = rng.standard_normal((rank, n_in))
    W = rng.standard_normal((n, rank)) @ basis + noise * rng.standard_normal((n, n_in))
    W = np.column_stack([W, rng.standard_normal(n)]).astype(np.float32)
    X = np.maximum(rng.standard_normal((40, rank)) @ basis, 0) / 10
    return parameters(W), W, np.column_stack([X, np.ones(40)]).astype(np.float32)


def lsh(k, correction=None, every=1, **kwargs):
    return sampling.LSH(
        hashing.Sketches(**kwargs), max_active=k, rebuild_every=every, correction=correction
    )


def recall(active, p, W, X, k):
    _, _, own = active.select_batch(p, inputs(X), [[]] * len(X))
    best = np.argsort(-(X @ W.T), axis=1)[:, :k]
    return np.mean([np.isin(b, ids).mean() for b, (ids, _) in zip(best, own, strict=True)])


@pytest.mark.parametrize("n_in", [7, 33, 100])
@pytest.mark.parametrize("n_components", [16, 32])
def test_finds_the_largest_activations(n_in, n_components):
    p, W, X = layer(0, 3000, n_in)
    active = active_set(lsh(60, n_components=n_components), W)
    assert recall(active, p, W, X, 10) >= 0.98


def test_finds_few_and_all():
    p, W, X = layer(1, 700, 20)
    for k in (1, 2, 699, 700):
        active = active_set(lsh(k), W)
        _, _, own = active.select_batch(p, inputs(X), [[]] * len(X))
        for ids, pi in own:
            assert len(ids) == len(set(ids)) == k
            assert (pi == 1).all()


def assert_best_are_retrieved(active, p, W, X, error=0.1):
    _, _, own = active.select_batch(p, inputs(X), [[]] * len(X))
    Z = X @ W.T
    for z, (ids, _) in zip(Z, own, strict=True):
        missed = np.setdiff1d(np.argsort(-z)[: len(ids)], ids)
        assert (z[missed] < z[ids].min() + error * z.std()).all()


@pytest.mark.parametrize("shown", [False, True])
def test_retrieved_are_the_best_by_rank(shown):
    """With as many components as inputs only rounding to 7 bits is between scores and sums, whether
    the mean input is known or not."""
    p, W, X = layer(2, 2000, 32, rank=32)
    active = active_set(lsh(50, n_components=32), W)
    if shown:
        active.select_batch(p, inputs(X[:1]), [[]])
        active.retriever.show(inputs(X))
        active.weights_replaced()
    assert_best_are_retrieved(active, p, W, X)


def test_inputs_along_principal_components():
    """Whose rotation has values of one size: sums of products of bytes are the largest then."""
    p, W, _ = layer(2, 2000, 32, rank=32)
    _, _, V = np.linalg.svd(W[:, :-1] - W[:, :-1].mean(axis=0))
    X = np.column_stack([np.concatenate([V, -V]), np.ones(64)]).astype(np.float32)
    assert_best_are_retrieved(active_set(lsh(50, n_components=32), W), p, W, X, error=0.25)


def test_cells_find_nearly_the_same():
    p, W, X = layer(3, 4000, 30)
    whole = recall(active_set(lsh(80, n_cells=1), W), p, W, X, 10)
    some = recall(active_set(lsh(80, n_cells=64, n_probes=64, candidates=2000), W), p, W, X, 10)
    few = recall(active_set(lsh(80, n_cells=64, n_probes=2, candidates=80), W), p, W, X, 10)
    assert whole >= 0.98
    assert some >= 0.9
    assert few < some


def test_two_levels_of_cells():
    p, W, X = layer(4, 5000, 20)
    active = active_set(lsh(50, n_cells=1600, n_probes=20, candidates=2500), W)
    assert recall(active, p, W, X, 10) >= 0.8


def test_labels_and_frequent_are_not_found_again():
    p, W, X = layer(5, 2000, 12)
    best = np.argsort(-(X[0] @ W.T))[:20]
    active = active_set(lsh(30), W)
    _, _, [(ids, _)] = active.select_batch(p, inputs(X[:1]), [list(best[:5])])
    assert list(ids[:5]) == list(best[:5])
    assert len(set(ids)) == len(ids) == 30
    assert np.isin(best, ids).mean() >= 0.9
    mixture = sampling.Mixture([lsh(30), sampling.Frequent(100)])
    shared, _, [(ids, _)] = active_set(mixture, W).select_batch(p, inputs(X[:1]), [[]])
    assert len(ids) == 30
    assert not np.isin(ids, shared).any()


def test_follows_the_weights():
    p, W, X = layer(6, 1500, 20)
    active = active_set(lsh(40, every=1), W)
    assert recall(active, p, W, X, 10) >= 0.95
    _, W2, _ = layer(7, 1500, 20)
    np.asarray(p.weights)[:, : W2.shape[1]] = W2
    active.weights_moved()
    active.select_batch(p, inputs(X[:1]), [[]], step=1)
    active.select_batch(p, inputs(X[:1]), [[]], step=2)
    _, _, own = active.select_batch(p, inputs(X), [[]] * len(X), step=3)
    best = np.argsort(-(X @ W2.T), axis=1)[:, :10]
    assert np.mean([np.isin(b, ids).mean() for b, (ids, _) in zip(best, own, strict=True)]) >= 0.9


@pytest.mark.parametrize("weights", ["zeros", "constant", "huge", "denormal", "one column"])
def test_strange_weights(weights):
    W = {
        "zeros": np.zeros((300, 9)),
        "constant": np.ones((300, 9)),
        "huge": np.random.default_rng(0).standard_normal((300, 9)) * 1e18,
        "denormal": np.full((300, 9), 1e-42),
        "one column": np.random.default_rng(0).standard_normal((300, 1)),
    }[weights].astype(np.float32)
    p = parameters(W)
    X = np.ones((3, W.shape[1]), np.float32)
    for correction in (None, "logq"):
        active = active_set(lsh(20, correction), W)
        _, _, own = active.select_batch(p, inputs(X), [[0]] * 3)
        for ids, pi in own:
            assert len(ids) == len(set(ids)) <= 20
            assert ids.min() >= 0
            assert ids.max() < 300
            assert ((pi > 0) & (pi <= 1)).all()


def draws(p, W, x, k, n_draws, labels=(), seed=0):
    active = active_set(lsh(k, "logq"), W)
    X = np.repeat(x[None], n_draws, axis=0)
    return active.select_batch(p, inputs(X), [list(labels)] * n_draws, seed)[2]


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_drawn_sum_is_unbiased(scale):
    """Flat, medium and peaked activations: sums over the layer, 4,000 draws, 5 sigma."""
    p, W, X = layer(8, 1200, 16)
    W *= scale
    np.asarray(p.weights)[:, : W.shape[1]] = W
    z = (W @ X[0]).astype(np.float64)
    weight = np.exp(z - z.max())
    estimates, counts = [], []
    for ids, pi in draws(p, W, X[0], 60, 4000, labels=[3]):
        assert len(ids) == len(set(ids)) == 60
        assert ids[0] == 3
        assert pi[0] == 1
        assert ((pi > 0) & (pi <= 1)).all()
        estimates.append((weight[ids] / pi).sum())
        counts.append((1 / pi).sum())
    for truth, found in ((weight.sum(), estimates), (len(z), counts)):
        error = np.std(found) / np.sqrt(len(found))
        assert abs(np.mean(found) - truth) < SIGMAS * error + 1e-6 * truth


def test_every_neuron_is_drawn_as_often_as_it_says():
    """The mean of 1/pi over draws is 1 for each neuron that is drawn often enough to tell, within
    5 sigma, and drawing helps: less variance than a uniform sample of that size."""
    p, W, X = layer(9, 400, 10)
    z = (W @ X[1]).astype(np.float64)
    weight = np.exp(z - z.max())
    n_draws, k = 20_000, 40
    count, total, square, sums = np.zeros(400), np.zeros(400), np.zeros(400), []
    for ids, pi in draws(p, W, X[1], k, n_draws):
        count[ids] += 1
        total[ids] += 1 / pi
        square[ids] += 1 / pi**2
        sums.append((weight[ids] / pi).sum())
    mean = total / n_draws
    error = np.sqrt((square / n_draws - mean**2).clip(1e-12) / n_draws)
    often = count > 200
    assert often.sum() > 100
    assert (abs(mean - 1) < SIGMAS * error + 1e-6)[often].all()
    uniform = len(z) * np.sqrt((1 - k / len(z)) * weight.var() / k)
    assert np.std(sums) < 0.3 * uniform


def test_all_neurons_drawn_have_probability_one():
    p, W, X = layer(10, 90, 5)
    for ids, pi in draws(p, W, X[0], 90, 3):
        assert sorted(ids) == list(range(90))
        assert (pi == 1).all()


def test_one_is_drawn_beside_many_labels():
    p, W, X = layer(11, 500, 5)
    for ids, _ in draws(p, W, X[0], 4, 5, labels=range(6)):
        assert len(ids) == 7


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_larger_draws_are_near_their_aim(scale):
    """Of 300 at most, 300 - 2 sqrt(300) on average, as far as a sample of the scores tells; sums
    are unbiased, 2,000 draws, 5 sigma, and there is no room for more than 300."""
    p, W, X = layer(13, 4000, 16)
    W *= scale
    np.asarray(p.weights)[:, : W.shape[1]] = W
    z = (W @ X[0]).astype(np.float64)
    weight = np.exp(z - z.max())
    sizes, sums, counts = [], [], []
    for ids, pi in draws(p, W, X[0], 300, 2000, labels=[5, 70]):
        assert len(ids) == len(set(ids)) <= 300
        assert list(ids[:2]) == [5, 70]
        assert ((pi > 0) & (pi <= 1)).all()
        sizes.append(len(ids))
        sums.append((weight[ids] / pi).sum())
        counts.append((1 / pi).sum())
    assert 200 < np.mean(sizes) < 299
    assert np.std(sizes) < 2 * np.sqrt(300)
    for truth, found in ((weight.sum(), sums), (len(z), counts)):
        error = np.std(found) / np.sqrt(len(found))
        assert abs(np.mean(found) - truth) < SIGMAS * error + 1e-6 * truth


@pytest.mark.parametrize("peaks", [0, 5, 40, 400])
def test_draws_of_peaked_layers(peaks):
    """Any number of neurons far above the others, wherever the sample of the scores meets them:
    never none, never too many, and sums stay unbiased."""
    rng = np.random.default_rng(peaks)
    W = np.zeros((2000, 5), np.float32)
    W[:, :4] = 0.05 * rng.standard_normal((2000, 4))
    high = rng.choice(2000, peaks, replace=False)
    W[high, 0] += 9
    x = np.array([1, 0.1, -0.2, 0.3, 1], np.float32)
    z = (W @ x).astype(np.float64)
    weight = np.exp(z - z.max())
    sums = []
    for ids, pi in draws(parameters(W), W, x, 100, 1500):
        assert 10 < len(ids) == len(set(ids)) <= 100
        sums.append((weight[ids] / pi).sum())
    error = np.std(sums) / np.sqrt(len(sums))
    assert abs(np.mean(sums) - weight.sum()) < SIGMAS * error + 1e-6 * weight.sum()


@pytest.mark.parametrize("k", [100, 200])
@pytest.mark.parametrize("gap", [4, 9])
def test_draws_do_not_depend_on_where_a_peak_is(k, gap):
    """One neuron has most of the probability, as the label of a network that has learned. Whether
    it is among those whose scores say how many will be drawn (the first 16 are) or not, as many
    others are drawn, and sums are as near to the truth."""
    sizes, errors = [], []
    for place in (3, 20):
        rng = np.random.default_rng(1)
        W = np.zeros((4000, 5), np.float32)
        W[:, :4] = rng.standard_normal((4000, 4))
        W[place] = [gap, 3, 0, 0, 0]
        x = np.array([1, 0.5, -0.2, 0.3, 1], np.float32)
        z = (W @ x).astype(np.float64)
        weight = np.exp(z - z.max())
        found = draws(parameters(W), W, x, k, 400)
        sums = [(weight[ids] / pi).sum() / weight.sum() for ids, pi in found]
        sizes.append(np.mean([len(ids) for ids, _ in found]))
        errors.append(np.std(sums))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)
    assert errors[0] == pytest.approx(errors[1], rel=0.5)


@pytest.mark.parametrize("correction", [None, "logq"])
@pytest.mark.parametrize("frequent", [0, 25])
def test_queries_find_the_same_alone_as_together(correction, frequent):
    """A batch's queries share the work; what each finds differs only where rounding does."""
    p, W, X = layer(14, 3000, 20)
    sampler = lsh(150, correction)
    if frequent:
        sampler = sampling.Mixture([sampler, sampling.Frequent(frequent)])
    best = np.argsort(-(X @ W.T), axis=1)
    labels = [list(row[: i % 4]) for i, row in enumerate(best)]
    active = active_set(sampler, W)
    same = []
    for i in range(len(X)):
        order = np.roll(np.arange(len(X)), -i)      # random numbers depend on the place
        _, _, together = active.select_batch(p, inputs(X[order]), [labels[j] for j in order], 3)
        _, _, [(alone, pi)] = active.select_batch(p, inputs(X[i : i + 1]), labels[i : i + 1], 3)
        same.append(len(np.intersect1d(together[0][0], alone)) / max(len(alone), 1))
        if np.array_equal(together[0][0], alone):
            np.testing.assert_allclose(together[0][1], pi, rtol=0.1)
    assert min(same) > 0.95
    assert np.mean(same) > 0.995


def test_draws_do_not_depend_on_threads():
    p, W, X = layer(12, 2000, 12)
    found = []
    for n_threads in (1, 2):
        active = active_set(lsh(30, "logq"), W, n_threads=n_threads)
        _, _, own = active.select_batch(p, inputs(X), [[]] * len(X), 5, 1, n_threads=n_threads)
        found.append(own)
    for (a, pi), (b, pi2) in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(pi, pi2)


def make_model(sampler, loss="categorical_crossentropy", seed=0):
    activation = "softmax" if loss == "categorical_crossentropy" else "sigmoid"
    model = slide.Sequential(
        [
            slide.Input(40),
            slide.Dense(24, activation="relu"),
            slide.Dense(600, activation=activation, sampler=sampler),
        ],
        seed=seed,
    )
    model.compile(optimizer=slide.optimizers.Adam(0.01), loss=loss, metrics=["P@1"])
    return model


def data(seed=0, n=600):
    """A class each 600 neurons of which 40 occur; features tell them."""
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((40, 40))
    y = rng.integers(40, size=n)
    return (means[y] + 0.3 * rng.standard_normal((n, 40))).astype(np.float32), y * 15


@pytest.mark.parametrize("loss", ["categorical_crossentropy", "binary_crossentropy"])
def test_training_learns(loss):
    X, y = data()
    model = make_model(lsh(30, "logq", every=5), loss)
    history = model.fit(X, y, epochs=15, batch_size=32, verbose=0)
    assert history.history["loss"][-1] < 0.5 * history.history["loss"][0]
    assert np.mean(model.predict(X).argmax(axis=1) == y) > 0.9


@pytest.mark.parametrize("correction", [None, "logq"])
def test_saved_model_continues_the_same(tmp_path, correction):
    X, y = data(1)
    model = make_model(lsh(30, correction, every=3))
    model.fit(X, y, epochs=2, batch_size=32, verbose=0)
    model.save(tmp_path / "m.npz")
    again = slide.load(tmp_path / "m.npz")
    assert again.layers[-1].sampler.get_config() == model.layers[-1].sampler.get_config()
    for m in (model, again):
        m.fit(X, y, epochs=1, batch_size=32, verbose=0)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_damaged_state_is_refused():
    X, y = data(2)
    model = make_model(lsh(30))
    model.fit(X, y, epochs=1, batch_size=32, verbose=0)
    active = model.layers[-1]._active
    for name, value in (
        ("functions.sketches", 255),
        ("functions.scales", np.nan),
        ("functions.seen", -1),
        ("functions.offsets", np.inf),
    ):
        state = active.get_state()
        state[name].reshape(-1)[3 % state[name].size] = value
        with pytest.raises(ValueError, match=name[10:]):
            active.set_state(state)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"n_components": 0}, "n_components"),
        ({"n_components": 24}, "n_components=24"),
        ({"n_components": 8}, "n_components=8"),
        ({"n_components": 2048}, "n_components"),
        ({"n_components": 16.0}, "n_components"),
        ({"n_cells": 0}, "n_cells"),
        ({"n_cells": "many"}, "n_cells"),
        ({"n_probes": 0}, "n_probes"),
        ({"candidates": 0}, "candidates"),
        ({"candidates": 1.5}, "candidates"),
        ({"candidates": float("nan")}, "candidates"),
    ],
)
def test_bad_arguments(kwargs, match):
    with pytest.raises((ValueError, TypeError), match=match):
        hashing.Sketches(**kwargs)


def test_bad_combinations():
    with pytest.raises(ValueError, match="n_cells=4"):
        sampling.LSH(hashing.Sketches(n_cells=4), correction="logq")
    with pytest.raises(ValueError, match="100,000 neurons"):
        sampling.LSH(hashing.Sketches(), correction="logq").active_set(100_000, 17, 0, 1)
    drawn = sampling.LSH(hashing.Sketches(n_cells=1), 2, correction="logq")
    with pytest.raises(ValueError, match=r"n_cells=1.*2 of them are too few.*larger max_active"):
        drawn.active_set(2 * 2048 + 1, 17, 0, 1)
    assert drawn.active_set(2 * 2048, 17, 0, 1).draws
    assert sampling.Auto().active_set(32_768, 17, 0, 1).draws
    # One of many is not drawn, but retrieved.
    assert tuning.sampler_with(hashing.Sketches(), 3000, 1).correction is None
    with pytest.raises(MemoryError, match="GB of memory"):
        hashing.Sketches(n_components=1024).retriever(2**31 - 1, 1000, 0, 1)
    for schedule in ("drift", "rolling"):
        sampler = sampling.LSH(hashing.Sketches(), max_active=10, schedule=schedule)
        with pytest.raises(ValueError, match=schedule):
            sampler.active_set(1000, 17, 0, 1)


def test_config_round_trip():
    family = hashing.Sketches(16, n_cells=7, n_probes=3, candidates=0.5)
    again = hashing.get(hashing.serialize(family))
    assert again.get_config() == family.get_config()
    assert hashing.get("sketches").get_config() == hashing.Sketches().get_config()


@pytest.mark.parametrize("sign", [1, -1])
def test_labels_that_are_all_outputs_leave_no_room(sign):
    """Not even for a place that is written and not counted."""
    weights = np.zeros((16, 64), np.float32)
    weights[:, 5] = sign
    model = slide.Sequential(
        [
            slide.Input(16, sparse=False),
            slide.Dense(
                64,
                sampler=sampling.LSH(
                    hashing.Sketches(16, n_cells=1), max_active=1, correction="logq"
                ),
            ),
        ]
    )
    model.compile("sgd", "mse")
    model.set_weights([weights, np.zeros(64, np.float32)])
    for x in (np.ones((2, 16), np.float32), np.full((2, 16), 3e38, np.float32)):
        try:
            logs = model.train_on_batch(x, np.ones((2, 64)), n_jobs=1)
        except FloatingPointError:
            continue
        assert logs["active_fraction"] == 1


def test_no_neuron_of_a_small_layer_is_out_of_reach():
    """One whose score is far below the others' is drawn as if it had half of the mean weight."""
    model = slide.Sequential(
        [
            slide.Input(8, sparse=False),
            slide.Dense(
                600,
                kernel_initializer="zeros",
                sampler=sampling.LSH(
                    hashing.Sketches(16, n_cells=1), max_active=60, correction="logq"
                ),
            ),
        ]
    )
    model.compile(slide.optimizers.SGD(0.01), "mse")
    bias = np.zeros(600, np.float32)
    bias[17] = -40
    model.set_weights([np.zeros((8, 600), np.float32), bias])
    x = np.random.default_rng(0).random((64, 8), dtype=np.float32)
    y = np.eye(600, dtype=np.float32)[np.zeros(64, int)]
    for _ in range(20):
        model.train_on_batch(x, y, n_jobs=1)
    assert model.get_weights()[1][17] > -40
