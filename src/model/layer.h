/* Layers of the built-in model: what a kind of layer is, and the options of layers and losses. Internal to model/. */
#ifndef EBB_MODEL_LAYER_H
#define EBB_MODEL_LAYER_H

#include <ebb/model.h>
#include "base/json.h"
#include "base/text.h"

enum { EBB_LAYER_KEYS = 4, EBB_LAYER_PARAMS = 2, EBB_MAX_LAYERS = 64 };

/* ---- options of a layer or a loss: numbers and flags, kept as doubles ---- */

typedef enum ebb_key_type { EBB_KEY_INT, EBB_KEY_REAL, EBB_KEY_FLAG } ebb_key_type_t;

typedef struct ebb_key {
    const char *name;
    ebb_key_type_t type;
    double min, max; /* inclusive */
    double def;      /* used when the key is absent */
    const char *def_text, *help;
} ebb_key_t;

/* Read the options in `json` (an object, or null for none) by a table of at most EBB_LAYER_KEYS rows that ends with a
 * NULL name or there. path begins each error. */
ebb_status_t ebb_keys_read(const ebb_key_t *keys, const json_t *json, const char *path, double *value, bool *is_set);
void ebb_keys_help(const ebb_key_t *keys, ebb_text_t *out);
/* "unknown <what> "<word>"; did you mean ...?" with the whole list where nothing is near. */
ebb_status_t ebb_unknown(const char *path, const char *what, const char *word, const char *const *candidates);

/* ---- losses ---- */

/* spec: the value of model.loss, NULL to choose by the data set's target. outputs_p: width of the output the loss
 * needs. */
ebb_status_t ebb_loss_configure(const json_t *spec, const ebb_dataset_info_t *info, ebb_loss_t *loss,
                                int64_t *outputs_p);
void ebb_loss_help(ebb_text_t *out);

/* ---- layers ---- */

typedef struct ebb_layer ebb_layer_t;

/* What a layer may know while the list is set up. */
typedef struct ebb_setup {
    const ebb_dataset_info_t *info;
    int64_t outputs;    /* of the model */
    bool last, alone;   /* last of the list; the only layer */
    ebb_act_t next_act; /* activation that follows, layer norm and dropout overlooked */
    double fan_in;      /* inputs that are not zero, per row */
    int n_params;
    ebb_param_t *params; /* room for EBB_LAYER_PARAMS more */
} ebb_setup_t;

/* One pass through one layer; in and out are (rows, layer->in) and (rows, layer->out). */
typedef struct ebb_layer_io {
    const ebb_pass_t *pass;
    const ebb_layout_t *layout;
    int64_t rows;
    const ebb_csr_t *csr; /* the model's input where layer->sparse, then in is NULL */
    const float *in;
    float *out;
    float *aux; /* (rows, layer->aux), kept from forward to backward */
    /* backward: */
    float *dout;
    float *din; /* NULL: not wanted; == dout for kinds that work in place */
    ebb_grads_t *grads;
} ebb_layer_io_t;

typedef struct ebb_layer_kind {
    const char *name, *help;
    ebb_key_t key[EBB_LAYER_KEYS];
    ebb_act_t act; /* activations: which */
    bool takes_sparse, takes_dense;
    bool in_place;  /* backward writes din over dout */
    bool needs_out; /* backward reads its own output */
    /* Set layer->out, layer->aux and the parameters. */
    ebb_status_t (*setup)(ebb_layer_t *layer, ebb_setup_t *setup);
    void (*cleanup)(ebb_layer_t *layer); /* may be NULL */
    ebb_status_t (*forward)(const ebb_layer_t *layer, const ebb_layer_io_t *io);
    ebb_status_t (*backward)(const ebb_layer_t *layer, const ebb_layer_io_t *io);
} ebb_layer_kind_t;

struct ebb_layer {
    const ebb_layer_kind_t *kind;
    int number;    /* in the run file's list */
    char path[64]; /* "model.layers[2].linear" */
    double opt[EBB_LAYER_KEYS];
    bool set[EBB_LAYER_KEYS];
    int64_t in, out, aux; /* floats per row */
    bool sparse;          /* reads the model's CSR input */
    ebb_act_t act;        /* own or fused activation */
    bool fused;           /* the next layer of the list is done by this one */
    int n_params, param[EBB_LAYER_PARAMS];
    int n_fields; /* embedding */
    int32_t *field_begin;
};

extern const ebb_layer_kind_t ebb_layer_linear, ebb_layer_embedding, ebb_layer_fm, ebb_layer_norm, ebb_layer_dropout;
extern const ebb_layer_kind_t ebb_layer_relu, ebb_layer_gelu, ebb_layer_tanh, ebb_layer_sigmoid;
extern const ebb_model_ops_t ebb_layers_ops; /* the layer list as a model */
bool ebb_layers_are_steady(const void *self);

/* ---- buckets of the dense gradient (ebb_model_buckets) ---- */

/* Cut a model into buckets of `least` floats or more, but for the last; larger ones where they would be too many. After
 * bind and before the passes. */
void ebb_model_cut(ebb_model_t *model, int64_t least);

/* The same of ebb_layers_ops. */
void ebb_layers_cut(void *self, int64_t least);
int ebb_layers_buckets(const void *self, const int64_t **begin_p);
ebb_status_t ebb_layers_backward_bucket(const void *self, const ebb_pass_t *pass, const ebb_input_t *in, float *dout,
                                        ebb_grads_t *grads, int bucket);

void ebb_layers_help(ebb_text_t *out);
/* One line a layer of a model made by ebb_layers_ops. */
void ebb_layers_describe(void *model, ebb_text_t *out);

/* Declare a parameter named "<number>.<kind>.<name>" and remember it as the layer's next. */
ebb_param_t *ebb_layer_param(ebb_layer_t *layer, ebb_setup_t *setup, const char *name, ebb_param_kind_t kind,
                             int64_t rows, int64_t cols);

/* Let a parameter start uniformly around 0 with that standard deviation; 0: at zero. Uniform rather than normal: no
 * logarithm or cosine, so the bits do not hang on a mathematical library, and a third of the time. */
void ebb_layer_init(ebb_param_t *param, double deviation);

/* Where the layer's k-th parameter and its gradient lie; table number of a row-sparse one. */
static inline float *ebb_layer_weight(const ebb_layer_t *layer, const ebb_layer_io_t *io, int k)
{
    const ebb_param_t *p = &io->layout->params[layer->param[k]];
    return p->kind == EBB_PARAM_DENSE ? io->pass->weights->dense + p->offset : io->pass->weights->table[p->offset];
}

static inline float *ebb_layer_grad(const ebb_layer_t *layer, const ebb_layer_io_t *io, int k)
{
    return io->grads->dense + io->layout->params[layer->param[k]].offset;
}

static inline int ebb_layer_table(const ebb_layer_t *layer, const ebb_layer_io_t *io, int k)
{
    return (int)io->layout->params[layer->param[k]].offset;
}

#endif
