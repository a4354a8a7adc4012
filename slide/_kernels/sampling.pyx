"""Active sets: retrieval through tables, random fill, shared random tail, and maintenance."""
cimport cython
from cython.parallel cimport prange
from libc.math cimport exp, sqrt
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from slide._kernels.openmp cimport omp_get_thread_num, omp_get_wtime
from slide._kernels.random cimport below, stream
from slide._kernels.simd cimport simd
from slide._kernels.types cimport padded

import numpy as np

cdef enum:
    CODES_AT_ONCE = 1 << 22     # codes that a rebuild holds at a time: 32 MB


cdef class Retriever:
    def __cinit__(self, *args, **kwargs):
        self.arrays = {}

    cdef _count_from(self, int n_threads):
        self.n_threads = n_threads
        self.products = PerThread(n_threads, sizeof(int64_t))

    cdef int64_t total(self) noexcept nogil:
        """Multiplications so far to hash neurons and queries."""
        cdef int i
        cdef int64_t n = 0
        for i in range(self.n_threads):
            n += (<int64_t *> self.products.p[i])[0]
        return n

    cdef void build(self, Parameters p, uint64_t seed, int n_threads) noexcept nogil:
        """Puts all neurons in."""
        pass

    cdef void refresh(self, Parameters p, const int32_t *changed, Py_ssize_t n, uint64_t seed,
                      bint new_functions, int n_threads) noexcept nogil:
        """Moves the changed neurons to where their weights now belong."""
        pass

    cdef Py_ssize_t retrieve(self, const float *x, int32_t *out, Py_ssize_t n, Py_ssize_t most,
                             Marks *marks, uint64_t *rng, int thread) noexcept nogil:
        """Appends neurons to the n in `out` until there are `most`; returns how many there are."""
        return n

    cdef Py_ssize_t probe(self, float *q, float squared, int32_t *out, Py_ssize_t n,
                          Py_ssize_t most, Marks *marks, uint64_t *rng,
                          int thread) noexcept nogil:
        """The same for a query that was projected already; of retrievers that project."""
        return n


@cython.final
cdef class HashRetriever(Retriever):
    """The union of the query's buckets in L tables of one hash family (SLIDE, section 3.1)."""
    cdef readonly HashFamily family
    cdef PerThread codes_of_thread, scratch
    cdef Buffer codes_buffer, moved_buffer
    cdef int tables_at_once

    def __cinit__(self, HashFamily family, Py_ssize_t n_neurons, int n_threads):
        self.family, self.arrays = family, family.arrays
        self._count_from(n_threads)
        self.tables = Tables(n_neurons, family.n_tables, family.code_bits, 0, n_threads)
        self.tables_at_once = max(1, min(family.n_tables, CODES_AT_ONCE // max(1, n_neurons)))
        self.codes_of_thread = PerThread(n_threads, family.n_tables * sizeof(uint64_t))
        self.scratch = PerThread(n_threads, family.scratch_floats() * sizeof(float))
        self.codes_buffer = Buffer(n_neurons * self.tables_at_once * sizeof(uint64_t))
        self.moved_buffer = Buffer(n_neurons)

    cdef void build(self, Parameters p, uint64_t seed, int n_threads) noexcept nogil:
        self._insert(p, NULL, p.n_rows, n_threads)

    cdef void refresh(self, Parameters p, const int32_t *changed, Py_ssize_t n, uint64_t seed,
                      bint new_functions, int n_threads) noexcept nogil:
        if new_functions:
            self.family.redraw(seed)
            self._insert(p, NULL, p.n_rows, n_threads)
        else:
            self._insert(p, changed, n, n_threads)

    cdef void _insert(self, Parameters p, const int32_t *ids, Py_ssize_t n,
                      int n_threads) noexcept nogil:
        cdef int first = 0, width, t
        cdef Py_ssize_t i
        cdef uint64_t *codes
        cdef uint8_t *moved = <uint8_t *> self.moved_buffer.p
        codes = <uint64_t *> self.codes_buffer.p
        for i in range(n):
            moved[ids[i] if ids != NULL else i] = 1
        while first < self.family.n_tables:
            width = min(self.tables_at_once, self.family.n_tables - first)
            for i in prange(n, schedule="dynamic", chunksize=256, num_threads=n_threads):
                self.family.codes(
                    p.w + (ids[i] if ids != NULL else i) * p.ld, first, first + width,
                    codes + i * width, <float *> self.scratch.p[omp_get_thread_num()])
            for t in prange(width, schedule="dynamic", chunksize=1, num_threads=n_threads):
                self.tables.insert(first + t, ids, codes + t, width, n, moved,
                                   omp_get_thread_num())
            first += width
        self.count(0, self.family.products * self.family.n_tables * n)
        memset(moved, 0, p.n_rows)

    cdef Py_ssize_t retrieve(self, const float *x, int32_t *out, Py_ssize_t n, Py_ssize_t most,
                             Marks *marks, uint64_t *rng, int thread) noexcept nogil:
        return self._union(self.tables, x, out, n, most, marks, rng, thread)

    cdef Py_ssize_t _union(self, Tables tables, const float *x, int32_t *out, Py_ssize_t n,
                           Py_ssize_t most, Marks *marks, uint64_t *rng,
                           int thread) noexcept nogil:
        cdef uint64_t *codes = <uint64_t *> self.codes_of_thread.p[thread]
        cdef int t, _, n_tables = tables.n_tables
        self.family.codes(x, 0, n_tables, codes, <float *> self.scratch.p[thread])
        self.count(thread, self.family.products * n_tables)
        # Any table may be the first, so that a full set does not always come from the same ones.
        t = below(rng, n_tables)
        for _ in range(n_tables):
            if n == most:
                break
            n = take_bucket(tables, t, codes[t], out, n, most, marks, rng)
            t = t + 1 if t + 1 < n_tables else 0
        return n


cdef inline void sift(Cell *heap, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    cdef Cell moving = heap[i]
    cdef Py_ssize_t child
    while True:
        child = 2 * i + 1
        if child >= n:
            break
        if child + 1 < n and heap[child + 1].score > heap[child].score:
            child += 1
        if heap[child].score <= moving.score:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = moving


@cython.final
cdef class ClusterRetriever(Retriever):
    """Cells of a spherical k-means partition of the neurons' directions, best mean first.

    With more than one group the partition has two levels: a neuron goes to the nearest group and
    to the nearest of that group's cells, and a query looks into the cells of its best groups.
    """
    cdef Py_ssize_t dim
    cdef int n_groups, n_cells          # a table; cells = n_groups * cells of a group
    cdef int cells_of_group, n_probes
    cdef float[:, :, ::1] centroids, means, group_centroids, group_means
    cdef Buffer codes_buffer, moved_buffer, norm_buffer
    cdef PerThread scores, heaps, coefs

    def __cinit__(self, Py_ssize_t n_neurons, Py_ssize_t dim, int n_tables, int n_groups,
                  int cells_of_group, int n_probes, int n_threads):
        cdef int n_cells = n_groups * cells_of_group
        cdef Py_ssize_t ld = padded(dim)
        self.dim = dim
        self._count_from(n_threads)
        self.n_groups, self.cells_of_group, self.n_cells = n_groups, cells_of_group, n_cells
        self.n_probes = min(n_probes, n_groups * n_tables)
        self.tables = Tables(n_neurons, n_tables, 0, n_cells, n_threads)
        self.arrays = {
            name: np.zeros((n_tables, n, ld), np.float32)
            for name, n in [("centroids", n_cells), ("means", n_cells),
                            ("group_centroids", n_groups), ("group_means", n_groups)]
        }
        self.centroids, self.means = self.arrays["centroids"], self.arrays["means"]
        self.group_centroids = self.arrays["group_centroids"]
        self.group_means = self.arrays["group_means"]
        self.codes_buffer = Buffer(n_neurons * sizeof(uint64_t))
        self.norm_buffer = Buffer(n_neurons * sizeof(float))
        self.moved_buffer = Buffer(n_neurons)
        most = max(n_tables * max(n_groups, cells_of_group), self.n_probes * cells_of_group)
        self.scores = PerThread(n_threads, most * sizeof(float))
        self.heaps = PerThread(n_threads, 2 * most * sizeof(Cell))
        self.coefs = PerThread(n_threads, n_neurons * sizeof(float))

    cdef void build(self, Parameters p, uint64_t seed, int n_threads) noexcept nogil:
        cdef int t, c, g, _
        cdef uint64_t rng
        self._norms(p, n_threads)
        for t in range(self.tables.n_tables):
            rng = stream(seed, 3, t)
            for g in range(self.n_groups):
                self._seed(p, &self.group_centroids[t, g, 0], below(&rng, <uint32_t> p.n_rows))
            for c in range(self.n_cells):
                self._seed(p, &self.centroids[t, c, 0], below(&rng, <uint32_t> p.n_rows))
            self._assign(p, t, NULL, p.n_rows, n_threads)
            for _ in range(2 if self.n_groups == 1 else 0):     # large layers wait for a rebuild
                self._center(p, t, seed, n_threads)
                self._assign(p, t, NULL, p.n_rows, n_threads)
            self._average(p, t, n_threads)

    cdef void refresh(self, Parameters p, const int32_t *changed, Py_ssize_t n, uint64_t seed,
                      bint new_functions, int n_threads) noexcept nogil:
        cdef int t
        if new_functions:
            self.build(p, seed, n_threads)
            return
        self._norms(p, n_threads)
        for t in range(self.tables.n_tables):
            self._center(p, t, seed, n_threads)
            self._assign(p, t, changed, n, n_threads)
            self._average(p, t, n_threads)

    cdef void _norms(self, Parameters p, int n_threads) noexcept nogil:
        cdef float *inverse = <float *> self.norm_buffer.p
        cdef Py_ssize_t i
        self.count(0, p.n_rows * self.dim)
        for i in prange(p.n_rows, schedule="static", num_threads=n_threads):
            inverse[i] = 1 / <float> sqrt(simd.sumsq(p.w + i * p.ld, p.ld) + 1e-30)

    cdef void _seed(self, Parameters p, float *centroid, Py_ssize_t row) noexcept nogil:
        memset(centroid, 0, p.ld * sizeof(float))
        simd.axpy(centroid, p.w + row * p.ld, p.ld, (<float *> self.norm_buffer.p)[row])

    cdef void _sum(self, Parameters p, float *out, const int32_t *ids, Py_ssize_t n,
                   const float *weight, int thread) noexcept nogil:
        """out = sum of the rows ids, each times its weight (NULL: their mean)."""
        cdef float *coef = <float *> self.coefs.p[thread]
        cdef Py_ssize_t j
        self.count(thread, n * self.dim)
        memset(out, 0, p.ld * sizeof(float))
        for j in range(n):
            coef[j] = weight[ids[j]] if weight != NULL else <float> (1.0 / n)
        simd.rows_axpy(out, p.ld, p.w, p.ld, ids, coef, n)

    cdef void _direction(self, Parameters p, float *out, const int32_t *ids, Py_ssize_t n,
                         uint64_t rng, int thread) noexcept nogil:
        """The unit vector along the sum of the rows' unit vectors; of any row if there is none."""
        self._sum(p, out, ids, n, <float *> self.norm_buffer.p, thread)
        cdef float norm = <float> sqrt(simd.sumsq(out, p.ld))
        if norm > 1e-6:
            simd.scale(out, p.ld, 1 / norm)
        else:
            self._seed(p, out, below(&rng, <uint32_t> p.n_rows))

    cdef void _center(self, Parameters p, int t, uint64_t seed, int n_threads) noexcept nogil:
        """The update half of a k-means iteration, with the present weights."""
        cdef const int32_t *ids = self.tables.ids[t]
        cdef const int32_t *start = self.tables.starts[t]
        cdef Py_ssize_t c, g, m = self.cells_of_group
        for c in prange(self.n_cells, schedule="dynamic", chunksize=8, num_threads=n_threads):
            self._direction(p, &self.centroids[t, c, 0], ids + start[c], start[c + 1] - start[c],
                            stream(seed, t, c), omp_get_thread_num())
        if self.n_groups > 1:
            for g in prange(self.n_groups, schedule="dynamic", chunksize=1,
                            num_threads=n_threads):
                self._direction(p, &self.group_centroids[t, g, 0], ids + start[g * m],
                                start[(g + 1) * m] - start[g * m],
                                stream(seed, t, self.n_cells + g), omp_get_thread_num())

    cdef void _average(self, Parameters p, int t, int n_threads) noexcept nogil:
        """What queries are compared with: mean weight vectors."""
        cdef const int32_t *ids = self.tables.ids[t]
        cdef const int32_t *start = self.tables.starts[t]
        cdef Py_ssize_t c, g, m = self.cells_of_group
        for c in prange(self.n_cells, schedule="dynamic", chunksize=8, num_threads=n_threads):
            self._sum(p, &self.means[t, c, 0], ids + start[c], start[c + 1] - start[c], NULL,
                      omp_get_thread_num())
        if self.n_groups > 1:
            for g in prange(self.n_groups, schedule="dynamic", chunksize=1,
                            num_threads=n_threads):
                self._sum(p, &self.group_means[t, g, 0], ids + start[g * m],
                          start[(g + 1) * m] - start[g * m], NULL, omp_get_thread_num())

    cdef Py_ssize_t _nearest(self, const float *w, const float *centroids, Py_ssize_t n,
                             Py_ssize_t ld, float *scores, int thread) noexcept nogil:
        cdef Py_ssize_t j, best = 0
        self.count(thread, n * self.dim)
        simd.rows_dot(scores, centroids, ld, NULL, n, w)
        for j in range(1, n):
            if scores[j] > scores[best]:
                best = j
        return best

    cdef void _cell(self, Parameters p, int t, Py_ssize_t row, uint64_t *code,
                    int thread) noexcept nogil:
        cdef float *scores = <float *> self.scores.p[thread]
        cdef const float *w = p.w + row * p.ld
        cdef Py_ssize_t g = 0
        if self.n_groups > 1:
            g = self._nearest(w, &self.group_centroids[t, 0, 0], self.n_groups, p.ld, scores,
                              thread)
        code[0] = g * self.cells_of_group + self._nearest(
            w, &self.centroids[t, g * self.cells_of_group, 0], self.cells_of_group, p.ld, scores,
            thread)

    cdef void _assign(self, Parameters p, int t, const int32_t *ids, Py_ssize_t n,
                      int n_threads) noexcept nogil:
        """The assignment half, for the rows ids (NULL: all)."""
        cdef uint64_t *codes = <uint64_t *> self.codes_buffer.p
        cdef uint8_t *moved = <uint8_t *> self.moved_buffer.p
        cdef Py_ssize_t i
        for i in prange(n, schedule="dynamic", chunksize=64, num_threads=n_threads):
            self._cell(p, t, ids[i] if ids != NULL else i, codes + i, omp_get_thread_num())
        for i in range(n):
            moved[ids[i] if ids != NULL else i] = 1
        self.tables.insert(t, ids, codes, 1, n, moved, 0)
        memset(moved, 0, p.n_rows)

    cdef Py_ssize_t _push(self, Cell *heap, Py_ssize_t n, const float *scores, int t,
                          Py_ssize_t first, Py_ssize_t count, Py_ssize_t width) noexcept nogil:
        """Appends the non-empty of `count` cells (or groups of `width` cells) from `first` on."""
        cdef const int32_t *start = self.tables.starts[t]
        cdef Py_ssize_t j
        for j in range(count):
            if start[(first + j + 1) * width] > start[(first + j) * width]:
                heap[n].score = scores[j]
                heap[n].cell = <int32_t> (t * (self.n_cells // width) + first + j)
                n += 1
        return n

    cdef Py_ssize_t retrieve(self, const float *x, int32_t *out, Py_ssize_t n, Py_ssize_t most,
                             Marks *marks, uint64_t *rng, int thread) noexcept nogil:
        cdef float *scores = <float *> self.scores.p[thread]
        cdef Cell *heap = <Cell *> self.heaps.p[thread]
        cdef Cell *groups
        cdef Py_ssize_t ld = self.means.shape[2], size = 0, n_groups = 0, j, c, m
        cdef int t, n_tables = self.tables.n_tables, _
        cdef const int32_t *start
        m = self.cells_of_group
        if self.n_groups == 1:
            self.count(thread, n_tables * self.n_cells * self.dim)
            simd.rows_dot(scores, &self.means[0, 0, 0], ld, NULL, n_tables * self.n_cells, x)
            for t in range(n_tables):
                size = self._push(heap, size, scores + t * self.n_cells, t, 0, self.n_cells, 1)
        else:
            groups = heap + self.n_probes * m
            self.count(thread, (n_tables * self.n_groups + min(
                self.n_probes, n_tables * self.n_groups) * m) * self.dim)
            simd.rows_dot(scores, &self.group_means[0, 0, 0], ld, NULL, n_tables * self.n_groups,
                          x)
            for t in range(n_tables):
                n_groups = self._push(groups, n_groups, scores + t * self.n_groups, t, 0,
                                      self.n_groups, m)
            for j in range(n_groups // 2 - 1, -1, -1):
                sift(groups, j, n_groups)
            for _ in range(self.n_probes):
                if n_groups == 0:
                    break
                t = groups[0].cell // self.n_groups
                c = groups[0].cell % self.n_groups
                simd.rows_dot(scores, &self.means[t, c * m, 0], ld, NULL, m, x)
                size = self._push(heap, size, scores, t, c * m, m, 1)
                n_groups -= 1
                groups[0] = groups[n_groups]
                sift(groups, 0, n_groups)
        for j in range(size // 2 - 1, -1, -1):
            sift(heap, j, size)
        while size and n < most:
            t = heap[0].cell // self.n_cells
            c = heap[0].cell % self.n_cells
            start = self.tables.starts[t]
            n = take_some(self.tables.ids[t] + start[c], start[c + 1] - start[c], out, n, most,
                          marks, rng)
            size -= 1
            heap[0] = heap[size]
            sift(heap, 0, size)
        return n


@cython.final
cdef class ActiveSet:
    """
    Parameters
    ----------
    retriever : Retriever or None
    max_active, min_active : int
        Retrieval stops at max_active neurons, labels included; random neurons of the sample's own
        fill the set up to min_active.
    n_tail : int
        Random neurons drawn once a batch, without replacement, for all of its samples.
    n_own_tail : int
        Random neurons drawn for each sample, without replacement.
    n_frequent : int
        The neurons that were labels most often so far are computed for all samples as well.
    corrected : bool
        Weigh the tail by its inclusion probability, n_tail of those that are not frequent.
    """

    def __cinit__(self, Py_ssize_t n_neurons, Retriever retriever, Py_ssize_t max_active,
                  Py_ssize_t min_active, Py_ssize_t n_tail, Py_ssize_t n_own_tail,
                  Py_ssize_t n_frequent, bint corrected, schedule, int n_threads):
        cdef int i
        if n_tail + n_own_tail + n_frequent > n_neurons or max(max_active, min_active) > n_neurons:
            raise ValueError("more neurons than the layer has")
        self.n_neurons, self.retriever = n_neurons, retriever
        self.max_active, self.min_active = max_active, min_active
        self.n_tail, self.n_frequent, self.corrected = n_tail, n_frequent, corrected
        self.n_own_tail, self.n_shared = n_own_tail, n_tail + n_frequent
        self.pi = 1
        if corrected and n_tail:
            self.pi = <float> (n_tail / <double> (n_neurons - n_frequent))
        self.shared_buffer = Buffer(self.n_shared * sizeof(int32_t))
        self.shared = <int32_t *> self.shared_buffer.p
        self.place_buffer = Buffer(n_neurons * sizeof(int32_t))
        self.place = <int32_t *> self.place_buffer.p
        self.counts_buffer = Buffer(n_neurons * sizeof(int64_t) if n_frequent else 0)
        self.counts = <int64_t *> self.counts_buffer.p
        self.order_buffer = Buffer(n_neurons * sizeof(int32_t) if n_frequent else 0)
        self.n_counted = self.next_order = 0
        for i in range(self.n_shared):                  # as good as any before the first labels
            self.shared[i] = i
        memset(self.place, 0xff, n_neurons * sizeof(int32_t))
        for i in range(n_tail, self.n_shared):
            self.place[i] = i
        self.stamps = PerThread(n_threads, n_neurons * sizeof(uint32_t))
        self.marks_buffer = Buffer(n_threads * sizeof(Marks))
        self.marks = <Marks *> self.marks_buffer.p
        for i in range(n_threads):
            self.marks[i].stamp = <uint32_t *> self.stamps.p[i]
            self.marks[i].place = self.place
            self.marks[i].n_tail = <int32_t> n_tail
        self.dirty_buffer = Buffer(n_neurons)
        self.dirty = <uint8_t *> self.dirty_buffer.p
        self.changed_buffer = Buffer(n_neurons * sizeof(int32_t) if retriever is not None else 0)
        self.changed = <int32_t *> self.changed_buffer.p
        self.rebuild_every, self.rebuild_decay, self.new_functions_every = schedule
        self.next_rebuild = self.rebuild_every
        self.n_rebuilds, self.built, self.seconds = 0, False, 0

    cdef Marks *fresh_marks(self, int thread) noexcept nogil:
        cdef Marks *marks = self.marks + thread
        marks.epoch += 1
        if marks.epoch == 0:                            # stamps of 2^32 sets ago would be valid
            memset(marks.stamp, 0, self.n_neurons * sizeof(uint32_t))
            marks.epoch = 1
        return marks

    cdef void count_labels(self, const int32_t *labels, Py_ssize_t n) noexcept nogil:
        cdef Py_ssize_t j
        if self.n_frequent:
            for j in range(n):
                self.counts[labels[j]] += 1
            self.n_counted += n

    cdef void _order(self) noexcept nogil:
        """Finds the most frequent labels so far; of equals, those of smaller ids."""
        cdef int32_t *heap = <int32_t *> self.order_buffer.p
        cdef Py_ssize_t i, n = self.n_frequent
        cdef int32_t id
        for i in range(n):
            self.place[self.shared[self.n_tail + i]] = -1
            heap[i] = <int32_t> i
        for i in range(n // 2 - 1, -1, -1):
            self._sift(heap, i, n)
        for id in range(<int32_t> n, <int32_t> self.n_neurons):
            if self.counts[id] > self.counts[heap[0]]:
                heap[0] = id
                self._sift(heap, 0, n)
        for i in range(n):
            self.shared[self.n_tail + i] = heap[i]
            self.place[heap[i]] = <int32_t> (self.n_tail + i)

    cdef void _sift(self, int32_t *heap, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
        # A heap with the rarest, of equals the largest id, at its root.
        cdef Py_ssize_t child
        cdef int32_t moving = heap[i]
        while True:
            child = 2 * i + 1
            if child >= n:
                break
            if child + 1 < n and self._rarer(heap[child + 1], heap[child]):
                child += 1
            if not self._rarer(heap[child], moving):
                break
            heap[i] = heap[child]
            i = child
        heap[i] = moving

    cdef bint _rarer(self, int32_t a, int32_t b) noexcept nogil:
        return self.counts[a] < self.counts[b] or (self.counts[a] == self.counts[b] and a > b)

    cdef void share(self, uint64_t seed, uint64_t step) noexcept nogil:
        """Draws the tail for a batch whose labels are counted."""
        cdef uint64_t rng = stream(~seed, 4, step)
        cdef Py_ssize_t i, left = self.n_tail, rest = self.n_neurons - self.n_frequent
        cdef int32_t id
        for i in range(self.n_tail):
            if self.place[self.shared[i]] < self.n_tail:
                self.place[self.shared[i]] = -1
        if self.n_counted > self.next_order:
            # Frequencies settle: look again when there is an eighth more to count.
            self._order()
            self.next_order = self.n_counted + self.n_counted // 8
        if 2 * self.n_tail <= rest:
            i = 0
            while i < self.n_tail:
                id = below(&rng, <uint32_t> self.n_neurons)
                if self.place[id] < 0:
                    self.place[id] = <int32_t> i
                    self.shared[i] = id
                    i += 1
        else:
            # Selection sampling (Knuth, TAOCP 2, 3.4.2): every neuron is looked at once.
            for id in range(<int32_t> self.n_neurons):
                if self.place[id] >= 0:
                    continue
                if left and <Py_ssize_t> below(&rng, <uint32_t> rest) < left:
                    self.place[id] = <int32_t> (self.n_tail - left)
                    self.shared[self.n_tail - left] = id
                    left -= 1
                rest -= 1

    cdef Py_ssize_t select(self, const float *x, const int32_t *labels, Py_ssize_t n_labels,
                           int32_t *out, uint64_t rng, int32_t *drawn,
                           int thread) noexcept nogil:
        """Active set for training: labels, retrieved, fill, tail of its own (of `drawn` neurons).

        Returns its size; no id occurs twice.
        """
        cdef Marks *marks = self.fresh_marks(thread)
        cdef Py_ssize_t n, most = self.n_neurons - self.n_frequent
        for n in range(n_labels):           # even those that all samples share
            out[n] = labels[n]
            marks.stamp[labels[n]] = marks.epoch
            most += self.place[labels[n]] >= self.n_tail
        n = n_labels
        cdef Py_ssize_t least = min(self.min_active, most)
        if self.retriever is not None and n < self.max_active:
            n = self.retriever.retrieve(x, out, n, self.max_active, marks, &rng, thread)
        n = self._fill(out, n, least, marks, &rng)
        if self.n_own_tail:
            least = min(n + self.n_own_tail, most)
            drawn[0] = <int32_t> max(<Py_ssize_t> 0, least - n)
            n = self._fill(out, n, least, marks, &rng)
        return n

    cdef Py_ssize_t select_projected(self, float *q, float squared, int32_t *out, uint64_t rng,
                                     int thread) noexcept nogil:
        """What is retrieved for a projected query, and the fill."""
        cdef Marks *marks = self.fresh_marks(thread)
        cdef Py_ssize_t n = self.retriever.probe(q, squared, out, 0, self.max_active, marks, &rng,
                                                 thread)
        return self._fill(out, n, self.min_active, marks, &rng)

    cdef Py_ssize_t _fill(self, int32_t *out, Py_ssize_t n, Py_ssize_t least, Marks *marks,
                          uint64_t *rng) noexcept nogil:
        cdef int32_t id
        while n < least:
            id = below(rng, <uint32_t> self.n_neurons)
            if fresh(id, marks):
                out[n] = id
                n += 1
        return n

    cdef float own_pi(self, Py_ssize_t drawn, Py_ssize_t n) noexcept nogil:
        """Inclusion probability of a sample's own tail among n own neurons, frequent labels not
        counted."""
        if not self.corrected or drawn == 0:
            return 1
        return <float> (drawn / <double> (self.n_neurons - self.n_frequent - (n - drawn)))

    cdef Py_ssize_t query(self, const float *x, int32_t *out, Py_ssize_t most, uint64_t rng,
                          int thread) noexcept nogil:
        """What is retrieved for x, after the frequent neurons."""
        cdef Marks *marks = self.fresh_marks(thread)
        cdef Py_ssize_t n, i
        for i in range(self.n_frequent):
            out[i] = self.shared[self.n_tail + i]
        n = self.n_frequent
        return self.retriever.retrieve(x, out, n, n + most, marks, &rng, thread)

    cdef void maintain(self, Parameters p, uint64_t seed, uint64_t step,
                       int n_threads) noexcept nogil:
        """Before the step of that number: builds the tables, or refreshes them when due."""
        cdef Py_ssize_t i, n = 0
        cdef double started
        cdef bint new_functions
        if self.retriever is None or (self.built and step < self.next_rebuild):
            return
        started = omp_get_wtime()
        if not self.built:
            self.retriever.build(p, stream(~seed, 5, 0), n_threads)
            self.built = True
        else:
            for i in range(self.n_neurons):
                if self.dirty[i]:
                    self.changed[n] = <int32_t> i
                    n += 1
            self.n_rebuilds += 1
            new_functions = self.new_functions_every > 0 \
                and self.n_rebuilds % <uint64_t> self.new_functions_every == 0
            self.retriever.refresh(p, self.changed, n, stream(~seed, 5, self.n_rebuilds),
                                   new_functions, n_threads)
            # The t-th rebuild comes rebuild_every * exp(decay * t) steps after the one before
            # (SLIDE, section 4.2).
            self.next_rebuild = step + self.rebuild_every * exp(
                self.rebuild_decay * self.n_rebuilds)
        memset(self.dirty, 0, self.n_neurons)
        self.seconds += omp_get_wtime() - started

    cdef void prepare(self, Parameters p, uint64_t seed, uint64_t step,
                      int n_threads) noexcept nogil:
        """The same before a prediction; the next training step would have done it."""
        cdef int64_t before
        if self.retriever is not None:
            before = self.retriever.total()
            self.maintain(p, seed, step, n_threads)
            self.debt += self.retriever.total() - before

    def hashed(self):
        """Multiplications of training so far; see `count_debt`."""
        return 0 if self.retriever is None else self.retriever.total() - self.debt

    def count_debt(self):
        """From now on `hashed` counts what predictions did of training's work."""
        self.debt = 0

    def select_batch(self, Parameters p, const float[:, ::1] x, labels, uint64_t seed=0,
                     uint64_t step=0, int n_threads=1):
        """What a training step computes: maintains the tables, draws and retrieves.

        Parameters
        ----------
        p : Parameters
            Of the layer: row i has the weights and the bias of neuron i.
        x : (n, ld) float32
            The layer's inputs, a 1 after the last value, padded with zeros.
        labels : sequence of n sequences of int
            Each without repetition.

        Returns
        -------
        shared, pi : int32 and float32 arrays
            Neurons that all n samples compute, and their inclusion probabilities.
        own : list of n such pairs
            Neurons of one sample, labels first. One that is shared as well counts here only.
        """
        cdef Py_ssize_t s, i, n, n_twice
        cdef int32_t drawn
        cdef int32_t[::1] y
        cdef int32_t[::1] out = np.empty(self.n_neurons, dtype=np.int32)
        if p.n_rows != self.n_neurons or x.shape[1] != p.ld or len(labels) != x.shape[0]:
            raise ValueError(f"{p.n_rows} rows of {p.ld} and x {x.shape[0], x.shape[1]} with "
                             f"{len(labels)} label sets for {self.n_neurons} neurons")
        if not 1 <= n_threads <= len(self.stamps.buffers):
            raise ValueError(f"n_threads={n_threads} of {len(self.stamps.buffers)}")
        labels = [np.array(row, dtype=np.int32).reshape(-1) for row in labels]
        for row in labels:
            if len(row) and not 0 <= row.min() <= row.max() < self.n_neurons \
                    or len(np.unique(row)) < len(row):
                raise ValueError(f"labels {row} of {self.n_neurons} neurons")
        self.maintain(p, seed, step, n_threads)
        for y in labels:
            self.count_labels(&y[0] if y.shape[0] else NULL, y.shape[0])
        self.share(seed, step)
        own = []
        for s in range(x.shape[0]):
            y = labels[s]
            drawn = 0
            n = self.select(&x[s, 0], &y[0] if y.shape[0] else NULL, y.shape[0], &out[0],
                            stream(seed, step, s), &drawn, 0)
            pi = np.ones(n, np.float32)
            n_twice = 0
            for i in range(n):
                n_twice += self.place[out[i]] >= self.n_tail
            pi[n - drawn:] = self.own_pi(drawn, n - n_twice)
            own.append((np.array(out[:n]), pi))
        shared, pi = np.empty(self.n_shared, np.int32), np.ones(self.n_shared, np.float32)
        for i in range(self.n_shared):
            shared[i] = self.shared[i]
        pi[:self.n_tail] = self.pi
        return shared, pi, own

    def weights_replaced(self):
        """The weights are not those that are in the tables: they are built anew before use."""
        self.built = False

    def weights_moved(self):
        """Any weight may have changed a little: the next rebuild looks at all neurons."""
        memset(self.dirty, 1, self.n_neurons)

    def get_state(self):
        state = {"schedule": np.array([self.next_rebuild, self.n_rebuilds, self.built])}
        if self.n_frequent:
            state["counts"] = np.array(<int64_t[:self.n_neurons]> self.counts)
            state["next_order"] = np.array([self.next_order])
            state["frequent"] = np.array(<int32_t[:self.n_frequent]> (self.shared + self.n_tail))
        if self.retriever is not None:
            state["dirty"] = np.array(<uint8_t[:self.n_neurons]> self.dirty)
            for name, array in self.retriever.tables.get_state().items():
                state["tables." + name] = array
            for name, array in self.retriever.arrays.items():
                state["functions." + name] = array.copy()
        return state

    def set_state(self, state):
        """Takes what get_state gave; refuses, and changes nothing, if it could not have come
        from it."""
        cdef Py_ssize_t i
        cdef int32_t[::1] frequent
        schedule = np.asarray(state["schedule"], dtype=np.float64)
        if schedule.shape != (3,) or not (schedule >= 0).all() or not schedule[1] < 2 ** 53:
            raise ValueError(f"schedule of rebuilds: {schedule} cannot be")
        if self.n_frequent:
            counts, frequent_ = state["counts"], state["frequent"]
            if counts.shape != (self.n_neurons,) or counts.dtype != np.int64 or counts.min() < 0:
                raise ValueError("counts of labels do not fit the layer")
            if frequent_.shape != (self.n_frequent,) or frequent_.dtype != np.int32 \
                    or not 0 <= frequent_.min() <= frequent_.max() < self.n_neurons \
                    or len(np.unique(frequent_)) < self.n_frequent:
                raise ValueError("frequent labels do not fit the layer")
            if state["next_order"].shape != (1,):
                raise ValueError("next_order does not fit")
            next_order = int(state["next_order"][0])
        if self.retriever is not None:
            dirty = state["dirty"]
            if dirty.shape != (self.n_neurons,) or dirty.dtype != np.uint8:
                raise ValueError("marks of changed neurons do not fit the layer")
            functions = self.retriever.arrays
            for name, array in functions.items():
                new = state["functions." + name]
                if new.shape != array.shape or new.dtype != array.dtype:
                    raise ValueError(f"hash functions: {name} has another shape or dtype")
                if new.dtype.kind == "f" and not np.isfinite(new).all():
                    raise ValueError(f"hash functions: {name} has values that are not finite")
                if name == "scale" and not new[0] > 0 or name == "seen" and not (
                        (new >= 0).all() and (new < 2 ** 53).all()):
                    raise ValueError(f"hash functions: {name} is {new}")
            if "coordinates" in functions:
                c = state["functions.coordinates"]
                if c.size and not 0 <= c.min() <= c.max() < self.retriever.family.dim:
                    raise ValueError("hash functions: a coordinate is out of range")
            self.retriever.tables.set_state(
                {name[7:]: a for name, a in state.items() if name.startswith("tables.")})
            for name, array in functions.items():
                array[...] = state["functions." + name]
            (<uint8_t[:self.n_neurons]> self.dirty)[:] = dirty
        if self.n_frequent:
            (<int64_t[:self.n_neurons]> self.counts)[:] = counts
            self.n_counted, self.next_order = int(counts.sum()), next_order
            memset(self.place, 0xff, self.n_neurons * sizeof(int32_t))
            frequent = frequent_
            for i in range(self.n_frequent):
                self.shared[self.n_tail + i] = frequent[i]
                self.place[frequent[i]] = <int32_t> (self.n_tail + i)
        self.next_rebuild, n_rebuilds, built = schedule
        self.n_rebuilds, self.built = int(n_rebuilds), bool(built)

    @property
    def nbytes(self):
        """Bytes of the hash tables."""
        return 0 if self.retriever is None else self.retriever.tables.nbytes
