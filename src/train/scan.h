/* Forward passes over a data set in storage order, for evaluation and prediction. Rows are cut into fixed blocks from
 * row 0, and each block is computed whole by one thread, so that outputs do not depend on ranks or threads. */
#ifndef EBB_TRAIN_SCAN_H
#define EBB_TRAIN_SCAN_H

#include <ebb/loader.h>
#include "train/workers.h"

#define EBB_SCAN_BLOCK 1024 /* rows */

typedef struct ebb_scan {
    ebb_workers_t *workers;
    const ebb_model_t *model;
    const ebb_weights_t *weights;
    const ebb_dataset_t *data;
    ebb_transform_t transform;
} ebb_scan_t;

/* Add rows [row0, row1) to metrics. Not collective. */
ebb_status_t ebb_scan_metrics(const ebb_scan_t *scan, int64_t row0, int64_t row1, ebb_metrics_t *metrics);
/* Predictions of rows [row0, row1) into pred (rows, outputs), host. row0 must be a multiple of the block. Not
 * collective. */
ebb_status_t ebb_scan_predict(const ebb_scan_t *scan, int64_t row0, int64_t row1, float *pred);
/* This rank's share of all rows: whole blocks. */
void ebb_scan_share(int64_t rows, int rank, int ranks, int64_t *row0_p, int64_t *row1_p);

/* Evaluate all rows over all ranks. Collective. */
ebb_status_t ebb_scan_evaluate(ebb_comm_t *comm, const ebb_scan_t *scan, ebb_metrics_t *metrics);

/* The data must have the columns the model was made for, and for metrics its targets. */
ebb_status_t ebb_scan_check(const ebb_dataset_info_t *data, const ebb_dataset_info_t *trained, bool targets);

#endif
