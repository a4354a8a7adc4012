from libc.stdint cimport int32_t


cdef struct Weights:
    # Inclusion probabilities of computed outputs: `first` for the n_first of them at the start,
    # `last` for the n_last at the end, 1 for those between.
    Py_ssize_t n_first, n_last
    float first, last
    # Where not NULL, every one of the n_first and of the n_last has its own; labels have 1.
    const float *each_first
    const float *log_first          # -log of each_first
    const float *each_last


cdef class Loss:
    cdef readonly bint needs_labels     # a sample without labels teaches nothing
    cdef readonly bint is_softmax
    cdef double gradient(self, float *z, Py_ssize_t n, Weights weights, const int32_t *where,
                         Py_ssize_t first, const float *y,
                         Py_ssize_t n_y, Py_ssize_t n_outputs, float scale) noexcept nogil
