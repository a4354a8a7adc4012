from libc.stdint cimport int32_t, int64_t, uint64_t

from slide._kernels.losses cimport Loss
from slide._kernels.optim cimport Optimizer, Parameters, RowUpdate
from slide._kernels.sampling cimport ActiveSet
from slide._kernels.types cimport Batch, Buffer, Costs, PerThread, SparseRows, Vec


cdef class LayerKernel:
    """One layer's work on a block of a batch's samples.

    Activations of a batch are (batch, ld) arrays with a 1 in column n_out: the next layer's bias
    is the last column of its weights.
    """
    cdef readonly Parameters params
    cdef Optimizer optimizer
    cdef Loss loss                  # of an output layer, else None
    cdef int activation
    cdef bint use_bias
    cdef readonly Py_ssize_t n_in, n_out, ld_in, ld_out
    cdef float *x                   # input (batch, ld_in); NULL: the batch's sparse features
    cdef float *dx                  # where its gradient goes; NULL: nobody asks
    cdef float *out                 # activations; of an output layer logits, then their gradients
    cdef float *grad                # of the activations, then of the sums before them
    cdef float one                  # what the layer above multiplies its biases with
    cdef SparseRows given           # input, where it is sparse because the layer below samples
    cdef SparseRows active          # activations, where they are sparse
    cdef int depth                  # the layer's number in the network
    cdef Buffer out_buffer, grad_buffer
    cdef Buffer lists               # memory of `active`
    cdef PerThread costs
    cdef list _keep
    cdef inline Costs *cost(self, int thread) noexcept nogil:
        return <Costs *> self.costs.p[thread]
    cdef int64_t hashed(self)
    cdef int64_t _products(self, Batch *b, Py_ssize_t first, Py_ssize_t last) noexcept nogil
    cdef void predict_batch(self, Batch *b) noexcept nogil
    cdef void forward_batch(self, Batch *b) noexcept nogil
    cdef double backward_batch(self, Batch *b) noexcept nogil
    cdef void begin(self, Batch *b) noexcept nogil
    cdef void prepare(self, uint64_t seed, uint64_t step, int n_threads) noexcept nogil
    cdef void forward(self, Batch *b, Py_ssize_t first, Py_ssize_t last,
                      int thread) noexcept nogil
    cdef void predict(self, Batch *b, Py_ssize_t first, Py_ssize_t last,
                      int thread) noexcept nogil
    cdef void logits(self, Batch *b, Py_ssize_t first, Py_ssize_t last, Py_ssize_t row,
                     Py_ssize_t n_rows, float *z, Py_ssize_t ldz) noexcept nogil
    cdef Py_ssize_t computed(self, Py_ssize_t s) noexcept nogil
    cdef double lose(self, Batch *b, Py_ssize_t s) noexcept nogil
    cdef bint lose_block(self, Batch *b, Py_ssize_t first, Py_ssize_t last,
                         double *losses) noexcept nogil
    cdef bint score(self, Batch *b, Py_ssize_t first, Py_ssize_t last, double *losses,
                    int thread) noexcept nogil
    cdef bint score_batch(self, Batch *b, double *losses) noexcept nogil
    cdef double backward(self, Batch *b, Py_ssize_t first, Py_ssize_t last,
                         int thread) noexcept nogil
    cdef void update(self, Batch *b) noexcept nogil
    cdef void finish(self, Batch *b) noexcept nogil
    cdef void update_sample(self, Batch *b, Py_ssize_t s, int thread) noexcept nogil
    cdef double _magnitude(self, Batch *b, Py_ssize_t s, const float *g,
                           Py_ssize_t n) noexcept nogil


cdef class SampledDense(LayerKernel):
    cdef readonly ActiveSet active_set
    cdef RowUpdate rows
    cdef Py_ssize_t capacity, ldz
    cdef Buffer ids_buffer, count_buffer, twice_buffer, drawn_buffer, shared_w_buffer
    cdef int32_t *ids               # (batch, capacity): each sample's own neurons, labels first
    cdef int32_t *count
    cdef int32_t *drawn             # how many of its own, the last ones, are its random tail
    cdef Buffer pi_buffer
    cdef float *pi                  # (batch, capacity): their inclusion probabilities, or NULL
    cdef int32_t *twice             # how many of its own are shared as well
    cdef float *shared_w            # (n_shared, ld): the shared neurons' weights side by side
    cdef PerThread scratch
    cdef Buffer dense_buffer        # a sparse input and its gradient as (batch, ld_in) arrays
    cdef Py_ssize_t batch_size
    cdef readonly bint by_row       # own neurons are computed row by row for the whole batch
    cdef Buffer shares_buffer
    cdef float *shares              # (n_shares, batch, ld): of parts of the rows in dx
    cdef Py_ssize_t n_shares
    cdef void _open(self, Batch *b, Py_ssize_t first, Py_ssize_t last, int thread) noexcept nogil
    cdef void _compute(self, Batch *b, Py_ssize_t s, int thread) noexcept nogil
    cdef void _dot_part(self, Py_ssize_t part, int thread) noexcept nogil
    cdef void _spread(self, Batch *b, Py_ssize_t share) noexcept nogil
    cdef void _collect(self, Batch *b, Py_ssize_t s) noexcept nogil
    cdef void _unfold(self, Py_ssize_t first, Py_ssize_t last) noexcept nogil
    cdef Vec own(self, Py_ssize_t s) noexcept nogil
    cdef Py_ssize_t _weigh(self, Py_ssize_t s, const float *x, Py_ssize_t n_labels,
                           float *pi) noexcept nogil
    cdef void _sum_shared(self, Batch *b, Py_ssize_t first) noexcept nogil
    cdef Py_ssize_t retrieve(self, Batch *b, Py_ssize_t s, int32_t **ids, float **z,
                             int thread) noexcept nogil
