"""Layers: forward, backward and update on blocks of samples."""
cimport cython
from cython.parallel cimport prange
from libc.math cimport INFINITY, isfinite, sqrt
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memcpy, memset

from slide._kernels.activations cimport activate, through
from slide._kernels.blas cimport gemm
from slide._kernels.losses cimport Weights
from slide._kernels.openmp cimport omp_get_thread_num, omp_get_wtime
from slide._kernels.random cimport stream
from slide._kernels.simd cimport MASKED, simd
from slide._kernels.types cimport BLOCK, TIMED_EVERY, Costs, is_timed, padded

import numpy as np

cdef enum:
    CHUNK = 64          # rows whose gradient one task sums
    SHARES = 1 << 24    # bytes for partial input gradients


cdef Py_ssize_t large = 1 << 23     # bytes of weights that no cache is expected to hold


def large_from(Py_ssize_t n_bytes):
    """Sets the size from which layers may go row by row, for tests; returns the one before."""
    global large
    before, large = large, n_bytes
    return before


cdef inline bint tame(const float *z, Py_ssize_t n) noexcept nogil:
    """Neither NaN nor near overflow; asked before exp, which would hide some of either."""
    return simd.sumsq(z, n) < <float> 1e37


cdef inline void scaled(float *out, const float *x, Py_ssize_t n, float a) noexcept nogil:
    memset(out, 0, n * sizeof(float))
    simd.axpy(out, x, n, a)


cdef class LayerKernel:
    def __init__(self, Parameters params, Optimizer optimizer, int activation, bint use_bias,
                 Py_ssize_t n_in, Py_ssize_t n_out, Loss loss=None):
        self.params, self.optimizer, self.loss = params, optimizer, loss
        self.activation, self.use_bias = activation, use_bias
        self.n_in, self.n_out = n_in, n_out
        self.ld_in, self.ld_out = padded(n_in + 1), padded(n_out + 1)
        self.x = self.dx = self.out = self.grad = NULL
        self.one = 1
        self.given.ids = self.active.ids = NULL
        self.depth = 0
        self._keep = []
        self._check()

    def _check(self):
        if self.params.n_rows != self.n_out or self.params.ld != self.ld_in:
            raise ValueError(f"weights of {self.params.n_rows} rows of {self.params.ld} floats for "
                             f"a layer of {self.n_in} inputs and {self.n_out} outputs")

    def allocate(self, Py_ssize_t batch_size, int n_threads, Py_ssize_t max_labels,
                 Py_ssize_t max_nonzeros, bint training):
        """Buffers for batches of at most these sizes; frees those of before."""
        self.costs = PerThread(n_threads, sizeof(Costs))
        self.out_buffer = Buffer(batch_size * self.ld_out * sizeof(float))
        self.out = <float *> self.out_buffer.p
        self.grad_buffer, self.grad = None, self.out
        if self.loss is None and training:
            self.grad_buffer = Buffer(batch_size * self.ld_out * sizeof(float))
            self.grad = <float *> self.grad_buffer.p

    def link(self, LayerKernel below):
        """Takes the layer below as input."""
        if below.n_out != self.n_in:
            raise ValueError(f"{below.n_out} outputs below {self.n_in} inputs")
        below.one = self.use_bias
        self.depth = below.depth + 1
        self._keep = [below.out_buffer, below.grad_buffer]
        self.x, self.dx = below.out, below.grad

    def read(self, Buffer x):
        """Takes a buffer that the network fills with the batch's dense features as input."""
        self._keep = [x]
        self.x, self.dx = <float *> x.p, NULL

    def release(self):
        """Frees the buffers."""
        self.out_buffer = self.grad_buffer = None
        self._keep = []
        self.x = self.dx = self.out = self.grad = NULL

    def multiplications(self):
        """Since the buffers were made: forward, backward, update, hashing; neurons selected,
        samples; float64, in this order."""
        cdef Costs total
        cdef int i
        memset(&total, 0, sizeof(Costs))
        for i in range(len(self.costs.buffers)):
            total.forward += self.cost(i).forward
            total.backward += self.cost(i).backward
            total.update += self.cost(i).update
            total.selected += self.cost(i).selected
            total.samples += self.cost(i).samples
        return np.array([total.forward, total.backward, total.update, self.hashed(),
                         total.selected, total.samples], np.float64)

    def seconds(self):
        """Since the buffers were made, all threads' seconds over their number: to find neurons and
        to compute them, of `timed` samples; to compute shared ones; to update with hogwild, after
        `stepped` samples. Then candidates, samples, timed, stepped."""
        cdef Costs total
        cdef Costs *cost
        cdef int i, n_threads = len(self.costs.buffers)
        memset(&total, 0, sizeof(Costs))
        for i in range(n_threads):
            cost = self.cost(i)
            total.samples += cost.samples
            total.candidates += cost.candidates
            total.query += cost.query
            total.dot += cost.dot
            total.shared += cost.shared
            total.step += cost.step
            total.timed += cost.timed
            total.stepped += cost.stepped
        return np.array([total.query / n_threads, total.dot / n_threads, total.shared / n_threads,
                         total.step / n_threads, total.candidates, total.samples, total.timed,
                         total.stepped], np.float64)

    def sparse_out(self, Py_ssize_t n):
        """Of n samples: activations, ids of their neurons, numbers of them; None if dense."""
        cdef Py_ssize_t s, j, at
        if self.active.ids == NULL:
            return None
        counts = np.array([self.active.count[s] - 1 for s in range(n)], np.int64)
        ids, values = np.empty(counts.sum(), np.int32), np.empty(counts.sum(), np.float32)
        cdef int32_t[::1] i = ids
        cdef float[::1] v = values
        at = 0
        for s in range(n):
            for j in range(s * self.active.capacity,
                           s * self.active.capacity + self.active.count[s] - 1):
                i[at], v[at] = self.active.ids[j], self.active.val[j]
                at += 1
        return values, ids, counts

    cdef int64_t hashed(self):
        """Multiplications of training in the layer's hash tables since they were made."""
        return 0

    def count_debt(self):
        """From now on `hashed` counts what predictions did of training's work."""

    cdef void begin(self, Batch *b) noexcept nogil:
        """Before a training batch: what its samples share."""
        pass

    cdef void prepare(self, uint64_t seed, uint64_t step, int n_threads) noexcept nogil:
        """Before a prediction: what a training step of that number would do to its tables."""
        pass

    cdef void forward(self, Batch *b, Py_ssize_t first, Py_ssize_t last,
                      int thread) noexcept nogil:
        """Activations of samples first..last-1, in training."""
        cdef Costs *cost = self.cost(thread)
        cost.forward += self._products(b, first, last)
        cost.samples += last - first
        cost.selected += (last - first) * self.n_out
        self.predict(b, first, last, thread)

    cdef int64_t _products(self, Batch *b, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        """Multiplications of all neurons with the inputs of some samples."""
        return (last - first) * self.n_in * self.n_out

    cdef void forward_batch(self, Batch *b) noexcept nogil:
        """The same for a whole batch, with all threads."""
        cdef Py_ssize_t k
        for k in prange((b.n + BLOCK - 1) // BLOCK, schedule="dynamic", chunksize=1,
                        num_threads=b.n_threads):
            self.forward(b, k * BLOCK, min(b.n, (k + 1) * BLOCK), omp_get_thread_num())

    cdef void predict(self, Batch *b, Py_ssize_t first, Py_ssize_t last,
                      int thread) noexcept nogil:
        """The same with all neurons. An output layer leaves its logits to `logits`."""
        cdef Py_ssize_t s
        cdef float *out
        self.logits(b, first, last, 0, self.n_out, self.out + first * self.ld_out, self.ld_out)
        for s in range(first, last):
            if self.loss is None:
                out = self.out + s * self.ld_out
                activate(self.activation, out, self.n_out)
                out[self.n_out] = self.one      # the padding after it stays 0

    cdef void predict_batch(self, Batch *b) noexcept nogil:
        """The same for a whole batch, with all threads."""
        cdef Py_ssize_t k
        for k in prange((b.n + BLOCK - 1) // BLOCK, schedule="dynamic", chunksize=1,
                        num_threads=b.n_threads):
            self.predict(b, k * BLOCK, min(b.n, (k + 1) * BLOCK), omp_get_thread_num())

    cdef void logits(self, Batch *b, Py_ssize_t first, Py_ssize_t last, Py_ssize_t row,
                     Py_ssize_t n_rows, float *z, Py_ssize_t ldz) noexcept nogil:
        """Sums before the activation of neurons row..row+n_rows-1, into z (last - first, ldz)."""
        gemm(b"N", b"T", last - first, n_rows, self.n_in + 1,
             self.x + first * self.ld_in, self.ld_in, self.params.row(row), self.params.ld, z, ldz)

    cdef Py_ssize_t computed(self, Py_ssize_t s) noexcept nogil:
        """Neurons that training computed for a sample."""
        return self.n_out

    cdef double lose(self, Batch *b, Py_ssize_t s) noexcept nogil:
        """Of an output layer: puts the gradient in place of the logits, returns the loss."""
        cdef int64_t row = b.rows[s], at = b.y_indptr[row]
        cdef float weight = b.sample_weight[row] if b.sample_weight != NULL else 1
        cdef float *z = self.out + s * self.ld_out
        if not tame(z, self.n_out):
            return INFINITY
        return weight * self.loss.gradient(
            z, self.n_out, Weights(0, 0, 1, 1, NULL, NULL, NULL), b.y_indices + at, 0,
            b.y_data + at, b.y_indptr[row + 1] - at, self.n_out, b.scale * weight)

    cdef bint lose_block(self, Batch *b, Py_ssize_t first, Py_ssize_t last,
                         double *losses) noexcept nogil:
        """The same for some samples; False if a loss is not finite."""
        cdef Py_ssize_t s
        for s in range(first, last):
            losses[s] = self.lose(b, s)
            if not isfinite(losses[s]):
                return False
        return True

    cdef bint score(self, Batch *b, Py_ssize_t first, Py_ssize_t last, double *losses,
                    int thread) noexcept nogil:
        """Of an output layer: `forward`, then `lose_block`."""
        self.forward(b, first, last, thread)
        return self.lose_block(b, first, last, losses)

    cdef bint score_batch(self, Batch *b, double *losses) noexcept nogil:
        """The same for a whole batch, with all threads."""
        cdef Py_ssize_t k
        cdef int n_bad = 0
        self.forward_batch(b)
        for k in prange((b.n + BLOCK - 1) // BLOCK, schedule="dynamic", chunksize=1,
                        num_threads=b.n_threads):
            n_bad += not self.lose_block(b, k * BLOCK, min(b.n, (k + 1) * BLOCK), losses)
        return n_bad == 0

    cdef double _magnitude(self, Batch *b, Py_ssize_t s, const float *g,
                           Py_ssize_t n) noexcept nogil:
        """Bound of every weight's gradient through one sample; not finite if g or x is not."""
        cdef int64_t row, at
        cdef float x
        if self.x != NULL:
            x = simd.sumsq(self.x + s * self.ld_in, self.ld_in)
        else:
            row = b.rows[s]
            at = b.x_indptr[row]
            x = 1 + simd.sumsq(b.x_data + at, b.x_indptr[row + 1] - at)
        return sqrt(<double> simd.sumsq(g, n)) * sqrt(<double> x)

    cdef double backward(self, Batch *b, Py_ssize_t first, Py_ssize_t last,
                         int thread) noexcept nogil:
        """From the activations' gradients to the inputs'; returns a bound of all gradients."""
        cdef Py_ssize_t s
        cdef float *g
        cdef double bound = 0
        for s in range(first, last):
            g = self.grad + s * self.ld_out
            if self.loss is None:
                through(self.activation, g, self.out + s * self.ld_out, self.n_out)
            memset(g + self.n_out, 0, (self.ld_out - self.n_out) * sizeof(float))
            bound += self._magnitude(b, s, g, self.n_out)
        if self.dx != NULL:
            self.cost(thread).backward += self._products(b, first, last)
            gemm(b"N", b"N", last - first, self.n_in, self.n_out, self.grad + first * self.ld_out,
                 self.ld_out, self.params.w, self.params.ld, self.dx + first * self.ld_in,
                 self.ld_in)
        return bound

    cdef double backward_batch(self, Batch *b) noexcept nogil:
        """The same for a whole batch, with all threads."""
        cdef Py_ssize_t k
        cdef double bound = 0
        for k in prange((b.n + BLOCK - 1) // BLOCK, schedule="dynamic", chunksize=1,
                        num_threads=b.n_threads):
            bound += self.backward(b, k * BLOCK, min(b.n, (k + 1) * BLOCK), omp_get_thread_num())
        return bound

    cdef void update(self, Batch *b) noexcept nogil:
        """One step with the batch's gradient."""
        pass

    cdef void finish(self, Batch *b) noexcept nogil:
        """After a training batch's steps."""
        pass

    cdef void update_sample(self, Batch *b, Py_ssize_t s, int thread) noexcept nogil:
        """One step with one sample's gradient."""
        pass


@cython.final
cdef class Dense(LayerKernel):
    """All neurons on a dense input: matrix products over blocks of samples or of neurons."""
    cdef PerThread sums

    def allocate(self, Py_ssize_t batch_size, int n_threads, Py_ssize_t max_labels,
                 Py_ssize_t max_nonzeros, bint training):
        LayerKernel.allocate(self, batch_size, n_threads, max_labels, max_nonzeros, training)
        self.sums = PerThread(n_threads, CHUNK * self.params.ld * sizeof(float))

    cdef void update(self, Batch *b) noexcept nogil:
        cdef Py_ssize_t c
        for c in prange((self.n_out + CHUNK - 1) // CHUNK, schedule="dynamic", chunksize=1,
                        num_threads=b.n_threads):
            self._chunk(b, c * CHUNK, omp_get_thread_num())

    cdef void _chunk(self, Batch *b, Py_ssize_t first, int thread) noexcept nogil:
        cdef Py_ssize_t i, n = min(<Py_ssize_t> CHUNK, self.n_out - first)
        cdef float *sums = <float *> self.sums.p[thread]
        self.cost(thread).update += b.n * n * self.n_in
        gemm(b"T", b"N", n, self.params.ld, b.n, self.grad + first, self.ld_out, self.x,
             self.ld_in, sums, self.params.ld)
        for i in range(n):
            self.optimizer.step(self.params, first + i, sums + i * self.params.ld, b.lr)

    cdef void update_sample(self, Batch *b, Py_ssize_t s, int thread) noexcept nogil:
        cdef Py_ssize_t i
        cdef float *g = <float *> self.sums.p[thread]
        cdef float *grad = self.grad + s * self.ld_out
        self.cost(thread).update += self.n_in * self.n_out
        for i in range(self.n_out):
            scaled(g, self.x + s * self.ld_in, self.params.ld, grad[i])
            self.optimizer.step(self.params, i, g, b.lr)


@cython.final
cdef class SparseInputDense(LayerKernel):
    """All neurons on sparse features: a row of weights is a feature's, the last row the bias."""
    cdef RowUpdate rows
    cdef PerThread sums

    def _check(self):
        if self.params.n_rows != self.n_in + 1 or self.params.ld != padded(self.n_out):
            raise ValueError(f"weights of {self.params.n_rows} rows of {self.params.ld} floats for "
                             f"a layer of {self.n_in} features and {self.n_out} outputs")

    def allocate(self, Py_ssize_t batch_size, int n_threads, Py_ssize_t max_labels,
                 Py_ssize_t max_nonzeros, bint training):
        LayerKernel.allocate(self, batch_size, n_threads, max_labels, max_nonzeros, training)
        self.rows = None
        if training:
            self.rows = RowUpdate(self.params, self.optimizer, batch_size, max_nonzeros, 0,
                                  n_threads)
        self.sums = PerThread(n_threads, self.params.ld * sizeof(float))

    def release(self):
        LayerKernel.release(self)
        self.rows = None

    cdef void logits(self, Batch *b, Py_ssize_t first, Py_ssize_t last, Py_ssize_t row,
                     Py_ssize_t n_rows, float *z, Py_ssize_t ldz) noexcept nogil:
        # Only ever asked for all outputs, with room for a padded row of them.
        cdef Py_ssize_t s
        cdef int64_t at
        for s in range(first, last):
            at = b.x_indptr[b.rows[s]]
            memcpy(z, self.params.row(self.n_in), self.params.ld * sizeof(float))
            self.params.axpy(z, b.x_indices + at, b.x_data + at, b.x_indptr[b.rows[s] + 1] - at)
            z += ldz

    cdef int64_t _products(self, Batch *b, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        cdef Py_ssize_t s
        cdef int64_t n = 0
        for s in range(first, last):
            n += b.x_indptr[b.rows[s] + 1] - b.x_indptr[b.rows[s]]
        return n * self.n_out

    cdef double backward(self, Batch *b, Py_ssize_t first, Py_ssize_t last,
                         int thread) noexcept nogil:
        cdef Py_ssize_t s
        cdef int64_t at
        self.cost(thread).update += self._products(b, first, last)
        if not b.hogwild:
            for s in range(first, last):
                at = b.x_indptr[b.rows[s]]
                self.rows.add(s, b.x_indices + at, b.x_data + at,
                              <int32_t> (b.x_indptr[b.rows[s] + 1] - at))
            self.rows.count_block(first // BLOCK, b.n)
        return LayerKernel.backward(self, b, first, last, thread)

    cdef void update(self, Batch *b) noexcept nogil:
        cdef Py_ssize_t s, k
        cdef float *g = <float *> self.sums.p[0]
        self.rows.begin(b.n)
        for k in prange((b.n + BLOCK - 1) // BLOCK, schedule="dynamic", chunksize=1,
                        num_threads=b.n_threads):
            self.rows.scatter_block(k, b.n)
        for k in prange(self.rows.n_parts, schedule="dynamic", chunksize=1,
                        num_threads=b.n_threads):
            self.rows.group_part(k, omp_get_thread_num())
            self.rows.step_part(self.params, k, self.grad, self.ld_out, b.lr, omp_get_thread_num())
        if self.use_bias:
            memset(g, 0, self.params.ld * sizeof(float))
            for s in range(b.n):
                simd.axpy(g, self.grad + s * self.ld_out, self.n_out, 1)
            self._step_bias(g, b.lr)

    cdef void _step_bias(self, float *g, float lr) noexcept nogil:
        self.optimizer.skip_row(self.params, self.n_in)
        self.optimizer.step_row(self.params, self.n_in, g, lr)      # no penalty on a bias

    cdef void update_sample(self, Batch *b, Py_ssize_t s, int thread) noexcept nogil:
        cdef int64_t j
        cdef float *g = <float *> self.sums.p[thread]
        cdef float *grad = self.grad + s * self.ld_out
        for j in range(b.x_indptr[b.rows[s]], b.x_indptr[b.rows[s] + 1]):
            scaled(g, grad, self.params.ld, b.x_data[j])
            self.optimizer.step(self.params, b.x_indices[j], g, b.lr)
        if self.use_bias:
            scaled(g, grad, self.params.ld, 1)
            self._step_bias(g, b.lr)


@cython.final
cdef class SampledDense(LayerKernel):
    """An output layer that computes each sample's active set, part of it shared by the batch.

    A sample's logits are [shared neurons, the random tail first | its own, labels first].
    """

    def __init__(self, Parameters params, Optimizer optimizer, int activation, bint use_bias,
                 Py_ssize_t n_in, Py_ssize_t n_out, Loss loss, ActiveSet active):
        LayerKernel.__init__(self, params, optimizer, activation, use_bias, n_in, n_out, loss)
        if loss is None or active.n_neurons != n_out:
            raise ValueError("an active set of another layer, or no loss")
        self.active_set = active
        self.params.dirty = active.dirty

    def allocate(self, Py_ssize_t batch_size, int n_threads, Py_ssize_t max_labels,
                 Py_ssize_t max_nonzeros, bint training):
        cdef Py_ssize_t n_shared = self.active_set.n_shared, ld = self.params.ld
        self.costs = PerThread(n_threads, sizeof(Costs))
        self.batch_size = batch_size
        self.capacity = min(self.n_out, max_labels + self.active_set.n_frequent + max(
            self.active_set.max_active, self.active_set.min_active) + self.active_set.n_own_tail)
        self.ldz = padded(n_shared + self.capacity)
        self.ids_buffer = Buffer(batch_size * self.capacity * sizeof(int32_t))
        self.ids = <int32_t *> self.ids_buffer.p
        self.scratch = PerThread(n_threads, max(ld, self.capacity) * sizeof(float))
        self.by_row = False
        if not training:
            return
        self.out_buffer = Buffer(batch_size * self.ldz * sizeof(float))
        self.out = self.grad = <float *> self.out_buffer.p
        self.count_buffer = Buffer(batch_size * sizeof(int32_t))
        self.count = <int32_t *> self.count_buffer.p
        self.twice_buffer = Buffer(batch_size * sizeof(int32_t))
        self.twice = <int32_t *> self.twice_buffer.p
        self.drawn_buffer = Buffer(batch_size * sizeof(int32_t))
        self.drawn = <int32_t *> self.drawn_buffer.p
        self.pi_buffer, self.pi = None, NULL
        if self.active_set.individual:
            self.pi_buffer = Buffer(batch_size * self.capacity * sizeof(float))
            self.pi = <float *> self.pi_buffer.p
        self.shared_w_buffer = Buffer(n_shared * ld * sizeof(float))
        self.shared_w = <float *> self.shared_w_buffer.p
        # Where samples have many neurons in common, a row moves through memory once for all of
        # them, and rows in ascending order come fastest. Inclusion probabilities need the logits
        # of a sample at once.
        self.by_row = (batch_size * self.capacity >= self.n_out and self.n_out * ld * 4 >= large
                       and self.active_set.inclusion is None)
        self.rows = RowUpdate(self.params, self.optimizer, batch_size,
                              batch_size * self.capacity, n_shared, n_threads, self.by_row)
        # A number that fixes the order of sums, hence not that of the threads.
        self.n_shares = min(32, max(8, SHARES // (batch_size * ld * 4)), self.rows.n_parts)
        self.shares_buffer = Buffer(
            self.n_shares * batch_size * ld * sizeof(float) if self.by_row else 0)
        self.shares = <float *> self.shares_buffer.p
        self.rows.extra_pos, self.rows.extra_ids = self.active_set.place, self.active_set.shared

    def link(self, LayerKernel below):
        LayerKernel.link(self, below)
        self.given = below.active
        if self.given.ids != NULL:
            # Shared neurons are matrix products: the layer works on dense copies.
            self._keep.append(below.lists)
            self.dense_buffer = Buffer(2 * self.batch_size * self.ld_in * sizeof(float))
            self.x = <float *> self.dense_buffer.p
            self.dx = self.x + self.batch_size * self.ld_in

    cdef void _unfold(self, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
        cdef Py_ssize_t s, j, at
        if self.given.ids == NULL:
            return
        memset(self.x + first * self.ld_in, 0, (last - first) * self.ld_in * sizeof(float))
        for s in range(first, last):
            at = s * self.given.capacity
            for j in range(self.given.count[s]):
                self.x[s * self.ld_in + self.given.ids[at + j]] = self.given.val[at + j]

    def release(self):
        LayerKernel.release(self)
        self.rows = None
        self.ids_buffer = self.count_buffer = self.twice_buffer = self.drawn_buffer = None
        self.shared_w_buffer = self.dense_buffer = self.pi_buffer = self.shares_buffer = None

    cdef int64_t hashed(self):
        return self.active_set.hashed()

    def count_debt(self):
        self.active_set.count_debt()

    cdef void logits(self, Batch *b, Py_ssize_t first, Py_ssize_t last, Py_ssize_t row,
                     Py_ssize_t n_rows, float *z, Py_ssize_t ldz) noexcept nogil:
        if row == 0:                            # a prediction asks for the first tile first
            self._unfold(first, last)
        LayerKernel.logits(self, b, first, last, row, n_rows, z, ldz)

    cdef Vec own(self, Py_ssize_t s) noexcept nogil:
        cdef Vec v
        v.n = self.count[s]
        v.idx = self.ids + s * self.capacity
        v.val = v.grad = self.out + s * self.ldz + self.active_set.n_shared
        return v

    cdef void begin(self, Batch *b) noexcept nogil:
        cdef Py_ssize_t i, ld = self.params.ld
        self.active_set.maintain(self.params, b.seed, b.step, b.n_threads)
        for i in range(b.n):
            self.active_set.count_labels(
                b.y_indices + b.y_indptr[b.rows[i]],
                b.y_indptr[b.rows[i] + 1] - b.y_indptr[b.rows[i]])
        self.active_set.share(b.seed, b.step)
        if not b.hogwild:
            for i in prange(self.active_set.n_shared, schedule="static", num_threads=b.n_threads):
                memcpy(self.shared_w + i * ld, self.params.w + self.active_set.shared[i] * ld,
                       ld * sizeof(float))

    cdef void prepare(self, uint64_t seed, uint64_t step, int n_threads) noexcept nogil:
        self.active_set.prepare(self.params, seed, step, n_threads)

    cdef void forward(self, Batch *b, Py_ssize_t first, Py_ssize_t last,
                      int thread) noexcept nogil:
        cdef Py_ssize_t s
        self._open(b, first, last, thread)
        for s in range(first, last):
            self._compute(b, s, thread)
        self.active_set.look(NULL, 0, 0, NULL, thread)
        if self.by_row and not b.hogwild:
            self.rows.count_block(first // BLOCK, b.n)

    cdef bint score(self, Batch *b, Py_ssize_t first, Py_ssize_t last, double *losses,
                    int thread) noexcept nogil:
        # A sample's rows make its input gradient right after its logits, while they are in the
        # cache: those of a block are too many.
        cdef Py_ssize_t s
        cdef float *dx
        cdef Vec own
        cdef bint finite = True
        self._open(b, first, last, thread)
        for s in range(first, last):
            self._compute(b, s, thread)
            finite = self.lose_block(b, s, s + 1, losses)
            if not finite:
                break
            if self.dx != NULL:
                own, dx = self.own(s), self.dx + s * self.ld_in
                memset(dx, 0, self.ld_in * sizeof(float))
                simd.rows_axpy(dx, self.ld_in, self.params.w, self.params.ld, own.idx, own.grad,
                               own.n)
        self.active_set.look(NULL, 0, 0, NULL, thread)
        return finite

    cdef bint score_batch(self, Batch *b, double *losses) noexcept nogil:
        cdef Py_ssize_t k
        cdef int n_bad = 0
        if self.by_row:
            return LayerKernel.score_batch(self, b, losses)
        for k in prange((b.n + BLOCK - 1) // BLOCK, schedule="dynamic", chunksize=1,
                        num_threads=b.n_threads):
            n_bad += not self.score(b, k * BLOCK, min(b.n, (k + 1) * BLOCK), losses,
                                    omp_get_thread_num())
        return n_bad == 0

    cdef void _open(self, Batch *b, Py_ssize_t first, Py_ssize_t last, int thread) noexcept nogil:
        """What the samples of a block share."""
        cdef Py_ssize_t s, ld = self.params.ld, n_shared = self.active_set.n_shared
        cdef Costs *cost = self.cost(thread)
        cdef double started
        cdef uint64_t[BLOCK] rngs
        self._unfold(first, last)
        if last - first <= BLOCK:
            started = omp_get_wtime()
            for s in range(first, last):
                rngs[s - first] = stream(b.seed, b.step, <uint64_t> b.rows[s])
            self.active_set.look(self.x + first * self.ld_in, self.ld_in, last - first, rngs,
                                 thread)
            # As if it were the time of those samples that are timed.
            cost.query += (omp_get_wtime() - started) / TIMED_EVERY
        if n_shared and not b.hogwild:
            started = omp_get_wtime()
            gemm(b"N", b"T", last - first, n_shared, self.n_in + 1,
                 self.x + first * self.ld_in, self.ld_in, self.shared_w, ld,
                 self.out + first * self.ldz, self.ldz)
            cost.shared += omp_get_wtime() - started

    cdef void _compute(self, Batch *b, Py_ssize_t s, int thread) noexcept nogil:
        """A sample's own neurons and their logits."""
        cdef Py_ssize_t n_shared = self.active_set.n_shared
        cdef int64_t row = b.rows[s], at = b.y_indptr[row]
        cdef float *x = self.x + s * self.ld_in
        cdef float *pi = NULL if self.pi == NULL else self.pi + s * self.capacity
        cdef Costs *cost = self.cost(thread)
        cdef double started = 0, found = 0
        cdef bint timed = is_timed(cost, b.step)
        if timed:
            started = omp_get_wtime()
        self.count[s] = self.drawn[s] = 0
        if b.y_indptr[row + 1] > at or not self.loss.needs_labels:
            self.count[s] = <int32_t> self.active_set.select(
                x, b.y_indices + at, b.y_indptr[row + 1] - at, self.ids + s * self.capacity,
                stream(b.seed, b.step, <uint64_t> row), self.drawn + s, thread, pi)
            cost.candidates += self.count[s] - (b.y_indptr[row + 1] - at) - self.drawn[s]
        if timed:
            found = omp_get_wtime()
        cost.samples += 1
        cost.forward += (n_shared + self.count[s]) * self.n_in
        if self.by_row and not b.hogwild:
            self.rows.add(s, self.own(s).idx, self.own(s).grad, self.count[s])
        else:
            self.params.dot(self.own(s).val, self.own(s).idx, self.count[s], x)
        if self.active_set.inclusion is not None:
            cost.forward += self._weigh(s, x, b.y_indptr[row + 1] - at, pi)
        if n_shared and b.hogwild:
            self.params.dot(self.out + s * self.ldz, self.active_set.shared, n_shared, x)
        if timed:
            cost.query += found - started
            cost.dot += omp_get_wtime() - found
            cost.timed += 1

    cdef Py_ssize_t _weigh(self, Py_ssize_t s, const float *x, Py_ssize_t n_labels,
                           float *pi) noexcept nogil:
        """Inclusion probabilities of what was retrieved; returns the multiplications."""
        cdef Py_ssize_t n = self.count[s] - n_labels
        if n <= 0:                          # no label, and nothing was selected
            return 0
        self.active_set.inclusion.weigh(self.params, x, self.own(s).idx + n_labels,
                                        self.own(s).val + n_labels, pi + n_labels, n)
        return n * self.n_in

    cdef void forward_batch(self, Batch *b) noexcept nogil:
        cdef double started
        cdef Py_ssize_t k
        LayerKernel.forward_batch(self, b)
        if self.by_row:
            started = omp_get_wtime()
            self.rows.begin(b.n)
            for k in prange((b.n + BLOCK - 1) // BLOCK, schedule="dynamic", chunksize=1,
                            num_threads=b.n_threads):
                self.rows.scatter_block(k, b.n)
            for k in prange(self.rows.n_parts, schedule="dynamic", chunksize=1,
                            num_threads=b.n_threads):
                self._dot_part(k, omp_get_thread_num())
            # As above, but of all threads.
            self.cost(0).dot += (omp_get_wtime() - started) * b.n_threads / TIMED_EVERY

    cdef void _dot_part(self, Py_ssize_t part, int thread) noexcept nogil:
        """The logits of the samples' own neurons among a part of the rows."""
        cdef Py_ssize_t at = self.rows.start[part]
        self.rows.group_part(part, thread)
        simd.each_dot(self.out + self.active_set.n_shared, self.ldz, self.params.w, self.params.ld,
                      self.rows.rows + at, self.rows.ends + at, self.rows.n_rows[part], self.x,
                      self.rows.samples + at, <int32_t *> (self.rows.factors + at))

    cdef double lose(self, Batch *b, Py_ssize_t s) noexcept nogil:
        cdef int64_t row = b.rows[s], at = b.y_indptr[row]
        cdef float weight = b.sample_weight[row] if b.sample_weight != NULL else 1
        cdef float *z = self.out + s * self.ldz
        cdef Vec own = self.own(s)
        cdef Py_ssize_t j, n_shared = self.active_set.n_shared, n = n_shared + own.n
        cdef Py_ssize_t n_labels = b.y_indptr[row + 1] - at
        # Which of its own may be shared, too: any the tail's, but only labels frequent ones.
        cdef Py_ssize_t n_either = own.n if self.active_set.n_tail else n_labels
        cdef int32_t twice = 0
        cdef Weights weights
        if not tame(z, n):
            return INFINITY
        if n_shared:
            for j in range(n_either):       # a neuron of its own counts once, there
                if self.active_set.place[own.idx[j]] >= 0:
                    z[self.active_set.place[own.idx[j]]] = MASKED
                    twice += 1
        self.twice[s] = twice
        weights.n_first, weights.first = self.active_set.n_tail, self.active_set.pi
        weights.n_last = self.drawn[s]
        weights.last = self.active_set.own_pi(self.drawn[s], own.n - twice)
        weights.each_first = weights.log_first = weights.each_last = NULL
        if self.active_set.draw is not None:
            weights.each_first = self.active_set.draw.pi
            weights.log_first = self.active_set.draw.log_pi
        if self.pi != NULL:
            weights.each_last, weights.n_last = self.pi + s * self.capacity, own.n
        cdef double loss = weight * self.loss.gradient(
            z, n, weights, NULL, n_shared, b.y_data + at, n_labels, self.n_out, b.scale * weight)
        if twice:                           # exactly, which a sigmoid of a masked one is not
            for j in range(n_either):
                if self.active_set.place[own.idx[j]] >= 0:
                    z[self.active_set.place[own.idx[j]]] = 0
        return loss

    cdef Py_ssize_t computed(self, Py_ssize_t s) noexcept nogil:
        return self.active_set.n_shared + self.count[s] - self.twice[s]

    cdef double backward(self, Batch *b, Py_ssize_t first, Py_ssize_t last,
                         int thread) noexcept nogil:
        cdef Py_ssize_t s, j, at, ld = self.params.ld, n_shared = self.active_set.n_shared
        cdef bint by_row = self.by_row and not b.hogwild    # the rest is up to backward_batch
        cdef double bound = 0, started
        cdef Vec own
        if self.dx != NULL:
            if by_row:
                memset(self.dx + first * self.ld_in, 0,
                       (last - first) * self.ld_in * sizeof(float))
            if n_shared and not b.hogwild:
                started = omp_get_wtime()
                gemm(b"N", b"N", last - first, self.n_in, n_shared, self.out + first * self.ldz,
                     self.ldz, self.shared_w, ld, self.dx + first * self.ld_in, self.ld_in, 1)
                self.cost(thread).shared += omp_get_wtime() - started
        for s in range(first, last):
            own = self.own(s)
            self.cost(thread).selected += self.computed(s)
            self.cost(thread).update += (n_shared + own.n) * self.n_in
            if self.dx != NULL:
                self.cost(thread).backward += (n_shared + own.n) * self.n_in
            bound += self._magnitude(b, s, self.out + s * self.ldz, n_shared + own.n)
            if by_row:
                continue
            if self.dx != NULL and b.hogwild:
                self.params.axpy(self.dx + s * self.ld_in, self.active_set.shared,
                                 self.out + s * self.ldz, n_shared)
            if self.given.ids != NULL:
                for j in range(self.given.count[s] - 1):
                    at = s * self.given.capacity + j
                    self.given.grad[at] = self.dx[s * self.ld_in + self.given.ids[at]]
            if not b.hogwild:
                self.rows.add(s, own.idx, own.grad, <int32_t> own.n)
        if not b.hogwild and not by_row:
            self.rows.count_block(first // BLOCK, b.n)
        return bound

    cdef double backward_batch(self, Batch *b) noexcept nogil:
        cdef Py_ssize_t k, s
        cdef double bound = LayerKernel.backward_batch(self, b)
        if self.by_row:
            for k in prange(self.n_shares, schedule="dynamic", chunksize=1,
                            num_threads=b.n_threads):
                self._spread(b, k)
            if self.dx != NULL:
                for s in prange(b.n, schedule="static", num_threads=b.n_threads):
                    self._collect(b, s)
        return bound

    cdef void _spread(self, Batch *b, Py_ssize_t share) noexcept nogil:
        """What some parts of the rows add to all samples' input gradients."""
        cdef Py_ssize_t n_parts = self.rows.n_parts, ld = self.params.ld, part, at
        cdef float *dx = self.shares + share * self.batch_size * ld
        memset(dx, 0, b.n * ld * sizeof(float))
        for part in range(n_parts * share // self.n_shares, n_parts * (share + 1) // self.n_shares):
            at = self.rows.start[part]
            self.rows.read_part(part)
            if self.dx != NULL:
                simd.each_axpy(dx, self.params.w, ld, self.rows.rows + at, self.rows.ends + at,
                               self.rows.n_rows[part], self.rows.samples + at,
                               <float *> (self.rows.factors + at))

    cdef void _collect(self, Batch *b, Py_ssize_t s) noexcept nogil:
        cdef float *dx = self.dx + s * self.ld_in
        cdef Py_ssize_t k, j, at
        for k in range(self.n_shares):
            simd.axpy(dx, self.shares + (k * self.batch_size + s) * self.ld_in, self.ld_in, 1)
        if self.given.ids != NULL:
            for j in range(self.given.count[s] - 1):
                at = s * self.given.capacity + j
                self.given.grad[at] = dx[self.given.ids[at]]

    cdef void update(self, Batch *b) noexcept nogil:
        cdef Py_ssize_t k, n_blocks = 0 if self.by_row else (b.n + BLOCK - 1) // BLOCK
        cdef Py_ssize_t n_chunks = (self.active_set.n_shared + CHUNK - 1) // CHUNK
        if not self.by_row:
            self.rows.begin(b.n)
        for k in prange(n_blocks + n_chunks, schedule="dynamic", chunksize=1,
                        num_threads=b.n_threads):
            if k < n_chunks:
                self._sum_shared(b, k * CHUNK)
            else:
                self.rows.scatter_block(k - n_chunks, b.n)
        for k in prange(self.rows.n_parts, schedule="dynamic", chunksize=1,
                        num_threads=b.n_threads):
            if not self.by_row:
                self.rows.group_part(k, omp_get_thread_num())
            self.rows.step_part(self.params, k, self.x, self.ld_in, b.lr, omp_get_thread_num())

    cdef void finish(self, Batch *b) noexcept nogil:
        if self.active_set.retriever is not None:
            self.active_set.retriever.observe(self.x, self.ld_in, b.n)

    cdef void _sum_shared(self, Batch *b, Py_ssize_t first) noexcept nogil:
        cdef Py_ssize_t n = min(<Py_ssize_t> CHUNK, self.active_set.n_shared - first)
        gemm(b"T", b"N", n, self.params.ld, b.n, self.out + first, self.ldz, self.x, self.ld_in,
             self.rows.extra + first * self.params.ld, self.params.ld)

    cdef void update_sample(self, Batch *b, Py_ssize_t s, int thread) noexcept nogil:
        cdef Py_ssize_t j, n_shared = self.active_set.n_shared, ld = self.params.ld
        cdef float *g = <float *> self.scratch.p[thread]
        cdef float *x = self.x + s * self.ld_in
        cdef float *shared = self.out + s * self.ldz
        cdef Vec own = self.own(s)
        for j in range(own.n):
            scaled(g, x, ld, own.grad[j])
            self.optimizer.step(self.params, own.idx[j], g, b.lr)
        for j in range(n_shared):
            if shared[j] != 0:                # 0: masked, its step is made as the sample's own
                scaled(g, x, ld, shared[j])
                self.optimizer.step(self.params, self.active_set.shared[j], g, b.lr)

    cdef Py_ssize_t retrieve(self, Batch *b, Py_ssize_t s, int32_t **ids, float **z,
                             int thread) noexcept nogil:
        """Of a prediction: the retrieved neurons and their logits."""
        self._unfold(s, s + 1)
        cdef float *x = self.x + s * self.ld_in
        ids[0] = self.ids + s * self.capacity
        z[0] = <float *> self.scratch.p[thread]
        cdef Py_ssize_t n = self.active_set.query(
            x, ids[0], self.capacity - self.active_set.n_frequent,
            stream(b.seed, b.step, <uint64_t> s), thread)
        self.params.dot(z[0], ids[0], n, x)
        return n
