from libc.stdint cimport int32_t, uint64_t

from slide._kernels.optim cimport Parameters
from slide._kernels.retrieval cimport Marks, Retriever
from slide._kernels.types cimport PerThread


cdef class Inclusion:
    """With which probability a neuron is retrieved, over draws of the hash functions."""
    cdef double[::1] log_pi         # at equidistant angles, or width / (width + distance)
    cdef double[::1] scale          # of the retriever's transform
    cdef double width               # 0: by angle
    cdef double bound
    cdef int transform, n_terms
    cdef PerThread found            # everything that the tables return for a sample
    cdef Py_ssize_t n_neurons
    cdef double probability(self, double product, double w2, double x2) noexcept nogil
    cdef Py_ssize_t retrieve(self, Retriever retriever, const float *x, int32_t *out, Py_ssize_t n,
                             Py_ssize_t most, Marks *marks, uint64_t *rng, float *pi,
                             int thread) noexcept nogil
    cdef void weigh(self, Parameters p, const float *x, const int32_t *ids, const float *z,
                    float *pi, Py_ssize_t n) noexcept nogil
