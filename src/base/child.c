/* Other programs: both of their outputs are read as they come, so that neither can block the other. */
#include "base/child.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

typedef struct child {
    pid_t pid;
    int pipe[2][2]; /* stdout, stderr: to read, to write */
} child_t;

/* In the child: never returns. */
static _Noreturn void become(char *const *word, char *const *environment, const child_t *c)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setpgid(0, 0);
    int null = open("/dev/null", O_RDONLY);
    dup2(null, STDIN_FILENO);
    dup2(c->pipe[0][1], STDOUT_FILENO);
    dup2(c->pipe[1][1], STDERR_FILENO);
    execvpe(word[0], word, environment ? environment : environ);
    _exit(127);
}

static ebb_status_t start(char *const *word, char *const *environment, child_t *c)
{
    if (pipe2(c->pipe[0], O_CLOEXEC) != 0)
        return EBB_FAIL(EBB_EIO, "cannot make a pipe: %s", strerror(errno));
    if (pipe2(c->pipe[1], O_CLOEXEC) != 0) {
        close(c->pipe[0][0]);
        close(c->pipe[0][1]);
        return EBB_FAIL(EBB_EIO, "cannot make a pipe: %s", strerror(errno));
    }
    c->pid = fork();
    if (c->pid == 0)
        become(word, environment, c);
    close(c->pipe[0][1]);
    close(c->pipe[1][1]);
    return c->pid > 0 ? EBB_OK : EBB_FAIL(EBB_EIO, "cannot start a process: %s", strerror(errno));
}

/* Until both outputs have ended; false when the time is up. */
static bool read_outputs(const child_t *c, int64_t deadline_ns, ebb_text_t *text[2])
{
    struct pollfd p[2] = {{.fd = c->pipe[0][0], .events = POLLIN}, {.fd = c->pipe[1][0], .events = POLLIN}};
    char part[4096];
    while (p[0].fd >= 0 || p[1].fd >= 0) {
        int64_t left_ms = (deadline_ns - ebb_now_ns()) / 1000000;
        if (left_ms <= 0)
            return false;
        if (poll(p, 2, (int)(left_ms < 1000 ? left_ms : 1000)) <= 0)
            continue;
        for (int i = 0; i < 2; i++) {
            if (!p[i].revents)
                continue;
            ssize_t n = read(p[i].fd, part, sizeof part);
            if (n > 0)
                ebb_text_append(text[i], part, (size_t)n);
            else if (n == 0 || errno != EINTR)
                p[i].fd = -1;
        }
    }
    return true;
}

ebb_status_t ebb_child_run(char *const *word, char *const *environment, double timeout_s, ebb_text_t *out,
                           ebb_text_t *err, int *code_p)
{
    child_t c;
    int status = 0;
    EBB_TRY(start(word, environment, &c));
    bool ended = read_outputs(&c, ebb_now_ns() + (int64_t)(timeout_s * 1e9), (ebb_text_t *[2]){out, err});
    if (!ended)
        kill(-c.pid, SIGKILL);
    while (waitpid(c.pid, &status, 0) < 0 && errno == EINTR)
        ;
    close(c.pipe[0][0]);
    close(c.pipe[1][0]);
    *code_p = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (!ended)
        return EBB_FAIL(EBB_EUNAVAILABLE, "%s: no answer within %.0f s", word[0], timeout_s);
    return out->failed || err->failed ? EBB_FAIL(EBB_ENOMEM, "out of memory: output of %s", word[0]) : EBB_OK;
}
