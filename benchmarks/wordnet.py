"""Training on WordNet's 13,043 labels: ways to choose active neurons, and PyTorch with all.

    python benchmarks/wordnet.py --markdown table.md
    python benchmarks/wordnet.py --set debian --folder DATA --only "all neurons" "own uniform, 2%"

Every run is a process of its own, one at a time, in alternating rounds (A B C, A B C, ...).
"""

import sys
import time

import _sets
from _common import (
    HERE,
    by_round,
    cache_directory,
    can_import,
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
    ratio,
    run_rounds,
    run_worker,
    save_set,
    select,
    shared_arguments,
    slide_model,
    slide_precision,
    versions,
)

TORCH = "torch dense"
RECALL_POINTS = 2000


def systems():
    """The output layer's sampler of each system, made from slide.sampling and slide.hashing."""

    def frequent(hash, sampling):
        # What is recommended for larger layers, in the numbers that suit this one.
        return sampling.Mixture(
            [
                sampling.LSH(hash, max_active=98),
                sampling.Frequent(326),
                sampling.Uniform(98, shared=False),
            ]
        )

    def head(hashing, sampling):
        return sampling.LSH(hashing.Clusters(n_cells=128), max_active=300)

    return {
        "all neurons": lambda sampling, hashing: None,
        "auto: drawn by sketches": lambda sampling, hashing: "auto",
        "LSH that chooses, 2%": lambda sampling, hashing: sampling.LSH(max_active=0.02),
        "clusters alone, 2%": lambda sampling, hashing: sampling.LSH("clusters", max_active=0.02),
        "own uniform, 2%": lambda sampling, hashing: sampling.Uniform(0.02, shared=False),
        "clusters + frequent + own uniform": lambda sampling, hashing: frequent(
            hashing.Clusters(), sampling
        ),
        "SimHash + frequent + own uniform": lambda sampling, hashing: frequent(
            hashing.SimHash(n_bits=6, n_tables=20), sampling
        ),
        "DWTA + frequent + own uniform": lambda sampling, hashing: frequent(
            hashing.DWTA(n_functions=3, n_tables=20), sampling
        ),
        "clusters 300 + own uniform 200": lambda sampling, hashing: sampling.Mixture(
            [head(hashing, sampling), sampling.Uniform(200, shared=False)]
        ),
        "clusters 300 + shared uniform 200": lambda sampling, hashing: sampling.Mixture(
            [head(hashing, sampling), sampling.Uniform(200)]
        ),
        "shared uniform 500": lambda sampling, hashing: sampling.Uniform(500),
        "shared uniform 500, uncorrected": lambda sampling, hashing: sampling.Uniform(
            500, correction=None
        ),
        # The union of the buckets, filled up with random neurons, without correction.
        "as SLIDE: SimHash, random fill": lambda sampling, hashing: sampling.LSH(
            hashing.SimHash(n_bits=6, n_tables=20), max_active=1200, min_active=500
        ),
    }


NAMES = [*systems(), TORCH]


def write_data(options):
    """Worker: write the set to a file that all workers read."""
    save_set(options.data, *_sets.load(options.set, folder=options.folder))


def recall_at_10(model, x, threads):
    """Share of the true ten best neurons that retrieval finds; None if nothing is retrieved."""
    if not model.layers[-1].sampler.retrieves:
        return None
    true, _ = model.predict(x, top_k=10, exact=True, n_jobs=threads)
    found, _ = model.predict(x, top_k=10, exact=False, n_jobs=threads)
    hits = (true[:, :, None] == found[:, None, :]).any(axis=2)
    return round(float(hits.mean()), 4)


def train(options):
    """Worker: train one slide system and report every epoch."""
    from slide import hashing, sampling

    x_train, y_train, x_test, y_test = load_set(options.data)
    sampler = systems()[options.worker](sampling, hashing)
    threads = options.threads[0]
    model = slide_model(
        x_train.shape[1],
        y_train.shape[1],
        sampler,
        hidden=options.hidden,
        learning_rate=options.learning_rate,
        seed=options.seed,
    )
    emit("start", versions=versions("slide-learn"))
    for epoch in range(options.epochs):
        # The time is that of the whole call: checks, shuffling, hash tables and all.
        start = time.perf_counter()
        history = model.fit(
            x_train,
            y_train,
            batch_size=options.batch_size,
            initial_epoch=epoch,
            epochs=epoch + 1,
            verbose=0,
            n_jobs=threads,
        ).history
        seconds = time.perf_counter() - start
        emit(
            "epoch",
            epoch=epoch + 1,
            seconds=round(seconds, 4),
            loss=float(history["loss"][-1]),
            active_fraction=float(history["active_fraction"][-1]) if sampler else 1.0,
            precision=slide_precision(model, x_test, y_test, threads),
            recall_at_10=recall_at_10(model, x_test[:RECALL_POINTS], threads) if sampler else 1.0,
        )
    emit("end", peak_rss_mb=round(peak_rss_mb(), 1))


def table(records, options, notes):
    """One row per system and thread count."""
    header = ["output neurons", "threads"]
    header += [f"P@1, epoch {epoch + 1}" for epoch in range(options.epochs)]
    header += ["active", "recall@10", "s/epoch", "torch's time / its time"]
    if len(options.threads) > 1:
        header.append(f"speed-up over {min(options.threads)}")
    header.append("peak MB")
    rows = []
    for name in options.only:
        for threads in options.threads:
            job = {"system": name, "threads": threads}
            lines = select(records, "epoch", **job)
            if not lines:
                continue
            seconds = by_round(lines, "seconds")

            def faster_than(others, seconds=seconds):
                return number(ratio(by_round(others, "seconds"), seconds), 2)

            row = [name, str(threads)]
            for epoch in range(1, options.epochs + 1):
                # A seed that ran in several rounds counts once.
                by_seed = {
                    line["round"] % options.seeds: line["precision"][0]
                    for line in select(lines, "epoch", epoch=epoch)
                }
                row.append(number(mean(by_seed.values())))
            row.append(number(100 * mean(line["active_fraction"] for line in lines), 1, "%"))
            row.append(number(mean(line["recall_at_10"] for line in lines), 2))
            row.append(number(median(seconds.values()), 2))
            row.append(faster_than(select(records, "epoch", system=TORCH, threads=threads)))
            if len(options.threads) > 1:
                slowest = select(records, "epoch", system=name, threads=min(options.threads))
                row.append(faster_than(slowest))
            peak = median(line["peak_rss_mb"] for line in select(records, "end", **job))
            row.append(number(peak, 0))
            rows.append(row)
    rounds = max(options.repeats, options.seeds)
    title = (
        f"{options.set}: {options.hidden} hidden, Adam {options.learning_rate:g}, batch "
        f"{options.batch_size}; P@1 on the test set is the mean of {options.seeds} seeds, times "
        f"and ratios the median of {rounds} alternating rounds."
    )
    text = markdown_table(header, rows, caption(title, records))
    return text + "".join(f"\n{note}\n" for note in notes)


def main():
    options = parser(__doc__, NAMES)
    options.add_argument("--epochs", type=int, default=3)
    options.add_argument("--seeds", type=int, default=3, help="round r uses seed r modulo this")
    options.add_argument(
        "--torch-python", default=sys.executable, help="interpreter that has torch"
    )
    options.add_argument("--set", default="wordnet", help="wordnet, or a folder within --folder")
    options.add_argument("--folder", help="of data sets; by default what SLIDE_BENCH_DATA names")
    options = options.parse_args()
    if options.worker == "data":
        return write_data(options)
    if options.worker:
        return train(options)

    notes = []
    if TORCH in options.only and not can_import(options.torch_python, "torch"):
        options.only = [name for name in options.only if name != TORCH]
        notes.append(f"{TORCH} was not run: the interpreter given for it cannot import torch.")
    data = options.data
    if data is None:
        data = str(cache_directory() / f"{options.set}.npz")
        maker = [sys.executable, __file__, "--worker=data", f"--data={data}"]
        maker += [f"--set={options.set}", *([f"--folder={options.folder}"] * bool(options.folder))]
        run_worker(maker, 1)

    def command(name, threads, round_number):
        arguments = [
            f"--data={data}",
            f"--epochs={options.epochs}",
            f"--seed={round_number % options.seeds}",
            f"--threads={threads}",
            *shared_arguments(options),
        ]
        if name == TORCH:
            return [options.torch_python, str(HERE / "torch_dense.py"), *arguments]
        return [sys.executable, __file__, f"--worker={name}", *arguments]

    jobs = make_jobs(options.only, options.threads, command)
    rounds = max(options.repeats, options.seeds)
    records, failed = run_rounds(jobs, rounds, out=options.out)
    return publish(table(records, options, notes), failed, options.markdown)


if __name__ == "__main__":
    main()
