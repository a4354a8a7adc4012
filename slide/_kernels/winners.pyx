"""Winner take all: which of a few random coordinates is the largest."""
cimport cython
from libc.stdint cimport int32_t, uint32_t, uint64_t

from slide._kernels.hashing cimport NO_BUCKET, HashFamily, in_range, is_zero, shuffle
from slide._kernels.random cimport below, mix64, stream
from slide._kernels.types cimport Buffer, padded

import numpy as np

cdef enum:
    POOL = 64       # bins of a table that its empty bins can take their value from


@cython.final
cdef class Winners(HashFamily):
    """
    A function is the place of the largest of n_bins permuted coordinates (Yagnik et al. 2011).

    Densified (Chen & Shrivastava 2018), a bin of zeros takes its value from another, tried in an
    order that is a function of the bin alone, and the code carries the number of tries, so that a
    borrowed value meets only the same bin's value. The bins to borrow from are independent draws of
    the same table: whether the first is empty tells nothing about them.
    """
    cdef int32_t[:, ::1] coordinates    # (L K, n_bins)
    cdef int32_t[:, ::1] pool           # (L POOL, n_bins); of plain winners (0, n_bins)
    cdef Buffer permutation
    cdef int n_bins, bin_bits, max_tries
    cdef bint densified

    def __cinit__(self, Py_ssize_t dim, int n_functions, int n_tables, int n_bins, bint densified,
                  uint64_t seed):
        if not 0 < n_bins <= dim:
            raise ValueError(f"{n_bins} of {dim} coordinates")
        self.dim, self.ld, self.densified = dim, padded(dim), densified
        self.n_functions, self.n_tables, self.n_bins = n_functions, n_tables, n_bins
        self.permutation = Buffer(dim * sizeof(int32_t))
        self.bin_bits = len(bin(n_bins - 1)) - 2
        cdef int try_bits = min(6, 63 // n_functions - self.bin_bits) if densified else 0
        if self.bin_bits * n_functions > 63 or densified and try_bits < 1:
            raise ValueError(f"{n_functions} functions of {n_bins} bins do not fit into 63 bits")
        self.max_tries = (1 << try_bits) - 1
        self.code_bits = n_functions * (self.bin_bits + try_bits)
        coordinates = np.zeros((n_tables * n_functions, n_bins), dtype=np.int32)
        pool = np.zeros((n_tables * POOL if densified else 0, n_bins), dtype=np.int32)
        self.arrays = {"coordinates": coordinates, "pool": pool}
        self.coordinates, self.pool = coordinates, pool
        self.redraw(seed, 0, n_tables)

    def check_arrays(self, arrays):
        in_range(arrays, "coordinates", self.dim)
        in_range(arrays, "pool", self.dim)

    cdef void redraw(self, uint64_t seed, int first, int last) noexcept nogil:
        # Bins of all tables are consecutive pieces of random permutations, each of which is a
        # function of the seed and its number; bins of a pool are not.
        cdef uint64_t state
        cdef Py_ssize_t t, i, j, at, m = self.n_bins, whole = self.dim // m, drawn = -1
        cdef int32_t *p = <int32_t *> self.permutation.p
        for i in range(<Py_ssize_t> first * self.n_functions,
                       <Py_ssize_t> last * self.n_functions):
            if i // whole != drawn:
                drawn = i // whole
                state = stream(seed, 2, drawn)
                for j in range(self.dim):
                    p[j] = <int32_t> j
                shuffle(p, self.dim, 0, whole * m, &state)
            at = i % whole * m
            for j in range(m):
                self.coordinates[i, j] = p[at + j]
        if not self.densified:
            return
        for t in range(first, last):
            state = stream(seed, 13, t)
            for j in range(self.dim):
                p[j] = <int32_t> j
            for i in range(t * POOL, (t + 1) * POOL):
                shuffle(p, self.dim, 0, m, &state)
                for j in range(m):
                    self.pool[i, j] = p[j]

    cdef inline int winner(self, const float *x, const int32_t *c) noexcept nogil:
        """Place of a bin's largest value; densified, -1 if all are 0."""
        cdef float best = x[c[0]], v
        cdef int j, at = 0
        cdef bint some = best != 0 or not self.densified
        for j in range(1, self.n_bins):
            v = x[c[j]]
            some |= v != 0
            if v > best:
                best, at = v, j
        return at if some else -1

    cdef void codes(self, const float *x, int first, int last, uint64_t *out,
                    float *scratch) noexcept nogil:
        cdef int t, k, w, tries
        cdef uint64_t code, walk = 0
        cdef Py_ssize_t i
        for t in range(first, last):
            code = 0
            for k in range(self.n_functions):
                i = t * self.n_functions + k
                w = self.winner(x, &self.coordinates[i, 0])
                tries = 0
                if w < 0:
                    walk = mix64(i)
                while w < 0 and tries < self.max_tries:
                    tries += 1
                    # An odd step comes to all of the pool before it comes to one again.
                    i = t * POOL + <Py_ssize_t> ((walk + tries * (walk >> 32 | 1)) & (POOL - 1))
                    w = self.winner(x, &self.pool[i, 0])
                if w < 0:
                    code = NO_BUCKET
                    break
                code = (code * (self.max_tries + 1) + tries) << self.bin_bits | w
            out[t - first] = code

    cdef uint64_t any_code(self, const float *x, int table, uint64_t key,
                           float *scratch) noexcept nogil:
        """That of values in random order: any place wins, at the first try."""
        cdef uint64_t code = 0
        cdef int _
        if not is_zero(x, self.dim):
            return NO_BUCKET
        for _ in range(self.n_functions):
            code = (code * (self.max_tries + 1)) << self.bin_bits \
                | below(&key, <uint32_t> self.n_bins)
        return code
