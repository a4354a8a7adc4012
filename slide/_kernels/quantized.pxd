"""Vectors in bytes, as `simd.sketch_scan` multiplies them."""
from libc.math cimport fabsf, roundf
from libc.stdint cimport int8_t, int32_t, uint8_t

cdef enum:
    MIDDLE = 64         # code of 0


cdef inline float encode(const float *z, Py_ssize_t n, uint8_t *codes,
                         Py_ssize_t place) noexcept nogil:
    """Makes the codes of n values, a multiple of 4, those of an item in this place among all;
    returns what a step of them is worth."""
    cdef float most = 0, a
    cdef Py_ssize_t j
    for j in range(n):
        most = max(most, fabsf(z[j]))
    a = (MIDDLE - 1) / most if most > 1e-30 else 0
    codes += place // 16 * 16 * n + place % 16 * 4
    for j in range(n):
        codes[j // 4 * 64 + j % 4] = <uint8_t> (MIDDLE + <int> roundf(z[j] * a))
    return most / (MIDDLE - 1)


cdef inline float quantize(const float *y, Py_ssize_t n, int8_t *q, int32_t *base) noexcept nogil:
    """q <- y in steps, whose worth is returned; base <- the product of q with codes of 0."""
    cdef float size = 0, a
    cdef Py_ssize_t j
    for j in range(n):
        size = max(size, fabsf(y[j]))
    a = 127 / size if size > 1e-30 else 0
    base[0] = 0
    for j in range(n):
        q[j] = <int8_t> roundf(y[j] * a)
        base[0] += MIDDLE * q[j]
    return size / 127
