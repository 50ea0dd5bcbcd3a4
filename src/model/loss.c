/* Losses: their names and options, which targets each suits, and which is meant when the run file names none. The
 * arithmetic is the backend's. */
#include "model/layer.h"

#include <string.h>

typedef struct loss_row {
    const char *name;
    ebb_loss_kind_t kind;
    bool classes; /* targets are class numbers, else reals */
    const char *help;
    ebb_key_t key[EBB_LAYER_KEYS];
} loss_row_t;

static const loss_row_t LOSSES[] = {
    {"softmax_cross_entropy", EBB_LOSS_SOFTMAX_CE, true, "two or more classes; one output per class", {{0}}},
    {"binary_cross_entropy",
     EBB_LOSS_BINARY_CE,
     true,
     "two classes; one output, the log odds of the second class",
     {{0}}},
    {"squared", EBB_LOSS_SQUARED, false, "real targets; half the squared error", {{0}}},
    {"huber",
     EBB_LOSS_HUBER,
     false,
     "real targets; squared near zero, linear beyond delta",
     {{"delta", EBB_KEY_REAL, 1e-6, 1e6, 1.0, "1", "where the loss turns linear"}}},
    {"poisson", EBB_LOSS_POISSON, false, "counts; the output is the logarithm of the rate", {{0}}},
};
enum { N_LOSSES = sizeof LOSSES / sizeof LOSSES[0] };

const char *ebb_loss_name(ebb_loss_kind_t kind)
{
    for (int i = 0; i < N_LOSSES; i++)
        if (LOSSES[i].kind == kind)
            return LOSSES[i].name;
    return "?";
}

void ebb_loss_help(ebb_text_t *out)
{
    ebb_text_add(out, "loss: NAME or {NAME: {option: value}}; without it, the data set's target decides\n");
    for (int i = 0; i < N_LOSSES; i++) {
        ebb_text_add(out, "  %-22s %s\n", LOSSES[i].name, LOSSES[i].help);
        ebb_keys_help(LOSSES[i].key, out);
    }
}

static ebb_status_t find_loss(const char *name, const loss_row_t **row_p)
{
    const char *names[N_LOSSES + 1] = {NULL};
    for (int i = 0; i < N_LOSSES; i++) {
        names[i] = LOSSES[i].name;
        if (strcmp(name, names[i]) == 0) {
            *row_p = &LOSSES[i];
            return EBB_OK;
        }
    }
    return ebb_unknown("model.loss", "loss", name, names);
}

static const loss_row_t *suitable_loss(const ebb_dataset_info_t *info)
{
    if (info->target == EBB_TARGET_REAL)
        return &LOSSES[2];
    return info->classes == 2 ? &LOSSES[1] : &LOSSES[0];
}

/* Does the data set have the targets that the loss is of? */
static ebb_status_t check_target(const loss_row_t *row, const ebb_dataset_info_t *info)
{
    const char *data = info->name ? info->name : "";
    if (info->target == EBB_TARGET_NONE)
        return EBB_FAIL(EBB_EDATA, "model.loss: data set \"%s\" has no target to learn; pack it with one", data);
    if (row->classes && info->target == EBB_TARGET_REAL)
        return EBB_FAIL(EBB_EUSAGE,
                        "model.loss: %s needs classes, but the target of data set \"%s\" is real; use squared, huber "
                        "or poisson, or pack with --task class",
                        row->name, data);
    if (!row->classes && info->target == EBB_TARGET_CLASS)
        return EBB_FAIL(EBB_EUSAGE,
                        "model.loss: %s needs a real target, but data set \"%s\" has %lld classes; use %s, or pack "
                        "with --task real",
                        row->name, data, (long long)info->classes, suitable_loss(info)->name);
    if (row->classes && info->classes < 2)
        return EBB_FAIL(EBB_EDATA, "model.loss: data set \"%s\" has %lld class; there is nothing to tell apart", data,
                        (long long)info->classes);
    if (row->kind == EBB_LOSS_BINARY_CE && info->classes != 2)
        return EBB_FAIL(
            EBB_EUSAGE,
            "model.loss: binary_cross_entropy needs 2 classes, but data set \"%s\" has %lld; use softmax_cross_entropy",
            data, (long long)info->classes);
    if (!row->classes && info->target_cols < 1)
        return EBB_FAIL(EBB_EDATA, "model.loss: data set \"%s\" has a real target of %lld columns", data,
                        (long long)info->target_cols);
    return EBB_OK;
}

ebb_status_t ebb_loss_configure(const json_t *spec, const ebb_dataset_info_t *info, ebb_loss_t *loss,
                                int64_t *outputs_p)
{
    const loss_row_t *row = suitable_loss(info);
    const json_t *options = NULL;
    if (json_is_string(spec)) {
        EBB_TRY(find_loss(json_string_value(spec), &row));
    } else if (json_is_object(spec) && json_object_size(spec) == 1) {
        void *member = json_object_iter((json_t *)spec);
        EBB_TRY(find_loss(json_object_iter_key(member), &row));
        options = json_object_iter_value(member);
    } else if (spec && !json_is_null(spec)) {
        return EBB_FAIL(EBB_EUSAGE, "model.loss: must be a name such as softmax_cross_entropy, or one name with "
                                    "options such as {huber: {delta: 2}}");
    }
    char path[64];
    double value[EBB_LAYER_KEYS] = {0};
    bool is_set[EBB_LAYER_KEYS];
    snprintf(path, sizeof path, "model.loss.%s", row->name);
    EBB_TRY(ebb_keys_read(row->key, options, path, value, is_set));
    EBB_TRY(check_target(row, info));
    loss->kind = row->kind;
    loss->huber_delta = row->kind == EBB_LOSS_HUBER ? (float)value[0] : 1.0f;
    *outputs_p = row->kind == EBB_LOSS_SOFTMAX_CE  ? info->classes
                 : row->kind == EBB_LOSS_BINARY_CE ? 1
                                                   : info->target_cols;
    return EBB_OK;
}
