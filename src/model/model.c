/* A model as the engine sees it: loss, layout and a table of operations, which is the built-in layer list or a plug-in.
 * After creation everything is read-only, so lanes on many threads may share one model. */
#include "model/layer.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "model/plugin.h"

enum { LEAST_BUCKET_FLOATS = 1 << 20 }; /* 4 MiB, so that an exchange is worth its start */

struct ebb_model {
    const ebb_model_ops_t *ops;
    void *self;
    void *handle; /* of a plug-in's shared object */
    ebb_layout_t *layout;
    ebb_loss_t loss;
    int64_t outputs;
};

/* A plug-in may fail without saying why; say at least who it was. */
static ebb_status_t explain(const ebb_model_t *model, const char *what, ebb_status_t status)
{
    if (status != EBB_OK && ebb_error()->status == EBB_OK)
        return EBB_FAIL(status, "model \"%s\": %s failed (%s)", model->ops->name, what, ebb_status_name(status));
    return status;
}

static ebb_status_t check_keys(const json_t *config)
{
    static const char *const valid[] = {"loss", "layers", "plugin", NULL};
    if (!json_is_object(config))
        return EBB_FAIL(EBB_EUSAGE, "model: must be a map with \"layers\" or \"plugin\"");
    const json_t *plugin = json_object_get(config, "plugin");
    if (plugin) { /* its other keys are the plug-in's own */
        if (!json_is_string(plugin))
            return EBB_FAIL(EBB_EUSAGE, "model.plugin: must be the path of a shared object");
        return json_object_get(config, "layers")
                   ? EBB_FAIL(EBB_EUSAGE, "model: give either \"layers\" or \"plugin\", not both")
                   : EBB_OK;
    }
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)config, key, value)
    {
        bool known = false;
        for (int i = 0; valid[i]; i++)
            known |= strcmp(key, valid[i]) == 0;
        if (!known)
            return ebb_unknown("model", "key", key, valid);
    }
    return json_object_get(config, "layers")
               ? EBB_OK
               : EBB_FAIL(EBB_EUSAGE,
                          "model: has neither \"layers\" nor \"plugin\"; a linear model is \"layers: [{linear: {}}]\"");
}

static ebb_status_t build(ebb_model_t *model, const json_t *json, const char *config, const ebb_dataset_info_t *info)
{
    EBB_TRY(check_keys(json));
    EBB_TRY(ebb_loss_configure(json_object_get(json, "loss"), info, &model->loss, &model->outputs));
    model->ops = &ebb_layers_ops;
    const json_t *plugin = json_object_get(json, "plugin");
    if (plugin)
        EBB_TRY(ebb_plugin_open(json_string_value(plugin), &model->handle, &model->ops));
    EBB_TRY(explain(model, "create", model->ops->create(config, info, model->outputs, &model->self)));
    int n = 0;
    const ebb_param_t *params = NULL;
    EBB_TRY(explain(model, "declare", model->ops->declare(model->self, &n, &params)));
    EBB_TRY(ebb_layout_create(n, params, &model->layout));
    EBB_TRY(explain(model, "bind", model->ops->bind(model->self, model->layout)));
    ebb_model_cut(model, LEAST_BUCKET_FLOATS);
    return EBB_OK;
}

ebb_status_t ebb_model_create(const char *config, const ebb_dataset_info_t *info, ebb_model_t **model_p)
{
    *model_p = NULL;
    json_t *json = NULL;
    EBB_TRY(ebb_json_parse(config, strlen(config), "model", &json));
    ebb_model_t *model;
    ebb_status_t status = EBB_NEW("model", &model);
    if (status == EBB_OK)
        status = build(model, json, config, info);
    json_decref(json);
    if (status != EBB_OK) {
        ebb_model_destroy(model);
        return status;
    }
    *model_p = model;
    return EBB_OK;
}

void ebb_model_destroy(ebb_model_t *model)
{
    if (!model)
        return;
    if (model->self)
        model->ops->destroy(model->self);
    ebb_plugin_close(model->handle);
    ebb_layout_destroy(model->layout);
    ebb_free(model);
}

const ebb_layout_t *ebb_model_layout(const ebb_model_t *model)
{
    return model->layout;
}

const ebb_loss_t *ebb_model_loss(const ebb_model_t *model)
{
    return &model->loss;
}

int64_t ebb_model_outputs(const ebb_model_t *model)
{
    return model->outputs;
}

int64_t ebb_model_workspace_bytes(const ebb_model_t *model, int64_t rows)
{
    return model->ops->workspace_bytes(model->self, rows);
}

ebb_status_t ebb_model_forward(const ebb_model_t *model, const ebb_pass_t *pass, const ebb_input_t *in, float *out)
{
    return explain(model, "forward", model->ops->forward(model->self, pass, in, out));
}

ebb_status_t ebb_model_backward(const ebb_model_t *model, const ebb_pass_t *pass, const ebb_input_t *in, float *dout,
                                ebb_grads_t *grads)
{
    return explain(model, "backward", model->ops->backward(model->self, pass, in, dout, grads));
}

void ebb_model_cut(ebb_model_t *model, int64_t least)
{
    if (model->ops == &ebb_layers_ops)
        ebb_layers_cut(model->self, least);
}

int ebb_model_buckets(const ebb_model_t *model, const int64_t **begin_p)
{
    static const int64_t whole[] = {0};
    if (model->ops == &ebb_layers_ops)
        return ebb_layers_buckets(model->self, begin_p);
    *begin_p = whole;
    return 1;
}

void ebb_model_use_buckets(ebb_model_t *model)
{
    const int64_t *begin;
    model->layout->n_buckets = ebb_model_buckets(model, &begin);
    memcpy(model->layout->bucket_begin, begin, (size_t)model->layout->n_buckets * sizeof *begin);
}

ebb_status_t ebb_model_backward_bucket(const ebb_model_t *model, const ebb_pass_t *pass, const ebb_input_t *in,
                                       float *dout, ebb_grads_t *grads, int bucket)
{
    const int64_t *begin;
    int n = ebb_model_buckets(model, &begin);
    if (bucket < 0 || bucket >= n)
        return EBB_FAIL(EBB_EINVAL, "model \"%s\": there is no bucket %d of %d", model->ops->name, bucket, n);
    if (model->ops != &ebb_layers_ops)
        return ebb_model_backward(model, pass, in, dout, grads);
    return explain(model, "backward", ebb_layers_backward_bucket(model->self, pass, in, dout, grads, bucket));
}

static void describe_params(const ebb_model_t *model, ebb_text_t *out)
{
    for (int i = 0; i < model->layout->n_params; i++) {
        const ebb_param_t *p = &model->layout->params[i];
        ebb_text_add(out, "%2d  %s  (%lld, %lld)%s\n", i, p->name, (long long)p->rows, (long long)p->cols,
                     p->kind == EBB_PARAM_ROWS ? " row-sparse" : "");
    }
}

ebb_status_t ebb_model_describe(const ebb_model_t *model, char *text, size_t size)
{
    ebb_text_t out = {0};
    if (model->ops == &ebb_layers_ops) {
        ebb_layers_describe(model->self, &out);
    } else {
        ebb_text_add(&out, "plug-in %s\n", model->ops->name);
        describe_params(model, &out);
    }
    ebb_text_add(&out, "loss %s, %lld output%s\n", ebb_loss_name(model->loss.kind), (long long)model->outputs,
                 model->outputs == 1 ? "" : "s");
    bool failed = out.failed;
    if (!failed && size > 0)
        snprintf(text, size, "%s", out.s);
    ebb_text_free(&out);
    return failed ? EBB_FAIL(EBB_ENOMEM, "no memory to describe the model") : EBB_OK;
}

ebb_status_t ebb_model_help(char **text_p)
{
    ebb_text_t out = {0};
    ebb_loss_help(&out);
    ebb_layers_help(&out);
    ebb_text_add(&out,
                 "plugin: path of a shared object that exports `ebb_model_entry` (ebb/model.h), instead of layers;\n"
                 "        other keys of the section are handed to it\n");
    *text_p = out.failed || !out.s ? NULL : strdup(out.s);
    ebb_text_free(&out);
    return *text_p ? EBB_OK : EBB_FAIL(EBB_ENOMEM, "no memory for the help text");
}

bool ebb_model_is_steady(const ebb_model_t *model)
{
    return model->ops == &ebb_layers_ops && ebb_layers_are_steady(model->self);
}
