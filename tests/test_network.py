"""Whole networks against the float64 oracle: predictions, losses, gradients, active sets, threads.

With plain SGD and one batch, (weights before - weights after) / learning rate is the gradient.
"""

import itertools

import numpy as np
import pytest
import reference as ref
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import csr_matrices, label_matrices, layer_widths

import slide
from slide import hashing, sampling
from slide._kernels import layers as _layers
from slide.losses import BinaryCrossentropy

HIDDEN = ("linear", "relu", "sigmoid", "tanh")
OUTPUTS = [
    ("softmax", "categorical_crossentropy"),
    ("sigmoid", BinaryCrossentropy("sum")),
    ("sigmoid", BinaryCrossentropy("mean")),
    ("linear", "mean_squared_error"),
    ("relu", "mean_squared_error"),
    ("sigmoid", "mean_squared_error"),
    ("tanh", "mean_squared_error"),
]


def make_model(widths, activations, *, sparse, use_bias=True, sampler=None, l2=None, seed=0):
    """A network with random weights and biases of its inputs' scale."""
    layers = [slide.Input(widths[0], sparse=sparse)]
    for i, (units, activation) in enumerate(zip(widths[1:], activations, strict=True)):
        last = i == len(activations) - 1
        layers.append(
            slide.Dense(
                units,
                activation,
                sampler=sampler if last else None,
                use_bias=use_bias,
                kernel_regularizer=None if l2 is None else slide.regularizers.L2(l2),
            )
        )
    model = slide.Sequential(layers, seed=seed)
    rng = np.random.default_rng(seed + 1000)
    weights = []
    for n_in, units in itertools.pairwise(widths):
        weights.append(rng.normal(size=(n_in, units)) / np.sqrt(n_in))
        if use_bias:
            weights.append(rng.normal(size=units) * 0.3)
    model.set_weights(weights)
    return model


def gradients_of_one_step(model, x, y, loss, sample_weight=None, n_jobs=1):
    """The loss, and the gradients in the order of get_weights."""
    before = model.get_weights()
    model.compile(slide.optimizers.SGD(1.0), loss)
    logs = model.train_on_batch(x, y, sample_weight, n_jobs=n_jobs)
    after = model.get_weights()
    model.set_weights(before)
    return logs["loss"], [b.astype(float) - a for b, a in zip(before, after, strict=True)]


def oracle(model, x, y, loss, sample_weight=None, active=None, log_pi=None):
    loss = slide.losses.get(loss)
    value, pairs = ref.loss_and_gradients(
        ref.layers_of(model, active, log_pi),
        x,
        y,
        loss.name,
        sample_weight,
        loss.get_config().get("reduction") == "mean",
    )
    gradients = []
    for layer, (dw, db) in zip(model.layers, pairs, strict=True):
        gradients += [dw.T, db] if layer.use_bias else [dw.T]
    return value, gradients


def assert_same(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-4, abs=1e-5)
    for a, b in zip(found[1], expected[1], strict=True):
        # Weights of size 1 minus a gradient, in float32.
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=3e-6)


def some_rows(rng, n, width, sparse, density=0.4):
    x = rng.normal(size=(n, width)) * (rng.random((n, width)) < density)
    x[n // 2] = 0.0
    x = x.astype(np.float32)
    return sp.csr_array(x) if sparse else x


def some_targets(rng, n, width, loss):
    if loss == "mean_squared_error":
        return rng.normal(size=(n, width)).astype(np.float32)
    y = (rng.random((n, width)) < 3 / width).astype(np.float32)
    y[0] = 0.0
    y[-1, : min(3, width)] = 1.0
    return y


# ------------------------------------------------------------------------- all neurons


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(("activation", "loss"), OUTPUTS)
@pytest.mark.parametrize("n_hidden", [0, 1, 3])
def test_loss_and_gradients(n_hidden, activation, loss, sparse):
    rng = np.random.default_rng(n_hidden)
    widths = [17, *[16, 15, 33][:n_hidden], 9]
    # Every hidden activation comes first once.
    for shift in range(4 if n_hidden else 1):
        hidden = [HIDDEN[(i + shift) % 4] for i in range(n_hidden)]
        model = make_model(widths, [*hidden, activation], sparse=sparse, seed=shift)
        x, y = some_rows(rng, 37, 17, sparse), some_targets(rng, 37, 9, loss)
        weight = rng.uniform(0.0, 2.0, 37).astype(np.float32)
        expected = oracle(model, x, y, loss, weight)
        assert_same(gradients_of_one_step(model, x, y, loss, weight), expected)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("width", [1, 15, 16, 17, 100])
@pytest.mark.parametrize(("activation", "loss"), [OUTPUTS[i] for i in (0, 1, 6)])
def test_odd_widths(width, activation, loss, sparse):
    rng = np.random.default_rng(width)
    model = make_model([width, width, width], ["tanh", activation], sparse=sparse)
    x, y = some_rows(rng, 33, width, sparse), some_targets(rng, 33, width, loss)
    assert_same(gradients_of_one_step(model, x, y, loss), oracle(model, x, y, loss))
    np.testing.assert_allclose(
        model.predict(x), ref.predict(ref.layers_of(model), x), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("n_hidden", [0, 2])
def test_without_biases(n_hidden, sparse):
    rng = np.random.default_rng(3)
    activations = [*["relu", "tanh"][:n_hidden], "softmax"]
    model = make_model([16, *[15, 17][:n_hidden], 8], activations, sparse=sparse, use_bias=False)
    assert len(model.get_weights()) == n_hidden + 1
    x, y = some_rows(rng, 20, 16, sparse), rng.integers(0, 8, 20)
    y_matrix = np.eye(8, dtype=np.float32)[y]
    loss = "categorical_crossentropy"
    assert_same(gradients_of_one_step(model, x, y, loss), oracle(model, x, y_matrix, loss))
    # No bias appears by training either.
    model.compile("adam", loss)
    model.fit(x, y, epochs=2, batch_size=7, verbose=0, n_jobs=1)
    np.testing.assert_allclose(
        model.predict(x), ref.predict(ref.layers_of(model), x), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("sparse", [False, True])
def test_l2_of_touched_rows(sparse):
    """2 l2 w is added to every neuron's weights, or to those of the features that the batch has."""
    rng = np.random.default_rng(4)
    model = make_model([20, 9, 5], ["tanh", "softmax"], sparse=sparse, l2=0.05)
    x = rng.normal(size=(6, 20)).astype(np.float32)
    x[:, 12:] = 0.0
    y, loss = some_targets(rng, 6, 5, "categorical_crossentropy"), "categorical_crossentropy"
    before = [w.astype(float) for w in model.get_weights()]
    value, gradients = oracle(model, x, y, loss)
    gradients[0][: 12 if sparse else 20] += 0.1 * before[0][: 12 if sparse else 20]
    gradients[2] += 0.1 * before[2]
    # The loss that is reported is without the penalty.
    assert_same(gradients_of_one_step(model, x, y, loss), (value, gradients))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_shape(data):
    n, widths = data.draw(st.integers(1, 40)), data.draw(layer_widths())
    x = data.draw(csr_matrices(n, widths[0], shuffled=True))
    y = data.draw(label_matrices(n, widths[-1]))
    activation, loss = data.draw(st.sampled_from(OUTPUTS))
    activations = [HIDDEN[i % 4] for i in range(len(widths) - 2)] + [activation]
    model = make_model(widths, activations, sparse=data.draw(st.booleans()), seed=n)
    assert_same(gradients_of_one_step(model, x, y, loss, n_jobs=2), oracle(model, x, y, loss))


def test_large_logits_neither_overflow_nor_lose_the_loss():
    x, y = np.ones((1, 1), np.float32), np.array([1])
    for activation, loss, expected in [
        ("softmax", "categorical_crossentropy", 2000.0),
        ("sigmoid", "binary_crossentropy", 2000.0),
    ]:
        model = make_model([1, 2], [activation], sparse=False, use_bias=False)
        model.set_weights([np.array([[1000.0, -1000.0]])])
        model.compile(slide.optimizers.SGD(1.0), loss)
        assert model.evaluate(x, y)["loss"] == pytest.approx(expected, rel=1e-6)
        assert model.train_on_batch(x, y)["loss"] == pytest.approx(expected, rel=1e-6)
        np.testing.assert_allclose(model.get_weights()[0], [[999.0, -999.0]])


def test_multi_label_targets_in_proportion_to_their_values():
    model = make_model([3, 4], ["softmax"], sparse=False)
    x, y = np.ones((1, 3), np.float32), np.array([[2.0, 0.0, 6.0, 0.0]], np.float32)
    loss = "categorical_crossentropy"
    found = gradients_of_one_step(model, x, y, loss)
    assert_same(found, gradients_of_one_step(model, x, y / 8, loss))
    assert_same(found, oracle(model, x, y, loss))


@pytest.mark.parametrize("sampler", [None, sampling.Uniform(5), sampling.Frequent(3)])
def test_rows_without_labels_change_nothing_for_softmax(sampler):
    rng = np.random.default_rng(5)
    model = make_model([6, 7, 12], ["relu", "softmax"], sparse=True, sampler=sampler)
    before = model.get_weights()
    model.compile("adam", "categorical_crossentropy")
    x = some_rows(rng, 9, 6, True)
    logs = model.train_on_batch(x, sp.csr_array((9, 12), dtype=np.float32))
    assert logs["loss"] == 0.0
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_evaluate_is_the_loss_over_all_neurons():
    rng = np.random.default_rng(6)
    for activation, loss in OUTPUTS:
        for sampler in (None, sampling.Uniform(300)):
            model = make_model([6, 7, 1500], ["relu", activation], sparse=True, sampler=sampler)
            x, y = some_rows(rng, 40, 6, True), some_targets(rng, 40, 1500, loss)
            weight = rng.uniform(0, 2, 40)
            model.compile("sgd", loss)
            found = model.evaluate(x, y, sample_weight=weight, batch_size=7)["loss"]
            assert found == pytest.approx(oracle(model, x, y, loss, weight)[0], rel=1e-4)


# ------------------------------------------------------------------------- active sets

SAMPLED = [OUTPUTS[0], OUTPUTS[1], OUTPUTS[2], OUTPUTS[3], OUTPUTS[6]]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("activation", "loss"), SAMPLED)
def test_drawing_all_neurons_is_no_sampling(activation, loss, shared):
    rng = np.random.default_rng(7)
    x, y = some_rows(rng, 35, 9, True), some_targets(rng, 35, 17, loss)
    sampled = make_model(
        [9, 16, 17], ["tanh", activation], sparse=True, sampler=sampling.Uniform(1.0, shared=shared)
    )
    full = make_model([9, 16, 17], ["tanh", activation], sparse=True)
    found = gradients_of_one_step(sampled, x, y, loss)
    assert_same(found, gradients_of_one_step(full, x, y, loss))


def drawn_rows(model, x, y, loss):
    """Output neurons that one step changed."""
    gradients = gradients_of_one_step(model, x, y, loss)[1]
    return np.flatnonzero((gradients[-2] != 0).any(axis=0) | (gradients[-1] != 0))


def check_against_oracle(model, x, y, loss, n_tail, n_frequent=0, n_own_before=0):
    """All samples have the same labels, so the changed rows tell the active set.

    The labels (and label 0, which is always the most frequent) have weight 1, the others stand
    for 1 / pi neurons each.
    """
    units = model.layers[-1].units
    loss_, gradients = gradients_of_one_step(model, x, y, loss)
    changed = (gradients[-2] != 0).any(axis=0) | (gradients[-1] != 0)
    labels = y[0] != 0
    assert changed[labels].all()
    assert n_tail - labels.sum() <= (changed & ~labels).sum() <= n_tail
    pi = n_tail / (units - n_frequent - n_own_before)
    active = np.tile(changed, (len(y), 1))
    log_pi = np.tile(np.where(labels, 0.0, np.log(pi)), (len(y), 1))
    assert_same((loss_, gradients), oracle(model, x, y, loss, None, active, log_pi))


@pytest.mark.parametrize(("activation", "loss"), SAMPLED)
def test_shared_tail_against_the_oracle(activation, loss):
    """At some steps labels are among the drawn ones: masked there, they count once."""
    rng = np.random.default_rng(8)
    for seed in range(5):
        model = make_model(
            [5, 8, 40], ["tanh", activation], sparse=True, sampler=sampling.Uniform(15), seed=seed
        )
        y = np.zeros((6, 40), np.float32)
        y[:, [0, 7, 39]] = 1.0
        check_against_oracle(model, some_rows(rng, 6, 5, True, 0.9), y, loss, 15)


@pytest.mark.parametrize(("activation", "loss"), SAMPLED)
def test_frequent_neurons_and_shared_tail_against_the_oracle(activation, loss):
    rng = np.random.default_rng(9)
    for seed in range(5):
        sampler = sampling.Mixture([sampling.Frequent(2), sampling.Uniform(15)])
        model = make_model(
            [5, 8, 40], ["tanh", activation], sparse=True, sampler=sampler, seed=seed
        )
        y = np.zeros((6, 40), np.float32)
        y[:, [3, 30, 31]] = 1.0  # two of them are the most frequent, and masked
        x = some_rows(rng, 6, 5, True, 0.9)
        check_against_oracle(model, x, y, loss, 15, n_frequent=2)


@pytest.mark.parametrize(("activation", "loss"), SAMPLED)
def test_own_tail_against_the_oracle(activation, loss):
    rng = np.random.default_rng(10)
    for seed in range(5):
        sampler = sampling.Uniform(15, shared=False)
        model = make_model(
            [5, 8, 40], ["tanh", activation], sparse=True, sampler=sampler, seed=seed
        )
        y = np.zeros((1, 40), np.float32)
        y[0, [0, 7, 39]] = 1.0
        x = rng.normal(size=(1, 5)).astype(np.float32)
        assert len(drawn_rows(model, x, y, loss)) == 18
        check_against_oracle(model, x, y, loss, 15, n_own_before=3)


@pytest.mark.parametrize(("activation", "loss"), SAMPLED)
def test_without_correction_drawn_neurons_have_weight_one(activation, loss):
    rng = np.random.default_rng(11)
    sampler = sampling.Uniform(10, correction=None)
    model = make_model([5, 8, 40], ["tanh", activation], sparse=True, sampler=sampler)
    y = np.zeros((6, 40), np.float32)
    y[:, [0, 7]] = 1.0
    x = some_rows(rng, 6, 5, True, 0.9)
    found = gradients_of_one_step(model, x, y, loss)
    active = np.tile((found[1][-2] != 0).any(axis=0), (6, 1))
    assert_same(found, oracle(model, x, y, loss, None, active, np.zeros((6, 40))))


@pytest.mark.parametrize(("activation", "loss"), SAMPLED)
def test_only_frequent_neurons_against_the_oracle(activation, loss):
    """The active set is known beforehand: the labels, and label 0, which everybody has or not."""
    rng = np.random.default_rng(12)
    model = make_model([5, 8, 30], ["tanh", activation], sparse=True, sampler=sampling.Frequent(1))
    y = np.zeros((9, 30), np.float32)
    y[np.arange(9), rng.integers(1, 30, 9)] = 1.0
    y[:6, 0] = 1.0
    active = (y != 0) | (np.arange(30) == 0)
    x = some_rows(rng, 9, 5, True, 0.9)
    expected = oracle(model, x, y, loss, None, active, np.zeros((9, 30)))
    assert_same(gradients_of_one_step(model, x, y, loss), expected)


LSH = {
    "simhash": lambda: sampling.LSH(
        hashing.SimHash(n_bits=3, n_tables=4), max_active=12, rebuild_every=2
    ),
    "dwta": lambda: sampling.LSH(
        hashing.DWTA(n_functions=2, n_tables=4, n_bins=3), max_active=12, rebuild_every=2
    ),
    "clusters": lambda: sampling.LSH(
        hashing.Clusters(n_cells=8, n_tables=2), max_active=12, rebuild_every=2
    ),
    "two_levels": lambda: sampling.LSH(
        hashing.Clusters(n_cells=8, n_tables=2, n_groups=3, n_probes=2),
        max_active=12,
        rebuild_every=2,
        rebuild_decay=0.1,
        new_functions_every=2,
    ),
}
SAMPLERS = {
    "none": lambda: None,
    **LSH,
    "min_active": lambda: sampling.LSH(
        hashing.SimHash(n_bits=6, n_tables=2), max_active=16, min_active=10, rebuild_every=3
    ),
    "uniform": lambda: sampling.Uniform(9),
    "uniform_own": lambda: sampling.Uniform(9, shared=False),
    "frequent": lambda: sampling.Frequent(5),
    "unigram": lambda: sampling.Unigram(9),
    "unigram_own": lambda: sampling.Unigram(9, shared=False),
    "logq": lambda: sampling.LSH(
        hashing.SimHash(n_bits=2, n_tables=4),
        max_active=12,
        rebuild_every=2,
        new_functions_every=2,
        correction="logq",
    ),
    "mixture": lambda: sampling.Mixture(
        [LSH["clusters"](), sampling.Frequent(4), sampling.Uniform(6)]
    ),
    "mixture_own": lambda: sampling.Mixture(
        [LSH["dwta"](), sampling.Frequent(4), sampling.Uniform(6, shared=False)]
    ),
}


@pytest.mark.parametrize("name", [n for n in SAMPLERS if n != "none"])
def test_labels_are_always_in_the_active_set(name):
    """The gradient of a label's bias is p - y, below 0, if it is in; 0 if it is not."""
    rng = np.random.default_rng(13)
    model = make_model([5, 6, 60], ["tanh", "sigmoid"], sparse=True, sampler=SAMPLERS[name]())
    for _ in range(10):
        y = np.zeros((1, 60), np.float32)
        labels = rng.choice(60, 20, replace=False)  # more than max_active
        y[0, labels] = 1.0
        x = rng.normal(size=(1, 5)).astype(np.float32)
        gradients = gradients_of_one_step(model, x, y, "binary_crossentropy")[1]
        assert (gradients[-1][labels] < 0).all()


@pytest.mark.parametrize(
    "head", [None, "simhash", "clusters", "two_levels"], ids=lambda head: head or "no_head"
)
@pytest.mark.parametrize("frequent", [0, 5])
@pytest.mark.parametrize("shared", [True, False])
def test_the_sampled_gradient_is_unbiased(head, frequent, shared):
    """The mean over many draws is the full gradient, within 5 standard errors everywhere.

    Of 1,300 gradients, 5 standard errors are exceeded by chance in one run out of 1,000; draws
    are the same in every run.
    """
    parts = [LSH[head]()] if head else []
    parts += [sampling.Frequent(frequent)] if frequent else []
    sampler = sampling.Mixture([*parts, sampling.Uniform(12, shared=shared)])
    loss = "binary_crossentropy"
    rng = np.random.default_rng(14)
    model = make_model([4, 5, 60], ["tanh", "sigmoid"], sparse=False, sampler=sampler)
    x = rng.normal(size=(4, 4)).astype(np.float32)
    y = (rng.random((4, 60)) < 0.05).astype(np.float32)
    expected = oracle(model, x, y, loss)
    start = model.get_weights()
    model.compile(slide.optimizers.SGD(1.0), loss)
    # Only the steps' numbers differ: the weights and so the tables are the same every time.
    draws = []
    for _ in range(400):
        logs = model.train_on_batch(x, y, n_jobs=1)
        after = model.get_weights()
        model.set_weights(start)
        steps = [(b.astype(float) - a).ravel() for b, a in zip(start, after, strict=True)]
        draws.append(np.concatenate([[logs["loss"]], *steps]))
    draws = np.array(draws)
    error = draws.std(axis=0) / np.sqrt(len(draws))
    truth = np.concatenate([[expected[0]], *(g.ravel() for g in expected[1])])
    assert (np.abs(draws.mean(axis=0) - truth) <= 5 * error + 1e-5).all()
    assert (error[-60:] > 1e-4).sum() > 20, "nothing was drawn at random"


@pytest.mark.parametrize("shared", [True, False])
def test_the_partition_function_is_unbiased(shared):
    """exp(loss + label's logit) is the estimate of sum_j exp(logit_j)."""
    sampler = sampling.Uniform(10, shared=shared)
    model = make_model([4, 50], ["softmax"], sparse=False, sampler=sampler)
    x = np.random.default_rng(15).normal(size=(1, 4)).astype(np.float32)
    z = ref.forward(ref.layers_of(model), x)[1][0]
    model.compile(slide.optimizers.SGD(0.0), "categorical_crossentropy")
    losses = [model.train_on_batch(x, np.array([3]), n_jobs=1)["loss"] for _ in range(800)]
    estimates = np.exp(np.array(losses) + z[3])
    # A label that is drawn counts once, with weight 1; the others fill in on average.
    error = estimates.std() / np.sqrt(len(losses))
    assert abs(estimates.mean() - np.exp(z).sum()) < 4 * error
    assert error < 0.05 * np.exp(z).sum()


# ------------------------------------------------------------------- threads and updates


def classification(n=200, n_features=30, n_labels=60, seed=0):
    """Sparse rows with labels that their features tell, some rows empty, some without labels."""
    rng = np.random.default_rng(seed)
    x = sp.lil_array(sp.random(n, n_features, 0.15, random_state=rng, dtype=np.float32))
    labels = rng.integers(0, n_labels, n)
    for i in range(n):
        x[i, labels[i] % n_features] = 1.0
    y = sp.lil_array((n, n_labels), dtype=np.float32)
    for i in range(n):
        y[i, labels[i]] = 1.0
        if i % 3 == 0:
            y[i, (labels[i] * 7 + 1) % n_labels] = 1.0
    x[3], y[5] = 0.0, 0.0
    x, y = x.tocsr(), y.tocsr()
    x.eliminate_zeros()
    y.eliminate_zeros()
    return x, y


def trained(sampler, *, n_jobs=1, steps="auto", optimizer="adam", epochs=2, update="batch"):
    x, y = classification()
    model = slide.Sequential(
        [
            slide.Input(30),
            slide.Dense(17, "relu"),
            slide.Dense(60, "softmax", sampler=SAMPLERS[sampler]()),
        ],
        seed=3,
    )
    model.compile(optimizer, update=update, steps_per_execution=steps)
    history = model.fit(x, y, batch_size=33, epochs=epochs, verbose=0, n_jobs=n_jobs)
    return model, history


def assert_identical(a, b):
    for one, two in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", SAMPLERS)
def test_batch_mode_is_the_same_with_any_number_of_threads(name):
    expected, history = trained(name)
    for n_jobs in (2, 3):
        model, again = trained(name, n_jobs=n_jobs)
        assert_identical(model, expected)
        # Python adds up the losses of executions, whose lengths depend on the clock.
        assert again.history["loss"] == pytest.approx(history.history["loss"], rel=1e-12)
        assert again.history["active_fraction"] == history.history["active_fraction"]


@pytest.fixture
def row_by_row():
    """Layers of any size compute the batch's own neurons row by row, where samples share many."""
    before = _layers.large_from(0)
    yield
    _layers.large_from(before)


@pytest.mark.parametrize("name", [n for n in SAMPLERS if n != "none"])
def test_row_by_row_is_sample_by_sample(name, row_by_row):
    _layers.large_from(1 << 40)
    expected, history = trained(name, optimizer="sgd")
    _layers.large_from(0)
    model, again = trained(name, optimizer="sgd")
    # The same logits; input gradients are added up in another order.
    assert again.history["loss"] == pytest.approx(history.history["loss"], rel=1e-5)
    assert again.history["active_fraction"] == history.history["active_fraction"]
    for a, b in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    for n_jobs in (2, 3):
        assert_identical(trained(name, optimizer="sgd", n_jobs=n_jobs)[0], model)


@pytest.mark.parametrize("n", [1, 40])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(("activation", "loss"), SAMPLED)
def test_row_by_row_gradients(activation, loss, sparse, n, row_by_row):
    """All neurons, each sample's own: one row has many entries, and no sample the same order."""
    rng = np.random.default_rng(30)
    sampler = sampling.Uniform(1.0, shared=False)
    model = make_model([9, 16, 90], ["tanh", activation], sparse=sparse, sampler=sampler)
    x, y = some_rows(rng, n, 9, sparse), some_targets(rng, n, 90, loss)
    weight = rng.uniform(0, 2, n)
    for n_jobs in (1, 2):
        found = gradients_of_one_step(model, x, y, loss, weight, n_jobs=n_jobs)
        assert_same(found, oracle(model, x, y, loss, weight))


def test_row_by_row_without_a_layer_below(row_by_row):
    rng = np.random.default_rng(31)
    sampler = sampling.Mixture([sampling.Frequent(3), sampling.Uniform(17, shared=False)])
    model = make_model([9, 20], ["softmax"], sparse=False, sampler=sampler)
    x = some_rows(rng, 40, 9, False)
    y = some_targets(rng, 40, 20, "categorical_crossentropy")
    found = gradients_of_one_step(model, x, y, "categorical_crossentropy")
    assert_same(found, oracle(model, x, y, "categorical_crossentropy"))


@pytest.mark.parametrize("name", ["none", "clusters", "mixture"])
def test_steps_per_execution_change_nothing(name):
    expected, _ = trained(name)
    for steps in (1, 7):
        assert_identical(trained(name, steps=steps)[0], expected)


def test_many_samples_and_more_threads_than_blocks():
    x, y = classification(700, seed=1)
    weights = []
    for n_jobs in (1, 4, 40):
        model = make_model([30, 20, 60], ["relu", "softmax"], sparse=True)
        model.compile("adam")
        model.fit(x, y, batch_size=650, verbose=0, n_jobs=n_jobs)
        weights.append(model.get_weights())
    for other in weights[1:]:
        for a, b in zip(weights[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("sparse", [False, True])
def test_hogwild_with_one_thread_is_sgd_sample_by_sample(sparse):
    rng = np.random.default_rng(16)
    x, y = some_rows(rng, 20, 9, sparse), some_targets(rng, 20, 7, "categorical_crossentropy")
    loss = "categorical_crossentropy"
    hogwild = make_model([9, 8, 7], ["tanh", "softmax"], sparse=sparse)
    hogwild.compile(slide.optimizers.SGD(0.5), loss, update="hogwild")
    hogwild.fit(x, y, batch_size=6, shuffle=False, verbose=0, n_jobs=1)
    single = make_model([9, 8, 7], ["tanh", "softmax"], sparse=sparse)
    single.compile(slide.optimizers.SGD(0.5), loss)
    single.fit(x, y, batch_size=1, shuffle=False, verbose=0, n_jobs=1)
    for a, b in zip(hogwild.get_weights(), single.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["none", "mixture", "uniform_own", "simhash"])
def test_hogwild_with_one_thread_is_deterministic(name):
    adagrad = slide.optimizers.Adagrad(0.1)
    expected, _ = trained(name, update="hogwild", optimizer=adagrad)
    assert_identical(trained(name, update="hogwild", optimizer=adagrad)[0], expected)
    again = trained(name, update="hogwild", optimizer=adagrad, steps=1)[0]
    assert_identical(again, expected)


@pytest.mark.parametrize("name", ["none", "uniform", "mixture"])
@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "momentum"])
def test_hogwild_learns_as_batches_do(name, optimizer):
    """One step a sample learns faster than one a batch: the loss is at most 10% above."""
    optimizers = {
        "adam": lambda: slide.optimizers.Adam(0.003),
        "adagrad": lambda: slide.optimizers.Adagrad(0.2),
        "momentum": lambda: slide.optimizers.SGD(0.1, momentum=0.5),
    }
    x, y = classification()
    values = {}
    for update in ("batch", "hogwild"):
        model, _ = trained(
            name, n_jobs=2, epochs=25, update=update, optimizer=optimizers[optimizer]()
        )
        values[update] = model.evaluate(x, y)["loss"]
        assert values[update] < 0.97 * np.log(60)  # the loss of equal probabilities
    assert values["hogwild"] < 1.1 * values["batch"]


# --------------------------------------------------------------------------- PyTorch


@pytest.mark.parametrize("name", ["adam", "momentum", "nesterov"])
@pytest.mark.parametrize("sparse", [False, True])
def test_dense_training_is_that_of_torch(name, sparse):
    """Three layers, same weights and batches: losses agree to 1e-4 over 50 steps."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(17)
    x = rng.normal(size=(400, 20)).astype(np.float32)
    y = (np.abs(x[:, :10]).argmax(axis=1) + rng.integers(0, 2, 400)) % 10
    model = make_model([20, 33, 17, 10], ["relu", "tanh", "softmax"], sparse=sparse)
    weights = [torch.tensor(w, requires_grad=True) for w in model.get_weights()]
    if name == "adam":
        model.compile(slide.optimizers.Adam(0.01))
        optimizer = torch.optim.Adam(weights, lr=0.01, eps=1e-7)
    else:
        nesterov = name == "nesterov"
        model.compile(slide.optimizers.SGD(0.05, momentum=0.9, nesterov=nesterov))
        optimizer = torch.optim.SGD(weights, lr=0.05, momentum=0.9, nesterov=nesterov)
    for step in range(50):
        rows = slice(step % 8 * 50, step % 8 * 50 + 50)
        found = model.train_on_batch(x[rows], y[rows], n_jobs=2)["loss"]
        h = torch.relu(torch.tensor(x[rows]) @ weights[0] + weights[1])
        h = torch.tanh(h @ weights[2] + weights[3])
        loss = torch.nn.functional.cross_entropy(h @ weights[4] + weights[5], torch.tensor(y[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert found == pytest.approx(loss.item(), abs=1e-4), f"step {step}"
    assert found < 2.0


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_masked_neurons_make_no_step_of_their_own_in_hogwild(optimizer):
    """A sigmoid of what is masked is not 0: a second step would move along the momentum."""
    weights = []
    for update in ("batch", "hogwild"):
        model = slide.Sequential(
            [
                slide.Input(20),
                slide.Dense(16, "relu"),
                slide.Dense(
                    500,
                    "sigmoid",
                    sampler=sampling.Mixture(
                        [sampling.Frequent(50), sampling.Uniform(20, shared=False)]
                    ),
                ),
            ]
        )
        step = (
            slide.optimizers.Adam(0.01) if optimizer == "adam" else slide.optimizers.SGD(0.1, 0.9)
        )
        model.compile(step, "binary_crossentropy", update=update)
        x = sp.csr_matrix(np.random.default_rng(0).random((1, 20), dtype=np.float32))
        y = sp.csr_matrix((np.ones(3), [3, 7, 49], [0, 3]), shape=(1, 500))
        for _ in range(3):
            model.train_on_batch(x, y, n_jobs=1)
        weights.append(model.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
