"""The figures: one function for each experiment, from the rows of its CSV file."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from _common import FIGURE
from grid import METHODS, REPLICATION
from matplotlib import ticker
from summaries import distinct, where, worker_groups

# Okabe and Ito's colours, which colour-blind readers can tell apart; markers say the same again.
STYLES = {
    "NN": ("#000000", "s"),
    "VD": ("#E69F00", "v"),
    "AD": ("#56B4E9", "^"),
    "WTA": ("#009E73", "D"),
    "ALSH": ("#CC79A7", "P"),
    "LSH": ("#D55E00", "o"),
    "RANK": ("#0072B2", "X"),
    "torch": ("#888888", "x"),
    "torch, fused Adagrad": ("#888888", "+"),
}
SERIES = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#888888")
MARKERS = "osD^vPX<"
NAMES = {
    **{key: f"{key}: {what}" for key, what in METHODS.items()},
    "torch": "PyTorch, all neurons",
    "torch, fused Adagrad": "PyTorch, its fused Adagrad",
}
SET_NAMES = {
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "rectangles": "RECTANGLES",
    "rectangles-images": "RECTANGLES-images",
    "convex": "CONVEX",
}
SETTINGS = {**FIGURE, "lines.markersize": 4.5, "svg.hashsalt": "kdd2017"}


def last_epochs(rows):
    """Of every run the row of its last epoch."""
    last = {}
    for row in rows:
        last[row["run"]] = row
    return list(last.values())


def _line(axes, x, y, style, label, **more):
    color, marker = style
    axes.plot(x, y, color=color, marker=marker, label=label, **more)


def _legend(figure, axes, **more):
    """One legend for all panels, outside of them, without what is there twice."""
    found = {}
    for panel in np.ravel(axes):
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    options = {"loc": "outside right center", **more}
    figure.legend(found.values(), found.keys(), **options)


def _plain(axis, subs=(1.0,)):
    """Numbers instead of powers on a logarithmic axis, at 1, 10, ... and these multiples."""
    axis.set_major_locator(ticker.LogLocator(subs=subs))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def _layers(count):
    return f"{count} hidden layer" + "s" * (count > 1)


def accuracy(rows):
    """Accuracy against active fraction: a column for each data set, a row for each depth."""
    rows = last_epochs(rows)
    sets, depths = distinct(rows, "data"), distinct(rows, "depth")
    size = (1.9 * len(sets) + 2.0, 1.9 * len(depths) + 0.6)
    figure, axes = plt.subplots(
        len(depths), len(sets), figsize=size, sharex=True, sharey="col", squeeze=False
    )
    for i, depth in enumerate(depths):
        for j, name in enumerate(sets):
            panel = axes[i, j]
            for method in METHODS:
                part = sorted(
                    where(rows, data=name, depth=depth, method=method),
                    key=lambda row: row["fraction"],
                )
                if not part:
                    continue
                if method == "NN":
                    for row in part:
                        panel.axhline(
                            row["accuracy"], color="black", ls="--", lw=1, label=NAMES["NN"]
                        )
                    continue
                x = [100 * row["fraction"] for row in part]
                y = [row["accuracy"] for row in part]
                _line(panel, x, y, STYLES[method], NAMES[method])
            ticks = sorted({100 * row["fraction"] for row in rows if row["method"] != "NN"})
            # 5 and 10 are too near to each other for two labels.
            panel.set_xticks(ticks, ["" if t == 10 and len(ticks) > 3 else f"{t:g}" for t in ticks])
            if i == 0:
                panel.set_title(SET_NAMES[name])
            if j == 0:
                panel.set_ylabel(f"{_layers(depth)}\ntest accuracy (%)")
    # Vanilla dropout can fall so low that nothing else could be told apart: it leaves the panels.
    for j, name in enumerate(sets):
        values = [r["accuracy"] for r in where(rows, data=name) if r["method"] != "VD"]
        margin = 0.06 * (max(values) - min(values)) + 0.1
        axes[0, j].set_ylim(min(values) - margin, max(values) + margin)
    figure.supxlabel("active neurons of each hidden layer (%)", fontsize=9)
    _legend(figure, axes)
    return figure


def depth(rows):
    """Accuracy against depth: measured, and the published replication."""
    rows = last_epochs(rows)
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 2.9), sharey=True)
    for method in ("NN", "AD", "ALSH", "LSH"):
        part = where(rows, method=method)
        _line(
            axes[0],
            [row["depth"] for row in part],
            [row["accuracy"] for row in part],
            STYLES[method],
            NAMES[method],
        )
        if method in REPLICATION:
            values = REPLICATION[method]
            _line(axes[1], range(1, len(values) + 1), values, STYLES[method], NAMES[method])
    axes[0].set_title("measured here")
    axes[1].set_title("replication, arXiv 2306.09293")
    axes[0].set_ylabel("test accuracy on MNIST (%)")
    for panel in axes:
        panel.set_xlabel("hidden layers")
        panel.set_xticks(range(1, 8))
        panel.set_ylim(0, 101)
    _legend(figure, axes)
    return figure


def collapse(rows):
    """Accuracy against depth, one line for each configuration that lacks something."""
    rows = last_epochs(rows)
    figure, axes = plt.subplots(figsize=(6.4, 3.0))
    for i, name in enumerate(distinct(rows, "ablation")):
        part = where(rows, ablation=name)
        style = SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)]
        _line(axes, [r["depth"] for r in part], [r["accuracy"] for r in part], style, name)
    axes.set_xticks(distinct(rows, "depth"))
    axes.set_xlabel("hidden layers")
    axes.set_ylabel("test accuracy on MNIST (%)")
    axes.set_ylim(0, 101)
    _legend(figure, axes)
    return figure


def workers(rows):
    """Accuracy against epochs: many workers, and how well the simulation agrees with threads."""
    figure, axes = plt.subplots(1, 2, figsize=(8.0, 3.0), sharey=True)
    seed = min(row["seed"] for row in rows)
    for i, (label, kind, count) in enumerate(worker_groups(rows)):
        part = where(rows, kind=kind, workers=count)
        style = SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)]
        one = where(part, seed=seed)
        _line(axes[0], [r["epoch"] for r in one], [r["accuracy"] for r in one], style, label)
        if count <= 2:
            epochs = distinct(part, "epoch")
            values = [[r["accuracy"] for r in where(part, epoch=epoch)] for epoch in epochs]
            # Side by side, so that bars of equal height do not hide each other.
            axes[1].errorbar(
                np.array(epochs) + 0.08 * (i - 1),
                [np.mean(v) for v in values],
                [np.std(v, ddof=1) if len(v) > 1 else 0 for v in values],
                color=style[0],
                marker=style[1],
                capsize=2,
                label=label,
            )
    axes[0].set_title(f"one seed ({seed})")
    axes[1].set_title(f"mean and standard deviation of {len(distinct(rows, 'seed'))} seeds")
    axes[0].set_ylabel("test accuracy on MNIST (%)")
    for panel in axes:
        panel.set_xlabel("epoch")
        panel.set_xticks(distinct(rows, "epoch"))
    _legend(figure, axes)
    return figure


def conflicts(rows):
    """Share of neurons, and of weights between layers, that both samples of a pair have active."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.2))
    for panel, kind, power in zip(axes, ("neurons", "weights"), (2, 4), strict=True):
        part = [r for r in rows if r["what"].startswith(kind) and r["pairs"] == "any"]
        shares = []
        for i, what in enumerate(distinct(part, "what")):
            for method, dashes in (("LSH", "-"), ("WTA", ":")):
                line = where(part, what=what, method=method)
                # Of two layers' weights s^2 are active: x is s in both panels.
                x = [100 * r["active"] ** (2 / power) for r in line]
                y = [100 * r["overlap"] for r in line]
                unit = "layers" if kind == "weights" else "layer"
                label = f"{method}, {unit} {what.split()[1]}"
                color = STYLES[method][0]
                panel.plot(x, y, color=color, marker=MARKERS[i], ls=dashes, label=label, alpha=0.85)
                shares += x
        ends = np.array([min(shares), max(shares)])
        line = {"color": "black", "ls": "--", "lw": 1, "label": f"independent: $s^{power}$"}
        panel.plot(ends, 100 * (ends / 100) ** power, **line)
        panel.set_xscale("log")
        panel.set_yscale("log")
        _plain(panel.xaxis, (1, 2, 5))
        _plain(panel.yaxis)
        panel.set_xlabel("neurons of a layer active for one sample, s (%)")
        panel.set_ylabel(f"{kind} active for both samples (%)")
        panel.legend(fontsize=7, loc="lower right")
    axes[0].set_title("neurons")
    axes[1].set_title("weights between two layers")
    return figure


def time(rows):
    """Accuracy against seconds and against multiplications, both spent so far."""
    figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.0), sharey=True)
    for name in STYLES:
        part = where(rows, system=name)
        if not part:
            continue
        y = [row["accuracy"] for row in part]
        seconds = np.cumsum([row["seconds"] for row in part])
        products = np.cumsum([row["products"] * row["samples"] for row in part])
        dashes = {"ls": ":"} if "fused" in name else {}
        _line(axes[0], seconds, y, STYLES[name], NAMES[name], **dashes)
        _line(axes[1], products, y, STYLES[name], NAMES[name], **dashes)
    threads = distinct(rows, "threads")[0]
    axes[0].set_xlabel(f"training time (s), {threads} thread" + "s" * (threads > 1))
    axes[1].set_xlabel("multiplications in training")
    axes[0].set_ylabel("test accuracy on MNIST (%)")
    for panel in axes:
        panel.set_xscale("log")
    # Both dropouts may be far below all others, which could then not be told apart.
    values = [row["accuracy"] for row in rows if row["system"] not in ("VD", "AD")]
    margin = 0.05 * (max(values) - min(values)) + 0.1
    axes[0].set_ylim(min(values) - margin, max(values) + margin)
    _plain(axes[0].xaxis, (1, 2, 5))
    _legend(figure, axes)
    return figure


FIGURES = {
    "accuracy": accuracy,
    "depth": depth,
    "collapse": collapse,
    "workers": workers,
    "conflicts": conflicts,
    "time": time,
}


def save(name, rows, *paths):
    """Draw an experiment's figure and write it to files; their endings say in which format."""
    with plt.rc_context({**SETTINGS, "figure.constrained_layout.use": True}):
        figure = FIGURES[name](rows)
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            # No date in an SVG: the same rows make the same file.
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(path, dpi=150, metadata=metadata)
        plt.close(figure)
