/* A loader that runs for long, or over very many shards, takes no more than at its beginning.
 *
 * usage: test_loader_endurance [SHARDS]        default 300; the promise is for 10000 */
#include "shards.h"
#include "base/alloc.h"
#include <ebb/loader.h>

#include <dirent.h>
#include <sys/resource.h>

static int n_shards = 300;

static int64_t resident_bytes(void)
{
    long pages = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%ld %ld", &pages, &resident), 2);
    fclose(f);
    return (int64_t)resident * sysconf(_SC_PAGESIZE);
}

static int open_files(void)
{
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n - 3; /* ., .. and the folder itself */
}

/* Rows of one epoch. */
static int64_t run_epoch(ebb_loader_t *loader, char *seen)
{
    const ebb_batch_t *batch;
    ebb_status_t status;
    int64_t rows = 0;
    while ((status = ebb_loader_acquire(loader, &batch)) == EBB_OK) {
        for (int64_t i = 0; seen && i < batch->rows; i++)
            assert_int_equal(seen[batch->row[i]]++, 0);
        rows += batch->rows;
        ebb_loader_release(loader, batch);
    }
    if (status != EBB_END)
        fail_msg("%s", ebb_error()->message);
    return rows;
}

/* Opens the data set and a loader that cannot keep it all, with a little room over what it needs at least. */
static ebb_loader_t *open_loader(const char *dir, int threads, ebb_dataset_t **ds_p)
{
    ebb_loader_t *loader;
    ebb_loader_options_t options = {.order = {.lanes = 6, .batch = 300, .window_blocks = 4, .seed = 5, .shuffle = true},
                                    .threads = threads,
                                    .memory_bytes = 12 << 20};
    assert_ok(ebb_dataset_open(dir, NULL, ds_p));
    assert_ok(ebb_loader_create(*ds_p, &options, &loader));
    return loader;
}

static void memory_is_flat_over_100_epochs(void **state)
{
    enum { EPOCHS = 100, WARM_UP = 10, ROWS = 60000 };
    char *dir = test_mkdir();
    ebb_dataset_plan_t plan = made_plan(true, EBB_F32, ROWS, 80);
    plan.shard_rows = 25000;
    make_dataset(dir, &plan, 2, 5000);
    ebb_dataset_t *ds;
    ebb_loader_t *loader = open_loader(dir, 2, &ds);
    int64_t resident = 0, allocated = 0;
    int files = 0;
    for (int epoch = 0; epoch < EPOCHS; epoch++) {
        if (epoch == WARM_UP) {
            resident = resident_bytes();
            allocated = ebb_alloc_count();
            files = open_files();
        }
        assert_int_equal(run_epoch(loader, NULL), ROWS);
    }
    assert_int_equal(ebb_alloc_count(), allocated);
    assert_int_equal(open_files(), files);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    int64_t grown = resident_bytes() - resident;
    if (grown > 1 << 20)
        fail_msg("%lld bytes more are resident after %d epochs than after %d", (long long)grown, EPOCHS, WARM_UP);
#endif
    (void)resident;
    ebb_loader_destroy(loader);
    ebb_dataset_close(ds);
    test_rmdir(dir);
}

static void open_files_are_few_however_many_shards(void **state)
{
    enum { SHARD_ROWS = 10, ROOM = 24 };
    char *dir = test_mkdir(), *seen = calloc((size_t)n_shards, SHARD_ROWS);
    ebb_dataset_plan_t plan = made_plan(true, EBB_U8, (int64_t)n_shards * SHARD_ROWS, 50);
    plan.shard_rows = SHARD_ROWS;
    make_dataset(dir, &plan, 1, SHARD_ROWS);
    struct rlimit before, few;
    getrlimit(RLIMIT_NOFILE, &before);
    few = before;
    few.rlim_cur = (rlim_t)(open_files() + ROOM);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    ebb_dataset_t *ds;
    ebb_loader_t *loader = open_loader(dir, 2, &ds);
    assert_int_equal(run_epoch(loader, seen), plan.rows);
    ebb_loader_destroy(loader);
    ebb_dataset_close(ds);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    free(seen);
    test_rmdir(dir);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        n_shards = atoi(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_flat_over_100_epochs),
        cmocka_unit_test(open_files_are_few_however_many_shards),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
