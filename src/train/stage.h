/* Passes on a device with memory of its own. The engine (sums over lanes and ranks, updates, checkpoints) works in the
 * host's memory, the same on every device; a worker carries the rows of a piece to the device and its gradient back,
 * and the device keeps a copy of the weights. Where passes work in the host's memory all of this hands pointers
 * through. */
#ifndef EBB_TRAIN_STAGE_H
#define EBB_TRAIN_STAGE_H

#include <ebb/sync.h>
#include "train/workers.h"

/* Rows with their targets. Targets that the data set lacks are NULL. */
typedef struct ebb_piece {
    ebb_input_t in;
    int64_t cols, targets; /* of x and y */
    const int32_t *label;
    const float *y, *weight;
} ebb_piece_t;

/* Carry a piece's rows over; its pointers become the device's, valid until the worker's next piece. */
ebb_status_t ebb_stage_rows(ebb_workers_t *w, int thread, ebb_piece_t *piece);
/* Where the backward pass is to put its gradient instead of `grads`, with what `grads` holds if it accumulates. */
ebb_status_t ebb_stage_grads(ebb_workers_t *w, int thread, const ebb_layout_t *layout, ebb_grads_t *grads,
                             ebb_grads_t **to_p);
/* After the backward pass: its gradient into `grads`. Waits for the device. Rows stay valid until the worker's next. */
ebb_status_t ebb_stage_fetch(ebb_workers_t *w, int thread, const ebb_layout_t *layout, ebb_grads_t *grads);
/* The worker's outputs (n floats) where the host can read them; waits for the device. */
ebb_status_t ebb_stage_outputs(ebb_workers_t *w, int thread, int64_t n, const float **out_p);

/* The weights that passes read: `weights`, or the device's copy. */
const ebb_weights_t *ebb_stage_weights(const ebb_workers_t *w, const ebb_weights_t *weights);
/* Make the device's copy equal `weights`; of class weights likewise (n, or 0). */
ebb_status_t ebb_stage_copy_weights(ebb_workers_t *w, const ebb_layout_t *layout, const ebb_weights_t *weights);
ebb_status_t ebb_stage_copy_classes(ebb_workers_t *w, const float *class_weights, int64_t n, const float **device_p);
/* The same after a step, which changed the dense vector and the rows that `sync` has summed. */
ebb_status_t ebb_stage_copy_changed(ebb_workers_t *w, const ebb_layout_t *layout, const ebb_sync_t *sync,
                                    const ebb_weights_t *weights);

void ebb_stage_cleanup(ebb_workers_t *w);

#endif
