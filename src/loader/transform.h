/* Changes made to the values of a row. */
#ifndef EBB_LOADER_TRANSFORM_H
#define EBB_LOADER_TRANSFORM_H

#include <ebb/loader.h>

bool ebb_transform_is_none(const ebb_transform_t *t);
/* Apply to the n values of one row, in place. The same bits on every CPU. */
void ebb_transform_row(const ebb_transform_t *t, float *val, int64_t n);

#endif
