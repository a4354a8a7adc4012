"""Largest inner products: rows that a retriever finds, ranked by their true products."""
cimport cython
from cython.parallel cimport prange
from libc.math cimport INFINITY, exp
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from slide._kernels.openmp cimport omp_get_thread_num
from slide._kernels.random cimport stream
from slide._kernels.simd cimport simd

import numpy as np

cdef enum:
    CHUNK = 512         # rows that a thread scores at a time


cdef inline bint worse(float a, int32_t i, float b, int32_t j) noexcept nogil:
    """Whether score a of label i ranks behind score b of label j: of equals the smaller first."""
    return a < b or (a == b and i > j)


cdef void sift(float *scores, int32_t *ids, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    cdef float score = scores[i]
    cdef int32_t id = ids[i]
    cdef Py_ssize_t child
    while True:
        child = 2 * i + 1
        if child >= n:
            break
        if child + 1 < n and worse(scores[child + 1], ids[child + 1], scores[child], ids[child]):
            child += 1
        if not worse(scores[child], ids[child], score, id):
            break
        scores[i], ids[i] = scores[child], ids[child]
        i = child
    scores[i], ids[i] = score, id


@cython.final
cdef class Searcher:
    """
    Rows of three kinds: those in the retriever's tables, those that came later, which every query
    looks at, and those of either that are gone.

    Parameters
    ----------
    active : ActiveSet
        Only retrieves: it has no frequent neurons and no tail.
    params : Parameters
        The rows in the tables, a bias in the last column.
    more : (n, ld) float32
        Those that came later.
    labels, gone : int32 and uint8 arrays
        Of all rows, those of the tables first.
    n_threads : int
        At most those of `active`.
    """
    def __cinit__(self, ActiveSet active, Parameters params, const float[:, ::1] more,
                  const int32_t[::1] labels, const uint8_t[::1] gone, uint64_t seed,
                  int n_threads):
        cdef const int32_t[::1] everywhere
        self.active, self.params, self.more = active, params, more
        self.labels, self.gone, self.seed, self.n_threads = labels, gone, seed, n_threads
        self.n_built, self.n_rows = params.n_rows, params.n_rows + more.shape[0]
        if active.n_neurons != self.n_built or active.n_frequent or active.n_tail:
            raise ValueError("an active set that is not the rows'")
        if more.shape[1] != params.ld or labels.shape[0] != self.n_rows \
                or gone.shape[0] != self.n_rows:
            raise ValueError("rows, labels and marks of different shapes")
        if not 1 <= n_threads <= active.n_threads:
            raise ValueError(f"n_threads={n_threads} of {active.n_threads}")
        # Retrievers take what every sample has for found already.
        everywhere = np.flatnonzero(gone[:self.n_built]).astype(np.int32)
        active.marks.share(&everywhere[0] if everywhere.shape[0] else NULL, everywhere.shape[0])
        self.products = PerThread(n_threads, sizeof(int64_t))
        self.reserve(1, False)

    def reserve(self, Py_ssize_t n_candidates, bint whole):
        """Sets how many rows a query retrieves, or that it looks at all of them."""
        n_candidates = max(1, min(n_candidates, self.n_built))
        self.whole = whole
        if n_candidates != self.n_candidates:
            self.ids = PerThread(self.n_threads, n_candidates * sizeof(int32_t))
            self.scores = PerThread(
                self.n_threads, max(n_candidates, <Py_ssize_t> CHUNK) * sizeof(float))
            self.n_candidates = n_candidates

    def observe(self, const float[:, ::1] x):
        """Shows the retriever queries like those to come, a 1 after their last values."""
        if x.shape[1] != self.params.ld:
            raise ValueError(f"queries of {x.shape[1]} floats for rows of {self.params.ld}")
        if x.shape[0]:
            self.active.retriever.observe(&x[0, 0], x.shape[1], x.shape[0])

    def build(self, int n_rounds):
        """Puts the rows into the tables; n_rounds: of learning, for those that learn."""
        cdef int i
        with nogil:
            self.active.maintain(self.params, self.seed, 0, self.n_threads)
        for i in range(n_rounds):
            self.active.weights_moved()
            with nogil:
                self.active.maintain(self.params, self.seed, i + 1, self.n_threads)

    def query(self, const float[:, ::1] x, Py_ssize_t k):
        """The k best of every query (a 1 after its last value): labels, scores, products made.

        There must be k rows that are not gone.
        """
        cdef Py_ssize_t m = x.shape[0], s
        ids, scores = np.empty((m, k), np.int32), np.empty((m, k), np.float32)
        cdef int32_t[:, ::1] ids_v = ids
        cdef float[:, ::1] scores_v = scores
        if x.shape[1] != self.params.ld:
            raise ValueError(f"queries of {x.shape[1]} floats for rows of {self.params.ld}")
        if not 1 <= k <= self.n_rows:
            raise ValueError(f"k={k} of {self.n_rows} rows")
        before = self._multiplications()
        for s in prange(m, nogil=True, schedule="dynamic", chunksize=8,
                        num_threads=self.n_threads):
            self._query(&x[s, 0], &ids_v[s, 0], &scores_v[s, 0], k, omp_get_thread_num())
        return ids, scores, self._multiplications() - before

    cdef void _query(self, const float *x, int32_t *ids, float *scores, Py_ssize_t k,
                     int thread) noexcept nogil:
        cdef Best best
        best.ids, best.scores, best.k, best.sums = ids, scores, k, False
        self.search(x, &best, thread)

    def _multiplications(self):
        cdef int i
        cdef int64_t n = self.active.retriever.total()
        for i in range(self.n_threads):
            n += (<int64_t *> self.products.p[i])[0]
        return n

    cdef void search(self, const float *x, Best *best, int thread) noexcept nogil:
        """The best rows in descending order into best.ids and best.scores (-1 and -inf where
        there are fewer)."""
        cdef int32_t *ids = <int32_t *> self.ids.p[thread]
        cdef float *z = <float *> self.scores.p[thread]
        cdef Py_ssize_t n, j
        best.n, best.highest, best.total = 0, -1e30, 0
        if not self.whole:
            # The same draws for every query: its result does not depend on those around it.
            n = self.active.query(x, ids, self.n_candidates, stream(~self.seed, 41, 0), thread)
            self.params.dot(z, ids, n, x)
            (<int64_t *> self.products.p[thread])[0] += n * self.params.n_weights
            for j in range(n):
                self._offer(z[j], self.labels[ids[j]], best)
            if best.sums:
                add_exponentials(z, n, best)
            if self.n_rows > self.n_built:
                self._rows(x, &self.more[0, 0], self.n_built, self.n_rows - self.n_built, best,
                           thread)
        if best.n < best.k:
            best.n, best.highest, best.total = 0, -1e30, 0
            self._rows(x, self.params.w, 0, self.n_built, best, thread)
            if self.n_rows > self.n_built:
                self._rows(x, &self.more[0, 0], self.n_built, self.n_rows - self.n_built, best,
                           thread)
        for j in range(best.n, best.k):
            best.ids[j], best.scores[j] = -1, -INFINITY
        for j in range(best.n - 1, 0, -1):
            best.scores[0], best.scores[j] = best.scores[j], best.scores[0]
            best.ids[0], best.ids[j] = best.ids[j], best.ids[0]
            sift(best.scores, best.ids, 0, j)

    cdef void _rows(self, const float *x, const float *w, Py_ssize_t first, Py_ssize_t n,
                    Best *best, int thread) noexcept nogil:
        """Looks at n rows that follow each other."""
        cdef float *z = <float *> self.scores.p[thread]
        cdef Py_ssize_t at = 0, m, j, kept
        (<int64_t *> self.products.p[thread])[0] += n * self.params.n_weights
        while at < n:
            m = min(n - at, <Py_ssize_t> CHUNK)
            simd.rows_dot(z, w + at * self.params.ld, self.params.ld, NULL, m, x)
            kept = 0
            for j in range(m):
                if not self.gone[first + at + j]:
                    self._offer(z[j], self.labels[first + at + j], best)
                    z[kept] = z[j]
                    kept += 1
            if best.sums:
                add_exponentials(z, kept, best)
            at += m

    cdef void _offer(self, float score, int32_t label, Best *best) noexcept nogil:
        cdef Py_ssize_t i
        if best.n == best.k:
            if worse(best.scores[0], best.ids[0], score, label):
                best.scores[0], best.ids[0] = score, label
                sift(best.scores, best.ids, 0, best.k)
        elif score > -INFINITY:
            i = best.n
            best.n += 1
            while i > 0 and worse(score, label, best.scores[(i - 1) // 2],
                                  best.ids[(i - 1) // 2]):
                best.scores[i], best.ids[i] = best.scores[(i - 1) // 2], best.ids[(i - 1) // 2]
                i = (i - 1) // 2
            best.scores[i], best.ids[i] = score, label


cdef void add_exponentials(float *z, Py_ssize_t n, Best *best) noexcept nogil:
    """Adds the exponentials of n scores, which are lost."""
    cdef float high, sum
    if n == 0:
        return
    high = simd.exp_shift(z, n, &sum)
    if high > best.highest:
        best.total = best.total * exp(best.highest - high) + sum
        best.highest = high
    else:
        best.total += sum * exp(high - best.highest)
