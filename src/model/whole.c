/* Does a model add a gradient whole? By trial: gradients computed alone and then added to random sums, against the same
 * gradients computed onto those sums. A pass that rounds otherwise (a product in several blocks of rows, a fused
 * multiply-add onto the sum, a weight used twice) gives other bits in a good part of the floats, so a few trials with
 * new sums and new output gradients tell. The order of additions in a pass does not depend on the numbers. */
#include <ebb/model.h>
#include "base/alloc.h"
#include "base/rng.h"

#include <math.h>
#include <string.h>

enum { TRIALS = 8, SEED = 20211 };

typedef struct trial {
    const ebb_model_t *model;
    const ebb_layout_t *layout;
    ebb_backend_t *backend;
    ebb_pass_t pass;
    ebb_input_t in;
    ebb_weights_t weights;
    int64_t out_floats;
    float *x, *out, *dout, *sum, *alone, *onto;
} trial_t;

/* Uniform in [-scale, scale). */
static void fill(uint64_t stream, int64_t n, float scale, float *out)
{
    ebb_rng_uniforms(SEED, EBB_RNG_INIT, stream, 0, n, out);
    for (int64_t i = 0; i < n; i++)
        out[i] = (2.0f * out[i] - 1.0f) * scale;
}

/* Small enough that no sigmoid is flat and no unit is off for all rows. */
static void fill_weights(const ebb_layout_t *layout, ebb_weights_t *weights)
{
    for (int i = 0; i < layout->n_params; i++) {
        const ebb_param_t *p = &layout->params[i];
        fill((uint64_t)i, p->rows * p->cols, p->rows > 1 ? 1.0f / sqrtf((float)p->rows) : 0.1f,
             weights->dense + p->offset);
    }
}

static ebb_status_t make_trial(trial_t *t, int64_t cols, int64_t rows)
{
    int64_t floats = t->layout->dense_floats;
    EBB_TRY(t->backend->ops->exec_create(t->backend->dev, &t->pass.exec));
    EBB_TRY(ebb_weights_create(t->backend, t->layout, &t->weights));
    EBB_TRY(ebb_alloc("trial pass", (size_t)ebb_model_workspace_bytes(t->model, rows), &t->pass.workspace));
    EBB_TRY(EBB_NEW_ARRAY("trial pass", rows * cols, &t->x));
    EBB_TRY(EBB_NEW_ARRAY("trial pass", t->out_floats, &t->out));
    EBB_TRY(EBB_NEW_ARRAY("trial pass", t->out_floats, &t->dout));
    EBB_TRY(EBB_NEW_ARRAY("trial pass", floats, &t->sum));
    EBB_TRY(EBB_NEW_ARRAY("trial pass", floats, &t->alone));
    EBB_TRY(EBB_NEW_ARRAY("trial pass", floats, &t->onto));
    fill_weights(t->layout, &t->weights);
    fill(1000, rows * cols, 1.0f, t->x);
    t->in = (ebb_input_t){.rows = rows, .x = t->x};
    t->pass.weights = &t->weights;
    t->pass.ops = t->backend->ops;
    t->pass.training = true;
    return EBB_OK;
}

static void free_trial(trial_t *t)
{
    t->backend->ops->exec_destroy(t->pass.exec);
    ebb_weights_destroy(t->backend, t->layout, &t->weights);
    void *all[] = {t->pass.workspace, t->x, t->out, t->dout, t->sum, t->alone, t->onto};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        ebb_free(all[i]);
}

/* Backward pass of the number-th random output gradient, onto what is in `dense` or over it. */
static ebb_status_t backward(trial_t *t, int number, bool accumulate, float *dense)
{
    ebb_grads_t grads = {.dense = dense, .accumulate = accumulate};
    fill(2000 + (uint64_t)number, t->out_floats, 1.0f, t->dout);
    EBB_TRY(ebb_model_forward(t->model, &t->pass, &t->in, t->out));
    EBB_TRY(ebb_model_backward(t->model, &t->pass, &t->in, t->dout, &grads));
    return t->backend->ops->exec_sync(t->pass.exec);
}

/* Whether the bits agree, and enough of the gradient is not zero for that to mean something. */
static bool agrees(const trial_t *t, const ebb_param_t *p)
{
    int64_t n = p->rows * p->cols, zeros = 0;
    const float *sum = t->sum + p->offset, *alone = t->alone + p->offset, *onto = t->onto + p->offset;
    for (int64_t i = 0; i < n; i++) {
        float want = sum[i] + alone[i];
        if (memcmp(&want, &onto[i], sizeof want) != 0)
            return false;
        zeros += alone[i] == 0.0f;
    }
    return zeros <= n / 2;
}

static ebb_status_t try_once(trial_t *t, int number, bool *whole_p)
{
    int64_t floats = t->layout->dense_floats;
    EBB_TRY(backward(t, number, false, t->alone));
    fill(3000 + (uint64_t)number, floats, 4.0f, t->sum);
    memcpy(t->onto, t->sum, (size_t)floats * sizeof *t->sum);
    EBB_TRY(backward(t, number, true, t->onto));
    for (int i = 0; i < t->layout->n_params; i++)
        *whole_p = *whole_p && agrees(t, &t->layout->params[i]);
    return EBB_OK;
}

ebb_status_t ebb_model_adds_whole(const ebb_model_t *model, ebb_backend_t *backend, int64_t cols, int64_t rows,
                                  bool *whole_p)
{
    const ebb_layout_t *layout = ebb_model_layout(model);
    trial_t t = {.model = model, .layout = layout, .backend = backend, .out_floats = rows * ebb_model_outputs(model)};
    ebb_status_t status;
    *whole_p = rows > 0 && layout->n_tables == 0 && (backend->ops->caps & EBB_CAP_HOST_MEMORY);
    if (!*whole_p)
        return EBB_OK;
    EBB_TRY_GOTO(status, make_trial(&t, cols, rows), out);
    for (int i = 0; i < TRIALS && *whole_p; i++)
        EBB_TRY_GOTO(status, try_once(&t, i, whole_p), out);
out:
    free_trial(&t);
    return status;
}
