/* Subtrees of the run file with tables of their own: optimizer, schedule, early stopping, weights of classes. */
#ifndef EBB_TRAIN_CONFIG_SUBTREES_H
#define EBB_TRAIN_CONFIG_SUBTREES_H

#include "train/config.h"

/* A row of a table of options whose values are members of the structure `values`. */
#define EBB_CONFIG_ROW(values, n, t, field, d, u, lo, hi, c, h)                                                        \
    .name = n, .type = t, .offset = offsetof(values, field), .def = d, .unit = u, .min = lo, .max = hi, .choices = c,  \
    .help = h

/* Each reads what the table of keys left as a tree into the derived part of the configuration. */
ebb_status_t ebb_config_read_rules(const ebb_yaml_t *yaml, ebb_run_config_t *config);
ebb_status_t ebb_config_read_early_stopping(const ebb_yaml_t *yaml, ebb_run_config_t *config);
ebb_status_t ebb_config_read_class_weights(const ebb_yaml_t *yaml, ebb_run_config_t *config);
void ebb_config_help_subtrees(ebb_text_t *out, int width);
/* The error for a key that no table has: where it stands, and the nearest of the candidates (ending in NULL). */
ebb_status_t ebb_config_unknown_key(const ebb_yaml_t *yaml, const char *path, const char *word,
                                    const char *const *candidates);

#endif
