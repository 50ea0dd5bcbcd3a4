/* What crosses between the host and a device with memory of its own, in buffers that are made once: a thread's own for
 * rows and gradients, the rank's for weights. */
#include "train/stage.h"
#include "base/alloc.h"

#include <string.h>

/* Memory on the device or the host that grows and is reused. */
typedef struct room {
    void *ptr;
    size_t bytes;
} room_t;

typedef struct rows_room {
    room_t idx, val;
} rows_room_t;

/* One thread's. */
struct ebb_stage {
    room_t rowptr, col, val, x, label, y, weight; /* device */
    room_t row_starts, out;                       /* host */
    ebb_grads_t grads;                            /* device; dense and tables are made when first asked for */
    rows_room_t rows[EBB_MAX_TABLES];             /* host */
};

/* The rank's: copies on the device, and what rows on their way to it pass through. */
struct ebb_copies {
    ebb_weights_t weights;
    const ebb_layout_t *layout;
    room_t classes, row, val; /* device */
    room_t val_host;
};

static bool staged(const ebb_workers_t *w)
{
    return w->device != w->backend;
}

static ebb_status_t device_room(const ebb_workers_t *w, room_t *room, size_t bytes, const char *what)
{
    const ebb_backend_ops_t *ops = w->device->ops;
    if (bytes <= room->bytes)
        return EBB_OK;
    ops->free(w->device->dev, room->ptr);
    *room = (room_t){0};
    EBB_TRY(ops->alloc(w->device->dev, bytes + bytes / 4, what, &room->ptr));
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
    return w->device->ops->upload(pass, room->ptr, from, bytes);
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
    ebb_exec_t *pass = w->worker[thread].pass;
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
    *out_p = me->out;
    if (staged(w)) {
        size_t bytes = (size_t)n * sizeof *me->out;
        EBB_TRY(stage_of(w, thread, &s));
        EBB_TRY(host_room(&s->out, bytes, "outputs"));
        EBB_TRY(w->device->ops->download(me->pass, s->out.ptr, me->out, bytes));
        *out_p = s->out.ptr;
    }
    return w->device->ops->exec_sync(me->pass);
}

/* ---- gradients ---- */

static size_t table_bytes(const ebb_layout_t *layout, int t)
{
    const ebb_param_t *p = &layout->params[layout->table_param[t]];
    return (size_t)(p->rows * p->cols) * sizeof(float);
}

static size_t touched_bytes(const ebb_layout_t *layout, int t)
{
    return (size_t)((layout->params[layout->table_param[t]].rows + 63) / 64) * sizeof(uint64_t);
}

/* The device's table gradient as the host's is: zero, or holding sums that are added to. */
static ebb_status_t open_table(const ebb_workers_t *w, ebb_exec_t *pass, ebb_stage_t *s, const ebb_layout_t *layout,
                               const ebb_grads_t *grads, int t)
{
    const ebb_backend_ops_t *ops = w->device->ops;
    void *dev = w->device->dev;
    if (!s->grads.table_dense[t])
        EBB_TRY(ops->alloc(dev, table_bytes(layout, t), "gradient of a table", (void **)&s->grads.table_dense[t]));
    if (!s->grads.touched[t])
        EBB_TRY(ops->alloc(dev, touched_bytes(layout, t), "touched rows", (void **)&s->grads.touched[t]));
    if (!grads->accumulate) {
        EBB_TRY(ops->zero(pass, s->grads.table_dense[t], table_bytes(layout, t)));
        return ops->zero(pass, s->grads.touched[t], touched_bytes(layout, t));
    }
    EBB_TRY(ops->upload(pass, s->grads.table_dense[t], grads->table_dense[t], table_bytes(layout, t)));
    return ops->upload(pass, s->grads.touched[t], grads->touched[t], touched_bytes(layout, t));
}

ebb_status_t ebb_stage_grads(ebb_workers_t *w, int thread, const ebb_layout_t *layout, ebb_grads_t *grads,
                             ebb_grads_t **to_p)
{
    const ebb_backend_ops_t *ops = w->device->ops;
    ebb_exec_t *pass = w->worker[thread].pass;
    size_t bytes = (size_t)layout->dense_floats * sizeof(float);
    ebb_stage_t *s;
    *to_p = grads;
    if (!staged(w))
        return EBB_OK;
    EBB_TRY(stage_of(w, thread, &s));
    if (!s->grads.dense)
        EBB_TRY(ops->alloc(w->device->dev, bytes, "gradient", (void **)&s->grads.dense));
    if (grads->accumulate)
        EBB_TRY(ops->upload(pass, s->grads.dense, grads->dense, bytes));
    ebb_grads_t *to = &w->worker[thread].device_grads;
    *to = (ebb_grads_t){.dense = s->grads.dense, .accumulate = grads->accumulate};
    for (int t = 0; t < layout->n_tables; t++) {
        if (!grads->table_dense[t])
            continue;
        EBB_TRY(open_table(w, pass, s, layout, grads, t));
        to->table_dense[t] = s->grads.table_dense[t];
        to->touched[t] = s->grads.touched[t];
    }
    *to_p = to;
    return EBB_OK;
}

static ebb_status_t fetch_rows(const ebb_workers_t *w, ebb_exec_t *pass, rows_room_t *room, const ebb_rows_t *from,
                               ebb_rows_t *rows)
{
    size_t idx = (size_t)from->n * sizeof *from->idx, val = (size_t)(from->n * from->width) * sizeof *from->val;
    EBB_TRY(host_room(&room->idx, idx, "gradient rows"));
    EBB_TRY(host_room(&room->val, val, "gradient rows"));
    *rows = (ebb_rows_t){from->n, from->n, from->width, room->idx.ptr, room->val.ptr};
    EBB_TRY(w->device->ops->download(pass, rows->idx, from->idx, idx));
    return w->device->ops->download(pass, rows->val, from->val, val);
}

ebb_status_t ebb_stage_fetch(ebb_workers_t *w, int thread, const ebb_layout_t *layout, ebb_grads_t *grads)
{
    const ebb_backend_ops_t *ops = w->device->ops;
    const ebb_worker_t *me = &w->worker[thread];
    const ebb_grads_t *from = &me->device_grads;
    if (!staged(w))
        return ops->exec_sync(me->pass);
    EBB_TRY(ops->download(me->pass, grads->dense, from->dense, (size_t)layout->dense_floats * sizeof(float)));
    for (int t = 0; t < layout->n_tables; t++) {
        if (!from->table_dense[t]) {
            EBB_TRY(fetch_rows(w, me->pass, &me->stage->rows[t], &from->rows[t], &grads->rows[t]));
            continue;
        }
        EBB_TRY(ops->download(me->pass, grads->table_dense[t], from->table_dense[t], table_bytes(layout, t)));
        EBB_TRY(ops->download(me->pass, grads->touched[t], from->touched[t], touched_bytes(layout, t)));
    }
    return ops->exec_sync(me->pass);
}

/* ---- weights ---- */

const ebb_weights_t *ebb_stage_weights(const ebb_workers_t *w, const ebb_weights_t *weights)
{
    return staged(w) ? &w->copies->weights : weights;
}

static ebb_status_t make_copies(ebb_workers_t *w, const ebb_layout_t *layout)
{
    if (!w->copies)
        EBB_TRY(EBB_NEW("copy of the weights", &w->copies));
    if (w->copies->layout == layout)
        return EBB_OK;
    if (w->copies->layout)
        ebb_weights_destroy(w->device, w->copies->layout, &w->copies->weights);
    w->copies->layout = layout;
    return ebb_weights_create(w->device, layout, &w->copies->weights);
}

static ebb_status_t copy_dense(ebb_workers_t *w, const ebb_layout_t *layout, const ebb_weights_t *weights)
{
    return w->device->ops->upload(w->worker[0].pass, w->copies->weights.dense, weights->dense,
                                  (size_t)layout->dense_floats * sizeof(float));
}

ebb_status_t ebb_stage_copy_weights(ebb_workers_t *w, const ebb_layout_t *layout, const ebb_weights_t *weights)
{
    const ebb_backend_ops_t *ops = w->device->ops;
    if (!staged(w))
        return EBB_OK;
    EBB_TRY(make_copies(w, layout));
    EBB_TRY(copy_dense(w, layout, weights));
    for (int t = 0; t < layout->n_tables; t++)
        EBB_TRY(ops->upload(w->worker[0].pass, w->copies->weights.table[t], weights->table[t], table_bytes(layout, t)));
    return ops->exec_sync(w->worker[0].pass);
}

ebb_status_t ebb_stage_copy_classes(ebb_workers_t *w, const float *class_weights, int64_t n, const float **device_p)
{
    *device_p = class_weights;
    if (!staged(w) || !class_weights)
        return EBB_OK;
    EBB_TRY(send(w, w->worker[0].pass, &w->copies->classes, class_weights, (size_t)n * sizeof *class_weights,
                 "class weights"));
    *device_p = w->copies->classes.ptr;
    return w->device->ops->exec_sync(w->worker[0].pass);
}

/* n rows of a table, through one buffer in which they lie side by side. */
static ebb_status_t copy_rows(ebb_workers_t *w, int64_t n, int64_t width, const int32_t *row, const float *from,
                              float *to)
{
    ebb_copies_t *c = w->copies;
    ebb_exec_t *pass = w->worker[0].pass;
    size_t bytes = (size_t)(n * width) * sizeof *from;
    EBB_TRY(host_room(&c->val_host, bytes, "changed rows"));
    float *val = c->val_host.ptr;
    for (int64_t k = 0; k < n; k++)
        memcpy(val + k * width, from + row[k] * width, (size_t)width * sizeof *val);
    EBB_TRY(send(w, pass, &c->row, row, (size_t)n * sizeof *row, "changed rows"));
    EBB_TRY(send(w, pass, &c->val, val, bytes, "changed rows"));
    EBB_TRY(w->device->ops->set_rows(pass, n, width, c->row.ptr, c->val.ptr, to));
    return w->device->ops->exec_sync(pass); /* the buffers are used again */
}

ebb_status_t ebb_stage_copy_changed(ebb_workers_t *w, const ebb_layout_t *layout, const ebb_sync_t *sync,
                                    const ebb_weights_t *weights)
{
    if (!staged(w))
        return EBB_OK;
    EBB_TRY(copy_dense(w, layout, weights));
    for (int t = 0; t < layout->n_tables; t++) {
        int64_t n, width = layout->params[layout->table_param[t]].cols;
        const int32_t *row;
        for (int owner = 0; ebb_sync_changed(sync, t, owner, &n, &row); owner++)
            if (n > 0)
                EBB_TRY(copy_rows(w, n, width, row, weights->table[t], w->copies->weights.table[t]));
    }
    return w->device->ops->exec_sync(w->worker[0].pass);
}

/* ---- the end ---- */

static void free_stage(const ebb_workers_t *w, ebb_stage_t *s)
{
    room_t *device[] = {&s->rowptr, &s->col, &s->val, &s->x, &s->label, &s->y, &s->weight};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++)
        w->device->ops->free(w->device->dev, device[i]->ptr);
    w->device->ops->free(w->device->dev, s->grads.dense);
    for (int t = 0; t < EBB_MAX_TABLES; t++) {
        w->device->ops->free(w->device->dev, s->grads.table_dense[t]);
        w->device->ops->free(w->device->dev, s->grads.touched[t]);
        ebb_free(s->rows[t].idx.ptr);
        ebb_free(s->rows[t].val.ptr);
    }
    ebb_free(s->row_starts.ptr);
    ebb_free(s->out.ptr);
    ebb_free(s);
}

void ebb_stage_cleanup(ebb_workers_t *w)
{
    for (int i = 0; w->worker && i < w->threads; i++)
        if (w->worker[i].stage)
            free_stage(w, w->worker[i].stage);
    if (!w->copies)
        return;
    if (w->copies->layout)
        ebb_weights_destroy(w->device, w->copies->layout, &w->copies->weights);
    w->device->ops->free(w->device->dev, w->copies->classes.ptr);
    w->device->ops->free(w->device->dev, w->copies->row.ptr);
    w->device->ops->free(w->device->dev, w->copies->val.ptr);
    ebb_free(w->copies->val_host.ptr);
    ebb_free(w->copies);
    w->copies = NULL;
}
