/* ebb slurm: look after the jobs that were handed to Slurm. */
#include "commands.h"
#include "jobs_show.h"

#include <ebb/slurm.h>

typedef struct slurm_options {
    char *every;
} slurm_options_t;

static const ebb_option_t options[] = {
    {.name = "every",
     .type = EBB_OPT_STRING,
     .offset = offsetof(slurm_options_t, every),
     .unit = "duration",
     .help = "again so often, until a signal comes (15m); without it once"},
    {0},
};

/* What Slurm or the queue refuses now is told, and may go another time. */
static void forgive(ebb_status_t status)
{
    if (status != EBB_OK)
        EBB_WARN("slurm", "%s", ebb_error()->message);
    ebb_error_clear();
}

void ebb_jobs_ask_slurm(ebb_queue_t *queue)
{
    forgive(ebb_slurm_tend(queue, false));
}

static void tend(void *queue)
{
    forgive(ebb_slurm_tend(queue, true));
}

static ebb_status_t run(void *target, int n_operands, char **operands)
{
    const slurm_options_t *o = target;
    ebb_queue_t *queue;
    double every_s = 0;
    if (o->every && ebb_parse_duration(o->every, &every_s) != EBB_OK)
        return ebb_error_prefix("--every: ");
    if (o->every && every_s < 1)
        return EBB_FAIL(EBB_EUSAGE, "--every: at least a second");
    EBB_TRY(ebb_queue_open(NULL, &queue));
    ebb_status_t status = ebb_slurm_tend(queue, true);
    if (o->every) {
        forgive(status);
        ebb_repeat(every_s, tend, queue);
        status = EBB_OK;
    }
    ebb_queue_close(queue);
    return status;
}

static const ebb_example_t examples[] = {
    {"From cron, every quarter of an hour", "ebb slurm"},
    {"On a login node, in a terminal of its own", "ebb slurm --every 15m"},
    {0},
};

const ebb_command_t cmd_slurm = {
    .name = "slurm",
    .help = "Look after the jobs that were handed to Slurm: new plans, and what its controller lost",
    .operands = "",
    .about =
        "Jobs by ebb submit --slurm need nobody: all parts of a job lie with Slurm, with their times. This command\n"
        "makes them better: it takes over how they ended, gives jobs that have not begun the times of a new plan as\n"
        "forecasts change (scontrol update), and hands over again what a controller lost when it died. An agent that\n"
        "runs does this every 15 minutes; ebb queue and ebb why do the same, but for new plans.\n",
    .options = options,
    .options_bytes = sizeof(slurm_options_t),
    .examples = examples,
    .run = run,
};
