/* Subcommands: one table row each, from which dispatch, help, man pages and completion are made.
 *
 * A subcommand VERB is a file cmd_VERB.c that defines `const ebb_command_t cmd_VERB`, a declaration here, a row in
 * ebb.c and its name in apps/CMakeLists.txt. A name of two words ("bench loader") makes one of a group, here all that
 * begin with "bench"; its file is cmd_bench_loader.c. main() allocates the option structure, fills in defaults, parses
 * the command line, checks the number of operands, calls run, prints the error and frees. */
#ifndef EBB_APPS_COMMANDS_H
#define EBB_APPS_COMMANDS_H

#include <ebb/base.h>
#include "base/option.h"
#include "base/text.h"

#include <limits.h>

#define ANY_OPERANDS (-1)

typedef struct ebb_example {
    const char *what; /* one sentence, no final full stop */
    const char *line; /* the command line */
} ebb_example_t;

typedef struct ebb_command {
    const char *name;     /* one word, or two of a group */
    const char *help;     /* one line, no final full stop */
    const char *operands; /* "SOURCE... DEST"; "" if none */
    const char *about;    /* paragraphs of running text, each ended by \n */
    int min_operands, max_operands;
    const ebb_option_t *options;   /* ends with a row without a name; --help is added */
    size_t options_bytes;          /* size of the structure they fill */
    const ebb_example_t *examples; /* ends with a row without a line */
    bool hidden;                   /* not listed, not documented */
    ebb_status_t (*run)(void *options, int n_operands, char **operands);
} ebb_command_t;

/* Call act every so many seconds, at least 1, until SIGINT or SIGTERM comes, which stay blocked. */
void ebb_repeat(double every_s, void (*act)(void *user), void *user);

/* Options that several subcommands have: the parts of a row for the structure `options` of each. */
#define OPTION_DATASET(options, text)                                                                                  \
    .name = "dataset", .type = EBB_OPT_STRING, .offset = offsetof(options, dataset), .help = text
#define OPTION_THREADS(options)                                                                                        \
    .name = "threads", .letter = 't', .type = EBB_OPT_I64, .offset = offsetof(options, threads), .def = "0",           \
    .unit = "threads", .min = 0, .max = 4096,                                                                          \
    .help = "threads per rank; 0: the cores of the host divided by its ranks, for GPUs 4 at most"
#define DATASET_WITH_TARGETS "in a foreign HDF5 file: path of X, and after a colon of the targets"

extern const ebb_command_t cmd_train;
extern const ebb_command_t cmd_run;
extern const ebb_command_t cmd_scale;
extern const ebb_command_t cmd_meter;
extern const ebb_command_t cmd_profile;
extern const ebb_command_t cmd_report;
extern const ebb_command_t cmd_compare;
extern const ebb_command_t cmd_eval;
extern const ebb_command_t cmd_predict;
extern const ebb_command_t cmd_export;
extern const ebb_command_t cmd_check_model;
extern const ebb_command_t cmd_doctor;
extern const ebb_command_t cmd_inspect;
extern const ebb_command_t cmd_pack;
extern const ebb_command_t cmd_verify;
extern const ebb_command_t cmd_ckpt_list;
extern const ebb_command_t cmd_ckpt_verify;
extern const ebb_command_t cmd_ckpt_diff;
extern const ebb_command_t cmd_bench_loader;
extern const ebb_command_t cmd_plan;
extern const ebb_command_t cmd_carbon_now;
extern const ebb_command_t cmd_carbon_forecast;
extern const ebb_command_t cmd_carbon_zones;
extern const ebb_command_t cmd_submit;
extern const ebb_command_t cmd_queue;
extern const ebb_command_t cmd_cancel;
extern const ebb_command_t cmd_hold;
extern const ebb_command_t cmd_release;
extern const ebb_command_t cmd_carbon_export;
extern const ebb_command_t cmd_logs;
extern const ebb_command_t cmd_why;
extern const ebb_command_t cmd_agent;
extern const ebb_command_t cmd_keep_job;
extern const ebb_command_t cmd_slurm;
extern const ebb_command_t cmd_generate_docs;

/* Exit status of a command that succeeded: 0 unless it answers a question with no. */
extern int ebb_command_exit;

/* The command line as it was given. */
extern int ebb_argc;
extern char *const *ebb_argv;

/* All subcommands, NULL-terminated, in the order of `ebb help`. */
extern const ebb_command_t *const ebb_commands[];

/* What Ebb is, in two lines; for help and the man page. */
extern const char ebb_about[];

/* "usage: ebb pack [OPTION]... SOURCE... DEST" */
void ebb_command_usage(const ebb_command_t *command, ebb_text_t *out);

/* Write the man pages and the bash completion of all subcommands into a folder. */
ebb_status_t ebb_docs_write(const char *folder);

/* A run, model or ledger by its path, or a run by the name of its folder in runs/: the path, `name` itself or in
 * `path`. */
const char *ebb_run_named(const char *name, char path[PATH_MAX]);

/* Remove the models and checkpoints in a run's folder. */
ebb_status_t ebb_remove_models(const char *folder);

/* Columns of the terminal on stdout, at most 100; 80 elsewhere. */
int ebb_stdout_width(void);

#endif
