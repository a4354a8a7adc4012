"""Optimizers on rows that are touched now and then, against the oracle and a dense simulation."""

import copy
import pickle

import numpy as np
import pytest
import reference as ref
import scipy.sparse as sp

import slide
from slide import sampling
from slide.optimizers import SGD, Adagrad, Adam

# name: ours, the oracle's step, its arguments, its first accumulator
CASES = {
    "sgd": (lambda lr: SGD(lr), ref.sgd, {}, 0.0),
    "momentum": (lambda lr: SGD(lr, momentum=0.9), ref.sgd, {"momentum": 0.9}, 0.0),
    "nesterov": (
        lambda lr: SGD(lr, momentum=0.8, nesterov=True),
        ref.sgd,
        {"momentum": 0.8, "nesterov": True},
        0.0,
    ),
    "adagrad": (lambda lr: Adagrad(lr), ref.adagrad, {}, 0.1),
    "adagrad_from_0": (
        lambda lr: Adagrad(lr, initial_accumulator_value=0.0, epsilon=1e-3),
        ref.adagrad,
        {"epsilon": 1e-3},
        0.0,
    ),
    "adagrad_momentum": (
        lambda lr: Adagrad(lr, momentum=0.7),
        ref.adagrad_momentum,
        {"momentum": 0.7},
        0.1,
    ),
    "rowwise": (lambda lr: Adagrad(lr, rowwise=True), ref.rowwise_adagrad, {}, 0.1),
    "adam": (lambda lr: Adam(lr), ref.adam, {}, 0.0),
    "adam_fast": (
        lambda lr: Adam(lr, beta_1=0.5, beta_2=0.9, epsilon=1e-4),
        ref.adam,
        {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-4},
        0.0,
    ),
    "adam_b1_is_root_b2": (
        lambda lr: Adam(lr, beta_1=0.9, beta_2=0.81),
        ref.adam,
        {"beta_1": 0.9, "beta_2": 0.81},
        0.0,
    ),
    "adam_b1_0": (lambda lr: Adam(lr, beta_1=0.0), ref.adam, {"beta_1": 0.0}, 0.0),
    "lazy_adam": (lambda lr: Adam(lr, lazy=True), ref.lazy_adam, {}, 0.0),
}


def batches_with_gaps(n_steps, n_features, n_outputs, seed=0):
    """Sparse rows that have few of the features, the last of them very seldom."""
    rng = np.random.default_rng(seed)
    chance = np.linspace(0.6, 0.02, n_features)
    for _ in range(n_steps):
        x = rng.uniform(0.5, 1.5, (3, n_features)) * (rng.random((3, n_features)) < chance)
        yield sp.csr_array(x.astype(np.float32)), rng.normal(size=(3, n_outputs))


def sparse_input_model(n_features, n_outputs, **arguments):
    model = slide.Sequential(
        [slide.Input(n_features, sparse=True), slide.Dense(n_outputs, **arguments)]
    )
    model.build()
    return model


def oracle_of_features(model, batches, step, arguments, first, rates, l2=0.0):
    """Rows (features, then the bias) after the steps, unsettled and settled, and dense ones.

    The dense simulation gets the same gradients, and steps all rows every time.
    """
    kernel, bias = (w.astype(float) for w in model.get_weights())
    w = np.vstack([kernel, bias])
    state, dense, dense_state = ref.new_state(w, first), w.copy(), ref.new_state(w, first)
    for (x, y), lr in zip(batches, rates, strict=True):
        layer = ref.Layer(w[:-1].T, w[-1], "linear")
        _, [(dw, db)] = ref.loss_and_gradients([layer], x, y, "mean_squared_error")
        g = np.vstack([dw.T, db])
        touched = [*np.unique(x.indices), len(w) - 1]
        if l2:
            g[touched[:-1]] = ref.with_l2(w, g, l2, w.shape[1])[touched[:-1]]
        step(w, g, touched, state, lr, **arguments)
        step(dense, g, range(len(w)), dense_state, lr, **arguments)
    ref.settle(step, w, state, rates[-1], **arguments)
    return w, dense


@pytest.mark.parametrize("width", [1, 16, 17])
@pytest.mark.parametrize("name", CASES)
def test_rows_with_gaps_against_the_oracle(name, width):
    make, step, arguments, first = CASES[name]
    model = sparse_input_model(12, width)
    batches = list(batches_with_gaps(60, 12, width))
    expected, _ = oracle_of_features(model, batches, step, arguments, first, [0.02] * 60)
    model.compile(make(0.02), "mean_squared_error")
    model.fit(batches, verbose=0, n_jobs=2)
    np.testing.assert_allclose(np.vstack(model.get_weights()), expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    "name", ["sgd", "momentum", "nesterov", "adagrad", "adagrad_momentum", "rowwise"]
)
def test_a_missed_step_has_gradient_zero(name):
    """The lazy rows end where the dense algorithm has them, but for rounding."""
    make, step, arguments, first = CASES[name]
    model = sparse_input_model(12, 5)
    batches = list(batches_with_gaps(80, 12, 5))
    _, dense = oracle_of_features(model, batches, step, arguments, first, [0.03] * 80)
    model.compile(make(0.03), "mean_squared_error")
    model.fit(batches, verbose=0, n_jobs=1)
    np.testing.assert_allclose(np.vstack(model.get_weights()), dense, rtol=2e-4, atol=2e-5)


def test_skipping_adam_is_close_to_dense_adam():
    """Skips take the bias corrections at the end of the gap: the paths differ by less than 10%.

    Most for rows that are touched once in 50 steps.
    """
    _, step, arguments, first = CASES["adam"]
    model = sparse_input_model(12, 5)
    start = np.vstack(model.get_weights()).astype(float)
    batches = list(batches_with_gaps(300, 12, 5))
    _, dense = oracle_of_features(model, batches, step, arguments, first, [0.003] * 300)
    model.compile(Adam(0.003), "mean_squared_error")
    model.fit(batches, verbose=0, n_jobs=1)
    moved = np.vstack(model.get_weights()) - start
    distance = np.linalg.norm(moved - (dense - start), axis=1)
    assert (distance < 0.1 * np.linalg.norm(dense - start, axis=1)).all()


@pytest.mark.parametrize("name", CASES)
def test_rows_that_are_touched_every_time_are_dense(name):
    """Textbook algorithms where nothing is missed: a dense input, a neuron's row with its bias."""
    make, step, arguments, first = CASES[name]
    rng = np.random.default_rng(1)
    model = slide.Sequential([slide.Input(7, sparse=False), slide.Dense(9)])
    kernel, bias = (w.astype(float) for w in model.get_weights())
    w = np.hstack([kernel.T, bias[:, None]])
    state = ref.new_state(w, first)
    model.compile(make(0.05), "mean_squared_error")
    for _ in range(40):
        x = rng.normal(size=(4, 7)).astype(np.float32)
        y = rng.normal(size=(4, 9)).astype(np.float32)
        layer = ref.Layer(w[:, :-1], w[:, -1], "linear")
        _, [(dw, db)] = ref.loss_and_gradients([layer], x, y, "mean_squared_error")
        step(w, np.hstack([dw, db[:, None]]), range(9), state, 0.05, **arguments)
        model.train_on_batch(x, y, n_jobs=1)
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(np.column_stack([kernel.T, bias]), w, rtol=5e-4, atol=5e-5)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("sparse", [False, True])
def test_rowwise_adagrad_averages_over_the_true_width(sparse, use_bias):
    """Not over the padding, nor over a bias that is not there."""
    model = slide.Sequential([slide.Input(5, sparse=sparse), slide.Dense(3, use_bias=use_bias)])
    before = [w.astype(float) for w in model.get_weights()]
    x = np.array([[1.0, 2.0, 0.5, 3.0, 1.5]], np.float32)
    y = np.array([[1.0, -2.0, 3.0]], np.float32)
    bias = before[1] if use_bias else np.zeros(3)
    layer = ref.Layer(before[0].T, bias, "linear")
    _, [(dw, db)] = ref.loss_and_gradients([layer], x, y, "mean_squared_error")
    if sparse:
        mean = [(dw.T**2).mean(axis=1, keepdims=True), (db**2).mean()]
    else:
        rows = np.column_stack([dw, db]) if use_bias else dw
        mean = [(rows**2).mean(axis=1)] * 2
    model.compile(Adagrad(0.1, rowwise=True), "mean_squared_error")
    model.train_on_batch(x, y)
    for w, old, g, m in zip(model.get_weights(), before, [dw.T, db], mean, strict=False):
        np.testing.assert_allclose(w, old - 0.1 * g / (np.sqrt(0.1 + m) + 1e-7), rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_output_neurons_with_gaps(name):
    """Rows are neurons: the active sets are the labels and neuron 0, the most frequent label."""
    make, step, arguments, first = CASES[name]
    rng = np.random.default_rng(2)
    model = slide.Sequential(
        [
            slide.Input(6, sparse=False),
            slide.Dense(20, "softmax", sampler=sampling.Frequent(1)),
        ]
    )
    kernel, bias = (w.astype(float) for w in model.get_weights())
    w = np.hstack([kernel.T, bias[:, None]])
    state = ref.new_state(w, first)
    model.compile(make(0.05), "categorical_crossentropy")
    for _ in range(60):
        x = rng.normal(size=(2, 6)).astype(np.float32)
        y = np.zeros((2, 20), np.float32)
        y[:, 0] = 1.0
        y[[0, 1], rng.integers(1, 20, 2)] = 1.0
        active = y != 0
        layer = ref.Layer(w[:, :-1], w[:, -1], "softmax", active, np.zeros((2, 20)))
        _, [(dw, db)] = ref.loss_and_gradients([layer], x, y, "categorical_crossentropy")
        touched = np.flatnonzero(active.any(axis=0))
        step(w, np.column_stack([dw, db]), touched, state, 0.05, **arguments)
        model.train_on_batch(x, y, n_jobs=1)
    ref.settle(step, w, state, 0.05, **arguments)
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(np.column_stack([kernel.T, bias]), w, rtol=5e-4, atol=5e-5)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adagrad", "adam"])
def test_l2_acts_when_a_row_is_touched(name):
    make, step, arguments, first = CASES[name]
    model = sparse_input_model(8, 5, kernel_regularizer=slide.regularizers.L2(0.02))
    batches = list(batches_with_gaps(30, 8, 5))
    expected, _ = oracle_of_features(model, batches, step, arguments, first, [0.03] * 30, l2=0.02)
    model.compile(make(0.03), "mean_squared_error")
    model.fit(batches, verbose=0, n_jobs=1)
    np.testing.assert_allclose(np.vstack(model.get_weights()), expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_the_schedule_is_asked_for_every_step(name):
    make, step, arguments, first = CASES[name]
    rates = [0.1 / (1 + i) for i in range(40)]
    schedule = slide.schedules.InverseTimeDecay(0.1, decay_steps=1, decay_rate=1.0)
    assert [schedule(i) for i in range(40)] == pytest.approx(rates)
    model = sparse_input_model(8, 5)
    batches = list(batches_with_gaps(40, 8, 5))
    expected, _ = oracle_of_features(model, batches, step, arguments, first, rates)
    model.compile(make(schedule), "mean_squared_error")
    history = model.fit(batches, verbose=0, n_jobs=1)
    np.testing.assert_allclose(np.vstack(model.get_weights()), expected, rtol=2e-4, atol=2e-5)
    assert history.history["lr"] == pytest.approx([rates[-1]])


def test_a_schedule_goes_on_over_epochs_and_calls():
    asked = []

    class Recorder(slide.schedules.Schedule):
        def __call__(self, step):
            asked.append(step)
            return 0.01

        def get_config(self):
            return {}

    x, y = np.ones((10, 3), np.float32), np.zeros(10, int)
    model = slide.Sequential([slide.Input(3), slide.Dense(2, "softmax")])
    model.compile(SGD(Recorder()))
    model.fit(x, y, batch_size=4, epochs=2, verbose=0)
    model.train_on_batch(x, y)
    model.partial_fit(x, y, batch_size=5)
    assert set(asked) == set(range(9))
    assert model.step == 9


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_rows_are_settled_at_the_end_of_an_epoch(name):
    """A feature that is gone keeps moving; seen at the end of an epoch or whenever it is asked."""
    make, step, arguments, first = CASES[name]
    once = sp.csr_array(np.array([[1.0, 1.0]], np.float32))
    later = sp.csr_array(np.array([[1.0, 0.0]], np.float32))
    y = np.array([[1.0]], np.float32)
    batches = [(once, y), *[(later, y)] * 9]
    model = sparse_input_model(2, 1)
    expected, _ = oracle_of_features(model, batches, step, arguments, first, [0.01] * 10)
    model.compile(make(0.01), "mean_squared_error")
    start = model.get_weights()[0][1, 0]
    model.train_on_batch(*batches[0])
    first_move = abs(model.get_weights()[0][1, 0] - start)
    for batch in batches[1:]:
        model.train_on_batch(*batch)
    found = np.vstack(model.get_weights())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert abs(found[1, 0] - start) > 3 * first_move


def moments_of(layer):
    """m and v of every feature, as float32 numbers that end in 16 zero bits."""
    words = layer._slots[:-1].view(np.uint32)  # the last row would be the biases
    return (words << np.uint32(16)).view(np.float32), (words & np.uint32(0xFFFF0000)).view(
        np.float32
    )


def same_gradient_for_all(n_rows, n_steps, **arguments):
    """The layer of a model whose rows, one a feature, all have the gradients g_1, g_2, ... of its
    outputs; and these."""
    rng = np.random.default_rng(0)
    model = sparse_input_model(n_rows, 4, use_bias=False)
    model.compile(Adam(1e-3, **arguments), "mean_squared_error")
    x = sp.csr_array(np.ones((1, n_rows), np.float32))
    gradients = []
    for _ in range(n_steps):
        y = 1e3 + rng.normal(size=(1, 4)).astype(np.float32)
        gradients.append((model.predict(x)[0] - y[0]) * (2 / 4))
        model.train_on_batch(x, y, n_jobs=2)
    return model.layers[0], np.array(gradients, float)


def test_bfloat16_moments_are_neighbours_of_the_exact_ones_which_are_their_mean():
    layer, [g] = same_gradient_for_all(20_000, 1, moments="bfloat16")
    for found, exact in zip(moments_of(layer), (0.1 * g, 0.001 * g**2), strict=True):
        assert not found[:, 4:].any()
        for column, value in zip(found[:, :4].T.astype(float), exact, strict=True):
            gap = 2.0 ** (np.floor(np.log2(abs(value))) - 7)
            low = np.floor(value / gap) * gap
            np.testing.assert_array_equal(np.unique(column), [low, low + gap])
            # 4.5 standard deviations of the mean of 20,000
            chance = (value - low) / gap
            error = 4.5 * gap * np.sqrt(chance * (1 - chance) / len(column))
            assert abs(column.mean() - value) < error + 1e-5 * abs(value)


def test_bfloat16_moments_follow_for_many_steps():
    """Rounded to the nearest, v would stop: its steps become smaller than half a gap."""
    n_steps = 1500
    layer, gradients = same_gradient_for_all(500, n_steps, moments="bfloat16")
    m, v = (part[:, :4].astype(float).mean(axis=0) for part in moments_of(layer))
    ages = np.arange(n_steps)[::-1, None]
    np.testing.assert_allclose(m, (0.1 * 0.9**ages * gradients).sum(axis=0), rtol=0.002)
    np.testing.assert_allclose(v, (0.001 * 0.999**ages * gradients**2).sum(axis=0), rtol=0.01)


def test_lazy_adam_is_that_of_torch():
    """Of rows that skip steps: torch.optim.SparseAdam on the rows that a batch has."""
    torch = pytest.importorskip("torch")
    model = sparse_input_model(12, 5, use_bias=False)
    batches = list(batches_with_gaps(60, 12, 5))
    kernel = torch.nn.Parameter(torch.tensor(model.get_weights()[0]))
    optimizer = torch.optim.SparseAdam([kernel], lr=0.02, eps=1e-7)
    for x, y in batches:
        error = x @ kernel.detach().numpy() - y
        rows = np.unique(x.indices)
        gradient = (x.T @ error)[rows] * (2 / error.size)
        values = torch.tensor(gradient, dtype=torch.float32)
        kernel.grad = torch.sparse_coo_tensor(
            rows[None], values, kernel.shape, check_invariants=True
        )
        optimizer.step()
    model.compile(Adam(0.02, lazy=True), "mean_squared_error")
    model.fit(batches, verbose=0, n_jobs=2)
    expected = kernel.detach().numpy()
    np.testing.assert_allclose(model.get_weights()[0], expected, rtol=1e-4, atol=1e-5)


def test_lazy_adam_leaves_rows_that_no_batch_has():
    model = sparse_input_model(3, 4)
    model.compile(Adam(0.05, lazy=True), "mean_squared_error")
    both = sp.csr_array(np.array([[1, 1, 0]], np.float32))
    model.train_on_batch(both, np.ones((1, 4), np.float32))
    before = model.get_weights()[0]
    for _ in range(5):
        model.train_on_batch(both[:, [0, 2, 2]], np.ones((1, 4), np.float32))
    after = model.get_weights()[0]
    assert (after[0] != before[0]).all()
    np.testing.assert_array_equal(after[1:], before[1:])


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("update", ["batch", "hogwild"])
def test_bfloat16_moments_move_weights_like_float32(update, lazy):
    """With gaps between a row's steps; 60 moves of a few per cent of error each."""
    batches = list(batches_with_gaps(60, 12, 40))
    moves = []
    for moments, n_jobs in (("float32", 1), ("bfloat16", 1), ("bfloat16", 2)):
        model = sparse_input_model(12, 40)
        start = np.vstack(model.get_weights())
        optimizer = Adam(0.02, moments=moments, lazy=lazy)
        model.compile(optimizer, "mean_squared_error", update=update)
        model.fit(batches, verbose=0, n_jobs=n_jobs if update == "batch" else 1)
        moves.append(np.vstack(model.get_weights()) - start)
    np.testing.assert_array_equal(moves[1], moves[2])
    distance = np.linalg.norm(moves[1] - moves[0], axis=1) / np.linalg.norm(moves[0], axis=1)
    assert 0 < distance.max() < 0.02


@pytest.mark.slow
def test_a_million_samples_of_half_a_million_features():
    """Row and sample of an entry do not fit 32 bits with the usual number of parts then."""
    n, n_features = (1 << 20) + 3, 1 << 19
    rng = np.random.default_rng(0)
    ids = rng.integers(n_features, size=n).astype(np.int32)
    x = sp.csr_array((np.ones(n, np.float32), ids, np.arange(n + 1)), (n, n_features))
    y = rng.normal(size=(n, 1)).astype(np.float32)
    model = sparse_input_model(n_features, 1, kernel_initializer="zeros")
    model.compile(SGD(1.0), "mean_squared_error")
    model.train_on_batch(x, y, n_jobs=2)
    expected = np.bincount(ids, weights=2 * y[:, 0].astype(float) / n, minlength=n_features)
    np.testing.assert_allclose(model.get_weights()[0][:, 0], expected, rtol=1e-4, atol=1e-9)


def test_compile_starts_the_optimizer_anew_and_keeps_weights():
    batches = list(batches_with_gaps(20, 8, 5))
    model = sparse_input_model(8, 5)
    model.compile(Adam(0.01), "mean_squared_error")
    model.fit(batches, verbose=0, n_jobs=1)
    fresh = sparse_input_model(8, 5)
    fresh.set_weights(model.get_weights())
    for other in (model, fresh):
        other.compile(Adam(0.01), "mean_squared_error")
        other.fit(batches, verbose=0, n_jobs=1)
    for a, b in zip(model.get_weights(), fresh.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_step_sizes_of_adam_do_not_depend_on_the_gradient_scale():
    for scale in (1e-3, 1.0, 1e3):
        model = sparse_input_model(1, 1)
        start = model.get_weights()[0][0, 0]
        model.compile(Adam(0.01, epsilon=1e-12), "mean_squared_error")
        x = sp.csr_array(np.array([[scale]], np.float32))
        model.train_on_batch(x, np.array([[1e4]], np.float32))
        assert model.get_weights()[0][0, 0] - start == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SGD(-0.1), "learning_rate"),
        (lambda: SGD(float("nan")), "learning_rate"),
        (lambda: SGD("fast"), "learning_rate"),
        (lambda: SGD(0.1, momentum=1.0), "momentum"),
        (lambda: SGD(0.1, momentum=-0.1), "momentum"),
        (lambda: SGD(0.1, nesterov=True), "nesterov"),
        (lambda: SGD(0.1, momentum=0.5, nesterov=1), "nesterov"),
        (lambda: Adagrad(initial_accumulator_value=-1.0), "initial_accumulator_value"),
        (lambda: Adagrad(epsilon=0.0), "epsilon"),
        (lambda: Adagrad(rowwise="yes"), "rowwise"),
        (lambda: Adam(beta_1=1.0), "beta_1"),
        (lambda: Adam(beta_2=1.5), "beta_2"),
        (lambda: Adam(beta_1=0.0, beta_2=0.0), "beta_2"),
        (lambda: Adam(beta_1=0.9, beta_2=0.8), "beta_1=0.9 .* beta_2=0.8"),
        (lambda: Adam(epsilon=float("inf")), "epsilon"),
        (lambda: Adam(moments="float16"), "moments .*'float16'"),
        (lambda: Adam(lazy=1), "lazy"),
        (lambda: slide.optimizers.get("adamax"), "adamax"),
        (lambda: slide.optimizers.get(3), "optimizer"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        make()


@pytest.mark.parametrize("name", [*CASES, "adam_bfloat16"])
def test_configurations_come_back(name):
    make = CASES[name][0] if name in CASES else lambda lr: Adam(lr, moments="bfloat16")
    optimizer = make(slide.schedules.ExponentialDecay(0.1, 100, 0.5))
    again = slide.optimizers.get(slide.optimizers.serialize(optimizer))
    assert type(again) is type(optimizer)
    assert again.get_config() == optimizer.get_config()
    assert again.kernel().n_slots == optimizer.kernel().n_slots
    assert repr(again) == repr(optimizer)
    assert repr(optimizer.learning_rate) in repr(optimizer)


def test_adam_steps_are_bounded_whatever_moments_threads_left():
    """|m| / sqrt(v) is at most (1 - b1) / sqrt((1 - b2) (1 - b1^2 / b2)) = 7.28 in truth."""
    model = slide.Sequential([slide.Input(3, sparse=False), slide.Dense(2, activation="softmax")])
    model.compile(slide.optimizers.Adam(0.01))
    x, y = np.eye(3, dtype=np.float32), [0, 1, 0]
    for _ in range(100):
        model.train_on_batch(x, y, n_jobs=1)
    before = model.get_weights()
    slots = model.layers[0]._slots.reshape(2, 2, -1)
    slots[:, 0, :3], slots[:, 1, :3] = 1.0, 1e-30
    model.train_on_batch(x, y, n_jobs=1)
    # Both bias corrections after 100 steps: sqrt(1 - 0.999^101) / (1 - 0.9^101) = 0.31.
    change = np.abs(model.get_weights()[0] - before[0]).max()
    assert 0 < change < 0.01 * 7.4 * 0.32


@pytest.mark.parametrize("first", [2**24 - 2, 2**27 + 5])
def test_no_row_misses_a_step_for_the_rounding_of_its_clock(first):
    """Rows that every batch touches: the number of the first step does not matter."""
    rng = np.random.default_rng(0)
    x, y = rng.random((8, 6)), rng.random((8, 4))
    weights = []
    for start in (1000, first):
        model = slide.Sequential([slide.Input(6, sparse=False), slide.Dense(4)])
        model.compile(SGD(0.1, momentum=0.9), "mean_squared_error")
        model.train_on_batch(x, y, n_jobs=1)
        model._position[0] += start
        for _ in range(6):
            model.train_on_batch(x, y, n_jobs=1)
        weights.append(np.vstack(model.get_weights()))
    np.testing.assert_array_equal(*weights)


@pytest.mark.parametrize(
    ("touched", "total"), [(1, 20), (1, 1000), (10, 1000), (100, 1000), (1000, 1500)]
)
def test_missed_moves_of_adam_are_those_of_their_time(touched, total):
    """A feature that occurs once moves as far as dense Adam moves it, however long ago it was."""
    assert moved_by_one_step(Adam(0.01), touched, total) == pytest.approx(
        dense_adam_after_one_gradient(lambda step: 0.01, touched, total), rel=0.06
    )


def test_missed_moves_of_adam_have_the_learning_rate_of_their_step():
    """One that grew a hundredfold since, or fell to nothing, does not matter."""
    grows = slide.schedules.LinearWarmup(1e-3, 1000)
    falls = slide.schedules.PiecewiseConstantDecay([50], [0.01, 0.0])
    expected = dense_adam_after_one_gradient(grows, 100, 500)
    assert moved_by_one_step(Adam(grows), 100, 500) == pytest.approx(expected, rel=0.15)
    expected = dense_adam_after_one_gradient(falls, 10, 100)
    assert moved_by_one_step(Adam(falls), 10, 100) == pytest.approx(expected, rel=0.06)


def moved_by_one_step(optimizer, touched, total):
    model = slide.Sequential([slide.Input(2), slide.Dense(1)])
    model.compile(optimizer, "mean_squared_error")
    before = model.get_weights()[0][1, 0]
    for step in range(1, total + 1):
        x = np.eye(2, dtype=np.float32)[[int(step == touched)]]
        model.train_on_batch(sp.csr_matrix(x), [[1e3]], n_jobs=1)
    return abs(model.get_weights()[0][1, 0] - before)


def dense_adam_after_one_gradient(learning_rate, touched, total):
    m = v = w = 0.0
    for t in range(1, total + 1):
        g = 1.0 if t == touched else 0.0
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        if v:
            w += learning_rate(t - 1) * (m / (1 - 0.9**t)) / np.sqrt(v / (1 - 0.999**t))
    return w


def test_a_new_optimizer_begins_its_schedule():
    model = slide.Sequential([slide.Input(3), slide.Dense(2)])
    x, y = np.eye(3, dtype=np.float32), np.ones((3, 2))
    model.compile(SGD(0.1), "mean_squared_error")
    model.fit(x, y, batch_size=1, epochs=3, verbose=0, n_jobs=1)
    model.compile(SGD(slide.schedules.PiecewiseConstantDecay([2], [0.5, 0.0])), "mse")
    rates = [
        model.fit(x, y, batch_size=3, verbose=0, n_jobs=1).history["lr"][0] for _ in range(4)
    ]
    assert rates == [0.5, 0.5, 0.5, 0.0] or rates == [0.5, 0.5, 0.0, 0.0]
    before = model.get_weights()
    model.fit(x, y, batch_size=3, verbose=0, n_jobs=1)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_subclass_may_set_what_it_has_given_on():
    class Fast(slide.optimizers.Adam):
        def __init__(self, beta_1=0.8):
            super().__init__(beta_1=beta_1)
            self.beta_1 = beta_1

    assert Fast().beta_1 == 0.8


@pytest.mark.parametrize(
    ("optimizer", "name", "value"),
    [(SGD(), "momentum", 0.9), (Adagrad(), "rowwise", True), (Adam(), "moments", "bfloat16")],
)
def test_an_optimizer_keeps_what_it_was_made_with(optimizer, name, value):
    with pytest.raises(AttributeError, match=f"{name}=.*give compile a new optimizer"):
        setattr(optimizer, name, value)
    assert optimizer.get_config()[name] == type(optimizer)().get_config()[name]
    for other in (pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)):
        assert other.get_config() == optimizer.get_config()


@pytest.mark.parametrize("use", ["fit", "evaluate"])
@pytest.mark.parametrize(
    ("optimizer", "name", "value"),
    [(SGD(), "momentum", 0.9), (Adagrad(), "rowwise", True), (Adam(), "moments", "bfloat16")],
)
def test_state_of_another_shape_is_not_read(optimizer, name, value, use):
    model = slide.Sequential([slide.Input(3), slide.Dense(2)])
    x, y = np.eye(3, dtype=np.float32), np.ones((3, 2))
    model.compile(copy.deepcopy(optimizer), "mse")
    model.train_on_batch(x, y)
    vars(model.optimizer)[name] = value
    model._network = None
    with pytest.raises(RuntimeError, match="'dense_0' has the state of another optimizer"):
        getattr(model, use)(x, y)
