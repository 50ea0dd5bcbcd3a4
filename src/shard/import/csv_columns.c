/* Columns of a CSV file: their names and kinds from the header, the options and a sample; what the scan learned of
 * them; the layout of output columns; and the same as JSON, so that another file can be encoded alike.
 */
#include "shard/import/csv.h"
#include "base/alloc.h"
#include "base/text.h"
#include "shard/import/number.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_COLUMNS = 100000, SAMPLE_ROWS = 1000, LONG_TEXT = 40, DEFAULT_BITS = 18, LEAST_BITS = 12 };

static const char *const kind_names[] = {"", "numeric", "categorical", "text", "target", "weight", "ignore", NULL};
static const char *const transform_names[] = {"", "log1p", "standard", "bins", NULL};

uint32_t csv_bucket(float value)
{
    uint32_t u;
    memcpy(&u, &value, 4);
    u = u >> 31 ? ~u : u | 0x80000000u;
    return u >> 16;
}

float csv_bucket_floor(uint32_t bucket)
{
    uint32_t u = bucket << 16;
    float value;
    u = u >> 31 ? u & 0x7fffffffu : ~u;
    /* in the negative half the least value of a bucket has all lower bits set, which ~ has done */
    memcpy(&value, &u, 4);
    return value;
}

/* ---- names and kinds ---- */

static int find_column(const csv_t *csv, const char *name, size_t n)
{
    for (int i = 0; i < csv->n; i++)
        if (strlen(csv->column[i].name) == n && strncmp(csv->column[i].name, name, n) == 0)
            return i;
    return -1;
}

static ebb_status_t no_column(const csv_t *csv, const char *what, const char *name, int n)
{
    const char *names[65] = {0};
    char word[128];
    for (int i = 0; i < csv->n && i < 64; i++)
        names[i] = csv->column[i].name;
    snprintf(word, sizeof word, "%.*s", n, name);
    const char *nearest = ebb_text_nearest(word, names);
    return EBB_FAIL(EBB_EUSAGE, "%s: there is no column \"%s\"; %s \"%s\"%s", what, word,
                    nearest ? "did you mean" : "the first is", nearest ? nearest : csv->column[0].name,
                    nearest ? "?" : "");
}

static ebb_status_t bad_kind(const char *text, int n)
{
    char word[64];
    snprintf(word, sizeof word, "%.*s", n, text);
    const char *nearest = ebb_text_nearest(word, kind_names + 1);
    return EBB_FAIL(EBB_EUSAGE,
                    "--columns: unknown kind \"%s\"%s%s%s; there are numeric[:log1p|:standard|:bins=N], categorical, "
                    "text, target, weight, ignore",
                    word, nearest ? ", did you mean \"" : "", nearest ? nearest : "", nearest ? "\"" : "");
}

static ebb_status_t set_transform(csv_column_t *c, const char *text, int n)
{
    for (int i = 1; transform_names[i]; i++) {
        int len = (int)strlen(transform_names[i]);
        if (n < len || strncmp(text, transform_names[i], (size_t)len) != 0)
            continue;
        c->transform = (csv_transform_t)i;
        if (i != CSV_BINS)
            return n == len ? EBB_OK : bad_kind(text, n);
        c->bins = text[len] == '=' ? atoi(text + len + 1) : 0;
        return c->bins >= 2 && c->bins <= EBB_CSV_MAX_BINS
                   ? EBB_OK
                   : EBB_FAIL(EBB_EUSAGE, "--columns: bins=N takes from 2 to %d bins", EBB_CSV_MAX_BINS);
    }
    return bad_kind(text, n);
}

/* "kind[:transform]" */
static ebb_status_t set_kind(csv_column_t *c, const char *text, int n)
{
    const char *colon = memchr(text, ':', (size_t)n);
    int len = colon ? (int)(colon - text) : n;
    for (int i = 1; kind_names[i]; i++)
        if ((int)strlen(kind_names[i]) == len && strncmp(kind_names[i], text, (size_t)len) == 0)
            c->kind = (csv_kind_t)i;
    if (c->kind == CSV_UNSET || (colon && c->kind != CSV_NUMERIC))
        return bad_kind(text, n);
    return colon ? set_transform(c, colon + 1, n - len - 1) : EBB_OK;
}

/* --columns "name:kind,...": a name may hold colons if a kind follows the last but one. */
static ebb_status_t apply_spec(csv_t *csv, const char *spec)
{
    const char *rest = NULL;
    int rest_n = 0;
    for (const char *s = spec; *s;) {
        const char *end = strchrnul(s, ','), *colon = memchr(s, ':', (size_t)(end - s));
        if (!colon)
            return EBB_FAIL(EBB_EUSAGE, "--columns: \"%.*s\" has no kind; write NAME:KIND", (int)(end - s), s);
        int n = (int)(end - colon - 1);
        if (colon - s == 1 && *s == '*') {
            rest = colon + 1;
            rest_n = n;
        } else {
            int i = find_column(csv, s, (size_t)(colon - s));
            if (i < 0)
                return no_column(csv, "--columns", s, (int)(colon - s));
            EBB_TRY(set_kind(&csv->column[i], colon + 1, n));
        }
        s = *end ? end + 1 : end;
    }
    for (int i = 0; rest && i < csv->n; i++)
        if (csv->column[i].kind == CSV_UNSET)
            EBB_TRY(set_kind(&csv->column[i], rest, rest_n));
    return EBB_OK;
}

/* The sample's rows, whole ones, from p on. seen[i]: of column i. */
typedef struct sample {
    int64_t values, numbers, bytes, words;
    bool large; /* a number beyond -1 .. 1 */
} sample_t;

static int64_t count_words(const csv_cell_t *cell)
{
    int64_t n = cell->bytes > 0;
    for (int64_t i = 1; i < cell->bytes; i++)
        n += cell->text[i - 1] == ' ' && cell->text[i] != ' ';
    return n;
}

static void look_at(sample_t *s, const csv_cell_t *cell)
{
    double v;
    if (csv_is_missing(cell))
        return;
    s->values++;
    if (ebb_number_whole(cell->text, cell->bytes, &v)) {
        s->numbers++;
        s->large |= fabs(v) > 1;
    }
    s->bytes += cell->bytes;
    s->words += count_words(cell);
}

static csv_kind_t guess_kind(const sample_t *s)
{
    if (s->numbers == s->values)
        return CSV_NUMERIC;
    return s->bytes > LONG_TEXT * s->values || s->words > 4 * s->values ? CSV_TEXT : CSV_CATEGORICAL;
}

/* Ages beside incomes train badly as they are; indicators and fractions do well, and keep their zeros. */
static void set_guess(csv_column_t *c, const sample_t *s)
{
    c->kind = guess_kind(s);
    if (c->kind == CSV_NUMERIC && s->large)
        c->transform = CSV_STANDARD;
}

static ebb_status_t guess_kinds(csv_t *csv, char *p, char *end, bool cut_off)
{
    csv_cell_t *cells = NULL;
    sample_t *sample = NULL;
    int64_t line = 1;
    ebb_status_t status = EBB_NEW_ARRAY("cells of a row", csv->n, &cells);
    if (status == EBB_OK)
        status = EBB_NEW_ARRAY("sample of columns", csv->n, &sample);
    for (int rows = 0; status == EBB_OK && p < end && rows < SAMPLE_ROWS; rows++) {
        int n;
        if (csv_cut(&p, end, csv->delimiter, csv->n, cells, &n, &line) != EBB_OK) {
            ebb_error_clear(); /* the scan will name the place */
            break;
        }
        if (n != csv->n || (cut_off && p >= end))
            continue;
        for (int i = 0; i < n; i++)
            look_at(&sample[i], &cells[i]);
    }
    for (int i = 0; status == EBB_OK && i < csv->n; i++)
        if (csv->column[i].kind == CSV_UNSET)
            set_guess(&csv->column[i], &sample[i]);
    ebb_free(cells);
    ebb_free(sample);
    return status;
}

/* --target, or a column that is called so. */
static ebb_status_t choose_target(csv_t *csv, const ebb_pack_options_t *o)
{
    static const char *const usual[] = {"target", "label", "class", "y"};
    for (int i = 0; i < csv->n; i++)
        if (csv->column[i].kind == CSV_TARGET)
            return EBB_OK;
    if (o->target) {
        int i = find_column(csv, o->target, strlen(o->target));
        if (i < 0)
            return no_column(csv, "--target", o->target, (int)strlen(o->target));
        csv->column[i].kind = CSV_TARGET;
        return EBB_OK;
    }
    for (size_t k = 0; k < sizeof usual / sizeof *usual; k++)
        for (int i = 0; i < csv->n; i++)
            if (csv->column[i].kind == CSV_UNSET && strcasecmp(csv->column[i].name, usual[k]) == 0) {
                csv->column[i].kind = CSV_TARGET;
                return EBB_OK;
            }
    return EBB_OK;
}

static ebb_status_t one_of_each(csv_t *csv)
{
    csv->target = csv->weight = -1;
    for (int i = 0; i < csv->n; i++) {
        int *number = csv->column[i].kind == CSV_TARGET   ? &csv->target
                      : csv->column[i].kind == CSV_WEIGHT ? &csv->weight
                                                          : NULL;
        if (number && *number >= 0)
            return EBB_FAIL(EBB_EUSAGE, "columns \"%s\" and \"%s\" are both the %s; there can be one",
                            csv->column[*number].name, csv->column[i].name, kind_names[csv->column[i].kind]);
        if (number)
            *number = i;
    }
    return EBB_OK;
}

static ebb_status_t name_columns(csv_t *csv, const char *path, const csv_cell_t *cells, int n)
{
    EBB_TRY(EBB_NEW_ARRAY("columns", n, &csv->column));
    csv->n = n;
    for (int i = 0; i < n; i++) {
        csv_column_t *c = &csv->column[i];
        double v;
        c->missing = -1;
        if (csv->header && cells[i].bytes > 0)
            snprintf(c->name, sizeof c->name, "%.*s", (int)(cells[i].bytes < 63 ? cells[i].bytes : 63), cells[i].text);
        else
            snprintf(c->name, sizeof c->name, "%d", i + 1);
        if (csv->header && ebb_number_whole(cells[i].text, cells[i].bytes, &v))
            return EBB_FAIL(EBB_EDATA,
                            "%s: line %lld: \"%s\" is a number, not the name of a column; give --no-header if the "
                            "first line is data",
                            path, csv->first_line, c->name);
        if (find_column(csv, c->name, strlen(c->name)) != i)
            return EBB_FAIL(EBB_EDATA, "%s: line %lld: two columns are called \"%s\"; rename one", path,
                            csv->first_line, c->name);
    }
    return EBB_OK;
}

/* A later source, or one like an earlier data set: the same columns. */
static ebb_status_t check_columns(const csv_t *csv, const char *path, const csv_cell_t *cells, int n)
{
    if (n != csv->n)
        return EBB_FAIL(
            EBB_EDATA,
            "%s: line %lld: %d cell%s, but %d columns are expected; leave out lines before the data with --skip-lines",
            path, csv->first_line, n, n == 1 ? "" : "s", csv->n);
    for (int i = 0; csv->header && i < n; i++) {
        const char *name = csv->column[i].name;
        int64_t bytes = cells[i].bytes < 63 ? cells[i].bytes : 63;
        if (cells[i].bytes > 0 && ((int64_t)strlen(name) != bytes || strncmp(name, cells[i].text, (size_t)bytes) != 0))
            return EBB_FAIL(EBB_EDATA, "%s: line %lld: column %d is \"%.*s\", but \"%s\" is expected", path,
                            csv->first_line, i + 1, (int)bytes, cells[i].text, name);
    }
    return EBB_OK;
}

/* The one of , ; tab | that cuts the first line into the most cells. */
static char guess_delimiter(const char *head, int64_t n)
{
    static const char candidates[] = ",;\t|";
    char best = ',';
    int most = 0;
    for (const char *d = candidates; *d; d++) {
        int count = 0;
        bool quoted = false;
        for (int64_t i = 0; i < n && (quoted || head[i] != '\n'); i++) {
            quoted ^= head[i] == '"';
            count += !quoted && head[i] == *d;
        }
        if (count > most) {
            most = count;
            best = *d;
        }
    }
    return best;
}

static ebb_status_t first_source(csv_t *csv, const ebb_pack_options_t *o, const char *path, const csv_cell_t *cells,
                                 int n)
{
    EBB_TRY(name_columns(csv, path, cells, n));
    if (o->columns)
        EBB_TRY(apply_spec(csv, o->columns));
    return choose_target(csv, o);
}

static ebb_status_t begin_source(csv_t *csv, const ebb_pack_options_t *o, const char *path, char *head, int64_t n,
                                 csv_cell_t *cells, int64_t *begin_p)
{
    char *p = head, *end = head + n;
    int64_t line = 1;
    int width;
    int64_t bom = n >= 3 && memcmp(head, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    p += bom;
    if (csv_cut(&p, end, csv->delimiter, n < MAX_COLUMNS ? (int)n + 1 : MAX_COLUMNS, cells, &width, &line) != EBB_OK)
        return ebb_error_prefix("%s: line %lld: ", path, csv->first_line);
    if (width > MAX_COLUMNS)
        return EBB_FAIL(EBB_EDATA, "%s: line %lld: %d columns; at most %d", path, csv->first_line, width, MAX_COLUMNS);
    *begin_p = csv->header ? p - head : bom;
    if (csv->column)
        return check_columns(csv, path, cells, width);
    EBB_TRY(first_source(csv, o, path, cells, width));
    EBB_TRY(guess_kinds(csv, csv->header ? p : head + bom, end, true));
    EBB_TRY(one_of_each(csv));
    csv_columns_layout(csv, o);
    for (int i = 0; i < csv->n; i++)
        if (csv->column[i].transform == CSV_BINS)
            EBB_TRY(EBB_NEW_ARRAY("histogram", EBB_CSV_BUCKETS, &csv->column[i].buckets));
    return EBB_OK;
}

ebb_status_t csv_columns_begin(csv_t *csv, const ebb_pack_options_t *o, const char *path, char *head, int64_t n,
                               int64_t *begin_p)
{
    csv_cell_t *cells;
    char *copy = NULL;
    head[n] = '\n';
    if (!csv->delimiter)
        csv->delimiter = guess_delimiter(head, n);
    ebb_status_t status = EBB_NEW_ARRAY("cells of a header", n < MAX_COLUMNS ? n + 1 : MAX_COLUMNS, &cells);
    if (status == EBB_OK)
        status = ebb_alloc("head of a source", (size_t)n + 2, (void **)&copy);
    if (status == EBB_OK) {
        memcpy(copy, head, (size_t)n + 1); /* cutting undoes quotes in place */
        status = begin_source(csv, o, path, copy, n, cells, begin_p);
    }
    ebb_free(cells);
    ebb_free(copy);
    return status;
}

/* ---- layout ---- */

static int hash_bits(const csv_t *csv, const ebb_pack_options_t *o, csv_kind_t kind)
{
    int fields = 0, bits = DEFAULT_BITS;
    if (o->hash_bits > 0)
        return o->hash_bits;
    if (kind == CSV_TEXT)
        return DEFAULT_BITS;
    for (int i = 0; i < csv->n; i++)
        fields += csv->column[i].kind == CSV_CATEGORICAL;
    while (bits > LEAST_BITS && (int64_t)fields << bits > 1 << DEFAULT_BITS)
        bits--;
    return bits;
}

/* Output columns that a column takes; the missing one is the last. */
static int64_t width_of(const csv_t *csv, const ebb_pack_options_t *o, const csv_column_t *c, bool scanned)
{
    switch (c->kind) {
    case CSV_NUMERIC:
        return (c->transform == CSV_BINS ? (scanned ? c->n_edges + 1 : 1) : 1) + (c->any_missing || !scanned);
    case CSV_CATEGORICAL: return ((int64_t)1 << hash_bits(csv, o, c->kind)) + 1;
    case CSV_TEXT: return (int64_t)1 << hash_bits(csv, o, c->kind);
    default: return 0;
    }
}

static int64_t lay_out(csv_t *csv, const ebb_pack_options_t *o, bool scanned)
{
    int64_t at = 0;
    for (int i = 0; i < csv->n; i++) {
        csv_column_t *c = &csv->column[i];
        int64_t width = width_of(csv, o, c, scanned);
        if (at + width > INT32_MAX)
            return -1;
        c->begin = (int32_t)at;
        at += width;
        c->end = (int32_t)at;
        bool gap = c->kind == CSV_CATEGORICAL || (c->kind == CSV_NUMERIC && (c->any_missing || !scanned));
        c->missing = gap ? c->end - 1 : -1;
    }
    return at;
}

void csv_columns_layout(csv_t *csv, const ebb_pack_options_t *o)
{
    lay_out(csv, o, false);
}

/* ---- what the scan learned ---- */

static void settle_moments(csv_column_t *c)
{
    double n = (double)c->count;
    c->mean = n > 0 ? ebb_exact_value(&c->sum) / n : 0;
    double variance = n > 0 ? ebb_exact_value(&c->squares) / n - c->mean * c->mean : 0;
    c->deviation = variance > 1e-12 * c->mean * c->mean && variance > 0 ? sqrt(variance) : 1;
}

/* Edges between bins of about equal weight: least values of the buckets where the next N-th of the rows begins. */
static ebb_status_t settle_bins(csv_column_t *c)
{
    int64_t seen = 0;
    EBB_TRY(EBB_NEW_ARRAY("bins", c->bins, &c->edge));
    for (uint32_t b = 0; b < EBB_CSV_BUCKETS; b++) {
        if (c->buckets[b] == 0)
            continue;
        int bin = (int)((double)seen / (double)c->count * c->bins);
        if (seen > 0 && bin > 0 && bin <= c->bins - 1 && (c->n_edges == 0 || bin > c->edge_bin)) {
            c->edge[c->n_edges++] = csv_bucket_floor(b);
            c->edge_bin = bin;
        }
        seen += c->buckets[b];
    }
    return EBB_OK;
}

static ebb_status_t reduce_column(csv_column_t *c, ebb_comm_t *comm)
{
    EBB_TRY(ebb_comm_allreduce(comm, &c->any_missing, 1, EBB_COMM_I64, EBB_MAX));
    EBB_TRY(ebb_comm_allreduce(comm, &c->count, 1, EBB_COMM_I64, EBB_SUM));
    if (c->transform == CSV_STANDARD) {
        EBB_TRY(ebb_comm_allreduce(comm, c->sum.word, EBB_EXACT_WORDS, EBB_COMM_I64, EBB_SUM));
        EBB_TRY(ebb_comm_allreduce(comm, c->squares.word, EBB_EXACT_WORDS, EBB_COMM_I64, EBB_SUM));
        settle_moments(c);
    }
    if (c->transform == CSV_BINS) {
        EBB_TRY(ebb_comm_allreduce(comm, c->buckets, EBB_CSV_BUCKETS, EBB_COMM_I64, EBB_SUM));
        EBB_TRY(settle_bins(c));
    }
    return EBB_OK;
}

static ebb_status_t make_fields(csv_t *csv)
{
    EBB_TRY(EBB_NEW_ARRAY("fields", csv->n, &csv->fields));
    for (int i = 0; i < csv->n; i++) {
        const csv_column_t *c = &csv->column[i];
        if (c->begin == c->end)
            continue;
        ebb_field_t *f = &csv->fields[csv->n_fields++];
        snprintf(f->name, sizeof f->name, "%s", c->name);
        f->begin = c->begin;
        f->end = c->end;
        f->categorical = c->kind == CSV_CATEGORICAL || c->transform == CSV_BINS;
    }
    return EBB_OK;
}

ebb_status_t csv_columns_settle(csv_t *csv, const ebb_pack_options_t *o, ebb_comm_t *comm, ebb_scan_t *scan)
{
    bool exact = true;
    int64_t cols = csv->n > 0 ? csv->column[csv->n - 1].end : 0;
    for (int i = 0; i < csv->n; i++) {
        csv_column_t *c = &csv->column[i];
        exact &= c->kind != CSV_NUMERIC || (c->transform != CSV_LOG1P && c->transform != CSV_STANDARD);
        if (!csv->adopted && c->kind == CSV_NUMERIC)
            EBB_TRY(reduce_column(c, comm));
    }
    if (!csv->adopted)
        cols = lay_out(csv, o, true);
    if (cols < 0)
        return EBB_FAIL(EBB_EUSAGE, "the columns need more than 2^31 - 1 columns in all; give fewer --hash-bits");
    scan->cols = cols;
    scan->value_type = exact ? scan->value_type : EBB_F32;
    EBB_TRY(make_fields(csv));
    scan->fields = csv->fields;
    scan->n_fields = csv->n_fields;
    return EBB_OK;
}

/* ---- as JSON ---- */

static json_t *column_json(const csv_column_t *c)
{
    json_t *j = json_pack("{s:s, s:s, s:i, s:i, s:i}", "name", c->name, "kind", kind_names[c->kind], "begin",
                          (int)c->begin, "end", (int)c->end, "missing", (int)c->missing);
    if (!j || c->transform == CSV_PLAIN)
        return j;
    json_object_set_new(j, "transform", json_string(transform_names[c->transform]));
    if (c->transform == CSV_STANDARD) {
        json_object_set_new(j, "mean", json_real(c->mean));
        json_object_set_new(j, "deviation", json_real(c->deviation));
    }
    json_t *edges = c->transform == CSV_BINS ? json_array() : NULL;
    for (int i = 0; edges && i < c->n_edges; i++)
        json_array_append_new(edges, json_real((double)c->edge[i]));
    if (edges)
        json_object_set_new(j, "edges", edges);
    return j;
}

json_t *csv_columns_json(const csv_t *csv)
{
    char delimiter[2] = {csv->delimiter, 0};
    json_t *columns = json_array();
    for (int i = 0; i < csv->n; i++)
        json_array_append_new(columns, column_json(&csv->column[i]));
    return json_pack("{s:s, s:b, s:o}", "delimiter", delimiter, "header", (int)csv->header, "columns", columns);
}

static ebb_status_t damaged(void)
{
    return EBB_FAIL(EBB_EDATA,
                    "the column encoding in the manifest of the data set to be like is damaged; pack that one again");
}

static int name_number(const char *const *names, const char *name)
{
    for (int i = 0; name && names[i]; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return -1;
}

static ebb_status_t adopt_column(csv_column_t *c, const json_t *j)
{
    const char *name = json_string_value(json_object_get(j, "name")),
               *transform = json_string_value(json_object_get(j, "transform"));
    int kind = name_number(kind_names, json_string_value(json_object_get(j, "kind")));
    int how = transform ? name_number(transform_names, transform) : 0;
    const json_t *edges = json_object_get(j, "edges");
    if (!name || kind <= 0 || how < 0)
        return damaged();
    snprintf(c->name, sizeof c->name, "%s", name);
    c->kind = (csv_kind_t)kind;
    c->transform = (csv_transform_t)how;
    c->begin = (int32_t)json_integer_value(json_object_get(j, "begin"));
    c->end = (int32_t)json_integer_value(json_object_get(j, "end"));
    c->missing = (int32_t)json_integer_value(json_object_get(j, "missing"));
    c->mean = json_real_value(json_object_get(j, "mean"));
    c->deviation = json_real_value(json_object_get(j, "deviation"));
    if (how == CSV_STANDARD && !(c->deviation > 0))
        return damaged();
    if (how != CSV_BINS)
        return EBB_OK;
    c->n_edges = (int)json_array_size(edges);
    EBB_TRY(EBB_NEW_ARRAY("histogram", EBB_CSV_BUCKETS, &c->buckets));
    EBB_TRY(EBB_NEW_ARRAY("bins", c->n_edges + 1, &c->edge));
    for (int i = 0; i < c->n_edges; i++)
        c->edge[i] = (float)json_number_value(json_array_get(edges, (size_t)i));
    return EBB_OK;
}

static bool column_fits(const csv_column_t *c, int32_t at)
{
    bool hashed = c->kind == CSV_CATEGORICAL || c->kind == CSV_TEXT;
    int32_t least = c->kind == CSV_CATEGORICAL ? 2
                    : c->kind == CSV_TEXT      ? 1
                    : c->kind == CSV_NUMERIC   ? 1 + (c->missing >= 0)
                                               : 0;
    if (c->begin != at || c->end - c->begin < least || (!hashed && c->kind != CSV_NUMERIC && c->end != c->begin))
        return false;
    if (c->kind == CSV_NUMERIC && c->transform == CSV_BINS && c->end - c->begin != c->n_edges + 1 + (c->missing >= 0))
        return false;
    return c->missing < 0 ? c->kind != CSV_CATEGORICAL : c->missing == c->end - 1;
}

ebb_status_t csv_columns_adopt(csv_t *csv, const json_t *json)
{
    const char *delimiter = json_string_value(json_object_get(json, "delimiter"));
    const json_t *columns = json_object_get(json, "columns");
    int32_t at = 0;
    int n = (int)json_array_size(columns);
    if (n == 0 || n > MAX_COLUMNS || !delimiter || !*delimiter)
        return damaged();
    if (!csv->delimiter)
        csv->delimiter = *delimiter;
    csv->header &= !json_is_false(json_object_get(json, "header"));
    EBB_TRY(EBB_NEW_ARRAY("columns", n, &csv->column));
    csv->n = n;
    for (int i = 0; i < n; i++) {
        EBB_TRY(adopt_column(&csv->column[i], json_array_get(columns, (size_t)i)));
        if (!column_fits(&csv->column[i], at))
            return damaged();
        at = csv->column[i].end;
    }
    csv->adopted = true;
    return one_of_each(csv);
}
