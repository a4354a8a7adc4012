"""Optimizers on single rows, and the update of the rows that a batch touched."""
cimport cython
from cython.parallel cimport prange
from libc.math cimport pow, sqrt
from libc.string cimport memcpy, memset

from slide._kernels.openmp cimport omp_get_thread_num
from slide._kernels.simd cimport AdamStep, prefetch, simd

cdef enum:
    BLOCK = 16          # samples that one task of the grouping handles


@cython.final
cdef class Parameters:
    """
    weights : (n_rows, ld) float32, ld a multiple of 16; columns from n_cols on stay zero
    slots : (n_rows, n_slots * ld) float32; state : (n_rows, n_state) float32
    """

    def __cinit__(self, weights, slots, state, Py_ssize_t n_cols, Py_ssize_t n_weights,
                  float l2=0.0):
        cdef float[:, ::1] w = weights, s = slots, r = state
        if w.shape[1] % 16 or n_weights > n_cols or n_cols > w.shape[1]:
            raise ValueError(f"a row of {w.shape[1]} floats for {n_cols} columns")
        if s.shape[0] != w.shape[0] or r.shape[0] != w.shape[0] or s.shape[1] % w.shape[1]:
            raise ValueError("optimizer state and weights have different shapes")
        self.weights, self.slots, self.state = weights, slots, state
        self.n_rows, self.ld = w.shape[0], w.shape[1]
        self.n_cols, self.n_weights, self.l2 = n_cols, n_weights, l2
        self.n_slots, self.n_state = <int> (s.shape[1] // w.shape[1]), <int> r.shape[1]
        self.w = &w[0, 0]
        self.s = &s[0, 0] if self.n_slots else NULL
        self.r = &r[0, 0] if self.n_state else NULL
        self.dirty = NULL


cdef class Optimizer:
    cdef void step(self, Parameters p, Py_ssize_t row, float *g, float lr) noexcept nogil:
        """Adds the penalty to g and steps; g is scratch afterwards."""
        if p.l2 != 0:
            simd.axpy(g, p.w + row * p.ld, p.n_weights, 2 * p.l2)
        self.skip_row(p, row, lr)
        self.step_row(p, row, g, lr)
        if p.dirty != NULL:
            p.dirty[row] = 1

    cdef void skip_row(self, Parameters p, Py_ssize_t row, float lr) noexcept nogil:
        """Makes the steps with gradient 0 that the row has missed; state column 0 is its clock."""
        pass

    cdef void step_row(self, Parameters p, Py_ssize_t row, float *g, float lr) noexcept nogil:
        pass

    def settle(self, Parameters p, double now, float lr, int n_threads):
        """Brings all rows up to the clock."""
        cdef Py_ssize_t i
        self.now = now
        if p.n_state == 0 or p.n_slots == 0:
            return
        with nogil:
            for i in prange(p.n_rows, schedule="static", num_threads=n_threads):
                if p.r[i * p.n_state] < self.now:
                    self.skip_row(p, i, lr)
                    p.r[i * p.n_state] = <float> self.now


@cython.final
cdef class SGD(Optimizer):
    cdef double mu
    cdef bint nesterov

    def __cinit__(self, double momentum=0.0, bint nesterov=False):
        self.mu, self.nesterov = momentum, nesterov
        self.n_slots = self.n_state = 1 if momentum else 0

    cdef void skip_row(self, Parameters p, Py_ssize_t row, float lr) noexcept nogil:
        cdef double gap, decay
        cdef float *v = p.s + row * p.ld
        if self.n_slots:
            gap = self.now - p.r[row]
            if gap > 0:
                # A step without gradient moves by what is left of v, times mu again with Nesterov.
                decay = pow(self.mu, gap)
                simd.axpy(p.w + row * p.ld, v, p.ld, <float> (
                    self.mu * (1 - decay) / (1 - self.mu) * (self.mu if self.nesterov else 1)))
                simd.scale(v, p.ld, <float> decay)

    cdef void step_row(self, Parameters p, Py_ssize_t row, float *g, float lr) noexcept nogil:
        if self.n_slots:
            simd.momentum(p.w + row * p.ld, p.s + row * p.ld, g, p.ld, lr, <float> self.mu,
                          self.nesterov)
            p.r[row] = <float> (self.now + 1)
        else:
            simd.sgd(p.w + row * p.ld, g, p.ld, lr)


@cython.final
cdef class Adagrad(Optimizer):
    cdef float eps

    def __cinit__(self, double epsilon):
        self.eps = epsilon
        self.n_slots, self.n_state = 1, 0

    cdef void step_row(self, Parameters p, Py_ssize_t row, float *g, float lr) noexcept nogil:
        simd.adagrad(p.w + row * p.ld, p.s + row * p.ld, g, p.ld, lr, self.eps)


@cython.final
cdef class RowwiseAdagrad(Optimizer):
    cdef float eps

    def __cinit__(self, double epsilon):
        self.eps = epsilon
        self.n_slots, self.n_state = 0, 1

    cdef void step_row(self, Parameters p, Py_ssize_t row, float *g, float lr) noexcept nogil:
        p.r[row] += simd.sumsq(g, p.ld) / p.n_cols
        simd.sgd(p.w + row * p.ld, g, p.ld, lr / (<float> sqrt(p.r[row]) + self.eps))


@cython.final
cdef class Adam(Optimizer):
    cdef double b1, b2
    cdef float eps

    def __cinit__(self, double beta_1, double beta_2, double epsilon):
        self.n_slots, self.n_state = 2, 1
        self.b1, self.b2, self.eps = beta_1, beta_2, epsilon

    cdef void skip_row(self, Parameters p, Py_ssize_t row, float lr) noexcept nogil:
        # After k of the missed steps the direction m / sqrt(v) is ratio^k times what it was; both
        # bias corrections are taken as they are now.
        cdef double gap = self.now - p.r[row], ratio, sum, root
        cdef float *slots = p.s + row * 2 * p.ld
        if gap > 0 and p.r[row] > 0:
            ratio = self.b1 / sqrt(self.b2)
            sum = ratio * (1 - pow(ratio, gap)) / (1 - ratio) if ratio != 1 else gap
            root = sqrt(1 - pow(self.b2, self.now))
            simd.adam_skip(p.w + row * p.ld, slots, slots + p.ld, p.ld,
                           <float> (lr * sum * root / (1 - pow(self.b1, self.now))),
                           <float> (self.eps * root), <float> pow(self.b1, gap),
                           <float> pow(self.b2, gap))

    cdef void step_row(self, Parameters p, Py_ssize_t row, float *g, float lr) noexcept nogil:
        cdef float *slots = p.s + row * 2 * p.ld
        cdef double root = sqrt(1 - pow(self.b2, self.now + 1))
        cdef AdamStep s
        s.rate = <float> (lr * root / (1 - pow(self.b1, self.now + 1)))
        s.eps = <float> (self.eps * root)
        s.beta1, s.beta2 = <float> self.b1, <float> self.b2
        s.rest1, s.rest2 = <float> (1 - self.b1), <float> (1 - self.b2)
        p.r[row] = <float> (self.now + 1)
        simd.adam(p.w + row * p.ld, slots, slots + p.ld, g, p.ld, s)


@cython.final
cdef class RowUpdate:
    """Two counting sorts without locks: entries go to parts by their row's low bits, then a part's
    entries are grouped by row. Within a row they stay in the order of the samples, so the sums do
    not depend on the number of threads.

    capacity : int
        Most entries that a batch can have.
    """

    def __cinit__(self, Parameters params, Optimizer optimizer, Py_ssize_t batch_size,
                  Py_ssize_t capacity, int n_threads):
        self.params, self.optimizer, self.capacity = params, optimizer, capacity
        # Low bits, because popular ids are often neighbours. Parts must be many enough to balance
        # and few enough that their write heads stay in the first-level cache.
        self.log_parts = 4 if params.n_rows < 4096 else 8
        self.n_parts = 1 << self.log_parts
        self.max_rows = (params.n_rows >> self.log_parts) + 1
        self.n_blocks = (batch_size + BLOCK - 1) // BLOCK
        self.entries_buffer = Buffer(capacity * sizeof(Entry))
        self.entries = <Entry *> self.entries_buffer.p
        self.hist_buffer = Buffer(self.n_blocks * self.n_parts * sizeof(Py_ssize_t))
        self.hist = <Py_ssize_t *> self.hist_buffer.p
        self.start_buffer = Buffer((self.n_parts + 1) * sizeof(Py_ssize_t))
        self.start = <Py_ssize_t *> self.start_buffer.p
        self.ids_buffer = Buffer(batch_size * sizeof(void *))
        self.ids = <const int32_t **> self.ids_buffer.p
        self.coef_buffer = Buffer(batch_size * sizeof(void *))
        self.coef = <const float **> self.coef_buffer.p
        self.count_buffer = Buffer(batch_size * sizeof(int32_t))
        self.count = <int32_t *> self.count_buffer.p
        self.extra_pos, self.extra, self.extra_done, self.n_extra = NULL, NULL, NULL, 0
        self.counters = PerThread(n_threads, self.max_rows * sizeof(int32_t))
        self.touched = PerThread(n_threads, self.max_rows * sizeof(int32_t))
        self.samples_buffer = Buffer(capacity * sizeof(int32_t))
        self.coefs_buffer = Buffer(capacity * sizeof(float))
        self.grad = PerThread(n_threads, params.ld * sizeof(float))

    cdef void run(self, Py_ssize_t n, const float *h, Py_ssize_t ldh, float lr,
                  int n_threads) noexcept nogil:
        """Row r steps along sum_s coef[s, r] * h[s]."""
        cdef Py_ssize_t n_blocks = (n + BLOCK - 1) // BLOCK
        cdef Py_ssize_t b, k, total = 0, c
        for b in prange(n_blocks, schedule="dynamic", chunksize=1, num_threads=n_threads):
            self._count_block(n, b)
        for k in range(self.n_parts):
            self.start[k] = total
            for b in range(n_blocks):
                c = self.hist[b * self.n_parts + k]
                self.hist[b * self.n_parts + k] = total
                total += c
        self.start[self.n_parts] = total
        for b in prange(n_blocks, schedule="dynamic", chunksize=1, num_threads=n_threads):
            self._scatter_block(n, b)
        for k in prange(self.n_parts, schedule="dynamic", chunksize=1, num_threads=n_threads):
            self._part(self.params, k, h, ldh, lr, omp_get_thread_num())
        for k in prange(self.n_extra, schedule="dynamic", chunksize=16, num_threads=n_threads):
            if not self.extra_done[k]:
                self.optimizer.step(self.params, self.extra_ids[k],
                                    self.extra + k * self.params.ld, lr)
            self.extra_done[k] = 0

    cdef void _count_block(self, Py_ssize_t n, Py_ssize_t block) noexcept nogil:
        cdef Py_ssize_t *hist = self.hist + block * self.n_parts
        cdef int32_t mask = <int32_t> self.n_parts - 1
        cdef const int32_t *ids
        cdef Py_ssize_t s, i
        memset(hist, 0, self.n_parts * sizeof(Py_ssize_t))
        for s in range(block * BLOCK, min(n, (block + 1) * BLOCK)):
            ids = self.ids[s]
            for i in range(self.count[s]):
                hist[ids[i] & mask] += 1

    cdef void _scatter_block(self, Py_ssize_t n, Py_ssize_t block) noexcept nogil:
        cdef Py_ssize_t *at = self.hist + block * self.n_parts
        cdef int32_t mask = <int32_t> self.n_parts - 1
        cdef const int32_t *ids
        cdef const float *coef
        cdef Entry *e
        cdef Py_ssize_t s, i
        for s in range(block * BLOCK, min(n, (block + 1) * BLOCK)):
            ids, coef = self.ids[s], self.coef[s]
            for i in range(self.count[s]):
                e = self.entries + at[ids[i] & mask]
                at[ids[i] & mask] += 1
                e.row, e.sample, e.coef = ids[i], <int32_t> s, coef[i]

    cdef void _part(self, Parameters p, Py_ssize_t part, const float *h, Py_ssize_t ldh, float lr,
                    int thread) noexcept nogil:
        cdef int32_t *counter = <int32_t *> self.counters.p[thread]   # zero between calls
        cdef int32_t *touched = <int32_t *> self.touched.p[thread]
        cdef int32_t *samples = <int32_t *> self.samples_buffer.p + self.start[part]
        cdef float *coefs = <float *> self.coefs_buffer.p + self.start[part]
        cdef float *g = <float *> self.grad.p[thread]
        cdef Entry *e = self.entries + self.start[part]
        cdef Py_ssize_t n = self.start[part + 1] - self.start[part]
        cdef Py_ssize_t i, j, n_touched = 0, first, last, row, k
        cdef int32_t local, at, c
        for i in range(n):
            local = e[i].row >> self.log_parts
            if counter[local] == 0:
                touched[n_touched] = local
                n_touched += 1
            counter[local] += 1
        at = 0
        for j in range(n_touched):
            c = counter[touched[j]]
            counter[touched[j]] = at
            at += c
        for i in range(n):
            local = e[i].row >> self.log_parts
            at = counter[local]
            counter[local] = at + 1
            samples[at] = e[i].sample
            coefs[at] = e[i].coef
        first = 0
        for j in range(n_touched):
            if j + 2 < n_touched:
                row = (<Py_ssize_t> touched[j + 2] << self.log_parts) + part
                prefetch(p.w + row * p.ld, p.ld)
                prefetch(p.s + row * p.n_slots * p.ld, p.n_slots * p.ld)
            local = touched[j]
            row = (<Py_ssize_t> local << self.log_parts) + part
            last = counter[local]
            counter[local] = 0
            k = self.extra_pos[row] if self.n_extra else -1
            if k >= 0:
                memcpy(g, self.extra + k * p.ld, p.ld * sizeof(float))
                self.extra_done[k] = 1
            else:
                memset(g, 0, p.ld * sizeof(float))
            simd.rows_axpy(g, p.ld, h, ldh, samples + first, coefs + first, last - first)
            self.optimizer.step(p, row, g, lr)
            first = last
