/* Cutting n things into nearly equal parts. */
#ifndef EBB_BASE_PART_H
#define EBB_BASE_PART_H

#include <stdint.h>

/* Where part i of `parts` begins among `whole`; i = parts: whole. whole * i may be beyond 64 bits, which is rare, and
 * dividing so much takes some 30 ns. */
static inline int64_t ebb_part(int64_t whole, int64_t i, int64_t parts)
{
    int64_t product;
    return __builtin_mul_overflow(whole, i, &product) ? (int64_t)((__int128)whole * i / parts) : product / parts;
}

#endif
