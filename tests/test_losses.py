"""Losses through a network without a hidden layer, against formulas and numeric derivatives."""

import numpy as np
import pytest
import reference as ref
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import slide
from slide.losses import BinaryCrossentropy, CategoricalCrossentropy, MeanSquaredError


def loss_at(z, y, loss, activation, sample_weight=None):
    """The loss of `evaluate`, the loss of a step and its gradient, at the logits z (n, m).

    Every sample has a feature of its own, so row s of the weights is its vector of logits.
    """
    n, m = np.shape(z)
    model = slide.Sequential(
        [slide.Input(n, sparse=True), slide.Dense(m, activation, use_bias=False)]
    )
    model.set_weights([np.asarray(z, np.float32)])
    model.compile(slide.optimizers.SGD(1.0), loss)
    x = sp.csr_array(np.eye(n, dtype=np.float32))
    evaluated = model.evaluate(x, y, sample_weight=sample_weight)["loss"]
    stepped = model.train_on_batch(x, y, sample_weight)["loss"]
    gradient = (np.asarray(z, np.float64) - model.get_weights()[0]) * n
    return evaluated, stepped, gradient


def softplus(z):
    return np.logaddexp(0.0, z)


CASES = [
    (CategoricalCrossentropy(), "softmax"),
    (BinaryCrossentropy("sum"), "sigmoid"),
    (BinaryCrossentropy("mean"), "sigmoid"),
    *[(MeanSquaredError(), a) for a in ("linear", "relu", "sigmoid", "tanh")],
]


def value(z, y, loss, activation):
    """The mean over the samples, written once more, in float64."""
    z, y = np.asarray(z, float), np.asarray(y, float)
    if loss.name == "categorical_crossentropy":
        total = y.sum(axis=1, keepdims=True)
        t = np.divide(y, total, out=np.zeros_like(y), where=total > 0)
        log_p = z - np.logaddexp.reduce(z, axis=1)[:, None]
        return -(t * log_p).sum(axis=1).mean()
    if loss.name == "binary_crossentropy":
        terms = softplus(z) - y * z
        return (terms.mean(axis=1) if loss.reduction == "mean" else terms.sum(axis=1)).mean()
    return ((ref.activate(activation, z) - y) ** 2).mean()


@pytest.mark.parametrize("m", [1, 2, 15, 17, 300])
@pytest.mark.parametrize(("loss", "activation"), CASES)
def test_formula_and_derivative(loss, activation, m):
    rng = np.random.default_rng(m)
    z = (rng.normal(size=(4, m)) * 2).astype(np.float32).astype(float)
    y = (rng.random((4, m)) < 0.3).astype(np.float32)
    if loss.name == "mean_squared_error":
        y = rng.normal(size=(4, m)).astype(np.float32)
    evaluated, stepped, gradient = loss_at(z, y, loss, activation)
    expected = value(z, y, loss, activation)
    assert evaluated == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert stepped == pytest.approx(expected, rel=1e-4, abs=1e-5)
    numeric = ref.numeric_gradient(lambda: value(z, y, loss, activation), z)
    np.testing.assert_allclose(gradient, 4 * numeric, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("loss", "activation"), CASES)
def test_sample_weights_are_factors(loss, activation):
    rng = np.random.default_rng(1)
    z, y = rng.normal(size=(3, 5)).astype(np.float32), np.eye(5, dtype=np.float32)[[0, 4, 2]]
    weights = np.array([2.0, 0.0, 0.5])
    evaluated, stepped, gradient = loss_at(z, y, loss, activation, weights)
    single = [loss_at(z[i : i + 1], y[i : i + 1], loss, activation) for i in range(3)]
    expected = sum(w * s[0] for w, s in zip(weights, single, strict=True)) / 3
    assert evaluated == pytest.approx(expected, rel=1e-5)
    assert stepped == pytest.approx(expected, rel=1e-5)
    for w, row, s in zip(weights, gradient, single, strict=True):
        np.testing.assert_allclose(row, w * s[2][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("magnitude", [30.0, 100.0, 1e4, 1e15])
@pytest.mark.parametrize(("loss", "activation"), CASES[:2])
def test_finite_at_any_logits_that_training_allows(loss, activation, magnitude):
    z = np.array([[magnitude, -magnitude, 0.0]])
    y = np.array([[0.0, 1.0, 0.0]], np.float32)
    evaluated, stepped, gradient = loss_at(z, y, loss, activation)
    expected = value(z, y, loss, activation)
    assert evaluated == pytest.approx(expected, rel=1e-5)
    assert stepped == pytest.approx(expected, rel=1e-5)
    if magnitude < 1e4:  # a float32 weight beyond that does not show a step of 1
        np.testing.assert_allclose(gradient[0, :2], [1.0, -1.0], rtol=1e-4)


def test_binary_crossentropy_keeps_its_digits_where_it_is_small():
    """log(1 + exp(z)) for very negative z is exp(z), not 0."""
    z = np.full((1, 4), -12.0)
    evaluated, stepped, _ = loss_at(z, np.zeros((1, 4)), BinaryCrossentropy(), "sigmoid")
    assert evaluated == pytest.approx(4 * np.exp(-12.0), rel=1e-3)
    assert stepped == pytest.approx(4 * np.exp(-12.0), rel=1e-3)


def test_targets_between_0_and_1():
    z, y = np.array([[0.3, -0.2]]), np.array([[0.25, 0.75]], np.float32)
    evaluated, _, gradient = loss_at(z, y, BinaryCrossentropy(), "sigmoid")
    assert evaluated == pytest.approx((softplus(z) - y * z).sum(), rel=1e-5)
    np.testing.assert_allclose(gradient, ref.activate("sigmoid", z) - y, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from(CASES))
def test_a_target_form_does_not_matter(seed, m, case):
    loss, activation = case
    rng = np.random.default_rng(seed)
    z, ids = rng.normal(size=(5, m)), rng.integers(0, m, 5)
    y = np.eye(m, dtype=np.float32)[ids]
    dense = loss_at(z, y, loss, activation)
    forms = [sp.csr_array(y), sp.coo_array(y), sp.csc_matrix(y), y.astype(bool), y.astype(int)]
    if m > 1 or loss.name == "categorical_crossentropy":
        forms += [ids, ids.astype(np.uint8)]
    for form in forms:
        other = loss_at(z, form, loss, activation)
        assert other[:2] == dense[:2]
        np.testing.assert_array_equal(other[2], dense[2])


def test_one_output_takes_a_vector_of_targets():
    z, y = np.array([[0.5], [-1.0]]), np.array([1.0, 0.0])
    for loss, activation in ((BinaryCrossentropy(), "sigmoid"), (MeanSquaredError(), "tanh")):
        found = loss_at(z, y, loss, activation)
        assert found[0] == pytest.approx(value(z, y[:, None], loss, activation), rel=1e-5)


def test_names_and_aliases():
    get = slide.losses.get
    assert isinstance(get("categorical_crossentropy"), CategoricalCrossentropy)
    assert isinstance(get("sparse_categorical_crossentropy"), CategoricalCrossentropy)
    assert isinstance(get("mse"), MeanSquaredError)
    loss = BinaryCrossentropy("mean")
    assert get(slide.losses.serialize(loss)).get_config() == loss.get_config()
    for bad in ("hinge", None, 3):
        with pytest.raises((TypeError, ValueError), match="loss"):
            get(bad)
    with pytest.raises(ValueError, match="reduction"):
        BinaryCrossentropy("max")


@pytest.mark.parametrize(
    ("loss", "activation"),
    [
        ("categorical_crossentropy", "sigmoid"),
        ("categorical_crossentropy", "linear"),
        ("binary_crossentropy", "softmax"),
        ("mean_squared_error", "softmax"),
    ],
)
def test_a_loss_needs_its_activation(loss, activation):
    model = slide.Sequential([slide.Input(2), slide.Dense(3, activation)])
    with pytest.raises(ValueError, match=f"{loss}.*{activation}"):
        model.compile(loss=loss)
    assert model.loss is None
