/* scale.request and scale.reply: small JSON files, each of which appears as a whole (link, rename). The asker makes a
 * random id; a reply to another id is not for it. */
#include "supervise/channel.h"
#include <ebb/supervise.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/lock.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MOST_BYTES 4096

static const char *place(const char *folder, const char *name, char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%s/%s", folder, name);
    return path;
}

/* A small regular file, never a link to another; NULL if it is not there or makes no sense. */
static json_t *read_small(const char *path)
{
    struct stat st;
    json_t *json = NULL;
    if (lstat(path, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size > MOST_BYTES)
        return NULL;
    if (ebb_json_load(path, &json) != EBB_OK)
        ebb_error_clear();
    return json;
}

void ebb_channel_clear(const char *folder)
{
    char path[PATH_MAX];
    unlink(place(folder, "scale.request", path));
    unlink(place(folder, "scale.reply", path));
}

bool ebb_channel_take(const char *folder, ebb_scale_request_t *request)
{
    char path[PATH_MAX];
    struct stat st;
    if (lstat(place(folder, "scale.request", path), &st) != 0)
        return false;
    json_t *json = read_small(path);
    const char *id = json_string_value(json_object_get(json, "id"));
    const json_t *ranks = json_object_get(json, "ranks");
    json_int_t n = json_integer_value(ranks);
    bool good = id && *id && strlen(id) < sizeof request->id && json_is_integer(ranks) && n >= 0 && n <= INT_MAX;
    if (good) {
        snprintf(request->id, sizeof request->id, "%s", id);
        request->ranks = (int)n;
    }
    json_decref(json);
    unlink(path);
    return good;
}

static ebb_status_t write_json(const char *path, json_t *json)
{
    char *text = json ? ebb_json_dump(json) : NULL;
    json_decref(json);
    ebb_status_t status =
        text ? ebb_file_replace(path, text, strlen(text)) : EBB_FAIL(EBB_ENOMEM, "%s: out of memory", path);
    free(text);
    return status;
}

void ebb_channel_answer(const char *folder, const ebb_scale_request_t *request, bool final, bool good, const char *text)
{
    char path[PATH_MAX];
    json_t *json =
        json_pack("{s:s, s:b, s:b, s:s}", "id", request->id, "final", (int) final, "good", (int)good, "text", text);
    if (write_json(place(folder, "scale.reply", path), json) != EBB_OK) {
        EBB_WARN("supervise", "%s", ebb_error()->message);
        ebb_error_clear();
    }
}

/* ---- the asker ---- */

static ebb_status_t refuse(const char *folder)
{
    char line[160];
    ebb_status_t status = ebb_supervise_state(folder, line, sizeof line);
    return status != EBB_OK ? status
                            : EBB_FAIL(EBB_EUNAVAILABLE, "%s: no supervisor is at work here (%s); start one by ebb run",
                                       folder, line);
}

static ebb_status_t post(const char *folder, int ranks, char id[40])
{
    char tmp[PATH_MAX], path[PATH_MAX];
    uint64_t random[2] = {0};
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return EBB_FAIL(EBB_EUNAVAILABLE, "the system gives no random numbers: %s", strerror(errno));
    snprintf(id, 40, "%016" PRIx64 "%016" PRIx64, random[0], random[1]);
    place(folder, "scale.request", path);
    snprintf(tmp, sizeof tmp, "%s-%s", path, id);
    EBB_TRY(write_json(tmp, json_pack("{s:s, s:i}", "id", id, "ranks", ranks)));
    int failed = link(tmp, path) != 0 ? errno : 0;
    unlink(tmp);
    if (failed == EEXIST)
        return EBB_FAIL(EBB_EUNAVAILABLE, "%s: another request waits there; ask again when it is done", folder);
    errno = failed;
    return failed ? ebb_file_error(path, "write") : EBB_OK;
}

/* Say what is new; true when that was the last word. */
static bool hear(const char *folder, const char *id, char last[512], ebb_supervise_say_t say, void *user,
                 ebb_status_t *status_p)
{
    char path[PATH_MAX];
    json_t *json = read_small(place(folder, "scale.reply", path));
    const char *to = json_string_value(json_object_get(json, "id"));
    const char *text = json_string_value(json_object_get(json, "text"));
    bool mine = to && text && strcmp(to, id) == 0;
    bool final = mine && json_is_true(json_object_get(json, "final"));
    bool good = json_is_true(json_object_get(json, "good"));
    if (final && !good)
        *status_p = EBB_FAIL(EBB_EUNAVAILABLE, "%s: %s", folder, text);
    else if (mine && strcmp(text, last) != 0)
        say(user, text);
    if (mine)
        snprintf(last, 512, "%s", text);
    json_decref(json);
    if (final)
        unlink(path);
    return final;
}

ebb_status_t ebb_supervise_scale(const char *folder, int ranks, ebb_supervise_say_t say, void *user)
{
    const struct timespec pause = {.tv_nsec = 100000000};
    char id[40], path[PATH_MAX], last[512] = "";
    ebb_status_t status = EBB_OK;
    if (!ebb_folder_locked(folder, EBB_SUPERVISE_LOCK))
        return refuse(folder);
    EBB_TRY(post(folder, ranks, id));
    while (!hear(folder, id, last, say, user, &status)) {
        if (!ebb_folder_locked(folder, EBB_SUPERVISE_LOCK)) {
            if (hear(folder, id, last, say, user, &status)) /* its last word */
                return status;
            unlink(place(folder, "scale.request", path));
            return refuse(folder);
        }
        nanosleep(&pause, NULL);
    }
    return status;
}
