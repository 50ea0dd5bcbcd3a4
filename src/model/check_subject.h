/* A subject: everything one thread needs to pass rows through a model on one backend, and to bring what comes of it to
 * the host. Used by the checks of check.c. One thread per subject; what a subject allocates, ebb_subject_destroy frees.
 */
#pragma once

#include <ebb/model.h>

/* The model being checked, shared by its subjects. */
typedef struct ebb_specimen {
    const ebb_dataset_info_t *info;
    ebb_model_t *model;
    const ebb_layout_t *layout;
    uint64_t seed;
    int64_t outputs;
    int64_t grad_floats; /* dense vector, then each table in full */
} ebb_specimen_t;

typedef struct ebb_subject {
    const ebb_specimen_t *m;
    ebb_backend_t *backend;
    const ebb_backend_ops_t *ops;
    ebb_exec_t *x;
    int64_t rows;
    int64_t *rowptr; /* device */
    int32_t *col, *label;
    float *val, *in, *y, *weight;
    const int64_t *rowptr_host;
    ebb_weights_t weights;
    ebb_grads_t grads;
    size_t touched_bytes[EBB_MAX_TABLES];
    size_t workspace_bytes;
    void *workspace;
    float *out, *dout;
    /* results, host */
    float *out_host, *grad;
    double *row_loss, *row_weight;
    /* what to run */
    bool training, table_rows;
    int pieces;
} ebb_subject_t;

/* Floats of table t in full. */
size_t ebb_specimen_table_floats(const ebb_specimen_t *m, int t);

/* rows and weight: host, row weights; copied to the backend, but rows->rowptr must outlive the subject. Weights are the
 * initial ones with noise added, so that nothing that starts at zero hides a mistake. Destroy after failure, too. */
ebb_status_t ebb_subject_create(const ebb_specimen_t *m, ebb_backend_t *backend, const ebb_host_rows_t *rows,
                                const float *weight, ebb_subject_t *s);
void ebb_subject_destroy(ebb_subject_t *s);

/* Forward and loss of a piece of the rows; with_dout: also the gradient of the outputs. */
ebb_status_t ebb_subject_forward(ebb_subject_t *s, int64_t row0, int64_t rows, bool with_dout);

/* Forward and backward in s->pieces pieces; outputs and gradients come to the host. Everything a pass must overwrite is
 * NaN before. */
ebb_status_t ebb_subject_run(ebb_subject_t *s);

/* Sum of the row losses of the last forward pass. */
double ebb_subject_loss(const ebb_subject_t *s);
