/* Which windows are in memory: the plan walks the steps to come, pins the blocks of the windows they need, earliest
 * first, and queues those that must be decoded. Under the loader's lock.
 *
 * Steps since the last seek are numbered by `seq`, across epochs. */
#ifndef EBB_LOADER_PLAN_H
#define EBB_LOADER_PLAN_H

#include "loader/blocks.h"
#include "loader/order.h"

typedef enum ebb_deal_state { EBB_DEAL_WAITS, EBB_DEAL_RUNS, EBB_DEAL_DONE } ebb_deal_state_t;

typedef struct ebb_plan_window {
    ebb_order_window_t at;
    int64_t epoch, last_seq; /* last step that takes rows from it */
    int32_t pinned;          /* blocks pinned so far, of at.places */
    bool ready;              /* none of them is waiting to be decoded */
    ebb_deal_state_t deal;   /* of its rows to its steps */
    const uint32_t *dealt;   /* (at.rows) the row delivered i-th; NULL: as the order has them */
    ebb_block_t **block;     /* (at.places) */
    int64_t room;
    ebb_error_t error; /* lengths of rows could not be read */
} ebb_plan_window_t;

/* Windows [head, tail) of a lane are held; window i in ring[i % size]. */
typedef struct ebb_plan_lane {
    int32_t lane;
    int64_t rows, share;
    int64_t epoch, end; /* windows are planned up to position `end` of `epoch` */
    int64_t head, tail;
    ebb_plan_window_t *ring;
    ebb_order_group_t *group; /* what the order remembers; one for all lanes where there is one group */
    uint32_t *dealt;          /* (deal_rooms, deal_rows); window i in i % deal_rooms */
} ebb_plan_lane_t;

/* Lanes lane[first] .. lane[first + n - 1] of the plan are of one team, [from, to) among all lanes. */
typedef struct ebb_plan_team {
    int32_t first, n, from, to;
    int64_t deal_seq; /* windows that hold this step and later ones are not yet dealt */
} ebb_plan_team_t;

typedef struct ebb_plan {
    const ebb_order_t *order;
    ebb_blocks_t *blocks;
    int32_t n_lanes, n_teams;
    ebb_plan_lane_t *lane;
    ebb_plan_team_t *team;
    int64_t ring_size;
    ebb_plan_window_t *windows; /* all of them */
    ebb_order_group_t *groups;
    int64_t n_groups;
    bool deals;                    /* rows are dealt: sparse and shuffled */
    int64_t deal_rooms, deal_rows; /* windows of a lane that may be dealt at a time; rows of the largest */
    uint32_t *dealt;
    int64_t steps;   /* per epoch */
    int64_t base;    /* epoch * steps + step of seq 0 */
    int64_t seq;     /* the step being planned: all before it are */
    int32_t at_lane; /* and the lane */
    ebb_order_epoch_t epoch;
    ebb_block_t *queue, *queue_end; /* blocks to decode */
    ebb_block_t *unhinted;          /* the first of them that the kernel was not told of; NULL: none */
    int hinted;                     /* how many stand before it */
} ebb_plan_t;

/* Windows of a team that hold step seq. */
typedef struct ebb_plan_deal {
    const ebb_plan_team_t *team;
    int64_t epoch, step;
} ebb_plan_deal_t;

/* depth: batches that may be gathered at a time. */
ebb_status_t ebb_plan_init(ebb_plan_t *p, const ebb_order_t *order, ebb_blocks_t *blocks, const int32_t *lanes,
                           int32_t n_lanes, int depth);
void ebb_plan_cleanup(ebb_plan_t *p);
/* Drop all windows and start at a step; nothing may be decoding. */
void ebb_plan_reset(ebb_plan_t *p, int64_t epoch, int64_t step);
/* Plan as far as there are buffers; beyond: the step being planned may take more than there are, since nothing else can
 * free one. */
ebb_status_t ebb_plan_advance(ebb_plan_t *p, bool beyond);
/* Next block to decode, or NULL. */
ebb_block_t *ebb_plan_next_block(ebb_plan_t *p);
/* The first block of the queue that was not told of before, if less than `ahead` were that still wait; or NULL. */
ebb_block_t *ebb_plan_next_hint(ebb_plan_t *p, int ahead);
/* A team whose windows can be dealt, earliest first; false: none. They are then in the state EBB_DEAL_RUNS. */
bool ebb_plan_next_deal(ebb_plan_t *p, ebb_plan_deal_t *deal);
/* The window of a lane that holds a step; NULL: it is not held, or has no rows. */
ebb_plan_window_t *ebb_plan_window_of(const ebb_plan_t *p, const ebb_plan_lane_t *lane, int64_t epoch, int64_t step);
/* Where the rows of a lane's window go when they are dealt. */
uint32_t *ebb_plan_dealt(const ebb_plan_t *p, const ebb_plan_lane_t *lane, const ebb_plan_window_t *w);
/* Release the windows that only steps before seq needed. */
void ebb_plan_release(ebb_plan_t *p, int64_t seq);
/* Is everything that step seq needs decoded (or failed), and dealt? */
bool ebb_plan_ready(ebb_plan_t *p, int64_t seq);

static inline int64_t ebb_plan_epoch(const ebb_plan_t *p, int64_t seq)
{
    return (p->base + seq) / p->steps;
}

static inline int64_t ebb_plan_step(const ebb_plan_t *p, int64_t seq)
{
    return (p->base + seq) % p->steps;
}

static inline ebb_plan_window_t *ebb_plan_window(const ebb_plan_t *p, const ebb_plan_lane_t *lane, int64_t i)
{
    return &lane->ring[i % p->ring_size];
}

/* Positions [*begin, *end) of the lane that a step delivers; empty in the tail. */
static inline void ebb_plan_rows(const ebb_plan_lane_t *lane, int64_t step, int64_t *begin, int64_t *end)
{
    *begin = step * lane->share < lane->rows ? step * lane->share : lane->rows;
    *end = *begin + lane->share < lane->rows ? *begin + lane->share : lane->rows;
}

#endif
