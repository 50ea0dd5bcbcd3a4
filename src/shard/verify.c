/* Checks a data set in every way it can be wrong, and goes on after a fault. Shards are checked by different threads;
 * each first as a file (size, SHA-256, chunk table against libhdf5's own index), then chunk by chunk, then row by row.
 * What a broken chunk hides is passed over: it has been reported once. */
#include "shard/layout.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/threads.h"
#include "shard/bands.h"
#include "shard/h5.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { BLOCK_ROWS = 4096, MOST_CHUNKS_ASKED = 20000 };

typedef struct verifier {
    ebb_dataset_t *ds;
    bool foreign;
    bool *index_good; /* of each shard */
    void (*report)(void *user, const ebb_fault_t *fault);
    void *user;
    pthread_mutex_t lock; /* guards the rest, and calls of report */
    int64_t faults;
    int64_t *class_rows;
} verifier_t;

/* What one thread has at hand for one shard. */
typedef struct check {
    verifier_t *v;
    int shard;
    const ebb_shard_t *s;
    ebb_reader_t *reader;
    int64_t *ptr, ptr_room;
    int32_t *col;
    float *val;
    int64_t col_room, val_room;
    int64_t *band_ptr, band_ptr_room; /* the same rows, read through their band */
    int32_t *band_col;
    float *band_val;
    int64_t band_col_room, band_val_room;
    int64_t *class_rows; /* of this shard */
} check_t;

static void fault(verifier_t *v, int shard, const char *dataset, int64_t chunk, int64_t row, const char *fmt, ...)
    EBB_PRINTF(6, 7);

static void fault(verifier_t *v, int shard, const char *dataset, int64_t chunk, int64_t row, const char *fmt, ...)
{
    ebb_fault_t f = {.shard = shard, .dataset = dataset, .chunk = chunk, .row = row};
    va_list args;
    va_start(args, fmt);
    vsnprintf(f.message, sizeof f.message, fmt, args);
    va_end(args);
    pthread_mutex_lock(&v->lock);
    v->faults++;
    if (v->report)
        v->report(v->user, &f);
    pthread_mutex_unlock(&v->lock);
}

/* A failed call becomes a fault, unless it is this machine that failed. */
static ebb_status_t fault_of_error(verifier_t *v, int shard, const char *dataset, int64_t chunk, int64_t row,
                                   ebb_status_t status)
{
    if (status == EBB_ENOMEM || status == EBB_EIO || status == EBB_EBUG)
        return status;
    const char *text = ebb_error()->message, *place = strstr(text, "): ");
    fault(v, shard, dataset, chunk, row, "%s", chunk >= 0 && place ? place + 3 : text);
    ebb_error_clear();
    return EBB_OK;
}

/* ---- the file ---- */

static void compare_index(const check_t *c, const ebb_array_t *a, hid_t h5)
{
    hid_t space = H5Dget_space(h5);
    hsize_t n = 0, at[2] = {0, 0}, bytes;
    haddr_t offset;
    unsigned mask;
    int64_t chunks = a->grid_rows * a->grid_cols;
    if (H5Dget_num_chunks(h5, space, &n) < 0 || (int64_t)n != chunks)
        fault(c->v, c->shard, a->name, -1, -1, "HDF5 knows %lld chunks, the chunk table %lld", (long long)n,
              (long long)chunks);
    for (hsize_t i = 0; (int64_t)n == chunks && i < n && n <= MOST_CHUNKS_ASKED; i++) {
        bool good = H5Dget_chunk_info(h5, space, i, at, &mask, &offset, &bytes) >= 0;
        int64_t k = (int64_t)at[0] / a->chunk_rows * a->grid_cols + (int64_t)at[1] / a->chunk_cols;
        if (!good || k >= chunks || (int64_t)offset != a->chunk[k].offset || bytes != a->chunk[k].bytes ||
            mask != a->chunk[k].mask)
            fault(c->v, c->shard, a->name, (int64_t)i, -1, "lies elsewhere for HDF5 than the chunk table says");
    }
    H5Sclose(space);
}

static void check_hdf5(const check_t *c)
{
    ebb_h5_lock();
    hid_t file = H5Fopen(c->s->path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (file < 0)
        fault(c->v, c->shard, NULL, -1, -1, "libhdf5 cannot open the file");
    for (int role = 0; file >= 0 && role < EBB_ROLES; role++) {
        const ebb_array_t *a = &c->s->array[role];
        if (!a->present)
            continue;
        hid_t h5 = H5Dopen2(file, a->name, H5P_DEFAULT);
        if (h5 < 0) {
            fault(c->v, c->shard, a->name, -1, -1, "libhdf5 does not find this dataset");
            continue;
        }
        compare_index(c, a, h5);
        H5Dclose(h5);
    }
    if (file >= 0)
        H5Fclose(file);
    H5Eclear2(H5E_DEFAULT);
    ebb_h5_unlock();
}

static ebb_status_t check_file(const check_t *c, bool *index_good_p)
{
    verifier_t *v = c->v;
    char sha256[65];
    ebb_status_t status = ebb_shard_read_index(&v->ds->shard[c->shard], c->shard, &v->ds->info);
    *index_good_p = status == EBB_OK;
    if (status != EBB_OK)
        EBB_TRY(fault_of_error(v, c->shard, "uns/ebb/index", -1, -1, status));
    if (!ebb_file_exists(c->s->path))
        return EBB_OK;
    EBB_TRY(ebb_sha256_file(c->s->path, sha256));
    if (strcmp(sha256, c->s->sha256) != 0)
        fault(v, c->shard, NULL, -1, -1, "SHA-256 of the file is %.16s..., the manifest says %.16s...", sha256,
              c->s->sha256);
    else if (*index_good_p)
        check_hdf5(c);
    return EBB_OK;
}

/* ---- chunks ---- */

/* First global row that needs entry `at` of data and indices, or -1. */
static int64_t row_of_entry(const check_t *c, int64_t at)
{
    int64_t low = 0, high = c->s->rows;
    while (low + 1 < high) {
        int64_t middle = low + (high - low) / 2, begin;
        if (ebb_reader_take(c->reader, c->shard, EBB_ROLE_INDPTR, middle, 1, EBB_ELEM_I64, &begin) != EBB_OK) {
            ebb_error_clear();
            return -1;
        }
        if (begin <= at)
            low = middle;
        else
            high = middle;
    }
    return c->s->row0 + low;
}

static ebb_status_t check_chunks(const check_t *c, ebb_role_t role)
{
    const ebb_array_t *a = &c->s->array[role];
    const void *raw;
    for (int64_t k = 0; a->present && k < a->grid_rows * a->grid_cols; k++) {
        ebb_status_t status = ebb_reader_chunk(c->reader, c->shard, role, k, true, &raw);
        if (status == EBB_OK)
            continue;
        ebb_error_t error = *ebb_error();
        ebb_error_clear();
        int64_t at = k / a->grid_cols * a->chunk_rows;
        int64_t row = role == EBB_ROLE_DATA || role == EBB_ROLE_INDICES ? row_of_entry(c, at) : c->s->row0 + at;
        ebb_error_set(&error);
        EBB_TRY(fault_of_error(c->v, c->shard, a->name, k, row, status));
    }
    return EBB_OK;
}

/* ---- rows ---- */

static void check_columns(const check_t *c, int64_t row, const int32_t *col, int64_t n)
{
    const char *name = c->s->array[EBB_ROLE_INDICES].name;
    for (int64_t i = 0; i < n; i++) {
        if (col[i] < 0 || col[i] >= c->v->ds->info.cols) {
            fault(c->v, c->shard, name, -1, row, "column %d is not in 0 .. %lld", col[i],
                  (long long)c->v->ds->info.cols - 1);
            return;
        }
        if (i > 0 && col[i] <= col[i - 1] && !c->v->foreign) {
            fault(c->v, c->shard, name, -1, row, "column %d after %d: not ascending and unique", col[i], col[i - 1]);
            return;
        }
    }
}

static void check_finite(const check_t *c, ebb_role_t role, int64_t row, const float *val, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(val[i])) {
            fault(c->v, c->shard, c->s->array[role].name, -1, row, "value %g is not finite", (double)val[i]);
            return;
        }
}

/* Take a piece of an array; what cannot be decoded was reported before, what cannot be converted is reported here. */
static ebb_status_t take(check_t *c, ebb_role_t role, int64_t first, int64_t n, ebb_elem_t as, void *out, bool *good_p)
{
    ebb_status_t status = ebb_reader_take(c->reader, c->shard, role, first, n, as, out);
    *good_p = status == EBB_OK;
    if (status == EBB_OK)
        return EBB_OK;
    if (status == EBB_EDATA)
        return fault_of_error(c->v, c->shard, c->s->array[role].name, -1, -1, status);
    if (status == EBB_ENOMEM || status == EBB_EIO)
        return status;
    ebb_error_clear();
    return EBB_OK;
}

static ebb_status_t check_entries(check_t *c, int64_t first, int64_t n)
{
    int64_t begin = c->ptr[0], m = c->ptr[n] - begin;
    bool good;
    EBB_TRY(ebb_grow("columns", (void **)&c->col, &c->col_room, m + 1, sizeof *c->col));
    EBB_TRY(ebb_grow("values", (void **)&c->val, &c->val_room, m + 1, sizeof *c->val));
    EBB_TRY(take(c, EBB_ROLE_INDICES, begin, m, EBB_ELEM_I32, c->col, &good));
    for (int64_t i = 0; good && i < n; i++)
        check_columns(c, c->s->row0 + first + i, c->col + c->ptr[i] - begin, c->ptr[i + 1] - c->ptr[i]);
    EBB_TRY(take(c, EBB_ROLE_DATA, begin, m, EBB_ELEM_F32, c->val, &good));
    for (int64_t i = 0; good && i < n; i++)
        check_finite(c, EBB_ROLE_DATA, c->s->row0 + first + i, c->val + c->ptr[i] - begin, c->ptr[i + 1] - c->ptr[i]);
    return EBB_OK;
}

static ebb_status_t check_sparse(check_t *c, int64_t first, int64_t n)
{
    bool good;
    EBB_TRY(ebb_grow("row pointers", (void **)&c->ptr, &c->ptr_room, n + 1, sizeof *c->ptr));
    EBB_TRY(take(c, EBB_ROLE_INDPTR, first, n + 1, EBB_ELEM_I64, c->ptr, &good));
    if (!good)
        return EBB_OK;
    for (int64_t i = 0; i <= n; i++) {
        bool end = (first + i == 0 && c->ptr[i] != 0) || (first + i == c->s->rows && c->ptr[i] != c->s->nnz);
        if (c->ptr[i] < (i > 0 ? c->ptr[i - 1] : 0) || c->ptr[i] > c->s->nnz || end) {
            fault(c->v, c->shard, c->s->array[EBB_ROLE_INDPTR].name, -1, c->s->row0 + first + (i > 0 ? i - 1 : 0),
                  "row pointer %lld does not ascend from 0 to %lld", (long long)c->ptr[i], (long long)c->s->nnz);
            return EBB_OK;
        }
    }
    return check_entries(c, first, n);
}

static ebb_status_t check_reals(check_t *c, ebb_role_t role, int64_t first, int64_t n)
{
    const ebb_array_t *a = &c->s->array[role];
    bool good;
    if (!a->present)
        return EBB_OK;
    EBB_TRY(ebb_grow("values", (void **)&c->val, &c->val_room, n * a->cols + 1, sizeof *c->val));
    EBB_TRY(take(c, role, first, n, EBB_ELEM_F32, c->val, &good));
    for (int64_t i = 0; good && i < n; i++) {
        check_finite(c, role, c->s->row0 + first + i, c->val + i * a->cols, a->cols);
        if (role == EBB_ROLE_WEIGHT && c->val[i] < 0)
            fault(c->v, c->shard, a->name, -1, c->s->row0 + first + i, "weight %g is negative", (double)c->val[i]);
    }
    return EBB_OK;
}

static ebb_status_t check_labels(check_t *c, int64_t first, int64_t n)
{
    const ebb_array_t *a = &c->s->array[EBB_ROLE_Y];
    bool good;
    EBB_TRY(ebb_grow("columns", (void **)&c->col, &c->col_room, n + 1, sizeof *c->col));
    EBB_TRY(take(c, EBB_ROLE_Y, first, n, EBB_ELEM_I32, c->col, &good));
    for (int64_t i = 0; good && i < n; i++) {
        if (c->col[i] >= 0 && c->col[i] < c->v->ds->info.classes)
            c->class_rows[c->col[i]]++;
        else
            fault(c->v, c->shard, a->name, -1, c->s->row0 + first + i, "class %d is not in 0 .. %lld", c->col[i],
                  (long long)c->v->ds->info.classes - 1);
    }
    return EBB_OK;
}

static ebb_status_t check_block(check_t *c, int64_t first, int64_t n)
{
    const ebb_dataset_info_t *info = &c->v->ds->info;
    EBB_TRY(info->sparse ? check_sparse(c, first, n) : check_reals(c, EBB_ROLE_X, first, n));
    EBB_TRY(check_reals(c, EBB_ROLE_WEIGHT, first, n));
    if (info->target == EBB_TARGET_REAL)
        return check_reals(c, EBB_ROLE_Y, first, n);
    /* A foreign file's classes were all read, and checked, when it was opened. */
    return info->target == EBB_TARGET_CLASS && !c->v->foreign ? check_labels(c, first, n) : EBB_OK;
}

/* ---- bands: what shuffled reading gives must be what the arrays hold ---- */

static ebb_status_t band_room(check_t *c, int64_t rows, int64_t n)
{
    EBB_TRY(ebb_grow("row pointers", (void **)&c->ptr, &c->ptr_room, rows + 1, sizeof *c->ptr));
    EBB_TRY(ebb_grow("row pointers", (void **)&c->band_ptr, &c->band_ptr_room, rows + 1, sizeof *c->band_ptr));
    EBB_TRY(ebb_grow("columns", (void **)&c->col, &c->col_room, n + 1, sizeof *c->col));
    EBB_TRY(ebb_grow("columns", (void **)&c->band_col, &c->band_col_room, n + 1, sizeof *c->band_col));
    EBB_TRY(ebb_grow("values", (void **)&c->val, &c->val_room, n + 1, sizeof *c->val));
    return ebb_grow("values", (void **)&c->band_val, &c->band_val_room, n + 1, sizeof *c->band_val);
}

static ebb_status_t compare_sparse(check_t *c, int64_t first, int64_t rows, bool *same_p)
{
    bool good;
    EBB_TRY(band_room(c, rows, 0));
    EBB_TRY(take(c, EBB_ROLE_INDPTR, first, rows + 1, EBB_ELEM_I64, c->ptr, &good));
    if (!good)
        return EBB_OK; /* reported before */
    int64_t begin = c->ptr[0], n = c->ptr[rows] - begin;
    EBB_TRY(ebb_reader_rowptr(c->reader, c->s->row0 + first, rows, begin, c->band_ptr));
    *same_p = memcmp(c->ptr, c->band_ptr, (size_t)(rows + 1) * 8) == 0;
    if (!*same_p)
        return EBB_OK;
    EBB_TRY(band_room(c, rows, n));
    EBB_TRY(ebb_reader_csr(c->reader, c->s->row0 + first, rows, c->band_col, c->band_val));
    EBB_TRY(take(c, EBB_ROLE_INDICES, begin, n, EBB_ELEM_I32, c->col, &good));
    *same_p = !good || memcmp(c->col, c->band_col, (size_t)n * 4) == 0;
    EBB_TRY(take(c, EBB_ROLE_DATA, begin, n, EBB_ELEM_F32, c->val, &good));
    *same_p &= !good || memcmp(c->val, c->band_val, (size_t)n * 4) == 0;
    return EBB_OK;
}

static ebb_status_t compare_targets(check_t *c, int64_t first, int64_t rows, bool *same_p)
{
    const ebb_dataset_info_t *info = &c->v->ds->info;
    bool good, classes = info->target == EBB_TARGET_CLASS, reals = info->target == EBB_TARGET_REAL;
    int64_t row = c->s->row0 + first, n = rows * (reals ? info->target_cols : 1);
    EBB_TRY(band_room(c, rows, n));
    if (classes || reals) {
        EBB_TRY(
            ebb_reader_targets(c->reader, row, rows, classes ? c->band_col : NULL, reals ? c->band_val : NULL, NULL));
        EBB_TRY(take(c, EBB_ROLE_Y, first, rows, classes ? EBB_ELEM_I32 : EBB_ELEM_F32,
                     classes ? (void *)c->col : (void *)c->val, &good));
        *same_p &= !good || memcmp(classes ? (void *)c->col : (void *)c->val,
                                   classes ? (void *)c->band_col : (void *)c->band_val, (size_t)n * 4) == 0;
    }
    if (info->weighted) {
        EBB_TRY(ebb_reader_targets(c->reader, row, rows, NULL, NULL, c->band_val));
        EBB_TRY(take(c, EBB_ROLE_WEIGHT, first, rows, EBB_ELEM_F32, c->val, &good));
        *same_p &= !good || memcmp(c->val, c->band_val, (size_t)rows * 4) == 0;
    }
    return EBB_OK;
}

static ebb_status_t check_bands(check_t *c)
{
    for (int64_t b = 0; b < c->s->bands; b++) {
        int64_t first = c->s->band[b].row, rows = ebb_band_end(c->s, b) - first;
        bool same = true;
        ebb_status_t status = EBB_OK;
        if (rows == 0)
            continue;
        if (c->v->ds->info.sparse)
            status = compare_sparse(c, first, rows, &same);
        if (status == EBB_OK)
            status = compare_targets(c, first, rows, &same);
        if (status != EBB_OK && !strstr(ebb_error()->message, "uns/ebb/bands")) {
            if (status == EBB_ENOMEM || status == EBB_EIO || status == EBB_EBUG)
                return status;
            ebb_error_clear(); /* a chunk that was reported before */
            continue;
        }
        if (status != EBB_OK)
            EBB_TRY(fault_of_error(c->v, c->shard, "uns/ebb/bands", b, c->s->row0 + first, status));
        else if (!same)
            fault(c->v, c->shard, "uns/ebb/bands", b, c->s->row0 + first, "rows are not those of the arrays");
    }
    return EBB_OK;
}

/* ---- a shard, all shards ---- */

static ebb_status_t check_rows(check_t *c)
{
    int64_t step = BLOCK_ROWS;
    if (!c->v->ds->info.sparse && c->v->ds->info.cols > 1024)
        step = (int64_t)BLOCK_ROWS * 1024 / c->v->ds->info.cols + 1;
    for (int64_t first = 0; first < c->s->rows; first += step)
        EBB_TRY(check_block(c, first, c->s->rows - first < step ? c->s->rows - first : step));
    verifier_t *v = c->v;
    pthread_mutex_lock(&v->lock);
    for (int64_t i = 0; i < v->ds->info.classes; i++)
        v->class_rows[i] += c->class_rows[i];
    pthread_mutex_unlock(&v->lock);
    return EBB_OK;
}

static ebb_status_t check_contents(check_t *c)
{
    EBB_TRY(EBB_NEW_ARRAY("class rows", c->v->ds->info.classes, &c->class_rows));
    EBB_TRY(ebb_reader_create(c->v->ds, 0, &c->reader));
    for (int role = 0; role < EBB_ROLES; role++)
        EBB_TRY(check_chunks(c, (ebb_role_t)role));
    EBB_TRY(check_rows(c));
    return check_bands(c);
}

/* First pass. A shard whose index cannot be trusted takes no part in the second. */
static ebb_status_t check_file_task(void *user, int thread, int64_t index)
{
    verifier_t *v = user;
    const check_t c = {.v = v, .shard = (int)index, .s = &v->ds->shard[index]};
    EBB_TRY(check_file(&c, &v->index_good[index]));
    for (int role = 0; !v->index_good[index] && role < EBB_ROLES; role++) {
        ebb_array_t *a = &v->ds->shard[index].array[role];
        ebb_free(a->chunk);
        *a = (ebb_array_t){0};
    }
    if (!v->index_good[index])
        v->ds->shard[index].bands = 0;
    return EBB_OK;
}

/* Second pass. */
static ebb_status_t check_contents_task(void *user, int thread, int64_t index)
{
    verifier_t *v = user;
    check_t c = {.v = v, .shard = (int)index, .s = &v->ds->shard[index]};
    ebb_status_t status = v->foreign || v->index_good[index] ? check_contents(&c) : EBB_OK;
    ebb_reader_destroy(c.reader);
    ebb_free(c.ptr);
    ebb_free(c.col);
    ebb_free(c.val);
    ebb_free(c.band_ptr);
    ebb_free(c.band_col);
    ebb_free(c.band_val);
    ebb_free(c.class_rows);
    return status;
}

static ebb_status_t check_all(verifier_t *v, int threads)
{
    ebb_pool_t *pool;
    const ebb_dataset_info_t *info = &v->ds->info;
    EBB_TRY(EBB_NEW_ARRAY("class rows", info->classes, &v->class_rows));
    EBB_TRY(ebb_pool_create(threads, &pool));
    ebb_status_t status = EBB_NEW_ARRAY("shards", info->n_shards, &v->index_good);
    if (status == EBB_OK && !v->foreign)
        status = ebb_pool_run(pool, info->n_shards, check_file_task, v);
    if (status == EBB_OK)
        status = ebb_pool_run(pool, info->n_shards, check_contents_task, v);
    ebb_pool_destroy(pool);
    for (int64_t i = 0; v->faults == 0 && !v->foreign && status == EBB_OK && i < info->classes; i++)
        if (v->class_rows[i] != v->ds->class_rows[i])
            fault(v, -1, NULL, -1, -1, "class \"%s\" has %lld rows, the manifest says %lld", v->ds->class_names[i],
                  (long long)v->class_rows[i], (long long)v->ds->class_rows[i]);
    ebb_free(v->class_rows);
    ebb_free(v->index_good);
    return status;
}

/* Open without the shards' indexes, so that one bad shard does not hide the others. */
static ebb_status_t open_any(verifier_t *v, const char *path)
{
    char manifest[4096];
    v->foreign = !ebb_file_is_dir(path);
    snprintf(manifest, sizeof manifest, "%s/manifest.json", path);
    if (v->foreign || !ebb_file_exists(manifest))
        return ebb_dataset_open(path, NULL, &v->ds); /* says what is missing */
    EBB_TRY(EBB_NEW("data set", &v->ds));
    ebb_status_t status = ebb_manifest_read(path, v->ds);
    if (status == EBB_OK)
        return EBB_OK;
    ebb_dataset_close(v->ds);
    v->ds = NULL;
    return status == EBB_ECORRUPT || status == EBB_EDATA ? fault_of_error(v, -1, NULL, -1, -1, status) : status;
}

ebb_status_t ebb_dataset_verify(const char *path, int threads, void (*report)(void *user, const ebb_fault_t *fault),
                                void *user)
{
    verifier_t v = {.report = report, .user = user, .lock = PTHREAD_MUTEX_INITIALIZER};
    EBB_TRY(open_any(&v, path));
    ebb_status_t status = v.ds ? check_all(&v, threads > 0 ? threads : 1) : EBB_OK;
    ebb_dataset_close(v.ds);
    pthread_mutex_destroy(&v.lock);
    EBB_TRY(status);
    return v.faults > 0 ? EBB_FAIL(EBB_ECORRUPT, "%s: %lld fault%s: restore the files or pack again", path,
                                   (long long)v.faults, v.faults == 1 ? "" : "s")
                        : EBB_OK;
}
