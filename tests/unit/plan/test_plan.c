/* The planner against exhaustive search on small problems, against duality on larger ones, and on every limit it has.
 */
#include "support.h"
#include "base/alloc.h"
#include "base/rng.h"
#include <ebb/plan.h>

#include <math.h>

static double draw(uint64_t seed, uint64_t i)
{
    return ebb_rng_uniform(seed, EBB_RNG_TEST, i, 0);
}

static void fill(uint64_t seed, int64_t n, double *g)
{
    for (int64_t i = 0; i < n; i++)
        g[i] = 20 + 600 * draw(seed, (uint64_t)i);
}

static ebb_planner_t *planner;

static void make(ebb_plan_policy_t policy, const ebb_plan_horizon_t *h, const ebb_plan_job_t *job, ebb_plan_t *plan)
{
    assert_ok(ebb_plan_make(planner, policy, h, job, plan));
    assert_ok(ebb_plan_check(job, plan));
}

/* ---- the two searches ---- */

static void least_window_and_sum_equal_exhaustive_search(void **state)
{
    double g[64], scratch[64], sum, kth;
    for (uint64_t seed = 0; seed < 300; seed++) {
        int64_t n = 1 + (int64_t)(draw(seed, 1000) * 63), k = 1 + (int64_t)(draw(seed, 1001) * (double)n);
        fill(seed, n, g);
        for (int64_t i = 0; i < n; i++)
            g[i] = seed % 2 ? floor(g[i] / 100) : g[i]; /* many ties */
        k = k > n ? n : k;
        int64_t best = 0;
        double least = INFINITY;
        for (int64_t i = 0; i + k <= n; i++) {
            double s = 0;
            for (int64_t j = i; j < i + k; j++)
                s += g[j];
            if (s < least - 1e-9) {
                least = s;
                best = i;
            }
        }
        assert_int_equal(ebb_plan_least_window(g, n, k, &sum), best);
        assert_true(fabs(sum - least) < 1e-9);
        double sorted[64];
        memcpy(sorted, g, sizeof g);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = i + 1; j < n; j++)
                if (sorted[j] < sorted[i]) {
                    double t = sorted[i];
                    sorted[i] = sorted[j];
                    sorted[j] = t;
                }
        double want = 0;
        for (int64_t i = 0; i < k; i++)
            want += sorted[i];
        assert_true(fabs(ebb_plan_least_sum(g, n, k, scratch, &kth) - want) < 1e-9);
        assert_true(kth == sorted[k - 1]);
    }
    assert_true(ebb_plan_least_sum(g, 5, 0, scratch, NULL) == 0);
}

/* ---- policies ---- */

static const ebb_plan_size_t one_size = {.ranks = 1, .rate = 1, .power_w = 1000};

static void asap_runs_at_once_and_is_charged_with_pue(void **state)
{
    const double g[] = {100, 200, 300, 400};
    ebb_plan_horizon_t h = {.n = 4, .slot_s = 3600, .g_per_kwh = g};
    ebb_plan_job_t job = {.work = 5400, .sizes = &one_size, .n_sizes = 1, .pue = 1.5};
    ebb_plan_t plan = {0};
    make(EBB_PLAN_ASAP, &h, &job, &plan);
    assert_int_equal(plan.n_segments, 1);
    assert_true(plan.start_s == 0 && plan.end_s == 5400);
    assert_true(fabs(plan.kwh - 1.5 * 1.5) < 1e-12);
    assert_true(fabs(plan.grams - 1.5 * (100 + 0.5 * 200)) < 1e-9);
    ebb_plan_free(&plan);
}

static void defer_equals_a_scan_of_all_starts(void **state)
{
    double g[24];
    ebb_plan_t plan = {0}, other = {0};
    for (uint64_t seed = 0; seed < 100; seed++) {
        fill(seed, 24, g);
        ebb_plan_horizon_t h = {.n = 24, .slot_s = 60, .g_per_kwh = g};
        ebb_plan_job_t job = {
            .work = 60 + floor(draw(seed, 50) * 600), .sizes = &one_size, .n_sizes = 1, .deadline_s = 1200};
        make(EBB_PLAN_DEFER, &h, &job, &plan);
        double least = INFINITY;
        for (double start = 0; start + job.work <= 1200; start++) {
            ebb_plan_segment_t s = {start, start + job.work, 0};
            ebb_plan_t at = {.segment = &s, .n_segments = 1};
            assert_ok(ebb_plan_account(&h, &job, &at));
            least = fmin(least, at.grams);
        }
        assert_true(fabs(plan.grams - least) < 1e-9 * least);
        job.max_wait_s = 300;
        make(EBB_PLAN_DEFER, &h, &job, &other);
        assert_true(other.start_s <= 300 + 1e-6 && other.grams >= plan.grams - 1e-12);
    }
    ebb_plan_free(&plan);
    ebb_plan_free(&other);
}

static void pause_without_costs_takes_the_cheapest_slots_and_a_part_of_the_dearest(void **state)
{
    const double g[] = {500, 100, 400, 200, 300, 50};
    ebb_plan_horizon_t h = {.n = 6, .slot_s = 3600, .g_per_kwh = g};
    ebb_plan_job_t job = {.work = 2.5 * 3600, .sizes = &one_size, .n_sizes = 1};
    ebb_plan_t plan = {0};
    make(EBB_PLAN_PAUSE, &h, &job, &plan);
    assert_true(fabs(plan.grams - (50 + 100 + 0.5 * 200)) < 1e-9);
    assert_int_equal(plan.n_segments, 3);
    job.deadline_s = 5 * 3600;
    make(EBB_PLAN_PAUSE, &h, &job, &plan);
    assert_true(fabs(plan.grams - (100 + 200 + 0.5 * 300)) < 1e-9);
    job.max_wait_s = -1;
    make(EBB_PLAN_PAUSE, &h, &job, &plan);
    assert_true(plan.start_s == 0);
    ebb_plan_free(&plan);
}

/* Segments of the slots set in mask, with the restart's time before the work of a later segment. False: it overlaps. */
static bool plan_of_mask(unsigned mask, int n, double q, const ebb_plan_job_t *job, ebb_plan_t *plan)
{
    plan->n_segments = 0;
    for (int i = 0; i < n; i++) {
        if (!(mask >> i & 1) || (i > 0 && mask >> (i - 1) & 1))
            continue;
        int end = i;
        while (end < n && mask >> end & 1)
            end++;
        bool first = plan->n_segments == 0;
        bool restarts = first ? job->state == EBB_PLAN_PAUSED || (job->state == EBB_PLAN_RUNNING && i > 0) : true;
        double begin = i * q - (restarts ? job->restart_s : 0);
        if (begin < (first ? 0 : plan->segment[plan->n_segments - 1].end_s) + (restarts && !first ? 1e-5 : 0))
            return false;
        plan->segment[plan->n_segments++] = (ebb_plan_segment_t){begin, end * q, 0};
    }
    return true;
}

static void pause_with_costs_equals_exhaustive_search(void **state)
{
    enum { N = 12 };
    double g[N];
    ebb_plan_t plan = {0};
    ebb_plan_segment_t segment[N];
    for (uint64_t seed = 0; seed < 120; seed++) {
        fill(seed, N, g);
        ebb_plan_horizon_t h = {.n = N, .slot_s = 3600, .g_per_kwh = g};
        ebb_plan_job_t job = {.work = 3600 * (double)(1 + seed % 6),
                              .sizes = &one_size,
                              .n_sizes = 1,
                              .state = (ebb_plan_state_t)(seed % 3),
                              .restart_j = 3.6e6 * draw(seed, 70),
                              .restart_s = seed % 4 == 0 ? 3600 : 0,
                              .idle_w = seed % 5 ? 100 * draw(seed, 71) : 0,
                              .time_weight_g = seed % 7 == 0 ? 30 : 0,
                              .quantum_s = 3600,
                              .max_wait_s = seed % 2 ? 4 * 3600 : 0};
        double least = INFINITY;
        for (unsigned mask = 1; mask < 1u << N; mask++) {
            ebb_plan_t one = {.segment = segment, .late = true};
            if (__builtin_popcount(mask) * 3600.0 != job.work || !plan_of_mask(mask, N, 3600, &job, &one))
                continue;
            if (job.state == EBB_PLAN_FRESH && job.max_wait_s > 0 && segment[0].begin_s > job.max_wait_s)
                continue;
            assert_ok(ebb_plan_account(&h, &job, &one));
            least = fmin(least, one.cost);
        }
        make(EBB_PLAN_PAUSE, &h, &job, &plan);
        if (fabs(plan.cost - least) > 1e-9 * least)
            fail_msg("seed %d: planned %.9g, exhaustive %.9g", (int)seed, plan.cost, least);
    }
    ebb_plan_free(&plan);
}

/* Concave or not, with a size that no plan should use. */
static void fill_sizes(uint64_t seed, int64_t n, ebb_plan_size_t *size)
{
    double rate = 0, power = 40;
    for (int64_t i = 0; i < n; i++) {
        rate += (i == 2 ? 0.05 : 1) * (0.3 + draw(seed, 200 + (uint64_t)i)) / (double)(1 + i);
        power += 60 + 40 * draw(seed, 300 + (uint64_t)i);
        size[i] = (ebb_plan_size_t){i + 1, rate, power};
    }
}

/* Lagrange dual of the problem without costs of changes: no plan is below it, and the best price attains the optimum.
 */
static double dual(const ebb_plan_horizon_t *h, const ebb_plan_job_t *job, double price)
{
    double sum = price * job->work;
    for (int64_t i = 0; i < h->n; i++) {
        double best = 0;
        for (int64_t k = 0; k < job->n_sizes; k++)
            best =
                fmin(best, h->slot_s * (job->sizes[k].power_w * h->g_per_kwh[i] / 3.6e6 - price * job->sizes[k].rate));
        sum += best;
    }
    return sum;
}

static void elastic_without_costs_attains_its_dual(void **state)
{
    enum { N = 30, S = 6 };
    double g[N];
    ebb_plan_size_t size[S];
    ebb_plan_t plan = {0};
    for (uint64_t seed = 0; seed < 60; seed++) {
        fill(seed, N, g);
        fill_sizes(seed, S, size);
        ebb_plan_horizon_t h = {.n = N, .slot_s = 1800, .g_per_kwh = g};
        ebb_plan_job_t job = {
            .sizes = size, .n_sizes = S, .work = size[0].rate * 1800 * N * (0.1 + 1.2 * draw(seed, 9))};
        make(EBB_PLAN_ELASTIC, &h, &job, &plan);
        double low = 0, high = 1;
        for (int i = 0; i < 200; i++) { /* the dual is concave */
            double a = low + (high - low) / 3, b = high - (high - low) / 3;
            if (dual(&h, &job, a) < dual(&h, &job, b))
                low = a;
            else
                high = b;
        }
        double best = dual(&h, &job, low);
        if (fabs(plan.grams - best) > 1e-7 * best)
            fail_msg("seed %d: planned %.9g, dual %.9g", (int)seed, plan.grams, best);
    }
    ebb_plan_free(&plan);
}

/* Least cost over all choices of a size, or none, for each slot; the last slot is left when the work is done. */
static double exhaustive_elastic(const ebb_plan_horizon_t *h, const ebb_plan_job_t *job)
{
    double least = INFINITY;
    int64_t s = job->n_sizes, total = 1;
    ebb_plan_segment_t segment[16];
    for (int64_t i = 0; i < h->n; i++)
        total *= s + 1;
    for (int64_t code = 1; code < total; code++) {
        ebb_plan_t plan = {.segment = segment};
        double need = job->work;
        int64_t rest = code;
        for (int64_t i = 0; i < h->n && need > 1e-9; i++, rest /= s + 1) {
            int64_t k = rest % (s + 1) - 1;
            double begin = (double)i * h->slot_s, seconds, joules;
            if (k < 0)
                continue;
            int64_t last = plan.n_segments - 1;
            bool same = last >= 0 && segment[last].size == k && segment[last].end_s == begin;
            double end = begin + h->slot_s, lost = 0;
            if (!same) {
                segment[plan.n_segments] = (ebb_plan_segment_t){begin, end, k};
                bool adjacent = last >= 0 && segment[last].end_s == begin;
                seconds = last < 0 ? 0 : adjacent ? job->resize_s : job->restart_s;
                lost = seconds;
                plan.n_segments++;
                last++;
            }
            (void)joules;
            double work = job->sizes[k].rate * (h->slot_s - lost);
            segment[last].end_s = work <= need ? end : begin + lost + need / job->sizes[k].rate;
            need -= work;
        }
        if (need > 1e-9)
            continue;
        assert_ok(ebb_plan_account(h, job, &plan));
        least = fmin(least, plan.cost);
    }
    return least;
}

static void elastic_with_costs_is_near_exhaustive_search_and_not_below_its_bound(void **state)
{
    enum { N = 6, S = 2 };
    double g[N], worst = 0, sum = 0;
    ebb_plan_size_t size[S];
    ebb_plan_t plan = {0};
    for (uint64_t seed = 0; seed < 60; seed++) {
        fill(seed, N, g);
        fill_sizes(seed, S, size);
        ebb_plan_horizon_t h = {.n = N, .slot_s = 3600, .g_per_kwh = g};
        ebb_plan_job_t job = {.sizes = size,
                              .n_sizes = S,
                              .work = size[0].rate * 3600 * N * (0.2 + 0.8 * draw(seed, 9)),
                              .restart_s = 300,
                              .restart_j = 1e5 * draw(seed, 10),
                              .resize_s = 120,
                              .resize_j = 2e4};
        double least = exhaustive_elastic(&h, &job);
        make(EBB_PLAN_ELASTIC, &h, &job, &plan);
        worst = fmax(worst, plan.cost / least - 1);
        sum += plan.cost / least - 1;
        assert_true(plan.bound_g <= plan.cost * (1 + 1e-12));
    }
    print_message("elastic with costs: above exhaustive search by %.3f %% at most, %.3f %% on average\n", 100 * worst,
                  100 * sum / 60);
    assert_true(worst < 0.07);
    ebb_plan_free(&plan);
}

static void elastic_is_never_worse_than_pause_nor_pause_than_defer_nor_defer_than_asap(void **state)
{
    double g[96];
    ebb_plan_size_t size[4];
    for (uint64_t seed = 0; seed < 60; seed++) {
        ebb_plan_t plan[4] = {0};
        fill(seed, 96, g);
        fill_sizes(seed, 4, size);
        ebb_plan_horizon_t h = {.n = 96, .slot_s = 1800, .g_per_kwh = g};
        ebb_plan_job_t job = {.sizes = size,
                              .n_sizes = 4,
                              .base = (int64_t)(seed % 4),
                              .restart_s = 90,
                              .restart_j = 5e4,
                              .resize_s = 30,
                              .resize_j = 1e4,
                              .idle_w = seed % 2 ? 20 : 0,
                              .pue = 1.2,
                              .max_wait_s = seed % 3 ? 0 : 6 * 3600,
                              .time_weight_g = seed % 5 ? 0 : 3};
        job.work = size[job.base].rate * 1800 * (2 + 60 * draw(seed, 9));
        for (int p = 0; p < 4; p++)
            make((ebb_plan_policy_t)p, &h, &job, &plan[p]);
        for (int p = 1; p < 4; p++)
            if (!(plan[p].cost <= plan[p - 1].cost * (1 + 1e-9)))
                fail_msg("seed %d: %s %.9g above %s %.9g", (int)seed, ebb_plan_policy_name((ebb_plan_policy_t)p),
                         plan[p].cost, ebb_plan_policy_name((ebb_plan_policy_t)(p - 1)), plan[p - 1].cost);
        for (int p = 0; p < 4; p++)
            ebb_plan_free(&plan[p]);
    }
}

/* ---- limits ---- */

static void a_deadline_that_cannot_be_met_is_run_at_once_and_said(void **state)
{
    const double g[] = {500, 1, 1, 1, 1, 1, 1, 1};
    ebb_plan_size_t size[2] = {{1, 1, 100}, {4, 2, 500}};
    ebb_plan_horizon_t h = {.n = 8, .slot_s = 3600, .g_per_kwh = g};
    ebb_plan_job_t job = {.work = 4 * 3600, .sizes = size, .n_sizes = 2, .deadline_s = 3 * 3600};
    ebb_plan_t plan = {0};
    make(EBB_PLAN_PAUSE, &h, &job, &plan);
    assert_true(plan.late && plan.start_s == 0 && plan.end_s == 4 * 3600);
    make(EBB_PLAN_ELASTIC, &h, &job, &plan);
    assert_true(!plan.late && plan.end_s <= 3 * 3600 + 1e-6);
    job.max_power_w = 200;
    make(EBB_PLAN_ELASTIC, &h, &job, &plan);
    assert_true(plan.late && plan.segment[0].size == 0);
    job.deadline_s = 1800;
    job.max_power_w = 0;
    make(EBB_PLAN_ELASTIC, &h, &job, &plan);
    assert_true(plan.late && plan.segment[0].size == 1 && plan.end_s == 2 * 3600);
    ebb_plan_free(&plan);
}

static void price_and_time_weights_move_the_plan(void **state)
{
    const double g[] = {100, 100, 100, 90}, price[] = {0.4, 0.1, 0.4, 0.4};
    ebb_plan_horizon_t h = {.n = 4, .slot_s = 3600, .g_per_kwh = g, .price_per_kwh = price};
    ebb_plan_job_t job = {.work = 3600, .sizes = &one_size, .n_sizes = 1};
    ebb_plan_t plan = {0};
    make(EBB_PLAN_DEFER, &h, &job, &plan);
    assert_true(plan.start_s == 3 * 3600 && fabs(plan.price - 0.4) < 1e-12);
    job.price_weight = 100;
    make(EBB_PLAN_DEFER, &h, &job, &plan);
    assert_true(plan.start_s == 3600 && fabs(plan.price - 0.1) < 1e-12 && fabs(plan.grams - 100) < 1e-9);
    job.time_weight_g = 50;
    make(EBB_PLAN_PAUSE, &h, &job, &plan);
    assert_true(plan.start_s == 0);
    ebb_plan_free(&plan);
}

static void wrong_arguments_are_named(void **state)
{
    double g[] = {100, NAN};
    ebb_plan_size_t size = one_size;
    ebb_plan_horizon_t h = {.n = 2, .slot_s = 3600, .g_per_kwh = g};
    ebb_plan_job_t job = {.work = 3600, .sizes = &size, .n_sizes = 1};
    ebb_plan_t plan = {0};
    assert_fails(ebb_plan_make(planner, EBB_PLAN_PAUSE, &h, &job, &plan), EBB_EINVAL, "slot 1");
    g[1] = 100;
    job.work = -1;
    assert_fails(ebb_plan_make(planner, EBB_PLAN_PAUSE, &h, &job, &plan), EBB_EINVAL, "work is -1");
    job.work = 1;
    job.pue = 0.5;
    assert_fails(ebb_plan_make(planner, EBB_PLAN_PAUSE, &h, &job, &plan), EBB_EINVAL, "pue is 0.5");
    job.pue = 0;
    job.max_power_w = 10;
    assert_fails(ebb_plan_make(planner, EBB_PLAN_PAUSE, &h, &job, &plan), EBB_EINVAL, "above the limit of 10 W");
    job.max_power_w = 0;
    h.n = 0;
    assert_fails(ebb_plan_make(planner, EBB_PLAN_PAUSE, &h, &job, &plan), EBB_EINVAL, "at least one slot");
    h.n = 2;
    assert_fails(ebb_plan_make(planner, (ebb_plan_policy_t)9, &h, &job, &plan), EBB_EINVAL, "no policy 9");
    size.rate = 0;
    assert_fails(ebb_plan_make(planner, EBB_PLAN_PAUSE, &h, &job, &plan), EBB_EINVAL, "1 ranks: rate 0");
    ebb_plan_free(&plan);
}

static void out_of_memory_is_an_error_and_the_planner_goes_on(void **state)
{
    double g[50];
    ebb_plan_size_t size[3];
    fill(1, 50, g);
    fill_sizes(1, 3, size);
    ebb_plan_horizon_t h = {.n = 50, .slot_s = 3600, .g_per_kwh = g};
    ebb_plan_job_t job = {.work = 9000, .sizes = size, .n_sizes = 3, .restart_j = 100, .resize_j = 100};
    for (int n = 0; n < 100; n++) {
        ebb_planner_t *fresh;
        ebb_plan_t plan = {0};
        assert_ok(ebb_planner_create(&fresh));
        ebb_alloc_fail_after(n);
        ebb_status_t status = ebb_plan_make(fresh, EBB_PLAN_ELASTIC, &h, &job, &plan);
        ebb_alloc_fail_after(-1);
        if (status != EBB_OK) {
            assert_int_equal(status, EBB_ENOMEM);
            ebb_error_clear();
            assert_ok(ebb_plan_make(fresh, EBB_PLAN_ELASTIC, &h, &job, &plan));
        }
        ebb_plan_free(&plan);
        ebb_planner_destroy(fresh);
        if (status == EBB_OK)
            return;
    }
    fail_msg("more than 100 allocations for a plan");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(least_window_and_sum_equal_exhaustive_search),
        cmocka_unit_test(asap_runs_at_once_and_is_charged_with_pue),
        cmocka_unit_test(defer_equals_a_scan_of_all_starts),
        cmocka_unit_test(pause_without_costs_takes_the_cheapest_slots_and_a_part_of_the_dearest),
        cmocka_unit_test(pause_with_costs_equals_exhaustive_search),
        cmocka_unit_test(elastic_without_costs_attains_its_dual),
        cmocka_unit_test(elastic_with_costs_is_near_exhaustive_search_and_not_below_its_bound),
        cmocka_unit_test(elastic_is_never_worse_than_pause_nor_pause_than_defer_nor_defer_than_asap),
        cmocka_unit_test(a_deadline_that_cannot_be_met_is_run_at_once_and_said),
        cmocka_unit_test(price_and_time_weights_move_the_plan),
        cmocka_unit_test(wrong_arguments_are_named),
        cmocka_unit_test(out_of_memory_is_an_error_and_the_planner_goes_on),
    };
    if (ebb_planner_create(&planner) != EBB_OK)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ebb_planner_destroy(planner);
    return failed;
}
