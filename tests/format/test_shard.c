/* Data sets written by the first version of the format are read for ever: these files are never written again. */
#include "support.h"
#include <ebb/shard.h>

#ifndef FROZEN
#define FROZEN "."
#endif

enum { ROWS = 60, COLS = 50, PER_ROW = 15 };

static ebb_reader_t *open_frozen(const char *dir, ebb_dataset_t **ds_p)
{
    ebb_reader_t *reader;
    assert_ok(ebb_dataset_verify(dir, 1, NULL, NULL));
    assert_ok(ebb_dataset_open(dir, NULL, ds_p));
    assert_int_equal(ebb_dataset_info(*ds_p)->rows, ROWS);
    assert_int_equal(ebb_dataset_info(*ds_p)->cols, COLS);
    assert_string_equal(ebb_dataset_info(*ds_p)->class_names[1], "beta");
    assert_true(ebb_dataset_info(*ds_p)->weighted);
    assert_ok(ebb_reader_create(*ds_p, 0, &reader));
    return reader;
}

static void check_targets(ebb_reader_t *reader)
{
    int32_t label[ROWS];
    float weight[ROWS];
    assert_ok(ebb_reader_targets(reader, 0, ROWS, label, NULL, weight));
    for (int i = 0; i < ROWS; i++) {
        assert_int_equal(label[i], i % 3);
        assert_true(weight[i] == 1);
    }
}

static void version_1_sparse_reads(void **state)
{
    ebb_dataset_t *ds;
    ebb_reader_t *reader = open_frozen(FROZEN "/sparse", &ds);
    int32_t col[ROWS * PER_ROW];
    float val[ROWS * PER_ROW];
    assert_ok(ebb_reader_csr(reader, 0, ROWS, col, val));
    for (int i = 0; i < ROWS * PER_ROW; i++) {
        assert_int_equal(col[i], i % PER_ROW * 3 + i / PER_ROW % 3);
        assert_true(val[i] == (float)(i % 7));
    }
    check_targets(reader);
    ebb_reader_destroy(reader);
    ebb_dataset_close(ds);
}

static void version_1_dense_reads(void **state)
{
    ebb_dataset_t *ds;
    ebb_reader_t *reader = open_frozen(FROZEN "/dense", &ds);
    float x[ROWS * COLS];
    assert_ok(ebb_reader_dense(reader, 0, ROWS, x));
    for (int i = 0; i < ROWS * COLS; i++)
        assert_true(x[i] == (float)(i % 7));
    check_targets(reader);
    ebb_reader_destroy(reader);
    ebb_dataset_close(ds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(version_1_sparse_reads),
        cmocka_unit_test(version_1_dense_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
