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

#endif

#endif
