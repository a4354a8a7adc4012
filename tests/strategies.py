"""Hypothesis strategies: the odd shapes and the odd matrices that people really have."""

import numpy as np
import scipy.sparse as sp
from hypothesis import strategies as st

# Around the widths of SIMD registers and of a cache line of floats, where loops have their ends.
odd_widths = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 100])

seeds = st.integers(0, 2**32 - 1)


@st.composite
def csr_matrices(draw, n_rows=None, n_columns=None, *, shuffled=False, duplicates=False):
    """CSR arrays of float32, some rows empty, values in [-2, 2] without zeros.

    `n_rows` and `n_columns` are ints or strategies. ``shuffled=True`` puts every row's columns in
    any order, ``duplicates=True`` repeats at least one column of one row.
    """
    n_rows = _size(draw, n_rows, st.integers(1, 12))
    n_columns = _size(draw, n_columns, odd_widths)
    rng = np.random.default_rng(draw(seeds))
    density = draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    rows = [np.flatnonzero(rng.random(n_columns) < density) for _ in range(n_rows)]
    if n_rows > 1 and draw(st.booleans()):
        rows[int(rng.integers(n_rows))] = np.zeros(0, dtype=np.int64)
    if duplicates:
        row = int(rng.integers(n_rows))
        repeated = int(rng.integers(n_columns))
        others = rows[row][rows[row] != repeated]
        rows[row] = np.sort(np.concatenate([others, [repeated, repeated]]))
    if shuffled:
        rows = [rng.permutation(row) for row in rows]
    return _csr_of_rows(
        rows, lambda n: rng.uniform(0.1, 2.0, n) * rng.choice([-1.0, 1.0], n), n_columns
    )


@st.composite
def label_matrices(draw, n_rows=None, n_outputs=None):
    """CSR indicator arrays of float32 with 0 to 5 labels a row, some rows without any."""
    n_rows = _size(draw, n_rows, st.integers(1, 12))
    n_outputs = _size(draw, n_outputs, odd_widths)
    counts = draw(st.lists(st.integers(0, min(5, n_outputs)), min_size=n_rows, max_size=n_rows))
    rng = np.random.default_rng(draw(seeds))
    rows = [np.sort(rng.choice(n_outputs, count, replace=False)) for count in counts]
    return _csr_of_rows(rows, np.ones, n_outputs)


def layer_widths(max_layers=4):
    """Lists of layer widths, the input first and the output last: at least two."""
    return st.lists(odd_widths, min_size=2, max_size=max_layers + 1)


def raw_csr(data, indices, indptr, shape):
    """A CSR array of exactly these arrays, looked at by nobody: for tests of bad input, too."""
    matrix = sp.csr_array(shape, dtype=np.float32)
    matrix.data = np.asarray(data)
    matrix.indices = np.asarray(indices)
    matrix.indptr = np.asarray(indptr)
    return matrix


def _csr_of_rows(rows, values, n_columns):
    indptr = np.cumsum([0] + [len(row) for row in rows], dtype=np.int32)
    indices = np.concatenate(rows).astype(np.int32)
    return raw_csr(values(indptr[-1]).astype(np.float32), indices, indptr, (len(rows), n_columns))


def _size(draw, given, default):
    if given is None:
        given = default
    return draw(given) if isinstance(given, st.SearchStrategy) else given
