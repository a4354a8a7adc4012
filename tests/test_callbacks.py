import math

import numpy as np
import pytest

from slide import callbacks as cb


class FakeModel:
    """One weight, which the fake training sets to the epoch's number."""

    def __init__(self):
        self.weights = [np.zeros(2, np.float32)]
        self.stop_training = False
        self.saved = []

    def get_weights(self):
        return self.weights

    def set_weights(self, weights):
        self.weights = [np.array(w) for w in weights]

    def save(self, path):
        with open(path, "w", encoding="utf-8") as file:
            file.write(str(self.weights[0][0]))
        self.saved.append(path)


def train(model, callbacks, epoch_logs, *, params=None, batches=2):
    """Call the hooks in the order in which fit does, until somebody stops it."""
    hooks = cb.CallbackList(callbacks, model, params)
    hooks.on_train_begin()
    logs = {}
    for epoch, logs in enumerate(epoch_logs):
        hooks.on_epoch_begin(epoch)
        for batch in range(batches):
            hooks.on_train_batch_begin(batch)
            done = {
                "loss": 1.0,
                "samples": 5 * (batch + 1),
                "samples_per_second": 1234.0,
                "active_fraction": 0.036,
            }
            hooks.on_train_batch_end(batch, done)
        model.weights[0][:] = epoch
        hooks.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    hooks.on_train_end(logs)
    return hooks.history


def losses(*values, name="val_loss"):
    return [{name: value} for value in values]


# --------------------------------------------------------------------- list and history


def test_history():
    history = train(FakeModel(), None, [{"loss": 2.0, "lr": 0.1}, {"loss": 1.0, "lr": 0.2}])
    assert history.history == {"loss": [2.0, 1.0], "lr": [0.1, 0.2]}
    assert history.epoch == [0, 1]


def test_a_history_of_the_user_is_used_and_starts_anew():
    mine = cb.History()
    assert train(FakeModel(), [mine], losses(1.0)) is mine
    train(FakeModel(), mine, losses(3.0))
    assert mine.history == {"val_loss": [3.0]}


def test_hooks_are_called_in_order_with_model_and_params():
    calls = []

    class Recorder(cb.Callback):
        def on_train_begin(self, logs=None):
            calls.append(("train begin", self.model, self.params["epochs"]))

        def on_train_batch_end(self, batch, logs=None):
            calls.append(("batch end", batch, logs["samples"]))

    model = FakeModel()
    last = cb.LambdaCallback(on_epoch_end=lambda epoch, logs: calls.append(("epoch end", epoch)))
    train(model, [Recorder(), last], losses(1.0), params={"epochs": 1})
    assert calls == [
        ("train begin", model, 1),
        ("batch end", 0, 5),
        ("batch end", 1, 10),
        ("epoch end", 0),
    ]


def test_hooks_that_nobody_defines_are_skipped():
    assert not cb.CallbackList([cb.EarlyStopping(), cb.Callback()]).has_batch_hooks
    assert cb.CallbackList([cb.LambdaCallback(on_train_batch_end=print)]).has_batch_hooks
    assert cb.CallbackList(params={"verbose": 1}).has_batch_hooks
    assert [type(c) for c in cb.CallbackList()] == [cb.History]


def test_all_lambda_hooks():
    calls = []
    names = [
        "on_train_begin",
        "on_train_end",
        "on_epoch_begin",
        "on_epoch_end",
        "on_train_batch_begin",
        "on_train_batch_end",
    ]

    def recorder(name):
        return lambda *arguments: calls.append(name)

    callback = cb.LambdaCallback(**{name: recorder(name) for name in names})
    train(FakeModel(), callback, losses(1.0), batches=1)
    assert calls == [
        "on_train_begin",
        "on_epoch_begin",
        "on_train_batch_begin",
        "on_train_batch_end",
        "on_epoch_end",
        "on_train_end",
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cb.CallbackList([cb.History(), print]), r"callbacks\[1\] must be a Callback"),
        (lambda: cb.CallbackList([cb.History]), r"callbacks\[0\] must be a Callback"),
        (lambda: cb.CallbackList(3), "callbacks must be a list of Callback, got 3"),
        (lambda: cb.LambdaCallback(on_epoch_end=3), "on_epoch_end must be callable, got 3"),
        (lambda: cb.EarlyStopping(monitor=3), "monitor must be a log's name, got 3"),
        (lambda: cb.EarlyStopping(patience=1.5), "patience must be an integer, got 1.5"),
        (lambda: cb.EarlyStopping(restore_best_weights=1), "restore_best_weights .* got 1"),
    ],
)
def test_bad_types_are_named(make, message):
    with pytest.raises(TypeError, match=message):
        make()


# ------------------------------------------------------------------------- early stopping


@pytest.mark.parametrize(
    ("arguments", "values", "epochs"),
    [
        ({}, [3, 2, 1, 2, 3, 4], 4),
        ({"patience": 1}, [3, 2, 1, 2, 3, 4], 4),
        ({"patience": 2}, [3, 2, 1, 2, 3, 4], 5),
        ({"patience": 2}, [3, 4, 2, 3, 1, 2], 6),
        ({"min_delta": 0.5}, [3, 2.6, 2.2], 2),
        ({"patience": 2}, [1, math.nan, math.nan, 0.5], 3),
        ({"mode": "max"}, [1, 2, 1], 3),
    ],
)
def test_early_stopping(arguments, values, epochs):
    model = FakeModel()
    callback = cb.EarlyStopping(**arguments)
    history = train(model, callback, losses(*values))
    assert len(history.epoch) == epochs
    if model.stop_training:
        assert callback.stopped_epoch == epochs - 1
    else:
        assert callback.stopped_epoch is None


@pytest.mark.parametrize(
    ("name", "rises"),
    [
        ("loss", False),
        ("val_loss", False),
        ("binary_crossentropy", False),
        ("mean_squared_error", False),
        ("accuracy", True),
        ("val_precision@1", True),
        ("val_nDCG@5", True),
        ("psp@3", True),
    ],
)
def test_auto_mode(name, rises):
    callback = cb.EarlyStopping(monitor=name)
    train(FakeModel(), callback, losses(1.0, 2.0, name=name))
    assert callback.best == (2.0 if rises else 1.0)
    assert callback.best_epoch == (1 if rises else 0)


def test_best_weights_come_back():
    for values in ([3, 1, 2, 2, 2, 2], [3, 1, 2]):  # stopped, and at its last epoch
        model = FakeModel()
        train(model, cb.EarlyStopping(patience=3, restore_best_weights=True), losses(*values))
        assert model.weights[0].tolist() == [1.0, 1.0]


def test_last_weights_stay_by_default():
    model = FakeModel()
    train(model, cb.EarlyStopping(patience=3), losses(3, 1, 2))
    assert model.weights[0].tolist() == [2.0, 2.0]


def test_a_second_training_starts_anew():
    callback = cb.EarlyStopping(patience=1)
    train(FakeModel(), callback, losses(1, 2))
    assert callback.stopped_epoch == 1
    history = train(FakeModel(), callback, losses(9, 8))
    assert callback.stopped_epoch is None
    assert callback.best == 8
    assert history.epoch == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "up"}, "mode must be one of 'auto', 'min', 'max'; got 'up'"),
        ({"monitor": "sharpness"}, "cannot tell whether monitor='sharpness' should rise"),
        ({"patience": -1}, "patience must be at least 0, got -1"),
        ({"min_delta": -0.1}, "min_delta must be at least 0, got -0.1"),
    ],
)
def test_early_stopping_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        cb.EarlyStopping(**arguments)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: cb.EarlyStopping(monitor="val_loss"),
        lambda path: cb.ModelCheckpoint(path, save_best_only=True),
    ],
)
def test_a_missing_monitor_is_told_with_what_there_is(make, tmp_path):
    message = "monitors 'val_loss', which is not among the logs of the epoch: accuracy, loss"
    with pytest.raises(ValueError, match=message):
        train(FakeModel(), make(tmp_path / "m"), [{"loss": 1.0, "accuracy": 0.5}])


# ---------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_each_epoch(tmp_path):
    model = FakeModel()
    name = "{epoch:02d}-{val_precision@1:.2f}.model"
    callback = cb.ModelCheckpoint(tmp_path / "new" / name)
    train(model, callback, losses(0.5, 0.25, name="val_precision@1"))
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["01-0.50.model", "02-0.25.model"]


def test_only_the_best(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = FakeModel()
    train(model, cb.ModelCheckpoint("best", save_best_only=True), losses(3, 1, 2, math.nan))
    assert model.saved == ["best", "best"]
    assert (tmp_path / "best").read_text() == "1.0"


def test_the_best_of_an_earlier_training_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, checkpoint = FakeModel(), cb.ModelCheckpoint("best", save_best_only=True)
    train(model, checkpoint, losses(3, 1))
    train(model, checkpoint, losses(2, 0.5))
    assert len(model.saved) == 3
    assert (tmp_path / "best").read_text() == "1.0"


def test_checkpoint_fields(tmp_path):
    with pytest.raises(ValueError, match="is no format string"):
        cb.ModelCheckpoint("{epoch")
    model = FakeModel()
    with pytest.raises(ValueError, match="'acc'; its fields may be epoch, val_loss"):
        train(model, cb.ModelCheckpoint(tmp_path / "{acc}"), losses(1.0))
    with pytest.raises(ValueError, match="its fields may be epoch, val_loss"):
        train(model, cb.ModelCheckpoint(tmp_path / "{val_loss:d}"), losses(1.0))
    assert not model.saved


# ------------------------------------------------------------------------------------ CSV


def test_csv(tmp_path):
    path = tmp_path / "log.csv"
    rows = [{"loss": 0.5, "val_precision@1": 0.25}, {"loss": 0.125, "val_precision@1": 1.0}]
    train(FakeModel(), cb.CSVLogger(path), rows)
    text = "epoch,loss,val_precision@1\n0,0.5,0.25\n1,0.125,1.0\n"
    assert path.read_text() == text
    train(FakeModel(), cb.CSVLogger(path, append=True), [dict(reversed(rows[0].items()))])
    assert path.read_text() == text + "0,0.5,0.25\n"
    train(FakeModel(), cb.CSVLogger(path, separator=";"), rows[:1])
    assert path.read_text() == "epoch;loss;val_precision@1\n0;0.5;0.25\n"


def test_csv_appended_to_a_new_or_empty_file_has_a_header(tmp_path):
    for path in (tmp_path / "new", tmp_path / "empty"):
        if path.name == "empty":
            path.touch()
        train(FakeModel(), cb.CSVLogger(path, append=True), losses(1.0))
        assert path.read_text() == "epoch,val_loss\n0,1.0\n"


def test_csv_refuses(tmp_path):
    path = tmp_path / "log.csv"
    train(FakeModel(), cb.CSVLogger(path), losses(1.0))
    before = path.read_text()
    with pytest.raises(ValueError, match=r"has the columns epoch, val_loss; .* are epoch, loss"):
        train(FakeModel(), cb.CSVLogger(path, append=True), losses(1.0, name="loss"))
    assert path.read_text() == before
    with pytest.raises(ValueError, match="separator must be one character, got ', '"):
        cb.CSVLogger(path, separator=", ")
    with pytest.raises(FileNotFoundError):
        train(FakeModel(), cb.CSVLogger(tmp_path / "no" / "log.csv"), losses(1.0))


def test_logs_that_come_and_go(tmp_path):
    """As those of a sampler that was changed do: every list has a value for every epoch."""
    path = tmp_path / "log.csv"
    logs = [{"loss": 0.5, "recall": 0.25}, {"loss": 0.25, "rebuilds": 2.0}, {"recall": 1.0}]
    history = cb.History()
    train(FakeModel(), [cb.CSVLogger(path), history], logs)
    assert path.read_text() == "epoch,loss,recall\n0,0.5,0.25\n1,0.25,\n2,,1.0\n"
    expected = {
        "loss": [0.5, 0.25, np.nan],
        "recall": [0.25, np.nan, 1.0],
        "rebuilds": [np.nan, 2.0, np.nan],
    }
    np.testing.assert_equal(history.history, expected)


def test_choose_sampler_checks_what_it_can_at_once():
    for families in (["simhsh"], []):
        with pytest.raises(ValueError, match=r"simhsh|families is empty"):
            cb.ChooseSampler(np.ones((3, 2)), families=families)
    with pytest.raises(ValueError, match="n_jobs=0"):
        cb.ChooseSampler(np.ones((3, 2)), n_jobs=0)


# -------------------------------------------------------------------------------- progress

LOGS = [{"loss": 0.5, "samples_per_second": 1234.0, "active_fraction": 0.036}] * 2


def test_silent(capsys):
    train(FakeModel(), None, LOGS, params={"epochs": 2, "samples": 10, "verbose": 0})
    assert capsys.readouterr() == ("", "")


def test_a_line_an_epoch(capsys):
    train(FakeModel(), None, LOGS, params={"epochs": 2, "samples": 10, "verbose": 2})
    out, err = capsys.readouterr()
    assert err == ""
    first, second = out.splitlines()
    assert first.startswith("Epoch 1/2: ")
    assert first.endswith("s, loss 0.5000, 1,234 samples/s, 3.60% active")
    assert second.startswith("Epoch 2/2: ")


@pytest.fixture
def _wide_terminal(monkeypatch):
    # tqdm cuts its line to these columns.
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("LINES", "50")


@pytest.mark.usefixtures("_wide_terminal")
def test_a_bar_an_epoch(capsys):
    train(FakeModel(), None, LOGS, params={"epochs": 2, "samples": 10, "verbose": 1})
    out, err = capsys.readouterr()
    assert out == ""
    # tqdm draws over its line with \r, and ends it with a newline.
    *lines, rest = err.split("\n")
    assert (len(lines), rest) == (2, "")
    for i, line in enumerate(line.split("\r")[-1] for line in lines):
        assert line.startswith(f"Epoch {i + 1}/2: 100%|")
        assert "| 10/10 [" in line
        assert line.rstrip().endswith(", loss 0.5000, 1,234 samples/s, 3.60% active]")


@pytest.mark.usefixtures("_wide_terminal")
def test_a_bar_without_a_known_length(capsys):
    train(FakeModel(), None, LOGS[:1], params={"epochs": 1, "samples": None, "verbose": 1})
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("Epoch 1/1: 10 samples [")
    assert "1,234 samples/s" in line


def test_a_bar_of_the_user_is_not_doubled(capsys):
    params = {"epochs": 1, "samples": 10, "verbose": 2}
    train(FakeModel(), [cb.ProgressBar()], LOGS[:1], params=params)
    assert len(capsys.readouterr().out.splitlines()) == 1
