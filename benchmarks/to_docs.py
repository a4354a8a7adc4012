"""Puts the Markdown tables that the benchmarks print into the documentation.

    python benchmarks/to_docs.py scaling.md scaling

writes docs/benchmarks/results/scaling_1.csv, scaling_2.csv, ... and the text before each table,
with machine and date, as scaling_1.txt, ...
"""

import csv
import sys
from pathlib import Path

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "results"


def tables(text):
    """Pairs of the text before a table and its rows, without the line below the header."""
    before, rows, found = [], [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not all(set(cell) <= set("-: ") and cell for cell in cells):
                rows.append(cells)
        else:
            if rows:
                found.append((" ".join(before), rows))
                before, rows = [], []
            if line.strip():
                before.append(line.strip().lstrip("# "))
    return found


def main():
    source, name = sys.argv[1:]
    for number, (before, rows) in enumerate(tables(Path(source).read_text("utf-8")), 1):
        path = RESULTS / f"{name}_{number}.csv"
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
        path.with_suffix(".txt").write_text(before + "\n", encoding="utf-8")
        print(path, len(rows) - 1, "rows:", before[:70])


if __name__ == "__main__":
    main()
