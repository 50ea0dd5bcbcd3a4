/* Dense products of a lane against the FMA peak measured in the same run, on one thread and on two at once.
 *
 *   build/release/tests/bench_gemm
 */
#include "bench.h"
#include "fma.h"

#include <pthread.h>

/* FLOP/s of one thread. */
static double fma_peak(void)
{
    double flop;
    timing_t t = bench_time(fma_loop(&flop), NULL);
    return flop / t.low;
}

typedef struct shape {
    const char *what;
    bool ta, tb;
    int64_t M, N, K;
} shape_t;

/* 784-512-256-10 at 170 rows a lane, then at 64. */
static const shape_t shapes[] = {
    {"forward 784x512", false, false, 170, 512, 784}, {"forward 512x256", false, false, 170, 256, 512},
    {"forward 256x10", false, false, 170, 10, 256},   {"dW 784x512", true, false, 784, 512, 170},
    {"dW 512x256", true, false, 512, 256, 170},       {"dW 256x10", true, false, 256, 10, 170},
    {"dX 512x256", false, true, 170, 512, 256},       {"dX 256x10", false, true, 170, 256, 10},
    {"forward, 64 rows", false, false, 64, 512, 784}, {"dW, 64 rows", true, false, 784, 512, 64},
};
enum { SHAPES = sizeof shapes / sizeof *shapes, OF_A_STEP = 8 };

typedef struct job {
    const ebb_backend_ops_t *ops;
    ebb_exec_t *x;
    shape_t s;
    float *A, *B, *C, *bias;
    timing_t t;
} job_t;

static void multiply(void *user)
{
    job_t *j = user;
    const shape_t *s = &j->s;
    bench_ok(j->ops->gemm(j->x, s->ta, s->tb, s->M, s->N, s->K, j->A, s->ta ? s->M : s->K, j->B, s->tb ? s->K : s->N, 0,
                          j->C, s->N, s->ta || s->tb ? NULL : j->bias, s->ta || s->tb ? EBB_ACT_NONE : EBB_ACT_RELU));
}

static void *measure(void *user)
{
    job_t *j = user;
    bench_ok(j->ops->exec_create(NULL, &j->x));
    j->A = bench_floats(j->s.M * j->s.K);
    j->B = bench_floats(j->s.K * j->s.N);
    j->C = bench_floats(j->s.M * j->s.N);
    j->bias = bench_floats(j->s.N);
    j->t = bench_time(multiply, j);
    free(j->A), free(j->B), free(j->C), free(j->bias);
    j->ops->exec_destroy(j->x);
    return NULL;
}

int main(void)
{
    ebb_backend_t *b = bench_backend();
    double peak = fma_peak(), work = 0, time = 0;
    printf("FMA peak of one thread: %.1f GFLOP/s\n\n", 1e-9 * peak);
    printf("%-18s %4s %4s %4s %9s %9s %7s %7s %11s\n", "product", "M", "N", "K", "us", "GFLOP/s", "spread", "of peak",
           "two at once");
    for (int i = 0; i < SHAPES; i++) {
        job_t one = {.ops = b->ops, .s = shapes[i]}, two = one, other = one;
        double flop = 2.0 * (double)(one.s.M * one.s.N * one.s.K);
        pthread_t thread;
        measure(&one);
        if (pthread_create(&thread, NULL, measure, &other) != 0)
            return 1;
        measure(&two);
        pthread_join(thread, NULL);
        printf("%-18s %4d %4d %4d %9.1f %9.1f %6.1f%% %6.1f%% %10.2fx\n", one.s.what, (int)one.s.M, (int)one.s.N,
               (int)one.s.K, 1e6 * one.t.median, 1e-9 * flop / one.t.median, bench_spread(one.t),
               100 * flop / one.t.median / peak, one.t.median / two.t.median + one.t.median / other.t.median);
        if (i < OF_A_STEP) {
            work += flop;
            time += one.t.median;
        }
    }
    double again = fma_peak();
    printf("\nwhole step of 170 rows (first %d): %.1f GFLOP/s, %.1f%% of the FMA peak (measured after: %.1f)\n",
           OF_A_STEP, 1e-9 * work / time, 100 * work / time / (again > peak ? again : peak), 1e-9 * again);
    ebb_backend_close(b);
    return 0;
}
