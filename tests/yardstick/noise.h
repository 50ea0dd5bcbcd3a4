/* The noise of the published simulations: what NumPy's default_rng(seed).normal() draws, so that the ten seeds of the
 * paper can be drawn again. Seeds are spread by O'Neill's seed sequence, bits come from PCG64 (O'Neill, "PCG: a family
 * of simple fast space-efficient statistically good algorithms", 2014, XSL-RR), normals from the ziggurat of Marsaglia
 * and Tsang (Journal of Statistical Software, 2000) with 256 layers and 52 bits. */
#ifndef EBB_TESTS_NOISE_H
#define EBB_TESTS_NOISE_H

#include <math.h>
#include <stdint.h>

typedef unsigned __int128 noise_u128_t;

typedef struct noise {
    noise_u128_t state, increment;
    uint64_t inside[256]; /* below: in the layer's core */
    double width[256], height[256];
} noise_t;

#define NOISE_TAIL 3.6541528853610088
#define NOISE_AREA 0.00492867323399

static uint32_t noise_hash(uint32_t value, uint32_t *constant, uint32_t multiplier)
{
    value ^= *constant;
    *constant *= multiplier;
    value *= *constant;
    return value ^ value >> 16;
}

static uint32_t noise_mix(uint32_t x, uint32_t y)
{
    uint32_t mixed = x * 0xca01f9ddu - y * 0x4973f715u;
    return mixed ^ mixed >> 16;
}

static void noise_step(noise_t *n)
{
    noise_u128_t multiplier = (noise_u128_t)0x2360ED051FC65DA4u << 64 | 0x4385DF649FCCF645u;
    n->state = n->state * multiplier + n->increment;
}

static void noise_tables(noise_t *n)
{
    const double scale = 0x1p52;
    double x = NOISE_TAIL, above = x, base = NOISE_AREA / exp(-0.5 * x * x);
    n->inside[0] = (uint64_t)(x / base * scale);
    n->inside[1] = 0;
    n->width[0] = base / scale;
    n->width[255] = x / scale;
    n->height[0] = 1;
    n->height[255] = exp(-0.5 * x * x);
    for (int i = 254; i >= 1; i--) {
        x = sqrt(-2 * log(NOISE_AREA / x + exp(-0.5 * x * x)));
        n->inside[i + 1] = (uint64_t)(x / above * scale);
        above = x;
        n->height[i] = exp(-0.5 * x * x);
        n->width[i] = x / scale;
    }
}

static void noise_init(noise_t *n, uint32_t seed)
{
    uint32_t pool[4], word[8], constant = 0x43b0d7e5u;
    uint64_t v[4];
    for (int i = 0; i < 4; i++)
        pool[i] = noise_hash(i == 0 ? seed : 0, &constant, 0x931e8875u);
    for (int from = 0; from < 4; from++)
        for (int to = 0; to < 4; to++)
            if (from != to)
                pool[to] = noise_mix(pool[to], noise_hash(pool[from], &constant, 0x931e8875u));
    constant = 0x8b51f9ddu;
    for (int i = 0; i < 8; i++)
        word[i] = noise_hash(pool[i % 4], &constant, 0x58f38dedu);
    for (int i = 0; i < 4; i++)
        v[i] = (uint64_t)word[2 * i + 1] << 32 | word[2 * i];
    n->increment = ((noise_u128_t)v[2] << 64 | v[3]) << 1 | 1;
    n->state = 0;
    noise_step(n);
    n->state += (noise_u128_t)v[0] << 64 | v[1];
    noise_step(n);
    noise_tables(n);
}

static uint64_t noise_bits(noise_t *n)
{
    noise_step(n);
    uint64_t mixed = (uint64_t)(n->state >> 64) ^ (uint64_t)n->state;
    unsigned turn = (unsigned)(n->state >> 122);
    return mixed >> turn | mixed << (-turn & 63);
}

static double noise_uniform(noise_t *n)
{
    return (double)(noise_bits(n) >> 11) * 0x1p-53;
}

static double noise_tail(noise_t *n, uint64_t rest)
{
    for (;;) {
        double x = -1 / NOISE_TAIL * log1p(-noise_uniform(n)), y = -log1p(-noise_uniform(n));
        if (y + y > x * x)
            return rest >> 8 & 1 ? -(NOISE_TAIL + x) : NOISE_TAIL + x;
    }
}

static double noise_normal(noise_t *n)
{
    for (;;) {
        uint64_t bits = noise_bits(n), rest = bits >> 9 & 0xfffffffffffffu;
        int layer = (int)(bits & 255);
        double x = (double)rest * n->width[layer] * (bits >> 8 & 1 ? -1 : 1);
        if (rest < n->inside[layer])
            return x;
        if (layer == 0)
            return noise_tail(n, rest);
        if ((n->height[layer - 1] - n->height[layer]) * noise_uniform(n) + n->height[layer] < exp(-0.5 * x * x))
            return x;
    }
}

#endif
