"""Optimizers on single rows, and the update of the rows that a batch touched."""
cimport cython
from cpython.object cimport PyObject
from cython.parallel cimport prange
from libc.math cimport pow, sqrt
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from slide._kernels.random cimport stream
from slide._kernels.simd cimport AdamStep, lowest_bit, prefetch, simd
from slide._kernels.types cimport BLOCK, Buffer, PerThread, padded

import numpy as np

cdef enum:
    LOG_LINE = 4        # 16 floats in a cache line
    LOG_RUN = 6
    AHEAD = 4           # rows that are fetched before their turn
    GAPS = 256          # gaps whose decays are kept in tables


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
        self.far = <double> self.n_rows * self.ld * sizeof(float) > FAR


cdef class Optimizer:
    cdef void tick(self, double now) noexcept nogil:
        """Sets the clock, and what depends on it alone."""
        self.now = now

    cdef void step(self, Parameters p, Py_ssize_t row, float *g, float lr) noexcept nogil:
        """Adds the penalty to g and steps; g is scratch afterwards."""
        if p.l2 != 0:
            simd.axpy(g, p.w + row * p.ld, p.n_weights, 2 * p.l2)
        self.advance_row(p, row, g, lr)
        if p.dirty != NULL and not p.dirty[row]:    # written once: neighbours share the line
            p.dirty[row] = 1

    cdef void skip_row(self, Parameters p, Py_ssize_t row) noexcept nogil:
        """Makes the steps with gradient 0 that the row has missed; state column 0 is its clock."""
        pass

    cdef void step_row(self, Parameters p, Py_ssize_t row, float *g, float lr) noexcept nogil:
        pass

    cdef void advance_row(self, Parameters p, Py_ssize_t row, float *g, float lr) noexcept nogil:
        """Both."""
        self.skip_row(p, row)
        self.step_row(p, row, g, lr)

    def settle(self, Parameters p, double now, int n_threads):
        """Brings all rows up to the clock."""
        cdef Py_ssize_t i
        self.tick(now)
        if p.n_state == 0 or p.n_slots == 0:
            return
        with nogil:
            for i in prange(p.n_rows, schedule="static", num_threads=n_threads):
                if p.clock(i)[0] < self.now:
                    self.skip_row(p, i)
                    p.clock(i)[0] = <int32_t> self.now


@cython.final
cdef class SGD(Optimizer):
    cdef double mu
    cdef bint nesterov

    def __cinit__(self, double momentum=0.0, bint nesterov=False):
        self.mu, self.nesterov = momentum, nesterov
        self.n_slots = self.n_state = 1 if momentum else 0
        self.idle = momentum == 0

    cdef void skip_row(self, Parameters p, Py_ssize_t row) noexcept nogil:
        cdef double gap, decay
        cdef float *v = p.s + row * p.ld
        if self.n_slots:
            gap = self.now - p.clock(row)[0]
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
            p.clock(row)[0] = <int32_t> (self.now + 1)
        else:
            simd.sgd(p.w + row * p.ld, g, p.ld, lr)


@cython.final
cdef class Adagrad(Optimizer):
    cdef float eps, mu

    def __cinit__(self, double epsilon, double momentum=0.0):
        self.eps, self.mu = epsilon, momentum
        self.n_slots, self.n_state = 2 if momentum else 1, 0
        self.idle = True

    cdef void step_row(self, Parameters p, Py_ssize_t row, float *g, float lr) noexcept nogil:
        cdef float *slots = p.s + row * self.n_slots * p.ld
        if self.mu != 0:
            simd.adagrad_momentum(p.w + row * p.ld, slots, slots + p.ld, g, p.ld, lr, self.eps,
                                  self.mu)
        else:
            simd.adagrad(p.w + row * p.ld, slots, g, p.ld, lr, self.eps)


@cython.final
cdef class RowwiseAdagrad(Optimizer):
    cdef float eps

    def __cinit__(self, double epsilon):
        self.eps = epsilon
        self.n_slots, self.n_state = 0, 1
        self.idle = True

    cdef void step_row(self, Parameters p, Py_ssize_t row, float *g, float lr) noexcept nogil:
        p.r[row] += simd.sumsq(g, p.ld) / p.n_cols
        simd.sgd(p.w + row * p.ld, g, p.ld, lr / (<float> sqrt(p.r[row]) + self.eps))


@cython.final
cdef class Adam(Optimizer):
    cdef double b1, b2, ratio
    cdef float eps
    cdef AdamStep next              # of a row that makes the step after `now`
    # What follows the step after `now`, should its row miss some: their bias corrections, taken
    # `ahead` steps later, where the moves have half of their weight. State column 1 keeps this
    # times the step's learning rate: the moves are those of that time.
    cdef double ahead, after
    cdef float skip_eps             # of a row that is brought up to `now`
    # Of short gaps: the sum of the missed moves over the first, and both decays.
    cdef double[GAPS] sums
    cdef float[GAPS] decay1, decay2
    cdef bint rounded               # both moments in bfloat16, side by side in one slot
    cdef bint lazy                  # a step that a row misses does nothing to it

    def __cinit__(self, double beta_1, double beta_2, double epsilon, bint rounded=False,
                  bint lazy=False):
        cdef int gap
        self.rounded, self.lazy = rounded, lazy
        self.n_slots, self.n_state = 1 if rounded else 2, 0 if lazy else 2
        self.b1, self.b2, self.eps = beta_1, beta_2, epsilon
        self.ratio = beta_1 / sqrt(beta_2) if beta_2 > 0 else 0
        self.ahead = min(0.5 / (1 - self.ratio), 1000) if self.ratio < 1 else 1000
        for gap in range(GAPS):
            self.decay1[gap], self.decay2[gap] = <float> beta_1 ** gap, <float> beta_2 ** gap
            self.sums[gap] = self._sum(gap)
        self.next.beta1, self.next.beta2 = <float> beta_1, <float> beta_2
        self.next.rest1, self.next.rest2 = <float> (1 - beta_1), <float> (1 - beta_2)
        # By the Cauchy-Schwarz inequality on both sums of past gradients; 1.01 for rounding.
        rest = (1 - beta_2) * (1 - beta_1 ** 2 / beta_2)
        self.next.most = <float> min(1.01 * (1 - beta_1) / sqrt(rest), 1e30) if rest > 0 else 1e30

    cdef double _sum(self, double gap) noexcept nogil:
        # After k of the missed steps the direction m / sqrt(v) is ratio^k times what it was.
        if self.ratio == 1:
            return gap
        return self.ratio * (1 - pow(self.ratio, gap)) / (1 - self.ratio)

    cdef void tick(self, double now) noexcept nogil:
        cdef double root = sqrt(1 - pow(self.b2, now + 1))
        self.now = now
        self.next.rate = <float> (root / (1 - pow(self.b1, now + 1)))
        self.next.eps = <float> (self.eps * root)
        self.after = sqrt(1 - pow(self.b2, now + 1 + self.ahead)) / (
            1 - pow(self.b1, now + 1 + self.ahead))
        self.skip_eps = <float> (self.eps * sqrt(1 - pow(self.b2, now)))

    cdef void skip_row(self, Parameters p, Py_ssize_t row) noexcept nogil:
        self._move(p, row, NULL, 0, True)

    cdef void step_row(self, Parameters p, Py_ssize_t row, float *g, float lr) noexcept nogil:
        self._move(p, row, g, lr, False)

    cdef void advance_row(self, Parameters p, Py_ssize_t row, float *g, float lr) noexcept nogil:
        self._move(p, row, g, lr, True)

    cdef void _move(self, Parameters p, Py_ssize_t row, const float *g, float lr,
                    bint skips) noexcept nogil:
        """In one pass: the missed steps, if `skips`, and the step along g, if it is not NULL."""
        cdef AdamStep s = self.next
        cdef double gap = 0 if self.lazy else self.now - p.clock(row)[0]
        cdef int i = <int> gap
        cdef float *w = p.w + row * p.ld
        cdef float *slots = p.s + row * self.n_slots * p.ld
        s.rate *= lr
        s.behind = skips and gap > 0 and p.clock(row)[0] != 0
        if not s.behind and g == NULL:
            return
        if s.behind:
            s.skip_eps = self.skip_eps
            s.skip_rate = (p.r + row * p.n_state)[1]
            if gap < GAPS:
                s.skip_rate *= <float> self.sums[i]
                s.decay1, s.decay2 = self.decay1[i], self.decay2[i]
            else:
                s.skip_rate *= <float> self._sum(gap)
                s.decay1, s.decay2 = <float> pow(self.b1, gap), <float> pow(self.b2, gap)
        if g != NULL and not self.lazy:
            p.clock(row)[0] = <int32_t> (self.now + 1)
            (p.r + row * p.n_state)[1] = <float> (lr * self.after)
        if self.rounded:
            # In hogwild mode a row has several steps at one time; its weights tell them apart.
            simd.adam_bfloat16(w, <uint32_t *> slots, g, p.ld, &s, <uint32_t> stream(
                <uint64_t> self.now, <uint64_t> row, (<uint32_t *> w)[0]))
        else:
            simd.adam(w, slots, slots + p.ld, g, p.ld, &s)


@cython.final
cdef class ColumnStep:
    """
    The columns are copied side by side, stepped as a row, and copied back: the optimizers need no
    second form. Weights, slots and the row's state are touched at these columns only.

    most : int
        Columns of a step.
    """

    def __cinit__(self, Parameters params, Optimizer optimizer, Py_ssize_t most, int n_threads):
        cdef Py_ssize_t ld = padded(most)
        cdef Parameters small
        self.optimizer = optimizer
        self.rows = []
        self.row_buffer = Buffer(n_threads * sizeof(void *))
        self.row = <PyObject **> self.row_buffer.p
        for i in range(n_threads):
            small = Parameters(aligned(ld), aligned(params.n_slots * ld), aligned(params.n_state),
                               1, 1)
            small.n_cols = params.n_cols
            self.rows.append(small)
            self.row[i] = <PyObject *> small

    cdef void step(self, Parameters p, Py_ssize_t row, const int32_t *columns, Py_ssize_t n,
                   float *g, float lr, int thread) noexcept nogil:
        """Along g (n values, with room for a padded row); g is the weights' change then.

        A penalty is on the columns but the bias.
        """
        cdef Py_ssize_t i, k, ld = padded(n)
        cdef float *own = p.w + row * p.ld
        cdef float *w = (<Parameters> self.row[thread]).w
        cdef float *s = (<Parameters> self.row[thread]).s
        cdef float *slot
        for i in range(n):
            w[i] = own[columns[i]]
        if p.l2 != 0:
            for i in range(n):
                if columns[i] < p.n_weights:
                    g[i] += 2 * p.l2 * w[i]
        for i in range(n, ld):
            w[i] = g[i] = 0
        for k in range(p.n_slots):
            slot = p.s + (row * p.n_slots + k) * p.ld
            for i in range(n):
                s[k * ld + i] = slot[columns[i]]
            for i in range(n, ld):
                s[k * ld + i] = 0
        (<Parameters> self.row[thread]).ld = ld
        if p.n_state:
            (<Parameters> self.row[thread]).r = p.r + row * p.n_state
        self.optimizer.step_row(<Parameters> self.row[thread], 0, g, lr)
        for k in range(p.n_slots):
            slot = p.s + (row * p.n_slots + k) * p.ld
            for i in range(n):
                slot[columns[i]] = s[k * ld + i]
        for i in range(n):
            g[i] = w[i] - own[columns[i]]
            own[columns[i]] = w[i]
        if p.dirty != NULL and not p.dirty[row]:
            p.dirty[row] = 1


def aligned(Py_ssize_t n):
    """One row of n zeros on a cache line of its own."""
    raw = np.zeros(n + 64, np.float32)
    first = -raw.ctypes.data % 128 // 4
    return raw[first:first + n].reshape(1, n)


@cython.final
cdef class RowUpdate:
    """Two counting sorts without locks: entries go to parts by some bits of their row's number,
    then a part's entries are grouped by row. Within a row they stay in the order of the samples, so
    the sums do not depend on the number of threads.

    The caller adds every sample, counts every block of samples (both in its first phase), calls
    begin, scatters all blocks and groups and steps all parts; the blocks, and the parts, in any
    order and on any threads.

    Parameters
    ----------
    capacity : int
        Most entries that a batch can have.
    n_extra : int
        Rows whose gradients the caller sums in part.
    by_place : bool
        Entries are grouped before their coefficients are known, which `read_part` then looks up.
    """

    def __cinit__(self, Parameters params, Optimizer optimizer, Py_ssize_t batch_size,
                  Py_ssize_t capacity, Py_ssize_t n_extra, int n_threads, bint by_place=False):
        self.params, self.optimizer, self.capacity = params, optimizer, capacity
        self.by_place = by_place
        # Low bits, because popular ids are often neighbours, but not the lowest: LINE neighbours
        # share a cache line of the optimizer's state, which two threads must not both write, and
        # where most rows are touched, longer runs of them stream through memory. Parts must be
        # many enough to balance and few enough that their write heads stay in the first-level
        # cache, and the pages of these in that of addresses.
        self.log_run = LOG_LINE if capacity < params.n_rows else LOG_RUN
        self.log_parts = 4 if params.n_rows < 4096 else 6
        self.sample_bits = (<object> (batch_size - 1)).bit_length()
        while True:
            self.max_rows = ((params.n_rows >> (self.log_run + self.log_parts)) + 1) << self.log_run
            if (<object> (self.max_rows - 1)).bit_length() + self.sample_bits <= 32:
                break
            if self.log_run + self.log_parts > 30:
                raise ValueError(f"a batch of {batch_size} samples: at most {1 << 26}")
            self.log_parts += 1
        self.n_parts = 1 << self.log_parts
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
        self.samples_buffer = Buffer(capacity * sizeof(int32_t))
        self.samples = <int32_t *> self.samples_buffer.p
        self.factors_buffer = Buffer(capacity * sizeof(Factor))
        self.factors = <Factor *> self.factors_buffer.p
        self.rows_buffer = Buffer(capacity * sizeof(int32_t))
        self.rows = <int32_t *> self.rows_buffer.p
        self.ends_buffer = Buffer(capacity * sizeof(int32_t))
        self.ends = <int32_t *> self.ends_buffer.p
        self.n_rows_buffer = Buffer(self.n_parts * sizeof(int32_t))
        self.n_rows = <int32_t *> self.n_rows_buffer.p
        self.n_extra = n_extra
        self.extra_buffer = Buffer(n_extra * params.ld * sizeof(float))
        self.extra = <float *> self.extra_buffer.p
        self.chain_buffer = Buffer((self.n_parts + n_extra) * sizeof(int32_t))
        self.chain_first = <int32_t *> self.chain_buffer.p
        self.chain_next = self.chain_first + self.n_parts
        self.counters = PerThread(n_threads, self.max_rows * sizeof(int32_t))
        self.marks = PerThread(n_threads, (self.max_rows + 63) // 64 * sizeof(uint64_t))
        self.grad = PerThread(n_threads, params.ld * sizeof(float))

    cdef int32_t row_of(self, Py_ssize_t local, Py_ssize_t part) noexcept nogil:
        """The row with that number in the part, see `scatter_block`."""
        return <int32_t> ((((local >> self.log_run << self.log_parts) | part) << self.log_run) | (
            local & ((1 << self.log_run) - 1)))

    cdef void add(self, Py_ssize_t s, const int32_t *ids, const float *coef,
                  int32_t count) noexcept nogil:
        """Sample s adds coef[i] * h[s] to the gradient of row ids[i]."""
        self.ids[s], self.coef[s], self.count[s] = ids, coef, count

    cdef void count_block(self, Py_ssize_t block, Py_ssize_t n) noexcept nogil:
        """Of the samples block * BLOCK and on, in a batch of n."""
        cdef Py_ssize_t *hist = self.hist + block * self.n_parts
        cdef int32_t mask = <int32_t> self.n_parts - 1
        cdef const int32_t *ids
        cdef Py_ssize_t s, i
        memset(hist, 0, self.n_parts * sizeof(Py_ssize_t))
        for s in range(block * BLOCK, min(n, (block + 1) * BLOCK)):
            ids = self.ids[s]
            for i in range(self.count[s]):
                hist[(ids[i] >> self.log_run) & mask] += 1

    cdef void begin(self, Py_ssize_t n) noexcept nogil:
        """Places of all parts' entries; every block is counted."""
        cdef Py_ssize_t b, k, c, total = 0
        cdef int32_t part
        for k in range(self.n_parts):
            self.start[k] = total
            for b in range((n + BLOCK - 1) // BLOCK):
                c = self.hist[b * self.n_parts + k]
                self.hist[b * self.n_parts + k] = total
                total += c
            self.chain_first[k] = -1
        self.start[self.n_parts] = total
        for k in range(self.n_extra):
            part = (self.extra_ids[k] >> self.log_run) & (<int32_t> self.n_parts - 1)
            self.chain_next[k] = self.chain_first[part]
            self.chain_first[part] = <int32_t> k

    cdef void scatter_block(self, Py_ssize_t block, Py_ssize_t n) noexcept nogil:
        cdef Py_ssize_t *at = self.hist + block * self.n_parts
        cdef uint32_t mask = <uint32_t> self.n_parts - 1
        cdef int log_run = self.log_run, log_both = self.log_run + self.log_parts
        cdef int bits = self.sample_bits
        cdef uint32_t run_mask = (<uint32_t> 1 << log_run) - 1
        cdef bint by_place = self.by_place
        cdef const int32_t *ids
        cdef const float *coef
        cdef Entry *entries = self.entries
        cdef Entry *e
        cdef Py_ssize_t s, i
        cdef uint32_t id, part
        for s in range(block * BLOCK, min(n, (block + 1) * BLOCK)):
            ids, coef = self.ids[s], self.coef[s]
            for i in range(self.count[s]):
                id = <uint32_t> ids[i]
                part = (id >> log_run) & mask
                e = entries + at[part]
                at[part] += 1
                # A row's number within its part; rows of a part ascend with it.
                e.key = ((id >> log_both << log_run) | (id & run_mask)) << bits | <uint32_t> s
                if by_place:
                    e.factor.place = <int32_t> i
                else:
                    e.factor.coef = coef[i]

    cdef void group_part(self, Py_ssize_t part, int thread) noexcept nogil:
        """Puts the part's entries in the order of their rows; all blocks are scattered."""
        cdef int32_t *counter = <int32_t *> self.counters.p[thread]     # zero between calls
        cdef uint64_t *marks = <uint64_t *> self.marks.p[thread]        # as well
        cdef int32_t *samples = self.samples + self.start[part]
        cdef Factor *factors = self.factors + self.start[part]
        cdef int32_t *rows = self.rows + self.start[part]
        cdef int32_t *ends = self.ends + self.start[part]
        cdef Entry *e = self.entries + self.start[part]
        cdef Py_ssize_t n = self.start[part + 1] - self.start[part]
        cdef Py_ssize_t i, w
        cdef int32_t local, c, at = 0, n_rows = 0
        cdef int bits = self.sample_bits
        cdef uint32_t mask = (<uint32_t> 1 << bits) - 1
        cdef uint64_t word
        for i in range(n):
            local = <int32_t> (e[i].key >> bits)
            marks[local >> 6] |= <uint64_t> 1 << (local & 63)
            counter[local] += 1
        for w in range((self.max_rows + 63) >> 6):
            word = marks[w]
            marks[w] = 0
            while word:
                local = <int32_t> (64 * w + lowest_bit(word))
                word &= word - 1
                c = counter[local]
                counter[local] = at
                at += c
                rows[n_rows], ends[n_rows] = local, at
                n_rows += 1
        self.n_rows[part] = n_rows
        for i in range(n):
            local = <int32_t> (e[i].key >> bits)
            at = counter[local]
            counter[local] = at + 1
            samples[at] = <int32_t> (e[i].key & mask)
            factors[at] = e[i].factor
        for i in range(n_rows):
            counter[rows[i]] = 0
            rows[i] = self.row_of(rows[i], part)

    cdef void read_part(self, Py_ssize_t part) noexcept nogil:
        """Replaces the places by the coefficients, which are known now."""
        cdef Py_ssize_t i
        for i in range(self.start[part], self.start[part + 1]):
            self.factors[i].coef = self.coef[self.samples[i]][self.factors[i].place]

    cdef void step_part(self, Parameters p, Py_ssize_t part, const float *h, Py_ssize_t ldh,
                        float lr, int thread) noexcept nogil:
        """Row r of the part steps along sum_s coef[s, r] * h[s] and its extra gradient."""
        cdef const int32_t *samples = self.samples + self.start[part]
        cdef const float *coefs = <float *> (self.factors + self.start[part])
        cdef const int32_t *rows = self.rows + self.start[part]
        cdef const int32_t *ends = self.ends + self.start[part]
        cdef float *g = <float *> self.grad.p[thread]
        cdef Py_ssize_t n_rows = self.n_rows[part]
        cdef Py_ssize_t j, first = 0, row, k
        k = self.chain_first[part]
        while k >= 0:                       # rows that have an extra gradient only
            if not contains(rows, n_rows, self.extra_ids[k]):
                self.optimizer.step(p, self.extra_ids[k], self.extra + k * p.ld, lr)
            k = self.chain_next[k]
        for j in range(n_rows):
            if j + AHEAD < n_rows:
                row = rows[j + AHEAD]
                prefetch(p.w + row * p.ld, p.ld)
                prefetch(p.s + row * p.n_slots * p.ld, p.n_slots * p.ld)
                prefetch(p.r + row * p.n_state, p.n_state)
                if p.dirty != NULL:
                    prefetch(<float *> (p.dirty + row), 1)
                if self.n_extra:
                    prefetch(<float *> (self.extra_pos + row), 1)
            row = rows[j]
            k = self.extra_pos[row] if self.n_extra else -1
            if k >= 0:
                memcpy(g, self.extra + k * p.ld, p.ld * sizeof(float))
            else:
                memset(g, 0, p.ld * sizeof(float))
            simd.rows_axpy(g, p.ld, h, ldh, samples + first, coefs + first, ends[j] - first)
            self.optimizer.step(p, row, g, lr)
            first = ends[j]


cdef bint contains(const int32_t *ascending, Py_ssize_t n, int32_t value) noexcept nogil:
    cdef Py_ssize_t low = 0, mid
    while low < n:
        mid = (low + n) // 2
        if ascending[mid] < value:
            low = mid + 1
        elif ascending[mid] > value:
            n = mid
        else:
            return True
    return False
