"""The largest of some values."""
from libc.stdint cimport int32_t
from libc.string cimport memcpy, memset

from slide._kernels.simd cimport LOG_BINS, simd


cdef inline float kth_largest(float *a, Py_ssize_t n, Py_ssize_t k) noexcept nogil:
    """Of n >= k >= 1 values, which are put into another order (Hoare's selection, CACM 1961)."""
    cdef Py_ssize_t left = 0, right = n - 1, i, j
    cdef float pivot, swap
    k -= 1
    while left < right:
        pivot = a[(left + right) // 2]
        i, j = left, right
        while i <= j:
            while a[i] > pivot:
                i += 1
            while a[j] < pivot:
                j -= 1
            if i <= j:
                swap = a[i]
                a[i] = a[j]
                a[j] = swap
                i += 1
                j -= 1
        if k <= j:
            right = j
        elif k >= i:
            left = i
        else:
            break
    return a[k]


cdef enum:
    BINS = 1 << LOG_BINS


cdef inline float threshold(const float *z, Py_ssize_t n, Py_ssize_t k,
                            float *scratch) noexcept nogil:
    """The k-th largest of n >= k >= 1 values; scratch has room for 2 n of them."""
    cdef int32_t[BINS] count
    cdef int32_t *bin = <int32_t *> scratch + n
    cdef float low, high
    cdef Py_ssize_t j, m = 0
    cdef int32_t b
    if n <= BINS // 2:
        memcpy(scratch, z, n * sizeof(float))
        return kth_largest(scratch, n, k)
    simd.range(z, n, &low, &high)
    if not high > low:
        return low
    # A histogram first: selection proper is slow because its branches are unpredictable.
    memset(count, 0, BINS * sizeof(int32_t))
    simd.bins(bin, z, n, low, (BINS - 1) / (high - low))
    for j in range(n):
        count[bin[j]] += 1
    b = BINS - 1
    while b > 0 and count[b] < k:
        k -= count[b]
        b -= 1
    for j in range(n):
        scratch[m] = z[j]
        m += bin[j] == b
    return kth_largest(scratch, m, min(k, m)) if m else low


cdef inline Py_ssize_t largest(const float *z, const int32_t *ids, Py_ssize_t n, Py_ssize_t k,
                               int32_t *out_ids, float *out, float *scratch) noexcept nogil:
    """The k largest of n values and their ids (NULL: 0, 1, ...), in their order; of equals the
    first. The results may take the place of the arguments; scratch has room for 2 n values."""
    cdef float least
    cdef Py_ssize_t j, m = 0, ties = k
    cdef bint equal, kept
    cdef float v
    if n <= k:
        for j in range(n):
            out_ids[j] = ids[j] if ids != NULL else <int32_t> j
            out[j] = z[j]
        return n
    if k < 1:
        return 0
    least = threshold(z, n, k, scratch)
    for j in range(n):
        ties -= z[j] > least
    for j in range(n):
        if m == k:
            break
        v = z[j]
        equal = v == least
        kept = (v > least) | (equal & (ties > 0))
        ties -= equal
        out_ids[m] = ids[j] if ids != NULL else <int32_t> j
        out[m] = v
        m += kept
    return m
