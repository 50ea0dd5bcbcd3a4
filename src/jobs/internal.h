/* Inside the jobs stage: the database, and the form in which a job is kept in it. */
#ifndef EBB_JOBS_INTERNAL_H
#define EBB_JOBS_INTERNAL_H

#include <ebb/jobs.h>
#include "base/json.h"

#include <limits.h>
#include <sqlite3.h>

struct ebb_queue {
    sqlite3 *db;
    char folder[PATH_MAX];
};

/* ---- the database ---- */

/* Record what SQLite says: "FOLDER/queue.db: VERB: reason". */
ebb_status_t ebb_queue_error(const ebb_queue_t *queue, const char *verb);
/* Prepare a statement and bind its parameters: 'i' int64_t, 'd' double, 's' text or NULL, by the letters of `types`.
 * The caller finalizes *statement_p, also after a failure. */
ebb_status_t ebb_queue_prepare(const ebb_queue_t *queue, sqlite3_stmt **statement_p, const char *sql, const char *types,
                               ...);
/* One that gives no rows. */
ebb_status_t ebb_queue_execute(const ebb_queue_t *queue, const char *sql, const char *types, ...);
/* BEGIN IMMEDIATE; end it with ebb_queue_commit, which takes everything back if status is not EBB_OK. */
ebb_status_t ebb_queue_begin(const ebb_queue_t *queue);
ebb_status_t ebb_queue_commit(const ebb_queue_t *queue, ebb_status_t status);

/* The columns of a job, as ebb_queue_row takes them. */
#define EBB_QUEUE_COLUMNS                                                                                              \
    "id, spec, state, wish, submitted, changed, begun, ended, running_since, running_s, done, attempt, ranks, "        \
    "pauses, "                                                                                                         \
    "resizes, exit_code, reason, gpu, plan, slurm"
ebb_status_t ebb_queue_row(const ebb_queue_t *queue, sqlite3_stmt *statement, ebb_queue_job_t *job);
/* Add to a job's history. */
ebb_status_t ebb_queue_tell(const ebb_queue_t *queue, int64_t id, ebb_queue_state_t from, ebb_queue_state_t to,
                            int64_t ranks, const char *reason, double now);

/* ---- specs ---- */

typedef struct ebb_spec_memory {
    json_t *json;
    char **word, **environment;
    int64_t *after;
    char *reason, *gpu, *plan, *slurm; /* of the job */
} ebb_spec_memory_t;

ebb_status_t ebb_spec_check(const ebb_queue_spec_t *spec);
/* As compact JSON; free(). */
ebb_status_t ebb_spec_write(const ebb_queue_spec_t *spec, char **text_p);
/* What it borrows is held by *memory_p, to be freed by ebb_spec_free. */
ebb_status_t ebb_spec_read(const char *text, ebb_queue_spec_t *spec, ebb_spec_memory_t **memory_p);
void ebb_spec_free(ebb_spec_memory_t *memory);

#endif
