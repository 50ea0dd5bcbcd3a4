/* Gradient sums over lanes and ranks.
 *
 * canonical: lane gradients are added along one fixed binary tree over the lane numbers (node [lo,hi) splits at lo +
 * (hi-lo+1)/2), whatever rank holds which lane; so the bits of the sum do not depend on the ranks. No sum
 * is -0 (as if +0 were added to each leaf), so absent lanes and rows of a table equal zeros. A rank holds a contiguous
 * range of lanes, adds the maximal subtrees within it, and sends each slice of them to the slice's owner, which
 * finishes the tree. The owner applies the optimiser to its slice; the new slice is gathered by all. fast:
 * MPI_Allreduce (or NCCL's), for comparison only; every rank then owns everything and gather does nothing (see
 * ebb_sync_place).
 *
 * Row-sparse tables travel as rows or, when that is cheaper, as dense slices with a bitmap of touched rows; the choice
 * is made per table and step from the step before, alike on all ranks, and changes no bit.
 *
 * Ownership: dense floats in contiguous slices of multiples of 16; table row r belongs to rank (r / 64) mod ranks,
 * local row (r / 64 / ranks) * 64 + r mod 64.
 */
#ifndef EBB_SYNC_H
#define EBB_SYNC_H

#include <ebb/base.h>
#include <ebb/comm.h>
#include <ebb/compute.h>
#include <ebb/model.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ebb_sync_mode { EBB_SYNC_CANONICAL, EBB_SYNC_FAST } ebb_sync_mode_t;
/* How gradients of tables travel; changes time, never bits. */
typedef enum ebb_rows_mode { EBB_ROWS_AUTO, EBB_ROWS_SPARSE, EBB_ROWS_DENSE } ebb_rows_mode_t;

typedef struct ebb_sync ebb_sync_t;
struct ebb_pool; /* base/threads.h */

/* First lane of a rank: lanes are dealt in contiguous ranges, rank r holds [lane0(r), lane0(r+1)). */
static inline int32_t ebb_lane_first(int32_t lanes, int rank, int ranks)
{
    return (int32_t)((int64_t)lanes * rank / ranks);
}

/* pool: threads that add; exec: one context per pool thread, which may be others than lanes compute on
 * (ebb_sync_ready). All borrowed until destroy. Collective. EBB_EUSAGE when there are more ranks than lanes. */
EBB_API ebb_status_t ebb_sync_create(ebb_comm_t *comm, ebb_backend_t *backend, struct ebb_pool *pool, ebb_exec_t **exec,
                                     const ebb_layout_t *layout, int32_t lanes, ebb_sync_mode_t mode,
                                     ebb_rows_mode_t rows_mode, ebb_sync_t **sync_p) EBB_MUST_CHECK;
EBB_API void ebb_sync_destroy(ebb_sync_t *sync);
/* Where gradients live on a device (a backend without EBB_CAP_HOST_MEMORY), they go from rank to rank by this wire
 * instead of through host memory. Before the first step; borrowed until destroy. The bits are the same. */
EBB_API void ebb_sync_use_wire(ebb_sync_t *sync, const ebb_wire_t *wire);

/* Lanes come bucket by bucket of the layout (ebb_model_backward_bucket), all of this rank with one before any with the
 * next. Else lanes come whole, as bucket 0. Before the first step; for canonical sums on devices. Ranks may differ. */
EBB_API ebb_status_t ebb_sync_use_buckets(ebb_sync_t *sync) EBB_MUST_CHECK;

/* Per step: begin; for each lane of this rank, on any pool thread: lane_grads -> model fills -> lane_done; reduce;
 * optimiser; gather. On a device also in parts that overlap: ready after all lanes came with a bucket; then, for each
 * bucket of the layout, reduce_bucket, optimiser, gather_bucket. */
EBB_API ebb_status_t ebb_sync_begin(ebb_sync_t *sync);
/* Buffers for a lane's gradient, of one bucket or whole, with grads->accumulate false (in fast mode perhaps true, over
 * other lanes' sums). whole: the lane comes in one piece of which the model adds each float in one addition
 * (ebb_model_adds_whole); then accumulate may be true over the sum of the lane's left sibling, which is the same
 * addition without another pass over memory. Thread-safe. Dense tables and bitmaps come zeroed. exec: where the passes
 * will run that fill them, up to lane_done; what it was given before may still be under way, here and in the calls that
 * follow. */
EBB_API ebb_status_t ebb_sync_lane_grads(ebb_sync_t *sync, int32_t lane, int bucket, bool whole, ebb_exec_t *exec,
                                         ebb_grads_t **grads_p);
/* The model has added one more piece of the lane's rows (gradient accumulation): keeps rows[] of this piece and readies
 * grads for the next. Call before lane_done when there are several pieces, also after the last one. Thread-safe. */
EBB_API ebb_status_t ebb_sync_lane_piece(ebb_sync_t *sync, int32_t lane, ebb_exec_t *exec);
/* The lane's bucket, or the lane, is complete (also when it had no rows this step: grads untouched, has_rows false).
 * Thread-safe; may add subtrees. */
EBB_API ebb_status_t ebb_sync_lane_done(ebb_sync_t *sync, int32_t lane, int bucket, bool has_rows, ebb_exec_t *exec);
/* All lanes of this rank have come with their bucket, or whole as bucket 0, on n contexts of a device: their sums begin
 * after what these were given until now, and what they are given after the step's last gather begins after that. Where
 * it is not called, lanes came on the contexts that add. exec: until the next begin. No other thread is at work here.
 */
EBB_API ebb_status_t ebb_sync_ready(ebb_sync_t *sync, int bucket, int n, ebb_exec_t *const *exec);

/* What this rank owns of the gradient sum, valid until the next begin. In the backend's memory. */
typedef struct ebb_sums {
    int64_t dense_floats; /* own floats of the dense vector, as ebb_sync_own places them */
    float *dense;         /* (dense_floats); NULL: not there yet, ebb_sync_form_dense gives them */
    struct {
        int64_t n;            /* touched rows of this rank */
        const int32_t *row;   /* (n) global row numbers, ascending */
        const int32_t *local; /* (n) local row numbers */
        float *val;           /* (n, width) */
        int64_t parts;        /* > 0: row, local and val are not there yet; ebb_sync_form gives them in so many parts */
    } table[EBB_MAX_TABLES];
    ebb_sync_t *sync;
} ebb_sums_t;

/* Exchange and finish the sums. Collective. On a device they may still be under way: what any of the contexts is given
 * from now on finds them. */
EBB_API ebb_status_t ebb_sync_reduce(ebb_sync_t *sync, ebb_sums_t **sums_p);
/* Of one bucket of the layout, on a device and for canonical sums; all of them in order, the last with the tables. What
 * lanes' contexts were given after their bucket goes on meanwhile. Collective. */
EBB_API ebb_status_t ebb_sync_reduce_bucket(ebb_sync_t *sync, int bucket, ebb_sums_t **sums_p);
/* The same, but the dense vector and rows of tables may be left in parts: they are summed where they are used, while
 * they are in the cache. */
EBB_API ebb_status_t ebb_sync_reduce_parts(ebb_sync_t *sync, ebb_sums_t **sums_p);
/* Rows n of a part with their numbers and sums, which are gone when this returns. */
typedef ebb_status_t (*ebb_rows_use_t)(void *user, int thread, int64_t n, const int32_t *row, const int32_t *local,
                                       const float *val);
/* Form the rows of one part, some at a time, and give them to `use`. Each part once, on any pool thread. */
EBB_API ebb_status_t ebb_sync_form(ebb_sync_t *sync, int table, int thread, int64_t part, ebb_rows_use_t use,
                                   void *user);
/* Sums of floats [at, at + n) of the dense vector, which are gone when this returns. */
typedef ebb_status_t (*ebb_dense_use_t)(void *user, int thread, int64_t at, int64_t n, const float *sum);
/* Form the sums of floats [begin, end) of the dense vector, some at a time, and give them to `use`: own ones of one
 * bucket. On any pool thread. */
EBB_API ebb_status_t ebb_sync_form_dense(const ebb_sync_t *sync, int thread, int64_t begin, int64_t end,
                                         ebb_dense_use_t use, void *user);
/* After the owner changed its floats of weights->dense and the touched rows of its tables in its copy of the weights:
 * give them to all. Collective. */
EBB_API ebb_status_t ebb_sync_gather(ebb_sync_t *sync, ebb_weights_t *weights);
/* Of one bucket of the layout, as ebb_sync_reduce_bucket. */
EBB_API ebb_status_t ebb_sync_gather_bucket(ebb_sync_t *sync, int bucket, ebb_weights_t *weights);
/* Exchanges of devices may be under way when these return. Contexts wait for them by themselves; before the host waits
 * for a context, or for other ranks, it is to look after them by this, which waits until they are through, for a
 * limited time, and tells what went wrong. Not collective. */
EBB_API ebb_status_t ebb_sync_settle(ebb_sync_t *sync);
/* Squared Euclidean norm of the whole gradient sum, exact sums, equal for any rank count. After reduce. Collective. */
EBB_API ebb_status_t ebb_sync_norm2(ebb_sync_t *sync, double *norm2_p);

/* The rank's place among the owners, with which optimisers and checkpoints are made: (rank, ranks), or (0, 1) in fast
 * mode, where every rank owns everything. */
EBB_API void ebb_sync_place(const ebb_sync_t *sync, int *owner_p, int *owners_p);

/* Bytes that lanes' dense gradients, and other ranks' messages of them, may take in the backend's memory, which they do
 * as steps go. */
EBB_API int64_t ebb_sync_step_bytes(const ebb_sync_t *sync);

/* What a rank owns of a bucket: floats [begin, end) of the dense vector, which lie from `local` on in its own arrays
 * (sums, optimiser state). There buckets follow one another as in the dense vector, so a lonely rank's arrays are as
 * the vector. */
typedef struct ebb_own {
    int64_t begin, end, local;
} ebb_own_t;
EBB_API ebb_own_t ebb_sync_own(const ebb_layout_t *layout, int bucket, int rank, int ranks);
/* Own floats of all buckets. */
EBB_API int64_t ebb_sync_own_floats(const ebb_layout_t *layout, int rank, int ranks);
/* Rows of a table that a rank owns. */
EBB_API int64_t ebb_sync_table_rows(int64_t rows, int rank, int ranks);
/* Global row of a local row, and back (the row must be the rank's own). */
static inline int64_t ebb_sync_global_row(int64_t local, int rank, int ranks)
{
    return (local / 64 * ranks + rank) * 64 + local % 64;
}
static inline int64_t ebb_sync_local_row(int64_t row, int ranks)
{
    return row / 64 / ranks * 64 + row % 64;
}

typedef struct ebb_sync_stats {
    int64_t reduce_ns, gather_ns;
    int64_t bytes_sent;
    int64_t dense_steps[EBB_MAX_TABLES]; /* steps in which a table travelled dense */
} ebb_sync_stats_t;
EBB_API void ebb_sync_stats(const ebb_sync_t *sync, ebb_sync_stats_t *stats);

#ifdef __cplusplus
}
#endif
#endif
