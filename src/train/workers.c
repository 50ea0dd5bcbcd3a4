/* The threads that compute on a rank. */
#include "train/stage.h"
#include "base/alloc.h"

#include <string.h>

/* A device with memory of its own computes passes; sums and updates are then the CPU's. */
static ebb_status_t open_backends(ebb_workers_t *w, const ebb_comm_t *comm, const char *name)
{
    EBB_TRY(ebb_backend_open(name, ebb_comm_local_rank(comm), &w->device));
    if (!(w->device->ops->caps & EBB_CAP_HOST_MEMORY))
        return ebb_backend_open("cpu", 0, &w->backend);
    w->backend = w->device;
    return EBB_OK;
}

ebb_status_t ebb_workers_init(ebb_workers_t *w, const ebb_comm_t *comm, const char *backend, int threads)
{
    memset(w, 0, sizeof *w);
    w->threads = threads > 0 ? threads : ebb_comm_cores(comm);
    EBB_TRY(open_backends(w, comm, backend));
    EBB_TRY(ebb_pool_create(w->threads, &w->pool));
    EBB_TRY(EBB_NEW_ARRAY("workers", w->threads, &w->exec));
    EBB_TRY(EBB_NEW_ARRAY("workers", w->threads, &w->worker));
    for (int t = 0; t < w->threads; t++) {
        EBB_TRY(w->backend->ops->exec_create(w->backend->dev, &w->exec[t]));
        w->worker[t].pass = w->exec[t];
        if (w->device != w->backend)
            EBB_TRY(w->device->ops->exec_create(w->device->dev, &w->worker[t].pass));
    }
    return EBB_OK;
}

static void free_buffers(ebb_workers_t *w)
{
    for (int t = 0; w->worker && t < w->threads; t++) {
        ebb_worker_t *me = &w->worker[t];
        w->device->ops->free(w->device->dev, me->workspace);
        w->device->ops->free(w->device->dev, me->out);
        w->device->ops->free(w->device->dev, me->dout);
        ebb_free(me->row_loss);
        ebb_free(me->row_weight);
        me->workspace = NULL;
        me->out = me->dout = NULL;
        me->row_loss = me->row_weight = NULL;
    }
}

ebb_status_t ebb_workers_fit(ebb_workers_t *w, const ebb_model_t *model, int64_t rows)
{
    const ebb_backend_ops_t *ops = w->device->ops;
    size_t outputs = (size_t)(rows * ebb_model_outputs(model)) * sizeof(float);
    if (w->model == model && rows <= w->rows)
        return EBB_OK;
    free_buffers(w);
    for (int t = 0; t < w->threads; t++) {
        ebb_worker_t *me = &w->worker[t];
        EBB_TRY(
            ops->alloc(w->device->dev, (size_t)ebb_model_workspace_bytes(model, rows), "activations", &me->workspace));
        EBB_TRY(ops->alloc(w->device->dev, outputs, "outputs", (void **)&me->out));
        EBB_TRY(ops->alloc(w->device->dev, outputs, "output gradients", (void **)&me->dout));
        EBB_TRY(EBB_NEW_ARRAY("row losses", rows, &me->row_loss));
        EBB_TRY(EBB_NEW_ARRAY("row weights", rows, &me->row_weight));
    }
    w->model = model;
    w->rows = rows;
    return EBB_OK;
}

void ebb_workers_cleanup(ebb_workers_t *w)
{
    if (w->device)
        free_buffers(w);
    ebb_stage_cleanup(w);
    for (int t = 0; w->exec && t < w->threads; t++) {
        if (w->worker && w->worker[t].pass != w->exec[t])
            w->device->ops->exec_destroy(w->worker[t].pass);
        w->backend->ops->exec_destroy(w->exec[t]);
    }
    ebb_pool_destroy(w->pool);
    if (w->device != w->backend)
        ebb_backend_close(w->device);
    ebb_backend_close(w->backend);
    ebb_free(w->exec);
    ebb_free(w->worker);
    memset(w, 0, sizeof *w);
}
