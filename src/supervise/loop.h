/* The life of a supervised run: one job after the other. */
#ifndef EBB_SUPERVISE_LOOP_H
#define EBB_SUPERVISE_LOOP_H

#include <ebb/supervise.h>
#include <signal.h>

/* Signals that the supervisor takes, SIGCHLD among them; they must be blocked. */
void ebb_supervise_signals(sigset_t *set);
/* Returns what to exit with. parent: a pipe that ends when the caller's parent does. */
int ebb_supervise_loop(const ebb_supervise_options_t *options, int parent);

#endif
