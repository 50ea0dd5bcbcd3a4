/* A linear model on dense rows that takes a given time for every lane of a step: the milliseconds of EBB_TEST_LANE_MS,
 * none without. It makes up for what the machine was late before, so that a run does as much in an hour on a fast one
 * as on a busy one; it ends with the same bits. For runs of one thread. */
#include "support/linear_plugin.h"

#include <time.h>

#define SECOND 1000000000

typedef struct slow_model {
    linear_t linear;
    int64_t lane_ns, due_ns; /* due: when the next lane may be done; 0: none was yet */
} slow_model_t;

static ebb_status_t create(const char *config, const ebb_dataset_info_t *info, int64_t outputs, void **model_p)
{
    const char *ms = getenv("EBB_TEST_LANE_MS");
    slow_model_t *m = calloc(1, sizeof *m);
    if (!m)
        return EBB_ENOMEM;
    linear_init(&m->linear, info, outputs, 0);
    m->lane_ns = ms ? strtol(ms, NULL, 10) * 1000000 : 0;
    *model_p = m;
    return EBB_OK;
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
    linear_forward(&m->linear, pass, in, out);
    if (m->lane_ns > 0)
        wait_until_due(m);
    return EBB_OK;
}

EBB_API const ebb_model_ops_t ebb_model_entry = {
    LINEAR_OPS, .name = "slow", .create = create, .forward = forward, .backward = linear_backward,
};
