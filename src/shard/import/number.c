/* Number parsing. Method: up to 19 digits are gathered into an integer m; where m < 2^53 and the power of ten is at
 * most 22 both are exact doubles, so one multiplication or division rounds correctly (Clinger 1990). Everything else
 * goes to strtod. A float is that double rounded again, except where the double lies on the middle between two floats,
 * when strtof decides. */
#include "shard/import/number.h"

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

bool ebb_number_f64(const char **p_p, double *value_p)
{
    decimal_t d;
    const char *end = scan(*p_p, &d);
    if (!end) {
        end = special(*p_p, value_p);
        if (!end)
            return false;
    } else if (!fast(&d, value_p)) {
        slow(*p_p, end, value_p, NULL);
    }
    *p_p = end;
    return true;
}

bool ebb_number_f32(const char **p_p, float *value_p)
{
    decimal_t d;
    double v;
    uint64_t bits;
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
    } else {
        bool ok = fast(&d, &v);
        memcpy(&bits, &v, sizeof bits);
        double a = v < 0 ? -v : v;
        /* Below the normal floats the middle lies elsewhere; let strtof decide there too. */
        if (ok && (bits & 0x1fffffff) != 0x10000000 && (a >= 0x1p-126 || a == 0))
            *value_p = (float)v;
        else
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
