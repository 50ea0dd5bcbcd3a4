/* Sparse products and their transposes on a GPU beside cuSPARSE, with the roofs measured in the same call: bandwidth of
 * a copy, and matmul peaks. Bytes of CSR x dense: 8 nnz + 4 H (touched rows) + 4 H (batch rows). One JSON line a figure
 * with --json, --roofs after it: the roofs alone. Needs a GPU; skipped without one. */
#include "bench.h"

#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <cusparse.h>
#include <math.h>

enum { ROWS = 4096, COPY_FLOATS = 1 << 28, PEAK = 8192 };

static ebb_backend_t *gpu;
static const ebb_backend_ops_t *ops;
static ebb_exec_t *x;
static bool json;

#define CUDA(call)                                                                                                     \
    do {                                                                                                               \
        cudaError_t code_ = (call);                                                                                    \
        if (code_ != cudaSuccess) {                                                                                    \
            fprintf(stderr, "%s: %s\n", #call, cudaGetErrorString(code_));                                             \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)
#define LIBRARY(call)                                                                                                  \
    do {                                                                                                               \
        int code_ = (int)(call);                                                                                       \
        if (code_ != 0) {                                                                                              \
            fprintf(stderr, "%s: status %d\n", #call, code_);                                                          \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static void *device(size_t bytes)
{
    void *p;
    bench_ok(ops->alloc(gpu->dev, bytes, "benchmark", &p));
    return p;
}

static void *upload(const void *host, size_t bytes)
{
    void *p = device(bytes);
    bench_ok(ops->upload(x, p, host, bytes));
    bench_ok(ops->exec_sync(x));
    return p;
}

static void done(void)
{
    CUDA(cudaDeviceSynchronize());
}

/* ---- roofs ---- */

static float *copy_from, *copy_to;

static void copy_once(void *user)
{
    CUDA(cudaMemcpyAsync(copy_to, copy_from, COPY_FLOATS * sizeof(float), cudaMemcpyDeviceToDevice, 0));
    done();
}

static double copy_bandwidth(void)
{
    copy_from = device(COPY_FLOATS * sizeof(float));
    copy_to = device(COPY_FLOATS * sizeof(float));
    double rate = 2.0 * COPY_FLOATS * sizeof(float) / bench_time(copy_once, NULL).median;
    ops->free(gpu->dev, copy_from);
    ops->free(gpu->dev, copy_to);
    return rate;
}

typedef struct peak {
    cublasHandle_t blas;
    cudaDataType_t type;
    cublasComputeType_t compute;
    void *a, *b, *c;
} peak_t;

static void multiply_once(void *user)
{
    const peak_t *p = user;
    const float one = 1, zero = 0;
    LIBRARY(cublasGemmEx(p->blas, CUBLAS_OP_N, CUBLAS_OP_N, PEAK, PEAK, PEAK, &one, p->a, p->type, PEAK, p->b, p->type,
                         PEAK, &zero, p->c, p->type, PEAK, p->compute, CUBLAS_GEMM_DEFAULT));
    done();
}

static double matmul_peak(cudaDataType_t type, cublasComputeType_t compute, size_t element)
{
    peak_t p = {.type = type, .compute = compute};
    size_t bytes = (size_t)PEAK * PEAK * element;
    p.a = device(bytes);
    p.b = device(bytes);
    p.c = device(bytes);
    LIBRARY(cublasCreate(&p.blas));
    double rate = 2.0 * PEAK * PEAK * (double)PEAK / bench_time(multiply_once, &p).median;
    cublasDestroy(p.blas);
    ops->free(gpu->dev, p.a);
    ops->free(gpu->dev, p.b);
    ops->free(gpu->dev, p.c);
    return rate;
}

/* ---- one shape ---- */

typedef struct shape {
    int64_t cols, H, nnz, touched;
    ebb_csr_t X;
    int32_t *rowptr32; /* cuSPARSE's indices are of one width */
    float *W, *Y, *peer, *dY, *dW;
    cusparseHandle_t handle;
    cusparseSpMatDescr_t matrix;
    cusparseDnMatDescr_t dense_in, dense_out, back_in, back_out;
    void *room, *back_room;
} shape_t;

static void make_rows(shape_t *s, int64_t each)
{
    int64_t *rowptr = malloc((ROWS + 1) * sizeof *rowptr);
    int32_t *rowptr32 = malloc((ROWS + 1) * sizeof *rowptr32), *col = malloc((size_t)(ROWS * each) * sizeof *col);
    float *val = bench_floats(ROWS * each);
    char *seen = calloc((size_t)s->cols, 1);
    uint64_t draw = 1;
    for (int64_t r = 0; r <= ROWS; r++) {
        rowptr[r] = r * each;
        rowptr32[r] = (int32_t)(r * each);
    }
    for (int64_t r = 0; r < ROWS; r++)
        for (int64_t k = 0; k < each; k++) { /* ascending in a row, one draw of each stretch */
            int64_t lo = s->cols * k / each, hi = s->cols * (k + 1) / each;
            draw = draw * 6364136223846793005u + 1442695040888963407u;
            col[r * each + k] = (int32_t)(lo + (int64_t)((draw >> 33) % (uint64_t)(hi - lo)));
            s->touched += !seen[col[r * each + k]];
            seen[col[r * each + k]] = 1;
        }
    s->nnz = ROWS * each;
    s->X = (ebb_csr_t){.rows = ROWS,
                       .cols = s->cols,
                       .rowptr = upload(rowptr, (ROWS + 1) * sizeof *rowptr),
                       .col = upload(col, (size_t)s->nnz * sizeof *col),
                       .val = upload(val, (size_t)s->nnz * sizeof *val),
                       .nnz = s->nnz};
    s->rowptr32 = upload(rowptr32, (ROWS + 1) * sizeof *rowptr32);
    free(rowptr), free(rowptr32), free(col), free(val), free(seen);
}

static cusparseDnMatDescr_t dense(int64_t rows, int64_t H, float *p)
{
    cusparseDnMatDescr_t d;
    LIBRARY(cusparseCreateDnMat(&d, rows, H, H, p, CUDA_R_32F, CUSPARSE_ORDER_ROW));
    return d;
}

static void *make_room(const shape_t *s, cusparseOperation_t op, cusparseDnMatDescr_t in, cusparseDnMatDescr_t out)
{
    const float one = 1, zero = 0;
    size_t bytes;
    LIBRARY(cusparseSpMM_bufferSize(s->handle, op, CUSPARSE_OPERATION_NON_TRANSPOSE, &one, s->matrix, in, &zero, out,
                                    CUDA_R_32F, CUSPARSE_SPMM_ALG_DEFAULT, &bytes));
    return device(bytes + 1);
}

static void make_shape(shape_t *s, int64_t cols, int64_t H, int64_t each)
{
    *s = (shape_t){.cols = cols, .H = H};
    make_rows(s, each);
    float *w = bench_floats(cols * H), *d = bench_floats(ROWS * H);
    s->W = upload(w, (size_t)(cols * H) * sizeof *w);
    s->dY = upload(d, (size_t)(ROWS * H) * sizeof *d);
    s->Y = device((size_t)(ROWS * H) * sizeof *w);
    s->peer = device((size_t)(ROWS * H) * sizeof *w);
    s->dW = device((size_t)(cols * H) * sizeof *w);
    free(w), free(d);
    LIBRARY(cusparseCreate(&s->handle));
    LIBRARY(cusparseCreateCsr(&s->matrix, ROWS, cols, s->nnz, s->rowptr32, (void *)s->X.col, (void *)s->X.val,
                              CUSPARSE_INDEX_32I, CUSPARSE_INDEX_32I, CUSPARSE_INDEX_BASE_ZERO, CUDA_R_32F));
    s->dense_in = dense(cols, H, s->W);
    s->dense_out = dense(ROWS, H, s->peer);
    s->back_in = dense(ROWS, H, s->dY);
    s->back_out = dense(cols, H, s->dW);
    s->room = make_room(s, CUSPARSE_OPERATION_NON_TRANSPOSE, s->dense_in, s->dense_out);
    s->back_room = make_room(s, CUSPARSE_OPERATION_TRANSPOSE, s->back_in, s->back_out);
}

static void free_shape(shape_t *s)
{
    cusparseDestroyDnMat(s->dense_in);
    cusparseDestroyDnMat(s->dense_out);
    cusparseDestroyDnMat(s->back_in);
    cusparseDestroyDnMat(s->back_out);
    cusparseDestroySpMat(s->matrix);
    cusparseDestroy(s->handle);
    const void *all[] = {s->X.rowptr, s->X.col, s->X.val, s->rowptr32, s->W,        s->Y,
                         s->peer,     s->dY,    s->dW,    s->room,     s->back_room};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        ops->free(gpu->dev, (void *)all[i]);
}

static void forward(void *user)
{
    const shape_t *s = user;
    bench_ok(ops->csr_gemm(x, &s->X, s->H, s->W, s->H, NULL, EBB_ACT_NONE, s->Y));
    bench_ok(ops->exec_sync(x));
}

static void forward_peer(void *user)
{
    const shape_t *s = user;
    const float one = 1, zero = 0;
    LIBRARY(cusparseSpMM(s->handle, CUSPARSE_OPERATION_NON_TRANSPOSE, CUSPARSE_OPERATION_NON_TRANSPOSE, &one, s->matrix,
                         s->dense_in, &zero, s->dense_out, CUDA_R_32F, CUSPARSE_SPMM_ALG_DEFAULT, s->room));
    done();
}

static void backward(void *user)
{
    const shape_t *s = user;
    ebb_rows_t rows;
    bench_ok(ops->csr_grad(x, 0, &s->X, s->H, s->dY, &rows));
    bench_ok(ops->exec_sync(x));
}

static void backward_peer(void *user)
{
    const shape_t *s = user;
    const float one = 1, zero = 0;
    LIBRARY(cusparseSpMM(s->handle, CUSPARSE_OPERATION_TRANSPOSE, CUSPARSE_OPERATION_NON_TRANSPOSE, &one, s->matrix,
                         s->back_in, &zero, s->back_out, CUDA_R_32F, CUSPARSE_SPMM_ALG_DEFAULT, s->back_room));
    done();
}

/* A wrong answer has no speed. */
static void check(const shape_t *s)
{
    int64_t n = ROWS * s->H;
    float *a = malloc((size_t)n * sizeof *a), *b = malloc((size_t)n * sizeof *b);
    forward((void *)s);
    forward_peer((void *)s);
    bench_ok(ops->download(x, a, s->Y, (size_t)n * sizeof *a));
    bench_ok(ops->download(x, b, s->peer, (size_t)n * sizeof *b));
    bench_ok(ops->exec_sync(x));
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(a[i] - b[i]) <= 1e-4f * (1 + fabsf(b[i])) * sqrtf((float)(s->nnz / ROWS)))) {
            fprintf(stderr, "product %lld is %g, cuSPARSE says %g\n", (long long)i, (double)a[i], (double)b[i]);
            exit(1);
        }
    free(a), free(b);
}

static void show(const char *what, const shape_t *s, timing_t ours, timing_t peer, double roof)
{
    double bytes = 8.0 * (double)s->nnz + 4.0 * (double)s->H * (double)(s->touched + ROWS);
    long long cols = s->cols, each = s->nnz / ROWS, H = s->H;
    double rate = bytes / ours.median, times = peer.median / ours.median;
    if (json)
        printf("{\"op\":\"%s\",\"cols\":%lld,\"nnz_per_row\":%lld,\"H\":%lld,\"seconds\":%.9f,\"spread_percent\":%.1f,"
               "\"bytes_per_s\":%.4e,\"share_of_copy\":%.4f,\"times_cusparse\":%.3f}\n",
               what, cols, each, H, ours.median, bench_spread(ours), rate, rate / roof, times);
    else
        printf("%-12s %9lld %6lld %5lld  %10.6f s +-%4.1f %%  %8.3e B/s  %.2f of copy  %.2f x cuSPARSE\n", what, cols,
               each, H, ours.median, bench_spread(ours), rate, rate / roof, times);
    fflush(stdout);
}

static void run_shapes(double roof)
{
    static const int64_t each[] = {30, 120, 1000}, H[] = {64, 128, 256}, cols[] = {1 << 18, 1 << 20, 1 << 22};
    for (int c = 0; c < 3; c++)
        for (int h = 0; h < 3; h++)
            for (int e = 0; e < 3; e++) {
                shape_t s;
                make_shape(&s, cols[c], H[h], each[e]);
                check(&s);
                timing_t a = bench_time(forward, &s), b = bench_time(forward_peer, &s);
                show("csr x dense", &s, a, b, roof);
                a = bench_time(backward, &s), b = bench_time(backward_peer, &s);
                show("transpose", &s, a, b, roof);
                free_shape(&s);
            }
}

int main(int argc, char **argv)
{
    char text[256];
    json = argc > 1 && strcmp(argv[1], "--json") == 0;
    if (ebb_backend_open("cuda", 0, &gpu) != EBB_OK) {
        printf("SKIPPED: %s\n", ebb_error()->message);
        return 77;
    }
    ops = gpu->ops;
    bench_ok(ops->exec_create(gpu->dev, &x));
    bench_ok(ops->describe(gpu->dev, text, sizeof text));
    double copy = copy_bandwidth(), fp32 = matmul_peak(CUDA_R_32F, CUBLAS_COMPUTE_32F_PEDANTIC, 4);
    double tf32 = matmul_peak(CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32, 4);
    double bf16 = matmul_peak(CUDA_R_16BF, CUBLAS_COMPUTE_32F, 2);
    if (json)
        printf("{\"device\":\"%s\",\"copy_bytes_per_s\":%.4e,\"fp32\":%.4e,\"tf32\":%.4e,\"bf16\":%.4e}\n", text, copy,
               fp32, tf32, bf16);
    else
        printf("%s\nroofs: copy %.3e B/s, matmul fp32 %.3e, tf32 %.3e, bf16 %.3e FLOP/s\n", text, copy, fp32, tf32,
               bf16);
    if (argc < 3 || strcmp(argv[2], "--roofs") != 0)
        run_shapes(copy);
    ops->exec_destroy(x);
    ebb_backend_close(gpu);
    return 0;
}
