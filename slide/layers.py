"""Layers: their configuration, and the arrays of their weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from slide import _validation as check
from slide import initializers, regularizers, sampling, tuning
from slide._kernels import layers as _layers
from slide._kernels import sparse as _sparse
from slide._kernels.optim import Parameters
from slide._memory import aligned_zeros, check_memory, padded
from slide.hashing import index
from slide.optimizers import Optimizer

__all__ = ["Dense", "Input"]

ACTIVATIONS = ("linear", "relu", "sigmoid", "tanh", "softmax")
"""In the order of the kernels' numbers for them."""

MAX_WIDTH = 2**31 - 17
"""Ids are int32, and rows are padded."""

PART = 1 << 18
"""Weights that are drawn at a time."""


class Input:
    """The number of features, and whether they are sparse.

    Parameters
    ----------
    n_features : int
    sparse : bool or None
        Whether the first layer's weights are laid out for sparse rows, read and updated feature by
        feature, or for dense ones. Either takes sparse and dense `x`; the other form is converted.
        None: as the first data given to the model.

    Raises
    ------
    TypeError
        If an argument is of a wrong type.
    ValueError
        If `n_features` is not between 1 and 2**31 - 17.

    Examples
    --------
    >>> Input(784, sparse=False)
    Input(784, sparse=False)
    """

    def __init__(self, n_features: int, sparse: bool | None = None):
        self.n_features = check.check_positive_int("n_features", n_features, high=MAX_WIDTH)
        self.sparse = None if sparse is None else check.check_bool("sparse", sparse)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as values that JSON can hold."""
        return {"n_features": self.n_features, "sparse": self.sparse}

    def __repr__(self) -> str:
        return f"Input({self.n_features}, sparse={self.sparse})"


class Dense:
    """``activation(x W + b)``; with a sampler only for a sample's active set.

    Parameters
    ----------
    units : int
        The number of neurons.
    activation : {"linear", "relu", "sigmoid", "tanh", "softmax"} or None
        None is linear. Softmax belongs to an output layer.
    sampler : Sampler, "auto" or None
        Which neurons are computed; see `slide.sampling`. None: all. ``"auto"``: the recommended one
        of an output layer, `slide.sampling.Auto`.
    use_bias : bool
    kernel_initializer, bias_initializer : Initializer or str
        ``"label_log_odds"`` starts output biases at the labels' log-odds in the first training
        data: what a network without inputs would learn with sigmoid outputs, and nearly that with
        softmax, if no label has a large share of the samples.
    kernel_regularizer : L2, str or None
        Penalty on weights, not biases; ``"l2"`` is `slide.regularizers.L2` with its default. It is
        applied to the rows that a batch touches.
    name : str or None

    Raises
    ------
    TypeError
        If an argument is of a wrong type; the message names it.
    ValueError
        If one is out of range; the message names it.

    Examples
    --------
    >>> Dense(128, activation="relu").units
    128
    """

    def __init__(
        self,
        units: int,
        activation: str | None = None,
        sampler: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        name: str | None = None,
    ):
        self.units = check.check_positive_int("units", units, high=MAX_WIDTH)
        self.activation = check.check_in(
            "activation", "linear" if activation is None else activation, ACTIVATIONS
        )
        self.sampler = None if sampler is None else sampling.get(sampler)
        self.use_bias = check.check_bool("use_bias", use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        if self.kernel_initializer.needs_label_counts:
            raise ValueError(f"kernel_initializer {kernel_initializer!r} is one for biases")
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a string, got {name!r}")
        self.name = name
        self.clear()

    def clear(self) -> None:
        """Forget the weights, if there are any, and all that belongs to them."""
        self.built = False
        self.biases_wait = False  # whether the first training data gives them their first values
        self.n_in = 0
        self.by_feature = False
        self.hidden = False
        self.on_sampled = False
        self._weights: Any = None
        self._slots: Any = None
        self._state: Any = None
        self._active: Any = None
        self._active_threads = 0
        self._searcher: Any = None
        self._searcher_family: Any = None
        self._seed = 0

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as values that JSON can hold."""
        return {
            "units": self.units,
            "activation": self.activation,
            "sampler": None if self.sampler is None else sampling.serialize(self.sampler),
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": regularizers.serialize(self.kernel_regularizer),
            "name": self.name,
        }

    def __repr__(self) -> str:
        return f"Dense({self.units}, activation={self.activation!r}, sampler={self.sampler!r})"

    # Weights --------------------------------------------------------------------------

    def build(
        self,
        n_in: int,
        by_feature: bool,
        seed: int,
        draw: bool = True,
        hidden: bool = False,
        on_sampled: bool = False,
    ) -> None:
        """Make the weights.

        Parameters
        ----------
        n_in : int
            Inputs.
        by_feature : bool
            Whether a row holds a feature's weights to all neurons, for sparse input, with the
            biases as one more row; otherwise a row holds a neuron's weights and its bias.
        seed : int
            Of the weights and of the hash functions.
        draw : bool
            Whether initial values are drawn; else all weights are 0.
        hidden : bool
            Whether other layers are above.
        on_sampled : bool
            Whether the layer below has a sampler.

        Raises
        ------
        ValueError
            If the layer has a sampler and sparse features as its input.
        MemoryError
            If the weights would not fit into the memory that is available.
        """
        if by_feature and self.sampler is not None:
            raise ValueError(
                f"layer {self.name!r} has a sampler and sparse features as its input; samplers "
                f"need a dense input: put a hidden layer between"
            )
        self.n_in, self.by_feature, self._seed = n_in, by_feature, seed
        self.hidden, self.on_sampled = hidden, on_sampled
        shape = (n_in + 1, padded(self.units)) if by_feature else (self.units, padded(n_in + 1))
        check_memory(
            f"weights of layer {self.name!r}, {n_in:,} inputs and {self.units:,} neurons",
            4 * shape[0] * shape[1],
        )
        self._weights = aligned_zeros(shape)
        self._slots = self._state = None
        self._active = self._searcher = None
        if draw:
            rng = np.random.default_rng([seed, 1])
            kernel, make = self._kernel_view, self.kernel_initializer
            # In parts that stay in the cache: large temporary arrays are twice as slow.
            part = max(1, PART // kernel.shape[1]) if make.by_element else len(kernel)
            for first in range(0, len(kernel), part):
                rows = kernel[first : first + part]
                rows[...] = make(rows.shape, rng, fan_in=n_in, fan_out=self.units)
            if self.use_bias and not self.bias_initializer.needs_label_counts:
                self._bias_view[...] = self.bias_initializer(
                    (self.units,), rng, fan_in=n_in, fan_out=self.units
                )
            self.biases_wait = self.use_bias and self.bias_initializer.needs_label_counts
        self.built = True

    @property
    def _kernel_view(self) -> np.ndarray:
        """Weights as they are stored, without the padding."""
        if self.by_feature:
            return self._weights[: self.n_in, : self.units]
        return self._weights[:, : self.n_in]

    @property
    def _bias_view(self) -> np.ndarray:
        if self.by_feature:
            return self._weights[self.n_in, : self.units]
        return self._weights[:, self.n_in]

    def get_weights(self) -> list[np.ndarray]:
        """Return copies: weights (inputs, units) and, with a bias, biases (units,)."""
        kernel = self._kernel_view if self.by_feature else self._kernel_view.T
        kernel = np.array(kernel, order="C")
        return [kernel, self._bias_view.copy()] if self.use_bias else [kernel]

    def checked_weights(self, weights: list[Any]) -> list[np.ndarray]:
        """Return `weights` as arrays that `set_weights` can take.

        Raises
        ------
        TypeError
            If an array holds anything but real numbers.
        ValueError
            If the number or a shape is wrong or a value is not finite.
        """
        shapes = [(self.n_in, self.units)] + [(self.units,)] * self.use_bias
        if len(weights) != len(shapes):
            raise ValueError(f"layer {self.name!r} has {len(shapes)} arrays, got {len(weights)}")
        arrays = [
            np.asarray(check.real_array(f"layer {self.name!r}: weights", array), np.float32)
            for array in weights
        ]
        for array, shape in zip(arrays, shapes, strict=True):
            if array.shape != shape:
                raise ValueError(f"layer {self.name!r} needs shape {shape}, got {array.shape}")
            if not np.isfinite(array).all():
                at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
                raise ValueError(f"layer {self.name!r}: the weight at {at} is {array[at]}")
        return arrays

    def set_weights(self, weights: list[np.ndarray]) -> None:
        """Take arrays that `checked_weights` returned."""
        self.biases_wait = False
        self._kernel_view[...] = weights[0] if self.by_feature else weights[0].T
        if self.use_bias:
            self._bias_view[...] = weights[1]
        self.forget_searcher()
        if self._active is not None:
            self._active.weights_replaced()

    @property
    def n_parameters(self) -> int:
        return self.n_in * self.units + self.units * self.use_bias

    # Kernels --------------------------------------------------------------------------

    def active_set(self, n_threads: int) -> Any:
        """Return the kernel of the sampler, with its tables, for up to so many threads."""
        if self.sampler is None:
            return None
        if self._active is None or self._active_threads < n_threads:
            new = self._new_active_set(self.sampler, n_threads)
            if self._active is not None:
                new.set_state(self._active.get_state())
            self._active, self._active_threads = new, n_threads
        return self._active

    def set_sampler(
        self,
        sampler: sampling.Sampler,
        inputs: np.ndarray | None = None,
        n_threads: int = 1,
        **options: Any,
    ) -> None:
        """Have another sampler, if it suits the layer.

        Its tables are built for padded inputs, with options of `ActiveSet.select_batch`; without,
        they are yet to be built.
        """
        active = self._new_active_set(sampler, n_threads) if self.built else None
        if inputs is not None:
            parameters = self._parameters(False)
            tuning.build_tables(active, parameters, inputs, n_threads=n_threads, **options)
        self.sampler, self._active_threads = sampler, n_threads
        self._active = None if inputs is None else active

    def check_sampler(self) -> None:
        """Refuse a sampler whose numbers do not fit the layer."""
        if self.sampler is not None:
            self._new_active_set(self.sampler, 1)

    def _new_active_set(self, sampler: sampling.Sampler, n_threads: int) -> Any:
        make = sampler.selector if self.hidden else sampler.active_set
        try:
            return make(self.units, self.n_in + 1, self._seed, n_threads)
        except ValueError as error:
            raise ValueError(f"sampler of layer {self.name!r}: {error}") from error

    def searcher(
        self, top_k: int, n_candidates: int | float | None, n_threads: int, sample: Any
    ) -> Any:
        """Return the kernel that finds outputs without the sampler's tables, for the present
        weights.

        sample : function that returns inputs of the layer, asked if there is no such kernel yet
        """
        if self._searcher is None:
            self._searcher_family = index.auto_family(self.units, self.n_in)
            new = self._new_searcher(n_threads)
            self._searcher = index.build(new, self._searcher_family, self.n_in, sample())
        elif self._searcher.n_threads < n_threads:
            new = self._new_searcher(n_threads)
            new.active.set_state(self._searcher.active.get_state())
            self._searcher = new
        self._searcher.reserve(*index.n_candidates_of(n_candidates, self.units, top_k))
        return self._searcher

    def _new_searcher(self, n_threads: int) -> Any:
        labels, gone = np.arange(self.units, dtype=np.int32), np.zeros(self.units, np.uint8)
        return index.make_searcher(
            self._searcher_family,
            self._weights,
            self.n_in,
            self._weights[:0],
            labels,
            gone,
            self._seed,
            n_threads,
        )

    @property
    def searcher_family(self) -> Any:
        """The hash family of what `searcher` returned for the present weights; None: nothing."""
        return None if self._searcher is None else self._searcher_family

    def forget_searcher(self) -> None:
        """The weights are about to change, or have changed."""
        self._searcher = None

    def reset_optimizer(self) -> None:
        """Forget the optimizer's state."""
        self._slots = self._state = None

    def _state_shapes(self, step: Any) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the shapes of slots and state that an optimizer's kernel reads."""
        n_rows, ld = self._weights.shape
        return (n_rows, step.n_slots * ld), (n_rows, step.n_state)

    def _check_state(self, step: Any) -> None:
        """Refuse an optimizer's kernel that reads another state than the layer has."""
        if (self._slots.shape, self._state.shape) != self._state_shapes(step):
            raise RuntimeError(
                f"layer {self.name!r} has the state of another optimizer: call compile with the "
                f"new one, which starts it anew"
            )

    def _parameters(self, training: bool) -> Parameters:
        slots, state = self._slots, self._state
        if not training:
            slots = state = np.zeros((len(self._weights), 0), np.float32)
        l2 = 0.0 if self.kernel_regularizer is None else self.kernel_regularizer.l2
        n_columns = self.units if self.by_feature else self.n_in + self.use_bias
        n_weights = self.units if self.by_feature else self.n_in
        return Parameters(self._weights, slots, state, n_columns, n_weights, l2)

    def settle(self, optimizer: Optimizer, now: float, n_threads: int) -> None:
        """Bring all rows up to the optimizer's clock, `now`.

        Raises
        ------
        RuntimeError
            If the layer has the state of an optimizer of another kind.
        """
        by_column = self.on_sampled and (self.hidden or self.sampler is None)
        if self._slots is not None and not by_column:
            step = optimizer.kernel()
            self._check_state(step)
            step.settle(self._parameters(True), now, n_threads)
            # Without both, an optimizer has nothing to catch up with, and no weight moved.
            if self._active is not None and step.n_slots and step.n_state:
                self._active.weights_moved()

    def kernel(self, optimizer: Optimizer, loss: Any, n_threads: int, training: bool) -> Any:
        """Return the kernel of the layer.

        Parameters
        ----------
        loss : Loss kernel or None
            Given for the output layer.
        training : bool
            Whether the optimizer needs its state.

        Raises
        ------
        RuntimeError
            If the layer has the state of an optimizer of another kind.
        MemoryError
            If the optimizer's state would not fit into the memory that is available.
        """
        step = optimizer.kernel()
        if training and self._slots is None:
            slots, state = self._state_shapes(step)
            if not self.by_feature:  # that of features that no point has takes no memory
                check_memory(
                    f"state of {type(optimizer).__name__} for layer {self.name!r}, {self.n_in:,} "
                    f"inputs and {self.units:,} neurons",
                    4 * (slots[0] * slots[1] + state[0] * state[1]),
                )
            new = aligned_zeros(slots), aligned_zeros(state)
            optimizer.start(*new)
            self._slots, self._state = new
        elif training:
            self._check_state(step)
        arguments = [
            self._parameters(training),
            step,
            ACTIVATIONS.index(self.activation),
            self.use_bias,
            self.n_in,
            self.units,
            loss,
        ]
        active = self.active_set(n_threads)
        if active is not None and not self.hidden:
            return _layers.SampledDense(*arguments, active)
        if self.on_sampled or active is not None:
            return _sparse.SparseDense(*arguments, active)
        if self.by_feature:
            return _layers.SparseInputDense(*arguments)
        return _layers.Dense(*arguments)

    # State ----------------------------------------------------------------------------

    def get_state(self) -> dict[str, np.ndarray]:
        """Return the arrays of a saved model; some share memory with the layer."""
        state = {"weights": self._weights}
        if self._slots is not None:
            state["slots"], state["state"] = self._slots, self._state
        if self._active is not None:
            state.update({f"active.{k}": a for k, a in self._active.get_state().items()})
        if self._searcher is not None:
            state.update({f"index.{k}": a for k, a in self._searcher.active.get_state().items()})
        return state

    def set_state(
        self,
        state: dict[str, np.ndarray],
        optimizer: Optimizer | None,
        searcher_family: Any = None,
    ) -> None:
        """Take what `get_state` gave, after `build`.

        searcher_family : what the property was, None without the state's index

        Raises
        ------
        KeyError
            If an array is missing.
        ValueError
            If an array has another shape or dtype, or values that cannot be.
        """

        def take(name: str, shape: tuple[int, int]) -> np.ndarray:
            array = state[name]
            if array.shape != shape or array.dtype != np.float32:
                raise ValueError(
                    f"{name} is {array.dtype}{array.shape}, the layer has float32{shape}"
                )
            if not np.isfinite(array).all():
                raise ValueError(f"{name} has values that are not finite")
            own = aligned_zeros(shape)
            own[...] = array
            return own

        weights = take("weights", self._weights.shape)
        if "slots" in state and optimizer is not None:
            slots_shape, state_shape = self._state_shapes(optimizer.kernel())
            slots, row_state = take("slots", slots_shape), take("state", state_shape)
            if row_state.size and row_state.min() < 0:
                raise ValueError("state has negative values")
            self._slots, self._state = slots, row_state
        self._weights = weights
        self.forget_searcher()
        active = {k[7:]: a for k, a in state.items() if k.startswith("active.")}
        if active and self.sampler is not None:
            kernel = self.active_set(1)
            kernel.set_state(active)
        if searcher_family is not None:
            if self.hidden or self.by_feature:
                raise ValueError(f"index of {self!r}: an output layer on dense inputs can have one")
            self._searcher_family = searcher_family
            new = self._new_searcher(1)
            try:
                new.active.set_state({k[6:]: a for k, a in state.items() if k.startswith("index.")})
            except (LookupError, ValueError) as error:
                raise ValueError(f"index of layer {self.name!r}: {error}") from error
            self._searcher = new
