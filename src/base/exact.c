/* Exact sums of doubles. Limb i holds units of 2^(32 i - 1074). */
#include "base/exact.h"

#include <math.h>
#include <string.h>

enum { LIMBS = 67, COUNT_NAN = 67, COUNT_PINF = 68, COUNT_NINF = 69 };

void ebb_exact_add(ebb_exact_t *sum, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    unsigned exponent = (unsigned)(bits >> 52 & 0x7ff);
    uint64_t mantissa = bits & (((uint64_t)1 << 52) - 1);
    int64_t sign = bits >> 63 ? -1 : 1;
    if (exponent == 0x7ff) {
        sum->word[mantissa ? COUNT_NAN : sign > 0 ? COUNT_PINF : COUNT_NINF]++;
        return;
    }
    if (exponent > 0)
        mantissa |= (uint64_t)1 << 52;
    else
        exponent = 1;
    unsigned shift = exponent - 1; /* value = mantissa * 2^(shift - 1074) */
    unsigned limb = shift / 32;
    unsigned __int128 wide = (unsigned __int128)mantissa << (shift % 32);
    sum->word[limb] += sign * (int64_t)(uint32_t)wide;
    sum->word[limb + 1] += sign * (int64_t)(uint32_t)(wide >> 32);
    sum->word[limb + 2] += sign * (int64_t)(uint32_t)(wide >> 64);
}

void ebb_exact_normalize(ebb_exact_t *sum)
{
    int64_t carry = 0;
    for (int i = 0; i < LIMBS - 1; i++) {
        int64_t v = sum->word[i] + carry;
        carry = v >> 32; /* arithmetic: floor */
        sum->word[i] = v - carry * ((int64_t)1 << 32);
    }
    sum->word[LIMBS - 1] += carry; /* the last limb keeps the sign */
}

void ebb_exact_merge(ebb_exact_t *sum, const ebb_exact_t *other)
{
    for (int i = 0; i < EBB_EXACT_WORDS; i++)
        sum->word[i] += other->word[i];
}

/* Round the magnitude held in canonical limbs (all >= 0) to the nearest double. */
static double round_limbs(const int64_t *limb)
{
    int top = LIMBS - 1;
    while (top >= 0 && limb[top] == 0)
        top--;
    if (top < 0)
        return 0.0;
    if (top < 2)
        /* Exact below 2^53, else rounded once. */
        return ldexp((double)((uint64_t)limb[0] | (uint64_t)limb[1] << 32), -1074);
    /* 96 bits from the top, with everything below folded into a sticky bit. */
    unsigned __int128 head =
        (unsigned __int128)(uint64_t)limb[top] << 64 | (uint64_t)limb[top - 1] << 32 | (uint64_t)limb[top - 2];
    int sticky = 0;
    for (int i = top - 3; i >= 0; i--)
        sticky |= limb[i] != 0;
    int bits = 0;
    for (unsigned __int128 h = head; h; h >>= 1)
        bits++;
    int drop = bits > 62 ? bits - 62 : 0; /* keep 62 bits: 53 and guard bits, the lowest made sticky */
    uint64_t kept = (uint64_t)(head >> drop);
    if (sticky || (head & (((unsigned __int128)1 << drop) - 1)))
        kept |= 1;
    /* kept has more than 53 bits here, so the conversion rounds once, correctly; the result is normal, so ldexp is
     * exact. */
    return ldexp((double)kept, 32 * (top - 2) + drop - 1074);
}

double ebb_exact_value(const ebb_exact_t *sum)
{
    const int64_t *w = sum->word;
    if (w[COUNT_NAN] || (w[COUNT_PINF] && w[COUNT_NINF]))
        return NAN;
    if (w[COUNT_PINF])
        return INFINITY;
    if (w[COUNT_NINF])
        return -INFINITY;
    ebb_exact_t t = *sum;
    ebb_exact_normalize(&t);
    if (t.word[LIMBS - 1] >= 0)
        return round_limbs(t.word);
    for (int i = 0; i < LIMBS; i++)
        t.word[i] = -t.word[i];
    ebb_exact_normalize(&t);
    return -round_limbs(t.word);
}
