import re
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import csr_matrices, label_matrices, odd_widths, raw_csr

from slide import _validation as check

LOSSES = ("categorical_crossentropy", "binary_crossentropy", "mean_squared_error")


def assert_canonical(matrix):
    assert sp.issparse(matrix)
    assert matrix.format == "csr"
    assert matrix.data.dtype == np.float32
    assert matrix.indices.dtype == np.int32
    assert matrix.indptr.dtype == np.int64
    assert len(matrix.data) == len(matrix.indices) == matrix.indptr[-1]
    for array in (matrix.data, matrix.indices, matrix.indptr):
        assert array.flags.c_contiguous
        assert array.flags.aligned
    for start, stop in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        assert (np.diff(matrix.indices[start:stop]) > 0).all()


def arrays_of(matrix):
    return [matrix.data.copy(), matrix.indices.copy(), matrix.indptr.copy()]


# -------------------------------------------------------------------------------- scalars


@pytest.mark.parametrize("value", [1, 7, np.int32(7), np.uint64(7)])
def test_positive_int(value):
    number = check.check_positive_int("n", value)
    assert type(number) is int
    assert number == value


@pytest.mark.parametrize(
    ("value", "bounds", "error", "message"),
    [
        (0, {}, ValueError, "n must be at least 1, got 0"),
        (-3, {"low": 0}, ValueError, "n must be at least 0, got -3"),
        (9, {"high": 8}, ValueError, "n must be between 1 and 8, got 9"),
        (True, {}, TypeError, "n must be an integer, got True"),
        (np.True_, {}, TypeError, "n must be an integer"),
        (2.0, {}, TypeError, r"n must be an integer, got 2.0 \(float\)"),
        ("2", {}, TypeError, "n must be an integer, got '2'"),
        (None, {}, TypeError, "n must be an integer, got None"),
        (np.array(3), {}, TypeError, "n must be an integer, got an array"),
    ],
)
def test_positive_int_refuses(value, bounds, error, message):
    with pytest.raises(error, match=message):
        check.check_positive_int("n", value, **bounds)


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.5), np.int8(1), Fraction(1, 2)])
def test_finite_float(value):
    number = check.check_finite_float("f", value, above=0, at_most=1)
    assert type(number) is float
    assert number == value


@pytest.mark.parametrize(
    ("value", "bounds", "error", "message"),
    [
        (float("nan"), {}, ValueError, "f must be finite, got nan"),
        (-float("inf"), {}, ValueError, "f must be finite, got -inf"),
        (10**400, {}, ValueError, "f must be finite, got 1000"),
        (-0.1, {"at_least": 0}, ValueError, "f must be at least 0, got -0.1"),
        (0, {"above": 0}, ValueError, "f must be greater than 0, got 0"),
        (1.1, {"at_most": 1}, ValueError, "f must be at most 1, got 1.1"),
        (1, {"below": 1}, ValueError, "f must be less than 1, got 1"),
        (True, {}, TypeError, "f must be a number, got True"),
        ("0.1", {}, TypeError, "f must be a number, got '0.1'"),
        (1j, {}, TypeError, "f must be a number, got 1j"),
        (np.array([1.0]), {}, TypeError, "f must be a number"),
    ],
)
def test_finite_float_refuses(value, bounds, error, message):
    with pytest.raises(error, match=message):
        check.check_finite_float("f", value, **bounds)


def test_fraction():
    assert check.check_fraction("f", 1) == 1.0
    assert check.check_fraction("f", 0, zero=True) == 0.0
    with pytest.raises(ValueError, match="f must be greater than 0, got 0"):
        check.check_fraction("f", 0)
    with pytest.raises(ValueError, match=r"f must be at most 1, got 1\.5"):
        check.check_fraction("f", 1.5)


def test_bool():
    assert check.check_bool("b", np.True_) is True
    with pytest.raises(TypeError, match="b must be True or False, got 1"):
        check.check_bool("b", 1)


def test_in():
    assert check.check_in("mode", np.str_("a"), ("a", "b")) == "a"
    assert check.check_in("mode", 1, (1, 2)) == 1
    for value in ("c", None, True, 1, np.zeros(2), ["a"]):
        with pytest.raises(ValueError, match="mode must be one of 'a', 'b'; got"):
            check.check_in("mode", value, ("a", "b"))
    with pytest.raises(ValueError, match="got True"):
        check.check_in("mode", True, (1, 2))


# ------------------------------------------------------------------------- sparse features


@given(csr_matrices())
@settings(max_examples=50, deadline=None)
def test_a_canonical_csr_passes_without_a_copy(x):
    result = check.check_features(x, x.shape[1])
    assert_canonical(result)
    assert result.shape == x.shape
    assert np.shares_memory(result.data, x.data) or not x.nnz
    assert np.shares_memory(result.indices, x.indices) or not x.nnz


@given(csr_matrices(shuffled=True), st.sampled_from(["f8", "i4", "u1", ">f4", "f2", "g", "?"]))
@settings(max_examples=50, deadline=None)
def test_unsorted_columns_and_any_real_dtype(x, dtype):
    x.data = np.round(np.abs(x.data)).astype(dtype)
    # A flag that is wrong, as after an assignment to the arrays.
    x.has_sorted_indices = True
    before = arrays_of(x)
    result = check.check_features(x, x.shape[1])
    assert_canonical(result)
    for array, kept in zip(arrays_of(x), before, strict=True):
        np.testing.assert_array_equal(array, kept)
    expected = np.zeros(x.shape, np.float32)
    for row in range(x.shape[0]):
        span = slice(x.indptr[row], x.indptr[row + 1])
        expected[row, x.indices[span]] = x.data[span]
    np.testing.assert_array_equal(result.toarray(), expected)


@given(csr_matrices(duplicates=True), st.booleans())
@settings(max_examples=50, deadline=None)
def test_duplicate_columns_are_refused_with_their_row(x, flag):
    x.has_canonical_format = flag
    row, column = next(
        (row, column)
        for row in range(x.shape[0])
        for column in range(x.shape[1])
        if (x.indices[x.indptr[row] : x.indptr[row + 1]] == column).sum() > 1
    )
    with pytest.raises(ValueError, match=f"x has column {column} more than once in row {row};"):
        check.check_features(x, x.shape[1])


def test_duplicate_columns_apart_in_an_unsorted_row():
    x = raw_csr(np.ones(4, "f4"), [3, 1, 0, 1], [0, 1, 1, 4], (3, 4))
    with pytest.raises(ValueError, match="column 1 more than once in row 2"):
        check.check_features(x, 4)


def test_the_same_column_at_the_end_of_a_row_and_the_start_of_the_next_is_legal():
    x = raw_csr(np.ones(4, "f4"), [1, 3, 3, 0], [0, 2, 2, 3, 4, 4], (5, 4))
    assert_canonical(check.check_features(x, 4))


@pytest.mark.parametrize("dtype", ["i4", "i8", "u4", "u8", ">i4"])
def test_any_index_dtype(dtype):
    x = raw_csr([1.0, 2.0], np.array([2, 0], dtype), np.array([0, 1, 2], dtype), (2, 3))
    result = check.check_features(x, 3)
    assert_canonical(result)
    assert result.toarray().tolist() == [[0, 0, 1], [2, 0, 0]]


@pytest.mark.parametrize("layout", ["csc", "coo", "lil", "dok", "dia", "bsr"])
@pytest.mark.parametrize("kind", ["array", "matrix"])
def test_other_sparse_formats(layout, kind):
    dense = np.array([[0, 1, 0, 2], [0, 0, 0, 0], [3, 0, 4, 0]], np.float64)
    x = getattr(sp, f"{layout}_{kind}")(dense)
    result = check.check_features(x, 4)
    assert_canonical(result)
    np.testing.assert_array_equal(result.toarray(), dense)


def test_coo_entries_are_added_as_scipy_does():
    x = sp.coo_array(([1.0, 2.0, 5.0], ([1, 1, 0], [2, 2, 0])), shape=(2, 3))
    assert check.check_features(x, 3).toarray().tolist() == [[5, 0, 0], [0, 0, 3]]


def test_explicit_zeros_of_features_stay():
    assert check.check_features(raw_csr([0.0, 1.0], [0, 1], [0, 2], (1, 2)), 2).nnz == 2


def test_arrays_longer_than_their_rows_are_cut():
    x = raw_csr([1.0, 2.0, np.nan], [0, 1, 99], [0, 1, 2], (2, 2))
    result = check.check_features(x, 2)
    assert_canonical(result)
    assert result.toarray().tolist() == [[1, 0], [0, 2]]


def test_views_with_strides_and_odd_addresses():
    odd = np.frombuffer(b"\0" + np.array([1.0, 2.0], "<f4").tobytes(), "<f4", 2, offset=1)
    strided = np.array([0, 9, 1, 9], np.int32)[::2]
    x = raw_csr(odd, strided, np.array([0, 2]), (1, 2))
    assert_canonical(check.check_features(x, 2))


@pytest.mark.parametrize(
    ("data", "indices", "indptr", "message"),
    [
        ([1.0, 2.0], [0, -1], [0, 1, 2], "x.indices[1] is -1 in row 1; it must be in [0, 3)"),
        ([1.0, 2.0], [0, 3], [0, 0, 2], "x.indices[1] is 3 in row 1; it must be in [0, 3)"),
        ([1.0, 2.0], [0, 2**32], [0, 0, 2], "x.indices[1] is 4294967296 in row 1"),
        ([1.0, np.nan], [0, 2], [0, 1, 2], "x[1, 2] is nan, not a finite number"),
        ([-np.inf, 1.0], [1, 2], [0, 2, 2], "x[0, 1] is -inf, not a finite number"),
        ([1.0, 1e39], [1, 2], [0, 0, 2], "x[1, 2] is 1e+39, too large for float32"),
        ([1.0, 2.0], [0, 1], [0, 3, 2], "x.indptr decreases at row 1, from 3 to 2"),
        ([1.0, 2.0], [0, 1], [0, -1, 2], "x.indptr decreases at row 0, from 0 to -1"),
        ([1.0, 2.0], [0, 1], [1, 1, 2], "x.indptr[0] must be 0, got 1"),
        ([1.0, 2.0], [0, 1], [0, 2], "x.indptr must have length 3, got 2"),
        ([1.0, 2.0], [0, 1], [0, 1, 5], "x.indptr ends at 5, x.data has length 2"),
        ([1.0, 2.0], [0, 1, 2], [0, 1, 3], "x.indices has length 3, x.data has 2"),
        ([1.0, 2.0], [0.0, 1.0], [0, 1, 2], "x.indices must be a vector of integers"),
        ([1.0, 2.0], [[0, 1]], [0, 1, 2], "x.indices must be a vector of integers"),
        ([1.0, 2.0], [0, 1], [0.0, 1.0, 2.0], "x.indptr must be a vector of integers"),
        ([[1.0, 2.0]], [0, 1], [0, 1, 2], "x.data must be a vector, got shape (1, 2)"),
    ],
)
def test_inconsistent_csr(data, indices, indptr, message):
    x = raw_csr(np.array(data), np.array(indices), np.array(indptr), (2, 3))
    with pytest.raises(ValueError, match=re.escape(message)):
        check.check_features(x, 3)


def test_an_unsigned_indptr_beyond_int64():
    x = raw_csr([1.0], [0], np.array([0, 2**64 - 1], np.uint64), (1, 1))
    with pytest.raises(ValueError, match="indptr decreases at row 0"):
        check.check_features(x, 1)


def test_other_formats_are_looked_at_before_scipy_converts_them():
    csc = sp.csc_array((2, 3), dtype=np.float32)
    csc.data, csc.indices = np.ones(1, "f4"), np.array([7])
    csc.indptr = np.array([0, 1, 1, 1])
    with pytest.raises(ValueError, match=r"x.indices\[0\] is 7 in row 0"):
        check.check_features(csc, 3)
    bsr = sp.bsr_array(np.ones((2, 4)), blocksize=(1, 2))
    bsr.indices = bsr.indices + 5
    with pytest.raises(ValueError, match=r"x.indices\[0\] is 5"):
        check.check_features(bsr, 4)
    coo = sp.coo_array(([1.0], ([0], [0])), shape=(2, 3))
    coo.data = np.ones(2)
    with pytest.raises(ValueError, match=r"x.row has length 1, x.data has 2"):
        check.check_features(coo, 3)
    coo.data = np.ones(1)
    coo.col[0] = 9
    with pytest.raises(ValueError, match=r"x.col\[0\] is 9; it must be in \[0, 3\)"):
        check.check_features(coo, 3)
    dia = sp.dia_array((np.ones((1, 3)), [0]), shape=(2, 3))
    dia.offsets = np.arange(5)
    with pytest.raises(ValueError, match=r"x.offsets has length 5, x.data shape \(1, 3\)"):
        check.check_features(dia, 3)
    lil = sp.lil_array(np.ones((2, 3)))
    lil.data[1] = [1.0]
    with pytest.raises(ValueError, match=r"x.rows\[1\] has length 3, x.data\[1\] 1"):
        check.check_features(lil, 3)
    lil.rows = lil.rows[:1]
    with pytest.raises(ValueError, match=r"x.rows must have shape \(2,\), got \(1,\)"):
        check.check_features(lil, 3)


@pytest.mark.parametrize("dtype", [np.complex64, object])
def test_sparse_dtypes_without_an_order(dtype):
    x = raw_csr(np.ones(1, dtype), [0], [0, 1], (1, 1))
    with pytest.raises(TypeError, match="x must hold real numbers, got dtype"):
        check.check_features(x, 1)


def test_memory_of_a_canonical_csr():
    n, width = 20000, 50
    x = raw_csr(
        np.ones(n * width, "f4"),
        np.tile(np.arange(width, dtype=np.int32), n),
        np.arange(0, n * width + 1, width, dtype=np.int64),
        (n, width),
    )
    tracemalloc.start()
    try:
        check.check_features(x, width)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A byte or two for each entry, where a copy of data or indices would be four.
    assert peak < 0.75 * x.data.nbytes


# -------------------------------------------------------------------------- dense features


def test_a_float32_array_passes_without_a_copy():
    x = np.ones((3, 4), np.float32)
    assert check.check_features(x, 4) is x


@pytest.mark.parametrize(
    "x",
    [
        np.ones((4, 3), np.float32).T,
        np.ones((3, 4)),
        np.ones((3, 4), bool),
        np.ones((3, 4), np.uint8),
        np.ones((3, 4), ">f4"),
        np.ones((6, 4), np.float16)[::2],
        [[1, 1, 1, 1]] * 3,
        np.asmatrix(np.ones((3, 4))),
    ],
)
def test_dense_features_are_made_float32(x):
    result = check.check_features(x, 4)
    assert type(result) is np.ndarray
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, np.ones((3, 4)))


def test_values_whose_float32_sum_is_infinite_are_legal():
    x = np.full((2, 3), 3e38, np.float32)
    assert check.check_features(x, 3) is x
    assert check.check_features(np.zeros((0, 3)), 3).shape == (0, 3)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.ones((2, 4)), ValueError, "x must have n_features=3 columns, got 4"),
        (np.ones(3), ValueError, "x must have 2 dimensions, got shape (3,)"),
        (np.ones((2, 3, 1)), ValueError, "x must have 2 dimensions"),
        (3.0, ValueError, "x must have 2 dimensions, got shape ()"),
        (sp.csr_array((2, 4)), ValueError, "x must have n_features=3 columns, got 4"),
        (np.array([[1, 2, 3], [4, np.nan, 6]]), ValueError, "x[1, 1] is nan, not a finite"),
        (np.array([[1, 2, np.inf]], "f4"), ValueError, "x[0, 2] is inf, not a finite"),
        (np.array([[1, 2, -1e300]]), ValueError, "x[0, 2] is -1e+300, too large for float32"),
        (np.ones((2, 3), complex), TypeError, "x must hold real numbers, got dtype complex128"),
        (np.ones((2, 3), object), TypeError, "x must hold real numbers, got dtype object"),
        ([["a", "b", "c"]], TypeError, "x must hold real numbers, got dtype <U1"),
        (None, TypeError, "x must hold real numbers, got dtype object"),
        ([[1, 2, 3], [4]], ValueError, "x is not a rectangular array"),
        (np.ma.masked_equal(np.ones((2, 3)), 1), TypeError, "x is a masked array"),
        (np.zeros((2, 3), "M8[s]"), TypeError, "x must hold real numbers, got dtype datetime64"),
    ],
)
def test_bad_features_are_named(x, error, message):
    with pytest.raises(error, match=re.escape(message)):
        check.check_features(x, 3)


def test_the_name_is_the_callers():
    with pytest.raises(ValueError, match=r"validation_data\[0\] must have 2 dimensions"):
        check.check_features(np.ones(3), 3, name="validation_data[0]")


# -------------------------------------------------------------------------------- targets


@pytest.mark.parametrize("loss", LOSSES)
@given(label_matrices())
@settings(max_examples=30, deadline=None)
def test_the_forms_of_targets_agree(loss, y):
    n, n_outputs = y.shape
    sparse = check.check_targets(y, n, n_outputs, loss)
    dense = check.check_targets(y.toarray().astype(int), n, n_outputs, loss)
    for result in (sparse, dense):
        assert_canonical(result)
        np.testing.assert_array_equal(result.toarray(), y.toarray())
    assert np.shares_memory(sparse.data, y.data) or not y.nnz


@given(odd_widths, st.integers(0, 20), st.sampled_from(["i4", "u1", "i8"]))
@settings(max_examples=30, deadline=None)
def test_class_ids(n_outputs, n, dtype):
    ids = np.random.default_rng(n).integers(n_outputs, size=n).astype(dtype)
    result = check.check_targets(ids, n, n_outputs, "categorical_crossentropy")
    assert_canonical(result)
    np.testing.assert_array_equal(result.toarray(), np.eye(n_outputs)[ids])


def test_class_ids_are_copied():
    ids = np.array([0, 1], np.int32)
    result = check.check_targets(ids, 2, 2, "categorical_crossentropy")
    ids[0] = 1
    assert result.indices.tolist() == [0, 1]


def test_one_output_takes_a_vector_as_its_column():
    result = check.check_targets([0.5, 0.0, 2.0], 3, 1, "mean_squared_error")
    assert_canonical(result)
    assert result.toarray().tolist() == [[0.5], [0.0], [2.0]]
    result = check.check_targets(np.array([True, False]), 2, 1, "binary_crossentropy")
    assert result.toarray().tolist() == [[1.0], [0.0]]


def test_zeros_are_eliminated():
    y = raw_csr([0.0, 1.0, 1e-60, -0.0, 2.0], [0, 1, 2, 0, 1], [0, 3, 4, 4, 5], (4, 3))
    result = check.check_targets(y, 4, 3, "categorical_crossentropy")
    assert_canonical(result)
    assert result.indptr.tolist() == [0, 1, 1, 1, 2]
    assert result.indices.tolist() == [1, 1]
    assert len(y.data) == 5


def test_real_targets_of_mean_squared_error():
    y = np.array([[-1.5, 0.0], [2.0, 1e30]])
    result = check.check_targets(y, 2, 2, "mean_squared_error")
    np.testing.assert_array_equal(result.toarray(), y.astype(np.float32))


CCE, BCE, MSE = LOSSES


TARGETS = (
    "targets are class ids, integers of shape (3,), or a matrix, dense or sparse, of shape (3, 3)"
)


@pytest.mark.parametrize(
    ("y", "loss", "error", "message"),
    [
        ([0, 1, 5], CCE, ValueError, "y[2] is 5; it must be in [0, 3)"),
        ([0, -1, 2], CCE, ValueError, "y[1] is -1; it must be in [0, 3)"),
        ([0, 1], CCE, ValueError, "y must have length 3, one per sample; got 2"),
        ([0.0, 1.0, 2.0], CCE, TypeError, "must hold class ids of an integer dtype, got float64"),
        ([True, False, True], BCE, TypeError, "class ids of an integer dtype, got bool"),
        (np.ones((2, 3)), CCE, ValueError, "y must have 3 rows, one per sample; got 2"),
        (np.ones((3, 1)), CCE, ValueError, "y must have n_outputs=3 columns, got 1"),
        (sp.csr_array((3, 2)), CCE, ValueError, "y must have n_outputs=3 columns, got 2"),
        (sp.csr_array((2, 3)), CCE, ValueError, "y must have 3 rows, one per sample; got 2"),
        (-np.eye(3), CCE, ValueError, "y[0, 0] is -1; categorical_crossentropy needs targets >= 0"),
        (np.eye(3) * 2, BCE, ValueError, "y[0, 0] is 2; binary_crossentropy needs"),
        (sp.csr_array(np.eye(3) * 1.5), BCE, ValueError, "y[0, 0] is 1.5; binary_crossentropy"),
        (np.diag([1, 1, np.nan]), MSE, ValueError, "y[2, 2] is nan, not a finite number"),
        (np.diag([1, 1e39, 0]), MSE, ValueError, "y[1, 1] is 1e+39, too large for float32"),
        (np.eye(3, dtype=complex), MSE, TypeError, "y must hold real numbers"),
        ([[0], [1, 2], []], CCE, ValueError, "y is not a rectangular array"),
        ([[0], [1, 2], []], CCE, ValueError, TARGETS),
        ([[0], [1], [2]], CCE, ValueError, f"n_outputs=3 columns, got 1; {TARGETS}"),
        (np.zeros((3, 3, 1)), CCE, ValueError, TARGETS),
        (np.array([[0], [1, 2], []], object), CCE, TypeError, TARGETS),
        (["a", "b", "c"], CCE, TypeError, "y must hold real numbers"),
        (np.eye(3), "hinge", ValueError, "loss_name must be one of 'categorical_crossentropy'"),
    ],
)
def test_bad_targets_are_named(y, loss, error, message):
    with pytest.raises(error, match=re.escape(message)):
        check.check_targets(y, 3, 3, loss)


def test_duplicate_labels_are_refused():
    y = raw_csr(np.ones(2, "f4"), [1, 1], [0, 0, 2], (2, 3))
    with pytest.raises(ValueError, match="y has column 1 more than once in row 1"):
        check.check_targets(y, 2, 3, CCE)


# -------------------------------------------------------------------------- sample weights


def test_sample_weight():
    assert check.check_sample_weight(None, 3) is None
    given_weights = np.array([0.0, 1.0, 2.0], np.float32)
    assert check.check_sample_weight(given_weights, 3) is given_weights
    result = check.check_sample_weight([0, 1, 2], 3)
    assert result.dtype == np.float32
    assert check.check_sample_weight([], 0).shape == (0,)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([1.0, -0.5], ValueError, "sample_weight[1] is -0.5; weights must be >= 0"),
        ([1.0, np.nan], ValueError, "sample_weight[1] is nan, not a finite number"),
        ([1e39, 1.0], ValueError, "sample_weight[0] is 1e+39, too large for float32"),
        ([1.0], ValueError, "sample_weight must have shape (2,), got (1,)"),
        ([[1.0], [2.0]], ValueError, "sample_weight must have shape (2,), got (2, 1)"),
        (["a", "b"], TypeError, "sample_weight must hold real numbers"),
    ],
)
def test_bad_sample_weights_are_named(weights, error, message):
    with pytest.raises(error, match=re.escape(message)):
        check.check_sample_weight(weights, 2)
