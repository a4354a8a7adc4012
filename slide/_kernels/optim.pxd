from cpython.object cimport PyObject
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from slide._kernels.simd cimport simd
from slide._kernels.types cimport Buffer, PerThread

cdef enum:
    FAR = 1 << 20       # bytes of a table that the second-level cache may not hold


cdef class Parameters:
    """Rows of weights with their optimizer state, shared with NumPy arrays."""
    cdef readonly object weights, slots, state
    cdef float *w
    cdef float *s
    cdef float *r
    cdef Py_ssize_t n_rows, ld
    cdef Py_ssize_t n_cols          # columns in use: weights, then the bias if the row has one
    cdef Py_ssize_t n_weights       # of these, the weights
    cdef int n_slots, n_state
    cdef float l2
    cdef uint8_t *dirty             # set for every row that a step changed; NULL: nobody asks
    cdef bint far                   # too large for the second-level cache: rows are prefetched

    cdef inline int32_t *clock(self, Py_ssize_t i) noexcept nogil:
        """The steps made when row i had its last one. An integer in the bits of the float: floats
        are exact up to 2^24 only, and a row without gaps would seem to have some."""
        return <int32_t *> (self.r + i * self.n_state)

    cdef inline float *row(self, Py_ssize_t i) noexcept nogil:
        return self.w + i * self.ld

    cdef inline void dot(self, float *out, const int32_t *ids, Py_ssize_t n,
                         const float *x) noexcept nogil:
        """Products of the n rows ids (NULL: the first n) with x."""
        if self.far and ids != NULL:
            simd.far_dot(out, self.w, self.ld, ids, n, x)
        else:
            simd.rows_dot(out, self.w, self.ld, ids, n, x)

    cdef inline void axpy(self, float *y, const int32_t *ids, const float *c,
                          Py_ssize_t n) noexcept nogil:
        """y += the sum of the n rows ids, each times its c."""
        if self.far:
            simd.far_axpy(y, self.ld, self.w, self.ld, ids, c, n)
        else:
            simd.rows_axpy(y, self.ld, self.w, self.ld, ids, c, n)


cdef class Optimizer:
    cdef readonly int n_slots
    cdef readonly int n_state
    cdef readonly bint idle         # whether a step with gradient zero changes nothing
    cdef double now                 # steps made since the optimizer started: its clock
    cdef void tick(self, double now) noexcept nogil
    cdef void step(self, Parameters p, Py_ssize_t row, float *g, float lr) noexcept nogil
    cdef void skip_row(self, Parameters p, Py_ssize_t row) noexcept nogil
    cdef void step_row(self, Parameters p, Py_ssize_t row, float *g, float lr) noexcept nogil
    cdef void advance_row(self, Parameters p, Py_ssize_t row, float *g, float lr) noexcept nogil


cdef class ColumnStep:
    """Steps on some columns of a row: weights that no sample used stay as they are."""
    cdef Optimizer optimizer
    cdef list rows                  # of Parameters, one a thread: the columns side by side
    cdef PyObject **row
    cdef Buffer row_buffer
    cdef void step(self, Parameters p, Py_ssize_t row, const int32_t *columns, Py_ssize_t n,
                   float *g, float lr, int thread) noexcept nogil


cdef union Factor:
    float coef
    int32_t place                   # of the coefficient in its sample's list


cdef struct Entry:
    uint32_t key                    # the row's number within its part, then the sample's
    Factor factor


cdef class RowUpdate:
    """Sums a batch's sparse gradients by row and makes one optimizer step a row."""
    cdef Parameters params
    cdef Optimizer optimizer
    cdef readonly bint by_place
    cdef int log_run, log_parts, sample_bits
    cdef Py_ssize_t n_parts, n_blocks, capacity, max_rows
    cdef Buffer entries_buffer, hist_buffer, start_buffer, ids_buffer, coef_buffer, count_buffer
    cdef Buffer samples_buffer, factors_buffer, rows_buffer, ends_buffer, n_rows_buffer
    cdef Entry *entries
    # Of part k, from start[k] on: the entries' samples and factors by row; n_rows[k] rows, which
    # ascend, and where the entries of each end.
    cdef int32_t *samples
    cdef Factor *factors
    cdef int32_t *rows
    cdef int32_t *ends
    cdef int32_t *n_rows
    cdef Py_ssize_t *hist
    cdef Py_ssize_t *start
    # The caller sets, per sample, where its row ids and coefficients are and how many.
    cdef const int32_t **ids
    cdef const float **coef
    cdef int32_t *count
    # Rows of which a part of the gradient, or all, is summed by the caller: their ids, per row its
    # place among them or -1, and the sums. Those of one part of the rows are a chain.
    cdef Py_ssize_t n_extra
    cdef const int32_t *extra_ids
    cdef const int32_t *extra_pos
    cdef float *extra
    cdef Buffer extra_buffer, chain_buffer
    cdef int32_t *chain_first
    cdef int32_t *chain_next
    cdef PerThread counters, marks, grad
    cdef int32_t row_of(self, Py_ssize_t local, Py_ssize_t part) noexcept nogil
    cdef void add(self, Py_ssize_t s, const int32_t *ids, const float *coef,
                  int32_t count) noexcept nogil
    cdef void count_block(self, Py_ssize_t block, Py_ssize_t n) noexcept nogil
    cdef void begin(self, Py_ssize_t n) noexcept nogil
    cdef void scatter_block(self, Py_ssize_t block, Py_ssize_t n) noexcept nogil
    cdef void group_part(self, Py_ssize_t part, int thread) noexcept nogil
    cdef void read_part(self, Py_ssize_t part) noexcept nogil
    cdef void step_part(self, Parameters p, Py_ssize_t part, const float *h, Py_ssize_t ldh,
                        float lr, int thread) noexcept nogil
