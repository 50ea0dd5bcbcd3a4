/* ebb_pack: source files to data sets, in two passes.
 *
 * The scan parses everything once and keeps counts, sets and bounds: rows of every piece, columns, the smallest exact
 * value type, the labels. From these follow classes, parts and the row range of every shard, so that the write can give
 * shards to ranks and rows to shards without asking. Neither depends on how sources were cut or who parsed them: the
 * bytes of a data set depend on the sources and the options alone. Memory is bounded by pieces in flight. All functions
 * here are collective.
 */
#include "shard/pack.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/text.h"

#include <string.h>

enum {
    MIN_PIECE = 64 * 1024,
    PIECES = 32 /* for each thread */,
    MAX_TEXT_PIECE = 1024 * 1024,
    MAX_PIECE = 8 * 1024 * 1024,
    MAX_THREADS = 512
};

/* As many as asked for; of those nobody asked for only as many as the memory feeds. */
static ebb_status_t choose_threads(ebb_pack_t *p)
{
    int64_t fed = p->o.memory_bytes / (PIECES * MIN_PIECE);
    int wanted = p->o.threads > 0 ? p->o.threads : 1;
    if (wanted > MAX_THREADS)
        return EBB_FAIL(EBB_EUSAGE, "%d threads are too many; at most %d", wanted, MAX_THREADS);
    if (fed < wanted)
        return EBB_FAIL(EBB_EUSAGE, "--memory: %d thread%s at least %d MiB; give more%s", wanted,
                        wanted == 1 ? " needs" : "s need", wanted * (PIECES * MIN_PIECE >> 20),
                        wanted == 1 ? "" : ", or fewer --threads");
    if (p->o.threads <= 0)
        wanted = ebb_comm_cores(p->comm) < MAX_THREADS ? ebb_comm_cores(p->comm) : MAX_THREADS;
    p->threads = wanted < fed ? wanted : (int)fed;
    return EBB_OK;
}

static ebb_status_t set_defaults(ebb_pack_t *p, const ebb_pack_options_t *options)
{
    static const ebb_pack_options_t none;
    p->o = options ? *options : none;
    ebb_pack_options_t *o = &p->o;
    o->shard_bytes = o->shard_bytes > 0 ? o->shard_bytes : (int64_t)256 << 20;
    o->memory_bytes = o->memory_bytes > 0 ? o->memory_bytes : (int64_t)512 << 20;
    o->level = o->level != 0 ? o->level : 9;
    EBB_TRY(choose_threads(p));
    if (o->hash_bits > 30)
        return EBB_FAIL(EBB_EUSAGE, "--hash-bits %d: at most 30", o->hash_bits);
    if (o->dense && o->sparse)
        return EBB_FAIL(EBB_EUSAGE, "give one of --dense and --sparse");
    if (o->cols < 0 || o->cols > INT32_MAX)
        return EBB_FAIL(EBB_EUSAGE, "--cols %lld: from 1 to 2^31 - 1", (long long)o->cols);
    if (o->skip_lines < 0)
        return EBB_FAIL(EBB_EUSAGE, "--skip-lines %lld: at least 0", (long long)o->skip_lines);
    if (o->task && strcmp(o->task, "class") != 0 && strcmp(o->task, "real") != 0)
        return EBB_FAIL(EBB_EUSAGE, "--task \"%s\": either class or real", o->task);
    return ebb_pack_parse_split(p);
}

/* Pieces have one size on all ranks, from the smallest budget and the largest number of threads. A piece costs its text
 * and up to some four times that in parsed form; buffers grow by doubling, and the ring is longer than the crew. Text
 * is cut so small that it is still in the cache when it has been parsed; rows of arrays should be whole chunks. */
static ebb_status_t choose_piece_bytes(ebb_pack_t *p)
{
    int64_t share = p->o.memory_bytes / p->threads;
    EBB_TRY(ebb_comm_allreduce(p->comm, &share, 1, EBB_COMM_I64, EBB_MIN));
    int64_t bytes = share / PIECES, most = p->importer.format->text ? MAX_TEXT_PIECE : MAX_PIECE;
    p->piece_bytes = bytes > most ? most : bytes;
    p->line_limit = share / 4 > 4 * p->piece_bytes ? share / 4 : 4 * p->piece_bytes;
    return EBB_OK;
}

/* All sources must be of one format. */
static ebb_status_t choose_format(ebb_pack_t *p, const char *const *sources)
{
    const ebb_format_t *format = NULL;
    if (p->o.from) {
        EBB_TRY(ebb_format_find(p->o.from, &format));
    } else {
        for (int i = 0; i < p->n_sources; i++) {
            const ebb_format_t *f;
            ebb_status_t status = ebb_format_guess(sources[i], p->o.skip_lines, &f);
            if (status == EBB_EDATA)
                f = ebb_pack_like_format(p);
            if (!f)
                return status;
            if (format && f != format)
                return EBB_FAIL(EBB_EUSAGE,
                                "%s looks like %s, but %s like %s; pack them apart or name the format with --from",
                                sources[0], format->what, sources[i], f->what);
            format = f;
        }
    }
    p->importer.format = format;
    return p->o.skip_lines > 0 && !format->text
               ? EBB_FAIL(EBB_EUSAGE, "--skip-lines: %s has no lines; leave the option out", format->what)
               : EBB_OK;
}

/* The data begin behind the lines to skip. */
static ebb_status_t skip_lines(ebb_source_t *s, int64_t lines)
{
    char buf[32 * 1024];
    int64_t got = 1, wanted = lines;
    for (int64_t at = 0; lines > 0 && got > 0; at += got) {
        EBB_TRY(ebb_stream_read(s->stream, at, buf, sizeof buf, &got));
        for (const char *q = buf; lines > 0 && (q = memchr(q, '\n', (size_t)(buf + got - q))); lines--)
            s->begin = at + (++q - buf);
    }
    return lines > 0 ? EBB_FAIL(EBB_EDATA, "%s: has fewer than the %lld lines to skip", s->path, (long long)wanted)
                     : EBB_OK;
}

static ebb_status_t open_source(ebb_pack_t *p, ebb_source_t *s, const char *path)
{
    const ebb_format_t *f = p->importer.format;
    s->path = path;
    s->rows = s->end = -1;
    if (!f->own_files) {
        EBB_TRY(ebb_stream_open(path, &s->stream));
        s->sequential = ebb_stream_compressed(s->stream);
        s->end = s->sequential ? -1 : ebb_stream_file_bytes(s->stream);
    }
    if (f->text)
        EBB_TRY(skip_lines(s, p->o.skip_lines));
    if (f->open)
        EBB_TRY(f->open(&p->importer, s));
    p->in_bytes += s->stream ? ebb_stream_file_bytes(s->stream) : ebb_file_size(path);
    return EBB_OK;
}

static ebb_status_t open_sources(ebb_pack_t *p, const char *const *sources)
{
    if (p->n_sources < 1)
        return EBB_FAIL(EBB_EUSAGE, "name at least one source file");
    EBB_TRY(choose_format(p, sources));
    p->importer.options = &p->o;
    p->importer.comm = p->comm;
    p->importer.n_sources = p->n_sources;
    p->importer.index_base = -1;
    if (p->importer.format->create)
        EBB_TRY(p->importer.format->create(&p->importer));
    p->created = true;
    EBB_TRY(ebb_pack_like(p));
    EBB_TRY(EBB_NEW_ARRAY("sources", p->n_sources, &p->source));
    p->importer.source = p->source;
    EBB_TRY(EBB_NEW_ARRAY("pieces of sources", p->n_sources + 1, &p->first_piece));
    for (int i = 0; i < p->n_sources; i++)
        EBB_TRY(open_source(p, &p->source[i], sources[i]));
    EBB_TRY(ebb_pool_create(p->threads, &p->pool));
    EBB_TRY(ebb_crew_create(p->threads, &p->crew));
    return ebb_pack_passes_begin(p);
}

typedef struct quote_count {
    ebb_pack_t *p;
    ebb_source_t *source;
    int64_t *count;
} quote_count_t;

static ebb_status_t count_quotes(void *user, int thread, int64_t index)
{
    quote_count_t *q = user;
    char buf[64 * 1024];
    int64_t number = index * q->p->size + q->p->rank, at = q->source->begin + number * q->p->piece_bytes;
    int64_t end = at + q->p->piece_bytes < q->source->end ? at + q->p->piece_bytes : q->source->end;
    for (int64_t got = 1; at < end && got > 0; at += got) {
        EBB_TRY(ebb_stream_read(q->source->stream, at, buf,
                                end - at < (int64_t)sizeof buf ? end - at : (int64_t)sizeof buf, &got));
        for (const char *c = buf; (c = memchr(c, '"', (size_t)(buf + got - c))); c++)
            q->count[number]++;
    }
    return EBB_OK;
}

/* Whether each nominal piece of a plain text with quotes begins inside quotes: by the parity of the quotes before it.
 */
static ebb_status_t find_quotes(ebb_pack_t *p, ebb_source_t *s)
{
    int64_t pieces = (s->end - s->begin + p->piece_bytes - 1) / p->piece_bytes, sum = 0;
    quote_count_t q = {p, s, NULL};
    ebb_status_t status = EBB_NEW_ARRAY("quotes", pieces + 1, &q.count);
    if (status == EBB_OK)
        status = EBB_NEW_ARRAY("quotes", pieces + 2, &s->quoted);
    if (status == EBB_OK)
        status = ebb_pool_run(p->pool, (pieces - p->rank + p->size - 1) / p->size, count_quotes, &q);
    status = ebb_comm_agree(p->comm, status);
    if (status == EBB_OK)
        status = ebb_comm_allreduce(p->comm, q.count, pieces + 1, EBB_COMM_I64, EBB_SUM);
    for (int64_t i = 0; status == EBB_OK && i <= pieces; i++) {
        s->quoted[i] = sum & 1;
        sum += q.count[i];
    }
    ebb_free(q.count);
    return status;
}

static bool scan_is_mine(const ebb_pack_t *p, int64_t piece)
{
    return piece % p->size == p->rank;
}

static ebb_status_t scan_block(ebb_pack_t *p, int64_t piece, ebb_block_t *block)
{
    if (block->rows == 0)
        return EBB_OK;
    ebb_block_stats_add(&p->scan.stats, block);
    EBB_TRY(ebb_labels_merge(&p->scan.labels, &block->labels));
    ebb_labels_clear(&block->labels);
    return EBB_OK;
}

static ebb_status_t exchange_labels(ebb_pack_t *p)
{
    char *mine = NULL, *all = NULL;
    int64_t bytes = 0, total = 0, *counts = NULL, *displs = NULL;
    ebb_status_t status = ebb_labels_pack(&p->scan.labels, &mine, &bytes);
    if (status == EBB_OK)
        status = EBB_NEW_ARRAY("label sizes", p->size, &counts);
    if (status == EBB_OK)
        status = EBB_NEW_ARRAY("label offsets", p->size, &displs);
    EBB_TRY_GOTO(status, ebb_comm_agree(p->comm, status), done);
    EBB_TRY_GOTO(status, ebb_comm_allgather(p->comm, &bytes, 8, counts), done);
    for (int r = 0; r < p->size; r++) {
        displs[r] = total;
        total += counts[r];
    }
    EBB_TRY_GOTO(status, ebb_comm_agree(p->comm, ebb_alloc("labels of all ranks", (size_t)total, (void **)&all)), done);
    EBB_TRY_GOTO(status, ebb_comm_allgatherv(p->comm, mine, bytes, all, counts, displs), done);
    for (int r = 0; r < p->size && status == EBB_OK; r++)
        if (r != p->rank)
            status = ebb_labels_unpack(&p->scan.labels, all + displs[r], counts[r]);
    status = ebb_comm_agree(p->comm, status);
done:
    ebb_free(mine);
    ebb_free(all);
    ebb_free(counts);
    ebb_free(displs);
    return status;
}

/* Sum and bounds of what the ranks found, and the rows of all pieces. */
static ebb_status_t exchange_stats(ebb_pack_t *p)
{
    ebb_block_stats_t *s = &p->scan.stats;
    int64_t sums[2] = {s->rows, s->nnz}, bits = (int64_t)(~s->fits & 0x7f),
            top[3] = {s->max_col, s->any_weight, s->target_cols};
    EBB_TRY(ebb_comm_allreduce(p->comm, sums, 2, EBB_COMM_I64, EBB_SUM));
    EBB_TRY(ebb_comm_allreduce(p->comm, &bits, 1, EBB_COMM_I64, EBB_BOR));
    EBB_TRY(ebb_comm_allreduce(p->comm, &s->min_col, 1, EBB_COMM_I64, EBB_MIN));
    EBB_TRY(ebb_comm_allreduce(p->comm, top, 3, EBB_COMM_I64, EBB_MAX));
    s->rows = sums[0];
    s->nnz = sums[1];
    s->fits = ~(uint32_t)bits & 0x7f;
    s->max_col = top[0];
    s->any_weight = top[1] != 0;
    s->target_cols = top[2];
    EBB_TRY(ebb_comm_allreduce(p->comm, p->piece_rows, p->n_pieces, EBB_COMM_I64, EBB_SUM));
    EBB_TRY(EBB_NEW_ARRAY("first rows of pieces", p->n_pieces + 1, &p->piece_row0));
    for (int64_t i = 0; i < p->n_pieces; i++)
        p->piece_row0[i + 1] = p->piece_row0[i] + p->piece_rows[i];
    return exchange_labels(p);
}

static bool few_integers(const ebb_labels_t *l, int64_t rows)
{
    return !l->fractions && !l->overflow && (l->n <= 20 || (l->n <= 1000 && l->n * 2 <= rows));
}

/* What nobody named is not guessed, but a model cannot be trained without. */
static void tell_of_no_targets(const ebb_pack_t *p)
{
    const char *targets = p->importer.format->targets;
    if (targets && p->rank == 0)
        EBB_WARN("pack", "there are no targets; if the source has some, name %s with --target", targets);
}

/* Classes or reals, from --task or from the labels. */
static ebb_status_t choose_target(ebb_pack_t *p)
{
    const ebb_labels_t *l = &p->scan.labels;
    const char *task = p->o.task ? p->o.task : "";
    bool texts = l->n_chars > 0, real = strcmp(task, "real") == 0, class = strcmp(task, "class") == 0;
    if (l->n == 0 && p->scan.stats.target_cols == 0 && !*task)
        tell_of_no_targets(p);
    if (p->o.like)
        return EBB_OK;
    if (p->scan.stats.target_cols > 0) {
        p->target.kind = EBB_TARGET_REAL;
        p->target.cols = p->scan.stats.target_cols;
        return class ? EBB_FAIL(EBB_EUSAGE, "--task class: the targets have %lld columns", (long long)p->target.cols)
                     : EBB_OK;
    }
    if (l->n == 0)
        return *task ? EBB_FAIL(EBB_EUSAGE, "--task %s: the sources have no targets; name them with --target", task)
                     : EBB_OK;
    if (real && texts)
        return EBB_FAIL(EBB_EDATA, "--task real: there are targets that are no numbers, such as \"%.*s\"",
                        (int)(l->n_chars < 40 ? l->n_chars : 40), l->chars);
    if ((class || texts) && l->overflow)
        return EBB_FAIL(EBB_EDATA, "the targets have more than %d different values; no set of classes%s",
                        EBB_LABELS_MAX, texts ? "" : ", use --task real");
    p->target.cols = 1;
    p->target.kind =
        class || texts || (!real && few_integers(l, p->scan.stats.rows)) ? EBB_TARGET_CLASS : EBB_TARGET_REAL;
    if (p->target.kind == EBB_TARGET_REAL)
        return EBB_OK;
    EBB_TRY(ebb_labels_merge(&p->target.classes, l));
    return ebb_labels_sort(&p->target.classes);
}

static ebb_status_t name_classes(ebb_pack_t *p)
{
    int64_t n = p->target.kind == EBB_TARGET_CLASS ? p->target.classes.n : 0;
    EBB_TRY(EBB_NEW_ARRAY("class names", n + 1, &p->class_name));
    EBB_TRY(EBB_NEW_ARRAY("class names", n + 1, &p->class_names));
    for (int64_t i = 0; i < n; i++) {
        ebb_labels_name(&p->target.classes, i, p->class_name[i]);
        p->class_names[i] = p->class_name[i];
    }
    return EBB_OK;
}

/* Columns, layout and value type. */
static ebb_status_t choose_shape(ebb_pack_t *p)
{
    ebb_scan_t *s = &p->scan;
    const ebb_format_t *f = p->importer.format;
    s->cols = s->stats.max_col + 1;
    s->value_type = ebb_block_stats_type(&s->stats);
    s->sparse = !f->dense;
    if (s->stats.rows == 0)
        return EBB_FAIL(EBB_EDATA, "%s: there is no row in it", p->source[0].path);
    if (f->settle)
        EBB_TRY(f->settle(&p->importer, s));
    if (p->o.cols > 0) {
        if (!s->sparse && p->o.cols != s->cols)
            return EBB_FAIL(EBB_EDATA, "%s: rows have %lld columns, not the %lld asked for", p->source[0].path,
                            (long long)s->cols, (long long)p->o.cols);
        s->cols = p->o.cols;
    }
    if (s->cols < 1)
        return EBB_FAIL(EBB_EDATA, "%s: no row has an entry, so there are no columns; give --cols if that is meant",
                        p->source[0].path);
    s->sparse = p->o.sparse ? true : p->o.dense ? false : s->sparse;
    return EBB_OK;
}

static ebb_status_t scan(ebb_pack_t *p)
{
    ebb_block_stats_init(&p->scan.stats);
    for (int i = 0; i < p->n_sources && p->importer.format->quotes; i++)
        if (!p->source[i].sequential)
            EBB_TRY(find_quotes(p, &p->source[i]));
    EBB_TRY(ebb_comm_agree(p->comm, ebb_pack_hash_begin(p)));
    EBB_TRY(ebb_pack_agree(p, ebb_pack_pass(p, EBB_PASS_SCAN, scan_is_mine, scan_block)));
    EBB_TRY(ebb_pack_hash_end(p));
    EBB_TRY(exchange_stats(p));
    ebb_status_t status = choose_shape(p);
    if (status == EBB_OK)
        status = choose_target(p);
    if (status == EBB_OK)
        status = name_classes(p);
    if (status == EBB_OK)
        status = ebb_pack_provenance(p);
    if (status == EBB_OK)
        status = ebb_pack_divide(p);
    return ebb_comm_agree(p->comm, status);
}

/* Summaries and class counts of all ranks: each shard was written by one of them, the others have zeros. */
static ebb_status_t exchange_summaries(ebb_pack_t *p)
{
    _Static_assert(sizeof(ebb_shard_summary_t) % 8 == 0, "summaries are exchanged as words");
    EBB_TRY(ebb_comm_allreduce(p->comm, p->summary, p->n_shards * (int64_t)(sizeof *p->summary / 8), EBB_COMM_I64,
                               EBB_BOR));
    for (int i = 0; i < p->n_parts; i++)
        EBB_TRY(ebb_comm_allreduce(p->comm, p->part[i].class_rows, p->part[i].plan.classes, EBB_COMM_I64, EBB_SUM));
    return EBB_OK;
}

static void close_writers(ebb_pack_t *p)
{
    for (int i = 0; i < p->n_parts; i++) {
        ebb_shard_writer_destroy(p->part[i].writer);
        p->part[i].writer = NULL;
    }
}

static ebb_status_t write_shards(ebb_pack_t *p)
{
    ebb_status_t status = ebb_pack_pass(p, EBB_PASS_WRITE, ebb_pack_piece_is_mine, ebb_pack_write_block);
    close_writers(p);
    EBB_TRY(ebb_pack_agree(p, status));
    EBB_TRY(exchange_summaries(p));
    return ebb_pack_place_commit(p);
}

static void report(const ebb_pack_t *p, int64_t begun_ns)
{
    char rows[32], nnz[32], in[32], out[32];
    int64_t bytes = 0, entries = 0;
    for (int64_t i = 0; i < p->n_shards; i++) {
        bytes += p->summary[i].bytes;
        entries += p->summary[i].nnz;
    }
    EBB_INFO("pack", "%s: %s rows, %lld columns, %s %s, %lld shard%s; %s in, %s out, %.1f s", p->dest,
             ebb_format_count((double)p->scan.stats.rows, rows, sizeof rows), (long long)p->scan.cols,
             ebb_format_count((double)entries, nnz, sizeof nnz), p->scan.sparse ? "non-zeros" : "values",
             (long long)p->n_shards, p->n_shards == 1 ? "" : "s", ebb_format_bytes((double)p->in_bytes, in, sizeof in),
             ebb_format_bytes((double)bytes, out, sizeof out), (double)(ebb_now_ns() - begun_ns) * 1e-9);
}

static void free_part(ebb_pack_part_t *part)
{
    ebb_free(part->dir);
    ebb_free(part->title);
    ebb_free(part->before);
    ebb_free(part->class_rows);
}

static void cleanup(ebb_pack_t *p)
{
    const ebb_format_t *f = p->importer.format;
    ebb_pack_hash_destroy(p);
    close_writers(p);
    ebb_pack_place_abandon(p);
    ebb_pack_passes_end(p);
    for (int i = 0; p->source && i < p->n_sources; i++) {
        if (f->close)
            f->close(&p->importer, &p->source[i]);
        ebb_stream_close(p->source[i].stream);
        ebb_stream_close(p->source[i].side);
        ebb_free(p->source[i].quoted);
    }
    if (p->created && f->destroy)
        f->destroy(&p->importer);
    for (int i = 0; i < EBB_PACK_MAX_PARTS; i++)
        free_part(&p->part[i]);
    ebb_pool_destroy(p->pool);
    ebb_crew_destroy(p->crew);
    ebb_block_free(&p->gather);
    ebb_labels_free(&p->scan.labels);
    ebb_labels_free(&p->target.classes);
    ebb_free(p->source);
    ebb_free(p->first_piece);
    ebb_free(p->piece_rows);
    ebb_free(p->piece_row0);
    ebb_free(p->class_name);
    ebb_free(p->class_names);
    ebb_free(p->summary);
    ebb_free(p->tmp);
    ebb_free(p->provenance);
    ebb_free((void *)p->dest);
}

static ebb_status_t prepare(ebb_pack_t *p, int n_sources, const char *const *sources, const char *dest,
                            const ebb_pack_options_t *options)
{
    p->dest = ebb_strdup(dest);
    if (!p->dest)
        return EBB_FAIL(EBB_ENOMEM, "no memory for a path");
    for (size_t n = strlen(p->dest); n > 1 && p->dest[n - 1] == '/'; n--)
        ((char *)p->dest)[n - 1] = 0;
    if (!*dest)
        return EBB_FAIL(EBB_EUSAGE, "the destination has no name");
    EBB_TRY(set_defaults(p, options));
    p->n_sources = n_sources;
    return open_sources(p, sources);
}

static ebb_status_t pack(ebb_pack_t *p, int n_sources, const char *const *sources, const char *dest,
                         const ebb_pack_options_t *options)
{
    EBB_TRY(ebb_comm_agree(p->comm, prepare(p, n_sources, sources, dest, options)));
    EBB_TRY(choose_piece_bytes(p));
    EBB_TRY(ebb_pack_place_begin(p));
    EBB_TRY(scan(p));
    return write_shards(p);
}

ebb_status_t ebb_pack(ebb_comm_t *comm, int n_sources, const char *const *sources, const char *dest,
                      const ebb_pack_options_t *options)
{
    ebb_pack_t *p;
    int64_t begun = ebb_now_ns();
    EBB_TRY(ebb_comm_agree(comm, EBB_NEW("packer", &p)));
    p->comm = comm;
    p->rank = ebb_comm_rank(comm);
    p->size = ebb_comm_size(comm);
    p->lock = -1;
    ebb_status_t status = pack(p, n_sources, sources, dest, options);
    if (status == EBB_OK && p->o.progress)
        report(p, begun);
    cleanup(p);
    ebb_free(p);
    return status;
}
