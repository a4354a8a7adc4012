from libc.stdint cimport int32_t, uint8_t, uint64_t

from slide._kernels.optim cimport Parameters
from slide._kernels.retrieval cimport Marks, Retriever
from slide._kernels.types cimport PerThread


cdef enum:
    # A row's projections since the last rebuild: untouched, kept in step with the weights, or not.
    UNTOUCHED, KEPT, LOST


cdef struct Probe:
    float cost
    int table
    int last                # of the set, the costliest change
    uint64_t changes        # from the query's own bucket: places in the table's list of changes


cdef struct Change:
    float cost              # squared distance to the cell's border
    int function
    int by                  # cells; for signs any other than 0


cdef class ProjectionRetriever(Retriever):
    """Signs or quantized values of random projections, kept for every neuron."""
    cdef readonly Py_ssize_t dim, n_neurons, width      # width: projections of a vector, padded
    cdef readonly int n_functions, n_tables, n_probes
    cdef int bits, transform, n_terms, n_changes
    cdef double bound
    cdef bint rademacher
    cdef readonly bint principal    # functions are fitted to the inputs
    cdef bint scans                 # looks at all neurons, without the tables
    cdef float cell                 # width of a quantization cell; 0: signs
    cdef double[::1] scale          # (1,): the norm by which weight vectors are divided
    cdef float[:, ::1] functions    # (L K, ld), as rows for dense vectors
    cdef float[:, ::1] terms        # (n_terms, width): coefficients of the appended coordinates
    cdef float[:, ::1] offsets      # (1, width)
    cdef float[:, ::1] columns      # (dim, width): the functions by coordinate
    cdef float[:, ::1] moments      # (dim, width): sums of inputs times their projections; inputs
    cdef double[::1] seen           # (2,): inputs in these sums, batches so far
    cdef float[::1] middle          # (width,): projections of the inputs' mean
    cdef float[:, ::1] kept         # (n_neurons, width): projections of the weights
    cdef float[::1] norms           # (n_neurons,): squared
    cdef uint64_t[:, ::1] codes     # (L, n_neurons)
    cdef uint8_t[::1] current       # UNTOUCHED, KEPT or LOST
    cdef PerThread found, scores, ids, new_codes, moved, queries, heaps, changes
    cdef void _draw(self, uint64_t seed) noexcept nogil
    cdef void learn(self, const int32_t *ids, const float *x, Py_ssize_t n) noexcept nogil
    cdef bint turn(self, uint64_t seed) noexcept nogil
    cdef bint _orthogonalize(self, Py_ssize_t i) noexcept nogil
    cdef void _orthogonalize_or_draw(self, Py_ssize_t i, uint64_t *state) noexcept nogil
    cdef Py_ssize_t _visit(self, float *q, float squared, int32_t *out, Py_ssize_t n,
                           Py_ssize_t most, Marks *marks, uint64_t *rng,
                           int thread) noexcept nogil
    cdef void project(self, const float *x, float *out, int thread) noexcept nogil
    cdef void project_some(self, const int32_t *ids, const float *x, Py_ssize_t n, float *out,
                           int thread) noexcept nogil
    cdef void shift(self, Parameters p, Py_ssize_t row, const int32_t *columns,
                    const float *change, Py_ssize_t n, int thread) noexcept nogil
    cdef void _keep(self, Parameters p, Py_ssize_t row, int thread) noexcept nogil
    cdef uint64_t _code(self, Py_ssize_t row, int table) noexcept nogil
    cdef bint _rescale(self, bint anyhow) noexcept nogil
    cdef void _move(self, int table, const int32_t *changed, Py_ssize_t n, uint64_t seed,
                    int thread) noexcept nogil
    cdef void _insert(self, Parameters p, const int32_t *changed, Py_ssize_t n, uint64_t seed,
                      int n_threads) noexcept nogil
    cdef void _codes_now(self, Parameters p, Py_ssize_t row, uint64_t *out,
                         int thread) noexcept nogil
    cdef int _note(self, Change *own, int n, Change change) noexcept nogil
