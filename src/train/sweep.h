/* The window of weights and of the optimiser's states that each step looks at for numbers that are not finite; see
 * finite.c. */
#ifndef EBB_TRAIN_SWEEP_H
#define EBB_TRAIN_SWEEP_H

#include "train/workers.h"

typedef struct ebb_run ebb_run_t;

/* Values of one parameter. */
typedef struct ebb_sweep_part {
    const float *values;
    int64_t n;
    int param, state; /* state -1: the weights */
} ebb_sweep_part_t;

typedef struct ebb_sweep {
    ebb_sweep_part_t *part;
    int parts;
    ebb_pinned_t copies; /* of what the host cannot read */
    int64_t copied;      /* floats */
} ebb_sweep_t;

ebb_status_t ebb_sweep_init(ebb_sweep_t *sweep, const ebb_backend_t *backend, const ebb_layout_t *layout);
void ebb_sweep_cleanup(ebb_sweep_t *sweep, const ebb_backend_t *backend);
/* Take a few of the weights, and as many values of the optimiser's states that this rank owns, others in each step. The
 * host reads them once the first context was waited for. Not collective; weights are alike on all ranks, states are
 * not. */
ebb_status_t ebb_sweep_take(ebb_run_t *run);
/* Look at them. EBB_ENONFINITE names the parameter. */
ebb_status_t ebb_sweep_judge(const ebb_run_t *run);

#endif
