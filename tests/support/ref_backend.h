/* A backend of plain loops in double precision, rounded to float once per value: the independent reference that models
 * and other backends are measured against. One context at a time; nothing here is fast. */
#ifndef EBB_TESTS_REF_BACKEND_H
#define EBB_TESTS_REF_BACKEND_H

#include <ebb/compute.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "base/rng.h"

struct ebb_exec {
    int32_t *idx[8];
    float *val[8];
};

static ebb_status_t ref_describe(void *dev, char *text, size_t size)
{
    snprintf(text, size, "reference, double precision");
    return EBB_OK;
}

static ebb_status_t ref_alloc(void *dev, size_t bytes, const char *what, void **ptr_p)
{
    size_t padded = (bytes / 64 + 1) * 64;
    *ptr_p = aligned_alloc(64, padded);
    memset(*ptr_p, 0, padded);
    return EBB_OK;
}

static void ref_free(void *dev, void *ptr)
{
    free(ptr);
}

static ebb_status_t ref_copy_bytes(ebb_exec_t *x, void *dst, const void *src, size_t bytes)
{
    memcpy(dst, src, bytes);
    return EBB_OK;
}

static ebb_status_t ref_zero(ebb_exec_t *x, void *dst, size_t bytes)
{
    memset(dst, 0, bytes);
    return EBB_OK;
}

static ebb_status_t ref_exec_create(void *dev, ebb_exec_t **x_p)
{
    *x_p = calloc(1, sizeof **x_p);
    return EBB_OK;
}

static ebb_status_t ref_exec_sync(ebb_exec_t *x)
{
    return EBB_OK;
}

static void ref_exec_destroy(ebb_exec_t *x)
{
    for (int s = 0; s < 8; s++) {
        free(x->idx[s]);
        free(x->val[s]);
    }
    free(x);
}

static double ref_act(ebb_act_t act, double v)
{
    switch (act) {
    case EBB_ACT_RELU:
        return v > 0 ? v : 0;
    case EBB_ACT_GELU:
        return 0.5 * v * (1 + erf(v * 0.7071067811865476));
    case EBB_ACT_TANH:
        return tanh(v);
    case EBB_ACT_SIGMOID:
        return 1 / (1 + exp(-v));
    default:
        return v;
    }
}

static double ref_act_slope(ebb_act_t act, double in, double out)
{
    switch (act) {
    case EBB_ACT_RELU:
        return out > 0;
    case EBB_ACT_GELU:
        return 0.5 * (1 + erf(in * 0.7071067811865476)) + in * exp(-0.5 * in * in) * 0.3989422804014327;
    case EBB_ACT_TANH:
        return 1 - out * out;
    case EBB_ACT_SIGMOID:
        return out * (1 - out);
    default:
        return 1;
    }
}

static ebb_status_t ref_gemm(ebb_exec_t *x, bool ta, bool tb, int64_t M, int64_t N, int64_t K, const float *A,
                             int64_t lda, const float *B, int64_t ldb, float beta, float *C, int64_t ldc,
                             const float *bias, ebb_act_t act)
{
    for (int64_t i = 0; i < M; i++)
        for (int64_t j = 0; j < N; j++) {
            double s = (beta != 0 ? (double)C[i * ldc + j] : 0) + (bias ? (double)bias[j] : 0);
            for (int64_t k = 0; k < K; k++)
                s += (double)(ta ? A[k * lda + i] : A[i * lda + k]) * (double)(tb ? B[j * ldb + k] : B[k * ldb + j]);
            C[i * ldc + j] = (float)ref_act(act, s);
        }
    return EBB_OK;
}

static ebb_status_t ref_bias_grad(ebb_exec_t *x, int64_t M, int64_t N, const float *dY, float beta, float *db)
{
    for (int64_t j = 0; j < N; j++) {
        double s = beta != 0 ? (double)db[j] : 0;
        for (int64_t i = 0; i < M; i++)
            s += (double)dY[i * N + j];
        db[j] = (float)s;
    }
    return EBB_OK;
}

static ebb_status_t ref_act_forward(ebb_exec_t *x, ebb_act_t act, int64_t n, const float *in, float *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)ref_act(act, (double)in[i]);
    return EBB_OK;
}

static ebb_status_t ref_act_backward(ebb_exec_t *x, ebb_act_t act, int64_t n, const float *in, const float *out,
                                     const float *dout, float *din)
{
    for (int64_t i = 0; i < n; i++)
        din[i] = (float)((double)dout[i] * ref_act_slope(act, act == EBB_ACT_GELU ? (double)in[i] : 0, (double)out[i]));
    return EBB_OK;
}

static ebb_status_t ref_layernorm_forward(ebb_exec_t *x, int64_t M, int64_t N, const float *in, const float *gamma,
                                          const float *beta, float eps, float *out, float *mean, float *rstd)
{
    for (int64_t i = 0; i < M; i++) {
        const float *v = in + i * N;
        double m = 0, var = 0;
        for (int64_t j = 0; j < N; j++)
            m += (double)v[j] / (double)N;
        for (int64_t j = 0; j < N; j++)
            var += ((double)v[j] - m) * ((double)v[j] - m) / (double)N;
        double r = 1 / sqrt(var + (double)eps);
        for (int64_t j = 0; j < N; j++)
            out[i * N + j] = (float)(((double)v[j] - m) * r * (double)gamma[j] + (double)beta[j]);
        mean[i] = (float)m;
        rstd[i] = (float)r;
    }
    return EBB_OK;
}

static ebb_status_t ref_layernorm_backward(ebb_exec_t *x, int64_t M, int64_t N, const float *in, const float *gamma,
                                           const float *mean, const float *rstd, const float *dout, float *din,
                                           float acc, float *dgamma, float *dbeta)
{
    for (int64_t j = 0; j < N; j++) {
        double g = acc != 0 ? (double)dgamma[j] : 0, b = acc != 0 ? (double)dbeta[j] : 0;
        for (int64_t i = 0; i < M; i++) {
            g += (double)dout[i * N + j] * ((double)in[i * N + j] - (double)mean[i]) * (double)rstd[i];
            b += (double)dout[i * N + j];
        }
        dgamma[j] = (float)g;
        dbeta[j] = (float)b;
    }
    for (int64_t i = 0; i < M; i++) {
        double a = 0, b = 0;
        for (int64_t j = 0; j < N; j++) {
            double d = (double)dout[i * N + j] * (double)gamma[j];
            a += d / (double)N;
            b += d * ((double)in[i * N + j] - (double)mean[i]) * (double)rstd[i] / (double)N;
        }
        for (int64_t j = 0; j < N; j++) {
            double h = ((double)in[i * N + j] - (double)mean[i]) * (double)rstd[i];
            din[i * N + j] = (float)((double)rstd[i] * ((double)dout[i * N + j] * (double)gamma[j] - a - h * b));
        }
    }
    return EBB_OK;
}

static ebb_status_t ref_dropout(ebb_exec_t *x, int64_t n, float p, const uint64_t key[2], uint64_t index0,
                                const float *in, float *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = ebb_rng_uniform(key[0], EBB_RNG_DROPOUT, key[1], index0 + (uint64_t)i) >= p ? in[i] / (1 - p) : 0;
    return EBB_OK;
}

static ebb_status_t ref_csr_gemm(ebb_exec_t *x, const ebb_csr_t *X, int64_t H, const float *W, int64_t ldw,
                                 const float *bias, ebb_act_t act, float *Y)
{
    for (int64_t r = 0; r < X->rows; r++)
        for (int64_t h = 0; h < H; h++) {
            double s = bias ? (double)bias[h] : 0;
            for (int64_t e = X->rowptr[r]; e < X->rowptr[r + 1]; e++)
                s += (double)X->val[e] * (double)W[X->col[e] * ldw + h];
            Y[r * H + h] = (float)ref_act(act, s);
        }
    return EBB_OK;
}

/* Gather the touched rows of a dense gradient. */
static void ref_gather(ebb_exec_t *x, int slot, const ebb_csr_t *X, int64_t width, const float *G,
                       const uint64_t *touched, ebb_rows_t *out)
{
    x->idx[slot] = realloc(x->idx[slot], (size_t)X->cols * sizeof(int32_t) + 1);
    x->val[slot] = realloc(x->val[slot], (size_t)(X->cols * width) * sizeof(float) + 1);
    *out = (ebb_rows_t){.n = 0, .capacity = X->cols, .width = width, .idx = x->idx[slot], .val = x->val[slot]};
    for (int64_t c = 0; c < X->cols; c++)
        if (touched[c / 64] >> (c % 64) & 1) {
            out->idx[out->n] = (int32_t)c;
            memcpy(out->val + out->n * width, G + c * width, (size_t)width * sizeof(float));
            out->n++;
        }
}

static ebb_status_t ref_csr_grad_dense(ebb_exec_t *x, const ebb_csr_t *X, int64_t H, const float *dY, float *G,
                                       uint64_t *touched)
{
    for (int64_t r = 0; r < X->rows; r++)
        for (int64_t e = X->rowptr[r]; e < X->rowptr[r + 1]; e++) {
            int64_t c = X->col[e];
            touched[c / 64] |= (uint64_t)1 << (c % 64);
            for (int64_t h = 0; h < H; h++)
                G[c * H + h] = fmaf(X->val[e], dY[r * H + h], G[c * H + h]);
        }
    return EBB_OK;
}

#define REF_SCATTERED(width, call)                                                                                     \
    float *G = calloc((size_t)(X->cols * (width)), sizeof(float));                                                     \
    uint64_t *touched = calloc((size_t)X->cols / 64 + 1, sizeof(uint64_t));                                            \
    call;                                                                                                              \
    ref_gather(x, slot, X, (width), G, touched, out);                                                                  \
    free(G);                                                                                                           \
    free(touched);                                                                                                     \
    return EBB_OK

static ebb_status_t ref_csr_grad(ebb_exec_t *x, int slot, const ebb_csr_t *X, int64_t H, const float *dY,
                                 ebb_rows_t *out)
{
    REF_SCATTERED(H, ref_csr_grad_dense(x, X, H, dY, G, touched));
}

static ebb_status_t ref_fm_forward(ebb_exec_t *x, const ebb_csr_t *X, int64_t k, const float *T, const float *bias,
                                   float *out, float *sums)
{
    for (int64_t r = 0; r < X->rows; r++) {
        double y = bias ? (double)bias[0] : 0;
        for (int64_t e = X->rowptr[r]; e < X->rowptr[r + 1]; e++)
            y += (double)X->val[e] * (double)T[X->col[e] * (1 + k)];
        for (int64_t f = 0; f < k; f++) {
            double s = 0, q = 0;
            for (int64_t e = X->rowptr[r]; e < X->rowptr[r + 1]; e++) {
                double t = (double)X->val[e] * (double)T[X->col[e] * (1 + k) + 1 + f];
                s += t;
                q += t * t;
            }
            y += 0.5 * (s * s - q);
            sums[r * k + f] = (float)s;
        }
        out[r] = (float)y;
    }
    return EBB_OK;
}

static ebb_status_t ref_fm_grad_dense(ebb_exec_t *x, const ebb_csr_t *X, int64_t k, const float *T, const float *sums,
                                      const float *dout, float *G, uint64_t *touched)
{
    for (int64_t r = 0; r < X->rows; r++)
        for (int64_t e = X->rowptr[r]; e < X->rowptr[r + 1]; e++) {
            int64_t c = X->col[e];
            double v = (double)X->val[e], d = (double)dout[r];
            touched[c / 64] |= (uint64_t)1 << (c % 64);
            G[c * (1 + k)] += (float)(d * v);
            for (int64_t f = 0; f < k; f++)
                G[c * (1 + k) + 1 + f] +=
                    (float)(d * v * ((double)sums[r * k + f] - v * (double)T[c * (1 + k) + 1 + f]));
        }
    return EBB_OK;
}

static ebb_status_t ref_fm_grad(ebb_exec_t *x, int slot, const ebb_csr_t *X, int64_t k, const float *T,
                                const float *sums, const float *dout, ebb_rows_t *out)
{
    REF_SCATTERED(1 + k, ref_fm_grad_dense(x, X, k, T, sums, dout, G, touched));
}

static int ref_field(int n, const int32_t *begin, int32_t col)
{
    int f = 0;
    while (f + 1 < n && col >= begin[f + 1])
        f++;
    return f;
}

static ebb_status_t ref_embed_forward(ebb_exec_t *x, const ebb_csr_t *X, int n_fields, const int32_t *field_begin,
                                      int64_t dim, const float *T, float *Y)
{
    memset(Y, 0, (size_t)(X->rows * n_fields * dim) * sizeof *Y);
    for (int64_t r = 0; r < X->rows; r++)
        for (int64_t e = X->rowptr[r]; e < X->rowptr[r + 1]; e++)
            for (int64_t d = 0; d < dim; d++)
                Y[(r * n_fields + ref_field(n_fields, field_begin, X->col[e])) * dim + d] +=
                    X->val[e] * T[X->col[e] * dim + d];
    return EBB_OK;
}

static ebb_status_t ref_embed_grad_dense(ebb_exec_t *x, const ebb_csr_t *X, int n_fields, const int32_t *field_begin,
                                         int64_t dim, const float *dY, float *G, uint64_t *touched)
{
    for (int64_t r = 0; r < X->rows; r++)
        for (int64_t e = X->rowptr[r]; e < X->rowptr[r + 1]; e++) {
            int64_t c = X->col[e];
            touched[c / 64] |= (uint64_t)1 << (c % 64);
            for (int64_t d = 0; d < dim; d++)
                G[c * dim + d] +=
                    X->val[e] * dY[(r * n_fields + ref_field(n_fields, field_begin, X->col[e])) * dim + d];
        }
    return EBB_OK;
}

static ebb_status_t ref_embed_grad(ebb_exec_t *x, int slot, const ebb_csr_t *X, int n_fields,
                                   const int32_t *field_begin, int64_t dim, const float *dY, ebb_rows_t *out)
{
    REF_SCATTERED(dim, ref_embed_grad_dense(x, X, n_fields, field_begin, dim, dY, G, touched));
}

/* Loss of one real-valued output and its derivative. */
static double ref_real_loss(ebb_loss_kind_t kind, double delta, double o, double y, double *slope)
{
    double e = o - y;
    switch (kind) {
    case EBB_LOSS_BINARY_CE:
        *slope = 1 / (1 + exp(-o)) - y;
        return (o > 0 ? o : 0) - o * y + log1p(exp(-fabs(o)));
    case EBB_LOSS_HUBER:
        *slope = e > delta ? delta : e < -delta ? -delta : e;
        return fabs(e) <= delta ? 0.5 * e * e : delta * (fabs(e) - 0.5 * delta);
    case EBB_LOSS_POISSON:
        *slope = exp(o) - y;
        return exp(o) - y * o;
    default:
        *slope = e;
        return 0.5 * e * e;
    }
}

static double ref_row_loss(ebb_loss_kind_t kind, double delta, int64_t width, const float *out, int32_t label,
                           const float *y, double *slope)
{
    double loss = 0;
    if (kind != EBB_LOSS_SOFTMAX_CE) {
        for (int64_t c = 0; c < width; c++)
            loss += ref_real_loss(kind, delta, (double)out[c], y ? (double)y[c] : (double)label, &slope[c]);
        return loss;
    }
    double top = -INFINITY, sum = 0;
    for (int64_t c = 0; c < width; c++)
        top = fmax(top, (double)out[c]);
    for (int64_t c = 0; c < width; c++)
        sum += exp((double)out[c] - top);
    for (int64_t c = 0; c < width; c++)
        slope[c] = exp((double)out[c] - top) / sum - (c == label);
    return top + log(sum) - (double)out[label];
}

static ebb_status_t ref_loss(ebb_exec_t *x, ebb_loss_kind_t kind, float huber_delta, int64_t rows, int64_t width,
                             const float *out, const int32_t *label, const float *y, const float *weight,
                             const float *class_weight, double *row_loss, double *row_weight, float *dout)
{
    double slope[1024];
    for (int64_t r = 0; r < rows; r++) {
        double w = (weight ? (double)weight[r] : 1) * (class_weight && label ? (double)class_weight[label[r]] : 1);
        row_weight[r] = w;
        row_loss[r] = w * ref_row_loss(kind, (double)huber_delta, width, out + r * width, label ? label[r] : 0,
                                       y ? y + r * width : NULL, slope);
        for (int64_t c = 0; c < width && dout; c++)
            dout[r * width + c] = (float)(w * slope[c]);
    }
    return EBB_OK;
}

static ebb_status_t ref_link(ebb_exec_t *x, ebb_loss_kind_t kind, int64_t rows, int64_t width, const float *out,
                             float *pred)
{
    for (int64_t r = 0; r < rows; r++) {
        double top = -INFINITY, sum = 0;
        for (int64_t c = 0; c < width; c++)
            top = fmax(top, (double)out[r * width + c]);
        for (int64_t c = 0; c < width; c++)
            sum += exp((double)out[r * width + c] - top);
        for (int64_t c = 0; c < width; c++) {
            double o = (double)out[r * width + c];
            pred[r * width + c] = (float)(kind == EBB_LOSS_SOFTMAX_CE  ? exp(o - top) / sum
                                          : kind == EBB_LOSS_BINARY_CE ? 1 / (1 + exp(-o))
                                          : kind == EBB_LOSS_POISSON   ? exp(o)
                                                                       : o);
        }
    }
    return EBB_OK;
}

static const ebb_backend_ops_t ref_ops = {
    .version = EBB_BACKEND_VERSION,
    .caps = EBB_CAP_HOST_MEMORY,
    .name = "reference",
    .describe = ref_describe,
    .alloc = ref_alloc,
    .free = ref_free,
    .upload = ref_copy_bytes,
    .download = ref_copy_bytes,
    .zero = ref_zero,
    .copy = ref_copy_bytes,
    .exec_create = ref_exec_create,
    .exec_sync = ref_exec_sync,
    .exec_destroy = ref_exec_destroy,
    .gemm = ref_gemm,
    .bias_grad = ref_bias_grad,
    .act_forward = ref_act_forward,
    .act_backward = ref_act_backward,
    .layernorm_forward = ref_layernorm_forward,
    .layernorm_backward = ref_layernorm_backward,
    .dropout = ref_dropout,
    .csr_gemm = ref_csr_gemm,
    .csr_grad = ref_csr_grad,
    .csr_grad_dense = ref_csr_grad_dense,
    .fm_forward = ref_fm_forward,
    .fm_grad = ref_fm_grad,
    .fm_grad_dense = ref_fm_grad_dense,
    .embed_forward = ref_embed_forward,
    .embed_grad = ref_embed_grad,
    .embed_grad_dense = ref_embed_grad_dense,
    .loss = ref_loss,
    .link = ref_link,
};

/* Models and losses only; without sums and updates. */
static ebb_backend_t ref_backend = {.ops = &ref_ops};

#endif
