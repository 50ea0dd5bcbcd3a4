/* Numbers that are not finite: noticed at next to no cost, explained once there are any.
 *
 * A loss shows itself in the exact sums that all ranks add anyway; a gradient in its norm where gradients are clipped.
 * Weights that turned bad without showing in the loss (a ReLU hides NaN) are met by a window that moves over the
 * weights by some floats in each step, and at the latest before they are written to a file; so are the optimiser's
 * states, where an infinite second moment would only hold its weight where it is. Lane and parameter are
 * looked for only then, by computing the lane once more. What is found depends on weights and rows alone, not on ranks
 * or threads.
 */
#include "train/finite.h"
#include "base/alloc.h"
#include "base/finite.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { PIECE = 8192, TASK = 8 * PIECE };

static ebb_status_t scan(const ebb_run_t *run, int thread, const float *x, int64_t n, bool *bad_p)
{
    const ebb_backend_ops_t *ops = run->workers.backend->ops;
    ebb_exec_t *exec = run->workers.exec[thread];
    float host[PIECE];
    if (ops->caps & EBB_CAP_HOST_MEMORY) {
        *bad_p = ebb_has_nonfinite(x, n);
        return EBB_OK;
    }
    for (int64_t at = 0; at < n && !*bad_p; at += PIECE) {
        int64_t part = n - at < PIECE ? n - at : PIECE;
        EBB_TRY(ops->download(exec, host, x + at, (size_t)part * sizeof *host));
        EBB_TRY(ops->exec_sync(exec));
        *bad_p = ebb_has_nonfinite(host, part);
    }
    return EBB_OK;
}

static int64_t floats_of(const ebb_param_t *p)
{
    return p->rows * p->cols;
}

/* The first parameter with a bad weight among floats [begin, end), counted through all parameters; -1: none. */
static ebb_status_t scan_weights(const ebb_run_t *run, int thread, int64_t begin, int64_t end, int64_t *param_p)
{
    const ebb_layout_t *layout = run->layout;
    int64_t at = 0;
    *param_p = -1;
    for (int i = 0; i < layout->n_params && at < end && *param_p < 0; at += floats_of(&layout->params[i]), i++) {
        const ebb_param_t *p = &layout->params[i];
        const float *w = p->kind == EBB_PARAM_DENSE ? run->weights.dense + p->offset : run->weights.table[p->offset];
        int64_t b = begin > at ? begin - at : 0, e = end - at < floats_of(p) ? end - at : floats_of(p);
        bool bad = false;
        if (b < e)
            EBB_TRY(scan(run, thread, w + b, e - b, &bad));
        *param_p = bad ? i : -1;
    }
    return EBB_OK;
}

ebb_status_t ebb_finite_weights_error(const ebb_run_t *run, int64_t param)
{
    return EBB_FAIL(EBB_ENONFINITE,
                    "the weights of %s are not finite after step %" PRId64 " (epoch %" PRId64
                    "); lower the learning rate, or set train.clip_norm; the checkpoints before it are kept",
                    run->layout->params[param].name, run->step,
                    run->epoch_steps > 0 && run->step > 0 ? (run->step - 1) / run->epoch_steps + 1 : 1);
}

typedef struct scan_job {
    const ebb_run_t *run;
    int64_t begin, end, found; /* found: least parameter */
} scan_job_t;

static ebb_status_t scan_task(void *user, int thread, int64_t index)
{
    scan_job_t *job = user;
    int64_t begin = job->begin + index * TASK, end = begin + TASK < job->end ? begin + TASK : job->end, param;
    EBB_TRY(scan_weights(job->run, thread, begin, end, &param));
    int64_t least = __atomic_load_n(&job->found, __ATOMIC_RELAXED);
    while (param >= 0 && param < least)
        if (__atomic_compare_exchange_n(&job->found, &least, param, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            break;
    return EBB_OK;
}

/* Each rank looks at its share of the weights. */
static ebb_status_t find_bad_weights(const ebb_run_t *run, int64_t *param_p)
{
    int64_t all = ebb_layout_floats(run->layout), rank = ebb_comm_rank(run->comm), ranks = ebb_comm_size(run->comm);
    scan_job_t job = {run, all / ranks * rank, rank + 1 == ranks ? all : all / ranks * (rank + 1), INT64_MAX};
    ebb_status_t status = ebb_pool_run(run->workers.pool, (job.end - job.begin + TASK - 1) / TASK, scan_task, &job);
    EBB_TRY(ebb_comm_agree(run->comm, status));
    EBB_TRY(ebb_comm_allreduce(run->comm, &job.found, 1, EBB_COMM_I64, EBB_MIN));
    *param_p = job.found == INT64_MAX ? -1 : job.found;
    return EBB_OK;
}

ebb_status_t ebb_finite_weights(const ebb_run_t *run)
{
    int64_t param;
    EBB_TRY(find_bad_weights(run, &param));
    return param < 0 ? EBB_OK : ebb_comm_agree(run->comm, ebb_finite_weights_error(run, param));
}

/* ---- explaining ---- */

static ebb_status_t scan_table(const ebb_run_t *run, const ebb_param_t *p, const ebb_grads_t *grads, bool *bad_p)
{
    const ebb_backend_t *backend = run->workers.backend;
    const ebb_terms_t *terms = grads->terms[p->offset];
    const ebb_rows_t *rows = &grads->rows[p->offset];
    int64_t n;
    float *sums;
    if (grads->table_dense[p->offset])
        return scan(run, 0, grads->table_dense[p->offset], floats_of(p), bad_p);
    if (!terms || terms->n == 0) {
        EBB_TRY(ebb_rows_count(backend->ops, run->workers.exec[0], rows, &n));
        return n > 0 ? scan(run, 0, rows->val, n * rows->width, bad_p) : EBB_OK;
    }
    EBB_TRY(backend->ops->alloc(backend->dev, (size_t)(terms->n * terms->width) * sizeof *sums, "gradient rows",
                                (void **)&sums));
    ebb_status_t status = backend->ops->terms_sum(run->workers.exec[0], terms, 0, terms->n, sums);
    if (status == EBB_OK)
        status = scan(run, 0, sums, terms->n * terms->width, bad_p);
    backend->ops->free(backend->dev, sums);
    return status;
}

/* Gradients are made from the last layer to the first, so the last bad one is where it began. */
ebb_status_t ebb_finite_grads(const ebb_run_t *run, const ebb_grads_t *grads, int64_t *param_p)
{
    *param_p = -1;
    for (int i = run->layout->n_params - 1; i >= 0 && *param_p < 0; i--) {
        const ebb_param_t *p = &run->layout->params[i];
        bool bad = false;
        if (p->kind == EBB_PARAM_DENSE)
            EBB_TRY(scan(run, 0, grads->dense + p->offset, floats_of(p), &bad));
        else
            EBB_TRY(scan_table(run, p, grads, &bad));
        *param_p = bad ? i : -1;
    }
    return EBB_OK;
}

/* Lane and parameter travel as one number, so that the least lane brings its parameter with it. */
static void tell_place(const ebb_run_t *run, int64_t lane_and_param, int64_t weights, char *text, size_t size)
{
    int64_t lane = lane_and_param >> 32, param = (lane_and_param & 0xffffffff) - 1;
    const ebb_param_t *params = run->layout->params;
    int n = 0;
    if (lane_and_param != INT64_MAX)
        n = snprintf(text, size, ": lane %" PRId64 ", ", lane);
    else
        n = snprintf(text, size, ": no lane alone, ");
    if (weights >= 0)
        snprintf(text + n, size - (size_t)n, "weights of %s", params[weights].name);
    else if (lane_and_param != INT64_MAX && param >= 0)
        snprintf(text + n, size - (size_t)n, "gradient of %s", params[param].name);
    else
        snprintf(text + n, size - (size_t)n, "weights and gradients are finite, a sum of them is not");
}

ebb_status_t ebb_finite_explain(const ebb_run_t *run, const char *what, int64_t lane, int64_t param)
{
    char place[160];
    int64_t key = lane == INT64_MAX ? INT64_MAX : (int64_t)(((uint64_t)lane << 32) | (uint64_t)(param + 1)), weights;
    EBB_TRY(ebb_comm_allreduce(run->comm, &key, 1, EBB_COMM_I64, EBB_MIN));
    EBB_TRY(find_bad_weights(run, &weights));
    tell_place(run, key, weights, place, sizeof place);
    return ebb_comm_agree(
        run->comm, EBB_FAIL(EBB_ENONFINITE,
                            "the %s is not finite at step %" PRId64 " (epoch %" PRId64
                            ")%s; lower the learning rate, set train.clip_norm, or look for extreme values with `ebb "
                            "verify`; the checkpoints before it are kept",
                            what, run->step + 1, run->step / run->epoch_steps + 1, place));
}
