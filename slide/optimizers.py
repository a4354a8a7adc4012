"""Optimizers on rows of weights.

A row is what training touches as a whole: an output neuron's incoming weights with its bias or,
where the input is sparse, one feature's outgoing weights. A batch steps the rows that it touched,
and only those: the neurons computed for one of its samples, the features that one of them has.

A step that a row skips is a step with gradient zero. Its momentum goes on moving it, its moments
decay. These moves are made up for, in closed form, when the row is touched next, and for all rows
at the end of an epoch and before weights are evaluated, read or saved; until then the row is
computed with the weights of its last step. So training touches few rows and follows the dense
algorithms: momentum exactly in the sum of a row's moves, Adam up to the change of its bias
corrections and of the learning rate after the row's last step and its epsilon, Adagrad without any
skipped move. When a forward pass sees a move differs: a batch that touches a row is computed before
the moves that the row has missed are made. Penalties differ too: a row is penalized in the steps
that touch it. In hogwild mode the clock counts batches, and with it Adam's bias corrections: its
first steps are then too short.

``Adam(lazy=True)`` stops a skipped row's moments instead, as PyTorch's SparseAdam and TensorFlow's
LazyAdam do: the moves that follow a rare gradient, with Adam's usual betas nine times as much as
the step itself, are left out. Rare rows learn slower then, and overfit later.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from slide import _validation as check
from slide import schedules
from slide._kernels import optim as _optim

__all__ = ["SGD", "Adagrad", "Adam", "Optimizer", "get", "serialize"]


class Optimizer:
    """Base class of the optimizers.

    Attributes
    ----------
    learning_rate : Schedule
        A number that is assigned becomes a constant one. Nothing else can be assigned once the
        optimizer is made, as the state of a model in training has its form.
    """

    _learning_rate: schedules.Schedule

    def __setattr__(self, name: str, value: Any) -> None:
        # Once each in the constructor; a subclass may keep other attributes as it likes.
        known = name in self.__dict__ and name in inspect.signature(type(self)).parameters
        if known and value != getattr(self, name):
            raise AttributeError(
                f"{name}={value!r}: {type(self).__name__} is made with {name}="
                f"{getattr(self, name)!r} and keeps it; give compile a new optimizer"
            )
        super().__setattr__(name, value)

    @property
    def learning_rate(self) -> Any:
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self._learning_rate = schedules.get(value)

    def kernel(self) -> Any:
        """Return the kernel that makes one step on one row."""
        raise NotImplementedError(f"{type(self).__name__} must define kernel()")

    def start(self, slots: np.ndarray, state: np.ndarray) -> None:
        """Set a fresh optimizer state, given as zeros, in place."""

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as values that JSON can hold."""
        raise NotImplementedError(f"{type(self).__name__} must define get_config()")

    def __repr__(self) -> str:
        config = {**self.get_config(), "learning_rate": self.learning_rate}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in config.items())})"


class SGD(Optimizer):
    """``v = momentum v - lr g; w += v``; with Nesterov ``w += momentum v - lr g``.

    Parameters
    ----------
    learning_rate : float or Schedule
    momentum : float
        In [0, 1).
    nesterov : bool
        Needs momentum.

    Raises
    ------
    TypeError
        If an argument is of a wrong type.
    ValueError
        If one is out of range, or `nesterov` comes without momentum.
    """

    def __init__(self, learning_rate: Any = 0.01, momentum: float = 0.0, nesterov: bool = False):
        self.learning_rate = learning_rate
        self.momentum = check.check_finite_float("momentum", momentum, at_least=0.0, below=1.0)
        self.nesterov = check.check_bool("nesterov", nesterov)
        if nesterov and not momentum:
            raise ValueError("nesterov=True needs momentum > 0, got momentum=0")

    def kernel(self) -> Any:
        return _optim.SGD(self.momentum, self.nesterov)

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": schedules.serialize(self.learning_rate),
            "momentum": self.momentum,
            "nesterov": self.nesterov,
        }


class Adagrad(Optimizer):
    """``G += g^2; w -= lr g / (sqrt(G) + epsilon)`` (Duchi et al., 2011).

    With momentum ``v = momentum v + lr g / (sqrt(G) + epsilon); w -= v``, the optimizer of
    Spring & Shrivastava (KDD 2017), which keep v where a weight has no gradient.

    Parameters
    ----------
    learning_rate : float or Schedule
    initial_accumulator_value : float
        First G, at least 0.
    epsilon : float
        Above 0.
    rowwise : bool
        One G for a whole row, the mean of its squared gradients (Mudigere et al., 2022): the state
        of a neuron is one number instead of one a weight.
    momentum : float
        In [0, 1); without `rowwise`.

    Raises
    ------
    TypeError
        If an argument is of a wrong type.
    ValueError
        If one is out of range, or `momentum` comes with `rowwise`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        rowwise: bool = False,
        momentum: float = 0.0,
    ):
        self.learning_rate = learning_rate
        self.initial_accumulator_value = check.check_finite_float(
            "initial_accumulator_value", initial_accumulator_value, at_least=0.0, at_most=1e30
        )
        self.epsilon = check.check_finite_float("epsilon", epsilon, at_least=1e-30, at_most=1e30)
        self.rowwise = check.check_bool("rowwise", rowwise)
        self.momentum = check.check_finite_float("momentum", momentum, at_least=0.0, below=1.0)
        if rowwise and momentum:
            raise ValueError(f"momentum={momentum} with rowwise=True: only one of them")

    def kernel(self) -> Any:
        if self.rowwise:
            return _optim.RowwiseAdagrad(self.epsilon)
        return _optim.Adagrad(self.epsilon, self.momentum)

    def start(self, slots: np.ndarray, state: np.ndarray) -> None:
        if self.initial_accumulator_value:
            # With momentum a row of the slots is [G, v].
            first = slots[:, : slots.shape[1] // (2 if self.momentum else 1)]
            (state if self.rowwise else first)[...] = self.initial_accumulator_value

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": schedules.serialize(self.learning_rate),
            "initial_accumulator_value": self.initial_accumulator_value,
            "epsilon": self.epsilon,
            "rowwise": self.rowwise,
            "momentum": self.momentum,
        }


class Adam(Optimizer):
    """Adam (Kingma & Ba, ICLR 2015), with the module's meaning of skipped steps.

    ``m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
    w -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + epsilon)`` with t the steps of all. After d
    skipped steps, first ``w -= lr r (1 - r^d) / (1 - r) (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) +
    epsilon)`` with ``r = b1 / sqrt(b2)``, lr that of the row's last step and t the number of that
    step and ``0.5 / (1 - r)`` more (five, with the defaults), then ``m *= b1^d; v *= b2^d``.

    Parameters
    ----------
    learning_rate : float or Schedule
    beta_1, beta_2 : float
        In [0, 1); `beta_2` above 0 and at least ``beta_1 ** 2``.
    epsilon : float
        Above 0.
    moments : {"float32", "bfloat16"}
        How m and v are kept. ``"bfloat16"``: in half the memory, rounded at random to one of the
        two neighbouring numbers so that they are exact on average (stochastic rounding; Gupta et
        al., ICML 2015). Rounded to the nearest, v would stay where it is: a step changes it by
        less than half the distance of two numbers. Layers whose weights and moments do not fit
        the caches are faster for it.
    lazy : bool
        Whether a row that skips steps stays where it is, moments and all, until its next one:
        ``d`` is 0 above, ``t`` still counts all steps. Wants the same learning rate or up to twice
        it; worth a try where most features are rare and each point has many of them.

    Raises
    ------
    TypeError
        If an argument is of a wrong type.
    ValueError
        If one is out of range, or `beta_1` is more than the square root of `beta_2`.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        moments: str = "float32",
        lazy: bool = False,
    ):
        self.learning_rate = learning_rate
        self.beta_1 = check.check_finite_float("beta_1", beta_1, at_least=0.0, below=1.0)
        self.beta_2 = check.check_finite_float("beta_2", beta_2, above=0.0, below=1.0)
        if self.beta_1 > self.beta_2**0.5:
            # The steps without gradient would grow: v would be forgotten before m.
            raise ValueError(f"beta_1={beta_1} is more than the square root of beta_2={beta_2}")
        self.epsilon = check.check_finite_float("epsilon", epsilon, at_least=1e-30, at_most=1e30)
        self.moments = check.check_in("moments", moments, ("float32", "bfloat16"))
        self.lazy = check.check_bool("lazy", lazy)

    def kernel(self) -> Any:
        rounded = self.moments == "bfloat16"
        return _optim.Adam(self.beta_1, self.beta_2, self.epsilon, rounded, self.lazy)

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": schedules.serialize(self.learning_rate),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "moments": self.moments,
            "lazy": self.lazy,
        }


def get(identifier: Any) -> Optimizer:
    """Return an optimizer from its name, itself or what `serialize` gave.

    Raises
    ------
    TypeError
        If `identifier` is of another type.
    ValueError
        If it does not describe an optimizer.
    """
    return check.resolve("optimizer", identifier, Optimizer, (SGD, Adagrad, Adam))


def serialize(optimizer: Optimizer) -> dict[str, Any]:
    """Return a description that `get` turns back into an equal optimizer."""
    return check.serialize_config(optimizer)
