/* Options: setting fields of a structure from text, from JSON and from a command line, by a table.
 *
 * Text and JSON end in the same setters, so ranges and choices are checked in one place. Every error begins with the
 * place it came from and says what would have been right. */
#include "base/option.h"
#include "base/alloc.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HELP_COLUMN 30

static void *field(const ebb_option_t *option, void *target)
{
    return (char *)target + option->offset;
}

static bool has_range(const ebb_option_t *option)
{
    return option->min != 0 || option->max != 0;
}

/* "1 to 64 rows", "at least 1 rows" */
static const char *format_range(const ebb_option_t *o, char *text, size_t size)
{
    const char *unit = o->unit ? o->unit : "", *space = o->unit ? " " : "";
    if (isinf(o->max))
        snprintf(text, size, "at least %.15g%s%s", o->min, space, unit);
    else if (isinf(o->min))
        snprintf(text, size, "at most %.15g%s%s", o->max, space, unit);
    else
        snprintf(text, size, "%.15g to %.15g%s%s", o->min, o->max, space, unit);
    return text;
}

static ebb_status_t check_range(const ebb_option_t *option, double value)
{
    char range[96];
    if (!has_range(option) || (value >= option->min && value <= option->max))
        return EBB_OK;
    return EBB_FAIL(EBB_EUSAGE, "%.15g is out of range; give %s", value, format_range(option, range, sizeof range));
}

static ebb_status_t set_i64(const ebb_option_t *option, void *target, int64_t value)
{
    EBB_TRY(check_range(option, (double)value));
    *(int64_t *)field(option, target) = value;
    return EBB_OK;
}

static ebb_status_t set_f64(const ebb_option_t *option, void *target, double value)
{
    EBB_TRY(check_range(option, value));
    *(double *)field(option, target) = value;
    return EBB_OK;
}

static ebb_status_t set_flag(const ebb_option_t *option, void *target, const char *text)
{
    static const char *const words[] = {"false", "no", "off", "0", "true", "yes", "on", "1"};
    for (size_t i = 0; i < 8; i++) {
        if (strcmp(text, words[i]) == 0) {
            *(bool *)field(option, target) = i >= 4;
            return EBB_OK;
        }
    }
    return EBB_FAIL(EBB_EUSAGE, "\"%.80s\" is neither true nor false", text);
}

static ebb_status_t set_choice(const ebb_option_t *option, void *target, const char *text)
{
    ebb_text_t list = {0};
    for (int i = 0; option->choices[i]; i++) {
        if (strcmp(text, option->choices[i]) == 0) {
            *(int *)field(option, target) = i;
            ebb_text_free(&list);
            return EBB_OK;
        }
        ebb_text_add(&list, "%s%s", i ? ", " : "", option->choices[i]);
    }
    const char *near = ebb_text_nearest(text, option->choices);
    ebb_status_t status;
    if (near)
        status = EBB_FAIL(EBB_EUSAGE, "\"%.80s\" is not one of %s; did you mean %s?", text, list.s, near);
    else
        status = EBB_FAIL(EBB_EUSAGE, "\"%.80s\" is not one of %s", text, list.s ? list.s : "the choices");
    ebb_text_free(&list);
    return status;
}

static ebb_status_t set_string(const ebb_option_t *option, void *target, const char *text)
{
    char *copy = ebb_strdup(text);
    if (!copy)
        return ebb_error()->status;
    ebb_free(*(char **)field(option, target));
    *(char **)field(option, target) = copy;
    return EBB_OK;
}

static ebb_status_t add_item(const ebb_option_t *option, void *target, const char *text)
{
    ebb_string_list_t *list = field(option, target);
    char **item, *copy = ebb_strdup(text);
    if (!copy)
        return ebb_error()->status;
    if (EBB_NEW_ARRAY("list of texts", list->n + 1, &item) != EBB_OK) {
        ebb_free(copy);
        return ebb_error()->status;
    }
    if (list->n > 0)
        memcpy(item, list->item, (size_t)list->n * sizeof *item);
    item[list->n] = copy;
    ebb_free(list->item);
    list->item = item;
    list->n++;
    return EBB_OK;
}

static void free_list(ebb_string_list_t *list)
{
    for (int i = 0; i < list->n; i++)
        ebb_free(list->item[i]);
    ebb_free(list->item);
    *list = (ebb_string_list_t){0};
}

static void set_json_field(const ebb_option_t *option, void *target, json_t *owned)
{
    json_decref(*(json_t **)field(option, target));
    *(json_t **)field(option, target) = owned;
}

static ebb_status_t set_text(const ebb_option_t *option, void *target, const char *text)
{
    int64_t i;
    double f;
    json_t *json;
    switch (option->type) {
    case EBB_OPT_FLAG: return set_flag(option, target, text);
    case EBB_OPT_CHOICE: return set_choice(option, target, text);
    case EBB_OPT_STRING: return set_string(option, target, text);
    case EBB_OPT_LIST: return add_item(option, target, text);
    case EBB_OPT_I64: EBB_TRY(ebb_parse_i64(text, &i)); return set_i64(option, target, i);
    case EBB_OPT_F64: EBB_TRY(ebb_parse_f64(text, &f)); return set_f64(option, target, f);
    case EBB_OPT_BYTES: EBB_TRY(ebb_parse_bytes(text, &i)); return set_i64(option, target, i);
    case EBB_OPT_JSON:
        EBB_TRY(ebb_json_parse(text, strlen(text), "value", &json));
        set_json_field(option, target, json);
        return EBB_OK;
    }
    return EBB_FAIL(EBB_EBUG, "option %s has the unknown type %d", option->name, (int)option->type);
}

/* The place, and the option's name where the place does not say it. */
static ebb_status_t at_place(ebb_status_t status, const ebb_option_t *option, const char *origin)
{
    if (status == EBB_OK)
        return EBB_OK;
    size_t n = strlen(origin), m = strlen(option->name);
    if (n >= m && strcmp(origin + n - m, option->name) == 0)
        return ebb_error_prefix("%s: ", origin);
    return ebb_error_prefix("%s: %s: ", origin, option->name);
}

ebb_status_t ebb_option_set(const ebb_option_t *option, void *target, const char *text, const char *origin)
{
    return at_place(set_text(option, target, text), option, origin);
}

static const char *expected(const ebb_option_t *option)
{
    switch (option->type) {
    case EBB_OPT_FLAG: return "true or false";
    case EBB_OPT_I64: return "a whole number";
    case EBB_OPT_F64: return "a number";
    case EBB_OPT_BYTES: return "a size such as 512M";
    case EBB_OPT_LIST: return "a list of texts";
    default: return "a text";
    }
}

static ebb_status_t wrong_type(const ebb_option_t *option, const json_t *value)
{
    char *dump = ebb_json_dump(value);
    ebb_status_t status =
        EBB_FAIL(EBB_EUSAGE, "expected %s%s%s%s, not %.60s", expected(option), option->unit ? " (" : "",
                 option->unit ? option->unit : "", option->unit ? ")" : "", dump ? dump : "this");
    free(dump);
    return status;
}

static ebb_status_t set_json_number(const ebb_option_t *option, void *target, const json_t *value)
{
    double f = json_number_value(value);
    char text[40];
    switch (option->type) {
    case EBB_OPT_F64: return set_f64(option, target, f);
    case EBB_OPT_I64:
    case EBB_OPT_BYTES:
        if (json_is_integer(value))
            return set_i64(option, target, json_integer_value(value));
        if (f == floor(f) && fabs(f) < 9007199254740992.0) /* 1e6 in YAML is a real, and means the integer */
            return set_i64(option, target, (int64_t)f);
        return wrong_type(option, value);
    case EBB_OPT_STRING:
        if (json_is_integer(value))
            snprintf(text, sizeof text, "%lld", (long long)json_integer_value(value));
        else
            snprintf(text, sizeof text, "%.17g", f);
        return set_string(option, target, text);
    default: return wrong_type(option, value);
    }
}

static ebb_status_t set_json_list(const ebb_option_t *option, void *target, const json_t *value)
{
    size_t i;
    json_t *item;
    free_list(field(option, target));
    json_array_foreach(value, i, item)
    {
        if (!json_is_string(item))
            return wrong_type(option, value);
        EBB_TRY(add_item(option, target, json_string_value(item)));
    }
    return EBB_OK;
}

static void clear_field(const ebb_option_t *option, void *target)
{
    switch (option->type) {
    case EBB_OPT_FLAG: *(bool *)field(option, target) = false; break;
    case EBB_OPT_I64:
    case EBB_OPT_BYTES: *(int64_t *)field(option, target) = 0; break;
    case EBB_OPT_F64: *(double *)field(option, target) = 0; break;
    case EBB_OPT_CHOICE: *(int *)field(option, target) = 0; break;
    case EBB_OPT_STRING: *(char **)field(option, target) = NULL; break;
    case EBB_OPT_LIST: *(ebb_string_list_t *)field(option, target) = (ebb_string_list_t){0}; break;
    case EBB_OPT_JSON: *(json_t **)field(option, target) = NULL; break;
    }
}

static void free_field(const ebb_option_t *option, void *target)
{
    if (option->type == EBB_OPT_STRING)
        ebb_free(*(char **)field(option, target));
    else if (option->type == EBB_OPT_LIST)
        free_list(field(option, target));
    else if (option->type == EBB_OPT_JSON)
        json_decref(*(json_t **)field(option, target));
    clear_field(option, target);
}

static ebb_status_t set_default(const ebb_option_t *option, void *target)
{
    return option->def ? ebb_option_set(option, target, option->def, "default") : EBB_OK;
}

static ebb_status_t set_value(const ebb_option_t *option, void *target, const json_t *value)
{
    if (option->type == EBB_OPT_JSON) {
        set_json_field(option, target, json_incref((json_t *)(uintptr_t)value));
        return EBB_OK;
    }
    if (json_is_null(value)) {
        free_field(option, target);
        return set_default(option, target);
    }
    if (json_is_number(value))
        return set_json_number(option, target, value);
    if (json_is_array(value) && option->type == EBB_OPT_LIST)
        return set_json_list(option, target, value);
    if (json_is_boolean(value) && option->type == EBB_OPT_FLAG)
        return set_flag(option, target, json_is_true(value) ? "true" : "false");
    if (!json_is_string(value))
        return wrong_type(option, value);
    if (option->type == EBB_OPT_LIST)
        free_list(field(option, target));
    return set_text(option, target, json_string_value(value));
}

ebb_status_t ebb_option_set_json(const ebb_option_t *option, void *target, const json_t *value, const char *origin)
{
    return at_place(set_value(option, target, value), option, origin);
}

ebb_status_t ebb_options_defaults(const ebb_option_t *table, void *target)
{
    for (const ebb_option_t *option = table; option->name; option++)
        clear_field(option, target);
    for (; table->name; table++)
        EBB_TRY(set_default(table, target));
    return EBB_OK;
}

void ebb_options_free(const ebb_option_t *table, void *target)
{
    for (; table->name; table++)
        free_field(table, target);
}

static json_t *list_json(const ebb_string_list_t *list)
{
    json_t *array = json_array();
    for (int i = 0; i < list->n; i++)
        json_array_append_new(array, json_string(list->item[i]));
    return array;
}

static json_t *value_json(const ebb_option_t *option, const void *target)
{
    const void *p = (const char *)target + option->offset;
    const char *s;
    switch (option->type) {
    case EBB_OPT_FLAG: return json_boolean(*(const bool *)p);
    case EBB_OPT_I64:
    case EBB_OPT_BYTES: return json_integer(*(const int64_t *)p);
    case EBB_OPT_F64: return json_real(*(const double *)p);
    case EBB_OPT_CHOICE: return json_string(option->choices[*(const int *)p]);
    case EBB_OPT_STRING: return (s = *(char *const *)p) ? json_string(s) : json_null();
    case EBB_OPT_LIST: return list_json(p);
    case EBB_OPT_JSON: return *(json_t *const *)p ? json_incref(*(json_t *const *)p) : json_null();
    }
    return NULL;
}

/* Put value (owned) under the dotted name, making objects on the way. */
static int put_nested(json_t *object, const char *name, json_t *value)
{
    const char *dot;
    char part[64];
    while ((dot = strchr(name, '.')) && (size_t)(dot - name) < sizeof part) {
        snprintf(part, sizeof part, "%.*s", (int)(dot - name), name);
        json_t *inner = json_object_get(object, part);
        if (!inner && json_object_set_new(object, part, inner = json_object()) != 0)
            break;
        object = inner;
        name = dot + 1;
    }
    return json_object_set_new(object, name, value);
}

ebb_status_t ebb_options_json(const ebb_option_t *table, const void *target, json_t **json_p)
{
    json_t *json = json_object();
    *json_p = NULL;
    for (; json && table->name; table++) {
        if (put_nested(json, table->name, value_json(table, target)) != 0) {
            json_decref(json);
            json = NULL;
        }
    }
    if (!json)
        return EBB_FAIL(EBB_ENOMEM, "out of memory: options as JSON");
    *json_p = json;
    return EBB_OK;
}

static const ebb_option_t *find(const ebb_option_t *table, const char *name, size_t n)
{
    for (; table->name; table++)
        if (strlen(table->name) == n && strncmp(table->name, name, n) == 0)
            return table;
    return NULL;
}

static ebb_status_t unknown_option(const ebb_option_t *table, const char *name, size_t n)
{
    const char *names[128] = {0};
    bool has_keys = find(table, "set", 3) != NULL;
    char word[64];
    int count = 0;
    snprintf(word, sizeof word, "%.*s", (int)(n < 63 ? n : 63), name);
    for (; table->name && count < 126; table++)
        names[count++] = table->name;
    names[count] = "help";
    const char *near = ebb_text_nearest(word, names);
    if (near)
        return EBB_FAIL(EBB_EUSAGE, "unknown option --%s; did you mean --%s?", word, near);
    return EBB_FAIL(EBB_EUSAGE, "unknown option --%s; --help lists the options%s", word,
                    has_keys ? ", and a key of the run file is set by --set KEY=VALUE" : "");
}

/* The words of a command line being read. */
typedef struct line {
    const ebb_option_t *table;
    void *target;
    int argc, next;
    char **argv;
} line_t;

static ebb_status_t take_value(line_t *line, const ebb_option_t *option, const char *origin)
{
    if (line->next >= line->argc || strncmp(line->argv[line->next], "--", 2) == 0)
        return EBB_FAIL(EBB_EUSAGE, "%s: a value must follow: %s%s%s%s", origin, expected(option),
                        option->unit ? " (" : "", option->unit ? option->unit : "", option->unit ? ")" : "");
    return ebb_option_set(option, line->target, line->argv[line->next++], origin);
}

static ebb_status_t read_long(line_t *line, const char *word)
{
    const char *equals = strchr(word, '=');
    size_t n = equals ? (size_t)(equals - word) : strlen(word);
    char origin[80];
    if (!equals && strcmp(word, "help") == 0)
        return EBB_END;
    const ebb_option_t *option = find(line->table, word, n);
    bool no = !option && strncmp(word, "no-", 3) == 0;
    if (no)
        option = find(line->table, word + 3, n - 3);
    if (!option || (no && option->type != EBB_OPT_FLAG))
        return unknown_option(line->table, word, n);
    snprintf(origin, sizeof origin, "--%s%s", no ? "no-" : "", option->name);
    if (no && equals)
        return EBB_FAIL(EBB_EUSAGE, "%s takes no value", origin);
    if (equals)
        return ebb_option_set(option, line->target, equals + 1, origin);
    if (option->type == EBB_OPT_FLAG)
        return ebb_option_set(option, line->target, no ? "false" : "true", origin);
    return take_value(line, option, origin);
}

static ebb_status_t read_letters(line_t *line, const char *letters)
{
    for (; *letters; letters++) {
        const ebb_option_t *option = line->table;
        char origin[80];
        while (option->name && option->letter != *letters)
            option++;
        if (!option->name && *letters == 'h')
            return EBB_END;
        if (!option->name)
            return EBB_FAIL(EBB_EUSAGE, "unknown option -%c; --help lists the options", *letters);
        snprintf(origin, sizeof origin, "-%c/--%s", *letters, option->name);
        if (option->type != EBB_OPT_FLAG && letters[1])
            return ebb_option_set(option, line->target, letters + 1, origin);
        if (option->type != EBB_OPT_FLAG)
            return take_value(line, option, origin);
        EBB_TRY(ebb_option_set(option, line->target, "true", origin));
    }
    return EBB_OK;
}

ebb_status_t ebb_options_parse(const ebb_option_t *table, void *target, int argc, char **argv, int *n_operands_p,
                               char ***operands_p)
{
    line_t line = {.table = table, .target = target, .argc = argc, .next = 1, .argv = argv};
    int n = 0;
    bool only_operands = false;
    *operands_p = argv + 1;
    *n_operands_p = 0;
    /* operands move down to argv[1 ...]; what they overwrite has been read */
    while (line.next < argc) {
        char *word = argv[line.next++];
        if (only_operands || word[0] != '-' || !word[1])
            argv[++n] = word;
        else if (strcmp(word, "--") == 0)
            only_operands = true;
        else if (word[1] == '-')
            EBB_TRY(read_long(&line, word + 2));
        else
            EBB_TRY(read_letters(&line, word + 1));
    }
    *n_operands_p = n;
    return EBB_OK;
}

/* "ROWS", "SIZE", "sparse|dense": what stands for the value. */
void ebb_option_placeholder(const ebb_option_t *option, ebb_text_t *out)
{
    static const char *const by_type[] = {
        [EBB_OPT_I64] = "N",       [EBB_OPT_F64] = "X",     [EBB_OPT_BYTES] = "SIZE",
        [EBB_OPT_STRING] = "TEXT", [EBB_OPT_LIST] = "TEXT", [EBB_OPT_JSON] = "...",
    };
    if (option->type == EBB_OPT_CHOICE) {
        for (int i = 0; option->choices[i]; i++)
            ebb_text_add(out, "%s%s", i ? "|" : "", option->choices[i]);
    } else if (option->unit && option->type != EBB_OPT_BYTES) {
        for (const char *c = option->unit; *c; c++)
            ebb_text_add(out, "%c", *c == ' ' ? '-' : toupper((unsigned char)*c));
    } else if (option->type != EBB_OPT_FLAG) {
        ebb_text_add(out, "%s", by_type[option->type]);
    }
}

void ebb_option_describe(const ebb_option_t *option, ebb_text_t *out)
{
    char range[96];
    const char *separator = "";
    bool number = option->type == EBB_OPT_I64 || option->type == EBB_OPT_F64 || option->type == EBB_OPT_BYTES;
    ebb_text_add(out, "%s", option->help);
    bool ranged = number && has_range(option), defaulted = option->def && option->def[0];
    if (!ranged && !defaulted && option->type != EBB_OPT_LIST)
        return;
    ebb_text_add(out, " (");
    if (ranged) {
        ebb_text_add(out, "%s", format_range(option, range, sizeof range));
        separator = "; ";
    }
    if (option->type == EBB_OPT_LIST) {
        ebb_text_add(out, "%smay be repeated", separator);
        separator = "; ";
    }
    if (defaulted)
        ebb_text_add(out, "%sdefault %s%s%s", separator, option->def, number && option->unit && !ranged ? " " : "",
                     number && option->unit && !ranged ? option->unit : "");
    ebb_text_add(out, ")");
}

/* Words of text from `column` on, in lines of at most `width`, continued at HELP_COLUMN. */
static void add_wrapped(ebb_text_t *out, int column, int width, const char *text)
{
    while (*text) {
        int n = (int)strcspn(text, " ");
        if (column > HELP_COLUMN && column + 1 + n > width) {
            ebb_text_add(out, "\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
        } else if (column > HELP_COLUMN) {
            ebb_text_add(out, " ");
            column++;
        }
        ebb_text_append(out, text, (size_t)n);
        column += n;
        text += n + (text[n] == ' ');
    }
    ebb_text_add(out, "\n");
}

static void add_row(ebb_text_t *out, int width, const char *head, const char *help)
{
    int n = (int)strlen(head);
    if (n > HELP_COLUMN - 2)
        ebb_text_add(out, "%s\n%*s", head, HELP_COLUMN, "");
    else
        ebb_text_add(out, "%-*s", HELP_COLUMN, head);
    add_wrapped(out, HELP_COLUMN, width, help);
}

static void add_option_help(const ebb_option_t *option, bool keys, ebb_text_t *out, int width)
{
    ebb_text_t head = {0}, value = {0}, help = {0};
    ebb_option_placeholder(option, &value);
    ebb_option_describe(option, &help);
    if (keys)
        ebb_text_add(&head, "  %s:%s%s", option->name, value.s ? " " : "", value.s ? value.s : " true|false");
    else if (option->letter)
        ebb_text_add(&head, "  -%c, --%s%s%s", option->letter, option->name, value.s ? " " : "",
                     value.s ? value.s : "");
    else
        ebb_text_add(&head, "      --%s%s%s", option->name, value.s ? " " : "", value.s ? value.s : "");
    if (!head.failed && !help.failed)
        add_row(out, width, head.s, help.s);
    ebb_text_free(&head);
    ebb_text_free(&value);
    ebb_text_free(&help);
}

void ebb_options_help(const ebb_option_t *table, ebb_text_t *out, int width)
{
    for (; table->name; table++)
        add_option_help(table, false, out, width);
    add_row(out, width, "  -h, --help", "show this help");
}

void ebb_options_help_keys(const ebb_option_t *table, ebb_text_t *out, int width)
{
    for (; table->name; table++)
        add_option_help(table, true, out, width);
}
