/* Training steps of two settings of one run file, in turns within one process, so that a busy machine disturbs both
 * alike.
 *
 *   mpirun -n 2 bench_steps run.yaml PAIRS STEPS a.b=c,d.e=f a.b=c,d.e=g
 *
 * Both runs live all the time, on the same ranks, each rank pinned to its share of the cores. A block is one step that
 * is not timed and STEPS that are, from a barrier to a barrier; blocks go A B, B A, A B, ... and both runs do the same
 * steps of the order, so that the two blocks of a pair did the same work. Before each pair all threads run the FMA
 * loop: the peak of the same seconds. bench_steps.py makes the data and the statistics. Rank 0 prints a line of JSON
 * for each pair, lists in the order of the variants; times are milliseconds a step: wall, cpu (of a rank's process,
 * mean over ranks), sync and stall as the run counts them (mean over ranks); gflop: of the dense products of a step;
 * peak: GFLOP/s a thread, by the thread's own time.
 */
#include "bench.h"
#include "fma.h"
#include "train/run.h"

#include <sched.h>

enum { VARIANTS = 2, MAX_SETS = 32 };

typedef struct variant {
    ebb_run_config_t *config;
    ebb_run_t run;
    double wall, cpu, sync, stall, gflop;
} variant_t;

static ebb_comm_t *comm;

static double seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double mean_over_ranks(double x)
{
    bench_ok(ebb_comm_allreduce(comm, &x, 1, EBB_COMM_F64, EBB_SUM));
    return x / ebb_comm_size(comm);
}

/* A rank gets as many cores as its share, the same again where there are more ranks than cores. */
static void pin(void)
{
    int cores = ebb_cores(), share = cores / ebb_comm_local_size(comm);
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int i = 0; i < (share > 0 ? share : 1); i++)
        CPU_SET((ebb_comm_local_rank(comm) * (share > 0 ? share : 1) + i) % cores, &set);
    (void)sched_setaffinity(0, sizeof set, &set);
}

static void load(const char *path, char *sets, variant_t *v)
{
    const char *set[MAX_SETS];
    int n = 0;
    for (char *s = strtok(sets, ","); s && n < MAX_SETS; s = strtok(NULL, ","))
        set[n++] = s;
    bench_ok(ebb_run_config_load(path, n, set, &v->config));
    bench_ok(ebb_run_init(&v->run, comm, v->config, NULL));
    bench_ok(ebb_optim_start(v->run.optim, &v->run.weights));
}

/* Multiplications and additions of a step's dense products: forward, gradient, and the input's gradient but for the
 * first layer. */
static double flop_of(const ebb_run_t *run, int64_t rows)
{
    double per_row = 0;
    bool first = true;
    for (int i = 0; i < run->layout->n_params; i++) {
        const ebb_param_t *p = &run->layout->params[i];
        if (p->kind != EBB_PARAM_DENSE || p->rows < 2)
            continue;
        per_row += (first ? 4.0 : 6.0) * (double)(p->rows * p->cols);
        first = false;
    }
    return per_row * (double)rows;
}

static int64_t one_step(ebb_run_t *run)
{
    const ebb_step_words_t *words;
    ebb_status_t status = ebb_run_step(run, false, &words);
    if (status == EBB_END)
        status = ebb_run_step(run, false, &words);
    bench_ok(status);
    run->step++;
    return words->rows;
}

static double stall_of(const ebb_run_t *run)
{
    ebb_loader_stats_t stats;
    ebb_loader_stats(run->loader, &stats);
    return 1e-9 * (double)stats.stall_ns;
}

static void block(variant_t *v, int steps)
{
    int64_t rows = 0;
    one_step(&v->run);
    bench_ok(ebb_comm_barrier(comm));
    double sync = 1e-9 * (double)v->run.sync_ns, stall = stall_of(&v->run), cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    double wall = seconds_of(CLOCK_MONOTONIC);
    for (int i = 0; i < steps; i++)
        rows += one_step(&v->run);
    bench_ok(ebb_comm_barrier(comm));
    v->wall = 1e3 * (seconds_of(CLOCK_MONOTONIC) - wall) / steps;
    v->cpu = 1e3 * mean_over_ranks(seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu) / steps;
    v->sync = 1e3 * mean_over_ranks(1e-9 * (double)v->run.sync_ns - sync) / steps;
    v->stall = 1e3 * mean_over_ranks(stall_of(&v->run) - stall) / steps;
    v->gflop = 1e-9 * flop_of(&v->run, rows) / steps;
}

static ebb_status_t run_fma(void *user, int thread, int64_t index)
{
    double flop, *peak = user, start = seconds_of(CLOCK_THREAD_CPUTIME_ID);
    void (*loop)(void *) = fma_loop(&flop);
    for (int i = 0; i < 10; i++)
        loop(NULL);
    peak[index] = 1e-9 * 10 * flop / (seconds_of(CLOCK_THREAD_CPUTIME_ID) - start);
    return EBB_OK;
}

static double peak_of_thread(ebb_run_t *run)
{
    double peak[64] = {0}, sum = 0;
    int threads = run->workers.threads < 64 ? run->workers.threads : 64;
    bench_ok(ebb_comm_barrier(comm));
    bench_ok(ebb_pool_run(run->workers.pool, threads, run_fma, peak));
    for (int i = 0; i < threads; i++)
        sum += peak[i];
    return mean_over_ranks(sum / threads);
}

static void print_pair(const variant_t *v, double peak, int threads)
{
    if (ebb_comm_rank(comm) != 0)
        return;
    printf("{\"peak\": %.3f, \"ranks\": %d, \"threads\": %d", peak, ebb_comm_size(comm), threads);
    printf(", \"wall\": [%.4f, %.4f], \"cpu\": [%.4f, %.4f]", v[0].wall, v[1].wall, v[0].cpu, v[1].cpu);
    printf(", \"sync\": [%.4f, %.4f], \"stall\": [%.4f, %.4f]", v[0].sync, v[1].sync, v[0].stall, v[1].stall);
    printf(", \"gflop\": [%.4f, %.4f]}\n", v[0].gflop, v[1].gflop);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static variant_t v[VARIANTS];
    int pairs = argc == 6 ? atoi(argv[2]) : 0, steps = argc == 6 ? atoi(argv[3]) : 0;
    if (pairs < 1 || steps < 1) {
        fprintf(stderr, "usage: bench_steps run.yaml PAIRS STEPS key=value,... key=value,...\n");
        return 64;
    }
    bench_ok(ebb_comm_default(&comm));
    pin();
    for (int i = 0; i < VARIANTS; i++)
        load(argv[1], argv[4 + i], &v[i]);
    for (int p = -1; p < pairs; p++) {
        double peak = peak_of_thread(&v[0].run);
        for (int i = 0; i < VARIANTS; i++)
            block(&v[(p + i) & 1], steps);
        if (p >= 0)
            print_pair(v, peak, v[0].run.workers.threads);
    }
    for (int i = 0; i < VARIANTS; i++) {
        ebb_run_cleanup(&v[i].run);
        ebb_run_config_free(v[i].config);
    }
    ebb_comm_destroy(comm);
    return 0;
}
