/* Parts, shards and the rows that go into them.
 *
 * After the scan the rows of every piece are known, so the part of a row (a hash of seed and row number) and its shard
 * follow by counting. Shards of all parts are numbered through and dealt to the ranks in turn; a rank parses the pieces
 * that hold rows of its shards and drops the rest of their rows. Every part has one writer open at a time.
 */
#include "shard/pack.h"
#include "base/alloc.h"
#include "base/rng.h"
#include "base/text.h"
#include "shard/layout.h"

#include <math.h>
#include <string.h>

static ebb_status_t bad_split(const char *spec)
{
    return EBB_FAIL(EBB_EUSAGE,
                    "--split \"%s\": write name=fraction,..., with fractions above 0 that add up to at most 1, as in "
                    "train=0.9,valid=0.1",
                    spec);
}

static bool good_name(const char *name, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-", name[i]))
            return false;
    return n > 0 && n < sizeof((ebb_pack_part_t *)0)->name;
}

/* The name and fraction between s and end as the next part. */
static ebb_status_t add_part(ebb_pack_t *p, const char *s, const char *end)
{
    char number[64];
    double fraction;
    const char *eq = memchr(s, '=', (size_t)(end - s));
    if (!eq || !good_name(s, (size_t)(eq - s)) || end - eq - 1 >= (int64_t)sizeof number ||
        p->n_parts == EBB_PACK_MAX_PARTS)
        return bad_split(p->o.split);
    memcpy(number, eq + 1, (size_t)(end - eq - 1));
    number[end - eq - 1] = 0;
    if (ebb_parse_f64(number, &fraction) != EBB_OK || !(fraction > 0)) {
        ebb_error_clear();
        return bad_split(p->o.split);
    }
    ebb_pack_part_t *part = &p->part[p->n_parts];
    memcpy(part->name, s, (size_t)(eq - s));
    for (int i = 0; i < p->n_parts; i++)
        if (strcmp(p->part[i].name, part->name) == 0)
            return bad_split(p->o.split);
    part->begin = p->n_parts ? p->part[p->n_parts - 1].end : 0;
    part->end = part->begin + fraction;
    p->n_parts++;
    return EBB_OK;
}

ebb_status_t ebb_pack_parse_split(ebb_pack_t *p)
{
    if (!p->o.split) {
        p->part[0].end = 1;
        p->n_parts = 1;
        return EBB_OK;
    }
    for (const char *s = p->o.split;;) {
        const char *end = strchrnul(s, ',');
        EBB_TRY(add_part(p, s, end));
        if (!*end)
            break;
        s = end + 1;
    }
    double *sum = &p->part[p->n_parts - 1].end;
    if (*sum > 1 + 1e-9)
        return bad_split(p->o.split);
    if (*sum > 1 - 1e-9)
        *sum = 1; /* 0.7 + 0.2 + 0.1 means all */
    return EBB_OK;
}

/* Part of a row, or -1. */
static int part_of(const ebb_pack_t *p, int64_t row)
{
    if (!p->o.split)
        return 0;
    double u = (double)(ebb_rng_u64(p->o.split_seed, EBB_RNG_SPLIT, (uint64_t)row, 0) >> 11) * 0x1p-53;
    for (int i = 0; i < p->n_parts; i++)
        if (u < p->part[i].end)
            return i;
    return -1;
}

static ebb_status_t count_piece(void *user, int thread, int64_t piece)
{
    ebb_pack_t *p = user;
    for (int64_t row = p->piece_row0[piece]; row < p->piece_row0[piece + 1]; row++) {
        int part = part_of(p, row);
        if (part >= 0)
            p->part[part].before[piece + 1]++;
    }
    return EBB_OK;
}

static ebb_status_t count_parts(ebb_pack_t *p)
{
    for (int i = 0; i < p->n_parts; i++)
        EBB_TRY(EBB_NEW_ARRAY("rows of parts", p->n_pieces + 1, &p->part[i].before));
    if (!p->o.split)
        memcpy(p->part[0].before, p->piece_row0, (size_t)(p->n_pieces + 1) * sizeof(int64_t));
    else
        EBB_TRY(ebb_pool_run(p->pool, p->n_pieces, count_piece, p));
    for (int i = 0; i < p->n_parts; i++) {
        ebb_pack_part_t *part = &p->part[i];
        for (int64_t k = 0; p->o.split && k < p->n_pieces; k++)
            part->before[k + 1] += part->before[k];
        part->rows = part->before[p->n_pieces];
        if (part->rows == 0)
            return EBB_FAIL(EBB_EDATA, "no row of %lld falls to \"%s\"; give it a larger share or another --split-seed",
                            (long long)p->piece_row0[p->n_pieces], part->name);
    }
    return EBB_OK;
}

/* Rows per shard from the mean bytes of a row as stored uncompressed. */
static int64_t rows_per_shard(const ebb_pack_t *p)
{
    const ebb_scan_t *s = &p->scan;
    double value = (double)ebb_value_type_size(s->value_type), per_row;
    double nnz = (double)s->stats.nnz / (double)(s->stats.rows > 0 ? s->stats.rows : 1);
    if (s->sparse)
        per_row = 8 + nnz * (value + (s->cols <= 65536 ? 2 : 4));
    else
        per_row = (double)s->cols * value;
    per_row += 4 * (double)p->target.cols + (s->stats.any_weight ? 4 : 0);
    double rows = floor((double)p->o.shard_bytes / per_row);
    return rows < 1 ? 1 : rows > 0x1p40 ? (int64_t)1 << 40 : (int64_t)rows;
}

ebb_status_t ebb_pack_divide(ebb_pack_t *p)
{
    EBB_TRY(count_parts(p));
    p->shard_rows = rows_per_shard(p);
    for (int i = 0; i < p->n_parts; i++) {
        ebb_pack_part_t *part = &p->part[i];
        part->first_shard = p->n_shards;
        part->n_shards = (part->rows + p->shard_rows - 1) / p->shard_rows;
        p->n_shards += part->n_shards;
        part->plan = (ebb_dataset_plan_t){
            .name = part->title,
            .rows = part->rows,
            .cols = p->scan.cols,
            .nnz = (int64_t)((double)p->scan.stats.nnz / (double)p->scan.stats.rows * (double)part->rows),
            .sparse = p->scan.sparse,
            .value_type = p->scan.value_type,
            .target = p->target.kind,
            .target_cols = p->target.cols,
            .classes = p->target.kind == EBB_TARGET_CLASS ? p->target.classes.n : 0,
            .class_names = p->class_names,
            .weighted = p->scan.stats.any_weight,
            .n_fields = p->scan.n_fields,
            .fields = p->scan.fields,
            .shard_rows = p->shard_rows,
            .level = p->o.level,
            .provenance = p->provenance,
        };
        EBB_TRY(EBB_NEW_ARRAY("rows of classes", part->plan.classes + 1, &part->class_rows));
    }
    return EBB_NEW_ARRAY("shard summaries", p->n_shards, &p->summary);
}

static bool shard_is_mine(const ebb_pack_t *p, const ebb_pack_part_t *part, int64_t shard)
{
    return (part->first_shard + shard) % p->size == p->rank;
}

bool ebb_pack_piece_is_mine(const ebb_pack_t *p, int64_t piece)
{
    for (int i = 0; i < p->n_parts; i++) {
        const ebb_pack_part_t *part = &p->part[i];
        int64_t begin = part->before[piece], end = part->before[piece + 1];
        for (int64_t s = begin / p->shard_rows; begin < end && s <= (end - 1) / p->shard_rows; s++)
            if (shard_is_mine(p, part, s))
                return true;
    }
    return false;
}

/* Rows [begin, end) of a block as the writer wants them: row pointers from 0. */
static ebb_status_t append(ebb_pack_t *p, ebb_pack_part_t *part, const ebb_block_t *b, int64_t begin, int64_t end)
{
    int64_t n = end - begin, nz0 = 0;
    const int64_t *rowptr = NULL;
    if (b->sparse) {
        nz0 = b->rowptr[begin];
        rowptr = b->rowptr + begin;
    }
    if (nz0 > 0) {
        ebb_block_t *g = &p->gather;
        EBB_TRY(ebb_grow("row pointers", (void **)&g->rowptr, &g->row_cap, n + 1, sizeof *g->rowptr));
        for (int64_t i = 0; i <= n; i++)
            g->rowptr[i] = rowptr[i] - nz0;
        rowptr = g->rowptr;
    }
    for (int64_t i = begin; part->plan.classes > 0 && i < end; i++)
        part->class_rows[b->label[i]]++;
    return ebb_shard_writer_append(
        part->writer, n, rowptr, b->sparse ? b->col + nz0 : NULL, b->sparse ? b->val + nz0 : NULL,
        b->sparse ? NULL : b->x + begin * b->cols, b->label ? b->label + begin : NULL,
        b->y ? b->y + begin * part->plan.target_cols : NULL, part->plan.weighted ? b->weight + begin : NULL);
}

/* Rows [begin, end) of the block are rows q.. of the part: hand them to the shards that this rank writes. */
static ebb_status_t append_rows(ebb_pack_t *p, ebb_pack_part_t *part, const ebb_block_t *b, int64_t begin, int64_t end,
                                int64_t q)
{
    while (begin < end) {
        int64_t shard = q / p->shard_rows, left = (shard + 1) * p->shard_rows - q;
        int64_t n = end - begin < left ? end - begin : left;
        if (shard_is_mine(p, part, shard)) {
            if (!part->writer)
                EBB_TRY(ebb_shard_writer_create_with(part->dir, &part->plan, (int)shard, p->crew, &part->writer));
            EBB_TRY(append(p, part, b, begin, begin + n));
            if (n == left || q + n == part->rows) {
                EBB_TRY(ebb_shard_writer_commit(part->writer, &p->summary[part->first_shard + shard]));
                ebb_shard_writer_destroy(part->writer);
                part->writer = NULL;
            }
        }
        begin += n;
        q += n;
    }
    return EBB_OK;
}

static ebb_status_t gather_row(ebb_pack_t *p, const ebb_block_t *b, int64_t row)
{
    ebb_block_t *g = &p->gather;
    int64_t ycols = p->target.kind == EBB_TARGET_REAL ? p->target.cols : 0;
    if (b->sparse) {
        int64_t begin = b->rowptr[row], n = b->rowptr[row + 1] - begin;
        EBB_TRY(ebb_block_reserve(g, 1, n));
        if (n > 0) { /* before the first entry there are no arrays yet */
            memcpy(g->col + g->nnz, b->col + begin, (size_t)n * sizeof *g->col);
            memcpy(g->val + g->nnz, b->val + begin, (size_t)n * sizeof *g->val);
        }
        g->nnz += n;
        g->rowptr[g->rows + 1] = g->nnz;
    } else {
        g->cols = b->cols;
        EBB_TRY(ebb_block_reserve_dense(g, 1));
        memcpy(g->x + g->rows * g->cols, b->x + row * b->cols, (size_t)b->cols * sizeof *g->x);
    }
    if (p->target.kind == EBB_TARGET_CLASS) {
        EBB_TRY(ebb_grow("labels", (void **)&g->label, &g->label_cap, g->rows + 1, sizeof *g->label));
        g->label[g->rows] = b->label[row];
    }
    if (ycols > 0) {
        EBB_TRY(ebb_grow("targets", (void **)&g->y, &g->y_cap, (g->rows + 1) * ycols, sizeof *g->y));
        memcpy(g->y + g->rows * ycols, b->y + row * ycols, (size_t)ycols * sizeof *g->y);
    }
    if (p->scan.stats.any_weight) {
        EBB_TRY(ebb_grow("weights", (void **)&g->weight, &g->weight_cap, g->rows + 1, sizeof *g->weight));
        g->weight[g->rows] = b->weight[row];
    }
    g->rows++;
    return EBB_OK;
}

/* A part's own rows of a block, packed together. gather.rowptr serves append() only where rows begin at 0, so a part
 * that continues in a second shard within one piece is handed on in two goes. */
static ebb_status_t write_part(ebb_pack_t *p, int number, int64_t piece, const ebb_block_t *b)
{
    ebb_pack_part_t *part = &p->part[number];
    int64_t q = part->before[piece], end = part->before[piece + 1], row = 0;
    while (q < end) {
        int64_t stop = (q / p->shard_rows + 1) * p->shard_rows;
        stop = stop < end ? stop : end;
        bool mine = shard_is_mine(p, part, q / p->shard_rows);
        ebb_block_clear(&p->gather);
        p->gather.sparse = b->sparse;
        for (int64_t n = stop - q; n > 0; row++) {
            if (part_of(p, p->piece_row0[piece] + row) != number)
                continue;
            if (mine)
                EBB_TRY(gather_row(p, b, row));
            n--;
        }
        if (mine)
            EBB_TRY(append_rows(p, part, &p->gather, 0, p->gather.rows, q));
        q = stop;
    }
    return EBB_OK;
}

/* All targets and weights are there; a source without them among sources with them is refused. */
static ebb_status_t check_block(const ebb_pack_t *p, const ebb_block_t *b)
{
    int64_t labels = p->target.kind == EBB_TARGET_CLASS ? b->rows : 0;
    int64_t reals = p->target.kind == EBB_TARGET_REAL ? b->rows * p->target.cols : 0;
    if (b->labels_n != labels || b->y_n != reals)
        return EBB_FAIL(EBB_EDATA, "the sources do not agree: some rows have targets and some have none");
    if (p->scan.stats.any_weight && b->weights_n != b->rows)
        return EBB_FAIL(EBB_EDATA, "the sources do not agree: some rows have weights and some have none");
    return EBB_OK;
}

ebb_status_t ebb_pack_write_block(ebb_pack_t *p, int64_t piece, ebb_block_t *b)
{
    EBB_TRY(check_block(p, b));
    if (!p->o.split)
        return append_rows(p, &p->part[0], b, 0, b->rows, p->part[0].before[piece]);
    for (int i = 0; i < p->n_parts; i++)
        EBB_TRY(write_part(p, i, piece, b));
    return EBB_OK;
}
