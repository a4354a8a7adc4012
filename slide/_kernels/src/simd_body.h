/* One instruction set's functions; see simd.h. */
#define LANES (WIDTH / 4)
#define vf FN(floats)
#define vi FN(ints)
typedef float vf __attribute__((vector_size(WIDTH), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(WIDTH), aligned(4), may_alias));

#define LOAD(p) (*(const vf *)(p))
#define STORE(p, x) (*(vf *)(p) = (x))

typedef float FN(quad) __attribute__((vector_size(16), aligned(4), may_alias));

/* Lane i with lanes i + 4, i + 8, ...: whole vectors as long as there are some. */
static inline FN(quad) FN(fold)(vf a)
{
    union { vf v; FN(quad) q[LANES / 4]; } u = {a};
    for (int i = 1; i < LANES / 4; i++) u.q[0] += u.q[i];
    return u.q[0];
}

static inline float FN(hsum)(vf a)
{
    FN(quad) q = FN(fold)(a);
    return (q[0] + q[2]) + (q[1] + q[3]);
}

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, (vi4){i, j, k, l})
typedef int32_t vi4 __attribute__((vector_size(16)));
#endif

/* out[i] = hsum of the i-th vector, in the same order of additions. */
static inline void FN(hsum4)(float *out, vf a0, vf a1, vf a2, vf a3)
{
    FN(quad) q0 = FN(fold)(a0), q1 = FN(fold)(a1), q2 = FN(fold)(a2), q3 = FN(fold)(a3);
    FN(quad) s = SHUFFLE(q0, q1, 0, 4, 1, 5) + SHUFFLE(q0, q1, 2, 6, 3, 7);
    FN(quad) t = SHUFFLE(q2, q3, 0, 4, 1, 5) + SHUFFLE(q2, q3, 2, 6, 3, 7);
    *(FN(quad) *)out = SHUFFLE(s, t, 0, 1, 4, 5) + SHUFFLE(s, t, 2, 3, 6, 7);
}

static inline void FN(prefetch_row)(const float *row, ptrdiff_t n)
{
    for (ptrdiff_t k = 0; k < n; k += 16) __builtin_prefetch(row + k, 0, 2);
}

enum { FN(AHEAD) = 8 };

static inline __attribute__((always_inline)) void FN(dot_rows)(
    float *restrict out, const float *restrict W, ptrdiff_t ld, const int32_t *restrict ids,
    ptrdiff_t n, const float *restrict x, int far)
{
    ptrdiff_t i = 0;
#define ROW(j) (W + (ids ? (ptrdiff_t)ids[j] : (j)) * ld)
    if (far)
        for (ptrdiff_t j = 0; j < FN(AHEAD) && j < n; j++) FN(prefetch_row)(ROW(j), ld);
    for (; i + 4 <= n; i += 4) {
        if (far)
            for (ptrdiff_t j = i + FN(AHEAD); j < i + FN(AHEAD) + 4 && j < n; j++)
                FN(prefetch_row)(ROW(j), ld);
        const float *r0 = ROW(i), *r1 = ROW(i + 1), *r2 = ROW(i + 2), *r3 = ROW(i + 3);
        vf a0 = {0}, a1 = {0}, a2 = {0}, a3 = {0};
        for (ptrdiff_t k = 0; k < ld; k += LANES) {
            vf xv = LOAD(x + k);
            a0 += xv * LOAD(r0 + k);
            a1 += xv * LOAD(r1 + k);
            a2 += xv * LOAD(r2 + k);
            a3 += xv * LOAD(r3 + k);
        }
        FN(hsum4)(out + i, a0, a1, a2, a3);
    }
    for (; i < n; i++) {
        const float *r0 = ROW(i);
        vf a0 = {0};
        for (ptrdiff_t k = 0; k < ld; k += LANES) a0 += LOAD(x + k) * LOAD(r0 + k);
        out[i] = FN(hsum)(a0);
    }
#undef ROW
}

static void FN(rows_dot)(float *out, const float *W, ptrdiff_t ld, const int32_t *ids, ptrdiff_t n,
                         const float *x)
{
    FN(dot_rows)(out, W, ld, ids, n, x, 0);
}

static void FN(far_dot)(float *out, const float *W, ptrdiff_t ld, const int32_t *ids, ptrdiff_t n,
                        const float *x)
{
    FN(dot_rows)(out, W, ld, ids, n, x, 1);
}

static inline __attribute__((always_inline)) void FN(axpy_rows)(
    float *restrict y, ptrdiff_t m, const float *restrict W, ptrdiff_t ld,
    const int32_t *restrict ids, const float *restrict c, ptrdiff_t n, int far)
{
    ptrdiff_t i = 0;
    if (far)
        for (ptrdiff_t j = 0; j < FN(AHEAD) && j < n; j++) FN(prefetch_row)(W + ids[j] * ld, m);
    for (; i + 4 <= n; i += 4) {
        if (far)
            for (ptrdiff_t j = i + FN(AHEAD); j < i + FN(AHEAD) + 4 && j < n; j++)
                FN(prefetch_row)(W + ids[j] * ld, m);
        const float *r0 = W + ids[i] * ld, *r1 = W + ids[i + 1] * ld, *r2 = W + ids[i + 2] * ld,
                    *r3 = W + ids[i + 3] * ld;
        float c0 = c[i], c1 = c[i + 1], c2 = c[i + 2], c3 = c[i + 3];
        for (ptrdiff_t k = 0; k < m; k += LANES) {
            vf s = c0 * LOAD(r0 + k) + c1 * LOAD(r1 + k);
            vf t = c2 * LOAD(r2 + k) + c3 * LOAD(r3 + k);
            STORE(y + k, LOAD(y + k) + (s + t));
        }
    }
    for (; i < n; i++) {
        const float *r0 = W + ids[i] * ld;
        float c0 = c[i];
        for (ptrdiff_t k = 0; k < m; k += LANES) STORE(y + k, LOAD(y + k) + c0 * LOAD(r0 + k));
    }
}

static void FN(rows_axpy)(float *y, ptrdiff_t m, const float *W, ptrdiff_t ld, const int32_t *ids,
                          const float *c, ptrdiff_t n)
{
    FN(axpy_rows)(y, m, W, ld, ids, c, n, 0);
}

static void FN(far_axpy)(float *y, ptrdiff_t m, const float *W, ptrdiff_t ld, const int32_t *ids,
                         const float *c, ptrdiff_t n)
{
    FN(axpy_rows)(y, m, W, ld, ids, c, n, 1);
}

static void FN(each_dot)(float *restrict out, ptrdiff_t ldo, const float *restrict W, ptrdiff_t ld,
                         const int32_t *restrict rows, const int32_t *restrict ends,
                         ptrdiff_t n_rows, const float *restrict X, const int32_t *restrict s,
                         const int32_t *restrict p)
{
    ptrdiff_t i = 0;
#define OUT(i) out[s[i] * ldo + p[i]]
    for (ptrdiff_t r = 0; r < n_rows; r++) {
        const float *w = W + rows[r] * ld;
        if (r + FN(AHEAD) < n_rows) FN(prefetch_row)(W + rows[r + FN(AHEAD)] * ld, ld);
        for (; i + 4 <= ends[r]; i += 4) {
            const float *x0 = X + s[i] * ld, *x1 = X + s[i + 1] * ld, *x2 = X + s[i + 2] * ld,
                        *x3 = X + s[i + 3] * ld;
            vf a0 = {0}, a1 = {0}, a2 = {0}, a3 = {0};
            for (ptrdiff_t k = 0; k < ld; k += LANES) {
                vf wv = LOAD(w + k);
                a0 += wv * LOAD(x0 + k);
                a1 += wv * LOAD(x1 + k);
                a2 += wv * LOAD(x2 + k);
                a3 += wv * LOAD(x3 + k);
            }
            float z[4];
            FN(hsum4)(z, a0, a1, a2, a3);
            OUT(i) = z[0];
            OUT(i + 1) = z[1];
            OUT(i + 2) = z[2];
            OUT(i + 3) = z[3];
        }
        for (; i < ends[r]; i++) {
            const float *x = X + s[i] * ld;
            vf a = {0};
            for (ptrdiff_t k = 0; k < ld; k += LANES) a += LOAD(w + k) * LOAD(x + k);
            OUT(i) = FN(hsum)(a);
        }
    }
#undef OUT
}

static void FN(each_axpy)(float *restrict Y, const float *restrict W, ptrdiff_t ld,
                          const int32_t *restrict rows, const int32_t *restrict ends,
                          ptrdiff_t n_rows, const int32_t *restrict s, const float *restrict c)
{
    ptrdiff_t i = 0;
    for (ptrdiff_t r = 0; r < n_rows; r++) {
        const float *w = W + rows[r] * ld;
        if (r + FN(AHEAD) < n_rows) FN(prefetch_row)(W + rows[r + FN(AHEAD)] * ld, ld);
        for (; i < ends[r]; i++) {
            float *y = Y + s[i] * ld, ci = c[i];
            for (ptrdiff_t k = 0; k < ld; k += LANES)
                STORE(y + k, LOAD(y + k) + ci * LOAD(w + k));
        }
    }
}

/* Columns are scattered, so these loops are bound by scalar loads: several sums hide their
   latency. */
static float FN(columns_dot)(const float *restrict row, const int32_t *restrict idx,
                             const float *restrict x, ptrdiff_t n)
{
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    ptrdiff_t i = 0;
    for (; i + 4 <= n; i += 4) {
        s0 += row[idx[i]] * x[i];
        s1 += row[idx[i + 1]] * x[i + 1];
        s2 += row[idx[i + 2]] * x[i + 2];
        s3 += row[idx[i + 3]] * x[i + 3];
    }
    for (; i < n; i++) s0 += row[idx[i]] * x[i];
    return (s0 + s2) + (s1 + s3);
}

static void FN(columns_axpy)(float *restrict y, const float *restrict row,
                             const int32_t *restrict idx, ptrdiff_t n, float a)
{
    for (ptrdiff_t i = 0; i < n; i++) y[i] += a * row[idx[i]];
}

static void FN(columns_add)(float *restrict row, const int32_t *restrict idx,
                            const float *restrict x, ptrdiff_t n, float a)
{
    ptrdiff_t i = 0;
    for (; i + 4 <= n; i += 4) {            /* the ids are distinct */
        float v0 = row[idx[i]] + a * x[i], v1 = row[idx[i + 1]] + a * x[i + 1];
        float v2 = row[idx[i + 2]] + a * x[i + 2], v3 = row[idx[i + 3]] + a * x[i + 3];
        row[idx[i]] = v0;
        row[idx[i + 1]] = v1;
        row[idx[i + 2]] = v2;
        row[idx[i + 3]] = v3;
    }
    for (; i < n; i++) row[idx[i]] += a * x[i];
}

static ptrdiff_t FN(changes)(int32_t *restrict idx, float *restrict change,
                             const float *restrict a, const float *restrict b, ptrdiff_t n)
{
    ptrdiff_t m = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        float d = a[i] - b[i];
        idx[m] = (int32_t)i;
        change[m] = d;
        m += d != 0;
    }
    return m;
}

static float FN(sumsq)(const float *x, ptrdiff_t n)
{
    vf a = {0}, b = {0};
    ptrdiff_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        vf u = LOAD(x + i), v = LOAD(x + i + LANES);
        a += u * u;
        b += v * v;
    }
    float s = FN(hsum)(a + b);
    for (; i < n; i++) s += x[i] * x[i];
    return s;
}

static float FN(columns_sum)(const float *restrict row, const int32_t *restrict idx, ptrdiff_t n)
{
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    ptrdiff_t i = 0;
    for (; i + 4 <= n; i += 4) {
        s0 += row[idx[i]];
        s1 += row[idx[i + 1]];
        s2 += row[idx[i + 2]];
        s3 += row[idx[i + 3]];
    }
    for (; i < n; i++) s0 += row[idx[i]];
    return (s0 + s2) + (s1 + s3);
}

/* Lane i of the result is lane i ^ h, h a constant power of two below LANES. */
#if LANES == 4
#define PARTNERS(h) 0 ^ h, 1 ^ h, 2 ^ h, 3 ^ h
#define EACH(f) f(0), f(1), f(2), f(3)
#elif LANES == 8
#define PARTNERS(h) 0 ^ h, 1 ^ h, 2 ^ h, 3 ^ h, 4 ^ h, 5 ^ h, 6 ^ h, 7 ^ h
#define EACH(f) f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)
#else
#define PARTNERS(h)                                                                                \
    0 ^ h, 1 ^ h, 2 ^ h, 3 ^ h, 4 ^ h, 5 ^ h, 6 ^ h, 7 ^ h, 8 ^ h, 9 ^ h, 10 ^ h, 11 ^ h, 12 ^ h,   \
        13 ^ h, 14 ^ h, 15 ^ h
#define EACH(f)                                                                                    \
    f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), f(8), f(9), f(10), f(11), f(12), f(13),        \
        f(14), f(15)
#endif
#if defined(__clang__) || __GNUC__ >= 12
#define PARTNER(x, h) __builtin_shufflevector(x, x, PARTNERS(h))
#else
#define PARTNER(x, h) __builtin_shuffle(x, (vi){PARTNERS(h)})
#endif
#define BIT(i) 1 << (i)
#define REVERSED_BIT(i) 1 << (LANES - 1 - (i))
#define SIGN1(i) (i) & 1 ? -1.0f : 1.0f
#define SIGN2(i) (i) & 2 ? -1.0f : 1.0f
#define SIGN4(i) (i) & 4 ? -1.0f : 1.0f
#define SIGN8(i) (i) & 8 ? -1.0f : 1.0f

/* Stages whose partners are in one vector are a shuffle and a multiply-add; the others take two
   at a time, so that a value is read and written half as often. */
static void FN(hadamard)(float *restrict x, ptrdiff_t n, const uint64_t *restrict signs)
{
    const vi bit = {EACH(BIT)};
    const vf s1 = {EACH(SIGN1)}, s2 = {EACH(SIGN2)};
#if LANES >= 8
    const vf s4 = {EACH(SIGN4)};
#endif
#if LANES >= 16
    const vf s8 = {EACH(SIGN8)};
#endif
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        vi word = (vi){0} + (int32_t)(signs[i / 64] >> (i % 64) & ((1 << LANES) - 1));
        vi flip = ((word & bit) != 0) & INT32_MIN;
        vf v = (vf)((vi)LOAD(x + i) ^ flip);
        v = v * s1 + PARTNER(v, 1);
        v = v * s2 + PARTNER(v, 2);
#if LANES >= 8
        v = v * s4 + PARTNER(v, 4);
#endif
#if LANES >= 16
        v = v * s8 + PARTNER(v, 8);
#endif
        STORE(x + i, v);
    }
    ptrdiff_t h = LANES;
    for (; 4 * h <= n; h *= 4) {
        for (ptrdiff_t i = 0; i < n; i += 4 * h) {
            for (ptrdiff_t j = i; j < i + h; j += LANES) {
                vf a = LOAD(x + j), b = LOAD(x + j + h);
                vf c = LOAD(x + j + 2 * h), d = LOAD(x + j + 3 * h);
                vf ab = a + b, a_b = a - b, cd = c + d, c_d = c - d;
                STORE(x + j, ab + cd);
                STORE(x + j + h, a_b + c_d);
                STORE(x + j + 2 * h, ab - cd);
                STORE(x + j + 3 * h, a_b - c_d);
            }
        }
    }
    if (2 * h <= n) {
        for (ptrdiff_t j = 0; j < h; j += LANES) {
            vf a = LOAD(x + j), b = LOAD(x + j + h);
            STORE(x + j, a + b);
            STORE(x + j + h, a - b);
        }
    }
}

/* The positive lanes as bits, lane 0 the highest: each lane holds its own bit or none, so their
   sum is their union. */
static inline uint64_t FN(positive)(vf v)
{
    const vi bit = {EACH(REVERSED_BIT)};
    union { vi v; int32_t i[LANES]; } u = {(v > 0) & bit};
    int32_t bits = 0;
    for (int k = 0; k < LANES; k++) bits |= u.i[k];
    return (uint64_t)bits;
}

static void FN(sign_codes)(uint64_t *restrict out, const float *restrict x, ptrdiff_t k,
                           ptrdiff_t n, uint64_t *restrict words)
{
    for (ptrdiff_t i = 0; i < k * n; i += 64) {
        uint64_t word = 0;
        for (int j = 0; j < 64; j += LANES) word = word << LANES | FN(positive)(LOAD(x + i + j));
        words[i / 64] = word;
    }
    for (ptrdiff_t t = 0; t < n; t++) {
        ptrdiff_t first = t * k, w = first / 64, shift = first % 64;
        uint64_t bits = words[w] << shift;
        if (shift + k > 64) bits |= words[w + 1] >> (64 - shift);
        out[t] = bits >> (64 - k);
    }
}

#undef PARTNERS
#undef PARTNER
#undef EACH
#undef BIT
#undef REVERSED_BIT
#undef SIGN1
#undef SIGN2
#undef SIGN4
#undef SIGN8

static void FN(range)(const float *x, ptrdiff_t n, float *low, float *high)
{
    float least = x[0], most = x[0];
    ptrdiff_t i = 0;
    if (n >= LANES) {
        vf a = LOAD(x), b = a;
        for (i = LANES; i + LANES <= n; i += LANES) {
            vf v = LOAD(x + i);
            vi lt = v < a, gt = v > b;
            a = (vf)(((vi)v & lt) | ((vi)a & ~lt));
            b = (vf)(((vi)v & gt) | ((vi)b & ~gt));
        }
        for (int k = 0; k < LANES; k++) {
            least = a[k] < least ? a[k] : least;
            most = b[k] > most ? b[k] : most;
        }
    }
    for (; i < n; i++) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    *low = least;
    *high = most;
}

static float FN(sum_below)(const float *x, ptrdiff_t n, float cut, int32_t *above)
{
    vf sum = {0};
    vi count = {0};
    ptrdiff_t i = 0;
    int32_t others = 0;
    for (; i + LANES <= n; i += LANES) {
        vf v = LOAD(x + i);
        vi below = v < cut;
        sum += (vf)((vi)v & below);
        count += below;                 /* -1 where it is */
    }
    for (int k = 0; k < LANES; k++) others += 1 + count[k];
    others += (int32_t)i - LANES;
    float rest = FN(hsum)(sum);
    for (; i < n; i++) {
        rest += x[i] < cut ? x[i] : 0;
        others += !(x[i] < cut);
    }
    *above = others;
    return rest;
}

/* A number that no bin fits (NaN, infinity) must not be converted, which C leaves undefined. */
static void FN(bins)(int32_t *restrict out, const float *restrict x, ptrdiff_t n, float low,
                     float scale)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        float v = (x[i] - low) * scale;
        v = v >= 0 && v < (1 << SLIDE_LOG_BINS) ? v : 0;
        out[i] = (int32_t)v;
    }
}

/* exp by range reduction to |r| <= ln2/2 and a polynomial of degree 6 (Taylor coefficients,
   relative error below 2e-7 there); results under 2^-126 are flushed to 0. */
static inline vf FN(vexp)(vf x)
{
    const float log2e = 1.44269504088896341f, ln2_hi = 0.693359375f, ln2_lo = -2.12194440e-4f;
    const vf lo = (vf){0} - 87.3f, hi = (vf){0} + 87.0f;   /* 1 / (1 + exp(87)) is no denormal */
    vi below = x < lo;
    vi over = x > hi;
    x = (vf)(((vi)x & ~over) | ((vi)hi & over));
    x = (vf)(((vi)x & ~below) | ((vi)lo & below));
    vf magic = (vf){0} + 12582912.0f;               /* 1.5 * 2^23: adding it rounds to integer */
    vf t = x * log2e + magic;
    vf n = t - magic;
    vf r = x - n * ln2_hi;
    r = r - n * ln2_lo;
    vf p = (vf){0} + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    vi e = ((vi)t - (vi)magic) << 23;
    vf y = (vf)((vi)p + e);
    return (vf)((vi)y & ~below);
}

/* log by the exponent and the series of 2 atanh((x - 1) / (x + 1)) up to the ninth power, for x in
   [sqrt(1/2), sqrt(2)); relative error below 3e-7. x is normal and positive. */
static inline vf FN(vlog)(vf x)
{
    const int32_t half = 0x3f3504f3;                /* sqrt(1/2) */
    vi e = ((vi)x - half) >> 23;
    vf m = (vf)((vi)x - (e << 23));
    vf s = (m - 1.0f) / (m + 1.0f), t = s * s;
    vf p = t * (1.0f / 9) + 1.0f / 7;
    p = p * t + 1.0f / 5;
    p = p * t + 1.0f / 3;
    return __builtin_convertvector(e, vf) * 0.69314718f + 2.0f * (s + s * t * p);
}

static void FN(minus_log)(float *restrict z, const float *restrict x, ptrdiff_t n)
{
    ptrdiff_t i = 0;
    for (; i + LANES <= n; i += LANES) STORE(z + i, LOAD(z + i) - FN(vlog)(LOAD(x + i)));
    if (i < n) {
        union { vf v; float f[LANES]; } w;
        for (int k = 0; k < LANES; k++) w.f[k] = i + k < n ? x[i + k] : 1;
        w.v = FN(vlog)(w.v);
        for (int k = 0; i < n; i++, k++) z[i] -= w.f[k];
    }
}

static float FN(exp_shift)(float *restrict z, ptrdiff_t n, float *restrict sum)
{
    float m = z[0];
    ptrdiff_t i = 0;
    if (n >= LANES) {
        vf v = LOAD(z);
        for (i = LANES; i + LANES <= n; i += LANES) {
            vf u = LOAD(z + i);
            vi gt = u > v;
            v = (vf)(((vi)u & gt) | ((vi)v & ~gt));
        }
        union { vf v; float f[LANES]; } w = {v};
        for (int k = 0; k < LANES; k++) m = w.f[k] > m ? w.f[k] : m;
    }
    for (; i < n; i++) m = z[i] > m ? z[i] : m;
    vf acc = {0};
    for (i = 0; i + LANES <= n; i += LANES) {
        vf e = FN(vexp)(LOAD(z + i) - m);
        STORE(z + i, e);
        acc += e;
    }
    float s = FN(hsum)(acc);
    if (i < n) {
        union { vf v; float f[LANES]; } w;
        for (int k = 0; k < LANES; k++) w.f[k] = i + k < n ? z[i + k] - m : -100.0f;
        w.v = FN(vexp)(w.v);
        for (int k = 0; i < n; i++, k++) {
            z[i] = w.f[k];
            s += w.f[k];
        }
    }
    *sum = s;
    return m;
}

static void FN(scale)(float *restrict x, ptrdiff_t n, float a)
{
    for (ptrdiff_t i = 0; i < n; i++) x[i] *= a;
}

static void FN(shift)(float *restrict x, ptrdiff_t n, float a)
{
    for (ptrdiff_t i = 0; i < n; i++) x[i] += a;
}

static void FN(axpy)(float *restrict y, const float *restrict x, ptrdiff_t n, float a)
{
    for (ptrdiff_t i = 0; i < n; i++) y[i] += a * x[i];
}

/* 1 / (1 + exp(-x)), sign 1; tanh x = 2 sigmoid(2x) - 1. */
static inline vf FN(vsigmoid)(vf x)
{
    return 1.0f / (1.0f + FN(vexp)(-x));
}

#define MAP(name, expr)                                                                            \
    static void FN(name)(float *restrict x, ptrdiff_t n)                                           \
    {                                                                                              \
        ptrdiff_t i = 0;                                                                           \
        for (; i + LANES <= n; i += LANES) {                                                       \
            vf v = LOAD(x + i);                                                                    \
            STORE(x + i, expr);                                                                    \
        }                                                                                          \
        if (i < n) {                                                                               \
            union { vf v; float f[LANES]; } w = {{0}};                                             \
            for (int k = 0; i + k < n; k++) w.f[k] = x[i + k];                                     \
            vf v = w.v;                                                                            \
            w.v = expr;                                                                            \
            for (int k = 0; i + k < n; k++) x[i + k] = w.f[k];                                     \
        }                                                                                          \
    }
MAP(sigmoid, FN(vsigmoid)(v))
MAP(tanh, 2.0f * FN(vsigmoid)(2.0f * v) - 1.0f)
#undef MAP

static void FN(sgd)(float *restrict w, const float *restrict g, ptrdiff_t n, float lr)
{
    for (ptrdiff_t i = 0; i < n; i++) w[i] -= lr * g[i];
}

static void FN(momentum)(float *restrict w, float *restrict v, const float *restrict g, ptrdiff_t n,
                         float lr, float mu, int nesterov)
{
    if (nesterov) {
        for (ptrdiff_t i = 0; i < n; i++) {
            v[i] = mu * v[i] - lr * g[i];
            w[i] += mu * v[i] - lr * g[i];
        }
    } else {
        for (ptrdiff_t i = 0; i < n; i++) {
            v[i] = mu * v[i] - lr * g[i];
            w[i] += v[i];
        }
    }
}

static void FN(adagrad)(float *restrict w, float *restrict acc, const float *restrict g,
                        ptrdiff_t n, float lr, float eps)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        float a = acc[i] + g[i] * g[i];
        acc[i] = a;
        w[i] -= lr * g[i] / (sqrtf(a) + eps);
    }
}

static void FN(adagrad_momentum)(float *restrict w, float *restrict acc, float *restrict v,
                                 const float *restrict g, ptrdiff_t n, float lr, float eps,
                                 float mu)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        float a = acc[i] + g[i] * g[i];
        float step = mu * v[i] + lr * g[i] / (sqrtf(a) + eps);
        acc[i] = a;
        v[i] = g[i] != 0 ? step : v[i];
        w[i] -= g[i] != 0 ? step : 0;
    }
}

/* Threads that race can leave an m that belongs to another v: the ratio stays in its bounds. */
static inline float FN(clamp)(float x, float most)
{
    x = x < most ? x : most;
    return x > -most ? x : -most;
}

/* One weight's missed steps and its step, of which a loop has either or both. */
static inline __attribute__((always_inline)) void FN(adam_weight)(
    float *w, float *m, float *v, const float *g, const slide_adam_step *s, int behind)
{
    if (behind) {
        *w -= s->skip_rate * FN(clamp)(*m / (sqrtf(*v) + s->skip_eps), s->most);
        *m *= s->decay1;
        *v *= s->decay2;
    }
    if (g) {
        *m = s->beta1 * *m + s->rest1 * *g;
        *v = s->beta2 * *v + s->rest2 * *g * *g;
        *w -= s->rate * FN(clamp)(*m / (sqrtf(*v) + s->eps), s->most);
    }
}

static void FN(adam)(float *restrict w, float *restrict m, float *restrict v,
                     const float *restrict g, ptrdiff_t n, const slide_adam_step *step)
{
    const slide_adam_step s = *step;
#define LOOP(g, behind)                                                                           \
    for (ptrdiff_t i = 0; i < n; i++) {                                                           \
        float wi = w[i], mi = m[i], vj = v[i];                                                    \
        FN(adam_weight)(&wi, &mi, &vj, g, &s, behind);                                            \
        w[i] = wi;                                                                                \
        m[i] = mi;                                                                                \
        v[i] = vj;                                                                                \
    }
    if (!g) LOOP(0, 1)
    else if (s.behind) LOOP(g + i, 1)
    else LOOP(g + i, 0)
#undef LOOP
}

static inline float FN(of_bits)(uint32_t bits)
{
    union { uint32_t u; float f; } x = {bits};
    return x.f;
}

static inline uint32_t FN(bits_of)(float value)
{
    union { float f; uint32_t u; } x = {value};
    return x.u;
}

static void FN(adam_bfloat16)(float *restrict w, uint32_t *restrict moments,
                              const float *restrict g, ptrdiff_t n, const slide_adam_step *step,
                              uint32_t seed)
{
    const slide_adam_step s = *step;
#define LOOP(g, behind)                                                                           \
    for (ptrdiff_t i = 0; i < n; i++) {                                                           \
        float wi = w[i];                                                                          \
        float mi = FN(of_bits)(moments[i] << 16), vj = FN(of_bits)(moments[i] & 0xffff0000u);     \
        uint32_t r = seed + (uint32_t)i * 0x9e3779b9u;      /* one to one in the seed */          \
        r = (r ^ r >> 16) * 0x85ebca6bu;                                                          \
        r ^= r >> 13;                                                                             \
        FN(adam_weight)(&wi, &mi, &vj, g, &s, behind);                                            \
        w[i] = wi;                                                                                \
        moments[i] = ((FN(bits_of)(vj) + (r >> 16)) & 0xffff0000u) |                              \
                     (FN(bits_of)(mi) + (r & 0xffffu)) >> 16;                                     \
    }
    if (!g) LOOP(0, 1)
    else if (s.behind) LOOP(g + i, 1)
    else LOOP(g + i, 0)
#undef LOOP
}

#include "simd_sketches.h"

static const slide_simd_table FN(table) = {
    SLIDE_STR(ISA),      FN(rows_dot),         FN(far_dot),      FN(rows_axpy),
    FN(far_axpy),        FN(each_dot),
    FN(each_axpy),       FN(columns_dot),      FN(columns_axpy), FN(columns_add),
    FN(changes),         FN(sumsq),            FN(columns_sum),  FN(hadamard),
    FN(sign_codes),      FN(sketch_scan),      FN(sum_below),    FN(range),
    FN(bins),            FN(exp_shift),        FN(minus_log),    FN(scale),
    FN(shift),           FN(axpy),             FN(sigmoid),      FN(tanh),
    FN(sgd),             FN(momentum),         FN(adagrad),      FN(adagrad_momentum),
    FN(adam),            FN(adam_bfloat16),
};

#undef LANES
#undef vf
#undef vi
#undef LOAD
#undef STORE
#undef SHUFFLE
