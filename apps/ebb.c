/* The command `ebb`: finds the subcommand, parses its options, runs it, and says once what went wrong.
 *
 * A failure is printed by the rank that detected it; ranks that only heard of it leave with the same exit code. */
#include "commands.h"
#include "base/alloc.h"
#include "base/progress.h"
#include "base/status.h"
#include "comm/transport.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

const ebb_command_t *const ebb_commands[] = {
    &cmd_pack,         &cmd_inspect,     &cmd_verify,     &cmd_train,           &cmd_run,           &cmd_scale,
    &cmd_meter,        &cmd_profile,     &cmd_report,     &cmd_compare,         &cmd_eval,          &cmd_predict,
    &cmd_export,       &cmd_check_model, &cmd_doctor,     &cmd_ckpt_list,       &cmd_ckpt_verify,   &cmd_ckpt_diff,
    &cmd_bench_loader, &cmd_plan,        &cmd_carbon_now, &cmd_carbon_forecast, &cmd_carbon_zones,  &cmd_submit,
    &cmd_queue,        &cmd_cancel,      &cmd_hold,       &cmd_release,         &cmd_carbon_export, &cmd_logs,
    &cmd_why,          &cmd_agent,       &cmd_keep_job,   &cmd_slurm,           &cmd_generate_docs, NULL,
};

int ebb_command_exit;
int ebb_argc;
char *const *ebb_argv;

const char ebb_about[] =
    "Ebb packs data that does not fit in memory into compressed shards and trains models on it over any\n"
    "number of ranks and threads, always with the same model as result, bit for bit.\n";

int ebb_stdout_width(void)
{
    struct winsize size;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col < 60)
        return 80;
    return size.ws_col < 100 ? size.ws_col : 100;
}

void ebb_command_usage(const ebb_command_t *command, ebb_text_t *out)
{
    ebb_text_add(out, "usage: ebb %s [OPTION]...%s%s", command->name, command->operands[0] ? " " : "",
                 command->operands);
}

static ebb_status_t print(ebb_text_t *text)
{
    ebb_status_t status = text->failed ? EBB_FAIL(EBB_ENOMEM, "out of memory: help") : EBB_OK;
    if (status == EBB_OK)
        fputs(text->s, stdout);
    ebb_text_free(text);
    return status;
}

static ebb_status_t print_command_help(const ebb_command_t *command)
{
    ebb_text_t out = {0};
    ebb_command_usage(command, &out);
    ebb_text_add(&out, "\n\n%s\noptions:\n", command->about);
    ebb_options_help(command->options, &out, ebb_stdout_width());
    if (command->examples && command->examples->line)
        ebb_text_add(&out, "\nexamples:\n");
    for (const ebb_example_t *e = command->examples; e && e->line; e++)
        ebb_text_add(&out, "  %s:\n    %s\n", e->what, e->line);
    return print(&out);
}

static ebb_status_t print_help(void)
{
    ebb_text_t out = {0};
    ebb_text_add(&out, "usage: ebb COMMAND [OPTION]... [OPERAND]...\n\n%s\ncommands:\n", ebb_about);
    for (const ebb_command_t *const *c = ebb_commands; *c; c++)
        if (!(*c)->hidden)
            ebb_text_add(&out, "  %-14s%s\n", (*c)->name, (*c)->help);
    ebb_text_add(&out, "  %-14s%s\n", "help", "Show this help, or that of a command");
    ebb_text_add(&out, "\n`ebb COMMAND --help` lists a command's options. `ebb --version` prints the version.\n");
    return print(&out);
}

/* Is it a command of the group: "bench loader" of "bench"? */
static bool in_group(const ebb_command_t *command, const char *group)
{
    size_t n = strlen(group);
    return strncmp(command->name, group, n) == 0 && command->name[n] == ' ';
}

static bool is_group(const char *name)
{
    for (const ebb_command_t *const *c = ebb_commands; *c; c++)
        if (in_group(*c, name))
            return true;
    return false;
}

static ebb_status_t print_group_help(const char *group)
{
    ebb_text_t out = {0};
    ebb_text_add(&out, "usage: ebb %s NAME [OPTION]... [OPERAND]...\n\ncommands:\n", group);
    for (const ebb_command_t *const *c = ebb_commands; *c; c++)
        if (in_group(*c, group))
            ebb_text_add(&out, "  %s %-14s%s\n", group, (*c)->name + strlen(group) + 1, (*c)->help);
    ebb_text_add(&out, "\n`ebb %s NAME --help` lists a command's options.\n", group);
    return print(&out);
}

/* Up to two words of the command line; *words_p: how many of them are the command's name. */
static ebb_status_t find_command(int n, char **word, const ebb_command_t **command_p, int *words_p)
{
    const char *names[64] = {0};
    char full[128];
    int known = 0;
    *words_p = n > 1 && is_group(word[0]) ? 2 : 1;
    snprintf(full, sizeof full, "%.60s%s%.60s", word[0], *words_p > 1 ? " " : "", *words_p > 1 ? word[1] : "");
    for (const ebb_command_t *const *c = ebb_commands; *c; c++) {
        if (strcmp((*c)->name, full) == 0) {
            *command_p = *c;
            return EBB_OK;
        }
        if (!(*c)->hidden && known < 62)
            names[known++] = (*c)->name;
    }
    names[known] = "help";
    const char *near = ebb_text_nearest(full, names);
    if (is_group(word[0]) && n < 2)
        return EBB_FAIL(EBB_EUSAGE, "%s: a name must follow; `ebb help %s` lists them", word[0], word[0]);
    if (near)
        return EBB_FAIL(EBB_EUSAGE, "unknown command \"%.60s\"; did you mean %s?", full, near);
    return EBB_FAIL(EBB_EUSAGE, "unknown command \"%.60s\"; `ebb help` lists the commands", full);
}

static ebb_status_t check_operands(const ebb_command_t *command, int n)
{
    ebb_text_t usage = {0};
    ebb_status_t status = EBB_OK;
    bool too_many = command->max_operands != ANY_OPERANDS && n > command->max_operands;
    if (n >= command->min_operands && !too_many)
        return EBB_OK;
    ebb_command_usage(command, &usage);
    status = EBB_FAIL(EBB_EUSAGE, "%s: too %s operands (%d); %s", command->name, too_many ? "many" : "few", n,
                      usage.s ? usage.s : "see --help");
    ebb_text_free(&usage);
    return status;
}

static ebb_status_t run_command(const ebb_command_t *command, int argc, char **argv)
{
    void *options;
    char **operands;
    int n;
    EBB_TRY(ebb_alloc("options", command->options_bytes, &options));
    ebb_status_t status = ebb_options_defaults(command->options, options);
    if (status == EBB_OK)
        status = ebb_options_parse(command->options, options, argc, argv, &n, &operands);
    if (status == EBB_END)
        status = print_command_help(command);
    else if (status != EBB_OK)
        ebb_error_prefix("%s: ", command->name);
    else if ((status = check_operands(command, n)) == EBB_OK)
        status = command->run(options, n, operands);
    ebb_options_free(command->options, options);
    ebb_free(options);
    return status;
}

static bool asks_for_help(const char *word)
{
    return strcmp(word, "help") == 0 || strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

static ebb_status_t run(int argc, char **argv)
{
    const ebb_command_t *command = NULL;
    int words;
    if (argc < 2)
        return EBB_FAIL(EBB_EUSAGE, "a command must follow; `ebb help` lists the commands");
    const char *name = argv[1];
    bool help = asks_for_help(name);
    if (help && argc == 2)
        return print_help();
    if (help && argc == 3 && is_group(argv[2]))
        return print_group_help(argv[2]);
    if (is_group(name) && argc == 3 && asks_for_help(argv[2]))
        return print_group_help(name);
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        printf("ebb %s\n", ebb_version());
        return EBB_OK;
    }
    if (!help && name[0] == '-')
        return EBB_FAIL(EBB_EUSAGE, "unknown option %.60s before a command; `ebb help` lists the commands", name);
    EBB_TRY(find_command(argc - 1 - help, argv + 1 + help, &command, &words));
    return help ? print_command_help(command) : run_command(command, argc - words, argv + words);
}

/* A wrong command line is seen by every rank alike: the first one tells. */
static bool is_mine(const ebb_error_t *error)
{
    if (error->rank >= 0)
        return error->rank == ebb_process_rank();
    return error->status != EBB_EUSAGE || ebb_comm_launched_rank() <= 0;
}

static void print_error(ebb_status_t status)
{
    const ebb_error_t *error = ebb_error();
    if (error->status != EBB_OK && !is_mine(error)) {
        sleep(1); /* the launcher kills all ranks when one leaves with an error: let the one that tells go first */
        return;
    }
    ebb_progress_interrupt();
    if (error->status == EBB_OK)
        fprintf(stderr, "ebb: error: %s\n", ebb_status_name(status));
    else
        fprintf(stderr, "ebb: %s%s\n", status == EBB_ESTOPPED ? "" : "error: ", error->message);
    if (error->status == EBB_EBUG)
        fprintf(stderr, "ebb: this is a bug in Ebb %s (%s:%d); please report it\n", ebb_version(), error->file,
                error->line);
}

/* Reading options puts the words in another order. */
static void keep_words(int argc, char *const *argv)
{
    static char **word;
    word = calloc((size_t)argc + 1, sizeof *word);
    if (word)
        memcpy(word, argv, (size_t)argc * sizeof *word);
    ebb_argc = word ? argc : 0;
    ebb_argv = word;
}

int main(int argc, char **argv)
{
    keep_words(argc, argv);
    ebb_status_t status = run(argc, argv);
    if ((fflush(stdout) != 0 || ferror(stdout)) && status == EBB_OK)
        status = EBB_FAIL(errno == ENOSPC ? EBB_ENOSPC : EBB_EIO, "standard output: %s", strerror(errno));
    if (status == EBB_END)
        status = EBB_OK;
    if (status != EBB_OK)
        print_error(status);
    return status == EBB_OK ? ebb_command_exit : ebb_status_exit_code(status);
}
