/* svmlight / LIBSVM text: "label [qid:n] index:value ... [# comment]", one row a line; and "items": "id item item ...",
 * the binary row of those items, as implicit-feedback data comes.
 *
 * Indices are kept as they stand in the scan, which learns whether an index 0 occurs; the write subtracts the base. The
 * piece ends with a newline, so every loop stops without bounds checks. A label may be any number; two or more
 * separated by commas are refused.
 */
#include "shard/import/import.h"
#include "shard/import/number.h"

#include <math.h>
#include <string.h>

typedef struct cursor {
    const char *p;
    const char *line; /* begin of the line */
    int64_t number;   /* of the line, from 1 */
} cursor_t;

static const char *blanks(const char *p)
{
    while (*p == ' ' || *p == '\t' || *p == '\r')
        p++;
    return p;
}

static bool ends_token(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Printable head of a token for a message. */
static const char *token_of(const char *p, char *text, size_t size)
{
    size_t n = 0;
    for (; n + 1 < size && n < 40 && !ends_token(p[n]) && p[n]; n++)
        text[n] = p[n] >= 32 && p[n] < 127 ? p[n] : '?';
    text[n] = 0;
    return text;
}

static ebb_status_t bad(ebb_block_t *block, const cursor_t *c, const char *at, const char *what)
{
    char token[64];
    block->bad_column = at - c->line + 1;
    return EBB_BLOCK_FAIL(block, c->number, "%s at \"%s\"", what, token_of(at, token, sizeof token));
}

static ebb_status_t parse_label(ebb_block_t *block, cursor_t *c)
{
    double label;
    const char *at = c->p;
    if (!ebb_number_f64(&c->p, &label))
        return bad(block, c, at, "label is not a number (LIBSVM text begins each line with one)");
    if (*c->p == ':')
        return bad(block, c, at, "the label is missing: the line begins with an index");
    if (*c->p == ',')
        return bad(block, c, at,
                   "several labels on one line are not supported; split them into one data set per label");
    if (!ends_token(*c->p))
        return bad(block, c, at, "label is not a number (LIBSVM text begins each line with one)");
    if (ebb_block_target_number(block, label) != EBB_OK) {
        block->bad_line = c->number;
        return ebb_error()->status;
    }
    return EBB_OK;
}

static ebb_status_t bad_index(ebb_block_t *block, const cursor_t *c, const char *at, uint64_t index)
{
    if (index > INT32_MAX)
        return bad(block, c, at, "index above 2^31 - 1");
    if (index == 0)
        return bad(block, c, at, "index 0 in a one-based file; leave out --one-based");
    char what[96];
    snprintf(what, sizeof what, "index beyond the %lld columns asked for", (long long)block->cols);
    return bad(block, c, at, what);
}

/* The entries of one line into the block, up to its end or comment. */
static ebb_status_t parse_entries(ebb_block_t *block, cursor_t *c)
{
    int64_t n = block->nnz, cap = block->nnz_cap;
    int32_t *col = block->col;
    float *val = block->val;
    const char *p = c->p;
    const uint64_t base = (uint64_t)block->index_base,
                   top = (block->cols ? (uint64_t)block->cols : (uint64_t)INT32_MAX) + base;
    for (;;) {
        p = blanks(p);
        if (*p == '\n' || *p == '#')
            break;
        const char *at = p;
        uint64_t index;
        if (!ebb_number_u64(&p, &index) || *p != ':') {
            if (strncmp(at, "qid:", 4) != 0)
                return bad(block, c, at, "expected index:value");
            for (p = at + 4; !ends_token(*p); p++)
                ;
            continue;
        }
        if (index < base || index >= top)
            return bad_index(block, c, at, index);
        p++;
        if (n == cap) {
            EBB_TRY(ebb_block_reserve(block, 1, n - block->nnz + 1024));
            col = block->col;
            val = block->val;
            cap = block->nnz_cap;
        }
        if (!ebb_number_f32(&p, &val[n]) || !ends_token(*p))
            return bad(block, c, at, "expected index:value");
        if (!isfinite(val[n]))
            return bad(block, c, at, "value is not finite or too large for a 32-bit float");
        col[n++] = (int32_t)(index - base);
    }
    c->p = p;
    block->nnz = n;
    return EBB_OK;
}

static ebb_status_t end_row(ebb_block_t *block, const cursor_t *c)
{
    if (ebb_block_end_row(block) == EBB_OK)
        return EBB_OK;
    block->bad_line = c->number;
    return ebb_error()->status;
}

typedef ebb_status_t (*line_parser_t)(ebb_block_t *block, cursor_t *c);

static ebb_status_t parse_lines(const ebb_piece_t *piece, ebb_block_t *block, line_parser_t parse)
{
    cursor_t c = {piece->text, piece->text, 1};
    const char *end = piece->text + piece->bytes;
    for (; c.p < end; c.number++, c.line = c.p) {
        c.p = blanks(c.p);
        if (*c.p != '\n' && *c.p != '#') {
            EBB_TRY(ebb_block_reserve(block, 1, 0));
            EBB_TRY(parse(block, &c));
            EBB_TRY(end_row(block, &c));
        }
        if (*c.p != '\n')
            c.p = memchr(c.p, '\n', (size_t)(end - c.p + 1));
        c.p++;
    }
    return EBB_OK;
}

static ebb_status_t parse_row(ebb_block_t *block, cursor_t *c)
{
    EBB_TRY(parse_label(block, c));
    return parse_entries(block, c);
}

static ebb_status_t svmlight_parse(const ebb_importer_t *importer, const ebb_source_t *source, ebb_piece_t *piece,
                                   ebb_block_t *block)
{
    if (block->pass == EBB_PASS_SCAN)
        block->index_base = importer && importer->options->one_based;
    return parse_lines(piece, block, parse_row);
}

static ebb_status_t svmlight_settle(ebb_importer_t *importer, ebb_scan_t *scan)
{
    const ebb_pack_options_t *o = importer->options;
    if (o->one_based && o->zero_based)
        return EBB_FAIL(EBB_EUSAGE,
                        "indices are either one-based or zero-based: give one of --one-based and --zero-based");
    if (o->one_based) {
        scan->index_base = 1;
        return EBB_OK; /* the scan has subtracted it already */
    }
    int32_t guess = scan->stats.min_col == 0 ? 0 : 1;
    scan->index_base = o->zero_based ? 0 : importer->index_base >= 0 ? importer->index_base : guess;
    if (scan->stats.max_col >= 0)
        scan->cols = scan->stats.max_col + 1 - scan->index_base;
    return EBB_OK;
}

/* A line that begins with a number and goes on with index:value. */
static bool looks_like_row(const char *p)
{
    double label;
    uint64_t index;
    float value;
    p = blanks(p);
    if (!ebb_number_f64(&p, &label) || (*p != ' ' && *p != '\t'))
        return false;
    p = blanks(p);
    if (strncmp(p, "qid:", 4) == 0)
        return true;
    return ebb_number_u64(&p, &index) && *p++ == ':' && ebb_number_f32(&p, &value) && ends_token(*p);
}

/* The first row must look like one; two more, if there are, raise the odds. A label without entries proves nothing. */
static int svmlight_probe(const char *head, int64_t n, const char *path)
{
    int rows = 0, others = 0;
    for (const char *p = head; p < head + n && rows + others < 3;) {
        const char *end = memchr(p, '\n', (size_t)(head + n - p)), *q = blanks(p);
        double label;
        if (looks_like_row(q))
            rows++;
        else if (*q && *q != '#' && *q != '\n' &&
                 (!ebb_number_f64(&q, &label) || (*blanks(q) != '\n' && *blanks(q) != '#')))
            others++;
        if (!end || (others > 0 && rows == 0))
            break;
        p = end + 1;
    }
    return rows == 0 ? 0 : others ? 55 : 90;
}

/* "id item item ...": the id is skipped, each item is an entry of 1. */
static ebb_status_t parse_items(ebb_block_t *block, cursor_t *c)
{
    uint64_t item;
    const uint64_t top = block->cols ? (uint64_t)block->cols : (uint64_t)INT32_MAX;
    while (!ends_token(*c->p))
        c->p++;
    for (c->p = blanks(c->p); *c->p != '\n'; c->p = blanks(c->p)) {
        const char *at = c->p;
        if (!ebb_number_u64(&c->p, &item) || !ends_token(*c->p))
            return bad(block, c, at, "expected an item number");
        if (item >= top)
            return bad_index(block, c, at, item);
        EBB_TRY(ebb_block_reserve(block, 1, 1));
        block->col[block->nnz] = (int32_t)item;
        block->val[block->nnz++] = 1;
    }
    return EBB_OK;
}

static ebb_status_t items_parse(const ebb_importer_t *importer, const ebb_source_t *source, ebb_piece_t *piece,
                                ebb_block_t *block)
{
    return parse_lines(piece, block, parse_items);
}

/* Never guessed: any table of numbers looks like it. */
static int items_probe(const char *head, int64_t n, const char *path)
{
    return 0;
}

const ebb_format_t ebb_format_svmlight = {
    .name = "svmlight",
    .what = "LIBSVM / svmlight text",
    .text = true,
    .probe = svmlight_probe,
    .boundary = ebb_boundary_line,
    .parse = svmlight_parse,
    .settle = svmlight_settle,
};

const ebb_format_t ebb_format_items = {
    .name = "items",
    .what = "lines of an id and its items",
    .text = true,
    .probe = items_probe,
    .boundary = ebb_boundary_line,
    .parse = items_parse,
};
