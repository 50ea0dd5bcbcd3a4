/* YAML to JSON with the line of every key.
 *
 * libyaml's events are turned into jansson values by recursive descent. A run file is written by hand, so limits are
 * tight (size, depth, number of values, length of a path), and whatever could surprise (aliases, tags, duplicate keys,
 * several documents) is refused with its place instead of being guessed at. */
#include "base/yaml.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/text.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define MAX_BYTES  (4 << 20)
#define MAX_DEPTH  64
#define MAX_VALUES 100000
#define MAX_PATH   512

typedef struct reader {
    yaml_parser_t parser;
    const char *origin;
    json_t *lines;       /* borrowed; NULL: lines are not kept */
    char path[MAX_PATH]; /* of the value being read */
    int depth, values;
} reader_t;

static ebb_status_t fail_at(const reader_t *r, yaml_mark_t mark, const char *message)
{
    return EBB_FAIL(EBB_EUSAGE, "%s:%zu:%zu: %s", r->origin, mark.line + 1, mark.column + 1, message);
}

static ebb_status_t out_of_memory(void)
{
    return EBB_FAIL(EBB_ENOMEM, "out of memory: YAML");
}

static ebb_status_t next_event(reader_t *r, yaml_event_t *event)
{
    if (yaml_parser_parse(&r->parser, event))
        return EBB_OK;
    const yaml_parser_t *p = &r->parser;
    if (p->error == YAML_MEMORY_ERROR)
        return out_of_memory();
    if (p->error == YAML_READER_ERROR)
        return EBB_FAIL(EBB_EUSAGE, "%s: byte %zu: %s", r->origin, p->problem_offset, p->problem);
    char message[256];
    if (p->buffer.pointer && *p->buffer.pointer == '\t')
        return fail_at(r, p->problem_mark, "a tab where YAML wants spaces; indent with spaces");
    snprintf(message, sizeof message, "%s%s%s", p->problem ? p->problem : "not valid YAML", p->context ? ", " : "",
             p->context ? p->context : "");
    return fail_at(r, p->problem_mark, message);
}

/* ---- scalars: the core schema of YAML 1.2 ---- */

static bool one_of(const char *s, const char *const *words)
{
    for (; *words; words++)
        if (strcmp(s, *words) == 0)
            return true;
    return false;
}

static size_t skip_digits(const char **s)
{
    size_t n = strspn(*s, "0123456789");
    *s += n;
    return n;
}

/* [-+]? ( . [0-9]+ | [0-9]+ ( . [0-9]* )? ) ( [eE] [-+]? [0-9]+ )? */
static bool is_decimal(const char *s, bool *integer_p)
{
    s += *s == '-' || *s == '+';
    size_t before = skip_digits(&s), after = 0;
    *integer_p = true;
    if (*s == '.') {
        s++;
        after = skip_digits(&s);
        *integer_p = false;
    }
    if (before + after == 0)
        return false;
    if (*s == 'e' || *s == 'E') {
        s++;
        s += *s == '-' || *s == '+';
        *integer_p = false;
        if (skip_digits(&s) == 0)
            return false;
    }
    return *s == 0;
}

static bool is_based(const char *s, const char *prefix, const char *digits)
{
    return strncmp(s, prefix, 2) == 0 && s[2] && strspn(s + 2, digits) == strlen(s + 2);
}

static ebb_status_t make_number(const reader_t *r, const yaml_event_t *e, const char *s, bool integer, json_t **json_p)
{
    int64_t i;
    if (integer && ebb_parse_i64(s, &i) == EBB_OK) {
        *json_p = json_integer(i);
        return *json_p ? EBB_OK : out_of_memory();
    }
    if (integer)
        ebb_error_clear();
    double f = strtod(s, NULL);
    if (!isfinite(f))
        return fail_at(r, e->start_mark, "the number is too large");
    *json_p = json_real(f);
    return *json_p ? EBB_OK : out_of_memory();
}

static ebb_status_t make_based(const reader_t *r, const yaml_event_t *e, const char *s, json_t **json_p)
{
    char *end;
    errno = 0;
    long long v = strtoll(s + 2, &end, s[1] == 'x' ? 16 : 8);
    if (errno || *end)
        return fail_at(r, e->start_mark, "the number does not fit into 64 bits");
    *json_p = json_integer(v);
    return *json_p ? EBB_OK : out_of_memory();
}

static ebb_status_t make_scalar(const reader_t *r, const yaml_event_t *e, json_t **json_p)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
    static const char *const trues[] = {"true", "True", "TRUE", NULL};
    static const char *const falses[] = {"false", "False", "FALSE", NULL};
    static const char *const odd[] = {".nan",  ".NaN",  ".NAN",  ".inf",  ".Inf",  ".INF", "-.inf",
                                      "-.Inf", "-.INF", "+.inf", "+.Inf", "+.INF", NULL};
    const char *s = (const char *)e->data.scalar.value;
    size_t n = e->data.scalar.length;
    bool plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE, integer;
    if (strlen(s) != n)
        return fail_at(r, e->start_mark, "a text may not contain a zero byte");
    if (plain && one_of(s, odd))
        return fail_at(r, e->start_mark, "numbers must be finite");
    if (plain && is_decimal(s, &integer))
        return make_number(r, e, s, integer, json_p);
    if (plain && (is_based(s, "0x", "0123456789abcdefABCDEF") || is_based(s, "0o", "01234567")))
        return make_based(r, e, s, json_p);
    if (plain && one_of(s, nulls))
        *json_p = json_null();
    else if (plain && (one_of(s, trues) || one_of(s, falses)))
        *json_p = json_boolean(one_of(s, trues));
    else
        *json_p = json_stringn(s, n);
    return *json_p ? EBB_OK : fail_at(r, e->start_mark, "the text is not valid UTF-8");
}

/* ---- structure ---- */

static ebb_status_t note_line(reader_t *r, yaml_mark_t mark)
{
    if (++r->values > MAX_VALUES)
        return fail_at(r, mark, "too many values; a run file has at most 100000");
    if (r->lines && r->path[0] && json_object_set_new(r->lines, r->path, json_integer((json_int_t)mark.line + 1)) != 0)
        return out_of_memory();
    return EBB_OK;
}

static ebb_status_t read_value(reader_t *r, const yaml_event_t *first, json_t **json_p);

static ebb_status_t check_key(const reader_t *r, const yaml_event_t *e)
{
    if (e->type == YAML_ALIAS_EVENT)
        return fail_at(r, e->start_mark, "aliases (*name) are not supported; write the value out");
    if (e->type != YAML_SCALAR_EVENT)
        return fail_at(r, e->start_mark, "a key must be a plain word");
    if (e->data.scalar.anchor || e->data.scalar.tag)
        return fail_at(r, e->start_mark, "anchors and tags are not supported on keys");
    if (strlen((const char *)e->data.scalar.value) != e->data.scalar.length)
        return fail_at(r, e->start_mark, "a key may not contain a zero byte");
    return EBB_OK;
}

/* The value of a key: path grows by ".key" while it is read. */
static ebb_status_t read_member(reader_t *r, const yaml_event_t *key, json_t *object)
{
    EBB_TRY(check_key(r, key));
    const char *name = (const char *)key->data.scalar.value;
    size_t at = strlen(r->path);
    if (json_object_get(object, name)) {
        char message[200];
        snprintf(message, sizeof message, "the key \"%.120s\" is given twice; remove one", name);
        return fail_at(r, key->start_mark, message);
    }
    if (at + strlen(name) + 2 > MAX_PATH)
        return fail_at(r, key->start_mark, "the key is too long");
    snprintf(r->path + at, MAX_PATH - at, "%s%s", at ? "." : "", name);
    EBB_TRY(note_line(r, key->start_mark));
    yaml_event_t event;
    json_t *value = NULL;
    EBB_TRY(next_event(r, &event));
    ebb_status_t status = read_value(r, &event, &value);
    yaml_event_delete(&event);
    EBB_TRY(status);
    r->path[at] = 0;
    if (json_object_set_new(object, name, value) != 0)
        return fail_at(r, r->parser.mark, "the key is not valid UTF-8");
    return EBB_OK;
}

static ebb_status_t read_item(reader_t *r, const yaml_event_t *first, json_t *array)
{
    size_t at = strlen(r->path);
    json_t *value = NULL;
    if (at + 24 > MAX_PATH)
        return fail_at(r, first->start_mark, "the list is nested too deeply");
    snprintf(r->path + at, MAX_PATH - at, "[%zu]", json_array_size(array));
    EBB_TRY(note_line(r, first->start_mark));
    EBB_TRY(read_value(r, first, &value));
    r->path[at] = 0;
    return json_array_append_new(array, value) == 0 ? EBB_OK : out_of_memory();
}

static ebb_status_t read_members(reader_t *r, json_t *container, yaml_event_type_t end)
{
    for (;;) {
        yaml_event_t event;
        EBB_TRY(next_event(r, &event));
        if (event.type == end) {
            yaml_event_delete(&event);
            return EBB_OK;
        }
        ebb_status_t status =
            end == YAML_MAPPING_END_EVENT ? read_member(r, &event, container) : read_item(r, &event, container);
        yaml_event_delete(&event);
        EBB_TRY(status);
    }
}

static ebb_status_t read_container(reader_t *r, yaml_mark_t mark, bool mapping, json_t **json_p)
{
    if (r->depth >= MAX_DEPTH)
        return fail_at(r, mark, "nested deeper than 64 levels");
    json_t *container = mapping ? json_object() : json_array();
    if (!container)
        return out_of_memory();
    r->depth++;
    ebb_status_t status = read_members(r, container, mapping ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT);
    r->depth--;
    if (status != EBB_OK) {
        json_decref(container);
        return status;
    }
    *json_p = container;
    return EBB_OK;
}

static ebb_status_t read_value(reader_t *r, const yaml_event_t *first, json_t **json_p)
{
    const yaml_char_t *anchor = NULL, *tag = NULL;
    switch (first->type) {
    case YAML_SCALAR_EVENT:
        anchor = first->data.scalar.anchor;
        tag = first->data.scalar.tag;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = first->data.mapping_start.anchor;
        tag = first->data.mapping_start.tag;
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchor = first->data.sequence_start.anchor;
        tag = first->data.sequence_start.tag;
        break;
    case YAML_ALIAS_EVENT:
        return fail_at(r, first->start_mark, "aliases (*name) are not supported; write the value out");
    default: return fail_at(r, first->start_mark, "a value is missing");
    }
    if (anchor)
        return fail_at(r, first->start_mark, "anchors (&name) are not supported; write the value out where it is used");
    if (tag)
        return fail_at(r, first->start_mark, "tags (!name) are not supported; put texts into quotes");
    if (first->type == YAML_SCALAR_EVENT)
        return make_scalar(r, first, json_p);
    return read_container(r, first->start_mark, first->type == YAML_MAPPING_START_EVENT, json_p);
}

/* Skip to the document's first event; EBB_END if there is none. */
static ebb_status_t open_document(reader_t *r, yaml_event_t *event)
{
    for (;;) {
        EBB_TRY(next_event(r, event));
        if (event->type == YAML_STREAM_END_EVENT) {
            yaml_event_delete(event);
            return EBB_END;
        }
        if (event->type != YAML_STREAM_START_EVENT && event->type != YAML_DOCUMENT_START_EVENT)
            return EBB_OK;
        yaml_event_delete(event);
    }
}

static ebb_status_t close_document(reader_t *r)
{
    yaml_event_t event;
    EBB_TRY(next_event(r, &event));
    yaml_event_delete(&event);
    ebb_status_t status = open_document(r, &event);
    if (status == EBB_END)
        return EBB_OK;
    EBB_TRY(status);
    status = fail_at(r, event.start_mark, "a second document begins here; only one is allowed");
    yaml_event_delete(&event);
    return status;
}

static ebb_status_t read_document(reader_t *r, json_t **json_p)
{
    yaml_event_t event;
    json_t *json = NULL;
    ebb_status_t status = open_document(r, &event);
    if (status == EBB_END)
        return EBB_FAIL(EBB_EUSAGE, "%s: empty; expected lines of the form \"key: value\"", r->origin);
    EBB_TRY(status);
    status = read_value(r, &event, &json);
    yaml_event_delete(&event);
    EBB_TRY(status);
    status = close_document(r);
    if (status == EBB_OK)
        *json_p = json;
    else
        json_decref(json);
    return status;
}

/* Any YAML text to JSON; lines may be NULL. */
static ebb_status_t read_text(const char *text, size_t bytes, const char *origin, json_t *lines, json_t **json_p)
{
    reader_t r = {.origin = origin, .lines = lines};
    if (bytes > MAX_BYTES)
        return EBB_FAIL(EBB_EUSAGE, "%s: %zu bytes is too large for a run file (4 MiB at most)", origin, bytes);
    if (!yaml_parser_initialize(&r.parser))
        return out_of_memory();
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, bytes);
    ebb_status_t status = read_document(&r, json_p);
    yaml_parser_delete(&r.parser);
    return status;
}

ebb_status_t ebb_yaml_parse(const char *text, size_t bytes, const char *origin, ebb_yaml_t *yaml)
{
    *yaml = (ebb_yaml_t){.lines = json_object(), .origin = ebb_strdup(origin)};
    ebb_status_t status = yaml->lines && yaml->origin ? EBB_OK : out_of_memory();
    if (status == EBB_OK)
        status = read_text(text, bytes, origin, yaml->lines, &yaml->root);
    if (status == EBB_OK && !json_is_object(yaml->root))
        status = EBB_FAIL(EBB_EUSAGE, "%s: expected lines of the form \"key: value\"", origin);
    if (status != EBB_OK)
        ebb_yaml_free(yaml);
    return status;
}

ebb_status_t ebb_yaml_load(const char *path, ebb_yaml_t *yaml)
{
    char *text;
    size_t bytes;
    *yaml = (ebb_yaml_t){0};
    if (ebb_file_size(path) > MAX_BYTES)
        return EBB_FAIL(EBB_EUSAGE, "%s: too large for a run file (4 MiB at most)", path);
    EBB_TRY(ebb_file_read_all(path, &text, &bytes));
    ebb_status_t status = ebb_yaml_parse(text, bytes, path, yaml);
    ebb_free(text);
    return status;
}

void ebb_yaml_free(ebb_yaml_t *yaml)
{
    json_decref(yaml->root);
    json_decref(yaml->lines);
    ebb_free(yaml->origin);
    *yaml = (ebb_yaml_t){0};
}

/* ---- overriding ---- */

static ebb_status_t bad_set(const char *assignment, const char *why)
{
    return EBB_FAIL(EBB_EUSAGE, "--set %.200s: %s", assignment, why);
}

/* One step of a path: a key, then any number of [index]. */
typedef struct step {
    char key[MAX_PATH];
    int64_t index; /* -1: the step is a key */
} step_t;

static ebb_status_t next_step(const char **path, const char *end, const char *assignment, step_t *step)
{
    const char *p = *path;
    step->index = -1;
    if (*p == '[') {
        char *close;
        long long index = isdigit((unsigned char)p[1]) ? strtoll(p + 1, &close, 10) : -1;
        if (index < 0 || index > MAX_VALUES || *close != ']')
            return bad_set(assignment, "a list index is written [0], [1], ...");
        step->index = index;
        p = close + 1;
    } else {
        size_t n = 0;
        while (p + n < end && p[n] != '.' && p[n] != '[')
            n++;
        if (n == 0)
            return bad_set(assignment, "a key is empty; write it as key=value or part.key=value");
        snprintf(step->key, sizeof step->key, "%.*s", (int)n, p);
        p += n;
    }
    if (p < end && *p == '.') {
        p++;
        if (p == end)
            return bad_set(assignment, "a key is empty; write it as key=value or part.key=value");
    } else if (p < end && *p != '[') {
        return bad_set(assignment, "after ] comes . or =");
    }
    *path = p;
    return EBB_OK;
}

static ebb_status_t put(json_t *container, const step_t *step, json_t *value, const char *assignment)
{
    bool list = step->index >= 0;
    if (list != json_is_array(container) || list == json_is_object(container)) {
        json_decref(value);
        return bad_set(assignment, list ? "an index is given, but there is no list" : "there is no object with keys");
    }
    if (!list)
        return json_object_set_new(container, step->key, value) == 0 ? EBB_OK
                                                                     : bad_set(assignment, "a key is not valid UTF-8");
    size_t n = json_array_size(container), i = (size_t)step->index;
    if (i > n) {
        json_decref(value);
        return EBB_FAIL(EBB_EUSAGE, "--set %.200s: index %zu is beyond the list of %zu", assignment, i, n);
    }
    int rc = i == n ? json_array_append_new(container, value) : json_array_set_new(container, i, value);
    return rc == 0 ? EBB_OK : out_of_memory();
}

/* The member a step leads to; a missing one is made, as list or object by what follows. */
static ebb_status_t descend(json_t **container_p, const step_t *step, bool list_follows, const char *assignment)
{
    json_t *inner =
        step->index >= 0 ? json_array_get(*container_p, (size_t)step->index) : json_object_get(*container_p, step->key);
    if (!inner || json_is_null(inner)) {
        inner = list_follows ? json_array() : json_object();
        if (!inner)
            return out_of_memory();
        EBB_TRY(put(*container_p, step, inner, assignment));
    }
    *container_p = inner;
    return EBB_OK;
}

/* Take ownership of value. */
static ebb_status_t assign(json_t *root, const char *path, const char *end, json_t *value, const char *assignment)
{
    step_t step;
    for (;;) {
        ebb_status_t status = next_step(&path, end, assignment, &step);
        if (status == EBB_OK && path == end)
            return put(root, &step, value, assignment);
        if (status == EBB_OK)
            status = descend(&root, &step, *path == '[', assignment);
        if (status != EBB_OK) {
            json_decref(value);
            return status;
        }
    }
}

/* Lines of path and of all below it give way to "--set" (0). */
static ebb_status_t forget_lines(json_t *lines, const char *path)
{
    const char *key;
    json_t *line;
    void *next;
    size_t n = strlen(path);
    json_object_foreach_safe(lines, next, key, line)
    {
        if (strncmp(key, path, n) == 0 && (key[n] == '.' || key[n] == '['))
            json_object_del(lines, key);
    }
    return json_object_set_new(lines, path, json_integer(0)) == 0 ? EBB_OK : out_of_memory();
}

ebb_status_t ebb_yaml_set(ebb_yaml_t *yaml, const char *assignment)
{
    const char *equals = strchr(assignment, '=');
    char path[MAX_PATH], origin[MAX_PATH + 8];
    json_t *value = NULL;
    if (!equals || equals == assignment)
        return bad_set(assignment, "write it as key=value or part.key=value");
    if ((size_t)(equals - assignment) >= sizeof path)
        return bad_set(assignment, "the key is too long");
    snprintf(path, sizeof path, "%.*s", (int)(equals - assignment), assignment);
    snprintf(origin, sizeof origin, "--set %s", path);
    if (equals[1 + strspn(equals + 1, " ")] == 0)
        value = json_null();
    else
        EBB_TRY(read_text(equals + 1, strlen(equals + 1), origin, NULL, &value));
    EBB_TRY(assign(yaml->root, assignment, equals, value, assignment));
    return forget_lines(yaml->lines, path);
}

const char *ebb_yaml_where(const ebb_yaml_t *yaml, const char *path)
{
    static _Thread_local char where[4200];
    char parent[MAX_PATH];
    snprintf(parent, sizeof parent, "%s", path);
    for (;;) {
        json_t *line = json_object_get(yaml->lines, parent);
        if (line && json_integer_value(line) == 0)
            return "--set";
        if (line) {
            snprintf(where, sizeof where, "%.4096s:%lld", yaml->origin, (long long)json_integer_value(line));
            return where;
        }
        char *dot = strrchr(parent, '.'), *bracket = strrchr(parent, '['), *cut = dot > bracket ? dot : bracket;
        if (!cut)
            break;
        *cut = 0;
    }
    snprintf(where, sizeof where, "%.4096s", yaml->origin);
    return where;
}

ebb_status_t ebb_yaml_locate_error(const ebb_yaml_t *yaml, const char *section)
{
    static const char unknown[] = ": unknown key \"";
    const char *message = ebb_error()->message;
    size_t n = strcspn(message, ": "), m = strlen(section);
    char path[MAX_PATH];
    if (strncmp(message, section, m) != 0 || (n > m && message[m] != '.' && message[m] != '['))
        return ebb_error()->status;
    int written = snprintf(path, sizeof path, "%.*s", (int)n, message);
    if (strncmp(message + n, unknown, sizeof unknown - 1) == 0) {
        const char *key = message + n + sizeof unknown - 1;
        snprintf(path + written, sizeof path - (size_t)written, ".%.*s", (int)strcspn(key, "\""), key);
    }
    return ebb_error_prefix("%s: ", ebb_yaml_where(yaml, path));
}
