/* Sums, and update rules: each one chain of operations per weight, the CPU's word for word (compute.h has the
 * formulas); division and square root are rounded correctly, contraction is off. */
#include "compute/cuda/cuda.h"

#include <math.h>

/* ---- sums ---- */

KERNEL add_kernel(int64_t n, const float *a, const float *b, float *out)
{
    EACH(i, n)
    {
        out[i] = a[i] + b[i];
    }
}

ebb_status_t ebb_cuda_add(ebb_exec_t *x, int64_t n, const float *a, const float *b, float *out)
{
    EBB_TRY(ebb_cuda_use(x));
    EBB_TRY(ebb_cuda_check_written(x, out, (size_t)n * sizeof *out));
    LAUNCH(add_kernel, n, x, a, b, out);
    LAUNCHED("sum");
    return EBB_OK;
}

KERNEL sumsq_kernel(int64_t n, int64_t segment, const float *a, double *out)
{
    SHARED double part[BLOCK_THREADS];
    int64_t begin = BLOCK_INDEX * segment, end = begin + segment < n ? begin + segment : n;
    EACH_THREAD(t)
    {
        part[t] = 0.0;
        for (int64_t i = begin + t; i < end; i += BLOCK_THREADS)
            part[t] += (double)a[i] * (double)a[i];
    }
    BARRIER;
    BLOCK_SUM(part)
    EACH_THREAD(t)
    {
        if (t == 0)
            out[BLOCK_INDEX] = part[0];
    }
}

ebb_status_t ebb_cuda_sumsq(ebb_exec_t *x, int64_t n, int64_t segment, const float *a, double *out_host)
{
    if (segment < 1)
        return EBB_FAIL(EBB_EINVAL, "sum of squares over segments of %lld elements", (long long)segment);
    int64_t segments = (n + segment - 1) / segment;
    EBB_TRY(ebb_cuda_room(x, &x->answer, segments, sizeof(double), "sums of squares"));
    LAUNCH_BLOCKS(sumsq_kernel, segments, x, n, segment, a, (double *)x->answer.ptr);
    LAUNCHED("sums of squares");
    return ebb_cuda_download(x, out_host, x->answer.ptr, (size_t)segments * sizeof *out_host);
}

/* ---- update rules ---- */

typedef struct rule {
    ebb_optim_kind_t kind;
    float lr, scale, l1, l2, momentum, beta1, beta2, rest1, rest2, eps, correct1, correct2, keep;
    bool nesterov;
} rule_t;

static double power(double base, int64_t n)
{
    double result = 1.0;
    for (; n > 0; n >>= 1, base *= base)
        if (n & 1)
            result *= base;
    return result;
}

static rule_t rule_of(const ebb_optim_hyper_t *h)
{
    rule_t u = {};
    u.kind = h->kind;
    u.lr = h->lr;
    u.scale = h->scale;
    u.l1 = h->l1;
    u.l2 = h->l2;
    u.momentum = h->momentum;
    u.beta1 = h->beta1;
    u.beta2 = h->beta2;
    u.eps = h->eps;
    u.nesterov = h->nesterov;
    u.rest1 = (float)(1.0 - (double)h->beta1);
    u.rest2 = (float)(1.0 - (double)h->beta2);
    u.correct1 = (float)(1.0 / (1.0 - power((double)h->beta1, h->t)));
    u.correct2 = (float)(1.0 / (1.0 - power((double)h->beta2, h->t)));
    u.keep = (float)(1.0 - (double)h->lr * (double)h->l2);
    return u;
}

DEVICE float shrink(float w, float threshold)
{
    return fabsf(w) <= threshold ? 0.0f : w - copysignf(threshold, w);
}

/* a / b, and 0 where b is 0: a weight that never had a gradient stays as it is even with eps = 0. */
DEVICE float ratio(float a, float b)
{
    return b == 0.0f ? 0.0f : a / b;
}

DEVICE float sgd(const rule_t &u, float w, float g, float *s0)
{
    g = fmaf(u.l2, w, u.scale * g);
    if (s0) {
        float m = fmaf(u.momentum, *s0, g);
        g = u.nesterov ? fmaf(u.momentum, m, g) : m;
        *s0 = m;
    }
    return shrink(fmaf(-u.lr, g, w), u.lr * u.l1);
}

DEVICE float adagrad(const rule_t &u, float w, float g, float *s0)
{
    g = fmaf(u.l2, w, u.scale * g);
    float sum = fmaf(g, g, *s0);
    float rate = ratio(u.lr, sqrtf(sum) + u.eps);
    *s0 = sum;
    return shrink(fmaf(-rate, g, w), rate * u.l1);
}

DEVICE float adam(const rule_t &u, float w, float g, float *s0, float *s1)
{
    float m = fmaf(u.beta1, *s0, u.rest1 * g);
    float v = fmaf(u.beta2, *s1, u.rest2 * g * g);
    float d = ratio(m * u.correct1, sqrtf(v * u.correct2) + u.eps);
    *s0 = m;
    *s1 = v;
    return shrink(fmaf(-u.lr, d, w), u.lr * u.l1);
}

DEVICE float ftrl(const rule_t &u, float w, float g, float *s0, float *s1)
{
    g *= u.scale;
    float n = fmaf(g, g, *s1);
    float root = sqrtf(n);
    float sigma = (root - sqrtf(*s1)) / u.lr;
    float z = fmaf(-sigma, w, *s0 + g);
    float d = ratio(u.lr, fmaf(u.l2, u.lr, u.beta1 + root));
    *s0 = z;
    *s1 = n;
    return fmaf(-shrink(z, u.l1), d, 0.0f); /* + 0: never a negative zero */
}

DEVICE float updated(const rule_t &u, float w, float g, float *s0, float *s1)
{
    switch (u.kind) {
    case EBB_OPTIM_ADAGRAD: return adagrad(u, w, g, s0);
    case EBB_OPTIM_ADAM: return adam(u, w, fmaf(u.l2, w, u.scale * g), s0, s1);
    case EBB_OPTIM_ADAMW: return adam(u, w * u.keep, u.scale * g, s0, s1);
    case EBB_OPTIM_FTRL: return ftrl(u, w, g, s0, s1);
    default: return sgd(u, w, g, s0);
    }
}

KERNEL update_kernel(int64_t n, rule_t u, float *w, const float *g, float *s0, float *s1)
{
    EACH(i, n)
    {
        w[i] = updated(u, w[i], g[i], s0 ? s0 + i : NULL, s1 ? s1 + i : NULL);
    }
}

KERNEL set_rows_kernel(int64_t n, int64_t width, const int32_t *idx, const float *val, float *table)
{
    EACH(i, n)
    {
        table[idx[i / width] * width + i % width] = val[i];
    }
}

KERNEL update_rows_kernel(int64_t n, rule_t u, int64_t width, const int32_t *idx_w, const int32_t *idx_s, float *w,
                          const float *g, float *s0, float *s1)
{
    EACH(i, n)
    {
        int64_t k = i / width, j = i % width;
        float *weight = w + idx_w[k] * width + j;
        int64_t at = s0 ? idx_s[k] * width + j : 0;
        *weight = updated(u, *weight, g[i], s0 ? s0 + at : NULL, s1 ? s1 + at : NULL);
    }
}

static ebb_status_t check_states(const ebb_optim_hyper_t *h, const float *s0, const float *s1)
{
    int states = ebb_optim_states(h->kind, h->momentum);
    if ((states > 0 && !s0) || (states > 1 && !s1))
        return EBB_FAIL(EBB_EINVAL, "update rule %d keeps %d values per weight: state memory is missing", (int)h->kind,
                        states);
    return EBB_OK;
}

ebb_status_t ebb_cuda_update(ebb_exec_t *x, const ebb_optim_hyper_t *h, int64_t n, float *w, const float *g, float *s0,
                             float *s1)
{
    if (n == 0)
        return EBB_OK;
    int states = ebb_optim_states(h->kind, h->momentum);
    EBB_TRY(check_states(h, s0, s1));
    EBB_TRY(ebb_cuda_use(x));
    EBB_TRY(ebb_cuda_check_written(x, w, (size_t)n * sizeof *w));
    LAUNCH(update_kernel, n, x, rule_of(h), w, g, states > 0 ? s0 : NULL, states > 1 ? s1 : NULL);
    LAUNCHED("update of weights");
    return EBB_OK;
}

ebb_status_t ebb_cuda_update_rows(ebb_exec_t *x, const ebb_optim_hyper_t *h, int64_t n, int64_t width,
                                  const int32_t *idx_w, const int32_t *idx_s, float *w, const float *g, float *s0,
                                  float *s1)
{
    if (n == 0 || width == 0)
        return EBB_OK;
    int states = ebb_optim_states(h->kind, h->momentum);
    EBB_TRY(check_states(h, s0, s1));
    EBB_TRY(ebb_cuda_use(x));
    EBB_TRY(ebb_cuda_check_written(x, w, sizeof *w)); /* of a table that is held all are */
    LAUNCH(update_rows_kernel, n * width, x, rule_of(h), width, idx_w, idx_s, w, g, states > 0 ? s0 : NULL,
           states > 1 ? s1 : NULL);
    LAUNCHED("update of rows");
    return EBB_OK;
}

ebb_status_t ebb_cuda_set_rows(ebb_exec_t *x, int64_t n, int64_t width, const int32_t *idx, const float *val,
                               float *table)
{
    EBB_TRY(ebb_cuda_use(x));
    EBB_TRY(ebb_cuda_check_written(x, table, sizeof *table));
    LAUNCH(set_rows_kernel, n * width, x, width, idx, val, table);
    LAUNCHED("rows of a table");
    return EBB_OK;
}
