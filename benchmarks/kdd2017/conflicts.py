"""How often two samples want to change the same weights.

Two gradients collide in the weights between neurons that both samples have active. With active
sets drawn independently, a fraction s of each layer, a neuron is active for both samples with
probability s^2, and a weight between two such layers with probability s^4. Samples that look alike
choose alike, so the overlap that is measured is larger.
"""

import numpy as np

BLOCK = 1024
"""Pairs worked on at a time, so that the sampled rows of a large set stay a small matrix."""


def random_pairs(n, count, seed):
    """`count` pairs of different row numbers below n, shape (count, 2)."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, n, count)
    second = (first + rng.integers(1, n, count)) % n
    return np.column_stack([first, second])


def common_counts(active, pairs):
    """Neurons active for the first, for the second and for both samples of each pair.

    Parameters
    ----------
    active : scipy.sparse.csr_array, shape (n, units)
        What is stored is active.
    pairs : ndarray of int, shape (m, 2)

    Returns
    -------
    ndarray of int, shape (m, 3)
    """
    pattern = active.copy()
    pattern.data = np.ones_like(pattern.data, dtype=np.int32)
    sizes = np.diff(pattern.indptr)
    both = [
        pattern[part[:, 0]].multiply(pattern[part[:, 1]]).sum(axis=1)
        for part in np.split(pairs, range(BLOCK, len(pairs), BLOCK))
    ]
    return np.column_stack([sizes[pairs[:, 0]], sizes[pairs[:, 1]], np.concatenate(both)])


def _overlap(counts, total):
    first, second, both = counts.astype(np.float64).T
    union = first + second - both
    jaccard = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    share = float((first + second).mean() / 2 / total)
    return {
        "active": share,
        "jaccard": float(jaccard.mean()),
        "overlap": float(both.mean() / total),
        # Of independent sets as large as the measured ones, which are smaller than the sampler's
        # fraction where an active neuron's activation is 0: it has no gradient either.
        "independent": float((first * second).mean() / total**2),
    }


def overlaps(active_sets, labels, count, seed=0):
    """Mean overlap of the active sets of random pairs.

    Parameters
    ----------
    active_sets : list of csr_array
        One for each hidden layer, from ``model.active_sets(x)``.
    labels : ndarray, shape (n,)
        Classes of the rows, for the pairs within a class.
    count : int
        Number of pairs.

    Returns
    -------
    list of dict
        For every layer ("neurons 1", ...) and every two consecutive ones ("weights 1-2", ...), over
        all pairs and over those of one class: the share that is active for a sample, the mean
        Jaccard index, the share that is active for both samples, and what the last would be if the
        sets were independent.
    """
    pairs = random_pairs(len(labels), count, seed)
    same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    layers = [common_counts(active, pairs) for active in active_sets]
    units = [active.shape[1] for active in active_sets]
    found = []
    for kind, chosen in (("any", slice(None)), ("same class", same)):
        for i, counts in enumerate(layers):
            row = _overlap(counts[chosen], units[i])
            found.append({"what": f"neurons {i + 1}", "pairs": kind, **row})
        for i in range(len(layers) - 1):
            # A weight is changed by a sample for which both of its neurons are active.
            products = layers[i][chosen] * layers[i + 1][chosen]
            row = _overlap(products, units[i] * units[i + 1])
            found.append({"what": f"weights {i + 1}-{i + 2}", "pairs": kind, **row})
    return found
