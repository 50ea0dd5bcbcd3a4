/* The queue's database: opening, entering, reading. SQLite in WAL mode with full synchronisation: a transaction that
 * returned survives power cuts, readers and writers of other processes do not wait for each other's reading. */
#include "internal.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FORMAT  1
#define BUSY_MS 20000 /* for another's transaction; each takes milliseconds */

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS jobs(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, spec TEXT NOT NULL,"
    " state INTEGER NOT NULL, wish INTEGER NOT NULL DEFAULT 0, submitted REAL NOT NULL, changed REAL NOT NULL,"
    " begun REAL NOT NULL DEFAULT 0, ended REAL NOT NULL DEFAULT 0, running_since REAL NOT NULL DEFAULT 0,"
    " running_s REAL NOT NULL DEFAULT 0, done REAL NOT NULL DEFAULT 0, attempt INTEGER NOT NULL DEFAULT 0,"
    " ranks INTEGER NOT NULL, pauses INTEGER NOT NULL DEFAULT 0, resizes INTEGER NOT NULL DEFAULT 0,"
    " exit_code INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '', gpu TEXT NOT NULL DEFAULT '',"
    " plan TEXT NOT NULL DEFAULT '', slurm TEXT NOT NULL DEFAULT '');"
    "CREATE INDEX IF NOT EXISTS jobs_state ON jobs(state);"
    "CREATE INDEX IF NOT EXISTS jobs_name ON jobs(name);"
    "CREATE TABLE IF NOT EXISTS events(job INTEGER NOT NULL, time REAL NOT NULL, old INTEGER NOT NULL,"
    " new INTEGER NOT NULL, ranks INTEGER NOT NULL, reason TEXT NOT NULL);"
    "CREATE INDEX IF NOT EXISTS events_job ON events(job);"
    "CREATE TABLE IF NOT EXISTS kept(key TEXT PRIMARY KEY, value BLOB NOT NULL);"
    "PRAGMA user_version = 1;";

/* ---- the database ---- */

ebb_status_t ebb_queue_error(const ebb_queue_t *q, const char *verb)
{
    int code = sqlite3_errcode(q->db);
    ebb_status_t status = code == SQLITE_FULL                               ? EBB_ENOSPC
                          : code == SQLITE_CORRUPT || code == SQLITE_NOTADB ? EBB_ECORRUPT
                          : code == SQLITE_NOMEM                            ? EBB_ENOMEM
                                                                            : EBB_EIO;
    return EBB_FAIL(status, "%s/queue.db: %s: %s", q->folder, verb, sqlite3_errmsg(q->db));
}

static int bind(sqlite3_stmt *s, const char *types, va_list args)
{
    int code = SQLITE_OK;
    for (int i = 1; *types && code == SQLITE_OK; types++, i++) {
        if (*types == 'i')
            code = sqlite3_bind_int64(s, i, va_arg(args, int64_t));
        else if (*types == 'd')
            code = sqlite3_bind_double(s, i, va_arg(args, double));
        else
            code = sqlite3_bind_text(s, i, va_arg(args, const char *), -1, SQLITE_STATIC);
    }
    return code;
}

static ebb_status_t prepare(const ebb_queue_t *q, sqlite3_stmt **s_p, const char *sql, const char *types, va_list args)
{
    *s_p = NULL;
    if (sqlite3_prepare_v2(q->db, sql, -1, s_p, NULL) != SQLITE_OK || bind(*s_p, types, args) != SQLITE_OK)
        return ebb_queue_error(q, "prepare");
    return EBB_OK;
}

ebb_status_t ebb_queue_prepare(const ebb_queue_t *q, sqlite3_stmt **s_p, const char *sql, const char *types, ...)
{
    va_list args;
    va_start(args, types);
    ebb_status_t status = prepare(q, s_p, sql, types, args);
    va_end(args);
    return status;
}

ebb_status_t ebb_queue_execute(const ebb_queue_t *q, const char *sql, const char *types, ...)
{
    sqlite3_stmt *s;
    va_list args;
    va_start(args, types);
    ebb_status_t status = prepare(q, &s, sql, types, args);
    va_end(args);
    if (status == EBB_OK && sqlite3_step(s) != SQLITE_DONE)
        status = ebb_queue_error(q, "write");
    sqlite3_finalize(s);
    return status;
}

ebb_status_t ebb_queue_begin(const ebb_queue_t *q)
{
    return ebb_queue_execute(q, "BEGIN IMMEDIATE", "");
}

ebb_status_t ebb_queue_commit(const ebb_queue_t *q, ebb_status_t status)
{
    if (status == EBB_OK)
        status = ebb_queue_execute(q, "COMMIT", "");
    if (status != EBB_OK)
        sqlite3_exec(q->db, "ROLLBACK", NULL, NULL, NULL);
    return status;
}

/* ---- opening ---- */

ebb_status_t ebb_queue_folder(char *path, size_t size)
{
    const char *own = getenv("EBB_STATE_DIR"), *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int n;
    if (own && *own)
        n = snprintf(path, size, "%s", own);
    else if (state && *state)
        n = snprintf(path, size, "%s/ebb", state);
    else if (home && *home)
        n = snprintf(path, size, "%s/.local/state/ebb", home);
    else
        return EBB_FAIL(EBB_EUSAGE, "no place for the queue: set EBB_STATE_DIR or HOME");
    return n < (int)size ? EBB_OK : EBB_FAIL(EBB_EUSAGE, "EBB_STATE_DIR: path too long");
}

static ebb_status_t make_folder(ebb_queue_t *q, const char *folder)
{
    char path[PATH_MAX];
    if (folder)
        snprintf(path, sizeof path, "%s", folder);
    else
        EBB_TRY(ebb_queue_folder(path, sizeof path));
    bool there = ebb_file_is_dir(path);
    EBB_TRY(ebb_file_mkdirs(path));
    if (!there && chmod(path, 0700) != 0)
        return ebb_file_error(path, "change mode");
    return realpath(path, q->folder) ? EBB_OK : ebb_file_error(path, "find");
}

static ebb_status_t check_format(const ebb_queue_t *q)
{
    sqlite3_stmt *s;
    int version = 0;
    ebb_status_t status = ebb_queue_prepare(q, &s, "PRAGMA user_version", "");
    if (status == EBB_OK && sqlite3_step(s) == SQLITE_ROW)
        version = sqlite3_column_int(s, 0);
    else if (status == EBB_OK)
        status = ebb_queue_error(q, "read");
    sqlite3_finalize(s);
    if (status == EBB_OK && version > FORMAT)
        return EBB_FAIL(EBB_EDATA, "%s/queue.db: made by a newer Ebb (format %d)", q->folder, version);
    return status != EBB_OK || version == FORMAT                        ? status
           : sqlite3_exec(q->db, schema, NULL, NULL, NULL) == SQLITE_OK ? EBB_OK
                                                                        : ebb_queue_error(q, "create");
}

static ebb_status_t open_database(ebb_queue_t *q)
{
    char path[PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/queue.db", q->folder);
    mode_t before = umask(0077);
    int code = sqlite3_open_v2(path, &q->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, NULL);
    if (code == SQLITE_OK)
        sqlite3_busy_timeout(q->db, BUSY_MS);
    if (code == SQLITE_OK)
        code = sqlite3_exec(q->db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;", NULL, NULL, NULL);
    umask(before);
    EBB_TRY(code == SQLITE_OK ? EBB_OK : ebb_queue_error(q, "open"));
    EBB_TRY(ebb_queue_begin(q));
    return ebb_queue_commit(q, check_format(q));
}

ebb_status_t ebb_queue_open(const char *folder, ebb_queue_t **queue_p)
{
    ebb_queue_t *q;
    EBB_TRY(EBB_NEW("queue", &q));
    ebb_status_t status = make_folder(q, folder);
    if (status == EBB_OK)
        status = open_database(q);
    if (status != EBB_OK) {
        ebb_queue_close(q);
        return status;
    }
    *queue_p = q;
    return EBB_OK;
}

void ebb_queue_close(ebb_queue_t *q)
{
    if (q)
        sqlite3_close(q->db);
    ebb_free(q);
}

const char *ebb_queue_path(const ebb_queue_t *q)
{
    return q->folder;
}

/* ---- entering ---- */

static ebb_status_t exists(const ebb_queue_t *q, int64_t id, bool *exists_p)
{
    sqlite3_stmt *s;
    ebb_status_t status = ebb_queue_prepare(q, &s, "SELECT 1 FROM jobs WHERE id = ?", "i", id);
    int code = status == EBB_OK ? sqlite3_step(s) : SQLITE_ERROR;
    *exists_p = code == SQLITE_ROW;
    if (status == EBB_OK && code != SQLITE_ROW && code != SQLITE_DONE)
        status = ebb_queue_error(q, "read");
    sqlite3_finalize(s);
    return status;
}

static ebb_status_t check_after(const ebb_queue_t *q, const ebb_queue_spec_t *spec)
{
    bool there;
    for (int64_t i = 0; i < spec->n_after; i++) {
        EBB_TRY(exists(q, spec->after[i], &there));
        if (!there)
            return EBB_FAIL(EBB_EINVAL, "job \"%.60s\" is to run after job %lld, which does not exist", spec->name,
                            (long long)spec->after[i]);
    }
    return EBB_OK;
}

static ebb_status_t enter(const ebb_queue_t *q, const ebb_queue_spec_t *spec, const char *text, const char *slurm,
                          int64_t *id_p)
{
    ebb_queue_state_t state = slurm ? EBB_STARTING : EBB_QUEUED;
    double now = ebb_wall_seconds();
    EBB_TRY(check_after(q, spec));
    EBB_TRY(ebb_queue_execute(q,
                              "INSERT INTO jobs(name, spec, state, submitted, changed, ranks, slurm, reason)"
                              " VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
                              "ssiddiss", spec->name, text, (int64_t)state, now, now, spec->ranks, slurm ? slurm : "",
                              slurm ? "handed to Slurm" : "not planned yet"));
    *id_p = sqlite3_last_insert_rowid(q->db);
    return ebb_queue_tell(q, *id_p, state, state, spec->ranks, "submitted", now);
}

ebb_status_t ebb_queue_submit(ebb_queue_t *q, const ebb_queue_spec_t *spec, const char *slurm, int64_t *id_p)
{
    char *text;
    EBB_TRY(ebb_spec_check(spec));
    EBB_TRY(ebb_spec_write(spec, &text));
    ebb_status_t status = ebb_queue_begin(q);
    if (status == EBB_OK)
        status = ebb_queue_commit(q, enter(q, spec, text, slurm, id_p));
    free(text);
    return status;
}

/* ---- reading ---- */

static ebb_status_t copy_text(sqlite3_stmt *s, int column, char **owned_p, const char **text_p)
{
    const char *text = (const char *)sqlite3_column_text(s, column);
    *text_p = *owned_p = ebb_strdup(text ? text : "");
    return *owned_p ? EBB_OK : EBB_FAIL(EBB_ENOMEM, "out of memory: job");
}

static ebb_status_t copy_texts(sqlite3_stmt *s, ebb_queue_job_t *job, ebb_spec_memory_t *m)
{
    EBB_TRY(copy_text(s, 16, &m->reason, &job->reason));
    EBB_TRY(copy_text(s, 17, &m->gpu, &job->gpu));
    EBB_TRY(copy_text(s, 18, &m->plan, &job->plan));
    return copy_text(s, 19, &m->slurm, &job->slurm);
}

ebb_status_t ebb_queue_row(const ebb_queue_t *q, sqlite3_stmt *s, ebb_queue_job_t *job)
{
    ebb_spec_memory_t *memory;
    const char *spec = (const char *)sqlite3_column_text(s, 1);
    *job = (ebb_queue_job_t){.id = sqlite3_column_int64(s, 0),
                             .state = (ebb_queue_state_t)sqlite3_column_int(s, 2),
                             .wish = (ebb_queue_wish_t)sqlite3_column_int(s, 3),
                             .submitted = sqlite3_column_double(s, 4),
                             .changed = sqlite3_column_double(s, 5),
                             .begun = sqlite3_column_double(s, 6),
                             .ended = sqlite3_column_double(s, 7),
                             .running_since = sqlite3_column_double(s, 8),
                             .running_s = sqlite3_column_double(s, 9),
                             .done = sqlite3_column_double(s, 10),
                             .attempt = sqlite3_column_int64(s, 11),
                             .ranks = sqlite3_column_int64(s, 12),
                             .pauses = sqlite3_column_int64(s, 13),
                             .resizes = sqlite3_column_int64(s, 14),
                             .exit_code = sqlite3_column_int(s, 15)};
    EBB_TRY(spec ? ebb_spec_read(spec, &job->spec, &memory) : ebb_queue_error(q, "read"));
    job->memory = memory;
    ebb_status_t status = copy_texts(s, job, memory);
    if (status != EBB_OK)
        ebb_queue_job_free(job);
    return status;
}

void ebb_queue_job_free(ebb_queue_job_t *job)
{
    ebb_spec_free(job->memory);
    *job = (ebb_queue_job_t){0};
}

static ebb_status_t read_one(ebb_queue_t *q, sqlite3_stmt *s, const char *what, ebb_queue_job_t *job)
{
    int code = sqlite3_step(s);
    if (code == SQLITE_DONE)
        return EBB_FAIL(EBB_ENOINPUT, "%.100s: there is no such job; `ebb queue --all` lists them", what);
    if (code != SQLITE_ROW)
        return ebb_queue_error(q, "read");
    ebb_queue_job_free(job);
    return ebb_queue_row(q, s, job);
}

ebb_status_t ebb_queue_get(ebb_queue_t *q, int64_t id, ebb_queue_job_t *job)
{
    sqlite3_stmt *s;
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)id);
    ebb_status_t status = ebb_queue_prepare(q, &s, "SELECT " EBB_QUEUE_COLUMNS " FROM jobs WHERE id = ?", "i", id);
    if (status == EBB_OK)
        status = read_one(q, s, text, job);
    sqlite3_finalize(s);
    return status;
}

ebb_status_t ebb_queue_find(ebb_queue_t *q, const char *text, ebb_queue_job_t *job)
{
    sqlite3_stmt *s;
    int64_t id;
    if (ebb_parse_i64(text, &id) == EBB_OK)
        return ebb_queue_get(q, id, job);
    ebb_error_clear();
    ebb_status_t status = ebb_queue_prepare(q, &s,
                                            "SELECT " EBB_QUEUE_COLUMNS " FROM jobs WHERE name = ?"
                                            " ORDER BY (1 << state & ?) = 0, id DESC LIMIT 1",
                                            "si", text, (int64_t)EBB_QUEUE_LIVE);
    if (status == EBB_OK)
        status = read_one(q, s, text, job);
    sqlite3_finalize(s);
    return status;
}

static ebb_status_t read_rows(ebb_queue_t *q, sqlite3_stmt *s, ebb_queue_list_t *list)
{
    int code;
    while ((code = sqlite3_step(s)) == SQLITE_ROW) {
        EBB_TRY(ebb_grow("list of jobs", (void **)&list->job, &list->capacity, list->n + 1, sizeof *list->job));
        EBB_TRY(ebb_queue_row(q, s, &list->job[list->n]));
        list->n++;
    }
    return code == SQLITE_DONE ? EBB_OK : ebb_queue_error(q, "read");
}

ebb_status_t ebb_queue_read(ebb_queue_t *q, unsigned states, ebb_queue_list_t *list)
{
    sqlite3_stmt *s;
    char in[64] = "", sql[512];
    for (int i = 0; i < EBB_QUEUE_STATES; i++)
        if (states & EBB_QUEUE_BIT(i))
            snprintf(in + strlen(in), sizeof in - strlen(in), "%s%d", *in ? "," : "", i);
    snprintf(sql, sizeof sql, "SELECT " EBB_QUEUE_COLUMNS " FROM jobs WHERE state IN (%s) ORDER BY id", in);
    ebb_queue_list_free(list);
    ebb_status_t status = ebb_queue_prepare(q, &s, sql, "");
    if (status == EBB_OK)
        status = read_rows(q, s, list);
    sqlite3_finalize(s);
    if (status != EBB_OK)
        ebb_queue_list_free(list);
    return status;
}

void ebb_queue_list_free(ebb_queue_list_t *list)
{
    for (int64_t i = 0; i < list->n; i++)
        ebb_queue_job_free(&list->job[i]);
    ebb_free(list->job);
    *list = (ebb_queue_list_t){0};
}

int64_t ebb_queue_version(ebb_queue_t *q)
{
    sqlite3_stmt *s;
    int64_t version = -1;
    if (ebb_queue_prepare(q, &s, "PRAGMA data_version", "") == EBB_OK && sqlite3_step(s) == SQLITE_ROW)
        version = sqlite3_column_int64(s, 0);
    else
        ebb_error_clear();
    sqlite3_finalize(s);
    return version;
}
