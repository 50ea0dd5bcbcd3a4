/* Copying of rows: every level gives the same, for every length; nothing outside rows and their slack is touched. */
#include "support.h"
#include "loader/blocks.h"
#include "loader/copy.h"

enum { ROWS = 300, MOST = 1300 };

static void every_level_copies_every_length(void **state)
{
    static int64_t to[ROWS + 1];
    static const int32_t *col_from[ROWS];
    static const float *val_from[ROWS];
    for (int64_t r = 0; r < ROWS; r++)
        to[r + 1] = to[r] + (r < 80 ? r : (r * 37) % (r % 50 == 0 ? MOST : 70));
    int64_t n = to[ROWS];
    int32_t *in = malloc((size_t)(n + MOST + EBB_COPY_SLACK) * 4), *col = malloc((size_t)(n + EBB_COPY_SLACK) * 4);
    float *reals = malloc((size_t)(n + MOST + EBB_COPY_SLACK) * 4), *val = malloc((size_t)(n + EBB_COPY_SLACK) * 4);
    for (int64_t i = 0; i < n + MOST + EBB_COPY_SLACK; i++) {
        in[i] = (int32_t)(i * 2654435761u);
        reals[i] = (float)i;
    }
    for (int64_t r = 0; r < ROWS; r++) {
        col_from[r] = in + (r * 7919) % n;
        val_from[r] = reals + (r * 104729) % n;
    }
    for (int level = 0; level <= 2; level++) {
        const ebb_copy_t copy = {ROWS, to, col_from, val_from, col, val};
        ebb_copy_level(level);
        memset(col, 1, (size_t)n * 4);
        memset(val, 1, (size_t)n * 4);
        for (int64_t r = 0; r < ROWS; r += 100)
            ebb_copy_rows(&copy, r, r + 100);
        for (int64_t r = 0; r < ROWS; r++) {
            assert_memory_equal(col + to[r], col_from[r], (size_t)(to[r + 1] - to[r]) * 4);
            assert_memory_equal(val + to[r], val_from[r], (size_t)(to[r + 1] - to[r]) * 4);
        }
    }
    ebb_copy_level(2);
    free(in);
    free(col);
    free(reals);
    free(val);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_level_copies_every_length)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
