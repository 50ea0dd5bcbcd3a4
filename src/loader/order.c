/* The order of samples: order(seed, epoch, lane, position) -> row, without tables.
 *
 * The data set is cut into blocks of block_rows rows, the last one shorter. A keyed permutation of the blocks gives
 * the epoch's sequence of rows; the short block's place in it is found by inverting the permutation, so that positions
 * and places convert into each other by arithmetic alone. Lane l owns positions [rows*l/lanes, rows*(l+1)/lanes).
 * A lane's windows begin and end where blocks do (and at the lane's own ends), so no block is in two windows of one
 * lane. The first window of lane l has (l+1)/lanes of the usual number of blocks, at least one: lanes then do not need
 * new windows all at the same step.
 *
 * Blocks of unequal numbers of rows (those of the data set's chunks) have no such arithmetic: where a place begins is
 * known by adding up the rows of the places before it. So that this is a pass over a thousand or so of them, a data set
 * of very many is cut into groups (ebb_row_blocks), the groups are permuted, and the blocks in each; windows then end
 * with groups too. The rest is the same.
 *
 * (All blocks had block_rows rows once. Each then decoded a chunk more than it filled, so blocks had to be large, so
 * few of them were mixed.)
 *
 * Blocks of equal size are permuted by ebb_permute, groups and unequal blocks as rows are. Rows inside a window, of
 * which there are many more, are permuted by a cheaper bijection of the next power of two (multiply by an odd number,
 * add, exclusive-or with the upper half; four rounds; walk on until the result is inside), about 5 ns a row. The hashes
 * frozen in tests/unit/loader/test_order.c guard it.
 */
#include "loader/order.h"
#include "base/alloc.h"
#include "base/hash.h"
#include "base/rng.h"

#include <endian.h>

#define XXH_STATIC_LINKING_ONLY /* the state as a plain object */
#include <xxhash.h>

enum {
    DEFAULT_LANES = 24,
    DEFAULT_BATCH = 1024,
    LEAST_WINDOW = 8,
    MOST_WINDOW = 96,
    WINDOW_BYTES = 384 << 20, /* of all lanes together */
    MIN_BLOCK = 16,
    MAX_BLOCK = 65536,
    BLOCK_CHUNKS = 4,      /* a block reads one more chunk than its elements fill: 5 for 4 */
    LEAST_PER_LANE = 64,   /* blocks that are chunks, to be used at all: each is decoded once */
    BLOCKS_PER_LANE = 128, /* at least, so that many blocks are mixed */
};

static int64_t part(int64_t whole, int64_t i, int64_t n)
{
    return (int64_t)((__int128)whole * i / n);
}

static int64_t clamp(int64_t v, int64_t low, int64_t high)
{
    return v < low ? low : v > high ? high : v;
}

/* Rows that fill BLOCK_CHUNKS chunks, but not so many that a lane has few blocks. A multiple of 16; for dense data
 * whole chunks where the block is larger than one, so that its ends cut none. Very wide rows: few, down to one. */
static int64_t default_block_rows(const ebb_order_t *order, const ebb_dataset_info_t *info)
{
    int64_t elements = info->chunk_elements > 0 ? info->chunk_elements : 65536;
    int64_t per_row = info->sparse ? (info->nnz + info->rows - 1) / info->rows : info->cols;
    int64_t chunk_rows = elements / (per_row > 0 ? per_row : 1);
    int64_t many = order->rows / ((int64_t)order->lanes * BLOCKS_PER_LANE);
    int64_t rows = chunk_rows * BLOCK_CHUNKS;
    int64_t least = clamp(2 * BLOCK_CHUNKS * elements / (per_row > 0 ? per_row : 1), 1, MIN_BLOCK);
    rows = clamp(rows < many ? rows : many, least, MAX_BLOCK);
    if (!info->sparse && chunk_rows >= MIN_BLOCK && chunk_rows <= rows)
        return rows / chunk_rows * chunk_rows;
    return rows >= MIN_BLOCK ? rows / MIN_BLOCK * MIN_BLOCK : rows;
}

static ebb_status_t check_ranges(const ebb_order_t *order)
{
    if (order->lanes < 1)
        return EBB_FAIL(EBB_EINVAL, "lanes must be at least 1, not %d", order->lanes);
    if (order->rows < order->lanes)
        return EBB_FAIL(EBB_EINVAL,
                        "%d lanes need at least as many rows, the data set has %lld: set lanes to %lld or fewer",
                        order->lanes, (long long)order->rows, (long long)order->rows);
    if (order->batch < order->lanes)
        return EBB_FAIL(EBB_EINVAL, "batch %lld is smaller than the %d lanes: raise the batch to %d or set fewer lanes",
                        (long long)order->batch, order->lanes, order->lanes);
    if (order->block_rows < 1 || order->block_rows > INT32_MAX)
        return EBB_FAIL(EBB_EINVAL, "block rows must be 1 to 2147483647, not %lld", (long long)order->block_rows);
    if (order->window_blocks < 1 || order->window_blocks > INT32_MAX / order->block_rows)
        return EBB_FAIL(EBB_EINVAL,
                        "a window of %d blocks of %lld rows is out of range: at least one block, at most 2^31 rows",
                        order->window_blocks, (long long)order->block_rows);
    return EBB_OK;
}

/* As many blocks as mix well, if they are small enough. */
static int32_t default_window(const ebb_order_t *order, const ebb_dataset_info_t *info)
{
    double row = info->sparse ? (double)info->nnz / (double)info->rows * 8 + 8 : (double)info->cols * 4;
    double block = row * (double)ebb_order_usual_rows(order) * order->lanes, fit = WINDOW_BYTES / block;
    return fit < LEAST_WINDOW ? LEAST_WINDOW : fit > MOST_WINDOW ? MOST_WINDOW : (int32_t)fit;
}

/* The data set's own blocks, if there are enough of them. */
static void choose_blocks(ebb_order_t *order, const ebb_dataset_info_t *info)
{
    if (info->blocks && info->blocks->n >= (int64_t)order->lanes * LEAST_PER_LANE) {
        order->blocks = info->blocks;
        order->block_rows = info->blocks->max_rows;
    } else {
        order->block_rows = default_block_rows(order, info);
    }
}

ebb_status_t ebb_order_init(ebb_order_t *order, const ebb_dataset_info_t *info)
{
    if (info->rows < 1)
        return EBB_FAIL(EBB_EINVAL, "data set %s has no rows", info->name ? info->name : "");
    if (order->rows != 0 && order->rows != info->rows)
        return EBB_FAIL(EBB_EINVAL, "order is for %lld rows, data set %s has %lld", (long long)order->rows,
                        info->name ? info->name : "", (long long)info->rows);
    order->rows = info->rows;
    if (order->lanes == 0)
        order->lanes = DEFAULT_LANES;
    if (order->batch == 0)
        order->batch = clamp(order->rows, order->lanes, order->lanes > DEFAULT_BATCH ? order->lanes : DEFAULT_BATCH);
    if (order->block_rows == 0 && order->lanes > 0)
        choose_blocks(order, info);
    if (order->window_blocks == 0 && order->block_rows > 0)
        order->window_blocks = default_window(order, info);
    return check_ranges(order);
}

int64_t ebb_order_lane_rows(const ebb_order_t *order, int32_t lane)
{
    return part(order->rows, lane + 1, order->lanes) - part(order->rows, lane, order->lanes);
}

int64_t ebb_order_lane_share(const ebb_order_t *order, int32_t lane)
{
    return part(order->batch, lane + 1, order->lanes) - part(order->batch, lane, order->lanes);
}

int64_t ebb_order_steps(const ebb_order_t *order)
{
    int64_t steps = 0;
    for (int32_t l = 0; l < order->lanes; l++) {
        int64_t share = ebb_order_lane_share(order, l);
        int64_t s = (ebb_order_lane_rows(order, l) + share - 1) / share;
        steps = s > steps ? s : steps;
    }
    return steps;
}

int64_t ebb_order_block_row(const ebb_order_t *order, int64_t block)
{
    return order->blocks ? order->blocks->row[block] : block * order->block_rows;
}

int64_t ebb_order_block_rows(const ebb_order_t *order, int64_t block)
{
    if (order->blocks)
        return order->blocks->row[block + 1] - order->blocks->row[block];
    int64_t left = order->rows - block * order->block_rows;
    return left < order->block_rows ? left : order->block_rows;
}

int64_t ebb_order_blocks(const ebb_order_t *order)
{
    return order->blocks ? order->blocks->n : (order->rows + order->block_rows - 1) / order->block_rows;
}

int64_t ebb_order_usual_rows(const ebb_order_t *order)
{
    int64_t blocks = ebb_order_blocks(order);
    return (order->rows + blocks - 1) / blocks;
}

int64_t ebb_order_group_most(const ebb_order_t *order)
{
    return order->blocks && order->shuffle ? order->blocks->n / order->blocks->groups + 1 : 0;
}

static void mix_init(ebb_order_mix_t *m, const ebb_order_epoch_t *e, uint32_t purpose, uint64_t place, int64_t n)
{
    int bits = 1;
    while (bits < 32 && ((int64_t)1 << bits) < n)
        bits++;
    m->n = (uint32_t)n;
    m->mask = (uint32_t)(((uint64_t)1 << bits) - 1);
    m->shift = (bits + 1) / 2;
    m->identity = !e->order->shuffle;
    for (int r = 0; r < EBB_ORDER_ROUNDS && !m->identity; r++) {
        uint64_t draw = ebb_rng_u64(e->order->seed, purpose, (uint64_t)e->epoch, place ^ (uint64_t)r);
        m->mul[r] = (uint32_t)draw | 1;
        m->add[r] = (uint32_t)(draw >> 32);
    }
}

void ebb_order_epoch_init(const ebb_order_t *order, int64_t epoch, ebb_order_epoch_t *e)
{
    e->order = order;
    e->epoch = epoch;
    e->blocks = ebb_order_blocks(order);
    e->missing = 0;
    if (order->blocks) {
        mix_init(&e->groups, e, EBB_RNG_BLOCKS, 0, order->blocks->groups);
        return;
    }
    e->key = ebb_rng_u64(order->seed, EBB_RNG_BLOCKS, (uint64_t)epoch, 0);
    e->missing = e->blocks * order->block_rows - order->rows;
    e->short_place = e->blocks - 1;
    if (order->shuffle)
        e->short_place = (int64_t)ebb_unpermute(e->key, (uint64_t)e->blocks, (uint64_t)e->blocks - 1);
}

static void row_mix_init(ebb_order_window_t *w, const ebb_order_epoch_t *e, int64_t number)
{
    mix_init(&w->mix, e, EBB_RNG_WINDOW, (uint64_t)w->lane << 48 ^ (uint64_t)number << 4, w->rows);
}

/* ---- blocks of equal numbers of rows ---- */

static int64_t block_at(const ebb_order_epoch_t *e, int64_t place)
{
    return e->order->shuffle ? (int64_t)ebb_permute(e->key, (uint64_t)e->blocks, (uint64_t)place) : place;
}

/* Position of the first row of a place. */
static int64_t place_start(const ebb_order_epoch_t *e, int64_t place)
{
    return place * e->order->block_rows - (place > e->short_place ? e->missing : 0);
}

static int64_t place_of(const ebb_order_epoch_t *e, int64_t position)
{
    if (position >= place_start(e, e->short_place + 1))
        position += e->missing;
    return position / e->order->block_rows;
}

/* The first window of a lane is shorter, so that lanes do not all begin windows at the same step. */
static int64_t first_window(const ebb_order_t *o, int32_t lane)
{
    return clamp(part(o->window_blocks, lane + 1, o->lanes), 1, o->window_blocks);
}

static void equal_window_at(const ebb_order_epoch_t *e, int32_t lane, int64_t p, ebb_order_window_t *w)
{
    const ebb_order_t *o = e->order;
    int64_t begin = part(o->rows, lane, o->lanes), end = part(o->rows, lane + 1, o->lanes);
    int64_t size = o->window_blocks, first_size = first_window(o, lane);
    int64_t first = place_of(e, begin), place = place_of(e, begin + p) - first;
    w->number = place < first_size ? 0 : 1 + (place - first_size) / size;
    w->place = first + (w->number == 0 ? 0 : first_size + (w->number - 1) * size);
    int64_t next = w->place + (w->number == 0 ? first_size : size);
    next = next < e->blocks ? next : e->blocks;
    int64_t from = place_start(e, w->place), to = place_start(e, next);
    w->head = from < begin ? begin - from : 0;
    from += w->head;
    if (to > end) {
        to = end;
        next = place_of(e, end - 1) + 1;
    }
    w->places = (int32_t)(next - w->place);
    w->begin = from - begin;
    w->rows = to - from;
    w->start = NULL;
    bool has_short = e->short_place >= w->place && e->short_place < next;
    w->short_rank = has_short ? (int32_t)(e->short_place - w->place) : -1;
    row_mix_init(w, e, w->number);
}

/* ---- blocks of unequal numbers of rows ---- */

static int64_t group_block(const ebb_order_epoch_t *e, const ebb_order_group_t *g, int64_t place)
{
    return e->order->shuffle ? ebb_group_block(e->order->blocks, g->first + ebb_order_mix(&g->mix, (uint32_t)place))
                             : place;
}

/* Rows of the group before a place of it. */
static int64_t group_start(const ebb_order_epoch_t *e, const ebb_order_group_t *g, int64_t place)
{
    int64_t rows = 0;
    if (!e->order->shuffle)
        return e->order->blocks->row[place];
    if (g->start)
        return g->start[place];
    for (int64_t k = 0; k < place; k++)
        rows += ebb_order_block_rows(e->order, group_block(e, g, k));
    return rows;
}

/* The place that holds the group's row `at`. */
static int64_t group_place(const ebb_order_epoch_t *e, const ebb_order_group_t *g, int64_t at)
{
    int64_t low = 0, high = g->n;
    if (e->order->shuffle && !g->start) {
        for (; low + 1 < g->n; low++) {
            at -= ebb_order_block_rows(e->order, group_block(e, g, low));
            if (at < 0)
                break;
        }
        return low;
    }
    while (low + 1 < high) {
        int64_t middle = low + (high - low) / 2;
        if (group_start(e, g, middle) <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static void group_fill(const ebb_order_epoch_t *e, ebb_order_group_t *g)
{
    int64_t rows = 0;
    for (int64_t k = 0; k < g->n; k++) {
        g->start[k] = (uint32_t)rows;
        rows += ebb_order_block_rows(e->order, group_block(e, g, k));
    }
    g->start[g->n] = (uint32_t)rows;
}

/* The group that holds a position of the epoch. */
static void group_at(const ebb_order_epoch_t *e, int64_t position, ebb_order_group_t *g)
{
    const ebb_row_blocks_t *blocks = e->order->blocks;
    if (g->place >= 0 && g->epoch == e->epoch && position >= g->begin && position < g->begin + g->rows)
        return;
    int64_t number = 0;
    *g = (ebb_order_group_t){.epoch = e->epoch, .n = blocks->n, .rows = e->order->rows, .start = g->start};
    for (; e->order->shuffle; g->place++) {
        number = ebb_order_mix(&e->groups, (uint32_t)g->place);
        g->rows = blocks->group_rows[number];
        if (position < g->begin + g->rows)
            break;
        g->begin += g->rows;
    }
    if (!e->order->shuffle)
        return;
    g->first = ebb_group_first(blocks, number);
    g->n = ebb_group_first(blocks, number + 1) - g->first;
    mix_init(&g->mix, e, EBB_RNG_BLOCKS, ((uint64_t)number + 1) << 4, g->n);
    if (g->start)
        group_fill(e, g);
}

static void unequal_window_at(const ebb_order_epoch_t *e, ebb_order_group_t *g, uint32_t *start, int32_t lane,
                              int64_t p, ebb_order_window_t *w)
{
    const ebb_order_t *o = e->order;
    int64_t begin = part(o->rows, lane, o->lanes), end = part(o->rows, lane + 1, o->lanes);
    group_at(e, begin + p, g);
    bool starts_here = begin >= g->begin;
    int64_t first = starts_here ? group_place(e, g, begin - g->begin) : 0;
    int64_t size = o->window_blocks, first_size = starts_here ? first_window(o, lane) : size;
    int64_t place = group_place(e, g, begin + p - g->begin) - first;
    w->number = place < first_size ? 0 : 1 + (place - first_size) / size;
    w->place = first + (w->number == 0 ? 0 : first_size + (w->number - 1) * size);
    int64_t next = w->place + (w->number == 0 ? first_size : size);
    next = next < g->n ? next : g->n;
    int64_t from = g->begin + group_start(e, g, w->place), to = g->begin + group_start(e, g, next);
    w->head = from < begin ? begin - from : 0;
    from += w->head;
    if (to > end) {
        to = end;
        next = group_place(e, g, end - 1 - g->begin) + 1;
    }
    w->places = (int32_t)(next - w->place);
    w->begin = from - begin;
    w->rows = to - from;
    w->short_rank = -1;
    w->group = *g;
    w->start = start;
    row_mix_init(w, e, g->place << 20 ^ w->number);
    if (!start)
        return;
    for (int64_t k = 0; k < w->places; k++)
        start[k] = (uint32_t)(group_start(e, g, w->place + k) - group_start(e, g, w->place));
    start[w->places] = (uint32_t)(group_start(e, g, next) - group_start(e, g, w->place));
    w->per_row = (float)w->places / (float)start[w->places];
}

/* ---- either ---- */

void ebb_order_window_at(const ebb_order_epoch_t *e, ebb_order_group_t *group, uint32_t *start, int32_t lane, int64_t p,
                         ebb_order_window_t *w)
{
    ebb_order_group_t none = {.place = -1};
    w->lane = lane;
    if (e->order->blocks)
        unequal_window_at(e, group ? group : &none, start, lane, p, w);
    else
        equal_window_at(e, lane, p, w);
}

int64_t ebb_order_window_block(const ebb_order_epoch_t *e, const ebb_order_window_t *w, int64_t rank)
{
    return e->order->blocks ? group_block(e, &w->group, w->place + rank) : block_at(e, w->place + rank);
}

static int64_t window_row(const ebb_order_epoch_t *e, const ebb_order_window_t *w, int64_t p)
{
    uint32_t rank, row;
    if (e->order->blocks && !w->start) {
        int64_t at = group_start(e, &w->group, w->place) + w->head + ebb_order_mix(&w->mix, (uint32_t)(p - w->begin));
        int64_t place = group_place(e, &w->group, at);
        return ebb_order_block_row(e->order, group_block(e, &w->group, place)) + at - group_start(e, &w->group, place);
    }
    uint32_t block_rows = (uint32_t)e->order->block_rows;
    ebb_order_locate(w, block_rows, (uint32_t)e->missing, (uint32_t)(p - w->begin), &rank, &row);
    return ebb_order_block_row(e->order, ebb_order_window_block(e, w, rank)) + row;
}

int64_t ebb_order_row(const ebb_order_t *order, int64_t epoch, int32_t lane, int64_t p)
{
    ebb_order_epoch_t e;
    ebb_order_window_t w;
    ebb_order_epoch_init(order, epoch, &e);
    ebb_order_window_at(&e, NULL, NULL, lane, p, &w);
    return window_row(&e, &w, p);
}

/* What window_at remembers, if there is memory for it; without, all is slower but the same. */
typedef struct memory {
    ebb_order_group_t group;
    uint32_t *start;
} memory_t;

static void memory_init(memory_t *m, const ebb_order_t *order)
{
    *m = (memory_t){.group.place = -1};
    if (order->blocks && (EBB_NEW_ARRAY("order", ebb_order_group_most(order) + 1, &m->group.start) != EBB_OK ||
                          EBB_NEW_ARRAY("order", order->window_blocks + 1, &m->start) != EBB_OK))
        ebb_error_clear();
}

static void memory_free(memory_t *m)
{
    ebb_free(m->group.start);
    ebb_free(m->start);
}

/* A lane's rows of a step; returns how many. */
static int64_t lane_step(const ebb_order_epoch_t *e, memory_t *memory, int32_t lane, int64_t step, int64_t *row)
{
    int64_t share = ebb_order_lane_share(e->order, lane), rows = ebb_order_lane_rows(e->order, lane), n = 0;
    int64_t end = (step + 1) * share < rows ? (step + 1) * share : rows;
    ebb_order_window_t w = {0};
    for (int64_t p = step * share; p < end; p++) {
        if (p >= w.begin + w.rows || w.rows == 0)
            ebb_order_window_at(e, &memory->group, memory->start, lane, p, &w);
        row[n++] = window_row(e, &w, p);
    }
    return n;
}

int64_t ebb_order_step_rows(const ebb_order_t *order, int64_t epoch, int64_t step, int64_t *row)
{
    ebb_order_epoch_t e;
    memory_t memory;
    int64_t n = 0;
    memory_init(&memory, order);
    ebb_order_epoch_init(order, epoch, &e);
    for (int32_t l = 0; l < order->lanes; l++)
        n += lane_step(&e, &memory, l, step, row + n);
    memory_free(&memory);
    return n;
}

static void hash_lane(const ebb_order_epoch_t *e, memory_t *memory, int32_t lane, int64_t step, XXH3_state_t *state)
{
    int64_t share = ebb_order_lane_share(e->order, lane), rows = ebb_order_lane_rows(e->order, lane);
    int64_t end = (step + 1) * share < rows ? (step + 1) * share : rows;
    ebb_order_window_t w = {0};
    for (int64_t p = step * share; p < end; p++) {
        if (p >= w.begin + w.rows || w.rows == 0)
            ebb_order_window_at(e, &memory->group, memory->start, lane, p, &w);
        uint64_t row = htole64((uint64_t)window_row(e, &w, p));
        XXH3_128bits_update(state, &row, sizeof row);
    }
}

void ebb_order_hash(const ebb_order_t *order, int64_t epoch, char hex[33])
{
    ebb_order_epoch_t e;
    XXH3_state_t state;
    XXH128_canonical_t canonical;
    memory_t memory;
    int64_t steps = ebb_order_steps(order);
    memory_init(&memory, order);
    ebb_order_epoch_init(order, epoch, &e);
    XXH3_128bits_reset(&state);
    for (int64_t s = 0; s < steps; s++)
        for (int32_t l = 0; l < order->lanes; l++)
            hash_lane(&e, &memory, l, s, &state);
    memory_free(&memory);
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state));
    ebb_hex(canonical.digest, sizeof canonical.digest, hex);
}
