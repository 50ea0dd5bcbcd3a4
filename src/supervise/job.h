/* One start of a run's ranks, from the launcher to the last process that is left of it. */
#ifndef EBB_SUPERVISE_JOB_H
#define EBB_SUPERVISE_JOB_H

#include "supervise/tree.h"

typedef struct ebb_job {
    pid_t pid; /* the launcher's, or the one rank's; 0: none */
    int ranks;
    bool launched;         /* by a launcher */
    bool asked, signalled; /* to pause */
    bool up;               /* all ranks have begun, as the run's record tells */
    bool taken;            /* a rank has taken the run's lock, or what runs takes none */
    bool ended;
    int status; /* of waitpid, once ended */
    int64_t started_ns, asked_ns, looked_ns;
    int64_t halted_ns, empty_ns; /* since when a process is stopped; since when the launcher has no ranks; 0: not */
    bool had_ranks;
    char fault[160]; /* for what it was killed here; "": it was not */
    ebb_tree_t tree;
} ebb_job_t;

typedef struct ebb_job_plan {
    char *const *command; /* ends with NULL */
    const char *launcher; /* of more than one rank, or of any in a Slurm allocation */
    const char *hosts;    /* "n1:2,n3:2": to these alone, where the launcher is Open MPI's; NULL: wherever it likes */
    int ranks;
} ebb_job_plan_t;

ebb_status_t ebb_job_start(const ebb_job_plan_t *plan, ebb_job_t *job);
/* Take note of an ended child. */
void ebb_job_collect(ebb_job_t *job);
/* To be called every fraction of a second: hands on the request to pause once the ranks are ready for it, and kills a
 * job that hangs where its own watchdog cannot see it. stopped_limit: as in the options. */
void ebb_job_look(ebb_job_t *job, double stopped_limit);
/* Let the ranks finish their step, write a checkpoint and leave. */
void ebb_job_pause(ebb_job_t *job);
/* End it now, and whatever is left of it. */
void ebb_job_kill(ebb_job_t *job);
/* Once ended: as a shell says it, 128 + number for a signal. */
int ebb_job_code(const ebb_job_t *job);

#endif
