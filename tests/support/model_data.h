/* Small data sets and models for tests, made from the test stream of the counter-based generator. */
#ifndef EBB_TESTS_MODEL_DATA_H
#define EBB_TESTS_MODEL_DATA_H

#include <ebb/model.h>
#include "support.h"
#include "base/rng.h"

enum { DATA_MAX_ROWS = 64, DATA_MAX_COLS = 64 };

typedef struct test_data {
    ebb_dataset_info_t info;
    ebb_field_t fields[3];
    ebb_host_rows_t rows;
    int64_t rowptr[DATA_MAX_ROWS + 1];
    int32_t col[DATA_MAX_ROWS * DATA_MAX_COLS], label[DATA_MAX_ROWS];
    float val[DATA_MAX_ROWS * DATA_MAX_COLS], x[DATA_MAX_ROWS * DATA_MAX_COLS], y[DATA_MAX_ROWS * 4];
} test_data_t;

static inline double test_normal(uint64_t a, uint64_t b)
{
    return (double)ebb_rng_normal(7, EBB_RNG_TEST, a, b);
}

/* rows x cols values, about one in three non-zero (row 1 empty) when sparse; classes > 0: labels, else target_cols
 * counts. */
static inline void test_data_make(test_data_t *d, bool sparse, int64_t rows, int64_t cols, int64_t classes,
                                  int64_t target_cols)
{
    memset(d, 0, sizeof *d);
    for (int64_t r = 0; r < rows; r++) {
        d->rowptr[r + 1] = d->rowptr[r];
        for (int64_t c = 0; c < cols; c++) {
            float v = (float)test_normal((uint64_t)r, (uint64_t)c);
            d->x[r * cols + c] = v;
            if (r == 1 || ebb_rng_u64(7, EBB_RNG_TEST, (uint64_t)r, (uint64_t)c + 500) % 3)
                continue;
            d->col[d->rowptr[r + 1]] = (int32_t)c;
            d->val[d->rowptr[r + 1]++] = v;
        }
        d->label[r] = classes ? (int32_t)(ebb_rng_u64(7, EBB_RNG_TEST, (uint64_t)r, 900) % (uint64_t)classes) : 0;
        for (int64_t k = 0; k < target_cols; k++)
            d->y[r * target_cols + k] = (float)(ebb_rng_u64(7, EBB_RNG_TEST, (uint64_t)r, 901 + (uint64_t)k) % 5);
    }
    d->fields[0] = (ebb_field_t){.name = "a", .begin = 0, .end = (int32_t)cols / 3, .categorical = true};
    d->fields[1] =
        (ebb_field_t){.name = "b", .begin = (int32_t)cols / 3, .end = (int32_t)cols / 2, .categorical = true};
    d->fields[2] = (ebb_field_t){.name = "c", .begin = (int32_t)cols / 2, .end = (int32_t)cols};
    d->info = (ebb_dataset_info_t){.name = "made",
                                   .rows = rows,
                                   .cols = cols,
                                   .nnz = sparse ? d->rowptr[rows] : rows * cols,
                                   .sparse = sparse,
                                   .target = classes ? EBB_TARGET_CLASS : EBB_TARGET_REAL,
                                   .target_cols = classes ? 1 : target_cols,
                                   .classes = classes,
                                   .n_fields = 3,
                                   .fields = d->fields};
    d->rows = (ebb_host_rows_t){.rows = rows,
                                .rowptr = sparse ? d->rowptr : NULL,
                                .col = d->col,
                                .val = d->val,
                                .x = sparse ? NULL : d->x,
                                .label = classes ? d->label : NULL,
                                .y = classes ? NULL : d->y};
}

#endif
