/* Byte shuffle, and its inverse fused with widening to what readers give: int32 columns, float32 values. Planes are
 * taken from anywhere inside a chunk, so the boundary pieces of a cached chunk cost no second pass. AVX-512 and AVX2
 * versions are chosen at run time, NEON is part of every 64-bit ARM; the portable loops are plain enough for the
 * compiler's vectoriser. Every version gives the same bits: integers up to 2^24 and halves are exact in float32, floats
 * are copied. */
#include "shard/layout.h"
#include "shard/planes.h"

#include <endian.h>
#include <math.h>
#include <pthread.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <stdatomic.h>
#include <string.h>

static atomic_int forced = 2;

#if defined(__x86_64__)
/* Asked of the CPU itself: clang before 15 has no name for it. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

static int cpu_level(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        return 2;
    if (__builtin_cpu_supports("avx2") && has_f16c())
        return 1;
#elif defined(__aarch64__)
    return 1;
#endif
    return 0;
}

int ebb_codec_level(int level)
{
    int cpu = cpu_level();
    atomic_store(&forced, level < cpu ? level : cpu);
    return atomic_load(&forced);
}

int ebb_codec_level_now(void)
{
    int cpu = cpu_level(), most = atomic_load_explicit(&forced, memory_order_relaxed);
    return cpu < most ? cpu : most;
}

void ebb_shuffle(size_t size, const void *in, int64_t n, void *out)
{
    const uint8_t *restrict from = in;
    uint8_t *restrict to = out;
    if (size == 1)
        memcpy(to, from, (size_t)n);
    else if (size == 2)
        for (int64_t i = 0; i < n; i++) {
            to[i] = from[2 * i];
            to[n + i] = from[2 * i + 1];
        }
    else
        for (size_t p = 0; p < size; p++)
            for (int64_t i = 0; i < n; i++)
                to[(size_t)n * p + (size_t)i] = from[(size_t)i * size + p];
}

/* ---- halves ---- */

uint16_t ebb_float_to_half(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude >= 0x7f800000)
        return (uint16_t)(sign | 0x7c00 | (magnitude >> 13 & 0x3ff));
    if (magnitude >= 0x47800000) /* 65536 */
        return (uint16_t)(sign | 0x7bff);
    if (magnitude >= 0x38800000) /* 2^-14: normal */
        return (uint16_t)(sign | ((magnitude - 0x38000000) >> 13));
    return (uint16_t)(sign | (uint32_t)(fabsf(f) * 0x1p24f));
}

/* ---- portable loops over planes ---- */

static void planes2_u16(const uint8_t *restrict a, const uint8_t *restrict b, int64_t n, int32_t *restrict out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = a[i] | b[i] << 8;
}

static void planes2_u16f(const uint8_t *restrict a, const uint8_t *restrict b, int64_t n, float *restrict out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)(a[i] | b[i] << 8);
}

static void planes2_i16f(const uint8_t *restrict a, const uint8_t *restrict b, int64_t n, float *restrict out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)(a[i] | (int8_t)b[i] * 256);
}

static void planes2_f16(const uint8_t *restrict a, const uint8_t *restrict b, int64_t n, float *restrict out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = half_to_float((uint16_t)(a[i] | b[i] << 8));
}

static void planes4(const uint8_t *restrict p, int64_t stride, int64_t n, uint32_t *restrict out)
{
    const uint8_t *restrict a = p, *restrict b = p + stride, *restrict c = p + 2 * stride, *restrict d = p + 3 * stride;
    for (int64_t i = 0; i < n; i++)
        out[i] = a[i] | (uint32_t)b[i] << 8 | (uint32_t)c[i] << 16 | (uint32_t)d[i] << 24;
}

static void plane_u8f(const uint8_t *restrict a, int64_t n, float *restrict out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)a[i];
}

static void plane_i8f(const int8_t *restrict a, int64_t n, float *restrict out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)a[i];
}

/* ---- vector versions: return how many elements they did, from the front ---- */

#if defined(__x86_64__)
static AVX2 int64_t planes4_avx2(const uint8_t *p, int64_t stride, int64_t n, uint32_t *out)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i low = pair8(p + i, p + stride + i);
        __m256i high = pair8(p + 2 * stride + i, p + 3 * stride + i);
        _mm256_storeu_si256((__m256i *)(out + i), _mm256_or_si256(low, _mm256_slli_epi32(high, 16)));
    }
    return i;
}

static AVX2 int64_t planes2_avx2(ebb_elem_t elem, const uint8_t *a, const uint8_t *b, int64_t n, bool to_float,
                                 void *out)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i v = pair8(a + i, b + i);
        if (elem == EBB_ELEM_I16)
            v = _mm256_srai_epi32(_mm256_slli_epi32(v, 16), 16);
        if (!to_float) {
            _mm256_storeu_si256((__m256i *)((int32_t *)out + i), v);
            continue;
        }
        __m256 f = _mm256_cvtepi32_ps(v);
        if (elem == EBB_ELEM_F16) {
            __m128i la = _mm_loadl_epi64((const __m128i *)(a + i)), lb = _mm_loadl_epi64((const __m128i *)(b + i));
            f = _mm256_cvtph_ps(_mm_unpacklo_epi8(la, lb));
        }
        _mm256_storeu_ps((float *)out + i, f);
    }
    return i;
}

/* Bytes, signed or not, to float. */
static AVX2 int64_t plane1_avx2(bool is_signed, const uint8_t *a, int64_t n, float *out)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m128i v = _mm_loadl_epi64((const __m128i *)(a + i));
        _mm256_storeu_ps(out + i, _mm256_cvtepi32_ps(is_signed ? _mm256_cvtepi8_epi32(v) : _mm256_cvtepu8_epi32(v)));
    }
    return i;
}

static AVX512 int64_t plane1_avx512(bool is_signed, const uint8_t *a, int64_t n, float *out)
{
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(a + i));
        _mm512_storeu_ps(out + i, _mm512_cvtepi32_ps(is_signed ? _mm512_cvtepi8_epi32(v) : _mm512_cvtepu8_epi32(v)));
    }
    return i;
}

static AVX512 int64_t planes4_avx512(const uint8_t *p, int64_t stride, int64_t n, uint32_t *out)
{
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512i low = pair16(p + i, p + stride + i);
        __m512i high = pair16(p + 2 * stride + i, p + 3 * stride + i);
        _mm512_storeu_si512(out + i, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
    return i;
}

static AVX512 int64_t planes2_avx512(ebb_elem_t elem, const uint8_t *a, const uint8_t *b, int64_t n, bool to_float,
                                     void *out)
{
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512i v = pair16(a + i, b + i);
        if (elem == EBB_ELEM_I16)
            v = _mm512_srai_epi32(_mm512_slli_epi32(v, 16), 16);
        if (!to_float)
            _mm512_storeu_si512((int32_t *)out + i, v);
        else if (elem == EBB_ELEM_F16)
            _mm512_storeu_ps((float *)out + i, _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v)));
        else
            _mm512_storeu_ps((float *)out + i, _mm512_cvtepi32_ps(v));
    }
    return i;
}
#elif defined(__aarch64__)
static int64_t plane1_neon(bool is_signed, const uint8_t *a, int64_t n, float *out)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        if (is_signed)
            put8_signed(vmovl_s8(vreinterpret_s8_u8(vld1_u8(a + i))), out + i);
        else
            put8_unsigned(vmovl_u8(vld1_u8(a + i)), out + i);
    return i;
}

static int64_t planes4_neon(const uint8_t *p, int64_t stride, int64_t n, uint32_t *out)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        put8_four(p + i, stride, out + i);
    return i;
}

static int64_t planes2_neon(ebb_elem_t elem, const uint8_t *a, const uint8_t *b, int64_t n, bool to_float, void *out)
{
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint16x8_t v = pair8(a + i, b + i);
        if (!to_float)
            put8(v, (int32_t *)out + i);
        else if (elem == EBB_ELEM_F16)
            put8_half(v, (float *)out + i);
        else if (elem == EBB_ELEM_I16)
            put8_signed(vreinterpretq_s16_u16(v), (float *)out + i);
        else
            put8_unsigned(v, (float *)out + i);
    }
    return i;
}
#endif

static void take_plane1(bool is_signed, const uint8_t *a, int64_t n, float *out)
{
    int64_t done = 0;
#if defined(__x86_64__)
    int level = ebb_codec_level_now();
    done = level == 2 ? plane1_avx512(is_signed, a, n, out) : level == 1 ? plane1_avx2(is_signed, a, n, out) : 0;
#elif defined(__aarch64__)
    done = ebb_codec_level_now() > 0 ? plane1_neon(is_signed, a, n, out) : 0;
#endif
    if (is_signed)
        plane_i8f((const int8_t *)a + done, n - done, out + done);
    else
        plane_u8f(a + done, n - done, out + done);
}

static void take_planes4(const uint8_t *p, int64_t stride, int64_t n, uint32_t *out)
{
    int64_t done = 0;
#if defined(__x86_64__)
    int level = ebb_codec_level_now();
    done = level == 2 ? planes4_avx512(p, stride, n, out) : level == 1 ? planes4_avx2(p, stride, n, out) : 0;
#elif defined(__aarch64__)
    done = ebb_codec_level_now() > 0 ? planes4_neon(p, stride, n, out) : 0;
#endif
    planes4(p + done, stride, n - done, out + done);
}

static void take_planes2(ebb_elem_t elem, const uint8_t *a, const uint8_t *b, int64_t n, bool to_float, void *out)
{
    int64_t done = 0;
#if defined(__x86_64__)
    int level = ebb_codec_level_now();
    done = level == 2   ? planes2_avx512(elem, a, b, n, to_float, out)
           : level == 1 ? planes2_avx2(elem, a, b, n, to_float, out)
                        : 0;
#elif defined(__aarch64__)
    done = ebb_codec_level_now() > 0 ? planes2_neon(elem, a, b, n, to_float, out) : 0;
#endif
    a += done;
    b += done;
    n -= done;
    if (!to_float)
        planes2_u16(a, b, n, (int32_t *)out + done);
    else if (elem == EBB_ELEM_U16)
        planes2_u16f(a, b, n, (float *)out + done);
    else if (elem == EBB_ELEM_I16)
        planes2_i16f(a, b, n, (float *)out + done);
    else
        planes2_f16(a, b, n, (float *)out + done);
}

/* ---- any type, one element at a time in small blocks ---- */

/* Elements [first, first + count) in this machine's order, unshuffled. */
static void gather(size_t size, bool shuffled, const uint8_t *in, int64_t n, int64_t first, int64_t count, uint8_t *out)
{
    if (!shuffled || size == 1) {
        memcpy(out, in + (size_t)first * size, (size_t)count * size);
        return;
    }
    for (size_t p = 0; p < size; p++) {
        const uint8_t *plane = in + (size_t)n * p + first;
        for (int64_t i = 0; i < count; i++)
            out[(size_t)i * size + p] = plane[i];
    }
}

/* Value i of a block, as integer or as double; float types give false from the first. */
static bool integer_at(ebb_elem_t elem, const void *in, int64_t i, int64_t *v)
{
    switch (elem) {
    case EBB_ELEM_U8: *v = ((const uint8_t *)in)[i]; return true;
    case EBB_ELEM_I8: *v = ((const int8_t *)in)[i]; return true;
    case EBB_ELEM_U16: *v = ((const uint16_t *)in)[i]; return true;
    case EBB_ELEM_I16: *v = ((const int16_t *)in)[i]; return true;
    case EBB_ELEM_U32: *v = ((const uint32_t *)in)[i]; return true;
    case EBB_ELEM_I32: *v = ((const int32_t *)in)[i]; return true;
    case EBB_ELEM_I64: *v = ((const int64_t *)in)[i]; return true;
    case EBB_ELEM_U64: {
        uint64_t u = ((const uint64_t *)in)[i];
        *v = u > INT64_MAX ? INT64_MAX : (int64_t)u;
        return true;
    }
    default: return false;
    }
}

static double real_at(ebb_elem_t elem, const void *in, int64_t i)
{
    if (elem == EBB_ELEM_F16)
        return half_to_float(((const uint16_t *)in)[i]);
    return elem == EBB_ELEM_F32 ? ((const float *)in)[i] : ((const double *)in)[i];
}

enum { BLOCK = 512 };

static bool any_to_i64(ebb_elem_t elem, const void *block, int64_t n, int64_t *out)
{
    bool good = true;
    for (int64_t i = 0; i < n; i++) {
        if (integer_at(elem, block, i, &out[i]))
            continue;
        double v = real_at(elem, block, i);
        bool whole = v >= -0x1p53 && v <= 0x1p53 && v == floor(v);
        good &= whole;
        out[i] = whole ? (int64_t)v : 0;
    }
    return good;
}

static bool any_to_f32(ebb_elem_t elem, const void *block, int64_t n, float *out)
{
    bool good = true;
    for (int64_t i = 0; i < n; i++) {
        int64_t v;
        if (integer_at(elem, block, i, &v)) {
            good &= v >= -(1 << 24) && v <= 1 << 24;
            out[i] = (float)v;
            continue;
        }
        double d = real_at(elem, block, i);
        out[i] = (float)d;
        good &= isfinite(out[i]) || !isfinite(d);
    }
    return good;
}

bool ebb_take_i64(ebb_elem_t elem, bool shuffled, const void *in, int64_t n, int64_t first, int64_t count, int64_t *out)
{
    uint64_t block[BLOCK];
    bool good = true;
    for (int64_t done = 0; done < count; done += BLOCK) {
        int64_t m = count - done < BLOCK ? count - done : BLOCK;
        gather(ebb_elem_size(elem), shuffled, in, n, first + done, m, (uint8_t *)block);
        good &= any_to_i64(elem, block, m, out + done);
    }
    return good;
}

static bool slow_i32(ebb_elem_t elem, bool shuffled, const void *in, int64_t n, int64_t first, int64_t count,
                     int32_t *out)
{
    int64_t wide[BLOCK];
    bool good = true;
    for (int64_t done = 0; done < count; done += BLOCK) {
        int64_t m = count - done < BLOCK ? count - done : BLOCK;
        good &= ebb_take_i64(elem, shuffled, in, n, first + done, m, wide);
        for (int64_t i = 0; i < m; i++) {
            good &= wide[i] >= INT32_MIN && wide[i] <= INT32_MAX;
            out[done + i] = (int32_t)wide[i];
        }
    }
    return good;
}

static bool slow_f32(ebb_elem_t elem, bool shuffled, const void *in, int64_t n, int64_t first, int64_t count,
                     float *out)
{
    uint64_t block[BLOCK];
    bool good = true;
    for (int64_t done = 0; done < count; done += BLOCK) {
        int64_t m = count - done < BLOCK ? count - done : BLOCK;
        gather(ebb_elem_size(elem), shuffled, in, n, first + done, m, (uint8_t *)block);
        good &= any_to_f32(elem, block, m, out + done);
    }
    return good;
}

bool ebb_take_i32(ebb_elem_t elem, bool shuffled, const void *in, int64_t n, int64_t first, int64_t count, int32_t *out)
{
    const uint8_t *p = (const uint8_t *)in + first;
    if (shuffled && elem == EBB_ELEM_U16)
        take_planes2(elem, p, p + n, count, false, out);
    else if (shuffled && elem == EBB_ELEM_I32)
        take_planes4(p, n, count, (uint32_t *)out);
    else if (elem == EBB_ELEM_I32)
        memcpy(out, (const int32_t *)in + first, (size_t)count * 4);
    else if (elem == EBB_ELEM_U16)
        for (int64_t i = 0; i < count; i++)
            out[i] = ((const uint16_t *)in)[first + i];
    else
        return slow_i32(elem, shuffled, in, n, first, count, out);
    return true;
}

/* float from int32 in place; a loop of its own so that it is vectorised. */
static bool settle_i32(int64_t n, float *out)
{
    bool good = true;
    for (int64_t i = 0; i < n; i++) {
        int32_t v;
        memcpy(&v, &out[i], 4);
        good &= v >= -(1 << 24) && v <= 1 << 24;
        out[i] = (float)v;
    }
    return good;
}

bool ebb_take_f32(ebb_elem_t elem, bool shuffled, const void *in, int64_t n, int64_t first, int64_t count, float *out)
{
    const uint8_t *p = (const uint8_t *)in + first;
    if (elem == EBB_ELEM_U8 || elem == EBB_ELEM_I8)
        take_plane1(elem == EBB_ELEM_I8, p, count, out);
    else if (elem == EBB_ELEM_F32 && !shuffled)
        memcpy(out, (const float *)in + first, (size_t)count * 4);
    else if (elem == EBB_ELEM_F32 || (elem == EBB_ELEM_I32 && shuffled))
        take_planes4(p, n, count, (uint32_t *)out);
    else if (shuffled && (elem == EBB_ELEM_U16 || elem == EBB_ELEM_I16 || elem == EBB_ELEM_F16))
        take_planes2(elem, p, p + n, count, true, out);
    else if (elem == EBB_ELEM_U16)
        for (int64_t i = 0; i < count; i++)
            out[i] = ((const uint16_t *)in)[first + i];
    else
        return slow_f32(elem, shuffled, in, n, first, count, out);
    return elem == EBB_ELEM_I32 && shuffled ? settle_i32(count, out) : true;
}

/* ---- float32 to what is stored ---- */

#define PUT_INTEGERS(type, low, high)                                                                                  \
    do {                                                                                                               \
        type *to = out;                                                                                                \
        bool good = true;                                                                                              \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            bool fits = in[i] >= (low) && in[i] <= (high);                                                             \
            to[i] = (type)(fits ? in[i] : 0);                                                                          \
            good &= fits && (float)to[i] == in[i];                                                                     \
        }                                                                                                              \
        if (good)                                                                                                      \
            return -1;                                                                                                 \
        for (int64_t i = 0; i < n; i++)                                                                                \
            if (!((float)to[i] == in[i]))                                                                              \
                return i;                                                                                              \
        return -1;                                                                                                     \
    } while (0)

static int64_t put_halves(const float *in, int64_t n, uint16_t *out)
{
    for (int64_t i = 0; i < n; i++) {
        out[i] = ebb_float_to_half(in[i]);
        if (!isfinite(in[i]) || half_to_float(out[i]) != in[i])
            return i;
    }
    return -1;
}

static int64_t put_floats(const float *in, int64_t n, float *out)
{
    memcpy(out, in, (size_t)n * 4);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(in[i]))
            return i;
    return -1;
}

int64_t ebb_put_f32(ebb_elem_t elem, const float *in, int64_t n, void *out)
{
    switch (elem) {
    case EBB_ELEM_U8: PUT_INTEGERS(uint8_t, 0, 255);
    case EBB_ELEM_I8: PUT_INTEGERS(int8_t, -128, 127);
    case EBB_ELEM_U16: PUT_INTEGERS(uint16_t, 0, 65535);
    case EBB_ELEM_I16: PUT_INTEGERS(int16_t, -32768, 32767);
    case EBB_ELEM_I32: PUT_INTEGERS(int32_t, -0x1p24f, 0x1p24f);
    case EBB_ELEM_F16: return put_halves(in, n, out);
    case EBB_ELEM_F32: return put_floats(in, n, out);
    default: return 0;
    }
}
