"""Learning rates that change with the step, under Keras's names and with Keras's formulas."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

from slide import _validation as check

__all__ = [
    "Constant",
    "CosineDecay",
    "ExponentialDecay",
    "InverseTimeDecay",
    "LinearWarmup",
    "PiecewiseConstantDecay",
    "Schedule",
    "get",
    "serialize",
]


class Schedule:
    """Base class: a callable from the step to the learning rate.

    A step is one update of the weights, counted from 0. A subclass defines ``__call__`` and
    `get_config`.
    """

    def __call__(self, step: int) -> float:
        """Return the learning rate of update number `step`, counted from 0."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(step)")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as values that JSON can hold."""
        raise NotImplementedError(f"{type(self).__name__} must define get_config()")

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Schedule:
        """Return the schedule that `get_config` described."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


class Constant(Schedule):
    """The same learning rate at every step.

    Parameters
    ----------
    learning_rate : float
        At least 0.

    Raises
    ------
    TypeError
        If it is no number.
    ValueError
        If it is negative or not finite.

    Examples
    --------
    >>> Constant(0.1)(1000)
    0.1
    """

    def __init__(self, learning_rate: float):
        self.learning_rate = _rate("learning_rate", learning_rate)

    def __call__(self, step: int) -> float:
        return self.learning_rate

    def get_config(self) -> dict[str, Any]:
        return {"learning_rate": self.learning_rate}


class ExponentialDecay(Schedule):
    """``initial_learning_rate * decay_rate ** (step / decay_steps)``.

    Parameters
    ----------
    initial_learning_rate : float
        At least 0.
    decay_steps : int
        The number of steps over which the rate is multiplied by `decay_rate` once.
    decay_rate : float
        In (0, 1].
    staircase : bool
        Whether the exponent is rounded down, so that the rate falls in steps.

    Raises
    ------
    TypeError
        If an argument is of a wrong type.
    ValueError
        If one is out of range.

    Examples
    --------
    >>> ExponentialDecay(0.1, decay_steps=100, decay_rate=0.5)(200)
    0.025
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
    ):
        self.initial_learning_rate = _rate("initial_learning_rate", initial_learning_rate)
        self.decay_steps = check.check_positive_int("decay_steps", decay_steps)
        self.decay_rate = check.check_fraction("decay_rate", decay_rate)
        self.staircase = check.check_bool("staircase", staircase)

    def __call__(self, step: int) -> float:
        progress = step // self.decay_steps if self.staircase else step / self.decay_steps
        return self.initial_learning_rate * self.decay_rate**progress

    def get_config(self) -> dict[str, Any]:
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "decay_steps": self.decay_steps,
            "decay_rate": self.decay_rate,
            "staircase": self.staircase,
        }


class InverseTimeDecay(Schedule):
    """``initial_learning_rate / (1 + decay_rate * step / decay_steps)``.

    Parameters
    ----------
    initial_learning_rate : float
        At least 0.
    decay_steps : int
        The unit of time, in steps.
    decay_rate : float
        At least 0.
    staircase : bool
        Whether ``step / decay_steps`` is rounded down.

    Raises
    ------
    TypeError
        If an argument is of a wrong type.
    ValueError
        If one is out of range.

    Examples
    --------
    >>> InverseTimeDecay(0.1, decay_steps=10, decay_rate=1.0)(10)
    0.05
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
    ):
        self.initial_learning_rate = _rate("initial_learning_rate", initial_learning_rate)
        self.decay_steps = check.check_positive_int("decay_steps", decay_steps)
        self.decay_rate = check.check_finite_float("decay_rate", decay_rate, at_least=0.0)
        self.staircase = check.check_bool("staircase", staircase)

    def __call__(self, step: int) -> float:
        progress = step // self.decay_steps if self.staircase else step / self.decay_steps
        return self.initial_learning_rate / (1.0 + self.decay_rate * progress)

    def get_config(self) -> dict[str, Any]:
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "decay_steps": self.decay_steps,
            "decay_rate": self.decay_rate,
            "staircase": self.staircase,
        }


class CosineDecay(Schedule):
    """Half a cosine from the initial rate down to ``alpha`` times it, then constant.

    Parameters
    ----------
    initial_learning_rate : float
        At least 0.
    decay_steps : int
        The number of steps that the descent takes.
    alpha : float
        The last rate as a fraction of the first, in [0, 1].

    Raises
    ------
    TypeError
        If an argument is of a wrong type.
    ValueError
        If one is out of range.

    Examples
    --------
    >>> CosineDecay(0.1, decay_steps=10)(10)
    0.0
    """

    def __init__(self, initial_learning_rate: float, decay_steps: int, alpha: float = 0.0):
        self.initial_learning_rate = _rate("initial_learning_rate", initial_learning_rate)
        self.decay_steps = check.check_positive_int("decay_steps", decay_steps)
        self.alpha = check.check_fraction("alpha", alpha, zero=True)

    def __call__(self, step: int) -> float:
        progress = min(step, self.decay_steps) / self.decay_steps
        cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
        return self.initial_learning_rate * ((1.0 - self.alpha) * cosine + self.alpha)

    def get_config(self) -> dict[str, Any]:
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "decay_steps": self.decay_steps,
            "alpha": self.alpha,
        }


class PiecewiseConstantDecay(Schedule):
    """A list of rates, each valid up to and including its boundary.

    Parameters
    ----------
    boundaries : sequence of int
        Steps, at least 0 and strictly increasing.
    values : sequence of float
        One more than `boundaries`: ``values[i]`` holds while ``step <= boundaries[i]``, the last
        one after that.

    Raises
    ------
    TypeError
        If an argument is of a wrong type.
    ValueError
        If a step or a rate is out of range, `boundaries` do not increase, or the lengths do not
        fit.

    Examples
    --------
    >>> schedule = PiecewiseConstantDecay([100], [0.1, 0.01])
    >>> schedule(100), schedule(101)
    (0.1, 0.01)
    """

    def __init__(self, boundaries: Sequence[int], values: Sequence[float]):
        self.boundaries = [
            check.check_positive_int(f"boundaries[{i}]", step, low=0)
            for i, step in enumerate(boundaries)
        ]
        self.values = [_rate(f"values[{i}]", rate) for i, rate in enumerate(values)]
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"values must be one longer than boundaries ({len(self.boundaries)}), "
                f"got length {len(self.values)}"
            )
        for i in range(1, len(self.boundaries)):
            if self.boundaries[i] <= self.boundaries[i - 1]:
                raise ValueError(
                    f"boundaries must increase; boundaries[{i}] is {self.boundaries[i]} "
                    f"after {self.boundaries[i - 1]}"
                )

    def __call__(self, step: int) -> float:
        for boundary, value in zip(self.boundaries, self.values, strict=False):
            if step <= boundary:
                return value
        return self.values[-1]

    def get_config(self) -> dict[str, Any]:
        return {"boundaries": list(self.boundaries), "values": list(self.values)}


class LinearWarmup(Schedule):
    """A straight line up to another schedule's first rate, then that schedule from its step 0.

    Parameters
    ----------
    schedule : Schedule or float
        What follows the warm-up.
    warmup_steps : int
        The number of steps of the line.
    start : float
        The rate at step 0, at least 0.

    Raises
    ------
    TypeError
        If an argument is of a wrong type.
    ValueError
        If one is out of range, or `schedule` does not describe one.

    Examples
    --------
    >>> schedule = LinearWarmup(ExponentialDecay(0.5, 10, 0.5), warmup_steps=100)
    >>> schedule(0), schedule(50), schedule(110)
    (0.0, 0.25, 0.25)
    """

    def __init__(self, schedule: Schedule | float, warmup_steps: int, start: float = 0.0):
        self.schedule = _get("schedule", schedule)
        self.warmup_steps = check.check_positive_int("warmup_steps", warmup_steps)
        self.start = _rate("start", start)

    def __call__(self, step: int) -> float:
        if step >= self.warmup_steps:
            return self.schedule(step - self.warmup_steps)
        return self.start + (self.schedule(0) - self.start) * step / self.warmup_steps

    def get_config(self) -> dict[str, Any]:
        return {
            "schedule": serialize(self.schedule),
            "warmup_steps": self.warmup_steps,
            "start": self.start,
        }


def get(identifier: Any) -> Schedule:
    """Return the schedule that `identifier` describes.

    Parameters
    ----------
    identifier : float, Schedule or dict
        A constant rate, a schedule, or what `serialize` gave.

    Raises
    ------
    TypeError
        If `identifier` is of another type.
    ValueError
        If a rate is negative or not finite, or a dict does not describe a schedule.

    Examples
    --------
    >>> get(0.1)(0)
    0.1
    """
    return _get("learning_rate", identifier)


def _get(name: str, identifier: Any) -> Schedule:
    if isinstance(identifier, numbers.Real):
        return Constant(_rate(name, identifier))
    if isinstance(identifier, str):
        raise TypeError(f"{name} must be a number or a Schedule, got {identifier!r}")
    classes = (
        Constant,
        CosineDecay,
        ExponentialDecay,
        InverseTimeDecay,
        LinearWarmup,
        PiecewiseConstantDecay,
    )
    return check.resolve(name, identifier, Schedule, classes)


def serialize(schedule: Schedule) -> dict[str, Any]:
    """Return ``{"class_name": ..., "config": ...}``, which `get` turns back."""
    return check.serialize_config(schedule)


def _rate(name: str, value: Any) -> float:
    return check.check_finite_float(name, value, at_least=0.0)
