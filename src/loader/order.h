/* The order's parts, for the loader: blocks, lanes and windows of one epoch. All pure. */
#ifndef EBB_LOADER_ORDER_H
#define EBB_LOADER_ORDER_H

#include "base/deal.h"
#include "base/part.h"
#include <ebb/loader.h>

enum { EBB_ORDER_ROUNDS = 4, EBB_ORDER_HINTS = 256 };

/* A keyed permutation of 0 .. n-1, n < 2^32. */
typedef struct ebb_order_mix {
    uint32_t n, mask;
    int shift;
    uint32_t mul[EBB_ORDER_ROUNDS], add[EBB_ORDER_ROUNDS];
    bool identity;
} ebb_order_mix_t;

/* How n blocks are ordered: see strata.h. */
typedef struct ebb_strata {
    const ebb_order_t *order;
    int64_t epoch, n;
    int64_t rounds, turns; /* turns: of them, that a lane has */
    int64_t each, more;    /* strata of `rounds` blocks; blocks of the shorter one, which comes last */
    int64_t stride, start; /* of the sequence of strata in a round */
    int64_t time, turn;    /* of a group: blocks of its lane before it, and turns in which others have been more */
    int64_t shift;         /* of a group: how far blocks lie from those of lane 0 in each stratum */
    uint64_t key;
} ebb_strata_t;

/* How the blocks lie in one epoch. */
typedef struct ebb_order_epoch {
    const ebb_order_t *order;
    int64_t epoch;
    int64_t blocks;
    ebb_strata_t strata; /* of blocks that no table is kept of */
    int64_t short_place; /* place of the last block of the data set */
    int64_t missing;     /* rows by which it is shorter than the others */
} ebb_order_epoch_t;

/* The part of a lane's window that one group of blocks has to fill. */
typedef struct ebb_order_bin {
    int64_t rows, end;    /* end: in the group */
    int64_t room, sum;    /* rows that it has room for; entries above the mean, so far */
    double share;         /* of the rows of all bins */
    uint32_t first, last; /* of the blocks dealt to it, plus one; 0: none */
} ebb_order_bin_t;

/* Blocks of a group that are neighbours in the data, of which every window should have one. */
typedef struct ebb_order_stratum {
    uint32_t first, end, left; /* slots, and how many of them are left */
} ebb_order_stratum_t;

/* One group of blocks, as it lies in an epoch, and what laying it out takes. */
typedef struct ebb_order_group {
    bool laid_out;
    int64_t epoch;
    int64_t begin, rows; /* positions of the epoch that it takes */
    int64_t first, n;    /* its blocks */
    uint32_t *block;     /* (n) at each of its places */
    uint32_t *start;     /* (n + 1) rows before each of its places */
    int64_t parts;
    uint32_t *room; /* (n + 3 parts) for ebb_strata_table, and items by stratum */
    uint32_t *member, *rows_of, *sorted, *link;
    uint32_t *part;  /* (n) of the data, of the block at each place */
    int32_t *size;   /* (n) entries above those that as many rows have on the average */
    int32_t *excess; /* the same by block, of all blocks; NULL: from order->blocks */
    bool *dealt;
    ebb_order_bin_t *bin;
    ebb_order_stratum_t *stratum; /* (parts) */
    uint32_t *slot;               /* (n) bins that have places for a block of a stratum */
    int64_t most_rows, left;      /* of a bin; rows that are still to be dealt */
    int64_t sum;                  /* of all bins */
    ebb_deal_t *deal;             /* NULL: nothing is known of entries */
    double usual;                 /* entries a row */
    int64_t work;                 /* blocks laid out and sections' parts passed so far, for tests */
} ebb_order_group_t;

/* A window: positions [begin, begin + rows) of a lane, those of steps [step, step + steps). */
typedef struct ebb_order_window {
    int32_t lane;
    int64_t number;
    int64_t step, steps;
    int64_t begin, rows;
    int64_t head;    /* rows of the first place that belong to what comes before */
    int32_t places;  /* where its rows lie */
    int64_t *block;  /* (places) the block at each */
    uint32_t *start; /* (places + 1) rows before each */
    int64_t room, start_room;
    ebb_order_mix_t mix;
    float per_row;                  /* hints per row */
    uint32_t hint[EBB_ORDER_HINTS]; /* the place to begin looking at */
} ebb_order_window_t;

void ebb_order_epoch_init(const ebb_order_t *order, int64_t epoch, ebb_order_epoch_t *e);
void ebb_order_mix_init(ebb_order_mix_t *m, const ebb_order_epoch_t *e, uint32_t purpose, uint64_t place, int64_t n);
static inline int64_t ebb_order_block_row(const ebb_order_t *order, int64_t block)
{
    return order->blocks ? order->blocks->row[block] : block * order->block_rows;
}

static inline int64_t ebb_order_block_rows(const ebb_order_t *order, int64_t block)
{
    if (order->blocks)
        return order->blocks->row[block + 1] - order->blocks->row[block];
    int64_t left = order->rows - block * order->block_rows;
    return left < order->block_rows ? left : order->block_rows;
}

int64_t ebb_order_blocks(const ebb_order_t *order);
/* Rows of a block on the average. */
int64_t ebb_order_usual_rows(const ebb_order_t *order);
/* Memory for a group; nothing where no tables are kept. */
ebb_status_t ebb_order_group_init(const ebb_order_t *order, ebb_order_group_t *g);
void ebb_order_group_free(ebb_order_group_t *g);
/* Is a table kept of where blocks lie, one group at a time? */
bool ebb_order_has_table(const ebb_order_t *order);
/* The group that holds a position of the epoch, laid out. */
void ebb_order_group_at(const ebb_order_epoch_t *e, int64_t position, ebb_order_group_t *g);
/* Blocks that the largest window has, about. */
int64_t ebb_order_largest_window(const ebb_order_t *order);
/* The most steps that a window lasts. */
int64_t ebb_order_window_steps(const ebb_order_t *order);
/* Steps of the first window of a lane's team, which are fewer, so that teams begin windows at different steps, and of
 * the others, which are equal, so that none is so small that its blocks cannot be like the mean. */
void ebb_order_team_windows(const ebb_order_t *order, int32_t lane, int64_t *first, int64_t *others);
int32_t ebb_order_teams(const ebb_order_t *order);
int32_t ebb_order_team_of(const ebb_order_t *order, int32_t lane);
/* The team of a lane: lanes [*first, *end). Their windows begin and end at the same steps. */
void ebb_order_team(const ebb_order_t *order, int32_t lane, int32_t *first, int32_t *end);
/* The window of a lane that holds a step. group remembers where the last call was; w keeps its memory, which grows
 * (EBB_ENOMEM). */
ebb_status_t ebb_order_window_at(const ebb_order_epoch_t *e, ebb_order_group_t *group, int32_t lane, int64_t step,
                                 ebb_order_window_t *w);
/* Blocks that a window has on the average, counting those in which it begins and ends; memory for about as many. */
int64_t ebb_order_window_places(const ebb_order_t *order);
ebb_status_t ebb_order_window_reserve(const ebb_order_t *order, ebb_order_window_t *w);
void ebb_order_window_free(ebb_order_window_t *w);

/* A permutation of the next power of two; a walk along it stays inside n in the end. */
static inline uint32_t ebb_order_mix_once(const ebb_order_mix_t *m, uint32_t i)
{
    for (int r = 0; r < EBB_ORDER_ROUNDS; r++) {
        i = (i * m->mul[r] + m->add[r]) & m->mask;
        i ^= i >> m->shift;
    }
    return i;
}

static inline uint32_t ebb_order_mix(const ebb_order_mix_t *m, uint32_t i)
{
    if (m->identity)
        return i;
    do
        i = ebb_order_mix_once(m, i);
    while (i >= m->n);
    return i;
}

/* Where the window's row number `at` in storage lies (the i-th delivered has at = ebb_order_mix(&w->mix, i), unless
 * rows were dealt): which of its places, and row within that block. */
static inline void ebb_order_locate(const ebb_order_window_t *w, uint32_t at, uint32_t *place, uint32_t *row)
{
    uint32_t head_at = at + (uint32_t)w->head, h = (uint32_t)((float)head_at * w->per_row);
    uint32_t k = w->hint[h < EBB_ORDER_HINTS ? h : EBB_ORDER_HINTS - 1];
    while (w->start[k] > head_at)
        k--;
    while (w->start[k + 1] <= head_at)
        k++;
    *place = k;
    *row = head_at - w->start[k];
}

#endif
