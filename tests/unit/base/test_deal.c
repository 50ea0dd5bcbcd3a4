/* Dealing: the bucket of a sum is that of a division. */
#include "support.h"
#include "base/deal.h"
#include "base/rng.h"

static int64_t divided(int64_t sum, int64_t width)
{
    int64_t q = sum / width, half = EBB_DEAL_BUCKETS / 2;
    return q < -half ? 0 : q >= half ? EBB_DEAL_BUCKETS - 1 : q + half;
}

static void check(const ebb_deal_t *d, int64_t sum, int64_t width)
{
    assert_int_equal(ebb_deal_bucket(d, sum), divided(sum, width));
    assert_int_equal(ebb_deal_bucket(d, -sum), divided(-sum, width));
}

static void the_bucket_of_a_sum_is_its_quotient_by_the_width(void **state)
{
    static const int64_t widths[] = {
        1,       2,       3,         5,         7,         10,        64, 1000, 4095, 65537, 1000003, (1 << 26) - 1,
        1 << 26, 1 << 27, 999999937, INT32_MAX, 1ll << 40, 1ll << 51,
    };
    ebb_deal_t *d = calloc(1, sizeof *d);
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
        int64_t width = widths[w];
        ebb_deal_begin(d, NULL, width);
        for (int64_t k = 0; k <= EBB_DEAL_BUCKETS / 2; k++)
            for (int64_t off = -2; off <= 2; off++)
                check(d, k * width + off, width);
        for (uint64_t i = 0; i < 10000; i++)
            check(d, (int64_t)(ebb_rng_u64(3, EBB_RNG_TEST, w, i) >> (1 + i % 63)), width);
        check(d, INT64_MAX, width);
    }
    free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bucket_of_a_sum_is_its_quotient_by_the_width),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
