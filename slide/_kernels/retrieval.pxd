from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from slide._kernels.hashing cimport NO_BUCKET, HashFamily
from slide._kernels.optim cimport Parameters
from slide._kernels.random cimport below
from slide._kernels.tables cimport Tables
from slide._kernels.types cimport Buffer, PerThread


cdef struct Marks:
    # Deduplication: neuron i is in the set being built, or is among the frequent ones, which every
    # sample has, iff bit i of the words is set. A bit a neuron: of a million neurons they fit the
    # second-level cache, in which their order is random.
    uint64_t *words
    const uint64_t *common      # the bits of the frequent ones
    Py_ssize_t n_words
    int32_t *changed            # those that were marked, some twice
    Py_ssize_t n_changed        # max_changed: unknown ones, too
    Py_ssize_t max_changed


cdef inline void clear(Marks *marks) noexcept nogil:
    """Only the frequent ones are marked then."""
    cdef Py_ssize_t j
    if marks.n_changed == marks.max_changed:
        memcpy(marks.words, marks.common, marks.n_words * sizeof(uint64_t))
    else:
        for j in range(marks.n_changed):
            marks.words[marks.changed[j] >> 6] = marks.common[marks.changed[j] >> 6]
    marks.n_changed = 0


cdef inline bint is_marked(int32_t id, const Marks *marks) noexcept nogil:
    return (marks.words[id >> 6] >> (id & 63)) & 1


cdef inline void mark(int32_t id, Marks *marks) noexcept nogil:
    marks.words[id >> 6] |= <uint64_t> 1 << (id & 63)
    if marks.n_changed < marks.max_changed:
        marks.changed[marks.n_changed] = id
        marks.n_changed += 1


cdef class MarkSets:
    """The marks of each thread."""
    cdef int n_threads
    cdef Buffer common_buffer, marks_buffer
    cdef PerThread words, changed
    cdef uint64_t *common
    cdef Marks *of              # by thread
    cdef void share(self, const int32_t *ids, Py_ssize_t n) noexcept nogil


cdef inline void keep_marks(Marks *marks, const int32_t *ids, Py_ssize_t n, const int32_t *kept,
                            Py_ssize_t n_kept) noexcept nogil:
    """Of n neurons that were found and are not frequent, marks those that are kept only: the others
    can still be drawn. ids == NULL: all that were found are unmarked."""
    cdef Py_ssize_t j
    if ids != NULL:
        for j in range(n):
            marks.words[ids[j] >> 6] &= ~(<uint64_t> 1 << (ids[j] & 63))
    for j in range(n_kept):
        mark(kept[j], marks)


cdef inline bint fresh(int32_t id, Marks *marks) noexcept nogil:
    """Whether the neuron is new to the set; it is marked."""
    if is_marked(id, marks):
        return False
    mark(id, marks)
    return True


cdef inline Py_ssize_t take(const int32_t *ids, Py_ssize_t count, int32_t *out, Py_ssize_t n,
                            Py_ssize_t most, Marks *marks) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(count):
        if n == most:
            break
        if fresh(ids[j], marks):
            out[n] = ids[j]
            n += 1
    return n


cdef inline Py_ssize_t take_some(const int32_t *ids, Py_ssize_t count, int32_t *out, Py_ssize_t n,
                                 Py_ssize_t most, Marks *marks, uint64_t *rng) noexcept nogil:
    # Where not all fit, begin anywhere: no neuron is left out because of its id.
    cdef Py_ssize_t first = 0
    if count > most - n:
        first = below(rng, <uint32_t> count)
    n = take(ids + first, count - first, out, n, most, marks)
    return take(ids, first, out, n, most, marks)


cdef inline Py_ssize_t take_bucket(Tables tables, int t, uint64_t code, int32_t *out,
                                   Py_ssize_t n, Py_ssize_t most, Marks *marks,
                                   uint64_t *rng) noexcept nogil:
    """The neurons of table t that have this code, until there are `most`."""
    cdef uint8_t tag = 0
    cdef Py_ssize_t slot, first, count, j, _
    cdef const int32_t *ids
    if code == <uint64_t> NO_BUCKET:
        return n
    slot = tables.slot_of(code, &tag)
    tables.shown(t, slot, tag, &first, &count)
    ids = tables.ids[t] + first
    if tables.tag_bits == 0:
        return take_some(ids, count, out, n, most, marks, rng)
    j = below(rng, <uint32_t> count) if count > most - n else 0
    for _ in range(count):
        if n == most:
            break
        if tables.tags[t][first + j] == tag and fresh(ids[j], marks):
            out[n] = ids[j]
            n += 1
        j = j + 1 if j + 1 < count else 0
    return n


cdef enum Strategy:
    VANILLA, UNION, TOP_K, THRESHOLD


cdef struct Tally:
    # Collisions of one query: how often each neuron was met, which were, and how many those are.
    uint16_t *count
    int32_t *ids
    int32_t *levels         # scratch: neurons by number of collisions
    Py_ssize_t n


cdef inline void count_bucket(Tables tables, int t, uint64_t code, Tally *tally, int most,
                              Marks *marks) noexcept nogil:
    """One collision more, of at most `most`, for those of a bucket that are not in the set."""
    cdef uint8_t tag = 0
    cdef Py_ssize_t slot, first, count, j
    cdef int32_t id
    if code == <uint64_t> NO_BUCKET:
        return
    slot = tables.slot_of(code, &tag)
    tables.shown(t, slot, tag, &first, &count)
    for j in range(first, first + count):
        id = tables.ids[t][j]
        if tables.tag_bits and tables.tags[t][j] != tag:
            continue
        if is_marked(id, marks):
            continue
        if tally.count[id] == 0:
            tally.ids[tally.n] = id
            tally.n += 1
        tally.count[id] += tally.count[id] < most


cdef class Retriever:
    """Finds, for a layer's input, neurons whose activations are likely to be large."""
    cdef readonly Tables tables
    cdef readonly object arrays         # the hash functions' parameters by name
    cdef int n_threads
    cdef PerThread products             # multiplications made so far, on each thread
    cdef readonly Py_ssize_t roll_units     # of `roll`, for one table; 0: it cannot
    cdef readonly bint observes             # wants to see inputs: `observe`
    # What `equip` sets: how neurons are chosen among those in the query's buckets
    cdef readonly int strategy
    cdef readonly int min_collisions
    cdef readonly bint by_label         # queries are labels' weights
    cdef readonly Py_ssize_t n_candidates   # ranked by their activations; 0: nothing is ranked
    cdef PerThread counters, met, levels, orders, pool, pool_scores
    # What `watch` sets: the layer's weights and biases, ld floats a row
    cdef const float *w
    cdef Py_ssize_t ld
    cdef _count_from(self, int n_threads)
    cdef void watch(self, Parameters p) noexcept nogil
    cdef void look(self, const float *x, Py_ssize_t ld, Py_ssize_t n, const uint64_t *rngs,
                   bint drawing, int thread) noexcept nogil
    cdef Py_ssize_t find(self, const float *x, const int32_t *labels, Py_ssize_t n_labels,
                         int32_t *out, Py_ssize_t n, Py_ssize_t most, Marks *marks, uint64_t *rng,
                         int thread) noexcept nogil
    cdef Py_ssize_t _ask(self, const float *x, const int32_t *labels, Py_ssize_t n_labels,
                         int32_t *out, Py_ssize_t n, Py_ssize_t most, Marks *marks, uint64_t *rng,
                         int thread) noexcept nogil
    cdef inline Py_ssize_t meet(self, int t, uint64_t code, int32_t *out, Py_ssize_t n,
                                Py_ssize_t most, Marks *marks, uint64_t *rng,
                                Tally *tally) noexcept nogil:
        """Takes, or counts, what is in the bucket of table t with this code."""
        if self.strategy == VANILLA:
            return take_bucket(self.tables, t, code, out, n, most, marks, rng)
        count_bucket(self.tables, t, code, tally, self.tables.n_tables, marks)
        return n
    cdef Tally begin(self, int thread) noexcept nogil
    cdef Py_ssize_t settle(self, Tally *tally, int32_t *out, Py_ssize_t n, Py_ssize_t most,
                           Marks *marks, uint64_t *rng) noexcept nogil
    cdef int32_t *random_order(self, uint64_t *rng, int thread) noexcept nogil
    cdef int64_t total(self) noexcept nogil
    cdef inline void count(self, int thread, int64_t n) noexcept nogil:
        (<int64_t *> self.products.p[thread])[0] += n
    cdef void observe(self, const float *x, Py_ssize_t ld, Py_ssize_t n) noexcept nogil
    cdef void build(self, Parameters p, uint64_t seed, int n_threads) noexcept nogil
    cdef void refresh(self, Parameters p, const int32_t *changed, Py_ssize_t n, uint64_t seed,
                      bint new_functions, int n_threads) noexcept nogil
    cdef Py_ssize_t retrieve(self, const float *x, int32_t *out, Py_ssize_t n, Py_ssize_t most,
                             Marks *marks, uint64_t *rng, int thread) noexcept nogil
    cdef Py_ssize_t draw(self, const float *x, int32_t *out, Py_ssize_t n, Py_ssize_t most,
                         Marks *marks, uint64_t *rng, float *pi, int thread) noexcept nogil
    cdef Py_ssize_t probe(self, float *q, float squared, int32_t *out, Py_ssize_t n,
                          Py_ssize_t most, Marks *marks, uint64_t *rng, int thread) noexcept nogil
    cdef void codes_now(self, Parameters p, const int32_t *ids, Py_ssize_t n, uint64_t *out,
                        int n_threads) noexcept nogil
    cdef void codes_due(self, Parameters p, const int32_t *ids, Py_ssize_t n, uint64_t *out,
                        int n_threads) noexcept nogil
    cdef void roll(self, Parameters p, int table, Py_ssize_t first, Py_ssize_t last,
                   uint64_t seed, uint64_t *codes, int n_threads) noexcept nogil


cdef class HashRetriever(Retriever):
    cdef readonly HashFamily family
    cdef PerThread codes_of_thread, scratch
    cdef Buffer codes_buffer, moved_buffer
    cdef int tables_at_once
    # Whose functions `roll` hashes with: new ones of the table that is being renewed.
    cdef HashFamily next_family
    cdef uint64_t next_seed
    cdef int next_table             # -1: none is being renewed
    cdef Buffer order_buffer
    cdef void _codes(self, HashFamily family, Parameters p, Py_ssize_t row, int first, int last,
                     uint64_t *out, int thread) noexcept nogil
    cdef void _insert(self, Parameters p, const int32_t *ids, Py_ssize_t n, uint64_t seed,
                      int n_threads) noexcept nogil
