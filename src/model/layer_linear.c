/* linear: Y = act(X W + b). On CSR input W (cols, out) is a row-sparse table, on dense input a dense (in, out) matrix.
 * A relu, tanh or sigmoid that follows is done in the product's epilogue: its backward pass needs the output alone.
 * (gelu needs its input back, so it stays a layer of its own.)
 * Initial weights: uniform with standard deviation sqrt(2 / fan-in) before relu and gelu (He et al. 2015), else
 * sqrt(1 / fan-in) (LeCun et al. 1998); fan-in of CSR input is its mean number of entries per row. A model that is one
 * linear layer is convex and starts at zero. */
#include "model/layer.h"

#include <math.h>

enum { OUT, BIAS, INIT };
enum { WEIGHT, BIAS_VECTOR };

static double initial_deviation(const ebb_layer_t *layer, const ebb_setup_t *setup)
{
    if (layer->set[INIT])
        return layer->opt[INIT];
    if (setup->alone)
        return 0.0;
    double gain = setup->next_act == EBB_ACT_RELU || setup->next_act == EBB_ACT_GELU ? 2.0 : 1.0;
    return sqrt(gain / fmax(setup->fan_in, 1.0));
}

static ebb_status_t setup_linear(ebb_layer_t *layer, ebb_setup_t *setup)
{
    if (!layer->set[OUT] && !setup->last)
        return EBB_FAIL(EBB_EUSAGE,
                        "%s: needs \"out\", its number of outputs (only the last layer's follows from the loss)",
                        layer->path);
    layer->out = layer->set[OUT] ? (int64_t)layer->opt[OUT] : setup->outputs;
    ebb_param_t *w = ebb_layer_param(layer, setup, "weight", layer->sparse ? EBB_PARAM_ROWS : EBB_PARAM_DENSE,
                                     layer->in, layer->out);
    ebb_layer_init(w, initial_deviation(layer, setup));
    w->decay = true;
    if (layer->opt[BIAS] != 0.0)
        ebb_layer_param(layer, setup, "bias", EBB_PARAM_DENSE, 1, layer->out);
    return EBB_OK;
}

static ebb_status_t forward_linear(const ebb_layer_t *layer, const ebb_layer_io_t *io)
{
    const ebb_backend_ops_t *ops = io->pass->ops;
    const float *w = ebb_layer_weight(layer, io, WEIGHT);
    const float *bias = layer->n_params > 1 ? ebb_layer_weight(layer, io, BIAS_VECTOR) : NULL;
    if (layer->sparse)
        return ops->csr_gemm(io->pass->exec, io->csr, layer->out, w, layer->out, bias, layer->act, io->out);
    return ops->gemm(io->pass->exec, false, false, io->rows, layer->out, layer->in, io->in, layer->in, w, layer->out,
                     0.0f, io->out, layer->out, bias, layer->act);
}

static ebb_status_t weight_grad(const ebb_layer_t *layer, const ebb_layer_io_t *io, float beta)
{
    const ebb_backend_ops_t *ops = io->pass->ops;
    if (!layer->sparse)
        return ops->gemm(io->pass->exec, true, false, layer->in, layer->out, io->rows, io->in, layer->in, io->dout,
                         layer->out, beta, ebb_layer_grad(layer, io, WEIGHT), layer->out, NULL, EBB_ACT_NONE);
    int t = ebb_layer_table(layer, io, WEIGHT);
    if (io->grads->table_dense[t])
        return ops->csr_grad_dense(io->pass->exec, io->csr, layer->out, io->dout, io->grads->table_dense[t],
                                   io->grads->touched[t]);
    if (io->grads->terms[t])
        return ops->csr_terms(io->pass->exec, io->csr, layer->out, io->dout, io->grads->terms[t]);
    return ops->csr_grad(io->pass->exec, t, io->csr, layer->out, io->dout, &io->grads->rows[t]);
}

static ebb_status_t backward_linear(const ebb_layer_t *layer, const ebb_layer_io_t *io)
{
    const ebb_backend_ops_t *ops = io->pass->ops;
    ebb_exec_t *x = io->pass->exec;
    float beta = io->grads->accumulate ? 1.0f : 0.0f;
    if (layer->act != EBB_ACT_NONE)
        EBB_TRY(ops->act_backward(x, layer->act, io->rows * layer->out, NULL, io->out, io->dout, io->dout));
    EBB_TRY(weight_grad(layer, io, beta));
    if (layer->n_params > 1)
        EBB_TRY(ops->bias_grad(x, io->rows, layer->out, io->dout, beta, ebb_layer_grad(layer, io, BIAS_VECTOR)));
    if (!io->din)
        return EBB_OK;
    return ops->gemm(x, false, true, io->rows, layer->in, layer->out, io->dout, layer->out,
                     ebb_layer_weight(layer, io, WEIGHT), layer->out, 0.0f, io->din, layer->in, NULL, EBB_ACT_NONE);
}

const ebb_layer_kind_t ebb_layer_linear = {
    .name = "linear",
    .help = "matrix product and bias, on sparse or dense input",
    .key = {{"out", EBB_KEY_INT, 1, 1 << 24, 0, "the model's outputs when last", "number of outputs"},
            {"bias", EBB_KEY_FLAG, 0, 1, 1, "true", "add a bias"},
            {"init", EBB_KEY_REAL, 0, 100, 0, "by the layer's inputs and activation",
             "standard deviation of the initial weights"}},
    .takes_sparse = true,
    .takes_dense = true,
    .setup = setup_linear,
    .forward = forward_linear,
    .backward = backward_linear,
};
