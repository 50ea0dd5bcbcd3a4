/* ebb queue, cancel, hold, release: what is in the queue, and what is to become of it. */
#include "commands.h"
#include "jobs_show.h"
#include "base/clock.h"

#include <ebb/jobs.h>
#include <ebb/slurm.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct queue_options {
    bool all, json;
    char *prune;
} queue_options_t;

static const ebb_option_t options[] = {
    {.name = "all",
     .letter = 'a',
     .type = EBB_OPT_FLAG,
     .offset = offsetof(queue_options_t, all),
     .help = "also jobs that are over"},
    {.name = "json", .type = EBB_OPT_FLAG, .offset = offsetof(queue_options_t, json), .help = "print JSON"},
    {.name = "prune",
     .type = EBB_OPT_STRING,
     .offset = offsetof(queue_options_t, prune),
     .unit = "duration",
     .help = "forget jobs that have been over for so long (90d), with their logs, and list nothing"},
    {0},
};

static const ebb_option_t no_options[] = {{0}};

static ebb_status_t show_all(ebb_queue_t *queue, const queue_options_t *o, ebb_queue_list_t *list)
{
    ebb_text_t out = {0};
    EBB_TRY(ebb_queue_read(queue, o->all ? EBB_QUEUE_ANY : EBB_QUEUE_LIVE, list));
    ebb_status_t status = o->json ? ebb_jobs_json(list, &out) : EBB_OK;
    if (!o->json)
        ebb_jobs_table(list, ebb_wall_seconds(), &out);
    if (status == EBB_OK && out.failed)
        status = EBB_FAIL(EBB_ENOMEM, "out of memory: output");
    if (status == EBB_OK && out.s)
        fputs(out.s, stdout);
    ebb_text_free(&out);
    return status;
}

static ebb_status_t prune(const char *age)
{
    ebb_queue_t *queue;
    double age_s;
    int64_t n;
    if (ebb_parse_duration(age, &age_s) != EBB_OK)
        return ebb_error_prefix("--prune: ");
    EBB_TRY(ebb_queue_open(NULL, &queue));
    ebb_status_t status = ebb_queue_prune(queue, ebb_wall_seconds() - age_s, &n);
    ebb_queue_close(queue);
    if (status == EBB_OK)
        printf("%lld job%s forgotten\n", (long long)n, n == 1 ? "" : "s");
    return status;
}

static ebb_status_t run_queue(void *target, int n_operands, char **operands)
{
    const queue_options_t *o = target;
    ebb_queue_t *queue;
    ebb_queue_list_t list = {0};
    if (o->prune)
        return prune(o->prune);
    EBB_TRY(ebb_queue_open(NULL, &queue));
    ebb_jobs_ask_slurm(queue);
    ebb_status_t status = show_all(queue, o, &list);
    ebb_queue_list_free(&list);
    ebb_queue_close(queue);
    return status;
}

/* ---- cancel, hold, release ---- */

/* Jobs without processes are moved here; the others by the agent, which is told. */
static ebb_status_t ask(ebb_queue_t *queue, const ebb_queue_job_t *job, ebb_queue_state_t to, ebb_queue_wish_t wish,
                        const char *word)
{
    bool moved;
    unsigned idle = EBB_QUEUE_BIT(EBB_QUEUED) | EBB_QUEUE_BIT(EBB_HELD) | EBB_QUEUE_BIT(EBB_PAUSED);
    if (job->spec.pause == EBB_PAUSE_FREEZE && job->attempt > 0) /* frozen processes are processes */
        idle = EBB_QUEUE_BIT(EBB_QUEUED);
    ebb_queue_change_t change = {.id = job->id, .from = idle, .to = to, .reason = "by the user"};
    EBB_TRY(ebb_queue_move(queue, &change, &moved));
    if (moved) {
        printf("job %lld %s\n", (long long)job->id, word);
        return EBB_OK;
    }
    EBB_TRY(ebb_queue_wish(queue, job->id, wish));
    printf("job %lld is %s; the agent has been told\n", (long long)job->id, ebb_queue_state_name(job->state));
    return EBB_OK;
}

static ebb_status_t tell_slurm(ebb_queue_t *queue, const ebb_queue_job_t *job,
                               ebb_status_t (*act)(ebb_queue_t *, const ebb_queue_job_t *), const char *word)
{
    EBB_TRY(act(queue, job));
    printf("job %lld %s\n", (long long)job->id, word);
    return EBB_OK;
}

static ebb_status_t cancel(ebb_queue_t *queue, const ebb_queue_job_t *job)
{
    if (*job->slurm)
        return tell_slurm(queue, job, ebb_slurm_cancel, "cancelled");
    return ask(queue, job, EBB_CANCELLED, EBB_WISH_CANCEL, "cancelled");
}

static ebb_status_t hold(ebb_queue_t *queue, const ebb_queue_job_t *job)
{
    if (*job->slurm)
        return tell_slurm(queue, job, ebb_slurm_hold, "held");
    if (job->state != EBB_HELD)
        return ask(queue, job, EBB_HELD, EBB_WISH_HOLD, "held");
    printf("job %lld is held already\n", (long long)job->id);
    return EBB_OK;
}

static ebb_status_t release(ebb_queue_t *queue, const ebb_queue_job_t *job)
{
    bool moved;
    ebb_queue_change_t change = {.id = job->id,
                                 .from = EBB_QUEUE_BIT(EBB_HELD),
                                 .to = job->begun > 0 ? EBB_PAUSED : EBB_QUEUED,
                                 .reason = "released"};
    if (*job->slurm)
        return tell_slurm(queue, job, ebb_slurm_release, "released");
    if (job->wish == EBB_WISH_HOLD)
        EBB_TRY(ebb_queue_wish(queue, job->id, EBB_WISH_NONE));
    EBB_TRY(ebb_queue_move(queue, &change, &moved));
    printf("job %lld %s\n", (long long)job->id, moved || job->wish == EBB_WISH_HOLD ? "released" : "was not held");
    return EBB_OK;
}

static ebb_status_t for_each(int n, char **operands, ebb_status_t (*act)(ebb_queue_t *, const ebb_queue_job_t *))
{
    ebb_queue_t *queue;
    ebb_queue_job_t job = {0};
    EBB_TRY(ebb_queue_open(NULL, &queue));
    ebb_status_t status = EBB_OK;
    for (int i = 0; i < n && status == EBB_OK; i++) {
        status = ebb_queue_find(queue, operands[i], &job);
        if (status == EBB_OK && (EBB_QUEUE_BIT(job.state) & EBB_QUEUE_OVER))
            status = EBB_FAIL(EBB_EUSAGE, "job %lld is over: %s", (long long)job.id, ebb_queue_state_name(job.state));
        if (status == EBB_OK)
            status = act(queue, &job);
        ebb_queue_job_free(&job);
    }
    ebb_queue_close(queue);
    return status;
}

static ebb_status_t run_cancel(void *target, int n, char **operands)
{
    return for_each(n, operands, cancel);
}

static ebb_status_t run_hold(void *target, int n, char **operands)
{
    return for_each(n, operands, hold);
}

static ebb_status_t run_release(void *target, int n, char **operands)
{
    return for_each(n, operands, release);
}

static const ebb_example_t examples[] = {
    {"What waits and runs", "ebb queue"},
    {"All jobs that ever were, for a program", "ebb queue --all --json"},
    {"Forget those that ended more than three months ago", "ebb queue --prune 90d"},
    {0},
};

#define JOBS_COMMAND(name_, help_, about_)                                                                             \
    const ebb_command_t cmd_##name_ = {.name = #name_,                                                                 \
                                       .help = help_,                                                                  \
                                       .operands = "JOB...",                                                           \
                                       .about = about_,                                                                \
                                       .min_operands = 1,                                                              \
                                       .max_operands = ANY_OPERANDS,                                                   \
                                       .options = no_options,                                                          \
                                       .options_bytes = 1,                                                             \
                                       .run = run_##name_}

const ebb_command_t cmd_queue = {
    .name = "queue",
    .help = "The jobs that wait and run",
    .operands = "",
    .about = "Lists jobs with their state, ranks, share of the work done, deadline, and when they start or why they\n"
             "do not. ebb why JOB tells more of one.\n",
    .options = options,
    .options_bytes = sizeof(queue_options_t),
    .examples = examples,
    .run = run_queue,
};

JOBS_COMMAND(
    cancel, "End jobs, or take them out of the queue",
    "JOB is a job's number or name. A running one is asked to end (SIGTERM), and killed with all its processes if\n"
    "it has not after 30 seconds.\n");
JOBS_COMMAND(hold, "Keep jobs from running until they are released",
             "JOB is a job's number or name. A running one is paused, if it can be.\n");
JOBS_COMMAND(release, "Let held jobs run again", "JOB is a job's number or name.\n");
