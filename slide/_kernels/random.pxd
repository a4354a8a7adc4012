"""splitmix64 (Steele, Lea & Flood 2014): every draw is a function of its key, not of a thread."""
from libc.math cimport cos, log, sqrt
from libc.stdint cimport uint32_t, uint64_t


cdef inline uint64_t mix64(uint64_t z) noexcept nogil:
    z = (z ^ (z >> 30)) * <uint64_t> 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t> 0x94D049BB133111EB
    return z ^ (z >> 31)


cdef inline uint64_t stream(uint64_t seed, uint64_t a, uint64_t b) noexcept nogil:
    """State of the generator for key (seed, a, b).

    Samples have (seed, step, row); what a batch or a rebuild draws has (~seed, purpose, number).
    """
    return mix64(mix64(mix64(seed + <uint64_t> 0x9E3779B97F4A7C15) ^ a)
                 + b * <uint64_t> 0xD1B54A32D192ED03)


cdef inline uint64_t next64(uint64_t *state) noexcept nogil:
    state[0] += <uint64_t> 0x9E3779B97F4A7C15
    return mix64(state[0])


cdef inline uint32_t below(uint64_t *state, uint32_t n) noexcept nogil:
    """Uniform in 0..n-1 by multiplication (Lemire 2019); bias under n / 2^32."""
    return <uint32_t> (((next64(state) >> 32) * n) >> 32)


cdef inline Py_ssize_t of_part(Py_ssize_t n, Py_ssize_t part, Py_ssize_t n_parts,
                               uint64_t *state) noexcept nogil:
    """A random one of the numbers below n in one of their n_parts equal parts: of no more parts
    than numbers, another for each."""
    cdef Py_ssize_t first = part * n // n_parts, stop = (part + 1) * n // n_parts
    return first + below(state, <uint32_t> max(<Py_ssize_t> 1, stop - first))


cdef inline double uniform(uint64_t *state) noexcept nogil:
    """In (0, 1]."""
    return ((next64(state) >> 11) + 1) * (1.0 / 9007199254740992.0)


cdef inline float normal(uint64_t *state) noexcept nogil:
    """Standard normal (Box & Muller 1958, one of the pair)."""
    cdef double r = sqrt(-2.0 * log(uniform(state)))
    return <float> (r * cos(6.283185307179586 * uniform(state)))


cdef inline void normals(float *out, Py_ssize_t n, uint64_t *state) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n):
        out[j] = normal(state)
