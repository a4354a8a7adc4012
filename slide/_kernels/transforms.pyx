"""Inner-product transforms in front of any family: neurons and queries are mapped differently."""
cimport cython
from libc.math cimport sqrt
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

from slide._kernels.hashing cimport NO_BUCKET, HashFamily, append
from slide._kernels.optim cimport Parameters
from slide._kernels.ranking cimport kth_largest
from slide._kernels.simd cimport simd
from slide._kernels.types cimport Buffer, padded

import numpy as np

cdef enum Transform:
    NONE, SIGN_ALSH, L2_ALSH, SIMPLE_LSH


@cython.final
cdef class Transformed(HashFamily):
    """
    A neuron's weights w less the centre c have the range r whose limit is the smallest one that is
    at least |w - c|. Scaled by bound / limit and with the transform's terms appended they are
    hashed by the inner family, and r is a part of the code. A query is hashed once for all ranges.

    Parameters
    ----------
    inner : HashFamily
        Of vectors of dim + n_terms values.
    transform : int
        0 (nothing is scaled or appended), 1 Sign-ALSH, 2 L2-ALSH, 3 Simple-LSH.
    n_terms, bound : int, float
        m and U of the transform.
    centred : bool
        The centre is the mean of the weights; otherwise 0.
    n_neurons : int
        Of the layer whose weights `fit` looks at.
    """
    cdef HashFamily inner
    cdef readonly int transform, n_terms
    cdef int range_bits
    cdef bint centred
    cdef double bound
    cdef float[::1] centre          # (ld,)
    cdef double[::1] limits         # (n_ranges,), ascending
    cdef Buffer mean_buffer, sum_buffer, norm_buffer

    def __cinit__(self, HashFamily inner, int transform, int n_terms, double bound, int n_ranges,
                  bint centred, Py_ssize_t n_neurons):
        if not 1 <= n_ranges <= n_neurons:
            raise ValueError(f"{n_ranges} ranges of {n_neurons} neurons")
        self.inner, self.transform, self.n_terms, self.bound = inner, transform, n_terms, bound
        self.centred, self.fitted = centred, True
        self.dim, self.ld = inner.dim - n_terms, padded(inner.dim - n_terms)
        self.n_functions, self.n_tables = inner.n_functions, inner.n_tables
        self.n_ranges, self.range_bits = n_ranges, (n_ranges - 1).bit_length()
        # Where they do not fit side by side, code and range are mixed.
        self.code_bits = min(63, inner.code_bits + self.range_bits)
        self.products = inner.products
        centre, limits = np.zeros(self.ld, np.float32), np.ones(n_ranges)
        self.arrays = {**inner.arrays, "centre": centre, "limits": limits}
        self.centre, self.limits = centre, limits
        self.mean_buffer = Buffer(self.ld * sizeof(float))
        self.sum_buffer = Buffer(self.ld * sizeof(double))
        self.norm_buffer = Buffer(n_neurons * sizeof(float))

    def check_arrays(self, arrays):
        self.inner.check_arrays({name: arrays[name] for name in self.inner.arrays})
        limits = arrays["limits"]
        if not (limits > 0).all() or (np.diff(limits) < 0).any():
            raise ValueError("hash functions: limits of norms do not ascend")

    cdef void redraw(self, uint64_t seed, int first, int last) noexcept nogil:
        self.inner.redraw(seed, first, last)

    cdef bint fit(self, Parameters p, bint anyhow) noexcept nogil:
        """The centre moves when the mean has left it by a tenth of the weights' spread, limits when
        a norm is above all of them or all are below half of the highest."""
        cdef float *norms = <float *> self.norm_buffer.p
        cdef float *mean = <float *> self.mean_buffer.p
        cdef double *sums = <double *> self.sum_buffer.p
        cdef Py_ssize_t i, j, n = p.n_rows
        cdef double away = 0, spread = 0, most = 0, a
        cdef int r
        if self.centred:
            memset(sums, 0, self.ld * sizeof(double))
            for i in range(n):
                for j in range(self.dim):
                    sums[j] += p.w[i * p.ld + j]
            for j in range(self.dim):
                mean[j] = <float> (sums[j] / n)
                a = mean[j] - self.centre[j]
                away += a * a
            for i in range(n):
                for j in range(self.dim):
                    a = p.w[i * p.ld + j] - mean[j]
                    spread += a * a
            anyhow = anyhow or away > 0.01 * spread / n
        while True:
            if anyhow and self.centred:
                memcpy(&self.centre[0], mean, self.dim * sizeof(float))
            if self.transform == NONE:
                return anyhow
            most = 0
            for i in range(n):
                a = 0
                for j in range(self.dim):
                    a += (<double> p.w[i * p.ld + j] - self.centre[j]) ** 2
                norms[i] = <float> sqrt(a)
                most = max(most, <double> norms[i])
            if anyhow:
                break
            if self.limits[self.n_ranges - 1] / 2 < most <= self.limits[self.n_ranges - 1]:
                return False
            anyhow = True               # the centre moves as well
        for r in range(self.n_ranges - 1):
            # Ranges have the same number of neurons (Yan et al., NeurIPS 2018, section 3.2).
            self.limits[r] = max(1e-30, <double> kth_largest(
                norms, n, n + 1 - n * (r + 1) // self.n_ranges))
        # Room to grow: a change hashes all neurons anew.
        self.limits[self.n_ranges - 1] = max(1.1 * most, 1e-30)
        return True

    cdef Py_ssize_t scratch_floats(self) noexcept nogil:
        return self.inner.ld + self.inner.scratch_floats()

    cdef uint64_t of_range(self, uint64_t code, int r) noexcept nogil:
        if self.range_bits == 0:
            return code
        if self.inner.code_bits + self.range_bits <= 63:
            return code | <uint64_t> r << self.inner.code_bits
        return append(code, r) >> 1

    cdef void codes(self, const float *x, int first, int last, uint64_t *out,
                    float *scratch) noexcept nogil:
        cdef Py_ssize_t j
        cdef double squared = 0, scale, power, a
        cdef int r = 0, t
        memset(scratch, 0, self.inner.ld * sizeof(float))
        for j in range(self.dim):
            a = <double> x[j] - self.centre[j]
            squared += a * a
            scratch[j] = <float> a
        if self.transform != NONE:
            while r < self.n_ranges - 1 and <float> sqrt(squared) > self.limits[r]:
                r += 1
            # A neuron that outgrew its limit since the last look has its direction hashed.
            scale = self.bound / max(self.limits[r], sqrt(squared))
            simd.scale(scratch, self.inner.ld, <float> scale)
            power = squared * scale * scale
            for j in range(self.n_terms):           # |w|^2, |w|^4, |w|^8, ...
                if self.transform == SIMPLE_LSH:
                    a = sqrt(max(0.0, 1 - power))
                elif self.transform == SIGN_ALSH:
                    a = 0.5 - power
                else:
                    a = power
                scratch[self.dim + j] = <float> a
                power = power * power
        self.inner.codes(scratch, first, last, out, scratch + self.inner.ld)
        for t in range(last - first):
            if out[t] != <uint64_t> NO_BUCKET:
                out[t] = self.of_range(out[t], r)

    cdef void query_codes(self, const float *x, int first, int last, uint64_t *out,
                          float *scratch) noexcept nogil:
        cdef Py_ssize_t j
        cdef double squared = 0
        memset(scratch, 0, self.inner.ld * sizeof(float))
        memcpy(scratch, x, self.dim * sizeof(float))
        if self.transform == L2_ALSH:
            for j in range(self.dim):
                squared += <double> x[j] * x[j]
            simd.scale(scratch, self.inner.ld, <float> (1 / max(1e-30, sqrt(squared))))
            for j in range(self.n_terms):
                scratch[self.dim + j] = 0.5
        self.inner.codes(scratch, first, last, out, scratch + self.inner.ld)

    cdef uint64_t any_code(self, const float *x, int table, uint64_t key,
                           float *scratch) noexcept nogil:
        # Without ranges, which come with a transform, codes are those of the inner family, of the
        # centred vector that begins the scratch.
        if self.transform != NONE:
            return NO_BUCKET
        return self.inner.any_code(scratch, table, key, scratch + self.inner.ld)

    def fit_to(self, Parameters p):
        """Centre and limits of these weights."""
        if p.n_cols != self.dim or p.ld != self.ld or p.n_rows * sizeof(float) \
                != self.norm_buffer.n_bytes:
            raise ValueError(f"{p.n_rows} rows of {p.n_cols} values")
        self.fit(p, True)

    def query_hash(self, const float[:, ::1] x):
        """Codes of padded queries in the lowest range: (n, L) uint64."""
        cdef Py_ssize_t i
        cdef Buffer scratch = Buffer(self.scratch_floats() * sizeof(float))
        cdef uint64_t[:, ::1] out = np.empty((x.shape[0], self.n_tables), dtype=np.uint64)
        if x.shape[0] and x.shape[1] != self.ld:
            raise ValueError(f"x has {x.shape[1]} columns; padded rows have {self.ld}")
        for i in range(x.shape[0]):
            self.query_codes(&x[i, 0], 0, self.n_tables, &out[i, 0], <float *> scratch.p)
            for t in range(self.n_tables):
                if out[i, t] != <uint64_t> NO_BUCKET:
                    out[i, t] = self.of_range(out[i, t], 0)
        return np.asarray(out)
