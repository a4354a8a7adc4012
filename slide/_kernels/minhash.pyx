"""MinHash of the largest coordinates by one permutation a table."""
cimport cython
from libc.stdint cimport int32_t, uint32_t, uint64_t

from slide._kernels.hashing cimport (NO_BUCKET, HashFamily, append, in_range, is_zero, nowhere,
                                     shuffle)
from slide._kernels.random cimport below, mix64, stream
from slide._kernels.types cimport Buffer, padded

import numpy as np

cdef enum:
    EMPTY = 0x7fffffff


@cython.final
cdef class MinHash(HashFamily):
    """
    The K functions of a table are the smallest places in K equal parts (bins) of one permutation
    (Li, Owen & Zhang 2012). Bin i without a member takes that of bin hash(i, 1), hash(i, 2), ...,
    the first that has one (Shrivastava 2017). Values are places of the whole permutation, so they
    say which bin they come from.
    """
    cdef int32_t[:, ::1] places     # (L, dim): bin << bits of the rest | place in the bin
    cdef Buffer permutation
    cdef int shift, value_bits
    cdef Py_ssize_t top_k
    cdef bint packed

    def __cinit__(self, Py_ssize_t dim, int n_functions, int n_tables, Py_ssize_t top_k,
                  uint64_t seed):
        cdef Py_ssize_t widest = (dim + n_functions - 1) // n_functions
        self.dim, self.ld, self.top_k = dim, padded(dim), min(top_k, dim)
        self.n_functions, self.n_tables = n_functions, n_tables
        self.shift = len(bin(widest - 1)) - 2 if widest > 1 else 0
        self.value_bits = len(bin((n_functions << self.shift) - 1)) - 2
        if self.value_bits > 31:
            raise ValueError(f"{dim} coordinates: too many")
        # Codes that do not fit are mixed: two of them are equal by chance once in 2^63.
        self.packed = n_functions * self.value_bits <= 63
        self.code_bits = n_functions * self.value_bits if self.packed else 63
        self.permutation = Buffer(dim * sizeof(int32_t))
        places = np.zeros((n_tables, dim), dtype=np.int32)
        self.arrays = {"places": places}
        self.places = places
        self.redraw(seed, 0, n_tables)

    def check_arrays(self, arrays):
        in_range(arrays, "places", self.n_functions << self.shift)

    cdef void redraw(self, uint64_t seed, int first, int last) noexcept nogil:
        cdef int32_t *p = <int32_t *> self.permutation.p
        cdef uint64_t state
        cdef Py_ssize_t t, j, k, start, end
        for t in range(first, last):
            state = stream(seed, 10, t)
            for j in range(self.dim):
                p[j] = <int32_t> j
            shuffle(p, self.dim, 0, self.dim, &state)
            start = 0
            for k in range(self.n_functions):
                end = (k + 1) * self.dim // self.n_functions
                for j in range(start, end):
                    self.places[t, p[j]] = <int32_t> (k << self.shift | (j - start))
                start = end

    cdef Py_ssize_t scratch_floats(self) noexcept nogil:
        return self.top_k + self.n_functions

    cdef Py_ssize_t members(self, const float *x, int32_t *set_) noexcept nogil:
        """The top_k largest coordinates above 0, of equals those of smaller ids; how many."""
        cdef Py_ssize_t n = 0, i
        cdef int32_t j
        for j in range(<int32_t> self.dim):
            if not x[j] > 0:
                continue
            if n < self.top_k:
                set_[n] = j
                n += 1
                if n == self.top_k:
                    for i in range(n // 2 - 1, -1, -1):
                        sift(set_, i, n, x)
            elif x[j] > x[set_[0]]:
                set_[0] = j
                sift(set_, 0, n, x)
        return n

    cdef void codes(self, const float *x, int first, int last, uint64_t *out,
                    float *scratch) noexcept nogil:
        cdef int32_t *set_ = <int32_t *> scratch
        cdef Py_ssize_t n = self.members(x, set_)
        cdef int t
        if n == 0:
            nowhere(out, last - first)
            return
        for t in range(first, last):
            out[t - first] = self._code(t, set_, n, set_ + self.top_k)

    cdef uint64_t any_code(self, const float *x, int table, uint64_t key,
                           float *scratch) noexcept nogil:
        """That of the largest of values in random order, of which half are above 0."""
        cdef int32_t *set_ = <int32_t *> scratch
        cdef Py_ssize_t n = min(self.top_k, (self.dim + 1) // 2), i
        if not is_zero(x, self.dim):
            return NO_BUCKET
        for i in range(n):              # with repetition, which a set does not mind
            set_[i] = <int32_t> below(&key, <uint32_t> self.dim)
        return self._code(table, set_, n, set_ + self.top_k)

    cdef uint64_t _code(self, Py_ssize_t t, const int32_t *set_, Py_ssize_t n,
                        int32_t *least) noexcept nogil:
        """The code of a set of n members in table t; least: scratch."""
        cdef const int32_t *place = &self.places[t, 0]
        cdef int32_t v
        cdef Py_ssize_t i
        cdef int k, b
        cdef uint64_t code = 0, tries
        for k in range(self.n_functions):
            least[k] = EMPTY
        for i in range(n):
            v = place[set_[i]]
            b = v >> self.shift
            least[b] = min(least[b], v)
        for k in range(self.n_functions):
            b, tries = k, 0
            while least[b] == EMPTY:
                # After 2^12 tries, bins in their order: the loop ends for any set.
                tries += 1
                b = <int> ((mix64(((<uint64_t> t * self.n_functions + k) << 16) + tries)
                            if tries < 4096 else tries) % <uint64_t> self.n_functions)
            if self.packed:
                code = code << self.value_bits | <uint64_t> least[b]
            else:
                code = append(code, <uint64_t> least[b])
        return code if self.packed else code >> 1


cdef inline bint smaller(int32_t a, int32_t b, const float *x) noexcept nogil:
    return x[a] < x[b] or (x[a] == x[b] and a > b)


cdef void sift(int32_t *heap, Py_ssize_t i, Py_ssize_t n, const float *x) noexcept nogil:
    # A heap with the smallest, of equals the largest id, at its root.
    cdef Py_ssize_t child
    cdef int32_t moving = heap[i]
    while True:
        child = 2 * i + 1
        if child >= n:
            break
        if child + 1 < n and smaller(heap[child + 1], heap[child], x):
            child += 1
        if not smaller(heap[child], moving, x):
            break
        heap[i] = heap[child]
        i = child
    heap[i] = moving
