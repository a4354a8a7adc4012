"""Data-dependent tables: cells of a k-means partition of the neurons' directions."""
cimport cython
from cython.parallel cimport prange
from libc.math cimport INFINITY, sqrt
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memset

from slide._kernels.blas cimport gemm
from slide._kernels.openmp cimport omp_get_thread_num
from slide._kernels.quantized cimport encode, quantize
from slide._kernels.random cimport below, of_part, stream
from slide._kernels.ranking cimport threshold
from slide._kernels.retrieval cimport take_some
from slide._kernels.simd cimport Query, simd
from slide._kernels.tables cimport Tables
from slide._kernels.types cimport padded

import numpy as np

cdef enum:
    MANY = 1024         # cells beyond which bytes stand for their means
    LONGEST = 1024      # vectors that have codes
    AT_ONCE = 64        # neurons that are scored together
    TILE = 256          # centroids that they are scored with at a time


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


cdef inline void make_heap(Cell *heap, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n // 2 - 1, -1, -1):
        sift(heap, i, n)


cdef inline float inverse_norm(Parameters p, Py_ssize_t row) noexcept nogil:
    return 1 / <float> sqrt(simd.sumsq(p.w + row * p.ld, p.ld) + 1e-30)


cdef int compare_members(const void *a, const void *b) noexcept nogil:
    """The most similar first; of equals, the first row."""
    cdef const Member *x = <const Member *> a
    cdef const Member *y = <const Member *> b
    if x.similarity != y.similarity:
        return -1 if x.similarity > y.similarity else 1
    return (x.row > y.row) - (x.row < y.row)


cdef inline Py_ssize_t best_of(const float *scores, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j, best = 0
    for j in range(1, n):
        if scores[j] > scores[best]:
            best = j
    return best


cdef inline Py_ssize_t best_with_room(const float *scores, const Py_ssize_t *room,
                                      Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t j, best = -1
    for j in range(n):
        if room[j] > 0 and (best < 0 or scores[j] > scores[best]):
            best = j
    return best


@cython.final
cdef class ClusterRetriever(Retriever):
    """Cells of a spherical k-means partition of the neurons' directions, best mean first.

    With more than one group the partition has two levels: a neuron goes to the nearest group and
    to the nearest of that group's cells, and a query looks into the cells of its best groups.

    capacity : most neurons of a cell; 0: any number
    """
    def __cinit__(self, Py_ssize_t n_neurons, Py_ssize_t dim, int n_tables, int n_groups,
                  int cells_of_group, int n_probes, int n_threads, Py_ssize_t capacity=0):
        cdef int n_cells = n_groups * cells_of_group
        cdef Py_ssize_t ld = padded(dim)
        if <int64_t> n_tables * n_groups * cells_of_group >= <int64_t> 1 << 31:
            raise ValueError(f"{n_tables} tables of {n_groups} x {cells_of_group} cells")
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
        self.scores = PerThread(n_threads, 3 * (most + 16) * sizeof(float))
        self.heaps = PerThread(n_threads, 2 * most * sizeof(Cell))
        self.coefs = PerThread(n_threads, n_neurons * sizeof(float))
        self.blocks = PerThread(n_threads, AT_ONCE * (ld + TILE + 1) * sizeof(float))
        self.group_buffer = Buffer((n_groups + 1) * sizeof(int32_t))
        self.roll_units = 2 * n_neurons
        self.capacity = capacity
        if capacity:
            if capacity * n_cells < n_neurons:
                raise ValueError(f"{n_cells} cells of {capacity} neurons for {n_neurons}")
            self.room_buffer = Buffer(n_cells * sizeof(Py_ssize_t))
            self.member_buffer = Buffer(n_neurons * sizeof(Member))
            self.choice_buffer = Buffer(AT_ONCE * max(n_groups, cells_of_group) * sizeof(float))
        self.compact = n_tables * n_cells > MANY and ld <= LONGEST
        if self.compact:
            self.codes_of_means = Buffer((n_tables * n_cells + 15) // 16 * 16 * ld)
            self.codes = <uint8_t *> self.codes_of_means.p
            self.steps_buffer = Buffer((n_tables * n_cells + 15) * sizeof(float))
            self.steps = <float *> self.steps_buffer.p
            self.biases_buffer = Buffer((n_tables * n_cells + 15) * sizeof(float))
            self.biases = <float *> self.biases_buffer.p
            self.queries = PerThread(n_threads, ld)
            self.coded.values, self.coded.n_quads = self.codes, ld // 4
            self.coded.scale, self.coded.offset = self.steps, self.biases
            self.listed = PerThread(n_threads, (cells_of_group + 16) * sizeof(int32_t))

    @property
    def in_bytes(self):
        return self.compact

    @property
    def places_jointly(self):
        return self.capacity > 0

    cdef void build(self, Parameters p, uint64_t seed, int n_threads) noexcept nogil:
        cdef int t, c, g, _
        cdef uint64_t rng
        self._norms(p, n_threads)
        for t in range(self.tables.n_tables):
            rng = stream(seed, 3, t)
            for g in range(self.n_groups):
                self._seed(p, &self.group_centroids[t, g, 0],
                           of_part(p.n_rows, g, self.n_groups, &rng))
            for c in range(self.n_cells):
                self._seed(p, &self.centroids[t, c, 0],
                           of_part(p.n_rows, c, self.n_cells, &rng))
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
            inverse[i] = inverse_norm(p, i)

    cdef void _seed(self, Parameters p, float *centroid, Py_ssize_t row) noexcept nogil:
        memset(centroid, 0, p.ld * sizeof(float))
        simd.axpy(centroid, p.w + row * p.ld, p.ld, inverse_norm(p, row))

    cdef void _sum(self, Parameters p, float *out, const int32_t *ids, Py_ssize_t n,
                   const float *weight, int thread) noexcept nogil:
        """out = sum of the rows ids, each times its weight (NULL: their mean)."""
        cdef float *coef = <float *> self.coefs.p[thread]
        cdef Py_ssize_t j
        self.count(thread, n * self.dim)
        memset(out, 0, p.ld * sizeof(float))
        for j in range(n):
            coef[j] = weight[ids[j]] if weight != NULL else <float> (1.0 / n)
        p.axpy(out, ids, coef, n)

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

    cdef void _encode(self, int t, Py_ssize_t cell) noexcept nogil:
        """The mean of a cell in bytes; its bias, which may be far larger, as it is."""
        cdef Py_ssize_t place = t * self.n_cells + cell, ld = self.means.shape[2]
        cdef float *mean = &self.means[t, cell, 0]
        if not self.compact:
            return
        self.biases[place] = mean[self.dim - 1]
        mean[self.dim - 1] = 0
        self.steps[place] = encode(mean, ld, self.codes, place)
        mean[self.dim - 1] = self.biases[place]

    def restored(self):
        cdef int t
        cdef Py_ssize_t c
        for t in range(self.tables.n_tables):
            for c in range(self.n_cells):
                self._encode(t, c)

    cdef void _average(self, Parameters p, int t, int n_threads) noexcept nogil:
        """What queries are compared with: mean weight vectors."""
        cdef const int32_t *ids = self.tables.ids[t]
        cdef const int32_t *start = self.tables.starts[t]
        cdef Py_ssize_t c, g, m = self.cells_of_group
        for c in prange(self.n_cells, schedule="dynamic", chunksize=8, num_threads=n_threads):
            self._sum(p, &self.means[t, c, 0], ids + start[c], start[c + 1] - start[c], NULL,
                      omp_get_thread_num())
            self._encode(t, c)
        if self.n_groups > 1:
            for g in prange(self.n_groups, schedule="dynamic", chunksize=1,
                            num_threads=n_threads):
                self._sum(p, &self.group_means[t, g, 0], ids + start[g * m],
                          start[(g + 1) * m] - start[g * m], NULL, omp_get_thread_num())

    cdef Py_ssize_t _nearest(self, const float *w, const float *centroids, Py_ssize_t n,
                             Py_ssize_t ld, float *scores, int thread) noexcept nogil:
        self.count(thread, n * self.dim)
        simd.rows_dot(scores, centroids, ld, NULL, n, w)
        return best_of(scores, n)

    cdef void _nearest_of(self, Parameters p, const float *centroids, Py_ssize_t n,
                          const int32_t *ids, Py_ssize_t first, const int32_t *order,
                          Py_ssize_t count, uint64_t origin, uint64_t *codes,
                          int thread) noexcept nogil:
        """codes[i] = origin + the nearest of n centroids to row ids[i] (NULL: row i), for i =
        order[0..count-1], or first..first+count-1 without an order."""
        cdef float *rows = <float *> self.blocks.p[thread]
        cdef float *scores = rows + AT_ONCE * p.ld
        cdef float *best = scores + AT_ONCE * TILE
        cdef const float *x = rows
        cdef Py_ssize_t i, j, k, width, at = 0
        if order == NULL and ids == NULL:
            x = p.w + first * p.ld
        else:
            for j in range(count):
                i = order[j] if order != NULL else first + j
                memcpy(rows + j * p.ld, p.w + (ids[i] if ids != NULL else i) * p.ld,
                       p.ld * sizeof(float))
        self.count(thread, count * n * self.dim)
        while at < n:
            width = min(<Py_ssize_t> TILE, n - at)
            gemm(b"N", b"T", count, width, self.dim, x, p.ld, centroids + at * p.ld, p.ld, scores,
                 width)
            for j in range(count):
                i = order[j] if order != NULL else first + j
                k = best_of(scores + j * width, width)
                if at == 0 or scores[j * width + k] > best[j]:
                    best[j] = scores[j * width + k]
                    codes[i] = origin + at + k
            at += TILE

    cdef void _cells(self, Parameters p, int t, const int32_t *ids, Py_ssize_t first,
                     Py_ssize_t n, uint64_t *codes, int n_threads) noexcept nogil:
        """codes[i] = the cell for row ids[i] (NULL: row i), for n of them from the first on."""
        cdef const float *centroids = &self.centroids[t, 0, 0]
        cdef int32_t *order = <int32_t *> self.coefs.p[0]       # of no use at this time
        cdef int32_t *start = <int32_t *> self.group_buffer.p
        cdef Py_ssize_t n_blocks = (n + AT_ONCE - 1) // AT_ONCE, i, g, at, m = self.cells_of_group
        cdef Py_ssize_t n_first = self.n_groups
        if self.n_groups == 1:
            n_first = m
        else:
            centroids = &self.group_centroids[t, 0, 0]
        for i in prange(n_blocks, schedule="dynamic", chunksize=1, num_threads=n_threads):
            self._nearest_of(p, centroids, n_first, ids, first + i * AT_ONCE, NULL,
                             min(<Py_ssize_t> AT_ONCE, n - i * AT_ONCE), 0, codes,
                             omp_get_thread_num())
        if self.n_groups == 1:
            return
        # Group by group, whose cells' centroids stay in the cache.
        memset(start, 0, (self.n_groups + 1) * sizeof(int32_t))
        for i in range(first, first + n):
            start[codes[i] + 1] += 1
        for g in range(self.n_groups):
            start[g + 1] += start[g]
        for i in range(first, first + n):
            order[start[codes[i]]] = <int32_t> i
            start[codes[i]] += 1
        for g in prange(self.n_groups, schedule="dynamic", chunksize=1, num_threads=n_threads):
            at = start[g - 1] if g > 0 else 0       # starts are ends now
            while at < start[g]:
                self._nearest_of(p, &self.centroids[t, g * m, 0], m, ids, 0, order + at,
                                 min(<Py_ssize_t> AT_ONCE, start[g] - at), g * m, codes,
                                 omp_get_thread_num())
                at = at + AT_ONCE

    cdef uint64_t *_place(self, Parameters p, int t, const int32_t *ids, Py_ssize_t n,
                          int n_threads) noexcept nogil:
        """The cells for the rows ids (NULL: all), which it marks as moved."""
        cdef uint64_t *codes = <uint64_t *> self.codes_buffer.p
        cdef uint8_t *moved = <uint8_t *> self.moved_buffer.p
        cdef Py_ssize_t i
        self._cells(p, t, ids, 0, n, codes, n_threads)
        for i in range(n):
            moved[ids[i] if ids != NULL else i] = 1
        self._bound(p, t, ids, n, codes, n_threads)
        return codes

    cdef void _assign(self, Parameters p, int t, const int32_t *ids, Py_ssize_t n,
                      int n_threads) noexcept nogil:
        """The assignment half, for the rows ids (NULL: all)."""
        cdef uint8_t *moved = <uint8_t *> self.moved_buffer.p
        self.tables.insert(t, ids, self._place(p, t, ids, n, n_threads), 1, n, moved, 0)
        memset(moved, 0, p.n_rows)

    cdef void _bound(self, Parameters p, int t, const int32_t *ids, Py_ssize_t n, uint64_t *codes,
                     int n_threads) noexcept nogil:
        """Changes the codes, nearest cells of the rows ids (NULL: all), where cells are bounded."""
        if self.capacity:
            if self.n_groups > 1:
                self._balance(p, t, ids, n, codes, True, n_threads)
            self._balance(p, t, ids, n, codes, False, n_threads)

    cdef void _compare(self, Parameters p, int t, Py_ssize_t row, uint64_t code, bint groups,
                       float *similarity, int thread) noexcept nogil:
        cdef const float *centroid = &self.centroids[t, code, 0]
        if groups:
            centroid = &self.group_centroids[t, code // self.cells_of_group, 0]
        self.count(thread, 2 * self.dim)
        simd.rows_dot(similarity, centroid, p.ld, NULL, 1, p.w + row * p.ld)
        similarity[0] *= inverse_norm(p, row)
        if not similarity[0] > -2:
            similarity[0] = -2              # NaN has no place in an order

    cdef void _balance(self, Parameters p, int t, const int32_t *ids, Py_ssize_t n,
                       uint64_t *codes, bint groups, int n_threads) noexcept nogil:
        """Bounds the groups, or the cells among which each neuron of a group may choose.

        Of those that are too many for their nearest cell, the most similar to its centroid stay.
        The others, most similar first, go to the nearest cell with room. There always is one: the
        cells have room for all neurons, and those of a group that was bounded for its own. Rows
        that are not assigned keep their places.
        """
        cdef const int32_t *start = self.tables.starts[t]
        cdef const int32_t *placed = self.tables.ids[t]
        cdef const uint8_t *moved = <const uint8_t *> self.moved_buffer.p
        cdef Py_ssize_t *room = <Py_ssize_t *> self.room_buffer.p   # below 0: so many too many
        cdef Member *members = <Member *> self.member_buffer.p
        cdef float *scores = <float *> self.choice_buffer.p
        cdef Py_ssize_t m = self.cells_of_group, width = m if groups else 1
        cdef Py_ssize_t n_choices = self.n_groups if groups else m
        cdef Py_ssize_t c, i, j, first, count, n_members = 0, surplus
        for c in range(self.n_cells // width):
            room[c] = self.capacity * width
            if ids != NULL:
                for j in range(start[c * width], start[(c + 1) * width]):
                    room[c] -= not moved[placed[j]]
        for i in range(n):
            room[codes[i] // width] -= 1
        for i in range(n):
            if room[codes[i] // width] < 0:
                members[n_members].place = <int32_t> i
                members[n_members].row = ids[i] if ids != NULL else <int32_t> i
                n_members += 1
        for i in prange(n_members, schedule="static", num_threads=n_threads):
            self._compare(p, t, members[i].row, codes[members[i].place], groups,
                          &members[i].similarity, omp_get_thread_num())
        qsort(members, n_members, sizeof(Member), compare_members)
        surplus = n_members
        for i in range(n_members - 1, -1, -1):
            c = codes[members[i].place] // width
            if room[c] < 0:
                room[c] += 1
                surplus -= 1
                members[surplus] = members[i]
        first = surplus
        while first < n_members:
            count = min(<Py_ssize_t> AT_ONCE, n_members - first)
            for j in prange(count, schedule="static", num_threads=n_threads):
                c = 0 if groups else codes[members[first + j].place] // m * m
                self._nearest(p.w + members[first + j].row * p.ld,
                              &self.group_centroids[t, 0, 0] if groups
                              else &self.centroids[t, c, 0],
                              n_choices, p.ld, scores + j * n_choices, omp_get_thread_num())
            for j in range(count):
                i = members[first + j].place
                c = 0 if groups else codes[i] // m * m
                c += best_with_room(scores + j * n_choices, room + c, n_choices)
                room[c] -= 1
                codes[i] = c * width
            if groups:
                for j in prange(count, schedule="static", num_threads=n_threads):
                    c = codes[members[first + j].place]
                    codes[members[first + j].place] = c + self._nearest(
                        p.w + members[first + j].row * p.ld, &self.centroids[t, c, 0], m, p.ld,
                        <float *> self.scores.p[omp_get_thread_num()], omp_get_thread_num())
            first += count

    cdef void codes_now(self, Parameters p, const int32_t *ids, Py_ssize_t n, uint64_t *out,
                        int n_threads) noexcept nogil:
        cdef uint64_t *codes = <uint64_t *> self.codes_buffer.p
        cdef Py_ssize_t i
        cdef int t, n_tables = self.tables.n_tables
        for t in range(n_tables):
            self._cells(p, t, ids, 0, n, codes, n_threads)
            for i in range(n):
                out[i * n_tables + t] = codes[i]

    cdef void codes_due(self, Parameters p, const int32_t *ids, Py_ssize_t n, uint64_t *out,
                        int n_threads) noexcept nogil:
        cdef uint64_t *codes
        cdef Py_ssize_t i
        cdef int t, n_tables = self.tables.n_tables
        for t in range(n_tables):
            codes = self._place(p, t, ids, n, n_threads)
            for i in range(n):
                out[i * n_tables + t] = codes[i]
            memset(self.moved_buffer.p, 0, p.n_rows)

    cdef void roll(self, Parameters p, int table, Py_ssize_t first, Py_ssize_t last,
                   uint64_t seed, uint64_t *codes, int n_threads) noexcept nogil:
        """One iteration of k-means, with the weights at the time of each unit.

        The first n_neurons units assign the neurons, after which they are moved to their cells;
        as many others go over the cells (with groups: over the groups and their cells), whose
        centroids and means follow.
        """
        cdef Py_ssize_t n = p.n_rows, c, g, m = self.cells_of_group, from_cell, to_cell, stop
        cdef const int32_t *ids
        cdef const int32_t *start
        if first < n:
            self._cells(p, table, NULL, first, min(last, n) - first, codes, n_threads)
            if last < n:
                return
            self._bound(p, table, NULL, n, codes, n_threads)
            self.tables.refill(table, codes, <uint8_t *> self.moved_buffer.p, 0)
            first = n
        ids, start = self.tables.ids[table], self.tables.starts[table]
        if self.n_groups == 1:
            from_cell = (first - n) * self.n_cells // n
            to_cell = (last - n) * self.n_cells // n
        else:
            first, stop = (first - n) * self.n_groups // n, (last - n) * self.n_groups // n
            from_cell, to_cell = first * m, stop * m
            for g in prange(first, stop, schedule="dynamic", chunksize=1, num_threads=n_threads):
                self._settle(p, &self.group_centroids[table, g, 0], &self.group_means[table, g, 0],
                             ids + start[g * m], start[(g + 1) * m] - start[g * m],
                             stream(seed, table, self.n_cells + g), omp_get_thread_num())
        for c in prange(from_cell, to_cell, schedule="dynamic", chunksize=8,
                        num_threads=n_threads):
            self._settle(p, &self.centroids[table, c, 0], &self.means[table, c, 0],
                         ids + start[c], start[c + 1] - start[c], stream(seed, table, c),
                         omp_get_thread_num())
            self._encode(table, c)

    cdef void _settle(self, Parameters p, float *centroid, float *mean, const int32_t *ids,
                      Py_ssize_t n, uint64_t rng, int thread) noexcept nogil:
        """A cell's direction and mean. No other cell has its neurons, whose norms it looks up."""
        cdef Py_ssize_t j
        self.count(thread, n * self.dim)
        for j in range(n):
            (<float *> self.norm_buffer.p)[ids[j]] = inverse_norm(p, ids[j])
        self._direction(p, centroid, ids, n, rng, thread)
        self._sum(p, mean, ids, n, NULL, thread)

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

    cdef Py_ssize_t _push_cells(self, Cell *heap, Py_ssize_t n, const float *x, int t,
                                Py_ssize_t first, Py_ssize_t count, float step, int32_t base,
                                float least, int thread) noexcept nogil:
        """Appends those of `count` cells of a table, from `first` on, that are not empty.

        step, base : of the query in bytes, which the thread keeps
        least : where means are in bytes, only cells of higher scores are appended
        """
        cdef const int32_t *start = self.tables.starts[t]
        cdef float *scores = <float *> self.scores.p[thread]
        cdef int32_t *places = NULL
        cdef Py_ssize_t j, c, ld = self.means.shape[2], origin = t * self.n_cells
        cdef ptrdiff_t found = 0
        cdef Query query
        if not self.compact:
            simd.rows_dot(scores, &self.means[t, first, 0], ld, NULL, count, x)
            return self._push(heap, n, scores, t, first, count, 1)
        places = <int32_t *> self.listed.p[thread]
        query.item, query.score, query.q = places, scores, <int8_t *> self.queries.p[thread]
        query.base, query.step, query.least, query.noise = base, step, least, NULL
        simd.sketch_scan(&found, &query, 1, &self.coded, origin + first,
                         origin + first + count, 1)
        for j in range(found):
            c = places[j] - origin
            if start[c + 1] > start[c]:
                heap[n].score, heap[n].cell = scores[j], places[j]
                n += 1
        return n

    cdef Py_ssize_t rank(self, const float *x, Py_ssize_t few, int thread) noexcept nogil:
        """Makes a heap of the cells that the query looks into; returns how many there are.

        few : so many of the best are enough; 0: all of them are wanted
        """
        cdef float *scores = <float *> self.scores.p[thread]
        cdef Cell *heap = <Cell *> self.heaps.p[thread]
        cdef Cell *groups
        cdef Py_ssize_t ld = self.means.shape[2], size = 0, n_groups = 0, j, c, m
        cdef int t, n_tables = self.tables.n_tables, _
        cdef float step = 0, least = -INFINITY
        cdef int32_t base = 0
        m = self.cells_of_group
        if self.compact:
            step = quantize(x, self.dim - 1, <int8_t *> self.queries.p[thread], &base)
        if self.n_groups == 1:
            self.count(thread, n_tables * self.n_cells * self.dim)
            for t in range(n_tables):
                size = self._push_cells(heap, size, x, t, 0, self.n_cells, step, base, least,
                                        thread)
        else:
            groups = heap + self.n_probes * m
            self.count(thread, (n_tables * self.n_groups + min(
                self.n_probes, n_tables * self.n_groups) * m) * self.dim)
            simd.rows_dot(scores, &self.group_means[0, 0, 0], ld, NULL, n_tables * self.n_groups,
                          x)
            for t in range(n_tables):
                n_groups = self._push(groups, n_groups, scores + t * self.n_groups, t, 0,
                                      self.n_groups, m)
            make_heap(groups, n_groups)
            for _ in range(self.n_probes):
                if n_groups == 0:
                    break
                t = groups[0].cell // self.n_groups
                c = groups[0].cell % self.n_groups
                size = self._push_cells(heap, size, x, t, c * m, m, step, base, least, thread)
                if 0 < few < size and least == -INFINITY:
                    # What is worse than the best few of these is not among the best of all.
                    for j in range(size):
                        scores[j] = heap[j].score
                    least = threshold(scores, size, few, scores + size)
                n_groups -= 1
                groups[0] = groups[n_groups]
                sift(groups, 0, n_groups)
        make_heap(heap, size)
        return size

    cdef Py_ssize_t best(self, Py_ssize_t size, int thread) noexcept nogil:
        """Takes the best of the heap's `size` cells away: its table times n_cells, plus its
        number."""
        cdef Cell *heap = <Cell *> self.heaps.p[thread]
        cdef Py_ssize_t cell = heap[0].cell
        heap[0] = heap[size - 1]
        sift(heap, 0, size - 1)
        return cell

    cdef Py_ssize_t retrieve(self, const float *x, int32_t *out, Py_ssize_t n, Py_ssize_t most,
                             Marks *marks, uint64_t *rng, int thread) noexcept nogil:
        cdef Py_ssize_t few = 0, size, cell, c, t
        cdef const int32_t *start
        if self.compact and self.n_groups > 1:
            few = 16 + 2 * (most - n) * self.n_cells // self.tables.n_items
        size = self.rank(x, few, thread)
        while n < most and (size or few):
            if size == 0:
                # More than a few are needed. Neurons that were taken are marked.
                few, size = 0, self.rank(x, 0, thread)
                continue
            cell = self.best(size, thread)
            size -= 1
            t, c = cell // self.n_cells, cell % self.n_cells
            start = self.tables.starts[t]
            n = take_some(self.tables.ids[t] + start[c], start[c + 1] - start[c], out, n, most,
                          marks, rng)
        return n
