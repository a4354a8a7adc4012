"""Families measured on a layer: recall as by brute force, the rule, and what is refused."""

import json

import numpy as np
import pytest
import scipy.sparse as sp

import slide
from slide import hashing, sampling, tuning


def layer(seed=0, n=1500, n_in=20, rank=5):
    rng = np.random.default_rng(seed)
    basis = rng.standard_normal((rank, n_in))
    W = rng.standard_normal((n, rank)) @ basis + 0.1 * rng.standard_normal((n, n_in))
    X = np.maximum(rng.standard_normal((80, rank)) @ basis, 0)
    return W, X, rng.standard_normal(n)


def test_recall_is_that_of_brute_force():
    W, X, b = layer()
    found = tuning.choose(W, X, b, max_active=1.0, families=["clusters", "sketches"])
    assert [m.recall for m in found.measured] == [1.0, 1.0]
    assert all(m.retrieved == len(W) for m in found.measured)
    found = tuning.choose(W, X, b, max_active=30, families=["sketches"])
    assert found.measured[0].recall >= 0.95
    # A random thirtieth of the layer has that share of the largest.
    uniform = hashing.SimHash(1, 1)
    found = tuning.choose(W, X, b, max_active=50, families=[uniform])
    assert found.measured[0].recall < 0.4


def test_the_cheapest_that_is_enough():
    W, X, b = layer()
    found = tuning.choose(W, X, b, recall=0.8)
    assert len(found.measured) == len(tuning.candidates(len(W), 30))
    enough = [m for m in found.measured if m.recall >= 0.8]
    assert found.measured[0].seconds == min(m.seconds for m in enough)
    assert "least time" in found.reason


def test_the_best_if_none_is_enough():
    W, X, b = layer(1)
    families = [hashing.SimHash(2, 1), hashing.SimHash(8, 1)]
    found = tuning.choose(W, X, b, max_active=15, families=families, recall=1.0)
    assert found.measured[0].recall == max(m.recall for m in found.measured)
    assert "none has 1.0" in found.reason


def test_samplers():
    W, X, b = layer(2)
    drawn = tuning.choose(W, X, b, families=["sketches"], max_active=30).sampler
    assert (drawn.max_active, drawn.correction) == (30, "logq")
    mixed = tuning.choose(W, X, b, families=["clusters"], max_active=31).sampler
    assert [part.max_active for part in mixed.samplers[:1]] == [16]
    assert mixed.samplers[1].n == 15
    for n in (1, len(W)):
        whole = tuning.choose(W, X, b, families=["clusters"], max_active=n).sampler
        assert isinstance(whole, sampling.LSH)
        assert whole.max_active == n


def test_the_page_and_json():
    W, X, b = layer(3, n=300)
    found = tuning.choose(W, X, b, families=["clusters", "simhash"])
    assert len(str(found).splitlines()) == 4
    again = json.loads(json.dumps(found.to_dict()))
    assert hashing.get(again["measured"][0]["family"]).get_config() == (
        found.measured[0].family.get_config()
    )
    assert sampling.get(again["sampler"]).get_config() == found.sampler.get_config()


def test_the_same_recall_with_any_number_of_threads_and_twice():
    W, X, b = layer(4)
    found = [tuning.choose(W, X, b, n_jobs=j, families=["clusters"]) for j in (1, 2, 1)]
    assert len({m.measured[0].recall for m in found}) == 1


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"weights": np.zeros(3)}, "weights must be a matrix"),
        ({"weights": [["a"]]}, "weights must be a matrix"),
        ({"weights": np.zeros((0, 3))}, "weights is empty"),
        ({"X": np.full((2, 20), np.nan)}, "X has nan in row 0, column 0"),
        ({"X": np.zeros((2, 19))}, "X has 19 columns, the weights 20"),
        ({"bias": np.zeros(3)}, "bias must be 1500 finite"),
        ({"bias": np.full(1500, np.inf)}, "bias must be 1500 finite"),
        ({"k": 0}, "k"),
        ({"k": 1501}, "k"),
        ({"recall": 0.0}, "recall"),
        ({"recall": 1.5}, "recall"),
        ({"max_active": 0}, "max_active"),
        ({"max_active": 1501}, "max_active"),
        ({"max_active": 2.0}, "max_active"),
        ({"families": []}, "families is empty"),
        ({"families": ["best"]}, "best"),
        ({"n_queries": 0}, "n_queries"),
        ({"batch_size": 0}, "batch_size"),
        ({"random_state": -1}, "random_state"),
    ],
)
def test_bad_input(change, match):
    W, X, b = layer()
    given = {"weights": W, "X": X, "bias": b, **change}
    with pytest.raises((ValueError, TypeError), match=match):
        tuning.choose(**given)


def make_model(fitted=True):
    model = slide.Sequential(
        [
            slide.Input(12, sparse=False),
            slide.Dense(8, activation="relu"),
            slide.Dense(300, activation="softmax"),
        ],
        seed=1,
    )
    model.compile(slide.optimizers.Adam(0.01))
    x = np.random.default_rng(0).standard_normal((200, 12)).astype(np.float32)
    y = np.arange(200) % 300
    if fitted:
        model.fit(x, y, epochs=1, verbose=0)
    return model, x


def test_of_a_model():
    model, x = make_model()
    before = model.get_weights()
    found = model.choose_sampler(x, n=50, families=["clusters", "sketches"], max_active=10)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    W0, b0, W1, b1 = before
    inputs = np.maximum(x[:50] @ W0 + b0, 0)
    again = tuning.choose(
        W1.T, inputs, b1, families=["clusters", "sketches"], max_active=10, n_queries=50
    )
    recalls = [{type(m.family): m.recall for m in choice.measured} for choice in (found, again)]
    assert recalls[0] == pytest.approx(recalls[1], abs=0.02)


def test_of_a_model_that_cannot():
    model, x = make_model(fitted=False)
    with pytest.raises(RuntimeError, match="call fit first"):
        model.choose_sampler(x)
    model, x = make_model()
    with pytest.raises(ValueError, match="x has no rows"):
        model.choose_sampler(x[:0])
    with pytest.raises(ValueError, match="features"):
        model.choose_sampler(x[:, :5])
    with pytest.raises(TypeError, match="colour"):
        model.choose_sampler(x, colour=1)
    with pytest.raises(ValueError, match="n must be"):
        model.choose_sampler(x, n=0)


def test_of_a_model_with_sparse_rows():
    rng = np.random.default_rng(0)
    x = sp.random(90, 30, 0.3, "csr", np.float32, rng)
    model = slide.Sequential(
        [
            slide.Input(30),
            slide.Dense(8, activation="relu"),
            slide.Dense(60, activation="softmax", sampler=sampling.LSH(max_active=9)),
        ]
    )
    model.compile(slide.optimizers.Adam(0.01))
    model.fit(x, np.arange(90) % 60, verbose=0)
    for rows in (x, sp.csr_array(x), x.tocoo()):
        assert model.choose_sampler(rows, n=20, families=["clusters"], max_active=60).measured
        assert 0 <= model.diagnose(rows, np.arange(90) % 60)["dense_1"].recall <= 1


def sampled_model(sampler, n=400, update="batch"):
    model = slide.Sequential(
        [
            slide.Input(12, sparse=False),
            slide.Dense(8, activation="relu"),
            slide.Dense(n, activation="softmax", sampler=sampler),
        ],
        seed=1,
    )
    model.compile(slide.optimizers.Adam(0.01), update=update)
    x = np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32)
    return model, x, np.arange(300) % n


@pytest.mark.parametrize("new", [sampling.Uniform(30, shared=False), "auto"], ids=repr)
def test_another_sampler(new, tmp_path):
    """Weights stay, predictions too; training goes on, and the file has the new one."""
    model, x, y = sampled_model(sampling.LSH("simhash", max_active=40))
    model.fit(x, y, verbose=0)
    before, scores = model.get_weights(), model.predict(x)
    model.set_sampler(new)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(model.predict(x), scores)
    new = sampling.get(new)
    assert repr(model.layers[-1].sampler) == repr(new)
    model.save(tmp_path / "m.npz")
    again = slide.load(tmp_path / "m.npz")
    for one in (model, again):
        one.fit(x, y, verbose=0)
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(model.get_weights()[2], before[2])


def test_another_sampler_continues_as_if_it_had_been_there():
    """Rows that the old sampler left behind have their missed steps: with all neurons in both sets
    training is the same as without a change."""
    results = []
    for change in (False, True):
        model, x, y = sampled_model(sampling.LSH("clusters", max_active=1.0))
        model.fit(x, y, verbose=0)
        if change:
            model.set_sampler(sampling.LSH(hashing.Clusters(3), max_active=1.0))
        model.fit(x, y, verbose=0)
        results.append(model.get_weights())
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_next_step_has_the_new_sampler():
    model, x, y = sampled_model(sampling.LSH("clusters", max_active=1.0))
    assert model.fit(x, y, verbose=0).history["active_fraction"] == [1.0]
    model.set_sampler(sampling.Uniform(30, shared=False))
    assert model.fit(x, y, verbose=0).history["active_fraction"][0] == pytest.approx(31 / 400)


def test_samplers_that_do_not_suit():
    model, x, y = sampled_model(sampling.LSH("simhash", max_active=40), update="hogwild")
    model.fit(x, y, verbose=0)
    sampler, weights = model.layers[-1].sampler, model.get_weights()
    for new, error, match in (
        (sampling.WinnerTakeAll(0.1), ValueError, "hidden"),
        (sampling.Uniform(401), ValueError, "401"),
        (sampling.LSH(max_active=500, min_active=450), ValueError, "450"),
        ("nothing", ValueError, "unknown"),
        (3, TypeError, "sampler"),
    ):
        with pytest.raises(error, match=match):
            model.set_sampler(new)
    assert model.layers[-1].sampler is sampler
    model.fit(x, y, verbose=0)
    assert not np.array_equal(model.get_weights()[2], weights[2])
    with pytest.raises(ValueError, match="no sampler to replace"):
        make_model()[0].set_sampler("auto")
    with pytest.raises(ValueError, match="no layers"):
        slide.Sequential().set_sampler("auto")


def test_no_change_between_batches():
    model, x, y = sampled_model("auto")
    seen = []

    class Changing(slide.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            with pytest.raises(RuntimeError, match="between batches"):
                self.model.set_sampler("auto")
            seen.append(batch)

    model.fit(x, y, verbose=0, callbacks=[Changing()])
    assert seen


def test_a_chooser_replaces_what_finds_little(capsys):
    poor = sampling.LSH(hashing.SimHash(8, 1), max_active=40)
    model, x, y = sampled_model(poor)
    chooser = slide.callbacks.ChooseSampler(x, max_active=40, verbose=1, n=100)
    model.fit(x, y, epochs=3, verbose=0, callbacks=[chooser])
    first, *later = chooser.looks
    assert [look["epoch"] for look in chooser.looks] == [0, 1, 2]
    assert first["changed"]
    assert first["recall"] < 0.7
    assert first["choice"].measured[0].recall >= 0.9
    assert type(first["choice"].measured[0].family).__name__ in repr(model.layers[-1].sampler)
    assert all(look["recall"] >= 0.9 and look["choice"] is None for look in later)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "now" in lines[0]
    assert lines[1].endswith("the sampler stays")


def test_a_chooser_keeps_what_is_best_and_skips_epochs():
    model, x, y = sampled_model(sampling.LSH(hashing.Sketches(16), max_active=40))
    sampler = model.layers[-1].sampler
    families = [hashing.Sketches(16), hashing.SimHash(8, 1)]
    chooser = slide.callbacks.ChooseSampler(x, max_active=40, families=families, every=2)
    model.fit(x, y, epochs=4, verbose=0, callbacks=[chooser])
    assert [look["epoch"] for look in chooser.looks] == [0, 2]
    assert not any(look["changed"] for look in chooser.looks)
    assert model.layers[-1].sampler is sampler


def test_a_chooser_of_random_neurons():
    model, x, y = sampled_model(sampling.Uniform(40, shared=False))
    chooser = slide.callbacks.ChooseSampler(x, max_active=0.1, families=["clusters"])
    model.fit(x, y, epochs=1, verbose=0, callbacks=[chooser])
    assert np.isnan(chooser.looks[0]["recall"])
    assert chooser.looks[0]["changed"]
    assert isinstance(model.layers[-1].sampler, sampling.Mixture)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"recall": 1.5}, ValueError, "recall"),
        ({"k": 0}, ValueError, "k must"),
        ({"max_active": 0}, ValueError, "max_active"),
        ({"max_active": 2.0}, ValueError, "max_active"),
        ({"every": 0}, ValueError, "every"),
        ({"n": 0}, ValueError, "n must"),
        ({"verbose": 5}, ValueError, "verbose"),
    ],
)
def test_bad_choosers(change, error, match):
    with pytest.raises(error, match=match):
        slide.callbacks.ChooseSampler(np.ones((3, 3)), **change)


def test_a_chooser_without_anything_to_choose():
    model, x = make_model(fitted=False)
    y = np.arange(200) % 300
    with pytest.raises(ValueError, match="computes all neurons"):
        model.fit(x, y, verbose=0, callbacks=[slide.callbacks.ChooseSampler(x)])
    model, x, y = sampled_model("auto")
    with pytest.raises(ValueError, match="features"):
        model.fit(x, y, verbose=0, callbacks=[slide.callbacks.ChooseSampler(x[:, :5])])
