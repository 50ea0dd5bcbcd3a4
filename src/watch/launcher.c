/* Open MPI's launcher after a host was lost: told to end the job, mpirun waits for an answer of its daemon on that
 * host, and that daemon for one of mpirun, for as long as TCP tries, some fifteen minutes. And where ranks end within
 * MPI_Finalize, mpirun 4.1 may wait for ever in PMIx_server_finalize, for a lock that it holds. So each side ends its
 * own once the ranks are gone, by a process of its own that outlives them by seconds. Between fork and _exit that
 * process only makes system calls and reads /proc: the other threads' locks may be held for ever.
 */
#include "watch/launcher.h"
#include "base/proc.h"

#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { ANCESTORS = 4, TERM_MS = 2100, KILL_MS = 400 };

typedef struct process {
    pid_t pid;
    ebb_proc_stat_t stat;
} process_t;

static bool look(pid_t pid, process_t *p)
{
    p->pid = pid;
    return ebb_proc_stat(pid, &p->stat);
}

static bool is_one_of(const process_t *p, const char *const *name)
{
    while (*name && strcmp(p->stat.name, *name) != 0)
        name++;
    return *name != NULL;
}

static bool is_daemon(const process_t *p)
{
    static const char *const names[] = {"orted", "prted", NULL};
    return is_one_of(p, names);
}

static bool is_launcher(const process_t *p)
{
    static const char *const names[] = {"mpirun", "mpiexec", "orterun", "prterun", NULL};
    return is_one_of(p, names) || is_daemon(p);
}

/* Shells may stand between it and the rank. */
static bool find_launcher(process_t *p)
{
    pid_t pid = getppid();
    for (int i = 0; i < ANCESTORS && pid > 1 && look(pid, p); i++) {
        if (is_launcher(p))
            return true;
        pid = p->stat.parent;
    }
    return false;
}

static void send_if_alive(const process_t *launcher, int ms, int number)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
    process_t now;
    (void)nanosleep(&t, NULL);
    if (look(launcher->pid, &now) && now.stat.started == launcher->stat.started)
        (void)kill(launcher->pid, number);
}

void ebb_watch_end_launcher(void)
{
    process_t launcher;
    if (!find_launcher(&launcher) || fork() != 0)
        return;
    setsid();
    for (int fd = 0; fd < 4096; fd++) /* connections and locks of the rank must end with it */
        close(fd);
    send_if_alive(&launcher, TERM_MS,
                  is_daemon(&launcher) ? SIGTERM : 0); /* mpirun is ending already, and would crash */
    send_if_alive(&launcher, KILL_MS, SIGKILL);
    _exit(0);
}
