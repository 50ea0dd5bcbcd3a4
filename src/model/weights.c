/* Weights in device memory. Element e of parameter p starts at a value drawn for (seed, p, e) alone, so every rank and
 * backend begins with the same bits whatever it holds or in which order it fills. */
#include <ebb/model.h>

#include <string.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "base/threads.h"

enum { STAGE_FLOATS = 1 << 16 };

ebb_status_t ebb_weights_create(ebb_backend_t *backend, const ebb_layout_t *layout, ebb_weights_t *weights)
{
    memset(weights, 0, sizeof *weights);
    const ebb_backend_ops_t *ops = backend->ops;
    ebb_status_t status = ops->alloc(backend->dev, (size_t)layout->dense_floats * sizeof(float), "dense weights",
                                     (void **)&weights->dense);
    for (int t = 0; t < layout->n_tables && status == EBB_OK; t++) {
        const ebb_param_t *p = &layout->params[layout->table_param[t]];
        status = ops->alloc(backend->dev, (size_t)p->rows * (size_t)p->cols * sizeof(float), p->name,
                            (void **)&weights->table[t]);
    }
    if (status != EBB_OK)
        ebb_weights_destroy(backend, layout, weights);
    return status;
}

void ebb_weights_destroy(ebb_backend_t *backend, const ebb_layout_t *layout, ebb_weights_t *weights)
{
    if (!weights || !backend)
        return;
    if (weights->dense)
        backend->ops->free(backend->dev, weights->dense);
    for (int t = 0; layout && t < layout->n_tables; t++)
        if (weights->table[t])
            backend->ops->free(backend->dev, weights->table[t]);
    memset(weights, 0, sizeof *weights);
}

float *ebb_weights_param(const ebb_layout_t *layout, const ebb_weights_t *weights, int param, int64_t *floats_p)
{
    const ebb_param_t *p = &layout->params[param];
    if (floats_p)
        *floats_p = p->rows * p->cols;
    return p->kind == EBB_PARAM_DENSE ? weights->dense + p->offset : weights->table[p->offset];
}

/* Elements [at, at + n) of a parameter. */
static void initial(const ebb_param_t *p, uint64_t seed, int param, int64_t at, int64_t n, float *out)
{
    switch (p->init) {
    case EBB_INIT_NORMAL:
        for (int64_t i = 0; i < n; i++)
            out[i] = p->scale * ebb_rng_normal(seed, EBB_RNG_INIT, (uint64_t)param, (uint64_t)(at + i));
        break;
    case EBB_INIT_UNIFORM:
        ebb_rng_uniforms(seed, EBB_RNG_INIT, (uint64_t)param, (uint64_t)at, n, out);
        for (int64_t i = 0; i < n; i++)
            out[i] = p->scale * (2.0f * out[i] - 1.0f);
        break;
    default:
        for (int64_t i = 0; i < n; i++)
            out[i] = p->init == EBB_INIT_ONE ? 1.0f : 0.0f;
    }
    for (int64_t i = 0; p->zero_cols > 0 && i < n; i++)
        if ((at + i) % p->cols < p->zero_cols)
            out[i] = 0.0f;
}

/* What the threads that fill share. */
typedef struct fill_job {
    const ebb_backend_ops_t *ops;
    const ebb_param_t *param;
    int number; /* of the parameter */
    uint64_t seed;
    float *dst, *stage; /* stage: (threads, STAGE_FLOATS) */
    ebb_exec_t **exec;  /* (threads) */
} fill_job_t;

static ebb_status_t fill_part(void *user, int thread, int64_t index)
{
    const fill_job_t *job = user;
    int64_t at = index * STAGE_FLOATS, floats = job->param->rows * job->param->cols;
    int64_t n = floats - at < STAGE_FLOATS ? floats - at : STAGE_FLOATS;
    float *stage = job->stage + (int64_t)thread * STAGE_FLOATS;
    initial(job->param, job->seed, job->number, at, n, stage);
    EBB_TRY(job->ops->upload(job->exec[thread], job->dst + at, stage, (size_t)n * sizeof *stage));
    return job->ops->exec_sync(job->exec[thread]); /* before the stage is filled again */
}

static ebb_status_t fill(ebb_pool_t *pool, fill_job_t *job)
{
    int64_t floats = job->param->rows * job->param->cols;
    if (job->param->init == EBB_INIT_ZERO)
        return job->ops->zero(job->exec[0], job->dst, (size_t)floats * sizeof *job->dst);
    return ebb_pool_run(pool, (floats + STAGE_FLOATS - 1) / STAGE_FLOATS, fill_part, job);
}

/* As many threads as there is work for; they live until the weights are there. */
static int fill_threads(const ebb_layout_t *layout)
{
    int64_t most = 1;
    int cores = ebb_cores();
    for (int i = 0; i < layout->n_params; i++) {
        int64_t parts = layout->params[i].rows * layout->params[i].cols / STAGE_FLOATS;
        most = parts > most ? parts : most;
    }
    return most < cores ? (int)most : cores;
}

static ebb_status_t fill_all(ebb_pool_t *pool, fill_job_t *job, const ebb_layout_t *layout, ebb_weights_t *weights)
{
    size_t padded = (size_t)layout->dense_floats * sizeof(float);
    int threads = ebb_pool_threads(pool);
    EBB_TRY(EBB_NEW_ARRAY("initial weights", (int64_t)threads * STAGE_FLOATS, &job->stage));
    EBB_TRY(job->ops->zero(job->exec[0], weights->dense, padded)); /* padding too */
    for (int i = 0; i < layout->n_params; i++) {
        job->param = &layout->params[i];
        job->number = i;
        job->dst = ebb_weights_param(layout, weights, i, NULL);
        EBB_TRY(fill(pool, job));
    }
    return job->ops->exec_sync(job->exec[0]);
}

ebb_status_t ebb_weights_init(ebb_backend_t *backend, const ebb_layout_t *layout, uint64_t seed, ebb_weights_t *weights)
{
    fill_job_t job = {.ops = backend->ops, .seed = seed};
    ebb_pool_t *pool;
    int threads = fill_threads(layout);
    EBB_TRY(ebb_pool_create(threads, &pool));
    ebb_status_t status = EBB_NEW_ARRAY("initial weights", threads, &job.exec);
    for (int i = 0; i < threads && status == EBB_OK; i++)
        status = job.ops->exec_create(backend->dev, &job.exec[i]);
    if (status == EBB_OK)
        status = fill_all(pool, &job, layout, weights);
    for (int i = 0; job.exec && i < threads; i++)
        if (job.exec[i])
            job.ops->exec_destroy(job.exec[i]);
    ebb_free(job.exec);
    ebb_free(job.stage);
    ebb_pool_destroy(pool);
    return status;
}
