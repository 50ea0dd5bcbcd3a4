/* The loader's benchmark: which figures it gives and what it checked; timings decide nothing. */
#include "shards.h"
#include "base/alloc.h"
#include "base/threads.h"
#include <ebb/bench.h>

#include <math.h>
#include <sched.h>

enum { ROWS = 4000, MAX_FIGURES = 64 };

typedef struct heard {
    ebb_bench_loader_setting_t setting;
    ebb_bench_figure_t figure[MAX_FIGURES];
    int n, settings, doings;
} heard_t;

static void hear_setting(void *user, const ebb_bench_loader_setting_t *setting)
{
    heard_t *h = user;
    h->setting = *setting;
    h->settings++;
}

static void hear_doing(void *user, const char *text)
{
    heard_t *h = user;
    h->doings += text[0] != 0;
}

static void hear_figure(void *user, const ebb_bench_figure_t *figure)
{
    heard_t *h = user;
    assert_true(h->n < MAX_FIGURES);
    h->figure[h->n++] = *figure;
}

static char *make(ebb_dataset_plan_t *plan)
{
    char *dir = test_mkdir();
    plan->shard_rows = 1500;
    make_dataset(dir, plan, 2, 500);
    return dir;
}

static ebb_status_t measure(const char *dir, const ebb_bench_loader_options_t *options, heard_t *h)
{
    ebb_dataset_t *ds;
    ebb_bench_listener_t listener = {hear_setting, hear_doing, hear_figure, h};
    EBB_TRY(ebb_dataset_open(dir, NULL, &ds));
    ebb_status_t status = ebb_bench_loader(ds, options, &listener);
    ebb_dataset_close(ds);
    return status;
}

static int count(const heard_t *h, ebb_bench_what_t what, int threads)
{
    int n = 0;
    for (int i = 0; i < h->n; i++)
        n += h->figure[i].what == what && h->figure[i].threads == threads;
    return n;
}

static void limits_come_once_and_the_loader_in_each_order_at_each_number_of_threads(void **state)
{
    ebb_dataset_plan_t plan = made_plan(true, EBB_F32, ROWS, 300);
    char *dir = make(&plan);
    int threads[] = {1, 2};
    heard_t h = {0};
    ebb_bench_loader_options_t o = {
        .order = {.batch = 480, .seed = 3}, .passes = 2, .threads = threads, .n_threads = 2, .caches = EBB_BENCH_WARM};
    o.orders = EBB_BENCH_BOTH_ORDERS;
    assert_ok(measure(dir, &o, &h));
    assert_int_equal(h.settings, 1);
    assert_int_equal(count(&h, EBB_BENCH_MEMCPY, 2), 1);
    assert_int_equal(count(&h, EBB_BENCH_READ, 2), 1);
    for (int t = 1; t <= 2; t++) {
        assert_int_equal(count(&h, EBB_BENCH_DECODE, t), 1);
        assert_int_equal(count(&h, EBB_BENCH_CHECK, t), 1);
        assert_int_equal(count(&h, EBB_BENCH_LEAST, t), 1);
        assert_in_range(count(&h, EBB_BENCH_LOADER, t), 3, 4);
    }
    for (int i = 0; i < h.n; i++) {
        const ebb_bench_figure_t *f = &h.figure[i];
        assert_true(f->fastest > 0 && f->fastest <= f->seconds && f->seconds <= f->slowest);
        assert_false(f->cold);
        if (f->what == EBB_BENCH_LOADER)
            assert_true(f->rows == ROWS && (f->kept || f->share > 0) && f->stall >= 0 && f->memory_bytes > 0);
    }
    test_rmdir(dir);
}

static void the_checked_epoch_gives_the_sums_of_the_data(void **state)
{
    for (int sparse = 0; sparse < 2; sparse++) {
        ebb_dataset_plan_t plan = made_plan(sparse, EBB_U8, ROWS, 90);
        char *dir = make(&plan);
        made_t m = make_rows(&plan, 0, ROWS);
        heard_t h = {0};
        int one = 1;
        double values = 0;
        int64_t columns = 0, n = sparse ? m.rowptr[ROWS] : ROWS * 90;
        for (int64_t i = 0; i < n; i++) {
            values += (double)(sparse ? m.val[i] : m.x[i]);
            columns += sparse ? m.col[i] : 0;
        }
        ebb_bench_loader_options_t o = {.order = {.batch = 100}, .passes = 1, .threads = &one, .n_threads = 1};
        assert_ok(measure(dir, &o, &h));
        assert_true(h.setting.value_sum == values); /* whole numbers: exact in any order */
        assert_int_equal(h.setting.column_sum, columns);
        assert_string_equal(h.setting.codec, "zstd");
        assert_true(h.setting.sampled == 1);
        made_free(&m);
        test_rmdir(dir);
    }
}

static void a_pass_of_some_steps_goes_on_over_the_end_of_an_epoch(void **state)
{
    ebb_dataset_plan_t plan = made_plan(true, EBB_F32, ROWS, 300);
    char *dir = make(&plan);
    heard_t h = {0};
    int one = 1;
    ebb_bench_loader_options_t o = {
        .order = {.batch = 480}, .passes = 3, .threads = &one, .n_threads = 1, .steps = 5, .caches = EBB_BENCH_WARM};
    assert_ok(measure(dir, &o, &h));
    const ebb_bench_figure_t *f = &h.figure[h.n - 1];
    assert_int_equal(f->what, EBB_BENCH_LOADER);
    assert_true(f->rows > 4 * 480 && f->rows <= 5 * 480);
    test_rmdir(dir);
}

static void the_process_has_its_cores_back_afterwards(void **state)
{
    ebb_dataset_plan_t plan = made_plan(false, EBB_U8, ROWS, 40);
    char *dir = make(&plan);
    cpu_set_t before, after;
    heard_t h = {0};
    int one = 1;
    ebb_bench_loader_options_t o = {.order = {.batch = 480}, .passes = 1, .threads = &one, .n_threads = 1};
    sched_getaffinity(0, sizeof before, &before);
    assert_ok(measure(dir, &o, &h));
    sched_getaffinity(0, sizeof after, &after);
    assert_true(CPU_EQUAL(&before, &after));
    test_rmdir(dir);
}

static void what_cannot_be_measured_is_refused(void **state)
{
    ebb_dataset_plan_t plan = made_plan(true, EBB_F32, ROWS, 300);
    char *dir = make(&plan);
    heard_t h = {0};
    int none = 0;
    ebb_bench_loader_options_t good = {.order = {.batch = 480}, .passes = 1}, o = good;
    o.passes = -1;
    assert_fails(measure(dir, &o, &h), EBB_EINVAL, "passes");
    o = good;
    o.threads = &none;
    o.n_threads = 1;
    assert_fails(measure(dir, &o, &h), EBB_EINVAL, "threads to measure");
    o = good;
    o.memory_bytes = 1000;
    assert_fails(measure(dir, &o, &h), EBB_EINVAL, "too small");
    o = good;
    o.order.batch = 3;
    assert_fails(measure(dir, &o, &h), EBB_EINVAL, "batch");
    assert_int_equal(h.n, 0);
    test_rmdir(dir);
}

static void running_out_of_memory_anywhere_is_an_error_and_leaks_nothing(void **state)
{
    ebb_dataset_plan_t plan = made_plan(false, EBB_U8, 400, 10);
    char *dir = make(&plan);
    int one = 1;
    ebb_bench_loader_options_t o = {
        .order = {.batch = 48}, .passes = 1, .threads = &one, .n_threads = 1, .caches = EBB_BENCH_WARM};
    for (int64_t n = 0; n < 400; n += 7) {
        heard_t h = {0};
        ebb_alloc_fail_after(n);
        ebb_status_t status = measure(dir, &o, &h);
        ebb_alloc_fail_after(-1);
        if (status == EBB_OK)
            break;
        assert_int_equal(status, EBB_ENOMEM);
        ebb_error_clear();
    }
    test_rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limits_come_once_and_the_loader_in_each_order_at_each_number_of_threads),
        cmocka_unit_test(the_checked_epoch_gives_the_sums_of_the_data),
        cmocka_unit_test(a_pass_of_some_steps_goes_on_over_the_end_of_an_epoch),
        cmocka_unit_test(the_process_has_its_cores_back_afterwards),
        cmocka_unit_test(what_cannot_be_measured_is_refused),
        cmocka_unit_test(running_out_of_memory_anywhere_is_an_error_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
