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
#include "shard/layout.h"
#include "base/pulse.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "shard/bands.h"
#include "shard/stored.h"
#include "shard/unpack.h"

#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { OPEN_FILES = 32, DEFAULT_CACHE = 8 << 20, TARGET_BLOCK = 512, NEAR_BYTES = 4096 };
enum { SLOW_READ_NS = 50000, WAITS_FOR = 256 }; /* copies from the page cache take a few microseconds */

typedef struct slot {
    int shard;
    bool shuffled; /* how this chunk lies here */
    int64_t chunk; /* EBB_NO_CHUNK: empty */
    uint64_t used;
    uint8_t *buf;
} slot_t;

typedef struct cache {
    slot_t *slot;
    int n;
    int64_t bytes; /* of each slot */
} cache_t;

struct ebb_reader {
    const ebb_dataset_t *ds;
    cache_t cache[EBB_ROLES];
    uint64_t clock;
    ebb_unpack_t *unpack;
    bool checksum;        /* of zstd frames; XXH3 has spoken already, so only verify wants both */
    uint8_t *packed;      /* bytes [packed_at, packed_end) of file packed_shard */
    int64_t packed_bytes; /* room */
    int64_t packed_at, packed_end;
    int packed_shard;
    int waits;       /* reads still to go until a device is taken to be as fast as memory */
    slot_t hot;      /* the chunk of a band; always the same memory, so that it stays in the CPU's cache */
    uint8_t *record; /* of the band read last */
    int64_t hot_bytes, record_bytes, record_band;
    int record_shard;
    struct {
        int shard, fd;
    } file[OPEN_FILES];
    int most_files;     /* open in the process */
    int64_t row0, row1; /* global rows being asked for; named in errors */
    int last_shard;
};

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
    cache_t *cache = &r->cache[role];
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
    plan_cache(r, EBB_ROLE_INDICES, budget / 4, 64);
    plan_cache(r, EBB_ROLE_X, budget / 4 * 3, 512);
    for (int role = 0; role < EBB_ROLES; role++) {
        cache_t *cache = &r->cache[role];
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
    EBB_TRY(ebb_alloc("chunk", (size_t)r->hot_bytes, (void **)&r->hot.buf));
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
    for (int i = 0; i < OPEN_FILES; i++)
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
    for (int i = 0; i < OPEN_FILES; i++)
        close_file(r, i);
    ebb_unpack_destroy(r->unpack);
    ebb_free(r->packed);
    ebb_free(r->hot.buf);
    ebb_free(r->record);
    ebb_free(r);
}

/* ---- one chunk ---- */

/* Few files stay open per reader, and in all readers no more than half of what the process may open (one each where
 * there are many), so that data sets of many thousand shards need no raised limits. */
static ebb_status_t shard_fd(ebb_reader_t *r, int shard, int *fd_p)
{
    int at = shard % OPEN_FILES;
    if (r->file[at].shard != shard)
        close_file(r, at);
    if (r->file[at].fd < 0) {
        for (int i = 0; i < OPEN_FILES && atomic_load(&files_open) >= r->most_files; i++)
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

static ebb_status_t read_file(ebb_reader_t *r, int shard, void *buf, int64_t bytes, int64_t offset)
{
    int fd;
    EBB_TRY(shard_fd(r, shard, &fd));
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
    EBB_TRY(read_file(r, shard, r->packed, end - offset, offset));
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

static ebb_status_t decode(ebb_reader_t *r, int shard, const ebb_array_t *a, int64_t c, slot_t *slot)
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
        EBB_TRY(read_file(r, shard, slot->buf, chunk->bytes, chunk->offset));
    else
        EBB_TRY(find_packed(r, shard, a, c, &stored));
    EBB_TRY(check_hash(a, chunk, stored));
    if (plain)
        return EBB_OK;
    return ebb_unpack(r->unpack, a->codec, r->checksum, stored, chunk->bytes, slot->buf, bytes);
}

static ebb_status_t name_chunk(const ebb_reader_t *r, int shard, const ebb_array_t *a, int64_t c)
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

static ebb_status_t get_slot(ebb_reader_t *r, int shard, ebb_role_t role, int64_t c, slot_t **slot_p)
{
    cache_t *cache = &r->cache[role];
    slot_t *oldest = &cache->slot[0];
    for (int i = 0; i < cache->n; i++) {
        slot_t *slot = &cache->slot[i];
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
    if (decode(r, shard, a, c, oldest) != EBB_OK)
        return name_chunk(r, shard, a, c);
    oldest->shard = shard;
    oldest->chunk = c;
    oldest->used = ++r->clock;
    *slot_p = oldest;
    return EBB_OK;
}

ebb_status_t ebb_reader_chunk(ebb_reader_t *r, int shard, ebb_role_t role, int64_t chunk, bool checksum,
                              const void **raw_p)
{
    slot_t *slot;
    r->checksum = checksum;
    EBB_TRY(get_slot(r, shard, role, chunk, &slot));
    *raw_p = slot->buf;
    return EBB_OK;
}

/* ---- parts of arrays ---- */

static bool widen(const ebb_array_t *a, const slot_t *slot, int64_t n, int64_t first, int64_t count, ebb_elem_t as,
                  void *out, int64_t at)
{
    if (as == EBB_ELEM_I32)
        return ebb_take_i32(a->elem, slot->shuffled, slot->buf, n, first, count, (int32_t *)out + at);
    if (as == EBB_ELEM_F32)
        return ebb_take_f32(a->elem, slot->shuffled, slot->buf, n, first, count, (float *)out + at);
    return ebb_take_i64(a->elem, slot->shuffled, slot->buf, n, first, count, (int64_t *)out + at);
}

/* Rows [first, first + n) of one chunk into rows from `at` of out, which is a->cols wide. */
static bool take_chunk(const ebb_array_t *a, const slot_t *slot, int64_t c, int64_t first, int64_t n, ebb_elem_t as,
                       void *out, int64_t at)
{
    int64_t elements = ebb_array_chunk_bytes(a, c) / (int64_t)ebb_elem_size(a->elem);
    int64_t col = c % a->grid_cols * a->chunk_cols;
    int64_t width = a->cols - col < a->chunk_cols ? a->cols - col : a->chunk_cols;
    int64_t stride = a->padded ? a->chunk_cols : width;
    if (width == a->cols && stride == width)
        return widen(a, slot, elements, first * width, n * width, as, out, at * width);
    bool good = true;
    for (int64_t i = 0; i < n; i++)
        good &= widen(a, slot, elements, (first + i) * stride, width, as, out, (at + i) * a->cols + col);
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
            slot_t *slot;
            EBB_TRY(get_slot(r, shard, role, c, &slot));
            if (!take_chunk(a, slot, c, first, m, as, out, done)) {
                EBB_FAIL(EBB_EDATA, "values of type %s beyond what %s can hold", ebb_elem_name(a->elem),
                         ebb_elem_name(as));
                return name_chunk(r, shard, a, c);
            }
        }
        done += m;
    }
    return EBB_OK;
}

/* ---- bands ---- */

/* Do rows [first, first + n) of a shard consist of whole bands? *band_p: the first. */
static bool whole_bands(const ebb_reader_t *r, int shard, int64_t first, int64_t n, int64_t *band_p)
{
    const ebb_shard_t *s = &r->ds->shard[shard];
    if (!r->hot.buf || n == 0)
        return false;
    *band_p = ebb_band_at(s, first);
    return *band_p >= 0 && (first + n == s->rows || ebb_band_at(s, first + n) > *band_p);
}

static ebb_status_t name_band(const ebb_reader_t *r, int shard, int64_t b)
{
    return ebb_error_prefix("%s: uns/ebb/bands: band %lld (read for rows %lld to %lld): ", r->ds->shard[shard].file,
                            (long long)b, (long long)r->row0, (long long)r->row1 - 1);
}

/* The record of a band, checked, in r->record. */
static ebb_status_t load_record(ebb_reader_t *r, int shard, int64_t b, ebb_band_parts_t *parts)
{
    const ebb_shard_t *s = &r->ds->shard[shard];
    const ebb_band_t *band = &s->band[b];
    if (!ebb_band_parts(s, &r->ds->info, b, parts))
        return EBB_FAIL(EBB_EBUG, "band %lld of %s was not checked", (long long)b, s->file);
    if ((r->record_band == b && r->record_shard == shard) || band->bytes == 0)
        return EBB_OK;
    r->record_band = -1;
    ebb_status_t status = read_file(r, shard, r->record, band->bytes, band->offset);
#ifndef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    if (status == EBB_OK && ebb_xxh3(r->record, band->bytes) != band->xxh3)
        status = EBB_FAIL(EBB_ECORRUPT,
                          "stored bytes do not match their checksum: the file is damaged; restore it or pack again");
#endif
    if (status != EBB_OK)
        return name_band(r, shard, b);
    r->record_band = b;
    r->record_shard = shard;
    return EBB_OK;
}

static ebb_status_t load_hot(ebb_reader_t *r, int shard, ebb_role_t role, int64_t c)
{
    const ebb_array_t *a = &r->ds->shard[shard].array[role];
    return decode(r, shard, a, c, &r->hot) == EBB_OK ? EBB_OK : name_chunk(r, shard, a, c);
}

/* Row pointers of the band's rows: out[0] is there already. */
static ebb_status_t band_rowptr(ebb_reader_t *r, int shard, int64_t b, const ebb_band_parts_t *p, int64_t *out)
{
    const uint8_t *length = r->record + p->length;
    int64_t at = out[0];
    for (int64_t i = 0; i < p->rows; i++) {
        at += p->wide ? ((const uint32_t *)(const void *)length)[i] : ((const uint16_t *)(const void *)length)[i];
        out[i + 1] = at;
    }
    if (at - out[0] == p->end - p->begin)
        return EBB_OK;
    EBB_FAIL(EBB_ECORRUPT, "rows of %lld entries where there are %lld", (long long)(at - out[0]),
             (long long)(p->end - p->begin));
    return name_band(r, shard, b);
}

/* One array's entries of the band's rows. A long row's end is in the chunks that follow. */
static ebb_status_t band_entries(ebb_reader_t *r, int shard, ebb_role_t role, int64_t b, const ebb_band_parts_t *p,
                                 ebb_elem_t as, void *out)
{
    const ebb_array_t *a = &r->ds->shard[shard].array[role];
    int64_t n = p->end - p->begin, elements = a->chunk_rows;
    if (p->here + p->tail != n)
        return ebb_reader_take(r, shard, role, p->begin, n, as, out);
    bool good = true;
    if (p->here > 0) {
        EBB_TRY(load_hot(r, shard, role, b));
        good = widen(a, &r->hot, elements, p->begin - b * elements, p->here, as, out, 0);
    }
    const slot_t tail = {.buf = r->record + (role == EBB_ROLE_DATA ? p->val : p->col)};
    if (p->tail > 0)
        good &= widen(a, &tail, p->tail, 0, p->tail, as, out, p->here);
    if (good)
        return EBB_OK;
    EBB_FAIL(EBB_EDATA, "values of type %s beyond what %s can hold", ebb_elem_name(a->elem), ebb_elem_name(as));
    return name_chunk(r, shard, a, b);
}

/* ---- rows ---- */

static ebb_status_t begin_rows(ebb_reader_t *r, int64_t row0, int64_t n)
{
    int64_t rows = r->ds->info.rows;
    if (row0 < 0 || n < 0 || row0 > rows - n)
        return EBB_FAIL(EBB_EINVAL, "%s: rows %lld to %lld were asked for, there are %lld", r->ds->info.name,
                        (long long)row0, (long long)(row0 + n) - 1, (long long)rows);
    r->row0 = row0;
    r->row1 = row0 + n;
    r->checksum = false;
    return EBB_OK;
}

/* The piece of rows [row, end) that lies in one shard: its number, first local row and count. */
static int64_t find_piece(ebb_reader_t *r, int64_t row, int64_t end, int *shard_p, int64_t *first_p)
{
    const ebb_shard_t *shard = r->ds->shard;
    int low = 0, high = r->ds->info.n_shards - 1, at = r->last_shard;
    if (row < shard[at].row0 || row >= shard[at].row0 + shard[at].rows) {
        while (low < high) {
            at = low + (high - low) / 2;
            if (row >= shard[at].row0 + shard[at].rows)
                low = at + 1;
            else
                high = at;
        }
        at = low;
        r->last_shard = at;
    }
    *shard_p = at;
    *first_p = row - shard[at].row0;
    int64_t left = shard[at].rows - *first_p;
    return end - row < left ? end - row : left;
}

/* Row pointers of the bands from b up to local row `end`. */
static ebb_status_t bands_rowptr(ebb_reader_t *r, int shard, int64_t b, int64_t end, int64_t *rowptr)
{
    ebb_band_parts_t p;
    for (; b < r->ds->shard[shard].bands && r->ds->shard[shard].band[b].row < end; b++, rowptr += p.rows) {
        EBB_TRY(load_record(r, shard, b, &p));
        if (p.rows > 0)
            EBB_TRY(band_rowptr(r, shard, b, &p, rowptr));
    }
    return EBB_OK;
}

ebb_status_t ebb_reader_rowptr(ebb_reader_t *r, int64_t row0, int64_t n, int64_t base, int64_t *rowptr)
{
    if (!r->ds->info.sparse)
        return EBB_FAIL(EBB_EINVAL, "%s: is dense: it has no row pointers", r->ds->info.name);
    EBB_TRY(begin_rows(r, row0, n));
    rowptr[0] = base;
    for (int64_t done = 0, m; done < n; done += m) {
        int shard;
        int64_t first, band, start = rowptr[done];
        m = find_piece(r, row0 + done, row0 + n, &shard, &first);
        if (whole_bands(r, shard, first, m, &band)) {
            EBB_TRY(bands_rowptr(r, shard, band, first + m, rowptr + done));
            continue;
        }
        EBB_TRY(ebb_reader_take(r, shard, EBB_ROLE_INDPTR, first, m + 1, EBB_ELEM_I64, rowptr + done));
        int64_t low = rowptr[done], last = low;
        bool good = low >= 0;
        for (int64_t i = done; i <= done + m; i++) {
            good &= rowptr[i] >= last;
            last = rowptr[i];
            rowptr[i] += start - low;
        }
        if (!good || last > r->ds->shard[shard].nnz)
            return EBB_FAIL(EBB_ECORRUPT,
                            "%s: X/indptr: row pointers of rows %lld to %lld do not ascend within 0 .. %lld",
                            r->ds->shard[shard].file, (long long)(row0 + done), (long long)(row0 + done + m) - 1,
                            (long long)r->ds->shard[shard].nnz);
    }
    return EBB_OK;
}

static ebb_status_t check_columns(const ebb_reader_t *r, int shard, const int32_t *col, int64_t n)
{
    uint32_t cols = (uint32_t)r->ds->info.cols, bad = 0;
    for (int64_t i = 0; i < n; i++)
        bad |= (uint32_t)col[i] >= cols;
    if (!bad)
        return EBB_OK;
    int64_t i = 0;
    while ((uint32_t)col[i] < cols)
        i++;
    return EBB_FAIL(EBB_ECORRUPT, "%s: %s: rows %lld to %lld: column %d is not in 0 .. %u", r->ds->shard[shard].file,
                    r->ds->shard[shard].array[EBB_ROLE_INDICES].name, (long long)r->row0, (long long)r->row1 - 1,
                    col[i], cols - 1);
}

/* Entries of the bands from b up to local row `end`; *n_p: how many. */
static ebb_status_t bands_csr(ebb_reader_t *r, int shard, int64_t b, int64_t end, int32_t *col, float *val,
                              int64_t *n_p)
{
    ebb_band_parts_t p;
    *n_p = 0;
    for (; b < r->ds->shard[shard].bands && r->ds->shard[shard].band[b].row < end; b++) {
        EBB_TRY(load_record(r, shard, b, &p));
        if (p.rows == 0)
            continue;
        if (col) {
            EBB_TRY(band_entries(r, shard, EBB_ROLE_INDICES, b, &p, EBB_ELEM_I32, col + *n_p));
            EBB_TRY(check_columns(r, shard, col + *n_p, p.end - p.begin));
        }
        if (val)
            EBB_TRY(band_entries(r, shard, EBB_ROLE_DATA, b, &p, EBB_ELEM_F32, val + *n_p));
        *n_p += p.end - p.begin;
    }
    return EBB_OK;
}

ebb_status_t ebb_reader_csr(ebb_reader_t *r, int64_t row0, int64_t n, int32_t *col, float *val)
{
    if (!r->ds->info.sparse)
        return EBB_FAIL(EBB_EINVAL, "%s: is dense: read it with ebb_reader_dense", r->ds->info.name);
    EBB_TRY(begin_rows(r, row0, n));
    int64_t out = 0;
    for (int64_t done = 0, m; done < n; done += m) {
        int shard;
        int64_t first, begin, end, band;
        m = find_piece(r, row0 + done, row0 + n, &shard, &first);
        if (whole_bands(r, shard, first, m, &band)) {
            EBB_TRY(bands_csr(r, shard, band, first + m, col ? col + out : NULL, val ? val + out : NULL, &end));
            out += end;
            continue;
        }
        EBB_TRY(ebb_reader_take(r, shard, EBB_ROLE_INDPTR, first, 1, EBB_ELEM_I64, &begin));
        EBB_TRY(ebb_reader_take(r, shard, EBB_ROLE_INDPTR, first + m, 1, EBB_ELEM_I64, &end));
        if (begin < 0 || end < begin || end > r->ds->shard[shard].nnz)
            return EBB_FAIL(EBB_ECORRUPT, "%s: X/indptr: rows %lld to %lld: entries %lld to %lld of %lld",
                            r->ds->shard[shard].file, (long long)(row0 + done), (long long)(row0 + done + m) - 1,
                            (long long)begin, (long long)end, (long long)r->ds->shard[shard].nnz);
        if (col) {
            EBB_TRY(ebb_reader_take(r, shard, EBB_ROLE_INDICES, begin, end - begin, EBB_ELEM_I32, col + out));
            EBB_TRY(check_columns(r, shard, col + out, end - begin));
        }
        if (val)
            EBB_TRY(ebb_reader_take(r, shard, EBB_ROLE_DATA, begin, end - begin, EBB_ELEM_F32, val + out));
        out += end - begin;
    }
    return EBB_OK;
}

/* Rows of the bands from b up to local row `end`. */
static ebb_status_t bands_dense(ebb_reader_t *r, int shard, int64_t b, int64_t end, float *x)
{
    const ebb_array_t *a = &r->ds->shard[shard].array[EBB_ROLE_X];
    for (; b * a->chunk_rows < end; b++, x += a->chunk_rows * a->cols) {
        int64_t n = end - b * a->chunk_rows < a->chunk_rows ? end - b * a->chunk_rows : a->chunk_rows;
        for (int64_t c = b * a->grid_cols; c < (b + 1) * a->grid_cols; c++) {
            EBB_TRY(load_hot(r, shard, EBB_ROLE_X, c));
            (void)take_chunk(a, &r->hot, c, 0, n, EBB_ELEM_F32, x, 0); /* no type of ours is too wide */
        }
    }
    return EBB_OK;
}

ebb_status_t ebb_reader_dense(ebb_reader_t *r, int64_t row0, int64_t n, float *x)
{
    if (r->ds->info.sparse)
        return EBB_FAIL(EBB_EINVAL, "%s: is sparse: read it with ebb_reader_csr", r->ds->info.name);
    EBB_TRY(begin_rows(r, row0, n));
    for (int64_t done = 0, m; done < n; done += m) {
        int shard;
        int64_t first, band;
        m = find_piece(r, row0 + done, row0 + n, &shard, &first);
        float *out = x + done * r->ds->info.cols;
        if (whole_bands(r, shard, first, m, &band))
            EBB_TRY(bands_dense(r, shard, band, first + m, out));
        else
            EBB_TRY(ebb_reader_take(r, shard, EBB_ROLE_X, first, m, EBB_ELEM_F32, out));
    }
    return EBB_OK;
}

/* ---- rows as they are stored ---- */

void ebb_stored_form(const ebb_dataset_t *ds, ebb_stored_t *form)
{
    const ebb_dataset_info_t *info = &ds->info;
    const ebb_row_blocks_t *blocks = info->blocks;
    *form = (ebb_stored_t){0};
    if (!blocks || !blocks->whole)
        return;
    const ebb_array_t *val = &ds->shard[0].array[info->sparse ? EBB_ROLE_DATA : EBB_ROLE_X];
    const ebb_array_t *col = &ds->shard[0].array[EBB_ROLE_INDICES];
    form->val = val->elem;
    form->col = col->elem;
    form->elements = val->chunk_rows * val->chunk_cols;
    form->val_at = info->sparse ? form->elements * (int64_t)ebb_elem_size(col->elem) : 0;
    form->band_bytes = form->val_at + form->elements * (int64_t)ebb_elem_size(val->elem);
    form->band_bytes = (form->band_bytes + 63) / 64 * 64;
    form->possible = val->grid_cols == 1 && ebb_widen_possible(val->elem, false) &&
                     (!info->sparse || ebb_widen_possible(col->elem, true)) && ebb_stored_is_near(info);
    int64_t usual = 2 * (blocks->bands / blocks->n + 1), longest = form->elements / 8;
    form->bands = (int)(blocks->most_bands < usual ? blocks->most_bands : usual);
    form->tail = !info->sparse ? 0 : blocks->most_tail < longest ? blocks->most_tail : longest;
}

/* Do the bands from b up to local row `end` fit? */
static bool has_room(const ebb_reader_t *r, const ebb_stored_t *form, int shard, int64_t b, int64_t end)
{
    const ebb_shard_t *s = &r->ds->shard[shard];
    ebb_band_parts_t p;
    int n = 0;
    for (; b < s->bands && s->band[b].row < end; b++) {
        if (!ebb_band_parts(s, &r->ds->info, b, &p))
            return false;
        n += p.rows > 0;
        if (n > form->bands || p.tail > form->tail || (p.rows > 0 && p.here + p.tail != p.end - p.begin))
            return false;
    }
    return true;
}

/* One chunk of a band into memory of the caller. */
static ebb_status_t load_stored(ebb_reader_t *r, int shard, ebb_role_t role, int64_t c, uint8_t *buf)
{
    const ebb_array_t *a = &r->ds->shard[shard].array[role];
    slot_t slot = {.buf = buf};
    return decode(r, shard, a, c, &slot) == EBB_OK ? EBB_OK : name_chunk(r, shard, a, c);
}

static ebb_status_t stored_columns(ebb_reader_t *r, const ebb_stored_t *form, int shard, int64_t b,
                                   const ebb_band_parts_t *p, uint8_t *chunk, int32_t *tail)
{
    const ebb_array_t *a = &r->ds->shard[shard].array[EBB_ROLE_INDICES];
    int64_t cols = r->ds->info.cols, first = p->begin - b * form->elements;
    if (p->here > 0) {
        EBB_TRY(load_stored(r, shard, EBB_ROLE_INDICES, b, chunk));
        if (ebb_columns_beyond(a->elem, chunk + first, form->elements, p->here, cols))
            return EBB_FAIL(EBB_ECORRUPT, "%s: %s: rows %lld to %lld: a column is not in 0 .. %lld",
                            r->ds->shard[shard].file, a->name, (long long)r->row0, (long long)r->row1 - 1,
                            (long long)cols - 1);
    }
    const slot_t slot = {.buf = r->record + p->col};
    (void)widen(a, &slot, p->tail, 0, p->tail, EBB_ELEM_I32, tail, 0); /* types of ours fit */
    return check_columns(r, shard, tail, p->tail);
}

static ebb_status_t stored_values(ebb_reader_t *r, int shard, int64_t b, const ebb_band_parts_t *p, uint8_t *chunk,
                                  float *tail)
{
    const slot_t slot = {.buf = r->record + p->val};
    if (p->here > 0)
        EBB_TRY(load_stored(r, shard, EBB_ROLE_DATA, b, chunk));
    (void)widen(&r->ds->shard[shard].array[EBB_ROLE_DATA], &slot, p->tail, 0, p->tail, EBB_ELEM_F32, tail, 0);
    return EBB_OK;
}

/* ---- what comes next ---- */

bool ebb_reader_waits(const ebb_reader_t *r)
{
    return r->waits > 0;
}

void ebb_reader_hint(ebb_reader_t *r, int64_t row0, int64_t n)
{
    int shard, fd;
    int64_t first, b;
    if (find_piece(r, row0, row0 + n, &shard, &first) < n || !whole_bands(r, shard, first, n, &b))
        return;
    if (shard_fd(r, shard, &fd) != EBB_OK) {
        ebb_error_clear(); /* whoever reads it says so */
        return;
    }
    const ebb_shard_t *s = &r->ds->shard[shard];
    for (; b < s->bands && s->band[b].row < first + n; b++) {
        (void)posix_fadvise(fd, s->band[b].offset, s->band[b].bytes, POSIX_FADV_WILLNEED);
        for (int role = EBB_ROLE_DATA; role <= EBB_ROLE_X; role++) {
            const ebb_array_t *a = &s->array[role];
            for (int64_t c = b * a->grid_cols; role != EBB_ROLE_INDPTR && a->chunk && c < (b + 1) * a->grid_cols; c++)
                (void)posix_fadvise(fd, a->chunk[c].offset, a->chunk[c].bytes, POSIX_FADV_WILLNEED);
        }
    }
}

/* ---- parts of stored blocks ---- */

/* The k-th segment of a block, whose rows begin at `row` of it: band b. */
static ebb_status_t stored_segment(ebb_reader_t *r, const ebb_stored_t *form, int shard, int64_t b,
                                   const ebb_band_parts_t *p, int64_t row, int64_t *rowptr,
                                   const ebb_stored_room_t *room, int k)
{
    uint8_t *chunk = room->chunk + k * form->band_bytes;
    ebb_segment_t *s = &room->segment[k];
    *s = (ebb_segment_t){.row = row, .col = chunk, .val = chunk + form->val_at};
    if (!rowptr)
        return load_stored(r, shard, EBB_ROLE_X, b, chunk);
    int64_t first = p->here > 0 ? p->begin - b * form->elements : 0;
    int32_t *tail_col = room->tail_col + k * form->tail;
    float *tail_val = room->tail_val + k * form->tail;
    EBB_TRY(band_rowptr(r, shard, b, p, rowptr + row));
    s->entry = rowptr[row];
    s->edge = s->entry + p->here;
    s->col += first;
    s->val += first;
    s->tail_col = tail_col;
    s->tail_val = tail_val;
    EBB_TRY(stored_columns(r, form, shard, b, p, chunk, tail_col));
    return stored_values(r, shard, b, p, chunk + form->val_at, tail_val);
}

ebb_status_t ebb_reader_stored(ebb_reader_t *r, const ebb_stored_t *form, int64_t row0, int64_t n, int64_t *rowptr,
                               const ebb_stored_room_t *room, int *segments_p)
{
    int shard, k = 0;
    int64_t first, band, row = 0;
    ebb_band_parts_t p;
    *segments_p = 0;
    EBB_TRY(begin_rows(r, row0, n));
    if (find_piece(r, row0, row0 + n, &shard, &first) < n || !whole_bands(r, shard, first, n, &band) ||
        !has_room(r, form, shard, band, first + n))
        return EBB_OK;
    if (rowptr)
        rowptr[0] = 0;
    for (; row < n; band++, row += p.rows) {
        EBB_TRY(load_record(r, shard, band, &p));
        if (p.rows > 0)
            EBB_TRY(stored_segment(r, form, shard, band, &p, row, rowptr, room, k++));
    }
    room->segment[k] = (ebb_segment_t){.row = n};
    *segments_p = k;
    return EBB_OK;
}

/* ---- targets ---- */

/* Targets and weights: of an array, or of the band's records, which hold them as the array does. */
static ebb_status_t take_small(ebb_reader_t *r, int shard, ebb_role_t role, int64_t first, int64_t n, ebb_elem_t as,
                               void *out)
{
    const ebb_array_t *a = &r->ds->shard[shard].array[role];
    ebb_band_parts_t p;
    int64_t b;
    if (!whole_bands(r, shard, first, n, &b))
        return ebb_reader_take(r, shard, role, first, n, as, out);
    for (int64_t done = 0; done < n; b++, done += p.rows) {
        EBB_TRY(load_record(r, shard, b, &p));
        const slot_t slot = {.buf = r->record + (role == EBB_ROLE_Y ? p.y : p.weight)};
        if (p.rows > 0)
            (void)widen(a, &slot, p.rows * a->cols, 0, p.rows * a->cols, as, out, done * a->cols);
    }
    return EBB_OK;
}

static ebb_status_t take_labels(ebb_reader_t *r, int shard, int64_t first, int64_t n, int32_t *label)
{
    if (r->ds->labels) {
        memcpy(label, r->ds->labels + first, (size_t)n * sizeof *label);
        return EBB_OK;
    }
    EBB_TRY(take_small(r, shard, EBB_ROLE_Y, first, n, EBB_ELEM_I32, label));
    for (int64_t i = 0; i < n; i++)
        if (label[i] < 0 || label[i] >= r->ds->info.classes)
            return EBB_FAIL(EBB_ECORRUPT, "%s: %s: row %lld: class %d is not in 0 .. %lld", r->ds->shard[shard].file,
                            r->ds->shard[shard].array[EBB_ROLE_Y].name,
                            (long long)(r->ds->shard[shard].row0 + first + i), label[i],
                            (long long)r->ds->info.classes - 1);
    return EBB_OK;
}

static ebb_status_t take_classes(ebb_reader_t *r, int shard, int64_t first, int64_t n, int32_t *label, float *y)
{
    int32_t block[TARGET_BLOCK];
    if (label)
        EBB_TRY(take_labels(r, shard, first, n, label));
    for (int64_t done = 0; y && done < n; done += TARGET_BLOCK) {
        int64_t m = n - done < TARGET_BLOCK ? n - done : TARGET_BLOCK;
        EBB_TRY(take_labels(r, shard, first + done, m, block));
        for (int64_t i = 0; i < m; i++)
            y[done + i] = (float)block[i];
    }
    return EBB_OK;
}

static ebb_status_t take_reals(ebb_reader_t *r, int shard, int64_t first, int64_t n, float *y)
{
    int64_t cols = r->ds->info.target_cols;
    if (!r->ds->reals)
        return take_small(r, shard, EBB_ROLE_Y, first, n, EBB_ELEM_F32, y);
    memcpy(y, r->ds->reals + first * cols, (size_t)(n * cols) * sizeof *y);
    return EBB_OK;
}

ebb_status_t ebb_reader_targets(ebb_reader_t *r, int64_t row0, int64_t n, int32_t *label, float *y, float *weight)
{
    const ebb_dataset_info_t *info = &r->ds->info;
    if (label && info->target != EBB_TARGET_CLASS)
        return EBB_FAIL(EBB_EINVAL, "%s: has no classes", info->name);
    if (y && info->target == EBB_TARGET_NONE)
        return EBB_FAIL(EBB_EINVAL, "%s: has no targets", info->name);
    EBB_TRY(begin_rows(r, row0, n));
    for (int64_t done = 0, m; done < n; done += m) {
        int shard;
        int64_t first;
        m = find_piece(r, row0 + done, row0 + n, &shard, &first);
        if (info->target == EBB_TARGET_CLASS)
            EBB_TRY(take_classes(r, shard, first, m, label ? label + done : NULL, y ? y + done : NULL));
        else if (y)
            EBB_TRY(take_reals(r, shard, first, m, y + done * info->target_cols));
        if (weight && info->weighted)
            EBB_TRY(take_small(r, shard, EBB_ROLE_WEIGHT, first, m, EBB_ELEM_F32, weight + done));
    }
    for (int64_t i = 0; weight && !info->weighted && i < n; i++)
        weight[i] = 1;
    return EBB_OK;
}
