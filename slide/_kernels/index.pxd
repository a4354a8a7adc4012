from libc.stdint cimport int32_t, uint8_t, uint64_t

from slide._kernels.optim cimport Parameters
from slide._kernels.sampling cimport ActiveSet
from slide._kernels.types cimport Buffer, PerThread


cdef struct Best:
    # The k best so far: a heap with the worst at its root.
    int32_t *ids
    float *scores
    Py_ssize_t n, k
    # The largest score seen, and the sum of exp(score - highest); only if `sums`.
    bint sums
    double highest, total


cdef class Searcher:
    cdef readonly ActiveSet active
    cdef readonly Parameters params
    cdef const float[:, ::1] more
    cdef const int32_t[::1] labels
    cdef const uint8_t[::1] gone
    cdef readonly Py_ssize_t n_built, n_rows, n_candidates
    cdef readonly bint whole            # every query looks at all rows
    cdef readonly int n_threads
    cdef uint64_t seed
    cdef PerThread ids, scores, products
    cdef void _query(self, const float *x, int32_t *ids, float *scores, Py_ssize_t k,
                     int thread) noexcept nogil
    cdef void search(self, const float *x, Best *best, int thread) noexcept nogil
    cdef void _rows(self, const float *x, const float *w, Py_ssize_t first, Py_ssize_t n,
                    Best *best, int thread) noexcept nogil
    cdef void _offer(self, float score, int32_t label, Best *best) noexcept nogil
