from libc.stdint cimport int32_t, uint64_t


cdef class HashFamily:
    """K hash functions packed into one code, L times."""
    cdef readonly int n_functions   # K
    cdef readonly int n_tables      # L
    cdef readonly int code_bits
    cdef readonly Py_ssize_t dim    # values of a vector; ld of them padded with zeros
    cdef readonly Py_ssize_t ld
    cdef readonly Py_ssize_t products   # multiplications that a table's code takes
    cdef readonly object arrays     # the functions' parameters by name
    cdef Py_ssize_t scratch_floats(self) noexcept nogil
    cdef void codes(self, const float *x, int first, int last, uint64_t *out,
                    float *scratch) noexcept nogil
    cdef void redraw(self, uint64_t seed, int first, int last) noexcept nogil

cdef enum:
    NO_BUCKET = 0xffffffffffffffff    # the code of a vector that must not be found
