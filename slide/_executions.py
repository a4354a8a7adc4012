"""Training data as a sequence of executions: some batches for one call into the kernels."""

from __future__ import annotations

import math
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from slide import _validation as check

if TYPE_CHECKING:
    from slide._kernels.network import Data
    from slide.models import Sequential

LOOKED_AT = 256
"""Rows of the training data on which an output layer's hash family is chosen."""

EXECUTION_SECONDS = 0.25
"""With ``steps_per_execution="auto"``: how long Python waits for the kernels at a time."""

END = object()
"""Instead of a batch: there are no more before all start anew."""


class Execution:
    """Some batches for one call into the kernels.

    train : function from the learning rates, one a batch, to what `Network.train` returns
    """

    rates: np.ndarray

    def __init__(self, model: Sequential, train: Any, n_batches: int, n_samples: int):
        self.model, self.n_batches, self.n_samples = model, n_batches, n_samples
        self._train = train

    def run(self) -> Any:
        # Asked for now: a callback may have set the learning rate for this execution.
        self.rates = _rates(self.model, self.n_batches)
        return self._train(self.rates)


class Rows:
    """Training data in memory."""

    def __init__(
        self,
        model: Sequential,
        x: Any,
        data: Data,
        targets: Any,
        batch_size: int,
        shuffle: bool,
        steps_per_epoch: int | None,
        n_threads: int,
        seed: int,
    ):
        self.model, self.x, self.data, self.targets = model, x, data, targets
        self.batch_size, self.shuffle, self.seed = min(batch_size, data.n), shuffle, seed
        self.n_threads = n_threads
        most = math.ceil(data.n / self.batch_size)
        self.steps = most if steps_per_epoch is None else min(steps_per_epoch, most)
        if steps_per_epoch is not None and steps_per_epoch > most:
            _warn_of_steps(steps_per_epoch, most)
        self._batches_of_all = most
        self._seconds_a_batch = 0.0

    def _steps_of_epoch(self) -> tuple[int, int]:
        """Return the numbers of the next epoch's first step and of the one after its last.

        It begins where the epochs before have stopped, those of other calls too: a model that is
        loaded goes on as it would have.
        """
        at = self.model.epochs_trained * self.steps
        return at, at + self.steps

    @property
    def samples(self) -> int:
        """Samples of the next epoch: fewer if it has the last batch of the rows, which is short."""
        at, stop = self._steps_of_epoch()
        most = self._batches_of_all
        lacking = most * self.batch_size - self.data.n
        return self.steps * self.batch_size - (stop // most - at // most) * lacking

    def prepare(self) -> None:
        """Show metrics the targets, which are all of the training data's."""
        for metric in self.model.metrics:
            if hasattr(metric, "prepare"):
                metric.prepare(self.targets)

    def begin(self) -> None:
        """Nothing can be wrong any more: weights that depend on the first data may be set."""
        self.model._start_biases(self.targets)

    def some(self, rng: np.random.Generator) -> Any:
        """Return rows for a look at what the model does with them."""
        x = sliceable(self.x.tocsr()) if sp.issparse(self.x) else np.asarray(self.x)
        n = self.data.n
        return x[np.sort(rng.choice(n, min(n, LOOKED_AT), replace=False))]

    def _batches(self) -> int:
        steps = self.model.steps_per_execution
        if steps != "auto":
            return steps
        if self._seconds_a_batch == 0:
            return 1
        return max(1, min(10_000, round(EXECUTION_SECONDS / self._seconds_a_batch)))

    def epoch(self) -> Iterator[Execution]:
        model, most = self.model, self._batches_of_all
        at, stop = self._steps_of_epoch()
        rows, times = np.empty(0, np.int64), -1
        with model._kernels(self.data, self.batch_size, self.n_threads, True) as network:
            while at < stop:
                if times != at // most:
                    times = at // most
                    rows = self._order(times)
                n_batches = min(self._batches(), stop - at, most - at % most)
                first = at % most * self.batch_size
                part = rows[first : first + n_batches * self.batch_size]

                def train(rates: np.ndarray, part: np.ndarray = part) -> Any:
                    started = time.perf_counter()
                    result = network.train(
                        self.data,
                        part,
                        rates,
                        model.seed,
                        model._position,
                        model._first_step,
                        model.update == "hogwild",
                        model.staleness,
                    )
                    self._seconds_a_batch = (time.perf_counter() - started) / len(rates)
                    return result

                yield Execution(model, train, n_batches, len(part))
                at += n_batches

    def _order(self, times: int) -> np.ndarray:
        """Return the rows in the order in which they come after so many times."""
        rows = np.arange(self.data.n, dtype=np.int64)
        if self.shuffle:
            np.random.default_rng([self.seed, times]).shuffle(rows)
        return rows


class Batches:
    """Training data that comes in batches, each one step."""

    def __init__(self, model: Sequential, batches: Any, steps: int | None, n_threads: int):
        if not isinstance(batches, Iterable):
            raise TypeError(
                f"x must be an array, a sparse matrix or an iterable of batches, "
                f"got {type(batches).__name__}"
            )
        for layer in model.layers:
            if layer.biases_wait or (
                not layer.built and layer.use_bias and layer.bias_initializer.needs_label_counts
            ):
                raise ValueError(f"bias_initializer of {layer!r} needs x and y as arrays")
        self.model, self.batches, self.steps, self.n_threads = model, batches, steps, n_threads
        self.samples = None
        self.tunes = False  # whether `some` may be asked for rows
        self._iterator: Any = None
        self._last: deque[Any] = deque()  # features of the last rows: copies

    def prepare(self) -> None:
        """Nothing is known before the first batch."""

    begin = prepare

    def _remember(self, x: Any, n: int) -> None:
        x = sliceable(x) if sp.issparse(x) else x
        rng = np.random.default_rng([self.model.seed, self.model.step])
        self._last.append(x[np.sort(rng.choice(n, min(n, LOOKED_AT), replace=False))])
        extra = sum(rows.shape[0] for rows in self._last) - LOOKED_AT
        while extra > 0:
            first = self._last.popleft()
            if first.shape[0] > extra:
                self._last.appendleft(first[np.arange(extra, first.shape[0])])
            extra -= first.shape[0]

    def some(self, rng: np.random.Generator) -> Any:
        """Return rows for a look at what the model does with them; None: there are none."""
        if not self._last:
            return None
        return sp.vstack([sp.csr_array(rows) for rows in self._last], format="csr")

    def _next(self) -> Any:
        """Return the next batch, `END` after the last one; then they start anew."""
        if self._iterator is None:
            self._iterator = iter(self.batches)
        try:
            return next(self._iterator)
        except StopIteration:
            self._iterator = None
            return END

    def epoch(self) -> Iterator[Execution]:
        remembers = self.tunes and self.model._chooses
        if not remembers:
            self._last.clear()
        goes_on = self._iterator is not None  # in the middle of the batches
        for i in range(self.steps if self.steps is not None else 1 << 62):
            batch = self._next()
            if batch is END and goes_on:
                batch, goes_on = self._next(), False
            if batch is END:
                if self.steps is not None and i:
                    _warn_of_steps(self.steps, i)
                return
            if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
                raise ValueError(f"batch {i} of x must be (x, y) or (x, y, sample_weight)")
            names = (f"batch {i}: x", f"batch {i}: y", f"batch {i}: sample_weight")
            x, y, weights = (*batch, None)[:3]
            x, y, weights = self.model._checked(x, y, weights, names)
            data = self.model._data(x, y, weights)
            if remembers:
                self._remember(x, data.n)

            # Not while the next batch is made, for which the model may be asked.
            with self.model._kernels(data, data.n, self.n_threads, True) as network:

                def train(rates: np.ndarray, data: Data = data, network: Any = network) -> Any:
                    return network.train(
                        data,
                        np.arange(data.n, dtype=np.int64),
                        rates,
                        self.model.seed,
                        self.model._position,
                        self.model._first_step,
                        self.model.update == "hogwild",
                        self.model.staleness,
                    )

                yield Execution(self.model, train, 1, data.n)


def sliceable(matrix: Any) -> Any:
    """Return it with index arrays of one type: old SciPy takes no rows of what the kernels want."""
    if not sp.issparse(matrix):
        return matrix
    return type(matrix)((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape)


def _rates(model: Sequential, n: int) -> np.ndarray:
    """Return the learning rates of the next n steps, counted from where the optimizer started."""
    assert model.optimizer is not None
    schedule, made = model.optimizer.learning_rate, model.step - model._first_step
    rates = np.array([schedule(made + i) for i in range(n)], dtype=np.float64)
    if not (np.isfinite(rates) & (rates >= 0) & (rates <= 1e10)).all():
        at = int(np.argmin(np.isfinite(rates) & (rates >= 0) & (rates <= 1e10)))
        raise ValueError(
            f"learning_rate is {rates[at]} at step {model.step + at}; it must be in [0, 1e10]"
        )
    return rates.astype(np.float32)


def _warn_of_steps(wanted: int, there: int) -> None:
    warnings.warn(
        f"steps_per_epoch={wanted}, but there are only {there} batches: the epoch ends after them",
        stacklevel=2,
    )


def hold_out(x: Any, y: Any, weights: Any, fraction: float) -> tuple[Any, Any]:
    """Return (x, y, weights) of the first and of the last rows, as Keras splits.

    All were checked: x and y have the forms of `slide._validation`.
    """
    n = x.shape[0]
    at = math.floor(n * (1 - fraction))
    if not 0 < at < n:
        raise ValueError(f"validation_split={fraction} of {n} rows leaves one part empty")

    def rows(array: Any, part: slice) -> Any:
        # Back in that form, which SciPy does not keep.
        return check.check_features(sliceable(array)[part], array.shape[1])

    first, last = (
        (rows(x, part), rows(y, part), None if weights is None else weights[part])
        for part in (slice(None, at), slice(at, None))
    )
    return first, last
