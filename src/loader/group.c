/* How the blocks of a group lie in an epoch, so that every window of every lane gets as many entries a row as the
 * others.
 *
 * The windows that the group's rows fill are known by arithmetic: a bin each, of so many rows. Blocks come in the
 * epoch's random order. Those that have far more or fewer entries a row than the data set are dealt to the bins
 * (base/deal.h), small bins being left out while the blocks are too uneven for them; the rest, a part of the rows at
 * least, fill what the bins lack, one after another, so that a window ends within a block that is like the mean. Where
 * blocks are alike nothing is dealt and the order is the random one.
 *
 * A group is laid out when a position of it is first asked for: some 20 ns a block, at most 32,768 blocks.
 */
#include "base/alloc.h"
#include "base/rng.h"
#include "loader/order.h"

#include <stdlib.h>

enum { TABLE_BLOCKS = 32768, LIKE_MEAN = 16, FILL_PART = 200, SMALL_BIN = 2, SCALE = 16, TRIES = 64, FITTING = 8 };

bool ebb_order_has_table(const ebb_order_t *order)
{
    return order->shuffle && (order->blocks || ebb_order_blocks(order) <= TABLE_BLOCKS);
}

static int64_t most_blocks(const ebb_order_t *order)
{
    return order->blocks ? order->blocks->n / order->blocks->groups + 1 : ebb_order_blocks(order);
}

static int64_t part(int64_t whole, int64_t i, int64_t n)
{
    return (int64_t)((__int128)whole * i / n);
}

/* ---- the windows of a group ---- */

/* The end of the window that holds a position of the epoch, as a position. */
static int64_t window_end(const ebb_order_t *o, int64_t position)
{
    int32_t lane = (int32_t)part(position, o->lanes, o->rows);
    while (part(o->rows, lane + 1, o->lanes) <= position)
        lane++;
    int64_t begin = part(o->rows, lane, o->lanes), end = part(o->rows, lane + 1, o->lanes);
    int64_t share = ebb_order_lane_share(o, lane), step = (position - begin) / share;
    int64_t first, steps;
    ebb_order_team_windows(o, lane, &first, &steps);
    int64_t next = step < first ? first : first + ((step - first) / steps + 1) * steps;
    return next < (end - begin + share - 1) / share ? begin + next * share : end;
}

static int64_t most_bins(const ebb_order_t *o)
{
    int64_t rows = o->rows, window = o->batch / o->lanes * ebb_order_window_steps(o);
    for (int64_t g = 0; o->blocks && o->blocks->groups > 1 && g < o->blocks->groups; g++)
        rows = g == 0 || o->blocks->group_rows[g] > rows ? o->blocks->group_rows[g] : rows;
    return 2 * rows / window + 3 * (int64_t)o->lanes + 3; /* windows are made equal, from half of the most on */
}

static int64_t make_bins(const ebb_order_epoch_t *e, ebb_order_group_t *g)
{
    int64_t n = 0;
    for (int64_t at = 0, end; at < g->rows; at = end, n++) {
        end = window_end(e->order, g->begin + at) - g->begin;
        end = end < g->rows ? end : g->rows;
        g->bin[n] = (ebb_order_bin_t){.rows = end - at, .end = end};
    }
    return n;
}

/* ---- memory ---- */

static int32_t narrow(int64_t n)
{
    return (int32_t)(n < -(1 << 30) ? -(1 << 30) : n > 1 << 30 ? 1 << 30 : n);
}

/* Entries before a row, between the blocks of the profile in proportion; *at goes along. */
static int64_t entries_before(const ebb_row_blocks_t *profile, int64_t row, int64_t *at)
{
    while (*at + 1 < profile->n && profile->row[*at + 1] <= row)
        ++*at;
    int64_t from = profile->row[*at], rows = profile->row[*at + 1] - from;
    int64_t entries = profile->entry[*at + 1] - profile->entry[*at];
    return profile->entry[*at] + (rows > 0 ? part(entries, row - from, rows) : 0);
}

static int64_t usual_entries(const ebb_row_blocks_t *profile, int64_t rows)
{
    return (int64_t)((double)profile->entry[profile->n] / (double)profile->row[profile->n] * (double)rows);
}

static void fill_excess(const ebb_order_t *o, int32_t *excess)
{
    int64_t n = ebb_order_blocks(o), at = 0, before = 0;
    for (int64_t b = 0; b < n; b++) {
        int64_t rows = ebb_order_block_rows(o, b);
        int64_t after = entries_before(o->profile, ebb_order_block_row(o, b) + rows, &at);
        excess[b] = narrow(after - before - usual_entries(o->profile, rows));
        before = after;
    }
}

ebb_status_t ebb_order_group_init(const ebb_order_t *o, ebb_order_group_t *g)
{
    *g = (ebb_order_group_t){.place = -1};
    if (!ebb_order_has_table(o))
        return EBB_OK;
    int64_t n = most_blocks(o), bins = most_bins(o);
    EBB_TRY(EBB_NEW_ARRAY("order of blocks", n, &g->block));
    EBB_TRY(EBB_NEW_ARRAY("order of blocks", n + 1, &g->start));
    if (!o->profile || !o->profile->entry)
        return EBB_OK;
    EBB_TRY(EBB_NEW_ARRAY("order of blocks", n, &g->member));
    EBB_TRY(EBB_NEW_ARRAY("order of blocks", n, &g->sorted));
    EBB_TRY(EBB_NEW_ARRAY("order of blocks", n, &g->link));
    EBB_TRY(EBB_NEW_ARRAY("order of blocks", n + bins, &g->size));
    EBB_TRY(EBB_NEW_ARRAY("order of blocks", n, &g->dealt));
    EBB_TRY(EBB_NEW_ARRAY("windows of a group", bins, &g->bin));
    EBB_TRY(EBB_NEW_ARRAY("windows of a group", bins, &g->deal_bin));
    EBB_TRY(EBB_NEW_ARRAY("windows of a group", bins, &g->largest));
    EBB_TRY(EBB_NEW("order of blocks", &g->deal));
    if (o->blocks)
        return EBB_OK;
    EBB_TRY(EBB_NEW_ARRAY("order of blocks", n, &g->excess));
    fill_excess(o, g->excess);
    return EBB_OK;
}

void ebb_order_group_free(ebb_order_group_t *g)
{
    ebb_free(g->block);
    ebb_free(g->start);
    ebb_free(g->member);
    ebb_free(g->sorted);
    ebb_free(g->link);
    ebb_free(g->size);
    ebb_free(g->dealt);
    ebb_free(g->bin);
    ebb_free(g->deal_bin);
    ebb_free(g->largest);
    ebb_free(g->deal);
    ebb_free(g->excess);
}

/* ---- laying a group out ---- */

static int32_t excess_of(const ebb_order_t *o, const ebb_order_group_t *g, int64_t block)
{
    if (g->excess)
        return g->excess[block];
    const int64_t *entry = o->blocks->entry + block;
    return narrow(entry[1] - entry[0] - usual_entries(o->blocks, ebb_order_block_rows(o, block)));
}

/* Bins by falling size, those of about the same size in an order of the group's own. */
static void sort_bins(const ebb_order_epoch_t *e, ebb_order_group_t *g, int64_t bins)
{
    ebb_order_mix_t mix;
    ebb_order_mix_init(&mix, e, EBB_RNG_BLOCKS, (uint64_t)g->first << 8 | 1ull << 63, bins);
    for (int64_t i = 0; i < bins; i++)
        g->size[g->n + i] = narrow(g->bin[ebb_order_mix(&mix, (uint32_t)i)].rows);
    ebb_deal_sort(g->deal, g->size + g->n, bins, g->largest);
    for (int64_t i = 0; i < bins; i++) {
        g->largest[i] = ebb_order_mix(&mix, g->largest[i]);
        g->deal_bin[i] = (ebb_deal_bin_t){.room = g->bin[i].rows};
    }
}

/* May bins of so many rows have blocks of this size? The largest always. */
static bool admits(const ebb_order_t *o, const ebb_order_group_t *g, uint32_t bin, int32_t size)
{
    int64_t rows = g->bin[bin].rows, most = g->bin[g->largest[0]].rows;
    return rows >= most - most / 4 || (int64_t)abs(size) * SMALL_BIN <= usual_entries(o->profile, rows);
}

/* Takes a bin for a block of so many rows: of those with the lowest (highest) sums the one that has most room left for
 * its size, so that rows come out even too. -1: none has room. */
static int32_t roomy_bin(ebb_order_group_t *g, bool lowest, int64_t rows)
{
    int32_t met[TRIES], n = 0, best = -1, k;
    double most = 0;
    for (int met_fit = 0; n < TRIES && met_fit < FITTING && (k = ebb_deal_take(g->deal, lowest)) >= 0; met[n++] = k) {
        double left = (double)g->deal_bin[k].room / (double)g->bin[k].rows;
        if (g->deal_bin[k].room < rows)
            continue;
        met_fit++;
        if (left > most) {
            most = left;
            best = k;
        }
    }
    while (n > 0)
        if (met[--n] != best)
            ebb_deal_add(g->deal, met[n]);
    return best;
}

/* The largest first: a window may end within the last. */
static void append(ebb_order_group_t *g, int32_t bin, uint32_t item)
{
    ebb_order_bin_t *b = &g->bin[bin];
    g->link[item] = 0;
    if (b->first > 0)
        g->link[b->last - 1] = item + 1;
    else
        b->first = item + 1;
    b->last = item + 1;
}

/* Deals the blocks that are unlike the mean to the bins; sums are those that the largest bin would have. */
static void deal_blocks(const ebb_order_epoch_t *e, ebb_order_group_t *g, int64_t bins, int64_t usual)
{
    const ebb_order_t *o = e->order;
    int64_t joined = 0, left = g->rows;
    sort_bins(e, g, bins);
    ebb_deal_sort(g->deal, g->size, g->n, g->sorted);
    ebb_deal_begin(g->deal, g->deal_bin, usual * SCALE / 8);
    for (int64_t i = 0; i < g->n && left > g->rows / FILL_PART; i++) {
        uint32_t item = g->sorted[i];
        int32_t size = g->size[item];
        if ((int64_t)abs(size) * LIKE_MEAN <= usual)
            return;
        while (joined < bins && admits(o, g, g->largest[joined], size))
            ebb_deal_add(g->deal, (int32_t)g->largest[joined++]);
        int64_t rows = ebb_order_block_rows(o, g->member[item]);
        int32_t k = roomy_bin(g, size > 0, rows);
        if (k < 0)
            continue;
        g->deal_bin[k].sum += (int64_t)size * SCALE * g->bin[g->largest[0]].rows / g->bin[k].rows;
        g->deal_bin[k].room -= rows;
        append(g, k, item);
        g->dealt[item] = true;
        left -= rows;
        if (g->deal_bin[k].room > 0)
            ebb_deal_add(g->deal, k);
    }
}

/* Puts the block of an item at the next place. */
static void place_item(const ebb_order_epoch_t *e, ebb_order_group_t *g, int64_t place, int64_t item)
{
    g->block[place] = g->member[item];
    g->start[place + 1] = g->start[place] + (uint32_t)ebb_order_block_rows(e->order, g->member[item]);
}

/* Bin after bin: what was dealt to it, then others until it is full. */
static void fill_bins(const ebb_order_epoch_t *e, ebb_order_group_t *g, int64_t bins)
{
    int64_t place = 0, next = 0;
    for (int64_t k = 0; k < bins; k++) {
        for (uint32_t at = g->bin[k].first; at > 0; at = g->link[at - 1])
            place_item(e, g, place++, at - 1);
        while (next < g->n && (g->dealt[next] || g->start[place] < g->bin[k].end)) {
            if (!g->dealt[next])
                place_item(e, g, place++, next);
            next++;
        }
    }
    for (; next < g->n; next++)
        if (!g->dealt[next])
            place_item(e, g, place++, next);
}

static int64_t member_of(const ebb_order_t *o, const ebb_order_group_t *g, uint32_t i)
{
    return o->blocks ? ebb_group_block(o->blocks, g->first + i) : i;
}

static void lay_out(const ebb_order_epoch_t *e, ebb_order_group_t *g, uint64_t number)
{
    const ebb_order_t *o = e->order;
    int64_t usual = g->deal ? o->profile->entry[o->profile->n] / ebb_order_blocks(o) : 0, uneven = 0;
    ebb_order_mix_t mix;
    ebb_order_mix_init(&mix, e, EBB_RNG_BLOCKS, (number + 1) << 4, g->n);
    g->start[0] = 0;
    for (int64_t i = 0; i < g->n; i++) {
        g->block[i] = (uint32_t)member_of(o, g, ebb_order_mix(&mix, (uint32_t)i));
        g->start[i + 1] = g->start[i] + (uint32_t)ebb_order_block_rows(o, g->block[i]);
        if (!g->deal)
            continue;
        g->member[i] = g->block[i];
        g->size[i] = excess_of(o, g, g->block[i]);
        g->dealt[i] = false;
        uneven += (int64_t)abs(g->size[i]) * LIKE_MEAN > usual;
    }
    if (uneven == 0)
        return;
    int64_t bins = make_bins(e, g);
    deal_blocks(e, g, bins, usual);
    fill_bins(e, g, bins);
}

void ebb_order_group_at(const ebb_order_epoch_t *e, int64_t position, ebb_order_group_t *g)
{
    const ebb_row_blocks_t *blocks = e->order->blocks;
    if (g->place >= 0 && g->epoch == e->epoch && position >= g->begin && position < g->begin + g->rows)
        return;
    int64_t number = 0;
    g->epoch = e->epoch;
    g->begin = g->place = g->first = 0;
    g->n = ebb_order_blocks(e->order);
    g->rows = e->order->rows;
    for (; blocks; g->place++) {
        number = ebb_order_mix(&e->groups, (uint32_t)g->place);
        g->rows = blocks->group_rows[number];
        if (position < g->begin + g->rows)
            break;
        g->begin += g->rows;
    }
    if (blocks) {
        g->first = ebb_group_first(blocks, number);
        g->n = ebb_group_first(blocks, number + 1) - g->first;
    }
    lay_out(e, g, (uint64_t)number);
}
