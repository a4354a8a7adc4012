from libc.stdint cimport int32_t, uint64_t

from slide._kernels.layers cimport LayerKernel
from slide._kernels.optim cimport ColumnStep
from slide._kernels.selection cimport Given, Selector
from slide._kernels.types cimport Batch, Buffer, PerThread, SparseRows


cdef class SparseDense(LayerKernel):
    """A layer with a sparse input, a sparse output, or both: active times active weights."""
    cdef readonly Selector selector     # None: all neurons
    cdef ColumnStep columns             # with sparse input
    cdef float *sums                    # all neurons', (batch, ld_out), where they are ranked
    # The batch's lists of neurons by neuron: entry i of neuron r, start[r] <= i < start[r + 1],
    # is that of a sample, at a place of the lists. NULL: all neurons of all samples.
    cdef int32_t *start
    cdef int32_t *sample
    cdef int32_t *place
    cdef Buffer sums_buffer, start_buffer, entries_buffer, parts_buffer
    cdef Buffer shown                   # (LEARNT, ld_in): some samples' sparse inputs as rows
    cdef int n_tiles                    # of TILE columns, in which a wide row stays in cache
    cdef int32_t *cuts                  # (batch, n_tiles + 1): where inputs' lists enter each
    cdef Buffer cuts_buffer
    cdef Py_ssize_t n_parts
    cdef float *parts                   # (n_parts, batch, capacity below) input gradients
    cdef Py_ssize_t batch_size
    cdef int n_threads
    cdef bint training
    cdef PerThread gather, stamps, touched, sum
    cdef Given _given(self, Py_ssize_t s) noexcept nogil
    cdef void _dots(self, Given *x, const int32_t *ids, Py_ssize_t n, float *z) noexcept nogil
    cdef Py_ssize_t _candidates(self, Batch *b, Py_ssize_t s, int thread) noexcept nogil
    cdef uint64_t _stream(self, Batch *b, Py_ssize_t s) noexcept nogil
    cdef void _all_sums(self, Batch *b, Py_ssize_t first, Py_ssize_t last,
                        int thread) noexcept nogil
    cdef void _activate(self, Batch *b, Py_ssize_t s, Py_ssize_t n, int thread) noexcept nogil
    cdef void _transpose(self, Batch *b, bint closed) noexcept nogil
    cdef void _cut(self, Py_ssize_t s) noexcept nogil
    cdef void _dot_row(self, Py_ssize_t r, int thread) noexcept nogil
    cdef void _show(self, Batch *b, Py_ssize_t n) noexcept nogil
    cdef const float *_grads(self) noexcept nogil
    cdef double _through(self, Batch *b, Py_ssize_t s, int thread) noexcept nogil
    cdef void _spread(self, Batch *b, Py_ssize_t part, int thread) noexcept nogil
    cdef void _collect(self, Batch *b, Py_ssize_t s) noexcept nogil
    cdef void _input_gradient(self, Batch *b, Py_ssize_t s, int thread) noexcept nogil
    cdef void _step_row(self, Batch *b, Py_ssize_t r, int thread) noexcept nogil
    cdef void _step_columns(self, Batch *b, Py_ssize_t r, const int32_t *samples,
                            const float *coefs, Py_ssize_t n, int thread) noexcept nogil
