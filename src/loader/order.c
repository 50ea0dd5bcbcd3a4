/* The order of samples: order(seed, epoch, lane, position) -> row, without tables.
 *
 * The data set is cut into blocks of block_rows rows, the last one shorter. A keyed permutation of the blocks gives
 * the epoch's sequence of rows; the short block's place in it is found by inverting the permutation, so that positions
 * and places convert into each other by arithmetic alone. Lane l owns positions [rows*l/lanes, rows*(l+1)/lanes).
 * A lane's windows begin and end where blocks do (and at the lane's own ends), so no block is in two windows of one
 * lane. The first window of lane l has (l+1)/lanes of the usual number of blocks, at least one: lanes then do not need
 * new windows all at the same step.
 *
 * Blocks are permuted by ebb_permute. Rows inside a window, of which there are many more, are permuted by a cheaper
 * bijection of the next power of two (multiply by an odd number, add, exclusive-or with the upper half; four rounds;
 * walk on until the result is inside), about 5 ns a row. The hashes frozen in tests/unit/loader/test_order.c guard it.
 */
#include "loader/order.h"
#include "base/hash.h"
#include "base/rng.h"

#define XXH_STATIC_LINKING_ONLY /* the state as a plain object */
#include <xxhash.h>

enum {
    DEFAULT_LANES = 24,
    DEFAULT_BATCH = 1024,
    DEFAULT_WINDOW = 8,
    MIN_BLOCK = 16,
    MAX_BLOCK = 65536,
    BLOCK_CHUNKS = 4,     /* a block reads one more chunk than its elements fill: 5 for 4 */
    BLOCKS_PER_LANE = 12, /* at least, else a window of 8 is not much less than the lane */
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
    if (order->window_blocks == 0)
        order->window_blocks = DEFAULT_WINDOW;
    if (order->block_rows == 0 && order->lanes > 0)
        order->block_rows = default_block_rows(order, info);
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

int64_t ebb_order_block_rows(const ebb_order_t *order, int64_t block)
{
    int64_t left = order->rows - block * order->block_rows;
    return left < order->block_rows ? left : order->block_rows;
}

void ebb_order_epoch_init(const ebb_order_t *order, int64_t epoch, ebb_order_epoch_t *e)
{
    e->order = order;
    e->epoch = epoch;
    e->blocks = (order->rows + order->block_rows - 1) / order->block_rows;
    e->key = ebb_rng_u64(order->seed, EBB_RNG_BLOCKS, (uint64_t)epoch, 0);
    e->missing = e->blocks * order->block_rows - order->rows;
    e->short_place = e->blocks - 1;
    if (order->shuffle)
        e->short_place = (int64_t)ebb_unpermute(e->key, (uint64_t)e->blocks, (uint64_t)e->blocks - 1);
}

int64_t ebb_order_block(const ebb_order_epoch_t *e, int64_t place)
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

static void mix_init(ebb_order_mix_t *m, const ebb_order_epoch_t *e, int32_t lane, int64_t window, int64_t n)
{
    const uint64_t seed = e->order->seed, epoch = (uint64_t)e->epoch;
    int bits = 1;
    while (bits < 32 && ((int64_t)1 << bits) < n)
        bits++;
    m->n = (uint32_t)n;
    m->mask = (uint32_t)(((uint64_t)1 << bits) - 1);
    m->shift = (bits + 1) / 2;
    m->identity = !e->order->shuffle;
    for (int r = 0; r < EBB_ORDER_ROUNDS && !m->identity; r++) {
        uint64_t place = (uint64_t)lane << 48 ^ (uint64_t)window << 4 ^ (uint64_t)r;
        uint64_t draw = ebb_rng_u64(seed, EBB_RNG_WINDOW, epoch, place);
        m->mul[r] = (uint32_t)draw | 1;
        m->add[r] = (uint32_t)(draw >> 32);
    }
}

void ebb_order_window_at(const ebb_order_epoch_t *e, int32_t lane, int64_t p, ebb_order_window_t *w)
{
    const ebb_order_t *o = e->order;
    int64_t begin = part(o->rows, lane, o->lanes), end = part(o->rows, lane + 1, o->lanes);
    int64_t size = o->window_blocks;
    int64_t first_size = clamp(part(size, lane + 1, o->lanes), 1, size);
    int64_t first = place_of(e, begin), place = place_of(e, begin + p) - first;
    w->lane = lane;
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
    bool has_short = e->short_place >= w->place && e->short_place < next;
    w->short_rank = has_short ? (int32_t)(e->short_place - w->place) : -1;
    mix_init(&w->mix, e, lane, w->number, w->rows);
}

static int64_t window_row(const ebb_order_epoch_t *e, const ebb_order_window_t *w, int64_t p)
{
    uint32_t rank, row;
    uint32_t block_rows = (uint32_t)e->order->block_rows;
    ebb_order_locate(w, block_rows, (uint32_t)e->missing, (uint32_t)(p - w->begin), &rank, &row);
    return ebb_order_block(e, w->place + rank) * e->order->block_rows + row;
}

int64_t ebb_order_row(const ebb_order_t *order, int64_t epoch, int32_t lane, int64_t p)
{
    ebb_order_epoch_t e;
    ebb_order_window_t w;
    ebb_order_epoch_init(order, epoch, &e);
    ebb_order_window_at(&e, lane, p, &w);
    return window_row(&e, &w, p);
}

static void hash_lane(const ebb_order_epoch_t *e, int32_t lane, int64_t step, XXH3_state_t *state)
{
    int64_t share = ebb_order_lane_share(e->order, lane), rows = ebb_order_lane_rows(e->order, lane);
    int64_t end = (step + 1) * share < rows ? (step + 1) * share : rows;
    ebb_order_window_t w = {0};
    for (int64_t p = step * share; p < end; p++) {
        if (p >= w.begin + w.rows || w.rows == 0)
            ebb_order_window_at(e, lane, p, &w);
        uint64_t row = (uint64_t)window_row(e, &w, p);
        unsigned char bytes[8];
        for (int i = 0; i < 8; i++)
            bytes[i] = (unsigned char)(row >> 8 * i);
        XXH3_128bits_update(state, bytes, sizeof bytes);
    }
}

void ebb_order_hash(const ebb_order_t *order, int64_t epoch, char hex[33])
{
    ebb_order_epoch_t e;
    XXH3_state_t state;
    XXH128_canonical_t canonical;
    int64_t steps = ebb_order_steps(order);
    ebb_order_epoch_init(order, epoch, &e);
    XXH3_128bits_reset(&state);
    for (int64_t s = 0; s < steps; s++)
        for (int32_t l = 0; l < order->lanes; l++)
            hash_lane(&e, l, s, &state);
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(&state));
    ebb_hex(canonical.digest, sizeof canonical.digest, hex);
}
