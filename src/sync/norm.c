/* The squared norm of the gradient sum: squares of fixed segments (the unit of owners' parts; table rows) are added
 * exactly, so neither the order nor the split over threads and ranks matters. */
#include "sync/steps.h"

#include <string.h>

typedef struct norm_job {
    ebb_sync_t *sync;
    const float *val;
    int64_t n, segment;
    int64_t per; /* floats of one task: a multiple of segment */
} norm_job_t;

static ebb_status_t norm_task(void *user, int thread, int64_t index)
{
    const norm_job_t *job = user;
    ebb_sync_t *s = job->sync;
    double *out = s->segment + EBB_SYNC_SLAB * thread;
    int64_t at = index * job->per, n = ebb_min64(job->per, job->n - at);
    EBB_TRY(s->backend->ops->sumsq(s->exec[thread], n, job->segment, job->val + at, out));
    EBB_TRY(s->backend->ops->exec_sync(s->exec[thread]));
    for (int64_t i = 0; i * job->segment < n; i++)
        ebb_exact_add(&s->norm[thread], out[i]);
    ebb_exact_normalize(&s->norm[thread]);
    return EBB_OK;
}

static ebb_status_t add_squares(ebb_sync_t *s, const float *val, int64_t n, int64_t segment)
{
    int64_t segments = segment < 64 << 10 ? ebb_min64((64 << 10) / segment, EBB_SYNC_SLAB) : 1;
    norm_job_t job = {s, val, n, segment, segments * segment};
    return ebb_pool_run(s->pool, (n + job.per - 1) / job.per, norm_task, &job);
}

static ebb_status_t add_on_host(ebb_sync_t *s)
{
    for (int i = 0; i < s->n_shares; i++) {
        const ebb_own_t *own = &s->share[i].own;
        EBB_TRY(
            add_squares(s, s->sums.dense + own->local, own->end - own->begin, ebb_sync_unit(s->layout->dense_floats)));
    }
    for (int t = 0; t < s->n_tables; t++)
        EBB_TRY(add_squares(s, s->sums.table[t].val, s->sums.table[t].n * s->table[t].width, s->table[t].width));
    return EBB_OK;
}

/* ---- on a device, which is waited for once ---- */

static ebb_status_t room_for_squares(ebb_sync_t *s, int64_t n)
{
    if (n <= s->squares_cap)
        return EBB_OK;
    ebb_pinned_free(s->backend, &s->squares);
    s->squares_cap = 0;
    n += n / 4;
    EBB_TRY(ebb_pinned_make(s->backend, "squares of gradients", (size_t)n * sizeof(double), &s->squares));
    s->squares_cap = n;
    return EBB_OK;
}

static ebb_status_t add_some(void *user, int thread, int64_t index)
{
    const norm_job_t *job = user;
    ebb_sync_t *s = job->sync;
    const double *squares = s->squares.ptr;
    for (int64_t i = index * job->per; i < ebb_min64((index + 1) * job->per, job->n); i++)
        ebb_exact_add(&s->norm[thread], squares[i]);
    ebb_exact_normalize(&s->norm[thread]);
    return EBB_OK;
}

static int64_t segments_of(const ebb_own_t *own, int64_t unit)
{
    return (own->end - own->begin + unit - 1) / unit;
}

static ebb_status_t add_on_device(ebb_sync_t *s)
{
    const ebb_backend_ops_t *ops = s->backend->ops;
    int64_t unit = ebb_sync_unit(s->layout->dense_floats), n = 0;
    EBB_TRY(ebb_sync_settle(s));
    for (int i = 0; i < s->n_shares; i++)
        n += segments_of(&s->share[i].own, unit);
    for (int t = 0; t < s->n_tables; t++)
        n += s->sums.table[t].n;
    EBB_TRY(room_for_squares(s, n));
    double *squares = s->squares.ptr;
    n = 0;
    for (int i = 0; i < s->n_shares; n += segments_of(&s->share[i++].own, unit)) {
        const ebb_own_t *own = &s->share[i].own;
        EBB_TRY(ops->sumsq(s->exec[0], own->end - own->begin, unit, s->sums.dense + own->local, squares + n));
    }
    for (int t = 0; t < s->n_tables; n += s->sums.table[t++].n)
        EBB_TRY(ops->sumsq(s->exec[0], s->sums.table[t].n * s->table[t].width, s->table[t].width, s->sums.table[t].val,
                           squares + n));
    EBB_TRY(ops->exec_sync(s->exec[0]));
    norm_job_t job = {.sync = s, .n = n, .per = EBB_SYNC_SLAB};
    return ebb_pool_run(s->pool, (n + job.per - 1) / job.per, add_some, &job);
}

ebb_status_t ebb_sync_norm2(ebb_sync_t *s, double *norm2_p)
{
    ebb_exact_t sum = {0};
    bool in_parts = !s->sums.dense;
    for (int t = 0; t < s->n_tables; t++)
        in_parts |= s->sums.table[t].parts > 0;
    if (in_parts)
        return EBB_FAIL(EBB_EBUG, "the norm needs sums that ebb_sync_reduce_parts left in parts");
    memset(s->norm, 0, (size_t)s->threads * sizeof *s->norm);
    EBB_TRY(s->device ? add_on_device(s) : add_on_host(s));
    for (int i = 0; i < s->threads; i++)
        ebb_exact_merge(&sum, &s->norm[i]);
    ebb_exact_normalize(&sum);
    if (s->owners > 1)
        EBB_TRY(ebb_comm_allreduce(s->comm, sum.word, EBB_EXACT_WORDS, EBB_COMM_I64, EBB_SUM));
    *norm2_p = ebb_exact_value(&sum);
    return EBB_OK;
}
