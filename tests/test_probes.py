"""Clocks around the kernels change nothing, count what is done, and refuse what is out of range."""

import numpy as np
import pytest
import scipy.sparse as sp

import slide
from slide import hashing, sampling
from slide._kernels import probes
from slide._memory import aligned_zeros

SAMPLERS = {
    "mixture": lambda: sampling.Mixture(
        [
            sampling.LSH(hashing.Clusters(n_cells=8), max_active=20, rebuild_every=2),
            sampling.Frequent(9),
            sampling.Uniform(12, shared=False),
        ]
    ),
    "no shared": lambda: sampling.LSH(hashing.SimHash(3, 4), max_active=30, min_active=25),
    "sketches": lambda: sampling.LSH(
        hashing.Sketches(n_components=16), max_active=20, rebuild_every=1
    ),
    "shared tail": lambda: sampling.Uniform(70),
}


def data(n=150, n_features=40, n_outputs=200):
    rng = np.random.default_rng(0)
    x = sp.random(n, n_features, 0.2, "csr", np.float32, rng)
    y = sp.random(n, n_outputs, 0.01, "csr", np.float32, rng)
    y.data[:] = 1
    return x, y


def model(sampler):
    made = slide.Sequential(
        [
            slide.Input(40),
            slide.Dense(20, "relu"),
            slide.Dense(18, "tanh"),
            slide.Dense(200, "softmax", sampler=sampler),
        ],
        seed=1,
    )
    made.compile(slide.optimizers.Adam(0.01), "categorical_crossentropy")
    return made


def with_clocks(made, x, y, n_threads, clocked=True):
    """One epoch in order, by `train_with_clocks` or by `Network.train`."""
    kernel_data, targets = made._checked(x, y, None)
    rows = np.arange(x.shape[0], dtype=np.int64)
    with made._kernels(kernel_data, 50, n_threads, True) as network:
        if not clocked:
            rates = np.full(3, 0.01, np.float32)
            return network.train(kernel_data, rows, rates, 1, np.zeros(1, np.uint64), 0, False)
        y = targets.indptr, targets.indices, targets.data
        return probes.train_with_clocks(
            network.layers, made._features(x), y, rows, 50, 0.01, 1, 0, 0, n_threads
        )


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("name", SAMPLERS)
def test_training_with_clocks_is_training(name, n_threads):
    x, y = data()
    plain, clocked = model(SAMPLERS[name]()), model(SAMPLERS[name]())
    with_clocks(plain, x, y, n_threads, clocked=False)
    seconds, counts = with_clocks(clocked, x, y, n_threads)
    fresh = model(SAMPLERS[name]())
    fresh.build(sparse=True)
    for before, one, other in zip(
        fresh.get_weights(), plain.get_weights(), clocked.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)
        assert (before != one).any()
    assert set(seconds) == set(probes.PHASES)
    assert all(value >= 0 for value in seconds.values())
    assert counts["wall_seconds"] > 0
    parts = [x[first : first + 50] for first in (0, 50, 100)]
    assert counts["features"] == sum(len(np.unique(part.indices)) for part in parts)
    assert counts["distinct"] <= counts["rows"]
    assert counts["distinct"] <= 3 * 200


def test_own_neurons_are_counted():
    x, y = data()
    # Labels alone are a sample's own neurons where everything else is shared.
    _, counts = with_clocks(model(sampling.Uniform(70)), x, y, 1)
    assert counts["rows"] == y.nnz
    parts = [y[first : first + 50] for first in (0, 50, 100)]
    assert counts["distinct"] == sum(len(np.unique(part.indices)) for part in parts)
    assert counts["n_shared"] == 70


def test_incomplete_batches_and_rows_out_of_range():
    x, y = data(120)
    with pytest.raises(ValueError, match="not whole batches"):
        with_clocks(model(sampling.Uniform(70)), x, y, 1)


@pytest.mark.parametrize(
    "call",
    [
        lambda W, ids: probes.products(W, ids, W[0]),
        lambda W, ids: probes.sums(W, ids, np.ones(4, np.float32)),
        lambda W, ids: probes.touches(W, ids, 8),
        lambda W, ids: probes.touches(W, ids, 8, True, 2),
    ],
)
def test_rows(call):
    W, ids = aligned_zeros((10, 32)), np.array([[0, 9, 3, 3]], np.int32)
    W[:] = np.arange(10)[:, None]
    before = W.copy()
    assert call(W, ids) > 0
    np.testing.assert_array_equal(W, before)
    for bad in (10, -1):
        with pytest.raises(ValueError, match="a row is not one of 10"):
            call(W, np.array([[0, bad, 1, 1]], np.int32))
    with pytest.raises(ValueError, match="rows of 20 floats"):
        call(np.ones((10, 20), np.float32), ids)


def test_sizes_that_do_not_fit():
    W, ids = aligned_zeros((10, 32)), np.zeros((2, 4), np.int32)
    with pytest.raises(ValueError, match="x has 16 values"):
        probes.products(W, ids, W[0, :16])
    with pytest.raises(ValueError, match="3 coefficients of 4"):
        probes.sums(W, ids, W[0, :3])
    with pytest.raises(ValueError, match="at least"):
        probes.reads(W[0])
    with pytest.raises(ValueError, match="products of 0"):
        probes.matrix_products(0, 2, 2)


def test_bandwidth_and_rate():
    seconds, n = probes.reads(np.ones(600_000, np.float32), 2)
    assert seconds > 0
    assert n == 2 * 262_144
    assert probes.matrix_products(8, 8, 8, 2, 3) > 0
