from libc.stdint cimport int32_t, uint64_t

from slide._kernels.optim cimport Parameters
from slide._kernels.random cimport mix64


cdef class HashFamily:
    """K hash functions packed into one code, L times."""
    cdef readonly int n_functions   # K
    cdef readonly int n_tables      # L
    cdef readonly int code_bits
    cdef readonly Py_ssize_t dim    # values of a vector; ld of them padded with zeros
    cdef readonly Py_ssize_t ld
    cdef readonly Py_ssize_t products   # multiply-adds that a table's code takes
    cdef readonly object arrays     # the functions' parameters by name
    cdef readonly int n_ranges      # parts of the items whose codes differ; see `of_range`
    cdef readonly bint fitted       # functions depend on the weights, by `fit`
    # Of families of angles, for `any_code`: values of a function, all equally likely at a right
    # angle; 0: of others
    cdef uint64_t n_values
    cdef uint64_t any_code(self, const float *x, int table, uint64_t key,
                           float *scratch) noexcept nogil
    cdef bint fit(self, Parameters p, bint anyhow) noexcept nogil
    cdef void query_codes(self, const float *x, int first, int last, uint64_t *out,
                          float *scratch) noexcept nogil
    cdef uint64_t of_range(self, uint64_t code, int r) noexcept nogil
    cdef Py_ssize_t scratch_floats(self) noexcept nogil
    cdef void codes(self, const float *x, int first, int last, uint64_t *out,
                    float *scratch) noexcept nogil
    cdef void redraw(self, uint64_t seed, int first, int last) noexcept nogil

cdef enum:
    NO_BUCKET = 0xffffffffffffffff    # the code of a vector that must not be found


cdef inline bint is_zero(const float *x, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        if x[i] != 0:
            return False
    return True


cdef inline void nowhere(uint64_t *out, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = <uint64_t> NO_BUCKET


cdef inline uint64_t append(uint64_t code, uint64_t value) noexcept nogil:
    """The code with one function more, where values do not fit side by side."""
    return mix64(code * <uint64_t> 0x9E3779B97F4A7C15 + value + 1)


cdef inline double convertible(double value) noexcept nogil:
    """The value, or the nearest that an int64 holds: to convert another one is undefined in C."""
    if not -9e18 < value < 9e18:
        return 9e18 if value > 0 else -9e18
    return value


cdef in_range(arrays, name, Py_ssize_t n)
cdef void shuffle(int32_t *p, Py_ssize_t n, Py_ssize_t first, Py_ssize_t last,
                  uint64_t *state) noexcept nogil
