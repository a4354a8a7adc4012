"""The index of largest inner products: queries, changes, files; predictions through one."""

import copy
import json
import pickle
import threading

import numpy as np
import pytest
import scipy.sparse as sp
from safetensors.numpy import load_file, save_file

import slide
from slide import hashing, sampling, saving
from slide.hashing import Index
from slide.hashing.index import NotFittedError

FAMILIES = [
    hashing.Sketches(n_components=16),
    hashing.Sketches(n_components=16, n_cells=64, n_probes=4, candidates=0.5),
    hashing.Clusters(n_cells=20),
    hashing.Clusters(n_cells=64, n_groups=8, n_tables=2, n_probes=3),
    hashing.SimHash(n_bits=5, n_tables=10),
    hashing.SimHash(n_bits=5, n_tables=4, transform="sign_alsh", n_probes=4),
    hashing.E2LSH(),
    hashing.DWTA(n_bins=2),
    hashing.WTA(n_functions=4, n_bins=2),
    hashing.MinHash(),
    hashing.CrossPolytope(),
]
each_family = pytest.mark.parametrize("family", FAMILIES, ids=repr)


def whole_numbers(n, m, d, seed=0):
    """Rows, queries and biases whose products are exact in float32, with many ties."""
    rng = np.random.default_rng(seed)
    return (
        rng.integers(-3, 4, (n, d)).astype(np.float32),
        rng.integers(-3, 4, (m, d)).astype(np.float32),
        rng.integers(-3, 4, n).astype(np.float32),
    )


def clustered(n, m, d, seed=0):
    """Rows around centers, and queries around the same centers with a mean far from 0."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(n // 40, d)) * np.geomspace(2, 0.2, d)
    rows = centers[rng.integers(len(centers), size=n)] + 0.3 * rng.normal(size=(n, d))
    queries = centers[rng.integers(len(centers), size=m)] + 0.3 * rng.normal(size=(m, d)) + 0.3
    return rows.astype(np.float32), queries.astype(np.float32)


def brute_force(W, X, k, bias=0.0, labels=None):
    """Labels and scores by a full sort; of equals the smaller label first."""
    z = X.astype(np.float64) @ W.astype(np.float64).T + bias
    labels = np.arange(len(W)) if labels is None else np.asarray(labels)
    order = np.lexsort((np.broadcast_to(labels, z.shape), -z), axis=1)[:, :k]
    return labels[order], np.take_along_axis(z, order, axis=1)


def assert_same(found, wanted):
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_array_equal(found[1], wanted[1])


# ------------------------------------------------------------------------------- queries


@each_family
@pytest.mark.parametrize("k", [1, 7, 300])
def test_with_all_rows_as_candidates_it_is_exact(family, k):
    W, X, bias = whole_numbers(300, 20, 9)
    labels = np.random.default_rng(1).permutation(1000)[:300]
    index = Index(family, n_candidates=1.0).fit(W, bias, labels)
    wanted = brute_force(W, X, k, bias, labels)
    assert_same(index.query(X, k), wanted)
    assert_same(index.exact(X, k), wanted)
    assert index.n_products == 300 * 9
    assert index.recall(X, k) == 1


@each_family
def test_candidates_are_ranked_by_their_true_products(family):
    W, X, bias = whole_numbers(1000, 30, 12)
    index = Index(family, n_candidates=100, n_jobs=2).fit(W, bias, X_sample=X)
    ids, scores = index.query(X, 5)
    assert ids.dtype == np.int32
    assert scores.dtype == np.float32
    assert ids.shape == scores.shape == (30, 5)
    z = X @ W.T + bias
    np.testing.assert_array_equal(scores, np.take_along_axis(z, ids, axis=1))
    assert all(len(set(row)) == 5 for row in ids)
    pairs = [list(zip(-s, i, strict=True)) for s, i in zip(scores, ids, strict=True)]
    assert pairs == [sorted(row) for row in pairs]


@each_family
def test_threads_and_neighbours_in_the_batch_do_not_matter(family):
    W, X = clustered(2000, 40, 16)
    one = Index(family, n_candidates=60, random_state=3, n_jobs=1).fit(W, X_sample=X)
    two = Index(family, n_candidates=60, random_state=3, n_jobs=2).fit(W, X_sample=X)
    found = one.query(X, 4)
    assert_same(two.query(X, 4), found)
    products = one.n_products
    assert two.n_products == products
    one_by_one = [one.query(X[i : i + 1], 4) for i in range(len(X))]
    assert_same([np.concatenate(part) for part in zip(*one_by_one, strict=True)], found)


def test_seeds_draw_other_functions():
    W, X = clustered(2000, 40, 16)
    family = hashing.SimHash(8, 4)
    seeds = (None, 0, 0, 7)
    found = [Index(family, 50, seed).fit(W).query(X, 20)[0] for seed in seeds]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[1], found[2])
    assert (found[2] != found[3]).any()


@pytest.mark.parametrize(
    ("family", "n_candidates", "least"),
    [
        (hashing.Sketches(16), 0.02, 0.99),
        (hashing.Clusters(n_cells=100), 0.10, 0.9),
        (hashing.SimHash(6, 20), 0.20, 0.9),
    ],
)
def test_recall_of_clustered_rows(family, n_candidates, least):
    W, X = clustered(4000, 200, 32)
    index = Index(family, n_candidates).fit(W, X_sample=X)
    recall = index.recall(X, 10)
    best = brute_force(W, X, 10)[0]
    overlap = np.mean([len(set(a) & set(b)) for a, b in zip(best, index.query(X)[0], strict=True)])
    assert recall == pytest.approx(overlap / 10, abs=1e-3)
    assert least <= recall
    # Candidates are few, and that is what the recall is of.
    index.n_candidates = 10
    assert index.recall(X, 10) < recall
    assert index.n_products >= 10 * 32


def test_a_sample_of_queries_makes_sketches_better():
    W, X = clustered(4000, 200, 32)
    X += 2
    plain, seen = (
        Index(hashing.Sketches(16), 40).fit(W, X_sample=sample).recall(X, 10)
        for sample in (None, X[:50])
    )
    assert seen > plain


@pytest.mark.parametrize(
    "family", [hashing.SimHash(16, 1), hashing.Clusters(50, n_groups=25, n_probes=1)], ids=repr
)
def test_tables_that_return_too_few_are_not_the_last_word(family):
    W, X, bias = whole_numbers(500, 20, 12)
    index = Index(family, n_candidates=1).fit(W, bias)
    ids, scores = index.query(X, 400)
    assert_same((ids, scores), brute_force(W, X, 400, bias))


def test_a_query_in_no_bucket():
    W, _, _ = whole_numbers(500, 20, 12)
    index = Index(hashing.MinHash(top_k=3), n_candidates=5).fit(W)
    zero = np.zeros((1, 12))
    assert_same(index.query(zero, 3), ([[0, 1, 2]], [[0, 0, 0]]))


def test_the_default_family_and_numbers_of_candidates():
    W, X = clustered(4000, 50, 16)
    index = Index().fit(W)
    assert index.family == "auto"
    assert index.family_.n_components == 16
    assert index.family_.get_config() == Index().fit(W[:300]).family_.get_config()
    assert Index().fit(np.ones((100, 40))).family_.n_components == 32
    assert index.recall(X) > 0.95
    index.query(X, 10)
    few = index.n_products
    index.query(X, 200)
    assert index.n_products - few >= (800 - 256) * 16
    assert Index("clusters").family.n_tables == 1


def test_sparse_rows_and_queries():
    W, X, bias = whole_numbers(200, 10, 30)
    W[np.random.default_rng(0).random(W.shape) < 0.8] = 0
    W[7] = 0
    wanted = Index(n_candidates=50).fit(W, bias).query(X, 5)
    index = Index(n_candidates=50).fit(sp.csr_matrix(W), bias, X_sample=None)
    assert_same(index.query(sp.csr_matrix(X), 5), wanted)
    assert_same(index.query(X, 5), wanted)
    assert_same(index.exact(sp.coo_matrix(X), 5), brute_force(W, X, 5, bias))
    sampled = Index(n_candidates=50).fit(W, bias, X_sample=X).query(X, 5)
    assert_same(Index(n_candidates=50).fit(W, bias, X_sample=sp.csr_array(X)).query(X, 5), sampled)


@each_family
def test_one_column(family):
    W = np.array([[3.0], [-1.0], [0.0], [2.0]])
    index = Index(family).fit(W)
    np.testing.assert_array_equal(index.query([[2.0], [-2.0]], 2)[0], [[0, 3], [1, 2]])


def test_one_row():
    index = Index(n_candidates=5).fit([[1.0, 2.0]], [0.5], [9])
    assert_same(index.query([[1.0, 1.0]], 1), ([[9]], [[3.5]]))


def test_no_queries():
    index = Index().fit(np.eye(3))
    for ids, scores in (index.query(np.empty((0, 3)), 2), index.exact(np.empty((0, 3)), 2)):
        assert ids.shape == scores.shape == (0, 2)
    with pytest.raises(ValueError, match="X has no rows"):
        index.recall(np.empty((0, 3)), 2)


def test_queries_of_several_threads():
    W, X = clustered(2000, 100, 16)
    index = Index(n_candidates=30).fit(W)
    wanted = index.query(X, 5)
    wrong = []

    def ask():
        for _ in range(5):
            found = index.query(X, 5)
            if not all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True)):
                wrong.append(found)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_arrays_of_the_caller_stay_theirs():
    W, X, bias = whole_numbers(50, 5, 8)
    labels = np.arange(50)
    index = Index().fit(W, bias, labels)
    wanted = brute_force(W, X, 5, bias)
    W[:], bias[:], labels[:] = 0, 0, 0
    index.labels_[:] = 0
    assert_same(index.query(X, 5), wanted)


# ------------------------------------------------------------------- rows come and go


@each_family
@pytest.mark.parametrize("seed", range(2))
def test_after_changes_it_is_as_if_fitted_with_what_is_there(family, seed):
    rng = np.random.default_rng(seed)
    W, X, bias = whole_numbers(4000, 10, 6, seed)
    index = Index(family, n_candidates=1.0).fit(W[:100], bias[:100])
    there, n = set(range(100)), 100
    for _ in range(12):
        if rng.random() < 0.5 and n < 2400:
            # Enough of the larger ones make tables anew.
            more = int(rng.choice([0, 1, 5, 800]))
            new = index.insert(W[n : n + more], bias=bias[n : n + more])
            np.testing.assert_array_equal(new, np.arange(n, n + more))
            there |= set(range(n, n + more))
            n += more
        elif len(there) > 20:
            gone = rng.choice(sorted(there), int(len(there) * rng.choice([0.1, 0.6])), False)
            index.remove(gone)
            there -= set(gone.tolist())
        labels = np.array(sorted(there))
        assert index.n_rows == len(labels)
        np.testing.assert_array_equal(index.labels_, labels)
        wanted = brute_force(W[labels], X, 10, bias[labels], labels)
        assert_same(index.query(X, 10), wanted)
        assert_same(index.exact(X, 10), wanted)
    fresh = Index(family, n_candidates=1.0).fit(W[labels], bias[labels], labels)
    assert_same(index.query(X, 10), fresh.query(X, 10))


@each_family
def test_few_candidates_after_changes(family):
    """What is removed is never returned, and what is inserted is found at once."""
    W, X = clustered(3000, 30, 16)
    index = Index(family, n_candidates=0.1).fit(W[:2000], X_sample=X)
    best = index.query(X, 10)[0]
    gone = np.unique(best)
    index.remove(gone)
    after = index.query(X, 10)[0]
    assert not np.isin(after, gone).any()
    assert (after >= 0).all()
    index.insert(W[gone] + 0.0, labels=gone)
    _, scores = index.query(X, 10)
    assert (scores[:, 0] >= (X @ W[gone].T).max(axis=1) * (1 - 1e-5)).all()
    new = index.insert(W[2000:])
    np.testing.assert_array_equal(new, np.arange(2000, 3000))
    assert (index.query(X, 1)[1] >= scores[:, :1]).all()


def test_new_tables_hold_inserted_rows():
    W, X = clustered(6000, 50, 16)
    index = Index(n_candidates=100).fit(W[:200], X_sample=X)
    index.insert(W[200:1000])
    index.query(X)
    beside = index.n_products
    assert beside >= 800 * 16
    index.insert(W[1000:])
    fresh = Index(n_candidates=100).fit(W, X_sample=X)
    assert_same(index.query(X), fresh.query(X))
    assert index.n_products == fresh.n_products


def test_fewer_rows_than_ranges(tmp_path):
    W, X, _ = whole_numbers(8, 5, 4)
    family = hashing.Transformed(hashing.SimHash(3, 4), "simple_lsh", n_ranges=8)
    index = Index(family).fit(W)
    index.remove(range(5))
    assert_same(index.query(X, 3), brute_force(W[5:], X, 3, labels=[5, 6, 7]))
    index.remove(range(5, 8))
    labels = index.insert(W[:2])
    index.save(tmp_path / "index")
    assert_same(Index.load(tmp_path / "index").query(X, 2), brute_force(W[:2], X, 2, labels=labels))


def test_labels_are_never_used_again_by_themselves():
    index = Index().fit(np.eye(3), labels=[5, 100, 2])
    index.remove(100)
    np.testing.assert_array_equal(index.insert([[1, 1, 1]]), [101])
    index.remove([101])
    np.testing.assert_array_equal(index.insert([[1, 1, 1], [2, 2, 2]]), [102, 103])
    np.testing.assert_array_equal(index.insert([[4, 4, 4]], labels=[100]), [100])
    np.testing.assert_array_equal(index.labels_, [5, 2, 102, 103, 100])
    np.testing.assert_array_equal(index.query([[1, 1, 1]], 2)[0], [[100, 103]])


def test_an_index_may_become_empty():
    index = Index().fit(np.eye(3))
    index.remove([0, 1, 2])
    assert index.n_rows == 0
    assert len(index.labels_) == 0
    for method in (index.query, index.exact, index.recall):
        with pytest.raises(ValueError, match="all rows were removed"):
            method(np.eye(3), 1)
    index.insert([[1.0, 2.0, 3.0]])
    assert_same(index.query([[1.0, 1.0, 1.0]], 1), ([[3]], [[6.0]]))


def test_fit_forgets_what_was_before():
    W, X, bias = whole_numbers(100, 5, 8)
    index = Index().fit(np.eye(3), labels=[7, 8, 9])
    index.insert(np.eye(3))
    assert index.fit(W, bias) is index
    assert index.n_features_in_ == 8
    assert_same(index.query(X, 5), brute_force(W, X, 5, bias))
    np.testing.assert_array_equal(index.insert(W[:1]), [100])


# ---------------------------------------------------------------------------------- files


@pytest.mark.parametrize("X_sample", [np.zeros((0, 4)), sp.csr_array((0, 4))], ids=["dense", "csr"])
def test_a_sample_without_queries_is_none(tmp_path, X_sample):
    index = Index().fit(np.eye(4), X_sample=X_sample)
    index.save(tmp_path / "index")
    ids, _ = Index.load(tmp_path / "index").query(np.eye(4), k=1)
    assert ids.ravel().tolist() == [0, 1, 2, 3]


@each_family
def test_a_loaded_index_answers_and_goes_on_alike(family, tmp_path):
    W, X = clustered(2000, 20, 16)
    labels = np.random.default_rng(0).permutation(5000)[:1500]
    index = Index(family, n_candidates=80, random_state=5).fit(W[:1500], labels=labels, X_sample=X)
    index.insert(W[1500:1600])
    index.remove(labels[:50])
    index.save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index", n_jobs=2)
    assert repr(loaded) == repr(index).replace("n_jobs=None", "n_jobs=2")
    assert_same(loaded.query(X, 10), index.query(X, 10))
    np.testing.assert_array_equal(loaded.labels_, index.labels_)
    new = [i.insert(W[1500:2000]) for i in (index, loaded)]
    np.testing.assert_array_equal(*new)
    gone = index.labels_[200:1400]
    for i in (index, loaded):
        i.remove(gone)  # more than half: new tables, with the same queries' mean
    assert_same(loaded.query(X, 10), index.query(X, 10))


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda i: pickle.loads(pickle.dumps(i))])
def test_copies_share_nothing(way):
    W, X = clustered(500, 20, 16)
    unfitted = way(Index(hashing.SimHash(4, 3), n_candidates=40, random_state=7, n_jobs=1))
    assert (unfitted.n_candidates, unfitted.random_state, unfitted.n_jobs) == (40, 7, 1)
    index = Index(hashing.SimHash(4, 3), n_candidates=40, random_state=7, n_jobs=1).fit(W)
    index.insert(W[:5])
    again = way(index)
    assert again.n_jobs == 1
    assert_same(again.query(X, 5), index.query(X, 5))
    ids, _ = before = index.query(X, 5)
    again.remove(np.unique(ids))
    again.insert(W[:3])
    assert_same(index.query(X, 5), before)
    assert not np.isin(again.query(X, 5)[0], ids).any()


def saved(tmp_path, change):
    """Path of a file whose arrays `change` has altered."""
    W, X = clustered(400, 20, 16)
    index = Index(hashing.Sketches(16, n_cells=8), 40).fit(W, X_sample=X)
    index.insert(W[:3])
    index.remove([4])
    path = tmp_path / "index"
    index.save(path)
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    arrays = load_file(path)
    change(arrays, metadata)
    metadata["sums"] = json.dumps(saving.check_sums(metadata["config"], arrays))
    save_file(arrays, path, metadata)
    return path


def damage(name, value=None, at=None, drop=False):
    def change(arrays, metadata):
        if drop:
            del arrays[name]
        elif at is None:
            arrays[name] = value
        else:
            arrays[name] = arrays[name].copy()
            arrays[name][at] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (damage("rows", drop=True), "rows"),
        (damage("rows", np.zeros((400, 5), np.float32)), "rows have 17 values"),
        (damage("rows", np.zeros((0, 17), np.float32)), "rows with labels"),
        (damage("rows", np.zeros((400, 17))), "float64"),
        (damage("rows", np.nan, (3, 2)), "rows has values that are not finite"),
        (damage("rows", 3e18, (3, 2)), "norm of row 3"),
        (damage("more", np.inf, (1, 0)), "more has values that are not finite"),
        (damage("labels", 7, 8), "labels has 7 more than once"),
        (damage("labels", -1, 8), "labels up to"),
        (damage("labels", 10**6, 8), "labels up to 1000000"),
        (damage("labels", np.zeros(403)), "403"),
        (damage("gone", 2, 0), "not 0 or 1"),
        (damage("gone", np.zeros(10, np.uint8)), "marks"),
        (damage("sample", np.nan, (0, 0)), "sample"),
        (damage("active.functions.basis", np.nan, (0, 0)), "basis"),
        (damage("active.tables.ids", drop=True), "ids"),
    ],
)
def test_damaged_files_are_refused(tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        Index.load(saved(tmp_path, change))


def test_files_that_are_none(tmp_path):
    with pytest.raises(OSError, match="nothing"):
        Index.load(tmp_path / "nothing")
    path = tmp_path / "index"
    path.write_bytes(b"what is this")
    with pytest.raises(ValueError, match="not a readable index file"):
        Index.load(path)
    model = slide.Sequential([slide.Input(3), slide.Dense(2)])
    model.save(path)
    with pytest.raises(ValueError, match="it holds no index of this package"):
        Index.load(path)
    Index().fit(np.eye(3)).save(path)
    with pytest.raises(ValueError, match="it holds no model of this package"):
        slide.load(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a readable index file"):
        Index.load(path)


# ------------------------------------------------------------------------------ bad input


def with_value(value, shape=(5, 4), at=(2, 1)):
    array = np.ones(shape)
    array[at] = value
    return array


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"family": "nothing"}, "hash 'nothing' is unknown"),
        ({"family": 3}, "hash"),
        ({"n_candidates": 0}, "n_candidates"),
        ({"n_candidates": 1.5}, "n_candidates"),
        ({"n_candidates": "many"}, "n_candidates"),
        ({"random_state": -1}, "random_state"),
        ({"random_state": 0.5}, "random_state"),
        ({"n_jobs": 0}, "n_jobs=0"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises((TypeError, ValueError), match=words):
        Index(**arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.ones(4),), r"W must have shape \(n, d\)"),
        ((np.ones((4, 0)),), "d >= 1"),
        ((np.ones((0, 4)),), "W has no rows"),
        ((with_value(np.nan),), r"W\[2, 1\] is nan"),
        ((sp.csr_array(with_value(np.inf)),), r"W\[2, 1\] is inf"),
        ((with_value(1e30),), "norm of row 2 is"),
        ((np.ones((5, 4)), np.ones(4)), r"bias must have shape \(5,\)"),
        ((np.ones((5, 4)), [0, 0, np.nan, 0, 0]), "bias"),
        ((np.ones((5, 4)), [0, 0, 1e20, 0, 0]), "norm of row 2"),
        ((np.ones((5, 4)), None, [1, 2, 3]), r"labels must have shape \(5,\)"),
        ((np.ones((5, 4)), None, [1, 2, 3, 2, 4]), "labels has 2 more than once"),
        ((np.ones((5, 4)), None, [1, 2, 3, -2, 4]), r"labels\[3\] is -2"),
        ((np.ones((5, 4)), None, [1, 2, 3, 2**31, 4]), "must be in"),
        ((np.ones((5, 4)), None, [1.0, 2, 3, 5, 4]), "labels must be integers"),
        ((np.ones((5, 4)), None, None, np.ones((2, 3))), "X_sample"),
        ((np.ones((5, 4)), None, None, with_value(np.nan)), r"X_sample\[2, 1\]"),
    ],
)
def test_bad_rows_change_nothing(arguments, words):
    index = Index().fit(np.eye(3))
    with pytest.raises((TypeError, ValueError), match=words):
        index.fit(*arguments)
    assert index.n_features_in_ == 3
    np.testing.assert_array_equal(index.query(np.eye(3), 1)[0], [[0], [1], [2]])


def test_bad_queries():
    index = Index().fit(np.eye(4))
    for X, k, words in [
        (np.ones((2, 3)), 1, "X must have n_features=4"),
        (np.ones(4), 1, "X must"),
        (with_value(np.nan), 1, r"X\[2, 1\] is nan"),
        (with_value(1e25), 1, "norm of row 2"),
        (sp.csr_array(with_value(1e25)), 1, "norm of row 2"),
        (np.eye(4), 0, "k must be"),
        (np.eye(4), 5, "k must be between 1 and 4, got 5"),
        (np.eye(4), 2.0, "k must be an integer"),
    ]:
        for method in (index.query, index.exact, index.recall):
            with pytest.raises((TypeError, ValueError), match=words):
                method(X, k)


def test_bad_changes_change_nothing():
    index = Index().fit(np.eye(4))
    for arguments, words in [
        ((np.ones((2, 3)),), "W must have n_features=4"),
        ((with_value(np.nan),), r"W\[2, 1\] is nan"),
        ((np.ones((2, 4)), [9, 9]), "labels has 9 more than once"),
        ((np.ones((2, 4)), [9, 3]), "label 3 is there already"),
        ((np.ones((2, 4)), [9]), "labels must have shape"),
        ((np.ones((2, 4)), None, [1.0]), "bias"),
    ]:
        with pytest.raises(ValueError, match=words):
            index.insert(*arguments)
    for labels, error, words in [
        ([1, 4], KeyError, "no row has label 4"),
        ([-1], KeyError, "no row has label -1"),
        ([1, 2, 1], ValueError, "labels has 1 more than once"),
        ([1.0], TypeError, "labels must be integers"),
        ([[1, 2]], ValueError, "labels must be a vector"),
    ]:
        with pytest.raises(error, match=words):
            index.remove(labels)
    index.remove([])
    np.testing.assert_array_equal(index.labels_, [0, 1, 2, 3])
    np.testing.assert_array_equal(index.insert(np.ones((1, 4))), [4])


def test_before_fit(tmp_path):
    index = Index()
    for ask in (
        lambda: index.query(np.eye(3)),
        lambda: index.exact(np.eye(3)),
        lambda: index.recall(np.eye(3)),
        lambda: index.insert(np.eye(3)),
        lambda: index.remove([0]),
        lambda: index.save(tmp_path / "index"),
        lambda: index.n_rows,
        lambda: index.labels_,
    ):
        with pytest.raises(NotFittedError, match="call fit first"):
            ask()
    assert issubclass(NotFittedError, ValueError)
    assert issubclass(NotFittedError, AttributeError)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------ predictions


def task(n=1500, n_labels=600, d=24, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(n_labels, d))
    y = rng.integers(n_labels, size=n)
    return (centers[y] + 0.3 * rng.normal(size=(n, d))).astype(np.float32), y


def trained(sampler=None, activation="softmax", hidden=None, **arguments):
    x, y = task()
    model = slide.Sequential(
        [
            slide.Input(24, sparse=False),
            slide.Dense(32, "relu", sampler=hidden),
            slide.Dense(600, activation, sampler=sampler, **arguments),
        ]
    )
    loss = {"softmax": "categorical_crossentropy", "sigmoid": "binary_crossentropy"}
    model.compile(slide.optimizers.Adam(0.01), loss.get(activation, "mean_squared_error"))
    model.fit(x, y, epochs=6, verbose=0)
    return model, x


@pytest.mark.parametrize(
    ("sampler", "hidden", "arguments"),
    [
        (None, None, {}),
        (sampling.Uniform(0.2), None, {}),
        (None, sampling.WinnerTakeAll(0.5), {}),
        (sampling.Uniform(0.2), sampling.WinnerTakeAll(0.5), {}),
        (None, None, {"use_bias": False}),
    ],
    ids=["dense", "uniform", "sparse", "uniform on sparse", "no bias"],
)
def test_predictions_through_an_index_agree_with_exact_ones(sampler, hidden, arguments):
    model, x = trained(sampler, hidden=hidden, **arguments)
    best, p = model.predict(x, top_k=5)
    ids, scores = model.predict(x, top_k=5, exact=False)
    assert ids.dtype == np.int32
    assert scores.dtype == np.float32
    assert np.mean([len(set(a) & set(b)) for a, b in zip(ids, best, strict=True)]) >= 0.95 * 5
    assert (np.diff(scores, axis=1) <= 0).all()
    # Softmax over some neurons: each probability is at least the true one.
    same = ids == best
    assert (scores[same] >= p[same] * (1 - 1e-3)).all()
    again = model.predict(x, top_k=5, exact=False, n_jobs=1, batch_size=32)
    np.testing.assert_array_equal(again[0], ids)


@pytest.mark.parametrize("activation", ["sigmoid", "linear"])
def test_other_activations_are_those_of_the_exact_scores(activation):
    model, x = trained(activation=activation)
    everything = model.predict(x)
    ids, scores = model.predict(x, top_k=3, exact=False)
    wanted = np.take_along_axis(everything, ids, axis=1)
    np.testing.assert_allclose(scores, wanted, rtol=1e-4, atol=1e-6)


def test_softmax_over_all_candidates():
    model, x = trained()
    # So many that all neurons are candidates.
    ids, scores = model.predict(x[:40], top_k=150, exact=False)
    best, p = model.predict(x[:40], top_k=150)
    np.testing.assert_allclose(scores, p, rtol=1e-4)
    np.testing.assert_array_equal(ids[:, :5], best[:, :5])


def test_predictions_follow_the_weights():
    model, x = trained()
    y = task()[1]

    def agreement():
        best, ids = (model.predict(x, top_k=1, exact=exact)[0] for exact in (True, False))
        return (best == ids).mean()

    assert agreement() >= 0.95
    before = model.predict(x, top_k=3, exact=False)
    model.fit(x, (y + 1) % 600, epochs=6, verbose=0)
    assert (model.predict(x, top_k=1, exact=False)[0] != before[0][:, :1]).mean() > 0.5
    assert agreement() >= 0.95
    weights = model.get_weights()
    model.set_weights([*weights[:2], weights[2][:, ::-1], weights[3][::-1]])
    turned = model.predict(x, top_k=1, exact=False)[0]
    model.set_weights(weights)
    assert (turned == 599 - model.predict(x, top_k=1, exact=False)[0]).mean() >= 0.95


def test_a_saved_model_predicts_alike(tmp_path):
    model, x = trained()
    model.save(tmp_path / "model")
    wanted = model.predict(x, top_k=4, exact=False)
    assert_same(slide.load(tmp_path / "model").predict(x, top_k=4, exact=False), wanted)


def test_a_number_of_candidates_asks_an_index_in_place_of_tables():
    model, x = trained("auto")
    best = model.predict(x, top_k=5)[0]

    def hits(**arguments):
        ids = model.predict(x, top_k=5, exact=False, **arguments)[0]
        return np.mean([len(set(a) & set(b)) for a, b in zip(ids, best, strict=True)]) / 5

    assert hits(n_candidates=0.5) >= 0.95
    assert hits(n_candidates=200) >= 0.95
    assert hits(n_candidates=5) < hits(n_candidates=200)
    ids, scores = model.predict(x[:20], top_k=600, exact=False, n_candidates=600)
    np.testing.assert_allclose(scores, model.predict(x[:20], top_k=600)[1], rtol=1e-4, atol=1e-12)
    assert all(len(set(row)) == 600 for row in ids)
    for arguments, words in [
        ({"exact": False, "n_candidates": 0}, "n_candidates must be"),
        ({"exact": False, "n_candidates": 1.5}, "n_candidates must be"),
        ({"exact": False, "n_candidates": 2**63}, "n_candidates must be"),
        ({"n_candidates": 10}, "n_candidates=10 needs exact=False"),
    ]:
        with pytest.raises(ValueError, match=words):
            model.predict(x, top_k=5, **arguments)


def test_predictions_of_no_rows():
    model, x = trained()
    ids, _ = model.predict(x[:0], top_k=4, exact=False)
    assert ids.shape == (0, 4)


def test_an_output_layer_on_sparse_features_has_no_rows_to_search():
    model = slide.Sequential([slide.Input(5, sparse=True), slide.Dense(4)])
    with pytest.raises(ValueError, match="sparse features as its input"):
        model.predict(np.eye(5), top_k=2, exact=False)
    model = slide.Sequential([slide.Input(5, sparse=False), slide.Dense(4)])
    wanted = model.predict(np.eye(5), top_k=2)
    np.testing.assert_array_equal(model.predict(np.eye(5), top_k=2, exact=False)[0], wanted[0])


def test_queries_of_fit_belong_to_the_caller(tmp_path):
    W, X = clustered(3000, 40, 16)
    sample = X.astype(np.float32)
    index = Index(hashing.Sketches(16), n_candidates=50).fit(W[:2000], X_sample=sample)
    same = Index(hashing.Sketches(16), n_candidates=50).fit(W[:2000], X_sample=sample.copy())
    sample[:] = np.nan
    for one in (index, same):
        one.insert(W[2000:])
    assert_same(index.query(X), same.query(X))
    index.save(tmp_path / "i")
    assert_same(Index.load(tmp_path / "i").query(X), same.query(X))


def test_fit_by_another_thread_with_other_columns():
    index = Index().fit(np.eye(5))

    class Rows:
        """What another thread does while an argument is being read."""

        def __array__(self, dtype=None, copy=None):
            index.fit(np.eye(7))
            return np.ones((1, 5), np.float32)

    for call in (index.insert, index.query, index.exact):
        index.fit(np.eye(5))
        with pytest.raises(ValueError, match="must have 7 columns, got 5"):
            call(Rows(), 1) if call != index.insert else call(Rows())
        assert index.query(np.eye(7), 1)[0].ravel().tolist() == list(range(7))
