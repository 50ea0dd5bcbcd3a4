/* A linear model on dense rows that makes a NaN at a chosen step and lane, in its output or in the gradient of one of
 * its parameters; "spare" never reaches the output, so a NaN in it does not show in the loss. Key nan: "STEP LANE
 * WHERE", steps from 0, where: out, weight, spare; huge: a gradient of spare whose square is infinite; spin: computes
 * for ever. */
#include "support/linear_plugin.h"

#include <math.h>
#include <stdio.h>

enum { SPARE_FLOATS = 3000 };

typedef struct nan_model {
    linear_t linear;
    int64_t step;
    int lane;
    char where[16];
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
    linear_init(&m->linear, info, outputs, SPARE_FLOATS);
    *model_p = m;
    return EBB_OK;
}

static bool is_time(const nan_model_t *m, const ebb_pass_t *pass, const char *where)
{
    return pass->training && pass->step == m->step && pass->lane == m->lane && strcmp(m->where, where) == 0;
}

static ebb_status_t forward(void *model, const ebb_pass_t *pass, const ebb_input_t *in, float *out)
{
    const nan_model_t *m = model;
    linear_forward(&m->linear, pass, in, out);
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
    const ebb_layout_t *layout = m->linear.layout;
    ebb_status_t status = linear_backward(model, pass, in, dout, grads);
    float *spare_end = grads->dense + layout->params[LINEAR_SPARE].offset + SPARE_FLOATS - 1;
    if (is_time(m, pass, "weight"))
        grads->dense[layout->params[LINEAR_WEIGHT].offset + m->linear.cols - 1] = NAN;
    if (is_time(m, pass, "spare"))
        *spare_end = NAN;
    if (is_time(m, pass, "huge"))
        *spare_end = 3e38f;
    return status;
}

EBB_API const ebb_model_ops_t ebb_model_entry = {
    LINEAR_OPS, .name = "nan", .create = create, .forward = forward, .backward = backward,
};
