/* The optimiser of one owner: state for its part of the dense vector and its rows of the tables, updated by all pool
 * threads.
 *
 * The part is cut at parameter boundaries, because penalties do not apply to every parameter, and into chunks of at
 * most CHUNK floats that threads claim. An update touches each weight on its own, so the bits depend neither on the
 * chunks nor on the ranks.
 */
#include <ebb/optim.h>
#include "base/alloc.h"
#include "base/threads.h"

#include <math.h>

#define CHUNK        ((int64_t)16 << 10) /* floats of one task */
#define DEVICE_CHUNK ((int64_t)64 << 20) /* on a device, which is one worker */
#define START        ((int64_t)1024)     /* floats at a time when states are derived from weights */

typedef struct span {
    int64_t begin, end; /* floats of the dense vector */
    int64_t local;      /* the first one's place among the own floats */
    bool decay;
} span_t;

struct ebb_optim {
    ebb_optim_options_t options;
    double rate; /* multiplies the base rate */
    ebb_backend_t *backend;
    ebb_pool_t *pool;
    ebb_exec_t **exec;
    const ebb_layout_t *layout;
    int rank, ranks;
    int64_t dense_floats; /* own ones */
    int64_t chunk;        /* floats of one task */
    int n_states;
    float *dense_state[2];
    float *table_state[2][EBB_MAX_TABLES];
    span_t *span;
    int64_t n_spans;
};

/* What the tasks of one step share. */
typedef struct update_job {
    ebb_optim_t *optim;
    ebb_optim_hyper_t hyper[2]; /* without penalties, with them */
    const ebb_sums_t *sums;
    ebb_weights_t *weights;
    int64_t span0, spans;                    /* first of these spans */
    bool tables;                             /* and the tables */
    int64_t table_task0[EBB_MAX_TABLES + 1]; /* first task of each table */
    int64_t rows_per_task[EBB_MAX_TABLES];
} update_job_t;

static const ebb_param_t *table_param(const ebb_layout_t *layout, int table)
{
    return &layout->params[layout->table_param[table]];
}

/* Walk the chunks of this rank's floats; with span NULL only count them. */
static int64_t list_spans(const ebb_optim_t *optim, int64_t chunk, span_t *span)
{
    const ebb_layout_t *layout = optim->layout;
    int64_t n = 0;
    for (int i = 0; i < layout->n_params; i++) {
        const ebb_param_t *p = &layout->params[i];
        if (p->kind != EBB_PARAM_DENSE)
            continue;
        ebb_own_t own = ebb_sync_own(layout, ebb_layout_bucket_of(layout, p->offset), optim->rank, optim->ranks);
        int64_t end = p->offset + p->rows * p->cols;
        for (int64_t at = p->offset; at < end; at += chunk) {
            int64_t b = at > own.begin ? at : own.begin;
            int64_t e = at + chunk < end ? at + chunk : end;
            e = e < own.end ? e : own.end;
            if (b >= e)
                continue;
            if (span)
                span[n] = (span_t){b, e, own.local + (b - own.begin), p->decay};
            n++;
        }
    }
    return n;
}

static ebb_status_t make_states(ebb_optim_t *optim)
{
    const ebb_backend_ops_t *ops = optim->backend->ops;
    void *dev = optim->backend->dev;
    for (int s = 0; s < optim->n_states; s++) {
        size_t bytes = (size_t)optim->dense_floats * sizeof(float);
        EBB_TRY(ops->alloc(dev, bytes, "optimiser state", (void **)&optim->dense_state[s]));
        for (int t = 0; t < optim->layout->n_tables; t++) {
            const ebb_param_t *p = table_param(optim->layout, t);
            bytes = (size_t)(ebb_sync_table_rows(p->rows, optim->rank, optim->ranks) * p->cols) * sizeof(float);
            EBB_TRY(ops->alloc(dev, bytes, "optimiser state", (void **)&optim->table_state[s][t]));
        }
    }
    return EBB_OK;
}

ebb_status_t ebb_optim_create(const ebb_optim_options_t *options, ebb_backend_t *backend, struct ebb_pool *pool,
                              ebb_exec_t **exec, const ebb_layout_t *layout, int rank, int ranks, ebb_optim_t **optim_p)
{
    ebb_optim_t *optim;
    ebb_status_t status;
    *optim_p = NULL;
    const ebb_schedule_t *schedule = &options->schedule;
    if (options->hyper.kind == EBB_OPTIM_FTRL &&
        (schedule->kind != EBB_SCHEDULE_CONSTANT || schedule->warmup_steps > 0))
        return EBB_FAIL(EBB_EUSAGE,
                        "ftrl lowers the rate of each weight by itself, and another rate would rescale all weights: "
                        "use schedule constant without warm-up");
    EBB_TRY(EBB_NEW("optimiser", &optim));
    optim->options = *options;
    optim->rate = 1;
    optim->backend = backend;
    optim->pool = pool;
    optim->exec = exec;
    optim->layout = layout;
    optim->rank = rank;
    optim->ranks = ranks;
    optim->chunk = backend->ops->caps & EBB_CAP_HOST_MEMORY ? CHUNK : DEVICE_CHUNK;
    optim->n_states = ebb_optim_states(options->hyper.kind, options->hyper.momentum);
    optim->dense_floats = ebb_sync_own_floats(layout, rank, ranks);
    optim->n_spans = list_spans(optim, optim->chunk, NULL);
    EBB_TRY_GOTO(status, EBB_NEW_ARRAY("optimiser chunks", optim->n_spans, &optim->span), fail);
    list_spans(optim, optim->chunk, optim->span);
    EBB_TRY_GOTO(status, make_states(optim), fail);
    *optim_p = optim;
    return EBB_OK;
fail:
    ebb_optim_destroy(optim);
    return status;
}

void ebb_optim_destroy(ebb_optim_t *optim)
{
    if (!optim)
        return;
    for (int s = 0; s < 2; s++) {
        optim->backend->ops->free(optim->backend->dev, optim->dense_state[s]);
        for (int t = 0; t < EBB_MAX_TABLES; t++)
            optim->backend->ops->free(optim->backend->dev, optim->table_state[s][t]);
    }
    ebb_free(optim->span);
    ebb_free(optim);
}

/* ---- FTRL's start: the z that stands for the weight that is there ---- */

static ebb_status_t start_floats(ebb_optim_t *optim, bool decay, int64_t n, const float *w, float *z)
{
    const ebb_optim_hyper_t *h = &optim->options.hyper;
    float l1 = decay ? h->l1 : 0.0f, l2 = decay ? h->l2 : 0.0f;
    float host[START];
    for (int64_t at = 0; at < n; at += START) {
        int64_t part = n - at < START ? n - at : START;
        size_t bytes = (size_t)part * sizeof(float);
        EBB_TRY(optim->backend->ops->download(optim->exec[0], host, w + at, bytes));
        EBB_TRY(optim->backend->ops->exec_sync(optim->exec[0]));
        for (int64_t i = 0; i < part; i++)
            host[i] = host[i] == 0.0f ? 0.0f : -(host[i] * (h->beta1 / h->lr + l2) + copysignf(l1, host[i]));
        EBB_TRY(optim->backend->ops->upload(optim->exec[0], z + at, host, bytes));
        EBB_TRY(optim->backend->ops->exec_sync(optim->exec[0]));
    }
    return EBB_OK;
}

static ebb_status_t start_table(ebb_optim_t *optim, int table, const float *w)
{
    const ebb_param_t *p = table_param(optim->layout, table);
    int64_t rows = ebb_sync_table_rows(p->rows, optim->rank, optim->ranks);
    for (int64_t local = 0; local < rows; local += 64) {
        int64_t n = rows - local < 64 ? rows - local : 64;
        int64_t row = ebb_sync_global_row(local, optim->rank, optim->ranks);
        EBB_TRY(start_floats(optim, p->decay, n * p->cols, w + row * p->cols,
                             optim->table_state[0][table] + local * p->cols));
    }
    return EBB_OK;
}

ebb_status_t ebb_optim_start(ebb_optim_t *optim, const ebb_weights_t *weights)
{
    if (optim->options.hyper.kind != EBB_OPTIM_FTRL)
        return EBB_OK;
    for (int64_t i = 0; i < optim->n_spans; i++) {
        const span_t *span = &optim->span[i];
        EBB_TRY(start_floats(optim, span->decay, span->end - span->begin, weights->dense + span->begin,
                             optim->dense_state[0] + span->local));
    }
    for (int t = 0; t < optim->layout->n_tables; t++)
        EBB_TRY(start_table(optim, t, weights->table[t]));
    return EBB_OK;
}

/* ---- a step ---- */

static float *state_at(float *state, int64_t offset)
{
    return state ? state + offset : NULL;
}

typedef struct span_job {
    const update_job_t *update;
    const span_t *span;
} span_job_t;

static ebb_status_t update_floats(void *user, int thread, int64_t begin, int64_t n, const float *sum)
{
    const span_job_t *job = user;
    const ebb_optim_t *optim = job->update->optim;
    int64_t at = job->span->local + (begin - job->span->begin);
    return optim->backend->ops->update(optim->exec[thread], &job->update->hyper[job->span->decay], n,
                                       job->update->weights->dense + begin, sum, state_at(optim->dense_state[0], at),
                                       state_at(optim->dense_state[1], at));
}

/* Floats are updated as soon as some are summed: their sums never leave the cache. */
static ebb_status_t update_span(const update_job_t *job, int thread, const span_t *span)
{
    span_job_t user = {job, span};
    const ebb_sums_t *sums = job->sums;
    if (!sums->dense)
        return ebb_sync_form_dense(sums->sync, thread, span->begin, span->end, update_floats, &user);
    return update_floats(&user, thread, span->begin, span->end - span->begin, sums->dense + span->local);
}

typedef struct part_job {
    const update_job_t *update;
    int table;
} part_job_t;

static ebb_status_t update_formed(void *user, int thread, int64_t n, const int32_t *row, const int32_t *local,
                                  const float *val)
{
    const part_job_t *part = user;
    const ebb_optim_t *optim = part->update->optim;
    const ebb_param_t *p = table_param(optim->layout, part->table);
    return optim->backend->ops->update_rows(optim->exec[thread], &part->update->hyper[p->decay], n, p->cols, row, local,
                                            part->update->weights->table[part->table], val,
                                            optim->table_state[0][part->table], optim->table_state[1][part->table]);
}

/* Rows are updated as soon as some are formed: their sums never leave the cache. */
static ebb_status_t form_and_update(const update_job_t *job, int thread, int table, int64_t part)
{
    part_job_t user = {job, table};
    return ebb_sync_form(job->sums->sync, table, thread, part, update_formed, &user);
}

static ebb_status_t update_rows(const update_job_t *job, int thread, int table, int64_t part)
{
    if (job->sums->table[table].parts > 0)
        return form_and_update(job, thread, table, part);

    const ebb_optim_t *optim = job->optim;
    const ebb_param_t *p = table_param(optim->layout, table);
    int64_t begin = part * job->rows_per_task[table];
    int64_t n = job->sums->table[table].n - begin;
    n = n < job->rows_per_task[table] ? n : job->rows_per_task[table];
    return optim->backend->ops->update_rows(optim->exec[thread], &job->hyper[p->decay], n, p->cols,
                                            job->sums->table[table].row + begin, job->sums->table[table].local + begin,
                                            job->weights->table[table], job->sums->table[table].val + begin * p->cols,
                                            optim->table_state[0][table], optim->table_state[1][table]);
}

static ebb_status_t update_task(void *user, int thread, int64_t index)
{
    const update_job_t *job = user;
    if (index < job->spans)
        return update_span(job, thread, &job->optim->span[job->span0 + index]);
    int t = 0;
    while (index >= job->table_task0[t + 1])
        t++;
    return update_rows(job, thread, t, index - job->table_task0[t]);
}

static void plan_tables(update_job_t *job)
{
    const ebb_layout_t *layout = job->optim->layout;
    int64_t next = job->spans;
    for (int t = 0; t < layout->n_tables; t++) {
        int64_t rows = job->optim->chunk / table_param(layout, t)->cols;
        rows = rows > 0 ? rows : 1;
        job->rows_per_task[t] = rows;
        job->table_task0[t] = next;
        if (!job->tables)
            continue;
        next += job->sums->table[t].parts > 0 ? job->sums->table[t].parts : (job->sums->table[t].n + rows - 1) / rows;
    }
    job->table_task0[layout->n_tables] = next;
}

static ebb_status_t carry_out(update_job_t *job, int64_t step, double scale, double *lr_p)
{
    ebb_optim_t *optim = job->optim;
    const ebb_sums_t *sums = job->sums;
    if (sums->dense_floats != optim->dense_floats)
        return EBB_FAIL(EBB_EBUG, "the optimiser owns %lld floats, but the sums are of %lld",
                        (long long)optim->dense_floats, (long long)sums->dense_floats);
    double lr = (double)optim->options.hyper.lr * optim->rate * ebb_schedule_factor(&optim->options.schedule, step);
    ebb_optim_hyper_t *h = job->hyper;
    h[1] = optim->options.hyper;
    h[1].lr = (float)lr;
    h[1].scale = (float)scale;
    h[1].t = step + 1;
    h[0] = h[1];
    h[0].l1 = h[0].l2 = 0.0f;
    plan_tables(job);
    EBB_TRY(ebb_pool_run(optim->pool, job->table_task0[optim->layout->n_tables], update_task, job));
    EBB_TRY(ebb_exec_join(optim->backend->ops, ebb_pool_threads(optim->pool), optim->exec));
    *lr_p = lr;
    return EBB_OK;
}

ebb_status_t ebb_optim_step(ebb_optim_t *optim, int64_t step, double scale, const ebb_sums_t *sums,
                            ebb_weights_t *weights, double *lr_p)
{
    update_job_t job = {.optim = optim, .sums = sums, .weights = weights, .spans = optim->n_spans, .tables = true};
    return carry_out(&job, step, scale, lr_p);
}

ebb_status_t ebb_optim_step_bucket(ebb_optim_t *optim, int bucket, int64_t step, double scale, const ebb_sums_t *sums,
                                   ebb_weights_t *weights, double *lr_p)
{
    const ebb_layout_t *layout = optim->layout;
    update_job_t job = {.optim = optim, .sums = sums, .weights = weights};
    while (job.span0 < optim->n_spans && ebb_layout_bucket_of(layout, optim->span[job.span0].begin) != bucket)
        job.span0++;
    while (job.span0 + job.spans < optim->n_spans &&
           ebb_layout_bucket_of(layout, optim->span[job.span0 + job.spans].begin) == bucket)
        job.spans++;
    job.tables = bucket == ebb_layout_buckets(layout) - 1;
    return carry_out(&job, step, scale, lr_p);
}

void ebb_optim_set_rate(ebb_optim_t *optim, double factor)
{
    optim->rate = factor;
}

/* ---- state, for checkpoints ---- */

int ebb_optim_state_count(const ebb_optim_t *optim)
{
    return optim->n_states;
}

const char *ebb_optim_state_name(const ebb_optim_t *optim, int i)
{
    static const char *const names[][2] = {[EBB_OPTIM_SGD] = {"momentum", ""},
                                           [EBB_OPTIM_ADAGRAD] = {"accum", ""},
                                           [EBB_OPTIM_ADAM] = {"m", "v"},
                                           [EBB_OPTIM_ADAMW] = {"m", "v"},
                                           [EBB_OPTIM_FTRL] = {"z", "n"}};
    return names[optim->options.hyper.kind][i];
}

float *ebb_optim_state_dense(ebb_optim_t *optim, int i)
{
    return optim->dense_state[i];
}

float *ebb_optim_state_table(ebb_optim_t *optim, int i, int table)
{
    return optim->table_state[i][table];
}
