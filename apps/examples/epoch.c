/* Reads a data set once, shuffled, with nothing but libebb's loader:
 *
 *     cc epoch.c -o epoch $(pkg-config --cflags --libs ebb)
 *     ./epoch data/train [threads]
 */
#include <ebb/ebb.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The sum stands for the work that a model would do with the batch. */
static double use(const ebb_batch_t *batch, int64_t cols)
{
    double sum = 0;
    const float *value = batch->rowptr ? batch->val : batch->x;
    int64_t n = batch->rowptr ? batch->nnz : batch->rows * cols;
    for (int64_t i = 0; i < n; i++)
        sum += value[i];
    return sum;
}

static ebb_status_t read_epoch(ebb_loader_t *loader, const ebb_dataset_info_t *info)
{
    const ebb_batch_t *batch;
    ebb_loader_stats_t stats;
    ebb_status_t status;
    double began = now(), sum = 0;
    while ((status = ebb_loader_acquire(loader, &batch)) == EBB_OK) {
        sum += use(batch, info->cols);
        ebb_loader_release(loader, batch);
    }
    if (status != EBB_END)
        return status;
    double seconds = now() - began;
    ebb_loader_stats(loader, &stats);
    printf("%lld rows in %lld batches, sum of values %g\n", (long long)stats.rows, (long long)stats.batches, sum);
    printf("%.3g s, %.3g rows/s, waited %.3g s\n", seconds, (double)stats.rows / seconds,
           (double)stats.stall_ns * 1e-9);
    return EBB_OK;
}

static ebb_status_t run(const char *path, int threads)
{
    ebb_dataset_t *ds;
    ebb_loader_t *loader;
    EBB_TRY(ebb_dataset_open(path, NULL, &ds));
    const ebb_dataset_info_t *info = ebb_dataset_info(ds);
    ebb_loader_options_t options = {.order = {.lanes = 24, .batch = 4096, .seed = 1, .shuffle = true},
                                    .threads = threads};
    ebb_status_t status = ebb_loader_create(ds, &options, &loader);
    if (status == EBB_OK)
        status = read_epoch(loader, info);
    ebb_loader_destroy(loader);
    ebb_dataset_close(ds);
    return status;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: epoch DATA [THREADS]\n");
        return 64;
    }
    ebb_status_t status = run(argv[1], argc > 2 ? atoi(argv[2]) : 2);
    if (status != EBB_OK)
        fprintf(stderr, "epoch: %s\n", ebb_error()->message);
    return ebb_status_exit_code(status);
}
