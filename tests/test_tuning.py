"""Families measured on a layer: recall as by brute force, the rule, and what is refused."""

import json
import weakref

import numpy as np
import pytest
import scipy.sparse as sp

import slide
from slide import _executions, hashing, sampling, telemetry, tuning
from slide._kernels import diagnosis


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
    # Without a bound tables return what has a code in common with the query.
    family = hashing.SimHash(4, 3)
    neurons = family.codes(np.column_stack([W, b]))
    queries = family.codes(np.column_stack([X, np.ones(len(X))]))
    got = (queries[:, None] == neurons).any(axis=2)
    order = np.argsort(-(X @ W.T + b), axis=1)
    for k in (1, 3, 10, 50):
        measured = tuning.choose(W, X, b, max_active=1.0, k=k, families=[family]).measured[0]
        wanted = np.take_along_axis(got, order[:, :k], axis=1).mean()
        assert measured.recall == pytest.approx(wanted, abs=1e-9)
        assert measured.retrieved == pytest.approx(got.sum(axis=1).mean())


@pytest.mark.parametrize(
    "family", [hashing.Clusters(40), hashing.SimHash(3, 9), hashing.Sketches(16)], ids=repr
)
def test_recall_is_that_of_the_sampler(family):
    """Which retrieves half of its neurons, if it does not draw them."""
    W, X, b = layer()
    found = tuning.choose(W, X, b, max_active=40, families=[family])
    head = sampling.lsh_of(found.sampler, len(W))
    assert head.max_active == (40 if isinstance(family, hashing.Sketches) else 20)
    assert found.measured[0].retrieved <= head.max_active
    assert f" {found.measured[0].retrieved:.0f} " in found.reason
    bench = tuning._Bench(W, X, b, 1.0, 10, 80, 256, 1)
    queries = bench.queries  # in their order, on which random choices depend
    active = found.sampler.active_set(len(W), 21, 0, 1)
    tuning.build_tables(active, bench.parameters, queries, seed=0, n_threads=1)
    indptr, ids = diagnosis.retrieved(active, bench.parameters, queries, 1, 0)
    best = np.argsort(-(queries[:, :21] @ np.column_stack([W, b]).T), axis=1)[:, :10]
    wanted = np.mean([np.isin(best[i], ids[indptr[i] : indptr[i + 1]]).mean() for i in range(80)])
    assert found.measured[0].recall == pytest.approx(wanted, abs=1e-9)


def test_no_more_queries_than_rows():
    W, X, b = layer(n=100)
    few, many = (
        tuning.choose(W, X, b, max_active=9, families=["clusters"], n_queries=n)
        for n in (80, 10**9)
    )
    assert few.measured[0].recall == many.measured[0].recall


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


def test_a_chooser_compares_samplers_as_they_are():
    """The present one is measured with what it retrieves, others with what they would."""
    family = hashing.SimHash(3, 9)
    model, x, y = sampled_model(sampling.LSH(family, max_active=20))
    chooser = slide.callbacks.ChooseSampler(x, max_active=40, families=[family], recall=1.0)
    model.fit(x, y, verbose=0, callbacks=[chooser])
    (look,) = chooser.looks
    assert not look["changed"]
    assert look["choice"].sampler.samplers[0].max_active == 20
    assert look["recall"] == look["choice"].measured[0].recall < 1


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


# An LSH that chooses -------------------------------------------------------------------

POOR, GOOD = hashing.SimHash(8, 1), hashing.Sketches(16)


@pytest.fixture
def compared(monkeypatch):
    """Families of which one finds enough, so that times decide nothing; the calls are noted."""
    calls = []

    def two(n_neurons, n_retrieved):
        calls.append((n_neurons, n_retrieved))
        return [POOR, GOOD]

    monkeypatch.setattr(tuning, "candidates", two)
    return calls


def choice_of(family, recall=1.0):
    """Return a choice that says that a family has that recall, whatever is true."""
    seconds = {"query_seconds": 1e-6, "build_seconds": 1e-6, "seconds": 1e-6}
    row = tuning.Measurement(family, recall, 40.0, rebuild_every=50, **seconds)
    return tuning.Choice(sampling.LSH(family, max_active=40), "as told", [row])


def chosen(model):
    return repr(model.layers[-1].sampler.hash)


@pytest.mark.parametrize("max_active", [40, 0.1, None])
def test_lsh_chooses_after_the_first_epoch(max_active, compared, capsys):
    most = 64 if max_active is None else 40
    model, x, y = sampled_model(sampling.LSH(max_active=max_active))
    assert chosen(model) == repr(hashing.Clusters())
    history = model.fit(x, y, verbose=2).history
    sampler = model.layers[-1].sampler
    assert compared == [(400, most // 2)]
    assert sampler.chooses
    assert sampler.max_active == max_active
    assert repr(sampler.choice.sampler) == repr(
        sampling.LSH(GOOD, max_active=most, correction="logq")
    )
    assert chosen(model) == repr(GOOD)
    assert all(m.retrieved <= most for m in sampler.choice.measured)
    assert len(history["time_choice"]) == 1
    assert 0 < history["time_choice"][0] < 60
    lines = [line for line in capsys.readouterr().out.splitlines() if "Sketches" in line]
    assert lines == [f"dense_1: {sampler.choice.reason}"]
    model.summary()
    assert "Sketches" in capsys.readouterr().out
    # What was chosen is what computes.
    history = model.fit(x, y, verbose=2).history
    assert history["active_fraction"][0] < (most + 1) / 400 + 1e-6
    assert "Sketches" not in capsys.readouterr().out


def test_batches_of_half_precision_are_looked_at_as_well(compared):
    model, x, y = sampled_model(sampling.LSH(max_active=40))
    model.fit([(np.asarray(x, np.float16), y)], verbose=0)
    assert compared == [(400, 20)]


def test_what_finds_enough_is_not_compared_again(compared):
    model, x, y = sampled_model(sampling.LSH(max_active=40))
    model.fit(x, y, verbose=0, n_jobs=1)
    sampler, active = model.layers[-1].sampler, model.layers[-1]._active
    history = model.fit(x, y, epochs=3, verbose=0, n_jobs=1).history
    assert len(history["time_choice"]) == 3
    assert len(compared) == 1
    assert model.layers[-1].sampler is sampler
    assert model.layers[-1]._active is active


def test_what_was_there_before_stays_if_it_is_chosen(monkeypatch):
    """The tables go on, and so does training, as if there had been no look."""
    monkeypatch.setattr(tuning, "candidates", lambda *sizes: [hashing.Clusters()])
    parts = [sampling.LSH("clusters", max_active=20), sampling.Uniform(20, shared=False)]
    models = []
    for sampler in (sampling.LSH(max_active=40), sampling.Mixture(parts)):
        model, x, y = sampled_model(sampler)
        model.fit(x, y, epochs=3, verbose=0)
        models.append(model)
    assert models[0].layers[-1].sampler.choice is not None
    for one, other in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def still(sampler):
    """Return a model whose weights stay as they are, with data."""
    model, x, y = sampled_model(sampler)
    model.compile(slide.optimizers.SGD(0.0))
    return model, x, y


def test_another_family_when_weights_drift(monkeypatch, capsys):
    """Clusters find copies of a few neurons, but no longer those of random ones."""
    cells = hashing.Clusters(n_cells=20, n_probes=1)
    model, x, y = still(sampling.LSH(max_active=40))
    W0, b0, W1, b1 = model.get_weights()
    rng = np.random.default_rng(0)
    few = rng.standard_normal((8, 8)).astype(np.float32)
    model.set_weights([W0, b0, np.repeat(few, 50, axis=1), b1])
    monkeypatch.setattr(tuning, "candidates", lambda *sizes: [cells])
    model.fit(x, y, epochs=2, verbose=0)
    before = model.layers[-1].sampler
    assert chosen(model) == repr(cells)
    assert before.choice.measured[0].recall >= 0.9
    monkeypatch.setattr(tuning, "candidates", lambda *sizes: [cells, GOOD])
    model.fit(x, y, verbose=0)
    assert model.layers[-1].sampler is before
    model.set_weights([W0, b0, rng.standard_normal(W1.shape), b1])
    model.fit(x, y, verbose=1)
    assert chosen(model) == repr(GOOD)
    choice = model.layers[-1].sampler.choice
    assert [repr(m.family) for m in choice.measured] == [repr(GOOD), repr(cells)]
    assert choice.measured[1].recall < 0.85 < 0.9 <= choice.measured[0].recall
    assert "went from" in choice.reason
    assert f"dense_1: {choice.reason}" in capsys.readouterr().out


def test_a_family_stays_if_none_is_better_and_is_not_compared_again(monkeypatch):
    calls = []
    monkeypatch.setattr(tuning, "candidates", lambda *sizes: calls.append(sizes) or [POOR])
    model, x, y = still(sampling.LSH(max_active=40, choice=choice_of(POOR)))
    model.fit(x, y, epochs=3, verbose=0)
    choice = model.layers[-1].sampler.choice
    assert len(calls) == 1
    assert chosen(model) == repr(POOR)
    assert choice.measured[0].recall < 0.85
    assert "no family finds a point more" in choice.reason


@pytest.mark.parametrize(
    ("was", "now", "compares"),
    [
        (0.95, 0.91, False),
        (0.95, 0.89, True),
        (0.90, 0.89, True),
        (0.89, 0.95, False),
        (0.89, 0.80, False),
        (0.89, 0.78, True),
    ],
)
def test_when_families_are_compared_again(was, now, compares, scripted):
    """Below 90%; where none found that, after a fall of ten points."""
    scripted.recalls = dict.fromkeys("abcd", now)
    old = tuning.Choice(sampling.LSH(scripted.family["b"]), "", [told(scripted.family["b"], was)])
    found = look(old)
    assert scripted.measured == (["b", "a", "c", "d"] if compares else ["b"])
    assert (found is not None) == compares


# The time of a comparison ---------------------------------------------------------------


class Scripted:
    """Families a to d, in this order, and a clock that only measuring them moves."""

    def __init__(self):
        self.now, self.measured = 100.0, []
        self.family = {name: hashing.SimHash(i + 2, 3) for i, name in enumerate("abcd")}
        self.recalls = dict.fromkeys("abcd", 0.5)
        self.seconds = dict.fromkeys(("exact", *"abcd"), 1.0)
        self.full = ""  # families without room

    def perf_counter(self):
        return self.now

    def measure(self, bench, family):
        name = self.name(family)
        if name in self.full:
            raise MemoryError(f"{name} has no room")
        self.measured.append(name)
        self.now += self.seconds[name]
        return told(family, self.recalls[name])

    def name(self, family):
        return next(name for name, other in self.family.items() if repr(other) == repr(family))

    def names(self, choice):
        """Names of those measured, and of those left out."""
        left = [self.name(family) for family, _ in choice.left_out]
        return "".join(self.name(m.family) for m in choice.measured), "".join(left)


def told(family, recall):
    """What choices are made of, as if it had been measured."""
    return tuning.Measurement(family, recall, 40.0, 1e-6, 1e-6, 50, 1e-6)


def look(old=None, epoch_seconds=1e9):
    sampler = sampling.LSH(max_active=40, choice=old)
    sizes = {"batch_size": 32, "n_jobs": 1}
    return tuning.review(sampler, np.ones((400, 3)), np.ones((5, 3)), None, epoch_seconds, **sizes)


@pytest.fixture
def scripted(monkeypatch):
    script = Scripted()

    def largest(*args):
        script.now += script.seconds["exact"]
        return telemetry.largest(*args)

    monkeypatch.setattr(tuning, "time", script)
    monkeypatch.setattr(tuning, "largest", largest)
    monkeypatch.setattr(tuning._Bench, "measure", lambda *args: script.measure(*args))
    monkeypatch.setattr(tuning, "candidates", lambda *sizes: list(script.family.values()))
    return script


@pytest.mark.parametrize(
    ("budget", "seconds", "wanted"),
    [
        (None, {}, "abcd"),
        (0.0, {}, "a"),  # there must be one
        (2.9, {}, "a"),
        (3.0, {}, "ab"),
        (5.0, {}, "abcd"),
        (5.0, {"exact": 1.5}, "abc"),  # all activations are computed in any case
        (5.0, {"b": 2.0}, "ab"),  # another like the slowest would not be done in time
        (6.0, {"b": 2.0}, "abc"),
        (4.0, {"a": 1.6}, "a"),  # though the others, nobody knows it, would
        (5.0, {"a": 0.1, "b": 9.0}, "ab"),  # a slow one may take longer than all others
    ],
)
def test_a_comparison_stops_when_its_time_is_spent(budget, seconds, wanted, scripted):
    scripted.seconds.update(seconds)
    found = tuning.choose(np.ones((400, 3)), np.ones((5, 3)), max_active=40, budget=budget)
    assert "".join(scripted.measured) == wanted
    assert scripted.names(found) == (wanted, "abcd"[len(wanted) :])
    left = 4 - len(wanted)
    assert found.reason.endswith(f"{left} families were left out." if left else "Retrieve more.")
    lines = str(found).splitlines()
    assert sum(line.startswith("left out: SimHash") for line in lines) == left


def test_a_choice_says_why_a_family_was_left_out(scripted):
    scripted.full = "a"
    scripted.seconds["b"] = 3.0
    found = tuning.choose(np.ones((400, 3)), np.ones((5, 3)), max_active=40, budget=5.0)
    assert scripted.names(found) == ("b", "acd")
    late = "no time, 4.00 of 5.00 s were spent, 3.00 on one"
    assert [why for _, why in found.left_out] == ["a has no room", late, late]
    again = tuning.Choice.from_dict(json.loads(json.dumps(found.to_dict())))
    assert str(again) == str(found)
    assert again.to_dict() == found.to_dict()
    # Those that somebody wants are not left out for want of room.
    with pytest.raises(MemoryError, match="a has no room"):
        tuning.choose(np.ones((40, 3)), np.ones((5, 3)), families=[scripted.family["a"]])


@pytest.mark.parametrize(("epoch", "wanted"), [(0.0, "a"), (4.0, "a"), (6.0, "ab"), (10.0, "abcd")])
def test_a_choice_in_training_takes_half_an_epoch(epoch, wanted, scripted):
    assert scripted.names(look(None, epoch))[0] == wanted


@pytest.mark.parametrize(("exact", "wanted"), [(0.0, "abcd"), (0.5, "ab"), (0.7, "a")])
def test_a_choice_in_training_may_always_take_a_second(exact, wanted, scripted):
    scripted.seconds = {**dict.fromkeys("abcd", 0.25), "exact": exact}
    assert scripted.names(look(None, 1e-3))[0] == wanted


def test_what_is_left_out_has_its_turn_after_later_epochs(scripted):
    """As long as nothing finds enough, and once."""
    scripted.recalls = {"a": 0.5, "b": 0.505, "c": 0.7, "d": 0.6}
    first = look(None, 4.0)
    assert scripted.names(first) == ("a", "bcd")
    second = look(first, 4.0)
    assert scripted.names(second) == ("ab", "cd")
    assert repr(second.sampler) == repr(first.sampler)
    assert "no family finds a point more. 2 families were left out." in second.reason
    third = look(second, 4.0)
    assert scripted.names(third) == ("cab", "d")
    assert repr(sampling.lsh_of(third.sampler, 1).hash) == repr(scripted.family["c"])
    scripted.recalls["c"] = 0.9
    scripted.measured.clear()
    assert look(third, 4.0) is None
    scripted.recalls["c"] = 0.65
    last = look(third, 4.0)
    assert scripted.names(last) == ("cdab", "")
    assert last.measured[0].recall == 0.7  # by which the next fall is measured
    scripted.measured.clear()
    assert look(last, 4.0) is None
    assert scripted.measured == ["c"]


def test_after_a_fall_those_that_may_find_enough_come_first(scripted):
    scripted.recalls = {"a": 0.5, "b": 0.95, "c": 0.2, "d": 0.95}
    old = [told(scripted.family[name], recall) for name, recall in (("a", 0.92), ("b", 0.6))]
    left = [(scripted.family[name], "no time") for name in "cd"]
    choice = tuning.Choice(sampling.LSH(scripted.family["a"]), "", old, left)
    found = look(choice)
    assert scripted.measured == list("acdb")
    assert scripted.names(found) == ("dbac", "")
    scripted.measured.clear()
    found = look(choice, 6.0)
    assert scripted.measured == list("ac")
    # The one that was measured before is there as it was; nobody knows the other.
    assert scripted.names(found) == ("acb", "d")
    assert [m.recall for m in found.measured] == [0.5, 0.2, 0.6]


def test_no_room_is_not_a_reason_to_compare_again(scripted):
    scripted.full = "bc"
    first = look()
    assert scripted.names(first) == ("ad", "bc")
    scripted.measured.clear()
    assert look(first) is None
    assert scripted.measured == ["a"]
    # Nor is there one to give up a sampler for.
    scripted.recalls["a"], scripted.full = 0.2, "bcd"
    found = look(first)
    assert scripted.names(found) == ("ad", "bc")
    assert "no family finds a point more" in found.reason
    scripted.full = "abcd"
    with pytest.raises(MemoryError, match="d has no room"):
        look()


def test_the_time_of_the_epoch_is_that_of_its_training(compared, monkeypatch):
    given, review = [], tuning.review

    def noting(sampler, weights, X, bias, epoch_seconds, **options):
        given.append(epoch_seconds)
        return review(sampler, weights, X, bias, epoch_seconds, **options)

    monkeypatch.setattr(tuning, "review", noting)
    model, x, y = sampled_model(sampling.LSH(max_active=40))
    history = model.fit(x, y, epochs=3, verbose=0).history
    assert given == pytest.approx([300 / rate for rate in history["samples_per_second"]])


def test_a_choice_survives_a_file_and_goes_on(compared, tmp_path):
    model, x, y = sampled_model(sampling.LSH(max_active=40))
    checkpoint = slide.callbacks.ModelCheckpoint(tmp_path / "c.safetensors")
    model.fit(x, y, verbose=0, callbacks=[checkpoint])
    again = slide.load(tmp_path / "c.safetensors")
    sampler = again.layers[-1].sampler
    assert sampler.chooses
    assert sampler.get_config() == model.layers[-1].sampler.get_config()
    assert str(sampler.choice) == str(model.layers[-1].sampler.choice)
    for one in (model, again):
        one.fit(x, y, epochs=2, verbose=0)
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    # What no longer finds enough is replaced in the loaded model, too.
    again.set_sampler(sampling.LSH(max_active=40, choice=choice_of(POOR)))
    again.save(tmp_path / "m.safetensors")
    again = slide.load(tmp_path / "m.safetensors")
    assert chosen(again) == repr(POOR)
    again.fit(x, y, verbose=0)
    assert chosen(again) == repr(GOOD)


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_same_choice_and_weights_twice(jobs, compared):
    results = []
    for n_jobs in (1, jobs):
        model, x, y = sampled_model(sampling.LSH(max_active=40))
        model.fit(x, y, epochs=3, verbose=0, n_jobs=n_jobs)
        results.append((model.get_weights(), model.layers[-1].sampler.choice))
    assert [m.recall for m in results[0][1].measured] == [m.recall for m in results[1][1].measured]
    for one, other in zip(results[0][0], results[1][0], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "sampler",
    [
        "auto",
        sampling.Auto(fast=True),
        sampling.LSH("clusters", max_active=40),
        sampling.LSH(max_active=40, rebuild_every=10),
        sampling.LSH(max_active=40, min_active=5),
        sampling.Mixture([sampling.LSH(max_active=20), sampling.Uniform(20)]),
        sampling.Uniform(20),
        None,
    ],
    ids=repr,
)
def test_others_do_not_choose(sampler, compared):
    hidden = sampling.LSH(max_active=4)
    layers = [
        slide.Input(12, sparse=False),
        slide.Dense(8, activation="relu", sampler=hidden),
        slide.Dense(400, activation="softmax", sampler=sampler),
    ]
    model = slide.Sequential(layers)
    model.compile()
    x = np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32)
    before = repr(model.layers[-1].sampler)
    assert "time_choice" not in model.fit(x, np.arange(300), verbose=0).history
    assert not compared
    assert repr(model.layers[-1].sampler) == before
    assert model.layers[0].sampler is hidden
    assert hidden.choice is None
    assert hidden.get_config()["hash"] is None


def test_without_a_family_elsewhere_it_is_clusters():
    """In a hidden layer and in a mixture."""
    tail = sampling.Uniform(20)
    results = []
    for family in (None, "clusters"):
        layers = [
            slide.Input(12, sparse=False),
            slide.Dense(16, activation="relu", sampler=sampling.LSH(family, max_active=8)),
            slide.Dense(
                400,
                activation="softmax",
                sampler=sampling.Mixture([sampling.LSH(family, max_active=20), tail]),
            ),
        ]
        model = slide.Sequential(layers)
        model.compile()
        x = np.random.default_rng(0).standard_normal((300, 12)).astype(np.float32)
        model.fit(x, np.arange(300), epochs=2, verbose=0)
        results.append(model.get_weights())
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_chooser_of_ones_own_is_enough(compared):
    model, x, y = sampled_model(sampling.LSH(max_active=40))
    chooser = slide.callbacks.ChooseSampler(x, max_active=40, families=[GOOD])
    history = model.fit(x, y, verbose=0, callbacks=[chooser]).history
    assert "time_choice" not in history
    assert not compared
    assert len(chooser.looks) == 1
    assert repr(model.layers[-1].sampler) == repr(chooser.looks[0]["choice"].sampler)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array, sp.coo_array, np.ndarray.tolist])
def test_choosing_on_batches_and_rows_of_any_kind(form, compared, monkeypatch):
    rows, review = [], tuning.review

    def noting(sampler, weights, X, *others, **options):
        rows.append(len(X))
        return review(sampler, weights, X, *others, **options)

    monkeypatch.setattr(tuning, "review", noting)
    model, x, y = sampled_model(sampling.LSH(max_active=40))
    model.fit(form(x), y, verbose=0)
    one = model.layers[-1].sampler.choice
    assert chosen(model) == repr(GOOD)
    model, _, _ = sampled_model(sampling.LSH(max_active=40))
    batches = [(form(x[i : i + 60]), y[i : i + 60]) for i in range(0, 300, 60)]
    model.fit(iter(batches), verbose=0)
    assert chosen(model) == repr(GOOD)
    other = model.layers[-1].sampler.choice
    assert one.measured[1].recall == pytest.approx(other.measured[1].recall, abs=0.15)
    assert rows == [256, 256]


def linear_model(sampler):
    """A model whose output layer's inputs are the features."""
    output = slide.Dense(400, "softmax", sampler=sampler)
    model = slide.Sequential([slide.Input(12, sparse=False), output])
    model.compile()
    return model


class Reused:
    """Batches of random rows, all in the same memory; which of the arrays still exist."""

    def __init__(self, sizes):
        rng = np.random.default_rng(1)
        self.rows = [rng.standard_normal((n, 12)).astype(np.float32) for n in sizes]
        self.y = rng.integers(400, size=max(sizes))
        self.alive = []

    def __iter__(self):
        memory = np.empty((len(self.y), 12), np.float32)
        seen = []
        for rows in self.rows:
            memory[: len(rows)] = rows
            batch = memory[: len(rows)]
            seen.append(weakref.ref(batch))
            yield batch, self.y[: len(rows)]
            del batch
            self.alive.append(sum(one() is not None for one in seen))


@pytest.mark.parametrize("form", [np.asarray, sp.csr_array])
@pytest.mark.parametrize(
    ("sizes", "last"),
    [
        ([7], 1),  # so many batches have rows among the last 256
        ([90, 90, 90, 90], 3),
        ([300, 1000], 1),
        ([1000, 40], 2),
        ([300, 256], 1),
        ([1] * 300, 256),
    ],
)
def test_the_last_rows_of_batches_are_looked_at(sizes, last, form, compared, monkeypatch):
    looked, review = [], tuning.review

    def noting(sampler, weights, X, *others, **options):
        looked.append(np.array(X[:, :12]))
        return review(sampler, weights, X, *others, **options)

    monkeypatch.setattr(tuning, "review", noting)
    batches = Reused(sizes)
    linear_model(sampling.LSH(max_active=40)).fit(
        ((form(x), y) for x, y in batches), verbose=0, n_jobs=1
    )
    assert [len(X) for X in looked] == [min(256, sum(sizes))]
    found = {row.tobytes() for row in looked[0]}
    held = [len(found & {row.tobytes() for row in rows}) for rows in batches.rows]
    assert sum(held) == len(looked[0]) == len(found)
    assert held[-1] == min(256, sizes[-1])
    assert all(held[-last:])
    assert not any(held[:-last])


@pytest.mark.parametrize(
    ("sampler", "callbacks"),
    [
        (None, []),
        (sampling.Uniform(20), []),
        (sampling.LSH("clusters", max_active=40), []),
        (sampling.LSH(max_active=40), []),
        (sampling.LSH(max_active=40), [slide.callbacks.ChooseSampler(np.ones((9, 12)))]),
    ],
    ids=["all", "uniform", "family given", "chooses", "callback chooses"],
)
def test_batches_are_not_held(sampler, callbacks, compared, monkeypatch):
    """A batch is gone when the next one comes, and copies of rows are made for a look only."""
    copied, remember = [], _executions.Batches._remember
    monkeypatch.setattr(
        _executions.Batches,
        "_remember",
        lambda self, x, n: copied.append(n) or remember(self, x, n),
    )
    batches = Reused([20] * 6)
    sampled_model(sampler)[0].fit(batches, verbose=0, n_jobs=1, callbacks=callbacks)
    assert max(batches.alive) <= 2
    chooses = isinstance(sampler, sampling.LSH) and sampler.chooses and not callbacks
    assert copied == ([20] * 6 if chooses else [])


def test_a_sampler_that_comes_between_batches_has_no_rows_to_choose_on(compared):
    model = linear_model(sampling.Uniform(20))

    class Changing(Reused):
        def __iter__(self):
            yield from super().__iter__()
            if model.epochs_trained == 0:
                model.set_sampler(sampling.LSH(max_active=40))

    history = model.fit(Changing([20] * 3), epochs=2, verbose=0).history
    assert [seconds > 0 for seconds in history["time_choice"]] == [False, True]
    assert len(compared) == 1


def test_single_batches_do_not_choose(compared):
    model, x, y = sampled_model(sampling.LSH(max_active=40))
    model.train_on_batch(x, y)
    model.partial_fit(x, y)
    assert not compared
    assert model.layers[-1].sampler.choice is None


def test_tables_are_there_after_a_choice(compared):
    model, x, y = sampled_model(sampling.LSH(max_active=40))
    seen = []

    class Diagnosing(slide.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(self.model.diagnose(x)["dense_1"])

    recorded = slide.callbacks.Telemetry()
    model.fit(x, y, verbose=0, callbacks=[recorded, Diagnosing()])
    assert seen[0].recall >= 0.9
    assert "Sketches" in seen[0].sampler
    assert seen[0].table_age == 0
    assert recorded.records[0]["recall"] >= 0.9
    assert recorded.records[0]["time_choice"] > 0
    ids, _ = model.predict(x, top_k=3, exact=False)
    assert ids.min() >= 0


def test_few_neurons_can_find_enough(compared):
    """Of two neurons, one of which is drawn at random, the largest is asked for, not ten."""
    model, x, y = sampled_model(sampling.LSH(max_active=2))
    model.fit(x, y, verbose=0)
    choice = model.layers[-1].sampler.choice
    assert "recall@1 " in choice.reason
    assert choice.measured[0].recall > 0.5


@pytest.mark.parametrize(("units", "max_active"), [(1, None), (3, None), (3, 1), (12, 2)])
def test_small_layers_choose(units, max_active):
    """Any family may win: it works with the layer above features, and with another below."""
    for below in ([], [slide.Dense(8, activation="relu", sampler=sampling.Uniform(0.5))]):
        output = slide.Dense(units, "softmax", sampler=sampling.LSH(max_active=max_active))
        model = slide.Sequential([slide.Input(5, sparse=False), *below, output])
        model.compile()
        x = np.random.default_rng(0).standard_normal((40, 5)).astype(np.float32)
        model.fit(x, np.arange(40) % units, epochs=2, verbose=0)
        choice = output.sampler.choice
        assert len(choice.measured) == len(tuning.candidates(units, max_active or units))


def test_what_has_no_room_is_left_out(monkeypatch, capsys):
    def full(*args):
        raise MemoryError("no room")

    monkeypatch.setattr(hashing.SimHash, "retriever", full)
    W, X, b = layer()
    families = {type(m.family) for m in tuning.choose(W, X, b).measured}
    assert families == {hashing.Sketches, hashing.Clusters}
    with pytest.raises(MemoryError, match="no room"):
        tuning.choose(W, X, b, families=["clusters", "simhash"])
    monkeypatch.setattr(tuning, "candidates", lambda *sizes: [POOR, POOR])
    with pytest.raises(MemoryError, match="no room"):
        tuning.choose(W, X, b)
    model, x, y = sampled_model(sampling.LSH(max_active=40))
    sampler = model.layers[-1].sampler
    model.fit(x, y, epochs=2, verbose=2)
    assert model.layers[-1].sampler is sampler
    assert capsys.readouterr().out.count("dense_1: the sampler stays, no room") == 2


def test_candidates_differ_in_bits_tables_and_probes():
    for sizes in ((1, 1), (10, 10), (13_043, 261), (670_091, 4096), (10**8, 1)):
        simhash = [f for f in tuning.candidates(*sizes) if isinstance(f, hashing.SimHash)]
        assert len({(f.n_tables, f.n_probes) for f in simhash}) == len(simhash) == 3


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"choice": 3}, TypeError, "choice must be a slide.tuning.Choice, got 3"),
        ({"choice": {}}, ValueError, "not a choice: {}"),
        ({"choice": {**choice_of(GOOD).to_dict(), "measured": []}}, ValueError, "nothing was meas"),
        ({"choice": {**choice_of(GOOD).to_dict(), "measured": [{}]}}, ValueError, "not a choice"),
        ({"choice": {**choice_of(GOOD).to_dict(), "sampler": "best"}}, ValueError, "'best'"),
        ({"choice": choice_of(GOOD, "all").to_dict()}, ValueError, "not a choice"),
        (
            {"choice": {**choice_of(GOOD).to_dict(), "left_out": [{"family": "simhash"}]}},
            ValueError,
            "not a choice.*'why'",
        ),
        ({"choice": choice_of(GOOD, 1.5).to_dict()}, ValueError, "not a choice.*1.5"),
        ({"choice": choice_of(GOOD, float("nan")).to_dict()}, ValueError, "not a choice"),
        ({"choice": choice_of(GOOD), "hash": "simhash"}, ValueError, "which does not choose"),
        ({"choice": choice_of(GOOD), "min_active": 3}, ValueError, "which does not choose"),
        (
            {"choice": tuning.Choice(sampling.Uniform(3), "", choice_of(GOOD).measured)},
            ValueError,
            "has no family",
        ),
        (
            {"choice": tuning.Choice(sampling.LSH(), "", choice_of(GOOD).measured)},
            ValueError,
            "has no family",
        ),
        ({"hash": 3}, TypeError, "hash must be"),
    ],
)
def test_bad_choices(arguments, error, match):
    with pytest.raises(error, match=match):
        sampling.LSH(**arguments)


def test_a_configuration_without_a_choice():
    """As they were before there were choices."""
    config = sampling.LSH("simhash", max_active=40).get_config()
    del config["choice"]
    assert sampling.LSH(**config).get_config() == {**config, "choice": None}
    assert sampling.LSH(**sampling.LSH().get_config()).chooses
