"""Clocks around the kernels, for the benchmarks; training itself does not use them."""
cimport cython
from cpython.object cimport PyObject
from cython.parallel cimport prange
from libc.math cimport isfinite
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memset

from slide._kernels.blas cimport gemm
from slide._kernels.layers cimport LayerKernel, SampledDense
from slide._kernels.openmp cimport omp_get_thread_num, omp_get_wtime
from slide._kernels.random cimport stream
from slide._kernels.simd cimport prefetch, simd
from slide._kernels.types cimport BLOCK, Batch, Buffer, PerThread

import numpy as np

cdef enum:
    CHUNK = 64          # shared rows whose gradient one task sums
    N_CLOCKS = 16
    LINE = 16           # floats of a cache line

cdef enum Clock:
    BELOW_FORWARD, SHARED_FORWARD, SELECT, DOTS, LOSS, SHARED_GRADIENT, GRADIENT, BELOW_BACKWARD
    SHARED_UPDATE, SORT, UPDATE, BELOW_UPDATE, DRAW, FINISH

PHASES = ("below: forward", "shared: forward", "select", "dots", "loss", "shared: gradient",
          "gradient", "below: backward", "shared: update", "sort", "update", "below: update",
          "draw", "finish")


def _check(const float[:, ::1] W, const int32_t[:, ::1] ids, int n_threads):
    if W.shape[1] % LINE or n_threads < 1 or ids.shape[0] < 1 or ids.shape[1] < 1:
        raise ValueError(f"rows of {W.shape[1]} floats, ids {ids.shape[0], ids.shape[1]}, "
                         f"{n_threads} threads")
    if not 0 <= np.min(ids) <= np.max(ids) < W.shape[0]:
        raise ValueError(f"a row is not one of {W.shape[0]}")


def products(const float[:, ::1] W, const int32_t[:, ::1] ids, const float[::1] x,
             int n_threads=1, int repeats=1):
    """Seconds that `rows_dot` takes on lists of rows: W[ids[i]] x for every list i."""
    _check(W, ids, n_threads)
    if x.shape[0] != W.shape[1]:
        raise ValueError(f"x has {x.shape[0]} values, rows have {W.shape[1]}")
    cdef PerThread out = PerThread(n_threads, ids.shape[1] * sizeof(float))
    cdef double started
    cdef Py_ssize_t i, n = ids.shape[0] * repeats
    with nogil:
        started = omp_get_wtime()
        for i in prange(n, schedule="static", num_threads=n_threads):
            simd.rows_dot(<float *> out.p[omp_get_thread_num()], &W[0, 0], W.shape[1],
                          &ids[i % ids.shape[0], 0], ids.shape[1], &x[0])
        started = omp_get_wtime() - started
    return started


def sums(const float[:, ::1] W, const int32_t[:, ::1] ids, const float[::1] c, int n_threads=1,
         int repeats=1):
    """Seconds that `rows_axpy` takes on lists of rows: c W[ids[i]] for every list i."""
    _check(W, ids, n_threads)
    if c.shape[0] != ids.shape[1]:
        raise ValueError(f"{c.shape[0]} coefficients of {ids.shape[1]} rows")
    cdef PerThread out = PerThread(n_threads, W.shape[1] * sizeof(float))
    cdef double started
    cdef Py_ssize_t i, n = ids.shape[0] * repeats
    with nogil:
        started = omp_get_wtime()
        for i in prange(n, schedule="static", num_threads=n_threads):
            simd.rows_axpy(<float *> out.p[omp_get_thread_num()], W.shape[1], &W[0, 0],
                           W.shape[1], &ids[i % ids.shape[0], 0], &c[0], ids.shape[1])
        started = omp_get_wtime() - started
    return started


def touches(float[:, ::1] W, const int32_t[:, ::1] ids, Py_ssize_t ahead, bint write=False,
            int n_threads=1):
    """Seconds to load every cache line of the listed rows, each row prefetched `ahead` rows before
    it is needed, with next to no arithmetic: the limit that memory sets.

    write : every line is written as well (the value that it has)
    """
    _check(W, ids, n_threads)
    cdef PerThread out = PerThread(n_threads, sizeof(float))
    cdef double started
    cdef Py_ssize_t i
    with nogil:
        started = omp_get_wtime()
        for i in prange(ids.shape[0], schedule="static", num_threads=n_threads):
            touch(&W[0, 0], W.shape[1], &ids[i, 0], ids.shape[1], ahead, write,
                  <float *> out.p[omp_get_thread_num()])
        started = omp_get_wtime() - started
    return started


cdef void touch(float *W, Py_ssize_t ld, const int32_t *ids, Py_ssize_t n, Py_ssize_t ahead,
                bint write, float *out) noexcept nogil:
    cdef float s = 0
    cdef float *row
    cdef Py_ssize_t i, k
    for i in range(min(ahead, n)):
        prefetch(W + ids[i] * ld, ld)
    for i in range(n):
        if i + ahead < n:
            prefetch(W + ids[i + ahead] * ld, ld)
        row = W + ids[i] * ld
        if write:
            simd.scale(row, ld, 1)
            continue
        k = 0
        while k < ld:
            s += row[k]
            k += LINE
    out[0] += s


def reads(const float[::1] a, int n_threads=1):
    """Seconds to add up the squares of a long array: the bandwidth of reading in order."""
    cdef PerThread out = PerThread(n_threads, sizeof(float))
    cdef double started
    cdef Py_ssize_t i, piece = 1 << 18, n = a.shape[0] // piece
    if n < 1:
        raise ValueError(f"an array of {a.shape[0]}, at least {piece} needed")
    with nogil:
        started = omp_get_wtime()
        for i in prange(n, schedule="static", num_threads=n_threads):
            (<float *> out.p[omp_get_thread_num()])[0] += simd.sumsq(&a[i * piece], piece)
        started = omp_get_wtime() - started
    return started, n * piece


def matrix_products(Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, int n_threads=1, int repeats=1):
    """Seconds of `repeats` matrix products (m, k) (k, n), shared out to threads."""
    if min(m, n, k, repeats) < 1:
        raise ValueError(f"{repeats} products of {m}, {n}, {k}")
    cdef PerThread work = PerThread(n_threads, (m * k + k * n + m * n) * sizeof(float))
    cdef double started
    cdef Py_ssize_t _
    cdef float *a
    with nogil:
        started = omp_get_wtime()
        for _ in prange(repeats, schedule="static", num_threads=n_threads):
            a = <float *> work.p[omp_get_thread_num()]
            gemm(b"N", b"T", m, n, k, a, k, a + m * k, k, a + m * k + k * n, n)
        started = omp_get_wtime() - started
    return started


@cython.final
cdef class Clocks:
    """Seconds of every phase on every thread."""
    cdef PerThread seconds

    def __cinit__(self, int n_threads):
        self.seconds = PerThread(n_threads, N_CLOCKS * sizeof(double))

    cdef inline double add(self, int thread, int phase, double since) noexcept nogil:
        """The time now; what has passed is the phase's."""
        cdef double now = omp_get_wtime()
        (<double *> self.seconds.p[thread])[phase] += now - since
        return now


def train_with_clocks(layers, x, y, const int64_t[::1] rows, Py_ssize_t batch_size, float lr,
                      uint64_t seed, uint64_t step, uint64_t first_step, int n_threads):
    """Train on batches as `Network.train` does, with a clock around every phase.

    Parameters
    ----------
    layers : list of LayerKernel
        Of a `Network` that is allocated for training with these sizes; the last one has an active
        set. The first is on sparse features.
    x, y : (indptr int64, indices int32, data float32)
    rows : samples, whole batches
    step, first_step : the number of the next step, and that at which the optimizer started

    Returns
    -------
    seconds : dict of float
        By phase. Threads that work side by side count with their mean, so that the sum is about
        the time that has passed.
    counts : dict of int
        rows: of samples' own neurons; distinct: of these, different ones within a batch; features:
        different ones within a batch; rebuild_seconds, wall_seconds.
    """
    cdef int n_layers = len(layers)
    cdef SampledDense out = layers[n_layers - 1]
    cdef Buffer pointers = Buffer(n_layers * sizeof(void *))
    cdef PyObject **kernels = <PyObject **> pointers.p
    cdef const int64_t[::1] x_indptr = x[0], y_indptr = y[0]
    cdef const int32_t[::1] x_indices = x[1], y_indices = y[1]
    cdef const float[::1] x_data = x[2], y_data = y[2]
    cdef Py_ssize_t i, k, n_batches = rows.shape[0] // batch_size
    cdef Clocks clocks = Clocks(n_threads)
    cdef Batch b
    cdef double wall = 0, started
    cdef bint fine = True
    if n_batches * batch_size != rows.shape[0] or out.rows is None or out.given.ids != NULL:
        raise ValueError("not whole batches, not allocated for training, or sampled hidden layers")
    if not 0 <= np.min(rows) <= np.max(rows) < x_indptr.shape[0] - 1:
        raise ValueError("a row is out of range")
    memset(&b, 0, sizeof(Batch))
    for i in range(n_layers):
        kernels[i] = <PyObject *> (<LayerKernel?> layers[i])
    b.n, b.n_threads, b.seed, b.lr = batch_size, n_threads, seed, lr
    b.first_step, b.scale = first_step, <float> (1.0 / batch_size)
    b.x_indptr, b.x_indices, b.x_data = &x_indptr[0], &x_indices[0], &x_data[0]
    b.y_indptr, b.y_indices, b.y_data = &y_indptr[0], &y_indices[0], &y_data[0]
    counts = {"rows": 0, "distinct": 0, "features": 0, "n_shared": out.active_set.n_shared}
    rebuilding = out.active_set.rebuilds.seconds
    for k in range(n_batches):
        b.rows, b.step = &rows[k * batch_size], step + k
        started = omp_get_wtime()
        with nogil:
            fine = one_batch(kernels, n_layers, out, &b, clocks)
        wall += omp_get_wtime() - started
        if not fine:
            raise FloatingPointError("training diverged")
        ids = np.concatenate([np.array(<int32_t[:max(1, out.count[i])]> (
            out.ids + i * out.capacity))[:out.count[i]] for i in range(batch_size)])
        features = [np.asarray(x_indices[x_indptr[r]:x_indptr[r + 1]])
                    for r in rows[k * batch_size:(k + 1) * batch_size]]
        counts["rows"] += len(ids)
        counts["distinct"] += len(np.unique(ids))
        counts["features"] += len(np.unique(np.concatenate(features)))
    seconds = {name: sum([(<double *> clocks.seconds.p[k])[i] for k in range(n_threads)])
               for i, name in enumerate(PHASES)}
    counts["rebuild_seconds"] = out.active_set.rebuilds.seconds - rebuilding
    counts["wall_seconds"] = wall
    for name in seconds:
        # These run on one thread, or one thread waits for the others within them.
        if name not in ("draw", "below: update", "finish"):
            seconds[name] /= n_threads
    seconds["draw"] -= counts["rebuild_seconds"]
    return seconds, counts


cdef bint one_batch(PyObject **kernels, int n_layers, SampledDense out, Batch *b,
                    Clocks clocks) noexcept nogil:
    cdef Py_ssize_t k, n_blocks = (b.n + BLOCK - 1) // BLOCK, n_failed = 0
    cdef Py_ssize_t n_chunks = (out.active_set.n_shared + CHUNK - 1) // CHUNK
    cdef int i
    cdef double now
    now = omp_get_wtime()
    for i in range(n_layers):
        (<LayerKernel> kernels[i]).optimizer.tick(<double> (b.step - b.first_step))
        (<LayerKernel> kernels[i]).begin(b)
    clocks.add(0, DRAW, now)
    for k in prange(n_blocks, schedule="dynamic", chunksize=1, num_threads=b.n_threads):
        n_failed += not one_block(kernels, n_layers, out, b, k * BLOCK,
                                  min(b.n, (k + 1) * BLOCK), clocks, omp_get_thread_num())
    if n_failed:
        return False
    now = omp_get_wtime()
    for i in range(n_layers - 1):
        (<LayerKernel> kernels[i]).update(b)
    now = clocks.add(0, BELOW_UPDATE, now)
    out.rows.begin(b.n)
    clocks.add(0, SORT, now)
    for k in prange(n_blocks + n_chunks, schedule="dynamic", chunksize=1, num_threads=b.n_threads):
        scatter(out, b, k, n_chunks, clocks, omp_get_thread_num())
    for k in prange(out.rows.n_parts, schedule="dynamic", chunksize=1, num_threads=b.n_threads):
        step_part(out, b, k, clocks, omp_get_thread_num())
    now = omp_get_wtime()
    for i in range(n_layers):
        (<LayerKernel> kernels[i]).finish(b)
    clocks.add(0, FINISH, now)
    return True


cdef void scatter(SampledDense out, Batch *b, Py_ssize_t k, Py_ssize_t n_chunks, Clocks clocks,
                  int thread) noexcept nogil:
    cdef double now = omp_get_wtime()
    if k < n_chunks:
        out._sum_shared(b, k * CHUNK)
        clocks.add(thread, SHARED_UPDATE, now)
    else:
        out.rows.scatter_block(k - n_chunks, b.n)
        clocks.add(thread, SORT, now)


cdef void step_part(SampledDense out, Batch *b, Py_ssize_t part, Clocks clocks,
                    int thread) noexcept nogil:
    cdef double now = omp_get_wtime()
    out.rows.step_part(out.params, part, out.x, out.ld_in, b.lr, thread)
    clocks.add(thread, UPDATE, now)


cdef bint one_block(PyObject **kernels, int n_layers, SampledDense out, Batch *b,
                    Py_ssize_t first, Py_ssize_t last, Clocks clocks, int thread) noexcept nogil:
    cdef Py_ssize_t s, n_shared = out.active_set.n_shared, ld = out.params.ld
    cdef int64_t row, at
    cdef double now = omp_get_wtime()
    cdef float *x
    cdef int i
    for i in range(n_layers - 1):
        (<LayerKernel> kernels[i]).forward(b, first, last, thread)
    now = clocks.add(thread, BELOW_FORWARD, now)
    if n_shared:
        gemm(b"N", b"T", last - first, n_shared, out.n_in + 1, out.x + first * out.ld_in, out.ld_in,
             out.shared_w, ld, out.out + first * out.ldz, out.ldz)
    now = clocks.add(thread, SHARED_FORWARD, now)
    for s in range(first, last):
        x = out.x + s * out.ld_in
        row = b.rows[s]
        at = b.y_indptr[row]
        out.count[s] = out.drawn[s] = 0
        if b.y_indptr[row + 1] > at or not out.loss.needs_labels:
            out.count[s] = <int32_t> out.active_set.select(
                x, b.y_indices + at, b.y_indptr[row + 1] - at, out.ids + s * out.capacity,
                stream(b.seed, b.step, <uint64_t> row), out.drawn + s, thread)
        now = clocks.add(thread, SELECT, now)
        simd.rows_dot(out.own(s).val, out.params.w, ld, out.own(s).idx, out.count[s], x)
        now = clocks.add(thread, DOTS, now)
    for s in range(first, last):
        if not isfinite(out.lose(b, s)):
            return False
    now = clocks.add(thread, LOSS, now)
    if n_shared:
        gemm(b"N", b"N", last - first, out.n_in, n_shared, out.out + first * out.ldz, out.ldz,
             out.shared_w, ld, out.dx + first * out.ld_in, out.ld_in)
    else:
        memset(out.dx + first * out.ld_in, 0, (last - first) * out.ld_in * sizeof(float))
    now = clocks.add(thread, SHARED_GRADIENT, now)
    for s in range(first, last):
        simd.rows_axpy(out.dx + s * out.ld_in, ld, out.params.w, ld, out.own(s).idx,
                       out.own(s).grad, out.count[s])
        out.rows.add(s, out.own(s).idx, out.own(s).grad, out.count[s])
    now = clocks.add(thread, GRADIENT, now)
    out.rows.count_block(first // BLOCK, b.n)
    now = clocks.add(thread, SORT, now)
    for i in range(n_layers - 2, -1, -1):
        (<LayerKernel> kernels[i]).backward(b, first, last, thread)
    clocks.add(thread, BELOW_BACKWARD, now)
    return True
