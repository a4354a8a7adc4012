"""Learned projections: a round against NumPy, what they keep of inputs, recall beside SimHash."""

import numpy as np
import pytest

import slide
from slide import hashing
from slide._kernels.optim import Parameters
from slide._memory import aligned_zeros, padded
from slide.hashing import Learned, SimHash
from slide.sampling import LSH

MASK = 2**64 - 1
FOUND, SPARED, TRIED, MISTAKEN, QUERIES = 10, 100, 200, 20, 32


def aligned(X):
    rows = aligned_zeros((len(X), padded(X.shape[1])))
    rows[:, : X.shape[1]] = X
    return rows


def parameters(weights):
    none = np.zeros((len(weights), 0), np.float32)
    return Parameters(aligned(weights), none, none, weights.shape[1], weights.shape[1] - 1)


def vectors(n, dim, n_queries, seed=0):
    """Weights and inputs with a few directions in common and means apart, as in a layer of ReLU."""
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(dim // 4, dim))
    w = rng.normal(size=(n, dim // 4)) @ basis + rng.normal(size=(n, dim)) - 2.0
    x = np.maximum(rng.normal(size=(n_queries, dim // 4)) @ basis, 0)
    return w.astype(np.float32), x.astype(np.float32)


class Layer:
    """Tables of an output layer; `rebuild` does what is due after some steps."""

    def __init__(self, sampler, w, seed=0):
        self.p, self.w = parameters(w), w
        self.active = sampler.active_set(*w.shape, seed, 1)
        self.retriever, self.step = self.active.retriever, 0
        self.rebuild()

    def rebuild(self):
        self.active.weights_moved()
        row = aligned(self.w[:1])
        self.active.select_batch(self.p, row, [[]], step=self.step)
        self.step += 1000


# ------------------------------------------------------------------------------- codes


def test_bits_are_signs_of_centred_projections():
    w, x = vectors(50, 12, 40)
    layer = Layer(LSH(Learned(5, 4, n_rounds=1), 50, rebuild_every=10), w)
    for shown in (False, True):
        if shown:
            layer.retriever.show(aligned(x))
            layer.rebuild()
        a = layer.retriever.arrays["projections"][:, :12].astype(float)
        np.testing.assert_allclose(np.linalg.norm(a, axis=1), np.sqrt(12), rtol=1e-5)
        middle = x.mean(axis=0) if shown else 0 * x[0]
        for rows, mean, queries in ((w, w.mean(axis=0), False), (x, middle, True)):
            values = (rows.astype(float) - mean) @ a.T
            codes = layer.retriever.hash(aligned(rows), queries)
            bits = (values > 0).reshape(len(rows), 4, 5)
            near = (np.abs(values) < 1e-4).reshape(len(rows), 4, 5).any(axis=2)
            assert near.mean() < 0.05
            wanted = (bits * 2 ** np.arange(4, -1, -1)).sum(axis=2)
            np.testing.assert_array_equal(codes[~near], wanted[~near])
    found = layer.retriever.query(aligned(x), 50)
    own, asked = layer.retriever.hash(aligned(w)), layer.retriever.hash(aligned(x), True)
    for i, ids in enumerate(found):
        assert set(ids) == set(np.flatnonzero((own == asked[i]).any(axis=1)))


def test_functions_start_as_independent_normal_directions():
    a = Learned(10, 50).retriever(5, 40, 3, 1).arrays["projections"][:, :40]
    assert abs(a.mean()) < 5 / np.sqrt(a.size)
    # Of length sqrt(dim): fourth moments of a point of the sphere, 3 d / (d + 2).
    assert abs((a**4).mean() - 3 * 40 / 42) < 5 * np.sqrt(96 / a.size)
    assert np.abs(np.corrcoef(a[:10])[np.triu_indices(10, 1)]).max() < 5 / np.sqrt(40)
    b = Learned(10, 50).retriever(5, 40, 4, 1).arrays["projections"][:, :40]
    assert not (a == b).any()


def test_inputs_and_their_mean_are_those_of_the_last_batches():
    retriever = Layer(LSH(Learned(2, 2), 5), vectors(20, 12, 1)[0]).retriever
    arrays, rng = retriever.arrays, np.random.default_rng(1)
    mean, kept = np.zeros(12), []
    for batch in range(300):
        x = rng.normal(size=(int(rng.integers(1, 40)), 12)) + batch
        retriever.show(aligned(x))
        share = max(1 / (batch + 1), 0.02)
        mean += share * (x.mean(axis=0) - mean)
        kept += [x[i * len(x) // 8] for i in range(8)]
    np.testing.assert_allclose(arrays["means"][1, :12], mean, rtol=1e-4)
    last = kept[-2048:]
    at = np.arange(2400 - 2048, 2400) % 2048
    np.testing.assert_allclose(arrays["inputs"][at, :12], np.array(last), rtol=1e-6)
    assert arrays["seen"].tolist() == [300, 1]
    retriever.show(aligned(np.zeros((0, 12))))
    assert arrays["seen"][0] == 300


# ------------------------------------------------------------------------------- learning


class SplitMix:
    """The generator of the kernels."""

    def __init__(self, seed, a, b):
        first = self.mix((seed + 0x9E3779B97F4A7C15) & MASK) ^ a
        self.state = self.mix((self.mix(first) + b * 0xD1B54A32D192ED03) & MASK)

    @staticmethod
    def mix(z):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)

    def below(self, n):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        return ((self.mix(self.state) >> 32) * n) >> 32


def one_round(a, w, inputs, c, m, rate, rng):
    """The functions after a round, in double precision."""
    for _ in range(len(w)):
        rng.below(1)  # neurons looked at: one of each part of one
    by_w = 1.5 / np.sqrt(((w - c) ** 2).sum(axis=1).mean())
    by_x = 1.5 / np.sqrt(((inputs - m) ** 2).sum(axis=1).mean())
    gradient = np.zeros_like(a)
    for _ in range(QUERIES):
        x = inputs[rng.below(len(inputs))]
        u = np.tanh(by_x * (a @ (x - m)))
        z = w @ x
        limit = np.sort(z)[-min(len(w), SPARED)]
        tried = [rng.below(len(w)) for _ in range(TRIED)]
        tried = [j for j in tried if z[j] < limit]
        agree = [((a @ (w[j] - c) > 0) == (u > 0)).sum() for j in tried]
        mistaken = [tried[i] for i in np.argsort(-np.array(agree), kind="stable")[:MISTAKEN]]
        found = np.argsort(-z)[:FOUND]
        for ids, y in ((found, 1.0), (mistaken, -1.0)):
            for j in ids:
                v = np.tanh(by_w * (a @ (w[j] - c)))
                gradient += y / len(ids) * by_x * np.outer(v * (1 - u**2), x - m)
                gradient += y / len(ids) * by_w * np.outer(u * (1 - v**2), w[j] - c)
    a = a + rate / QUERIES * gradient
    return a * np.sqrt(a.shape[1]) / np.linalg.norm(a, axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(3))
def test_a_round_follows_the_gradient(seed):
    w, x = vectors(300, 12, 64, seed)
    layer = Layer(LSH(Learned(5, 4, n_rounds=2, rate=3.0), 50, rebuild_every=10), w, seed)
    layer.retriever.show(aligned(x))
    arrays = layer.retriever.arrays
    a = arrays["projections"][:, :12].astype(float)
    inputs = arrays["inputs"][:8, :12].astype(float)
    rng = SplitMix(seed, 27, 1)
    wanted = a
    for _ in range(2):
        wanted = one_round(
            wanted, w.astype(float), inputs, w.mean(axis=0, dtype=float), x.mean(axis=0), 3.0, rng
        )
    layer.rebuild()
    found = arrays["projections"][:, :12]
    assert np.abs(wanted - a).max() > 0.1
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_more_of_the_largest_are_found_than_by_random_projections():
    """At equal K and L, with as many retrieved; what is asked was never shown."""
    w, x = vectors(2000, 24, 900)
    asked, shown = x[:100], x[100:]
    best = np.argsort(-asked @ w.T, axis=1)[:, :10]
    recalls = []
    for family in (SimHash(5, 20), Learned(5, 20, n_rounds=5)):
        layer = Layer(LSH(family, 60, strategy="top_k", rebuild_every=10), w)
        for first in range(0, 800, 100):
            layer.retriever.show(aligned(shown[first : first + 100]))
            layer.rebuild()
        found = layer.retriever.query(aligned(asked), 60)
        recalls.append(np.mean([np.isin(b, f).mean() for b, f in zip(best, found, strict=True)]))
    assert recalls[0] + 0.08 < recalls[1]


# --------------------------------------------------------------------- models, bad input


def model_of(sampler):
    model = slide.Sequential(
        [slide.Input(12, sparse=False), slide.Dense(60, "softmax", sampler=sampler)]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def test_models_go_on_from_files_on_any_number_of_threads(tmp_path):
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(60, 12)).astype(np.float32), rng.integers(0, 60, 60)
    arguments = {"rebuild_every": 3, "strategy": "top_k", "bucket_size": 9, "candidates": 30}
    one, two = (
        model_of(LSH(Learned(2, 10), 20, new_functions_every=4, **arguments)) for _ in range(2)
    )
    one.fit(x, y, batch_size=5, verbose=0, n_jobs=1)
    two.fit(x, y, batch_size=5, verbose=0, n_jobs=2)
    two.save(tmp_path / "two.slide")
    two = slide.load(tmp_path / "two.slide")
    for model, n_jobs in ((one, 2), (two, 1)):
        model.fit(x, y, batch_size=5, epochs=2, verbose=0, n_jobs=n_jobs)
    states = [model.layers[0]._active.get_state() for model in (one, two)]
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name])
    assert states[0]["functions.seen"][0] == 36
    assert states[0]["functions.seen"][1] > 8
    assert one.multiplications is not None


def test_configuration_and_bad_input():
    family = Learned(3, 7, n_rounds=2, rate=0.5)
    assert repr(hashing.get(hashing.serialize(family))) == repr(family)
    for arguments, words in (
        ({"n_bits": 63}, "n_bits"),
        ({"n_tables": 0}, "n_tables"),
        ({"n_rounds": 0}, "n_rounds"),
        ({"rate": -1.0}, "rate"),
        ({"rate": float("nan")}, "rate"),
    ):
        with pytest.raises(ValueError, match=words):
            Learned(**arguments)
    with pytest.raises(ValueError, match="schedule='rolling' with Learned"):
        LSH(family, 5, schedule="rolling").active_set(60, 12, 0, 1)
    retriever = LSH(family, 5).active_set(60, 12, 0, 1).retriever
    with pytest.raises(ValueError, match="not been built"):
        retriever.show(aligned(np.ones((2, 12))))
    with pytest.raises(ValueError, match="x has 32 columns; padded rows have 16"):
        retriever.hash(aligned(np.ones((2, 20))))
    layer = Layer(LSH(family, 5), vectors(60, 12, 1)[0])
    with pytest.raises(ValueError, match="rows of 32 floats, not 16"):
        layer.retriever.show(aligned(np.ones((2, 20))))


def test_memory_is_asked_for_first(monkeypatch):
    from slide import _memory

    monkeypatch.setattr(_memory, "available_memory", lambda: 10**6)
    with pytest.raises(MemoryError, match=r"Learned.* on 1,000,000 neurons"):
        Learned().retriever(10**6, 100, 0, 1)


def test_few_neurons_and_equal_ones():
    for w in (np.ones((4, 12), np.float32), np.zeros((15, 12), np.float32)):
        layer = Layer(LSH(Learned(3, 5), len(w), rebuild_every=10), w)
        layer.retriever.show(aligned(np.ones((3, 12))))
        layer.rebuild()
        assert all(np.isfinite(array).all() for array in layer.retriever.arrays.values())
