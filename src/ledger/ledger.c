/* The file of the ledger. One table; the names of its columns, in their order, are what the hash of a row covers:
 * SHA-256 of the hash before, a line feed, and for each column but hash "NAME=VALUE" and a line feed, reals as %.17g
 * and NULL as nothing. Several hosts may append: each transaction takes the write lock before it reads the last hash.
 */
#include "ledger/internal.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/pulse.h"
#include "base/text.h"

#include <inttypes.h>
#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define WAIT_MS        10000      /* for another host's transaction */
#define PAUSE_MS       20         /* between looks for its end */
#define APPLICATION_ID 0x45626231 /* "Ebb1" */

typedef enum type { TEXT, REAL, WHOLE, CHOICE } type_t;

typedef struct column {
    const char *name;
    type_t type;
    size_t offset, size;            /* in the row; of texts */
    const char *(*word)(int value); /* of a choice */
    int words;
} column_t;

static const char *rung_word(int v)
{
    return ebb_carbon_rung_name((ebb_carbon_rung_t)v);
}

static const char *signal_word(int v)
{
    return ebb_carbon_signal_name((ebb_carbon_signal_t)v);
}

static const char *scope_word(int v)
{
    return ebb_carbon_scope_name((ebb_carbon_scope_t)v);
}

#define FIELD(name_, type_)                                                                                            \
    {                                                                                                                  \
        .name = #name_, .type = type_, .offset = offsetof(ebb_ledger_row_t, name_),                                    \
        .size = sizeof(((ebb_ledger_row_t *)0)->name_)                                                                 \
    }
#define WORD(name_, words_)                                                                                            \
    {                                                                                                                  \
        .name = #name_, .type = CHOICE, .offset = offsetof(ebb_ledger_row_t, name_), .word = name_##_word,             \
        .words = words_                                                                                                \
    }

static const column_t columns[] = {
    FIELD(seq, WHOLE),        FIELD(host, TEXT),      FIELD(ranks, WHOLE),
    FIELD(begin, REAL),       FIELD(end, REAL),       FIELD(seconds, REAL),
    FIELD(cpu_seconds, REAL), FIELD(node_j, REAL),    FIELD(job_j, REAL),
    FIELD(others_j, REAL),    FIELD(idle_j, REAL),    FIELD(measured_j, REAL),
    FIELD(gpu_j, REAL),       FIELD(job_low_j, REAL), FIELD(job_high_j, REAL),
    FIELD(meter, TEXT),       FIELD(intensity, REAL), WORD(rung, EBB_CARBON_RUNGS),
    FIELD(source, TEXT),      FIELD(zone, TEXT),      WORD(signal, 3),
    WORD(scope, 3),           FIELD(pue, REAL),       FIELD(embodied_g, REAL),
    FIELD(hash, TEXT),
};

enum { COLUMNS = sizeof columns / sizeof *columns, HASHED = COLUMNS - 1 };

struct ebb_ledger {
    sqlite3 *db;
    sqlite3_stmt *insert, *last;
    char path[4096];
};

static const void *field(const ebb_ledger_row_t *row, int c)
{
    return (const char *)row + columns[c].offset;
}

static ebb_status_t fail(const ebb_ledger_t *l, const char *what)
{
    int code = sqlite3_errcode(l->db);
    ebb_status_t status = code == SQLITE_FULL                               ? EBB_ENOSPC
                          : code == SQLITE_NOMEM                            ? EBB_ENOMEM
                          : code == SQLITE_CORRUPT || code == SQLITE_NOTADB ? EBB_ECORRUPT
                          : code == SQLITE_CANTOPEN                         ? EBB_ENOINPUT
                                                                            : EBB_EIO;
    return EBB_FAIL(status, "%s: %s: %s", l->path, what, sqlite3_errmsg(l->db));
}

/* ---- the chain ---- */

static const char *chosen(const ebb_ledger_row_t *row, int c)
{
    int value;
    memcpy(&value, field(row, c), sizeof value);
    return columns[c].word(value);
}

static ebb_status_t hash_row(const ebb_ledger_row_t *row, const char *before, char hash[65])
{
    ebb_text_t t = {0};
    ebb_sha256_t *sha;
    ebb_text_add(&t, "%s\n", before);
    for (int c = 0; c < HASHED; c++) {
        const double *real = field(row, c);
        ebb_text_add(&t, "%s=", columns[c].name);
        if (columns[c].type == TEXT)
            ebb_text_add(&t, "%s", (const char *)field(row, c));
        else if (columns[c].type == CHOICE)
            ebb_text_add(&t, "%s", chosen(row, c));
        else if (columns[c].type == WHOLE)
            ebb_text_add(&t, "%" PRId64, *(const int64_t *)field(row, c));
        else if (!isnan(*real))
            ebb_text_add(&t, "%.17g", *real);
        ebb_text_add(&t, "\n");
    }
    ebb_status_t status = t.failed ? EBB_FAIL(EBB_ENOMEM, "out of memory for a row's hash") : ebb_sha256_create(&sha);
    if (status == EBB_OK) {
        ebb_sha256_update(sha, t.s, t.n);
        ebb_sha256_final(sha, hash);
        ebb_sha256_destroy(sha);
    }
    ebb_text_free(&t);
    return status;
}

/* ---- the file ---- */

static ebb_status_t execute(ebb_ledger_t *l, const char *sql, const char *what)
{
    return sqlite3_exec(l->db, sql, NULL, NULL, NULL) == SQLITE_OK ? EBB_OK : fail(l, what);
}

static ebb_status_t prepare(ebb_ledger_t *l, const char *sql, sqlite3_stmt **statement_p)
{
    return sqlite3_prepare_v2(l->db, sql, -1, statement_p, NULL) == SQLITE_OK ? EBB_OK : fail(l, "prepare");
}

/* Sleeping here is no standstill: it ends by itself. */
static int wait_for_turn(void *user, int times)
{
    const struct timespec pause = {.tv_nsec = PAUSE_MS * 1000000L};
    ebb_pulse_tick();
    nanosleep(&pause, NULL);
    return times < WAIT_MS / PAUSE_MS;
}

static ebb_status_t connect_to(const char *path, int flags, ebb_ledger_t **ledger_p)
{
    ebb_ledger_t *l;
    EBB_TRY(EBB_NEW("ledger", &l));
    *ledger_p = l;
    snprintf(l->path, sizeof l->path, "%s", path);
    if (sqlite3_open_v2(path, &l->db, flags, NULL) != SQLITE_OK)
        return fail(l, "open");
    sqlite3_busy_handler(l->db, wait_for_turn, NULL);
    return EBB_OK;
}

static void add_columns(ebb_text_t *sql, bool types)
{
    static const char *const names[] = {
        [TEXT] = "TEXT NOT NULL", [REAL] = "REAL", [WHOLE] = "INTEGER NOT NULL", [CHOICE] = "TEXT NOT NULL"};
    for (int c = 0; c < COLUMNS; c++)
        ebb_text_add(sql, "%s\"%s\"%s%s%s", c == 0 ? "" : ", ", columns[c].name, types ? " " : "",
                     types ? names[columns[c].type] : "", types && c == 0 ? " PRIMARY KEY" : "");
}

static ebb_status_t with_columns(ebb_ledger_t *l, const char *before, bool types, const char *after,
                                 sqlite3_stmt **statement_p)
{
    ebb_text_t sql = {0};
    ebb_text_add(&sql, "%s", before);
    add_columns(&sql, types);
    ebb_text_add(&sql, "%s", after);
    ebb_status_t status = sql.failed ? EBB_FAIL(EBB_ENOMEM, "out of memory for the ledger") : EBB_OK;
    if (status == EBB_OK)
        status = statement_p ? prepare(l, sql.s, statement_p) : execute(l, sql.s, "make the table");
    ebb_text_free(&sql);
    return status;
}

static ebb_status_t make_table(ebb_ledger_t *l)
{
    char marks[3 * COLUMNS] = "", pragma[64];
    for (int c = 0; c < COLUMNS; c++)
        strcat(marks, c == 0 ? "?" : ",?");
    snprintf(pragma, sizeof pragma, "PRAGMA application_id = %d; PRAGMA user_version = 1", APPLICATION_ID);
    EBB_TRY(execute(l, pragma, "mark"));
    EBB_TRY(with_columns(l, "CREATE TABLE IF NOT EXISTS interval (", true, ")", NULL));
    char values[4 * COLUMNS];
    snprintf(values, sizeof values, ") VALUES (%s)", marks);
    EBB_TRY(with_columns(l, "INSERT INTO interval (", false, values, &l->insert));
    return prepare(l, "SELECT seq, hash, \"end\" FROM interval ORDER BY seq DESC LIMIT 1", &l->last);
}

ebb_status_t ebb_ledger_open(const char *path, ebb_ledger_t **ledger_p)
{
    ebb_status_t status = connect_to(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, ledger_p);
    if (status == EBB_OK)
        status = make_table(*ledger_p);
    if (status != EBB_OK) {
        ebb_ledger_close(*ledger_p);
        *ledger_p = NULL;
    }
    return status;
}

void ebb_ledger_close(ebb_ledger_t *l)
{
    if (!l)
        return;
    sqlite3_finalize(l->insert);
    sqlite3_finalize(l->last);
    sqlite3_close(l->db);
    ebb_free(l);
}

/* ---- appending ---- */

typedef struct tail {
    int64_t seq;
    char hash[65];
    double end;
} tail_t;

static ebb_status_t read_tail(ebb_ledger_t *l, tail_t *tail)
{
    *tail = (tail_t){.hash = EBB_LEDGER_GENESIS};
    int code = sqlite3_step(l->last);
    if (code == SQLITE_ROW) {
        tail->seq = sqlite3_column_int64(l->last, 0);
        snprintf(tail->hash, sizeof tail->hash, "%s", (const char *)sqlite3_column_text(l->last, 1));
        tail->end = sqlite3_column_double(l->last, 2);
    }
    ebb_status_t status = code == SQLITE_ROW || code == SQLITE_DONE ? EBB_OK : fail(l, "read");
    sqlite3_reset(l->last);
    return status;
}

ebb_status_t ebb_ledger_last_end(ebb_ledger_t *l, double *end_p)
{
    tail_t tail;
    ebb_status_t status = read_tail(l, &tail);
    *end_p = tail.end;
    return status;
}

/* Lines must stay lines, and the file takes UTF-8. */
static void clean(ebb_ledger_row_t *row)
{
    for (int c = 0; c < HASHED; c++)
        for (char *s = (char *)row + columns[c].offset; columns[c].type == TEXT && *s; s++)
            if ((unsigned char)*s < 0x20 || (unsigned char)*s >= 0x7f)
                *s = '?';
}

static ebb_status_t insert(ebb_ledger_t *l, const ebb_ledger_row_t *row)
{
    for (int c = 0; c < COLUMNS; c++) {
        const void *value = field(row, c);
        if (columns[c].type == TEXT)
            sqlite3_bind_text(l->insert, c + 1, value, -1, SQLITE_STATIC);
        else if (columns[c].type == CHOICE)
            sqlite3_bind_text(l->insert, c + 1, chosen(row, c), -1, SQLITE_STATIC);
        else if (columns[c].type == WHOLE)
            sqlite3_bind_int64(l->insert, c + 1, *(const int64_t *)value);
        else
            sqlite3_bind_double(l->insert, c + 1, *(const double *)value); /* NAN becomes NULL */
    }
    ebb_status_t status = sqlite3_step(l->insert) == SQLITE_DONE ? EBB_OK : fail(l, "append");
    sqlite3_reset(l->insert);
    return status;
}

static ebb_status_t append_all(ebb_ledger_t *l, ebb_ledger_row_t *rows, int64_t n)
{
    tail_t tail;
    EBB_TRY(read_tail(l, &tail));
    for (int64_t i = 0; i < n; i++) {
        clean(&rows[i]);
        rows[i].seq = ++tail.seq;
        EBB_TRY(hash_row(&rows[i], tail.hash, rows[i].hash));
        memcpy(tail.hash, rows[i].hash, sizeof tail.hash);
        EBB_TRY(insert(l, &rows[i]));
    }
    return EBB_OK;
}

ebb_status_t ebb_ledger_append(ebb_ledger_t *l, ebb_ledger_row_t *rows, int64_t n)
{
    EBB_TRY(execute(l, "BEGIN IMMEDIATE", "lock"));
    ebb_status_t status = append_all(l, rows, n);
    if (status == EBB_OK)
        status = execute(l, "COMMIT", "write");
    if (status != EBB_OK && !sqlite3_get_autocommit(l->db))
        sqlite3_exec(l->db, "ROLLBACK", NULL, NULL, NULL);
    return status;
}

/* ---- reading ---- */

static ebb_status_t read_choice(const ebb_ledger_t *l, const char *text, int c, ebb_ledger_row_t *row)
{
    for (int v = 0; v < columns[c].words; v++)
        if (strcmp(columns[c].word(v), text) == 0) {
            memcpy((char *)row + columns[c].offset, &v, sizeof v);
            return EBB_OK;
        }
    return EBB_FAIL(EBB_ECORRUPT, "%s: row %lld: %s: unknown word \"%.40s\"", l->path, (long long)row->seq,
                    columns[c].name, text);
}

static ebb_status_t read_row(const ebb_ledger_t *l, sqlite3_stmt *select, ebb_ledger_row_t *row)
{
    for (int c = 0; c < COLUMNS; c++) {
        char *at = (char *)row + columns[c].offset;
        const char *text = (const char *)sqlite3_column_text(select, c);
        bool null = sqlite3_column_type(select, c) == SQLITE_NULL;
        if (columns[c].type == TEXT)
            snprintf(at, columns[c].size, "%s", text ? text : "");
        else if (columns[c].type == CHOICE)
            EBB_TRY(read_choice(l, text ? text : "", c, row));
        else if (columns[c].type == WHOLE)
            *(int64_t *)at = sqlite3_column_int64(select, c);
        else
            *(double *)at = null ? NAN : sqlite3_column_double(select, c);
    }
    return EBB_OK;
}

static ebb_status_t check_row(const ebb_ledger_t *l, const ebb_ledger_row_t *row, const char *before, int64_t seq)
{
    char hash[65];
    if (row->seq != seq)
        return EBB_FAIL(EBB_ECORRUPT, "%s: row %lld is missing", l->path, (long long)seq);
    EBB_TRY(hash_row(row, before, hash));
    if (strcmp(hash, row->hash) != 0)
        return EBB_FAIL(EBB_ECORRUPT, "%s: row %lld does not fit its hash: it, or the one before it, was changed",
                        l->path, (long long)seq);
    return EBB_OK;
}

static ebb_status_t read_all(ebb_ledger_t *l, ebb_ledger_row_t **rows_p, int64_t *n_p)
{
    sqlite3_stmt *select;
    int64_t capacity = 0;
    int code;
    EBB_TRY(with_columns(l, "SELECT ", false, " FROM interval ORDER BY seq", &select));
    ebb_status_t status = EBB_OK;
    while (status == EBB_OK && (code = sqlite3_step(select)) != SQLITE_DONE) {
        if (code != SQLITE_ROW) {
            status = fail(l, "read");
            break;
        }
        status = ebb_grow("rows of a ledger", (void **)rows_p, &capacity, *n_p + 1, sizeof **rows_p);
        if (status != EBB_OK)
            break;
        ebb_ledger_row_t *row = &(*rows_p)[*n_p];
        memset(row, 0, sizeof *row);
        status = read_row(l, select, row);
        if (status == EBB_OK)
            status = check_row(l, row, *n_p > 0 ? row[-1].hash : EBB_LEDGER_GENESIS, *n_p + 1);
        ++*n_p;
    }
    sqlite3_finalize(select);
    return status;
}

ebb_status_t ebb_ledger_read(const char *path, ebb_ledger_row_t **rows_p, int64_t *n_p)
{
    ebb_ledger_t *l = NULL;
    *rows_p = NULL;
    *n_p = 0;
    if (!ebb_file_exists(path))
        return EBB_FAIL(EBB_ENOINPUT, "%s: there is no ledger", path);
    ebb_status_t status = connect_to(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, &l);
    if (status == EBB_OK)
        status = read_all(l, rows_p, n_p);
    ebb_ledger_close(l);
    if (status != EBB_OK) {
        ebb_free(*rows_p);
        *rows_p = NULL;
        *n_p = 0;
    }
    return status;
}

void ebb_ledger_free(ebb_ledger_row_t *rows)
{
    ebb_free(rows);
}
