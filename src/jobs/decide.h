/* From what is known of a job and of the grid to the hours in which it runs. No clock, no files, no processes. */
#ifndef EBB_JOBS_DECIDE_H
#define EBB_JOBS_DECIDE_H

#include <ebb/jobs.h>

typedef struct ebb_question {
    const ebb_queue_job_t *job;
    const ebb_queue_estimate_t *estimate;
    double now;
    double left;             /* work, in the estimate's unit */
    double latest_end;       /* absolute */
    double start_s;          /* what its starts were seen to take; counts where it is more than was estimated */
    int64_t slots;           /* of the agent: larger sizes are left out where smaller ones are there */
    ebb_plan_horizon_t grid; /* from now; g_per_kwh NULL: nothing is known */
    const ebb_plan_track_t *track;
} ebb_question_t;

typedef struct ebb_stretch {
    double begin, end; /* absolute */
    int64_t ranks;
    double power_w;
} ebb_stretch_t;

typedef struct ebb_decision {
    ebb_stretch_t *stretch; /* owned */
    int64_t n, capacity;
    double end;
    double grams, asap_grams, kwh;
    bool late;  /* the deadline cannot be met: at once */
    bool blind; /* nothing is known: at once */
    bool gated; /* what could be saved is less than the source's forecasts are worth: at once */
} ebb_decision_t;

/* *decision zeroed or of an earlier call. */
ebb_status_t ebb_decide(ebb_planner_t *planner, const ebb_question_t *question, ebb_decision_t *decision);
void ebb_decision_free(ebb_decision_t *decision);
/* Ranks at a time; 0: it does not run. *until_p: when that changes, INFINITY for never. After the last stretch it runs
 * on as it did, since it is not done then. */
int64_t ebb_decision_at(const ebb_decision_t *decision, double time, double *until_p);
/* The plan in force, as it is kept in the queue; free(). */
char *ebb_decision_json(const ebb_decision_t *decision, const ebb_queue_job_t *job, double now, const char *source);

/* ---- deadlines of many jobs on few slots ---- */

typedef struct ebb_demand {
    double latest_end; /* INFINITY: any time */
    double length;     /* what is left, in seconds */
    double slots;
    bool running;
    bool urgent; /* out: waiting longer could miss a deadline, its own or another's */
} ebb_demand_t;

/* Jobs of which the first k by deadline would, started now in any order, be done only just before the k-th one's
 * deadline are urgent. The bound is Graham's for list scheduling ("Bounds on multiprocessing timing anomalies", 1969):
 * work over slots, and the longest job times 1 - 1/slots. Sorts by latest end. margin_s: time until the next look. */
void ebb_find_urgent(ebb_demand_t **demand, int64_t n, double now, double slots, double margin_s);
/* Ranks of a job that runs on `ranks`: `wanted`, what its plan gives it (0: a pause); an urgent one is never given
 * fewer than it has, since every change costs a start, which may take longer than was said. */
int64_t ebb_ranks_from_now(int64_t wanted, int64_t ranks, bool urgent);

#endif
