/* The loader over shards on disk: rows as they were written, over several shards, whatever the type, threads and
 * memory. */
#include "shards.h"
#include <ebb/loader.h>

static void check_row(const ebb_dataset_plan_t *plan, const ebb_batch_t *b, int64_t r, int32_t *col, float *val)
{
    int64_t row = b->row[r];
    if (plan->sparse) {
        int64_t n = made_row(plan, row, col, val);
        assert_int_equal(b->rowptr[r + 1] - b->rowptr[r], n);
        assert_memory_equal(b->col + b->rowptr[r], col, (size_t)n * sizeof *col);
        assert_memory_equal(b->val + b->rowptr[r], val, (size_t)n * sizeof *val);
    } else {
        for (int64_t c = 0; c < plan->cols; c++)
            assert_true(b->x[r * plan->cols + c] == made_value(plan, row, c));
    }
    assert_int_equal(b->label[r], made_label(plan, row));
}

/* own: blocks as the data set has them. */
static void check_columns(bool sparse, int64_t cols, ebb_value_type_t type, int threads, bool kept, bool own)
{
    char *dir = test_mkdir();
    ebb_dataset_plan_t plan = made_plan(sparse, type, 4001, cols);
    ebb_dataset_t *ds;
    ebb_loader_t *l;
    const ebb_batch_t *b;
    ebb_loader_options_t options = {
        .order = {.lanes = 5, .batch = 250, .block_rows = 48, .window_blocks = 3, .seed = 11, .shuffle = true},
        .threads = threads,
        .memory_bytes = kept ? 0 : 6 << 20};
    int32_t *col = malloc(40000 * sizeof *col);
    float *val = malloc(40000 * sizeof *val);
    char *seen = calloc(4001, 1);
    plan.shard_rows = 1300;
    make_dataset(dir, &plan, 1, 500);
    assert_ok(ebb_dataset_open(dir, NULL, &ds));
    if (own) {
        options.order.blocks = ebb_dataset_info(ds)->blocks;
        options.order.block_rows = options.order.blocks->max_rows;
        options.memory_bytes = kept ? 0 : 16 << 20;
    }
    assert_ok(ebb_loader_create(ds, &options, &l));
    for (int epoch = 0; epoch < 2; epoch++) {
        int64_t rows = 0;
        ebb_status_t status;
        while ((status = ebb_loader_acquire(l, &b)) == EBB_OK) {
            for (int64_t r = 0; r < b->rows; r++, rows++) {
                check_row(&plan, b, r, col, val);
                assert_int_equal(seen[b->row[r]], epoch);
                seen[b->row[r]]++;
            }
            ebb_loader_release(l, b);
        }
        assert_int_equal(status, EBB_END);
        assert_int_equal(rows, 4001);
    }
    ebb_loader_destroy(l);
    ebb_dataset_close(ds);
    free(col);
    free(val);
    free(seen);
    test_rmdir(dir);
}

static void check(bool sparse, ebb_value_type_t type, int threads, bool kept, bool own)
{
    check_columns(sparse, sparse ? 5000 : 37, type, threads, kept, own);
}

static void sparse_rows_arrive_as_they_were_written(void **state)
{
    check(true, EBB_F32, 1, true, false);
    check(true, EBB_U8, 2, false, false);
    check(true, EBB_F32, 1, true, true);
    check(true, EBB_U16, 2, false, true);
    check(true, EBB_U8, 1, false, true);
    check(true, EBB_I16, 2, true, true);
    check(true, EBB_F16, 1, false, true);
}

/* Columns of one to four bytes; rows that are short and lie side by side, or long and lie in planes (20,000 columns and
 * more); ends of rows beyond their chunk, and rows longer than chunks (70,000 columns). */
static void sparse_rows_of_any_number_of_columns_arrive_as_they_were_written(void **state)
{
    check_columns(true, 200, EBB_U8, 1, false, true);
    check_columns(true, 256, EBB_F32, 2, false, true);
    check_columns(true, 2000000, EBB_U8, 2, false, true);
    check_columns(true, 2000000, EBB_F16, 1, true, true);
    check_columns(true, 20000000, EBB_F32, 1, false, true);
    check_columns(true, 22000, EBB_U8, 2, true, true);
    check_columns(true, 70000, EBB_I16, 1, true, true);
}

static void dense_rows_arrive_as_they_were_written(void **state)
{
    check(false, EBB_F16, 2, true, false);
    check(false, EBB_F32, 1, false, false);
    check(false, EBB_I8, 1, false, true);
    check(false, EBB_U16, 2, true, true);
    check(false, EBB_F32, 1, false, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sparse_rows_arrive_as_they_were_written),
        cmocka_unit_test(sparse_rows_of_any_number_of_columns_arrive_as_they_were_written),
        cmocka_unit_test(dense_rows_arrive_as_they_were_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
