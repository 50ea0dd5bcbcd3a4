/* Checks of any model, built-in or plug-in, through the interface the engine uses.
 *
 * Gradients are compared with difference quotients of the loss, computed in float32 with a double sum over rows, for
 * several step widths and both sides: the best agreement counts, since wide steps cross relu's kinks and narrow ones
 * drown in rounding. Errors are relative to the element plus 5 % of the parameter's largest gradient. Weights are the
 * initial ones with noise added, so that nothing that starts at zero hides a mistake.
 *
 * A subject is everything one thread needs for a pass on one backend: rows, weights, workspace and gradients.
 */
#include <ebb/model.h>

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/rng.h"

enum { SAMPLES = 12, PAD_ROWS = 3 };
static const double GRADIENT_LIMIT = 0.02, PIECES_LIMIT = 1e-4, BACKEND_LIMIT = 1e-3;

typedef struct checker {
    const ebb_dataset_info_t *info;
    ebb_model_t *model;
    const ebb_layout_t *layout;
    uint64_t seed;
    int64_t outputs;
    int64_t grad_floats; /* dense vector, then each table in full */
    void (*report)(void *user, const ebb_check_t *check);
    void *user;
    int checks, failures;
} checker_t;

typedef struct subject {
    checker_t *c;
    ebb_backend_t *backend;
    const ebb_backend_ops_t *ops;
    ebb_exec_t *x;
    int64_t rows;
    int64_t *rowptr; /* device */
    int32_t *col, *label;
    float *val, *in, *y, *weight;
    const int64_t *rowptr_host;
    ebb_weights_t weights;
    ebb_grads_t grads;
    size_t touched_bytes[EBB_MAX_TABLES];
    size_t workspace_bytes;
    void *workspace;
    float *out, *dout;
    /* results, host */
    float *out_host, *grad;
    double *row_loss, *row_weight;
    /* what to run */
    bool training, table_rows;
    int pieces;
    ebb_status_t status;
    ebb_error_t error;
} subject_t;

/* ---- a subject ---- */

static ebb_status_t put(subject_t *s, const char *what, const void *host, size_t bytes, void *dev_pp)
{
    void **dev_p = dev_pp;
    EBB_TRY(s->ops->alloc(s->backend->dev, bytes, what, dev_p));
    return host ? s->ops->upload(s->x, *dev_p, host, bytes) : EBB_OK;
}

static size_t table_floats(const checker_t *c, int t)
{
    const ebb_param_t *p = &c->layout->params[c->layout->table_param[t]];
    return (size_t)p->rows * (size_t)p->cols;
}

static ebb_status_t put_rows(subject_t *s, const ebb_host_rows_t *rows, const float *weight)
{
    const ebb_dataset_info_t *info = s->c->info;
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
        EBB_TRY(put(s, "targets", rows->y, n * (size_t)s->c->outputs * sizeof *rows->y, &s->y));
    return put(s, "row weights", weight, n * sizeof *weight, &s->weight);
}

static ebb_status_t put_grads(subject_t *s)
{
    const ebb_layout_t *layout = s->c->layout;
    EBB_TRY(put(s, "gradient", NULL, (size_t)layout->dense_floats * sizeof(float), &s->grads.dense));
    for (int t = 0; t < layout->n_tables; t++) {
        int64_t rows = layout->params[layout->table_param[t]].rows;
        s->touched_bytes[t] = (size_t)((rows + 63) / 64) * sizeof(uint64_t);
        EBB_TRY(put(s, "table gradient", NULL, table_floats(s->c, t) * sizeof(float), &s->grads.table_dense[t]));
        EBB_TRY(put(s, "touched rows", NULL, s->touched_bytes[t], &s->grads.touched[t]));
    }
    return EBB_OK;
}

static ebb_status_t add_noise(subject_t *s)
{
    for (int i = 0; i < s->c->layout->n_params; i++) {
        int64_t n;
        float *w = ebb_weights_param(s->c->layout, &s->weights, i, &n), *host;
        EBB_TRY(EBB_NEW_ARRAY("noisy weights", n, &host));
        ebb_status_t status = s->ops->download(s->x, host, w, (size_t)n * sizeof *w);
        if (status == EBB_OK)
            status = s->ops->exec_sync(s->x);
        for (int64_t e = 0; e < n; e++)
            host[e] += 0.1f * ebb_rng_normal(s->c->seed, EBB_RNG_TEST, (uint64_t)i, (uint64_t)e);
        if (status == EBB_OK)
            status = s->ops->upload(s->x, w, host, (size_t)n * sizeof *w);
        if (status == EBB_OK)
            status = s->ops->exec_sync(s->x);
        ebb_free(host);
        EBB_TRY(status);
    }
    return EBB_OK;
}

static ebb_status_t subject_create(checker_t *c, ebb_backend_t *backend, const ebb_host_rows_t *rows,
                                   const float *weight, subject_t *s)
{
    *s = (subject_t){.c = c, .backend = backend, .ops = backend->ops, .training = true, .pieces = 1};
    EBB_TRY(s->ops->exec_create(backend->dev, &s->x));
    EBB_TRY(put_rows(s, rows, weight));
    EBB_TRY(ebb_weights_create(backend, c->layout, &s->weights));
    EBB_TRY(ebb_weights_init(backend, c->layout, c->seed, &s->weights));
    EBB_TRY(add_noise(s));
    EBB_TRY(put_grads(s));
    size_t out_bytes = (size_t)(s->rows * c->outputs) * sizeof(float);
    s->workspace_bytes = (size_t)ebb_model_workspace_bytes(c->model, s->rows);
    EBB_TRY(put(s, "workspace", NULL, s->workspace_bytes, &s->workspace));
    EBB_TRY(put(s, "outputs", NULL, out_bytes, &s->out));
    EBB_TRY(put(s, "output gradients", NULL, out_bytes, &s->dout));
    EBB_TRY(EBB_NEW_ARRAY("outputs", s->rows * c->outputs, &s->out_host));
    EBB_TRY(EBB_NEW_ARRAY("row losses", s->rows, &s->row_loss));
    EBB_TRY(EBB_NEW_ARRAY("row weights", s->rows, &s->row_weight));
    return EBB_NEW_ARRAY("gradient", c->grad_floats, &s->grad);
}

static void subject_destroy(subject_t *s)
{
    if (!s->c)
        return;
    void *device[] = {s->rowptr, s->col,         s->label,     s->val, s->in,  s->y,
                      s->weight, s->grads.dense, s->workspace, s->out, s->dout};
    for (size_t i = 0; i < sizeof device / sizeof device[0]; i++)
        if (device[i])
            s->ops->free(s->backend->dev, device[i]);
    for (int t = 0; t < s->c->layout->n_tables; t++) {
        if (s->grads.table_dense[t])
            s->ops->free(s->backend->dev, s->grads.table_dense[t]);
        if (s->grads.touched[t])
            s->ops->free(s->backend->dev, s->grads.touched[t]);
    }
    ebb_weights_destroy(s->backend, s->c->layout, &s->weights);
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
static ebb_status_t poison(subject_t *s, void *dev, size_t bytes)
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

static ebb_pass_t make_pass(const subject_t *s, int64_t row0)
{
    return (ebb_pass_t){.ops = s->ops,
                        .exec = s->x,
                        .weights = &s->weights,
                        .workspace = s->workspace,
                        .training = s->training,
                        .seed = s->c->seed,
                        .step = 3,
                        .lane = 1,
                        .row0 = row0};
}

static ebb_input_t make_input(const subject_t *s, int64_t row0, int64_t rows)
{
    ebb_input_t in = {.rows = rows, .sparse = s->c->info->sparse};
    if (in.sparse)
        in.csr = (ebb_csr_t){
            .rows = rows, .cols = s->c->info->cols, .rowptr = s->rowptr + row0, .col = s->col, .val = s->val};
    else
        in.x = s->in + row0 * s->c->info->cols;
    return in;
}

static ebb_status_t forward(subject_t *s, int64_t row0, int64_t rows, bool with_dout)
{
    const ebb_loss_t *loss = ebb_model_loss(s->c->model);
    int64_t width = s->c->outputs;
    ebb_pass_t pass = make_pass(s, row0);
    ebb_input_t in = make_input(s, row0, rows);
    EBB_TRY(ebb_model_forward(s->c->model, &pass, &in, s->out + row0 * width));
    EBB_TRY(s->ops->loss(s->x, loss->kind, loss->huber_delta, rows, width, s->out + row0 * width,
                         s->label ? s->label + row0 : NULL, s->y ? s->y + row0 * width : NULL, s->weight + row0, NULL,
                         s->row_loss + row0, s->row_weight + row0, with_dout ? s->dout + row0 * width : NULL));
    return s->ops->exec_sync(s->x);
}

static ebb_status_t clear_tables(subject_t *s)
{
    for (int t = 0; t < s->c->layout->n_tables; t++) {
        EBB_TRY(s->ops->zero(s->x, s->grads.table_dense[t], table_floats(s->c, t) * sizeof(float)));
        EBB_TRY(s->ops->zero(s->x, s->grads.touched[t], s->touched_bytes[t]));
    }
    return EBB_OK;
}

/* Copy a table's row-sparse gradient to its place in s->grad. */
static ebb_status_t scatter_rows(subject_t *s, const ebb_rows_t *rows, float *dst)
{
    int32_t *idx = NULL;
    float *val = NULL;
    ebb_status_t status;
    EBB_TRY_GOTO(status, EBB_NEW_ARRAY("row numbers", rows->n, &idx), done);
    EBB_TRY_GOTO(status, EBB_NEW_ARRAY("row gradients", rows->n * rows->width, &val), done);
    EBB_TRY_GOTO(status, s->ops->download(s->x, idx, rows->idx, (size_t)rows->n * sizeof *idx), done);
    EBB_TRY_GOTO(status, s->ops->download(s->x, val, rows->val, (size_t)(rows->n * rows->width) * sizeof *val), done);
    EBB_TRY_GOTO(status, s->ops->exec_sync(s->x), done);
    for (int64_t k = 0; k < rows->n; k++)
        memcpy(dst + idx[k] * rows->width, val + k * rows->width, (size_t)rows->width * sizeof *val);
done:
    ebb_free(idx);
    ebb_free(val);
    return status;
}

static ebb_status_t fetch(subject_t *s)
{
    const ebb_layout_t *layout = s->c->layout;
    memset(s->grad, 0, (size_t)s->c->grad_floats * sizeof *s->grad);
    EBB_TRY(s->ops->download(s->x, s->out_host, s->out, (size_t)(s->rows * s->c->outputs) * sizeof(float)));
    EBB_TRY(s->ops->download(s->x, s->grad, s->grads.dense, (size_t)layout->dense_floats * sizeof(float)));
    float *at = s->grad + layout->dense_floats;
    for (int t = 0; t < layout->n_tables; t++) {
        if (s->table_rows)
            EBB_TRY(scatter_rows(s, &s->grads.rows[t], at));
        else
            EBB_TRY(s->ops->download(s->x, at, s->grads.table_dense[t], table_floats(s->c, t) * sizeof(float)));
        at += table_floats(s->c, t);
    }
    return s->ops->exec_sync(s->x);
}

/* Forward and backward in s->pieces pieces; outputs and gradients come to the host. Everything a pass must overwrite
 * is NaN before. */
static ebb_status_t run(subject_t *s)
{
    EBB_TRY(poison(s, s->workspace, s->workspace_bytes));
    EBB_TRY(poison(s, s->out, (size_t)(s->rows * s->c->outputs) * sizeof(float)));
    EBB_TRY(clear_tables(s));
    for (int i = 0; i < s->c->layout->n_params; i++) {
        const ebb_param_t *p = &s->c->layout->params[i];
        if (p->kind == EBB_PARAM_DENSE)
            EBB_TRY(poison(s, s->grads.dense + p->offset, (size_t)(p->rows * p->cols) * sizeof(float)));
    }
    ebb_grads_t grads = s->grads;
    for (int t = 0; s->table_rows && t < EBB_MAX_TABLES; t++)
        grads.table_dense[t] = NULL;
    for (int k = 0; k < s->pieces; k++) {
        int64_t first = s->rows * k / s->pieces, n = s->rows * (k + 1) / s->pieces - first;
        grads.accumulate = k > 0;
        EBB_TRY(forward(s, first, n, true));
        ebb_pass_t pass = make_pass(s, first);
        ebb_input_t in = make_input(s, first, n);
        EBB_TRY(ebb_model_backward(s->c->model, &pass, &in, s->dout + first * s->c->outputs, &grads));
        EBB_TRY(s->ops->exec_sync(s->x));
    }
    memcpy(s->grads.rows, grads.rows, sizeof grads.rows);
    return fetch(s);
}

static double total_loss(const subject_t *s)
{
    double sum = 0.0;
    for (int64_t r = 0; r < s->rows; r++)
        sum += s->row_loss[r];
    return sum;
}

/* ---- results ---- */

static void report(checker_t *c, const char *name, bool skipped, double worst, double limit, const char *note)
{
    ebb_check_t check = {.name = name, .skipped = skipped, .worst = worst, .limit = limit, .note = note};
    check.passed = skipped || worst <= limit; /* NaN fails */
    c->checks += !skipped;
    c->failures += !check.passed;
    if (c->report)
        c->report(c->user, &check);
}

/* Name of the parameter that an element of the gradient vector belongs to, for notes. */
static void name_element(const checker_t *c, int64_t at, char *text, size_t size)
{
    const ebb_layout_t *layout = c->layout;
    int64_t table_at = layout->dense_floats;
    for (int i = 0; i < layout->n_params; i++) {
        const ebb_param_t *p = &layout->params[i];
        int64_t n = p->rows * p->cols, begin = p->kind == EBB_PARAM_DENSE ? p->offset : table_at;
        if (p->kind == EBB_PARAM_ROWS)
            table_at += n;
        if (at >= begin && at < begin + n) {
            snprintf(text, size, "%s[%lld, %lld]", p->name, (long long)((at - begin) / p->cols),
                     (long long)((at - begin) % p->cols));
            return;
        }
    }
    snprintf(text, size, "padding at %lld", (long long)at);
}

/* Largest difference of two vectors, relative to the largest element of a; exact: 1 for any unequal bits. NaN counts as
 * infinite. */
static double difference(const float *a, const float *b, int64_t n, bool exact, int64_t *where_p)
{
    double worst = 0.0, scale = 1e-30;
    *where_p = 0;
    for (int64_t i = 0; i < n; i++)
        if (fabs((double)a[i]) > scale)
            scale = fabs((double)a[i]);
    for (int64_t i = 0; i < n; i++) {
        double error =
            exact ? (double)(memcmp(&a[i], &b[i], sizeof a[i]) != 0) : fabs((double)a[i] - (double)b[i]) / scale;
        if (isnan(error))
            error = INFINITY;
        if (error > worst) {
            worst = error;
            *where_p = i;
        }
    }
    return worst;
}

/* Compare outputs (of the first `rows` rows) and gradients of two runs. */
static void compare(const char *name, const subject_t *a, const subject_t *b, int64_t rows, bool exact, double limit)
{
    checker_t *c = a->c;
    int64_t where;
    char note[128] = "";
    double worst = difference(a->out_host, b->out_host, rows * c->outputs, exact, &where);
    if (worst > 0.0)
        snprintf(note, sizeof note, "output of row %lld", (long long)(where / c->outputs));
    double gradient = difference(a->grad, b->grad, c->grad_floats, exact, &where);
    if (gradient > worst) {
        worst = gradient;
        name_element(c, where, note, sizeof note);
    }
    report(c, name, false, worst, limit, note);
}

/* ---- the checks ---- */

/* Loss with one weight set to `value`. */
static ebb_status_t loss_at(subject_t *s, float *w, float value, double *loss_p)
{
    EBB_TRY(s->ops->upload(s->x, w, &value, sizeof value));
    EBB_TRY(forward(s, 0, s->rows, false));
    *loss_p = total_loss(s);
    return EBB_OK;
}

/* Best agreement of difference quotients with the gradient g: central, left and right (a kink spoils one side) over
 * several steps. */
static ebb_status_t difference_quotient(subject_t *s, float *w, double g, double floor, double *error_p)
{
    static const float steps[] = {3e-2f, 1e-2f, 3e-3f, 1e-3f};
    float value;
    double here, above, below;
    EBB_TRY(s->ops->download(s->x, &value, w, sizeof value));
    EBB_TRY(s->ops->exec_sync(s->x));
    EBB_TRY(loss_at(s, w, value, &here));
    *error_p = INFINITY;
    for (size_t k = 0; k < sizeof steps / sizeof steps[0] && *error_p > GRADIENT_LIMIT / 4; k++) {
        float up = value + steps[k], down = value - steps[k];
        EBB_TRY(loss_at(s, w, up, &above));
        EBB_TRY(loss_at(s, w, down, &below));
        double quotient[] = {(above - below) / ((double)up - (double)down),
                             (above - here) / ((double)up - (double)value),
                             (here - below) / ((double)value - (double)down)};
        for (int q = 0; q < 3; q++)
            *error_p = fmin(*error_p, fabs(quotient[q] - g) / (fabs(g) + floor));
    }
    EBB_TRY(s->ops->upload(s->x, w, &value, sizeof value));
    return s->ops->exec_sync(s->x);
}

/* Element to sample: of a table, one whose gradient is not 0 where there is one. */
static int64_t pick(const checker_t *c, const float *g, int64_t n, int param, int sample)
{
    int64_t e = (int64_t)(ebb_rng_u64(c->seed, EBB_RNG_TEST, (uint64_t)param + 1000, (uint64_t)sample) % (uint64_t)n);
    for (int64_t k = 0; k < n; k++)
        if (g[(e + k) % n] != 0.0f)
            return (e + k) % n;
    return e;
}

static ebb_status_t check_gradient(subject_t *s, int param, const float *g)
{
    checker_t *c = s->c;
    const ebb_param_t *p = &c->layout->params[param];
    int64_t n;
    float *w = ebb_weights_param(c->layout, &s->weights, param, &n);
    double largest = 1e-6, worst = 0.0;
    for (int64_t e = 0; e < n; e++)
        if (fabs((double)g[e]) > largest)
            largest = fabs((double)g[e]);
    char name[96], note[96] = "";
    for (int k = 0; k < SAMPLES && k < n; k++) {
        int64_t e = n <= SAMPLES ? k : pick(c, g, n, param, k);
        double error;
        EBB_TRY(difference_quotient(s, w + e, (double)g[e], 0.05 * largest, &error));
        if (!(error <= worst)) {
            worst = error;
            snprintf(note, sizeof note, "[%lld, %lld]", (long long)(e / p->cols), (long long)(e % p->cols));
        }
    }
    snprintf(name, sizeof name, "gradient of %s", p->name);
    report(c, name, false, worst, GRADIENT_LIMIT, note);
    return EBB_OK;
}

static ebb_status_t check_gradients(subject_t *s)
{
    const ebb_layout_t *layout = s->c->layout;
    EBB_TRY(run(s));
    const float *table = s->grad + layout->dense_floats;
    for (int i = 0; i < layout->n_params; i++) {
        const ebb_param_t *p = &layout->params[i];
        const float *g = p->kind == EBB_PARAM_DENSE ? s->grad + p->offset : table;
        if (p->kind == EBB_PARAM_ROWS)
            table += p->rows * p->cols;
        EBB_TRY(check_gradient(s, i, g));
    }
    return EBB_OK;
}

static void *run_thread(void *user)
{
    subject_t *s = user;
    s->status = run(s);
    s->error = *ebb_error();
    ebb_error_clear();
    return NULL;
}

/* Two contexts at once, on two threads, give the bits of one alone. */
static ebb_status_t check_threads(subject_t *alone, const ebb_host_rows_t *rows, const float *weight)
{
    subject_t s[2] = {{0}, {0}};
    ebb_status_t status = EBB_OK;
    for (int i = 0; i < 2 && status == EBB_OK; i++)
        status = subject_create(alone->c, alone->backend, rows, weight, &s[i]);
    pthread_t thread;
    if (status == EBB_OK && pthread_create(&thread, NULL, run_thread, &s[0]) != 0)
        status = EBB_FAIL(EBB_EUNAVAILABLE, "cannot start a thread");
    if (status == EBB_OK) {
        run_thread(&s[1]);
        pthread_join(thread, NULL);
    }
    for (int i = 0; i < 2 && status == EBB_OK; i++)
        if (s[i].status != EBB_OK)
            status = ebb_error_set(&s[i].error);
    if (status == EBB_OK)
        status = run(alone);
    for (int i = 0; i < 2 && status == EBB_OK; i++)
        compare(i ? "same bits on this thread, beside another" : "same bits on another thread", alone, &s[i],
                alone->rows, true, 0.0);
    subject_destroy(&s[0]);
    subject_destroy(&s[1]);
    return status;
}

/* The same rows run a second time, as row-sparse gradients, in pieces: all against the run in `s`. */
static ebb_status_t check_modes(subject_t *s, subject_t *twin)
{
    EBB_TRY(run(s));
    EBB_TRY(run(twin));
    compare("same bits from a poisoned workspace", s, twin, s->rows, true, 0.0);
    if (s->c->layout->n_tables > 0) {
        twin->table_rows = true;
        EBB_TRY(run(twin));
        compare("same bits as row-sparse gradient", s, twin, s->rows, true, 0.0);
        twin->table_rows = false;
    } else {
        report(s->c, "same bits as row-sparse gradient", true, 0.0, 0.0, "the model has no row-sparse table");
    }
    twin->pieces = 3;
    EBB_TRY(run(twin));
    compare("three pieces give the sum", s, twin, s->rows, false, PIECES_LIMIT);
    twin->pieces = (int)twin->rows;
    EBB_TRY(run(twin));
    compare("rows one by one give the sum", s, twin, s->rows, false, PIECES_LIMIT);
    twin->pieces = 1;
    return EBB_OK;
}

/* Rows without weight at the end change nothing: here empty ones. */
static ebb_status_t check_padding(subject_t *s, const ebb_host_rows_t *rows, const float *weight)
{
    const ebb_dataset_info_t *info = s->c->info;
    ebb_host_rows_t padded = *rows;
    padded.rows += PAD_ROWS;
    size_t n = (size_t)rows->rows, m = (size_t)padded.rows, wide = (size_t)(rows->y ? s->c->outputs : 0);
    int64_t *rowptr = NULL;
    float *x = NULL, *y = NULL, *w = NULL;
    int32_t *label = NULL;
    subject_t more = {0};
    ebb_status_t status;
    EBB_TRY_GOTO(status, EBB_NEW_ARRAY("padded rows", m + 1, &rowptr), done);
    EBB_TRY_GOTO(status, EBB_NEW_ARRAY("padded rows", info->sparse ? 0 : m * (size_t)info->cols, &x), done);
    EBB_TRY_GOTO(status, EBB_NEW_ARRAY("padded targets", m * wide, &y), done);
    EBB_TRY_GOTO(status, EBB_NEW_ARRAY("padded weights", m, &w), done);
    EBB_TRY_GOTO(status, EBB_NEW_ARRAY("padded labels", m, &label), done);
    if (info->sparse) {
        for (size_t r = 0; r <= m; r++)
            rowptr[r] = rows->rowptr[r < n ? r : n];
        padded.rowptr = rowptr;
    } else {
        memcpy(x, rows->x, n * (size_t)info->cols * sizeof *x);
        padded.x = x;
    }
    memcpy(w, weight, n * sizeof *w);
    if (rows->y)
        padded.y = memcpy(y, rows->y, n * wide * sizeof *y) ? y : NULL;
    if (rows->label)
        padded.label = memcpy(label, rows->label, n * sizeof *label) ? label : NULL;
    EBB_TRY_GOTO(status, subject_create(s->c, s->backend, &padded, w, &more), done);
    EBB_TRY_GOTO(status, run(&more), done);
    EBB_TRY_GOTO(status, run(s), done);
    compare("empty rows without weight add nothing", s, &more, s->rows, false, PIECES_LIMIT);
done:
    subject_destroy(&more);
    ebb_free(rowptr);
    ebb_free(x);
    ebb_free(y);
    ebb_free(w);
    ebb_free(label);
    return status;
}

/* No rows: gradients are overwritten with zeros. */
static ebb_status_t check_no_rows(subject_t *s)
{
    int64_t rows = s->rows, where;
    s->rows = 0;
    ebb_status_t status = run(s);
    s->rows = rows;
    EBB_TRY(status);
    double worst = 0.0;
    for (where = 0; where < s->c->grad_floats; where++)
        if (s->grad[where] != 0.0f)
            worst = INFINITY;
    report(s->c, "no rows give a zero gradient", false, worst, 0.0, "");
    return EBB_OK;
}

/* Passes leave the weights as they are. */
static ebb_status_t check_weights_untouched(subject_t *s, const subject_t *fresh)
{
    const ebb_layout_t *layout = s->c->layout;
    double worst = 0.0;
    const char *note = "";
    for (int i = 0; i < layout->n_params; i++) {
        int64_t n;
        const float *w[2] = {ebb_weights_param(layout, &s->weights, i, &n),
                             ebb_weights_param(layout, &fresh->weights, i, NULL)};
        float *host[2] = {NULL, NULL};
        ebb_status_t status = EBB_OK;
        for (int k = 0; k < 2 && status == EBB_OK; k++) {
            status = EBB_NEW_ARRAY("weights", n, &host[k]);
            if (status == EBB_OK)
                status = s->ops->download(s->x, host[k], w[k], (size_t)n * sizeof *host[k]);
        }
        if (status == EBB_OK)
            status = s->ops->exec_sync(s->x);
        if (status == EBB_OK && memcmp(host[0], host[1], (size_t)n * sizeof *host[0]) != 0) {
            worst = 1.0;
            note = layout->params[i].name;
        }
        ebb_free(host[0]);
        ebb_free(host[1]);
        EBB_TRY(status);
    }
    report(s->c, "weights are left alone", false, worst, 0.0, note);
    return EBB_OK;
}

static ebb_status_t check_backends(subject_t *s, ebb_backend_t *other, const ebb_host_rows_t *rows, const float *weight)
{
    static const char name[] = "another backend agrees";
    if (!other) {
        report(s->c, name, true, 0.0, 0.0, "there is no other backend");
        return EBB_OK;
    }
    subject_t o = {0};
    ebb_status_t status = subject_create(s->c, other, rows, weight, &o);
    s->training = o.training = false; /* backends may draw other dropout masks */
    if (status == EBB_OK)
        status = run(s);
    if (status == EBB_OK)
        status = run(&o);
    if (status == EBB_OK)
        compare(name, s, &o, s->rows, false, BACKEND_LIMIT);
    s->training = true;
    subject_destroy(&o);
    return status;
}

static ebb_status_t run_checks(checker_t *c, const ebb_host_rows_t *rows, ebb_backend_t *backend, ebb_backend_t *other,
                               float *weight)
{
    for (int64_t r = 0; r < rows->rows; r++)
        weight[r] = 0.5f + ebb_rng_uniform(c->seed, EBB_RNG_TEST, 77, (uint64_t)r);
    subject_t s = {0}, twin = {0};
    ebb_status_t status;
    EBB_TRY_GOTO(status, subject_create(c, backend, rows, weight, &s), done);
    EBB_TRY_GOTO(status, subject_create(c, backend, rows, weight, &twin), done);
    EBB_TRY_GOTO(status, check_modes(&s, &twin), done);
    EBB_TRY_GOTO(status, check_padding(&s, rows, weight), done);
    EBB_TRY_GOTO(status, check_no_rows(&s), done);
    EBB_TRY_GOTO(status, check_threads(&s, rows, weight), done);
    subject_destroy(&twin);
    EBB_TRY_GOTO(status, subject_create(c, backend, rows, weight, &twin), done);
    EBB_TRY_GOTO(status, check_weights_untouched(&s, &twin), done);
    EBB_TRY_GOTO(status, check_backends(&s, other, rows, weight), done);
    EBB_TRY_GOTO(status, check_gradients(&s), done);
done:
    subject_destroy(&s);
    subject_destroy(&twin);
    return status;
}

ebb_status_t ebb_model_check(const char *config, const ebb_dataset_info_t *info, const ebb_host_rows_t *rows,
                             ebb_backend_t *backend, ebb_backend_t *other, uint64_t seed,
                             void (*report_check)(void *user, const ebb_check_t *check), void *user)
{
    if (rows->rows < 1)
        return EBB_FAIL(EBB_EINVAL, "a model is checked on some rows; there are none");
    checker_t c = {.info = info, .seed = seed, .report = report_check, .user = user};
    EBB_TRY(ebb_model_create(config, info, &c.model));
    c.layout = ebb_model_layout(c.model);
    c.outputs = ebb_model_outputs(c.model);
    c.grad_floats = c.layout->dense_floats;
    for (int t = 0; t < c.layout->n_tables; t++)
        c.grad_floats += (int64_t)table_floats(&c, t);
    float *weight = NULL;
    ebb_status_t status = EBB_NEW_ARRAY("row weights", rows->rows, &weight);
    if (status == EBB_OK)
        status = run_checks(&c, rows, backend, other, weight);
    ebb_free(weight);
    ebb_model_destroy(c.model);
    if (status == EBB_OK && c.failures > 0)
        return EBB_FAIL(EBB_EDATA, "%d of %d checks of the model failed", c.failures, c.checks);
    return status;
}
