/* Dealing rows to steps.
 *
 * The lanes of a team are dealt together, since a single row may have more entries than a lane's share of a step: what
 * one lane has too much of, its neighbours have less of. First the rows of all lanes that are longer than HEAVY times
 * the mean, the longest first, each to the step that has least so far. Then, lane after lane, the others, from the
 * farthest off the lane's mean to the nearest: long ones to the step with the least entries, short ones to that with
 * the most. Each step keeps as many rows of each lane as it had.
 *
 * Chance: the order's random permutation decides between rows of about one length, and another, of the steps, which of
 * those with equal sums comes first. Steps of a window are alike in all else, so every row comes to each of them with
 * the same probability, as before; only that several long rows meet in a step is rarer than in a plain shuffle, which
 * makes gradients less noisy, not biased. Within a step rows stay in the order of the permutation.
 *
 * Where lengths vary so little that chance alone keeps steps alike (three per mille of their mean), nothing is done.
 */
#include "loader/deal.h"
#include "base/alloc.h"
#include "base/rng.h"

#include <string.h>

enum { HEAVY = 2, TRIES = 8 };
#define NO_STEP  UINT32_MAX
#define LIKENESS 0.003

ebb_status_t ebb_dealer_init(ebb_dealer_t *d, const ebb_order_t *order)
{
    int64_t share = (order->batch + order->lanes - 1) / order->lanes;
    int32_t first, end;
    d->order = order;
    for (int32_t l = 0; l < order->lanes; l = end) {
        ebb_order_team(order, l, &first, &end);
        d->lanes = end - first > d->lanes ? end - first : d->lanes;
    }
    d->steps = ebb_order_window_steps(order);
    d->rows = d->steps * share < order->rows ? d->steps * share : order->rows;
    int64_t all = d->lanes * d->rows;
    EBB_TRY(EBB_NEW_ARRAY("lengths of rows", all, &d->length));
    EBB_TRY(EBB_NEW_ARRAY("dealt rows", all, &d->at));
    EBB_TRY(EBB_NEW_ARRAY("dealt rows", all, &d->step_of));
    EBB_TRY(EBB_NEW_ARRAY("dealt rows", all, &d->size));
    EBB_TRY(EBB_NEW_ARRAY("dealt rows", all, &d->sorted));
    EBB_TRY(EBB_NEW_ARRAY("dealt rows", all, &d->item));
    EBB_TRY(EBB_NEW_ARRAY("dealt rows", d->lanes * d->steps, &d->room));
    EBB_TRY(EBB_NEW_ARRAY("dealt rows", d->steps, &d->bin));
    EBB_TRY(EBB_NEW_ARRAY("dealt rows", d->steps, &d->shuffled));
    EBB_TRY(EBB_NEW_ARRAY("dealt rows", d->lanes, &d->lane));
    for (int32_t i = 0; i < d->lanes; i++)
        EBB_TRY(ebb_order_window_reserve(order, &d->lane[i].other));
    EBB_TRY(EBB_NEW_ARRAY("row pointers", order->block_rows + 1, &d->rowptr));
    return ebb_order_group_init(order, &d->group);
}

void ebb_dealer_free(ebb_dealer_t *d)
{
    for (int32_t i = 0; d->lane && i < d->lanes; i++)
        ebb_order_window_free(&d->lane[i].other);
    ebb_free(d->lane);
    ebb_free(d->length);
    ebb_free(d->at);
    ebb_free(d->step_of);
    ebb_free(d->size);
    ebb_free(d->sorted);
    ebb_free(d->item);
    ebb_free(d->room);
    ebb_free(d->bin);
    ebb_free(d->shuffled);
    ebb_free(d->rowptr);
    ebb_order_group_free(&d->group);
}

/* Means of the lanes' lengths, and of all; *alike: a step's sums vary little as it is. */
static double find_means(ebb_dealer_t *d, int32_t n, bool *alike)
{
    double sum = 0, squares = 0, rows = 0;
    for (int32_t i = 0; i < n; i++) {
        const int32_t *length = ebb_dealer_lengths(d, i);
        double before = sum, here = (double)d->lane[i].window->rows;
        for (int64_t r = 0; r < d->lane[i].window->rows; r++) {
            sum += length[r];
            squares += (double)length[r] * length[r];
        }
        d->lane[i].mean = here > 0 ? (int32_t)((sum - before) / here) : 0;
        rows += here;
    }
    double mean = rows > 0 ? sum / rows : 0, variance = rows > 0 ? squares / rows - mean * mean : 0;
    double limit = LIKENESS * mean, a_step = (double)n * (double)d->order->batch / d->order->lanes;
    *alike = variance <= limit * limit * a_step;
    return mean;
}

/* Rows as the order has them, and what room each step has for them. */
static void begin_lane(ebb_dealer_t *d, int32_t i, const ebb_order_window_t *w)
{
    int64_t share = ebb_order_lane_share(d->order, w->lane), left = w->rows;
    uint32_t *at = d->at + i * d->rows, *step_of = d->step_of + i * d->rows;
    for (int64_t r = 0; r < w->rows; r++) {
        at[r] = ebb_order_mix(&w->mix, (uint32_t)r);
        step_of[r] = NO_STEP;
    }
    for (int64_t s = 0; s < d->steps; s++) {
        int32_t room = (int32_t)(left < share ? left : share);
        d->room[i * d->steps + s] = room;
        d->bin[s].room += room;
        left -= room;
    }
}

/* The steps in a random order of the window's own. */
static void shuffle_steps(ebb_dealer_t *d, const ebb_order_window_t *w)
{
    ebb_order_mix_t mix = w->mix;
    int bits = 1;
    while (((int64_t)1 << bits) < d->steps)
        bits++;
    mix.n = (uint32_t)d->steps;
    mix.mask = (uint32_t)(((uint64_t)1 << bits) - 1);
    mix.shift = (bits + 1) / 2;
    for (int64_t s = 0; s < d->steps; s++)
        d->shuffled[s] = ebb_order_mix(&mix, (uint32_t)s);
}

/* A queue of the steps that have room for a lane's rows. */
static void begin_queue(ebb_dealer_t *d, int32_t lane, int64_t width)
{
    ebb_deal_begin(&d->deal, d->bin, width);
    for (int64_t s = 0; s < d->steps; s++)
        if (d->room[lane * d->steps + d->shuffled[s]] > 0)
            ebb_deal_add(&d->deal, (int32_t)d->shuffled[s]);
}

/* The step with the least entries that has room for a row of a lane; the others it met are put back. */
static int32_t lightest(ebb_dealer_t *d, int32_t lane)
{
    int32_t met[TRIES], n = 0, s;
    while ((s = ebb_deal_take(&d->deal, true)) >= 0 && d->room[lane * d->steps + s] == 0) {
        met[n++] = s;
        if (n == TRIES) {
            s = -1;
            break;
        }
    }
    while (n > 0)
        ebb_deal_add(&d->deal, met[--n]);
    return s;
}

static void give(ebb_dealer_t *d, uint32_t item, int32_t step, int32_t size)
{
    d->step_of[item] = (uint32_t)step;
    d->bin[step].sum += size;
    d->room[item / d->rows * d->steps + step]--;
}

/* Steps of half a step's rows and less, at the end of an epoch, get no heavy ones. */
static void deal_heavy(ebb_dealer_t *d, int32_t n, double mean, int64_t width)
{
    int64_t heavy = 0;
    for (int32_t i = 0; i < n; i++)
        for (int64_t r = 0; r < d->lane[i].window->rows; r++) {
            int32_t length = d->length[i * d->rows + d->at[i * d->rows + r]];
            if (length > HEAVY * mean) {
                d->size[heavy] = length - d->lane[i].mean;
                d->item[heavy++] = (uint32_t)(i * d->rows + r);
            }
        }
    ebb_deal_sort(&d->deal, d->size, heavy, d->sorted);
    ebb_deal_begin(&d->deal, d->bin, width);
    for (int64_t s = 0; s < d->steps; s++)
        if (d->bin[d->shuffled[s]].room > d->bin[0].room / 2)
            ebb_deal_add(&d->deal, (int32_t)d->shuffled[s]);
    for (int64_t k = 0; k < heavy; k++) {
        uint32_t item = d->item[d->sorted[k]];
        int32_t s = lightest(d, (int32_t)(item / d->rows));
        if (s < 0)
            continue;
        give(d, item, s, d->size[d->sorted[k]]);
        ebb_deal_add(&d->deal, s);
    }
}

/* The lane's rows that are not heavy. Their mean is less than the lane's: a step that has room for many of them counts
 * as having that much less already. */
static void deal_lane(ebb_dealer_t *d, int32_t i, const ebb_order_window_t *w, int64_t width)
{
    int64_t left = 0, sum = 0;
    for (int64_t r = 0; r < w->rows; r++)
        if (d->step_of[i * d->rows + r] == NO_STEP) {
            d->size[left] = d->length[i * d->rows + d->at[i * d->rows + r]];
            d->item[left] = (uint32_t)(i * d->rows + r);
            sum += d->size[left++];
        }
    int32_t mean = left > 0 ? (int32_t)(sum / left) : 0;
    for (int64_t k = 0; k < left; k++)
        d->size[k] -= mean;
    for (int64_t s = 0; s < d->steps; s++)
        d->bin[s].sum += (int64_t)d->room[i * d->steps + s] * (mean - d->lane[i].mean);
    ebb_deal_sort(&d->deal, d->size, left, d->sorted);
    begin_queue(d, i, width);
    for (int64_t k = 0; k < left; k++) {
        int32_t size = d->size[d->sorted[k]], s = ebb_deal_take(&d->deal, size > 0);
        give(d, d->item[d->sorted[k]], s, size);
        if (d->room[i * d->steps + s] > 0)
            ebb_deal_add(&d->deal, s);
    }
}

bool ebb_deal_windows(ebb_dealer_t *d, int32_t n)
{
    bool alike;
    double mean = find_means(d, n, &alike);
    if (alike || d->lane[0].window->steps < 2)
        return false;
    memset(d->bin, 0, (size_t)d->steps * sizeof *d->bin);
    for (int32_t i = 0; i < n; i++)
        begin_lane(d, i, d->lane[i].window);
    int32_t some = 0;
    while (d->lane[some].window->rows == 0)
        some++;
    shuffle_steps(d, d->lane[some].window);
    int64_t width = (int64_t)(mean * n * (double)d->order->batch / d->order->lanes / (EBB_DEAL_BUCKETS / 2));
    deal_heavy(d, n, mean, width);
    for (int32_t i = 0; i < n; i++)
        deal_lane(d, i, d->lane[i].window, width);
    return true;
}

void ebb_dealt_rows(const ebb_dealer_t *d, int32_t i, uint32_t *row)
{
    const ebb_order_window_t *w = d->lane[i].window;
    const uint32_t *at = d->at + i * d->rows, *step_of = d->step_of + i * d->rows;
    int64_t share = ebb_order_lane_share(d->order, w->lane);
    uint32_t *next = d->shuffled; /* no longer needed */
    for (int64_t s = 0; s < d->steps; s++)
        next[s] = (uint32_t)(s * share);
    for (int64_t r = 0; r < w->rows; r++)
        row[next[step_of[r]]++] = at[r];
}
