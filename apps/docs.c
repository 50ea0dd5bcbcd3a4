/* Man pages (troff) and bash completion, made from the tables that feed --help. */
#include "commands.h"
#include "base/file.h"

#include <stdio.h>
#include <string.h>

/* ---- man pages ---- */

/* Text for troff: backslashes, minus signs and leading control characters escaped. */
static void add_troff(ebb_text_t *out, const char *text)
{
    bool start = out->n == 0 || out->s[out->n - 1] == '\n';
    for (const char *c = text; *c; c++) {
        if (start && (*c == '.' || *c == '\''))
            ebb_text_add(out, "\\&");
        if (*c == '\\')
            ebb_text_add(out, "\\e");
        else if (*c == '-')
            ebb_text_add(out, "\\-");
        else
            ebb_text_append(out, c, 1);
        start = *c == '\n';
    }
}

static void add_paragraphs(ebb_text_t *out, const char *text)
{
    while (*text) {
        size_t n = strcspn(text, "\n") + 1;
        char line[2048];
        snprintf(line, sizeof line, "%.*s", (int)n, text);
        if (line[0] == '\n')
            ebb_text_add(out, ".PP\n");
        else if (line[0] == ' ')
            ebb_text_add(out, ".br\n");
        if (line[0] != '\n')
            add_troff(out, line + strspn(line, " "));
        text += text[n - 1] ? n : n - 1;
    }
}

static void add_title(ebb_text_t *out, const char *name, const char *help)
{
    ebb_text_add(out, ".TH \"%s\" 1 \"\" \"Ebb %s\" \"Ebb manual\"\n.SH NAME\n", name, ebb_version());
    add_troff(out, name);
    ebb_text_add(out, " \\- ");
    add_troff(out, help);
    ebb_text_add(out, "\n");
}

static void add_option(ebb_text_t *out, const ebb_option_t *option)
{
    ebb_text_t value = {0}, help = {0};
    ebb_option_placeholder(option, &value);
    ebb_option_describe(option, &help);
    ebb_text_add(out, ".TP\n");
    if (option->letter)
        ebb_text_add(out, "\\fB\\-%c\\fR, ", option->letter);
    ebb_text_add(out, "\\fB\\-\\-");
    add_troff(out, option->name);
    ebb_text_add(out, "\\fR");
    if (value.s)
        ebb_text_add(out, " \\fI");
    add_troff(out, value.s ? value.s : "");
    ebb_text_add(out, value.s ? "\\fR\n" : "\n");
    add_troff(out, help.s ? help.s : "");
    ebb_text_add(out, ".\n");
    ebb_text_free(&value);
    ebb_text_free(&help);
}

static void add_exit_codes(ebb_text_t *out)
{
    ebb_text_add(out,
                 ".SH EXIT STATUS\n0 success; 64 wrong usage or run file; 65 bad or damaged data; 66 missing input; "
                 "69 a service, device or peer is unavailable; 70 a bug in Ebb; 71 out of memory; 74 input/output "
                 "error or no space; 75 stopped by a signal, can be resumed.\n");
}

static ebb_status_t write_text(const char *folder, const char *name, ebb_text_t *text)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    ebb_status_t status =
        text->failed ? EBB_FAIL(EBB_ENOMEM, "out of memory: %s", path) : ebb_file_replace(path, text->s, text->n);
    ebb_text_free(text);
    return status;
}

/* "ebb-bench-loader" */
static void page_name(const ebb_command_t *command, char name[64])
{
    snprintf(name, 64, "ebb-%s", command->name);
    for (char *c = name; *c; c++)
        if (*c == ' ')
            *c = '-';
}

static ebb_status_t write_command_page(const char *folder, const ebb_command_t *command)
{
    ebb_text_t out = {0};
    char name[64], file[80];
    page_name(command, name);
    add_title(&out, name, command->help);
    ebb_text_add(&out, ".SH SYNOPSIS\n\\fBebb %s\\fR [\\fIOPTION\\fR]... ", command->name);
    add_troff(&out, command->operands);
    ebb_text_add(&out, "\n.SH DESCRIPTION\n");
    add_paragraphs(&out, command->about);
    ebb_text_add(&out, ".SH OPTIONS\n");
    for (const ebb_option_t *o = command->options; o->name; o++)
        add_option(&out, o);
    ebb_text_add(&out, ".TP\n\\fB\\-h\\fR, \\fB\\-\\-help\\fR\nShow a help.\n");
    if (command->examples && command->examples->line)
        ebb_text_add(&out, ".SH EXAMPLES\n");
    for (const ebb_example_t *e = command->examples; e && e->line; e++) {
        ebb_text_add(&out, ".PP\n");
        add_troff(&out, e->what);
        ebb_text_add(&out, ":\n.PP\n.nf\n.RS\n");
        add_troff(&out, e->line);
        ebb_text_add(&out, "\n.RE\n.fi\n");
    }
    add_exit_codes(&out);
    ebb_text_add(&out, ".SH SEE ALSO\n.BR ebb (1)\n");
    snprintf(file, sizeof file, "%s.1", name);
    return write_text(folder, file, &out);
}

static ebb_status_t write_main_page(const char *folder)
{
    ebb_text_t out = {0};
    add_title(&out, "ebb", "bit-reproducible distributed training on compressed shards");
    ebb_text_add(
        &out, ".SH SYNOPSIS\n\\fBebb\\fR \\fICOMMAND\\fR [\\fIOPTION\\fR]... [\\fIOPERAND\\fR]...\n.SH DESCRIPTION\n");
    add_paragraphs(&out, ebb_about);
    ebb_text_add(&out, ".SH COMMANDS\n");
    for (const ebb_command_t *const *c = ebb_commands; *c; c++) {
        char name[64];
        if ((*c)->hidden)
            continue;
        page_name(*c, name);
        ebb_text_add(&out, ".TP\n.BR ");
        add_troff(&out, name);
        ebb_text_add(&out, " (1)\n");
        add_troff(&out, (*c)->help);
        ebb_text_add(&out, ".\n");
    }
    ebb_text_add(&out,
                 ".SH ENVIRONMENT\n.TP\n.B EBB_LOG\nWhat is logged to standard error: error, warn, info (default), "
                 "debug, trace or data.\n.TP\n.B EBB_LOG_RANKS\nIf \"all\", every rank logs, not the first alone.\n"
                 ".TP\n.B EBB_BACKEND_PATH\nFolders in which compute backends are looked for first.\n"
                 ".TP\n.B EBB_CUDA_COPY_AHEAD\nBatches copied to a GPU ahead of the passes over them, 0 to 2 (2); it "
                 "changes no bit. 0: each lane's rows when their turn comes.\n"
                 ".TP\n.B EBB_CUDA_GRAPHS\n0: passes on a GPU are launched kernel by kernel, not as CUDA graphs. "
                 "Graphs change no bit; only models over dense rows without dropout have them.\n");
    add_exit_codes(&out);
    return write_text(folder, "ebb.1", &out);
}

/* ---- bash completion ---- */

static void add_option_words(ebb_text_t *out, const ebb_option_t *o)
{
    for (; o->name; o++)
        ebb_text_add(out, "--%s ", o->name);
    ebb_text_add(out, "--help");
}

/* What may follow an option that takes one of a few words. */
static void add_choices(ebb_text_t *out, const ebb_command_t *command)
{
    for (const ebb_option_t *o = command->options; o->name; o++) {
        if (o->type != EBB_OPT_CHOICE)
            continue;
        ebb_text_add(out, "    \"%s:--%s\") words=\"", command->name, o->name);
        for (int i = 0; o->choices[i]; i++)
            ebb_text_add(out, "%s%s", i ? " " : "", o->choices[i]);
        ebb_text_add(out, "\" ;;\n");
    }
}

/* First words: commands and groups; a group stands once. */
static void add_first_words(ebb_text_t *out)
{
    const char *last = "";
    for (const ebb_command_t *const *c = ebb_commands; *c; c++) {
        size_t n = strcspn((*c)->name, " ");
        if (!(*c)->hidden && (strncmp(last, (*c)->name, n) != 0 || last[n] != ' '))
            ebb_text_add(out, "%.*s ", (int)n, (*c)->name);
        last = (*c)->name;
    }
}

/* Second words of groups, which then belong to the verb. */
static void add_second_words(ebb_text_t *out)
{
    for (const ebb_command_t *const *c = ebb_commands; *c; c++) {
        size_t n = strcspn((*c)->name, " ");
        bool begins = c == ebb_commands || strncmp(c[-1]->name, (*c)->name, n + 1) != 0;
        if ((*c)->hidden || (*c)->name[n] != ' ')
            continue;
        if (begins)
            ebb_text_add(out, "    %.*s) second=\"", (int)n, (*c)->name);
        ebb_text_add(out, "%s%s", begins ? "" : " ", (*c)->name + n + 1);
        if (!c[1] || strncmp(c[1]->name, (*c)->name, n + 1) != 0)
            ebb_text_add(out, "\" ;;\n");
    }
}

static ebb_status_t write_completion(const char *folder)
{
    ebb_text_t out = {0};
    ebb_text_add(&out,
                 "# bash completion for ebb; made from its option tables\n_ebb()\n{\n"
                 "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb=${COMP_WORDS[1]} at=1\n"
                 "    local words= second=\n    COMPREPLY=()\n"
                 "    if [[ $COMP_CWORD -gt 1 && $verb == help ]]; then verb=${COMP_WORDS[2]} at=2; fi\n"
                 "    if [[ $COMP_CWORD -eq $at ]]; then\n        COMPREPLY=( $(compgen -W \"");
    add_first_words(&out);
    ebb_text_add(&out, "help\" -- \"$cur\") )\n        return\n    fi\n    case $verb in\n");
    add_second_words(&out);
    ebb_text_add(&out, "    esac\n    if [[ $second && $COMP_CWORD -eq $((at + 1)) ]]; then\n"
                       "        COMPREPLY=( $(compgen -W \"$second\" -- \"$cur\") )\n        return\n    fi\n"
                       "    if [[ $second ]]; then verb+=\" ${COMP_WORDS[at+1]}\"; fi\n    case $verb:$prev in\n");
    for (const ebb_command_t *const *c = ebb_commands; *c; c++)
        if (!(*c)->hidden)
            add_choices(&out, *c);
    ebb_text_add(&out, "    *) if [[ $cur == -* ]]; then case $verb in\n");
    for (const ebb_command_t *const *c = ebb_commands; *c; c++) {
        if ((*c)->hidden)
            continue;
        ebb_text_add(&out, "        \"%s\") words=\"", (*c)->name);
        add_option_words(&out, (*c)->options);
        ebb_text_add(&out, "\" ;;\n");
    }
    ebb_text_add(
        &out, "        esac; fi ;;\n    esac\n    [[ $words ]] && COMPREPLY=( $(compgen -W \"$words\" -- \"$cur\") )\n"
              "}\ncomplete -o default -F _ebb ebb\n");
    return write_text(folder, "ebb.bash", &out);
}

ebb_status_t ebb_docs_write(const char *folder)
{
    EBB_TRY(ebb_file_mkdirs(folder));
    EBB_TRY(write_main_page(folder));
    for (const ebb_command_t *const *c = ebb_commands; *c; c++)
        if (!(*c)->hidden)
            EBB_TRY(write_command_page(folder, *c));
    return write_completion(folder);
}

/* ---- the hidden subcommand that the build calls ---- */

static ebb_status_t run(void *options, int n, char **operands)
{
    return ebb_docs_write(operands[0]);
}

static const ebb_option_t no_options[] = {{0}};

const ebb_command_t cmd_generate_docs = {
    .name = "generate-docs",
    .help = "Write man pages and bash completion",
    .operands = "FOLDER",
    .about = "Writes ebb.1, one page per command, and ebb.bash into FOLDER.\n",
    .min_operands = 1,
    .max_operands = 1,
    .options = no_options,
    .options_bytes = 1,
    .hidden = true,
    .run = run,
};
