/* A pool of threads. Within a run tasks are claimed from one counter. Between runs workers look out for the next one
 * for some microseconds, since runs often follow each other closely, and then sleep on a condition; the caller waits
 * for the last worker alike. Nobody looks out where there are more threads than cores. */
#include "base/threads.h"
#include "base/alloc.h"
#include "base/signals.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define LOOKS 1000 /* 10 microseconds or so */

typedef struct worker {
    ebb_pool_t *pool;
    pthread_t id;
    int number;
} worker_t;

struct ebb_pool {
    int threads;
    int started; /* workers running, without the caller */
    worker_t *worker;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    int looks;
    atomic_ullong run; /* number of the current run; written with the lock held */
    atomic_int busy;   /* workers that have not finished it; written with the lock held */
    bool quit;
    ebb_task_t task;
    void *user;
    int64_t count;
    atomic_llong next;
    atomic_llong failed; /* lowest failing index, or count */
    ebb_error_t error;   /* of that index; guarded by lock */
};

static void note_failure(ebb_pool_t *pool, int64_t index)
{
    pthread_mutex_lock(&pool->lock);
    if (index < atomic_load(&pool->failed)) {
        atomic_store(&pool->failed, index);
        pool->error = *ebb_error();
    }
    pthread_mutex_unlock(&pool->lock);
    ebb_error_clear();
}

static void take_tasks(ebb_pool_t *pool, int thread)
{
    for (;;) {
        int64_t index = atomic_fetch_add(&pool->next, 1);
        if (index >= pool->count || index > atomic_load(&pool->failed))
            return;
        if (pool->task(pool->user, thread, index) != EBB_OK)
            note_failure(pool, index);
    }
}

static inline void rest(void)
{
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
}

static void look_out_for_work(const ebb_pool_t *pool, uint64_t seen)
{
    for (int i = 0; i < pool->looks && atomic_load_explicit(&pool->run, memory_order_relaxed) == seen; i++)
        rest();
}

static void look_out_for_end(const ebb_pool_t *pool)
{
    for (int i = 0; i < pool->looks && atomic_load_explicit(&pool->busy, memory_order_relaxed) > 0; i++)
        rest();
}

static void *worker_main(void *arg)
{
    worker_t *me = arg;
    ebb_pool_t *pool = me->pool;
    uint64_t seen = 0;
    ebb_signals_hold();
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (!pool->quit && pool->run == seen)
            pthread_cond_wait(&pool->work, &pool->lock);
        if (pool->quit)
            break;
        seen = pool->run;
        pthread_mutex_unlock(&pool->lock);
        take_tasks(pool, me->number);
        pthread_mutex_lock(&pool->lock);
        if (atomic_fetch_sub(&pool->busy, 1) == 1)
            pthread_cond_signal(&pool->done);
        if (pool->quit)
            break;
        pthread_mutex_unlock(&pool->lock);
        look_out_for_work(pool, seen);
        pthread_mutex_lock(&pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

ebb_status_t ebb_pool_create(int n, ebb_pool_t **pool_p)
{
    ebb_pool_t *pool;
    ebb_status_t status;
    *pool_p = NULL;
    if (n < 1)
        return EBB_FAIL(EBB_EINVAL, "a thread pool needs at least 1 thread, not %d", n);
    EBB_TRY(EBB_NEW("thread pool", &pool));
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->done, NULL);
    pool->threads = n;
    pool->looks = n <= ebb_cores() ? LOOKS : 0;
    EBB_TRY_GOTO(status, EBB_NEW_ARRAY("thread pool", n, &pool->worker), fail);
    for (int i = 1; i < n; i++) {
        pool->worker[i] = (worker_t){.pool = pool, .number = i};
        if (pthread_create(&pool->worker[i].id, NULL, worker_main, &pool->worker[i]) != 0) {
            status = EBB_FAIL(EBB_ENOMEM, "cannot start thread %d of %d", i, n);
            goto fail;
        }
        pool->started++;
    }
    *pool_p = pool;
    return EBB_OK;
fail:
    ebb_pool_destroy(pool);
    return status;
}

void ebb_pool_destroy(ebb_pool_t *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->quit = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 1; i <= pool->started; i++)
        pthread_join(pool->worker[i].id, NULL);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
    ebb_free(pool->worker);
    ebb_free(pool);
}

int ebb_pool_threads(const ebb_pool_t *pool)
{
    return pool->threads;
}

ebb_status_t ebb_pool_run(ebb_pool_t *pool, int64_t count, ebb_task_t task, void *user)
{
    bool alone = pool->started == 0 || count <= 1;
    pthread_mutex_lock(&pool->lock);
    pool->task = task;
    pool->user = user;
    pool->count = count;
    atomic_store(&pool->next, 0);
    atomic_store(&pool->failed, count);
    if (!alone) {
        pool->busy = pool->started;
        pool->run++;
        pthread_cond_broadcast(&pool->work);
    }
    pthread_mutex_unlock(&pool->lock);
    take_tasks(pool, 0);
    if (!alone)
        look_out_for_end(pool);
    pthread_mutex_lock(&pool->lock);
    while (!alone && pool->busy > 0)
        pthread_cond_wait(&pool->done, &pool->lock);
    bool failed = atomic_load(&pool->failed) < count;
    pthread_mutex_unlock(&pool->lock);
    return failed ? ebb_error_set(&pool->error) : EBB_OK;
}

int ebb_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    int n = CPU_COUNT(&set);
    return n > 0 ? n : 1;
}
