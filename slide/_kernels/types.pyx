"""Memory of the kernels."""
cimport cython
from libc.string cimport memset
from posix.stdlib cimport posix_memalign
from libc.stdlib cimport free


@cython.final
cdef class Buffer:
    def __cinit__(self, Py_ssize_t n_bytes):
        if n_bytes < 0:
            raise ValueError(f"n_bytes={n_bytes}: negative")
        if posix_memalign(&self.p, 128, max(n_bytes, 128)):
            self.p = NULL
            raise MemoryError(f"{n_bytes} bytes")
        memset(self.p, 0, max(n_bytes, 128))
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
