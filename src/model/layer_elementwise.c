/* Layers without parameters: activations and dropout. Backward works in place over dout.
 * Dropout's mask is a function of (seed, step, lane, layer, row within the lane, column), so neither ranks nor pieces
 * of a lane's rows change it, and the backward pass draws the same mask again. */
#include "model/layer.h"

#include "base/rng.h"

static ebb_status_t setup_same_width(ebb_layer_t *layer, ebb_setup_t *setup)
{
    layer->out = layer->in;
    layer->act = layer->kind->act;
    return EBB_OK;
}

static ebb_status_t forward_act(const ebb_layer_t *layer, const ebb_layer_io_t *io)
{
    return io->pass->ops->act_forward(io->pass->exec, layer->act, io->rows * layer->out, io->in, io->out);
}

static ebb_status_t backward_act(const ebb_layer_t *layer, const ebb_layer_io_t *io)
{
    return io->pass->ops->act_backward(io->pass->exec, layer->act, io->rows * layer->out, io->in, io->out, io->dout,
                                       io->din);
}

static ebb_status_t drop(const ebb_layer_t *layer, const ebb_layer_io_t *io, const float *in, float *out)
{
    const ebb_pass_t *pass = io->pass;
    uint64_t key[2] = {ebb_rng_u64(pass->seed, EBB_RNG_DROPOUT, (uint64_t)pass->step, (uint64_t)pass->lane),
                       (uint64_t)layer->number};
    return pass->ops->dropout(pass->exec, io->rows * layer->out, (float)layer->opt[0], key,
                              (uint64_t)(pass->row0 * layer->out), in, out);
}

static ebb_status_t forward_dropout(const ebb_layer_t *layer, const ebb_layer_io_t *io)
{
    if (io->pass->training)
        return drop(layer, io, io->in, io->out);
    if (io->in == io->out)
        return EBB_OK;
    return io->pass->ops->copy(io->pass->exec, io->out, io->in, (size_t)(io->rows * layer->out) * sizeof(float));
}

static ebb_status_t backward_dropout(const ebb_layer_t *layer, const ebb_layer_io_t *io)
{
    return io->pass->training ? drop(layer, io, io->dout, io->din) : EBB_OK;
}

#define ACTIVATION(symbol, word, code, text)                                                                           \
    const ebb_layer_kind_t symbol = {                                                                                  \
        .name = word,                                                                                                  \
        .help = text,                                                                                                  \
        .act = code,                                                                                                   \
        .takes_dense = true,                                                                                           \
        .in_place = true,                                                                                              \
        .needs_out = true,                                                                                             \
        .setup = setup_same_width,                                                                                     \
        .forward = forward_act,                                                                                        \
        .backward = backward_act,                                                                                      \
    }

ACTIVATION(ebb_layer_relu, "relu", EBB_ACT_RELU, "max(0, x)");
ACTIVATION(ebb_layer_gelu, "gelu", EBB_ACT_GELU, "x times the normal distribution function of x");
ACTIVATION(ebb_layer_tanh, "tanh", EBB_ACT_TANH, "hyperbolic tangent");
ACTIVATION(ebb_layer_sigmoid, "sigmoid", EBB_ACT_SIGMOID, "1 / (1 + exp(-x))");

const ebb_layer_kind_t ebb_layer_dropout = {
    .name = "dropout",
    .help = "in training, set a share of the values to 0 and scale the rest up",
    .key = {{"p", EBB_KEY_REAL, 0, 0.99, 0.5, "0.5", "share that is dropped"}},
    .takes_dense = true,
    .in_place = true,
    .setup = setup_same_width,
    .forward = forward_dropout,
    .backward = backward_dropout,
};
