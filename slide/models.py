"""The Sequential model: compile, fit, evaluate, predict, save, load."""

from __future__ import annotations

import copy
import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import scipy.sparse as sp

from slide import _validation as check
from slide import callbacks as callbacks_
from slide import losses, optimizers, sampling, saving, telemetry, tuning
from slide import metrics as metrics_
from slide._executions import Batches, Rows, hold_out, sliceable
from slide._kernels.network import Data, Network
from slide._threads import n_threads as _n_threads
from slide._threads import one_blas_thread
from slide.hashing.index import check_candidates
from slide.layers import ACTIVATIONS, Dense, Input

__all__ = ["Sequential", "load"]


class Sequential:
    """A stack of layers, trained and evaluated on sparse or dense rows.

    Parameters
    ----------
    layers : iterable, optional
        An `Input`, then `Dense` layers; `add` appends more.
    seed : int
        Of weights, hash functions, the order of samples and sampled neurons.

    Attributes
    ----------
    input : Input or None
        None before `add` or `layers` brought one.
    layers : list of Dense
    optimizer, loss, metrics
        What `compile` was given, as objects; None, None and [] before. The first two are changed
        by `compile` alone.
    epochs_trained : int
        Epochs that `fit` has trained, in files as well.
    stop_training : bool
        A callback sets it to end `fit` after the epoch.

    Raises
    ------
    TypeError
        If a layer is none, or `seed` is no integer.
    ValueError
        If `seed` is not between 0 and 2**63 - 1, or a layer cannot be added, see `add`.

    Examples
    --------
    >>> import numpy as np
    >>> import slide
    >>> model = slide.Sequential([slide.Input(4), slide.Dense(3, activation="softmax")])
    >>> model.compile(optimizer="adam", loss="categorical_crossentropy")
    >>> x, y = np.eye(4, dtype=np.float32), np.array([0, 1, 2, 0])
    >>> model.fit(x, y, epochs=2, verbose=0).epoch
    [0, 1]
    """

    def __init__(self, layers: Iterable[Any] | None = None, seed: int = 0):
        self.input: Input | None = None
        self.layers: list[Dense] = []
        self.seed = check.check_positive_int("seed", seed, low=0, high=2**63 - 1)
        self.stop_training = False
        self._optimizer: optimizers.Optimizer | None = None
        self._loss: losses.Loss | None = None
        self.metrics: list[Any] = []
        self.update = "batch"
        self.staleness = 0
        self.steps_per_execution: Any = "auto"
        self._products: np.ndarray | None = None  # multiplications of the last epoch, by layer
        # Of the epoch so far, or the last one: what the kernels measured and counted, and rebuilds
        # before it; inputs of the last execution, of layers with tables.
        self._clocks: np.ndarray | None = None
        self._products_so_far: np.ndarray | None = None
        self._rebuilds: list[float] = []
        self._epoch_seconds = 0.0
        self._recent: list[Any] = []
        self.epochs_trained = 0
        # One number that the kernels advance themselves: an interrupt never comes between a step
        # and its count.
        self._position = np.zeros(1, np.uint64)
        self._first_step = 0  # the step at which the optimizer started
        self._unsettled = False  # whether rows are behind the optimizer's clock
        self._sparse: bool | None = None
        self._built = False
        # Callbacks are called by the thread that holds the lock, and may use the model.
        self._lock = threading.RLock()
        self._kernels_in_use = False
        self._network: Network | None = None
        self._network_key: Any = None
        for layer in layers or ():
            self.add(layer)

    # Structure ------------------------------------------------------------------------

    def add(self, layer: Any) -> None:
        """Append a layer.

        Raises
        ------
        TypeError
            If it is no layer.
        ValueError
            If the model has weights already, the layer belongs to a model that has, its name is
            another layer's, or an `Input` is not the first or missing.
        """
        if self.built:
            raise ValueError("the model has its weights already; add layers before")
        if isinstance(layer, Input):
            if self.input is not None:
                raise ValueError("Input must be the first layer, and the only one of its kind")
            self.input = layer
            return
        if not isinstance(layer, Dense):
            raise TypeError(f"layers must be Input and Dense, got {layer!r}")
        if self.input is None:
            raise ValueError(f"the first layer must be an Input, got {layer!r}")
        if layer.built or any(layer is own for own in self.layers):
            raise ValueError(f"{layer!r} belongs to a model already")
        if self.layers and (last := self.layers[-1]).activation == "softmax":
            raise ValueError(f"{last!r} has activation 'softmax' and so must be the last layer")
        names = {own.name for own in self.layers}
        if layer.name in names:
            raise ValueError(f"{layer!r}: another layer has the name {layer.name!r}")
        if layer.name is None:
            numbers = itertools.count(len(self.layers))
            layer.name = next(name for i in numbers if (name := f"dense_{i}") not in names)
        self.layers.append(layer)

    @property
    def optimizer(self) -> optimizers.Optimizer | None:
        return self._optimizer

    @optimizer.setter
    def optimizer(self, value: Any) -> None:
        # The kernels and the layers' state are those of the present one.
        raise AttributeError(f"optimizer={value!r} is for compile, which starts it anew")

    @property
    def loss(self) -> losses.Loss | None:
        return self._loss

    @loss.setter
    def loss(self, value: Any) -> None:
        raise AttributeError(f"loss={value!r} is for compile")

    @property
    def built(self) -> bool:
        """Whether the weights are made."""
        return self._built

    @property
    def step(self) -> int:
        """Steps (batches) trained so far."""
        return int(self._position[0])

    def build(self, sparse: bool | None = None, *, draw: bool = True) -> None:
        """Make the weights, if they are not made yet.

        Parameters
        ----------
        sparse : bool or None
            Whether rows are sparse, where the `Input` leaves it open; None: they are.
        draw : bool
            Whether initial values are drawn; else all weights are 0.

        Raises
        ------
        RuntimeError
            While another thread uses the model.
        ValueError
            If layers are missing, a sampler or the initializer of biases does not suit its layer,
            a layer has become another model's, or one that was added after `compile` does not go
            with what that was given. Then no layer is built.
        MemoryError
            If weights or tables would not fit into the memory that is available. Then no layer is
            built either.
        """
        with self._exclusive("build"):
            if not self._built:
                self._build(sparse, draw)

    def _build(self, sparse: bool | None, draw: bool) -> None:
        if self.input is None or not self.layers:
            raise ValueError("the model needs an Input and at least one Dense layer")
        if self.input.sparse is not None:
            sparse = self.input.sparse
        self._sparse = True if sparse is None else sparse
        n_in, by_feature, below = self.input.n_features, self._sparse, False
        if by_feature and self.layers[0].sampler is not None:
            raise ValueError(
                f"{self.layers[0]!r} has a sampler and sparse features as its input; samplers "
                f"need a dense input: put a hidden layer between, or Input(..., sparse=False)"
            )
        for layer in self.layers:
            hidden = layer is not self.layers[-1]
            sampler = layer.sampler
            if sampler is not None and not (sampler.for_hidden if hidden else sampler.for_output):
                other = "output" if hidden else "hidden"
                raise ValueError(f"{layer!r}: this sampler is for {other} layers")
            if hidden and layer.use_bias and layer.bias_initializer.needs_label_counts:
                raise ValueError(f"bias_initializer of {layer!r} is one for output layers")
            if layer.built:
                raise ValueError(f"{layer!r} belongs to another model, which has made its weights")
        self._check_compiled()
        try:
            for i, layer in enumerate(self.layers):
                seed = int(np.random.SeedSequence([self.seed, i]).generate_state(1, np.uint64)[0])
                hidden = layer is not self.layers[-1]
                layer.build(n_in, by_feature, seed, draw, hidden, below)
                layer.check_sampler()
                n_in, by_feature, below = layer.units, False, layer.sampler is not None
            self._built = True
        finally:
            if not self._built:
                for layer in self.layers:
                    layer.clear()

    def summary(self, print_fn: Any = print) -> None:
        """Print the layers, their parameters and samplers.

        After training also the multiplications of the last epoch, layer by layer, in per cent of
        those with all neurons; see `multiplications`.

        A model without weights gets them, for sparse rows unless its `Input` has ``sparse=False``.

        Raises
        ------
        RuntimeError, ValueError, MemoryError
            As in `build`.
        """
        self.build()
        head = ("layer", "inputs", "units", "activation", "parameters", "sampler")
        rows: list[tuple[str, ...]] = [head]
        for layer in self.layers:
            rows.append(
                (
                    str(layer.name),
                    f"{layer.n_in:,}",
                    f"{layer.units:,}",
                    layer.activation,
                    f"{layer.n_parameters:,}",
                    repr(layer.sampler) if layer.sampler is not None else "all neurons",
                )
            )
        _print_table(rows, print_fn)
        total = sum(layer.n_parameters for layer in self.layers)
        print_fn(f"parameters: {total:,} ({4 * total / 1e6:,.1f} MB)")
        products = self.multiplications
        if not products:
            return
        names = ("forward", "backward", "update", "hashing")
        rows = [("multiplications", "active", *names, "all")]
        for layer, row in zip(self.layers, products, strict=True):
            shares = [row[name] / max(row["dense"], 1.0) for name in names]
            cells = [f"{share:.2%}" for share in (row["active_fraction"], *shares, sum(shares))]
            rows.append((str(layer.name), *cells))
        _print_table(rows, print_fn)
        spent = sum(row[name] for row in products for name in names)
        dense = sum(row["dense"] for row in products)
        print_fn(f"{spent:,.0f} a sample, {spent / max(dense, 1.0):.2%} of {dense:,.0f}")

    def get_weights(self) -> list[np.ndarray]:
        """Return copies of all weights, layer by layer: (inputs, units), then (units,).

        Moves that rows have missed are made first, see `slide.optimizers`. A model without weights
        gets them, for sparse rows unless its `Input` has ``sparse=False``.

        Raises
        ------
        RuntimeError, ValueError, MemoryError
            As in `build`.
        """
        with self._exclusive("get_weights"):
            self.build()
            self._settle()
            return [array for layer in self.layers for array in layer.get_weights()]

    def set_weights(self, weights: Iterable[Any]) -> None:
        """Replace all weights; the optimizer's state stays.

        A model without weights is built for sparse rows unless its `Input` has ``sparse=False``.

        Raises
        ------
        RuntimeError
            While another thread uses the model.
        TypeError
            If an array holds anything but real numbers.
        ValueError
            If the number of arrays, a shape or a value does not fit. Nothing is changed then.
        """
        with self._exclusive("set_weights"):
            self.build()
            weights = list(weights)
            counts = [1 + layer.use_bias for layer in self.layers]
            if len(weights) != sum(counts):
                raise ValueError(f"the model has {sum(counts)} arrays, got {len(weights)}")
            checked, at = [], 0
            for layer, count in zip(self.layers, counts, strict=True):
                checked.append(layer.checked_weights(weights[at : at + count]))
                at += count
            self._settle()
            for layer, arrays in zip(self.layers, checked, strict=True):
                layer.set_weights(arrays)

    # Training -------------------------------------------------------------------------

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = "categorical_crossentropy",
        metrics: Any = None,
        update: str = "batch",
        steps_per_execution: int | str = "auto",
        staleness: int = 0,
    ) -> None:
        """Choose how the model is trained. The optimizer starts anew.

        Parameters
        ----------
        optimizer : Optimizer or str
        loss : Loss or str
            ``"categorical_crossentropy"`` (with a softmax output), ``"binary_crossentropy"``
            (sigmoid) or ``"mean_squared_error"`` (linear, relu, sigmoid, tanh).
        metrics : list of str or Metric, optional
            Computed by `evaluate` and, on validation data, by `fit`; see `slide.metrics`. One
            sigmoid output ranks nothing: its id is 0 where it is more than 1/2, else -1, and
            ``"accuracy"`` is the share of samples that it tells apart; no other metric of
            `slide.metrics` has a meaning there.
        update : {"batch", "hogwild"}
            ``"batch"``: one step a batch with the mean gradient, the same result with any number of
            threads. ``"hogwild"``: one step a sample, threads write without locks (Recht et al.,
            NeurIPS 2011); `batch_size` then only says how often tables are looked after.
        steps_per_execution : int or "auto"
            Batches between two looks at Python (callbacks, Ctrl-C); the result does not depend on
            it. ``"auto"``: about a quarter of a second.
        staleness : int
            With ``"hogwild"``: tau, to simulate tau + 1 asynchronous workers on one thread, always
            with the same result. A sample's gradient is computed with the weights as they are, and
            applied after those of tau later samples were computed; what is left at the end of a
            batch is applied there. 0: threads do as they will.

        Raises
        ------
        RuntimeError
            If a callback calls it between batches; ``on_epoch_end`` may.
        TypeError
            If an argument is of a wrong type.
        ValueError
            If the loss or a metric does not go with the output layer, or a sampler or `staleness`
            not with `update`, or two metrics have one name, or one the name ``"loss"``.
        """
        new_optimizer, new_loss = optimizers.get(optimizer), losses.get(loss)
        if metrics is None:
            metrics = []
        elif isinstance(metrics, (str, dict)) or not isinstance(metrics, Iterable):
            metrics = [metrics]
        new_metrics = [metrics_.get(metric) for metric in metrics]
        check.check_in("update", update, ("batch", "hogwild"))
        staleness = check.check_positive_int("staleness", staleness, low=0, high=1 << 20)
        if staleness and update != "hogwild":
            raise ValueError(f"staleness={staleness} needs update='hogwild', got {update!r}")
        self._check_update(update)
        if steps_per_execution != "auto":
            steps_per_execution = check.check_positive_int(
                "steps_per_execution", steps_per_execution
            )
        if not self.layers:
            raise ValueError("the model needs an Input and at least one Dense layer")
        self._check_output(new_loss, new_metrics)
        with self._exclusive("compile"):
            if self._kernels_in_use:
                raise RuntimeError("compile between batches: on_epoch_end can")
            self._settle()
            self._optimizer, self._loss, self.metrics = new_optimizer, new_loss, new_metrics
            self.update, self.steps_per_execution = update, steps_per_execution
            self.staleness = staleness
            self._network = None
            self._first_step = self.step
            for layer in self.layers:
                layer.reset_optimizer()

    def _settle(self, n_threads: int = 1) -> None:
        """Make the steps without gradient that rows have missed; see `slide.optimizers`."""
        if not self._unsettled or self.optimizer is None:
            return
        for layer in self.layers:
            layer.settle(self.optimizer, float(self.step - self._first_step), n_threads)
        self._unsettled = False

    @contextmanager
    def _exclusive(self, what: str) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(
                f"{what}: the model is in use by another call; one model is for one thread"
            )
        try:
            yield
        finally:
            self._lock.release()

    def _ready(self, what: str) -> None:
        if self.loss is None or self.optimizer is None:
            raise RuntimeError(f"{what} before compile: call model.compile(...) first")
        self._check_compiled()

    def _check_compiled(self) -> None:
        """Refuse layers and metrics that do not go with what `compile` was given: both may have
        come since."""
        if self.loss is not None:
            self._check_update(self.update)
            self._check_output(self.loss, self.metrics)

    def _check_output(self, loss: losses.Loss, metrics: list[Any]) -> None:
        output = self.layers[-1]
        if output.activation not in loss.activations:
            wanted = " or ".join(repr(a) for a in loss.activations)
            raise ValueError(
                f"loss {loss.name!r} needs an output layer with activation {wanted}, "
                f"{output.name!r} has {output.activation!r}"
            )
        for i, metric in enumerate(metrics):
            if metric.name == "loss":
                raise ValueError(f"metrics[{i}], {metric!r}, is named 'loss', as the loss is")
            for j, other in enumerate(metrics[:i]):
                if metric.name == other.name:
                    raise ValueError(
                        f"metrics[{j}], {other!r}, and metrics[{i}], {metric!r}, are both named "
                        f"{metric.name!r}"
                    )
            metrics_.check_output(f"metrics[{i}]", metric, output.units, output.activation)

    def _check_update(self, update: str) -> None:
        for layer in self.layers:
            if update == "hogwild" and layer.sampler is not None and layer.sampler.needs_batch:
                raise ValueError(
                    f"{layer.sampler!r} looks at whole batches; update must be 'batch'"
                )

    def _features(self, x: Any, name: str = "x") -> Any:
        """Return x as the kernels read it."""
        assert self.input is not None
        return self._arrays(check.check_features(x, self.input.n_features, name))

    def _arrays(self, x: Any) -> Any:
        """The same of checked features; builds the model."""
        assert self.input is not None
        if not self.built:
            self.build(sp.issparse(x))
        if self._sparse and not sp.issparse(x):
            x = check.check_features(sp.csr_array(x), self.input.n_features)
        elif not self._sparse and sp.issparse(x):
            x = x.toarray()
        return (x.indptr, x.indices, x.data) if self._sparse else x

    def _checked(
        self, x: Any, y: Any, sample_weight: Any, names: Any = ("x", "y", "sample_weight")
    ) -> tuple[Any, Any, Any]:
        """Return them in the forms of `slide._validation`; the model is not built for it."""
        assert self.loss is not None
        assert self.input is not None
        if y is None:
            raise ValueError(f"{names[1]} is missing")
        x = check.check_features(x, self.input.n_features, names[0])
        check.check_has_rows(x, names[0])
        n = x.shape[0]
        targets = check.check_targets(y, n, self.layers[-1].units, self.loss.name, names[1])
        return x, targets, check.check_sample_weight(sample_weight, n, names[2])

    def _data(self, x: Any, targets: Any, weights: Any) -> Data:
        """Return the kernels' data of what `_checked` returned; builds the model."""
        arrays = targets.indptr, targets.indices, targets.data
        return Data(self._arrays(x), arrays, weights)

    def _net(self, data: Data, batch_size: int, n_threads: int, training: bool) -> Network:
        """Return the kernels with buffers for this data."""
        if self._network is None or self._network_key != (n_threads, training):
            optimizer = self.optimizer if self.optimizer is not None else optimizers.SGD()
            loss = self.loss
            activation = ACTIVATIONS.index(self.layers[-1].activation)
            if loss is None:
                loss = losses.CategoricalCrossentropy()
            kernels = [
                layer.kernel(
                    optimizer,
                    loss.kernel(activation) if layer is self.layers[-1] else None,
                    n_threads,
                    training,
                )
                for layer in self.layers
            ]
            self._network = Network(kernels, bool(self._sparse))
            self._network_key = n_threads, training
        self._network.allocate(data, min(batch_size, max(1, data.n)), n_threads, training)
        return self._network

    @contextmanager
    def _kernels(
        self, data: Data, batch_size: int, n_threads: int, training: bool
    ) -> Iterator[Network]:
        if self._kernels_in_use:
            raise RuntimeError(
                "a callback between batches cannot train, evaluate or predict with the model that "
                "is being trained; on_epoch_end can"
            )
        network = self._net(data, batch_size, n_threads, training)
        if training:
            self.layers[-1].forget_searcher()
        self._kernels_in_use = True
        try:
            # Matrix products run inside our own threads.
            with one_blas_thread():
                yield network
        finally:
            self._kernels_in_use = False
            network.release()

    def _start_biases(self, targets: Any) -> None:
        for layer in self.layers:
            if layer.biases_wait:
                counts = np.bincount(targets.indices, minlength=layer.units)
                initializer: Any = layer.bias_initializer
                layer.forget_searcher()
                layer._bias_view[...] = initializer(
                    (layer.units,), label_counts=counts, n_samples=targets.shape[0]
                )
                layer.biases_wait = False

    def fit(
        self,
        x: Any,
        y: Any = None,
        batch_size: int = 256,
        epochs: int = 1,
        verbose: int = 1,
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        n_jobs: int | None = -1,
        seed: int | None = None,
    ) -> callbacks_.History:
        """Train the model.

        Parameters
        ----------
        x : sparse matrix, array-like or iterable, shape (n_samples, n_features)
            Features. Or an iterable of batches ``(x, y)`` or ``(x, y, sample_weight)``, of which
            each is one step; it is gone through once an epoch (but see `steps_per_epoch`), a
            generator once in all.
        y : sparse matrix or array-like
            Indicator matrix or, for mean squared error, real targets (n_samples, n_outputs), sparse
            or dense; or class ids, integers (n_samples,). With one output and another loss than
            ``"categorical_crossentropy"`` a vector is the column of targets. None where `x` is an
            iterable of batches.
        batch_size : int
        epochs : int
            The number of the epoch to stop before, counted from 0.
        verbose : {0, 1, 2}
            Nothing, a progress bar, one line an epoch.
        callbacks : list of Callback, optional
        validation_split : float
            This fraction, the last rows of `x`, is held out and evaluated after every epoch.
        validation_data : tuple, optional
            ``(x, y)`` or ``(x, y, sample_weight)`` to evaluate after every epoch.
        shuffle : bool
            Whether rows come in a new random order whenever they start anew: in every epoch, unless
            there is `steps_per_epoch`.
        sample_weight : array-like, shape (n_samples,), optional
            Finite factors of the samples' losses, at least 0.
        initial_epoch : int
            The number of the first epoch.
        steps_per_epoch : int, optional
            Batches of an epoch; needed for an endless iterable. The next epoch goes on where this
            one stopped, and after the last row or batch all start anew, rows in a new order. Other
            calls of `fit` go on as well, but for batches that are no iterator. With more steps than
            there are batches an epoch ends after all of them, with a warning.
        n_jobs : int or None
            Threads: -1 for all processors, None for joblib's default (1).
        seed : int, optional
            Of the order of the samples; by default the model's. The order is a function of the
            seed and of how many epochs the model has been trained, of `steps_per_epoch` steps.

        Returns
        -------
        History
            ``history.history`` has a list with one value an epoch for ``"loss"``,
            ``"active_fraction"`` (neurons of the output layer computed a sample),
            ``"multiplications"`` (of all layers, as a fraction of those with all neurons; see
            `multiplications`),
            ``"samples_per_second"``, ``"lr"`` and, as ``"val_..."``, what `evaluate` returns. With
            samplers also the time of their phases and the state of their tables, see
            `slide.telemetry`. An output layer with ``LSH()`` chooses its hash family at the end of
            epochs, see `slide.sampling.LSH`; `verbose` prints what and why.

        Raises
        ------
        RuntimeError
            Before `compile`, or while another thread trains the model.
        TypeError, ValueError
            If an argument is of a wrong type, shape or value. The message names the argument, the
            row and the value; the model is unchanged.
        FloatingPointError
            If the loss or a gradient becomes NaN, infinite or too large for a step. In batch mode
            the weights are those before that batch; the message says which step it was.
        MemoryError
            If weights, tables or the optimizer's state would not fit into the memory that is
            available; the message names the layer.
        """
        self._ready("fit")
        batch_size = check.check_positive_int("batch_size", batch_size, high=1 << 20)
        epochs = check.check_positive_int("epochs", epochs)
        initial_epoch = check.check_positive_int("initial_epoch", initial_epoch, low=0)
        if isinstance(verbose, bool):
            verbose = int(verbose)
        verbose = check.check_positive_int("verbose", verbose, low=0, high=2)
        shuffle = check.check_bool("shuffle", shuffle)
        n_threads = _n_threads(n_jobs)
        if steps_per_epoch is not None:
            steps_per_epoch = check.check_positive_int("steps_per_epoch", steps_per_epoch)
        if seed is not None:
            seed = check.check_positive_int("seed", seed, low=0)
        split = check.check_finite_float(
            "validation_split", validation_split, at_least=0.0, below=1.0
        )
        if split and validation_data is not None:
            raise ValueError("give validation_split or validation_data, not both")
        with self._exclusive("fit"):
            checked = held = None
            if y is None and not sp.issparse(x) and not isinstance(x, np.ndarray):
                if split or sample_weight is not None:
                    raise ValueError(
                        "validation_split and sample_weight need x and y as arrays; batches bring "
                        "their own weights"
                    )
            else:
                checked = self._checked(x, y, sample_weight)
                if split:
                    checked, held = hold_out(*checked, split)
            if validation_data is not None:
                if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (
                    2,
                    3,
                ):
                    raise ValueError("validation_data must be (x, y) or (x, y, sample_weight)")
                names = ("validation_data[0]", "validation_data[1]", "validation_data[2]")
                parts = (*validation_data, None)[:3]
                held = self._checked(parts[0], parts[1], parts[2], names)
                for metric in self.metrics if checked is None else ():
                    if getattr(metric, "propensities", 0) is None:
                        raise ValueError(
                            f"{metric.name} needs propensities, which batches do not give: compile "
                            "with PSPAtK(propensities=...), or one that was prepared"
                        )
            # All is known to be right: the model is built, and as its first rows are.
            source: Rows | Batches
            if checked is None:
                source = Batches(self, x, steps_per_epoch, n_threads)
            else:
                source = Rows(
                    self,
                    checked[0],
                    self._data(*checked),
                    checked[1],
                    batch_size,
                    shuffle,
                    steps_per_epoch,
                    n_threads,
                    self.seed if seed is None else seed,
                )
            # The kernels' data, and the targets that metrics look at.
            validation = None if held is None else (self._data(*held), held[1])
            params = {"epochs": epochs, "samples": source.samples, "verbose": verbose}
            hooks = callbacks_.CallbackList(callbacks, self, params)
            tunes = not any(isinstance(c, callbacks_.ChooseSampler) for c in hooks)
            if isinstance(source, Batches):
                source.tunes = tunes
            self.stop_training = False
            logs: dict[str, Any] = {}
            source.prepare()
            hooks.on_train_begin()
            try:
                source.begin()
                for epoch in range(initial_epoch, epochs):
                    params["samples"] = source.samples
                    hooks.on_epoch_begin(epoch)
                    logs = self._epoch(source, hooks)
                    if validation is not None:
                        scores = self._evaluate(*validation, batch_size, n_threads)
                        logs.update({f"val_{name}": value for name, value in scores.items()})
                    told = self._choose(source, batch_size, n_threads, logs) if tunes else None
                    hooks.on_epoch_end(epoch, logs)
                    if told and verbose:
                        print(told)
                    if self.stop_training:
                        break
            finally:
                hooks.on_train_end(logs)
            return hooks.history

    def _epoch(
        self, source: Any, hooks: callbacks_.CallbackList, settle: bool = True
    ) -> dict[str, Any]:
        """Train one epoch; return its logs."""
        loss = computed = 0.0
        n = batch = 0
        seconds = 0.0
        logs: dict[str, Any] = {}
        units = self.layers[-1].units
        products: np.ndarray | None = None
        clocks: np.ndarray | None = None
        self._rebuilds = telemetry.count_rebuilds(self.layers)
        # Closed at once when training is left by an exception, whose traceback would keep it open.
        with closing(source.epoch()) as executions:
            for execution in executions:
                batch += execution.n_batches
                hooks.on_train_batch_begin(batch - 1)
                started = time.perf_counter()
                self._unsettled = True
                done, more_loss, more_computed, more_products = execution.run()
                seconds += time.perf_counter() - started
                self._epoch_seconds = seconds
                if done < execution.n_batches:
                    raise FloatingPointError(
                        f"training diverged at step {self.step}: the loss or a gradient is NaN, "
                        f"infinite or too large; the weights are those of step {self.step}. "
                        f"Try a smaller learning rate than {execution.rates[done]:g}"
                    )
                n += execution.n_samples
                loss += more_loss
                computed += more_computed
                products = more_products if products is None else products + more_products
                spent, dense = self._products_of(products)
                network = self._network
                assert network is not None
                clocks = network.seconds if clocks is None else clocks + network.seconds
                self._clocks, self._recent = clocks, network.recent
                self._products_so_far = products
                logs = {
                    "loss": loss / n,
                    "active_fraction": computed / n / units,
                    "multiplications": float(spent.sum() / max(1.0, dense.sum())),
                    "samples_per_second": n / max(seconds, 1e-9),
                }
                hooks.on_train_batch_end(batch - 1, {**logs, "samples": n})
        if n == 0:
            raise ValueError("x gave no batch in this epoch; a generator can be gone through once")
        self._products = products
        if settle:
            self._settle(source.n_threads)
        self.epochs_trained += 1
        assert self.optimizer is not None
        rate = self.optimizer.learning_rate(max(0, self.step - self._first_step - 1))
        return {**logs, **self._phase_logs(), "lr": rate}

    @property
    def _chooses(self) -> bool:
        """Whether the output layer's hash family is chosen in `fit`."""
        sampler = self.layers[-1].sampler
        return isinstance(sampler, sampling.LSH) and sampler.chooses

    def _choose(
        self, source: Any, batch_size: int, n_threads: int, logs: dict[str, Any]
    ) -> str | None:
        """Let an output layer's `LSH` that chooses look whether its hash family is the right one.

        Returns a line about what it chose, None if it stays; the time is put among the logs.
        """
        if not self._chooses:
            return None
        layer = self.layers[-1]
        sampler: Any = layer.sampler
        started = time.perf_counter()
        x = source.some(np.random.default_rng([self.seed, self.step]))
        if x is None:
            return None
        try:
            inputs, bias = self._output_inputs(x, n_threads)
            choice = tuning.review(
                sampler,
                layer._weights[:, : layer.n_in],
                inputs,
                bias,
                self._epoch_seconds,
                batch_size=batch_size,
                n_jobs=n_threads,
            )
            told = None if choice is None else f"{layer.name}: {choice.reason}"
            if choice is not None:
                new = sampling.LSH(max_active=sampler.max_active, choice=choice)
                if repr(sampling.parts(new, layer.units)) == repr(
                    sampling.parts(sampler, layer.units)
                ):
                    layer.sampler = new  # the same, with what is known about it now
                else:
                    # With tables, as callbacks may ask for what is in them.
                    layer.set_sampler(
                        new,
                        tuning.padded_inputs(inputs),
                        n_threads,
                        seed=self.seed,
                        step=self.step,
                    )
                    self._network = None
        except MemoryError as error:
            told = f"{layer.name}: the sampler stays, {error}"
        logs["time_choice"] = time.perf_counter() - started
        return told

    def _output_inputs(self, x: Any, n_threads: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the output layer's inputs for all rows of x, and its biases."""
        data = Data(self._features(x))
        with self._kernels(data, data.n, n_threads, False) as network:
            inputs = network.output_inputs(data, self.seed, self.step)
        layer = self.layers[-1]
        return inputs, layer._weights[:, layer.n_in] if layer.use_bias else None

    def _phase_logs(self) -> dict[str, float]:
        """Return what `slide.telemetry` names, of the epoch so far."""
        assert self._clocks is not None
        assert self._products_so_far is not None
        return telemetry.training_logs(
            self.layers, self._clocks, self._products_so_far, self._rebuilds
        )

    def _products_of(self, products: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return, by layer, multiplications (forward, backward, update, hashing) and those of the
        first three with all neurons."""
        dense = np.zeros((len(self.layers), 4))
        for i, layer in enumerate(self.layers):
            all_products = products[i, 5] * layer.n_in * layer.units
            if layer.by_feature:
                all_products = products[i, 0]  # all neurons, on the features that are not zero
            dense[i, :3] = all_products
        dense[0, 1] = 0  # nobody asks for the features' gradient
        return products[:, :4], dense

    @property
    def multiplications(self) -> list[dict[str, float]]:
        """Multiplications a sample in the last epoch, layer by layer.

        The kernels count products of weights with activations (``"forward"``), of weights with
        gradients (``"backward"``), of gradients with activations (``"update"``), and of hash
        functions with weights and queries, maintenance included (``"hashing"``). Biases and what
        optimizers do once a weight and step are not counted, on either side.
        ``"dense"`` is the first three's sum with all neurons, ``"active_fraction"`` the share of
        the neurons that was active. Empty before training.
        """
        if self._products is None:
            return []
        spent, dense = self._products_of(self._products)
        found = []
        for i, layer in enumerate(self.layers):
            samples = max(1.0, self._products[i, 5])
            names = ("forward", "backward", "update", "hashing")
            row = {name: float(n / samples) for name, n in zip(names, spent[i], strict=True)}
            row["dense"] = float(dense[i].sum() / samples)
            row["active_fraction"] = float(self._products[i, 4] / samples / layer.units)
            found.append(row)
        return found

    def active_sets(self, x: Any, n_jobs: int | None = -1) -> list[Any]:
        """Return the activations of the hidden layers that have active sets in predictions.

        Parameters
        ----------
        x : sparse matrix or array-like, shape (n_samples, n_features)
        n_jobs : int or None
            As in `fit`.

        Returns
        -------
        list of csr_array of float32 or None
            One for every hidden layer, of shape (n_samples, units): None where predictions compute
            all neurons. Neurons that are active with activation 0 are left out.

        Raises
        ------
        RuntimeError
            If a callback calls it between batches (``on_epoch_end`` may), or while another thread
            uses the model.
        TypeError, ValueError
            If `x` is not what `predict` would take.
        """
        n_threads = _n_threads(n_jobs)
        with self._exclusive("active_sets"):
            data = Data(self._features(x))
            self._settle()
            with self._kernels(data, 256, n_threads, False) as network:
                found = network.active_sets(data, self.seed, self.step)
        return [
            None if arrays is None else sp.csr_array(arrays, shape=(data.n, layer.units))
            for arrays, layer in zip(found, self.layers, strict=False)
        ]

    def partial_fit(
        self,
        x: Any,
        y: Any,
        sample_weight: Any = None,
        batch_size: int = 256,
        n_jobs: int | None = -1,
    ) -> Sequential:
        """Go once through some more data, in their order.

        Parameters
        ----------
        x, y, sample_weight, batch_size, n_jobs
            As in `fit`. A metric does not get these labels as the training labels that it may need:
            ``"psp@k"`` takes propensities, or those of a `fit` before.

        Returns
        -------
        Sequential
            The model.

        Raises
        ------
        RuntimeError, TypeError, ValueError, FloatingPointError
            As in `fit`.
        """
        self._train_once("partial_fit", x, y, sample_weight, batch_size, n_jobs)
        return self

    def train_on_batch(
        self, x: Any, y: Any, sample_weight: Any = None, n_jobs: int | None = -1
    ) -> dict[str, float]:
        """Make one step with all rows as one batch.

        Parameters
        ----------
        x, y, sample_weight, n_jobs
            As in `fit`.

        Returns
        -------
        dict of float
            ``"loss"`` and ``"active_fraction"``.

        Raises
        ------
        RuntimeError, TypeError, ValueError, FloatingPointError
            As in `fit`.
        """
        return self._train_once("train_on_batch", x, y, sample_weight, None, n_jobs)

    def _train_once(
        self, what: str, x: Any, y: Any, sample_weight: Any, batch_size: int | None, n_jobs: Any
    ) -> dict[str, float]:
        self._ready(what)
        n_threads = _n_threads(n_jobs)
        if batch_size is not None:
            batch_size = check.check_positive_int("batch_size", batch_size, high=1 << 20)
        with self._exclusive(what):
            x, targets, weights = self._checked(x, y, sample_weight)
            data = self._data(x, targets, weights)
            batch_size = batch_size or x.shape[0]
            source = Rows(self, x, data, targets, batch_size, False, None, n_threads, self.seed)
            source.begin()
            epochs = self.epochs_trained
            logs = self._epoch(source, callbacks_.CallbackList(), settle=False)
            self.epochs_trained = epochs
        return {"loss": logs["loss"], "active_fraction": logs["active_fraction"]}

    # Use ------------------------------------------------------------------------------

    def evaluate(
        self,
        x: Any,
        y: Any,
        batch_size: int = 256,
        sample_weight: Any = None,
        n_jobs: int | None = -1,
    ) -> dict[str, float]:
        """Return the loss over all neurons and the metrics of `compile`, by name.

        Moves that rows have missed are made first, see `slide.optimizers`.

        Parameters
        ----------
        x, y, sample_weight, n_jobs
            As in `fit`. Weights count in the loss, not in the metrics.
        batch_size : int
            Rows that are worked on at a time.

        Returns
        -------
        dict of float
            ``"loss"`` and, by their names, the metrics.

        Raises
        ------
        RuntimeError
            Before `compile`, if a callback calls it between batches (``on_epoch_end`` may), or
            while another thread uses the model.
        TypeError, ValueError
            As in `fit`.
        """
        self._ready("evaluate")
        batch_size = check.check_positive_int("batch_size", batch_size, high=1 << 20)
        n_threads = _n_threads(n_jobs)
        with self._exclusive("evaluate"):
            x, targets, weights = self._checked(x, y, sample_weight)
            data = self._data(x, targets, weights)
            self._settle()
            return self._evaluate(data, targets, batch_size, n_threads)

    def _evaluate(
        self, data: Data, targets: Any, batch_size: int, n_threads: int
    ) -> dict[str, float]:
        top_k = max((metric.k for metric in self.metrics), default=0)
        with self._kernels(data, batch_size, n_threads, False) as network:
            ids, top, loss = network.predict(data, top_k=top_k, seed=self.seed, step=self.step)
        if self.layers[-1].units == 1 and self.layers[-1].activation == "sigmoid":
            ids[top <= 0.5] = -1
        logs = {"loss": loss / data.n}
        for metric in self.metrics:
            logs[metric.name] = float(metric(targets, ids[:, : metric.k]))
        return logs

    def predict(
        self,
        x: Any,
        top_k: int | None = None,
        batch_size: int = 256,
        exact: bool = True,
        n_jobs: int | None = -1,
        n_candidates: int | float | None = None,
    ) -> Any:
        """Return the scores of all outputs, or the best outputs of every row.

        Moves that rows have missed are made first, see `slide.optimizers`.

        Parameters
        ----------
        x : sparse matrix or array-like, shape (n_samples, n_features)
        top_k : int, optional
            So many outputs of every row, best first. Work and memory grow with the outputs looked
            at, never with an array of (n_samples, n_outputs).
        batch_size : int
            Rows that are worked on at a time.
        exact : bool
            Whether all neurons are computed. False needs `top_k` and a dense input of the output
            layer: only neurons that are retrieved are computed, and softmax is over them, so that
            its probabilities are too large where likely neurons were not. With a sampler that has
            `LSH` its tables are asked, and ids are -1 (scores -inf) where they returned fewer than
            `top_k`. Otherwise, or with `n_candidates`, an index like `slide.hashing.Index` finds
            them. The first such prediction makes it, with the mean input of its first `batch_size`
            rows, and it is kept until weights change, in files as well.
        n_jobs : int or None
            As in `fit`.
        n_candidates : int, float or None
            With ``exact=False``: neurons that the index retrieves for a row, or (a float) this
            fraction of them, even if there are tables, which look at few neurons and find less.

        Returns
        -------
        ndarray of float32, shape (n_samples, n_outputs)
            Without `top_k`.
        ids : ndarray of int32, shape (n_samples, top_k)
        scores : ndarray of float32, shape (n_samples, top_k)

        Raises
        ------
        RuntimeError
            If a callback calls it between batches (``on_epoch_end`` may), or while another thread
            uses the model.
        TypeError
            If an argument is of a wrong type.
        ValueError
            If `top_k` is more than the outputs, ``exact=False`` has no `top_k` or a sparse input of
            the output layer, `n_candidates` comes with ``exact=True``, or `x` has a wrong shape or
            a value that is not finite.
        """
        batch_size = check.check_positive_int("batch_size", batch_size, high=1 << 20)
        exact = check.check_bool("exact", exact)
        n_threads = _n_threads(n_jobs)
        if not self.layers:
            raise ValueError("the model needs an Input and at least one Dense layer")
        units = self.layers[-1].units
        if top_k is not None:
            top_k = check.check_positive_int("top_k", top_k, high=units)
        if not exact and top_k is None:
            raise ValueError("exact=False needs top_k")
        n_candidates = check_candidates(n_candidates)
        if exact and n_candidates is not None:
            raise ValueError(f"n_candidates={n_candidates} needs exact=False")
        output = self.layers[-1]
        sampler = output.sampler
        tables = n_candidates is None and sampler is not None and sampler.retrieves
        with self._exclusive("predict"):
            data = Data(self._features(x))
            if not exact and output.by_feature:
                raise ValueError(
                    f"exact=False: {output!r} has sparse features as its input; a dense input is "
                    f"needed: put a hidden layer between, or Input(..., sparse=False)"
                )
            self._settle()
            scores = np.empty((data.n, units), np.float32) if top_k is None else None
            with self._kernels(data, batch_size, n_threads, False) as network:
                searcher = None
                if not exact and not tables:
                    searcher = output.searcher(
                        top_k or 0,
                        n_candidates,
                        n_threads,
                        lambda: network.output_inputs(data, self.seed, self.step),
                    )
                ids, top, _ = network.predict(
                    data,
                    searcher=searcher,
                    scores=scores,
                    top_k=top_k or 0,
                    exact=exact,
                    seed=self.seed,
                    step=self.step,
                )
            return scores if top_k is None else (ids, top)

    def choose_sampler(
        self, x: Any, *, n: int = 512, n_jobs: int | None = -1, **options: Any
    ) -> tuning.Choice:
        """Measure hash families on the output layer as it is, and recommend a sampler for it.

        Nothing of the model changes: `set_sampler` gives the layer what is recommended, and
        `slide.callbacks.ChooseSampler` does both while it trains.

        Parameters
        ----------
        x : sparse matrix or array-like, shape (n_samples, n_features)
        n : int
            Rows of `x` that are looked at, the first ones.
        n_jobs : int or None
            As in `fit`.
        **options
            Of `slide.tuning.choose`: `max_active`, `k`, `recall`, `families`, `batch_size`,
            `random_state`.

        Returns
        -------
        slide.tuning.Choice
            Print it for a table with the reason; its `sampler` is the recommendation.

        Raises
        ------
        RuntimeError
            Before the model is built or compiled, or if a callback calls it between batches;
            ``on_epoch_end`` may.
        ValueError
            If the output layer is the only one, an option is out of range, or `x` is not what
            `predict` would take.
        """
        n = check.check_positive_int("n", n)
        n_threads = _n_threads(n_jobs)
        if len(self.layers) < 2:
            raise ValueError("the model has one layer: hash tables need a layer below it")
        if not self.built or self.input is None or self.loss is None:
            raise RuntimeError("choose_sampler before training: call fit first")
        with self._exclusive("choose_sampler"):
            features = check.check_features(x, self.input.n_features, "x")
            check.check_has_rows(features)
            inputs, bias = self._output_inputs(sliceable(features)[:n], n_threads)
            weights = self.layers[-1]._weights[:, : inputs.shape[1]]
            return tuning.choose(weights, inputs, bias, n_queries=n, n_jobs=n_jobs, **options)

    def set_sampler(self, sampler: Any) -> None:
        """Give the output layer another sampler; weights and the optimizer's state stay.

        Its tables are built before the next step. What the old one counted, how often neurons were
        labels, is counted anew.

        Parameters
        ----------
        sampler : Sampler or "auto"

        Raises
        ------
        RuntimeError
            If a callback calls it between batches; ``on_epoch_end`` may.
        TypeError
            If it is no sampler.
        ValueError
            If the output layer has no sampler, or this one does not suit it. Nothing is changed
            then.
        MemoryError
            If its tables would not fit into the memory that is available.

        Examples
        --------
        >>> import slide
        >>> layers = [slide.Input(9), slide.Dense(5), slide.Dense(900, "softmax", sampler="auto")]
        >>> model = slide.Sequential(layers)
        >>> model.set_sampler(slide.sampling.LSH("simhash", max_active=20))
        """
        new = sampling.get(sampler)
        with self._exclusive("set_sampler"):
            if not self.layers:
                raise ValueError("the model has no layers")
            layer = self.layers[-1]
            if layer.sampler is None:
                raise ValueError(f"{layer!r} computes all neurons: it has no sampler to replace")
            if not new.for_output:
                raise ValueError(f"{new!r} is for hidden layers, {layer!r} is the output layer")
            if self.update == "hogwild" and new.needs_batch:
                raise ValueError(f"{new!r} looks at whole batches; update must be 'batch'")
            if self._kernels_in_use:
                raise RuntimeError("set_sampler between batches: on_epoch_end can")
            self._settle()
            layer.set_sampler(new)
            self._network = None

    def diagnose(
        self, x: Any, y: Any = None, k: int = 10, n: int = 256, n_jobs: int | None = -1
    ) -> telemetry.Diagnosis:
        """Measure how well samplers find the neurons that matter, and say what to change.

        Nothing of the model changes. Tables are those that the last step left.

        Parameters
        ----------
        x : sparse matrix or array-like, shape (n_samples, n_features)
        y : sparse matrix or array-like, optional
            Labels, as in `fit`, for the share of them that is found.
        k : int
            How many of the largest activations should be found; at most the neurons of the
            smallest layer with a sampler.
        n : int
            Rows of `x` that are looked at, chosen at random; all neurons are computed for each.
        n_jobs : int or None
            As in `fit`.

        Returns
        -------
        Diagnosis
            Print it for a page; ``diagnosis["layer's name"]`` has the numbers.

        Raises
        ------
        RuntimeError
            Before training, or if a callback calls it between batches; ``on_epoch_end`` may.
        ValueError
            If no layer has a sampler, an argument is out of range, or `x` or `y` is not what `fit`
            would take.
        """
        k = check.check_positive_int("k", k)
        n = check.check_positive_int("n", n)
        n_threads = _n_threads(n_jobs)
        sampled = [(i, layer) for i, _, layer in telemetry.sampled_layers(self.layers)]
        if not sampled:
            raise ValueError("no layer has a sampler: there is nothing to diagnose")
        for _, layer in sampled:
            if k > layer.units:
                raise ValueError(f"k={k} of the {layer.units} neurons of layer {layer.name!r}")
        if not self.built or self.input is None:
            raise RuntimeError("diagnose before training: call fit first")
        with self._exclusive("diagnose"):
            for _, layer in sampled:
                if (active := layer._active) is not None:
                    active = getattr(active, "active", active)
                    n_threads = min(n_threads, layer._active_threads)  # more would make new tables
                if getattr(layer.sampler, "retrieves", False) and (
                    telemetry.retrieving(layer) is None or not active.maintenance()["hashed_codes"]
                ):
                    raise RuntimeError(
                        f"layer {layer.name!r} has no tables before training: call fit first"
                    )
            features = check.check_features(x, self.input.n_features, "x")
            check.check_has_rows(features)
            labels = None
            if y is not None:
                loss = "categorical_crossentropy" if self.loss is None else self.loss.name
                units = self.layers[-1].units
                labels = check.check_targets(y, features.shape[0], units, loss, "y")
            rng = np.random.default_rng([self.seed, self.step])
            rows = np.sort(rng.permutation(features.shape[0])[:n])
            labels = None if labels is None else sliceable(labels)[rows]
            data = Data(self._features(sliceable(features)[rows]))
            with self._kernels(data, 256, n_threads, False) as network:
                inputs = network.inputs(data, self.seed)
                return telemetry.Diagnosis(
                    [
                        telemetry.diagnose_layer(
                            layer,
                            inputs[i],
                            labels if layer is self.layers[-1] else None,
                            data.n,
                            k,
                            n_threads,
                            self._clocks,
                            i,
                            self.step,
                        )
                        for i, layer in sampled
                    ]
                )

    # Files ----------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Return the layers' configuration as values that JSON can hold."""
        return {
            "seed": self.seed,
            "input": None if self.input is None else self.input.get_config(),
            "layers": [layer.get_config() for layer in self.layers],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Sequential:
        """Return a model with new weights from what `get_config` gave."""
        model = cls(seed=config["seed"])
        if config["input"] is not None:
            model.add(Input(**config["input"]))
        for layer in config["layers"]:
            model.add(Dense(**layer))
        return model

    def save(self, path: Any) -> None:
        """Write the model to a file: weights, optimizer state, tables and training position.

        Moves that rows have missed are made first, see `slide.optimizers`. A model without weights
        gets them, for sparse rows unless its `Input` has ``sparse=False``.

        A loaded model goes on training as this one would, bit for bit in batch mode or with one
        thread. An index that `predict` has made is in the file as well, with about 80 bytes a
        neuron, and the loaded model uses it. The file (safetensors), with check sums that `load`
        compares, is written beside what `path` leads to, links followed, and then renamed, with the
        old file's mode: a crash leaves the old file.

        Metrics of a class of your own are left out, with a warning; give them to `compile` again.

        `pickle`, `copy.deepcopy` and ``joblib.dump`` keep the same, and all metrics, schedules,
        initializers and other parts of classes of your own; but a pickle can run anything when it
        is loaded, and this file nothing.

        Parameters
        ----------
        path : str or path

        Raises
        ------
        OSError
            If the file cannot be written; one that was there is as it was.
        RuntimeError
            While another thread uses the model.
        ValueError
            If the optimizer, the loss, a sampler or another part is of a class that is not slide's,
            which a file could not name; if the output layer or a metric is one that `compile` would
            refuse; or `path` is empty, a pipe or a device.
        """
        with self._exclusive("save"):
            self.build()
            self._check_compiled()  # what `load` would refuse
            self._settle()
            saving.save(self, path)

    def __reduce__(self) -> Any:
        """For `pickle` and `copy`: what `save` writes, built and compiled or not.

        A copy made between epochs has no part in the `fit` under way.
        """
        with self._exclusive("pickle"):
            self._settle()
            config, arrays = saving.describe(self)
            # As objects, which may be of classes that no name leads to.
            for described, layer in zip(config["model"]["layers"], self.layers, strict=True):
                for part in (
                    "sampler",
                    "kernel_initializer",
                    "bias_initializer",
                    "kernel_regularizer",
                ):
                    described[part] = getattr(layer, part)
            if config["compiled"] is not None:
                config["compiled"].update(optimizer=self.optimizer, loss=self.loss)
            config, metrics = copy.deepcopy((config, self.metrics))
            return saving.restore, (type(self), config, arrays, metrics)

    @classmethod
    def load(cls, path: Any) -> Sequential:
        """Return the model that `save` wrote to `path`.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is damaged, not one of ours, or has a layer or another part that is refused, as a
            sampler may be that an earlier version took; the message names the part. Weights and
            other arrays can be read with ``safetensors.safe_open`` even then, by names as
            ``"layers.0.weights"``.
        """
        return saving.load(cls, path)


def _print_table(rows: list[tuple[str, ...]], print_fn: Any) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print_fn("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


def load(path: Any) -> Sequential:
    """Return the model in a file; see `Sequential.load`."""
    return Sequential.load(path)
