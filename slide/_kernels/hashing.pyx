"""Hash families: vectors to L codes of K functions each."""
cimport cython
from libc.stdint cimport int32_t, uint64_t

from slide._kernels.random cimport below, mix64, next64, normal, stream
from slide._kernels.simd cimport simd
from slide._kernels.types cimport Buffer, padded

import numpy as np


cdef class HashFamily:
    cdef Py_ssize_t scratch_floats(self) noexcept nogil:
        return 0

    cdef void codes(self, const float *x, int first, int last, uint64_t *out,
                    float *scratch) noexcept nogil:
        """out[t - first] = code of x (ld floats) in table t, for first <= t < last."""
        pass

    cdef void redraw(self, uint64_t seed, int first, int last) noexcept nogil:
        """New functions for the tables first..last-1, each a function of (seed, table)."""
        pass

    def hash(self, const float[:, ::1] x):
        """Codes of padded rows: (n, L) uint64."""
        cdef Py_ssize_t i, n = x.shape[0]
        cdef Buffer scratch = Buffer(self.scratch_floats() * sizeof(float))
        if n and x.shape[1] != self.ld:
            raise ValueError(f"x has {x.shape[1]} columns; padded rows have {self.ld}")
        out = np.empty((n, self.n_tables), dtype=np.uint64)
        cdef uint64_t[:, ::1] c = out
        with nogil:
            for i in range(n):
                self.codes(&x[i, 0], 0, self.n_tables, &c[i, 0], <float *> scratch.p)
        return out


@cython.final
cdef class SimHash(HashFamily):
    """Signs of random projections (Charikar 2002)."""
    cdef float[:, ::1] projections      # (L K, ld)
    cdef bint rademacher

    def __cinit__(self, Py_ssize_t dim, int n_functions, int n_tables, bint rademacher,
                  uint64_t seed):
        self.dim, self.ld = dim, padded(dim)
        self.n_functions, self.n_tables, self.code_bits = n_functions, n_tables, n_functions
        self.products = n_functions * dim
        projections = np.zeros((n_tables * n_functions, self.ld), dtype=np.float32)
        self.arrays = {"projections": projections}
        self.projections, self.rademacher = projections, rademacher
        self.redraw(seed, 0, n_tables)

    cdef void redraw(self, uint64_t seed, int first, int last) noexcept nogil:
        cdef uint64_t state
        cdef Py_ssize_t i, j
        cdef int t
        for t in range(first, last):
            state = stream(seed, 1, t)
            for i in range(t * self.n_functions, (t + 1) * self.n_functions):
                for j in range(self.dim):
                    if self.rademacher:
                        self.projections[i, j] = 1 if next64(&state) & 1 else -1
                    else:
                        self.projections[i, j] = normal(&state)

    cdef Py_ssize_t scratch_floats(self) noexcept nogil:
        return self.n_functions * self.n_tables

    cdef void codes(self, const float *x, int first, int last, uint64_t *out,
                    float *scratch) noexcept nogil:
        cdef int t, k, n = (last - first) * self.n_functions
        cdef uint64_t code
        simd.rows_dot(scratch, &self.projections[first * self.n_functions, 0], self.ld, NULL, n, x)
        for t in range(last - first):
            code = 0
            for k in range(self.n_functions):
                code = (code << 1) | (scratch[t * self.n_functions + k] > 0)
            out[t] = code


@cython.final
cdef class DWTA(HashFamily):
    """Densified winner take all (Chen & Shrivastava 2018).

    A function is the place of the largest of n_bins permuted coordinates. A bin of zeros takes its
    value from other bins, tried in an order that is a function of the bin alone; the code carries
    the number of tries, so that a borrowed value meets only the same bin's value.
    """
    cdef int32_t[:, ::1] coordinates    # (L K, n_bins)
    cdef Buffer permutation
    cdef int n_bins, bin_bits, max_tries

    def __cinit__(self, Py_ssize_t dim, int n_functions, int n_tables, int n_bins, uint64_t seed):
        self.dim, self.ld = dim, padded(dim)
        self.n_functions, self.n_tables, self.n_bins = n_functions, n_tables, n_bins
        self.permutation = Buffer(dim * sizeof(int32_t))
        self.bin_bits = len(bin(n_bins - 1)) - 2
        cdef int try_bits = min(6, 63 // n_functions - self.bin_bits)
        if try_bits < 1:
            raise ValueError(f"{n_functions} functions of {n_bins} bins do not fit into 63 bits")
        self.max_tries = (1 << try_bits) - 1
        self.code_bits = n_functions * (self.bin_bits + try_bits)
        coordinates = np.zeros((n_tables * n_functions, n_bins), dtype=np.int32)
        self.arrays = {"coordinates": coordinates}
        self.coordinates = coordinates
        self.redraw(seed, 0, n_tables)

    cdef void redraw(self, uint64_t seed, int first, int last) noexcept nogil:
        cdef int t
        for t in range(first, last):
            self._redraw(stream(seed, 2, t), t)

    cdef void _redraw(self, uint64_t state, int table) noexcept nogil:
        # Bins are consecutive pieces of random permutations; a bin never has a coordinate twice.
        cdef Py_ssize_t i, j, k, at = self.dim
        cdef int32_t swap
        cdef int32_t *p = <int32_t *> self.permutation.p
        for j in range(self.dim):
            p[j] = <int32_t> j
        for i in range(table * self.n_functions, (table + 1) * self.n_functions):
            if at + self.n_bins > self.dim:
                for j in range(self.dim - 1, 0, -1):
                    k = below(&state, <int> j + 1)
                    swap = p[j]
                    p[j] = p[k]
                    p[k] = swap
                at = 0
            for j in range(self.n_bins):
                self.coordinates[i, j] = p[at + j]
            at += self.n_bins

    cdef inline int winner(self, const float *x, Py_ssize_t i) noexcept nogil:
        """Place of bin i's largest value; -1 if all are 0."""
        cdef const int32_t *c = &self.coordinates[i, 0]
        cdef float best = x[c[0]], v
        cdef int j, at = 0
        cdef bint some = best != 0
        for j in range(1, self.n_bins):
            v = x[c[j]]
            some |= v != 0
            if v > best:
                best, at = v, j
        return at if some else -1

    cdef void codes(self, const float *x, int first, int last, uint64_t *out,
                    float *scratch) noexcept nogil:
        cdef int t, k, w, tries
        cdef uint64_t code
        cdef Py_ssize_t i, n = self.coordinates.shape[0]
        for t in range(first, last):
            code = 0
            for k in range(self.n_functions):
                i = t * self.n_functions + k
                w = self.winner(x, i)
                tries = 0
                while w < 0 and tries < self.max_tries:
                    tries += 1
                    w = self.winner(x, mix64(i * 64 + tries) % <uint64_t> n)
                if w < 0:
                    code = NO_BUCKET
                    break
                code = (code * (self.max_tries + 1) + tries) << self.bin_bits | w
            out[t - first] = code
