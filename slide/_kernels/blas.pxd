"""Row-major matrix products on SciPy's BLAS.

Callers hold BLAS to one thread: they are threads of ours.
"""
from scipy.linalg.cython_blas cimport sgemm


cdef inline void gemm(char ta, char tb, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
                      const float *a, Py_ssize_t lda, const float *b, Py_ssize_t ldb,
                      float *c, Py_ssize_t ldc, float beta=0) noexcept nogil:
    """c (m, n) = op(a) op(b) + beta c, row-major; ta, tb are b'N' or b'T'."""
    cdef int m_ = <int> m, n_ = <int> n, k_ = <int> k
    cdef int lda_ = <int> lda, ldb_ = <int> ldb, ldc_ = <int> ldc
    cdef float one = 1
    if m > 0 and n > 0:
        # Column-major BLAS sees every operand transposed: c^T = op(b)^T op(a)^T.
        sgemm(&tb, &ta, &n_, &m_, &k_, &one, <float *> b, &ldb_, <float *> a, &lda_, &beta, c,
              &ldc_)
