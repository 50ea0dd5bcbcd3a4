/* A pool of threads that lives as long as the run. */
#ifndef EBB_BASE_THREADS_H
#define EBB_BASE_THREADS_H

#include <ebb/base.h>

typedef struct ebb_pool ebb_pool_t;

/* n threads in all, the caller of ebb_pool_run included. */
ebb_status_t ebb_pool_create(int n, ebb_pool_t **pool_p) EBB_MUST_CHECK;
void ebb_pool_destroy(ebb_pool_t *pool);
int ebb_pool_threads(const ebb_pool_t *pool);

/* One task: thread is 0 .. n-1 (0: the caller), index the task's number. A failure ends the run early. */
typedef ebb_status_t (*ebb_task_t)(void *user, int thread, int64_t index);
/* Run tasks 0 .. count-1, taken in ascending order by whichever thread is free; returns when all are done. The error of
 * the lowest failing index is the caller's error afterwards. Not re-entrant. */
ebb_status_t ebb_pool_run(ebb_pool_t *pool, int64_t count, ebb_task_t task, void *user);

/* Cores this process may use (its affinity mask). */
int ebb_cores(void);

#endif
