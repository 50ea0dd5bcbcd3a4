/* Sums of sorted row lists along the canonical tree, in one pass over the rows. */
#ifndef EBB_SYNC_MERGE_H
#define EBB_SYNC_MERGE_H

#include "base/threads.h"
#include <ebb/base.h>
#include <ebb/compute.h>

/* Rows of a table, ascending and unique; as values, or as terms to be summed where they are wanted. */
typedef struct ebb_list {
    const int32_t *idx;
    const float *val; /* (n, width) */
    const ebb_terms_t *terms;
    int64_t n;
} ebb_list_t;

/* What forms the values of terms: one context per thread of the pool. */
typedef struct ebb_merge_compute {
    const ebb_backend_ops_t *ops;
    ebb_exec_t **exec;
} ebb_merge_compute_t;

/* Where the sums of one part that one owner gets are to be put. */
typedef struct ebb_merge_out {
    int32_t *idx;
    float *val;
    int64_t n; /* rows: found by ebb_merge_find */
} ebb_merge_out_t;

typedef struct merge_thread merge_thread_t;

typedef struct ebb_merge {
    /* set by ebb_merge_init */
    ebb_pool_t *pool;
    ebb_merge_compute_t compute;
    int lists;
    uint8_t *meet; /* (lists, lists): depth at which two lists' subtrees meet; deeper ones are added first */
    int parts;
    int32_t *part0; /* (parts + 1): lists [part0[p], part0[p+1]) are summed into part p */
    int owners;     /* row r goes to owner (r / 64) mod owners */
    int64_t width;
    bool canonical; /* turn -0 into +0 */
    /* set by the caller before ebb_merge_find; its content must stay until ebb_merge_sum is done */
    ebb_list_t *list; /* (lists) */
    /* out[owner * parts + part]: n after ebb_merge_find; the rest is set by the caller before ebb_merge_sum */
    ebb_merge_out_t *out;
    /* work */
    int words;      /* of 64 lists */
    int ranges;     /* row ranges, one task each */
    int32_t *bound; /* (ranges + 1): first row of each */
    int64_t *start; /* (ranges, lists): first entry of each list */
    int64_t *found; /* (ranges): rows */
    int64_t *share; /* (ranges, owners * parts): rows, then offsets */
    int32_t *row;   /* rows found, range after range with gaps */
    uint64_t *mask; /* their lists (words each) */
    int64_t row_cap, mask_cap;
    merge_thread_t *thread;
} ebb_merge_t;

/* meet and part0 are copied. */
ebb_status_t ebb_merge_init(ebb_merge_t *merge, ebb_pool_t *pool, ebb_merge_compute_t compute, int lists,
                            const uint8_t *meet, int parts, const int32_t *part0, int owners, int64_t width,
                            bool canonical) EBB_MUST_CHECK;
void ebb_merge_cleanup(ebb_merge_t *merge);
/* Find the rows and count them per owner and part. */
ebb_status_t ebb_merge_find(ebb_merge_t *merge);
ebb_status_t ebb_merge_sum(ebb_merge_t *merge);
/* Instead of ebb_merge_sum, for one part and one owner: the rows of one range (of merge->ranges), any thread, each
 * range once. At most `most` rows at a time are summed into val (most, width) and given to `use` with their numbers,
 * the first being row `at` of all. */
typedef ebb_status_t (*ebb_merge_use_t)(void *user, int thread, int64_t at, int64_t n, const int32_t *row,
                                        const float *val);
ebb_status_t ebb_merge_range(ebb_merge_t *merge, int thread, int64_t range, int64_t most, float *val,
                             ebb_merge_use_t use, void *user);
/* Entries of all lists. */
int64_t ebb_merge_entries(const ebb_merge_t *merge);

#endif
