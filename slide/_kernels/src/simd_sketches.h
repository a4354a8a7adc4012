/* Scores of short codes; included by simd_body.h for each instruction set, and once more for the
   instruction that makes the products of four pairs of bytes at a time (VNNI). */

/* A query as `block` reads it: its codes as words of four or one by one. Where sums have 16 bits, what
   those of every eight words begin with: less the products with codes of 0. */
typedef struct {
#if WIDTH == 16
    uint16_t codes[1024], start[32][4];
#else
    int32_t quads[256];
#if WIDTH == 32
    int32_t start[32];
#endif
#endif
} FN(prepared);

static inline void FN(prepare)(FN(prepared) *p, const int8_t *q, ptrdiff_t n_quads)
{
#if WIDTH != 16
    memcpy(p->quads, q, (size_t)(4 * n_quads));
#endif
#if WIDTH == 32
    memset(p->quads + n_quads, 0, (size_t)(4 * (-n_quads & 7)));    /* up to eight words */
    for (ptrdiff_t g = 0; g < n_quads; g += 8) {
        __m256i s = _mm256_maddubs_epi16(_mm256_set1_epi8(64),
                                         _mm256_loadu_si256((const __m256i *)(p->quads + g)));
        s = _mm256_add_epi16(s, _mm256_permute2x128_si256(s, s, 1));
        s = _mm256_add_epi16(s, _mm256_shuffle_epi32(s, 0x4e));
        s = _mm256_add_epi16(s, _mm256_shuffle_epi32(s, 0xb1));
        s = _mm256_sub_epi16(_mm256_setzero_si256(), s);
        p->start[g / 8] = _mm_cvtsi128_si32(_mm256_castsi256_si128(s));
    }
#elif WIDTH == 16
    memset(p->start, 0, sizeof p->start);
    for (ptrdiff_t i = 0; i < 4 * n_quads; i++) {
        p->codes[i] = (uint16_t)q[i];
        p->start[i / 32][i % 4] -= (uint16_t)(64 * q[i]);
    }
#endif
}

/* `block` writes the scores of 16 items, from item `at` on, and returns, as bits, which are above
   the query's least. */
#if WIDTH == 64
static inline uint16_t FN(above)(float *z, __m512i sum, const slide_codes *codes, ptrdiff_t at,
                                 const slide_query *s, int noisy)
{
    __m512 t = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(s->step));
    t = _mm512_fmadd_ps(_mm512_loadu_ps(codes->scale + at), t,
                        _mm512_loadu_ps(codes->offset + at));
    if (noisy)
        t = _mm512_add_ps(_mm512_max_ps(t, _mm512_set1_ps(s->floor)),
                          _mm512_loadu_ps(s->noise + at));
    _mm512_storeu_ps(z, t);
    return (uint16_t)_mm512_cmp_ps_mask(t, _mm512_set1_ps(s->least), _CMP_GT_OQ);
}
#elif WIDTH == 32
static inline uint32_t FN(above8)(float *z, __m256i sum, const slide_codes *codes, ptrdiff_t at,
                                  const slide_query *s, int noisy)
{
    __m256 t = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(s->step));
    t = _mm256_fmadd_ps(_mm256_loadu_ps(codes->scale + at), t,
                        _mm256_loadu_ps(codes->offset + at));
    if (noisy)
        t = _mm256_add_ps(_mm256_max_ps(t, _mm256_set1_ps(s->floor)),
                          _mm256_loadu_ps(s->noise + at));
    _mm256_storeu_ps(z, t);
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(t, _mm256_set1_ps(s->least), _CMP_GT_OQ));
}
#endif

#if WIDTH == 64
static inline __m512i FN(add_products)(__m512i sum, const uint8_t *codes, int32_t quad)
{
    const __m512i c = _mm512_loadu_si512(codes), q = _mm512_set1_epi32(quad);
#ifdef VNNI
    return _mm512_dpbusd_epi32(sum, c, q);
#else
    return _mm512_add_epi32(
        sum, _mm512_madd_epi16(_mm512_maddubs_epi16(c, q), _mm512_set1_epi16(1)));
#endif
}

static inline uint16_t FN(block)(float *z, const slide_codes *codes, ptrdiff_t at,
                                 const FN(prepared) *p, ptrdiff_t n_quads, const slide_query *s,
                                 int noisy)
{
    const uint8_t *values = codes->values + 4 * n_quads * at;
    __m512i a = _mm512_set1_epi32(-s->base), b = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (ptrdiff_t g = 0; g < n_quads; g += 2) {
        a = FN(add_products)(a, values + 64 * g, p->quads[g]);
        b = FN(add_products)(b, values + 64 * g + 64, p->quads[g + 1]);
    }
    return FN(above)(z, _mm512_add_epi32(a, b), codes, at, s, noisy);
}

/* The same for two queries: codes are read once. */
static inline void FN(block_pair)(float *const *z, uint16_t *above, const slide_codes *codes,
                                  ptrdiff_t at, const FN(prepared) *p, ptrdiff_t n_quads,
                                  const slide_query *s, int noisy)
{
    const uint8_t *values = codes->values + 4 * n_quads * at;
    __m512i a0 = _mm512_set1_epi32(-s[0].base), a1 = _mm512_set1_epi32(-s[1].base);
    __m512i b0 = _mm512_setzero_si512(), b1 = b0;
#pragma GCC unroll 8
    for (ptrdiff_t g = 0; g < n_quads; g += 2) {
        a0 = FN(add_products)(a0, values + 64 * g, p[0].quads[g]);
        a1 = FN(add_products)(a1, values + 64 * g, p[1].quads[g]);
        b0 = FN(add_products)(b0, values + 64 * g + 64, p[0].quads[g + 1]);
        b1 = FN(add_products)(b1, values + 64 * g + 64, p[1].quads[g + 1]);
    }
    above[0] = FN(above)(z[0], _mm512_add_epi32(a0, b0), codes, at, s, noisy);
    above[1] = FN(above)(z[1], _mm512_add_epi32(a1, b1), codes, at, s + 1, noisy);
}
#elif WIDTH == 32
/* Pairs of products are added up in 16 bits, over eight words: modulo 2^16, because of codes of 0,
   but the sums less those of codes of 0, with which they begin, do fit (see slide_query). The
   compiler is kept from adding them up in another order, for which it has no registers. */
static inline void FN(eight)(__m256i *sum, const uint8_t *values, const FN(prepared) *p,
                             ptrdiff_t first, ptrdiff_t n)
{
    const __m256i *c = (const __m256i *)(values + 64 * first), ones = _mm256_set1_epi16(1);
    __m256i u = _mm256_set1_epi32(p->start[first / 8]), v = u;
#pragma GCC unroll 8
    for (ptrdiff_t g = 0; g < n; g++) {
        const __m256i q = _mm256_set1_epi32(p->quads[first + g]);
        u = _mm256_add_epi16(u, _mm256_maddubs_epi16(_mm256_loadu_si256(c + 2 * g), q));
        v = _mm256_add_epi16(v, _mm256_maddubs_epi16(_mm256_loadu_si256(c + 2 * g + 1), q));
        __asm__("" : "+x"(u), "+x"(v));
    }
    sum[0] = _mm256_add_epi32(sum[0], _mm256_madd_epi16(u, ones));
    sum[1] = _mm256_add_epi32(sum[1], _mm256_madd_epi16(v, ones));
}

static inline uint16_t FN(block)(float *z, const slide_codes *codes, ptrdiff_t at,
                                 const FN(prepared) *p, ptrdiff_t n_quads, const slide_query *s,
                                 int noisy)
{
    const uint8_t *values = codes->values + 4 * n_quads * at;
    __m256i sum[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    ptrdiff_t g = 0;
    for (; g + 8 <= n_quads; g += 8) FN(eight)(sum, values, p, g, 8);
    if (g < n_quads) FN(eight)(sum, values, p, g, n_quads - g);
    return (uint16_t)(FN(above8)(z, sum[0], codes, at, s, noisy) |
                      FN(above8)(z + 8, sum[1], codes, at + 8, s, noisy) << 8);
}
#else
/* As above, but products are made in 16 bits, of two items at a time, and those with each of the
   four codes of a word are added up. */
typedef uint8_t FN(bytes) __attribute__((vector_size(8)));
typedef uint16_t FN(words) __attribute__((vector_size(16)));
typedef int32_t FN(ints) __attribute__((vector_size(16)));

static inline FN(words) FN(twice)(const uint16_t *word)
{
    uint64_t four;
    memcpy(&four, word, 8);
    return (FN(words))(uint64_t __attribute__((vector_size(16)))){four, four};
}

static inline void FN(eight)(int32_t *sum, const uint8_t *values, const FN(prepared) *p,
                             ptrdiff_t first, ptrdiff_t n)
{
    FN(words) total[8];
    values += 64 * first;
    for (int i = 0; i < 8; i++) total[i] = FN(twice)(p->start[first / 8]);
    for (ptrdiff_t g = 0; g < n; g++) {
        const FN(words) q = FN(twice)(p->codes + 4 * (first + g));
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            FN(bytes) c;
            memcpy(&c, values + 64 * g + 8 * i, 8);
            total[i] += __builtin_convertvector(c, FN(words)) * q;
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        const FN(ints) pairs = ((FN(ints))total[i] << 16 >> 16) + ((FN(ints))total[i] >> 16);
        sum[2 * i] += pairs[0] + pairs[1];
        sum[2 * i + 1] += pairs[2] + pairs[3];
    }
}

static inline uint16_t FN(block)(float *z, const slide_codes *codes, ptrdiff_t at,
                                 const FN(prepared) *p, ptrdiff_t n_quads, const slide_query *s,
                                 int noisy)
{
    const uint8_t *values = codes->values + 4 * n_quads * at;
    int32_t sum[16] = {0};
    uint32_t above = 0;
    ptrdiff_t g = 0;
    for (; g + 8 <= n_quads; g += 8) FN(eight)(sum, values, p, g, 8);
    if (g < n_quads) FN(eight)(sum, values, p, g, n_quads - g);
    for (int i = 0; i < 16; i++) {
        float t = codes->offset[at + i] + codes->scale[at + i] * (s->step * (float)sum[i]);
        if (noisy) t = (t > s->floor ? t : s->floor) + s->noise[at + i];
        z[i] = t;
    }
    for (int i = 0; i < 16; i++) above |= (uint32_t)(z[i] > s->least) << i;
    return (uint16_t)above;
}
#endif

/* Blocks whose scores are written before those that are kept are taken from there. */
enum { FN(AT_ONCE) = 32 };

/* Which are kept cannot be predicted, but of 64 items seldom are more than two, so that two are
   taken in any case. */
static inline ptrdiff_t FN(keep)(int32_t *item, float *score, const float *z, uint16_t *above,
                                 ptrdiff_t m, ptrdiff_t origin, ptrdiff_t every, ptrdiff_t first,
                                 ptrdiff_t last)
{
    ptrdiff_t n = 0;
    above[m] = above[m + 1] = above[m + 2] = 0;
    if (origin < first) above[0] &= (uint16_t)(0xffffu << (first - origin));
    const ptrdiff_t over = origin + 16 * every * (m - 1) + 16 - last;
    if (over > 0) above[m - 1] &= (uint16_t)(0xffffu >> over);
    for (ptrdiff_t i = 0; i < m; i += 4) {
        uint64_t left = above[i] | (uint64_t)above[i + 1] << 16 | (uint64_t)above[i + 2] << 32 |
                        (uint64_t)above[i + 3] << 48;
        if (left == ~0ull) {                /* as where nothing has to be beaten */
            for (ptrdiff_t k = 0; k < 4; k++)
                for (int j = 0; j < 16; j++) {
                    item[n + 16 * k + j] = (int32_t)(origin + 16 * every * (i + k)) + j;
                    score[n + 16 * k + j] = z[16 * (i + k) + j];
                }
            n += 64;
            continue;
        }
        const ptrdiff_t kept = __builtin_popcountll(left);
        for (ptrdiff_t j = 0; j < 2 || j < kept; j++) {
            /* A bit to find where none is left; what is written then is not counted. */
            const int bit = __builtin_ctzll(left | 1ull << 63);
            left &= left - 1;
            item[n + j] = (int32_t)(origin + 16 * every * (i + bit / 16) + bit % 16);
            score[n + j] = z[16 * i + bit];
        }
        n += kept;
    }
    return n;
}

static inline __attribute__((always_inline)) void FN(scan)(
    ptrdiff_t *n, const slide_query *s, int n_queries, const slide_codes *codes, ptrdiff_t first,
    ptrdiff_t last, ptrdiff_t every, const FN(prepared) *p, ptrdiff_t n_quads, int noisy)
{
    float z[2][16 * FN(AT_ONCE)];
    uint16_t above[2][FN(AT_ONCE) + 3];
    /* Copies, which no store can change. */
    const slide_codes all = *codes;
    const slide_query own[2] = {s[0], s[n_queries - 1]};
    for (int k = 0; k < n_queries; k++) n[k] = 0;
    for (ptrdiff_t origin = first / 16 * 16; origin < last; origin += 16 * FN(AT_ONCE) * every) {
        const ptrdiff_t rest = (last - origin + 16 * every - 1) / (16 * every);
        const ptrdiff_t m = rest < FN(AT_ONCE) ? rest : FN(AT_ONCE);
#if WIDTH == 64
        for (ptrdiff_t i = 0; i < m && n_queries == 2; i++) {
            float *const scores[2] = {z[0] + 16 * i, z[1] + 16 * i};
            uint16_t hits[2];
            FN(block_pair)(scores, hits, &all, origin + 16 * every * i, p, n_quads, own, noisy);
            above[0][i] = hits[0], above[1][i] = hits[1];
        }
        const int one_by_one = n_queries == 1;
#else
        /* The codes of all these blocks stay in the first-level cache. */
        const int one_by_one = n_queries;
#endif
        for (int k = 0; k < one_by_one; k++)
            for (ptrdiff_t i = 0; i < m; i++)
                above[k][i] = FN(block)(z[k] + 16 * i, &all, origin + 16 * every * i, p + k,
                                        n_quads, own + k, noisy);
        for (int k = 0; k < n_queries; k++)
            n[k] += FN(keep)(s[k].item + n[k], s[k].score + n[k], z[k], above[k], m, origin, every,
                             first, last);
    }
}

static void FN(sketch_scan)(ptrdiff_t *n, const slide_query *queries, int n_queries,
                            const slide_codes *codes, ptrdiff_t first, ptrdiff_t last,
                            ptrdiff_t every)
{
    FN(prepared) prepared[2];
    const int noisy = queries[0].noise != 0;
    for (int k = 0; k < n_queries; k++) FN(prepare)(prepared + k, queries[k].q, codes->n_quads);
    /* Usual lengths have their loops unrolled, and the queries in registers. */
#define SCAN(n_queries, n_quads, noisy)                                                           \
    FN(scan)(n, queries, n_queries, codes, first, last, every, prepared, n_quads, noisy)
#define SCAN_NOISY(n_queries, n_quads)                                                            \
    if (noisy) SCAN(n_queries, n_quads, 1);                                                        \
    else SCAN(n_queries, n_quads, 0)
    if (n_queries == 2) {
        if (codes->n_quads == 8) { SCAN_NOISY(2, 8); }
        else if (codes->n_quads == 4) { SCAN_NOISY(2, 4); }
        else SCAN(2, codes->n_quads, noisy);
    } else {
        if (codes->n_quads == 8) { SCAN_NOISY(1, 8); }
        else if (codes->n_quads == 4) { SCAN_NOISY(1, 4); }
        else SCAN(1, codes->n_quads, noisy);
    }
#undef SCAN_NOISY
#undef SCAN
}
