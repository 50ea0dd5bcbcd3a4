/* The CPU's table of operations: checks and memory here, arithmetic in the kernels of the context's instruction set. */
#include "compute/cpu/cpu.h"
#include "base/alloc.h"

#include <string.h>

/* Up to this width a gradient is scattered entry by entry; above, entries are grouped first. */
enum { SCATTER_WIDTH = 8 };

static ebb_status_t op_copy(ebb_exec_t *x, void *dst, const void *src, size_t bytes)
{
    if (bytes > 0 && dst != src)
        memcpy(dst, src, bytes);
    return EBB_OK;
}

static ebb_status_t op_zero(ebb_exec_t *x, void *dst, size_t bytes)
{
    if (bytes > 0)
        memset(dst, 0, bytes);
    return EBB_OK;
}

static ebb_status_t op_sync(ebb_exec_t *x)
{
    return EBB_OK;
}

/* ---- dense ---- */

static ebb_status_t op_bias_grad(ebb_exec_t *x, int64_t M, int64_t N, const float *dY, float beta, float *db)
{
    x->kernels->bias_grad(M, N, dY, beta, db);
    return EBB_OK;
}

static ebb_status_t op_act_forward(ebb_exec_t *x, ebb_act_t act, int64_t n, const float *in, float *out)
{
    if (act != EBB_ACT_NONE || in != out)
        x->kernels->act_forward(act, n, in, out);
    return EBB_OK;
}

static ebb_status_t op_act_backward(ebb_exec_t *x, ebb_act_t act, int64_t n, const float *in, const float *out,
                                    const float *dout, float *din)
{
    if (act == EBB_ACT_GELU ? !in : act != EBB_ACT_NONE && !out)
        return EBB_FAIL(EBB_EINVAL, "activation %d: its backward pass needs the %s of the forward pass", (int)act,
                        act == EBB_ACT_GELU ? "input" : "output");
    x->kernels->act_backward(act, n, in, out, dout, din);
    return EBB_OK;
}

static ebb_status_t op_layernorm_forward(ebb_exec_t *x, int64_t M, int64_t N, const float *in, const float *gamma,
                                         const float *beta, float eps, float *out, float *mean, float *rstd)
{
    if (N < 1)
        return EBB_FAIL(EBB_EINVAL, "layer normalisation of rows without columns");
    x->kernels->layernorm_forward(M, N, in, gamma, beta, eps, out, mean, rstd);
    return EBB_OK;
}

static ebb_status_t op_layernorm_backward(ebb_exec_t *x, int64_t M, int64_t N, const float *in, const float *gamma,
                                          const float *mean, const float *rstd, const float *dout, float *din,
                                          float acc, float *dgamma, float *dbeta)
{
    if (acc == 0.0f) {
        memset(dgamma, 0, (size_t)N * sizeof *dgamma);
        memset(dbeta, 0, (size_t)N * sizeof *dbeta);
    }
    x->kernels->layernorm_backward(M, N, in, gamma, mean, rstd, dout, din, dgamma, dbeta);
    return EBB_OK;
}

static ebb_status_t op_dropout(ebb_exec_t *x, int64_t n, float p, const uint64_t key[2], uint64_t index0,
                               const float *in, float *out)
{
    if (!(p >= 0.0f && p < 1.0f))
        return EBB_FAIL(EBB_EINVAL, "dropout with probability %g: it must be at least 0 and below 1", (double)p);
    x->kernels->dropout(n, p, key, index0, in, out);
    return EBB_OK;
}

/* ---- sparse ---- */

static ebb_status_t op_csr_gemm(ebb_exec_t *x, const ebb_csr_t *X, int64_t H, const float *W, int64_t ldw,
                                const float *bias, ebb_act_t act, float *Y)
{
    if (H < 1 || ldw < H)
        return EBB_FAIL(EBB_EINVAL, "csr_gemm to %lld columns with leading dimension %lld", (long long)H,
                        (long long)ldw);
    x->kernels->csr_gemm(X, H, W, ldw, bias, act, Y);
    return EBB_OK;
}

static void mark_touched(const ebb_csr_t *X, const int32_t *source, uint64_t *touched)
{
    int64_t n = csr_nonzeros(X);
    const int32_t *col = X->col + (n ? X->rowptr[0] : 0);
    for (int64_t j = 0; j < n; j++)
        if (!source || source[j] >= 0)
            touched[(uint32_t)col[j] >> 6] |= (uint64_t)1 << (col[j] & 63);
}

/* Columns met, and room for a gradient of `width` columns in the slot. */
static ebb_status_t begin_rows(ebb_exec_t *x, int slot, const ebb_csr_t *X, const int32_t *source, int64_t width,
                               ebb_rows_t *out)
{
    if (slot < 0 || slot >= SLOTS)
        return EBB_FAIL(EBB_EINVAL, "slot %d: a context has slots 0 to %d", slot, SLOTS - 1);
    slot_t *s = &x->slot[slot];
    int64_t met;
    EBB_TRY(ebb_group_rank(x->kernels, &x->group, X, source, &s->idx, &s->idx_capacity, &met));
    EBB_TRY(ebb_grow("row-sparse gradient", (void **)&s->val, &s->val_capacity, met * width, sizeof *s->val));
    *out = (ebb_rows_t){.n = met, .capacity = met, .width = width, .idx = s->idx, .val = s->val};
    return EBB_OK;
}

static ebb_status_t rows_gradient(ebb_exec_t *x, int slot, const ebb_csr_t *X, const int32_t *source, int64_t H,
                                  const float *dY, ebb_rows_t *out)
{
    EBB_TRY(begin_rows(x, slot, X, source, H, out));
    if (out->n == 0)
        return EBB_OK;
    if (H <= SCATTER_WIDTH) {
        memset(out->val, 0, (size_t)(out->n * H) * sizeof *out->val);
        x->kernels->rank_scatter(X, source, x->group.rank, H, dY, out->val);
        return EBB_OK;
    }
    placed_t *placed = &x->group.placed;
    EBB_TRY(ebb_group_place(x->kernels, &x->group, X, source, out->n, placed));
    x->kernels->group_sum(out->n, placed->begin, placed->begin[out->n], placed->entries, H, dY, out->val);
    return EBB_OK;
}

static ebb_status_t op_csr_grad(ebb_exec_t *x, int slot, const ebb_csr_t *X, int64_t H, const float *dY,
                                ebb_rows_t *out)
{
    return rows_gradient(x, slot, X, NULL, H, dY, out);
}

static ebb_status_t op_csr_terms(ebb_exec_t *x, const ebb_csr_t *X, int64_t H, const float *dY, ebb_terms_t *t)
{
    int64_t met;
    t->n = 0;
    t->width = H;
    EBB_TRY(ebb_group_rank(x->kernels, &x->group, X, NULL, &t->idx, &t->idx_capacity, &met));
    placed_t placed = {t->begin, t->term, t->begin_capacity, t->term_capacity};
    ebb_status_t status = ebb_group_place(x->kernels, &x->group, X, NULL, met, &placed);
    t->begin = placed.begin;
    t->term = placed.entries;
    t->begin_capacity = placed.begin_capacity;
    t->term_capacity = placed.entries_capacity;
    EBB_TRY(status);
    EBB_TRY(ebb_grow("gradient terms", (void **)&t->dY, &t->dY_capacity, X->rows * H, sizeof *t->dY));
    if (met > 0)
        memcpy(t->dY, dY, (size_t)(X->rows * H) * sizeof *t->dY);
    t->n = met;
    return EBB_OK;
}

static ebb_status_t op_terms_sum(ebb_exec_t *x, const ebb_terms_t *t, int64_t first, int64_t n, float *val)
{
    if (first < 0 || n < 0 || first + n > t->n)
        return EBB_FAIL(EBB_EINVAL, "rows %lld .. %lld of a gradient of %lld rows", (long long)first,
                        (long long)(first + n), (long long)t->n);
    x->kernels->group_sum(n, t->begin + first, t->begin[t->n], t->term, t->width, t->dY, val);
    return EBB_OK;
}

static void op_terms_free(void *dev, ebb_terms_t *t)
{
    ebb_free(t->idx);
    ebb_free(t->begin);
    ebb_free(t->term);
    ebb_free(t->dY);
    *t = (ebb_terms_t){0};
}

static ebb_status_t op_csr_grad_dense(ebb_exec_t *x, const ebb_csr_t *X, int64_t H, const float *dY, float *G,
                                      uint64_t *touched)
{
    mark_touched(X, NULL, touched);
    x->kernels->csr_grad_dense(X, H, dY, G);
    return EBB_OK;
}

static ebb_status_t op_fm_forward(ebb_exec_t *x, const ebb_csr_t *X, int64_t k, const float *T, const float *bias,
                                  float *out, float *sums)
{
    x->kernels->fm_forward(X, k, T, bias, out, sums);
    return EBB_OK;
}

static ebb_status_t op_fm_grad(ebb_exec_t *x, int slot, const ebb_csr_t *X, int64_t k, const float *T,
                               const float *sums, const float *dout, ebb_rows_t *grad)
{
    EBB_TRY(begin_rows(x, slot, X, NULL, 1 + k, grad));
    if (grad->n == 0)
        return EBB_OK;
    placed_t *placed = &x->group.placed;
    EBB_TRY(ebb_group_place(x->kernels, &x->group, X, NULL, grad->n, placed));
    x->kernels->fm_group(grad->n, grad->idx, placed->begin, placed->entries, k, T, sums, dout, grad->val);
    return EBB_OK;
}

static ebb_status_t op_fm_grad_dense(ebb_exec_t *x, const ebb_csr_t *X, int64_t k, const float *T, const float *sums,
                                     const float *dout, float *G, uint64_t *touched)
{
    mark_touched(X, NULL, touched);
    x->kernels->fm_grad_dense(X, k, T, sums, dout, G);
    return EBB_OK;
}

/* Field of a column: the last f with begin[f] <= col, or -1 outside all fields. */
static int field_of(int32_t col, int n_fields, const int32_t *begin)
{
    int lo = 0, hi = n_fields;
    if (col < begin[0] || col >= begin[n_fields])
        return -1;
    while (hi - lo > 1) {
        int mid = lo + (hi - lo) / 2;
        if (col >= begin[mid])
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

/* group.source: which (row, field) part of Y each non-zero meets. */
static ebb_status_t find_sources(ebb_exec_t *x, const ebb_csr_t *X, int n_fields, const int32_t *begin)
{
    int64_t n = csr_nonzeros(X), b = n ? X->rowptr[0] : 0;
    if (n_fields < 1 || X->rows > INT32_MAX / n_fields)
        return EBB_FAIL(EBB_EINVAL, "embedding of %d fields for %lld rows", n_fields, (long long)X->rows);
    EBB_TRY(ebb_group_source(&x->group, n));
    int32_t *source = x->group.source;
    int field = 0;
    for (int64_t r = 0; r < X->rows && n > 0; r++)
        for (int64_t j = X->rowptr[r]; j < X->rowptr[r + 1]; j++) {
            if (field < 0 || X->col[j] < begin[field] || X->col[j] >= begin[field + 1])
                field = field_of(X->col[j], n_fields, begin);
            source[j - b] = field < 0 ? -1 : (int32_t)(r * n_fields + field);
        }
    return EBB_OK;
}

static ebb_status_t op_embed_forward(ebb_exec_t *x, const ebb_csr_t *X, int n_fields, const int32_t *field_begin,
                                     int64_t dim, const float *T, float *Y)
{
    EBB_TRY(find_sources(x, X, n_fields, field_begin));
    EBB_TRY(op_zero(x, Y, (size_t)(X->rows * n_fields * dim) * sizeof *Y));
    x->kernels->embed_forward(X, x->group.source, dim, T, Y);
    return EBB_OK;
}

static ebb_status_t op_embed_grad(ebb_exec_t *x, int slot, const ebb_csr_t *X, int n_fields, const int32_t *field_begin,
                                  int64_t dim, const float *dY, ebb_rows_t *grad)
{
    EBB_TRY(find_sources(x, X, n_fields, field_begin));
    return rows_gradient(x, slot, X, x->group.source, dim, dY, grad);
}

static ebb_status_t op_embed_grad_dense(ebb_exec_t *x, const ebb_csr_t *X, int n_fields, const int32_t *field_begin,
                                        int64_t dim, const float *dY, float *G, uint64_t *touched)
{
    EBB_TRY(find_sources(x, X, n_fields, field_begin));
    mark_touched(X, x->group.source, touched);
    x->kernels->embed_grad_dense(X, x->group.source, dim, dY, G);
    return EBB_OK;
}

/* ---- losses ---- */

static ebb_status_t check_labels(int64_t rows, int64_t classes, const int32_t *label)
{
    for (int64_t r = 0; r < rows; r++)
        if (label[r] < 0 || label[r] >= classes)
            return EBB_FAIL(EBB_EDATA, "row %lld of the batch has label %d: classes are 0 to %lld", (long long)r,
                            (int)label[r], (long long)(classes - 1));
    return EBB_OK;
}

static ebb_status_t op_loss(ebb_exec_t *x, ebb_loss_kind_t kind, float huber_delta, int64_t rows, int64_t width,
                            const float *out, const int32_t *label, const float *y, const float *weight,
                            const float *class_weight, double *row_loss, double *row_weight, float *dout)
{
    bool classes = kind == EBB_LOSS_SOFTMAX_CE || (kind == EBB_LOSS_BINARY_CE && label && width == 1);
    if (width < 1 || (rows > 0 && (classes ? !label : !y)))
        return EBB_FAIL(EBB_EINVAL, "loss over %lld outputs: %s are missing", (long long)width,
                        classes ? "class labels" : "real targets");
    if (classes)
        EBB_TRY(check_labels(rows, kind == EBB_LOSS_SOFTMAX_CE ? width : 2, label));
    for (int64_t r = 0; r < rows; r++) {
        row_weight[r] = weight ? (double)weight[r] : 1.0;
        if (classes && class_weight)
            row_weight[r] *= (double)class_weight[label[r]];
    }
    loss_args_t a = {.kind = kind,
                     .huber_delta = huber_delta,
                     .rows = rows,
                     .width = width,
                     .out = out,
                     .label = classes ? label : NULL,
                     .y = y,
                     .row_loss = row_loss,
                     .row_weight = row_weight,
                     .dout = dout};
    x->kernels->loss(&a);
    return EBB_OK;
}

static ebb_status_t op_link(ebb_exec_t *x, ebb_loss_kind_t kind, int64_t rows, int64_t width, const float *out,
                            float *pred)
{
    x->kernels->link(kind, rows, width, out, pred);
    return EBB_OK;
}

/* ---- sums and updates ---- */

static ebb_status_t op_add(ebb_exec_t *x, int64_t n, const float *a, const float *b, float *out)
{
    x->kernels->add(n, a, b, out);
    return EBB_OK;
}

static ebb_status_t op_sumsq(ebb_exec_t *x, int64_t n, int64_t segment, const float *a, double *out_host)
{
    if (segment < 1)
        return EBB_FAIL(EBB_EINVAL, "sum of squares over segments of %lld elements", (long long)segment);
    for (int64_t i = 0; i < n; i += segment)
        *out_host++ = x->kernels->sumsq(n - i < segment ? n - i : segment, a + i);
    return EBB_OK;
}

static ebb_status_t check_states(const ebb_optim_hyper_t *h, const float *s0, const float *s1)
{
    int states = ebb_optim_states(h->kind, h->momentum);
    if ((states > 0 && !s0) || (states > 1 && !s1))
        return EBB_FAIL(EBB_EINVAL, "update rule %d keeps %d values per weight: state memory is missing", (int)h->kind,
                        states);
    return EBB_OK;
}

static ebb_status_t op_update(ebb_exec_t *x, const ebb_optim_hyper_t *h, int64_t n, float *w, const float *g, float *s0,
                              float *s1)
{
    if (n == 0)
        return EBB_OK;
    EBB_TRY(check_states(h, s0, s1));
    x->kernels->update(h, n, w, g, s0, s1);
    return EBB_OK;
}

static ebb_status_t op_update_rows(ebb_exec_t *x, const ebb_optim_hyper_t *h, int64_t n, int64_t width,
                                   const int32_t *idx_w, const int32_t *idx_s, float *w, const float *g, float *s0,
                                   float *s1)
{
    if (n == 0 || width == 0)
        return EBB_OK;
    EBB_TRY(check_states(h, s0, s1));
    int states = ebb_optim_states(h->kind, h->momentum);
    x->kernels->update_rows(h, n, width, idx_w, idx_s, w, g, states > 0 ? s0 : NULL, states > 1 ? s1 : NULL);
    return EBB_OK;
}

static ebb_status_t op_set_rows(ebb_exec_t *x, int64_t n, int64_t width, const int32_t *idx, const float *val,
                                float *table)
{
    for (int64_t k = 0; k < n; k++)
        memcpy(table + idx[k] * width, val + k * width, (size_t)width * sizeof *val);
    return EBB_OK;
}

const ebb_backend_ops_t ebb_cpu_ops = {
    .version = EBB_BACKEND_VERSION,
    .caps = EBB_CAP_HOST_MEMORY,
    .name = "cpu",
    .describe = ebb_cpu_describe,
    .alloc = ebb_cpu_alloc,
    .free = ebb_cpu_free,
    .upload = op_copy,
    .download = op_copy,
    .zero = op_zero,
    .copy = op_copy,
    .exec_create = ebb_cpu_exec_create,
    .exec_sync = op_sync,
    .exec_destroy = ebb_cpu_exec_destroy,
    .gemm = ebb_cpu_gemm,
    .bias_grad = op_bias_grad,
    .act_forward = op_act_forward,
    .act_backward = op_act_backward,
    .layernorm_forward = op_layernorm_forward,
    .layernorm_backward = op_layernorm_backward,
    .dropout = op_dropout,
    .csr_gemm = op_csr_gemm,
    .csr_grad = op_csr_grad,
    .csr_terms = op_csr_terms,
    .terms_sum = op_terms_sum,
    .terms_free = op_terms_free,
    .csr_grad_dense = op_csr_grad_dense,
    .fm_forward = op_fm_forward,
    .fm_grad = op_fm_grad,
    .fm_grad_dense = op_fm_grad_dense,
    .embed_forward = op_embed_forward,
    .embed_grad = op_embed_grad,
    .embed_grad_dense = op_embed_grad_dense,
    .loss = op_loss,
    .link = op_link,
    .add = op_add,
    .sumsq = op_sumsq,
    .update = op_update,
    .update_rows = op_update_rows,
    .set_rows = op_set_rows,
};
