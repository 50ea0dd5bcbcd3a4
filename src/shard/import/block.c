/* Row blocks. Importers append; buffers grow to the largest piece and stay. Statistics are bit masks, counts and
 * bounds, so that they merge in any order. */
#include "shard/import/block.h"
#include "base/alloc.h"
#include "base/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ebb_block_free(ebb_block_t *b)
{
    ebb_free(b->rowptr);
    ebb_free(b->col);
    ebb_free(b->val);
    ebb_free(b->x);
    ebb_free(b->label);
    ebb_free(b->y);
    ebb_free(b->weight);
    ebb_free(b->scratch);
    ebb_labels_free(&b->labels);
    memset(b, 0, sizeof *b);
}

void ebb_block_clear(ebb_block_t *b)
{
    b->rows = b->nnz = b->labels_n = b->y_n = b->weights_n = 0;
    b->bad_line = b->bad_column = b->target_cols = 0;
    if (b->rowptr)
        b->rowptr[0] = 0;
}

ebb_status_t ebb_block_reserve(ebb_block_t *b, int64_t rows, int64_t nnz)
{
    if (b->rows + rows + 1 > b->row_cap) {
        EBB_TRY(ebb_grow("row pointers", (void **)&b->rowptr, &b->row_cap, b->rows + rows + 1, sizeof *b->rowptr));
        if (b->rows == 0)
            b->rowptr[0] = 0;
    }
    if (b->nnz + nnz > b->nnz_cap) {
        int64_t cap = b->nnz_cap;
        EBB_TRY(ebb_grow("columns", (void **)&b->col, &cap, b->nnz + nnz, sizeof *b->col));
        EBB_TRY(ebb_grow("values", (void **)&b->val, &b->nnz_cap, b->nnz + nnz, sizeof *b->val));
    }
    return EBB_OK;
}

ebb_status_t ebb_block_reserve_dense(ebb_block_t *b, int64_t rows)
{
    return ebb_grow("dense rows", (void **)&b->x, &b->x_cap, (b->rows + rows) * b->cols, sizeof *b->x);
}

typedef struct entry {
    int32_t col;
    float val;
} entry_t;

static int by_col(const void *a, const void *b)
{
    int32_t x = ((const entry_t *)a)->col, y = ((const entry_t *)b)->col;
    return (x > y) - (x < y);
}

static ebb_status_t sort_row(ebb_block_t *b, int64_t begin, int64_t end)
{
    int64_t n = end - begin;
    EBB_TRY(ebb_grow("row to sort", &b->scratch, &b->scratch_cap, n * (int64_t)sizeof(entry_t), 1));
    entry_t *e = b->scratch;
    for (int64_t i = 0; i < n; i++)
        e[i] = (entry_t){b->col[begin + i], b->val[begin + i]};
    qsort(e, (size_t)n, sizeof *e, by_col);
    for (int64_t i = 0; i < n; i++) {
        b->col[begin + i] = e[i].col;
        b->val[begin + i] = e[i].val;
    }
    return EBB_OK;
}

ebb_status_t ebb_block_end_row(ebb_block_t *b)
{
    int64_t begin = b->rowptr[b->rows], end = b->nnz;
    const int32_t *col = b->col;
    bool ascending = true;
    for (int64_t i = begin + 1; i < end; i++)
        ascending &= col[i - 1] < col[i];
    if (!ascending) {
        EBB_TRY(sort_row(b, begin, end));
        for (int64_t i = begin + 1; i < end; i++)
            if (col[i - 1] == col[i])
                return EBB_FAIL(EBB_EDATA, "index %d occurs twice in this row",
                                col[i] + (b->pass == EBB_PASS_WRITE ? b->index_base : 0));
    }
    b->rowptr[++b->rows] = end;
    return EBB_OK;
}

/* Only a data set to be like can lack a label: otherwise the classes are the labels there are. */
static ebb_status_t no_class(const ebb_labels_t *classes, const char *label)
{
    char name[EBB_LABEL_BYTES + 1];
    ebb_text_t known = {0};
    for (int64_t i = 0; i < classes->n && i < 8; i++) {
        ebb_labels_name(classes, i, name);
        ebb_text_add(&known, "%s%s", i ? ", " : "", name);
    }
    ebb_status_t status =
        EBB_FAIL(EBB_EDATA, "label \"%s\" is no class of the data set to be like, which has %lld: %s%s", label,
                 (long long)classes->n, known.s ? known.s : "", classes->n > 8 ? ", ..." : "");
    ebb_text_free(&known);
    return status;
}

ebb_status_t ebb_block_target_number(ebb_block_t *b, double value)
{
    if (!isfinite(value) || fabs(value) > 3.4e38)
        return EBB_FAIL(EBB_EDATA, "label is not a finite number");
    if (b->pass == EBB_PASS_SCAN)
        return ebb_labels_note_number(&b->labels, value, 1);
    if (b->target->kind == EBB_TARGET_REAL) {
        float y = (float)value;
        return ebb_block_target_reals(b, &y, 1);
    }
    if (b->target->kind == EBB_TARGET_NONE)
        return EBB_OK;
    int64_t c = ebb_labels_find_number(&b->target->classes, value);
    if (c < 0) {
        char text[32];
        snprintf(text, sizeof text, "%.9g", value);
        return no_class(&b->target->classes, text);
    }
    EBB_TRY(ebb_grow("labels", (void **)&b->label, &b->label_cap, b->labels_n + 1, sizeof *b->label));
    b->label[b->labels_n++] = (int32_t)c;
    return EBB_OK;
}

ebb_status_t ebb_block_target_text(ebb_block_t *b, const char *text, int64_t bytes)
{
    if (b->pass == EBB_PASS_SCAN)
        return ebb_labels_note_text(&b->labels, text, bytes, 1);
    if (b->target->kind == EBB_TARGET_NONE)
        return EBB_OK;
    int64_t c = b->target->kind == EBB_TARGET_CLASS ? ebb_labels_find_text(&b->target->classes, text, bytes) : -1;
    if (b->target->kind == EBB_TARGET_REAL)
        return EBB_FAIL(EBB_EDATA, "target \"%.*s\" is not a number", (int)(bytes < 60 ? bytes : 60), text);
    if (c < 0) {
        char label[64];
        snprintf(label, sizeof label, "%.*s", (int)(bytes < 60 ? bytes : 60), text);
        return no_class(&b->target->classes, label);
    }
    EBB_TRY(ebb_grow("labels", (void **)&b->label, &b->label_cap, b->labels_n + 1, sizeof *b->label));
    b->label[b->labels_n++] = (int32_t)c;
    return EBB_OK;
}

ebb_status_t ebb_block_target_reals(ebb_block_t *b, const float *y, int64_t cols)
{
    if (b->pass == EBB_PASS_SCAN)
        return EBB_OK;
    EBB_TRY(ebb_grow("targets", (void **)&b->y, &b->y_cap, b->y_n + cols, sizeof *b->y));
    memcpy(b->y + b->y_n, y, (size_t)cols * sizeof *y);
    b->y_n += cols;
    return EBB_OK;
}

ebb_status_t ebb_block_weight(ebb_block_t *b, float weight)
{
    if (!(weight >= 0) || !isfinite(weight))
        return EBB_FAIL(EBB_EDATA, "weight %g is not a finite number of at least 0", (double)weight);
    EBB_TRY(ebb_grow("weights", (void **)&b->weight, &b->weight_cap, b->weights_n + 1, sizeof *b->weight));
    b->weight[b->weights_n++] = weight;
    return EBB_OK;
}

ebb_status_t ebb_block_to_sparse(ebb_block_t *b)
{
    int64_t rows = b->rows, nnz = 0;
    for (int64_t i = 0; i < rows * b->cols; i++)
        nnz += b->x[i] != 0;
    b->rows = b->nnz = 0;
    EBB_TRY(ebb_block_reserve(b, rows, nnz));
    b->rowptr[0] = 0;
    for (int64_t r = 0; r < rows; r++) {
        const float *x = b->x + r * b->cols;
        for (int64_t c = 0; c < b->cols; c++) {
            if (x[c] == 0)
                continue;
            b->col[b->nnz] = (int32_t)c;
            b->val[b->nnz++] = x[c];
        }
        b->rowptr[r + 1] = b->nnz;
    }
    b->rows = rows;
    b->sparse = true;
    return EBB_OK;
}

ebb_status_t ebb_block_to_dense(ebb_block_t *b, int64_t cols)
{
    EBB_TRY(ebb_grow("dense rows", (void **)&b->x, &b->x_cap, b->rows * cols, sizeof *b->x));
    memset(b->x, 0, (size_t)(b->rows * cols) * sizeof *b->x);
    for (int64_t r = 0; r < b->rows; r++)
        for (int64_t i = b->rowptr[r]; i < b->rowptr[r + 1]; i++)
            b->x[r * cols + b->col[i]] = b->val[i];
    b->cols = cols;
    b->sparse = false;
    return EBB_OK;
}

void ebb_block_stats_init(ebb_block_stats_t *s)
{
    *s = (ebb_block_stats_t){.min_col = INT64_MAX, .max_col = -1, .fits = 0x7f};
}

/* Which types hold v[0, n). A half float is taken for exact when the low 13 bits of the mantissa are zero and the
 * exponent is that of a normal half. */
static uint32_t fitting(const float *v, int64_t n)
{
    float lo = 0, hi = 0;
    uint32_t halves = 1, integers = 1;
    for (int64_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &v[i], 4);
        uint32_t e = u << 1 >> 24;
        halves &= (uint32_t)((u & 0x1fff) == 0) & ((uint32_t)(e - 113 < 30) | (uint32_t)(u == 0));
        float a = fabsf(v[i]);
        /* 2^23 and above every float is an integer; beyond 2^24 the i32 bound below refuses */
        integers &= (uint32_t)((a + 0x1p23f) - 0x1p23f == a || a >= 0x1p23f) & (uint32_t)(u != 0x80000000u);
        lo = v[i] < lo ? v[i] : lo;
        hi = v[i] > hi ? v[i] : hi;
    }
    uint32_t fits = 1u << EBB_F32 | halves << EBB_F16;
    if (!integers)
        return fits;
    fits |= (uint32_t)(lo >= 0 && hi <= 255) << EBB_U8 | (uint32_t)(lo >= -128 && hi <= 127) << EBB_I8;
    fits |= (uint32_t)(lo >= 0 && hi <= 65535) << EBB_U16 | (uint32_t)(lo >= -32768 && hi <= 32767) << EBB_I16;
    return fits | (uint32_t)(lo >= -0x1p24f && hi <= 0x1p24f) << EBB_I32;
}

void ebb_block_stats_add(ebb_block_stats_t *s, const ebb_block_t *b)
{
    s->rows += b->rows;
    s->any_weight |= b->weights_n > 0;
    s->target_cols = b->target_cols > s->target_cols ? b->target_cols : s->target_cols;
    if (!b->sparse) {
        s->nnz += b->rows * b->cols;
        s->max_col = b->cols - 1 > s->max_col ? b->cols - 1 : s->max_col;
        s->min_col = 0;
        s->fits &= fitting(b->x, b->rows * b->cols);
        return;
    }
    s->nnz += b->nnz;
    s->fits &= fitting(b->val, b->nnz);
    for (int64_t r = 0; r < b->rows; r++) {
        if (b->rowptr[r] == b->rowptr[r + 1])
            continue;
        int32_t first = b->col[b->rowptr[r]], last = b->col[b->rowptr[r + 1] - 1];
        s->min_col = first < s->min_col ? first : s->min_col;
        s->max_col = last > s->max_col ? last : s->max_col;
    }
}

ebb_value_type_t ebb_block_stats_type(const ebb_block_stats_t *s)
{
    static const ebb_value_type_t order[] = {EBB_U8, EBB_I8, EBB_U16, EBB_I16, EBB_F16, EBB_I32};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        if (s->fits >> order[i] & 1)
            return order[i];
    return EBB_F32;
}
