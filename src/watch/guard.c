/* A guard over the times without a watch: MPI's start-up, before the ranks can tell one another where they listen, and
 * its end. Each rank looks at those of its own host; a rank of another host that is stopped or stuck there is seen by
 * its neighbours, and where it has none the time is limited, as for all that is done once.
 *
 * MPI is within its call meanwhile, so nothing of it may be used: each process ends by itself, which makes the launcher
 * end the rest; the rank for which it happens is killed. */
#include <ebb/watch.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/pulse.h"
#include "comm/transport.h"
#include "watch/kin.h"
#include "watch/launcher.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SECOND    ((int64_t)1000000000)
#define LOOK_NS   (SECOND / 2)
#define GAP_NS    (2 * SECOND) /* a longer pause between looks means that this process did not run */
#define LINGER_MS 500          /* for the line to be read before processes vanish */
#define TELLER_MS 500          /* for the one that tells to do so before the others leave */

struct ebb_watch_guard {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool quit; /* under lock, with the limit */
    int64_t limit_ns;
    int rank, code;
    bool leaving;
    int64_t begun_ns;
    ebb_kin_t kin;
    const char *advice;
};

static void sleep_ms(int ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    (void)nanosleep(&t, NULL);
}

static void say(const ebb_watch_guard_t *g, ebb_watch_cause_t cause, int rank, int64_t limit_ns)
{
    char host[64] = "this host", line[1024], why[512];
    ebb_pulse_t pulse = ebb_pulse();
    ebb_watch_peer_t peer = {.step = pulse.step};
    (void)gethostname(host, sizeof host - 1);
    snprintf(peer.stage, sizeof peer.stage, "%s", pulse.stage);
    ebb_watch_sentence(cause, rank, host, &peer, (double)limit_ns / (double)SECOND, why, sizeof why);
    int n = snprintf(line, sizeof line, "%sebb: error: %s; %s\n", isatty(STDERR_FILENO) ? "\n" : "", why, g->advice);
    ssize_t written = write(STDERR_FILENO, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1);
    (void)written; /* nobody is left to tell */
}

static _Noreturn void end(const ebb_watch_guard_t *g, ebb_watch_cause_t cause, int rank, int64_t limit_ns)
{
    const ebb_kin_rank_t *culprit = ebb_kin_find(&g->kin, rank);
    bool tells = ebb_kin_lowest(&g->kin) < 0 || ebb_kin_lowest(&g->kin) == g->rank;
    if (tells)
        ebb_watch_end_launcher(); /* it may wait for a host that is lost, or lock itself up; see launcher.c */
    if (tells)
        say(g, cause, rank, limit_ns);
    sleep_ms(tells ? LINGER_MS : LINGER_MS + TELLER_MS);
    if (tells && culprit && !culprit->gone && rank != g->rank)
        (void)kill(culprit->pid, SIGKILL);
    _exit(g->code);
}

static void look(ebb_watch_guard_t *g, int64_t limit_ns)
{
    int rank = g->rank;
    int64_t now = ebb_now_ns();
    if (g->kin.looked_ns > 0 && now - g->kin.looked_ns > GAP_NS) {
        g->begun_ns += now - g->kin.looked_ns;
        ebb_kin_excuse(&g->kin, now - g->kin.looked_ns);
    }
    ebb_kin_look(&g->kin, now);
    ebb_watch_cause_t cause = limit_ns > 0 ? ebb_kin_judge(&g->kin, g->leaving, now, limit_ns, &rank) : EBB_WATCH_FINE;
    if (cause == EBB_WATCH_FINE && limit_ns > 0 && now - g->begun_ns >= EBB_WATCH_PATIENT * limit_ns) {
        cause = EBB_WATCH_DEADLOCK;
        rank = g->rank;
    }
    if (cause != EBB_WATCH_FINE)
        end(g, cause, rank, limit_ns);
}

static void *guard_main(void *arg)
{
    ebb_watch_guard_t *g = arg;
    pthread_mutex_lock(&g->lock);
    while (!g->quit) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += LOOK_NS;
        until.tv_sec += until.tv_nsec / SECOND;
        until.tv_nsec %= SECOND;
        if (pthread_cond_timedwait(&g->changed, &g->lock, &until) == 0)
            continue;
        int64_t limit_ns = g->limit_ns;
        pthread_mutex_unlock(&g->lock);
        look(g, limit_ns);
        pthread_mutex_lock(&g->lock);
    }
    pthread_mutex_unlock(&g->lock);
    return NULL;
}

/* Signals are for the other threads. */
static bool run_thread(ebb_watch_guard_t *g)
{
    sigset_t all, before;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&g->changed, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&g->lock, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool running = pthread_create(&g->thread, NULL, guard_main, g) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return running;
}

static void guard_free(ebb_watch_guard_t *g)
{
    pthread_cond_destroy(&g->changed);
    pthread_mutex_destroy(&g->lock);
    ebb_kin_free(&g->kin);
    ebb_free(g);
}

ebb_watch_guard_t *ebb_watch_guard_begin(bool leaving, double seconds, int code, const char *advice)
{
    ebb_watch_guard_t *g;
    if (!ebb_comm_launched())
        return NULL;
    if (EBB_NEW("watchdog", &g) != EBB_OK) {
        ebb_error_clear();
        return NULL;
    }
    g->rank = ebb_comm_launched_rank();
    g->kin.size = ebb_kin_job_size();
    g->leaving = leaving;
    g->code = code;
    g->advice = advice;
    g->begun_ns = ebb_now_ns();
    ebb_pulse_stage(leaving ? "leaving MPI" : "starting MPI");
    ebb_watch_guard_limit(g, seconds);
    if (run_thread(g))
        return g;
    guard_free(g);
    return NULL;
}

void ebb_watch_guard_limit(ebb_watch_guard_t *g, double seconds)
{
    if (!g)
        return;
    pthread_mutex_lock(&g->lock);
    g->limit_ns = seconds > 0 ? (int64_t)((seconds < 2 ? 2 : seconds) * (double)SECOND) : 0;
    pthread_mutex_unlock(&g->lock);
}

void ebb_watch_guard_end(ebb_watch_guard_t *g)
{
    if (!g)
        return;
    pthread_mutex_lock(&g->lock);
    g->quit = true;
    pthread_cond_signal(&g->changed);
    pthread_mutex_unlock(&g->lock);
    pthread_join(g->thread, NULL);
    if (!g->leaving)
        ebb_pulse_stage("starting");
    guard_free(g);
}
