/* Scores of short codes; included by simd_body.h for each instruction set, and once more for the
   instruction that makes the products of four pairs of bytes at a time (VNNI). */

/* `block` writes the scores of 16 items, from item `at` on, and returns, as bits, which are above
   the query's least. The query's codes are given as words of four, `quads`. A pair of products has
   16 bits: 2 * 127 * 127 is less than 2^15. `block_pair` does so for two queries. */
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

static inline uint16_t FN(block)(float *z, const slide_codes *codes, ptrdiff_t at,
                                 const int32_t *quads, ptrdiff_t n_quads, const slide_query *s,
                                 int noisy)
{
    const uint8_t *values = codes->values + 4 * n_quads * at;
    __m512i a = _mm512_set1_epi32(-s->base), b = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (ptrdiff_t g = 0; g < n_quads; g += 2) {
        a = FN(add_products)(a, values + 64 * g, quads[g]);
        b = FN(add_products)(b, values + 64 * g + 64, quads[g + 1]);
    }
    return FN(above)(z, _mm512_add_epi32(a, b), codes, at, s, noisy);
}

/* Codes are read once. */
static inline void FN(block_pair)(float *const *z, uint16_t *above, const slide_codes *codes,
                                  ptrdiff_t at, const int32_t (*quads)[256], ptrdiff_t n_quads,
                                  const slide_query *s, int noisy)
{
    const uint8_t *values = codes->values + 4 * n_quads * at;
    __m512i a0 = _mm512_set1_epi32(-s[0].base), a1 = _mm512_set1_epi32(-s[1].base);
    __m512i b0 = _mm512_setzero_si512(), b1 = b0;
#pragma GCC unroll 8
    for (ptrdiff_t g = 0; g < n_quads; g += 2) {
        a0 = FN(add_products)(a0, values + 64 * g, quads[0][g]);
        a1 = FN(add_products)(a1, values + 64 * g, quads[1][g]);
        b0 = FN(add_products)(b0, values + 64 * g + 64, quads[0][g + 1]);
        b1 = FN(add_products)(b1, values + 64 * g + 64, quads[1][g + 1]);
    }
    above[0] = FN(above)(z[0], _mm512_add_epi32(a0, b0), codes, at, s, noisy);
    above[1] = FN(above)(z[1], _mm512_add_epi32(a1, b1), codes, at, s + 1, noisy);
}
#else
#if WIDTH == 32
static inline uint16_t FN(block)(float *z, const slide_codes *codes, ptrdiff_t at,
                                 const int32_t *quads, ptrdiff_t n_quads, const slide_query *s,
                                 int noisy)
{
    const uint8_t *values = codes->values + 4 * n_quads * at;
    __m256i a = _mm256_set1_epi32(-s->base), b = a;
    const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
    for (ptrdiff_t g = 0; g < n_quads; g++) {
        const __m256i *c = (const __m256i *)(values + 64 * g), q = _mm256_set1_epi32(quads[g]);
        __m256i p0 = _mm256_maddubs_epi16(_mm256_loadu_si256(c), q);
        __m256i p1 = _mm256_maddubs_epi16(_mm256_loadu_si256(c + 1), q);
        a = _mm256_add_epi32(a, _mm256_madd_epi16(p0, ones));
        b = _mm256_add_epi32(b, _mm256_madd_epi16(p1, ones));
    }
    const float *scale = codes->scale + at, *offset = codes->offset + at;
    const __m256 step = _mm256_set1_ps(s->step), least = _mm256_set1_ps(s->least);
    __m256 t = _mm256_fmadd_ps(_mm256_loadu_ps(scale),
                               _mm256_mul_ps(_mm256_cvtepi32_ps(a), step),
                               _mm256_loadu_ps(offset));
    __m256 u = _mm256_fmadd_ps(_mm256_loadu_ps(scale + 8),
                               _mm256_mul_ps(_mm256_cvtepi32_ps(b), step),
                               _mm256_loadu_ps(offset + 8));
    if (noisy) {
        const __m256 floors = _mm256_set1_ps(s->floor);
        t = _mm256_add_ps(_mm256_max_ps(t, floors), _mm256_loadu_ps(s->noise + at));
        u = _mm256_add_ps(_mm256_max_ps(u, floors), _mm256_loadu_ps(s->noise + at + 8));
    }
    _mm256_storeu_ps(z, t);
    _mm256_storeu_ps(z + 8, u);
    return (uint16_t)(_mm256_movemask_ps(_mm256_cmp_ps(t, least, _CMP_GT_OQ)) |
                      _mm256_movemask_ps(_mm256_cmp_ps(u, least, _CMP_GT_OQ)) << 8);
}
#else
static inline uint16_t FN(block)(float *z, const slide_codes *codes, ptrdiff_t at,
                                 const int32_t *quads, ptrdiff_t n_quads, const slide_query *s,
                                 int noisy)
{
    const uint8_t *values = codes->values + 4 * n_quads * at;
    uint32_t above = 0;
    for (int i = 0; i < 16; i++) {
        int32_t sum = -s->base;
        for (ptrdiff_t g = 0; g < n_quads; g++) {
            int8_t q[4];
            memcpy(q, quads + g, 4);
            for (int k = 0; k < 4; k++) sum += values[64 * g + 4 * i + k] * q[k];
        }
        float t = codes->offset[at + i] + codes->scale[at + i] * (s->step * (float)sum);
        if (noisy) t = (t > s->floor ? t : s->floor) + s->noise[at + i];
        z[i] = t;
        above |= (uint32_t)(t > s->least) << i;
    }
    return (uint16_t)above;
}
#endif

static inline void FN(block_pair)(float *const *z, uint16_t *above, const slide_codes *codes,
                                  ptrdiff_t at, const int32_t (*quads)[256], ptrdiff_t n_quads,
                                  const slide_query *s, int noisy)
{
    for (int k = 0; k < 2; k++)
        above[k] = FN(block)(z[k], codes, at, quads[k], n_quads, s + k, noisy);
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
    ptrdiff_t last, ptrdiff_t every, const int32_t (*quads)[256], ptrdiff_t n_quads, int noisy)
{
    float z[2][16 * FN(AT_ONCE)];
    uint16_t above[2][FN(AT_ONCE) + 3];
    for (int k = 0; k < n_queries; k++) n[k] = 0;
    for (ptrdiff_t origin = first / 16 * 16; origin < last; origin += 16 * FN(AT_ONCE) * every) {
        const ptrdiff_t rest = (last - origin + 16 * every - 1) / (16 * every);
        const ptrdiff_t m = rest < FN(AT_ONCE) ? rest : FN(AT_ONCE);
        for (ptrdiff_t i = 0; i < m; i++) {
            const ptrdiff_t at = origin + 16 * every * i;
            if (n_queries == 1) {
                above[0][i] = FN(block)(z[0] + 16 * i, codes, at, quads[0], n_quads, s, noisy);
            } else {
                float *const scores[2] = {z[0] + 16 * i, z[1] + 16 * i};
                uint16_t hits[2];
                FN(block_pair)(scores, hits, codes, at, quads, n_quads, s, noisy);
                above[0][i] = hits[0], above[1][i] = hits[1];
            }
        }
        for (int k = 0; k < n_queries; k++)
            n[k] += FN(keep)(s[k].item + n[k], s[k].score + n[k], z[k], above[k], m, origin, every,
                             first, last);
    }
}

static void FN(sketch_scan)(ptrdiff_t *n, const slide_query *queries, int n_queries,
                            const slide_codes *codes, ptrdiff_t first, ptrdiff_t last,
                            ptrdiff_t every)
{
    int32_t quads[2][256];
    const int noisy = queries[0].noise != 0;
    const size_t n_codes = (size_t)(4 * codes->n_quads);
    for (int k = 0; k < n_queries; k++) memcpy(quads[k], queries[k].q, n_codes);
    /* Usual lengths have their loops unrolled, and the queries in registers. */
#define SCAN(n_queries, n_quads, noisy)                                                           \
    FN(scan)(n, queries, n_queries, codes, first, last, every, (const int32_t(*)[256])quads,       \
             n_quads, noisy)
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
