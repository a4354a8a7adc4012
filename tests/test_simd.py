"""The instruction sets compute the same, and the one that is asked for is used."""

import os
import subprocess
import sys

import numpy as np
import pytest

import slide

PROGRAM = """
import sys
import numpy as np
import scipy.sparse as sp
import slide
from slide import hashing, sampling
from slide._kernels.optim import Parameters
from slide._memory import aligned_zeros

rng = np.random.default_rng(0)
x = sp.csr_array(sp.random(120, 37, 0.2, random_state=rng, dtype=np.float32))
labels = rng.integers(0, 50, 120)
y = np.zeros((120, 50), np.float32)
y[np.arange(120), labels] = 1.0
arrays = {"isa": np.array(slide.show_config("dict")["simd"])}
optimizers = slide.optimizers
cases = {
    "adam": (optimizers.Adam(0.003), "softmax", "categorical_crossentropy", None),
    "momentum": (
        optimizers.SGD(0.05, momentum=0.9), "sigmoid", "binary_crossentropy", sampling.Uniform(9)
    ),
    "nesterov": (
        optimizers.SGD(0.05, momentum=0.9, nesterov=True), "tanh", "mean_squared_error", None
    ),
    "adagrad": (
        optimizers.Adagrad(0.02), "softmax", "categorical_crossentropy",
        sampling.Mixture([sampling.Frequent(5), sampling.Uniform(9, shared=False)]),
    ),
    "rowwise": (
        optimizers.Adagrad(0.02, rowwise=True), "linear", "mean_squared_error", None
    ),
    "sgd": (optimizers.SGD(0.1), "sigmoid", "mean_squared_error", None),
    "winners": (optimizers.SGD(0.1), "softmax", "categorical_crossentropy", None),
    "lsh": (optimizers.Adagrad(0.02, momentum=0.5), "softmax", "categorical_crossentropy", None),
}
everything = hashing.SimHash(2, 2, n_probes=4)
hidden = {
    "winners": [sampling.WinnerTakeAll(0.4), sampling.WinnerTakeAll(0.05)],
    "lsh": [
        sampling.LSH(everything, max_active=0.4, candidates=33),
        sampling.LSH(everything, max_active=0.05, candidates=300),
    ],
}
for name, (optimizer, activation, loss, sampler) in cases.items():
    model = slide.Sequential(
        [
            slide.Input(37),
            slide.Dense(19, "tanh", kernel_regularizer=slide.regularizers.L2(1e-4)),
            slide.Dense(33, "sigmoid", sampler=hidden[name][0] if name in hidden else None),
            *[slide.Dense(300, "relu", sampler=hidden[n][1]) for n in hidden if n == name],
            slide.Dense(50, activation, sampler=sampler),
        ]
    )
    model.compile(optimizer, loss)
    history = model.fit(x, y, batch_size=25, epochs=3, verbose=0, n_jobs=2)
    arrays[name + ".loss"] = np.array(history.history["loss"])
    arrays[name + ".scores"] = model.predict(x)
    for i, w in enumerate(model.get_weights()):
        arrays[f"{name}.{i}"] = w
# One feature and one sample at a time: nothing is summed, so that moments are rounded alike.
model = slide.Sequential([slide.Input(5, sparse=True), slide.Dense(19)])
model.compile(optimizers.Adam(0.01, moments="bfloat16"), "mean_squared_error")
for feature in rng.integers(0, 5, 200):
    one = sp.csr_array(([0.7], ([0], [feature])), (1, 5), dtype=np.float32)
    model.train_on_batch(one, rng.normal(size=(1, 19)))
arrays["bfloat16"] = np.vstack(model.get_weights())
arrays["bfloat16 moments"] = model.layers[0]._slots.view(np.uint32).astype(np.uint64)
families = (
    hashing.SimHash(6, 8),
    hashing.SimHash(6, 8, "sparse"),
    hashing.SimHash(6, 30, "hadamard"),
    hashing.SimHash(62, 9, "hadamard"),
    hashing.DWTA(2, 8, 4),
    hashing.CrossPolytope(2, 8),
    hashing.CrossPolytope(2, 8, "hadamard", 20),
    hashing.E2LSH(2, 8, transform=None),
)
for family in families:
    for width in (21, 300):
        vectors = np.random.default_rng(1).normal(size=(200, width))
        arrays[f"{family!r} {width}"] = family.codes(vectors)
rng = np.random.default_rng(2)
weights = aligned_zeros((1900, 48))
weights[:, :34] = rng.normal(size=(1900, 5)) @ rng.normal(size=(5, 34)) / 2
queries = aligned_zeros((60, 48))
queries[:, :33] = rng.normal(size=(60, 33))
# Sums of products of bytes are the largest along principal components.
queries[:5, :33] = 3 * np.linalg.svd(weights[:, :33] - weights[:, :33].mean(axis=0))[2][:5]
queries[5:10, :33] = -queries[:5, :33]
queries[:, 33] = 1
none = np.zeros((1900, 0), np.float32)
layer = Parameters(weights, none, none, 34, 33)
for components in (16, 32, 64):
    for correction in (None, "logq"):
        sampler = sampling.LSH(hashing.Sketches(components), 60, correction=correction)
        active = sampler.active_set(1900, 34, 0, 1)
        chosen = np.zeros((60, 1900), np.uint64)
        for row, (ids, _) in zip(chosen, active.select_batch(layer, queries, [[]] * 60)[2]):
            row[ids] = 1
        arrays[f"{components} components, {correction}"] = chosen
np.savez(sys.argv[1], **arrays)
"""


def run(simd, *arguments, program=PROGRAM):
    environment = {**os.environ, "SLIDE_SIMD": simd}
    # The package that these tests have, wherever it is.
    root = os.path.dirname(os.path.dirname(slide.__file__))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def unsupported(result):
    return "not supported by this CPU" in result.stderr


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("simd") / "base.npz"
    result = run("base", path)
    assert result.returncode == 0, result.stderr
    return dict(np.load(path))


def test_base_is_used_when_asked_for(base):
    assert base["isa"] == "base"


@pytest.mark.parametrize("simd", ["v3", "v4", "vnni"])
def test_training_agrees(simd, base, tmp_path):
    """To 1e-4 after three epochs; signs of projections, winners and chosen neurons, but for ties,
    exactly."""
    result = run(simd, tmp_path / "other.npz")
    if result.returncode and unsupported(result):
        pytest.skip(f"this CPU has no {simd}")
    assert result.returncode == 0, result.stderr
    other = dict(np.load(tmp_path / "other.npz"))
    assert other.pop("isa") == simd
    assert set(other) == set(base) - {"isa"}
    for name, array in other.items():
        if array.dtype == np.uint64:
            assert (array == base[name]).mean() > 0.999, name
        else:
            np.testing.assert_allclose(array, base[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_the_best_that_the_cpu_has_is_the_default():
    found = []
    for simd in ("vnni", "v4", "v3", "base", ""):
        program = "import slide; print(slide.show_config('dict')['simd'])"
        result = run(simd, program=program)
        if result.returncode == 0:
            found.append(result.stdout.strip())
        else:
            assert unsupported(result)
    assert found[-1] == found[0]
    assert found[-2] == "base"


@pytest.mark.parametrize("name", ["avx9000", "V3", "0"])
def test_an_unknown_name(name):
    result = run(name, program="import slide")
    assert result.returncode != 0
    assert f"ImportError: SLIDE_SIMD='{name}' is unknown; it must be empty" in result.stderr
    there = result.stderr.strip().partition("one of ")[2].split(", ")
    assert there[0] == "'base'"
    for other in ("base", "v3", "v4", "vnni"):  # those that the message has are those that run
        assert (run(other, program="import slide").returncode == 0) == (repr(other) in there)
