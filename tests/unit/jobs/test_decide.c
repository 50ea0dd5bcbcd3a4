/* From forecasts to hours: what the agent decides, without clock and processes. */
#include "support.h"
#include "base/rng.h"
#include "jobs/decide.h"
#include "jobs/pace.h"

#include <math.h>

#define HOUR 3600.0
#define DAY  86400.0

static ebb_planner_t *planner;

/* 96 slots of a quarter of an hour: dear but for hours 10 to 13. */
static const double *grid(void)
{
    static double g[96];
    for (int i = 0; i < 96; i++)
        g[i] = i >= 40 && i < 52 ? 100 : 400;
    return g;
}

typedef struct fixture {
    ebb_queue_job_t job;
    ebb_queue_estimate_t estimate;
    ebb_question_t question;
    ebb_decision_t decision;
    ebb_plan_track_t track;
} fixture_t;

static void set_up(fixture_t *f, ebb_plan_policy_t policy, double hours)
{
    *f = (fixture_t){0};
    f->job.spec = (ebb_queue_spec_t){.name = "x",
                                     .policy = policy,
                                     .ranks = 1,
                                     .least_ranks = 1,
                                     .most_ranks = 1,
                                     .cpus = 1,
                                     .hours = hours,
                                     .deadline = DAY};
    f->job.ranks = 1;
    assert_ok(ebb_queue_estimate(&f->job.spec, &f->estimate));
    f->question = (ebb_question_t){.job = &f->job,
                                   .estimate = &f->estimate,
                                   .left = f->estimate.work,
                                   .latest_end = ebb_queue_latest_end(&f->job, &f->estimate),
                                   .slots = 8,
                                   .grid = {.n = 96, .slot_s = 900, .g_per_kwh = grid()},
                                   .track = &f->track};
}

static void tear_down(fixture_t *f)
{
    ebb_queue_estimate_free(&f->estimate);
    ebb_decision_free(&f->decision);
}

static int64_t ranks_at(const fixture_t *f, double time)
{
    double until;
    return ebb_decision_at(&f->decision, time, &until);
}

static void a_job_is_put_into_the_clean_hours(void **state)
{
    fixture_t f;
    set_up(&f, EBB_PLAN_DEFER, 2);
    assert_ok(ebb_decide(planner, &f.question, &f.decision));
    assert_int_equal(ranks_at(&f, 0), 0);
    assert_int_equal(ranks_at(&f, 10.5 * HOUR), 1);
    assert_float_equal(f.decision.stretch[0].begin, 10 * HOUR, 1); /* the first of equals */
    assert_float_equal(1 - f.decision.grams / f.decision.asap_grams, 0.75, 1e-9);
    tear_down(&f);
}

static void nothing_known_is_at_once(void **state)
{
    fixture_t f;
    set_up(&f, EBB_PLAN_PAUSE, 2);
    f.question.grid.g_per_kwh = NULL;
    assert_ok(ebb_decide(planner, &f.question, &f.decision));
    assert_true(f.decision.blind && ranks_at(&f, 0) == 1);
    tear_down(&f);
}

static void useless_forecasts_are_at_once(void **state)
{
    fixture_t f;
    set_up(&f, EBB_PLAN_PAUSE, 2);
    for (int64_t h = 0; h < 24 * 10; h++) /* what came had nothing to do with what was said */
        ebb_plan_track_see(&f.track, 86400 * 18000 + 3600 * h, h % 24 < 12 ? 100 : 300, h % 2 ? 100 : 300);
    assert_ok(ebb_decide(planner, &f.question, &f.decision));
    assert_true(f.decision.gated && ranks_at(&f, 0) == 1);
    tear_down(&f);
}

static void a_deadline_that_is_near_is_at_once(void **state)
{
    fixture_t f;
    set_up(&f, EBB_PLAN_PAUSE, 2);
    f.question.latest_end = 2 * HOUR;
    assert_ok(ebb_decide(planner, &f.question, &f.decision));
    assert_int_equal(ranks_at(&f, 0), 1);
    f.question.latest_end = -HOUR; /* it has passed: as soon as it can */
    assert_ok(ebb_decide(planner, &f.question, &f.decision));
    assert_true(f.decision.late && ranks_at(&f, 0) == 1);
    tear_down(&f);
}

static void what_runs_in_one_window_is_not_stopped(void **state)
{
    fixture_t f;
    set_up(&f, EBB_PLAN_DEFER, 6);
    f.job.state = EBB_RUNNING;
    f.job.begun = 1;
    assert_ok(ebb_decide(planner, &f.question, &f.decision));
    assert_int_equal(ranks_at(&f, 0), 1);
    assert_int_equal(f.decision.n, 1);
    f.job.spec.policy = EBB_PLAN_PAUSE;
    assert_ok(ebb_decide(planner, &f.question, &f.decision));
    assert_int_equal(ranks_at(&f, 6 * HOUR), 0); /* but what may be paused is */
    tear_down(&f);
}

static void sizes_beyond_the_slots_are_left_out(void **state)
{
    fixture_t f;
    set_up(&f, EBB_PLAN_ELASTIC, 4);
    ebb_queue_estimate_free(&f.estimate);
    f.job.spec.run = true;
    f.job.spec.most_ranks = 16;
    assert_ok(ebb_queue_estimate(&f.job.spec, &f.estimate));
    f.question.slots = 4;
    assert_ok(ebb_decide(planner, &f.question, &f.decision));
    int64_t most = 0;
    for (int64_t i = 0; i < f.decision.n; i++)
        most = f.decision.stretch[i].ranks > most ? f.decision.stretch[i].ranks : most;
    assert_true(most >= 2 && most <= 4);
    tear_down(&f);
}

/* Jobs of one slot that would all like the same clean hour, on few slots: run when urgent and only then, none is late.
 */
static void many_jobs_on_few_slots_miss_no_deadline(void **state)
{
    enum { JOBS = 60, SLOTS = 3 };
    for (uint64_t seed = 1; seed <= 50; seed++) {
        ebb_demand_t demand[JOBS], *by[JOBS];
        double total = 0, now = 0;
        for (int i = 0; i < JOBS; i++) {
            demand[i] = (ebb_demand_t){
                .length = 60.0 * (int)(10 + 83 * ebb_rng_uniform(seed, EBB_RNG_TEST, (uint64_t)i, 0)), .slots = 1};
            total += demand[i].length;
            /* feasible by the bound: all before it, shared, and the longest one */
            demand[i].latest_end = total / SLOTS + 5600 + 60 + 7200 * ebb_rng_uniform(seed, EBB_RNG_TEST, 1, 0);
        }
        for (int left = JOBS; left > 0; now += 60) {
            int running = 0, n = 0;
            for (int i = 0; i < JOBS; i++)
                if (demand[i].length > 0)
                    by[n++] = &demand[i];
            ebb_find_urgent(by, n, now, SLOTS, 60);
            for (int i = 0; i < n; i++)
                running += by[i]->running;
            for (int i = 0; i < n; i++) /* by latest end */
                if (by[i]->urgent && !by[i]->running && running < SLOTS) {
                    by[i]->running = true;
                    running++;
                }
            for (int i = 0; i < n; i++)
                if (by[i]->running) {
                    by[i]->length -= 60;
                    if (by[i]->length > 0)
                        continue;
                    by[i]->running = false;
                    left--;
                    if (now + 60 + by[i]->length > by[i]->latest_end + 60)
                        fail_msg("seed %d: ended at %.0f, latest %.0f", (int)seed, now + 60, by[i]->latest_end);
                }
            if (now > 1e7)
                fail_msg("jobs are never urgent");
        }
    }
}

static void an_urgent_job_keeps_its_ranks_or_gets_more(void **state)
{
    assert_int_equal(ebb_ranks_from_now(0, 2, false), 0);
    assert_int_equal(ebb_ranks_from_now(1, 2, false), 1);
    assert_int_equal(ebb_ranks_from_now(0, 2, true), 2);
    assert_int_equal(ebb_ranks_from_now(1, 2, true), 2);
    assert_int_equal(ebb_ranks_from_now(4, 2, true), 4);
}

/* An hour's job whose start takes 300 s, looked at every 10 s. */
static double share_at(double since, double before, double start, double now)
{
    double s = before + fmax(0, now - since - start) / HOUR;
    return floor(s * 400) / 400;
}

static void see(ebb_pace_t *p, double since, double before, double start, double until)
{
    for (double now = since; now < until; now += 10)
        ebb_pace_see(p, since, now, share_at(since, before, start, now));
}

static void a_start_that_was_seen_is_told_without_the_work_done_by_then(void **state)
{
    ebb_pace_t p = {0};
    ebb_pace_see(&p, 0, 0, 0); /* before it runs */
    see(&p, 100, 0, 300, 1000);
    assert_true(fabs(p.whole_s - HOUR) < 200);
    assert_true(fabs(p.start_s - 300) < 25);
    ebb_pace_see(&p, 0, 1000, 0.25);
    assert_false(ebb_pace_see(&p, 5000, 5000, 0.25)); /* as long as its last checkpoint is not read */
    see(&p, 5000, 0.2, 900, 6500);                    /* from which it goes on: the slowest counts */
    assert_true(fabs(p.start_s - 900) < 25);
    ebb_pace_see(&p, 0, 6500, 0.3);
    see(&p, 7000, 0.3, 60, 8000);
    assert_true(fabs(p.start_s - 900) < 25);
}

static void a_start_that_was_not_seen_is_not_told(void **state)
{
    ebb_pace_t p = {0};
    see(&p, 100, 0.5, 300, 1000); /* of an earlier agent: when it was started to begin with is another question */
    assert_true(p.whole_s > 0 && p.start_s == 0);
    p = (ebb_pace_t){.watched = true};
    see(&p, 100, 0, 300, 1000);
    ebb_pace_see(&p, 100, 1000, 0.1); /* a rank has died: restarted by its supervisor */
    for (double now = 1000; now < 1600; now += 10)
        ebb_pace_see(&p, 100, now, share_at(1000, 0.1, 50, now));
    assert_true(fabs(p.start_s - 300) < 25);
}

static void pauses_that_slow_starts_do_not_pay_for_are_not_made(void **state)
{
    fixture_t f;
    set_up(&f, EBB_PLAN_PAUSE, 4);
    assert_ok(ebb_decide(planner, &f.question, &f.decision));
    int64_t without = f.decision.n;
    f.question.start_s = 4 * HOUR;
    f.job.begun = 1;
    f.job.state = EBB_RUNNING;
    assert_ok(ebb_decide(planner, &f.question, &f.decision));
    assert_true(without >= 1 && f.decision.n == 1 && f.decision.stretch[0].begin <= 1);
    tear_down(&f);
}

static int create(void **state)
{
    assert_ok(ebb_planner_create(&planner));
    return 0;
}

static int destroy(void **state)
{
    ebb_planner_destroy(planner);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_is_put_into_the_clean_hours),
        cmocka_unit_test(nothing_known_is_at_once),
        cmocka_unit_test(useless_forecasts_are_at_once),
        cmocka_unit_test(a_deadline_that_is_near_is_at_once),
        cmocka_unit_test(what_runs_in_one_window_is_not_stopped),
        cmocka_unit_test(sizes_beyond_the_slots_are_left_out),
        cmocka_unit_test(many_jobs_on_few_slots_miss_no_deadline),
        cmocka_unit_test(an_urgent_job_keeps_its_ranks_or_gets_more),
        cmocka_unit_test(a_start_that_was_seen_is_told_without_the_work_done_by_then),
        cmocka_unit_test(a_start_that_was_not_seen_is_not_told),
        cmocka_unit_test(pauses_that_slow_starts_do_not_pay_for_are_not_made),
    };
    return cmocka_run_group_tests(tests, create, destroy);
}
