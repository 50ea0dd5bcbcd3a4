/* Batches: a ring of buffers into which rows are gathered from decoded windows. */
#ifndef EBB_LOADER_BATCH_H
#define EBB_LOADER_BATCH_H

#include "loader/plan.h"

typedef enum ebb_slot_state { EBB_SLOT_FREE, EBB_SLOT_FILLING, EBB_SLOT_READY, EBB_SLOT_HELD } ebb_slot_state_t;

/* Entries of a row that are not in byte planes, but lie widened somewhere. */
typedef struct ebb_patch {
    int64_t row, to, n;
    const int32_t *col;
    const float *val;
} ebb_patch_t;

typedef struct ebb_slot {
    ebb_batch_t batch; /* first: what the consumer holds */
    ebb_slot_state_t state;
    int64_t seq;
    int64_t capacity; /* entries of columns and values */
    ebb_lane_rows_t *lanes;
    int64_t *first_window; /* (n_lanes) where the step begins in each lane's ring */
    int64_t *rowptr, *row;
    int32_t *label;
    void *columns, *values; /* of the batches' types */
    float *y, *weight;
    const ebb_block_t **block; /* (rows) where each row is: block, and row in it */
    uint32_t *in_block;
    const int32_t **col_from; /* (rows) sparse: where each row's entries are */
    const float **val_from;
    const uint8_t **col_plane, **val_plane; /* (rows) the same of rows kept as they are stored; NULL: patched in */
    int64_t *to;                            /* (rows + 1) where they go: rowptr, or of dense rows */
    ebb_patch_t *patch;                     /* (rows) by rows */
    int64_t patches;
    int64_t skipped;   /* rows of damaged blocks left out */
    ebb_error_t error; /* status EBB_OK: the batch is good */
} ebb_slot_t;

/* What slots share. */
typedef struct ebb_batches {
    const ebb_plan_t *plan;
    const ebb_dataset_info_t *info;
    ebb_transform_t transform;
    bool plain;  /* no transform */
    bool stored; /* columns and values are of the types in which shards hold them */
    ebb_value_type_t column_type, value_type;
    bool wide;                /* they are int32 and float32 */
    int entry_bytes;          /* a column and a value; dense: a value */
    const ebb_stored_t *form; /* of the blocks */
    bool skip_corrupt;
    int64_t max_rows;
    int n;
    ebb_slot_t *slot;
    void *(*alloc)(void *user, size_t bytes);
    void (*free)(void *user, void *ptr);
    void *alloc_user;
    atomic_llong entries; /* capacity that regrown slots get */
    atomic_llong bytes, allocations;
} ebb_batches_t;

/* Types of columns and values, from info and stored. */
void ebb_batches_types(ebb_batches_t *b);
int64_t ebb_batch_bytes(const ebb_batches_t *b, int64_t rows);
/* plan, info, transform, stored, types, alloc and free are set by the caller. */
ebb_status_t ebb_batches_init(ebb_batches_t *b, int n);
void ebb_batches_cleanup(ebb_batches_t *b);
/* Under the lock: note where the step's windows are. */
void ebb_slot_begin(ebb_batches_t *b, ebb_slot_t *slot, int64_t seq);
/* Without the lock: gather the rows. A failure is left in slot->error. */
void ebb_slot_fill(ebb_batches_t *b, ebb_slot_t *slot);

#endif
