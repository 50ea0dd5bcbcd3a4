/* What stands in for compute, model and optim where a test is about moving state alone: memory of the host as
 * device, and an optimiser whose states are plain arrays in the owners' layout. */
#ifndef EBB_TESTS_FAKE_STATE_H
#define EBB_TESTS_FAKE_STATE_H

#include <ebb/checkpoint.h>
#include <stdlib.h>
#include <string.h>

struct ebb_optim {
    int states;
    float *dense[2], *table[2][EBB_MAX_TABLES];
};

int ebb_optim_state_count(const ebb_optim_t *o)
{
    return o->states;
}
const char *ebb_optim_state_name(const ebb_optim_t *o, int i)
{
    (void)o;
    return i == 0 ? "m" : "v";
}
float *ebb_optim_state_dense(ebb_optim_t *o, int i)
{
    return o->dense[i];
}
float *ebb_optim_state_table(ebb_optim_t *o, int i, int table)
{
    return o->table[i][table];
}

static float *fake_param(const ebb_layout_t *layout, const ebb_weights_t *weights, int param)
{
    const ebb_param_t *p = &layout->params[param];
    return p->kind == EBB_PARAM_DENSE ? weights->dense + p->offset : weights->table[p->offset];
}

static ebb_status_t fake_copy(ebb_exec_t *x, void *dst, const void *src, size_t bytes)
{
    (void)x;
    memcpy(dst, src, bytes);
    return EBB_OK;
}
static ebb_status_t fake_sync(ebb_exec_t *x)
{
    (void)x;
    return EBB_OK;
}
static const ebb_backend_ops_t fake_ops = {.upload = fake_copy, .download = fake_copy, .exec_sync = fake_sync};
static ebb_backend_t fake_backend = {&fake_ops, NULL};

/* A layout of odd shapes: two dense parameters, two tables (the second a single block wide), rows that fill no block.
 */
static ebb_param_t fake_params[] = {
    {.name = "0.linear.weight", .kind = EBB_PARAM_ROWS, .rows = 1000, .cols = 3, .offset = 0},
    {.name = "0.linear.bias", .kind = EBB_PARAM_DENSE, .rows = 1, .cols = 3, .offset = 0},
    {.name = "1.embedding.table", .kind = EBB_PARAM_ROWS, .rows = 70, .cols = 5, .offset = 1},
    {.name = "2.linear.weight", .kind = EBB_PARAM_DENSE, .rows = 37, .cols = 11, .offset = 16},
};
static const ebb_layout_t fake_layout = {.n_params = 4,
                                         .params = fake_params,
                                         .dense_floats = 16 + 416,
                                         .n_tables = 2,
                                         .table_param = {0, 2},
                                         .n_buckets = 2,
                                         .bucket_begin = {16, 0}};

/* A value that only its place in the whole determines; salt tells runs apart. */
static float fake_value(int salt, int kind, int param, int64_t i)
{
    return (float)(salt % 1000 * 10007 + kind * 70001 + param * 9001) + (float)i * 0.25f;
}

/* For each element this rank holds of every array: set it from fake_value, or compare with it. kind 0: weights, 1..:
 * states. */
static int64_t fake_visit(const ebb_checkpoint_state_t *s, int salt, bool set)
{
    int rank = ebb_comm_rank(s->comm), ranks = ebb_comm_size(s->comm);
    int64_t wrong = 0;
    for (int p = 0; p < s->layout->n_params; p++) {
        const ebb_param_t *param = &s->layout->params[p];
        ebb_own_t own = ebb_sync_own(s->layout, ebb_layout_bucket_of(s->layout, param->offset), rank, ranks);
        for (int kind = 0; kind <= (s->optim ? s->optim->states : 0); kind++) {
            for (int64_t i = 0; i < param->rows * param->cols; i++) {
                float *at = NULL;
                int64_t row = i / param->cols, g = param->offset + i;
                if (kind == 0)
                    at = fake_param(s->layout, s->weights, p) + i;
                else if (param->kind == EBB_PARAM_DENSE)
                    at = g >= own.begin && g < own.end ? s->optim->dense[kind - 1] + own.local + (g - own.begin) : NULL;
                else if (row / 64 % ranks == rank)
                    at = s->optim->table[kind - 1][param->offset] + ebb_sync_local_row(row, ranks) * param->cols +
                         i % param->cols;
                if (at && set)
                    *at = fake_value(salt, kind, p, i);
                wrong += at && *at != fake_value(salt, kind, p, i);
            }
        }
    }
    return wrong;
}

static void fake_create(ebb_comm_t *comm, int states, ebb_checkpoint_state_t *s)
{
    int rank = ebb_comm_rank(comm), ranks = ebb_comm_size(comm);
    *s = (ebb_checkpoint_state_t){.comm = comm, .backend = &fake_backend, .layout = &fake_layout};
    s->weights = calloc(1, sizeof *s->weights);
    s->weights->dense = calloc((size_t)fake_layout.dense_floats, sizeof(float));
    for (int t = 0; t < fake_layout.n_tables; t++)
        s->weights->table[t] = calloc(
            (size_t)(fake_params[fake_layout.table_param[t]].rows * fake_params[fake_layout.table_param[t]].cols),
            sizeof(float));
    if (states < 0)
        return;
    s->optim = calloc(1, sizeof *s->optim);
    s->optim->states = states;
    for (int k = 0; k < states; k++) {
        s->optim->dense[k] = calloc((size_t)ebb_sync_own_floats(&fake_layout, rank, ranks) + 1, sizeof(float));
        for (int t = 0; t < fake_layout.n_tables; t++) {
            const ebb_param_t *p = &fake_params[fake_layout.table_param[t]];
            s->optim->table[k][t] =
                calloc((size_t)(ebb_sync_table_rows(p->rows, rank, ranks) * p->cols + 1), sizeof(float));
        }
    }
}

static void fake_destroy(ebb_checkpoint_state_t *s)
{
    for (int t = 0; t < fake_layout.n_tables; t++) {
        free(s->weights->table[t]);
        for (int k = 0; s->optim && k < s->optim->states; k++)
            free(s->optim->table[k][t]);
    }
    for (int k = 0; s->optim && k < s->optim->states; k++)
        free(s->optim->dense[k]);
    free(s->weights->dense);
    free(s->weights);
    free(s->optim);
    *s = (ebb_checkpoint_state_t){0};
}

#endif
