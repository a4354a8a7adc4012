"""Active sets: labels, what is retrieved, random fill and random tail."""
cimport cython
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset

from slide._kernels.random cimport below, stream
from slide._kernels.retrieval cimport HashRetriever, clear, mark
from slide._kernels.types cimport BLOCK

import numpy as np


@cython.final
cdef class ActiveSet:
    """
    Parameters
    ----------
    retriever : Retriever or None
    max_active, min_active : int
        Retrieval stops at max_active neurons, labels included; random neurons of the sample's own
        fill the set up to min_active.
    n_tail : int
        Random neurons drawn once a batch, without replacement, for all of its samples.
    n_own_tail : int
        Random neurons drawn for each sample, without replacement.
    n_frequent : int
        The neurons that were labels most often so far are computed for all samples as well.
    corrected : bool
        Weigh the tail by its inclusion probability, n_tail of those that are not frequent.
    schedule : tuple
        Of rebuilds, see `slide._kernels.rebuilds.Rebuilds`.
    power : float
        At least 0: the tail is drawn by how often neurons were labels, to this power; -1: it is
        uniform.
    inclusion : Inclusion or None
        Weigh what is retrieved by its inclusion probability; without a tail or a fill.
    draws : bool
        Draw by activation instead of retrieving the largest; without a tail or a fill.
    """

    def __cinit__(self, Py_ssize_t n_neurons, Retriever retriever, Py_ssize_t max_active,
                  Py_ssize_t min_active, Py_ssize_t n_tail, Py_ssize_t n_own_tail,
                  Py_ssize_t n_frequent, bint corrected, schedule, int n_threads,
                  double power=-1, Inclusion inclusion=None, bint draws=False):
        cdef int i
        if n_tail + n_own_tail + n_frequent > n_neurons or max(max_active, min_active) > n_neurons:
            raise ValueError("more neurons than the layer has")
        self.n_neurons, self.retriever = n_neurons, retriever
        self.max_active, self.min_active = max_active, min_active
        self.n_tail, self.n_frequent, self.corrected = n_tail, n_frequent, corrected
        self.n_own_tail, self.n_shared = n_own_tail, n_tail + n_frequent
        self.pi, self.draw, self.inclusion = 1, None, inclusion
        self.draws = draws
        if (draws or inclusion is not None) and (
                min_active or n_tail + n_own_tail or retriever is None):
            raise ValueError("weighted retrieved neurons beside random ones")
        if power >= 0 and n_tail + n_own_tail:
            self.draw = WeightedDraw(n_neurons, n_tail + n_own_tail, power,
                                     corrected and n_tail > 0)
        self.individual = draws or inclusion is not None or (
            corrected and self.draw is not None and n_own_tail > 0)
        if corrected and n_tail and self.draw is None:
            self.pi = <float> (n_tail / <double> (n_neurons - n_frequent))
        self.shared_buffer = Buffer(self.n_shared * sizeof(int32_t))
        self.shared = <int32_t *> self.shared_buffer.p
        self.place_buffer = Buffer(n_neurons * sizeof(int32_t))
        self.place = <int32_t *> self.place_buffer.p
        self.counts_buffer = Buffer(
            n_neurons * sizeof(int64_t) if n_frequent or self.draw is not None else 0)
        self.counts = <int64_t *> self.counts_buffer.p
        self.order_buffer = Buffer(n_neurons * sizeof(int32_t) if n_frequent else 0)
        self.n_counted = self.next_order = 0
        for i in range(self.n_shared):                  # as good as any before the first labels
            self.shared[i] = i
        memset(self.place, 0xff, n_neurons * sizeof(int32_t))
        for i in range(n_tail, self.n_shared):
            self.place[i] = i
        self.n_threads = n_threads
        self.marks = MarkSets(n_neurons, n_threads)
        self.marks.share(self.shared + n_tail, n_frequent)
        if retriever is not None:
            retriever.expect(max_active)
        self.rebuilds = Rebuilds(n_neurons, retriever, schedule)
        self.dirty = self.rebuilds.dirty

    cdef Marks *fresh_marks(self, int thread) noexcept nogil:
        cdef Marks *marks = self.marks.of + thread
        clear(marks)
        return marks

    cdef void count_labels(self, const int32_t *labels, Py_ssize_t n) noexcept nogil:
        cdef Py_ssize_t j
        if self.n_frequent or self.draw is not None:
            for j in range(n):
                self.counts[labels[j]] += 1
            self.n_counted += n

    cdef void _order(self) noexcept nogil:
        """Finds the most frequent labels so far; of equals, those of smaller ids."""
        cdef int32_t *heap = <int32_t *> self.order_buffer.p
        cdef Py_ssize_t i, n = self.n_frequent
        cdef int32_t id
        for i in range(n):
            self.place[self.shared[self.n_tail + i]] = -1
            heap[i] = <int32_t> i
        for i in range(n // 2 - 1, -1, -1):
            self._sift(heap, i, n)
        for id in range(<int32_t> n, <int32_t> self.n_neurons):
            if self.counts[id] > self.counts[heap[0]]:
                heap[0] = id
                self._sift(heap, 0, n)
        for i in range(n):
            self.shared[self.n_tail + i] = heap[i]
            self.place[heap[i]] = <int32_t> (self.n_tail + i)
        self.marks.share(heap, n)

    cdef void _sift(self, int32_t *heap, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
        # A heap with the rarest, of equals the largest id, at its root.
        cdef Py_ssize_t child
        cdef int32_t moving = heap[i]
        while True:
            child = 2 * i + 1
            if child >= n:
                break
            if child + 1 < n and self._rarer(heap[child + 1], heap[child]):
                child += 1
            if not self._rarer(heap[child], moving):
                break
            heap[i] = heap[child]
            i = child
        heap[i] = moving

    cdef bint _rarer(self, int32_t a, int32_t b) noexcept nogil:
        return self.counts[a] < self.counts[b] or (self.counts[a] == self.counts[b] and a > b)

    cdef void share(self, uint64_t seed, uint64_t step) noexcept nogil:
        """Draws the tail for a batch whose labels are counted."""
        cdef uint64_t rng = stream(~seed, 4, step)
        cdef Py_ssize_t i, left = self.n_tail, rest = self.n_neurons - self.n_frequent
        cdef int32_t id
        for i in range(self.n_tail):
            if self.place[self.shared[i]] < self.n_tail:
                self.place[self.shared[i]] = -1
        if self.n_counted > self.next_order:
            # Frequencies settle: look again when there is an eighth more to count.
            if self.n_frequent:
                self._order()
            self.next_order = self.n_counted + self.n_counted // 8
            if self.draw is not None:
                self.draw.make(self.counts, self.place, self.n_tail, stream(~seed, 31, step))
        if self.draw is not None:
            if self.draw.n_items == 0:
                self.draw.make(self.counts, self.place, self.n_tail, stream(~seed, 31, step))
            if self.n_tail:
                self.draw.share(self.shared, self.place, &rng)
        elif 2 * self.n_tail <= rest:
            i = 0
            while i < self.n_tail:
                id = below(&rng, <uint32_t> self.n_neurons)
                if self.place[id] < 0:
                    self.place[id] = <int32_t> i
                    self.shared[i] = id
                    i += 1
        else:
            # Selection sampling (Knuth, TAOCP 2, 3.4.2): every neuron is looked at once.
            for id in range(<int32_t> self.n_neurons):
                if self.place[id] >= 0:
                    continue
                if left and <Py_ssize_t> below(&rng, <uint32_t> rest) < left:
                    self.place[id] = <int32_t> (self.n_tail - left)
                    self.shared[self.n_tail - left] = id
                    left -= 1
                rest -= 1

    cdef void look(self, const float *x, Py_ssize_t ld, Py_ssize_t n, const uint64_t *rngs,
                   int thread) noexcept nogil:
        """Shows the inputs of a thread's next n calls of `select`, and their rngs; 0: forgets
        them."""
        if self.retriever is not None and self.inclusion is None and not self.retriever.by_label:
            self.retriever.look(x, ld, n, rngs, self.draws, thread)

    cdef Py_ssize_t select(self, const float *x, const int32_t *labels, Py_ssize_t n_labels,
                           int32_t *out, uint64_t rng, int32_t *drawn,
                           int thread, float *pi=NULL) noexcept nogil:
        """Active set for training: labels, retrieved, fill, tail of its own (of `drawn` neurons).

        Returns its size; no id occurs twice. pi: where they are `individual`, the inclusion
        probabilities, but for the factors that `inclusion.weigh` gives to retrieved neurons.
        """
        cdef Marks *marks = self.fresh_marks(thread)
        cdef Py_ssize_t n, most = self.n_neurons - self.n_frequent
        for n in range(n_labels):           # even those that all samples share
            out[n] = labels[n]
            mark(labels[n], marks)
            most += self.place[labels[n]] >= self.n_tail
        n = n_labels
        cdef Py_ssize_t least = min(self.min_active, most)
        if self.inclusion is not None:
            return self.inclusion.retrieve(self.retriever, x, out, n, self.max_active, marks, &rng,
                                           pi, thread)
        if self.draws:
            for n in range(n_labels):
                pi[n] = 1
            return self.retriever.draw(x, out, n_labels, self.max_active, marks, &rng, pi, thread)
        if self.retriever is not None and n < self.max_active:
            n = self.retriever.find(x, labels, n_labels, out, n, self.max_active, marks, &rng,
                                    thread)
        n = self._fill(out, n, least, marks, &rng)
        if self.n_own_tail and self.draw is not None:
            least = n
            n = self.draw.take(out, n, marks, &rng, pi)
            drawn[0] = <int32_t> (n - least)
        elif self.n_own_tail:
            least = min(n + self.n_own_tail, most)
            drawn[0] = <int32_t> max(<Py_ssize_t> 0, least - n)
            n = self._fill(out, n, least, marks, &rng)
        return n

    cdef Py_ssize_t select_projected(self, float *q, float squared, int32_t *out, uint64_t rng,
                                     int thread) noexcept nogil:
        """What is retrieved for a projected query, and the fill."""
        cdef Marks *marks = self.fresh_marks(thread)
        cdef Py_ssize_t n = self.retriever.probe(q, squared, out, 0, self.max_active, marks, &rng,
                                                 thread)
        return self._fill(out, n, self.min_active, marks, &rng)

    cdef Py_ssize_t _fill(self, int32_t *out, Py_ssize_t n, Py_ssize_t least, Marks *marks,
                          uint64_t *rng) noexcept nogil:
        cdef int32_t id
        while n < least:
            id = below(rng, <uint32_t> self.n_neurons)
            if fresh(id, marks):
                out[n] = id
                n += 1
        return n

    cdef float own_pi(self, Py_ssize_t drawn, Py_ssize_t n) noexcept nogil:
        """Inclusion probability of a sample's own tail among n own neurons, frequent labels not
        counted."""
        if not self.corrected or drawn == 0 or self.individual:
            return 1
        return <float> (drawn / <double> (self.n_neurons - self.n_frequent - (n - drawn)))

    cdef Py_ssize_t query(self, const float *x, int32_t *out, Py_ssize_t most, uint64_t rng,
                          int thread) noexcept nogil:
        """What is retrieved for x, after the frequent neurons."""
        cdef Marks *marks = self.fresh_marks(thread)
        cdef Py_ssize_t n, i
        for i in range(self.n_frequent):
            out[i] = self.shared[self.n_tail + i]
        n = self.n_frequent
        return self.retriever.find(x, NULL, 0, out, n, n + most, marks, &rng, thread)

    cdef void maintain(self, Parameters p, uint64_t seed, uint64_t step,
                       int n_threads) noexcept nogil:
        """Before the step of that number: builds the tables, or does what is due."""
        self.rebuilds.maintain(p, seed, step, n_threads)

    cdef void prepare(self, Parameters p, uint64_t seed, uint64_t step,
                      int n_threads) noexcept nogil:
        """The same before a prediction; the next training step would have done it."""
        cdef int64_t before
        if self.retriever is not None:
            before = self.retriever.total()
            self.maintain(p, seed, step, n_threads)
            self.debt += self.retriever.total() - before

    def hashed(self):
        """Multiplications of training so far; see `count_debt`."""
        return 0 if self.retriever is None else self.retriever.total() - self.debt

    def count_debt(self):
        """From now on `hashed` counts what predictions did of training's work."""
        self.debt = 0

    def select_batch(self, Parameters p, const float[:, ::1] x, labels, uint64_t seed=0,
                     uint64_t step=0, int n_threads=1):
        """What a training step computes: maintains the tables, draws and retrieves.

        Parameters
        ----------
        p : Parameters
            Of the layer: row i has the weights and the bias of neuron i.
        x : (n, ld) float32
            The layer's inputs, a 1 after the last value, padded with zeros.
        labels : sequence of n sequences of int
            Each without repetition.

        Returns
        -------
        shared, pi : int32 and float32 arrays
            Neurons that all n samples compute, and their inclusion probabilities.
        own : list of n such pairs
            Neurons of one sample, labels first. One that is shared as well counts here only.
        """
        cdef Py_ssize_t s, i, n, n_twice
        cdef int32_t drawn
        cdef uint64_t[BLOCK] rngs
        cdef int32_t[::1] y
        cdef int32_t[::1] out = np.empty(self.n_neurons, dtype=np.int32)
        cdef float[::1] each = np.empty(self.n_neurons, np.float32)
        cdef float[::1] z = np.empty(self.n_neurons, np.float32)
        if p.n_rows != self.n_neurons or x.shape[1] != p.ld or len(labels) != x.shape[0]:
            raise ValueError(f"{p.n_rows} rows of {p.ld} and x {x.shape[0], x.shape[1]} with "
                             f"{len(labels)} label sets for {self.n_neurons} neurons")
        if not 1 <= n_threads <= self.n_threads:
            raise ValueError(f"n_threads={n_threads} of {self.n_threads}")
        labels = [np.array(row, dtype=np.int32).reshape(-1) for row in labels]
        for row in labels:
            if len(row) and not 0 <= row.min() <= row.max() < self.n_neurons \
                    or len(np.unique(row)) < len(row):
                raise ValueError(f"labels {row} of {self.n_neurons} neurons")
        self.maintain(p, seed, step, n_threads)
        for y in labels:
            self.count_labels(&y[0] if y.shape[0] else NULL, y.shape[0])
        self.share(seed, step)
        own = []
        for s in range(x.shape[0]):
            if s % BLOCK == 0:                  # as training does
                n = min(<Py_ssize_t> BLOCK, x.shape[0] - s)
                for i in range(n):
                    rngs[i] = stream(seed, step, s + i)
                self.look(&x[s, 0], x.shape[1], n, rngs, 0)
            y = labels[s]
            drawn = 0
            n = self.select(&x[s, 0], &y[0] if y.shape[0] else NULL, y.shape[0], &out[0],
                            stream(seed, step, s), &drawn, 0, &each[0])
            pi = np.ones(n, np.float32)
            if self.individual:
                if self.inclusion is not None and n:
                    p.dot(&z[0], &out[0], n, &x[s, 0])
                    self.inclusion.weigh(p, &x[s, 0], &out[y.shape[0]], &z[y.shape[0]],
                                         &each[y.shape[0]], n - y.shape[0])
                own.append((np.array(out[:n]), np.array(each[:n])))
                continue
            n_twice = 0
            for i in range(n):
                n_twice += self.place[out[i]] >= self.n_tail
            pi[n - drawn:] = self.own_pi(drawn, n - n_twice)
            own.append((np.array(out[:n]), pi))
        self.look(NULL, 0, 0, NULL, 0)
        shared, pi = np.empty(self.n_shared, np.int32), np.ones(self.n_shared, np.float32)
        for i in range(self.n_shared):
            shared[i] = self.shared[i]
        pi[:self.n_tail] = self.pi
        if self.draw is not None and self.draw.pi != NULL:
            for i in range(self.n_tail):
                pi[i] = self.draw.pi[i]
        return shared, pi, own

    def weights_replaced(self):
        """The weights are not those that are in the tables: they are built anew before use."""
        self.rebuilds.built = False

    def weights_moved(self):
        """Any weight may have changed a little: the next rebuild looks at all neurons."""
        memset(self.dirty, 1, self.n_neurons)

    def get_state(self):
        state = self.rebuilds.get_state()
        if self.draw is not None:
            state.update(self.draw.get_state())
        if self.n_frequent or self.draw is not None:
            state["counts"] = np.array(<int64_t[:self.n_neurons]> self.counts)
            state["next_order"] = np.array([self.next_order])
        if self.n_frequent:
            state["frequent"] = np.array(<int32_t[:self.n_frequent]> (self.shared + self.n_tail))
        if self.retriever is not None:
            for name, array in self.retriever.tables.get_state().items():
                state["tables." + name] = array
            for name, array in self.retriever.arrays.items():
                state["functions." + name] = array.copy()
        return state

    def set_state(self, state):
        """Takes what get_state gave; refuses, and changes nothing, if it could not have come
        from it."""
        cdef Py_ssize_t i
        cdef const int32_t[::1] frequent
        self.rebuilds.check_state(state)
        frequent_ = np.empty(0, np.int32)
        if self.n_frequent or self.draw is not None:
            counts = state["counts"]
            if counts.shape != (self.n_neurons,) or counts.dtype != np.int64 or counts.min() < 0:
                raise ValueError("counts of labels do not fit the layer")
            if state["next_order"].shape != (1,):
                raise ValueError("next_order does not fit")
            next_order = int(state["next_order"][0])
        if self.n_frequent:
            frequent_ = state["frequent"]
            if frequent_.shape != (self.n_frequent,) or frequent_.dtype != np.int32 \
                    or not 0 <= frequent_.min() <= frequent_.max() < self.n_neurons \
                    or len(np.unique(frequent_)) < self.n_frequent:
                raise ValueError("frequent labels do not fit the layer")
        if self.draw is not None:
            self.draw.check_state(state, frequent_)
        if self.retriever is not None:
            functions = self.retriever.arrays
            for name, array in functions.items():
                new = state["functions." + name]
                if new.shape != array.shape or new.dtype != array.dtype:
                    raise ValueError(f"hash functions: {name} has another shape or dtype")
                if new.dtype.kind == "f" and not np.isfinite(new).all():
                    raise ValueError(f"hash functions: {name} has values that are not finite")
                if name == "sketches" and new.max() > 127:
                    raise ValueError(f"hash functions: sketches up to {new.max()}")
                if name == "scale" and not new[0] > 0 or name == "seen" and not (
                        (new >= 0).all() and (new < 2 ** 53).all()):
                    raise ValueError(f"hash functions: {name} is {new}")
            if isinstance(self.retriever, HashRetriever):
                (<HashRetriever> self.retriever).family.check_arrays(
                    {name: state["functions." + name] for name in functions})
            tables = self.retriever.tables
            if state["schedule"][2] and not tables.code_bits \
                    and (state["tables.starts"][..., -1] == 0).any():
                raise ValueError("hash tables: one is empty, though they are built")
            tables.set_state(
                {name[7:]: a for name, a in state.items() if name.startswith("tables.")})
            for name, array in functions.items():
                array[...] = state["functions." + name]
            self.retriever.restored()
        if self.draw is not None:
            self.draw.set_state(state)
        if self.n_frequent or self.draw is not None:
            (<int64_t[:self.n_neurons]> self.counts)[:] = counts
            self.n_counted, self.next_order = int(counts.sum()), next_order
        if self.n_frequent:
            memset(self.place, 0xff, self.n_neurons * sizeof(int32_t))
            frequent = frequent_
            for i in range(self.n_frequent):
                self.shared[self.n_tail + i] = frequent[i]
                self.place[frequent[i]] = <int32_t> (self.n_tail + i)
            self.marks.share(&frequent[0], self.n_frequent)
        self.rebuilds.set_state(state)

    def maintenance(self):
        """What looking after the tables has cost and left; see `Rebuilds.maintenance`."""
        return self.rebuilds.maintenance()

    @property
    def n_rebuilds(self):
        return self.rebuilds.n_rebuilds

    @property
    def seconds(self):
        """In maintenance."""
        return self.rebuilds.seconds

    @property
    def nbytes(self):
        """Bytes of the hash tables."""
        return 0 if self.retriever is None else self.retriever.tables.nbytes
