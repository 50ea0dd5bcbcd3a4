/* Rows of tables on a device, whose memory the host cannot read: kept, exchanged and summed there. */
#ifndef EBB_SYNC_DEVICE_H
#define EBB_SYNC_DEVICE_H

#include "sync/internal.h"

ebb_status_t ebb_sync_device_init(ebb_sync_t *s);
void ebb_sync_device_cleanup(ebb_sync_t *s);
/* A lane's piece of rows is kept: the first, whose number the host need not know, or added to those before, for the
 * number of which it waits. On the context that made them. */
ebb_status_t ebb_sync_device_keep(ebb_sync_t *s, lane_t *lane, ebb_exec_t *exec);
/* As their namesakes in steps.h. Collective. */
ebb_status_t ebb_sync_device_rows_send(ebb_sync_t *s);
ebb_status_t ebb_sync_device_rows_finish(ebb_sync_t *s);
ebb_status_t ebb_sync_device_rows_fast(ebb_sync_t *s, int t);
ebb_status_t ebb_sync_device_gather_rows(ebb_sync_t *s, ebb_weights_t *weights);
/* Messages noted are begun, and slices of the dense vector given to all, after what the contexts have been given; what
 * they are given from now on begins when it is through. */
ebb_status_t ebb_sync_device_flush(ebb_sync_t *s);
ebb_status_t ebb_sync_device_gather(ebb_sync_t *s, float *dense, const int64_t *counts, const int64_t *displs);

#endif
