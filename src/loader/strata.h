/* A random order of n blocks of which any run takes as many from every part of the data, as far as its length allows,
 * and runs of all lanes together, which a batch is made of, still more evenly.
 *
 * The blocks are cut, as they are stored, into strata of `rounds` consecutive ones; what is left makes a shorter one.
 * Each round takes one block of every stratum and is about a window long; a lane has `turns` rounds. Strata come in the
 * same sequence in all rounds of a lane, so that it does not matter where a run begins, and neighbours in it are far
 * apart (steps of about the golden section), so that it matters little how long a run is; it begins anywhere, elsewhere
 * for each lane.
 *
 * Of a stratum every lane has a part, of as many blocks as it has turns, which it takes in a shuffled order; which part
 * is whose begins anywhere in each stratum. So at any time all lanes together have one block of every part (a Latin
 * square: strata and lanes), whatever window each is at. This is stratified sampling: what a batch owes to the choice
 * of its window's blocks falls from 1 / blocks to about 1 / blocks^2.
 *
 * A group of blocks (bands.c), of which a lane has many one after another, has too few for that: one of each of its
 * strata in each turn. There the lanes' blocks of a stratum are as many places apart as they can be, in the same turn;
 * turns are told by the clock of the lane.
 *
 * Pure; O(1) for a block, and for its place. */
#ifndef EBB_LOADER_STRATA_H
#define EBB_LOADER_STRATA_H

#include "loader/order.h"

/* All blocks of an epoch, cut into its lanes. */
void ebb_strata_init(ebb_strata_t *s, const ebb_order_epoch_t *e, int64_t n);
/* A group of n blocks, which takes positions [begin, begin + rows) of the epoch: of the lane that its middle is in. */
void ebb_strata_init_part(ebb_strata_t *s, const ebb_order_epoch_t *e, int64_t n, int64_t begin, int64_t rows);
/* The block at a place, 0 .. n - 1, and the other way round. */
int64_t ebb_strata_block(const ebb_strata_t *s, int64_t place);
int64_t ebb_strata_place(const ebb_strata_t *s, int64_t block);
/* All blocks in their order, some nanoseconds each. work: room for n and 3 of each stratum. */
void ebb_strata_table(const ebb_strata_t *s, uint32_t *work, uint32_t *block);

#endif
