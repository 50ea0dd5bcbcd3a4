/* fail_open SOURCE ZONE URL JOBS SEED: looks once at a service that does what it should not, then carries out JOBS jobs
 * with random arrivals, lengths, deadlines and policies on what came of it, planned as the agent plans them, on a clock
 * of its own that goes in quarters of an hour. Prints how many there were, began and missed their deadline; exits 1 if
 * any missed one or did not begin. fail_open.py calls it once for every fault. */
#include "jobs/decide.h"
#include "jobs/outlook.h"
#include "base/clock.h"
#include "base/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define TICK 900.0
#define HOUR 3600.0
#define DAY  86400.0

typedef struct sim {
    ebb_queue_job_t job;
    ebb_queue_estimate_t estimate;
    ebb_decision_t decision;
    double units, end, planned;
} sim_t;

static ebb_planner_t *planner;
static ebb_outlook_t *outlook;
static uint64_t seed;

static double uniform(int64_t i, int what)
{
    return ebb_rng_uniform(seed, EBB_RNG_TEST, (uint64_t)i, (uint64_t)what);
}

static void must(ebb_status_t status)
{
    if (status == EBB_OK)
        return;
    printf("FAILED: %s\n", ebb_error()->message);
    exit(1);
}

static void make_job(sim_t *s, int64_t i, double begin)
{
    ebb_queue_spec_t *spec = &s->job.spec;
    double hours = 0.5 + 5.5 * uniform(i, 0), slack = 0.5 * HOUR + 24 * HOUR * uniform(i, 1);
    spec->policy = (ebb_plan_policy_t)(int)(4 * uniform(i, 2));
    spec->run = spec->policy == EBB_PLAN_ELASTIC;
    spec->ranks = 2;
    spec->least_ranks = 1;
    spec->most_ranks = spec->run ? 4 : 2;
    if (!spec->run)
        spec->least_ranks = 2;
    spec->cpus = 1;
    spec->hours = hours;
    spec->restart_s = uniform(i, 3) < 0.3 ? 60 : 0;
    s->job.id = i + 1;
    s->job.submitted = begin + DAY * uniform(i, 4);
    s->job.ranks = spec->ranks;
    /* what a deadline must leave at least: the planner's reserve and the clock's coarseness */
    spec->deadline = s->job.submitted + hours * HOUR * 1.06 + slack + 2 * TICK;
    must(ebb_queue_estimate(spec, &s->estimate));
}

static double rate_of(const sim_t *s, int64_t ranks)
{
    for (int64_t i = 0; i < s->estimate.n; i++)
        if (s->estimate.size[i].ranks == ranks)
            return s->estimate.size[i].rate;
    return s->estimate.size[s->estimate.base].rate;
}

static void plan(sim_t *s, double now)
{
    double latest = ebb_queue_latest_end(&s->job, &s->estimate), left = s->estimate.work - s->units, g[400];
    int64_t n = (int64_t)fmin(400, ceil(fmax(latest - now, TICK) / TICK));
    bool known = s->job.spec.policy != EBB_PLAN_ASAP && ebb_outlook_sample(outlook, now, TICK, n, g);
    ebb_question_t q = {.job = &s->job,
                        .estimate = &s->estimate,
                        .now = now,
                        .left = left,
                        .latest_end = latest,
                        .slots = 1000,
                        .grid = {.n = n, .slot_s = TICK, .g_per_kwh = known ? g : NULL},
                        .track = ebb_outlook_track(outlook)};
    must(ebb_decide(planner, &q, &s->decision));
    s->planned = now;
}

/* As the agent: by the plan, or because the deadline is near. */
static int64_t ranks_now(sim_t *s, double now)
{
    double until, left = (s->estimate.work - s->units) / s->estimate.size[s->estimate.base].rate;
    if (now >= s->planned + 2 * HOUR || s->planned == 0)
        plan(s, now);
    int64_t ranks = ebb_decision_at(&s->decision, now, &until);
    ebb_demand_t demand = {.latest_end = ebb_queue_latest_end(&s->job, &s->estimate),
                           .length = left + s->job.spec.restart_s,
                           .slots = 2},
                 *one = &demand;
    ebb_find_urgent(&one, 1, now, 1000, TICK);
    return demand.urgent && ranks < s->job.spec.ranks ? s->job.spec.ranks : ranks;
}

static void step(sim_t *s, double now)
{
    if (s->end > 0 || now < s->job.submitted)
        return;
    int64_t ranks = ranks_now(s, now);
    bool starts = ranks > 0 && s->job.state != EBB_RUNNING;
    double seconds = TICK - (starts && s->job.begun > 0 ? s->job.spec.restart_s : 0), rate = rate_of(s, ranks);
    if (ranks != s->job.ranks || (ranks > 0) != (s->job.state == EBB_RUNNING))
        s->planned = 0;
    s->job.state = ranks > 0 ? EBB_RUNNING : s->job.begun > 0 ? EBB_PAUSED : EBB_QUEUED;
    if (ranks == 0)
        return;
    s->job.begun = s->job.begun > 0 ? s->job.begun : now;
    s->job.ranks = ranks;
    if (s->units + rate * seconds >= s->estimate.work)
        s->end = now + TICK - seconds + (s->estimate.work - s->units) / rate;
    s->units += rate * seconds;
    s->job.done = fmin(1, s->units / s->estimate.work);
}

static void look_once(ebb_outlooks_t *all, double now)
{
    const struct timespec pause = {.tv_nsec = 10000000};
    ebb_queue_spec_t none = {.name = "look"};
    must(ebb_outlook_find(all, &none, now + 3 * DAY, &outlook));
    for (int i = 0; i < 3000 && ebb_outlook_waits(outlook); i++) {
        ebb_outlooks_tend(all, now);
        nanosleep(&pause, NULL);
    }
}

static int64_t carry_out(sim_t *sim, int64_t n, double begin)
{
    int64_t bad = 0, deferred = 0;
    for (double now = begin; now < begin + 4 * DAY; now += TICK)
        for (int64_t i = 0; i < n; i++)
            step(&sim[i], now);
    for (int64_t i = 0; i < n; i++) {
        bool missed = !(sim[i].end > 0) || sim[i].end > sim[i].job.spec.deadline;
        if (missed)
            printf("job %lld (%s) of %.2f h ended at %.2f h, deadline %.2f h\n", (long long)i,
                   ebb_plan_policy_name(sim[i].job.spec.policy), sim[i].job.spec.hours, (sim[i].end - begin) / HOUR,
                   (sim[i].job.spec.deadline - begin) / HOUR);
        bad += missed;
        deferred += sim[i].job.begun > sim[i].job.submitted + HOUR;
    }
    printf("jobs %lld  begun later %lld  missed %lld\n", (long long)n, (long long)deferred, (long long)bad);
    return bad;
}

int main(int argc, char **argv)
{
    if (argc != 6)
        return 64;
    setenv("EBB_CARBON_SOURCE", argv[1], 1);
    setenv("EBB_CARBON_ZONE", argv[2], 1);
    setenv("EBB_CARBON_URL", argv[3], 1);
    int64_t n = atoll(argv[4]);
    seed = (uint64_t)atoll(argv[5]);
    double begin = floor(ebb_wall_seconds() / TICK) * TICK;
    ebb_queue_t *queue;
    ebb_outlooks_t *all;
    sim_t *sim = calloc((size_t)n, sizeof *sim);
    must(ebb_queue_open(NULL, &queue));
    must(ebb_outlooks_create(queue, &all));
    must(ebb_planner_create(&planner));
    look_once(all, begin);
    for (int64_t i = 0; i < n; i++)
        make_job(&sim[i], i, begin);
    int64_t bad = carry_out(sim, n, begin);
    for (int64_t i = 0; i < n; i++) {
        ebb_queue_estimate_free(&sim[i].estimate);
        ebb_decision_free(&sim[i].decision);
    }
    free(sim);
    ebb_outlooks_destroy(all);
    ebb_planner_destroy(planner);
    ebb_queue_close(queue);
    return bad > 0;
}
