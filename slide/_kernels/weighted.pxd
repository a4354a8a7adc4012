from libc.stdint cimport int32_t, int64_t, uint64_t

from slide._kernels.retrieval cimport Marks
from slide._kernels.types cimport Buffer


cdef class WeightedDraw:
    """Draws of fixed size whose neurons have inclusion probabilities min(1, c q)."""
    cdef readonly Py_ssize_t n_neurons, n_drawn
    cdef readonly Py_ssize_t n_items    # neurons that can be drawn; 0: nothing was made yet
    cdef readonly double power
    cdef Buffer order_buffer, sums_buffer, starts_buffer, pi_buffer
    cdef int32_t *order                 # the neurons on the line
    cdef double *sums                   # where each ends; its length is its probability
    cdef int32_t *starts                # the first that ends after 0, 1, 2, ...
    cdef float *pi                      # of a shared draw, and their -log
    cdef float *log_pi
    cdef void make(self, const int64_t *counts, const int32_t *place, Py_ssize_t n_tail,
                   uint64_t seed) noexcept nogil
    cdef void _index(self) noexcept nogil
    cdef Py_ssize_t _find(self, Py_ssize_t k, double u, Py_ssize_t before) noexcept nogil
    cdef float _probability(self, Py_ssize_t j) noexcept nogil
    cdef void share(self, int32_t *shared, int32_t *place, uint64_t *rng) noexcept nogil
    cdef Py_ssize_t take(self, int32_t *out, Py_ssize_t n, Marks *marks, uint64_t *rng,
                         float *pi) noexcept nogil
