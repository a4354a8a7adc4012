"""What schedules of rebuilds cost on the tables of 670,091 neurons of 128 inputs (Amazon-670K).

    python benchmarks/rebuilds.py --threads 2

Random weights stand for trained ones; what a code costs does not depend on them. All neurons are
marked as changed before every rebuild and look, the most that training can ask for: at 670,091
neurons the default `rebuild_every` is 654 steps, in which batches of 256 change nearly all. Steps
of the three schedules alternate in one process, and only the maintenance within them is timed: of
the rolling schedule `--steps` steps, of the others, which do nothing in between, the steps at which
something is due. Nothing is trained.
"""

import argparse

import numpy as np
from _common import cpu_count, machine, markdown_table, number, versions

from slide import hashing, rebuilds, sampling
from slide._kernels.optim import Parameters
from slide._memory import aligned_zeros, padded

FAMILIES = {
    "SimHash(9, 50)": lambda: hashing.SimHash(9, 50),
    "DWTA(6, 50)": lambda: hashing.DWTA(6, 50),
    "Clusters()": lambda: hashing.Clusters(),
}
SCHEDULES = {
    "fixed": lambda: "fixed",
    "drift, a look without a rebuild": lambda: rebuilds.Drift(0.5),
    "rolling": lambda: "rolling",
}


def layer(n_neurons, n_inputs, seed=0):
    """Parameters of random neurons, made in pieces to bound the memory."""
    dim = n_inputs + 1
    rows = aligned_zeros((n_neurons, padded(dim)))
    rng = np.random.default_rng(seed)
    for first in range(0, n_neurons, 1 << 14):
        piece = rows[first : first + (1 << 14), :dim]
        piece[:] = rng.standard_normal(piece.shape, dtype=np.float32)
    none = np.zeros((n_neurons, 0), np.float32)
    return Parameters(rows, none, none, dim, n_inputs)


class Maintained:
    """A layer's tables under one schedule, and the cost of every step that did something."""

    def __init__(self, family, schedule, p, dim, every, threads):
        self.p, self.threads = p, threads
        sampler = sampling.LSH(family, 1, rebuild_every=every, schedule=schedule)
        self.active = sampler.active_set(len(p.weights), dim, 0, threads)
        self.seconds, self.codes = [], []
        self.x = aligned_zeros((1, p.weights.shape[1]))
        self.step(0)
        self.built = self.seconds.pop()
        self.codes.pop()

    def step(self, at):
        before = self.active.maintenance()
        self.active.weights_moved()
        self.active.select_batch(self.p, self.x, [[]], 0, at, self.threads)
        after = self.active.maintenance()
        self.seconds.append(after["seconds"] - before["seconds"])
        self.codes.append(after["hashed_codes"] - before["hashed_codes"])


def measure(name, p, dim, every, steps, due, threads):
    """One table row a schedule."""
    runs = {
        label: Maintained(FAMILIES[name](), make(), p, dim, every, threads)
        for label, make in SCHEDULES.items()
    }
    for at in range(1, steps + 1):
        runs["rolling"].step(at)
        if at % max(1, steps // due) == 0:
            for label in list(runs)[:2]:
                # The k-th time that something is due.
                runs[label].step(every * (len(runs[label].seconds) + 1))
    rows = []
    for label, run in runs.items():
        length = len(run.seconds) * (1 if label == "rolling" else every)
        seconds, codes = np.array(run.seconds), sum(run.codes)
        rows.append(
            [
                f"{name}, {label}",
                number(1e3 * seconds.max(), 1),
                number(1e3 * np.median(seconds), 2),
                number(1e3 * seconds.sum() * 100 / length, 1),
                number(codes * 100 / length, 0),
                number(run.active.maintenance()["n_rebuilds"], 0),
            ]
        )
    return rows, next(iter(runs.values())).built


def main():
    options = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    options.add_argument("--neurons", type=int, default=670_091)
    options.add_argument("--inputs", type=int, default=128)
    options.add_argument("--every", type=int, help="rebuild_every (default: of the layer's size)")
    options.add_argument("--steps", type=int, help="of the rolling schedule (default: a round)")
    options.add_argument("--due", type=int, default=3, help="rebuilds and looks of the others")
    options.add_argument("--threads", type=int, default=cpu_count())
    options.add_argument("--only", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    options = options.parse_args()
    every = options.every or sampling.default_every(options.neurons)
    steps = options.steps or every
    p = layer(options.neurons, options.inputs)
    rows, built = [], []
    for name in options.only:
        some, seconds = measure(
            name, p, options.inputs + 1, every, steps, options.due, options.threads
        )
        rows += some
        built.append(f"{name} {seconds:.2f} s")
    host = machine()
    software = ", ".join(f"{k} {v}" for k, v in sorted(versions("slide-learn").items()))
    print(
        markdown_table(
            [
                "tables, schedule",
                "longest step (ms)",
                "median step with work (ms)",
                "total per 100 steps (ms)",
                "codes per 100 steps",
                "rebuilds",
            ],
            rows,
            f"Maintenance of {options.neurons:,} neurons of {options.inputs} inputs, "
            f"rebuild_every={every}, {options.threads} threads; the first build took "
            f"{', '.join(built)}. {host['cpu']}, {host['cpus']} CPUs, {host['date']}; {software}.",
        )
    )


if __name__ == "__main__":
    main()
