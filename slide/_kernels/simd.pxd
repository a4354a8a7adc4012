from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int8_t, int32_t, uint8_t, uint32_t, uint64_t

cdef extern from "simd.h" nogil:
    float MASKED "SLIDE_MASKED"
    int PAD "SLIDE_PAD"
    enum:
        LOG_BINS "SLIDE_LOG_BINS"

    ctypedef struct AdamStep "slide_adam_step":
        float rate, eps, beta1, beta2, rest1, rest2, most
        int behind
        float skip_rate, skip_eps, decay1, decay2

    ctypedef struct Codes "slide_codes":
        const uint8_t *values
        const float *scale
        const float *offset
        ptrdiff_t n_quads

    ctypedef struct Query "slide_query":
        int32_t *item
        float *score
        const int8_t *q
        int32_t base
        float step, least
        const float *noise
        float floor

    ctypedef struct SimdTable "slide_simd_table":
        const char *name
        void (*rows_dot)(float *out, const float *W, ptrdiff_t ld, const int32_t *ids,
                         ptrdiff_t n, const float *x) noexcept nogil
        void (*far_dot)(float *out, const float *W, ptrdiff_t ld, const int32_t *ids,
                        ptrdiff_t n, const float *x) noexcept nogil
        void (*rows_axpy)(float *y, ptrdiff_t m, const float *W, ptrdiff_t ld,
                          const int32_t *ids, const float *c, ptrdiff_t n) noexcept nogil
        void (*far_axpy)(float *y, ptrdiff_t m, const float *W, ptrdiff_t ld,
                         const int32_t *ids, const float *c, ptrdiff_t n) noexcept nogil
        void (*each_dot)(float *out, ptrdiff_t ldo, const float *W, ptrdiff_t ld,
                         const int32_t *rows, const int32_t *ends, ptrdiff_t n_rows,
                         const float *X, const int32_t *s, const int32_t *p) noexcept nogil
        void (*each_axpy)(float *Y, const float *W, ptrdiff_t ld, const int32_t *rows,
                          const int32_t *ends, ptrdiff_t n_rows, const int32_t *s,
                          const float *c) noexcept nogil
        float (*columns_dot)(const float *row, const int32_t *idx, const float *x,
                             ptrdiff_t n) noexcept nogil
        void (*columns_axpy)(float *y, const float *row, const int32_t *idx, ptrdiff_t n,
                             float a) noexcept nogil
        void (*columns_add)(float *row, const int32_t *idx, const float *x, ptrdiff_t n,
                            float a) noexcept nogil
        ptrdiff_t (*changes)(int32_t *idx, float *change, const float *a, const float *b,
                             ptrdiff_t n) noexcept nogil
        float (*sumsq)(const float *x, ptrdiff_t n) noexcept nogil
        float (*columns_sum)(const float *row, const int32_t *idx, ptrdiff_t n) noexcept nogil
        void (*hadamard)(float *x, ptrdiff_t n, const uint64_t *signs) noexcept nogil
        void (*sign_codes)(uint64_t *out, const float *x, ptrdiff_t k, ptrdiff_t n,
                           uint64_t *words) noexcept nogil
        void (*sketch_scan)(ptrdiff_t *n, const Query *queries, int n_queries, const Codes *codes,
                            ptrdiff_t first, ptrdiff_t last, ptrdiff_t every) noexcept nogil
        float (*sum_below)(const float *x, ptrdiff_t n, float cut,
                           int32_t *above) noexcept nogil
        void (*range)(const float *x, ptrdiff_t n, float *low, float *high) noexcept nogil
        void (*bins)(int32_t *out, const float *x, ptrdiff_t n, float low,
                     float scale) noexcept nogil
        float (*exp_shift)(float *z, ptrdiff_t n, float *sum) noexcept nogil
        void (*minus_log)(float *z, const float *x, ptrdiff_t n) noexcept nogil
        void (*scale)(float *x, ptrdiff_t n, float a) noexcept nogil
        void (*shift)(float *x, ptrdiff_t n, float a) noexcept nogil
        void (*axpy)(float *y, const float *x, ptrdiff_t n, float a) noexcept nogil
        void (*sigmoid)(float *x, ptrdiff_t n) noexcept nogil
        void (*tanh)(float *x, ptrdiff_t n) noexcept nogil
        void (*sgd)(float *w, const float *g, ptrdiff_t n, float lr) noexcept nogil
        void (*momentum)(float *w, float *v, const float *g, ptrdiff_t n, float lr, float mu,
                         int nesterov) noexcept nogil
        void (*adagrad)(float *w, float *acc, const float *g, ptrdiff_t n, float lr,
                        float eps) noexcept nogil
        void (*adagrad_momentum)(float *w, float *acc, float *v, const float *g, ptrdiff_t n,
                                 float lr, float eps, float mu) noexcept nogil
        void (*adam)(float *w, float *m, float *v, const float *g, ptrdiff_t n,
                     const AdamStep *step) noexcept nogil
        void (*adam_bfloat16)(float *w, uint32_t *moments, const float *g, ptrdiff_t n,
                              const AdamStep *step, uint32_t seed) noexcept nogil

    void prefetch "slide_prefetch"(const float *p, ptrdiff_t n)
    int lowest_bit "__builtin_ctzll"(uint64_t bits)

# The functions of the instruction set chosen when the package was imported.
cdef const SimdTable *simd
