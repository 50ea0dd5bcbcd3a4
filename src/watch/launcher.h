/* The launcher of this rank, where it cannot end by itself. */
#ifndef EBB_WATCH_LAUNCHER_H
#define EBB_WATCH_LAUNCHER_H

/* In some seconds, when the ranks are gone: end mpirun, or Open MPI's daemon, if it is still there. Does nothing under
 * other launchers. */
void ebb_watch_end_launcher(void);

#endif
