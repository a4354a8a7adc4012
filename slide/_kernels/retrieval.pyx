"""Retrieval: neurons that a layer's input finds in hash tables.

Strategies
----------
A query hashes its vector once a table. What is then taken of the L buckets, and what is known about
the probability that a neuron which one table's code shares with probability s is among it (Chen et
al., MLSys 2020, section 3.1.2, with the first formula corrected):

========= ============================================ =============================================
strategy  taken                                        inclusion probability
========= ============================================ =============================================
VANILLA   tables in random order until there are       1 - (1 - s)^tau for the tau tables looked at,
          `most`, of the last one what there is room   but for the share of the last one's bucket
          for
UNION     of all L buckets; a random part of them      1 - (1 - s)^L, times room / found if more are
          where `most` are fewer                       found than there is room
TOP_K     those in most of the L buckets, ties at      depends on the other neurons' collisions
          random
THRESHOLD those in at least m of the L buckets; a      sum_{i >= m} C(L, i) s^i (1 - s)^(L - i),
          random part where `most` are fewer           times room / found
========= ============================================ =============================================

Each averages over draws of the hash functions.
"""
cimport cython
from cython.parallel cimport prange
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from slide._kernels.openmp cimport omp_get_thread_num
from slide._kernels.random cimport below, stream
from slide._kernels.ranking cimport largest
from slide._kernels.simd cimport simd
from slide._kernels.tables cimport Tables

import numpy as np

cdef enum:
    CODES_AT_ONCE = 1 << 22     # codes that a rebuild holds at a time: 32 MB


@cython.final
cdef class MarkSets:
    def __cinit__(self, Py_ssize_t n_neurons, int n_threads):
        cdef Py_ssize_t n_words = (n_neurons + 63) // 64
        # To restore all words costs about as much as those of a quarter as many neurons.
        cdef Py_ssize_t most = n_words // 4 + 1
        cdef int i
        self.n_threads = n_threads
        self.common_buffer = Buffer(n_words * sizeof(uint64_t))
        self.common = <uint64_t *> self.common_buffer.p
        self.words = PerThread(n_threads, n_words * sizeof(uint64_t))
        self.changed = PerThread(n_threads, most * sizeof(int32_t))
        self.marks_buffer = Buffer(n_threads * sizeof(Marks))
        self.of = <Marks *> self.marks_buffer.p
        for i in range(n_threads):
            self.of[i].words, self.of[i].common = <uint64_t *> self.words.p[i], self.common
            self.of[i].changed = <int32_t *> self.changed.p[i]
            self.of[i].n_words, self.of[i].max_changed = n_words, most

    cdef void share(self, const int32_t *ids, Py_ssize_t n) noexcept nogil:
        """Makes these the frequent ones, between sets."""
        cdef Py_ssize_t j
        cdef int i
        memset(self.common, 0, self.of[0].n_words * sizeof(uint64_t))
        for j in range(n):
            self.common[ids[j] >> 6] |= <uint64_t> 1 << (ids[j] & 63)
        for i in range(self.n_threads):
            self.of[i].n_changed = self.of[i].max_changed
            clear(self.of + i)


cdef class Retriever:
    def __cinit__(self, *args, **kwargs):
        self.arrays = {}
        self.strategy, self.n_candidates, self.by_label = VANILLA, 0, False
        self.w, self.ld = NULL, 0

    @property
    def counts_collisions(self):
        """Whether `equip` can have a strategy and bounded buckets."""
        return False

    @property
    def in_bytes(self):
        """Whether most of a query's products are those of bytes."""
        return False

    @property
    def places_jointly(self):
        """Whether where a neuron belongs depends on which others move."""
        return False

    def equip(self, str strategy="vanilla", int min_collisions=1, str query="input",
              Py_ssize_t n_candidates=0, Py_ssize_t capacity=0, str overflow="reservoir",
              uint64_t seed=0):
        """Chooses a strategy and what buckets show; before the tables are built.

        Parameters
        ----------
        strategy : {"vanilla", "union", "top_k", "threshold"}
        min_collisions : int
            m of the threshold.
        query : {"input", "label"}
            Where labels are known, the tables are asked for each label's weights in turn, with
            equal shares of the room.
        n_candidates : int
            So many are retrieved and ranked by their activations; 0: nothing is.
        capacity, overflow, seed
            Of buckets, see `Tables.limit`; 0: they show all.
        """
        cdef int n_tables = self.tables.n_tables
        cdef Py_ssize_t n = self.tables.n_items
        number = {"vanilla": VANILLA, "union": UNION, "top_k": TOP_K,
                  "threshold": THRESHOLD}[strategy]
        if (number != VANILLA or capacity) and not self.counts_collisions:
            raise ValueError("these tables have no codes: cells are ranked and taken whole")
        if not 1 <= min_collisions <= n_tables:
            raise ValueError(f"min_collisions={min_collisions} with {n_tables} tables")
        if query not in ("input", "label"):
            raise ValueError(f"query={query!r}")
        if not 0 <= n_candidates <= n:
            raise ValueError(f"{n_candidates} candidates of {n} neurons")
        if capacity:
            self.tables.limit(capacity, overflow, seed)
        self.strategy, self.min_collisions, self.by_label = number, min_collisions, query == "label"
        self.n_candidates = n_candidates
        if number != VANILLA:
            self.counters = PerThread(self.n_threads, n * sizeof(uint16_t))
            self.met = PerThread(self.n_threads, n * sizeof(int32_t))
            self.levels = PerThread(self.n_threads, (n_tables + 1) * sizeof(int32_t))
        if n_candidates:
            self.pool = PerThread(self.n_threads, n_candidates * sizeof(int32_t))
            self.pool_scores = PerThread(self.n_threads, 3 * n_candidates * sizeof(float))

    cdef void watch(self, Parameters p) noexcept nogil:
        """Before every step and prediction: where the weights are."""
        self.w, self.ld = p.w, p.ld

    def restored(self):
        """The arrays have other values."""

    def expect(self, Py_ssize_t most):
        """Queries of training will ask for up to `most` neurons."""

    cdef void look(self, const float *x, Py_ssize_t ld, Py_ssize_t n, const uint64_t *rngs,
                   bint drawing, int thread) noexcept nogil:
        """Shows a thread's next queries, n rows of x and the state of each one's rng, of which it
        may do some work at once; with n = 0, forgets them."""
        pass

    cdef Tally begin(self, int thread) noexcept nogil:
        """An empty tally; of a strategy that does not count it is not used."""
        cdef Tally tally
        tally.n, tally.count, tally.ids, tally.levels = 0, NULL, NULL, NULL
        if self.strategy != VANILLA:
            tally.count = <uint16_t *> self.counters.p[thread]      # zeros between queries
            tally.ids = <int32_t *> self.met.p[thread]
            tally.levels = <int32_t *> self.levels.p[thread]
        return tally

    cdef Py_ssize_t settle(self, Tally *tally, int32_t *out, Py_ssize_t n, Py_ssize_t most,
                           Marks *marks, uint64_t *rng) noexcept nogil:
        """Appends the chosen ones of the neurons that were met, until there are `most`."""
        cdef Py_ssize_t j, rest, left = most - n
        cdef int level, least, sure
        cdef int n_levels = self.tables.n_tables
        cdef int32_t id
        if self.strategy == VANILLA:
            return n
        memset(tally.levels, 0, (n_levels + 1) * sizeof(int32_t))
        for j in range(tally.n):
            tally.levels[tally.count[tally.ids[j]]] += 1
        least = 1 if self.strategy != THRESHOLD else self.min_collisions
        sure = n_levels + 1             # from so many collisions on a neuron is taken anyhow
        rest = 0
        if self.strategy == TOP_K:
            while sure > 1 and tally.levels[sure - 1] <= left:
                sure -= 1
                left -= tally.levels[sure]
            least = max(1, sure - 1)
        # Of the others with at least `least`, `left` random ones: selection sampling (Knuth,
        # TAOCP 2, 3.4.2).
        for level in range(least, sure):
            rest += tally.levels[level]
        for j in range(tally.n):
            id = tally.ids[j]
            level = tally.count[id]
            tally.count[id] = 0
            if level < least:
                continue
            if level < sure:
                rest -= 1
                if not (left > rest or <Py_ssize_t> below(rng, <uint32_t> (rest + 1)) < left):
                    continue
                left -= 1
            mark(id, marks)
            out[n] = id
            n += 1
        return n

    cdef int32_t *random_order(self, uint64_t *rng, int thread) noexcept nogil:
        """A random permutation of the tables."""
        cdef int32_t *order = <int32_t *> self.orders.p[thread]
        cdef int i, j, n = self.tables.n_tables
        for i in range(n):
            j = <int> below(rng, <uint32_t> (i + 1))
            order[i] = order[j]
            order[j] = i
        return order

    cdef Py_ssize_t find(self, const float *x, const int32_t *labels, Py_ssize_t n_labels,
                         int32_t *out, Py_ssize_t n, Py_ssize_t most, Marks *marks, uint64_t *rng,
                         int thread) noexcept nogil:
        """Appends neurons for an input to the n in `out`, which are marked, until there are
        `most`; returns how many there are.

        labels : of the input, where they are known
        """
        cdef int32_t *ids
        cdef float *scores
        cdef Py_ssize_t m, kept, room = most - n
        if self.n_candidates <= room or room < 1:
            return self._ask(x, labels, n_labels, out, n, most, marks, rng, thread)
        ids = <int32_t *> self.pool.p[thread]
        scores = <float *> self.pool_scores.p[thread]
        m = self._ask(x, labels, n_labels, ids, 0, self.n_candidates, marks, rng, thread)
        simd.far_dot(scores, self.w, self.ld, ids, m, x)
        self.count(thread, m * self.ld)
        kept = largest(scores, ids, m, room, out + n, scores, scores + self.n_candidates)
        keep_marks(marks, ids, m, out + n, kept)
        return n + kept

    cdef Py_ssize_t _ask(self, const float *x, const int32_t *labels, Py_ssize_t n_labels,
                         int32_t *out, Py_ssize_t n, Py_ssize_t most, Marks *marks, uint64_t *rng,
                         int thread) noexcept nogil:
        cdef Py_ssize_t j, first, at
        if not self.by_label or n_labels < 1:
            return self.retrieve(x, out, n, most, marks, rng, thread)
        # Begin with any label, so that the first ones do not always get what others leave.
        first = below(rng, <uint32_t> n_labels)
        for j in range(n_labels):
            at = labels[first + j if first + j < n_labels else first + j - n_labels]
            n = self.retrieve(self.w + at * self.ld, out, n, n + (most - n) // (n_labels - j),
                              marks, rng, thread)
        return n

    def query(self, const float[:, ::1] x, Py_ssize_t most, uint64_t seed=0, labels=None,
              Parameters p=None):
        """Neurons retrieved for padded rows: a list of int32 arrays.

        labels : sequence of sequences of int
            Of every row; they are not among what is returned.
        p : Parameters
            Of the layer, where candidates are ranked or labels asked for.
        """
        cdef Py_ssize_t i, j, n, n_neurons = self.tables.n_items
        cdef uint64_t rng
        cdef MarkSets sets = MarkSets(n_neurons, 1)
        cdef Marks *marks = sets.of
        cdef int32_t[::1] out = np.empty(max(1, min(most, n_neurons)), np.int32)
        cdef int32_t[::1] y = np.empty(0, np.int32)
        if self.ld == 0:
            raise ValueError("the tables have not been built")
        if p is not None:
            if p.n_rows != n_neurons or p.ld != self.ld:
                raise ValueError(f"{p.n_rows} rows of {p.ld} floats, not {n_neurons} of {self.ld}")
            self.watch(p)
        elif self.n_candidates or self.by_label and labels is not None:
            raise ValueError("without the layer's parameters nothing is ranked, nor asked by label")
        if x.shape[0] and x.shape[1] != self.ld:
            raise ValueError(f"rows of {x.shape[1]} floats, not {self.ld}")
        if labels is not None and len(labels) != x.shape[0]:
            raise ValueError(f"labels of {len(labels)} rows, not {x.shape[0]}")
        found = []
        for i in range(x.shape[0]):
            clear(marks)
            rng = stream(seed, 0, i)
            if labels is not None:
                y = np.array(labels[i], dtype=np.int32).reshape(-1)
            for j in range(y.shape[0]):
                if not 0 <= y[j] < n_neurons:
                    raise ValueError(f"label {y[j]} of {n_neurons} neurons")
                mark(y[j], marks)
            n = self.find(&x[i, 0], &y[0] if y.shape[0] else NULL, y.shape[0], &out[0], 0,
                          out.shape[0], marks, &rng, 0)
            found.append(np.array(out[:n]))
        return found

    def show(self, const float[:, ::1] x):
        """Shows padded inputs, as a layer shows those of a training batch."""
        if self.ld == 0:
            raise ValueError("the tables have not been built")
        if x.shape[0] and x.shape[1] != self.ld:
            raise ValueError(f"rows of {x.shape[1]} floats, not {self.ld}")
        if x.shape[0]:
            self.observe(&x[0, 0], x.shape[1], x.shape[0])

    def statistics(self):
        """How neurons are spread over the buckets; see `Tables.statistics`."""
        return self.tables.statistics()

    def bucket_loads(self, int table):
        """Members of every bucket of a table that has any."""
        return self.tables.loads(table)

    cdef _count_from(self, int n_threads):
        self.n_threads = n_threads
        self.products = PerThread(n_threads, sizeof(int64_t))

    cdef int64_t total(self) noexcept nogil:
        """Multiplications so far to hash neurons and queries."""
        cdef int i
        cdef int64_t n = 0
        for i in range(self.n_threads):
            n += (<int64_t *> self.products.p[i])[0]
        return n

    cdef void observe(self, const float *x, Py_ssize_t ld, Py_ssize_t n) noexcept nogil:
        """Sees the inputs of a training batch, n rows."""
        pass

    cdef void build(self, Parameters p, uint64_t seed, int n_threads) noexcept nogil:
        """Puts all neurons in."""
        pass

    cdef void refresh(self, Parameters p, const int32_t *changed, Py_ssize_t n, uint64_t seed,
                      bint new_functions, int n_threads) noexcept nogil:
        """Moves the changed neurons to where their weights now belong."""
        pass

    cdef Py_ssize_t retrieve(self, const float *x, int32_t *out, Py_ssize_t n, Py_ssize_t most,
                             Marks *marks, uint64_t *rng, int thread) noexcept nogil:
        """Appends neurons to the n in `out` until there are `most`; returns how many there are."""
        return n

    cdef Py_ssize_t draw(self, const float *x, int32_t *out, Py_ssize_t n, Py_ssize_t most,
                         Marks *marks, uint64_t *rng, float *pi, int thread) noexcept nogil:
        """Random neurons instead, those of large activations more often, and their inclusion
        probabilities; of retrievers that can."""
        return n

    cdef Py_ssize_t probe(self, float *q, float squared, int32_t *out, Py_ssize_t n,
                          Py_ssize_t most, Marks *marks, uint64_t *rng,
                          int thread) noexcept nogil:
        """The same for a query that was projected already; of retrievers that project."""
        return n

    cdef void codes_now(self, Parameters p, const int32_t *ids, Py_ssize_t n, uint64_t *out,
                        int n_threads) noexcept nogil:
        """out[i * n_tables + t] = where ids[i] belongs in table t by its present weights."""
        pass

    cdef void codes_due(self, Parameters p, const int32_t *ids, Py_ssize_t n, uint64_t *out,
                        int n_threads) noexcept nogil:
        """The same if ids, ascending, are all that move."""
        self.codes_now(p, ids, n, out, n_threads)

    cdef void roll(self, Parameters p, int table, Py_ssize_t first, Py_ssize_t last,
                   uint64_t seed, uint64_t *codes, int n_threads) noexcept nogil:
        """Does the units of work first..last-1 of roll_units that renew a table.

        Queries see the table as it was until all neurons have been looked at.

        seed : the same for all units of a table's renewal
        codes : where the neurons will belong, kept by the caller from unit to unit
        """
        pass


@cython.final
cdef class HashRetriever(Retriever):
    """The query's buckets in L tables of one hash family (SLIDE, section 3.1)."""
    def __cinit__(self, HashFamily family, Py_ssize_t n_neurons, int n_threads):
        self.family, self.arrays = family, family.arrays
        self._count_from(n_threads)
        self.tables = Tables(n_neurons, family.n_tables, family.code_bits, 0, n_threads)
        self.tables_at_once = max(1, min(family.n_tables, CODES_AT_ONCE // max(1, n_neurons)))
        self.codes_of_thread = PerThread(n_threads, family.n_tables * sizeof(uint64_t))
        self.scratch = PerThread(n_threads, family.scratch_floats() * sizeof(float))
        self.codes_buffer = Buffer(n_neurons * self.tables_at_once * sizeof(uint64_t))
        self.moved_buffer = Buffer(n_neurons)
        self.order_buffer = Buffer(n_neurons * sizeof(int32_t))
        self.orders = PerThread(n_threads, family.n_tables * sizeof(int32_t))
        self.next_table = -1

    @property
    def counts_collisions(self):
        return True

    def start_rolling(self, HashFamily spare):
        """Makes `roll` possible; spare: another kernel like the family's."""
        if spare is self.family or type(spare) is not type(self.family) or any(
                spare.arrays[name].shape != array.shape
                for name, array in self.family.arrays.items()):
            raise ValueError("spare functions that are not like the family's")
        if self.family.fitted:
            raise ValueError("what the functions are fitted to is the same in all tables")
        self.next_family, self.roll_units = spare, self.tables.n_items

    cdef void build(self, Parameters p, uint64_t seed, int n_threads) noexcept nogil:
        self.family.fit(p, True)
        self._insert(p, NULL, p.n_rows, seed, n_threads)

    cdef void refresh(self, Parameters p, const int32_t *changed, Py_ssize_t n, uint64_t seed,
                      bint new_functions, int n_threads) noexcept nogil:
        if new_functions:
            self.family.redraw(seed, 0, self.family.n_tables)
        if self.family.fit(p, new_functions) or new_functions:
            self._insert(p, NULL, p.n_rows, seed, n_threads)
        else:
            self._insert(p, changed, n, seed, n_threads)

    cdef void _codes(self, HashFamily family, Parameters p, Py_ssize_t row, int first, int last,
                     uint64_t *out, int thread) noexcept nogil:
        """Codes of a neuron. Those of zeros alone are random: nothing that all neurons leave out
        would ever be trained."""
        cdef int t
        family.codes(p.w + row * p.ld, first, last, out, <float *> self.scratch.p[thread])
        for t in range(last - first):
            if out[t] == <uint64_t> NO_BUCKET:
                out[t] = family.any_code(p.w + row * p.ld, first + t,
                                         stream(<uint64_t> row, 33, <uint64_t> (first + t)),
                                         <float *> self.scratch.p[thread])

    cdef void _insert(self, Parameters p, const int32_t *ids, Py_ssize_t n, uint64_t seed,
                      int n_threads) noexcept nogil:
        cdef int first = 0, width, t
        cdef Py_ssize_t i, j
        cdef uint64_t *codes
        cdef uint8_t *moved = <uint8_t *> self.moved_buffer.p
        cdef int32_t *order = <int32_t *> self.order_buffer.p
        cdef uint64_t rng
        if self.tables.capacity:
            # In random order: which neurons a full bucket shows must not depend on their ids.
            rng = stream(seed, 30, n)
            for i in range(n):
                j = below(&rng, <uint32_t> (i + 1))
                order[i] = order[j]
                order[j] = ids[i] if ids != NULL else <int32_t> i
            ids = order
        codes = <uint64_t *> self.codes_buffer.p
        for i in range(n):
            moved[ids[i] if ids != NULL else i] = 1
        while first < self.family.n_tables:
            width = min(self.tables_at_once, self.family.n_tables - first)
            for i in prange(n, schedule="dynamic", chunksize=256, num_threads=n_threads):
                self._codes(self.family, p, ids[i] if ids != NULL else i, first, first + width,
                            codes + i * width, omp_get_thread_num())
            for t in prange(width, schedule="dynamic", chunksize=1, num_threads=n_threads):
                self.tables.insert(first + t, ids, codes + t, width, n, moved,
                                   omp_get_thread_num())
            first += width
        self.count(0, self.family.products * self.family.n_tables * n)
        memset(moved, 0, p.n_rows)

    cdef void codes_now(self, Parameters p, const int32_t *ids, Py_ssize_t n, uint64_t *out,
                        int n_threads) noexcept nogil:
        cdef Py_ssize_t i
        cdef int n_tables = self.family.n_tables
        for i in prange(n, schedule="dynamic", chunksize=16, num_threads=n_threads):
            self._codes(self.family, p, ids[i], 0, n_tables, out + i * n_tables,
                        omp_get_thread_num())
        self.count(0, self.family.products * n_tables * n)

    cdef void roll(self, Parameters p, int table, Py_ssize_t first, Py_ssize_t last,
                   uint64_t seed, uint64_t *codes, int n_threads) noexcept nogil:
        cdef Py_ssize_t i
        if table != self.next_table or seed != self.next_seed:
            # The first slice, or the first after loading: the seed makes the same functions.
            self.next_family.redraw(seed, table, table + 1)
            self.next_table, self.next_seed = table, seed
        for i in prange(first, last, schedule="dynamic", chunksize=256, num_threads=n_threads):
            self._codes(self.next_family, p, i, table, table + 1, codes + i, omp_get_thread_num())
        self.count(0, self.family.products * (last - first))
        if last == self.roll_units:
            self.tables.refill(table, codes, <uint8_t *> self.moved_buffer.p, 0)
            # From now on queries have the functions that put the neurons in.
            self.family.redraw(seed, table, table + 1)
            self.next_table = -1

    cdef Py_ssize_t retrieve(self, const float *x, int32_t *out, Py_ssize_t n, Py_ssize_t most,
                             Marks *marks, uint64_t *rng, int thread) noexcept nogil:
        cdef uint64_t *codes = <uint64_t *> self.codes_of_thread.p[thread]
        cdef int32_t *order
        cdef int i, r, t, n_tables = self.tables.n_tables
        cdef Tally tally = self.begin(thread)
        if n >= most:
            return n
        self.family.query_codes(x, 0, n_tables, codes, <float *> self.scratch.p[thread])
        self.count(thread, self.family.products * n_tables)
        # Any table may be the first, so that a full set does not always come from the same ones.
        order = self.random_order(rng, thread)
        for r in range(self.family.n_ranges - 1, -1, -1):
            for i in range(n_tables):
                if n == most:
                    break
                t = order[i]
                n = self.meet(t, self.family.of_range(codes[t], r) if codes[t] !=
                              <uint64_t> NO_BUCKET else codes[t], out, n, most, marks, rng, &tally)
        return self.settle(&tally, out, n, most, marks, rng)
