/* Changes made to the values of a row. Sums run over eight interleaved partial sums added in a fixed tree, and log1p is
 * computed here rather than by libm, whose versions differ in the last bit: the same bits everywhere.
 *
 * log1p(x) in double: small |x| by the Taylor series; otherwise 1 + x = m * 2^e with m in [sqrt(1/2), sqrt(2)), and
 * log m = 2 atanh(s), s = (m - 1) / (m + 1), by its series to s^17: error below 1e-13, far below a float's. */
#include "loader/transform.h"

#include <math.h>
#include <string.h>

bool ebb_transform_is_none(const ebb_transform_t *t)
{
    return t->row_sum == 0 && !t->log1p && !t->row_l2 && (t->scale == 0 || t->scale == 1);
}

static float tree8(const float s[8])
{
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

static float sum(const float *v, int64_t n)
{
    float s[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++)
            s[k] += v[i + k];
    for (int k = 0; i < n; i++, k++)
        s[k] += v[i];
    return tree8(s);
}

static float sum_of_squares(const float *v, int64_t n)
{
    float s[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++)
            s[k] += v[i + k] * v[i + k];
    for (int k = 0; i < n; i++, k++)
        s[k] += v[i] * v[i];
    return tree8(s);
}

static void multiply(float *v, int64_t n, float by)
{
    for (int64_t i = 0; i < n; i++)
        v[i] *= by;
}

static float log1p_fixed(float value)
{
    double x = value;
    if (!(x > -1))
        return x == -1 ? -INFINITY : NAN;
    if (fabs(x) < 0x1p-10)
        return (float)(x - x * x * (0.5 - x * (1.0 / 3 - x * 0.25)));
    if (isinf(x))
        return INFINITY;
    double y = 1 + x, e = 0;
    uint64_t bits;
    memcpy(&bits, &y, sizeof bits);
    e = (double)((int64_t)(bits >> 52) - 1023);
    bits = (bits & 0xFFFFFFFFFFFFFu) | 0x3FF0000000000000u;
    memcpy(&y, &bits, sizeof y);
    if (y > 1.4142135623730951) {
        y *= 0.5;
        e += 1;
    }
    double s = (y - 1) / (y + 1), z = s * s;
    double p = 1.0 / 15 + z * (1.0 / 17);
    p = 1.0 / 11 + z * (1.0 / 13 + z * p);
    p = 1.0 / 7 + z * (1.0 / 9 + z * p);
    p = 1.0 / 3 + z * (1.0 / 5 + z * p);
    return (float)(e * 0.6931471805599453 + 2 * s * (1 + z * p));
}

void ebb_transform_row(const ebb_transform_t *t, float *val, int64_t n)
{
    if (t->row_sum != 0) {
        float total = sum(val, n);
        if (total != 0)
            multiply(val, n, t->row_sum / total);
    }
    if (t->log1p)
        for (int64_t i = 0; i < n; i++)
            val[i] = log1p_fixed(val[i]);
    if (t->row_l2) {
        float squares = sum_of_squares(val, n);
        if (squares > 0)
            multiply(val, n, 1 / sqrtf(squares));
    }
    if (t->scale != 0 && t->scale != 1)
        multiply(val, n, t->scale);
}
