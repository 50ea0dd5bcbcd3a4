/* A rank's part in the gradient sums: what it holds, and the order of a step.
 *
 * begin decides how tables travel; lanes come in on any thread (lanes.c); reduce sends every owner its part of the
 * rank's pieces (the maximal subtrees it holds) and finishes the tree for what the rank owns (dense.c, tables.c,
 * rows.c; fast.c for the other mode); gather hands the new weights round (gather.c). Where lanes come bucket by bucket,
 * each is exchanged and summed by contexts of its own while lanes' contexts compute the next. Parts and rows are summed
 * by all pool threads; only the calling thread talks to other ranks.
 */
#include "sync/device.h"
#include "sync/lanes.h"
#include "sync/steps.h"
#include "base/clock.h"

#include <string.h>

#define SMALL_TABLE ((int64_t)64 << 10)  /* floats; dense until measured otherwise */
#define DENSE_BYTES ((int64_t)512 << 20) /* a table never travels dense when its lanes could need more */
#define CACHE_BYTES ((int64_t)8 << 20)   /* lane gradients may lie about until reduce if they fit in here */
#define DEVICE_SLAB ((int64_t)1 << 20)   /* floats that a device sums at a time */

static ebb_status_t make_pieces(ebb_sync_t *s)
{
    EBB_TRY(EBB_NEW_ARRAY("sync", s->ranks + 1, &s->piece0));
    for (int r = 0; r < s->ranks; r++)
        s->piece0[r + 1] = s->piece0[r] + ebb_tree_pieces(&s->tree, ebb_lane_first(s->tree.lanes, r, s->ranks),
                                                          ebb_lane_first(s->tree.lanes, r + 1, s->ranks), NULL);
    EBB_TRY(EBB_NEW_ARRAY("sync", s->piece0[s->ranks], &s->piece));
    for (int r = 0; r < s->ranks; r++)
        ebb_tree_pieces(&s->tree, ebb_lane_first(s->tree.lanes, r, s->ranks),
                        ebb_lane_first(s->tree.lanes, r + 1, s->ranks), s->piece + s->piece0[r]);
    return EBB_OK;
}

/* Depths at which subtrees meet, by their first lanes. */
static ebb_status_t make_meet(const ebb_sync_t *s, int n, const int32_t *lane, uint8_t **meet_p)
{
    EBB_TRY(EBB_NEW_ARRAY("sync", (int64_t)n * n, meet_p));
    for (int i = 0; i < n; i++)
        for (int j = i + 1; j < n; j++)
            (*meet_p)[i * n + j] = (uint8_t)ebb_tree_meet(&s->tree, lane[i], lane[j]);
    return EBB_OK;
}

/* Lists of the two merges of every table: own lanes into own pieces, all ranks' pieces into the whole. */
static ebb_status_t make_merges(ebb_sync_t *s)
{
    bool fast = s->mode == EBB_SYNC_FAST;
    int total = s->piece0[s->ranks], mine = pieces_of(s, s->rank);
    int lists = fast ? s->ranks : total, parts = fast ? 1 : mine;
    int32_t *lane = NULL, *part0 = NULL, whole[2] = {0, lists};
    uint8_t *meet_lanes = NULL, *meet_lists = NULL;
    ebb_merge_compute_t compute = {s->backend->ops, s->exec};
    ebb_status_t status;
    int room = s->n_lanes > lists ? s->n_lanes : lists;
    EBB_TRY_GOTO(status, EBB_NEW_ARRAY("sync", room, &lane), out);
    EBB_TRY_GOTO(status, EBB_NEW_ARRAY("sync", mine + 1, &part0), out);
    for (int i = 0; i < s->n_lanes; i++)
        lane[i] = s->lane0 + i;
    EBB_TRY_GOTO(status, make_meet(s, s->n_lanes, lane, &meet_lanes), out);
    for (int i = 0; i < lists; i++)
        lane[i] = fast ? ebb_lane_first(s->tree.lanes, i, s->ranks) : s->tree.node[s->piece[i]].lo;
    EBB_TRY_GOTO(status, make_meet(s, lists, lane, &meet_lists), out);
    for (int p = 0; p < parts; p++)
        part0[p] = fast ? 0 : s->tree.node[s->piece[s->piece0[s->rank] + p]].lo - s->lane0;
    part0[parts] = s->n_lanes;
    for (int t = 0; t < s->n_tables; t++) {
        table_t *table = &s->table[t];
        EBB_TRY_GOTO(status,
                     ebb_merge_init(&table->lanes, s->pool, compute, s->n_lanes, meet_lanes, parts, part0, s->owners,
                                    table->width, s->ranks == 1),
                     out);
        EBB_TRY_GOTO(
            status,
            ebb_merge_init(&table->pieces, s->pool, compute, lists, meet_lists, 1, whole, 1, table->width, true), out);
    }
out:
    ebb_free(lane);
    ebb_free(part0);
    ebb_free(meet_lanes);
    ebb_free(meet_lists);
    return status;
}

static ebb_status_t make_tables(ebb_sync_t *s)
{
    for (int t = 0; t < s->n_tables; t++) {
        const ebb_param_t *p = &s->layout->params[s->layout->table_param[t]];
        table_t *table = &s->table[t];
        if (p->rows > INT32_MAX - 1024)
            return EBB_FAIL(EBB_EUSAGE, "%s has %lld rows, more than the %d that row numbers can name", p->name,
                            (long long)p->rows, INT32_MAX - 1024);
        table->rows = p->rows;
        table->width = p->cols;
        table->words = (p->rows + 63) / 64;
        table->own_rows = ebb_sync_table_rows(p->rows, s->owner, s->owners);
        table->own_words = (table->own_rows + 63) / 64;
        table->entries = -1;
        table->may_choose = s->rows_mode == EBB_ROWS_AUTO;
        if (s->device)
            continue;
        EBB_TRY(EBB_NEW_ARRAY("sync", table->own_words, &table->own_touched));
        EBB_TRY(EBB_NEW_ARRAY("sync", table->own_words + 1, &table->word_rank));
    }
    return s->device ? ebb_sync_device_init(s) : make_merges(s);
}

static ebb_status_t make_messages(ebb_sync_t *s)
{
    parcel_t **parcels[] = {&s->send, &s->recv, &s->send_rows, &s->recv_rows, &s->send_tables, &s->recv_tables};
    int most = 1;
    for (size_t i = 0; i < sizeof parcels / sizeof *parcels; i++)
        EBB_TRY(EBB_NEW_ARRAY("sync messages", s->ranks, parcels[i]));
    for (int r = 0; r < s->ranks; r++)
        most = pieces_of(s, r) > most ? pieces_of(s, r) : most;
    s->words_each = s->n_tables * (1 + (int64_t)most);
    EBB_TRY(EBB_NEW_ARRAY("sync messages", s->words_each * s->ranks, &s->words_out));
    EBB_TRY(EBB_NEW_ARRAY("sync messages", (s->words_each + 1) * s->ranks, &s->words_in));
    EBB_TRY(EBB_NEW_ARRAY("sync messages", s->ranks, &s->gather_counts));
    EBB_TRY(EBB_NEW_ARRAY("sync messages", s->ranks, &s->gather_displs));
    s->max_requests = s->n_shares * (pieces_of(s, s->rank) * s->ranks + s->piece0[s->ranks]) + 4 * s->ranks;
    return EBB_NEW_ARRAY("sync messages", s->max_requests, &s->request);
}

/* Zeroed floats where the backend computes. */
static ebb_status_t make_floats(const ebb_sync_t *s, const char *what, int64_t n, float **p)
{
    return s->backend->ops->alloc(s->backend->dev, (size_t)n * sizeof **p, what, (void **)p);
}

static ebb_status_t make_scratch(ebb_sync_t *s)
{
    s->slab_stride = s->slab;
    for (int t = 0; !s->device && t < s->n_tables; t++)
        if (s->table[t].width * EBB_SYNC_BLOCK > s->slab_stride)
            s->slab_stride = s->table[t].width * EBB_SYNC_BLOCK;
    s->scratch_floats = s->slab_stride * (s->tree.depth + 1);
    EBB_TRY(make_floats(s, "sync scratch", s->scratch_floats * s->threads, &s->scratch));
    EBB_TRY(make_floats(s, "sync scratch", s->slab_stride, &s->zeros));
    s->formed_floats = EBB_SYNC_FORM;
    for (int t = 0; t < s->n_tables; t++)
        s->formed_floats = s->table[t].width > s->formed_floats ? s->table[t].width : s->formed_floats;
    EBB_TRY(EBB_NEW_ARRAY("sync scratch", s->formed_floats * s->threads, &s->formed));
    EBB_TRY(EBB_NEW_ARRAY("sync scratch", s->threads, &s->norm));
    EBB_TRY(EBB_NEW_ARRAY("sync scratch", EBB_SYNC_SLAB * s->threads, &s->segment));
    return make_floats(s, "gradient sums", s->own_floats, &s->dense_sum);
}

static ebb_status_t make_shares(ebb_sync_t *s)
{
    s->n_shares = ebb_layout_buckets(s->layout);
    EBB_TRY(EBB_NEW_ARRAY("sync", s->n_shares, &s->share));
    for (int i = 0; i < s->n_shares; i++) {
        s->share[i].own = ebb_sync_own(s->layout, i, s->owner, s->owners);
        EBB_TRY(EBB_NEW_ARRAY("sync", 2 * (int64_t)s->tree.lanes - 1, &s->share[i].view));
    }
    return EBB_OK;
}

/* Of the layout, or one for all of them. */
static ebb_status_t make_buckets(ebb_sync_t *s, int n)
{
    EBB_TRY(EBB_NEW_ARRAY("sync", n, &s->bucket));
    s->n_buckets = n;
    for (int i = 0; i < n; i++) {
        bucket_t *b = &s->bucket[i];
        b->end = s->layout->dense_floats;
        if (n > 1)
            ebb_layout_bucket(s->layout, i, &b->begin, &b->end);
        EBB_TRY(EBB_NEW_ARRAY("sync", 2 * (int64_t)s->tree.lanes - 1, &b->node_done));
        EBB_TRY(EBB_NEW_ARRAY("sync", 2 * (int64_t)s->tree.lanes - 1, &b->node_buf));
    }
    for (int32_t i = 0; i < s->n_lanes; i++)
        EBB_TRY(EBB_NEW_ARRAY("sync", n, &s->lane[i].last));
    return EBB_OK;
}

static void free_buckets(ebb_sync_t *s)
{
    for (int i = 0; s->bucket && i < s->n_buckets; i++) {
        ebb_free(s->bucket[i].node_done);
        ebb_free(s->bucket[i].node_buf);
    }
    for (int32_t i = 0; s->lane && i < s->n_lanes; i++) {
        ebb_free(s->lane[i].last);
        s->lane[i].last = NULL;
    }
    ebb_free(s->bucket);
    s->bucket = NULL;
}

ebb_status_t ebb_sync_use_buckets(ebb_sync_t *s)
{
    if (!s->device || s->mode != EBB_SYNC_CANONICAL)
        return EBB_FAIL(EBB_EBUG, "lanes come bucket by bucket on devices and for canonical sums only");
    free_buckets(s);
    return make_buckets(s, s->n_shares);
}

static ebb_status_t make_lanes(ebb_sync_t *s, int32_t lanes)
{
    s->lane0 = ebb_lane_first(lanes, s->rank, s->ranks);
    s->n_lanes = ebb_lane_first(lanes, s->rank + 1, s->ranks) - s->lane0;
    EBB_TRY(ebb_tree_init(&s->tree, lanes));
    EBB_TRY(EBB_NEW_ARRAY("sync", 2 * (int64_t)lanes - 1, &s->view));
    EBB_TRY(EBB_NEW_ARRAY("sync", s->n_lanes, &s->lane));
    EBB_TRY(make_shares(s));
    EBB_TRY(make_buckets(s, 1));
    return make_pieces(s);
}

static ebb_status_t check_arguments(const ebb_comm_t *comm, int32_t lanes)
{
    if (lanes < 1)
        return EBB_FAIL(EBB_EUSAGE, "a run needs at least 1 lane, not %d", lanes);
    if (ebb_comm_size(comm) > lanes)
        return EBB_FAIL(EBB_EUSAGE, "%d ranks but only %d lanes: start at most %d ranks, or set lanes: %d in a new run",
                        ebb_comm_size(comm), lanes, lanes, ebb_comm_size(comm));
    return EBB_OK;
}

ebb_status_t ebb_sync_create(ebb_comm_t *comm, ebb_backend_t *backend, struct ebb_pool *pool, ebb_exec_t **exec,
                             const ebb_layout_t *layout, int32_t lanes, ebb_sync_mode_t mode, ebb_rows_mode_t rows_mode,
                             ebb_sync_t **sync_p)
{
    ebb_sync_t *s;
    ebb_status_t status;
    *sync_p = NULL;
    EBB_TRY(check_arguments(comm, lanes));
    EBB_TRY(EBB_NEW("sync", &s));
    *s = (ebb_sync_t){.comm = comm,
                      .backend = backend,
                      .pool = pool,
                      .exec = exec,
                      .layout = layout,
                      .mode = mode,
                      .rows_mode = rows_mode,
                      .rank = ebb_comm_rank(comm),
                      .ranks = ebb_comm_size(comm),
                      .threads = ebb_pool_threads(pool),
                      .owners = 1,
                      .n_tables = layout->n_tables};
    pthread_mutex_init(&s->lock, NULL);
    if (mode == EBB_SYNC_CANONICAL) {
        s->owner = s->rank;
        s->owners = s->ranks;
    }
    s->own_floats = ebb_sync_own_floats(layout, s->owner, s->owners);
    s->sums.sync = s;
    s->sums.dense_floats = s->own_floats;
    s->device = !(backend->ops->caps & EBB_CAP_HOST_MEMORY);
    s->slab = s->device ? ebb_min64(DEVICE_SLAB, s->own_floats + 1) : EBB_SYNC_SLAB;
    EBB_TRY_GOTO(status, make_lanes(s, lanes), fail);
    EBB_TRY_GOTO(status, make_tables(s), fail);
    EBB_TRY_GOTO(status, make_messages(s), fail);
    EBB_TRY_GOTO(status, make_scratch(s), fail);
    *sync_p = s;
    return EBB_OK;
fail:
    ebb_sync_destroy(s);
    return status;
}

static void free_parcels(const ebb_sync_t *s, parcel_t *parcel)
{
    for (int r = 0; parcel && r < s->ranks; r++) {
        if (s->device)
            s->backend->ops->free(s->backend->dev, parcel[r].data);
        else
            ebb_free(parcel[r].data);
    }
    ebb_free(parcel);
}

static void free_table(const ebb_sync_t *s, table_t *table)
{
    if (table->lanes.pool)
        ebb_merge_cleanup(&table->lanes);
    if (table->pieces.pool)
        ebb_merge_cleanup(&table->pieces);
    if (!s->device) { /* else they are device.c's */
        ebb_free(table->row);
        ebb_free(table->local);
        ebb_free(table->val);
    }
    ebb_free(table->own_touched);
    ebb_free(table->word_rank);
}

void ebb_sync_destroy(ebb_sync_t *s)
{
    if (!s)
        return;
    free_buckets(s);
    ebb_sync_free_lanes(s);
    for (int i = 0; s->share && i < s->n_shares; i++)
        ebb_free(s->share[i].view);
    parcel_t *parcels[] = {s->send, s->recv, s->send_rows, s->recv_rows, s->send_tables, s->recv_tables};
    for (size_t i = 0; i < sizeof parcels / sizeof *parcels; i++)
        free_parcels(s, parcels[i]);
    for (int t = 0; t < EBB_MAX_TABLES; t++)
        free_table(s, &s->table[t]);
    float *floats[] = {s->scratch, s->zeros, s->dense_sum};
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++)
        s->backend->ops->free(s->backend->dev, floats[i]);
    ebb_pinned_free(s->backend, &s->squares);
    if (s->device)
        ebb_sync_device_cleanup(s);
    void *rest[] = {s->piece,    s->piece0,  s->share,         s->view,          s->words_out,
                    s->words_in, s->request, s->gather_counts, s->gather_displs, s->gathered.data,
                    s->norm,     s->segment, s->formed};
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++)
        ebb_free(rest[i]);
    ebb_tree_cleanup(&s->tree);
    pthread_mutex_destroy(&s->lock);
    ebb_free(s);
}

/* ---- a step ---- */

/* Whether a table's rows are cheaper as dense gradients: nanoseconds, roughly, of touching every float of every lane
 * against finding, copying and adding the rows. From numbers that all ranks know alike. */
static bool choose_dense(const ebb_sync_t *s, const table_t *table)
{
    int64_t floats = table->rows * table->width, lanes = s->tree.lanes;
    if (s->device)
        return false;
    if (!table->may_choose)
        return s->rows_mode == EBB_ROWS_DENSE;
    if (floats * 4 * ((lanes + s->ranks - 1) / s->ranks) > DENSE_BYTES)
        return false;
    if (table->entries < 0)
        return floats <= SMALL_TABLE;
    return (double)floats * (double)lanes * 0.3 < (double)table->entries * (10.0 + 1.0 * (double)table->width);
}

/* Largest subtree added at once: as small as the cache allows, since what is left to reduce is read once by all
 * threads. */
static int64_t choose_eager(const ebb_sync_t *s)
{
    int64_t bytes = s->layout->dense_floats * 4, n = s->n_lanes, m = 1;
    for (int t = 0; t < s->n_tables; t++)
        bytes += s->table[t].dense ? s->table[t].rows * s->table[t].width * 4 : 0;
    if (s->device) /* one buffer a piece, which is then sent from where it lies */
        return n;
    for (int log = 0; m < n; m *= 2, log++)
        if (bytes * ((n + m - 1) / m + s->threads * (int64_t)(log + 1)) <= CACHE_BYTES)
            break;
    return m;
}

ebb_status_t ebb_sync_begin(ebb_sync_t *s)
{
    for (int t = 0; t < s->n_tables; t++) {
        s->table[t].dense = choose_dense(s, &s->table[t]);
        s->stats.dense_steps[t] += s->table[t].dense;
    }
    s->eager = choose_eager(s);
    ebb_sync_release_nodes(s);
    ebb_sync_start_lanes(s);
    return EBB_OK;
}

ebb_status_t ebb_sync_room(ebb_sync_t *s, parcel_t *parcel, int64_t bytes)
{
    parcel->bytes = bytes;
    if (s->device && bytes > parcel->cap) {
        EBB_TRY(ebb_sync_settle(s)); /* freeing waits for the device */
        s->backend->ops->free(s->backend->dev, parcel->data);
        parcel->data = NULL;
        parcel->cap = 0;
        EBB_TRY(s->backend->ops->alloc(s->backend->dev, (size_t)bytes, "sync messages", (void **)&parcel->data));
        parcel->cap = bytes;
    }
    return ebb_grow("sync messages", (void **)&parcel->data, &parcel->cap, bytes, 1);
}

ebb_status_t ebb_sync_note_send(ebb_sync_t *s, const void *data, int64_t bytes, int peer, int tag)
{
    s->stats.bytes_sent += bytes;
    if (s->device) {
        s->part[s->n_parts++] = (ebb_part_t){(void *)data, bytes, peer, true};
        return EBB_OK;
    }
    return bytes > 0 ? ebb_comm_isend(s->comm, data, bytes, peer, tag, &s->request[s->n_requests++]) : EBB_OK;
}

ebb_status_t ebb_sync_note_receive(ebb_sync_t *s, void *data, int64_t bytes, int peer, int tag)
{
    if (s->device) {
        s->part[s->n_parts++] = (ebb_part_t){data, bytes, peer, false};
        return EBB_OK;
    }
    return bytes > 0 ? ebb_comm_irecv(s->comm, data, bytes, peer, tag, &s->request[s->n_requests++]) : EBB_OK;
}

ebb_status_t ebb_sync_await_all(ebb_sync_t *s)
{
    EBB_TRY(ebb_exec_join(s->backend->ops, s->threads, s->exec));
    EBB_TRY(ebb_sync_settle(s));
    return s->device ? s->backend->ops->exec_sync(s->exec[0]) : EBB_OK;
}

/* ---- on a device, which nobody waits for ---- */

ebb_status_t ebb_sync_ready(ebb_sync_t *s, int bucket, int n, ebb_exec_t *const *exec)
{
    for (int i = 0; i < n; i++)
        EBB_TRY(s->backend->ops->exec_mark(exec[i], EBB_SYNC_READY + bucket));
    s->bucket[bucket].ready = true;
    s->lanes = exec;
    s->n_lane_execs = n;
    return EBB_OK;
}

/* The contexts that add go on when lanes have come with a bucket of the layout. */
static ebb_status_t follow_lanes(const ebb_sync_t *s, int share)
{
    const bucket_t *b = bucket_with(s, share);
    if (!b->ready)
        return ebb_exec_join(s->backend->ops, s->threads, s->exec);
    for (int i = 0; i < s->n_lane_execs; i++)
        EBB_TRY(s->backend->ops->exec_await(s->exec[0], s->lanes[i], EBB_SYNC_READY + (int)(b - s->bucket)));
    return ebb_exec_join(s->backend->ops, s->threads, s->exec);
}

ebb_status_t ebb_sync_let_lanes_go(const ebb_sync_t *s)
{
    EBB_TRY(ebb_exec_join(s->backend->ops, s->threads, s->exec));
    for (int i = 0; s->lanes && i < s->n_lane_execs; i++)
        EBB_TRY(s->backend->ops->exec_await(s->lanes[i], s->exec[0], EBB_MARK_JOIN));
    return EBB_OK;
}

static ebb_status_t sum_tables(ebb_sync_t *s)
{
    EBB_TRY(ebb_sync_device_rows_send(s));
    EBB_TRY(ebb_sync_device_flush(s));
    EBB_TRY(ebb_sync_device_rows_finish(s));
    ebb_sync_release_nodes(s);
    return EBB_OK;
}

ebb_status_t ebb_sync_settle(ebb_sync_t *s)
{
    bool under_way = s->under_way;
    s->under_way = false;
    return under_way ? ebb_wire_finish(s->wire) : EBB_OK;
}

/* ---- a whole step's sums ---- */

static ebb_status_t reduce_canonical(ebb_sync_t *s)
{
    s->n_requests = 0;
    for (int i = 0; i < s->n_shares; i++)
        EBB_TRY(ebb_sync_dense_send(s, i));
    EBB_TRY(ebb_sync_tables_send(s));
    EBB_TRY(ebb_sync_rows_send(s));
    if (s->ranks > 1)
        EBB_TRY(ebb_comm_waitall(s->comm, s->n_requests, s->request));
    for (int i = 0; i < s->n_shares; i++)
        EBB_TRY(ebb_sync_dense_finish(s, i));
    EBB_TRY(ebb_sync_tables_finish(s));
    EBB_TRY(ebb_sync_rows_finish(s));
    if (!s->leave_dense)
        ebb_sync_release_nodes(s);
    return EBB_OK;
}

/* Local numbers of the own rows, and the table's sums for the caller. */
static ebb_status_t publish_table(ebb_sync_t *s, int t, int64_t n)
{
    table_t *table = &s->table[t];
    s->sums.table[t].n = n;
    s->sums.table[t].row = table->row;
    s->sums.table[t].local = table->row;
    s->sums.table[t].val = table->val;
    s->sums.table[t].parts = 0;
    if (s->device)
        s->sums.table[t].local = table->local;
    if (s->device || s->owners == 1)
        return EBB_OK;
    EBB_TRY(ebb_grow("gradient sums", (void **)&table->local, &table->local_cap, n, sizeof *table->local));
    for (int64_t i = 0; i < n; i++)
        table->local[i] = (int32_t)ebb_sync_local_row(table->row[i], s->owners);
    s->sums.table[t].local = table->local;
    return EBB_OK;
}

/* Room for the rows' numbers; they are filled in by ebb_sync_form. */
static ebb_status_t publish_parts(ebb_sync_t *s, int t)
{
    table_t *table = &s->table[t];
    EBB_TRY(ebb_grow("gradient sums", (void **)&table->row, &table->row_cap, table->n, sizeof *table->row));
    if (s->owners > 1)
        EBB_TRY(ebb_grow("gradient sums", (void **)&table->local, &table->local_cap, table->n, sizeof *table->local));
    s->sums.table[t].n = table->n;
    s->sums.table[t].row = table->row;
    s->sums.table[t].local = s->owners > 1 ? table->local : table->row;
    s->sums.table[t].val = NULL;
    s->sums.table[t].parts = table->parts->ranges;
    return EBB_OK;
}

ebb_status_t ebb_sync_room_for_sums(table_t *table, int64_t n)
{
    EBB_TRY(ebb_grow("gradient sums", (void **)&table->row, &table->row_cap, n, sizeof *table->row));
    return ebb_grow("gradient sums", (void **)&table->val, &table->val_cap, n * table->width, sizeof *table->val);
}

/* The sums so far, for the caller. */
static ebb_status_t publish(ebb_sync_t *s, ebb_sums_t **sums_p)
{
    EBB_TRY(ebb_exec_join(s->backend->ops, s->threads, s->exec)); /* slabs of the sums */
    for (int t = 0; t < s->n_tables; t++)
        EBB_TRY(s->table[t].parts ? publish_parts(s, t) : publish_table(s, t, s->table[t].n));
    s->sums.dense = s->leave_dense ? NULL : s->dense_sum;
    *sums_p = &s->sums;
    return EBB_OK;
}

ebb_status_t ebb_sync_reduce_bucket(ebb_sync_t *s, int bucket, ebb_sums_t **sums_p)
{
    int64_t start = ebb_now_ns();
    *sums_p = NULL;
    if (!s->device || s->mode != EBB_SYNC_CANONICAL)
        return EBB_FAIL(EBB_EBUG, "buckets are summed one by one on devices and canonically only");
    EBB_TRY(follow_lanes(s, bucket));
    EBB_TRY(ebb_sync_dense_send(s, bucket));
    EBB_TRY(ebb_sync_device_flush(s));
    EBB_TRY(ebb_sync_dense_finish(s, bucket));
    if (bucket == s->n_shares - 1)
        EBB_TRY(sum_tables(s));
    EBB_TRY(publish(s, sums_p));
    s->stats.reduce_ns += ebb_now_ns() - start;
    return EBB_OK;
}

static ebb_status_t reduce_on_device(ebb_sync_t *s, ebb_sums_t **sums_p)
{
    for (int i = 0; i < s->n_shares; i++)
        EBB_TRY(ebb_sync_reduce_bucket(s, i, sums_p));
    return EBB_OK;
}

static ebb_status_t reduce(ebb_sync_t *s, bool leave_parts, ebb_sums_t **sums_p)
{
    int64_t start = ebb_now_ns();
    *sums_p = NULL;
    if (s->device && s->mode == EBB_SYNC_CANONICAL)
        return reduce_on_device(s, sums_p);
    s->leave_parts = leave_parts;
    s->leave_dense = leave_parts;
    for (int t = 0; t < s->n_tables; t++)
        s->table[t].parts = NULL;
    EBB_TRY(follow_lanes(s, 0));
    EBB_TRY(s->mode == EBB_SYNC_FAST ? ebb_sync_reduce_fast(s) : reduce_canonical(s));
    EBB_TRY(publish(s, sums_p));
    s->stats.reduce_ns += ebb_now_ns() - start;
    return EBB_OK;
}

ebb_status_t ebb_sync_reduce(ebb_sync_t *s, ebb_sums_t **sums_p)
{
    return reduce(s, false, sums_p);
}

ebb_status_t ebb_sync_reduce_parts(ebb_sync_t *s, ebb_sums_t **sums_p)
{
    return reduce(s, s->mode == EBB_SYNC_CANONICAL, sums_p);
}

/* ---- sums formed where they are used ---- */

typedef struct form_job {
    const ebb_sync_t *sync;
    const table_t *table;
    ebb_rows_use_t use;
    void *user;
} form_job_t;

static ebb_status_t number_rows(void *user, int thread, int64_t at, int64_t n, const int32_t *row, const float *val)
{
    const form_job_t *job = user;
    const table_t *table = job->table;
    memcpy(table->row + at, row, (size_t)n * sizeof *row);
    if (job->sync->owners == 1)
        return job->use(job->user, thread, n, row, row, val);
    for (int64_t i = 0; i < n; i++)
        table->local[at + i] = (int32_t)ebb_sync_local_row(row[i], job->sync->owners);
    return job->use(job->user, thread, n, row, table->local + at, val);
}

ebb_status_t ebb_sync_form(ebb_sync_t *s, int t, int thread, int64_t part, ebb_rows_use_t use, void *user)
{
    const table_t *table = &s->table[t];
    form_job_t job = {s, table, use, user};
    return ebb_merge_range(table->parts, thread, part, s->formed_floats / table->width,
                           s->formed + thread * s->formed_floats, number_rows, &job);
}

void ebb_sync_use_wire(ebb_sync_t *s, const ebb_wire_t *wire)
{
    s->wire = wire;
}

void ebb_sync_place(const ebb_sync_t *s, int *owner_p, int *owners_p)
{
    *owner_p = s->owner;
    *owners_p = s->owners;
}

/* A thread has a lane under way, and on each level of the tree at most one sum that waits for its right half. */
int64_t ebb_sync_step_bytes(const ebb_sync_t *s)
{
    int64_t lanes = ebb_min64(s->n_lanes, (int64_t)s->threads * s->tree.depth) * s->layout->dense_floats * 4;
    int others = s->mode == EBB_SYNC_CANONICAL ? s->piece0[s->ranks] - pieces_of(s, s->rank) : 0;
    return lanes + others * s->own_floats * 4;
}

void ebb_sync_stats(const ebb_sync_t *s, ebb_sync_stats_t *stats)
{
    *stats = s->stats;
}
