/* A keeper: starts one command, once; is the reaper of everything that descends from it; hands on what the agent asks;
 * writes down how it ended. It has one thread, no database and no network, so that little can go wrong with it. If it
 * is killed the command is killed with it by the kernel, and the next agent ends what else is left. */
#include "jobs/keeper.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/lock.h"
#include "jobs/freezer.h"
#include "jobs/process.h"
#include "supervise/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define KILL_SECONDS 10.0
#define FREEZE_LOOKS 100 /* until no process is found that runs */

typedef struct keeper {
    const char *folder;
    int64_t attempt;
    json_t *start;
    char **word, **environment;
    bool group; /* signals are for all processes of the command's group; else for the first one, which hands them on */
    pid_t child;
    ebb_freezer_t freezer;
    bool told; /* to stop: once, since a second signal would end a run without a checkpoint */
    int lock_fd;
} keeper_t;

bool ebb_keeper_claim(const char *folder, int64_t attempt, pid_t pid)
{
    char path[PATH_MAX], text[64];
    snprintf(path, sizeof path, "%s/begun-%lld", folder, (long long)attempt);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return false;
    int n = pid > 0 ? snprintf(text, sizeof text, "keeper %ld\n", (long)pid) : 0;
    bool good = write(fd, text, (size_t)n) == n && fsync(fd) == 0;
    close(fd);
    int folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    good = folder_fd >= 0 && fsync(folder_fd) == 0 && good;
    if (folder_fd >= 0)
        close(folder_fd);
    return good;
}

/* ---- the command ---- */

static ebb_status_t words(const json_t *list, char ***word_p)
{
    size_t n = json_array_size(list);
    EBB_TRY(EBB_NEW_ARRAY("words", n + 1, word_p));
    for (size_t i = 0; i < n; i++)
        if (!((*word_p)[i] = (char *)json_string_value(json_array_get(list, i))))
            return EBB_FAIL(EBB_EDATA, "a word of a start is no text");
    return EBB_OK;
}

static ebb_status_t read_start(keeper_t *k)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/start-%lld.json", k->folder, (long long)k->attempt);
    EBB_TRY(ebb_json_load(path, &k->start));
    EBB_TRY(words(json_object_get(k->start, "command"), &k->word));
    EBB_TRY(words(json_object_get(k->start, "environment"), &k->environment));
    k->group = json_is_true(json_object_get(k->start, "group"));
    bool whole = k->word[0] && json_string_value(json_object_get(k->start, "folder"));
    return whole ? EBB_OK : EBB_FAIL(EBB_EDATA, "%s: not a start of a job", path);
}

/* Everything that is printed, also by the keeper, goes to the log. */
static ebb_status_t redirect(const keeper_t *k)
{
    char path[PATH_MAX];
    int log, null;
    snprintf(path, sizeof path, "%s/log", k->folder);
    EBB_TRY(ebb_file_open(path, O_WRONLY | O_CREAT | O_APPEND, 0600, &log));
    EBB_TRY(ebb_file_open("/dev/null", O_RDONLY, 0, &null));
    dup2(null, STDIN_FILENO);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    close(null);
    close(log);
    return EBB_OK;
}

static _Noreturn void become(const keeper_t *k, pid_t parent)
{
    const char *folder = json_string_value(json_object_get(k->start, "folder"));
    sigset_t none;
    sigemptyset(&none);
    setpgid(0, 0);
    ebb_freezer_enter(&k->freezer);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (getppid() != parent)
        _exit(126);
    if (chdir(folder) != 0) {
        fprintf(stderr, "ebb: %s: %s\n", folder, strerror(errno));
        _exit(126);
    }
    execvpe(k->word[0], k->word, k->environment);
    fprintf(stderr, "ebb: %s: cannot be started: %s\n", k->word[0], strerror(errno));
    _exit(errno == ENOENT ? 127 : 126);
}

static void signals(sigset_t *set)
{
    static const int numbers[] = {EBB_KEEPER_STOP, EBB_KEEPER_KILL, EBB_KEEPER_FREEZE, EBB_KEEPER_THAW, SIGCHLD,
                                  SIGHUP,          SIGINT};
    sigemptyset(set);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        sigaddset(set, numbers[i]);
}

/* ---- while it runs ---- */

/* Processes may be born while others are stopped: look again until all of them are. */
static void signal_all(bool frozen)
{
    const struct timespec pause = {.tv_nsec = 2000000};
    ebb_tree_t tree = {0};
    int64_t running = 1;
    for (int look = 0; look < FREEZE_LOOKS && running > 0; look++) {
        running = 0;
        if (ebb_tree_read(&tree) != EBB_OK)
            break;
        for (int64_t i = 0; i < tree.n; i++) {
            bool stopped = tree.process[i].state == 'T' || tree.process[i].state == 'Z';
            if (stopped != frozen || look == 0) {
                kill(tree.process[i].pid, frozen ? SIGSTOP : SIGCONT);
                running += tree.process[i].state != 'Z';
            }
        }
        nanosleep(&pause, NULL);
    }
    ebb_tree_free(&tree);
    ebb_error_clear();
}

/* What was stopped by signals goes on by signals, whatever the freezer can do by then. */
static void set_frozen(const keeper_t *k, bool frozen)
{
    bool done = ebb_freezer_set(&k->freezer, frozen);
    if (!frozen || !done)
        signal_all(frozen);
}

/* True once the command has ended. */
static bool collect(const keeper_t *k, int *status_p)
{
    bool over = false;
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
        if (pid == k->child) {
            *status_p = status;
            over = true;
        }
    return over;
}

static void obey(keeper_t *k, int number)
{
    switch (number) {
    case EBB_KEEPER_FREEZE: set_frozen(k, true); break;
    case EBB_KEEPER_THAW: set_frozen(k, false); break;
    case EBB_KEEPER_KILL: ebb_tree_kill(KILL_SECONDS); break;
    case EBB_KEEPER_STOP:
        set_frozen(k, false);
        if (!k->told)
            kill(k->group ? -k->child : k->child, SIGTERM);
        k->told = true;
        break;
    default: break; /* SIGINT and SIGHUP of a terminal are not for jobs */
    }
}

/* ebb_tree_kill collects the command as well: it is then gone, and its status with it. */
static int wait_for(keeper_t *k)
{
    sigset_t set;
    int status = SIGKILL;
    signals(&set);
    while (!collect(k, &status)) {
        if (kill(k->child, 0) != 0 && errno == ESRCH)
            break;
        int number = sigwaitinfo(&set, NULL);
        if (number > 0 && number != SIGCHLD)
            obey(k, number);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static ebb_status_t write_end(const keeper_t *k, int code)
{
    char path[PATH_MAX], text[128];
    int n = snprintf(text, sizeof text, "{\"code\": %d, \"time\": %.3f}\n", code, ebb_wall_seconds());
    snprintf(path, sizeof path, "%s/end-%lld.json", k->folder, (long long)k->attempt);
    return ebb_file_replace(path, text, (size_t)n);
}

static ebb_status_t start(keeper_t *k)
{
    pid_t parent = getpid();
    fflush(NULL);
    k->child = fork();
    if (k->child == 0)
        become(k, parent);
    if (k->child < 0)
        return EBB_FAIL(EBB_EIO, "cannot start a process: %s", strerror(errno));
    setpgid(k->child, k->child);
    return EBB_OK;
}

/* Somebody has removed the state folder: nobody is left to read an end, and what is there by now is another's. */
static bool is_forgotten(const keeper_t *k)
{
    struct stat s;
    return (fstat(k->lock_fd, &s) == 0 && s.st_nlink == 0) || (stat(k->folder, &s) != 0 && errno == ENOENT);
}

/* Once the attempt is claimed an end must be written, whatever happens; a full disk is waited for. */
static void keep(keeper_t *k)
{
    ebb_freezer_create(&k->freezer);
    int code = start(k) == EBB_OK ? wait_for(k) : 71;
    ebb_tree_kill(KILL_SECONDS);
    ebb_freezer_destroy(&k->freezer);
    while (!is_forgotten(k) && write_end(k, code) != EBB_OK) {
        fprintf(stderr, "ebb: %s\n", ebb_error()->message);
        ebb_error_clear();
        sleep(1);
    }
}

ebb_status_t ebb_keep_job(const char *folder, int64_t attempt)
{
    keeper_t k = {.folder = folder, .attempt = attempt, .lock_fd = -1};
    sigset_t set;
    signals(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    ebb_status_t status = redirect(&k);
    if (status == EBB_OK)
        status = ebb_folder_lock(folder, EBB_KEEPER_LOCK, &k.lock_fd);
    if (status == EBB_OK)
        status = read_start(&k);
    if (status == EBB_OK && ebb_keeper_claim(folder, attempt, getpid()))
        keep(&k);
    ebb_free(k.word);
    ebb_free(k.environment);
    json_decref(k.start);
    if (k.lock_fd >= 0)
        close(k.lock_fd);
    return status;
}
