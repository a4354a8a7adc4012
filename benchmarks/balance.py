"""What bounds on the cells of `Clusters` do to loads, recall and time.

    python benchmarks/balance.py --sets wordnet --epochs 1 10 --markdown balance.md

On snapshots of training (see `families.py`) cells are built and rebuilt with every bound and some
seeds, in alternating rounds.
"""

import functools

import _common
import families
import frontier
import numpy as np

from slide.hashing import Clusters

FACTORS = (None, 2.0, 1.5, 1.25, 1.0)
SHARES = (0.005, 0.01, 0.02, 0.04)
TIMED = (0.005, 0.04)


def measure(snapshot, capacity_factor, seed):
    """Largest cell and deviation in averages, seconds of a rebuild; a point for every share."""
    sampler = frontier.ranking(Clusters(capacity_factor=capacity_factor))
    active, p, seconds = families.prepared(
        sampler,
        snapshot.before,
        snapshot.after,
        snapshot.queries,
        snapshot.shown,
        1,
        seed,
        families.LEARNT,
    )
    sizes = active.retriever.tables.sizes(0)
    points = []
    for share in SHARES:
        most = int(share * snapshot.n)
        query = functools.partial(active.retriever.query, most=most, seed=seed, p=p)
        points.append(snapshot.point("", "rest", query))
    return sizes.max() / sizes.mean(), sizes.std() / sizes.mean(), families.BEHIND * seconds, points


def rows(name, epoch, snapshot, n_seeds):
    """One row for every bound: means over the seeds, with standard errors of recalls."""
    found = {capacity_factor: [] for capacity_factor in FACTORS}
    for seed in range(n_seeds):
        for capacity_factor in FACTORS:
            found[capacity_factor].append(measure(snapshot, capacity_factor, seed))
    for capacity_factor, results in found.items():
        largest, deviation, seconds, points = zip(*results, strict=True)
        line = [f"{name}, {epoch}", "none" if capacity_factor is None else f"{capacity_factor:g}"]
        line += [f"{np.mean(largest):.2f}", f"{np.mean(deviation):.2f}"]
        recalls = np.array([[point.recall for point in of_seed] for of_seed in points])
        errors = recalls.std(axis=0, ddof=1) / np.sqrt(n_seeds)
        line += [f"{a:.3f} ± {b:.3f}" for a, b in zip(recalls.mean(axis=0), errors, strict=True)]
        for share in TIMED:
            times = [of_seed[SHARES.index(share)].seconds for of_seed in points]
            line.append(f"{1e6 * np.median(times):.1f}")
        yield [*line, f"{1e3 * np.median(seconds):.0f}"]


def main():
    options = families.snapshot_options(__doc__, [1, 10], 1)
    options.add_argument("--seeds", type=int, default=10, help="of cells, at least 2")
    options = options.parse_args()
    host = _common.loaded_machine()
    lines = []
    for name in options.sets:
        for epoch, before, after, inputs, shown in families.snapshots(name, options):
            snapshot = frontier.Snapshot(before, after, inputs, shown)
            lines += rows(name, epoch, snapshot, options.seeds)
    header = ["set, epoch", "capacity_factor", "largest cell / average", "deviation / average"]
    header += [f"recall@{families.TOP}, {100 * share:g}%" for share in SHARES]
    header += [f"us a query, {100 * share:g}%" for share in TIMED] + ["ms a rebuild"]
    title = (
        f"Cells with and without a bound, after {families.LEARNT + 1} rebuilds, and the recall "
        f"at each share retrieved: means over {options.seeds} seeds of k-means, with standard "
        f"errors; times are medians, on one thread."
    )
    table = _common.markdown_table(header, lines, f"{title} {_common.where(host)}")
    _common.publish(table, [], options.markdown)


if __name__ == "__main__":
    main()
