/* ebb agent: carries out the jobs of this machine's queue. And keep-job, which it starts for each of them. */
#include "commands.h"
#include "base/file.h"

#include <ebb/jobs.h>

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

typedef struct agent_options {
    int64_t slots, gpus;
    bool until_idle, quiet;
} agent_options_t;

static const ebb_option_t options[] = {
    {.name = "slots",
     .letter = 'n',
     .type = EBB_OPT_I64,
     .offset = offsetof(agent_options_t, slots),
     .def = "0",
     .unit = "slots",
     .min = 0,
     .max = 1e6,
     .help = "how many ranks run at once, over all jobs; 0: the cores that the agent may use"},
    {.name = "gpus",
     .letter = 'g',
     .type = EBB_OPT_I64,
     .offset = offsetof(agent_options_t, gpus),
     .def = "0",
     .unit = "devices",
     .min = 0,
     .max = 64,
     .help = "devices 0 to N - 1 that jobs may use; each has those of its own in CUDA_VISIBLE_DEVICES"},
    {.name = "until-idle",
     .type = EBB_OPT_FLAG,
     .offset = offsetof(agent_options_t, until_idle),
     .help = "leave when no job is left but those that are held"},
    {.name = "quiet",
     .letter = 'q',
     .type = EBB_OPT_FLAG,
     .offset = offsetof(agent_options_t, quiet),
     .help = "say nothing but warnings"},
    {0},
};

static const ebb_example_t examples[] = {
    {"In a terminal of its own, or in tmux", "ebb agent"},
    {"As a service of this user, also after a reboot", "systemctl --user enable --now ebb-agent"},
    {"All that is in the queue, then leave", "ebb agent --until-idle"},
    {0},
};

static int64_t cores(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

static ebb_status_t run(void *target, int n_operands, char **operands)
{
    const agent_options_t *o = target;
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0)
        return ebb_file_error("/proc/self/exe", "read");
    self[n] = 0;
    ebb_agent_options_t agent = {.self = self,
                                 .slots = o->slots > 0 ? o->slots : cores(),
                                 .gpus = o->gpus,
                                 .until_idle = o->until_idle,
                                 .quiet = o->quiet};
    return ebb_agent_run(&agent);
}

const ebb_command_t cmd_agent = {
    .name = "agent",
    .help = "Carry out the queue's jobs on this machine",
    .operands = "",
    .about =
        "Stays in the foreground and says what it does; one agent works on a queue at a time. It starts jobs when\n"
        "their plan says so and there are slots, pauses and resizes them, and plans again as forecasts change. Where\n"
        "forecasts have not come true lately, where there are none, and where a deadline is near, jobs run at once.\n"
        "\n"
        "Ctrl-C or SIGTERM ends the agent, not the jobs: each has a small process that stays with it, and the next\n"
        "agent takes them over. So it does after a kill -9. After a reboot runs go on from their checkpoint; other\n"
        "commands that were under way are given up, unless they were submitted with --rerun.\n"
        "\n"
        "Jobs that were handed to Slurm are looked after as by ebb slurm, every 15 minutes.\n"
        "\n"
        "The queue and the logs of jobs are in $EBB_STATE_DIR, else $XDG_STATE_HOME/ebb, else ~/.local/state/ebb.\n",
    .options = options,
    .options_bytes = sizeof(agent_options_t),
    .examples = examples,
    .run = run,
};

static ebb_status_t run_keep(void *target, int n_operands, char **operands)
{
    int64_t attempt;
    EBB_TRY(ebb_parse_i64(operands[1], &attempt));
    return ebb_keep_job(operands[0], attempt);
}

static const ebb_option_t no_options[] = {{0}};

const ebb_command_t cmd_keep_job = {
    .name = "keep-job",
    .help = "Stay with one start of a job",
    .operands = "FOLDER ATTEMPT",
    .about = "",
    .min_operands = 2,
    .max_operands = 2,
    .options = no_options,
    .options_bytes = 1,
    .hidden = true,
    .run = run_keep,
};
