/* Every rank gets as many non-zeros in a step as the others, of the most skewed data too. */
#include "support.h"
#include "balance.h"

/* 99 of 100 steps within 2 % for 2, 4 and 8 ranks, in any epoch, whether rows come sorted by length or not; the plain
 * shuffle is far from it. */
static void check(int64_t rows, int64_t batch, double sigma, bool sorted)
{
    made_rows_t m;
    ebb_order_t o = {.lanes = 24, .batch = batch, .seed = 5, .shuffle = true};
    make_rows(rows, 100, sigma, sorted, &m);
    assert_ok(ebb_order_init(&o, &m.info));
    ebb_order_t plain = o;
    plain.profile = NULL;
    size_t n = (size_t)(ebb_order_steps(&o) * o.lanes);
    double *load = calloc(n, sizeof *load), *before = calloc(n, sizeof *before), sum = 0, all = 0;
    lane_loads(&o, &m, 3, true, load);
    lane_loads(&plain, &m, 3, false, before);
    for (int ranks = 2; ranks <= 8; ranks *= 2) {
        balance_t b = balance_of(&o, load, ranks), a = balance_of(&o, before, ranks);
        print_message("%s, sigma %.1f, %d ranks: max / mean of non-zeros at p99 %.4f, plain %.3f\n",
                      sorted ? "sorted" : "as they come", sigma, ranks, b.p99, a.p99);
        assert_true(b.p99 <= 1.02);
        assert_true(a.p99 > 1.02 && b.mean < a.mean);
    }
    for (size_t i = 0; i < n; i++)
        sum += load[i];
    for (int64_t r = 0; r < rows; r++)
        all += m.length[r];
    assert_true(sum == all); /* nothing lost, nothing twice */
    free(load);
    free(before);
    free_rows(&m);
}

static void ranks_get_the_same_non_zeros_of_skewed_rows(void **state)
{
    check(300000, 2048, 1, true);
    check(300000, 2048, 1, false);
    check(300000, 4096, 1.5, true);
    check(300000, 4096, 1.5, false);
}

/* A row comes to each step of its window with the same probability: that of the longest, over many epochs, in eighths
 * of the window. */
static void the_longest_row_comes_to_any_step(void **state)
{
    enum { EPOCHS = 800, CELLS = 8 };
    made_rows_t m;
    int64_t count[CELLS] = {0}, longest = 0, n = 0;
    ebb_order_t o = {.lanes = 1, .batch = 40, .block_rows = 40, .window_blocks = 40, .shuffle = true};
    ebb_dealer_t *d = calloc(1, sizeof *d);
    make_rows(1600, 100, 1.5, false, &m);
    assert_ok(ebb_order_init(&o, &m.info));
    assert_ok(ebb_dealer_init(d, &o));
    for (int64_t r = 0; r < m.rows; r++)
        longest = m.length[r] > m.length[longest] ? r : longest;
    uint32_t *row = calloc((size_t)m.rows, sizeof *row);
    for (int64_t epoch = 0; epoch < EPOCHS; epoch++) {
        ebb_order_epoch_t e;
        ebb_order_window_t *w = &d->lane[0].other;
        ebb_order_epoch_init(&o, epoch, &e);
        assert_ok(ebb_order_window_at(&e, &d->group, 0, 0, w));
        d->lane[0].window = w;
        for (int64_t at = 0; at < w->rows; at++)
            ebb_dealer_lengths(d, 0)[at] = length_in_window(&o, &m, w, (uint32_t)at);
        assert_true(ebb_deal_windows(d, 1));
        ebb_dealt_rows(d, 0, row);
        for (int64_t i = 0; i < w->rows; i++)
            if (ebb_dealer_lengths(d, 0)[row[i]] == m.length[longest]) {
                count[i * CELLS / w->rows]++;
                n++;
            }
    }
    double chi = 0, expected = (double)n / CELLS;
    for (int c = 0; c < CELLS; c++)
        chi += ((double)count[c] - expected) * ((double)count[c] - expected) / expected;
    print_message("chi-square %.1f for 7 degrees of freedom\n", chi);
    assert_true(n >= EPOCHS / 4 && chi < 7 + 5 * sqrt(14));
    free(row);
    ebb_dealer_free(d);
    free(d);
    free_rows(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_get_the_same_non_zeros_of_skewed_rows),
        cmocka_unit_test(the_longest_row_comes_to_any_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
