/* Checks of any model, built-in or plug-in, through the interface the engine uses.
 *
 * Gradients are compared with difference quotients of the loss, computed in float32 with a double sum over rows, for
 * several step widths and both sides: the best agreement counts, since wide steps cross relu's kinks and narrow ones
 * drown in rounding. Errors are relative to the element plus 5 % of the parameter's largest gradient.
 *
 * Rows are passed through the model by subjects (check_subject.h).
 */
#include <ebb/model.h>

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "model/check_subject.h"

enum { SAMPLES = 12, PAD_ROWS = 3 };
static const double GRADIENT_LIMIT = 0.02, PIECES_LIMIT = 1e-4, BACKEND_LIMIT = 1e-3;

typedef struct checker {
    ebb_specimen_t m;
    void (*report)(void *user, const ebb_check_t *check);
    void *user;
    int checks, failures;
} checker_t;

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
static void name_element(const ebb_specimen_t *m, int64_t at, char *text, size_t size)
{
    const ebb_layout_t *layout = m->layout;
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
static void compare(checker_t *c, const char *name, const ebb_subject_t *a, const ebb_subject_t *b, int64_t rows,
                    bool exact, double limit)
{
    int64_t where;
    char note[128] = "";
    double worst = difference(a->out_host, b->out_host, rows * c->m.outputs, exact, &where);
    if (worst > 0.0)
        snprintf(note, sizeof note, "output of row %lld", (long long)(where / c->m.outputs));
    double gradient = difference(a->grad, b->grad, c->m.grad_floats, exact, &where);
    if (gradient > worst) {
        worst = gradient;
        name_element(&c->m, where, note, sizeof note);
    }
    report(c, name, false, worst, limit, note);
}

/* ---- the checks ---- */

/* Loss with one weight set to `value`. */
static ebb_status_t loss_at(ebb_subject_t *s, float *w, float value, double *loss_p)
{
    EBB_TRY(s->ops->upload(s->x, w, &value, sizeof value));
    EBB_TRY(ebb_subject_forward(s, 0, s->rows, false));
    *loss_p = ebb_subject_loss(s);
    return EBB_OK;
}

/* Best agreement of difference quotients with the gradient g: central, left and right (a kink spoils one side) over
 * several steps. */
static ebb_status_t difference_quotient(ebb_subject_t *s, float *w, double g, double floor, double *error_p)
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
static int64_t pick(const ebb_specimen_t *m, const float *g, int64_t n, int param, int sample)
{
    int64_t e = (int64_t)(ebb_rng_u64(m->seed, EBB_RNG_TEST, (uint64_t)param + 1000, (uint64_t)sample) % (uint64_t)n);
    for (int64_t k = 0; k < n; k++)
        if (g[(e + k) % n] != 0.0f)
            return (e + k) % n;
    return e;
}

static ebb_status_t check_gradient(checker_t *c, ebb_subject_t *s, int param, const float *g)
{
    const ebb_param_t *p = &c->m.layout->params[param];
    int64_t n;
    float *w = ebb_weights_param(c->m.layout, &s->weights, param, &n);
    double largest = 1e-6, worst = 0.0;
    for (int64_t e = 0; e < n; e++)
        if (fabs((double)g[e]) > largest)
            largest = fabs((double)g[e]);
    char name[96], note[96] = "";
    for (int k = 0; k < SAMPLES && k < n; k++) {
        int64_t e = n <= SAMPLES ? k : pick(&c->m, g, n, param, k);
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

static ebb_status_t check_gradients(checker_t *c, ebb_subject_t *s)
{
    const ebb_layout_t *layout = s->m->layout;
    EBB_TRY(ebb_subject_run(s));
    const float *table = s->grad + layout->dense_floats;
    for (int i = 0; i < layout->n_params; i++) {
        const ebb_param_t *p = &layout->params[i];
        const float *g = p->kind == EBB_PARAM_DENSE ? s->grad + p->offset : table;
        if (p->kind == EBB_PARAM_ROWS)
            table += p->rows * p->cols;
        EBB_TRY(check_gradient(c, s, i, g));
    }
    return EBB_OK;
}

typedef struct threaded {
    ebb_subject_t s;
    ebb_status_t status;
    ebb_error_t error;
} threaded_t;

static void *run_thread(void *user)
{
    threaded_t *t = user;
    t->status = ebb_subject_run(&t->s);
    t->error = *ebb_error();
    return NULL;
}

static ebb_status_t check_threads(checker_t *c, ebb_subject_t *alone, const ebb_host_rows_t *rows, const float *weight)
{
    threaded_t t[2] = {0};
    ebb_status_t status = EBB_OK;
    for (int i = 0; i < 2 && status == EBB_OK; i++)
        status = ebb_subject_create(alone->m, alone->backend, rows, weight, &t[i].s);
    pthread_t thread;
    if (status == EBB_OK && pthread_create(&thread, NULL, run_thread, &t[0]) != 0)
        status = EBB_FAIL(EBB_EUNAVAILABLE, "cannot start a thread");
    if (status == EBB_OK) {
        run_thread(&t[1]);
        pthread_join(thread, NULL);
    }
    for (int i = 0; i < 2 && status == EBB_OK; i++)
        if (t[i].status != EBB_OK)
            status = ebb_error_set(&t[i].error);
    if (status == EBB_OK)
        status = ebb_subject_run(alone);
    for (int i = 0; i < 2 && status == EBB_OK; i++)
        compare(c, i ? "same bits on this thread, beside another" : "same bits on another thread", alone, &t[i].s,
                alone->rows, true, 0.0);
    ebb_subject_destroy(&t[0].s);
    ebb_subject_destroy(&t[1].s);
    return status;
}

/* The same rows run a second time, as row-sparse gradients, in pieces: all against the run in `s`. */
static ebb_status_t check_modes(checker_t *c, ebb_subject_t *s, ebb_subject_t *twin)
{
    EBB_TRY(ebb_subject_run(s));
    EBB_TRY(ebb_subject_run(twin));
    compare(c, "same bits from a poisoned workspace", s, twin, s->rows, true, 0.0);
    if (s->m->layout->n_tables > 0) {
        twin->table_rows = true;
        EBB_TRY(ebb_subject_run(twin));
        compare(c, "same bits as row-sparse gradient", s, twin, s->rows, true, 0.0);
        twin->table_rows = false;
    } else {
        report(c, "same bits as row-sparse gradient", true, 0.0, 0.0, "the model has no row-sparse table");
    }
    twin->pieces = 3;
    EBB_TRY(ebb_subject_run(twin));
    compare(c, "three pieces give the sum", s, twin, s->rows, false, PIECES_LIMIT);
    twin->pieces = (int)twin->rows;
    EBB_TRY(ebb_subject_run(twin));
    compare(c, "rows one by one give the sum", s, twin, s->rows, false, PIECES_LIMIT);
    twin->pieces = 1;
    return EBB_OK;
}

/* Rows without weight at the end change nothing: here empty ones. */
static ebb_status_t check_padding(checker_t *c, ebb_subject_t *s, const ebb_host_rows_t *rows, const float *weight)
{
    const ebb_dataset_info_t *info = s->m->info;
    ebb_host_rows_t padded = *rows;
    padded.rows += PAD_ROWS;
    size_t n = (size_t)rows->rows, m = (size_t)padded.rows, wide = (size_t)(rows->y ? s->m->outputs : 0);
    int64_t *rowptr = NULL;
    float *x = NULL, *y = NULL, *w = NULL;
    int32_t *label = NULL;
    ebb_subject_t more = {0};
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
    EBB_TRY_GOTO(status, ebb_subject_create(s->m, s->backend, &padded, w, &more), done);
    EBB_TRY_GOTO(status, ebb_subject_run(&more), done);
    EBB_TRY_GOTO(status, ebb_subject_run(s), done);
    compare(c, "empty rows without weight add nothing", s, &more, s->rows, false, PIECES_LIMIT);
done:
    ebb_subject_destroy(&more);
    ebb_free(rowptr);
    ebb_free(x);
    ebb_free(y);
    ebb_free(w);
    ebb_free(label);
    return status;
}

/* No rows: gradients are overwritten with zeros. */
static ebb_status_t check_no_rows(checker_t *c, ebb_subject_t *s)
{
    int64_t rows = s->rows, where;
    s->rows = 0;
    ebb_status_t status = ebb_subject_run(s);
    s->rows = rows;
    EBB_TRY(status);
    double worst = 0.0;
    for (where = 0; where < s->m->grad_floats; where++)
        if (s->grad[where] != 0.0f)
            worst = INFINITY;
    report(c, "no rows give a zero gradient", false, worst, 0.0, "");
    return EBB_OK;
}

/* Passes leave the weights as they are. */
static ebb_status_t check_weights_untouched(checker_t *c, ebb_subject_t *s, const ebb_subject_t *fresh)
{
    const ebb_layout_t *layout = s->m->layout;
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
    report(c, "weights are left alone", false, worst, 0.0, note);
    return EBB_OK;
}

static ebb_status_t check_backends(checker_t *c, ebb_subject_t *s, ebb_backend_t *other, const ebb_host_rows_t *rows,
                                   const float *weight)
{
    static const char name[] = "another backend agrees";
    if (!other) {
        report(c, name, true, 0.0, 0.0, "there is no other backend");
        return EBB_OK;
    }
    ebb_subject_t o = {0};
    ebb_status_t status = ebb_subject_create(s->m, other, rows, weight, &o);
    s->training = o.training = false; /* backends may draw other dropout masks */
    if (status == EBB_OK)
        status = ebb_subject_run(s);
    if (status == EBB_OK)
        status = ebb_subject_run(&o);
    if (status == EBB_OK)
        compare(c, name, s, &o, s->rows, false, BACKEND_LIMIT);
    s->training = true;
    ebb_subject_destroy(&o);
    return status;
}

static ebb_status_t run_checks(checker_t *c, const ebb_host_rows_t *rows, ebb_backend_t *backend, ebb_backend_t *other,
                               float *weight)
{
    for (int64_t r = 0; r < rows->rows; r++)
        weight[r] = 0.5f + ebb_rng_uniform(c->m.seed, EBB_RNG_TEST, 77, (uint64_t)r);
    ebb_subject_t s = {0}, twin = {0};
    ebb_status_t status;
    EBB_TRY_GOTO(status, ebb_subject_create(&c->m, backend, rows, weight, &s), done);
    EBB_TRY_GOTO(status, ebb_subject_create(&c->m, backend, rows, weight, &twin), done);
    EBB_TRY_GOTO(status, check_modes(c, &s, &twin), done);
    EBB_TRY_GOTO(status, check_padding(c, &s, rows, weight), done);
    EBB_TRY_GOTO(status, check_no_rows(c, &s), done);
    EBB_TRY_GOTO(status, check_threads(c, &s, rows, weight), done);
    ebb_subject_destroy(&twin);
    EBB_TRY_GOTO(status, ebb_subject_create(&c->m, backend, rows, weight, &twin), done);
    EBB_TRY_GOTO(status, check_weights_untouched(c, &s, &twin), done);
    EBB_TRY_GOTO(status, check_backends(c, &s, other, rows, weight), done);
    EBB_TRY_GOTO(status, check_gradients(c, &s), done);
done:
    ebb_subject_destroy(&s);
    ebb_subject_destroy(&twin);
    return status;
}

ebb_status_t ebb_model_check(const char *config, const ebb_dataset_info_t *info, const ebb_host_rows_t *rows,
                             ebb_backend_t *backend, ebb_backend_t *other, uint64_t seed,
                             void (*report_check)(void *user, const ebb_check_t *check), void *user)
{
    if (rows->rows < 1)
        return EBB_FAIL(EBB_EINVAL, "a model is checked on some rows; there are none");
    checker_t c = {.m = {.info = info, .seed = seed}, .report = report_check, .user = user};
    EBB_TRY(ebb_model_create(config, info, &c.m.model));
    c.m.layout = ebb_model_layout(c.m.model);
    c.m.outputs = ebb_model_outputs(c.m.model);
    c.m.grad_floats = c.m.layout->dense_floats;
    for (int t = 0; t < c.m.layout->n_tables; t++)
        c.m.grad_floats += (int64_t)ebb_specimen_table_floats(&c.m, t);
    float *weight = NULL;
    ebb_status_t status = EBB_NEW_ARRAY("row weights", rows->rows, &weight);
    if (status == EBB_OK)
        status = run_checks(&c, rows, backend, other, weight);
    ebb_free(weight);
    ebb_model_destroy(c.m.model);
    if (status == EBB_OK && c.failures > 0)
        return EBB_FAIL(EBB_EDATA, "%d of %d checks of the model failed", c.failures, c.checks);
    return status;
}
