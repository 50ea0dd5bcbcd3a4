/* A backend in plain scalar C with only the operations that sync and the optimisers use: their reference, and a way to
 * test them apart from the real backends. */
#ifndef EBB_TESTS_PLAIN_BACKEND_H
#define EBB_TESTS_PLAIN_BACKEND_H

#include "base/alloc.h"
#include <ebb/compute.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

static inline ebb_status_t plain_alloc(void *dev, size_t bytes, const char *what, void **ptr_p)
{
    return ebb_alloc(what, bytes, ptr_p);
}

static inline void plain_free(void *dev, void *ptr)
{
    ebb_free(ptr);
}

static inline ebb_status_t plain_copy(ebb_exec_t *x, void *dst, const void *src, size_t bytes)
{
    if (bytes > 0)
        memcpy(dst, src, bytes);
    return EBB_OK;
}

static inline ebb_status_t plain_zero(ebb_exec_t *x, void *dst, size_t bytes)
{
    memset(dst, 0, bytes);
    return EBB_OK;
}

static inline ebb_status_t plain_exec_create(void *dev, ebb_exec_t **x_p)
{
    *x_p = (ebb_exec_t *)malloc(1);
    return EBB_OK;
}

static inline ebb_status_t plain_exec_sync(ebb_exec_t *x)
{
    return EBB_OK;
}

static inline ebb_status_t plain_exec_mark(ebb_exec_t *x, int mark)
{
    return EBB_OK;
}

static inline ebb_status_t plain_exec_await(ebb_exec_t *x, const ebb_exec_t *other, int mark)
{
    return EBB_OK;
}

static inline ebb_status_t plain_exec_event(ebb_exec_t *x, int mark, void **event_p)
{
    *event_p = x;
    return EBB_OK;
}

static inline ebb_status_t plain_exec_await_event(ebb_exec_t *x, void *event)
{
    return EBB_OK;
}

static inline void *plain_host_alloc(void *dev, size_t bytes)
{
    void *ptr = NULL;
    return ebb_alloc("host memory", bytes, &ptr) == EBB_OK ? ptr : NULL;
}

static inline void plain_exec_destroy(ebb_exec_t *x)
{
    free(x);
}

static inline ebb_status_t plain_add(ebb_exec_t *x, int64_t n, const float *a, const float *b, float *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = a[i] + b[i];
    return EBB_OK;
}

static inline ebb_status_t plain_sumsq(ebb_exec_t *x, int64_t n, int64_t segment, const float *a, double *out)
{
    for (int64_t s = 0; s * segment < n; s++) {
        double part[8] = {0}, sum = 0;
        for (int64_t i = s * segment; i < n && i < (s + 1) * segment; i++)
            part[(i - s * segment) % 8] += (double)a[i] * a[i];
        for (int k = 0; k < 8; k++)
            sum += part[k];
        out[s] = sum;
    }
    return EBB_OK;
}

static inline ebb_status_t plain_terms_sum(ebb_exec_t *x, const ebb_terms_t *terms, int64_t first, int64_t n,
                                           float *val)
{
    for (int64_t i = 0; i < n * terms->width; i++) {
        int64_t k = first + i / terms->width, c = i % terms->width;
        val[i] = 0.0f;
        for (int64_t e = terms->begin[k]; e < terms->begin[k + 1]; e++)
            val[i] = fmaf(terms->term[e].val, terms->dY[terms->term[e].source * terms->width + c], val[i]);
    }
    return EBB_OK;
}

static inline void plain_terms_free(void *dev, ebb_terms_t *terms)
{
    ebb_free(terms->idx);
    ebb_free(terms->begin);
    ebb_free(terms->term);
    ebb_free(terms->dY);
    *terms = (ebb_terms_t){0};
}

static inline float plain_sign(float v)
{
    return v > 0 ? 1.0f : v < 0 ? -1.0f : 0.0f;
}

/* One weight, by the papers named in ebb/optim.h. */
static inline void plain_update_one(const ebb_optim_hyper_t *h, float *w, float g_sum, float *s0, float *s1)
{
    float g = h->scale * g_sum;
    if (h->kind == EBB_OPTIM_FTRL) {
        float sigma = (sqrtf(*s1 + g * g) - sqrtf(*s1)) / h->lr;
        *s0 += g - sigma * *w;
        *s1 += g * g;
        float z = *s0;
        *w = fabsf(z) <= h->l1 ? 0.0f : -(z - plain_sign(z) * h->l1) / ((h->beta1 + sqrtf(*s1)) / h->lr + h->l2);
        return;
    }
    g += h->l1 * plain_sign(*w) + (h->kind == EBB_OPTIM_ADAMW ? 0.0f : h->l2 * *w);
    switch (h->kind) {
    case EBB_OPTIM_SGD:
        if (s0) {
            *s0 = h->momentum * *s0 + g;
            g = h->nesterov ? g + h->momentum * *s0 : *s0;
        }
        *w -= h->lr * g;
        break;
    case EBB_OPTIM_ADAGRAD:
        *s0 += g * g;
        *w -= h->lr * g / (sqrtf(*s0) + h->eps);
        break;
    default:
        *s0 = h->beta1 * *s0 + (1.0f - h->beta1) * g;
        *s1 = h->beta2 * *s1 + (1.0f - h->beta2) * g * g;
        float m = *s0 / (float)(1.0 - pow(h->beta1, (double)h->t));
        float v = *s1 / (float)(1.0 - pow(h->beta2, (double)h->t));
        float decay = h->kind == EBB_OPTIM_ADAMW ? h->l2 * *w : 0.0f;
        *w -= h->lr * (m / (sqrtf(v) + h->eps) + decay);
    }
}

static inline ebb_status_t plain_update(ebb_exec_t *x, const ebb_optim_hyper_t *h, int64_t n, float *w, const float *g,
                                        float *s0, float *s1)
{
    for (int64_t i = 0; i < n; i++)
        plain_update_one(h, &w[i], g[i], s0 ? &s0[i] : NULL, s1 ? &s1[i] : NULL);
    return EBB_OK;
}

static inline ebb_status_t plain_update_rows(ebb_exec_t *x, const ebb_optim_hyper_t *h, int64_t n, int64_t width,
                                             const int32_t *idx_w, const int32_t *idx_s, float *w, const float *g,
                                             float *s0, float *s1)
{
    for (int64_t k = 0; k < n; k++)
        plain_update(x, h, width, w + idx_w[k] * width, g + k * width, s0 ? s0 + idx_s[k] * width : NULL,
                     s1 ? s1 + idx_s[k] * width : NULL);
    return EBB_OK;
}

/* ---- what devices need besides ---- */

static inline ebb_status_t plain_get_rows(ebb_exec_t *x, int64_t n, int64_t width, const int32_t *idx,
                                          const float *table, float *val)
{
    for (int64_t k = 0; k < n; k++)
        memcpy(val + k * width, table + idx[k] * width, (size_t)width * sizeof *val);
    return EBB_OK;
}

static inline ebb_status_t plain_set_rows(ebb_exec_t *x, int64_t n, int64_t width, const int32_t *idx, const float *val,
                                          float *table)
{
    for (int64_t k = 0; k < n; k++)
        memcpy(table + idx[k] * width, val + k * width, (size_t)width * sizeof *val);
    return EBB_OK;
}

static inline const float *plain_row(const ebb_rows_t *list, int64_t row)
{
    int64_t n = list->count ? *list->count : list->n, lo = 0, hi = n;
    while (lo < hi) {
        int64_t mid = (lo + hi) / 2;
        if (list->idx[mid] < row)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < n && list->idx[lo] == row ? list->val + lo * list->width : NULL;
}

/* Values of the lists that have a row, at most 256, and their numbers. */
static inline int plain_having(const ebb_rows_merge_t *m, int64_t row, const float *value[256], int number[256])
{
    int n = 0;
    for (int k = 0; k < m->lists; k++)
        if ((value[n] = plain_row(&m->list[k], row)) != NULL)
            number[n++] = k;
    return n;
}

/* Sum of values [lo, hi): split where neighbours meet highest up. */
static inline float plain_tree(const ebb_rows_merge_t *m, const float *const *value, const int *number, int lo, int hi,
                               int64_t c)
{
    int split = lo + 1;
    if (hi - lo == 1)
        return value[lo][c];
    for (int i = lo + 1; i < hi; i++)
        if (m->meet[number[i - 1] * m->lists + number[i]] < m->meet[number[split - 1] * m->lists + number[split]])
            split = i;
    return plain_tree(m, value, number, lo, split, c) + plain_tree(m, value, number, split, hi, c);
}

static inline ebb_status_t plain_rows_find(ebb_exec_t *x, const ebb_rows_merge_t *m, int64_t *n)
{
    const float *value[256];
    int number[256];
    for (int o = 0; o < m->owners; o++)
        n[o] = 0;
    for (int64_t row = 0; row < m->rows; row++)
        n[row / 64 % m->owners] += plain_having(m, row, value, number) > 0;
    return EBB_OK;
}

static inline ebb_status_t plain_rows_add(ebb_exec_t *x, const ebb_rows_merge_t *m, int32_t *idx, int32_t *local,
                                          float *val)
{
    const float *value[256];
    int number[256];
    int64_t k = 0;
    for (int o = 0; o < m->owners; o++)
        for (int64_t row = 0; row < m->rows; row++) {
            int n = row / 64 % m->owners == o ? plain_having(m, row, value, number) : 0;
            if (n == 0)
                continue;
            for (int64_t c = 0; c < m->width; c++) {
                float sum = plain_tree(m, value, number, 0, n, c);
                val[k * m->width + c] = m->canonical ? sum + 0.0f : sum;
            }
            if (idx)
                idx[k] = (int32_t)row;
            if (local)
                local[k] = (int32_t)(row / 64 / m->owners * 64 + row % 64);
            k++;
        }
    return EBB_OK;
}

#define PLAIN_DEVICE_OPS                                                                                               \
    .host_alloc = plain_host_alloc, .host_free = plain_free, .exec_mark = plain_exec_mark,                             \
    .exec_await = plain_exec_await, .exec_event = plain_exec_event, .exec_await_event = plain_exec_await_event,        \
    .exec_post = plain_exec_mark, .exec_wait = plain_exec_mark, .exec_reserve = plain_exec_sync,                       \
    .get_rows = plain_get_rows, .set_rows = plain_set_rows, .rows_find = plain_rows_find, .rows_add = plain_rows_add

static const ebb_backend_ops_t plain_ops = {
    .version = EBB_BACKEND_VERSION,
    .caps = EBB_CAP_HOST_MEMORY,
    .name = "plain",
    PLAIN_DEVICE_OPS,
    .alloc = plain_alloc,
    .free = plain_free,
    .upload = plain_copy,
    .download = plain_copy,
    .zero = plain_zero,
    .copy = plain_copy,
    .exec_create = plain_exec_create,
    .exec_sync = plain_exec_sync,
    .exec_destroy = plain_exec_destroy,
    .terms_sum = plain_terms_sum,
    .terms_free = plain_terms_free,
    .add = plain_add,
    .sumsq = plain_sumsq,
    .update = plain_update,
    .update_rows = plain_update_rows,
};

static ebb_backend_t plain_backend = {.ops = &plain_ops, .dev = NULL};

#endif
