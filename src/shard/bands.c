/* Bands: made by the writer, described by the index, checked before they are used.
 *
 * A row belongs to the band of its first entry; a row without entries that stands at a chunk's beginning belongs to the
 * band before. The end of a row that begins in a band is in the band's record if it is no longer than half a chunk;
 * longer ones are read from the chunks they lie in. Invariant: sizes and offsets in memory follow from the table by
 * ebb_band_parts, which bounds them all. */
#include "shard/bands.h"
#include "base/alloc.h"
#include "base/deal.h"
#include "base/hash.h"
#include "base/part.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#define BANDS_MAGIC 0x53444e4142424245ull /* "EBBBANDS" */

enum { LEAST_ROWS = 16, MOST_ROWS = 8192, FEW_BLOCKS = 8192, GROUP = 288, SECTION = 64, TURN = 7919 };

static const ebb_array_t *main_array(const ebb_shard_t *shard, const ebb_dataset_info_t *info)
{
    return &shard->array[info->sparse ? EBB_ROLE_DATA : EBB_ROLE_X];
}

static int64_t up8(int64_t n)
{
    return (n + 7) / 8 * 8;
}

bool ebb_band_parts(const ebb_shard_t *shard, const ebb_dataset_info_t *info, int64_t b, ebb_band_parts_t *p)
{
    const ebb_array_t *a = main_array(shard, info);
    const ebb_band_t *band = &shard->band[b];
    int64_t chunk = a->chunk_rows;
    *p = (ebb_band_parts_t){.rows = ebb_band_end(shard, b) - band->row};
    if (p->rows < 0 || (!info->sparse && band->tail != 0))
        return false;
    if (info->sparse) {
        int64_t edge = (b + 1) * chunk < shard->nnz ? (b + 1) * chunk : shard->nnz;
        p->begin = b > 0 ? b * chunk + shard->band[b - 1].tail : 0;
        p->end = edge + band->tail;
        if (p->end > shard->nnz || (p->rows > 0 && p->begin > edge))
            return false;
        p->here = p->begin < edge ? edge - p->begin : 0;
        p->tail = p->rows > 0 && band->tail <= chunk / 2 ? band->tail : 0;
        p->wide = p->end - p->begin > UINT16_MAX;
        p->bytes = p->rows * (p->wide ? 4 : 2);
        p->col = up8(p->bytes);
        p->val = up8(p->col + p->tail * (int64_t)ebb_elem_size(shard->array[EBB_ROLE_INDICES].elem));
        p->bytes = p->val + p->tail * (int64_t)ebb_elem_size(a->elem);
    }
    if (p->rows == 0) {
        p->bytes = 0;
        return true;
    }
    const ebb_array_t *y = &shard->array[EBB_ROLE_Y];
    p->y = up8(p->bytes);
    p->weight = up8(p->y + (y->present ? p->rows * y->cols * (int64_t)ebb_elem_size(y->elem) : 0));
    p->bytes = p->weight + (info->weighted ? p->rows * 4 : 0);
    return p->bytes <= UINT32_MAX;
}

int64_t ebb_band_at(const ebb_shard_t *shard, int64_t row)
{
    int64_t low = 0, high = shard->bands; /* the last band that begins at or before row */
    while (low + 1 < high) {
        int64_t middle = low + (high - low) / 2;
        if (shard->band[middle].row <= row)
            low = middle;
        else
            high = middle;
    }
    return shard->bands > 0 && shard->band[low].row == row ? low : -1;
}

/* ---- the table in the index ---- */

void ebb_bands_encode(const ebb_shard_t *shard, uint64_t *w)
{
    *w++ = htole64(BANDS_MAGIC);
    *w++ = htole64((uint64_t)shard->bands);
    *w++ = htole64(shard->bands > 0 ? (uint64_t)shard->band[0].offset : 0);
    for (int64_t b = 0; b < shard->bands; b++) {
        const ebb_band_t *band = &shard->band[b];
        *w++ = htole64((uint64_t)band->row);
        *w++ = htole64(band->bytes | (uint64_t)band->tail << 32);
        *w++ = htole64(band->xxh3);
    }
}

void ebb_bands_place(ebb_shard_t *shard, int64_t offset)
{
    for (int64_t b = 0; b < shard->bands; b++) {
        shard->band[b].offset = offset;
        offset += shard->band[b].bytes;
    }
}

static ebb_status_t bad(const ebb_shard_t *shard, int64_t b, const char *what)
{
    return EBB_FAIL(EBB_ECORRUPT, "%s: chunk table: band %lld %s", shard->file, (long long)b, what);
}

static ebb_status_t check_bands(const ebb_shard_t *shard, const ebb_dataset_info_t *info, int64_t offset)
{
    ebb_band_parts_t parts;
    int64_t row = 0;
    for (int64_t b = 0; b < shard->bands; b++) {
        const ebb_band_t *band = &shard->band[b];
        if (band->row < row || band->row > shard->rows || (b == 0 && band->row != 0))
            return bad(shard, b, "begins at no row that it can");
        row = band->row;
        if (!ebb_band_parts(shard, info, b, &parts) || parts.bytes != band->bytes)
            return bad(shard, b, "has not the size that its rows need");
        if (offset < 0 || band->bytes > shard->bytes || offset > shard->bytes - band->bytes)
            return bad(shard, b, "lies beyond the end of the file");
        offset += band->bytes;
    }
    return EBB_OK;
}

ebb_status_t ebb_bands_decode(ebb_shard_t *shard, const ebb_dataset_info_t *info, const uint64_t *words, int64_t n)
{
    if (n == 0)
        return EBB_OK;
    if (n < EBB_BAND_HEAD_WORDS || le64toh(words[0]) != BANDS_MAGIC)
        return EBB_FAIL(EBB_ECORRUPT, "%s: chunk table: what follows the chunks is no table of bands", shard->file);
    int64_t bands = main_array(shard, info)->grid_rows;
    if (le64toh(words[1]) != (uint64_t)bands || (n - EBB_BAND_HEAD_WORDS) / EBB_BAND_WORDS != bands ||
        le64toh(words[2]) > (uint64_t)shard->bytes)
        return EBB_FAIL(EBB_ECORRUPT, "%s: chunk table: %llu bands where there are %lld", shard->file,
                        (unsigned long long)le64toh(words[1]), (long long)bands);
    EBB_TRY(EBB_NEW_ARRAY("bands", bands, &shard->band));
    shard->bands = bands;
    int64_t offset = (int64_t)le64toh(words[2]);
    words += EBB_BAND_HEAD_WORDS;
    for (int64_t b = 0; b < bands; b++, words += EBB_BAND_WORDS) {
        uint64_t row = le64toh(words[0]), size = le64toh(words[1]);
        shard->band[b].row = row > (uint64_t)INT64_MAX ? -1 : (int64_t)row;
        shard->band[b].bytes = (uint32_t)size;
        shard->band[b].tail = (uint32_t)(size >> 32);
        shard->band[b].xxh3 = le64toh(words[2]);
    }
    EBB_TRY(check_bands(shard, info, offset));
    ebb_bands_place(shard, offset);
    return EBB_OK;
}

/* ---- blocks of a data set ---- */

/* A block under construction: bands [band, next) of a shard. */
typedef struct cut {
    int shard;
    int64_t band, next;
    int64_t row, end; /* of the shard */
} cut_t;

/* The next whole bands with at least LEAST_ROWS rows (the last of a shard may have fewer). False: none are left. */
static bool next_cut(const ebb_dataset_t *ds, cut_t *c)
{
    for (; c->shard < ds->info.n_shards; *c = (cut_t){.shard = c->shard + 1}) {
        const ebb_shard_t *s = &ds->shard[c->shard];
        c->band = c->next;
        c->row = c->end;
        while (c->next < s->bands) {
            c->end = ebb_band_end(s, c->next++);
            if (c->end > c->row && (c->end - c->row >= LEAST_ROWS || c->end == s->rows))
                return true;
        }
    }
    return false;
}

/* Entries of a shard before band b. */
static int64_t entry_at(const ebb_dataset_t *ds, const ebb_shard_t *s, int64_t b)
{
    int64_t edge = b * ds->info.chunk_elements;
    if (!ds->info.sparse)
        return (b < s->bands ? s->band[b].row : s->rows) * ds->info.cols;
    return b > 0 ? (edge < s->nnz ? edge : s->nnz) + s->band[b - 1].tail : 0;
}

static void note_bands(const ebb_dataset_t *ds, const cut_t *c, ebb_row_blocks_t *blocks)
{
    const ebb_band_t *band = ds->shard[c->shard].band;
    blocks->whole &= c->end - c->row <= MOST_ROWS;
    blocks->bands += c->next - c->band;
    blocks->most_bands = c->next - c->band > blocks->most_bands ? c->next - c->band : blocks->most_bands;
    for (int64_t b = c->band; b < c->next; b++)
        blocks->most_tail = band[b].tail > blocks->most_tail ? band[b].tail : blocks->most_tail;
}

/* Counts the blocks and notes their first rows and entries. Bands of very many rows (short ones, or empty) are cut up.
 */
static void cut_blocks(const ebb_dataset_t *ds, ebb_row_blocks_t *blocks, int64_t *row, int64_t *entry)
{
    int64_t before = 0;
    *blocks = (ebb_row_blocks_t){.min_rows = INT64_MAX, .whole = true};
    for (cut_t c = {0}, last = {0}; next_cut(ds, &c); last = c) {
        note_bands(ds, &c, blocks);
        const ebb_shard_t *s = &ds->shard[c.shard];
        for (int i = last.shard; i < c.shard; i++)
            before += ds->info.sparse ? ds->shard[i].nnz : ds->shard[i].rows * ds->info.cols;
        int64_t first = entry_at(ds, s, c.band), entries = entry_at(ds, s, c.next) - first;
        for (int64_t from = c.row; from < c.end; from += MOST_ROWS) {
            int64_t rows = c.end - from < MOST_ROWS ? c.end - from : MOST_ROWS;
            if (row) {
                row[blocks->n] = s->row0 + from;
                entry[blocks->n] = before + first + entries * (from - c.row) / (c.end - c.row);
            }
            blocks->n++;
            blocks->min_rows = rows < blocks->min_rows ? rows : blocks->min_rows;
            blocks->max_rows = rows > blocks->max_rows ? rows : blocks->max_rows;
            blocks->max_entries = entries > blocks->max_entries ? entries : blocks->max_entries;
        }
    }
}

/* A fixed bijection of 0 .. n - 1, some nanoseconds: multiply, add, fold, in the next power of two, until inside. */
static int64_t fixed_order(int64_t n, int64_t i)
{
    static const uint64_t mul[4] = {0x9E3779B97F4A7C15u, 0xBF58476D1CE4E5B9u, 0x94D049BB133111EBu, 0xD6E8FEB86659FD93u};
    static const uint64_t add[4] = {0x243F6A8885A308D3u, 0x13198A2E03707344u, 0xA4093822299F31D0u, 0x082EFA98EC4E6C89u};
    const int bits = n > 1 ? 64 - __builtin_clzll((uint64_t)n - 1) : 1, shift = (bits + 1) / 2;
    const uint64_t mask = ((uint64_t)1 << bits) - 1;
    uint64_t x = (uint64_t)i;
    do
        for (int r = 0; r < 4; r++) {
            x = (x * mul[r] + add[r]) & mask;
            x ^= x >> shift;
        }
    while (x >= (uint64_t)n);
    return (int64_t)x;
}

/* By how many entries a block exceeds one of as many rows of usual length. */
static int32_t excess(const ebb_row_blocks_t *blocks, int64_t b)
{
    int64_t rows = blocks->row[b + 1] - blocks->row[b], entries = blocks->entry[b + 1] - blocks->entry[b];
    entries -= ebb_part(blocks->entry[blocks->n], rows, blocks->row[blocks->n]);
    return (int32_t)(entries < -(1 << 30) ? -(1 << 30) : entries > 1 << 30 ? 1 << 30 : entries);
}

/* What dealing needs while it goes on. */
typedef struct grouping {
    ebb_deal_t deal;
    ebb_deal_bin_t *bin;
    int32_t *size;
    uint32_t *sorted;
    int64_t *stratum;   /* in the order in which they are dealt */
    int32_t *magnitude; /* of the largest excess in each */
} grouping_t;

/* Stratum k: as many consecutive blocks as there are groups; the last may have fewer. */
static int64_t strata(const ebb_row_blocks_t *blocks)
{
    return (blocks->n + blocks->groups - 1) / blocks->groups;
}

static int64_t stratum_blocks(const ebb_row_blocks_t *blocks, int64_t k)
{
    int64_t left = blocks->n - k * blocks->groups;
    return left < blocks->groups ? left : blocks->groups;
}

static int64_t group_blocks(const ebb_row_blocks_t *blocks, int64_t g)
{
    return ebb_group_first(blocks, g + 1) - ebb_group_first(blocks, g);
}

/* The strata that have the largest blocks first, so that others make up for those. */
static void sort_strata(const ebb_row_blocks_t *blocks, grouping_t *g)
{
    int64_t n = strata(blocks);
    for (int64_t k = 0; k < n; k++) {
        g->magnitude[k] = 0;
        for (int64_t i = 0; i < stratum_blocks(blocks, k); i++) {
            int32_t size = abs(excess(blocks, k * blocks->groups + i));
            g->magnitude[k] = size > g->magnitude[k] ? size : g->magnitude[k];
        }
    }
    ebb_deal_sort(&g->deal, g->magnitude, n, g->sorted);
    for (int64_t k = 0; k < n; k++)
        g->stratum[k] = g->sorted[k];
}

/* One block of a stratum for each group: to those that have the most entries so far the shortest. Blocks that are alike
 * in an order that looks like chance. */
static void deal_stratum(const ebb_row_blocks_t *blocks, grouping_t *g, int64_t k, uint32_t *member)
{
    const int64_t first = k * blocks->groups, n = stratum_blocks(blocks, k), turn = fixed_order(strata(blocks), k);
    for (int64_t i = 0; i < n; i++)
        g->size[i] = excess(blocks, first + fixed_order(n, (i + turn * TURN) % n));
    ebb_deal_sort(&g->deal, g->size, n, g->sorted);
    ebb_deal_begin(&g->deal, g->bin, blocks->entry[blocks->n] / blocks->n / 4);
    for (int64_t b = 0; b < blocks->groups; b++)
        if (k < group_blocks(blocks, b))
            ebb_deal_add(&g->deal, (int32_t)b);
    for (int64_t i = 0; i < n; i++) {
        uint32_t item = g->sorted[i];
        int32_t b = ebb_deal_take(&g->deal, g->size[item] > 0);
        g->bin[b].sum += g->size[item];
        member[ebb_group_first(blocks, b) + k] = (uint32_t)(first + fixed_order(n, (item + turn * TURN) % n));
    }
}

static ebb_status_t grouping_init(const ebb_row_blocks_t *blocks, grouping_t *g)
{
    EBB_TRY(EBB_NEW_ARRAY("groups of blocks", blocks->groups, &g->bin));
    EBB_TRY(EBB_NEW_ARRAY("groups of blocks", blocks->groups, &g->size));
    EBB_TRY(EBB_NEW_ARRAY("groups of blocks", strata(blocks) + blocks->groups, &g->sorted));
    EBB_TRY(EBB_NEW_ARRAY("groups of blocks", strata(blocks), &g->stratum));
    return EBB_NEW_ARRAY("groups of blocks", strata(blocks), &g->magnitude);
}

static void grouping_free(grouping_t *g)
{
    ebb_free(g->bin);
    ebb_free(g->size);
    ebb_free(g->sorted);
    ebb_free(g->stratum);
    ebb_free(g->magnitude);
    ebb_free(g);
}

/* How many groups, and which blocks each has: in the order of storage, one from each part of the data set, so that all
 * groups are alike in what they hold and in entries a row. */
static ebb_status_t make_groups(ebb_row_blocks_t *blocks)
{
    grouping_t *g;
    uint32_t *member = NULL;
    blocks->groups = blocks->n <= FEW_BLOCKS ? 1 : blocks->n / GROUP;
    if (blocks->groups == 1 || blocks->n > INT32_MAX)
        return EBB_OK;
    EBB_TRY(EBB_NEW("groups of blocks", &g));
    ebb_status_t status = grouping_init(blocks, g);
    if (status == EBB_OK)
        status = EBB_NEW_ARRAY("groups of blocks", blocks->n, &member);
    if (status == EBB_OK) {
        sort_strata(blocks, g);
        for (int64_t i = 0; i < strata(blocks); i++)
            deal_stratum(blocks, g, g->stratum[i], member);
    }
    blocks->member = member;
    grouping_free(g);
    return status;
}

/* Sections of groups, and of sections, until there are few; how many parts on all levels. */
static int64_t count_sections(ebb_row_blocks_t *blocks)
{
    int64_t all = blocks->groups, parts = blocks->groups;
    for (blocks->levels = 0; parts > 2 * SECTION && blocks->levels < EBB_SECTION_LEVELS; all += parts) {
        parts /= SECTION;
        blocks->section[blocks->levels++].n = parts;
    }
    return all;
}

/* sum: room for all levels, those of the groups first. */
static void sum_sections(ebb_row_blocks_t *blocks, int64_t *sum)
{
    const int64_t *rows = blocks->group_rows;
    int64_t parts = blocks->groups;
    for (int k = 0; k < blocks->levels; k++) {
        int64_t n = blocks->section[k].n;
        sum += parts;
        for (int64_t i = 0; i < n; i++)
            for (int64_t p = ebb_section_first(parts, i, n); p < ebb_section_first(parts, i + 1, n); p++)
                sum[i] += rows[p];
        blocks->section[k].rows = rows = sum;
        parts = n;
    }
}

ebb_status_t ebb_bands_group(ebb_row_blocks_t *blocks)
{
    int64_t *sum;
    EBB_TRY(make_groups(blocks));
    EBB_TRY(EBB_NEW_ARRAY("groups of blocks", count_sections(blocks), &sum));
    for (int64_t g = 0; g < blocks->groups; g++)
        for (int64_t i = ebb_group_first(blocks, g); i < ebb_group_first(blocks, g + 1); i++) {
            int64_t block = ebb_group_block(blocks, i);
            sum[g] += blocks->row[block + 1] - blocks->row[block];
        }
    blocks->group_rows = sum;
    sum_sections(blocks, sum);
    return EBB_OK;
}

ebb_status_t ebb_bands_blocks(ebb_dataset_t *ds)
{
    int64_t *row, *entry;
    for (int s = 0; s < ds->info.n_shards; s++)
        if (ds->shard[s].bands == 0 && ds->shard[s].rows > 0)
            return EBB_OK;
    ebb_row_blocks_t *blocks = &ds->blocks;
    cut_blocks(ds, blocks, NULL, NULL);
    if (blocks->n == 0)
        return EBB_OK;
    EBB_TRY(EBB_NEW_ARRAY("blocks of rows", blocks->n + 1, &row));
    blocks->row = row;
    EBB_TRY(EBB_NEW_ARRAY("blocks of rows", blocks->n + 1, &entry));
    cut_blocks(ds, blocks, row, entry);
    row[blocks->n] = ds->info.rows;
    entry[blocks->n] = ds->info.nnz;
    blocks->row = row;
    blocks->entry = entry;
    EBB_TRY(ebb_bands_group(blocks));
    ds->info.blocks = blocks;
    return EBB_OK;
}

int64_t ebb_section_first(int64_t parts, int64_t i, int64_t n)
{
    return ebb_part(parts, i, n);
}

int64_t ebb_group_first(const ebb_row_blocks_t *blocks, int64_t g)
{
    return ebb_section_first(blocks->n, g, blocks->groups);
}

int64_t ebb_group_block(const ebb_row_blocks_t *blocks, int64_t i)
{
    if (blocks->member)
        return blocks->member[i];
    return blocks->groups == 1 ? i : fixed_order(blocks->n, i);
}

/* ---- writing ---- */

void ebb_band_maker_init(ebb_band_maker_t *m, ebb_shard_t *shard, const ebb_dataset_info_t *info)
{
    *m = (ebb_band_maker_t){.shard = shard, .info = info};
}

void ebb_band_maker_clear(ebb_band_maker_t *m)
{
    ebb_free(m->data);
    ebb_free(m->length);
    ebb_free(m->col);
    ebb_free(m->val);
    ebb_free(m->y);
    ebb_free(m->weight);
}

static void copy_part(ebb_band_maker_t *m, int64_t at, const void *from, int64_t bytes)
{
    if (bytes > 0)
        memcpy(m->data + m->bytes + at, from, (size_t)bytes);
}

/* Write the record of the last band, whose rows and tail are known. */
static ebb_status_t close_band(ebb_band_maker_t *m)
{
    ebb_shard_t *s = m->shard;
    int64_t b = s->bands - 1;
    ebb_band_parts_t p;
    if (!ebb_band_parts(s, m->info, b, &p))
        return EBB_FAIL(EBB_EBUG, "%s: band %lld of %lld rows", s->file ? s->file : "shard", (long long)b,
                        (long long)p.rows);
    EBB_TRY(ebb_grow("bands", (void **)&m->data, &m->room, m->bytes + p.bytes, 1));
    if (p.bytes > 0)
        memset(m->data + m->bytes, 0, (size_t)p.bytes);
    if (m->info->sparse && p.rows > 0) {
        for (int64_t i = 0; i < p.rows; i++)
            if (p.wide)
                memcpy(m->data + m->bytes + i * 4, &m->length[i], 4);
            else
                memcpy(m->data + m->bytes + i * 2, &(uint16_t){(uint16_t)m->length[i]}, 2);
        copy_part(m, p.col, m->col, p.tail * (int64_t)ebb_elem_size(s->array[EBB_ROLE_INDICES].elem));
        copy_part(m, p.val, m->val, p.tail * (int64_t)ebb_elem_size(s->array[EBB_ROLE_DATA].elem));
    }
    const ebb_array_t *y = &s->array[EBB_ROLE_Y];
    if (y->present)
        copy_part(m, p.y, m->y, p.rows * y->cols * (int64_t)ebb_elem_size(y->elem));
    if (m->info->weighted)
        copy_part(m, p.weight, m->weight, p.rows * 4);
    s->band[b].bytes = (uint32_t)p.bytes;
    s->band[b].xxh3 = ebb_xxh3(m->data + m->bytes, (size_t)p.bytes);
    m->bytes += p.bytes;
    return EBB_OK;
}

/* Open band b, closing those before it; a row that spans several leaves empty ones between. */
static ebb_status_t open_band(ebb_band_maker_t *m, int64_t b)
{
    ebb_shard_t *s = m->shard;
    while (s->bands <= b) {
        uint32_t tail = 0;
        if (s->bands > 0) {
            int64_t edge = s->bands * s->array[EBB_ROLE_DATA].chunk_rows;
            if (m->info->sparse && s->nnz > edge)
                tail = (uint32_t)(s->nnz - edge < UINT32_MAX ? s->nnz - edge : UINT32_MAX);
            s->band[s->bands - 1].tail = tail;
            EBB_TRY(close_band(m));
        }
        EBB_TRY(ebb_grow("bands", (void **)&s->band, &m->capacity, s->bands + 1, sizeof *s->band));
        s->band[s->bands++] = (ebb_band_t){.row = s->rows};
    }
    return EBB_OK;
}

static int64_t band_of_row(const ebb_band_maker_t *m, int64_t n)
{
    const ebb_shard_t *s = m->shard;
    if (!m->info->sparse)
        return s->rows / s->array[EBB_ROLE_X].chunk_rows;
    return (n == 0 && s->nnz > 0 ? s->nnz - 1 : s->nnz) / s->array[EBB_ROLE_DATA].chunk_rows;
}

/* Keep the end of a row that reaches into the next chunk. */
static ebb_status_t keep_tail(ebb_band_maker_t *m, int64_t b, int64_t n, const int32_t *col, const float *val)
{
    const ebb_array_t *data = &m->shard->array[EBB_ROLE_DATA], *indices = &m->shard->array[EBB_ROLE_INDICES];
    int64_t tail = m->shard->nnz + n - (b + 1) * data->chunk_rows;
    if (tail <= 0 || tail > data->chunk_rows / 2)
        return EBB_OK;
    EBB_TRY(ebb_grow("bands", (void **)&m->col, &m->col_room, tail * 4, 1));
    EBB_TRY(ebb_grow("bands", (void **)&m->val, &m->val_room, tail * 4, 1));
    for (int64_t i = 0; i < tail; i++)
        if (indices->elem == EBB_ELEM_U16)
            ((uint16_t *)(void *)m->col)[i] = (uint16_t)col[n - tail + i];
        else
            ((int32_t *)(void *)m->col)[i] = col[n - tail + i];
    (void)ebb_put_f32(data->elem, val + n - tail, tail, m->val); /* the same values went into the chunk */
    return EBB_OK;
}

static ebb_status_t keep_targets(ebb_band_maker_t *m, int64_t i, const int32_t *label, const float *y,
                                 const float *weight)
{
    const ebb_array_t *a = &m->shard->array[EBB_ROLE_Y];
    if (a->present) {
        int64_t size = (int64_t)ebb_elem_size(a->elem) * a->cols;
        EBB_TRY(ebb_grow("bands", (void **)&m->y, &m->y_room, (i + 1) * size, 1));
        const void *from = m->info->target == EBB_TARGET_CLASS ? (const void *)label : (const void *)y;
        memcpy(m->y + i * size, from, (size_t)size); /* little-endian: the first bytes of an i32 are its i8 and i16 */
    }
    if (m->info->weighted) {
        EBB_TRY(ebb_grow("bands", (void **)&m->weight, &m->weight_room, (i + 1) * 4, 1));
        memcpy(m->weight + i * 4, weight, 4);
    }
    return EBB_OK;
}

ebb_status_t ebb_band_maker_row(ebb_band_maker_t *m, int64_t n, const int32_t *col, const float *val,
                                const int32_t *label, const float *y, const float *weight)
{
    ebb_shard_t *s = m->shard;
    int64_t b = band_of_row(m, n);
    EBB_TRY(open_band(m, b));
    int64_t i = s->rows - s->band[b].row;
    if (m->info->sparse) {
        EBB_TRY(ebb_grow("bands", (void **)&m->length, &m->length_room, i + 1, sizeof *m->length));
        m->length[i] = (uint32_t)n;
        EBB_TRY(keep_tail(m, b, n, col, val));
    }
    return keep_targets(m, i, label, y, weight);
}

ebb_status_t ebb_band_maker_finish(ebb_band_maker_t *m)
{
    int64_t bands = main_array(m->shard, m->info)->grid_rows;
    if (bands == 0) { /* no entries at all */
        m->shard->bands = m->bytes = 0;
        return EBB_OK;
    }
    EBB_TRY(open_band(m, bands - 1));
    return close_band(m);
}
