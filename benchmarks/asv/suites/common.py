"""What the suites share: random vectors, layers and data sets, all seeded."""

import numpy as np
import scipy.sparse as sp

import slide
from slide._kernels.optim import Parameters
from slide._memory import aligned_zeros, padded


def vectors(n, dim, seed=0):
    """Random normal vectors, (n, dim) float32."""
    return np.random.default_rng(seed).standard_normal((n, dim), np.float32)


def parameters(n, dim, seed=0):
    """A layer's random weights without optimizer state; row i has dim values."""
    weights = aligned_zeros((n, padded(dim)))
    weights[:, :dim] = vectors(n, dim, seed)
    none = np.zeros((n, 0), np.float32)
    return Parameters(weights, none, none, dim, dim - 1)


def inputs(n, dim, seed=1):
    """Inputs of such a layer, a 1 after the last value, padded with zeros."""
    x = aligned_zeros((n, padded(dim)))
    x[:, : dim - 1] = np.maximum(vectors(n, dim - 1, seed), 0)
    x[:, dim - 1] = 1
    return x


def points(n, n_features, n_outputs, nnz=30, labels=3, seed=2):
    """Sparse features and indicator targets, float32."""
    rng = np.random.default_rng(seed)

    def ones(columns, width):
        indices = np.concatenate(
            [rng.choice(columns, width, replace=False, shuffle=False) for _ in range(n)]
        )
        indptr = np.arange(0, n * width + 1, width)
        values = np.ones(n * width, np.float32)
        matrix = sp.csr_matrix((values, indices, indptr), shape=(n, columns))
        matrix.sort_indices()
        return matrix

    return ones(n_features, nnz), ones(n_outputs, labels)


def network(n_features, hidden, n_outputs, sampler=None, hidden_sampler=None, optimizer=None):
    """ReLU layers and softmax, compiled; a hidden sampler has a dense layer below it."""
    below = [] if hidden_sampler is None else [slide.Dense(64, "relu")]
    model = slide.Sequential(
        [
            slide.Input(n_features),
            *below,
            slide.Dense(hidden, "relu", sampler=hidden_sampler),
            slide.Dense(n_outputs, "softmax", sampler=sampler),
        ],
        seed=0,
    )
    model.compile(optimizer or slide.optimizers.Adam(1e-3), "categorical_crossentropy")
    return model
