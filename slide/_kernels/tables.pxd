from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from slide._kernels.types cimport Buffer


cdef enum Overflow:
    FIFO, RESERVOIR


cdef class Tables:
    """L hash tables over the same items, each a counting-sorted array of item ids."""
    cdef readonly Py_ssize_t n_items, n_slots
    cdef readonly int n_tables, code_bits
    cdef readonly Py_ssize_t capacity   # of what a bucket shows to queries; 0: all of it
    cdef readonly int overflow          # FIFO: the last ones that came; RESERVOIR: any
    cdef uint64_t seed
    cdef int64_t[::1] inserts           # calls of insert so far, for each table
    cdef int slot_bits, tag_bits
    cdef bint mixed
    cdef Buffer id_buffer, start_buffer, tag_buffer, pointer_buffer
    # Per table: ids in the order of their slots, slots' starts, and the rest of the code (tag)
    # where slots are fewer than codes. The last n_threads of each are spares to build into.
    cdef int32_t **ids
    cdef int32_t **starts
    cdef uint8_t **tags
    cdef Py_ssize_t slot_of(self, uint64_t code, uint8_t *tag) noexcept nogil
    cdef void shown(self, int table, Py_ssize_t slot, uint8_t tag, Py_ssize_t *first,
                    Py_ssize_t *count) noexcept nogil
    cdef void _shuffle(self, int table, const uint8_t *moved, bint all_new) noexcept nogil
    cdef void insert(self, int table, const int32_t *items, const uint64_t *codes,
                     Py_ssize_t stride, Py_ssize_t n, const uint8_t *moved,
                     int thread) noexcept nogil
    cdef void refill(self, int table, const uint64_t *codes, const uint8_t *moved,
                     int thread) noexcept nogil
