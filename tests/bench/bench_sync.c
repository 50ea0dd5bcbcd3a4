/* Canonical sums against plain MPI_Allreduce of the same bytes: mpirun -n 2 bench_sync [threads] [lanes] [rounds].
 *
 * A step is what sync adds to it: lanes hand in gradients (already computed), reduce, gather. `fast` is the same with
 * lanes added into one buffer per thread and one MPI_Allreduce; `allreduce` is the bare call. Rounds of the three
 * alternate, so that what else the machine does hits all alike; the least, the median and the quartiles are printed,
 * and canonical over fast. The two sums are checked against each other first.
 */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/threads.h"
#include <ebb/comm.h>
#include <ebb/compute.h>
#include <ebb/sync.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        if ((call) != EBB_OK) {                                                                                        \
            fprintf(stderr, "%s: %s\n", #call, ebb_error()->message);                                                  \
            exit(70);                                                                                                  \
        }                                                                                                              \
    } while (0)

enum { MAX_ROUNDS = 1000, MAX_THREADS = 64 };

typedef struct side {
    ebb_sync_t *sync;
    int32_t lane0, n_lanes;
    ebb_exec_t **exec;
    const ebb_backend_ops_t *ops;
    const float *source;
    int64_t floats;
} side_t;

static ebb_comm_t *comm;
static double ms[3][MAX_ROUNDS];

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* A lane's gradient: zero cost to compute, so it is one copy (or one addition, where sums of lanes are there). */
static ebb_status_t lane_task(void *user, int thread, int64_t index)
{
    side_t *side = user;
    ebb_grads_t *grads;
    int32_t lane = side->lane0 + (int32_t)index;
    EBB_TRY(ebb_sync_lane_grads(side->sync, lane, 0, true, side->exec[thread], &grads));
    if (grads->accumulate)
        EBB_TRY(side->ops->add(side->exec[thread], side->floats, grads->dense, side->source, grads->dense));
    else
        EBB_TRY(side->ops->copy(side->exec[thread], grads->dense, side->source, (size_t)side->floats * 4));
    return ebb_sync_lane_done(side->sync, lane, 0, true, side->exec[thread]);
}

static double step(side_t *side, ebb_pool_t *pool, ebb_weights_t *weights, ebb_sums_t **sums)
{
    CHECK(ebb_comm_barrier(comm));
    int64_t start = ebb_now_ns();
    CHECK(ebb_sync_begin(side->sync));
    CHECK(ebb_pool_run(pool, side->n_lanes, lane_task, side));
    CHECK(ebb_sync_reduce(side->sync, sums));
    CHECK(ebb_sync_gather(side->sync, weights));
    CHECK(ebb_comm_barrier(comm));
    return (double)(ebb_now_ns() - start) * 1e-6;
}

static double bare(float *data, int64_t floats)
{
    CHECK(ebb_comm_barrier(comm));
    int64_t start = ebb_now_ns();
    CHECK(ebb_comm_allreduce(comm, data, floats, EBB_COMM_F32, EBB_SUM));
    CHECK(ebb_comm_barrier(comm));
    return (double)(ebb_now_ns() - start) * 1e-6;
}

/* The gradients are small integers, so both sums are exact and must be equal. */
static void compare(const ebb_layout_t *layout, const ebb_sums_t *a, const ebb_sums_t *b)
{
    const ebb_own_t own = ebb_sync_own(layout, 0, ebb_comm_rank(comm), ebb_comm_size(comm));
    for (int64_t i = own.begin; i < own.end; i++)
        if (a->dense[i - own.begin] != b->dense[i]) {
            fprintf(stderr, "sums differ at %lld\n", (long long)i);
            exit(70);
        }
}

static void one_size(ebb_backend_t *backend, ebb_pool_t *pool, ebb_exec_t **exec, int64_t floats, int32_t lanes,
                     int rounds)
{
    ebb_param_t param = {.name = "w", .kind = EBB_PARAM_DENSE, .rows = 1, .cols = floats};
    ebb_layout_t layout = {.n_params = 1, .params = &param, .dense_floats = floats};
    int rank = ebb_comm_rank(comm), ranks = ebb_comm_size(comm);
    int32_t lane0 = ebb_lane_first(lanes, rank, ranks), n = ebb_lane_first(lanes, rank + 1, ranks) - lane0;
    ebb_weights_t weights = {0};
    ebb_sums_t *sums[2];
    float *source, *data;
    side_t side[2];
    CHECK(EBB_NEW_ARRAY("bench", floats, &source));
    CHECK(EBB_NEW_ARRAY("bench", floats, &data));
    CHECK(EBB_NEW_ARRAY("bench", floats, &weights.dense));
    for (int64_t i = 0; i < floats; i++)
        source[i] = (float)(i % 7 - 3);
    for (int m = 0; m < 2; m++) {
        side[m] = (side_t){NULL, lane0, n, exec, backend->ops, source, floats};
        CHECK(ebb_sync_create(comm, backend, pool, exec, &layout, lanes, m ? EBB_SYNC_FAST : EBB_SYNC_CANONICAL,
                              EBB_ROWS_AUTO, &side[m].sync));
    }
    for (int i = -3; i < rounds; i++) {
        double t[3];
        for (int m = 0; m < 2; m++)
            t[m] = step(&side[m], pool, &weights, &sums[m]);
        t[2] = bare(data, floats);
        if (i < 0)
            compare(&layout, sums[0], sums[1]);
        for (int m = 0; i >= 0 && m < 3; m++)
            ms[m][i] = t[m];
    }
    for (int m = 0; m < 3; m++)
        qsort(ms[m], (size_t)rounds, sizeof **ms, by_value);
    if (rank == 0)
        printf("%9lld  %8.3f %8.3f [%8.3f %8.3f]  %8.3f %8.3f [%8.3f %8.3f]  %8.3f %8.3f   %5.2f %5.2f\n",
               (long long)floats * 4 / 1024, ms[0][0], ms[0][rounds / 2], ms[0][rounds / 4], ms[0][rounds * 3 / 4],
               ms[1][0], ms[1][rounds / 2], ms[1][rounds / 4], ms[1][rounds * 3 / 4], ms[2][0], ms[2][rounds / 2],
               ms[0][0] / ms[1][0], ms[0][rounds / 2] / ms[1][rounds / 2]);
    fflush(stdout);
    for (int m = 0; m < 2; m++)
        ebb_sync_destroy(side[m].sync);
    ebb_free(source);
    ebb_free(data);
    ebb_free(weights.dense);
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 1, rounds = argc > 3 ? atoi(argv[3]) : 41;
    int32_t lanes = argc > 2 ? atoi(argv[2]) : 24;
    ebb_backend_t *backend;
    ebb_pool_t *pool;
    ebb_exec_t *exec[MAX_THREADS];
    if (threads < 1 || threads > MAX_THREADS || rounds < 1 || rounds > MAX_ROUNDS) {
        fprintf(stderr, "usage: bench_sync [threads 1..%d] [lanes] [rounds 1..%d]\n", MAX_THREADS, MAX_ROUNDS);
        return 64;
    }
    CHECK(ebb_comm_default(&comm));
    CHECK(ebb_backend_open("cpu", 0, &backend));
    CHECK(ebb_pool_create(threads, &pool));
    for (int i = 0; i < threads; i++)
        CHECK(backend->ops->exec_create(backend->dev, &exec[i]));
    if (ebb_comm_rank(comm) == 0)
        printf("%d ranks x %d threads, %d lanes, %d rounds; milliseconds: least, median [quartiles]\n"
               "      KiB  canonical                               fast                                    allreduce   "
               "        ratio\n",
               ebb_comm_size(comm), threads, lanes, rounds);
    for (int64_t kib = 64; kib <= 64 << 10; kib *= 4)
        one_size(backend, pool, exec, kib * 256, lanes, kib >= 16 << 10 ? (rounds + 3) / 4 : rounds);
    for (int i = 0; i < threads; i++)
        backend->ops->exec_destroy(exec[i]);
    ebb_pool_destroy(pool);
    ebb_backend_close(backend);
    ebb_comm_destroy(comm);
    return 0;
}
