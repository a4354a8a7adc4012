from libc.stdint cimport int32_t, int64_t, uint64_t


cdef struct Vec:
    # An activation of one sample, or its gradient's place. idx == NULL: dense.
    Py_ssize_t n
    const int32_t *idx
    float *val
    float *grad


cdef struct Batch:
    # One mini-batch as every kernel sees it. Rows index the whole data set.
    Py_ssize_t n
    const int64_t *rows
    const int64_t *x_indptr         # NULL: dense features
    const int32_t *x_indices
    const float *x_data
    const float *x_dense
    Py_ssize_t x_cols
    const int64_t *y_indptr
    const int32_t *y_indices
    const float *y_data
    const float *sample_weight      # NULL: all 1
    uint64_t seed
    uint64_t step
    uint64_t first_step             # at which the optimizer started
    float lr
    float scale                     # of every sample's gradient: 1 / n in batch mode
    int n_threads
    bint hogwild
    Py_ssize_t staleness


cdef struct SparseRows:
    # A sampled hidden layer's activations, a list for each sample of a batch. The last entry of a
    # list stands for the bias of the layer above: its id is the layer's width.
    Py_ssize_t capacity
    int32_t *ids                    # (batch, capacity); NULL: the activations are dense
    float *val
    float *grad
    int32_t *count


cdef struct Costs:
    # Multiplications of a layer's training so far, on one thread.
    int64_t forward, backward, update
    int64_t selected                # neurons in active sets
    int64_t samples
    int64_t candidates              # neurons that were retrieved, or filled in for want of them
    # Seconds of a sampled layer: to find neurons and to compute them, of `timed` samples; those of
    # its shared neurons, of all; with hogwild, to update any layer, after `stepped` samples.
    double query, dot, shared, step
    int64_t timed, stepped


cdef enum:
    TIMED_EVERY = 16    # a look at the clock costs 20 to 50 ns, a sample 10 us or more


cdef inline bint is_timed(Costs *cost, uint64_t step) noexcept nogil:
    """Whether the thread's next sample is one to be timed; with any size of batches, some are."""
    return (<uint64_t> cost.samples + step) % TIMED_EVERY == TIMED_EVERY // 2


cdef enum:
    BLOCK = 32          # samples that a thread takes at a time


cdef inline Py_ssize_t padded(Py_ssize_t n) noexcept nogil:
    """n rounded up to the floats of a cache line."""
    return (n + 15) & ~(<Py_ssize_t> 15)


cdef class Buffer:
    """Zeroed memory on 128-byte boundaries (two threads' buffers never share a cache line)."""
    cdef void *p
    cdef Py_ssize_t n_bytes


cdef class PerThread:
    """One Buffer a thread."""
    cdef list buffers
    cdef Buffer pointers
    cdef void **p
