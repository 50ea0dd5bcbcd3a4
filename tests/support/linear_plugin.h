/* A linear model on dense rows, for plug-ins of tests that do something besides: out = x w. Their model begins with a
 * linear_t; spare_floats > 0 adds a parameter "spare", which never reaches the output. */
#ifndef EBB_TESTS_LINEAR_PLUGIN_H
#define EBB_TESTS_LINEAR_PLUGIN_H

#include <ebb/model.h>

#include <stdlib.h>
#include <string.h>

enum { LINEAR_WEIGHT, LINEAR_SPARE };

typedef struct linear {
    int64_t cols, outputs;
    int n_params;
    ebb_param_t params[2];
    const ebb_layout_t *layout;
} linear_t;

static void linear_init(linear_t *m, const ebb_dataset_info_t *info, int64_t outputs, int64_t spare_floats)
{
    m->cols = info->cols;
    m->outputs = outputs;
    m->n_params = spare_floats > 0 ? 2 : 1;
    m->params[LINEAR_WEIGHT] = (ebb_param_t){.name = "weight", .rows = m->cols, .cols = outputs};
    m->params[LINEAR_SPARE] = (ebb_param_t){.name = "spare", .rows = 1, .cols = spare_floats};
}

static ebb_status_t linear_declare(void *model, int *n_p, const ebb_param_t **params_p)
{
    *n_p = ((linear_t *)model)->n_params;
    *params_p = ((linear_t *)model)->params;
    return EBB_OK;
}

static ebb_status_t linear_bind(void *model, const ebb_layout_t *layout)
{
    ((linear_t *)model)->layout = layout;
    return EBB_OK;
}

static int64_t linear_workspace_bytes(void *model, int64_t rows)
{
    return 0;
}

static void linear_forward(const linear_t *m, const ebb_pass_t *pass, const ebb_input_t *in, float *out)
{
    const float *w = pass->weights->dense + m->layout->params[LINEAR_WEIGHT].offset;
    for (int64_t r = 0; r < in->rows; r++)
        for (int64_t k = 0; k < m->outputs; k++) {
            float sum = 0;
            for (int64_t c = 0; c < m->cols; c++)
                sum += in->x[r * m->cols + c] * w[c * m->outputs + k];
            out[r * m->outputs + k] = sum;
        }
}

static ebb_status_t linear_backward(void *model, const ebb_pass_t *pass, const ebb_input_t *in, float *dout,
                                    ebb_grads_t *grads)
{
    const linear_t *m = model;
    float *w = grads->dense + m->layout->params[LINEAR_WEIGHT].offset;
    if (!grads->accumulate)
        memset(grads->dense, 0, (size_t)m->layout->dense_floats * sizeof(float));
    for (int64_t r = 0; r < in->rows; r++)
        for (int64_t c = 0; c < m->cols; c++)
            for (int64_t k = 0; k < m->outputs; k++)
                w[c * m->outputs + k] += in->x[r * m->cols + c] * dout[r * m->outputs + k];
    return EBB_OK;
}

/* The members of a plug-in's table that these functions and calloc'ed models fill. */
#define LINEAR_OPS                                                                                                     \
    .version = EBB_MODEL_VERSION, .destroy = free, .declare = linear_declare, .bind = linear_bind,                     \
    .workspace_bytes = linear_workspace_bytes

#endif
