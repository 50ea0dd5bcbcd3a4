/* The way of the arrays between rank 0 and the owners, in pieces of bounded size.
 *
 * All ranks walk the same pieces in the same order. Weights are whole on every rank: rank 0 gives its own when
 * gathering, and broadcasts when scattering. A state lives in parts on its owners: floats of the dense vector in
 * contiguous slices, rows of tables dealt in blocks of 64. A piece of a table is whole blocks, or lies within one, so
 * that each owner's part of it is contiguous in the owner's memory; rank 0 deals blocks between a staging area in owner
 * order and the piece in row order. An error on one rank does not end its walk, because the others wait for its
 * messages: it goes on with whatever bytes it has, and all agree at the end.
 */
#include "checkpoint/internal.h"

#include "base/alloc.h"

#include <string.h>

enum { TAG = 0x0c4b, BLOCK = 64 };

int64_t ebb_ckpt_piece_floats = 1 << 18; /* 1 MiB: hashed while it is in the cache */

typedef struct walk {
    const ebb_checkpoint_state_t *state;
    const ebb_layout_t *layout;
    bool scatter;
    int rank, ranks;
    float *piece, *stage; /* host; stage: rank 0, parts of a table's piece in owner order */
    ebb_request_t *reqs;  /* (ranks) */
    int n_reqs;
    ebb_status_t status; /* first local failure */
} walk_t;

/* Room every piece fits in: the nominal size, or one row of the widest table. */
static int64_t buffer_floats(const ebb_layout_t *layout)
{
    int64_t floats = ebb_ckpt_piece_floats;
    for (int t = 0; t < layout->n_tables; t++) {
        int64_t cols = layout->params[layout->table_param[t]].cols;
        floats = cols > floats ? cols : floats;
    }
    return floats;
}

static ebb_status_t walk_begin(walk_t *w, const ebb_checkpoint_state_t *state, bool scatter)
{
    *w = (walk_t){.state = state, .layout = state->layout, .scatter = scatter};
    w->rank = ebb_comm_rank(state->comm);
    w->ranks = ebb_comm_size(state->comm);
    int64_t floats = buffer_floats(state->layout);
    EBB_TRY(EBB_NEW_ARRAY("checkpoint piece", floats, &w->piece));
    EBB_TRY(EBB_NEW_ARRAY("checkpoint requests", w->ranks, &w->reqs));
    if (w->rank == 0 && state->layout->n_tables > 0)
        EBB_TRY(EBB_NEW_ARRAY("checkpoint stage", floats, &w->stage));
    return EBB_OK;
}

static void walk_end(walk_t *w)
{
    ebb_free(w->piece);
    ebb_free(w->stage);
    ebb_free(w->reqs);
}

/* Keep the first local failure. */
static void note(walk_t *w, ebb_status_t status)
{
    if (w->status == EBB_OK)
        w->status = status;
}

static void copy(walk_t *w, float *host, float *dev, int64_t floats)
{
    const ebb_backend_ops_t *ops = w->state->backend->ops;
    size_t bytes = (size_t)floats * sizeof *host;
    if (floats == 0)
        return;
    note(w,
         w->scatter ? ops->upload(w->state->exec, dev, host, bytes) : ops->download(w->state->exec, host, dev, bytes));
    note(w, ops->exec_sync(w->state->exec)); /* host is reused at once */
}

/* Bring rank r's part (n floats; dev: where they lie, on r itself) to or from `host` on rank 0. Messages are under way
 * until settle(). */
static ebb_status_t move(walk_t *w, int r, float *host, float *dev, int64_t n)
{
    ebb_comm_t *comm = w->state->comm;
    int64_t bytes = n * (int64_t)sizeof *host;
    if (n == 0 || (w->rank != 0 && w->rank != r))
        return EBB_OK;
    if (r == 0) {
        copy(w, host, dev, n);
        return EBB_OK;
    }
    if (w->rank == 0)
        return w->scatter ? ebb_comm_isend(comm, host, bytes, r, TAG, &w->reqs[w->n_reqs++])
                          : ebb_comm_irecv(comm, host, bytes, r, TAG, &w->reqs[w->n_reqs++]);
    if (!w->scatter) {
        copy(w, w->piece, dev, n);
        return ebb_comm_isend(comm, w->piece, bytes, 0, TAG, &w->reqs[w->n_reqs++]);
    }
    ebb_request_t req;
    EBB_TRY(ebb_comm_irecv(comm, w->piece, bytes, 0, TAG, &req));
    EBB_TRY(ebb_comm_waitall(comm, 1, &req));
    copy(w, w->piece, dev, n);
    return EBB_OK;
}

static ebb_status_t settle(walk_t *w)
{
    int n = w->n_reqs;
    w->n_reqs = 0;
    return n > 0 ? ebb_comm_waitall(w->state->comm, n, w->reqs) : EBB_OK;
}

static ebb_status_t move_weights(walk_t *w, int param, int64_t first, int64_t n)
{
    const ebb_param_t *p = &w->layout->params[param];
    const ebb_weights_t *weights = w->state->weights;
    float *dev = (p->kind == EBB_PARAM_DENSE ? weights->dense + p->offset : weights->table[p->offset]) + first;
    if (w->scatter && w->ranks > 1)
        EBB_TRY(ebb_comm_bcast(w->state->comm, w->piece, n * (int64_t)sizeof *w->piece, 0));
    if (w->scatter || w->rank == 0)
        copy(w, w->piece, dev, n);
    return EBB_OK;
}

static ebb_status_t move_dense(walk_t *w, int state, int param, int64_t first, int64_t n)
{
    int64_t offset = w->layout->params[param].offset, begin = offset + first, end = begin + n;
    int bucket = ebb_layout_bucket_of(w->layout, offset);
    float *mine = ebb_optim_state_dense(w->state->optim, state);
    for (int r = 0; r < w->ranks; r++) {
        const ebb_own_t own = ebb_sync_own(w->layout, bucket, r, w->ranks);
        int64_t a = begin > own.begin ? begin : own.begin, b = end < own.end ? end : own.end;
        float *at = r == w->rank ? mine + own.local + (a - own.begin) : NULL;
        if (a < b)
            EBB_TRY(move(w, r, w->piece + (a - begin), at, b - a));
    }
    return settle(w);
}

/* Between the staging area, in owner order, and the piece, in row order. */
static void deal_rows(walk_t *w, int64_t row0, int64_t row1, int64_t cols)
{
    float *stage = w->stage;
    for (int r = 0; r < w->ranks; r++) {
        for (int64_t block = row0 / BLOCK; block * BLOCK < row1; block++) {
            if (block % w->ranks != r)
                continue;
            int64_t a = block * BLOCK > row0 ? block * BLOCK : row0;
            int64_t b = (block + 1) * BLOCK < row1 ? (block + 1) * BLOCK : row1;
            float *piece = w->piece + (a - row0) * cols;
            memcpy(w->scatter ? stage : piece, w->scatter ? piece : stage, (size_t)((b - a) * cols) * sizeof *piece);
            stage += (b - a) * cols;
        }
    }
}

static ebb_status_t move_rows(walk_t *w, int state, int param, int64_t row0, int64_t row1)
{
    const ebb_param_t *p = &w->layout->params[param];
    float *mine = ebb_optim_state_table(w->state->optim, state, (int)p->offset);
    float *stage = w->stage;
    if (w->rank == 0 && w->scatter)
        deal_rows(w, row0, row1, p->cols);
    for (int r = 0; r < w->ranks; r++) {
        int64_t a = ebb_sync_table_rows(row0, r, w->ranks), b = ebb_sync_table_rows(row1, r, w->ranks);
        EBB_TRY(move(w, r, stage, r == w->rank ? mine + a * p->cols : NULL, (b - a) * p->cols));
        if (w->rank == 0)
            stage += (b - a) * p->cols;
    }
    EBB_TRY(settle(w));
    if (w->rank == 0 && !w->scatter)
        deal_rows(w, row0, row1, p->cols);
    return EBB_OK;
}

/* Rows of a piece: whole blocks, or a power of two of rows, which never cross the end of a block. */
static int64_t piece_rows(int64_t cols)
{
    int64_t rows = ebb_ckpt_piece_floats / cols;
    if (rows >= BLOCK)
        return rows / BLOCK * BLOCK;
    int64_t power = BLOCK / 2;
    while (power > 1 && power > rows)
        power /= 2;
    return power;
}

bool ebb_checkpoint_in_place(const ebb_checkpoint_state_t *state)
{
    return ebb_comm_size(state->comm) == 1 && state->backend->ops->caps & EBB_CAP_HOST_MEMORY;
}

/* Values [first, ...) of an array where they lie, all on this rank. */
static float *values_at(const walk_t *w, const ebb_ckpt_array_t *array, int param, int64_t first)
{
    const ebb_param_t *p = &w->layout->params[param];
    const ebb_weights_t *weights = w->state->weights;
    if (array->state < 0)
        return (p->kind == EBB_PARAM_DENSE ? weights->dense + p->offset : weights->table[p->offset]) + first;
    if (p->kind == EBB_PARAM_DENSE)
        return ebb_optim_state_dense(w->state->optim, array->state) + p->offset + first;
    return ebb_optim_state_table(w->state->optim, array->state, (int)p->offset) + first;
}

static ebb_status_t move_piece(walk_t *w, const ebb_ckpt_array_t *array, int param, int64_t first, int64_t n)
{
    if (array->state < 0)
        return move_weights(w, param, first, n);
    if (w->layout->params[param].kind == EBB_PARAM_DENSE)
        return move_dense(w, array->state, param, first, n);
    return move_rows(w, array->state, param, first / array->cols, (first + n) / array->cols);
}

/* Rank 0 calls the visitor as long as all is well here. */
#define VISIT(w, call)                                                                                                 \
    do {                                                                                                               \
        if ((w)->rank == 0 && (w)->status == EBB_OK)                                                                   \
            note((w), (call));                                                                                         \
    } while (0)

static ebb_status_t walk_array(walk_t *w, ebb_ckpt_array_t *array, int param, const ebb_ckpt_visitor_t *v)
{
    int64_t floats = ebb_ckpt_floats(array), step = ebb_ckpt_piece_floats;
    if (array->state >= 0 && w->layout->params[param].kind == EBB_PARAM_ROWS && floats > 0)
        step = piece_rows(array->cols) * array->cols;
    VISIT(w, v->begin(v->user, array));
    bool in_place = !w->scatter && ebb_checkpoint_in_place(w->state);
    for (int64_t first = 0; first < floats; first += step) {
        int64_t n = floats - first < step ? floats - first : step;
        if (in_place) {
            VISIT(w, v->piece(v->user, array, first, n, values_at(w, array, param, first)));
            continue;
        }
        if (w->scatter)
            VISIT(w, v->piece(v->user, array, first, n, w->piece));
        EBB_TRY(move_piece(w, array, param, first, n));
        if (!w->scatter)
            VISIT(w, v->piece(v->user, array, first, n, w->piece));
    }
    VISIT(w, v->end(v->user, array));
    return EBB_OK;
}

ebb_status_t ebb_ckpt_walk(const ebb_checkpoint_state_t *state, ebb_ckpt_index_t *index, bool scatter,
                           const ebb_ckpt_visitor_t *visitor)
{
    walk_t w;
    ebb_status_t status = ebb_comm_agree(state->comm, walk_begin(&w, state, scatter));
    for (int i = 0; status == EBB_OK && i < ebb_ckpt_arrays(index); i++)
        if (!index->array[i].split)
            status = walk_array(&w, &index->array[i], i % index->n_params, visitor);
    if (status == EBB_OK)
        status = ebb_comm_agree(state->comm, w.status);
    walk_end(&w);
    return status;
}
