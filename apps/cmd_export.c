/* ebb export: a data set as svmlight text, for other programs. */
#include "commands.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/output.h"

#include <ebb/shard.h>
#include <stdio.h>
#include <stdlib.h>

#define BLOCK_ROWS 4096

typedef struct export_options {
    char *dataset;
} export_options_t;

static const ebb_option_t options[] = {
    {OPTION_DATASET(export_options_t, DATASET_WITH_TARGETS)},
    {0},
};

static const ebb_example_t examples[] = {{"For LIBLINEAR", "ebb export data/sections/train train.svm"}, {0}};

/* One block of rows. */
typedef struct block {
    int64_t *rowptr;
    int32_t *col, *label;
    float *val, *x, *y;
    int64_t col_capacity, val_capacity;
    ebb_text_t text;
} block_t;

static ebb_status_t block_init(block_t *b, const ebb_dataset_info_t *info)
{
    EBB_TRY(EBB_NEW_ARRAY("row pointers", BLOCK_ROWS + 1, &b->rowptr));
    EBB_TRY(EBB_NEW_ARRAY("labels", BLOCK_ROWS, &b->label));
    EBB_TRY(EBB_NEW_ARRAY("targets", BLOCK_ROWS * (info->target_cols > 0 ? info->target_cols : 1), &b->y));
    return info->sparse ? EBB_OK : EBB_NEW_ARRAY("rows", BLOCK_ROWS * info->cols, &b->x);
}

static void block_cleanup(block_t *b)
{
    ebb_free(b->rowptr);
    ebb_free(b->label);
    ebb_free(b->y);
    ebb_free(b->x);
    ebb_free(b->col);
    ebb_free(b->val);
    ebb_text_free(&b->text);
}

/* A class stands by its name where all names are numbers, else by its number. */
static bool names_are_numbers(const ebb_dataset_info_t *info)
{
    for (int64_t c = 0; c < info->classes; c++) {
        char *end;
        strtod(info->class_names[c], &end);
        if (*end || !info->class_names[c][0])
            return false;
    }
    return true;
}

static void add_target(block_t *b, const ebb_dataset_info_t *info, bool names, int64_t i)
{
    if (info->target == EBB_TARGET_CLASS && names)
        ebb_text_add(&b->text, "%s", info->class_names[b->label[i]]);
    else if (info->target == EBB_TARGET_CLASS)
        ebb_text_add(&b->text, "%d", b->label[i]);
    else
        ebb_text_add(&b->text, "%.9g", info->target == EBB_TARGET_REAL ? (double)b->y[i * info->target_cols] : 0.0);
}

static ebb_status_t read_block(ebb_reader_t *reader, const ebb_dataset_info_t *info, block_t *b, int64_t row, int64_t n)
{
    bool classes = info->target == EBB_TARGET_CLASS;
    if (info->target != EBB_TARGET_NONE)
        EBB_TRY(ebb_reader_targets(reader, row, n, classes ? b->label : NULL, classes ? NULL : b->y, NULL));
    if (!info->sparse)
        return ebb_reader_dense(reader, row, n, b->x);
    EBB_TRY(ebb_reader_rowptr(reader, row, n, 0, b->rowptr));
    EBB_TRY(ebb_grow("columns", (void **)&b->col, &b->col_capacity, b->rowptr[n], sizeof *b->col));
    EBB_TRY(ebb_grow("values", (void **)&b->val, &b->val_capacity, b->rowptr[n], sizeof *b->val));
    return ebb_reader_csr(reader, row, n, b->col, b->val);
}

static void format_block(block_t *b, const ebb_dataset_info_t *info, bool names, int64_t n)
{
    b->text.n = 0;
    for (int64_t i = 0; i < n; i++) {
        add_target(b, info, names, i);
        for (int64_t k = info->sparse ? b->rowptr[i] : 0; k < (info->sparse ? b->rowptr[i + 1] : info->cols); k++) {
            float v = info->sparse ? b->val[k] : b->x[i * info->cols + k];
            if (v != 0.0f)
                ebb_text_add(&b->text, " %lld:%.9g", (long long)(info->sparse ? b->col[k] : k) + 1, (double)v);
        }
        ebb_text_append(&b->text, "\n", 1);
    }
}

static ebb_status_t write_rows(const ebb_dataset_t *ds, FILE *f, const char *path)
{
    const ebb_dataset_info_t *info = ebb_dataset_info(ds);
    bool names = names_are_numbers(info);
    ebb_reader_t *reader = NULL;
    block_t b = {0};
    ebb_status_t status = ebb_reader_create(ds, 0, &reader);
    if (status == EBB_OK)
        status = block_init(&b, info);
    for (int64_t row = 0; row < info->rows && status == EBB_OK; row += BLOCK_ROWS) {
        int64_t n = info->rows - row < BLOCK_ROWS ? info->rows - row : BLOCK_ROWS;
        status = read_block(reader, info, &b, row, n);
        if (status != EBB_OK)
            break;
        format_block(&b, info, names, n);
        if (b.text.failed)
            status = EBB_FAIL(EBB_ENOMEM, "out of memory for text");
        else if (fwrite(b.text.s, 1, b.text.n, f) != b.text.n)
            status = ebb_file_error(path, "write");
    }
    block_cleanup(&b);
    ebb_reader_destroy(reader);
    return status;
}

static ebb_status_t export(const ebb_dataset_t *ds, const char *path)
{
    ebb_output_t out;
    EBB_TRY(ebb_output_open(path, &out));
    return ebb_output_close(&out, write_rows(ds, out.f, out.path));
}

static ebb_status_t run(void *opts, int n_operands, char **operands)
{
    const export_options_t *o = opts;
    ebb_dataset_t *ds;
    EBB_TRY(ebb_dataset_open(operands[0], o->dataset, &ds));
    ebb_status_t status = export(ds, n_operands > 1 ? operands[1] : NULL);
    ebb_dataset_close(ds);
    return status;
}

const ebb_command_t cmd_export = {
    .name = "export",
    .help = "Write a data set as svmlight text",
    .operands = "DATA [FILE]",
    .about = "One line a row: the class (or the first target), then column:value pairs counted from 1, zeros left\n"
             "out. To standard output without FILE, or with -.\n",
    .min_operands = 1,
    .max_operands = 2,
    .options = options,
    .options_bytes = sizeof(export_options_t),
    .examples = examples,
    .run = run,
};
