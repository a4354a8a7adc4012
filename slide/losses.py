"""Losses, and the output activations that they go with."""

from __future__ import annotations

from typing import Any, ClassVar

from slide import _validation as check
from slide._kernels import losses as _losses

__all__ = [
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "Loss",
    "MeanSquaredError",
    "get",
    "serialize",
]


class Loss:
    """Base class of the losses."""

    name: ClassVar[str]
    activations: ClassVar[tuple[str, ...]]
    """Activations of the output layer that the loss works with."""

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as values that JSON can hold."""
        return {}

    def kernel(self, activation: int) -> Any:
        """Return the kernel for an output layer of that activation."""
        raise NotImplementedError(f"{type(self).__name__} must define kernel()")

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


class CategoricalCrossentropy(Loss):
    """``-sum_l t_l log softmax(z)_l`` with ``t = y / sum(y)``.

    A sample with several labels spreads the target evenly over them, or in proportion to their
    values (Chen et al., MLSys 2020). A sample without labels has loss 0 and changes nothing.

    Examples
    --------
    >>> CategoricalCrossentropy().activations
    ('softmax',)
    """

    name = "categorical_crossentropy"
    activations = ("softmax",)

    def kernel(self, activation: int) -> Any:
        return _losses.CategoricalCrossentropy()


class BinaryCrossentropy(Loss):
    """``-sum_l y_l log p_l + (1 - y_l) log(1 - p_l)`` with ``p = sigmoid(z)``: one-vs-all.

    Parameters
    ----------
    reduction : {"sum", "mean"}
        Sum (the default) or mean (Keras's) over the outputs. The mean over 10^5 outputs makes
        gradients so small that Adam's epsilon swallows them.

    Raises
    ------
    ValueError
        If `reduction` is neither.

    Examples
    --------
    >>> BinaryCrossentropy(reduction="mean")
    BinaryCrossentropy(reduction='mean')
    """

    name = "binary_crossentropy"
    activations = ("sigmoid",)

    def __init__(self, reduction: str = "sum"):
        self.reduction = check.check_in("reduction", reduction, ("sum", "mean"))

    def kernel(self, activation: int) -> Any:
        return _losses.BinaryCrossentropy(self.reduction == "mean")

    def get_config(self) -> dict[str, Any]:
        return {"reduction": self.reduction}


class MeanSquaredError(Loss):
    """``mean_l (a_l - y_l)^2`` over the outputs.

    Examples
    --------
    >>> MeanSquaredError().name
    'mean_squared_error'
    """

    name = "mean_squared_error"
    activations = ("linear", "relu", "sigmoid", "tanh")

    def kernel(self, activation: int) -> Any:
        return _losses.MeanSquaredError(activation)


def get(identifier: Any) -> Loss:
    """Return a loss from its name, itself or what `serialize` gave.

    ``"sparse_categorical_crossentropy"`` is accepted for ``"categorical_crossentropy"``: the form
    of the targets tells the two apart. ``"mse"`` is mean squared error.

    Raises
    ------
    TypeError
        If `identifier` is of another type.
    ValueError
        If it does not describe a loss.
    """
    aliases = {
        "sparse_categorical_crossentropy": "categorical_crossentropy",
        "mse": "mean_squared_error",
    }
    if isinstance(identifier, str):
        identifier = aliases.get(identifier, identifier)
    classes = (CategoricalCrossentropy, BinaryCrossentropy, MeanSquaredError)
    return check.resolve("loss", identifier, Loss, classes)


def serialize(loss: Loss) -> dict[str, Any]:
    """Return a description that `get` turns back into an equal loss."""
    return check.serialize_config(loss)
