"""Neurons ranked by short sketches: principal components of their weights in 7 bits each."""
cimport cython
from cython.parallel cimport prange
from libc.math cimport INFINITY, expf, log, logf, sqrt
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int8_t, int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset

from slide._kernels.blas cimport gemm
from slide._kernels.openmp cimport omp_get_thread_num
from slide._kernels.quantized cimport encode, quantize
from slide._kernels.random cimport below, normals, of_part, stream
from slide._kernels.ranking cimport largest, threshold
from slide._kernels.retrieval cimport is_marked, mark
from slide._kernels.simd cimport Query, simd
from slide._kernels.types cimport BLOCK, padded

import numpy as np

cdef enum:
    SAMPLE = 4096       # rows that a round of learning looks at
    TILE = 64           # rows that are summed for one component, then for the next
    TOGETHER = 8        # components that one thread sums, by which their number can be divided
    # Neurons that are scored at a time, by all queries of a look before the next ones; the lists
    # need room for 16 more.
    CHUNK = 512
    NOISE = 1 << 16      # numbers that random draws take turns with, a multiple of CHUNK


@cython.final
cdef class SketchRetriever(Retriever):
    """
    With the inputs' mean m and any vector c, <w, x> = <w, m> + <w - c, x - m> + <c, x - m>. The
    last term is the same for all neurons. The first is kept for each, and the second is estimated
    in the subspace of the weights' principal components, learned by subspace iteration, one round
    a rebuild.

    The bias is a weight, and its input 1 is its mean.
    """
    def __cinit__(self, Py_ssize_t n_neurons, Py_ssize_t dim, int n_components, int n_groups,
                  int cells_of_group, int n_probes, Py_ssize_t n_candidates, int n_threads):
        cdef Py_ssize_t ld = padded(dim), n_blocks = (n_neurons + 15) // 16
        if n_components < 16 or n_components & (n_components - 1):
            raise ValueError(f"{n_components} components")
        self.dim, self.n_components = dim, n_components
        self.n_scored = n_candidates
        self.observes = True
        self._count_from(n_threads)
        self.coarse = ClusterRetriever(n_neurons, dim, 1, n_groups, cells_of_group, n_probes,
                                       n_threads)
        self.tables = self.coarse.tables
        self.arrays = {
            **self.coarse.arrays,
            "basis": np.zeros((n_components, ld), np.float32),
            "functions": np.zeros((n_components, ld), np.float32),
            "shift": np.zeros(n_components, np.float32),
            "mean": np.zeros(ld, np.float32),
            "seen": np.zeros(1, np.float64),
            "sketches": np.zeros((n_blocks, n_components // 4, 16, 4), np.uint8),
            "scales": np.zeros(16 * n_blocks, np.float32),
            "offsets": np.zeros(16 * n_blocks, np.float32),
        }
        self.basis, self.functions = self.arrays["basis"], self.arrays["functions"]
        self.mean, self.shift = self.arrays["mean"], self.arrays["shift"]
        self.mean[dim - 1] = 1
        self.seen, self.codes = self.arrays["seen"], self.arrays["sketches"]
        self.scales, self.offsets = self.arrays["scales"], self.arrays["offsets"]
        self.neurons.values, self.neurons.n_quads = &self.codes[0, 0, 0, 0], n_components // 4
        self.neurons.scale, self.neurons.offset = &self.scales[0], &self.offsets[0]
        self.projected = Buffer(n_components * min(n_neurons, SAMPLE) * sizeof(float))
        self.sample_buffer = Buffer(min(n_neurons, SAMPLE) * sizeof(int32_t))
        self.sum_buffer = Buffer(ld * sizeof(float))
        self.room = n_neurons + 2048 + CHUNK
        self.noise_buffer = Buffer((2 * NOISE + CHUNK + 16) * sizeof(float))
        self._make_noise(<float *> self.noise_buffer.p)
        self.lists = PerThread(n_threads, 4 * self.room * sizeof(float))
        self.queries = PerThread(n_threads, (1 + BLOCK) * n_components)
        self.rows = PerThread(n_threads, BLOCK * n_components * sizeof(float))
        self.looked = PerThread(n_threads, sizeof(Looked))
        self.searches = PerThread(n_threads, BLOCK * sizeof(Search))

    @property
    def in_bytes(self):
        return True

    cdef void _make_noise(self, float *noise) noexcept nogil:
        """-log(u) for NOISE equidistant u in random order, from any of which a sample may begin:
        over the beginnings, every place meets all of them."""
        cdef uint64_t rng = stream(0, 25, 0)
        cdef Py_ssize_t i, j
        for i in range(NOISE):
            j = below(&rng, <unsigned int> (i + 1))
            noise[i] = noise[j]
            noise[j] = <float> -log((i + 0.5) / NOISE)
        for i in range(NOISE + CHUNK + 16):
            noise[NOISE + i] = noise[i]

    cdef void observe(self, const float *x, Py_ssize_t ld, Py_ssize_t n) noexcept nogil:
        cdef float *sum = <float *> self.sum_buffer.p
        cdef float rate
        cdef Py_ssize_t i
        if n == 0:
            return
        memset(sum, 0, ld * sizeof(float))
        for i in range(n):
            simd.axpy(sum, x + i * ld, ld, 1)
        # The mean of the batches; later ones of about the last 50, because the inputs drift.
        self.seen[0] += 1
        rate = <float> max(1 / self.seen[0], 0.02)
        for i in range(self.dim - 1):
            self.mean[i] += rate * (sum[i] / n - self.mean[i])

    cdef void build(self, Parameters p, uint64_t seed, int n_threads) noexcept nogil:
        cdef uint64_t rng = stream(seed, 23, 0)
        cdef Py_ssize_t j
        self.coarse.build(p, seed, n_threads)
        for j in range(self.n_components):
            normals(&self.basis[j, 0], self.dim - 1, &rng)
        self._learn(p, seed, 3, n_threads)
        self._encode(p, n_threads)

    cdef void refresh(self, Parameters p, const int32_t *changed, Py_ssize_t n, uint64_t seed,
                      bint new_functions, int n_threads) noexcept nogil:
        if new_functions:
            self.build(p, seed, n_threads)
            return
        if self.coarse.n_cells > 1:         # one has all of them, whatever they are
            self.coarse.refresh(p, changed, n, seed, False, n_threads)
        self._learn(p, seed, 1, n_threads)
        self._encode(p, n_threads)

    cdef void _learn(self, Parameters p, uint64_t seed, int n_rounds, int n_threads) noexcept nogil:
        """Rounds of subspace iteration (Golub & Van Loan, Matrix Computations, 8.2) on a sample of
        the rows."""
        cdef int32_t *ids = <int32_t *> self.sample_buffer.p
        cdef uint64_t rng = stream(seed, 24, 0)
        cdef Py_ssize_t n = min(p.n_rows, <Py_ssize_t> SAMPLE), i, j, k
        cdef int _
        cdef float a, share
        for i in range(n):
            ids[i] = <int32_t> of_part(p.n_rows, i, n, &rng)
        for _ in range(n_rounds):
            self._power(p, ids, n, n_threads)
            self._orthonormalize(&rng)
        # A Hadamard rotation of the components, which gives all of them the same variance.
        share = <float> (1 / sqrt(<double> self.n_components))
        for j in range(self.n_components):
            memset(&self.functions[j, 0], 0, p.ld * sizeof(float))
            for k in range(self.n_components):
                a = share
                i = j & k
                while i:
                    a = -a
                    i &= i - 1
                simd.axpy(&self.functions[j, 0], &self.basis[k, 0], p.ld, a)

    cdef void _power(self, Parameters p, const int32_t *ids, Py_ssize_t n,
                     int n_threads) noexcept nogil:
        """basis <- basis C, with the covariance C of the rows."""
        cdef float *y = <float *> self.projected.p     # (component, row)
        cdef float *z
        cdef Py_ssize_t i, j, k = self.n_components
        self.count(0, 2 * n * k * self.dim)
        for i in prange(n, schedule="static", num_threads=n_threads):
            z = <float *> self.rows.p[omp_get_thread_num()]
            simd.rows_dot(z, &self.basis[0, 0], p.ld, NULL, k, p.w + ids[i] * p.ld)
            for j in range(k):
                y[j * n + i] = z[j]
        for j in prange(k // TOGETHER, schedule="dynamic", chunksize=1, num_threads=n_threads):
            self._sum_rows(p, ids, n, j * TOGETHER)

    cdef void _sum_rows(self, Parameters p, const int32_t *ids, Py_ssize_t n,
                        Py_ssize_t first) noexcept nogil:
        """The second half of `_power`, for some components. Rows are in the cache for the second
        of them."""
        cdef float *y = <float *> self.projected.p
        cdef float middle
        cdef Py_ssize_t i, j, at = 0
        for j in range(first, first + TOGETHER):
            middle = 0
            for i in range(n):
                middle += y[j * n + i]
            middle /= n
            for i in range(n):
                y[j * n + i] -= middle
            memset(&self.basis[j, 0], 0, p.ld * sizeof(float))
        while at < n:
            for j in range(first, first + TOGETHER):
                simd.rows_axpy(&self.basis[j, 0], p.ld, p.w, p.ld, ids + at, y + j * n + at,
                               min(<Py_ssize_t> TILE, n - at))
            at += TILE
        for j in range(first, first + TOGETHER):
            self.basis[j, self.dim - 1] = 0     # the bias, which inputs less their mean do not meet

    cdef void _orthonormalize(self, uint64_t *rng) noexcept nogil:
        """Gram & Schmidt, twice a row; a row without a rest gets another direction, if there is
        one."""
        cdef Py_ssize_t i, j, c, ld = self.basis.shape[1]
        cdef int attempt, _
        cdef float before, norm = 0, a
        for j in range(self.n_components):
            for attempt in range(2):
                before = <float> sqrt(simd.sumsq(&self.basis[j, 0], ld))
                for _ in range(2):
                    for i in range(j):
                        a = 0
                        for c in range(self.dim - 1):
                            a += self.basis[i, c] * self.basis[j, c]
                        simd.axpy(&self.basis[j, 0], &self.basis[i, 0], ld, -a)
                norm = <float> sqrt(simd.sumsq(&self.basis[j, 0], ld))
                if norm > 1e-4 * before and norm < INFINITY:
                    break
                norm = 0
                memset(&self.basis[j, 0], 0, ld * sizeof(float))
                if attempt == 0:
                    normals(&self.basis[j, 0], self.dim - 1, rng)
            if norm > 0:
                simd.scale(&self.basis[j, 0], ld, 1 / norm)

    cdef void _encode(self, Parameters p, int n_threads) noexcept nogil:
        cdef Py_ssize_t i
        self.count(0, (p.n_rows * (self.n_components + 1) + self.n_components) * self.dim)
        simd.rows_dot(&self.shift[0], &self.functions[0, 0], p.ld, NULL, self.n_components,
                      &self.mean[0])
        for i in prange(p.n_rows, schedule="static", num_threads=n_threads):
            self._code(p, i, omp_get_thread_num())

    cdef void _code(self, Parameters p, Py_ssize_t place, int thread) noexcept nogil:
        """The sketch of the neuron that has this place in the order of the cells."""
        cdef float *z = <float *> self.rows.p[thread]
        cdef const float *w = p.w + self.tables.ids[0][place] * p.ld
        simd.rows_dot(z, &self.functions[0, 0], p.ld, NULL, self.n_components, w)
        simd.rows_dot(&self.offsets[place], w, p.ld, NULL, 1, &self.mean[0])
        self.scales[place] = encode(z, self.n_components, &self.codes[0, 0, 0, 0], place)

    cdef void codes_now(self, Parameters p, const int32_t *ids, Py_ssize_t n, uint64_t *out,
                        int n_threads) noexcept nogil:
        self.coarse.codes_now(p, ids, n, out, n_threads)

    def restored(self):
        self.coarse.restored()

    cdef int64_t total(self) noexcept nogil:
        return Retriever.total(self) + self.coarse.total()

    def expect(self, Py_ssize_t most):
        # Of one cell, all queries score all neurons. Where many are wanted, lists would be long.
        self.n_expected = most = max(most, self.n_candidates)
        if self.coarse.n_groups * self.coarse.cells_of_group == 1 and (
                0 < 8 * most <= self.tables.n_items):
            self.block_room = 2 * most + 1024 + CHUNK
            self.block_lists = PerThread(self.n_threads,
                                         2 * BLOCK * self.block_room * sizeof(float))

    cdef void look(self, const float *x, Py_ssize_t ld, Py_ssize_t n, const uint64_t *rngs,
                   bint drawing, int thread) noexcept nogil:
        """Scores a chunk of neurons for all queries while it is in the cache."""
        cdef Looked *looked = <Looked *> self.looked.p[thread]
        cdef Search *searches = <Search *> self.searches.p[thread]
        cdef Search *s
        cdef float *y = <float *> self.rows.p[thread]
        cdef Py_ssize_t i, first = 0, n_items = self.tables.n_items
        cdef uint64_t rng
        looked.n = 0
        if self.block_room == 0 or n < 2:
            return
        looked.x, looked.ld, looked.n, looked.drawing = x, ld, n, drawing
        gemm(b"N", b"T", n, self.n_components, self.dim, x, ld, &self.functions[0, 0],
             self.functions.shape[1], y, self.n_components)
        for i in range(n):
            s = searches + i
            s.wanted, s.marks, s.room = self.n_expected + 1, NULL, self.block_room
            s.query.q = <int8_t *> self.queries.p[thread] + (1 + i) * self.n_components
            s.places = <int32_t *> self.block_lists.p[thread] + 2 * i * self.block_room
            s.scores = <float *> (s.places + self.block_room)
            s.scratch = <float *> self.lists.p[thread]
            s.noise = NULL
            if drawing:
                rng = rngs[i]
                s.noise = <float *> self.noise_buffer.p + below(&rng, NOISE)
            self._start(s)
            self._quantize(s, y + i * self.n_components)
            self._guess(s, 0, n_items)
        while first < n_items:
            for i in range(0, n, 2):
                self._list(searches + i, 2 if i + 1 < n else 1, first,
                           min(first + CHUNK, n_items), 1, drawing)
            first += CHUNK
        self.count(thread, n * self.n_components * (n_items + self.dim))

    cdef bint _listed(self, const float *x, Search *s, int thread) noexcept nogil:
        """Whether the wanted places, or all, are known from a look; s is then the search."""
        cdef Looked *looked = <Looked *> self.looked.p[thread]
        cdef Search *known
        cdef Py_ssize_t i
        if looked.n == 0 or looked.drawing != (s.noise != NULL):
            return False
        i = (x - looked.x) // looked.ld
        if not 0 <= i < looked.n or looked.x + i * looked.ld != x:
            return False
        known = <Search *> self.searches.p[thread] + i
        if known.wanted < s.wanted or known.noise != s.noise:
            return False
        known.wanted, known.marks = s.wanted, s.marks
        s[0] = known[0]
        known.wanted = 0                # its lists change now
        if s.noise != NULL and s.found < s.wanted and s.query.least <= s.tau:
            return True                 # all are drawn, but for the marked ones
        self._drop_marked(s, 0)
        if s.found < s.wanted and s.query.least > s.tau:
            return False                # the guess was too high, or marked ones took the room
        s.found = largest(s.scores, s.places, s.found, s.wanted, s.places, s.scores, s.scratch)
        return True

    cdef Py_ssize_t retrieve(self, const float *x, int32_t *out, Py_ssize_t n, Py_ssize_t most,
                             Marks *marks, uint64_t *rng, int thread) noexcept nogil:
        cdef const int32_t *items = self.tables.ids[0]
        cdef Search s
        cdef Py_ssize_t j
        s.wanted, s.marks, s.noise = most - n, marks, NULL
        if s.wanted < 1:
            return n
        self._search(x, &s, thread)
        for j in range(s.found):
            out[n] = items[s.places[j]]
            mark(out[n], marks)
            n += 1
        return n

    cdef Py_ssize_t draw(self, const float *x, int32_t *out, Py_ssize_t n, Py_ssize_t most,
                         Marks *marks, uint64_t *rng, float *pi, int thread) noexcept nogil:
        """Neurons whose score - log(u) exceeds tau, with u uniform in (0, 1]: each is drawn with
        probability min(1, exp(score - tau)), independently of others. Where more are than there is
        room for, tau is the largest of these that is left out: given all others, that is still the
        probability (priority sampling; Duffield, Lund & Thorup, J. ACM 2007). Where `_aim` has no
        tau, as many are drawn as there is room for, one at least.
        """
        cdef const int32_t *items = self.tables.ids[0]
        cdef Search s
        cdef Py_ssize_t j, first = n, left_out = -1
        cdef int32_t id, place
        cdef float tau, total
        s.wanted, s.marks = max(<Py_ssize_t> 1, most - n) + 1, marks
        s.noise = <float *> self.noise_buffer.p + below(rng, NOISE)
        self._search(x, &s, thread)
        tau = s.tau
        if s.found == s.wanted:
            left_out = 0
            for j in range(1, s.found):
                if s.scores[j] < s.scores[left_out]:
                    left_out = j
            tau = s.scores[left_out]
        for j in range(s.found):
            place = s.places[j]
            id = items[place]
            # For others there may be no room: those that all outputs are labels of have none.
            if j != left_out and not is_marked(id, marks):
                out[n] = id
                pi[n] = s.scores[j] - s.noise[<uint32_t> place % NOISE] - tau
                n += 1
        for j in range(first, n):
            pi[j] = pi[j] if pi[j] < 0 else <float> 0
        if n > first:
            tau = simd.exp_shift(pi + first, n - first, &total)
            simd.scale(pi + first, n - first, expf(tau))
        return n

    cdef void _search(self, const float *x, Search *s, int thread) noexcept nogil:
        """Leaves in the lists the wanted places, or those of all candidates if these are fewer.

        Marked ones are among them only where they are to be drawn and fewer than wanted.
        """
        cdef const int32_t *start = self.tables.starts[0]
        cdef Py_ssize_t cells, cell, found
        cdef float *y = <float *> self.rows.p[thread]
        if self._listed(x, s, thread):
            return
        s.room = min(self.room, 2 * s.wanted + 2048 + CHUNK)
        s.query.q = <int8_t *> self.queries.p[thread]
        s.places = <int32_t *> self.lists.p[thread]
        s.scores = <float *> (s.places + self.room)
        s.scratch = s.scores + self.room
        simd.rows_dot(y, &self.functions[0, 0], self.functions.shape[1], NULL, self.n_components, x)
        self._quantize(s, y)
        self._start(s)
        cells = self.coarse.rank(x, 0, thread)
        while cells and (s.seen < self.n_scored or s.found < s.wanted):
            cell = self.coarse.best(cells, thread)
            cells -= 1
            if s.found == 0:
                self._guess(s, start[cell], start[cell + 1])
            found = s.found
            self._scan(s, start[cell], start[cell + 1])
            if s.found < s.wanted and found == 0 and s.query.least > s.tau:
                # The guess was too high: without one.
                s.found, s.seen, s.query.least = 0, 0, -INFINITY
                self._scan(s, start[cell], start[cell + 1])
        self.count(thread, self.n_components * (s.seen + self.dim))
        s.found = largest(s.scores, s.places, s.found, s.wanted, s.places, s.scores, s.scratch)

    cdef void _start(self, Search *s) noexcept nogil:
        s.found = s.seen = 0
        s.query.least = s.query.floor = s.tau = -INFINITY

    cdef void _quantize(self, Search *s, float *y) noexcept nogil:
        """The query's components, y, in 8 bits."""
        cdef Py_ssize_t j
        for j in range(self.n_components):
            y[j] -= self.shift[j]
        s.query.step = quantize(y, self.n_components, <int8_t *> s.query.q, &s.query.base)

    cdef void _guess(self, Search *s, Py_ssize_t first, Py_ssize_t stop) noexcept nogil:
        """Finds in some blocks of a long run what to beat, so that few must be sorted out. Draws
        want to know of a short one, too: nothing is drawn as if it had no weight."""
        cdef Py_ssize_t every = max(<Py_ssize_t> 4, (stop - first) // 512), rank
        if stop - first < 2 * CHUNK:
            if s.noise == NULL or s.wanted > stop - first:
                return
            every = 1
        self._list(s, 1, first, stop, every, False)
        rank = s.wanted // every
        rank += <Py_ssize_t> (3 * sqrt(<double> rank)) + 3
        if s.found and s.noise != NULL:
            self._aim(s, every)
        elif rank < s.found:
            s.query.least = threshold(s.scores, s.found, rank, s.scratch)
        s.found = 0

    cdef void _aim(self, Search *s, Py_ssize_t every) noexcept nogil:
        """Finds the tau with which min(1, exp(score - tau)) adds up to a little less than what is
        wanted, if the scores in the list stand for `every` as many.

        Nothing is drawn as if its weight were far below the mean: its score may be wrong.
        """
        cdef float *weight = s.scores
        cdef float low, top, total, rest
        cdef double k = s.wanted - 1, goal = (k - 2 * sqrt(k) if k >= 64 else 2 * k + 16) / every
        cdef double cut
        cdef Py_ssize_t j
        top = simd.exp_shift(weight, s.found, &total)
        low = <float> 0.5 * total / s.found
        s.query.floor = top + logf(low)
        if goal >= s.found:
            return
        find_cut(weight, s.found, goal, every, &rest)
        low = <float> 0.5 * (rest + (total - rest) / every) / s.found
        s.query.floor = top + logf(low)
        for j in range(s.found):
            weight[j] = weight[j] if weight[j] > low else low
        cut = find_cut(weight, s.found, goal, every, &rest)
        s.tau = s.query.least = top + logf(<float> cut)

    cdef void _list(self, Search *searches, int n, Py_ssize_t first, Py_ssize_t stop,
                    Py_ssize_t every, bint noisy) noexcept nogil:
        """Appends to the lists of one search or two those of the places first..stop-1 whose scores
        are above what is to beat."""
        cdef Query[2] queries
        cdef ptrdiff_t[2] found
        cdef Search *s
        cdef int k
        for k in range(n):
            s = searches + k
            self._make_room(s)
            s.query.item, s.query.score = s.places + s.found, s.scores + s.found
            s.query.noise = noise_at(s, first) if noisy else NULL
            queries[k] = s.query
        simd.sketch_scan(found, queries, n, &self.neurons, first, stop, every)
        for k in range(n):
            searches[k].found += found[k]

    cdef void _scan(self, Search *s, Py_ssize_t first, Py_ssize_t stop) noexcept nogil:
        """Lists those of the places first..stop-1 that may be among the best."""
        cdef Py_ssize_t before, end
        while first < stop:
            end = min(stop, first + CHUNK)
            self._make_room(s)
            before = s.found
            self._list(s, 1, first, end, 1, s.noise != NULL)
            s.seen += end - first
            if s.marks != NULL:
                self._drop_marked(s, before)
            first = end

    cdef void _make_room(self, Search *s) noexcept nogil:
        """For a chunk."""
        if s.found + CHUNK + 16 > s.room:
            self._shorten(s)

    cdef void _shorten(self, Search *s) noexcept nogil:
        """Of the best so far, the last is what the next ones have to beat."""
        cdef Py_ssize_t j
        s.found = largest(s.scores, s.places, s.found, s.wanted, s.places, s.scores, s.scratch)
        s.query.least = s.scores[0]
        for j in range(1, s.found):
            s.query.least = min(s.query.least, s.scores[j])

    cdef void _drop_marked(self, Search *s, Py_ssize_t first) noexcept nogil:
        """Takes the marked ones out of the list, from a position on."""
        cdef const int32_t *items = self.tables.ids[0]
        cdef Py_ssize_t j, n = first
        cdef int32_t place
        for j in range(first, s.found):
            place = s.places[j]
            s.places[n], s.scores[n] = place, s.scores[j]
            n += not is_marked(items[place], s.marks)
        s.found = n


cdef inline const float *noise_at(Search *s, Py_ssize_t first) noexcept nogil:
    """What is added to the scores from a place on, counted from place 0, or NULL."""
    # The numbers begin anew every NOISE places; chunks begin at multiples of 16 or within a run of
    # less.
    if s.noise == NULL:
        return NULL
    return s.noise + first % NOISE - first


cdef inline double find_cut(const float *weight, Py_ssize_t n, double goal, Py_ssize_t every,
                            float *rest) noexcept nogil:
    """The cut with which the sum of min(1, weight / cut) is the goal; *rest gets the sum of the
    weights below it.

    The n weights stand for `every` as many, but for those above the cut, which are few: the label
    of a network that has learned is one of its kind, and whether it is in the sample must not
    change what is drawn beside it.
    """
    cdef double cut = INFINITY
    cdef int32_t large = 0
    rest[0] = simd.sum_below(weight, n, INFINITY, &large)
    while rest[0] > 0 and large < goal * every and rest[0] / (goal - <double> large / every) < cut:
        cut = rest[0] / (goal - <double> large / every)
        rest[0] = simd.sum_below(weight, n, <float> cut, &large)
    return cut
