/* The supervising loop: start a job, wait until it ends, and decide what its end means.
 *
 * Finished is finished; exit 75 is a pause, that somebody asked for here (a signal, a resize) or that passes through; a
 * wrong command line at the first start, bad data and missing input would only fail again; all else is a failure, after
 * which the run goes on from the newest good checkpoint, without the rank that died. A failure counts as one without
 * progress if that checkpoint is no newer than at the failure before. All waiting is done in one place, where signals,
 * the parent's end and requests are heard. */
#include "supervise/loop.h"
#include "base/clock.h"
#include "supervise/channel.h"
#include "supervise/job.h"
#include "supervise/nodes.h"
#include "supervise/state.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECOND     ((int64_t)1000000000)
#define TICK_MS    100
#define AGAIN_NS   SECOND       /* a second signal within this is the first one, sent to a whole group */
#define UNKNOWN_NS (2 * SECOND) /* a command without a record is taken to run after this */
#define MOST_DELAY 30           /* seconds between restarts that get nowhere */

enum { EXIT_USAGE = 64, EXIT_DATA = 65, EXIT_NO_INPUT = 66, EXIT_PEER = 69, EXIT_PAUSED = 75, EXIT_SIGNAL = 128 };

typedef struct loop {
    const ebb_supervise_options_t *options;
    ebb_supervisor_state_t state;
    ebb_job_t job;
    ebb_nodes_t nodes; /* of a Slurm allocation */
    ebb_text_t hosts;  /* for the launcher, once one of them is gone */
    bool running;
    int signals, parent; /* descriptors */
    bool parent_gone;
    int stop; /* the signal that asked for the end; 0: none */
    bool at_once;
    int64_t stop_ns;
    ebb_scale_request_t request; /* being carried out */
    bool resizing;               /* the job is to end for it */
    int target;                  /* ranks of the next job; 0: wait */
    int failures;                /* in a row without progress */
    bool began, restarted;       /* a job has been started; after a failure */
    int64_t progress, start;     /* newest good step at the last failure; start in run.json before this job */
    int64_t taken;               /* ebb_state_taken before this job */
} loop_t;

void ebb_supervise_signals(sigset_t *set)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGUSR1, SIGHUP, SIGCHLD};
    sigemptyset(set);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        sigaddset(set, numbers[i]);
}

static const char *ranks_text(int n, char text[32])
{
    snprintf(text, 32, "%d rank%s", n, n == 1 ? "" : "s");
    return text;
}

static const char *step_text(int64_t step, char text[48])
{
    if (step < 0)
        snprintf(text, 48, "anew");
    else
        snprintf(text, 48, "from step %lld", (long long)step);
    return text;
}

/* ---- requests ---- */

static void answer(loop_t *l, bool final, bool good, const char *text)
{
    if (!l->request.id[0])
        return;
    ebb_channel_answer(l->options->folder, &l->request, final, good, text);
    if (final)
        l->request.id[0] = 0;
}

static void begin_resize(loop_t *l)
{
    char text[160], a[32], b[32];
    snprintf(text, sizeof text, "pausing %s for %s", ranks_text(l->job.ranks, a), ranks_text(l->request.ranks, b));
    ebb_state_say(&l->state, "%s", text);
    answer(l, false, true, text);
    ebb_state_set(&l->state, "pausing", l->job.ranks);
    l->resizing = true;
    ebb_job_pause(&l->job);
}

/* While no job runs. */
static void retarget(loop_t *l)
{
    ebb_state_note(l->state.resizes, ebb_state_newest(&l->state, false), "asked for", l->target, l->request.ranks);
    l->target = l->request.ranks;
    ebb_state_record(&l->state, EBB_ESTOPPED, "resized");
}

static void take_request(loop_t *l)
{
    char text[128], a[32];
    if (l->request.id[0] || l->stop || !ebb_channel_take(l->options->folder, &l->request))
        return;
    int n = l->request.ranks, most = l->options->most_ranks, now = l->running ? l->job.ranks : l->target;
    if (most > 0 && n > most) {
        snprintf(text, sizeof text, "the run has %d lanes, so it takes 1 to %d ranks", most, most);
        answer(l, true, false, text);
    } else if (l->hosts.n > 0 && n > l->nodes.slots) {
        snprintf(text, sizeof text, "the nodes that are left have room for %s", ranks_text(l->nodes.slots, a));
        answer(l, true, false, text);
    } else if (n == now) {
        snprintf(text, sizeof text, n ? "has %s already" : "is paused already", ranks_text(n, a));
        answer(l, true, true, text);
    } else if (l->running) {
        begin_resize(l);
    } else {
        retarget(l);
    }
}

/* After a resize: does the new job run, as far as its record tells? */
static void confirm(loop_t *l)
{
    char error[8], text[128], a[32], b[48];
    if (!l->request.id[0] || l->resizing)
        return;
    int64_t start = ebb_state_start(&l->state, error, sizeof error);
    bool silent = start == 0 && ebb_now_ns() - l->job.started_ns > UNKNOWN_NS;
    if (start == l->start && !silent)
        return;
    snprintf(text, sizeof text, "goes on with %s %s", ranks_text(l->job.ranks, a), step_text(l->progress, b));
    answer(l, true, true, text);
}

/* ---- waiting ---- */

static void take_stop(loop_t *l, int number)
{
    int64_t now = ebb_now_ns();
    if (!l->stop) {
        l->stop = number;
        l->stop_ns = now;
        if (!l->running)
            return;
        ebb_state_set(&l->state, "pausing", l->job.ranks);
        ebb_job_pause(&l->job);
    } else if (now - l->stop_ns > AGAIN_NS) {
        l->at_once = true;
        if (l->running)
            ebb_job_kill(&l->job);
    }
}

static void take_signals(loop_t *l)
{
    struct signalfd_siginfo info;
    while (read(l->signals, &info, sizeof info) == (ssize_t)sizeof info)
        if (info.ssi_signo != SIGCHLD)
            take_stop(l, (int)info.ssi_signo);
    ebb_job_collect(&l->job);
}

static void wait_for_news(loop_t *l)
{
    struct pollfd p[2] = {{.fd = l->signals, .events = POLLIN}, {.fd = l->parent, .events = POLLIN}};
    poll(p, 2, TICK_MS);
    take_signals(l);
    if (p[1].revents && !l->parent_gone) {
        l->parent_gone = true;
        if (l->running)
            ebb_job_kill(&l->job);
    }
    take_request(l);
}

static bool is_over(const loop_t *l)
{
    return l->stop || l->parent_gone;
}

static void wait_seconds(loop_t *l, double seconds)
{
    int64_t until = ebb_now_ns() + (int64_t)(seconds * (double)SECOND);
    while (!is_over(l) && ebb_now_ns() < until)
        wait_for_news(l);
}

static void wait_for_ranks(loop_t *l)
{
    char text[96], b[48];
    ebb_state_set(&l->state, "waiting", 0);
    ebb_state_record(&l->state, EBB_ESTOPPED, "paused");
    snprintf(text, sizeof text, "paused; goes on %s when it is given ranks",
             step_text(ebb_state_newest(&l->state, false), b));
    ebb_state_say(&l->state, "%s", text);
    answer(l, true, true, text);
    while (!is_over(l) && l->target == 0)
        wait_for_news(l);
}

/* Ranks that are not processes under this one, as in a Slurm job, are known by the record they have begun. */
static void look_at_record(loop_t *l)
{
    char error[8];
    if (l->job.asked && !l->job.signalled && !l->job.up)
        l->job.up = ebb_state_start(&l->state, error, sizeof error) != l->start;
    if (!l->job.taken)
        l->job.taken = l->options->most_ranks == 0 || ebb_state_taken(&l->state) != l->taken;
}

static void wait_for_job(loop_t *l)
{
    while (!l->job.ended) {
        wait_for_news(l);
        look_at_record(l);
        ebb_job_look(&l->job, l->options->stopped_limit);
        confirm(l);
    }
}

/* ---- jobs ---- */

static ebb_status_t start_job(loop_t *l)
{
    char error[8], a[32], b[48];
    int64_t step = ebb_state_newest(&l->state, false);
    ebb_job_plan_t plan = {.launcher = l->options->launcher, .ranks = l->target, .hosts = l->hosts.s};
    plan.command = step >= 0 ? l->options->go_on : l->began ? l->options->begin_anew : l->options->begin;
    l->progress = step > l->progress ? step : l->progress;
    l->start = ebb_state_start(&l->state, error, sizeof error);
    l->taken = ebb_state_taken(&l->state);
    EBB_TRY(ebb_job_start(&plan, &l->job));
    l->running = true;
    ebb_state_set(&l->state, "running", l->target);
    if (!l->options->quiet)
        ebb_state_say(&l->state, "%s on %s%s%s", step >= 0 ? "goes on" : "starts", ranks_text(l->target, a),
                      step >= 0 ? " " : "", step >= 0 ? step_text(step, b) : "");
    l->began = true;
    return EBB_OK;
}

/* Why the job failed, in words; true if a rank was lost with it. */
static bool explain(const loop_t *l, int code, char *why, size_t size)
{
    char error[512];
    bool launcher_died = l->job.launched && WIFSIGNALED(l->job.status);
    bool fresh = ebb_state_start(&l->state, error, sizeof error) != l->start;
    if (l->job.fault[0])
        snprintf(why, size, "%s", l->job.fault);
    else if (fresh && error[0])
        snprintf(why, size, "%s", error);
    else if (launcher_died)
        snprintf(why, size, "the launcher died of SIG%s", sigabbrev_np(WTERMSIG(l->job.status)));
    else if (code > EXIT_SIGNAL && sigabbrev_np(code - EXIT_SIGNAL))
        snprintf(why, size, "a rank died of SIG%s", sigabbrev_np(code - EXIT_SIGNAL));
    else
        snprintf(why, size, "exit code %d", code);
    return (!launcher_died || (fresh && error[0])) && (code > EXIT_SIGNAL || code == EXIT_PEER);
}

static int finish(loop_t *l, const char *word, int code)
{
    answer(l, true, false, strcmp(word, "paused") == 0 ? "the run was paused by a signal" : "the run ended meanwhile");
    ebb_state_set(&l->state, word, l->job.ranks);
    return code;
}

static int finished(loop_t *l)
{
    if (!l->options->quiet)
        ebb_state_say(&l->state, "finished");
    return finish(l, "finished", 0);
}

/* By a signal to the supervisor, or to a rank. */
static int paused(loop_t *l, int code)
{
    int64_t step = ebb_state_newest(&l->state, false);
    bool saved = step >= 0 || code == EXIT_PAUSED;
    if (code != EXIT_PAUSED)
        ebb_state_record(&l->state, EBB_ESTOPPED, "paused");
    if (step >= 0)
        ebb_state_say(&l->state, "paused at step %lld; the same command goes on from there", (long long)step);
    else
        ebb_state_say(&l->state, code == EXIT_PAUSED ? "paused" : "ended before its first checkpoint");
    if (l->at_once)
        code = EXIT_SIGNAL + l->stop;
    else
        code = saved || code == 0 ? EXIT_PAUSED : code;
    return finish(l, "paused", code);
}

static int give_up(loop_t *l, int code, const char *why)
{
    char b[48];
    int64_t step = ebb_state_newest(&l->state, false);
    ebb_state_record(&l->state, EBB_EPEER, why);
    ebb_state_say(&l->state, "error: given up after %d restart%s without a newer checkpoint (%s): %s", l->failures - 1,
                  l->failures == 2 ? "" : "s", step < 0 ? "there is none" : step_text(step, b), why);
    return finish(l, "failed", code == 74 || code == 71 ? code : EXIT_PEER);
}

/* Nodes that died with the job are left out from here on; how many of the ranks still have a place. */
static int leave_out_dead_nodes(loop_t *l, int ranks)
{
    ebb_text_t lost = {0};
    ebb_nodes_look(&l->nodes, &lost);
    if (lost.n > 0) {
        ebb_state_say(&l->state, "left out, since it does not answer:%s", lost.s);
        ebb_text_free(&l->hosts);
        l->hosts = (ebb_text_t){0};
        ebb_nodes_hosts(&l->nodes, &l->hosts);
    }
    ebb_text_free(&lost);
    return l->hosts.n > 0 && ranks > l->nodes.slots ? l->nodes.slots : ranks;
}

/* Count a failure; false if it was one too many. */
static bool count_failure(loop_t *l, int64_t step)
{
    l->failures = step > l->progress ? 1 : l->failures + 1;
    l->progress = step;
    return l->failures <= l->options->max_restarts;
}

/* -1: the run goes on. */
static int failed(loop_t *l, int code)
{
    char why[600], text[700], a[32], b[48];
    bool lost = explain(l, code, why, sizeof why);
    int before = l->job.ranks, left = lost && before > 1 ? before - 1 : before;
    int64_t step = ebb_state_newest(&l->state, true);
    if ((code == EXIT_USAGE && !l->restarted) || code == EXIT_DATA || code == EXIT_NO_INPUT || code == 126 ||
        code == 127)
        return finish(l, "failed", code);
    if (!count_failure(l, step))
        return give_up(l, code, why);
    l->restarted = true;
    l->target = leave_out_dead_nodes(l, l->resizing ? l->request.ranks : left);
    ebb_state_note(l->state.restarts, step, why, before, l->target);
    ebb_state_record(&l->state, EBB_EPEER, why);
    ebb_state_set(&l->state, "restarting", l->target);
    ebb_state_say(&l->state, "%s; restart %zu on %s %s", why, json_array_size(l->state.restarts),
                  ranks_text(l->target, a), step_text(step, b));
    snprintf(text, sizeof text, "failed (%s); goes on with %s", why, ranks_text(l->target, a));
    if (!l->resizing)
        answer(l, true, false, text);
    l->resizing = false;
    int delay = l->failures > 1 ? 1 << (l->failures - 2 < 5 ? l->failures - 2 : 5) : 0;
    wait_seconds(l, delay < MOST_DELAY ? delay : MOST_DELAY);
    return -1;
}

static int resized(loop_t *l)
{
    char text[160], a[32];
    int64_t step = ebb_state_newest(&l->state, false);
    l->resizing = false;
    l->target = l->request.ranks;
    ebb_state_note(l->state.resizes, step, "asked for", l->job.ranks, l->target);
    if (l->target == 0)
        return -1;
    ebb_state_record(&l->state, EBB_ESTOPPED, "resized");
    snprintf(text, sizeof text, "paused at step %lld; starting %s", (long long)step, ranks_text(l->target, a));
    answer(l, false, true, text);
    return -1;
}

/* The run was over before its ranks, or their launcher, came to harm: as when one cannot leave MPI. */
static bool came_to_an_end(const loop_t *l)
{
    char error[8];
    return ebb_state_start(&l->state, error, sizeof error) != l->start && ebb_state_finished(&l->state);
}

/* What the end of a job means: an exit code, or -1: the run goes on. */
static int after_job(loop_t *l)
{
    int code = ebb_job_code(&l->job);
    bool killed_here = l->job.fault[0] != 0;
    if (l->parent_gone) {
        ebb_state_record(&l->state, EBB_EPEER, "the supervisor was killed");
        return finish(l, "failed", EXIT_PAUSED);
    }
    if ((code == 0 && !killed_here) || came_to_an_end(l))
        return finished(l);
    if (l->stop)
        return paused(l, code);
    if (l->resizing && code == EXIT_PAUSED)
        return resized(l);
    if (code == EXIT_PAUSED && !killed_here)
        return paused(l, code);
    return failed(l, code);
}

static int run(loop_t *l)
{
    for (;;) {
        if (is_over(l))
            return paused(l, EXIT_PAUSED);
        if (l->target == 0) {
            wait_for_ranks(l);
            continue;
        }
        if (start_job(l) != EBB_OK) {
            ebb_state_say(&l->state, "error: %s", ebb_error()->message);
            return finish(l, "failed", ebb_status_exit_code(ebb_error()->status));
        }
        wait_for_job(l);
        ebb_job_kill(&l->job); /* what is left of it */
        l->running = false;
        int code = after_job(l);
        if (code >= 0)
            return code;
    }
}

int ebb_supervise_loop(const ebb_supervise_options_t *options, int parent)
{
    loop_t l = {.options = options, .parent = parent, .target = options->ranks};
    sigset_t set;
    ebb_supervise_signals(&set);
    l.signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (l.signals < 0 || ebb_state_open(options, &l.state) != EBB_OK)
        return ebb_status_exit_code(EBB_ENOMEM);
    l.progress = ebb_state_newest(&l.state, false);
    ebb_nodes_find(&l.nodes);
    ebb_channel_clear(options->folder);
    int code = run(&l);
    ebb_tree_free(&l.job.tree);
    ebb_nodes_free(&l.nodes);
    ebb_text_free(&l.hosts);
    ebb_state_close(&l.state);
    close(l.signals);
    return code;
}
