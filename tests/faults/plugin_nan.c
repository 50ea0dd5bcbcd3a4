/* A linear model on dense rows that makes a NaN at a chosen step and lane, in its output or in the gradient of one of
 * its parameters; "spare" never reaches the output, so a NaN in it does not show in the loss. Key nan: "STEP LANE
 * WHERE", steps from 0, where: out, weight, spare; huge: a gradient of spare whose square is infinite; spin: computes
 * for ever. */
#include <ebb/model.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WEIGHT, SPARE, N_PARAMS, SPARE_FLOATS = 3000 };

typedef struct nan_model {
    int64_t cols, outputs, step;
    int lane;
    char where[16];
    ebb_param_t params[N_PARAMS];
    const ebb_layout_t *layout;
} nan_model_t;

static ebb_status_t create(const char *config, const ebb_dataset_info_t *info, int64_t outputs, void **model_p)
{
    nan_model_t *m = calloc(1, sizeof *m);
    if (!m)
        return EBB_ENOMEM;
    long long step = -1;
    const char *key = strstr(config, "\"nan\"");
    if (!key || sscanf(key, "\"nan\" : \"%lld %d %15[a-z]", &step, &m->lane, m->where) != 3) {
        free(m);
        return EBB_EUSAGE;
    }
    m->step = step;
    m->cols = info->cols;
    m->outputs = outputs;
    m->params[WEIGHT] = (ebb_param_t){.name = "weight", .rows = m->cols, .cols = outputs};
    m->params[SPARE] = (ebb_param_t){.name = "spare", .rows = 1, .cols = SPARE_FLOATS};
    *model_p = m;
    return EBB_OK;
}

static void destroy(void *model)
{
    free(model);
}

static ebb_status_t declare(void *model, int *n_p, const ebb_param_t **params_p)
{
    *n_p = N_PARAMS;
    *params_p = ((nan_model_t *)model)->params;
    return EBB_OK;
}

static ebb_status_t bind_layout(void *model, const ebb_layout_t *layout)
{
    ((nan_model_t *)model)->layout = layout;
    return EBB_OK;
}

static int64_t workspace_bytes(void *model, int64_t rows)
{
    return 0;
}

static bool is_time(const nan_model_t *m, const ebb_pass_t *pass, const char *where)
{
    return pass->training && pass->step == m->step && pass->lane == m->lane && strcmp(m->where, where) == 0;
}

static ebb_status_t forward(void *model, const ebb_pass_t *pass, const ebb_input_t *in, float *out)
{
    const nan_model_t *m = model;
    const float *w = pass->weights->dense + m->layout->params[WEIGHT].offset;
    for (int64_t r = 0; r < in->rows; r++)
        for (int64_t k = 0; k < m->outputs; k++) {
            float sum = 0;
            for (int64_t c = 0; c < m->cols; c++)
                sum += in->x[r * m->cols + c] * w[c * m->outputs + k];
            out[r * m->outputs + k] = sum;
        }
    for (volatile int spin = is_time(m, pass, "spin"); spin;)
        ;
    if (in->rows > 0 && is_time(m, pass, "out"))
        out[0] = NAN;
    return EBB_OK;
}

static ebb_status_t backward(void *model, const ebb_pass_t *pass, const ebb_input_t *in, float *dout,
                             ebb_grads_t *grads)
{
    const nan_model_t *m = model;
    float *w = grads->dense + m->layout->params[WEIGHT].offset, *spare = grads->dense + m->layout->params[SPARE].offset;
    if (!grads->accumulate)
        memset(grads->dense, 0, (size_t)m->layout->dense_floats * sizeof(float));
    for (int64_t r = 0; r < in->rows; r++)
        for (int64_t c = 0; c < m->cols; c++)
            for (int64_t k = 0; k < m->outputs; k++)
                w[c * m->outputs + k] += in->x[r * m->cols + c] * dout[r * m->outputs + k];
    if (is_time(m, pass, "weight"))
        w[m->cols - 1] = NAN;
    if (is_time(m, pass, "spare"))
        spare[SPARE_FLOATS - 1] = NAN;
    if (is_time(m, pass, "huge"))
        spare[SPARE_FLOATS - 1] = 3e38f;
    return EBB_OK;
}

EBB_API const ebb_model_ops_t ebb_model_entry = {
    .version = EBB_MODEL_VERSION,
    .name = "nan",
    .create = create,
    .destroy = destroy,
    .declare = declare,
    .bind = bind_layout,
    .workspace_bytes = workspace_bytes,
    .forward = forward,
    .backward = backward,
};
