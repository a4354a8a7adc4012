"""How the cost of a training sample grows: with outputs, active set, hidden layer and threads.

    python benchmarks/scaling.py --markdown scaling.md --figures docs/benchmarks/figures

Every point is a process of its own that trains on synthetic points (see `synthetic.py`) of 135,909
features. What is fixed is the active set: budgets are numbers of neurons, not shares of the layer.
The outputs' weights start where training would bring them (see `clocked.py`), so that samples of
different labels retrieve different neurons. A sample's cost is the time of its phases and its share
of the tables' rebuilds: the time of one, over the samples until the next. The optimizer's state is
touched before.

The exponent a of "cost ~ outputs^a" is the slope of the least squares line through the logarithms
of the points with at least 10,000 outputs.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np
from _common import (
    HERE,
    cache_directory,
    caption,
    emit,
    load_set,
    make_jobs,
    markdown_table,
    mean,
    median,
    number,
    parser,
    peak_rss_mb,
    publish,
    run_rounds,
    run_worker,
    save_set,
    select,
    versions,
)
from synthetic import label_features, make_xmc

OUTPUTS = (10_000, 50_000, 200_000, 670_091, 2_000_000)
QUICK_OUTPUTS = (10_000, 100_000)
BUDGETS = (50, 200, 800)
WIDTHS = (32, 128, 512)
BASE_OUTPUTS, BASE_BUDGET, BASE_WIDTH = 200_000, 200, 128
N_FEATURES = 135_909
SAMPLERS = ("default", "SimHash", "Clusters", "Sketches", "Sketches, 16384 candidates")

# What is not a phase of the output layer.
BELOW = ("below: update", "rest")


def make_sampler(name, n_outputs, budget):
    """The sampler of an output layer: so many neurons are retrieved, whatever its size."""
    from slide import hashing, sampling

    if name == "default":
        # What "auto" is at Amazon-670K's size, at all sizes.
        return sampling.Auto().mixture(670_091)
    hash = {
        # Buckets of about 40 neurons.
        "SimHash": lambda: hashing.SimHash(max(6, round(np.log2(n_outputs / 40))), 10),
        "Clusters": hashing.Clusters,
        "Sketches": hashing.Sketches,
        "Sketches, 16384 candidates": lambda: hashing.Sketches(candidates=min(n_outputs, 16_384)),
    }[name]()
    return sampling.Mixture(
        [
            # Only SimHash may find fewer; random ones take their place then.
            sampling.LSH(hash, max_active=budget, min_active=budget),
            sampling.Frequent(250),
            sampling.Uniform(200, shared=False),
        ]
    )


def points(quick):
    """Name -> (what is varied, sampler, outputs, budget, width)."""
    outputs = QUICK_OUTPUTS if quick else OUTPUTS
    base = QUICK_OUTPUTS[-1] if quick else BASE_OUTPUTS
    found = {}
    for sampler in SAMPLERS:
        for n in outputs:
            found[f"{sampler}: {n} outputs"] = ("outputs", sampler, n, BASE_BUDGET, BASE_WIDTH)
    for budget in BUDGETS:
        found[f"Clusters: {budget} retrieved"] = ("budget", "Clusters", base, budget, BASE_WIDTH)
    for width in WIDTHS:
        found[f"Clusters: {width} hidden"] = ("width", "Clusters", base, BASE_BUDGET, width)
    return found


# All names, for the command line.
POINTS = {**points(True), **points(False)}


def write_data(path, n_outputs, samples):
    """Worker: make a data set of that many labels and write it to a file."""
    x, y = make_xmc(samples, n_features=N_FEATURES, n_labels=n_outputs)
    save_set(path, x, y, x[:1], y[:1])


def train(options):
    """Worker: time the training of one point."""
    from clocked import Trained

    from slide.sampling import default_every

    _, sampler, n_outputs, budget, width = {**points(False), **points(options.quick)}[
        options.worker
    ]
    emit("start", versions=versions("slide-learn"))
    x, y, _, _ = load_set(options.data)
    threads = options.threads[0]
    batches = x.shape[0] // options.batch_size
    trained = Trained(
        x,
        y,
        make_sampler(sampler, n_outputs, budget),
        hidden=width,
        batch_size=options.batch_size,
        n_threads=threads,
        warm_up=x.shape[0] // 2,
        learning_rate=options.learning_rate,
        prototypes=label_features(N_FEATURES, n_outputs),
        seed=options.seed,
    )
    first = trained.active_set.maintenance()["seconds"]
    runs = [trained.times(max(1, batches // 4), seed) for seed in range(4)]
    seconds = {
        name: median(run[0][name] for run in runs) for name in runs[0][0] if runs[0][0][name] > 0
    }
    counts = {name: mean(run[1][name] for run in runs) for name in runs[0][1]}
    rebuild, every = trained.rebuild(), default_every(n_outputs)
    seconds["rebuilds"] = rebuild / (every * options.batch_size)
    emit(
        "training",
        phases=seconds,
        seconds=sum(seconds.values()),
        output_seconds=sum(value for name, value in seconds.items() if name not in BELOW),
        counts=counts,
        rebuild_seconds=rebuild,
        rebuild_every=every,
        maintenance_before=first,
        peak_rss_mb=round(peak_rss_mb(), 1),
    )


# ---------------------------------------------------------------- results


def exponent(x, y):
    """Slope of the least squares line through the logarithms; None with fewer than two points."""
    if len(set(x)) < 2:
        return None
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def series(records, options, varied, sampler, threads, field="seconds"):
    """The varied number and the median cost of every point that was run, in ascending order."""
    column = {"outputs": 2, "budget": 3, "width": 4}[varied]
    found = []
    for name, point in points(options.quick).items():
        if point[:2] == (varied, sampler):
            lines = select(records, "training", system=name, threads=threads)
            if lines:
                found.append((point[column], median(line[field] for line in lines)))
    return sorted(found)


def point_table(records, options):
    """One row per point and thread count: cost, and its parts."""
    header = ["point", "threads", "us a sample", "output layer", "query", "dot", "shared"]
    header += ["update", "rest", "rebuilds", "own neurons", "distinct", "peak MB"]
    rows = []
    for name in options.only:
        for threads in options.threads:
            lines = select(records, "training", system=name, threads=threads)
            if not lines:
                continue

            def phase(*names, lines=lines):
                return number(
                    1e6 * sum(median(line["phases"].get(one, 0) for line in lines) for one in names)
                )

            rows.append(
                [
                    name,
                    str(threads),
                    number(1e6 * median(line["seconds"] for line in lines)),
                    number(1e6 * median(line["output_seconds"] for line in lines)),
                    phase("query"),
                    phase("dot"),
                    phase("shared"),
                    phase("update"),
                    phase(*BELOW),
                    phase("rebuilds"),
                    number(mean(line["counts"]["rows"] for line in lines), 0),
                    number(mean(line["counts"]["distinct"] for line in lines), 0),
                    number(max(line["peak_rss_mb"] for line in lines), 0),
                ]
            )
    title = (
        f"Cost of a training sample and its parts, in microseconds: {N_FEATURES:,} features, batch "
        f"{options.batch_size}, Adam; {BASE_WIDTH} hidden, {BASE_BUDGET} retrieved neurons and 200 "
        "random ones unless the name says otherwise. Distinct: different own neurons of a batch, "
        "over its size."
    )
    return markdown_table(header, rows, caption(title, records))


def exponent_table(records, options):
    """One row per sampler and thread count: the exponents in the number of outputs."""
    rows = []
    for sampler in SAMPLERS:
        for threads in options.threads:
            row = [sampler, str(threads)]
            for field in ("seconds", "output_seconds"):
                found = series(records, options, "outputs", sampler, threads, field)
                row.append(number(exponent(*zip(*found, strict=True)), 2) if found else "n/a")
            if row[2:] != ["n/a", "n/a"]:
                rows.append(row)
    for varied, text in (("budget", "retrieved neurons"), ("width", "hidden neurons")):
        for threads in options.threads:
            row = [f"Clusters, in {text}", str(threads)]
            for field in ("seconds", "output_seconds"):
                found = series(records, options, varied, "Clusters", threads, field)
                row.append(number(exponent(*zip(*found, strict=True)), 2) if found else "n/a")
            if row[2:] != ["n/a", "n/a"]:
                rows.append(row)
    title = "Exponents a of cost ~ outputs^a (the last rows: in what they name), by least squares."
    header = ["sampler", "threads", "a sample", "its output layer"]
    return markdown_table(header, rows, caption(title, records))


def draw(records, options, folder):
    """One figure: cost against outputs by sampler, its parts by outputs, budget and width."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colors = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
    settings = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e6e6e6",
        "axes.axisbelow": True,
        "legend.frameon": False,
        "svg.hashsalt": "scaling",
        "svg.fonttype": "path",
    }
    styles = dict(zip(options.threads, ("-", "--", ":", "-."), strict=False))
    with plt.rc_context(settings):
        figure, panels = plt.subplots(2, 2, figsize=(8, 6.4), layout="constrained")
        for color, marker, sampler in zip(colors, "osD^v", SAMPLERS, strict=False):
            for threads, style in styles.items():
                found = series(records, options, "outputs", sampler, threads)
                if found:
                    x, y = zip(*found, strict=True)
                    slope = exponent(x, y)
                    text = f"{sampler}, {threads} thr."
                    if slope is not None:
                        text += f": {slope:.2f}"
                    y = [1e6 * value for value in y]
                    panels[0, 0].plot(x, y, style, color=color, marker=marker, ms=4, label=text)
        panels[0, 0].set(xlabel="outputs", ylabel="us a sample", title="all phases, exponents")
        panels[0, 0].legend(fontsize=6)
        stack(panels[0, 1], records, options, colors)
        for panel, varied, text in (
            (panels[1, 0], "budget", "retrieved neurons"),
            (panels[1, 1], "width", "hidden neurons"),
        ):
            for threads, style in styles.items():
                found = series(records, options, varied, "Clusters", threads)
                if found:
                    x, y = zip(*found, strict=True)
                    y = [1e6 * value for value in y]
                    panel.plot(x, y, style, color=colors[2], marker="o", ms=4, label=f"{threads}")
            panel.set(xlabel=text, ylabel="us a sample", title=f"Clusters, by {text}")
            if panel.lines:
                panel.legend(title="threads")
        for panel in (panels[0, 0], panels[1, 0], panels[1, 1]):
            if panel.lines:
                panel.set(xscale="log", yscale="log")
        path = Path(folder) / "scaling.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
    return path


def stack(panel, records, options, colors):
    """The default sampler's cost by phase, on the first number of threads."""
    parts = {
        "hidden layer, loss": BELOW,
        "query": ("query",),
        "dot": ("dot",),
        "shared": ("shared",),
        "update": ("update",),
        "rebuilds": ("rebuilds",),
    }
    x, heights = [], {part: [] for part in parts}
    for name, point in points(options.quick).items():
        lines = select(records, "training", system=name, threads=options.threads[0])
        if point[:2] == ("outputs", "default") and lines:
            x.append(f"{point[2]:,}")
            for part, names in parts.items():
                heights[part].append(
                    1e6 * sum(median(line["phases"].get(one, 0) for line in lines) for one in names)
                )
    below = np.zeros(len(x))
    for (part, values), color in zip(heights.items(), colors, strict=False):
        panel.bar(x, values, bottom=below, color=color, label=part, width=0.6)
        below += values
    panel.set(xlabel="outputs", ylabel="us a sample", title="default, by phase")
    panel.tick_params("x", labelsize=7)
    panel.legend(fontsize=7)


def main():
    options = parser(__doc__, list(POINTS))
    options.set_defaults(learning_rate=1e-2, repeats=1, threads=[1, 2], only=None)
    options.add_argument("--samples", type=int, help="training points (16,384; quick: 4,096)")
    options.add_argument("--quick", action="store_true", help="few and small points")
    options.add_argument("--figures", help="folder for the figure")
    options.add_argument(
        "--redraw", action="store_true", help="tables and figure again from the lines of --out"
    )
    options.add_argument("--outputs", type=int, default=0, help="of the data worker")
    options = options.parse_args()
    options.samples = options.samples or (4096 if options.quick else 16_384)
    if options.worker == "data":
        return write_data(options.data, options.outputs, options.samples)
    if options.worker:
        return train(options)
    chosen = points(options.quick)
    options.only = [name for name in options.only or chosen if name in chosen]

    recipe = f"{zlib.crc32((HERE / 'synthetic.py').read_bytes()):08x}"
    files = {}
    for n in sorted({chosen[name][2] for name in options.only}):
        path = cache_directory() / f"scaling-{n}-{options.samples}-{recipe}.npz"
        files[n] = path
        if not path.exists():
            make = [sys.executable, __file__, "--worker=data", f"--data={path}"]
            run_worker([*make, f"--samples={options.samples}", f"--outputs={n}"], 1)

    def command(name, threads, round_number):
        return [
            sys.executable,
            __file__,
            f"--worker={name}",
            f"--data={files[chosen[name][2]]}",
            f"--seed={round_number}",
            f"--threads={threads}",
            f"--batch-size={options.batch_size}",
            f"--learning-rate={options.learning_rate}",
            *(["--quick"] if options.quick else []),
        ]

    jobs = make_jobs(options.only, options.threads, command)
    # With more threads only the default's points are run: the others' parallel work is the same.
    jobs = [
        job
        for job in jobs
        if job[0]["threads"] == min(options.threads) or job[0]["system"].startswith("default")
    ]
    if options.redraw:
        lines = Path(options.out).read_text(encoding="utf-8").splitlines()
        records, failed = [json.loads(line) for line in lines], []
    else:
        records, failed = run_rounds(jobs, options.repeats, out=options.out)
    if options.figures:
        print(draw(records, options, options.figures), file=sys.stderr)
    text = point_table(records, options) + "\n" + exponent_table(records, options)
    return publish(text, failed, options.markdown)


if __name__ == "__main__":
    main()
