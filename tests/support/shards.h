/* Made-up data sets on disk for tests: every number is a hash of its place, so that any part can be checked without the
 * whole. */
#ifndef EBB_TESTS_SHARDS_H
#define EBB_TESTS_SHARDS_H

#include "support.h"
#include "base/rng.h"
#include <ebb/shard.h>

static inline uint64_t made_hash(uint64_t a, uint64_t b)
{
    return ebb_mix64(a * 0x9e3779b97f4a7c15ull + b);
}

/* A value that every stored type can hold, or one that only floats can. */
static inline float made_value(const ebb_dataset_plan_t *plan, int64_t row, int64_t col)
{
    uint64_t h = made_hash((uint64_t)row, (uint64_t)col + 7);
    switch (plan->value_type) {
    case EBB_F32:
        return (float)(int64_t)(h % 2000003) / 997.0f - 1000;
    case EBB_F16:
        return (float)((int)(h % 4096) - 2048) / 64.0f;
    case EBB_U8:
        return (float)(h % 256);
    case EBB_I8:
        return (float)((int)(h % 256) - 128);
    case EBB_U16:
        return (float)(h % 65536);
    case EBB_I16:
        return (float)((int)(h % 65536) - 32768);
    case EBB_I32:
        return (float)((int)(h % 33554433) - 16777216);
    }
    return 0;
}

/* Entries of a long row. */
static inline int64_t made_longest(const ebb_dataset_plan_t *plan)
{
    return plan->cols > 1 << 20 ? 2500 : plan->cols / 2;
}

/* Entries of a row of a made-up sparse data set, ascending; some rows are empty, one in a hundred is long. */
static inline int64_t made_row(const ebb_dataset_plan_t *plan, int64_t row, int32_t *col, float *val)
{
    uint64_t h = made_hash((uint64_t)row, 1);
    int64_t want = (int64_t)(h % 41), n = 0;
    if (h % 100 == 3)
        want = made_longest(plan);
    int64_t step = want > 0 ? plan->cols / want : 0;
    for (int64_t i = 0; i < want && step > 0; i++) {
        int64_t c = i * step + (int64_t)(made_hash((uint64_t)row, (uint64_t)i + 3) % (uint64_t)step);
        col[n] = (int32_t)c;
        val[n++] = made_value(plan, row, c);
    }
    return n;
}

static inline int32_t made_label(const ebb_dataset_plan_t *plan, int64_t row)
{
    return (int32_t)(made_hash((uint64_t)row, 2) % (uint64_t)plan->classes);
}

static inline float made_target(int64_t row, int64_t col)
{
    return (float)(made_hash((uint64_t)row, (uint64_t)col + 11) % 10007) / 16.0f;
}

static inline float made_weight(int64_t row)
{
    return (float)(made_hash((uint64_t)row, 5) % 9) / 4.0f;
}

/* Rows [row0, row0 + n) in the writer's form; free with made_free. */
typedef struct made {
    int64_t *rowptr;
    int32_t *col, *label;
    float *val, *x, *y, *weight;
} made_t;

static inline made_t make_rows(const ebb_dataset_plan_t *plan, int64_t row0, int64_t n)
{
    made_t m = {.rowptr = calloc((size_t)n + 1, 8),
                .label = calloc((size_t)n + 1, 4),
                .weight = calloc((size_t)n + 1, 4),
                .y = calloc((size_t)(n * plan->target_cols) + 1, 4)};
    int64_t most = made_longest(plan) > 20 ? 2 * made_longest(plan) + 1 : 41;
    if (plan->sparse) {
        m.col = malloc((size_t)(n * (most / 4 + 41) + most) * 4);
        m.val = malloc((size_t)(n * (most / 4 + 41) + most) * 4);
    } else
        m.x = malloc((size_t)(n * plan->cols) * 4 + 4);
    for (int64_t i = 0; i < n; i++) {
        int64_t row = row0 + i;
        if (plan->sparse)
            m.rowptr[i + 1] = m.rowptr[i] + made_row(plan, row, m.col + m.rowptr[i], m.val + m.rowptr[i]);
        for (int64_t c = 0; !plan->sparse && c < plan->cols; c++)
            m.x[i * plan->cols + c] = made_value(plan, row, c);
        m.label[i] = plan->target == EBB_TARGET_CLASS ? made_label(plan, row) : 0;
        m.weight[i] = made_weight(row);
        for (int64_t c = 0; plan->target == EBB_TARGET_REAL && c < plan->target_cols; c++)
            m.y[i * plan->target_cols + c] = made_target(row, c);
    }
    return m;
}

static inline void made_free(made_t *m)
{
    free(m->rowptr);
    free(m->col);
    free(m->label);
    free(m->val);
    free(m->x);
    free(m->y);
    free(m->weight);
}

/* Write the whole data set the plan describes into dir, `step` rows per append. */
static inline void make_dataset(const char *dir, const ebb_dataset_plan_t *plan, int threads, int64_t step)
{
    int n_shards = (int)((plan->rows + plan->shard_rows - 1) / plan->shard_rows);
    ebb_shard_summary_t *summary = calloc((size_t)n_shards + 1, sizeof *summary);
    int64_t *class_rows = calloc((size_t)plan->classes + 1, sizeof *class_rows);
    for (int s = 0; s < n_shards; s++) {
        int64_t row = s * plan->shard_rows, end = row + plan->shard_rows;
        end = end < plan->rows ? end : plan->rows;
        ebb_shard_writer_t *w;
        assert_ok(ebb_shard_writer_create(dir, plan, s, threads, &w));
        for (; row < end; row += step) {
            int64_t n = end - row < step ? end - row : step;
            made_t m = make_rows(plan, row, n);
            assert_ok(ebb_shard_writer_append(w, n, m.rowptr, m.col, m.val, m.x, m.label, m.y, m.weight));
            for (int64_t i = 0; plan->classes > 0 && i < n; i++)
                class_rows[m.label[i]]++;
            made_free(&m);
        }
        assert_ok(ebb_shard_writer_commit(w, &summary[s]));
        ebb_shard_writer_destroy(w);
    }
    assert_ok(ebb_manifest_write(dir, plan, n_shards, summary, class_rows));
    free(summary);
    free(class_rows);
}

static inline ebb_dataset_plan_t made_plan(bool sparse, ebb_value_type_t type, int64_t rows, int64_t cols)
{
    static const char *const names[] = {"alpha", "beta", "\xce\xb3"};
    return (ebb_dataset_plan_t){.name = "made",
                                .rows = rows,
                                .cols = cols,
                                .sparse = sparse,
                                .value_type = type,
                                .target = EBB_TARGET_CLASS,
                                .target_cols = 1,
                                .classes = 3,
                                .class_names = names,
                                .shard_rows = rows,
                                .level = 3};
}

#endif
