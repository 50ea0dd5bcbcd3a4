/* The order of samples: order(seed, epoch, lane, position) -> row.
 *
 * The data set is cut into blocks, which are put in the epoch's sequence (strata.h). Few blocks have a table of
 * where they lie, made once an epoch (group.c): up to 32,768 of equal numbers of rows, 8,192 of unequal ones. Of more,
 * blocks of unequal numbers of rows are cut into groups, and those joined to sections (ebb_row_blocks), whose parts are
 * permuted, level by level; a group has a table when a row of it is asked for. Blocks of equal numbers of rows need
 * none: the short block's place is found by inverting the order of blocks, so that positions and places convert into
 * each other by arithmetic alone. Lane l owns positions [rows*l/lanes, rows*(l+1)/lanes) of the sequence.
 *
 * A lane's windows last a whole number of steps, the same for all lanes of a team and for all windows but the first (an
 * eighth of the lanes, which begin their windows together); the first window of team g of G is (g+3)/(G+2) of the usual
 * one, so that teams do not need new windows all at the same step, and none is so small that its blocks cannot be like
 * the mean. A block in which a window ends is in two windows of its lane.
 *
 * Rows inside a window are permuted by a cheap bijection of the next power of two (multiply by an odd number, add,
 * exclusive-or with the upper half; four rounds; walk on until the result is inside), about 5 ns a row; groups and
 * sections likewise. The hashes frozen in tests/unit/loader/test_order.c guard it.
 */
#include "loader/strata.h"
#include "base/alloc.h"
#include "base/hash.h"
#include "base/rng.h"
#include "shard/stored.h"

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
    TEAMS = 8,
};

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

/* Bytes of an entry, and of a dense value, as windows hold them. */
static double held_bytes(const ebb_order_t *order, const ebb_dataset_info_t *info)
{
    double column = !info->sparse ? 0 : info->cols <= 65536 ? 2 : 4;
    if (order->blocks && ebb_stored_is_near(info))
        return column + (double)ebb_value_type_size(info->value_type);
    return info->sparse ? 8 : 4;
}

/* As many blocks as mix well, if they are small enough. */
static int32_t default_window(const ebb_order_t *order, const ebb_dataset_info_t *info)
{
    double row = (double)info->nnz / (double)info->rows * held_bytes(order, info) + (info->sparse ? 8 : 0);
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
    order->profile = info->sparse ? info->blocks : NULL;
    if (order->window_blocks == 0 && order->block_rows > 0)
        order->window_blocks = default_window(order, info);
    return check_ranges(order);
}

int64_t ebb_order_lane_rows(const ebb_order_t *order, int32_t lane)
{
    return ebb_part(order->rows, lane + 1, order->lanes) - ebb_part(order->rows, lane, order->lanes);
}

int64_t ebb_order_lane_share(const ebb_order_t *order, int32_t lane)
{
    return ebb_part(order->batch, lane + 1, order->lanes) - ebb_part(order->batch, lane, order->lanes);
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

int64_t ebb_order_blocks(const ebb_order_t *order)
{
    return order->blocks ? order->blocks->n : (order->rows + order->block_rows - 1) / order->block_rows;
}

int64_t ebb_order_usual_rows(const ebb_order_t *order)
{
    int64_t blocks = ebb_order_blocks(order);
    return (order->rows + blocks - 1) / blocks;
}

void ebb_order_mix_init(ebb_order_mix_t *m, const ebb_order_epoch_t *e, uint32_t purpose, uint64_t place, int64_t n)
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
    e->short_place = 0;
    if (order->blocks || ebb_order_has_table(order))
        return;
    e->missing = e->blocks * order->block_rows - order->rows;
    e->short_place = e->blocks - 1;
    if (!order->shuffle)
        return;
    ebb_strata_init(&e->strata, e, e->blocks);
    e->short_place = ebb_strata_place(&e->strata, e->blocks - 1);
}

/* ---- teams ---- */

int32_t ebb_order_teams(const ebb_order_t *order)
{
    return order->lanes < TEAMS ? order->lanes : TEAMS;
}

int32_t ebb_order_team_of(const ebb_order_t *order, int32_t lane)
{
    return (int32_t)((((int64_t)lane + 1) * ebb_order_teams(order) - 1) / order->lanes);
}

void ebb_order_team(const ebb_order_t *order, int32_t lane, int32_t *first, int32_t *end)
{
    int32_t team = ebb_order_team_of(order, lane);
    *first = (int32_t)ebb_part(order->lanes, team, ebb_order_teams(order));
    *end = (int32_t)ebb_part(order->lanes, team + 1, ebb_order_teams(order));
}

int64_t ebb_order_window_steps(const ebb_order_t *order)
{
    int64_t share = (order->batch + order->lanes - 1) / order->lanes;
    int64_t steps = order->window_blocks * ebb_order_usual_rows(order) / share;
    return steps > 1 ? steps : 1;
}

void ebb_order_team_windows(const ebb_order_t *order, int32_t lane, int64_t *first, int64_t *others)
{
    int64_t steps = ebb_order_window_steps(order), share = order->batch / order->lanes;
    int64_t longest = ((order->rows + order->lanes - 1) / order->lanes + share - 1) / share;
    *first = clamp(ebb_part(steps, ebb_order_team_of(order, lane) + 3, ebb_order_teams(order) + 2), 1, steps);
    if (longest - *first < steps / 3) /* little is left for a second one: none, or two halves */
        *first = longest <= steps ? longest : (longest + 1) / 2;
    int64_t left = longest - *first, windows = (left + steps - 1) / steps;
    *others = left > 0 ? (left + windows - 1) / windows : steps;
}

int64_t ebb_order_largest_window(const ebb_order_t *order)
{
    int64_t steps = ebb_order_window_steps(order), longest = ebb_order_steps(order);
    int64_t rows = (steps < longest ? steps : longest) * order->batch / order->lanes;
    int64_t usual = ebb_order_usual_rows(order), blocks = (rows + usual / 2) / usual;
    return blocks > 1 ? blocks : 1;
}

/* ---- places: where blocks lie in the sequence ---- */

typedef struct place {
    int64_t position, block, rows;
    int64_t index; /* in the sequence, or in its group */
} place_t;

/* Position of the first row of a place, where there is no table. */
static int64_t place_start(const ebb_order_epoch_t *e, int64_t place)
{
    return place * e->order->block_rows - (place > e->short_place ? e->missing : 0);
}

static int64_t last_at_most(const ebb_order_t *o, const ebb_order_group_t *g, int64_t n, int64_t at)
{
    int64_t low = 0, high = n;
    while (low + 1 < high) {
        int64_t middle = low + (high - low) / 2;
        if ((g ? (int64_t)g->start[middle] : o->blocks->row[middle]) <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* p: where the place before it is, or index -1. */
static void place_at(const ebb_order_epoch_t *e, ebb_order_group_t *g, int64_t position, place_t *p)
{
    const ebb_order_t *o = e->order;
    if (ebb_order_has_table(o)) {
        bool next = p->index >= 0 && position < g->begin + g->rows;
        ebb_order_group_at(e, position, g);
        p->index = next ? p->index + 1 : last_at_most(o, g, g->n, position - g->begin);
        p->block = g->block[p->index];
        p->position = g->begin + g->start[p->index];
    } else if (o->blocks) {
        p->index = p->block = last_at_most(o, NULL, o->blocks->n, position);
        p->position = o->blocks->row[p->index];
    } else {
        int64_t at = position >= place_start(e, e->short_place + 1) ? position + e->missing : position;
        p->index = at / o->block_rows;
        p->block = p->index;
        if (o->shuffle)
            p->block = ebb_strata_block(&e->strata, p->index);
        p->position = place_start(e, p->index);
    }
    p->rows = ebb_order_block_rows(o, p->block);
}

/* ---- windows ---- */

static ebb_status_t add_place(ebb_order_window_t *w, const place_t *p)
{
    EBB_TRY(ebb_grow("blocks of a window", (void **)&w->block, &w->room, w->places + 1, sizeof *w->block));
    EBB_TRY(ebb_grow("blocks of a window", (void **)&w->start, &w->start_room, w->places + 2, sizeof *w->start));
    w->block[w->places++] = p->block;
    w->start[w->places] = w->start[w->places - 1] + (uint32_t)p->rows;
    return EBB_OK;
}

static void fill_hints(ebb_order_window_t *w)
{
    uint32_t k = 0, rows = w->start[w->places];
    w->per_row = (float)EBB_ORDER_HINTS / (float)rows;
    for (uint32_t h = 0; h < EBB_ORDER_HINTS; h++) {
        uint32_t middle = (uint32_t)(((uint64_t)rows * (2 * h + 1)) / (2 * EBB_ORDER_HINTS));
        while (w->start[k + 1] <= middle)
            k++;
        w->hint[h] = k;
    }
}

ebb_status_t ebb_order_window_at(const ebb_order_epoch_t *e, ebb_order_group_t *group, int32_t lane, int64_t step,
                                 ebb_order_window_t *w)
{
    const ebb_order_t *o = e->order;
    int64_t first, steps;
    ebb_order_team_windows(o, lane, &first, &steps);
    int64_t base = ebb_part(o->rows, lane, o->lanes), rows = ebb_order_lane_rows(o, lane);
    int64_t share = ebb_order_lane_share(o, lane);
    w->lane = lane;
    w->number = step < first ? 0 : 1 + (step - first) / steps;
    w->step = w->number == 0 ? 0 : first + (w->number - 1) * steps;
    w->steps = w->number == 0 ? first : steps;
    w->begin = w->step * share < rows ? w->step * share : rows;
    int64_t end = (w->step + w->steps) * share < rows ? (w->step + w->steps) * share : rows;
    w->rows = end - w->begin;
    w->places = 0;
    if (w->rows == 0)
        return EBB_OK;
    EBB_TRY(ebb_grow("blocks of a window", (void **)&w->start, &w->start_room, 2, sizeof *w->start));
    w->start[0] = 0;
    place_t p = {.index = -1};
    for (int64_t at = base + w->begin; at < base + end;) {
        place_at(e, group, at, &p);
        if (w->places == 0)
            w->head = at - p.position;
        EBB_TRY(add_place(w, &p));
        at = p.position + p.rows;
    }
    fill_hints(w);
    ebb_order_mix_init(&w->mix, e, EBB_RNG_WINDOW, (uint64_t)lane << 48 ^ (uint64_t)w->number << 4, w->rows);
    return EBB_OK;
}

int64_t ebb_order_window_places(const ebb_order_t *order)
{
    int64_t share = (order->batch + order->lanes - 1) / order->lanes;
    return ebb_order_window_steps(order) * share / ebb_order_usual_rows(order) + 2;
}

ebb_status_t ebb_order_window_reserve(const ebb_order_t *order, ebb_order_window_t *w)
{
    int64_t places = ebb_order_window_places(order) * (order->blocks ? 2 : 1) + 1;
    EBB_TRY(ebb_grow("blocks of a window", (void **)&w->block, &w->room, places, sizeof *w->block));
    return ebb_grow("blocks of a window", (void **)&w->start, &w->start_room, places + 1, sizeof *w->start);
}

void ebb_order_window_free(ebb_order_window_t *w)
{
    ebb_free(w->block);
    ebb_free(w->start);
}

/* ---- rows ---- */

/* What asking for rows takes: the table of a group, and a window of each lane. */
typedef struct memory {
    ebb_order_epoch_t epoch;
    ebb_order_group_t group;
    ebb_order_window_t *window;
    int32_t lanes;
} memory_t;

static ebb_status_t memory_init(memory_t *m, const ebb_order_t *order, int64_t epoch, int32_t lanes)
{
    *m = (memory_t){0};
    ebb_order_epoch_init(order, epoch, &m->epoch);
    EBB_TRY(ebb_order_group_init(order, &m->group));
    EBB_TRY(EBB_NEW_ARRAY("windows of the order", lanes, &m->window));
    m->lanes = lanes;
    return EBB_OK;
}

static void memory_free(memory_t *m)
{
    for (int32_t l = 0; l < m->lanes; l++)
        ebb_order_window_free(&m->window[l]);
    ebb_free(m->window);
    ebb_order_group_free(&m->group);
}

static int64_t window_row(const ebb_order_t *order, const ebb_order_window_t *w, int64_t p)
{
    uint32_t place, row;
    ebb_order_locate(w, ebb_order_mix(&w->mix, (uint32_t)(p - w->begin)), &place, &row);
    return ebb_order_block_row(order, w->block[place]) + row;
}

int64_t ebb_order_row(const ebb_order_t *order, int64_t epoch, int32_t lane, int64_t p)
{
    memory_t m;
    int64_t row = -1;
    if (memory_init(&m, order, epoch, 1) == EBB_OK &&
        ebb_order_window_at(&m.epoch, &m.group, lane, p / ebb_order_lane_share(order, lane), m.window) == EBB_OK)
        row = window_row(order, m.window, p);
    memory_free(&m);
    return row;
}

/* A lane's rows of a step; *n_p goes on by so many. */
static ebb_status_t lane_step(memory_t *m, int32_t lane, int64_t step, int64_t *row, int64_t *n_p)
{
    const ebb_order_t *order = m->epoch.order;
    ebb_order_window_t *w = &m->window[lane];
    int64_t share = ebb_order_lane_share(order, lane), rows = ebb_order_lane_rows(order, lane);
    int64_t end = (step + 1) * share < rows ? (step + 1) * share : rows;
    if (step * share < end && (w->rows == 0 || step < w->step || step >= w->step + w->steps))
        EBB_TRY(ebb_order_window_at(&m->epoch, &m->group, lane, step, w));
    for (int64_t p = step * share; p < end; p++)
        row[(*n_p)++] = window_row(order, w, p);
    return EBB_OK;
}

int64_t ebb_order_lane_list(const ebb_order_t *order, int64_t epoch, int32_t lane, int64_t *row)
{
    memory_t m;
    int64_t n = 0, steps = ebb_order_steps(order);
    ebb_status_t status = memory_init(&m, order, epoch, lane + 1);
    for (int64_t s = 0; s < steps && status == EBB_OK; s++)
        status = lane_step(&m, lane, s, row, &n);
    memory_free(&m);
    return status == EBB_OK ? n : -1;
}

static ebb_status_t step_rows(memory_t *m, int64_t step, int64_t *row, int64_t *n_p)
{
    *n_p = 0;
    for (int32_t l = 0; l < m->lanes; l++)
        EBB_TRY(lane_step(m, l, step, row, n_p));
    return EBB_OK;
}

int64_t ebb_order_step_rows(const ebb_order_t *order, int64_t epoch, int64_t step, int64_t *row)
{
    memory_t m;
    int64_t n = -1;
    if (memory_init(&m, order, epoch, order->lanes) != EBB_OK || step_rows(&m, step, row, &n) != EBB_OK)
        n = -1;
    memory_free(&m);
    return n;
}

static ebb_status_t hash_steps(memory_t *m, int64_t *row, XXH3_state_t *state)
{
    int64_t steps = ebb_order_steps(m->epoch.order), n;
    for (int64_t s = 0; s < steps; s++) {
        EBB_TRY(step_rows(m, s, row, &n));
        for (int64_t i = 0; i < n; i++)
            row[i] = (int64_t)htole64((uint64_t)row[i]);
        XXH3_128bits_update(state, row, (size_t)n * sizeof *row);
    }
    return EBB_OK;
}

void ebb_order_hash(const ebb_order_t *order, int64_t epoch, char hex[33])
{
    XXH3_state_t state;
    XXH128_canonical_t canonical;
    memory_t m;
    int64_t *row = NULL;
    hex[0] = 0;
    XXH3_128bits_reset(&state);
    if (memory_init(&m, order, epoch, order->lanes) == EBB_OK &&
        EBB_NEW_ARRAY("rows of a step", order->batch, &row) == EBB_OK && hash_steps(&m, row, &state) == EBB_OK) {
        XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state));
        ebb_hex(canonical.digest, sizeof canonical.digest, hex);
    }
    ebb_free(row);
    memory_free(&m);
}
