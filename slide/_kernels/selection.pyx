"""Active sets of hidden layers: the five methods of Spring & Shrivastava (KDD 2017)."""
cimport cython
from cython.parallel cimport prange
from libc.math cimport exp
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memset

from slide._kernels.activations cimport activate, activated
from slide._kernels.openmp cimport omp_get_thread_num
from slide._kernels.projections cimport LOST
from slide._kernels.ranking cimport kth_largest, largest
from slide._kernels.random cimport below, stream, uniform
from slide._kernels.simd cimport simd
from slide._kernels.types cimport padded

import numpy as np


cdef class Selector:
    def __cinit__(self, *args, **kwargs):
        self.factor = 1
        self.dirty = NULL

    def reserve(self, Py_ssize_t batch_size, int n_threads):
        """Room for looking at batches of that size."""

    cdef void begin(self, Parameters p, uint64_t seed, uint64_t step,
                    int n_threads) noexcept nogil:
        """Before a training batch."""
        pass

    cdef void prepare(self, Parameters p, uint64_t seed, uint64_t step,
                      int n_threads) noexcept nogil:
        """Before a prediction: as `begin` of that step would do."""
        pass

    cdef Py_ssize_t candidates(self, Given *given, int32_t *out, uint64_t rng,
                               int thread) noexcept nogil:
        """Neurons to compute for an input, at most `most`; not called where it ranks all."""
        return 0

    cdef void look(self, const float *z, Py_ssize_t ldz, Py_ssize_t n,
                   int n_threads) noexcept nogil:
        """At the sums of all neurons for the n samples of a training batch."""
        pass

    cdef Py_ssize_t choose(self, const float *z, const int32_t *ids, Py_ssize_t n,
                           int32_t *out_ids, float *out, uint64_t rng,
                           int thread) noexcept nogil:
        """Keeps some of a sample's n computed neurons (ids NULL: all in their order) with their
        sums z; the results may take the place of the arguments."""
        cdef Py_ssize_t j
        for j in range(n):
            out_ids[j] = ids[j] if ids != NULL else <int32_t> j
            out[j] = z[j]
        return n

    cdef void expect(self, int activation, float *z, Py_ssize_t n) noexcept nogil:
        """From all sums to the activations of a prediction without active sets."""
        activate(activation, z, n)

    cdef void learn(self, Given *given) noexcept nogil:
        """From the input of one of a training batch's samples, after its step."""
        pass

    cdef void observe(self, const float *x, Py_ssize_t ld, Py_ssize_t n) noexcept nogil:
        """The inputs of n of a training batch's samples, after its step."""
        pass

    cdef void end(self, uint64_t seed, uint64_t step) noexcept nogil:
        """Of a training batch whose samples were learnt from."""
        pass

    cdef void shift(self, Parameters p, Py_ssize_t row, const int32_t *columns,
                    const float *change, Py_ssize_t n, int thread) noexcept nogil:
        """n weights of a row have changed by so much."""
        pass

    cdef void lose(self, Py_ssize_t row) noexcept nogil:
        """Weights of a row have changed without a word about how much."""
        pass

    def get_state(self):
        return {}

    def set_state(self, state):
        """Takes what get_state gave."""

    def weights_replaced(self):
        """The weights are not those that the selector saw last."""

    def weights_moved(self):
        """Any weight may have changed a little."""

    def hashed(self):
        """Multiplications of training so far to hash neurons and queries."""
        return 0

    def count_debt(self):
        """From now on `hashed` counts what predictions did of training's work."""

    @property
    def nbytes(self):
        """Bytes of hash tables."""
        return 0


@cython.final
cdef class UniformSelector(Selector):
    """n_active neurons drawn without replacement; kept activations are divided by their share."""
    cdef PerThread stamps, epochs

    def __cinit__(self, Py_ssize_t n_neurons, Py_ssize_t n_active, int n_threads):
        self.n_neurons, self.most = n_neurons, n_active
        self.factor = <float> (n_neurons / <double> n_active)
        self.stamps = PerThread(n_threads, n_neurons * sizeof(uint32_t))
        self.epochs = PerThread(n_threads, sizeof(uint32_t))

    cdef Py_ssize_t candidates(self, Given *given, int32_t *out, uint64_t rng,
                               int thread) noexcept nogil:
        cdef uint32_t *stamp = <uint32_t *> self.stamps.p[thread]
        cdef uint32_t *epoch = <uint32_t *> self.epochs.p[thread]
        cdef Py_ssize_t n = 0, left = self.most, rest = self.n_neurons
        cdef int32_t id
        if 2 * self.most > self.n_neurons:
            # Selection sampling (Knuth, TAOCP 2, 3.4.2).
            for id in range(<int32_t> self.n_neurons):
                if <Py_ssize_t> below(&rng, <uint32_t> rest) < left:
                    out[n] = id
                    n += 1
                    left -= 1
                rest -= 1
            return n
        epoch[0] += 1
        if epoch[0] == 0:
            memset(stamp, 0, self.n_neurons * sizeof(uint32_t))
            epoch[0] = 1
        while n < self.most:
            id = <int32_t> below(&rng, <uint32_t> self.n_neurons)
            if stamp[id] != epoch[0]:
                stamp[id] = epoch[0]
                out[n] = id
                n += 1
        return n


@cython.final
cdef class WinnerSelector(Selector):
    """The n_active neurons with the largest sums."""
    cdef Py_ssize_t n_active

    def __cinit__(self, Py_ssize_t n_neurons, Py_ssize_t n_active, float factor, int n_threads):
        self.n_neurons, self.most, self.n_active = n_neurons, n_active, n_active
        self.ranks_all = self.sparse_predict = True
        self.factor = factor
        self.scratch = PerThread(n_threads, 2 * n_neurons * sizeof(float))

    cdef Py_ssize_t choose(self, const float *z, const int32_t *ids, Py_ssize_t n,
                           int32_t *out_ids, float *out, uint64_t rng,
                           int thread) noexcept nogil:
        return largest(z, ids, n, self.n_active, out_ids, out,
                       <float *> self.scratch.p[thread])


@cython.final
cdef class LifetimeSelector(Selector):
    """Each neuron is kept for the samples of a batch for which its sum is largest."""
    cdef double fraction
    cdef Buffer threshold_buffer, column_buffer
    cdef float *threshold

    def __cinit__(self, Py_ssize_t n_neurons, double fraction, int n_threads):
        self.n_neurons = self.most = n_neurons
        self.fraction = fraction
        self.ranks_all = self.needs_batch = True
        self.threshold_buffer = Buffer(n_neurons * sizeof(float))
        self.threshold = <float *> self.threshold_buffer.p
        self.scratch = PerThread(n_threads, 0)

    def reserve(self, Py_ssize_t batch_size, int n_threads):
        self.scratch = PerThread(n_threads, batch_size * sizeof(float))

    cdef void look(self, const float *z, Py_ssize_t ldz, Py_ssize_t n,
                   int n_threads) noexcept nogil:
        cdef Py_ssize_t j
        for j in prange(self.n_neurons, schedule="static", num_threads=n_threads):
            self._threshold(z + j, ldz, n, j, omp_get_thread_num())

    cdef void _threshold(self, const float *z, Py_ssize_t ldz, Py_ssize_t n, Py_ssize_t j,
                         int thread) noexcept nogil:
        cdef float *column = <float *> self.scratch.p[thread]
        cdef Py_ssize_t s, k = max(<Py_ssize_t> 1, <Py_ssize_t> (self.fraction * n + 0.5))
        for s in range(n):
            column[s] = z[s * ldz]
        self.threshold[j] = kth_largest(column, n, k)

    cdef Py_ssize_t choose(self, const float *z, const int32_t *ids, Py_ssize_t n,
                           int32_t *out_ids, float *out, uint64_t rng,
                           int thread) noexcept nogil:
        cdef Py_ssize_t j, m = 0
        for j in range(n):
            if z[j] >= self.threshold[j]:
                out_ids[m] = <int32_t> j
                out[m] = z[j]
                m += 1
        return m


@cython.final
cdef class StandoutSelector(Selector):
    """Each neuron with probability sigmoid(alpha z + beta) of its sum z."""
    cdef double alpha, fraction, batch_beta     # the last batch's solution
    cdef readonly double beta
    cdef bint solves, started
    cdef Buffer sums_buffer
    cdef double *sums

    def __cinit__(self, Py_ssize_t n_neurons, double fraction, double alpha, beta, int n_threads):
        self.n_neurons = self.most = n_neurons
        self.fraction, self.alpha = fraction, alpha
        self.solves, self.beta = beta is None, 0 if beta is None else beta
        self.started = not self.solves
        self.batch_beta = self.beta
        self.ranks_all, self.needs_batch = True, self.solves
        self.reserve(1, n_threads)

    def reserve(self, Py_ssize_t batch_size, int n_threads):
        self.scratch = PerThread(n_threads, self.n_neurons * sizeof(float))
        self.sums_buffer = Buffer(2 * batch_size * sizeof(double))
        self.sums = <double *> self.sums_buffer.p

    cdef void _share(self, const float *z, double beta, Py_ssize_t s, int thread) noexcept nogil:
        """Sums of a sample's probabilities and of their derivatives by beta."""
        cdef float *p = <float *> self.scratch.p[thread]
        cdef Py_ssize_t j
        cdef double total = 0, slope = 0
        for j in range(self.n_neurons):
            p[j] = <float> (self.alpha * z[j] + beta)
        simd.sigmoid(p, self.n_neurons)
        for j in range(self.n_neurons):
            total += p[j]
            slope += p[j] * (1 - p[j])
        self.sums[2 * s], self.sums[2 * s + 1] = total, slope

    cdef void look(self, const float *z, Py_ssize_t ldz, Py_ssize_t n,
                   int n_threads) noexcept nogil:
        """The beta of the wanted share: a safeguarded Newton iteration."""
        cdef double low = -1e4, high = 1e4, beta = self.batch_beta, share, slope
        cdef Py_ssize_t s
        cdef int _
        if not self.solves:
            return
        for _ in range(60):
            for s in prange(n, schedule="static", num_threads=n_threads):
                self._share(z + s * ldz, beta, s, omp_get_thread_num())
            share = slope = 0
            for s in range(n):
                share += self.sums[2 * s] / n / self.n_neurons
                slope += self.sums[2 * s + 1] / n / self.n_neurons
            if share > self.fraction:
                high = beta
            else:
                low = beta
            if -1e-5 < share - self.fraction < 1e-5:
                break
            beta -= (share - self.fraction) / max(slope, 1e-12)
            if not low < beta < high:
                beta = (low + high) / 2
        self.batch_beta = beta

    cdef void end(self, uint64_t seed, uint64_t step) noexcept nogil:
        if self.solves:
            self.beta = 0.9 * self.beta + 0.1 * self.batch_beta if self.started \
                else self.batch_beta
            self.started = True

    cdef Py_ssize_t choose(self, const float *z, const int32_t *ids, Py_ssize_t n,
                           int32_t *out_ids, float *out, uint64_t rng,
                           int thread) noexcept nogil:
        cdef Py_ssize_t j, m = 0
        for j in range(n):
            if uniform(&rng) * (1 + exp(-(self.alpha * z[j] + self.batch_beta))) <= 1:
                out_ids[m] = <int32_t> j
                out[m] = z[j]
                m += 1
        return m

    cdef void expect(self, int activation, float *z, Py_ssize_t n) noexcept nogil:
        cdef Py_ssize_t j
        for j in range(n):
            z[j] = <float> (activated(activation, z[j])
                            / (1 + exp(-(self.alpha * z[j] + self.beta))))

    def get_state(self):
        return {"beta": np.array([self.beta, self.batch_beta, self.started])}

    def set_state(self, state):
        beta = state["beta"]
        if beta.shape != (3,) or beta.dtype != np.float64 or not np.isfinite(beta).all():
            raise ValueError(f"beta of Standout: {beta} cannot be")
        self.beta, self.batch_beta, self.started = beta[0], beta[1], bool(beta[2])


@cython.final
cdef class LSHSelector(Selector):
    """The n_active largest of what the hash tables return.

    active : ActiveSet
        Retrieves as many neurons as are to be ranked, and looks after the tables.
    """

    def __cinit__(self, ActiveSet active, Py_ssize_t n_active, Py_ssize_t dim, float factor,
                  int n_threads):
        self.active, self.n_active, self.factor = active, n_active, factor
        self.n_neurons = active.n_neurons
        self.most = max(active.max_active, active.min_active)
        self.sparse_predict = True
        self.dirty = active.dirty
        self.ld = padded(dim)
        self.projections = None
        if isinstance(active.retriever, ProjectionRetriever):
            self.projections = active.retriever
            self.queries = PerThread(n_threads, self.projections.width * sizeof(float))
            self.keeps_step = True
            self.learns = self.projections.principal
        self.observes = active.retriever.observes
        self.dense = PerThread(n_threads, self.ld * sizeof(float))
        self.scratch = PerThread(n_threads, 2 * self.most * sizeof(float))

    cdef void begin(self, Parameters p, uint64_t seed, uint64_t step,
                    int n_threads) noexcept nogil:
        self.active.maintain(p, seed, step, n_threads)

    cdef void prepare(self, Parameters p, uint64_t seed, uint64_t step,
                      int n_threads) noexcept nogil:
        self.active.prepare(p, seed, step, n_threads)

    cdef Py_ssize_t candidates(self, Given *given, int32_t *out, uint64_t rng,
                               int thread) noexcept nogil:
        cdef float *x = <float *> self.dense.p[thread]      # zeros between calls
        cdef float *q
        cdef int32_t drawn = 0
        cdef Py_ssize_t j, n
        if given.ids == NULL:
            return self.active.select(given.x, NULL, 0, out, rng, &drawn, thread)
        if self.projections is not None:
            q = <float *> self.queries.p[thread]
            self.projections.project_some(given.ids, given.val, given.n, q, thread)
            return self.active.select_projected(q, simd.sumsq(given.val, given.n), out, rng,
                                                thread)
        for j in range(given.n):
            x[given.ids[j]] = given.val[j]
        n = self.active.select(x, NULL, 0, out, rng, &drawn, thread)
        for j in range(given.n):
            x[given.ids[j]] = 0
        return n

    cdef Py_ssize_t choose(self, const float *z, const int32_t *ids, Py_ssize_t n,
                           int32_t *out_ids, float *out, uint64_t rng,
                           int thread) noexcept nogil:
        return largest(z, ids, n, self.n_active, out_ids, out,
                       <float *> self.scratch.p[thread])

    cdef void shift(self, Parameters p, Py_ssize_t row, const int32_t *columns,
                    const float *change, Py_ssize_t n, int thread) noexcept nogil:
        self.projections.shift(p, row, columns, change, n, thread)

    cdef void lose(self, Py_ssize_t row) noexcept nogil:
        self.projections.current[row] = LOST

    cdef void learn(self, Given *given) noexcept nogil:
        self.projections.learn(given.ids, given.val if given.ids != NULL else given.x, given.n)

    cdef void observe(self, const float *x, Py_ssize_t ld, Py_ssize_t n) noexcept nogil:
        self.active.retriever.observe(x, ld, n)

    cdef void end(self, uint64_t seed, uint64_t step) noexcept nogil:
        if self.learns and self.projections.turn(stream(~seed, 7, step)):
            self.active.rebuilds.built = False      # the tables are those of other functions

    def get_state(self):
        return self.active.get_state()

    def set_state(self, state):
        self.active.set_state(state)

    def weights_replaced(self):
        self.active.weights_replaced()

    def weights_moved(self):
        self.active.weights_moved()

    def hashed(self):
        return self.active.hashed()

    def count_debt(self):
        self.active.count_debt()

    @property
    def nbytes(self):
        return self.active.nbytes
