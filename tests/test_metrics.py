"""Metrics against their definitions, written out sample by sample."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from slide import metrics

# Oracles: labels is a list of sets, ids a list of lists -----------------------------------------


def plain_precision(labels, ids, k):
    return sum(len(set(row[:k]) & true) / k for true, row in zip(labels, ids, strict=True)) / len(
        ids
    )


def plain_ndcg(labels, ids, k):
    total = 0.0
    for true, row in zip(labels, ids, strict=True):
        dcg = sum(1 / math.log2(r + 1) for r, i in enumerate(row[:k], 1) if i in true)
        best = sum(1 / math.log2(r + 1) for r in range(1, min(k, len(true)) + 1))
        total += dcg / best if best else 0.0
    return total / len(ids)


def plain_propensities(labels, n_labels, A, B):
    C = max(math.log(len(labels)) - 1, 0) * (B + 1) ** A
    counts = [sum(i in true for true in labels) for i in range(n_labels)]
    return [1 / (1 + C * (n + B) ** -A) for n in counts]


def plain_psp(labels, ids, k, p):
    reached = best = 0.0
    for true, row in zip(labels, ids, strict=True):
        reached += sum(1 / p[i] for i in row[:k] if i in true)
        best += sum(sorted((1 / p[i] for i in true), reverse=True)[:k])
    return reached / best if best else 0.0


def indicator(labels, n_labels):
    Y = np.zeros((len(labels), n_labels), np.float32)
    for row, true in enumerate(labels):
        Y[row, list(true)] = 1
    return Y


@st.composite
def predictions(draw):
    n_labels = draw(st.integers(1, 12))
    k = draw(st.integers(1, 6))
    labels = draw(st.lists(st.sets(st.integers(0, n_labels - 1)), min_size=1, max_size=8))
    ids = []
    for _ in labels:
        row = draw(st.permutations(range(n_labels)))
        row = [i if draw(st.integers(0, 4)) else -1 for i in row][: k + 1]
        ids.append(row + [-1] * (k + 1 - len(row)))
    return labels, ids, n_labels, k


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(predictions(), st.integers(0, 2**32 - 1))
def test_metrics_equal_their_definitions(data, seed):
    labels, ids, n_labels, k = data
    Y = indicator(labels, n_labels)
    p = np.random.default_rng(seed).uniform(0.01, 1, n_labels)
    expected = (plain_precision(labels, ids, k), plain_ndcg(labels, ids, k),
                plain_psp(labels, ids, k, p))  # fmt: skip
    for form in (
        Y,
        sparse.csr_matrix(Y),
        sparse.csr_array(Y),
        sparse.coo_matrix(Y),
        Y.astype(bool),
    ):
        for form_of_ids in (ids, np.array(ids, np.int32), np.array(ids)):
            got = (
                metrics.precision_at_k(form, form_of_ids, k),
                metrics.ndcg_at_k(form, form_of_ids, k),
                metrics.psp_at_k(form, form_of_ids, k, p),
            )
            assert got == pytest.approx(expected, abs=1e-12)
            assert all(type(value) is float for value in got)
    agree = [(row[0] == 0) == bool(own) for own, row in zip(labels, ids, strict=True)]
    expected = plain_precision(labels, ids, 1) if n_labels > 1 else np.mean(agree)
    assert metrics.accuracy(Y, ids) == pytest.approx(expected)


@settings(deadline=None)
@given(predictions())
def test_classes_are_single_labels(data):
    labels, ids, n_labels, k = data
    y = np.array([len(true) % n_labels for true in labels])
    single = [{int(i)} for i in y]
    p = np.linspace(0.1, 1, n_labels)
    assert metrics.precision_at_k(y, ids, k) == pytest.approx(plain_precision(single, ids, k))
    assert metrics.ndcg_at_k(y, ids, k) == pytest.approx(plain_ndcg(single, ids, k))
    assert metrics.psp_at_k(y, ids, k, p) == pytest.approx(plain_psp(single, ids, k, p))
    assert metrics.accuracy(y, ids) == pytest.approx(
        np.mean([row[0] == i for row, i in zip(ids, y, strict=True)])
    )


def test_worked_example():
    Y = sparse.csr_matrix([[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    ids = np.array([[0, 2, 1], [2, 3, -1], [0, 1, 2]])
    assert metrics.accuracy(Y, ids) == pytest.approx(1 / 3)
    assert metrics.precision_at_k(Y, ids, 3) == pytest.approx((2 + 1 + 0) / 9)
    first = (1 + 0.5) / (1 + 1 / math.log2(3))
    assert metrics.ndcg_at_k(Y, ids, 3) == pytest.approx((first + 1 / math.log2(3) + 0) / 3)
    p = [0.5, 0.25, 1, 0.1]
    assert metrics.psp_at_k(Y, ids, 1, p) == pytest.approx(2 / (4 + 10))
    assert metrics.psp_at_k(Y, ids, 3, p) == pytest.approx(1.0)


def test_perfect_and_hopeless_predictions():
    Y = np.eye(4)[:, [1, 0, 3, 2]]
    best = np.argmax(Y, axis=1)[:, None]
    for name in ("accuracy", "precision@1", "ndcg@1", "psp@1"):
        metric = metrics.get(name)
        if hasattr(metric, "prepare"):
            metric.prepare(Y)
        assert metric(Y, best) == pytest.approx(1)
        assert metric(Y, np.full((4, 1), -1)) == 0
        assert metric(Y, (best + 1) % 4) == 0


def test_samples_without_labels_count_as_zero():
    Y, ids = np.array([[0, 1], [0, 0]]), np.array([[1], [1]])
    assert metrics.precision_at_k(Y, ids, 1) == 0.5
    assert metrics.ndcg_at_k(Y, ids, 1) == 0.5
    assert metrics.psp_at_k(Y, ids, 1, [1, 1]) == 1
    none = np.zeros((2, 2))
    assert metrics.precision_at_k(none, ids, 1) == 0
    assert metrics.ndcg_at_k(none, ids, 1) == 0
    assert metrics.psp_at_k(none, ids, 1, [1, 1]) == 0


def test_labels_in_any_form_of_csr():
    # Unsorted and duplicate columns, and an explicit zero, which is no label.
    Y = sparse.csr_matrix((np.float32([1, 1, 0, 1]), [3, 1, 2, 3], [0, 4]), shape=(1, 5))
    assert metrics.precision_at_k(Y, [[3, 2, 1]], 3) == pytest.approx(2 / 3)
    assert Y.indices.tolist() == [3, 1, 2, 3]  # the caller's matrix is as it was


def test_accuracy_of_a_single_column_is_that_of_its_threshold():
    ids = [[0], [-1], [0], [-1]]
    for Y in ([[1], [0], [0], [1]], [[0.9], [0.1], [0.5], [0.6]]):
        for form in (Y, sparse.csr_array(np.array(Y))):
            assert metrics.accuracy(form, ids) == 0.5
    assert metrics.precision_at_k([[1], [0], [0], [1]], ids) == 0.25
    assert metrics.accuracy([0, 0, 0, 0], ids) == 0.5  # classes


def test_accuracy_of_soft_targets_is_that_of_the_largest():
    Y = np.array([[0.1, 0.8, 0.1], [0.4, 0.2, 0.4], [0.0, 0.0, 0.0], [0.3, 0.2, 0.5]])
    for form in (Y, sparse.csr_matrix(Y), sparse.csr_matrix(Y.astype(np.float32))):
        assert metrics.accuracy(form, [[1], [2], [0], [0]]) == 0.5
        assert metrics.accuracy(form, [[0], [1], [2], [-1]]) == 0
        assert metrics.precision_at_k(form, [[1], [2], [0], [0]]) == 0.75


@pytest.mark.parametrize(
    ("metric", "units", "activation", "message"),
    [
        ("P@4", 3, "softmax", r"metrics\[0\], precision@4 of 3 outputs: k=4 must be at most 3"),
        ("P@2", 1, "sigmoid", r"metrics\[0\], precision@2 of one output: there is nothing to rank"),
        ("P@1", 1, "sigmoid", "precision@1 of one output: there is nothing to rank"),
        ("ndcg@1", 1, "sigmoid", "nothing to rank"),
        ("psp@1", 1, "sigmoid", "nothing to rank"),
        ("accuracy", 1, "linear", "activation 'linear' instead of 'sigmoid'"),
        ("accuracy", 1, "softmax", "activation 'softmax' instead of 'sigmoid'"),
        (metrics.PSPAtK(1, [0.5, 0.5]), 3, "softmax", "psp@1: propensities has 2 entries.* of 3"),
    ],
)
def test_metrics_without_a_meaning_for_the_output(metric, units, activation, message):
    with pytest.raises(ValueError, match=message):
        metrics.check_output("metrics[0]", metrics.get(metric), units, activation)


@pytest.mark.parametrize("B", [0.0, -1.0, np.inf])
def test_propensities_need_a_positive_b(B):
    with pytest.raises(ValueError, match="B must be"):
        metrics.PSPAtK(B=B)


def test_ids_past_2_to_the_31_rows_times_labels():
    n, width = 3000, 2**30
    Y = sparse.csr_matrix(
        (np.ones(n, np.float32), np.arange(n) * 7, np.arange(n + 1)), shape=(n, width)
    )
    ids = (np.arange(n) * 7).astype(np.int32)[:, None]
    assert metrics.accuracy(Y, ids) == 1
    assert metrics.accuracy(Y, np.roll(ids, 1)) == 0


def test_more_rows_than_labels_do_not_collide():
    # -1 in one row must not be the last label of the row before, nor the first of the next.
    Y = np.array([[0, 0, 1], [0, 0, 0], [1, 0, 0]])
    assert metrics.precision_at_k(Y, [[-1], [-1], [-1]], 1) == 0


# Propensities -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("A", "B"), [(0.55, 1.5), (0.5, 0.4), (0.6, 2.6)])
def test_propensities(A, B):
    rng = np.random.default_rng(3)
    Y = sparse.random(200, 30, 0.1, "csr", random_state=rng)
    labels = [set(Y[i].indices.tolist()) for i in range(200)]
    got = metrics.propensities(Y, A, B)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, plain_propensities(labels, 30, A, B))
    order = np.argsort(np.bincount(Y.indices, minlength=30), kind="stable")
    assert (np.diff(got[order]) >= 0).all()  # the commoner, the likelier to be recorded


def test_propensities_defaults_and_small_sets():
    y = np.array([0, 0, 2, 2, 2])
    labels = [{int(i)} for i in y]
    np.testing.assert_allclose(metrics.propensities(y), plain_propensities(labels, 3, 0.55, 1.5))
    assert metrics.propensities([0, 1]).tolist() == [1, 1]  # ln 2 < 1
    with pytest.raises(ValueError, match="Y_train has no samples"):
        metrics.propensities(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="A must be finite, got nan"):
        metrics.propensities(y, A=math.nan)
    with pytest.raises(ValueError, match=r"B must be greater than 0, got -1\.5"):
        metrics.propensities(y, B=-1.5)


# Objects and names ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "canonical", "k"),
    [
        ("accuracy", metrics.Accuracy, "accuracy", 1),
        ("Accuracy", metrics.Accuracy, "accuracy", 1),
        ("precision@1", metrics.PrecisionAtK, "precision@1", 1),
        ("P@3", metrics.PrecisionAtK, "precision@3", 3),
        ("p@10", metrics.PrecisionAtK, "precision@10", 10),
        ("nDCG@5", metrics.NDCGAtK, "ndcg@5", 5),
        ("PSP@5", metrics.PSPAtK, "psp@5", 5),
    ],
)
def test_names(name, kind, canonical, k):
    metric = metrics.get(name)
    assert type(metric) is kind
    assert metric.name == canonical
    assert metric.k == k
    assert isinstance(metric, metrics.Metric)
    assert metrics.get(metric) is metric
    assert repr(metric) == repr(type(metric)(**metric.get_config()))
    assert metrics.get(metric.name).get_config() == metric.get_config()


def test_objects_equal_functions():
    rng = np.random.default_rng(0)
    Y = sparse.random(50, 20, 0.2, "csr", random_state=rng)
    ids = np.argsort(rng.random((50, 20)), axis=1)[:, :6].astype(np.int32)
    p = metrics.propensities(Y, 0.6, 2.6)
    assert metrics.Accuracy()(Y, ids) == metrics.accuracy(Y, ids)
    assert metrics.PrecisionAtK(4)(Y, ids) == metrics.precision_at_k(Y, ids, 4)
    assert metrics.NDCGAtK(4)(Y, ids) == metrics.ndcg_at_k(Y, ids, 4)
    assert metrics.PSPAtK(4, p)(Y, ids) == metrics.psp_at_k(Y, ids, 4, p)
    assert metrics.PSPAtK(4, A=0.6, B=2.6).prepare(Y)(Y, ids) == metrics.psp_at_k(Y, ids, 4, p)
    assert metrics.PSPAtK(4, p).prepare(Y * 0)(Y, ids) == metrics.psp_at_k(Y, ids, 4, p)
    again = metrics.PSPAtK(**metrics.PSPAtK(4, p).get_config())
    assert again(Y, ids) == metrics.psp_at_k(Y, ids, 4, p)


def test_an_own_metric():
    class Coverage:
        name = "coverage"
        k = 2

        def __call__(self, Y, ids):
            return len(np.unique(ids)) / Y.shape[1]

    metric = Coverage()
    assert metrics.get(metric) is metric


KNOWN = r"'accuracy', 'precision@k' \(or 'P@k'\), 'ndcg@k' and 'psp@k'"


@pytest.mark.parametrize("name", ["recall@5", "precision", "P@0", "P@x", "P@-1", "", "accuracy@1"])
def test_unknown_names(name):
    with pytest.raises(
        ValueError, match=f"unknown metric {re.escape(repr(name))}; known are {KNOWN}"
    ):
        metrics.get(name)


@pytest.mark.parametrize("thing", [3, None, metrics.Accuracy, metrics.accuracy])
def test_no_metrics(thing):
    with pytest.raises(TypeError, match=f"a metric must be a name \\({KNOWN}.*not "):
        metrics.get(thing)


# Bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("Y", "ids", "k", "message"),
    [
        (np.eye(3), [[0], [1]], 1, "ids has 2 rows and Y has 3"),
        (np.eye(2), [[0], [1]], 2, "ids has 1 columns, but k is 2"),
        (np.eye(2), [0, 1], 1, "ids must have 2 dimensions, not 1"),
        (np.eye(2), [[0.0], [1.0]], 1, "ids must hold integers, not float64"),
        (np.eye(2), [[0], [2]], 1, "ids[1, 0] = 2 is no label and not -1"),
        (np.eye(2), [[0, 1], [1, -2]], 2, "ids[1, 1] = -2 is no label and not -1"),
        (np.eye(3), [[0, 1], [1, 2], [2, 2]], 2, "row 2 of ids names label 2 twice"),
        (np.zeros((0, 2)), np.zeros((0, 1), int), 1, "there are no samples to measure"),
        (np.eye(2)[None], [[0], [1]], 1, "Y must have 1 or 2 dimensions, not 3"),
        ([0.5, 1], [[0], [1]], 1, "Y of one dimension must hold integers, not float64"),
        ([0, -1], [[0], [1]], 1, "Y[1] = -1 is negative"),
        (np.eye(2), [[0], [1]], 0, "k must be at least 1, not 0"),
    ],
)
def test_bad_input(Y, ids, k, message):
    for metric in (metrics.precision_at_k, metrics.ndcg_at_k, metrics.psp_at_k):
        with pytest.raises(ValueError, match=re.escape(message)):
            metric(Y, ids, k)


def test_several_missing_predictions_are_no_repetition():
    assert metrics.precision_at_k([[1, 0]], [[0, -1, -1]], 3) == pytest.approx(1 / 3)


def test_bad_k():
    with pytest.raises(TypeError, match=r"k must be an integer, not 1\.5"):
        metrics.PrecisionAtK(1.5)
    with pytest.raises(TypeError, match="k must be an integer, not True"):
        metrics.NDCGAtK(True)
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        metrics.PSPAtK(0)


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (None, "psp_at_k needs the labels' propensities"),
        ([1.0], "propensities has 1 entries, but Y has 2 labels"),
        ([1.0, 0.0], "propensities[1] = 0.0 is not a positive number"),
        ([math.nan, 1], "propensities[0] = nan is not a positive number"),
        ([[1.0, 1.0]], "propensities must have 1 dimension, not 2"),
    ],
)
def test_bad_propensities(p, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        metrics.psp_at_k(np.eye(2), [[0], [1]], 1, p)


def test_propensities_of_classes_may_be_short():
    assert metrics.psp_at_k([0, 1], [[0], [5]], 1, [0.5, 0.5]) == 0.5
    with pytest.raises(ValueError, match="propensities has 1 entries, but Y names label 1"):
        metrics.psp_at_k([0, 1], [[0], [1]], 1, [0.5])


def test_psp_needs_preparing():
    with pytest.raises(ValueError, match=r"psp@5 needs propensities: call prepare\(Y_train\)"):
        metrics.PSPAtK(5)(np.eye(5), np.zeros((5, 5), int) + np.arange(5))


@pytest.mark.parametrize("layout", ["csr", "csc", "coo"])
def test_sparse_labels_are_looked_at_before_scipy_reads_them(layout):
    Y = sparse.coo_matrix(([1.0, 1.0], ([0, 1], [1, 2])), shape=(2, 3)).asformat(layout)
    if layout == "coo":
        Y.row[1] = 10**8
    else:
        Y.indices[1] = 10**8
    for measure in (lambda: metrics.precision_at_k(Y, [[0], [1]]), lambda: metrics.propensities(Y)):
        with pytest.raises(ValueError, match=r"Y(_train)?\.\w+\[1\] is 100000000"):
            measure()


def test_masked_and_ragged():
    masked = np.ma.masked_array([[1, 0], [0, 1]], mask=[[0, 0], [0, 1]])
    with pytest.raises(TypeError, match="Y is a masked array"):
        metrics.precision_at_k(masked, [[0], [1]], 1)
    with pytest.raises(TypeError, match="ids is a masked array"):
        metrics.precision_at_k([[1, 0], [0, 1]], masked, 1)
    with pytest.raises(ValueError, match="Y is not a rectangular array"):
        metrics.precision_at_k([[1, 0], [0]], [[0], [1]], 1)


def test_propensities_that_are_none():
    with pytest.raises(ValueError, match=r"A=-1000\.0 and B=1\.5: propensities"):
        metrics.propensities([0] * 10, A=-1e3)
    for bad in ("x", None, [1, 2], True):
        with pytest.raises(TypeError, match="A must be"):
            metrics.propensities([0] * 10, A=bad)
    # As the formula is printed, where that does not overflow.
    n, A, B = np.array([4, 3, 0, 2]), 0.6, 2.6
    C = (np.log(9) - 1) * (B + 1) ** A
    y = np.repeat(np.arange(4), n)
    found = metrics.propensities(np.eye(4)[y], A, B)
    np.testing.assert_allclose(found, 1 / (1 + C * (n + B) ** -A), rtol=1e-12)
