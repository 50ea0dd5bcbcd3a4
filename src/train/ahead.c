/* A ring of batches in device memory, filled by a context of its own from the loader's pinned memory while passes work.
 * Passes begin after the copy of their batch, and a place of the ring is filled again after the passes over what was in
 * it, both by marks: the host never waits. There is one place more than batches ahead. */
#include "train/ahead.h"
#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

enum { PLACES = 3, ALIGN_ROWS = 64 }; /* so many rows of floats are a multiple of 256 bytes */

_Static_assert(EBB_MARK_PASSED + PLACES <= EBB_MARKS, "a mark for each place");

enum { ROWPTR, COL, VAL, X, LABEL, Y, WEIGHT, ARRAYS };

typedef struct room {
    void *ptr;
    size_t bytes;
} room_t;

typedef struct place {
    const ebb_batch_t *host; /* NULL: nothing in it */
    ebb_batch_t device;
    ebb_lane_rows_t *lanes; /* (n_lanes): of device */
    room_t room[ARRAYS];
} place_t;

struct ebb_ahead {
    ebb_workers_t *w;
    const ebb_dataset_info_t *info;
    ebb_loader_t *loader;
    ebb_exec_t *copy;
    place_t place[PLACES];
    int64_t taken; /* batches so far; the n-th is in place n % PLACES */
    int ahead;
};

/* Batches ahead of the current one: EBB_CUDA_COPY_AHEAD, 0 .. 2. */
static int wanted(void)
{
    const char *text = getenv("EBB_CUDA_COPY_AHEAD");
    return text && *text >= '0' && *text < '0' + PLACES && !text[1] ? *text - '0' : PLACES - 1;
}

ebb_status_t ebb_ahead_create(ebb_workers_t *w, const ebb_dataset_info_t *info, ebb_loader_t *loader,
                              ebb_ahead_t **ahead_p)
{
    ebb_ahead_t *a;
    *ahead_p = NULL;
    if (w->backend->ops->caps & EBB_CAP_HOST_MEMORY || wanted() == 0)
        return EBB_OK;
    EBB_TRY(EBB_NEW("batches on the device", &a));
    *a = (ebb_ahead_t){.w = w, .info = info, .loader = loader, .ahead = wanted()};
    ebb_status_t status = w->backend->ops->exec_create(w->backend->dev, &a->copy);
    if (status != EBB_OK) {
        ebb_free(a);
        return status;
    }
    *ahead_p = a;
    return EBB_OK;
}

/* ---- room ---- */

/* Rows of x that a lane of n rows takes up. */
static int64_t aligned(int64_t n)
{
    return (n + ALIGN_ROWS - 1) / ALIGN_ROWS * ALIGN_ROWS;
}

/* Bytes of the arrays of a batch. Of sparse rows it takes as many entries as rows have on average, and a quarter more.
 */
static void expect(const ebb_dataset_info_t *info, int64_t rows, int32_t lanes, size_t bytes[ARRAYS])
{
    double each = info->rows > 0 ? (double)info->nnz / (double)info->rows : 0;
    size_t n = (size_t)rows, entries = (size_t)(1.25 * each * (double)rows);
    int64_t x_rows = lanes > 0 ? lanes * aligned((rows + lanes - 1) / lanes) : 0;
    memset(bytes, 0, ARRAYS * sizeof *bytes);
    bytes[ROWPTR] = info->sparse ? (n + 1) * sizeof(int64_t) : 0;
    bytes[COL] = info->sparse ? entries * sizeof(int32_t) : 0;
    bytes[VAL] = info->sparse ? entries * sizeof(float) : 0;
    bytes[X] = info->sparse ? 0 : (size_t)(x_rows * info->cols) * sizeof(float);
    bytes[LABEL] = info->target == EBB_TARGET_CLASS ? n * sizeof(int32_t) : 0;
    bytes[Y] = info->target == EBB_TARGET_REAL ? n * (size_t)info->target_cols * sizeof(float) : 0;
    bytes[WEIGHT] = info->weighted ? n * sizeof(float) : 0;
}

static ebb_status_t take(const ebb_ahead_t *a, room_t *room, size_t bytes, const char *what)
{
    const ebb_backend_t *backend = a->w->backend;
    backend->ops->free(backend->dev, room->ptr);
    *room = (room_t){0};
    EBB_TRY(backend->ops->alloc(backend->dev, bytes, what, &room->ptr));
    room->bytes = bytes;
    return EBB_OK;
}

int64_t ebb_ahead_bytes(const ebb_ahead_t *a, int64_t rows, int32_t lanes)
{
    size_t bytes[ARRAYS], sum = 0;
    if (!a)
        return 0;
    expect(a->info, rows, lanes, bytes);
    for (int i = 0; i < ARRAYS; i++)
        sum += bytes[i];
    return (int64_t)sum * PLACES;
}

ebb_status_t ebb_ahead_reserve(ebb_ahead_t *a, int64_t rows, int32_t lanes)
{
    size_t bytes[ARRAYS];
    ebb_status_t status = EBB_OK;
    if (!a)
        return EBB_OK;
    expect(a->info, rows, lanes, bytes);
    for (int p = 0; p < PLACES; p++)
        for (int i = 0; i < ARRAYS && status == EBB_OK; i++) {
            if (bytes[i] > 0)
                status = take(a, &a->place[p].room[i], bytes[i], "batches copied ahead");
        }
    if (status != EBB_OK)
        ebb_ahead_empty(a);
    return status;
}

void ebb_ahead_empty(ebb_ahead_t *a)
{
    for (int p = 0; a && p < PLACES; p++)
        for (int i = 0; i < ARRAYS; i++) {
            a->w->backend->ops->free(a->w->backend->dev, a->place[p].room[i].ptr);
            a->place[p].room[i] = (room_t){0};
        }
}

void ebb_ahead_destroy(ebb_ahead_t *a)
{
    if (!a)
        return;
    const ebb_backend_ops_t *ops = a->w->backend->ops;
    ebb_error_t first = *ebb_error();
    ebb_error_clear();
    if (ops->exec_sync(a->copy) != EBB_OK) /* the device is lost: nothing reads any more */
        ebb_error_clear();
    if (first.status != EBB_OK)
        (void)ebb_error_set(&first);
    ebb_ahead_empty(a);
    for (int p = 0; p < PLACES; p++)
        ebb_free(a->place[p].lanes);
    ops->exec_destroy(a->copy);
    ebb_free(a);
}

/* Where batches have more entries than was expected. */
static ebb_status_t grow(const ebb_ahead_t *a, room_t *room, size_t bytes, const char *what)
{
    return bytes <= room->bytes && room->ptr ? EBB_OK : take(a, room, bytes + bytes / 4, what);
}

/* NULL stays NULL. */
static ebb_status_t send(const ebb_ahead_t *a, room_t *room, const void *from, int64_t n, size_t element,
                         const char *what, void *device_p)
{
    memset(device_p, 0, sizeof(void *));
    if (!from)
        return EBB_OK;
    EBB_TRY(grow(a, room, (size_t)n * element, what));
    memcpy(device_p, &room->ptr, sizeof room->ptr);
    return a->w->backend->ops->upload(a->copy, room->ptr, from, (size_t)n * element);
}

/* Rows of x, each lane's from its own place on. */
static ebb_status_t send_dense(const ebb_ahead_t *a, place_t *p, room_t *room, const ebb_batch_t *b)
{
    int64_t cols = a->info->cols, at = 0, rows = 0;
    if (!b->x)
        return EBB_OK;
    for (int32_t l = 0; l < b->n_lanes; l++)
        rows += aligned(b->lanes[l].n);
    EBB_TRY(grow(a, room, (size_t)(rows * cols) * sizeof *b->x, "rows"));
    float *x = room->ptr;
    for (int32_t l = 0; l < b->n_lanes; l++) {
        const ebb_lane_rows_t *lane = &b->lanes[l];
        p->lanes[l].first = at;
        EBB_TRY(a->w->backend->ops->upload(a->copy, x + at * cols, b->x + lane->first * cols,
                                           (size_t)(lane->n * cols) * sizeof *x));
        at += aligned(lane->n);
    }
    p->device.x = x;
    return EBB_OK;
}

static ebb_status_t fill(ebb_ahead_t *a, int number, const ebb_batch_t *b)
{
    place_t *p = &a->place[number];
    room_t *room = p->room;
    ebb_batch_t *d = &p->device;
    p->host = NULL;
    for (int t = 0; t < a->w->threads; t++)
        EBB_TRY(a->w->backend->ops->exec_await(a->copy, a->w->exec[t], EBB_MARK_PASSED + number));
    if (!p->lanes)
        EBB_TRY(EBB_NEW_ARRAY("lanes of a batch", b->n_lanes, &p->lanes));
    *d = *b;
    memcpy(p->lanes, b->lanes, (size_t)b->n_lanes * sizeof *p->lanes);
    d->lanes = p->lanes;
    EBB_TRY(send(a, &room[ROWPTR], b->rowptr, b->rows + 1, sizeof *b->rowptr, "row pointers", &d->rowptr));
    EBB_TRY(send(a, &room[COL], b->col, b->nnz, sizeof *b->col, "columns", &d->col));
    EBB_TRY(send(a, &room[VAL], b->val, b->nnz, sizeof *b->val, "values", &d->val));
    EBB_TRY(send_dense(a, p, &room[X], b));
    EBB_TRY(send(a, &room[LABEL], b->label, b->rows, sizeof *b->label, "labels", &d->label));
    EBB_TRY(send(a, &room[Y], b->y, b->rows * a->info->target_cols, sizeof *b->y, "targets", &d->y));
    EBB_TRY(send(a, &room[WEIGHT], b->weight, b->rows, sizeof *b->weight, "row weights", &d->weight));
    EBB_TRY(a->w->backend->ops->exec_mark(a->copy, number));
    p->host = b;
    return EBB_OK;
}

static bool holds(const place_t *p, const ebb_batch_t *b)
{
    return p->host == b && p->device.epoch == b->epoch && p->device.step == b->step;
}

ebb_status_t ebb_ahead_take(ebb_ahead_t *a, const ebb_batch_t *batch, const ebb_batch_t **device_p)
{
    int number = (int)(a->taken++ % PLACES);
    if (!holds(&a->place[number], batch))
        EBB_TRY(fill(a, number, batch));
    for (int t = 0; t < a->w->threads; t++)
        EBB_TRY(a->w->backend->ops->exec_await(a->w->exec[t], a->copy, number));
    *device_p = &a->place[number].device;
    return EBB_OK;
}

ebb_status_t ebb_ahead_passed(const ebb_ahead_t *a)
{
    int number = (int)((a->taken - 1) % PLACES);
    for (int t = 0; t < a->w->threads; t++)
        EBB_TRY(a->w->backend->ops->exec_mark(a->w->exec[t], EBB_MARK_PASSED + number));
    return EBB_OK;
}

ebb_status_t ebb_ahead_look(ebb_ahead_t *a)
{
    for (int i = 0; i < a->ahead; i++) {
        int number = (int)((a->taken + i) % PLACES);
        const ebb_batch_t *next = ebb_loader_peek(a->loader, i);
        if (!next)
            return EBB_OK;
        if (!holds(&a->place[number], next))
            EBB_TRY(fill(a, number, next));
    }
    return EBB_OK;
}
