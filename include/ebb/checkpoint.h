/* Checkpoints: one HDF5 file with weights, optimiser state, cursor, configuration and hashes, written and read by any
 * number of ranks. The layout is described in src/checkpoint/FORMAT.md. A model is the same file without optimiser
 * state.
 *
 * A file is written under a temporary name, fsynced, renamed, and its folder fsynced; every array carries its XXH3 and
 * the file a SHA-256 of weights and of state, so that a torn or damaged file is detected and never loaded.
 */
#ifndef EBB_CHECKPOINT_H
#define EBB_CHECKPOINT_H

#include <ebb/base.h>
#include <ebb/comm.h>
#include <ebb/compute.h>
#include <ebb/loader.h>
#include <ebb/model.h>
#include <ebb/optim.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EBB_CHECKPOINT_VERSION 1

/* Everything beside the arrays. Strings loaded are owned by the meta; free with ebb_checkpoint_meta_free. */
typedef struct ebb_checkpoint_meta {
    int64_t step;        /* optimiser steps done */
    ebb_cursor_t cursor; /* next batch */
    int32_t lanes;
    char *config;   /* the run's whole configuration, JSON */
    char *progress; /* JSON: best metric, early stopping, sums of the epoch so far */
    char *dataset;  /* JSON: name, hash, rows, cols, class names; what predict needs to know of the training data */
    char weights_sha256[65], optimizer_sha256[65]; /* set by save and load; optimizer empty for a model */
} ebb_checkpoint_meta_t;

EBB_API void ebb_checkpoint_meta_free(ebb_checkpoint_meta_t *meta);

/* What is saved and restored. optim NULL: weights alone (a model). */
typedef struct ebb_checkpoint_state {
    ebb_comm_t *comm;
    ebb_backend_t *backend;
    ebb_exec_t *exec;
    const ebb_layout_t *layout;
    ebb_weights_t *weights;
    ebb_optim_t *optim;
    const char *weights_sha256; /* for save: of these very weights, if known already; or NULL */
} ebb_checkpoint_state_t;

/* SHA-256 (hex) over all weights, and over all optimiser state, in the layout's order: name, shape, values per array;
 * rows in global order. The same for any rank count. Collective; the result on every rank. */
EBB_API ebb_status_t ebb_checkpoint_hash(const ebb_checkpoint_state_t *state, char weights_sha256[65],
                                         char optimizer_sha256[65]);

/* Write the file `path`. Collective; rank 0 writes, gathering the owners' state piece by piece, so that memory stays
 * bounded. EBB_ENONFINITE, and no file, where a value is not finite. */
EBB_API ebb_status_t ebb_checkpoint_save(const ebb_checkpoint_state_t *state, const char *path,
                                         ebb_checkpoint_meta_t *meta);

/* Whether save takes all values from where they lie (one rank, memory of the host): it is then the fastest way and
 * needs no memory, where nobody has to go on meanwhile. */
EBB_API bool ebb_checkpoint_in_place(const ebb_checkpoint_state_t *state);

/* ---- saving while training goes on ---- */

/* A snapshot of the state is copied into memory while training waits; threads of low priority then write it. Where all
 * ranks see the run's folder and the state is large, each rank copies its own share and writes it to its place in the
 * one file; when all have, rank 0 reads the others' shares back, hashes all and puts the file into place. Elsewhere
 * rank 0 gathers the state. The file is that of ebb_checkpoint_save, by any way. The threads never talk to other ranks.
 * At most one snapshot is held at a time. */
typedef struct ebb_saver ebb_saver_t;

/* What came of a write. */
typedef struct ebb_saved {
    int64_t step;
    char path[4096];
    double wait_seconds;  /* that training waited: for the snapshot, and for the write where it had to */
    double write_seconds; /* from the snapshot's end to the file in place */
    double cpu_seconds;   /* processor time of that, of all ranks */
    char weights_sha256[65], optimizer_sha256[65];
} ebb_saved_t;

/* Memory for the snapshots of a layout with so many states per parameter is made ready in the background; layout NULL:
 * when the first is taken. Not collective, but every rank needs one. */
EBB_API ebb_status_t ebb_saver_create(ebb_comm_t *comm, const ebb_layout_t *layout, int states,
                                      ebb_saver_t **saver_p) EBB_MUST_CHECK;
/* Completes what is being written, unless it takes several ranks; warns if that fails. Not collective. */
EBB_API void ebb_saver_destroy(ebb_saver_t *saver);
/* Bytes of the snapshot, on rank 0. */
EBB_API int64_t ebb_saver_bytes(const ebb_layout_t *layout, int states);
/* Take a snapshot, to be written to `path` (its folder is made where it is missing), after which all but the newest
 * `keep` of that folder are removed. The outcome of the write before must have been asked for. EBB_ENOMEM: no room for
 * the snapshot, nothing was begun, ebb_checkpoint_save may do. A state that is not finite is found in the write
 * (EBB_ENONFINITE). Collective. */
EBB_API ebb_status_t ebb_saver_begin(ebb_saver_t *saver, const ebb_checkpoint_state_t *state, const char *path,
                                     int keep, const ebb_checkpoint_meta_t *meta);
/* Something was begun whose outcome was not asked for. The same on every rank. */
EBB_API bool ebb_saver_pending(const ebb_saver_t *saver);
/* And this rank has done what it could of it without the others. */
EBB_API bool ebb_saver_ended(const ebb_saver_t *saver);
/* Of how many ranks ebb_saver_ended must be true before ebb_saver_go_on. The same on every rank. */
EBB_API int ebb_saver_voices(const ebb_saver_t *saver);
/* Then: what is next is begun in the background; or *over_p is true, and ebb_saver_end will not wait. Collective. */
EBB_API ebb_status_t ebb_saver_go_on(ebb_saver_t *saver, bool *over_p);
/* The outcome of what is pending; waits for its end, and helps. Collective. */
EBB_API ebb_status_t ebb_saver_end(ebb_saver_t *saver, ebb_saved_t *saved);

/* Read the meta alone. Not collective. */
EBB_API ebb_status_t ebb_checkpoint_read_meta(const char *path, ebb_checkpoint_meta_t *meta);
/* Load weights, and state if state->optim; checks every hash. EBB_EDATA if shapes differ from the layout (names the
 * array). Collective. */
EBB_API ebb_status_t ebb_checkpoint_load(const ebb_checkpoint_state_t *state, const char *path,
                                         ebb_checkpoint_meta_t *meta);
/* Check all hashes of a file. Not collective. */
EBB_API ebb_status_t ebb_checkpoint_verify(const char *path);

/* A run's checkpoints: runs/NAME/checkpoints/step-000001000.h5. */
EBB_API ebb_status_t ebb_checkpoint_path(const char *dir, int64_t step, char *path, size_t size);
/* Newest file in dir that verifies; damaged ones are named in a warning and passed over. EBB_ENOINPUT if none.
 * Collective. */
EBB_API ebb_status_t ebb_checkpoint_newest(ebb_comm_t *comm, const char *dir, char *path, size_t size);
/* Remove the files of step `below` and later; the step of the newest good one that is left, -1: none. For going back.
 * Collective. */
EBB_API ebb_status_t ebb_checkpoint_rewind(ebb_comm_t *comm, const char *dir, int64_t below, int64_t *step_p);
/* What lies in a folder of checkpoints. */
typedef struct ebb_checkpoint_entry {
    char name[256];
    int64_t step, bytes; /* step: as the name says */
    double modified;     /* seconds since 1970 */
    bool temporary;      /* being written, or left behind by a writer that was killed */
} ebb_checkpoint_entry_t;

/* List a folder, newest step first; nothing is read. *entry_p is freed by ebb_checkpoint_list_free. */
EBB_API ebb_status_t ebb_checkpoint_list(const char *dir, ebb_checkpoint_entry_t **entry_p,
                                         int64_t *n_p) EBB_MUST_CHECK;
EBB_API void ebb_checkpoint_list_free(ebb_checkpoint_entry_t *entry);

/* How one array differs between two files. */
typedef struct ebb_checkpoint_difference {
    const char *state, *name;     /* state: of the optimiser; NULL: weights */
    bool there[2];                /* which of the files has it; if not both, or in two shapes, that is all */
    int64_t rows[2], cols[2];     /* shapes */
    int64_t values, differing;    /* compared, and of other bits */
    int64_t first_row, first_col; /* of the first one that differs */
    float first[2];               /* its values */
    double largest;               /* largest absolute difference; NaN where a difference is not a number */
} ebb_checkpoint_difference_t;
typedef void (*ebb_checkpoint_report_t)(void *user, const ebb_checkpoint_difference_t *difference);

/* Compare all arrays of two files bit by bit and report those that differ, in file order. Not collective. */
EBB_API ebb_status_t ebb_checkpoint_compare(const char *a, const char *b, ebb_checkpoint_report_t report, void *user);
/* Keep the newest `keep` (0: none), remove the rest and stale temporary files. Rank 0 alone. */
EBB_API ebb_status_t ebb_checkpoint_prune(const char *dir, int keep);

#ifdef __cplusplus
}
#endif
#endif
