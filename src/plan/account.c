/* What a plan's segments amount to on a horizon: energy, grams, price, restarts; and whether they are a plan at all.
 *
 * Sums run over the slots that a piece of time touches, so the figures need no tables and allocate nothing. */
#include "plan/internal.h"

#include <math.h>

#define JOULES_PER_KWH 3.6e6

bool ebb_plan_allowed(const ebb_plan_job_t *job, int64_t size)
{
    return job->max_power_w <= 0 || job->sizes[size].power_w <= job->max_power_w;
}

/* Does segment i begin where the one before it (or the job as it is) ends, and at which size was that? -1: neither. */
static int64_t size_before(const ebb_plan_job_t *job, const ebb_plan_t *plan, int64_t i, bool *paused_p)
{
    const ebb_plan_segment_t *s = &plan->segment[i];
    *paused_p = false;
    if (i > 0 && s->begin_s - s[-1].end_s <= TIME_EPS)
        return s[-1].size;
    if (i == 0 && job->state == EBB_PLAN_FRESH)
        return s->size;
    if (i == 0 && job->state == EBB_PLAN_RUNNING && s->begin_s <= TIME_EPS)
        return job->base;
    *paused_p = true;
    return -1;
}

void ebb_plan_overhead(const ebb_plan_job_t *job, const ebb_plan_t *plan, int64_t i, double *seconds_p,
                       double *joules_p)
{
    bool paused;
    int64_t before = size_before(job, plan, i, &paused);
    bool resized = !paused && before != plan->segment[i].size;
    *seconds_p = paused ? job->restart_s : resized ? job->resize_s : 0;
    *joules_p = paused ? job->restart_j : resized ? job->resize_j : 0;
}

/* Sum of value x seconds over [a, b]; after the horizon its mean counts. */
static double integrate(const ebb_plan_horizon_t *h, const double *value, double a, double b)
{
    double sum = 0, end = (double)h->n * h->slot_s;
    int64_t first = (int64_t)(a / h->slot_s);
    for (int64_t i = first < h->n ? first : h->n; i < h->n && (double)i * h->slot_s < b; i++) {
        double begin = (double)i * h->slot_s, stop = (double)(i + 1) * h->slot_s;
        double length = (b < stop ? b : stop) - (a > begin ? a : begin);
        sum += length > 0 ? value[i] * length : 0;
    }
    if (b > end) {
        double mean = 0;
        for (int64_t i = 0; i < h->n; i++)
            mean += value[i];
        sum += mean / (double)h->n * (b - (a > end ? a : end));
    }
    return sum;
}

/* A piece of time at some watts, and joules at its beginning. */
static void book(const ebb_plan_horizon_t *h, double pue, double a, double b, double watts, double joules,
                 ebb_plan_t *plan)
{
    double scale = pue / JOULES_PER_KWH;
    int64_t slot = (int64_t)(a / h->slot_s + TIME_EPS / h->slot_s);
    slot = slot < h->n ? slot : h->n - 1;
    plan->kwh += scale * (watts * (b - a) + joules);
    plan->grams += scale * (watts * integrate(h, h->g_per_kwh, a, b) + joules * h->g_per_kwh[slot]);
    if (h->price_per_kwh)
        plan->price += scale * (watts * integrate(h, h->price_per_kwh, a, b) + joules * h->price_per_kwh[slot]);
}

static void book_segments(const ebb_plan_horizon_t *h, const ebb_plan_job_t *job, ebb_plan_t *plan)
{
    double pue = job->pue > 0 ? job->pue : 1, horizon_s = (double)h->n * h->slot_s;
    double idle_from = job->state == EBB_PLAN_FRESH ? plan->start_s : 0;
    for (int64_t i = 0; i < plan->n_segments; i++) {
        const ebb_plan_segment_t *s = &plan->segment[i];
        double seconds, joules;
        bool paused;
        int64_t before = size_before(job, plan, i, &paused);
        ebb_plan_overhead(job, plan, i, &seconds, &joules);
        if (job->idle_w > 0 && s->begin_s > idle_from)
            book(h, pue, idle_from, s->begin_s, job->idle_w, 0, plan);
        book(h, pue, s->begin_s, s->end_s, job->sizes[s->size].power_w, joules, plan);
        plan->running_s += s->end_s - s->begin_s;
        plan->restarts += paused;
        plan->resizes += !paused && before != s->size;
        plan->beyond_s += fmax(0, s->end_s - fmax(s->begin_s, horizon_s));
        idle_from = s->end_s;
    }
}

ebb_status_t ebb_plan_account(const ebb_plan_horizon_t *horizon, const ebb_plan_job_t *job, ebb_plan_t *plan)
{
    int64_t n = plan->n_segments;
    double deadline = job->deadline_s > 0 ? job->deadline_s : (double)horizon->n * horizon->slot_s;
    if (horizon->n < 1 || !(horizon->slot_s > 0))
        return EBB_FAIL(EBB_EINVAL, "plan: a horizon needs at least one slot of some length");
    plan->start_s = n > 0 ? plan->segment[0].begin_s : 0;
    plan->end_s = n > 0 ? plan->segment[n - 1].end_s : 0;
    plan->running_s = plan->kwh = plan->grams = plan->price = plan->beyond_s = 0;
    plan->restarts = plan->resizes = 0;
    book_segments(horizon, job, plan);
    plan->late = plan->end_s > deadline + TIME_EPS;
    plan->cost = plan->grams + job->price_weight * plan->price + job->time_weight_g * plan->end_s / 3600;
    return EBB_OK;
}

ebb_status_t ebb_plan_check(const ebb_plan_job_t *job, const ebb_plan_t *plan)
{
    double work = 0, time = 0;
    for (int64_t i = 0; i < plan->n_segments; i++) {
        const ebb_plan_segment_t *s = &plan->segment[i];
        double seconds, joules;
        if (s->size < 0 || s->size >= job->n_sizes || !ebb_plan_allowed(job, s->size))
            return EBB_FAIL(EBB_EBUG, "plan: segment %lld: size %lld is not to be used", (long long)i,
                            (long long)s->size);
        if (!(s->begin_s >= time - TIME_EPS && s->end_s > s->begin_s))
            return EBB_FAIL(EBB_EBUG, "plan: segment %lld: %g to %g s is out of order", (long long)i, s->begin_s,
                            s->end_s);
        ebb_plan_overhead(job, plan, i, &seconds, &joules);
        work += job->sizes[s->size].rate * fmax(0, s->end_s - s->begin_s - seconds);
        time = s->end_s;
    }
    if (!(work >= job->work * (1 - 1e-9)))
        return EBB_FAIL(EBB_EBUG, "plan: work of %.9g is done where %.9g is needed", work, job->work);
    if (job->deadline_s > 0 && time > job->deadline_s + 1e-3 && !plan->late)
        return EBB_FAIL(EBB_EBUG, "plan: ends at %g s, after the deadline at %g s", time, job->deadline_s);
    bool waits = job->state == EBB_PLAN_FRESH && job->max_wait_s != 0 && !plan->late;
    if (waits && plan->segment[0].begin_s > fmax(0, job->max_wait_s) + 1e-3)
        return EBB_FAIL(EBB_EBUG, "plan: starts at %g s, after waiting longer than %g s", plan->segment[0].begin_s,
                        fmax(0, job->max_wait_s));
    return EBB_OK;
}
