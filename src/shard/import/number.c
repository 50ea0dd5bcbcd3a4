/* Number parsing. Method: up to 19 digits are gathered into an integer m; where m < 2^53 and the power of ten is at
 * most 22 both are exact doubles, so one multiplication or division rounds correctly (Clinger 1990). Where long double
 * has 64 bits (x86) it takes any m and powers up to 27 exactly, and rounding its result once more is right unless that
 * lies at the middle between two doubles. Everything else goes to strtod. A float has 29 bits less than a double: there
 * m may have any 19 digits, because a double that is off by a few units rounds to the same float unless it lies that
 * near to the middle between two, when strtof decides. */
#include "shard/import/number.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_NUMBER = 512 };

static const double power10[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

static inline bool digit(char c)
{
    return (unsigned char)(c - '0') < 10;
}

#if LDBL_MANT_DIG == 64
static const long double long_power10[] = {1e0L,  1e1L,  1e2L,  1e3L,  1e4L,  1e5L,  1e6L,  1e7L,  1e8L,  1e9L,
                                           1e10L, 1e11L, 1e12L, 1e13L, 1e14L, 1e15L, 1e16L, 1e17L, 1e18L, 1e19L,
                                           1e20L, 1e21L, 1e22L, 1e23L, 1e24L, 1e25L, 1e26L, 1e27L};
#endif

typedef struct decimal {
    uint64_t m;
    int exponent;         /* of ten */
    bool negative, exact; /* exact: m holds every digit */
} decimal_t;

/* Split the text of a number; returns its end or NULL. */
static const char *scan(const char *p, decimal_t *d)
{
    uint64_t m = 0;
    int exponent = 0;
    d->negative = *p == '-';
    if (*p == '-' || *p == '+')
        p++;
    const char *begin = p;
    while (digit(*p))
        m = m * 10 + (uint64_t)(*p++ - '0');
    int64_t digits = p - begin;
    if (*p == '.') {
        const char *point = ++p;
        while (digit(*p))
            m = m * 10 + (uint64_t)(*p++ - '0');
        digits += p - point;
        exponent = p - point > 1000 ? -1000 : -(int)(p - point);
    }
    if (digits == 0)
        return NULL;
    d->exact = digits <= 19;
    if (*p == 'e' || *p == 'E') {
        const char *q = p + 1;
        bool minus = *q == '-';
        if (*q == '-' || *q == '+')
            q++;
        if (digit(*q)) {
            int e = 0;
            for (; digit(*q); q++)
                e = e < 100000 ? e * 10 + (*q - '0') : e;
            exponent += minus ? -e : e;
            p = q;
        }
    }
    d->m = m;
    d->exponent = exponent;
    return p - begin < MAX_NUMBER - 2 ? p : NULL; /* longer ones are taken for no numbers */
}

/* "inf", "infinity" or "nan" with an optional sign: its end or NULL. */
static const char *special(const char *p, double *value_p)
{
    bool negative = *p == '-';
    if (*p == '-' || *p == '+')
        p++;
    double v;
    if (strncasecmp(p, "infinity", 8) == 0)
        v = __builtin_inf(), p += 8;
    else if (strncasecmp(p, "inf", 3) == 0)
        v = __builtin_inf(), p += 3;
    else if (strncasecmp(p, "nan", 3) == 0)
        v = __builtin_nan(""), p += 3;
    else
        return NULL;
    *value_p = negative ? -v : v;
    return p;
}

/* The characters [begin, end) through strtod or strtof: from a copy, so that neither looks further. */
static void slow(const char *begin, const char *end, double *f64, float *f32)
{
    char text[MAX_NUMBER];
    size_t n = (size_t)(end - begin);
    memcpy(text, begin, n);
    text[n] = 0;
    if (f64)
        *f64 = strtod(text, NULL);
    else
        *f32 = strtof(text, NULL);
}

static inline bool fast(const decimal_t *d, double *value_p)
{
    if (!d->exact || d->m >> 53 || d->exponent < -22 || d->exponent > 22)
        return false;
    double v = (double)d->m;
    v = d->exponent < 0 ? v / power10[-d->exponent] : v * power10[d->exponent];
    *value_p = d->negative ? -v : v;
    return true;
}

static inline bool fast_long(const decimal_t *d, double *value_p)
{
#if LDBL_MANT_DIG == 64
    uint64_t mantissa;
    if (!d->exact || d->exponent < -27 || d->exponent > 27)
        return false;
    long double v = (long double)d->m;
    v = d->exponent < 0 ? v / long_power10[-d->exponent] : v * long_power10[d->exponent];
    memcpy(&mantissa, &v, sizeof mantissa);
    if (llabs((int64_t)(mantissa & 0x7ff) - 0x400) <= 1)
        return false;
    *value_p = d->negative ? -(double)v : (double)v;
    return true;
#else
    return false;
#endif
}

/* The float nearest to the number, if a double of it that is off by at most two units in the last place tells: m and
 * the product or quotient round once each. */
static inline bool fast_f32(const decimal_t *d, float *value_p)
{
    uint64_t bits;
    if (!d->exact || d->exponent < -22 || d->exponent > 22)
        return false;
    double v = (double)d->m;
    v = d->exponent < 0 ? v / power10[-d->exponent] : v * power10[d->exponent];
    memcpy(&bits, &v, sizeof bits);
    /* Below the normal floats the middle lies elsewhere. */
    if (llabs((int64_t)(bits & 0x1fffffff) - 0x10000000) <= 2 || (v < 0x1p-126 && v != 0))
        return false;
    *value_p = d->negative ? -(float)v : (float)v;
    return true;
}

bool ebb_number_f64(const char **p_p, double *value_p)
{
    decimal_t d;
    const char *end = scan(*p_p, &d);
    if (!end) {
        end = special(*p_p, value_p);
        if (!end)
            return false;
    } else if (!fast(&d, value_p) && !fast_long(&d, value_p)) {
        slow(*p_p, end, value_p, NULL);
    }
    *p_p = end;
    return true;
}

bool ebb_number_f32(const char **p_p, float *value_p)
{
    decimal_t d;
    double v;
    const char *p = *p_p;
    if (digit(p[0]) && (p[1] == ' ' || p[1] == '\n')) { /* the most frequent values by far are 1 and small counts */
        *value_p = (float)(p[0] - '0');
        *p_p = p + 1;
        return true;
    }
    const char *end = scan(p, &d);
    if (!end) {
        end = special(*p_p, &v);
        if (!end)
            return false;
        *value_p = (float)v;
    } else if (!fast_f32(&d, value_p)) {
        slow(*p_p, end, NULL, value_p);
    }
    *p_p = end;
    return true;
}

bool ebb_number_whole(const char *text, int64_t n, double *value_p)
{
    const char *p = text;
    return n > 0 && ebb_number_f64(&p, value_p) && p == text + n;
}
