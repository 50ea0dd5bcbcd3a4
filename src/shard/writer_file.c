/* See writer_file.h. The static functions expect libhdf5's lock to be held. */
#include "shard/writer_file.h"
#include "base/alloc.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

enum { RESERVE_AHEAD = 16 << 20, RESERVE_METADATA = 256 << 10, ASKED_CHUNKS = 2048, EMPTY_FILE_STEP = 4096 };

void ebb_writer_file_init(ebb_writer_file_t *f, const ebb_dataset_info_t *info, ebb_shard_t *shard, int level)
{
    *f = (ebb_writer_file_t){.info = info, .shard = shard, .level = level, .fd = -1, .h5 = -1};
    for (int role = 0; role < EBB_ROLES; role++)
        f->array[role] = -1;
}

/* ---- space ---- */

static ebb_status_t no_space(const ebb_writer_file_t *f, int code)
{
    return EBB_FAIL(EBB_ENOSPC, "%s: cannot write: %s; free some space or choose another folder", f->path,
                    strerror(code));
}

static ebb_status_t reserve(ebb_writer_file_t *f, int64_t need)
{
    struct rlimit most = {.rlim_cur = RLIM_INFINITY}; /* fallocate does not ask it when it leaves the size */
    if (need <= f->reserved)
        return EBB_OK;
    getrlimit(RLIMIT_FSIZE, &most);
    if ((rlim_t)need > most.rlim_cur)
        return no_space(f, EFBIG);
    int64_t to = need + RESERVE_AHEAD;
    if ((rlim_t)to > most.rlim_cur)
        to = (int64_t)most.rlim_cur;
    if (fallocate(f->fd, FALLOC_FL_KEEP_SIZE, 0, to) != 0) {
        bool full = errno == ENOSPC || errno == EDQUOT || errno == EFBIG;
        if (full && fallocate(f->fd, FALLOC_FL_KEEP_SIZE, 0, need) != 0)
            return no_space(f, errno);
        to = need; /* some file systems cannot reserve at all: there libhdf5 must find out */
    }
    f->reserved = to;
    return EBB_OK;
}

/* ---- groups, arrays and what describes them ---- */

static ebb_status_t make_group(ebb_writer_file_t *f, const char *name, const char *type, const char *version,
                               hid_t *group_p)
{
    hid_t gcpl = H5Pcreate(H5P_GROUP_CREATE);
    H5Pset_obj_track_times(gcpl, false);
    *group_p = H5Gcreate2(f->h5, name, H5P_DEFAULT, gcpl, H5P_DEFAULT);
    ebb_status_t status = *group_p < 0 ? ebb_h5_error(f->path, "make a group") : EBB_OK;
    H5Pclose(gcpl);
    EBB_TRY(status);
    return type ? ebb_h5_write_encoding(*group_p, f->path, type, version) : EBB_OK;
}

static ebb_status_t make_empty_group(ebb_writer_file_t *f, const char *name, const char *type, const char *version)
{
    hid_t group;
    ebb_status_t status = make_group(f, name, type, version, &group);
    if (group >= 0)
        H5Gclose(group);
    return status;
}

static hid_t elem_type(ebb_elem_t elem)
{
    switch (elem) {
    case EBB_ELEM_U8: return H5Tcopy(H5T_STD_U8LE);
    case EBB_ELEM_I8: return H5Tcopy(H5T_STD_I8LE);
    case EBB_ELEM_U16: return H5Tcopy(H5T_STD_U16LE);
    case EBB_ELEM_I16: return H5Tcopy(H5T_STD_I16LE);
    case EBB_ELEM_I32: return H5Tcopy(H5T_STD_I32LE);
    case EBB_ELEM_I64: return H5Tcopy(H5T_STD_I64LE);
    case EBB_ELEM_F32: return H5Tcopy(H5T_IEEE_F32LE);
    default: break;
    }
    hid_t half = H5Tcopy(H5T_IEEE_F32LE); /* IEEE half: 1 sign, 5 exponent, 10 fraction bits */
    H5Tset_fields(half, 15, 10, 5, 0, 10);
    H5Tset_size(half, 2);
    H5Tset_ebias(half, 15);
    return half;
}

static ebb_status_t make_dataset(ebb_writer_file_t *f, int role)
{
    const ebb_array_t *a = &f->shard->array[role];
    int dims = a->cols > 1 || role == EBB_ROLE_X ? 2 : 1;
    hsize_t size[2] = {0, (hsize_t)a->cols}, most[2] = {H5S_UNLIMITED, (hsize_t)a->cols};
    hsize_t chunk[2] = {(hsize_t)a->chunk_rows, (hsize_t)a->chunk_cols};
    unsigned level = (unsigned)f->level;
    hid_t type = elem_type(a->elem), space = H5Screate_simple(dims, size, most), dcpl = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(dcpl, false);
    H5Pset_chunk(dcpl, dims, chunk);
    H5Pset_shuffle(dcpl);
    H5Pset_filter(dcpl, EBB_H5_ZSTD, H5Z_FLAG_MANDATORY, 1, &level);
    f->array[role] = H5Dcreate2(f->h5, a->name, type, space, H5P_DEFAULT, dcpl, H5P_DEFAULT);
    ebb_status_t status = f->array[role] < 0 ? ebb_h5_error(f->path, "make an array") : EBB_OK;
    H5Pclose(dcpl);
    H5Sclose(space);
    H5Tclose(type);
    EBB_TRY(status);
    return ebb_h5_write_encoding(f->array[role], f->path, "array", "0.2.0");
}

/* A small array written at once, uncompressed. *offset_p, where wanted: its place in the file. */
static ebb_status_t write_plain(ebb_writer_file_t *f, const char *name, const char *encoding, hid_t type, int64_t n,
                                const void *data, int64_t *offset_p)
{
    hsize_t size = (hsize_t)n;
    hid_t space = H5Screate_simple(1, &size, NULL), dcpl = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(dcpl, false);
    H5Pset_alloc_time(dcpl, H5D_ALLOC_TIME_EARLY);
    hid_t h5 = H5Dcreate2(f->h5, name, type, space, H5P_DEFAULT, dcpl, H5P_DEFAULT);
    ebb_status_t status = h5 < 0 || H5Dwrite(h5, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0
                              ? ebb_h5_error(f->path, "write an array")
                              : EBB_OK;
    if (status == EBB_OK)
        status = ebb_h5_write_encoding(h5, f->path, encoding, "0.2.0");
    if (status == EBB_OK && offset_p)
        *offset_p = (int64_t)H5Dget_offset(h5);
    if (h5 >= 0)
        H5Dclose(h5);
    H5Pclose(dcpl);
    H5Sclose(space);
    return status;
}

static ebb_status_t write_class_names(ebb_writer_file_t *f)
{
    size_t longest = 1;
    void *text;
    for (int64_t i = 0; i < f->info->classes; i++)
        longest = strlen(f->info->class_names[i]) > longest ? strlen(f->info->class_names[i]) : longest;
    EBB_TRY(ebb_alloc("class names", longest * (size_t)f->info->classes, &text));
    for (int64_t i = 0; i < f->info->classes; i++)
        memcpy((char *)text + longest * (size_t)i, f->info->class_names[i], strlen(f->info->class_names[i]));
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, longest);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    ebb_status_t status = write_plain(f, "obs/y/categories", "string-array", type, f->info->classes, text, NULL);
    H5Tclose(type);
    ebb_free(text);
    return status;
}

static ebb_status_t make_targets(ebb_writer_file_t *f)
{
    const char *column[2];
    int columns = 0;
    hid_t group;
    int64_t no = 0;
    if (f->info->target != EBB_TARGET_NONE && f->info->target_cols > 1)
        EBB_TRY(make_empty_group(f, "obsm", "dict", "0.1.0"));
    if (f->info->target != EBB_TARGET_NONE && f->info->target_cols == 1)
        column[columns++] = "y";
    if (f->info->weighted)
        column[columns++] = "weight";
    ebb_status_t status = make_group(f, "obs", "dataframe", "0.2.0", &group);
    if (status == EBB_OK)
        status = ebb_h5_write_text(group, f->path, "_index", "_index");
    if (status == EBB_OK)
        status = ebb_h5_write_texts(group, f->path, "column-order", columns, column);
    if (group >= 0)
        H5Gclose(group);
    EBB_TRY(status);
    if (f->info->target != EBB_TARGET_CLASS)
        return EBB_OK;
    status = make_group(f, "obs/y", "categorical", "0.2.0", &group);
    if (status == EBB_OK)
        status = ebb_h5_write_i64s(group, f->path, "ordered", -1, &no);
    if (group >= 0)
        H5Gclose(group);
    return status == EBB_OK ? write_class_names(f) : status;
}

/* An HDF5 file with nothing in it, made in memory and written into reserved space: where H5Fcreate fails for lack of
 * space, libhdf5 crashes the process at its exit, and where it does not, it has given the reserved space back. */
static ebb_status_t write_empty_file(ebb_writer_file_t *f, hid_t fcpl, hid_t fapl)
{
    hsize_t bytes = 0;
    void **image = NULL; /* where the driver holds it */
    hid_t in_memory = H5Pcopy(fapl);
    H5Pset_fapl_core(in_memory, EMPTY_FILE_STEP, false);
    hid_t file = H5Fcreate(f->path, H5F_ACC_TRUNC, fcpl, in_memory);
    ebb_status_t status = EBB_OK;
    if (file < 0 || H5Fflush(file, H5F_SCOPE_LOCAL) < 0 || H5Fget_filesize(file, &bytes) < 0 ||
        H5Fget_vfd_handle(file, H5P_DEFAULT, (void **)&image) < 0)
        status = ebb_h5_error(f->path, "create");
    if (status == EBB_OK)
        status = ebb_file_pwrite(f->fd, f->path, *image, bytes, 0);
    if (file >= 0)
        H5Fclose(file);
    H5Pclose(in_memory);
    return status;
}

static ebb_status_t make_file(ebb_writer_file_t *f)
{
    EBB_TRY(ebb_file_open(f->path, O_WRONLY | O_CREAT | O_TRUNC, 0666, &f->fd));
    f->created = true;
    EBB_TRY(reserve(f, RESERVE_METADATA));
    hid_t fapl = H5Pcreate(H5P_FILE_ACCESS), fcpl = H5Pcreate(H5P_FILE_CREATE), root;
    H5Pset_libver_bounds(fapl, H5F_LIBVER_V18, H5F_LIBVER_V18);
    H5Pset_meta_block_size(fapl, 0);
    H5Pset_small_data_block_size(fapl, 0);
    H5Pset_obj_track_times(fcpl, false);
    ebb_status_t created = write_empty_file(f, fcpl, fapl);
    if (created == EBB_OK && (f->h5 = H5Fopen(f->path, H5F_ACC_RDWR, fapl)) < 0)
        created = ebb_h5_error(f->path, "open");
    H5Pclose(fapl);
    H5Pclose(fcpl);
    EBB_TRY(created);
    root = H5Gopen2(f->h5, "/", H5P_DEFAULT);
    ebb_status_t status = ebb_h5_write_encoding(root, f->path, "anndata", "0.1.0");
    if (status == EBB_OK)
        status = ebb_h5_write_i64s(root, f->path, "ebb-format", -1, (const int64_t[]){EBB_MANIFEST_VERSION});
    H5Gclose(root);
    EBB_TRY(status);
    if (f->info->sparse)
        EBB_TRY(make_empty_group(f, "X", "csr_matrix", "0.1.0"));
    EBB_TRY(make_targets(f));
    EBB_TRY(make_empty_group(f, "uns", "dict", "0.1.0"));
    EBB_TRY(make_empty_group(f, "uns/ebb", "dict", "0.1.0"));
    for (int role = 0; role < EBB_ROLES; role++)
        if (f->shard->array[role].present)
            EBB_TRY(make_dataset(f, role));
    return EBB_OK;
}

ebb_status_t ebb_writer_file_create(ebb_writer_file_t *f)
{
    ebb_h5_lock();
    ebb_status_t status = make_file(f);
    ebb_h5_unlock();
    return status;
}

/* ---- chunks ---- */

static ebb_status_t write_chunk(ebb_writer_file_t *f, ebb_role_t role, int64_t chunk, int64_t rows, const void *data,
                                size_t bytes, int64_t *offset_p)
{
    const ebb_array_t *a = &f->shard->array[role];
    hsize_t extent[2] = {(hsize_t)rows, (hsize_t)a->cols}, eof;
    hsize_t at[2] = {(hsize_t)(chunk / a->grid_cols * a->chunk_rows), (hsize_t)(chunk % a->grid_cols * a->chunk_cols)};
    hid_t h5 = f->array[role];
    if (H5Dset_extent(h5, extent) < 0 || H5Fget_filesize(f->h5, &eof) < 0)
        return ebb_h5_error(f->path, "extend an array");
    EBB_TRY(reserve(f, (int64_t)eof + (int64_t)bytes + RESERVE_METADATA));
    if (H5Dwrite_chunk(h5, H5P_DEFAULT, 0, at, bytes, data) < 0)
        return ebb_h5_error(f->path, "write a chunk");
    /* libhdf5 1.10 finds a chunk by a walk over all of them. Far into a large shard its place is taken to be the end of
     * the file, where new chunks go when nothing is kept in pools (see make_file); the writer checks every place. */
    haddr_t offset = eof;
    unsigned mask;
    if (chunk < ASKED_CHUNKS && H5Dget_chunk_info_by_coord(h5, at, &mask, &offset, &eof) < 0)
        return ebb_h5_error(f->path, "find a chunk");
    *offset_p = (int64_t)offset;
    return EBB_OK;
}

ebb_status_t ebb_writer_file_chunk(ebb_writer_file_t *f, ebb_role_t role, int64_t chunk, int64_t rows, const void *data,
                                   size_t bytes, int64_t *offset_p)
{
    ebb_h5_lock();
    ebb_status_t status = write_chunk(f, role, chunk, rows, data, bytes, offset_p);
    ebb_h5_unlock();
    return status;
}

/* ---- the end ---- */

static ebb_status_t write_index(ebb_writer_file_t *f, int number, const ebb_band_maker_t *bands)
{
    uint64_t *words = NULL;
    int64_t n = 0;
    hsize_t eof = 0;
    ebb_status_t status = EBB_OK;
    if (f->info->sparse) {
        hid_t group = H5Gopen2(f->h5, "X", H5P_DEFAULT);
        status = ebb_h5_write_i64s(group, f->path, "shape", 2, (const int64_t[]){f->shard->rows, f->info->cols});
        H5Gclose(group);
        EBB_TRY(status);
    }
    if (bands->bytes > 0) {
        int64_t offset;
        H5Fget_filesize(f->h5, &eof);
        EBB_TRY(reserve(f, (int64_t)eof + bands->bytes + RESERVE_METADATA));
        EBB_TRY(write_plain(f, "uns/ebb/bands", "array", H5T_STD_U8LE, bands->bytes, bands->data, &offset));
        ebb_bands_place(f->shard, offset);
    }
    EBB_TRY(ebb_index_encode(f->shard, number, f->info->cols, &words, &n));
    H5Fget_filesize(f->h5, &eof);
    EBB_TRY_GOTO(status, reserve(f, (int64_t)eof + n * 8 + RESERVE_METADATA), done);
    f->shard->index_bytes = n * 8;
    EBB_TRY_GOTO(status, write_plain(f, "uns/ebb/index", "array", H5T_STD_U64LE, n, words, &f->shard->index_offset),
                 done);
done:
    ebb_free(words);
    return status;
}

/* libhdf5 cannot let go of a file that it cannot write, and crashes the process at its exit. A file that is to be
 * removed anyway is closed onto memory instead: the descriptor below libhdf5 is exchanged. */
static void turn_to_memory(ebb_writer_file_t *f)
{
    int *handle, fd = memfd_create("ebb-shard", MFD_CLOEXEC);
    if (fd >= 0 && H5Fget_vfd_handle(f->h5, H5P_DEFAULT, (void **)&handle) >= 0)
        (void)dup2(fd, *handle);
    if (fd >= 0)
        close(fd);
}

static ebb_status_t close_file(ebb_writer_file_t *f)
{
    ebb_status_t status = EBB_OK;
    for (int role = 0; role < EBB_ROLES; role++) {
        if (f->array[role] >= 0 && H5Dclose(f->array[role]) < 0)
            status = ebb_h5_error(f->path, "close an array");
        f->array[role] = -1;
    }
    if (f->h5 >= 0 && H5Fflush(f->h5, H5F_SCOPE_LOCAL) < 0) {
        status = ebb_h5_error(f->path, "write");
        turn_to_memory(f);
    }
    if (f->h5 >= 0 && H5Fclose(f->h5) < 0)
        status = ebb_h5_error(f->path, "close");
    f->h5 = -1;
    return status;
}

ebb_status_t ebb_writer_file_finish(ebb_writer_file_t *f, int number, const ebb_band_maker_t *bands)
{
    ebb_h5_lock();
    ebb_status_t status = write_index(f, number, bands);
    if (status == EBB_OK)
        status = close_file(f);
    ebb_h5_unlock();
    EBB_TRY(status);
    f->shard->bytes = ebb_file_size(f->path);
    if (ftruncate(f->fd, f->shard->bytes) != 0) /* gives back what was reserved beyond the end */
        return ebb_file_error(f->path, "truncate");
    return EBB_OK;
}

void ebb_writer_file_drop(ebb_writer_file_t *f)
{
    if (f->h5 >= 0) {
        ebb_h5_lock();
        turn_to_memory(f);
        close_file(f);
        H5Eclear2(H5E_DEFAULT);
        ebb_h5_unlock();
    }
    if (f->created)
        unlink(f->path);
    if (f->fd >= 0)
        close(f->fd);
}
