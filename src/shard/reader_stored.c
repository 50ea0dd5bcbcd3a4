/* Rows as they are stored: chunks decoded into the caller's memory and left as byte planes, with what is needed to
 * find and widen each row later; and hints of what comes next. */
#include "shard/reader.h"
#include "shard/stored.h"

#include <fcntl.h>
#include <string.h>

/* ---- rows as they are stored ---- */

/* Copying a plane's piece of each row costs less than fetching a line for it from memory, in rows of up to about so
 * many entries. */
enum { MOST_PACKED = 128, COPY_STEP = 16 };

static void packed_form(const ebb_dataset_info_t *info, ebb_stored_t *form)
{
    int64_t usual = info->nnz / info->blocks->n * 2 + 64;
    form->packed = true;
    form->entry_bytes = form->col_planes + (int)ebb_elem_size(form->val);
    form->entries = info->blocks->max_entries < usual ? info->blocks->max_entries : usual;
    form->bytes = form->entries * form->entry_bytes + EBB_STORED_SLACK;
}

static void planes_form(const ebb_row_blocks_t *blocks, bool sparse, ebb_stored_t *form)
{
    int64_t usual = 2 * (blocks->bands / blocks->n + 1), longest = form->elements / 8;
    form->bands = (int)(blocks->most_bands < usual ? blocks->most_bands : usual);
    form->tail = !sparse ? 0 : blocks->most_tail < longest ? blocks->most_tail : longest;
    form->bytes = form->bands * (form->band_bytes + form->tail * 8) + EBB_STORED_SLACK;
}

void ebb_stored_form(const ebb_dataset_t *ds, ebb_stored_t *form)
{
    const ebb_dataset_info_t *info = &ds->info;
    const ebb_row_blocks_t *blocks = info->blocks;
    *form = (ebb_stored_t){0};
    if (!blocks || !blocks->whole)
        return;
    const ebb_array_t *val = &ds->shard[0].array[info->sparse ? EBB_ROLE_DATA : EBB_ROLE_X];
    const ebb_array_t *col = &ds->shard[0].array[EBB_ROLE_INDICES];
    form->val = val->elem;
    form->col = col->elem;
    form->col_planes = info->sparse ? ebb_column_planes(col->elem, info->cols) : 0;
    form->elements = val->chunk_rows * val->chunk_cols;
    form->val_at = info->sparse ? form->elements * (int64_t)ebb_elem_size(col->elem) : 0;
    form->band_bytes = form->val_at + form->elements * (int64_t)ebb_elem_size(val->elem);
    form->band_bytes = (form->band_bytes + 63) / 64 * 64;
    form->possible = val->grid_cols == 1 && ebb_widen_possible(val->elem) && (!info->sparse || form->col_planes > 0);
    if (info->sparse && info->nnz / info->rows <= MOST_PACKED)
        packed_form(info, form);
    else
        planes_form(blocks, info->sparse, form);
}

/* Do the bands from b up to local row `end` fit? */
static bool has_room(const ebb_reader_t *r, const ebb_stored_t *form, int shard, int64_t b, int64_t end)
{
    const ebb_shard_t *s = &r->ds->shard[shard];
    ebb_band_parts_t p;
    int64_t entries = 0;
    int n = 0;
    for (; b < s->bands && s->band[b].row < end; b++) {
        if (!ebb_band_parts(s, &r->ds->info, b, &p))
            return false;
        n += p.rows > 0;
        entries += p.end - p.begin;
        if (p.rows > 0 && p.here + p.tail != p.end - p.begin)
            return false;
        if (form->packed ? entries > form->entries : n > form->bands || p.tail > form->tail)
            return false;
    }
    return true;
}

/* One chunk of a band into memory of the caller. */
static ebb_status_t load_stored(ebb_reader_t *r, int shard, ebb_role_t role, int64_t c, uint8_t *buf)
{
    const ebb_array_t *a = &r->ds->shard[shard].array[role];
    ebb_slot_t slot = {.buf = buf};
    return ebb_reader_decode(r, shard, a, c, &slot) == EBB_OK ? EBB_OK : ebb_reader_name_chunk(r, shard, a, c);
}

static ebb_status_t stored_columns(ebb_reader_t *r, const ebb_stored_t *form, int shard, int64_t b,
                                   const ebb_band_parts_t *p, uint8_t *chunk, int32_t *tail)
{
    const ebb_array_t *a = &r->ds->shard[shard].array[EBB_ROLE_INDICES];
    int64_t cols = r->ds->info.cols, first = p->begin - b * form->elements;
    if (p->here > 0) {
        EBB_TRY(load_stored(r, shard, EBB_ROLE_INDICES, b, chunk));
        if (ebb_columns_beyond(a->elem, chunk + first, form->elements, p->here, cols))
            return EBB_FAIL(EBB_ECORRUPT, "%s: %s: rows %lld to %lld: a column is not in 0 .. %lld",
                            r->ds->shard[shard].file, a->name, (long long)r->row0, (long long)r->row1 - 1,
                            (long long)cols - 1);
    }
    const ebb_slot_t slot = {.buf = r->record + p->col};
    (void)ebb_reader_widen(a, &slot, p->tail, 0, p->tail, EBB_ELEM_I32, tail, 0); /* types of ours fit */
    return ebb_reader_check_columns(r, shard, tail, p->tail);
}

static ebb_status_t stored_values(ebb_reader_t *r, int shard, int64_t b, const ebb_band_parts_t *p, uint8_t *chunk,
                                  float *tail)
{
    const ebb_slot_t slot = {.buf = r->record + p->val};
    if (p->here > 0)
        EBB_TRY(load_stored(r, shard, EBB_ROLE_DATA, b, chunk));
    (void)ebb_reader_widen(&r->ds->shard[shard].array[EBB_ROLE_DATA], &slot, p->tail, 0, p->tail, EBB_ELEM_F32, tail,
                           0);
    return EBB_OK;
}

/* ---- packed rows ---- */

/* n bytes, and up to COPY_STEP - 1 more. */
static inline void copy_some(uint8_t *to, const uint8_t *from, int64_t n)
{
    for (int64_t i = 0; i < n; i += COPY_STEP)
        memcpy(to + i, from + i, COPY_STEP);
}

/* A row that begins in the chunk and ends in the record, n entries: `here` of them in planes, the others one after
 * another. */
static void pack_halves(uint8_t *out, int64_t n, const uint8_t *plane, int64_t stride, int planes, int64_t here,
                        const uint8_t *tail, size_t size)
{
    for (int k = 0; k < planes; k++) {
        memcpy(out + k * n, plane + k * stride, (size_t)here);
        for (int64_t i = here; i < n; i++)
            out[k * n + i] = tail[(size_t)(i - here) * size + (size_t)k];
    }
}

/* The rows of a band, whose chunks are in col and val; row pointers are relative to the block, as is out. Each row's
 * copy may run into what the next one overwrites. */
static void pack_rows(const ebb_reader_t *r, const ebb_stored_t *form, int shard, const ebb_band_parts_t *p,
                      const int64_t *rowptr, const uint8_t *col, const uint8_t *val, uint8_t *out)
{
    const ebb_array_t *array = r->ds->shard[shard].array;
    const int64_t stride = form->elements, first = rowptr[0];
    const int cols = form->col_planes, vals = form->entry_bytes - cols;
    for (int64_t i = 0; i < p->rows; i++) {
        int64_t at = rowptr[i] - first, n = rowptr[i + 1] - rowptr[i], here = p->here - at;
        uint8_t *to = out + rowptr[i] * form->entry_bytes;
        if (n > here) { /* the last that has entries */
            size_t col_size = ebb_elem_size(array[EBB_ROLE_INDICES].elem);
            here = here > 0 ? here : 0;
            pack_halves(to, n, col + at, stride, cols, here, r->record + p->col, col_size);
            pack_halves(to + cols * n, n, val + at, stride, vals, here, r->record + p->val, (size_t)vals);
            continue;
        }
        for (int k = 0; k < cols; k++)
            copy_some(to + k * n, col + at + k * stride, n);
        for (int k = 0; k < vals; k++)
            copy_some(to + (cols + k) * n, val + at + k * stride, n);
    }
}

static ebb_status_t packed_band(ebb_reader_t *r, const ebb_stored_t *form, int shard, int64_t b,
                                const ebb_band_parts_t *p, int64_t *rowptr, uint8_t *out)
{
    uint8_t *col = r->hot.buf, *val = col + r->hot_bytes;
    int64_t first = p->here > 0 ? p->begin - b * form->elements : 0;
    EBB_TRY(ebb_reader_band_rowptr(r, shard, b, p, rowptr));
    EBB_TRY(stored_columns(r, form, shard, b, p, col, r->tail));
    if (p->here > 0)
        EBB_TRY(load_stored(r, shard, EBB_ROLE_DATA, b, val));
    pack_rows(r, form, shard, p, rowptr, col + first, val + first, out);
    return EBB_OK;
}

/* ---- parts of stored blocks ---- */

/* Lines that are written soon, so that stores need not wait for them one after another. */
static inline void fetch_for_stores(uint8_t *to, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(to + i, 1, 2);
}

/* The k-th segment of a block, whose rows begin at `row` of it: band b. */
static ebb_status_t stored_segment(ebb_reader_t *r, const ebb_stored_t *form, int shard, int64_t b,
                                   const ebb_band_parts_t *p, int64_t row, int64_t *rowptr,
                                   const ebb_stored_room_t *room, int k)
{
    uint8_t *chunk = room->chunk + k * form->band_bytes;
    ebb_segment_t *s = &room->segment[k];
    *s = (ebb_segment_t){.row = row, .col = chunk, .val = chunk + form->val_at};
    fetch_for_stores(chunk, form->band_bytes);
    if (!rowptr)
        return load_stored(r, shard, EBB_ROLE_X, b, chunk);
    int64_t first = p->here > 0 ? p->begin - b * form->elements : 0;
    int32_t *tail_col = room->tail_col + k * form->tail;
    float *tail_val = room->tail_val + k * form->tail;
    EBB_TRY(ebb_reader_band_rowptr(r, shard, b, p, rowptr + row));
    s->entry = rowptr[row];
    s->edge = s->entry + p->here;
    s->col += first;
    s->val += first;
    s->tail_col = tail_col;
    s->tail_val = tail_val;
    EBB_TRY(stored_columns(r, form, shard, b, p, chunk, tail_col));
    return stored_values(r, shard, b, p, chunk + form->val_at, tail_val);
}

ebb_status_t ebb_reader_stored(ebb_reader_t *r, const ebb_stored_t *form, int64_t row0, int64_t n, int64_t *rowptr,
                               const ebb_stored_room_t *room, int *segments_p)
{
    int shard, k = 0;
    int64_t first, band, row = 0;
    ebb_band_parts_t p;
    *segments_p = 0;
    EBB_TRY(ebb_reader_begin(r, row0, n));
    if (ebb_reader_piece(r, row0, row0 + n, &shard, &first) < n || !ebb_reader_whole_bands(r, shard, first, n, &band) ||
        !has_room(r, form, shard, band, first + n))
        return EBB_OK;
    if (rowptr)
        rowptr[0] = 0;
    for (; row < n; band++, row += p.rows) {
        EBB_TRY(ebb_reader_record(r, shard, band, &p));
        if (p.rows > 0 && form->packed)
            EBB_TRY(packed_band(r, form, shard, band, &p, rowptr + row, room->chunk));
        else if (p.rows > 0)
            EBB_TRY(stored_segment(r, form, shard, band, &p, row, rowptr, room, k++));
    }
    if (!form->packed)
        room->segment[k] = (ebb_segment_t){.row = n};
    *segments_p = form->packed ? 1 : k;
    return EBB_OK;
}

/* ---- what comes next ---- */

bool ebb_reader_waits(const ebb_reader_t *r)
{
    return r->waits > 0;
}

void ebb_reader_hint(ebb_reader_t *r, int64_t row0, int64_t n)
{
    int shard, fd;
    int64_t first, b;
    if (ebb_reader_piece(r, row0, row0 + n, &shard, &first) < n || !ebb_reader_whole_bands(r, shard, first, n, &b))
        return;
    if (ebb_reader_fd(r, shard, &fd) != EBB_OK) {
        ebb_error_clear(); /* whoever reads it says so */
        return;
    }
    const ebb_shard_t *s = &r->ds->shard[shard];
    for (; b < s->bands && s->band[b].row < first + n; b++) {
        (void)posix_fadvise(fd, s->band[b].offset, s->band[b].bytes, POSIX_FADV_WILLNEED);
        for (int role = EBB_ROLE_DATA; role <= EBB_ROLE_X; role++) {
            const ebb_array_t *a = &s->array[role];
            for (int64_t c = b * a->grid_cols; role != EBB_ROLE_INDPTR && a->chunk && c < (b + 1) * a->grid_cols; c++)
                (void)posix_fadvise(fd, a->chunk[c].offset, a->chunk[c].bytes, POSIX_FADV_WILLNEED);
        }
    }
}
