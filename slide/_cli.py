"""What the commands of ``python -m slide`` do; their arguments are in ``slide/__main__.py``."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import os
import re
import shlex
import sys
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from joblib import effective_n_jobs

from slide import callbacks, data, hashing, initializers, metrics, optimizers, sampling
from slide._files import check_writable, is_stream, written
from slide.data.xmc import BOM, HEADER, MOST_IDS
from slide.layers import Dense, Input
from slide.models import Sequential, load

ROWS_AT_ONCE = 1 << 14  # points predicted between two writes
DEMO_MODEL = "wordnet.slide"  # where the demo's model is unless said otherwise
WORDS = 5  # labels shown for a definition
LINE = 100  # characters
# What a reader says of ids that are too large for a model, but not for what the file itself says.
BEYOND = re.compile(r"a (label|feature) id is outside 0 to \d+, found '(\d+)|more than n_(\w+)s=")
QUESTIONS = (
    "a large wild cat with a striped coat",
    "a vehicle that flies through the air and carries passengers",
    "to move quickly on foot",
    "a person who plays music for money",
    "a feeling of great happiness",
)


# Commands ---------------------------------------------------------------------------------


def demo(options: Any) -> None:
    """Train on WordNet, then answer definitions by words."""
    path = Path(options.output)
    wordnet = data.load_wordnet()
    questions = options.ask or QUESTIONS
    features = wordnet.vectorize(questions)
    for question, known in zip(questions, np.diff(features.indptr), strict=True):
        if not known:
            raise ValueError(f"--ask {question!r}: none of its words is in WordNet's definitions")
    if options.ask and path.exists():
        model = load(path)
        _check_demo_model(model, wordnet, path)
        print(f"Model: {path}, trained for {model.epochs_trained} epochs.")
    else:
        model = _train_demo(wordnet, path, options)
    ids, scores = model.predict(features, top_k=WORDS, n_jobs=options.n_jobs)
    for question, labels, shares in zip(questions, ids, scores, strict=True):
        print(f'\n"{question}"')
        for i, share in zip(labels, shares, strict=True):
            line = f"  {share:5.3f}  {wordnet.label(i):24} {wordnet.gloss(i)}"
            print(line if len(line) <= LINE else line[: LINE - 3].rstrip() + "...")
    if not options.ask:
        where = "" if options.output == DEMO_MODEL else f" --output {shlex.quote(options.output)}"
        print(f'\nYour own: python -I -m slide demo{where} --ask "a machine for writing"')


def _check_demo_model(model: Sequential, wordnet: Any, path: Path) -> None:
    assert model.input is not None
    found = model.input.n_features, model.layers[-1].units
    wanted = wordnet.X_train.shape[1], wordnet.Y_train.shape[1]
    if found != wanted:
        raise ValueError(
            f"{path}: a model of {found[0]} features and {found[1]} labels, not the demo's "
            f"{wanted[0]} and {wanted[1]}; name another file by --output"
        )


def _train_demo(wordnet: Any, path: Path, options: Any) -> Sequential:
    n, n_features = wordnet.X_train.shape
    n_test, n_labels = wordnet.Y_test.shape
    _say(
        f"WordNet 3.0: {n:,} definitions to learn from and {n_test:,} to test with.\n"
        f"The task: file a definition under its categories, {n_labels:,} in all.\n"
        f"Threads: {effective_n_jobs(options.n_jobs)}. Ctrl-C stops early and saves.\n\n"
    )
    _check_output(options.output)
    model = network(n_features, n_labels, seed=options.seed)
    model.compile(optimizers.Adam(2e-3), metrics=["P@1", "P@3", "P@5"])
    held = wordnet.X_test, wordnet.Y_test
    history, seconds = _fit(
        model, wordnet.X_train, wordnet.Y_train, held, path, options, batch_size=256, quiet=False
    )
    logs = {name: values[-1] for name, values in history.items()}
    active = logs["active_fraction"]
    _say(
        f"\nOn the {n_test:,} test definitions: "
        + ", ".join(f"P@{k} {logs[f'val_precision@{k}']:.1%}" for k in (1, 3, 5))
        + f"\nTime: {seconds:.0f} s, the tests after every epoch included."
        f"\nNeurons computed for a definition in training: {active * n_labels:,.0f} of "
        f"{n_labels:,} ({active:.1%})."
        f"\nModel saved: {path} ({path.stat().st_size / 1e6:.0f} MB)\n"
    )
    return model


def train(options: Any) -> None:
    """Train a network on a file and save it."""
    _check_output(options.output, options.data, options.validation)
    x, y = read(options.data, options.format, options.n_features, options.n_labels, options.cache)
    if x.shape[1] == 0 or y.shape[1] == 0:
        raise ValueError(f"{options.data}: no {'labels' if x.shape[1] else 'features'} in it")
    if x.nnz == 0:
        raise ValueError(f"{options.data}: no features in it")
    _check_labels(options.data, y)
    if y.shape[1] == 1 and options.loss == "softmax":
        raise ValueError(
            f"{options.data}: a softmax of one label is always 1; say --loss bce, or --n-labels 2"
        )
    held = None
    if options.validation is not None:
        held = _read_alike(options.validation, options, x.shape[1], y.shape[1])
        _check_labels(options.validation, held[1])
    model = network(
        x.shape[1], y.shape[1], options.hidden, options.loss, options.sampler, options.seed
    )
    loss = "categorical_crossentropy" if options.loss == "softmax" else "binary_crossentropy"
    adam = optimizers.Adam(options.learning_rate, lazy=options.lazy)
    model.compile(adam, loss, metrics=_metrics(y.shape[1]))
    if not options.quiet:
        _say(f"{x.shape[0]:,} points, {x.shape[1]:,} features, {y.shape[1]:,} labels\n")
        model.summary(lambda line: _say(f"{line}\n"))
    output = Path(options.output)
    _fit(model, x, y, held, output, options, batch_size=options.batch_size, quiet=options.quiet)
    if not options.quiet:
        _say(f"Model saved: {output}\n")


def evaluate(options: Any) -> None:
    """Print a model's loss and metrics on a file."""
    model = load(options.model)
    if model.loss is None:
        raise ValueError(f"{options.model}: the model was saved before compile, it has no loss")
    assert model.input is not None
    n_features, n_labels = model.input.n_features, model.layers[-1].units
    k = min(5, n_labels)
    scores = _metrics(n_labels) + [metrics.NDCGAtK(k)] * (n_labels > 1)
    if options.training_data is not None:
        if n_labels == 1:
            raise ValueError(f"--training-data: {options.model} has one output, nothing is ranked")
        _, labels = _read_alike(options.training_data, options, n_features, n_labels)
        _check_labels(options.training_data, labels)
        a, b = options.propensity
        scores.append(metrics.PSPAtK(k, A=a, B=b).prepare(labels))
    x, y = _read_alike(options.data, options, n_features, n_labels)
    _check_labels(options.data, y)
    model.metrics = scores
    for name, value in model.evaluate(x, y, n_jobs=options.n_jobs).items():
        print(f"{name:12} {value:.4f}")


def predict(options: Any) -> None:
    """Write the best labels of every point of a file."""
    model = load(options.model)
    assert model.input is not None
    units = model.layers[-1].units
    top_k = min(5, units) if options.top_k is None else options.top_k
    if top_k > units:
        raise ValueError(f"--top-k {top_k}: the model has {units} labels")
    sampler = model.layers[-1].sampler
    if options.approximate and (sampler is None or not sampler.retrieves):
        raise ValueError(f"--approximate: {options.model} has no hash tables")
    if options.output is not None:
        _check_output(options.output, options.model, options.data, stream=True)
    x, _ = _read_alike(options.data, options, model.input.n_features, None)
    with _output(options.output) as out:
        for at in range(0, x.shape[0], ROWS_AT_ONCE):
            ids, scores = model.predict(
                x[at : at + ROWS_AT_ONCE],
                top_k=top_k,
                exact=not options.approximate,
                n_jobs=options.n_jobs,
            )
            for labels, values in zip(ids.tolist(), scores.tolist(), strict=True):
                pairs = zip(labels, values, strict=True)
                out.write(" ".join(f"{i}:{value:.6g}" for i, value in pairs if i >= 0) + "\n")


def cache(options: Any) -> None:
    """Print the size of the cache, and empty it if asked."""
    info = data.clear_cache() if options.clear else data.cache_info()
    files = f"{info.n_files:,} file{'' if info.n_files == 1 else 's'}"
    removed = " removed" if options.clear else ""
    print(f"{info.directory}: {files}, {info.n_bytes / 1e6:,.1f} MB{removed}")


# Parts ------------------------------------------------------------------------------------


def network(
    n_features: int,
    n_labels: int,
    hidden: Any = (128,),
    loss: str = "softmax",
    sampler: Any = "auto",
    seed: int = 0,
) -> Sequential:
    """Return the network that the commands train."""
    if sampler == "none":
        sampler = None
    elif sampler != "auto":
        sampler = _mixture(sampler, n_labels)
    # Rows of text features have length 1 and few entries: weights of a size that suits the number
    # of all features would leave the first activations near 0.
    first = initializers.RandomUniform(-0.1, 0.1)
    layers: list[Any] = [Input(n_features)]
    for i, units in enumerate(hidden):
        start = first if i == 0 else "glorot_uniform"
        layers.append(Dense(units, activation="relu", kernel_initializer=start))
    layers.append(
        Dense(
            n_labels,
            activation="softmax" if loss == "softmax" else "sigmoid",
            sampler=sampler,
            bias_initializer="label_log_odds",
        )
    )
    return Sequential(layers, seed=seed)


def _mixture(counts: list[int], n_labels: int) -> sampling.Mixture:
    retrieved, frequent, random = counts
    if frequent + random > n_labels or retrieved > n_labels:
        raise ValueError(
            f"--sampler {retrieved},{frequent},{random}: the data has {n_labels} labels"
        )
    parts: list[sampling.Sampler] = []
    if retrieved:
        parts.append(sampling.LSH(hashing.Clusters(), max_active=retrieved))
    if frequent:
        parts.append(sampling.Frequent(frequent))
    if random:
        parts.append(sampling.Uniform(random, shared=False))
    return sampling.Mixture(parts)


def _fit(
    model: Sequential,
    x: Any,
    y: Any,
    held: Any,
    output: Path,
    options: Any,
    *,
    batch_size: int,
    quiet: bool,
) -> tuple[dict[str, list[float]], float]:
    """Train and save; return the history and the time in seconds. Ctrl-C saves, too."""
    started = time.perf_counter()
    try:
        history = model.fit(
            x,
            y,
            batch_size=batch_size,
            epochs=options.epochs,
            verbose=0,
            callbacks=None if quiet else [Table()],
            validation_data=held,
            n_jobs=options.n_jobs,
        )
    except KeyboardInterrupt:
        if model.step == 0:
            raise
        _save(model, output)
        raise KeyboardInterrupt(f"{output} has the model of step {model.step}") from None
    seconds = time.perf_counter() - started
    _save(model, output)
    return history.history, seconds


class Table(callbacks.Callback):
    """Prints a line an epoch and, on a terminal, how far the epoch is."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.headed = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if logs and sys.stdout.isatty():
            done = logs["samples"] / self.params["samples"]
            _say(f"\r{done:6.0%} of the epoch, loss {logs['loss']:.4f} ")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs = logs or {}
        cells = {"epoch": f"{epoch + 1}/{self.params['epochs']}", "loss": f"{logs['loss']:.4f}"}
        for name, value in logs.items():
            if name == "val_loss":
                cells["val loss"] = f"{value:.4f}"
            elif name.startswith("val_precision@"):
                cells[f"P@{name[14:]}"] = f"{value:.1%}"
            elif name == "val_accuracy":
                cells["accuracy"] = f"{value:.1%}"
        cells["points/s"] = f"{logs['samples_per_second']:,.0f}"
        cells["computed"] = f"{logs['active_fraction']:.1%}"
        text = "\r" + " " * 40 + "\r" if sys.stdout.isatty() else ""
        if not self.headed:
            self.headed = True
            text += "  ".join(name.rjust(9) for name in cells) + "\n"
        _say(text + "  ".join(cell.rjust(9) for cell in cells.values()) + "\n")


def _say(text: str) -> None:
    """Print while a file is made, which goes on if nobody reads any more."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _metrics(n_labels: int) -> list[Any]:
    if n_labels == 1:  # there is nothing to rank
        return [metrics.Accuracy()]
    return [metrics.PrecisionAtK(k) for k in sorted({min(k, n_labels) for k in (1, 3, 5)})]


def read(
    path: str, kind: str, n_features: int | None, n_labels: int | None, cache: bool = False
) -> tuple[Any, Any]:
    """Return the features and labels of a file.

    Parameters
    ----------
    path : str
    kind : {"auto", "xmc", "svmlight"}
        ``"auto"``: XMC if the first line has three counts.
    n_features, n_labels : int or None
        Columns of the matrices; None: as the file says or shows.
    cache : bool
        Whether to keep the matrices in a binary file, and to take them from there.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        x, y = _read(path, kind, n_features, n_labels, cache)
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)
    if x.shape[0] == 0:
        raise ValueError(f"{path}: no points in it")
    return x, y


def _read_alike(path: str, options: Any, n_features: int, n_labels: int | None) -> tuple[Any, Any]:
    """Read a file that must have no larger ids than the one that a model is trained on."""
    try:
        return read(path, options.format, n_features, n_labels, options.cache)
    except ValueError as error:
        beyond = BEYOND.search(str(error))
        if beyond is None or int(beyond[2] or 0) >= MOST_IDS:  # no model has as many
            raise
        option = f"--n-{beyond[1] or beyond[3]}s"
        raise ValueError(f"{error}; train with {option} larger than all ids") from None


def _check_labels(path: str, y: Any) -> None:
    if y.nnz == 0:
        raise ValueError(f"{path}: no labels in it")


def _read(
    path: str, kind: str, n_features: int | None, n_labels: int | None, cache: bool
) -> tuple[Any, Any]:
    guessed = kind == "auto"
    if guessed:
        if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
            # A look at the first line would take it from the reader.
            raise ValueError(f"{path} can be read once only: say --format xmc or svmlight")
        kind = "xmc" if HEADER.fullmatch(_first_line(path)) else "svmlight"
    if kind == "xmc":
        x, y = data.read_xmc(path, n_features=n_features, n_labels=n_labels, cache=cache)
    else:
        try:
            # Ids as they stand: counting from 1 in one file and from 0 in the next, because
            # feature 0 happens to be missing there, would shift all features by one.
            x, y = data.read_svmlight(
                path,
                n_features=n_features,
                n_labels=n_labels,
                zero_based=True,
                cache=cache,
            )
        except ValueError as error:
            if not guessed:
                raise
            raise ValueError(
                f"{error} (read as svmlight: the first line is no 'points features labels')"
            ) from None
    return x, y


def _first_line(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            start = file.peek(6)
            if start.startswith((b"PK\x03\x04", b"\x93NUMPY")):
                raise ValueError(
                    f"{path}: an array of NumPy or SciPy, not a text; load it in Python "
                    "(numpy.load, scipy.sparse.load_npz) and give it to the model there"
                )
            if start.startswith(b"\x1f\x8b"):
                with gzip.open(file) as plain:
                    return plain.readline(256).removeprefix(BOM)
            return file.readline(256).removeprefix(BOM)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged or truncated gzip file ({error})") from None


def _check_output(output: str, *inputs: str | None, stream: bool = False) -> None:
    """Find out now, and not after the work, that a file cannot be written or is also read.

    stream : whether a pipe or a device will do
    """
    if os.path.isfile(output):
        for path in inputs:
            if path is not None and os.path.exists(path) and os.path.samefile(path, output):
                raise ValueError(f"--output {output} would replace {path}, which is read")
    if not (stream and is_stream(output)):
        check_writable(output)


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[IO[str]]:
    """Open standard output, or what `written` opens."""
    if path is None:
        yield sys.stdout
        return
    with written(path) as file, io.TextIOWrapper(file, encoding="ascii", newline="\n") as out:
        yield out


def _save(model: Sequential, output: Path) -> None:
    """Save a model, under another name if its own cannot be written any more.

    Raises
    ------
    OSError
        If it is not in `output`; the message says where it is.
    """
    try:
        model.save(output)
    except (OSError, ValueError) as error:
        for folder in (output.parent, Path()):
            other = _unused(folder / output.name)
            try:
                model.save(other)
            except (OSError, ValueError):
                continue
            raise OSError(f"{described(error)}; the model is in {other}") from None
        raise


def _unused(path: Path) -> Path:
    """Return a name like that of `path` that no file has."""
    names = (path.with_name(f"{path.stem}-{i}{path.suffix}") for i in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))


def described(error: Exception) -> str:
    """Return what an exception says, with the file's name first if there is one."""
    if not isinstance(error, OSError):
        return str(error)
    place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return f"{place}{error.strerror or error}"
