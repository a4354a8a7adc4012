"""The oracle against numeric derivatives, brute force and other people's code."""

import itertools

import numpy as np
import pytest
import reference as ref
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import csr_matrices, label_matrices, layer_widths, odd_widths

HIDDEN = ("linear", "relu", "sigmoid", "tanh")
OUTPUTS = [
    ("categorical_crossentropy", "softmax", False),
    ("binary_crossentropy", "sigmoid", False),
    ("binary_crossentropy", "sigmoid", True),
    ("mean_squared_error", "linear", False),
    ("mean_squared_error", "relu", False),
    ("mean_squared_error", "tanh", False),
    ("mean_squared_error", "softmax", False),
]


def random_network(rng, widths, output, n=None):
    """Layers of the given widths; with n samples, a random active set in every one of them."""
    layers = []
    for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
        last = i == len(widths) - 2
        active = log_pi = None
        if n is not None:
            active = rng.random((n, n_out)) < 0.6
            if last:
                pi = np.where(rng.random((n, n_out)) < 0.5, 1.0, rng.uniform(0.2, 1.0, (n, n_out)))
                log_pi = np.log(pi)
        layers.append(
            ref.Layer(
                rng.normal(size=(n_out, n_in)),
                rng.normal(size=n_out),
                output if last else HIDDEN[i % len(HIDDEN)],
                active,
                log_pi,
            )
        )
    return layers


def some_targets(rng, n, n_out, loss):
    if loss == "mean_squared_error":
        return rng.normal(size=(n, n_out))
    y = (rng.random((n, n_out)) < 0.4).astype(float)
    y[0] = 0.0
    return y


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize(("loss", "output", "mean"), OUTPUTS)
def test_gradients_are_the_derivatives_of_the_loss(loss, output, mean, sampled):
    rng = np.random.default_rng(5)
    n, widths = 5, [4, 5, 3, 5, 6, 7]
    layers = random_network(rng, widths, output, n if sampled else None)
    x, y = rng.normal(size=(n, 4)), some_targets(rng, n, 7, loss)
    if sampled:
        layers[-1].active[y != 0] = True
        layers[-1].log_pi[y != 0] = 0.0
    weight = rng.uniform(0.0, 2.0, n)

    def batch_loss():
        return ref.loss_and_gradients(layers, x, y, loss, weight, mean)[0]

    gradients = ref.loss_and_gradients(layers, x, y, loss, weight, mean)[1]
    for layer, (dw, db) in zip(layers, gradients, strict=True):
        np.testing.assert_allclose(
            dw, ref.numeric_gradient(batch_loss, layer.weights), rtol=1e-5, atol=1e-7
        )
        np.testing.assert_allclose(
            db, ref.numeric_gradient(batch_loss, layer.bias), rtol=1e-5, atol=1e-7
        )


@pytest.mark.parametrize(("loss", "output", "mean"), OUTPUTS)
def test_all_neurons_active_is_no_sampling(loss, output, mean):
    rng = np.random.default_rng(6)
    layers = random_network(rng, [4, 3, 5], output)
    x, y = rng.normal(size=(6, 4)), some_targets(rng, 6, 5, loss)
    everything = [
        layer._replace(active=np.ones((6, len(layer.bias)), bool), log_pi=np.zeros((6, 5)))
        for layer in layers
    ]
    full = ref.loss_and_gradients(layers, x, y, loss, mean_outputs=mean)
    sampled = ref.loss_and_gradients(everything, x, y, loss, mean_outputs=mean)
    assert full[0] == pytest.approx(sampled[0])
    for (a, b), (c, d) in zip(full[1], sampled[1], strict=True):
        np.testing.assert_allclose(a, c)
        np.testing.assert_allclose(b, d)


@pytest.mark.parametrize(("loss", "output"), [OUTPUTS[1][:2], OUTPUTS[3][:2]])
def test_weighting_by_inclusion_probability_is_unbiased(loss, output):
    """Over all subsets, each with its probability, the sampled gradient is the full one."""
    rng = np.random.default_rng(7)
    layers = random_network(rng, [3, 4], output)
    x, y = rng.normal(size=(1, 3)), some_targets(rng, 1, 4, loss)
    pi = np.array([[0.3, 0.6, 1.0, 0.8]])
    expected = 0.0
    for subset in itertools.product([False, True], repeat=4):
        probability = np.prod(np.where(subset, pi, 1 - pi))
        sampled = [layers[0]._replace(active=np.array([subset]), log_pi=np.log(pi))]
        expected += probability * ref.loss_and_gradients(sampled, x, y, loss)[1][0][0]
    np.testing.assert_allclose(expected, ref.loss_and_gradients(layers, x, y, loss)[1][0][0])


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_odd_shapes_and_empty_rows(data):
    n, widths = data.draw(st.integers(1, 6)), data.draw(layer_widths())
    x = data.draw(csr_matrices(n, widths[0]))
    y = data.draw(label_matrices(n, widths[-1]))
    layers = random_network(np.random.default_rng(data.draw(st.integers(0, 99))), widths, "softmax")
    loss, gradients = ref.loss_and_gradients(layers, x, y, "categorical_crossentropy")
    assert np.isfinite(loss)
    assert loss >= 0.0
    assert [dw.shape for dw, _ in gradients] == [layer.weights.shape for layer in layers]
    assert all(np.isfinite(dw).all() for dw, _ in gradients)
    np.testing.assert_allclose(ref.predict(layers, x).sum(axis=1), 1.0)
    unlabelled = y.sum(axis=1) == 0
    assert not unlabelled.all() or loss == 0.0


def test_a_row_without_active_neurons_gives_nothing():
    layer = ref.Layer(np.ones((3, 2)), np.zeros(3), "softmax", np.zeros((1, 3), bool))
    loss, [(dw, db)] = ref.loss_and_gradients(
        [layer], np.ones((1, 2)), np.zeros((1, 3)), "categorical_crossentropy"
    )
    assert loss == 0.0
    assert not dw.any()
    assert not db.any()


def test_mask_of_ids():
    mask = ref.mask_of_ids([np.array([2, 0]), np.array([], int)], 3)
    assert mask.tolist() == [[True, False, True], [False, False, False]]


def test_stable_at_large_logits():
    z = np.array([[1000.0, -1000.0]])
    everything, y = np.ones((1, 2), bool), np.array([[0.0, 1.0]])
    zeros = np.zeros((1, 2))
    loss, dz = ref.categorical_crossentropy(z, y, everything, zeros)
    assert (loss[0], dz.tolist()) == (2000.0, [[1.0, -1.0]])
    loss, dz = ref.binary_crossentropy(z, y, everything, zeros)
    assert (loss[0], dz.tolist()) == (2000.0, [[1.0, -1.0]])


# ----------------------------------------------------------------------------- optimizers

TORCH = {
    "sgd": (ref.sgd, {}, "SGD", {}),
    "momentum": (ref.sgd, {"momentum": 0.9}, "SGD", {"momentum": 0.9}),
    "nesterov": (
        ref.sgd,
        {"momentum": 0.9, "nesterov": True},
        "SGD",
        {"momentum": 0.9, "nesterov": True},
    ),
    "adagrad": (
        ref.adagrad,
        {},
        "Adagrad",
        {"initial_accumulator_value": 0.1, "eps": 1e-7},
    ),
    "adam": (ref.adam, {}, "Adam", {"eps": 1e-7}),
}
OPTIMIZERS = {
    **{name: entry[:2] for name, entry in TORCH.items()},
    "rowwise_adagrad": (ref.rowwise_adagrad, {}),
}


@pytest.mark.parametrize("name", TORCH)
def test_dense_steps_are_those_of_torch(name):
    torch = pytest.importorskip("torch")
    step, arguments, torch_name, torch_arguments = TORCH[name]
    rng = np.random.default_rng(8)
    w = rng.normal(size=(4, 3))
    state = ref.new_state(w, initial_accumulator_value=0.1 if name == "adagrad" else 0.0)
    parameter = torch.nn.Parameter(torch.tensor(w))
    optimizer = getattr(torch.optim, torch_name)([parameter], lr=0.05, **torch_arguments)
    for _ in range(20):
        g = rng.normal(size=w.shape)
        step(w, g, range(4), state, lr=0.05, **arguments)
        parameter.grad = torch.tensor(g)
        optimizer.step()
    np.testing.assert_allclose(w, parameter.detach().numpy(), rtol=1e-9)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_changes_only_touched_rows(name):
    step, arguments = OPTIMIZERS[name]
    rng = np.random.default_rng(9)
    w = rng.normal(size=(5, 3))
    state = ref.new_state(w, 0.1)
    for _ in range(12):
        touched = np.flatnonzero(rng.random(5) < 0.4)
        g, before = rng.normal(size=w.shape), w.copy()
        step(w, g, touched, state, lr=0.1, **arguments)
        others = np.setdiff1d(np.arange(5), touched)
        np.testing.assert_array_equal(w[others], before[others])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_missed_step_is_a_step_with_gradient_zero(name):
    """After settle, the rows are where the dense optimizer has them.

    Adam's skips take the bias corrections at the end of the gap for all of it, so they are exact
    only once 1 - beta^t no longer changes: here from step 400 on with these betas.
    """
    step, arguments = OPTIMIZERS[name]
    if name == "adam":
        arguments = {"beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-12}
    rng = np.random.default_rng(9)
    w = rng.normal(size=(5, 3))
    dense, state, dense_state = w.copy(), ref.new_state(w, 0.1), ref.new_state(w, 0.1)
    for i in range(500):
        everything = name == "adam" and i < 400
        touched = np.flatnonzero((rng.random(5) < 0.3) | everything)
        g = np.zeros(w.shape)
        g[touched] = rng.normal(size=(len(touched), 3))
        step(w, g, touched, state, lr=0.1, **arguments)
        step(dense, g, range(5), dense_state, lr=0.1, **arguments)
    ref.settle(step, w, state, lr=0.1, **arguments)
    np.testing.assert_allclose(w, dense, rtol=1e-9, atol=1e-9)


def test_first_steps_by_hand():
    g = np.array([[3.0, 4.0]])
    w = np.zeros((1, 2))
    ref.rowwise_adagrad(w, g, [0], ref.new_state(w), lr=1.0, epsilon=0.0)
    np.testing.assert_allclose(w, -g / np.sqrt(12.5))
    w = np.zeros((1, 2))
    ref.adam(w, g, [0], ref.new_state(w), lr=0.1, epsilon=0.0)
    np.testing.assert_allclose(w, -0.1)
    w = np.zeros((1, 2))
    ref.sgd(w, g, [0], ref.new_state(w), lr=0.1, momentum=0.5, nesterov=True)
    np.testing.assert_allclose(w, -0.15 * g)


def test_l2_spares_the_bias():
    w = np.array([[1.0, 2.0, 3.0]])
    assert ref.with_l2(w, np.ones((1, 3)), 0.5, 2).tolist() == [[2.0, 3.0, 1.0]]


# ------------------------------------------------------------------- hashing and clusters


def test_simhash_collision_by_simulation():
    rng = np.random.default_rng(10)
    x, y = rng.normal(size=(2, 6))
    projections = rng.normal(size=(200_000, 6))
    rate = np.mean((projections @ x > 0) == (projections @ y > 0))
    # Five standard errors of a rate over 200,000 draws.
    assert abs(rate - ref.simhash_collision(x, y)) < 5 * 0.5 / np.sqrt(200_000)
    assert ref.simhash_collision(x, 2 * x) == 1.0
    assert ref.simhash_collision(x, -x) == 0.0


@pytest.mark.parametrize("m", [2, 3, 4])
def test_wta_collision_by_enumeration(m):
    x, y = np.random.default_rng(m).normal(size=(2, 8))
    windows = [list(w) for w in itertools.combinations(range(8), m)]
    rate = np.mean([x[w].argmax() == y[w].argmax() for w in windows])
    assert ref.wta_collision(x, y, m) == pytest.approx(rate)
    assert ref.wta_collision(x, x, m) == pytest.approx(1.0)


@pytest.mark.parametrize("m", [2, 3, 4])
@given(seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_dwta_collision_by_enumeration(m, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 9)) * (rng.random((2, 9)) < 0.4)
    x[0], y[1] = 1.0, -1.0

    def code(v, window):
        filled = [i for i in window if v[i] != 0]
        return max(filled, key=lambda i: v[i]) if filled else None

    pairs = [(code(x, w), code(y, w)) for w in itertools.combinations(range(9), m)]
    rate = np.mean([a == b for a, b in pairs if (a, b) != (None, None)])
    assert ref.dwta_collision(x, y, m) == pytest.approx(rate)


def test_retrieval_probability():
    assert ref.retrieval_probability(0.5, 1, 1) == 0.5
    assert ref.retrieval_probability(0.9, 2, 3) == pytest.approx(1 - 0.19**3)


@given(st.integers(1, 5), odd_widths)
@settings(max_examples=20, deadline=None)
def test_spherical_assignment_ignores_norms(n_centres, width):
    rng = np.random.default_rng(width)
    centres, points = rng.normal(size=(n_centres, width)), rng.normal(size=(7, width))
    cells = ref.spherical_assignment(points, centres)
    scaled = ref.spherical_assignment(
        points * rng.uniform(0.5, 2, (7, 1)), centres * rng.uniform(0.5, 2, (n_centres, 1))
    )
    cosines = (
        (points @ centres.T)
        / np.linalg.norm(points, axis=1)[:, None]
        / np.linalg.norm(centres, axis=1)
    )
    if width > 1:  # with one dimension all cosines are 1 or -1, and rounding decides
        np.testing.assert_array_equal(cells, scaled)
    np.testing.assert_allclose(cosines[np.arange(7), cells], cosines.max(axis=1))


def test_bounded_assignment_by_hand():
    centres = np.eye(2)
    points = np.array([[3.0, 1.0], [1.0, 0.0], [2.0, 1.0], [1.0, 3.0]])
    cells = ref.bounded_assignment
    assert cells(points, centres, [4, 4]).tolist() == [0, 0, 0, 1]
    assert cells(points, centres, [2, 2]).tolist() == [0, 0, 1, 1]
    assert cells(points, centres, [1, 3]).tolist() == [1, 0, 1, 1]
    assert cells(points, centres, [4, 0]).tolist() == [0, 0, 0, 0]
    assert cells(np.ones((4, 2)), centres, [2, 2]).tolist() == [0, 0, 1, 1]


def test_balanced_cells_by_hand():
    groups, cells = np.eye(2), np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
    points = np.array([[3.0, 1.0], [3.0, -1.0], [2.0, 1.0], [1.0, -3.0], [4.0, 1.0]])
    # The fourth is the least like the first group, and of the second's cells most like the last;
    # the fifth is the least like the first cell.
    assert ref.balanced_cells(points, groups, cells, 2, [-1] * 5).tolist() == [0, 1, 0, 3, 1]
    assert ref.balanced_cells(points, groups, cells, 5, [-1] * 5).tolist() == [0, 1, 0, 1, 0]
    kept = [-1, 0, -1, -1, 0]
    assert ref.balanced_cells(points, groups, cells, 2, kept).tolist() == [1, 0, 1, 3, 0]
