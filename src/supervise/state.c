/* The supervisor's account of a run. What cannot be written is warned of and never ends a run. run.json belongs to the
 * run while it is alive: it is opened, under its lock, between one job and the next only. */
#include "supervise/state.h"
#include "base/clock.h"
#include "base/file.h"

#include <ebb/checkpoint.h>
#include <ebb/report.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOCK_TRIES 30 /* tenths of a second, for a dying rank of another machine to let go */

static void forgive(void)
{
    EBB_WARN("supervise", "%s", ebb_error()->message);
    ebb_error_clear();
}

static json_t *load(const char *folder, const char *name)
{
    char path[PATH_MAX];
    json_t *json = NULL;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (ebb_file_exists(path) && ebb_json_load(path, &json) != EBB_OK)
        ebb_error_clear();
    return json;
}

static json_t *list_of(const json_t *record, const char *key)
{
    json_t *list = json_object_get(record, key);
    return json_is_array(list) ? json_deep_copy(list) : json_array();
}

ebb_status_t ebb_state_open(const ebb_supervise_options_t *options, ebb_supervisor_state_t *state)
{
    json_t *record = load(options->folder, "run.json");
    *state = (ebb_supervisor_state_t){.options = options, .pid = getpid()};
    state->restarts = list_of(record, "restarts");
    state->resizes = list_of(record, "resizes");
    json_decref(record);
    ebb_format_utc(ebb_wall_seconds(), state->started, sizeof state->started);
    return state->restarts && state->resizes ? EBB_OK : EBB_FAIL(EBB_ENOMEM, "out of memory");
}

void ebb_state_close(ebb_supervisor_state_t *state)
{
    json_decref(state->restarts);
    json_decref(state->resizes);
}

void ebb_state_set(const ebb_supervisor_state_t *s, const char *word, int ranks)
{
    char path[PATH_MAX], now[32], host[256] = "";
    gethostname(host, sizeof host - 1);
    ebb_format_utc(ebb_wall_seconds(), now, sizeof now);
    json_t *json =
        json_pack("{s:s, s:i, s:s, s:s, s:i, s:I, s:I, s:s, s:I, s:s, s:s}", "format", "ebb-supervisor", "version", 1,
                  "name", s->options->name, "state", word, "ranks", ranks, "restarts",
                  (json_int_t)json_array_size(s->restarts), "resizes", (json_int_t)json_array_size(s->resizes), "host",
                  host, "pid", (json_int_t)s->pid, "started", s->started, "changed", now);
    char *text = json ? json_dumps(json, JSON_INDENT(2)) : NULL;
    snprintf(path, sizeof path, "%s/supervisor.json", s->options->folder);
    if (!text)
        EBB_WARN("supervise", "%s: cannot be written: out of memory, or a name is not UTF-8", path);
    else if (ebb_file_replace(path, text, strlen(text)) != EBB_OK)
        forgive();
    free(text);
    json_decref(json);
}

void ebb_state_note(json_t *list, int64_t step, const char *reason, int ranks_before, int ranks)
{
    char now[32];
    ebb_format_utc(ebb_wall_seconds(), now, sizeof now);
    json_array_append_new(list, json_pack("{s:s, s:o, s:s, s:i, s:i}", "time", now, "step",
                                          step < 0 ? json_null() : json_integer(step), "reason", reason, "ranks_before",
                                          ranks_before, "ranks", ranks));
}

static ebb_status_t open_record(const char *folder, ebb_record_t **record_p)
{
    const struct timespec pause = {.tv_nsec = 100000000};
    ebb_status_t status = EBB_OK;
    for (int i = 0; i < LOCK_TRIES; i++) {
        ebb_error_clear();
        status = ebb_record_open(folder, record_p);
        if (status != EBB_EUSAGE)
            break;
        nanosleep(&pause, NULL);
    }
    return status;
}

static ebb_status_t set_list(ebb_record_t *record, const char *key, const json_t *list)
{
    char *text = json_array_size(list) > 0 ? json_dumps(list, JSON_COMPACT) : NULL;
    ebb_status_t status = text ? ebb_record_set_json(record, key, text) : EBB_OK;
    free(text);
    return status;
}

static ebb_status_t record_lists(const ebb_supervisor_state_t *s, ebb_record_t *record)
{
    EBB_TRY(set_list(record, "restarts", s->restarts));
    return set_list(record, "resizes", s->resizes);
}

void ebb_state_record(const ebb_supervisor_state_t *s, ebb_status_t outcome, const char *reason)
{
    ebb_record_t *record = NULL;
    json_t *there = load(s->options->folder, "run.json");
    bool exists = json_is_object(there);
    json_decref(there);
    if (!exists)
        return;
    ebb_status_t status = open_record(s->options->folder, &record);
    if (status == EBB_OK)
        status = record_lists(s, record);
    if (status == EBB_OK && outcome != EBB_OK)
        EBB_FAIL(outcome, "%s", reason);
    if (status == EBB_OK)
        status = ebb_record_finish(record, outcome);
    if (status != EBB_OK)
        forgive();
    ebb_error_clear();
    ebb_record_destroy(record);
}

static int64_t newest_good(const char *folder)
{
    char path[PATH_MAX];
    ebb_comm_t *self;
    ebb_checkpoint_meta_t meta = {0};
    int64_t step = -1;
    if (ebb_comm_self(&self) == EBB_OK) {
        if (ebb_checkpoint_newest(self, folder, path, sizeof path) == EBB_OK &&
            ebb_checkpoint_read_meta(path, &meta) == EBB_OK)
            step = meta.step;
        ebb_checkpoint_meta_free(&meta);
        ebb_comm_destroy(self);
    }
    ebb_error_clear();
    return step;
}

int64_t ebb_state_newest(const ebb_supervisor_state_t *s, bool good)
{
    char folder[PATH_MAX];
    ebb_checkpoint_entry_t *entry;
    int64_t n, step = -1;
    snprintf(folder, sizeof folder, "%s/checkpoints", s->options->folder);
    if (!ebb_file_is_dir(folder))
        return -1;
    if (good)
        return newest_good(folder);
    if (ebb_checkpoint_list(folder, &entry, &n) != EBB_OK) {
        ebb_error_clear();
        return -1;
    }
    for (int64_t i = 0; i < n && step < 0; i++)
        if (!entry[i].temporary)
            step = entry[i].step;
    ebb_checkpoint_list_free(entry);
    return step;
}

static int64_t number(const json_t *json, const char *key)
{
    return json_integer_value(json_object_get(json, key));
}

int64_t ebb_state_start(const ebb_supervisor_state_t *s, char *error, size_t size)
{
    json_t *record = load(s->options->folder, "run.json");
    const char *text = json_string_value(json_object_get(record, "error"));
    snprintf(error, size, "%s", text ? text : "");
    const json_t *starts = json_object_get(record, "starts");
    size_t n = json_array_size(starts);
    int64_t pid = number(n > 0 ? json_array_get(starts, n - 1) : NULL, "pid");
    json_decref(record);
    return (int64_t)n << 32 ^ pid;
}

bool ebb_state_finished(const ebb_supervisor_state_t *s)
{
    json_t *record = load(s->options->folder, "run.json");
    const char *outcome = json_string_value(json_object_get(record, "outcome"));
    bool finished = outcome && strcmp(outcome, "finished") == 0;
    json_decref(record);
    return finished;
}

int64_t ebb_state_taken(const ebb_supervisor_state_t *s)
{
    char path[PATH_MAX];
    struct stat at;
    snprintf(path, sizeof path, "%s/lock", s->options->folder);
    return stat(path, &at) == 0 ? (int64_t)at.st_mtim.tv_sec * 1000000000 + at.st_mtim.tv_nsec : 0;
}

void ebb_state_say(const ebb_supervisor_state_t *s, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    fprintf(stderr, "ebb: %s: %s\n", s->options->name, text);
}

/* ---- for those who ask ---- */

static void add_count(int64_t n, const char *what, char *line, size_t size)
{
    size_t at = strlen(line);
    if (n > 0 && at < size)
        snprintf(line + at, size - at, ", %lld %s%s", (long long)n, what, n == 1 ? "" : "s");
}

ebb_status_t ebb_supervise_state(const char *folder, char *line, size_t size)
{
    json_t *json = load(folder, "supervisor.json");
    const char *word = json_string_value(json_object_get(json, "state"));
    int64_t ranks = number(json, "ranks");
    if (!word) {
        json_decref(json);
        return EBB_FAIL(EBB_ENOINPUT, "%s: no supervised run is here; name one that ebb run started", folder);
    }
    bool live = strcmp(word, "running") == 0 || strcmp(word, "pausing") == 0 || strcmp(word, "restarting") == 0;
    if (live)
        snprintf(line, size, "%s on %lld rank%s", word, (long long)ranks, ranks == 1 ? "" : "s");
    else
        snprintf(line, size, "%s", strcmp(word, "waiting") == 0 ? "paused, waits for ranks" : word);
    add_count(number(json, "restarts"), "restart", line, size);
    add_count(number(json, "resizes"), "resize", line, size);
    json_decref(json);
    return EBB_OK;
}
