/* Models: parameters, forward and backward pass of one lane's rows, through backend operations only. A model never
 * sees ranks, streams, lanes' sums or the optimiser. The built-in model is a list of layers; others are plug-ins,
 * shared objects that export `const ebb_model_ops_t ebb_model_entry`.
 */
#ifndef EBB_MODEL_H
#define EBB_MODEL_H

#include <ebb/base.h>
#include <ebb/compute.h>
#include <ebb/shard.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EBB_MODEL_VERSION 3u
#define EBB_MAX_TABLES    8
#define EBB_MAX_BUCKETS   8

typedef enum ebb_param_kind {
    EBB_PARAM_DENSE, /* every step touches all of it */
    EBB_PARAM_ROWS,  /* (rows, cols) table of which a step touches the rows of its non-zeros; only those are updated */
} ebb_param_kind_t;

typedef enum ebb_init { EBB_INIT_ZERO, EBB_INIT_ONE, EBB_INIT_NORMAL, EBB_INIT_UNIFORM } ebb_init_t;

typedef struct ebb_param {
    char name[64]; /* "0.linear.weight" */
    ebb_param_kind_t kind;
    int64_t rows, cols;
    ebb_init_t init; /* NORMAL: mean 0, standard deviation `scale`; UNIFORM: [-scale, scale) */
    float scale;
    bool decay;        /* L1/L2 and weight decay apply */
    int64_t zero_cols; /* the first so many columns of every row start at 0, whatever init says */
    int64_t offset;    /* DENSE: float offset in the dense vector (a multiple of 16); ROWS: the table's number. Set by
                          ebb_layout_create */
} ebb_param_t;

/* Where parameters live: dense ones in one vector of dense_floats, each row-sparse table on its own. The vector is one
 * bucket or several, in the order in which backward passes complete their gradients: the last layers' first. Every rank
 * owns a part of each bucket, so that all can exchange each as soon as it is complete. */
typedef struct ebb_layout {
    int n_params;
    ebb_param_t *params;
    int64_t dense_floats;                  /* padded; padding stays 0 */
    int n_tables;                          /* <= EBB_MAX_TABLES */
    int table_param[EBB_MAX_TABLES];       /* parameter number of each table */
    int n_buckets;                         /* 0: one */
    int64_t bucket_begin[EBB_MAX_BUCKETS]; /* falling, the last is 0; each the offset of a parameter */
} ebb_layout_t;

static inline int ebb_layout_buckets(const ebb_layout_t *layout)
{
    return layout->n_buckets > 0 ? layout->n_buckets : 1;
}

/* Floats [*begin_p, *end_p) of the dense vector are bucket i. */
static inline void ebb_layout_bucket(const ebb_layout_t *layout, int i, int64_t *begin_p, int64_t *end_p)
{
    *begin_p = layout->n_buckets > 0 ? layout->bucket_begin[i] : 0;
    *end_p = i > 0 ? layout->bucket_begin[i - 1] : layout->dense_floats;
}

/* The bucket of the float at `offset`: all of a dense parameter's are in one. */
static inline int ebb_layout_bucket_of(const ebb_layout_t *layout, int64_t offset)
{
    int i = 0;
    while (i < layout->n_buckets - 1 && offset < layout->bucket_begin[i])
        i++;
    return i;
}

/* Place n declared parameters; errors name the parameter. params is copied. */
EBB_API ebb_status_t ebb_layout_create(int n, const ebb_param_t *params, ebb_layout_t **layout_p) EBB_MUST_CHECK;
EBB_API void ebb_layout_destroy(ebb_layout_t *layout);
/* Floats of all parameters together. */
static inline int64_t ebb_layout_floats(const ebb_layout_t *layout)
{
    int64_t floats = 0;
    for (int i = 0; i < layout->n_params; i++)
        floats += layout->params[i].rows * layout->params[i].cols;
    return floats;
}

/* One copy of all weights, in device memory. */
typedef struct ebb_weights {
    float *dense;                 /* (dense_floats) */
    float *table[EBB_MAX_TABLES]; /* (rows, cols) each */
} ebb_weights_t;

/* Gradients of one lane. dense: (dense_floats). For each table either a dense gradient with its bitmap, or rows; which,
 * the engine decides per step and lane: when table_dense[t] is set the model adds into it, else it sets rows[t], or,
 * when terms[t] is set and the model can, rows[t].n = 0 and *terms[t] (csr_terms) instead. */
typedef struct ebb_grads {
    float *dense;
    float *table_dense[EBB_MAX_TABLES];
    uint64_t *touched[EBB_MAX_TABLES];
    ebb_rows_t rows[EBB_MAX_TABLES];
    bool accumulate; /* false: dense is overwritten; true: added to (table_dense always is added to). Rows are never
                        accumulated */
    ebb_terms_t *terms[EBB_MAX_TABLES]; /* with n = 0 when handed out */
} ebb_grads_t;

/* A lane's input rows; x or csr. Device pointers. */
typedef struct ebb_input {
    int64_t rows;
    bool sparse;
    ebb_csr_t csr;
    const float *x; /* (rows, cols) */
} ebb_input_t;

/* What a pass may use besides its input. */
typedef struct ebb_pass {
    const ebb_backend_ops_t *ops;
    ebb_exec_t *exec;
    const ebb_weights_t *weights;
    void *workspace; /* device memory of workspace_bytes(rows); forward leaves in it what backward needs */
    bool training;   /* dropout on */
    uint64_t seed;   /* with step and lane: the key of dropout's random numbers */
    int64_t step;
    int32_t lane;
    int64_t row0; /* first row of this piece within the lane's rows of the step, so that pieces draw other numbers */
} ebb_pass_t;

typedef struct ebb_model_ops {
    uint32_t version; /* EBB_MODEL_VERSION */
    const char *name;
    /* config: JSON text of the run file's `model` section. info: of the training data. outputs: width of the output
     * that the loss expects (classes for softmax, 1 for binary, target_cols otherwise). */
    ebb_status_t (*create)(const char *config, const ebb_dataset_info_t *info, int64_t outputs, void **model_p);
    void (*destroy)(void *model);
    /* Declare parameters, in order. n_p: their number; the array stays the model's. */
    ebb_status_t (*declare)(void *model, int *n_p, const ebb_param_t **params_p);
    /* layout: as made from the declaration; borrowed until destroy. Called once before the passes. */
    ebb_status_t (*bind)(void *model, const ebb_layout_t *layout);
    int64_t (*workspace_bytes)(void *model, int64_t rows);
    /* out (rows, outputs), device. */
    ebb_status_t (*forward)(void *model, const ebb_pass_t *pass, const ebb_input_t *in, float *out);
    /* dout (rows, outputs): gradient of the loss sum. Fills grads; called after forward with the same pass and input.
     * May overwrite dout. */
    ebb_status_t (*backward)(void *model, const ebb_pass_t *pass, const ebb_input_t *in, float *dout,
                             ebb_grads_t *grads);
} ebb_model_ops_t;

typedef struct ebb_loss {
    ebb_loss_kind_t kind;
    float huber_delta;
} ebb_loss_t;

typedef struct ebb_model ebb_model_t;

/* Build the model that `config` (JSON of the run file's model section: loss, layers | plugin) describes for data like
 * info. Errors name the layer ("model.layers[2].linear.out: ..."). */
EBB_API ebb_status_t ebb_model_create(const char *config, const ebb_dataset_info_t *info,
                                      ebb_model_t **model_p) EBB_MUST_CHECK;
EBB_API void ebb_model_destroy(ebb_model_t *model);
/* Its dense vector is one bucket at first. */
EBB_API const ebb_layout_t *ebb_model_layout(const ebb_model_t *model);
EBB_API const ebb_loss_t *ebb_model_loss(const ebb_model_t *model);
EBB_API int64_t ebb_model_outputs(const ebb_model_t *model);
EBB_API int64_t ebb_model_workspace_bytes(const ebb_model_t *model, int64_t rows);
EBB_API ebb_status_t ebb_model_forward(const ebb_model_t *model, const ebb_pass_t *pass, const ebb_input_t *in,
                                       float *out);
EBB_API ebb_status_t ebb_model_backward(const ebb_model_t *model, const ebb_pass_t *pass, const ebb_input_t *in,
                                        float *dout, ebb_grads_t *grads);
/* Buckets of the dense gradient, in the order in which the backward pass completes them, last layers first: bucket i is
 * floats [begin[i], i == 0 ? dense_floats : begin[i-1]) of the dense vector, and the last begins at 0. Layer lists
 * have up to EBB_MAX_BUCKETS, cut between layers, all of 4 MiB or more but for the last, which takes what is left;
 * plug-ins have one. *begin_p: borrowed until destroy. */
EBB_API int ebb_model_buckets(const ebb_model_t *model, const int64_t **begin_p);
/* Let the layout's dense vector be in these buckets, instead of one. Before sync and optimiser are made of it; on all
 * ranks alike. */
EBB_API void ebb_model_use_buckets(ebb_model_t *model);
/* The part of the backward pass that completes one bucket; all of them, from bucket 0 on, are the operations of
 * ebb_model_backward in their order, so gradients have the same bits. All with the same pass, input and dout, and
 * nobody else writing to dout or the workspace meanwhile; passes with others may come between, on the same context.
 * Of grads->dense only the bucket's floats are written, so each bucket may be given other grads; tables (table_dense,
 * rows, terms) belong to the last bucket. */
EBB_API ebb_status_t ebb_model_backward_bucket(const ebb_model_t *model, const ebb_pass_t *pass, const ebb_input_t *in,
                                               float *dout, ebb_grads_t *grads, int bucket);
/* Whether the backward pass of `rows` rows (cols wide), with grads->accumulate, adds each float of the gradient to what
 * is there in one addition, the gradient rounded as it is alone: then a lane may be added to another lane's sum by its
 * own pass. Tried out with random weights, rows and sums; any bit that differs, or too many zeros to tell, is a no, and
 * so are row-sparse tables. Takes the time of some steps of a lane. Not collective. */
EBB_API ebb_status_t ebb_model_adds_whole(const ebb_model_t *model, ebb_backend_t *backend, int64_t cols, int64_t rows,
                                          bool *whole_p);
/* One line a layer: index, kind, shapes, parameters. */
EBB_API ebb_status_t ebb_model_describe(const ebb_model_t *model, char *text, size_t size);

/* Every layer and loss with its options, as text for people. *text_p: free() it. */
EBB_API ebb_status_t ebb_model_help(char **text_p) EBB_MUST_CHECK;
EBB_API const char *ebb_loss_name(ebb_loss_kind_t kind); /* "softmax_cross_entropy" */

/* Whether passes over dense rows give a context the same operations with the same arguments in every step, so that they
 * can be noted and carried out again (ops->capture_begin): layer lists without dropout. Plug-ins are not asked, and may
 * not. */
EBB_API bool ebb_model_is_steady(const ebb_model_t *model);

/* Check a plug-in's table; for ebb_model_create and tests. */
EBB_API ebb_status_t ebb_model_ops_check(const ebb_model_ops_t *ops);

/* Allocate weights, zeroed; then fill them from (seed, parameter number, element): the same for any backend and rank
 * count. */
EBB_API ebb_status_t ebb_weights_create(ebb_backend_t *backend, const ebb_layout_t *layout,
                                        ebb_weights_t *weights) EBB_MUST_CHECK;
EBB_API ebb_status_t ebb_weights_init(ebb_backend_t *backend, const ebb_layout_t *layout, uint64_t seed,
                                      ebb_weights_t *weights);
EBB_API void ebb_weights_destroy(ebb_backend_t *backend, const ebb_layout_t *layout, ebb_weights_t *weights);
/* Floats of a parameter and where they lie. */
EBB_API float *ebb_weights_param(const ebb_layout_t *layout, const ebb_weights_t *weights, int param,
                                 int64_t *floats_p);

/* ---- checking a model ---- */

/* Rows in host memory; x or csr as info->sparse says. Borrowed. */
typedef struct ebb_host_rows {
    int64_t rows;
    const int64_t *rowptr; /* (rows + 1), rowptr[0] = 0 */
    const int32_t *col;
    const float *val;
    const float *x;       /* (rows, cols) */
    const int32_t *label; /* (rows) for classes, else y (rows, target_cols) */
    const float *y;
} ebb_host_rows_t;

typedef struct ebb_check {
    const char *name; /* "gradient of 0.linear.weight" */
    bool passed, skipped;
    double worst, limit; /* largest error met, and what is allowed */
    const char *note;    /* where the worst was, or why it was skipped */
} ebb_check_t;

/* Check any model on some rows (some dozens do): gradients against finite differences, same bits from a poisoned
 * workspace, from two threads at once, from row-sparse and dense gradients, pieces and padding without influence,
 * weights untouched; and against `other`, a second backend or NULL. report is called once per check. EBB_EDATA if any
 * failed. Not collective. */
EBB_API ebb_status_t ebb_model_check(const char *config, const ebb_dataset_info_t *info, const ebb_host_rows_t *rows,
                                     ebb_backend_t *backend, ebb_backend_t *other, uint64_t seed,
                                     void (*report)(void *user, const ebb_check_t *check), void *user);

/* ---- metrics ----
 * Computed per row and added exactly (integers and exact sums), so any split of the rows over ranks gives equal
 * figures. */

typedef enum ebb_metric_kind {
    EBB_METRIC_LOSS,
    EBB_METRIC_ACCURACY,
    EBB_METRIC_TOPK,
    EBB_METRIC_LOG_LOSS,
    EBB_METRIC_AUC,
    EBB_METRIC_RMSE,
    EBB_METRIC_MAE
} ebb_metric_kind_t;

typedef struct ebb_metrics ebb_metrics_t;

/* names: "loss,accuracy,top_5,log_loss,auc,rmse,mae", or NULL for those that suit the loss. auc: binary, from 2^20 bins
 * of the score. */
EBB_API ebb_status_t ebb_metrics_create(const char *names, const ebb_loss_t *loss, int64_t outputs,
                                        ebb_metrics_t **metrics_p) EBB_MUST_CHECK;
EBB_API void ebb_metrics_destroy(ebb_metrics_t *metrics);
EBB_API void ebb_metrics_reset(ebb_metrics_t *metrics);
/* Add rows; host pointers: pred (rows,outputs) after the link, row_loss and row_weight (rows). Thread-safe. */
EBB_API ebb_status_t ebb_metrics_add(ebb_metrics_t *metrics, int64_t rows, const float *pred, const int32_t *label,
                                     const float *y, const double *row_loss, const double *row_weight);
/* The state as int64 words that may be summed over ranks: n_p words, in place. */
EBB_API int64_t *ebb_metrics_words(ebb_metrics_t *metrics, int64_t *n_p);
EBB_API int ebb_metrics_count(const ebb_metrics_t *metrics);
/* Name and value of metric i, and whether more is better. NaN where undefined (AUC of one class). */
EBB_API const char *ebb_metrics_get(ebb_metrics_t *metrics, int i, double *value_p, bool *more_is_better_p);

#ifdef __cplusplus
}
#endif
#endif
