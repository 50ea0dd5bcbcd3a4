/* Numbers that are not finite end a run: noticing them, and saying where they are. */
#ifndef EBB_TRAIN_FINITE_H
#define EBB_TRAIN_FINITE_H

#include "train/run.h"

/* Look at all weights, shared out over ranks and threads. Collective. */
ebb_status_t ebb_finite_weights(const ebb_run_t *run);
/* The error for bad weights of a parameter. */
ebb_status_t ebb_finite_weights_error(const ebb_run_t *run, int64_t param);
/* The parameter whose gradient is bad in *param_p, -1: none. */
ebb_status_t ebb_finite_grads(const ebb_run_t *run, const ebb_grads_t *grads, int64_t *param_p);
/* The error for a bad loss or gradient ("what"). lane: this rank's first bad one, INT64_MAX without; param: what
 * ebb_finite_grads found in it. Collective; the same words on every rank. */
ebb_status_t ebb_finite_explain(const ebb_run_t *run, const char *what, int64_t lane, int64_t param);

#endif
