from libc.stdint cimport int32_t, uint8_t, uint64_t

from slide._kernels.optim cimport Parameters
from slide._kernels.projections cimport ProjectionRetriever
from slide._kernels.sampling cimport ActiveSet
from slide._kernels.types cimport Buffer, PerThread


cdef struct Given:
    # A layer's input: n non-zeros ids and val, or the dense and padded x where ids is NULL.
    Py_ssize_t n
    const int32_t *ids
    const float *val
    const float *x


cdef class Selector:
    """Which neurons of a hidden layer a sample computes, or keeps of all."""
    cdef readonly Py_ssize_t n_neurons
    cdef readonly Py_ssize_t most           # candidates of a sample
    cdef readonly bint ranks_all            # chooses among the sums of all neurons
    cdef readonly bint sparse_predict       # prediction has active sets as well
    cdef readonly bint needs_batch          # looks at a batch's sums before it chooses
    cdef readonly bint keeps_step           # wants to know how weights changed: `shift`
    cdef readonly bint learns               # wants to see inputs one by one: `learn`
    cdef readonly bint observes             # wants to see them as dense rows: `observe`
    cdef float factor                       # of the activations of an active set
    cdef uint8_t *dirty                     # set where a neuron's weights changed, or NULL
    cdef PerThread scratch
    cdef void begin(self, Parameters p, uint64_t seed, uint64_t step,
                    int n_threads) noexcept nogil
    cdef void prepare(self, Parameters p, uint64_t seed, uint64_t step,
                      int n_threads) noexcept nogil
    cdef Py_ssize_t candidates(self, Given *given, int32_t *out, uint64_t rng,
                               int thread) noexcept nogil
    cdef void look(self, const float *z, Py_ssize_t ldz, Py_ssize_t n,
                   int n_threads) noexcept nogil
    cdef Py_ssize_t choose(self, const float *z, const int32_t *ids, Py_ssize_t n,
                           int32_t *out_ids, float *out, uint64_t rng, int thread) noexcept nogil
    cdef void expect(self, int activation, float *z, Py_ssize_t n) noexcept nogil
    cdef void learn(self, Given *given) noexcept nogil
    cdef void observe(self, const float *x, Py_ssize_t ld, Py_ssize_t n) noexcept nogil
    cdef void end(self, uint64_t seed, uint64_t step) noexcept nogil
    cdef void shift(self, Parameters p, Py_ssize_t row, const int32_t *columns,
                    const float *change, Py_ssize_t n, int thread) noexcept nogil
    cdef void lose(self, Py_ssize_t row) noexcept nogil


cdef class LSHSelector(Selector):
    cdef readonly ActiveSet active
    cdef ProjectionRetriever projections    # the retriever, if it is one
    cdef Py_ssize_t n_active, ld
    cdef PerThread dense, queries
