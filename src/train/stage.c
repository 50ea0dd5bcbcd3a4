/* What crosses between the host and a device with memory of its own, in a thread's buffers, which are made once. */
#include "train/stage.h"
#include "base/alloc.h"

/* Memory on the device or the host that grows and is reused. */
typedef struct room {
    void *ptr;
    size_t bytes;
} room_t;

/* One thread's. */
struct ebb_stage {
    room_t rowptr, col, val, x, label, y, weight, classes; /* device */
    room_t row_starts, out;                                /* host */
};

static bool staged(const ebb_workers_t *w)
{
    return !(w->backend->ops->caps & EBB_CAP_HOST_MEMORY);
}

static ebb_status_t device_room(const ebb_workers_t *w, room_t *room, size_t bytes, const char *what)
{
    const ebb_backend_ops_t *ops = w->backend->ops;
    if (bytes <= room->bytes)
        return EBB_OK;
    ops->free(w->backend->dev, room->ptr);
    *room = (room_t){0};
    EBB_TRY(ops->alloc(w->backend->dev, bytes + bytes / 4, what, &room->ptr));
    room->bytes = bytes + bytes / 4;
    return EBB_OK;
}

static ebb_status_t host_room(room_t *room, size_t bytes, const char *what)
{
    int64_t capacity = (int64_t)room->bytes;
    ebb_status_t status = ebb_grow(what, &room->ptr, &capacity, (int64_t)bytes, 1);
    room->bytes = (size_t)capacity;
    return status;
}

static ebb_status_t send(const ebb_workers_t *w, ebb_exec_t *pass, room_t *room, const void *from, size_t bytes,
                         const char *what)
{
    EBB_TRY(device_room(w, room, bytes, what));
    return w->backend->ops->upload(pass, room->ptr, from, bytes);
}

static ebb_status_t stage_of(ebb_workers_t *w, int thread, ebb_stage_t **stage_p)
{
    ebb_worker_t *me = &w->worker[thread];
    if (!me->stage)
        EBB_TRY(EBB_NEW("staging", &me->stage));
    *stage_p = me->stage;
    return EBB_OK;
}

/* ---- rows ---- */

/* Row pointers of the piece alone, from 0. */
static ebb_status_t send_csr(const ebb_workers_t *w, ebb_exec_t *pass, ebb_stage_t *s, ebb_csr_t *csr)
{
    size_t starts = (size_t)(csr->rows + 1) * sizeof *csr->rowptr;
    int64_t begin = csr->rowptr[0], n = csr->rowptr[csr->rows] - begin;
    EBB_TRY(host_room(&s->row_starts, starts, "row pointers"));
    int64_t *rowptr = s->row_starts.ptr;
    for (int64_t r = 0; r <= csr->rows; r++)
        rowptr[r] = csr->rowptr[r] - begin;
    EBB_TRY(send(w, pass, &s->rowptr, rowptr, starts, "row pointers"));
    EBB_TRY(send(w, pass, &s->col, csr->col + begin, (size_t)n * sizeof *csr->col, "columns"));
    EBB_TRY(send(w, pass, &s->val, csr->val + begin, (size_t)n * sizeof *csr->val, "values"));
    csr->rowptr = s->rowptr.ptr;
    csr->col = s->col.ptr;
    csr->val = s->val.ptr;
    return EBB_OK;
}

ebb_status_t ebb_stage_rows(ebb_workers_t *w, int thread, ebb_piece_t *p)
{
    ebb_exec_t *pass = w->exec[thread];
    ebb_stage_t *s;
    size_t n = (size_t)p->in.rows;
    if (!staged(w))
        return EBB_OK;
    EBB_TRY(stage_of(w, thread, &s));
    if (p->in.sparse) {
        EBB_TRY(send_csr(w, pass, s, &p->in.csr));
    } else {
        EBB_TRY(send(w, pass, &s->x, p->in.x, n * (size_t)p->cols * sizeof *p->in.x, "rows"));
        p->in.x = s->x.ptr;
    }
    if (p->label) {
        EBB_TRY(send(w, pass, &s->label, p->label, n * sizeof *p->label, "labels"));
        p->label = s->label.ptr;
    }
    if (p->y) {
        EBB_TRY(send(w, pass, &s->y, p->y, n * (size_t)p->targets * sizeof *p->y, "targets"));
        p->y = s->y.ptr;
    }
    if (p->weight) {
        EBB_TRY(send(w, pass, &s->weight, p->weight, n * sizeof *p->weight, "row weights"));
        p->weight = s->weight.ptr;
    }
    return EBB_OK;
}

ebb_status_t ebb_stage_outputs(ebb_workers_t *w, int thread, int64_t n, const float **out_p)
{
    ebb_worker_t *me = &w->worker[thread];
    ebb_stage_t *s;
    *out_p = me->place.out;
    if (staged(w)) {
        size_t bytes = (size_t)n * sizeof **out_p;
        EBB_TRY(stage_of(w, thread, &s));
        EBB_TRY(host_room(&s->out, bytes, "outputs"));
        EBB_TRY(w->backend->ops->download(w->exec[thread], s->out.ptr, me->place.out, bytes));
        *out_p = s->out.ptr;
    }
    return w->backend->ops->exec_sync(w->exec[thread]);
}

ebb_status_t ebb_stage_classes(ebb_workers_t *w, const float *class_weights, int64_t n, const float **device_p)
{
    ebb_stage_t *s;
    *device_p = class_weights;
    if (!staged(w) || !class_weights)
        return EBB_OK;
    EBB_TRY(stage_of(w, 0, &s));
    EBB_TRY(send(w, w->exec[0], &s->classes, class_weights, (size_t)n * sizeof *class_weights, "class weights"));
    *device_p = s->classes.ptr;
    return w->backend->ops->exec_sync(w->exec[0]);
}

/* ---- the end ---- */

static void free_stage(const ebb_workers_t *w, ebb_stage_t *s)
{
    room_t *device[] = {&s->rowptr, &s->col, &s->val, &s->x, &s->label, &s->y, &s->weight, &s->classes};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        w->backend->ops->free(w->backend->dev, device[i]->ptr);
    ebb_free(s->row_starts.ptr);
    ebb_free(s->out.ptr);
    ebb_free(s);
}

void ebb_stage_cleanup(ebb_workers_t *w)
{
    for (int i = 0; w->worker && i < w->threads; i++)
        if (w->worker[i].stage)
            free_stage(w, w->worker[i].stage);
}
