"""Training speed and memory with the shape of Amazon-670K, on a synthetic set.

    python benchmarks/amazon670k.py --threads 1 2 --markdown table.md

Every run is a process of its own, one at a time, in alternating rounds (A B C, A B C, ...).
"""

import sys
import time
import zlib

from _common import (
    HERE,
    by_round,
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
    ratio,
    reset_peak_rss,
    rss_mb,
    run_rounds,
    run_worker,
    save_set,
    select,
    set_mb,
    shared_arguments,
    slide_model,
    slide_precision,
    versions,
)
from synthetic import make_xmc

TEST_SAMPLES = 2000
SHAPES = {"670k": 670_091, "20k": 20_000}
# Cells of 40 and 80 neurons.
CELLS = {"670k": 16_384, "20k": 256}


def samplers():
    """The output layer's sampler of each configuration, from the number of cells."""
    return {
        "150 retrieved + shared tail 1000": lambda sampling, hashing, cells: sampling.Mixture(
            [
                sampling.LSH(hashing.Clusters(n_cells=cells), max_active=150),
                sampling.Uniform(1000, correction="logq"),
            ]
        ),
        "auto": lambda sampling, hashing, cells: "auto",
        "3700 own neurons": lambda sampling, hashing, cells: sampling.LSH(
            hashing.Clusters(n_cells=cells), min_active=3700, max_active=3700
        ),
    }


def systems():
    """All shapes with all configurations: name -> (shape, configuration)."""
    return {
        f"{shape} labels, {configuration}": (shape, configuration)
        for shape in SHAPES
        for configuration in samplers()
    }


NAMES = list(systems())


def write_data(path, shape, samples):
    """Worker: make a data set and write it to a file."""
    x_train, y_train = make_xmc(samples, n_labels=SHAPES[shape], seed=0, part=0)
    x_test, y_test = make_xmc(TEST_SAMPLES, n_labels=SHAPES[shape], seed=0, part=1)
    save_set(path, x_train, y_train, x_test, y_test)


def train(options):
    """Worker: train one epoch with one configuration and report speed, memory and P@1."""
    from slide import hashing, sampling

    emit("start", versions=versions("slide-learn"))
    empty = rss_mb()
    x_train, y_train, x_test, y_test = load_set(options.data)
    shape, configuration = systems()[options.worker]
    sampler = samplers()[configuration](sampling, hashing, CELLS[shape])
    threads = options.threads[0]
    n = x_train.shape[0]

    # The first batch makes weights, optimizer state and tables; it is timed on its own.
    reset_peak_rss()
    start = time.perf_counter()
    model = slide_model(
        x_train.shape[1],
        y_train.shape[1],
        sampler,
        hidden=options.hidden,
        learning_rate=options.learning_rate,
        seed=options.seed,
    )
    one_batch = {"batch_size": options.batch_size, "steps_per_epoch": 1, "verbose": 0}
    model.fit(x_train, y_train, n_jobs=threads, **one_batch)
    setup_seconds = time.perf_counter() - start
    setup_peak = peak_rss_mb()
    before = slide_precision(model, x_test, y_test, threads)

    reset_peak_rss()
    start = time.perf_counter()
    history = model.fit(
        x_train,
        y_train,
        batch_size=options.batch_size,
        epochs=1,
        verbose=0,
        n_jobs=threads,
    ).history
    seconds = time.perf_counter() - start
    emit(
        "training",
        samples=n,
        seconds=round(seconds, 4),
        samples_per_second=round(n / seconds, 1),
        setup_seconds=round(setup_seconds, 4),
        active_fraction=float(history["active_fraction"][-1]),
        loss=float(history["loss"][-1]),
        peak_rss_mb=round(max(setup_peak, peak_rss_mb()), 1),
        data_mb=round(set_mb(x_train, y_train, x_test, y_test), 1),
        empty_rss_mb=round(empty, 1),
        precision_before=before,
        precision=slide_precision(model, x_test, y_test, threads),
    )


def table(records, options):
    """One row per system and thread count."""
    header = ["labels and active neurons", "threads", "samples/s", "set-up, s", "active"]
    header += ["peak MB", "of it data MB", "P@1 before", "P@1 after"]
    several = len(options.threads) > 1
    if several:
        header.insert(3, f"speed-up over {min(options.threads)}")
    rows = []
    for name in options.only:
        for threads in options.threads:
            lines = select(records, "training", system=name, threads=threads)
            if not lines:
                continue
            row = [
                name,
                str(threads),
                number(median(line["samples_per_second"] for line in lines), 0),
                number(median(line["setup_seconds"] for line in lines)),
                number(100 * mean(line["active_fraction"] for line in lines), 3, "%"),
                number(max(line["peak_rss_mb"] for line in lines), 0),
                number(median(line["data_mb"] for line in lines), 0),
                number(mean(line["precision_before"][0] for line in lines), 2),
                number(mean(line["precision"][0] for line in lines), 2),
            ]
            if several:
                slowest = select(records, "training", system=name, threads=min(options.threads))
                speed_up = ratio(by_round(slowest, "seconds"), by_round(lines, "seconds"))
                row.insert(3, number(speed_up, 2))
            rows.append(row)
    title = (
        f"Synthetic set with the shape of Amazon-670K: {options.samples:,} points, "
        f"{options.hidden} hidden, Adam {options.learning_rate:g}, batch {options.batch_size}; one "
        f"epoch, table maintenance included; medians of {options.repeats} alternating rounds, "
        "memory the largest."
    )
    return markdown_table(header, rows, caption(title, records))


def main():
    options = parser(__doc__, NAMES)
    # Five times WordNet's: a label is seen about once in an epoch of the default size.
    options.set_defaults(learning_rate=1e-2)
    options.add_argument("--samples", type=int, default=131_072, help="training points")
    options = options.parse_args()
    if options.worker == "data":
        shape = options.only[0].split()[0]
        return write_data(options.data, shape, options.samples)
    if options.worker:
        return train(options)

    # Data is made by workers: this process stays small and the file serves every repeat.
    # Another recipe is another file.
    recipe = f"{zlib.crc32((HERE / 'synthetic.py').read_bytes()):08x}"
    files = {}
    for name in options.only:
        shape, _ = systems()[name]
        if shape in files:
            continue
        path = cache_directory() / f"xmc-{shape}-{options.samples}-{recipe}.npz"
        files[shape] = str(path)
        if not path.exists():
            make = [sys.executable, __file__, "--worker=data", f"--data={path}", "--only", name]
            run_worker([*make, f"--samples={options.samples}"], 1)

    def command(name, threads, round_number):
        return [
            sys.executable,
            __file__,
            f"--worker={name}",
            f"--data={files[systems()[name][0]]}",
            f"--seed={round_number}",
            f"--threads={threads}",
            *shared_arguments(options),
        ]

    jobs = make_jobs(options.only, options.threads, command)
    records, failed = run_rounds(jobs, options.repeats, out=options.out)
    return publish(table(records, options), failed, options.markdown)


if __name__ == "__main__":
    main()
