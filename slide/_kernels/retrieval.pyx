"""Retrieval: neurons that a layer's input finds in hash tables."""
cimport cython
from cython.parallel cimport prange
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memset

from slide._kernels.openmp cimport omp_get_thread_num
from slide._kernels.random cimport below
from slide._kernels.tables cimport Tables

cdef enum:
    CODES_AT_ONCE = 1 << 22     # codes that a rebuild holds at a time: 32 MB


cdef class Retriever:
    def __cinit__(self, *args, **kwargs):
        self.arrays = {}

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
    """The union of the query's buckets in L tables of one hash family (SLIDE, section 3.1)."""
    def __cinit__(self, HashFamily family, Py_ssize_t n_neurons, int n_threads):
        self.family, self.arrays = family, family.arrays
        self._count_from(n_threads)
        self.tables = Tables(n_neurons, family.n_tables, family.code_bits, 0, n_threads)
        self.tables_at_once = max(1, min(family.n_tables, CODES_AT_ONCE // max(1, n_neurons)))
        self.codes_of_thread = PerThread(n_threads, family.n_tables * sizeof(uint64_t))
        self.scratch = PerThread(n_threads, family.scratch_floats() * sizeof(float))
        self.codes_buffer = Buffer(n_neurons * self.tables_at_once * sizeof(uint64_t))
        self.moved_buffer = Buffer(n_neurons)
        self.next_table = -1

    def start_rolling(self, HashFamily spare):
        """Makes `roll` possible; spare: another kernel like the family's."""
        if spare is self.family or type(spare) is not type(self.family) or any(
                spare.arrays[name].shape != array.shape
                for name, array in self.family.arrays.items()):
            raise ValueError("spare functions that are not like the family's")
        self.next_family, self.roll_units = spare, self.tables.n_items

    cdef void build(self, Parameters p, uint64_t seed, int n_threads) noexcept nogil:
        self._insert(p, NULL, p.n_rows, n_threads)

    cdef void refresh(self, Parameters p, const int32_t *changed, Py_ssize_t n, uint64_t seed,
                      bint new_functions, int n_threads) noexcept nogil:
        if new_functions:
            self.family.redraw(seed, 0, self.family.n_tables)
            self._insert(p, NULL, p.n_rows, n_threads)
        else:
            self._insert(p, changed, n, n_threads)

    cdef void _insert(self, Parameters p, const int32_t *ids, Py_ssize_t n,
                      int n_threads) noexcept nogil:
        cdef int first = 0, width, t
        cdef Py_ssize_t i
        cdef uint64_t *codes
        cdef uint8_t *moved = <uint8_t *> self.moved_buffer.p
        codes = <uint64_t *> self.codes_buffer.p
        for i in range(n):
            moved[ids[i] if ids != NULL else i] = 1
        while first < self.family.n_tables:
            width = min(self.tables_at_once, self.family.n_tables - first)
            for i in prange(n, schedule="dynamic", chunksize=256, num_threads=n_threads):
                self.family.codes(
                    p.w + (ids[i] if ids != NULL else i) * p.ld, first, first + width,
                    codes + i * width, <float *> self.scratch.p[omp_get_thread_num()])
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
            self.family.codes(p.w + ids[i] * p.ld, 0, n_tables, out + i * n_tables,
                              <float *> self.scratch.p[omp_get_thread_num()])
        self.count(0, self.family.products * n_tables * n)

    cdef void roll(self, Parameters p, int table, Py_ssize_t first, Py_ssize_t last,
                   uint64_t seed, uint64_t *codes, int n_threads) noexcept nogil:
        cdef Py_ssize_t i
        if table != self.next_table or seed != self.next_seed:
            # The first slice, or the first after loading: the seed makes the same functions.
            self.next_family.redraw(seed, table, table + 1)
            self.next_table, self.next_seed = table, seed
        for i in prange(first, last, schedule="dynamic", chunksize=256, num_threads=n_threads):
            self.next_family.codes(p.w + i * p.ld, table, table + 1, codes + i,
                                   <float *> self.scratch.p[omp_get_thread_num()])
        self.count(0, self.family.products * (last - first))
        if last == self.roll_units:
            self.tables.refill(table, codes, <uint8_t *> self.moved_buffer.p, 0)
            # From now on queries have the functions that put the neurons in.
            self.family.redraw(seed, table, table + 1)
            self.next_table = -1

    cdef Py_ssize_t retrieve(self, const float *x, int32_t *out, Py_ssize_t n, Py_ssize_t most,
                             Marks *marks, uint64_t *rng, int thread) noexcept nogil:
        return self._union(self.tables, x, out, n, most, marks, rng, thread)

    cdef Py_ssize_t _union(self, Tables tables, const float *x, int32_t *out, Py_ssize_t n,
                           Py_ssize_t most, Marks *marks, uint64_t *rng,
                           int thread) noexcept nogil:
        cdef uint64_t *codes = <uint64_t *> self.codes_of_thread.p[thread]
        cdef int t, _, n_tables = tables.n_tables
        self.family.codes(x, 0, n_tables, codes, <float *> self.scratch.p[thread])
        self.count(thread, self.family.products * n_tables)
        # Any table may be the first, so that a full set does not always come from the same ones.
        t = below(rng, n_tables)
        for _ in range(n_tables):
            if n == most:
                break
            n = take_bucket(tables, t, codes[t], out, n, most, marks, rng)
            t = t + 1 if t + 1 < n_tables else 0
        return n
