/* Rows from chunks, widened into the caller's memory: through bands where rows consist of whole ones, else through
 * parts of arrays; and their targets. */
#include "shard/reader.h"
#include "base/hash.h"

#include <string.h>

enum { TARGET_BLOCK = 512 };

/* ---- bands ---- */

bool ebb_reader_whole_bands(const ebb_reader_t *r, int shard, int64_t first, int64_t n, int64_t *band_p)
{
    const ebb_shard_t *s = &r->ds->shard[shard];
    if (!r->hot.buf || n == 0)
        return false;
    *band_p = ebb_band_at(s, first);
    return *band_p >= 0 && (first + n == s->rows || ebb_band_at(s, first + n) > *band_p);
}

static ebb_status_t name_band(const ebb_reader_t *r, int shard, int64_t b)
{
    return ebb_error_prefix("%s: uns/ebb/bands: band %lld (read for rows %lld to %lld): ", r->ds->shard[shard].file,
                            (long long)b, (long long)r->row0, (long long)r->row1 - 1);
}

ebb_status_t ebb_reader_record(ebb_reader_t *r, int shard, int64_t b, ebb_band_parts_t *parts)
{
    const ebb_shard_t *s = &r->ds->shard[shard];
    const ebb_band_t *band = &s->band[b];
    if (!ebb_band_parts(s, &r->ds->info, b, parts))
        return EBB_FAIL(EBB_EBUG, "band %lld of %s was not checked", (long long)b, s->file);
    if ((r->record_band == b && r->record_shard == shard) || band->bytes == 0)
        return EBB_OK;
    r->record_band = -1;
    ebb_status_t status = ebb_reader_file(r, shard, r->record, band->bytes, band->offset);
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    if (status == EBB_OK && ebb_xxh3(r->record, band->bytes) != band->xxh3)
        status = EBB_FAIL(EBB_ECORRUPT,
                          "stored bytes do not match their checksum: the file is damaged; restore it or pack again");
#endif
    if (status != EBB_OK)
        return name_band(r, shard, b);
    r->record_band = b;
    r->record_shard = shard;
    return EBB_OK;
}

static ebb_status_t load_hot(ebb_reader_t *r, int shard, ebb_role_t role, int64_t c)
{
    const ebb_array_t *a = &r->ds->shard[shard].array[role];
    return ebb_reader_decode(r, shard, a, c, &r->hot) == EBB_OK ? EBB_OK : ebb_reader_name_chunk(r, shard, a, c);
}

ebb_status_t ebb_reader_band_rowptr(ebb_reader_t *r, int shard, int64_t b, const ebb_band_parts_t *p, int64_t *out)
{
    const uint8_t *length = r->record + p->length;
    int64_t at = out[0];
    for (int64_t i = 0; i < p->rows; i++) {
        at += p->wide ? ((const uint32_t *)(const void *)length)[i] : ((const uint16_t *)(const void *)length)[i];
        out[i + 1] = at;
    }
    if (at - out[0] == p->end - p->begin)
        return EBB_OK;
    EBB_FAIL(EBB_ECORRUPT, "rows of %lld entries where there are %lld", (long long)(at - out[0]),
             (long long)(p->end - p->begin));
    return name_band(r, shard, b);
}

/* One array's entries of the band's rows. A long row's end is in the chunks that follow. */
static ebb_status_t band_entries(ebb_reader_t *r, int shard, ebb_role_t role, int64_t b, const ebb_band_parts_t *p,
                                 ebb_elem_t as, void *out)
{
    const ebb_array_t *a = &r->ds->shard[shard].array[role];
    int64_t n = p->end - p->begin, elements = a->chunk_rows;
    if (p->here + p->tail != n)
        return ebb_reader_take(r, shard, role, p->begin, n, as, out);
    bool good = true;
    if (p->here > 0) {
        EBB_TRY(load_hot(r, shard, role, b));
        good = ebb_reader_widen(a, &r->hot, elements, p->begin - b * elements, p->here, as, out, 0);
    }
    const ebb_slot_t tail = {.buf = r->record + (role == EBB_ROLE_DATA ? p->val : p->col)};
    if (p->tail > 0)
        good &= ebb_reader_widen(a, &tail, p->tail, 0, p->tail, as, out, p->here);
    if (good)
        return EBB_OK;
    EBB_FAIL(EBB_EDATA, "values of type %s beyond what %s can hold", ebb_elem_name(a->elem), ebb_elem_name(as));
    return ebb_reader_name_chunk(r, shard, a, b);
}

/* ---- rows ---- */

ebb_status_t ebb_reader_begin(ebb_reader_t *r, int64_t row0, int64_t n)
{
    int64_t rows = r->ds->info.rows;
    if (row0 < 0 || n < 0 || row0 > rows - n)
        return EBB_FAIL(EBB_EINVAL, "%s: rows %lld to %lld were asked for, there are %lld", r->ds->info.name,
                        (long long)row0, (long long)(row0 + n) - 1, (long long)rows);
    r->row0 = row0;
    r->row1 = row0 + n;
    r->checksum = false;
    return EBB_OK;
}

int64_t ebb_reader_piece(ebb_reader_t *r, int64_t row, int64_t end, int *shard_p, int64_t *first_p)
{
    const ebb_shard_t *shard = r->ds->shard;
    int low = 0, high = r->ds->info.n_shards - 1, at = r->last_shard;
    if (row < shard[at].row0 || row >= shard[at].row0 + shard[at].rows) {
        while (low < high) {
            at = low + (high - low) / 2;
            if (row >= shard[at].row0 + shard[at].rows)
                low = at + 1;
            else
                high = at;
        }
        at = low;
        r->last_shard = at;
    }
    *shard_p = at;
    *first_p = row - shard[at].row0;
    int64_t left = shard[at].rows - *first_p;
    return end - row < left ? end - row : left;
}

/* Row pointers of the bands from b up to local row `end`. */
static ebb_status_t bands_rowptr(ebb_reader_t *r, int shard, int64_t b, int64_t end, int64_t *rowptr)
{
    ebb_band_parts_t p;
    for (; b < r->ds->shard[shard].bands && r->ds->shard[shard].band[b].row < end; b++, rowptr += p.rows) {
        EBB_TRY(ebb_reader_record(r, shard, b, &p));
        if (p.rows > 0)
            EBB_TRY(ebb_reader_band_rowptr(r, shard, b, &p, rowptr));
    }
    return EBB_OK;
}

ebb_status_t ebb_reader_rowptr(ebb_reader_t *r, int64_t row0, int64_t n, int64_t base, int64_t *rowptr)
{
    if (!r->ds->info.sparse)
        return EBB_FAIL(EBB_EINVAL, "%s: is dense: it has no row pointers", r->ds->info.name);
    EBB_TRY(ebb_reader_begin(r, row0, n));
    rowptr[0] = base;
    for (int64_t done = 0, m; done < n; done += m) {
        int shard;
        int64_t first, band, start = rowptr[done];
        m = ebb_reader_piece(r, row0 + done, row0 + n, &shard, &first);
        if (ebb_reader_whole_bands(r, shard, first, m, &band)) {
            EBB_TRY(bands_rowptr(r, shard, band, first + m, rowptr + done));
            continue;
        }
        EBB_TRY(ebb_reader_take(r, shard, EBB_ROLE_INDPTR, first, m + 1, EBB_ELEM_I64, rowptr + done));
        int64_t low = rowptr[done], last = low;
        bool good = low >= 0;
        for (int64_t i = done; i <= done + m; i++) {
            good &= rowptr[i] >= last;
            last = rowptr[i];
            rowptr[i] += start - low;
        }
        if (!good || last > r->ds->shard[shard].nnz)
            return EBB_FAIL(EBB_ECORRUPT,
                            "%s: X/indptr: row pointers of rows %lld to %lld do not ascend within 0 .. %lld",
                            r->ds->shard[shard].file, (long long)(row0 + done), (long long)(row0 + done + m) - 1,
                            (long long)r->ds->shard[shard].nnz);
    }
    return EBB_OK;
}

ebb_status_t ebb_reader_check_columns(const ebb_reader_t *r, int shard, const int32_t *col, int64_t n)
{
    uint32_t cols = (uint32_t)r->ds->info.cols, bad = 0;
    for (int64_t i = 0; i < n; i++)
        bad |= (uint32_t)col[i] >= cols;
    if (!bad)
        return EBB_OK;
    int64_t i = 0;
    while ((uint32_t)col[i] < cols)
        i++;
    return EBB_FAIL(EBB_ECORRUPT, "%s: %s: rows %lld to %lld: column %d is not in 0 .. %u", r->ds->shard[shard].file,
                    r->ds->shard[shard].array[EBB_ROLE_INDICES].name, (long long)r->row0, (long long)r->row1 - 1,
                    col[i], cols - 1);
}

/* Entries of the bands from b up to local row `end`; *n_p: how many. */
static ebb_status_t bands_csr(ebb_reader_t *r, int shard, int64_t b, int64_t end, int32_t *col, float *val,
                              int64_t *n_p)
{
    ebb_band_parts_t p;
    *n_p = 0;
    for (; b < r->ds->shard[shard].bands && r->ds->shard[shard].band[b].row < end; b++) {
        EBB_TRY(ebb_reader_record(r, shard, b, &p));
        if (p.rows == 0)
            continue;
        if (col) {
            EBB_TRY(band_entries(r, shard, EBB_ROLE_INDICES, b, &p, EBB_ELEM_I32, col + *n_p));
            EBB_TRY(ebb_reader_check_columns(r, shard, col + *n_p, p.end - p.begin));
        }
        if (val)
            EBB_TRY(band_entries(r, shard, EBB_ROLE_DATA, b, &p, EBB_ELEM_F32, val + *n_p));
        *n_p += p.end - p.begin;
    }
    return EBB_OK;
}

ebb_status_t ebb_reader_csr(ebb_reader_t *r, int64_t row0, int64_t n, int32_t *col, float *val)
{
    if (!r->ds->info.sparse)
        return EBB_FAIL(EBB_EINVAL, "%s: is dense: read it with ebb_reader_dense", r->ds->info.name);
    EBB_TRY(ebb_reader_begin(r, row0, n));
    int64_t out = 0;
    for (int64_t done = 0, m; done < n; done += m) {
        int shard;
        int64_t first, begin, end, band;
        m = ebb_reader_piece(r, row0 + done, row0 + n, &shard, &first);
        if (ebb_reader_whole_bands(r, shard, first, m, &band)) {
            EBB_TRY(bands_csr(r, shard, band, first + m, col ? col + out : NULL, val ? val + out : NULL, &end));
            out += end;
            continue;
        }
        EBB_TRY(ebb_reader_take(r, shard, EBB_ROLE_INDPTR, first, 1, EBB_ELEM_I64, &begin));
        EBB_TRY(ebb_reader_take(r, shard, EBB_ROLE_INDPTR, first + m, 1, EBB_ELEM_I64, &end));
        if (begin < 0 || end < begin || end > r->ds->shard[shard].nnz)
            return EBB_FAIL(EBB_ECORRUPT, "%s: X/indptr: rows %lld to %lld: entries %lld to %lld of %lld",
                            r->ds->shard[shard].file, (long long)(row0 + done), (long long)(row0 + done + m) - 1,
                            (long long)begin, (long long)end, (long long)r->ds->shard[shard].nnz);
        if (col) {
            EBB_TRY(ebb_reader_take(r, shard, EBB_ROLE_INDICES, begin, end - begin, EBB_ELEM_I32, col + out));
            EBB_TRY(ebb_reader_check_columns(r, shard, col + out, end - begin));
        }
        if (val)
            EBB_TRY(ebb_reader_take(r, shard, EBB_ROLE_DATA, begin, end - begin, EBB_ELEM_F32, val + out));
        out += end - begin;
    }
    return EBB_OK;
}

/* Rows of the bands from b up to local row `end`. */
static ebb_status_t bands_dense(ebb_reader_t *r, int shard, int64_t b, int64_t end, float *x)
{
    const ebb_array_t *a = &r->ds->shard[shard].array[EBB_ROLE_X];
    for (; b * a->chunk_rows < end; b++, x += a->chunk_rows * a->cols) {
        int64_t n = end - b * a->chunk_rows < a->chunk_rows ? end - b * a->chunk_rows : a->chunk_rows;
        for (int64_t c = b * a->grid_cols; c < (b + 1) * a->grid_cols; c++) {
            EBB_TRY(load_hot(r, shard, EBB_ROLE_X, c));
            (void)ebb_reader_take_chunk(a, &r->hot, c, 0, n, EBB_ELEM_F32, x, 0); /* no type of ours is too wide */
        }
    }
    return EBB_OK;
}

ebb_status_t ebb_reader_dense(ebb_reader_t *r, int64_t row0, int64_t n, float *x)
{
    if (r->ds->info.sparse)
        return EBB_FAIL(EBB_EINVAL, "%s: is sparse: read it with ebb_reader_csr", r->ds->info.name);
    EBB_TRY(ebb_reader_begin(r, row0, n));
    for (int64_t done = 0, m; done < n; done += m) {
        int shard;
        int64_t first, band;
        m = ebb_reader_piece(r, row0 + done, row0 + n, &shard, &first);
        float *out = x + done * r->ds->info.cols;
        if (ebb_reader_whole_bands(r, shard, first, m, &band))
            EBB_TRY(bands_dense(r, shard, band, first + m, out));
        else
            EBB_TRY(ebb_reader_take(r, shard, EBB_ROLE_X, first, m, EBB_ELEM_F32, out));
    }
    return EBB_OK;
}

/* ---- targets ---- */

/* Targets and weights: of an array, or of the band's records, which hold them as the array does. */
static ebb_status_t take_small(ebb_reader_t *r, int shard, ebb_role_t role, int64_t first, int64_t n, ebb_elem_t as,
                               void *out)
{
    const ebb_array_t *a = &r->ds->shard[shard].array[role];
    ebb_band_parts_t p;
    int64_t b;
    if (!ebb_reader_whole_bands(r, shard, first, n, &b))
        return ebb_reader_take(r, shard, role, first, n, as, out);
    for (int64_t done = 0; done < n; b++, done += p.rows) {
        EBB_TRY(ebb_reader_record(r, shard, b, &p));
        const ebb_slot_t slot = {.buf = r->record + (role == EBB_ROLE_Y ? p.y : p.weight)};
        if (p.rows > 0)
            (void)ebb_reader_widen(a, &slot, p.rows * a->cols, 0, p.rows * a->cols, as, out, done * a->cols);
    }
    return EBB_OK;
}

static ebb_status_t take_labels(ebb_reader_t *r, int shard, int64_t first, int64_t n, int32_t *label)
{
    if (r->ds->labels) {
        memcpy(label, r->ds->labels + first, (size_t)n * sizeof *label);
        return EBB_OK;
    }
    EBB_TRY(take_small(r, shard, EBB_ROLE_Y, first, n, EBB_ELEM_I32, label));
    for (int64_t i = 0; i < n; i++)
        if (label[i] < 0 || label[i] >= r->ds->info.classes)
            return EBB_FAIL(EBB_ECORRUPT, "%s: %s: row %lld: class %d is not in 0 .. %lld", r->ds->shard[shard].file,
                            r->ds->shard[shard].array[EBB_ROLE_Y].name,
                            (long long)(r->ds->shard[shard].row0 + first + i), label[i],
                            (long long)r->ds->info.classes - 1);
    return EBB_OK;
}

static ebb_status_t take_classes(ebb_reader_t *r, int shard, int64_t first, int64_t n, int32_t *label, float *y)
{
    int32_t block[TARGET_BLOCK];
    if (label)
        EBB_TRY(take_labels(r, shard, first, n, label));
    for (int64_t done = 0; y && done < n; done += TARGET_BLOCK) {
        int64_t m = n - done < TARGET_BLOCK ? n - done : TARGET_BLOCK;
        EBB_TRY(take_labels(r, shard, first + done, m, block));
        for (int64_t i = 0; i < m; i++)
            y[done + i] = (float)block[i];
    }
    return EBB_OK;
}

static ebb_status_t take_reals(ebb_reader_t *r, int shard, int64_t first, int64_t n, float *y)
{
    int64_t cols = r->ds->info.target_cols;
    if (!r->ds->reals)
        return take_small(r, shard, EBB_ROLE_Y, first, n, EBB_ELEM_F32, y);
    memcpy(y, r->ds->reals + first * cols, (size_t)(n * cols) * sizeof *y);
    return EBB_OK;
}

ebb_status_t ebb_reader_targets(ebb_reader_t *r, int64_t row0, int64_t n, int32_t *label, float *y, float *weight)
{
    const ebb_dataset_info_t *info = &r->ds->info;
    if (label && info->target != EBB_TARGET_CLASS)
        return EBB_FAIL(EBB_EINVAL, "%s: has no classes", info->name);
    if (y && info->target == EBB_TARGET_NONE)
        return EBB_FAIL(EBB_EINVAL, "%s: has no targets", info->name);
    EBB_TRY(ebb_reader_begin(r, row0, n));
    for (int64_t done = 0, m; done < n; done += m) {
        int shard;
        int64_t first;
        m = ebb_reader_piece(r, row0 + done, row0 + n, &shard, &first);
        if (info->target == EBB_TARGET_CLASS)
            EBB_TRY(take_classes(r, shard, first, m, label ? label + done : NULL, y ? y + done : NULL));
        else if (y)
            EBB_TRY(take_reals(r, shard, first, m, y + done * info->target_cols));
        if (weight && info->weighted)
            EBB_TRY(take_small(r, shard, EBB_ROLE_WEIGHT, first, m, EBB_ELEM_F32, weight + done));
    }
    for (int64_t i = 0; weight && !info->weighted && i < n; i++)
        weight[i] = 1;
    return EBB_OK;
}
