/* The window that moves over weights and states. A device copies its values beside the passes; they are looked at when
 * the step waits for its losses. */
#include "train/finite.h"
#include "base/alloc.h"
#include "base/finite.h"

#include <inttypes.h>

enum { WINDOW_LEAST = 1024, WINDOW_MOST = 16384, WINDOW_SHARE = 256 };

/* Parameters lie in the window once as weights and once as states, of which whole rows are taken. */
static int64_t most_floats(const ebb_layout_t *layout)
{
    int64_t widest = 0;
    for (int i = 0; i < layout->n_params; i++)
        widest = layout->params[i].cols > widest ? layout->params[i].cols : widest;
    return 2 * ((int64_t)WINDOW_MOST + widest);
}

ebb_status_t ebb_sweep_init(ebb_sweep_t *sweep, const ebb_backend_t *backend, const ebb_layout_t *layout)
{
    EBB_TRY(EBB_NEW_ARRAY("sweep over weights", 2 * (int64_t)layout->n_params, &sweep->part));
    if (backend->ops->caps & EBB_CAP_HOST_MEMORY)
        return EBB_OK;
    return ebb_pinned_make(backend, "sweep over weights", (size_t)most_floats(layout) * sizeof(float), &sweep->copies);
}

void ebb_sweep_cleanup(ebb_sweep_t *sweep, const ebb_backend_t *backend)
{
    ebb_pinned_free(backend, &sweep->copies);
    ebb_free(sweep->part);
    *sweep = (ebb_sweep_t){0};
}

static ebb_status_t take(ebb_run_t *run, int param, int state, const float *values, int64_t n)
{
    ebb_sweep_t *sweep = &run->sweep;
    const ebb_backend_ops_t *ops = run->workers.backend->ops;
    if (n < 1)
        return EBB_OK;
    if (!(ops->caps & EBB_CAP_HOST_MEMORY)) {
        float *copy = (float *)sweep->copies.ptr + sweep->copied;
        EBB_TRY(ops->download(run->workers.exec[0], copy, values, (size_t)n * sizeof *copy));
        sweep->copied += n;
        values = copy;
    }
    sweep->part[sweep->parts++] = (ebb_sweep_part_t){values, n, param, state};
    return EBB_OK;
}

/* This rank's part of the values [begin, end) of a parameter's state, and how many they are. */
static const float *own_state(const ebb_run_t *run, const ebb_param_t *p, int state, int64_t begin, int64_t end,
                              int64_t *n_p)
{
    int owner, owners;
    ebb_sync_place(run->sync, &owner, &owners);
    if (p->kind != EBB_PARAM_DENSE) {
        int64_t row0 = begin / p->cols, row1 = (end + p->cols - 1) / p->cols;
        int64_t from = ebb_sync_table_rows(row0, owner, owners) * p->cols;
        *n_p = ebb_sync_table_rows(row1, owner, owners) * p->cols - from;
        return ebb_optim_state_table(run->optim, state, (int)p->offset) + from;
    }
    const ebb_own_t own = ebb_sync_own(run->layout, ebb_layout_bucket_of(run->layout, p->offset), owner, owners);
    int64_t b = p->offset + begin > own.begin ? p->offset + begin : own.begin;
    int64_t e = p->offset + end < own.end ? p->offset + end : own.end;
    *n_p = e > b ? e - b : 0;
    return ebb_optim_state_dense(run->optim, state) + own.local + (b - own.begin);
}

/* Values [begin, end) of a parameter: its weights, or of a state. */
static ebb_status_t take_values(ebb_run_t *run, int param, int state, int64_t begin, int64_t end)
{
    const ebb_param_t *p = &run->layout->params[param];
    int64_t n;
    if (state < 0) {
        const float *w = p->kind == EBB_PARAM_DENSE ? run->weights.dense + p->offset : run->weights.table[p->offset];
        return take(run, param, state, w + begin, end - begin);
    }
    const float *values = own_state(run, p, state, begin, end, &n);
    return take(run, param, state, values, n);
}

/* Floats [begin, end), counted through all parameters. */
static ebb_status_t take_window(ebb_run_t *run, int state, int64_t begin, int64_t end)
{
    const ebb_layout_t *layout = run->layout;
    int64_t at = 0, n;
    for (int i = 0; i < layout->n_params && at < end; i++, at += n) {
        n = layout->params[i].rows * layout->params[i].cols;
        int64_t b = begin > at ? begin - at : 0, e = end - at < n ? end - at : n;
        if (b < e)
            EBB_TRY(take_values(run, i, state, b, e));
    }
    return EBB_OK;
}

ebb_status_t ebb_sweep_take(ebb_run_t *run)
{
    int64_t all = ebb_layout_floats(run->layout), window = all / WINDOW_SHARE;
    window = window < WINDOW_LEAST ? WINDOW_LEAST : window > WINDOW_MOST ? WINDOW_MOST : window;
    int64_t windows = (all + window - 1) / window, turn = windows > 0 ? run->step / windows : 0;
    int64_t at = windows > 0 ? run->step % windows * window : 0;
    int states = ebb_optim_state_count(run->optim);
    run->sweep.parts = 0;
    run->sweep.copied = 0;
    EBB_TRY(take_window(run, -1, at, at + window));
    return states > 0 ? take_window(run, (int)(turn % states), at, at + window) : EBB_OK;
}

ebb_status_t ebb_sweep_judge(const ebb_run_t *run)
{
    for (int i = 0; i < run->sweep.parts; i++) {
        const ebb_sweep_part_t *part = &run->sweep.part[i];
        if (!ebb_has_nonfinite(part->values, part->n))
            continue;
        if (part->state < 0)
            return ebb_finite_weights_error(run, part->param);
        return EBB_FAIL(EBB_ENONFINITE,
                        "the values of the optimiser's state \"%s\" of %s are not finite after step %" PRId64
                        "; lower the learning rate, or set train.clip_norm; the checkpoints before it are kept",
                        ebb_optim_state_name(run->optim, part->state), run->layout->params[part->param].name,
                        run->step);
    }
    return EBB_OK;
}
