/* libhdf5 on a descriptor or a piece of memory: a small driver through which its own reads and writes go, so that a
 * full disk is an error like any other; its lock and its errors; the digest that seals a file. */
#include "checkpoint/device.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/hdf5.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define PIECE ((int64_t)1 << 20) /* bytes read at once */

const char ebb_ckpt_magic[8] = "EBBCKPT";
const char *const ebb_ckpt_text_names[N_TEXTS] = {"config", "progress", "dataset"};

void ebb_ckpt_lock(void)
{
    ebb_hdf5_lock();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

void ebb_ckpt_unlock(void)
{
    ebb_hdf5_unlock();
}

static herr_t deepest(unsigned n, const H5E_error2_t *error, void *text)
{
    if (n == 0)
        snprintf(text, 160, "%s", error->desc ? error->desc : "");
    return 0;
}

ebb_status_t ebb_ckpt_hdf5_error(ebb_status_t status, const char *path, const char *verb)
{
    char why[160] = "";
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, deepest, why);
    return EBB_FAIL(status, "%s: cannot %s: HDF5: %s", path, verb, why);
}

typedef struct device {
    H5FD_t base;
    ebb_ckpt_device_t info;
    haddr_t eoa, eof;
} device_t;

static H5FD_t *device_open(const char *name, unsigned flags, hid_t fapl, haddr_t maxaddr)
{
    const ebb_ckpt_device_t *info = H5Pget_driver_info(fapl);
    off_t end = !info ? -1 : info->image ? 0 : lseek(info->fd, 0, SEEK_END);
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
    if (d->info.image) {
        memcpy(buf, d->info.image + (there > 0 ? at : 0), there);
        return 0;
    }
    ebb_status_t status = ebb_file_pread(d->info.fd, "checkpoint", buf, there, (int64_t)at);
    return status == EBB_OK ? 0 : -1;
}

static void write_to_image(device_t *d, haddr_t at, size_t bytes, const void *buf)
{
    uint64_t room = (uint64_t)d->info.room;
    if (at > room || bytes > room - at)
        *d->info.error = EFBIG;
    else
        memcpy(d->info.image + at, buf, bytes);
}

static herr_t device_write(H5FD_t *file, H5FD_mem_t type, hid_t dxpl, haddr_t at, size_t bytes, const void *buf)
{
    device_t *d = (device_t *)file;
    const char *p = buf;
    d->eof = at + bytes > d->eof ? at + bytes : d->eof;
    if (d->info.image) {
        write_to_image(d, at, bytes, buf);
        return 0;
    }
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
    if (d->info.image)
        *d->info.end = (int64_t)d->eoa;
    else if (d->info.error && *d->info.error == 0 && ftruncate(d->info.fd, (off_t)d->eoa) != 0)
        *d->info.error = errno;
    d->eof = d->eoa;
    return 0;
}

static const H5FD_class_t device_class = {
#if H5_VERSION_GE(1, 13, 0)
    .version = H5FD_CLASS_VERSION,
    .value = (H5FD_class_value_t)511, /* of those for drivers that are registered nowhere */
#endif
    .name = "ebb_checkpoint",
    .maxaddr = INT64_MAX,
    .fc_degree = H5F_CLOSE_STRONG,
    .fapl_size = sizeof(ebb_ckpt_device_t),
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

hid_t ebb_ckpt_file_access(ebb_ckpt_device_t info)
{
    static hid_t driver = H5I_INVALID_HID;
    if (driver < 0)
        driver = H5FDregister(&device_class);
    hid_t fapl = H5Pcreate(H5P_FILE_ACCESS);
    if (driver < 0 || H5Pset_driver(fapl, driver, &info) < 0) { /* libhdf5's own driver would write to a file */
        H5Pclose(fapl);
        return H5I_INVALID_HID;
    }
    H5Pset_libver_bounds(fapl, H5F_LIBVER_V110, H5F_LIBVER_V110); /* metadata with checksums */
    return fapl;
}

/* Bytes [at, end) of a file, through a buffer of PIECE bytes. */
static ebb_status_t hash_file(XXH3_state_t *x, int fd, const char *path, int64_t at, int64_t end, void *buf)
{
    for (; at < end; at += PIECE) {
        size_t n = (size_t)(end - at < PIECE ? end - at : PIECE);
        EBB_TRY(ebb_file_pread(fd, path, buf, n, at));
        XXH3_64bits_update(x, buf, n);
    }
    return EBB_OK;
}

ebb_status_t ebb_ckpt_hash_body(int fd, const char *path, int64_t end, const ebb_ckpt_index_t *index, uint64_t *hash_p)
{
    int64_t at = HEAD;
    void *buf = NULL;
    ebb_status_t status = EBB_OK;
    XXH3_state_t *x = XXH3_createState();
    if (!x)
        return EBB_FAIL(EBB_ENOMEM, "out of memory for a digest");
    XXH3_64bits_reset(x);
    EBB_TRY_GOTO(status, ebb_alloc("checkpoint block", (size_t)PIECE, &buf), done);
    for (int i = 0; index && i < ebb_ckpt_arrays(index); i++) {
        const ebb_ckpt_array_t *array = &index->array[i];
        int64_t bytes = ebb_ckpt_floats(array) * (int64_t)sizeof *array->values;
        if (!array->values || array->offset < at)
            continue;
        EBB_TRY_GOTO(status, hash_file(x, fd, path, at, array->offset, buf), done);
        XXH3_64bits_update(x, array->values, (size_t)bytes);
        at = array->offset + bytes;
    }
    EBB_TRY_GOTO(status, hash_file(x, fd, path, at, end, buf), done);
    *hash_p = XXH3_64bits_digest(x);
done:
    ebb_free(buf);
    XXH3_freeState(x);
    return status;
}

ebb_status_t ebb_ckpt_file_bytes(int fd, const char *path, int64_t *bytes_p)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return ebb_file_error(path, "stat");
    if (!S_ISREG(st.st_mode))
        return EBB_FAIL(EBB_EDATA, "%s: not a regular file", path);
    *bytes_p = (int64_t)st.st_size;
    return EBB_OK;
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
