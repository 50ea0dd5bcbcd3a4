/* What is written is read back, whatever the type, the layout, the shard size and the piece. */
#include "shards.h"
#include "base/file.h"
#include "base/hash.h"
#include "shard/layout.h"

static void check_rows(ebb_reader_t *reader, const ebb_dataset_plan_t *plan, int64_t row0, int64_t n)
{
    made_t want = make_rows(plan, row0, n);
    if (plan->sparse) {
        int64_t *rowptr = malloc((size_t)(n + 1) * 8);
        assert_ok(ebb_reader_rowptr(reader, row0, n, 5, rowptr));
        for (int64_t i = 0; i <= n; i++)
            assert_int_equal(rowptr[i] - 5, want.rowptr[i]);
        int64_t nnz = want.rowptr[n];
        int32_t *col = malloc((size_t)nnz * 4 + 4);
        float *val = malloc((size_t)nnz * 4 + 4);
        assert_ok(ebb_reader_csr(reader, row0, n, col, val));
        assert_memory_equal(col, want.col, (size_t)nnz * 4);
        assert_memory_equal(val, want.val, (size_t)nnz * 4);
        free(rowptr);
        free(col);
        free(val);
    } else {
        float *x = malloc((size_t)(n * plan->cols) * 4 + 4);
        assert_ok(ebb_reader_dense(reader, row0, n, x));
        assert_memory_equal(x, want.x, (size_t)(n * plan->cols) * 4);
        free(x);
    }
    int32_t *label = malloc((size_t)n * 4 + 4);
    float *weight = malloc((size_t)n * 4 + 4), *y = malloc((size_t)(n * (plan->target_cols + 1)) * 4 + 4);
    bool classes = plan->target == EBB_TARGET_CLASS, targets = plan->target != EBB_TARGET_NONE;
    assert_ok(ebb_reader_targets(reader, row0, n, classes ? label : NULL, targets ? y : NULL, weight));
    for (int64_t i = 0; i < n; i++) {
        if (classes) {
            assert_int_equal(label[i], want.label[i]);
            assert_true(y[i] == (float)want.label[i]);
        }
        assert_true(weight[i] == (plan->weighted ? want.weight[i] : 1));
    }
    if (plan->target == EBB_TARGET_REAL)
        assert_memory_equal(y, want.y, (size_t)(n * plan->target_cols) * 4);
    free(label);
    free(weight);
    free(y);
    made_free(&want);
}

static void check_dataset(const char *dir, const ebb_dataset_plan_t *plan)
{
    ebb_dataset_t *ds;
    ebb_reader_t *reader;
    assert_ok(ebb_dataset_open(dir, NULL, &ds));
    const ebb_dataset_info_t *info = ebb_dataset_info(ds);
    assert_int_equal(info->rows, plan->rows);
    assert_int_equal(info->cols, plan->cols);
    assert_int_equal(info->sparse, plan->sparse);
    assert_int_equal(info->value_type, plan->value_type);
    assert_int_equal(strlen(info->hash), 64);
    assert_ok(ebb_reader_create(ds, 0, &reader));
    check_rows(reader, plan, 0, plan->rows);
    check_rows(reader, plan, plan->rows, 0);
    for (int i = 0; i < 12; i++) {
        int64_t row0 = (int64_t)(made_hash((uint64_t)i, 77) % (uint64_t)plan->rows);
        int64_t n = (int64_t)(made_hash((uint64_t)i, 78) % (uint64_t)(plan->rows - row0)) / (i % 3 ? 9 : 1);
        check_rows(reader, plan, row0, n);
    }
    ebb_reader_destroy(reader);
    ebb_dataset_close(ds);
}

static void round_trip(const ebb_dataset_plan_t *plan)
{
    char *dir = test_mkdir();
    make_dataset(dir, plan, 2, 1000);
    check_dataset(dir, plan);
    test_rmdir(dir);
}

static void every_type_reads_back_sparse(void **state)
{
    for (int type = EBB_F32; type <= EBB_I32; type++) {
        ebb_dataset_plan_t plan = made_plan(true, (ebb_value_type_t)type, 3000, type % 2 ? 70000 : 3000);
        plan.shard_rows = 1100;
        round_trip(&plan);
    }
}

static void every_type_reads_back_dense(void **state)
{
    for (int type = EBB_F32; type <= EBB_I32; type++) {
        ebb_dataset_plan_t plan = made_plan(false, (ebb_value_type_t)type, 2000, 137);
        plan.shard_rows = 801;
        plan.weighted = true;
        round_trip(&plan);
    }
}

static void rows_wider_than_a_chunk_read_back(void **state)
{
    ebb_dataset_plan_t dense = made_plan(false, EBB_U16, 5, 150001), one = made_plan(false, EBB_F32, 70001, 1);
    round_trip(&dense);
    round_trip(&one);
    ebb_dataset_plan_t sparse = made_plan(true, EBB_U8, 400, 300000);
    sparse.shard_rows = 333;
    round_trip(&sparse);
}

static void targets_of_every_kind_read_back(void **state)
{
    ebb_dataset_plan_t plan = made_plan(true, EBB_F32, 20000, 50);
    plan.shard_rows = 9000;
    plan.weighted = true;
    plan.target = EBB_TARGET_REAL;
    plan.classes = 0;
    for (int cols = 1; cols <= 3; cols += 2) {
        plan.target_cols = cols;
        round_trip(&plan);
    }
    plan.target = EBB_TARGET_NONE;
    plan.target_cols = 0;
    round_trip(&plan);
    plan.weighted = false;
    round_trip(&plan);
}

static void portable_and_vector_code_agree(void **state)
{
    static const ebb_value_type_t types[] = {EBB_F16, EBB_I16, EBB_F32, EBB_U8, EBB_I8};
    for (int i = 0; i < 5; i++) {
        ebb_dataset_plan_t plan = made_plan(true, types[i], i < 3 ? 2500 : 500, 3001);
        char *dir = test_mkdir();
        make_dataset(dir, &plan, 1, 500);
        for (int force = 0; force < 3; force++) {
            ebb_codec_level(force);
            check_dataset(dir, &plan);
        }
        test_rmdir(dir);
    }
}

static void chunks_are_64_kib_where_there_is_much_data(void **state)
{
    ebb_dataset_plan_t dense = made_plan(false, EBB_U8, 1000000, 784), sparse = made_plan(true, EBB_U8, 1000, 3000);
    assert_int_equal(ebb_chunk_elements(&dense), 65536);
    dense.value_type = EBB_F32;
    assert_int_equal(ebb_chunk_elements(&dense), 16384);
    dense = made_plan(false, EBB_U8, 60000, 784); /* few blocks would mix badly */
    assert_int_equal(ebb_chunk_elements(&dense), 16384);
    assert_int_equal(ebb_chunk_elements(&sparse), 16384);
    sparse.nnz = 1000000000;
    assert_int_equal(ebb_chunk_elements(&sparse), 32768);
    sparse.cols = 70000; /* columns of four bytes */
    assert_int_equal(ebb_chunk_elements(&sparse), 16384);
}

static void long_chunks_read_back(void **state)
{
    ebb_dataset_plan_t plan = made_plan(true, EBB_U8, 30000, 3000);
    plan.nnz = 1000000000; /* as if there were as many */
    plan.shard_rows = 17000;
    round_trip(&plan);
}

static void file_hash(const char *dir, const char *name, char hex[65])
{
    char path[5000];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_ok(ebb_sha256_file(path, hex));
}

static void equal_rows_give_equal_bytes(void **state)
{
    ebb_dataset_plan_t plan = made_plan(true, EBB_F32, 30000, 3000);
    plan.shard_rows = 17000;
    char first[3][65], hex[65], *dir;
    static const char *const files[] = {"shard-00000.h5", "shard-00001.h5", "manifest.json"};
    for (int threads = 1; threads <= 3; threads++) {
        dir = test_mkdir();
        make_dataset(dir, &plan, threads, threads == 2 ? 17 : 4099);
        for (int i = 0; i < 3; i++) {
            file_hash(dir, files[i], threads == 1 ? first[i] : hex);
            if (threads > 1)
                assert_string_equal(hex, first[i]);
        }
        test_rmdir(dir);
    }
}

static void one_small_cache_serves_all_pieces(void **state)
{
    ebb_dataset_plan_t plan = made_plan(true, EBB_I16, 30000, 3000);
    plan.shard_rows = 11000;
    char *dir = test_mkdir();
    make_dataset(dir, &plan, 2, 30000);
    ebb_dataset_t *ds;
    ebb_reader_t *reader;
    assert_ok(ebb_dataset_open(dir, NULL, &ds));
    assert_ok(ebb_reader_create(ds, 1, &reader));
    for (int i = 0; i < 100; i++)
        check_rows(reader, &plan, (int64_t)(made_hash((uint64_t)i, 1) % 29900), 100);
    ebb_reader_destroy(reader);
    ebb_dataset_close(ds);
    test_rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_reads_back_sparse),
        cmocka_unit_test(every_type_reads_back_dense),
        cmocka_unit_test(rows_wider_than_a_chunk_read_back),
        cmocka_unit_test(targets_of_every_kind_read_back),
        cmocka_unit_test(portable_and_vector_code_agree),
        cmocka_unit_test(equal_rows_give_equal_bytes),
        cmocka_unit_test(one_small_cache_serves_all_pieces),
        cmocka_unit_test(chunks_are_64_kib_where_there_is_much_data),
        cmocka_unit_test(long_chunks_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
