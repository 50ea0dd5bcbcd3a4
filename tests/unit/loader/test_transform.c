/* Transforms of one row: log1p near a correctly rounded one, frozen bits, rows left alone. */
#include "support.h"
#include "base/hash.h"
#include "base/rng.h"
#include "loader/transform.h"

#include <math.h>

static void log1p_is_within_one_unit_in_the_last_place(void **state)
{
    ebb_transform_t t = {.log1p = true};
    for (uint32_t i = 0; i < 200000; i++) {
        float x = ldexpf(1 + ebb_rng_uniform(1, EBB_RNG_TEST, i, 0), (int)(i % 120) - 60), got = x;
        if (i % 7 == 0 && x < 1)
            got = x = -x;
        ebb_transform_row(&t, &got, 1);
        double want = log1p((double)x);
        assert_true(fabs((double)got - want) <= 0.6 * fabs(want) * 0x1p-23);
    }
}

static void log1p_of_special_values(void **state)
{
    float v[] = {0, -1, -2, INFINITY, NAN, 1e-40f, 3.4e38f};
    ebb_transform_t t = {.log1p = true};
    ebb_transform_row(&t, v, 7);
    assert_true(v[0] == 0 && v[1] == -INFINITY && isnan(v[2]) && v[3] == INFINITY && isnan(v[4]));
    assert_true(v[5] == 1e-40f);
    assert_true(fabsf(v[6] - 88.72f) < 0.01f);
}

static void rows_of_zeros_and_empty_rows_stay(void **state)
{
    float zero[9] = {0};
    ebb_transform_t t = {.row_sum = 1e4f, .log1p = true, .row_l2 = true, .scale = 2};
    ebb_transform_row(&t, zero, 9);
    ebb_transform_row(&t, zero, 0);
    for (int i = 0; i < 9; i++)
        assert_true(zero[i] == 0);
}

static void bits_never_change(void **state)
{
    float v[1000];
    ebb_transform_t t = {.row_sum = 1e4f, .log1p = true, .row_l2 = true, .scale = 0.25f};
    for (uint32_t i = 0; i < 1000; i++)
        v[i] = 50 * ebb_rng_uniform(2, EBB_RNG_TEST, i, 0);
    for (int n = 1, at = 0; at + n <= 1000; at += n, n += 3)
        ebb_transform_row(&t, v + at, n);
    assert_true(ebb_xxh3(v, sizeof v) == 0x191a6213152aebb8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(log1p_is_within_one_unit_in_the_last_place),
        cmocka_unit_test(log1p_of_special_values),
        cmocka_unit_test(rows_of_zeros_and_empty_rows_stay),
        cmocka_unit_test(bits_never_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
