/* New weights from their owners to all: the dense parts in place, the touched rows of all tables in one message a
 * rank. */
#include "sync/device.h"
#include "sync/steps.h"
#include "base/clock.h"

#include <string.h>

#define ROWS_TASK ((int64_t)16 << 10) /* bytes of rows of one task, roughly */

typedef struct copy_job {
    ebb_sync_t *sync;
    ebb_weights_t *weights;
    int rank; /* whose rows */
    int t;
    int64_t per; /* rows of one task */
} copy_job_t;

static int64_t align64(int64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* Rows of table t from rank r; counts[r * n_tables + t]. */
static int64_t count_of(const ebb_sync_t *s, int r, int t)
{
    return s->words_in[r * s->n_tables + t];
}

static char *part_at(const ebb_sync_t *s, int r, int t)
{
    char *at = s->gathered.data + s->gather_displs[r];
    for (int i = 0; i < t; i++)
        at += align64(count_of(s, r, i) * 4) + align64(count_of(s, r, i) * s->table[i].width * 4);
    return at;
}

static ebb_status_t copy_rows(void *user, int thread, int64_t index)
{
    const copy_job_t *job = user;
    ebb_sync_t *s = job->sync;
    int64_t n = count_of(s, job->rank, job->t), width = s->table[job->t].width;
    int32_t *idx = (int32_t *)part_at(s, job->rank, job->t);
    float *val = (float *)((char *)idx + align64(n * 4)), *weights = job->weights->table[job->t];
    int64_t end = ebb_min64((index + 1) * job->per, n);
    for (int64_t i = index * job->per; i < end; i++) {
        if (job->rank == s->rank) {
            idx[i] = s->table[job->t].row[i];
            memcpy(val + i * width, weights + idx[i] * width, (size_t)width * 4);
        } else {
            memcpy(weights + idx[i] * width, val + i * width, (size_t)width * 4);
        }
    }
    return EBB_OK;
}

/* Pack the own rows, or unpack another rank's. */
static ebb_status_t copy_tables(ebb_sync_t *s, ebb_weights_t *weights, int rank)
{
    for (int t = 0; t < s->n_tables; t++) {
        copy_job_t job = {s, weights, rank, t, ROWS_TASK / (4 * s->table[t].width) + 1};
        EBB_TRY(ebb_pool_run(s->pool, (count_of(s, rank, t) + job.per - 1) / job.per, copy_rows, &job));
    }
    return EBB_OK;
}

static ebb_status_t gather_tables(ebb_sync_t *s, ebb_weights_t *weights)
{
    int64_t total = 0;
    for (int t = 0; t < s->n_tables; t++)
        s->words_out[t] = s->table[t].n;
    EBB_TRY(ebb_comm_allgather(s->comm, s->words_out, s->n_tables * (int64_t)sizeof *s->words_out, s->words_in));
    for (int r = 0; r < s->ranks; r++) {
        s->gather_displs[r] = total;
        for (int t = 0; t < s->n_tables; t++)
            total += align64(count_of(s, r, t) * 4) + align64(count_of(s, r, t) * s->table[t].width * 4);
        s->gather_counts[r] = total - s->gather_displs[r];
    }
    EBB_TRY(ebb_sync_room(s, &s->gathered, total));
    EBB_TRY(copy_tables(s, weights, s->rank));
    s->stats.bytes_sent += s->gather_counts[s->rank] * (s->ranks - 1);
    EBB_TRY(ebb_comm_allgatherv(s->comm, s->gathered.data + s->gather_displs[s->rank], s->gather_counts[s->rank],
                                s->gathered.data, s->gather_counts, s->gather_displs));
    for (int r = 0; r < s->ranks; r++)
        if (r != s->rank)
            EBB_TRY(copy_tables(s, weights, r));
    return EBB_OK;
}

static ebb_status_t gather_share(ebb_sync_t *s, int share, const ebb_weights_t *weights)
{
    for (int r = 0; r < s->ranks; r++) {
        const ebb_own_t own = ebb_sync_own(s->layout, share, r, s->ranks);
        s->gather_displs[r] = own.begin * 4;
        s->gather_counts[r] = (own.end - own.begin) * 4;
    }
    s->stats.bytes_sent += s->gather_counts[s->rank] * (s->ranks - 1);
    if (s->device)
        return ebb_sync_device_gather(s, weights->dense, s->gather_counts, s->gather_displs);
    return ebb_comm_allgatherv(s->comm, weights->dense + s->share[share].own.begin, s->gather_counts[s->rank],
                               weights->dense, s->gather_counts, s->gather_displs);
}

ebb_status_t ebb_sync_gather_bucket(ebb_sync_t *s, int bucket, ebb_weights_t *weights)
{
    int64_t start = ebb_now_ns();
    bool last = bucket == s->n_shares - 1;
    if (s->owners > 1 && s->layout->dense_floats > 0)
        EBB_TRY(gather_share(s, bucket, weights));
    if (s->owners > 1 && s->n_tables > 0 && last)
        EBB_TRY(s->device ? ebb_sync_device_gather_rows(s, weights) : gather_tables(s, weights));
    if (s->device && last)
        EBB_TRY(ebb_sync_let_lanes_go(s));
    s->stats.gather_ns += ebb_now_ns() - start;
    return EBB_OK;
}

ebb_status_t ebb_sync_gather(ebb_sync_t *s, ebb_weights_t *weights)
{
    if (!s->device)
        EBB_TRY(ebb_sync_await_all(s));
    for (int i = 0; i < s->n_shares; i++)
        EBB_TRY(ebb_sync_gather_bucket(s, i, weights));
    return EBB_OK;
}
