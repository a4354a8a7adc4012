"""Model files: what comes back, training that goes on, and files that are damaged or foreign."""

import copy
import io
import json
import os
import pickle
import stat
import struct

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

import slide
from slide import hashing, sampling
from slide.metrics import PSPAtK
from slide.optimizers import SGD, Adagrad, Adam

N_FEATURES, N_LABELS = 20, 50

OPTIMIZERS = {
    "sgd": lambda: SGD(0.1),
    "momentum": lambda: SGD(0.05, momentum=0.9),
    "nesterov": lambda: SGD(0.05, momentum=0.9, nesterov=True),
    "adagrad": lambda: Adagrad(0.1),
    "adagrad_momentum": lambda: Adagrad(0.1, momentum=0.7),
    "rowwise": lambda: Adagrad(0.1, rowwise=True),
    "adam": lambda: Adam(0.01),
    "adam_bfloat16": lambda: Adam(0.01, moments="bfloat16"),
    "adam_lazy": lambda: Adam(0.01, lazy=True),
    "schedule": lambda: Adam(slide.schedules.ExponentialDecay(0.01, 5, 0.5)),
}


def lsh(family, **arguments):
    return sampling.LSH(family, max_active=15, rebuild_every=3, **arguments)


SAMPLERS = {
    "none": lambda: None,
    "uniform": lambda: sampling.Uniform(7),
    "uniform_own": lambda: sampling.Uniform(7, shared=False),
    "frequent": lambda: sampling.Frequent(5),
    "simhash": lambda: lsh(hashing.SimHash(n_bits=4, n_tables=5), new_functions_every=2),
    "rademacher": lambda: lsh(hashing.SimHash(4, 5, projection="rademacher"), min_active=9),
    "dwta": lambda: lsh(hashing.DWTA(n_functions=2, n_tables=5, n_bins=4), rebuild_decay=0.1),
    "many_bits": lambda: lsh(hashing.SimHash(n_bits=40, n_tables=3), min_active=9),
    "clusters": lambda: lsh(hashing.Clusters(n_cells=9, n_tables=2), new_functions_every=3),
    "two_levels": lambda: lsh(hashing.Clusters(n_cells=9, n_tables=2, n_groups=3, n_probes=2)),
    "balanced": lambda: lsh(hashing.Clusters(9, 2, 3, 2, capacity_factor=1.2)),
    "mixture": lambda: sampling.Mixture(
        [lsh(hashing.Clusters(n_cells=9)), sampling.Frequent(4), sampling.Uniform(6)]
    ),
    "mixture_own": lambda: sampling.Mixture(
        [lsh("simhash"), sampling.Frequent(4), sampling.Uniform(6, correction=None, shared=False)]
    ),
}


HIDDEN = {
    "uniform": lambda: sampling.Uniform(0.3),
    "winners": lambda: sampling.WinnerTakeAll(0.3, scale=1.5),
    "lifetime": lambda: sampling.LifetimeSparsity(0.3),
    "standout": lambda: sampling.Standout(0.3),
    "standout_beta": lambda: sampling.Standout(0.3, alpha=0.5, beta=-1.0),
    "simhash": lambda: sampling.LSH(hashing.SimHash(4, 3, n_probes=3), 0.3),
    "alsh": lambda: sampling.LSH(
        hashing.SimHash(4, 3, "rademacher", "sign_alsh"), 0.3, rebuild_every=3
    ),
    "simple_lsh": lambda: sampling.LSH(
        hashing.SimHash(4, 3, transform="simple_lsh"), 0.3, rebuild_every=2, new_functions_every=2
    ),
    "principal": lambda: sampling.LSH(hashing.SimHash(3, 2, "principal", n_probes=4), 0.3),
    "e2lsh": lambda: sampling.LSH(hashing.E2LSH(3, 3, n_probes=4), 0.3, min_active=6),
    "dwta": lambda: sampling.LSH(hashing.DWTA(2, 3, 4), 0.3, rebuild_every=3),
    "clusters": lambda: sampling.LSH(hashing.Clusters(5), 0.3, rebuild_every=3),
}


def data(n=80, seed=0):
    rng = np.random.default_rng(seed)
    x = sp.csr_array(sp.random(n, N_FEATURES, 0.2, random_state=rng, dtype=np.float32))
    y = sp.csr_array(sp.random(n, N_LABELS, 0.04, random_state=rng, dtype=np.float32))
    y.data[:] = 1.0
    return x, y


def make(sampler="none", optimizer="adam", update="batch"):
    model = slide.Sequential(
        [
            slide.Input(N_FEATURES),
            slide.Dense(11, "relu", kernel_regularizer=slide.regularizers.L2(1e-4)),
            slide.Dense(6, "tanh", use_bias=False, name="narrow"),
            slide.Dense(N_LABELS, "softmax", sampler=SAMPLERS[sampler]()),
        ],
        seed=5,
    )
    model.compile(OPTIMIZERS[optimizer](), metrics=["precision@2", "ndcg@3"], update=update)
    return model


def make_hidden(sampler, optimizer="adam", update="batch"):
    """The sampler on a dense input and on a sampled one."""
    model = slide.Sequential(
        [
            slide.Input(N_FEATURES),
            slide.Dense(11, "tanh"),
            slide.Dense(40, "relu", sampler=HIDDEN[sampler]()),
            slide.Dense(30, "tanh", sampler=HIDDEN[sampler]()),
            slide.Dense(N_LABELS, "softmax"),
        ],
        seed=5,
    )
    model.compile(OPTIMIZERS[optimizer](), update=update)
    return model


def same_weights(a, b):
    return all(
        np.array_equal(one, two) for one, two in zip(a.get_weights(), b.get_weights(), strict=True)
    )


def check_going_on(path, model, arguments, n_jobs, make=make):
    """Saved, loaded and trained on is trained in one go."""
    x, y = data()
    model.fit(x, y, batch_size=9, epochs=2, verbose=0, n_jobs=n_jobs)
    model.save(path)
    loaded = slide.load(path)
    assert loaded.step == model.step
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))
    for one in (model, loaded):
        one.fit(x, y, batch_size=9, epochs=4, initial_epoch=2, verbose=0, n_jobs=n_jobs)
    uninterrupted = make(*arguments)
    uninterrupted.fit(x, y, batch_size=9, epochs=4, verbose=0, n_jobs=n_jobs)
    assert same_weights(loaded, model)
    assert same_weights(loaded, uninterrupted)
    assert loaded.evaluate(x, y) == uninterrupted.evaluate(x, y)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_goes_on_bit_for_bit(tmp_path, sampler):
    check_going_on(tmp_path / "m", make(sampler), (sampler,), 2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_goes_on_bit_for_bit(tmp_path, optimizer):
    check_going_on(tmp_path / "m", make("mixture", optimizer), ("mixture", optimizer), 2)


@pytest.mark.parametrize("optimizer", ["momentum", "adagrad", "rowwise", "adam"])
@pytest.mark.parametrize("sampler", ["none", "mixture", "simhash"])
def test_hogwild_with_one_thread_goes_on_bit_for_bit(tmp_path, sampler, optimizer):
    arguments = (sampler, optimizer, "hogwild")
    check_going_on(tmp_path / "m", make(*arguments), arguments, 1)


@pytest.mark.parametrize("sampler", HIDDEN)
def test_every_hidden_sampler_goes_on_bit_for_bit(tmp_path, sampler):
    for optimizer in ("adam", "adagrad_momentum"):
        model = make_hidden(sampler, optimizer)
        check_going_on(tmp_path / "m", model, (sampler, optimizer), 2, make_hidden)


@pytest.mark.parametrize("sampler", ["uniform", "winners", "standout_beta", "alsh", "e2lsh"])
def test_hidden_samplers_of_hogwild_go_on_bit_for_bit(tmp_path, sampler):
    arguments = (sampler, "momentum", "hogwild")
    check_going_on(tmp_path / "m", make_hidden(*arguments), arguments, 1, make_hidden)


@pytest.mark.parametrize("sampler", HIDDEN)
def test_hidden_samplers_come_back_between_steps(tmp_path, sampler):
    """With rows behind the clock and tables behind the weights."""
    x, y = data()
    model = make_hidden(sampler)
    for i in range(0, 40, 8):
        model.train_on_batch(x[i : i + 8], y[i : i + 8])
    model.save(tmp_path / "m")
    loaded = slide.load(tmp_path / "m")
    assert loaded.get_config() == model.get_config()
    for one in (model, loaded):
        one.partial_fit(x, y, batch_size=8)
    assert same_weights(loaded, model)
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))


def test_staleness_comes_back(tmp_path):
    x, y = data()
    model = make_hidden("winners")
    model.compile("sgd", update="hogwild", staleness=3)
    model.fit(x, y, batch_size=9, verbose=0)
    model.save(tmp_path / "m")
    loaded = slide.load(tmp_path / "m")
    assert (loaded.update, loaded.staleness) == ("hogwild", 3)
    for one in (model, loaded):
        one.partial_fit(x, y, batch_size=9)
    assert same_weights(loaded, model)


def test_saving_between_steps_does_not_part_the_ways(tmp_path):
    """Where rows still miss steps, saving makes them in the model as in the file."""
    x, y = data()
    model = make("uniform_own")
    for i in range(0, 40, 8):
        model.train_on_batch(x[i : i + 8], y[i : i + 8])
    model.save(tmp_path / "m")
    loaded = slide.load(tmp_path / "m")
    for one in (model, loaded):
        one.partial_fit(x, y, batch_size=8)
    assert same_weights(loaded, model)
    assert loaded.step == 15


@pytest.mark.parametrize("sampler", ["simhash", "dwta", "clusters", "balanced", "mixture"])
def test_tables_come_back(tmp_path, sampler):
    x, y = data()
    model = make(sampler)
    model.fit(x, y, batch_size=9, verbose=0)
    model.save(tmp_path / "m")
    found = slide.load(tmp_path / "m").predict(x, top_k=9, exact=False)
    for a, b in zip(found, model.predict(x, top_k=9, exact=False), strict=True):
        np.testing.assert_array_equal(a, b)


def with_index(sampler="none", n=80):
    """A model whose index the first rows of other data than `data` have shaped."""
    x, y = data(n)
    model = make(sampler)
    model.fit(x, y, batch_size=9, verbose=0)
    model.predict(data(30, seed=1)[0], **INDEXED)
    return model, x, y


INDEXED = {"top_k": 6, "exact": False, "n_candidates": 12, "batch_size": 4}


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("sampler", ["none", "uniform_own", "mixture"])
def test_the_index_of_predictions_comes_back(tmp_path, monkeypatch, sampler, n_jobs):
    model, x, y = with_index(sampler)
    model.save(tmp_path / "m")
    loaded = slide.load(tmp_path / "m")
    wanted = model.predict(x, n_jobs=n_jobs, **INDEXED)
    with monkeypatch.context() as patch:
        patch.delattr("slide.hashing.index.build")  # there is no need to make it again
        found = loaded.predict(x, n_jobs=n_jobs, **INDEXED)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    for one in (model, loaded):
        one.partial_fit(x, y, batch_size=9)  # after which the index is another
    for a, b in zip(loaded.predict(x, **INDEXED), model.predict(x, **INDEXED), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (loaded.predict(x, **INDEXED)[0] != wanted[0]).any()


def test_more_threads_ask_the_same_index(monkeypatch):
    model, x, _ = with_index()
    wanted = model.predict(x, n_jobs=1, **INDEXED)
    monkeypatch.delattr("slide.hashing.index.build")
    for n_jobs in (3, 1):
        for a, b in zip(model.predict(x, n_jobs=n_jobs, **INDEXED), wanted, strict=True):
            np.testing.assert_array_equal(a, b)


def test_an_index_of_other_weights_is_not_saved(tmp_path):
    model, x, y = with_index()
    model.partial_fit(x, y, batch_size=9)
    model.save(tmp_path / "m")
    with safe_open(tmp_path / "m", framework="np") as file:
        assert json.loads(file.metadata()["config"])["index"] is None
        assert not [name for name in file.keys() if "index" in name]  # noqa: SIM118


def test_files_without_an_index(tmp_path):
    model, x, _ = with_index()
    model.save(tmp_path / "m")

    def change(arrays, metadata, config):
        del config["index"]
        for name in [name for name in arrays if ".index." in name]:
            del arrays[name]

    rewrite(tmp_path / "m", change)
    loaded = slide.load(tmp_path / "m")
    assert same_weights(loaded, model)
    assert loaded.predict(x, **INDEXED)[0].min() >= 0


@pytest.mark.parametrize("sparse", [True, False, None])
def test_what_comes_back(tmp_path, sparse):
    model = slide.Sequential(
        [
            slide.Input(3, sparse=sparse),
            slide.Dense(4, "sigmoid", kernel_initializer="he_normal", bias_initializer="ones"),
        ],
        seed=9,
    )
    model.compile(
        Adagrad(0.3, rowwise=True),
        slide.losses.BinaryCrossentropy("mean"),
        ["accuracy"],
        "hogwild",
        7,
    )
    model.save(str(tmp_path / "m"))
    loaded = slide.Sequential.load(str(tmp_path / "m"))
    assert same_weights(loaded, model)
    assert loaded.get_config() == model.get_config()
    assert (loaded.update, loaded.steps_per_execution) == ("hogwild", 7)
    assert repr(loaded.optimizer) == repr(model.optimizer)
    assert repr(loaded.loss) == repr(model.loss)
    assert [metric.name for metric in loaded.metrics] == ["accuracy"]
    assert loaded.layers[0].by_feature == model.layers[0].by_feature


def test_a_model_that_is_not_compiled(tmp_path):
    model = slide.Sequential([slide.Input(3), slide.Dense(4)])
    model.save(tmp_path / "m")
    loaded = slide.load(tmp_path / "m")
    assert same_weights(loaded, model)
    with pytest.raises(RuntimeError, match="before compile"):
        loaded.fit(np.ones((1, 3)), [[0.0] * 4], verbose=0)


def test_propensities_come_back(tmp_path):
    x, y = data()
    model = make()
    model.compile(metrics=["psp@3"])
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "m")
    assert slide.load(tmp_path / "m").evaluate(x, y) == model.evaluate(x, y)


def test_metrics_go_on_as_they_were_made(tmp_path):
    x, y = data()
    model = make()
    given = np.linspace(0.1, 1, y.shape[1])
    model.compile(
        metrics=[PSPAtK(3, A=0.3, B=2.5), PSPAtK(2, propensities=given), "ndcg@2", "accuracy"]
    )
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "m")
    loaded = slide.load(tmp_path / "m")
    assert [metric.get_config() for metric in loaded.metrics] == [
        metric.get_config() for metric in model.metrics
    ]
    # Other labels, so that propensities are estimated anew.
    for one in (model, loaded):
        one.fit(x[:20], y[:20], verbose=0)
    assert loaded.evaluate(x, y) == model.evaluate(x, y)
    np.testing.assert_array_equal(loaded.metrics[1].propensities, given)


class Hits:
    """A metric of a user's own."""

    name, k = "hits", 1

    def __call__(self, y, ids):
        return 1.0


def test_a_sampler_that_is_refused_now_is_named(tmp_path, monkeypatch):
    """As where an earlier version let few neurons be drawn of very many."""
    drawn = sampling.LSH(hashing.Sketches(n_cells=1), 2, correction="logq")
    layers = [slide.Input(N_FEATURES), slide.Dense(8), slide.Dense(N_LABELS, "softmax", drawn)]
    model = slide.Sequential(layers)
    model.compile()
    model.fit(*data(), verbose=0)
    model.save(tmp_path / "m")
    monkeypatch.setattr(sampling, "DRAWN", 24)
    words = r"m is not a read.*sampler of layer 'dense_1': LSH\(.*max_active=2.*set a larger max"
    with pytest.raises(ValueError, match=words):
        slide.load(tmp_path / "m")


@pytest.mark.parametrize("built", [False, True])
def test_what_compile_would_refuse_is_not_written(tmp_path, built):
    path = tmp_path / "model"
    model = slide.Sequential([slide.Input(4), slide.Dense(8, "sigmoid")])
    model.compile(loss="binary_crossentropy", metrics=["P@5"])
    model.add(slide.Dense(3, "sigmoid"))
    if built:
        model.metrics = []
        model.build()
        model.metrics = [slide.metrics.PrecisionAtK(5)]
    with pytest.raises(ValueError, match=r"metrics\[0\], precision@5 of 3 outputs: k=5 must be"):
        model.save(path)
    model.metrics = [slide.metrics.PrecisionAtK(2), slide.metrics.PrecisionAtK(2)]
    with pytest.raises(ValueError, match="both named 'precision@2'"):
        model.save(path)
    assert not path.exists()
    model.metrics = model.metrics[:1]
    model.save(path)
    assert slide.load(path).metrics[0].k == 2


def test_a_metric_in_a_file_that_compile_would_refuse_is_named(saved):
    def change(arrays, metadata, config):
        config["compiled"]["metrics"] = [{"class_name": "PrecisionAtK", "config": {"k": 51}}]

    rewrite(saved, change)
    words = rf"{saved.name} is not.*metrics\[0\], precision@51 of 50 outputs: k=51"
    with pytest.raises(ValueError, match=words):
        slide.load(saved)


def test_a_metric_of_ones_own(tmp_path):
    x, y = data()
    model = make()
    model.compile(metrics=["accuracy", Hits()])
    model.fit(x, y, verbose=0)
    with pytest.warns(UserWarning, match="not in the file: hits; compile the loaded model"):
        model.save(tmp_path / "m")
    loaded = slide.load(tmp_path / "m")
    assert [metric.name for metric in loaded.metrics] == ["accuracy"]
    expected = model.evaluate(x, y)
    assert loaded.evaluate(x, y) == {name: expected[name] for name in ("loss", "accuracy")}
    for other in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.evaluate(x, y) == expected
        assert other.metrics[1] is not model.metrics[1]


class Rising(slide.schedules.Schedule):
    """A schedule of a user's own."""

    def __call__(self, step):
        return 0.01 * (1 + step)

    def get_config(self):
        return {}


class Halves(slide.initializers.Initializer):
    def __call__(self, shape, rng, fan_in=None, fan_out=None):
        return np.full(shape, 0.5, np.float32)


def test_other_parts_of_ones_own():
    x, y = data()
    model = slide.Sequential(
        [
            slide.Input(x.shape[1]),
            slide.Dense(6, "relu"),
            slide.Dense(y.shape[1], "softmax", kernel_initializer=Halves()),
        ]
    )
    model.compile(Adagrad(Rising()))
    for other in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert (other.get_weights()[2] == 0.5).all()
    model.fit(x, y, batch_size=16, verbose=0)
    copies = [copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    model.fit(x, y, batch_size=16, verbose=0)
    for other in copies:
        assert other.optimizer is not model.optimizer
        assert other.fit(x, y, batch_size=16, verbose=0).history["lr"] == [0.1]
        assert same_weights(other, model)


@pytest.mark.parametrize("what", ["optimizer", "loss", "sampler"])
def test_parts_that_a_file_could_not_name(what, tmp_path):
    class Own(
        {
            "optimizer": Adagrad,
            "loss": slide.losses.CategoricalCrossentropy,
            "sampler": slide.sampling.Auto,
        }[what]
    ):
        pass

    parts = {what: Own()}
    sampler = parts.pop("sampler", None)
    model = slide.Sequential(
        [
            slide.Input(3),
            slide.Dense(4),
            slide.Dense(5, "softmax", sampler=sampler),
        ]
    )
    model.compile(**parts)
    with pytest.raises(ValueError, match=f"{what} 'Own' is unknown; known are "):
        model.save(tmp_path / "m")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------- the file


def test_anybody_can_read_the_weights(tmp_path):
    model = make()
    model.save(tmp_path / "m")
    with safe_open(tmp_path / "m", framework="np") as file:
        assert json.loads(file.metadata()["config"])["step"] == 0
        assert "layers.0.weights" in file.keys()  # noqa: SIM118


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_the_file_has_the_usual_mode(tmp_path):
    (tmp_path / "plain").write_text("")
    make().save(tmp_path / "m")
    mode = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "m")]
    assert mode[0] == mode[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "plain"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["os.replace", "slide.saving.save_file", "os.fsync"])
def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch, where, error):
    model = make()
    model.save(tmp_path / "m")
    old = (tmp_path / "m").read_bytes()
    model.fit(*data(), verbose=0)

    def fail(*arguments, **keywords):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(where, fail)
        with pytest.raises(type(error)):
            model.save(tmp_path / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m").read_bytes() == old
    model.save(tmp_path / "m")
    assert same_weights(slide.load(tmp_path / "m"), model)


@pytest.mark.skipif(os.name != "posix", reason="file modes and links")
def test_what_is_replaced_keeps_its_mode_and_its_links(tmp_path):
    (tmp_path / "folder").mkdir()
    file, link = tmp_path / "folder" / "m", tmp_path / "link"
    file.write_text("old")
    file.chmod(0o440)
    link.symlink_to(file)
    make().save(link)
    assert link.is_symlink()
    assert slide.load(file).step == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o440
    assert [p.name for p in file.parent.iterdir()] == ["m"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without named pipes")
def test_pipes_hold_no_models(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe: a pipe or a device"):
        make().save(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe: a pipe or a device"):
        slide.load(tmp_path / "pipe")
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_paths_that_cannot_be(tmp_path, monkeypatch):
    model = make()
    with pytest.raises(FileNotFoundError, match=r"there is no directory .*nowhere: '.*nowhere.m'$"):
        model.save(tmp_path / "nowhere" / "m")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IsADirectoryError, match=r"is a directory: '\.'"):
        model.save(".")
    with pytest.raises(OSError, match="nowhere"):
        slide.load(tmp_path / "nowhere" / "m")
    with pytest.raises(OSError, match=str(tmp_path)):
        slide.load(tmp_path)
    with pytest.raises(OSError):
        model.save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    model.save(tmp_path / "m")


# --------------------------------------------------------------- foreign and damaged files


def rewrite(path, change):
    """Change a file's arrays and metadata, consistently."""
    with safe_open(path, framework="np") as file:
        metadata = dict(file.metadata())
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    config = json.loads(metadata["config"])
    change(arrays, metadata, config)
    if "config" in metadata:
        metadata["config"] = json.dumps(config)
        sums = slide.saving.check_sums(metadata["config"], arrays)
        metadata["sums"] = json.dumps(sums)
    save_file(arrays, path, metadata)


@pytest.fixture
def saved(tmp_path):
    model = make("mixture")
    model.fit(*data(), batch_size=9, verbose=0)
    model.save(tmp_path / "m")
    return tmp_path / "m"


def test_rewriting_alone_does_no_harm(saved):
    before = slide.load(saved)
    rewrite(saved, lambda arrays, metadata, config: None)
    assert same_weights(slide.load(saved), before)


def replace_array(name, function):
    def change(arrays, metadata, config):
        arrays[name] = np.ascontiguousarray(function(arrays[name]))

    return change


def set_value(name, at, value):
    def change(array):
        array = array.copy()
        array[at] = value
        return array

    return replace_array(name, change)


DAMAGES = {
    "format": (lambda a, m, c: m.update(format="other"), "it holds no model of this package"),
    "version": (lambda a, m, c: m.update(version="99"), "version is 99, this package reads 2"),
    "config": (lambda a, m, c: m.pop("config"), "config"),
    "no layers": (lambda a, m, c: c["model"].update(layers=[]), ""),
    "no model": (lambda a, m, c: c.pop("model"), "model"),
    "wider": (lambda a, m, c: c["model"]["layers"][2].update(units=10**9), "layers.2.weights"),
    "more features": (lambda a, m, c: c["model"]["input"].update(n_features=10**8), "weights"),
    "activation": (lambda a, m, c: c["model"]["layers"][0].update(activation="gelu"), "gelu"),
    "unknown key": (lambda a, m, c: c["model"]["layers"][0].update(colour="red"), "colour"),
    "layout": (lambda a, m, c: c.update(sparse=False), "weights"),
    "optimizer": (
        lambda a, m, c: c["compiled"]["optimizer"].update(class_name="Lion"),
        "Lion",
    ),
    "other optimizer": (
        lambda a, m, c: c["compiled"].update(optimizer={"class_name": "SGD", "config": {}}),
        "slots",
    ),
    "step": (lambda a, m, c: c.update(step=-1), "step is -1"),
    "step text": (lambda a, m, c: c.update(step="3"), "step is '3'"),
    "weights missing": (lambda a, m, c: a.pop("layers.1.weights"), "layers.1.weights"),
    "state missing": (lambda a, m, c: a.pop("layers.1.state"), "state"),
    "weights dtype": (replace_array("layers.1.weights", np.float64), "weights is float64"),
    "weights shape": (replace_array("layers.1.weights", lambda a: np.vstack([a, a])), "weights"),
    "weights nan": (set_value("layers.1.weights", (0, 0), np.nan), "weights has values"),
    "slots inf": (set_value("layers.2.slots", (0, 0), np.inf), "slots has values"),
    "state negative": (set_value("layers.2.state", (0, 0), -1.0), "negative"),
    "table ids": (replace_array("layers.2.active.tables.ids", lambda a: a + 1000), ""),
    "table ids negative": (replace_array("layers.2.active.tables.ids", lambda a: a - 1000), ""),
    # Harmless to queries, but there would be no room for neurons that move.
    "table ids twice": (
        replace_array("layers.2.active.tables.ids", np.zeros_like),
        "hash tables: table 0",
    ),
    "table starts": (replace_array("layers.2.active.tables.starts", lambda a: a * 3 + 7), ""),
    "table length": (replace_array("layers.2.active.tables.ids", lambda a: a[:, :-3]), ""),
    "table end": (
        set_value("layers.2.active.tables.starts", (0, -1), N_LABELS - 1),
        f"hash tables: table 0 has {N_LABELS - 1} of {N_LABELS} ids",
    ),
    "table empty": (
        replace_array("layers.2.active.tables.starts", np.zeros_like),
        "hash tables: one is empty",
    ),
    "frequent": (set_value("layers.2.active.frequent", 0, N_LABELS), "frequent"),
    "frequent twice": (replace_array("layers.2.active.frequent", np.zeros_like), "frequent"),
    "counts": (replace_array("layers.2.active.counts", lambda a: a[:-1]), "counts"),
    "counts negative": (set_value("layers.2.active.counts", 3, -1), "counts"),
    "dirty": (replace_array("layers.2.active.dirty", lambda a: a[:-1]), "marks"),
    "dirty dtype": (replace_array("layers.2.active.dirty", np.float64), "marks"),
    "schedule": (replace_array("layers.2.active.schedule", lambda a: a[:1]), ""),
    "schedule nan": (set_value("layers.2.active.schedule", 1, np.nan), ""),
    "centroids": (replace_array("layers.2.active.functions.centroids", lambda a: a[:, :1]), ""),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_file_that_does_not_fit_together(saved, name):
    change, words = DAMAGES[name]
    rewrite(saved, change)
    with pytest.raises(ValueError, match="m is not a readable model file: ") as info:
        slide.load(saved)
    assert words in str(info.value)


INDEX_DAMAGES = {
    "family": (lambda a, m, c: c.update(index={"class_name": "Trees", "config": {}}), "Trees"),
    "another family": (
        lambda a, m, c: c["index"]["config"].update(n_components=64),
        "index of layer 'dense_2': hash functions: basis has another shape",
    ),
    "a number": (lambda a, m, c: c.update(index=7), "got 7"),
    "basis missing": (
        lambda a, m, c: a.pop("layers.2.index.functions.basis"),
        "index of layer 'dense_2': 'functions.basis'",
    ),
    "basis nan": (
        set_value("layers.2.index.functions.basis", (0, 0), np.nan),
        "index of layer 'dense_2': hash functions: basis has values that are not finite",
    ),
    "table length": (
        replace_array("layers.2.index.tables.ids", lambda a: a[:, :-3]),
        "index of layer 'dense_2': hash tables: ids is int32(1, 47)",
    ),
    "sketches": (
        replace_array("layers.2.index.functions.sketches", lambda a: a + np.uint8(128)),
        "index of layer 'dense_2': hash functions: sketches up to",
    ),
}


@pytest.mark.parametrize("name", INDEX_DAMAGES)
def test_an_index_that_does_not_fit(tmp_path, name):
    with_index()[0].save(tmp_path / "m")
    change, words = INDEX_DAMAGES[name]
    rewrite(tmp_path / "m", change)
    with pytest.raises(ValueError, match="m is not a readable model file: ") as info:
        slide.load(tmp_path / "m")
    assert words in str(info.value)


def test_an_index_of_a_layer_that_has_none(tmp_path):
    model = slide.Sequential([slide.Input(3, sparse=True), slide.Dense(4)])
    model.save(tmp_path / "m")
    family = hashing.serialize(hashing.Sketches())
    rewrite(tmp_path / "m", lambda arrays, metadata, config: config.update(index=family))
    with pytest.raises(ValueError, match="an output layer on dense inputs can have one"):
        slide.load(tmp_path / "m")


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["none", "many_bits", "dwta", "mixture"])
def test_arrays_of_another_kind_never_crash(tmp_path, sampler):
    """Every array in turn: another dtype, order, length or content is refused, or works."""
    x, y = data(20)
    model, path = make(sampler), tmp_path / "m"
    model.fit(x, y, batch_size=5, verbose=0, n_jobs=1)
    model.predict(x, **INDEXED)
    model.save(path)
    content = path.read_bytes()
    rng = np.random.default_rng(7)
    changes = [
        *[lambda a, dtype=dtype: a.astype(dtype) for dtype in "fdilB"],
        lambda a: a[:-1],
        np.zeros_like,
        lambda a: rng.permutation(a.ravel()).reshape(a.shape),
        lambda a: rng.integers(0, 60, a.shape).astype(a.dtype),
    ]
    with safe_open(path, framework="np") as file:
        names = list(file.keys())
    refused = 0
    for name in names:
        for change in changes:
            path.write_bytes(content)
            rewrite(path, replace_array(name, change))
            try:
                loaded = slide.load(path)
            except ValueError:
                refused += 1
                continue
            ids = loaded.predict(x, **INDEXED, n_jobs=2)[0]
            assert ids.min() >= -1
            assert ids.max() < N_LABELS
            try:
                loaded.fit(x, y, batch_size=5, verbose=0, n_jobs=1)
            except FloatingPointError:
                continue
            assert np.isfinite(loaded.predict(x)).all()
    assert refused >= 4 * len(names)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [n for n in HIDDEN if n not in ("uniform", "winners")])
def test_arrays_of_hidden_samplers_never_crash(tmp_path, sampler):
    """Every array of the samplers in turn: another dtype, length or content is refused, or works.

    What is not a number, or infinite, is refused.
    """
    x, y = data(20)
    model, path = make_hidden(sampler), tmp_path / "m"
    model.fit(x, y, batch_size=5, verbose=0, n_jobs=1)
    model.save(path)
    content = path.read_bytes()
    rng = np.random.default_rng(8)
    wild = [
        np.zeros_like,
        lambda a: rng.permutation(a.ravel()).reshape(a.shape),
        lambda a: rng.integers(0, 255, a.shape).astype(a.dtype),
        lambda a: a if a.dtype.kind != "f" else -a * 1e30,
        lambda a: a if a.dtype.kind == "f" else np.full_like(a, np.iinfo(a.dtype).max),
    ]
    with safe_open(path, framework="np") as file:
        names = [name for name in file.keys() if ".active." in name]  # noqa: SIM118
        arrays = {name: file.get_tensor(name) for name in names}
    for name in names:
        refused = [lambda a: a[:-1]]
        if not name.endswith("schedule"):  # which is converted
            refused.append(lambda a: a.astype("f" if a.dtype != np.float32 else "d"))
        if arrays[name].dtype.kind == "f" and arrays[name].size:
            refused += [lambda a, v=v: np.full_like(a, v) for v in (np.nan, np.inf)]
        for change in refused if arrays[name].size else []:
            path.write_bytes(content)
            rewrite(path, replace_array(name, change))
            with pytest.raises(ValueError, match="not a readable model file"):
                slide.load(path)
        for change in wild:
            path.write_bytes(content)
            rewrite(path, replace_array(name, change))
            try:
                loaded = slide.load(path)
                loaded.fit(x, y, batch_size=5, verbose=0, n_jobs=1)
            except (ValueError, FloatingPointError):
                continue
            assert np.isfinite(loaded.predict(x)).all()


@pytest.mark.parametrize(
    "name", ["active.schedule", "active.counts", "active.tables.ids", "active.dirty"]
)
def test_a_missing_array_of_the_sampler(saved, name):
    rewrite(saved, lambda arrays, metadata, config: arrays.pop(f"layers.2.{name}"))
    with pytest.raises(ValueError, match="not a readable model file"):
        slide.load(saved)


def test_foreign_files(tmp_path):
    path = tmp_path / "m"
    save_file({"weight": np.zeros(3, np.float32)}, path)
    with pytest.raises(ValueError, match="m is not a readable model file: it holds no model of"):
        slide.load(path)
    for content in (b"", b"1 0:1 2:3\n" * 100, b"PK\x03\x04" + bytes(500), b"{}", bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="m is not a readable model file"):
            slide.load(path)


@pytest.mark.parametrize("sampler", ["none", "mixture"])
def test_truncated_files(tmp_path, sampler):
    model = make(sampler)
    model.fit(*data(), verbose=0)
    model.save(tmp_path / "m")
    content = (tmp_path / "m").read_bytes()
    for length in [*range(0, 40, 3), *np.linspace(40, len(content) - 1, 60).astype(int)]:
        (tmp_path / "m").write_bytes(content[:length])
        with pytest.raises(ValueError, match="m is not a readable model file"):
            slide.load(tmp_path / "m")


def test_a_flipped_bit_is_noticed(saved):
    content = saved.read_bytes()
    with safe_open(saved, framework="np") as file:
        names = list(file.keys())
    header = 8 + struct.unpack("<Q", content[:8])[0]
    places = json.loads(content[8:header])
    rng = np.random.default_rng(5)
    for name in names:
        begin, end = places[name]["data_offsets"]
        if begin == end:
            continue
        damaged = bytearray(content)
        damaged[header + int(rng.integers(begin, end))] ^= 1 << int(rng.integers(8))
        saved.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{name} is damaged: its check sum is another"):
            slide.load(saved)
    at = content.index(b"epochs_trained") + 18
    assert chr(content[at]).isdigit()
    saved.write_bytes(content[:at] + b"7" + content[at + 1 :])
    with pytest.raises(ValueError, match="its configuration is damaged"):
        slide.load(saved)


def test_a_file_without_check_sums(saved):
    with safe_open(saved, framework="np") as file:
        metadata = dict(file.metadata())
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del metadata["sums"]
    save_file(arrays, saved, metadata)
    with pytest.raises(ValueError, match="it has no check sums"):
        slide.load(saved)


@pytest.mark.parametrize("sampler", ["simhash", "dwta", "many_bits", "two_levels", "mixture"])
def test_damaged_bytes_never_crash(tmp_path, monkeypatch, sampler):
    """Every mutation that no check sum shows is refused with ValueError, or gives a model that
    works."""
    monkeypatch.setattr(slide.saving, "_check_sum", lambda array: 0)
    x, y = data(20)
    model = make(sampler)
    model.fit(x, y, batch_size=5, verbose=0, n_jobs=1)
    model.predict(x, **INDEXED)
    path = tmp_path / "m"
    model.save(path)
    content = path.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    rng = np.random.default_rng(6)
    outcomes = {"refused": 0, "works": 0}
    for i in range(60):
        damaged = bytearray(content)
        for _ in range(int(rng.integers(1, 4))):
            # Half of them in the JSON, where digits stay digits every other time.
            at = int(rng.integers(8, header) if i % 2 else rng.integers(header, len(content)))
            if i % 2 and chr(damaged[at]).isdigit():
                damaged[at] = ord(str(rng.integers(10)))
            else:
                damaged[at] = int(rng.integers(256))
        path.write_bytes(damaged)
        try:
            loaded = slide.load(path)
        except ValueError:
            outcomes["refused"] += 1
            continue
        outcomes["works"] += 1
        try:
            loaded.predict(x)
            loaded.predict(x, top_k=5, exact=False, n_jobs=1)
            loaded.predict(x, **INDEXED)
            loaded.fit(x, y, batch_size=5, verbose=0, n_jobs=1)
        except (FloatingPointError, ValueError, RuntimeError):
            pass  # as with wild weights, another number of features, or no optimizer
    assert min(outcomes.values()) > 5


def test_a_large_number_in_the_config_asks_for_no_memory(saved):
    def change(arrays, metadata, config):
        config["model"]["layers"][2]["sampler"]["config"]["samplers"][0]["config"]["hash"][
            "config"
        ].update(n_cells=1 << 24, n_tables=10_000)

    rewrite(saved, change)
    with pytest.raises(ValueError, match="not a readable model file"):
        slide.load(saved)


def through_joblib(model):
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return joblib.load(file)


COPIES = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "first protocol": lambda model: pickle.loads(pickle.dumps(model, 0)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "joblib": through_joblib,
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("sampler", ["none", "simhash", "mixture"])
def test_copies_go_on_alike_and_share_nothing(way, sampler):
    x, y = data()
    model = make(sampler)
    model.train_on_batch(x[:16], y[:16])
    model.train_on_batch(x[16:32], y[16:32])
    again = COPIES[way](model)  # steps that rows have missed are made first
    assert same_weights(model, again)
    model.fit(x, y, epochs=2, batch_size=16, verbose=0)
    model.predict(x, top_k=3, exact=False)
    before = model.get_weights()
    again = COPIES[way](model)
    assert type(again) is slide.Sequential
    assert (again.step, again.epochs_trained) == (model.step, model.epochs_trained)
    for found, wanted in zip(
        again.predict(x, top_k=3, exact=False), model.predict(x, top_k=3, exact=False), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)
    again.fit(x, y, epochs=3, initial_epoch=2, batch_size=16, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    model.fit(x, y, epochs=3, initial_epoch=2, batch_size=16, verbose=0)
    assert same_weights(model, again)


@pytest.mark.parametrize("way", COPIES)
def test_copies_of_models_that_are_not_built_or_compiled(way):
    x, y = data()
    empty = COPIES[way](slide.Sequential(seed=3))
    assert not empty.layers
    assert empty.seed == 3
    unbuilt = make()
    again = COPIES[way](unbuilt)
    assert not again.built
    for model in (unbuilt, again):
        model.fit(x, y, batch_size=16, verbose=0)
    assert same_weights(unbuilt, again)
    bare = slide.Sequential([slide.Input(N_FEATURES), slide.Dense(3)], seed=1)
    bare.build()
    again = COPIES[way](bare)
    assert again.loss is None
    assert same_weights(bare, again)


def test_a_copy_while_training():
    """Between epochs a callback can make one; it is no part of the training that goes on."""
    x, y = data()
    model, copies = make("simhash"), []

    class Keep(slide.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            copies.append(copy.deepcopy(self.model))

    model.fit(x, y, epochs=3, batch_size=16, verbose=0, callbacks=[Keep()])
    assert [kept.epochs_trained for kept in copies] == [1, 2, 3]
    assert same_weights(copies[2], model)
    assert not same_weights(copies[1], model)
    copies[0].fit(x, y, epochs=3, initial_epoch=1, batch_size=16, verbose=0)
    assert same_weights(copies[0], model)


def test_a_mapped_joblib_file(tmp_path):
    """Its arrays cannot be written to."""
    x, _ = data()
    frequent = sampling.Frequent(2)
    model = slide.Sequential(
        [slide.Input(x.shape[1]), slide.Dense(6), slide.Dense(5, "softmax", sampler=frequent)]
    )
    model.compile(metrics=["accuracy"])
    labels = np.arange(x.shape[0]) % 5
    model.fit(x, labels, verbose=0)
    joblib.dump(model, tmp_path / "m.joblib")
    loaded = joblib.load(tmp_path / "m.joblib", mmap_mode="r")
    assert loaded.evaluate(x, labels) == model.evaluate(x, labels)
    for one in (loaded, model):
        one.fit(x, labels, verbose=0, n_jobs=1)
    assert same_weights(loaded, model)


def test_a_full_disk_is_an_os_error(tmp_path, monkeypatch):
    def full(*arguments):
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    model = make()
    model.save(tmp_path / "m")
    old = (tmp_path / "m").read_bytes()
    monkeypatch.setattr(slide.saving, "save_file", full)
    with pytest.raises(OSError, match="No space left on device"):
        model.save(tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m").read_bytes() == old


def test_a_damaged_pickle_is_refused():
    model = make()
    model.build()
    restore, (cls, config, arrays, metrics) = model.__reduce__()
    arrays["layers.0.weights"] = arrays["layers.0.weights"] * np.nan
    with pytest.raises(ValueError, match="not finite"):
        restore(cls, config, arrays, metrics)
