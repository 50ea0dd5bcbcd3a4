/* What happens to a job's processes, and what the agent makes of it. Every step is written into the queue first where
 * it must not happen twice (a start), and may be repeated where it does no harm (stopping, freezing). */
#include "jobs/agent.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECOND      ((int64_t)1000000000)
#define START_NS    (30 * SECOND)  /* for a keeper to begin */
#define CANCEL_NS   (30 * SECOND)  /* for a job to end when it is asked to */
#define PAUSE_NS    (900 * SECOND) /* for one to write its checkpoint */
#define AGAIN_NS    (5 * SECOND)   /* between starts that get nowhere */
#define EXIT_PAUSED 75

void ebb_agent_say(const ebb_agent_t *a, const ebb_task_t *t, const char *fmt, ...)
{
    char text[512], now[32];
    va_list args;
    if (a->options->quiet)
        return;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    ebb_format_utc(ebb_wall_seconds(), now, sizeof now);
    if (t)
        printf("%s job %lld %.60s: %s\n", now, (long long)t->job.id, t->job.spec.name, text);
    else
        printf("%s %s\n", now, text);
    fflush(stdout);
}

void ebb_agent_forgive(void)
{
    EBB_WARN("agent", "%s", ebb_error()->message);
    ebb_error_clear();
}

/* ---- the state of a task ---- */

bool ebb_task_is_frozen(const ebb_task_t *t)
{
    return t->job.spec.pause == EBB_PAUSE_FREEZE && t->job.begun > 0 &&
           (t->job.state == EBB_PAUSED || t->job.state == EBB_HELD);
}

bool ebb_task_has_processes(const ebb_task_t *t)
{
    return t->job.state == EBB_STARTING || t->job.state == EBB_RUNNING || t->job.state == EBB_PAUSING ||
           ebb_task_is_frozen(t);
}

double ebb_task_rate(const ebb_task_t *t)
{
    for (int64_t i = 0; i < t->estimate.n; i++)
        if (t->estimate.size[i].ranks == t->job.ranks)
            return t->estimate.size[i].rate;
    return t->estimate.size[t->estimate.base].rate;
}

double ebb_task_units(const ebb_agent_t *a, const ebb_task_t *t)
{
    const ebb_queue_job_t *j = &t->job;
    double stretch = j->running_since > 0 ? fmax(0, a->now - j->running_since) : 0;
    return j->done * t->estimate.work + stretch * ebb_task_rate(t);
}

bool ebb_task_move(ebb_agent_t *a, ebb_task_t *t, const ebb_queue_change_t *change)
{
    ebb_queue_change_t c = *change;
    bool moved = false;
    c.id = t->job.id;
    c.done = fmin(1, ebb_task_units(a, t) / t->estimate.work);
    if (ebb_queue_move(a->queue, &c, &moved) != EBB_OK || ebb_queue_get(a->queue, t->job.id, &t->job) != EBB_OK) {
        ebb_agent_forgive();
        return false;
    }
    if (moved && c.reason)
        snprintf(t->why, sizeof t->why, "%s", c.reason);
    t->version = -1; /* to be planned anew */
    return moved;
}

/* ---- the end of processes ---- */

static void describe_end(int code, char *text, size_t size)
{
    const char *name = code > 128 ? sigabbrev_np(code - 128) : NULL;
    if (code == 0)
        snprintf(text, size, "exit code 0");
    else if (name)
        snprintf(text, size, "died of SIG%s", name);
    else
        snprintf(text, size, "exit code %d", code);
}

static void ended(ebb_agent_t *a, ebb_task_t *t, int code)
{
    const ebb_queue_job_t *j = &t->job;
    char why[128];
    bool stopped = j->spec.pause == EBB_PAUSE_CHECKPOINT && code == EXIT_PAUSED;
    bool killed_run = j->spec.run && j->state == EBB_PAUSING && code > 128; /* goes on from its last checkpoint */
    bool shut_down = j->state == EBB_RUNNING && code == 128 + SIGTERM && (j->spec.run || j->spec.rerun); /* not by us */
    ebb_queue_change_t c = {.exit_code = code, .gpu = "", .reason = why};
    describe_end(code, why, sizeof why);
    if (code == 0) {
        c.to = EBB_DONE;
    } else if (j->wish == EBB_WISH_CANCEL) {
        c.to = EBB_CANCELLED;
        c.reason = "by the user";
    } else if (stopped || killed_run) {
        c.to = j->wish == EBB_WISH_HOLD ? EBB_HELD : EBB_PAUSED;
        c.reason = j->state == EBB_PAUSING ? "paused" : "stopped by itself (exit code 75)";
    } else if (shut_down) {
        c.to = EBB_QUEUED;
        c.reason = "ended from outside (SIGTERM); to be started again";
    } else {
        c.to = EBB_FAILED;
    }
    t->not_before_ns =
        (c.to == EBB_PAUSED || c.to == EBB_QUEUED) && j->state != EBB_PAUSING ? ebb_now_ns() + AGAIN_NS : 0;
    t->asked_ns = 0;
    t->killed = false;
    ebb_agent_say(a, t, "%s: %s", ebb_queue_state_name(c.to), c.reason);
    ebb_task_move(a, t, &c);
}

/* Begun, and neither its processes nor its end are there: the machine went down, or the keeper was killed. */
static void lost(ebb_agent_t *a, ebb_task_t *t)
{
    bool again = t->job.spec.run || t->job.spec.rerun;
    ebb_queue_change_t c = {.gpu = "", .to = again ? EBB_QUEUED : EBB_FAILED, .exit_code = again ? 0 : 128 + SIGKILL};
    int left = ebb_attempt_sweep(a->state, t->job.id);
    if (left > 0) {
        EBB_WARN("agent", "job %lld: %d of its processes cannot be killed", (long long)t->job.id, left);
        return;
    }
    c.reason = again ? "interrupted; to be started again"
                     : "interrupted, and not started again, because it may have done its work (see --rerun)";
    if (t->job.wish == EBB_WISH_CANCEL)
        c.to = EBB_CANCELLED;
    t->asked_ns = 0;
    ebb_agent_say(a, t, "%s", c.reason);
    ebb_task_move(a, t, &c);
}

/* ---- looking ---- */

static void look_at_start(ebb_agent_t *a, ebb_task_t *t)
{
    int code = 0;
    bool foreign = t->started_ns == 0; /* of an agent that is gone */
    ebb_attempt_state_t s = foreign || ebb_now_ns() - t->started_ns > START_NS
                                ? ebb_attempt_revoke(a->state, t->job.id, t->job.attempt, &code)
                                : ebb_attempt_look(a->state, t->job.id, t->job.attempt, &code);
    if (s == EBB_ATTEMPT_NONE)
        return;
    ebb_queue_change_t running = {.from = EBB_QUEUE_BIT(EBB_STARTING), .to = EBB_RUNNING, .reason = "runs"};
    ebb_queue_change_t back = {.from = EBB_QUEUE_BIT(EBB_STARTING),
                               .to = t->job.begun > 0 ? EBB_PAUSED : EBB_QUEUED,
                               .gpu = "",
                               .reason = "its start did not happen; again"};
    t->started_ns = 0;
    if (s == EBB_ATTEMPT_REVOKED) {
        t->not_before_ns = foreign ? 0 : ebb_now_ns() + AGAIN_NS;
        ebb_task_move(a, t, &back);
    } else if (ebb_task_move(a, t, &running)) {
        ebb_agent_say(a, t, "runs on %lld rank%s", (long long)t->job.ranks, t->job.ranks == 1 ? "" : "s");
        if (s == EBB_ATTEMPT_ENDED)
            ended(a, t, code);
        else if (s == EBB_ATTEMPT_LOST)
            lost(a, t);
    }
}

/* Ranks as the supervisor of a run says, where a resize was under way when the last agent ended. */
static void adopt_ranks(ebb_agent_t *a, ebb_task_t *t)
{
    char path[PATH_MAX];
    json_t *json = NULL;
    snprintf(path, sizeof path, "%s/supervisor.json", t->job.spec.run_folder);
    if (!ebb_file_exists(path) || ebb_json_load(path, &json) != EBB_OK) {
        ebb_error_clear();
        return;
    }
    const char *word = json_string_value(json_object_get(json, "state"));
    int64_t ranks = json_integer_value(json_object_get(json, "ranks"));
    if (word && strcmp(word, "running") == 0 && ranks > 0 && ranks != t->job.ranks) {
        double done = ebb_task_units(a, t) / t->estimate.work;
        if (ebb_queue_resized(a->queue, t->job.id, ranks, done, "as its supervisor says") != EBB_OK ||
            ebb_queue_get(a->queue, t->job.id, &t->job) != EBB_OK)
            ebb_agent_forgive();
    }
    json_decref(json);
}

/* What the last agent may have left undone: signals that do no harm when they come twice. */
static void resume(ebb_agent_t *a, ebb_task_t *t)
{
    if (ebb_task_is_frozen(t))
        ebb_attempt_tell(a->state, t->job.id, t->job.attempt, EBB_KEEPER_FREEZE);
    else if (t->job.state == EBB_RUNNING && t->job.spec.pause == EBB_PAUSE_FREEZE)
        ebb_attempt_tell(a->state, t->job.id, t->job.attempt, EBB_KEEPER_THAW);
    else if (t->job.state == EBB_PAUSING)
        ebb_attempt_tell(a->state, t->job.id, t->job.attempt, EBB_KEEPER_STOP);
    if (t->job.state == EBB_PAUSING)
        t->asked_ns = ebb_now_ns();
    if (t->job.state == EBB_RUNNING && t->job.spec.run)
        adopt_ranks(a, t);
}

static void press(ebb_agent_t *a, ebb_task_t *t)
{
    int64_t patience = t->job.wish == EBB_WISH_CANCEL ? CANCEL_NS : PAUSE_NS;
    if (t->job.state != EBB_PAUSING || t->killed || ebb_now_ns() - t->asked_ns < patience)
        return;
    ebb_agent_say(a, t, "does not end by itself; its processes are killed");
    t->killed = ebb_attempt_tell(a->state, t->job.id, t->job.attempt, EBB_KEEPER_KILL);
}

void ebb_task_look(ebb_agent_t *a, ebb_task_t *t)
{
    int code = 0;
    if (t->job.state == EBB_STARTING) {
        look_at_start(a, t);
        t->resumed = true;
        return;
    }
    if (!ebb_task_has_processes(t)) {
        t->resumed = true;
        return;
    }
    switch (ebb_attempt_look(a->state, t->job.id, t->job.attempt, &code)) {
    case EBB_ATTEMPT_RUNS:
        if (!t->resumed)
            resume(a, t);
        press(a, t);
        break;
    case EBB_ATTEMPT_ENDED: ended(a, t, code); break;
    default: lost(a, t); break;
    }
    t->resumed = true;
}

/* ---- wishes ---- */

static void stop(ebb_agent_t *a, ebb_task_t *t, const char *why)
{
    if (!ebb_task_move(a, t, &(ebb_queue_change_t){.to = EBB_PAUSING, .reason = why}))
        return;
    t->asked_ns = ebb_now_ns();
    ebb_attempt_tell(a->state, t->job.id, t->job.attempt, EBB_KEEPER_STOP);
}

static void hold(ebb_agent_t *a, ebb_task_t *t)
{
    bool frozen = ebb_task_is_frozen(t), runs = t->job.state == EBB_RUNNING;
    if (runs && t->job.spec.pause == EBB_PAUSE_NEVER) {
        ebb_agent_say(a, t, "cannot be paused; runs on");
        if (ebb_queue_wish(a->queue, t->job.id, EBB_WISH_NONE) != EBB_OK)
            ebb_agent_forgive();
        t->job.wish = EBB_WISH_NONE;
    } else if (runs && t->job.spec.pause == EBB_PAUSE_CHECKPOINT) {
        stop(a, t, "to be held");
    } else if (runs || frozen || !ebb_task_has_processes(t)) {
        if (runs)
            ebb_attempt_tell(a->state, t->job.id, t->job.attempt, EBB_KEEPER_FREEZE);
        ebb_task_move(a, t, &(ebb_queue_change_t){.to = EBB_HELD, .reason = "by the user"});
    }
}

void ebb_task_fulfil(ebb_agent_t *a, ebb_task_t *t)
{
    if (t->job.wish == EBB_WISH_NONE || t->job.state == EBB_STARTING || t->job.state == EBB_PAUSING)
        return;
    if (t->job.wish == EBB_WISH_HOLD)
        hold(a, t);
    else if (ebb_task_has_processes(t))
        stop(a, t, "is being cancelled");
    else
        ebb_task_move(a, t, &(ebb_queue_change_t){.to = EBB_CANCELLED, .reason = "by the user"});
}

/* ---- acting on plans ---- */

void ebb_task_start(ebb_agent_t *a, ebb_task_t *t, int64_t ranks, const char *gpu)
{
    ebb_queue_change_t c = {.from = EBB_QUEUE_BIT(EBB_QUEUED) | EBB_QUEUE_BIT(EBB_PAUSED),
                            .to = EBB_STARTING,
                            .ranks = ranks,
                            .gpu = gpu,
                            .new_attempt = true,
                            .reason = "starts"};
    if (!ebb_task_move(a, t, &c))
        return;
    t->started_ns = ebb_now_ns();
    if (ebb_attempt_start(a->state, a->options->self, &t->job, t->job.attempt, ranks, gpu) != EBB_OK)
        ebb_agent_forgive(); /* looked at as one that did not begin */
}

void ebb_task_pause(ebb_agent_t *a, ebb_task_t *t)
{
    char until[32], why[96];
    ebb_format_utc(t->until, until, sizeof until);
    snprintf(why, sizeof why, "paused until %s", isfinite(t->until) ? until : "told otherwise");
    ebb_agent_say(a, t, "%s", why);
    if (t->job.spec.pause == EBB_PAUSE_CHECKPOINT) {
        stop(a, t, why);
        return;
    }
    ebb_queue_change_t c = {.from = EBB_QUEUE_BIT(EBB_RUNNING), .to = EBB_PAUSED, .reason = why};
    if (ebb_task_move(a, t, &c))
        ebb_attempt_tell(a->state, t->job.id, t->job.attempt, EBB_KEEPER_FREEZE);
}

void ebb_task_go_on(ebb_agent_t *a, ebb_task_t *t)
{
    ebb_queue_change_t c = {.from = EBB_QUEUE_BIT(EBB_PAUSED), .to = EBB_RUNNING, .reason = "goes on"};
    if (ebb_task_move(a, t, &c)) {
        ebb_attempt_tell(a->state, t->job.id, t->job.attempt, EBB_KEEPER_THAW);
        ebb_agent_say(a, t, "goes on");
    }
}

pid_t ebb_agent_spawn(const ebb_agent_t *a, char *const *word, const char *log)
{
    pid_t pid = fork();
    if (pid == 0) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        int fd = log ? open(log, O_WRONLY | O_APPEND | O_CREAT, 0600) : -1;
        if (fd >= 0) {
            dup2(fd, STDOUT_FILENO);
            dup2(fd, STDERR_FILENO);
        }
        execv(a->options->self, word);
        _exit(127);
    }
    if (pid < 0)
        EBB_WARN("agent", "cannot start a process: %s", strerror(errno));
    return pid > 0 ? pid : 0;
}

/* In a process of its own, because it waits until the run goes on. */
void ebb_task_scale(ebb_agent_t *a, ebb_task_t *t, int64_t ranks)
{
    char number[32], log[PATH_MAX], folder[PATH_MAX];
    ebb_attempt_folder(a->state, t->job.id, folder);
    snprintf(log, sizeof log, "%s/log", folder);
    snprintf(number, sizeof number, "%lld", (long long)ranks);
    char *const word[] = {(char *)a->options->self, (char *)"scale", (char *)t->job.spec.run_folder,
                          (char *)"--ranks",        number,          NULL};
    pid_t pid = ebb_agent_spawn(a, word, log);
    if (pid == 0)
        return;
    t->scaler = pid;
    t->scaled_to = ranks;
    ebb_agent_say(a, t, "from %lld to %lld ranks", (long long)t->job.ranks, (long long)ranks);
}

void ebb_task_scaled(ebb_agent_t *a, ebb_task_t *t, int status)
{
    char why[64];
    t->scaler = 0;
    t->version = -1;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        t->not_before_ns = ebb_now_ns() + AGAIN_NS;
        ebb_agent_say(a, t, "was not resized; its log says why");
        return;
    }
    if (t->job.state != EBB_RUNNING)
        return;
    a->now = ebb_wall_seconds();
    double done = ebb_task_units(a, t) / t->estimate.work;
    snprintf(why, sizeof why, "runs on %lld rank%s", (long long)t->scaled_to, t->scaled_to == 1 ? "" : "s");
    snprintf(t->why, sizeof t->why, "%s", why);
    if (ebb_queue_resized(a->queue, t->job.id, t->scaled_to, done, why) != EBB_OK ||
        ebb_queue_get(a->queue, t->job.id, &t->job) != EBB_OK)
        ebb_agent_forgive();
    ebb_agent_say(a, t, "%s", why);
}
