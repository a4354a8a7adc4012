"""The grid of benchmarks/kdd2017 is well-formed, its formulas hold, and it trains."""

import dataclasses
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "kdd2017"
if not FOLDER.is_dir():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)

sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]
import conflicts  # noqa: E402
import grid  # noqa: E402
import summaries  # noqa: E402
import train  # noqa: E402

SCALES = {"full": grid.FULL, "quick": grid.QUICK, "tiny": grid.TINY}


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize("name", grid.EXPERIMENTS)
def test_every_configuration_can_be_built(name, scale):
    pairs = grid.EXPERIMENTS[name](scale, 2)
    assert pairs
    for config in {dataclasses.replace(c, width=40, depth=2, fraction=0.5) for _, c in pairs}:
        train.build(config, 20, 3).build()
    # What a table or figure shows beside each other must not be the same run twice.
    assert len(set(map(repr, pairs))) == len(pairs)
    assert name in summaries.TABLES


def test_a_change_of_lsh_asks_only_for_runs_with_lsh(monkeypatch):
    before = {method: grid.make(method) for method in grid.METHODS}
    monkeypatch.setitem(grid.LSH_DEFAULT, "n_probes", 3)
    changed = {method for method in grid.METHODS if grid.make(method) != before[method]}
    assert changed == {"LSH"}


def test_kept_power_is_that_of_the_largest_values():
    values = np.sort(np.random.default_rng(0).standard_normal(1_000_000))[::-1]
    for fraction in (0.05, 0.25, 0.5):
        kept = np.sum(values[: round(fraction * len(values))] ** 2) / len(values)
        # The mean of a million squares has a standard deviation of about 0.001.
        assert train.kept_power("WTA", fraction) == pytest.approx(kept, abs=0.005)


def test_overlaps_are_those_of_sets():
    rng = np.random.default_rng(1)
    dense = [rng.random((9, 12)) < 0.4 for _ in range(2)]
    labels = rng.integers(0, 2, 9)
    found = conflicts.overlaps([sp.csr_array(a.astype(np.float32)) for a in dense], labels, 50, 3)
    pairs = conflicts.random_pairs(9, 50, 3)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    weights = [np.einsum("ni,nj->nij", *dense).reshape(9, -1)]
    for name, active in zip(
        ("neurons 1", "neurons 2", "weights 1-2"), dense + weights, strict=True
    ):
        a, b = active[pairs[:, 0]], active[pairs[:, 1]]
        row = next(r for r in found if r["what"] == name and r["pairs"] == "any")
        union = np.maximum((a | b).sum(axis=1), 1)
        assert row["overlap"] == pytest.approx((a & b).mean())
        assert row["jaccard"] == pytest.approx(((a & b).sum(axis=1) / union).mean())
        assert row["independent"] == pytest.approx((a.mean(axis=1) * b.mean(axis=1)).mean())


@pytest.mark.parametrize("method", grid.METHODS)
def test_a_tiny_configuration_trains(method, tmp_path, monkeypatch):
    monkeypatch.setenv("SLIDE_BENCH_CACHE", str(tmp_path))
    monkeypatch.setitem(grid.GENERATED, "rectangles", (96, 32))
    pairs = 40 if method in ("LSH", "WTA") else 0
    config = grid.make(
        method, data="rectangles", fraction=0.25, depth=2, width=32, overlap_pairs=pairs, epochs=2
    )
    result = train.run(config)
    assert result["error"] is None
    assert [row["epoch"] for row in result["epochs"]] == [1, 2]
    assert all(0 <= row["accuracy"] <= 100 for row in result["epochs"])
    assert (result["epochs"][0]["multiplications"] == 1) == (method == "NN")
    expected = {"neurons 1", "neurons 2", "weights 1-2"} if pairs else set()
    assert {row["what"] for row in result["overlap"]} == expected


def test_all_runs_of_one_data_set_are_compared_with_the_same_full_network():
    for scale in SCALES.values():
        configs = [config for _, config in grid.accuracy(scale, 1)]
        for data, depth in itertools.product(scale.data_sets, scale.grid_depths):
            chosen = [c for c in configs if (c.data, c.depth) == (data, depth)]
            assert [c.method for c in chosen].count("NN") == 1
            assert len({(c.epochs, c.samples, c.batch_size, c.seed) for c in chosen}) == 1
