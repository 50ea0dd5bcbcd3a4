/* What decompression alone costs: the chunks that a loader needs, as they are stored, read into memory beforehand and
 * decoded by every thread into a buffer of its own that stays in its caches. Nothing is checked, unshuffled or copied,
 * so no loader can be faster. A data set larger than the budget is sampled. */
#include "bench/internal.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "shard/layout.h"
#include "shard/unpack.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

typedef struct stored_chunk {
    const ebb_array_t *array;
    const char *path;
    int role;
    int64_t number; /* in its array */
    int64_t at;     /* in `stored` */
    int64_t bytes, out_bytes;
    bool plain; /* stored as it is */
} stored_chunk_t;

typedef struct chunk_decoder {
    ebb_unpack_t *unpack;
    uint8_t *out;
    uint8_t *packed;  /* a chunk as it is stored */
    const char *path; /* of fd, or NULL */
    int fd;
    int64_t at; /* in the ring */
} chunk_decoder_t;

static const char *const codec_names[] = {[EBB_CODEC_NONE] = "none",
                                          [EBB_CODEC_ZSTD] = "zstd",
                                          [EBB_CODEC_DEFLATE] = "deflate",
                                          [EBB_CODEC_LZF] = "lzf",
                                          [EBB_CODEC_HDF5] = "libhdf5"};

static int64_t chunks_of(const ebb_array_t *a)
{
    return a->present ? a->grid_rows * a->grid_cols : 0;
}

/* Row numbers are for people; a loader does not read them. */
static bool is_read(const ebb_array_t *a, int role)
{
    return a->present && role != EBB_ROLE_ROWID;
}

static stored_chunk_t describe(const ebb_shard_t *shard, int role, int64_t number)
{
    const ebb_array_t *a = &shard->array[role];
    stored_chunk_t c = {
        .array = a, .path = shard->path, .role = role, .number = number, .out_bytes = ebb_array_chunk_bytes(a, number)};
    if (a->codec == EBB_CODEC_HDF5)
        return c;
    c.bytes = a->chunk[number].bytes;
    c.plain = a->codec == EBB_CODEC_NONE || (a->chunk[number].mask & a->codec_bit);
    return c;
}

static void name_codec(ebb_bench_chunks_t *c, const ebb_shard_t *shard)
{
    const ebb_array_t *x = &shard->array[EBB_ROLE_X], *data = &shard->array[EBB_ROLE_DATA];
    c->codec = codec_names[(x->present ? x : data)->codec];
}

/* All chunks into c->chunk; their sums. */
static ebb_status_t list_chunks(ebb_bench_chunks_t *c, const ebb_dataset_t *ds)
{
    int64_t n = 0;
    for (int s = 0; s < ds->info.n_shards; s++)
        for (int role = 0; role < EBB_ROLES; role++)
            n += chunks_of(&ds->shard[s].array[role]);
    EBB_TRY(EBB_NEW_ARRAY("list of chunks", n, &c->chunk));
    for (int s = 0; s < ds->info.n_shards; s++)
        for (int role = 0; role < EBB_ROLES; role++) {
            const ebb_array_t *a = &ds->shard[s].array[role];
            for (int64_t i = 0; is_read(a, role) && i < chunks_of(a); i++) {
                stored_chunk_t chunk = describe(&ds->shard[s], role, i);
                c->chunk[c->total++] = chunk;
                c->packed_bytes += chunk.bytes;
                c->decoded_bytes += chunk.out_bytes;
                c->most = chunk.out_bytes > c->most ? chunk.out_bytes : c->most;
            }
        }
    return EBB_OK;
}

/* Keep chunks evenly spaced so that their stored bytes fit. */
static void sample(ebb_bench_chunks_t *c, int64_t budget)
{
    double part = c->packed_bytes > budget ? (double)budget / (double)c->packed_bytes : 1;
    int64_t decoded = 0, at = 0;
    for (int64_t i = 0; i < c->total; i++) {
        if (part < 1 && (int64_t)((double)(i + 1) * part) == (int64_t)((double)i * part))
            continue;
        stored_chunk_t chunk = c->chunk[i];
        chunk.at = at;
        at += chunk.bytes;
        decoded += chunk.out_bytes;
        c->chunk[c->n++] = chunk;
    }
    c->sampled = c->decoded_bytes > 0 ? (double)decoded / (double)c->decoded_bytes : 1;
}

static ebb_status_t read_chunks(ebb_bench_chunks_t *c)
{
    ebb_status_t status = EBB_OK;
    const char *path = NULL;
    int fd = -1;
    int64_t bytes = c->n > 0 ? c->chunk[c->n - 1].at + c->chunk[c->n - 1].bytes : 0;
    EBB_TRY(ebb_alloc("stored chunks", (size_t)bytes, (void **)&c->stored));
    for (int64_t i = 0; i < c->n && status == EBB_OK; i++) {
        const stored_chunk_t *chunk = &c->chunk[i];
        if (chunk->bytes == 0)
            continue;
        if (chunk->path != path) {
            if (fd >= 0)
                close(fd);
            fd = -1;
            path = chunk->path;
            status = ebb_file_open(path, O_RDONLY | O_CLOEXEC, 0, &fd);
        }
        if (status == EBB_OK)
            status = ebb_file_pread(fd, path, c->stored + chunk->at, (size_t)chunk->bytes,
                                    chunk->array->chunk[chunk->number].offset);
    }
    if (fd >= 0)
        close(fd);
    return status;
}

ebb_status_t ebb_bench_chunks_init(ebb_bench_chunks_t *c, const ebb_dataset_t *ds, int threads, int64_t budget)
{
    int64_t most_packed = 0;
    *c = (ebb_bench_chunks_t){.threads = threads};
    name_codec(c, &ds->shard[0]);
    EBB_TRY(list_chunks(c, ds));
    sample(c, budget);
    EBB_TRY(read_chunks(c));
    for (int64_t i = 0; i < c->n; i++)
        most_packed = c->chunk[i].bytes > most_packed ? c->chunk[i].bytes : most_packed;
    EBB_TRY(EBB_NEW_ARRAY("decoders", threads, &c->decoder));
    for (int i = 0; i < threads; i++) {
        EBB_TRY(ebb_unpack_create(&c->decoder[i].unpack));
        EBB_TRY(ebb_alloc("decoded chunk", (size_t)c->most, (void **)&c->decoder[i].out));
        EBB_TRY(ebb_alloc("stored chunk", (size_t)most_packed, (void **)&c->decoder[i].packed));
    }
    return EBB_OK;
}

static void close_file(chunk_decoder_t *d)
{
    if (d->path)
        close(d->fd);
    d->path = NULL;
}

void ebb_bench_chunks_cleanup(ebb_bench_chunks_t *c)
{
    for (int i = 0; c->decoder && i < c->threads; i++) {
        ebb_unpack_destroy(c->decoder[i].unpack);
        ebb_free(c->decoder[i].out);
        ebb_free(c->decoder[i].packed);
        close_file(&c->decoder[i]);
    }
    ebb_free(c->decoder);
    ebb_free(c->stored);
    ebb_free(c->chunk);
    *c = (ebb_bench_chunks_t){0};
}

/* ---- passes ---- */

/* A chunk, whose bytes are at `stored`, to d->out. */
static ebb_status_t decode(chunk_decoder_t *d, const stored_chunk_t *chunk, const uint8_t *stored)
{
    if (chunk->array->codec == EBB_CODEC_HDF5)
        return ebb_foreign_read_chunk(chunk->array, chunk->path, chunk->number, d->out);
    if (chunk->bytes == 0)
        memset(d->out, 0, (size_t)chunk->out_bytes);
    else if (chunk->plain)
        memcpy(d->out, stored, (size_t)chunk->bytes);
    else
        return ebb_unpack(d->unpack, chunk->array->codec, false, stored, chunk->bytes, d->out, chunk->out_bytes);
    return EBB_OK;
}

static ebb_status_t decode_task(void *user, int thread, int64_t i)
{
    const ebb_bench_chunks_t *c = user;
    return decode(&c->decoder[thread], &c->chunk[i], c->stored + c->chunk[i].at);
}

ebb_status_t ebb_bench_chunks_decode(ebb_bench_chunks_t *c, ebb_pool_t *pool)
{
    return ebb_pool_run(pool, c->n, decode_task, c);
}

static ebb_status_t check(const stored_chunk_t *chunk, const uint8_t *stored)
{
    const ebb_array_t *a = chunk->array;
    if (chunk->bytes == 0 || !a->hashed || ebb_xxh3(stored, (size_t)chunk->bytes) == a->chunk[chunk->number].xxh3)
        return EBB_OK;
    return EBB_FAIL(EBB_ECORRUPT, "%s: %s: chunk %lld: stored bytes do not match their checksum", chunk->path, a->name,
                    (long long)chunk->number);
}

static ebb_status_t check_task(void *user, int thread, int64_t i)
{
    (void)thread;
    const ebb_bench_chunks_t *c = user;
    return check(&c->chunk[i], c->stored + c->chunk[i].at);
}

ebb_status_t ebb_bench_chunks_check(ebb_bench_chunks_t *c, ebb_pool_t *pool, bool *checked_p)
{
    *checked_p = c->n > 0 && c->chunk[0].array->hashed;
    return *checked_p ? ebb_pool_run(pool, c->n, check_task, c) : EBB_OK;
}

typedef struct least {
    const ebb_bench_chunks_t *chunks;
    uint8_t *const *ring;
    int64_t ring_bytes;
    bool stored;
} least_t;

/* A chunk from its file, checked. */
static ebb_status_t read_chunk(chunk_decoder_t *d, const stored_chunk_t *chunk)
{
    if (chunk->bytes == 0)
        return EBB_OK;
    if (d->path != chunk->path) {
        close_file(d);
        EBB_TRY(ebb_file_open(chunk->path, O_RDONLY | O_CLOEXEC, 0, &d->fd));
        d->path = chunk->path;
    }
    EBB_TRY(
        ebb_file_pread(d->fd, chunk->path, d->packed, (size_t)chunk->bytes, chunk->array->chunk[chunk->number].offset));
    return check(chunk, d->packed);
}

static bool is_wide(const least_t *l, const stored_chunk_t *chunk)
{
    int role = chunk->role;
    return !l->stored && (role == EBB_ROLE_DATA || role == EBB_ROLE_INDICES || role == EBB_ROLE_X);
}

/* What was decoded, as batches hold it, to the ring. A chunk of half a ring (none of ours) is not written. */
static void write_out(const least_t *l, chunk_decoder_t *d, uint8_t *ring, const stored_chunk_t *chunk)
{
    const ebb_array_t *a = chunk->array;
    bool shuffled = a->shuffled && (!a->chunk || !(a->chunk[chunk->number].mask & a->shuffle_bit));
    int64_t n = chunk->out_bytes / (int64_t)ebb_elem_size(a->elem),
            bytes = is_wide(l, chunk) ? n * 4 : chunk->out_bytes;
    if (bytes > EBB_BENCH_LEAST_RING / 2)
        return;
    if (d->at + bytes > l->ring_bytes)
        d->at = 0;
    uint8_t *to = ring + d->at;
    d->at += (bytes + 63) / 64 * 64;
    if (!is_wide(l, chunk))
        memcpy(to, d->out, (size_t)bytes);
    else if (chunk->role == EBB_ROLE_INDICES)
        (void)ebb_take_i32(a->elem, shuffled, d->out, n, 0, n, (int32_t *)(void *)to);
    else
        (void)ebb_take_f32(a->elem, shuffled, d->out, n, 0, n, (float *)(void *)to);
}

static ebb_status_t least_task(void *user, int thread, int64_t i)
{
    const least_t *l = user;
    chunk_decoder_t *d = &l->chunks->decoder[thread];
    const stored_chunk_t *chunk = &l->chunks->chunk[i];
    EBB_TRY(read_chunk(d, chunk));
    EBB_TRY(decode(d, chunk, d->packed));
    write_out(l, d, l->ring[thread], chunk);
    return EBB_OK;
}

ebb_status_t ebb_bench_chunks_least(ebb_bench_chunks_t *c, ebb_pool_t *pool, uint8_t *const *ring, int64_t ring_bytes,
                                    bool stored)
{
    least_t l = {c, ring, ring_bytes, stored};
    return ebb_pool_run(pool, c->n, least_task, &l);
}
