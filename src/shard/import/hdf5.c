/* HDF5 files that Ebb can open as they are (.h5ad, 10x, plain 2-D datasets), and its own data sets: rows and targets
 * come through the data set reader, one reader a piece in flight. A matrix stored by columns (csc_matrix) is
 * transposed.
 */
#include "shard/import/import.h"
#include "base/alloc.h"
#include "base/file.h"
#include "shard/import/number.h"
#include "shard/import/transpose.h"
#include "shard/layout.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* "dataset", "dataset:target" and, for the usual matrix of a file, ":target" of ebb_dataset_open from the options. */
static const char *place(const char *path, const ebb_pack_options_t *o, char *text, size_t size)
{
    if (!o->dataset && !o->target)
        return NULL;
    const char *usual = ebb_file_is_dir(path) ? "X" : "";
    snprintf(text, size, "%s%s%s", o->dataset ? o->dataset : usual, o->target ? ":" : "", o->target ? o->target : "");
    return text;
}

typedef struct hdf5_source {
    ebb_dataset_t *ds;
    ebb_transpose_t *transpose; /* of a matrix by columns, else NULL */
    ebb_dataset_info_t info;    /* of the matrix by rows */
} hdf5_source_t;

static ebb_status_t open_data(hdf5_source_t *h, const char *path, const ebb_pack_options_t *o)
{
    char where[1024];
    bool by_columns = false;
    const char *dataset = place(path, o, where, sizeof where);
    EBB_TRY(ebb_file_is_dir(path) ? ebb_dataset_open(path, dataset, &h->ds)
                                  : ebb_foreign_open(path, dataset, &by_columns, &h->ds));
    h->info = *ebb_dataset_info(h->ds);
    if (!by_columns)
        return EBB_OK;
    h->info.rows = ebb_dataset_info(h->ds)->cols;
    h->info.cols = ebb_dataset_info(h->ds)->rows;
    return ebb_transpose_create(h->ds, o->memory_bytes / 4, &h->transpose);
}

static ebb_status_t hdf5_open(ebb_importer_t *importer, ebb_source_t *source)
{
    hdf5_source_t *h;
    if (!ebb_file_exists(source->path))
        return EBB_FAIL(EBB_ENOINPUT, "%s: cannot open: no such file", source->path);
    EBB_TRY(EBB_NEW("HDF5 source", &h));
    source->own = h;
    EBB_TRY(open_data(h, source->path, importer->options));
    const ebb_dataset_info_t *info = &h->info;
    source->rows = info->rows;
    int64_t entries = info->rows > 0 ? info->nnz / info->rows + 1 : 1;
    source->row_cost = 16 + (info->sparse ? 8 * entries : 4 * info->cols);
    return EBB_OK;
}

static void hdf5_close(ebb_importer_t *importer, ebb_source_t *source)
{
    hdf5_source_t *h = source->own;
    if (!h)
        return;
    ebb_transpose_destroy(h->transpose);
    ebb_dataset_close(h->ds);
    ebb_free(h);
}

/* A slot's reader, and of which data set it is. */
typedef struct slot {
    const ebb_dataset_t *ds;
    ebb_reader_t *reader;
    int32_t *label;
    float *y, *weight;
    int64_t label_cap, y_cap, weight_cap;
} slot_t;

static void hdf5_release(ebb_piece_t *piece)
{
    slot_t *s = piece->own;
    ebb_reader_destroy(s->reader);
    ebb_free(s->label);
    ebb_free(s->y);
    ebb_free(s->weight);
    ebb_free(s);
    piece->own = NULL;
}

static ebb_status_t use_slot(ebb_piece_t *piece, const ebb_dataset_t *ds, slot_t **slot_p)
{
    if (!piece->own)
        EBB_TRY(EBB_NEW("reader of a source", (slot_t **)&piece->own));
    slot_t *s = piece->own;
    if (s->ds != ds) {
        ebb_reader_destroy(s->reader);
        s->reader = NULL;
        EBB_TRY(ebb_reader_create(ds, 0, &s->reader));
        s->ds = ds;
    }
    *slot_p = s;
    return EBB_OK;
}

static ebb_status_t bad_row(const ebb_source_t *source, int64_t row, const char *what)
{
    return EBB_FAIL(EBB_EDATA, "%s: row %lld: %s", source->path, (long long)row, what);
}

static ebb_status_t read_entries(slot_t *s, const ebb_piece_t *piece, ebb_block_t *b)
{
    EBB_TRY(ebb_block_reserve(b, piece->rows, 0));
    EBB_TRY(ebb_reader_rowptr(s->reader, piece->row0, piece->rows, 0, b->rowptr));
    EBB_TRY(ebb_block_reserve(b, piece->rows, b->rowptr[piece->rows]));
    return ebb_reader_csr(s->reader, piece->row0, piece->rows, b->col, b->val);
}

static ebb_status_t read_sparse(const ebb_source_t *source, slot_t *s, const ebb_piece_t *piece, ebb_block_t *b)
{
    const hdf5_source_t *h = source->own;
    int64_t cols = h->info.cols;
    EBB_TRY(h->transpose ? ebb_transpose_read(h->transpose, piece->row0, piece->rows, b) : read_entries(s, piece, b));
    int64_t nnz = b->rowptr[piece->rows];
    for (int64_t i = 0; i < nnz; i++)
        if (!isfinite(b->val[i]) || b->col[i] < 0 || b->col[i] >= cols) {
            int64_t row = 0;
            while (b->rowptr[row + 1] <= i)
                row++;
            return bad_row(source, piece->row0 + row,
                           isfinite(b->val[i]) ? "a column out of range" : "a value that is not finite");
        }
    while (b->rows < piece->rows) {
        b->nnz = b->rowptr[b->rows + 1];
        if (ebb_block_end_row(b) != EBB_OK)
            return ebb_error_prefix("%s: row %lld: ", source->path, (long long)piece->row0 + b->rows);
    }
    return EBB_OK;
}

static ebb_status_t read_dense(const ebb_source_t *source, slot_t *s, const ebb_piece_t *piece, ebb_block_t *b)
{
    EBB_TRY(ebb_block_reserve_dense(b, piece->rows));
    EBB_TRY(ebb_reader_dense(s->reader, piece->row0, piece->rows, b->x));
    for (int64_t i = 0; i < piece->rows * b->cols; i++)
        if (!isfinite(b->x[i]))
            return bad_row(source, piece->row0 + i / b->cols, "a value that is not finite");
    b->rows = piece->rows;
    return EBB_OK;
}

static ebb_status_t put_class(ebb_block_t *b, const char *name)
{
    double v;
    int64_t n = (int64_t)strlen(name);
    return ebb_number_whole(name, n, &v) ? ebb_block_target_number(b, v) : ebb_block_target_text(b, name, n);
}

/* Of a matrix by columns the reader knows no rows, but targets of foreign files lie in memory. */
static ebb_status_t take_targets(const hdf5_source_t *h, slot_t *s, int64_t row0, int64_t n)
{
    bool classes = h->info.target == EBB_TARGET_CLASS, reals = h->info.target == EBB_TARGET_REAL;
    if (!h->transpose)
        return ebb_reader_targets(s->reader, row0, n, classes ? s->label : NULL, reals ? s->y : NULL,
                                  h->info.weighted ? s->weight : NULL);
    int64_t cols = h->info.target_cols;
    if (classes)
        memcpy(s->label, h->ds->labels + row0, (size_t)n * sizeof *s->label);
    if (reals)
        memcpy(s->y, h->ds->reals + row0 * cols, (size_t)(n * cols) * sizeof *s->y);
    return EBB_OK;
}

static ebb_status_t read_targets(const ebb_source_t *source, slot_t *s, const ebb_piece_t *piece, ebb_block_t *b)
{
    const hdf5_source_t *h = source->own;
    const ebb_dataset_info_t *info = &h->info;
    bool classes = info->target == EBB_TARGET_CLASS;
    if (classes)
        EBB_TRY(ebb_grow("labels", (void **)&s->label, &s->label_cap, piece->rows, sizeof *s->label));
    if (info->target == EBB_TARGET_REAL)
        EBB_TRY(ebb_grow("targets", (void **)&s->y, &s->y_cap, piece->rows * info->target_cols, sizeof *s->y));
    if (info->weighted)
        EBB_TRY(ebb_grow("weights", (void **)&s->weight, &s->weight_cap, piece->rows, sizeof *s->weight));
    EBB_TRY(take_targets(h, s, piece->row0, piece->rows));
    for (int64_t r = 0; r < piece->rows; r++) {
        if (classes && (s->label[r] < 0 || s->label[r] >= info->classes))
            return bad_row(source, piece->row0 + r, "a label that is no class");
        if (classes)
            EBB_TRY(put_class(b, info->class_names[s->label[r]]));
        if (info->target == EBB_TARGET_REAL && info->target_cols == 1)
            EBB_TRY(ebb_block_target_number(b, s->y[r]));
        if (info->target == EBB_TARGET_REAL && info->target_cols > 1)
            EBB_TRY(ebb_block_target_reals(b, s->y + r * info->target_cols, info->target_cols));
        if (info->weighted)
            EBB_TRY(ebb_block_weight(b, s->weight[r]));
    }
    b->target_cols = info->target == EBB_TARGET_REAL && info->target_cols > 1 ? info->target_cols : 0;
    return EBB_OK;
}

static ebb_status_t hdf5_parse(const ebb_importer_t *importer, const ebb_source_t *source, ebb_piece_t *piece,
                               ebb_block_t *b)
{
    const hdf5_source_t *h = source->own;
    const ebb_dataset_info_t *info = &h->info;
    slot_t *s;
    EBB_TRY(use_slot(piece, h->ds, &s));
    if (b->pass == EBB_PASS_WRITE && b->cols != info->cols && (!info->sparse || info->cols > b->cols))
        return EBB_FAIL(EBB_EDATA, "%s: has %lld columns, but %lld are expected", source->path, (long long)info->cols,
                        (long long)b->cols);
    b->sparse = info->sparse;
    b->cols = info->cols;
    EBB_TRY(info->sparse ? read_sparse(source, s, piece, b) : read_dense(source, s, piece, b));
    return read_targets(source, s, piece, b);
}

static const ebb_dataset_info_t *info_of(const ebb_source_t *source)
{
    return &((const hdf5_source_t *)source->own)->info;
}

/* Columns and layout as the first source has them; an empty last column is a column too. */
static ebb_status_t hdf5_settle(ebb_importer_t *importer, ebb_scan_t *scan)
{
    const ebb_dataset_info_t *info = info_of(&importer->source[0]);
    scan->sparse = info->sparse;
    for (int i = 0; i < importer->n_sources; i++) {
        const ebb_dataset_info_t *other = info_of(&importer->source[i]);
        if (other->cols != info->cols)
            return EBB_FAIL(EBB_EDATA, "%s has %lld columns, but %s has %lld", importer->source[0].path,
                            (long long)info->cols, importer->source[i].path, (long long)other->cols);
    }
    scan->cols = info->cols;
    scan->fields = (ebb_field_t *)info->fields;
    scan->n_fields = info->n_fields;
    return EBB_OK;
}

static int hdf5_probe(const char *head, int64_t n, const char *path)
{
    return n >= 8 && memcmp(head, "\x89HDF\r\n\x1a\n", 8) == 0 ? 100 : 0;
}

static int never(const char *head, int64_t n, const char *path)
{
    return 0;
}

#define HDF5_OPERATIONS                                                                                                \
    .own_files = true, .open = hdf5_open, .close = hdf5_close, .parse = hdf5_parse, .release = hdf5_release,           \
    .settle = hdf5_settle, .targets = "their path inside the file"

const ebb_format_t ebb_format_hdf5 = {.name = "hdf5", .what = "HDF5", .probe = hdf5_probe, HDF5_OPERATIONS};
const ebb_format_t ebb_format_h5ad = {.name = "h5ad", .what = "AnnData", .probe = never, HDF5_OPERATIONS};
const ebb_format_t ebb_format_10x = {.name = "10x", .what = "10x Genomics HDF5", .probe = never, HDF5_OPERATIONS};
