"""What each hash family retrieves with each strategy, and what it costs, on trained weights.

    python benchmarks/families.py --sets wordnet --epochs 1 3 --markdown families.md

A network with all its usual parts is trained first (or its weights are read from `--snapshots`):
the weights of the output layer after some epochs, what they were 50 steps before, and its inputs
for some test points are a snapshot. On it every family builds its tables, retrieves for the inputs
and is brought up to the later weights, one after the other in alternating rounds. With `--train` a
network of its own is trained with each, too.
"""

import argparse
import re
import statistics
import time
from pathlib import Path

import _common
import numpy as np
from to_docs import tables as tables_of

from slide import callbacks, hashing, sampling
from slide.data import load_wordnet, read_xmc
from slide.hashing import E2LSH, Clusters, Learned, SimHash, Sketches, Transformed
from slide.sampling import LSH

BEHIND = 50  # steps between the two weights of a snapshot: those between two rebuilds
TOP = 10
SHOWN = 4096  # training inputs for what learns from them
LEARNT = 10  # rebuilds before the one that is timed


def families():
    """By name; all but the last two are families of codes."""
    return {
        "SimHash 6x20": SimHash(6, 20),
        "SimHash 6x20, hadamard": SimHash(6, 20, "hadamard"),
        "SimHash 6x20, 10 probes": SimHash(6, 20, n_probes=10),
        "SimHash 6x20, Sign-ALSH, 10 probes": SimHash(6, 20, transform="sign_alsh", n_probes=10),
        "SimHash 6x20, centred": Transformed(SimHash(6, 20), centred=True),
        "SimHash 6x20, Simple-LSH": Transformed(SimHash(6, 20), "simple_lsh"),
        "SimHash 6x20, Simple-LSH, centred, 8 ranges": Transformed(
            SimHash(6, 20), "simple_lsh", 8, True
        ),
        "CrossPolytope 1x20, centred": Transformed(
            hashing.CrossPolytope(1, 20, "gaussian", 32), centred=True
        ),
        "E2LSH 3x20, L2-ALSH, 5 probes": E2LSH(3, 20, 1.0, n_probes=5),
        "WTA 2x20": hashing.WTA(2, 20, 8),
        "DWTA 2x20": hashing.DWTA(2, 20, 8),
        "DWTA 2x20, centred": Transformed(hashing.DWTA(2, 20, 8), centred=True),
        "MinHash 1x20": hashing.MinHash(1, 20, 16),
        "Learned 6x20": Learned(6, 20),
        "Clusters": Clusters(),
        "Sketches 32": Sketches(32),
    }


def strategies(family):
    """Arguments of LSH by name; families without codes rank what they find."""
    ranked = {"vanilla": {}, "ranked": {"candidates": 4.0}}
    if isinstance(family, (Clusters, Sketches)):
        return ranked
    return {
        **ranked,
        "union": {"strategy": "union"},
        "threshold 2": {"strategy": "threshold"},
        "top-k": {"strategy": "top_k"},
        "top-k, ranked": {"strategy": "top_k", "candidates": 4.0},
        "top-k, 64 a bucket": {"strategy": "top_k", "bucket_size": 64},
    }


def read(name, folder):
    """X and Y for training and X and Y for tests, of the bundled or of a folder's set."""
    if name == "wordnet":
        data = load_wordnet()
        return data.X_train, data.Y_train, data.X_test, data.Y_test
    x, y = read_xmc(Path(folder) / name / "train.txt.gz", cache=True)
    x_test, y_test = read_xmc(
        Path(folder) / name / "test.txt.gz", n_features=x.shape[1], n_labels=y.shape[1], cache=True
    )
    return x, y, x_test, y_test


def rows(values):
    """The same rows, padded as the kernels want them."""
    from slide._memory import aligned_zeros, padded

    out = aligned_zeros((len(values), padded(values.shape[1])))
    out[:, : values.shape[1]] = values
    return out


class Before(callbacks.Callback):
    """Keeps the output layer's weights as they are some steps before an epoch's end."""

    def __init__(self, n_steps):
        self.at, self.kept = max(0, n_steps - BEHIND), None

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 >= self.at and self.kept is None:
            self.kept = output(self.model)


def output(model):
    """(n, d + 1) weights and biases of the output layer."""
    w, b = model.get_weights()[-2:]
    return np.column_stack([w.T, b]).astype(np.float32)


def snapshots(name, options):
    """Yield (epoch, weights before, weights, test and training inputs) from files, or train."""
    paths = {
        epoch: Path(options.snapshots or "") / f"{name}-{options.hidden}-epoch{epoch}.npz"
        for epoch in options.epochs
    }
    if not (options.snapshots and all(path.exists() for path in paths.values())):
        made = train_snapshots(name, options)
        if not options.snapshots:
            yield from made
            return
        Path(options.snapshots).mkdir(parents=True, exist_ok=True)
        for epoch, before, after, inputs, shown in made:
            np.savez(paths[epoch], before=before, after=after, inputs=inputs, shown=shown)
    for epoch, path in paths.items():
        with np.load(path) as file:
            yield epoch, file["before"], file["after"], file["inputs"], file["shown"]


def train_snapshots(name, options):
    x, y, x_test, _ = read(name, options.data)
    model = _common.slide_model(
        x.shape[1], y.shape[1], "auto", hidden=options.hidden, learning_rate=2e-3, seed=0
    )
    model.steps_per_execution = 5  # callbacks look as often
    n_steps = -(-x.shape[0] // options.batch_size)
    for epoch in range(max(options.epochs)):
        before = Before(n_steps)
        model.fit(
            x,
            y,
            batch_size=options.batch_size,
            initial_epoch=epoch,
            epochs=epoch + 1,
            verbose=0,
            n_jobs=options.threads,
            callbacks=[before],
        )
        if epoch + 1 in options.epochs:
            w, b = model.get_weights()[:2]
            inputs, shown = (
                np.column_stack([np.maximum(part @ w + b, 0), np.ones(part.shape[0])])
                for part in (x_test[: options.queries], x[-SHOWN:])
            )
            inputs, shown = inputs.astype(np.float32), shown.astype(np.float32)
            yield epoch + 1, before.kept, output(model), inputs, shown


def prepared(sampler, before, after, queries, shown, threads, seed, rebuilds=0):
    """The sampler's kernel with tables brought up to the later weights, these, and the seconds of
    maintenance a step.

    rebuilds : with the weights before, at most LEARNT
    """
    from slide._kernels.optim import Parameters

    n, dim = before.shape
    none = np.zeros((n, 0), np.float32)
    weights = rows(before)
    p = Parameters(weights, none, none, dim, dim - 1)
    active = sampler.active_set(n, dim, seed, threads)
    active.select_batch(p, queries[:1], [[]], seed, 0, threads)
    # What learns has had some rebuilds before this one, with the inputs of the batches between.
    for first in range(0, len(shown), 256):
        active.retriever.show(rows(shown[first : first + 256]))
    for step in range(1, 1 + rebuilds):
        active.weights_moved()
        active.select_batch(p, queries[:1], [[]], seed, step * BEHIND, threads)
    built = active.seconds
    weights[:, :dim] = after
    active.weights_moved()
    active.select_batch(p, queries[:1], [[]], seed, (1 + LEARNT) * BEHIND, threads)
    return active, p, (active.seconds - built) / BEHIND


def measure(sampler, before, after, inputs, shown, threads, seed):
    """Neurons found for every input, seconds of a query and of a step's maintenance."""
    queries = rows(inputs)
    rebuilds = LEARNT if isinstance(sampler.hash, Learned) else 0
    active, p, maintenance = prepared(
        sampler, before, after, queries, shown, threads, seed, rebuilds
    )
    most = active.max_active
    start = time.perf_counter()
    found = active.retriever.query(queries, most, seed, None, p)
    query = (time.perf_counter() - start) / len(queries)
    return found, query, maintenance, active.retriever.statistics()["load_of_item"]


def trained(name, family, arguments, options):
    """P@1 of a network whose sampler is the recommended mixture, with this for the head."""
    x, y, x_test, y_test = read(name, options.data)
    n = y.shape[1]
    few = max(32, round(0.0075 * n))
    sampler = sampling.Mixture(
        [
            LSH(family, few, **arguments),
            sampling.Frequent(round(0.025 * n)),
            sampling.Uniform(few, shared=False),
        ]
    )
    model = _common.slide_model(
        x.shape[1], n, sampler, hidden=options.hidden, learning_rate=2e-3, seed=0
    )
    start = time.perf_counter()
    model.fit(
        x,
        y,
        batch_size=options.batch_size,
        epochs=options.train,
        verbose=0,
        n_jobs=options.threads,
    )
    seconds = (time.perf_counter() - start) / options.train
    return _common.slide_precision(model, x_test, y_test, options.threads)[0], seconds


def table(name, epoch, before, after, inputs, shown, options):
    """One row per family and strategy."""
    truth = np.argsort(-(inputs @ after.T), axis=1, kind="stable")[:, :TOP]
    systems = [
        (f"{label}: {strategy}", family, arguments)
        for label, family in families().items()
        for strategy, arguments in strategies(family).items()
        if re.search(options.only, f"{label}: {strategy}")
    ]
    results = {label: [] for label, _, _ in systems}
    for number in range(options.repeats):
        for label, family, arguments in systems:
            sampler = LSH(family, options.share, rebuild_every=BEHIND, **arguments)
            found, query, maintenance, load = measure(
                sampler, before, after, inputs, shown, options.threads, number
            )
            hits = [np.isin(a, b).mean() for a, b in zip(truth, found, strict=True)]
            size = np.mean([len(ids) for ids in found])
            results[label].append((np.mean(hits), size, query, maintenance, load))
    header = ["family: strategy", f"recall@{TOP}", "retrieved", "share", "us a query"]
    header += ["maintenance, ms a step", "members of an item's bucket"]
    if options.train:
        header += [f"P@1, epoch {options.train}", "s/epoch"]
    lines = []
    for label, family, arguments in systems:
        recall, size, *_ = np.mean(results[label], axis=0)
        query, maintenance, load = (
            statistics.median(row[i] for row in results[label]) for i in (2, 3, 4)
        )
        line = [label, f"{recall:.3f}", f"{size:.0f}", f"{100 * size / len(after):.2f}%"]
        line += [f"{1e6 * query:.0f}", f"{1e3 * maintenance:.2f}", f"{load:.0f}"]
        if options.train:
            precision, seconds = trained(name, family, arguments, options)
            line += [f"{precision:.1f}", f"{seconds:.1f}"]
        lines.append(line)
    title = (
        f"{name}: {after.shape[0]:,} neurons of {after.shape[1]} weights after epoch {epoch}, "
        f"{len(inputs):,} queries, at most {100 * options.share:g}% retrieved; recall and sizes "
        f"are means, times medians of {options.repeats} rounds; queries on one thread, "
        f"maintenance of a rebuild of all neurons every {BEHIND} steps on {options.threads}; "
        f"{_common.where(_common.loaded_machine())}"
    )
    return _common.markdown_table(header, lines, title)


def summary(text):
    """Recall of every family and strategy over sets and epochs, from the text of the tables."""
    columns, recalls = [], {}
    for title, rows in tables_of(text):
        name, epoch = re.match(r"(.*?): .* after epoch (\d+)", title).groups()
        columns.append(f"{name}, {epoch}")
        for label, recall, *_ in rows[1:]:
            recalls.setdefault(label, {})[columns[-1]] = recall
    rows = [[label, *(found.get(c, "") for c in columns)] for label, found in recalls.items()]
    title = f"Recall@{TOP} of all tables, by set and epoch."
    return _common.markdown_table(["family: strategy", *columns], rows, title)


def snapshot_options(about, epochs, threads):
    """A parser with what `snapshots` and the queries on them need."""
    options = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--sets", nargs="+", default=["wordnet"], help="or folders of --data")
    options.add_argument("--data", default=".", help="folder of XMC sets, train and test.txt.gz")
    options.add_argument("--snapshots", help="folder of weights, read or written")
    options.add_argument("--epochs", type=int, nargs="+", default=epochs)
    options.add_argument("--queries", type=int, default=1000)
    options.add_argument("--hidden", type=int, default=128)
    options.add_argument("--batch-size", type=int, default=256)
    options.add_argument("--threads", type=int, default=threads)
    options.add_argument("--markdown", help="file for the tables")
    return options


def main():
    options = snapshot_options(__doc__, [1], _common.cpu_count())
    options.add_argument("--train", type=int, default=0, metavar="N", help="P@1 after N epochs")
    options.add_argument("--only", default="", metavar="REGEX", help="of family: strategy")
    options.add_argument("--share", type=float, default=0.02, help="of the neurons, at most")
    options.add_argument("--repeats", type=int, default=3)
    options = options.parse_args()
    tables = [
        table(name, *snapshot, options)
        for name in options.sets
        for snapshot in snapshots(name, options)
    ]
    text = "\n".join(tables)
    if len(tables) > 1:
        text += "\n" + summary(text)
    _common.publish(text, [], options.markdown)


if __name__ == "__main__":
    main()
