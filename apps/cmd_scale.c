/* ebb scale: ask the supervisor of a run for another number of ranks. */
#include "commands.h"
#include "base/file.h"

#include <ebb/supervise.h>

#include <limits.h>
#include <stdio.h>
#include <string.h>

#define NOT_GIVEN (-1)

typedef struct scale_options {
    int64_t ranks;
} scale_options_t;

static const ebb_option_t options[] = {
    {.name = "ranks",
     .letter = 'n',
     .type = EBB_OPT_I64,
     .offset = offsetof(scale_options_t, ranks),
     .def = "-1",
     .unit = "ranks",
     .min = NOT_GIVEN,
     .max = 1e6,
     .help = "how many ranks to go on with; 0 pauses until there are some; -1 only shows the run's state"},
    {0},
};

static const ebb_example_t examples[] = {
    {"Go on with 3 ranks", "ebb scale sections --ranks 3"},
    {"Pause, and go on later with 8", "ebb scale runs/sections --ranks 0; ebb scale runs/sections --ranks 8"},
    {"What is it doing", "ebb scale sections"},
    {0},
};

static ebb_status_t find_folder(const char *name, char folder[PATH_MAX])
{
    char path[PATH_MAX];
    snprintf(folder, PATH_MAX, "%s", ebb_run_named(name, path));
    return ebb_file_is_dir(folder)
               ? EBB_OK
               : EBB_FAIL(EBB_ENOINPUT, "%.200s: no such run; name its folder, as in runs/NAME", name);
}

static void say(void *user, const char *line)
{
    printf("%s: %s\n", (const char *)user, line);
    fflush(stdout);
}

static ebb_status_t run(void *opts, int n_operands, char **operands)
{
    const scale_options_t *o = opts;
    char folder[PATH_MAX], line[160];
    EBB_TRY(find_folder(operands[0], folder));
    if (o->ranks != NOT_GIVEN)
        return ebb_supervise_scale(folder, (int)o->ranks, say, operands[0]);
    EBB_TRY(ebb_supervise_state(folder, line, sizeof line));
    say(operands[0], line);
    return EBB_OK;
}

const ebb_command_t cmd_scale = {
    .name = "scale",
    .help = "Give a supervised run another number of ranks, or pause it",
    .operands = "NAME",
    .about =
        "NAME is a run that ebb run supervises: its folder, or its name below runs. The run writes a checkpoint and\n"
        "goes on from it with the ranks asked for; the model stays the same, bit for bit. Waits and says what\n"
        "happens; exits 69 if it does not come to that, as when the run ends meanwhile. The request passes through\n"
        "the run's folder, so that it can be made on any machine that sees it, as a cluster's login node does.\n",
    .min_operands = 1,
    .max_operands = 1,
    .options = options,
    .options_bytes = sizeof(scale_options_t),
    .examples = examples,
    .run = run,
};
