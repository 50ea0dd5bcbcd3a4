/* From what is known of a job and of the grid to the hours in which it runs. */
#include "jobs/decide.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST_SIZES 300
#define HASTE      1e-3 /* what is far off counts so much more at the horizon's end, so that of equals the first wins */
#define MOST_CELLS 5e5  /* of the dynamic programme of `pause`: about a millisecond */
#define QUANTUM_S  300.0

typedef struct problem {
    const ebb_question_t *q;
    ebb_plan_size_t size[MOST_SIZES];
    ebb_plan_job_t job;
    ebb_plan_horizon_t grid;
    double *hasty; /* g per kWh of the grid, in favour of what comes first */
} problem_t;

static void add_stretch_times(const problem_t *p, const ebb_plan_segment_t *s, ebb_stretch_t *out)
{
    *out =
        (ebb_stretch_t){p->q->now + s->begin_s, p->q->now + s->end_s, p->size[s->size].ranks, p->size[s->size].power_w};
}

static ebb_status_t take_plan(const problem_t *p, const ebb_plan_t *plan, ebb_decision_t *d)
{
    EBB_TRY(ebb_grow("plan of a job", (void **)&d->stretch, &d->capacity, plan->n_segments, sizeof *d->stretch));
    d->n = plan->n_segments;
    for (int64_t i = 0; i < d->n; i++)
        add_stretch_times(p, &plan->segment[i], &d->stretch[i]);
    d->end = p->q->now + plan->end_s;
    d->grams = plan->grams;
    d->kwh = plan->kwh;
    d->late = plan->late;
    return EBB_OK;
}

/* Sizes that fit, the base among them in any case. */
static void find_sizes(problem_t *p)
{
    const ebb_question_t *q = p->q;
    const ebb_queue_estimate_t *e = q->estimate;
    int64_t cpus = q->job->spec.cpus, wanted = q->job->state == EBB_RUNNING ? q->job->ranks : e->size[e->base].ranks;
    for (int64_t i = 0; i < e->n && p->job.n_sizes < MOST_SIZES; i++) {
        bool is_base = e->size[i].ranks == wanted || (i == e->base && p->job.n_sizes == 0);
        if (!is_base && (q->job->spec.policy != EBB_PLAN_ELASTIC || e->size[i].ranks * cpus > q->slots))
            continue;
        if (e->size[i].ranks == wanted)
            p->job.base = p->job.n_sizes;
        p->size[p->job.n_sizes++] = e->size[i];
    }
    if (p->job.n_sizes == 0)
        p->size[p->job.n_sizes++] = e->size[e->base];
    p->job.sizes = p->size;
}

static ebb_plan_state_t plan_state(const ebb_queue_job_t *job)
{
    return job->state == EBB_RUNNING ? EBB_PLAN_RUNNING : job->begun > 0 ? EBB_PLAN_PAUSED : EBB_PLAN_FRESH;
}

static double wait_left(const ebb_question_t *q)
{
    double left = q->job->submitted + q->job->spec.max_wait_s - q->now;
    return !(q->job->spec.max_wait_s > 0) || q->job->begun > 0 ? 0 : left > 0 ? left : -1;
}

static void set_up(problem_t *p)
{
    const ebb_queue_spec_t *s = &p->q->job->spec;
    find_sizes(p);
    p->job.work = fmax(p->q->left, p->size[p->job.base].rate);
    p->job.state = plan_state(p->q->job);
    p->job.deadline_s = fmax(p->q->latest_end - p->q->now, 1);
    p->job.max_wait_s = wait_left(p->q);
    p->job.pue = s->pue;
    p->job.restart_s = p->job.resize_s = fmax(s->restart_s, p->q->start_s);
    double span = p->job.deadline_s, left = p->job.work / p->size[p->job.base].rate;
    if (span * left > MOST_CELLS * QUANTUM_S * QUANTUM_S)
        p->job.quantum_s = sqrt(span * left / MOST_CELLS);
    p->grid = p->q->grid;
}

/* What it may do from here on: what has begun in one window goes on in it. */
static ebb_plan_policy_t policy_from_here(const problem_t *p)
{
    const ebb_queue_job_t *job = p->q->job;
    bool defer = job->spec.policy == EBB_PLAN_DEFER;
    return defer && job->state == EBB_RUNNING ? EBB_PLAN_ASAP : job->spec.policy;
}

static ebb_status_t compare(ebb_planner_t *planner, problem_t *p, ebb_plan_t *asap, ebb_plan_t *plan, ebb_decision_t *d)
{
    ebb_plan_policy_t policy = policy_from_here(p);
    EBB_TRY(ebb_plan_make(planner, EBB_PLAN_ASAP, &p->grid, &p->job, asap));
    d->asap_grams = asap->grams;
    if (policy == EBB_PLAN_ASAP || d->blind)
        return take_plan(p, asap, d);
    ebb_plan_horizon_t hasty = p->grid;
    hasty.g_per_kwh = p->hasty;
    EBB_TRY(ebb_plan_make(planner, policy, &hasty, &p->job, plan));
    EBB_TRY(ebb_plan_account(&p->grid, &p->job, plan));
    double saving = asap->grams > 0 ? 1 - plan->grams / asap->grams : 0;
    d->gated = !plan->late && !asap->late && !ebb_plan_is_worth_waiting(p->q->track, saving);
    return take_plan(p, d->gated ? asap : plan, d);
}

static ebb_status_t make_hasty(problem_t *p)
{
    EBB_TRY(EBB_NEW_ARRAY("hours of the grid", p->grid.n, &p->hasty));
    for (int64_t i = 0; i < p->grid.n; i++)
        p->hasty[i] = p->grid.g_per_kwh[i] * (1 + HASTE * (double)i / (double)p->grid.n);
    return EBB_OK;
}

ebb_status_t ebb_decide(ebb_planner_t *planner, const ebb_question_t *q, ebb_decision_t *d)
{
    static const double unknown = 0;
    problem_t p = {.q = q};
    ebb_plan_t asap = {0}, plan = {0};
    set_up(&p);
    d->blind = !q->grid.g_per_kwh;
    if (d->blind)
        p.grid = (ebb_plan_horizon_t){.n = 1, .slot_s = 400 * 86400.0, .g_per_kwh = &unknown};
    ebb_status_t status = make_hasty(&p);
    if (status == EBB_OK)
        status = compare(planner, &p, &asap, &plan, d);
    ebb_free(p.hasty);
    ebb_plan_free(&asap);
    ebb_plan_free(&plan);
    return status;
}

void ebb_decision_free(ebb_decision_t *d)
{
    ebb_free(d->stretch);
    *d = (ebb_decision_t){0};
}

int64_t ebb_decision_at(const ebb_decision_t *d, double time, double *until_p)
{
    *until_p = INFINITY;
    for (int64_t i = 0; i < d->n; i++) {
        if (time < d->stretch[i].begin) {
            *until_p = d->stretch[i].begin;
            return 0;
        }
        if (time < d->stretch[i].end || i + 1 == d->n) {
            if (i + 1 < d->n)
                *until_p = d->stretch[i].end;
            return d->stretch[i].ranks;
        }
    }
    return 0;
}

char *ebb_decision_json(const ebb_decision_t *d, const ebb_queue_job_t *job, double now, const char *source)
{
    char made[32], begin[32], end[32];
    json_t *list = json_array();
    for (int64_t i = 0; i < d->n; i++) {
        ebb_format_utc(d->stretch[i].begin, begin, sizeof begin);
        ebb_format_utc(d->stretch[i].end, end, sizeof end);
        json_array_append_new(list, json_pack("{s:s, s:s, s:f, s:f, s:I, s:f}", "begin", begin, "end", end, "begin_s",
                                              d->stretch[i].begin, "end_s", d->stretch[i].end, "ranks",
                                              (json_int_t)d->stretch[i].ranks, "power_w", d->stretch[i].power_w));
    }
    ebb_format_utc(now, made, sizeof made);
    double saved = d->asap_grams > 0 ? 100 * (1 - d->grams / d->asap_grams) : 0;
    json_t *json = json_pack("{s:s, s:s, s:s, s:f, s:f, s:f, s:f, s:b, s:b, s:b, s:o}", "made", made, "policy",
                             ebb_plan_policy_name(job->spec.policy), "source", source, "gco2e", d->grams, "asap_gco2e",
                             d->asap_grams, "saved_pct", saved, "kwh", d->kwh, "late", (int)d->late, "blind",
                             (int)d->blind, "not_worth_waiting", (int)d->gated, "stretches", list);
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
    json_decref(json);
    return text;
}

/* ---- deadlines of many jobs on few slots ---- */

static int by_end(const void *a, const void *b)
{
    double x = (*(ebb_demand_t *const *)a)->latest_end, y = (*(ebb_demand_t *const *)b)->latest_end;
    return (x > y) - (x < y);
}

void ebb_find_urgent(ebb_demand_t **demand, int64_t n, double now, double slots, double margin_s)
{
    double work = 0, longest = 0;
    int64_t urgent = 0;
    if (n > 0)
        qsort(demand, (size_t)n, sizeof *demand, by_end);
    for (int64_t i = 0; i < n; i++)
        if (demand[i]->running)
            work += demand[i]->length * demand[i]->slots;
    for (int64_t i = 0; i < n && isfinite(demand[i]->latest_end); i++) {
        if (!demand[i]->running)
            work += demand[i]->length * demand[i]->slots;
        longest = fmax(longest, demand[i]->length);
        double shared = work / slots + (1 - fmin(demand[i]->slots, slots) / slots) * longest;
        if (now + fmax(shared, demand[i]->length) + margin_s >= demand[i]->latest_end)
            urgent = i + 1;
    }
    for (int64_t i = 0; i < n; i++)
        demand[i]->urgent = i < urgent;
}

int64_t ebb_ranks_from_now(int64_t wanted, int64_t ranks, bool urgent)
{
    return urgent && wanted < ranks ? ranks : wanted;
}
