/* The rows that a loader must deliver, from the order and the rows' lengths alone: windows and how they are dealt, but
 * no plan, threads, blocks in memory or batches. */
#ifndef DEALT_H
#define DEALT_H

#include "support.h"
#include "loader/deal.h"

typedef int64_t (*length_of_t)(const void *data, int64_t row);

/* Row numbers of a window in the order of storage, and where they lie. */
static inline int64_t window_row(const ebb_order_t *o, const ebb_order_window_t *w, uint32_t at)
{
    uint32_t place, row;
    ebb_order_locate(w, at, &place, &row);
    return ebb_order_block_row(o, w->block[place]) + row;
}

/* Rows of one lane in one step; returns how many. length NULL: dense. */
static inline int64_t dealt_step(const ebb_order_t *o, int64_t epoch, int32_t lane, int64_t step, length_of_t length,
                                 const void *data, int64_t *row)
{
    ebb_dealer_t *d = calloc(1, sizeof *d);
    ebb_order_epoch_t e;
    int32_t first, end;
    int64_t n = 0, share = ebb_order_lane_share(o, lane);
    assert_ok(ebb_dealer_init(d, o));
    ebb_order_epoch_init(o, epoch, &e);
    ebb_order_team(o, lane, &first, &end);
    for (int32_t i = 0; i < end - first; i++) {
        ebb_order_window_t *w = &d->lane[i].other;
        d->lane[i].window = w;
        assert_ok(ebb_order_window_at(&e, &d->group, first + i, step, w));
        for (int64_t at = 0; at < w->rows && length; at++)
            ebb_dealer_lengths(d, i)[at] = (int32_t)length(data, window_row(o, w, (uint32_t)at));
    }
    const ebb_order_window_t *w = d->lane[lane - first].window;
    uint32_t *order = calloc((size_t)w->rows + 1, sizeof *order);
    if (length && o->shuffle && ebb_deal_windows(d, end - first))
        ebb_dealt_rows(d, lane - first, order);
    else
        for (int64_t i = 0; i < w->rows; i++)
            order[i] = ebb_order_mix(&w->mix, (uint32_t)i);
    for (int64_t i = step * share - w->begin; i < w->rows && i < (step + 1) * share - w->begin; i++)
        row[n++] = window_row(o, w, order[i]);
    free(order);
    ebb_dealer_free(d);
    free(d);
    return n;
}

#endif
