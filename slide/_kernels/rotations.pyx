"""Families of rotations: signs of fast rotations, and corners of cross-polytopes.

A fast rotation is H D3 H D2 H D1: H the Walsh-Hadamard matrix, D random signs. All that is kept of
it is the seed that its signs come from.
"""
cimport cython
from libc.math cimport fabsf
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

from slide._kernels.hashing cimport HashFamily, is_zero, nowhere
from slide._kernels.random cimport next64, normals, stream
from slide._kernels.simd cimport simd
from slide._kernels.types cimport padded

import numpy as np


def order_of(Py_ssize_t dim):
    """Order of the Walsh-Hadamard matrix for vectors of `dim` values.

    At least 64: outputs are sums of so many random signs, which must be nearly normal.
    """
    return max(64, 1 << (dim - 1).bit_length())


def rotation_cost(Py_ssize_t order):
    """Additions and changes of sign of one fast rotation."""
    return 3 * order * int(order).bit_length()


cdef void rotate(const float *x, Py_ssize_t ld, float *z, Py_ssize_t order, uint64_t *signs,
                 uint64_t seed, uint64_t number) noexcept nogil:
    """z (order floats) = fast rotation `number` of a seed of x (ld <= order floats)."""
    cdef uint64_t state = stream(seed, 11, number)
    cdef Py_ssize_t i, _
    memcpy(z, x, ld * sizeof(float))
    memset(z + ld, 0, (order - ld) * sizeof(float))
    for _ in range(3):
        for i in range(order // 64):
            signs[i] = next64(&state)
        simd.hadamard(z, order, signs)


@cython.final
cdef class FastSimHash(HashFamily):
    """
    Signs of fast rotations. As many tables as fit share one, each with outputs of its own; codes
    longer than a rotation's outputs take several. Tables of different seeds never share: a table
    that is drawn anew leaves its old rotation to the others.
    """
    cdef uint64_t[::1] seeds        # (L)
    cdef Py_ssize_t order
    cdef int together               # tables of a rotation
    cdef int n_rotations            # of a code

    def __cinit__(self, Py_ssize_t dim, int n_functions, int n_tables, uint64_t seed):
        self.dim, self.ld, self.order = dim, padded(dim), order_of(dim)
        self.n_functions, self.n_tables, self.code_bits = n_functions, n_tables, n_functions
        self.n_values = 2
        self.together = <int> max(1, min(n_tables, self.order // n_functions))
        self.n_rotations = <int> ((n_functions + self.order - 1) // self.order)
        cdef Py_ssize_t groups = (n_tables + self.together - 1) // self.together
        self.products = groups * self.n_rotations * rotation_cost(self.order) // n_tables
        seeds = np.zeros(n_tables, dtype=np.uint64)
        self.arrays = {"seeds": seeds}
        self.seeds = seeds
        self.redraw(seed, 0, n_tables)

    cdef void redraw(self, uint64_t seed, int first, int last) noexcept nogil:
        cdef int t
        for t in range(first, last):
            self.seeds[t] = seed

    cdef Py_ssize_t scratch_floats(self) noexcept nogil:
        # Outputs, read up to 64 floats beyond their end; words of signs, and of bits.
        cdef Py_ssize_t n = self.order * self.n_rotations
        return n + 64 + 2 * (self.order // 64) + 2 * (n // 64 + 2)

    cdef void codes(self, const float *x, int first, int last, uint64_t *out,
                    float *scratch) noexcept nogil:
        cdef Py_ssize_t n = self.order * self.n_rotations
        cdef uint64_t *signs = <uint64_t *> (scratch + n + 64)
        cdef uint64_t *words = signs + self.order // 64
        cdef int t = first, end, group, r
        if is_zero(x, self.dim):
            nowhere(out, last - first)
            return
        while t < last:
            group = t // self.together
            end = t + 1
            while end < last and end // self.together == group and self.seeds[end] == self.seeds[t]:
                end += 1
            for r in range(self.n_rotations):
                rotate(x, self.ld, scratch + r * self.order, self.order, signs, self.seeds[t],
                       <uint64_t> group * self.n_rotations + r)
            simd.sign_codes(out + (t - first),
                            scratch + (t - group * self.together) * self.n_functions,
                            self.n_functions, end - t, words)
            t = end


@cython.final
cdef class CrossPolytope(HashFamily):
    """
    Which coordinate of a randomly rotated vector is the largest in magnitude, and its sign (Andoni
    et al. 2015). The rotation is a normal matrix, or a fast one of the table's own, whose outputs
    serve as many of its functions as they suffice for.
    """
    cdef float[:, ::1] projections  # (L K target, ld); of fast rotations (0, ld)
    cdef uint64_t[::1] seeds        # (L); of normal ones (0)
    cdef Py_ssize_t order, target
    cdef int bits, together, n_rotations
    cdef bint fast

    def __cinit__(self, Py_ssize_t dim, int n_functions, int n_tables, Py_ssize_t target,
                  bint fast, uint64_t seed):
        if not 0 < target <= dim:
            raise ValueError(f"{target} of {dim} coordinates")
        self.bits = (2 * target - 1).bit_length()
        if n_functions * self.bits > 63:
            raise ValueError(f"{n_functions} functions of {self.bits} bits do not fit into 63")
        self.dim, self.ld, self.order = dim, padded(dim), order_of(dim)
        self.target, self.fast = target, fast
        self.n_functions, self.n_tables = n_functions, n_tables
        self.code_bits = n_functions * self.bits
        self.n_values = 2 * target
        self.together = <int> min(n_functions, self.order // target)
        self.n_rotations = (n_functions + self.together - 1) // self.together
        self.products = n_functions * target * dim
        if fast:
            self.products = self.n_rotations * rotation_cost(self.order)
        rows = 0 if fast else n_tables * n_functions * target
        projections = np.zeros((rows, self.ld), dtype=np.float32)
        seeds = np.zeros(n_tables if fast else 0, dtype=np.uint64)
        self.arrays = {"seeds": seeds} if fast else {"projections": projections}
        self.projections, self.seeds = projections, seeds
        self.redraw(seed, 0, n_tables)

    cdef void redraw(self, uint64_t seed, int first, int last) noexcept nogil:
        cdef Py_ssize_t t, i, rows = self.n_functions * self.target
        cdef uint64_t state
        for t in range(first, last):
            if self.fast:
                self.seeds[t] = seed
                continue
            state = stream(seed, 12, t)
            for i in range(t * rows, (t + 1) * rows):
                normals(&self.projections[i, 0], self.dim, &state)

    cdef Py_ssize_t scratch_floats(self) noexcept nogil:
        return self.order + 2 * (self.order // 64) if self.fast else self.target

    cdef inline uint64_t corner(self, const float *z) noexcept nogil:
        cdef Py_ssize_t j, at = 0
        cdef float most = fabsf(z[0])
        for j in range(1, self.target):
            if fabsf(z[j]) > most:
                most, at = fabsf(z[j]), j
        return <uint64_t> (2 * at + (z[at] < 0))

    cdef void codes(self, const float *x, int first, int last, uint64_t *out,
                    float *scratch) noexcept nogil:
        cdef uint64_t *signs = <uint64_t *> (scratch + self.order)
        cdef const float *z
        cdef Py_ssize_t t, k, place
        cdef uint64_t code
        if is_zero(x, self.dim):
            nowhere(out, last - first)
            return
        for t in range(first, last):
            code = 0
            for k in range(self.n_functions):
                z = scratch
                if self.fast:
                    place = k % self.together
                    if place == 0:
                        rotate(x, self.ld, scratch, self.order, signs, self.seeds[t],
                               <uint64_t> (t * self.n_rotations + k // self.together))
                    z = scratch + place * self.target
                else:
                    simd.rows_dot(
                        scratch,
                        &self.projections[(t * self.n_functions + k) * self.target, 0],
                        self.ld, NULL, self.target, x)
                code = code << self.bits | self.corner(z)
            out[t - first] = code
