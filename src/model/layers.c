/* The built-in model: a list of layers run one after another.
 *
 * Memory. All buffers lie in the pass's workspace: each layer's output and kept values, then two gradient buffers that
 * the backward pass uses in turn. The last layer writes straight to the caller's output unless its backward pass reads
 * its output. Places follow from the number of rows alone, so forward and backward agree without any state; one model
 * serves any number of threads.
 */
#include "model/layer.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"

enum { FLOAT_ALIGN = 16 };

static const ebb_layer_kind_t *const KINDS[] = {
    &ebb_layer_linear, &ebb_layer_embedding, &ebb_layer_fm,   &ebb_layer_norm,    &ebb_layer_dropout,
    &ebb_layer_relu,   &ebb_layer_gelu,      &ebb_layer_tanh, &ebb_layer_sigmoid,
};
enum { N_KINDS = sizeof KINDS / sizeof KINDS[0] };

typedef struct layers {
    int n;
    ebb_layer_t layer[EBB_MAX_LAYERS];
    int n_params;
    ebb_param_t params[EBB_MAX_LAYERS * EBB_LAYER_PARAMS];
    const ebb_layout_t *layout;
    int first_trained; /* layers below have no parameters, so no gradient need reach them */
    int64_t max_width; /* widest input that a gradient is wanted for */
    int n_buckets;
    int64_t bucket_begin[EBB_MAX_BUCKETS];
    int bucket_layer[EBB_MAX_BUCKETS]; /* the lowest layer of each */
} layers_t;

/* Where a layer's values lie in this pass. */
typedef struct places {
    const float *in[EBB_MAX_LAYERS];
    float *out[EBB_MAX_LAYERS], *aux[EBB_MAX_LAYERS], *scratch[2];
    int64_t floats;
} places_t;

ebb_param_t *ebb_layer_param(ebb_layer_t *layer, ebb_setup_t *setup, const char *name, ebb_param_kind_t kind,
                             int64_t rows, int64_t cols)
{
    ebb_param_t *p = &setup->params[setup->n_params];
    layer->param[layer->n_params++] = setup->n_params++;
    snprintf(p->name, sizeof p->name, "%d.%s.%s", layer->number, layer->kind->name, name);
    p->kind = kind;
    p->rows = rows;
    p->cols = cols;
    return p;
}

void ebb_layer_init(ebb_param_t *param, double deviation)
{
    param->init = deviation > 0.0 ? EBB_INIT_UNIFORM : EBB_INIT_ZERO;
    param->scale = (float)(sqrt(3.0) * deviation);
}

/* ---- configuration ---- */

static ebb_status_t find_kind(const char *path, const char *name, const ebb_layer_kind_t **kind_p)
{
    const char *names[N_KINDS + 1] = {NULL};
    for (int i = 0; i < N_KINDS; i++) {
        names[i] = KINDS[i]->name;
        if (strcmp(name, names[i]) == 0) {
            *kind_p = KINDS[i];
            return EBB_OK;
        }
    }
    return ebb_unknown(path, "layer", name, names);
}

/* Kind and options of one item: "relu", {relu: {}} or {relu: null}. */
static ebb_status_t read_item(const json_t *item, int number, ebb_layer_t *layer)
{
    char path[32];
    snprintf(path, sizeof path, "model.layers[%d]", number);
    const char *name = json_string_value(item);
    const json_t *options = NULL;
    if (json_is_object(item) && json_object_size(item) == 1) {
        void *member = json_object_iter((json_t *)item);
        name = json_object_iter_key(member);
        options = json_object_iter_value(member);
    }
    if (!name)
        return EBB_FAIL(EBB_EUSAGE, "%s: a layer is one name with its options, such as \"- linear: {out: 64}\"", path);
    EBB_TRY(find_kind(path, name, &layer->kind));
    layer->number = number;
    snprintf(layer->path, sizeof layer->path, "%s.%s", path, layer->kind->name);
    return ebb_keys_read(layer->kind->key, options, layer->path, layer->opt, layer->set);
}

static ebb_status_t read_items(layers_t *m, const json_t *list)
{
    if (!json_is_array(list) || json_array_size(list) == 0)
        return EBB_FAIL(EBB_EUSAGE,
                        "model.layers: must be a list of layers, such as [{linear: {}}] for a linear model");
    if (json_array_size(list) > EBB_MAX_LAYERS)
        return EBB_FAIL(EBB_EUSAGE, "model.layers: %zu layers; at most %d", json_array_size(list), EBB_MAX_LAYERS);
    for (size_t i = 0; i < json_array_size(list); i++)
        EBB_TRY(read_item(json_array_get(list, i), (int)i, &m->layer[i]));
    m->n = (int)json_array_size(list);
    return EBB_OK;
}

static ebb_act_t following_act(const layers_t *m, int i)
{
    for (i++; i < m->n; i++) {
        const ebb_layer_kind_t *kind = m->layer[i].kind;
        if (kind != &ebb_layer_norm && kind != &ebb_layer_dropout)
            return kind->act;
    }
    return EBB_ACT_NONE;
}

static bool fuses_next(const layers_t *m, int i)
{
    if (i + 1 >= m->n || m->layer[i].kind != &ebb_layer_linear)
        return false;
    ebb_act_t act = m->layer[i + 1].kind->act;
    return act == EBB_ACT_RELU || act == EBB_ACT_TANH || act == EBB_ACT_SIGMOID;
}

static ebb_status_t check_input(const ebb_layer_t *layer, const ebb_dataset_info_t *info)
{
    if (layer->sparse ? layer->kind->takes_sparse : layer->kind->takes_dense)
        return EBB_OK;
    if (layer->sparse)
        return EBB_FAIL(EBB_EUSAGE,
                        "%s: cannot read the sparse data set \"%s\"; put it after a linear or embedding layer",
                        layer->path, info->name ? info->name : "");
    if (layer->number > 0)
        return EBB_FAIL(EBB_EUSAGE, "%s: must be the first layer", layer->path);
    return EBB_FAIL(EBB_EUSAGE,
                    "%s: needs sparse data, but data set \"%s\" is dense; begin with linear, or pack with --sparse",
                    layer->path, info->name ? info->name : "");
}

/* Widths, parameters and fused activations, front to back. */
static ebb_status_t connect_layers(layers_t *m, const ebb_dataset_info_t *info, int64_t outputs)
{
    ebb_setup_t setup = {.info = info, .outputs = outputs, .params = m->params, .alone = m->n == 1};
    int64_t width = info->cols;
    setup.fan_in = info->sparse && info->rows > 0 ? (double)info->nnz / (double)info->rows : (double)info->cols;
    int n = 0;
    for (int i = 0; i < m->n; i++) {
        bool fused = fuses_next(m, i);
        setup.next_act = following_act(m, i);
        setup.last = i + 1 + fused == m->n;
        ebb_layer_t *layer = &m->layer[n];
        if (n != i)
            *layer = m->layer[i]; /* the list closes up over fused activations */
        layer->in = width;
        layer->sparse = n == 0 && info->sparse;
        EBB_TRY(check_input(layer, info));
        EBB_TRY(layer->kind->setup(layer, &setup));
        layer->fused = fused;
        if (fused)
            layer->act = m->layer[++i].kind->act;
        width = layer->out;
        setup.fan_in = (double)width;
        n++;
    }
    m->n = n;
    m->n_params = setup.n_params;
    if (width != outputs)
        return EBB_FAIL(EBB_EUSAGE,
                        "%s: the last layer gives %lld outputs, but the loss needs %lld; end with \"- linear: {}\"",
                        m->layer[n - 1].path, (long long)width, (long long)outputs);
    return EBB_OK;
}

static void destroy_layers(void *model)
{
    layers_t *m = model;
    if (!m)
        return;
    for (int i = 0; i < m->n; i++)
        if (m->layer[i].kind && m->layer[i].kind->cleanup)
            m->layer[i].kind->cleanup(&m->layer[i]);
    ebb_free(m);
}

/* Must the gradient of this layer's input be computed? Layer norm's kernel always writes it. */
static bool wants_din(const layers_t *m, int i)
{
    return i > m->first_trained || m->layer[i].kind == &ebb_layer_norm;
}

static ebb_status_t build(layers_t *m, const json_t *config, const ebb_dataset_info_t *info, int64_t outputs)
{
    EBB_TRY(read_items(m, json_object_get(config, "layers")));
    EBB_TRY(connect_layers(m, info, outputs));
    m->first_trained = m->n;
    for (int i = m->n - 1; i >= 0; i--)
        if (m->layer[i].n_params > 0)
            m->first_trained = i;
    if (m->first_trained == m->n)
        return EBB_FAIL(EBB_EUSAGE, "model.layers: no layer has parameters, so there is nothing to train");
    for (int i = m->first_trained; i < m->n; i++)
        if (wants_din(m, i) && m->layer[i].in > m->max_width)
            m->max_width = m->layer[i].in;
    return EBB_OK;
}

static ebb_status_t create_layers(const char *config, const ebb_dataset_info_t *info, int64_t outputs, void **model_p)
{
    *model_p = NULL;
    json_t *json;
    EBB_TRY(ebb_json_parse(config, strlen(config), "model", &json));
    layers_t *m;
    ebb_status_t status = EBB_NEW("model", &m);
    if (status == EBB_OK)
        status = build(m, json, info, outputs);
    json_decref(json);
    if (status != EBB_OK) {
        destroy_layers(m);
        return status;
    }
    *model_p = m;
    return EBB_OK;
}

static ebb_status_t declare_layers(void *model, int *n_p, const ebb_param_t **params_p)
{
    layers_t *m = model;
    *n_p = m->n_params;
    *params_p = m->params;
    return EBB_OK;
}

static ebb_status_t bind_layers(void *model, const ebb_layout_t *layout)
{
    ((layers_t *)model)->layout = layout;
    return EBB_OK;
}

/* ---- buckets ---- */

/* Float of the dense vector at which a layer's parameters begin; -1: it has none there. */
static int64_t dense_begin(const layers_t *m, const ebb_layer_t *layer)
{
    for (int k = 0; k < layer->n_params; k++) {
        const ebb_param_t *p = &m->layout->params[layer->param[k]];
        if (p->kind == EBB_PARAM_DENSE)
            return p->offset;
    }
    return -1;
}

static void add_bucket(layers_t *m, int64_t begin, int layer)
{
    m->bucket_begin[m->n_buckets] = begin;
    m->bucket_layer[m->n_buckets++] = layer;
}

/* A bucket ends below the layer that makes it large enough, unless no dense parameter is left for another; so what
 * has none, a table as well, is in the bucket of the parameters below or, at the bottom, in the last. false: too many.
 */
static bool cut(layers_t *m, int64_t least)
{
    m->n_buckets = 0;
    int64_t end = m->layout->dense_floats;
    for (int i = m->n - 1; i > m->first_trained; i--) {
        int64_t begin = dense_begin(m, &m->layer[i]);
        if (begin <= 0 || end - begin < least)
            continue;
        if (m->n_buckets == EBB_MAX_BUCKETS - 1)
            return false;
        add_bucket(m, begin, i);
        end = begin;
    }
    add_bucket(m, 0, m->first_trained);
    return true;
}

void ebb_layers_cut(void *self, int64_t least)
{
    layers_t *m = self;
    if (!cut(m, least))
        cut(m, (m->layout->dense_floats + EBB_MAX_BUCKETS - 1) / EBB_MAX_BUCKETS);
}

int ebb_layers_buckets(const void *self, const int64_t **begin_p)
{
    const layers_t *m = self;
    *begin_p = m->bucket_begin;
    return m->n_buckets;
}

/* ---- passes ---- */

static float *take(places_t *p, float *base, int64_t floats)
{
    float *at = base + p->floats;
    p->floats += (floats + FLOAT_ALIGN - 1) / FLOAT_ALIGN * FLOAT_ALIGN;
    return at;
}

static bool keeps_out(const ebb_layer_t *layer)
{
    return layer->kind->needs_out || layer->act != EBB_ACT_NONE;
}

/* base NULL and out NULL: only the size is wanted. */
static void find_places(const layers_t *m, int64_t rows, float *base, const float *in, float *out, places_t *p)
{
    p->floats = 0;
    for (int i = 0; i < m->n; i++) {
        const ebb_layer_t *layer = &m->layer[i];
        p->in[i] = i == 0 ? in : p->out[i - 1];
        bool to_caller = i == m->n - 1 && !keeps_out(layer);
        p->out[i] = to_caller ? out : take(p, base, rows * layer->out);
        p->aux[i] = take(p, base, rows * layer->aux);
    }
    for (int k = 0; k < 2; k++)
        p->scratch[k] = take(p, base, rows * m->max_width);
}

static int64_t workspace_layers(void *model, int64_t rows)
{
    const layers_t *m = model;
    int64_t floats = 0;
    for (int i = 0; i < m->n; i++) {
        floats += (rows * m->layer[i].out + FLOAT_ALIGN - 1) / FLOAT_ALIGN * FLOAT_ALIGN;
        floats += (rows * m->layer[i].aux + FLOAT_ALIGN - 1) / FLOAT_ALIGN * FLOAT_ALIGN;
    }
    floats += 2 * ((rows * m->max_width + FLOAT_ALIGN - 1) / FLOAT_ALIGN * FLOAT_ALIGN);
    return floats * (int64_t)sizeof(float);
}

static ebb_layer_io_t layer_io(const layers_t *m, const ebb_pass_t *pass, const ebb_input_t *in, const places_t *p,
                               int i)
{
    return (ebb_layer_io_t){
        .pass = pass,
        .layout = m->layout,
        .rows = in->rows,
        .csr = m->layer[i].sparse ? &in->csr : NULL,
        .in = m->layer[i].sparse ? NULL : p->in[i],
        .out = p->out[i],
        .aux = p->aux[i],
    };
}

static ebb_status_t forward_layers(void *model, const ebb_pass_t *pass, const ebb_input_t *in, float *out)
{
    const layers_t *m = model;
    if (in->rows == 0)
        return EBB_OK;
    places_t p;
    find_places(m, in->rows, pass->workspace, in->x, out, &p);
    for (int i = 0; i < m->n; i++) {
        ebb_layer_io_t io = layer_io(m, pass, in, &p, i);
        EBB_TRY(m->layer[i].kind->forward(&m->layer[i], &io));
    }
    const ebb_layer_t *last = &m->layer[m->n - 1];
    if (p.out[m->n - 1] != out)
        return pass->ops->copy(pass->exec, out, p.out[m->n - 1], (size_t)(in->rows * last->out) * sizeof(float));
    return EBB_OK;
}

/* Floats of a bucket of the dense gradient. */
static int64_t bucket_floats(const layers_t *m, int bucket)
{
    return (bucket == 0 ? m->layout->dense_floats : m->bucket_begin[bucket - 1]) - m->bucket_begin[bucket];
}

/* The gradient of no rows: nothing, which still overwrites what was there. */
static ebb_status_t backward_nothing(const layers_t *m, const ebb_pass_t *pass, ebb_grads_t *grads, int bucket)
{
    for (int t = 0; bucket == m->n_buckets - 1 && t < m->layout->n_tables; t++) {
        grads->rows[t].n = 0;
        grads->rows[t].width = m->layout->params[m->layout->table_param[t]].cols;
    }
    if (grads->accumulate)
        return EBB_OK;
    return pass->ops->zero(pass->exec, grads->dense + m->bucket_begin[bucket],
                           (size_t)bucket_floats(m, bucket) * sizeof(float));
}

/* Where layer i leaves the gradient of its input, which is where the layer below finds its dout; NULL: nowhere. */
static float *din_place(const layers_t *m, const places_t *p, int i, float *dout, int *turn)
{
    if (m->layer[i].kind->in_place)
        return dout;
    return wants_din(m, i) ? p->scratch[*turn ^= 1] : NULL;
}

ebb_status_t ebb_layers_backward_bucket(const void *self, const ebb_pass_t *pass, const ebb_input_t *in, float *dout,
                                        ebb_grads_t *grads, int bucket)
{
    const layers_t *m = self;
    if (in->rows == 0)
        return backward_nothing(m, pass, grads, bucket);
    places_t p;
    find_places(m, in->rows, pass->workspace, in->x, NULL, &p);
    int turn = 0, end = bucket == 0 ? m->n : m->bucket_layer[bucket - 1];
    for (int i = m->n - 1; i >= m->bucket_layer[bucket]; i--) {
        float *din = din_place(m, &p, i, dout, &turn);
        if (i < end) { /* earlier buckets did those above */
            ebb_layer_io_t io = layer_io(m, pass, in, &p, i);
            io.grads = grads;
            io.dout = dout;
            io.din = din;
            EBB_TRY(m->layer[i].kind->backward(&m->layer[i], &io));
        }
        dout = din;
    }
    return EBB_OK;
}

static ebb_status_t backward_layers(void *model, const ebb_pass_t *pass, const ebb_input_t *in, float *dout,
                                    ebb_grads_t *grads)
{
    const layers_t *m = model;
    for (int b = 0; b < m->n_buckets; b++)
        EBB_TRY(ebb_layers_backward_bucket(m, pass, in, dout, grads, b));
    return EBB_OK;
}

bool ebb_layers_are_steady(const void *self)
{
    const layers_t *m = self;
    for (int i = 0; i < m->n; i++)
        if (m->layer[i].kind == &ebb_layer_dropout)
            return false;
    return true;
}

const ebb_model_ops_t ebb_layers_ops = {
    .version = EBB_MODEL_VERSION,
    .name = "layers",
    .create = create_layers,
    .destroy = destroy_layers,
    .declare = declare_layers,
    .bind = bind_layers,
    .workspace_bytes = workspace_layers,
    .forward = forward_layers,
    .backward = backward_layers,
};

/* ---- text ---- */

void ebb_layers_describe(void *model, ebb_text_t *out)
{
    const layers_t *m = model;
    for (int i = 0; i < m->n; i++) {
        const ebb_layer_t *layer = &m->layer[i];
        static const char *const acts[] = {"", " + relu", " + gelu", " + tanh", " + sigmoid"};
        int64_t floats = 0;
        for (int k = 0; k < layer->n_params; k++)
            floats += m->params[layer->param[k]].rows * m->params[layer->param[k]].cols;
        ebb_text_add(out, "%2d  %s%s  %lld -> %lld%s  %lld parameters\n", layer->number, layer->kind->name,
                     layer->fused ? acts[layer->act] : "", (long long)layer->in, (long long)layer->out,
                     layer->sparse ? " (sparse)" : "", (long long)floats);
    }
}

void ebb_layers_help(ebb_text_t *out)
{
    ebb_text_add(out, "layers: a list, first to last; each is NAME or {NAME: {option: value}}\n");
    for (int i = 0; i < N_KINDS; i++) {
        ebb_text_add(out, "  %-12s %s\n", KINDS[i]->name, KINDS[i]->help);
        ebb_keys_help(KINDS[i]->key, out);
    }
}
