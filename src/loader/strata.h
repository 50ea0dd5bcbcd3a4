/* A random order of n blocks of which any run takes as many from every part of the data, as far as its length allows.
 *
 * The blocks are cut, as they are stored, into strata of `rounds` consecutive ones; what is left makes a shorter one.
 * Each round takes one block of every stratum and is no shorter than a window. Strata come in the same sequence in all
 * rounds, so that it does not matter where a run begins, and neighbours in it are far apart (steps of the golden
 * section), so that it matters little how long a run is; it begins anywhere. From each stratum blocks come in a
 * shuffled order. The rounds that have a block of the shorter one are evenly spaced. This is stratified sampling: what
 * a batch owes to the choice of its window's blocks falls from 1 / blocks to about 1 / blocks^2. Pure; O(1) for a
 * block, and for its place. */
#ifndef EBB_LOADER_STRATA_H
#define EBB_LOADER_STRATA_H

#include "loader/order.h"

/* number: of the group of blocks, 0 where there are none. Groups go on with each other's sequence of strata. */
void ebb_strata_init(ebb_strata_t *s, const ebb_order_epoch_t *e, uint64_t number, int64_t n);
/* The block at a place, 0 .. n - 1, and the other way round. */
int64_t ebb_strata_block(const ebb_strata_t *s, int64_t place);
int64_t ebb_strata_place(const ebb_strata_t *s, int64_t block);
/* All blocks in their order, some nanoseconds each. work: room for 2 n + 1. */
void ebb_strata_table(const ebb_strata_t *s, uint32_t *work, uint32_t *block);

#endif
