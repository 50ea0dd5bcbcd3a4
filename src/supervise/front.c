/* The outer of the two processes: takes the signals, hands them to the supervising child, and waits for it.
 *
 * Both are subreapers, so that whatever a job leaves behind becomes a child of one of them, whichever is killed: the
 * child sees its parent's end in a pipe, ends the job and cleans up; the parent collects a child that was killed and
 * does the same. Killed together, the job's launcher is told by the kernel (PR_SET_PDEATHSIG), which also frees what
 * was in shared memory (place.c). */
#include <ebb/supervise.h>
#include "base/file.h"
#include "base/lock.h"
#include "supervise/channel.h"
#include "supervise/loop.h"
#include "supervise/place.h"
#include "supervise/state.h"
#include "supervise/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LOCK_TRIES   10 /* tenths of a second: `ebb scale` looks at the lock by taking it for a moment */
#define KILL_SECONDS 5.0

typedef struct front {
    const ebb_supervise_options_t *options;
    ebb_place_t place;
    int lock_fd, parent[2]; /* parent: a pipe that ends with this process */
    pid_t child;
    sigset_t before;
} front_t;

static ebb_status_t lock_folder(front_t *f)
{
    const struct timespec pause = {.tv_nsec = 100000000};
    ebb_status_t status = EBB_OK;
    for (int i = 0; i < LOCK_TRIES; i++) {
        ebb_error_clear();
        status = ebb_folder_lock(f->options->folder, EBB_SUPERVISE_LOCK, &f->lock_fd);
        if (status != EBB_EUSAGE)
            break;
        nanosleep(&pause, NULL);
    }
    return status;
}

/* Ranks on other machines do not have the folder. */
static bool is_one_machine(const char *launcher)
{
    const char *nodes = getenv("SLURM_JOB_NUM_NODES");
    return (!nodes || atoi(nodes) == 1) && !strstr(launcher, "host");
}

static _Noreturn void supervise(front_t *f)
{
    close(f->parent[1]);
    setpgid(0, 0);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    int code = ebb_supervise_loop(f->options, f->parent[0]);
    ebb_place_remove(&f->place);
    _exit(code);
}

static ebb_status_t start_child(front_t *f)
{
    if (pipe2(f->parent, O_CLOEXEC) != 0)
        return EBB_FAIL(EBB_EIO, "cannot make a pipe: %s", strerror(errno));
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    f->child = fork();
    if (f->child == 0)
        supervise(f);
    close(f->parent[0]);
    return f->child > 0 ? EBB_OK : EBB_FAIL(EBB_EIO, "cannot start a process: %s", strerror(errno));
}

/* Collect what has ended; true once the child has. */
static bool collect(const front_t *f, int *status_p)
{
    bool over = false;
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
        if (pid == f->child) {
            *status_p = status;
            over = true;
        }
    return over;
}

static int wait_for_child(const front_t *f)
{
    sigset_t set;
    int status = 0;
    ebb_supervise_signals(&set);
    while (!collect(f, &status)) {
        int number = sigwaitinfo(&set, NULL);
        if (number > 0 && number != SIGCHLD)
            kill(f->child, number);
    }
    return status;
}

static ebb_status_t clean_up_after(front_t *f, int status)
{
    ebb_supervisor_state_t state;
    int left = ebb_tree_kill(KILL_SECONDS);
    if (ebb_state_open(f->options, &state) == EBB_OK) {
        ebb_state_record(&state, EBB_EPEER, "the supervisor was killed");
        ebb_state_set(&state, "failed", 0);
        ebb_state_close(&state);
    }
    ebb_error_clear();
    return EBB_FAIL(EBB_EUNAVAILABLE,
                    "%s: the supervising process died of SIG%s; its ranks were ended%s; the same command goes on",
                    f->options->name, sigabbrev_np(WTERMSIG(status)), left ? ", but for some that hang" : "");
}

ebb_status_t ebb_supervise(const ebb_supervise_options_t *options, int *exit_code_p)
{
    front_t f = {.options = options, .lock_fd = -1, .place = {.mount_fd = -1, .lock_fd = -1}, .parent = {-1, -1}};
    sigset_t set;
    ebb_supervise_signals(&set);
    sigprocmask(SIG_BLOCK, &set, &f.before);
    ebb_status_t status = ebb_file_mkdirs(options->folder);
    if (status == EBB_OK)
        status = lock_folder(&f);
    if (status == EBB_OK)
        status = ebb_place_make(&f.place);
    if (status == EBB_OK && is_one_machine(options->launcher))
        status = ebb_place_use(&f.place);
    if (status == EBB_OK)
        status = start_child(&f);
    if (status == EBB_OK) {
        int ended = wait_for_child(&f);
        *exit_code_p = WIFEXITED(ended) ? WEXITSTATUS(ended) : 0;
        if (WIFSIGNALED(ended))
            status = clean_up_after(&f, ended);
    }
    sigprocmask(SIG_SETMASK, &f.before, NULL);
    if (f.parent[1] >= 0)
        close(f.parent[1]);
    ebb_place_remove(&f.place);
    if (f.lock_fd >= 0)
        close(f.lock_fd);
    return status;
}
