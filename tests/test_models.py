"""Sequential: fit, evaluate, predict, weights, and what is refused."""

import _thread
import copy
import itertools
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import scipy.sparse as sp

import slide
from slide import hashing, sampling
from slide._memory import aligned_zeros
from slide.callbacks import Callback, CSVLogger, EarlyStopping, LambdaCallback, ModelCheckpoint
from slide.optimizers import SGD, Adam

N_FEATURES, N_LABELS = 20, 12


def data(n=90, seed=0):
    """Sparse rows and one label each, which the first label's feature tells."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, N_LABELS, n)
    x = sp.lil_array(sp.random(n, N_FEATURES, 0.1, random_state=rng, dtype=np.float32))
    x[np.arange(n), labels] = 2.0
    x = x.tocsr()
    x.eliminate_zeros()
    return x, labels.astype(np.int64)


def make(*, sampler=None, optimizer=None, metrics=None, update="batch", steps="auto", seed=0):
    model = slide.Sequential(
        [
            slide.Input(N_FEATURES, sparse=True),
            slide.Dense(16, "relu"),
            slide.Dense(N_LABELS, "softmax", sampler=sampler),
        ],
        seed=seed,
    )
    model.compile(
        optimizer or Adam(0.01), metrics=metrics, update=update, steps_per_execution=steps
    )
    return model


def same_weights(a, b):
    a = a if isinstance(a, list) else a.get_weights()
    b = b if isinstance(b, list) else b.get_weights()
    return all(np.array_equal(one, two) for one, two in zip(a, b, strict=True))


# ------------------------------------------------------------------------------- history


def test_history():
    x, y = data()
    history = make(metrics=["accuracy", "precision@3"]).fit(
        x, y, batch_size=32, epochs=3, verbose=0, validation_data=(x, y)
    )
    assert history.epoch == [0, 1, 2]
    assert set(history.history) == {
        "loss",
        "active_fraction",
        "multiplications",
        "samples_per_second",
        "lr",
        "val_loss",
        "val_accuracy",
        "val_precision@3",
    }
    assert all(len(values) == 3 for values in history.history.values())
    assert history.history["active_fraction"] == [1.0] * 3
    assert history.history["multiplications"] == [1.0] * 3
    assert history.history["lr"] == [0.01] * 3
    assert history.history["loss"][2] < history.history["loss"][0]
    assert history.params == {"epochs": 3, "samples": 90, "verbose": 0}


def test_the_active_fraction_is_that_of_the_sampler():
    x, y = data()
    fraction = make(sampler=sampling.Uniform(3)).fit(x, y, verbose=0).history["active_fraction"][0]
    # Three drawn and the label, which may be among the three: 1/4 of the time on average.
    assert 3 / 12 < fraction < 4 / 12
    assert fraction == pytest.approx((3 + 1 - 3 / 12) / 12, abs=0.03)


def test_validation_is_evaluate():
    x, y = data()
    seen = []
    model = make(metrics=["accuracy"])
    model.fit(
        x,
        y,
        epochs=2,
        verbose=0,
        validation_data=(x[:30], y[:30]),
        callbacks=[LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs))],
    )
    scores = model.evaluate(x[:30], y[:30])
    assert {f"val_{k}": v for k, v in scores.items()} == {
        k: v for k, v in seen[-1].items() if k.startswith("val_")
    }


def test_validation_split_is_the_last_rows():
    x, y = data()
    split, given = make(), make()
    a = split.fit(x, y, epochs=2, verbose=0, validation_split=0.25, n_jobs=1)
    b = given.fit(x[:67], y[:67], epochs=2, verbose=0, validation_data=(x[67:], y[67:]), n_jobs=1)
    assert same_weights(split, given)
    assert a.history["val_loss"] == b.history["val_loss"]


def test_shuffle():
    x, y = data()
    fixed, rows = make(), make()
    fixed.fit(x, y, batch_size=30, shuffle=False, verbose=0)
    for i in range(0, 90, 30):
        rows.train_on_batch(x[i : i + 30], y[i : i + 30])
    assert same_weights(fixed, rows)
    shuffled, same, other = make(), make(), make()
    shuffled.fit(x, y, batch_size=30, verbose=0)
    same.fit(x, y, batch_size=30, verbose=0, seed=0)
    other.fit(x, y, batch_size=30, verbose=0, seed=1)
    assert same_weights(shuffled, same)
    assert not same_weights(shuffled, fixed)
    assert not same_weights(shuffled, other)


def test_two_fits_are_one():
    x, y = data()
    once, twice = make(), make()
    once.fit(x, y, batch_size=32, epochs=4, verbose=0)
    twice.fit(x, y, batch_size=32, epochs=3, verbose=0)
    history = twice.fit(x, y, batch_size=32, epochs=4, initial_epoch=3, verbose=0)
    assert history.epoch == [3]
    assert same_weights(once, twice)
    assert once.step == twice.step == 12


def test_steps_per_epoch():
    x, y = data()
    model = make()
    model.fit(x, y, batch_size=20, epochs=2, steps_per_epoch=3, verbose=0)
    assert model.step == 6


@pytest.mark.parametrize("steps", [1, 2, "auto"])
def test_an_epoch_goes_on_where_the_last_one_stopped(steps):
    x, y = data(95)
    rows, batches, expected = make(steps=steps), make(steps=steps), make()
    parts = batches_of(x, y, 20)
    rows.fit(x, y, batch_size=20, epochs=3, steps_per_epoch=3, shuffle=False, verbose=0)
    batches.fit(parts, epochs=3, steps_per_epoch=3, verbose=0)
    for i in range(9):
        expected.train_on_batch(*parts[i % 5])
        if i % 3 == 2:
            expected.get_weights()  # what an epoch's end does: rows are settled
    assert same_weights(rows, expected)
    assert same_weights(batches, expected)


@pytest.mark.parametrize(("steps", "n"), [(1, 95), (2, 95), (3, 95), (4, 95), (5, 95), (3, 100)])
def test_callbacks_know_the_samples_of_each_epoch(steps, n, capsys, monkeypatch):
    """Of 5 batches the last has 15 rows, and epochs of some steps are with it or without."""
    monkeypatch.setenv("COLUMNS", "200")  # to which tqdm cuts its line
    monkeypatch.setenv("LINES", "50")
    known, done = [], []

    class Samples(slide.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            known.append(self.params["samples"])

        def on_train_batch_end(self, batch, logs=None):
            if batch == steps - 1:
                done.append(logs["samples"])

    x, y = data(n)
    model = make()
    for epochs in (2, 5):  # the second call goes on where the first one stopped
        model.fit(
            x,
            y,
            batch_size=20,
            initial_epoch=len(known),
            epochs=epochs,
            steps_per_epoch=steps,
            callbacks=Samples(),
        )
    assert known == done
    assert sum(done) == steps * n
    bars = [line.split("\r")[-1] for line in capsys.readouterr().err.split("\n")[:-1]]
    for bar, n_done in zip(bars, done, strict=True):
        assert ": 100%|" in bar
        assert f"| {n_done}/{n_done} [" in bar


def test_another_fit_goes_on_where_the_last_epoch_stopped():
    x, y = data(95)
    whole, parts = make(), make()
    arguments = {"batch_size": 20, "steps_per_epoch": 3, "verbose": 0}
    whole.fit(x, y, epochs=5, **arguments)
    for epoch in range(5):
        parts = copy.deepcopy(parts)
        parts.fit(x, y, initial_epoch=epoch, epochs=epoch + 1, **arguments)
    assert same_weights(whole, parts)


def test_a_batch_of_nothing_is_refused():
    x, y = data()
    with pytest.raises(ValueError, match="batch 2 of x must be"):
        make().fit([*batches_of(x, y)[:2], None], verbose=0)


def test_every_row_comes_once_before_any_comes_again():
    x, y = np.eye(40, dtype=np.float32), np.zeros((40, 1))
    model = slide.Sequential([slide.Input(40), slide.Dense(1, use_bias=False)])
    model.compile(SGD(0.1), "mse")
    model.set_weights([np.ones((40, 1))])
    model.fit(x, y, batch_size=4, epochs=5, steps_per_epoch=2, verbose=0)
    assert np.unique(model.get_weights()[0]).size == 1


def test_more_steps_than_batches_are_told():
    x, y = data()
    for arguments in ({"x": x, "y": y, "batch_size": 30}, {"x": batches_of(x, y)}):
        model = make()
        with pytest.warns(UserWarning, match="steps_per_epoch=4, but there are only 3 batches"):
            model.fit(**arguments, epochs=2, steps_per_epoch=4, verbose=0)
        assert model.step == 6


def test_an_iterable_is_asked_for_an_iterator_once_an_epoch():
    x, y = data()

    class Loader:
        n_iterators = 0

        def __iter__(self):
            self.n_iterators += 1
            return iter(batches_of(x, y))

    loader = Loader()
    make().fit(loader, epochs=2, verbose=0)
    assert loader.n_iterators == 2


def test_sample_weights_of_zero_leave_rows_out():
    x, y = data()
    weights = np.where(np.arange(90) < 45, 2.0, 0.0)
    weighted, half = make(optimizer=SGD(0.1)), make(optimizer=SGD(0.1))
    weighted.fit(x, y, batch_size=90, shuffle=False, sample_weight=weights, verbose=0)
    half.fit(x[:45], y[:45], batch_size=45, shuffle=False, verbose=0)
    for a, b in zip(weighted.get_weights(), half.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


# ----------------------------------------------------------------------------- callbacks


class Recorder(Callback):
    def __init__(self, name, calls):
        super().__init__()
        self.name, self.calls = name, calls

    def on_train_begin(self, logs=None):
        self.calls.append((self.name, "train_begin"))

    def on_train_end(self, logs=None):
        self.calls.append((self.name, "train_end"))

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append((self.name, "epoch_begin", epoch))

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append((self.name, "epoch_end", epoch))

    def on_train_batch_begin(self, batch, logs=None):
        self.calls.append((self.name, "batch_begin", batch))

    def on_train_batch_end(self, batch, logs=None):
        self.calls.append((self.name, "batch_end", batch))


def test_order_of_callbacks():
    x, y = data(50)
    calls = []
    recorders = [Recorder("a", calls), Recorder("b", calls)]
    make(steps=1).fit(x, y, batch_size=25, epochs=2, verbose=0, callbacks=recorders)
    epoch = [("batch_begin", 0), ("batch_end", 0), ("batch_begin", 1), ("batch_end", 1)]
    expected = [("train_begin",)]
    for i in range(2):
        expected += [("epoch_begin", i), *epoch, ("epoch_end", i)]
    expected += [("train_end",)]
    assert calls == [(name, *call) for call in expected for name in "ab"]


def test_executions_of_many_batches():
    x, y = data()
    calls = []
    make(steps=4).fit(x, y, batch_size=10, verbose=0, callbacks=[Recorder("a", calls)])
    assert [call[2] for call in calls if call[1] == "batch_end"] == [3, 7, 8]


def test_stop_training():
    x, y = data()

    class Stop(Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    model = make()
    assert model.fit(x, y, epochs=9, verbose=0, callbacks=[Stop()]).epoch == [0, 1]
    assert model.fit(x, y, epochs=1, verbose=0).epoch == [0]


def test_early_stopping_restores_the_best_weights():
    x, y = data()
    weights, values = [], iter([3.0, 1.0, 2.0, 2.5, 2.0, 2.0])

    class Judge(Callback):
        def on_epoch_end(self, epoch, logs=None):
            weights.append(self.model.get_weights())
            logs["val_loss"] = next(values)

    model = make()
    stopping = EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    history = model.fit(x, y, epochs=6, verbose=0, callbacks=[Judge(), stopping])
    assert history.epoch == [0, 1, 2, 3]
    assert same_weights(model, weights[1])
    assert not same_weights(model, weights[3])


def test_callbacks_may_use_the_model_between_epochs(tmp_path):
    x, y = data()
    seen = []

    class Look(Callback):
        def on_epoch_end(self, epoch, logs=None):
            loss = self.model.evaluate(x, y)["loss"]
            self.model.predict(x[:3], top_k=2)
            seen.append(loss)

    model, plain = make(), make()
    checkpoint = ModelCheckpoint(tmp_path / "{epoch}.slide")
    model.fit(x, y, epochs=3, verbose=0, callbacks=[Look(), checkpoint])
    plain.fit(x, y, epochs=3, verbose=0)
    assert seen[2] < seen[0]
    assert same_weights(model, plain)
    assert same_weights(slide.load(tmp_path / "3.slide"), model)


def test_a_callback_between_batches_cannot_use_the_kernels():
    """It can look at the weights."""
    x, y = data()
    weights = []
    model = make(steps=1, sampler=sampling.Uniform(5))
    look = LambdaCallback(on_train_batch_end=lambda *_: weights.append(model.get_weights()))
    model.fit(x, y, batch_size=30, verbose=0, callbacks=[look])
    assert len(weights) == 3
    assert same_weights(weights[-1], model)
    for use in (
        lambda *_: model.predict(x),
        lambda *_: model.train_on_batch(x, y),
        lambda *_: model.fit(x, y, verbose=0),
        lambda *_: model.evaluate(x, y),
        lambda *_: model.compile("sgd"),
        lambda *_: model.set_sampler(sampling.Uniform(3)),
    ):
        uses = LambdaCallback(on_train_batch_end=use)
        for arguments in ((x, y), (batches_of(x, y),)):
            with pytest.raises(RuntimeError, match="between batches"):
                model.fit(*arguments, verbose=0, callbacks=[uses])
    model.fit(x, y, verbose=0)


def test_verbose(capsys):
    x, y = data()
    make().fit(x, y, epochs=2, verbose=2, n_jobs=1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("Epoch 1/2")
    assert "loss" in lines[0]
    make().fit(x, y, verbose=1, n_jobs=1)
    assert "Epoch 1/1" in capsys.readouterr().err
    make().fit(x, y, verbose=0, n_jobs=1)
    assert capsys.readouterr() == ("", "")


# ------------------------------------------------------------------------------- batches


def batches_of(x, y, size=30):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, x.shape[0], size)]


def test_an_iterable_of_batches_is_gone_through_every_epoch():
    x, y = data()
    arrays, batches = make(), make()
    arrays.fit(x, y, batch_size=30, epochs=3, shuffle=False, verbose=0)
    history = batches.fit(batches_of(x, y), epochs=3, verbose=0)
    assert same_weights(arrays, batches)
    assert history.params["samples"] is None
    assert len(history.history["loss"]) == 3


def test_a_generator_is_gone_through_once():
    x, y = data()
    once, twice = make(), make()
    once.fit((batch for batch in batches_of(x, y)), verbose=0)
    with pytest.raises(ValueError, match=r"no batch in this epoch.*generator"):
        twice.fit((batch for batch in batches_of(x, y)), epochs=2, verbose=0)
    assert same_weights(once, twice)
    with pytest.raises(ValueError, match="no batch in this epoch"):
        once.fit(iter(()), verbose=0)


def test_an_endless_generator_goes_on_where_the_epoch_stopped():
    x, y = data()
    endless, arrays = make(), make()
    endless.fit(itertools.cycle(batches_of(x, y)), steps_per_epoch=4, epochs=3, verbose=0)
    arrays.fit(x, y, batch_size=30, epochs=4, shuffle=False, verbose=0)
    assert endless.step == arrays.step == 12
    for a, b in zip(endless.get_weights(), arrays.get_weights(), strict=True):
        # Epochs end elsewhere, and rows are settled there.
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-3)


def test_batches_with_sample_weights():
    x, y = data()
    w = np.linspace(0, 2, 90)
    arrays, batches = make(), make()
    arrays.fit(x, y, batch_size=30, shuffle=False, sample_weight=w, verbose=0)
    parts = zip(batches_of(x, y), w.reshape(3, 30), strict=True)
    batches.fit([(*batch, part) for batch, part in parts], verbose=0)
    assert same_weights(arrays, batches)


def test_a_generator_may_use_the_model():
    """As active learning does."""
    x, y = data()
    model = make()

    def hardest():
        for a, b in batches_of(x, y):
            best = model.predict(a).max(axis=1).argsort()[:10]
            yield a[best], b[best]

    model.fit(hardest(), verbose=0)
    assert model.step == 3


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ((np.zeros((2, 3)), [0, 1]), "batch 1: x.*20"),
        ((np.zeros((2, 20)), [0, 12]), r"batch 1: y\[1\] is 12"),
        ((np.zeros((2, 20)), [0]), "batch 1: y"),
        ((np.zeros((2, 20)), [0, 1], [1.0]), "batch 1: sample_weight"),
        ((np.zeros((2, 20)), [0, 1], [1.0, -1.0]), r"batch 1: sample_weight\[1\]"),
        ((np.zeros((0, 20)), np.zeros(0, int)), "batch 1: x has no rows"),
        (3, "batch 1 of x must be"),
        ((np.zeros((2, 20)),), "batch 1 of x must be"),
    ],
)
def test_a_bad_batch_is_named(batch, words):
    x, y = data()
    model, expected = make(), make()
    with pytest.raises((ValueError, TypeError), match=words):
        model.fit([(x, y), batch], verbose=0)
    expected.train_on_batch(x, y)
    assert same_weights(model, expected)


def test_what_has_no_rows_is_refused_in_one_way():
    x, y = np.zeros((0, 20)), np.zeros(0, int)
    model = make()
    for use, name in [
        (lambda: model.fit(x, y), "x"),
        (lambda: model.fit([(x, y)], verbose=0), "batch 0: x"),
        (lambda: model.fit(*data(), validation_data=(x, y)), "validation_data[0]"),
        (lambda: model.partial_fit(x, y), "x"),
        (lambda: model.train_on_batch(x, [0]), "x"),  # before the targets, which have too many
        (lambda: model.evaluate(x, y), "x"),
    ]:
        with pytest.raises(ValueError) as error:
            use()
        assert str(error.value) == f"{name} has no rows"
        assert not model.built


def test_refused_rows_leave_it_open_whether_rows_are_sparse():
    layers = [slide.Input(3), slide.Dense(4, "tanh", sampling.Uniform(2)), slide.Dense(2)]
    model = slide.Sequential(layers)
    model.compile(loss="mean_squared_error")
    with pytest.raises(ValueError, match="n_features=3"):
        model.fit(sp.csr_array(np.eye(4)), np.ones((4, 2)), verbose=0)
    for method in ("fit", "evaluate", "train_on_batch"):
        with pytest.raises(ValueError, match="n_outputs=2"):
            getattr(model, method)(sp.csr_array(np.eye(3)), np.ones((3, 3)))
    held = np.eye(3), np.ones((3, 3))
    with pytest.raises(ValueError, match=r"validation_data\[1\]"):
        model.fit(sp.csr_array(np.eye(3)), np.ones((3, 2)), validation_data=held)
    assert not model.built
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)


def test_partial_fit_and_train_on_batch():
    x, y = data()
    one, other = make(), make()
    assert one.partial_fit(x, y, batch_size=30) is one
    losses = [other.train_on_batch(a, b) for a, b in batches_of(x, y)]
    assert same_weights(one, other)
    assert one.step == other.step == 3
    assert one.epochs_trained == 0
    assert set(losses[0]) == {"loss", "active_fraction"}
    whole = make()
    whole.train_on_batch(x, y)
    assert whole.step == 1


# ------------------------------------------------------------------------------- predict


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "linear"])
def test_predict_in_blocks(activation, batch_size):
    """1,500 outputs are more than the kernels hold at a time."""
    rng = np.random.default_rng(1)
    model = slide.Sequential(
        [slide.Input(6), slide.Dense(5, "tanh"), slide.Dense(1500, activation)]
    )
    x = rng.normal(size=(40, 6)).astype(np.float32)
    expected = model.predict(x, batch_size=256, n_jobs=1)
    scores = model.predict(x, batch_size=batch_size, n_jobs=2)
    np.testing.assert_array_equal(scores, expected)
    assert scores.dtype == np.float32
    assert scores.shape == (40, 1500)
    if activation == "softmax":
        np.testing.assert_allclose(scores.sum(axis=1), 1.0, rtol=1e-4)
    for k in (1, 10, 1500):
        ids, top = model.predict(x, top_k=k, batch_size=batch_size)
        assert (ids.dtype, top.dtype) == (np.int32, np.float32)
        assert ids.shape == top.shape == (40, k)
        np.testing.assert_allclose(top, np.take_along_axis(scores, ids, axis=1), rtol=1e-5)
        np.testing.assert_allclose(top, -np.sort(-scores, axis=1)[:, :k], rtol=1e-5)
        assert all(len(set(row)) == k for row in ids.tolist())


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("units", [5, 1100])
def test_of_equal_scores_the_smaller_id_comes_first(units, sparse):
    """As a stable argsort of the descending scores has it."""
    model = slide.Sequential([slide.Input(2, sparse=sparse), slide.Dense(units, "linear")])
    bias = np.random.default_rng(2).integers(0, 3, units).astype(np.float32)
    model.set_weights([np.zeros((2, units)), bias])
    x = np.ones((3, 2), np.float32)
    scores = model.predict(x)
    ids, _ = model.predict(x, top_k=units)
    np.testing.assert_array_equal(ids, np.argsort(-scores, axis=1, kind="stable"))
    ids, _ = model.predict(x, top_k=3)
    np.testing.assert_array_equal(ids, np.argsort(-scores, axis=1, kind="stable")[:, :3])


def test_predict_of_no_rows():
    model = make()
    assert model.predict(np.zeros((0, N_FEATURES))).shape == (0, N_LABELS)
    ids, scores = model.predict(sp.csr_array((0, N_FEATURES)), top_k=3)
    assert ids.shape == scores.shape == (0, 3)


@pytest.mark.parametrize("mixture", [False, True])
@pytest.mark.parametrize(
    "family",
    [
        hashing.SimHash(n_bits=5, n_tables=3),
        hashing.DWTA(n_functions=2, n_tables=3, n_bins=4),
        hashing.Clusters(n_cells=10, n_tables=2),
    ],
    ids=lambda family: type(family).__name__,
)
def test_approximate_prediction_is_of_retrieved_neurons(family, mixture):
    sampler = sampling.LSH(family, max_active=20)
    if mixture:
        sampler = sampling.Mixture([sampler, sampling.Frequent(5), sampling.Uniform(10)])
    model = slide.Sequential(
        [slide.Input(20), slide.Dense(16, "relu"), slide.Dense(300, "softmax", sampler=sampler)]
    )
    model.compile()
    x, y = data()
    model.fit(x, y, epochs=2, verbose=0)
    z = np.log(model.predict(x))
    ids, scores = model.predict(x, top_k=40, exact=False)
    for row in range(x.shape[0]):
        found = ids[row] >= 0
        n = found.sum()
        assert n <= 25
        assert not found[n:].any(), "missing ones come last"
        assert (ids[row, n:] == -1).all()
        assert (scores[row, n:] == -np.inf).all()
        assert len(set(ids[row, :n])) == n
        assert (np.diff(scores[row, :n]) <= 0).all()
        if n:
            # Softmax over what was retrieved.
            e = np.exp(z[row, ids[row, :n]])
            np.testing.assert_allclose(scores[row, :n], e / e.sum(), rtol=1e-3)
    assert (ids >= 0).any()
    again = model.predict(x, top_k=40, exact=False, n_jobs=1, batch_size=256)
    np.testing.assert_array_equal(ids, again[0])


# ---------------------------------------------------------------------- forms of the input


def test_sparse_and_dense_input_of_either_model():
    x, y = data()
    dense = x.toarray()
    for sparse in (True, False):
        results = []
        for form in (x, dense, x.tocsc(), x.tocoo(), dense.astype(np.float64), dense.tolist()):
            model = slide.Sequential(
                [slide.Input(N_FEATURES, sparse=sparse), slide.Dense(N_LABELS, "softmax")]
            )
            model.compile(SGD(0.1))
            # A list would be an iterable of batches.
            model.fit(np.asarray(form) if isinstance(form, list) else form, y, verbose=0, n_jobs=1)
            results.append((model.get_weights(), model.predict(form)))
        for weights, scores in results[1:]:
            assert same_weights(weights, results[0][0])
            np.testing.assert_array_equal(scores, results[0][1])


def test_the_first_data_decide_the_layout():
    x, y = data()
    weights = []
    for form in (x, x.toarray()):
        model = slide.Sequential([slide.Input(N_FEATURES), slide.Dense(N_LABELS, "softmax")])
        model.compile(SGD(0.1))
        model.fit(form, y, verbose=0)
        assert model.layers[0].by_feature == sp.issparse(form)
        weights.append(model.get_weights())


def test_columns_in_any_order_and_explicit_zeros():
    x, y = data(30)
    shuffled = x.copy()
    for i in range(30):
        row = slice(x.indptr[i], x.indptr[i + 1])
        shuffled.indices[row] = x.indices[row][::-1]
        shuffled.data[row] = x.data[row][::-1]
    shuffled.has_sorted_indices = False
    kept = shuffled.indices.copy()
    a, b = make(), make()
    a.fit(x, y, verbose=0)
    b.fit(shuffled, y, verbose=0)
    assert same_weights(a, b)
    np.testing.assert_array_equal(shuffled.indices, kept)


def test_read_only_and_empty_rows():
    x, y = data(30)
    x = x.tolil()
    x[[0, 3]] = 0.0
    x = x.tocsr()
    for array in (x.data, x.indices, x.indptr, y):
        array.flags.writeable = False
    model = make()
    model.fit(x, y, verbose=0)
    assert np.isfinite(model.predict(x)).all()


# --------------------------------------------------------------------- weights and structure


def test_get_and_set_weights():
    for sparse in (True, False):
        model = slide.Sequential(
            [
                slide.Input(5, sparse=sparse),
                slide.Dense(17, "relu", use_bias=False),
                slide.Dense(3, "softmax"),
            ]
        )
        shapes = [(5, 17), (17, 3), (3,)]
        rng = np.random.default_rng(3)
        weights = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
        model.set_weights(weights)
        found = model.get_weights()
        assert same_weights(found, weights)
        found[0][:] = 9.0  # a copy
        assert same_weights(model, weights)
        x = rng.normal(size=(4, 5))
        z = np.maximum(x @ weights[0], 0) @ weights[1] + weights[2]
        e = np.exp(z - z.max(axis=1, keepdims=True))
        np.testing.assert_allclose(
            model.predict(x), e / e.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w[:-1], "4 arrays, got 3"),
        (lambda w: [w[0].T, *w[1:]], r"dense_0.*\(20, 16\).*\(16, 20\)"),
        (lambda w: [*w[:3], np.full(12, np.nan)], r"dense_1.*\(0,\) is nan"),
        (lambda w: [*w[:2], np.full((16, 12), np.inf), w[3]], "dense_1.*inf"),
        (lambda w: [*w[:3], w[3] + 1j], "dense_1.*weights must hold real numbers, got.*complex"),
    ],
)
def test_weights_that_do_not_fit(change, words):
    model = make()
    before = model.get_weights()
    with pytest.raises((TypeError, ValueError), match=words):
        model.set_weights(change(before))
    assert same_weights(model, before)


def test_seeds_decide_weights():
    assert same_weights(make(seed=1), make(seed=1))
    assert not same_weights(make(seed=1), make(seed=2))


def test_summary():
    lines = []
    make(sampler=sampling.Uniform(3)).summary(lines.append)
    assert lines[0].split()[0] == "layer"
    assert "336" in lines[1]
    assert "all neurons" in lines[1]
    assert "Uniform(n=3" in lines[2]
    assert "540" in lines[-1]


def test_label_log_odds_start_the_bias():
    x, y = data()
    model = slide.Sequential(
        [
            slide.Input(N_FEATURES),
            slide.Dense(N_LABELS, "sigmoid", bias_initializer="label_log_odds"),
        ]
    )
    model.compile(SGD(0.0), "binary_crossentropy")
    with pytest.raises(TypeError, match=r"callbacks\[0\]"):
        model.fit(x, y, verbose=0, callbacks=[3])
    with pytest.raises(OSError, match="nowhere"):
        model.fit(x, y, verbose=0, callbacks=[CSVLogger("nowhere/log.csv")])
    assert not model.get_weights()[1].any()
    model.fit(x, y, verbose=0)
    bias = model.get_weights()[1]
    counts = np.bincount(y, minlength=N_LABELS)
    assert (np.diff(bias[np.argsort(counts, kind="stable")]) >= 0).all()
    common = counts > 5
    np.testing.assert_allclose(
        bias[common], np.log(counts[common] / (90 - counts[common])), atol=0.2
    )
    kept = model.get_weights()
    model.fit(x[:10], y[:10], verbose=0)
    assert same_weights(model, kept)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (lambda: [slide.Dense(3)], "first layer must be an Input"),
        (lambda: [slide.Input(3), slide.Input(3)], "Input"),
        (lambda: [slide.Input(3), slide.Dense(3, "softmax"), slide.Dense(2)], "last layer"),
        (lambda: [slide.Input(3), "dense"], "Input and Dense"),
        (lambda: [slide.Input(0)], "n_features"),
        (lambda: [slide.Input(2.5)], "n_features"),
        (lambda: [slide.Input(3), slide.Dense(-1)], "units"),
        (lambda: [slide.Input(3), slide.Dense(3, "gelu")], "activation.*gelu"),
        (lambda: [slide.Input(3), slide.Dense(3, sampler=7)], "sampler"),
        (lambda: [slide.Input(3), slide.Dense(3, kernel_initializer="label_log_odds")], "kernel"),
    ],
)
def test_bad_layers(layers, words):
    with pytest.raises((TypeError, ValueError), match=words):
        slide.Sequential(layers())


def test_a_layer_belongs_to_one_model():
    layer = slide.Dense(3)
    model = slide.Sequential([slide.Input(2), layer])
    model.build()
    with pytest.raises(ValueError, match="belongs to a model"):
        slide.Sequential([slide.Input(2), layer])
    with pytest.raises(ValueError, match="has its weights already"):
        model.add(slide.Dense(2))


# ----------------------------------------------------------------------------- bad input


def bad_csr(**arrays):
    x = sp.csr_array(np.eye(4, N_FEATURES, dtype=np.float32))
    for name, array in arrays.items():
        setattr(x, name, array)
    return x


Y4 = np.arange(4)
ONES = np.ones((4, N_FEATURES), np.float32)


def with_value(value, at=(2, 5)):
    x = ONES.copy()
    x[at] = value
    return x


BAD = {
    "nan": (with_value(np.nan), Y4, {}, r"x\[2, 5\] is nan"),
    "inf": (with_value(-np.inf), Y4, {}, r"x\[2, 5\] is -inf"),
    "beyond float32": (ONES.astype(float) * 1e39, Y4, {}, r"x\[0, 0\] is 1e\+39, too large"),
    "sparse nan": (sp.csr_array(with_value(np.nan)), Y4, {}, r"x\[2, 5\] is nan"),
    "columns": (ONES[:, :7], Y4, {}, "n_features=20.*7"),
    "sparse columns": (sp.csr_array((4, 21)), Y4, {}, "n_features=20.*21"),
    "vector": (np.ones(N_FEATURES), Y4, {}, "2 dimensions"),
    "text": (np.full((4, N_FEATURES), "a"), Y4, {}, "x must hold real numbers"),
    "complex": (ONES * 1j, Y4, {}, "x must hold real numbers"),
    "column too large": (
        bad_csr(indices=np.array([0, 1, 20, 3], np.int32)),
        Y4,
        {},
        r"x.indices\[2\] is 20 in row 2",
    ),
    "column negative": (
        bad_csr(indices=np.array([0, -1, 2, 3], np.int32)),
        Y4,
        {},
        r"x.indices\[1\] is -1 in row 1",
    ),
    "duplicate column": (
        bad_csr(indices=np.array([3, 3, 2, 3]), indptr=np.array([0, 2, 3, 4, 4])),
        Y4,
        {},
        "column 3 more than once in row 0",
    ),
    "indptr": (bad_csr(indptr=np.array([0, 3, 2, 4, 4])), Y4, {}, "x.indptr decreases at row 1"),
    "no rows": (np.zeros((0, N_FEATURES)), np.zeros(0, int), {}, "x has no rows"),
    "y missing": (ONES, None, {}, "y is missing"),
    "y length": (ONES, np.arange(3), {}, "y must have length 4"),
    "y class": (ONES, np.array([0, 1, 12, 3]), {}, r"y\[2\] is 12"),
    "y negative": (ONES, np.array([0, 1, 2, -3]), {}, r"y\[3\] is -3"),
    "y floats": (ONES, np.array([0.0, 1.0, 2.0, 3.0]), {}, "y .*integer"),
    "y shape": (ONES, np.ones((4, 11)), {}, "y must have n_outputs=12 columns, got 11"),
    "y rows": (ONES, sp.csr_array((5, N_LABELS)), {}, "y must have 4 rows"),
    "y values": (ONES, -np.eye(4, N_LABELS), {}, r"y\[0, 0\] is -1"),
    "y nan": (ONES, np.full((4, N_LABELS), np.nan), {}, r"y\[0, 0\] is nan"),
    "weights length": (ONES, Y4, {"sample_weight": np.ones(3)}, "sample_weight"),
    "weights negative": (ONES, Y4, {"sample_weight": [1, 1, -2, 1]}, r"sample_weight\[2\] is -2"),
    "weights nan": (ONES, Y4, {"sample_weight": [1, np.nan, 1, 1]}, r"sample_weight\[1\] is nan"),
    "batch_size": (ONES, Y4, {"batch_size": 0}, "batch_size"),
    "batch_size float": (ONES, Y4, {"batch_size": 2.5}, "batch_size"),
    "n_jobs": (ONES, Y4, {"n_jobs": 0}, "n_jobs=0"),
    "n_jobs text": (ONES, Y4, {"n_jobs": "all"}, "n_jobs must be an integer"),
}
def coo_beyond():
    x = sp.coo_array(ONES)
    x.row[0] = 10**8
    return x


BAD_FIT = {
    "epochs": (ONES, Y4, {"epochs": 0}, "epochs"),
    "initial_epoch": (ONES, Y4, {"initial_epoch": -1}, "initial_epoch"),
    "verbose": (ONES, Y4, {"verbose": 7}, "verbose"),
    "shuffle": (ONES, Y4, {"shuffle": "batch"}, "shuffle"),
    "steps_per_epoch": (ONES, Y4, {"steps_per_epoch": 0}, "steps_per_epoch"),
    "seed": (ONES, Y4, {"seed": -1}, "seed"),
    "split": (ONES, Y4, {"validation_split": 1.0}, "validation_split"),
    "split nothing": (ONES, Y4, {"validation_split": 0.999}, "validation_split.*empty"),
    "split and data": (
        ONES,
        Y4,
        {"validation_split": 0.5, "validation_data": (ONES, Y4)},
        "not both",
    ),
    "split rows": (ONES, np.arange(5), {"validation_split": 0.5}, "y must have length 4"),
    "split a number": (7, Y4, {"validation_split": 0.5}, "x must have 2 dimensions"),
    "split value": (with_value(np.nan), Y4, {"validation_split": 0.5}, r"x\[2, 5\] is nan"),
    "split arrays": (
        coo_beyond(),
        Y4,
        {"validation_split": 0.5},
        r"x\.row\[0\] is 100000000; it must be in \[0, 4\)",
    ),
    "validation rows": (
        ONES,
        Y4,
        {"validation_data": (ONES[:0], Y4[:0])},
        r"validation_data\[0\] has no rows",
    ),
    "verbose text": (ONES, Y4, {"verbose": "auto"}, "verbose must be an integer, got 'auto'"),
    "validation": (ONES, Y4, {"validation_data": ONES}, "validation_data must be"),
    "validation x": (
        ONES,
        Y4,
        {"validation_data": (with_value(np.nan), Y4)},
        r"validation_data\[0\]\[2, 5\] is nan",
    ),
    "validation y": (
        ONES,
        Y4,
        {"validation_data": (ONES, Y4 + 10)},
        r"validation_data\[1\]\[2\] is 12",
    ),
    "callbacks": (ONES, Y4, {"callbacks": [print]}, r"callbacks\[0\]"),
    "no iterable": (7, None, {}, "x must be an array"),
    "batches and weights": ([(ONES, Y4)], None, {"sample_weight": [1.0]}, "sample_weight"),
}


@pytest.mark.parametrize("case", [*BAD, *BAD_FIT])
def test_fit_refuses_before_it_changes_anything(case):
    x, y, arguments, words = {**BAD, **BAD_FIT}[case]
    model = make()
    model.fit(*data(30), verbose=0)
    before, step = model.get_weights(), model.step
    with pytest.raises((TypeError, ValueError), match=words):
        model.fit(x, y, **{"verbose": 0, **arguments})
    assert same_weights(model, before)
    assert model.step == step
    model.fit(*data(30), verbose=0)


@pytest.mark.parametrize("method", ["partial_fit", "train_on_batch", "evaluate"])
@pytest.mark.parametrize("case", BAD)
def test_the_other_methods_refuse_the_same(method, case):
    x, y, arguments, words = BAD[case]
    if method == "train_on_batch" and "batch_size" in arguments:
        pytest.skip("it has no batch_size")
    model = make()
    before = model.get_weights()
    with pytest.raises((TypeError, ValueError), match=words):
        getattr(model, method)(x, y, **arguments)
    assert same_weights(model, before)
    assert model.step == 0


def test_predict_refuses():
    model = make()
    for arguments, words in [
        ({"top_k": 0}, "top_k"),
        ({"top_k": 13}, "top_k must be between 1 and 12, got 13"),
        ({"top_k": 2.0}, "top_k"),
        ({"batch_size": -1}, "batch_size"),
        ({"exact": 0}, "exact"),
        ({"n_jobs": 0}, "n_jobs=0"),
        ({"exact": False}, "exact=False needs top_k"),
    ]:
        with pytest.raises((TypeError, ValueError), match=words):
            model.predict(ONES, **arguments)
    with pytest.raises(ValueError, match=r"x\[2, 5\] is nan"):
        model.predict(with_value(np.nan))


def test_before_compile():
    model = slide.Sequential([slide.Input(N_FEATURES), slide.Dense(N_LABELS, "softmax")])
    for method in ("fit", "partial_fit", "train_on_batch", "evaluate"):
        with pytest.raises(RuntimeError, match=f"{method} before compile"):
            getattr(model, method)(ONES, Y4)
    assert model.predict(ONES).shape == (4, N_LABELS)


class Named:
    k = 1

    def __init__(self, name):
        self.name = name

    def __call__(self, Y, ids):
        return 0.0


def test_compile_refuses():
    model = make()
    kept = model.optimizer
    for arguments, words in [
        ({"optimizer": "adamax"}, "adamax"),
        ({"loss": "hinge"}, "hinge"),
        ({"metrics": ["f7"]}, "f7"),
        (
            {"metrics": ["acc", "precision@13"]},
            r"metrics\[1\], precision@13 of 12 outputs: k=13 must be at most 12",
        ),
        ({"metrics": ["P@1", "acc", "precision@1"]}, r"metrics\[0\].*metrics\[2\].*'precision@1'"),
        ({"metrics": [Named("loss")]}, r"metrics\[0\], .*'loss'"),
        (
            {"metrics": [slide.metrics.PSPAtK(2, [0.5] * 11)]},
            r"metrics\[0\], psp@2: propensities has 11 entries",
        ),
        ({"update": "async"}, "update.*async"),
        ({"steps_per_execution": 0}, "steps_per_execution"),
        ({"steps_per_execution": "always"}, "steps_per_execution"),
        ({"loss": "binary_crossentropy"}, "sigmoid"),
    ]:
        with pytest.raises((TypeError, ValueError), match=words):
            model.compile(**arguments)
    assert model.optimizer is kept
    with pytest.raises(ValueError, match="at least one Dense"):
        slide.Sequential([slide.Input(3)]).compile()


def test_a_described_metric_is_one_metric():
    model = make(metrics=slide.metrics.serialize(slide.metrics.PrecisionAtK(2)))
    assert [metric.name for metric in model.metrics] == ["precision@2"]


def test_accuracy_of_one_sigmoid_output():
    x = np.array([[-2.0], [-1.0], [1.0], [2.0]], np.float32)
    model = slide.Sequential([slide.Input(1, sparse=False), slide.Dense(1, "sigmoid")])
    model.compile("sgd", "binary_crossentropy", metrics=["accuracy"])
    model.set_weights([[[1.0]], [0.0]])
    assert model.evaluate(x, [0, 0, 1, 1])["accuracy"] == 1
    assert model.evaluate(x, [0, 0, 0, 1])["accuracy"] == 0.75
    assert model.evaluate(x, [1, 1, 0, 0])["accuracy"] == 0
    model.set_weights([[[0.0]], [0.0]])
    assert model.evaluate(x, [1, 1, 1, 0])["accuracy"] == 0.25  # 1/2 is not more than 1/2
    with pytest.raises(ValueError, match="nothing to rank"):
        model.compile("sgd", "binary_crossentropy", metrics=["P@1"])


def test_label_log_odds_are_for_output_layers():
    hidden = slide.Dense(8, "relu", bias_initializer="label_log_odds")
    model = slide.Sequential([slide.Input(4), hidden, slide.Dense(2)])
    with pytest.raises(ValueError, match="is one for output layers"):
        model.build()
    assert not model.built
    assert not hidden.built


def test_a_sampler_larger_than_its_layer():
    for sampler in (
        sampling.Uniform(13),
        sampling.Frequent(13),
        sampling.Mixture([sampling.Frequent(7), sampling.Uniform(6)]),
        sampling.LSH("simhash", max_active=20, min_active=13),
    ):
        with pytest.raises(ValueError, match="12"):
            make(sampler=sampler).fit(*data(20), verbose=0)


def test_a_sampler_needs_a_dense_input():
    model = slide.Sequential(
        [slide.Input(N_FEATURES), slide.Dense(N_LABELS, "softmax", sampler=sampling.Uniform(3))]
    )
    model.compile()
    with pytest.raises(ValueError, match=r"Input\(\.\.\., sparse=False\)"):
        model.fit(*data(20), verbose=0)
    x, y = data(20)
    model.fit(x.toarray(), y, verbose=0)


def test_two_threads_and_one_model():
    x, y = data()
    model, alone = make(), make()
    inside, leave = threading.Event(), threading.Event()

    class Wait(Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                inside.set()
                leave.wait(30)

    thread = threading.Thread(
        target=model.fit,
        args=(x, y),
        kwargs={"epochs": 3, "verbose": 0, "callbacks": [Wait()]},
    )
    thread.start()
    try:
        assert inside.wait(30)
        for use in (
            lambda: model.fit(x, y, verbose=0),
            lambda: model.train_on_batch(x, y),
            lambda: model.evaluate(x, y),
            lambda: model.predict(x),
            lambda: model.get_weights(),
            lambda: model.set_weights(alone.get_weights()),
            lambda: model.compile(),
        ):
            with pytest.raises(RuntimeError, match="in use by another call"):
                use()
    finally:
        leave.set()
        thread.join()
    alone.fit(x, y, epochs=3, verbose=0)
    assert same_weights(model, alone)
    model.fit(x, y, verbose=0)


def test_two_threads_and_two_models():
    x, y = data()
    models = [make() for _ in range(2)]
    threads = [
        threading.Thread(target=m.fit, args=(x, y), kwargs={"epochs": 5, "verbose": 0})
        for m in models
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same_weights(*models)


FORKING = """
import os, signal
import numpy as np
import slide

rng = np.random.default_rng(0)
x, y = rng.standard_normal((300, 4)), rng.integers(0, 5, 300)
model = slide.Sequential([slide.Input(4), slide.Dense(5, "softmax")])
model.compile()
model.fit(x, y, verbose=0, n_jobs=2)
index = slide.hashing.Index(n_jobs=2).fit(x)
expected = index.query(x)[0]
child = os.fork()
if not child:
    signal.alarm(20)
    model.fit(x, y, verbose=0, n_jobs=2)
    assert (index.query(x)[0] == expected).all()
    os._exit(0)
model.fit(x, y, verbose=0, n_jobs=2)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_threads_of_its_own():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------ divergence, interrupts


@pytest.mark.parametrize("steps", [1, 5, "auto"])
def test_divergence_names_the_step_and_keeps_its_weights(steps):
    x, y = data()
    rates = slide.schedules.PiecewiseConstantDecay([5], [0.1, 1e10])
    model = make(optimizer=SGD(rates), steps=steps)
    with pytest.raises(FloatingPointError, match=r"diverged at step (6|7|8)") as info:
        model.fit(1e3 * x, y, batch_size=10, shuffle=False, verbose=0)
    assert f"step {model.step}:" in str(info.value)
    assert all(np.isfinite(w).all() for w in model.get_weights())
    # All steps before it have been made, and nothing of its own.
    other = make(optimizer=SGD(rates))
    other.fit(1e3 * x, y, batch_size=10, shuffle=False, verbose=0, steps_per_epoch=model.step)
    assert same_weights(model, other)
    model.set_weights(make().get_weights())
    model.compile()
    model.fit(x, y, verbose=0)


@pytest.mark.parametrize("loss", ["binary_crossentropy", "mean_squared_error"])
@pytest.mark.parametrize("sampler", [None, sampling.Uniform(4)])
def test_divergence_of_other_losses(loss, sampler):
    model = slide.Sequential(
        [
            slide.Input(N_FEATURES),
            slide.Dense(9, "linear"),
            slide.Dense(N_LABELS, "sigmoid" if loss[0] == "b" else "linear", sampler=sampler),
        ]
    )
    model.compile(SGD(1e6), loss)
    x, y = data()
    with pytest.raises(FloatingPointError, match="step"):
        model.fit(x, y, batch_size=10, epochs=30, verbose=0)
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_divergence_in_hogwild():
    x, y = data()
    model = make(optimizer=SGD(1e10), update="hogwild")
    with pytest.raises(FloatingPointError, match="step"):
        model.fit(1e4 * x, y, batch_size=10, epochs=20, verbose=0, n_jobs=1)
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_a_schedule_that_gives_nonsense_is_named():
    class Bad(slide.schedules.Schedule):
        def __call__(self, step):
            return float("nan") if step == 4 else 0.1

    x, y = data()
    model = make(optimizer=SGD(Bad()), steps=2)
    with pytest.raises(ValueError, match="learning_rate is nan at step 4"):
        model.fit(x, y, batch_size=10, verbose=0)
    assert model.step == 4


@pytest.fixture
def interruptible():
    """Shells start background jobs with SIGINT ignored, and Python then leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("how", ["exception", "signal"])
def test_an_interrupt_leaves_a_batch_boundary(how):
    """The weights are those of so many batches, and training can go on."""
    x, y = data()

    class Interrupt(Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 3:
                if how == "exception":
                    raise KeyboardInterrupt
                signal.raise_signal(signal.SIGINT)

    model, other = make(steps=1), make()
    with pytest.raises(KeyboardInterrupt) as info:
        model.fit(x, y, batch_size=10, shuffle=False, verbose=0, callbacks=[Interrupt()])
    assert model.step == 4
    other.fit(x, y, batch_size=10, shuffle=False, verbose=0, steps_per_epoch=4)
    assert same_weights(model, other)
    # Even while somebody holds the traceback, with the frames of fit.
    assert info.tb is not None
    model.fit(x, y, verbose=0)
    model.evaluate(x, y)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_from_outside():
    x, y = data()
    model = make()

    def endless():
        while True:
            yield x, y

    timer = threading.Timer(0.2, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        model.fit(endless(), verbose=0)
    timer.join()
    other = make()
    other.fit([(x, y)] * model.step, verbose=0)
    assert same_weights(model, other)


def test_an_exception_in_a_callback_frees_the_model():
    x, y = data()
    calls = []

    class Fails(Recorder):
        def on_epoch_end(self, epoch, logs=None):
            raise OSError("disk full")

    model = make()
    with pytest.raises(OSError, match="disk full"):
        model.fit(x, y, verbose=0, callbacks=[Fails("a", calls)])
    assert calls[-1] == ("a", "train_end")
    model.fit(x, y, verbose=0)


# --------------------------------------------------------------------------- layers and models


def test_a_layer_belongs_to_the_model_that_makes_its_weights():
    x, y = data()
    shared = slide.Dense(16, "relu")
    first = slide.Sequential(
        [slide.Input(N_FEATURES), shared, slide.Dense(N_LABELS, "softmax", name="out")]
    )
    second = slide.Sequential([slide.Input(N_FEATURES), shared, slide.Dense(N_FEATURES)])
    first.compile()
    second.compile(loss="mse")
    first.fit(x, y, verbose=0)
    before = first.get_weights()
    with pytest.raises(ValueError, match="belongs to another model"):
        second.fit(x, x, verbose=0)
    assert not second.built
    for a, b in zip(before, first.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    again = slide.Sequential([slide.Input(N_FEATURES)])
    with pytest.raises(ValueError, match="belongs to a model already"):
        again.add(shared)
    # All layers, of another number of features: nothing may be read with them.
    layers = [slide.Dense(3, "softmax")]
    a = slide.Sequential([slide.Input(4, sparse=False), *layers])
    b = slide.Sequential([slide.Input(1000, sparse=False), *layers])
    a.compile()
    b.compile()
    a.fit(np.ones((2, 4), np.float32), [0, 1], verbose=0)
    with pytest.raises(ValueError, match="belongs to another model"):
        b.fit(np.ones((2, 1000), np.float32), [0, 1], verbose=0)


def test_weights_that_could_not_be_made_are_made_again():
    class Once(slide.initializers.Initializer):
        failed = False

        def __call__(self, shape, rng, fan_in=None, fan_out=None):
            if not Once.failed:
                Once.failed = True
                raise KeyboardInterrupt
            return np.full(shape, 0.5, np.float32)

    model = slide.Sequential(
        [slide.Input(4), slide.Dense(3, "relu"), slide.Dense(2, kernel_initializer=Once())]
    )
    with pytest.raises(KeyboardInterrupt):
        model.build()
    assert not model.built
    hidden, _, output, _ = model.get_weights()
    assert (hidden != 0).all()
    assert (output == 0.5).all()


def test_names_of_layers_are_their_own():
    model = slide.Sequential([slide.Input(4), slide.Dense(3, name="dense_1")])
    model.add(slide.Dense(3))
    assert [layer.name for layer in model.layers] == ["dense_1", "dense_2"]
    with pytest.raises(ValueError, match="another layer has the name 'dense_1'"):
        model.add(slide.Dense(3, name="dense_1"))


def test_an_output_layer_that_comes_after_compile_is_checked():
    model = slide.Sequential([slide.Input(4), slide.Dense(8, "sigmoid")])
    model.compile(loss="binary_crossentropy", metrics=["P@5"])
    model.add(slide.Dense(3, "sigmoid"))
    x = np.ones((2, 4))
    for use in (
        lambda: model.fit(x, [[0, 1, 1]] * 2, verbose=0),
        lambda: model.predict(x),
        model.build,
        model.get_weights,
    ):
        with pytest.raises(ValueError, match="precision@5 of 3 outputs: k=5 must be at most 3"):
            use()
        assert not model.built
    model.compile(loss="binary_crossentropy")
    model.add(slide.Dense(3))
    with pytest.raises(ValueError, match="needs an output layer with activation"):
        model.fit(np.ones((2, 4)), [[0, 1, 1]] * 2, verbose=0)


def test_biases_that_were_set_are_not_started_anew():
    x, y = data()

    def with_biases():
        model = slide.Sequential(
            [
                slide.Input(N_FEATURES),
                slide.Dense(N_LABELS, "softmax", bias_initializer="label_log_odds"),
            ]
        )
        model.compile(SGD(1e-12))
        return model

    fresh, warm = with_biases(), with_biases()
    fresh.fit(x, y, verbose=0)
    started = fresh.get_weights()[1]
    assert abs(started).min() > 0.1
    warm.set_weights([w + 1 for w in fresh.get_weights()])
    warm.fit(x, y, verbose=0)
    np.testing.assert_allclose(warm.get_weights()[1], started + 1, rtol=1e-5)
    # A file knows whether they are still to come.
    early = with_biases()
    copied = copy.deepcopy(early)
    early.build()
    loaded = copy.deepcopy(early)
    for other in (copied, loaded):
        other.fit(x, y, verbose=0)
        np.testing.assert_allclose(other.get_weights()[1], started, rtol=1e-5)


def test_propensities_of_a_model_are_those_of_all_its_data():
    x, y = data()
    model = make(metrics=["psp@2"])
    model.fit(x, y, verbose=0)
    before = model.metrics[0].propensities.copy()
    model.partial_fit(x[:20], y[:20])
    model.train_on_batch(x[:3], y[:3])
    np.testing.assert_array_equal(model.metrics[0].propensities, before)
    chunks = make(metrics=["psp@2"])
    chunks.partial_fit(x[:20], y[:20])
    with pytest.raises(ValueError, match="psp@2 needs propensities"):
        chunks.evaluate(x, y)
    other = make(metrics=["psp@2"])
    with pytest.raises(ValueError, match="psp@2 needs propensities, which batches do not give"):
        other.fit(batches_of(x, y), validation_data=(x, y), verbose=0)
    assert other.step == 0


def test_blas_is_as_it_was_when_the_last_model_is_done():
    """Models in two threads end in any order; the limit is the process's."""
    from threadpoolctl import threadpool_info, threadpool_limits

    from slide._threads import one_blas_thread

    def limits():
        return {
            library["num_threads"]
            for library in threadpool_info()
            if library["user_api"] == "blas"
        }

    with threadpool_limits(2, "blas"):
        before = limits()
        first, second = one_blas_thread(), one_blas_thread()
        first.__enter__()
        second.__enter__()
        assert limits() <= {1}
        first.__exit__(None, None, None)
        assert limits() <= {1}
        second.__exit__(None, None, None)
        assert limits() == before


def test_a_learning_rate_may_be_assigned():
    x, y = data()
    model = make(optimizer=SGD(0.1))
    model.optimizer.learning_rate = 1e-3
    assert model.fit(x, y, verbose=0).history["lr"] == [pytest.approx(1e-3)]
    with pytest.raises(TypeError):
        model.optimizer.learning_rate = "fast"


@pytest.mark.parametrize("batches", [False, True])
def test_a_rate_that_a_callback_assigns_is_that_of_the_next_execution(batches):
    x, y = data()

    class Rates(Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.model.optimizer.learning_rate = 0.1 * (batch + 1)

    model, expected = make(optimizer=SGD(0.0), steps=1), make(optimizer=SGD(0.0))
    arguments = (batches_of(x, y),) if batches else (x, y)
    model.fit(*arguments, batch_size=30, shuffle=False, verbose=0, callbacks=[Rates()])
    for i, batch in enumerate(batches_of(x, y)):
        expected.optimizer.learning_rate = 0.1 * (i + 1)
        expected.train_on_batch(*batch)
    assert same_weights(model, expected)


@pytest.mark.parametrize(("name", "value"), [("optimizer", Adam()), ("loss", "mse")])
def test_only_compile_changes_the_optimizer_and_the_loss(name, value):
    model = make()
    before = getattr(model, name)
    with pytest.raises(AttributeError, match="for compile"):
        setattr(model, name, value)
    assert getattr(model, name) is before


@pytest.mark.parametrize("bad", [-1, N_FEATURES, 2**31 - 1])
def test_ids_that_a_callback_writes_are_looked_at(bad):
    x, y = data()
    model = make(steps=1)

    def spoil(batch, logs):
        x.indices[-1] = bad

    spoils = LambdaCallback(on_train_batch_end=spoil)
    with pytest.raises(ValueError, match=rf"row 89 has column {bad}; it must be in \[0, 20\)"):
        model.fit(x, y, batch_size=90, epochs=2, shuffle=False, verbose=0, callbacks=[spoils])
    assert model.step == 1
    x, y = data()
    held, labels = data(seed=1)

    def spoil_validation(batch, logs):
        held.indices[0] = bad

    spoils = LambdaCallback(on_train_batch_end=spoil_validation)
    with pytest.raises(ValueError, match=f"row 0 has column {bad}"):
        model.fit(x, y, validation_data=(held, labels), verbose=0, callbacks=[spoils])


def test_places_that_a_callback_writes_are_those_of_a_copy():
    x, y = data()
    x = sp.csr_array(x)
    x.indptr = x.indptr.astype(np.int64)  # what the kernels read, and so not converted
    labels = sp.csr_array((np.ones(90, np.float32), (np.arange(90), y)), shape=(90, N_LABELS))
    labels.indptr = labels.indptr.astype(np.int64)
    model, expected = make(), make()
    expected.fit(x.copy(), labels.copy(), verbose=0, n_jobs=1)

    def spoil(logs):
        x.indptr[-1] = labels.indptr[-1] = labels.indices[0] = 2**30

    model.fit(x, labels, verbose=0, n_jobs=1, callbacks=LambdaCallback(on_train_begin=spoil))
    assert same_weights(model, expected)


def test_weights_without_memory_are_named(monkeypatch):
    output = slide.Dense(2**31 - 17, "softmax", name="labels")
    model = slide.Sequential([slide.Input(9), slide.Dense(2**20, "relu"), output])
    model.compile()
    words = r"weights of layer 'labels', 1,048,576 inputs and 2,147,483,631 neurons: [\d,.]+ GB"
    with pytest.raises(MemoryError, match=words):
        model.fit(np.ones((2, 9)), [0, 1], verbose=0)
    assert not model.built
    model = make()
    model.build()
    monkeypatch.setattr("slide._memory.available_memory", lambda: 1000)
    words = "state of Adam for layer 'dense_1', 16 inputs and"  # of features it takes what they use
    with pytest.raises(MemoryError, match=words):
        model.fit(*data(), verbose=0)
    monkeypatch.undo()
    model.fit(*data(), verbose=0)


def test_memory_that_the_system_refuses_is_a_memory_error():
    with pytest.raises(MemoryError, match="GB of memory: "):
        aligned_zeros((1 << 45, 16))


@pytest.mark.parametrize(
    ("sampler", "match"),
    [
        (sampling.Uniform(1000), "Uniform"),
        (sampling.LSH(hashing.WTA(n_bins=8), max_active=9), "n_bins=8"),
    ],
)
def test_an_output_sampler_that_does_not_fit_builds_nothing(sampler, match):
    def network(sampler):
        model = slide.Sequential(
            [
                slide.Input(8),
                slide.Dense(3, "relu"),
                slide.Dense(60, "softmax", sampler=sampler, bias_initializer="label_log_odds"),
            ]
        )
        model.compile("sgd")
        return model

    x, y = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32), np.arange(64) % 60
    model, other = network(sampler), network("auto")
    with pytest.raises(ValueError, match=match):
        model.fit(x, np.zeros(64, int), verbose=0)
    assert not model.built
    model.set_sampler("auto")
    for one in (model, other):
        one.fit(x, y, verbose=0)
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_csv_logger_goes_on_after_a_line_without_end(tmp_path):
    path = tmp_path / "log.csv"
    x, y = np.eye(4, dtype=np.float32), np.arange(4)
    model = slide.Sequential([slide.Input(4), slide.Dense(4, "softmax")])
    model.compile("sgd")
    model.fit(x, y, verbose=0, callbacks=[CSVLogger(path)])
    path.write_text(path.read_text().rstrip("\n"))
    model.fit(x, y, verbose=0, callbacks=[CSVLogger(path, append=True)])
    lines = path.read_text().split("\n")
    assert len(lines) == 4
    assert lines[3] == ""
    assert {line.count(",") for line in lines[:3]} == {lines[0].count(",")}
    for separator in ("\n", "\r", '"', ""):
        with pytest.raises(ValueError, match="separator"):
            CSVLogger(path, separator)
