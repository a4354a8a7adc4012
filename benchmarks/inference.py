"""Top-10 predictions of trained output layers: exact ones, and through indexes.

    python benchmarks/inference.py --threads 2 --markdown inference.md

Two layers of 128 inputs: WordNet's 13,043 labels, and 670,091 labels of the synthetic set with the
shape of Amazon-670K. Their networks are trained first and kept in the cache, because random weights
and queries would tell nothing about recall. Queries are the hidden layer's activations for test
rows, in one batch. All systems answer in turn, round by round, in one process, and speeds are
medians of the rounds.

- all rows, NumPy: blocks of a matrix product on BLAS, whose scores are compared with the tenth best
  so far; only those that beat it are sorted.
- all rows, predict: `Sequential.predict(top_k=10)`, the hidden layer included.
- predict, exact=False: the same with the tables that training used, or through an index.
- Index with a family: `slide.hashing.Index`, with its default and with other numbers of candidates.

Recall is the share of the true ten best that are found.
"""

import argparse
import time
import zlib

import numpy as np
from _common import (
    HERE,
    cache_directory,
    cpu_count,
    machine,
    markdown_table,
    median,
    number,
    slide_model,
    versions,
)
from synthetic import make_xmc
from threadpoolctl import threadpool_limits

import slide
from slide import hashing

K = 10
SHAPES = ("wordnet", "670k")


def indexes():
    """Name -> (family, numbers of candidates; None is the default)."""
    return {
        "auto": ("auto", [None, 0.002]),
        "Sketches(32)": (hashing.Sketches(32, n_probes=64), [0.002]),
        "Clusters": (hashing.Clusters(n_probes=64), [0.01, 0.03]),
        "SimHash(12, 50)": (hashing.SimHash(12, 50), [0.03]),
    }


def trained(shape, samples, epochs, hidden, threads):
    """The trained model of a shape, from the cache if it is there, and its test rows."""
    if shape == "wordnet":
        from slide.data import load_wordnet

        data = load_wordnet()
        x, y, x_test, rate = data.X_train, data.Y_train, data.X_test, 2e-3
        name = f"inference-wordnet-{epochs}-{hidden}.slide"
    else:
        recipe = f"{zlib.crc32((HERE / 'synthetic.py').read_bytes()):08x}"
        name = f"inference-670k-{samples}-{hidden}-{recipe}.slide"
        x_test, _ = make_xmc(4096, seed=0, part=1)
        rate, epochs = 1e-2, 1
        if not (cache_directory() / name).exists():
            x, y = make_xmc(samples, seed=0, part=0)
    path = cache_directory() / name
    if not path.exists():
        model = slide_model(
            x.shape[1], y.shape[1], "auto", hidden=hidden, learning_rate=rate, seed=0
        )
        model.fit(x, y, epochs=epochs, verbose=0, n_jobs=threads)
        # Without the optimizer's state.
        bare = slide.Sequential.from_config(model.get_config())
        bare.build(sparse=True, draw=False)
        bare.set_weights(model.get_weights())
        bare.save(path)
    return slide.load(path), x_test


def timed(function, *arguments, **options):
    start = time.perf_counter()
    result = function(*arguments, **options)
    return time.perf_counter() - start, result


def measure(shape, options):
    """Table rows of one shape."""
    model, x = trained(shape, options.samples, options.epochs, options.hidden, options.threads)
    first, bias, W, b = model.get_weights()
    h = np.maximum(x @ first + bias, 0).astype(np.float32)
    sample, queries = h[-1024:], h[: options.queries]
    few = queries[: options.exact_queries]
    W = np.ascontiguousarray(W.T)
    systems, made = {}, {}
    exact = hashing.Index(n_jobs=options.threads)
    made["auto"], _ = timed(exact.fit, W, b, X_sample=sample)

    def numpy_exact():
        with threadpool_limits(options.threads, user_api="blas"):
            return exact.exact(few, K)

    systems["all rows, NumPy"] = numpy_exact, len(few)
    for name, n, arguments in (
        ("all rows, predict", len(few), {}),
        ("predict, exact=False", len(queries), {"exact": False}),
        ("the same, n_candidates=256", len(queries), {"exact": False, "n_candidates": 256}),
    ):

        def predict(rows=x[:n], arguments=arguments):
            return model.predict(rows, top_k=K, n_jobs=options.threads, **arguments)

        systems[name] = predict, n
    for name, (family, numbers) in indexes().items():
        index = exact
        if name not in made:
            index = hashing.Index(family, n_jobs=options.threads)
            made[name], _ = timed(index.fit, W, b, X_sample=sample)
        for candidates in numbers:
            label = f"Index, {name}"
            label += "" if candidates is None else f", {candidates:.1%} candidates"
            made[label] = made[name]

            def ask(index=index, candidates=candidates):
                index.n_candidates = candidates
                return index.query(queries, K)

            systems[label] = ask, len(queries)
    true, _ = numpy_exact()
    seconds, recall = {name: [] for name in systems}, {}
    for _ in range(options.repeats + 1):
        for name, (ask, n) in systems.items():
            spent, (ids, _) = timed(ask)
            seconds[name].append(spent / n)
            hits = (true[:, :, None] == ids[: len(true), None, :]).any(axis=2)
            recall[name] = float(hits.mean())
    rows = []
    for name in systems:
        times = seconds[name][1:]  # the first round warms up
        ratios = [a / b for a, b in zip(seconds["all rows, NumPy"][1:], times, strict=True)]
        rows.append(
            [
                f"{len(W):,}: {name}",
                number(recall[name], 4),
                number(1 / median(times), 0),
                number(median(ratios), 1),
                number(made[name], 1) if name in made else "",
            ]
        )
    return rows


def main():
    options = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    options.add_argument("--only", nargs="+", choices=SHAPES, default=list(SHAPES))
    options.add_argument("--samples", type=int, default=131_072, help="training points, 670k")
    options.add_argument("--epochs", type=int, default=3, help="of training, WordNet")
    options.add_argument("--hidden", type=int, default=128)
    options.add_argument("--queries", type=int, default=2048)
    options.add_argument("--exact-queries", type=int, default=512, help="of them, for all rows")
    options.add_argument("--repeats", type=int, default=3, help="alternating rounds")
    options.add_argument("--threads", type=int, default=cpu_count())
    options.add_argument("--markdown", help="file for the table")
    options = options.parse_args()
    rows = [row for shape in options.only for row in measure(shape, options)]
    host = machine()
    software = ", ".join(f"{k} {v}" for k, v in sorted(versions("slide-learn").items()))
    table = markdown_table(
        ["outputs: system", "recall@10", "queries/s", "times NumPy", "fit, s"],
        rows,
        f"The ten best of trained output layers of {options.hidden} inputs, batches of "
        f"{options.queries:,} queries ({options.exact_queries:,} for all rows), {options.threads} "
        f"threads; medians of {options.repeats} alternating rounds. {host['cpu']}, {host['cpus']} "
        f"CPUs, {host['date']}; {software}.",
    )
    print(table)
    if options.markdown:
        with open(options.markdown, "w", encoding="utf-8") as file:
            file.write(table)


if __name__ == "__main__":
    main()
