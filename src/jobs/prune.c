/* Forgetting jobs that are over: their files first, then their rows, so that what was broken off is found again. */
#include "internal.h"
#include "base/file.h"

#include <errno.h>
#include <stdio.h>

static ebb_status_t remove_folder(const ebb_queue_t *q, const char *kind, int64_t id)
{
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s/%lld", q->folder, kind, (long long)id);
    if (!ebb_file_remove_tree(path) && errno != ENOENT)
        return ebb_file_error(path, "remove");
    return EBB_OK;
}

/* What waits for a job asks the queue whether it is done. */
static ebb_status_t is_waited_for(const ebb_queue_t *q, int64_t id, bool *waited_p)
{
    sqlite3_stmt *s;
    ebb_status_t status = ebb_queue_prepare(q, &s,
                                            "SELECT 1 FROM jobs, json_each(jobs.spec, '$.after') AS first"
                                            " WHERE (1 << jobs.state) & ? AND first.value = ? LIMIT 1",
                                            "ii", (int64_t)EBB_QUEUE_LIVE, id);
    int code = status == EBB_OK ? sqlite3_step(s) : SQLITE_DONE;
    *waited_p = code == SQLITE_ROW;
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        status = ebb_queue_error(q, "read");
    sqlite3_finalize(s);
    return status;
}

static ebb_status_t forget(const ebb_queue_t *q, int64_t id, int64_t *n_p)
{
    bool waited;
    EBB_TRY(is_waited_for(q, id, &waited));
    if (waited)
        return EBB_OK;
    EBB_TRY(remove_folder(q, "jobs", id));
    EBB_TRY(remove_folder(q, "slurm", id));
    EBB_TRY(ebb_queue_execute(q, "DELETE FROM events WHERE job = ?", "i", id));
    EBB_TRY(ebb_queue_execute(q, "DELETE FROM jobs WHERE id = ?", "i", id));
    ++*n_p;
    return EBB_OK;
}

ebb_status_t ebb_queue_prune(ebb_queue_t *q, double before, int64_t *n_p)
{
    ebb_queue_list_t list = {0};
    *n_p = 0;
    EBB_TRY(ebb_queue_read(q, EBB_QUEUE_OVER, &list));
    ebb_status_t status = EBB_OK;
    for (int64_t i = 0; i < list.n && status == EBB_OK; i++) {
        if (list.job[i].ended >= before)
            continue;
        status = ebb_queue_begin(q); /* nobody begins to wait for it meanwhile */
        if (status == EBB_OK)
            status = ebb_queue_commit(q, forget(q, list.job[i].id, n_p));
    }
    ebb_queue_list_free(&list);
    return status;
}
