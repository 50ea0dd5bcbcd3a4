/* Writes one shard. Rows are copied into one open chunk per array; full chunks go into a ring of a few per thread, are
 * compressed by a crew while further rows come, and written in the order in which they filled.
 *
 * Invariants. That order depends on rows and chunk sizes alone (rows are taken one by one, arrays in the order of their
 * roles), and libhdf5 is told nothing that varies (no times, fixed format bounds), so equal rows give equal bytes for
 * any thread count and any sizes of append. Disk space is reserved before libhdf5 writes, because libhdf5 cannot close
 * a file that it failed to write. After an error the writer only fits destroy. Thread rules: one thread per writer,
 * libhdf5 under its lock. */
#include "shard/layout.h"
#include "base/alloc.h"
#include "base/crew.h"
#include "base/file.h"
#include "base/hash.h"
#include "shard/bands.h"
#include "shard/h5.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#include <zstd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "shards are written in little-endian order");

enum {
    CHUNK_BYTES = EBB_CHUNK_ELEMENTS * 8, /* the most that a chunk has; longer ones are of narrower types */
    RESERVE_AHEAD = 16 << 20,
    RESERVE_METADATA = 256 << 10,
    ASKED_CHUNKS = 2048,
    EMPTY_FILE_STEP = 4096
};

/* One array being written. */
typedef struct stream {
    ebb_array_t *array; /* of the shard; its rows grow */
    hid_t h5;
    uint8_t *buf; /* the open chunk, CHUNK_BYTES */
    int64_t fill; /* elements in it */
    int64_t chunks, capacity;
} stream_t;

/* A full chunk under way. */
typedef struct job {
    ebb_shard_writer_t *writer;
    ebb_crew_task_t task;
    stream_t *stream;
    int64_t chunk, rows; /* its number; rows of the array up to its end */
    uint8_t *raw, *packed;
    size_t packed_bytes;
    uint64_t xxh3;
} job_t;

struct ebb_shard_writer {
    char tmp[PATH_MAX], path[PATH_MAX];
    ebb_dataset_info_t info; /* borrows the plan's names */
    ebb_shard_t shard;
    int number, level;
    int64_t nnz;
    hid_t file;
    int fd; /* to reserve space with */
    int64_t reserved;
    bool created, broken;
    stream_t stream[EBB_ROLES];
    ebb_band_maker_t bands;
    ebb_crew_t *crew, *own_crew;
    job_t *job; /* a ring; in use: [first_job, last_job), modulo max_jobs */
    int64_t first_job, last_job;
    int max_jobs;
    ZSTD_CCtx **cctx; /* per thread */
    uint8_t **scratch;
};

/* ---- chunks: compress and write ---- */

static ebb_status_t compress_job(void *user, int thread)
{
    job_t *job = user;
    ebb_shard_writer_t *w = job->writer;
    const ebb_array_t *a = job->stream->array;
    size_t size = ebb_elem_size(a->elem);
    int64_t n = a->chunk_rows * a->chunk_cols;
    ebb_shuffle(size, job->raw, n, w->scratch[thread]);
    size_t bytes = ZSTD_compress2(w->cctx[thread], job->packed, ZSTD_compressBound(CHUNK_BYTES), w->scratch[thread],
                                  (size_t)n * size);
    if (ZSTD_isError(bytes))
        return EBB_FAIL(EBB_EBUG, "zstd cannot compress: %s", ZSTD_getErrorName(bytes));
    job->packed_bytes = bytes;
    job->xxh3 = ebb_xxh3(job->packed, bytes);
    return EBB_OK;
}

static ebb_status_t no_space(const ebb_shard_writer_t *w, int code)
{
    return EBB_FAIL(EBB_ENOSPC, "%s: cannot write: %s; free some space or choose another folder", w->tmp,
                    strerror(code));
}

static ebb_status_t reserve(ebb_shard_writer_t *w, int64_t need)
{
    struct rlimit most = {.rlim_cur = RLIM_INFINITY}; /* fallocate does not ask it when it leaves the size */
    if (need <= w->reserved)
        return EBB_OK;
    getrlimit(RLIMIT_FSIZE, &most);
    if ((rlim_t)need > most.rlim_cur)
        return no_space(w, EFBIG);
    int64_t to = need + RESERVE_AHEAD;
    if ((rlim_t)to > most.rlim_cur)
        to = (int64_t)most.rlim_cur;
    if (fallocate(w->fd, FALLOC_FL_KEEP_SIZE, 0, to) != 0) {
        bool full = errno == ENOSPC || errno == EDQUOT || errno == EFBIG;
        if (full && fallocate(w->fd, FALLOC_FL_KEEP_SIZE, 0, need) != 0)
            return no_space(w, errno);
        to = need; /* some file systems cannot reserve at all: there libhdf5 must find out */
    }
    w->reserved = to;
    return EBB_OK;
}

static ebb_status_t write_job(ebb_shard_writer_t *w, const job_t *job)
{
    ebb_array_t *a = job->stream->array;
    hsize_t extent[2] = {(hsize_t)job->rows, (hsize_t)a->cols}, eof;
    hsize_t at[2] = {(hsize_t)(job->chunk / a->grid_cols * a->chunk_rows),
                     (hsize_t)(job->chunk % a->grid_cols * a->chunk_cols)};
    haddr_t offset;
    unsigned mask;
    hid_t h5 = job->stream->h5;
    if (H5Dset_extent(h5, extent) < 0 || H5Fget_filesize(w->file, &eof) < 0)
        return ebb_h5_error(w->tmp, "extend an array");
    EBB_TRY(reserve(w, (int64_t)eof + (int64_t)job->packed_bytes + RESERVE_METADATA));
    if (H5Dwrite_chunk(h5, H5P_DEFAULT, 0, at, job->packed_bytes, job->packed) < 0)
        return ebb_h5_error(w->tmp, "write a chunk");
    /* libhdf5 1.10 finds a chunk by a walk over all of them. Far into a large shard its place is taken to be the end of
     * the file, where new chunks go when nothing is kept in pools (see make_file); commit checks every place. */
    offset = eof;
    if (job->chunk < ASKED_CHUNKS && H5Dget_chunk_info_by_coord(h5, at, &mask, &offset, &eof) < 0)
        return ebb_h5_error(w->tmp, "find a chunk");
    EBB_TRY(ebb_grow("chunk table", (void **)&a->chunk, &job->stream->capacity, job->chunk + 1, sizeof *a->chunk));
    a->chunk[job->chunk] = (ebb_chunk_t){(int64_t)offset, (uint32_t)job->packed_bytes, 0, job->xxh3};
    return EBB_OK;
}

/* Write the oldest chunks until at most `most` are under way. */
static ebb_status_t finish_jobs(ebb_shard_writer_t *w, int64_t most)
{
    ebb_status_t status = EBB_OK;
    while (status == EBB_OK && w->last_job - w->first_job > most) {
        job_t *job = &w->job[w->first_job++ % w->max_jobs];
        status = ebb_crew_wait(w->crew, &job->task);
        if (status != EBB_OK)
            break;
        ebb_h5_lock();
        status = write_job(w, job);
        ebb_h5_unlock();
    }
    w->broken |= status != EBB_OK;
    return status;
}

/* The open chunk is full, or its array ends: hand it over, padded with zeros. */
static ebb_status_t close_chunk(ebb_shard_writer_t *w, stream_t *s, int64_t rows)
{
    ebb_array_t *a = s->array;
    size_t size = ebb_elem_size(a->elem);
    int64_t n = a->chunk_rows * a->chunk_cols;
    memset(s->buf + (size_t)s->fill * size, 0, (size_t)(n - s->fill) * size);
    job_t *job = &w->job[w->last_job++ % w->max_jobs];
    uint8_t *empty = job->raw;
    job->stream = s;
    job->chunk = s->chunks++;
    job->rows = rows;
    job->raw = s->buf;
    s->buf = empty;
    s->fill = 0;
    ebb_crew_submit(w->crew, &job->task, compress_job, job);
    return finish_jobs(w, w->max_jobs - 1);
}

/* ---- rows into chunks ---- */

typedef int64_t (*put_t)(ebb_elem_t elem, const void *in, int64_t n, void *out);

static int64_t put_floats(ebb_elem_t elem, const void *in, int64_t n, void *out)
{
    return ebb_put_f32(elem, in, n, out);
}

static int64_t put_i32(ebb_elem_t elem, const void *in, int64_t n, void *out)
{
    const int32_t *from = in;
    for (int64_t i = 0; i < n; i++) {
        if (elem == EBB_ELEM_U16)
            ((uint16_t *)out)[i] = (uint16_t)from[i];
        else if (elem == EBB_ELEM_I8)
            ((int8_t *)out)[i] = (int8_t)from[i];
        else if (elem == EBB_ELEM_I16)
            ((int16_t *)out)[i] = (int16_t)from[i];
        else
            ((int32_t *)out)[i] = from[i];
    }
    return -1;
}

static int64_t put_i64(ebb_elem_t elem, const void *in, int64_t n, void *out)
{
    memcpy(out, in, (size_t)n * 8);
    return -1;
}

/* Append n elements of one row (4 bytes each, 8 for i64) to an array. Rows of 2-D arrays that span chunks are cut at
 * the edges. */
static ebb_status_t push(ebb_shard_writer_t *w, ebb_role_t role, put_t put, size_t in_size, const void *in, int64_t n)
{
    stream_t *s = &w->stream[role];
    ebb_array_t *a = s->array;
    size_t size = ebb_elem_size(a->elem);
    const uint8_t *from = in;
    int64_t row = a->cols > 1 ? a->rows + 1 : a->rows; /* rows up to here */
    for (int64_t done = 0; done < n;) {
        int64_t room = a->chunk_rows * a->chunk_cols - s->fill;
        int64_t m = n - done < room ? n - done : room;
        int64_t bad = put(a->elem, from + (size_t)done * in_size, m, s->buf + (size_t)s->fill * size);
        if (bad >= 0) {
            float v;
            memcpy(&v, from + (size_t)(done + bad) * in_size, sizeof v);
            return EBB_FAIL(EBB_EDATA, "%s: row %lld: value %g cannot be stored as %s%s", a->name,
                            (long long)(w->shard.row0 + w->shard.rows), (double)v, ebb_elem_name(a->elem),
                            isfinite(v) ? " without loss: choose a wider type" : ": values must be finite");
        }
        s->fill += m;
        done += m;
        if (a->cols == 1)
            row += m;
        if (s->fill == a->chunk_rows * a->chunk_cols || (a->grid_cols > 1 && done == n))
            EBB_TRY(close_chunk(w, s, row));
    }
    a->rows = row;
    return EBB_OK;
}

static ebb_status_t check_columns(const ebb_shard_writer_t *w, const int32_t *col, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (col[i] < 0 || col[i] >= w->info.cols)
            return EBB_FAIL(EBB_EDATA, "row %lld: column %d is not in 0 .. %lld",
                            (long long)(w->shard.row0 + w->shard.rows), col[i], (long long)w->info.cols - 1);
        if (i > 0 && col[i] <= col[i - 1])
            return EBB_FAIL(EBB_EDATA, "row %lld: column %d after %d: columns must ascend and be unique",
                            (long long)(w->shard.row0 + w->shard.rows), col[i], col[i - 1]);
    }
    return EBB_OK;
}

static ebb_status_t append_targets(ebb_shard_writer_t *w, int64_t i, const int32_t *label, const float *y,
                                   const float *weight)
{
    int64_t row = w->shard.row0 + w->shard.rows;
    if (w->info.target == EBB_TARGET_CLASS) {
        if (label[i] < 0 || label[i] >= w->info.classes)
            return EBB_FAIL(EBB_EDATA, "row %lld: class %d is not in 0 .. %lld", (long long)row, label[i],
                            (long long)w->info.classes - 1);
        EBB_TRY(push(w, EBB_ROLE_Y, put_i32, 4, &label[i], 1));
    } else if (w->info.target == EBB_TARGET_REAL)
        EBB_TRY(push(w, EBB_ROLE_Y, put_floats, 4, y + i * w->info.target_cols, w->info.target_cols));
    if (w->info.weighted) {
        if (!(weight[i] >= 0))
            return EBB_FAIL(EBB_EDATA, "row %lld: weight %g: weights must be 0 or more", (long long)row,
                            (double)weight[i]);
        EBB_TRY(push(w, EBB_ROLE_WEIGHT, put_floats, 4, &weight[i], 1));
    }
    return push(w, EBB_ROLE_ROWID, put_i64, 8, &row, 1);
}

static ebb_status_t append_row(ebb_shard_writer_t *w, int64_t i, const int64_t *rowptr, const int32_t *col,
                               const float *val, const float *x, const int32_t *label, const float *y,
                               const float *weight)
{
    int64_t n = w->info.sparse ? rowptr[i + 1] - rowptr[i] : 0;
    if (n < 0)
        return EBB_FAIL(EBB_EINVAL, "row pointers descend at row %lld", (long long)i);
    if (w->info.sparse)
        EBB_TRY(check_columns(w, col + rowptr[i], n));
    EBB_TRY(ebb_band_maker_row(&w->bands, n, n > 0 ? col + rowptr[i] : NULL, n > 0 ? val + rowptr[i] : NULL,
                               label ? label + i : NULL, y ? y + i * w->info.target_cols : NULL,
                               weight ? weight + i : NULL));
    if (w->info.sparse) {
        EBB_TRY(push(w, EBB_ROLE_DATA, put_floats, 4, val + rowptr[i], n));
        EBB_TRY(push(w, EBB_ROLE_INDICES, put_i32, 4, col + rowptr[i], n));
        w->shard.nnz += n;
        EBB_TRY(push(w, EBB_ROLE_INDPTR, put_i64, 8, &w->shard.nnz, 1));
    } else
        EBB_TRY(push(w, EBB_ROLE_X, put_floats, 4, x + i * w->info.cols, w->info.cols));
    EBB_TRY(append_targets(w, i, label, y, weight));
    w->shard.rows++;
    return EBB_OK;
}

ebb_status_t ebb_shard_writer_append(ebb_shard_writer_t *w, int64_t n, const int64_t *rowptr, const int32_t *col,
                                     const float *val, const float *x, const int32_t *label, const float *y,
                                     const float *weight)
{
    if (w->broken)
        return EBB_FAIL(EBB_EINVAL, "%s: the writer has failed before", w->path);
    for (int64_t i = 0; i < n; i++) {
        ebb_status_t status = append_row(w, i, rowptr, col, val, x, label, y, weight);
        if (status != EBB_OK) {
            w->broken = true;
            return status;
        }
    }
    return EBB_OK;
}

/* ---- the file around the chunks ---- */

static ebb_status_t make_group(ebb_shard_writer_t *w, const char *name, const char *type, const char *version,
                               hid_t *group_p)
{
    hid_t gcpl = H5Pcreate(H5P_GROUP_CREATE);
    H5Pset_obj_track_times(gcpl, false);
    *group_p = H5Gcreate2(w->file, name, H5P_DEFAULT, gcpl, H5P_DEFAULT);
    ebb_status_t status = *group_p < 0 ? ebb_h5_error(w->tmp, "make a group") : EBB_OK;
    H5Pclose(gcpl);
    EBB_TRY(status);
    return type ? ebb_h5_write_encoding(*group_p, w->tmp, type, version) : EBB_OK;
}

static ebb_status_t make_empty_group(ebb_shard_writer_t *w, const char *name, const char *type, const char *version)
{
    hid_t group;
    ebb_status_t status = make_group(w, name, type, version, &group);
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

static ebb_status_t make_dataset(ebb_shard_writer_t *w, stream_t *s)
{
    const ebb_array_t *a = s->array;
    int dims = a->cols > 1 || a == &w->shard.array[EBB_ROLE_X] ? 2 : 1;
    hsize_t size[2] = {0, (hsize_t)a->cols}, most[2] = {H5S_UNLIMITED, (hsize_t)a->cols};
    hsize_t chunk[2] = {(hsize_t)a->chunk_rows, (hsize_t)a->chunk_cols};
    unsigned level = (unsigned)w->level;
    hid_t type = elem_type(a->elem), space = H5Screate_simple(dims, size, most), dcpl = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(dcpl, false);
    H5Pset_chunk(dcpl, dims, chunk);
    H5Pset_shuffle(dcpl);
    H5Pset_filter(dcpl, EBB_H5_ZSTD, H5Z_FLAG_MANDATORY, 1, &level);
    s->h5 = H5Dcreate2(w->file, a->name, type, space, H5P_DEFAULT, dcpl, H5P_DEFAULT);
    ebb_status_t status = s->h5 < 0 ? ebb_h5_error(w->tmp, "make an array") : EBB_OK;
    H5Pclose(dcpl);
    H5Sclose(space);
    H5Tclose(type);
    EBB_TRY(status);
    return ebb_h5_write_encoding(s->h5, w->tmp, "array", "0.2.0");
}

/* A small array written at once, uncompressed. *offset_p, where wanted: its place in the file. */
static ebb_status_t write_plain(ebb_shard_writer_t *w, const char *name, const char *encoding, hid_t type, int64_t n,
                                const void *data, int64_t *offset_p)
{
    hsize_t size = (hsize_t)n;
    hid_t space = H5Screate_simple(1, &size, NULL), dcpl = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(dcpl, false);
    H5Pset_alloc_time(dcpl, H5D_ALLOC_TIME_EARLY);
    hid_t h5 = H5Dcreate2(w->file, name, type, space, H5P_DEFAULT, dcpl, H5P_DEFAULT);
    ebb_status_t status = h5 < 0 || H5Dwrite(h5, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0
                              ? ebb_h5_error(w->tmp, "write an array")
                              : EBB_OK;
    if (status == EBB_OK)
        status = ebb_h5_write_encoding(h5, w->tmp, encoding, "0.2.0");
    if (status == EBB_OK && offset_p)
        *offset_p = (int64_t)H5Dget_offset(h5);
    if (h5 >= 0)
        H5Dclose(h5);
    H5Pclose(dcpl);
    H5Sclose(space);
    return status;
}

static ebb_status_t write_class_names(ebb_shard_writer_t *w)
{
    size_t longest = 1;
    void *text;
    for (int64_t i = 0; i < w->info.classes; i++)
        longest = strlen(w->info.class_names[i]) > longest ? strlen(w->info.class_names[i]) : longest;
    EBB_TRY(ebb_alloc("class names", longest * (size_t)w->info.classes, &text));
    for (int64_t i = 0; i < w->info.classes; i++)
        memcpy((char *)text + longest * (size_t)i, w->info.class_names[i], strlen(w->info.class_names[i]));
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, longest);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    ebb_status_t status = write_plain(w, "obs/y/categories", "string-array", type, w->info.classes, text, NULL);
    H5Tclose(type);
    ebb_free(text);
    return status;
}

static ebb_status_t make_targets(ebb_shard_writer_t *w)
{
    const char *column[2];
    int columns = 0;
    hid_t group;
    int64_t no = 0;
    if (w->info.target != EBB_TARGET_NONE && w->info.target_cols > 1)
        EBB_TRY(make_empty_group(w, "obsm", "dict", "0.1.0"));
    if (w->info.target != EBB_TARGET_NONE && w->info.target_cols == 1)
        column[columns++] = "y";
    if (w->info.weighted)
        column[columns++] = "weight";
    ebb_status_t status = make_group(w, "obs", "dataframe", "0.2.0", &group);
    if (status == EBB_OK)
        status = ebb_h5_write_text(group, w->tmp, "_index", "_index");
    if (status == EBB_OK)
        status = ebb_h5_write_texts(group, w->tmp, "column-order", columns, column);
    if (group >= 0)
        H5Gclose(group);
    EBB_TRY(status);
    if (w->info.target != EBB_TARGET_CLASS)
        return EBB_OK;
    status = make_group(w, "obs/y", "categorical", "0.2.0", &group);
    if (status == EBB_OK)
        status = ebb_h5_write_i64s(group, w->tmp, "ordered", -1, &no);
    if (group >= 0)
        H5Gclose(group);
    return status == EBB_OK ? write_class_names(w) : status;
}

/* An HDF5 file with nothing in it, made in memory and written into reserved space: where H5Fcreate fails for lack of
 * space, libhdf5 crashes the process at its exit, and where it does not, it has given the reserved space back. */
static ebb_status_t write_empty_file(ebb_shard_writer_t *w, hid_t fcpl, hid_t fapl)
{
    hsize_t bytes = 0;
    void **image = NULL; /* where the driver holds it */
    hid_t in_memory = H5Pcopy(fapl);
    H5Pset_fapl_core(in_memory, EMPTY_FILE_STEP, false);
    hid_t file = H5Fcreate(w->tmp, H5F_ACC_TRUNC, fcpl, in_memory);
    ebb_status_t status = EBB_OK;
    if (file < 0 || H5Fflush(file, H5F_SCOPE_LOCAL) < 0 || H5Fget_filesize(file, &bytes) < 0 ||
        H5Fget_vfd_handle(file, H5P_DEFAULT, (void **)&image) < 0)
        status = ebb_h5_error(w->tmp, "create");
    if (status == EBB_OK)
        status = ebb_file_pwrite(w->fd, w->tmp, *image, bytes, 0);
    if (file >= 0)
        H5Fclose(file);
    H5Pclose(in_memory);
    return status;
}

/* Lock held. */
static ebb_status_t make_file(ebb_shard_writer_t *w)
{
    EBB_TRY(ebb_file_open(w->tmp, O_WRONLY | O_CREAT | O_TRUNC, 0666, &w->fd));
    w->created = true;
    EBB_TRY(reserve(w, RESERVE_METADATA));
    hid_t fapl = H5Pcreate(H5P_FILE_ACCESS), fcpl = H5Pcreate(H5P_FILE_CREATE), root;
    H5Pset_libver_bounds(fapl, H5F_LIBVER_V18, H5F_LIBVER_V18);
    H5Pset_meta_block_size(fapl, 0);
    H5Pset_small_data_block_size(fapl, 0);
    H5Pset_obj_track_times(fcpl, false);
    ebb_status_t created = write_empty_file(w, fcpl, fapl);
    if (created == EBB_OK && (w->file = H5Fopen(w->tmp, H5F_ACC_RDWR, fapl)) < 0)
        created = ebb_h5_error(w->tmp, "open");
    H5Pclose(fapl);
    H5Pclose(fcpl);
    EBB_TRY(created);
    root = H5Gopen2(w->file, "/", H5P_DEFAULT);
    ebb_status_t status = ebb_h5_write_encoding(root, w->tmp, "anndata", "0.1.0");
    if (status == EBB_OK)
        status = ebb_h5_write_i64s(root, w->tmp, "ebb-format", -1, (const int64_t[]){EBB_MANIFEST_VERSION});
    H5Gclose(root);
    EBB_TRY(status);
    if (w->info.sparse)
        EBB_TRY(make_empty_group(w, "X", "csr_matrix", "0.1.0"));
    EBB_TRY(make_targets(w));
    EBB_TRY(make_empty_group(w, "uns", "dict", "0.1.0"));
    EBB_TRY(make_empty_group(w, "uns/ebb", "dict", "0.1.0"));
    for (int role = 0; role < EBB_ROLES; role++)
        if (w->stream[role].array)
            EBB_TRY(make_dataset(w, &w->stream[role]));
    return EBB_OK;
}

static ebb_status_t make_buffers(ebb_shard_writer_t *w)
{
    int threads = ebb_crew_threads(w->crew);
    w->max_jobs = 4 * threads; /* with 2 a thread some had to wait while the owner compressed one itself */
    EBB_TRY(EBB_NEW_ARRAY("chunk queue", w->max_jobs, &w->job));
    EBB_TRY(EBB_NEW_ARRAY("compressors", threads, &w->cctx));
    EBB_TRY(EBB_NEW_ARRAY("compressors", threads, &w->scratch));
    for (int i = 0; i < w->max_jobs; i++) {
        w->job[i].writer = w;
        EBB_TRY(ebb_alloc("chunk", CHUNK_BYTES, (void **)&w->job[i].raw));
        EBB_TRY(ebb_alloc("compressed chunk", ZSTD_compressBound(CHUNK_BYTES), (void **)&w->job[i].packed));
    }
    for (int i = 0; i < threads; i++) {
        EBB_TRY(ebb_alloc("chunk", CHUNK_BYTES, (void **)&w->scratch[i]));
        w->cctx[i] = ZSTD_createCCtx();
        if (!w->cctx[i])
            return EBB_FAIL(EBB_ENOMEM, "out of memory for a compressor");
        if (ZSTD_isError(ZSTD_CCtx_setParameter(w->cctx[i], ZSTD_c_compressionLevel, w->level)))
            return EBB_FAIL(EBB_EINVAL, "zstd has no level %d", w->level);
        ZSTD_CCtx_setParameter(w->cctx[i], ZSTD_c_checksumFlag, 1);
    }
    for (int role = 0; role < EBB_ROLES; role++)
        if (w->stream[role].array)
            EBB_TRY(ebb_alloc("chunk", CHUNK_BYTES, (void **)&w->stream[role].buf));
    return EBB_OK;
}

static ebb_status_t check_plan(const ebb_dataset_plan_t *plan, int index, int threads)
{
    if (plan->cols < 1 || plan->cols > INT32_MAX)
        return EBB_FAIL(EBB_EINVAL, "a data set needs 1 to 2^31-1 columns, not %lld", (long long)plan->cols);
    if (plan->shard_rows < 1 || plan->rows < 0 || index < 0 || threads < 1)
        return EBB_FAIL(EBB_EINVAL, "shard %d of %lld rows each, %d threads: out of range", index,
                        (long long)plan->shard_rows, threads);
    if (plan->target == EBB_TARGET_CLASS && (plan->classes < 1 || plan->classes > INT32_MAX))
        return EBB_FAIL(EBB_EINVAL, "%lld classes: out of range", (long long)plan->classes);
    if (plan->target == EBB_TARGET_REAL && (plan->target_cols < 1 || plan->target_cols > EBB_CHUNK_ELEMENTS))
        return EBB_FAIL(EBB_EINVAL, "%lld target columns: 1 to %d are possible", (long long)plan->target_cols,
                        EBB_CHUNK_ELEMENTS);
    return EBB_OK;
}

static void take_plan(ebb_shard_writer_t *w, const ebb_dataset_plan_t *plan, int index)
{
    w->number = index;
    w->level = plan->level ? plan->level : 9;
    w->fd = -1;
    w->file = -1;
    w->info = (ebb_dataset_info_t){.cols = plan->cols,
                                   .sparse = plan->sparse,
                                   .value_type = plan->value_type,
                                   .target = plan->target,
                                   .target_cols = plan->target == EBB_TARGET_CLASS ? 1 : plan->target_cols,
                                   .classes = plan->classes,
                                   .chunk_elements = ebb_chunk_elements(plan),
                                   .class_names = plan->class_names,
                                   .weighted = plan->weighted};
    w->shard.row0 = (int64_t)index * plan->shard_rows;
    for (int role = 0; role < EBB_ROLES; role++) {
        w->stream[role].h5 = -1;
        if (!ebb_array_plan(&w->shard.array[role], (ebb_role_t)role, &w->info)) {
            w->shard.array[role].present = false;
            continue;
        }
        w->stream[role].array = &w->shard.array[role];
        ebb_array_grid(w->stream[role].array);
    }
    ebb_band_maker_init(&w->bands, &w->shard, &w->info);
}

/* crew: the caller's, or NULL for one of its own with so many threads. */
static ebb_status_t create(const char *dir, const ebb_dataset_plan_t *plan, int index, int threads, ebb_crew_t *crew,
                           ebb_shard_writer_t **w_p)
{
    ebb_shard_writer_t *w;
    ebb_status_t status;
    *w_p = NULL;
    EBB_TRY(check_plan(plan, index, threads));
    EBB_TRY(EBB_NEW("shard writer", &w));
    take_plan(w, plan, index);
    int n = snprintf(w->path, sizeof w->path, "%s/shard-%05d.h5", dir, index);
    if (n < 0 || n + 4 >= (int)sizeof w->tmp) {
        status = EBB_FAIL(EBB_EINVAL, "path too long: %.80s...", dir);
        goto fail;
    }
    memcpy(w->tmp, w->path, (size_t)n);
    memcpy(w->tmp + n, ".tmp", 5);
    if (!crew)
        EBB_TRY_GOTO(status, ebb_crew_create(threads, &w->own_crew), fail);
    w->crew = crew ? crew : w->own_crew;
    EBB_TRY_GOTO(status, make_buffers(w), fail);
    ebb_h5_lock();
    status = make_file(w);
    ebb_h5_unlock();
    if (status != EBB_OK)
        goto fail;
    const int64_t zero = 0;
    if (w->info.sparse)
        EBB_TRY_GOTO(status, push(w, EBB_ROLE_INDPTR, put_i64, 8, &zero, 1), fail);
    *w_p = w;
    return EBB_OK;
fail:
    ebb_shard_writer_destroy(w);
    return status;
}

ebb_status_t ebb_shard_writer_create(const char *dir, const ebb_dataset_plan_t *plan, int index, int threads,
                                     ebb_shard_writer_t **w_p)
{
    return create(dir, plan, index, threads, NULL, w_p);
}

ebb_status_t ebb_shard_writer_create_with(const char *dir, const ebb_dataset_plan_t *plan, int index, ebb_crew_t *crew,
                                          ebb_shard_writer_t **w_p)
{
    return create(dir, plan, index, ebb_crew_threads(crew), crew, w_p);
}

/* ---- the end ---- */

static ebb_status_t finish_file(ebb_shard_writer_t *w)
{
    uint64_t *words = NULL;
    int64_t n = 0;
    hsize_t eof = 0;
    ebb_status_t status = EBB_OK;
    if (w->info.sparse) {
        hid_t group = H5Gopen2(w->file, "X", H5P_DEFAULT);
        status = ebb_h5_write_i64s(group, w->tmp, "shape", 2, (const int64_t[]){w->shard.rows, w->info.cols});
        H5Gclose(group);
        EBB_TRY(status);
    }
    if (w->bands.bytes > 0) {
        int64_t offset;
        H5Fget_filesize(w->file, &eof);
        EBB_TRY(reserve(w, (int64_t)eof + w->bands.bytes + RESERVE_METADATA));
        EBB_TRY(write_plain(w, "uns/ebb/bands", "array", H5T_STD_U8LE, w->bands.bytes, w->bands.data, &offset));
        ebb_bands_place(&w->shard, offset);
    }
    EBB_TRY(ebb_index_encode(&w->shard, w->number, w->info.cols, &words, &n));
    H5Fget_filesize(w->file, &eof);
    EBB_TRY_GOTO(status, reserve(w, (int64_t)eof + n * 8 + RESERVE_METADATA), done);
    w->shard.index_bytes = n * 8;
    EBB_TRY_GOTO(status, write_plain(w, "uns/ebb/index", "array", H5T_STD_U64LE, n, words, &w->shard.index_offset),
                 done);
done:
    ebb_free(words);
    return status;
}

/* libhdf5 cannot let go of a file that it cannot write, and crashes the process at its exit. A file that is to be
 * removed anyway is closed onto memory instead: the descriptor below libhdf5 is exchanged. */
static void turn_to_memory(ebb_shard_writer_t *w)
{
    int *handle, fd = memfd_create("ebb-shard", MFD_CLOEXEC);
    if (fd >= 0 && H5Fget_vfd_handle(w->file, H5P_DEFAULT, (void **)&handle) >= 0)
        (void)dup2(fd, *handle);
    if (fd >= 0)
        close(fd);
}

static ebb_status_t close_file(ebb_shard_writer_t *w)
{
    ebb_status_t status = EBB_OK;
    for (int role = 0; role < EBB_ROLES; role++) {
        if (w->stream[role].h5 >= 0 && H5Dclose(w->stream[role].h5) < 0)
            status = ebb_h5_error(w->tmp, "close an array");
        w->stream[role].h5 = -1;
    }
    if (w->file >= 0 && H5Fflush(w->file, H5F_SCOPE_LOCAL) < 0) {
        status = ebb_h5_error(w->tmp, "write");
        turn_to_memory(w);
    }
    if (w->file >= 0 && H5Fclose(w->file) < 0)
        status = ebb_h5_error(w->tmp, "close");
    w->file = -1;
    return status;
}

/* Every chunk lies where the table says. */
static ebb_status_t check_places(ebb_shard_writer_t *w)
{
    int fd;
    ebb_status_t status = EBB_OK;
    EBB_TRY(ebb_file_open(w->tmp, O_RDONLY, 0, &fd));
    for (int role = 0; role < EBB_ROLES && status == EBB_OK; role++) {
        const ebb_array_t *a = &w->shard.array[role];
        for (int64_t c = 0; a->present && c < a->grid_rows * a->grid_cols && status == EBB_OK; c++) {
            const ebb_chunk_t *chunk = &a->chunk[c];
            status = ebb_file_pread(fd, w->tmp, w->job[0].packed, chunk->bytes, chunk->offset);
            if (status == EBB_OK && ebb_xxh3(w->job[0].packed, chunk->bytes) != chunk->xxh3)
                status = EBB_FAIL(EBB_EIO, "%s: %s: chunk %lld did not reach the disk as written", w->tmp, a->name,
                                  (long long)c);
        }
    }
    close(fd);
    return status;
}

static ebb_status_t commit(ebb_shard_writer_t *w)
{
    if (w->broken)
        return EBB_FAIL(EBB_EINVAL, "%s: the writer has failed before", w->path);
    for (int role = 0; role < EBB_ROLES; role++) {
        stream_t *s = &w->stream[role];
        if (!s->array)
            continue;
        if (s->fill > 0)
            EBB_TRY(close_chunk(w, s, s->array->rows));
        ebb_array_grid(s->array);
    }
    EBB_TRY(finish_jobs(w, 0));
    if (!w->info.sparse)
        w->shard.nnz = w->shard.rows * w->info.cols;
    EBB_TRY(ebb_band_maker_finish(&w->bands));
    ebb_h5_lock();
    ebb_status_t status = finish_file(w);
    if (status == EBB_OK)
        status = close_file(w);
    ebb_h5_unlock();
    EBB_TRY(status);
    w->shard.bytes = ebb_file_size(w->tmp);
    if (ftruncate(w->fd, w->shard.bytes) != 0) /* gives back what was reserved beyond the end */
        return ebb_file_error(w->tmp, "truncate");
    EBB_TRY(check_places(w));
    EBB_TRY(ebb_sha256_file(w->tmp, w->shard.sha256));
    EBB_TRY(ebb_file_commit(w->tmp, w->path));
    w->created = false;
    return EBB_OK;
}

ebb_status_t ebb_shard_writer_commit(ebb_shard_writer_t *w, ebb_shard_summary_t *summary)
{
    ebb_status_t status = commit(w);
    w->broken = true; /* nothing more may be appended */
    if (status != EBB_OK)
        return status;
    const ebb_shard_t *s = &w->shard;
    *summary = (ebb_shard_summary_t){.index = w->number,
                                     .row0 = s->row0,
                                     .rows = s->rows,
                                     .nnz = s->nnz,
                                     .bytes = s->bytes,
                                     .index_offset = s->index_offset,
                                     .index_bytes = s->index_bytes};
    snprintf(summary->file, sizeof summary->file, "%s", strrchr(w->path, '/') + 1);
    memcpy(summary->sha256, s->sha256, sizeof summary->sha256);
    return EBB_OK;
}

void ebb_shard_writer_destroy(ebb_shard_writer_t *w)
{
    if (!w)
        return;
    for (; w->first_job < w->last_job; w->first_job++)
        ebb_crew_drop(w->crew, &w->job[w->first_job % w->max_jobs].task);
    if (w->file >= 0) {
        ebb_h5_lock();
        turn_to_memory(w);
        close_file(w);
        H5Eclear2(H5E_DEFAULT);
        ebb_h5_unlock();
    }
    if (w->created)
        unlink(w->tmp);
    if (w->fd >= 0)
        close(w->fd);
    int threads = w->crew ? ebb_crew_threads(w->crew) : 0;
    for (int i = 0; i < threads; i++) {
        if (w->cctx)
            ZSTD_freeCCtx(w->cctx[i]);
        if (w->scratch)
            ebb_free(w->scratch[i]);
    }
    for (int i = 0; w->job && i < w->max_jobs; i++) {
        ebb_free(w->job[i].raw);
        ebb_free(w->job[i].packed);
    }
    for (int role = 0; role < EBB_ROLES; role++)
        ebb_free(w->stream[role].buf);
    ebb_free(w->job);
    ebb_free(w->cctx);
    ebb_free(w->scratch);
    ebb_band_maker_clear(&w->bands);
    ebb_crew_destroy(w->own_crew);
    ebb_shard_clear(&w->shard);
    ebb_free(w);
}
