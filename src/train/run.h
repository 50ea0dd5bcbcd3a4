/* A run in progress: what the step loop, checkpoints and evaluation share. */
#ifndef EBB_TRAIN_RUN_H
#define EBB_TRAIN_RUN_H

#include <ebb/train.h>
#include "base/exact.h"
#include "base/json.h"
#include "train/ahead.h"
#include "train/config.h"
#include "train/devices.h"
#include "train/sweep.h"
#include "train/scan.h"
#include "train/workers.h"

/* What all ranks add up in every step, as integers, so that the order of adding does not matter. */
typedef struct ebb_step_words {
    ebb_exact_t loss, weight; /* sums over the step's rows */
    int64_t rows;
    int64_t order_low, order_high; /* halves of the order hash of the rows delivered */
    int64_t failed, stop, save;    /* ranks that failed; that were told to stop; that want a checkpoint */
    int64_t saved;                 /* has come to the end of its part of writing one */
} ebb_step_words_t;

#define EBB_STEP_WORDS ((int64_t)(sizeof(ebb_step_words_t) / sizeof(int64_t)))

/* Where the run stands beyond the loader's cursor; saved in checkpoints. */
typedef struct ebb_run_progress {
    ebb_exact_t epoch_loss, epoch_weight;
    uint64_t epoch_order;
    double best; /* of the watched metric; NaN before the first evaluation */
    int64_t since_best;
    bool ended_early;
    double rate; /* multiplies the learning rate: 1 before the first rollback */
} ebb_run_progress_t;

typedef struct ebb_run {
    ebb_comm_t *comm;
    const ebb_run_config_t *config;
    const ebb_observer_t *observer;
    ebb_workers_t workers;
    ebb_devices_t devices;
    ebb_dataset_t *data, *valid;
    const ebb_dataset_info_t *info;
    ebb_order_t order;
    ebb_loader_t *loader;
    ebb_ahead_t *ahead; /* NULL: passes read the loader's batches, or copy what they need */
    ebb_model_t *model;
    const ebb_layout_t *layout;
    ebb_weights_t weights;
    bool have_weights;
    ebb_sync_t *sync;
    ebb_optim_options_t optim_options;
    ebb_optim_t *optim;
    ebb_metrics_t *metrics;
    float *class_weights;
    const float *device_class_weights; /* the same where passes can read them */
    int32_t lane0, lane1;              /* of this rank */
    int buckets;                   /* in which backward passes come, lanes in step; 0: passes of a lane come at once */
    int64_t whole_rows[2];         /* lanes of so many rows are added whole (ebb_model_adds_whole); 0: none */
    ebb_step_words_t *words;       /* (threads), then one for the sum */
    ebb_pinned_t losses;           /* of: */
    double *row_loss, *row_weight; /* (rows of a batch): of the current one */
    ebb_sweep_t sweep;
    int64_t epoch_steps, total_steps, step;
    ebb_run_progress_t progress;
    ebb_saver_t *saver;
    int64_t failed_saves;                          /* in a row */
    bool told_no_room;                             /* that a snapshot does not fit into memory */
    int64_t saved_step;                            /* of the newest checkpoint that this process wrote; -1: none */
    char weights_sha256[65], optimizer_sha256[65]; /* of that one */
    /* of the current step */
    const ebb_batch_t *batch;
    const ebb_batch_t *device_batch; /* the same where passes read it, or NULL */
    double grad_norm, lr;
    int64_t bad_lane; /* the least of this rank's lanes whose loss is not finite; INT64_MAX: none */
    /* times, this rank's */
    int64_t start_ns, sync_ns, last_save_ns, rows_done;
} ebb_run_t;

/* Open data, build model, loader, sync and optimiser; weights from the seed. Collective. */
ebb_status_t ebb_run_init(ebb_run_t *run, ebb_comm_t *comm, const ebb_run_config_t *config,
                          const ebb_observer_t *observer);
void ebb_run_cleanup(ebb_run_t *run);
/* Facts of the run for the record; NULL when out of memory; free() it. */
char *ebb_run_facts(const ebb_run_t *run);

/* One optimiser step on the next batch. The summed words are left in *words_p. EBB_END at the epoch's end, before any
 * work. Collective. */
ebb_status_t ebb_run_step(ebb_run_t *run, bool want_save, const ebb_step_words_t **words_p);
/* Exchanges of the steps so far are through: before ranks turn to something else. One rank's error ends all. */
ebb_status_t ebb_run_settle(ebb_run_t *run);
extern volatile int ebb_run_stop_asked;

/* Checkpoints of the run. Collective. Begin one, which is written while training goes on; or, with `wait`, return when
 * it is in place. One that is still being written is waited for. */
ebb_status_t ebb_run_save(ebb_run_t *run, bool wait);
/* Ask for the outcome of the one being written, and tell the observer. A failure that later ones may be spared from (a
 * full disk) is told and not returned, unless `last`. */
ebb_status_t ebb_run_saved(ebb_run_t *run, bool last);
/* All ranks that have to do with it have done their parts of what is being written. */
ebb_status_t ebb_run_go_on_saving(ebb_run_t *run);
ebb_status_t ebb_run_restore(ebb_run_t *run);
/* Trouble of the storage may pass; nothing else does by itself. */
bool ebb_run_may_pass(ebb_status_t status);
/* Weights alone, to path. weights_sha256: theirs where it is known, or NULL. Collective. */
ebb_status_t ebb_run_save_model(ebb_run_t *run, const char *path, const char *weights_sha256);
ebb_status_t ebb_run_load_model(ebb_run_t *run, const char *path);
ebb_checkpoint_state_t ebb_run_state(ebb_run_t *run, bool with_optim);

#endif
