from libc.math cimport exp, tanh

from slide._kernels.simd cimport simd

cdef enum Activation:
    LINEAR, RELU, SIGMOID, TANH, SOFTMAX


cdef inline float activated(int kind, float z) noexcept nogil:
    if kind == RELU:
        return z if z > 0 else 0
    if kind == SIGMOID:
        return <float> (1 / (1 + exp(-<double> z)))
    if kind == TANH:
        return <float> tanh(z)
    return z


cdef inline float derivative(int kind, float a) noexcept nogil:
    """Of the activation, from its value a."""
    if kind == RELU:
        return 1 if a > 0 else 0
    if kind == SIGMOID:
        return a * (1 - a)
    if kind == TANH:
        return 1 - a * a
    return 1


cdef inline void activate(int kind, float *z, Py_ssize_t n) noexcept nogil:
    """In place. Softmax is over the n values."""
    cdef Py_ssize_t j
    cdef float z_sum
    if kind == RELU:
        for j in range(n):
            z[j] = z[j] if z[j] > 0 else 0
    elif kind == SIGMOID:
        simd.sigmoid(z, n)
    elif kind == TANH:
        simd.tanh(z, n)
    elif kind == SOFTMAX:
        simd.exp_shift(z, n, &z_sum)
        simd.scale(z, n, 1 / z_sum)


cdef inline void through(int kind, float *grad, const float *a, Py_ssize_t n) noexcept nogil:
    """grad *= derivative, elementwise."""
    cdef Py_ssize_t j
    if kind == RELU:
        for j in range(n):
            grad[j] = grad[j] if a[j] > 0 else 0
    elif kind == SIGMOID:
        for j in range(n):
            grad[j] *= a[j] * (1 - a[j])
    elif kind == TANH:
        for j in range(n):
            grad[j] *= 1 - a[j] * a[j]
