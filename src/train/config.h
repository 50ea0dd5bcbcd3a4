/* The run file's contents, checked. */
#ifndef EBB_TRAIN_CONFIG_H
#define EBB_TRAIN_CONFIG_H

#include <ebb/train.h>
#include "base/option.h"
#include "base/yaml.h"

typedef enum ebb_class_weights {
    EBB_CLASS_WEIGHTS_NONE,
    EBB_CLASS_WEIGHTS_BALANCED,
    EBB_CLASS_WEIGHTS_GIVEN
} ebb_class_weights_t;

enum { EBB_NONFINITE_STOP, EBB_NONFINITE_ROLLBACK };

struct ebb_run_config {
    /* run */
    char *name, *dir_base;
    char *dir; /* dir_base/name */
    double watchdog;
    /* data */
    char *train, *valid, *dataset;
    double row_sum, scale;
    bool log1p, row_l2, shuffle;
    int64_t block_rows, window_blocks, memory_bytes, loader_threads, depth;
    /* lanes */
    int64_t lanes;
    /* model */
    json_t *model;
    /* train */
    int64_t epochs, max_steps, batch, seed, accumulate, threads;
    json_t *optimizer, *schedule, *class_weights_spec, *early_stopping_spec;
    double clip_norm;
    int sync, rows, on_corrupt, on_nonfinite; /* as in their choices */
    char *backend;
    int wire;      /* ebb_wire_choice_t */
    int precision; /* ebb_precision_t */
    /* eval */
    char *metrics;
    int64_t eval_every;
    /* checkpoint */
    int64_t checkpoint_steps, checkpoint_keep;
    double checkpoint_minutes;
    /* carbon */
    ebb_run_carbon_t carbon;

    /* derived from the above */
    ebb_optim_options_t optim; /* schedule.total_steps is filled when the data is known */
    double warmup_steps;
    ebb_class_weights_t class_weights;
    char *early_metric; /* NULL: no early stopping */
    int64_t early_patience;
    double early_min_delta;
    char *json;
    ebb_yaml_t yaml; /* the tree it came from, for the lines of later errors */
};

/* From a parsed tree, which stays the caller's. */
ebb_status_t ebb_run_config_build(const ebb_yaml_t *yaml, ebb_run_config_t **config_p);
/* Weights per class in the data's class order, or NULL; free with ebb_free. */
ebb_status_t ebb_run_config_class_weights(const ebb_run_config_t *config, const ebb_dataset_info_t *info,
                                          float **weights_p);
void ebb_run_config_transform(const ebb_run_config_t *config, ebb_transform_t *transform);

#endif
