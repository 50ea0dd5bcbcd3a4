/* What the parts of the planner share. */
#ifndef EBB_PLAN_INTERNAL_H
#define EBB_PLAN_INTERNAL_H

#include <ebb/plan.h>

#define TIME_EPS 1e-6 /* seconds: what rounding of times may be */

/* One growing array. */
typedef struct scratch {
    void *p;
    int64_t capacity; /* elements */
} scratch_t;

struct ebb_planner {
    scratch_t cost, prefix, choice, layer, order, step, path, hull;
    const ebb_plan_horizon_t *horizon; /* of the call under way */
    const ebb_plan_job_t *job;
    double *rate;      /* n: grams (with price) per watt-second of power, PUE included */
    double *integral;  /* n + 1: of rate over time, from the beginning */
    double mean_rate;  /* after the horizon */
    double deadline_s; /* latest end: the job's, or the horizon's end */
    double latest_start_s;
    double time_rate; /* grams per second of later end */
};

ebb_status_t ebb_plan_scratch(scratch_t *s, const char *what, int64_t n, size_t element);
#define SCRATCH(s, what, n, pp)                                                                                        \
    (ebb_plan_scratch((s), (what), (n), sizeof **(pp)) ? ebb_error()->status : (*(pp) = (s)->p, EBB_OK))

/* Integral of the rate over [0, t], t >= 0. */
double ebb_plan_integral(const ebb_planner_t *planner, double t);
/* Rate at t: of the slot that begins there, if one does. */
double ebb_plan_rate_at(const ebb_planner_t *planner, double t);
/* Adds a segment, or lengthens the last one if it goes on at the same size. */
ebb_status_t ebb_plan_add(ebb_plan_t *plan, double begin_s, double end_s, int64_t size);
/* The cost of a plan on the planner's horizon. */
double ebb_plan_cost(const ebb_planner_t *planner, const ebb_plan_t *plan);
/* Seconds without work and joules besides at the beginning of segment i. */
void ebb_plan_overhead(const ebb_plan_job_t *job, const ebb_plan_t *plan, int64_t i, double *seconds_p,
                       double *joules_p);
bool ebb_plan_allowed(const ebb_plan_job_t *job, int64_t size);

/* The policies; each fills segments of an empty plan. They assume that the deadline can be met on `base` (elastic: on
 * some size). */
ebb_status_t ebb_plan_defer(ebb_planner_t *planner, ebb_plan_t *plan);
ebb_status_t ebb_plan_pause(ebb_planner_t *planner, ebb_plan_t *plan);
ebb_status_t ebb_plan_elastic(ebb_planner_t *planner, ebb_plan_t *plan);
/* Elastic with costs of resizing and restarting; *feasible_p false: it found none. */
ebb_status_t ebb_plan_resize(ebb_planner_t *planner, ebb_plan_t *plan, bool *feasible_p);

#endif
