/* Checkpoints: save, load, hash and verify; see walk.c for the way between ranks and writer.c and reader.c for the
 * file. Rank 0 alone touches files; every collective function ends in an agreement, so that all ranks return the same
 * outcome.
 */
#include "checkpoint/internal.h"

#include "base/alloc.h"
#include "base/finite.h"
#include "base/pulse.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void ebb_checkpoint_meta_free(ebb_checkpoint_meta_t *meta)
{
    if (!meta)
        return;
    ebb_free(meta->config);
    ebb_free(meta->progress);
    ebb_free(meta->dataset);
    *meta = (ebb_checkpoint_meta_t){0};
}

ebb_status_t ebb_ckpt_describe(const ebb_checkpoint_state_t *state, ebb_ckpt_index_t *index)
{
    const ebb_layout_t *layout = state->layout;
    EBB_TRY(ebb_ckpt_index_create(layout->n_params, state->optim ? ebb_optim_state_count(state->optim) : -1, index));
    for (int s = 0; s < index->n_states; s++)
        snprintf(index->state[s], EBB_CKPT_NAME, "%s", ebb_optim_state_name(state->optim, s));
    for (int i = 0; i < ebb_ckpt_arrays(index); i++) {
        const ebb_param_t *param = &layout->params[i % layout->n_params];
        snprintf(index->array[i].name, EBB_CKPT_NAME, "%s", param->name);
        index->array[i].rows = param->rows;
        index->array[i].cols = param->cols;
    }
    return EBB_OK;
}

ebb_status_t ebb_ckpt_check_finite(const ebb_ckpt_index_t *index, const ebb_ckpt_array_t *array, int64_t step,
                                   const float *values, int64_t n)
{
    if (!ebb_has_nonfinite(values, n))
        return EBB_OK;
    const char *state = array->state < 0 ? "weights" : index->state[array->state];
    return EBB_FAIL(EBB_ENONFINITE,
                    "the %s%s%s of %s are not finite after step %" PRId64
                    "; lower the learning rate, or set train.clip_norm; the checkpoints before it are kept",
                    array->state < 0 ? "" : "values of the optimiser's state \"", state, array->state < 0 ? "" : "\"",
                    array->name, step);
}

/* What rank 0 holds while arrays pass: digests always, a writer when saving, a file's index and descriptor when
 * loading. */
typedef struct passage {
    const ebb_ckpt_index_t *index;
    ebb_ckpt_digest_t *digest;
    ebb_ckpt_writer_t *writer;
    bool in_place; /* pieces stay until the end */
    int64_t step;  /* when saving */
    const char *path;
    int fd;
} passage_t;

static ebb_status_t begin(void *user, ebb_ckpt_array_t *array)
{
    passage_t *p = user;
    return ebb_ckpt_digest_begin(p->digest, p->index, array);
}

static ebb_status_t take(void *user, ebb_ckpt_array_t *array, int64_t first, int64_t n, float *values)
{
    passage_t *p = user;
    return ebb_ckpt_digest_add(p->digest, values, n);
}

/* The piece is hashed in the background while the kernel takes it. */
static ebb_status_t take_and_write(void *user, ebb_ckpt_array_t *array, int64_t first, int64_t n, float *values)
{
    passage_t *p = user;
    ebb_pulse_tick();
    if (first == 0 && p->in_place)
        array->values = values;
    EBB_TRY(ebb_ckpt_check_finite(p->index, array, p->step, values, n));
    EBB_TRY(ebb_ckpt_digest_add(p->digest, values, n));
    ebb_status_t status = ebb_ckpt_write(p->writer, array, first, n, values);
    if (!p->in_place)
        ebb_ckpt_digest_wait(p->digest);
    return status;
}

static ebb_status_t took(void *user, ebb_ckpt_array_t *array)
{
    passage_t *p = user;
    array->xxh3 = ebb_ckpt_digest_end(p->digest);
    return EBB_OK;
}

static ebb_status_t give(void *user, ebb_ckpt_array_t *array, int64_t first, int64_t n, float *values)
{
    passage_t *p = user;
    EBB_TRY(ebb_ckpt_read(p->fd, p->path, array, first, n, values));
    return ebb_ckpt_digest_add(p->digest, values, n);
}

static ebb_status_t gave(void *user, ebb_ckpt_array_t *array)
{
    passage_t *p = user;
    if (ebb_ckpt_digest_end(p->digest) == array->xxh3)
        return EBB_OK;
    return EBB_FAIL(EBB_ECORRUPT, "%s: %s of %s: values do not match their XXH3", p->path,
                    array->state < 0 ? "weights" : p->index->state[array->state], array->name);
}

static ebb_status_t share_hashes(ebb_comm_t *comm, char weights[65], char optimizer[65])
{
    char both[2][65];
    memcpy(both[0], weights, 65);
    memcpy(both[1], optimizer, 65);
    EBB_TRY(ebb_comm_bcast(comm, both, sizeof both, 0));
    memcpy(weights, both[0], 65);
    memcpy(optimizer, both[1], 65);
    return EBB_OK;
}

ebb_status_t ebb_checkpoint_hash(const ebb_checkpoint_state_t *state, char weights_sha256[65],
                                 char optimizer_sha256[65])
{
    ebb_ckpt_index_t index = {0};
    passage_t p = {.index = &index, .fd = -1};
    ebb_ckpt_visitor_t visitor = {begin, take, took, &p};
    ebb_status_t status = ebb_ckpt_describe(state, &index);
    memset(weights_sha256, 0, 65);
    memset(optimizer_sha256, 0, 65);
    if (status == EBB_OK)
        status = ebb_ckpt_digest_create(false, true, &p.digest);
    EBB_TRY_GOTO(status, ebb_comm_agree(state->comm, status), done);
    EBB_TRY_GOTO(status, ebb_ckpt_walk(state, &index, false, &visitor), done);
    if (ebb_comm_rank(state->comm) == 0)
        ebb_ckpt_digest_final(p.digest, &index, weights_sha256, optimizer_sha256);
    status = share_hashes(state->comm, weights_sha256, optimizer_sha256);
done:
    ebb_ckpt_digest_destroy(p.digest);
    ebb_ckpt_index_destroy(&index);
    return status;
}

ebb_status_t ebb_checkpoint_save(const ebb_checkpoint_state_t *state, const char *path, ebb_checkpoint_meta_t *meta)
{
    bool root = ebb_comm_rank(state->comm) == 0;
    ebb_ckpt_index_t index = {0};
    ebb_ckpt_writer_t writer = {.file = H5I_INVALID_HID, .fd = -1};
    passage_t p = {.index = &index, .writer = &writer, .path = path, .fd = -1, .step = meta->step};
    p.in_place = ebb_checkpoint_in_place(state);
    ebb_ckpt_visitor_t visitor = {begin, take_and_write, took, &p};
    ebb_status_t status = ebb_ckpt_describe(state, &index);
    const char *known = state->weights_sha256;
    memset(meta->weights_sha256, 0, 65);
    snprintf(meta->weights_sha256, 65, "%s", known ? known : "");
    memset(meta->optimizer_sha256, 0, 65);
    if (status == EBB_OK)
        status = ebb_ckpt_digest_create(root, !known, &p.digest);
    if (status == EBB_OK && root)
        status = ebb_ckpt_writer_create(path, &index, meta, &writer);
    EBB_TRY_GOTO(status, ebb_comm_agree(state->comm, status), done);
    EBB_TRY_GOTO(status, ebb_ckpt_walk(state, &index, false, &visitor), done);
    if (root) {
        ebb_ckpt_digest_final(p.digest, &index, meta->weights_sha256, meta->optimizer_sha256);
        status = ebb_ckpt_writer_commit(&writer, &index, meta);
    }
    EBB_TRY_GOTO(status, ebb_comm_agree(state->comm, status), done);
    status = share_hashes(state->comm, meta->weights_sha256, meta->optimizer_sha256);
done:
    ebb_ckpt_digest_destroy(p.digest);
    ebb_ckpt_writer_destroy(&writer);
    ebb_ckpt_index_destroy(&index);
    return status;
}

ebb_status_t ebb_checkpoint_read_meta(const char *path, ebb_checkpoint_meta_t *meta)
{
    return ebb_ckpt_open(path, NULL, meta, NULL);
}

static ebb_status_t check_states(const char *path, const ebb_ckpt_index_t *file, const ebb_ckpt_index_t *want)
{
    if (file->n_states < 0 && want->n_states >= 0)
        return EBB_FAIL(EBB_EDATA,
                        "%s: a model without optimiser state: training cannot go on from it; give a checkpoint", path);
    if (want->n_states >= 0 && file->n_states != want->n_states)
        return EBB_FAIL(
            EBB_EDATA, "%s: %d optimiser states, the optimiser of this run has %d: set the optimizer it was saved with",
            path, file->n_states, want->n_states);
    for (int s = 0; s < want->n_states; s++) {
        if (strcmp(file->state[s], want->state[s]) != 0)
            return EBB_FAIL(EBB_EDATA,
                            "%s: optimiser state \"%s\", this run needs \"%s\": set the optimizer it was saved with",
                            path, file->state[s], want->state[s]);
    }
    return EBB_OK;
}

/* The file must hold the arrays that are wanted; takes over where they lie. */
static ebb_status_t match(const char *path, const ebb_ckpt_index_t *file, ebb_ckpt_index_t *want)
{
    if (file->n_params != want->n_params)
        return EBB_FAIL(EBB_EDATA, "%s: %d parameters, the model has %d", path, file->n_params, want->n_params);
    EBB_TRY(check_states(path, file, want));
    for (int i = 0; i < ebb_ckpt_arrays(want); i++) {
        const ebb_ckpt_array_t *a = &file->array[i];
        ebb_ckpt_array_t *b = &want->array[i];
        if (strcmp(a->name, b->name) != 0)
            return EBB_FAIL(EBB_EDATA, "%s: parameter \"%s\" where the model has \"%s\"", path, a->name, b->name);
        if (a->rows != b->rows || a->cols != b->cols)
            return EBB_FAIL(EBB_EDATA,
                            "%s: parameter \"%s\" is %" PRId64 " x %" PRId64 ", in the model %" PRId64 " x %" PRId64,
                            path, a->name, a->rows, a->cols, b->rows, b->cols);
        b->offset = a->offset;
        b->xxh3 = a->xxh3;
    }
    return EBB_OK;
}

static ebb_status_t open_matching(const char *path, ebb_ckpt_index_t *want, ebb_checkpoint_meta_t *meta, int *fd_p)
{
    ebb_ckpt_index_t file;
    EBB_TRY(ebb_ckpt_open(path, &file, meta, fd_p));
    ebb_status_t status = match(path, &file, want);
    ebb_ckpt_index_destroy(&file);
    return status;
}

static ebb_status_t check_hashes(const passage_t *p, const ebb_checkpoint_meta_t *meta)
{
    char weights[65], optimizer[65];
    ebb_ckpt_digest_final(p->digest, p->index, weights, optimizer);
    if (strcmp(weights, meta->weights_sha256) != 0)
        return EBB_FAIL(EBB_ECORRUPT, "%s: the weights do not match weights_sha256", p->path);
    if (*optimizer && strcmp(optimizer, meta->optimizer_sha256) != 0)
        return EBB_FAIL(EBB_ECORRUPT, "%s: the optimiser state does not match optimizer_sha256", p->path);
    return EBB_OK;
}

/* Give one text of rank 0 to all. */
static ebb_status_t share_text(ebb_comm_t *comm, char **text)
{
    int64_t bytes = *text ? (int64_t)strlen(*text) + 1 : 1;
    EBB_TRY(ebb_comm_bcast(comm, &bytes, sizeof bytes, 0));
    ebb_status_t status = *text ? EBB_OK : ebb_alloc("checkpoint text", (size_t)bytes, (void **)text);
    EBB_TRY(ebb_comm_agree(comm, status));
    return ebb_comm_bcast(comm, *text, bytes, 0);
}

static ebb_status_t share_meta(ebb_comm_t *comm, ebb_checkpoint_meta_t *meta)
{
    char *text[3] = {meta->config, meta->progress, meta->dataset};
    ebb_status_t status = ebb_comm_bcast(comm, meta, sizeof *meta, 0);
    meta->config = text[0];
    meta->progress = text[1];
    meta->dataset = text[2];
    EBB_TRY(status);
    EBB_TRY(share_text(comm, &meta->config));
    EBB_TRY(share_text(comm, &meta->progress));
    return share_text(comm, &meta->dataset);
}

ebb_status_t ebb_checkpoint_load(const ebb_checkpoint_state_t *state, const char *path, ebb_checkpoint_meta_t *meta)
{
    bool root = ebb_comm_rank(state->comm) == 0;
    ebb_ckpt_index_t index = {0};
    passage_t p = {.index = &index, .path = path, .fd = -1};
    ebb_ckpt_visitor_t visitor = {begin, give, gave, &p};
    ebb_status_t status = ebb_ckpt_describe(state, &index);
    *meta = (ebb_checkpoint_meta_t){0};
    if (status == EBB_OK)
        status = ebb_ckpt_digest_create(false, true, &p.digest);
    if (status == EBB_OK && root)
        status = open_matching(path, &index, meta, &p.fd);
    EBB_TRY_GOTO(status, ebb_comm_agree(state->comm, status), done);
    EBB_TRY_GOTO(status, ebb_ckpt_walk(state, &index, true, &visitor), done);
    status = root ? check_hashes(&p, meta) : EBB_OK;
    EBB_TRY_GOTO(status, ebb_comm_agree(state->comm, status), done);
    status = share_meta(state->comm, meta);
done:
    if (status != EBB_OK)
        ebb_checkpoint_meta_free(meta);
    if (p.fd >= 0)
        close(p.fd);
    ebb_ckpt_digest_destroy(p.digest);
    ebb_ckpt_index_destroy(&index);
    return status;
}

/* Read every array of an open file through the digests. */
static ebb_status_t read_through(passage_t *p, ebb_ckpt_index_t *index)
{
    float *values;
    int64_t piece = 1;
    for (int i = 0; i < ebb_ckpt_arrays(index); i++)
        piece = ebb_ckpt_floats(&index->array[i]) > piece ? ebb_ckpt_floats(&index->array[i]) : piece;
    piece = piece < ebb_ckpt_piece_floats ? piece : ebb_ckpt_piece_floats;
    ebb_status_t status = EBB_NEW_ARRAY("checkpoint piece", piece, &values);
    for (int i = 0; status == EBB_OK && i < ebb_ckpt_arrays(index); i++) {
        ebb_ckpt_array_t *array = &index->array[i];
        int64_t floats = ebb_ckpt_floats(array);
        status = begin(p, array);
        for (int64_t first = 0; status == EBB_OK && first < floats; first += piece) {
            int64_t n = floats - first < piece ? floats - first : piece;
            status = give(p, array, first, n, values);
        }
        if (status == EBB_OK)
            status = gave(p, array);
    }
    ebb_free(values);
    return status;
}

ebb_status_t ebb_checkpoint_verify(const char *path)
{
    ebb_ckpt_index_t index;
    ebb_checkpoint_meta_t meta;
    passage_t p = {.index = &index, .path = path, .fd = -1};
    EBB_TRY(ebb_ckpt_open(path, &index, &meta, &p.fd));
    ebb_status_t status = ebb_ckpt_digest_create(false, true, &p.digest);
    if (status == EBB_OK)
        status = read_through(&p, &index);
    if (status == EBB_OK)
        status = check_hashes(&p, &meta);
    close(p.fd);
    ebb_ckpt_digest_destroy(p.digest);
    ebb_checkpoint_meta_free(&meta);
    ebb_ckpt_index_destroy(&index);
    return status;
}
