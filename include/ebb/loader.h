/* The loader: shuffled batches of a data set, cut into lanes, read ahead by threads within a memory budget.
 *
 * Order. order(seed, epoch, position) -> row is a pure function (see ebb_order_row): blocks of rows are permuted over
 * the data set, such that every window takes its share of every part of it, and the windows of all lanes together still
 * more evenly (stratified sampling: batches of data sorted by label are about 1 % farther from uniform than a true
 * permutation's with windows of 96 blocks, 3 % where blocks differ in rows by 30 %), the permuted sequence is cut into
 * `lanes` spans whose lengths differ by at most one row, and within a lane rows are permuted inside windows of about
 * `window_blocks` blocks, which last a whole number of steps. A block is what the data set says is cheapest to read
 * together (the rows that begin in one chunk; of unequal numbers of rows), or `block_rows` rows where it cannot say, or
 * is so small that chunks would mix badly, or where block_rows is given. No row is dropped or repeated in an epoch.
 * Step s takes share(l) rows of lane l, where share(l) = batch*(l+1)/lanes - batch*l/lanes; the tail step is shorter.
 * Nothing depends on ranks or threads.
 *
 * Balance. Rows of sparse data differ in their non-zeros, by a factor of thousands in some data, and a step lasts as
 * long as the rank that has the most. So that every lane, and every rank whatever lanes it has, gets as many in each
 * step as the others: (1) blocks are permuted such that each window has the data set's mean of non-zeros per row, as
 * far as blocks say; (2) within a window rows are dealt to its steps by their non-zeros, once the window's row pointers
 * are read: long ones apart from each other, short ones to where they are needed, by chance otherwise. Windows are
 * dealt by teams of lanes (an eighth of all lanes; those that one of 8 ranks has), as a row may be longer than a lane's
 * share of a step. The rows of a window then still come in the order of ebb_order_row within each step, but to other
 * steps of the window; which ones depends on the data alone, so the order remains a pure function of seed, epoch and
 * data. Each row comes to each step of its window with equal probability, as before. Nothing of this happens where rows
 * are alike: dense data, unshuffled, or lengths that chance alone evens out to 0.3 %.
 *
 * Threads. create, acquire, release, seek and destroy belong to one thread; read-ahead threads are the loader's own.
 * Not collective: each rank loads its lanes alone.
 */
#ifndef EBB_LOADER_H
#define EBB_LOADER_H

#include <ebb/base.h>
#include <ebb/shard.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Everything the order depends on. */
typedef struct ebb_order {
    int64_t rows;
    int32_t lanes;         /* default 24 */
    int64_t batch;         /* global rows per step, >= lanes */
    int64_t block_rows;    /* 0: see above; then set to the rows of the largest block */
    int32_t window_blocks; /* default 96, fewer (down to 8) where that would be more than 384 MiB over all lanes */
    uint64_t seed;
    bool shuffle;                    /* false: rows in storage order, still cut into lanes */
    const ebb_row_blocks_t *blocks;  /* of the data set, set by ebb_order_init; NULL: blocks of block_rows rows */
    const ebb_row_blocks_t *profile; /* where its entries lie, set by ebb_order_init; NULL: dense, or not known */
} ebb_order_t;

/* Fill what is 0 from the data set; EBB_EINVAL (batch < lanes, more lanes than rows ...) says what to do. */
EBB_API ebb_status_t ebb_order_init(ebb_order_t *order, const ebb_dataset_info_t *info);
/* Row at position p (0 .. lane length - 1) of a lane in an epoch, before rows are dealt to the steps of their window. A
 * pass over one group of blocks (see ebb_row_blocks): microseconds to a millisecond; -1 when out of memory. */
EBB_API int64_t ebb_order_row(const ebb_order_t *order, int64_t epoch, int32_t lane, int64_t p);
/* All rows of a step, lane after lane: as above, but at the cost of one pass for all of them. row has room for a batch;
 * returns how many there are; -1 when out of memory. And all rows of a lane. */
EBB_API int64_t ebb_order_step_rows(const ebb_order_t *order, int64_t epoch, int64_t step, int64_t *row);
EBB_API int64_t ebb_order_lane_list(const ebb_order_t *order, int64_t epoch, int32_t lane, int64_t *row);
EBB_API int64_t ebb_order_lane_rows(const ebb_order_t *order, int32_t lane);
EBB_API int64_t ebb_order_lane_share(const ebb_order_t *order, int32_t lane); /* rows a step takes of it */
EBB_API int64_t ebb_order_steps(const ebb_order_t *order);                    /* per epoch */
/* XXH3-128 (hex, 33 bytes) over all rows of an epoch in the order of (step, lane, position), before they are dealt: one
 * hash per epoch, equal for any rank count. O(rows) time. Empty when out of memory. */
EBB_API void ebb_order_hash(const ebb_order_t *order, int64_t epoch, char hex[33]);

/* Where a loader stands; plain bytes that may be stored. */
typedef struct ebb_cursor {
    uint64_t seed;
    int64_t epoch, step;   /* the next step to deliver */
    uint8_t data_hash[16]; /* first half of the data set's hash */
} ebb_cursor_t;

/* Changes made to the values of each row, in this order. Zero: none. */
typedef struct ebb_transform {
    float row_sum; /* scale each row to this sum (1e4 for cell counts) */
    bool log1p;
    bool row_l2; /* scale each row to Euclidean length 1 */
    float scale; /* multiply (1/255 for pixels) */
} ebb_transform_t;

typedef struct ebb_loader_options {
    ebb_order_t order;
    ebb_transform_t transform;
    const int32_t *lanes; /* lanes this loader delivers, ascending; NULL: all */
    int32_t n_lanes;
    int threads;          /* read-ahead threads; 0: 1 */
    int64_t memory_bytes; /* budget for windows and batches; 0: 1 GiB. Too small for one window per lane: an error that
                           * says the need. A data set that takes less than half of it decoded is kept, so later epochs
                           * decode nothing. Each thread has a reader's chunk cache besides */
    int depth;            /* batches ready ahead; 0: 3 */
    void *(*alloc)(void *user, size_t bytes); /* batch memory (pinned for a GPU); NULL: base's own */
    void (*free)(void *user, void *ptr);
    void *alloc_user;
    bool stored; /* batches hold columns and values in the types of the shards: fewer bytes, which cost less time to put
                  * there and to copy on, to a GPU for instance. No transform then */
    bool skip_corrupt; /* rows of damaged chunks (EBB_ECORRUPT) are left out of their lane instead of being an error:
                        * the same rows whichever loader, of any number, has the lane */
} ebb_loader_options_t;

/* The rows of one lane within a batch. */
typedef struct ebb_lane_rows {
    int32_t lane;
    int64_t first, n; /* batch rows [first, first + n); n may be 0 in the tail step */
} ebb_lane_rows_t;

/* A batch: leased; valid until released; never written by the holder. Lanes lie one after another, ascending.
 *
 * Columns and values are int32 and float32, unless the loader's options say `stored`: then columns are EBB_U16 up to
 * 65,536 columns, else EBB_I32, and values of the data set's value_type. col, val and x are there where they are of
 * their types, columns and values always. */
typedef struct ebb_batch {
    int64_t epoch, step;
    int64_t rows, nnz;
    int32_t n_lanes;
    const ebb_lane_rows_t *lanes; /* (n_lanes) */
    const int64_t *rowptr;        /* (rows + 1), rowptr[0] = 0; NULL when dense */
    ebb_value_type_t column_type, value_type;
    const void *columns;  /* (nnz) of column_type; NULL when dense */
    const void *values;   /* (nnz), or (rows, cols) when dense, of value_type */
    const int32_t *col;   /* columns, where they are int32 */
    const float *val;     /* values, where they are float32; NULL when dense */
    const float *x;       /* the same of dense rows; NULL when sparse */
    const int32_t *label; /* (rows) class numbers, or NULL */
    const float *y;       /* (rows, target_cols) reals, or NULL */
    const float *weight;  /* (rows), or NULL when the data set has none */
    const int64_t *row;   /* (rows) global row numbers */
} ebb_batch_t;

typedef struct ebb_loader ebb_loader_t;

/* ds: borrowed until destroy. */
EBB_API ebb_status_t ebb_loader_create(const ebb_dataset_t *ds, const ebb_loader_options_t *options,
                                       ebb_loader_t **loader_p) EBB_MUST_CHECK;
EBB_API void ebb_loader_destroy(ebb_loader_t *loader);
/* Next batch; waits until one is ready. EBB_END at the end of the epoch: then the cursor stands at step 0 of the next
 * epoch and the next acquire begins it. At most `depth` batches may be held at once. A read-ahead thread's error is
 * returned by the acquire that would have delivered the damaged rows. */
EBB_API ebb_status_t ebb_loader_acquire(ebb_loader_t *loader, const ebb_batch_t **batch_p);
EBB_API void ebb_loader_release(ebb_loader_t *loader, const ebb_batch_t *batch);
/* Columns (NULL: none) and values of entries [first, first + n), of dense rows counted on from one to the next, as
 * int32 and float32: for who takes batches as they are stored, to widen what is computed next, while it is in cache. */
EBB_API void ebb_batch_widen(const ebb_batch_t *batch, int64_t first, int64_t n, int32_t *col, float *val);
/* A batch that the acquire after `ahead` others will deliver, also of the next epoch; NULL where it is not ready yet or
 * damaged. Does not wait and changes nothing: it may be read before it is acquired, until then or until a seek. */
EBB_API const ebb_batch_t *ebb_loader_peek(ebb_loader_t *loader, int ahead);
/* Go to (epoch, step): O(1) order work and at most one window per lane of decoding. No batch may be held. */
EBB_API ebb_status_t ebb_loader_seek(ebb_loader_t *loader, int64_t epoch, int64_t step);
EBB_API void ebb_loader_cursor(const ebb_loader_t *loader, ebb_cursor_t *cursor);
/* EBB_EDATA if the cursor belongs to other data or another seed. */
EBB_API ebb_status_t ebb_loader_restore(ebb_loader_t *loader, const ebb_cursor_t *cursor);

typedef struct ebb_loader_stats {
    int64_t rows, nnz, batches;
    int64_t bytes_read; /* compressed, by the data set's mean; what a chunk's neighbours cost is not in it */
    int64_t bytes_decoded;
    int64_t stall_ns;     /* time acquire waited */
    int64_t memory_bytes; /* held now */
    int64_t allocations;  /* since the first batch was delivered: 0 after warm-up */
    int64_t rows_skipped; /* left out of batches delivered; once an epoch */
} ebb_loader_stats_t;
EBB_API void ebb_loader_stats(const ebb_loader_t *loader, ebb_loader_stats_t *stats);

/* Rows that a damaged chunk spoils: [row0, row0 + rows), so far as this loader has met them. */
typedef struct ebb_loader_fault {
    int64_t row0, rows;
    char message[256];
} ebb_loader_fault_t;
/* The first `most` damaged chunks whose rows were skipped, each once; returns how many (at most 32 are kept). */
EBB_API int ebb_loader_faults(ebb_loader_t *loader, int most, ebb_loader_fault_t *faults);

/* The largest number of rows that a lane has in one batch, for sizing workspaces. */
EBB_API int64_t ebb_loader_max_lane_rows(const ebb_loader_t *loader);

#ifdef __cplusplus
}
#endif
#endif
