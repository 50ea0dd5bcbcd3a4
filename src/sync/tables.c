/* Tables that travel dense: a bitmap of touched rows and the floats of every 64-row block, in the owner's order.
 *
 * With one rank the owner's pass reads the nodes' buffers. With several, a first pass sums the pieces and deals their
 * blocks out to the owners' parcels (its own among them), and the owner's pass reads the parcels. Blocks without a
 * touched row are neither added nor cleared. A buffer is zero again once its blocks have been read.
 */
#include "sync/steps.h"

#include <string.h>

typedef struct table_job {
    ebb_sync_t *sync;
    int t;
    int64_t slab_words; /* 64-row blocks of one task */
    bool clear;
} table_job_t;

static int64_t slab_words(const table_t *table)
{
    int64_t n = EBB_SYNC_SLAB / (EBB_SYNC_BLOCK * table->width);
    return n > 0 ? n : 1;
}

/* Rows of blocks [w, end) of a table of so many rows. */
static int64_t rows_of(int64_t rows, int64_t w, int64_t end)
{
    return ebb_min64(end * EBB_SYNC_BLOCK, rows) - w * EBB_SYNC_BLOCK;
}

static void see_own_tables(ebb_sync_t *s, int t)
{
    buffer_t *const *node = s->bucket[0].node_buf;
    for (int32_t i = 0; i < 2 * s->tree.lanes - 1; i++)
        s->view[i] = node[i] ? (ebb_view_t){.p = node[i]->table[t], .touched = node[i]->touched[t]} : (ebb_view_t){0};
}

/* Touched words of the views at and below a node. */
static void join_words(const ebb_sync_t *s, int32_t node, int64_t w, int64_t n, uint64_t *out)
{
    const ebb_view_t *view = &s->view[node];
    for (int64_t i = 0; view->p && i < n; i++)
        out[i] |= view->touched[w + i];
    if (view->p || s->tree.node[node].left < 0)
        return;
    join_words(s, s->tree.node[node].left, w, n, out);
    join_words(s, s->tree.node[node].right, w, n, out);
}

/* Zero what the nodes' buffers hold in blocks [w, end). */
static ebb_status_t clear_nodes(const ebb_sync_t *s, int t, int thread, int64_t w0, int64_t end)
{
    const table_t *table = &s->table[t];
    for (int32_t i = 0; i < 2 * s->tree.lanes - 1; i++) {
        buffer_t *buf = s->bucket[0].node_buf[i];
        for (int64_t w = w0; buf && w < end; w++) {
            if (!buf->touched[t][w])
                continue;
            size_t bytes = (size_t)(rows_of(table->rows, w, w + 1) * table->width) * 4;
            EBB_TRY(s->backend->ops->zero(s->exec[thread], buf->table[t] + w * EBB_SYNC_BLOCK * table->width, bytes));
            buf->touched[t][w] = 0;
        }
    }
    return EBB_OK;
}

/* ---- parcels ---- */

static int64_t part_bytes(const ebb_sync_t *s, int t, int owner)
{
    int64_t rows = ebb_sync_table_rows(s->table[t].rows, owner, s->owners);
    return (rows * s->table[t].width * 4 + 63) / 64 * 64 + (rows + 63) / 64 * 8;
}

/* Where piece p of table t starts in a parcel of `pieces` pieces to an owner; its whole size for t = n_tables. */
static int64_t part_offset(const ebb_sync_t *s, int t, int p, int pieces, int owner)
{
    int64_t at = 0;
    for (int i = 0; i < t; i++)
        at += s->table[i].dense ? (part_bytes(s, i, owner) + 63) / 64 * 64 * pieces : 0;
    return t < s->n_tables ? at + (part_bytes(s, t, owner) + 63) / 64 * 64 * p : at;
}

static float *part_floats(const ebb_sync_t *s, const parcel_t *parcel, int t, int p, int pieces, int owner)
{
    return (float *)(parcel->data + part_offset(s, t, p, pieces, owner));
}

static uint64_t *part_words(const ebb_sync_t *s, const parcel_t *parcel, int t, int p, int pieces, int owner)
{
    int64_t rows = ebb_sync_table_rows(s->table[t].rows, owner, s->owners);
    return (uint64_t *)(parcel->data + part_offset(s, t, p, pieces, owner) +
                        (rows * s->table[t].width * 4 + 63) / 64 * 64);
}

/* Deal the blocks [w, end) of a piece's sum out to the owners. */
static void deal_blocks(const table_job_t *job, int p, int64_t w, int64_t end, const uint64_t *words,
                        const float *found)
{
    ebb_sync_t *s = job->sync;
    const table_t *table = &s->table[job->t];
    int pieces = pieces_of(s, s->rank);
    for (int64_t i = w; i < end; i++) {
        int owner = (int)(i % s->ranks);
        int64_t block = i / s->ranks, n = rows_of(table->rows, i, i + 1) * table->width;
        float *to =
            part_floats(s, &s->send_tables[owner], job->t, p, pieces, owner) + block * EBB_SYNC_BLOCK * table->width;
        part_words(s, &s->send_tables[owner], job->t, p, pieces, owner)[block] = words[i - w];
        if (words[i - w])
            memcpy(to, found + (i - w) * EBB_SYNC_BLOCK * table->width, (size_t)n * 4);
        else
            memset(to, 0, (size_t)n * 4);
    }
}

static ebb_status_t deal_slab(void *user, int thread, int64_t index)
{
    const table_job_t *job = user;
    ebb_sync_t *s = job->sync;
    const table_t *table = &s->table[job->t];
    int64_t w = index * job->slab_words, end = ebb_min64(w + job->slab_words, table->words);
    uint64_t words[EBB_SYNC_SLAB / EBB_SYNC_BLOCK];
    for (int p = 0; p < pieces_of(s, s->rank); p++) {
        int32_t node = s->piece[s->piece0[s->rank] + p];
        ebb_tree_sum_t sum = ebb_sync_tree_sum(s, thread, w * EBB_SYNC_BLOCK * table->width,
                                               rows_of(table->rows, w, end) * table->width);
        const float *found;
        sum.word0 = w;
        sum.words = end - w;
        memset(words, 0, sizeof words);
        join_words(s, node, w, end - w, words);
        EBB_TRY(ebb_tree_sum(&sum, node, &found));
        deal_blocks(job, p, w, end, words, found);
    }
    return clear_nodes(s, job->t, thread, w, end);
}

ebb_status_t ebb_sync_tables_send(ebb_sync_t *s)
{
    int mine = pieces_of(s, s->rank);
    bool any = false;
    for (int t = 0; t < s->n_tables; t++)
        any |= s->table[t].dense;
    if (s->ranks == 1 || !any)
        return EBB_OK;
    for (int r = 0; r < s->ranks; r++) {
        EBB_TRY(ebb_sync_room(s, &s->send_tables[r], part_offset(s, s->n_tables, 0, mine, r)));
        EBB_TRY(ebb_sync_room(s, &s->recv_tables[r], part_offset(s, s->n_tables, 0, pieces_of(s, r), s->rank)));
        if (r != s->rank)
            EBB_TRY(ebb_sync_note_receive(s, s->recv_tables[r].data, s->recv_tables[r].bytes, r, EBB_TAG_TABLES));
    }
    for (int t = 0; t < s->n_tables; t++) {
        if (!s->table[t].dense)
            continue;
        table_job_t job = {.sync = s, .t = t, .slab_words = slab_words(&s->table[t])};
        see_own_tables(s, t);
        EBB_TRY(ebb_pool_run(s->pool, (s->table[t].words + job.slab_words - 1) / job.slab_words, deal_slab, &job));
    }
    for (int i = 1; i < s->ranks; i++) {
        int peer = (s->rank + i) % s->ranks;
        EBB_TRY(ebb_sync_note_send(s, s->send_tables[peer].data, s->send_tables[peer].bytes, peer, EBB_TAG_TABLES));
    }
    return EBB_OK;
}

/* ---- the owner's pass ---- */

#define WORDS_TASK ((int64_t)4096)

static ebb_status_t join_task(void *user, int thread, int64_t index)
{
    const table_job_t *job = user;
    table_t *table = &job->sync->table[job->t];
    int64_t w = index * WORDS_TASK, n = ebb_min64(WORDS_TASK, table->own_words - w);
    memset(table->own_touched + w, 0, (size_t)n * 8);
    join_words(job->sync, 0, w, n, table->own_touched + w);
    return EBB_OK;
}

/* Touched rows of one block to their places among the packed. */
static void pack_block(const ebb_sync_t *s, table_t *table, int64_t w, const float *found)
{
    int64_t n = table->word_rank[w];
    for (uint64_t left = table->own_touched[w]; left; left &= left - 1, n++) {
        int64_t o = __builtin_ctzll(left);
        const float *from = found + o * table->width;
        float *to = table->val + n * table->width;
        table->row[n] = (int32_t)ebb_sync_global_row(w * EBB_SYNC_BLOCK + o, s->owner, s->owners);
        for (int64_t c = 0; c < table->width; c++)
            to[c] = from[c] + 0.0f;
    }
}

static ebb_status_t pack_slab(void *user, int thread, int64_t index)
{
    const table_job_t *job = user;
    ebb_sync_t *s = job->sync;
    table_t *table = &s->table[job->t];
    int64_t w = index * job->slab_words, end = ebb_min64(w + job->slab_words, table->own_words);
    if (table->word_rank[w] == table->word_rank[end])
        return EBB_OK;
    ebb_tree_sum_t sum = ebb_sync_tree_sum(s, thread, w * EBB_SYNC_BLOCK * table->width,
                                           rows_of(table->own_rows, w, end) * table->width);
    const float *found;
    sum.word0 = w;
    sum.words = end - w;
    EBB_TRY(ebb_tree_sum(&sum, 0, &found));
    EBB_TRY(s->backend->ops->exec_sync(s->exec[thread]));
    for (int64_t i = w; i < end; i++)
        pack_block(s, table, i, found + (i - w) * EBB_SYNC_BLOCK * table->width);
    return job->clear ? clear_nodes(s, job->t, thread, w, end) : EBB_OK;
}

ebb_status_t ebb_sync_pack_own_rows(ebb_sync_t *s, int t, bool clear)
{
    table_t *table = &s->table[t];
    table_job_t job = {.sync = s, .t = t, .slab_words = slab_words(table), .clear = clear};
    EBB_TRY(ebb_pool_run(s->pool, (table->own_words + WORDS_TASK - 1) / WORDS_TASK, join_task, &job));
    table->word_rank[0] = 0;
    for (int64_t w = 0; w < table->own_words; w++)
        table->word_rank[w + 1] = table->word_rank[w] + __builtin_popcountll(table->own_touched[w]);
    table->n = table->word_rank[table->own_words];
    EBB_TRY(ebb_sync_room_for_sums(table, table->n));
    return ebb_pool_run(s->pool, (table->own_words + job.slab_words - 1) / job.slab_words, pack_slab, &job);
}

static void see_parcels(ebb_sync_t *s, int t)
{
    memset(s->view, 0, (size_t)(2 * s->tree.lanes - 1) * sizeof *s->view);
    for (int r = 0; r < s->ranks; r++) {
        const parcel_t *parcel = r == s->rank ? &s->send_tables[r] : &s->recv_tables[r];
        int pieces = pieces_of(s, r);
        for (int p = 0; p < pieces; p++)
            s->view[s->piece[s->piece0[r] + p]] = (ebb_view_t){.p = part_floats(s, parcel, t, p, pieces, s->rank),
                                                               .touched = part_words(s, parcel, t, p, pieces, s->rank)};
    }
}

ebb_status_t ebb_sync_tables_finish(ebb_sync_t *s)
{
    for (int t = 0; t < s->n_tables; t++) {
        if (!s->table[t].dense)
            continue;
        if (s->ranks == 1)
            see_own_tables(s, t);
        else
            see_parcels(s, t);
        EBB_TRY(ebb_sync_pack_own_rows(s, t, s->ranks == 1));
        if (s->ranks == 1)
            s->table[t].entries = s->lane_entries[t];
    }
    return EBB_OK;
}
