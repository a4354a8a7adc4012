"""How near the phases of training come to what memory and arithmetic of the machine allow.

    python benchmarks/roofline.py --threads 1 2 --markdown roofline.md

First the machine's limits are measured, with the row width of the output layer: rows of a large
table in random order with prefetching, reading in order, products in the first-level cache and
matrix products. Then models with the shapes of WordNet and of Amazon-670K are trained, with a clock
around every phase. What a phase must read, write and multiply follows from the active sets and the
formulas in `phases`; the least time for that is the larger of bytes over bandwidth and
multiplications over their rate. One process does all of it; each number is the best (a limit) or
the median (a phase) of `--repeats`.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from _common import (
    cpu_count,
    machine,
    markdown_table,
    median,
    number,
    versions,
)
from clocked import Trained
from synthetic import make_xmc

from slide._kernels import probes
from slide._memory import aligned_zeros, padded
from slide._threads import one_blas_thread

LIST = 512  # rows of one list in the measurements of random rows
AHEAD = (4, 8, 16, 32)  # distances of prefetching that are tried
HIDDEN = 128
BLOCK = 32  # samples that are scored together

# ---------------------------------------------------------------- the machine's limits


def table(n_rows, ld):
    """A table of ones, every page of it in memory."""
    rows = aligned_zeros((n_rows, ld))
    rows[:] = 1
    return rows


def random_lists(n_rows, n_lists, rng):
    return rng.integers(0, n_rows, (n_lists, LIST), dtype=np.int32)


class Limits:
    """Rates of this machine for one number of threads and one row width, measured when asked for.

    Bandwidths are in bytes and rates in multiply-adds a second.

    Parameters
    ----------
    ld : int
        Floats of a row.
    n_threads, repeats : int
    n_bytes : int
        That a measurement reads.
    """

    def __init__(self, ld, n_threads, repeats, n_bytes):
        self.ld, self.n_threads, self.repeats, self.n_bytes = ld, n_threads, repeats, n_bytes
        self.rng = np.random.default_rng(0)
        self._known = {}

    def _lists(self, n_rows):
        return random_lists(n_rows, max(2, self.n_bytes // (4 * self.ld * LIST)), self.rng)

    def _best(self, key, measure):
        if key not in self._known:
            measure()
            self._known[key] = max(measure() for _ in range(self.repeats))
        return self._known[key]

    def gather(self, n_rows):
        """Random rows of a table of n_rows: the best of several distances of prefetching."""

        def measure():
            ids = self._lists(n_rows)
            seconds = [
                probes.touches(rows, ids, ahead, n_threads=self.n_threads) for ahead in AHEAD
            ]
            return 4 * self.ld * ids.size / min(seconds)

        rows = table(n_rows, self.ld)
        return self._best(("gather", n_rows), measure)

    def gather_and_write(self, n_rows):
        """The same where every row is also written; its bytes count twice."""

        def measure():
            ids = self._lists(n_rows)
            seconds = [probes.touches(rows, ids, ahead, True, self.n_threads) for ahead in AHEAD]
            return 8 * self.ld * ids.size / min(seconds)

        rows = table(n_rows, self.ld)
        return self._best(("gather and write", n_rows), measure)

    def rows_dot(self, n_rows):
        """What slide's kernel of row products reads of such a table."""

        def measure():
            ids = self._lists(n_rows)
            seconds = probes.products(rows, ids, rows[0], self.n_threads)
            return 4 * self.ld * ids.size / seconds

        rows = table(n_rows, self.ld)
        return self._best(("rows_dot", n_rows), measure)

    def rows_axpy(self, n_rows):
        """What slide's kernel of sums of rows reads of such a table."""

        def measure():
            ids = self._lists(n_rows)
            c = np.ones(LIST, np.float32)
            return 4 * self.ld * ids.size / probes.sums(rows, ids, c, self.n_threads)

        rows = table(n_rows, self.ld)
        return self._best(("rows_axpy", n_rows), measure)

    def stream(self):
        """A long array in order."""

        def measure():
            seconds, n = probes.reads(a, self.n_threads)
            return 4 * n / seconds

        a = table(1, self.n_bytes // 4 // 16 * 16)[0]
        return self._best(("stream",), measure)

    def dot_rate(self):
        """Multiply-adds a second of row products out of the first-level cache."""

        def measure():
            return self.ld * ids.size * 64 / probes.products(rows, ids, rows[0], self.n_threads, 64)

        rows, ids = table(16, self.ld), random_lists(16, 64, self.rng)
        return self._best(("dot rate",), measure)

    def byte_rate(self):
        """Multiply-adds of bytes a second, of codes in the first-level cache."""

        def measure():
            seconds, n = probes.byte_products(codes, 32, self.n_threads, 4096)
            return n / seconds

        codes = np.full(512 * 32, 64, np.uint8)
        return self._best(("byte rate",), measure)

    def gemm_rate(self):
        """Multiply-adds a second of matrix products."""

        def measure():
            seconds = probes.matrix_products(256, 256, 256, self.n_threads, 64)
            return 256**3 * 64 / seconds

        return self._best(("gemm rate",), measure)


def limit_rows(limits, sizes):
    """Name, size of the table and rate in GB/s or billions of multiply-adds a second."""
    rows = []
    for n_rows in sizes:
        megabytes = number(4 * n_rows * limits.ld / 1e6, 0)
        for name in ("gather", "gather_and_write", "rows_dot", "rows_axpy"):
            rows.append([name, megabytes, getattr(limits, name)(n_rows) / 1e9])
    rows.append(["stream", number(limits.n_bytes / 1e6, 0), limits.stream() / 1e9])
    rows.append(["dot_rate", "L1", limits.dot_rate() / 1e9])
    rows.append(["byte_rate", "L1", limits.byte_rate() / 1e9])
    rows.append(["gemm_rate", "", limits.gemm_rate() / 1e9])
    return rows


# ---------------------------------------------------------------- the models


def wordnet():
    from slide.data import load_wordnet

    data = load_wordnet()
    return data.X_train, data.Y_train


def shapes(samples):
    """Name -> function that makes x and y."""
    return {
        "WordNet": wordnet,
        "670k": lambda: make_xmc(samples),
    }


# ---------------------------------------------------------------- the phases


def phases(counts, retriever, n_outputs, n_features, batch_size, limits):
    """Least work and time of every phase for a sample.

    With ld floats a row, r own rows and u distinct ones, S shared rows, f features of a sample and
    g distinct ones (distinct: within a batch, divided by its size), batch size B, H hidden
    neurons, Adam's two slots beside each weight, and n_in = H + 1 inputs with the bias:

    =================== ================================= ==========================
    phase               bytes                             multiply-adds
    =================== ================================= ==========================
    query               4 a multiplication (bytes: 1)     hash functions, as counted
    dot                 4 r ld                            r n_in
    shared              4 S ld / B                        2 S n_in
    update              2 x 12 u ld                       (r + S) n_in, and the steps
    below: update       2 x 12 g H                        f H
    rest                4 f H                             f H + r n_in
    =================== ================================= ==========================

    The rest is the hidden layer's forward pass, losses and the input's gradient from rows that
    `dot` just read. Sketches are read once for a block of 32 samples, and with the means of many
    cells their products are those of bytes. `shared` is the shared rows' forward pass and their
    part of that gradient. Rows that are shared are stepped on in `update`: 2 x 12 S ld / B bytes
    more there. What `query` reads comes from a table of the functions' size, often out of a cache.

    Parameters
    ----------
    retriever : Retriever
        Its arrays are what a query reads.

    Returns
    -------
    dict
        Of phase: bytes, multiply-adds, least seconds.
    """
    ld, n_in = limits.ld, HIDDEN + 1
    own, distinct, shared = counts["rows"], counts["distinct"], counts["n_shared"]
    dot, gemm = limits.dot_rate(), limits.gemm_rate()
    read = limits.gather(n_outputs)
    write = limits.gather_and_write(3 * n_outputs)
    below = limits.gather(n_features)
    below_write = limits.gather_and_write(3 * n_features)
    stepped = distinct + shared / batch_size
    functions = retriever.arrays
    hashed_bytes = counts["hashed"] * (1 if retriever.in_bytes else 4)
    if "sketches" in functions:
        hashed_bytes /= BLOCK
    size = max((array.nbytes for array in functions.values()), default=0)
    hashing = limits.gather(max(64, size // (4 * ld)))
    products = limits.byte_rate() if retriever.in_bytes else dot
    below_forward = 4 * counts["nnz"] * HIDDEN
    found = {
        "query": (hashed_bytes, counts["hashed"], hashing, products),
        "dot": (4 * own * ld, own * n_in, read, dot),
        "shared": (4 * shared * ld / batch_size, 2 * shared * n_in, read, gemm),
        "update": (24 * stepped * ld, (own + shared) * n_in, write, dot),
        "below: update": (
            24 * counts["features"] * HIDDEN,
            counts["nnz"] * HIDDEN,
            below_write,
            dot,
        ),
        "rest": (below_forward, counts["nnz"] * HIDDEN + own * n_in, below, dot),
    }
    return {
        name: (n_bytes, work, max(n_bytes / bandwidth if n_bytes else 0, work / rate))
        for name, (n_bytes, work, bandwidth, rate) in found.items()
    }


def phase_rows(records):
    """Table rows of one model: every phase, then all of them and what `fit` takes."""
    names = records[0]["seconds"]
    seconds = {name: median(line["seconds"][name] for line in records) for name in names}
    least = records[-1]["least"]
    rows = []
    for name in sorted(seconds, key=seconds.get, reverse=True):
        if seconds[name] < 1e-8:
            continue
        n_bytes, work, limit = least.get(name, (0, 0, 0))
        rows.append((name, seconds[name], n_bytes, work, limit))
    total = [sum(row[i] for row in rows) for i in range(1, 5)]
    rows.append(("all", *total))
    return rows


def as_text(rows):
    text = []
    for name, seconds, n_bytes, work, limit in rows:
        text.append(
            [
                name,
                number(1e6 * seconds, 2),
                number(n_bytes / 1e3, 1) if n_bytes else "",
                number(work / 1e3, 1) if work else "",
                number(n_bytes / seconds / 1e9, 1) if n_bytes else "",
                number(work / seconds / 1e9, 1) if work else "",
                number(1e6 * limit, 2) if limit else "",
                number(100 * limit / seconds, 0, "%") if limit else "",
            ]
        )
    return text


# ---------------------------------------------------------------- the command line


def options():
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--threads", type=int, nargs="+", default=list(range(1, cpu_count() + 1)))
    parser.add_argument("--shapes", nargs="+", choices=shapes(0), default=list(shapes(0)))
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--batches", type=int, default=64, help="that are timed at once")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--samples", type=int, default=131_072, help="points of the 670k shape")
    parser.add_argument(
        "--warm-up", type=int, default=131_072, help="samples to train on before clocks start"
    )
    parser.add_argument("--megabytes", type=int, default=512, help="a measurement of limits reads")
    parser.add_argument("--quick", action="store_true", help="little work: does it run?")
    parser.add_argument("--out", help="file for all results as JSON lines")
    parser.add_argument("--markdown", help="file for the tables")
    given = parser.parse_args()
    if given.quick:
        given.batches, given.repeats, given.samples = 8, 2, 8192
        given.warm_up, given.megabytes = 4096, 128
    return given


HEADER = [
    "phase",
    "time (us)",
    "bytes (KB)",
    "multiply-adds (K)",
    "GB/s",
    "G multiply-adds/s",
    "limit (us)",
    "limit / time",
]


def main():
    given = options()
    host = machine()
    used = ", ".join(f"{name} {v}" for name, v in sorted(versions("slide-learn").items()))
    where = f"{host['cpu']}, {host['cpus']} CPUs, {host['date']}; {used}."
    records, tables = [{"record": "machine", **host}], []
    ld = padded(HIDDEN + 1)
    made = {name: shapes(given.samples)[name]() for name in given.shapes}
    sizes = [1024, *sorted(y.shape[1] for _, y in made.values())]
    with one_blas_thread():
        limits = {
            threads: Limits(ld, threads, given.repeats, given.megabytes << 20)
            for threads in given.threads
        }
        measured = {threads: limit_rows(limits[threads], sizes) for threads in given.threads}
    for threads, rows in measured.items():
        records += [
            {"record": "limit", "threads": threads, "name": name, "table_mb": size, "rate": rate}
            for name, size, rate in rows
        ]
    by_name = zip(*measured.values(), strict=True)
    tables.append(
        markdown_table(
            ["limit", "table (MB)", *(f"{threads} threads" for threads in given.threads)],
            [[rows[0][0], rows[0][1], *(number(row[2], 1) for row in rows)] for rows in by_name],
            f"What the machine can do with rows of {4 * ld} bytes: GB/s, and billions of "
            f"multiply-adds a second (dot_rate, byte_rate, gemm_rate); best of {given.repeats}. "
            f"{where}",
        )
    )
    for name, (x, y) in made.items():
        for threads in given.threads:
            trained = Trained(
                x,
                y,
                "auto",
                hidden=HIDDEN,
                batch_size=given.batch_size,
                n_threads=threads,
                warm_up=given.warm_up,
            )
            batches = min(given.batches, x.shape[0] // given.batch_size)
            lines = []
            for repeat in range(given.repeats):
                seconds, counts = trained.times(batches, repeat)
                with one_blas_thread():
                    least = phases(
                        counts,
                        trained.active_set.retriever,
                        y.shape[1],
                        x.shape[1],
                        given.batch_size,
                        limits[threads],
                    )
                lines.append(
                    {
                        "record": "phases",
                        "shape": name,
                        "threads": threads,
                        "seconds": seconds,
                        "counts": counts,
                        "least": least,
                    }
                )
            fit = median(trained.fit(batches) for _ in range(given.repeats))
            rebuild = trained.active_set.maintenance()
            records += lines
            records.append({"record": "fit", "shape": name, "threads": threads, "seconds": fit})
            last = lines[-1]["counts"]
            tables.append(
                markdown_table(
                    HEADER,
                    as_text(phase_rows(lines)),
                    f"{name}: {x.shape[1]:,} features, {HIDDEN} hidden, {y.shape[1]:,} outputs, "
                    f"batch {given.batch_size}, Adam, {threads} threads. A sample has "
                    f"{last['nnz']:.0f} features and {last['rows']:.0f} own output neurons (within "
                    f"a batch, {last['distinct']:.0f} a sample are distinct), and "
                    f"{last['n_shared']} neurons are shared. Without clocks, and with rebuilds, "
                    f"`fit` takes {1e6 * fit:.1f} us a sample; {rebuild['n_rebuilds']:.0f} rebuilds"
                    f" and the first build took {rebuild['seconds']:.2f} s in all, not in here. "
                    f"Medians of {given.repeats}. {where}",
                )
            )
            del trained
            print(f"{name}, {threads} threads: done", file=sys.stderr, flush=True)
    text = "\n".join(tables)
    print(text)
    if given.markdown:
        Path(given.markdown).write_text(text, encoding="utf-8")
    if given.out:
        lines = "".join(json.dumps(record) + "\n" for record in records)
        Path(given.out).write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
