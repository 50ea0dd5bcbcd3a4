/* Placing parameters: dense ones one after another in a vector, each at a multiple of 16 floats so that it starts on
 * a cache line; row-sparse ones numbered as tables. A pure function of the declaration, so every rank has the same. */
#include <ebb/model.h>

#include <string.h>

#include "base/alloc.h"

enum { PARAM_ALIGN = 16 };

static ebb_status_t check_param(const ebb_param_t *params, int i)
{
    const ebb_param_t *p = &params[i];
    if (!memchr(p->name, 0, sizeof p->name) || !p->name[0])
        return EBB_FAIL(EBB_EINVAL, "parameter %d has no name (at most %zu characters)", i, sizeof p->name - 1);
    if (p->kind != EBB_PARAM_DENSE && p->kind != EBB_PARAM_ROWS)
        return EBB_FAIL(EBB_EINVAL, "parameter \"%s\": kind %d is neither dense nor rows", p->name, (int)p->kind);
    if (p->rows < 1 || p->cols < 1 || p->rows > INT64_MAX / 8 / p->cols)
        return EBB_FAIL(EBB_EINVAL, "parameter \"%s\": its shape (%lld, %lld) is not one", p->name, (long long)p->rows,
                        (long long)p->cols);
    if (p->kind == EBB_PARAM_ROWS && p->rows > INT32_MAX)
        return EBB_FAIL(EBB_EINVAL, "parameter \"%s\": %lld rows; a table has at most 2^31 - 1", p->name,
                        (long long)p->rows);
    for (int k = 0; k < i; k++)
        if (strcmp(params[k].name, p->name) == 0)
            return EBB_FAIL(EBB_EINVAL, "parameter \"%s\" is declared twice (numbers %d and %d)", p->name, k, i);
    return EBB_OK;
}

static ebb_status_t place(ebb_layout_t *layout, int n, const ebb_param_t *params)
{
    if (n < 0 || (n > 0 && !params))
        return EBB_FAIL(EBB_EINVAL, "a model declared %d parameters", n);
    EBB_TRY(EBB_NEW_ARRAY("parameters", n, &layout->params));
    for (int i = 0; i < n; i++) {
        EBB_TRY(check_param(params, i));
        ebb_param_t *p = &layout->params[i];
        *p = params[i];
        if (p->kind == EBB_PARAM_DENSE) {
            p->offset = layout->dense_floats;
            layout->dense_floats += (p->rows * p->cols + PARAM_ALIGN - 1) / PARAM_ALIGN * PARAM_ALIGN;
        } else if (layout->n_tables == EBB_MAX_TABLES) {
            return EBB_FAIL(EBB_EINVAL, "parameter \"%s\": a model has at most %d row-sparse tables", p->name,
                            EBB_MAX_TABLES);
        } else {
            p->offset = layout->n_tables;
            layout->table_param[layout->n_tables++] = i;
        }
        layout->n_params++;
    }
    return EBB_OK;
}

ebb_status_t ebb_layout_create(int n, const ebb_param_t *params, ebb_layout_t **layout_p)
{
    *layout_p = NULL;
    ebb_layout_t *layout;
    EBB_TRY(EBB_NEW("parameter layout", &layout));
    ebb_status_t status = place(layout, n, params);
    if (status != EBB_OK) {
        ebb_layout_destroy(layout);
        return status;
    }
    *layout_p = layout;
    return EBB_OK;
}

void ebb_layout_destroy(ebb_layout_t *layout)
{
    if (!layout)
        return;
    ebb_free(layout->params);
    ebb_free(layout);
}
