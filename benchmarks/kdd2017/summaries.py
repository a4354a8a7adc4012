"""The tables: from the rows of an experiment's CSV file to what is printed and shown in the docs.

Each function returns {name: (title, header, rows of text)}. Accuracies are those after the last
epoch: the best epoch would be chosen by looking at the test set.
"""

import itertools
import statistics

from _common import median, number
from grid import METHODS, REPLICATION
from train import TORCH_SIDES


def distinct(rows, key):
    """Values of a field, in the order of their first rows."""
    return list(dict.fromkeys(row[key] for row in rows))


def where(rows, **fields):
    """Rows whose fields have the given values."""
    return [row for row in rows if all(row[key] == value for key, value in fields.items())]


def last_accuracy(rows, digits=2, **fields):
    """Accuracy after the last epoch of the run that has these fields, as text."""
    found = where(rows, **fields)
    return number(found[-1]["accuracy"] if found else None, digits)


def percent(fraction):
    """A fraction as text."""
    return f"{100 * fraction:g}%"


def table_accuracy(rows, extra):
    fractions = sorted(set(distinct(rows, "fraction")))
    header = ["data set", "hidden layers", "method", *map(percent, fractions)]
    body = []
    for data in distinct(rows, "data"):
        for layers in distinct(rows, "depth"):
            for method in METHODS:
                part = where(rows, data=data, depth=layers, method=method)
                if not part:
                    continue
                cells = [last_accuracy(part, fraction=f) if part else "n/a" for f in fractions]
                cells = ["" if cell == "n/a" else cell for cell in cells]
                body.append([data, str(layers), method, *cells])
    costs = []
    for method in METHODS:
        for fraction in fractions:
            gaps, shares = [], []
            for data in distinct(rows, "data"):
                for layers in distinct(rows, "depth"):
                    part = where(rows, data=data, depth=layers)
                    full = where(part, method="NN")
                    own = where(part, method=method, fraction=fraction)
                    if full and own:
                        gaps.append(own[-1]["accuracy"] - full[-1]["accuracy"])
                        shares.append(100 * own[-1]["multiplications"])
            if gaps and method != "NN":
                cells = [f"{statistics.fmean(gaps):+.2f}", f"{min(gaps):+.2f}"]
                costs.append(
                    [method, percent(fraction), *cells, f"{statistics.fmean(shares):.1f}%"]
                )
    cost_header = ["method", "active", "mean difference from NN", "worst", "multiplications"]
    return {
        "accuracy": ("Test accuracy (%) by active fraction", header, body),
        "accuracy_cost": (
            "Points of accuracy and multiplications beside all neurons, over all networks",
            cost_header,
            costs,
        ),
    }


def table_depth(rows, extra):
    depths = sorted(set(distinct(rows, "depth")))
    body = []
    for method in ("NN", "AD", "ALSH", "LSH"):
        part = where(rows, method=method)
        body.append([method, "here", *(last_accuracy(part, 1, depth=d) for d in depths)])
        if method in REPLICATION:
            published = [number(REPLICATION[method][d - 1]) for d in depths]
            body.append([method, "arXiv 2306.09293", *published])
    header = ["method", "source", *map(str, depths)]
    return {"depth": ("Test accuracy (%) on MNIST by number of hidden layers", header, body)}


def table_collapse(rows, extra):
    depths = sorted(set(distinct(rows, "depth")))
    body = [
        [name, *(last_accuracy(rows, 1, ablation=name, depth=d) for d in depths)]
        for name in distinct(rows, "ablation")
    ]
    header = ["LSH", *map(str, depths)]
    return {"collapse": ("Test accuracy (%) on MNIST by number of hidden layers", header, body)}


def worker_groups(rows):
    """(label, kind, workers) of each way to run workers, real threads first."""
    kinds = {"threads": "thread", "simulated": "simulated worker"}
    return [
        (f"{count} {kinds[kind]}" + "s" * (count > 1), kind, count)
        for kind in kinds
        for count in sorted({row["workers"] for row in rows if row["kind"] == kind})
    ]


def table_workers(rows, extra):
    epochs = sorted(set(distinct(rows, "epoch")))
    body = []
    for label, kind, count in worker_groups(rows):
        part = where(rows, kind=kind, workers=count)
        cells = []
        for epoch in epochs:
            values = [row["accuracy"] for row in where(part, epoch=epoch)]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.2f}{spread}")
        # A simulation's time says nothing about threads.
        seconds = median(row["seconds"] for row in part) if kind == "threads" else None
        body.append([label, str(len(distinct(part, "seed"))), *cells, number(seconds, 2)])
    header = ["workers", "seeds", *(f"epoch {epoch}" for epoch in epochs), "s/epoch"]
    return {"workers": ("Test accuracy (%) on MNIST by epoch", header, body)}


def table_conflicts(rows, extra):
    body = [
        [
            row["method"],
            percent(row["fraction"]),
            row["what"],
            row["pairs"],
            *(f"{100 * row[key]:.3g}%" for key in ("active", "overlap", "independent")),
            f"{row['overlap'] / row['independent']:.2f}" if row["independent"] else "n/a",
            f"{row['jaccard']:.3f}",
        ]
        for row in rows
    ]
    header = ["method", "fraction", "of", "pairs", "active for one", "active for both"]
    header += ["if independent", "ratio", "mean Jaccard"]
    return {"conflicts": ("What two samples both have active", header, body)}


def table_time(rows, extra):
    # Beside the faster of PyTorch's two.
    dense = median(row["seconds"] for row in where(rows, system=TORCH_SIDES[1]))
    body = []
    for name in distinct(rows, "system"):
        part = where(rows, system=name)
        seconds = median(row["seconds"] for row in part)
        cells = [percent(part[-1]["fraction"]), number(part[-1]["accuracy"], 2)]
        cells += [number(seconds, 2), number(dense / seconds if dense else None, 2)]
        body.append([name, *cells, f"{100 * part[-1]['multiplications']:.1f}%"])
    header = ["system", "active", "accuracy (%)", "s/epoch", "PyTorch's time / its time"]
    header.append("multiplications")
    tables = {"time": ("After the last epoch on MNIST", header, body)}
    body = []
    pairs = itertools.product(distinct(extra, "width"), distinct(extra, "method"))
    for width, method in pairs:
        part = where(extra, width=width, method=method)
        for side in TORCH_SIDES if part else ():
            ratios = [row[side] / row["slide"] for row in part]
            own, other = (median(row[key] for row in part) for key in ("slide", side))
            first = median(row["slide, first epoch"] for row in part)
            cells = [f"{part[0]['samples']:,}", side]
            cells += [number(value, 2) for value in (first, own, other)]
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            body.append([f"3 x {width:,}", method, *cells, number(median(ratios), 2), spread])
    header = ["hidden layers", "method", "samples", "PyTorch side", "first epoch (s)", "second (s)"]
    header += ["PyTorch's (s)", "PyTorch / slide", "over the rounds"]
    title = "The second epoch over so many samples, median of alternating rounds"
    tables["time_ratio"] = (title, header, body)
    return tables


TABLES = {
    "accuracy": table_accuracy,
    "depth": table_depth,
    "collapse": table_collapse,
    "workers": table_workers,
    "conflicts": table_conflicts,
    "time": table_time,
}


def provenance(name, rows, options):
    """A sentence on script, machine, date and versions, from the results themselves."""
    dates = sorted({row["date"] for row in rows})
    hosts = sorted({f"{row['cpu']}, {row['cpus']} CPUs" for row in rows})
    found = {}
    for row in rows:
        for item in row["versions"].split():
            key, _, value = item.partition("=")
            found.setdefault(key, set()).add(value)
    builds = found.pop("build", set())
    software = ", ".join(f"{key} {' and '.join(sorted(v))}" for key, v in sorted(found.items()))
    scale = "".join(f" --{flag}" for flag in ("quick", "tiny") if getattr(options, flag))
    text = (
        f"Made by ``python benchmarks/kdd2017 --only {name}{scale} --threads {options.threads}`` "
        f"on {'; '.join(hosts)}, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}; {software}."
    )
    if len(builds) > 1:
        text += f" The results come from {len(builds)} builds of slide."
    return text
