"""Hash families against their collision formulas, and their codes against NumPy.

Frequencies are compared within 4.5 standard errors: with the seeds given, a correct family fails
one comparison in 150,000 by chance.
"""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import odd_widths, seeds

from slide import hashing
from slide._kernels import hashing as kernels
from slide._kernels.winners import Winners
from slide._memory import padded

SIGMAS = 4.5
NO_BUCKET = 2**64 - 1


def rows(X):
    """Rows as the kernels read them: float32, padded with zeros to whole cache lines."""
    X = np.atleast_2d(X)
    out = np.zeros((len(X), padded(X.shape[1])), np.float32)
    out[:, : X.shape[1]] = X
    return out


def pair_with_cosine(rng, dim, cosine):
    x = rng.standard_normal(dim)
    other = rng.standard_normal(dim)
    other -= other @ x / (x @ x) * x
    return x, cosine * x / np.linalg.norm(x) + math.sqrt(1 - cosine**2) * other / np.linalg.norm(
        other
    )


def sparse_vector(rng, dim, n_nonzero):
    x = np.zeros(dim)
    x[rng.choice(dim, n_nonzero, replace=False)] = rng.permutation(n_nonzero) + 1.0
    return x


def assert_frequency(hits, n, probability, allowed=0.0):
    """`hits` of `n` independent draws are as likely as `probability` says."""
    error = SIGMAS * math.sqrt(max(probability * (1 - probability), 1 / n) / n) + allowed
    assert abs(hits / n - probability) <= error, f"{hits}/{n}: not {probability:.4f} +- {error:.4f}"


# ---------------------------------------------------------------------- collision frequencies


@pytest.mark.parametrize("dim", [3, 37, 129])
@pytest.mark.parametrize("cosine", [-0.8, 0.0, 0.3, 0.7, 0.95])
def test_simhash_bits_agree_as_often_as_the_angle_says(dim, cosine):
    x, y = pair_with_cosine(np.random.default_rng(dim), dim, cosine)
    family = hashing.SimHash(n_bits=1, n_tables=10_000)
    n, hits = 0, 0
    for seed in range(5):
        codes = family.codes(np.array([x, y]), seed)
        n, hits = n + codes.shape[1], hits + int((codes[0] == codes[1]).sum())
    assert_frequency(hits, n, 1 - math.acos(cosine) / math.pi)
    assert reference.simhash_collision(x, y) == pytest.approx(family.collision_probability(cosine))


@pytest.mark.parametrize("cosine", [-0.5, 0.0, 0.5, 0.9])
def test_rademacher_bits_agree_nearly_as_often(cosine):
    # The sum of 129 random signs is normal only nearly: 0.005 is left for the difference.
    x, y = pair_with_cosine(np.random.default_rng(5), 129, cosine)
    family = hashing.SimHash(n_bits=1, n_tables=10_000, projection="rademacher")
    codes = np.hstack([family.codes(np.array([x, y]), seed) for seed in range(5)])
    hits = (codes[0] == codes[1]).sum()
    assert_frequency(hits, codes.shape[1], family.collision_probability(cosine), allowed=0.005)


def test_simhash_of_very_sparse_vectors():
    x, y = np.zeros((2, 1001))
    x[[3, 500]], y[[500, 1000]] = [1, 2], [1, 1]
    family = hashing.SimHash(n_bits=1, n_tables=10_000)
    codes = np.hstack([family.codes(np.array([x, y]), seed) for seed in range(3)])
    hits = (codes[0] == codes[1]).sum()
    assert_frequency(hits, codes.shape[1], reference.simhash_collision(x, y))


def test_simhash_codes_of_k_bits_agree_with_the_kth_power():
    x, y = pair_with_cosine(np.random.default_rng(0), 50, 0.8)
    family = hashing.SimHash(n_bits=5, n_tables=10_000)
    codes = np.hstack([family.codes(np.array([x, y]), seed) for seed in range(4)])
    p = reference.simhash_collision(x, y) ** 5
    assert_frequency((codes[0] == codes[1]).sum(), codes.shape[1], p)


def dwta_pairs():
    rng = np.random.default_rng(7)
    for dim, m in [(10, 2), (37, 3), (100, 8), (129, 5), (64, 64)]:
        x = rng.standard_normal(dim)
        yield pytest.param(x, rng.standard_normal(dim), m, id=f"dense-{dim}-{m}")
        yield pytest.param(x, x + 0.5 * rng.standard_normal(dim), m, id=f"near-{dim}-{m}")
        if m < 64:
            # A ReLU layer's output against a neuron's weights.
            yield pytest.param(np.maximum(x, 0), x + rng.standard_normal(dim), m,
                               id=f"relu-{dim}-{m}")
            half, few = sparse_vector(rng, dim, dim // 2), sparse_vector(rng, dim, max(2, dim // 9))
            few[few > 0] += 0.5  # no value of one is a value of the other
            yield pytest.param(half, np.maximum(half, few), m, id=f"sparse-{dim}-{m}")
            yield pytest.param(few, np.minimum(half, few), m, id=f"very-sparse-{dim}-{m}")


def both_empty(kernel, x, y):
    c = kernel.arrays["coordinates"]
    return ~((x[c] != 0).any(axis=1) | (y[c] != 0).any(axis=1))


@pytest.mark.parametrize(("x", "y", "m"), list(dwta_pairs()))
def test_dwta_functions_agree_as_often_as_the_formula_says(x, y, m):
    family = hashing.DWTA(n_functions=1, n_tables=5000, n_bins=m)
    hits = n = 0
    for seed in range(6):
        kernel = Winners(len(x), 1, 5000, m, True, seed)
        codes = kernel.hash(rows([x, y]))
        given_ = ~both_empty(kernel, x.astype(np.float32), y.astype(np.float32))
        n, hits = n + int(given_.sum()), hits + int((codes[0] == codes[1])[given_].sum())
    expected = family.collision_probability(x, y)
    assert n > 0
    assert_frequency(hits, n, expected)
    if (x >= 0).all() and (y >= 0).all():
        assert reference.dwta_collision(x, y, m) == pytest.approx(expected)


@pytest.mark.parametrize("n_nonzero", [2, 5, 20])
def test_dwta_bins_of_zeros_borrow_without_bias(n_nonzero):
    # Where both bins are empty, both look elsewhere in the same order, and agree with the same
    # probability. Functions borrow from each other, so only means of redrawn families count.
    rng = np.random.default_rng(n_nonzero)
    x = sparse_vector(rng, 200, n_nonzero)
    y = x.copy()
    y[np.flatnonzero(x)[0]] = 0
    y[np.flatnonzero(x == 0)[0]] = n_nonzero + 1
    family = hashing.DWTA(n_functions=1, n_tables=300, n_bins=4)
    p = family.collision_probability(x, y)
    surplus = []
    for seed in range(300):
        kernel = Winners(200, 1, 300, 4, True, seed)
        codes = kernel.hash(rows([x, y]))
        empty = both_empty(kernel, x, y)
        assert empty.any()
        found = empty & (codes != NO_BUCKET).any(axis=0)
        surplus.append((codes[0] == codes[1])[found].sum() - p * found.sum())
    assert abs(np.mean(surplus)) <= SIGMAS * np.std(surplus) / math.sqrt(len(surplus))


@pytest.mark.parametrize(("n_functions", "n_bins"), [(1, 2), (2, 2), (6, 8), (20, 3)])
def test_zero_vectors_have_no_bucket_in_dwta(n_functions, n_bins):
    codes = hashing.DWTA(n_functions, 4, n_bins).codes(np.zeros((2, 70)))
    assert (codes == NO_BUCKET).all()


def test_dwta_values_below_zero_win_over_nothing():
    # A bin is empty only where all of it is 0; among negative values the largest wins.
    kernel = Winners(16, 1, 8, 16, True, 0)
    x = -np.arange(1.0, 17.0)
    codes = kernel.hash(rows(x))[0]
    assert [kernel.arrays["coordinates"][t, c] for t, c in enumerate(codes)] == [0] * 8


# ----------------------------------------------------------------------------- exact packing


@pytest.mark.parametrize("n_bits", [1, 2, 9, 31, 32, 33, 62])
@pytest.mark.parametrize("rademacher", [False, True])
def test_every_simhash_bit_is_in_the_code(n_bits, rademacher):
    dim, n_tables = 45, 7
    kernel = kernels.SimHash(dim, n_bits, n_tables, rademacher, 3)
    x = np.random.default_rng(0).standard_normal((20, dim))
    codes = kernel.hash(rows(x))
    projections = kernel.arrays["projections"].reshape(n_tables, n_bits, -1)
    assert not projections[:, :, dim:].any()
    sums = np.einsum("tkd,nd->ntk", projections[:, :, :dim].astype(float), x)
    bits = (codes[:, :, None] >> np.arange(n_bits - 1, -1, -1, dtype=np.uint64)) & 1
    clear = np.abs(sums) > 1e-4
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(bits[clear], sums[clear] > 0)
    assert kernel.code_bits == n_bits
    assert (codes >> np.uint64(n_bits) == 0).all()


def mix64(z):
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014)."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def dwta_code(kernel, table, x, n_bins):
    """A table's code in Python, function by function; None if a function finds nothing."""
    coordinates, pool = kernel.arrays["coordinates"], kernel.arrays["pool"]
    bin_bits = (n_bins - 1).bit_length()
    width = kernel.code_bits // kernel.n_functions
    code = 0
    for k in range(kernel.n_functions):
        i = table * kernel.n_functions + k
        for tries in range(1 << (width - bin_bits)):
            step = mix64(i) >> 32 | 1
            source = pool[64 * table + (mix64(i) + tries * step) % 64] if tries else coordinates[i]
            values = x[source]
            if values.any():
                break
        else:
            return None
        code |= (tries << bin_bits | int(values.argmax())) << (width * (kernel.n_functions - 1 - k))
    return code


@pytest.mark.parametrize(
    ("n_functions", "n_bins"), [(1, 2), (2, 2), (3, 5), (6, 8), (8, 64), (20, 2), (20, 4), (15, 8)]
)
@pytest.mark.parametrize("n_nonzero", [1, 4, 90])
def test_every_dwta_winner_is_in_the_code(n_functions, n_bins, n_nonzero):
    kernel = Winners(90, n_functions, 6, n_bins, True, 1)
    rng = np.random.default_rng(n_nonzero)
    x = np.array([sparse_vector(rng, 90, n_nonzero) for _ in range(12)])
    expected = [
        [NO_BUCKET if (c := dwta_code(kernel, t, row, n_bins)) is None else c for t in range(6)]
        for row in x
    ]
    np.testing.assert_array_equal(kernel.hash(rows(x)), np.array(expected, np.uint64))
    assert kernel.code_bits <= 63


@pytest.mark.parametrize(("dim", "n_bins"), [(8, 8), (37, 3), (100, 7), (5, 2)])
def test_dwta_bins_are_disjoint_pieces_of_permutations(dim, n_bins):
    c = Winners(dim, 2, 50, n_bins, True, 0).arrays["coordinates"]
    whole = dim // n_bins
    for first in range(0, len(c) - whole + 1, whole):
        block = c[first : first + whole].ravel()
        assert len(np.unique(block)) == len(block)
    assert c.min() >= 0
    assert c.max() < dim
    assert len(np.unique(c)) == dim


# ------------------------------------------------------------------------- general behaviour

FAMILIES = [
    hashing.SimHash(n_bits=9, n_tables=11),
    hashing.SimHash(n_bits=40, n_tables=3, projection="rademacher"),
    hashing.DWTA(n_functions=3, n_tables=7, n_bins=4),
    hashing.SimHash(n_bits=9, n_tables=11, projection="sparse"),
    hashing.SimHash(n_bits=9, n_tables=17, projection="hadamard"),
    hashing.WTA(n_functions=3, n_tables=7, n_bins=4),
    hashing.MinHash(n_functions=3, n_tables=7, top_k=10),
    hashing.CrossPolytope(n_functions=2, n_tables=5),
    hashing.CrossPolytope(n_functions=3, n_tables=5, rotation="hadamard", dim=3),
    hashing.E2LSH(n_functions=3, n_tables=7, transform=None),
]


@pytest.mark.parametrize("family", FAMILIES, ids=repr)
def test_codes_are_a_function_of_the_seed_and_the_vector_alone(family):
    X = np.random.default_rng(0).standard_normal((9, 33)).astype(np.float32)
    codes = family.codes(X, seed=4)
    assert codes.shape == (9, family.n_tables)
    assert codes.dtype == np.uint64
    np.testing.assert_array_equal(codes, family.codes(X, seed=4))
    np.testing.assert_array_equal(codes, family.codes(sp.csr_array(X), seed=4))
    np.testing.assert_array_equal(codes, family.codes(X.tolist(), seed=4))
    for i in range(len(X)):
        np.testing.assert_array_equal(codes[i : i + 1], family.codes(X[i : i + 1], seed=4))
    assert (family.codes(X, seed=5) != codes).any()


@pytest.mark.parametrize("family", FAMILIES[:-1], ids=repr)
@given(seed=seeds, dim=odd_widths, exponent=st.integers(-20, 20))
@settings(max_examples=12, deadline=None)
def test_codes_do_not_depend_on_the_length_of_a_vector(family, seed, dim, exponent):
    dim = max(dim, 4)
    x = np.random.default_rng(seed).standard_normal((3, dim)).astype(np.float32)
    # Powers of two scale without rounding.
    np.testing.assert_array_equal(
        family.codes(x, seed), family.codes(x * np.float32(2.0**exponent), seed)
    )


def test_codes_of_no_vectors():
    assert hashing.SimHash(4, 3).codes(np.zeros((0, 5))).shape == (0, 3)


@pytest.mark.parametrize(
    "family", [*FAMILIES, hashing.Clusters(8, 2, capacity_factor=1.5)], ids=repr
)
def test_families_come_back_from_their_descriptions(family):
    again = hashing.get(hashing.serialize(family))
    assert type(again) is type(family)
    assert again.get_config() == family.get_config()
    assert hashing.get(family) is family
    assert eval(repr(family), vars(hashing)).get_config() == family.get_config()


def test_families_come_from_names():
    assert isinstance(hashing.get("simhash"), hashing.SimHash)
    assert isinstance(hashing.get("DWTA"), hashing.DWTA)
    assert isinstance(hashing.get("clusters"), hashing.Clusters)


@pytest.mark.parametrize("n_neurons", [1, 2, 99, 100, 13_043, 65_536, 65_537, 670_091])
def test_cluster_layouts(n_neurons):
    groups, cells = hashing.Clusters().layout(n_neurons)
    wanted = max(1, n_neurons // (100 if n_neurons <= 65_536 else 40))
    assert wanted <= groups * cells < wanted + groups
    assert groups == (1 if wanted <= 1024 else round(math.sqrt(wanted)))
    groups, cells = hashing.Clusters(n_cells=1000, n_groups=10).layout(n_neurons)
    assert groups * cells >= min(1000, n_neurons)
    assert groups <= min(10, n_neurons)


@pytest.mark.parametrize("capacity_factor", [1, 1.0, 1.1, 1.25, 3.7, 1e308])
@pytest.mark.parametrize("n_groups", ["auto", 1, 7])
@pytest.mark.parametrize("n_neurons", [1, 2, 5, 99, 100, 13_043, 670_091, 10_000_019])
def test_capacities_of_cells(n_neurons, n_groups, capacity_factor):
    for n_cells in ("auto", 3, 10, 5000, 1 << 24):
        family = hashing.Clusters(n_cells, n_groups=n_groups, capacity_factor=capacity_factor)
        cells = math.prod(family.layout(n_neurons))
        wanted = math.ceil(Fraction(str(capacity_factor)) * n_neurons / cells)
        assert family.capacity(n_neurons) == min(wanted, n_neurons)
        assert cells * family.capacity(n_neurons) >= n_neurons
    assert hashing.Clusters().capacity(n_neurons) == 0


# --------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (lambda v: hashing.SimHash(n_bits=v), "n_bits", 0),
        (lambda v: hashing.SimHash(n_bits=v), "n_bits", 63),
        (lambda v: hashing.SimHash(n_bits=v), "n_bits", -3),
        (lambda v: hashing.SimHash(n_tables=v), "n_tables", 0),
        (lambda v: hashing.SimHash(n_tables=v), "n_tables", 10_001),
        (lambda v: hashing.SimHash(projection=v), "projection", "dense"),
        (lambda v: hashing.DWTA(n_functions=v), "n_functions", 0),
        (lambda v: hashing.DWTA(n_functions=v), "n_functions", 21),
        (lambda v: hashing.DWTA(n_tables=v), "n_tables", -1),
        (lambda v: hashing.DWTA(n_bins=v), "n_bins", 1),
        (lambda v: hashing.DWTA(n_bins=v), "n_bins", 65),
        (lambda v: hashing.DWTA(n_functions=v, n_bins=8), "n_functions", 16),
        (lambda v: hashing.Clusters(n_cells=v), "n_cells", 0),
        (lambda v: hashing.Clusters(n_cells=v), "n_cells", 1 << 25),
        (lambda v: hashing.Clusters(n_tables=v), "n_tables", 0),
        (lambda v: hashing.Clusters(n_groups=v), "n_groups", -2),
        (lambda v: hashing.Clusters(n_probes=v), "n_probes", 0),
        (lambda v: hashing.Clusters(capacity_factor=v), "capacity_factor must be at least 1", 0.99),
        (lambda v: hashing.Clusters(capacity_factor=v), "capacity_factor must be finite", math.nan),
        (lambda v: hashing.Clusters(capacity_factor=v), "capacity_factor must be finite", math.inf),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(make, name, value):
    with pytest.raises(ValueError, match=rf"{name}.*{re.escape(str(value))}"):
        make(value)


@pytest.mark.parametrize("value", [2.0, "4", None, True, [3]])
@pytest.mark.parametrize(
    ("family", "name"),
    [
        (hashing.SimHash, "n_bits"),
        (hashing.SimHash, "n_tables"),
        (hashing.DWTA, "n_functions"),
        (hashing.DWTA, "n_bins"),
        (hashing.DWTA, "n_tables"),
        (hashing.Clusters, "n_cells"),
        (hashing.Clusters, "n_groups"),
        (hashing.Clusters, "n_probes"),
    ],
)
def test_numbers_of_a_wrong_type_are_refused_by_name(family, name, value):
    words = f"{name} must be an integer, got {value!r}"
    with pytest.raises(TypeError, match=re.escape(words)):
        family(**{name: value})


@pytest.mark.parametrize("value", ["1.5", True, [1.5]])
def test_a_load_is_a_number(value):
    words = f"capacity_factor must be a number, got {value!r}"
    with pytest.raises(TypeError, match=re.escape(words)):
        hashing.Clusters(capacity_factor=value)


def test_unknown_families_are_refused():
    with pytest.raises(ValueError, match="hash 'maxhash' is unknown; known are Clusters, Cross"):
        hashing.get("maxhash")
    with pytest.raises(TypeError, match=r"hash must be a HashFamily, .* got 5"):
        hashing.get(5)
    with pytest.raises(ValueError, match="n_bit"):
        hashing.get({"class_name": "SimHash", "config": {"n_bit": 3}})


def test_vectors_that_cannot_be_hashed_are_refused():
    family = hashing.DWTA(n_functions=2, n_tables=2, n_bins=8)
    with pytest.raises(ValueError, match="n_bins=8 is more than the 7 values"):
        family.codes(np.ones((1, 7)))
    with pytest.raises(ValueError, match=r"X must have shape \(n, d\).*\(7,\)"):
        family.codes(np.ones(7))
    with pytest.raises(ValueError, match=r"X\[1, 2\] is nan"):
        family.codes([[1.0] * 9, [1.0, 2.0, np.nan] * 3])
    with pytest.raises(ValueError, match=r"seed must be .*-1"):
        family.codes(np.ones((1, 9)), seed=-1)
    with pytest.raises(ValueError, match=r"shapes \(9,\) and \(8,\)"):
        family.collision_probability(np.ones(9), np.ones(8))
    with pytest.raises(ValueError, match=">= 8"):
        family.collision_probability(np.ones(5), np.ones(5))
    with pytest.raises(ValueError, match="17 columns; padded rows have 32"):
        kernels.SimHash(17, 2, 2, False, 0).hash(np.zeros((1, 17), np.float32))
