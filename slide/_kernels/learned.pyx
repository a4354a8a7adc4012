"""Hash functions that learn from what they did not find."""
cimport cython
from libc.math cimport sqrt
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from slide._kernels.hashing cimport HashFamily
from slide._kernels.optim cimport Parameters
from slide._kernels.random cimport below, normals, of_part, stream
from slide._kernels.ranking cimport largest, threshold
from slide._kernels.retrieval cimport HashRetriever, Marks, Retriever
from slide._kernels.simd cimport simd
from slide._kernels.types cimport Buffer, padded

import numpy as np

cdef enum:
    INPUTS = 2048       # of the layer that are kept
    OF_A_BATCH = 8      # of these
    POOL = 16384        # neurons that a round looks at
    QUERIES = 32        # of a round
    FOUND = 10          # neurons with the largest activations, which a query is to find
    SPARED = 100        # with activations so large that nothing is said about them
    TRIED = 200         # others, of which those
    MISTAKEN = 20       # are taken whose bits agree most with the query's


cdef float STEEPNESS = 1.5


@cython.final
cdef class Learned(HashFamily):
    """
    Bits of a neuron w are the signs of a . (w - c), those of a query x the signs of a . (x - m),
    with the means c and m of weights and inputs. A round lets functions a follow the gradient of
    tanh(a . x') tanh(a . w') for pairs that should meet, and its negative for those that should
    not, x' and w' centred and of mean length 1.
    """
    cdef float[:, ::1] functions    # (L K, ld), of length sqrt(dim)
    cdef float[:, ::1] borders      # (2, L K): a . c and a . m
    cdef float[:, ::1] inputs       # (INPUTS, ld)
    cdef float[:, ::1] means        # (2, ld): c and m
    cdef double[::1] seen           # (2,): batches, fits
    cdef int n_rounds
    cdef float rate
    cdef uint64_t seed
    cdef Buffer gradient, pool, scores, items, tried, query

    def __cinit__(self, Py_ssize_t n_neurons, Py_ssize_t dim, int n_functions, int n_tables,
                  int n_rounds, float rate, uint64_t seed):
        cdef Py_ssize_t n = n_functions * n_tables, m = min(n_neurons, <Py_ssize_t> POOL)
        self.dim, self.ld = dim, padded(dim)
        self.n_functions, self.n_tables, self.code_bits = n_functions, n_tables, n_functions
        self.products = n_functions * dim
        self.fitted, self.n_rounds, self.rate, self.seed = True, n_rounds, rate, seed
        self.arrays = {
            "projections": np.zeros((n, self.ld), np.float32),
            "borders": np.zeros((2, n), np.float32),
            "inputs": np.zeros((INPUTS, self.ld), np.float32),
            "means": np.zeros((2, self.ld), np.float32),
            "seen": np.zeros(2),
        }
        self.functions, self.borders = self.arrays["projections"], self.arrays["borders"]
        self.inputs, self.means = self.arrays["inputs"], self.arrays["means"]
        self.seen = self.arrays["seen"]
        self.gradient = Buffer(n * self.ld * sizeof(float))
        self.pool = Buffer(m * sizeof(int32_t))
        self.scores = Buffer(3 * m * sizeof(float))
        self.items = Buffer((TRIED + FOUND + MISTAKEN) * sizeof(int32_t))
        # Of tried neurons with all functions, and how many of their bits agree.
        self.tried = Buffer((TRIED * n + 4 * TRIED) * sizeof(float))
        self.query = Buffer(4 * n * sizeof(float))
        self.redraw(seed, 0, n_tables)

    cdef void redraw(self, uint64_t seed, int first, int last) noexcept nogil:
        cdef uint64_t state
        cdef Py_ssize_t t, i
        for t in range(first, last):
            state = stream(seed, 26, t)
            for i in range(t * self.n_functions, (t + 1) * self.n_functions):
                normals(&self.functions[i, 0], self.dim, &state)
                self._rescale(i)

    cdef void _rescale(self, Py_ssize_t i) noexcept nogil:
        cdef double norm = sqrt(<double> simd.sumsq(&self.functions[i, 0], self.ld))
        if norm > 1e-30:
            simd.scale(&self.functions[i, 0], self.ld, <float> (sqrt(<double> self.dim) / norm))

    cdef void observe(self, const float *x, Py_ssize_t ld, Py_ssize_t n) noexcept nogil:
        """Keeps some of a training batch's n inputs, and the mean of about the last 50 batches."""
        cdef Py_ssize_t i
        cdef int64_t at = <int64_t> self.seen[0] * OF_A_BATCH
        cdef float share
        if n == 0:
            return
        for i in range(OF_A_BATCH):
            memcpy(&self.inputs[(at + i) % INPUTS, 0], x + i * n // OF_A_BATCH * ld,
                   self.ld * sizeof(float))
        self.seen[0] += 1
        share = <float> max(1 / self.seen[0], 0.02)
        simd.scale(&self.means[1, 0], self.ld, 1 - share)
        for i in range(n):
            simd.axpy(&self.means[1, 0], x + i * ld, self.ld, share / n)

    cdef bint fit(self, Parameters p, bint anyhow) noexcept nogil:
        """Some rounds of learning, if there are inputs to learn from."""
        cdef Py_ssize_t i, n_seen = <Py_ssize_t> min(self.seen[0] * OF_A_BATCH, <double> INPUTS)
        cdef uint64_t rng = stream(self.seed, 27, <uint64_t> self.seen[1])
        cdef int _
        if n_seen == 0 and not anyhow:
            return False
        self.seen[1] += 1
        memset(&self.means[0, 0], 0, self.ld * sizeof(float))
        for i in range(p.n_rows):
            simd.axpy(&self.means[0, 0], p.w + i * p.ld, self.ld, <float> (1.0 / p.n_rows))
        self._place()
        if n_seen:
            for _ in range(self.n_rounds):
                self._round(p, n_seen, &rng)
                self._place()
        return True

    cdef void _place(self) noexcept nogil:
        cdef Py_ssize_t n = self.functions.shape[0]
        simd.rows_dot(&self.borders[0, 0], &self.functions[0, 0], self.ld, NULL, n,
                      &self.means[0, 0])
        simd.rows_dot(&self.borders[1, 0], &self.functions[0, 0], self.ld, NULL, n,
                      &self.means[1, 0])

    cdef double _spread(self, const float *rows, const int32_t *ids, Py_ssize_t n,
                        const float *mean) noexcept nogil:
        """Root of the mean squared distance of n rows of ld floats from their mean."""
        cdef Py_ssize_t i, j
        cdef const float *row
        cdef double sum = 0, a
        for i in range(n):
            row = rows + (ids[i] if ids != NULL else i) * self.ld
            for j in range(self.ld):
                a = row[j] - mean[j]
                sum += a * a
        return max(1e-30, sqrt(sum / n))

    cdef void _round(self, Parameters p, Py_ssize_t n_seen, uint64_t *rng) noexcept nogil:
        cdef Py_ssize_t n = self.functions.shape[0], m = min(p.n_rows, <Py_ssize_t> POOL)
        cdef Py_ssize_t i, k, at, n_found, n_tried, n_items
        cdef int32_t *pool = <int32_t *> self.pool.p
        cdef float *scores = <float *> self.scores.p
        cdef int32_t *items = <int32_t *> self.items.p      # pairs of the query: to find, mistaken
        cdef int32_t *tried = items + FOUND + MISTAKEN
        cdef float *products = <float *> self.tried.p
        cdef float *agree = products + TRIED * n
        cdef float *u = <float *> self.query.p
        cdef float *v = u + n
        cdef float *of_x = u + 2 * n
        cdef float *of_c = u + 3 * n
        cdef float *gradient = <float *> self.gradient.p
        cdef float *x
        cdef const float *w
        cdef float limit, y, a, of_w
        cdef double by_w, by_x
        cdef int _, __
        for i in range(m):
            pool[i] = <int32_t> of_part(p.n_rows, i, m, rng)
        by_w = STEEPNESS / self._spread(p.w, pool, m, &self.means[0, 0])
        by_x = STEEPNESS / self._spread(&self.inputs[0, 0], NULL, n_seen, &self.means[1, 0])
        memset(gradient, 0, n * self.ld * sizeof(float))
        memset(of_c, 0, n * sizeof(float))
        for _ in range(QUERIES):
            x = &self.inputs[below(rng, <uint32_t> n_seen), 0]
            simd.rows_dot(u, &self.functions[0, 0], self.ld, NULL, n, x)
            for k in range(n):
                u[k] = <float> (by_x * (u[k] - self.borders[1, k]))
            simd.tanh(u, n)
            memset(of_x, 0, n * sizeof(float))
            p.dot(scores, pool, m, x)
            limit = threshold(scores, m, min(m, <Py_ssize_t> SPARED), scores + m)
            n_tried = 0
            for __ in range(TRIED):
                at = below(rng, <uint32_t> m)
                if scores[at] >= limit:
                    continue
                tried[n_tried] = pool[at]
                v = products + n_tried * n
                simd.rows_dot(v, &self.functions[0, 0], self.ld, NULL, n, p.w + pool[at] * p.ld)
                a = 0
                for k in range(n):
                    a += (v[k] > self.borders[0, k]) == (u[k] > 0)
                agree[n_tried] = a
                n_tried += 1
            v = u + n
            n_found = largest(scores, pool, m, FOUND, items, scores, scores + m)
            n_items = n_found + largest(agree, tried, n_tried, MISTAKEN, items + n_found,
                                        agree + TRIED, agree + 2 * TRIED)
            for i in range(n_items):
                y = <float> (1.0 / n_found) if i < n_found \
                    else <float> (-1.0 / (n_items - n_found))
                w = p.w + items[i] * p.ld
                simd.rows_dot(v, &self.functions[0, 0], self.ld, NULL, n, w)
                for k in range(n):
                    v[k] = <float> (by_w * (v[k] - self.borders[0, k]))
                simd.tanh(v, n)
                for k in range(n):
                    of_x[k] += <float> (by_x * y * v[k] * (1 - u[k] * u[k]))
                    of_w = <float> (by_w * y * u[k] * (1 - v[k] * v[k]))
                    of_c[k] += of_w
                    simd.axpy(gradient + k * self.ld, w, self.ld, of_w)
            for k in range(n):
                simd.axpy(gradient + k * self.ld, x, self.ld, of_x[k])
                simd.axpy(gradient + k * self.ld, &self.means[1, 0], self.ld, -of_x[k])
        for k in range(n):
            simd.axpy(gradient + k * self.ld, &self.means[0, 0], self.ld, -of_c[k])
            simd.axpy(&self.functions[k, 0], gradient + k * self.ld, self.ld, self.rate / QUERIES)
            self._rescale(k)

    cdef Py_ssize_t scratch_floats(self) noexcept nogil:
        return self.n_functions * self.n_tables

    cdef void codes(self, const float *x, int first, int last, uint64_t *out,
                    float *scratch) noexcept nogil:
        self._bits(x, 0, first, last, out, scratch)

    cdef void query_codes(self, const float *x, int first, int last, uint64_t *out,
                          float *scratch) noexcept nogil:
        self._bits(x, 1, first, last, out, scratch)

    cdef void _bits(self, const float *x, int side, int first, int last, uint64_t *out,
                    float *scratch) noexcept nogil:
        cdef Py_ssize_t t, k, i = first * self.n_functions
        cdef uint64_t code
        simd.rows_dot(scratch, &self.functions[i, 0], self.ld, NULL,
                      (last - first) * self.n_functions, x)
        for t in range(last - first):
            code = 0
            for k in range(self.n_functions):
                code = (code << 1) | (scratch[t * self.n_functions + k] > self.borders[side, i])
                i += 1
            out[t] = code


@cython.final
cdef class LearnedRetriever(Retriever):
    """Tables of learned functions, which are shown the inputs that a layer trains on."""
    cdef Learned functions
    cdef HashRetriever hashed

    def __cinit__(self, Learned functions, Py_ssize_t n_neurons, int n_threads):
        self.functions, self.arrays = functions, functions.arrays
        self.observes = True
        self._count_from(n_threads)
        self.hashed = HashRetriever(functions, n_neurons, n_threads)
        self.tables = self.hashed.tables

    @property
    def counts_collisions(self):
        return True

    def equip(self, strategy="vanilla", min_collisions=1, query="input", n_candidates=0,
              capacity=0, overflow="reservoir", seed=0):
        """As `Retriever.equip`: what concerns buckets is the inner retriever's."""
        Retriever.equip(self, "vanilla", min_collisions, query, n_candidates)
        self.hashed.equip(strategy, min_collisions, "input", 0, capacity, overflow, seed)

    cdef int64_t total(self) noexcept nogil:
        return Retriever.total(self) + self.hashed.total()

    cdef void observe(self, const float *x, Py_ssize_t ld, Py_ssize_t n) noexcept nogil:
        self.functions.observe(x, ld, n)

    cdef void build(self, Parameters p, uint64_t seed, int n_threads) noexcept nogil:
        self.hashed.build(p, seed, n_threads)

    cdef void refresh(self, Parameters p, const int32_t *changed, Py_ssize_t n, uint64_t seed,
                      bint new_functions, int n_threads) noexcept nogil:
        self.hashed.refresh(p, changed, n, seed, new_functions, n_threads)

    cdef void codes_now(self, Parameters p, const int32_t *ids, Py_ssize_t n, uint64_t *out,
                        int n_threads) noexcept nogil:
        self.hashed.codes_now(p, ids, n, out, n_threads)

    cdef Py_ssize_t retrieve(self, const float *x, int32_t *out, Py_ssize_t n, Py_ssize_t most,
                             Marks *marks, uint64_t *rng, int thread) noexcept nogil:
        return self.hashed.retrieve(x, out, n, most, marks, rng, thread)

    def hash(self, const float[:, ::1] x, bint queries=False):
        """Codes of padded rows of weights, or of inputs: (n, L) uint64."""
        cdef Py_ssize_t i
        cdef Buffer scratch = Buffer(self.functions.scratch_floats() * sizeof(float))
        cdef uint64_t[:, ::1] out = np.empty((x.shape[0], self.tables.n_tables), np.uint64)
        if x.shape[0] and x.shape[1] != self.functions.ld:
            raise ValueError(f"x has {x.shape[1]} columns; padded rows have {self.functions.ld}")
        for i in range(x.shape[0]):
            self.functions._bits(&x[i, 0], queries, 0, self.tables.n_tables, &out[i, 0],
                                 <float *> scratch.p)
        return np.asarray(out)
