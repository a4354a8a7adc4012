"""Losses of one sample over its computed outputs, with their gradients."""
cimport cython
from libc.math cimport exp, fabs, log, log1p
from libc.string cimport memcpy

from slide._kernels.activations cimport activated, derivative
from slide._kernels.simd cimport MASKED, simd


cdef inline Py_ssize_t segment(Weights weights, Py_ssize_t n, Py_ssize_t k, float *weight,
                               const float **each) noexcept nogil:
    """The weight of output k, and where the outputs of that weight end.

    Outputs with probabilities of their own: where that of k is, else NULL.
    """
    each[0] = NULL
    if k < weights.n_first:
        weight[0] = 1 / weights.first
        if weights.each_first != NULL:
            each[0] = weights.each_first + k
            weight[0] = 1 / each[0][0]
        return weights.n_first
    if k < n - weights.n_last:
        weight[0] = 1
        return n - weights.n_last
    weight[0] = 1 / weights.last
    if weights.each_last != NULL:
        each[0] = weights.each_last + (k - (n - weights.n_last))
        weight[0] = 1 / each[0][0]
    return n


cdef class Loss:
    cdef double gradient(self, float *z, Py_ssize_t n, Weights weights, const int32_t *where,
                         Py_ssize_t first, const float *y,
                         Py_ssize_t n_y, Py_ssize_t n_outputs, float scale) noexcept nogil:
        """Replaces the logits z by scale * dloss/dz and returns the (unscaled) loss.

        z : n logits; MASKED entries take no part
        weights : with which probabilities they were chosen
        where : places of the targets in z; NULL: first, first + 1, ...
        y, n_y : target values; all other targets are 0
        n_outputs : outputs of the layer, for losses that are means over them
        """
        return 0


@cython.final
cdef class CategoricalCrossentropy(Loss):
    def __cinit__(self):
        self.needs_labels = self.is_softmax = True

    cdef double gradient(self, float *z, Py_ssize_t n, Weights weights, const int32_t *where,
                         Py_ssize_t first, const float *y,
                         Py_ssize_t n_y, Py_ssize_t n_outputs, float scale) noexcept nogil:
        cdef Py_ssize_t j
        cdef float total = 0, z_max, z_sum
        cdef double loss = 0
        for j in range(n_y):
            total += y[j]
        if total <= 0:                              # no label: nothing to learn from
            for j in range(n):
                z[j] = 0
            return 0
        # exp(z - log pi) = exp(z) / pi: a drawn output stands for 1 / pi of them
        if weights.each_first != NULL:
            simd.axpy(z, weights.log_first, weights.n_first, 1)
        elif weights.n_first:
            simd.shift(z, weights.n_first, -<float> log(weights.first))
        if weights.each_last != NULL:
            simd.minus_log(z + n - weights.n_last, weights.each_last, weights.n_last)
        elif weights.n_last:
            simd.shift(z + n - weights.n_last, weights.n_last, -<float> log(weights.last))
        for j in range(n_y):
            loss -= y[j] / total * <double> z[where[j] if where != NULL else first + j]
        z_max = simd.exp_shift(z, n, &z_sum)
        loss += z_max + log(z_sum)
        simd.scale(z, n, scale / z_sum)
        for j in range(n_y):
            z[where[j] if where != NULL else first + j] -= scale * y[j] / total
        return loss


@cython.final
cdef class BinaryCrossentropy(Loss):
    cdef bint mean

    def __cinit__(self, bint mean):
        self.mean = mean

    cdef double gradient(self, float *z, Py_ssize_t n, Weights weights, const int32_t *where,
                         Py_ssize_t first, const float *y,
                         Py_ssize_t n_y, Py_ssize_t n_outputs, float scale) noexcept nogil:
        cdef float[256] p
        cdef Py_ssize_t j, i, k, m
        cdef double loss = 0, product, rest
        cdef float over = <float> (1.0 / n_outputs if self.mean else 1.0), weight
        cdef const float *each
        k = 0
        while k < n:
            # Up to 256 outputs of one weight at a time: log(1 + exp(z)) = -log(1 - p), and a
            # double holds the product of so many factors >= 1/2.
            m = min(<Py_ssize_t> 256, segment(weights, n, k, &weight, &each) - k)
            memcpy(p, z + k, m * sizeof(float))
            simd.sigmoid(p, m)
            product, rest = 1, 0
            if each != NULL:
                weight = 1
                for j in range(m):
                    p[j] /= each[j]
                    rest += (max(<double> z[k + j], 0.0)
                             + log1p(exp(-fabs(<double> z[k + j])))) / each[j]
            else:
                for j in range(m):
                    if z[k + j] <= 0:
                        product *= 1 - <double> p[j]
                    else:
                        rest += z[k + j] + log1p(exp(-<double> z[k + j]))
            loss += weight * (rest - log(product))
            for j in range(n_y):
                i = (where[j] if where != NULL else first + j) - k
                if 0 <= i < m:
                    loss -= y[j] * <double> z[k + i]
                    p[i] -= y[j]
            simd.scale(p, m, scale * over * weight)
            memcpy(z + k, p, m * sizeof(float))
            k += m
        return loss * over


@cython.final
cdef class MeanSquaredError(Loss):
    cdef int activation

    def __cinit__(self, int activation):
        self.activation = activation

    cdef double gradient(self, float *z, Py_ssize_t n, Weights weights, const int32_t *where,
                         Py_ssize_t first, const float *y,
                         Py_ssize_t n_y, Py_ssize_t n_outputs, float scale) noexcept nogil:
        cdef Py_ssize_t j, k = 0, at = -1
        cdef double loss = 0
        cdef float error, weight, slope
        cdef const float *each
        if n_y:
            at = where[0] if where != NULL else first
        for j in range(n):
            if z[j] <= MASKED:
                z[j] = 0
                continue
            error = activated(self.activation, z[j])
            slope = derivative(self.activation, error)
            if j == at:                     # targets come in ascending places
                error -= y[k]
                k += 1
                at = -1 if k == n_y else where[k] if where != NULL else first + k
            segment(weights, n, j, &weight, &each)
            loss += weight * <double> error * error
            z[j] = 2 * scale * weight / n_outputs * error * slope
        return loss / n_outputs
