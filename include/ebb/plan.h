/* Plans: when a job runs, and on how many ranks, so that it emits least and still ends in time.
 *
 *     ebb_planner_t *planner;
 *     ebb_plan_t plan = {0};
 *     ebb_plan_size_t size = {.ranks = 4, .rate = 1, .power_w = 800};
 *     ebb_plan_horizon_t horizon = {.n = 48, .slot_s = 1800, .g_per_kwh = forecast};
 *     ebb_plan_job_t job = {.work = 4 * 3600, .sizes = &size, .n_sizes = 1, .deadline_s = 24 * 3600};
 *     ebb_planner_create(&planner);
 *     ebb_plan_make(planner, EBB_PLAN_PAUSE, &horizon, &job, &plan);
 *     for (int64_t i = 0; i < plan.n_segments; i++)
 *         ...   plan.segment[i].begin_s to .end_s on sizes[.size].ranks ranks
 *     ebb_plan_free(&plan);
 *     ebb_planner_destroy(planner);
 *
 * Pure functions of their arguments: no clock, no files, no threads, no randomness; the same plan on every machine. All
 * times are seconds from the beginning of the horizon, which is the moment of planning. Power is watts at the plug of
 * the nodes, before PUE; intensity is gCO2e per kWh; grams and kWh include PUE.
 *
 * What is minimised is the sum over time of energy x (intensity + price_weight x price) + time_weight x the hour at
 * which the job ends. Within a slot intensity and price are constant. Four policies:
 *
 *   asap     starts at once on `base` and runs through. What all others are compared with.
 *   defer    one window on `base`. Exact: the cost of a window is piecewise linear in its start, so the least is where
 *            its start or its end meets a slot's boundary. The first one on ties.
 *   pause    any number of windows on `base`. Where stopping costs nothing: the cheapest slots, the dearest of them in
 *            part. Else a dynamic programme over (time, work done, running or paused), exact on a grid of `quantum_s`
 *            onto which the duration and the restart time are rounded up (energy is not rounded). A grid that divides
 *            slot, duration and restart time makes it exact without reserve: of an optimal plan at most one boundary
 *            lies inside a slot, because moving two in opposite directions is linear in the cost.
 *   elastic  any size in any slot. Where resizing and stopping cost nothing: sizes that lie under the concave hull of
 *            work over power are dropped, and the steps of the hull are taken in order of grams per work (exact: a
 *            fractional knapsack; Hanafy et al., "CarbonScaler", POMACS 2023, prove it for whole slots). Else a dynamic
 *            programme over (slot, size) with a price on work (Lagrange multiplier, Everett, Operations Research 1963),
 *            whose plan is cut to the work that is needed; `bound_g` is what no plan of whole slots can go below.
 *
 * A plan never ends later than the deadline if that can be met at all, whatever it costs in grams. If it cannot, the
 * plan is to run at once on `base` (elastic: on the fastest size), and `late` is set.
 */
#ifndef EBB_PLAN_H
#define EBB_PLAN_H

#include <ebb/base.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ebb_plan_policy {
    EBB_PLAN_ASAP,
    EBB_PLAN_DEFER,
    EBB_PLAN_PAUSE,
    EBB_PLAN_ELASTIC,
} ebb_plan_policy_t;

EBB_API const char *ebb_plan_policy_name(ebb_plan_policy_t policy); /* "asap", "defer", "pause", "elastic" */

/* The time that can be planned: n slots of slot_s seconds. Arrays of n, borrowed for the call. */
typedef struct ebb_plan_horizon {
    int64_t n;
    double slot_s;
    const double *g_per_kwh;     /* finite, >= 0 (marginal intensity may be 0) */
    const double *price_per_kwh; /* NULL: no prices; may be negative */
} ebb_plan_horizon_t;

/* One way to run: how much work is done in a second and what the whole job draws while it does. */
typedef struct ebb_plan_size {
    int64_t ranks;
    double rate;    /* work per second, > 0 */
    double power_w; /* > 0 */
} ebb_plan_size_t;

/* What the job is doing when it is planned (again). */
typedef enum ebb_plan_state {
    EBB_PLAN_FRESH,   /* not begun: the first start is free */
    EBB_PLAN_PAUSED,  /* begun and stopped: the next start is a restart */
    EBB_PLAN_RUNNING, /* running on `base`: going on is free */
} ebb_plan_state_t;

typedef struct ebb_plan_job {
    double work; /* what is still to be done, in the unit of rate x seconds; > 0 */
    const ebb_plan_size_t *sizes;
    int64_t n_sizes;
    int64_t base;           /* index of the size for asap, defer and pause, and of a running job */
    ebb_plan_state_t state; /* fresh unless said */
    double deadline_s;      /* latest end; 0: the end of the horizon */
    double max_wait_s;      /* latest first start; 0: as late as the deadline allows; < 0: at once */
    double max_power_w;     /* sizes that draw more are left out; 0: no limit */
    double pue;             /* power usage effectiveness, >= 1; 0 stands for 1 */
    double idle_w;          /* drawn by a begun job while it is paused (nodes kept) */
    double restart_s;       /* a start after a pause: seconds at full power in which no work is done */
    double restart_j;       /* and joules besides */
    double resize_s;        /* the same for a change of size while running */
    double resize_j;
    double price_weight;  /* grams that one unit of money is worth; 0: price is only reported */
    double time_weight_g; /* grams that an hour of earlier end is worth */
    double quantum_s;     /* grid of the dynamic programme of `pause`; 0: one that divides all, or 5 minutes */
} ebb_plan_job_t;

typedef struct ebb_plan_segment {
    double begin_s, end_s; /* includes the time of restart or resize at its beginning */
    int64_t size;          /* index of the job's sizes */
} ebb_plan_segment_t;

typedef struct ebb_plan {
    ebb_plan_policy_t policy;
    ebb_plan_segment_t *segment; /* owned; in order of time, not overlapping */
    int64_t n_segments, capacity;
    double start_s, end_s;
    double running_s; /* sum of the segments' lengths */
    int64_t restarts, resizes;
    bool late;       /* ends after the deadline, which cannot be met */
    double kwh;      /* of segments, restarts and idling, with PUE */
    double grams;    /* gCO2e */
    double price;    /* in the unit of price_per_kwh x kWh */
    double cost;     /* what was minimised, in grams */
    double bound_g;  /* elastic with costs of resizing: no plan of whole slots has a lower cost; else the cost itself */
    double beyond_s; /* running time after the horizon, charged at the horizon's mean */
} ebb_plan_t;

/* Scratch memory, kept from plan to plan: after the largest problem no call allocates. One thread at a time. */
typedef struct ebb_planner ebb_planner_t;
EBB_API ebb_status_t ebb_planner_create(ebb_planner_t **planner_p) EBB_MUST_CHECK;
EBB_API void ebb_planner_destroy(ebb_planner_t *planner);

/* Fill *plan (zeroed, or of an earlier call, whose segments' memory is used again). Time and memory: defer O(n); pause
 * O(n log n) or O(quanta x quanta of work), one byte each, at most 64 MiB, for which the grid is made coarser; elastic
 * O(n sizes log(n sizes)), with costs of resizing O(32 n sizes). EBB_EINVAL names the argument that is out of range. */
EBB_API ebb_status_t ebb_plan_make(ebb_planner_t *planner, ebb_plan_policy_t policy, const ebb_plan_horizon_t *horizon,
                                   const ebb_plan_job_t *job, ebb_plan_t *plan);
EBB_API void ebb_plan_free(ebb_plan_t *plan);

/* Work out everything of *plan but policy, segments and bound_g from its segments, on any horizon that begins at the
 * same moment: what a plan made on a forecast emits on what came true. */
EBB_API ebb_status_t ebb_plan_account(const ebb_plan_horizon_t *horizon, const ebb_plan_job_t *job, ebb_plan_t *plan);

/* Is it a plan for the job: in order, all of the work done, not over the power, started and ended in time unless late?
 * EBB_EBUG says what is not. For tests and for plans that come from elsewhere. */
EBB_API ebb_status_t ebb_plan_check(const ebb_plan_job_t *job, const ebb_plan_t *plan);

/* ---- planning again as forecasts come true ---- */

/* What a source's forecasts were worth, from hours that have passed: their error by the hour of the day, the last one
 * seen, and how far differences that were forecast came true. Plain memory; zeroed is new; may be kept in a file.
 *
 *     ebb_plan_track_see(&track, hour, actual, forecast);                             every hour, when it is known
 *     ebb_plan_track_correct(&track, now, slot_s, n, g);                              the forecast from now on
 *     ebb_plan_make(planner, policy, &horizon, &job, &plan);
 *     if (!ebb_plan_is_worth_waiting(&track, saving)) ...                             saving: 1 - plan.grams /
 * asap.grams
 */
typedef struct ebb_plan_track {
    double bias[24];                 /* grams: mean error by hour of UTC, of which the day's mean is taken away */
    double error;                    /* of the last hour seen, after correction by the bias */
    int64_t seen_until;              /* seconds since 1970; 0: nothing seen */
    double covariance, variance;     /* of forecast and actual within days, fading by a tenth a day */
    double actual[24], forecast[24]; /* of the day under way; 0: not seen */
    int64_t day, days;               /* since 1970; how many have been seen in whole */
} ebb_plan_track_t;

/* One hour (seconds since 1970; hours in order) and what was forecast for it. The running hour may be given as soon as
 * the source reports it. */
EBB_API void ebb_plan_track_see(ebb_plan_track_t *track, int64_t hour, double actual, double forecast);
/* Correct a forecast of n slots from `begin`: half of the hour's bias, and the last error, fading by 5 % an hour. */
EBB_API void ebb_plan_track_correct(const ebb_plan_track_t *track, int64_t begin, double slot_s, int64_t n, double *g);
/* Share of a difference that was forecast which came true lately: 0 to 1; 1 until three days have been seen. */
EBB_API double ebb_plan_track_skill(const ebb_plan_track_t *track);
/* Is a saving (share of what starting now emits) that such a forecast promises worth waiting for? Not if less than 0.5
 * % remains after the source's skill: then start now. */
EBB_API bool ebb_plan_is_worth_waiting(const ebb_plan_track_t *track, double saving);

/* ---- the two searches, alone: for whole slots and no costs but those given ---- */

/* First start of the k adjacent values of least sum; 1 <= k <= n. sum_p may be NULL. */
EBB_API int64_t ebb_plan_least_window(const double *value, int64_t n, int64_t k, double *sum_p);
/* Sum of the k smallest of n values; 0 <= k <= n. scratch: room for n values. *kth_p, if not NULL: the k-th smallest.
 */
EBB_API double ebb_plan_least_sum(const double *value, int64_t n, int64_t k, double *scratch, double *kth_p);

#ifdef __cplusplus
}
#endif
#endif
