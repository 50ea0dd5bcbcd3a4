/* Rows as they are stored: chunks decoded into the caller's memory and left as byte planes, with what is needed to
 * find and widen each row later; and hints of what comes next. */
#include "shard/reader.h"
#include "shard/stored.h"

#include <fcntl.h>

/* ---- rows as they are stored ---- */

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
    form->elements = val->chunk_rows * val->chunk_cols;
    form->val_at = info->sparse ? form->elements * (int64_t)ebb_elem_size(col->elem) : 0;
    form->band_bytes = form->val_at + form->elements * (int64_t)ebb_elem_size(val->elem);
    form->band_bytes = (form->band_bytes + 63) / 64 * 64;
    form->possible = val->grid_cols == 1 && ebb_widen_possible(val->elem, false) &&
                     (!info->sparse || ebb_widen_possible(col->elem, true)) && ebb_stored_is_near(info);
    int64_t usual = 2 * (blocks->bands / blocks->n + 1), longest = form->elements / 8;
    form->bands = (int)(blocks->most_bands < usual ? blocks->most_bands : usual);
    form->tail = !info->sparse ? 0 : blocks->most_tail < longest ? blocks->most_tail : longest;
}

/* Do the bands from b up to local row `end` fit? */
static bool has_room(const ebb_reader_t *r, const ebb_stored_t *form, int shard, int64_t b, int64_t end)
{
    const ebb_shard_t *s = &r->ds->shard[shard];
    ebb_band_parts_t p;
    int n = 0;
    for (; b < s->bands && s->band[b].row < end; b++) {
        if (!ebb_band_parts(s, &r->ds->info, b, &p))
            return false;
        n += p.rows > 0;
        if (n > form->bands || p.tail > form->tail || (p.rows > 0 && p.here + p.tail != p.end - p.begin))
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

/* ---- parts of stored blocks ---- */

/* The k-th segment of a block, whose rows begin at `row` of it: band b. */
static ebb_status_t stored_segment(ebb_reader_t *r, const ebb_stored_t *form, int shard, int64_t b,
                                   const ebb_band_parts_t *p, int64_t row, int64_t *rowptr,
                                   const ebb_stored_room_t *room, int k)
{
    uint8_t *chunk = room->chunk + k * form->band_bytes;
    ebb_segment_t *s = &room->segment[k];
    *s = (ebb_segment_t){.row = row, .col = chunk, .val = chunk + form->val_at};
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
        if (p.rows > 0)
            EBB_TRY(stored_segment(r, form, shard, band, &p, row, rowptr, room, k++));
    }
    room->segment[k] = (ebb_segment_t){.row = n};
    *segments_p = k;
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
