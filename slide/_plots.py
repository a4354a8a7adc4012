"""Figures; matplotlib is imported when one is drawn."""

from __future__ import annotations

from typing import Any

from slide.telemetry import MEASURES, PHASES


def _figure() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install matplotlib") from error
    return Figure(figsize=(10, 7), layout="constrained")


def plot_telemetry(records: list[dict[str, Any]], k: int, path: Any) -> Any:
    """Return a figure of what `slide.callbacks.Telemetry` recorded; written to `path` if given."""
    figure = _figure()
    axes = figure.subplots(2, 2)
    steps = [record["step"] for record in records]

    def draw(at: Any, ending: str, label: str) -> None:
        names = sorted({name for record in records for name in record if name.endswith(ending)})
        for name in names:
            prefix = name[: len(name) - len(ending)].rstrip("_")
            values = [record.get(name) for record in records]
            values = [float("nan") if value is None else value for value in values]
            at.plot(steps, values, marker=".", label=f"{prefix} {label}".strip())

    draw(axes[0, 0], MEASURES[0], f"recall@{k}")
    axes[0, 0].set(title=f"found of the {k} largest activations", ylim=(0, 1.05))
    for phase in PHASES:
        draw(axes[0, 1], f"time_{phase}", phase)
    axes[0, 1].set(title="time of the epoch so far, seconds", ylim=(0, None))
    draw(axes[1, 0], "active_fraction", "active")
    axes[1, 0].set(title="share of the neurons computed", ylim=(0, None))
    draw(axes[1, 1], "empty_buckets", "empty")
    draw(axes[1, 1], "overfull_buckets", "overfull")
    axes[1, 1].set(title="share of the buckets", ylim=(0, 1.05))
    for at in axes.flat:
        at.set_xlabel("step")
        at.grid(alpha=0.3)
        if at.get_legend_handles_labels()[0]:
            at.legend(fontsize="small")
    if path is not None:
        figure.savefig(path)
    return figure
