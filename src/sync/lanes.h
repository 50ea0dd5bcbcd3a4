/* Lanes' buffers, for the rest of sync. */
#ifndef EBB_SYNC_LANES_H
#define EBB_SYNC_LANES_H

#include "sync/internal.h"

/* A step begins: no lane has come in. */
void ebb_sync_start_lanes(ebb_sync_t *s);
/* The sums are finished: nodes' buffers are free again. Their tables must be zero. */
void ebb_sync_release_nodes(ebb_sync_t *s);
/* A buffer of a bucket that holds nothing: tables zero, dense undefined. With the lock held while lanes are under way,
 * as for free_buffer. */
ebb_status_t ebb_sync_take_buffer(ebb_sync_t *s, int bucket, buffer_t **buf_p);
/* into += from for what `from` has touched of table t, block by block; `from` is zero afterwards. */
ebb_status_t ebb_sync_move_table(const ebb_sync_t *s, int t, ebb_exec_t *exec, buffer_t *from, buffer_t *into);
/* buf may be NULL. */
void ebb_sync_free_buffer(ebb_sync_t *s, buffer_t *buf);
void ebb_sync_free_lanes(ebb_sync_t *s);

#endif
