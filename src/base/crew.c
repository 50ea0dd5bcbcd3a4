/* A crew: workers take tasks off one queue, first in, first out. The owner, who alone submits and waits, works too
 * while it waits, so that n threads are busy and not n + 1. */
#include "base/crew.h"
#include "base/alloc.h"

#include <pthread.h>

enum { IDLE, QUEUED, RUNNING, DONE };

typedef struct hand {
    ebb_crew_t *crew;
    pthread_t id;
    int number;
} hand_t;

struct ebb_crew {
    int threads;
    int started; /* workers running, without the owner */
    hand_t *hand;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    bool quit;
    ebb_crew_task_t *first, *last; /* the queue; guarded by lock */
};

/* Lock held: take a queued task out. */
static void unlink_task(ebb_crew_t *crew, ebb_crew_task_t *task)
{
    ebb_crew_task_t *before = NULL;
    if (crew->first != task)
        for (before = crew->first; before->next != task; before = before->next)
            ;
    if (before)
        before->next = task->next;
    else
        crew->first = task->next;
    if (crew->last == task)
        crew->last = before;
}

/* Lock held, and let go of while the task runs. */
static void run_task(ebb_crew_t *crew, ebb_crew_task_t *task, int thread)
{
    unlink_task(crew, task);
    task->state = RUNNING;
    pthread_mutex_unlock(&crew->lock);
    task->error.status = EBB_OK;
    if (task->run(task->user, thread) != EBB_OK) {
        task->error = *ebb_error();
        ebb_error_clear();
    }
    pthread_mutex_lock(&crew->lock);
    task->state = DONE;
    if (thread > 0)
        pthread_cond_signal(&crew->done);
}

static void *hand_main(void *arg)
{
    hand_t *me = arg;
    ebb_crew_t *crew = me->crew;
    pthread_mutex_lock(&crew->lock);
    while (!crew->quit) {
        if (crew->first)
            run_task(crew, crew->first, me->number);
        else
            pthread_cond_wait(&crew->work, &crew->lock);
    }
    pthread_mutex_unlock(&crew->lock);
    return NULL;
}

ebb_status_t ebb_crew_create(int n, ebb_crew_t **crew_p)
{
    ebb_crew_t *crew;
    ebb_status_t status;
    *crew_p = NULL;
    if (n < 1)
        return EBB_FAIL(EBB_EINVAL, "a crew needs at least 1 thread, not %d", n);
    EBB_TRY(EBB_NEW("crew of threads", &crew));
    pthread_mutex_init(&crew->lock, NULL);
    pthread_cond_init(&crew->work, NULL);
    pthread_cond_init(&crew->done, NULL);
    crew->threads = n;
    EBB_TRY_GOTO(status, EBB_NEW_ARRAY("crew of threads", n, &crew->hand), fail);
    for (int i = 1; i < n; i++) {
        crew->hand[i] = (hand_t){.crew = crew, .number = i};
        if (pthread_create(&crew->hand[i].id, NULL, hand_main, &crew->hand[i]) != 0) {
            status = EBB_FAIL(EBB_ENOMEM, "cannot start thread %d of %d", i, n);
            goto fail;
        }
        crew->started++;
    }
    *crew_p = crew;
    return EBB_OK;
fail:
    ebb_crew_destroy(crew);
    return status;
}

void ebb_crew_destroy(ebb_crew_t *crew)
{
    if (!crew)
        return;
    pthread_mutex_lock(&crew->lock);
    crew->quit = true;
    pthread_cond_broadcast(&crew->work);
    pthread_mutex_unlock(&crew->lock);
    for (int i = 1; i <= crew->started; i++)
        pthread_join(crew->hand[i].id, NULL);
    pthread_cond_destroy(&crew->done);
    pthread_cond_destroy(&crew->work);
    pthread_mutex_destroy(&crew->lock);
    ebb_free(crew->hand);
    ebb_free(crew);
}

int ebb_crew_threads(const ebb_crew_t *crew)
{
    return crew->threads;
}

void ebb_crew_submit(ebb_crew_t *crew, ebb_crew_task_t *task, ebb_status_t (*run)(void *user, int thread), void *user)
{
    task->run = run;
    task->user = user;
    task->next = NULL;
    pthread_mutex_lock(&crew->lock);
    task->state = QUEUED;
    if (crew->last)
        crew->last->next = task;
    else
        crew->first = task;
    crew->last = task;
    pthread_cond_signal(&crew->work);
    pthread_mutex_unlock(&crew->lock);
}

ebb_status_t ebb_crew_wait(ebb_crew_t *crew, ebb_crew_task_t *task)
{
    pthread_mutex_lock(&crew->lock);
    while (task->state == QUEUED || task->state == RUNNING) {
        ebb_crew_task_t *next = task->state == QUEUED ? task : crew->first;
        if (next)
            run_task(crew, next, 0);
        else
            pthread_cond_wait(&crew->done, &crew->lock);
    }
    bool failed = task->state == DONE && task->error.status != EBB_OK;
    task->state = IDLE;
    pthread_mutex_unlock(&crew->lock);
    return failed ? ebb_error_set(&task->error) : EBB_OK;
}

void ebb_crew_drop(ebb_crew_t *crew, ebb_crew_task_t *task)
{
    pthread_mutex_lock(&crew->lock);
    if (task->state == QUEUED)
        unlink_task(crew, task);
    while (task->state == RUNNING)
        pthread_cond_wait(&crew->done, &crew->lock);
    task->state = IDLE;
    pthread_mutex_unlock(&crew->lock);
}
