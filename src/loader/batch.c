/* Gathering a batch. First pass: each row's block and place from the order, while the lines of its row pointer and
 * label are fetched. Second: row pointers by prefix sums, targets. Third: whole rows are copied (copy.c), in steps that
 * may run past a row's end into what the next row overwrites (blocks and batches have slack for the last), and
 * transformed a few at a time while they are in cache. One thread per batch; several batches may be filled at once. */
#include "loader/batch.h"
#include "base/alloc.h"
#include "loader/copy.h"
#include "loader/transform.h"
#include "shard/layout.h"

#include <string.h>

enum { TRANSFORM_ROWS = 16, PLACED = 64 };

void ebb_batches_types(ebb_batches_t *b)
{
    b->column_type = b->stored && b->info->cols <= 65536 ? EBB_U16 : EBB_I32;
    b->value_type = b->stored ? b->info->value_type : EBB_F32;
    b->wide = b->column_type == EBB_I32 && b->value_type == EBB_F32;
    b->entry_bytes =
        (int)(ebb_value_type_size(b->value_type) + (b->info->sparse ? ebb_value_type_size(b->column_type) : 0));
}

static int64_t usual_entries(const ebb_dataset_info_t *info, int64_t rows)
{
    return info->sparse ? (int64_t)((double)info->nnz / (double)info->rows * (double)rows * 1.5) + 256 : 0;
}

static int64_t fixed_bytes(const ebb_batches_t *b, int64_t rows)
{
    const ebb_dataset_info_t *info = b->info;
    int64_t row = 8 + 8 + 4 + 64 + (info->sparse ? 8 : info->cols * b->entry_bytes);
    row += info->target == EBB_TARGET_CLASS ? 4 : info->target_cols * 4;
    return rows * (row + (info->weighted ? 4 : 0)) + (int64_t)sizeof(ebb_slot_t);
}

int64_t ebb_batch_bytes(const ebb_batches_t *b, int64_t rows)
{
    return fixed_bytes(b, rows) + usual_entries(b->info, rows) * b->entry_bytes;
}

/* Memory that batches show to their holder: the caller's kind if it gave one. */
static ebb_status_t batch_alloc(ebb_batches_t *b, const char *what, int64_t n, size_t element, void *ptr_p)
{
    void **p = ptr_p;
    size_t bytes = (size_t)n * element;
    atomic_fetch_add(&b->allocations, 1);
    if (!b->alloc)
        return ebb_alloc(what, bytes, p);
    *p = b->alloc(b->alloc_user, bytes);
    if (!*p)
        return EBB_FAIL(EBB_ENOMEM, "out of memory: %zu bytes of batch memory for %s", bytes, what);
    memset(*p, 0, bytes);
    return EBB_OK;
}

static void batch_free(ebb_batches_t *b, void *ptr)
{
    if (!ptr)
        return;
    if (b->alloc)
        b->free(b->alloc_user, ptr);
    else
        ebb_free(ptr);
}

/* n elements of a type, and what steps may write beyond them. */
static ebb_status_t elements_alloc(ebb_batches_t *b, const char *what, int64_t n, ebb_value_type_t type, void *ptr_p)
{
    size_t size = ebb_value_type_size(type);
    return batch_alloc(b, what, n + EBB_STORED_SLACK / (int64_t)size, size, ptr_p);
}

static ebb_status_t reserve(ebb_batches_t *b, ebb_slot_t *slot, int64_t entries)
{
    batch_free(b, slot->columns);
    batch_free(b, slot->values);
    slot->columns = NULL;
    slot->values = NULL;
    atomic_fetch_sub(&b->bytes, slot->capacity * b->entry_bytes);
    slot->capacity = 0;
    EBB_TRY(elements_alloc(b, "columns of a batch", entries, b->column_type, &slot->columns));
    EBB_TRY(elements_alloc(b, "values of a batch", entries, b->value_type, &slot->values));
    slot->capacity = entries;
    atomic_fetch_add(&b->bytes, entries * b->entry_bytes);
    return EBB_OK;
}

static ebb_status_t slot_init(ebb_batches_t *b, ebb_slot_t *slot)
{
    const ebb_dataset_info_t *info = b->info;
    int64_t n = b->max_rows;
    EBB_TRY(EBB_NEW_ARRAY("lanes of a batch", b->plan->n_lanes, &slot->lanes));
    EBB_TRY(EBB_NEW_ARRAY("windows of a batch", b->plan->n_lanes, &slot->first_window));
    EBB_TRY(EBB_NEW_ARRAY("row places of a batch", n, &slot->block));
    EBB_TRY(EBB_NEW_ARRAY("row places of a batch", n, &slot->in_block));
    if (b->form->possible) {
        EBB_TRY(EBB_NEW_ARRAY("row places of a batch", n, &slot->col_plane));
        EBB_TRY(EBB_NEW_ARRAY("row places of a batch", n, &slot->val_plane));
        EBB_TRY(EBB_NEW_ARRAY("row places of a batch", n, &slot->patch));
        EBB_TRY(EBB_NEW_ARRAY("row places of a batch", n + 1, &slot->to));
        for (int64_t r = 0; r <= n; r++)
            slot->to[r] = r * info->cols;
    } else if (info->sparse) {
        EBB_TRY(EBB_NEW_ARRAY("row places of a batch", n, &slot->col_from));
        EBB_TRY(EBB_NEW_ARRAY("row places of a batch", n, &slot->val_from));
    }
    EBB_TRY(batch_alloc(b, "row numbers of a batch", n, sizeof *slot->row, &slot->row));
    if (info->sparse) {
        EBB_TRY(batch_alloc(b, "row pointers of a batch", n + 1, sizeof *slot->rowptr, &slot->rowptr));
        EBB_TRY(reserve(b, slot, atomic_load(&b->entries)));
    } else {
        EBB_TRY(elements_alloc(b, "rows of a batch", n * info->cols, b->value_type, &slot->values));
    }
    if (info->target == EBB_TARGET_CLASS)
        EBB_TRY(batch_alloc(b, "labels of a batch", n, sizeof *slot->label, &slot->label));
    if (info->target == EBB_TARGET_REAL)
        EBB_TRY(batch_alloc(b, "targets of a batch", n * info->target_cols, sizeof *slot->y, &slot->y));
    if (info->weighted)
        EBB_TRY(batch_alloc(b, "weights of a batch", n, sizeof *slot->weight, &slot->weight));
    atomic_fetch_add(&b->bytes, fixed_bytes(b, n));
    return EBB_OK;
}

ebb_status_t ebb_batches_init(ebb_batches_t *b, int n)
{
    b->max_rows = 0;
    for (int32_t l = 0; l < b->plan->n_lanes; l++)
        b->max_rows += b->plan->lane[l].share;
    b->plain = ebb_transform_is_none(&b->transform);
    atomic_store(&b->entries, usual_entries(b->info, b->max_rows));
    EBB_TRY(EBB_NEW_ARRAY("batches", n, &b->slot));
    b->n = n;
    for (int i = 0; i < n; i++)
        EBB_TRY(slot_init(b, &b->slot[i]));
    return EBB_OK;
}

void ebb_batches_cleanup(ebb_batches_t *b)
{
    for (int i = 0; i < b->n; i++) {
        ebb_slot_t *slot = &b->slot[i];
        ebb_free(slot->lanes);
        ebb_free(slot->first_window);
        ebb_free(slot->block);
        ebb_free(slot->in_block);
        ebb_free(slot->col_from);
        ebb_free(slot->val_from);
        ebb_free(slot->col_plane);
        ebb_free(slot->val_plane);
        ebb_free(slot->patch);
        ebb_free(slot->to);
        batch_free(b, slot->row);
        batch_free(b, slot->rowptr);
        batch_free(b, slot->columns);
        batch_free(b, slot->values);
        batch_free(b, slot->label);
        batch_free(b, slot->y);
        batch_free(b, slot->weight);
    }
    ebb_free(b->slot);
}

void ebb_slot_begin(ebb_batches_t *b, ebb_slot_t *slot, int64_t seq)
{
    const ebb_plan_t *p = b->plan;
    slot->state = EBB_SLOT_FILLING;
    slot->seq = seq;
    slot->error.status = EBB_OK;
    slot->batch.epoch = ebb_plan_epoch(p, seq);
    slot->batch.step = ebb_plan_step(p, seq);
    for (int32_t l = 0; l < p->n_lanes; l++) {
        const ebb_plan_lane_t *lane = &p->lane[l];
        int64_t i = lane->head;
        while (i < lane->tail && ebb_plan_window(p, lane, i)->last_seq < seq)
            i++;
        slot->first_window[l] = i;
    }
}

/* Row `row` of a block becomes the next of the batch, unless it is damaged. */
static ebb_status_t place_row(const ebb_batches_t *b, ebb_slot_t *slot, const ebb_block_t *block, uint32_t row)
{
    int64_t at = slot->batch.rows;
    if (block->state == EBB_BLOCK_FAILED) {
        if (b->skip_corrupt && block->error.status == EBB_ECORRUPT) {
            slot->skipped++;
            return EBB_OK;
        }
        slot->error = block->error;
        return block->error.status;
    }
    slot->block[at] = block;
    slot->in_block[at] = row;
    slot->row[at] = block->row0 + row;
    if (block->rowptr)
        __builtin_prefetch(block->rowptr + row, 0, 2);
    if (block->label)
        __builtin_prefetch(block->label + row, 0, 2);
    if (block->segments > 0 && !b->form->packed)
        __builtin_prefetch(block->segment, 0, 2);
    slot->batch.rows++;
    return EBB_OK;
}

/* Rows [from, to) of a window, a few at a time, so that their blocks are fetched before they are looked at. */
static ebb_status_t place_rows(const ebb_batches_t *b, ebb_slot_t *slot, const ebb_plan_window_t *w, int64_t from,
                               int64_t to)
{
    uint32_t place[PLACED], row[PLACED];
    for (int64_t i = from, end; i < to; i = end) {
        end = i + PLACED < to ? i + PLACED : to;
        for (int64_t k = i; k < end; k++) {
            uint32_t at_row = w->dealt ? w->dealt[k] : ebb_order_mix(&w->at.mix, (uint32_t)k);
            ebb_order_locate(&w->at, at_row, &place[k - i], &row[k - i]);
            __builtin_prefetch(w->block[place[k - i]]);
        }
        for (int64_t k = 0; k < end - i; k++)
            EBB_TRY(place_row(b, slot, w->block[place[k]], row[k]));
    }
    return EBB_OK;
}

static ebb_status_t place_lane(const ebb_batches_t *b, ebb_slot_t *slot, int32_t l)
{
    const ebb_plan_t *p = b->plan;
    const ebb_plan_lane_t *lane = &p->lane[l];
    int64_t begin, end, first = slot->batch.rows;
    ebb_plan_rows(lane, slot->batch.step, &begin, &end);
    if (begin < end) {
        const ebb_plan_window_t *w = ebb_plan_window(p, lane, slot->first_window[l]);
        if (w->error.status != EBB_OK) {
            slot->error = w->error;
            return w->error.status;
        }
        EBB_TRY(place_rows(b, slot, w, begin - w->at.begin, end - w->at.begin));
    }
    slot->lanes[l] = (ebb_lane_rows_t){.lane = lane->lane, .first = first, .n = slot->batch.rows - first};
    return EBB_OK;
}

static void gather_targets(const ebb_batches_t *b, ebb_slot_t *slot)
{
    int64_t width = b->info->target_cols;
    for (int64_t r = 0; slot->label && r < slot->batch.rows; r++)
        slot->label[r] = slot->block[r]->label[slot->in_block[r]];
    for (int64_t r = 0; slot->y && r < slot->batch.rows; r++)
        memcpy(slot->y + r * width, slot->block[r]->y + slot->in_block[r] * width, (size_t)width * sizeof(float));
    for (int64_t r = 0; slot->weight && r < slot->batch.rows; r++)
        slot->weight[r] = slot->block[r]->weight[slot->in_block[r]];
}

static void transform_rows(const ebb_batches_t *b, float *val, const int64_t *to, int64_t first, int64_t end)
{
    for (int64_t r = first; !b->plain && r < end; r++)
        ebb_transform_row(&b->transform, val + to[r], to[r + 1] - to[r]);
}

/* Room for the batch's entries. */
static ebb_status_t have_room(ebb_batches_t *b, ebb_slot_t *slot, int64_t nnz)
{
    slot->batch.nnz = nnz;
    if (nnz <= slot->capacity)
        return EBB_OK;
    long long want = nnz + nnz / 4, now = atomic_load(&b->entries);
    while (want > now && !atomic_compare_exchange_weak(&b->entries, &now, want))
        continue;
    return reserve(b, slot, want > now ? want : now);
}

/* n widened columns or values to element `to` of the batch. */
static void put_columns(const ebb_batches_t *b, ebb_slot_t *slot, int64_t to, const int32_t *from, int64_t n)
{
    char *out = (char *)slot->columns + to * (int64_t)ebb_value_type_size(b->column_type);
    ebb_narrow_columns(b->column_type, from, n, out);
}

static void put_values(const ebb_batches_t *b, ebb_slot_t *slot, int64_t to, const float *from, int64_t n)
{
    char *out = (char *)slot->values + to * (int64_t)ebb_value_type_size(b->value_type);
    ebb_narrow_values(b->value_type, from, n, out);
}

/* Rows that lie widened in their blocks, to the batch's types. */
static void narrow_rows(const ebb_batches_t *b, ebb_slot_t *slot)
{
    const int64_t *to = slot->rowptr;
    for (int64_t r = 0, ahead = 4; r < slot->batch.rows; r++, ahead++) {
        if (ahead < slot->batch.rows) {
            ebb_copy_fetch(slot->col_from[ahead], (to[ahead + 1] - to[ahead]) * 4);
            ebb_copy_fetch(slot->val_from[ahead], (to[ahead + 1] - to[ahead]) * 4);
        }
        put_columns(b, slot, to[r], slot->col_from[r], to[r + 1] - to[r]);
        put_values(b, slot, to[r], slot->val_from[r], to[r + 1] - to[r]);
    }
}

static ebb_status_t gather_sparse(ebb_batches_t *b, ebb_slot_t *slot)
{
    int64_t rows = slot->batch.rows;
    for (int64_t r = 0; r < rows; r++) {
        const ebb_block_t *block = slot->block[r];
        const int64_t *ptr = block->rowptr + slot->in_block[r];
        slot->col_from[r] = block->col + ptr[0];
        slot->val_from[r] = block->val + ptr[0];
        slot->rowptr[r + 1] = slot->rowptr[r] + (ptr[1] - ptr[0]);
    }
    EBB_TRY(have_room(b, slot, slot->rowptr[rows]));
    if (!b->wide) {
        narrow_rows(b, slot);
        return EBB_OK;
    }
    const ebb_copy_t copy = {rows, slot->rowptr, slot->col_from, slot->val_from, slot->columns, slot->values};
    int64_t step = b->plain ? rows : TRANSFORM_ROWS;
    for (int64_t r = 0, end; r < rows; r = end) {
        end = r + step < rows ? r + step : rows;
        ebb_copy_rows(&copy, r, end);
        transform_rows(b, slot->values, slot->rowptr, r, end);
    }
    return EBB_OK;
}

static void gather_dense(ebb_batches_t *b, ebb_slot_t *slot)
{
    int64_t cols = b->info->cols;
    for (int64_t r = 0; r < slot->batch.rows; r++) {
        if (r + 4 < slot->batch.rows)
            ebb_copy_fetch(slot->block[r + 4]->x + slot->in_block[r + 4] * cols, cols * 4);
        put_values(b, slot, r * cols, slot->block[r]->x + slot->in_block[r] * cols, cols);
        if (!b->plain)
            ebb_transform_row(&b->transform, (float *)slot->values + r * cols, cols);
    }
    slot->batch.nnz = slot->batch.rows * cols;
}

/* ---- rows kept as they are stored ---- */

static const ebb_segment_t *segment_of(const ebb_block_t *block, uint32_t row)
{
    const ebb_segment_t *s = block->segment;
    while (row >= s[1].row)
        s++;
    return s;
}

/* Where row r is: in planes as far as its chunk goes, the rest, or all of it, as patches. */
static void place_sparse(const ebb_stored_t *form, ebb_slot_t *slot, int64_t r)
{
    const ebb_block_t *block = slot->block[r];
    const int64_t *ptr = block->rowptr + slot->in_block[r];
    int64_t to = slot->rowptr[r] + (ptr[1] - ptr[0]);
    slot->rowptr[r + 1] = to;
    if (block->segments == 0) {
        slot->col_plane[r] = slot->val_plane[r] = NULL;
        slot->patch[slot->patches++] =
            (ebb_patch_t){r, slot->rowptr[r], ptr[1] - ptr[0], block->col + ptr[0], block->val + ptr[0]};
        return;
    }
    if (form->packed) {
        slot->col_plane[r] = block->room.chunk + ptr[0] * form->entry_bytes;
        slot->val_plane[r] = slot->col_plane[r] + form->col_planes * (ptr[1] - ptr[0]);
        return;
    }
    const ebb_segment_t *s = segment_of(block, slot->in_block[r]);
    slot->col_plane[r] = s->col + (ptr[0] - s->entry);
    slot->val_plane[r] = s->val + (ptr[0] - s->entry);
    if (ptr[1] <= s->edge)
        return;
    int64_t from = ptr[0] > s->edge ? ptr[0] : s->edge;
    slot->patch[slot->patches++] = (ebb_patch_t){r, to - (ptr[1] - from), ptr[1] - from, s->tail_col + (from - s->edge),
                                                 s->tail_val + (from - s->edge)};
}

static void place_dense(const ebb_batches_t *b, ebb_slot_t *slot, int64_t r)
{
    const ebb_block_t *block = slot->block[r];
    int64_t row = slot->in_block[r], cols = b->info->cols;
    slot->val_plane[r] = NULL;
    if (block->segments == 0) {
        slot->patch[slot->patches++] = (ebb_patch_t){r, r * cols, cols, NULL, block->x + row * cols};
        return;
    }
    const ebb_segment_t *s = segment_of(block, slot->in_block[r]);
    slot->val_plane[r] = s->val + (row - s->row) * cols;
}

static ebb_status_t gather_stored(ebb_batches_t *b, ebb_slot_t *slot)
{
    const ebb_stored_t *form = b->form;
    bool sparse = b->info->sparse;
    int64_t rows = slot->batch.rows, step = TRANSFORM_ROWS, done = 0;
    slot->patches = 0;
    for (int64_t r = 0; r < rows && sparse; r++)
        place_sparse(form, slot, r);
    for (int64_t r = 0; r < rows && !sparse; r++)
        place_dense(b, slot, r);
    const int64_t *to = sparse ? slot->rowptr : slot->to;
    if (sparse)
        EBB_TRY(have_room(b, slot, to[rows]));
    slot->batch.nnz = to[rows];
    ebb_widen_t col = {.elem = form->col,
                       .columns = form->col_planes,
                       .stored = b->stored,
                       .stride = form->elements,
                       .fetched = form->col_planes,
                       .rows = rows,
                       .to = to,
                       .from = slot->col_plane,
                       .out = slot->columns};
    ebb_widen_t val = {.elem = form->val,
                       .stored = b->stored,
                       .stride = form->elements,
                       .fetched = (int)ebb_elem_size(form->val),
                       .rows = rows,
                       .to = to,
                       .from = slot->val_plane,
                       .out = slot->values};
    if (form->packed) {
        col.stride = val.stride = 0;
        col.fetched = form->entry_bytes;
        val.fetched = 0; /* together with the columns */
    }
    for (int64_t r = 0, end; r < rows; r = end) {
        end = r + step < rows ? r + step : rows;
        if (sparse)
            ebb_widen_rows(&col, r, end);
        ebb_widen_rows(&val, r, end);
        for (const ebb_patch_t *p = slot->patch + done; done < slot->patches && p->row < end; p++, done++) {
            if (p->n == 0)
                continue;
            if (sparse)
                put_columns(b, slot, p->to, p->col, p->n);
            put_values(b, slot, p->to, p->val, p->n);
        }
        transform_rows(b, slot->values, to, r, end);
    }
    return EBB_OK;
}

static ebb_status_t fill(ebb_batches_t *b, ebb_slot_t *slot)
{
    slot->batch.rows = slot->skipped = 0;
    for (int32_t l = 0; l < b->plan->n_lanes; l++)
        EBB_TRY(place_lane(b, slot, l));
    gather_targets(b, slot);
    if (b->form->possible)
        return gather_stored(b, slot);
    if (b->info->sparse)
        return gather_sparse(b, slot);
    gather_dense(b, slot);
    return EBB_OK;
}

void ebb_slot_fill(ebb_batches_t *b, ebb_slot_t *slot)
{
    ebb_batch_t *batch = &slot->batch;
    if (fill(b, slot) != EBB_OK && slot->error.status == EBB_OK) {
        slot->error = *ebb_error();
        ebb_error_clear();
    }
    batch->n_lanes = b->plan->n_lanes;
    batch->lanes = slot->lanes;
    batch->rowptr = slot->rowptr;
    batch->column_type = b->column_type;
    batch->value_type = b->value_type;
    batch->columns = slot->columns;
    batch->values = slot->values;
    batch->col = b->column_type == EBB_I32 ? slot->columns : NULL;
    batch->val = b->value_type == EBB_F32 && b->info->sparse ? slot->values : NULL;
    batch->x = b->value_type == EBB_F32 && !b->info->sparse ? slot->values : NULL;
    batch->label = slot->label;
    batch->y = slot->y;
    batch->weight = slot->weight;
    batch->row = slot->row;
}

void ebb_batch_widen(const ebb_batch_t *batch, int64_t first, int64_t n, int32_t *col, float *val)
{
    if (col)
        (void)ebb_take_i32(ebb_value_elem(batch->column_type), false, batch->columns, 0, first, n, col);
    (void)ebb_take_f32(ebb_value_elem(batch->value_type), false, batch->values, 0, first, n, val); /* all types fit */
}
