/* The watchdog's thread and connections: a star, with rank 0 in the middle.
 *
 * Ranks connect to rank 0 when the watch starts and show the token that the communicator brought them. Once a second
 * each sends how it is, and rank 0 how it is itself. Rank 0 judges all, tells the verdict to all, says it once and
 * aborts; when rank 0 itself is lost or silent, every rank sees so, and the lowest one whose listener still accepts
 * says it. Then each process ends by itself within two seconds, whether or not the launcher helps; a rank that was
 * stopped is killed by a rank of its host, a launcher that waits for a lost host by a helper (launcher.c). The only
 * rank of a job has the thread without connections. Only the
 * watching thread touches connections; the rest is atomics and one lock around the advice. */
#include <ebb/watch.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/pulse.h"
#include "watch/judge.h"
#include "watch/launcher.h"
#include "watch/net.h"
#include "watch/self.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECOND      ((int64_t)1000000000)
#define BEAT_NS     SECOND
#define LOOK_MS     250
#define JOIN_NS     (5 * SECOND) /* for all ranks to find rank 0 */
#define GAP_NS      (2 * SECOND) /* a longer pause between looks means that this process did not run */
#define LEAVE_NS    SECOND       /* for the others to take note of our leaving */
#define LAUNCHER_NS (SECOND * 3 / 10)
#define LINGER_MS   500  /* for the line to be read before processes vanish */
#define ABORT_MS    1500 /* for the launcher's abort, and for the caller to be told, after that */
#define ABORT_LOOK  20
#define SPARE_LINKS 16 /* for connections that have not said hello */

typedef struct link {
    int fd;   /* -1: none */
    int rank; /* -1: has not said hello */
    int filled;
    uint8_t bytes[EBB_WATCH_MESSAGE];
} link_t;

struct ebb_watch {
    ebb_comm_t *comm;
    int rank, ranks, listener, wake, n_links;
    ebb_watch_card_t *card; /* (ranks) */
    ebb_watch_peer_t *peer; /* (ranks) */
    link_t *link;           /* rank 0: (ranks + SPARE_LINKS); others: the one to rank 0 */
    struct pollfd *poll;    /* (n_links + 2) */
    ebb_watch_self_t self;
    ebb_watch_message_t verdict; /* rank 0's; cause FINE: none */
    pthread_t thread;
    bool running;
    atomic_bool stop;
    _Atomic int64_t limit_ns;
    pthread_mutex_t lock;
    char advice[1024];     /* under lock */
    ebb_watch_told_t told; /* under lock; NULL: none */
    void *told_user;
    atomic_bool telling;
    char sentence[512];
};

static void sleep_ms(int ms)
{
    struct timespec left = {ms / 1000, ms % 1000 * 1000000L};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
}

/* ---- the end ---- */

static void *abort_job(void *arg)
{
    const ebb_watch_t *w = arg;
    ebb_comm_abort(w->comm, ebb_status_exit_code(EBB_EPEER));
    return NULL;
}

/* In a thread of its own: a file system that hangs must not keep the end back. */
static void *tell_caller(void *arg)
{
    ebb_watch_t *w = arg;
    pthread_mutex_lock(&w->lock);
    if (w->told)
        w->told(w->told_user, w->sentence);
    pthread_mutex_unlock(&w->lock);
    atomic_store(&w->telling, false);
    return NULL;
}

static void say(ebb_watch_t *w, ebb_watch_cause_t cause, int rank)
{
    char line[2048], advice[sizeof w->advice];
    pthread_t helper;
    pthread_mutex_lock(&w->lock);
    memcpy(advice, w->advice, sizeof advice);
    bool told = w->told != NULL;
    pthread_mutex_unlock(&w->lock);
    double limit = (double)atomic_load(&w->limit_ns) / (double)SECOND;
    ebb_watch_sentence(cause, rank, w->card[rank].host, &w->peer[rank], limit, w->sentence, sizeof w->sentence);
    /* off the line of progress on a terminal */
    int n =
        snprintf(line, sizeof line, "%sebb: error: %s; %s\n", isatty(STDERR_FILENO) ? "\n" : "", w->sentence, advice);
    ssize_t written = write(STDERR_FILENO, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1);
    (void)written; /* nobody is left to tell */
    atomic_store(&w->telling, told);
    if (told && pthread_create(&helper, NULL, tell_caller, w) == 0)
        pthread_detach(helper);
}

static bool is_first_of_host(const ebb_watch_t *w)
{
    int r = 0;
    while (r < w->rank && !ebb_watch_same_host(&w->card[r], &w->card[w->rank]))
        r++;
    return r == w->rank;
}

/* abort: for the launcher to carry it out; it does not hear of it while it ends the job already. */
static void wait_for_end(ebb_watch_t *w, bool abort)
{
    for (int ms = 0; ms < ABORT_MS && ((abort && !ebb_pulse().leaving) || atomic_load(&w->telling)); ms += ABORT_LOOK)
        sleep_ms(ABORT_LOOK);
}

static _Noreturn void end_job(ebb_watch_t *w, ebb_watch_cause_t cause, int rank, bool tell)
{
    pthread_t helper;
    bool abort = cause != EBB_WATCH_LOST; /* else the launcher has seen it too, or sees that the others leave */
    if (cause == EBB_WATCH_SILENT && !ebb_watch_same_host(&w->card[w->rank], &w->card[rank]) && is_first_of_host(w))
        ebb_watch_end_launcher();
    sleep_ms(LINGER_MS);
    if (abort && rank != w->rank)
        ebb_watch_kill(&w->card[w->rank], &w->card[rank]);
    if (abort && tell && pthread_create(&helper, NULL, abort_job, w) == 0)
        pthread_detach(helper);
    wait_for_end(w, abort);
    _exit(ebb_status_exit_code(EBB_EPEER));
}

/* ---- links ---- */

static void link_close(link_t *l)
{
    if (l->fd >= 0)
        close(l->fd);
    *l = (link_t){.fd = -1, .rank = -1};
}

static void post(const link_t *l, const ebb_watch_message_t *m)
{
    uint8_t bytes[EBB_WATCH_MESSAGE];
    ebb_watch_pack(m, bytes);
    if (l->fd >= 0 && send(l->fd, bytes, sizeof bytes, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        return; /* a broken link shows when it is read */
}

static void post_all(ebb_watch_t *w, const ebb_watch_message_t *m)
{
    for (int i = 0; i < w->n_links; i++)
        if (w->link[i].rank >= 0)
            post(&w->link[i], m);
}

static ebb_watch_message_t with_token(const ebb_watch_t *w, ebb_watch_type_t type)
{
    ebb_watch_message_t m = {.type = type, .rank = w->rank};
    memcpy(m.text, w->card[0].token, EBB_WATCH_TOKEN);
    return m;
}

static bool has_token(const ebb_watch_t *w, const ebb_watch_message_t *m)
{
    uint8_t differ = 0;
    for (int i = 0; i < EBB_WATCH_TOKEN; i++)
        differ |= (uint8_t)m->text[i] ^ w->card[0].token[i];
    return differ == 0;
}

/* A message from a link that is not its rank's, or not of its turn, closes the link. */
static bool take(ebb_watch_t *w, link_t *l, const ebb_watch_message_t *m, int64_t now)
{
    if (l->rank < 0) {
        if (m->type != EBB_WATCH_HELLO || !has_token(w, m) || m->rank == 0)
            return false;
        l->rank = m->rank;
        w->peer[m->rank].heard_ns = now;
        ebb_watch_message_t welcome = with_token(w, EBB_WATCH_WELCOME);
        post(l, &welcome);
        return true;
    }
    if (m->type == EBB_WATCH_VERDICT && w->rank != 0) {
        w->peer[m->rank].step = m->step;
        memcpy(w->peer[m->rank].stage, m->text, EBB_WATCH_TEXT);
        end_job(w, m->cause, m->rank, false);
    }
    if (m->rank != l->rank)
        return false;
    if (m->type == EBB_WATCH_BEAT)
        ebb_watch_note(&w->peer[l->rank], m, now);
    if (m->type == EBB_WATCH_BYE)
        w->peer[l->rank].left = true;
    return m->type == EBB_WATCH_BEAT;
}

static void drop(ebb_watch_t *w, link_t *l)
{
    if (l->rank >= 0)
        w->peer[l->rank].lost = true;
    link_close(l);
}

/* All that has come. */
static void receive(ebb_watch_t *w, link_t *l, int64_t now)
{
    for (;;) {
        ebb_watch_message_t m;
        ssize_t n = recv(l->fd, l->bytes + l->filled, (size_t)(EBB_WATCH_MESSAGE - l->filled), MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) {
            drop(w, l);
            return;
        }
        l->filled += (int)n;
        if (l->filled < EBB_WATCH_MESSAGE)
            continue;
        l->filled = 0;
        if (!ebb_watch_unpack(l->bytes, w->ranks, &m) || !take(w, l, &m, now)) {
            drop(w, l);
            return;
        }
    }
}

/* Strangers that say nothing give way to the next comer. */
static link_t *place_for_one(ebb_watch_t *w)
{
    for (int i = 0; i < w->n_links; i++)
        if (w->link[i].fd < 0)
            return &w->link[i];
    for (int i = 0; i < w->n_links; i++)
        if (w->link[i].rank < 0) {
            link_close(&w->link[i]);
            return &w->link[i];
        }
    return NULL;
}

static void accept_all(ebb_watch_t *w)
{
    int fd;
    while ((fd = accept4(w->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
        link_t *l = place_for_one(w);
        if (l)
            *l = (link_t){.fd = fd, .rank = -1};
        else
            close(fd);
    }
}

/* ---- the thread ---- */

static void wait_for_news(ebb_watch_t *w)
{
    int n = 0;
    w->poll[n++] = (struct pollfd){.fd = w->wake, .events = POLLIN};
    w->poll[n++] = (struct pollfd){.fd = w->rank == 0 ? w->listener : -1, .events = POLLIN};
    for (int i = 0; i < w->n_links; i++)
        w->poll[n++] = (struct pollfd){.fd = w->link[i].fd, .events = POLLIN};
    if (poll(w->poll, (nfds_t)n, LOOK_MS) <= 0)
        return;
    int64_t now = ebb_now_ns();
    for (int i = 0; i < w->n_links; i++)
        if (w->poll[2 + i].revents && w->link[i].fd >= 0)
            receive(w, &w->link[i], now);
    if (w->poll[1].revents)
        accept_all(w);
}

static void judge_all(ebb_watch_t *w, int64_t now)
{
    int rank;
    ebb_watch_cause_t cause = ebb_watch_judge(w->peer, w->ranks, now, atomic_load(&w->limit_ns), &rank);
    if (cause == EBB_WATCH_FINE)
        return;
    const ebb_watch_peer_t *p = &w->peer[rank];
    ebb_watch_message_t verdict = {.type = EBB_WATCH_VERDICT, .cause = cause, .rank = rank, .step = p->step};
    memcpy(verdict.text, p->stage, EBB_WATCH_TEXT);
    say(w, cause, rank);
    post_all(w, &verdict);
    end_job(w, cause, rank, true);
}

/* Of the ranks that have lost sight of rank 0, the lowest that lives tells: one whose kernel accepts connections. */
static bool is_lowest_alive(const ebb_watch_t *w)
{
    int64_t deadline = ebb_now_ns() + SECOND;
    for (int r = 1; r < w->rank && ebb_now_ns() < deadline; r++)
        if (ebb_watch_answers(&w->card[w->rank], &w->card[r], deadline))
            return false;
    return true;
}

static void judge_hub(ebb_watch_t *w, int64_t now)
{
    const ebb_watch_peer_t *hub = &w->peer[0];
    if (hub->left)
        return;
    bool silent = now - hub->heard_ns >= atomic_load(&w->limit_ns);
    if (!hub->lost && !silent)
        return;
    ebb_watch_cause_t cause = hub->lost ? EBB_WATCH_LOST : EBB_WATCH_SILENT;
    bool tell = is_lowest_alive(w);
    if (tell)
        say(w, cause, 0);
    end_job(w, cause, 0, tell);
}

/* A launcher that ends the job kills the ranks one after the other: then this one need not explain it. */
static void give_way_to_launcher(const ebb_watch_t *w)
{
    bool lost = false;
    for (int r = 0; r < w->ranks; r++)
        lost = lost || (w->peer[r].lost && !w->peer[r].left);
    if (lost && ebb_pulse().leaving)
        sleep_ms((int)(LAUNCHER_NS / 1000000));
}

/* Silence while this process did not run, because it or its machine was stopped, is nobody's fault. */
static void excuse(ebb_watch_t *w, int64_t ns)
{
    for (int r = 0; r < w->ranks; r++)
        w->peer[r].heard_ns += ns;
    ebb_watch_self_excuse(&w->self, ns);
}

static bool any_link(const ebb_watch_t *w)
{
    for (int i = 0; i < w->n_links; i++)
        if (w->link[i].fd >= 0 && w->link[i].rank >= 0)
            return true;
    return false;
}

/* Tell that this rank leaves, and read on until the others have closed: closing with unread bytes could undo the word.
 */
static void leave(ebb_watch_t *w)
{
    ebb_watch_message_t bye = {.type = EBB_WATCH_BYE, .rank = w->rank};
    int64_t deadline = ebb_now_ns() + LEAVE_NS;
    post_all(w, &bye);
    for (int i = 0; i < w->n_links; i++)
        if (w->link[i].fd >= 0)
            shutdown(w->link[i].fd, SHUT_WR);
    while (any_link(w) && ebb_now_ns() < deadline) {
        struct pollfd p[1] = {{.fd = -1}};
        int64_t now = ebb_now_ns();
        for (int i = 0; i < w->n_links; i++)
            if (w->link[i].fd >= 0)
                receive(w, &w->link[i], now);
        if (any_link(w))
            poll(p, 1, 5);
    }
}

static void *watch_main(void *arg)
{
    ebb_watch_t *w = arg;
    int64_t last = ebb_now_ns(), beat_due = last;
    ebb_watch_self_begin(&w->self, last);
    while (!atomic_load(&w->stop)) {
        wait_for_news(w);
        int64_t now = ebb_now_ns();
        if (now - last > GAP_NS)
            excuse(w, now - last);
        last = now;
        if (now >= beat_due) {
            ebb_watch_message_t beat;
            ebb_watch_self_look(&w->self, w->rank, now, atomic_load(&w->limit_ns), &beat);
            ebb_watch_note(&w->peer[w->rank], &beat, now);
            post_all(w, &beat);
            beat_due = now + BEAT_NS;
        }
        give_way_to_launcher(w);
        if (w->rank == 0)
            judge_all(w, now);
        else
            judge_hub(w, now);
    }
    leave(w);
    return NULL;
}

/* Signals are for the other threads. */
static bool run_thread(ebb_watch_t *w)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    w->running = pthread_create(&w->thread, NULL, watch_main, w) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return w->running;
}

/* ---- start and stop ---- */

static bool await_welcome(ebb_watch_t *w, link_t *l, int64_t deadline)
{
    while (l->filled < EBB_WATCH_MESSAGE) {
        struct pollfd p = {.fd = l->fd, .events = POLLIN};
        int64_t left = deadline - ebb_now_ns();
        if (left <= 0 || poll(&p, 1, (int)(left / 1000000) + 1) != 1)
            return false;
        ssize_t n = recv(l->fd, l->bytes + l->filled, (size_t)(EBB_WATCH_MESSAGE - l->filled), 0);
        if (n <= 0)
            return false;
        l->filled += (int)n;
    }
    ebb_watch_message_t m;
    l->filled = 0;
    return ebb_watch_unpack(l->bytes, w->ranks, &m) && m.type == EBB_WATCH_WELCOME && has_token(w, &m);
}

/* What listens there may be another host's: of the same private address. Only the token tells. */
static bool join_hub(ebb_watch_t *w)
{
    int64_t deadline = ebb_now_ns() + JOIN_NS;
    link_t *l = &w->link[0];
    l->fd = ebb_watch_dial(&w->card[w->rank], &w->card[0], deadline);
    if (l->fd < 0)
        return false;
    l->rank = 0;
    ebb_watch_message_t hello = with_token(w, EBB_WATCH_HELLO);
    post(l, &hello);
    w->peer[0].heard_ns = ebb_now_ns();
    return await_welcome(w, l, deadline);
}

static void watch_free(ebb_watch_t *w)
{
    for (int i = 0; w->link && i < w->n_links; i++)
        link_close(&w->link[i]);
    if (w->listener >= 0)
        close(w->listener);
    if (w->wake >= 0)
        close(w->wake);
    pthread_mutex_destroy(&w->lock);
    ebb_free(w->card);
    ebb_free(w->peer);
    ebb_free(w->link);
    ebb_free(w->poll);
    ebb_free(w);
}

static ebb_status_t watch_new(ebb_comm_t *comm, ebb_watch_t **watch_p)
{
    ebb_watch_t *w;
    *watch_p = NULL;
    EBB_TRY(EBB_NEW("watchdog", &w));
    w->comm = comm;
    w->rank = ebb_comm_rank(comm);
    w->ranks = ebb_comm_size(comm);
    w->n_links = w->rank == 0 ? w->ranks + SPARE_LINKS : 1;
    w->listener = -1;
    w->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    atomic_init(&w->limit_ns, (int64_t)(EBB_WATCH_SECONDS * (double)SECOND));
    pthread_mutex_init(&w->lock, NULL);
    snprintf(w->advice, sizeof w->advice, "start it again");
    ebb_status_t status;
    EBB_TRY_GOTO(status, EBB_NEW_ARRAY("watchdog", w->ranks, &w->card), fail);
    EBB_TRY_GOTO(status, EBB_NEW_ARRAY("watchdog", w->ranks, &w->peer), fail);
    EBB_TRY_GOTO(status, EBB_NEW_ARRAY("watchdog", w->n_links, &w->link), fail);
    EBB_TRY_GOTO(status, EBB_NEW_ARRAY("watchdog", w->n_links + 2, &w->poll), fail);
    for (int i = 0; i < w->n_links; i++)
        w->link[i] = (link_t){.fd = -1, .rank = -1};
    *watch_p = w;
    return EBB_OK;
fail:
    w->n_links = w->link ? 0 : w->n_links;
    watch_free(w);
    return status;
}

/* Rank 0 watches from the start, so that a rank that dies meanwhile is missed; the others once all have joined. */
static ebb_status_t join(ebb_watch_t *w, int64_t *joined_p)
{
    ebb_watch_card_t mine;
    ebb_watch_card_fill(&mine, &w->listener);
    EBB_TRY(ebb_comm_allgather(w->comm, &mine, sizeof mine, w->card));
    for (int r = 0; r < w->ranks; r++)
        w->peer[r].heard_ns = ebb_now_ns();
    *joined_p = w->wake >= 0 && w->card[0].port != 0 && (w->rank == 0 ? run_thread(w) : join_hub(w));
    EBB_TRY(ebb_comm_allreduce(w->comm, joined_p, 1, EBB_COMM_I64, EBB_MIN));
    int64_t watched = *joined_p && (w->running || run_thread(w));
    EBB_TRY(ebb_comm_allreduce(w->comm, &watched, 1, EBB_COMM_I64, EBB_MIN));
    *joined_p = watched;
    return EBB_OK;
}

/* The only rank has nobody to talk to: its thread looks at itself. */
static ebb_status_t stay_alone(ebb_watch_t *w, int64_t *joined_p)
{
    ebb_watch_card_fill(&w->card[0], &w->listener);
    if (w->listener >= 0)
        close(w->listener);
    w->listener = -1;
    *joined_p = w->wake >= 0 && run_thread(w);
    return EBB_OK;
}

ebb_status_t ebb_watch_start(ebb_comm_t *comm, ebb_watch_t **watch_p)
{
    ebb_watch_t *w = NULL;
    int64_t joined;
    bool alone = ebb_comm_size(comm) == 1;
    *watch_p = NULL;
    EBB_TRY(ebb_comm_agree(comm, watch_new(comm, &w)));
    ebb_status_t status = alone ? stay_alone(w, &joined) : join(w, &joined);
    if (status == EBB_OK && joined) {
        *watch_p = w;
        return EBB_OK;
    }
    ebb_watch_stop(w);
    if (status == EBB_OK && !alone && ebb_comm_rank(comm) == 0)
        EBB_WARN("watch", "the ranks' hosts cannot reach each other by TCP: a rank that dies may leave the others "
                          "waiting, unless the launcher ends them");
    return status;
}

void ebb_watch_limit(ebb_watch_t *w, double seconds)
{
    if (w)
        atomic_store(&w->limit_ns, (int64_t)((seconds < 2 ? 2 : seconds) * (double)SECOND));
}

void ebb_watch_advise(ebb_watch_t *w, const char *advice)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    snprintf(w->advice, sizeof w->advice, "%s", advice);
    pthread_mutex_unlock(&w->lock);
}

void ebb_watch_on_end(ebb_watch_t *w, ebb_watch_told_t told, void *user)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->told = told;
    w->told_user = user;
    pthread_mutex_unlock(&w->lock);
}

void ebb_watch_stop(ebb_watch_t *w)
{
    if (!w)
        return;
    atomic_store(&w->stop, true);
    if (w->running) {
        (void)eventfd_write(w->wake, 1); /* or it looks by itself soon */
        pthread_join(w->thread, NULL);
    }
    watch_free(w);
}
