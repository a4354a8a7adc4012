"""The experiments of Spring & Shrivastava (KDD 2017), "Scalable and Sustainable Deep Learning via
Randomized Hashing".

    python benchmarks/kdd2017 --out DIR --data FOLDER --quick

Every training is a process of its own. Its result is kept in DIR/cache under its configuration, so
that a run that was interrupted goes on where it was. DIR gets a CSV file with a row for every
epoch, summaries, and figures.
"""

import argparse
import csv
import dataclasses
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import joblib  # noqa: E402
from _common import WorkerError, can_import, cpu_count, markdown_table  # noqa: E402
from grid import EXPERIMENTS, FULL, IMAGE_SETS, QUICK, TINY, time_fits  # noqa: E402
from summaries import TABLES, provenance  # noqa: E402
from train import TORCH_SIDES, available, execute  # noqa: E402

DOCS = HERE.parents[1] / "docs" / "benchmarks"


def log(text):
    print(text, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- running


def describe(config, sides=("slide",)):
    """A configuration in a few words."""
    words = [config.data, "/".join(sides) if sides != ("slide",) else config.method]
    words += [f"{100 * config.fraction:g}%", f"{config.depth}x{config.width}"]
    if config.update == "hogwild":
        words.append(f"{config.threads} threads, staleness {config.staleness}")
    return f"{', '.join(words)}, seed {config.seed}"


class Runner:
    """Runs configurations through the cache, and remembers what failed.

    Parameters
    ----------
    out : Path
    folder : str or None
        Of the image sets.
    jobs : int
        Trainings at the same time.
    """

    def __init__(self, out, folder, jobs):
        memory = joblib.Memory(out / "cache", verbose=0)
        self.execute = memory.cache(execute, ignore=["folder"])
        self.folder, self.jobs = folder, jobs
        self.failed = []

    def one(self, config, sides=("slide",), turn=0):
        """Results of one configuration, one for each side; None if a process failed."""
        name = describe(config, sides)
        kept = self.execute.check_call_in_cache(config, sides, turn, folder=self.folder)
        start = time.perf_counter()
        try:
            results = self.execute(config, sides, turn, folder=self.folder)
        except WorkerError as error:
            self.failed.append(name)
            log(f"  {name}: FAILED: {error}")
            return None
        spent = "kept" if kept else f"{time.perf_counter() - start:.1f} s in all"
        last = results[0]["epochs"][-1] if results[0]["epochs"] else {"accuracy": float("nan")}
        diverged = [f"; {result['error']}" for result in results if result["error"]]
        log(f"  {name}: {last['accuracy']:.2f}%, {spent}{''.join(diverged)}")
        return results

    def many(self, configs, jobs=None):
        """The first result of each configuration."""
        # Threads are enough: they wait for processes.
        parallel = joblib.Parallel(n_jobs=jobs or self.jobs, backend="threading")
        found = parallel(joblib.delayed(self.one)(config) for config in configs)
        return [results[0] if results else None for results in found]


def flat(label, config, result, run):
    """A row for every epoch of a run."""
    fields = dataclasses.asdict(config)
    fields["lsh"] = " ".join(f"{key}={value}" for key, value in config.lsh)
    fields["samples"] = result["samples"]
    del fields["epochs"]
    host = {
        "cpu": result["machine"]["cpu"],
        "cpus": result["machine"]["cpus"],
        "date": result["machine"]["date"][:10],
        "versions": " ".join(f"{k}={v}" for k, v in result["versions"].items()),
        "error": result["error"] or "",
    }
    active = " ".join(f"{share:.4f}" for share in result["active"])
    return [
        {"run": run, **label, **fields, **epoch, "active": active, **host}
        for epoch in result["epochs"]
    ]


def collect(name, scale, threads, runner, options):
    """Run an experiment.

    Returns
    -------
    rows : list of dict
        For the CSV file and the figure: one for every epoch of every run, or for every measured
        overlap.
    extra : list of dict
        Of "time": the rounds of the ratio table.
    """
    pairs = [(label, c) for label, c in EXPERIMENTS[name](scale, threads) if has(c, options)]
    log(f"{name}: {len(pairs)} configurations")
    jobs = 1 if name in ("time", "workers") else None  # what is timed has the machine to itself
    results = runner.many([config for _, config in pairs], jobs)
    rows, extra = [], []
    for run, ((label, config), result) in enumerate(zip(pairs, results, strict=True)):
        if result is None:
            continue
        epochs = flat(label, config, result, run)
        if name == "time":
            epochs = [{"system": config.method, **row} for row in epochs]
        if name == "conflicts":
            keys = ("method", "fraction", "depth", "width", "seed", "accuracy")
            keys += ("cpu", "cpus", "date", "versions")
            for found in result["overlap"]:
                rows.append({**found, **{key: epochs[-1][key] for key in keys}})
        else:
            rows += epochs
    if name == "time" and options.torch and pairs:
        config = next(config for _, config in pairs if config.method == "NN")
        for run, side in enumerate(TORCH_SIDES, len(pairs)):
            result = runner.one(config, (side,))
            if result:
                rows += [{"system": side, **row} for row in flat({}, config, result[0], run)]
        extra = ratio_rounds(scale, threads, runner, options)
    return rows, extra


def has(config, options):
    return available(config.data, options.data)


def ratio_rounds(scale, threads, runner, options):
    """slide's LSH and PyTorch in turn: seconds of the first epoch, which makes buffers and tables,
    and of the second, which counts."""
    rows = []
    sides = ("slide", *TORCH_SIDES)
    for turn in range(scale.repeats):
        for config in time_fits(scale, threads):
            results = runner.one(config, sides, turn) if has(config, options) else None
            if not results:
                continue
            row = {"turn": turn, "width": config.width, "samples": config.samples}
            row["method"] = config.method
            row["threads"] = threads
            for side, result in zip(sides, results, strict=True):
                row[f"{side}, first epoch"] = result["epochs"][0]["seconds"]
                row[side] = result["epochs"][-1]["seconds"]
            rows.append({**row, **results[0]["machine"]})
    return rows


def write_csv(path, header, body):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(body)


def write_rows(path, rows):
    """A CSV file of dictionaries; what one of them lacks stays empty."""
    header = list(dict.fromkeys(key for row in rows for key in row))
    write_csv(path, header, [[row.get(key, "") for key in header] for row in rows])


def report(name, rows, extra, options):
    """Write and print what an experiment found."""
    out = options.out
    source = provenance(name, rows, options)
    write_rows(out / f"{name}.csv", rows)
    if extra:
        write_rows(out / f"{name}_rounds.csv", extra)
    for table, (title, header, body) in TABLES[name](rows, extra).items():
        if body:
            print(markdown_table(header, body, f"{title}. {source}"), flush=True)
            write_csv(out / f"{table}_summary.csv", header, body)
            if options.docs:
                write_csv(DOCS / "results" / f"kdd2017_{table}.csv", header, body)
    if options.docs:
        (DOCS / "results" / f"kdd2017_{name}.txt").write_text(source + "\n", encoding="utf-8")
    if options.figures:
        import plots

        plots.save(name, rows, out / f"{name}.svg", out / f"{name}.png")
        if options.docs:
            plots.save(name, rows, DOCS / "figures" / f"kdd2017_{name}.svg")


# ---------------------------------------------------------------- the command line


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="directory for all results")
    parser.add_argument("--data", help="folder that holds the folders mnist and fashion-mnist")
    parser.add_argument(
        "--quick", action="store_true", help="fewer samples, epochs and fractions: a first look"
    )
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--threads", type=int, default=cpu_count(), help="of every training")
    parser.add_argument(
        "--jobs", type=int, default=1, help="trainings at the same time; with 1, times are clean"
    )
    parser.add_argument(
        "--docs", action="store_true", help="also write the figures and tables of the documentation"
    )
    options = parser.parse_args()
    if options.threads < 1 or options.jobs < 1:
        parser.error("--threads and --jobs must be at least 1")
    if options.docs and not DOCS.is_dir():
        parser.error(f"--docs needs {DOCS}")
    return options


def main():
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    options.torch = "time" not in options.only or can_import(sys.executable, "torch")
    options.figures = can_import(sys.executable, "matplotlib")
    for name in IMAGE_SETS:
        if not available(name, options.data):
            log(f"note: {name} is left out, --data does not name a folder that holds it")
    if not options.torch:
        log("note: PyTorch is left out, it cannot be imported")
    if not options.figures:
        log("note: no figures, matplotlib cannot be imported")
    scale = TINY if options.tiny else QUICK if options.quick else FULL
    runner = Runner(options.out, options.data, options.jobs)
    for name in options.only:
        start = time.perf_counter()
        rows, extra = collect(name, scale, options.threads, runner, options)
        log(f"{name}: {time.perf_counter() - start:.0f} s")
        if rows:
            report(name, rows, extra, options)
        else:
            log(f"note: {name} has nothing to show")
    if runner.failed:
        sys.exit("failed: " + "; ".join(runner.failed))


if __name__ == "__main__":
    main()
