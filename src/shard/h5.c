/* libhdf5 behind a lock, with errors in Ebb's form. See h5.h. */
#include "shard/h5.h"
#include "base/hdf5.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool registered;         /* guarded by the lock, as are the next two */
static H5E_auto2_t saved_print; /* what to restore at unlock */
static void *saved_print_data;

void ebb_h5_lock(void)
{
    ebb_hdf5_lock();
    H5Eget_auto2(H5E_DEFAULT, &saved_print, &saved_print_data);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    if (!registered)
        registered = H5Zregister(&ebb_h5_zstd_filter) >= 0;
}

void ebb_h5_unlock(void)
{
    H5Eset_auto2(H5E_DEFAULT, saved_print, saved_print_data);
    ebb_hdf5_unlock();
}

typedef struct reason {
    char text[200]; /* of the innermost record */
    int code;       /* errno named by any record, or 0 */
} reason_t;

static herr_t take_reason(unsigned n, const H5E_error2_t *record, void *user)
{
    reason_t *reason = user;
    const char *number = record->desc ? strstr(record->desc, "errno = ") : NULL;
    if (record->desc && !reason->text[0])
        strncat(reason->text, record->desc, sizeof reason->text - 1);
    if (number && reason->code == 0)
        reason->code = atoi(number + strlen("errno = "));
    return 0;
}

ebb_status_t ebb_h5_error(const char *path, const char *verb)
{
    reason_t reason = {{0}, 0};
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, take_reason, &reason);
    H5Eclear2(H5E_DEFAULT);
    int e = reason.code;
    ebb_status_t status = e == ENOSPC || e == EDQUOT || e == EFBIG ? EBB_ENOSPC
                          : e == ENOENT                            ? EBB_ENOINPUT
                          : e != 0                                 ? EBB_EIO
                                                                   : EBB_EDATA;
    return EBB_FAIL(status, "%s: cannot %s: %s", path, verb,
                    e                ? strerror(e)
                    : reason.text[0] ? reason.text
                                     : "libhdf5 gave no reason");
}

static ebb_status_t write_attribute(hid_t object, const char *path, const char *name, hid_t type, int n,
                                    const void *value)
{
    hsize_t size = (hsize_t)n;
    hid_t space = n < 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, &size, NULL);
    hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool good = attribute >= 0 && H5Awrite(attribute, type, value) >= 0;
    ebb_status_t status =
        good ? EBB_OK : ebb_h5_error(path, "write an attribute"); /* before the next call forgets why */
    if (attribute >= 0)
        H5Aclose(attribute);
    H5Sclose(space);
    return status;
}

static hid_t text_type(void)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE);
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
}

ebb_status_t ebb_h5_write_text(hid_t object, const char *path, const char *name, const char *text)
{
    hid_t type = text_type();
    ebb_status_t status = write_attribute(object, path, name, type, -1, &text);
    H5Tclose(type);
    return status;
}

ebb_status_t ebb_h5_write_texts(hid_t object, const char *path, const char *name, int n, const char *const *text)
{
    hid_t type = text_type();
    ebb_status_t status = write_attribute(object, path, name, type, n, text);
    H5Tclose(type);
    return status;
}

ebb_status_t ebb_h5_write_i64s(hid_t object, const char *path, const char *name, int n, const int64_t *value)
{
    return write_attribute(object, path, name, H5T_STD_I64LE, n, value);
}

ebb_status_t ebb_h5_write_encoding(hid_t object, const char *path, const char *type, const char *version)
{
    EBB_TRY(ebb_h5_write_text(object, path, "encoding-type", type));
    return ebb_h5_write_text(object, path, "encoding-version", version);
}

static bool read_variable(hid_t attribute, char *text, size_t size)
{
    char *value = NULL;
    hid_t type = text_type();
    hid_t stored = H5Aget_type(attribute);
    H5Tset_cset(type, H5Tget_cset(stored));
    bool good = H5Aread(attribute, type, &value) >= 0 && value;
    if (good) {
        text[0] = 0;
        strncat(text, value, size - 1);
    }
    H5free_memory(value);
    H5Tclose(stored);
    H5Tclose(type);
    return good;
}

static bool read_fixed(hid_t attribute, hid_t type, char *text, size_t size)
{
    size_t n = H5Tget_size(type);
    char *value = n < 65536 ? calloc(1, n + 1) : NULL;
    bool good = value && H5Aread(attribute, type, value) >= 0;
    if (good) {
        text[0] = 0;
        strncat(text, value, size - 1);
    }
    free(value);
    return good;
}

bool ebb_h5_read_text(hid_t object, const char *name, char *text, size_t size)
{
    bool good = false;
    if (H5Aexists(object, name) <= 0)
        return false;
    hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
    if (attribute < 0)
        return false;
    hid_t type = H5Aget_type(attribute);
    hid_t space = H5Aget_space(attribute);
    if (H5Tget_class(type) == H5T_STRING && H5Sget_simple_extent_npoints(space) == 1)
        good = H5Tis_variable_str(type) > 0 ? read_variable(attribute, text, size)
                                            : read_fixed(attribute, type, text, size);
    H5Sclose(space);
    H5Tclose(type);
    H5Aclose(attribute);
    return good;
}
