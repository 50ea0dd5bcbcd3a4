/* Counter-based random numbers: pure functions of a key and a counter, so that a draw depends on (seed, purpose, step,
 * index) and on nothing else. Philox 4x32 with 10 rounds: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
 * SC 2011. Feistel permutation: Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002 (cycle
 * walking). */
#ifndef EBB_BASE_RNG_H
#define EBB_BASE_RNG_H

#include <stdint.h>

/* Purposes keep streams apart. */
enum {
    EBB_RNG_INIT = 1,
    EBB_RNG_DROPOUT = 2,
    EBB_RNG_BLOCKS = 3,
    EBB_RNG_WINDOW = 4,
    EBB_RNG_SPLIT = 5,
    EBB_RNG_TEST = 99
};

void ebb_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4]);
/* 64 random bits for (seed, purpose, a, b). */
uint64_t ebb_rng_u64(uint64_t seed, uint32_t purpose, uint64_t a, uint64_t b);
/* Uniform in [0, 1), 24 bits; the same for b, b + 1 ... b + n - 1; and normal (Box-Muller). */
float ebb_rng_uniform(uint64_t seed, uint32_t purpose, uint64_t a, uint64_t b);
void ebb_rng_uniforms(uint64_t seed, uint32_t purpose, uint64_t a, uint64_t b, int64_t n, float *out);
float ebb_rng_normal(uint64_t seed, uint32_t purpose, uint64_t a, uint64_t b);
/* Keyed permutation of 0 .. n-1: image of i, and its inverse. O(1). n >= 1, n < 2^62. */
uint64_t ebb_permute(uint64_t key, uint64_t n, uint64_t i);
uint64_t ebb_unpermute(uint64_t key, uint64_t n, uint64_t i);
/* A well-mixed 64-bit hash of x (splitmix64's finaliser). */
uint64_t ebb_mix64(uint64_t x);

#endif
