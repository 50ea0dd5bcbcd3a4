/* Writing a checkpoint's file: HDF5 behind a sealed head of 512 bytes (FORMAT.md).
 *
 * libhdf5 makes the skeleton (groups, contiguous datasets, attributes) and never sees a value: values are written at
 * the offsets it gave. So the disk is reserved before the values come. The seal is an XXH3 over all that follows the
 * head. One thread uses a file.
 */
#include "checkpoint/device.h"

#include "base/alloc.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum {
    SLACK = 64 << 10,      /* what libhdf5 needs beside values and texts, at least */
    SLACK_ARRAY = 4 << 10, /* and for each array */
    SECTOR = 4096,         /* direct writes are of whole ones */
    DIRECT_LEAST = 8 << 20
};

static hid_t create_file(ebb_ckpt_writer_t *w)
{
    hid_t fcpl = H5Pcreate(H5P_FILE_CREATE);
    hid_t fapl = ebb_ckpt_file_access((ebb_ckpt_device_t){w->fd, &w->error, w->image, w->room, &w->bytes});
    H5Pset_userblock(fcpl, HEAD);
    H5Pset_obj_track_times(fcpl, false);
    hid_t file = H5Fcreate(w->tmp ? w->tmp : "image", H5F_ACC_TRUNC, fcpl, fapl);
    H5Pclose(fcpl);
    H5Pclose(fapl);
    return file;
}

static hid_t create_group(hid_t at, const char *name)
{
    hid_t gcpl = H5Pcreate(H5P_GROUP_CREATE);
    H5Pset_link_creation_order(gcpl, H5P_CRT_ORDER_TRACKED | H5P_CRT_ORDER_INDEXED);
    H5Pset_obj_track_times(gcpl, false);
    hid_t group = H5Gcreate2(at, name, H5P_DEFAULT, gcpl, H5P_DEFAULT);
    H5Pclose(gcpl);
    return group;
}

static hid_t string_type(size_t bytes)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, bytes > 0 ? bytes : 1);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
}

static bool add_attribute(hid_t at, const char *name, hid_t file_type, hid_t type, const void *value)
{
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attr = H5Acreate2(at, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool ok = attr >= 0 && H5Awrite(attr, type, value) >= 0;
    if (attr >= 0)
        H5Aclose(attr);
    H5Sclose(space);
    return ok;
}

static bool add_i64(hid_t at, const char *name, int64_t value)
{
    return add_attribute(at, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

static bool add_u64(hid_t at, const char *name, uint64_t value)
{
    return add_attribute(at, name, H5T_STD_U64LE, H5T_NATIVE_UINT64, &value);
}

static bool add_string(hid_t at, const char *name, const char *value)
{
    hid_t type = string_type(strlen(value));
    bool ok = add_attribute(at, name, type, type, value);
    H5Tclose(type);
    return ok;
}

/* A dataset with its space reserved and nothing written; its offset in the file. */
static bool create_array(hid_t group, const char *name, hid_t type, int rank, const hsize_t *dims, int64_t *offset_p)
{
    bool empty = false;
    for (int i = 0; i < rank; i++)
        empty |= dims[i] == 0;
    hid_t dcpl = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_layout(dcpl, H5D_CONTIGUOUS);
    H5Pset_alloc_time(dcpl, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(dcpl, H5D_FILL_TIME_NEVER);
    H5Pset_obj_track_times(dcpl, false);
    hid_t space = rank > 0 ? H5Screate_simple(rank, dims, NULL) : H5Screate(H5S_SCALAR);
    hid_t set = H5Dcreate2(group, name, type, space, H5P_DEFAULT, dcpl, H5P_DEFAULT);
    haddr_t at = set >= 0 && !empty ? H5Dget_offset(set) : 0;
    *offset_p = (int64_t)at;
    if (set >= 0)
        H5Dclose(set);
    H5Sclose(space);
    H5Pclose(dcpl);
    return set >= 0 && at != HADDR_UNDEF;
}

/* Texts are scalar strings: attributes are limited to 64 KiB. */
static bool create_texts(ebb_ckpt_writer_t *w, const ebb_checkpoint_meta_t *meta, int64_t offset[N_TEXTS])
{
    hid_t group = create_group(w->file, "meta");
    bool ok = group >= 0;
    for (int i = 0; ok && i < N_TEXTS; i++) {
        const char *text = *ebb_ckpt_meta_text((ebb_checkpoint_meta_t *)meta, i);
        hid_t type = string_type(text ? strlen(text) : 0);
        ok = create_array(group, ebb_ckpt_text_names[i], type, 0, NULL, &offset[i]);
        H5Tclose(type);
    }
    if (group >= 0)
        H5Gclose(group);
    return ok;
}

static bool create_arrays(hid_t at, const char *name, ebb_ckpt_array_t *array, int n)
{
    hid_t group = create_group(at, name);
    bool ok = group >= 0;
    for (int i = 0; ok && i < n; i++) {
        hsize_t dims[2] = {(hsize_t)array[i].rows, (hsize_t)array[i].cols};
        ok = create_array(group, array[i].name, H5T_IEEE_F32LE, 2, dims, &array[i].offset);
    }
    if (group >= 0)
        H5Gclose(group);
    return ok;
}

static bool create_skeleton(ebb_ckpt_writer_t *w, ebb_ckpt_index_t *index, const ebb_checkpoint_meta_t *meta,
                            int64_t texts[N_TEXTS])
{
    bool ok = create_texts(w, meta, texts) && create_arrays(w->file, "weights", index->array, index->n_params);
    if (!ok || index->n_states < 0)
        return ok;
    hid_t group = create_group(w->file, "optimizer");
    ok = group >= 0;
    for (int s = 0; ok && s < index->n_states; s++)
        ok = create_arrays(group, index->state[s], index->array + (1 + s) * index->n_params, index->n_params);
    if (group >= 0)
        H5Gclose(group);
    return ok && H5Fflush(w->file, H5F_SCOPE_LOCAL) >= 0;
}

/* Names become links; HDF5 gives '/' and "." a meaning. */
static ebb_status_t check_names(const ebb_ckpt_index_t *index)
{
    for (int i = 0; i < ebb_ckpt_arrays(index); i++) {
        const char *name = index->array[i].name;
        if (!*name || strchr(name, '/') || strcmp(name, ".") == 0)
            return EBB_FAIL(EBB_EINVAL, "parameter %d is named \"%s\": a name must not be empty, \".\" or hold '/'",
                            i % index->n_params, name);
    }
    return EBB_OK;
}

int64_t ebb_ckpt_room(const ebb_ckpt_index_t *index, const ebb_checkpoint_meta_t *meta)
{
    int64_t bytes = SLACK + (int64_t)ebb_ckpt_arrays(index) * SLACK_ARRAY;
    for (int i = 0; i < ebb_ckpt_arrays(index); i++)
        bytes += ebb_ckpt_floats(&index->array[i]) * (int64_t)sizeof(float);
    for (int i = 0; i < N_TEXTS; i++) {
        const char *text = *ebb_ckpt_meta_text((ebb_checkpoint_meta_t *)meta, i);
        bytes += text ? (int64_t)strlen(text) : 0;
    }
    return bytes;
}

/* Reserve the disk for everything, so that a full one is met here. File systems that cannot are written to without. */
static ebb_status_t reserve(ebb_ckpt_writer_t *w, int64_t bytes)
{
    if (fallocate(w->fd, FALLOC_FL_KEEP_SIZE, 0, bytes) == 0 || (errno != ENOSPC && errno != EDQUOT && errno != EFBIG))
        return EBB_OK;
    bool full = errno != EFBIG;
    ebb_file_error(w->path, "write checkpoint");
    return ebb_error_prefix("%" PRId64 " bytes needed, %s: ", bytes,
                            full ? "free some space or keep fewer checkpoints (checkpoint.keep)"
                                 : "file too large for this disk");
}

/* The write of libhdf5 that failed, if one did. */
static ebb_status_t device_error(const ebb_ckpt_writer_t *w)
{
    if (w->error == 0)
        return EBB_OK;
    if (w->image)
        return EBB_FAIL(EBB_EBUG, "a checkpoint's %" PRId64 " bytes do not fit its image", w->bytes);
    errno = w->error;
    return ebb_file_error(w->tmp, "write checkpoint");
}

static const char *name_of(const ebb_ckpt_writer_t *w)
{
    return w->tmp ? w->tmp : "a checkpoint in memory";
}

static ebb_status_t create_hdf5(ebb_ckpt_writer_t *w, ebb_ckpt_index_t *index, const ebb_checkpoint_meta_t *meta,
                                int64_t texts[N_TEXTS])
{
    ebb_ckpt_lock();
    w->file = create_file(w);
    bool ok = w->file >= 0 && create_skeleton(w, index, meta, texts);
    ebb_status_t status = ok ? device_error(w) : ebb_ckpt_hdf5_error(EBB_EIO, name_of(w), "create checkpoint");
    ebb_ckpt_unlock();
    return status;
}

ebb_status_t ebb_ckpt_tmp_path(const char *path, long pid, char *tmp, size_t size)
{
    if (snprintf(tmp, size, "%s.tmp-%ld", path, pid) >= (int)size)
        return EBB_FAIL(EBB_EINVAL, "checkpoint path too long: %.80s...", path);
    return EBB_OK;
}

/* Open the temporary file of path. */
static ebb_status_t open_tmp(ebb_ckpt_writer_t *w, const char *path)
{
    char tmp[PATH_MAX];
    EBB_TRY(ebb_ckpt_tmp_path(path, (long)getpid(), tmp, sizeof tmp));
    w->tmp = ebb_strdup(tmp);
    w->path = ebb_strdup(path);
    if (!w->tmp || !w->path)
        return EBB_FAIL(EBB_ENOMEM, "out of memory for a path");
    return ebb_file_open(tmp, O_RDWR | O_CREAT | (w->joint ? 0 : O_TRUNC), 0666, &w->fd);
}

static ebb_status_t put(ebb_ckpt_writer_t *w, const void *data, int64_t bytes, int64_t at)
{
    if (!w->image)
        return ebb_file_pwrite(w->fd, w->tmp, data, (size_t)bytes, at);
    memcpy(w->image + at, data, (size_t)bytes);
    return EBB_OK;
}

static ebb_status_t put_texts(ebb_ckpt_writer_t *w, const ebb_checkpoint_meta_t *meta, const int64_t texts[N_TEXTS])
{
    for (int i = 0; i < N_TEXTS; i++) {
        const char *text = *ebb_ckpt_meta_text((ebb_checkpoint_meta_t *)meta, i);
        EBB_TRY(put(w, text ? text : "", text && *text ? (int64_t)strlen(text) : 1, texts[i]));
    }
    return EBB_OK;
}

ebb_status_t ebb_ckpt_writer_create(const char *path, ebb_ckpt_index_t *index, const ebb_checkpoint_meta_t *meta,
                                    ebb_ckpt_writer_t *w)
{
    int64_t texts[N_TEXTS] = {0};
    *w = (ebb_ckpt_writer_t){.file = H5I_INVALID_HID, .fd = -1};
    EBB_TRY(check_names(index));
    EBB_TRY(open_tmp(w, path));
    EBB_TRY(create_hdf5(w, index, meta, texts));
    EBB_TRY(reserve(w, ebb_ckpt_room(index, meta)));
    return put_texts(w, meta, texts);
}

ebb_status_t ebb_ckpt_image_create(char *image, int64_t room, ebb_ckpt_index_t *index,
                                   const ebb_checkpoint_meta_t *meta, ebb_ckpt_writer_t *w)
{
    int64_t texts[N_TEXTS] = {0};
    *w = (ebb_ckpt_writer_t){.file = H5I_INVALID_HID, .fd = -1, .image = image, .room = room};
    EBB_TRY(check_names(index));
    EBB_TRY(create_hdf5(w, index, meta, texts));
    for (int i = 0; i < ebb_ckpt_arrays(index); i++) {
        int64_t bytes = ebb_ckpt_floats(&index->array[i]) * (int64_t)sizeof(float);
        if (index->array[i].offset > room - bytes)
            return EBB_FAIL(EBB_EBUG, "a checkpoint does not fit its image of %" PRId64 " bytes", room);
    }
    return put_texts(w, meta, texts);
}

ebb_status_t ebb_ckpt_write(ebb_ckpt_writer_t *w, const ebb_ckpt_array_t *array, int64_t first, int64_t n,
                            const float *values)
{
    int64_t at = array->offset + first * (int64_t)sizeof *values, bytes = n * (int64_t)sizeof *values;
    EBB_TRY(put(w, values, bytes, at));
    if (!w->image) /* the disk begins now; fsync has less to wait for */
        (void)sync_file_range(w->fd, at, bytes, SYNC_FILE_RANGE_WRITE);
    return EBB_OK;
}

static bool add_hash(hid_t file, const ebb_ckpt_index_t *index, const ebb_ckpt_array_t *array)
{
    char where[3 * EBB_CKPT_NAME];
    if (array->state < 0)
        snprintf(where, sizeof where, "weights/%s", array->name);
    else
        snprintf(where, sizeof where, "optimizer/%s/%s", index->state[array->state], array->name);
    hid_t set = H5Dopen2(file, where, H5P_DEFAULT);
    bool ok = set >= 0 && add_u64(set, "xxh3", array->xxh3);
    if (set >= 0)
        H5Dclose(set);
    return ok;
}

static bool add_meta(hid_t file, const ebb_checkpoint_meta_t *meta)
{
    char hash[33];
    for (int i = 0; i < 16; i++)
        snprintf(hash + 2 * i, 3, "%02x", meta->cursor.data_hash[i]);
    return add_string(file, "format", "ebb-checkpoint") && add_i64(file, "format_version", EBB_CHECKPOINT_VERSION) &&
           add_string(file, "ebb_version", EBB_VERSION) && add_i64(file, "step", meta->step) &&
           add_i64(file, "lanes", meta->lanes) && add_u64(file, "cursor_seed", meta->cursor.seed) &&
           add_i64(file, "cursor_epoch", meta->cursor.epoch) && add_i64(file, "cursor_step", meta->cursor.step) &&
           add_string(file, "cursor_data_hash", hash) && add_string(file, "weights_sha256", meta->weights_sha256) &&
           add_string(file, "optimizer_sha256", meta->optimizer_sha256);
}

static ebb_status_t finish_hdf5(ebb_ckpt_writer_t *w, const ebb_ckpt_index_t *index, const ebb_checkpoint_meta_t *meta)
{
    ebb_ckpt_lock();
    bool ok = add_meta(w->file, meta);
    for (int i = 0; ok && i < ebb_ckpt_arrays(index); i++)
        ok = add_hash(w->file, index, &index->array[i]);
    ok = H5Fclose(w->file) >= 0 && ok;
    w->file = H5I_INVALID_HID;
    ebb_status_t status = ok ? device_error(w) : ebb_ckpt_hdf5_error(EBB_EIO, name_of(w), "finish checkpoint");
    ebb_ckpt_unlock();
    return status;
}

static ebb_ckpt_head_t make_head(int64_t bytes, uint64_t xxh3)
{
    ebb_ckpt_head_t head = {.version = EBB_CHECKPOINT_VERSION,
                            .bytes = (uint64_t)bytes,
                            .xxh3 = xxh3,
                            .note = "\nEbb checkpoint: an HDF5 file begins at byte 512.\n"};
    memcpy(head.magic, ebb_ckpt_magic, sizeof ebb_ckpt_magic);
    head.self = XXH3_64bits(&head, offsetof(ebb_ckpt_head_t, self));
    return head;
}

static ebb_status_t seal(ebb_ckpt_writer_t *w, const ebb_ckpt_index_t *index)
{
    uint64_t xxh3;
    if (!w->image) {
        EBB_TRY(ebb_ckpt_file_bytes(w->fd, w->tmp, &w->bytes));
        EBB_TRY(ebb_ckpt_hash_body(w->fd, w->tmp, w->bytes, index, &xxh3));
    } else if (w->bytes < HEAD || w->bytes > w->room) {
        return EBB_FAIL(EBB_EBUG, "libhdf5 made a checkpoint of %" PRId64 " bytes in %" PRId64, w->bytes, w->room);
    } else {
        xxh3 = XXH3_64bits(w->image + HEAD, (size_t)w->bytes - HEAD);
    }
    ebb_ckpt_head_t head = make_head(w->bytes, xxh3);
    return put(w, &head, sizeof head, 0);
}

/* Sync and rename. */
static ebb_status_t into_place(ebb_ckpt_writer_t *w)
{
    int fd = w->fd;
    w->fd = -1;
    if (close(fd) != 0)
        return ebb_file_error(w->tmp, "write");
    EBB_TRY(ebb_file_commit(w->tmp, w->path));
    ebb_free(w->tmp);
    w->tmp = NULL;
    return EBB_OK;
}

ebb_status_t ebb_ckpt_writer_commit(ebb_ckpt_writer_t *w, const ebb_ckpt_index_t *index,
                                    const ebb_checkpoint_meta_t *meta)
{
    EBB_TRY(finish_hdf5(w, index, meta));
    EBB_TRY(seal(w, index));
    return into_place(w);
}

ebb_status_t ebb_ckpt_image_seal(ebb_ckpt_writer_t *w, const ebb_ckpt_index_t *index, const ebb_checkpoint_meta_t *meta)
{
    EBB_TRY(finish_hdf5(w, index, meta));
    return seal(w, index);
}

static bool set_direct(int fd, bool on)
{
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && fcntl(fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
}

/* A large image goes around the page cache: that costs no copy, and leaves the data set where it is in memory. */
ebb_status_t ebb_ckpt_image_open(ebb_ckpt_writer_t *w, const char *path)
{
    EBB_TRY(open_tmp(w, path));
    EBB_TRY(reserve(w, w->bytes));
    w->direct = (uintptr_t)w->image % SECTOR == 0 && w->bytes >= DIRECT_LEAST && set_direct(w->fd, true);
    return EBB_OK;
}

ebb_status_t ebb_ckpt_image_write(ebb_ckpt_writer_t *w, int64_t at, int64_t n)
{
    int64_t whole = (n + SECTOR - 1) / SECTOR * SECTOR;
    if (w->direct && at % SECTOR == 0 && at + whole <= w->room) {
        if (pwrite(w->fd, w->image + at, (size_t)whole, at) == (ssize_t)whole)
            return EBB_OK;
        w->direct = !set_direct(w->fd, false); /* what failed is tried, and told, in the usual way */
    }
    EBB_TRY(ebb_file_pwrite(w->fd, w->tmp, w->image + at, (size_t)n, at));
    (void)sync_file_range(w->fd, at, n, SYNC_FILE_RANGE_WRITE);
    return EBB_OK;
}

ebb_status_t ebb_ckpt_image_commit(ebb_ckpt_writer_t *w)
{
    if (ftruncate(w->fd, w->bytes) != 0) /* direct writes are of whole sectors */
        return ebb_file_error(w->tmp, "cut");
    return into_place(w);
}

void ebb_ckpt_writer_destroy(ebb_ckpt_writer_t *w)
{
    if (w->file >= 0) {
        ebb_ckpt_lock();
        H5Fclose(w->file);
        ebb_ckpt_unlock();
    }
    if (w->fd >= 0)
        close(w->fd);
    if (w->tmp)
        unlink(w->tmp);
    ebb_free(w->tmp);
    ebb_free(w->path);
    *w = (ebb_ckpt_writer_t){.file = H5I_INVALID_HID, .fd = -1};
}
