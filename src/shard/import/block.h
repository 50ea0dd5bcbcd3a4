/* A block of rows as an importer makes it, with what the scan learns of it. */
#ifndef EBB_SHARD_IMPORT_BLOCK_H
#define EBB_SHARD_IMPORT_BLOCK_H

#include <ebb/shard.h>
#include "shard/import/labels.h"

typedef enum ebb_pass { EBB_PASS_SCAN, EBB_PASS_WRITE } ebb_pass_t;

/* How targets become labels or reals in the second pass; shared by all blocks, read-only then. */
typedef struct ebb_target_plan {
    ebb_target_kind_t kind;
    int64_t cols;
    ebb_labels_t classes; /* sorted */
} ebb_target_plan_t;

/* What values occur: bits of types that hold all of them exactly, and bounds. */
typedef struct ebb_block_stats {
    int64_t rows, nnz;
    int64_t min_col, max_col; /* INT64_MAX, -1: none */
    int64_t target_cols;
    uint32_t fits; /* 1 << ebb_value_type_t */
    bool any_weight;
} ebb_block_stats_t;

typedef struct ebb_block {
    ebb_pass_t pass;
    const ebb_target_plan_t *target; /* second pass */
    bool sparse;
    int64_t cols;        /* dense: width of x; sparse: indices must be below, 0: any */
    int32_t index_base;  /* svmlight: subtracted from indices in the second pass */
    int64_t target_cols; /* real targets of several columns: how many, else 0 */
    int64_t rows, nnz, row_cap, nnz_cap, x_cap, label_cap, y_cap, weight_cap;
    int64_t *rowptr; /* rows + 1 */
    int32_t *col;
    float *val;
    float *x; /* dense: rows x cols */
    int32_t *label;
    float *y;
    float *weight; /* all rows or none */
    int64_t labels_n, y_n, weights_n;
    ebb_labels_t labels; /* scan: labels noted */
    void *scratch;       /* the importer's own, freed with ebb_free */
    int64_t scratch_cap;
    /* the first fault: line within the piece (0: the message names its place itself) and column, both from 1 */
    int64_t bad_line, bad_column;
} ebb_block_t;

void ebb_block_free(ebb_block_t *block);
/* Forget rows, keep memory. */
void ebb_block_clear(ebb_block_t *block);
/* Room for that many more. */
ebb_status_t ebb_block_reserve(ebb_block_t *block, int64_t rows, int64_t nnz);
ebb_status_t ebb_block_reserve_dense(ebb_block_t *block, int64_t rows);
/* Ends a sparse row whose entries were put at col/val[nnz ..): checks range, sorts, and rejects duplicates. */
ebb_status_t ebb_block_end_row(ebb_block_t *block);
/* The target of the row to come or just ended: one each per row. */
ebb_status_t ebb_block_target_number(ebb_block_t *block, double value);
ebb_status_t ebb_block_target_text(ebb_block_t *block, const char *text, int64_t bytes);
/* Real targets of several columns. */
ebb_status_t ebb_block_target_reals(ebb_block_t *block, const float *y, int64_t cols);
ebb_status_t ebb_block_weight(ebb_block_t *block, float weight);
/* Change layout: dense to sparse drops zeros; sparse to dense needs cols. */
ebb_status_t ebb_block_to_sparse(ebb_block_t *block);
ebb_status_t ebb_block_to_dense(ebb_block_t *block, int64_t cols);

void ebb_block_stats_init(ebb_block_stats_t *stats);
void ebb_block_stats_add(ebb_block_stats_t *stats, const ebb_block_t *block);
/* The smallest type that holds all values. */
ebb_value_type_t ebb_block_stats_type(const ebb_block_stats_t *stats);

/* Record a data error at a line of the piece. */
#define EBB_BLOCK_FAIL(block, line, ...) ((block)->bad_line = (line), EBB_FAIL(EBB_EDATA, __VA_ARGS__))

#endif
