/* Steps over byte planes that the codec and the widening of rows share. */
#ifndef EBB_SHARD_PLANES_H
#define EBB_SHARD_PLANES_H

#include <stdint.h>
#include <string.h>

static inline float half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
    uint32_t bits;
    float f;
    if (exponent == 31)
        bits = sign | 0x7f800000 | fraction << 13 | (fraction ? 0x400000 : 0); /* NaNs become quiet, as in hardware */
    else if (exponent > 0)
        bits = sign | (exponent + 112) << 23 | fraction << 13;
    else {
        f = (float)fraction * 0x1p-24f;
        memcpy(&bits, &f, 4);
        bits |= sign;
    }
    memcpy(&f, &bits, 4);
    return f;
}

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX2   __attribute__((target("avx2,f16c")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl")))

static AVX2 inline __m256i load8(const uint8_t *p)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}

static AVX2 inline __m256i pair8(const uint8_t *a, const uint8_t *b)
{
    return _mm256_or_si256(load8(a), _mm256_slli_epi32(load8(b), 8));
}

static AVX512 inline __m512i load16(const uint8_t *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
}

static AVX512 inline __m512i pair16(const uint8_t *a, const uint8_t *b)
{
    return _mm512_or_si512(load16(a), _mm512_slli_epi32(load16(b), 8));
}

#elif defined(__aarch64__)
#include <arm_neon.h>

/* Eight elements of two planes, and of four, where they are wanted; NEON is part of every 64-bit ARM. */
static inline uint16x8_t pair8(const uint8_t *a, const uint8_t *b)
{
    return vorrq_u16(vmovl_u8(vld1_u8(a)), vshll_n_u8(vld1_u8(b), 8));
}

static inline void put8(uint16x8_t v, void *out)
{
    vst1q_u32(out, vmovl_u16(vget_low_u16(v)));
    vst1q_u32((uint32_t *)out + 4, vmovl_high_u16(v));
}

static inline void put8_unsigned(uint16x8_t v, float *out)
{
    vst1q_f32(out, vcvtq_f32_u32(vmovl_u16(vget_low_u16(v))));
    vst1q_f32(out + 4, vcvtq_f32_u32(vmovl_high_u16(v)));
}

static inline void put8_signed(int16x8_t v, float *out)
{
    vst1q_f32(out, vcvtq_f32_s32(vmovl_s16(vget_low_s16(v))));
    vst1q_f32(out + 4, vcvtq_f32_s32(vmovl_high_s16(v)));
}

static inline void put8_half(uint16x8_t v, float *out)
{
    vst1q_f32(out, vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(v))));
    vst1q_f32(out + 4, vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(v))));
}

/* Eight elements of their lower and upper halves. */
static inline void put8_both(uint16x8_t low, uint16x8_t high, uint32_t *out)
{
    vst1q_u32(out, vorrq_u32(vmovl_u16(vget_low_u16(low)), vshll_n_u16(vget_low_u16(high), 16)));
    vst1q_u32(out + 4, vorrq_u32(vmovl_high_u16(low), vshll_high_n_u16(high, 16)));
}

static inline void put8_four(const uint8_t *p, int64_t stride, uint32_t *out)
{
    put8_both(pair8(p, p + stride), pair8(p + 2 * stride, p + 3 * stride), out);
}

#endif

#endif
