/* Passes of rows through a model as the engine makes them, with every buffer poisoned before.
 *
 * A gradient of table rows is scattered into a full table on the host, so that both ways of travel compare element by
 * element.
 */
#include "model/check_subject.h"

#include <string.h>

#include "base/alloc.h"
#include "base/rng.h"

/* ---- a subject ---- */

static ebb_status_t put(ebb_subject_t *s, const char *what, const void *host, size_t bytes, void *dev_pp)
{
    void **dev_p = dev_pp;
    EBB_TRY(s->ops->alloc(s->backend->dev, bytes, what, dev_p));
    return host ? s->ops->upload(s->x, *dev_p, host, bytes) : EBB_OK;
}

size_t ebb_specimen_table_floats(const ebb_specimen_t *m, int t)
{
    const ebb_param_t *p = &m->layout->params[m->layout->table_param[t]];
    return (size_t)p->rows * (size_t)p->cols;
}

static ebb_status_t put_rows(ebb_subject_t *s, const ebb_host_rows_t *rows, const float *weight)
{
    const ebb_dataset_info_t *info = s->m->info;
    size_t n = (size_t)rows->rows;
    s->rows = rows->rows;
    s->rowptr_host = rows->rowptr;
    if (info->sparse) {
        size_t nnz = (size_t)rows->rowptr[n];
        EBB_TRY(put(s, "row pointers", rows->rowptr, (n + 1) * sizeof *rows->rowptr, &s->rowptr));
        EBB_TRY(put(s, "columns", rows->col, nnz * sizeof *rows->col, &s->col));
        EBB_TRY(put(s, "values", rows->val, nnz * sizeof *rows->val, &s->val));
    } else {
        EBB_TRY(put(s, "rows", rows->x, n * (size_t)info->cols * sizeof *rows->x, &s->in));
    }
    if (rows->label)
        EBB_TRY(put(s, "labels", rows->label, n * sizeof *rows->label, &s->label));
    if (rows->y)
        EBB_TRY(put(s, "targets", rows->y, n * (size_t)s->m->outputs * sizeof *rows->y, &s->y));
    return put(s, "row weights", weight, n * sizeof *weight, &s->weight);
}

static ebb_status_t put_grads(ebb_subject_t *s)
{
    const ebb_layout_t *layout = s->m->layout;
    EBB_TRY(put(s, "gradient", NULL, (size_t)layout->dense_floats * sizeof(float), &s->grads.dense));
    for (int t = 0; t < layout->n_tables; t++) {
        int64_t rows = layout->params[layout->table_param[t]].rows;
        s->touched_bytes[t] = (size_t)((rows + 63) / 64) * sizeof(uint64_t);
        EBB_TRY(put(s, "table gradient", NULL, ebb_specimen_table_floats(s->m, t) * sizeof(float),
                    &s->grads.table_dense[t]));
        EBB_TRY(put(s, "touched rows", NULL, s->touched_bytes[t], &s->grads.touched[t]));
    }
    return EBB_OK;
}

static ebb_status_t add_noise(ebb_subject_t *s)
{
    for (int i = 0; i < s->m->layout->n_params; i++) {
        int64_t n;
        float *w = ebb_weights_param(s->m->layout, &s->weights, i, &n), *host;
        EBB_TRY(EBB_NEW_ARRAY("noisy weights", n, &host));
        ebb_status_t status = s->ops->download(s->x, host, w, (size_t)n * sizeof *w);
        if (status == EBB_OK)
            status = s->ops->exec_sync(s->x);
        for (int64_t e = 0; e < n; e++)
            host[e] += 0.1f * ebb_rng_normal(s->m->seed, EBB_RNG_TEST, (uint64_t)i, (uint64_t)e);
        if (status == EBB_OK)
            status = s->ops->upload(s->x, w, host, (size_t)n * sizeof *w);
        if (status == EBB_OK)
            status = s->ops->exec_sync(s->x);
        ebb_free(host);
        EBB_TRY(status);
    }
    return EBB_OK;
}

ebb_status_t ebb_subject_create(const ebb_specimen_t *m, ebb_backend_t *backend, const ebb_host_rows_t *rows,
                                const float *weight, ebb_subject_t *s)
{
    *s = (ebb_subject_t){.m = m, .backend = backend, .ops = backend->ops, .training = true, .pieces = 1};
    EBB_TRY(s->ops->exec_create(backend->dev, &s->x));
    EBB_TRY(put_rows(s, rows, weight));
    EBB_TRY(ebb_weights_create(backend, m->layout, &s->weights));
    EBB_TRY(ebb_weights_init(backend, m->layout, m->seed, &s->weights));
    EBB_TRY(add_noise(s));
    EBB_TRY(put_grads(s));
    size_t out_bytes = (size_t)(s->rows * m->outputs) * sizeof(float);
    s->workspace_bytes = (size_t)ebb_model_workspace_bytes(m->model, s->rows);
    EBB_TRY(put(s, "workspace", NULL, s->workspace_bytes, &s->workspace));
    EBB_TRY(put(s, "outputs", NULL, out_bytes, &s->out));
    EBB_TRY(put(s, "output gradients", NULL, out_bytes, &s->dout));
    EBB_TRY(EBB_NEW_ARRAY("outputs", s->rows * m->outputs, &s->out_host));
    EBB_TRY(EBB_NEW_ARRAY("row losses", s->rows, &s->row_loss));
    EBB_TRY(EBB_NEW_ARRAY("row weights", s->rows, &s->row_weight));
    return EBB_NEW_ARRAY("gradient", m->grad_floats, &s->grad);
}

void ebb_subject_destroy(ebb_subject_t *s)
{
    if (!s->m)
        return;
    void *device[] = {s->rowptr, s->col,         s->label,     s->val, s->in,  s->y,
                      s->weight, s->grads.dense, s->workspace, s->out, s->dout};
    for (size_t i = 0; i < sizeof device / sizeof device[0]; i++)
        if (device[i])
            s->ops->free(s->backend->dev, device[i]);
    for (int t = 0; t < s->m->layout->n_tables; t++) {
        if (s->grads.table_dense[t])
            s->ops->free(s->backend->dev, s->grads.table_dense[t]);
        if (s->grads.touched[t])
            s->ops->free(s->backend->dev, s->grads.touched[t]);
    }
    ebb_weights_destroy(s->backend, s->m->layout, &s->weights);
    if (s->x)
        s->ops->exec_destroy(s->x);
    ebb_free(s->out_host);
    ebb_free(s->row_loss);
    ebb_free(s->row_weight);
    ebb_free(s->grad);
    memset(s, 0, sizeof *s);
}

/* ---- passes ---- */

/* Every byte 0xff: NaN as float. */
static ebb_status_t poison(ebb_subject_t *s, void *dev, size_t bytes)
{
    void *host;
    EBB_TRY(ebb_alloc("poison", bytes, &host));
    memset(host, 0xff, bytes);
    ebb_status_t status = s->ops->upload(s->x, dev, host, bytes);
    if (status == EBB_OK)
        status = s->ops->exec_sync(s->x);
    ebb_free(host);
    return status;
}

static ebb_pass_t make_pass(const ebb_subject_t *s, int64_t row0)
{
    return (ebb_pass_t){.ops = s->ops,
                        .exec = s->x,
                        .weights = &s->weights,
                        .workspace = s->workspace,
                        .training = s->training,
                        .seed = s->m->seed,
                        .step = 3,
                        .lane = 1,
                        .row0 = row0};
}

static ebb_input_t make_input(const ebb_subject_t *s, int64_t row0, int64_t rows)
{
    ebb_input_t in = {.rows = rows, .sparse = s->m->info->sparse};
    if (in.sparse)
        in.csr = (ebb_csr_t){.rows = rows,
                             .cols = s->m->info->cols,
                             .rowptr = s->rowptr + row0,
                             .col = s->col,
                             .val = s->val,
                             .nnz = s->rowptr_host[row0 + rows] - s->rowptr_host[row0]};
    else
        in.x = s->in + row0 * s->m->info->cols;
    return in;
}

ebb_status_t ebb_subject_forward(ebb_subject_t *s, int64_t row0, int64_t rows, bool with_dout)
{
    const ebb_loss_t *loss = ebb_model_loss(s->m->model);
    int64_t width = s->m->outputs;
    ebb_pass_t pass = make_pass(s, row0);
    ebb_input_t in = make_input(s, row0, rows);
    EBB_TRY(ebb_model_forward(s->m->model, &pass, &in, s->out + row0 * width));
    EBB_TRY(s->ops->loss(s->x, loss->kind, loss->huber_delta, rows, width, s->out + row0 * width,
                         s->label ? s->label + row0 : NULL, s->y ? s->y + row0 * width : NULL, s->weight + row0, NULL,
                         s->row_loss + row0, s->row_weight + row0, with_dout ? s->dout + row0 * width : NULL));
    return s->ops->exec_sync(s->x);
}

static ebb_status_t clear_tables(ebb_subject_t *s)
{
    for (int t = 0; t < s->m->layout->n_tables; t++) {
        EBB_TRY(s->ops->zero(s->x, s->grads.table_dense[t], ebb_specimen_table_floats(s->m, t) * sizeof(float)));
        EBB_TRY(s->ops->zero(s->x, s->grads.touched[t], s->touched_bytes[t]));
    }
    return EBB_OK;
}

/* Copy a table's row-sparse gradient to its place in s->grad. */
static ebb_status_t scatter_rows(ebb_subject_t *s, const ebb_rows_t *rows, float *dst)
{
    int32_t *idx = NULL;
    float *val = NULL;
    int64_t n;
    ebb_status_t status;
    EBB_TRY(ebb_rows_count(s->ops, s->x, rows, &n));
    EBB_TRY_GOTO(status, EBB_NEW_ARRAY("row numbers", n, &idx), done);
    EBB_TRY_GOTO(status, EBB_NEW_ARRAY("row gradients", n * rows->width, &val), done);
    EBB_TRY_GOTO(status, s->ops->download(s->x, idx, rows->idx, (size_t)n * sizeof *idx), done);
    EBB_TRY_GOTO(status, s->ops->download(s->x, val, rows->val, (size_t)(n * rows->width) * sizeof *val), done);
    EBB_TRY_GOTO(status, s->ops->exec_sync(s->x), done);
    for (int64_t k = 0; k < n; k++)
        memcpy(dst + idx[k] * rows->width, val + k * rows->width, (size_t)rows->width * sizeof *val);
done:
    ebb_free(idx);
    ebb_free(val);
    return status;
}

static ebb_status_t fetch(ebb_subject_t *s)
{
    const ebb_layout_t *layout = s->m->layout;
    memset(s->grad, 0, (size_t)s->m->grad_floats * sizeof *s->grad);
    EBB_TRY(s->ops->download(s->x, s->out_host, s->out, (size_t)(s->rows * s->m->outputs) * sizeof(float)));
    EBB_TRY(s->ops->download(s->x, s->grad, s->grads.dense, (size_t)layout->dense_floats * sizeof(float)));
    float *at = s->grad + layout->dense_floats;
    for (int t = 0; t < layout->n_tables; t++) {
        if (s->table_rows)
            EBB_TRY(scatter_rows(s, &s->grads.rows[t], at));
        else
            EBB_TRY(s->ops->download(s->x, at, s->grads.table_dense[t],
                                     ebb_specimen_table_floats(s->m, t) * sizeof(float)));
        at += ebb_specimen_table_floats(s->m, t);
    }
    return s->ops->exec_sync(s->x);
}

ebb_status_t ebb_subject_run(ebb_subject_t *s)
{
    EBB_TRY(poison(s, s->workspace, s->workspace_bytes));
    EBB_TRY(poison(s, s->out, (size_t)(s->rows * s->m->outputs) * sizeof(float)));
    EBB_TRY(clear_tables(s));
    for (int i = 0; i < s->m->layout->n_params; i++) {
        const ebb_param_t *p = &s->m->layout->params[i];
        if (p->kind == EBB_PARAM_DENSE)
            EBB_TRY(poison(s, s->grads.dense + p->offset, (size_t)(p->rows * p->cols) * sizeof(float)));
    }
    ebb_grads_t grads = s->grads;
    for (int t = 0; s->table_rows && t < EBB_MAX_TABLES; t++)
        grads.table_dense[t] = NULL;
    for (int k = 0; k < s->pieces; k++) {
        int64_t first = s->rows * k / s->pieces, n = s->rows * (k + 1) / s->pieces - first;
        grads.accumulate = k > 0;
        EBB_TRY(ebb_subject_forward(s, first, n, true));
        ebb_pass_t pass = make_pass(s, first);
        ebb_input_t in = make_input(s, first, n);
        EBB_TRY(ebb_model_backward(s->m->model, &pass, &in, s->dout + first * s->m->outputs, &grads));
        EBB_TRY(s->ops->exec_sync(s->x));
    }
    memcpy(s->grads.rows, grads.rows, sizeof grads.rows);
    return fetch(s);
}

double ebb_subject_loss(const ebb_subject_t *s)
{
    double sum = 0.0;
    for (int64_t r = 0; r < s->rows; r++)
        sum += s->row_loss[r];
    return sum;
}
