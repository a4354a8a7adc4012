"""What benchmarks/frontier.py measures on a small layer, and which points it shows."""

import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
if not FOLDER.is_dir():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)

sys.path[:0] = [str(FOLDER)]
import balance  # noqa: E402
import frontier  # noqa: E402
import to_docs  # noqa: E402


@pytest.fixture(scope="module")
def snapshot():
    rng = np.random.default_rng(0)
    before = rng.normal(size=(2000, 21)).astype(np.float32)
    after = before + 0.2 * rng.normal(size=before.shape).astype(np.float32)
    inputs, shown = (np.maximum(rng.normal(size=(n, 21)), 0).astype(np.float32) for n in (80, 300))
    inputs[:, -1] = shown[:, -1] = 1
    return frontier.Snapshot(before, after, inputs, shown)


def point(recall, share):
    return frontier.Point("", recall, 0.0, share, 0.0)


def test_frontier_has_the_best_with_no_more_neurons():
    points = [point(0.5, 0.009), point(0.4, 0.02), point(0.9, 0.021)]
    assert frontier.frontier(points) == [None, None, points[0], points[0], points[2], points[2]]
    assert frontier.frontier([]) == [None] * len(frontier.SHARES)


@pytest.mark.parametrize("n", [100, 13_043, 500_000])
def test_grids_have_every_family_of_codes_and_number_of_tables(n):
    found = frontier.grids(n)
    ranked = {"Clusters", "Sketches, largest", frontier.DRAWN}
    assert found.keys() == frontier.STYLES.keys() - ranked
    for grid in found.values():
        labels = [label for label, _ in grid]
        assert {family.n_tables for _, family in grid} == set(frontier.N_TABLES)
        assert all(f"L={family.n_tables}" in label for label, family in grid)
        assert len(set(labels)) == len(labels) or n == 100  # where K is 1 at least


@pytest.mark.slow
def test_points_keep_to_their_shares(snapshot):
    found = frontier.measure(snapshot, ("SimHash, centred", "Clusters", "Sketches"))
    for name, points in found.items():
        assert points, name
        for recall, share in ((one.recall, one.share) for one in points):
            assert 0 <= recall <= 1
            assert 0 < share <= frontier.SHARES[-1]
    largest, drawn = found["Sketches, largest"], found[frontier.DRAWN]
    assert [one.share for one in largest] == [int(s * 2000) / 2000 for s in frontier.SHARES]
    assert largest[2].recall > drawn[2].recall
    assert drawn[-1].recall > found["SimHash, centred"][-1].recall
    own = [found[f"{frontier.DRAWN}: {how}"][0].recall for how in frontier.TABLES]
    assert own[1] < own[0]  # of tables that are old
    text = frontier.table("random", snapshot.n, 80, {1: found, 2: found}, "")
    text += "\n" + frontier.default_table({"random": (snapshot.n, 80, {1: found})}, "")
    (_, rows), (_, drawn) = to_docs.tables(text)
    assert [row[0] for row in rows[1:]] == [name for name in frontier.STYLES if name in found]
    assert {len(row) for row in rows} == {7}
    assert len(drawn) == 2
    assert drawn[1][3] == "40"


def test_settings_are_shown_for_queries_that_did_not_choose_them(snapshot):
    asked = {"search": set(), "rest": set()}
    measured = snapshot.point

    class Watched(frontier.Snapshot):
        def point(self, setting, part, retrieve):
            asked[part].add(setting)
            return measured(setting, part, retrieve)

    watched = Watched(snapshot.before, snapshot.after, snapshot.queries[:, :21], snapshot.shown)
    grid = frontier.grids(snapshot.n)["SimHash"][:4]
    points = list(watched.searched(grid))
    assert {one.setting for one in points} == asked["rest"] < asked["search"]


def test_balance_has_a_row_for_every_bound(snapshot):
    rows = list(balance.rows("random", 1, snapshot, 2))
    assert [row[1] for row in rows] == ["none", "2", "1.5", "1.25", "1"]
    for row in rows[1:]:
        assert float(row[2]) <= float(row[1])  # 2,000 neurons in 20 cells: nothing is rounded up
    assert rows[-1][2:4] == ["1.00", "0.00"]
    assert float(rows[0][2]) > 1
    recalls = [float(cell.split(" ±")[0]) for row in rows for cell in row[4:8]]
    assert all(0 < recall <= 1 for recall in recalls)


@pytest.mark.slow
def test_figure(snapshot, tmp_path):
    pytest.importorskip("matplotlib")
    found = frontier.measure(snapshot, ("Clusters", "Sketches"))
    frontier.draw({"random": (snapshot.n, 80, {1: found, 2: found})}, tmp_path / "frontier.svg")
    assert "<svg" in (tmp_path / "frontier.svg").read_text("utf-8")
