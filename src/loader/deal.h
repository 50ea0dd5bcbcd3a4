/* Dealing the rows of a window to its steps so that every step gets as many entries. */
#ifndef EBB_LOADER_DEAL_H
#define EBB_LOADER_DEAL_H

#include "loader/order.h"

/* A lane of the team being dealt. */
typedef struct ebb_dealer_lane {
    struct ebb_plan_window *planned;  /* NULL: its blocks are another loader's, or it has no rows there */
    uint32_t *row;                    /* where planned rows go: the row (in storage order) that is delivered k-th */
    const ebb_order_window_t *window; /* has its mix, rows and steps */
    ebb_order_window_t other;         /* made here where none is planned */
    int32_t mean;
} ebb_dealer_lane_t;

/* What one thread needs for it. */
typedef struct ebb_dealer {
    const ebb_order_t *order;
    int32_t lanes;     /* of the largest team */
    int64_t rows;      /* of a lane's largest window */
    int64_t steps;     /* of a window */
    int32_t *length;   /* (lanes, rows) entries of each row, in storage order */
    uint32_t *at;      /* (lanes, rows) the row delivered i-th by the order */
    uint32_t *step_of; /* (lanes, rows) the step it is dealt to; NO_STEP: none yet */
    int32_t *size;     /* (lanes * rows) */
    uint32_t *sorted, *item;
    int32_t *room;           /* (lanes, steps) */
    ebb_deal_bin_t *bin;     /* (steps) */
    uint32_t *shuffled;      /* (steps) */
    ebb_dealer_lane_t *lane; /* (lanes) */
    ebb_deal_t deal;
    ebb_order_group_t group;
    int64_t *rowptr; /* (block_rows + 1) */
} ebb_dealer_t;

ebb_status_t ebb_dealer_init(ebb_dealer_t *d, const ebb_order_t *order);
void ebb_dealer_free(ebb_dealer_t *d);
/* Where the lengths of a lane of the team go, one for each row of its window. */
static inline int32_t *ebb_dealer_lengths(const ebb_dealer_t *d, int32_t i)
{
    return d->length + i * d->rows;
}
/* Deal the windows of a team's n lanes, lane[i].window, whose lengths are there. False: the rows are so alike that the
 * order is good as it is. */
bool ebb_deal_windows(ebb_dealer_t *d, int32_t n);
/* After that: the rows of the i-th lane, as they are delivered. */
void ebb_dealt_rows(const ebb_dealer_t *d, int32_t i, uint32_t *row);

#endif
