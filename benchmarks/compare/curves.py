"""The figure: P@1 against seconds of training."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from _common import FIGURE, median, select
from matplotlib import ticker
from peers import BY_NAME, REFERENCE
from ranking import curve, rounds_of, targets

# Okabe and Ito's colours, which colour-blind readers can tell apart; markers say the same again.
COLORS = ("#D55E00", "#000000", "#888888", "#56B4E9", "#0072B2", "#009E73", "#E69F00", "#F0E442")
COLORS += ("#CC79A7", "#44AA99", "#882255", "#AA8866", "#332288", "#117733", "#DDAACC")
MARKERS = ("o", "h", "s", "x", "v", "^", "D", "P", "*", "X", "d", "<", ">")
STYLES = {
    name: (COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(BY_NAME)
}
SETTINGS = {**FIGURE, "lines.markersize": 5, "svg.hashsalt": "compare"}


def middle(curves):
    """The median of several rounds' curves, epoch by epoch: seconds, and P@1."""
    epochs = min(len(points) for points in curves)
    return (
        [median(points[i][0] for points in curves) for i in range(epochs)],
        [median(points[i][1][0] for points in curves) for i in range(epochs)],
    )


def draw(records, path):
    """Write the figure of a run to an SVG or PNG file."""
    about = select(records, "set")[0]
    with plt.rc_context(SETTINGS):
        figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
        for name in BY_NAME:
            found = [curve(records, name, n) for n in rounds_of(records)]
            found = [points for points in found if points]
            if found:
                color, marker = STYLES[name]
                axes.plot(*middle(found), color=color, marker=marker, label=name)
        goals = targets(records)
        if goals:
            goal = median(goals.values())
            axes.axhline(goal, color="#888888", ls="--", lw=1)
            axes.annotate(
                f"target: {REFERENCE} less 1 point",
                (1, goal),
                xycoords=("axes fraction", "data"),
                xytext=(0, -9),
                textcoords="offset points",
                ha="right",
                fontsize=7,
                color="#666666",
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        axes.set_xlabel("seconds of training, evaluation left out")
        axes.set_ylabel("P@1 on the test points, %")
        axes.set_title(f"{about['set']}, {about['labels']:,} labels", loc="left")
        figure.legend(loc="outside right center")
        # Without the date, the same records give the same file.
        metadata = {"Date": None} if str(path).endswith(".svg") else None
        figure.savefig(path, metadata=metadata, dpi=150)
        plt.close(figure)
