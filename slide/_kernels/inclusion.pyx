"""Inclusion probabilities of what hash tables return."""
cimport cython
from libc.math cimport M_PI, acos, exp, pow, sqrt
from libc.stdint cimport int32_t, uint64_t

from slide._kernels.random cimport below
from slide._kernels.simd cimport simd

import numpy as np


@cython.final
cdef class Inclusion:
    """
    Parameters
    ----------
    log_pi : float64 array of at least two
        Logs of the probabilities of being retrieved, at equidistant angles from 0 to pi or, with a
        `width`, at equidistant ``width / (width + distance)`` from 0 to 1.
    width : float
        0: the probability is a function of the angle of P(w) and Q(x).
    transform : {None, "sign_alsh", "l2_alsh", "simple_lsh"}
        P and Q, see `slide.hashing.SimHash` and `slide.hashing.E2LSH`.
    n_terms, bound : int, float
        m and U of the transform.
    scale : float64 array of one
        The norm that weights are divided by, and U after that; kept by the retriever.
    """
    def __cinit__(self, log_pi, double width, transform, int n_terms, double bound, scale,
                  Py_ssize_t n_neurons, int n_threads):
        self.log_pi = np.array(log_pi, np.float64)
        if self.log_pi.shape[0] < 2 or not (np.asarray(log_pi) <= 0).all():
            raise ValueError("probabilities that are none")
        self.transform = (None, "sign_alsh", "l2_alsh", "simple_lsh").index(transform)
        self.width, self.bound, self.n_terms = width, bound, n_terms
        self.scale = np.ones(1) if scale is None else scale
        self.n_neurons = n_neurons
        self.found = PerThread(n_threads, n_neurons * sizeof(int32_t))

    cdef double probability(self, double product, double w2, double x2) noexcept nogil:
        """Of a neuron from its product with the input and both squared norms."""
        # A bound for a neuron that outgrew the limit since the last look.
        cdef double s = self.bound / max(self.scale[0], sqrt(w2)), near, norm, left
        cdef Py_ssize_t at, last = self.log_pi.shape[0] - 1
        if self.transform:                  # to the same of P(w) and Q(x), Q(x) of norm 1
            product *= s / sqrt(max(x2, 1e-30))
            w2 *= s * s
            x2 = 1
            if self.transform == 1:
                w2 = 0.25 * self.n_terms + pow(w2, <double> (1 << self.n_terms))
            elif self.transform == 2:       # 1 + m/4 - 2 w.q + |w|^(2^(m+1)) is the distance^2
                w2 = pow(w2, <double> (1 << self.n_terms))
                x2 = 1 + 0.25 * self.n_terms
            else:
                w2 = max(1.0, w2)
        if self.width == 0:
            norm = sqrt(w2 * x2)
            near = acos(max(-1.0, min(1.0, product / norm))) / M_PI if norm > 0 else 0.5
        else:
            near = self.width / (self.width + sqrt(max(0.0, w2 + x2 - 2 * product)))
        near *= last
        at = min(last - 1, <Py_ssize_t> near)
        left = near - at
        return exp((1 - left) * self.log_pi[at] + left * self.log_pi[at + 1])

    cdef Py_ssize_t retrieve(self, Retriever retriever, const float *x, int32_t *out, Py_ssize_t n,
                             Py_ssize_t most, Marks *marks, uint64_t *rng, float *pi,
                             int thread) noexcept nogil:
        """Everything in the query's buckets, and of it as many at random as the set may have.

        A search that stops when it has enough neurons depends on what it finds. Of a complete one
        a known share is kept, and a sum that is weighted by both probabilities is unbiased
        (two-phase sampling, Neyman 1938). At least one is kept, however many labels there are.
        """
        cdef int32_t *found = <int32_t *> self.found.p[thread]
        cdef Py_ssize_t m = retriever.retrieve(x, found, 0, self.n_neurons, marks, rng, thread)
        cdef Py_ssize_t kept = min(m, max(<Py_ssize_t> 1, most - n)), i, j
        for i in range(n):
            pi[i] = 1
        for i in range(kept):
            j = i
            if kept < m:
                j += below(rng, <unsigned int> (m - i))
            out[n + i] = found[j]
            found[j] = found[i]
            pi[n + i] = <float> (kept / <double> m)
        return n + kept

    cdef void weigh(self, Parameters p, const float *x, const int32_t *ids, const float *z,
                    float *pi, Py_ssize_t n) noexcept nogil:
        """Multiplies pi by the probabilities of being retrieved, from the products z with x."""
        cdef Py_ssize_t j
        cdef double x2 = simd.sumsq(x, p.ld)
        for j in range(n):
            pi[j] = <float> (pi[j] * self.probability(
                z[j], simd.sumsq(p.w + ids[j] * p.ld, p.ld), x2))

    def probabilities(self, const double[::1] product, const double[::1] w2, double x2):
        """Of neurons from their products with an input and the squared norms."""
        cdef Py_ssize_t i
        cdef double[::1] out = np.empty(product.shape[0])
        if w2.shape[0] != product.shape[0]:
            raise ValueError(f"{product.shape[0]} products and {w2.shape[0]} norms")
        for i in range(product.shape[0]):
            out[i] = self.probability(product[i], w2[i], x2)
        return np.asarray(out)
