/* The record of a run: folder, lock and run.json. Members live in one JSON object in memory; writing replaces the file.
 */
#include "report/internal.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/lock.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static ebb_status_t no_memory(void)
{
    return EBB_FAIL(EBB_ENOMEM, "out of memory for the run's record");
}

/* Strip trailing slashes; the last component must be a name. */
static ebb_status_t set_paths(ebb_record_t *r, const char *folder)
{
    char path[PATH_MAX];
    size_t n = strlen(folder);
    while (n > 1 && folder[n - 1] == '/')
        n--;
    if (n == 0 || n + 32 > sizeof path)
        return EBB_FAIL(EBB_EUSAGE, "\"%.80s\" cannot be the folder of a run", folder);
    snprintf(path, sizeof path, "%.*s", (int)n, folder);
    r->folder = ebb_strdup(path);
    snprintf(path + n, sizeof path - n, "/run.json");
    r->json_path = ebb_strdup(path);
    snprintf(path + n, sizeof path - n, "/metrics.jsonl");
    r->lines_path = ebb_strdup(path);
    return r->folder && r->json_path && r->lines_path ? EBB_OK : no_memory();
}

static const char *base_name(const char *folder)
{
    const char *slash = strrchr(folder, '/');
    return slash && slash[1] ? slash + 1 : folder;
}

static json_t *now(void)
{
    char text[32];
    ebb_format_utc(ebb_wall_seconds(), text, sizeof text);
    return json_string(text);
}

static ebb_status_t begin(ebb_record_t *r)
{
    r->json = json_pack("{s:s, s:i, s:s, s:s, s:o, s:[]}", "format", "ebb-run", "version", EBB_RECORD_VERSION, "name",
                        base_name(r->folder), "outcome", "running", "started", now(), "starts");
    return r->json ? ebb_record_write(r) : EBB_FAIL(EBB_EUSAGE, "%s: the name of a run must be UTF-8", r->folder);
}

static ebb_status_t load(ebb_record_t *r)
{
    const char *format = "";
    int64_t version = 0;
    EBB_TRY(ebb_json_load(r->json_path, &r->json));
    EBB_TRY(ebb_json_get_string(r->json, "format", r->json_path, &format));
    EBB_TRY(ebb_json_get_i64(r->json, "version", r->json_path, &version));
    if (strcmp(format, "ebb-run") != 0)
        return EBB_FAIL(EBB_EDATA, "%s: not the record of a run", r->json_path);
    if (version != EBB_RECORD_VERSION)
        return EBB_FAIL(EBB_EDATA, "%s: version %" PRId64 ", this ebb reads version %d", r->json_path, version,
                        EBB_RECORD_VERSION);
    if (!json_is_array(json_object_get(r->json, "starts")))
        return EBB_FAIL(EBB_EDATA, "%s: \"starts\" must be a list", r->json_path);
    json_object_del(r->json, "ended");
    json_object_del(r->json, "error");
    return ebb_record_set_string(r, "outcome", "running");
}

/* A run that failed before its first line left nothing to lose. */
static ebb_status_t begin_anew(ebb_record_t *r, bool replace)
{
    if (!replace && ebb_file_size(r->lines_path) > 0)
        return EBB_FAIL(
            EBB_EUSAGE,
            "%s: holds a run already: go on with it by ebb train --resume %s, start anew with --force, or set "
            "another run.name",
            r->folder, r->folder);
    if (unlink(r->lines_path) != 0 && errno != ENOENT)
        return ebb_file_error(r->lines_path, "remove");
    return begin(r);
}

static ebb_status_t open_record(ebb_record_t *r, const char *folder, bool resume, bool replace)
{
    EBB_TRY(set_paths(r, folder));
    if (resume && !ebb_file_exists(r->json_path))
        return EBB_FAIL(EBB_ENOINPUT, "%s: no run to resume: there is no run.json in it", r->folder);
    if (!resume)
        EBB_TRY(ebb_file_mkdirs(r->folder));
    EBB_TRY(ebb_folder_lock(r->folder, "lock", &r->lock_fd));
    if (resume)
        EBB_TRY(load(r));
    else
        EBB_TRY(begin_anew(r, replace));
    return ebb_lines_open(r);
}

static ebb_status_t make(const char *folder, bool resume, bool replace, ebb_record_t **record_p)
{
    ebb_record_t *r;
    *record_p = NULL;
    EBB_TRY(EBB_NEW("record of a run", &r));
    r->lock_fd = r->lines_fd = -1;
    ebb_status_t status = open_record(r, folder, resume, replace);
    if (status != EBB_OK) {
        ebb_record_destroy(r);
        return status;
    }
    *record_p = r;
    return EBB_OK;
}

ebb_status_t ebb_record_create(const char *folder, bool replace, ebb_record_t **record_p)
{
    return make(folder, false, replace, record_p);
}

ebb_status_t ebb_record_open(const char *folder, ebb_record_t **record_p)
{
    return make(folder, true, false, record_p);
}

void ebb_record_destroy(ebb_record_t *record)
{
    if (!record)
        return;
    if (record->lines_fd >= 0)
        close(record->lines_fd);
    if (record->lock_fd >= 0)
        close(record->lock_fd);
    json_decref(record->json);
    ebb_text_free(&record->line);
    ebb_free(record->folder);
    ebb_free(record->json_path);
    ebb_free(record->lines_path);
    ebb_free(record);
}

const char *ebb_record_folder(const ebb_record_t *record)
{
    return record ? record->folder : NULL;
}

/* The object that holds the last part of a dotted key, made on the way if `make_it`; *last_p: that part. NULL if there
 * is none. */
static json_t *descend(json_t *at, const char *key, bool make_it, const char **last_p)
{
    char part[128];
    const char *dot;
    while (at && (dot = strchr(key, '.'))) {
        snprintf(part, sizeof part, "%.*s", (int)(dot - key), key);
        json_t *next = json_object_get(at, part);
        if (!next && make_it) {
            next = json_object();
            json_object_set_new(at, part, next);
        }
        at = json_is_object(next) ? next : NULL;
        key = dot + 1;
    }
    *last_p = key;
    return at;
}

/* Takes value over. */
static ebb_status_t set(ebb_record_t *r, const char *key, json_t *value)
{
    const char *last;
    if (!value)
        return EBB_FAIL(EBB_EINVAL, "run.json: \"%s\": not UTF-8, or out of memory", key);
    json_t *at = descend(r->json, key, true, &last);
    if (!at || json_object_set(at, last, value) != 0) {
        json_decref(value);
        return EBB_FAIL(EBB_EINVAL, "run.json: \"%s\": cannot be set: a part of it is no object", key);
    }
    json_decref(value);
    return EBB_OK;
}

static ebb_status_t parse(const char *key, const char *json, json_t **value_p)
{
    json_error_t error;
    *value_p = json_loads(json, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &error);
    return *value_p ? EBB_OK : EBB_FAIL(EBB_EINVAL, "run.json: \"%s\": not valid JSON: %s", key, error.text);
}

ebb_status_t ebb_record_set_json(ebb_record_t *record, const char *key, const char *json)
{
    json_t *value;
    if (!record)
        return EBB_OK;
    EBB_TRY(parse(key, json, &value));
    return set(record, key, value);
}

ebb_status_t ebb_record_set_string(ebb_record_t *record, const char *key, const char *value)
{
    return record ? set(record, key, json_string(value)) : EBB_OK;
}

ebb_status_t ebb_record_set_i64(ebb_record_t *record, const char *key, int64_t value)
{
    return record ? set(record, key, json_integer(value)) : EBB_OK;
}

ebb_status_t ebb_record_set_f64(ebb_record_t *record, const char *key, double value)
{
    return record ? set(record, key, isfinite(value) ? json_real(value) : json_null()) : EBB_OK;
}

ebb_status_t ebb_record_append(ebb_record_t *record, const char *key, const char *json)
{
    const char *last;
    json_t *value;
    if (!record)
        return EBB_OK;
    EBB_TRY(parse(key, json, &value));
    json_t *at = descend(record->json, key, true, &last);
    if (at && !json_object_get(at, last))
        json_object_set_new(at, last, json_array());
    if (!at || json_array_append(json_object_get(at, last), value) != 0) {
        json_decref(value);
        return EBB_FAIL(EBB_EINVAL, "run.json: \"%s\" is not a list", key);
    }
    json_decref(value);
    return EBB_OK;
}

char *ebb_record_get(const ebb_record_t *record, const char *key)
{
    const char *last;
    if (!record)
        return NULL;
    json_t *at = descend(record->json, key, false, &last);
    json_t *value = json_object_get(at, last);
    return value ? json_dumps(value, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY) : NULL;
}

ebb_status_t ebb_record_write(ebb_record_t *record)
{
    if (!record)
        return EBB_OK;
    char *text = json_dumps(record->json, JSON_INDENT(2));
    if (!text)
        return no_memory();
    size_t n = strlen(text);
    text[n] = '\n'; /* in place of the zero */
    ebb_status_t status = ebb_file_replace(record->json_path, text, n + 1);
    free(text);
    return status;
}

static ebb_status_t end(ebb_record_t *r, const char *outcome, const char *message)
{
    json_t *starts = json_object_get(r->json, "starts");
    json_t *entry = json_array_get(starts, json_array_size(starts) - 1);
    EBB_TRY(ebb_record_set_string(r, "outcome", outcome));
    EBB_TRY(set(r, "ended", now()));
    if (message)
        EBB_TRY(ebb_record_set_string(r, "error", message));
    if (entry) {
        json_object_set_new(entry, "ended", now());
        json_object_set_new(entry, "outcome", json_string(outcome));
    }
    return ebb_record_write(r);
}

ebb_status_t ebb_record_finish(ebb_record_t *record, ebb_status_t outcome)
{
    if (!record)
        return EBB_OK;
    ebb_error_t first = *ebb_error();
    ebb_error_clear();
    bool bad = outcome != EBB_OK && outcome != EBB_ESTOPPED;
    ebb_status_t status = end(record,
                              outcome == EBB_OK ? "finished"
                              : bad             ? "failed"
                                                : "stopped",
                              bad ? first.message : NULL);
    if (first.status != EBB_OK) {
        if (status != EBB_OK)
            EBB_WARN("report", "%s", ebb_error()->message);
        ebb_error_clear();
        ebb_error_set(&first);
    }
    return status;
}

ebb_status_t ebb_record_fail(const char *folder, const char *why)
{
    ebb_record_t r = {.lock_fd = -1, .lines_fd = -1};
    ebb_status_t status = set_paths(&r, folder);
    if (status == EBB_OK)
        status = ebb_json_load(r.json_path, &r.json);
    const char *outcome = json_string_value(json_object_get(r.json, "outcome"));
    if (status == EBB_OK && outcome && strcmp(outcome, "running") == 0)
        status = end(&r, "failed", why);
    json_decref(r.json);
    ebb_free(r.folder);
    ebb_free(r.json_path);
    ebb_free(r.lines_path);
    return status;
}
