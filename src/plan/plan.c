/* The planner: checks the problem, prepares rates and their integral, picks the policy, and sees to it that no policy
 * gives a plan worse than a simpler one or later than the deadline.
 *
 * Not thread-safe: a planner belongs to one thread at a time. */
#include "plan/internal.h"
#include "base/alloc.h"

#include <math.h>
#include <string.h>

const char *ebb_plan_policy_name(ebb_plan_policy_t policy)
{
    static const char *const names[] = {"asap", "defer", "pause", "elastic"};
    return names[policy];
}

ebb_status_t ebb_planner_create(ebb_planner_t **planner_p)
{
    return EBB_NEW("planner", planner_p);
}

void ebb_planner_destroy(ebb_planner_t *planner)
{
    if (!planner)
        return;
    scratch_t *all[] = {&planner->cost,  &planner->prefix, &planner->choice, &planner->layer,
                        &planner->order, &planner->step,   &planner->path,   &planner->hull};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        ebb_free(all[i]->p);
    ebb_free(planner);
}

void ebb_plan_free(ebb_plan_t *plan)
{
    ebb_free(plan->segment);
    *plan = (ebb_plan_t){0};
}

ebb_status_t ebb_plan_scratch(scratch_t *s, const char *what, int64_t n, size_t element)
{
    int64_t bytes = n * (int64_t)element;
    return ebb_grow(what, &s->p, &s->capacity, bytes, 1);
}

ebb_status_t ebb_plan_add(ebb_plan_t *plan, double begin_s, double end_s, int64_t size)
{
    int64_t n = plan->n_segments;
    if (n > 0 && plan->segment[n - 1].size == size && fabs(begin_s - plan->segment[n - 1].end_s) <= TIME_EPS) {
        plan->segment[n - 1].end_s = end_s;
        return EBB_OK;
    }
    EBB_TRY(ebb_grow("segments of a plan", (void **)&plan->segment, &plan->capacity, n + 1, sizeof *plan->segment));
    plan->segment[n] = (ebb_plan_segment_t){begin_s, end_s, size};
    plan->n_segments++;
    return EBB_OK;
}

double ebb_plan_cost(const ebb_planner_t *planner, const ebb_plan_t *plan)
{
    ebb_plan_t copy = *plan;
    return ebb_plan_account(planner->horizon, planner->job, &copy) == EBB_OK ? copy.cost : INFINITY;
}

/* ---- is it a problem? ---- */

static ebb_status_t check_number(const char *name, double value, double least)
{
    if (value >= least && isfinite(value))
        return EBB_OK;
    return EBB_FAIL(EBB_EINVAL, "plan: %s is %g; give a finite number of at least %g", name, value, least);
}

static ebb_status_t check_horizon(const ebb_plan_horizon_t *h)
{
    if (h->n < 1 || h->n > 100000000 || !(h->slot_s > 0) || !isfinite(h->slot_s) || !h->g_per_kwh)
        return EBB_FAIL(EBB_EINVAL, "plan: a horizon needs at least one slot of some length");
    for (int64_t i = 0; i < h->n; i++) {
        if (!(h->g_per_kwh[i] >= 0) || !isfinite(h->g_per_kwh[i]))
            return EBB_FAIL(EBB_EINVAL, "plan: intensity of slot %lld is %g; fill gaps before planning", (long long)i,
                            h->g_per_kwh[i]);
        if (h->price_per_kwh && !isfinite(h->price_per_kwh[i]))
            return EBB_FAIL(EBB_EINVAL, "plan: price of slot %lld is not a finite number", (long long)i);
    }
    return EBB_OK;
}

static ebb_status_t check_sizes(const ebb_plan_job_t *job)
{
    if (job->n_sizes < 1 || job->base < 0 || job->base >= job->n_sizes)
        return EBB_FAIL(EBB_EINVAL, "plan: base size %lld of %lld sizes", (long long)job->base,
                        (long long)job->n_sizes);
    for (int64_t i = 0; i < job->n_sizes; i++) {
        const ebb_plan_size_t *s = &job->sizes[i];
        if (!(s->rate > 0 && s->power_w > 0) || !isfinite(s->rate) || !isfinite(s->power_w))
            return EBB_FAIL(EBB_EINVAL, "plan: %lld ranks: rate %g and power %g W must be above 0", (long long)s->ranks,
                            s->rate, s->power_w);
    }
    if (!ebb_plan_allowed(job, job->base))
        return EBB_FAIL(EBB_EINVAL, "plan: %lld ranks draw %g W, above the limit of %g W; choose a smaller base size",
                        (long long)job->sizes[job->base].ranks, job->sizes[job->base].power_w, job->max_power_w);
    return EBB_OK;
}

static ebb_status_t check_job(const ebb_plan_job_t *job)
{
    EBB_TRY(check_sizes(job));
    if (!(job->work > 0) || !isfinite(job->work))
        return EBB_FAIL(EBB_EINVAL, "plan: work is %g; it must be above 0", job->work);
    EBB_TRY(check_number("deadline_s", job->deadline_s, 0));
    EBB_TRY(check_number("max_wait_s", job->max_wait_s, -1e18));
    EBB_TRY(check_number("max_power_w", job->max_power_w, 0));
    EBB_TRY(check_number("idle_w", job->idle_w, 0));
    EBB_TRY(check_number("restart_s", job->restart_s, 0));
    EBB_TRY(check_number("restart_j", job->restart_j, 0));
    EBB_TRY(check_number("resize_s", job->resize_s, 0));
    EBB_TRY(check_number("resize_j", job->resize_j, 0));
    EBB_TRY(check_number("price_weight", job->price_weight, 0));
    EBB_TRY(check_number("time_weight_g", job->time_weight_g, 0));
    EBB_TRY(check_number("quantum_s", job->quantum_s, 0));
    return job->pue == 0 ? EBB_OK : check_number("pue", job->pue, 1);
}

/* ---- preparation ---- */

static ebb_status_t prepare(ebb_planner_t *planner, const ebb_plan_horizon_t *h, const ebb_plan_job_t *job)
{
    double horizon_s = (double)h->n * h->slot_s, scale = (job->pue > 0 ? job->pue : 1) / 3.6e6;
    EBB_TRY(SCRATCH(&planner->cost, "planner: rates", h->n, &planner->rate));
    EBB_TRY(SCRATCH(&planner->prefix, "planner: integral", h->n + 1, &planner->integral));
    planner->horizon = h;
    planner->job = job;
    planner->integral[0] = 0;
    for (int64_t i = 0; i < h->n; i++) {
        double price = h->price_per_kwh ? job->price_weight * h->price_per_kwh[i] : 0;
        planner->rate[i] = scale * (h->g_per_kwh[i] + price);
        planner->integral[i + 1] = planner->integral[i] + planner->rate[i] * h->slot_s;
    }
    planner->mean_rate = planner->integral[h->n] / horizon_s;
    planner->deadline_s = job->deadline_s > 0 && job->deadline_s < horizon_s ? job->deadline_s : horizon_s;
    planner->time_rate = job->time_weight_g / 3600;
    return EBB_OK;
}

/* Seconds from a start at once to the end at some size. */
static double run_length(const ebb_plan_job_t *job, int64_t size)
{
    double overhead = job->state == EBB_PLAN_PAUSED                         ? job->restart_s
                      : job->state == EBB_PLAN_RUNNING && size != job->base ? job->resize_s
                                                                            : 0;
    return overhead + job->work / job->sizes[size].rate;
}

/* The size at which a plan without pauses ends first. */
static int64_t fastest(const ebb_plan_job_t *job)
{
    int64_t best = job->base;
    for (int64_t i = 0; i < job->n_sizes; i++)
        if (ebb_plan_allowed(job, i) && run_length(job, i) < run_length(job, best))
            best = i;
    return best;
}

static ebb_status_t run_at_once(ebb_planner_t *planner, int64_t size, ebb_plan_t *plan)
{
    plan->n_segments = 0;
    return ebb_plan_add(plan, 0, run_length(planner->job, size), size);
}

static void set_latest_start(ebb_planner_t *planner)
{
    const ebb_plan_job_t *job = planner->job;
    double by_deadline = planner->deadline_s - run_length(job, job->base);
    double by_waiting = job->state != EBB_PLAN_FRESH || job->max_wait_s == 0 ? INFINITY : fmax(0, job->max_wait_s);
    planner->latest_start_s = fmax(0, fmin(by_deadline, by_waiting));
}

/* A policy's plan, unless starting at once costs no more: nothing is then gained by waiting. */
static ebb_status_t settle(ebb_planner_t *planner, ebb_plan_t *plan)
{
    const ebb_plan_job_t *job = planner->job;
    double length = run_length(job, job->base);
    ebb_plan_segment_t now = {0, length, job->base};
    ebb_plan_t asap = {.segment = &now, .n_segments = 1};
    if (length > planner->deadline_s + TIME_EPS)
        return EBB_OK;
    if (ebb_plan_cost(planner, &asap) <= ebb_plan_cost(planner, plan) * (1 + 1e-12))
        return run_at_once(planner, job->base, plan);
    return EBB_OK;
}

static ebb_status_t make(ebb_planner_t *planner, ebb_plan_policy_t policy, ebb_plan_t *plan)
{
    const ebb_plan_job_t *job = planner->job;
    int64_t last_resort = policy == EBB_PLAN_ELASTIC ? fastest(job) : job->base;
    set_latest_start(planner);
    if (policy == EBB_PLAN_ASAP || run_length(job, last_resort) >= planner->deadline_s - TIME_EPS)
        return run_at_once(planner, policy == EBB_PLAN_ASAP ? job->base : last_resort, plan);
    if (policy == EBB_PLAN_DEFER)
        EBB_TRY(ebb_plan_defer(planner, plan));
    else if (policy == EBB_PLAN_PAUSE)
        EBB_TRY(ebb_plan_pause(planner, plan));
    else
        EBB_TRY(ebb_plan_elastic(planner, plan));
    return settle(planner, plan);
}

ebb_status_t ebb_plan_make(ebb_planner_t *planner, ebb_plan_policy_t policy, const ebb_plan_horizon_t *horizon,
                           const ebb_plan_job_t *job, ebb_plan_t *plan)
{
    if (policy < EBB_PLAN_ASAP || policy > EBB_PLAN_ELASTIC)
        return EBB_FAIL(EBB_EINVAL, "plan: there is no policy %d", (int)policy);
    EBB_TRY(check_horizon(horizon));
    EBB_TRY(check_job(job));
    EBB_TRY(prepare(planner, horizon, job));
    plan->policy = policy;
    plan->n_segments = 0;
    plan->bound_g = 0;
    EBB_TRY(make(planner, policy, plan));
    EBB_TRY(ebb_plan_account(horizon, job, plan));
    if (plan->bound_g <= 0 || plan->bound_g > plan->cost)
        plan->bound_g = plan->cost;
    return EBB_OK;
}
