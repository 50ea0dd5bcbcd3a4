/* What happens to jobs: moves between states with their accounts of time, notes, history, kept values. */
#include "internal.h"
#include "base/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *ebb_queue_state_name(ebb_queue_state_t state)
{
    static const char *const names[] = {"queued", "held", "starting", "running",  "pausing",
                                        "paused", "done", "failed",   "cancelled"};
    return (unsigned)state < EBB_QUEUE_STATES ? names[state] : "unknown";
}

ebb_status_t ebb_queue_tell(const ebb_queue_t *q, int64_t id, ebb_queue_state_t from, ebb_queue_state_t to,
                            int64_t ranks, const char *reason, double now)
{
    return ebb_queue_execute(q, "INSERT INTO events(job, time, old, new, ranks, reason) VALUES(?, ?, ?, ?, ?, ?)",
                             "idiiis", id, now, (int64_t)from, (int64_t)to, ranks, reason);
}

/* ---- moves ---- */

static bool is_in(unsigned states, ebb_queue_state_t state)
{
    return (states & EBB_QUEUE_BIT(state)) != 0;
}

static bool has_processes(ebb_queue_state_t state)
{
    return state == EBB_RUNNING || state == EBB_PAUSING;
}

/* The stretch under way begins, goes on or ends. */
static void keep_time(ebb_queue_job_t *job, ebb_queue_state_t to, double now)
{
    if (to == EBB_RUNNING && !(job->begun > 0))
        job->begun = now;
    if (has_processes(to) && !(job->running_since > 0))
        job->running_since = now;
    if (!has_processes(to) && job->running_since > 0) {
        job->running_s += fmax(0, now - job->running_since);
        job->running_since = 0;
    }
    if ((to == EBB_PAUSED || to == EBB_HELD) && has_processes(job->state))
        job->pauses++;
    if (is_in(EBB_QUEUE_OVER, to))
        job->ended = now;
}

static ebb_queue_wish_t wish_after(const ebb_queue_job_t *job, ebb_queue_state_t to)
{
    bool fulfilled = is_in(EBB_QUEUE_OVER, to) || to == EBB_HELD;
    return fulfilled ? EBB_WISH_NONE : job->wish;
}

static ebb_status_t store(const ebb_queue_t *q, const ebb_queue_job_t *job, const ebb_queue_change_t *c, double now)
{
    return ebb_queue_execute(
        q,
        "UPDATE jobs SET state = ?, wish = ?, changed = ?, begun = ?, ended = ?, running_since = ?, running_s = ?,"
        " done = ?, attempt = ?, ranks = ?, pauses = ?, exit_code = ?, reason = ?, gpu = ?, slurm = ? WHERE id = ?",
        "iiddddddiiiisssi", (int64_t)c->to, (int64_t)wish_after(job, c->to), now, job->begun, job->ended,
        job->running_since, job->running_s, c->done > 0 ? fmin(c->done, 1) : job->done,
        job->attempt + (c->new_attempt ? 1 : 0), c->ranks > 0 ? c->ranks : job->ranks, job->pauses,
        (int64_t)c->exit_code, c->reason ? c->reason : "", c->gpu ? c->gpu : job->gpu, c->slurm ? c->slurm : job->slurm,
        c->id);
}

static ebb_status_t move(ebb_queue_t *q, const ebb_queue_change_t *c, bool *moved_p)
{
    ebb_queue_job_t job = {0};
    double now = ebb_wall_seconds();
    EBB_TRY(ebb_queue_get(q, c->id, &job));
    ebb_queue_state_t from = job.state;
    *moved_p = !is_in(EBB_QUEUE_OVER, from) && is_in(c->from ? c->from : EBB_QUEUE_ANY, from);
    ebb_status_t status = EBB_OK;
    if (*moved_p) {
        keep_time(&job, c->to, now);
        status = store(q, &job, c, now);
    }
    if (*moved_p && status == EBB_OK)
        status =
            ebb_queue_tell(q, c->id, from, c->to, c->ranks > 0 ? c->ranks : job.ranks, c->reason ? c->reason : "", now);
    ebb_queue_job_free(&job);
    return status;
}

ebb_status_t ebb_queue_move(ebb_queue_t *q, const ebb_queue_change_t *change, bool *moved_p)
{
    bool moved = false;
    EBB_TRY(ebb_queue_begin(q));
    ebb_status_t status = ebb_queue_commit(q, move(q, change, &moved));
    if (moved_p)
        *moved_p = moved && status == EBB_OK;
    return status;
}

static ebb_status_t resized(ebb_queue_t *q, int64_t id, int64_t ranks, double done, const char *reason)
{
    ebb_queue_job_t job = {0};
    double now = ebb_wall_seconds();
    EBB_TRY(ebb_queue_get(q, id, &job));
    double stretch = job.running_since > 0 ? fmax(0, now - job.running_since) : 0;
    ebb_status_t status =
        ebb_queue_execute(q,
                          "UPDATE jobs SET ranks = ?, done = ?, resizes = resizes + 1,"
                          " running_s = running_s + ?, running_since = ? WHERE id = ?",
                          "idddi", ranks, fmin(done, 1), stretch, job.running_since > 0 ? now : 0.0, id);
    if (status == EBB_OK)
        status = ebb_queue_tell(q, id, job.state, job.state, ranks, reason, now);
    ebb_queue_job_free(&job);
    return status;
}

ebb_status_t ebb_queue_resized(ebb_queue_t *q, int64_t id, int64_t ranks, double done, const char *reason)
{
    EBB_TRY(ebb_queue_begin(q));
    return ebb_queue_commit(q, resized(q, id, ranks, done, reason));
}

/* ---- wishes and notes ---- */

ebb_status_t ebb_queue_wish(ebb_queue_t *q, int64_t id, ebb_queue_wish_t wish)
{
    return ebb_queue_execute(q, "UPDATE jobs SET wish = ? WHERE id = ?", "ii", (int64_t)wish, id);
}

ebb_status_t ebb_queue_note(ebb_queue_t *q, int64_t id, const char *plan, const char *reason)
{
    return ebb_queue_execute(q, "UPDATE jobs SET plan = coalesce(?, plan), reason = coalesce(?, reason) WHERE id = ?",
                             "ssi", plan, reason, id);
}

/* ---- history ---- */

static ebb_status_t read_events(ebb_queue_t *q, sqlite3_stmt *s, ebb_queue_event_t **event_p, int64_t *n_p)
{
    int64_t capacity = 0;
    int code;
    while ((code = sqlite3_step(s)) == SQLITE_ROW) {
        if (*n_p == capacity) {
            capacity = 2 * capacity + 16;
            ebb_queue_event_t *more = realloc(*event_p, (size_t)capacity * sizeof *more);
            if (!more)
                return EBB_FAIL(EBB_ENOMEM, "out of memory: history of a job");
            *event_p = more;
        }
        ebb_queue_event_t *e = &(*event_p)[(*n_p)++];
        const char *reason = (const char *)sqlite3_column_text(s, 4);
        *e = (ebb_queue_event_t){sqlite3_column_double(s, 0), (ebb_queue_state_t)sqlite3_column_int(s, 1),
                                 (ebb_queue_state_t)sqlite3_column_int(s, 2), sqlite3_column_int64(s, 3), ""};
        snprintf(e->reason, sizeof e->reason, "%s", reason ? reason : "");
    }
    return code == SQLITE_DONE ? EBB_OK : ebb_queue_error(q, "read");
}

ebb_status_t ebb_queue_history(ebb_queue_t *q, int64_t id, ebb_queue_event_t **event_p, int64_t *n_p)
{
    sqlite3_stmt *s;
    *event_p = NULL;
    *n_p = 0;
    ebb_status_t status = ebb_queue_prepare(
        q, &s, "SELECT time, old, new, ranks, reason FROM events WHERE job = ? ORDER BY rowid", "i", id);
    if (status == EBB_OK)
        status = read_events(q, s, event_p, n_p);
    sqlite3_finalize(s);
    if (status != EBB_OK) {
        free(*event_p);
        *event_p = NULL;
    }
    return status;
}

/* ---- kept values ---- */

ebb_status_t ebb_queue_keep(ebb_queue_t *q, const char *key, const void *value, size_t bytes)
{
    sqlite3_stmt *s;
    ebb_status_t status = ebb_queue_prepare(q, &s, "INSERT OR REPLACE INTO kept(key, value) VALUES(?, ?)", "s", key);
    if (status == EBB_OK &&
        (sqlite3_bind_blob(s, 2, value, (int)bytes, SQLITE_STATIC) != SQLITE_OK || sqlite3_step(s) != SQLITE_DONE))
        status = ebb_queue_error(q, "write");
    sqlite3_finalize(s);
    return status;
}

ebb_status_t ebb_queue_recall(ebb_queue_t *q, const char *key, void *value, size_t room, size_t *bytes_p)
{
    sqlite3_stmt *s;
    *bytes_p = 0;
    ebb_status_t status = ebb_queue_prepare(q, &s, "SELECT value FROM kept WHERE key = ?", "s", key);
    int code = status == EBB_OK ? sqlite3_step(s) : SQLITE_DONE;
    if (code == SQLITE_ROW && (size_t)sqlite3_column_bytes(s, 0) <= room) {
        *bytes_p = (size_t)sqlite3_column_bytes(s, 0);
        memcpy(value, sqlite3_column_blob(s, 0), *bytes_p);
    } else if (code != SQLITE_ROW && code != SQLITE_DONE) {
        status = ebb_queue_error(q, "read");
    }
    sqlite3_finalize(s);
    return status;
}
