/* Scores of short codes; included by simd_body.h for each instruction set, and once more for the
   instruction that makes the products of four pairs of bytes at a time (VNNI). */

/* `keep` stores the scores z whose bits are set in `kept`, and their items, without a branch: which
   those are cannot be predicted. It writes 16 of both, and returns how many were kept. `block`
   returns, as bits, which scores of 16 items are above `least`. A pair of products has 16 bits:
   2 * 127 * 127 is less than 2^15. */
#if WIDTH == 64
static inline ptrdiff_t FN(keep)(int32_t *item, float *score, ptrdiff_t first, __m512 z,
                                 __mmask16 kept)
{
    const __m512i steps = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i items = _mm512_add_epi32(_mm512_set1_epi32((int32_t)first), steps);
    _mm512_storeu_ps(score, _mm512_maskz_compress_ps(kept, z));
    _mm512_storeu_si512(item, _mm512_maskz_compress_epi32(kept, items));
    return __builtin_popcount(kept);
}

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

static inline uint32_t FN(block)(__m512 *z, const uint8_t *codes, const float *scale,
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
    __m512 t = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(a, b)), _mm512_set1_ps(step));
    t = _mm512_fmadd_ps(_mm512_loadu_ps(scale), t, _mm512_loadu_ps(offset));
    if (noise) t = _mm512_add_ps(_mm512_max_ps(t, _mm512_set1_ps(floor)), _mm512_loadu_ps(noise));
    *z = t;
    return _mm512_cmp_ps_mask(t, _mm512_set1_ps(least), _CMP_GT_OQ);
}
#define SCORES __m512
#elif WIDTH == 32
typedef struct {
    __m256 low, high;
} FN(scores);

static inline ptrdiff_t FN(keep)(int32_t *item, float *score, ptrdiff_t first, FN(scores) z,
                                 uint32_t kept)
{
    const uint32_t low = kept & 0xff, high = kept >> 8;
    const ptrdiff_t n = __builtin_popcount(low);
    const __m256i i = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)slide_set_bits[low]));
    const __m256i j = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)slide_set_bits[high]));
    const __m256i origin = _mm256_set1_epi32((int32_t)first);
    _mm256_storeu_ps(score, _mm256_permutevar8x32_ps(z.low, i));
    _mm256_storeu_ps(score + n, _mm256_permutevar8x32_ps(z.high, j));
    _mm256_storeu_si256((__m256i *)item, _mm256_add_epi32(origin, i));
    _mm256_storeu_si256((__m256i *)(item + n),
                        _mm256_add_epi32(_mm256_add_epi32(origin, _mm256_set1_epi32(8)), j));
    return n + __builtin_popcount(high);
}

static inline uint32_t FN(block)(FN(scores) *z, const uint8_t *codes, const float *scale,
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
    z->low = t;
    z->high = u;
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(t, leasts, _CMP_GT_OQ)) |
           (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(u, leasts, _CMP_GT_OQ)) << 8;
}
#define SCORES FN(scores)
#else
typedef struct {
    float of[16];
} FN(scores);

static inline ptrdiff_t FN(keep)(int32_t *item, float *score, ptrdiff_t first, FN(scores) z,
                                 uint32_t kept)
{
    ptrdiff_t n = 0;
    for (int i = 0; i < 16; i++) {
        item[n] = (int32_t)(first + i);
        score[n] = z.of[i];
        n += kept >> i & 1;
    }
    return n;
}

static inline uint32_t FN(block)(FN(scores) *z, const uint8_t *codes, const float *scale,
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
        z->of[i] = t;
        above |= (uint32_t)(t > least) << i;
    }
    return above;
}
#define SCORES FN(scores)
#endif

static inline ptrdiff_t FN(scan)(int32_t *item, float *score, const uint8_t *codes,
                                 const float *scale, const float *offset, ptrdiff_t first,
                                 ptrdiff_t last, ptrdiff_t every, const int32_t *quads,
                                 ptrdiff_t n_quads, int32_t base, float step, float least,
                                 const float *noise, float floor)
{
    ptrdiff_t n = 0;
    for (ptrdiff_t block = first / 16; 16 * block < last; block += every) {
        SCORES z;
        uint32_t above =
            FN(block)(&z, codes + 64 * n_quads * block, scale + 16 * block, offset + 16 * block,
                      quads, n_quads, base, step, least, noise ? noise + 16 * block : 0, floor);
        if (16 * block < first) above &= ~0u << (first - 16 * block);
        if (16 * block + 16 > last) above &= 0xffffu >> (16 * block + 16 - last);
        n += FN(keep)(item + n, score + n, 16 * block, z, above);
    }
    return n;
}
#undef SCORES

static ptrdiff_t FN(sketch_scan)(int32_t *item, float *score, const uint8_t *codes,
                                 const float *scale, const float *offset, ptrdiff_t first,
                                 ptrdiff_t last, ptrdiff_t every, const int8_t *q,
                                 ptrdiff_t n_quads, int32_t base, float step, float least,
                                 const float *noise, float floor)
{
    int32_t quads[256];
    memcpy(quads, q, (size_t)(4 * n_quads));
    /* Usual lengths have their loops unrolled, and the query in registers. */
#define SCAN(n_quads, noise)                                                                      \
    FN(scan)(item, score, codes, scale, offset, first, last, every, quads, n_quads, base, step,   \
             least, noise, floor)
    if (n_quads == 4) return noise ? SCAN(4, noise) : SCAN(4, 0);
    if (n_quads == 8) return noise ? SCAN(8, noise) : SCAN(8, 0);
    return SCAN(n_quads, noise);
#undef SCAN
}
