"""Training data as a sequence of executions: some batches for one call into the kernels."""

from __future__ import annotations

import math
import time
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


class Execution:
    """Some batches for one call into the kernels."""

    def __init__(self, run: Any, n_batches: int, n_samples: int, rates: np.ndarray):
        self.run, self.n_batches, self.n_samples, self.rates = run, n_batches, n_samples, rates


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
        self.samples = data.n
        if steps_per_epoch is not None:
            self.samples = min(data.n, steps_per_epoch * self.batch_size)
        self._seconds_a_batch = 0.0

    def begin(self, fits: bool) -> None:
        """Everything is checked: what depends on the first data may be set.

        fits : whether it is all of the training data, and not some more
        """
        self.model._start_biases(self.targets)
        for metric in self.model.metrics:
            if hasattr(metric, "prepare") and (
                fits or getattr(metric, "propensities", None) is None
            ):
                metric.prepare(self.targets)

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
        model = self.model
        rows = np.arange(self.data.n, dtype=np.int64)
        if self.shuffle:
            np.random.default_rng([self.seed, model.epochs_trained]).shuffle(rows)
        rows = rows[: self.samples]
        with model._kernels(self.data, self.batch_size, self.n_threads, True) as network:
            at = 0
            while at < len(rows):
                part = rows[at : at + self._batches() * self.batch_size]
                n_batches = math.ceil(len(part) / self.batch_size)
                rates = _rates(model, n_batches)

                def run(part: np.ndarray = part, rates: np.ndarray = rates) -> Any:
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

                yield Execution(run, n_batches, len(part), rates)
                at += len(part)


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

    def begin(self, fits: bool) -> None:
        """Nothing is known before the first batch."""

    def _remember(self, x: Any, n: int) -> None:
        assert self.model.input is not None
        x = check.check_features(x, self.model.input.n_features)
        x = sliceable(sp.csr_array(x)) if sp.issparse(x) else x
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

    def epoch(self) -> Iterator[Execution]:
        # An iterator goes on where the last epoch stopped; anything else starts over.
        if self._iterator is None or iter(self.batches) is not self._iterator:
            self._iterator = iter(self.batches)
        remembers = self.tunes and self.model._chooses
        if not remembers:
            self._last.clear()
        for i in range(self.steps if self.steps is not None else 1 << 62):
            try:
                batch = next(self._iterator)
            except StopIteration:
                return
            if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
                raise ValueError(f"batch {i} of x must be (x, y) or (x, y, sample_weight)")
            names = (f"batch {i}: x", f"batch {i}: y", f"batch {i}: sample_weight")
            x, y, weights = (*batch, None)[:3]
            data, _ = self.model._checked(x, y, weights, names)
            if data.n == 0:
                raise ValueError(f"batch {i} of x has no rows")
            if remembers:
                self._remember(x, data.n)
            rates = _rates(self.model, 1)

            def run(data: Data = data, rates: np.ndarray = rates) -> Any:
                with self.model._kernels(data, data.n, self.n_threads, True) as network:
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

            yield Execution(run, 1, data.n, rates)


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


def hold_out(x: Any, y: Any, sample_weight: Any, fraction: float) -> tuple[Any, Any, Any, Any]:
    """Return x, y, weights and (x, y, weights) of the last rows, as Keras splits.

    All are known to be what `fit` takes.
    """

    def rows(array: Any) -> Any:
        return array.tocsr() if sp.issparse(array) else np.asarray(array)

    x, y = rows(x), rows(y)
    n = x.shape[0]
    at = math.floor(n * (1 - fraction))
    if not 0 < at < n:
        raise ValueError(f"validation_split={fraction} of {n} rows leaves one part empty")
    weights = held = None
    if sample_weight is not None:
        sample_weight = np.asarray(sample_weight)
        weights, held = sample_weight[:at], sample_weight[at:]
    return x[:at], y[:at], weights, (x[at:], y[at:], held)
