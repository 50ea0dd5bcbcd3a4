/* Numbers that are not finite. */
#ifndef EBB_BASE_FINITE_H
#define EBB_BASE_FINITE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Whether one of n values is infinite or not a number: its exponent is all ones. */
static inline bool ebb_has_nonfinite(const float *x, int64_t n)
{
    uint32_t bad = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bad |= (bits & 0x7fffffffu) + 0x00800000u;
    }
    return bad >> 31;
}

#endif
