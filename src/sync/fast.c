/* The plain way, for comparison: lanes add into as many buffers as threads, MPI adds the ranks, and every rank owns
 * everything. Bits depend on ranks and threads. Tables that travel as rows are merged per rank and gathered by all.
 */
#include "sync/device.h"
#include "sync/lanes.h"
#include "sync/steps.h"

#include <string.h>

/* One slab of the partial buffers' sum. */
static ebb_status_t add_slab(void *user, int thread, int64_t index)
{
    const ebb_sync_t *s = user;
    int64_t at = index * s->slab, n = ebb_min64(s->slab, s->layout->dense_floats - at);
    float *out = s->dense_sum + at;
    const buffer_t *buf = s->partial;
    EBB_TRY(s->backend->ops->copy(s->exec[thread], out, buf ? buf->dense + at : s->zeros, (size_t)n * 4));
    for (buf = buf ? buf->next : NULL; buf; buf = buf->next)
        EBB_TRY(s->backend->ops->add(s->exec[thread], n, out, buf->dense + at, out));
    return EBB_OK;
}

static ebb_status_t reduce_dense(ebb_sync_t *s)
{
    int64_t floats = s->layout->dense_floats;
    EBB_TRY(ebb_pool_run(s->pool, (floats + s->slab - 1) / s->slab, add_slab, s));
    s->stats.bytes_sent += s->ranks > 1 ? floats * 4 : 0;
    if (s->ranks == 1)
        return EBB_OK;
    EBB_TRY(ebb_sync_await_all(s));
    if (s->device)
        return ebb_wire_allreduce(s->wire, s->dense_sum, floats);
    return ebb_comm_allreduce(s->comm, s->dense_sum, floats, EBB_COMM_F32, EBB_SUM);
}

/* Add the partial buffers' tables into the first one's, add over ranks, pack the touched rows. */
static ebb_status_t reduce_dense_table(ebb_sync_t *s, int t, buffer_t *first)
{
    table_t *table = &s->table[t];
    int64_t floats = table->rows * table->width;
    for (buffer_t *buf = first->next; buf; buf = buf->next)
        EBB_TRY(ebb_sync_move_table(s, t, s->exec[0], buf, first));
    if (s->ranks > 1) {
        EBB_TRY(ebb_comm_allreduce(s->comm, first->table[t], floats, EBB_COMM_F32, EBB_SUM));
        EBB_TRY(ebb_comm_allreduce(s->comm, first->touched[t], table->words, EBB_COMM_I64, EBB_BOR));
        s->stats.bytes_sent += floats * 4 + table->words * 8;
    }
    memset(s->view, 0, (size_t)(2 * s->tree.lanes - 1) * sizeof *s->view);
    s->view[0] = (ebb_view_t){.p = first->table[t], .touched = first->touched[t]};
    s->bucket[0].node_buf[0] = first;
    ebb_status_t status = ebb_sync_pack_own_rows(s, t, true);
    s->bucket[0].node_buf[0] = NULL;
    return status;
}

static ebb_status_t gather_rows(ebb_sync_t *s, int t)
{
    table_t *table = &s->table[t];
    int64_t n = table->lanes.out[0].n, total = 0;
    EBB_TRY(ebb_comm_allgather(s->comm, &n, sizeof n, s->words_in));
    for (int r = 0; r < s->ranks; r++) {
        s->gather_counts[r] = s->words_in[r] * (1 + table->width) * 4;
        s->gather_displs[r] = total;
        total += s->gather_counts[r];
    }
    EBB_TRY(ebb_sync_room(s, &s->recv_rows[0], total));
    char *mine = s->recv_rows[0].data + s->gather_displs[s->rank];
    table->lanes.out[0].idx = (int32_t *)mine;
    table->lanes.out[0].val = (float *)(mine + n * 4);
    EBB_TRY(ebb_merge_sum(&table->lanes));
    s->stats.bytes_sent += s->gather_counts[s->rank];
    EBB_TRY(ebb_comm_allgatherv(s->comm, mine, s->gather_counts[s->rank], s->recv_rows[0].data, s->gather_counts,
                                s->gather_displs));
    for (int r = 0; r < s->ranks; r++) {
        const char *at = s->recv_rows[0].data + s->gather_displs[r];
        table->pieces.list[r] = (ebb_list_t){
            .idx = (const int32_t *)at, .val = (const float *)(at + s->words_in[r] * 4), .n = s->words_in[r]};
    }
    return EBB_OK;
}

static ebb_status_t reduce_rows(ebb_sync_t *s, int t)
{
    table_t *table = &s->table[t];
    if (s->device)
        return ebb_sync_device_rows_fast(s, t);
    ebb_merge_t *last = s->ranks > 1 ? &table->pieces : &table->lanes;
    ebb_sync_list_lanes(s, t);
    EBB_TRY(ebb_merge_find(&table->lanes));
    if (s->ranks > 1) {
        EBB_TRY(gather_rows(s, t));
        EBB_TRY(ebb_merge_find(&table->pieces));
    }
    table->n = last->out[0].n;
    EBB_TRY(ebb_sync_room_for_sums(table, table->n));
    last->out[0].idx = table->row;
    last->out[0].val = table->val;
    return ebb_merge_sum(last);
}

ebb_status_t ebb_sync_reduce_fast(ebb_sync_t *s)
{
    EBB_TRY(reduce_dense(s));
    if (!s->partial) /* no lane had rows: an empty buffer stands for their tables */
        EBB_TRY(ebb_sync_take_buffer(s, 0, &s->partial));
    for (int t = 0; t < s->n_tables; t++) {
        EBB_TRY(s->table[t].dense ? reduce_dense_table(s, t, s->partial) : reduce_rows(s, t));
        s->words_out[t] = s->lane_entries[t];
    }
    if (s->ranks > 1 && s->n_tables > 0)
        EBB_TRY(ebb_comm_allreduce(s->comm, s->words_out, s->n_tables, EBB_COMM_I64, EBB_SUM));
    for (int t = 0; t < s->n_tables; t++)
        s->table[t].entries = s->words_out[t];
    while (s->partial) {
        buffer_t *buf = s->partial;
        s->partial = buf->next;
        buf->user = NULL; /* lanes' contexts go on after the sums */
        ebb_sync_free_buffer(s, buf);
    }
    return EBB_OK;
}
