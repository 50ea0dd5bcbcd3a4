/* First layers that read CSR input only: embedding and fm. Both keep one row-sparse table.
 *
 * embedding: every field of the data set, categorical or numeric, gives dim outputs: the sum of its entries' table rows
 * times their values. A data set without fields counts as one, which makes the layer a bag of embeddings. Columns
 * between fields count as fields of their own.
 * fm: factorization machine (Rendle 2010), one output. */
#include "model/layer.h"

#include "base/alloc.h"

enum { TABLE, FM_BIAS };

static ebb_status_t make_fields(ebb_layer_t *layer, const ebb_dataset_info_t *info)
{
    EBB_TRY(EBB_NEW_ARRAY("embedding fields", 2 * info->n_fields + 3, &layer->field_begin));
    int n = 0;
    int32_t at = 0;
    for (int f = 0; f < info->n_fields; f++) {
        if (info->fields[f].begin > at)
            layer->field_begin[n++] = at;
        if (info->fields[f].end > info->fields[f].begin)
            layer->field_begin[n++] = info->fields[f].begin;
        at = info->fields[f].end;
    }
    if (at < info->cols)
        layer->field_begin[n++] = at;
    layer->field_begin[n] = (int32_t)info->cols;
    layer->n_fields = n;
    return EBB_OK;
}

static ebb_status_t setup_embedding(ebb_layer_t *layer, ebb_setup_t *setup)
{
    EBB_TRY(make_fields(layer, setup->info));
    int64_t dim = (int64_t)layer->opt[0];
    layer->out = layer->n_fields * dim;
    ebb_param_t *table = ebb_layer_param(layer, setup, "table", EBB_PARAM_ROWS, layer->in, dim);
    ebb_layer_init(table, layer->opt[1]);
    table->decay = true;
    return EBB_OK;
}

static void cleanup_embedding(ebb_layer_t *layer)
{
    ebb_free(layer->field_begin);
}

static ebb_status_t forward_embedding(const ebb_layer_t *layer, const ebb_layer_io_t *io)
{
    return io->pass->ops->embed_forward(io->pass->exec, io->csr, layer->n_fields, layer->field_begin,
                                        (int64_t)layer->opt[0], ebb_layer_weight(layer, io, TABLE), io->out);
}

static ebb_status_t backward_embedding(const ebb_layer_t *layer, const ebb_layer_io_t *io)
{
    const ebb_backend_ops_t *ops = io->pass->ops;
    int64_t dim = (int64_t)layer->opt[0];
    int t = ebb_layer_table(layer, io, TABLE);
    if (io->grads->table_dense[t])
        return ops->embed_grad_dense(io->pass->exec, io->csr, layer->n_fields, layer->field_begin, dim, io->dout,
                                     io->grads->table_dense[t], io->grads->touched[t]);
    return ops->embed_grad(io->pass->exec, t, io->csr, layer->n_fields, layer->field_begin, dim, io->dout,
                           &io->grads->rows[t]);
}

const ebb_layer_kind_t ebb_layer_embedding = {
    .name = "embedding",
    .help = "first layer; a learned vector per column, summed within each field of the data set",
    .key = {{"dim", EBB_KEY_INT, 1, 65536, 16, "16", "outputs per field"},
            {"init", EBB_KEY_REAL, 0, 100, 0.05, "0.05", "standard deviation of the initial weights"}},
    .takes_sparse = true,
    .setup = setup_embedding,
    .cleanup = cleanup_embedding,
    .forward = forward_embedding,
    .backward = backward_embedding,
};

static ebb_status_t setup_fm(ebb_layer_t *layer, ebb_setup_t *setup)
{
    int64_t rank = (int64_t)layer->opt[0];
    layer->out = 1;
    layer->aux = rank; /* sums of v_f x */
    ebb_param_t *table = ebb_layer_param(layer, setup, "table", EBB_PARAM_ROWS, layer->in, 1 + rank);
    ebb_layer_init(table, layer->opt[1]);
    table->zero_cols = 1; /* w; v must differ from 0, where its gradient vanishes */
    table->decay = true;
    ebb_layer_param(layer, setup, "bias", EBB_PARAM_DENSE, 1, 1);
    return EBB_OK;
}

static ebb_status_t forward_fm(const ebb_layer_t *layer, const ebb_layer_io_t *io)
{
    return io->pass->ops->fm_forward(io->pass->exec, io->csr, layer->aux, ebb_layer_weight(layer, io, TABLE),
                                     ebb_layer_weight(layer, io, FM_BIAS), io->out, io->aux);
}

static ebb_status_t backward_fm(const ebb_layer_t *layer, const ebb_layer_io_t *io)
{
    const ebb_backend_ops_t *ops = io->pass->ops;
    const float *table = ebb_layer_weight(layer, io, TABLE);
    int t = ebb_layer_table(layer, io, TABLE);
    EBB_TRY(ops->bias_grad(io->pass->exec, io->rows, 1, io->dout, io->grads->accumulate ? 1.0f : 0.0f,
                           ebb_layer_grad(layer, io, FM_BIAS)));
    if (io->grads->table_dense[t])
        return ops->fm_grad_dense(io->pass->exec, io->csr, layer->aux, table, io->aux, io->dout,
                                  io->grads->table_dense[t], io->grads->touched[t]);
    return ops->fm_grad(io->pass->exec, t, io->csr, layer->aux, table, io->aux, io->dout, &io->grads->rows[t]);
}

const ebb_layer_kind_t ebb_layer_fm = {
    .name = "fm",
    .help = "first layer; factorization machine: linear term and pairwise interactions of rank `rank`, one output",
    .key = {{"rank", EBB_KEY_INT, 1, 1024, 8, "8", "length of each column's interaction vector"},
            {"init", EBB_KEY_REAL, 1e-8, 100, 0.01, "0.01", "standard deviation of the initial interaction vectors"}},
    .takes_sparse = true,
    .setup = setup_fm,
    .forward = forward_fm,
    .backward = backward_fm,
};
