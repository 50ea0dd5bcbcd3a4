/* ebb inspect: what a data set or a foreign HDF5 file holds, as a table or as JSON. */
#include "commands.h"
#include "base/json.h"

#include <ebb/shard.h>

#include <stdio.h>
#include <stdlib.h>

#define LISTED 20 /* classes and fields shown without -v */

typedef struct inspect_options {
    bool json, verbose;
    char *dataset;
} inspect_options_t;

static const ebb_option_t options[] = {
    {"json", 0, EBB_OPT_FLAG, offsetof(inspect_options_t, json), NULL, NULL, 0, 0, NULL, "print JSON"},
    {"verbose", 'v', EBB_OPT_FLAG, offsetof(inspect_options_t, verbose), NULL, NULL, 0, 0, NULL,
     "list every shard, class and field"},
    {"dataset", 0, EBB_OPT_STRING, offsetof(inspect_options_t, dataset), NULL, NULL, 0, 0, NULL,
     "HDF5 files of others: path of the matrix, and of the targets after a colon, as in raw/X:obs/labels"},
    {0},
};

static const char *const target_names[] = {"none", "class", "real"};

/* Bytes that the same rows take uncompressed: values and indices as stored, row pointers, targets, weights. */
static double raw_bytes(const ebb_dataset_info_t *info)
{
    double rows = (double)info->rows;
    double bytes = (double)info->nnz * (double)ebb_value_type_size(info->value_type);
    if (info->sparse)
        bytes += (double)info->nnz * (info->cols <= 65536 ? 2 : 4) + 8 * (rows + 1);
    return bytes + 4 * rows * (double)info->target_cols + (info->weighted ? 4 * rows : 0);
}

static double ratio_of(double a, double b)
{
    return b > 0 ? a / b : 0;
}

static json_t *class_list(const ebb_dataset_info_t *info)
{
    json_t *list = json_array();
    for (int64_t i = 0; i < info->classes; i++)
        json_array_append_new(list, json_pack("{s:s, s:I, s:f}", "name", info->class_names[i], "rows",
                                              (json_int_t)info->class_rows[i], "share",
                                              ratio_of((double)info->class_rows[i], (double)info->rows)));
    return list;
}

static json_t *field_list(const ebb_dataset_info_t *info)
{
    json_t *list = json_array();
    for (int i = 0; i < info->n_fields; i++)
        json_array_append_new(list, json_pack("{s:s, s:i, s:i, s:s}", "name", info->fields[i].name, "begin",
                                              (int)info->fields[i].begin, "end", (int)info->fields[i].end, "kind",
                                              info->fields[i].categorical ? "categorical" : "numeric"));
    return list;
}

static ebb_status_t shard_list(const ebb_dataset_t *ds, json_t **list_p)
{
    *list_p = json_array();
    for (int i = 0; i < ebb_dataset_info(ds)->n_shards; i++) {
        const char *file;
        int64_t row0, rows, bytes;
        EBB_TRY(ebb_dataset_shard(ds, i, &file, &row0, &rows, &bytes));
        json_array_append_new(*list_p, json_pack("{s:s, s:I, s:I, s:I}", "file", file, "row0", (json_int_t)row0, "rows",
                                                 (json_int_t)rows, "bytes", (json_int_t)bytes));
    }
    return EBB_OK;
}

static ebb_status_t print_json(const ebb_dataset_t *ds)
{
    const ebb_dataset_info_t *info = ebb_dataset_info(ds);
    json_t *shards;
    EBB_TRY(shard_list(ds, &shards));
    json_t *root = json_pack(
        "{s:s, s:I, s:I, s:I, s:f, s:s, s:s, s:s, s:I, s:o, s:b, s:o, s:I, s:f, s:f, s:I, s:o, s:s}", "name",
        info->name, "rows", (json_int_t)info->rows, "cols", (json_int_t)info->cols, "nnz", (json_int_t)info->nnz,
        "density", ratio_of((double)info->nnz, (double)info->rows * (double)info->cols), "layout",
        info->sparse ? "csr" : "dense", "value_type", ebb_value_type_name(info->value_type), "target",
        target_names[info->target], "target_cols", (json_int_t)info->target_cols, "classes", class_list(info),
        "weighted", (int)info->weighted, "fields", field_list(info), "bytes", (json_int_t)info->bytes, "raw_bytes",
        raw_bytes(info), "ratio", ratio_of(raw_bytes(info), (double)info->bytes), "chunk_elements",
        (json_int_t)info->chunk_elements, "shards", shards, "hash", info->hash);
    char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    if (!text)
        return EBB_FAIL(EBB_EDATA, "%s: a name in it is not valid UTF-8, so it cannot be shown as JSON", info->name);
    puts(text);
    free(text);
    return EBB_OK;
}

/* 1234567 as "1,234,567". */
static const char *grouped(int64_t n, char text[32])
{
    char plain[24];
    int digits = snprintf(plain, sizeof plain, "%lld", (long long)n), at = 0;
    for (int i = 0; i < digits; i++) {
        if (i > 0 && (digits - i) % 3 == 0 && plain[i - 1] != '-')
            text[at++] = ',';
        text[at++] = plain[i];
    }
    text[at] = 0;
    return text;
}

static void print_classes(const ebb_dataset_info_t *info, bool all)
{
    char n[32];
    for (int64_t i = 0; i < info->classes; i++) {
        if (i == LISTED && !all) {
            printf("  %-24s and %lld more (-v lists them)\n", "", (long long)(info->classes - i));
            return;
        }
        printf("  %-24s %15s rows  %6.2f %%\n", info->class_names[i], grouped(info->class_rows[i], n),
               100 * ratio_of((double)info->class_rows[i], (double)info->rows));
    }
}

static void print_fields(const ebb_dataset_info_t *info, bool all)
{
    for (int i = 0; i < info->n_fields; i++) {
        if (i == LISTED && !all) {
            printf("  %-24s and %d more (-v lists them)\n", "", info->n_fields - i);
            return;
        }
        printf("  %-24s columns %d to %d, %s\n", info->fields[i].name, info->fields[i].begin, info->fields[i].end - 1,
               info->fields[i].categorical ? "categorical" : "numeric");
    }
}

static ebb_status_t print_shards(const ebb_dataset_t *ds)
{
    char n[2][32], size[32];
    for (int i = 0; i < ebb_dataset_info(ds)->n_shards; i++) {
        const char *file;
        int64_t row0, rows, bytes;
        EBB_TRY(ebb_dataset_shard(ds, i, &file, &row0, &rows, &bytes));
        printf("  %-24s %15s rows from %s, %s\n", file, grouped(rows, n[0]), grouped(row0, n[1]),
               ebb_format_bytes((double)bytes, size, sizeof size));
    }
    return EBB_OK;
}

static void print_targets(const ebb_dataset_info_t *info, bool all)
{
    if (info->target == EBB_TARGET_NONE)
        printf("targets     none\n");
    else if (info->target == EBB_TARGET_REAL)
        printf("targets     real, %lld column%s\n", (long long)info->target_cols, info->target_cols > 1 ? "s" : "");
    else
        printf("targets     %lld classes\n", (long long)info->classes);
    print_classes(info, all);
    printf("weights     %s\n", info->weighted ? "one per row" : "none");
    if (info->n_fields > 0)
        printf("fields      %d\n", info->n_fields);
    print_fields(info, all);
}

static ebb_status_t print_table(const ebb_dataset_t *ds, bool all)
{
    const ebb_dataset_info_t *info = ebb_dataset_info(ds);
    char n[32], size[32];
    printf("name        %s\n", info->name);
    printf("rows        %s\n", grouped(info->rows, n));
    printf("columns     %s\n", grouped(info->cols, n));
    if (info->sparse)
        printf("non-zeros   %s, %.4g %% of the matrix, %.4g a row\n", grouped(info->nnz, n),
               100 * ratio_of((double)info->nnz, (double)info->rows * (double)info->cols),
               ratio_of((double)info->nnz, (double)info->rows));
    printf("layout      %s, values %s\n", info->sparse ? "sparse rows (CSR)" : "dense",
           ebb_value_type_name(info->value_type));
    print_targets(info, all);
    printf("size        %s, ", ebb_format_bytes((double)info->bytes, size, sizeof size));
    printf("%s uncompressed: %.2f to 1\n", ebb_format_bytes(raw_bytes(info), size, sizeof size),
           ratio_of(raw_bytes(info), (double)info->bytes));
    printf("chunks      %s values each\n", grouped(info->chunk_elements, n));
    printf("shards      %d\n", info->n_shards);
    if (all)
        EBB_TRY(print_shards(ds));
    printf("hash        %s\n", info->hash);
    return EBB_OK;
}

static ebb_status_t run(void *target, int n_operands, char **operands)
{
    const inspect_options_t *o = target;
    ebb_dataset_t *ds;
    EBB_TRY(ebb_dataset_open(operands[0], o->dataset, &ds));
    ebb_status_t status = o->json ? print_json(ds) : print_table(ds, o->verbose);
    ebb_dataset_close(ds);
    return status;
}

static const ebb_example_t examples[] = {
    {"What is in a data set", "ebb inspect data/sections/train"},
    {"Classes of a column of an AnnData file", "ebb inspect cells.h5ad --dataset raw/X:obs/bulk_labels"},
    {0},
};

const ebb_command_t cmd_inspect = {
    .name = "inspect",
    .help = "Show what a data set holds: rows, columns, classes, sizes",
    .operands = "PATH",
    .about = "Shows rows, columns, non-zeros, classes and their shares, fields, bytes and compression of a data set,\n"
             "or of an HDF5 file of others: AnnData, 10x Genomics, any 2-D dataset.\n",
    .min_operands = 1,
    .max_operands = 1,
    .options = options,
    .options_bytes = sizeof(inspect_options_t),
    .examples = examples,
    .run = run,
};
