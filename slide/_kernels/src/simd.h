/* Loops over float rows, behind a table of the functions of one instruction set. */
#ifndef SLIDE_SIMD_H
#define SLIDE_SIMD_H

#include <stddef.h>
#include <stdint.h>

#if !defined(__GNUC__)
#error "slide needs a compiler with GNU vector extensions (gcc or clang)"
#endif

/* Row lengths (ld, n where marked) are multiples of SLIDE_PAD floats: no remainder loops. */
#define SLIDE_PAD 16
#define SLIDE_LOG_BINS 8
/* A logit that takes no part: far below every finite logit that the checks let through. */
#define SLIDE_MASKED (-1e30f)

/* w -= rate * m / (sqrt(v) + eps): rate = lr * sqrt(1 - beta2^t) / (1 - beta1^t) and
   eps = epsilon * sqrt(1 - beta2^t), so that one division serves both bias corrections. */
typedef struct {
    float rate, eps, beta1, beta2;
    float rest1, rest2;                 /* 1 - beta, rounded from double */
    float most;                         /* what |m| / sqrt(v) cannot exceed */
    /* Missed steps, with gradient 0, come first: w -= skip_rate * m / (sqrt(v) + skip_eps);
       m *= decay1; v *= decay2. */
    int behind;
    float skip_rate, skip_eps, decay1, decay2;
} slide_adam_step;

/* Items of 4 * n_quads codes up to 127, n_quads even and up to 256; 16 items stand together, four
   codes of the first, of the second, and so on. */
typedef struct {
    const uint8_t *values;
    const float *scale, *offset;
    ptrdiff_t n_quads;
} slide_codes;

/* A query of such codes, whose product with codes of 0, which is 64, is `base`, and its lists. An
   item's score is offset + scale * step * (<codes, q> - base); where noise != NULL, it is at least
   `floor`, and noise[item] is added. Of every 32 values of q, the sizes of the first two of each four
   add up to 511 at most, and so do those of the last two: sums of their products have 16 bits. */
typedef struct {
    int32_t *item;
    float *score;
    const int8_t *q;
    int32_t base;
    float step, least;
    const float *noise;
    float floor;
} slide_query;

typedef struct {
    const char *name;
    /* out[i] = <W[ids[i]], x>; ids == NULL: rows 0..n-1. ld padded. */
    void (*rows_dot)(float *out, const float *W, ptrdiff_t ld, const int32_t *ids, ptrdiff_t n,
                     const float *x);
    /* The same, for lists of rows that are not in the first two levels of the cache. */
    void (*far_dot)(float *out, const float *W, ptrdiff_t ld, const int32_t *ids, ptrdiff_t n,
                    const float *x);
    /* y += sum_i c[i] * W[ids[i]][:m]. m padded. */
    void (*rows_axpy)(float *y, ptrdiff_t m, const float *W, ptrdiff_t ld, const int32_t *ids,
                      const float *c, ptrdiff_t n);
    void (*far_axpy)(float *y, ptrdiff_t m, const float *W, ptrdiff_t ld, const int32_t *ids,
                     const float *c, ptrdiff_t n);
    /* Row by row, as lists of n_rows ascending rows of W and of where the entries of each end in
       s and p or c: out[s[i] * ldo + p[i]] = <W[row], X[s[i]]>, and Y[s[i]] += c[i] * W[row].
       ld, that of all three, padded. */
    void (*each_dot)(float *out, ptrdiff_t ldo, const float *W, ptrdiff_t ld, const int32_t *rows,
                     const int32_t *ends, ptrdiff_t n_rows, const float *X, const int32_t *s,
                     const int32_t *p);
    void (*each_axpy)(float *Y, const float *W, ptrdiff_t ld, const int32_t *rows,
                      const int32_t *ends, ptrdiff_t n_rows, const int32_t *s, const float *c);
    /* Of a row, the n columns idx: <row[idx], x>; y += a * row[idx]; row[idx] += a * x. */
    float (*columns_dot)(const float *row, const int32_t *idx, const float *x, ptrdiff_t n);
    void (*columns_axpy)(float *y, const float *row, const int32_t *idx, ptrdiff_t n, float a);
    void (*columns_add)(float *row, const int32_t *idx, const float *x, ptrdiff_t n, float a);
    /* The places where a and b differ, and a - b there; returns how many. */
    ptrdiff_t (*changes)(int32_t *idx, float *change, const float *a, const float *b, ptrdiff_t n);
    float (*sumsq)(const float *x, ptrdiff_t n);
    /* Sum of the n columns idx of a row. */
    float (*columns_sum)(const float *row, const int32_t *idx, ptrdiff_t n);
    /* x <- H (s * x), not normalized: H is the Walsh-Hadamard matrix of order n, a power of two >=
       64, and s_i is -1 where bit i of `signs` (words of 64) is set. */
    void (*hadamard)(float *x, ptrdiff_t n, const uint64_t *signs);
    /* out[t] = the k bits x[t k + i] > 0, the first of them the highest; k <= 62. x is read and
       `words` written up to the next multiple of 64 values, a bit each. */
    void (*sign_codes)(uint64_t *out, const float *x, ptrdiff_t k, ptrdiff_t n, uint64_t *words);
    /* Of 1 or 2 queries, which both have noise or none: items first..last-1 whose scores are above
       `least`, their numbers and scores; n gets how many. 16 more of both may be written. Only one
       of `every` blocks of 16 is looked at, the first among them. */
    void (*sketch_scan)(ptrdiff_t *n, const slide_query *queries, int n_queries,
                        const slide_codes *codes, ptrdiff_t first, ptrdiff_t last, ptrdiff_t every);
    /* The sum of those values that are below `cut`; *above gets the number of the others. */
    float (*sum_below)(const float *x, ptrdiff_t n, float cut, int32_t *above);
    /* Least and largest of n >= 1 values; the number of each one's bin, (x - low) * scale, or 0
       where that is none of 0 ... 2^SLIDE_LOG_BINS - 1. */
    void (*range)(const float *x, ptrdiff_t n, float *low, float *high);
    void (*bins)(int32_t *out, const float *x, ptrdiff_t n, float low, float scale);
    /* z <- exp(z - max z); *sum gets the sum; returns max z. n >= 1. */
    float (*exp_shift)(float *z, ptrdiff_t n, float *sum);
    /* z -= log x, with x at least 2^-126. */
    void (*minus_log)(float *z, const float *x, ptrdiff_t n);
    void (*scale)(float *x, ptrdiff_t n, float a);
    void (*shift)(float *x, ptrdiff_t n, float a);
    void (*axpy)(float *y, const float *x, ptrdiff_t n, float a);
    void (*sigmoid)(float *x, ptrdiff_t n);
    void (*tanh)(float *x, ptrdiff_t n);
    /* One optimizer step on one row; n padded. */
    void (*sgd)(float *w, const float *g, ptrdiff_t n, float lr);
    void (*momentum)(float *w, float *v, const float *g, ptrdiff_t n, float lr, float mu,
                     int nesterov);
    void (*adagrad)(float *w, float *acc, const float *g, ptrdiff_t n, float lr, float eps);
    void (*adagrad_momentum)(float *w, float *acc, float *v, const float *g, ptrdiff_t n, float lr,
                             float eps, float mu);
    /* g == NULL: only the missed steps. */
    void (*adam)(float *w, float *m, float *v, const float *g, ptrdiff_t n,
                 const slide_adam_step *step);
    /* Both moments as bfloat16 in one word, m in the lower half, rounded to a neighbour at random:
       up with the probability that makes the mean exact. */
    void (*adam_bfloat16)(float *w, uint32_t *moments, const float *g, ptrdiff_t n,
                          const slide_adam_step *step, uint32_t seed);
} slide_simd_table;

/* Into the second-level cache (locality 2): it has more misses under way than the first, which many
   lines at a time would stop. */
static inline void slide_prefetch(const float *p, ptrdiff_t n)
{
    for (ptrdiff_t k = 0; k < n; k += 16) __builtin_prefetch(p + k, 1, 2);
}

#endif
