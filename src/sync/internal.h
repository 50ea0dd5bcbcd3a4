/* What the files of sync share. */
#ifndef EBB_SYNC_INTERNAL_H
#define EBB_SYNC_INTERNAL_H

#include "base/alloc.h"
#include "base/exact.h"
#include "base/threads.h"
#include "compute/pinned.h"
#include "sync/merge.h"
#include "sync/place.h"
#include "sync/tree.h"
#include <ebb/sync.h>

#include <pthread.h>

#define EBB_SYNC_BLOCK 64   /* rows owned together */
#define EBB_SYNC_SLAB  4096 /* floats that one task sums at a time, on the host */
#define EBB_SYNC_FORM  4096 /* floats of rows formed at a time, roughly */
#define EBB_SYNC_TERMS 9    /* tables at least so wide give terms; narrower rows are as small */
#define EBB_SYNC_MARK  2    /* of a context that computes: after its work on a buffer */
#define EBB_SYNC_READY 4    /* and on: after its work on a bucket that is to be summed, of EBB_MAX_BUCKETS */

_Static_assert(EBB_SYNC_READY + EBB_MAX_BUCKETS <= EBB_MARKS, "a mark for each bucket");

/* A bucket's floats of one gradient: of a lane, or of a subtree. Tables only where they travel dense; zero when free.
 */
typedef struct buffer {
    struct buffer *next; /* of the list it is in */
    struct buffer *next_all;
    int bucket;
    float *dense; /* the whole vector, of which the buffer has its bucket */
    float *table[EBB_MAX_TABLES];
    uint64_t *touched[EBB_MAX_TABLES];
    bool used;        /* fast mode: holds sums of lanes */
    ebb_exec_t *user; /* on a device: context that was given work on it last, which may be under way; NULL: none */
} buffer_t;

/* Rows of one lane kept until reduce. */
typedef struct kept_rows {
    int64_t n;
    int32_t *idx;
    float *val;
    int64_t idx_cap, val_cap;
    const int64_t *count; /* as of ebb_rows_t */
} kept_rows_t;

typedef struct lane {
    ebb_grads_t grads;
    buffer_t *buf;
    buffer_t **last;   /* (buckets): buf of the step before */
    bool joined;       /* buf is the left sibling's sum, to which the lane adds its gradient */
    buffer_t *earlier; /* dense tables of the pieces so far */
    int pieces;        /* kept so far */
    kept_rows_t rows[EBB_MAX_TABLES], spare[EBB_MAX_TABLES];
    ebb_terms_t terms[EBB_MAX_TABLES]; /* instead of rows where n > 0 */
} lane_t;

typedef struct table {
    int64_t rows, width, words;
    bool dense;         /* how it travels this step */
    bool may_choose;    /* rows_mode auto */
    int64_t entries;    /* touched rows of all lanes of all ranks in the last step, -1 before there was one */
    ebb_merge_t lanes;  /* this rank's lanes into its pieces, per owner */
    ebb_merge_t pieces; /* all ranks' pieces into the sum of the own rows */
    int64_t own_rows, own_words;
    int64_t n; /* touched own rows; their sums: */
    int32_t *row, *local;
    float *val;
    int64_t row_cap, local_cap, val_cap;
    ebb_merge_t *parts; /* the merge that is left to ebb_sync_form, or NULL */
    /* travelling dense: own rows in local order, before they are packed */
    uint64_t *own_touched; /* (own_words) */
    int64_t *word_rank;    /* (own_words + 1): touched rows before each word */
} table_t;

/* Device memory that grows. */
typedef struct ebb_device_room {
    void *ptr;
    int64_t bytes;
} ebb_device_room_t;

typedef struct ebb_device_rows {
    ebb_device_room_t idx, val;
} ebb_device_rows_t;

/* A table whose gradients live on a device. */
typedef struct ebb_device_table {
    ebb_device_rows_t *piece;   /* (own pieces): sums of the own lanes, by owner */
    int64_t *piece_n;           /* (own pieces, owners): rows */
    int64_t *own_n;             /* (owners): rows of the finished sum */
    ebb_device_rows_t received; /* from other ranks */
    ebb_device_rows_t sums;     /* of the own rows */
    ebb_device_rows_t gathered; /* new weights of other owners */
    ebb_device_room_t local, packed;
} ebb_device_table_t;

/* Bytes to or from one rank; in the backend's memory. */
typedef struct parcel {
    char *data;
    int64_t bytes, cap;
} parcel_t;

/* Floats [begin, end) of the dense vector that lanes complete together, which go their own way through the tree: those
 * of one bucket of the layout, or all. */
typedef struct bucket {
    int64_t begin, end;
    buffer_t *free_list;
    int buffers;         /* made so far */
    uint8_t *node_done;  /* (nodes) */
    buffer_t **node_buf; /* (nodes): sum of a complete node, NULL: nothing there, or passed on to the parent */
    bool ready;          /* in this step: lanes' contexts have their marks */
} bucket_t;

/* A bucket of the layout, as it is exchanged. */
typedef struct share {
    ebb_own_t own;    /* this owner's */
    ebb_view_t *view; /* (nodes): until the next step */
} share_t;

struct ebb_sync {
    ebb_comm_t *comm;
    ebb_backend_t *backend;
    ebb_pool_t *pool;
    ebb_exec_t **exec;        /* (threads): that add */
    ebb_exec_t *const *lanes; /* (n_lane_execs): of lanes, in this step; NULL: the same */
    int n_lane_execs;
    const ebb_layout_t *layout;
    ebb_sync_mode_t mode;
    ebb_rows_mode_t rows_mode;
    int rank, ranks, threads;
    int owner, owners; /* place among the owners: (rank, ranks), or (0, 1) in fast mode */

    ebb_tree_t tree;
    int32_t lane0, n_lanes; /* this rank's */
    lane_t *lane;           /* (n_lanes) */
    int32_t *piece;         /* nodes of all ranks' pieces, rank after rank */
    int *piece0;            /* (ranks + 1) */

    pthread_mutex_t lock; /* guards what follows while lanes are under way */
    buffer_t *all;
    bucket_t *bucket; /* as lanes come: n_shares, or one. The last one's passes have the tables */
    int n_buckets;
    float **store; /* (stores): dense vectors; the i-th buffers of all buckets share the i-th one */
    int64_t stores, stores_cap;
    buffer_t *partial; /* fast mode: buffers with sums that nobody adds into at the moment */
    int64_t lane_entries[EBB_MAX_TABLES];

    bool leave_parts; /* of this reduce */
    bool leave_dense;
    float *formed; /* (threads, formed_floats) */
    int64_t formed_floats;
    int64_t eager; /* nodes of up to so many lanes are added as soon as they are complete */
    int64_t own_floats;
    share_t *share; /* (n_shares): of each bucket of the layout */
    int n_shares;
    int n_tables;
    table_t table[EBB_MAX_TABLES];
    ebb_view_t *view; /* (nodes): scratch of a pass */
    float *dense_sum; /* (own_floats) */
    float *scratch;   /* (threads, scratch_floats) */
    int64_t scratch_floats, slab_stride;
    float *zeros;          /* (slab_stride) */
    parcel_t *send, *recv; /* (ranks): of one kind of message at a time */
    parcel_t *send_rows, *recv_rows, *send_tables, *recv_tables;
    int64_t *words_out, *words_in; /* (ranks, words_each): counts */
    int64_t words_each;
    int64_t *gather_counts, *gather_displs; /* (ranks) */
    parcel_t gathered;
    ebb_request_t *request;
    int n_requests, max_requests;
    ebb_exact_t *norm; /* (threads) */
    double *segment;   /* (threads, slab) */
    ebb_sums_t sums;
    ebb_sync_stats_t stats;

    /* where gradients live on a device */
    bool device;
    int64_t slab;         /* floats that one task sums at a time */
    ebb_pinned_t squares; /* (squares_cap) doubles: of the norm's segments */
    int64_t squares_cap;
    ebb_device_table_t device_table[EBB_MAX_TABLES];
    int64_t *lane_counts; /* (n_lanes, n_tables), on the device: rows kept of lanes whose number it knows alone */
    uint8_t *device_meet; /* (all pieces, all pieces) */
    uint8_t *lanes_meet;  /* scratch: of the lanes of a sum */
    ebb_rows_t *list;     /* scratch: lists of a sum */
    ebb_wire_t staged;    /* our own wire */
    const ebb_wire_t *wire;
    ebb_part_t *part; /* messages noted */
    int64_t n_parts;
    bool under_way; /* something that a wire has begun */
};

static inline int64_t ebb_min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* The bucket in which lanes bring the floats of one of the layout's. */
static inline bucket_t *bucket_with(const ebb_sync_t *s, int share)
{
    return &s->bucket[s->n_buckets > 1 ? share : 0];
}

static inline int pieces_of(const ebb_sync_t *s, int rank)
{
    return s->piece0[rank + 1] - s->piece0[rank];
}

#endif
