/* A data set made of formulas in place of the shard reader: any size, failures where the test wants them. Row r has
 * row_nnz(r) entries; entry j is column j * 3 + r % 3 with value (r * 31 + j) % 97 + 1. */
#ifndef EBB_TESTS_FAKE_SHARD_H
#define EBB_TESTS_FAKE_SHARD_H

#include "support.h"
#include "shard/stored.h"
#include <ebb/loader.h>
#include <stdatomic.h>

struct ebb_dataset {
    ebb_dataset_info_t info;
    int skew;                     /* 0: up to 9 entries a row; else rows at the end have this many times more */
    int64_t bad_row;              /* reading it fails; -1: none */
    atomic_llong decoded, hinted; /* rows read; rows asked for ahead */
};

struct ebb_reader {
    ebb_dataset_t *ds;
};

static inline int64_t row_nnz(const ebb_dataset_t *ds, int64_t r)
{
    int64_t n = (r * 7 + r / 5) % 10;
    return ds->skew && r > ds->info.rows * 9 / 10 ? n * ds->skew : n;
}

static inline int32_t row_col(int64_t r, int64_t j)
{
    return (int32_t)(j * 3 + r % 3);
}

static inline float row_val(int64_t r, int64_t j)
{
    return (float)((r * 31 + j) % 97 + 1);
}

static inline ebb_dataset_t fake(int64_t rows, bool sparse)
{
    ebb_dataset_t ds = {.bad_row = -1};
    ds.info = (ebb_dataset_info_t){.name = "fake",
                                   .rows = rows,
                                   .cols = sparse ? 3000 : 11,
                                   .sparse = sparse,
                                   .target = EBB_TARGET_CLASS,
                                   .target_cols = 1,
                                   .classes = 10,
                                   .chunk_elements = 65536,
                                   .n_shards = 1,
                                   .hash = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"};
    for (int64_t r = 0; r < rows; r++)
        ds.info.nnz += sparse ? row_nnz(&ds, r) : ds.info.cols;
    return ds;
}

const ebb_dataset_info_t *ebb_dataset_info(const ebb_dataset_t *ds)
{
    return &ds->info;
}

ebb_status_t ebb_reader_create(const ebb_dataset_t *ds, size_t cache_bytes, ebb_reader_t **reader_p)
{
    *reader_p = calloc(1, sizeof **reader_p);
    (*reader_p)->ds = (ebb_dataset_t *)ds;
    return EBB_OK;
}

void ebb_reader_destroy(ebb_reader_t *reader)
{
    free(reader);
}

bool ebb_reader_waits(const ebb_reader_t *reader)
{
    return true;
}

/* Only rows that there are, and whole blocks, are asked for ahead. */
void ebb_reader_hint(ebb_reader_t *reader, int64_t row0, int64_t n)
{
    assert_true(row0 >= 0 && n > 0 && row0 + n <= reader->ds->info.rows);
    atomic_fetch_add(&reader->ds->hinted, n);
}

static inline ebb_status_t fake_read(ebb_reader_t *reader, int64_t row0, int64_t n)
{
    int64_t bad = reader->ds->bad_row;
    if (row0 < 0 || n < 1 || row0 + n > reader->ds->info.rows)
        return EBB_FAIL(EBB_EBUG, "rows %lld + %lld of %lld", (long long)row0, (long long)n,
                        (long long)reader->ds->info.rows);
    if (bad >= row0 && bad < row0 + n)
        return EBB_FAIL(EBB_ECORRUPT, "shard-00000.h5: X/data: chunk 3: damaged near row %lld", (long long)bad);
    return EBB_OK;
}

ebb_status_t ebb_reader_rowptr(ebb_reader_t *reader, int64_t row0, int64_t n, int64_t base, int64_t *rowptr)
{
    EBB_TRY(fake_read(reader, row0, n));
    rowptr[0] = base;
    for (int64_t i = 0; i < n; i++)
        rowptr[i + 1] = rowptr[i] + row_nnz(reader->ds, row0 + i);
    return EBB_OK;
}

ebb_status_t ebb_reader_csr(ebb_reader_t *reader, int64_t row0, int64_t n, int32_t *col, float *val)
{
    int64_t k = 0;
    EBB_TRY(fake_read(reader, row0, n));
    for (int64_t r = row0; r < row0 + n; r++)
        for (int64_t j = 0; j < row_nnz(reader->ds, r); j++, k++) {
            col[k] = row_col(r, j);
            val[k] = row_val(r, j);
        }
    atomic_fetch_add(&reader->ds->decoded, n);
    return EBB_OK;
}

ebb_status_t ebb_reader_dense(ebb_reader_t *reader, int64_t row0, int64_t n, float *x)
{
    EBB_TRY(fake_read(reader, row0, n));
    for (int64_t r = row0; r < row0 + n; r++)
        for (int64_t j = 0; j < reader->ds->info.cols; j++)
            *x++ = row_val(r, j);
    atomic_fetch_add(&reader->ds->decoded, n);
    return EBB_OK;
}

void ebb_stored_form(const ebb_dataset_t *ds, ebb_stored_t *form)
{
    *form = (ebb_stored_t){0};
}

ebb_status_t ebb_reader_stored(ebb_reader_t *reader, const ebb_stored_t *form, int64_t row0, int64_t n, int64_t *rowptr,
                               const ebb_stored_room_t *room, int *segments_p)
{
    return EBB_FAIL(EBB_EBUG, "rows %lld + %lld are not stored", (long long)row0, (long long)n);
}

ebb_status_t ebb_reader_targets(ebb_reader_t *reader, int64_t row0, int64_t n, int32_t *label, float *y, float *weight)
{
    EBB_TRY(fake_read(reader, row0, n));
    for (int64_t i = 0; i < n; i++) {
        if (label)
            label[i] = (int32_t)((row0 + i) % 10);
        for (int64_t j = 0; y && j < reader->ds->info.target_cols; j++)
            y[i * reader->ds->info.target_cols + j] = (float)(row0 + i) + (float)j / 8;
        if (weight)
            weight[i] = (float)(row0 + i) / 2;
    }
    return EBB_OK;
}

#endif
