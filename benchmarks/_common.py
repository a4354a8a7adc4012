"""What the benchmark scripts share: data files, worker processes, rounds, medians and tables.

Only NumPy and SciPy are needed here, so that a worker of another library, perhaps in another
interpreter, can use this module too; `slide` is imported where a worker asks for it.
"""

import argparse
import contextlib
import datetime
import functools
import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

HERE = Path(__file__).resolve().parent
PARTS = ("x_train", "y_train", "x_test", "y_test")
FIGURE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "svg.fonttype": "path",  # readers need not have the font
}
"""Matplotlib settings of the figures; with "svg.hashsalt" the same figure is the same file."""


# ---------------------------------------------------------------- the machine


def cpu_count():
    """Number of CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model():
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine():
    """Describe this machine and moment.

    Returns
    -------
    dict
        CPU model, number of usable CPUs, memory in GB, system, date and time (UTC).
    """
    memory = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return {
        "cpu": _cpu_model(),
        "cpus": cpu_count(),
        "memory_gb": memory,
        "system": f"{platform.system()} {platform.machine()}",
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="minutes"),
    }


def versions(*distributions):
    """Versions of Python, NumPy, SciPy and the given distributions in this interpreter."""
    found = {"python": platform.python_version()}
    for name in ("numpy", "scipy", *distributions):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _status_kb(field):
    with open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith(field + ":"):
                return int(line.split()[1])
    raise KeyError(field)


def peak_rss_mb():
    """Largest resident memory of this process so far, in MB (2^20 bytes).

    On Linux this is VmHWM: `ru_maxrss` of a fresh process still holds the peak of the process
    that started it.
    """
    with contextlib.suppress(OSError, KeyError):
        return _status_kb("VmHWM") / 1024
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def rss_mb():
    """Resident memory of this process now, in MB; NaN where the system does not tell."""
    with contextlib.suppress(OSError, KeyError):
        return _status_kb("VmRSS") / 1024
    return float("nan")


def reset_peak_rss():
    """Let `peak_rss_mb` start again from the memory of this moment (Linux; no-op elsewhere)."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


# ---------------------------------------------------------------- data sets


def cache_directory():
    """Directory of made data sets: SLIDE_BENCH_CACHE, or one under the temporary directory."""
    default = Path(tempfile.gettempdir()) / "slide-benchmarks"
    path = Path(os.environ.get("SLIDE_BENCH_CACHE", default))
    path.mkdir(parents=True, exist_ok=True)
    return path


def save_set(path, x_train, y_train, x_test, y_test):
    """Write four CSR matrices to one uncompressed npz file, completely or not at all."""
    arrays = {}
    for name, matrix in zip(PARTS, (x_train, y_train, x_test, y_test), strict=True):
        arrays[f"{name}_indptr"] = matrix.indptr
        arrays[f"{name}_indices"] = matrix.indices.astype(np.int32, copy=False)
        arrays[f"{name}_data"] = matrix.data.astype(np.float32, copy=False)
        arrays[f"{name}_shape"] = np.asarray(matrix.shape)
    partial = Path(f"{path}.{os.getpid()}.partial.npz")
    np.savez(partial, **arrays)
    os.replace(partial, path)


def load_set(path):
    """Read what `save_set` wrote.

    Returns
    -------
    tuple of 4 scipy.sparse.csr_matrix
        x_train, y_train, x_test, y_test; float32 values, int32 columns.
    """
    with np.load(path) as arrays:
        return tuple(
            sp.csr_matrix(
                (
                    arrays[f"{name}_data"],
                    arrays[f"{name}_indices"],
                    arrays[f"{name}_indptr"],
                ),
                shape=tuple(arrays[f"{name}_shape"]),
            )
            for name in PARTS
        )


def set_mb(*matrices):
    """Memory of CSR matrices, in MB."""
    return sum(m.data.nbytes + m.indices.nbytes + m.indptr.nbytes for m in matrices) / 2**20


def precision(y_true, top_ids, ks=(1, 3, 5)):
    """Precision at each k: the share of true labels among the first k predicted.

    Parameters
    ----------
    y_true : scipy.sparse.csr_matrix, shape (n, n_labels)
    top_ids : ndarray of int, shape (n, at least max(ks))
        Labels of each row, best first; -1 for no prediction.

    Returns
    -------
    list of float
        In per cent, one for each k.
    """
    n = y_true.shape[0]
    rows = np.arange(n)[:, None]
    keys = np.repeat(np.arange(n), np.diff(y_true.indptr)) * y_true.shape[1] + y_true.indices
    hits = np.isin(rows * y_true.shape[1] + top_ids.astype(np.int64), keys) & (top_ids >= 0)
    return [round(100 * float(hits[:, :k].mean()), 2) for k in ks]


# ---------------------------------------------------------------- slide, in a worker


FIRST = 0.1
"""The first layer starts uniform between -FIRST and FIRST, in all systems: its rows have unit norm
and few non-zeros, for which Glorot's scale by the number of features is far too small."""


def slide_model(
    n_features,
    n_labels,
    sampler,
    *,
    hidden,
    learning_rate,
    seed,
    first=FIRST,
    biases="label_log_odds",
):
    """Build and compile the network that all benchmarks train: one ReLU layer, then softmax.

    first : the bound of the first layer's weights; None: Glorot uniform
    """
    import slide

    uniform = slide.initializers.RandomUniform
    model = slide.Sequential(
        [
            slide.Input(n_features),
            slide.Dense(
                hidden,
                activation="relu",
                kernel_initializer=uniform(-first, first) if first else "glorot_uniform",
            ),
            slide.Dense(n_labels, activation="softmax", sampler=sampler, bias_initializer=biases),
        ],
        seed=seed,
    )
    model.compile(
        optimizer=slide.optimizers.Adam(learning_rate=learning_rate),
        loss="categorical_crossentropy",
    )
    return model


def slide_precision(model, x, y, threads):
    """P@1, P@3, P@5 of a slide model, computed with all neurons; in per cent."""
    ids, _ = model.predict(x, top_k=5, n_jobs=threads)
    return precision(y, ids)


def emit(record, **fields):
    """Print one JSON line for the process that started this worker."""
    print(json.dumps({"record": record, **fields}), flush=True)


# ---------------------------------------------------------------- workers and rounds


class WorkerError(RuntimeError):
    """A worker process ended with an error; the message is the end of what it printed."""


def run_worker(command, threads):
    """Run one worker to its end and return the JSON lines it printed.

    Parameters
    ----------
    command : list of str
    threads : int
        Also given to the OpenMP and BLAS pools through the environment.

    Returns
    -------
    list of dict

    Raises
    ------
    WorkerError
        If the process fails.
    """
    pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(pools, str(threads))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise WorkerError(f"exit status {done.returncode}\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def can_import(python, module):
    """Whether the interpreter `python` can import `module`, NumPy and SciPy."""
    command = [python, "-c", f"import numpy, scipy, {module}"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def _log(text):
    print(text, file=sys.stderr, flush=True)


def make_jobs(systems, threads, command):
    """Every system with every thread count, as `run_rounds` takes them.

    Parameters
    ----------
    systems : list of str
    threads : list of int
    command : callable
        From system, thread count and the round's number to the worker's command.
    """
    return [
        ({"system": name, "threads": count}, functools.partial(command, name, count))
        for name in systems
        for count in threads
    ]


def run_rounds(jobs, rounds, *, out=None, head=()):
    """Run jobs one after another in alternating rounds: A B C, A B C, ...

    A machine's speed drifts; comparing only within a round keeps the drift out of the ratios. A
    job that fails is reported and left out of later rounds.

    Parameters
    ----------
    jobs : list of (dict, callable)
        What identifies the job ("system", "threads", ...), and a function from the round's number
        to the command of its worker.
    rounds : int
    out : path, optional
        File for JSON lines, written as results arrive.
    head : iterable of dict
        Records of the caller's own that come first.

    Returns
    -------
    records : list of dict
        Every line of every worker, with its job and round; before them a line on the machine.
    failed : list of str
    """
    records, failed = [], []
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open(out, "w")) if out else None

        def keep(record):
            records.append(record)
            if file:
                file.write(json.dumps(record) + "\n")
                file.flush()

        for record in head:
            keep(record)
        keep({"record": "machine", **machine()})
        for number in range(rounds):
            for job, command in jobs:
                name = f"{job['system']}, {job['threads']} threads"
                if name in failed:
                    continue
                load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
                start = time.perf_counter()
                try:
                    lines = run_worker(command(number), job["threads"])
                except WorkerError as error:
                    failed.append(name)
                    keep({"record": "error", **job, "round": number, "error": str(error)})
                    _log(f"round {number + 1}: {name} FAILED: {error}")
                    continue
                for line in lines:
                    keep({**line, **job, "round": number, "load_before": load})
                _log(
                    f"round {number + 1} of {rounds}: {name}: "
                    f"{time.perf_counter() - start:.0f} s in all"
                )
    return records, failed


# ---------------------------------------------------------------- numbers and tables


def median(values):
    """Median without the missing values (None); None if nothing is left."""
    present = [value for value in values if value is not None]
    return statistics.median(present) if present else None


def mean(values):
    """Mean without the missing values (None); None if nothing is left."""
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present else None


def select(records, record, **fields):
    """Records of a kind whose fields have the given values."""
    return [
        line
        for line in records
        if line["record"] == record and all(line.get(k) == v for k, v in fields.items())
    ]


def by_round(records, value):
    """{round: median of `value` over the round's records}."""
    rounds = {}
    for line in records:
        rounds.setdefault(line["round"], []).append(line[value])
    return {number: median(values) for number, values in rounds.items()}


def ratio(numerator, denominator):
    """Median over the rounds that both have of numerator / denominator; None if there is none."""
    both = sorted(numerator.keys() & denominator.keys())
    return median([numerator[number] / denominator[number] for number in both])


def number(value, digits=1, unit=""):
    """A number as text; n/a where there is none."""
    return "n/a" if value is None else f"{value:,.{digits}f}{unit}"


def markdown_table(header, rows, caption):
    """A Markdown table under its caption; all columns but the first are right-aligned."""
    lines = [caption, "", "| " + " | ".join(header) + " |"]
    lines.append("|" + "|".join(["---"] + ["--:"] * (len(header) - 1)) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def loaded_machine():
    """`machine`, and the load of its last minute, NaN where the system does not tell."""
    return {**machine(), "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan}


def where(host):
    """A caption's end: what `loaded_machine` found."""
    return f"{host['cpu']}, {host['cpus']} CPUs, {host['date']}, load {host['load']:.1f}."


def caption(title, records):
    """The title, then the machine, the date and the versions the workers reported."""
    host = select(records, "machine")[0]
    used = {}
    for line in select(records, "start"):
        used.update(line["versions"])
    software = ", ".join(f"{name} {version}" for name, version in sorted(used.items()))
    return f"{title} {host['cpu']}, {host['cpus']} CPUs, {host['date']}; {software}."


def publish(table, failed, path=None):
    """Print the table and write it where asked; end the program with status 1 if a job failed."""
    print(table)
    if path:
        Path(path).write_text(table, encoding="utf-8")
    if failed:
        sys.exit("failed: " + "; ".join(failed))


# ---------------------------------------------------------------- the command line


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive integer")
    return value


def parser(description, names):
    """A command line parser with the options that every benchmark has."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    options.add_argument("--repeats", type=_positive, default=3, help="alternating rounds")
    options.add_argument(
        "--threads",
        type=_positive,
        nargs="+",
        default=[cpu_count()],
        help="thread counts to run each system with, in every round",
    )
    options.add_argument(
        "--only", nargs="+", metavar="SYSTEM", choices=names, default=names, help="systems to run"
    )
    options.add_argument("--batch-size", type=_positive, default=256)
    options.add_argument("--hidden", type=_positive, default=128, help="neurons of the first layer")
    options.add_argument("--learning-rate", type=float, default=2e-3, help="of Adam")
    options.add_argument("--out", help="file for all results as JSON lines")
    options.add_argument("--markdown", help="file for the table")
    options.add_argument("--worker", choices=[*names, "data"], help=argparse.SUPPRESS)
    options.add_argument("--data", help=argparse.SUPPRESS)
    options.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    return options


def shared_arguments(options):
    """The settings of the network, as arguments for a worker."""
    return [
        f"--batch-size={options.batch_size}",
        f"--hidden={options.hidden}",
        f"--learning-rate={options.learning_rate}",
    ]
