/* The agent: a loop that reads the queue, looks at processes, plans, and starts, pauses and resizes. It keeps nothing
 * that it could not find again: what was decided is in the queue before it is done, and what was done is seen in the
 * files of keepers. So it may be killed at any moment, and the next one goes on. */
#include "jobs/agent.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/lock.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define TICK_REAL_S 0.5  /* at most */
#define TICK_S      60.0 /* of the wall clock, where it runs fast; but not below: */
#define LEAST_S     0.03
#define SLURM_S     900.0 /* of the wall clock, between looks at jobs that Slurm carries out; really a second at least */

/* ---- tasks ---- */

static void free_task(ebb_task_t *t)
{
    ebb_queue_job_free(&t->job);
    ebb_queue_estimate_free(&t->estimate);
    ebb_decision_free(&t->decision);
    ebb_free(t);
}

static ebb_task_t *find_task(ebb_task_t **task, int64_t n, int64_t id)
{
    int64_t low = 0, high = n;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (task[middle]->job.id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && task[low]->job.id == id ? task[low] : NULL;
}

static ebb_status_t new_task(const ebb_queue_job_t *job, ebb_task_t **task_p)
{
    EBB_TRY(EBB_NEW("job of the agent", task_p));
    (*task_p)->version = -1;
    snprintf((*task_p)->why, sizeof(*task_p)->why, "%s", job->reason);
    ebb_status_t status = ebb_queue_estimate(&job->spec, &(*task_p)->estimate);
    if (status != EBB_OK)
        ebb_free(*task_p);
    return status;
}

/* The list is by id, as the tasks are. */
static ebb_status_t merge(ebb_agent_t *a, ebb_queue_list_t *list)
{
    ebb_task_t **task;
    int64_t n = 0;
    ebb_status_t status = EBB_NEW_ARRAY("jobs of the agent", list->n + 1, &task);
    a->n_slurm = 0;
    for (int64_t i = 0; i < list->n && status == EBB_OK; i++) {
        ebb_queue_job_t *job = &list->job[i];
        ebb_task_t *t = find_task(a->task, a->n, job->id);
        if (*job->slurm) {
            a->n_slurm++;
            continue;
        }
        if (!t && (status = new_task(job, &t)) != EBB_OK)
            break;
        ebb_queue_job_free(&t->job);
        t->job = *job;
        *job = (ebb_queue_job_t){0};
        task[n++] = t;
    }
    for (int64_t i = 0; i < a->n && status == EBB_OK; i++)
        if (!find_task(task, n, a->task[i]->job.id))
            free_task(a->task[i]);
    if (status != EBB_OK)
        return status;
    ebb_free(a->task);
    a->task = task;
    a->n = n;
    return EBB_OK;
}

static ebb_status_t reload(ebb_agent_t *a)
{
    ebb_queue_list_t list = {0};
    int64_t version = ebb_queue_version(a->queue);
    if (version == a->seen && version >= 0)
        return EBB_OK;
    EBB_TRY(ebb_queue_read(a->queue, EBB_QUEUE_LIVE, &list));
    ebb_status_t status = merge(a, &list);
    ebb_queue_list_free(&list);
    if (status == EBB_OK)
        a->seen = version;
    return status;
}

static void drop_what_is_over(ebb_agent_t *a)
{
    int64_t n = 0;
    for (int64_t i = 0; i < a->n; i++)
        if (EBB_QUEUE_BIT(a->task[i]->job.state) & EBB_QUEUE_OVER)
            free_task(a->task[i]);
        else
            a->task[n++] = a->task[i];
    a->n = n;
}

/* ---- signals ---- */

static void take_signals(ebb_agent_t *a)
{
    struct signalfd_siginfo info;
    int status;
    while (read(a->signals, &info, sizeof info) == (ssize_t)sizeof info)
        a->stop |= info.ssi_signo != SIGCHLD;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        a->slurm = pid == a->slurm ? 0 : a->slurm;
        for (int64_t i = 0; i < a->n; i++)
            if (a->task[i]->scaler == pid)
                ebb_task_scaled(a, a->task[i], status);
    }
}

static void wait_a_tick(ebb_agent_t *a)
{
    struct pollfd p = {.fd = a->signals, .events = POLLIN};
    poll(&p, 1, (int)(1000 * a->tick_s));
    take_signals(a);
}

/* ---- jobs of Slurm ---- */

/* In a process of its own, because Slurm may take its time to answer. */
static void look_after_slurm(ebb_agent_t *a)
{
    char *const word[] = {(char *)a->options->self, (char *)"slurm", NULL};
    int64_t now = ebb_now_ns();
    if (a->n_slurm == 0 || a->slurm != 0 || now < a->slurm_after_ns)
        return;
    a->slurm_after_ns = now + (int64_t)(1e9 * fmax(1, SLURM_S / ebb_clock_rate()));
    a->slurm = ebb_agent_spawn(a, word, NULL);
}

/* ---- the loop ---- */

static void tick(ebb_agent_t *a)
{
    a->now = ebb_wall_seconds();
    if (reload(a) != EBB_OK)
        ebb_agent_forgive();
    ebb_outlooks_tend(a->outlooks, a->now);
    for (int64_t i = 0; i < a->n; i++)
        ebb_task_look(a, a->task[i]);
    for (int64_t i = 0; i < a->n; i++)
        ebb_task_fulfil(a, a->task[i]);
    drop_what_is_over(a);
    ebb_agent_plan(a);
    ebb_agent_schedule(a);
    drop_what_is_over(a);
    ebb_agent_note(a);
    look_after_slurm(a);
}

static bool is_idle(const ebb_agent_t *a)
{
    for (int64_t i = 0; i < a->n; i++)
        if (a->task[i]->job.state != EBB_HELD)
            return false;
    return ebb_queue_version(a->queue) == a->seen;
}

static void loop(ebb_agent_t *a)
{
    do {
        tick(a);
        if (a->options->until_idle && is_idle(a))
            break;
        wait_a_tick(a);
    } while (!a->stop);
}

static ebb_status_t open_agent(ebb_agent_t *a, sigset_t *set)
{
    EBB_TRY(ebb_queue_open(a->options->folder, &a->queue));
    a->state = ebb_queue_path(a->queue);
    EBB_TRY(ebb_folder_lock(a->state, EBB_AGENT_LOCK, &a->lock_fd));
    EBB_TRY(ebb_planner_create(&a->planner));
    EBB_TRY(ebb_outlooks_create(a->queue, &a->outlooks));
    a->signals = signalfd(-1, set, SFD_CLOEXEC | SFD_NONBLOCK);
    return a->signals >= 0 ? EBB_OK : EBB_FAIL(EBB_EIO, "cannot make a signal descriptor: %s", strerror(errno));
}

static void close_agent(ebb_agent_t *a)
{
    ebb_outlooks_destroy(a->outlooks);
    ebb_planner_destroy(a->planner);
    for (int64_t i = 0; i < a->n; i++)
        free_task(a->task[i]);
    ebb_free(a->task);
    ebb_free(a->grid);
    if (a->signals >= 0)
        close(a->signals);
    if (a->lock_fd >= 0)
        close(a->lock_fd);
    ebb_queue_close(a->queue);
}

ebb_status_t ebb_agent_run(const ebb_agent_options_t *options)
{
    ebb_agent_t a = {.options = options, .lock_fd = -1, .signals = -1, .seen = -1};
    sigset_t set, before;
    sigemptyset(&set);
    static const int numbers[] = {SIGTERM, SIGINT, SIGHUP, SIGCHLD};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        sigaddset(&set, numbers[i]);
    pthread_sigmask(SIG_BLOCK, &set, &before);
    a.tick_s = fmin(TICK_REAL_S, fmax(LEAST_S, TICK_S / ebb_clock_rate()));
    ebb_status_t status = open_agent(&a, &set);
    if (status == EBB_OK) {
        ebb_agent_say(&a, NULL, "at work on %s: %lld slots, %lld GPUs", a.state, (long long)options->slots,
                      (long long)options->gpus);
        loop(&a);
    }
    close_agent(&a);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status;
}

bool ebb_agent_lives(const char *folder)
{
    return ebb_folder_locked(folder, EBB_AGENT_LOCK);
}
