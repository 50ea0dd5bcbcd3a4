/* ebb why: why a job does not run now, and when it will. ebb logs: what it printed. */
#include "commands.h"
#include "jobs_show.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"

#include <ebb/jobs.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- why ---- */

typedef struct why_options {
    bool json;
} why_options_t;

static const ebb_option_t why_options[] = {
    {.name = "json", .type = EBB_OPT_FLAG, .offset = offsetof(why_options_t, json), .help = "print JSON"},
    {0},
};

static const char *text_of(const json_t *json, const char *key)
{
    const char *text = json_string_value(json_object_get(json, key));
    return text ? text : "";
}

static double number_of(const json_t *json, const char *key)
{
    return json_number_value(json_object_get(json, key));
}

static void add_plan(const ebb_queue_job_t *job, double now, ebb_text_t *out)
{
    char begin[32], end[32], length[32];
    json_t *plan = *job->plan ? json_loads(job->plan, 0, NULL) : NULL;
    const json_t *stretch;
    size_t i;
    if (!plan)
        return;
    ebb_text_add(out, "plan    of %s, by %s\n", text_of(plan, "made"), text_of(plan, "source"));
    json_array_foreach(json_object_get(plan, "stretches"), i, stretch)
    {
        double from = number_of(stretch, "begin_s"), to = number_of(stretch, "end_s");
        ebb_text_add(out, "        %s to %s  %s on %lld rank%s\n", ebb_jobs_time(from, now, begin),
                     ebb_jobs_time(to, now, end), ebb_format_duration(to - from, length, sizeof length),
                     (long long)json_integer_value(json_object_get(stretch, "ranks")),
                     json_integer_value(json_object_get(stretch, "ranks")) == 1 ? "" : "s");
    }
    if (json_is_true(json_object_get(plan, "late")))
        ebb_text_add(out, "        the deadline cannot be met as estimated; it runs as soon as it can\n");
    else if (json_is_true(json_object_get(plan, "not_worth_waiting")))
        ebb_text_add(out, "        waiting would save less than such forecasts are worth; it runs at once\n");
    else if (number_of(plan, "asap_gco2e") > 0)
        ebb_text_add(out, "        %.4g gCO2e for what is left, %.1f %% less than at once\n", number_of(plan, "gco2e"),
                     number_of(plan, "saved_pct"));
    json_decref(plan);
}

static void add_state(const ebb_queue_job_t *j, double now, bool agent, ebb_text_t *out)
{
    char changed[32], deadline[32], ran[32];
    bool over = EBB_QUEUE_BIT(j->state) & EBB_QUEUE_OVER;
    ebb_text_add(out, "job     %lld %s: %s since %s\n", (long long)j->id, j->spec.name, ebb_queue_state_name(j->state),
                 ebb_jobs_time(j->changed, now, changed));
    ebb_text_add(out, "why     %s\n", *j->reason ? j->reason : ebb_queue_state_name(j->state));
    if (!over && !agent && !*j->slurm)
        ebb_text_add(out, "        no agent is at work: nothing is started, paused or resized until `ebb agent` is\n");
    double ran_s = j->running_s + (j->running_since > 0 ? fmax(0, now - j->running_since) : 0);
    if (j->begun > 0)
        ebb_text_add(out, "ran     %s, %lld pause%s, %lld resize%s, %.0f %% done\n",
                     ebb_format_duration(ran_s, ran, sizeof ran), (long long)j->pauses, j->pauses == 1 ? "" : "s",
                     (long long)j->resizes, j->resizes == 1 ? "" : "s", 100 * (j->state == EBB_DONE ? 1 : j->done));
    if (j->spec.deadline > 0)
        ebb_text_add(out, "until   %s\n", ebb_jobs_time(j->spec.deadline, now, deadline));
}

static ebb_status_t add_history(ebb_queue_t *queue, const ebb_queue_job_t *job, double now, ebb_text_t *out)
{
    ebb_queue_event_t *event;
    int64_t n;
    char time[32];
    EBB_TRY(ebb_queue_history(queue, job->id, &event, &n));
    for (int64_t i = 0; i < n; i++)
        ebb_text_add(out, "%s%-11s  %-9s %s\n", i == 0 ? "past    " : "        ",
                     ebb_jobs_time(event[i].time, now, time), ebb_queue_state_name(event[i].to), event[i].reason);
    free(event);
    return EBB_OK;
}

static ebb_status_t explain_job(ebb_queue_t *queue, const why_options_t *o, ebb_queue_job_t *job, ebb_text_t *out)
{
    double now = ebb_wall_seconds();
    if (o->json)
        return ebb_jobs_json(&(ebb_queue_list_t){.job = job, .n = 1}, out);
    add_state(job, now, ebb_agent_lives(ebb_queue_path(queue)), out);
    if (!(EBB_QUEUE_BIT(job->state) & EBB_QUEUE_OVER))
        add_plan(job, now, out);
    return add_history(queue, job, now, out);
}

static ebb_status_t run_why(void *target, int n_operands, char **operands)
{
    ebb_queue_t *queue;
    ebb_queue_job_t job = {0};
    ebb_text_t out = {0};
    EBB_TRY(ebb_queue_open(NULL, &queue));
    ebb_jobs_ask_slurm(queue);
    ebb_status_t status = ebb_queue_find(queue, operands[0], &job);
    if (status == EBB_OK)
        status = explain_job(queue, target, &job, &out);
    if (status == EBB_OK && out.failed)
        status = EBB_FAIL(EBB_ENOMEM, "out of memory: output");
    if (status == EBB_OK)
        fputs(out.s, stdout);
    ebb_text_free(&out);
    ebb_queue_job_free(&job);
    ebb_queue_close(queue);
    return status;
}

static const ebb_example_t why_examples[] = {{"Why it does not run, and when it will", "ebb why clicks"}, {0}};

const ebb_command_t cmd_why = {
    .name = "why",
    .help = "Why a job does not run now, and when it will",
    .operands = "JOB",
    .about = "Shows a job's state with its reason, the plan in force, what that saves, and what happened to the job.\n"
             "JOB is its number or name. Times are UTC.\n",
    .min_operands = 1,
    .max_operands = 1,
    .options = why_options,
    .options_bytes = sizeof(why_options_t),
    .examples = why_examples,
    .run = run_why,
};

/* ---- logs ---- */

typedef struct logs_options {
    bool follow;
} logs_options_t;

static const ebb_option_t logs_options[] = {
    {.name = "follow",
     .letter = 'f',
     .type = EBB_OPT_FLAG,
     .offset = offsetof(logs_options_t, follow),
     .help = "go on as the log grows, until the job is over"},
    {0},
};

/* Copy what is there; the number of bytes, or -1. */
static ssize_t copy_new(int fd)
{
    char buffer[65536];
    ssize_t n, sum = 0;
    while ((n = read(fd, buffer, sizeof buffer)) > 0) {
        if (fwrite(buffer, 1, (size_t)n, stdout) != (size_t)n)
            return -1;
        sum += n;
    }
    return fflush(stdout) == 0 && n == 0 ? sum : -1;
}

static ebb_status_t is_over(ebb_queue_t *queue, int64_t id, bool *over_p)
{
    ebb_queue_job_t job = {0};
    EBB_TRY(ebb_queue_get(queue, id, &job));
    *over_p = EBB_QUEUE_BIT(job.state) & EBB_QUEUE_OVER;
    ebb_queue_job_free(&job);
    return EBB_OK;
}

static ebb_status_t show_log(ebb_queue_t *queue, const ebb_queue_job_t *job, bool follow)
{
    const struct timespec pause = {.tv_nsec = 200000000};
    char path[PATH_MAX];
    bool over = !follow;
    int fd = -1;
    snprintf(path, sizeof path, "%s/%s/%lld/log", ebb_queue_path(queue), *job->slurm ? "slurm" : "jobs",
             (long long)job->id);
    for (;;) {
        if (follow)
            EBB_TRY(is_over(queue, job->id, &over)); /* before the last reading */
        if (fd < 0)
            fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 && errno != ENOENT)
            return ebb_file_error(path, "open");
        if (fd >= 0 && copy_new(fd) < 0)
            return ebb_file_error(path, "copy");
        if (over)
            break;
        nanosleep(&pause, NULL);
    }
    if (fd >= 0)
        close(fd);
    else
        EBB_INFO("logs", "job %lld has not been started: it has printed nothing", (long long)job->id);
    return EBB_OK;
}

static ebb_status_t run_logs(void *target, int n_operands, char **operands)
{
    const logs_options_t *o = target;
    ebb_queue_t *queue;
    ebb_queue_job_t job = {0};
    EBB_TRY(ebb_queue_open(NULL, &queue));
    ebb_status_t status = ebb_queue_find(queue, operands[0], &job);
    if (status == EBB_OK)
        status = show_log(queue, &job, o->follow);
    ebb_queue_job_free(&job);
    ebb_queue_close(queue);
    return status;
}

static const ebb_example_t logs_examples[] = {{"Watch it", "ebb logs -f clicks"}, {0}};

const ebb_command_t cmd_logs = {
    .name = "logs",
    .help = "What a job printed",
    .operands = "JOB",
    .about = "Standard output and error of all of a job's starts. JOB is its number or name.\n",
    .min_operands = 1,
    .max_operands = 1,
    .options = logs_options,
    .options_bytes = sizeof(logs_options_t),
    .examples = logs_examples,
    .run = run_logs,
};
