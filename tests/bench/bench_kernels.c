/* Sparse kernels and update rules against the memory and cache bandwidth measured in the same run. Bytes by the model:
 * an entry is its column, value and the row of W (or dY) it needs; a gradient row is written once, updates read and
 * write what they keep.
 *
 *   build/release/tests/bench_kernels [columns] [non-zeros per row]
 */
#include "bench.h"

#include <math.h>
#include <string.h>

enum { ROWS = 170 };

typedef struct job {
    const ebb_backend_ops_t *ops;
    ebb_exec_t *x;
    ebb_csr_t X;
    int64_t H, n;
    float *W, *Y, *G, *bias, *s0, *s1;
    uint64_t *touched;
    int32_t *idx;
    ebb_rows_t rows;
    ebb_optim_hyper_t h;
} job_t;

static volatile float sink;

static void read_all(void *user)
{
    job_t *j = user;
    float sum[64] = {0};
    for (int64_t i = 0; i + 64 <= j->n; i += 64)
        for (int l = 0; l < 64; l++)
            sum[l] += j->W[i + l];
    sink = sum[0] + sum[63];
}

static double bandwidth(job_t *j, int64_t bytes)
{
    j->n = bytes / 4;
    return (double)bytes / bench_time(read_all, j).median;
}

static void run_forward(void *user)
{
    job_t *j = user;
    bench_ok(j->ops->csr_gemm(j->x, &j->X, j->H, j->W, j->H, j->bias, j->H > 1 ? EBB_ACT_RELU : EBB_ACT_NONE, j->Y));
}

static void run_grad(void *user)
{
    job_t *j = user;
    bench_ok(j->ops->csr_grad(j->x, 0, &j->X, j->H, j->Y, &j->rows));
}

static void run_grad_dense(void *user)
{
    job_t *j = user;
    bench_ok(j->ops->csr_grad_dense(j->x, &j->X, j->H, j->Y, j->G, j->touched));
}

static void run_update_rows(void *user)
{
    job_t *j = user;
    bench_ok(
        j->ops->update_rows(j->x, &j->h, j->rows.n, j->H, j->rows.idx, j->rows.idx, j->W, j->rows.val, j->s0, j->s1));
}

static void run_update(void *user)
{
    job_t *j = user;
    bench_ok(j->ops->update(j->x, &j->h, j->n, j->W, j->G, j->s0, j->s1));
}

static void report(const char *what, int64_t H, timing_t t, double items, const char *unit, double bytes, double memory)
{
    printf("%-16s %4d %9.1f us %6.1f%% %9.1f M %s/s %8.1f GB/s %6.0f%% of memory\n", what, (int)H, 1e6 * t.median,
           bench_spread(t), 1e-6 * items / t.median, unit, 1e-9 * bytes / t.median, 100 * bytes / t.median / memory);
}

/* Column popularity falls with the square of the rank, as words do; values 1. */
static ebb_csr_t make_batch(int64_t cols, int64_t per_row)
{
    int64_t *rowptr = malloc((ROWS + 1) * sizeof *rowptr);
    int32_t *col = malloc((size_t)(ROWS * per_row) * sizeof *col);
    float *val = malloc((size_t)(ROWS * per_row) * sizeof *val);
    uint64_t seed = 1;
    for (int64_t j = 0; j < ROWS * per_row; j++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        double u = (double)(seed >> 11) * 0x1p-53;
        col[j] = (int32_t)((double)cols * u * u * u);
        val[j] = 1;
    }
    for (int64_t r = 0; r <= ROWS; r++)
        rowptr[r] = r * per_row;
    return (ebb_csr_t){ROWS, cols, rowptr, col, val, ROWS * per_row};
}

static void bench_sparse(job_t *j, int64_t H, double memory)
{
    int64_t nnz = j->X.rowptr[ROWS];
    j->H = H;
    double entry = 8 + 4 * (double)H, n = (double)nnz;
    report("csr_gemm", H, bench_time(run_forward, j), n, "nz", n * entry + 4.0 * ROWS * (double)H, memory);
    timing_t t = bench_time(run_grad, j);
    report("csr_grad", H, t, n, "nz", n * entry + 4.0 * (double)(j->rows.n * H), memory);
    report("csr_grad_dense", H, bench_time(run_grad_dense, j), n, "nz", n * (entry + 4 * (double)H), memory);
    j->h = (ebb_optim_hyper_t){.kind = EBB_OPTIM_ADAGRAD, .lr = 1e-6f, .scale = 1e-3f, .eps = 1e-6f, .t = 1};
    double weights = (double)(j->rows.n * H);
    report("rows adagrad", H, bench_time(run_update_rows, j), weights, "w", 20 * weights, memory);
    j->h.kind = EBB_OPTIM_ADAM, j->h.beta1 = 0.9f, j->h.beta2 = 0.999f;
    report("rows adam", H, bench_time(run_update_rows, j), weights, "w", 28 * weights, memory);
}

static void bench_updates(job_t *j, int64_t n, double memory)
{
    static const char *const names[] = {"sgd", "adagrad", "adam", "adamw", "ftrl"};
    static const double bytes[] = {12, 20, 28, 28, 28};
    j->n = n;
    for (int k = EBB_OPTIM_SGD; k <= EBB_OPTIM_FTRL; k++) {
        j->h = (ebb_optim_hyper_t){.kind = (ebb_optim_kind_t)k,
                                   .lr = 1e-6f,
                                   .scale = 1e-3f,
                                   .beta1 = 0.9f,
                                   .beta2 = 0.999f,
                                   .eps = 1e-6f,
                                   .t = 1};
        report(names[k], 0, bench_time(run_update, j), (double)n, "w", bytes[k] * (double)n, memory);
    }
}

int main(int argc, char **argv)
{
    int64_t cols = argc > 1 ? atoll(argv[1]) : 200000, per_row = argc > 2 ? atoll(argv[2]) : 64, most = 128;
    ebb_backend_t *b = bench_backend();
    job_t j = {.ops = b->ops, .X = make_batch(cols, per_row)};
    bench_ok(b->ops->exec_create(b->dev, &j.x));
    int64_t room = cols * most > (32 << 20) ? cols * most : 32 << 20;
    void **tables[] = {(void **)&j.W, (void **)&j.G, (void **)&j.s0, (void **)&j.s1};
    for (int i = 0; i < 4; i++)
        bench_ok(b->ops->alloc(b->dev, (size_t)room * 4, "table", tables[i]));
    for (int64_t i = 0; i < room; i++)
        j.W[i] = j.s0[i] = j.s1[i] = 0.5f, j.G[i] = 0.01f;
    j.Y = bench_floats(ROWS * most);
    j.bias = bench_floats(most);
    j.touched = calloc((size_t)(cols + 63) / 64, 8);
    double memory = bandwidth(&j, (int64_t)1 << 27), cache = bandwidth(&j, 256 << 10);
    printf("read: memory (128 MiB) %.1f GB/s, 256 KiB %.1f GB/s; %d rows of %d of %d columns\n\n", 1e-9 * memory,
           1e-9 * cache, ROWS, (int)per_row, (int)cols);
    bench_sparse(&j, 1, memory);
    bench_sparse(&j, 64, memory);
    bench_sparse(&j, 128, memory);
    bench_updates(&j, 16 << 10, memory);
    bench_updates(&j, 4 << 20, memory);
    b->ops->exec_destroy(j.x);
    for (int i = 0; i < 4; i++)
        b->ops->free(b->dev, *tables[i]);
    ebb_backend_close(b);
    free((void *)j.X.rowptr), free((void *)j.X.col), free((void *)j.X.val), free(j.Y), free(j.bias), free(j.touched);
    return 0;
}
