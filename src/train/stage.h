/* Rows on their way to a device with memory of its own, and outputs on their way back; what is learnt (weights,
 * gradients, optimiser state) lives there. Where passes work in the host's memory all of this hands pointers through.
 */
#ifndef EBB_TRAIN_STAGE_H
#define EBB_TRAIN_STAGE_H

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
/* The worker's outputs (n floats) where the host can read them; waits for the device. */
ebb_status_t ebb_stage_outputs(ebb_workers_t *w, int thread, int64_t n, const float **out_p);
/* Class weights (n, or NULL) where passes can read them. */
ebb_status_t ebb_stage_classes(ebb_workers_t *w, const float *class_weights, int64_t n, const float **device_p);

void ebb_stage_cleanup(ebb_workers_t *w);

#endif
