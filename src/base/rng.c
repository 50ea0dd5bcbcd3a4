/* Counter-based random numbers. See rng.h for the sources. */
#include "base/rng.h"

#include <math.h>

static inline void philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4])
{
    uint32_t k0 = key[0], k1 = key[1];
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

void ebb_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4])
{
    philox(key, counter, out);
}

static inline void draw(uint64_t mixed, uint64_t a, uint64_t b, uint32_t out[4])
{
    uint32_t key[2] = {(uint32_t)mixed, (uint32_t)(mixed >> 32)};
    uint32_t counter[4] = {(uint32_t)a, (uint32_t)(a >> 32), (uint32_t)b, (uint32_t)(b >> 32)};
    philox(key, counter, out);
}

static uint64_t mix_key(uint64_t seed, uint32_t purpose)
{
    return ebb_mix64(seed ^ ebb_mix64(purpose));
}

uint64_t ebb_rng_u64(uint64_t seed, uint32_t purpose, uint64_t a, uint64_t b)
{
    uint32_t r[4];
    draw(mix_key(seed, purpose), a, b, r);
    return (uint64_t)r[0] << 32 | r[1];
}

float ebb_rng_uniform(uint64_t seed, uint32_t purpose, uint64_t a, uint64_t b)
{
    return (float)(ebb_rng_u64(seed, purpose, a, b) >> 40) * 0x1p-24f;
}

/* ---- many draws at once: integers alone until the last step, so that every instruction set gives the same ---- */

enum { WIDE = 16 };

/* out[i] for counters b .. b + WIDE - 1, round by round over all of them, which vectorises. */
static inline __attribute__((always_inline)) void uniforms_wide(uint64_t mixed, uint64_t a, uint64_t b, float *out)
{
    uint32_t k0 = (uint32_t)mixed, k1 = (uint32_t)(mixed >> 32);
    uint32_t c0[WIDE], c1[WIDE], c2[WIDE], c3[WIDE];
    for (int i = 0; i < WIDE; i++) {
        c0[i] = (uint32_t)a;
        c1[i] = (uint32_t)(a >> 32);
        c2[i] = (uint32_t)(b + (uint64_t)i);
        c3[i] = (uint32_t)((b + (uint64_t)i) >> 32);
    }
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < WIDE; i++) {
            uint64_t p0 = (uint64_t)0xD2511F53u * c0[i];
            uint64_t p1 = (uint64_t)0xCD9E8D57u * c2[i];
            c0[i] = (uint32_t)(p1 >> 32) ^ c1[i] ^ k0;
            c1[i] = (uint32_t)p1;
            c2[i] = (uint32_t)(p0 >> 32) ^ c3[i] ^ k1;
            c3[i] = (uint32_t)p0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < WIDE; i++)
        out[i] = (float)(int32_t)(c0[i] >> 8) * 0x1p-24f;
}

static inline __attribute__((always_inline)) int64_t uniforms(uint64_t mixed, uint64_t a, uint64_t b, int64_t n,
                                                              float *out)
{
    int64_t i = 0;
    for (; i + WIDE <= n; i += WIDE)
        uniforms_wide(mixed, a, b + (uint64_t)i, out + i);
    return i;
}

#ifdef __x86_64__
__attribute__((target("avx512f,avx512dq,avx512vl"))) static int64_t uniforms_avx512(uint64_t mixed, uint64_t a,
                                                                                    uint64_t b, int64_t n, float *out)
{
    return uniforms(mixed, a, b, n, out);
}

__attribute__((target("avx2"))) static int64_t uniforms_avx2(uint64_t mixed, uint64_t a, uint64_t b, int64_t n,
                                                             float *out)
{
    return uniforms(mixed, a, b, n, out);
}
#endif

/* As many as whole blocks hold. */
static int64_t uniform_blocks(uint64_t mixed, uint64_t a, uint64_t b, int64_t n, float *out)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return uniforms_avx512(mixed, a, b, n, out);
    if (__builtin_cpu_supports("avx2"))
        return uniforms_avx2(mixed, a, b, n, out);
#endif
    return uniforms(mixed, a, b, n, out);
}

void ebb_rng_uniforms(uint64_t seed, uint32_t purpose, uint64_t a, uint64_t b, int64_t n, float *out)
{
    uint64_t key = mix_key(seed, purpose);
    for (int64_t i = uniform_blocks(key, a, b, n, out); i < n; i++) {
        uint32_t r[4];
        draw(key, a, b + (uint64_t)i, r);
        out[i] = (float)(int32_t)(r[0] >> 8) * 0x1p-24f;
    }
}

float ebb_rng_normal(uint64_t seed, uint32_t purpose, uint64_t a, uint64_t b)
{
    uint32_t r[4];
    draw(mix_key(seed, purpose), a, b, r);
    double u = ((double)r[0] + 0.5) * 0x1p-32, v = (double)r[1] * 0x1p-32;
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}

uint64_t ebb_mix64(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

enum { FEISTEL_ROUNDS = 6 };

/* One pass of a balanced Feistel network over 2*half bits. */
static uint64_t feistel(uint64_t key, unsigned half, uint64_t x, int first, int step)
{
    uint64_t mask = ((uint64_t)1 << half) - 1;
    uint64_t left = x >> half, right = x & mask;
    if (step > 0) {
        for (int r = first; r < FEISTEL_ROUNDS; r++) {
            uint64_t t = left ^ (ebb_mix64(key + ebb_mix64(right + ((uint64_t)r << 56))) & mask);
            left = right;
            right = t;
        }
    } else {
        for (int r = first; r >= 0; r--) {
            uint64_t t = right ^ (ebb_mix64(key + ebb_mix64(left + ((uint64_t)r << 56))) & mask);
            right = left;
            left = t;
        }
    }
    return left << half | right;
}

/* Half the bits of the smallest even-width domain that holds n. */
static unsigned half_bits(uint64_t n)
{
    unsigned half = 1;
    while (((uint64_t)1 << 2 * half) < n)
        half++;
    return half;
}

uint64_t ebb_permute(uint64_t key, uint64_t n, uint64_t i)
{
    unsigned half = half_bits(n);
    do
        i = feistel(key, half, i, 0, 1);
    while (i >= n);
    return i;
}

uint64_t ebb_unpermute(uint64_t key, uint64_t n, uint64_t i)
{
    unsigned half = half_bits(n);
    do
        i = feistel(key, half, i, FEISTEL_ROUNDS - 1, -1);
    while (i >= n);
    return i;
}
