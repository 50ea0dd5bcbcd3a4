/* layer_norm: each row brought to mean 0 and variance 1 over its columns, then scaled and shifted by learned gamma and
 * beta (Ba, Kiros and Hinton 2016). It needs no batch statistics, so lanes stay independent. */
#include "model/layer.h"

enum { GAMMA, BETA };

static ebb_status_t setup_norm(ebb_layer_t *layer, ebb_setup_t *setup)
{
    layer->out = layer->in;
    layer->aux = 2; /* mean, 1 / standard deviation */
    ebb_layer_param(layer, setup, "gamma", EBB_PARAM_DENSE, 1, layer->in)->init = EBB_INIT_ONE;
    ebb_layer_param(layer, setup, "beta", EBB_PARAM_DENSE, 1, layer->in);
    return EBB_OK;
}

static ebb_status_t forward_norm(const ebb_layer_t *layer, const ebb_layer_io_t *io)
{
    return io->pass->ops->layernorm_forward(io->pass->exec, io->rows, layer->in, io->in,
                                            ebb_layer_weight(layer, io, GAMMA), ebb_layer_weight(layer, io, BETA),
                                            (float)layer->opt[0], io->out, io->aux, io->aux + io->rows);
}

static ebb_status_t backward_norm(const ebb_layer_t *layer, const ebb_layer_io_t *io)
{
    return io->pass->ops->layernorm_backward(io->pass->exec, io->rows, layer->in, io->in,
                                             ebb_layer_weight(layer, io, GAMMA), io->aux, io->aux + io->rows, io->dout,
                                             io->din, io->grads->accumulate ? 1.0f : 0.0f,
                                             ebb_layer_grad(layer, io, GAMMA), ebb_layer_grad(layer, io, BETA));
}

const ebb_layer_kind_t ebb_layer_norm = {
    .name = "layer_norm",
    .help = "normalise each row, then scale and shift",
    .key = {{"eps", EBB_KEY_REAL, 1e-12, 1, 1e-5, "1e-5", "added to the variance"}},
    .takes_dense = true,
    .setup = setup_norm,
    .forward = forward_norm,
    .backward = backward_norm,
};
