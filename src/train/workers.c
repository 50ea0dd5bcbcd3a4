/* The threads that compute on a rank. */
#include "train/stage.h"
#include "base/alloc.h"

#include <string.h>

static ebb_status_t set_precision(const ebb_backend_t *backend, ebb_precision_t precision)
{
    if (precision == EBB_PRECISION_FP32)
        return EBB_OK;
    if (backend->ops->caps & EBB_CAP_HOST_MEMORY)
        return EBB_FAIL(EBB_EUSAGE,
                        "train.precision: backend %s computes in fp32; tf32 and bf16 are of train.backend cuda",
                        backend->ops->name);
    return backend->ops->set_precision(backend->dev, precision);
}

ebb_status_t ebb_workers_init(ebb_workers_t *w, const ebb_comm_t *comm, const char *backend, ebb_precision_t precision,
                              int threads)
{
    memset(w, 0, sizeof *w);
    w->threads = threads > 0 ? threads : ebb_comm_cores(comm);
    EBB_TRY(ebb_backend_open(backend, ebb_comm_local_rank(comm), &w->backend));
    EBB_TRY(set_precision(w->backend, precision));
    EBB_TRY(ebb_pool_create(w->threads, &w->pool));
    EBB_TRY(EBB_NEW_ARRAY("workers", w->threads, &w->exec));
    EBB_TRY(EBB_NEW_ARRAY("workers", w->threads, &w->worker));
    for (int t = 0; t < w->threads; t++)
        EBB_TRY(w->backend->ops->exec_create(w->backend->dev, &w->exec[t]));
    return EBB_OK;
}

static void free_buffers(ebb_workers_t *w)
{
    for (int t = 0; w->worker && t < w->threads; t++) {
        ebb_worker_t *me = &w->worker[t];
        w->backend->ops->free(w->backend->dev, me->workspace);
        w->backend->ops->free(w->backend->dev, me->out);
        w->backend->ops->free(w->backend->dev, me->dout);
        ebb_pinned_free(w->backend, &me->losses);
        me->workspace = NULL;
        me->out = me->dout = NULL;
        me->row_loss = me->row_weight = NULL;
    }
}

static ebb_status_t make_losses(const ebb_workers_t *w, ebb_worker_t *me, int64_t rows)
{
    EBB_TRY(ebb_pinned_make(w->backend, "row losses", (size_t)(2 * rows) * sizeof *me->row_loss, &me->losses));
    me->row_loss = me->losses.ptr;
    me->row_weight = me->row_loss + rows;
    return EBB_OK;
}

static ebb_status_t make_buffers(ebb_workers_t *w, const ebb_model_t *model, int64_t rows)
{
    const ebb_backend_ops_t *ops = w->backend->ops;
    size_t outputs = (size_t)(rows * ebb_model_outputs(model)) * sizeof(float);
    for (int t = 0; t < w->threads; t++) {
        ebb_worker_t *me = &w->worker[t];
        EBB_TRY(
            ops->alloc(w->backend->dev, (size_t)ebb_model_workspace_bytes(model, rows), "activations", &me->workspace));
        EBB_TRY(ops->alloc(w->backend->dev, outputs, "outputs", (void **)&me->out));
        EBB_TRY(ops->alloc(w->backend->dev, outputs, "output gradients", (void **)&me->dout));
        EBB_TRY(make_losses(w, me, rows));
    }
    return EBB_OK;
}

ebb_status_t ebb_workers_fit(ebb_workers_t *w, const ebb_model_t *model, int64_t rows)
{
    if (w->model == model && rows <= w->rows)
        return EBB_OK;
    free_buffers(w);
    ebb_status_t status = make_buffers(w, model, rows);
    if (status != EBB_OK)
        free_buffers(w);
    w->model = status == EBB_OK ? model : NULL;
    w->rows = rows;
    return status;
}

ebb_status_t ebb_workers_hold(ebb_workers_t *w, const ebb_layout_t *layout, const ebb_weights_t *weights)
{
    const ebb_backend_ops_t *ops = w->backend->ops;
    if (ops->caps & EBB_CAP_HOST_MEMORY)
        return EBB_OK;
    EBB_TRY(ebb_exec_join(ops, w->threads, w->exec));
    EBB_TRY(ops->hold_weights(w->exec[0], layout->dense_floats, weights->dense));
    return ebb_exec_join(ops, w->threads, w->exec);
}

void ebb_workers_release(ebb_workers_t *w)
{
    const ebb_backend_ops_t *ops = w->backend->ops;
    if (!(ops->caps & EBB_CAP_HOST_MEMORY))
        (void)ops->hold_weights(w->exec[0], 0, NULL); /* nothing that can fail */
}

ebb_status_t ebb_workers_replay(ebb_workers_t *w)
{
    for (int t = 0; t < w->threads; t++)
        EBB_TRY(ebb_replay_create(w->backend, w->exec[t], &w->worker[t].replay));
    return EBB_OK;
}

void ebb_workers_cleanup(ebb_workers_t *w)
{
    for (int t = 0; w->worker && t < w->threads; t++)
        ebb_replay_destroy(w->worker[t].replay);
    if (w->backend)
        free_buffers(w);
    ebb_stage_cleanup(w);
    for (int t = 0; w->exec && t < w->threads; t++)
        w->backend->ops->exec_destroy(w->exec[t]);
    ebb_pool_destroy(w->pool);
    ebb_backend_close(w->backend);
    ebb_free(w->exec);
    ebb_free(w->worker);
    memset(w, 0, sizeof *w);
}
