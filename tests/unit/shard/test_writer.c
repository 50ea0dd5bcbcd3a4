/* The writer refuses what readers could not give back, and leaves nothing behind when it fails. */
#include "shards.h"
#include "base/alloc.h"
#include "base/file.h"

#include <math.h>
#include <signal.h>
#include <sys/resource.h>

static int files_in(const char *dir)
{
    char command[5000];
    snprintf(command, sizeof command, "ls -A '%s' | wc -l", dir);
    FILE *pipe = popen(command, "r");
    int n = -1;
    assert_int_equal(fscanf(pipe, "%d", &n), 1);
    pclose(pipe);
    return n;
}

static void rows_that_cannot_be_kept_are_refused(void **state)
{
    static const struct {
        int32_t col[2], label;
        float val, weight;
        const char *message;
    } cases[] = {
        {{0, 10}, 0, 1, 1, "column 10 is not in 0 .. 9"},
        {{3, 3}, 0, 1, 1, "must ascend"},
        {{3, 1}, 0, 1, 1, "column 1 after 3"},
        {{-1, 1}, 0, 1, 1, "column -1"},
        {{0, 1}, 3, 1, 1, "class 3"},
        {{0, 1}, -1, 1, 1, "class -1"},
        {{0, 1}, 0, 256, 1, "without loss"},
        {{0, 1}, 0, 0.5f, 1, "without loss"},
        {{0, 1}, 0, NAN, 1, "must be finite"},
        {{0, 1}, 0, 1, -2, "weight -2"},
        {{0, 1}, 0, 1, NAN, "weight"},
    };
    ebb_dataset_plan_t plan = made_plan(true, EBB_U8, 100, 10);
    plan.weighted = true;
    char *dir = test_mkdir();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ebb_shard_writer_t *w;
        ebb_shard_summary_t summary;
        const int64_t ptr[2] = {0, 2};
        const float val[2] = {2, cases[i].val};
        assert_ok(ebb_shard_writer_create(dir, &plan, 0, 1, &w));
        assert_fails(
            ebb_shard_writer_append(w, 1, ptr, cases[i].col, val, NULL, &cases[i].label, NULL, &cases[i].weight),
            EBB_EDATA, cases[i].message);
        assert_fails(ebb_shard_writer_commit(w, &summary), EBB_EINVAL, "failed before");
        ebb_shard_writer_destroy(w);
        assert_int_equal(files_in(dir), 0);
    }
    test_rmdir(dir);
}

static ebb_status_t write_much(const char *dir, int threads)
{
    ebb_dataset_plan_t plan = made_plan(false, EBB_F32, 4000, 500);
    ebb_shard_writer_t *w;
    ebb_shard_summary_t summary;
    made_t m = make_rows(&plan, 0, plan.rows);
    ebb_status_t status = ebb_shard_writer_create(dir, &plan, 0, threads, &w);
    if (status == EBB_OK)
        status = ebb_shard_writer_append(w, plan.rows, NULL, NULL, NULL, m.x, m.label, NULL, NULL);
    if (status == EBB_OK)
        status = ebb_shard_writer_commit(w, &summary);
    ebb_shard_writer_destroy(w);
    made_free(&m);
    return status;
}

static void a_full_disk_is_named_and_leaves_nothing(void **state)
{
    struct rlimit before, limit;
    char *dir = test_mkdir();
    getrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, SIG_IGN);
    for (int i = 0; i < 4; i++) {
        limit = (struct rlimit){.rlim_cur = (rlim_t[]){0, 4096, 300000, 2000000}[i], .rlim_max = before.rlim_max};
        setrlimit(RLIMIT_FSIZE, &limit);
        ebb_status_t status = write_much(dir, 2);
        setrlimit(RLIMIT_FSIZE, &before);
        if (status != EBB_ENOSPC || !strstr(ebb_error()->message, "shard-00000.h5"))
            fail_msg("limit %d: %s: %s", i, ebb_status_name(status), ebb_error()->message);
        ebb_error_clear();
        assert_int_equal(files_in(dir), 0);
    }
    signal(SIGXFSZ, SIG_DFL);
    assert_ok(write_much(dir, 1));
    test_rmdir(dir);
}

static void every_allocation_may_fail(void **state)
{
    ebb_dataset_plan_t plan = made_plan(true, EBB_F32, 50, 300);
    char *dir = test_mkdir();
    make_dataset(dir, &plan, 1, 50);
    int failures = 0;
    for (int64_t n = 0; n < 200; n++) {
        ebb_dataset_t *ds = NULL;
        ebb_reader_t *reader = NULL;
        float val[2000];
        int32_t col[2000];
        ebb_alloc_fail_after(n);
        ebb_status_t status = ebb_dataset_open(dir, NULL, &ds);
        if (status == EBB_OK)
            status = ebb_reader_create(ds, 0, &reader);
        if (status == EBB_OK)
            status = ebb_reader_csr(reader, 0, 20, col, val);
        ebb_alloc_fail_after(-1);
        ebb_reader_destroy(reader);
        ebb_dataset_close(ds);
        if (status == EBB_OK)
            break;
        assert_int_equal(status, EBB_ENOMEM);
        ebb_error_clear();
        failures++;
    }
    assert_true(failures > 10 && failures < 200);
    for (int64_t n = 0; n < 40; n += 3) {
        char *other = test_mkdir();
        ebb_shard_writer_t *w = NULL;
        ebb_alloc_fail_after(n);
        ebb_status_t status = ebb_shard_writer_create(other, &plan, 0, 2, &w);
        ebb_alloc_fail_after(-1);
        ebb_shard_writer_destroy(w);
        assert_true(status == EBB_OK || status == EBB_ENOMEM);
        ebb_error_clear();
        assert_int_equal(files_in(other), 0);
        test_rmdir(other);
    }
    test_rmdir(dir);
}

static void nothing_is_allocated_after_warm_up(void **state)
{
    ebb_dataset_plan_t plan = made_plan(true, EBB_F32, 20000, 300);
    char *dir = test_mkdir();
    ebb_dataset_t *ds;
    ebb_reader_t *reader;
    plan.shard_rows = 7000;
    make_dataset(dir, &plan, 2, 5000);
    assert_ok(ebb_dataset_open(dir, NULL, &ds));
    assert_ok(ebb_reader_create(ds, 1 << 20, &reader));
    int32_t *col = malloc(4 * 300 * 256), label[256];
    float *val = malloc(4 * 300 * 256);
    int64_t count = 0;
    for (int i = 0; i < 400; i++) {
        int64_t row = (int64_t)(made_hash((uint64_t)i, 6) % 19744);
        assert_ok(ebb_reader_csr(reader, row, 256, col, val));
        assert_ok(ebb_reader_targets(reader, row, 256, label, NULL, NULL));
        if (i == 100)
            count = ebb_alloc_count();
    }
    assert_int_equal(ebb_alloc_count(), count);
    free(col);
    free(val);
    ebb_reader_destroy(reader);
    ebb_dataset_close(ds);
    test_rmdir(dir);
}

static void a_data_set_opens_only_when_it_is_whole(void **state)
{
    ebb_dataset_plan_t plan = made_plan(true, EBB_F32, 50, 300);
    char *dir = test_mkdir(), command[5000];
    ebb_dataset_t *ds;
    make_dataset(dir, &plan, 1, 50);
    snprintf(command, sizeof command, "mkdir '%s/inner' && mv '%s/manifest.json' '%s/inner'", dir, dir, dir);
    assert_int_equal(system(command), 0);
    assert_fails(ebb_dataset_open(dir, NULL, &ds), EBB_ENOINPUT, "/inner");
    test_rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_that_cannot_be_kept_are_refused),
        cmocka_unit_test(a_full_disk_is_named_and_leaves_nothing),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(nothing_is_allocated_after_warm_up),
        cmocka_unit_test(a_data_set_opens_only_when_it_is_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
