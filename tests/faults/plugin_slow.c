/* A linear model on dense rows that takes a given time for every lane of a step: the milliseconds of EBB_TEST_LANE_MS,
 * none without. It makes up for what the machine was late before, so that a run does as much in an hour on a fast one
 * as on a busy one; it ends with the same bits. For runs of one thread. */
#include <ebb/model.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SECOND 1000000000

typedef struct slow_model {
    int64_t cols, outputs;
    int64_t lane_ns, due_ns; /* due: when the next lane may be done; 0: none was yet */
    ebb_param_t weight;
    const ebb_layout_t *layout;
} slow_model_t;

static ebb_status_t create(const char *config, const ebb_dataset_info_t *info, int64_t outputs, void **model_p)
{
    const char *ms = getenv("EBB_TEST_LANE_MS");
    slow_model_t *m = calloc(1, sizeof *m);
    if (!m)
        return EBB_ENOMEM;
    m->cols = info->cols;
    m->outputs = outputs;
    m->lane_ns = ms ? strtol(ms, NULL, 10) * 1000000 : 0;
    m->weight = (ebb_param_t){.name = "weight", .rows = m->cols, .cols = outputs};
    *model_p = m;
    return EBB_OK;
}

static void destroy(void *model)
{
    free(model);
}

static ebb_status_t declare(void *model, int *n_p, const ebb_param_t **params_p)
{
    *n_p = 1;
    *params_p = &((slow_model_t *)model)->weight;
    return EBB_OK;
}

static ebb_status_t bind_layout(void *model, const ebb_layout_t *layout)
{
    ((slow_model_t *)model)->layout = layout;
    return EBB_OK;
}

static int64_t workspace_bytes(void *model, int64_t rows)
{
    return 0;
}

static void wait_until_due(slow_model_t *m)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    if (m->due_ns == 0)
        m->due_ns = t.tv_sec * SECOND + t.tv_nsec;
    m->due_ns += m->lane_ns;
    t = (struct timespec){.tv_sec = m->due_ns / SECOND, .tv_nsec = m->due_ns % SECOND};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static ebb_status_t forward(void *model, const ebb_pass_t *pass, const ebb_input_t *in, float *out)
{
    slow_model_t *m = model;
    const float *w = pass->weights->dense + m->layout->params[0].offset;
    for (int64_t r = 0; r < in->rows; r++)
        for (int64_t k = 0; k < m->outputs; k++) {
            float sum = 0;
            for (int64_t c = 0; c < m->cols; c++)
                sum += in->x[r * m->cols + c] * w[c * m->outputs + k];
            out[r * m->outputs + k] = sum;
        }
    if (m->lane_ns > 0)
        wait_until_due(m);
    return EBB_OK;
}

static ebb_status_t backward(void *model, const ebb_pass_t *pass, const ebb_input_t *in, float *dout,
                             ebb_grads_t *grads)
{
    const slow_model_t *m = model;
    float *w = grads->dense + m->layout->params[0].offset;
    if (!grads->accumulate)
        memset(grads->dense, 0, (size_t)m->layout->dense_floats * sizeof(float));
    for (int64_t r = 0; r < in->rows; r++)
        for (int64_t c = 0; c < m->cols; c++)
            for (int64_t k = 0; k < m->outputs; k++)
                w[c * m->outputs + k] += in->x[r * m->cols + c] * dout[r * m->outputs + k];
    return EBB_OK;
}

EBB_API const ebb_model_ops_t ebb_model_entry = {
    .version = EBB_MODEL_VERSION,
    .name = "slow",
    .create = create,
    .destroy = destroy,
    .declare = declare,
    .bind = bind_layout,
    .workspace_bytes = workspace_bytes,
    .forward = forward,
    .backward = backward,
};
