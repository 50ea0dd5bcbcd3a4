/* The threads that compute on a rank. */
#include "train/stage.h"
#include "base/alloc.h"

#include <string.h>

enum { DEVICE_THREADS = 4 }; /* streams that may fill a device between them, where nothing else is asked for */

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

static int default_threads(const ebb_comm_t *comm, const ebb_backend_t *backend)
{
    int cores = ebb_comm_cores(comm);
    bool device = !(backend->ops->caps & EBB_CAP_HOST_MEMORY);
    return device && cores > DEVICE_THREADS ? DEVICE_THREADS : cores;
}

static ebb_status_t make_contexts(const ebb_workers_t *w, ebb_exec_t **exec)
{
    for (int t = 0; t < w->threads; t++)
        EBB_TRY(w->backend->ops->exec_create(w->backend->dev, &exec[t]));
    return EBB_OK;
}

static void free_contexts(const ebb_workers_t *w, ebb_exec_t **exec)
{
    for (int t = 0; exec && t < w->threads; t++)
        w->backend->ops->exec_destroy(exec[t]);
    ebb_free(exec);
}

ebb_status_t ebb_workers_init(ebb_workers_t *w, const ebb_comm_t *comm, const char *backend, ebb_precision_t precision,
                              int threads)
{
    memset(w, 0, sizeof *w);
    EBB_TRY(ebb_backend_open(backend, ebb_comm_local_rank(comm), &w->backend));
    w->threads = threads > 0 ? threads : default_threads(comm, w->backend);
    EBB_TRY(set_precision(w->backend, precision));
    EBB_TRY(ebb_pool_create(w->threads, &w->pool));
    EBB_TRY(EBB_NEW_ARRAY("workers", w->threads, &w->exec));
    EBB_TRY(EBB_NEW_ARRAY("workers", w->threads, &w->worker));
    EBB_TRY(make_contexts(w, w->exec));
    w->side = w->exec;
    if (w->backend->ops->caps & EBB_CAP_HOST_MEMORY)
        return EBB_OK;
    for (int t = 0; t < w->threads; t++)
        EBB_TRY(w->backend->ops->exec_reserve(w->exec[t]));
    EBB_TRY(EBB_NEW_ARRAY("workers", w->threads, &w->side));
    return make_contexts(w, w->side);
}

static void free_place(const ebb_workers_t *w, ebb_place_t *place)
{
    w->backend->ops->free(w->backend->dev, place->workspace);
    w->backend->ops->free(w->backend->dev, place->out);
    w->backend->ops->free(w->backend->dev, place->dout);
    *place = (ebb_place_t){0};
}

static void free_buffers(ebb_workers_t *w)
{
    for (int t = 0; w->worker && t < w->threads; t++) {
        ebb_worker_t *me = &w->worker[t];
        free_place(w, &me->place);
        ebb_pinned_free(w->backend, &me->losses);
        me->row_loss = me->row_weight = NULL;
    }
}

void ebb_workers_free_lanes(ebb_workers_t *w)
{
    for (int32_t i = 0; w->lane && i < w->lanes; i++)
        free_place(w, &w->lane[i]);
    ebb_free(w->lane);
    w->lane = NULL;
    w->lanes = 0;
}

static ebb_status_t make_place(const ebb_workers_t *w, const ebb_model_t *model, int64_t rows, ebb_place_t *place)
{
    const ebb_backend_ops_t *ops = w->backend->ops;
    size_t outputs = (size_t)(rows * ebb_model_outputs(model)) * sizeof(float);
    EBB_TRY(
        ops->alloc(w->backend->dev, (size_t)ebb_model_workspace_bytes(model, rows), "activations", &place->workspace));
    EBB_TRY(ops->alloc(w->backend->dev, outputs, "outputs", (void **)&place->out));
    return ops->alloc(w->backend->dev, outputs, "output gradients", (void **)&place->dout);
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
    for (int t = 0; t < w->threads; t++) {
        EBB_TRY(make_place(w, model, rows, &w->worker[t].place));
        EBB_TRY(make_losses(w, &w->worker[t], rows));
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

ebb_status_t ebb_workers_fit_lanes(ebb_workers_t *w, const ebb_model_t *model, int64_t rows, int32_t lanes)
{
    ebb_status_t status = EBB_NEW_ARRAY("activations", lanes, &w->lane);
    w->lanes = lanes;
    for (int32_t i = 0; i < lanes && status == EBB_OK; i++)
        status = make_place(w, model, rows, &w->lane[i]);
    if (status != EBB_OK)
        ebb_workers_free_lanes(w);
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
    ebb_workers_free_lanes(w);
    ebb_stage_cleanup(w);
    if (w->side != w->exec)
        free_contexts(w, w->side);
    free_contexts(w, w->exec);
    ebb_pool_destroy(w->pool);
    ebb_backend_close(w->backend);
    ebb_free(w->worker);
    memset(w, 0, sizeof *w);
}
