/* Reading a checkpoint's file (FORMAT.md). The seal is checked before libhdf5 is let near a file, because libhdf5
 * trusts what it reads; sizes are checked all the same, since a seal can be made by anyone. Values are read at the
 * offsets that the index names. One thread uses a file.
 */
#include "checkpoint/device.h"

#include "base/alloc.h"
#include "base/file.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

static ebb_status_t check_head(int fd, const char *path, ebb_ckpt_head_t *head)
{
    int64_t bytes;
    EBB_TRY(ebb_ckpt_file_bytes(fd, path, &bytes));
    if (bytes < HEAD)
        return EBB_FAIL(EBB_EDATA, "%s: not a checkpoint: only %" PRId64 " bytes", path, bytes);
    EBB_TRY(ebb_file_pread(fd, path, head, sizeof *head, 0));
    if (memcmp(head->magic, ebb_ckpt_magic, sizeof ebb_ckpt_magic) != 0)
        return EBB_FAIL(EBB_EDATA, "%s: not a checkpoint of ebb", path);
    if (head->self != XXH3_64bits(head, offsetof(ebb_ckpt_head_t, self)))
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
    ebb_ckpt_head_t head;
    uint64_t hash;
    EBB_TRY(check_head(fd, path, &head));
    EBB_TRY(ebb_ckpt_hash_body(fd, path, (int64_t)head.bytes, NULL, &hash));
    if (hash != head.xxh3)
        return EBB_FAIL(EBB_ECORRUPT,
                        "%s: damaged or changed since it was written (XXH3 %016" PRIx64 ", not %016" PRIx64 ")", path,
                        hash, head.xxh3);
    return EBB_OK;
}

bool ebb_ckpt_complete(const char *path)
{
    int fd;
    ebb_ckpt_head_t head;
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
    snprintf(where, sizeof where, "meta/%s", ebb_ckpt_text_names[i]);
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
        char **text = ebb_ckpt_meta_text(meta, i);
        if (!find_text(file, i, file_size, &offset, &bytes))
            return EBB_FAIL(EBB_EDATA, "%s: meta/%s: not a string inside the file", path, ebb_ckpt_text_names[i]);
        EBB_TRY(ebb_alloc(ebb_ckpt_text_names[i], (size_t)bytes + 1, (void **)text));
        EBB_TRY(ebb_file_pread(fd, path, *text, (size_t)bytes, offset));
    }
    return EBB_OK;
}

static ebb_status_t read_hdf5(const char *path, int fd, ebb_ckpt_index_t *index, ebb_checkpoint_meta_t *meta)
{
    char format[32];
    int64_t bytes;
    ebb_status_t status = EBB_OK;
    EBB_TRY(ebb_ckpt_file_bytes(fd, path, &bytes));
    ebb_ckpt_lock();
    hid_t fapl = ebb_ckpt_file_access((ebb_ckpt_device_t){.fd = fd});
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, fapl);
    H5Pclose(fapl);
    if (file < 0)
        status = ebb_ckpt_hdf5_error(EBB_ECORRUPT, path, "open");
    else if (!get_string(file, "format", format, sizeof format) || strcmp(format, "ebb-checkpoint") != 0)
        status = EBB_FAIL(EBB_EDATA, "%s: attribute format is not \"ebb-checkpoint\"", path);
    if (status == EBB_OK && index)
        status = read_index(file, path, bytes, index);
    if (status == EBB_OK && meta)
        status = read_meta(file, path, fd, bytes, meta);
    if (file >= 0)
        H5Fclose(file);
    ebb_ckpt_unlock();
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
