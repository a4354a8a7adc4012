"""Times to a target, tables, data and workers of benchmarks/compare."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

import slide

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "compare"
if not FOLDER.is_dir():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)

sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]
import _peer  # noqa: E402
import _sets  # noqa: E402
import environments  # noqa: E402
import peers  # noqa: E402
import ranking  # noqa: E402
import slide_network  # noqa: E402


def epoch(system, round_number, number, seconds, p1):
    return {
        "record": "epoch",
        "system": system,
        "round": round_number,
        "threads": 2,
        "learning_rate": 0.002,
        "epoch": number,
        "seconds": seconds,
        "samples": 100,
        "precision": [p1, p1 / 2, p1 / 4],
        "psp_at_1": p1 / 5,
    }


@pytest.fixture
def records():
    """Two rounds: slide is there after 2 and 3 s, PyTorch after 20, napkinXC never."""
    lines = [
        {
            "record": "set",
            "set": "toy",
            "train": 100,
            "test": 10,
            "features": 7,
            "labels": 5,
            "nnz_per_point": 3.0,
            "labels_per_point": 1.5,
        },
        {
            "record": "run",
            "wide": False,
            "epochs": 2,
            "hidden": 4,
            "batch_size": 8,
            "threads": 2,
            "repeats": 2,
        },
        {"record": "machine", "cpu": "a processor", "cpus": 2, "date": "today"},
    ]
    for n in (0, 1):
        lines += [
            epoch("slide", n, 1, 1.0, 30.0),
            epoch("slide", n, 2, 1.0, 49.5 - n),
            epoch("slide", n, 3, 1.0, 50.0),
            epoch("torch dense", n, 1, 10.0, 20.0),
            epoch("torch dense", n, 2, 10.0, 50.0),
            epoch("napkinXC", n, 1, 5.0, 48.9),
        ]
        lines += [
            {"record": "end", "system": system, "round": n, "peak_rss_mb": 100.0 + n}
            for system in ("slide", "torch dense", "napkinXC")
        ]
    lines.append(
        {"record": "error", "system": "Omikuji", "round": 0, "error": "exit status 1\nno | wheel\n"}
    )
    return lines


def test_time_to_target_is_the_end_of_the_first_epoch_that_has_it(records):
    assert ranking.targets(records) == {0: 49.0, 1: 49.0}
    assert ranking.times_to_target(records, "slide", {0: 49.0, 1: 49.0}) == {0: 2.0, 1: 3.0}
    assert ranking.times_to_target(records, "napkinXC", {0: 49.0}) == {0: None}
    assert ranking.seconds_to([(1.0, [5.0]), (2.0, [7.0]), (3.0, [6.0])], 5.5) == 2.0
    assert ranking.seconds_to([(1.0, [5.5]), (2.0, [7.0])], 5.5) == 1.0
    assert ranking.seconds_to([], 5.5) is None


def test_table_is_sorted_by_time_and_says_who_failed(records):
    text = ranking.table(records)
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [row[0][2:] for row in rows] == ["system", "slide", "torch dense", "napkinXC"]
    column = rows[0].index("s to target")
    assert [row[column] for row in rows[1:]] == ["2.50", "20.00", "not reached"]
    # The median of the rounds' ratios 20 / 2 and 20 / 3.
    assert [row[column + 1] for row in rows[1:]] == ["8.33", "1.00", "n/a"]
    assert "- Omikuji: no / wheel" in text
    assert rows[3][2] == "one fit"


def test_only_complete_results_of_the_same_run_are_kept(tmp_path, records):
    spec = importlib.util.spec_from_file_location("compare_main", FOLDER / "__main__.py")
    main = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(main)
    path = tmp_path / "toy.jsonl"
    assert main.finished(path, records[:2], 2) == []
    last = records.pop(-2)  # the end of napkinXC's second round
    assert last["record"] == "end"
    path.write_text("".join(json.dumps(line) + "\n" for line in records))
    kept = main.finished(path, records[:2], 2)
    assert {line["system"] for line in kept} == {"slide", "torch dense"}
    assert len(kept) == 2 * (3 + 1) + 2 * (2 + 1)
    with pytest.raises(SystemExit, match="other data or settings"):
        main.finished(path, [records[0], {**records[1], "hidden": 5}], 2)


def test_table_without_the_reference_has_no_target(records):
    text = ranking.table([line for line in records if line.get("system") != "torch dense"])
    assert "target is" not in text
    assert text.index("| slide") < text.index("| napkinXC")


def test_speed_table_has_the_fastest_first(records):
    records[1]["wide"] = True
    speed = {"record": "speed", "system": "torch dense", "round": 0, "samples": 50, "seconds": 25.0}
    reference = [line for line in records if line.get("system") == "torch dense"]
    records = [line for line in records if line not in reference] + [speed]
    rows = [
        line.split(" | ") for line in ranking.table(records).splitlines() if line.startswith("| ")
    ]
    assert [row[0][2:] for row in rows] == ["system", "slide", "napkinXC", "torch dense"]
    assert [row[1] for row in rows[1:]] == ["100", "20", "2"]
    assert [row[2] for row in rows[1:]] == ["50.00", "10.00", "1.00"]


def test_scores_agree_with_slide_metrics(tmp_path):
    rng = np.random.default_rng(0)
    y = rng.random((60, 12)) < 0.25
    y[:, -1] = True  # so that -1 in the next row must not count as a hit
    y = sp.csr_matrix(y, dtype=np.float32)
    x = sp.csr_matrix(rng.random((60, 9)), dtype=np.float32)
    x, y = _sets.usable(x, y)
    _sets.write(tmp_path / "toy", (x[:30], y[:30], x[30:], y[30:]))
    data = _peer.Set(tmp_path / "toy")
    ids = np.argsort(rng.random((y.shape[0] - 30, 12)), axis=1)[:, :5]
    ids = _peer.padded([row[: 5 - i % 6].tolist() for i, row in enumerate(ids)])
    assert ids.min() == -1
    scores = data.scores(ids)
    for k, value in zip((1, 3, 5), scores["precision"], strict=True):
        assert value == pytest.approx(100 * slide.metrics.precision_at_k(y[30:], ids, k), abs=0.01)
    p = slide.metrics.propensities(y[:30])
    expected = 100 * slide.metrics.psp_at_k(y[30:], ids, 1, p)
    assert scores["psp_at_1"] == pytest.approx(expected, abs=0.01)


def tuned(system, curves):
    return {"record": "tuning", "system": system, "precision": list(curves.items())}


def test_epochs_to_a_precision_between_the_ends_of_two():
    assert ranking.epochs_to([20.0, 60.0, 70.0], 65.0) == pytest.approx(2.5)
    assert ranking.epochs_to([20.0, 60.0, 50.0], 5.0) == pytest.approx(0.25)
    assert ranking.epochs_to([20.0, 60.0, 50.0], 60.0) == pytest.approx(2.0)
    assert ranking.epochs_to([20.0, 60.0], 60.5) is None


def test_the_chosen_rate_is_first_at_the_target(records):
    """Which is the reference's best last P@1, less a point: 60 - 1."""
    curves = {
        "torch dense": {0.001: [30.0, 60.0], 0.002: [50.0, 59.5], 0.004: [59.0, 40.0]},
        "slide": {0.001: [50.0, 58.9], 0.002: [20.0, 59.0]},
        "slide, fast": {0.001: [50.0, 58.0], 0.002: [58.5, 57.0]},
        "Omikuji": {0.001: [30.0, 60.0], 0.002: [30.0, 61.0], 0.004: [58.9, 62.0]},
    }
    lines = [*records, *(tuned(*item) for item in curves.items())]
    # The last one's first two need 1.97 and 1.94 epochs, as good as the same, and 1.03 is less.
    assert ranking.best_rates(lines) == {
        "torch dense": 0.004,
        "slide": 0.002,
        "slide, fast": 0.001,
        "Omikuji": 0.004,
    }
    lines[-1] = tuned("Omikuji", {0.001: [30.0, 60.0], 0.002: [30.0, 61.0]})
    assert ranking.best_rates(lines)["Omikuji"] == 0.002
    lines[-1] = tuned("Omikuji", {0.001: [30.0, 61.0], 0.002: [30.0, 60.0]})
    assert ranking.best_rates(lines)["Omikuji"] == 0.001
    text = ranking.rates_table(lines)
    assert "| torch dense | 60.0 (2.0) | 59.5 (1.9) | **40.0 (1.0)** |" in text
    assert "| slide | 58.9 | **59.0 (2.0)** |  |" in text
    assert "epochs until 59.0" in text
    assert ranking.rates_table(records) == ""


def test_without_the_reference_the_best_last_precision_decides(records):
    lines = [*records, tuned("slide", {0.001: [50.0, 58.9], 0.002: [59.5, 58.0]})]
    assert ranking.best_rates(lines) == {"slide": 0.001}
    assert "| slide | **58.9** | 58.0 |" in ranking.rates_table(lines)


def test_sets_are_found_by_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("SLIDE_BENCH_DATA", raising=False)
    with pytest.raises(ValueError, match="SLIDE_BENCH_DATA"):
        _sets.find_files("debian")
    (tmp_path / "deb-deps").mkdir()
    (tmp_path / "deb-deps" / "train.txt").write_text("1 2 2\n0 1:1\n")
    with pytest.raises(FileNotFoundError, match=r"test\.txt"):
        _sets.find_files("debian", tmp_path)
    (tmp_path / "deb-deps" / "test.txt").write_text("1 2 3\n2 0:1\n")
    monkeypatch.setenv("SLIDE_BENCH_DATA", str(tmp_path))
    x_train, y_train, x_test, y_test = _sets.load("debian")
    assert y_train.shape == y_test.shape == (1, 3)
    assert x_train.shape == x_test.shape == (1, 2)


@pytest.mark.parametrize("peer", peers.PEERS, ids=lambda peer: peer.name)
def test_every_system_has_a_worker_and_an_environment(peer):
    assert (FOLDER / peer.script).is_file()
    assert peer.environment in {"slide", *environments.ENVIRONMENTS}
    assert (peer.rate("wordnet") is None) == (not peer.network)


@pytest.mark.parametrize("mode", ["auto", "lazy", "bfloat16", "shared", "published", "deferred"])
@pytest.mark.parametrize("limit", ["--epochs=2", "--steps=2"])
def test_slide_worker_reports_what_the_tables_need(tmp_path, monkeypatch, capfd, mode, limit):
    rng = np.random.default_rng(0)
    x = sp.random(80, 30, 0.2, "csr", np.float32, random_state=0)
    y = sp.csr_matrix(rng.random((80, 40)) < 0.1, dtype=np.float32)
    x, y = _sets.usable(x, y)
    _sets.write(tmp_path / "toy", (x, y, x[:20], y[:20]))
    arguments = [f"--mode={mode}", "--hidden=16", "--batch-size=16", "--threads=1", limit]
    monkeypatch.setattr(sys, "argv", ["worker", f"--data={tmp_path / 'toy'}", *arguments])
    slide_network.main()
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    kinds = [line["record"] for line in lines]
    if limit == "--epochs=2":
        assert kinds == ["start", "epoch", "epoch", "end"]
        assert {"seconds", "samples", "precision", "psp_at_1"} <= lines[2].keys()
    else:
        assert kinds == ["start", "setup", "speed", "end"]
        assert lines[2]["samples"] == 32


@pytest.mark.parametrize("mode", ["auto", "lazy", "bfloat16", "fast"])
def test_modes_differ_in_adam_and_samplers(mode):
    options = argparse.Namespace(mode=mode, biases=None, hidden=8, learning_rate=0.01, seed=0)
    model = slide_network.build(options, 30, 40)
    assert model.optimizer.moments == ("bfloat16" if mode == "bfloat16" else "float32")
    assert model.optimizer.lazy == (mode in ("lazy", "bfloat16"))
    assert model.layers[-1].sampler.fast == (mode == "fast")


def test_dense_adam_leaves_no_row_behind():
    """Every row that ever had a gradient has made all steps so far, after every batch."""

    class Clocks(slide.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.behind = []

        def on_train_batch_end(self, batch, logs=None):
            for layer in self.model.layers:
                clock = layer._state[:, 0].view(np.int32)
                self.behind.append(int(((clock > 0) & (clock != batch + 1)).sum()))

    rng = np.random.default_rng(0)
    x = sp.random(64, 30, 0.05, "csr", np.float32, random_state=0)
    y = rng.integers(200, size=64)

    def behind(callbacks):
        output = slide.Dense(200, "softmax", sampler=slide.sampling.Uniform(10, shared=False))
        model = slide.Sequential([slide.Input(30), slide.Dense(8, "relu"), output])
        model.compile("adam", "categorical_crossentropy", steps_per_execution=1)
        clocks = Clocks()
        model.fit(x, y, batch_size=8, verbose=0, n_jobs=1, callbacks=[*callbacks, clocks])
        assert len(clocks.behind) == 16
        return sum(clocks.behind)

    assert behind([slide_network.DenseAdam(1)]) == 0
    assert behind([]) > 0


def test_published_active_set():
    """1,000 neurons, or a tenth of a layer with fewer than 10,000; at most what buckets hold."""
    small, middle, wide = map(slide_network.published_sampler, (3000, 13_043, 670_091))
    assert [s.min_active for s in (small, middle, wide)] == [300, 1000, 1000]
    assert [s.max_active for s in (small, middle, wide)] == [3000, 6400, 6400]
    assert isinstance(wide.hash, slide.hashing.DWTA)
    assert isinstance(middle.hash, slide.hashing.SimHash)
