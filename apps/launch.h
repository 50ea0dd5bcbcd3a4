/* One rank a GPU, started by the command itself. */
#ifndef EBB_APPS_LAUNCH_H
#define EBB_APPS_LAUNCH_H

#include <ebb/base.h>

/* Whether a launcher has started this process. */
bool launch_done(void);
/* Where this process was started alone: become `mpirun -np N` of the same command line. ranks: N; 0: as many as there
 * are GPUs that the backend sees, at most `lanes`; 1: stay. Returns where there is nothing to start. */
ebb_status_t launch_ranks(int64_t ranks, const char *backend, int64_t lanes);

#endif
