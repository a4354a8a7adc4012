from libc.stdint cimport int32_t, uint8_t, uint64_t

from slide._kernels.clusters cimport ClusterRetriever
from slide._kernels.optim cimport Parameters
from slide._kernels.retrieval cimport Marks, Retriever
from slide._kernels.simd cimport Codes, Query
from slide._kernels.types cimport Buffer, PerThread


cdef struct Search:
    # Of one query: what it has to find, and what it has found so far. Where neurons are drawn, its
    # noise is added to the scores, and a sum must exceed tau for the neuron to be drawn.
    Query query                         # its lists begin where the next neurons go
    Py_ssize_t wanted, found, seen
    Py_ssize_t room                     # for CHUNK more than this, the lists are cut down
    int32_t *places
    float *scores
    float *scratch
    Marks *marks                        # NULL: all neurons are listed
    const float *noise                  # from place 0 on, or NULL
    float tau


cdef struct Looked:
    # Queries whose neurons are listed already
    const float *x
    Py_ssize_t ld, n
    bint drawing


cdef class SketchRetriever(Retriever):
    cdef ClusterRetriever coarse
    cdef Py_ssize_t dim, n_components, n_scored
    cdef Py_ssize_t room                # of a thread's lists
    cdef float[:, ::1] basis, functions
    cdef float[::1] mean, shift, scales, offsets
    cdef double[::1] seen
    cdef uint8_t[:, :, :, ::1] codes    # (blocks of 16 neurons, quads of components, 16, 4)
    cdef Codes neurons
    cdef Buffer projected, sample_buffer, sum_buffer, noise_buffer
    cdef PerThread lists, queries, rows
    cdef Py_ssize_t n_expected, block_room     # 0: queries are not looked at in advance
    cdef PerThread looked, searches, block_lists
    cdef void _make_noise(self, float *noise) noexcept nogil
    cdef void _learn(self, Parameters p, uint64_t seed, int n_rounds, int n_threads) noexcept nogil
    cdef void _power(self, Parameters p, const int32_t *ids, Py_ssize_t n,
                     int n_threads) noexcept nogil
    cdef void _sum_rows(self, Parameters p, const int32_t *ids, Py_ssize_t n,
                        Py_ssize_t first) noexcept nogil
    cdef void _orthonormalize(self, uint64_t *rng) noexcept nogil
    cdef void _encode(self, Parameters p, int n_threads) noexcept nogil
    cdef void _code(self, Parameters p, Py_ssize_t place, int thread) noexcept nogil
    cdef void _search(self, const float *x, Search *s, int thread) noexcept nogil
    cdef bint _listed(self, const float *x, Search *s, int thread) noexcept nogil
    cdef void _start(self, Search *s) noexcept nogil
    cdef void _quantize(self, Search *s, float *y) noexcept nogil
    cdef void _guess(self, Search *s, Py_ssize_t first, Py_ssize_t stop) noexcept nogil
    cdef void _aim(self, Search *s, Py_ssize_t every) noexcept nogil
    cdef void _list(self, Search *searches, int n, Py_ssize_t first, Py_ssize_t stop,
                    Py_ssize_t every, bint noisy) noexcept nogil
    cdef void _scan(self, Search *s, Py_ssize_t first, Py_ssize_t stop) noexcept nogil
    cdef void _make_room(self, Search *s) noexcept nogil
    cdef void _shorten(self, Search *s) noexcept nogil
    cdef void _drop_marked(self, Search *s, Py_ssize_t first) noexcept nogil
