/* Parts of the checkpoint stage: the file, the way of pieces between ranks, the folder of a run. */
#ifndef EBB_CHECKPOINT_INTERNAL_H
#define EBB_CHECKPOINT_INTERNAL_H

#include <ebb/checkpoint.h>
#include <hdf5.h>

#define EBB_CKPT_NAME 64 /* bytes of a name with its zero, as in ebb_param_t */

/* One array of a file: a parameter's weights, or one optimiser state of a parameter. */
typedef struct ebb_ckpt_array {
    char name[EBB_CKPT_NAME];
    int state; /* -1: weights */
    int64_t rows, cols;
    int64_t offset; /* of the values in the file; 0 when there are none */
    bool split;     /* while saving: several ranks write it, and it is not brought to rank 0 */
    uint64_t xxh3;
    const float *values; /* while saving: where all of them lie, unchanged, until the file is sealed; or NULL */
} ebb_ckpt_array_t;

/* All arrays, in file order: the weights, then state by state. */
typedef struct ebb_ckpt_index {
    int n_params, n_states; /* n_states < 0: a model, without a group of states */
    char (*state)[EBB_CKPT_NAME];
    ebb_ckpt_array_t *array; /* (n_params * (1 + max(n_states, 0))) */
} ebb_ckpt_index_t;

static inline int ebb_ckpt_arrays(const ebb_ckpt_index_t *index)
{
    return index->n_params * (1 + (index->n_states > 0 ? index->n_states : 0));
}

static inline int64_t ebb_ckpt_floats(const ebb_ckpt_array_t *array)
{
    return array->rows * array->cols;
}

/* Room for the arrays of n_params parameters and n_states states (names still empty). */
ebb_status_t ebb_ckpt_index_create(int n_params, int n_states, ebb_ckpt_index_t *index) EBB_MUST_CHECK;
void ebb_ckpt_index_destroy(ebb_ckpt_index_t *index);
/* The arrays that layout and optimiser call for. */
ebb_status_t ebb_ckpt_describe(const ebb_checkpoint_state_t *state, ebb_ckpt_index_t *index) EBB_MUST_CHECK;

/* EBB_ENONFINITE if one of the values of an array of this step is; names the array. */
ebb_status_t ebb_ckpt_check_finite(const ebb_ckpt_index_t *index, const ebb_ckpt_array_t *array, int64_t step,
                                   const float *values, int64_t n);

/* ---- writer.c, reader.c: rank 0 alone ---- */

/* A file under construction: its skeleton is libhdf5's, the values are written beside it to the offsets in the index.
 */
typedef struct ebb_ckpt_writer {
    char *tmp, *path;
    hid_t file;
    int fd;
    int error;   /* errno of a write of libhdf5 that failed */
    char *image; /* the file is made in memory; the caller's */
    int64_t room, bytes;
    bool direct; /* past the page cache */
    bool joint;  /* other ranks have written to the temporary file already */
} ebb_ckpt_writer_t;

/* Bytes that a file takes at most. */
int64_t ebb_ckpt_room(const ebb_ckpt_index_t *index, const ebb_checkpoint_meta_t *meta);
/* Make the file in memory: `room` bytes, all zero. Values go to the offsets in the index; seal, then write it out. */
ebb_status_t ebb_ckpt_image_create(char *image, int64_t room, ebb_ckpt_index_t *index,
                                   const ebb_checkpoint_meta_t *meta, ebb_ckpt_writer_t *w) EBB_MUST_CHECK;
/* Add hashes and meta, and seal: the image's first w->bytes bytes are the file. */
ebb_status_t ebb_ckpt_image_seal(ebb_ckpt_writer_t *w, const ebb_ckpt_index_t *index,
                                 const ebb_checkpoint_meta_t *meta);
/* Make path's temporary file, with the disk reserved; then write pieces [at, at + n), ascending; then put it into
 * place. */
ebb_status_t ebb_ckpt_image_open(ebb_ckpt_writer_t *w, const char *path);
ebb_status_t ebb_ckpt_image_write(ebb_ckpt_writer_t *w, int64_t at, int64_t n);
ebb_status_t ebb_ckpt_image_commit(ebb_ckpt_writer_t *w);

/* Make the temporary file with room for every array; fills the offsets. */
ebb_status_t ebb_ckpt_writer_create(const char *path, ebb_ckpt_index_t *index, const ebb_checkpoint_meta_t *meta,
                                    ebb_ckpt_writer_t *w) EBB_MUST_CHECK;
ebb_status_t ebb_ckpt_write(ebb_ckpt_writer_t *w, const ebb_ckpt_array_t *array, int64_t first, int64_t n,
                            const float *values);
/* Add hashes and meta, seal, sync, rename. */
ebb_status_t ebb_ckpt_writer_commit(ebb_ckpt_writer_t *w, const ebb_ckpt_index_t *index,
                                    const ebb_checkpoint_meta_t *meta);
/* Releases; without a commit before, removes the temporary file. */
void ebb_ckpt_writer_destroy(ebb_ckpt_writer_t *w);

/* Check the seal of the whole file, then read its index and meta (each may be NULL). fd_p: for ebb_ckpt_read, or NULL.
 */
ebb_status_t ebb_ckpt_open(const char *path, ebb_ckpt_index_t *index, ebb_checkpoint_meta_t *meta,
                           int *fd_p) EBB_MUST_CHECK;
ebb_status_t ebb_ckpt_read(int fd, const char *path, const ebb_ckpt_array_t *array, int64_t first, int64_t n,
                           float *values);
/* Is the head of the file intact and its length right? Cheap; says nothing of the content. */
bool ebb_ckpt_complete(const char *path);

/* ---- parts.c: several ranks write one file ---- */

/* Of an array of parameter param that may be split: the values that a rank writes. */
bool ebb_ckpt_may_split(const ebb_layout_t *layout, const ebb_ckpt_array_t *array, int param);
void ebb_ckpt_part(const ebb_layout_t *layout, const ebb_ckpt_array_t *array, int param, int rank, int ranks,
                   int64_t *first_p, int64_t *n_p);
/* This rank's values [first, first + n) of its part, copied. */
ebb_status_t ebb_ckpt_copy_part(const ebb_checkpoint_state_t *state, const ebb_ckpt_array_t *array, int param,
                                int64_t first, int64_t n, float *host);
/* Do all ranks see the folder of rank 0? It is made where it is missing. Collective. */
ebb_status_t ebb_ckpt_find_sharing(ebb_comm_t *comm, const char *folder, bool *shared_p);
/* Path of the temporary file that becomes `path`, of the process that puts it into place. */
ebb_status_t ebb_ckpt_tmp_path(const char *path, long pid, char *tmp, size_t size);

/* ---- digest.c: the running digests of the arrays ---- */

typedef struct ebb_ckpt_digest ebb_ckpt_digest_t;
/* background: SHA-256 is computed by threads, and the values given must stay until wait or final. weights false: their
 * SHA-256 is known and not computed. */
ebb_status_t ebb_ckpt_digest_create(bool background, bool weights, ebb_ckpt_digest_t **d_p) EBB_MUST_CHECK;
void ebb_ckpt_digest_destroy(ebb_ckpt_digest_t *d);
/* begin and end enclose the pieces of each array, in file order; end gives the XXH3 of its values. */
ebb_status_t ebb_ckpt_digest_begin(ebb_ckpt_digest_t *d, const ebb_ckpt_index_t *index, const ebb_ckpt_array_t *array);
ebb_status_t ebb_ckpt_digest_add(ebb_ckpt_digest_t *d, const float *values, int64_t n);
void ebb_ckpt_digest_wait(ebb_ckpt_digest_t *d);
uint64_t ebb_ckpt_digest_end(ebb_ckpt_digest_t *d);
/* After the last array. weights is left as it is when it is known; optimizer stays empty for a model. */
void ebb_ckpt_digest_final(ebb_ckpt_digest_t *d, const ebb_ckpt_index_t *index, char weights[65], char optimizer[65]);

/* ---- walk.c: collective ---- */

/* What rank 0 does with the arrays on their way. begin and end enclose the pieces of each; piece takes (gather) or
 * fills (scatter) values [first, first + n). After a failure nothing more is called. */
typedef struct ebb_ckpt_visitor {
    ebb_status_t (*begin)(void *user, ebb_ckpt_array_t *array);
    ebb_status_t (*piece)(void *user, ebb_ckpt_array_t *array, int64_t first, int64_t n, float *values);
    ebb_status_t (*end)(void *user, ebb_ckpt_array_t *array);
    void *user;
} ebb_ckpt_visitor_t;

/* Bring every array that is not split to rank 0 (gather), or give weights to all and states to their owners (scatter),
 * piece by piece in file order. An error of one rank is agreed upon at the end. */
ebb_status_t ebb_ckpt_walk(const ebb_checkpoint_state_t *state, ebb_ckpt_index_t *index, bool scatter,
                           const ebb_ckpt_visitor_t *visitor);
/* Floats per piece, bytes that the saver writes at once, and bytes from which several ranks write; tests make them
 * small. */
extern int64_t ebb_ckpt_piece_floats, ebb_saver_piece_bytes, ebb_saver_split_bytes;

#endif
