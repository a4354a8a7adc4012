/* Scores of short codes; included by simd_body.h for each instruction set, and once more for the
   instruction that makes the products of four pairs of bytes at a time (VNNI). */

/* `block` writes the scores of 16 items, and returns, as bits, which are above `least`. A pair of
   products has 16 bits: 2 * 127 * 127 is less than 2^15. */
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

static inline uint32_t FN(above)(float *z, __m512i sum, __m512 scale, __m512 offset, float step,
                                 float least, const float *noise, float floor)
{
    __m512 t = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(step));
    t = _mm512_fmadd_ps(scale, t, offset);
    if (noise) t = _mm512_add_ps(_mm512_max_ps(t, _mm512_set1_ps(floor)), _mm512_loadu_ps(noise));
    _mm512_storeu_ps(z, t);
    return _mm512_cmp_ps_mask(t, _mm512_set1_ps(least), _CMP_GT_OQ);
}

static inline uint32_t FN(block)(float *z, const uint8_t *codes, const float *scale,
                                 const float *offset, const int32_t *quads, ptrdiff_t n_quads,
                                 int32_t base, float step, float least, const float *noise,
                                 float floor)
{
    __m512i a = _mm512_set1_epi32(-base), b = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (ptrdiff_t g = 0; g < n_quads; g += 2) {
        a = FN(add_products)(a, codes + 64 * g, quads[g]);
        b = FN(add_products)(b, codes + 64 * g + 64, quads[g + 1]);
    }
    return FN(above)(z, _mm512_add_epi32(a, b), _mm512_loadu_ps(scale), _mm512_loadu_ps(offset), step,
                     least, noise, floor);
}

/* The same of two queries, each a row of `quads`: codes are read once. */
static inline void FN(block_pair)(float *z0, float *z1, uint16_t *above0, uint16_t *above1,
                                  const uint8_t *codes, const float *scale, const float *offset,
                                  const int32_t (*quads)[256], ptrdiff_t n_quads,
                                  const slide_query *s, const float *noise0, const float *noise1)
{
    __m512i a0 = _mm512_set1_epi32(-s[0].base), a1 = _mm512_set1_epi32(-s[1].base);
    __m512i b0 = _mm512_setzero_si512(), b1 = b0;
#pragma GCC unroll 8
    for (ptrdiff_t g = 0; g < n_quads; g += 2) {
        a0 = FN(add_products)(a0, codes + 64 * g, quads[0][g]);
        a1 = FN(add_products)(a1, codes + 64 * g, quads[1][g]);
        b0 = FN(add_products)(b0, codes + 64 * g + 64, quads[0][g + 1]);
        b1 = FN(add_products)(b1, codes + 64 * g + 64, quads[1][g + 1]);
    }
    const __m512 scales = _mm512_loadu_ps(scale), offsets = _mm512_loadu_ps(offset);
    *above0 = (uint16_t)FN(above)(z0, _mm512_add_epi32(a0, b0), scales, offsets, s[0].step,
                                  s[0].least, noise0, s[0].floor);
    *above1 = (uint16_t)FN(above)(z1, _mm512_add_epi32(a1, b1), scales, offsets, s[1].step,
                                  s[1].least, noise1, s[1].floor);
}
#elif WIDTH == 32
static inline uint32_t FN(block)(float *z, const uint8_t *codes, const float *scale,
                                 const float *offset, const int32_t *quads, ptrdiff_t n_quads,
                                 int32_t base, float step, float least, const float *noise,
                                 float floor)
{
    __m256i a = _mm256_set1_epi32(-base), b = a;
    const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
    for (ptrdiff_t g = 0; g < n_quads; g++) {
        const __m256i *c = (const __m256i *)(codes + 64 * g), q = _mm256_set1_epi32(quads[g]);
        __m256i p0 = _mm256_maddubs_epi16(_mm256_loadu_si256(c), q);
        __m256i p1 = _mm256_maddubs_epi16(_mm256_loadu_si256(c + 1), q);
        a = _mm256_add_epi32(a, _mm256_madd_epi16(p0, ones));
        b = _mm256_add_epi32(b, _mm256_madd_epi16(p1, ones));
    }
    const __m256 steps = _mm256_set1_ps(step), leasts = _mm256_set1_ps(least);
    __m256 t = _mm256_fmadd_ps(_mm256_loadu_ps(scale),
                               _mm256_mul_ps(_mm256_cvtepi32_ps(a), steps),
                               _mm256_loadu_ps(offset));
    __m256 u = _mm256_fmadd_ps(_mm256_loadu_ps(scale + 8),
                               _mm256_mul_ps(_mm256_cvtepi32_ps(b), steps),
                               _mm256_loadu_ps(offset + 8));
    if (noise) {
        const __m256 floors = _mm256_set1_ps(floor);
        t = _mm256_add_ps(_mm256_max_ps(t, floors), _mm256_loadu_ps(noise));
        u = _mm256_add_ps(_mm256_max_ps(u, floors), _mm256_loadu_ps(noise + 8));
    }
    _mm256_storeu_ps(z, t);
    _mm256_storeu_ps(z + 8, u);
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(t, leasts, _CMP_GT_OQ)) |
           (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(u, leasts, _CMP_GT_OQ)) << 8;
}
#else
static inline uint32_t FN(block)(float *z, const uint8_t *codes, const float *scale,
                                 const float *offset, const int32_t *quads, ptrdiff_t n_quads,
                                 int32_t base, float step, float least, const float *noise,
                                 float floor)
{
    uint32_t above = 0;
    for (int i = 0; i < 16; i++) {
        int32_t sum = -base;
        for (ptrdiff_t g = 0; g < n_quads; g++) {
            int8_t q[4];
            memcpy(q, quads + g, 4);
            for (int k = 0; k < 4; k++) sum += codes[64 * g + 4 * i + k] * q[k];
        }
        float t = offset[i] + scale[i] * (step * (float)sum);
        if (noise) t = (t > floor ? t : floor) + noise[i];
        z[i] = t;
        above |= (uint32_t)(t > least) << i;
    }
    return above;
}
#endif

#if WIDTH != 64
/* The same of two queries, each a row of `quads`. */
static inline void FN(block_pair)(float *z0, float *z1, uint16_t *above0, uint16_t *above1,
                                  const uint8_t *codes, const float *scale, const float *offset,
                                  const int32_t (*quads)[256], ptrdiff_t n_quads,
                                  const slide_query *s, const float *noise0, const float *noise1)
{
    *above0 = (uint16_t)FN(block)(z0, codes, scale, offset, quads[0], n_quads, s[0].base, s[0].step,
                                  s[0].least, noise0, s[0].floor);
    *above1 = (uint16_t)FN(block)(z1, codes, scale, offset, quads[1], n_quads, s[1].base, s[1].step,
                                  s[1].least, noise1, s[1].floor);
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

static inline ptrdiff_t FN(scan)(int32_t *item, float *score, const uint8_t *codes,
                                 const float *scale, const float *offset, ptrdiff_t first,
                                 ptrdiff_t last, ptrdiff_t every, const int32_t *quads,
                                 ptrdiff_t n_quads, int32_t base, float step, float least,
                                 const float *noise, float floor)
{
    float z[16 * FN(AT_ONCE)];
    uint16_t above[FN(AT_ONCE) + 3];
    ptrdiff_t n = 0;
    for (ptrdiff_t block = first / 16; 16 * block < last; block += FN(AT_ONCE) * every) {
        const ptrdiff_t origin = 16 * block, rest = (last - origin + 16 * every - 1) / (16 * every);
        const ptrdiff_t m = rest < FN(AT_ONCE) ? rest : FN(AT_ONCE);
        const uint8_t *c = codes + 64 * n_quads * block;
        const float *a = scale + origin, *b = offset + origin, *r = noise ? noise + origin : 0;
        for (ptrdiff_t i = 0; i < m; i++)
            above[i] = (uint16_t)FN(block)(
                z + 16 * i, c + 64 * n_quads * every * i, a + 16 * every * i, b + 16 * every * i,
                quads, n_quads, base, step, least, r ? r + 16 * every * i : 0, floor);
        n += FN(keep)(item + n, score + n, z, above, m, origin, every, first, last);
    }
    return n;
}

static inline void FN(scan_pair)(ptrdiff_t *n, const slide_query *s, const uint8_t *codes,
                                 const float *scale, const float *offset, ptrdiff_t first,
                                 ptrdiff_t last, const int32_t (*quads)[256], ptrdiff_t n_quads,
                                 int noisy)
{
    float z[2][16 * FN(AT_ONCE)];
    uint16_t above[2][FN(AT_ONCE) + 3];
    n[0] = n[1] = 0;
    for (ptrdiff_t origin = first / 16 * 16; origin < last; origin += 16 * FN(AT_ONCE)) {
        const ptrdiff_t rest = (last - origin + 15) / 16;
        const ptrdiff_t m = rest < FN(AT_ONCE) ? rest : FN(AT_ONCE);
        for (ptrdiff_t i = 0; i < m; i++) {
            const ptrdiff_t at = origin + 16 * i;
            FN(block_pair)(z[0] + 16 * i, z[1] + 16 * i, above[0] + i, above[1] + i,
                           codes + 4 * n_quads * at, scale + at, offset + at, quads, n_quads, s,
                           noisy ? s[0].noise + at : 0, noisy ? s[1].noise + at : 0);
        }
        for (int k = 0; k < 2; k++)
            n[k] += FN(keep)(s[k].item + n[k], s[k].score + n[k], z[k], above[k], m, origin, 1, first,
                             last);
    }
}

static ptrdiff_t FN(sketch_scan)(int32_t *item, float *score, const uint8_t *codes,
                                 const float *scale, const float *offset, ptrdiff_t first,
                                 ptrdiff_t last, ptrdiff_t every, const int8_t *q,
                                 ptrdiff_t n_quads, int32_t base, float step, float least,
                                 const float *noise, float floor)
{
    int32_t quads[256];
    memcpy(quads, q, (size_t)(4 * n_quads));
    /* Usual lengths have their loops unrolled, and the query in registers. */
#define SCAN(every, n_quads, noise)                                                               \
    FN(scan)(item, score, codes, scale, offset, first, last, every, quads, n_quads, base, step,   \
             least, noise, floor)
    if (noise && every == 1) {
        if (n_quads == 4) return SCAN(1, 4, noise);
        if (n_quads == 8) return SCAN(1, 8, noise);
    }
    if (!noise) {
        if (n_quads == 4) return SCAN(every, 4, 0);
        if (n_quads == 8) return SCAN(every, 8, 0);
    }
    return SCAN(every, n_quads, noise);
#undef SCAN
}

static void FN(sketch_scan_pair)(ptrdiff_t *n, const slide_query *s, const uint8_t *codes,
                                 const float *scale, const float *offset, ptrdiff_t first,
                                 ptrdiff_t last, ptrdiff_t n_quads)
{
    int32_t quads[2][256];
    const int noisy = s[0].noise != 0;
    for (int k = 0; k < 2; k++) memcpy(quads[k], s[k].q, (size_t)(4 * n_quads));
#define SCAN(n_quads, noisy)                                                                      \
    FN(scan_pair)(n, s, codes, scale, offset, first, last, (const int32_t(*)[256])quads, n_quads,  \
                  noisy)
    if (noisy && n_quads == 4) SCAN(4, 1);
    else if (noisy && n_quads == 8) SCAN(8, 1);
    else SCAN(n_quads, noisy);
#undef SCAN
}
