"""Memory of the kernels."""
cimport cython
from libc.string cimport memset
from posix.stdlib cimport posix_memalign
from libc.stdlib cimport free

cdef extern from *:
    """
    #include <sys/mman.h>
    #ifdef MADV_HUGEPAGE
    #define slide_wish_for_huge_pages(p, n) ((void)madvise(p, n, MADV_HUGEPAGE))
    #else
    #define slide_wish_for_huge_pages(p, n) ((void)0)
    #endif
    """
    void wish_for_huge_pages "slide_wish_for_huge_pages" (void *p, size_t n) noexcept nogil

cdef enum:
    LINES = 128
    HUGE_PAGE = 1 << 21
    LARGE = 1 << 22     # bytes whose random reads would miss the translations of small pages


@cython.final
cdef class Buffer:
    def __cinit__(self, Py_ssize_t n_bytes):
        if n_bytes < 0:
            raise ValueError(f"n_bytes={n_bytes}: negative")
        cdef size_t boundary = HUGE_PAGE if n_bytes >= LARGE else LINES
        if posix_memalign(&self.p, boundary, max(n_bytes, LINES)):
            self.p = NULL
            raise MemoryError(f"{n_bytes} bytes")
        if n_bytes >= LARGE:
            wish_for_huge_pages(self.p, n_bytes)
        memset(self.p, 0, max(n_bytes, LINES))
        self.n_bytes = n_bytes

    def __dealloc__(self):
        free(self.p)


@cython.final
cdef class PerThread:
    def __cinit__(self, int n_threads, Py_ssize_t n_bytes):
        self.buffers = [Buffer(n_bytes) for _ in range(n_threads)]
        self.pointers = Buffer(n_threads * sizeof(void *))
        self.p = <void **> self.pointers.p
        for i in range(n_threads):
            self.p[i] = (<Buffer> self.buffers[i]).p
