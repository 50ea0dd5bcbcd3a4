/* The threads that compute on a rank: a pool, execution contexts and buffers for each thread. */
#ifndef EBB_TRAIN_WORKERS_H
#define EBB_TRAIN_WORKERS_H

#include <ebb/comm.h>
#include <ebb/model.h>
#include "base/threads.h"
#include "compute/pinned.h"
#include "train/replay.h"

typedef struct ebb_stage ebb_stage_t; /* train/stage.h */

/* One thread's buffers for up to `rows` rows. */
typedef struct ebb_worker {
    void *workspace;               /* device */
    float *out, *dout;             /* (rows, outputs), device */
    ebb_pinned_t losses;           /* of: */
    double *row_loss, *row_weight; /* (rows), host */
    ebb_stage_t *stage;            /* NULL until needed */
    ebb_replay_t *replay;          /* NULL: none */
} ebb_worker_t;

typedef struct ebb_workers {
    ebb_backend_t *backend;
    ebb_pool_t *pool;
    int threads;
    ebb_exec_t **exec;    /* (threads) */
    ebb_worker_t *worker; /* (threads) */
    const ebb_model_t *model;
    int64_t rows;
} ebb_workers_t;

/* threads 0: this rank's share of the host's cores. */
ebb_status_t ebb_workers_init(ebb_workers_t *w, const ebb_comm_t *comm, const char *backend, ebb_precision_t precision,
                              int threads);
/* Make room for passes of the model over up to `rows` rows. */
ebb_status_t ebb_workers_fit(ebb_workers_t *w, const ebb_model_t *model, int64_t rows);
/* What passes read until ebb_workers_release, and nobody writes: a device prepares it once for all of them. Between the
 * two only the pool's threads use the contexts. */
ebb_status_t ebb_workers_hold(ebb_workers_t *w, const ebb_layout_t *layout, const ebb_weights_t *weights);
void ebb_workers_release(ebb_workers_t *w);
/* Passes over dense rows are given again where they may be (replay.h). */
ebb_status_t ebb_workers_replay(ebb_workers_t *w);
void ebb_workers_cleanup(ebb_workers_t *w);

#endif
