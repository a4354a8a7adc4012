"""Hash tables of random projections: kept projections, inner-product transforms, multi-probe."""
cimport cython
from cython.parallel cimport prange
from libc.math cimport floor, sqrt
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from slide._kernels.hashing cimport convertible
from slide._kernels.openmp cimport omp_get_thread_num
from slide._kernels.random cimport below, next64, normal, normals, stream, uniform
from slide._kernels.ranking cimport largest
from slide._kernels.retrieval cimport Marks, Tally, keep_marks
from slide._kernels.simd cimport simd
from slide._kernels.tables cimport Tables
from slide._kernels.types cimport PerThread, padded

import numpy as np

cdef enum Transform:
    NONE, SIGN_ALSH, L2_ALSH, SIMPLE_LSH

cdef enum:
    BLOCK_BATCHES = 128
    MOST_CHANGES = 64       # of a query's code, one bit each in Probe.changes

cdef inline void sift_probe(Probe *heap, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    # The cheapest at the root.
    cdef Probe moving = heap[i]
    cdef Py_ssize_t child
    while True:
        child = 2 * i + 1
        if child >= n:
            break
        if child + 1 < n and heap[child + 1].cost < heap[child].cost:
            child += 1
        if heap[child].cost >= moving.cost:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = moving


cdef inline Py_ssize_t push_probe(Probe *heap, Py_ssize_t n, Probe new) noexcept nogil:
    cdef Py_ssize_t i = n
    while i > 0 and heap[(i - 1) // 2].cost > new.cost:
        heap[i] = heap[(i - 1) // 2]
        i = (i - 1) // 2
    heap[i] = new
    return n + 1


@cython.final
cdef class ProjectionRetriever(Retriever):
    """
    A neuron's weights w and bias are put under a transform P, a query under Q, such that P(w) and
    Q(q) are near where w . q is large (the docstring of `slide.hashing.SimHash` has them). The
    products of a neuron's weights with the projections are kept, and `shift` keeps them in step
    with a change of some weights; the appended coordinates depend on the norm alone.

    Parameters
    ----------
    cell : float
        Width of E2LSH's cells; 0: the code is the projections' signs.
    n_terms, bound : int, float
        m and U of the transforms.
    projection : {"gaussian", "rademacher", "principal"}
    n_probes : int
        Most buckets that a query looks into in one table, by ascending distance from its own (Lv
        et al., VLDB 2007), the nearest of all tables first.
    """

    def __cinit__(self, Py_ssize_t n_neurons, Py_ssize_t dim, int n_functions, int n_tables,
                  float cell, str projection, int transform, int n_terms, double bound,
                  int n_probes,
                  uint64_t seed, int n_threads):
        cdef Py_ssize_t n = n_functions * n_tables, ld = padded(dim)
        # One more than the functions: the product with the inputs' mean.
        self.n_neurons, self.dim, self.width = n_neurons, dim, padded(n + 1)
        self.n_functions, self.n_tables, self.n_probes = n_functions, n_tables, n_probes
        self.cell, self.rademacher = cell, projection == "rademacher"
        self.principal = projection == "principal"
        self.scans = self.principal and n_probes >= <int64_t> 1 << n_functions
        self.transform, self.n_terms, self.bound = transform, n_terms, bound
        self.bits = 1 if cell == 0 else min(8, 63 // n_functions)
        self.n_changes = min(<int> MOST_CHANGES, n_functions * (1 if cell == 0 else 2))
        if self.bits < 2 and cell != 0:
            raise ValueError(f"{n_functions} quantized functions do not fit into a code")
        self._count_from(n_threads)
        self.tables = Tables(n_neurons, n_tables, n_functions * self.bits, 0, n_threads)
        # "kept" and "norms" are no functions, but go on changing by differences, whose rounding a
        # saved model must not lose.
        self.arrays = {
            "projections": np.zeros((n + 1, ld), np.float32),
            "terms": np.zeros((n_terms, self.width), np.float32),
            "offsets": np.zeros((1, self.width), np.float32),
            "columns": np.zeros((dim, self.width), np.float32),
            "kept": np.zeros((n_neurons, self.width), np.float32),
            "norms": np.zeros(n_neurons, np.float32),
            "codes": np.zeros((n_tables, n_neurons), np.uint64),
            "current": np.zeros(n_neurons, np.uint8),
            "scale": np.ones(1),
            "moments": np.zeros((dim if self.principal else 0, self.width), np.float32),
            "seen": np.zeros(2),
            "middle": np.zeros(self.width, np.float32),
        }
        self.functions, self.terms = self.arrays["projections"], self.arrays["terms"]
        self.offsets, self.columns = self.arrays["offsets"], self.arrays["columns"]
        self.kept, self.norms = self.arrays["kept"], self.arrays["norms"]
        self.scale = self.arrays["scale"]
        self.codes, self.current = self.arrays["codes"], self.arrays["current"]
        self.moments, self.seen = self.arrays["moments"], self.arrays["seen"]
        self.middle = self.arrays["middle"]
        self.found = PerThread(n_threads, n_neurons * sizeof(int32_t) if self.principal else 0)
        self.scores = PerThread(n_threads,
                                3 * n_neurons * sizeof(float) if self.principal else 0)
        self.ids = PerThread(n_threads, n_neurons * sizeof(int32_t))
        # Of neurons that move; of a query in all tables.
        self.new_codes = PerThread(
            n_threads, max(n_neurons, <Py_ssize_t> n_tables) * sizeof(uint64_t))
        self.moved = PerThread(n_threads, n_neurons)
        self.queries = PerThread(n_threads, self.width * sizeof(float))
        self.heaps = PerThread(n_threads, n_tables * (2 * n_probes + 4) * sizeof(Probe))
        self.orders = PerThread(n_threads, n_tables * sizeof(int32_t))
        self.changes = PerThread(n_threads, n_tables * self.n_changes * sizeof(Change))
        self._draw(seed)

    @property
    def counts_collisions(self):
        return not self.scans

    cdef void _draw(self, uint64_t seed) noexcept nogil:
        cdef uint64_t state = stream(seed, 6, 0)
        cdef Py_ssize_t i, j
        for i in range(self.n_functions * self.n_tables):
            for j in range(self.dim):
                if self.rademacher:
                    self.functions[i, j] = 1 if next64(&state) & 1 else -1
                else:
                    self.functions[i, j] = normal(&state)
                self.columns[j, i] = self.functions[i, j]
            for j in range(self.n_terms):
                self.terms[j, i] = normal(&state)
            if self.cell != 0:
                self.offsets[0, i] = <float> (uniform(&state) * self.cell)

    cdef void project(self, const float *x, float *out, int thread) noexcept nogil:
        """Of a dense vector, padded with zeros."""
        cdef Py_ssize_t n = self.n_functions * self.n_tables + self.principal
        simd.rows_dot(out, &self.functions[0, 0], self.functions.shape[1], NULL, n, x)
        self.count(thread, n * self.dim)

    cdef void project_some(self, const int32_t *ids, const float *x, Py_ssize_t n, float *out,
                           int thread) noexcept nogil:
        """Of a vector with n non-zeros."""
        memset(out, 0, self.width * sizeof(float))
        simd.far_axpy(out, self.width, &self.columns[0, 0], self.width, ids, x, n)
        self.count(thread, n * (self.n_functions * self.n_tables + self.principal))

    cdef void shift(self, Parameters p, Py_ssize_t row, const int32_t *columns,
                    const float *change, Py_ssize_t n, int thread) noexcept nogil:
        """Keeps a row's projections in step with a change of n of its weights."""
        simd.far_axpy(&self.kept[row, 0], self.width, &self.columns[0, 0], self.width, columns,
                      change, n)
        self.count(thread, n * (self.n_functions * self.n_tables + self.principal))
        if self.transform != NONE:
            self.norms[row] = simd.sumsq(p.w + row * p.ld, p.ld)
        if self.current[row] == UNTOUCHED:
            self.current[row] = KEPT

    cdef void _keep(self, Parameters p, Py_ssize_t row, int thread) noexcept nogil:
        self.project(p.w + row * p.ld, &self.kept[row, 0], thread)
        if self.transform != NONE:
            self.norms[row] = simd.sumsq(p.w + row * p.ld, p.ld)

    cdef bint _rescale(self, bint anyhow) noexcept nogil:
        """Whether the norm that weights are divided by had to change, and all codes with it."""
        cdef float most = 0
        cdef Py_ssize_t i
        if self.transform == NONE:
            return False
        for i in range(self.n_neurons):
            most = max(most, self.norms[i])
        most = <float> sqrt(most)
        if most <= self.scale[0] and most > self.scale[0] / 2 and not anyhow:
            return False
        self.scale[0] = max(1.1 * most, 1e-30)      # room to grow: a change hashes all neurons anew
        return True

    cdef uint64_t _code(self, Py_ssize_t row, int table) noexcept nogil:
        """From what is kept: P(w) times the table's projections."""
        cdef Py_ssize_t i
        cdef int k, j
        cdef double scale = 1, power = 0, value, squared
        cdef uint64_t code = 0, mask = (<uint64_t> 1 << self.bits) - 1
        cdef double[16] appended
        if self.transform != NONE:
            scale = self.bound / self.scale[0]
            power = squared = self.norms[row] * scale * scale
            if self.transform == SIMPLE_LSH:
                appended[0] = sqrt(max(0.0, 1 - squared))
            else:
                for j in range(self.n_terms):       # |w|^2, |w|^4, |w|^8, ...
                    appended[j] = 0.5 - power if self.transform == SIGN_ALSH else power
                    power = power * power
        for k in range(self.n_functions):
            i = table * self.n_functions + k
            value = scale * self.kept[row, i]
            for j in range(self.n_terms):
                value += appended[j] * self.terms[j, i]
            if self.cell == 0:
                code = (code << 1) | (value > 0)
            else:
                value = convertible((value + self.offsets[0, i]) / self.cell)
                code = (code << self.bits) | (<uint64_t> <int64_t> floor(value) & mask)
        return code

    cdef void build(self, Parameters p, uint64_t seed, int n_threads) noexcept nogil:
        self._insert(p, NULL, p.n_rows, seed, n_threads)

    cdef void refresh(self, Parameters p, const int32_t *changed, Py_ssize_t n, uint64_t seed,
                      bint new_functions, int n_threads) noexcept nogil:
        if new_functions:
            if not self.principal:
                self._draw(seed)
            self.build(p, seed, n_threads)
        else:
            self._insert(p, changed, n, seed, n_threads)

    cdef void _insert(self, Parameters p, const int32_t *changed, Py_ssize_t n, uint64_t seed,
                      int n_threads) noexcept nogil:
        cdef Py_ssize_t i, row
        cdef int t
        for i in prange(n, schedule="dynamic", chunksize=64, num_threads=n_threads):
            row = changed[i] if changed != NULL else i
            if changed == NULL or self.current[row] != KEPT:
                self._keep(p, row, omp_get_thread_num())
            self.current[row] = UNTOUCHED
        if self._rescale(changed == NULL):
            changed, n = NULL, p.n_rows
        for t in prange(self.n_tables, schedule="dynamic", chunksize=1, num_threads=n_threads):
            self._move(t, changed, n, seed, omp_get_thread_num())

    cdef void _move(self, int table, const int32_t *changed, Py_ssize_t n, uint64_t seed,
                    int thread) noexcept nogil:
        """Moves those of the changed neurons whose code is another one now."""
        cdef int32_t *ids = <int32_t *> self.ids.p[thread]
        cdef uint64_t *codes = <uint64_t *> self.new_codes.p[thread]
        cdef uint8_t *moved = <uint8_t *> self.moved.p[thread]      # zero between calls
        cdef Py_ssize_t i, row, m = 0
        cdef uint64_t code, rng
        # Before the first insertion the table is empty, whatever its codes say.
        cdef bint empty = self.tables.starts[table][self.tables.n_slots] == 0
        for i in range(n):
            row = changed[i] if changed != NULL else i
            code = self._code(row, table)
            if empty or code != self.codes[table, row]:
                self.codes[table, row] = code
                ids[m], codes[m], moved[row] = <int32_t> row, code, 1
                m += 1
        if self.tables.capacity:
            # In random order: which neurons a full bucket shows must not depend on their ids.
            rng = stream(seed, 30, table)
            for i in range(m):
                row = below(&rng, <uint32_t> (i + 1))
                ids[i], ids[row] = ids[row], ids[i]
                codes[i], codes[row] = codes[row], codes[i]
        if m:
            self.tables.insert(table, ids, codes, 1, m, moved, thread)
        for i in range(m):
            moved[ids[i]] = 0

    cdef void codes_now(self, Parameters p, const int32_t *ids, Py_ssize_t n, uint64_t *out,
                        int n_threads) noexcept nogil:
        cdef Py_ssize_t i
        for i in prange(n, schedule="dynamic", chunksize=16, num_threads=n_threads):
            self._codes_now(p, ids[i], out + i * self.n_tables, omp_get_thread_num())

    cdef void _codes_now(self, Parameters p, Py_ssize_t row, uint64_t *out,
                         int thread) noexcept nogil:
        cdef float *was = <float *> self.queries.p[thread]
        cdef float norm = self.norms[row]
        cdef bint kept = self.current[row] == KEPT
        cdef int t
        if not kept:                        # what is kept stays as it is
            memcpy(was, &self.kept[row, 0], self.width * sizeof(float))
            self._keep(p, row, thread)
        for t in range(self.n_tables):
            out[t] = self._code(row, t)
        if not kept:
            memcpy(&self.kept[row, 0], was, self.width * sizeof(float))
            self.norms[row] = norm

    cdef Py_ssize_t retrieve(self, const float *x, int32_t *out, Py_ssize_t n, Py_ssize_t most,
                             Marks *marks, uint64_t *rng, int thread) noexcept nogil:
        cdef float *q = <float *> self.queries.p[thread]
        cdef float squared = 0
        self.project(x, q, thread)
        if self.transform == L2_ALSH:
            squared = simd.sumsq(x, self.functions.shape[1])
        return self.probe(q, squared, out, n, most, marks, rng, thread)

    cdef Py_ssize_t probe(self, float *q, float squared, int32_t *out, Py_ssize_t n,
                          Py_ssize_t most, Marks *marks, uint64_t *rng,
                          int thread) noexcept nogil:
        """As `retrieve`, for a query with projections q, scratch afterwards, and norm^2 squared.

        With principal projections all that the probes find are ranked: on their orthonormal rows
        the product of a neuron's projections with the centred query's estimates the activation.
        """
        cdef int32_t *found = <int32_t *> self.found.p[thread]
        cdef float *scores = <float *> self.scores.p[thread]
        cdef Py_ssize_t j, m, kept, k = self.n_functions * self.n_tables
        if not self.principal:
            return self._visit(q, squared, out, n, most, marks, rng, thread)
        for j in range(k):
            q[j] -= self.middle[j]
        q[k] = 0
        m = self.n_neurons
        if self.scans:
            found = NULL
        else:
            m = self._visit(q, squared, found, 0, self.n_neurons, marks, rng, thread)
        q[k] = 1                            # the product with the mean
        if found == NULL:
            simd.rows_dot(scores, &self.kept[0, 0], self.width, NULL, m, q)
        else:
            simd.far_dot(scores, &self.kept[0, 0], self.width, found, m, q)
        self.count(thread, m * k)
        kept = largest(scores, found, m, min(most - n, m), out + n, scores,
                       scores + self.n_neurons)
        keep_marks(marks, found, m, out + n, kept)
        return n + kept

    cdef void learn(self, const int32_t *ids, const float *x, Py_ssize_t n) noexcept nogil:
        """Adds an input (ids NULL: dense) to the moments: (x outer A (x - mean)), and x."""
        cdef float *y = <float *> self.queries.p[0]
        cdef Py_ssize_t j, c, k = self.n_functions * self.n_tables
        if ids == NULL:
            self.project(x, y, 0)
        else:
            self.project_some(ids, x, n, y, 0)
        for j in range(k):
            y[j] -= self.middle[j]
        y[k] = 1
        for j in range(n):
            c = ids[j] if ids != NULL else j
            if x[j] != 0:
                simd.axpy(&self.moments[c, 0], y, self.width, x[j])
        self.count(0, n * (k + 1))
        self.seen[0] += 1

    cdef bint turn(self, uint64_t seed) noexcept nogil:
        """After a batch: whether the functions are other ones now.

        One step of streaming principal component analysis by blocks (Mitliagkas et al., NIPS 2013)
        after 1, 2, 4, ... batches, then after every BLOCK_BATCHES. A random rotation within the
        subspace gives all bits the same share of the variance in expectation: one of an
        orthonormal basis, since the moments themselves are longer in directions of more variance.
        """
        cdef Py_ssize_t i, j, c, k = self.n_functions * self.n_tables
        cdef int64_t batches = <int64_t> self.seen[1] + 1
        cdef uint64_t state = seed
        cdef float g, s
        self.seen[1] = <double> batches
        if batches % BLOCK_BATCHES and (batches > BLOCK_BATCHES or batches & (batches - 1)):
            return False
        for c in range(self.dim):           # columns: inputs' mean, and centred moments
            s = self.moments[c, k] / <float> self.seen[0]
            self.functions[k, c] = s
        for i in range(k):
            memset(&self.functions[i, 0], 0, self.functions.shape[1] * sizeof(float))
        for j in range(k):
            # What the old mean left in the sums of the projections goes with the new mean.
            s = 0
            for c in range(self.dim):
                s += self.columns[c, j] * self.functions[k, c]
            self.middle[j] = <float> self.seen[0] * (s - self.middle[j])
            for c in range(self.dim):
                self.moments[c, j] -= self.middle[j] * self.functions[k, c]
        for i in range(k):
            for c in range(self.dim):
                self.functions[i, c] = self.moments[c, i]
            self._orthogonalize_or_draw(i, &state)
        for i in range(k):
            for c in range(self.dim):
                self.moments[c, i] = self.functions[i, c]
        for i in range(k):
            memset(&self.functions[i, 0], 0, self.functions.shape[1] * sizeof(float))
            for j in range(k):
                g = normal(&state)
                for c in range(self.dim):
                    self.functions[i, c] += g * self.moments[c, j]
            self._orthogonalize_or_draw(i, &state)
        for j in range(k + 1):
            for c in range(self.dim):
                self.columns[c, j] = self.functions[j, c]
        for j in range(k):
            simd.rows_dot(&self.middle[j], &self.functions[j, 0], self.functions.shape[1], NULL,
                          1, &self.functions[k, 0])
        memset(&self.moments[0, 0], 0, self.dim * self.width * sizeof(float))
        self.seen[0] = 0
        return True

    cdef bint _orthogonalize(self, Py_ssize_t i) noexcept nogil:
        """Function i to a unit vector orthogonal to those before; whether something was left."""
        cdef Py_ssize_t j, ld = self.functions.shape[1]
        cdef float *f = &self.functions[i, 0]
        cdef float norm, s = 0
        cdef int _
        for _ in range(3):                  # twice is enough (Giraud et al., 2005)
            norm = <float> sqrt(<double> simd.sumsq(f, ld))
            if not norm > (1e-20 if _ == 0 else 1e-3):
                return False
            simd.scale(f, ld, 1 / norm)
            if _ < 2:
                for j in range(i):
                    simd.rows_dot(&s, &self.functions[j, 0], ld, NULL, 1, f)
                    simd.axpy(f, &self.functions[j, 0], ld, -s)
        return True

    cdef void _orthogonalize_or_draw(self, Py_ssize_t i, uint64_t *state) noexcept nogil:
        """The same; where nothing is left, function i becomes any other direction, or 0."""
        if self._orthogonalize(i):
            return
        # Fewer inputs than functions, or all alike so far.
        normals(&self.functions[i, 0], self.dim, state)
        if not self._orthogonalize(i):
            memset(&self.functions[i, 0], 0, self.functions.shape[1] * sizeof(float))

    cdef Py_ssize_t _visit(self, float *q, float squared, int32_t *out, Py_ssize_t n,
                           Py_ssize_t most, Marks *marks, uint64_t *rng,
                           int thread) noexcept nogil:
        """The query's buckets, nearest first, until there are `most` neurons."""
        cdef Probe *heap = <Probe *> self.heaps.p[thread]
        cdef Change *changes = <Change *> self.changes.p[thread]
        cdef Change *own
        cdef Change change
        cdef Probe probe
        cdef int32_t *order
        cdef int t, i, k, j, f, n_own, size = 0, room = self.n_tables * (2 * self.n_probes + 4)
        cdef int left = self.n_tables * (self.n_probes - 1)
        cdef uint64_t *codes = <uint64_t *> self.new_codes.p[thread]
        cdef uint64_t code, field, mask = (<uint64_t> 1 << self.bits) - 1
        cdef double value
        cdef float inner
        cdef bint twice
        cdef Tally tally = self.begin(thread)
        if n >= most:
            return n
        if self.transform == L2_ALSH:
            for k in range(self.n_functions * self.n_tables):
                value = q[k] / sqrt(max(squared, <float> 1e-30))
                for j in range(self.n_terms):
                    value += 0.5 * self.terms[j, k]
                q[k] = <float> value
        order = self.random_order(rng, thread)
        for i in range(self.n_tables):
            if n == most:
                return n
            t = order[i]
            own = changes + t * self.n_changes
            code, n_own = 0, 0
            for k in range(self.n_functions):
                value = q[t * self.n_functions + k]
                if self.cell == 0:
                    code = (code << 1) | (value > 0)
                    inner = <float> value
                else:
                    value = convertible(
                        (value + self.offsets[0, t * self.n_functions + k]) / self.cell)
                    code = (code << self.bits) | (<uint64_t> <int64_t> floor(value) & mask)
                    inner = <float> (value - floor(value))
                if self.n_probes > 1:
                    change.cost, change.function, change.by = inner * inner, k, -1
                    n_own = self._note(own, n_own, change)
                    if self.cell != 0:
                        change.cost, change.by = (1 - inner) * (1 - inner), 1
                        n_own = self._note(own, n_own, change)
            if self.n_probes > 1:
                codes[t] = code
                probe.cost, probe.table, probe.last, probe.changes = own[0].cost, t, 0, 1
                size = <int> push_probe(heap, size, probe)
            n = self.meet(t, code, out, n, most, marks, rng, &tally)
        while size and left and n < most:
            probe = heap[0]
            size -= 1
            heap[0] = heap[size]
            sift_probe(heap, 0, size)
            t = probe.table
            own = changes + t * self.n_changes
            # The two sets that come after this one: its costliest change replaced by the next
            # costlier, and that one added.
            j = probe.last + 1
            if j < self.n_changes and size + 2 <= room:
                size = <int> push_probe(heap, size, Probe(
                    probe.cost + own[j].cost, t, j, probe.changes | (<uint64_t> 1 << j)))
                size = <int> push_probe(heap, size, Probe(
                    probe.cost + own[j].cost - own[j - 1].cost, t, j,
                    (probe.changes ^ (<uint64_t> 1 << probe.last)) | (<uint64_t> 1 << j)))
            code, twice = codes[t], False
            field = 0                                   # functions changed so far
            for j in range(probe.last + 1):
                if not (probe.changes >> j) & 1:
                    continue
                f = self.bits * (self.n_functions - 1 - own[j].function)
                twice |= (field >> own[j].function) & 1
                field |= <uint64_t> 1 << own[j].function
                if self.cell == 0:
                    code ^= <uint64_t> 1 << f
                else:
                    code = (code & ~(mask << f)) | ((((code >> f) + <uint64_t> own[j].by) & mask)
                                                    << f)
            if not twice:                               # to both sides is nowhere
                left -= 1
                n = self.meet(t, code, out, n, most, marks, rng, &tally)
        return self.settle(&tally, out, n, most, marks, rng)

    cdef int _note(self, Change *own, int n, Change change) noexcept nogil:
        """Insertion into a table's changes by ascending cost."""
        cdef int j = n
        if n == self.n_changes:
            if own[n - 1].cost <= change.cost:
                return n
            j = n - 1
        while j > 0 and own[j - 1].cost > change.cost:
            own[j] = own[j - 1]
            j -= 1
        own[j] = change
        return n if n == self.n_changes else n + 1
