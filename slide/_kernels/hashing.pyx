"""Hash families: vectors to L codes of K functions each. Here, those of random projections.

What `redraw` draws for a table is a function of the seed and the table's number alone, and a code
depends on nothing but its own table's parameters: tables can get new functions one by one.
"""
cimport cython
from cython.parallel cimport prange
from libc.math cimport floor
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from slide._kernels.openmp cimport omp_get_thread_num
from slide._kernels.random cimport below, next64, normals, stream, uniform
from slide._kernels.simd cimport simd
from slide._kernels.types cimport Buffer, PerThread, padded

import numpy as np


cdef class HashFamily:
    def __cinit__(self, *args, **kwargs):
        self.n_ranges, self.fitted, self.n_values = 1, False, 0

    cdef bint fit(self, Parameters p, bint anyhow) noexcept nogil:
        """Whether the functions, fitted to the weights, had to change, and all codes with them."""
        return False

    cdef void query_codes(self, const float *x, int first, int last, uint64_t *out,
                          float *scratch) noexcept nogil:
        """As `codes`, for a query; of the part of the items that `of_range` adds."""
        self.codes(x, first, last, out, scratch)

    cdef uint64_t of_range(self, uint64_t code, int r) noexcept nogil:
        """A query's code among the items of part r."""
        return code

    cdef Py_ssize_t scratch_floats(self) noexcept nogil:
        return 0

    cdef void codes(self, const float *x, int first, int last, uint64_t *out,
                    float *scratch) noexcept nogil:
        """out[t - first] = code of x (ld floats) in table t, for first <= t < last."""
        pass

    cdef uint64_t any_code(self, const float *x, int table, uint64_t key,
                           float *scratch) noexcept nogil:
        """A random code that is a function of the key, for x, which `codes` has given none in the
        table: that of a vector of zeros, which is as near to one vector as to any other. Here all
        codes are equally likely, as at a right angle. NO_BUCKET if x is no vector of zeros, or
        that has no defined probability of collision.

        scratch : as `codes` of x left it
        """
        cdef uint64_t code = 0
        cdef int bits, _
        if self.n_values == 0:
            return NO_BUCKET
        bits = self.code_bits // self.n_functions
        for _ in range(self.n_functions):
            code = code << bits | below(&key, <uint32_t> self.n_values)
        return code

    cdef void redraw(self, uint64_t seed, int first, int last) noexcept nogil:
        """New functions for the tables from `first` to before `last`."""
        pass

    def check_arrays(self, arrays):
        """Refuses arrays, of the right shapes and dtypes, that the kernels cannot read."""
        pass

    def renew(self, uint64_t seed, int first, int last):
        """Draws new functions for the tables from `first` to before `last`."""
        if not 0 <= first <= last <= self.n_tables:
            raise IndexError(f"tables {first} to {last} of {self.n_tables}")
        self.redraw(seed, first, last)

    def hash(self, const float[:, ::1] x, int n_threads=1, uint64_t[:, ::1] out=None):
        """Codes of padded rows: (n, L) uint64, written to `out` if there is one."""
        cdef Py_ssize_t i, n = x.shape[0]
        cdef PerThread scratch = PerThread(n_threads, self.scratch_floats() * sizeof(float))
        if n and x.shape[1] != self.ld:
            raise ValueError(f"x has {x.shape[1]} columns; padded rows have {self.ld}")
        if out is None:
            out = np.empty((n, self.n_tables), dtype=np.uint64)
        elif out.shape[0] != n or out.shape[1] != self.n_tables:
            raise ValueError(f"out has shape {out.shape[0]}, {out.shape[1]}")
        for i in prange(n, schedule="dynamic", chunksize=64, num_threads=n_threads, nogil=True):
            self.codes(&x[i, 0], 0, self.n_tables, &out[i, 0],
                       <float *> scratch.p[omp_get_thread_num()])
        return np.asarray(out)


@cython.final
cdef class SimHash(HashFamily):
    """Signs of random projections (Charikar 2002)."""
    cdef float[:, ::1] projections      # (L K, ld)
    cdef bint rademacher

    def __cinit__(self, Py_ssize_t dim, int n_functions, int n_tables, bint rademacher,
                  uint64_t seed):
        self.dim, self.ld = dim, padded(dim)
        self.n_functions, self.n_tables, self.code_bits = n_functions, n_tables, n_functions
        self.n_values = 2
        self.products = n_functions * dim
        projections = np.zeros((n_tables * n_functions, self.ld), dtype=np.float32)
        self.arrays = {"projections": projections}
        self.projections, self.rademacher = projections, rademacher
        self.redraw(seed, 0, n_tables)

    cdef void redraw(self, uint64_t seed, int first, int last) noexcept nogil:
        cdef uint64_t state
        cdef Py_ssize_t t, i, j
        for t in range(first, last):
            state = stream(seed, 1, t)
            for i in range(t * self.n_functions, (t + 1) * self.n_functions):
                if not self.rademacher:
                    normals(&self.projections[i, 0], self.dim, &state)
                    continue
                for j in range(self.dim):
                    self.projections[i, j] = 1 if next64(&state) >> 63 else -1

    cdef Py_ssize_t scratch_floats(self) noexcept nogil:
        return self.n_functions * self.n_tables

    cdef void codes(self, const float *x, int first, int last, uint64_t *out,
                    float *scratch) noexcept nogil:
        cdef int t, k, n = (last - first) * self.n_functions
        cdef uint64_t code
        if is_zero(x, self.dim):
            nowhere(out, last - first)
            return
        simd.rows_dot(scratch, &self.projections[first * self.n_functions, 0], self.ld, NULL, n, x)
        for t in range(last - first):
            code = 0
            for k in range(self.n_functions):
                code = (code << 1) | (scratch[t * self.n_functions + k] > 0)
            out[t] = code


@cython.final
cdef class SparseSimHash(HashFamily):
    """Signs of projections on a few coordinates with random signs (Achlioptas 2001).

    A function adds the coordinates of the first part of its list and subtracts the others. The
    lists of all functions have the same length.
    """
    cdef int32_t[:, ::1] coordinates    # (L K, n_nonzero)
    cdef int32_t[::1] n_added           # (L K)
    cdef Buffer permutation
    cdef Py_ssize_t n_nonzero

    def __cinit__(self, Py_ssize_t dim, int n_functions, int n_tables, Py_ssize_t n_nonzero,
                  uint64_t seed):
        if not 0 < n_nonzero <= dim:
            raise ValueError(f"{n_nonzero} of {dim} coordinates")
        self.dim, self.ld, self.n_nonzero = dim, padded(dim), n_nonzero
        self.n_functions, self.n_tables, self.code_bits = n_functions, n_tables, n_functions
        self.n_values = 2
        self.products = n_functions * n_nonzero
        self.permutation = Buffer(dim * sizeof(int32_t))
        coordinates = np.zeros((n_tables * n_functions, n_nonzero), dtype=np.int32)
        n_added = np.zeros(n_tables * n_functions, dtype=np.int32)
        self.arrays = {"coordinates": coordinates, "n_added": n_added}
        self.coordinates, self.n_added = coordinates, n_added
        self.redraw(seed, 0, n_tables)

    def check_arrays(self, arrays):
        in_range(arrays, "coordinates", self.dim)
        in_range(arrays, "n_added", self.n_nonzero + 1)

    cdef void redraw(self, uint64_t seed, int first, int last) noexcept nogil:
        cdef int32_t *p = <int32_t *> self.permutation.p
        cdef uint64_t state
        cdef Py_ssize_t t, i, j, added, n = self.n_nonzero
        for t in range(first, last):
            state = stream(seed, 8, t)
            for j in range(self.dim):
                p[j] = <int32_t> j
            for i in range(t * self.n_functions, (t + 1) * self.n_functions):
                shuffle(p, self.dim, 0, n, &state)
                added = 0
                for j in range(n):
                    # Each coordinate of the random order goes to either end of the list.
                    if next64(&state) >> 63:
                        self.coordinates[i, added] = p[j]
                        added += 1
                    else:
                        self.coordinates[i, n - 1 - (j - added)] = p[j]
                self.n_added[i] = <int32_t> added

    cdef void codes(self, const float *x, int first, int last, uint64_t *out,
                    float *scratch) noexcept nogil:
        cdef Py_ssize_t t, i, added
        cdef const int32_t *c
        cdef uint64_t code
        if is_zero(x, self.dim):
            nowhere(out, last - first)
            return
        for t in range(first, last):
            code = 0
            for i in range(t * self.n_functions, (t + 1) * self.n_functions):
                c = &self.coordinates[i, 0]
                added = self.n_added[i]
                code = (code << 1) | (simd.columns_sum(x, c, added)
                                      > simd.columns_sum(x, c + added, self.n_nonzero - added))
            out[t - first] = code


@cython.final
cdef class E2LSH(HashFamily):
    """Cells of random projections (Datar et al. 2004): floor((a . x + b) / width), mixed."""
    cdef float[:, ::1] projections      # (L K, ld)
    cdef float[::1] offsets             # (L K)
    cdef double width

    def __cinit__(self, Py_ssize_t dim, int n_functions, int n_tables, double width,
                  uint64_t seed):
        self.dim, self.ld, self.width = dim, padded(dim), width
        self.n_functions, self.n_tables, self.code_bits = n_functions, n_tables, 63
        self.products = n_functions * dim
        projections = np.zeros((n_tables * n_functions, self.ld), dtype=np.float32)
        offsets = np.zeros(n_tables * n_functions, dtype=np.float32)
        self.arrays = {"projections": projections, "offsets": offsets}
        self.projections, self.offsets = projections, offsets
        self.redraw(seed, 0, n_tables)

    cdef void redraw(self, uint64_t seed, int first, int last) noexcept nogil:
        cdef uint64_t state
        cdef Py_ssize_t t, i
        for t in range(first, last):
            state = stream(seed, 9, t)
            for i in range(t * self.n_functions, (t + 1) * self.n_functions):
                normals(&self.projections[i, 0], self.dim, &state)
                self.offsets[i] = <float> (uniform(&state) * self.width)

    cdef Py_ssize_t scratch_floats(self) noexcept nogil:
        return self.n_functions * self.n_tables

    cdef void codes(self, const float *x, int first, int last, uint64_t *out,
                    float *scratch) noexcept nogil:
        cdef Py_ssize_t t, k, i, from_ = first * self.n_functions
        cdef uint64_t code
        cdef double cell
        simd.rows_dot(scratch, &self.projections[from_, 0], self.ld, NULL,
                      (last - first) * self.n_functions, x)
        for t in range(last - first):
            code = 0
            for k in range(self.n_functions):
                i = t * self.n_functions + k
                cell = floor((<double> scratch[i] + self.offsets[from_ + i]) / self.width)
                code = append(code, <uint64_t> <int64_t> convertible(cell))
            out[t] = code >> 1


cdef in_range(arrays, name, Py_ssize_t n):
    a = arrays[name]
    if a.size and not 0 <= a.min() <= a.max() < n:
        kind = "coordinate" if name == "coordinates" else f"number of {name!r}"
        raise ValueError(f"hash functions: a {kind} is out of range")


cdef void shuffle(int32_t *p, Py_ssize_t n, Py_ssize_t first, Py_ssize_t last,
                  uint64_t *state) noexcept nogil:
    """Puts random ones of p[first:n] to p[first:last]."""
    cdef Py_ssize_t j, k
    cdef int32_t swap
    for j in range(first, last):
        k = j + below(state, <unsigned int> (n - j))
        swap = p[j]
        p[j] = p[k]
        p[k] = swap
