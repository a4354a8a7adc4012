"""Penalties on weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from slide import _validation as check

__all__ = ["L2", "get", "serialize"]


class L2:
    """Keras's L2 penalty, ``l2 * sum(w ** 2)``, whose gradient is ``2 * l2 * w``.

    The gradient is added for the weights of the rows that a batch touches, and for no bias. The
    penalty itself is not part of the loss that training and `evaluate` report: call this object on
    a layer's weights for it.

    Parameters
    ----------
    l2 : float
        The penalty's factor, at least 0.

    Raises
    ------
    TypeError
        If `l2` is no number.
    ValueError
        If it is negative, not finite or beyond float32.

    Examples
    --------
    >>> L2(0.5)([[1.0, 2.0]])
    2.5
    """

    def __init__(self, l2: float = 0.01):
        self.l2 = check.check_finite_float("l2", l2, at_least=0.0, at_most=check.FLOAT32_MAX)

    def __call__(self, weights: Any) -> float:
        """Return the penalty of `weights`, an array of any shape, summed in float64."""
        # The iterator casts buffer by buffer: no float64 copy of a large matrix.
        flat = np.asarray(weights).reshape(-1)
        return self.l2 * float(np.einsum("i,i->", flat, flat, dtype=np.float64))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"l2": self.l2}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> L2:
        """Return the regularizer that `get_config` described."""
        return cls(**config)

    def __repr__(self) -> str:
        return f"L2(l2={self.l2!r})"


def get(identifier: L2 | str | dict[str, Any] | None) -> L2 | None:
    """Return a regularizer from ``None``, ``"l2"``, a regularizer or what `serialize` gave.

    Raises
    ------
    TypeError
        If `identifier` is of another type.
    ValueError
        If it does not describe a regularizer.

    Examples
    --------
    >>> get("l2")
    L2(l2=0.01)
    """
    if identifier is None:
        return None
    return check.resolve("regularizer", identifier, L2, (L2,))


def serialize(regularizer: L2 | None) -> dict[str, Any] | None:
    """Return ``{"class_name": ..., "config": ...}`` or None, which `get` turns back."""
    return None if regularizer is None else check.serialize_config(regularizer)
