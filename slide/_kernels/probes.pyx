"""Row kernels and bandwidth of the machine by the clock, for the benchmarks."""
from cython.parallel cimport prange
from libc.math cimport INFINITY
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int8_t, int32_t, uint8_t

from slide._kernels.blas cimport gemm
from slide._kernels.openmp cimport omp_get_thread_num, omp_get_wtime
from slide._kernels.optim cimport FAR
from slide._kernels.simd cimport Codes, Query, prefetch, simd
from slide._kernels.types cimport Buffer, PerThread

import numpy as np

cdef enum:
    LINE = 16           # floats of a cache line


def _check(const float[:, ::1] W, const int32_t[:, ::1] ids, int n_threads):
    if W.shape[1] % LINE or n_threads < 1 or ids.shape[0] < 1 or ids.shape[1] < 1:
        raise ValueError(f"rows of {W.shape[1]} floats, ids {ids.shape[0], ids.shape[1]}, "
                         f"{n_threads} threads")
    if not 0 <= np.min(ids) <= np.max(ids) < W.shape[0]:
        raise ValueError(f"a row is not one of {W.shape[0]}")


def products(const float[:, ::1] W, const int32_t[:, ::1] ids, const float[::1] x,
             int n_threads=1, int repeats=1):
    """Seconds that row products take, as layers make them of a table of that size: W[ids[i]] x for
    every list i."""
    dot = simd.far_dot if W.shape[0] * W.shape[1] * sizeof(float) > FAR else simd.rows_dot
    _check(W, ids, n_threads)
    if x.shape[0] != W.shape[1]:
        raise ValueError(f"x has {x.shape[0]} values, rows have {W.shape[1]}")
    cdef PerThread out = PerThread(n_threads, ids.shape[1] * sizeof(float))
    cdef double started
    cdef Py_ssize_t i, n = ids.shape[0] * repeats
    with nogil:
        started = omp_get_wtime()
        for i in prange(n, schedule="static", num_threads=n_threads):
            dot(<float *> out.p[omp_get_thread_num()], &W[0, 0], W.shape[1],
                &ids[i % ids.shape[0], 0], ids.shape[1], &x[0])
        started = omp_get_wtime() - started
    return started


def sums(const float[:, ::1] W, const int32_t[:, ::1] ids, const float[::1] c, int n_threads=1,
         int repeats=1):
    """The same of sums of rows: c W[ids[i]] for every list i."""
    axpy = simd.far_axpy if W.shape[0] * W.shape[1] * sizeof(float) > FAR else simd.rows_axpy
    _check(W, ids, n_threads)
    if c.shape[0] != ids.shape[1]:
        raise ValueError(f"{c.shape[0]} coefficients of {ids.shape[1]} rows")
    cdef PerThread out = PerThread(n_threads, W.shape[1] * sizeof(float))
    cdef double started
    cdef Py_ssize_t i, n = ids.shape[0] * repeats
    with nogil:
        started = omp_get_wtime()
        for i in prange(n, schedule="static", num_threads=n_threads):
            axpy(<float *> out.p[omp_get_thread_num()], W.shape[1], &W[0, 0], W.shape[1],
                 &ids[i % ids.shape[0], 0], &c[0], ids.shape[1])
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


cdef void _score_codes(const Codes *coded, Py_ssize_t n, float *work) noexcept nogil:
    """Scores n codes, and keeps none."""
    cdef Query query
    cdef ptrdiff_t found
    query.item, query.score = <int32_t *> work, work + 16
    query.q = <int8_t *> (work + 32)
    query.base, query.step, query.least, query.noise = 0, 1, INFINITY, NULL
    simd.sketch_scan(&found, &query, 1, coded, 0, n, 1)


def byte_products(const uint8_t[::1] codes, int n_components, int n_threads=1, int repeats=1):
    """Seconds of `repeats` scans of codes, of which none is kept, and the multiplications made."""
    cdef Py_ssize_t n = codes.shape[0] // n_components // 16 * 16, _
    if n < 16 or n_components < 8 or n_components > 1024 or n_components % 8 or n_threads < 1:
        raise ValueError(f"{codes.shape[0]} codes of {n_components}, {n_threads} threads")
    cdef Buffer floats = Buffer(n * sizeof(float))
    cdef PerThread out = PerThread(n_threads, 32 * sizeof(float) + n_components)
    cdef Codes coded
    cdef double started
    coded.values, coded.n_quads = &codes[0], n_components // 4
    coded.scale = coded.offset = <float *> floats.p
    with nogil:
        started = omp_get_wtime()
        for _ in prange(repeats, schedule="static", num_threads=n_threads):
            _score_codes(&coded, n, <float *> out.p[omp_get_thread_num()])
        started = omp_get_wtime() - started
    return started, n * n_components * repeats


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
