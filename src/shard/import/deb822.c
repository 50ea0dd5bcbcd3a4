/* Debian's control format ("deb822"): stanzas of "Field: value" lines, continued by lines that begin with a blank,
 * divided by empty lines; as `apt-cache dumpavail` and Packages files have it.
 *
 * One stanza is one row: the words of text fields, the values of categorical ones and the names in lists of
 * dependencies, all hashed into 2^hash_bits columns, each 1 if it occurs. A field also stands for its translations
 * (Description-en). Stanzas without the target field are passed over. The target loses a prefix that ends with a slash
 * ("contrib/net" is "net").
 */
#include "shard/import/import.h"
#include "shard/import/tokens.h"
#include "base/alloc.h"
#include "base/hash.h"
#include "base/text.h"

#include <string.h>
#include <strings.h>

enum { MAX_FIELDS = 32, NAME_BYTES = 64 };

typedef enum kind { TEXT, CATEGORICAL, LIST, TARGET } kind_t;

static const char *const kind_names[] = {"text", "categorical", "list", "target", NULL};

typedef struct deb_field {
    char name[NAME_BYTES];
    kind_t kind;
    ebb_hash_range_t range;
} deb_field_t;

typedef struct deb822 {
    int n;
    deb_field_t field[MAX_FIELDS];
    uint32_t columns;
    char spec[MAX_FIELDS * NAME_BYTES];
} deb822_t;

static const char default_spec[] = "Package:text,Description:text,Depends:list,Maintainer:categorical,Section:target";

static ebb_status_t add_field(deb822_t *d, const char *s, const char *end)
{
    const char *colon = memchr(s, ':', (size_t)(end - s));
    if (!colon || colon == s || colon - s >= NAME_BYTES || d->n == MAX_FIELDS)
        return EBB_FAIL(EBB_EUSAGE, "--columns: \"%.*s\": write FIELD:KIND, at most %d of them", (int)(end - s), s,
                        MAX_FIELDS);
    for (int k = 0; kind_names[k]; k++) {
        if (strlen(kind_names[k]) != (size_t)(end - colon - 1) ||
            strncmp(kind_names[k], colon + 1, (size_t)(end - colon - 1)) != 0)
            continue;
        deb_field_t *f = &d->field[d->n++];
        memcpy(f->name, s, (size_t)(colon - s));
        f->kind = (kind_t)k;
        f->range = (ebb_hash_range_t){0, d->columns, ebb_xxh3(s, (size_t)(colon - s))};
        return EBB_OK;
    }
    return EBB_FAIL(EBB_EUSAGE,
                    "--columns: unknown kind \"%.*s\"; a field of a stanza is text, categorical, list or target",
                    (int)(end - colon - 1), colon + 1);
}

static ebb_status_t set_fields(deb822_t *d, const char *spec, int bits)
{
    d->n = 0;
    d->columns = 1u << bits;
    if (snprintf(d->spec, sizeof d->spec, "%s", spec) >= (int)sizeof d->spec)
        return EBB_FAIL(EBB_EUSAGE, "--columns: too long for %d fields", MAX_FIELDS);
    for (const char *s = spec; *s;) {
        const char *end = strchrnul(s, ',');
        EBB_TRY(add_field(d, s, end));
        s = *end ? end + 1 : end;
    }
    return EBB_OK;
}

static ebb_status_t deb822_create(ebb_importer_t *importer)
{
    deb822_t *d;
    EBB_TRY(EBB_NEW("deb822 importer", &d));
    importer->state = d;
    return set_fields(d, importer->options->columns ? importer->options->columns : default_spec,
                      importer->options->hash_bits > 0 ? importer->options->hash_bits : 18);
}

static void deb822_destroy(ebb_importer_t *importer)
{
    ebb_free(importer->state);
}

static const deb_field_t *find_field(const deb822_t *d, const char *name, int64_t n)
{
    for (int i = 0; i < d->n; i++) {
        int64_t len = (int64_t)strlen(d->field[i].name);
        /* Description stands for Description-en, but not for the checksum Description-md5 */
        bool translation = n > len && name[len] == '-' && n - len <= 6 && strncasecmp(name + len, "-md5", 4) != 0;
        if ((n == len || translation) && strncasecmp(name, d->field[i].name, (size_t)len) == 0)
            return &d->field[i];
    }
    return NULL;
}

/* The names in "libc6 (>= 2.34), a | b:any". */
static ebb_status_t put_names(ebb_block_t *b, const ebb_hash_range_t *range, const char *p, const char *end)
{
    while (p < end) {
        const char *next = p;
        while (next < end && *next != ',' && *next != '|')
            next++;
        while (p < next && strchr(" \t\r\n", *p))
            p++;
        const char *stop = p;
        while (stop < next && !strchr(" \t\r\n(:[", *stop))
            stop++;
        if (stop > p)
            EBB_TRY(ebb_tokens_put(b, range, p, stop - p));
        p = next + 1;
    }
    return EBB_OK;
}

typedef struct value {
    const char *text, *end;
} value_t;

static ebb_status_t put_value(ebb_block_t *b, const deb_field_t *f, value_t v)
{
    switch (f->kind) {
    case TEXT: return ebb_tokens_words(b, &f->range, v.text, v.end - v.text);
    case LIST: return put_names(b, &f->range, v.text, v.end);
    default: return v.end > v.text ? ebb_tokens_put(b, &f->range, v.text, v.end - v.text) : EBB_OK;
    }
}

static value_t trimmed(const char *p, const char *end)
{
    while (p < end && strchr(" \t\r\n", *p))
        p++;
    while (end > p && strchr(" \t\r\n", end[-1]))
        end--;
    return (value_t){p, end};
}

/* End of the field's value: of the last line that continues it. */
static const char *field_end(const char *p, const char *end)
{
    for (;;) {
        const char *eol = memchr(p, '\n', (size_t)(end - p));
        if (!eol)
            return end;
        if (eol + 1 >= end || (eol[1] != ' ' && eol[1] != '\t'))
            return eol;
        p = eol + 1;
    }
}

static int64_t count_newlines(const char *p, const char *end)
{
    int64_t n = 0;
    for (; (p = memchr(p, '\n', (size_t)(end - p))); p++)
        n++;
    return n;
}

static ebb_status_t end_stanza(ebb_block_t *b, int64_t from, bool wanted, value_t target, bool has_target)
{
    if (!has_target || !wanted) {
        b->nnz = from;
        return EBB_OK;
    }
    if (target.text) {
        const char *slash = memrchr(target.text, '/', (size_t)(target.end - target.text));
        target.text = slash ? slash + 1 : target.text;
        EBB_TRY(ebb_block_target_text(b, target.text, target.end - target.text));
    }
    EBB_TRY(ebb_tokens_merge(b, from, true));
    return ebb_block_end_row(b);
}

/* One stanza from *p_p on, up to an empty line. */
static ebb_status_t parse_stanza(const deb822_t *d, const char **p_p, const char *end, ebb_block_t *b, int64_t *line_p)
{
    const char *p = *p_p;
    value_t target = {0};
    int64_t from = b->nnz, fields = 0;
    bool needs_target = false;
    for (int i = 0; i < d->n; i++)
        needs_target |= d->field[i].kind == TARGET;
    EBB_TRY(ebb_block_reserve(b, 1, 0));
    while (p < end && *p != '\n' && *p != '\r') {
        const char *stop = field_end(p, end), *colon = memchr(p, ':', (size_t)(stop - p));
        if (*p != '#') {
            if (!colon || memchr(p, '\n', (size_t)(colon - p)) || *p == ' ')
                return EBB_FAIL(EBB_EDATA, "expected \"Field: value\"");
            const deb_field_t *f = find_field(d, p, colon - p);
            if (f && f->kind == TARGET)
                target = trimmed(colon + 1, stop);
            else if (f)
                EBB_TRY(put_value(b, f, trimmed(colon + 1, stop)));
            fields++;
        }
        *line_p += count_newlines(p, stop) + 1;
        p = stop < end ? stop + 1 : end;
    }
    *p_p = p;
    return end_stanza(b, from, fields > 0, target, !needs_target || target.end > target.text);
}

static ebb_status_t deb822_parse(const ebb_importer_t *importer, const ebb_source_t *source, ebb_piece_t *piece,
                                 ebb_block_t *b)
{
    const char *p = piece->text, *end = p + piece->bytes;
    int64_t line = 1;
    while (p < end) {
        if (*p == '\n' || *p == '\r') {
            line += *p++ == '\n';
            continue;
        }
        if (parse_stanza(importer->state, &p, end, b, &line) != EBB_OK) {
            b->bad_line = line;
            return ebb_error()->status;
        }
    }
    return EBB_OK;
}

/* A record begins after an empty line. */
static int64_t deb822_boundary(const char *text, int64_t n, int64_t pos, bool quoted)
{
    if (pos == 0 || (pos >= 2 && pos <= n && text[pos - 1] == '\n' && text[pos - 2] == '\n'))
        return pos;
    for (int64_t i = pos - 1; i + 1 < n; i++) {
        const char *nl = memchr(text + i, '\n', (size_t)(n - i));
        if (!nl)
            return -1;
        i = nl - text;
        if (i + 1 < n && text[i + 1] == '\n')
            return i + 2;
    }
    return -1;
}

static ebb_status_t deb822_settle(ebb_importer_t *importer, ebb_scan_t *scan)
{
    const deb822_t *d = importer->state;
    scan->cols = d->columns;
    return EBB_OK;
}

static json_t *deb822_encoding(const ebb_importer_t *importer)
{
    const deb822_t *d = importer->state;
    return json_pack("{s:s, s:I}", "fields", d->spec, "columns", (json_int_t)d->columns);
}

static ebb_status_t deb822_adopt(ebb_importer_t *importer, const json_t *encoding)
{
    const char *spec = json_string_value(json_object_get(encoding, "fields"));
    json_int_t columns = json_integer_value(json_object_get(encoding, "columns"));
    if (!spec || columns < 1 || columns > 1 << 30 || (columns & (columns - 1)))
        return EBB_FAIL(EBB_EDATA,
                        "the encoding in the manifest of the data set to be like is damaged; pack that one again");
    return set_fields(importer->state, spec, __builtin_ctzll((unsigned long long)columns));
}

static int deb822_probe(const char *head, int64_t n, const char *path)
{
    return strncasecmp(head, "Package: ", 9) == 0 ? 95 : 0;
}

const ebb_format_t ebb_format_deb822 = {
    .name = "deb822",
    .what = "Debian control stanzas",
    .text = true,
    .probe = deb822_probe,
    .create = deb822_create,
    .destroy = deb822_destroy,
    .boundary = deb822_boundary,
    .parse = deb822_parse,
    .settle = deb822_settle,
    .encoding = deb822_encoding,
    .adopt = deb822_adopt,
};
