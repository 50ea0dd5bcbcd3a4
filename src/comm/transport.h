/* What the transports of this folder offer to comm.c. */
#ifndef EBB_COMM_TRANSPORT_H
#define EBB_COMM_TRANSPORT_H

#include <ebb/comm.h>

/* Whether the environment shows a launcher of MPI processes (mpirun, srun with PMI). Not collective. */
bool ebb_comm_launched(void);

#endif
