"""Vectors in bytes, as `simd.sketch_scan` multiplies them."""
from libc.stdint cimport int8_t, int32_t, uint8_t, uint32_t
from libc.string cimport memcpy

from slide._kernels.simd cimport simd

cdef enum:
    MIDDLE = 64         # code of 0


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


cdef inline float quantize(const float *y, Py_ssize_t n, int8_t *q, int32_t *base) noexcept nogil:
    """q <- y in steps, whose worth is returned; base <- the product of q with codes of 0."""
    cdef float size = largest_size(y, n)
    cdef float a = 127 / size if size > 1e-30 else 0
    cdef int32_t total = 0
    cdef Py_ssize_t j
    for j in range(n):
        # As above. Of an infinite y some code, without an overflow of signed numbers.
        q[j] = <int8_t> (<uint32_t> <int32_t> (y[j] * a + <float> 128.5) - <uint32_t> 128)
        total += q[j]
    base[0] = MIDDLE * total
    return size / 127
