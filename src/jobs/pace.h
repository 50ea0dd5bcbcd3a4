/* How fast a job gets on, and how long its starts take, from looks at the share of its work that is done. */
#ifndef EBB_JOBS_PACE_H
#define EBB_JOBS_PACE_H

#include <stdbool.h>

/* Zeroed is new. */
typedef struct ebb_pace {
    bool watched;   /* has been looked at before the stretch under way, whose beginning is therefore known */
    double since;   /* of the stretch under way; 0: none */
    double begun;   /* when its processes were last started; 0: not known */
    double before;  /* share done when they were */
    double from;    /* when the first progress was seen since then; 0: not yet */
    double share;   /* done at `from`, else at the last look */
    double whole_s; /* the whole by the pace of the last stretch that told one, on its ranks and without starts; 0 */
    double start_s; /* the longest start so far, in which nothing is done; 0: none was seen */
} ebb_pace_t;

/* A look at `now` at a job that runs since `since` (0: it does not) and has done this share. True: whole_s is of now. A
 * share that goes back tells of processes that were started again in between. */
bool ebb_pace_see(ebb_pace_t *pace, double since, double now, double share);

#endif
