"""Sparse and fast projections, WTA, MinHash, E2LSH's codes and cross-polytopes, against formulas
and NumPy; and what all families that draw functions share.

Frequencies are compared within 4.5 standard errors of independent draws, as in `test_hashing`:
with the seeds given, a correct family fails one comparison in 150,000 by chance. Where the formula
is a limit, the difference that is allowed is stated.
"""

import math

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.linalg import hadamard
from test_hashing import NO_BUCKET, assert_frequency, mix64, pair_with_cosine, rows, sparse_vector

import slide
from slide import _memory, hashing, sampling
from slide._kernels import hashing as kernels
from slide._kernels.minhash import MinHash
from slide._kernels.rotations import CrossPolytope, FastSimHash
from slide._kernels.winners import Winners
from slide.hashing import _family

KERNELS = {
    "gaussian": lambda dim, seed: kernels.SimHash(dim, 3, 40, False, seed),
    "sparse": lambda dim, seed: kernels.SparseSimHash(dim, 3, 40, dim // 2, seed),
    "hadamard": lambda dim, seed: FastSimHash(dim, 3, 40, seed),
    "wta": lambda dim, seed: Winners(dim, 3, 40, 4, False, seed),
    "dwta": lambda dim, seed: Winners(dim, 3, 40, 4, True, seed),
    "minhash": lambda dim, seed: MinHash(dim, 3, 40, 9, seed),
    "e2lsh": lambda dim, seed: kernels.E2LSH(dim, 3, 40, 0.5, seed),
    "crosspolytope": lambda dim, seed: CrossPolytope(dim, 3, 40, 5, False, seed),
    "fast crosspolytope": lambda dim, seed: CrossPolytope(dim, 3, 40, 5, True, seed),
}

FAMILIES = [
    hashing.SimHash(4, 8, "sparse"),
    hashing.SimHash(4, 8, "hadamard"),
    hashing.WTA(1, 8, 4),
    hashing.DWTA(1, 8, 4),
    hashing.MinHash(1, 8, 4),
    hashing.E2LSH(2, 8, 4.0, transform=None),
    hashing.CrossPolytope(1, 8, "gaussian", 3),
    hashing.CrossPolytope(1, 8, "hadamard", 3),
]


def agreements(family, x, y, n_seeds):
    """Tables whose codes agree, of those of all seeds."""
    codes = np.hstack([family.codes(np.array([x, y]), seed) for seed in range(n_seeds)])
    return int((codes[0] == codes[1]).sum()), codes.shape[1]


# ---------------------------------------------------------------------- signs of projections


@pytest.mark.parametrize("dim", [3, 37, 129])
@pytest.mark.parametrize("cosine", [-0.8, 0.0, 0.5, 0.9])
def test_bits_of_fast_rotations_agree_as_often_as_the_angle_says(dim, cosine):
    # Sums of 64 random signs and more are normal only nearly: 0.005 is left for the difference.
    # Bits of a rotation are not independent: their mean differs less between rotations, if ever.
    x, y = pair_with_cosine(np.random.default_rng(dim), dim, cosine)
    family = hashing.SimHash(1, 10_000, "hadamard")
    hits, n = agreements(family, x, y, 4)
    assert_frequency(hits, n, family.collision_probability(cosine), allowed=0.005)


@pytest.mark.parametrize("cosine", [-0.5, 0.0, 0.5, 0.9])
def test_bits_of_sparse_projections_agree_nearly_as_often(cosine):
    x, y = pair_with_cosine(np.random.default_rng(5), 129, cosine)
    family = hashing.SimHash(1, 10_000, "sparse")
    hits, n = agreements(family, x, y, 4)
    assert_frequency(hits, n, family.collision_probability(cosine), allowed=0.006)


def test_fast_rotations_of_very_sparse_vectors():
    # Two coordinates of 1001: where random signs alone would tie.
    x, y = np.zeros((2, 1001))
    x[[3, 500]], y[[500, 1000]] = [1, 2], [1, 1]
    cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    family = hashing.SimHash(1, 10_000, "hadamard")
    hits, n = agreements(family, x, y, 3)
    assert_frequency(hits, n, family.collision_probability(cosine), allowed=0.005)


@pytest.mark.parametrize("projection", ["sparse", "hadamard"])
def test_bits_of_a_code_agree_as_if_they_were_independent(projection):
    x, y = pair_with_cosine(np.random.default_rng(0), 129, 0.8)
    family = hashing.SimHash(5, 10_000, projection)
    hits, n = agreements(family, x, y, 3)
    assert_frequency(hits, n, (1 - math.acos(0.8) / math.pi) ** 5, allowed=0.006)


def test_tables_of_one_rotation_agree_as_if_they_were_independent():
    # The variance of the number of agreeing tables between seeds is that of independent tables:
    # 300 seeds estimate it to 4.5 sqrt(2 / 299) = 37%; orthogonal rows can only make it smaller.
    x, y = pair_with_cosine(np.random.default_rng(1), 129, 0.7)
    family = hashing.SimHash(4, 50, "hadamard")
    hits = [agreements_of_seed(family, x, y, seed) for seed in range(300)]
    p = (1 - math.acos(0.7) / math.pi) ** 4
    independent = 50 * p * (1 - p)
    assert abs(np.mean(hits) - 50 * p) < 4.5 * math.sqrt(independent / 300) + 0.3
    assert 0.3 * independent < np.var(hits) < 1.37 * independent


def agreements_of_seed(family, x, y, seed):
    codes = family.codes(np.array([x, y]), seed)
    return (codes[0] == codes[1]).sum()


def splitmix(state, n):
    return [mix64((state + (i + 1) * 0x9E3779B97F4A7C15) % 2**64) for i in range(n)]


def stream(seed, a, b):
    z = mix64(mix64((seed + 0x9E3779B97F4A7C15) % 2**64) ^ a)
    return mix64((z + b * 0xD1B54A32D192ED03) % 2**64)


def rotation(order, seed, number):
    """The matrix of a fast rotation, from its definition."""
    words = splitmix(stream(seed, 11, number), 3 * order // 64)
    matrix = np.eye(order)
    for r in range(3):
        part = words[r * order // 64 : (r + 1) * order // 64]
        bits = [word >> i & 1 for word in part for i in range(64)]
        matrix = hadamard(order) @ np.diag(1.0 - 2 * np.array(bits)) @ matrix
    return matrix


@pytest.mark.parametrize(("dim", "n_bits", "n_tables"), [(3, 9, 15), (129, 62, 9), (64, 7, 9)])
def test_fast_codes_are_the_signs_of_outputs_each_used_once(dim, n_bits, n_tables):
    kernel = FastSimHash(dim, n_bits, n_tables, 5)
    order = max(64, 1 << (dim - 1).bit_length())
    x = np.random.default_rng(0).standard_normal((6, dim)).astype(np.float32)
    together = order // n_bits
    codes = kernel.hash(rows(x))
    for t in range(n_tables):
        first = t % together * n_bits
        outputs = x @ rotation(order, 5, t // together)[first : first + n_bits, :dim].T
        bits = codes[:, t, None] >> np.arange(n_bits - 1, -1, -1, dtype=np.uint64) & np.uint64(1)
        clear = np.abs(outputs) > 1e-2
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(bits[clear], outputs[clear] > 0)
    assert (codes >> np.uint64(n_bits) == 0).all()


def test_sparse_codes_are_the_signs_of_their_lists():
    kernel = kernels.SparseSimHash(45, 9, 7, 16, 3)
    x = np.random.default_rng(0).standard_normal((20, 45)).astype(np.float32)
    c, added = kernel.arrays["coordinates"], kernel.arrays["n_added"]
    assert all(len(np.unique(row)) == 16 for row in c)
    signs = np.where(np.arange(16) < added[:, None], 1.0, -1.0)
    sums = np.einsum("nij,ij->ni", x[:, c], signs).reshape(20, 7, 9)
    bits = kernel.hash(rows(x))[:, :, None] >> np.arange(8, -1, -1, dtype=np.uint64) & np.uint64(1)
    clear = np.abs(sums) > 1e-4
    np.testing.assert_array_equal(bits[clear], sums[clear] > 0)
    assert abs(added.mean() - 8) < 4.5 * 2 / math.sqrt(63)  # a fair coin for each coordinate


# ------------------------------------------------------------------------ winner take all


@pytest.mark.parametrize(("dim", "m"), [(3, 2), (37, 3), (129, 8), (16, 16)])
@pytest.mark.parametrize("noise", [0.3, 3.0])
def test_wta_functions_agree_as_often_as_the_formula_says(dim, m, noise):
    rng = np.random.default_rng(dim)
    x = rng.standard_normal(dim)
    y = x + noise * rng.standard_normal(dim)
    family = hashing.WTA(1, 10_000, m)
    hits, n = agreements(family, x, y, 3)
    assert_frequency(hits, n, family.collision_probability(x, y))


def test_empty_vectors_never_agree_in_dwta():
    assert hashing.DWTA(2, 2, 2).collision_probability(np.zeros(3), np.zeros(3)) == 0
    assert hashing.WTA(2, 2, 2).collision_probability(np.zeros(3), np.zeros(3)) == 0


def test_zeros_compete_in_wta():
    x = np.zeros((1, 16))
    x[0, 3] = -1.0
    kernel = Winners(16, 2, 20, 4, False, 1)
    c = kernel.arrays["coordinates"].reshape(20, 2, 4)
    winners = x[0][c].argmax(axis=2)
    np.testing.assert_array_equal(kernel.hash(rows(x))[0], winners[:, 0] << 2 | winners[:, 1])
    assert (hashing.WTA(2, 5, 4).codes(np.full((1, 9), 7.0)) == 0).all()


# ------------------------------------------------------------------------------- MinHash


def minhash_code(kernel, table, members, n_functions, dim):
    shift = (-(-dim // n_functions) - 1).bit_length()
    width = ((n_functions << shift) - 1).bit_length()
    places = kernel.arrays["places"][table, members]
    code = 0
    for k in range(n_functions):
        at, tries = k, 0
        while not (places >> shift == at).any():
            tries += 1
            at = mix64(((table * n_functions + k) << 16) + tries) % n_functions
        code = code << width | int(places[places >> shift == at].min())
    return code


@pytest.mark.parametrize(("dim", "n_functions"), [(1, 1), (3, 2), (37, 6), (129, 7), (5, 9)])
@pytest.mark.parametrize("top_k", [1, 2, 20])
def test_minhash_codes_are_those_of_the_definition(dim, n_functions, top_k):
    family = hashing.MinHash(n_functions, 11, top_k)
    rng = np.random.default_rng(dim)
    x = np.round(2 * rng.standard_normal((20, dim)), 1)  # with ties
    kernel = MinHash(dim, n_functions, 11, top_k, 2)
    places = np.sort(kernel.arrays["places"], axis=1)
    assert (np.diff(places, axis=1) > 0).all()
    codes = family.codes(x, 2)
    for row, found in zip(x, codes, strict=True):
        # Members in Python: sorted by value, then by index.
        best = sorted((i for i in range(dim) if row[i] > 0), key=lambda i: (-row[i], i))[:top_k]
        np.testing.assert_array_equal(family.members(row), sorted(best))
        wanted = [NO_BUCKET] * 11
        if best:
            wanted = [minhash_code(kernel, t, best, n_functions, dim) for t in range(11)]
        np.testing.assert_array_equal(found, np.array(wanted, np.uint64))


@pytest.mark.parametrize(("dim", "top_k"), [(3, 2), (37, 10), (129, 40), (129, 3)])
@pytest.mark.parametrize("place", [0, 3])
def test_minhash_functions_agree_as_often_as_the_sets_overlap(dim, top_k, place):
    # Of a table of four functions, the first or the last: as often as J, borrowed or not.
    rng = np.random.default_rng(top_k)
    x, y = sparse_vector(rng, dim, top_k), sparse_vector(rng, dim, top_k)
    y[x.argmax()] = top_k + 1
    if dim > 3:
        y[np.argsort(-x)[: top_k // 2]] = top_k + 2
    family = hashing.MinHash(4, 10_000, top_k)
    p = family.collision_probability(x, y)
    assert 0 < p < 1 or dim == 3
    width = ((4 << (-(-dim // 4) - 1).bit_length()) - 1).bit_length()
    codes = np.hstack([family.codes([x, y], seed) for seed in range(3)])
    values = codes >> np.uint64(width * (3 - place)) & np.uint64(2**width - 1)
    assert_frequency((values[0] == values[1]).sum(), values.shape[1], p)


def test_minhash_functions_of_a_table_are_nearly_independent():
    # Drawn without replacement from 60 members: 0.01 is left for the difference.
    x, y = np.zeros((2, 400))
    x[:50], y[10:60] = 1, 1
    family = hashing.MinHash(3, 10_000, 50)
    assert family.collision_probability(x, y) == pytest.approx(40 / 60)
    hits, n = agreements(family, x, y, 3)
    assert_frequency(hits, n, (40 / 60) ** 3, allowed=0.01)


def test_minhash_codes_that_do_not_fit_are_mixed():
    family = hashing.MinHash(31, 2000, 30)
    x = np.random.default_rng(0).standard_normal((2, 500))
    codes = family.codes(x)
    assert len(np.unique(codes)) == codes.size
    assert (codes < 2**63).all()


def test_minhash_codes_of_small_sets_agree_less_often_than_independent_functions():
    """And those of sets of one member more often."""
    x, y = np.zeros(200), np.zeros(200)
    x[:20], y[5:25] = 1, 1
    hits, n = agreements(hashing.MinHash(8, 10_000), x, y, 20)
    expected = hashing.MinHash(8, 1).collision_probability(x, y) ** 8
    assert 0.3 * expected < hits / n < 0.8 * expected
    x[1:], y[:] = 0, 0
    y[:2] = 1
    hits, n = agreements(hashing.MinHash(8, 10_000), x, y, 1)
    assert hits / n > 2 * 0.5**8


# ------------------------------------------------------------------- E2LSH, cross-polytopes


@pytest.mark.parametrize("dim", [3, 129])
@pytest.mark.parametrize("distance", [0.5, 2.0, 8.0])
def test_e2lsh_functions_agree_as_often_as_the_formula_says(dim, distance):
    x = np.random.default_rng(dim).standard_normal(dim)
    y = x + distance / math.sqrt(dim)
    family = hashing.E2LSH(1, 10_000, 2.5, transform=None)
    hits, n = agreements(family, x, y, 3)
    assert_frequency(hits, n, family.collision_probability(distance))
    pairs = hashing.E2LSH(2, 10_000, 2.5, transform=None)
    hits, n = agreements(pairs, x, y, 3)
    assert_frequency(hits, n, family.collision_probability(distance) ** 2)


def test_e2lsh_codes_are_equal_in_equal_cells_only():
    kernel = kernels.E2LSH(5, 2, 6, 0.7, 1)
    assert (kernel.arrays["offsets"] > 0).all()
    assert kernel.arrays["offsets"].max() <= 0.7
    x = np.random.default_rng(0).standard_normal((300, 5)).astype(np.float32) / 2
    sums = x.astype(float) @ kernel.arrays["projections"][:, :5].T
    cells = np.floor((sums + kernel.arrays["offsets"]) / 0.7).astype(int).reshape(300, 6, 2)
    assert cells.min() < 0
    codes = kernel.hash(rows(x))
    for t in range(6):
        _, by_cell = np.unique(cells[:, t], axis=0, return_inverse=True)
        _, by_code = np.unique(codes[:, t], return_inverse=True)
        pairs = np.unique(np.stack([by_cell.ravel(), by_code.ravel()], axis=1), axis=0)
        assert len(pairs) == by_cell.max() + 1 == by_code.max() + 1
    assert (hashing.E2LSH(1, 3, 1e-6, transform=None).codes([[3e38, 3e38]]) < 2**63).all()


@pytest.mark.parametrize(
    ("dim", "angle", "p"), [(8, 0.3, 0.722), (8, 0.8, 0.362), (32, 0.3, 0.648), (32, 0.8, 0.248)]
)
def test_cross_polytope_formula(dim, angle, p):
    family = hashing.CrossPolytope(dim=dim)
    assert family.collision_probability(math.cos(angle)) == pytest.approx(p, abs=5e-4)
    assert family.collision_probability(0.0) == pytest.approx(1 / (2 * dim), abs=1e-6)
    np.testing.assert_array_equal(family.collision_probability([-1.0, 1.0]), [0, 1])
    # One coordinate is the sign of one projection.
    assert family.collision_probability(math.cos(angle), 1) == pytest.approx(
        1 - angle / math.pi, abs=1e-6
    )


@pytest.mark.parametrize("rotation", ["gaussian", "hadamard"])
@pytest.mark.parametrize(("dim", "target"), [(3, 2), (37, 8), (129, 32)])
@pytest.mark.parametrize("cosine", [0.0, 0.7, 0.95])
def test_cross_polytopes_agree_as_often_as_the_formula_says(rotation, dim, target, cosine):
    x, y = pair_with_cosine(np.random.default_rng(dim), dim, cosine)
    family = hashing.CrossPolytope(1, 2000, rotation, target)
    hits, n = agreements(family, x, y, 4 if dim < 100 or rotation == "hadamard" else 2)
    # Outputs of a fast rotation are orthogonal, and normal only nearly.
    allowed = 0.0 if rotation == "gaussian" else 0.03
    assert_frequency(hits, n, family.collision_probability(cosine), allowed=allowed)


@pytest.mark.parametrize("fast", [False, True])
def test_every_corner_is_in_the_code(fast):
    dim, n_functions, target = 70, 5, 40
    kernel = CrossPolytope(dim, n_functions, 3, target, fast, 4)
    x = np.random.default_rng(0).standard_normal((9, dim)).astype(np.float32)
    codes = kernel.hash(rows(x))
    for t in range(3):
        for k in range(n_functions):
            if fast:  # 128 outputs are enough for three functions
                z = x @ rotation(128, 4, 2 * t + k // 3)[k % 3 * 40 : (k % 3 + 1) * 40, :dim].T
            else:
                first = (t * n_functions + k) * target
                z = x @ kernel.arrays["projections"][first : first + target, :dim].T
            at = np.abs(z).argmax(axis=1)
            value = codes[:, t] >> np.uint64(7 * (n_functions - 1 - k)) & np.uint64(127)
            np.testing.assert_array_equal(value, 2 * at + (z[np.arange(9), at] < 0))


# ----------------------------------------------------------------------- what all share


@pytest.mark.parametrize("name", KERNELS)
def test_new_functions_of_some_tables_leave_the_others(name):
    x = np.zeros((30, 40))
    rng = np.random.default_rng(0)
    for row in x:  # sparse, so that empty bins borrow
        row[rng.choice(40, 6, replace=False)] = rng.standard_normal(6)
    x = rows(x)
    kernel, other = KERNELS[name](40, 1), KERNELS[name](40, 2)
    before, wanted = kernel.hash(x), other.hash(x)
    kernel.renew(2, 5, 17)
    codes = kernel.hash(x)
    np.testing.assert_array_equal(codes[:, :5], before[:, :5])
    np.testing.assert_array_equal(codes[:, 17:], before[:, 17:])
    np.testing.assert_array_equal(codes[:, 5:17], wanted[:, 5:17])
    assert all((before[:, t] != wanted[:, t]).any() for t in range(40))
    kernel.renew(2, 0, 40)
    np.testing.assert_array_equal(kernel.hash(x), wanted)
    np.testing.assert_array_equal(kernel.hash(x, 2), wanted)
    with pytest.raises(IndexError, match="tables 3 to 41 of 40"):
        kernel.renew(1, 3, 41)


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_blocks_and_threads_make_no_difference(family, monkeypatch):
    X = sp.random(101, 30, 0.3, "csc", np.float32, np.random.RandomState(0))
    codes = family.codes(X.toarray(), 3)
    monkeypatch.setattr(_family, "BLOCK_FLOATS", 32 * 7)
    np.testing.assert_array_equal(family.codes(X, 3, n_jobs=2), codes)
    np.testing.assert_array_equal(family.codes(X.toarray().astype(float), 3, n_jobs=-1), codes)


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_unusual_vectors(family):
    X = np.zeros((3, 9))
    X[1], X[2] = 1e-42, 1e30
    codes = family.codes(X)
    in_no_bucket = not isinstance(family, hashing.E2LSH) and type(family) is not hashing.WTA
    assert ((codes[0] == NO_BUCKET) == in_no_bucket).all()
    assert (codes[2] != NO_BUCKET).all()
    for bad, words in [(np.nan, r"X\[1, 4\] is nan"), (-np.inf, r"X\[1, 4\] is -inf")]:
        X[1, 4] = bad
        with pytest.raises(ValueError, match=words):
            family.codes(X)
        with pytest.raises(ValueError, match=words):
            family.codes(sp.csr_matrix(X))
    with pytest.raises(ValueError, match="n_jobs=0"):
        family.codes(np.ones((1, 9)), n_jobs=0)


def test_vectors_of_one_value():
    x = [[2.0], [-3.0]]
    for projection in ("gaussian", "rademacher", "sparse"):
        codes = hashing.SimHash(9, 4, projection).codes(x)
        np.testing.assert_array_equal(codes[0] ^ codes[1], [511] * 4)
    # A fast rotation of one value can be exactly 0, which counts as negative for both.
    codes = hashing.SimHash(9, 4, "hadamard").codes(x)
    assert ((codes[0] & codes[1]) == 0).all()
    np.testing.assert_array_equal(hashing.MinHash(2, 1).codes(x)[1], [NO_BUCKET])
    codes = hashing.CrossPolytope(1, 4).codes(x)
    np.testing.assert_array_equal(codes[0] ^ codes[1], [1] * 4)
    assert (hashing.CrossPolytope(1, 4, "hadamard").codes(x) < 2).all()
    with pytest.raises(ValueError, match="n_bins=2 is more than the 1"):
        hashing.WTA(n_bins=2).codes(x)
    with pytest.raises(ValueError, match="dim=2 is more than the 1"):
        hashing.CrossPolytope(dim=2).codes(x)


@pytest.mark.parametrize(
    ("family", "dim", "cost"),
    [
        (hashing.SimHash(9, 50), 129, 450 * 129),
        (hashing.SimHash(9, 50, "sparse"), 129, 450 * 43),
        (hashing.SimHash(9, 50, "sparse"), 7, 450 * 7),
        (hashing.SimHash(9, 50, "hadamard"), 129, 2 * 3 * 256 * 9),
        (hashing.SimHash(9, 50, "hadamard"), 3, 8 * 3 * 64 * 7),
        (hashing.WTA(6, 50, 8), 129, 2400),
        (hashing.DWTA(6, 50, 8), 129, 2400),
        (hashing.MinHash(2, 50, 30), 129, 129 + 1500),
        (hashing.E2LSH(6, 5), 129, 30 * 129),
        (hashing.CrossPolytope(2, 50, dim=16), 129, 100 * 16 * 130),
        (hashing.CrossPolytope(2, 50, "hadamard", 16), 129, 50 * (3 * 256 * 9 + 32)),
    ],
    ids=repr,
)
def test_costs(family, dim, cost):
    assert family.cost(dim) == cost
    with pytest.raises(ValueError, match=r"dim must be .*got 0"):
        family.cost(0)


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_every_family_finds_neurons_of_a_model(family, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 8)).astype(np.float32)
    y = rng.integers(0, 40, 60)

    def model():
        sampler = sampling.LSH(family, 30, rebuild_every=2, new_functions_every=2)
        layers = [
            slide.Input(8),
            slide.Dense(11, "tanh"),
            slide.Dense(40, "softmax", sampler=sampler),
        ]
        made = slide.Sequential(layers, seed=1)
        made.compile(slide.optimizers.Adam(0.01), "categorical_crossentropy")
        return made

    first = model()
    losses = first.fit(x, y, batch_size=10, epochs=8, verbose=0, n_jobs=1).history["loss"]
    assert losses[-1] < losses[0]
    first.save(tmp_path / "model")
    again = slide.load(tmp_path / "model")
    for m in (first, again):
        m.fit(x, y, batch_size=10, epochs=2, verbose=0, n_jobs=2)
    for a, b in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        (hashing.MinHash(2, 3), "places"),
        (hashing.WTA(2, 3, 4), "coordinates"),
        (hashing.DWTA(2, 3, 4), "pool"),
        (hashing.SimHash(2, 3, "sparse"), "coordinates"),
        (hashing.SimHash(2, 3, "sparse"), "n_added"),
    ],
)
@pytest.mark.parametrize("change", [-1, 10_000])
def test_indices_out_of_range_are_refused(family, name, change):
    active = sampling.LSH(family, 10).active_set(20, 9, 0, 1)
    state = active.get_state()
    active.set_state(state)
    state["functions." + name].flat[-1] = change
    with pytest.raises(ValueError, match=r"hash functions: a .* is out of range"):
        active.set_state(state)


@pytest.mark.parametrize(
    "family",
    [hashing.SimHash(9, 50, "hadamard"), hashing.DWTA(), hashing.MinHash(), hashing.E2LSH()],
    ids=repr,
)
def test_more_tables_than_memory_are_refused_with_the_figure(family, monkeypatch):
    monkeypatch.setattr(_memory, "available_memory", lambda: 10**8)
    words = r"1,000,000 neurons: (\d+\.\d) GB of memory needed, 0\.1 GB available"
    with pytest.raises(MemoryError, match=words):
        family.retriever(1_000_000, 129, 0, 2)
    family.retriever(100, 129, 0, 2)


@pytest.mark.parametrize(
    ("family", "n_neurons", "figure"),
    [
        (hashing.Clusters(2), 3_000_000, 0.2),
        (hashing.Clusters(2, capacity_factor=1.5), 3_000_000, 0.3),
        (hashing.E2LSH(7, 10_000, n_probes=2187), 10, 8.5),
    ],
    ids=repr,
)
def test_what_threads_need_is_part_of_the_figure(family, n_neurons, figure, monkeypatch):
    monkeypatch.setattr(_memory, "available_memory", lambda: 10**8)
    with pytest.raises(MemoryError, match=f"{figure} GB of memory needed"):
        family.retriever(n_neurons, 3, 0, 8)


def test_more_codes_or_functions_than_memory_are_refused(monkeypatch):
    with pytest.raises(MemoryError, match=r"GB of memory needed, .* GB available"):
        hashing.CrossPolytope(1, 10_000)._checked_kernel(1 << 16, 0, 0, "on no vectors")
    monkeypatch.setattr(_memory, "available_memory", lambda: 10**6)
    with pytest.raises(MemoryError, match=r"on 1,000 vectors: 0\.1 GB of memory needed, 0\.0 GB"):
        hashing.WTA(1, 10_000, 2).codes(np.ones((1000, 2)))


def test_available_memory_is_what_a_machine_has():
    assert 10**7 < _memory.available_memory() < 10**14


@pytest.mark.parametrize("projection", ["sparse", "hadamard"])
def test_projections_without_kept_sums_are_for_output_layers(projection):
    words = f"projection='{projection}'"
    with pytest.raises(ValueError, match=words):
        hashing.SimHash(projection=projection, transform="sign_alsh")
    with pytest.raises(ValueError, match=words):
        hashing.SimHash(projection=projection, n_probes=2)
    layer = slide.Dense(30, sampler=sampling.LSH(hashing.SimHash(2, 2, projection), 0.5))
    model = slide.Sequential([slide.Input(4), layer, slide.Dense(3, "softmax")])
    model.compile("adam", "categorical_crossentropy")
    with pytest.raises(ValueError, match=words):
        model.fit(np.ones((5, 4)), [0, 1, 2, 0, 1], verbose=0)


def test_codes_of_asymmetric_families_are_refused():
    with pytest.raises(ValueError, match="transform='l2_alsh'"):
        hashing.E2LSH().codes([[1.0]])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: hashing.WTA(n_functions=0), "n_functions must be"),
        (lambda: hashing.WTA(n_functions=64, n_bins=2), "n_functions must be"),
        (lambda: hashing.WTA(n_functions=32, n_bins=4), "n_functions=32 of n_bins=4"),
        (lambda: hashing.WTA(n_bins=65), "n_bins must be"),
        (lambda: hashing.MinHash(n_functions=32), "n_functions must be"),
        (lambda: hashing.MinHash(n_tables=10_001), "n_tables must be"),
        (lambda: hashing.MinHash(top_k=0), "top_k must be"),
        (lambda: hashing.CrossPolytope(n_functions=0), "n_functions must be"),
        (lambda: hashing.CrossPolytope(n_tables=0), "n_tables must be"),
        (lambda: hashing.CrossPolytope(rotation="fast"), "rotation must be"),
        (lambda: hashing.CrossPolytope(dim=1), "dim must be"),
        (lambda: hashing.CrossPolytope(9, dim=128), "n_functions=9 of dim=128"),
        (lambda: hashing.CrossPolytope(9).codes(np.ones((1, 128))), "n_functions=9 of dim=128"),
        (lambda: hashing.CrossPolytope().collision_probability(0.5), "dim=None"),
    ],
)
def test_numbers_out_of_range_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_distances_that_are_large_or_none():
    family = hashing.E2LSH(width=2.5)
    far = np.array([1e5, 1e8, 1e9, 1e12])
    np.testing.assert_allclose(
        family.collision_probability(far), 2.5 / far / np.sqrt(2 * np.pi), rtol=1e-9
    )
    assert family.collision_probability(0) == pytest.approx(1)
    assert family.collision_probability(np.inf) < 1e-100
    for distance in (-1, np.nan, [1, -2]):
        with pytest.raises(ValueError, match=r"distance must be at least 0, got (-|nan)"):
            family.collision_probability(distance)
    with pytest.raises(TypeError, match="distance"):
        family.collision_probability(None)


def test_masked_vectors_are_refused():
    masked = np.ma.masked_array(np.eye(4), mask=np.eye(4))
    for call in (hashing.SimHash().codes, hashing.Index().fit):
        with pytest.raises(TypeError, match="is a masked array"):
            call(masked)
    with pytest.raises(TypeError, match="bias is a masked array"):
        hashing.Index().fit(np.eye(4), bias=masked[0])
    with pytest.raises(ValueError, match="X is not a rectangular array"):
        hashing.SimHash().codes([[1, 2], [3]])


def test_cosines_and_vectors_that_have_no_probability():
    for family, more in ((hashing.SimHash(), {}), (hashing.CrossPolytope(), {"dim": 8})):
        for cosine in (2, np.nan, [0, -1.1]):
            with pytest.raises(ValueError, match="cosine must be from -1 to 1, got "):
                family.collision_probability(cosine, **more)
        with pytest.raises(TypeError, match="cosine"):
            family.collision_probability("a", **more)
        assert family.collision_probability(1 + 1e-9, **more) == pytest.approx(1)
    x = np.arange(9.0)
    for family in (hashing.WTA(), hashing.DWTA(), hashing.MinHash()):
        with pytest.raises(ValueError, match=r"x\[2\] is nan"):
            family.collision_probability(np.where(x == 2, np.nan, x), x)
        with pytest.raises((TypeError, ValueError), match="x"):
            family.collision_probability(sp.csr_array(x[None]), sp.csr_array(x[None]))
