/* Rows of tables on a device. A rank's lanes are summed into its pieces, each dealt by owner; what other owners need is
 * sent from where it lies; owners sum all ranks' pieces. It is rows.c with the backend's rows_find and rows_add instead
 * of the host's merge, and a wire between devices instead of the communicator, which carries the counts alone. */
#include "sync/device.h"
#include "sync/steps.h"
#include "sync/wire.h"

#include <string.h>

/* ---- memory that grows; what it holds is lost ---- */

static ebb_status_t room(const ebb_sync_t *s, ebb_device_room_t *room, int64_t bytes)
{
    const ebb_backend_ops_t *ops = s->backend->ops;
    if (bytes <= room->bytes)
        return EBB_OK;
    ops->free(s->backend->dev, room->ptr);
    *room = (ebb_device_room_t){0};
    EBB_TRY(ops->alloc(s->backend->dev, (size_t)(bytes + bytes / 4), "gradient rows", &room->ptr));
    room->bytes = bytes + bytes / 4;
    return EBB_OK;
}

static ebb_status_t rows_room(const ebb_sync_t *s, ebb_device_rows_t *rows, int64_t n, int64_t width)
{
    EBB_TRY(room(s, &rows->idx, n * (int64_t)sizeof(int32_t)));
    return room(s, &rows->val, n * width * (int64_t)sizeof(float));
}

static void free_rows(const ebb_sync_t *s, ebb_device_rows_t *rows)
{
    s->backend->ops->free(s->backend->dev, rows->idx.ptr);
    s->backend->ops->free(s->backend->dev, rows->val.ptr);
}

static ebb_rows_t list_of(const ebb_device_rows_t *rows, int64_t first, int64_t n, int64_t width)
{
    return (ebb_rows_t){.n = n,
                        .capacity = n,
                        .width = width,
                        .idx = (int32_t *)rows->idx.ptr + first,
                        .val = (float *)rows->val.ptr + first * width};
}

/* ---- setting up ---- */

static ebb_status_t make_table(ebb_sync_t *s, ebb_device_table_t *d)
{
    int pieces = pieces_of(s, s->rank);
    EBB_TRY(EBB_NEW_ARRAY("device rows", pieces, &d->piece));
    EBB_TRY(EBB_NEW_ARRAY("device rows", (int64_t)pieces * s->owners, &d->piece_n));
    return EBB_NEW_ARRAY("device rows", s->owners, &d->own_n);
}

/* Depths at which lanes [lane0, ...) meet. */
static void fill_meet(const ebb_sync_t *s, int n, const int32_t *lane, uint8_t *meet)
{
    for (int i = 0; i < n; i++)
        for (int j = i + 1; j < n; j++)
            meet[i * n + j] = (uint8_t)ebb_tree_meet(&s->tree, lane[i], lane[j]);
}

/* First lanes of all ranks' lists, which are pieces, or in fast mode a rank's sum. */
static ebb_status_t make_meet(ebb_sync_t *s)
{
    bool fast = s->mode == EBB_SYNC_FAST;
    int lists = fast ? s->ranks : s->piece0[s->ranks];
    int32_t *lane;
    EBB_TRY(EBB_NEW_ARRAY("device rows", lists, &lane));
    for (int i = 0; i < lists; i++)
        lane[i] = fast ? ebb_lane_first(s->tree.lanes, i, s->ranks) : s->tree.node[s->piece[i]].lo;
    ebb_status_t status = EBB_NEW_ARRAY("device rows", (int64_t)lists * lists, &s->device_meet);
    if (status == EBB_OK)
        fill_meet(s, lists, lane, s->device_meet);
    ebb_free(lane);
    return status;
}

ebb_status_t ebb_sync_device_init(ebb_sync_t *s)
{
    int64_t messages = (int64_t)pieces_of(s, s->rank) * s->ranks + s->piece0[s->ranks] + 2 * s->ranks;
    int64_t lists = s->n_lanes > s->piece0[s->ranks] ? s->n_lanes : s->piece0[s->ranks];
    for (int t = 0; t < s->n_tables; t++)
        EBB_TRY(make_table(s, &s->device_table[t]));
    EBB_TRY(make_meet(s));
    EBB_TRY(s->backend->ops->alloc(s->backend->dev, (size_t)(s->n_lanes * s->n_tables) * sizeof *s->lane_counts,
                                   "gradient rows", (void **)&s->lane_counts));
    EBB_TRY(EBB_NEW_ARRAY("device rows", (int64_t)s->n_lanes * s->n_lanes, &s->lanes_meet));
    EBB_TRY(EBB_NEW_ARRAY("device rows", lists, &s->list));
    EBB_TRY(EBB_NEW_ARRAY("device messages", messages * (1 + 2 * s->n_tables), &s->part));
    EBB_TRY(ebb_wire_staged(s->comm, s->backend->ops, s->exec[0], &s->staged));
    s->wire = &s->staged;
    return EBB_OK;
}

void ebb_sync_device_cleanup(ebb_sync_t *s)
{
    for (int t = 0; t < EBB_MAX_TABLES; t++) {
        ebb_device_table_t *d = &s->device_table[t];
        for (int p = 0; d->piece && p < pieces_of(s, s->rank); p++)
            free_rows(s, &d->piece[p]);
        free_rows(s, &d->received);
        free_rows(s, &d->sums);
        free_rows(s, &d->gathered);
        s->backend->ops->free(s->backend->dev, d->local.ptr);
        s->backend->ops->free(s->backend->dev, d->packed.ptr);
        ebb_free(d->piece);
        ebb_free(d->piece_n);
        ebb_free(d->own_n);
    }
    s->backend->ops->free(s->backend->dev, s->lane_counts);
    ebb_free(s->device_meet);
    ebb_free(s->lanes_meet);
    ebb_free(s->list);
    ebb_free(s->part);
    if (s->staged.ops)
        s->staged.ops->destroy(s->staged.state);
}

/* An event that is reached when the contexts have done all they were given. */
static ebb_status_t event_of_all(const ebb_sync_t *s, void **event_p)
{
    const ebb_backend_ops_t *ops = s->backend->ops;
    EBB_TRY(ebb_exec_join(ops, s->threads, s->exec));
    return ops->exec_event(s->exec[0], EBB_MARK_JOIN, event_p);
}

/* The contexts go on when the wire has done what it was given. */
static ebb_status_t follow_wire(ebb_sync_t *s)
{
    void *event;
    s->under_way = true;
    EBB_TRY(ebb_wire_event(s->wire, &event));
    for (int t = 0; event && t < s->threads; t++)
        EBB_TRY(s->backend->ops->exec_await_event(s->exec[t], event));
    return EBB_OK;
}

ebb_status_t ebb_sync_device_flush(ebb_sync_t *s)
{
    int64_t n = s->n_parts;
    void *after;
    s->n_parts = 0;
    if (n == 0)
        return EBB_OK;
    EBB_TRY(event_of_all(s, &after));
    EBB_TRY(ebb_wire_begin(s->wire, 1, &after, n, s->part));
    return follow_wire(s);
}

ebb_status_t ebb_sync_device_gather(ebb_sync_t *s, float *dense, const int64_t *counts, const int64_t *displs)
{
    void *after;
    EBB_TRY(event_of_all(s, &after));
    EBB_TRY(ebb_wire_gather(s->wire, 1, &after, dense, counts, displs));
    return follow_wire(s);
}

/* ---- a lane's rows ---- */

static ebb_status_t kept_room(const ebb_sync_t *s, kept_rows_t *kept, int64_t n, int64_t width)
{
    ebb_device_rows_t rows = {{kept->idx, kept->idx_cap}, {kept->val, kept->val_cap}};
    ebb_status_t status = rows_room(s, &rows, n, width);
    kept->idx = rows.idx.ptr;
    kept->idx_cap = rows.idx.bytes;
    kept->val = rows.val.ptr;
    kept->val_cap = rows.val.bytes;
    return status;
}

static ebb_rows_t rows_of(const kept_rows_t *kept, int64_t width)
{
    return (ebb_rows_t){.n = kept->n, .width = width, .idx = kept->idx, .val = kept->val, .count = kept->count};
}

/* count: where the device keeps the number of rows, if it knows that alone. */
static ebb_status_t keep_first(const ebb_sync_t *s, kept_rows_t *kept, int64_t *count, const ebb_rows_t *rows,
                               int64_t width, ebb_exec_t *exec)
{
    const ebb_backend_ops_t *ops = s->backend->ops;
    EBB_TRY(kept_room(s, kept, rows->n, width));
    EBB_TRY(ops->copy(exec, kept->idx, rows->idx, (size_t)rows->n * sizeof *rows->idx));
    EBB_TRY(ops->copy(exec, kept->val, rows->val, (size_t)(rows->n * width) * sizeof *rows->val));
    if (rows->count)
        EBB_TRY(ops->copy(exec, count, rows->count, sizeof *count));
    kept->count = rows->count ? count : NULL;
    kept->n = rows->n;
    return EBB_OK;
}

/* kept += rows, by way of spare. */
static ebb_status_t keep_more(const ebb_sync_t *s, const table_t *table, kept_rows_t *kept, kept_rows_t *spare,
                              const ebb_rows_t *rows, ebb_exec_t *exec)
{
    const ebb_backend_ops_t *ops = s->backend->ops;
    static const uint8_t meet[4];
    ebb_rows_t both[2] = {rows_of(kept, table->width), *rows};
    ebb_rows_merge_t merge = {
        .lists = 2, .list = both, .meet = meet, .rows = table->rows, .width = table->width, .owners = 1};
    int64_t n;
    EBB_TRY(ops->rows_find(exec, &merge, &n));
    EBB_TRY(kept_room(s, spare, n, table->width));
    EBB_TRY(ops->rows_add(exec, &merge, spare->idx, NULL, spare->val));
    kept_rows_t swap = *kept;
    *kept = *spare;
    *spare = swap;
    kept->count = NULL;
    kept->n = n;
    return EBB_OK;
}

ebb_status_t ebb_sync_device_keep(ebb_sync_t *s, lane_t *lane, ebb_exec_t *exec)
{
    for (int t = 0; t < s->n_tables; t++) {
        const ebb_rows_t *rows = &lane->grads.rows[t];
        const table_t *table = &s->table[t];
        if (lane->pieces == 0)
            EBB_TRY(keep_first(s, &lane->rows[t], s->lane_counts + (lane - s->lane) * s->n_tables + t, rows,
                               table->width, exec));
        else if (rows->n > 0)
            EBB_TRY(keep_more(s, table, &lane->rows[t], &lane->spare[t], rows, exec));
    }
    return EBB_OK;
}

/* ---- sums ---- */

/* Sum lists of a table, dealt by owner, into `out`. n (owners): rows of each. */
static ebb_status_t sum_lists(ebb_sync_t *s, int t, int lists, const uint8_t *meet, int owners, bool canonical,
                              int64_t *n, ebb_device_rows_t *out, ebb_device_room_t *local)
{
    const ebb_backend_ops_t *ops = s->backend->ops;
    const table_t *table = &s->table[t];
    ebb_rows_merge_t merge = {.lists = lists,
                              .list = s->list,
                              .meet = meet,
                              .rows = table->rows,
                              .width = table->width,
                              .owners = owners,
                              .canonical = canonical};
    int64_t total = 0;
    EBB_TRY(ebb_sync_settle(s)); /* before the host waits for numbers of rows */
    EBB_TRY(ops->rows_find(s->exec[0], &merge, n));
    for (int o = 0; o < owners; o++)
        total += n[o];
    EBB_TRY(rows_room(s, out, total, table->width));
    if (local)
        EBB_TRY(room(s, local, total * (int64_t)sizeof(int32_t)));
    EBB_TRY(ops->rows_add(s->exec[0], &merge, out->idx.ptr, local ? local->ptr : NULL, out->val.ptr));
    return EBB_OK;
}

/* Lanes [lo, hi) of this rank into out. */
static ebb_status_t sum_lanes(ebb_sync_t *s, int t, int32_t lo, int32_t hi, int owners, bool canonical, int64_t *n,
                              ebb_device_rows_t *out, ebb_device_room_t *local)
{
    int lists = hi - lo;
    for (int i = 0; i < lists; i++) {
        const kept_rows_t *kept = &s->lane[lo + i - s->lane0].rows[t];
        s->list[i] = rows_of(kept, s->table[t].width);
        for (int j = i + 1; j < lists; j++)
            s->lanes_meet[i * lists + j] = (uint8_t)ebb_tree_meet(&s->tree, lo + i, lo + j);
    }
    return sum_lists(s, t, lists, s->lanes_meet, owners, canonical, n, out, local);
}

/* The sums of the own rows, where the optimiser finds them. */
static void publish(ebb_sync_t *s, int t)
{
    ebb_device_table_t *d = &s->device_table[t];
    table_t *table = &s->table[t];
    table->n = 0;
    for (int o = 0; o < s->owners; o++)
        table->n += d->own_n[o];
    table->row = d->sums.idx.ptr;
    table->local = d->local.ptr;
    table->val = d->sums.val.ptr;
}

static int most_pieces(const ebb_sync_t *s)
{
    return (int)(s->words_each / s->n_tables) - 1;
}

static int64_t *count_of(const ebb_sync_t *s, int64_t *words, int rank, int t, int p)
{
    return &words[rank * s->words_each + t * most_pieces(s) + p];
}

static ebb_status_t exchange_counts(ebb_sync_t *s)
{
    int pieces = pieces_of(s, s->rank);
    memset(s->words_out, 0, (size_t)(s->words_each * s->ranks) * sizeof *s->words_out);
    for (int r = 0; r < s->ranks; r++)
        for (int t = 0; t < s->n_tables; t++)
            for (int p = 0; p < pieces; p++)
                *count_of(s, s->words_out, r, t, p) = s->device_table[t].piece_n[p * s->ranks + r];
    return ebb_comm_alltoall(s->comm, s->words_out, s->words_each * (int64_t)sizeof *s->words_out, s->words_in);
}

/* Rows that start at `first` of a store are a message to or from a peer. */
static ebb_status_t note_rows(ebb_sync_t *s, const ebb_device_rows_t *rows, int64_t first, int64_t n, int64_t width,
                              int peer, bool send)
{
    ebb_rows_t list = list_of(rows, first, n, width);
    int64_t idx = n * (int64_t)sizeof *list.idx, val = n * width * (int64_t)sizeof *list.val;
    EBB_TRY(send ? ebb_sync_note_send(s, list.idx, idx, peer, EBB_TAG_ROWS)
                 : ebb_sync_note_receive(s, list.idx, idx, peer, EBB_TAG_ROWS));
    return send ? ebb_sync_note_send(s, list.val, val, peer, EBB_TAG_ROWS)
                : ebb_sync_note_receive(s, list.val, val, peer, EBB_TAG_ROWS);
}

static ebb_status_t send_rows(ebb_sync_t *s, int t)
{
    const ebb_device_table_t *d = &s->device_table[t];
    for (int p = 0; p < pieces_of(s, s->rank); p++) {
        int64_t first = 0;
        for (int r = 0; r < s->ranks; first += d->piece_n[p * s->ranks + r++])
            if (r != s->rank)
                EBB_TRY(note_rows(s, &d->piece[p], first, d->piece_n[p * s->ranks + r], s->table[t].width, r, true));
    }
    return EBB_OK;
}

static ebb_status_t receive_rows(ebb_sync_t *s, int t)
{
    ebb_device_table_t *d = &s->device_table[t];
    int64_t total = 0, first = 0;
    for (int r = 0; r < s->ranks; r++)
        for (int p = 0; r != s->rank && p < pieces_of(s, r); p++)
            total += *count_of(s, s->words_in, r, t, p);
    EBB_TRY(rows_room(s, &d->received, total, s->table[t].width));
    for (int r = 0; r < s->ranks; r++)
        for (int p = 0; r != s->rank && p < pieces_of(s, r); p++) {
            int64_t n = *count_of(s, s->words_in, r, t, p);
            EBB_TRY(note_rows(s, &d->received, first, n, s->table[t].width, r, false));
            first += n;
        }
    return EBB_OK;
}

static ebb_status_t sum_alone(ebb_sync_t *s, int t)
{
    ebb_device_table_t *d = &s->device_table[t];
    EBB_TRY(sum_lanes(s, t, s->lane0, s->lane0 + s->n_lanes, 1, true, d->own_n, &d->sums, &d->local));
    publish(s, t);
    return EBB_OK;
}

ebb_status_t ebb_sync_device_rows_send(ebb_sync_t *s)
{
    for (int t = 0; t < s->n_tables; t++) {
        ebb_device_table_t *d = &s->device_table[t];
        if (s->ranks == 1) {
            EBB_TRY(sum_alone(s, t));
            continue;
        }
        for (int p = 0; p < pieces_of(s, s->rank); p++) {
            const ebb_node_t *node = &s->tree.node[s->piece[s->piece0[s->rank] + p]];
            EBB_TRY(
                sum_lanes(s, t, node->lo, node->hi, s->ranks, false, d->piece_n + p * s->ranks, &d->piece[p], NULL));
        }
    }
    if (s->ranks == 1 || s->n_tables == 0)
        return EBB_OK;
    EBB_TRY(exchange_counts(s));
    for (int t = 0; t < s->n_tables; t++) {
        EBB_TRY(receive_rows(s, t));
        EBB_TRY(send_rows(s, t));
    }
    return EBB_OK;
}

/* All ranks' pieces of a table that this rank owns rows of, in the order of the lanes. */
static void list_pieces(ebb_sync_t *s, int t)
{
    const ebb_device_table_t *d = &s->device_table[t];
    int64_t width = s->table[t].width, first = 0;
    for (int r = 0; r < s->ranks; r++)
        for (int p = 0; p < pieces_of(s, r); p++) {
            ebb_rows_t *list = &s->list[s->piece0[r] + p];
            if (r != s->rank) {
                int64_t n = *count_of(s, s->words_in, r, t, p);
                *list = list_of(&d->received, first, n, width);
                first += n;
                continue;
            }
            int64_t before = 0;
            for (int o = 0; o < s->rank; o++)
                before += d->piece_n[p * s->ranks + o];
            *list = list_of(&d->piece[p], before, d->piece_n[p * s->ranks + s->rank], width);
        }
}

ebb_status_t ebb_sync_device_rows_finish(ebb_sync_t *s)
{
    for (int t = 0; s->ranks > 1 && t < s->n_tables; t++) {
        ebb_device_table_t *d = &s->device_table[t];
        list_pieces(s, t);
        EBB_TRY(sum_lists(s, t, s->piece0[s->ranks], s->device_meet, s->owners, true, d->own_n, &d->sums, &d->local));
        publish(s, t);
    }
    return EBB_OK;
}

/* ---- lists to all ---- */

/* Every rank's n rows of a store to all, into `all`, rank after rank: counts in s->words_in. */
static ebb_status_t spread(ebb_sync_t *s, const ebb_device_rows_t *mine, int64_t n, int64_t width,
                           ebb_device_rows_t *all)
{
    int64_t total = 0, first = 0;
    EBB_TRY(ebb_sync_settle(s)); /* before the host waits for others */
    EBB_TRY(ebb_comm_allgather(s->comm, &n, sizeof n, s->words_in));
    for (int r = 0; r < s->ranks; r++)
        total += s->words_in[r];
    EBB_TRY(rows_room(s, all, total, width));
    for (int r = 0; r < s->ranks; first += s->words_in[r++]) {
        if (r == s->rank)
            continue;
        EBB_TRY(note_rows(s, all, first, s->words_in[r], width, r, false));
        EBB_TRY(note_rows(s, mine, 0, n, width, r, true));
    }
    return ebb_sync_device_flush(s);
}

ebb_status_t ebb_sync_device_rows_fast(ebb_sync_t *s, int t)
{
    ebb_device_table_t *d = &s->device_table[t];
    int64_t width = s->table[t].width, n, first = 0;
    if (s->ranks == 1)
        return sum_alone(s, t);
    EBB_TRY(sum_lanes(s, t, s->lane0, s->lane0 + s->n_lanes, 1, false, &n, &d->piece[0], NULL));
    EBB_TRY(spread(s, &d->piece[0], n, width, &d->received));
    for (int r = 0; r < s->ranks; first += s->words_in[r++])
        s->list[r] =
            r == s->rank ? list_of(&d->piece[0], 0, n, width) : list_of(&d->received, first, s->words_in[r], width);
    EBB_TRY(sum_lists(s, t, s->ranks, s->device_meet, 1, true, d->own_n, &d->sums, &d->local));
    publish(s, t);
    return EBB_OK;
}

ebb_status_t ebb_sync_device_gather_rows(ebb_sync_t *s, ebb_weights_t *weights)
{
    const ebb_backend_ops_t *ops = s->backend->ops;
    for (int t = 0; t < s->n_tables; t++) {
        ebb_device_table_t *d = &s->device_table[t];
        int64_t width = s->table[t].width, n = s->table[t].n, first = 0;
        EBB_TRY(ebb_sync_settle(s)); /* room that grows waits for the device */
        EBB_TRY(room(s, &d->packed, n * width * (int64_t)sizeof(float)));
        EBB_TRY(ops->get_rows(s->exec[0], n, width, s->table[t].row, weights->table[t], d->packed.ptr));
        ebb_device_rows_t mine = {d->sums.idx, d->packed};
        EBB_TRY(spread(s, &mine, n, width, &d->gathered));
        for (int r = 0; r < s->ranks; first += s->words_in[r++]) {
            ebb_rows_t list = list_of(&d->gathered, first, s->words_in[r], width);
            if (r != s->rank)
                EBB_TRY(ops->set_rows(s->exec[0], list.n, width, list.idx, list.val, weights->table[t]));
        }
    }
    return EBB_OK;
}
