"""A synthetic extreme classification set with the shape of Amazon-670K.

The recipe, for one seed:

- Features and labels have Zipf popularity: the weight of the feature of rank r is
  (r + 10)^-0.9, that of the label of rank r is (r + 20)^-0.75; ids are ranks in random order.
  With 490,449 points and 5 labels a point a label has 3.7 points on average, as rare as the
  labels of Amazon-670K.
- Labels belong to groups of about 50, at random. Every group has 12 prototype features, and so
  has every label, drawn by feature popularity.
- A point draws one label by popularity. Each of its other labels comes from the same group with
  probability 0.7, from all labels otherwise, both by popularity, so that every draw follows the
  same Zipf law; a label drawn twice counts once.
- A point has between half and one and a half times nnz features. 70% of the draws take a
  prototype feature of one of the point's labels (two times in three) or of that label's group,
  and the rest is noise by feature popularity.
- Values are like tf-idf: log(rank + 2) times a random factor in [1, 2), rows of unit norm.

What can be learned: the group from its features, quickly; the labels from theirs, slowly.
"""

import numpy as np
import scipy.sparse as sp

CHUNK = 8192  # points made at a time: bounds the memory
GROUP_SIZE = 50
PROTOTYPE_SIZE = 12
OWN_GROUP = 0.7
SIGNAL = 0.7
OWN_PROTOTYPE = 2 / 3


def _popularity(n, exponent, shift):
    """Cumulative popularity of ranks 0 to n - 1, ending at 1."""
    total = np.cumsum((np.arange(n) + shift) ** -exponent)
    return total / total[-1]


class _World:
    """What all points of a seed share: popularities, groups, prototypes."""

    def __init__(self, n_features, n_labels, seed):
        rng = np.random.default_rng([seed, 0])
        self.n_labels = n_labels
        self.feature_cdf = _popularity(n_features, 0.9, 10)
        self.feature_id = rng.permutation(n_features).astype(np.int32)
        self.idf = np.empty(n_features, np.float32)
        self.idf[self.feature_id] = np.log(np.arange(n_features) + 2)

        # Labels in the order of their groups, so that a group is a range of the cumulative
        # popularity, and a draw within the group is one lookup like any other.
        rank = rng.permutation(n_labels)
        weight = (rank + 20.0) ** -0.75
        self.label_cdf = np.cumsum(weight / weight.sum())
        self.label_cdf /= self.label_cdf[-1]
        self.label_id = rng.permutation(n_labels).astype(np.int32)
        n_groups = max(1, n_labels // GROUP_SIZE)
        self.group_start = (np.arange(n_groups + 1) * n_labels) // n_groups
        self.group = np.repeat(np.arange(n_groups, dtype=np.int32), np.diff(self.group_start))
        self.label_prototype = self._prototypes(n_labels, rng)
        self.group_prototype = self._prototypes(n_groups, rng)

    def _prototypes(self, n, rng):
        prototypes = np.empty((n, PROTOTYPE_SIZE), np.int32)
        for start in range(0, n, CHUNK):
            prototypes[start : start + CHUNK] = self.features(
                rng.random((min(CHUNK, n - start), PROTOTYPE_SIZE))
            )
        return prototypes

    def features(self, u):
        """Feature ids by popularity, from uniform numbers."""
        return self.feature_id[np.searchsorted(self.feature_cdf, u, side="right")]

    def labels(self, n_points, per_point, rng):
        """Candidate labels (places in group order), shape (n_points, per_point)."""
        u = rng.random((n_points, per_point))
        first = np.searchsorted(self.label_cdf, u[:, 0], side="right")
        group = self.group[first]
        ends = np.append(0.0, self.label_cdf)[self.group_start]
        low, high = ends[group][:, None], ends[group + 1][:, None]
        near = rng.random((n_points, per_point)) < OWN_GROUP
        near[:, 0] = False
        u = np.where(near, low + u * (high - low), u)
        place = np.searchsorted(self.label_cdf, u, side="right")
        return np.minimum(place, self.n_labels - 1).astype(np.int32)


def _keep_distinct(candidates, lengths):
    """Keep the first `lengths[i]` different values of row i.

    Returns
    -------
    ndarray of bool, shape of `candidates`
    """
    width = candidates.shape[1]
    keys = np.sort(candidates.astype(np.int64) * width + np.arange(width), axis=1)
    values, places = np.divmod(keys, width)
    new = np.ones(candidates.shape, bool)
    new[:, 1:] = values[:, 1:] != values[:, :-1]
    keep = np.empty_like(new)
    np.put_along_axis(keep, places, new, axis=1)
    return keep & (np.cumsum(keep, axis=1) <= lengths[:, None])


def _sorted_rows(candidates, keep):
    """The kept values in ascending order within each row, and each row's number of them."""
    last = np.iinfo(np.int32).max
    values = np.sort(np.where(keep, candidates, last), axis=1)
    return values[values < last], keep.sum(axis=1)


def _choose(counts, u):
    """For each row, index int(u * counts): a uniform choice among `counts` things."""
    return (u * counts[:, None]).astype(np.int32)


def _make_chunk(world, lengths, label_counts, rng):
    """Points of the given numbers of features and labels.

    Returns
    -------
    features, features_per_row, values, labels, labels_per_row : ndarray
    """
    n = len(lengths)
    places = world.labels(n, 2 * int(label_counts.max()), rng)
    keep = _keep_distinct(places, label_counts)
    label_ids, labels_per_row = _sorted_rows(world.label_id[places], keep)

    width = 2 * int(lengths.max())
    candidates = world.features(rng.random((n, width)))
    # The kept labels of each row first, so that choosing one is a lookup.
    own = np.take_along_axis(places, np.argsort(~keep, axis=1, kind="stable"), axis=1)
    chosen = np.take_along_axis(own, _choose(labels_per_row, rng.random((n, width))), axis=1)
    which = rng.integers(PROTOTYPE_SIZE, size=(n, width), dtype=np.int32)
    kind = rng.random((n, width))
    of_label = kind < SIGNAL * OWN_PROTOTYPE
    of_group = (kind < SIGNAL) & ~of_label
    candidates[of_label] = world.label_prototype[chosen[of_label], which[of_label]]
    candidates[of_group] = world.group_prototype[world.group[chosen[of_group]], which[of_group]]

    feature_ids, features_per_row = _sorted_rows(candidates, _keep_distinct(candidates, lengths))
    values = world.idf[feature_ids] * (1 + rng.random(len(feature_ids), dtype=np.float32))
    starts = np.cumsum(features_per_row) - features_per_row
    norms = np.sqrt(np.add.reduceat(values * values, starts))
    values /= np.repeat(norms, features_per_row)
    return feature_ids, features_per_row, values, label_ids, labels_per_row


def make_xmc(
    n_samples,
    n_features=135_909,
    n_labels=670_091,
    nnz=75,
    labels_per_point=5,
    seed=0,
    part=0,
):
    """Make points of a synthetic extreme classification set.

    Parameters
    ----------
    n_samples : int
    n_features, n_labels : int, default 135909 and 670091
    nnz : int, default 75
        Average number of non-zero features of a point (a few per cent fewer in narrow sets,
        where draws repeat).
    labels_per_point : int, default 5
        Average number of labels of a point.
    seed : int, default 0
        Settles popularities and prototypes, and with `part` the points.
    part : int, default 0
        Parts of one seed have different points of the same distribution: train on one and test
        on another. The first points of a part do not depend on `n_samples`.

    Returns
    -------
    x : scipy.sparse.csr_matrix of float32, shape (n_samples, n_features)
        Rows of unit norm, columns sorted, int32 ids.
    y : scipy.sparse.csr_matrix of float32, shape (n_samples, n_labels)
        Ones at the labels.
    """
    for name, value in (
        ("n_samples", n_samples),
        ("n_features", n_features),
        ("n_labels", n_labels),
        ("nnz", nnz),
        ("labels_per_point", labels_per_point),
    ):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    world = _World(n_features, n_labels, seed)
    spread = min(2, labels_per_point - 1)
    x_indptr = np.zeros(n_samples + 1, np.int64)
    y_indptr = np.zeros(n_samples + 1, np.int64)
    # Grown in place, chunk by chunk: joining a list of chunks would hold all the data twice.
    x_indices, x_data = np.empty(0, np.int32), np.empty(0, np.float32)
    y_indices = np.empty(0, np.int32)
    for number, start in enumerate(range(0, n_samples, CHUNK)):
        rng = np.random.default_rng([seed, 1, part, number])
        lengths = rng.integers(nnz - nnz // 2, nnz + nnz // 2 + 1, size=CHUNK)
        label_counts = rng.integers(
            labels_per_point - spread, labels_per_point + spread + 1, size=CHUNK
        )
        features, features_per_row, values, labels, labels_per_row = _make_chunk(
            world, lengths, label_counts, rng
        )
        stop = min(start + CHUNK, n_samples)
        for indptr, per_row in ((x_indptr, features_per_row), (y_indptr, labels_per_row)):
            indptr[start + 1 : stop + 1] = indptr[start] + np.cumsum(per_row[: stop - start])
        n_x, n_y = x_indptr[stop] - x_indptr[start], y_indptr[stop] - y_indptr[start]
        for array, new, end in (
            (x_indices, features[:n_x], x_indptr[stop]),
            (x_data, values[:n_x], x_indptr[stop]),
            (y_indices, labels[:n_y], y_indptr[stop]),
        ):
            array.resize(end, refcheck=False)
            array[end - len(new) :] = new
    x = sp.csr_matrix((x_data, x_indices, x_indptr), shape=(n_samples, n_features))
    y_data = np.ones(len(y_indices), np.float32)
    y = sp.csr_matrix((y_data, y_indices, y_indptr), shape=(n_samples, n_labels))
    return x, y


def label_features(n_features=135_909, n_labels=670_091, seed=0):
    """The prototype features of every label, with the values of their idf.

    Parameters
    ----------
    n_features, n_labels, seed : int
        As of `make_xmc`.

    Returns
    -------
    scipy.sparse.csr_matrix of float32, shape (n_labels, n_features)
        A row is what the expected features of a point with that label alone have of its own
        prototypes, of unit norm.
    """
    world = _World(n_features, n_labels, seed)
    features = np.empty_like(world.label_prototype)
    features[world.label_id] = world.label_prototype
    values = world.idf[features.ravel()]
    indptr = np.arange(0, features.size + 1, PROTOTYPE_SIZE)
    rows = sp.csr_matrix((values, features.ravel(), indptr), shape=(n_labels, n_features))
    rows.sum_duplicates()
    norms = np.sqrt(rows.multiply(rows).sum(axis=1)).A1
    rows.data /= np.repeat(norms, np.diff(rows.indptr)).astype(np.float32)
    return rows
