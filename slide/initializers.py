"""First values of weights and biases, under Keras's names and with Keras's formulas.

All values are drawn as float32: a matrix of 670,091 x 128 never exists as float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from slide import _validation as check

__all__ = [
    "Constant",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Initializer",
    "LabelLogOdds",
    "LecunNormal",
    "LecunUniform",
    "Ones",
    "RandomNormal",
    "RandomUniform",
    "Zeros",
    "get",
    "serialize",
]

Shape = Sequence[int]

FARTHEST = 16
"""More standard deviations from the mean than any normal number in float32 is."""


class Initializer:
    """Base class: a callable that makes an array of float32.

    A subclass defines ``__call__`` and, when it has arguments, `get_config`.
    """

    needs_label_counts: ClassVar[bool] = False
    """Whether ``__call__`` needs ``label_counts`` and ``n_samples``, known only in training."""

    by_element: ClassVar[bool] = False
    """Whether values depend on nothing but their fans and ``rng``: large arrays are then made in
    parts, some rows a call."""

    def __call__(
        self,
        shape: Shape,
        rng: np.random.Generator,
        fan_in: int | None = None,
        fan_out: int | None = None,
    ) -> np.ndarray:
        """Return a new array.

        Parameters
        ----------
        shape : sequence of int
            The array's shape.
        rng : numpy.random.Generator
            Where random values come from.
        fan_in, fan_out : int
            The number of the layer's inputs and outputs. They are arguments because some weights
            are stored input-major and others output-major.

        Returns
        -------
        ndarray of float32, C-contiguous

        Raises
        ------
        TypeError
            If a size is missing or not an integer.
        ValueError
            If a size is out of range.
        """
        raise NotImplementedError(f"{type(self).__name__} must define __call__")

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as values that JSON can hold."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Initializer:
        """Return the initializer that `get_config` described."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


class Constant(Initializer):
    """The same value everywhere.

    Parameters
    ----------
    value : float
        A float32.

    Raises
    ------
    TypeError
        If `value` is no number.
    ValueError
        If it is not finite or beyond float32.

    Examples
    --------
    >>> Constant(2.0)((3,), None)
    array([2., 2., 2.], dtype=float32)
    """

    by_element = True

    def __init__(self, value: float = 0.0):
        self.value = _float32("value", value)

    def __call__(self, shape, rng, fan_in=None, fan_out=None):
        return np.full(_shape(shape), self.value, np.float32)

    def get_config(self) -> dict[str, Any]:
        return {"value": self.value}


class Zeros(Initializer):
    """0 everywhere.

    Examples
    --------
    >>> Zeros()((2,), None)
    array([0., 0.], dtype=float32)
    """

    by_element = True

    def __call__(self, shape, rng, fan_in=None, fan_out=None):
        return np.zeros(_shape(shape), np.float32)


class Ones(Initializer):
    """1 everywhere.

    Examples
    --------
    >>> Ones()((2,), None)
    array([1., 1.], dtype=float32)
    """

    by_element = True

    def __call__(self, shape, rng, fan_in=None, fan_out=None):
        return np.ones(_shape(shape), np.float32)


class RandomNormal(Initializer):
    """Independent normal values.

    Parameters
    ----------
    mean : float
    stddev : float
        At least 0.

    Raises
    ------
    TypeError
        If an argument is no number.
    ValueError
        If one is not finite or beyond float32, or `stddev` is negative.

    Examples
    --------
    >>> RandomNormal(stddev=0.01)((2, 3), np.random.default_rng(0)).shape
    (2, 3)
    """

    by_element = True

    def __init__(self, mean: float = 0.0, stddev: float = 0.05):
        self.mean = _float32("mean", mean)
        self.stddev = _float32("stddev", stddev, at_least=0.0)
        if abs(self.mean) + FARTHEST * self.stddev > check.FLOAT32_MAX:
            raise ValueError(
                f"mean={mean} and stddev={stddev}: values would not be finite in float32"
            )

    def __call__(self, shape, rng, fan_in=None, fan_out=None):
        values = rng.standard_normal(_shape(shape), dtype=np.float32)
        values *= np.float32(self.stddev)
        values += np.float32(self.mean)
        return values

    def get_config(self) -> dict[str, Any]:
        return {"mean": self.mean, "stddev": self.stddev}


class RandomUniform(Initializer):
    """Independent uniform values.

    Parameters
    ----------
    minval, maxval : float
        The interval's ends, ``minval <= maxval``.

    Raises
    ------
    TypeError
        If an argument is no number.
    ValueError
        If one is not finite or beyond float32, or `maxval` is less than `minval`.

    Examples
    --------
    >>> RandomUniform(0.0, 1.0)((2, 3), np.random.default_rng(0)).shape
    (2, 3)
    """

    by_element = True

    def __init__(self, minval: float = -0.05, maxval: float = 0.05):
        self.minval = _float32("minval", minval)
        self.maxval = _float32("maxval", maxval, at_least=self.minval)
        if self.maxval - self.minval > check.FLOAT32_MAX:
            raise ValueError(
                f"minval={minval} and maxval={maxval}: their difference is not finite in float32"
            )

    def __call__(self, shape, rng, fan_in=None, fan_out=None):
        return _uniform(_shape(shape), rng, self.minval, self.maxval)

    def get_config(self) -> dict[str, Any]:
        return {"minval": self.minval, "maxval": self.maxval}


class _VarianceScaling(Initializer):
    """Zero mean and the variance ``scale / fan``.

    Uniform on +-sqrt(3 scale / fan), or normal, cut off at two of its standard deviations and
    widened so that the variance is right after the cut (Keras's VarianceScaling).
    """

    by_element = True

    scale: ClassVar[float]
    mode: ClassVar[str]
    normal: ClassVar[bool]

    # The standard deviation of a standard normal variable that is cut off at -2 and 2:
    # sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)).
    _CUT_STDDEV = 0.8796256610342398

    def __call__(self, shape, rng, fan_in=None, fan_out=None):
        shape = _shape(shape)
        fan = float(check.check_positive_int("fan_in", fan_in))
        if self.mode == "average":
            fan = (fan + check.check_positive_int("fan_out", fan_out)) / 2.0
        variance = self.scale / fan
        if not self.normal:
            limit = math.sqrt(3.0 * variance)
            return _uniform(shape, rng, -limit, limit)
        values = rng.standard_normal(shape, dtype=np.float32)
        flat = values.reshape(-1)
        # By blocks that stay in cache, so that a large matrix needs no second one.
        for start in range(0, flat.size, 2**17):
            block = flat[start : start + 2**17]
            outside = np.flatnonzero(np.abs(block) > 2.0)
            while len(outside):
                block[outside] = rng.standard_normal(len(outside), dtype=np.float32)
                outside = outside[np.abs(block[outside]) > 2.0]
        values *= np.float32(math.sqrt(variance) / self._CUT_STDDEV)
        return values


class GlorotUniform(_VarianceScaling):
    """Uniform on +-sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010).

    Examples
    --------
    >>> GlorotUniform()((2, 3), np.random.default_rng(0), fan_in=3, fan_out=2).shape
    (2, 3)
    """

    scale, mode, normal = 1.0, "average", False


class GlorotNormal(_VarianceScaling):
    """Cut normal of variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010).

    Examples
    --------
    >>> GlorotNormal()((2, 3), np.random.default_rng(0), fan_in=3, fan_out=2).shape
    (2, 3)
    """

    scale, mode, normal = 1.0, "average", True


class HeUniform(_VarianceScaling):
    """Uniform on +-sqrt(6 / fan_in) (He et al. 2015).

    Examples
    --------
    >>> HeUniform()((2, 3), np.random.default_rng(0), fan_in=3).shape
    (2, 3)
    """

    scale, mode, normal = 2.0, "fan_in", False


class HeNormal(_VarianceScaling):
    """Cut normal of variance 2 / fan_in (He et al. 2015).

    Examples
    --------
    >>> HeNormal()((2, 3), np.random.default_rng(0), fan_in=3).shape
    (2, 3)
    """

    scale, mode, normal = 2.0, "fan_in", True


class LecunUniform(_VarianceScaling):
    """Uniform on +-sqrt(3 / fan_in) (LeCun et al. 1998).

    Examples
    --------
    >>> LecunUniform()((2, 3), np.random.default_rng(0), fan_in=3).shape
    (2, 3)
    """

    scale, mode, normal = 1.0, "fan_in", False


class LecunNormal(_VarianceScaling):
    """Cut normal of variance 1 / fan_in (LeCun et al. 1998).

    Examples
    --------
    >>> LecunNormal()((2, 3), np.random.default_rng(0), fan_in=3).shape
    (2, 3)
    """

    scale, mode, normal = 1.0, "fan_in", True


class LabelLogOdds(Initializer):
    """Output biases at the labels' log-odds in the training set.

    ``b_l = log((N_l + 1) / (N - N_l + 1))``, with N samples of which N_l have label l; the added
    ones keep a label that none or all of the samples have finite. A network of sigmoid outputs
    then starts at the labels' frequencies instead of at 1/2, and binary cross-entropy need not
    first push down every rare label.

    Examples
    --------
    >>> LabelLogOdds()((2,), None, label_counts=[0, 9], n_samples=18)
    array([-2.944439,  0.      ], dtype=float32)
    """

    needs_label_counts = True

    def __call__(
        self,
        shape: Shape,
        rng: np.random.Generator | None = None,
        fan_in: int | None = None,
        fan_out: int | None = None,
        *,
        label_counts: Any = None,
        n_samples: int | None = None,
    ) -> np.ndarray:
        """Return the biases.

        Parameters
        ----------
        shape : sequence of int
            ``(n_outputs,)``.
        rng, fan_in, fan_out
            Not used; here so that every initializer is called the same way.
        label_counts : array-like, shape (n_outputs,)
            The number of samples that have each label, in [0, n_samples].
        n_samples : int
            The number of samples.

        Returns
        -------
        ndarray of float32, shape (n_outputs,)

        Raises
        ------
        TypeError
            If `n_samples` is not an integer.
        ValueError
            If the counts are missing, of another shape or out of range.
        """
        if label_counts is None or n_samples is None:
            raise ValueError(
                "LabelLogOdds needs label_counts and n_samples, which come from training data"
            )
        shape = _shape(shape)
        n_samples = check.check_positive_int("n_samples", n_samples)
        counts = np.asarray(label_counts, dtype=np.float64)
        if counts.shape != shape or len(shape) != 1:
            raise ValueError(f"label_counts has shape {counts.shape}, the bias has {shape}")
        valid = (counts >= 0) & (counts <= n_samples)
        if not valid.all():
            label = int(np.argmin(valid))
            raise ValueError(
                f"label_counts[{label}] is {counts[label]:g}; it must be in [0, {n_samples}]"
            )
        return np.log((counts + 1.0) / (n_samples - counts + 1.0)).astype(np.float32)


def get(identifier: Initializer | str | dict[str, Any]) -> Initializer:
    """Return an initializer from its name, itself or what `serialize` gave.

    Raises
    ------
    TypeError
        If `identifier` is of another type.
    ValueError
        If it does not describe an initializer.

    Examples
    --------
    >>> get("glorot_uniform")
    GlorotUniform()
    """
    classes = (
        Constant,
        GlorotNormal,
        GlorotUniform,
        HeNormal,
        HeUniform,
        LabelLogOdds,
        LecunNormal,
        LecunUniform,
        Ones,
        RandomNormal,
        RandomUniform,
        Zeros,
    )
    return check.resolve("initializer", identifier, Initializer, classes)


def serialize(initializer: Initializer) -> dict[str, Any]:
    """Return ``{"class_name": ..., "config": ...}``, which `get` turns back."""
    return check.serialize_config(initializer)


def _shape(shape: Shape) -> tuple[int, ...]:
    return tuple(check.check_positive_int(f"shape[{i}]", size) for i, size in enumerate(shape))


def _float32(name: str, value: Any, at_least: float = -check.FLOAT32_MAX) -> float:
    return check.check_finite_float(name, value, at_least=at_least, at_most=check.FLOAT32_MAX)


def _uniform(
    shape: tuple[int, ...], rng: np.random.Generator, low: float, high: float
) -> np.ndarray:
    values = rng.random(shape, dtype=np.float32)
    values *= np.float32(high - low)
    values += np.float32(low)
    return values
