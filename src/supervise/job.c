/* Starting, pausing and ending the processes of one job.
 *
 * The job is a child in a process group of its own, so that the terminal's signals reach the supervisor alone. A pause
 * is SIGUSR1 to the ranks of this machine once they catch it: a launcher loses signals that come before its ranks are
 * there, and a rank that does not catch them yet would die. Any one rank that hears of it stops all. What has neither
 * ranks here nor a handler is asked through the launcher, and after that ended by SIGTERM. */
#include "supervise/job.h"
#include "base/alloc.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SECOND     ((int64_t)1000000000)
#define LOOK_NS    (SECOND / 2)
#define READY_NS   (3 * SECOND)     /* for a process to begin to catch signals */
#define REMOTE_NS  (8 * SECOND)     /* for ranks that are not seen here to do so, where no record tells */
#define LEAVE_NS   (SECOND * 3 / 2) /* for a launcher to see that its ranks are gone */
#define TERM_NS    (4 * SECOND)     /* for a launcher to end its ranks */
#define GAP_NS     (3 * SECOND)     /* a longer pause between looks: this process did not run */
#define DRAINED_NS (5 * SECOND)     /* for a launcher to leave after its ranks */
#define PATIENT    30               /* times the limit for a launcher to bring up its ranks, wherever they are */
#define SLACK      1.0              /* seconds beyond the limit, for the ranks' own watchdog to come first */

/* ---- start ---- */

typedef struct words {
    char **word;
    int64_t n, capacity;
    char *text; /* of the launcher, cut into words */
    char ranks[16];
} words_t;

static ebb_status_t add(words_t *w, const char *word)
{
    EBB_TRY(ebb_grow("command line", (void **)&w->word, &w->capacity, w->n + 1, sizeof *w->word));
    w->word[w->n++] = (char *)word;
    return EBB_OK;
}

static bool takes_hosts(const char *program)
{
    static const char *const names[] = {"mpirun", "mpiexec", "orterun", "prterun"};
    const char *slash = strrchr(program, '/');
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(slash ? slash + 1 : program, names[i]) == 0)
            return true;
    return false;
}

static ebb_status_t add_launcher(words_t *w, const ebb_job_plan_t *plan)
{
    char *rest;
    w->text = ebb_strdup(plan->launcher);
    if (!w->text)
        return EBB_FAIL(EBB_ENOMEM, "out of memory");
    for (char *word = strtok_r(w->text, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
        EBB_TRY(add(w, word));
    if (w->n == 0)
        return EBB_FAIL(EBB_EUSAGE, "the launcher is an empty command; give one as in --launcher mpirun");
    if (plan->hosts && takes_hosts(w->word[0])) {
        EBB_TRY(add(w, "--host"));
        EBB_TRY(add(w, plan->hosts));
    }
    snprintf(w->ranks, sizeof w->ranks, "%d", plan->ranks);
    EBB_TRY(add(w, "-np"));
    return add(w, w->ranks);
}

static ebb_status_t compose(const ebb_job_plan_t *plan, bool launched, words_t *w)
{
    if (launched)
        EBB_TRY(add_launcher(w, plan));
    for (char *const *word = plan->command; *word; word++)
        EBB_TRY(add(w, *word));
    return add(w, NULL);
}

static void words_free(words_t *w)
{
    ebb_free(w->word);
    ebb_free(w->text);
}

/* More ranks than cores are the user's wish, and not for Open MPI to refuse; in an allocation they are a mistake. */
static void allow_more_ranks_than_cores(int ranks)
{
    cpu_set_t cores;
    if (!getenv("SLURM_JOB_ID") && sched_getaffinity(0, sizeof cores, &cores) == 0 && ranks > CPU_COUNT(&cores))
        setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 0);
}

/* In the child: never returns. error: where to tell errno if the command cannot be started. */
static _Noreturn void become(char *const *word, pid_t parent, bool launched, int error)
{
    sigset_t none;
    sigemptyset(&none);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, launched ? SIGTERM : SIGKILL); /* a launcher has ranks to end */
    int null = open("/dev/null", O_RDONLY);
    if (null >= 0)
        dup2(null, STDIN_FILENO);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (getppid() == parent)
        execvp(word[0], word);
    int why = errno;
    if (write(error, &why, sizeof why) < 0)
        _exit(126);
    _exit(127);
}

/* Waits until the command has been started, or could not be: the pipe closes with the start. */
static ebb_status_t spawn(ebb_job_t *job, char *const *word)
{
    int error[2], why = 0;
    pid_t parent = getpid();
    if (pipe2(error, O_CLOEXEC) != 0)
        return EBB_FAIL(EBB_EIO, "cannot make a pipe: %s", strerror(errno));
    job->pid = fork();
    if (job->pid == 0)
        become(word, parent, job->launched, error[1]);
    close(error[1]);
    ssize_t n = job->pid > 0 ? read(error[0], &why, sizeof why) : 0;
    close(error[0]);
    if (job->pid < 0)
        return EBB_FAIL(EBB_EIO, "cannot start a process: %s", strerror(errno));
    if (n != (ssize_t)sizeof why)
        return EBB_OK;
    waitpid(job->pid, NULL, 0);
    job->pid = 0;
    return EBB_FAIL(EBB_EUNAVAILABLE, "%s: cannot be started: %s", word[0], strerror(why));
}

ebb_status_t ebb_job_start(const ebb_job_plan_t *plan, ebb_job_t *job)
{
    words_t w = {0};
    ebb_tree_t tree = job->tree;
    *job = (ebb_job_t){.ranks = plan->ranks, .launched = plan->ranks > 1 || getenv("SLURM_JOB_ID"), .tree = tree};
    allow_more_ranks_than_cores(plan->ranks);
    ebb_status_t status = compose(plan, job->launched, &w);
    if (status == EBB_OK)
        status = spawn(job, w.word);
    words_free(&w);
    job->started_ns = job->looked_ns = ebb_now_ns();
    return status;
}

/* ---- watching ---- */

void ebb_job_collect(ebb_job_t *job)
{
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
        if (pid == job->pid) {
            job->ended = true;
            job->status = status;
        }
}

static bool is_rank(const ebb_job_t *job, const ebb_process_t *p)
{
    return job->launched ? p->pid != job->pid && ebb_process_is_rank(p->pid) : p->pid == job->pid;
}

/* Ranks of this machine, and how many of them are stopped or catch the signal of a pause. */
typedef struct census {
    int ranks, stopped, ready;
    bool launcher_stopped;
} census_t;

static census_t count(const ebb_job_t *job)
{
    census_t c = {0};
    for (int64_t i = 0; i < job->tree.n; i++) {
        const ebb_process_t *p = &job->tree.process[i];
        if (job->launched && p->pid == job->pid)
            c.launcher_stopped = p->state == 'T';
        if (!is_rank(job, p))
            continue;
        c.ranks++;
        c.stopped += p->state == 'T';
        c.ready += ebb_process_catches(p->pid, SIGUSR1);
    }
    return c;
}

static void signal_ranks(const ebb_job_t *job)
{
    for (int64_t i = 0; i < job->tree.n; i++) {
        const ebb_process_t *p = &job->tree.process[i];
        if (is_rank(job, p) && ebb_process_catches(p->pid, SIGUSR1))
            kill(p->pid, SIGUSR1);
    }
}

static void deliver_pause(ebb_job_t *job, const census_t *c, int64_t now)
{
    int64_t waited = now - job->asked_ns;
    if (c->ranks > 0 && c->ready > 0 && (c->ready == c->ranks || waited > READY_NS))
        signal_ranks(job);
    else if (job->launched && c->ranks == 0 && (job->up || waited > REMOTE_NS) &&
             ebb_process_catches(job->pid, SIGUSR1))
        kill(job->pid, SIGUSR1);
    else if (c->ranks > 0 && c->ready == 0 && waited > READY_NS)
        kill(job->pid, SIGTERM);
    else
        return;
    job->signalled = true;
}

static void condemn(ebb_job_t *job, const char *why)
{
    snprintf(job->fault, sizeof job->fault, "%s", why);
    ebb_job_kill(job);
}

/* Several ranks that are stopped all together were suspended by somebody who means to let them go on. */
static void judge(ebb_job_t *job, const census_t *c, int64_t now, double stopped_limit)
{
    bool suspended = c->ranks > 1 && c->stopped == c->ranks;
    bool halted = c->launcher_stopped || (c->stopped > 0 && !suspended);
    bool drained = job->launched && job->had_ranks && c->ranks == 0;
    job->halted_ns = !halted ? 0 : job->halted_ns ? job->halted_ns : now;
    job->empty_ns = !drained ? 0 : job->empty_ns ? job->empty_ns : now;
    job->had_ranks |= c->ranks > 0;
    double halted_s = halted ? (double)(now - job->halted_ns) * 1e-9 : 0;
    if (stopped_limit > 0 && halted_s > stopped_limit + (job->launched ? SLACK : 0))
        condemn(job, c->launcher_stopped ? "the launcher was stopped" : "a rank was stopped");
    else if (stopped_limit > 0 && job->launched && !job->had_ranks && !job->taken &&
             (double)(now - job->started_ns) * 1e-9 > PATIENT * stopped_limit)
        condemn(job, "the launcher hung before its ranks had begun");
    else if (drained && now - job->empty_ns > DRAINED_NS)
        condemn(job, "the launcher hung after its ranks had ended");
}

void ebb_job_look(ebb_job_t *job, double stopped_limit)
{
    int64_t now = ebb_now_ns();
    bool waiting = job->asked && !job->signalled;
    if (job->ended || (now - job->looked_ns < LOOK_NS && !waiting) || ebb_tree_read(&job->tree) != EBB_OK)
        return;
    if (now - job->looked_ns > GAP_NS)
        job->halted_ns = job->empty_ns = 0;
    job->looked_ns = now;
    census_t c = count(job);
    if (waiting)
        deliver_pause(job, &c, now);
    judge(job, &c, now, stopped_limit);
}

/* ---- the end ---- */

void ebb_job_pause(ebb_job_t *job)
{
    if (job->asked)
        return;
    job->asked = true;
    job->asked_ns = ebb_now_ns();
}

static int kill_ranks(ebb_job_t *job)
{
    int killed = 0;
    if (ebb_tree_read(&job->tree) != EBB_OK)
        ebb_error_clear();
    for (int64_t i = 0; i < job->tree.n; i++)
        if (is_rank(job, &job->tree.process[i]))
            killed += kill(job->tree.process[i].pid, SIGKILL) == 0;
    return killed;
}

static void wait_until(ebb_job_t *job, int64_t deadline_ns)
{
    const struct timespec pause = {.tv_nsec = 5000000};
    while (!job->ended && ebb_now_ns() < deadline_ns) {
        nanosleep(&pause, NULL);
        ebb_job_collect(job);
    }
}

/* A launcher whose ranks are gone leaves by itself; asked, it would give them a second, and asked while it leaves, it
 * may crash. */
static void end_launcher(ebb_job_t *job)
{
    kill(job->pid, SIGCONT);
    if (kill_ranks(job) > 0)
        wait_until(job, ebb_now_ns() + LEAVE_NS);
    if (!job->ended)
        kill(job->pid, SIGTERM);
    wait_until(job, ebb_now_ns() + TERM_NS);
}

void ebb_job_kill(ebb_job_t *job)
{
    if (job->pid <= 0)
        return;
    if (!job->ended && job->launched) {
        end_launcher(job);
    } else if (!job->ended) {
        kill(job->pid, SIGKILL);
        wait_until(job, ebb_now_ns() + TERM_NS);
    }
    if (!job->ended) {
        kill(job->pid, SIGKILL);
        if (waitpid(job->pid, &job->status, 0) == job->pid)
            job->ended = true;
    }
    int left = ebb_tree_kill(TERM_NS * 1e-9);
    if (left > 0)
        EBB_WARN("supervise", "%d processes cannot be killed: they wait for a device or a file system", left);
}

int ebb_job_code(const ebb_job_t *job)
{
    return WIFEXITED(job->status) ? WEXITSTATUS(job->status) : 128 + WTERMSIG(job->status);
}
