"""Layers of which both input and output may be sparse."""
cimport cython
from cython.parallel cimport prange
from libc.math cimport sqrt
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from slide._kernels.activations cimport RELU, activate, derivative, through
from slide._kernels.losses cimport Loss
from slide._kernels.openmp cimport omp_get_thread_num, omp_get_wtime
from slide._kernels.optim cimport Optimizer, Parameters
from slide._kernels.random cimport stream
from slide._kernels.simd cimport simd
from slide._kernels.types cimport BLOCK, Costs, is_timed, padded

cdef enum:
    LEARNT = 16         # samples of a batch that a selector learns from, one by one or as lists
    TILE = 4096         # columns: half of a first-level cache
    ROWS = 16           # neurons that a thread steps at a time


@cython.final
cdef class SparseDense(LayerKernel):
    """
    In batch mode everything but the choice of neurons goes by neuron: a row of weights is read
    once a batch for the forward pass, once for the input's gradient and once for its step,
    whatever the number of samples that use it. Within a row only the columns of a sample's
    active inputs are touched.
    """

    def __init__(self, Parameters params, Optimizer optimizer, int activation, bint use_bias,
                 Py_ssize_t n_in, Py_ssize_t n_out, Loss loss=None, Selector selector=None):
        LayerKernel.__init__(self, params, optimizer, activation, use_bias, n_in, n_out, loss)
        if selector is not None and (loss is not None or selector.n_neurons != n_out):
            raise ValueError("a selector of another layer, or of an output layer")
        self.selector = selector
        self.params.dirty = selector.dirty if selector is not None else NULL

    def allocate(self, Py_ssize_t batch_size, int n_threads, Py_ssize_t max_labels,
                 Py_ssize_t max_nonzeros, bint training):
        cdef Py_ssize_t capacity, ld = self.params.ld, n
        self.batch_size, self.n_threads, self.training = batch_size, n_threads, training
        LayerKernel.allocate(self, batch_size, n_threads, max_labels, max_nonzeros, training)
        self.lists = self.sums_buffer = self.start_buffer = self.entries_buffer = None
        self.parts_buffer = self.shown = None
        self.active.ids = self.start = NULL
        if self.selector is not None and (training or self.selector.sparse_predict):
            capacity = padded(self.selector.most + 1)
            n = batch_size * capacity
            if n > 0x7fffffff:
                raise MemoryError(f"batches of {batch_size} samples with {capacity} active neurons")
            self.lists = Buffer((3 * n + batch_size) * sizeof(float))
            self.active.capacity = capacity
            self.active.ids = <int32_t *> self.lists.p
            self.active.val = <float *> self.lists.p + n
            self.active.grad = <float *> self.lists.p + 2 * n
            self.active.count = self.active.ids + 3 * n
            self.start_buffer = Buffer((self.n_out + 2) * sizeof(int32_t))
            self.start = <int32_t *> self.start_buffer.p
            self.entries_buffer = Buffer(2 * n * sizeof(int32_t))
            self.sample = <int32_t *> self.entries_buffer.p
            self.place = self.sample + n
            if self.selector.ranks_all:
                self.sums_buffer = Buffer(batch_size * self.ld_out * sizeof(float))
                self.sums = <float *> self.sums_buffer.p
                if training:
                    self.selector.reserve(batch_size, n_threads)
        self.sum = PerThread(n_threads, ld * sizeof(float))
        n = max(batch_size, padded(self.n_out))
        self.gather = PerThread(n_threads, 2 * n * sizeof(float))
        self.touched = PerThread(n_threads, 3 * ld * sizeof(float))
        self.stamps = PerThread(n_threads, (ld + 1) * sizeof(uint32_t))

    def link(self, LayerKernel below):
        LayerKernel.link(self, below)
        self.given = below.active
        if self.given.ids != NULL:
            self.x = self.dx = NULL
            self._keep.append(below.lists)
            self.n_tiles = <int> ((self.n_in + TILE) // TILE)
            self.cuts_buffer = Buffer(self.batch_size * (self.n_tiles + 1) * sizeof(int32_t))
            self.cuts = <int32_t *> self.cuts_buffer.p
            if self.training:
                # Fixed by the layer alone: sums do not depend on the number of threads.
                self.n_parts = max(1, min(16, self.n_out // 64))
                self.parts_buffer = Buffer(self.n_parts * self.batch_size * self.given.capacity
                                           * sizeof(float))
                self.parts = <float *> self.parts_buffer.p
                if self.selector is not None and self.selector.observes:
                    self.shown = Buffer(LEARNT * self.ld_in * sizeof(float))
                self.columns = ColumnStep(self.params, self.optimizer, self.params.ld,
                                          self.n_threads)

    def release(self):
        LayerKernel.release(self)
        self.lists = self.sums_buffer = self.start_buffer = self.entries_buffer = None
        self.parts_buffer = self.shown = None
        self.active.ids = self.start = NULL

    cdef Given _given(self, Py_ssize_t s) noexcept nogil:
        cdef Given x
        x.ids, x.val, x.x, x.n = NULL, NULL, NULL, self.n_in + 1
        if self.given.ids == NULL:
            x.x = self.x + s * self.ld_in
        else:
            x.ids = self.given.ids + s * self.given.capacity
            x.val = self.given.val + s * self.given.capacity
            x.n = self.given.count[s]
        return x

    cdef void begin(self, Batch *b) noexcept nogil:
        if self.selector is not None:
            self.selector.begin(self.params, b.seed, b.step, b.n_threads)

    cdef void prepare(self, uint64_t seed, uint64_t step, int n_threads) noexcept nogil:
        if self.selector is not None:
            self.selector.prepare(self.params, seed, step, n_threads)

    cdef int64_t hashed(self):
        return 0 if self.selector is None else self.selector.hashed()

    def count_debt(self):
        if self.selector is not None:
            self.selector.count_debt()

    # Forward ---------------------------------------------------------------------------------

    cdef void _dots(self, Given *x, const int32_t *ids, Py_ssize_t n, float *z) noexcept nogil:
        """Sums of n neurons (ids NULL: the first n) for one input."""
        cdef Py_ssize_t j
        if x.ids == NULL:
            self.params.dot(z, ids, n, x.x)
        else:
            for j in range(n):
                z[j] = simd.columns_dot(self.params.row(ids[j] if ids != NULL else j), x.ids,
                                        x.val, x.n)

    cdef void logits(self, Batch *b, Py_ssize_t first, Py_ssize_t last, Py_ssize_t row,
                     Py_ssize_t n_rows, float *z, Py_ssize_t ldz) noexcept nogil:
        cdef Py_ssize_t s, j
        cdef Given x
        if self.given.ids == NULL:
            LayerKernel.logits(self, b, first, last, row, n_rows, z, ldz)
            return
        for j in range(n_rows):
            for s in range(first, last):
                x = self._given(s)
                z[(s - first) * ldz + j] = simd.columns_dot(self.params.row(row + j), x.ids,
                                                            x.val, x.n)

    cdef Py_ssize_t _candidates(self, Batch *b, Py_ssize_t s, int thread) noexcept nogil:
        cdef Given x = self._given(s)
        cdef Py_ssize_t n = self.selector.candidates(
            &x, self.active.ids + s * self.active.capacity, self._stream(b, s), thread)
        self.active.count[s] = <int32_t> n
        self.cost(thread).candidates += n
        return n

    cdef uint64_t _stream(self, Batch *b, Py_ssize_t s) noexcept nogil:
        # Each layer has draws of its own; a prediction does not depend on the place of its row.
        cdef uint64_t salt = <uint64_t> 0x9E3779B97F4A7C15 * <uint64_t> (self.depth + 1)
        if self.training:
            return stream(b.seed ^ salt, b.step, <uint64_t> b.rows[s])
        return stream(b.seed ^ salt, 0, 0)

    cdef void _activate(self, Batch *b, Py_ssize_t s, Py_ssize_t n, int thread) noexcept nogil:
        """Chooses among n computed neurons, and closes the list of the sample."""
        cdef int32_t *ids = self.active.ids + s * self.active.capacity
        cdef float *val = self.active.val + s * self.active.capacity
        cdef float *z = self.sums + s * self.ld_out if self.selector.ranks_all else val
        cdef Py_ssize_t j, m = 0, kept
        kept = self.selector.choose(z, NULL if self.selector.ranks_all else ids, n, ids, val,
                                    self._stream(b, s) + 1, thread)
        if self.training:
            self.cost(thread).selected += kept
        if self.activation == RELU:
            # A neuron at 0 has no part in what follows, nor a gradient.
            for j in range(kept):
                if val[j] > 0:
                    ids[m], val[m] = ids[j], val[j] * self.selector.factor
                    m += 1
            kept = m
        else:
            activate(self.activation, val, kept)
            simd.scale(val, kept, self.selector.factor)
        ids[kept], val[kept] = <int32_t> self.n_out, self.one
        self.active.count[s] = <int32_t> kept + 1

    cdef void forward(self, Batch *b, Py_ssize_t first, Py_ssize_t last,
                      int thread) noexcept nogil:
        cdef Py_ssize_t s, n
        cdef Costs *cost = self.cost(thread)
        cdef Given x
        cdef double started = 0, found = 0
        cdef bint timed
        if self.selector is None:
            cost.samples += last - first
            for s in range(first, last):
                cost.forward += self.n_out * (self._given(s).n - 1)
                cost.selected += self.n_out
            LayerKernel.predict(self, b, first, last, thread)
            return
        for s in range(first, last):
            x = self._given(s)
            timed = is_timed(cost, b.step)
            cost.samples += 1
            if timed:
                started = found = omp_get_wtime()
            if self.selector.ranks_all:
                n = self.n_out
                self._dots(&x, NULL, n, self.sums + s * self.ld_out)
            else:
                n = self._candidates(b, s, thread)
                if timed:
                    found = omp_get_wtime()
                self._dots(&x, self.active.ids + s * self.active.capacity, n,
                           self.active.val + s * self.active.capacity)
            cost.forward += n * (x.n - 1)
            if timed:
                cost.query += found - started
                cost.dot += omp_get_wtime() - found
                cost.timed += 1
            self._activate(b, s, n, thread)

    cdef void predict(self, Batch *b, Py_ssize_t first, Py_ssize_t last,
                      int thread) noexcept nogil:
        cdef Py_ssize_t s
        cdef float *out
        if self.selector is None:
            LayerKernel.predict(self, b, first, last, thread)
            return
        self.logits(b, first, last, 0, self.n_out, self.out + first * self.ld_out, self.ld_out)
        for s in range(first, last):
            out = self.out + s * self.ld_out
            self.selector.expect(self.activation, out, self.n_out)
            out[self.n_out] = self.one

    cdef void predict_batch(self, Batch *b) noexcept nogil:
        if self.selector is not None and self.selector.sparse_predict:
            self.forward_batch(b)
        else:
            LayerKernel.predict_batch(self, b)

    cdef void forward_batch(self, Batch *b) noexcept nogil:
        cdef Py_ssize_t k, s, n_blocks = (b.n + BLOCK - 1) // BLOCK
        cdef double started, found
        if self.given.ids != NULL:
            for s in prange(b.n, schedule="static", num_threads=b.n_threads):
                self._cut(s)
        if self.selector is None:
            LayerKernel.forward_batch(self, b)
            return
        started = found = omp_get_wtime()
        if self.selector.ranks_all:
            for k in prange(n_blocks, schedule="dynamic", chunksize=1, num_threads=b.n_threads):
                self._all_sums(b, k * BLOCK, min(b.n, (k + 1) * BLOCK), omp_get_thread_num())
            self.selector.look(self.sums, self.ld_out, b.n, b.n_threads)
        else:
            for s in prange(b.n, schedule="dynamic", chunksize=4, num_threads=b.n_threads):
                self._candidates(b, s, omp_get_thread_num())
            found = omp_get_wtime()
            self._transpose(b, False)
            for k in prange(self.n_out, schedule="dynamic", chunksize=ROWS,
                            num_threads=b.n_threads):
                self._dot_row(k, omp_get_thread_num())
        self.cost(0).query += b.n_threads * (found - started)
        self.cost(0).dot += b.n_threads * (omp_get_wtime() - found)
        self.cost(0).timed += b.n
        for s in prange(b.n, schedule="dynamic", chunksize=4, num_threads=b.n_threads):
            self._activate(b, s, self.n_out if self.selector.ranks_all else self.active.count[s],
                           omp_get_thread_num())
        self.cost(0).samples += b.n
        if self.training:
            self._transpose(b, True)

    cdef void _all_sums(self, Batch *b, Py_ssize_t first, Py_ssize_t last,
                        int thread) noexcept nogil:
        cdef Py_ssize_t s
        self.logits(b, first, last, 0, self.n_out, self.sums + first * self.ld_out, self.ld_out)
        for s in range(first, last):
            self.cost(thread).forward += self.n_out * (self._given(s).n - 1)

    cdef void _transpose(self, Batch *b, bint closed) noexcept nogil:
        """Sorts the lists' entries by neuron; closed lists end with the bias."""
        cdef Py_ssize_t s, j, capacity = self.active.capacity
        cdef int32_t *start = self.start + 1
        cdef int32_t *ids
        cdef int32_t at, total = 0, count
        memset(self.start, 0, (self.n_out + 2) * sizeof(int32_t))
        for s in range(b.n):
            ids = self.active.ids + s * capacity
            for j in range(self.active.count[s] - closed):
                start[ids[j]] += 1
        for j in range(self.n_out):
            count = start[j]
            start[j] = total
            total += count
        for s in range(b.n):
            ids = self.active.ids + s * capacity
            for j in range(self.active.count[s] - closed):
                at = start[ids[j]]
                start[ids[j]] = at + 1
                self.sample[at] = <int32_t> s
                self.place[at] = <int32_t> (s * capacity + j)

    cdef void _cut(self, Py_ssize_t s) noexcept nogil:
        """Cuts the list of a sample's input into tiles of columns. One that does not ascend is not
        cut: all of it counts as the first tile."""
        cdef Given x = self._given(s)
        cdef int32_t *cuts = self.cuts + s * (self.n_tiles + 1)
        cdef Py_ssize_t i
        cdef int t = 0, u
        cuts[0] = 0
        for i in range(x.n):
            if i > 0 and x.ids[i] < x.ids[i - 1]:
                t = 0
                break
            while x.ids[i] >= (t + 1) * TILE:
                t += 1
                cuts[t] = <int32_t> i
        for u in range(t + 1, self.n_tiles + 1):
            cuts[u] = <int32_t> x.n

    cdef void _dot_row(self, Py_ssize_t r, int thread) noexcept nogil:
        cdef Py_ssize_t i, first = self.start[r], n = self.start[r + 1] - first
        cdef float *z = <float *> self.gather.p[thread]
        cdef const float *w = self.params.row(r)
        cdef int32_t *cuts
        cdef Py_ssize_t s, at
        cdef int t
        cdef int64_t products = 0
        if self.given.ids == NULL:
            simd.rows_dot(z, self.x, self.ld_in, self.sample + first, n, w)
            for i in range(n):
                self.active.val[self.place[first + i]] = z[i]
            products = n * self.n_in
        else:
            for i in range(first, first + n):
                self.active.val[self.place[i]] = 0
                products += self.given.count[self.sample[i]] - 1
            for t in range(self.n_tiles):
                for i in range(first, first + n):
                    s = self.sample[i]
                    cuts = self.cuts + s * (self.n_tiles + 1) + t
                    at = s * self.given.capacity + cuts[0]
                    self.active.val[self.place[i]] += simd.columns_dot(
                        w, self.given.ids + at, self.given.val + at, cuts[1] - cuts[0])
        self.cost(thread).forward += products

    # Backward --------------------------------------------------------------------------------

    cdef double _magnitude(self, Batch *b, Py_ssize_t s, const float *g,
                           Py_ssize_t n) noexcept nogil:
        cdef Given x = self._given(s)
        if x.ids == NULL:
            return LayerKernel._magnitude(self, b, s, g, n)
        return sqrt(<double> simd.sumsq(g, n)) * sqrt(<double> simd.sumsq(x.val, x.n))

    cdef const float *_grads(self) noexcept nogil:
        return self.grad if self.active.ids == NULL else self.active.grad

    cdef double _through(self, Batch *b, Py_ssize_t s, int thread) noexcept nogil:
        """From the gradients of a sample's activations to those of its sums, and their bound."""
        cdef float *g = self.grad + s * self.ld_out
        cdef const float *a = self.out + s * self.ld_out
        cdef Py_ssize_t j, n = self.n_out
        cdef float factor
        cdef int64_t below = 0 if self.dx == NULL and self.given.ids == NULL else 1
        if self.active.ids != NULL:
            g = self.active.grad + s * self.active.capacity
            a = self.active.val + s * self.active.capacity
            n = self.active.count[s] - 1
            factor = self.selector.factor
            for j in range(n):
                g[j] *= factor * derivative(self.activation, a[j] / factor)
        else:
            if self.loss is None:
                through(self.activation, g, a, n)
            memset(g + n, 0, (self.ld_out - n) * sizeof(float))
        self.cost(thread).backward += below * n * (self._given(s).n - 1)
        return self._magnitude(b, s, g, n)

    cdef void _input_gradient(self, Batch *b, Py_ssize_t s, int thread) noexcept nogil:
        """Of one sample."""
        cdef float *g = self.grad + s * self.ld_out
        cdef const int32_t *ids = NULL
        cdef Py_ssize_t j, n = self.n_out
        cdef float *dx
        cdef Given x = self._given(s)
        if self.active.ids != NULL:
            g = self.active.grad + s * self.active.capacity
            ids = self.active.ids + s * self.active.capacity
            n = self.active.count[s] - 1
        if x.ids != NULL:
            dx = self.given.grad + s * self.given.capacity
            memset(dx, 0, x.n * sizeof(float))
            for j in range(n):
                if g[j] != 0:
                    simd.columns_axpy(dx, self.params.row(ids[j] if ids != NULL else j), x.ids,
                                      x.n - 1, g[j])
        elif self.dx != NULL:
            dx = self.dx + s * self.ld_in
            memset(dx, 0, self.ld_in * sizeof(float))
            self.params.axpy(dx, ids, g, n)    # only with a selector

    cdef double backward(self, Batch *b, Py_ssize_t first, Py_ssize_t last,
                         int thread) noexcept nogil:
        cdef Py_ssize_t s
        cdef double bound = 0
        for s in range(first, last):
            bound += self._through(b, s, thread)
            self._input_gradient(b, s, thread)
        return bound

    cdef double backward_batch(self, Batch *b) noexcept nogil:
        cdef Py_ssize_t s, k
        cdef double bound = 0
        if self.given.ids == NULL:
            return LayerKernel.backward_batch(self, b)
        for s in prange(b.n, schedule="static", num_threads=b.n_threads):
            bound += self._through(b, s, omp_get_thread_num())
        for k in prange(self.n_parts, schedule="dynamic", chunksize=1, num_threads=b.n_threads):
            self._spread(b, k, omp_get_thread_num())
        for s in prange(b.n, schedule="static", num_threads=b.n_threads):
            self._collect(b, s)
        return bound

    cdef void _spread(self, Batch *b, Py_ssize_t part, int thread) noexcept nogil:
        """The share of a part of the neurons in all samples' input gradients."""
        cdef Py_ssize_t capacity = self.given.capacity, r, i, s, first, last, at, n
        cdef int32_t *cuts
        cdef int t
        cdef float *dx = self.parts + part * self.batch_size * capacity
        cdef const float *g = self._grads()
        cdef const float *w
        memset(dx, 0, b.n * capacity * sizeof(float))
        for r in range(self.n_out * part // self.n_parts, self.n_out * (part + 1) // self.n_parts):
            w = self.params.row(r)
            first, last = 0, b.n
            if self.start != NULL:
                first, last = self.start[r], self.start[r + 1]
            for t in range(self.n_tiles):
                for i in range(first, last):
                    s, at = i, i * self.ld_out + r
                    if self.start != NULL:
                        s, at = self.sample[i], self.place[i]
                    if g[at] != 0:
                        cuts = self.cuts + s * (self.n_tiles + 1) + t
                        n = min(cuts[1], self.given.count[s] - 1) - cuts[0]     # not the bias
                        simd.columns_axpy(dx + s * capacity + cuts[0], w,
                                          self.given.ids + s * capacity + cuts[0], n, g[at])

    cdef void _collect(self, Batch *b, Py_ssize_t s) noexcept nogil:
        cdef Py_ssize_t k, capacity = self.given.capacity, n = self.given.count[s]
        cdef float *dx = self.given.grad + s * capacity
        memcpy(dx, self.parts + s * capacity, n * sizeof(float))
        for k in range(1, self.n_parts):
            simd.axpy(dx, self.parts + (k * self.batch_size + s) * capacity, n, 1)

    cdef void finish(self, Batch *b) noexcept nogil:
        cdef Py_ssize_t i, n = min(<Py_ssize_t> LEARNT, b.n)
        cdef Given x
        if self.selector is None:
            return
        if self.selector.learns:
            for i in range(n):
                x = self._given(i * b.n // n)
                self.selector.learn(&x)
        if self.selector.observes:
            self._show(b, n)
        self.selector.end(b.seed, b.step)

    cdef void _show(self, Batch *b, Py_ssize_t n) noexcept nogil:
        """Shows the batch's inputs; of lists those of n samples, because rows are as long as the
        layer below is wide."""
        cdef float *rows
        cdef Py_ssize_t i, j
        cdef Given x
        if self.given.ids == NULL:
            self.selector.observe(self.x, self.ld_in, b.n)
            return
        rows = <float *> self.shown.p                       # zeros between calls
        for i in range(n):
            x = self._given(i * b.n // n)
            for j in range(x.n):
                rows[i * self.ld_in + x.ids[j]] = x.val[j]
        self.selector.observe(rows, self.ld_in, n)
        for i in range(n):
            x = self._given(i * b.n // n)
            for j in range(x.n):
                rows[i * self.ld_in + x.ids[j]] = 0

    # Update ----------------------------------------------------------------------------------

    cdef void update(self, Batch *b) noexcept nogil:
        cdef Py_ssize_t r
        for r in prange(self.n_out, schedule="dynamic", chunksize=ROWS, num_threads=b.n_threads):
            self._step_row(b, r, omp_get_thread_num())

    cdef void _step_row(self, Batch *b, Py_ssize_t r, int thread) noexcept nogil:
        """One step of a neuron along its gradient over the batch."""
        cdef float *coefs = <float *> self.gather.p[thread]
        cdef int32_t *samples = <int32_t *> self.gather.p[thread] + max(self.batch_size,
                                                                        padded(self.n_out))
        cdef const float *g = self._grads()
        cdef float *sum
        cdef Py_ssize_t i, s, at, n = 0, first = 0, last = b.n
        if self.start != NULL:
            first, last = self.start[r], self.start[r + 1]
        for i in range(first, last):
            s, at = i, i * self.ld_out + r
            if self.start != NULL:
                s, at = self.sample[i], self.place[i]
            if g[at] != 0:
                samples[n], coefs[n] = <int32_t> s, g[at]
                n += 1
        if n == 0:
            return
        if self.given.ids == NULL:
            sum = <float *> self.sum.p[thread]
            memset(sum, 0, self.params.ld * sizeof(float))
            simd.rows_axpy(sum, self.params.ld, self.x, self.ld_in, samples, coefs, n)
            self.cost(thread).update += n * self.n_in
            self.optimizer.step(self.params, r, sum, b.lr)
        else:
            self._step_columns(b, r, samples, coefs, n, thread)

    cdef void _step_columns(self, Batch *b, Py_ssize_t r, const int32_t *samples,
                            const float *coefs, Py_ssize_t n, int thread) noexcept nogil:
        cdef float *sum = <float *> self.sum.p[thread]              # zeros between calls
        cdef uint32_t *stamp = <uint32_t *> self.stamps.p[thread]
        cdef uint32_t *epoch = stamp + self.params.ld
        cdef int32_t *columns = <int32_t *> self.touched.p[thread]
        cdef float *g = <float *> self.touched.p[thread] + self.params.ld
        cdef float *before = g + self.params.ld
        cdef float *w = self.params.row(r)
        cdef Py_ssize_t i, j, m = 0, ld = self.params.ld
        cdef int64_t products = 0
        cdef int32_t *cuts
        cdef int t
        cdef Given x
        for i in range(n):
            products += self.given.count[samples[i]] - 1
        self.cost(thread).update += products
        for t in range(self.n_tiles):
            for i in range(n):
                x = self._given(samples[i])
                cuts = self.cuts + samples[i] * (self.n_tiles + 1) + t
                simd.columns_add(sum, x.ids + cuts[0], x.val + cuts[0], cuts[1] - cuts[0],
                                 coefs[i])
        if self.optimizer.idle and self.params.l2 == 0 and 8 * products > ld:
            # Most cache lines are touched anyhow: the whole row at once, which is the same.
            memcpy(before, w, ld * sizeof(float))
            self.optimizer.step_row(self.params, r, sum, b.lr)
            memset(sum, 0, ld * sizeof(float))
            if self.params.dirty != NULL and not self.params.dirty[r]:
                self.params.dirty[r] = 1
            if self.selector is not None and self.selector.keeps_step:
                m = simd.changes(columns, g, w, before, ld)
        else:
            epoch[0] += 1
            if epoch[0] == 0:
                memset(stamp, 0, ld * sizeof(uint32_t))
                epoch[0] = 1
            for i in range(n):
                x = self._given(samples[i])
                for j in range(x.n):
                    if stamp[x.ids[j]] != epoch[0]:
                        stamp[x.ids[j]] = epoch[0]
                        columns[m] = x.ids[j]
                        m += 1
            for j in range(m):
                g[j] = sum[columns[j]]
                sum[columns[j]] = 0
            self.columns.step(self.params, r, columns, m, g, b.lr, thread)
        if self.selector is not None and self.selector.keeps_step:
            self.selector.shift(self.params, r, columns, g, m, thread)

    cdef void update_sample(self, Batch *b, Py_ssize_t s, int thread) noexcept nogil:
        cdef float *sum = <float *> self.sum.p[thread]
        cdef float *g = <float *> self.touched.p[thread] + self.params.ld
        cdef const float *grads = self.grad + s * self.ld_out
        cdef const int32_t *ids = NULL
        cdef Py_ssize_t i, j, r, n = self.n_out
        cdef Given x = self._given(s)
        if self.active.ids != NULL:
            ids = self.active.ids + s * self.active.capacity
            grads = self.active.grad + s * self.active.capacity
            n = self.active.count[s] - 1
        for i in range(n):
            if grads[i] == 0:
                continue
            r = ids[i] if ids != NULL else i
            self.cost(thread).update += x.n - 1
            if x.ids == NULL:
                memset(sum, 0, self.params.ld * sizeof(float))
                simd.axpy(sum, x.x, self.params.ld, grads[i])
                self.optimizer.step(self.params, r, sum, b.lr)
            else:
                for j in range(x.n):
                    g[j] = grads[i] * x.val[j]
                self.columns.step(self.params, r, x.ids, x.n, g, b.lr, thread)
                if self.selector is not None and self.selector.keeps_step:
                    self.selector.lose(r)
