"""What happens between executions of training: history, progress, early stops, checkpoints.

The hooks and their arguments are Keras's, with these differences:

- ``on_train_batch_begin`` and ``on_train_batch_end`` are called once per execution, which may be
  many batches, with the index of the execution's last batch in the epoch.
- Keras's older names for them, ``on_batch_begin`` and ``on_batch_end``, and its hooks of
  evaluation and prediction, ``on_test_*`` and ``on_predict_*``, are not called.
- ``model.stop_training`` is looked at after ``on_epoch_end`` only: an epoch that has begun is
  trained to its end.
- ``on_train_end`` is also called when an exception ends training after ``on_train_begin``.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import string
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from slide import _validation as check
from slide import hashing, sampling, telemetry, tuning
from slide._threads import n_threads

__all__ = [
    "CSVLogger",
    "Callback",
    "CallbackList",
    "ChooseSampler",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "ModelCheckpoint",
    "ProgressBar",
    "Telemetry",
]

Logs = dict[str, Any]


class Callback:
    """Base class: every hook does nothing.

    Attributes
    ----------
    model : Sequential
        The model in training. ``model.stop_training = True`` ends training after the epoch.
    params : dict
        ``"epochs"``, ``"samples"`` (of the epoch that begins next or is under way, None when
        unknown) and ``"verbose"``.
    """

    model: Any = None
    params: Logs

    def __init__(self) -> None:
        self.params = {}

    def set_model(self, model: Any) -> None:
        """Remember the model; called before training."""
        self.model = model

    def set_params(self, params: Logs) -> None:
        """Remember the parameters of training; called before training."""
        self.params = params

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Called before the first epoch."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Called after the last epoch with its logs, and where an exception ends training."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Called before epoch number `epoch`, counted from 0."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Called after an epoch, with its loss, its metrics and, as ``val_*``, its validation."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Called before an execution that ends with batch number `batch` of the epoch."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Called after an execution that ended with batch number `batch` of the epoch.

        `logs` has ``"loss"``, ``"active_fraction"``, ``"multiplications"``,
        ``"samples_per_second"`` and ``"samples"``, the number of samples done in this epoch.
        """


_HOOKS = (
    "on_train_begin",
    "on_train_end",
    "on_epoch_begin",
    "on_epoch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
)


class History(Callback):
    """What `fit` returns: the logs of all epochs.

    Attributes
    ----------
    history : dict of str to list
        One list a log, with one value an epoch, NaN where the epoch had no such log.
    epoch : list of int
        The epochs' numbers, counted from 0.

    Examples
    --------
    >>> history = History()
    >>> history.on_epoch_end(0, {"loss": 0.5})
    >>> history.history
    {'loss': [0.5]}
    """

    def __init__(self) -> None:
        super().__init__()
        self.history: dict[str, list[Any]] = {}
        self.epoch: list[int] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.history = {}
        self.epoch = []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        # A sampler that was changed has other logs: NaN where there was none.
        missing = [math.nan] * len(self.epoch)
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, list(missing)).append(value)
        for values in self.history.values():
            if len(values) < len(self.epoch):
                values.append(math.nan)


class CallbackList:
    """All callbacks of one training, called in order.

    A hook that no callback defines costs nothing: it is looked up once, here.

    Parameters
    ----------
    callbacks : Callback, iterable of Callback or None
        The user's. A `ProgressBar` is put before them if ``params["verbose"]`` is not 0 and they
        have none, a `History` after them if they have none.
    model : Sequential
        The model that the callbacks get.
    params : dict
        The parameters that the callbacks get; see `Callback`.

    Attributes
    ----------
    history : History
        The history among the callbacks.

    Raises
    ------
    TypeError
        If something is not a callback.

    Examples
    --------
    >>> hooks = CallbackList([LambdaCallback(on_train_begin=lambda logs: print("go"))])
    >>> hooks.on_train_begin()
    go
    """

    history: History

    def __init__(
        self,
        callbacks: Callback | Iterable[Callback] | None = None,
        model: Any = None,
        params: Logs | None = None,
    ):
        if callbacks is None:
            callbacks = []
        elif isinstance(callbacks, Callback):
            callbacks = [callbacks]
        elif not isinstance(callbacks, Iterable):
            raise TypeError(f"callbacks must be a list of Callback, got {callbacks!r}")
        self.callbacks = list(callbacks)
        for i, callback in enumerate(self.callbacks):
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks[{i}] must be a Callback, got {callback!r}")

        params = {} if params is None else params
        if params.get("verbose") and not any(isinstance(c, ProgressBar) for c in self.callbacks):
            self.callbacks.insert(0, ProgressBar())
        for callback in self.callbacks:
            if isinstance(callback, History):
                self.history = callback
                break
        else:
            self.history = History()
            self.callbacks.append(self.history)
        self._hooks = {name: self._defined(name) for name in _HOOKS}
        for callback in self.callbacks:
            callback.set_model(model)
            callback.set_params(params)

    def _defined(self, name: str) -> list[Callable[..., None]]:
        # Through the instance, as LambdaCallback puts its hooks there.
        empty = getattr(Callback, name)
        hooks = [getattr(callback, name) for callback in self.callbacks]
        return [hook for hook in hooks if getattr(hook, "__func__", hook) is not empty]

    def __iter__(self) -> Iterator[Callback]:
        return iter(self.callbacks)

    @property
    def has_batch_hooks(self) -> bool:
        """Whether any callback wants to be called between executions."""
        return bool(self._hooks["on_train_batch_begin"] or self._hooks["on_train_batch_end"])

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Call the hook of all callbacks that define it."""
        for hook in self._hooks["on_train_begin"]:
            hook(logs)

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Call the hook of all callbacks that define it."""
        for hook in self._hooks["on_train_end"]:
            hook(logs)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Call the hook of all callbacks that define it."""
        for hook in self._hooks["on_epoch_begin"]:
            hook(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Call the hook of all callbacks that define it."""
        for hook in self._hooks["on_epoch_end"]:
            hook(epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Call the hook of all callbacks that define it."""
        for hook in self._hooks["on_train_batch_begin"]:
            hook(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Call the hook of all callbacks that define it."""
        for hook in self._hooks["on_train_batch_end"]:
            hook(batch, logs)


class LambdaCallback(Callback):
    """A callback made of functions.

    Parameters
    ----------
    on_train_begin, on_train_end : callable, optional
        Called with ``(logs)``.
    on_epoch_begin, on_epoch_end : callable, optional
        Called with ``(epoch, logs)``.
    on_train_batch_begin, on_train_batch_end : callable, optional
        Called with ``(batch, logs)``.

    Raises
    ------
    TypeError
        If an argument is neither callable nor None.

    Examples
    --------
    >>> callback = LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs["loss"]))
    >>> callback.on_epoch_end(0, {"loss": 0.5})
    0 0.5
    """

    def __init__(
        self,
        on_train_begin: Callable[..., Any] | None = None,
        on_train_end: Callable[..., Any] | None = None,
        on_epoch_begin: Callable[..., Any] | None = None,
        on_epoch_end: Callable[..., Any] | None = None,
        on_train_batch_begin: Callable[..., Any] | None = None,
        on_train_batch_end: Callable[..., Any] | None = None,
    ):
        super().__init__()
        given = (
            on_train_begin,
            on_train_end,
            on_epoch_begin,
            on_epoch_end,
            on_train_batch_begin,
            on_train_batch_end,
        )
        for name, function in zip(_HOOKS, given, strict=True):
            if function is None:
                continue
            if not callable(function):
                raise TypeError(f"{name} must be callable, got {function!r}")
            setattr(self, name, function)


class _Monitor:
    """One watched log: its name, its direction and its best value so far."""

    # Parts of the names of metrics that are better when larger, and when smaller.
    LARGER = ("acc", "precision", "ndcg", "psp", "recall", "auc", "f1", "samples_per_second")
    SMALLER = ("loss", "error", "crossentropy", "mse", "mae", "active_fraction")

    def __init__(self, owner: str, name: str, mode: str, min_delta: float = 0.0):
        self.owner = owner
        if not isinstance(name, str):
            raise TypeError(f"monitor must be a log's name, got {name!r}")
        self.name = name
        mode = check.check_in("mode", mode, ("auto", "min", "max"))
        if mode == "auto":
            lowered = name.lower()
            if any(part in lowered for part in self.SMALLER):
                mode = "min"
            elif any(part in lowered for part in self.LARGER):
                mode = "max"
            else:
                raise ValueError(
                    f"mode='auto' cannot tell whether monitor={name!r} should rise or fall; "
                    f"say mode='max' or mode='min'"
                )
        self.sign = 1.0 if mode == "max" else -1.0
        self.min_delta = check.check_finite_float("min_delta", min_delta, at_least=0.0)
        self.reset()

    def reset(self) -> None:
        self.best = -self.sign * float("inf")

    def improved(self, logs: Logs | None) -> bool:
        """Return whether the log beats the best so far by min_delta; if so, remember it."""
        logs = logs or {}
        if self.name not in logs:
            available = ", ".join(sorted(logs)) or "none"
            raise ValueError(
                f"{self.owner} monitors {self.name!r}, which is not among the logs of the epoch: "
                f"{available}"
            )
        value = float(logs[self.name])
        # False for NaN.
        if self.sign * value - self.min_delta > self.sign * self.best:
            self.best = value
            return True
        return False


class EarlyStopping(Callback):
    """Stop training when a log has not improved for some epochs.

    Parameters
    ----------
    monitor : str
        The log to watch, as ``"val_loss"`` or ``"val_precision@1"``.
    min_delta : float
        The change that counts as an improvement must be larger than this, at least 0.
    patience : int
        The number of epochs without improvement after which training stops; 0 stops at the first.
    mode : {"auto", "min", "max"}
        Whether the log should fall or rise; ``"auto"`` knows by its name.
    restore_best_weights : bool
        Whether the model gets the weights of its best epoch when training ends. They are kept in
        memory as a copy.

    Attributes
    ----------
    best : float
        The best value of the log.
    best_epoch : int
        Its epoch, counted from 0.
    stopped_epoch : int or None
        The epoch after which training was stopped, None if it was not.

    Raises
    ------
    TypeError
        If an argument is of a wrong type.
    ValueError
        If an argument is out of range or, at an epoch's end, there is no such log.

    Examples
    --------
    >>> EarlyStopping(monitor="val_precision@1", patience=2).best
    -inf
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        mode: str = "auto",
        restore_best_weights: bool = False,
    ):
        super().__init__()
        self._monitor = _Monitor("EarlyStopping", monitor, mode, min_delta)
        self.patience = check.check_positive_int("patience", patience, low=0)
        self.restore_best_weights = check.check_bool("restore_best_weights", restore_best_weights)
        self._reset()

    def _reset(self) -> None:
        self._monitor.reset()
        self.best_epoch = 0
        self.stopped_epoch: int | None = None
        self._wait = 0
        self._best_weights: list[np.ndarray] | None = None

    @property
    def best(self) -> float:
        return self._monitor.best

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._reset()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self._monitor.improved(logs):
            self._wait = 0
            self.best_epoch = epoch
            if self.restore_best_weights:
                self._best_weights = [np.array(w) for w in self.model.get_weights()]
            return
        self._wait += 1
        if self._wait >= self.patience:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self._best_weights is not None:
            self.model.set_weights(self._best_weights)
            self._best_weights = None


class ModelCheckpoint(Callback):
    """Save the model after every epoch, or after the best ones.

    Parameters
    ----------
    filepath : str or path
        Where to save. It may have format fields: ``{epoch}``, counted from 1, and the logs'
        names, as in ``"model-{epoch:02d}-{val_loss:.3f}.safetensors"``. Missing directories are
        made.
    monitor : str
        The log that decides with ``save_best_only=True``.
    save_best_only : bool
        Whether only a model that is better than all before it is saved, in earlier calls of `fit`
        with this object as well.
    mode : {"auto", "min", "max"}
        Whether the log should fall or rise; ``"auto"`` knows by its name.

    Raises
    ------
    TypeError
        If an argument is of a wrong type.
    ValueError
        If an argument is out of range or, at an epoch's end, there is no log of a name in
        `monitor` or `filepath`.
    OSError
        At an epoch's end, if the file cannot be written.

    Examples
    --------
    >>> checkpoint = ModelCheckpoint("best.safetensors", "val_precision@1", save_best_only=True)
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        save_best_only: bool = False,
        mode: str = "auto",
    ):
        super().__init__()
        self.filepath = os.fspath(filepath)
        try:
            list(string.Formatter().parse(self.filepath))
        except ValueError as error:
            raise ValueError(f"filepath {self.filepath!r} is no format string: {error}") from error
        self._monitor: _Monitor | None = None
        if check.check_bool("save_best_only", save_best_only):
            self._monitor = _Monitor("ModelCheckpoint", monitor, mode)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self._monitor is not None and not self._monitor.improved(logs):
            return
        fields = {**(logs or {}), "epoch": epoch + 1}
        try:
            path = self.filepath.format(**fields)
        except (LookupError, ValueError) as error:
            available = ", ".join(sorted(fields))
            raise ValueError(
                f"filepath {self.filepath!r} cannot be filled in: {error}; its fields may be "
                f"{available}"
            ) from error
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        self.model.save(path)


class CSVLogger(Callback):
    """Write the logs of every epoch as a line of a CSV file.

    Parameters
    ----------
    filename : str or path
        The file. Its first line has the logs' names.
    separator : str
        One character between values.
    append : bool
        Whether lines are added to an existing file, which must have the same columns.

    Raises
    ------
    TypeError
        If an argument is of a wrong type.
    OSError
        If the file cannot be opened.
    ValueError
        If `separator` is not one character, or the first epoch has other logs than the file, with
        `append`, has columns.

    Notes
    -----
    The columns are the logs of the first epoch. What a later one has beside them is left out, and
    what it has not is empty.

    Examples
    --------
    >>> logger = CSVLogger("training.csv", append=True)
    """

    def __init__(
        self, filename: str | os.PathLike[str], separator: str = ",", append: bool = False
    ):
        super().__init__()
        self.filename = os.fspath(filename)
        if not isinstance(separator, str) or len(separator) != 1:
            raise ValueError(f"separator must be one character, got {separator!r}")
        if separator in '\r\n"':
            raise ValueError(f"separator {separator!r} stands for something else in such files")
        self.separator = separator
        self.append = check.check_bool("append", append)
        self._columns: list[str] | None = None
        self._checks = False

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._columns, self._checks = None, self.append
        # Opened now, so that a path that cannot be written fails before the first epoch.
        with open(self.filename, "a+" if self.append else "w+", newline="", encoding="utf-8") as f:
            f.seek(0)
            text = f.read()
            rows = csv.reader(io.StringIO(text, newline=""), delimiter=self.separator)
            self._columns = next(rows, None)
            if text and not text.endswith(("\n", "\r")):
                f.write("\n")  # where the last line has no end

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        row = {"epoch": epoch, **(logs or {})}
        if self._checks and self._columns is not None and set(row) != set(self._columns):
            raise ValueError(
                f"{self.filename} has the columns {', '.join(self._columns)}; "
                f"the logs of epoch {epoch} are {', '.join(row)}"
            )
        with open(self.filename, "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=self.separator, lineterminator="\n")
            if self._columns is None:
                self._columns = list(row)
                writer.writerow(self._columns)
            writer.writerow([row.get(name, "") for name in self._columns])
        self._checks = False


class ProgressBar(Callback):
    """Show progress: a bar an epoch (``verbose=1``), or a line an epoch (``verbose=2``).

    Bars go to the standard error stream or the notebook, lines to the standard output. With
    ``params["verbose"] == 0`` it shows nothing.

    Examples
    --------
    >>> bar = ProgressBar()
    >>> bar.set_params({"epochs": 1, "verbose": 2})
    >>> bar.on_epoch_begin(0)
    >>> bar.on_epoch_end(0, {"loss": 0.5})  # doctest: +ELLIPSIS
    Epoch 1/1: ...s, loss 0.5000
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._close()
        self._started = time.perf_counter()
        if self.params.get("verbose", 1) == 1:
            from tqdm.auto import tqdm  # here: `import slide` would wait for it

            # The rate is the trainer's own: tqdm's would count validation and callbacks.
            self._bar = tqdm(
                total=self.params.get("samples"),
                desc=self._title(epoch),
                unit=" samples",
                bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} "
                "[{elapsed}<{remaining}{postfix}]"
                if self.params.get("samples")
                else "{desc}: {n_fmt}{unit} [{elapsed}{postfix}]",
            )

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if self._bar is None or not logs:
            return
        self._bar.set_postfix_str(_describe(logs), refresh=False)
        self._bar.update(logs.get("samples", self._bar.n) - self._bar.n)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(_describe(logs or {}), refresh=False)
            self._bar.refresh()
            self._close()
        elif self.params.get("verbose", 1) == 2:
            seconds = time.perf_counter() - self._started
            parts = (f"{seconds:.1f}s", _describe(logs or {}))
            print(f"{self._title(epoch)}: {', '.join(p for p in parts if p)}", file=sys.stdout)

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._close()

    def _title(self, epoch: int) -> str:
        return f"Epoch {epoch + 1}/{self.params.get('epochs', '?')}"

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Telemetry(Callback):
    """Record how training spends its time, and how good retrieval is while it trains.

    A record has the logs of the epoch, among them those of `slide.telemetry`, and for every layer
    with tables what these return for the last inputs that the layer had in training: ``"recall"``,
    the share of the `k` largest activations that is found; with `slide.sampling.Frequent`
    ``"table_recall"``, the same without frequent labels; ``"bucket_load"`` and
    ``"largest_bucket"``, neurons of a bucket that is not empty, mean and largest;
    ``"empty_buckets"`` and ``"overfull_buckets"`` (with more neurons than a query may read), shares
    of all buckets. With several sampled layers their names and an underscore come before. At the
    end of an epoch they are put among its logs, so that the history has them.

    Parameters
    ----------
    path : str or path, optional
        A file that gets each record as a line of JSON; NaN is null. An old file is replaced.
    every : int, optional
        Batches between two records within an epoch, which come at the end of an execution (see
        ``steps_per_execution`` of `Sequential.compile`). None: only at the end of the epochs.
    k : int
        Largest activations that should be found.
    n : int
        Inputs that are looked at for a record, at most 32. All neurons are computed for each.
    plot : bool
        Whether `plot` writes a figure at the end of training, to `path` with ``.png`` added.

    Attributes
    ----------
    records : list of dict
        ``"epoch"``, ``"batch"`` (None for those at the end of an epoch), ``"step"``, ``"seconds"``
        since training began, and what is named above. Times are of the epoch so far.

    Raises
    ------
    TypeError
        If an argument is of a wrong type.
    ValueError
        If an argument is out of range, or `plot` is True without a path.
    ImportError
        If `plot` is True and there is no matplotlib.
    OSError
        If the file cannot be opened.

    Examples
    --------
    >>> telemetry = Telemetry(every=100)
    >>> telemetry.records
    []
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        every: int | None = None,
        k: int = 10,
        n: int = 32,
        plot: bool = False,
    ):
        super().__init__()
        self.path = None if path is None else os.fspath(path)
        self.every = None if every is None else check.check_positive_int("every", every)
        self.k = check.check_positive_int("k", k)
        self.n = check.check_positive_int("n", n, high=32)
        self._plots = check.check_bool("plot", plot)
        if self._plots and self.path is None:
            raise ValueError("plot=True needs a path")
        if self._plots:
            from slide import _plots

            _plots._figure()  # before training rather than after it
        self._clear()

    def _clear(self) -> None:
        self.records: list[Logs] = []
        self._started = time.perf_counter()
        self._epoch = 0
        self._next = self.every

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._clear()
        if self.path is not None:
            with open(self.path, "w", encoding="utf-8"):
                pass

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch, self._next = epoch, self.every

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if self.every is None or self._next is None or batch + 1 < self._next:
            return
        self._next = self.every * ((batch + 1) // self.every + 1)
        self._record(batch, {**(logs or {}), **self.model._phase_logs(), **self._measures()})

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = {} if logs is None else logs
        logs.update(self._measures())
        self._record(None, logs)

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self._plots and self.records:
            self.plot(f"{self.path}.png")

    def _measures(self) -> Logs:
        found: Logs = {}
        model = self.model
        for i, prefix, layer in telemetry.sampled_layers(model.layers):
            x = model._recent[i] if i < len(model._recent) else None
            # A sampler that was just set has no tables yet.
            if x is not None and telemetry.retrieving(layer) is not None:
                measured = telemetry.measures(layer, x[: self.n], self.k, 1)
                found.update({f"{prefix}{name}": value for name, value in measured.items()})
        return found

    def _record(self, batch: int | None, logs: Logs) -> None:
        record = {
            "epoch": self._epoch,
            "batch": batch,
            "step": self.model.step,
            "seconds": time.perf_counter() - self._started,
            **logs,
        }
        self.records.append(record)
        if self.path is not None:
            plain = {
                name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in record.items()
            }
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(plain, allow_nan=False, default=float) + "\n")

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw recall, times, active fraction and buckets of the records.

        Parameters
        ----------
        path : str or path, optional
            Where to write the figure, as ``"telemetry.png"``.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ImportError
            If there is no matplotlib.
        ValueError
            If there are no records.
        """
        from slide import _plots

        if not self.records:
            raise ValueError("there are no records to plot: train with this callback first")
        return _plots.plot_telemetry(self.records, self.k, path)


class ChooseSampler(Callback):
    """Look after epochs whether the output layer's sampler still finds what it should.

    At the end of an epoch the present sampler's hash family is measured on the weights and inputs
    as they are. If it finds less than `recall`, the families of `slide.tuning.choose` are measured
    too, and if one finds more than a point more, the layer gets the sampler that is recommended
    with it (`Sequential.set_sampler`). At the first look all are measured in any case; if the
    present one finds enough, another that does so in less time takes its place. Each is measured
    with as many neurons as it retrieves, or would with that sampler.

    Parameters
    ----------
    x : sparse matrix or array-like, shape (n_samples, n_features)
        Rows whose activations are looked at, the first `n`: of the validation or training set.
    recall : float
        Wanted share of the `k` largest activations, in (0, 1].
    k : int
    max_active : int or float
        Neurons of an active set, or (a float) this fraction of the layer, in (0, 1].
    every : int
        Epochs from one look to the next.
    n : int
        Rows that are looked at.
    families : iterable of HashFamily or str, optional
        To compare. None: those of `slide.tuning.candidates`.
    n_jobs : int or None
        As in `Sequential.fit`.
    verbose : int
        1 prints what was found and why a sampler was kept or changed.

    Attributes
    ----------
    looks : list of dict
        ``"epoch"``, ``"recall"`` of the sampler that the layer had (NaN if it retrieves nothing),
        ``"choice"`` (a `slide.tuning.Choice`, or None if nothing else was measured), ``"changed"``,
        and ``"seconds"`` that the look took.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range; at the first look also if `x` does not suit the model, or
        its output layer is the only one or has no sampler.

    Examples
    --------
    >>> import numpy as np
    >>> import slide
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.standard_normal((200, 20)).astype(np.float32), rng.integers(500, size=200)
    >>> output = slide.Dense(500, "softmax", sampler=slide.sampling.LSH(max_active=20))
    >>> model = slide.Sequential([slide.Input(20), slide.Dense(16, "relu"), output])
    >>> model.compile("adam", "categorical_crossentropy")
    >>> chooser = ChooseSampler(x, max_active=20)
    >>> history = model.fit(x, y, epochs=2, verbose=0, callbacks=[chooser])
    >>> [look["epoch"] for look in chooser.looks]
    [0, 1]
    """

    def __init__(
        self,
        x: Any,
        recall: float = 0.9,
        k: int = 10,
        max_active: int | float = 0.02,
        every: int = 1,
        n: int = 512,
        families: Iterable[Any] | None = None,
        n_jobs: int | None = -1,
        verbose: int = 0,
    ):
        super().__init__()
        self.x = x
        self.recall = check.check_fraction("recall", recall)
        self.k = check.check_positive_int("k", k)
        self.every = check.check_positive_int("every", every)
        self.n = check.check_positive_int("n", n)
        self.max_active: int | float = max_active
        if isinstance(max_active, float):
            check.check_fraction("max_active", max_active)
        else:
            self.max_active = check.check_positive_int("max_active", max_active)
        self.families = None
        if families is not None:
            self.families = [hashing.get(family) for family in families]
            if not self.families:
                raise ValueError("families is empty")
        n_threads(n_jobs)
        self.n_jobs = n_jobs
        self.verbose = check.check_positive_int("verbose", verbose, low=0, high=2)
        self.looks: list[Logs] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.looks = []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if epoch % self.every:
            return
        started = time.perf_counter()
        layer = self.model.layers[-1]
        if layer.sampler is None:
            raise ValueError(f"{layer!r} computes all neurons: there is no sampler to choose")
        part = sampling.lsh_of(layer.sampler, layer.units)
        now, choice = None, None
        if part is not None:
            most = part.limits(layer.units)[0]
            now = self._measure([part.hash], most, _split=False).measured[0]
        if not self.looks or now is None or now.recall < self.recall:
            choice = self._measure(self.families, self.max_active)
        changed = choice is not None and self._better(choice.measured[0], now)
        if changed:
            assert choice is not None
            self.model.set_sampler(choice.sampler)
        look = {
            "epoch": epoch,
            "recall": math.nan if now is None else now.recall,
            "choice": choice,
            "changed": changed,
            "seconds": time.perf_counter() - started,
        }
        self.looks.append(look)
        if self.verbose:
            print(self._tell(look))

    def _measure(self, families: Any, max_active: int | float, **options: Any) -> tuning.Choice:
        return self.model.choose_sampler(
            self.x,
            n=self.n,
            n_jobs=self.n_jobs,
            k=self.k,
            recall=self.recall,
            max_active=max_active,
            families=families,
            **options,
        )

    def _better(self, new: tuning.Measurement, now: tuning.Measurement | None) -> bool:
        if now is None:
            return True
        if repr(new.family) == repr(now.family):
            return False
        if now.recall < self.recall:
            return new.recall > now.recall + 0.01
        return new.recall >= self.recall and new.seconds < now.seconds

    def _tell(self, look: Logs) -> str:
        recall, choice = look["recall"], look["choice"]
        text = f"epoch {look['epoch'] + 1}: recall@{self.k} {recall:.2f}"
        if math.isnan(recall):
            text = f"epoch {look['epoch'] + 1}: nothing is retrieved"
        if choice is None:
            return f"{text}; the sampler stays"
        verb = "now" if look["changed"] else "the sampler stays; best of the others was"
        return f"{text}; {verb} {choice.reason}"


def _describe(logs: Logs) -> str:
    """Return the logs as one line: losses and metrics, then speed and activity."""
    own = ("samples", "samples_per_second", "active_fraction", "lr", "time_choice")
    parts = [
        f"{name} {value:.4f}"
        for name, value in logs.items()
        if name not in own and not name.endswith((*telemetry.LOGS, *telemetry.MEASURES, *own))
    ]
    if "samples_per_second" in logs:
        parts.append(f"{logs['samples_per_second']:,.0f} samples/s")
    if "active_fraction" in logs:
        parts.append(f"{logs['active_fraction']:.2%} active")
    return ", ".join(parts)
