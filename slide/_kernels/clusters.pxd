from libc.stdint cimport int8_t, int32_t, uint8_t, uint64_t

from slide._kernels.optim cimport Parameters
from slide._kernels.retrieval cimport Marks, Retriever
from slide._kernels.simd cimport Codes
from slide._kernels.types cimport Buffer, PerThread


cdef struct Cell:
    float score
    int32_t cell            # table * n_cells + cell


cdef struct Member:
    float similarity        # cosine with the centroid of the cell, or of the group
    int32_t row, place      # place: in the list of rows that are assigned


cdef class ClusterRetriever(Retriever):
    cdef Py_ssize_t dim
    cdef Py_ssize_t capacity            # most neurons of a cell; 0: any number
    cdef int n_groups, n_cells          # a table; cells = n_groups * cells of a group
    cdef int cells_of_group, n_probes
    cdef float[:, :, ::1] centroids, means, group_centroids, group_means
    cdef Buffer codes_buffer, moved_buffer, norm_buffer, group_buffer
    cdef PerThread scores, heaps, coefs, blocks
    # Of many cells, what queries compare: the means in bytes, and their biases
    cdef bint compact
    cdef Buffer codes_of_means, steps_buffer, biases_buffer
    cdef uint8_t *codes
    cdef float *steps
    cdef float *biases
    cdef Codes coded
    cdef PerThread queries, listed
    cdef Buffer room_buffer, member_buffer, choice_buffer   # of a bounded assignment
    cdef void _norms(self, Parameters p, int n_threads) noexcept nogil
    cdef void _seed(self, Parameters p, float *centroid, Py_ssize_t row) noexcept nogil
    cdef void _sum(self, Parameters p, float *out, const int32_t *ids, Py_ssize_t n,
                   const float *weight, int thread) noexcept nogil
    cdef void _direction(self, Parameters p, float *out, const int32_t *ids, Py_ssize_t n,
                         uint64_t rng, int thread) noexcept nogil
    cdef void _center(self, Parameters p, int t, uint64_t seed, int n_threads) noexcept nogil
    cdef void _average(self, Parameters p, int t, int n_threads) noexcept nogil
    cdef Py_ssize_t _nearest(self, const float *w, const float *centroids, Py_ssize_t n,
                             Py_ssize_t ld, float *scores, int thread) noexcept nogil
    cdef void _nearest_of(self, Parameters p, const float *centroids, Py_ssize_t n,
                          const int32_t *ids, Py_ssize_t first, const int32_t *order,
                          Py_ssize_t count, uint64_t origin, uint64_t *codes,
                          int thread) noexcept nogil
    cdef void _cells(self, Parameters p, int t, const int32_t *ids, Py_ssize_t first,
                     Py_ssize_t n, uint64_t *codes, int n_threads) noexcept nogil
    cdef void _encode(self, int t, Py_ssize_t cell) noexcept nogil
    cdef uint64_t *_place(self, Parameters p, int t, const int32_t *ids, Py_ssize_t n,
                          int n_threads) noexcept nogil
    cdef void _assign(self, Parameters p, int t, const int32_t *ids, Py_ssize_t n,
                      int n_threads) noexcept nogil
    cdef void _bound(self, Parameters p, int t, const int32_t *ids, Py_ssize_t n, uint64_t *codes,
                     int n_threads) noexcept nogil
    cdef void _compare(self, Parameters p, int t, Py_ssize_t row, uint64_t code, bint groups,
                       float *similarity, int thread) noexcept nogil
    cdef void _balance(self, Parameters p, int t, const int32_t *ids, Py_ssize_t n,
                       uint64_t *codes, bint groups, int n_threads) noexcept nogil
    cdef void _settle(self, Parameters p, float *centroid, float *mean, const int32_t *ids,
                      Py_ssize_t n, uint64_t rng, int thread) noexcept nogil
    cdef Py_ssize_t _push(self, Cell *heap, Py_ssize_t n, const float *scores, int t,
                          Py_ssize_t first, Py_ssize_t count, Py_ssize_t width) noexcept nogil
    cdef Py_ssize_t _push_cells(self, Cell *heap, Py_ssize_t n, const float *x, int t,
                                Py_ssize_t first, Py_ssize_t count, float step, int32_t base,
                                float least, int thread) noexcept nogil
    cdef Py_ssize_t rank(self, const float *x, Py_ssize_t few, int thread) noexcept nogil
    cdef Py_ssize_t best(self, Py_ssize_t size, int thread) noexcept nogil
