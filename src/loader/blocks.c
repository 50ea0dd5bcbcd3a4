/* Decoded blocks. Buffers are made at the start and live as long as the loader; a block with more entries than its
 * buffer holds grows it, and tells the others what to grow to, so that skewed data settles after few allocations.
 *
 * A block that no window pins keeps its contents until its buffer is needed: where the data set fits, nothing is
 * decoded twice, and a block that two lanes share is decoded once. */
#include "loader/blocks.h"
#include "base/alloc.h"
#include "base/rng.h"
#include "loader/order.h"

#include <string.h>

static bool has_label(const ebb_dataset_info_t *info)
{
    return info->target == EBB_TARGET_CLASS;
}

static int64_t real_cols(const ebb_dataset_info_t *info)
{
    return info->target == EBB_TARGET_REAL ? info->target_cols : 0;
}

/* A quarter more than the mean; where blocks are whole chunks, as many as the largest has, if that is not far more. */
static int64_t usual_entries(const ebb_order_t *order, const ebb_dataset_info_t *info)
{
    if (!info->sparse)
        return 0;
    double mean = (double)info->nnz / (double)ebb_order_blocks(order);
    int64_t usual = (int64_t)(mean * 1.25) + 64;
    return order->blocks && order->blocks->max_entries < 2 * usual ? order->blocks->max_entries : usual;
}

/* Bytes of a block's part of the slab: rows as they are stored, or columns and values, or dense rows. */
static int64_t slab_bytes(const ebb_order_t *order, const ebb_dataset_info_t *info, const ebb_stored_t *form)
{
    int64_t bytes =
        info->sparse ? (usual_entries(order, info) + EBB_COPY_SLACK) * 8 : order->block_rows * info->cols * 4;
    if (form->possible)
        bytes = form->bytes;
    return (bytes + 63) / 64 * 64;
}

static int64_t fixed_bytes(const ebb_order_t *order, const ebb_dataset_info_t *info)
{
    int64_t row = info->sparse ? 8 : 0;
    row += (has_label(info) ? 4 : 0) + real_cols(info) * 4 + (info->weighted ? 4 : 0);
    return (order->block_rows + 1) * row + (int64_t)sizeof(ebb_block_t);
}

int64_t ebb_block_bytes(const ebb_order_t *order, const ebb_dataset_info_t *info, const ebb_stored_t *form)
{
    return fixed_bytes(order, info) + slab_bytes(order, info, form) +
           (form->bands + 1) * (int64_t)sizeof(ebb_segment_t);
}

static void block_free(ebb_block_t *block)
{
    if (!block)
        return;
    ebb_free(block->rowptr);
    if (block->grown) {
        ebb_free(block->col);
        ebb_free(block->val);
        ebb_free(block->x);
    }
    if (block->own_room)
        ebb_free(block->room.chunk);
    ebb_free(block->segment);
    ebb_free(block->label);
    ebb_free(block->y);
    ebb_free(block->weight);
    ebb_free(block);
}

/* Room for the entries; contents are not kept. */
static ebb_status_t reserve(ebb_blocks_t *b, ebb_block_t *block, int64_t entries)
{
    if (block->grown) {
        ebb_free(block->col);
        ebb_free(block->val);
        atomic_fetch_sub(&b->bytes, block->capacity * 8);
    }
    block->grown = true;
    block->col = NULL;
    block->val = NULL;
    block->capacity = 0;
    EBB_TRY(EBB_NEW_ARRAY("columns of a block", entries + EBB_COPY_SLACK, &block->col));
    EBB_TRY(EBB_NEW_ARRAY("values of a block", entries + EBB_COPY_SLACK, &block->val));
    block->capacity = entries;
    atomic_fetch_add(&b->bytes, entries * 8);
    atomic_fetch_add(&b->allocations, 2);
    return EBB_OK;
}

/* Room for dense rows that do not come as they are stored. */
static ebb_status_t reserve_dense(ebb_blocks_t *b, ebb_block_t *block)
{
    int64_t n = b->order->block_rows * b->info->cols;
    EBB_TRY(EBB_NEW_ARRAY("rows of a block", n, &block->x));
    block->grown = true;
    atomic_fetch_add(&b->bytes, n * 4);
    atomic_fetch_add(&b->allocations, 1);
    return EBB_OK;
}

/* Where rows go as they are stored; columns and values get room if there must be. */
static ebb_status_t give_stored_room(ebb_blocks_t *b, ebb_block_t *block)
{
    const ebb_stored_t *form = &b->form;
    int64_t bytes = slab_bytes(b->order, b->info, form);
    uint8_t *room = (uint8_t *)b->slab + b->n * bytes;
    block->own_room = b->n >= b->limit;
    if (block->own_room) {
        block->room.chunk = NULL;
        EBB_TRY(ebb_alloc("rows of a block", (size_t)bytes, (void **)&room));
    }
    block->room.chunk = room;
    block->room.tail_col = (int32_t *)(void *)(room + form->bands * form->band_bytes);
    block->room.tail_val = (float *)(void *)(block->room.tail_col + form->bands * form->tail);
    atomic_fetch_add(&b->bytes, bytes);
    EBB_TRY(EBB_NEW_ARRAY("segments of a block", form->bands + 1, &block->segment));
    block->room.segment = block->segment;
    return EBB_OK;
}

/* Columns and values, or dense rows: of the slab, or the block's own once there are more blocks than it was made for.
 */
static ebb_status_t give_room(ebb_blocks_t *b, ebb_block_t *block)
{
    if (b->form.possible)
        return give_stored_room(b, block);
    if (b->n >= b->limit)
        return b->info->sparse ? reserve(b, block, atomic_load(&b->entries)) : reserve_dense(b, block);
    int64_t bytes = slab_bytes(b->order, b->info, &b->form);
    char *room = (char *)b->slab + b->n * bytes;
    if (!b->info->sparse) {
        block->x = (float *)room;
        atomic_fetch_add(&b->bytes, bytes);
        return EBB_OK;
    }
    block->capacity = usual_entries(b->order, b->info);
    block->col = (int32_t *)room;
    block->val = (float *)room + block->capacity + EBB_COPY_SLACK;
    atomic_fetch_add(&b->bytes, block->capacity * 8);
    return EBB_OK;
}

static ebb_status_t fill_buffers(ebb_blocks_t *b, ebb_block_t *block)
{
    const ebb_dataset_info_t *info = b->info;
    int64_t rows = b->order->block_rows;
    if (info->sparse)
        EBB_TRY(EBB_NEW_ARRAY("row pointers of a block", rows + 1, &block->rowptr));
    EBB_TRY(give_room(b, block));
    if (has_label(info))
        EBB_TRY(EBB_NEW_ARRAY("labels of a block", rows, &block->label));
    if (real_cols(info) > 0)
        EBB_TRY(EBB_NEW_ARRAY("targets of a block", rows * real_cols(info), &block->y));
    if (info->weighted)
        EBB_TRY(EBB_NEW_ARRAY("weights of a block", rows, &block->weight));
    atomic_fetch_add(&b->bytes, fixed_bytes(b->order, info));
    atomic_fetch_add(&b->allocations, 1);
    return EBB_OK;
}

static void newest_add(ebb_blocks_t *b, ebb_block_t *block)
{
    block->older = b->newest;
    block->newer = NULL;
    if (b->newest)
        b->newest->newer = block;
    else
        b->oldest = block;
    b->newest = block;
}

static void oldest_add(ebb_blocks_t *b, ebb_block_t *block)
{
    block->newer = b->oldest;
    block->older = NULL;
    if (b->oldest)
        b->oldest->older = block;
    else
        b->newest = block;
    b->oldest = block;
}

static void list_remove(ebb_blocks_t *b, ebb_block_t *block)
{
    if (block->older)
        block->older->newer = block->newer;
    else
        b->oldest = block->newer;
    if (block->newer)
        block->newer->older = block->older;
    else
        b->newest = block->older;
    block->older = block->newer = NULL;
}

/* One more buffer, empty, at the old end of the list. */
static ebb_status_t add_buffer(ebb_blocks_t *b)
{
    ebb_block_t *block;
    EBB_TRY(ebb_grow("block table", (void **)&b->block, &b->capacity, b->n + 1, sizeof *b->block));
    EBB_TRY(EBB_NEW("block", &block));
    block->id = -1;
    ebb_status_t status = fill_buffers(b, block);
    if (status != EBB_OK) {
        block_free(block);
        return status;
    }
    b->block[b->n++] = block;
    oldest_add(b, block);
    return EBB_OK;
}

ebb_status_t ebb_blocks_init(ebb_blocks_t *b, const ebb_order_t *order, const ebb_dataset_info_t *info, int64_t limit)
{
    uint64_t buckets = 16;
    b->order = order;
    b->info = info;
    b->limit = limit;
    atomic_store(&b->entries, usual_entries(order, info));
    while (buckets < 2 * (uint64_t)limit)
        buckets *= 2;
    b->bucket_mask = buckets - 1;
    EBB_TRY(EBB_NEW_ARRAY("block buckets", buckets, &b->bucket));
    EBB_TRY(ebb_alloc("blocks", (size_t)(limit * slab_bytes(order, info, &b->form)), &b->slab));
    while (b->n < limit)
        EBB_TRY(add_buffer(b));
    return EBB_OK;
}

void ebb_blocks_cleanup(ebb_blocks_t *b)
{
    for (int64_t i = 0; i < b->n; i++)
        block_free(b->block[i]);
    ebb_free(b->block);
    ebb_free(b->bucket);
    ebb_free(b->slab);
}

static ebb_block_t **bucket_of(ebb_blocks_t *b, int64_t id)
{
    return &b->bucket[ebb_mix64((uint64_t)id) & b->bucket_mask];
}

/* Forget what a buffer holds. */
static void drop(ebb_blocks_t *b, ebb_block_t *block)
{
    if (block->id < 0)
        return;
    ebb_block_t **link = bucket_of(b, block->id);
    while (*link != block)
        link = &(*link)->chain;
    *link = block->chain;
    block->chain = NULL;
    block->id = -1;
    block->state = EBB_BLOCK_EMPTY;
}

static void assign(ebb_blocks_t *b, ebb_block_t *block, int64_t id)
{
    ebb_block_t **link = bucket_of(b, id);
    block->id = id;
    block->rows = (int32_t)ebb_order_block_rows(b->order, id);
    block->row0 = ebb_order_block_row(b->order, id);
    block->state = EBB_BLOCK_QUEUED;
    block->chain = *link;
    *link = block;
}

ebb_status_t ebb_blocks_pin(ebb_blocks_t *b, int64_t id, bool beyond, ebb_block_t **block_p, bool *fresh_p)
{
    ebb_block_t *block = *bucket_of(b, id);
    while (block && block->id != id)
        block = block->chain;
    *fresh_p = !block;
    *block_p = NULL;
    if (!block) {
        if (!b->oldest && !beyond)
            return EBB_OK;
        if (!b->oldest)
            EBB_TRY(add_buffer(b));
        block = b->oldest;
        drop(b, block);
        assign(b, block, id);
    }
    if (block->pins++ == 0)
        list_remove(b, block);
    *block_p = block;
    return EBB_OK;
}

void ebb_blocks_unpin(ebb_blocks_t *b, ebb_block_t *block)
{
    if (--block->pins > 0)
        return;
    if (block->state == EBB_BLOCK_READY) {
        newest_add(b, block);
        return;
    }
    drop(b, block);
    oldest_add(b, block);
}

static ebb_status_t decode_sparse(ebb_blocks_t *b, ebb_block_t *block, int64_t row0, ebb_reader_t *reader)
{
    EBB_TRY(ebb_reader_rowptr(reader, row0, block->rows, 0, block->rowptr));
    block->nnz = block->rowptr[block->rows];
    if (block->nnz > block->capacity) {
        long long want = block->nnz + block->nnz / 8, now = atomic_load(&b->entries);
        while (want > now && !atomic_compare_exchange_weak(&b->entries, &now, want))
            continue;
        EBB_TRY(reserve(b, block, want > now ? want : now));
    }
    return ebb_reader_csr(reader, row0, block->rows, block->col, block->val);
}

static ebb_status_t decode_dense(ebb_blocks_t *b, ebb_block_t *block, ebb_reader_t *reader)
{
    if (!block->x)
        EBB_TRY(reserve_dense(b, block));
    return ebb_reader_dense(reader, block->row0, block->rows, block->x);
}

ebb_status_t ebb_block_decode(ebb_blocks_t *b, ebb_block_t *block, ebb_reader_t *reader)
{
    int64_t row0 = block->row0;
    block->segments = 0;
    if (b->form.possible)
        EBB_TRY(ebb_reader_stored(reader, &b->form, row0, block->rows, block->rowptr, &block->room, &block->segments));
    if (b->info->sparse) {
        if (block->segments == 0)
            EBB_TRY(decode_sparse(b, block, row0, reader));
        block->nnz = block->rowptr[block->rows];
        atomic_fetch_add(&b->decoded_bytes, block->nnz * 8 + (block->rows + 1) * 8);
    } else {
        if (block->segments == 0)
            EBB_TRY(decode_dense(b, block, reader));
        block->nnz = block->rows * b->info->cols;
        atomic_fetch_add(&b->decoded_bytes, block->nnz * 4);
    }
    if (block->label || block->y || block->weight)
        EBB_TRY(ebb_reader_targets(reader, row0, block->rows, block->label, block->y, block->weight));
    return EBB_OK;
}
