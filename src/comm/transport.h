/* What the transports of this folder offer to comm.c. */
#ifndef EBB_COMM_TRANSPORT_H
#define EBB_COMM_TRANSPORT_H

#include <ebb/comm.h>

/* Whether the environment shows a launcher of MPI processes (mpirun, srun with PMI). Not collective. */
bool ebb_comm_launched(void);
/* Variables by which launchers tell a process its rank, ending in NULL, and what they say of this one: -1 without. */
extern const char *const ebb_comm_rank_names[];
int ebb_comm_launched_rank(void);
/* What ebb_comm_cores says, where a transport knows better than cores over ranks of the host. */
void ebb_comm_set_cores(ebb_comm_t *comm, int cores);

#endif
