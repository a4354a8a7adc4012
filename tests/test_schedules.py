import json
import math

import numpy as np
import pytest

from slide import schedules

EXAMPLES = [
    schedules.Constant(0.5),
    schedules.ExponentialDecay(0.1, 100, 0.5),
    schedules.ExponentialDecay(0.1, 100, 0.5, staircase=True),
    schedules.InverseTimeDecay(0.1, 10, 2.0),
    schedules.InverseTimeDecay(0.1, 10, 2.0, staircase=True),
    schedules.CosineDecay(0.1, 50, alpha=0.1),
    schedules.PiecewiseConstantDecay([10, 20], [1.0, 0.5, 0.25]),
    schedules.LinearWarmup(schedules.CosineDecay(0.1, 50), 10, start=0.01),
]


def test_constant():
    assert schedules.Constant(0.5)(0) == schedules.Constant(0.5)(10**9) == 0.5


@pytest.mark.parametrize("step", [0, 1, 99, 100, 250, 10**6])
def test_exponential_decay(step):
    assert schedules.ExponentialDecay(0.1, 100, 0.9)(step) == 0.1 * 0.9 ** (step / 100)
    assert schedules.ExponentialDecay(0.1, 100, 0.9, True)(step) == 0.1 * 0.9 ** (step // 100)


@pytest.mark.parametrize("step", [0, 1, 9, 10, 25, 10**6])
def test_inverse_time_decay(step):
    assert schedules.InverseTimeDecay(0.1, 10, 2.0)(step) == 0.1 / (1 + 2.0 * step / 10)
    assert schedules.InverseTimeDecay(0.1, 10, 2.0, True)(step) == 0.1 / (1 + 2.0 * (step // 10))


def test_cosine_decay():
    schedule = schedules.CosineDecay(0.2, 100, alpha=0.1)
    assert schedule(0) == pytest.approx(0.2)
    assert schedule(50) == pytest.approx(0.2 * (0.9 * 0.5 + 0.1))
    assert schedule(25) == pytest.approx(0.2 * (0.9 * 0.5 * (1 + math.cos(math.pi / 4)) + 0.1))
    assert schedule(100) == schedule(10**6) == pytest.approx(0.02)


def test_piecewise_constant_includes_its_boundaries():
    schedule = schedules.PiecewiseConstantDecay([10, 20], [1.0, 0.5, 0.25])
    assert [schedule(s) for s in (0, 10, 11, 20, 21, 10**6)] == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    assert schedules.PiecewiseConstantDecay([], [0.1])(5) == 0.1


def test_warmup_joins_the_schedule_it_leads_to():
    after = schedules.ExponentialDecay(0.1, 10, 0.5)
    schedule = schedules.LinearWarmup(after, 4, start=0.02)
    assert [schedule(s) for s in range(5)] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert schedule(14) == after(10)
    assert schedules.LinearWarmup(0.3, 3)(1) == pytest.approx(0.1)


@pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)
def test_config_survives_json(schedule):
    config = json.loads(json.dumps(schedules.serialize(schedule)))
    copy = schedules.get(config)
    assert type(copy) is type(schedule)
    assert repr(copy) == repr(schedule)
    assert [copy(s) for s in range(120)] == [schedule(s) for s in range(120)]
    twin = type(schedule).from_config(schedule.get_config())
    assert twin.get_config() == schedule.get_config()


def test_config_of_numpy_arguments_survives_json():
    schedule = schedules.ExponentialDecay(np.float32(0.5), np.int64(10), np.float64(0.5))
    assert json.loads(json.dumps(schedule.get_config()))["initial_learning_rate"] == 0.5


def test_get():
    assert schedules.get(0.1)(3) == 0.1
    assert schedules.get(np.float32(0.5))(3) == 0.5
    assert schedules.get(EXAMPLES[1]) is EXAMPLES[1]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: schedules.Constant(-0.1), ValueError, "learning_rate .* at least 0, got -0.1"),
        (lambda: schedules.Constant(math.nan), ValueError, "learning_rate must be finite, got nan"),
        (lambda: schedules.Constant("1"), TypeError, "learning_rate must be a number, got '1'"),
        (lambda: schedules.ExponentialDecay(0.1, 0, 0.5), ValueError, "decay_steps .* got 0"),
        (lambda: schedules.ExponentialDecay(0.1, 1.5, 0.5), TypeError, "decay_steps .* got 1.5"),
        (lambda: schedules.ExponentialDecay(0.1, 5, 1.5), ValueError, "decay_rate .* got 1.5"),
        (lambda: schedules.ExponentialDecay(0.1, 5, 0.5, 1), TypeError, "staircase .* got 1"),
        (lambda: schedules.InverseTimeDecay(0.1, 5, -1), ValueError, "decay_rate .* got -1"),
        (lambda: schedules.CosineDecay(0.1, 5, 2.0), ValueError, "alpha .* got 2.0"),
        (
            lambda: schedules.PiecewiseConstantDecay([5, 5], [1, 2, 3]),
            ValueError,
            r"boundaries\[1\] is 5 after 5",
        ),
        (
            lambda: schedules.PiecewiseConstantDecay([5], [1]),
            ValueError,
            "values must be one longer than boundaries",
        ),
        (lambda: schedules.LinearWarmup(0.1, True), TypeError, "warmup_steps .* got True"),
        (lambda: schedules.LinearWarmup("fast", 5), TypeError, "^schedule must be .* got 'fast'"),
        (lambda: schedules.LinearWarmup(-1, 5), ValueError, "^schedule must be at least 0, got -1"),
        (lambda: schedules.get(True), TypeError, "learning_rate must be .* got True"),
        (lambda: schedules.get("cosine"), TypeError, "learning_rate must be .* got 'cosine'"),
        (lambda: schedules.get(None), TypeError, "learning_rate must be .* got None"),
        (lambda: schedules.get(-1), ValueError, "learning_rate .* got -1"),
        (lambda: schedules.get({"class_name": "Constant"}), ValueError, "must be {'class_name'"),
        (
            lambda: schedules.get({"class_name": "Nothing", "config": {}}),
            ValueError,
            "'Nothing' is unknown; known are Constant, ",
        ),
        (
            lambda: schedules.get({"class_name": "Constant", "config": {"rate": 1}}),
            ValueError,
            "cannot be made from {'rate': 1}",
        ),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_subclass_must_say_what_it_does():
    with pytest.raises(NotImplementedError, match="__call__"):
        schedules.Schedule()(0)
    with pytest.raises(NotImplementedError, match="get_config"):
        schedules.Schedule().get_config()
