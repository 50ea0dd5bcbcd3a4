/* Threads that work through a queue of tasks while their owner goes on: for pipelines, where a pool, whose runs end
 * before anything else begins, would leave threads idle. */
#ifndef EBB_BASE_CREW_H
#define EBB_BASE_CREW_H

#include <ebb/base.h>

typedef struct ebb_crew ebb_crew_t;

/* One task; the owner keeps it where it is until it was waited for or dropped. All zeros: never submitted. */
typedef struct ebb_crew_task {
    ebb_status_t (*run)(void *user, int thread); /* thread: 0 (the owner) .. threads-1 */
    void *user;
    int state; /* guarded by the crew's lock */
    struct ebb_crew_task *next;
    ebb_error_t error;
} ebb_crew_task_t;

/* n threads in all, the owner included: with 1 everything runs inside ebb_crew_wait. */
ebb_status_t ebb_crew_create(int n, ebb_crew_t **crew_p) EBB_MUST_CHECK;
/* Nothing may be queued or running. */
void ebb_crew_destroy(ebb_crew_t *crew);
int ebb_crew_threads(const ebb_crew_t *crew);

/* Owner only. Tasks start in the order in which they were submitted, but for those the owner waits for. */
void ebb_crew_submit(ebb_crew_t *crew, ebb_crew_task_t *task, ebb_status_t (*run)(void *user, int thread), void *user);
/* Owner only: until the task is done, run it or others. Its outcome, once; its error becomes the caller's. */
ebb_status_t ebb_crew_wait(ebb_crew_t *crew, ebb_crew_task_t *task);
/* Owner only: take the task back, or wait for its end where it runs already; its outcome is forgotten. */
void ebb_crew_drop(ebb_crew_t *crew, ebb_crew_task_t *task);

#endif
