/* The subtrees of a run file that name one of several kinds ({adam: {lr: 0.001}}), early stopping and the weights of
 * classes: their tables, which feed the checks and the help, and what they set. */
#include "train/config_subtrees.h"
#include "base/alloc.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct rule_values {
    double lr, l1, l2, momentum, beta1, beta2, eps, beta;
    bool nesterov;
    double warmup, factor, final, peak_at;
    int64_t every;
} rule_values_t;

#define RULE(n, field, d, lo, hi, h) EBB_CONFIG_ROW(rule_values_t, n, EBB_OPT_F64, field, d, NULL, lo, hi, NULL, h)
#define RULE_L1                      RULE("l1", l1, "0", 0, INFINITY, "L1 penalty (proximal: gives true zeros)")
#define RULE_L2                      RULE("l2", l2, "0", 0, INFINITY, "L2 penalty")
#define RULE_FINAL                   RULE("final", final, "0", 0, 1, "fraction of the rate at the end")
#define RULE_WARMUP                                                                                                    \
    RULE("warmup", warmup, "0", 0, INFINITY,                                                                           \
         "linear warm-up over so many steps, or this fraction of all steps if below 1")

static const ebb_option_t sgd_table[] = {
    {RULE("lr", lr, "0.1", 0, INFINITY, "learning rate")},
    {RULE("momentum", momentum, "0", 0, 1, "momentum")},
    {EBB_CONFIG_ROW(rule_values_t, "nesterov", EBB_OPT_FLAG, nesterov, "false", NULL, 0, 0, NULL,
                    "Nesterov's variant")},
    {RULE_L1},
    {RULE_L2},
    {0},
};
static const ebb_option_t adagrad_table[] = {
    {RULE("lr", lr, "0.1", 0, INFINITY, "learning rate")},
    {RULE("eps", eps, "1e-8", 0, 1, "added to the root")},
    {RULE_L1},
    {RULE_L2},
    {0},
};
static const ebb_option_t adam_table[] = {
    {RULE("lr", lr, "0.001", 0, INFINITY, "learning rate")},
    {RULE("beta1", beta1, "0.9", 0, 1, "decay of the mean")},
    {RULE("beta2", beta2, "0.999", 0, 1, "decay of the mean square")},
    {RULE("eps", eps, "1e-8", 0, 1, "added to the root")},
    {RULE_L1},
    {RULE_L2},
    {0},
};
static const ebb_option_t adamw_table[] = {
    {RULE("lr", lr, "0.001", 0, INFINITY, "learning rate")},
    {RULE("beta1", beta1, "0.9", 0, 1, "decay of the mean")},
    {RULE("beta2", beta2, "0.999", 0, 1, "decay of the mean square")},
    {RULE("eps", eps, "1e-8", 0, 1, "added to the root")},
    {RULE("weight_decay", l2, "0.01", 0, INFINITY, "decoupled weight decay")},
    {0},
};
static const ebb_option_t ftrl_table[] = {
    {RULE("lr", lr, "0.1", 0, INFINITY, "alpha of the paper")},
    {RULE("beta", beta, "1", 0, INFINITY, "beta of the paper")},
    {RULE_L1},
    {RULE_L2},
    {0},
};

static const ebb_option_t constant_table[] = {{RULE_WARMUP}, {0}};
static const ebb_option_t step_table[] = {
    {EBB_CONFIG_ROW(rule_values_t, "every", EBB_OPT_I64, every, "1000", "steps", 1, INFINITY, NULL,
                    "steps between changes")},
    {RULE("factor", factor, "0.5", 0, INFINITY, "multiplies the rate")},
    {RULE_WARMUP},
    {0},
};
static const ebb_option_t cosine_table[] = {{RULE_FINAL}, {RULE_WARMUP}, {0}};
static const ebb_option_t one_cycle_table[] = {
    {RULE("peak_at", peak_at, "0.3", 0, 1, "fraction of the steps at which the rate peaks")},
    {RULE_FINAL},
    {RULE_WARMUP},
    {0},
};

typedef struct kind {
    const char *name;
    int value;
    const ebb_option_t *table;
} kind_t;

static const kind_t optimizer_kinds[] = {
    {"sgd", EBB_OPTIM_SGD, sgd_table},    {"adagrad", EBB_OPTIM_ADAGRAD, adagrad_table},
    {"adam", EBB_OPTIM_ADAM, adam_table}, {"adamw", EBB_OPTIM_ADAMW, adamw_table},
    {"ftrl", EBB_OPTIM_FTRL, ftrl_table}, {0},
};
static const kind_t schedule_kinds[] = {
    {"constant", EBB_SCHEDULE_CONSTANT, constant_table},
    {"step", EBB_SCHEDULE_STEP, step_table},
    {"cosine", EBB_SCHEDULE_COSINE, cosine_table},
    {"one_cycle", EBB_SCHEDULE_ONE_CYCLE, one_cycle_table},
    {0},
};

ebb_status_t ebb_config_unknown_key(const ebb_yaml_t *yaml, const char *path, const char *word,
                                    const char *const *candidates)
{
    const char *near = ebb_text_nearest(word, candidates);
    const char *where = ebb_yaml_where(yaml, path);
    if (near)
        return EBB_FAIL(EBB_EUSAGE, "%s: unknown key \"%s\"; did you mean \"%s\"?", where, path, near);
    return EBB_FAIL(EBB_EUSAGE, "%s: unknown key \"%s\"; `ebb train --help-run` lists all keys", where, path);
}

/* Set values from an object by a table; path is the object's. */
static ebb_status_t read_object(const ebb_yaml_t *yaml, const char *path, const json_t *object,
                                const ebb_option_t *table, void *values)
{
    const char *names[32] = {0};
    for (int i = 0; table[i].name; i++)
        names[i] = table[i].name;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        char full[256], origin[512];
        const ebb_option_t *row = table;
        snprintf(full, sizeof full, "%s.%s", path, key);
        while (row->name && strcmp(row->name, key) != 0)
            row++;
        if (!row->name)
            return ebb_config_unknown_key(yaml, full, key, names);
        snprintf(origin, sizeof origin, "%s: %s", ebb_yaml_where(yaml, full), full);
        EBB_TRY(ebb_option_set_json(row, values, value, origin));
    }
    return EBB_OK;
}

/* A kind by name alone ("adam") or with settings ({adam: {lr: 0.01}}); *kind_p starts as the default. */
static ebb_status_t read_kind(const ebb_yaml_t *yaml, const char *path, const json_t *value, const kind_t *kinds,
                              const kind_t **kind_p, rule_values_t *values)
{
    const char *names[16] = {0}, *name = NULL;
    value = json_is_null(value) ? NULL : value;
    json_t *settings = NULL;
    for (int i = 0; kinds[i].name; i++)
        names[i] = kinds[i].name;
    if (json_is_string(value)) {
        name = json_string_value(value);
    } else if (json_is_object(value) && json_object_size(value) == 1) {
        void *member = json_object_iter((json_t *)value);
        name = json_object_iter_key(member);
        settings = json_object_iter_value(member);
    } else if (value) {
        return EBB_FAIL(EBB_EUSAGE, "%s: %s: give one kind, alone or with settings: {%s: {...}}",
                        ebb_yaml_where(yaml, path), path, kinds[0].name);
    }
    if (name) {
        int i = 0;
        while (kinds[i].name && strcmp(kinds[i].name, name) != 0)
            i++;
        char full[256];
        snprintf(full, sizeof full, "%s.%s", path, name);
        if (!kinds[i].name)
            return ebb_config_unknown_key(yaml, full, name, names);
        *kind_p = &kinds[i];
        EBB_TRY(ebb_options_defaults(kinds[i].table, values));
        if (json_is_object(settings))
            return read_object(yaml, full, settings, kinds[i].table, values);
        if (settings && !json_is_null(settings))
            return EBB_FAIL(EBB_EUSAGE, "%s: %s: expected settings {key: value, ...}", ebb_yaml_where(yaml, full),
                            full);
        return EBB_OK;
    }
    return ebb_options_defaults((*kind_p)->table, values);
}

ebb_status_t ebb_config_read_rules(const ebb_yaml_t *yaml, ebb_run_config_t *c)
{
    rule_values_t v = {0};
    const kind_t *kind = &optimizer_kinds[2];
    EBB_TRY(read_kind(yaml, "train.optimizer", c->optimizer, optimizer_kinds, &kind, &v));
    bool ftrl = kind->value == EBB_OPTIM_FTRL;
    c->optim.hyper = (ebb_optim_hyper_t){.kind = (ebb_optim_kind_t)kind->value,
                                         .lr = (float)v.lr,
                                         .l1 = (float)v.l1,
                                         .l2 = (float)v.l2,
                                         .momentum = (float)v.momentum,
                                         .nesterov = v.nesterov,
                                         .beta1 = (float)(ftrl ? v.beta : v.beta1),
                                         .beta2 = (float)v.beta2,
                                         .eps = (float)v.eps};
    c->optim.clip_norm = (float)c->clip_norm;
    rule_values_t s = {0};
    kind = &schedule_kinds[0];
    EBB_TRY(read_kind(yaml, "train.schedule", c->schedule, schedule_kinds, &kind, &s));
    c->optim.schedule = (ebb_schedule_t){.kind = (ebb_schedule_kind_t)kind->value,
                                         .every = s.every,
                                         .factor = (float)s.factor,
                                         .final = (float)s.final,
                                         .peak_at = (float)s.peak_at};
    c->warmup_steps = s.warmup;
    if (ftrl && (kind->value != EBB_SCHEDULE_CONSTANT || s.warmup > 0))
        return EBB_FAIL(EBB_EUSAGE,
                        "%s: train.schedule: ftrl lowers the rate of each weight by itself: use constant without "
                        "warm-up, or another optimizer",
                        ebb_yaml_where(yaml, "train.schedule"));
    if (ftrl && c->on_nonfinite == EBB_NONFINITE_ROLLBACK)
        return EBB_FAIL(EBB_EUSAGE,
                        "%s: train.on_nonfinite: ftrl cannot go on with another rate: use stop, or another optimizer",
                        ebb_yaml_where(yaml, "train.on_nonfinite"));
    return EBB_OK;
}

typedef struct early_values {
    char *metric;
    int64_t patience;
    double min_delta;
} early_values_t;

#define EARLY(n, t, field, d, u, lo, hi, h) EBB_CONFIG_ROW(early_values_t, n, t, field, d, u, lo, hi, NULL, h)

static const ebb_option_t early_table[] = {
    {EARLY("metric", EBB_OPT_STRING, metric, "loss", NULL, 0, 0, "metric to watch")},
    {EARLY("patience", EBB_OPT_I64, patience, "3", "evaluations", 1, INFINITY,
           "evaluations without gain before the run ends")},
    {EARLY("min_delta", EBB_OPT_F64, min_delta, "0", NULL, 0, INFINITY, "least gain that counts")},
    {0},
};

ebb_status_t ebb_config_read_early_stopping(const ebb_yaml_t *yaml, ebb_run_config_t *c)
{
    const char *path = "train.early_stopping";
    early_values_t v = {0};
    if (!c->early_stopping_spec || json_is_null(c->early_stopping_spec) || json_is_false(c->early_stopping_spec))
        return EBB_OK;
    if (!json_is_object(c->early_stopping_spec))
        return EBB_FAIL(EBB_EUSAGE, "%s: %s: expected {metric: NAME, patience: N, min_delta: X}",
                        ebb_yaml_where(yaml, path), path);
    if (!c->valid)
        return EBB_FAIL(EBB_EUSAGE, "%s: %s: needs validation data: set data.valid", ebb_yaml_where(yaml, path), path);
    EBB_TRY(ebb_options_defaults(early_table, &v));
    ebb_status_t status = read_object(yaml, path, c->early_stopping_spec, early_table, &v);
    if (status != EBB_OK) {
        ebb_options_free(early_table, &v);
        return status;
    }
    c->early_metric = v.metric;
    c->early_patience = v.patience;
    c->early_min_delta = v.min_delta;
    return EBB_OK;
}

ebb_status_t ebb_config_read_class_weights(const ebb_yaml_t *yaml, ebb_run_config_t *c)
{
    const json_t *spec = c->class_weights_spec;
    const char *path = "train.class_weights";
    if (!spec || json_is_null(spec)) {
        c->class_weights = EBB_CLASS_WEIGHTS_NONE;
    } else if (json_is_string(spec) && strcmp(json_string_value(spec), "balanced") == 0) {
        c->class_weights = EBB_CLASS_WEIGHTS_BALANCED;
    } else if (json_is_object(spec)) {
        c->class_weights = EBB_CLASS_WEIGHTS_GIVEN;
        const char *key;
        json_t *value;
        json_object_foreach((json_t *)spec, key,
                            value) if (!json_is_number(value) ||
                                       !(json_number_value(value) >=
                                         0)) return EBB_FAIL(EBB_EUSAGE, "%s: %s.%s: expected a weight >= 0",
                                                             ebb_yaml_where(yaml, path), path, key);
    } else {
        return EBB_FAIL(EBB_EUSAGE, "%s: %s: expected balanced, or {class name: weight, ...}",
                        ebb_yaml_where(yaml, path), path);
    }
    return EBB_OK;
}

static void help_kinds(ebb_text_t *out, const char *path, const kind_t *kinds, int width)
{
    for (const kind_t *k = kinds; k->name; k++) {
        ebb_text_add(out, "\n%s: {%s: {...}}\n", path, k->name);
        ebb_options_help_keys(k->table, out, width);
    }
}

void ebb_config_help_subtrees(ebb_text_t *out, int width)
{
    ebb_text_add(out, "\ntrain.early_stopping: {...}\n");
    ebb_options_help_keys(early_table, out, width);
    help_kinds(out, "train.optimizer", optimizer_kinds, width);
    help_kinds(out, "train.schedule", schedule_kinds, width);
}

ebb_status_t ebb_run_config_class_weights(const ebb_run_config_t *c, const ebb_dataset_info_t *info, float **weights_p)
{
    float *w;
    *weights_p = NULL;
    if (c->class_weights == EBB_CLASS_WEIGHTS_NONE)
        return EBB_OK;
    if (info->target != EBB_TARGET_CLASS)
        return EBB_FAIL(EBB_EUSAGE, "train.class_weights: the targets of %s are not classes", info->name);
    EBB_TRY(EBB_NEW_ARRAY("class weights", info->classes, &w));
    for (int64_t k = 0; k < info->classes; k++) {
        double rows = (double)info->class_rows[k];
        w[k] = c->class_weights == EBB_CLASS_WEIGHTS_BALANCED && rows > 0
                   ? (float)((double)info->rows / ((double)info->classes * rows))
                   : 1.0f;
    }
    const char *key;
    json_t *value;
    if (c->class_weights == EBB_CLASS_WEIGHTS_GIVEN) {
        json_object_foreach(c->class_weights_spec, key, value)
        {
            int64_t k = 0;
            while (k < info->classes && strcmp(info->class_names[k], key) != 0)
                k++;
            if (k == info->classes) {
                ebb_free(w);
                return EBB_FAIL(EBB_EUSAGE,
                                "train.class_weights: %s has no class \"%s\"; `ebb inspect` lists its classes",
                                info->name, key);
            }
            w[k] = (float)json_number_value(value);
        }
    }
    *weights_p = w;
    return EBB_OK;
}
