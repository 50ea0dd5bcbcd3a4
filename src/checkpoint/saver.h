/* The saver's insides, which saver.c and saver_parts.c share. */
#ifndef EBB_CHECKPOINT_SAVER_H
#define EBB_CHECKPOINT_SAVER_H

#include "checkpoint/internal.h"

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <xxhash.h>

enum { SECTOR = 4096 };

/* The first two are of other ranks than 0. */
typedef enum stage { IDLE, PUT, SYNC, TAKE, HASH, SEAL, OPEN, WRITE, COMMIT, PRUNE, CLEAR } stage_t;

/* What one rank writes of an array. */
typedef struct part {
    int rank;
    int64_t at, image_at, bytes; /* in the file; in this rank's image */
} part_t;

struct ebb_saver {
    ebb_comm_t *comm;
    bool pending;
    bool split;       /* what is pending is written by several ranks */
    bool parts_begun; /* and they are at it: not all are known to be through */
    bool sharing_known, shared;
    pthread_t thread;
    bool threaded;
    pthread_mutex_t lock;
    pthread_cond_t more;
    atomic_bool ended, urgent, quit;
    /* guarded by lock: */
    stage_t stage;
    int array;    /* or part */
    int64_t at;   /* floats hashed of the array; bytes written or cleared, or done of the part */
    part_t *part; /* of other ranks, in file order, on rank 0; this rank's own elsewhere */
    int64_t n_parts, part_capacity;
    XXH3_state_t **written; /* (ranks) of what is read, on rank 0; elsewhere [rank]: of what is written */
    uint64_t *told;         /* (ranks) by those who wrote */
    char folder[PATH_MAX], tmp[PATH_MAX];
    int tmp_fd, direct_fd; /* for parts; the latter past the page cache, or -1 */
    char *image;
    int64_t room;
    ebb_ckpt_index_t index;
    ebb_checkpoint_meta_t meta;
    ebb_ckpt_writer_t writer;
    ebb_ckpt_digest_t *digest;
    int keep;
    int64_t begun_ns;
    ebb_saved_t saved;
    ebb_error_t error; /* the job's; status EBB_OK: none */
};

/* At least so much memory for the snapshot. */
ebb_status_t ebb_saver_make_room(ebb_saver_t *saver, int64_t bytes);

/* ---- saver_parts.c ---- */

/* Is what comes next written by several ranks? Collective; the same on every rank. */
ebb_status_t ebb_saver_decide_on_split(ebb_saver_t *saver, const ebb_checkpoint_state_t *state);
/* Copy this rank's part, and list the parts that it writes, or that others write. Collective. */
ebb_status_t ebb_saver_take_parts(ebb_saver_t *saver, const ebb_checkpoint_state_t *state);
/* Pieces of the job: write one, sync; read one back. Lock held. */
ebb_status_t ebb_saver_put_piece(ebb_saver_t *saver);
ebb_status_t ebb_saver_sync_parts(ebb_saver_t *saver);
ebb_status_t ebb_saver_take_piece(ebb_saver_t *saver);
/* Is all of the file's [at, at + n) others' part? Then it is there. Asked in ascending order. */
bool ebb_saver_is_written(ebb_saver_t *saver, int64_t at, int64_t n);
void ebb_saver_close_parts(ebb_saver_t *saver);

#endif
