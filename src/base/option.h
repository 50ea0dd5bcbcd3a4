/* Options: one table row each, from which the command-line parser, the run file's schema, --help, the man pages, the
 * bash completion and the run record are made. */
#ifndef EBB_BASE_OPTION_H
#define EBB_BASE_OPTION_H

#include <ebb/base.h>
#include "base/json.h"
#include "base/text.h"

typedef enum ebb_option_type {
    EBB_OPT_FLAG, /* bool; --name, --no-name, true/false */
    EBB_OPT_I64,
    EBB_OPT_F64,
    EBB_OPT_BYTES,  /* int64_t, "512M" */
    EBB_OPT_STRING, /* char *, owned by the target: NULL until set; freed by ebb_options_free */
    EBB_OPT_CHOICE, /* int; help's choices in `choices` */
    EBB_OPT_LIST,   /* ebb_string_list_t; may be given more than once */
    EBB_OPT_JSON,   /* json_t *: a subtree of the run file taken as it is (layers, optimizer) */
} ebb_option_type_t;

typedef struct ebb_string_list {
    int n;
    char **item;
} ebb_string_list_t;

typedef struct ebb_option {
    const char *name; /* "batch", or a dotted key of the run file: "train.batch" */
    char letter;      /* short form, or 0 */
    ebb_option_type_t type;
    size_t offset;              /* of the field in the target structure */
    const char *def;            /* default as text; NULL: none (0 or NULL); a list has none */
    const char *unit;           /* "rows", "bytes", ... or NULL; for texts what they are: "file", "name" */
    double min, max;            /* range of numbers; both 0: any; INFINITY for an open end */
    const char *const *choices; /* NULL-terminated, for EBB_OPT_CHOICE */
    const char *help;           /* one sentence, no final full stop */
} ebb_option_t;

/* Fill target with the defaults of the table (ends with a row whose name is NULL). */
ebb_status_t ebb_options_defaults(const ebb_option_t *table, void *target);
void ebb_options_free(const ebb_option_t *table, void *target);
/* Set one option from text; origin ("--batch", "run.yaml:12") begins the error. */
ebb_status_t ebb_option_set(const ebb_option_t *option, void *target, const char *text, const char *origin);
/* Set one option from a JSON value of the right type (strings are parsed as text would be). */
ebb_status_t ebb_option_set_json(const ebb_option_t *option, void *target, const json_t *value, const char *origin);
/* All values of the table as nested JSON (dots become objects). */
ebb_status_t ebb_options_json(const ebb_option_t *table, const void *target, json_t **json_p);

/* Parse a command line argv[1 .. argc-1]: options anywhere, "--" ends them, the rest are operands. *operands_p points
 * into argv (reordered). Unknown options name the nearest valid one. EBB_END if --help was asked for. */
ebb_status_t ebb_options_parse(const ebb_option_t *table, void *target, int argc, char **argv, int *n_operands_p,
                               char ***operands_p);
/* Append the options, wrapped to `width` columns, with defaults, units and ranges. */
void ebb_options_help(const ebb_option_t *table, ebb_text_t *out, int width);
/* The same for keys of a run file ("train.batch: ROWS"). */
void ebb_options_help_keys(const ebb_option_t *table, ebb_text_t *out, int width);
/* The parts, for man pages and completion: what stands for the value ("ROWS"; nothing for a flag), and the sentence
 * with range and default. */
void ebb_option_placeholder(const ebb_option_t *option, ebb_text_t *out);
void ebb_option_describe(const ebb_option_t *option, ebb_text_t *out);

#endif
