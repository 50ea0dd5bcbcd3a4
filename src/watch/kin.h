/* The ranks of a job on this host, as /proc shows them: children of one parent that carry a rank's number. For the
 * times when ranks cannot tell one another anything. */
#ifndef EBB_WATCH_KIN_H
#define EBB_WATCH_KIN_H

#include "watch/judge.h"

#include <sys/types.h>

/* What a process has done so far. */
typedef struct ebb_kin_counts {
    int64_t used_ns;       /* processor time, of all threads */
    int64_t main_ns;       /* the main thread's */
    int64_t queued_ns;     /* that it was ready to run, but others had the processor */
    int64_t sleeps;        /* times that it gave the processor up to wait */
    int64_t switches;      /* these, and times that it was taken from it */
    int64_t faults, bytes; /* that waited for a disk; moved to and from disks */
} ebb_kin_counts_t;

typedef struct ebb_kin_rank {
    pid_t pid;
    int rank;
    bool gone, stopped;
    int64_t changed_ns;    /* since when it is gone or stopped, or neither */
    int64_t still_ns;      /* since when it used neither processor nor disk to speak of */
    int64_t asleep_ns;     /* since when its main thread was not even woken */
    ebb_kin_counts_t seen; /* at the last look */
} ebb_kin_rank_t;

typedef struct ebb_kin {
    ebb_kin_rank_t *rank; /* owned; in order of their numbers */
    int64_t n, capacity;
    int size; /* of the job, as the launcher says; 0: unknown */
    int64_t looked_ns;
} ebb_kin_t;

/* Of this process's job, as its launcher says; 0 where it does not. */
int ebb_kin_job_size(void);
/* Look for new ones, and at those that are known. */
void ebb_kin_look(ebb_kin_t *kin, int64_t now_ns);
/* This process did not run for so long: nothing of that is held against anybody. */
void ebb_kin_excuse(ebb_kin_t *kin, int64_t ns);
/* The rank for which the job must end, and why. leaving: ranks that are gone may have left in order. */
ebb_watch_cause_t ebb_kin_judge(const ebb_kin_t *kin, bool leaving, int64_t now_ns, int64_t limit_ns, int *rank_p);
/* The lowest that runs: of those who know the same, it tells. */
int ebb_kin_lowest(const ebb_kin_t *kin);
const ebb_kin_rank_t *ebb_kin_find(const ebb_kin_t *kin, int rank);
void ebb_kin_free(ebb_kin_t *kin);

#endif
