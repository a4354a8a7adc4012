"""What benchmarks measure of the kernels is done, and refused where it is out of range."""

import numpy as np
import pytest

from slide._kernels import probes
from slide._memory import aligned_zeros


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
    # Lists enough for any clock to move.
    W, ids = aligned_zeros((10, 32)), np.array([[0, 9, 3, 3]] * 5000, np.int32)
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
    for codes, components in ((15 * 32, 32), (4096, 4), (4096, 12), (1 << 20, 2048)):
        with pytest.raises(ValueError, match=f"{codes} codes of {components}"):
            probes.byte_products(np.zeros(codes, np.uint8), components)


def test_bandwidth_and_rate():
    seconds, n = probes.reads(np.ones(600_000, np.float32), 2)
    assert seconds > 0
    assert n == 2 * 262_144
    assert probes.matrix_products(8, 8, 8, 2, 3) > 0
    seconds, n = probes.byte_products(np.zeros(70 * 32, np.uint8), 32, 2, 1000)
    assert seconds > 0
    assert n == 64 * 32 * 1000
