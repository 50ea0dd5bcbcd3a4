/* Which windows are in memory: the plan walks the steps to come, pins the blocks of the windows they need, earliest
 * first, and queues those that must be decoded. Under the loader's lock.
 *
 * Steps since the last seek are numbered by `seq`, across epochs. */
#ifndef EBB_LOADER_PLAN_H
#define EBB_LOADER_PLAN_H

#include "loader/blocks.h"
#include "loader/order.h"

typedef struct ebb_plan_window {
    ebb_order_window_t at;
    int64_t epoch, last_seq; /* last step that takes rows from it */
    int32_t pinned;          /* blocks pinned so far, of at.places */
    bool ready;              /* none of them is waiting to be decoded */
    ebb_block_t **block;     /* (window_blocks) in the order of places */
    uint32_t *start;         /* (window_blocks + 1) for at.start */
} ebb_plan_window_t;

/* Windows [head, tail) of a lane are held; window i in ring[i % size]. */
typedef struct ebb_plan_lane {
    int32_t lane;
    int64_t rows, share;
    int64_t epoch, end; /* windows are planned up to position `end` of `epoch` */
    int64_t head, tail;
    ebb_plan_window_t *ring;
    ebb_order_group_t *group; /* what the order remembers; one for all lanes where there is one group */
} ebb_plan_lane_t;

typedef struct ebb_plan {
    const ebb_order_t *order;
    ebb_blocks_t *blocks;
    int32_t n_lanes;
    ebb_plan_lane_t *lane;
    int64_t ring_size;
    ebb_block_t **storage; /* all windows' block pointers */
    uint32_t *starts;      /* all windows' starts of places */
    ebb_order_group_t *groups;
    uint32_t *group_starts;
    int64_t steps;    /* per epoch */
    uint32_t missing; /* rows by which the last block is shorter */
    int64_t base;     /* epoch * steps + step of seq 0 */
    int64_t seq;      /* the step being planned: all before it are */
    int32_t at_lane;  /* and the lane */
    ebb_order_epoch_t epoch;
    ebb_block_t **queue; /* blocks to decode, a ring */
    int64_t queue_size, queue_head, queue_tail;
} ebb_plan_t;

/* The most windows that one step can touch in a lane. */
int64_t ebb_plan_windows_per_step(const ebb_order_t *order);
ebb_status_t ebb_plan_init(ebb_plan_t *p, const ebb_order_t *order, ebb_blocks_t *blocks, const int32_t *lanes,
                           int32_t n_lanes);
void ebb_plan_cleanup(ebb_plan_t *p);
/* Drop all windows and start at a step; nothing may be decoding. */
void ebb_plan_reset(ebb_plan_t *p, int64_t epoch, int64_t step);
/* Plan as far as there are buffers; beyond: the step being planned may take more than there are, since nothing else can
 * free one. */
ebb_status_t ebb_plan_advance(ebb_plan_t *p, bool beyond);
/* Next block to decode, or NULL. */
ebb_block_t *ebb_plan_next_block(ebb_plan_t *p);
/* Release the windows that only steps before seq needed. */
void ebb_plan_release(ebb_plan_t *p, int64_t seq);
/* Is everything that step seq needs decoded (or failed)? */
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
