/* Saving while training goes on: a snapshot, and threads that write it.
 *
 * The snapshot is the file itself, made in memory (an "image"): libhdf5's skeleton with the values copied to their
 * places, gathered from their owners where there are several ranks. What is left to do, the job, is cut into pieces of
 * a few milliseconds: hash a piece of an array, seal, write a piece, sync and rename, remove old files, clear the image
 * for the next snapshot. Whoever holds the lock does the next piece: the thread, at low priority, or the owner when it
 * has to wait for the end (`urgent`), so that a wait is never longer for the low priority. Hashing goes before writing,
 * because the hashes are in the file.
 *
 * Where several ranks write (saver_parts.c), the image of rank 0 lacks the others' parts at first. Each other rank has
 * a snapshot of its own and a job of its own: write the parts to the temporary file, and sync. When all are through,
 * the ranks tell rank 0 the XXH3 of what they wrote, and rank 0's job begins by reading the parts into the image; what
 * is not as it was written is no checkpoint. From there on all is as with one rank, but that pieces of the file which
 * are others' alone are there already.
 *
 * The lock guards the job; `ended` alone is read without it. libhdf5 is entered under its own lock. No function here
 * that runs in the thread calls the communicator.
 */
#include "checkpoint/saver.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/pulse.h"

#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { NICE = 10, TEXTS = 1 << 20 };

int64_t ebb_saver_piece_bytes = 4 << 20, ebb_saver_split_bytes = 64 << 20;

/* ---- the job, piece by piece; lock held ---- */

static ebb_status_t hash_piece(ebb_saver_t *s)
{
    ebb_ckpt_array_t *array = &s->index.array[s->array];
    int64_t left = ebb_ckpt_floats(array) - s->at;
    int64_t n = left < ebb_ckpt_piece_floats ? left : ebb_ckpt_piece_floats;
    const float *values = (const float *)(s->image + array->offset) + s->at;
    if (s->at == 0)
        EBB_TRY(ebb_ckpt_digest_begin(s->digest, &s->index, array));
    if (n > 0) {
        EBB_TRY(ebb_ckpt_check_finite(&s->index, array, s->meta.step, values, n));
        EBB_TRY(ebb_ckpt_digest_add(s->digest, values, n));
    }
    s->at += n;
    if (n < left)
        return EBB_OK;
    array->xxh3 = ebb_ckpt_digest_end(s->digest);
    s->at = 0;
    s->stage = ++s->array < ebb_ckpt_arrays(&s->index) ? HASH : SEAL;
    return EBB_OK;
}

static ebb_status_t seal(ebb_saver_t *s)
{
    ebb_ckpt_digest_final(s->digest, &s->index, s->meta.weights_sha256, s->meta.optimizer_sha256);
    s->stage = OPEN;
    return ebb_ckpt_image_seal(&s->writer, &s->index, &s->meta);
}

/* The folder may have been removed since the run began. */
static ebb_status_t open_file(ebb_saver_t *s)
{
    EBB_TRY(ebb_file_mkdirs(s->folder));
    s->stage = WRITE;
    s->array = 0;
    return ebb_ckpt_image_open(&s->writer, s->saved.path);
}

static ebb_status_t write_piece(ebb_saver_t *s)
{
    int64_t left = s->writer.bytes - s->at, n = left < ebb_saver_piece_bytes ? left : ebb_saver_piece_bytes;
    if (!ebb_saver_is_written(s, s->at, n))
        EBB_TRY(ebb_ckpt_image_write(&s->writer, s->at, n));
    s->at += n;
    s->stage = n < left ? WRITE : COMMIT;
    return EBB_OK;
}

static ebb_status_t commit(ebb_saver_t *s)
{
    EBB_TRY(ebb_ckpt_image_commit(&s->writer));
    s->stage = PRUNE;
    return EBB_OK;
}

/* Too many files harm nobody. */
static ebb_status_t prune(ebb_saver_t *s)
{
    if (ebb_checkpoint_prune(s->folder, s->keep) != EBB_OK) {
        EBB_WARN("checkpoint", "%s", ebb_error()->message);
        ebb_error_clear();
    }
    s->stage = CLEAR;
    return EBB_OK;
}

static void end_job(ebb_saver_t *s)
{
    s->saved.write_seconds = (double)(ebb_now_ns() - s->begun_ns) * 1e-9;
    memcpy(s->saved.weights_sha256, s->meta.weights_sha256, sizeof s->saved.weights_sha256);
    memcpy(s->saved.optimizer_sha256, s->meta.optimizer_sha256, sizeof s->saved.optimizer_sha256);
    if (s->split && s->error.status != EBB_OK && ebb_comm_rank(s->comm) == 0)
        unlink(s->tmp);
    ebb_saver_close_parts(s);
    ebb_ckpt_writer_destroy(&s->writer);
    ebb_ckpt_digest_destroy(s->digest);
    s->digest = NULL;
    ebb_ckpt_index_destroy(&s->index);
    ebb_checkpoint_meta_free(&s->meta);
    s->at = 0;
    s->stage = ebb_comm_rank(s->comm) == 0 ? CLEAR : IDLE;
    atomic_store(&s->ended, true);
}

/* Gaps between libhdf5's blocks must be zero in every file, and the next file may have them elsewhere. */
static void clear_piece(ebb_saver_t *s)
{
    int64_t left = s->room - s->at, n = left < ebb_saver_piece_bytes ? left : ebb_saver_piece_bytes;
    memset(s->image + s->at, 0, (size_t)n);
    s->at += n;
    if (n == left) {
        s->at = 0;
        s->stage = IDLE;
    }
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* One piece of the job. */
static void advance(ebb_saver_t *s)
{
    double before = cpu_seconds();
    static ebb_status_t (*const piece[])(ebb_saver_t *) = {[PUT] = ebb_saver_put_piece,
                                                           [SYNC] = ebb_saver_sync_parts,
                                                           [TAKE] = ebb_saver_take_piece,
                                                           [HASH] = hash_piece,
                                                           [SEAL] = seal,
                                                           [OPEN] = open_file,
                                                           [WRITE] = write_piece,
                                                           [COMMIT] = commit,
                                                           [PRUNE] = prune};
    if (s->stage == CLEAR) {
        clear_piece(s);
        return;
    }
    if (piece[s->stage](s) != EBB_OK) {
        s->error = *ebb_error();
        ebb_error_clear();
        s->stage = CLEAR;
    }
    s->saved.cpu_seconds += cpu_seconds() - before;
    if (s->stage == CLEAR)
        end_job(s);
}

static void *saver_main(void *arg)
{
    ebb_saver_t *s = arg;
    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), NICE); /* on Linux: of this thread alone */
    pthread_mutex_lock(&s->lock);
    while (!atomic_load(&s->quit)) {
        if (s->stage == IDLE || atomic_load(&s->urgent)) {
            pthread_cond_wait(&s->more, &s->lock);
            continue;
        }
        advance(s);
        pthread_mutex_unlock(&s->lock); /* the owner may take over */
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- the owner ---- */

/* Do what is left of the job up to its outcome, or to the image's clearing. */
static void complete(ebb_saver_t *s, bool cleared)
{
    ebb_error_t earlier = *ebb_error(); /* the owner's, which the job must not touch */
    ebb_error_clear();
    atomic_store(&s->urgent, true);
    pthread_mutex_lock(&s->lock);
    while (s->stage != IDLE && (cleared || s->stage != CLEAR)) {
        advance(s);
        ebb_pulse_tick();
    }
    atomic_store(&s->urgent, false);
    pthread_cond_signal(&s->more);
    pthread_mutex_unlock(&s->lock);
    if (earlier.status != EBB_OK)
        ebb_error_set(&earlier);
}

int64_t ebb_saver_bytes(const ebb_layout_t *layout, int states)
{
    return ebb_layout_floats(layout) * (1 + (states > 0 ? states : 0)) * (int64_t)sizeof(float);
}

ebb_status_t ebb_saver_make_room(ebb_saver_t *s, int64_t bytes)
{
    if (bytes <= s->room)
        return EBB_OK;
    int64_t room = (bytes + bytes / 64 + SECTOR - 1) / SECTOR * SECTOR; /* texts grow */
    ebb_free(s->image);
    s->image = NULL;
    s->room = 0;
    EBB_TRY(ebb_alloc("a checkpoint's snapshot", (size_t)room, (void **)&s->image));
    s->room = room;
    return EBB_OK;
}

/* Bytes that another rank than 0 holds of a large state, about; 0 of a small one, which rank 0 gathers. */
static int64_t part_bytes(const ebb_layout_t *layout, int states, int ranks)
{
    int64_t bytes = 0;
    for (int i = 0; i < layout->n_params; i++) {
        const ebb_param_t *p = &layout->params[i];
        bytes += p->rows * p->cols * (p->kind == EBB_PARAM_DENSE ? 1 + states : 1) * (int64_t)sizeof(float);
    }
    return bytes >= ebb_saver_split_bytes ? bytes / ranks + (int64_t)layout->n_params * (1 + states) * 2 * SECTOR : 0;
}

/* The first touch of new memory takes far longer than a copy: the thread clears it before it is needed. */
static void make_ready(ebb_saver_t *s, const ebb_layout_t *layout, int states)
{
    int64_t bytes = ebb_saver_bytes(layout, states) + TEXTS + (int64_t)layout->n_params * (1 + states) * SECTOR;
    if (ebb_comm_rank(s->comm) != 0)
        bytes = part_bytes(layout, states, ebb_comm_size(s->comm));
    if (bytes == 0)
        return;
    if (ebb_saver_make_room(s, bytes) == EBB_OK)
        s->stage = CLEAR;
    else
        ebb_error_clear(); /* told when a snapshot is wanted */
}

static ebb_status_t make_hashes(ebb_saver_t *s, int ranks)
{
    EBB_TRY(EBB_NEW_ARRAY("hashes of parts", ranks, &s->told));
    EBB_TRY(EBB_NEW_ARRAY("hashes of parts", ranks, &s->written));
    for (int r = 0; r < ranks; r++) {
        s->written[r] = XXH3_createState();
        if (!s->written[r])
            return EBB_FAIL(EBB_ENOMEM, "out of memory for a digest");
    }
    return EBB_OK;
}

static void saver_free(ebb_saver_t *s)
{
    for (int r = 0; s->written && r < ebb_comm_size(s->comm); r++)
        XXH3_freeState(s->written[r]);
    pthread_cond_destroy(&s->more);
    pthread_mutex_destroy(&s->lock);
    ebb_free(s->written);
    ebb_free(s->told);
    ebb_free(s->part);
    ebb_free(s->image);
    ebb_free(s);
}

ebb_status_t ebb_saver_create(ebb_comm_t *comm, const ebb_layout_t *layout, int states, ebb_saver_t **saver_p)
{
    ebb_saver_t *s;
    *saver_p = NULL;
    EBB_TRY(EBB_NEW("checkpoint saver", &s));
    s->comm = comm;
    s->tmp_fd = s->direct_fd = -1;
    s->writer = (ebb_ckpt_writer_t){.file = H5I_INVALID_HID, .fd = -1};
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->more, NULL);
    ebb_status_t status = make_hashes(s, ebb_comm_size(comm));
    if (status != EBB_OK) {
        saver_free(s);
        return status;
    }
    *saver_p = s;
    if (layout)
        make_ready(s, layout, states);
    s->threaded = pthread_create(&s->thread, NULL, saver_main, s) == 0;
    if (!s->threaded)
        EBB_WARN("checkpoint", "cannot start a thread: training waits while checkpoints are written");
    return EBB_OK;
}

/* Without the others no file comes of parts. */
static void abandon(ebb_saver_t *s)
{
    if (!s->parts_begun || ebb_comm_rank(s->comm) != 0)
        return;
    EBB_FAIL(EBB_EIO, "the checkpoint of step %" PRId64 " was left unfinished, since its ranks were", s->saved.step);
    s->error = *ebb_error();
    ebb_error_clear();
    end_job(s);
}

void ebb_saver_destroy(ebb_saver_t *s)
{
    if (!s)
        return;
    complete(s, false);
    abandon(s);
    if (s->pending && s->error.status != EBB_OK)
        EBB_WARN("checkpoint", "%s", s->error.message);
    pthread_mutex_lock(&s->lock);
    atomic_store(&s->quit, true);
    pthread_cond_signal(&s->more);
    pthread_mutex_unlock(&s->lock);
    if (s->threaded)
        pthread_join(s->thread, NULL);
    saver_free(s);
}

static ebb_status_t copy_text(const char *from, char **to)
{
    *to = from ? ebb_strdup(from) : NULL;
    return from && !*to ? EBB_FAIL(EBB_ENOMEM, "out of memory for a checkpoint") : EBB_OK;
}

static ebb_status_t copy_meta(const ebb_checkpoint_meta_t *from, ebb_checkpoint_meta_t *to)
{
    *to = *from;
    to->config = to->progress = to->dataset = NULL;
    to->weights_sha256[0] = to->optimizer_sha256[0] = 0;
    EBB_TRY(copy_text(from->config, &to->config));
    EBB_TRY(copy_text(from->progress, &to->progress));
    return copy_text(from->dataset, &to->dataset);
}

/* Everything of the job but the values. */
static ebb_status_t prepare(ebb_saver_t *s, const ebb_checkpoint_meta_t *meta)
{
    EBB_TRY(copy_meta(meta, &s->meta));
    EBB_TRY(ebb_saver_make_room(s, (ebb_ckpt_room(&s->index, &s->meta) + SECTOR - 1) / SECTOR * SECTOR));
    EBB_TRY(ebb_ckpt_digest_create(false, true, &s->digest));
    return ebb_ckpt_image_create(s->image, s->room, &s->index, &s->meta, &s->writer);
}

static ebb_status_t ignore(void *user, ebb_ckpt_array_t *array)
{
    return EBB_OK;
}

static ebb_status_t take(void *user, ebb_ckpt_array_t *array, int64_t first, int64_t n, float *values)
{
    ebb_saver_t *s = user;
    ebb_pulse_tick();
    return ebb_ckpt_write(&s->writer, array, first, n, values);
}

/* ---- begin, go on, end ---- */

/* Hand the job to the thread. */
static void start(ebb_saver_t *s, stage_t stage)
{
    pthread_mutex_lock(&s->lock);
    s->array = 0;
    s->at = 0;
    s->stage = stage;
    pthread_cond_signal(&s->more);
    pthread_mutex_unlock(&s->lock);
    if (!s->threaded)
        complete(s, false);
}

/* Rank 0's, when the others' parts are in the file or there are none. */
static void start_file(ebb_saver_t *s)
{
    stage_t first = ebb_ckpt_arrays(&s->index) > 0 ? HASH : SEAL;
    start(s, s->n_parts > 0 ? TAKE : first);
}

static void start_parts(ebb_saver_t *s)
{
    s->parts_begun = true;
    if (ebb_comm_rank(s->comm) != 0 && s->n_parts > 0)
        start(s, PUT);
    else
        atomic_store(&s->ended, true); /* nothing to do but to wait for the others */
}

static void drop(ebb_saver_t *s)
{
    ebb_ckpt_writer_destroy(&s->writer);
    ebb_ckpt_digest_destroy(s->digest);
    s->digest = NULL;
    ebb_checkpoint_meta_free(&s->meta);
    if (s->image)
        memset(s->image, 0, (size_t)s->room);
}

/* Where the snapshot goes, and how it gets there. Collective. */
static ebb_status_t begin(ebb_saver_t *s, const ebb_checkpoint_state_t *state, const ebb_checkpoint_meta_t *meta)
{
    ebb_ckpt_visitor_t visitor = {ignore, take, ignore, s};
    EBB_TRY(ebb_saver_decide_on_split(s, state));
    EBB_TRY(ebb_comm_agree(s->comm, ebb_comm_rank(s->comm) == 0 ? prepare(s, meta) : EBB_OK));
    if (s->split)
        EBB_TRY(ebb_saver_take_parts(s, state));
    return ebb_ckpt_walk(state, &s->index, false, &visitor);
}

static ebb_status_t take_path(ebb_saver_t *s, const char *path)
{
    char copy[sizeof s->saved.path];
    if (snprintf(copy, sizeof copy, "%s", path) >= (int)sizeof copy)
        return EBB_FAIL(EBB_EINVAL, "checkpoint path too long: %.80s...", path);
    memcpy(s->saved.path, copy, sizeof copy);
    snprintf(s->folder, sizeof s->folder, "%s", dirname(copy));
    return EBB_OK;
}

ebb_status_t ebb_saver_begin(ebb_saver_t *s, const ebb_checkpoint_state_t *state, const char *path, int keep,
                             const ebb_checkpoint_meta_t *meta)
{
    bool root = ebb_comm_rank(s->comm) == 0;
    int64_t start_ns = ebb_now_ns();
    complete(s, true);
    memset(&s->saved, 0, sizeof s->saved);
    memset(&s->error, 0, sizeof s->error);
    s->keep = keep;
    s->n_parts = 0;
    s->saved.step = meta->step;
    ebb_status_t status = take_path(s, path);
    if (status == EBB_OK)
        status = ebb_ckpt_describe(state, &s->index);
    status = ebb_comm_agree(s->comm, status);
    if (status == EBB_OK)
        status = begin(s, state, meta);
    s->begun_ns = ebb_now_ns();
    s->saved.wait_seconds = (double)(s->begun_ns - start_ns) * 1e-9;
    s->pending = status == EBB_OK;
    if (status != EBB_OK && root)
        drop(s);
    if (status == EBB_OK && s->split)
        start_parts(s);
    else if (status == EBB_OK && root)
        start_file(s);
    if (status != EBB_OK || !root)
        ebb_ckpt_index_destroy(&s->index);
    return status;
}

bool ebb_saver_pending(const ebb_saver_t *s)
{
    return s->pending;
}

bool ebb_saver_ended(const ebb_saver_t *s)
{
    return s->pending && atomic_load(&s->ended);
}

int ebb_saver_voices(const ebb_saver_t *s)
{
    return s->parts_begun ? ebb_comm_size(s->comm) : 1;
}

/* All parts are written, or one could not be. Collective. */
static ebb_status_t join_parts(ebb_saver_t *s)
{
    int rank = ebb_comm_rank(s->comm);
    uint64_t mine = XXH3_64bits_digest(s->written[rank]);
    ebb_error_t earlier = *ebb_error();
    EBB_TRY(ebb_comm_allgather(s->comm, &mine, sizeof mine, s->told));
    ebb_error_clear();
    if (s->error.status != EBB_OK)
        ebb_error_set(&s->error);
    ebb_status_t status = ebb_comm_agree(s->comm, s->error.status);
    s->parts_begun = false;
    atomic_store(&s->ended, false);
    if (status != EBB_OK)
        ebb_error_prefix("rank %d: ", ebb_error()->rank);
    s->error = status != EBB_OK ? *ebb_error() : s->error;
    ebb_error_clear();
    if (earlier.status != EBB_OK)
        ebb_error_set(&earlier);
    for (int r = 0; rank == 0 && r < ebb_comm_size(s->comm); r++)
        XXH3_64bits_reset(s->written[r]);
    if (rank == 0 && status == EBB_OK)
        start_file(s);
    else if (rank == 0)
        end_job(s);
    return EBB_OK;
}

ebb_status_t ebb_saver_go_on(ebb_saver_t *s, bool *over_p)
{
    *over_p = s->pending && !s->parts_begun;
    return s->pending && s->parts_begun ? join_parts(s) : EBB_OK;
}

/* The longest wait, and the work of all ranks. */
static ebb_status_t add_up(ebb_saver_t *s)
{
    if (!s->split)
        return EBB_OK;
    EBB_TRY(ebb_comm_allreduce(s->comm, &s->saved.wait_seconds, 1, EBB_COMM_F64, EBB_MAX));
    return ebb_comm_allreduce(s->comm, &s->saved.cpu_seconds, 1, EBB_COMM_F64, EBB_SUM);
}

ebb_status_t ebb_saver_end(ebb_saver_t *s, ebb_saved_t *saved)
{
    ebb_status_t status = EBB_OK;
    int64_t start_ns = ebb_now_ns();
    complete(s, false);
    if (s->pending && s->parts_begun)
        EBB_TRY(join_parts(s));
    if (ebb_comm_rank(s->comm) == 0) {
        complete(s, false);
        status = s->error.status;
        if (status != EBB_OK)
            ebb_error_set(&s->error);
    }
    s->saved.wait_seconds += (double)(ebb_now_ns() - start_ns) * 1e-9;
    s->pending = false;
    atomic_store(&s->ended, false);
    status = ebb_comm_agree(s->comm, status);
    ebb_status_t shared = add_up(s);
    *saved = s->saved;
    if (shared == EBB_OK)
        shared = ebb_comm_bcast(s->comm, saved, sizeof *saved, 0);
    return status != EBB_OK ? status : shared;
}
