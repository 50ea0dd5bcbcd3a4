/* Who owns what, inside sync. */
#ifndef EBB_SYNC_PLACE_H
#define EBB_SYNC_PLACE_H

#include <stdint.h>

/* Owners' parts of a bucket are multiples of so many floats (16 .. 4096, by the dense vector's length alone), which are
 * also the segments of the norm: it must not depend on where ranks cut. */
int64_t ebb_sync_unit(int64_t dense_floats);

#endif
