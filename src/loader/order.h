/* The order's parts, for the loader: blocks, lanes and windows of one epoch. All pure and O(1). */
#ifndef EBB_LOADER_ORDER_H
#define EBB_LOADER_ORDER_H

#include <ebb/loader.h>

enum { EBB_ORDER_ROUNDS = 4 };

/* How the blocks lie in one epoch: place j of the permuted sequence holds block ebb_order_block(j). */
typedef struct ebb_order_epoch {
    const ebb_order_t *order;
    int64_t epoch;
    int64_t blocks;
    uint64_t key;
    int64_t short_place; /* place of the last block of the data set */
    int64_t missing;     /* rows by which it is shorter than the others */
} ebb_order_epoch_t;

/* A keyed permutation of 0 .. n-1, n <= 2^32. */
typedef struct ebb_order_mix {
    uint32_t n, mask;
    int shift;
    uint32_t mul[EBB_ORDER_ROUNDS], add[EBB_ORDER_ROUNDS];
    bool identity;
} ebb_order_mix_t;

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
} ebb_order_window_t;

void ebb_order_epoch_init(const ebb_order_t *order, int64_t epoch, ebb_order_epoch_t *e);
int64_t ebb_order_block(const ebb_order_epoch_t *e, int64_t place);
int64_t ebb_order_block_rows(const ebb_order_t *order, int64_t block);
/* The window of a lane that holds its position p; O(1). */
void ebb_order_window_at(const ebb_order_epoch_t *e, int32_t lane, int64_t p, ebb_order_window_t *w);

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
    if (w->short_rank >= 0 && at >= (uint64_t)(w->short_rank + 1) * block_rows - missing)
        at += missing;
    *rank = (uint32_t)(at / block_rows);
    *row = (uint32_t)(at % block_rows);
}

#endif
