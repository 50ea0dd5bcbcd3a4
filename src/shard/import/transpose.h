/* A matrix that a file stores by columns, given out by rows. */
#ifndef EBB_SHARD_IMPORT_TRANSPOSE_H
#define EBB_SHARD_IMPORT_TRANSPOSE_H

#include "shard/import/block.h"

typedef struct ebb_transpose ebb_transpose_t;

/* ds: opened by columns, so that its rows are the columns of the matrix. Reads it once, to count the entries of rows.
 * memory_bytes: bound on the rows held at a time. */
ebb_status_t ebb_transpose_create(const ebb_dataset_t *ds, int64_t memory_bytes, ebb_transpose_t **t_p) EBB_MUST_CHECK;
void ebb_transpose_destroy(ebb_transpose_t *t);
/* Rows [row0, row0 + n) into an empty block, without ending them: rowptr, col and val. Any thread; cheap where rows are
 * asked for about in order. */
ebb_status_t ebb_transpose_read(ebb_transpose_t *t, int64_t row0, int64_t n, ebb_block_t *block);

#endif
