/* Weights in device memory. Element e of parameter p starts at a value drawn for (seed, p, e) alone, so every rank and
 * backend begins with the same bits whatever it holds or in which order it fills. */
#include <ebb/model.h>

#include <string.h>

#include "base/alloc.h"
#include "base/rng.h"

enum { STAGE_FLOATS = 1 << 16 };

ebb_status_t ebb_weights_create(ebb_backend_t *backend, const ebb_layout_t *layout, ebb_weights_t *weights)
{
    memset(weights, 0, sizeof *weights);
    const ebb_backend_ops_t *ops = backend->ops;
    ebb_status_t status = ops->alloc(backend->dev, (size_t)layout->dense_floats * sizeof(float), "dense weights",
                                     (void **)&weights->dense);
    for (int t = 0; t < layout->n_tables && status == EBB_OK; t++) {
        const ebb_param_t *p = &layout->params[layout->table_param[t]];
        status = ops->alloc(backend->dev, (size_t)p->rows * (size_t)p->cols * sizeof(float), p->name,
                            (void **)&weights->table[t]);
    }
    if (status != EBB_OK)
        ebb_weights_destroy(backend, layout, weights);
    return status;
}

void ebb_weights_destroy(ebb_backend_t *backend, const ebb_layout_t *layout, ebb_weights_t *weights)
{
    if (!weights || !backend)
        return;
    if (weights->dense)
        backend->ops->free(backend->dev, weights->dense);
    for (int t = 0; layout && t < layout->n_tables; t++)
        if (weights->table[t])
            backend->ops->free(backend->dev, weights->table[t]);
    memset(weights, 0, sizeof *weights);
}

float *ebb_weights_param(const ebb_layout_t *layout, const ebb_weights_t *weights, int param, int64_t *floats_p)
{
    const ebb_param_t *p = &layout->params[param];
    if (floats_p)
        *floats_p = p->rows * p->cols;
    return p->kind == EBB_PARAM_DENSE ? weights->dense + p->offset : weights->table[p->offset];
}

/* Elements [at, at + n) of a parameter. */
static void initial(const ebb_param_t *p, uint64_t seed, int param, int64_t at, int64_t n, float *out)
{
    switch (p->init) {
    case EBB_INIT_NORMAL:
        for (int64_t i = 0; i < n; i++)
            out[i] = p->scale * ebb_rng_normal(seed, EBB_RNG_INIT, (uint64_t)param, (uint64_t)(at + i));
        break;
    case EBB_INIT_UNIFORM:
        ebb_rng_uniforms(seed, EBB_RNG_INIT, (uint64_t)param, (uint64_t)at, n, out);
        for (int64_t i = 0; i < n; i++)
            out[i] = p->scale * (2.0f * out[i] - 1.0f);
        break;
    default:
        for (int64_t i = 0; i < n; i++)
            out[i] = p->init == EBB_INIT_ONE ? 1.0f : 0.0f;
    }
    for (int64_t i = 0; p->zero_cols > 0 && i < n; i++)
        if ((at + i) % p->cols < p->zero_cols)
            out[i] = 0.0f;
}

static ebb_status_t fill(const ebb_backend_ops_t *ops, ebb_exec_t *x, const ebb_layout_t *layout, int param,
                         uint64_t seed, float *stage, float *dst)
{
    const ebb_param_t *p = &layout->params[param];
    int64_t floats = p->rows * p->cols;
    if (p->init == EBB_INIT_ZERO)
        return ops->zero(x, dst, (size_t)floats * sizeof *dst);
    for (int64_t at = 0; at < floats; at += STAGE_FLOATS) {
        int64_t n = floats - at < STAGE_FLOATS ? floats - at : STAGE_FLOATS;
        initial(p, seed, param, at, n, stage);
        EBB_TRY(ops->upload(x, dst + at, stage, (size_t)n * sizeof *stage));
        EBB_TRY(ops->exec_sync(x)); /* before the stage is filled again */
    }
    return EBB_OK;
}

ebb_status_t ebb_weights_init(ebb_backend_t *backend, const ebb_layout_t *layout, uint64_t seed, ebb_weights_t *weights)
{
    const ebb_backend_ops_t *ops = backend->ops;
    ebb_exec_t *x = NULL;
    float *stage;
    EBB_TRY(EBB_NEW_ARRAY("initial weights", STAGE_FLOATS, &stage));
    ebb_status_t status = ops->exec_create(backend->dev, &x);
    if (status == EBB_OK)
        status = ops->zero(x, weights->dense, (size_t)layout->dense_floats * sizeof(float)); /* padding too */
    for (int i = 0; i < layout->n_params && status == EBB_OK; i++)
        status = fill(ops, x, layout, i, seed, stage, ebb_weights_param(layout, weights, i, NULL));
    if (status == EBB_OK)
        status = ops->exec_sync(x);
    if (x)
        ops->exec_destroy(x);
    ebb_free(stage);
    return status;
}
