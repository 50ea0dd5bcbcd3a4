/* The order of blocks: a permutation, whichever way it is asked, of which every run has its share of every part. */
#include "support.h"
#include "loader/strata.h"

#include <stdlib.h>

static ebb_order_t order_of_blocks(int64_t n, int32_t window)
{
    return (ebb_order_t){.rows = n * 40,
                         .lanes = 4,
                         .batch = 160,
                         .block_rows = 40,
                         .window_blocks = window,
                         .seed = 5,
                         .shuffle = true};
}

static ebb_strata_t strata_of(const ebb_order_t *order, int64_t epoch, int64_t n)
{
    ebb_order_epoch_t e = {.order = order, .epoch = epoch};
    ebb_strata_t s;
    ebb_strata_init(&s, &e, n);
    return s;
}

static void check_permutation(const ebb_strata_t *s)
{
    uint32_t *room = calloc((size_t)(s->n + 3 * s->each), 4), *block = calloc((size_t)s->n, 4);
    char *seen = calloc((size_t)s->n, 1);
    ebb_strata_table(s, room, block);
    for (int64_t p = 0; p < s->n; p++) {
        assert_in_range(block[p], 0, s->n - 1);
        assert_int_equal(seen[block[p]]++, 0);
        assert_int_equal(ebb_strata_block(s, p), block[p]);
        assert_int_equal(ebb_strata_place(s, block[p]), p);
    }
    free(room);
    free(block);
    free(seen);
}

static void table_block_and_place_agree_on_one_permutation(void **state)
{
    static const int64_t sizes[] = {1, 2, 3, 95, 96, 97, 191, 192, 193, 288, 289, 1000, 8191};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int32_t window = 1; window <= 100; window += 33) {
            int64_t n = sizes[i];
            ebb_order_t order = order_of_blocks(n, window);
            ebb_strata_t s = strata_of(&order, 2, n);
            check_permutation(&s);
        }
}

static void a_thousand_million_blocks_convert_both_ways(void **state)
{
    const int64_t n = 1000000007;
    ebb_order_t order = order_of_blocks(n, 96);
    ebb_strata_t s = strata_of(&order, 0, n);
    for (int64_t p = 0; p < n; p += n / 1000)
        assert_int_equal(ebb_strata_place(&s, ebb_strata_block(&s, p)), p);
    assert_int_equal(ebb_strata_block(&s, ebb_strata_place(&s, n - 1)), n - 1);
}

/* Of w successive places, those that lie in the first x of n blocks are w * x / n, give or take a few. */
static void every_run_has_its_share_of_every_part(void **state)
{
    enum { N = 4000, PARTS = 10 };
    ebb_order_t order = order_of_blocks(N, 96);
    for (int64_t epoch = 0; epoch < 3; epoch++) {
        ebb_strata_t s = strata_of(&order, epoch, N);
        for (int64_t begin = 0; begin < N - 96; begin += 7)
            for (int64_t w = 24; w <= 96; w += 24)
                for (int64_t part = 1; part < PARTS; part++) {
                    int64_t here = 0;
                    for (int64_t p = begin; p < begin + w; p++)
                        here += ebb_strata_block(&s, p) < N * part / PARTS;
                    assert_in_range(here * PARTS + 3 * PARTS, w * part, w * part + 6 * PARTS);
                }
    }
}

/* Of the windows that all lanes have at a time, blocks in the first x of n are their number * x / n, give or take
 * three: that of chance is 35, that of lanes on their own, each with its share of every part, 5 and at times three
 * times that. */
static void windows_of_all_lanes_together_have_their_share_nearly_to_the_block(void **state)
{
    enum { LANES = 24, WINDOW = 96, TURNS = 5, N = LANES * WINDOW * TURNS, PARTS = 300 };
    ebb_order_t order = order_of_blocks(N, WINDOW);
    order.lanes = LANES;
    order.batch = (int64_t)LANES * 40;
    for (int64_t epoch = 0; epoch < 3; epoch++) {
        ebb_strata_t s = strata_of(&order, epoch, N);
        for (int64_t time = 0; time <= (TURNS - 1) * WINDOW; time += 16) {
            int64_t here[PARTS] = {0}, before = 0;
            for (int64_t l = 0; l < LANES; l++)
                for (int64_t p = 0; p < WINDOW; p++)
                    here[ebb_strata_block(&s, l * (N / LANES) + time + p) * PARTS / N]++;
            for (int64_t part = 0; part < PARTS; part++) {
                assert_in_range(before * PARTS + 3 * PARTS, part * LANES * WINDOW, part * LANES * WINDOW + 6 * PARTS);
                before += here[part];
            }
        }
    }
}

/* A group of a lane that has many: a permutation, and converts both ways, wherever it lies. */
static void groups_of_a_lane_are_permuted_too(void **state)
{
    ebb_order_t order = order_of_blocks(9000, 96);
    ebb_order_epoch_t e = {.order = &order, .epoch = 1, .blocks = 9000};
    for (int64_t n = 280; n < 300; n++)
        for (int64_t begin = 0; begin + n * 40 <= order.rows; begin += 9973) {
            ebb_strata_t s;
            ebb_strata_init_part(&s, &e, n, begin, n * 40);
            check_permutation(&s);
        }
}

/* Any two blocks of different strata share a round as often as chance has it. */
static void strata_are_shuffled_independently(void **state)
{
    enum { N = 960, EPOCHS = 4000 };
    ebb_order_t order = order_of_blocks(N, 96);
    int together = 0;
    for (int64_t epoch = 0; epoch < EPOCHS; epoch++) {
        ebb_strata_t s = strata_of(&order, epoch, N);
        together += ebb_strata_place(&s, 7) / s.each == ebb_strata_place(&s, 507) / s.each;
    }
    ebb_strata_t s = strata_of(&order, 0, N);
    double wanted = (double)EPOCHS / (double)s.rounds;
    assert_in_range(together, (int)(wanted * 0.8), (int)(wanted * 1.2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table_block_and_place_agree_on_one_permutation),
        cmocka_unit_test(a_thousand_million_blocks_convert_both_ways),
        cmocka_unit_test(every_run_has_its_share_of_every_part),
        cmocka_unit_test(windows_of_all_lanes_together_have_their_share_nearly_to_the_block),
        cmocka_unit_test(groups_of_a_lane_are_permuted_too),
        cmocka_unit_test(strata_are_shuffled_independently),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
