"""Recall against the active fraction: the best that each hash family does with so many neurons.

    python benchmarks/frontier.py --sets wordnet --epochs 1 2 5 10 --markdown frontier.md \\
        --figure frontier.svg

On snapshots of training (see `families.py`) every family of codes retrieves with a grid of K, L,
probes and strategies for some queries. The settings with the largest recall at or below each share
of the layer then retrieve for the other queries; their recalls are shown, so that no setting looks
good by chance. `Clusters` and `Sketches` have their default settings. "Sketches, drawn" are drawn
as the default sampler does in training, for layers of up to 32,768 neurons; there are no labels to
begin with here. Nothing is ranked by exact activations: a family whose candidates are, c times as
many as stay active, has the recall that is shown here at c times the share.
"""

import copy
import functools
import json
import math
import time
from pathlib import Path
from typing import NamedTuple

import _common
import families
import numpy as np

from slide import sampling
from slide.hashing import (
    DWTA,
    E2LSH,
    Clusters,
    CrossPolytope,
    Learned,
    MinHash,
    SimHash,
    Sketches,
    Transformed,
)
from slide.sampling import LSH

SHARES = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)
IN_TABLES = (0.01, 0.02)
N_TABLES = (10, 25, 50, 100)
COLLISIONS = (2, 4, 8, 16, 32)
SEARCH = 50  # queries that settings are chosen with
DRAWN = "Sketches, drawn (default)"
TABLES = {  # of the default sampler: whether of the weights before, and rebuilds before the last
    "as in training": (False, families.LEARNT),
    f"{families.BEHIND} steps old": (True, families.LEARNT),
    "just built": (False, 0),
}

# Okabe and Ito's colours, which colour-blind readers can tell apart; markers say the same again.
STYLES = {
    "SimHash": ("#E69F00", "v"),
    "SimHash, centred": ("#E69F00", "^"),
    "SimHash, Simple-LSH": ("#E69F00", "D"),
    "CrossPolytope": ("#CC79A7", "P"),
    "E2LSH, L2-ALSH": ("#888888", "x"),
    "DWTA": ("#56B4E9", "s"),
    "MinHash": ("#56B4E9", "d"),
    "Learned": ("#009E73", "X"),
    "Clusters": ("#0072B2", "h"),
    "Sketches, largest": ("#000000", "o"),
    DRAWN: ("#D55E00", "o"),
}


class Point(NamedTuple):
    """What a setting of a family did."""

    setting: str
    recall: float
    error: float  # standard error of the recall
    share: float
    seconds: float  # of a query


def grids(n):
    """Families of codes for a layer of n neurons: pairs of a label and the family, by name.

    Of 16,000 neurons a bucket of SimHash has a quarter to a 64th where codes are equally likely; K
    grows with the logarithm of n. Smaller ones find nearly nothing, even with 100 tables.
    """
    extra = round(math.log2(n)) - 14
    bits = {k: max(1, k + extra) for k in (2, 3, 4, 6)}
    found = {name: [] for name in STYLES}

    def add(name, label, made):
        # made(L) is the family with so many tables
        for tables in N_TABLES:
            found[name].append((label.format(L=tables), made(tables)))

    for k in (bits[3], bits[4], bits[6]):
        add("SimHash", f"K={k}, L={{L}}", lambda t, k=k: SimHash(k, t))
        add("SimHash, centred", f"K={k}, L={{L}}", lambda t, k=k: centred(SimHash(k, t)))
    k = bits[6]
    add("SimHash", f"K={k}, L={{L}}, 20 probes", lambda t: SimHash(k, t, n_probes=min(20, 2**k)))
    for k in (bits[2], bits[4]):
        for ranges, centre in ((1, False), (8, False), (1, True)):
            add(
                "SimHash, Simple-LSH",
                f"K={k}, L={{L}}" + ", 8 ranges" * (ranges > 1) + ", centred" * centre,
                lambda t, k=k, r=ranges, c=centre: Transformed(SimHash(k, t), "simple_lsh", r, c),
            )
    for transform, dims in ((None, (16,)), ("simple_lsh", (4, 8, 16))):
        for dim in dims:
            add(
                "CrossPolytope",
                f"K=1, L={{L}}, dim {dim}" + ", Simple-LSH" * bool(transform) + ", centred",
                lambda t, to=transform, d=dim: centred(CrossPolytope(1, t, "gaussian", d), to),
            )
    add("E2LSH, L2-ALSH", "K=3, L={L}, width 1, 5 probes", lambda t: E2LSH(3, t, 1.0, n_probes=5))
    for k in (2, 3):
        add(
            "E2LSH, L2-ALSH",
            f"K={k}, L={{L}}, width 2, centred",
            lambda t, k=k: centred(E2LSH(k, t, 2.0, None), "l2_alsh"),
        )
    for k, bins in ((4, 2), (6, 2), (3, 4), (2, 8)):
        label = f"K={k} of {bins}, L={{L}}, centred"
        add("DWTA", label, lambda t, k=k, bins=bins: centred(DWTA(k, t, bins)))
    add("DWTA", "K=4 of 2, L={L}", lambda t: DWTA(4, t, 2))
    for largest in (32, 64):
        label = f"K=1, L={{L}}, {largest} largest"
        add("MinHash", label, lambda t, largest=largest: MinHash(1, t, largest))
    add("MinHash", label + ", centred", lambda t: centred(MinHash(1, t, 64)))
    for k in (bits[3], bits[4]):
        add("Learned", f"K={k}, L={{L}}", lambda t, k=k: Learned(k, t))
    return {name: grid for name, grid in found.items() if grid}


def centred(family, transform=None):
    return Transformed(family, transform, centred=True)


class Snapshot:
    """Weights and inputs, what is to be found, and what was."""

    def __init__(self, before, after, inputs, shown):
        self.before, self.after, self.shown = before, after, shown
        self.queries = families.rows(inputs)
        truth = np.argsort(-(inputs @ after.T), axis=1, kind="stable")[:, : families.TOP]
        self.parts = {"search": slice(0, SEARCH), "rest": slice(SEARCH, None)}
        self.truth = {part: truth[rows] for part, rows in self.parts.items()}
        self.n = len(after)

    def tables(self, sampler, old=False, rebuilds=0):
        """The kernel with tables of these weights or, if `old`, of those before; and weights."""
        after = self.before if old else self.after
        active, p, _ = families.prepared(
            sampler, self.before, after, self.queries, self.shown, 1, 0, rebuilds
        )
        return active, p

    def point(self, setting, part, retrieve):
        """Measure what `retrieve` finds for a part of the queries."""
        queries, truth = self.queries[self.parts[part]], self.truth[part]
        start = time.perf_counter()
        found = retrieve(queries)
        seconds = (time.perf_counter() - start) / len(queries)
        hits = [np.isin(a, b).mean() for a, b in zip(truth, found, strict=True)]
        error = np.std(hits) / math.sqrt(len(hits))
        share = np.mean([len(ids) for ids in found]) / self.n
        return Point(setting, float(np.mean(hits)), float(error), float(share), seconds)

    def ranked(self, family):
        """Points of a family without codes, which has a default setting for every share."""
        active, p = self.tables(ranking(family), rebuilds=families.LEARNT)
        for share in SHARES:
            most = int(share * self.n)

            def retrieve(queries, most=most):
                return active.retriever.query(queries, most, 0, None, p)

            yield self.point("default", "rest", retrieve)

    def drawn(self, most, old=False, rebuilds=families.LEARNT):
        """The point of the default sampler with a budget of so many neurons."""
        sampler = copy.copy(default(self.n))
        sampler.max_active = most
        active, p = self.tables(sampler, old, rebuilds)
        step = (1 + families.LEARNT) * families.BEHIND  # the last one: nothing is rebuilt again

        def retrieve(queries):
            # As in training: a thread's next samples share the work on the sketches.
            own = active.select_batch(p, queries, [[]] * len(queries), step=step)[2]
            return [ids for ids, _ in own]

        return self.point("default", "rest", retrieve)

    def searched(self, grid):
        """Points of a family of codes: the best settings of the grid at each share."""
        tried = []
        for label, family in grid:
            learns = isinstance(family, Learned)
            active, p = self.tables(ranking(family), rebuilds=families.LEARNT if learns else 0)
            for name, strategy, least, most in asked(family.n_tables, self.n):

                def retrieve(queries, of=(active.retriever, strategy, least, most, p)):
                    retriever, strategy, least, most, p = of
                    retriever.equip(strategy, least)
                    return retriever.query(queries, most, 0, None, p)

                tried.append((self.point(f"{label}, {name}", "search", retrieve), retrieve))
        chosen = {}
        for share in SHARES:
            below = [one for one in tried if one[0].share <= share]
            if below:
                best, retrieve = max(below, key=lambda one: (one[0].recall, -one[0].seconds))
                chosen[best.setting, best.share] = retrieve
        for (setting, _), retrieve in chosen.items():
            yield self.point(setting, "rest", retrieve)


def ranking(family):
    """A sampler of the family, for queries that say how many neurons they want."""
    return LSH(family, SHARES[-1], rebuild_every=families.BEHIND)


def default(n):
    """The part of the default sampler that draws."""
    return sampling.Auto().mixture(n).samplers[0]


def asked(n_tables, n):
    """Name, strategy, least collisions and most neurons of what tables are asked for."""
    most = int(SHARES[-1] * n)
    for share in SHARES:
        yield "vanilla", "vanilla", 1, int(share * n)
        yield "top-k", "top_k", 1, int(share * n)
    yield "union", "union", 1, most
    for least in COLLISIONS:
        if 2 * least <= n_tables:
            yield f"threshold {least}", "threshold", least, most


def frontier(points):
    """Of every share the point with the largest recall that has no more neurons, or None."""
    best = []
    for share in SHARES:
        below = [point for point in points if point.share <= share]
        best.append(max(below, key=lambda point: point.recall, default=None))
    return best


def measure(snapshot, only):
    """{family: points} on a snapshot; none are measured before they are asked for."""
    systems = {name: snapshot.searched(grid) for name, grid in grids(snapshot.n).items()}
    systems["Clusters"] = snapshot.ranked(Clusters())
    systems["Sketches, largest"] = snapshot.ranked(Sketches())
    systems[DRAWN] = map(snapshot.drawn, [int(share * snapshot.n) for share in SHARES])
    own = default(snapshot.n).max_active
    for name, (old, rebuilds) in TABLES.items():
        how = functools.partial(snapshot.drawn, old=old, rebuilds=rebuilds)
        systems[f"{DRAWN}: {name}"] = map(how, [own])
    return {
        name: list(points) for name, points in systems.items() if not only or name.startswith(only)
    }


def table(name, n, n_queries, found, where):
    """One row per family: recall by epoch and share; setting and cost at the last of both."""
    epochs = list(found)
    header = ["family"]
    header += [f"epoch {epoch}, {100 * share:g}%" for epoch in epochs for share in IN_TABLES]
    header += ["us a query", f"setting at {100 * IN_TABLES[-1]:g}%, epoch {epochs[-1]}"]
    lines = []
    for family in STYLES:
        if family not in found[epochs[-1]]:
            continue
        line, point = [family], None
        for epoch in epochs:
            best = dict(zip(SHARES, frontier(found[epoch][family]), strict=True))
            for share in IN_TABLES:
                point = best[share]
                line.append("" if point is None else f"{point.recall:.3f}")
        line += ["", ""] if point is None else [f"{1e6 * point.seconds:.0f}", point.setting]
        lines.append(line)
    title = (
        f"{name}: recall@{families.TOP} of {n:,} neurons by epoch and largest share retrieved, on "
        f"{n_queries - SEARCH:,} queries; settings of families of codes were chosen with {SEARCH} "
        f"others. Times of queries on one thread; those of the draw in blocks, as in training."
    )
    return _common.markdown_table(header, lines, f"{title} {where}")


def default_table(results, where):
    """What the default sampler draws with its own budget, by set and epoch."""
    header = ["set", "neurons", "epoch", "at most", "drawn"]
    header += [f"recall@{families.TOP}, tables {name}" for name in TABLES]
    lines = []
    for name, (n, _, found) in results.items():
        for epoch, points in found.items():
            own = [points[f"{DRAWN}: {how}"][0] for how in TABLES]
            line = [name, f"{n:,}", f"{epoch}", f"{default(n).max_active}"]
            line += [f"{100 * own[0].share:.2f}%"]
            line += [f"{point.recall:.3f} ± {point.error:.3f}" for point in own]
            lines.append(line)
    title = (
        f'What sampler="auto" draws for the same queries, without labels, and standard errors. '
        f"Tables as in training have had {families.LEARNT} rebuilds with older weights before the "
        f"last one; those that are old are rebuilds of weights {families.BEHIND} steps before."
    )
    return _common.markdown_table(header, lines, f"{title} {where}")


def draw(results, path):
    """The figure: a row of panels for each set, a column for each epoch."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib import ticker

    height, width = len(results), max(len(found) for *_, found in results.values())
    settings = {**_common.FIGURE, "lines.markersize": 4, "svg.hashsalt": "frontier"}
    with plt.rc_context(settings):
        figure, axes = plt.subplots(
            height,
            width,
            figsize=(2.1 * width + 2.2, 1.9 * height + 0.6),
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for panels, (name, (*_, found)) in zip(axes, results.items(), strict=True):
            for panel, (epoch, points) in zip(panels, found.items(), strict=False):
                for family, (color, marker) in STYLES.items():
                    best = frontier(points.get(family, []))
                    shown = [
                        (100 * share, point.recall)
                        for share, point in zip(SHARES, best, strict=True)
                        if point is not None
                    ]
                    if shown:
                        x, y = zip(*shown, strict=True)
                        panel.plot(x, y, color=color, marker=marker, label=family)
                shares = [100 * share for share in SHARES]
                uniform = [share / 100 for share in shares]
                panel.plot(shares, uniform, color="#bbbbbb", ls="--", lw=1, label="uniform")
                for own in points.get(f"{DRAWN}: {next(iter(TABLES))}", ()):
                    style = {"color": STYLES[DRAWN][0], "marker": "*", "ms": 9, "ls": ""}
                    panel.plot(100 * own.share, own.recall, label='sampler="auto"', **style)
                panel.set_title(f"{name}, epoch {epoch}", loc="left")
        axes[0, 0].set(xscale="log", ylim=(0, 1.03))
        axes[0, 0].xaxis.set_major_locator(ticker.FixedLocator([100 * share for share in SHARES]))
        axes[0, 0].xaxis.set_major_formatter(
            ticker.FuncFormatter(lambda value, _: f"{value:g}".replace("0.", "."))
        )
        axes[0, 0].xaxis.set_minor_locator(ticker.NullLocator())
        figure.supxlabel("active neurons, % of the layer", fontsize=9)
        figure.supylabel(f"recall@{families.TOP}", fontsize=9)
        labelled = {
            label: handle
            for panel in axes.flat
            for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        figure.legend(labelled.values(), labelled.keys(), loc="outside right center", fontsize=8)
        # Without the date, the same results give the same file.
        metadata = {"Date": None} if str(path).endswith(".svg") else None
        figure.savefig(path, metadata=metadata, dpi=150)
        plt.close(figure)


def run(options):
    """Records of the machine and of every point of every set, epoch and family."""
    records = [{"record": "machine", **_common.loaded_machine()}]
    for name in options.sets:
        for epoch, before, after, inputs, shown in families.snapshots(name, options):
            snapshot = Snapshot(before, after, inputs[: options.queries], shown)
            about = {"record": "point", "set": name, "neurons": snapshot.n, "epoch": epoch}
            about["queries"] = len(snapshot.queries)
            for family, points in measure(snapshot, tuple(options.only)).items():
                records += [{**about, "family": family, **point._asdict()} for point in points]
    return records


def results_of(records):
    """{set: (neurons, queries, {epoch: {family: points}})} of the records."""
    results = {}
    for line in _common.select(records, "point"):
        _, _, found = results.setdefault(line["set"], (line["neurons"], line["queries"], {}))
        points = found.setdefault(line["epoch"], {}).setdefault(line["family"], [])
        points.append(Point(*(line[field] for field in Point._fields)))
    return results


def main():
    options = families.snapshot_options(__doc__, [1, 2, 5, 10], 1)
    options.add_argument(
        "--only", nargs="+", default=(), metavar="FAMILY", help="names' beginnings"
    )
    options.add_argument("--out", help="file for all results as JSON lines")
    options.add_argument(
        "--redraw", action="store_true", help="tables and figure again from the lines of --out"
    )
    options.add_argument("--figure", help="file for the figure, .svg or .png")
    parser, options = options, options.parse_args()
    if options.redraw and not options.out:
        parser.error("--redraw needs --out, the file to draw from")
    if options.redraw:
        records = [json.loads(line) for line in Path(options.out).read_text("utf-8").splitlines()]
    else:
        records = run(options)
    if options.out and not options.redraw:
        text = "".join(json.dumps(record) + "\n" for record in records)
        Path(options.out).write_text(text, encoding="utf-8")
    results, where = results_of(records), _common.where(_common.select(records, "machine")[0])
    tables = [table(name, *result, where) for name, result in results.items()]
    if _common.select(records, "point", family=DRAWN):
        tables.append(default_table(results, where))
    if options.figure:
        draw(results, options.figure)
    _common.publish("\n".join(tables), [], options.markdown)


if __name__ == "__main__":
    main()
