/* The threads that compute on a rank: a pool, execution contexts and buffers for each thread. */
#ifndef EBB_TRAIN_WORKERS_H
#define EBB_TRAIN_WORKERS_H

#include <ebb/comm.h>
#include <ebb/model.h>
#include "base/threads.h"
#include "compute/pinned.h"
#include "train/replay.h"

typedef struct ebb_stage ebb_stage_t; /* train/stage.h */

/* Marks of contexts of passes, beside those of sync. */
enum { EBB_MARK_LOSSES = 12, EBB_MARK_PASSED = 13 /* and on: of a place of batches ahead (train/ahead.c) */ };

/* What passes over some rows leave for one another, on the device. */
typedef struct ebb_place {
    void *workspace;
    float *out, *dout; /* (rows, outputs) */
} ebb_place_t;

/* One thread's buffers for up to `rows` rows. */
typedef struct ebb_worker {
    ebb_place_t place;
    ebb_pinned_t losses;           /* of: */
    double *row_loss, *row_weight; /* (rows), host */
    ebb_stage_t *stage;            /* NULL until needed */
    ebb_replay_t *replay;          /* NULL: none */
} ebb_worker_t;

typedef struct ebb_workers {
    ebb_backend_t *backend;
    ebb_pool_t *pool;
    int threads;
    ebb_exec_t **exec;    /* (threads): of passes */
    ebb_exec_t **side;    /* (threads): of sums and updates, on a device beside passes; else the same */
    ebb_worker_t *worker; /* (threads) */
    const ebb_model_t *model;
    int64_t rows;
    ebb_place_t *lane; /* (lanes): or NULL */
    int32_t lanes;
} ebb_workers_t;

/* threads 0: this rank's share of the host's cores; for a device 4 at most, each with a context of its own and room for
 * passes there. */
ebb_status_t ebb_workers_init(ebb_workers_t *w, const ebb_comm_t *comm, const char *backend, ebb_precision_t precision,
                              int threads);
/* Make room for passes of the model over up to `rows` rows. */
ebb_status_t ebb_workers_fit(ebb_workers_t *w, const ebb_model_t *model, int64_t rows);
/* Room for the passes of so many lanes that are under way together. Nothing of it is held after a failure. */
ebb_status_t ebb_workers_fit_lanes(ebb_workers_t *w, const ebb_model_t *model, int64_t rows, int32_t lanes);
void ebb_workers_free_lanes(ebb_workers_t *w);
/* What passes read until ebb_workers_release, and nobody writes: a device prepares it once for all of them. Between the
 * two only the pool's threads use the contexts. */
ebb_status_t ebb_workers_hold(ebb_workers_t *w, const ebb_layout_t *layout, const ebb_weights_t *weights);
void ebb_workers_release(ebb_workers_t *w);
/* Passes over dense rows are given again where they may be (replay.h). */
ebb_status_t ebb_workers_replay(ebb_workers_t *w);
void ebb_workers_cleanup(ebb_workers_t *w);

#endif
