"""Vectors in bytes, as `simd.sketch_scan` multiplies them."""
from libc.math cimport fabsf
from libc.stdint cimport int8_t, int32_t, uint8_t, uint32_t
from libc.string cimport memcpy

from slide._kernels.simd cimport simd

cdef enum:
    MIDDLE = 64         # code of 0
    MOST = 511 - 8      # of sums of a query's values, see simd.h; 16 are rounded by a half at most


cdef inline float largest_size(const float *z, Py_ssize_t n) noexcept nogil:
    """Of n >= 1 values."""
    cdef float low, high
    simd.range(z, n, &low, &high)
    return max(-low, high)


cdef inline float encode(const float *z, Py_ssize_t n, uint8_t *codes,
                         Py_ssize_t place) noexcept nogil:
    """Makes the codes of n values, a multiple of 16, those of an item in this place among all;
    returns what a step of them is worth."""
    cdef float most = largest_size(z, n)
    cdef float a = (MIDDLE - 1) / most if most > 1e-30 else 0
    cdef uint8_t[16] code
    cdef Py_ssize_t j, k
    codes += place // 16 * 16 * n + place % 16 * 4
    for j in range(0, n, 16):
        for k in range(16):
            # Truncation rounds to the nearest: what it gets is positive.
            code[k] = <uint8_t> <int32_t> (z[j + k] * a + <float> (MIDDLE + 0.5))
        for k in range(4):
            memcpy(codes + 16 * j + 64 * k, code + 4 * k, 4)
    return most / (MIDDLE - 1)


cdef inline float largest_sum(const float *y, Py_ssize_t n) noexcept nogil:
    """Of every 32 of n values, the first two of each four, or the last two: their sizes' sum."""
    cdef float most = 0, low, high
    cdef Py_ssize_t i, j, last
    for i in range(0, n, 32):
        low = high = 0
        last = min(n, i + 32)
        for j in range(i, last - 3, 4):
            low += fabsf(y[j]) + fabsf(y[j + 1])
            high += fabsf(y[j + 2]) + fabsf(y[j + 3])
        for j in range(last - last % 4, last):
            low += fabsf(y[j])      # as if all of a part of four were among the first two
        most = max(most, low, high)
    return most


cdef inline float quantize(const float *y, Py_ssize_t n, int8_t *q, int32_t *base) noexcept nogil:
    """q <- y in steps, whose worth is returned; base <- the product of q with codes of 0."""
    cdef float size = max(largest_size(y, n), largest_sum(y, n) * <float> (127.0 / MOST))
    cdef float a = 127 / size if size > 1e-30 else 0
    cdef int32_t total = 0
    cdef Py_ssize_t j
    for j in range(n):
        # As above. Of an infinite y some code, without an overflow of signed numbers.
        q[j] = <int8_t> (<uint32_t> <int32_t> (y[j] * a + <float> 128.5) - <uint32_t> 128)
        total += q[j]
    base[0] = MIDDLE * total
    return size / 127
