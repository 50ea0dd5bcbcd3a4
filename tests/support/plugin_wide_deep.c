/* Example of a model plug-in: "wide and deep" (Cheng et al. 2016) on sparse data,
 *
 *   out = X W  +  tanh(X V + c) U  +  b,
 *
 * with W (cols, outputs) and V (cols, hidden) as row-sparse tables and U, c, b dense. Build it as a shared object with
 * nothing but the public headers,
 *
 *   cc -shared -fPIC -o wide_deep.so plugin_wide_deep.c
 *
 * and name it in the run file; other keys of the section are the plug-in's own:
 *
 *   model: {plugin: ./wide_deep.so, hidden: 16}
 *
 * Rules a model keeps. It computes through pass->ops alone, so it runs on any backend. It holds no state of a pass:
 * what backward needs is left in pass->workspace, because many threads run one model at once. A dense gradient is
 * overwritten, or added to when grads->accumulate is set; a table's gradient is added into grads->table_dense[t] where
 * that is set, else returned in grads->rows[t]. `ebb check-model` checks all of this.
 */
#include <ebb/model.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDE, DEEP, DEEP_BIAS, HEAD, BIAS, N_PARAMS };

typedef struct wide_deep {
    int64_t cols, hidden, outputs;
    ebb_param_t params[N_PARAMS];
    const ebb_layout_t *layout;
} wide_deep_t;

static void set_param(ebb_param_t *p, const char *name, ebb_param_kind_t kind, int64_t rows, int64_t cols, float scale)
{
    snprintf(p->name, sizeof p->name, "%s", name);
    p->kind = kind;
    p->rows = rows;
    p->cols = cols;
    p->init = scale > 0.0f ? EBB_INIT_NORMAL : EBB_INIT_ZERO;
    p->scale = scale;
    p->decay = rows > 1;
}

/* A failure without words would do; ebb says then which plug-in failed. A plug-in that links libebb can use EBB_FAIL.
 */
static ebb_status_t create(const char *config, const ebb_dataset_info_t *info, int64_t outputs, void **model_p)
{
    if (!info->sparse)
        return EBB_EINVAL;
    wide_deep_t *m = calloc(1, sizeof *m);
    if (!m)
        return EBB_ENOMEM;
    long long hidden = 16;
    const char *key = strstr(config, "\"hidden\"");
    if (key)
        sscanf(key, "\"hidden\" : %lld", &hidden);
    m->cols = info->cols;
    m->hidden = hidden;
    m->outputs = outputs;
    set_param(&m->params[WIDE], "wide", EBB_PARAM_ROWS, m->cols, outputs, 0.0f);
    set_param(&m->params[DEEP], "deep", EBB_PARAM_ROWS, m->cols, hidden, 0.3f);
    set_param(&m->params[DEEP_BIAS], "deep.bias", EBB_PARAM_DENSE, 1, hidden, 0.0f);
    set_param(&m->params[HEAD], "head", EBB_PARAM_DENSE, hidden, outputs, (float)sqrt(1.0 / (double)hidden));
    set_param(&m->params[BIAS], "bias", EBB_PARAM_DENSE, 1, outputs, 0.0f);
    *model_p = m;
    return EBB_OK;
}

static void destroy(void *model)
{
    free(model);
}

static ebb_status_t declare(void *model, int *n_p, const ebb_param_t **params_p)
{
    *n_p = N_PARAMS;
    *params_p = ((wide_deep_t *)model)->params;
    return EBB_OK;
}

static ebb_status_t bind_layout(void *model, const ebb_layout_t *layout)
{
    ((wide_deep_t *)model)->layout = layout;
    return EBB_OK;
}

/* Workspace: tanh(...) (rows, hidden), then its gradient. */
static int64_t workspace_bytes(void *model, int64_t rows)
{
    return 2 * rows * ((wide_deep_t *)model)->hidden * (int64_t)sizeof(float);
}

static float *weight(const wide_deep_t *m, const ebb_pass_t *pass, int param)
{
    const ebb_param_t *p = &m->layout->params[param];
    return p->kind == EBB_PARAM_DENSE ? pass->weights->dense + p->offset : pass->weights->table[p->offset];
}

static ebb_status_t forward(void *model, const ebb_pass_t *pass, const ebb_input_t *in, float *out)
{
    const wide_deep_t *m = model;
    const ebb_backend_ops_t *ops = pass->ops;
    float *hidden = pass->workspace;
    if (in->rows == 0)
        return EBB_OK;
    EBB_TRY(ops->csr_gemm(pass->exec, &in->csr, m->outputs, weight(m, pass, WIDE), m->outputs, weight(m, pass, BIAS),
                          EBB_ACT_NONE, out));
    EBB_TRY(ops->csr_gemm(pass->exec, &in->csr, m->hidden, weight(m, pass, DEEP), m->hidden, weight(m, pass, DEEP_BIAS),
                          EBB_ACT_TANH, hidden));
    return ops->gemm(pass->exec, false, false, in->rows, m->outputs, m->hidden, hidden, m->hidden,
                     weight(m, pass, HEAD), m->outputs, 1.0f, out, m->outputs, NULL, EBB_ACT_NONE);
}

static ebb_status_t table_grad(const wide_deep_t *m, const ebb_pass_t *pass, const ebb_input_t *in, int param,
                               const float *dy, ebb_grads_t *grads)
{
    const ebb_param_t *p = &m->layout->params[param];
    int t = (int)p->offset;
    if (grads->table_dense[t])
        return pass->ops->csr_grad_dense(pass->exec, &in->csr, p->cols, dy, grads->table_dense[t], grads->touched[t]);
    return pass->ops->csr_grad(pass->exec, t, &in->csr, p->cols, dy, &grads->rows[t]);
}

static ebb_status_t no_gradient(const wide_deep_t *m, const ebb_pass_t *pass, ebb_grads_t *grads)
{
    for (int t = 0; t < m->layout->n_tables; t++)
        grads->rows[t].n = 0;
    return grads->accumulate
               ? EBB_OK
               : pass->ops->zero(pass->exec, grads->dense, (size_t)m->layout->dense_floats * sizeof(float));
}

static ebb_status_t backward(void *model, const ebb_pass_t *pass, const ebb_input_t *in, float *dout,
                             ebb_grads_t *grads)
{
    const wide_deep_t *m = model;
    const ebb_backend_ops_t *ops = pass->ops;
    if (in->rows == 0)
        return no_gradient(m, pass, grads);
    const ebb_param_t *params = m->layout->params;
    float beta = grads->accumulate ? 1.0f : 0.0f;
    float *hidden = pass->workspace, *dhidden = hidden + in->rows * m->hidden;
    EBB_TRY(table_grad(m, pass, in, WIDE, dout, grads));
    EBB_TRY(ops->bias_grad(pass->exec, in->rows, m->outputs, dout, beta, grads->dense + params[BIAS].offset));
    EBB_TRY(ops->gemm(pass->exec, true, false, m->hidden, m->outputs, in->rows, hidden, m->hidden, dout, m->outputs,
                      beta, grads->dense + params[HEAD].offset, m->outputs, NULL, EBB_ACT_NONE));
    EBB_TRY(ops->gemm(pass->exec, false, true, in->rows, m->hidden, m->outputs, dout, m->outputs, weight(m, pass, HEAD),
                      m->outputs, 0.0f, dhidden, m->hidden, NULL, EBB_ACT_NONE));
    EBB_TRY(ops->act_backward(pass->exec, EBB_ACT_TANH, in->rows * m->hidden, NULL, hidden, dhidden, dhidden));
    EBB_TRY(ops->bias_grad(pass->exec, in->rows, m->hidden, dhidden, beta, grads->dense + params[DEEP_BIAS].offset));
    return table_grad(m, pass, in, DEEP, dhidden, grads);
}

EBB_API const ebb_model_ops_t ebb_model_entry = {
    .version = EBB_MODEL_VERSION,
    .name = "wide_deep",
    .create = create,
    .destroy = destroy,
    .declare = declare,
    .bind = bind_layout,
    .workspace_bytes = workspace_bytes,
    .forward = forward,
    .backward = backward,
};
