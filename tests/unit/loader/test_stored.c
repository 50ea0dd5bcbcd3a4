/* Batches in the types of the shards: the same rows and numbers as batches of floats, for every type and layout. */
#include "shards.h"
#include <ebb/loader.h>

#include <math.h>
#include <stdio.h>

enum { ROWS = 4001 };

static double half(uint16_t h)
{
    int exponent = h >> 10 & 31;
    double m = exponent > 0 ? ldexp(1024 + (h & 1023), exponent - 25) : ldexp(h & 1023, -24);
    return h & 0x8000 ? -m : m;
}

/* Read here, not by the library. */
static double number(ebb_value_type_t type, const void *p, int64_t i)
{
    switch (type) {
    case EBB_F32: return ((const float *)p)[i];
    case EBB_F16: return half(((const uint16_t *)p)[i]);
    case EBB_U8: return ((const uint8_t *)p)[i];
    case EBB_I8: return ((const int8_t *)p)[i];
    case EBB_U16: return ((const uint16_t *)p)[i];
    case EBB_I16: return ((const int16_t *)p)[i];
    case EBB_I32: return ((const int32_t *)p)[i];
    }
    return NAN;
}

static void check_types(const ebb_dataset_info_t *info, const ebb_batch_t *b)
{
    ebb_value_type_t columns = info->cols <= 65536 ? EBB_U16 : EBB_I32;
    assert_int_equal(b->value_type, info->value_type);
    assert_ptr_equal(b->val, info->sparse && info->value_type == EBB_F32 ? b->values : NULL);
    assert_ptr_equal(b->x, !info->sparse && info->value_type == EBB_F32 ? b->values : NULL);
    if (!info->sparse)
        return;
    assert_int_equal(b->column_type, columns);
    assert_ptr_equal(b->col, columns == EBB_I32 ? b->columns : NULL);
}

static void check_batch(const ebb_dataset_info_t *info, const ebb_batch_t *wide, const ebb_batch_t *b)
{
    int64_t n = info->sparse ? wide->nnz : wide->rows * info->cols;
    const float *values = info->sparse ? wide->val : wide->x;
    int32_t *col = malloc((size_t)n * sizeof *col + 1);
    float *val = malloc((size_t)n * sizeof *val + 1);
    assert_true(wide->epoch == b->epoch && wide->step == b->step && wide->rows == b->rows && wide->nnz == b->nnz);
    assert_memory_equal(b->row, wide->row, (size_t)b->rows * sizeof *b->row);
    assert_memory_equal(b->label, wide->label, (size_t)b->rows * sizeof *b->label);
    assert_memory_equal(b->lanes, wide->lanes, (size_t)b->n_lanes * sizeof *b->lanes);
    assert_ptr_equal(wide->values, values);
    assert_ptr_equal(wide->columns, wide->col);
    check_types(info, b);
    for (int64_t i = 0; i < n; i++)
        assert_true(number(b->value_type, b->values, i) == (double)values[i]);
    ebb_batch_widen(b, n / 3, n - n / 3, info->sparse ? col : NULL, val);
    assert_memory_equal(val, values + n / 3, (size_t)(n - n / 3) * sizeof *val);
    if (info->sparse) {
        assert_memory_equal(b->rowptr, wide->rowptr, (size_t)(b->rows + 1) * sizeof *b->rowptr);
        assert_memory_equal(col, wide->col + n / 3, (size_t)(n - n / 3) * sizeof *col);
        for (int64_t i = 0; i < n; i++)
            assert_true(number(b->column_type, b->columns, i) == (double)wide->col[i]);
    }
    free(col);
    free(val);
}

/* Two epochs of both side by side; returns the rows that were left out. */
static int64_t compare(const ebb_dataset_t *ds, ebb_loader_options_t options)
{
    ebb_loader_t *wide_loader, *stored_loader;
    const ebb_batch_t *wide, *stored;
    ebb_loader_stats_t a, b;
    int64_t rows = 0;
    assert_ok(ebb_loader_create(ds, &options, &wide_loader));
    options.stored = true;
    assert_ok(ebb_loader_create(ds, &options, &stored_loader));
    for (int epoch = 0; epoch < 2; epoch++) {
        ebb_status_t status;
        while ((status = ebb_loader_acquire(wide_loader, &wide)) == EBB_OK) {
            assert_ok(ebb_loader_acquire(stored_loader, &stored));
            check_batch(ebb_dataset_info(ds), wide, stored);
            rows += stored->rows;
            ebb_loader_release(wide_loader, wide);
            ebb_loader_release(stored_loader, stored);
        }
        assert_int_equal(status, EBB_END);
        assert_int_equal(ebb_loader_acquire(stored_loader, &stored), EBB_END);
    }
    ebb_loader_stats(wide_loader, &a);
    ebb_loader_stats(stored_loader, &b);
    assert_int_equal(a.rows_skipped, b.rows_skipped);
    assert_int_equal(rows + b.rows_skipped, 2 * ROWS);
    ebb_loader_destroy(wide_loader);
    ebb_loader_destroy(stored_loader);
    return b.rows_skipped;
}

static ebb_loader_options_t options_of(const ebb_dataset_t *ds, bool own, int threads)
{
    ebb_loader_options_t options = {
        .order = {.lanes = 5, .batch = 250, .block_rows = 48, .window_blocks = 3, .seed = 11, .shuffle = true},
        .threads = threads,
        .memory_bytes = 24 << 20};
    if (own) { /* blocks as the data set has them */
        options.order.blocks = ebb_dataset_info(ds)->blocks;
        options.order.block_rows = options.order.blocks->max_rows;
    }
    return options;
}

static ebb_dataset_t *make(char **dir_p, bool sparse, ebb_value_type_t type, int64_t cols)
{
    ebb_dataset_plan_t plan = made_plan(sparse, type, ROWS, cols);
    ebb_dataset_t *ds;
    *dir_p = test_mkdir();
    plan.shard_rows = 1300;
    make_dataset(*dir_p, &plan, 1, 500);
    assert_ok(ebb_dataset_open(*dir_p, NULL, &ds));
    return ds;
}

static void check(bool sparse, ebb_value_type_t type, int64_t cols)
{
    char *dir;
    ebb_dataset_t *ds = make(&dir, sparse, type, cols);
    for (int own = 0; own < 2; own++)
        assert_int_equal(compare(ds, options_of(ds, own, 1 + own)), 0);
    ebb_dataset_close(ds);
    test_rmdir(dir);
}

static const ebb_value_type_t types[] = {EBB_F32, EBB_F16, EBB_U8, EBB_I8, EBB_U16, EBB_I16, EBB_I32};

static void dense_rows_of_every_type_are_those_of_float_batches(void **state)
{
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        check(false, types[t], 37);
}

static void short_sparse_rows_are_those_of_float_batches(void **state)
{
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        check(true, types[t], 5000);
    check(true, EBB_U8, 200);
    check(true, EBB_U8, 65536);
    check(true, EBB_U8, 65537);
    check(true, EBB_F16, 2000000);
    check(true, EBB_F32, 20000000);
}

/* In planes, over several chunks, with ends of rows beyond their chunk. */
static void long_sparse_rows_are_those_of_float_batches(void **state)
{
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        check(true, types[t], 22000);
    check(true, EBB_I16, 70000);
}

static void flip(const char *dir, double where)
{
    char path[512];
    snprintf(path, sizeof path, "%s/shard-00001.h5", dir);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    fseek(f, (long)(where * (double)ftell(f)), SEEK_SET);
    int byte = fgetc(f);
    fseek(f, -1, SEEK_CUR);
    fputc(byte ^ 0x10, f);
    fclose(f);
}

static void damaged_rows_are_left_out_as_from_float_batches(void **state)
{
    for (int sparse = 0; sparse < 2; sparse++) {
        char *dir;
        ebb_dataset_t *ds = make(&dir, sparse, EBB_U8, sparse ? 5000 : 137);
        ebb_loader_options_t options = options_of(ds, true, 2);
        options.skip_corrupt = true;
        flip(dir, 0.3);
        assert_in_range(compare(ds, options), 2, 2 * 1300);
        ebb_dataset_close(ds);
        test_rmdir(dir);
    }
}

static void transforms_are_refused(void **state)
{
    char *dir;
    ebb_dataset_t *ds = make(&dir, true, EBB_U8, 5000);
    ebb_loader_options_t options = options_of(ds, true, 1);
    ebb_loader_t *l;
    options.stored = true;
    options.transform.log1p = true;
    assert_fails(ebb_loader_create(ds, &options, &l), EBB_EINVAL, "take batches of floats");
    options.transform = (ebb_transform_t){.scale = 1};
    assert_ok(ebb_loader_create(ds, &options, &l));
    ebb_loader_destroy(l);
    ebb_dataset_close(ds);
    test_rmdir(dir);
}

static void nothing_is_allocated_once_batches_flow_and_they_take_less(void **state)
{
    char *dir;
    ebb_dataset_t *ds = make(&dir, true, EBB_U8, 5000);
    int64_t bytes[2];
    for (int stored = 0; stored < 2; stored++) {
        ebb_loader_options_t options = options_of(ds, true, 1);
        ebb_loader_stats_t stats;
        ebb_loader_t *l;
        const ebb_batch_t *b;
        options.stored = stored;
        options.memory_bytes = 0;
        assert_ok(ebb_loader_create(ds, &options, &l));
        for (int epoch = 0; epoch < 3; epoch++)
            while (ebb_loader_acquire(l, &b) == EBB_OK)
                ebb_loader_release(l, b);
        ebb_loader_stats(l, &stats);
        assert_int_equal(stats.allocations, 0);
        bytes[stored] = stats.memory_bytes;
        ebb_loader_destroy(l);
    }
    assert_true(bytes[1] < bytes[0]);
    ebb_dataset_close(ds);
    test_rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_rows_of_every_type_are_those_of_float_batches),
        cmocka_unit_test(short_sparse_rows_are_those_of_float_batches),
        cmocka_unit_test(long_sparse_rows_are_those_of_float_batches),
        cmocka_unit_test(damaged_rows_are_left_out_as_from_float_batches),
        cmocka_unit_test(transforms_are_refused),
        cmocka_unit_test(nothing_is_allocated_once_batches_flow_and_they_take_less),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
