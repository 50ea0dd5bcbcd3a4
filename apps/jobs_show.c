/* Jobs for people and as JSON. */
#include "jobs_show.h"
#include "base/clock.h"
#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *ebb_jobs_time(double time, double now, char text[32])
{
    char utc[32];
    if (!(time > 0)) {
        snprintf(text, 32, "-");
        return text;
    }
    ebb_format_utc(time, utc, sizeof utc);
    if (floor(time / 86400) == floor(now / 86400))
        snprintf(text, 32, "%.5s", utc + 11);
    else
        snprintf(text, 32, "%.5s %.5s", utc + 5, utc + 11);
    return text;
}

static double share(const ebb_queue_job_t *job)
{
    return job->state == EBB_DONE ? 1 : job->done;
}

void ebb_jobs_table(const ebb_queue_list_t *list, double now, ebb_text_t *out)
{
    char deadline[32];
    if (list->n == 0) {
        ebb_text_add(out, "no jobs\n");
        return;
    }
    ebb_text_add(out, "%5s  %-20s %-9s %-8s %5s %5s  %-12s %s\n", "job", "name", "state", "policy", "ranks", "done",
                 "deadline", "why");
    for (int64_t i = 0; i < list->n; i++) {
        const ebb_queue_job_t *j = &list->job[i];
        ebb_text_add(out, "%5lld  %-20.20s %-9s %-8s %5lld %4.0f%%  %-12s %s\n", (long long)j->id, j->spec.name,
                     ebb_queue_state_name(j->state), ebb_plan_policy_name(j->spec.policy), (long long)j->ranks,
                     100 * share(j), ebb_jobs_time(j->spec.deadline, now, deadline), j->reason);
    }
}

static json_t *time_json(double time)
{
    char text[32];
    if (!(time > 0))
        return json_null();
    ebb_format_utc(time, text, sizeof text);
    return json_string(text);
}

static json_t *job_json(const ebb_queue_job_t *j)
{
    json_t *words = json_array();
    json_t *plan = *j->plan ? json_loads(j->plan, 0, NULL) : NULL;
    for (char *const *w = j->spec.word; *w; w++)
        json_array_append_new(words, json_string(*w));
    return json_pack("{s:I, s:s, s:s, s:s, s:s, s:I, s:f, s:o, s:o, s:o, s:o, s:f, s:I, s:I, s:I, s:i, s:s, s:s?, "
                     "s:s?, s:o, s:s, s:o}",
                     "id", (json_int_t)j->id, "name", j->spec.name, "state", ebb_queue_state_name(j->state), "policy",
                     ebb_plan_policy_name(j->spec.policy), "reason", j->reason, "ranks", (json_int_t)j->ranks, "done",
                     share(j), "submitted", time_json(j->submitted), "begun", time_json(j->begun), "ended",
                     time_json(j->ended), "deadline", time_json(j->spec.deadline), "running_s", j->running_s, "starts",
                     (json_int_t)j->attempt, "pauses", (json_int_t)j->pauses, "resizes", (json_int_t)j->resizes,
                     "exit_code", j->exit_code, "folder", j->spec.folder, "run_folder", j->spec.run_folder, "slurm",
                     *j->slurm ? j->slurm : NULL, "command", words, "pause_by", ebb_queue_pause_names()[j->spec.pause],
                     "plan", plan ? plan : json_null());
}

ebb_status_t ebb_jobs_json(const ebb_queue_list_t *list, ebb_text_t *out)
{
    json_t *jobs = json_array();
    for (int64_t i = 0; i < list->n; i++)
        json_array_append_new(jobs, job_json(&list->job[i]));
    char *text = json_dumps(jobs, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    json_decref(jobs);
    if (!text)
        return EBB_FAIL(EBB_ENOMEM, "out of memory: JSON");
    ebb_text_add(out, "%s\n", text);
    free(text);
    return EBB_OK;
}
