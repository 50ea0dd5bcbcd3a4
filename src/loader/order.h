/* The order's parts, for the loader: blocks, lanes and windows of one epoch. All pure and O(1). */
#ifndef EBB_LOADER_ORDER_H
#define EBB_LOADER_ORDER_H

#include <ebb/loader.h>

enum { EBB_ORDER_ROUNDS = 4 };

/* A keyed permutation of 0 .. n-1, n < 2^32. */
typedef struct ebb_order_mix {
    uint32_t n, mask;
    int shift;
    uint32_t mul[EBB_ORDER_ROUNDS], add[EBB_ORDER_ROUNDS];
    bool identity;
} ebb_order_mix_t;

/* How the blocks lie in one epoch: place j of the permuted sequence holds block permute(j). */
typedef struct ebb_order_epoch {
    const ebb_order_t *order;
    int64_t epoch;
    int64_t blocks;
    uint64_t key;
    int64_t short_place;    /* place of the last block of the data set */
    int64_t missing;        /* rows by which it is shorter than the others */
    ebb_order_mix_t groups; /* with blocks of unequal numbers of rows: how their groups lie */
} ebb_order_epoch_t;

/* One group of blocks of unequal numbers of rows, as it lies in an epoch. */
typedef struct ebb_order_group {
    int64_t epoch, place; /* place-th of the epoch's groups; -1: none yet */
    int64_t begin, rows;  /* positions of the epoch that it takes */
    int64_t first, n;     /* its blocks */
    ebb_order_mix_t mix;  /* of them */
    uint32_t *start;      /* (n + 1) rows before each of its places; NULL: added up whenever asked for */
} ebb_order_group_t;

/* A window: positions [begin, begin + rows) of a lane, which lie in places [place, place + places). */
typedef struct ebb_order_window {
    int32_t lane;
    int64_t number;
    int64_t begin, rows;
    int64_t place;
    int32_t places;
    int64_t head;       /* rows of the first place that belong to an earlier lane */
    int32_t short_rank; /* which of its places is the short one; -1: none */
    ebb_order_mix_t mix;
    ebb_order_group_t group; /* of blocks of unequal numbers of rows: place is one of the group's */
    uint32_t *start;         /* (places + 1) rows before each of its places, when they are unequal */
    float per_row;           /* places per row, about */
} ebb_order_window_t;

void ebb_order_epoch_init(const ebb_order_t *order, int64_t epoch, ebb_order_epoch_t *e);
int64_t ebb_order_block_rows(const ebb_order_t *order, int64_t block);
/* Most blocks in a group, for the size of ebb_order_group_t.start. */
int64_t ebb_order_group_most(const ebb_order_t *order);
/* The window of a lane that holds its position p; O(1). With blocks of unequal numbers of rows: group remembers where
 * the last call was (it may be NULL), and start has room for window_blocks + 1 (it may be NULL; then ebb_order_locate
 * must not be called). */
void ebb_order_window_at(const ebb_order_epoch_t *e, ebb_order_group_t *group, uint32_t *start, int32_t lane, int64_t p,
                         ebb_order_window_t *w);
/* The block at one of a window's places, its first row, and its number of rows. */
int64_t ebb_order_window_block(const ebb_order_epoch_t *e, const ebb_order_window_t *w, int64_t rank);
int64_t ebb_order_block_row(const ebb_order_t *order, int64_t block);
int64_t ebb_order_blocks(const ebb_order_t *order);
/* Rows of a block on the average. */
int64_t ebb_order_usual_rows(const ebb_order_t *order);

static inline uint32_t ebb_order_mix(const ebb_order_mix_t *m, uint32_t i)
{
    if (m->identity)
        return i;
    do {
        for (int r = 0; r < EBB_ORDER_ROUNDS; r++) {
            i = (i * m->mul[r] + m->add[r]) & m->mask;
            i ^= i >> m->shift;
        }
    } while (i >= m->n);
    return i;
}

/* Where the i-th row delivered of a window lies: rank of its place in the window, and row within that block. */
static inline void ebb_order_locate(const ebb_order_window_t *w, uint32_t block_rows, uint32_t missing, uint32_t i,
                                    uint32_t *rank, uint32_t *row)
{
    uint64_t at = ebb_order_mix(&w->mix, i) + (uint64_t)w->head;
    if (w->start) {
        int64_t k = (int64_t)((float)at * w->per_row);
        k = k < w->places ? k : w->places - 1;
        while (w->start[k] > at)
            k--;
        while (w->start[k + 1] <= at)
            k++;
        *rank = (uint32_t)k;
        *row = (uint32_t)at - w->start[k];
        return;
    }
    if (w->short_rank >= 0 && at >= (uint64_t)(w->short_rank + 1) * block_rows - missing)
        at += missing;
    *rank = (uint32_t)(at / block_rows);
    *row = (uint32_t)(at % block_rows);
}

#endif
