/* CSV and TSV (RFC 4180): every row becomes a sparse row of encoded columns.
 *
 * Numeric: the value (or its logarithm, or standardised, or one of N bins of equal weight) and an extra column where a
 * value is missing; categorical: one column of a hashed range, the last of which stands for a missing value; text:
 * counts of its hashed words. The scan learns which columns have gaps, and means and bins; the layout is settled after
 * it.
 */
#include "shard/import/csv.h"
#include "base/alloc.h"
#include "shard/import/number.h"
#include "shard/import/tokens.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* Undo a quoted cell whose opening quote is at p; returns the character after the closing one, or NULL if there is
 * none. */
static char *cut_quoted(char *p, char *end, csv_cell_t *cell, int64_t *line_p)
{
    char *out = ++p;
    cell->text = out;
    cell->quoted = true;
    while (p < end) {
        if (*p == '"' && p[1] == '"' && p + 1 < end) {
            *out++ = '"';
            p += 2;
        } else if (*p == '"') {
            cell->bytes = out - cell->text;
            return p + 1;
        } else {
            *line_p += *p == '\n';
            *out++ = *p++;
        }
    }
    return NULL;
}

static bool blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static ebb_status_t cut_cell(char **p_p, char *end, char delimiter, csv_cell_t *cell, int64_t *line_p)
{
    char *p = *p_p;
    while (p < end && blank(*p) && *p != delimiter)
        p++;
    cell->quoted = false;
    if (p < end && *p == '"') {
        p = cut_quoted(p, end, cell, line_p);
        if (!p)
            return EBB_FAIL(EBB_EDATA, "a quote is never closed");
        while (p < end && blank(*p) && *p != delimiter)
            p++;
        if (p < end && *p != delimiter && *p != '\n')
            return EBB_FAIL(EBB_EDATA,
                            "characters after a closing quote; double the quotes inside quoted cells (RFC 4180)");
        *p_p = p;
        return EBB_OK;
    }
    cell->text = p;
    for (; p < end && *p != delimiter && *p != '\n'; p++)
        if (*p == '"')
            return EBB_FAIL(EBB_EDATA,
                            "a quote inside a cell that is not quoted; quote the cell and double the quote (RFC 4180)");
    *p_p = p;
    while (p > cell->text && blank(p[-1]))
        p--;
    cell->bytes = p - cell->text;
    return EBB_OK;
}

ebb_status_t csv_cut(char **p_p, char *end, char delimiter, int max, csv_cell_t *cells, int *n_p, int64_t *line_p)
{
    csv_cell_t extra;
    char *p = *p_p;
    for (*n_p = 0;; p++) {
        EBB_TRY(cut_cell(&p, end, delimiter, *n_p < max ? &cells[*n_p] : &extra, line_p));
        ++*n_p;
        if (p >= end || *p == '\n')
            break;
    }
    *p_p = p < end ? p + 1 : p;
    ++*line_p;
    return EBB_OK;
}

bool csv_is_missing(const csv_cell_t *cell)
{
    static const char *const words[] = {"?", "NA", "N/A", "nan", "null", "none"};
    if (cell->bytes == 0)
        return true;
    for (size_t i = 0; i < sizeof words / sizeof *words && cell->bytes <= 4; i++)
        if ((size_t)cell->bytes == strlen(words[i]) && strncasecmp(cell->text, words[i], (size_t)cell->bytes) == 0)
            return true;
    return false;
}

/* What one piece adds to a column's statistics in the scan. */
typedef struct gathered {
    int64_t missing, count;
    ebb_exact_t sum, squares;
} gathered_t;

static ebb_status_t put(ebb_block_t *b, int32_t col, float val)
{
    if (val == 0)
        return EBB_OK;
    EBB_TRY(ebb_block_reserve(b, 1, 1));
    b->col[b->nnz] = col;
    b->val[b->nnz++] = val;
    return EBB_OK;
}

static int bin_of(const csv_column_t *c, float v)
{
    int lo = 0, hi = c->n_edges;
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (c->edge[mid] <= v)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void gather(csv_column_t *c, gathered_t *g, float v)
{
    g->count++;
    if (c->transform == CSV_STANDARD) {
        ebb_exact_add(&g->sum, v);
        ebb_exact_add(&g->squares, (double)v * v);
    } else if (c->transform == CSV_BINS) {
        __atomic_fetch_add(&c->buckets[csv_bucket(v)], 1, __ATOMIC_RELAXED);
    }
}

static ebb_status_t not_a_number(const csv_column_t *c, const csv_cell_t *cell)
{
    return EBB_FAIL(
        EBB_EDATA,
        "column \"%s\": \"%.*s\" is not a finite number; if the column is not numeric, say --columns %s:categorical",
        c->name, (int)(cell->bytes < 40 ? cell->bytes : 40), cell->text, c->name);
}

/* The text of a cell is ended by a delimiter, a quote or a blank, never by a digit, so a number stops there by itself.
 */
static bool cell_number(const csv_cell_t *cell, double *v)
{
    return ebb_number_whole(cell->text, cell->bytes, v) && isfinite((float)*v);
}

static ebb_status_t put_numeric(csv_column_t *c, gathered_t *g, const csv_cell_t *cell, ebb_block_t *b)
{
    double number;
    if (csv_is_missing(cell)) {
        if (g)
            g->missing++;
        return c->missing >= 0 ? put(b, c->missing, 1) : EBB_OK;
    }
    if (!cell_number(cell, &number))
        return not_a_number(c, cell);
    float v = (float)number;
    if (g)
        gather(c, g, v);
    switch (c->transform) {
    case CSV_LOG1P: return put(b, c->begin, copysignf((float)log1p(fabs((double)v)), v));
    case CSV_STANDARD: return put(b, c->begin, g ? v : (float)(((double)v - c->mean) / c->deviation));
    case CSV_BINS: return put(b, c->begin + bin_of(c, v), 1);
    default: return put(b, c->begin, v);
    }
}

/* trim: characters to take off its end. */
static ebb_status_t put_target(const csv_column_t *c, const csv_cell_t *cell, const char *trim, ebb_block_t *b)
{
    double v;
    int64_t n = cell->bytes;
    if (csv_is_missing(cell))
        return EBB_FAIL(EBB_EDATA, "column \"%s\": the target is missing; take such rows out", c->name);
    while (n > 1 && strchr(trim, cell->text[n - 1]))
        n--;
    if (ebb_number_whole(cell->text, n, &v))
        return ebb_block_target_number(b, v);
    return ebb_block_target_text(b, cell->text, n);
}

static ebb_status_t put_cell(const csv_t *csv, csv_column_t *c, gathered_t *g, const csv_cell_t *cell, ebb_block_t *b)
{
    ebb_hash_range_t range = {c->begin, (uint32_t)(c->end - c->begin), 0};
    int64_t from = b->nnz;
    double w;
    switch (c->kind) {
    case CSV_NUMERIC: return put_numeric(c, g, cell, b);
    case CSV_CATEGORICAL:
        range.columns--; /* the last one is for missing values */
        return csv_is_missing(cell) ? put(b, c->missing, 1) : ebb_tokens_put(b, &range, cell->text, cell->bytes);
    case CSV_TEXT:
        EBB_TRY(ebb_tokens_words(b, &range, cell->text, cell->bytes));
        return ebb_tokens_merge(b, from, false);
    case CSV_TARGET: return put_target(c, cell, csv->trim, b);
    case CSV_WEIGHT: return cell_number(cell, &w) ? ebb_block_weight(b, (float)w) : not_a_number(c, cell);
    default: return EBB_OK;
    }
}

static ebb_status_t wrong_width(const csv_t *csv, int n)
{
    char delimiter[8];
    snprintf(delimiter, sizeof delimiter, csv->delimiter == '\t' ? "tab" : "'%c'", csv->delimiter);
    return EBB_FAIL(EBB_EDATA,
                    "%d cell%s, but there are %d columns (delimiter %s); mend the row, or leave out lines before the "
                    "data with --skip-lines",
                    n, n == 1 ? "" : "s", csv->n, delimiter);
}

static ebb_status_t parse_row(csv_t *csv, gathered_t *g, const csv_cell_t *cells, int n, ebb_block_t *b)
{
    if (n != csv->n)
        return wrong_width(csv, n);
    EBB_TRY(ebb_block_reserve(b, 1, 0));
    for (int i = 0; i < n; i++)
        EBB_TRY(put_cell(csv, &csv->column[i], g ? &g[i] : NULL, &cells[i], b));
    return ebb_block_end_row(b);
}

static ebb_status_t parse_rows(csv_t *csv, gathered_t *g, csv_cell_t *cells, ebb_piece_t *piece, ebb_block_t *b)
{
    char *p = piece->text, *end = piece->text + piece->bytes;
    for (int64_t line = 1, next = 1; p < end; line = next) {
        int n;
        ebb_status_t status = csv_cut(&p, end, csv->delimiter, csv->n, cells, &n, &next);
        bool empty = status == EBB_OK && n == 1 && cells[0].bytes == 0 && !cells[0].quoted;
        if (status == EBB_OK && !empty)
            status = parse_row(csv, g, cells, n, b);
        if (status != EBB_OK) {
            b->bad_line = line;
            return status;
        }
    }
    return EBB_OK;
}

static void merge_gathered(csv_t *csv, gathered_t *g)
{
    pthread_mutex_lock(&csv->lock);
    for (int i = 0; i < csv->n; i++) {
        csv_column_t *c = &csv->column[i];
        c->any_missing |= g[i].missing > 0;
        c->count += g[i].count;
        if (c->transform == CSV_STANDARD) {
            ebb_exact_normalize(&g[i].sum);
            ebb_exact_normalize(&g[i].squares);
            ebb_exact_merge(&c->sum, &g[i].sum);
            ebb_exact_merge(&c->squares, &g[i].squares);
            ebb_exact_normalize(&c->sum);
            ebb_exact_normalize(&c->squares);
        }
    }
    pthread_mutex_unlock(&csv->lock);
}

static ebb_status_t csv_parse(const ebb_importer_t *importer, const ebb_source_t *source, ebb_piece_t *piece,
                              ebb_block_t *b)
{
    csv_t *csv = importer->state;
    csv_cell_t *cells = NULL;
    gathered_t *g = NULL;
    ebb_status_t status = EBB_NEW_ARRAY("cells of a row", csv->n, &cells);
    if (status == EBB_OK && b->pass == EBB_PASS_SCAN)
        status = EBB_NEW_ARRAY("column statistics", csv->n, &g);
    if (status == EBB_OK)
        status = parse_rows(csv, g, cells, piece, b);
    if (status == EBB_OK && g)
        merge_gathered(csv, g);
    ebb_free(cells);
    ebb_free(g);
    return status;
}

static int64_t csv_boundary(const char *text, int64_t n, int64_t pos, bool quoted)
{
    if (pos == 0 || (!quoted && pos <= n && text[pos - 1] == '\n'))
        return pos;
    for (int64_t i = pos; i < n; i++) {
        quoted ^= text[i] == '"';
        if (!quoted && text[i] == '\n')
            return i + 1;
    }
    return -1;
}

static ebb_status_t csv_create(ebb_importer_t *importer)
{
    csv_t *csv;
    EBB_TRY(EBB_NEW("CSV importer", &csv));
    csv->target = csv->weight = -1;
    csv->delimiter = importer->format == &ebb_format_tsv ? '\t' : importer->options->delimiter;
    csv->header = !importer->options->no_header;
    csv->first_line = importer->options->skip_lines + 1;
    csv->trim = importer->options->trim_target ? importer->options->trim_target : "";
    pthread_mutex_init(&csv->lock, NULL);
    importer->state = csv;
    return EBB_OK;
}

static void csv_destroy(ebb_importer_t *importer)
{
    csv_t *csv = importer->state;
    if (!csv)
        return;
    for (int i = 0; i < csv->n; i++) {
        ebb_free(csv->column[i].buckets);
        ebb_free(csv->column[i].edge);
    }
    ebb_free(csv->column);
    ebb_free(csv->fields);
    pthread_mutex_destroy(&csv->lock);
    ebb_free(csv);
}

enum { HEAD_BYTES = 1 << 20 };

static ebb_status_t csv_open(ebb_importer_t *importer, ebb_source_t *source)
{
    char *head;
    int64_t n, header = 0;
    EBB_TRY(ebb_alloc("head of a source", HEAD_BYTES + 2, (void **)&head));
    ebb_status_t status = ebb_stream_read(source->stream, source->begin, head, HEAD_BYTES, &n);
    if (status == EBB_OK)
        status = csv_columns_begin(importer->state, importer->options, source->path, head, n, &header);
    source->begin += header;
    ebb_free(head);
    return status;
}

static ebb_status_t csv_settle(ebb_importer_t *importer, ebb_scan_t *scan)
{
    return csv_columns_settle(importer->state, importer->options, importer->comm, scan);
}

static json_t *csv_encoding(const ebb_importer_t *importer)
{
    return csv_columns_json(importer->state);
}

static ebb_status_t csv_adopt(ebb_importer_t *importer, const json_t *encoding)
{
    return csv_columns_adopt(importer->state, encoding);
}

/* Text whose first lines hold equally many delimiters, at least one. */
static int table_probe(const char *head, int64_t n, char delimiter)
{
    int64_t line = 1, lines = 0;
    int width = 0;
    char text[16 * 1024];
    int64_t size = n < (int64_t)sizeof text - 1 ? n : (int64_t)sizeof text - 1;
    if (memchr(head, 0, (size_t)size))
        return 0;
    memcpy(text, head, (size_t)size);
    char *p = text, *end = text + size;
    *end = '\n';
    while (p < end && lines < 8) {
        csv_cell_t cell;
        char *begin = p;
        int cells;
        if (csv_cut(&p, end, delimiter, 1, &cell, &cells, &line) != EBB_OK) {
            ebb_error_clear();
            break;
        }
        if (p >= end && size < n) /* the line is cut off */
            break;
        if (p - begin <= 1)
            continue;
        if (cells < 2 || (width && cells != width))
            return width && lines > 1 && delimiter != ' ' ? 20 : 0;
        width = cells;
        lines++;
    }
    return lines > 1 ? 40 : 0;
}

static int csv_probe(const char *head, int64_t n, const char *path)
{
    int a = table_probe(head, n, ','), b = table_probe(head, n, ';'), c = table_probe(head, n, '|');
    a = a > b ? a : b;
    return a > c ? a : c;
}

static int tsv_probe(const char *head, int64_t n, const char *path)
{
    int sure = table_probe(head, n, '\t');
    return sure ? sure + 1 : 0;
}

#define CSV_OPERATIONS                                                                                                 \
    .text = true, .quotes = true, .targets = "their column", .create = csv_create, .destroy = csv_destroy,             \
    .open = csv_open, .boundary = csv_boundary, .parse = csv_parse, .settle = csv_settle, .encoding = csv_encoding,    \
    .adopt = csv_adopt

const ebb_format_t ebb_format_csv = {
    .name = "csv", .what = "comma-separated values", .probe = csv_probe, CSV_OPERATIONS};
const ebb_format_t ebb_format_tsv = {.name = "tsv", .what = "tab-separated values", .probe = tsv_probe, CSV_OPERATIONS};
