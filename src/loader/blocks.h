/* Decoded blocks: a fixed number of buffers, found by block number, pinned by the windows that need them, reused least
 * recently used first. All but ebb_block_decode under the loader's lock. */
#ifndef EBB_LOADER_BLOCKS_H
#define EBB_LOADER_BLOCKS_H

#include <ebb/loader.h>
#include "shard/stored.h"
#include <stdatomic.h>

/* Copies may read or write up to this many elements past a row. */
enum { EBB_COPY_SLACK = 16 };

typedef enum ebb_block_state { EBB_BLOCK_EMPTY, EBB_BLOCK_QUEUED, EBB_BLOCK_READY, EBB_BLOCK_FAILED } ebb_block_state_t;

/* What gathering reads of every row's block comes first, in one line of the CPU's cache. */
typedef struct ebb_block {
    ebb_block_state_t state;
    int32_t segments; /* > 0: rows lie here as they are stored, else in col and val, or x */
    int64_t row0;     /* its first row */
    int64_t *rowptr;  /* (block_rows + 1) */
    ebb_segment_t *segment;
    int32_t *col;   /* (capacity + slack) */
    float *val;     /* (capacity + slack) */
    int32_t *label; /* (block_rows) or NULL */
    float *x;       /* (block_rows, cols) when dense */
    float *y;       /* (block_rows, target_cols) or NULL */
    float *weight;  /* (block_rows) or NULL */
    int64_t id;     /* block number; -1 when empty */
    int32_t rows, pins;
    bool grown, own_room, own_piece; /* col and val (or x), room, or the block itself, are its own, not of the slabs */
    ebb_stored_room_t room;          /* for rows as they are stored */
    int64_t nnz, capacity;           /* entries held, entries there is room for */
    struct ebb_block *chain;         /* same bucket */
    struct ebb_block *older, *newer; /* unpinned ones */
    struct ebb_block *queued;        /* the next to be decoded */
    ebb_error_t error;               /* when failed */
} ebb_block_t;

typedef struct ebb_blocks {
    const ebb_order_t *order;
    const ebb_dataset_info_t *info;
    ebb_stored_t form;          /* set by the caller; possible: blocks are kept as they are stored */
    int64_t n, limit, capacity; /* buffers there are, may be, and room for their pointers */
    ebb_block_t **block;
    ebb_block_t **bucket;
    uint64_t bucket_mask;
    void *pieces; /* the first `limit` blocks, with what they have for each row */
    void *slab;   /* entries (or dense rows) of the first `limit` blocks in huge pages: rows are read in random order */
    ebb_block_t *oldest, *newest; /* unpinned, ready to be reused */
    atomic_llong entries;         /* capacity that new and regrown buffers get */
    atomic_llong bytes, allocations, decoded_bytes;
} ebb_blocks_t;

/* What one buffer takes, with the usual number of entries and a margin. */
int64_t ebb_block_bytes(const ebb_order_t *order, const ebb_dataset_info_t *info, const ebb_stored_t *form);
ebb_status_t ebb_blocks_init(ebb_blocks_t *b, const ebb_order_t *order, const ebb_dataset_info_t *info, int64_t limit);
void ebb_blocks_cleanup(ebb_blocks_t *b);
/* Pin block id. *block_p is NULL when every buffer is pinned and `beyond` is false; *fresh_p: it must be decoded. */
ebb_status_t ebb_blocks_pin(ebb_blocks_t *b, int64_t id, bool beyond, ebb_block_t **block_p, bool *fresh_p);
void ebb_blocks_unpin(ebb_blocks_t *b, ebb_block_t *block);
/* Fill a block. Any thread, without the lock; the block is queued, so nobody else touches it. */
ebb_status_t ebb_block_decode(ebb_blocks_t *b, ebb_block_t *block, ebb_reader_t *reader);

#endif
