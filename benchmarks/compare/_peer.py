"""What all workers of the comparison share: options, data, and the records they print.

Only NumPy and SciPy are needed. Importing this module makes those beside the folder importable, so
that workers import it first.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from _common import emit, load_set, peak_rss_mb, precision, versions

TOP = 5


def parse(description, **defaults):
    """The options of a worker.

    Parameters
    ----------
    description : str
    **defaults
        Further options of this worker with their default values.
    """
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    options.add_argument("--data", required=True, help="beginning of the names of a set's files")
    options.add_argument("--epochs", type=int, default=1)
    options.add_argument("--batch-size", type=int, default=256)
    options.add_argument("--hidden", type=int, default=128)
    options.add_argument("--learning-rate", type=float, default=2e-3)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument(
        "--steps", type=int, help="time so many batches after a first one; no epochs, no P@k"
    )
    options.add_argument(
        "--warm-up", action="store_true", help="one batch before the clock of the epochs starts"
    )
    for name, default in defaults.items():
        kind = str if default is None else type(default)
        options.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default)
    return options.parse_args()


class Set:
    """The matrices of a prepared set, and how predictions are scored."""

    def __init__(self, path):
        self.x_train, self.y_train, self.x_test, self.y_test = load_set(f"{path}.npz")
        self.propensities = np.load(f"{path}.propensities.npy")
        self.text = f"{path}.train.txt"

    def limited(self, n):
        """The first `n` training points."""
        return self.x_train[:n], self.y_train[:n]

    def scores(self, top_ids):
        """P@1, P@3, P@5 and PSP@1 of predicted labels, in per cent.

        Propensity-scored precision is a ratio of sums over all points: of 1 / propensity of the
        labels hit, over the most that could be hit (Jain et al., KDD 2016).
        """
        weights = 1 / self.propensities[self.y_test.indices]
        best = np.maximum.reduceat(weights, self.y_test.indptr[:-1]).sum()
        first = top_ids[:, 0].astype(np.int64)
        n_labels = self.y_test.shape[1]
        points = np.repeat(np.arange(self.y_test.shape[0]), np.diff(self.y_test.indptr))
        keys = points * n_labels + self.y_test.indices
        hit = np.isin(np.arange(len(first)) * n_labels + first, keys) & (first >= 0)
        reached = (1 / self.propensities[first[hit]]).sum()
        return {
            "precision": precision(self.y_test, top_ids),
            "psp_at_1": round(100 * float(reached / best), 2),
        }


def padded(lists, width=TOP):
    """Lists of predicted labels as one array, with -1 where a list is shorter."""
    ids = np.full((len(lists), width), -1, np.int64)
    for row, found in zip(ids, lists, strict=True):
        found = list(found)[:width]
        row[: len(found)] = found
    return ids


class Clock:
    """Seconds of wall-clock and of CPU time within a ``with`` block."""

    def __enter__(self):
        self.start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_):
        self.seconds = round(time.perf_counter() - self.start[0], 4)
        self.cpu_seconds = round(time.process_time() - self.start[1], 4)


def start(*distributions):
    """Report versions, as the first record."""
    emit("start", versions=versions(*distributions), pid=os.getpid())


def epoch_done(number, clock, scores, **more):
    """Report an epoch, or the only fit of a system without epochs."""
    emit(
        "epoch",
        epoch=number,
        seconds=clock.seconds,
        cpu_seconds=clock.cpu_seconds,
        **scores,
        **more,
    )


def speed(samples, clock, **more):
    """Report the speed over some batches."""
    emit(
        "speed",
        samples=samples,
        seconds=clock.seconds,
        samples_per_second=round(samples / clock.seconds, 1),
        **more,
    )


def end():
    """Report the largest memory, as the last record."""
    emit("end", peak_rss_mb=round(peak_rss_mb(), 1))
