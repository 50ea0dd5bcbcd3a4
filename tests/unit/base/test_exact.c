/* Exact sums, counter-based random numbers, permutations. */
#include "support.h"
#include "base/exact.h"
#include "base/rng.h"

#include <math.h>

static void sum_is_the_nearest_double_and_any_order_gives_the_same_words(void **state)
{
    double v[1000];
    for (int i = 0; i < 1000; i++)
        v[i] = ldexp((double)ebb_rng_normal(1, EBB_RNG_TEST, (uint64_t)i, 0), (int)(ebb_rng_u64(1, EBB_RNG_TEST, (uint64_t)i, 1) % 80) - 40);
    ebb_exact_t forward = {0}, a = {0}, b = {0};
    __float128 reference = 0; /* 113 bits: exact enough to round these to double correctly */
    for (int i = 0; i < 1000; i++) {
        ebb_exact_add(&forward, v[i]);
        ebb_exact_add(i % 3 ? &a : &b, v[999 - i]);
        reference += v[i];
    }
    ebb_exact_merge(&a, &b);
    ebb_exact_normalize(&a);
    ebb_exact_normalize(&forward);
    assert_memory_equal(&a, &forward, sizeof a);
    assert_true(ebb_exact_value(&forward) == (double)reference);
}

static void huge_tiny_and_cancelling_terms_are_kept(void **state)
{
    ebb_exact_t s = {0};
    ebb_exact_add(&s, 1e308);
    ebb_exact_add(&s, 4.9406564584124654e-324);
    ebb_exact_add(&s, -1e308);
    assert_true(ebb_exact_value(&s) == 4.9406564584124654e-324);
    ebb_exact_add(&s, -1.0);
    assert_true(ebb_exact_value(&s) == -1.0);
    ebb_exact_add(&s, INFINITY);
    assert_true(isinf(ebb_exact_value(&s)));
    ebb_exact_add(&s, -INFINITY);
    assert_true(isnan(ebb_exact_value(&s)));
}

static void half_way_cases_round_to_even(void **state)
{
    ebb_exact_t s = {0};
    ebb_exact_add(&s, 1.0);
    ebb_exact_add(&s, 0x1p-53);
    assert_true(ebb_exact_value(&s) == 1.0);
    ebb_exact_add(&s, 0x1p-200);
    assert_true(ebb_exact_value(&s) == 1.0 + 0x1p-52);
}

/* Known answers of Random123's kat_vectors for philox4x32-10. */
static void philox_gives_the_published_answers(void **state)
{
    uint32_t out[4];
    ebb_philox((uint32_t[]){0, 0}, (uint32_t[]){0, 0, 0, 0}, out);
    assert_int_equal(out[0], 0x6627e8d5);
    assert_int_equal(out[3], 0x9b00dbd8);
    ebb_philox((uint32_t[]){0xffffffff, 0xffffffff}, (uint32_t[]){0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, out);
    assert_int_equal(out[0], 0x408f276d);
}

static void permutation_is_one_to_one_and_inverts(void **state)
{
    for (uint64_t n = 1; n < 3000; n = n * 3 / 2 + 1) {
        char *seen = calloc(n, 1);
        for (uint64_t i = 0; i < n; i++) {
            uint64_t p = ebb_permute(42, n, i);
            assert_true(p < n && !seen[p]);
            seen[p] = 1;
            assert_true(ebb_unpermute(42, n, p) == i);
        }
        free(seen);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sum_is_the_nearest_double_and_any_order_gives_the_same_words),
        cmocka_unit_test(huge_tiny_and_cancelling_terms_are_kept),
        cmocka_unit_test(half_way_cases_round_to_even),
        cmocka_unit_test(philox_gives_the_published_answers),
        cmocka_unit_test(permutation_is_one_to_one_and_inverts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
