/* Plain gradient descent on all of a model's weights over a test_data_t, tables as dense gradients: enough to see a
 * model learn without the engine. */
#ifndef EBB_TESTS_DESCEND_H
#define EBB_TESTS_DESCEND_H

#include "model_data.h"

typedef struct descend {
    ebb_backend_t *b;
    ebb_model_t *model;
    ebb_exec_t *x;
    ebb_weights_t w, g;
    void *workspace;
    float *out, *dout;
    uint64_t touched[DATA_MAX_COLS / 64];
} descend_t;

static inline void descend_create(descend_t *d, ebb_backend_t *b, const char *config, const test_data_t *data)
{
    memset(d, 0, sizeof *d);
    d->b = b;
    assert_ok(ebb_model_create(config, &data->info, &d->model));
    const ebb_layout_t *layout = ebb_model_layout(d->model);
    size_t floats = (size_t)(data->rows.rows * ebb_model_outputs(d->model));
    assert_ok(b->ops->exec_create(b->dev, &d->x));
    assert_ok(ebb_weights_create(b, layout, &d->w));
    assert_ok(ebb_weights_create(b, layout, &d->g));
    assert_ok(ebb_weights_init(b, layout, 1, &d->w));
    assert_ok(b->ops->alloc(b->dev, (size_t)ebb_model_workspace_bytes(d->model, data->rows.rows), "workspace",
                            &d->workspace));
    d->out = calloc(floats, sizeof(float));
    d->dout = calloc(floats, sizeof(float));
}

static inline void descend_destroy(descend_t *d)
{
    const ebb_layout_t *layout = ebb_model_layout(d->model);
    free(d->out);
    free(d->dout);
    d->b->ops->free(d->b->dev, d->workspace);
    ebb_weights_destroy(d->b, layout, &d->w);
    ebb_weights_destroy(d->b, layout, &d->g);
    d->b->ops->exec_destroy(d->x);
    ebb_model_destroy(d->model);
}

/* For one pass: its gradients go into d->g, whose tables are zeroed. */
static inline ebb_grads_t descend_grads(descend_t *d)
{
    const ebb_layout_t *layout = ebb_model_layout(d->model);
    ebb_grads_t grads = {.dense = d->g.dense};
    for (int t = 0; t < layout->n_tables; t++) {
        const ebb_param_t *p = &layout->params[layout->table_param[t]];
        grads.table_dense[t] = d->g.table[t];
        grads.touched[t] = d->touched;
        memset(d->g.table[t], 0, (size_t)(p->rows * p->cols) * sizeof(float));
    }
    return grads;
}

/* Returns the mean loss before the last step. */
static inline double descend_run(descend_t *d, const test_data_t *data, int steps, float rate)
{
    const ebb_backend_ops_t *ops = d->b->ops;
    const ebb_layout_t *layout = ebb_model_layout(d->model);
    const ebb_loss_t *loss = ebb_model_loss(d->model);
    int64_t rows = data->rows.rows;
    double row_loss[DATA_MAX_ROWS], row_weight[DATA_MAX_ROWS], sum = 0;
    ebb_pass_t pass = {.ops = ops, .exec = d->x, .weights = &d->w, .workspace = d->workspace, .training = true};
    ebb_input_t in = {.rows = rows, .sparse = data->info.sparse, .x = data->rows.x};
    in.csr =
        (ebb_csr_t){rows, data->info.cols, data->rowptr, data->col, data->val, data->rowptr[rows] - data->rowptr[0]};
    for (pass.step = 0; pass.step < steps; pass.step++) {
        ebb_grads_t grads = descend_grads(d);
        assert_ok(ebb_model_forward(d->model, &pass, &in, d->out));
        assert_ok(ops->loss(d->x, loss->kind, loss->huber_delta, rows, ebb_model_outputs(d->model), d->out,
                            data->rows.label, data->rows.y, NULL, NULL, row_loss, row_weight, d->dout));
        assert_ok(ebb_model_backward(d->model, &pass, &in, d->dout, &grads));
        sum = 0;
        for (int64_t r = 0; r < rows; r++)
            sum += row_loss[r] / (double)rows;
        for (int i = 0; i < layout->n_params; i++) {
            int64_t n;
            float *to = ebb_weights_param(layout, &d->w, i, &n);
            const float *from = ebb_weights_param(layout, &d->g, i, NULL);
            for (int64_t e = 0; e < n; e++)
                to[e] -= rate / (float)rows * from[e];
        }
    }
    return sum;
}

#endif
