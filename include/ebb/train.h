/* Training, evaluation and prediction: joins the stages. A run is described by a run file (YAML); every key stands once
 * in the table that `ebb train --help-run` prints.
 *
 * All functions here are collective over `comm` unless they say otherwise, and return the same status on every rank.
 */
#ifndef EBB_TRAIN_H
#define EBB_TRAIN_H

#include <ebb/base.h>
#include <ebb/checkpoint.h>
#include <ebb/comm.h>
#include <ebb/loader.h>
#include <ebb/model.h>
#include <ebb/optim.h>
#include <ebb/sync.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- configuration ---- */

typedef struct ebb_run_config ebb_run_config_t; /* opaque: made from a run file, or from a checkpoint's record of one */

/* Read a run file, then apply n_sets overrides "a.b=c". Errors name file, line and the nearest valid key. Not
 * collective. */
EBB_API ebb_status_t ebb_run_config_load(const char *path, int n_sets, const char *const *sets,
                                         ebb_run_config_t **config_p) EBB_MUST_CHECK;
/* From the JSON that ebb_run_config_json gave; on resume only keys that change no number may be set. Not collective. */
EBB_API ebb_status_t ebb_run_config_resume(const char *json, int n_sets, const char *const *sets,
                                           ebb_run_config_t **config_p) EBB_MUST_CHECK;
EBB_API void ebb_run_config_free(ebb_run_config_t *config);
/* The whole configuration, defaults included, as JSON. Owned by the configuration. */
EBB_API const char *ebb_run_config_json(const ebb_run_config_t *config);
EBB_API const char *ebb_run_config_name(const ebb_run_config_t *config); /* run.name */
EBB_API const char *ebb_run_config_dir(const ebb_run_config_t *config);  /* run.dir/run.name */
EBB_API int64_t ebb_run_config_epochs(const ebb_run_config_t *config);
EBB_API const char *ebb_run_config_backend(const ebb_run_config_t *config);
EBB_API int64_t ebb_run_config_lanes(const ebb_run_config_t *config);
EBB_API double ebb_run_config_watchdog(const ebb_run_config_t *config); /* seconds; 0: no watchdog */
/* SHA-256 over what decides how fast it runs and what it draws: data, model, batch, optimiser, threads, backend; not
 * how long it runs, nor where and how it is recorded. Not collective. */
EBB_API ebb_status_t ebb_run_config_key(const ebb_run_config_t *config, char key[65]);
/* What its books of energy and carbon go by; texts may be NULL. */
typedef struct ebb_run_carbon {
    char *source, *zone, *file, *column, *url; /* as in <ebb/carbon.h> */
    int scope;                                 /* 0: any, 1: direct, 2: life-cycle */
    int signal;                                /* 0: any, 1: average, 2: marginal */
    double pue, embodied_kg, lifetime_years;   /* of the building; of making one host, 0: not given */
    char *prometheus;                          /* folder for node_exporter */
} ebb_run_carbon_t;
EBB_API const ebb_run_carbon_t *ebb_run_config_carbon(const ebb_run_config_t *config);
/* Let the run live in folder `dir` from now on: of a resumed run that was moved. */
EBB_API ebb_status_t ebb_run_config_move(ebb_run_config_t *config, const char *dir);
/* Every key with default, unit, range and meaning; free with free(). Not collective. */
EBB_API char *ebb_run_config_help(int width);

/* ---- training ---- */

/* What a step reports to the observer; the same on every rank but for the times, which are this rank's. */
typedef struct ebb_step_report {
    int64_t epoch, epochs, step, steps, epoch_step, epoch_steps; /* step: optimiser steps done of `steps` in all */
    double loss;                                                 /* weighted mean over this step's rows */
    double lr, grad_norm;               /* grad_norm: of the mean gradient, NaN unless clipping is on */
    int64_t rows;                       /* of this step, all ranks */
    int64_t rows_done;                  /* since the run (or its resumption) began */
    double seconds;                     /* since then */
    double stall_seconds, sync_seconds; /* of them, waiting for the loader; in gradient exchange, which on GPUs is but
                                           what the host has to do for it: it goes on beside passes */
} ebb_step_report_t;

typedef struct ebb_metric_value {
    const char *name;
    double value;
    bool more_is_better;
} ebb_metric_value_t;

typedef struct ebb_epoch_report {
    int64_t epoch, step;
    double train_loss;
    int n_metrics; /* of the validation data; 0 if there is none */
    const ebb_metric_value_t *metrics;
    bool best;           /* of the run so far, by the first metric or the one of early stopping */
    char order_hash[17]; /* of the rows as delivered, by (step, lane, position): equal for any rank count */
    double seconds;
} ebb_epoch_report_t;

/* A number was not finite, and the run goes back. */
typedef struct ebb_rollback {
    int64_t step, to_step; /* steps done then, and in the checkpoint */
    double rate;           /* multiplies the learning rate from now on */
    const char *reason;
} ebb_rollback_t;

/* Called on every rank, between steps, from the thread that called ebb_train; members may be NULL. */
typedef struct ebb_observer {
    void *user;
    /* This rank meets an error that it cannot agree upon, since the others wait for it; the job is ended at once. */
    void (*alone)(void *user, const char *why);
    void (*start)(void *user, const char *facts_json); /* data, model, parameters, lanes, ranks, threads, backend */
    void (*step)(void *user, const ebb_step_report_t *report);
    void (*epoch)(void *user, const ebb_epoch_report_t *report);
    /* A checkpoint is in place; or was not written, error says why, and the run goes on. Some steps may have passed. */
    void (*checkpoint)(void *user, const ebb_saved_t *saved, const char *error);
    void (*rollback)(void *user, const ebb_rollback_t *rollback);
} ebb_observer_t;

/* Rows [row, row + rows) that a damaged chunk spoils. */
typedef struct ebb_skipped {
    int64_t row, rows;
    char reason[256];
} ebb_skipped_t;

typedef struct ebb_train_result {
    int64_t steps, epochs;
    double seconds;
    char weights_sha256[65], optimizer_sha256[65];
    char model_path[4096];
    int n_metrics;
    ebb_metric_value_t metrics[16]; /* of the last evaluation */
    char metric_names[16][32];
    int64_t rows_skipped; /* data.on_corrupt: skip; over all epochs and ranks of this process */
    int n_skipped;        /* damaged chunks that they were in, by row */
    ebb_skipped_t skipped[32];
} ebb_train_result_t;

/* Train as configured, in folder ebb_run_config_dir(), from the newest good checkpoint there if resume. EBB_ESTOPPED
 * after ebb_train_stop: a checkpoint was written and the run can be resumed. */
EBB_API ebb_status_t ebb_train(ebb_comm_t *comm, const ebb_run_config_t *config, bool resume,
                               const ebb_observer_t *observer, ebb_train_result_t *result);
/* Ask the run of this process to finish its step, checkpoint and return. Any rank; also from a signal handler. */
EBB_API void ebb_train_stop(void);

/* ---- a trained model ---- */

typedef struct ebb_predictor ebb_predictor_t;

/* Open a model: a run's folder (its model.h5, else its newest checkpoint), or a model or checkpoint file. threads 0:
 * this rank's share of the cores. */
EBB_API ebb_status_t ebb_predictor_open(ebb_comm_t *comm, const char *path, int threads,
                                        ebb_predictor_t **predictor_p) EBB_MUST_CHECK;
EBB_API void ebb_predictor_close(ebb_predictor_t *predictor);
EBB_API int64_t ebb_predictor_outputs(const ebb_predictor_t *predictor);
/* Name of class c; NULL for a regression. */
EBB_API const char *ebb_predictor_class(const ebb_predictor_t *predictor, int64_t c);
EBB_API const char *ebb_predictor_config(const ebb_predictor_t *predictor);

/* Evaluate on a data set (path, and dataset inside a foreign file or NULL). metrics: names or NULL for those of the
 * run. The values belong to the predictor until its next call. Equal for any rank and thread count. */
EBB_API ebb_status_t ebb_predictor_evaluate(ebb_predictor_t *predictor, const char *path, const char *dataset,
                                            const char *metrics, int *n_p, const ebb_metric_value_t **values_p,
                                            int64_t *rows_p);
/* Predict all rows; write is called on rank 0, in order, with n rows of `outputs` values (probabilities or reals). */
typedef ebb_status_t (*ebb_predict_write_t)(void *user, int64_t row0, int64_t n, int64_t outputs, const float *pred);
EBB_API ebb_status_t ebb_predictor_run(ebb_predictor_t *predictor, const char *path, const char *dataset,
                                       ebb_predict_write_t write, void *user);

#ifdef __cplusplus
}
#endif
#endif
