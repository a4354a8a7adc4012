import json
import math
import tracemalloc

import numpy as np
import pytest

from slide import initializers, regularizers
from slide.layers import Dense

FANS = {"fan_in": 300, "fan_out": 100}
SHAPE = (300, 100)


def uniform(variance):
    return -math.sqrt(3 * variance), math.sqrt(3 * variance), 0.0, math.sqrt(variance)


def cut_normal(variance):
    # Cut at two standard deviations of the normal whose part between the cuts has the variance.
    cut = 2.0 * math.sqrt(variance) / 0.8796256610342398
    return -cut, cut, 0.0, math.sqrt(variance)


# What each should give for these fans: lower and upper bound, mean, standard deviation.
EXPECTED = {
    "zeros": (0.0, 0.0, 0.0, 0.0),
    "ones": (1.0, 1.0, 1.0, 0.0),
    "random_normal": (-np.inf, np.inf, 0.0, 0.05),
    "random_uniform": (-0.05, 0.05, 0.0, 0.05 / math.sqrt(3)),
    "glorot_uniform": uniform(2 / 400),
    "glorot_normal": cut_normal(2 / 400),
    "he_uniform": uniform(2 / 300),
    "he_normal": cut_normal(2 / 300),
    "lecun_uniform": uniform(1 / 300),
    "lecun_normal": cut_normal(1 / 300),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_distribution(name):
    low, high, mean, stddev = EXPECTED[name]
    values = initializers.get(name)(SHAPE, np.random.default_rng(0), **FANS)
    assert values.dtype == np.float32
    assert values.shape == SHAPE
    assert values.flags.c_contiguous
    assert values.min() >= low - 1e-6
    assert values.max() <= high + 1e-6
    # Five standard errors of the mean and of the standard deviation of n values.
    n = values.size
    assert abs(values.mean(dtype=float) - mean) <= 5 * stddev / math.sqrt(n)
    assert abs(values.std(dtype=float) - stddev) <= 5 * stddev / math.sqrt(n)


@pytest.mark.parametrize("name", ["glorot_uniform", "he_normal", "random_normal"])
def test_same_generator_state_gives_the_same_values(name):
    first, second, other = (
        initializers.get(name)(SHAPE, np.random.default_rng(seed), **FANS) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_arguments_are_used():
    rng = np.random.default_rng(0)
    assert initializers.Constant(1.5)((2,), rng).tolist() == [1.5, 1.5]
    normal = initializers.RandomNormal(3.0, 0.01)((1000,), rng)
    assert abs(normal.mean() - 3.0) < 0.01
    uniform = initializers.RandomUniform(1.0, 2.0)((1000,), rng)
    assert 1.0 <= uniform.min() < 1.1
    assert 1.9 < uniform.max() <= 2.0


@pytest.mark.parametrize("name", ["glorot_uniform", "glorot_normal", "random_normal"])
def test_no_float64_copy_of_a_large_matrix(name):
    shape = (20000, 128)
    tracemalloc.start()
    try:
        values = initializers.get(name)(shape, np.random.default_rng(0), fan_in=128, fan_out=20000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A float64 copy would take twice the array; a second float32 one is not needed either.
    assert peak < 1.5 * values.nbytes


def test_label_log_odds():
    counts = np.array([0, 1, 50, 100])
    initializer = initializers.LabelLogOdds()
    assert initializer.needs_label_counts
    bias = initializer((4,), label_counts=counts, n_samples=100)
    assert bias.dtype == np.float32
    np.testing.assert_allclose(bias, np.log((counts + 1) / (100 - counts + 1)), rtol=1e-6)
    # The sigmoid of the bias is the label's smoothed frequency.
    np.testing.assert_allclose(1 / (1 + np.exp(-bias)), (counts + 1) / 102, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs label_counts and n_samples"),
        ({"label_counts": [1, 2], "n_samples": 5}, r"shape \(2,\), the bias has \(3,\)"),
        ({"label_counts": [1, 6, 2], "n_samples": 5}, r"label_counts\[1\] is 6"),
        ({"label_counts": [1, -1, 2], "n_samples": 5}, r"label_counts\[1\] is -1"),
        ({"label_counts": [1, 2, math.nan], "n_samples": 5}, r"label_counts\[2\] is nan"),
        ({"label_counts": [0, 0, 0], "n_samples": 0}, "n_samples must be at least 1, got 0"),
    ],
)
def test_label_log_odds_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        initializers.LabelLogOdds()((3,), None, **arguments)


@pytest.mark.parametrize(
    "initializer",
    [
        initializers.Constant(0.5),
        initializers.RandomNormal(1.0, np.float32(0.5)),
        initializers.RandomUniform(-1.0, np.float64(0.5)),
        initializers.GlorotUniform(),
        initializers.LabelLogOdds(),
    ],
    ids=repr,
)
def test_config_survives_json(initializer):
    config = json.loads(json.dumps(initializers.serialize(initializer)))
    copy = initializers.get(config)
    assert type(copy) is type(initializer)
    assert copy.get_config() == initializer.get_config()
    twin = type(initializer).from_config(initializer.get_config())
    assert repr(twin) == repr(initializer)


def test_get():
    assert isinstance(initializers.get("HeNormal"), initializers.HeNormal)
    zeros = initializers.Zeros()
    assert initializers.get(zeros) is zeros


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: initializers.get("xavier"), ValueError, "'xavier' is unknown; known are Constant"),
        (lambda: initializers.get(None), TypeError, "initializer must be .* got None"),
        (lambda: initializers.get(initializers.Zeros), TypeError, "initializer must be"),
        (lambda: initializers.Constant(1e39), ValueError, "value must be at most .* got 1e[+]39"),
        (lambda: initializers.RandomNormal(0.0, -1.0), ValueError, "stddev .* got -1.0"),
        (lambda: initializers.RandomUniform(1.0, 0.0), ValueError, "maxval .* got 0.0"),
        (lambda: initializers.Zeros()((3, 0), None), ValueError, r"shape\[1\] .* got 0"),
        (lambda: initializers.Zeros()((3, 2.0), None), TypeError, r"shape\[1\] .* got 2.0"),
        (lambda: initializers.HeNormal()((3, 2), None), TypeError, "fan_in must be an integer"),
        (lambda: initializers.GlorotNormal()((3, 2), None, 5), TypeError, "fan_out must be"),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_subclass_must_say_what_it_does():
    with pytest.raises(NotImplementedError, match="__call__"):
        initializers.Initializer()((1,), None)


def test_l2():
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert regularizers.L2(0.1)(weights) == pytest.approx(0.1 * 55.0)
    assert regularizers.L2(0.1)(weights.T) == pytest.approx(0.1 * 55.0)
    assert regularizers.L2()(np.zeros((2, 2))) == 0.0
    # 2**24 + 1 is lost in a float32 sum.
    assert regularizers.L2(1.0)(np.array([4096.0, 1.0], np.float32)) == 2.0**24 + 1


def test_l2_get():
    assert regularizers.get(None) is None
    assert regularizers.serialize(None) is None
    assert repr(regularizers.get("l2")) == "L2(l2=0.01)"
    config = json.loads(json.dumps(regularizers.serialize(regularizers.L2(0.5))))
    copy = regularizers.get(config)
    assert copy.l2 == regularizers.L2.from_config(copy.get_config()).l2 == 0.5
    with pytest.raises(ValueError, match="'l1' is unknown; known are L2"):
        regularizers.get("l1")
    with pytest.raises(ValueError, match="l2 must be at least 0, got -1"):
        regularizers.L2(-1)
    with pytest.raises(TypeError, match="regularizer must be"):
        regularizers.get(0.1)


@pytest.mark.parametrize("by_element", [False, True])
def test_only_independent_values_are_drawn_in_parts(by_element):
    calls = []

    class Counting(initializers.Initializer):
        def __call__(self, shape, rng, fan_in=None, fan_out=None):
            calls.append((tuple(shape), fan_in, fan_out))
            return np.arange(math.prod(shape), dtype=np.float32).reshape(shape) + len(calls)

    Counting.by_element = by_element
    layer = Dense(3000, kernel_initializer=Counting())
    layer.build(200, False, 0)
    assert {call[1:] for call in calls} == {(200, 3000)}
    assert sum(call[0][0] for call in calls) == 3000
    assert {call[0][1] for call in calls} == {200}
    assert (len(calls) > 1) == by_element
    kernel, bias = layer.get_weights()
    first = 0
    for number, (shape, _, _) in enumerate(calls, 1):
        part = np.arange(math.prod(shape), dtype=np.float32).reshape(shape) + number
        np.testing.assert_array_equal(kernel[:, first : first + shape[0]].T, part)
        first += shape[0]
    assert not bias.any()


@pytest.mark.parametrize("name", ["random_uniform", "glorot_normal"])
def test_parts_of_a_layer_differ(name):
    layer = Dense(4000, kernel_initializer=name)
    layer.build(300, False, 0)
    kernel = layer.get_weights()[0].T
    assert len(np.unique(kernel[:, :4], axis=0)) == 4000
    low, high, _, _ = EXPECTED[name] if name == "random_uniform" else (-1, 1, 0, 0)
    assert low <= kernel.min() < kernel.max() <= high


def test_values_beyond_float32_are_refused():
    with pytest.raises(ValueError, match=r"minval=-3e\+38 and maxval=3e\+38"):
        initializers.RandomUniform(-3e38, 3e38)
    with pytest.raises(ValueError, match=r"mean=3e\+38 and stddev=1e\+37"):
        initializers.RandomNormal(3e38, 1e37)
    rng = np.random.default_rng(0)
    for wide in (initializers.RandomUniform(-1e38, 2e38), initializers.RandomNormal(1e38, 1e37)):
        assert np.isfinite(wide((100, 100), rng)).all()
