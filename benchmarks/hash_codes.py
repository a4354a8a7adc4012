"""Time the codes of a wide layer's weights, and codes with tables, by kind of projection.

    python benchmarks/hash_codes.py --repeats 3

The layer is Amazon-670K's: 670,091 neurons. Codes are `SimHash.codes` of weights without a bias;
with tables they are what a rebuild of all of a layer's tables does, after the first.
"""

import argparse
import statistics
import time

import _common
import numpy as np

from slide import hashing
from slide._kernels.optim import Parameters
from slide._memory import aligned_zeros, padded
from slide.sampling import LSH


def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--threads", type=int, default=_common.cpu_count())
    options.add_argument("--neurons", type=int, default=670_091)
    options.add_argument("--dim", type=int, default=128)
    options.add_argument("--bits", type=int, default=9)
    options.add_argument("--tables", type=int, default=50)
    given = options.parse_args()
    weights = aligned_zeros((given.neurons, padded(given.dim)))
    rng = np.random.default_rng(0)
    weights[:, : given.dim] = rng.standard_normal((given.neurons, given.dim), np.float32)
    X = weights[:, : given.dim]
    none = np.zeros((given.neurons, 0), np.float32)
    parameters = Parameters(weights, none, none, given.dim, given.dim - 1)
    kinds = ("gaussian", "sparse", "hadamard")
    seconds = {kind: ([], []) for kind in kinds}
    for _ in range(given.repeats):
        for kind in kinds:
            family = hashing.SimHash(given.bits, given.tables, kind)
            start = time.perf_counter()
            family.codes(X, n_jobs=given.threads)
            seconds[kind][0].append(time.perf_counter() - start)
            active = LSH(family, 1000).active_set(given.neurons, given.dim, 0, given.threads)
            rebuild(active, parameters, weights[:1], given.threads)
            start = time.perf_counter()
            rebuild(active, parameters, weights[:1], given.threads)
            seconds[kind][1].append(time.perf_counter() - start)
            del active
    rows = []
    for kind in kinds:
        codes, tables = (statistics.median(part) for part in seconds[kind])
        cost = hashing.SimHash(given.bits, given.tables, kind).cost(given.dim)
        rows.append([kind, f"{cost:,}", f"{codes:.2f}", f"{tables:.2f}"])
    title = (
        f"{given.neurons:,} x {given.dim}, K={given.bits}, L={given.tables}, {given.threads} "
        f"threads, medians of {given.repeats}; {_common.where(_common.loaded_machine())}"
    )
    header = ["projection", "multiply-adds a vector", "codes, s", "codes and tables, s"]
    print(_common.markdown_table(header, rows, title))


def rebuild(active, parameters, query, threads):
    """Build the tables anew, and look one query up, which takes no time beside it."""
    active.weights_replaced()
    active.select_batch(parameters, query, [[]], n_threads=threads)


if __name__ == "__main__":
    main()
