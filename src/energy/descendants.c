/* Processor time of a tree of processes, from /proc: a process's own and that of the children it has waited for, and so
 * on down. The kernel lists the children of every thread, so that only the tree is looked at. */
#include <ebb/energy.h>
#include "base/proc.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { DEEPEST = 64 }; /* a tree that changes while it is walked cannot lead in circles */

static double own_seconds(long pid)
{
    ebb_proc_stat_t stat;
    return ebb_proc_stat((pid_t)pid, &stat) ? (double)(stat.ticks + stat.child_ticks) / (double)sysconf(_SC_CLK_TCK)
                                            : 0;
}

static double tree_seconds(long pid, bool self, int depth);

static double children_of_task(const char *pid, const char *task, int depth)
{
    char path[96], text[16384], *at = text;
    double sum = 0;
    snprintf(path, sizeof path, "/proc/%.20s/task/%.20s/children", pid, task);
    (void)ebb_proc_read(path, text, sizeof text);
    for (char *end; *at; at = end) {
        long child = strtol(at, &end, 10);
        if (end == at)
            break;
        sum += tree_seconds(child, true, depth + 1);
    }
    return sum;
}

static double tree_seconds(long pid, bool self, int depth)
{
    char path[64], number[24];
    double sum = self ? own_seconds(pid) : 0;
    struct dirent *d;
    snprintf(number, sizeof number, "%ld", pid);
    snprintf(path, sizeof path, "/proc/%ld/task", pid);
    DIR *tasks = depth < DEEPEST ? opendir(path) : NULL;
    while (tasks && (d = readdir(tasks)))
        if (d->d_name[0] != '.')
            sum += children_of_task(number, d->d_name, depth);
    if (tasks)
        closedir(tasks);
    return sum;
}

double ebb_energy_descendants(void *user)
{
    struct rusage u;
    getrusage(RUSAGE_CHILDREN, &u);
    return tree_seconds(getpid(), false, 0) + (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

double ebb_energy_pids(void *user)
{
    ebb_pids_t *p = user;
    double sum = 0;
    for (int i = 0; i < p->n; i++) {
        clockid_t clock;
        struct timespec t;
        if (clock_getcpuclockid((pid_t)p->pid[i], &clock) == 0 && clock_gettime(clock, &t) == 0)
            p->seen[i] = fmax(p->seen[i], (double)t.tv_sec + 1e-9 * (double)t.tv_nsec);
        sum += p->seen[i];
    }
    return sum;
}
