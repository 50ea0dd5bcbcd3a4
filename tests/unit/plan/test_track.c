/* The track record of forecasts: what it corrects, and when it says that waiting is not worth it. */
#include "support.h"
#include "base/rng.h"
#include <ebb/plan.h>

#include <math.h>

#define BEGIN (86400 * (int64_t)20000)

static double curve(int64_t hour)
{
    return 300 + 100 * sin(6.283185307179586 * (double)(hour % 24) / 24);
}

static void a_new_track_trusts_the_forecast_and_changes_nothing(void **state)
{
    ebb_plan_track_t t = {0};
    double g[3] = {100, 200, 300};
    ebb_plan_track_correct(&t, BEGIN, 3600, 3, g);
    assert_true(g[0] == 100 && g[1] == 200 && g[2] == 300);
    assert_true(ebb_plan_track_skill(&t) == 1);
    assert_true(ebb_plan_is_worth_waiting(&t, 0.01) && !ebb_plan_is_worth_waiting(&t, 0.001));
}

static void the_last_error_is_carried_on_and_fades(void **state)
{
    ebb_plan_track_t t = {0};
    double g[48];
    for (int i = 0; i < 48; i++)
        g[i] = 200;
    ebb_plan_track_see(&t, BEGIN, 250, 200);
    ebb_plan_track_correct(&t, BEGIN, 3600, 48, g);
    assert_true(fabs(g[0] - 250) < 1e-9 && fabs(g[1] - 247.5) < 1e-9 && g[20] < g[10] && g[47] > 200);
    double low[1] = {1};
    ebb_plan_track_see(&t, BEGIN + 3600, 10, 200);
    ebb_plan_track_correct(&t, BEGIN + 3600, 3600, 1, low);
    assert_true(low[0] > 0);
    ebb_plan_track_see(&t, BEGIN + 7200, NAN, 200); /* not known: nothing is learnt */
    assert_int_equal(t.seen_until, BEGIN + 3600);
}

static void skill_is_the_share_of_differences_that_came_true(void **state)
{
    ebb_plan_track_t good = {0}, half = {0}, none = {0};
    for (int64_t h = 0; h < 24 * 40; h++) {
        double a = curve(h), noise = 300 + 100 * ebb_rng_uniform(1, EBB_RNG_TEST, (uint64_t)h, 0);
        ebb_plan_track_see(&good, BEGIN + 3600 * h, a, a + 20);
        ebb_plan_track_see(&half, BEGIN + 3600 * h, a, 2 * a - 300 + 100);
        ebb_plan_track_see(&none, BEGIN + 3600 * h, a, noise);
    }
    assert_true(fabs(ebb_plan_track_skill(&good) - 1) < 1e-6);
    assert_true(fabs(ebb_plan_track_skill(&half) - 0.5) < 1e-6);
    assert_true(ebb_plan_track_skill(&none) < 0.3);
    assert_true(ebb_plan_is_worth_waiting(&half, 0.011) && !ebb_plan_is_worth_waiting(&half, 0.009));
}

static void an_error_that_repeats_every_day_is_learnt_by_half(void **state)
{
    ebb_plan_track_t t = {0};
    for (int64_t h = 0; h < 24 * 200; h++)
        ebb_plan_track_see(&t, BEGIN + 3600 * h, 300, h % 24 == 5 ? 330 : 300);
    assert_true(t.bias[5] < -27 && t.bias[5] > -30 && t.bias[6] > 0 && t.bias[6] < 2);
    double g[1] = {330};
    t.error = 0;
    ebb_plan_track_correct(&t, BEGIN + 3600 * (24 * 200 + 5), 3600, 1, g);
    assert_true(g[0] < 317 && g[0] > 314);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_track_trusts_the_forecast_and_changes_nothing),
        cmocka_unit_test(the_last_error_is_carried_on_and_fades),
        cmocka_unit_test(skill_is_the_share_of_differences_that_came_true),
        cmocka_unit_test(an_error_that_repeats_every_day_is_learnt_by_half),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
