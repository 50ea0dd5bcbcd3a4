/* Writes one shard. Rows are copied into one open chunk per array; full chunks go into a ring of a few per thread, are
 * compressed by a crew while further rows come, and written in the order in which they filled.
 *
 * Invariants. That order depends on rows and chunk sizes alone (rows are taken one by one, arrays in the order of their
 * roles), and the file holds nothing else that varies (writer_file.h), so equal rows give equal bytes for any thread
 * count and any sizes of append. After an error the writer only fits destroy. Thread rules: one thread per writer. */
#include "shard/layout.h"
#include "base/alloc.h"
#include "base/crew.h"
#include "base/file.h"
#include "base/hash.h"
#include "shard/bands.h"
#include "shard/writer_file.h"

#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "shards are written in little-endian order");

enum { CHUNK_BYTES = EBB_CHUNK_ELEMENTS * 8 }; /* the most that a chunk has; longer ones are of narrower types */

/* One array being written. */
typedef struct stream {
    ebb_role_t role;
    ebb_array_t *array; /* of the shard; its rows grow */
    uint8_t *buf;       /* the open chunk, CHUNK_BYTES */
    int64_t fill;       /* elements in it */
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
    char path[PATH_MAX];
    ebb_dataset_info_t info; /* borrows the plan's names */
    ebb_shard_t shard;
    int number, level;
    int64_t nnz;
    ebb_writer_file_t file;
    bool broken;
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

static ebb_status_t write_job(ebb_shard_writer_t *w, const job_t *job)
{
    stream_t *s = job->stream;
    ebb_array_t *a = s->array;
    int64_t offset;
    EBB_TRY(ebb_grow("chunk table", (void **)&a->chunk, &s->capacity, job->chunk + 1, sizeof *a->chunk));
    EBB_TRY(ebb_writer_file_chunk(&w->file, s->role, job->chunk, job->rows, job->packed, job->packed_bytes, &offset));
    a->chunk[job->chunk] = (ebb_chunk_t){offset, (uint32_t)job->packed_bytes, 0, job->xxh3};
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
        status = write_job(w, job);
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
        w->stream[role].role = (ebb_role_t)role;
        if (!ebb_array_plan(&w->shard.array[role], (ebb_role_t)role, &w->info)) {
            w->shard.array[role].present = false;
            continue;
        }
        w->stream[role].array = &w->shard.array[role];
        ebb_array_grid(w->stream[role].array);
    }
    ebb_writer_file_init(&w->file, &w->info, &w->shard, w->level);
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
    if (n < 0 || n + 4 >= (int)sizeof w->file.path) {
        status = EBB_FAIL(EBB_EINVAL, "path too long: %.80s...", dir);
        goto fail;
    }
    memcpy(w->file.path, w->path, (size_t)n);
    memcpy(w->file.path + n, ".tmp", 5);
    if (!crew)
        EBB_TRY_GOTO(status, ebb_crew_create(threads, &w->own_crew), fail);
    w->crew = crew ? crew : w->own_crew;
    EBB_TRY_GOTO(status, make_buffers(w), fail);
    EBB_TRY_GOTO(status, ebb_writer_file_create(&w->file), fail);
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

/* Every chunk lies where the table says. */
static ebb_status_t check_places(ebb_shard_writer_t *w)
{
    int fd;
    ebb_status_t status = EBB_OK;
    EBB_TRY(ebb_file_open(w->file.path, O_RDONLY, 0, &fd));
    for (int role = 0; role < EBB_ROLES && status == EBB_OK; role++) {
        const ebb_array_t *a = &w->shard.array[role];
        for (int64_t c = 0; a->present && c < a->grid_rows * a->grid_cols && status == EBB_OK; c++) {
            const ebb_chunk_t *chunk = &a->chunk[c];
            status = ebb_file_pread(fd, w->file.path, w->job[0].packed, chunk->bytes, chunk->offset);
            if (status == EBB_OK && ebb_xxh3(w->job[0].packed, chunk->bytes) != chunk->xxh3)
                status = EBB_FAIL(EBB_EIO, "%s: %s: chunk %lld did not reach the disk as written", w->file.path,
                                  a->name, (long long)c);
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
    EBB_TRY(ebb_writer_file_finish(&w->file, w->number, &w->bands));
    EBB_TRY(check_places(w));
    EBB_TRY(ebb_sha256_file(w->file.path, w->shard.sha256));
    EBB_TRY(ebb_file_commit(w->file.path, w->path));
    w->file.created = false;
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
    ebb_writer_file_drop(&w->file);
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
