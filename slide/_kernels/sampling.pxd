from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from slide._kernels.inclusion cimport Inclusion
from slide._kernels.optim cimport Parameters
from slide._kernels.rebuilds cimport Rebuilds
from slide._kernels.retrieval cimport Marks, MarkSets, Retriever, fresh
from slide._kernels.types cimport Buffer
from slide._kernels.weighted cimport WeightedDraw


cdef class ActiveSet:
    """Which neurons of a layer a sample computes: its labels, what is retrieved, random ones."""
    cdef readonly Retriever retriever
    cdef readonly Rebuilds rebuilds
    cdef readonly Py_ssize_t n_neurons, max_active, min_active
    cdef readonly Py_ssize_t n_tail, n_own_tail, n_frequent, n_shared
    cdef readonly bint corrected
    cdef readonly bint draws        # neurons by their activations, instead of the largest
    cdef float pi                   # inclusion probability of the tail's neurons; 1: uncorrected
    cdef readonly WeightedDraw draw     # of a tail by frequency, or None
    cdef readonly Inclusion inclusion   # of retrieved neurons, where they are weighted by it
    cdef readonly bint individual       # own neurons have inclusion probabilities of their own
    cdef Buffer shared_buffer, place_buffer
    cdef Buffer counts_buffer, order_buffer
    cdef int32_t *shared            # the batch's shared neurons: n_tail random ones, n_frequent
    cdef int32_t *place             # per neuron its place among them, or -1
    cdef int64_t *counts            # per neuron how often training had it as a label
    cdef int64_t n_counted, next_order
    cdef uint8_t *dirty             # of the rebuilds
    cdef readonly int n_threads
    cdef MarkSets marks
    cdef Marks *fresh_marks(self, int thread) noexcept nogil
    cdef void count_labels(self, const int32_t *labels, Py_ssize_t n) noexcept nogil
    cdef void _order(self) noexcept nogil
    cdef void _sift(self, int32_t *heap, Py_ssize_t i, Py_ssize_t n) noexcept nogil
    cdef bint _rarer(self, int32_t a, int32_t b) noexcept nogil
    cdef void share(self, uint64_t seed, uint64_t step) noexcept nogil
    cdef void look(self, const float *x, Py_ssize_t ld, Py_ssize_t n, const uint64_t *rngs,
                   int thread) noexcept nogil
    cdef Py_ssize_t select(self, const float *x, const int32_t *labels, Py_ssize_t n_labels,
                           int32_t *out, uint64_t rng, int32_t *drawn,
                           int thread, float *pi=*) noexcept nogil
    cdef Py_ssize_t select_projected(self, float *q, float squared, int32_t *out, uint64_t rng,
                                     int thread) noexcept nogil
    cdef Py_ssize_t _fill(self, int32_t *out, Py_ssize_t n, Py_ssize_t least, Marks *marks,
                          uint64_t *rng) noexcept nogil
    cdef float own_pi(self, Py_ssize_t drawn, Py_ssize_t n) noexcept nogil
    cdef Py_ssize_t query(self, const float *x, int32_t *out, Py_ssize_t most, uint64_t rng,
                          int thread) noexcept nogil
    cdef int64_t debt                   # multiplications that predictions made for training
    cdef void prepare(self, Parameters p, uint64_t seed, uint64_t step,
                      int n_threads) noexcept nogil
    cdef void maintain(self, Parameters p, uint64_t seed, uint64_t step,
                       int n_threads) noexcept nogil
