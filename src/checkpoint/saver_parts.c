/* The saver's parts, where several ranks write one file: what each copies, and the pieces of the job that write it or
 * read it back. See saver.c for the whole, parts.c for who writes what. */
#include "checkpoint/saver.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/pulse.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { DIRECT_PIECE = 64 << 10 };

/* ---- pieces of the job; lock held ---- */

static ebb_status_t open_part_file(ebb_saver_t *s, int flags)
{
    if (flags & O_CREAT) /* the folder may have been removed since the run began */
        EBB_TRY(ebb_file_mkdirs(s->folder));
    EBB_TRY(ebb_file_open(s->tmp, flags, 0666, &s->tmp_fd));
    s->direct_fd = open(s->tmp, (flags & ~O_CREAT) | O_DIRECT | O_CLOEXEC);
    return EBB_OK;
}

void ebb_saver_close_parts(ebb_saver_t *s)
{
    if (s->tmp_fd >= 0)
        close(s->tmp_fd);
    if (s->direct_fd >= 0)
        close(s->direct_fd);
    s->tmp_fd = s->direct_fd = -1;
}

/* Whole sectors of some size go past the page cache, where the file system has such a way: that costs no copy. */
static ebb_status_t transfer(ebb_saver_t *s, bool out, char *memory, int64_t n, int64_t at)
{
    if (s->direct_fd >= 0 && n >= DIRECT_PIECE && n % SECTOR == 0 && at % SECTOR == 0 &&
        (uintptr_t)memory % SECTOR == 0) {
        ssize_t done = out ? pwrite(s->direct_fd, memory, (size_t)n, at) : pread(s->direct_fd, memory, (size_t)n, at);
        if (done == (ssize_t)n)
            return EBB_OK; /* what failed is tried, and told, in the usual way */
    }
    if (!out)
        return ebb_file_pread(s->tmp_fd, s->tmp, memory, (size_t)n, at);
    EBB_TRY(ebb_file_pwrite(s->tmp_fd, s->tmp, memory, (size_t)n, at));
    (void)sync_file_range(s->tmp_fd, at, n, SYNC_FILE_RANGE_WRITE);
    return EBB_OK;
}

/* The piece of the current part that is next; false: it was the last one. */
static bool next_part(ebb_saver_t *s, int64_t n)
{
    s->at += n;
    if (s->at == s->part[s->array].bytes) {
        s->at = 0;
        s->array++;
    }
    return s->array < s->n_parts;
}

/* Up to the next sector of the file, then whole sectors, then what is left. */
static int64_t part_piece(const ebb_saver_t *s)
{
    int64_t left = s->part[s->array].bytes - s->at, n = left < ebb_saver_piece_bytes ? left : ebb_saver_piece_bytes;
    int64_t into = (s->part[s->array].at + s->at) % SECTOR;
    if (into > 0)
        return SECTOR - into < n ? SECTOR - into : n;
    return n > SECTOR ? n / SECTOR * SECTOR : n;
}

ebb_status_t ebb_saver_put_piece(ebb_saver_t *s)
{
    const part_t *p = &s->part[s->array];
    int64_t n = part_piece(s);
    char *from = s->image + p->image_at + s->at;
    if (s->tmp_fd < 0)
        EBB_TRY(open_part_file(s, O_WRONLY | O_CREAT));
    XXH3_64bits_update(s->written[p->rank], from, (size_t)n);
    EBB_TRY(transfer(s, true, from, n, p->at + s->at));
    s->stage = next_part(s, n) ? PUT : SYNC;
    return EBB_OK;
}

ebb_status_t ebb_saver_sync_parts(ebb_saver_t *s)
{
    int fd = s->tmp_fd;
    if (fsync(fd) != 0)
        return ebb_file_error(s->tmp, "sync");
    s->tmp_fd = -1;
    ebb_saver_close_parts(s);
    if (close(fd) != 0)
        return ebb_file_error(s->tmp, "write");
    s->stage = IDLE;
    atomic_store(&s->ended, true);
    return EBB_OK;
}

static ebb_status_t check_parts(ebb_saver_t *s)
{
    for (int r = 1; r < ebb_comm_size(s->comm); r++)
        if (XXH3_64bits_digest(s->written[r]) != s->told[r])
            return EBB_FAIL(EBB_EIO,
                            "%s: what rank %d wrote is not what is read there: is this one file for all ranks?", s->tmp,
                            r);
    return EBB_OK;
}

ebb_status_t ebb_saver_take_piece(ebb_saver_t *s)
{
    const part_t *p = &s->part[s->array];
    int64_t n = part_piece(s);
    char *to = s->image + p->image_at + s->at;
    if (s->tmp_fd < 0)
        EBB_TRY(open_part_file(s, O_RDONLY));
    EBB_TRY(transfer(s, false, to, n, p->at + s->at));
    XXH3_64bits_update(s->written[p->rank], to, (size_t)n);
    if (next_part(s, n))
        return EBB_OK;
    ebb_saver_close_parts(s);
    s->array = 0;
    s->stage = HASH;
    return check_parts(s);
}

bool ebb_saver_is_written(ebb_saver_t *s, int64_t at, int64_t n)
{
    int64_t covered = at;
    while (s->array < s->n_parts && s->part[s->array].at + s->part[s->array].bytes <= at)
        s->array++;
    for (int64_t i = s->array; i < s->n_parts && s->part[i].at <= covered && covered < at + n; i++)
        covered = s->part[i].at + s->part[i].bytes;
    return covered >= at + n;
}

/* ---- the snapshot ---- */

/* The same on every rank: what is asked here is known to all alike. */
ebb_status_t ebb_saver_decide_on_split(ebb_saver_t *s, const ebb_checkpoint_state_t *state)
{
    int64_t bytes = 0;
    bool several = ebb_comm_size(s->comm) > 1;
    s->split = false;
    for (int i = 0; i < ebb_ckpt_arrays(&s->index); i++)
        if (ebb_ckpt_may_split(state->layout, &s->index.array[i], i % s->index.n_params))
            bytes += ebb_ckpt_floats(&s->index.array[i]) * (int64_t)sizeof(float);
    if (!several || bytes < ebb_saver_split_bytes || bytes == 0)
        return EBB_OK;
    if (!s->sharing_known && ebb_ckpt_find_sharing(s->comm, s->folder, &s->shared) != EBB_OK) {
        ebb_error_clear(); /* told when the file itself is made, or cannot be */
        return EBB_OK;
    }
    s->sharing_known = true;
    s->split = s->shared;
    for (int i = 0; s->split && i < ebb_ckpt_arrays(&s->index); i++)
        s->index.array[i].split = ebb_ckpt_may_split(state->layout, &s->index.array[i], i % s->index.n_params);
    return EBB_OK;
}

/* Offsets of rank 0's skeleton, and the name of its temporary file, which is by way of each rank's own path. */
static ebb_status_t share_places(ebb_saver_t *s)
{
    int n = ebb_ckpt_arrays(&s->index);
    int64_t *offset, pid = getpid();
    ebb_status_t status = EBB_NEW_ARRAY("offsets", n, &offset);
    for (int i = 0; status == EBB_OK && i < n; i++)
        offset[i] = s->index.array[i].offset;
    status = ebb_comm_agree(s->comm, status);
    if (status == EBB_OK)
        status = ebb_comm_bcast(s->comm, &pid, sizeof pid, 0);
    if (status == EBB_OK)
        status = ebb_comm_agree(s->comm, ebb_ckpt_tmp_path(s->saved.path, (long)pid, s->tmp, sizeof s->tmp));
    if (status == EBB_OK)
        status = ebb_comm_bcast(s->comm, offset, n * (int64_t)sizeof *offset, 0);
    for (int i = 0; status == EBB_OK && i < n; i++)
        s->index.array[i].offset = offset[i];
    ebb_free(offset);
    return status;
}

static ebb_status_t add_part(ebb_saver_t *s, int rank, int64_t at, int64_t image_at, int64_t bytes)
{
    EBB_TRY(ebb_grow("parts", (void **)&s->part, &s->part_capacity, s->n_parts + 1, sizeof *s->part));
    s->part[s->n_parts++] = (part_t){rank, at, image_at, bytes};
    return EBB_OK;
}

/* Rank 0 lists what others write, another rank what it writes; *bytes_p: of its image. */
static ebb_status_t list_parts(ebb_saver_t *s, const ebb_layout_t *layout, int64_t *bytes_p)
{
    int rank = ebb_comm_rank(s->comm), ranks = ebb_comm_size(s->comm);
    *bytes_p = 0;
    for (int i = 0; i < ebb_ckpt_arrays(&s->index); i++) {
        const ebb_ckpt_array_t *array = &s->index.array[i];
        for (int r = 1; array->split && r < ranks; r++) {
            int64_t first, n;
            ebb_ckpt_part(layout, array, i % s->index.n_params, r, ranks, &first, &n);
            int64_t at = array->offset + first * (int64_t)sizeof(float), bytes = n * (int64_t)sizeof(float);
            if (n == 0 || (rank != 0 && rank != r))
                continue;
            if (rank != 0) /* in a sector's same place as in the file */
                *bytes_p = (*bytes_p + SECTOR - 1) / SECTOR * SECTOR + at % SECTOR;
            EBB_TRY(add_part(s, r, at, rank == 0 ? at : *bytes_p, bytes));
            *bytes_p += bytes;
        }
    }
    return EBB_OK;
}

/* This rank's values: on rank 0 to their places in the image, elsewhere as they were listed. */
static ebb_status_t copy_parts(ebb_saver_t *s, const ebb_checkpoint_state_t *state)
{
    int rank = ebb_comm_rank(s->comm), ranks = ebb_comm_size(s->comm);
    for (int i = 0, next = 0; i < ebb_ckpt_arrays(&s->index); i++) {
        const ebb_ckpt_array_t *array = &s->index.array[i];
        int64_t first, n;
        if (!array->split)
            continue;
        ebb_ckpt_part(state->layout, array, i % s->index.n_params, rank, ranks, &first, &n);
        if (n == 0)
            continue;
        float *to = (float *)(void *)(s->image + (rank == 0 ? array->offset + first * (int64_t)sizeof(float)
                                                            : s->part[next++].image_at));
        for (int64_t done = 0, piece; done < n; done += piece) {
            piece = n - done < ebb_ckpt_piece_floats ? n - done : ebb_ckpt_piece_floats;
            EBB_TRY(ebb_ckpt_copy_part(state, array, i % s->index.n_params, first + done, piece, to + done));
            ebb_pulse_tick();
        }
    }
    return EBB_OK;
}

ebb_status_t ebb_saver_take_parts(ebb_saver_t *s, const ebb_checkpoint_state_t *state)
{
    int64_t bytes;
    EBB_TRY(share_places(s));
    ebb_status_t status = list_parts(s, state->layout, &bytes);
    if (status == EBB_OK && ebb_comm_rank(s->comm) != 0)
        status = ebb_saver_make_room(s, bytes);
    if (status == EBB_OK)
        status = copy_parts(s, state);
    for (int r = 0; r < ebb_comm_size(s->comm); r++)
        XXH3_64bits_reset(s->written[r]);
    s->writer.joint = true;
    return ebb_comm_agree(s->comm, status);
}
