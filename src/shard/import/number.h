/* Numbers from text, fast and exactly rounded. Text must be ended by a character that is no part of a number (the
 * packer's pieces always end with a newline), so that no bounds are checked here. */
#ifndef EBB_SHARD_IMPORT_NUMBER_H
#define EBB_SHARD_IMPORT_NUMBER_H

#include <stdbool.h>
#include <stdint.h>

/* A decimal number at *p_p as its nearest double. Advances *p_p beyond it. False, without moving, if there is none.
 * "inf" and "nan" in any case are numbers; hexadecimal ones are not. */
bool ebb_number_f64(const char **p_p, double *value_p);
/* The same to the nearest float (rounded once). */
bool ebb_number_f32(const char **p_p, float *value_p);
/* The whole of text[0, n) is a number. text[n] must not continue it. */
bool ebb_number_whole(const char *text, int64_t n, double *value_p);

/* Unsigned digits; stops at the first other character. Digits beyond 19 saturate. At least one digit, else false. */
static inline bool ebb_number_u64(const char **p_p, uint64_t *value_p)
{
    const char *p = *p_p;
    uint64_t v = 0;
    while (*p >= '0' && *p <= '9') {
        v = v * 10 + (uint64_t)(*p - '0');
        p++;
    }
    bool ok = p != *p_p;
    if (p - *p_p > 19)
        v = UINT64_MAX;
    *p_p = p;
    *value_p = v;
    return ok;
}

#endif
