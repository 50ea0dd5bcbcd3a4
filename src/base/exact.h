/* Exact sums of doubles: a superaccumulator of 64-bit limbs, each holding 32 bits of the fixed-point value with room
 * for 2^31 additions before carries. The words of several accumulators may be added as integers in any order (over
 * threads and ranks), so the sum is the same for any split; it is rounded once, on reading. After Neal, "Fast exact
 * summation using small and large superaccumulators", 2015. */
#ifndef EBB_BASE_EXACT_H
#define EBB_BASE_EXACT_H

#include <stdint.h>

#define EBB_EXACT_WORDS 70 /* 67 limbs of 32 bits cover 2^-1074 .. 2^1024; then counts of NaN, +inf, -inf */

typedef struct ebb_exact {
    int64_t word[EBB_EXACT_WORDS];
} ebb_exact_t; /* zero-initialise */

void ebb_exact_add(ebb_exact_t *sum, double value);
/* Bring limbs back into 32 bits (value unchanged); call before adding words of many ranks, and every 2^30 additions. */
void ebb_exact_normalize(ebb_exact_t *sum);
void ebb_exact_merge(ebb_exact_t *sum, const ebb_exact_t *other);
/* How many values that are not finite went in. */
static inline int64_t ebb_exact_odd(const ebb_exact_t *sum)
{
    return sum->word[EBB_EXACT_WORDS - 3] + sum->word[EBB_EXACT_WORDS - 2] + sum->word[EBB_EXACT_WORDS - 1];
}
/* Nearest double (ties to even); NaN if a NaN or both infinities went in. */
double ebb_exact_value(const ebb_exact_t *sum);

#endif
