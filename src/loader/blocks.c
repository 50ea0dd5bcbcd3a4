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

/* A block itself and what it has for each row lie in one piece, and the pieces of the first `limit` blocks in one slab,
 * of huge pages: of every row some of it is read, in random order. */
static int64_t in_lines(int64_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* An odd number of lines, so that blocks do not meet in the same few sets of a cache. */
static int64_t piece_bytes(const ebb_order_t *order, const ebb_dataset_info_t *info, const ebb_stored_t *form)
{
    int64_t rows = order->block_rows, bytes = in_lines((int64_t)sizeof(ebb_block_t));
    bytes += info->sparse ? in_lines((rows + 1) * 8) : 0;
    bytes += has_label(info) ? in_lines(rows * 4) : 0;
    bytes += in_lines(rows * real_cols(info) * 4) + (info->weighted ? in_lines(rows * 4) : 0);
    bytes += form->possible ? in_lines((form->bands + 1) * (int64_t)sizeof(ebb_segment_t)) : 0;
    return bytes | 64;
}

int64_t ebb_block_bytes(const ebb_order_t *order, const ebb_dataset_info_t *info, const ebb_stored_t *form)
{
    return piece_bytes(order, info, form) + slab_bytes(order, info, form);
}

static void block_free(ebb_block_t *block)
{
    if (block->grown) {
        ebb_free(block->col);
        ebb_free(block->val);
        ebb_free(block->x);
    }
    if (block->own_room)
        ebb_free(block->room.chunk);
    if (block->own_piece)
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
    block->room.segment = block->segment;
    atomic_fetch_add(&b->bytes, bytes);
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

/* The next part of a piece. */
static void *part(uint8_t **at, int64_t bytes)
{
    uint8_t *here = *at;
    *at += in_lines(bytes);
    return here;
}

/* A block at the beginning of a piece of memory, which is all zeros. */
static ebb_block_t *lay_out(const ebb_blocks_t *b, uint8_t *piece)
{
    const ebb_dataset_info_t *info = b->info;
    int64_t rows = b->order->block_rows;
    ebb_block_t *block = part(&piece, (int64_t)sizeof(ebb_block_t));
    if (info->sparse)
        block->rowptr = part(&piece, (rows + 1) * (int64_t)sizeof *block->rowptr);
    if (has_label(info))
        block->label = part(&piece, rows * (int64_t)sizeof *block->label);
    if (real_cols(info) > 0)
        block->y = part(&piece, rows * real_cols(info) * (int64_t)sizeof *block->y);
    if (info->weighted)
        block->weight = part(&piece, rows * (int64_t)sizeof *block->weight);
    if (b->form.possible)
        block->segment = part(&piece, (b->form.bands + 1) * (int64_t)sizeof *block->segment);
    block->id = -1;
    return block;
}

static ebb_status_t make_block(ebb_blocks_t *b, ebb_block_t **block_p)
{
    int64_t bytes = piece_bytes(b->order, b->info, &b->form);
    uint8_t *piece = (uint8_t *)b->pieces + b->n * bytes;
    bool own = b->n >= b->limit;
    if (own) {
        EBB_TRY(ebb_alloc("block", (size_t)bytes, (void **)&piece));
        atomic_fetch_add(&b->allocations, 1);
    }
    *block_p = lay_out(b, piece);
    (*block_p)->own_piece = own;
    atomic_fetch_add(&b->bytes, bytes);
    return give_room(b, *block_p);
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
    ebb_block_t *block = NULL;
    EBB_TRY(ebb_grow("block table", (void **)&b->block, &b->capacity, b->n + 1, sizeof *b->block));
    ebb_status_t status = make_block(b, &block);
    if (status != EBB_OK) {
        if (block)
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
    EBB_TRY(ebb_alloc("blocks", (size_t)(limit * piece_bytes(order, info, &b->form)), &b->pieces));
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
    ebb_free(b->pieces);
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
