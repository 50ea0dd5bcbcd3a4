/* How long planning takes: 168 hourly slots x 64 sizes, and 10,000 jobs of 1 to 20 hours that arrive over a year of
 * half-hours with 48 hours until their deadline, by policy, number of sizes and cost of a change. Wanted: 10 ms and
 * 10 s.
 *
 * The jobs are planned in batches that are alike (every tenth job); total: of all of them, spread: quartile distance of
 * the batches / their median. */
#include "bench.h"
#include "base/rng.h"

#include <ebb/plan.h>

#include <math.h>

enum { SLOTS = 17520, JOBS = 10000, WINDOW = 96, BATCHES = 10, MOST_SIZES = 64 };

static ebb_planner_t *planner;
static ebb_plan_t plan;
static ebb_plan_size_t size[MOST_SIZES];

static void fill_curve(int64_t n, int64_t per_day, double *g)
{
    for (int64_t i = 0; i < n; i++)
        g[i] = 300 + 120 * sin(6.283 * (double)(i % per_day) / (double)per_day) +
               30 * ebb_rng_uniform(3, EBB_RNG_TEST, (uint64_t)i, 0);
}

typedef struct week {
    ebb_plan_horizon_t horizon;
    ebb_plan_job_t job;
} week_t;

static void plan_week(void *user)
{
    const week_t *w = user;
    bench_ok(ebb_plan_make(planner, EBB_PLAN_ELASTIC, &w->horizon, &w->job, &plan));
}

static void one_week(double change_s)
{
    static double g[168];
    fill_curve(168, 24, g);
    week_t w = {.horizon = {.n = 168, .slot_s = 3600, .g_per_kwh = g},
                .job = {.work = 40 * 3600 * size[7].rate,
                        .sizes = size,
                        .n_sizes = MOST_SIZES,
                        .base = 7,
                        .restart_s = change_s,
                        .resize_s = change_s}};
    timing_t t = bench_time(plan_week, &w);
    printf("168 slots x 64 sizes, %3.0f s a change: %7.2f ms, spread %2.0f %%, above its bound by %.3f %%\n", change_s,
           1e3 * t.median, bench_spread(t), 100 * (plan.cost / plan.bound_g - 1));
}

static double plan_batch(ebb_plan_policy_t policy, int64_t sizes, double change_s, int64_t batch, const double *g)
{
    int64_t begin = bench_now_ns();
    for (int64_t i = batch; i < JOBS; i += BATCHES) {
        ebb_plan_horizon_t h = {.n = WINDOW, .slot_s = 1800, .g_per_kwh = g + i * SLOTS / JOBS};
        ebb_plan_job_t job = {.work = 3600 * (double)(1 + i / BATCHES % 20),
                              .sizes = size,
                              .n_sizes = sizes,
                              .restart_s = change_s,
                              .resize_s = change_s};
        bench_ok(ebb_plan_make(planner, policy, &h, &job, &plan));
    }
    return 1e-9 * (double)(bench_now_ns() - begin);
}

static void one_year(ebb_plan_policy_t policy, int64_t sizes, double change_s)
{
    static double g[SLOTS + WINDOW];
    double total = 0, t[BATCHES];
    fill_curve(SLOTS + WINDOW, 48, g);
    for (int64_t b = 0; b < BATCHES; b++)
        total += t[b] = plan_batch(policy, sizes, change_s, b, g);
    qsort(t, BATCHES, sizeof *t, compare_doubles);
    printf("%-8s %2lld sizes, %3.0f s a change: %7.2f s, spread %2.0f %%\n", ebb_plan_policy_name(policy),
           (long long)sizes, change_s, total, 100 * (t[7] - t[2]) / t[5]);
}

int main(void)
{
    static const double changes[] = {0, 60, 300, 900};
    bench_ok(ebb_planner_create(&planner));
    for (int i = 0; i < MOST_SIZES; i++)
        size[i] = (ebb_plan_size_t){i + 1, pow(i + 1, 0.9), 300.0 * (i + 1)};
    for (int c = 0; c < 4; c++)
        one_week(changes[c]);
    one_year(EBB_PLAN_DEFER, 1, 60);
    for (int c = 0; c < 4; c++) {
        one_year(EBB_PLAN_PAUSE, 1, changes[c]);
        for (int64_t sizes = 1; sizes <= MOST_SIZES; sizes *= sizes < 16 ? 2 : 4)
            one_year(EBB_PLAN_ELASTIC, sizes, changes[c]);
    }
    ebb_plan_free(&plan);
    ebb_planner_destroy(planner);
    return 0;
}
