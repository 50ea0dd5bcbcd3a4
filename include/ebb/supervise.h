/* A supervisor over the ranks of a run: starts them, watches them, starts them again from the newest good checkpoint
 * after a failure, and resizes or pauses the run on request.
 *
 * Two processes share the work, so that killing either of them leaves nothing behind: the caller's, which takes the
 * signals and waits, and a child, which starts the ranks and talks to `ebb scale` through files in the run's folder
 * (supervisor.json, scale.request, scale.reply; the lock supervisor.lock tells whether a supervisor lives). Linux only.
 */
#ifndef EBB_SUPERVISE_H
#define EBB_SUPERVISE_H

#include <ebb/base.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ebb_supervise_options {
    const char *name, *folder; /* of the run; the folder is made if it is absent */
    /* Command lines, ended by NULL: to begin, to begin anew after a failure before the first checkpoint, and to go on
     * from the newest one. */
    char *const *begin, *const *begin_anew, *const *go_on;
    const char *launcher;  /* of several ranks: a command and its options, as in "mpirun --quiet" */
    int ranks, most_ranks; /* most_ranks 0: no limit */
    int max_restarts;      /* in a row, without a newer good checkpoint between them */
    double stopped_limit;  /* seconds that a process may be stopped while the supervisor runs; 0: any time */
    bool quiet;            /* tell of failures alone */
} ebb_supervise_options_t;

/* Run until the run is finished, paused or given up; *exit_code_p is what the process should exit with: 0, 75 for a
 * pause, 69 after too many restarts, else what the run exited with. SIGINT, SIGTERM and SIGUSR1 pause the run by a
 * checkpoint; a second one ends it at once. The caller should have one thread. */
EBB_API ebb_status_t ebb_supervise(const ebb_supervise_options_t *options, int *exit_code_p) EBB_MUST_CHECK;

typedef void (*ebb_supervise_say_t)(void *user, const char *line);

/* Ask the supervisor of the run in `folder` for another number of ranks (0: pause, and wait for ranks), say what
 * happens as it happens, and return when the run goes on with them. EBB_EUNAVAILABLE if it does not come to that. */
EBB_API ebb_status_t ebb_supervise_scale(const char *folder, int ranks, ebb_supervise_say_t say,
                                         void *user) EBB_MUST_CHECK;
/* One line on the state of a supervised run: "running on 4 ranks, 1 restart". */
EBB_API ebb_status_t ebb_supervise_state(const char *folder, char *line, size_t size) EBB_MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
