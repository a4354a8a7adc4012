"""slide beside other systems: the same data, split, network, threads and metrics.

    python benchmarks/compare --data wordnet gene-go debian --folder DATA --out DIR

Each system trains in its own virtual environment and its own process, one after another, in
alternating rounds (A B C, A B C, ...). DIR gets, for each set, all records as JSON lines, the table
as Markdown and the figure; compare.md has all tables.
"""

import argparse
import json
import os
import sys
import zlib
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from _common import (  # noqa: E402
    WorkerError,
    cache_directory,
    mean,
    run_rounds,
    run_worker,
    select,
)
from _sets import ALIASES, find_files  # noqa: E402
from environments import default_directory, python_of  # noqa: E402
from peers import BY_NAME, PEERS, epochs  # noqa: E402
from ranking import best_rates, rates_table, table  # noqa: E402

WIDE = "amazon670k"
HELD_OUT = 0.1


def log(text):
    print(text, file=sys.stderr, flush=True)


def parse(arguments=None):
    """The command line."""
    options = argparse.ArgumentParser(
        prog="compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add(
        "--data",
        nargs="+",
        default=["wordnet"],
        metavar="SET",
        help="wordnet, amazon670k (made), or folders within --folder, such as gene-go, debian",
    )
    add("--folder", help="of the data sets; by default what SLIDE_BENCH_DATA names")
    add("--train", help="a training file of your own, in the format that slide.data.read_xmc reads")
    add("--test", help="the test file that belongs to it")
    add("--out", default="compare", help="folder of the results (default: compare)")
    add("--only", nargs="+", choices=BY_NAME, metavar="SYSTEM", help=", ".join(BY_NAME))
    add(
        "--repeats",
        type=int,
        default=1,
        help="alternating rounds; round r has seed r (default 1; with --rates, 0 only chooses)",
    )
    add("--epochs", type=int, help="of the networks; the default depends on the set")
    add("--threads", type=int, default=2, help="of every system (default 2)")
    add("--batch-size", type=int, default=256)
    add("--hidden", type=int, default=128, help="neurons of the hidden layer (default 128)")
    add("--rows", type=int, help="so many random training points at most")
    add("--samples", type=int, default=65_536, help="training points of amazon670k (default 65536)")
    add(
        "--steps",
        type=int,
        default=12,
        help="batches of amazon670k that are timed of systems that compute too many neurons",
    )
    add(
        "--rates",
        nargs="+",
        type=float,
        metavar="RATE",
        help="choose each network's learning rate among these, by its P@1 on a tenth of the "
        "training points while it trains on the others: see README.md",
    )
    add("--rate-seeds", type=int, default=3, help="whose mean P@1 --rates compares (default 3)")
    add(
        "--environments",
        default=str(default_directory()),
        help=f"folder of the virtual environments (default {default_directory()})",
    )
    add(
        "--slide-python",
        default=sys.executable,
        help="interpreter that has slide (default: this one)",
    )
    add("--keep", action="store_true", help="do not run systems again whose results --out has")
    add("--figure", choices=("svg", "png", "none"), default="svg")
    add("--redraw", action="store_true", help="only tables and figures, from what is in --out")
    options = options.parse_args(arguments)
    if (options.train is None) != (options.test is None):
        raise SystemExit("--train and --test go together")
    names = {folder: name for name, folder in ALIASES.items()}
    options.data = [names.get(name, name) for name in options.data]
    if options.train:
        options.data = [Path(options.train).name.split(".")[0]]
    return options


# ---------------------------------------------------------------- data


def key_of(name, options):
    """What the prepared files of a set depend on, as part of their names."""
    parts = [name, options.rows]
    if name == WIDE:
        parts += [options.samples, (HERE.parent / "synthetic.py").read_bytes()]
    elif name != "wordnet" or options.train:
        files = [options.train, options.test] if options.train else find_files(name, options.folder)
        for path in files:
            status = os.stat(path)
            parts += [str(path), status.st_size, status.st_mtime_ns]
    return f"{zlib.crc32(repr(parts).encode()):08x}"


def prepare(name, options, hold_out=None):
    """Write a set's files, unless they are there.

    Returns
    -------
    path : str
        Beginning of their names.
    about : dict
        What is in them.
    """
    held = "-held-out" if hold_out else ""
    path = str(cache_directory() / f"compare-{name}{held}-{key_of(name, options)}")
    if not Path(f"{path}.json").exists():
        command = [options.slide_python, str(HERE.parent / "_sets.py"), name, f"--out={path}"]
        command += [f"--samples={options.samples}", *(["--text"] if not hold_out else [])]
        for option in ("folder", "train", "test", "rows"):
            value = getattr(options, option)
            command += [f"--{option}={value}"] if value is not None else []
        command += [f"--hold-out={hold_out}"] if hold_out else []
        run_worker(command, 1)
    return path, json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))


# ---------------------------------------------------------------- running


def command_of(peer, path, name, options, rate, seed):
    """The command of one worker; the environment is made if need be."""
    python = options.slide_python
    if peer.environment != "slide":
        python = python_of(peer.environment, options.environments)
    command = [
        python,
        str(HERE / peer.script),
        f"--data={path}",
        f"--epochs={options.epochs or epochs(name)}",
        f"--batch-size={options.batch_size}",
        f"--hidden={options.hidden}",
        f"--seed={seed}",
        f"--threads={options.threads}",
        *peer.arguments,
    ]
    if rate is not None:
        command.append(f"--learning-rate={rate}")
    if name == WIDE:
        command.append(f"--steps={options.steps}" if peer.every_neuron else "--warm-up")
    return command


def tune(peers, name, options):
    """Train each network at all rates, and report P@1 on points held out of the training set, as
    means over the seeds.

    Returns
    -------
    list of dict
        A system's versions, and its curves.
    """
    path, _ = prepare(name, options, HELD_OUT)
    records = []
    for peer in (peer for peer in peers if peer.network):
        found = []
        for rate in options.rates:
            curves = []
            try:
                for seed in range(options.rate_seeds):
                    command = command_of(peer, path, name, options, rate, seed)
                    lines = run_worker(command, options.threads)
                    curves.append([line["precision"][0] for line in select(lines, "epoch")])
            except WorkerError as error:
                log(f"tuning {peer.name}: {str(error)[-200:]}")
                break
            if curves and curves[0]:
                found.append(
                    [rate, [round(mean(column), 2) for column in zip(*curves, strict=True)]]
                )
        if found:
            records += [{**line, "system": peer.name} for line in select(lines, "start")]
            records.append({"record": "tuning", "system": peer.name, "precision": found})
            log(f"tuning {peer.name}: {found}")
    return records


def jobs_of(peers, rates, path, name, options):
    """The systems as `run_rounds` takes them; the round's number is the seed."""

    def job(peer):
        rate = rates[peer.name]
        identity = {"system": peer.name, "threads": options.threads, "learning_rate": rate}
        return identity, lambda seed: command_of(peer, path, name, options, rate, seed)

    return [job(peer) for peer in peers]


def read_records(path):
    """The records of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def finished(path, head, repeats):
    """Records in a file of those systems that ended all their rounds; [] without the file.

    Raises
    ------
    SystemExit
        If they come from other data or settings than `head` says.
    """
    if not path.exists():
        return []
    records = read_records(path)
    if records[: len(head)] != head:
        raise SystemExit(f"--keep: {path} has results of other data or settings")
    ends = [line["system"] for line in select(records, "end")]
    return [line for line in records if "system" in line and ends.count(line["system"]) == repeats]


def execute(name, options, out):
    """Run all systems on a set and keep the records in a file of JSON lines.

    Returns
    -------
    list of dict
    """
    wide = name == WIDE
    names = options.only or [peer.name for peer in PEERS if peer.wide or not wide]
    path, about = prepare(name, options)
    log(f"{name}: {about['train']:,} points, {about['labels']:,} labels")
    settings = {
        key: getattr(options, key) for key in ("hidden", "batch_size", "threads", "repeats")
    }
    head = [
        {"record": "set", "set": name, **about},
        {"record": "run", "wide": wide, "epochs": options.epochs or epochs(name), **settings},
    ]
    kept = finished(out / f"{name}.jsonl", head, options.repeats) if options.keep else []
    done = {line["system"] for line in kept}
    peers = [BY_NAME[system] for system in names if system not in done]
    tuning = tune(peers, name, options) if options.rates and not wide else []
    head += [*kept, *tuning]
    chosen = best_rates(head)
    rates = {peer.name: chosen.get(peer.name, peer.rate(name)) for peer in peers}
    jobs = jobs_of(peers, rates, path, name, options)
    return run_rounds(jobs, options.repeats, out=out / f"{name}.jsonl", head=head)[0]


def publish(name, records, options, out):
    """Write the table and the figure. Returns the table."""
    trained = select(records, "epoch") or select(records, "speed")
    text = (table(records) if trained else "") + rates_table(records)
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
    has_curves = bool(select(records, "epoch"))
    if options.figure != "none" and has_curves and name != WIDE:
        try:
            from curves import draw
        except ImportError:
            log("no figure: matplotlib is not installed")
        else:
            draw(records, out / f"{name}.{options.figure}")
    return text


def main():
    options = parse()
    try:
        for name in options.data:
            if not options.redraw:
                key_of(name, options)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    tables, failed = [], []
    for name in options.data:
        if options.redraw:
            records = read_records(out / f"{name}.jsonl")
        else:
            records = execute(name, options, out)
        tables.append(publish(name, records, options, out))
        for line in select(records, "error"):
            if "refused:" not in line["error"]:
                failed.append(f"{line['system']} on {name}")
    (out / "compare.md").write_text("\n".join(tables), encoding="utf-8")
    if failed:
        sys.exit("failed: " + "; ".join(failed))


if __name__ == "__main__":
    main()
