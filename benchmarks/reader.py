"""Time `slide.data.read_xmc` on plain text, on gzip and from its cache.

    python benchmarks/reader.py                       # 500 MB with the shape of Amazon-670K
    python benchmarks/reader.py train.txt.gz more.txt

Speeds are MB (10^6 bytes) of plain text a second, whatever the file's own size: by the CPU time of
the process, all threads included (the reader has one), and by the clock. "first" parses the text
and fills the cache, "cache" reads from it. Every reading is a process of its own; they alternate.
The files are in the system's page cache: what is timed is the reader, not the disk.
"""

import argparse
import gzip
import shutil
import sys
import tempfile
import time
from pathlib import Path

import _common
import numpy as np

SYSTEMS = ("text", "gz", "first", "cache")
COPIES = 10


def generate(path, megabytes):
    """Write a synthetic file of about this size: Amazon-670K's shape, values of 6 decimals."""
    import synthetic

    from slide.data import write_xmc

    n_points = max(1, round(megabytes * 1e6 / COPIES / 1255))  # 1,255 bytes a point
    x, y = synthetic.make_xmc(n_points)
    x.data[:] = np.round(x.data, 6)
    part = path.with_suffix(".part.txt")
    write_xmc(part, x, y)
    # The same points several times: to the reader they are as good as new ones.
    with open(path, "wb") as out:
        out.write(b"%d %d %d\n" % (COPIES * n_points, x.shape[1], y.shape[1]))
        for _ in range(COPIES):
            with open(part, "rb") as file:
                file.readline()
                shutil.copyfileobj(file, out, 1 << 20)
    part.unlink()


def unpack(given, path):
    """Copy a file as plain text."""
    with open(given, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with (gzip.open if packed else open)(given, "rb") as file, open(path, "wb") as out:
        shutil.copyfileobj(file, out, 1 << 20)


def pack(path):
    """Compress a file with gzip's usual level."""
    with open(path, "rb") as file, gzip.open(f"{path}.gz", "wb", compresslevel=6) as out:
        shutil.copyfileobj(file, out, 1 << 20)


def work(system, path, cache):
    """Read once, in this process."""
    import slide
    from slide.data import clear_cache, read_xmc

    if system == "first":
        clear_cache(cache)
    name = f"{path}.gz" if system == "gz" else path
    keep = cache if system in ("first", "cache") else False
    cpu, wall = time.process_time(), time.perf_counter()
    x, _ = read_xmc(name, cache=keep)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    _common.emit("start", versions={**_common.versions(), "slide": slide.__version__})
    _common.emit("read", cpu=cpu, wall=wall, nnz=int(x.nnz))


def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("files", nargs="*", help="XMC files, plain or compressed")
    options.add_argument("--megabytes", type=int, default=500, help="of the synthetic file")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--folder", help="for copies, removed afterwards (default: temporary)")
    options.add_argument("--out", help="file for all results as JSON lines")
    options.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.worker:
        work(*given.worker)
        return
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="reader-") as folder:
        texts = {}
        for number, name in enumerate(given.files or [None]):
            path = Path(folder) / f"{number}.txt"
            if name is None:
                title = "synthetic Amazon-670K"
                generate(path, given.megabytes)
            else:
                title = "/".join(Path(name).resolve().parts[-2:])
                unpack(name, path)
            pack(path)
            texts[title] = path
        jobs = []
        for title, path in texts.items():
            for system in SYSTEMS:
                command = [sys.executable, __file__, "--worker", system, str(path), f"{path}.cache"]
                job = {"system": f"{system}: {title}", "threads": 1}
                jobs.append((job, lambda number, command=command: command))
        records, failed = _common.run_rounds(jobs, given.repeats, out=given.out)
        rows = []
        for title, path in texts.items():
            size = path.stat().st_size / 1e6
            row = [title, _common.number(size)]
            walls = {}
            for system in SYSTEMS:
                found = _common.select(records, "read", system=f"{system}: {title}")
                walls[system] = _common.by_round(found, "wall")
                for clock in ("cpu", "wall"):
                    seconds = _common.median([line[clock] for line in found])
                    row.append(_common.number(None if seconds is None else size / seconds, 0))
            row.append(_common.number(_common.ratio(walls["text"], walls["cache"])))
            row.append(_common.number(_common.ratio(walls["gz"], walls["cache"])))
            rows.append(row)
        header = ["file", "MB of text"]
        header += [f"{system}, {clock}" for system in SYSTEMS for clock in ("CPU", "wall")]
        header += ["text / cache", "gz / cache"]
        title = f"MB of text a second, medians of {given.repeats}."
        _common.publish(
            _common.markdown_table(header, rows, _common.caption(title, records)), failed
        )


if __name__ == "__main__":
    main()
