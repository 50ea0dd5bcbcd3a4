/* A checkpoint's file: HDF5 behind a sealed head of 512 bytes (FORMAT.md).
 *
 * libhdf5 makes and reads the skeleton (groups, contiguous datasets, attributes) and never sees a value: values are
 * written and read with pwrite and pread at the offsets it gave; its own reads and writes go through a small driver
 * here. So the disk is reserved before the values come, and a full one is an error like any other. The seal is an XXH3
 * over all that follows the head. It is checked before libhdf5 is let near a file, because libhdf5 trusts what it
 * reads; sizes are checked all the same, since a seal can be made by anyone. Calls into libhdf5 are under one lock; one
 * thread uses a file.
 */
#include "checkpoint/internal.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/hdf5.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum {
    HEAD = 512,
    MAX_PARAMS = 1 << 20,
    MAX_STATES = 16,
    SLACK = 64 << 10,     /* what libhdf5 needs beside values and texts, at least */
    SLACK_ARRAY = 4 << 10 /* and for each array */
};

static const char magic[8] = "EBBCKPT";

/* The first bytes of a file. */
typedef struct head {
    char magic[8];
    uint64_t version, bytes, xxh3; /* of the file; xxh3: of bytes HEAD .. bytes */
    char note[HEAD - 40];
    uint64_t self; /* XXH3 of the head up to here */
} head_t;
_Static_assert(sizeof(head_t) == HEAD, "the head is the user block of the HDF5 file");

static const char *const text_names[] = {"config", "progress", "dataset"};
enum { N_TEXTS = 3 };

static char **meta_text(ebb_checkpoint_meta_t *meta, int i)
{
    return i == 0 ? &meta->config : i == 1 ? &meta->progress : &meta->dataset;
}

static void lock(void)
{
    ebb_hdf5_lock();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

static void unlock(void)
{
    ebb_hdf5_unlock();
}

static herr_t deepest(unsigned n, const H5E_error2_t *error, void *text)
{
    if (n == 0)
        snprintf(text, 160, "%s", error->desc ? error->desc : "");
    return 0;
}

static ebb_status_t hdf5_error(ebb_status_t status, const char *path, const char *verb)
{
    char why[160] = "";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, deepest, why);
    return EBB_FAIL(status, "%s: cannot %s: HDF5: %s", path, verb, why);
}

ebb_status_t ebb_ckpt_index_create(int n_params, int n_states, ebb_ckpt_index_t *index)
{
    *index = (ebb_ckpt_index_t){.n_params = n_params, .n_states = n_states};
    if (n_params < 0 || n_params > MAX_PARAMS || n_states > MAX_STATES)
        return EBB_FAIL(EBB_EDATA, "%d parameters with %d states are more than a checkpoint holds", n_params, n_states);
    ebb_status_t status = EBB_NEW_ARRAY("checkpoint index", ebb_ckpt_arrays(index), &index->array);
    if (status == EBB_OK && n_states > 0)
        status = EBB_NEW_ARRAY("checkpoint states", n_states, &index->state);
    for (int i = 0; status == EBB_OK && i < ebb_ckpt_arrays(index); i++)
        index->array[i].state = i / n_params - 1;
    return status;
}

void ebb_ckpt_index_destroy(ebb_ckpt_index_t *index)
{
    ebb_free(index->array);
    ebb_free(index->state);
    *index = (ebb_ckpt_index_t){0};
}

/* ---- libhdf5's way to the file ---- */

/* libhdf5 reads and writes the descriptor it is given. A write that fails is remembered, not reported: libhdf5 1.10
 * cannot let go of a file whose last write failed, and crashes when the process ends. The caller looks at *error
 * afterwards. */
typedef struct device_info {
    int fd;
    int *error; /* errno of the first failed write; NULL: read only */
} device_info_t;

typedef struct device {
    H5FD_t base;
    device_info_t info;
    haddr_t eoa, eof;
} device_t;

static H5FD_t *device_open(const char *name, unsigned flags, hid_t fapl, haddr_t maxaddr)
{
    const device_info_t *info = H5Pget_driver_info(fapl);
    off_t end = info ? lseek(info->fd, 0, SEEK_END) : -1;
    device_t *d = end >= 0 ? calloc(1, sizeof *d) : NULL; /* libhdf5's object, freed by its close */
    if (!d)
        return NULL;
    d->info = *info;
    d->eof = (haddr_t)end;
    return &d->base;
}

static herr_t device_close(H5FD_t *file)
{
    free(file);
    return 0;
}

static herr_t device_query(const H5FD_t *file, unsigned long *flags)
{
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_AGGREGATE_SMALLDATA;
    return 0;
}

static haddr_t device_get_eoa(const H5FD_t *file, H5FD_mem_t type)
{
    return ((const device_t *)file)->eoa;
}

static herr_t device_set_eoa(H5FD_t *file, H5FD_mem_t type, haddr_t eoa)
{
    ((device_t *)file)->eoa = eoa;
    return 0;
}

static haddr_t device_get_eof(const H5FD_t *file, H5FD_mem_t type)
{
    return ((const device_t *)file)->eof;
}

/* Beyond the end of the file are zeros. */
static herr_t device_read(H5FD_t *file, H5FD_mem_t type, hid_t dxpl, haddr_t at, size_t bytes, void *buf)
{
    device_t *d = (device_t *)file;
    size_t there = at >= d->eof ? 0 : d->eof - at < bytes ? (size_t)(d->eof - at) : bytes;
    memset((char *)buf + there, 0, bytes - there);
    ebb_status_t status = ebb_file_pread(d->info.fd, "checkpoint", buf, there, (int64_t)at);
    return status == EBB_OK ? 0 : -1;
}

static herr_t device_write(H5FD_t *file, H5FD_mem_t type, hid_t dxpl, haddr_t at, size_t bytes, const void *buf)
{
    device_t *d = (device_t *)file;
    const char *p = buf;
    d->eof = at + bytes > d->eof ? at + bytes : d->eof;
    while (bytes > 0 && d->info.error && *d->info.error == 0) {
        ssize_t n = pwrite(d->info.fd, p, bytes, (off_t)at);
        if (n < 0 && errno != EINTR)
            *d->info.error = errno;
        p += n > 0 ? n : 0;
        at += n > 0 ? (haddr_t)n : 0;
        bytes -= n > 0 ? (size_t)n : 0;
    }
    return 0;
}

static herr_t device_truncate(H5FD_t *file, hid_t dxpl, hbool_t closing)
{
    device_t *d = (device_t *)file;
    if (d->info.error && *d->info.error == 0 && ftruncate(d->info.fd, (off_t)d->eoa) != 0)
        *d->info.error = errno;
    d->eof = d->eoa;
    return 0;
}

static const H5FD_class_t device_class = {
    .name = "ebb_checkpoint",
    .maxaddr = INT64_MAX,
    .fc_degree = H5F_CLOSE_STRONG,
    .fapl_size = sizeof(device_info_t),
    .open = device_open,
    .close = device_close,
    .query = device_query,
    .get_eoa = device_get_eoa,
    .set_eoa = device_set_eoa,
    .get_eof = device_get_eof,
    .read = device_read,
    .write = device_write,
    .truncate = device_truncate,
    .fl_map = H5FD_FLMAP_DICHOTOMY,
};

/* ---- writing ---- */

static hid_t file_access(device_info_t info)
{
    static hid_t driver = H5I_INVALID_HID;
    hid_t fapl = H5Pcreate(H5P_FILE_ACCESS);
    if (driver < 0)
        driver = H5FDregister(&device_class);
    H5Pset_driver(fapl, driver, &info);
    H5Pset_libver_bounds(fapl, H5F_LIBVER_V110, H5F_LIBVER_V110); /* metadata with checksums */
    return fapl;
}

static hid_t create_file(ebb_ckpt_writer_t *w)
{
    hid_t fcpl = H5Pcreate(H5P_FILE_CREATE), fapl = file_access((device_info_t){w->fd, &w->error});
    H5Pset_userblock(fcpl, HEAD);
    H5Pset_obj_track_times(fcpl, false);
    hid_t file = H5Fcreate(w->tmp, H5F_ACC_TRUNC, fcpl, fapl);
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
        const char *text = *meta_text((ebb_checkpoint_meta_t *)meta, i);
        hid_t type = string_type(text ? strlen(text) : 0);
        ok = create_array(group, text_names[i], type, 0, NULL, &offset[i]);
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

/* Reserve the disk for everything, so that a full one is met here. File systems that cannot are written to without. */
static ebb_status_t reserve(ebb_ckpt_writer_t *w, const ebb_ckpt_index_t *index, const ebb_checkpoint_meta_t *meta)
{
    int64_t bytes = SLACK + (int64_t)ebb_ckpt_arrays(index) * SLACK_ARRAY;
    for (int i = 0; i < ebb_ckpt_arrays(index); i++)
        bytes += ebb_ckpt_floats(&index->array[i]) * (int64_t)sizeof(float);
    for (int i = 0; i < N_TEXTS; i++) {
        const char *text = *meta_text((ebb_checkpoint_meta_t *)meta, i);
        bytes += text ? (int64_t)strlen(text) : 0;
    }
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
    errno = w->error;
    return ebb_file_error(w->tmp, "write checkpoint");
}

static ebb_status_t create_hdf5(ebb_ckpt_writer_t *w, ebb_ckpt_index_t *index, const ebb_checkpoint_meta_t *meta,
                                int64_t texts[N_TEXTS])
{
    lock();
    w->file = create_file(w);
    bool ok = w->file >= 0 && create_skeleton(w, index, meta, texts);
    ebb_status_t status = ok ? device_error(w) : hdf5_error(EBB_EIO, w->tmp, "create checkpoint");
    unlock();
    return status;
}

ebb_status_t ebb_ckpt_writer_create(const char *path, ebb_ckpt_index_t *index, const ebb_checkpoint_meta_t *meta,
                                    ebb_ckpt_writer_t *w)
{
    char tmp[PATH_MAX];
    int64_t texts[N_TEXTS] = {0};
    *w = (ebb_ckpt_writer_t){.file = H5I_INVALID_HID, .fd = -1};
    EBB_TRY(check_names(index));
    if (snprintf(tmp, sizeof tmp, "%s.tmp-%ld", path, (long)getpid()) >= (int)sizeof tmp)
        return EBB_FAIL(EBB_EINVAL, "checkpoint path too long: %.80s...", path);
    w->tmp = ebb_strdup(tmp);
    w->path = ebb_strdup(path);
    if (!w->tmp || !w->path)
        return EBB_FAIL(EBB_ENOMEM, "out of memory for a path");
    EBB_TRY(ebb_file_open(tmp, O_RDWR | O_CREAT | O_TRUNC, 0666, &w->fd));
    EBB_TRY(create_hdf5(w, index, meta, texts));
    EBB_TRY(reserve(w, index, meta));
    for (int i = 0; i < N_TEXTS; i++) {
        const char *text = *meta_text((ebb_checkpoint_meta_t *)meta, i);
        EBB_TRY(ebb_file_pwrite(w->fd, tmp, text ? text : "", text && *text ? strlen(text) : 1, texts[i]));
    }
    return EBB_OK;
}

ebb_status_t ebb_ckpt_write(ebb_ckpt_writer_t *w, const ebb_ckpt_array_t *array, int64_t first, int64_t n,
                            const float *values)
{
    int64_t at = array->offset + first * (int64_t)sizeof *values, bytes = n * (int64_t)sizeof *values;
    EBB_TRY(ebb_file_pwrite(w->fd, w->tmp, values, (size_t)bytes, at));
    (void)sync_file_range(w->fd, at, bytes,
                          SYNC_FILE_RANGE_WRITE); /* the disk begins now; fsync has less to wait for */
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
    lock();
    bool ok = add_meta(w->file, meta);
    for (int i = 0; ok && i < ebb_ckpt_arrays(index); i++)
        ok = add_hash(w->file, index, &index->array[i]);
    ok = H5Fclose(w->file) >= 0 && ok;
    w->file = H5I_INVALID_HID;
    ebb_status_t status = ok ? device_error(w) : hdf5_error(EBB_EIO, w->tmp, "finish checkpoint");
    unlock();
    return status;
}

/* XXH3 of bytes HEAD .. end. */
static ebb_status_t hash_body(int fd, const char *path, int64_t end, uint64_t *hash_p)
{
    int64_t piece = end - HEAD < 1 << 20 ? end - HEAD : 1 << 20;
    void *buf = NULL;
    ebb_status_t status = EBB_OK;
    XXH3_state_t *x = XXH3_createState();
    if (!x)
        return EBB_FAIL(EBB_ENOMEM, "out of memory for a digest");
    XXH3_64bits_reset(x);
    EBB_TRY_GOTO(status, ebb_alloc("checkpoint block", (size_t)piece, &buf), done);
    for (int64_t at = HEAD; at < end; at += piece) {
        size_t n = (size_t)(end - at < piece ? end - at : piece);
        EBB_TRY_GOTO(status, ebb_file_pread(fd, path, buf, n, at), done);
        XXH3_64bits_update(x, buf, n);
    }
    *hash_p = XXH3_64bits_digest(x);
done:
    ebb_free(buf);
    XXH3_freeState(x);
    return status;
}

static ebb_status_t file_bytes(int fd, const char *path, int64_t *bytes_p)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return ebb_file_error(path, "stat");
    if (!S_ISREG(st.st_mode))
        return EBB_FAIL(EBB_EDATA, "%s: not a regular file", path);
    *bytes_p = (int64_t)st.st_size;
    return EBB_OK;
}

static ebb_status_t seal(ebb_ckpt_writer_t *w)
{
    int64_t bytes;
    head_t head = {.version = EBB_CHECKPOINT_VERSION, .note = "\nEbb checkpoint: an HDF5 file begins at byte 512.\n"};
    memcpy(head.magic, magic, sizeof magic);
    EBB_TRY(file_bytes(w->fd, w->tmp, &bytes));
    head.bytes = (uint64_t)bytes;
    EBB_TRY(hash_body(w->fd, w->tmp, bytes, &head.xxh3));
    head.self = XXH3_64bits(&head, offsetof(head_t, self));
    return ebb_file_pwrite(w->fd, w->tmp, &head, sizeof head, 0);
}

ebb_status_t ebb_ckpt_writer_commit(ebb_ckpt_writer_t *w, const ebb_ckpt_index_t *index,
                                    const ebb_checkpoint_meta_t *meta)
{
    EBB_TRY(finish_hdf5(w, index, meta));
    EBB_TRY(seal(w));
    int fd = w->fd;
    w->fd = -1;
    if (close(fd) != 0)
        return ebb_file_error(w->tmp, "write");
    EBB_TRY(ebb_file_commit(w->tmp, w->path));
    ebb_free(w->tmp);
    w->tmp = NULL;
    return EBB_OK;
}

void ebb_ckpt_writer_destroy(ebb_ckpt_writer_t *w)
{
    if (w->file >= 0) {
        lock();
        H5Fclose(w->file);
        unlock();
    }
    if (w->fd >= 0)
        close(w->fd);
    if (w->tmp)
        unlink(w->tmp);
    ebb_free(w->tmp);
    ebb_free(w->path);
    *w = (ebb_ckpt_writer_t){.file = H5I_INVALID_HID, .fd = -1};
}

/* ---- reading ---- */

static ebb_status_t check_head(int fd, const char *path, head_t *head)
{
    int64_t bytes;
    EBB_TRY(file_bytes(fd, path, &bytes));
    if (bytes < HEAD)
        return EBB_FAIL(EBB_EDATA, "%s: not a checkpoint: only %" PRId64 " bytes", path, bytes);
    EBB_TRY(ebb_file_pread(fd, path, head, sizeof *head, 0));
    if (memcmp(head->magic, magic, sizeof magic) != 0)
        return EBB_FAIL(EBB_EDATA, "%s: not a checkpoint of ebb", path);
    if (head->self != XXH3_64bits(head, offsetof(head_t, self)))
        return EBB_FAIL(EBB_ECORRUPT, "%s: the first 512 bytes are damaged", path);
    if (head->version != EBB_CHECKPOINT_VERSION)
        return EBB_FAIL(EBB_EDATA, "%s: checkpoint version %" PRIu64 ", this ebb reads version %d", path, head->version,
                        EBB_CHECKPOINT_VERSION);
    if (head->bytes != (uint64_t)bytes)
        return EBB_FAIL(EBB_ECORRUPT, "%s: %" PRId64 " bytes of %" PRIu64 ": the file was cut off or added to", path,
                        bytes, head->bytes);
    return EBB_OK;
}

static ebb_status_t check_seal(int fd, const char *path)
{
    head_t head;
    uint64_t hash;
    EBB_TRY(check_head(fd, path, &head));
    EBB_TRY(hash_body(fd, path, (int64_t)head.bytes, &hash));
    if (hash != head.xxh3)
        return EBB_FAIL(EBB_ECORRUPT,
                        "%s: damaged or changed since it was written (XXH3 %016" PRIx64 ", not %016" PRIx64 ")", path,
                        hash, head.xxh3);
    return EBB_OK;
}

bool ebb_ckpt_complete(const char *path)
{
    int fd;
    head_t head;
    bool ok = ebb_file_open(path, O_RDONLY, 0, &fd) == EBB_OK;
    if (ok) {
        ok = check_head(fd, path, &head) == EBB_OK;
        close(fd);
    }
    ebb_error_clear();
    return ok;
}

static bool get_number(hid_t at, const char *name, hid_t type, void *value)
{
    hid_t attr = H5Aopen(at, name, H5P_DEFAULT);
    hid_t space = attr >= 0 ? H5Aget_space(attr) : H5I_INVALID_HID;
    hid_t stored = attr >= 0 ? H5Aget_type(attr) : H5I_INVALID_HID;
    bool ok = space >= 0 && H5Sget_simple_extent_npoints(space) == 1 && H5Tget_class(stored) == H5T_INTEGER &&
              H5Aread(attr, type, value) >= 0;
    if (stored >= 0)
        H5Tclose(stored);
    if (space >= 0)
        H5Sclose(space);
    if (attr >= 0)
        H5Aclose(attr);
    return ok;
}

/* A string attribute of at most size - 1 bytes. */
static bool get_string(hid_t at, const char *name, char *value, size_t size)
{
    hid_t attr = H5Aopen(at, name, H5P_DEFAULT);
    hid_t space = attr >= 0 ? H5Aget_space(attr) : H5I_INVALID_HID;
    hid_t type = attr >= 0 ? H5Aget_type(attr) : H5I_INVALID_HID;
    memset(value, 0, size);
    bool ok = space >= 0 && H5Sget_simple_extent_npoints(space) == 1 && H5Tget_class(type) == H5T_STRING &&
              H5Tis_variable_str(type) == 0 && H5Tget_size(type) < size && H5Aread(attr, type, value) >= 0;
    if (type >= 0)
        H5Tclose(type);
    if (space >= 0)
        H5Sclose(space);
    if (attr >= 0)
        H5Aclose(attr);
    return ok;
}

/* Where a contiguous dataset lies: its bytes must be inside the file. */
static bool find_bytes(hid_t set, int64_t bytes, int64_t file_size, int64_t *offset_p)
{
    hid_t dcpl = H5Dget_create_plist(set);
    bool ok = dcpl >= 0 && H5Pget_layout(dcpl) == H5D_CONTIGUOUS && H5Pget_external_count(dcpl) == 0;
    if (dcpl >= 0)
        H5Pclose(dcpl);
    *offset_p = 0;
    if (!ok || bytes == 0)
        return ok;
    haddr_t at = H5Dget_offset(set);
    *offset_p = (int64_t)at;
    return at != HADDR_UNDEF && at >= HEAD && at <= (uint64_t)file_size && (uint64_t)bytes <= (uint64_t)file_size - at;
}

static bool get_shape(hid_t set, ebb_ckpt_array_t *array)
{
    hsize_t dims[2] = {0};
    hid_t space = H5Dget_space(set), type = H5Dget_type(set);
    bool ok = space >= 0 && type >= 0 && H5Tequal(type, H5T_IEEE_F32LE) > 0 && H5Sget_simple_extent_ndims(space) == 2 &&
              H5Sget_simple_extent_dims(space, dims, NULL) == 2;
    if (type >= 0)
        H5Tclose(type);
    if (space >= 0)
        H5Sclose(space);
    array->rows = (int64_t)dims[0];
    array->cols = (int64_t)dims[1];
    return ok && dims[0] <= INT64_MAX / 8 && dims[1] <= INT64_MAX / 8 &&
           (dims[1] == 0 || dims[0] <= INT64_MAX / 8 / dims[1]);
}

static ebb_status_t read_array(hid_t group, const char *path, const char *group_name, int64_t file_size,
                               ebb_ckpt_array_t *array)
{
    hid_t set = H5Dopen2(group, array->name, H5P_DEFAULT);
    bool ok = set >= 0 && get_shape(set, array) &&
              find_bytes(set, ebb_ckpt_floats(array) * 4, file_size, &array->offset) &&
              get_number(set, "xxh3", H5T_NATIVE_UINT64, &array->xxh3);
    if (set >= 0)
        H5Dclose(set);
    return ok ? EBB_OK
              : EBB_FAIL(EBB_EDATA, "%s: %s/%s: not a contiguous float32 array of two dimensions with its xxh3", path,
                         group_name, array->name);
}

/* Name of member i in the order of creation. */
static bool member_name(hid_t group, int i, char name[EBB_CKPT_NAME])
{
    ssize_t n =
        H5Lget_name_by_idx(group, ".", H5_INDEX_CRT_ORDER, H5_ITER_INC, (hsize_t)i, name, EBB_CKPT_NAME, H5P_DEFAULT);
    return n > 0 && n < EBB_CKPT_NAME;
}

/* Members of a group, -1 if it is none or holds too many. */
static int members(hid_t group, int limit)
{
    H5G_info_t info;
    if (group < 0 || H5Gget_info(group, &info) < 0 || info.nlinks > (hsize_t)limit)
        return -1;
    return (int)info.nlinks;
}

/* The n_params arrays of one group. */
static ebb_status_t read_group(hid_t at, const char *path, const char *name, int64_t file_size, int n,
                               ebb_ckpt_array_t *array)
{
    ebb_status_t status = EBB_OK;
    hid_t group = H5Gopen2(at, name, H5P_DEFAULT);
    if (members(group, MAX_PARAMS) != n)
        status = EBB_FAIL(EBB_EDATA, "%s: group %s does not hold the %d arrays of the weights", path, name, n);
    for (int i = 0; status == EBB_OK && i < n; i++) {
        if (!member_name(group, i, array[i].name))
            status = EBB_FAIL(EBB_EDATA, "%s: group %s: member %d has no usable name", path, name, i);
        else
            status = read_array(group, path, name, file_size, &array[i]);
    }
    if (group >= 0)
        H5Gclose(group);
    return status;
}

static int count_members(hid_t file, const char *name, int limit)
{
    hid_t group = H5Gopen2(file, name, H5P_DEFAULT);
    int n = members(group, limit);
    if (group >= 0)
        H5Gclose(group);
    return n;
}

static ebb_status_t read_index(hid_t file, const char *path, int64_t file_size, ebb_ckpt_index_t *index)
{
    int n_params = count_members(file, "weights", MAX_PARAMS);
    int n_states = H5Lexists(file, "optimizer", H5P_DEFAULT) > 0 ? count_members(file, "optimizer", MAX_STATES) : -1;
    if (n_params < 0)
        return EBB_FAIL(EBB_EDATA, "%s: no group of weights", path);
    EBB_TRY(ebb_ckpt_index_create(n_params, n_states, index));
    EBB_TRY(read_group(file, path, "weights", file_size, n_params, index->array));
    hid_t group = n_states > 0 ? H5Gopen2(file, "optimizer", H5P_DEFAULT) : H5I_INVALID_HID;
    ebb_status_t status = EBB_OK;
    for (int s = 0; status == EBB_OK && s < n_states; s++) {
        if (!member_name(group, s, index->state[s]))
            status = EBB_FAIL(EBB_EDATA, "%s: optimizer: state %d has no usable name", path, s);
        else
            status = read_group(group, path, index->state[s], file_size, n_params, index->array + (1 + s) * n_params);
    }
    if (group >= 0)
        H5Gclose(group);
    return status;
}

static bool get_meta(hid_t file, ebb_checkpoint_meta_t *meta)
{
    char hash[34];
    int64_t lanes = 0;
    bool ok = get_number(file, "step", H5T_NATIVE_INT64, &meta->step) &&
              get_number(file, "lanes", H5T_NATIVE_INT64, &lanes) &&
              get_number(file, "cursor_seed", H5T_NATIVE_UINT64, &meta->cursor.seed) &&
              get_number(file, "cursor_epoch", H5T_NATIVE_INT64, &meta->cursor.epoch) &&
              get_number(file, "cursor_step", H5T_NATIVE_INT64, &meta->cursor.step) &&
              get_string(file, "cursor_data_hash", hash, sizeof hash) &&
              get_string(file, "weights_sha256", meta->weights_sha256, 65) &&
              get_string(file, "optimizer_sha256", meta->optimizer_sha256, 65);
    for (int i = 0; ok && i < 16; i++) {
        unsigned byte = 0;
        ok = sscanf(hash + 2 * i, "%2x", &byte) == 1;
        meta->cursor.data_hash[i] = (uint8_t)byte;
    }
    meta->lanes = (int32_t)lanes;
    return ok && lanes >= 0 && lanes <= INT32_MAX && meta->step >= 0 && meta->cursor.epoch >= 0 &&
           meta->cursor.step >= 0;
}

/* Where text i lies, and its length. */
static bool find_text(hid_t file, int i, int64_t file_size, int64_t *offset_p, int64_t *bytes_p)
{
    char where[32];
    snprintf(where, sizeof where, "meta/%s", text_names[i]);
    hid_t set = H5Dopen2(file, where, H5P_DEFAULT);
    hid_t type = set >= 0 ? H5Dget_type(set) : H5I_INVALID_HID;
    bool ok = type >= 0 && H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0;
    *bytes_p = ok ? (int64_t)H5Tget_size(type) : 0;
    ok = ok && find_bytes(set, *bytes_p, file_size, offset_p);
    if (type >= 0)
        H5Tclose(type);
    if (set >= 0)
        H5Dclose(set);
    return ok;
}

static ebb_status_t read_meta(hid_t file, const char *path, int fd, int64_t file_size, ebb_checkpoint_meta_t *meta)
{
    if (!get_meta(file, meta))
        return EBB_FAIL(EBB_EDATA, "%s: step, lanes, cursor or hashes are missing or out of range", path);
    for (int i = 0; i < N_TEXTS; i++) {
        int64_t offset, bytes;
        char **text = meta_text(meta, i);
        if (!find_text(file, i, file_size, &offset, &bytes))
            return EBB_FAIL(EBB_EDATA, "%s: meta/%s: not a string inside the file", path, text_names[i]);
        EBB_TRY(ebb_alloc(text_names[i], (size_t)bytes + 1, (void **)text));
        EBB_TRY(ebb_file_pread(fd, path, *text, (size_t)bytes, offset));
    }
    return EBB_OK;
}

static ebb_status_t read_hdf5(const char *path, int fd, ebb_ckpt_index_t *index, ebb_checkpoint_meta_t *meta)
{
    char format[32];
    int64_t bytes;
    ebb_status_t status = EBB_OK;
    EBB_TRY(file_bytes(fd, path, &bytes));
    lock();
    hid_t fapl = file_access((device_info_t){fd, NULL});
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, fapl);
    H5Pclose(fapl);
    if (file < 0)
        status = hdf5_error(EBB_ECORRUPT, path, "open");
    else if (!get_string(file, "format", format, sizeof format) || strcmp(format, "ebb-checkpoint") != 0)
        status = EBB_FAIL(EBB_EDATA, "%s: attribute format is not \"ebb-checkpoint\"", path);
    if (status == EBB_OK && index)
        status = read_index(file, path, bytes, index);
    if (status == EBB_OK && meta)
        status = read_meta(file, path, fd, bytes, meta);
    if (file >= 0)
        H5Fclose(file);
    unlock();
    return status;
}

ebb_status_t ebb_ckpt_open(const char *path, ebb_ckpt_index_t *index, ebb_checkpoint_meta_t *meta, int *fd_p)
{
    int fd;
    if (index)
        *index = (ebb_ckpt_index_t){0};
    if (meta)
        *meta = (ebb_checkpoint_meta_t){0};
    EBB_TRY(ebb_file_open(path, O_RDONLY, 0, &fd));
    ebb_status_t status = check_seal(fd, path);
    if (status == EBB_OK)
        status = read_hdf5(path, fd, index, meta);
    if (status == EBB_OK && fd_p) {
        *fd_p = fd;
        return EBB_OK;
    }
    close(fd);
    if (status != EBB_OK && index)
        ebb_ckpt_index_destroy(index);
    if (status != EBB_OK && meta)
        ebb_checkpoint_meta_free(meta);
    return status;
}

ebb_status_t ebb_ckpt_read(int fd, const char *path, const ebb_ckpt_array_t *array, int64_t first, int64_t n,
                           float *values)
{
    return ebb_file_pread(fd, path, values, (size_t)n * sizeof *values,
                          array->offset + first * (int64_t)sizeof *values);
}
