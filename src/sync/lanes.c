/* Lane gradients as they come in: buffers for them, rows kept until reduce, subtrees added as soon as both halves are
 * there.
 *
 * A buffer belongs to a lane from lane_grads to lane_done, then to a node of the tree; two complete siblings of at most
 * `eager` lanes are added by the thread that completed the second, into the left one's buffer, and the right one's is
 * free again. A lane whose left sibling is complete before the lane begins may be given that sibling's buffer to add
 * its gradient to: the same addition, done by the model. The lock guards lists and node states, never an addition. Fast
 * mode has no nodes: a buffer with sums is handed to the next lane, which adds to it.
 *
 * Where lanes come bucket by bucket, each bucket has nodes and buffers of its own, and buffers of different buckets
 * share a dense vector: no more of them are needed than for lanes that come whole.
 *
 * On a device nobody waits for passes or additions: a buffer knows the context that was given work on it last, and the
 * next one to be given some begins after the mark that was set behind that work (or a later one: contexts take turns in
 * a step far fewer times than they have lanes). The host waits where it reads what a pass wrote, which is never so on a
 * device.
 */
#include "sync/lanes.h"
#include "sync/device.h"

#include <string.h>

/* ---- buffers ---- */

/* The i-th dense vector. */
static ebb_status_t find_store(ebb_sync_t *s, int i, float **dense_p)
{
    EBB_TRY(ebb_grow("lane gradients", (void **)&s->store, &s->stores_cap, i + 1, sizeof *s->store));
    if (i == s->stores) {
        EBB_TRY(s->backend->ops->alloc(s->backend->dev, (size_t)s->layout->dense_floats * 4, "lane gradients",
                                       (void **)&s->store[i]));
        s->stores++;
    }
    *dense_p = s->store[i];
    return EBB_OK;
}

static ebb_status_t fill_buffer(ebb_sync_t *s, buffer_t *buf)
{
    const ebb_backend_ops_t *ops = s->backend->ops;
    if (!buf->dense) {
        EBB_TRY(find_store(s, s->bucket[buf->bucket].buffers, &buf->dense));
        s->bucket[buf->bucket].buffers++;
    }
    for (int t = 0; t < s->n_tables; t++) {
        const table_t *table = &s->table[t];
        if (!table->dense || buf->touched[t])
            continue;
        if (!buf->table[t])
            EBB_TRY(ops->alloc(s->backend->dev, (size_t)(table->rows * table->width) * 4, "lane gradients",
                               (void **)&buf->table[t]));
        EBB_TRY(ops->alloc(s->backend->dev, (size_t)table->words * 8, "lane gradients", (void **)&buf->touched[t]));
    }
    return EBB_OK;
}

ebb_status_t ebb_sync_take_buffer(ebb_sync_t *s, int bucket, buffer_t **buf_p)
{
    buffer_t **list = &s->bucket[bucket].free_list, *buf = *list;
    if (buf) {
        *list = buf->next;
    } else {
        EBB_TRY(EBB_NEW("lane gradients", &buf));
        buf->bucket = bucket;
        buf->next_all = s->all;
        s->all = buf;
    }
    buf->next = NULL;
    buf->used = false;
    *buf_p = buf;
    return fill_buffer(s, buf);
}

void ebb_sync_free_buffer(ebb_sync_t *s, buffer_t *buf)
{
    if (!buf)
        return;
    bucket_t *b = &s->bucket[buf->bucket];
    buf->next = b->free_list;
    b->free_list = buf;
}

/* Run of touched words from w on; returns its end. */
static int64_t run_end(const uint64_t *touched, int64_t w, int64_t words)
{
    while (w < words && touched[w])
        w++;
    return w;
}

ebb_status_t ebb_sync_move_table(const ebb_sync_t *s, int t, ebb_exec_t *exec, buffer_t *from, buffer_t *into)
{
    const table_t *table = &s->table[t];
    uint64_t *touched = from->touched[t];
    for (int64_t w = 0; w < table->words; w++) {
        if (!touched[w])
            continue;
        int64_t end = run_end(touched, w, table->words);
        int64_t at = w * EBB_SYNC_BLOCK * table->width;
        int64_t n = ebb_min64(end * EBB_SYNC_BLOCK, table->rows) * table->width - at;
        EBB_TRY(s->backend->ops->add(exec, n, into->table[t] + at, from->table[t] + at, into->table[t] + at));
        EBB_TRY(s->backend->ops->zero(exec, from->table[t] + at, (size_t)n * 4));
        for (; w < end; w++) {
            into->touched[t][w] |= touched[w];
            touched[w] = 0;
        }
    }
    return EBB_OK;
}

/* What a context is given from now on begins after what was done to the buffer. */
static ebb_status_t follow(const ebb_sync_t *s, ebb_exec_t *exec, const buffer_t *buf)
{
    if (!buf->user || buf->user == exec)
        return EBB_OK;
    return s->backend->ops->exec_await(exec, buf->user, EBB_SYNC_MARK);
}

/* A context was given work on a buffer. */
static ebb_status_t leave(const ebb_sync_t *s, ebb_exec_t *exec, buffer_t *buf)
{
    if (!s->device)
        return s->backend->ops->exec_sync(exec);
    buf->user = exec;
    return s->backend->ops->exec_mark(exec, EBB_SYNC_MARK);
}

/* Before the host reads what passes wrote. */
static ebb_status_t await_passes(const ebb_sync_t *s, ebb_exec_t *exec)
{
    return s->device ? EBB_OK : s->backend->ops->exec_sync(exec);
}

static ebb_status_t add_buffer(const ebb_sync_t *s, ebb_exec_t *exec, buffer_t *left, buffer_t *right)
{
    const bucket_t *b = &s->bucket[left->bucket];
    float *sum = left->dense + b->begin;
    EBB_TRY(follow(s, exec, left));
    EBB_TRY(follow(s, exec, right));
    EBB_TRY(s->backend->ops->add(exec, b->end - b->begin, sum, right->dense + b->begin, sum));
    for (int t = 0; t < s->n_tables; t++)
        if (s->table[t].dense)
            EBB_TRY(ebb_sync_move_table(s, t, exec, right, left));
    EBB_TRY(leave(s, exec, right));
    return leave(s, exec, left);
}

/* ---- rows ---- */

static ebb_status_t room_for(kept_rows_t *kept, int64_t n, int64_t width)
{
    EBB_TRY(ebb_grow("lane rows", (void **)&kept->idx, &kept->idx_cap, n, sizeof *kept->idx));
    return ebb_grow("lane rows", (void **)&kept->val, &kept->val_cap, n * width, sizeof *kept->val);
}

static ebb_status_t keep_first(kept_rows_t *kept, const ebb_rows_t *rows, int64_t width)
{
    kept->n = 0;
    EBB_TRY(room_for(kept, rows->n, width));
    if (rows->n > 0) {
        memcpy(kept->idx, rows->idx, (size_t)rows->n * sizeof *kept->idx);
        memcpy(kept->val, rows->val, (size_t)(rows->n * width) * sizeof *kept->val);
    }
    kept->n = rows->n;
    return EBB_OK;
}

/* out = a + b, row by row. */
static void join_rows(const kept_rows_t *a, const ebb_rows_t *b, int64_t width, kept_rows_t *out)
{
    int64_t i = 0, j = 0, n = 0;
    for (; i < a->n || j < b->n; n++) {
        bool has_a = i < a->n && (j == b->n || a->idx[i] <= b->idx[j]);
        bool has_b = j < b->n && (i == a->n || b->idx[j] <= a->idx[i]);
        const float *va = a->val + i * width, *vb = b->val + j * width;
        float *vo = out->val + n * width;
        out->idx[n] = has_a ? a->idx[i] : b->idx[j];
        if (has_a && has_b)
            for (int64_t c = 0; c < width; c++)
                vo[c] = va[c] + vb[c];
        else
            memcpy(vo, has_a ? va : vb, (size_t)width * sizeof *vo);
        i += has_a;
        j += has_b;
    }
    out->n = n;
}

static ebb_status_t keep_more(lane_t *lane, int t, int64_t width)
{
    kept_rows_t *kept = &lane->rows[t], *spare = &lane->spare[t];
    const ebb_rows_t *rows = &lane->grads.rows[t];
    if (rows->n == 0)
        return EBB_OK;
    EBB_TRY(room_for(spare, kept->n + rows->n, width));
    join_rows(kept, rows, width, spare);
    kept_rows_t swap = *kept;
    *kept = *spare;
    *spare = swap;
    return EBB_OK;
}

static ebb_status_t check_width(const ebb_sync_t *s, int t, int64_t n, int64_t width)
{
    if (n > 0 && width != s->table[t].width)
        return EBB_FAIL(EBB_EBUG, "gradient rows of table %d are %lld floats wide, the table %lld", t, (long long)width,
                        (long long)s->table[t].width);
    return EBB_OK;
}

static ebb_status_t keep_rows(ebb_sync_t *s, lane_t *lane, ebb_exec_t *exec)
{
    for (int t = 0; t < s->n_tables; t++) {
        if (s->table[t].dense)
            continue;
        EBB_TRY(check_width(s, t, lane->grads.rows[t].n, lane->grads.rows[t].width));
        EBB_TRY(check_width(s, t, lane->terms[t].n, lane->terms[t].width));
        if (lane->terms[t].n > 0 || s->device)
            continue;
        if (lane->pieces == 0)
            EBB_TRY(keep_first(&lane->rows[t], &lane->grads.rows[t], s->table[t].width));
        else
            EBB_TRY(keep_more(lane, t, s->table[t].width));
    }
    return s->device ? ebb_sync_device_keep(s, lane, exec) : EBB_OK;
}

/* The first of several pieces: its terms become rows, to which the others are added. */
static ebb_status_t form_rows(ebb_sync_t *s, lane_t *lane, ebb_exec_t *exec)
{
    for (int t = 0; t < s->n_tables; t++) {
        ebb_terms_t *terms = &lane->terms[t];
        kept_rows_t *kept = &lane->rows[t];
        lane->grads.terms[t] = NULL;
        if (terms->n == 0)
            continue;
        EBB_TRY(room_for(kept, terms->n, terms->width));
        memcpy(kept->idx, terms->idx, (size_t)terms->n * sizeof *kept->idx);
        EBB_TRY(s->backend->ops->terms_sum(exec, terms, 0, terms->n, kept->val));
        EBB_TRY(s->backend->ops->exec_sync(exec));
        kept->n = terms->n;
        terms->n = 0;
    }
    return EBB_OK;
}

/* ---- lanes ---- */

static lane_t *find_lane(ebb_sync_t *s, int32_t lane)
{
    return lane >= s->lane0 && lane < s->lane0 + s->n_lanes ? &s->lane[lane - s->lane0] : NULL;
}

static ebb_status_t not_ours(const ebb_sync_t *s, int32_t lane)
{
    return EBB_FAIL(EBB_EBUG, "lane %d is not one of this rank's lanes %d .. %d", lane, s->lane0,
                    s->lane0 + s->n_lanes - 1);
}

/* Of free buffers a lane takes its last one first, so that on a device its passes are the same in every step. */
static void prefer(buffer_t **list, buffer_t *wanted)
{
    buffer_t **at = list;
    while (*at && *at != wanted)
        at = &(*at)->next;
    if (!*at)
        return;
    *at = wanted->next;
    wanted->next = *list;
    *list = wanted;
}

static ebb_status_t lend_buffer(ebb_sync_t *s, int bucket, buffer_t *wanted, buffer_t **buf_p)
{
    ebb_status_t status = EBB_OK;
    pthread_mutex_lock(&s->lock);
    if (s->partial) {
        *buf_p = s->partial;
        s->partial = (*buf_p)->next;
    } else {
        if (s->device)
            prefer(&s->bucket[bucket].free_list, wanted);
        status = ebb_sync_take_buffer(s, bucket, buf_p);
    }
    pthread_mutex_unlock(&s->lock);
    return status;
}

static bool is_own(const ebb_sync_t *s, int32_t node)
{
    if (node < 0)
        return false;
    const ebb_node_t *n = &s->tree.node[node];
    return n->lo >= s->lane0 && n->hi <= s->lane0 + s->n_lanes;
}

/* Whether a node is this rank's and small enough to be added at once. */
static bool is_eager(const ebb_sync_t *s, int32_t node)
{
    return is_own(s, node) && s->tree.node[node].hi - s->tree.node[node].lo <= s->eager;
}

/* The sum to which a lane may add its gradient itself: its left sibling's, when that is complete; else NULL. */
static buffer_t *sibling_sum(ebb_sync_t *s, int32_t lane, const bucket_t *b)
{
    int32_t node = s->tree.leaf[lane], up = s->tree.node[node].parent;
    if (s->mode == EBB_SYNC_FAST || s->n_tables > 0 || !is_own(s, up) || s->tree.node[up].right != node)
        return NULL;
    int32_t left = s->tree.node[up].left;
    pthread_mutex_lock(&s->lock);
    buffer_t *buf = b->node_done[left] ? b->node_buf[left] : NULL;
    if (buf)
        b->node_buf[left] = NULL;
    pthread_mutex_unlock(&s->lock);
    return buf;
}

ebb_status_t ebb_sync_lane_grads(ebb_sync_t *s, int32_t number, int bucket, bool whole, ebb_exec_t *exec,
                                 ebb_grads_t **grads_p)
{
    lane_t *lane = find_lane(s, number);
    *grads_p = NULL;
    if (!lane)
        return not_ours(s, number);
    lane->buf = whole ? sibling_sum(s, number, &s->bucket[bucket]) : NULL;
    lane->joined = lane->buf != NULL;
    if (!lane->joined)
        EBB_TRY(lend_buffer(s, bucket, lane->last[bucket], &lane->buf));
    lane->last[bucket] = lane->buf;
    EBB_TRY(follow(s, exec, lane->buf));
    lane->pieces = 0;
    lane->grads = (ebb_grads_t){.dense = lane->buf->dense, .accumulate = lane->joined || lane->buf->used};
    for (int t = 0; t < s->n_tables; t++) {
        lane->rows[t].n = lane->terms[t].n = 0;
        if (!s->device && !s->table[t].dense && s->table[t].width >= EBB_SYNC_TERMS)
            lane->grads.terms[t] = &lane->terms[t];
        if (s->table[t].dense) {
            lane->grads.table_dense[t] = lane->buf->table[t];
            lane->grads.touched[t] = lane->buf->touched[t];
        }
    }
    *grads_p = &lane->grads;
    return EBB_OK;
}

/* Each piece's dense table gradient starts from zero and is added to the pieces before it, as rows are: the same bits
 * either way. */
static ebb_status_t keep_dense_tables(ebb_sync_t *s, lane_t *lane, ebb_exec_t *exec)
{
    bool any = false;
    for (int t = 0; t < s->n_tables; t++)
        any |= s->table[t].dense;
    if (!any || s->mode == EBB_SYNC_FAST)
        return EBB_OK;
    if (!lane->earlier) {
        pthread_mutex_lock(&s->lock);
        ebb_status_t status = ebb_sync_take_buffer(s, 0, &lane->earlier);
        pthread_mutex_unlock(&s->lock);
        EBB_TRY(status);
    }
    for (int t = 0; t < s->n_tables; t++)
        if (s->table[t].dense)
            EBB_TRY(ebb_sync_move_table(s, t, exec, lane->buf, lane->earlier));
    return EBB_OK;
}

ebb_status_t ebb_sync_lane_piece(ebb_sync_t *s, int32_t number, ebb_exec_t *exec)
{
    lane_t *lane = find_lane(s, number);
    if (!lane || !lane->buf)
        return not_ours(s, number);
    if (lane->joined)
        return EBB_FAIL(EBB_EBUG, "lane %d was promised in one piece and comes in several", number);
    EBB_TRY(await_passes(s, exec));
    EBB_TRY(keep_rows(s, lane, exec));
    EBB_TRY(form_rows(s, lane, exec));
    EBB_TRY(keep_dense_tables(s, lane, exec));
    memset(lane->grads.rows, 0, sizeof lane->grads.rows);
    lane->grads.accumulate = true;
    lane->pieces++;
    return EBB_OK;
}

static int64_t count_touched(const ebb_sync_t *s, const lane_t *lane, int t)
{
    if (!s->table[t].dense)
        return lane->rows[t].n + lane->terms[t].n;
    int64_t n = 0;
    for (int64_t w = 0; w < s->table[t].words; w++)
        n += __builtin_popcountll(lane->buf->touched[t][w]);
    return n;
}

/* The tables' part of a lane that is complete. */
static ebb_status_t close_tables(ebb_sync_t *s, lane_t *lane, ebb_exec_t *exec)
{
    if (lane->pieces == 0)
        EBB_TRY(keep_rows(s, lane, exec));
    if (lane->earlier) {
        for (int t = 0; t < s->n_tables; t++)
            if (s->table[t].dense)
                EBB_TRY(ebb_sync_move_table(s, t, exec, lane->earlier, lane->buf));
    }
    int64_t n[EBB_MAX_TABLES];
    for (int t = 0; t < s->n_tables; t++)
        n[t] = count_touched(s, lane, t);
    pthread_mutex_lock(&s->lock);
    for (int t = 0; t < s->n_tables; t++)
        s->lane_entries[t] += n[t];
    ebb_sync_free_buffer(s, lane->earlier);
    lane->earlier = NULL;
    pthread_mutex_unlock(&s->lock);
    return EBB_OK;
}

static ebb_status_t close_lane(ebb_sync_t *s, lane_t *lane, int bucket, ebb_exec_t *exec)
{
    EBB_TRY(await_passes(s, exec));
    if (bucket == s->n_buckets - 1)
        EBB_TRY(close_tables(s, lane, exec));
    return s->device ? leave(s, exec, lane->buf) : EBB_OK;
}

/* Set a node's sum, then add up the tree as far as siblings are complete. */
static ebb_status_t complete_node(ebb_sync_t *s, const bucket_t *bucket, int32_t node, buffer_t *buf, ebb_exec_t *exec)
{
    pthread_mutex_lock(&s->lock);
    for (;;) {
        bucket->node_done[node] = 1;
        bucket->node_buf[node] = buf;
        int32_t up = s->tree.node[node].parent;
        if (!is_eager(s, up))
            break;
        int32_t left = s->tree.node[up].left, right = s->tree.node[up].right;
        if (!bucket->node_done[left] || !bucket->node_done[right])
            break;
        buffer_t *a = bucket->node_buf[left], *b = bucket->node_buf[right];
        bucket->node_buf[left] = bucket->node_buf[right] = NULL;
        if (a && b) {
            pthread_mutex_unlock(&s->lock);
            EBB_TRY(add_buffer(s, exec, a, b));
            pthread_mutex_lock(&s->lock);
            ebb_sync_free_buffer(s, b);
        }
        buf = a ? a : b;
        node = up;
    }
    pthread_mutex_unlock(&s->lock);
    return EBB_OK;
}

static void give_back(ebb_sync_t *s, buffer_t *buf)
{
    pthread_mutex_lock(&s->lock);
    if (buf->used) {
        buf->next = s->partial;
        s->partial = buf;
    } else {
        ebb_sync_free_buffer(s, buf);
    }
    pthread_mutex_unlock(&s->lock);
}

ebb_status_t ebb_sync_lane_done(ebb_sync_t *s, int32_t number, int bucket, bool has_rows, ebb_exec_t *exec)
{
    lane_t *lane = find_lane(s, number);
    if (!lane)
        return not_ours(s, number);
    buffer_t *buf = lane->buf;
    if (has_rows && !buf)
        return EBB_FAIL(EBB_EBUG, "lane %d is complete, but nobody asked for its buffers", number);
    if (has_rows)
        EBB_TRY(close_lane(s, lane, bucket, exec));
    int32_t node = s->tree.leaf[number];
    lane->buf = NULL;
    if (lane->joined) {
        lane->joined = false;
        return complete_node(s, &s->bucket[bucket], s->tree.node[node].parent, buf, exec);
    }
    if (buf && (!has_rows || s->mode == EBB_SYNC_FAST)) {
        buf->used |= has_rows;
        give_back(s, buf);
    }
    if (s->mode == EBB_SYNC_FAST)
        return EBB_OK;
    return complete_node(s, &s->bucket[bucket], node, has_rows ? buf : NULL, exec);
}

void ebb_sync_start_lanes(ebb_sync_t *s)
{
    for (int i = 0; i < s->n_buckets; i++) {
        memset(s->bucket[i].node_done, 0, (size_t)(2 * s->tree.lanes - 1));
        s->bucket[i].ready = false;
    }
    s->lanes = NULL;
    memset(s->lane_entries, 0, sizeof s->lane_entries);
    for (int32_t i = 0; i < s->n_lanes; i++)
        for (int t = 0; t < s->n_tables; t++) {
            s->lane[i].rows[t].n = s->lane[i].terms[t].n = 0;
            s->lane[i].rows[t].count = NULL;
        }
}

void ebb_sync_release_nodes(ebb_sync_t *s)
{
    for (bucket_t *b = s->bucket; b < s->bucket + s->n_buckets; b++)
        for (int32_t i = 0; i < 2 * s->tree.lanes - 1; i++) {
            if (b->node_buf[i])
                b->node_buf[i]->user = NULL; /* lanes' contexts go on after the sums */
            ebb_sync_free_buffer(s, b->node_buf[i]);
            b->node_buf[i] = NULL;
        }
}

static void free_kept(const ebb_sync_t *s, kept_rows_t *kept)
{
    if (s->device) {
        s->backend->ops->free(s->backend->dev, kept->idx);
        s->backend->ops->free(s->backend->dev, kept->val);
        return;
    }
    ebb_free(kept->idx);
    ebb_free(kept->val);
}

void ebb_sync_free_lanes(ebb_sync_t *s)
{
    for (int32_t i = 0; s->lane && i < s->n_lanes; i++)
        for (int t = 0; t < EBB_MAX_TABLES; t++) {
            free_kept(s, &s->lane[i].rows[t]);
            free_kept(s, &s->lane[i].spare[t]);
            s->backend->ops->terms_free(s->backend->dev, &s->lane[i].terms[t]);
        }
    ebb_free(s->lane);
    for (int64_t i = 0; i < s->stores; i++)
        s->backend->ops->free(s->backend->dev, s->store[i]);
    ebb_free(s->store);
    while (s->all) {
        buffer_t *buf = s->all;
        s->all = buf->next_all;
        for (int t = 0; t < EBB_MAX_TABLES; t++) {
            s->backend->ops->free(s->backend->dev, buf->table[t]);
            s->backend->ops->free(s->backend->dev, buf->touched[t]);
        }
        ebb_free(buf);
    }
}
