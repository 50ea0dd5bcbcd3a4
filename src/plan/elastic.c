/* The policy `elastic`: any size in any slot.
 *
 * Where changes are free, running at two neighbouring sizes in turns is possible within a slot, so only sizes on the
 * upper concave hull of (power, rate) from (0, 0) matter, and one can be raised to the next. Each raise in each slot
 * has a cost per work; the cheapest are taken until the work is done, the last one for a part of its slot. Within a
 * slot the hull's concavity puts raises in order. */
#include "plan/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct raise {
    double key; /* grams per work */
    int32_t slot, step;
} raise_t;

static int by_raise(const void *a, const void *b)
{
    const raise_t *x = a, *y = b;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    if (x->slot != y->slot)
        return x->slot < y->slot ? -1 : 1;
    return x->step < y->step ? -1 : x->step > y->step;
}

typedef struct hull {
    int64_t n;
    const ebb_plan_size_t *sizes;
    int64_t *size; /* of step 1 .. n; step 0 is not to run */
} hull_t;

static double power_of(const hull_t *h, int64_t step)
{
    return step > 0 ? h->sizes[h->size[step - 1]].power_w : 0;
}

static double rate_of(const hull_t *h, int64_t step)
{
    return step > 0 ? h->sizes[h->size[step - 1]].rate : 0;
}

/* Does going from a to c directly give at least the work per watt of going over b? */
static bool is_below(const hull_t *h, int64_t a, int64_t b, const ebb_plan_size_t *c)
{
    double p = power_of(h, a), r = rate_of(h, a);
    return (rate_of(h, b) - r) * (c->power_w - p) <= (c->rate - r) * (power_of(h, b) - p);
}

/* Next allowed size after one in order of power (the faster first, then the first), or -1. */
static int64_t next_by_power(const ebb_plan_job_t *job, int64_t after)
{
    int64_t best = -1;
    for (int64_t i = 0; i < job->n_sizes; i++) {
        const ebb_plan_size_t *s = &job->sizes[i];
        bool later = after < 0 || s->power_w > job->sizes[after].power_w;
        if (!ebb_plan_allowed(job, i) || !later)
            continue;
        if (best < 0 || s->power_w < job->sizes[best].power_w ||
            (s->power_w == job->sizes[best].power_w && s->rate > job->sizes[best].rate))
            best = i;
    }
    return best;
}

static ebb_status_t make_hull(ebb_planner_t *planner, hull_t *h)
{
    const ebb_plan_job_t *job = planner->job;
    h->n = 0;
    h->sizes = job->sizes;
    EBB_TRY(SCRATCH(&planner->hull, "planner: hull of sizes", job->n_sizes, &h->size));
    for (int64_t i = next_by_power(job, -1); i >= 0; i = next_by_power(job, i)) {
        const ebb_plan_size_t *s = &job->sizes[i];
        if (h->n > 0 && s->rate <= rate_of(h, h->n))
            continue;
        while (h->n > 0 && is_below(h, h->n - 1, h->n, s))
            h->n--;
        h->size[h->n++] = i;
    }
    return EBB_OK;
}

typedef struct levels {
    int64_t n;      /* slots until the deadline */
    int32_t *level; /* step of the hull in each slot */
    int64_t part;   /* slot that is at its level for part_s seconds only, else one lower; -1: none */
    double part_s;
} levels_t;

static double slot_length(const ebb_planner_t *planner, int64_t slot)
{
    double begin = (double)slot * planner->horizon->slot_s;
    return fmin(begin + planner->horizon->slot_s, planner->deadline_s) - begin;
}

static ebb_status_t take_raises(ebb_planner_t *planner, const hull_t *h, levels_t *l)
{
    double need = planner->job->work;
    raise_t *raise;
    int64_t k = 0;
    l->n = (int64_t)ceil(planner->deadline_s / planner->horizon->slot_s - 1e-9);
    l->part = -1;
    EBB_TRY(SCRATCH(&planner->order, "planner: order of raises", l->n * h->n, &raise));
    EBB_TRY(SCRATCH(&planner->path, "planner: levels", l->n, &l->level));
    memset(l->level, 0, (size_t)l->n * sizeof *l->level);
    for (int64_t i = 0; i < l->n; i++)
        for (int64_t s = 1; s <= h->n; s++)
            raise[k++] = (raise_t){fmax(planner->rate[i], 0) * (power_of(h, s) - power_of(h, s - 1)) /
                                       (rate_of(h, s) - rate_of(h, s - 1)),
                                   (int32_t)i, (int32_t)s};
    qsort(raise, (size_t)k, sizeof *raise, by_raise);
    for (int64_t i = 0; i < k && need > 0; i++) {
        double more = rate_of(h, raise[i].step) - rate_of(h, raise[i].step - 1);
        double length = slot_length(planner, raise[i].slot);
        l->level[raise[i].slot] = raise[i].step;
        if (need < more * length) {
            l->part = raise[i].slot;
            l->part_s = need / more;
        }
        need -= more * length;
    }
    return EBB_OK;
}

static ebb_status_t add_piece(ebb_plan_t *plan, const hull_t *h, int64_t step, double begin, double end)
{
    return step > 0 && end - begin > TIME_EPS ? ebb_plan_add(plan, begin, end, h->size[step - 1]) : EBB_OK;
}

/* The slot at two levels: the one that goes on in a neighbour lies next to it. */
static ebb_status_t add_part(const ebb_planner_t *planner, const hull_t *h, const levels_t *l, ebb_plan_t *plan)
{
    int64_t i = l->part, high = l->level[i];
    double begin = (double)i * planner->horizon->slot_s, end = begin + slot_length(planner, i);
    bool late = (i == 0 || l->level[i - 1] < high) && i + 1 < l->n && l->level[i + 1] >= high;
    if (late) {
        EBB_TRY(add_piece(plan, h, high - 1, begin, end - l->part_s));
        return add_piece(plan, h, high, end - l->part_s, end);
    }
    EBB_TRY(add_piece(plan, h, high, begin, begin + l->part_s));
    return add_piece(plan, h, high - 1, begin + l->part_s, end);
}

static ebb_status_t climb(ebb_planner_t *planner, ebb_plan_t *plan)
{
    hull_t hull;
    levels_t levels = {0};
    EBB_TRY(make_hull(planner, &hull));
    EBB_TRY(take_raises(planner, &hull, &levels));
    for (int64_t i = 0; i < levels.n; i++) {
        double begin = (double)i * planner->horizon->slot_s;
        if (i == levels.part)
            EBB_TRY(add_part(planner, &hull, &levels, plan));
        else
            EBB_TRY(add_piece(plan, &hull, levels.level[i], begin, begin + slot_length(planner, i)));
    }
    return EBB_OK;
}

static bool waits_too_long(const ebb_plan_job_t *job, const ebb_plan_t *plan)
{
    return job->state == EBB_PLAN_FRESH && job->max_wait_s != 0 &&
           plan->segment[0].begin_s > fmax(0, job->max_wait_s) + TIME_EPS;
}

static ebb_status_t copy_segments(const ebb_plan_t *from, ebb_plan_t *to)
{
    to->n_segments = 0;
    for (int64_t i = 0; i < from->n_segments; i++)
        EBB_TRY(ebb_plan_add(to, from->segment[i].begin_s, from->segment[i].end_s, from->segment[i].size));
    return EBB_OK;
}

/* The better of *plan and what `pause` finds at each of a few sizes, or of many at the base. */
static ebb_status_t try_single_sizes(ebb_planner_t *planner, bool feasible, ebb_plan_t *plan)
{
    const ebb_plan_job_t *job = planner->job;
    double best = feasible ? ebb_plan_cost(planner, plan) : INFINITY;
    ebb_plan_t one = {0};
    ebb_status_t status = EBB_OK;
    int64_t tries = job->n_sizes <= 4 ? job->n_sizes : 1;
    for (int64_t k = 0; status == EBB_OK && k < tries; k++) {
        ebb_plan_job_t at_size = *job;
        at_size.base = tries == 1 ? job->base : k;
        bool changes = job->state == EBB_PLAN_RUNNING && at_size.base != job->base;
        double length = job->work / job->sizes[at_size.base].rate + job->restart_s;
        if (!ebb_plan_allowed(job, at_size.base) || changes || length > planner->deadline_s)
            continue;
        one.n_segments = 0;
        planner->job = &at_size;
        double wait = job->state != EBB_PLAN_FRESH || job->max_wait_s == 0 ? INFINITY : fmax(0, job->max_wait_s);
        planner->latest_start_s = fmax(0, fmin(wait, planner->deadline_s - length));
        status = ebb_plan_pause(planner, &one);
        planner->job = job;
        double cost = ebb_plan_cost(planner, &one);
        if (status == EBB_OK && cost < best) {
            best = cost;
            status = copy_segments(&one, plan);
        }
    }
    ebb_plan_free(&one);
    return status;
}

ebb_status_t ebb_plan_elastic(ebb_planner_t *planner, ebb_plan_t *plan)
{
    const ebb_plan_job_t *job = planner->job;
    bool free = job->restart_s == 0 && job->restart_j == 0 && job->resize_s == 0 && job->resize_j == 0 &&
                job->idle_w == 0 && job->time_weight_g == 0;
    bool feasible;
    if (free) {
        EBB_TRY(climb(planner, plan));
        if (!waits_too_long(job, plan))
            return EBB_OK;
        plan->n_segments = 0;
    }
    EBB_TRY(ebb_plan_resize(planner, plan, &feasible));
    EBB_TRY(try_single_sizes(planner, feasible, plan));
    if (plan->n_segments > 0)
        return EBB_OK;
    /* nothing but the fastest size, at once, was found to end in time */
    int64_t best = job->base;
    for (int64_t i = 0; i < job->n_sizes; i++)
        if (ebb_plan_allowed(job, i) && job->sizes[i].rate > job->sizes[best].rate)
            best = i;
    double overhead = job->state == EBB_PLAN_PAUSED                         ? job->restart_s
                      : job->state == EBB_PLAN_RUNNING && best != job->base ? job->resize_s
                                                                            : 0;
    return ebb_plan_add(plan, 0, overhead + job->work / job->sizes[best].rate, best);
}
