"""The data sets of the benchmarks by name, and the files in which workers get them.

    python benchmarks/_sets.py gene-go --folder DATA --out gene-go

One process reads or makes a set and writes it down; no worker parses text, and none needs slide
only for its data. `wordnet` comes with slide, `amazon670k` is made (see `synthetic.py`), every
other name is a folder with `train.txt` and `test.txt` in the format of the extreme classification
repository, plain or compressed by gzip, and `--train` and `--test` name such files themselves.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
from _common import emit, save_set, set_mb

ALIASES = {"debian": "deb-deps"}
TEST_SAMPLES = 2000
"""Test points of the made set."""


def data_folder(folder=None):
    """The folder of data sets: the argument, or what SLIDE_BENCH_DATA names; else an error."""
    folder = folder or os.environ.get("SLIDE_BENCH_DATA")
    if not folder:
        raise ValueError("name the folder of the data sets: --folder or SLIDE_BENCH_DATA")
    return Path(folder)


def find_files(name, folder=None):
    """Paths of a set's training and test files.

    Raises
    ------
    FileNotFoundError
        If one of them is missing, plain and compressed.
    """
    place = data_folder(folder) / ALIASES.get(name, name)
    found = []
    for part in ("train", "test"):
        paths = [place / f"{part}.txt", place / f"{part}.txt.gz"]
        found += [path for path in paths if path.is_file()][:1]
        if not found or part not in found[-1].name:
            raise FileNotFoundError(f"data set {name!r}: neither {paths[0]} nor {paths[1]}")
    return found


def read_files(train, test):
    """x_train, y_train, x_test, y_test of two files, with equal numbers of columns."""
    from slide.data import read_xmc

    parts = [read_xmc(path) for path in (train, test)]
    n_features, n_labels = (max(part[i].shape[1] for part in parts) for i in (0, 1))
    for x, y in parts:
        x.resize(x.shape[0], n_features)
        y.resize(y.shape[0], n_labels)
    return (*parts[0], *parts[1])


def wordnet():
    """The set that comes with slide."""
    from slide.data import load_wordnet

    found = load_wordnet()
    return found.X_train, found.Y_train, found.X_test, found.Y_test


def load(name, *, folder=None, train=None, test=None, samples=131_072):
    """Read or make a data set.

    Parameters
    ----------
    name : str
        ``"wordnet"``, ``"amazon670k"``, or a folder within `folder`. ``"debian"`` is `deb-deps`.
    folder : path, optional
        Where the folders are; None: what SLIDE_BENCH_DATA names.
    train, test : path, optional
        Files to read instead, whatever the name is.
    samples : int
        Training points of the made set.

    Returns
    -------
    tuple of 4 scipy.sparse.csr_matrix
        x_train, y_train, x_test, y_test.
    """
    if train is not None:
        return read_files(train, test)
    if name == "wordnet":
        return wordnet()
    if name == "amazon670k":
        from synthetic import make_xmc

        return (
            *make_xmc(samples, seed=0, part=0),
            *make_xmc(TEST_SAMPLES, seed=0, part=1),
        )
    return read_files(*find_files(name, folder))


def usable(x, y):
    """The rows that have features and labels."""
    kept = np.flatnonzero((np.diff(x.indptr) > 0) & (np.diff(y.indptr) > 0))
    return x[kept], y[kept]


def sampled(x, y, rows, rng):
    """At most so many random rows, in their old order."""
    if rows is None or rows >= x.shape[0]:
        return x, y
    chosen = np.sort(rng.choice(x.shape[0], rows, replace=False))
    return x[chosen], y[chosen]


def write(path, matrices, *, text=False):
    """Write what the workers read, and as the last file `path`.json, what is in it.

    Parameters
    ----------
    path : str
        Beginning of the files' names: `path`.npz has the matrices, `path`.propensities.npy the
        labels' propensities.
    matrices : tuple of 4 scipy.sparse.csr_matrix
    text : bool
        Whether the training points are written as text too, to `path`.train.txt.
    """
    from slide.data import write_xmc
    from slide.metrics import propensities

    x_train, y_train, x_test, _ = matrices
    save_set(f"{path}.npz", *matrices)
    np.save(f"{path}.propensities.npy", propensities(y_train))
    if text:
        write_xmc(f"{path}.train.txt", x_train, y_train)
    about = {
        "train": x_train.shape[0],
        "test": x_test.shape[0],
        "features": x_train.shape[1],
        "labels": y_train.shape[1],
        "nnz_per_point": round(x_train.nnz / x_train.shape[0], 1),
        "labels_per_point": round(y_train.nnz / x_train.shape[0], 2),
        "data_mb": round(set_mb(*matrices), 1),
    }
    Path(f"{path}.json").write_text(json.dumps(about), encoding="utf-8")
    return about


def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("name")
    options.add_argument("--out", required=True, help="beginning of the files' names")
    options.add_argument("--folder", help="of the data sets; else SLIDE_BENCH_DATA")
    options.add_argument("--train", help="training file, instead of a set by name")
    options.add_argument("--test", help="test file")
    options.add_argument("--rows", type=int, help="so many random training points at most")
    options.add_argument("--samples", type=int, default=131_072, help="points of the made set")
    options.add_argument("--text", action="store_true", help="write the training points as text")
    options.add_argument("--hold-out", type=float, help="test on this fraction of the training set")
    options = options.parse_args()
    start = time.perf_counter()
    x_train, y_train, x_test, y_test = load(
        options.name,
        folder=options.folder,
        train=options.train,
        test=options.test,
        samples=options.samples,
    )
    rng = np.random.default_rng(0)
    x_train, y_train = sampled(*usable(x_train, y_train), options.rows, rng)
    x_test, y_test = usable(x_test, y_test)
    if options.hold_out:
        order = rng.permutation(x_train.shape[0])
        held, rest = np.split(order, [int(options.hold_out * len(order))])
        x_test, y_test, x_train, y_train = (
            x_train[held],
            y_train[held],
            x_train[rest],
            y_train[rest],
        )
    about = write(options.out, (x_train, y_train, x_test, y_test), text=options.text)
    emit("set", seconds=round(time.perf_counter() - start, 1), **about)


if __name__ == "__main__":
    main()
