/* The wire through host memory. */
#ifndef EBB_SYNC_WIRE_H
#define EBB_SYNC_WIRE_H

#include <ebb/comm.h>
#include <ebb/compute.h>

/* Messages between devices over a communicator: down to the host, over, and up again. Any devices, any number of ranks
 * on one. exec: what messages carry is complete for it, whatever events they are to follow. Borrowed until
 * ops->destroy. */
ebb_status_t ebb_wire_staged(ebb_comm_t *comm, const ebb_backend_ops_t *ops, ebb_exec_t *exec,
                             ebb_wire_t *wire) EBB_MUST_CHECK;

#endif
