"""Random neurons by how often they were labels."""
cimport cython
from libc.math cimport logf, pow
from libc.stdint cimport int32_t, int64_t, uint64_t

from slide._kernels.hashing cimport shuffle
from slide._kernels.random cimport uniform
from slide._kernels.retrieval cimport fresh

import numpy as np


@cython.final
cdef class WeightedDraw:
    """Systematic sampling (Madow 1949).

    The neurons lie on a line in random order, each as long as its inclusion probability
    ``min(1, c q)`` with c such that all are `n_drawn` long. The neurons at u, u + 1, u + 2, ... are
    drawn, u uniform in (0, 1]: as many as wanted, none twice, each with exactly its probability.
    q is ``(count + 1) ** power`` and a tenth of its mean, so that no neuron is much rarer than in a
    uniform draw, and none weighs more than 11 times as much.

    Parameters
    ----------
    n_neurons, n_drawn : int
    power : float
    shared : bool
        Whether probabilities of a shared draw are wanted.
    """
    def __cinit__(self, Py_ssize_t n_neurons, Py_ssize_t n_drawn, double power, bint shared):
        if not 0 < n_drawn <= n_neurons:
            raise ValueError(f"{n_drawn} of {n_neurons} neurons")
        self.n_neurons, self.n_drawn, self.power, self.n_items = n_neurons, n_drawn, power, 0
        self.order_buffer = Buffer(n_neurons * sizeof(int32_t))
        self.order = <int32_t *> self.order_buffer.p
        self.sums_buffer = Buffer(n_neurons * sizeof(double))
        self.sums = <double *> self.sums_buffer.p
        self.starts_buffer = Buffer((n_drawn + 1) * sizeof(int32_t))
        self.starts = <int32_t *> self.starts_buffer.p
        self.pi = self.log_pi = NULL
        if shared:
            self.pi_buffer = Buffer(2 * n_drawn * sizeof(float))
            self.pi = <float *> self.pi_buffer.p
            self.log_pi = self.pi + n_drawn

    cdef void make(self, const int64_t *counts, const int32_t *place, Py_ssize_t n_tail,
                   uint64_t seed) noexcept nogil:
        """The line for these counts, without the neurons that every sample has."""
        cdef Py_ssize_t i, n = 0, certain = 0, before = -1
        cdef double rest = 0, c = 0, end = 0, mean = 0
        for i in range(self.n_neurons):
            if place[i] < n_tail:
                self.order[n] = <int32_t> i
                n += 1
        shuffle(self.order, n, 0, n, &seed)
        for i in range(n):
            self.sums[i] = pow(<double> counts[self.order[i]] + 1, self.power)
            mean += self.sums[i] / n
        for i in range(n):
            self.sums[i] += 0.1 * mean
        if n:
            c = self.n_drawn / (1.1 * mean * n)
        while certain != before:                # more reach 1 as c grows
            before, certain, rest = certain, 0, 0
            for i in range(n):
                if c * self.sums[i] >= 1:
                    certain += 1
                else:
                    rest += self.sums[i]
            if rest > 0 and certain < self.n_drawn:
                c = (self.n_drawn - certain) / rest
        for i in range(n):
            end += min(1.0, c * self.sums[i]) if n > self.n_drawn else 1
            self.sums[i] = end
        self.n_items = n
        self._index()

    cdef void _index(self) noexcept nogil:
        cdef Py_ssize_t k, j = 0
        for k in range(self.n_drawn + 1):
            while j < self.n_items - 1 and self.sums[j] <= k:
                j += 1
            self.starts[k] = <int32_t> j

    cdef Py_ssize_t _find(self, Py_ssize_t k, double u, Py_ssize_t before) noexcept nogil:
        """The neuron at k + u; the one after `before`, the last draw, at least."""
        cdef Py_ssize_t low = self.starts[k], high = self.starts[k + 1], middle
        while low < high:
            middle = (low + high) // 2
            if self.sums[middle] < k + u:
                low = middle + 1
            else:
                high = middle
        # Rounding must neither repeat a neuron of length 1 nor run off the line.
        return min(max(low, before + 1), self.n_items - self.n_drawn + k)

    cdef float _probability(self, Py_ssize_t j) noexcept nogil:
        return <float> min(1.0, self.sums[j] - (self.sums[j - 1] if j else 0))

    cdef void share(self, int32_t *shared, int32_t *place, uint64_t *rng) noexcept nogil:
        """Draws a batch's tail."""
        cdef Py_ssize_t k, j = -1
        cdef double u = uniform(rng)
        for k in range(self.n_drawn):
            j = self._find(k, u, j)
            shared[k] = self.order[j]
            place[shared[k]] = <int32_t> k
            if self.pi != NULL:
                self.pi[k] = self._probability(j)
                self.log_pi[k] = -logf(self.pi[k])

    cdef Py_ssize_t take(self, int32_t *out, Py_ssize_t n, Marks *marks, uint64_t *rng,
                         float *pi) noexcept nogil:
        """Appends a sample's tail to the n neurons that it has anyway, whose probability is 1.

        It is drawn from all, and those that the sample has are not taken again: whatever they
        are, the others' probabilities stay the same.
        """
        cdef Py_ssize_t k, j = -1
        cdef double u = uniform(rng)
        if pi != NULL:
            for k in range(n):
                pi[k] = 1
        for k in range(self.n_drawn):
            j = self._find(k, u, j)
            if fresh(self.order[j], marks):
                out[n] = self.order[j]
                if pi != NULL:
                    pi[n] = self._probability(j)
                n += 1
        return n

    def get_state(self):
        return {
            "tail.order": np.array(<int32_t[:self.n_neurons]> self.order),
            "tail.sums": np.array(<double[:self.n_neurons]> self.sums),
            "tail.items": np.array([self.n_items], np.int64),
        }

    def check_state(self, state, frequent):
        """Refuses what get_state cannot have given, where these neurons are the frequent ones."""
        order, sums, items = (state["tail." + name] for name in ("order", "sums", "items"))
        if order.shape != (self.n_neurons,) or order.dtype != np.int32 \
                or sums.shape != order.shape or sums.dtype != np.float64 \
                or items.shape != (1,) or items.dtype != np.int64 \
                or items[0] not in (0, self.n_neurons - len(frequent)):
            raise ValueError("the random tail does not fit the layer")
        n = int(items[0])
        if n == 0:
            return
        others = np.ones(self.n_neurons, bool)
        others[frequent] = False
        if not np.array_equal(np.sort(order[:n]), np.flatnonzero(others)):
            raise ValueError("the random tail has other neurons than the layer")
        lengths = np.diff(sums[:n], prepend=0.0)
        if not ((lengths > 0) & (lengths < 1 + 1e-6)).all() \
                or not abs(sums[n - 1] - self.n_drawn) < 1e-6 * self.n_drawn:
            raise ValueError("the random tail's probabilities do not fit the layer")

    def set_state(self, state):
        """Takes what check_state let pass."""
        (<int32_t[:self.n_neurons]> self.order)[:] = state["tail.order"]
        (<double[:self.n_neurons]> self.sums)[:] = state["tail.sums"]
        self.n_items = int(state["tail.items"][0])
        if self.n_items:
            self._index()
