/* The hot path: rows from chunks. A chunk is read with one pread, checked against its XXH3, decompressed once into a
 * slot of a small cache (still as byte planes), and any part of it is then unshuffled and widened straight into the
 * caller's buffer.
 *
 * The two chunks of a band lie together in the file, as the writer closes them together, and are read at once. Where a
 * read has waited for a device, the kernel is told what comes next (ebb_reader_hint), so that devices have many reads
 * to serve at a time; measured on a cold cache beside io_uring, tests/bench/RESULTS.md.
 *
 * Invariants: after create nothing is allocated but slots on their first use; no count from a file is used before it
 * was checked; libhdf5 is entered for EBB_CODEC_HDF5 arrays only. Thread rules: a reader belongs to one thread, the
 * data set is only read. */
#include "shard/reader.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/pulse.h"
#include "shard/stored.h"

#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { DEFAULT_CACHE = 8 << 20, NEAR_BYTES = 4096 };
enum { SLOW_READ_NS = 50000, WAITS_FOR = 256 }; /* copies from the page cache take a few microseconds */

/* ---- making ---- */

/* Shard files open in all readers of the process. */
static atomic_int files_open;

static void close_file(ebb_reader_t *r, int at)
{
    if (r->file[at].fd < 0)
        return;
    close(r->file[at].fd);
    r->file[at].fd = -1;
    atomic_fetch_sub(&files_open, 1);
}

static void plan_cache(ebb_reader_t *r, ebb_role_t role, int64_t budget, int most)
{
    ebb_slots_t *cache = &r->cache[role];
    int64_t most_packed = 0;
    for (int i = 0; i < r->ds->info.n_shards; i++) {
        const ebb_array_t *a = &r->ds->shard[i].array[role];
        int64_t n = a->present ? a->grid_rows * a->grid_cols : 0;
        int64_t bytes = n > 0 ? ebb_array_chunk_bytes(a, 0) : 0;
        cache->bytes = bytes > cache->bytes ? bytes : cache->bytes;
        for (int64_t c = 0; a->chunk && c < n; c++)
            most_packed = a->chunk[c].bytes > most_packed ? a->chunk[c].bytes : most_packed;
    }
    most_packed *= role == EBB_ROLE_DATA || role == EBB_ROLE_INDICES ? 2 : 1; /* both chunks of a band */
    r->packed_bytes = most_packed + NEAR_BYTES > r->packed_bytes ? most_packed + NEAR_BYTES : r->packed_bytes;
    int64_t fit = cache->bytes > 0 ? budget / cache->bytes : 0;
    cache->n = cache->bytes == 0 ? 0 : fit < 2 ? 2 : fit > most ? most : (int)fit;
    if (cache->bytes > budget)
        cache->n = 1;
}

static ebb_status_t make_caches(ebb_reader_t *r, int64_t budget)
{
    plan_cache(r, EBB_ROLE_DATA, budget / 2, 64);
    plan_cache(r, EBB_ROLE_INDICES, budget / 4, 128);
    plan_cache(r, EBB_ROLE_X, budget / 4 * 3, 512);
    for (int role = 0; role < EBB_ROLES; role++) {
        ebb_slots_t *cache = &r->cache[role];
        if (cache->n == 0)
            plan_cache(r, (ebb_role_t)role, budget / 16, 16);
        EBB_TRY(EBB_NEW_ARRAY("chunk cache", cache->n, &cache->slot));
        for (int i = 0; i < cache->n; i++)
            cache->slot[i].chunk = EBB_NO_CHUNK;
    }
    return r->packed_bytes > 0 ? ebb_alloc("compressed chunk", (size_t)r->packed_bytes, (void **)&r->packed) : EBB_OK;
}

static ebb_status_t make_band_room(ebb_reader_t *r)
{
    bool banded = false;
    r->record_band = -1;
    for (int s = 0; s < r->ds->info.n_shards; s++) {
        const ebb_shard_t *shard = &r->ds->shard[s];
        banded |= shard->bands > 0;
        for (int64_t b = 0; b < shard->bands; b++)
            r->record_bytes = shard->band[b].bytes > r->record_bytes ? shard->band[b].bytes : r->record_bytes;
    }
    for (int role = EBB_ROLE_DATA; role <= EBB_ROLE_X; role++)
        r->hot_bytes = r->cache[role].bytes > r->hot_bytes ? r->cache[role].bytes : r->hot_bytes;
    if (!banded)
        return EBB_OK;
    EBB_TRY(ebb_alloc("chunk", (size_t)r->hot_bytes * 2 + EBB_STORED_SLACK, (void **)&r->hot.buf));
    EBB_TRY(EBB_NEW_ARRAY("columns of a record", r->record_bytes / 2 + 1, &r->tail));
    return ebb_alloc("record of a band", (size_t)r->record_bytes, (void **)&r->record);
}

ebb_status_t ebb_reader_create(const ebb_dataset_t *ds, size_t cache_bytes, ebb_reader_t **reader_p)
{
    ebb_reader_t *r;
    ebb_status_t status;
    struct rlimit limit;
    *reader_p = NULL;
    EBB_TRY(EBB_NEW("reader", &r));
    r->ds = ds;
    for (int i = 0; i < EBB_READER_FILES; i++)
        r->file[i].fd = -1;
    r->most_files =
        getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur / 2 < INT_MAX ? (int)(limit.rlim_cur / 2) : INT_MAX;
    EBB_TRY_GOTO(status, ebb_unpack_create(&r->unpack), fail);
    EBB_TRY_GOTO(status, make_caches(r, cache_bytes ? (int64_t)cache_bytes : DEFAULT_CACHE), fail);
    EBB_TRY_GOTO(status, make_band_room(r), fail);
    *reader_p = r;
    return EBB_OK;
fail:
    ebb_reader_destroy(r);
    return status;
}

void ebb_reader_destroy(ebb_reader_t *r)
{
    if (!r)
        return;
    for (int role = 0; role < EBB_ROLES; role++) {
        for (int i = 0; r->cache[role].slot && i < r->cache[role].n; i++)
            ebb_free(r->cache[role].slot[i].buf);
        ebb_free(r->cache[role].slot);
    }
    for (int i = 0; i < EBB_READER_FILES; i++)
        close_file(r, i);
    ebb_unpack_destroy(r->unpack);
    ebb_free(r->packed);
    ebb_free(r->hot.buf);
    ebb_free(r->record);
    ebb_free(r->tail);
    ebb_free(r);
}

/* ---- one chunk ---- */

ebb_status_t ebb_reader_fd(ebb_reader_t *r, int shard, int *fd_p)
{
    int at = shard % EBB_READER_FILES;
    if (r->file[at].shard != shard)
        close_file(r, at);
    if (r->file[at].fd < 0) {
        for (int i = 0; i < EBB_READER_FILES && atomic_load(&files_open) >= r->most_files; i++)
            close_file(r, i);
        EBB_TRY(ebb_file_open(r->ds->shard[shard].path, O_RDONLY, 0, &r->file[at].fd));
        r->file[at].shard = shard;
        atomic_fetch_add(&files_open, 1);
    }
    *fd_p = r->file[at].fd;
    return EBB_OK;
}

static ebb_status_t check_hash(const ebb_array_t *a, const ebb_chunk_t *chunk, const void *stored)
{
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    if (a->hashed && ebb_xxh3(stored, chunk->bytes) != chunk->xxh3)
        return EBB_FAIL(EBB_ECORRUPT,
                        "stored bytes do not match their checksum: the file is damaged; restore it or pack again");
#endif
    return EBB_OK;
}

ebb_status_t ebb_reader_file(ebb_reader_t *r, int shard, void *buf, int64_t bytes, int64_t offset)
{
    int fd;
    EBB_TRY(ebb_reader_fd(r, shard, &fd));
    int64_t began = ebb_now_ns();
    EBB_TRY(ebb_file_pread(fd, r->ds->shard[shard].path, buf, (size_t)bytes, offset));
    if (ebb_now_ns() - began > SLOW_READ_NS)
        r->waits = WAITS_FOR;
    else if (r->waits > 0)
        r->waits--;
    return EBB_OK;
}

static ebb_status_t read_packed(ebb_reader_t *r, int shard, int64_t offset, int64_t end)
{
    r->packed_end = 0;
    EBB_TRY(ebb_reader_file(r, shard, r->packed, end - offset, offset));
    r->packed_shard = shard;
    r->packed_at = offset;
    r->packed_end = end;
    return EBB_OK;
}

/* The other chunk of a band of sparse rows, which is asked for next; NULL: none. */
static const ebb_chunk_t *other_chunk(const ebb_array_t *all, const ebb_array_t *a, int64_t c)
{
    const ebb_array_t *other = a == &all[EBB_ROLE_INDICES] ? &all[EBB_ROLE_DATA] : NULL;
    other = a == &all[EBB_ROLE_DATA] ? &all[EBB_ROLE_INDICES] : other;
    return other && other->chunk && c < other->grid_rows ? &other->chunk[c] : NULL;
}

/* Compressed bytes of chunk c, and of the other of its band where that is the next in the file. */
static ebb_status_t find_packed(ebb_reader_t *r, int shard, const ebb_array_t *a, int64_t c, const uint8_t **stored_p)
{
    const ebb_chunk_t *chunk = &a->chunk[c], *other = other_chunk(r->ds->shard[shard].array, a, c);
    int64_t from = chunk->offset, end = from + chunk->bytes, first = from, last = end;
    if (r->packed_shard != shard || from < r->packed_at || end > r->packed_end) {
        if (other) {
            first = other->offset < from ? other->offset : from;
            last = other->offset + other->bytes > end ? other->offset + other->bytes : end;
        }
        bool both = other && last - first <= (int64_t)chunk->bytes + other->bytes + NEAR_BYTES;
        if (both && read_packed(r, shard, first, last) != EBB_OK)
            ebb_error_clear(); /* if it is this chunk that cannot be read, the next line says so */
        if (r->packed_end == 0 || !both)
            EBB_TRY(read_packed(r, shard, from, end));
    }
    *stored_p = r->packed + (from - r->packed_at);
    return EBB_OK;
}

ebb_status_t ebb_reader_decode(ebb_reader_t *r, int shard, const ebb_array_t *a, int64_t c, ebb_slot_t *slot)
{
    const ebb_shard_t *s = &r->ds->shard[shard];
    int64_t bytes = ebb_array_chunk_bytes(a, c);
    ebb_pulse_tick();
    slot->shuffled = false;
    if (a->codec == EBB_CODEC_HDF5)
        return ebb_foreign_read_chunk(a, s->path, c, slot->buf);
    const ebb_chunk_t *chunk = &a->chunk[c];
    if (chunk->bytes == 0) {
        memset(slot->buf, 0, (size_t)bytes);
        return EBB_OK;
    }
    bool plain = a->codec == EBB_CODEC_NONE || (chunk->mask & a->codec_bit);
    const uint8_t *stored = slot->buf;
    slot->shuffled = a->shuffled && !(chunk->mask & a->shuffle_bit);
    if (plain && chunk->bytes != bytes)
        return EBB_FAIL(EBB_ECORRUPT, "%u bytes where %lld were expected", chunk->bytes, (long long)bytes);
    if (plain)
        EBB_TRY(ebb_reader_file(r, shard, slot->buf, chunk->bytes, chunk->offset));
    else
        EBB_TRY(find_packed(r, shard, a, c, &stored));
    EBB_TRY(check_hash(a, chunk, stored));
    if (plain)
        return EBB_OK;
    return ebb_unpack(r->unpack, a->codec, r->checksum, stored, chunk->bytes, slot->buf, bytes);
}

ebb_status_t ebb_reader_name_chunk(const ebb_reader_t *r, int shard, const ebb_array_t *a, int64_t c)
{
    ebb_status_t status =
        ebb_error_prefix("%s: %s: chunk %lld (read for rows %lld to %lld): ", r->ds->shard[shard].file, a->name,
                         (long long)c, (long long)r->row0, (long long)r->row1 - 1);
    if (status != EBB_EDATA || !a->hashed)
        return status;
    ebb_error_t error = *ebb_error(); /* a chunk of ours that ends early is damage */
    error.status = EBB_ECORRUPT;
    return ebb_error_set(&error);
}

static ebb_status_t get_slot(ebb_reader_t *r, int shard, ebb_role_t role, int64_t c, ebb_slot_t **slot_p)
{
    ebb_slots_t *cache = &r->cache[role];
    ebb_slot_t *oldest = &cache->slot[0];
    for (int i = 0; i < cache->n; i++) {
        ebb_slot_t *slot = &cache->slot[i];
        if (slot->chunk == c && slot->shard == shard) {
            slot->used = ++r->clock;
            *slot_p = slot;
            return EBB_OK;
        }
        if (slot->used < oldest->used)
            oldest = slot;
    }
    if (!oldest->buf)
        EBB_TRY(ebb_alloc("chunk cache", (size_t)cache->bytes, (void **)&oldest->buf));
    oldest->chunk = EBB_NO_CHUNK;
    const ebb_array_t *a = &r->ds->shard[shard].array[role];
    if (ebb_reader_decode(r, shard, a, c, oldest) != EBB_OK)
        return ebb_reader_name_chunk(r, shard, a, c);
    oldest->shard = shard;
    oldest->chunk = c;
    oldest->used = ++r->clock;
    *slot_p = oldest;
    return EBB_OK;
}

ebb_status_t ebb_reader_chunk(ebb_reader_t *r, int shard, ebb_role_t role, int64_t chunk, bool checksum,
                              const void **raw_p)
{
    ebb_slot_t *slot;
    r->checksum = checksum;
    EBB_TRY(get_slot(r, shard, role, chunk, &slot));
    *raw_p = slot->buf;
    return EBB_OK;
}

/* ---- parts of arrays ---- */

bool ebb_reader_widen(const ebb_array_t *a, const ebb_slot_t *slot, int64_t n, int64_t first, int64_t count,
                      ebb_elem_t as, void *out, int64_t at)
{
    if (as == EBB_ELEM_I32)
        return ebb_take_i32(a->elem, slot->shuffled, slot->buf, n, first, count, (int32_t *)out + at);
    if (as == EBB_ELEM_F32)
        return ebb_take_f32(a->elem, slot->shuffled, slot->buf, n, first, count, (float *)out + at);
    return ebb_take_i64(a->elem, slot->shuffled, slot->buf, n, first, count, (int64_t *)out + at);
}

bool ebb_reader_take_chunk(const ebb_array_t *a, const ebb_slot_t *slot, int64_t c, int64_t first, int64_t n,
                           ebb_elem_t as, void *out, int64_t at)
{
    int64_t elements = ebb_array_chunk_bytes(a, c) / (int64_t)ebb_elem_size(a->elem);
    int64_t col = c % a->grid_cols * a->chunk_cols;
    int64_t width = a->cols - col < a->chunk_cols ? a->cols - col : a->chunk_cols;
    int64_t stride = a->padded ? a->chunk_cols : width;
    if (width == a->cols && stride == width)
        return ebb_reader_widen(a, slot, elements, first * width, n * width, as, out, at * width);
    bool good = true;
    for (int64_t i = 0; i < n; i++)
        good &= ebb_reader_widen(a, slot, elements, (first + i) * stride, width, as, out, (at + i) * a->cols + col);
    return good;
}

ebb_status_t ebb_reader_take(ebb_reader_t *r, int shard, ebb_role_t role, int64_t row0, int64_t n, ebb_elem_t as,
                             void *out)
{
    const ebb_array_t *a = &r->ds->shard[shard].array[role];
    if (row0 < 0 || n < 0 || row0 > a->rows - n)
        return EBB_FAIL(EBB_ECORRUPT, "%s: %s: elements %lld to %lld of %lld", r->ds->shard[shard].file, a->name,
                        (long long)row0, (long long)(row0 + n), (long long)a->rows);
    for (int64_t done = 0; done < n;) {
        int64_t band = (row0 + done) / a->chunk_rows, first = (row0 + done) % a->chunk_rows;
        int64_t m = n - done < a->chunk_rows - first ? n - done : a->chunk_rows - first;
        for (int64_t c = band * a->grid_cols; c < (band + 1) * a->grid_cols; c++) {
            ebb_slot_t *slot;
            EBB_TRY(get_slot(r, shard, role, c, &slot));
            if (!ebb_reader_take_chunk(a, slot, c, first, m, as, out, done)) {
                EBB_FAIL(EBB_EDATA, "values of type %s beyond what %s can hold", ebb_elem_name(a->elem),
                         ebb_elem_name(as));
                return ebb_reader_name_chunk(r, shard, a, c);
            }
        }
        done += m;
    }
    return EBB_OK;
}
