/* Learning-rate schedules and clipping against closed forms. */
#include "support.h"
#include <ebb/optim.h>

#include <math.h>

static void near(double a, double b)
{
    if (!(fabs(a - b) <= 1e-12))
        fail_msg("%.17g is not %.17g", a, b);
}

static void warm_up_is_linear_and_reaches_one_with_its_last_step(void **state)
{
    for (int kind = EBB_SCHEDULE_CONSTANT; kind <= EBB_SCHEDULE_COSINE; kind++) {
        ebb_schedule_t s = {
            .kind = (ebb_schedule_kind_t)kind, .warmup_steps = 8, .total_steps = 100, .every = 10, .factor = 0.5f};
        for (int64_t i = 0; i < 8; i++)
            near(ebb_schedule_factor(&s, i), (double)(i + 1) / 8);
        near(ebb_schedule_factor(&s, 8), 1.0);
    }
}

static void constant_stays_and_step_multiplies(void **state)
{
    ebb_schedule_t c = {.kind = EBB_SCHEDULE_CONSTANT};
    near(ebb_schedule_factor(&c, 0), 1.0);
    near(ebb_schedule_factor(&c, 1000000), 1.0);
    ebb_schedule_t s = {.kind = EBB_SCHEDULE_STEP, .warmup_steps = 3, .every = 10, .factor = 0.5f};
    near(ebb_schedule_factor(&s, 12), 1.0);
    near(ebb_schedule_factor(&s, 13), 0.5);
    near(ebb_schedule_factor(&s, 43), 0.0625);
    s.every = 0; /* never */
    near(ebb_schedule_factor(&s, 43), 1.0);
}

static void cosine_falls_from_one_through_the_middle_to_final(void **state)
{
    ebb_schedule_t s = {.kind = EBB_SCHEDULE_COSINE, .warmup_steps = 20, .total_steps = 120, .final = 0.25f};
    near(ebb_schedule_factor(&s, 20), 1.0);
    near(ebb_schedule_factor(&s, 70), 0.625);
    near(ebb_schedule_factor(&s, 45), 0.25 + 0.75 * 0.5 * (1 + sqrt(0.5)));
    near(ebb_schedule_factor(&s, 120), 0.25);
    near(ebb_schedule_factor(&s, 5000), 0.25);
    s.total_steps = 10; /* shorter than its warm-up: nothing left to fall over */
    near(ebb_schedule_factor(&s, 20), 0.25);
}

static void one_cycle_rises_to_its_peak_and_falls(void **state)
{
    ebb_schedule_t s = {.kind = EBB_SCHEDULE_ONE_CYCLE, .total_steps = 1000, .final = 0.001f, .peak_at = 0.25f};
    near(ebb_schedule_factor(&s, 0), 0.04);
    near(ebb_schedule_factor(&s, 125), 0.52);
    near(ebb_schedule_factor(&s, 250), 1.0);
    near(ebb_schedule_factor(&s, 625), 0.5 * (1 + (double)0.001f));
    near(ebb_schedule_factor(&s, 1000), (double)0.001f);
    s.peak_at = 0; /* default 0.3 */
    near(ebb_schedule_factor(&s, 300), 1.0);
}

static void clipping_scales_only_norms_above_the_bound(void **state)
{
    ebb_optim_options_t o = {.clip_norm = 2.0f};
    near(ebb_optim_clip(&o, 100.0, 0.1), 1.0);  /* norm 1 */
    near(ebb_optim_clip(&o, 1600.0, 0.1), 0.5); /* norm 4 */
    near(ebb_optim_clip(&o, 400.0, 0.1), 1.0);  /* norm 2 */
    o.clip_norm = 0;
    near(ebb_optim_clip(&o, 1600.0, 0.1), 1.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warm_up_is_linear_and_reaches_one_with_its_last_step),
        cmocka_unit_test(constant_stays_and_step_multiplies),
        cmocka_unit_test(cosine_falls_from_one_through_the_middle_to_final),
        cmocka_unit_test(one_cycle_rises_to_its_peak_and_falls),
        cmocka_unit_test(clipping_scales_only_norms_above_the_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
