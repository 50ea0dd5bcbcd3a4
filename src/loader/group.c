/* How the blocks of a group lie in an epoch, so that every window of every lane gets as many entries a row as the
 * others, and blocks from every part of the data.
 *
 * The windows that the group's rows fill are known by arithmetic: a bin each, of so many rows. Blocks come in the
 * epoch's order (strata.h), which has slots for a block of each stratum in about every bin. Those that have far more or
 * fewer entries a row than the data set are dealt to the bins: to the one of those with a slot in their stratum that
 * lacks most, or of all bins where that has far too much already. Large ones come first, small bins being left out
 * while the blocks are too uneven for them, then smaller ones by halves of their size, each time as they are stored: so
 * what one has too many rows of the next makes up for, and bins have their share of every part not only of blocks but
 * nearly of rows. The rest, a part of the rows at least, fill what the bins lack, one after another, so that a window
 * ends within a block that is like the mean. Where blocks are alike nothing is dealt.
 *
 * A group is laid out when a position of it is first asked for: some 10 ns a block, 70 where blocks are dealt; at most
 * 8,192 blocks of unequal numbers of rows, 32,768 of equal ones.
 */
#include "base/alloc.h"
#include "base/rng.h"
#include "loader/strata.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TABLE_BLOCKS = 32768, LIKE_MEAN = 16, FILL_PART = 200, SMALL_BIN = 2, LARGE = 2, TOO_MUCH = 2 };

bool ebb_order_has_table(const ebb_order_t *order)
{
    return order->shuffle && (order->blocks || ebb_order_blocks(order) <= TABLE_BLOCKS);
}

static int64_t most_blocks(const ebb_order_t *order)
{
    return order->blocks ? order->blocks->n / order->blocks->groups + 1 : ebb_order_blocks(order);
}

/* ---- the windows of a group ---- */

/* The end of the window that holds a position of the epoch, as a position. */
static int64_t window_end(const ebb_order_t *o, int64_t position)
{
    int32_t lane = (int32_t)ebb_part(position, o->lanes, o->rows);
    while (ebb_part(o->rows, lane + 1, o->lanes) <= position)
        lane++;
    int64_t begin = ebb_part(o->rows, lane, o->lanes), end = ebb_part(o->rows, lane + 1, o->lanes);
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
    g->most_rows = 0;
    for (int64_t at = 0, end; at < g->rows; at = end, n++) {
        end = window_end(e->order, g->begin + at) - g->begin;
        end = end < g->rows ? end : g->rows;
        g->bin[n] = (ebb_order_bin_t){.rows = end - at, .end = end, .room = end - at};
        g->bin[n].share = (double)(end - at) / (double)g->rows;
        g->most_rows = end - at > g->most_rows ? end - at : g->most_rows;
    }
    return n;
}

/* ---- memory ---- */

/* Strata of a group and the shorter one: not twice as many as a window has blocks; see windows_of in strata.c. */
static int64_t most_parts(const ebb_order_t *o, int64_t n)
{
    int64_t most = 2 * ebb_order_largest_window(o);
    return (n < most ? n : most) + 1;
}

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
    return profile->entry[*at] + (rows > 0 ? ebb_part(entries, row - from, rows) : 0);
}

static double entries_a_row(const ebb_row_blocks_t *profile)
{
    return (double)profile->entry[profile->n] / (double)profile->row[profile->n];
}

static void fill_excess(const ebb_order_t *o, int32_t *excess)
{
    const double usual = entries_a_row(o->profile);
    int64_t n = ebb_order_blocks(o), at = 0, before = 0;
    for (int64_t b = 0; b < n; b++) {
        int64_t rows = ebb_order_block_rows(o, b);
        int64_t after = entries_before(o->profile, ebb_order_block_row(o, b) + rows, &at);
        excess[b] = narrow(after - before - (int64_t)(usual * (double)rows));
        before = after;
    }
}

ebb_status_t ebb_order_group_init(const ebb_order_t *o, ebb_order_group_t *g)
{
    *g = (ebb_order_group_t){0};
    if (!ebb_order_has_table(o))
        return EBB_OK;
    int64_t n = most_blocks(o), bins = most_bins(o);
    EBB_TRY(EBB_NEW_ARRAY("order of blocks", n, &g->block));
    EBB_TRY(EBB_NEW_ARRAY("order of blocks", n + 1, &g->start));
    EBB_TRY(EBB_NEW_ARRAY("order of blocks", n + 3 * most_parts(o, n), &g->room));
    if (!o->profile || !o->profile->entry)
        return EBB_OK;
    EBB_TRY(EBB_NEW_ARRAY("order of blocks", n, &g->member));
    EBB_TRY(EBB_NEW_ARRAY("order of blocks", n, &g->rows_of));
    EBB_TRY(EBB_NEW_ARRAY("order of blocks", n, &g->sorted));
    EBB_TRY(EBB_NEW_ARRAY("order of blocks", n, &g->part));
    EBB_TRY(EBB_NEW_ARRAY("order of blocks", n, &g->link));
    EBB_TRY(EBB_NEW_ARRAY("order of blocks", n, &g->size));
    EBB_TRY(EBB_NEW_ARRAY("order of blocks", n, &g->dealt));
    EBB_TRY(EBB_NEW_ARRAY("windows of a group", bins, &g->bin));
    EBB_TRY(EBB_NEW_ARRAY("order of blocks", n, &g->slot));
    EBB_TRY(EBB_NEW_ARRAY("order of blocks", most_parts(o, n), &g->stratum));
    EBB_TRY(EBB_NEW("order of blocks", &g->deal));
    g->usual = entries_a_row(o->profile);
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
    ebb_free(g->room);
    ebb_free(g->member);
    ebb_free(g->rows_of);
    ebb_free(g->sorted);
    ebb_free(g->part);
    ebb_free(g->link);
    ebb_free(g->size);
    ebb_free(g->dealt);
    ebb_free(g->bin);
    ebb_free(g->slot);
    ebb_free(g->stratum);
    ebb_free(g->deal);
    ebb_free(g->excess);
}

/* ---- laying a group out ---- */

/* Entries of the blocks beyond what is usual; how many have far more or fewer. */
static int64_t fill_sizes(const ebb_order_t *o, ebb_order_group_t *g, int64_t block_entries)
{
    int64_t uneven = 0;
    for (int64_t i = 0; i < g->n; i++) {
        g->rows_of[i] = g->start[i + 1] - g->start[i];
        if (g->excess) {
            g->size[i] = g->excess[g->block[i]];
        } else {
            const int64_t *entry = o->blocks->entry + g->block[i];
            g->size[i] = narrow(entry[1] - entry[0] - (int64_t)(g->usual * (double)g->rows_of[i]));
        }
        uneven += (int64_t)abs(g->size[i]) * LIKE_MEAN > block_entries;
    }
    return uneven;
}

/* May bins of so many rows have blocks of this size? The largest always. */
static bool admits(const ebb_order_group_t *g, const ebb_order_bin_t *bin, int32_t size)
{
    return bin->rows >= g->most_rows - g->most_rows / 4 ||
           (int64_t)abs(size) * SMALL_BIN <= (int64_t)(g->usual * (double)bin->rows);
}

/* How ill a block of this sign suits a bin, in entries of the largest bin: by how much it has more above the mean than
 * its part of what all bins have, or less if the block is below it; and, as rows are to come out even too, how little
 * room it has left beside the others, at a quarter of that. */
static double surplus(const ebb_order_group_t *g, const ebb_order_bin_t *bin, int32_t size)
{
    double above = (double)bin->sum - (double)g->sum * bin->share;
    double room = (double)bin->room - (double)(g->left + g->rows / FILL_PART) * bin->share;
    double here = (size > 0 ? above : -above) - room * g->usual / 4;
    return here * (double)g->most_rows / (double)bin->rows;
}

/* Of n bins with room for an item (k: numbers of bins, NULL: all) the one that it suits best; -1: there is none. */
static int32_t choose(const ebb_order_group_t *g, uint32_t item, const uint32_t *k, int64_t n)
{
    const int32_t size = g->size[item];
    int64_t best = -1;
    double least = INFINITY;
    for (int64_t i = 0; i < n; i++) {
        const ebb_order_bin_t *bin = &g->bin[k ? k[i] : i];
        double here = surplus(g, bin, size);
        if (here < least && bin->room >= g->rows_of[item] && admits(g, bin, size)) {
            least = here;
            best = i;
        }
    }
    return (int32_t)best;
}

/* The bin for an item: one that has a place left for a block of its stratum, unless it would get too much for blocks to
 * come to make up for. */
static int32_t bin_for(ebb_order_group_t *g, uint32_t item, int64_t bins)
{
    ebb_order_stratum_t *s = &g->stratum[g->part[item]];
    uint32_t *slot = g->slot + s->first;
    int32_t i = choose(g, item, slot, s->left), size = g->size[item];
    if (i < 0 || surplus(g, &g->bin[slot[i]], size) > TOO_MUCH * (double)abs(size))
        return choose(g, item, NULL, bins);
    int32_t k = (int32_t)slot[i];
    slot[i] = slot[--s->left];
    return k;
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

/* What the order gives each bin: a slot in each stratum for every block of it that lies there. Items by stratum. */
static void fill_slots(ebb_order_group_t *g)
{
    uint32_t at = 0, k = 0, *order = g->room;
    memset(g->stratum, 0, (size_t)g->parts * sizeof *g->stratum);
    for (int64_t i = 0; i < g->n; i++)
        g->stratum[g->part[i]].left++;
    for (int64_t s = 0; s < g->parts; at += g->stratum[s++].left)
        g->stratum[s].first = g->stratum[s].end = at;
    for (int64_t i = 0; i < g->n; i++) {
        while (g->rows * (2 * i + 1) >= g->bin[k].end * 2 * g->n) /* its middle; without a division, which shows */
            k++;
        g->slot[g->stratum[g->part[i]].end++] = k;
    }
    for (int64_t s = 0; s < g->parts; s++)
        g->stratum[s].end = g->stratum[s].first;
    for (int64_t i = 0; i < g->n; i++)
        order[g->stratum[g->part[g->sorted[i]]].end++] = g->sorted[i];
}

static void deal_item(ebb_order_group_t *g, uint32_t item, int64_t bins)
{
    int32_t k = bin_for(g, item, bins);
    if (k < 0)
        return;
    g->bin[k].sum += g->size[item];
    g->bin[k].room -= g->rows_of[item];
    g->sum += g->size[item];
    g->left -= g->rows_of[item];
    append(g, k, item);
    g->dealt[item] = true;
}

/* Deals the blocks that are unlike the mean to the bins. Large ones come first, by falling size; then those above half
 * of that and so on, each time as they are stored, so that what a bin has too much of is made up for nearby. */
static void deal_blocks(ebb_order_group_t *g, int64_t bins, int64_t usual)
{
    uint32_t *order = g->room;
    int64_t least = LARGE * usual;
    g->sum = 0;
    g->left = g->rows - g->rows / FILL_PART;
    ebb_deal_sort(g->deal, g->size, g->n, g->sorted);
    fill_slots(g);
    for (int64_t i = 0; i < g->n && abs(g->size[g->sorted[i]]) > least && g->left > 0; i++)
        deal_item(g, g->sorted[i], bins);
    for (int64_t rest = g->n, kept; least > usual / LIKE_MEAN && g->left > 0; least /= 2, rest = kept) {
        kept = 0;
        for (int64_t i = 0; i < rest && g->left > 0; i++) {
            if (!g->dealt[order[i]] && abs(g->size[order[i]]) > least / 2)
                deal_item(g, order[i], bins);
            if (!g->dealt[order[i]])
                order[kept++] = order[i];
        }
    }
}

/* Puts the block of an item at the next place. */
static void place_item(ebb_order_group_t *g, int64_t place, int64_t item)
{
    g->block[place] = g->member[item];
    g->start[place + 1] = g->start[place] + g->rows_of[item];
}

/* Bin after bin: what was dealt to it, then others until it is full. */
static void fill_bins(ebb_order_group_t *g, int64_t bins)
{
    int64_t place = 0, next = 0;
    for (int64_t k = 0; k < bins; k++) {
        for (uint32_t at = g->bin[k].first; at > 0; at = g->link[at - 1])
            place_item(g, place++, at - 1);
        while (next < g->n && (g->dealt[next] || g->start[place] < g->bin[k].end)) {
            if (!g->dealt[next])
                place_item(g, place++, next);
            next++;
        }
    }
    for (; next < g->n; next++)
        if (!g->dealt[next])
            place_item(g, place++, next);
}

/* Which stratum each block is of. */
static void note_parts(ebb_order_group_t *g, const ebb_strata_t *strata)
{
    g->parts = strata->each + 1;
    for (int64_t i = 0; i < g->n; i++)
        g->part[i] = g->block[i] / (uint32_t)strata->rounds;
}

/* The blocks in the epoch's random order. Where they are many, what is known of each has to come from memory. */
static void draw_blocks(const ebb_order_epoch_t *e, ebb_order_group_t *g)
{
    const ebb_row_blocks_t *blocks = e->order->blocks;
    ebb_strata_t strata;
    if (g->n == e->blocks)
        ebb_strata_init(&strata, e, g->n);
    else
        ebb_strata_init_part(&strata, e, g->n, g->begin, g->rows);
    ebb_strata_table(&strata, g->room, g->block);
    if (g->part)
        note_parts(g, &strata);
    for (int64_t i = 0; blocks && i < g->n; i++) {
        g->block[i] = (uint32_t)ebb_group_block(blocks, g->first + g->block[i]);
        __builtin_prefetch(blocks->row + g->block[i]);
        __builtin_prefetch(blocks->entry + g->block[i]);
    }
    g->start[0] = 0;
    for (int64_t i = 0; i < g->n; i++)
        g->start[i + 1] = g->start[i] + (uint32_t)ebb_order_block_rows(e->order, g->block[i]);
}

static void lay_out(const ebb_order_epoch_t *e, ebb_order_group_t *g)
{
    const ebb_order_t *o = e->order;
    draw_blocks(e, g);
    if (!g->deal)
        return;
    int64_t usual = o->profile->entry[o->profile->n] / ebb_order_blocks(o);
    if (fill_sizes(o, g, usual) == 0)
        return;
    memcpy(g->member, g->block, (size_t)g->n * sizeof *g->block);
    memset(g->dealt, 0, (size_t)g->n * sizeof *g->dealt);
    int64_t bins = make_bins(e, g);
    deal_blocks(g, bins, usual);
    fill_bins(g, bins);
}

/* The group that holds a position of the epoch, and where it begins: down the sections, the parts of each permuted
 * among themselves. */
static int64_t group_of(const ebb_order_epoch_t *e, ebb_order_group_t *g, int64_t position)
{
    const ebb_row_blocks_t *blocks = e->order->blocks;
    int64_t number = 0, first = 0;
    int64_t n = blocks->levels > 0 ? blocks->section[blocks->levels - 1].n : blocks->groups;
    for (int level = blocks->levels; level >= 0; level--) {
        const int64_t *rows = level > 0 ? blocks->section[level - 1].rows : blocks->group_rows;
        uint64_t key = level < blocks->levels ? (uint64_t)level << 56 | 1ull << 62 | (uint64_t)(number + 1) << 4 : 0;
        ebb_order_mix_t mix;
        ebb_order_mix_init(&mix, e, EBB_RNG_BLOCKS, key, n);
        for (uint32_t i = 0;; i++) {
            number = first + ebb_order_mix(&mix, i);
            g->work++;
            if (position < g->begin + rows[number])
                break;
            g->begin += rows[number];
        }
        if (level == 0)
            break;
        int64_t parts = level > 1 ? blocks->section[level - 2].n : blocks->groups, of = blocks->section[level - 1].n;
        first = ebb_section_first(parts, number, of);
        n = ebb_section_first(parts, number + 1, of) - first;
    }
    return number;
}

void ebb_order_group_at(const ebb_order_epoch_t *e, int64_t position, ebb_order_group_t *g)
{
    const ebb_row_blocks_t *blocks = e->order->blocks;
    if (g->laid_out && g->epoch == e->epoch && position >= g->begin && position < g->begin + g->rows)
        return;
    int64_t number = 0;
    g->epoch = e->epoch;
    g->laid_out = true;
    g->begin = g->first = 0;
    g->n = ebb_order_blocks(e->order);
    g->rows = e->order->rows;
    if (blocks) {
        number = group_of(e, g, position);
        g->rows = blocks->group_rows[number];
        g->first = ebb_group_first(blocks, number);
        g->n = ebb_group_first(blocks, number + 1) - g->first;
    }
    g->work += g->n;
    lay_out(e, g);
}
