/* Descendants by the parents that /proc names. Processes come and go while it is read: whoever needs certainty reads
 * again, as ebb_tree_kill does until there is nothing left. */
#include "supervise/tree.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/proc.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static ebb_status_t read_all(ebb_tree_t *t)
{
    DIR *proc = opendir("/proc");
    ebb_status_t status = EBB_OK;
    t->n = 0;
    if (!proc)
        return EBB_FAIL(EBB_EUNAVAILABLE, "/proc cannot be read: the processes of a run cannot be watched");
    for (struct dirent *d; status == EBB_OK && (d = readdir(proc));) {
        ebb_proc_stat_t stat;
        pid_t pid = (pid_t)atol(d->d_name);
        if (d->d_name[0] < '0' || d->d_name[0] > '9' || !ebb_proc_stat(pid, &stat))
            continue;
        status = ebb_grow("processes", (void **)&t->process, &t->capacity, t->n + 1, sizeof *t->process);
        if (status == EBB_OK)
            t->process[t->n++] = (ebb_process_t){pid, stat.parent, stat.state};
    }
    closedir(proc);
    return status;
}

static void swap(ebb_process_t *a, ebb_process_t *b)
{
    ebb_process_t old = *a;
    *a = *b;
    *b = old;
}

ebb_status_t ebb_tree_read(ebb_tree_t *t)
{
    EBB_TRY(read_all(t));
    int64_t kept = 0, below = 0; /* process[0 .. kept) descend from this one; children of [0 .. below) are among them */
    for (pid_t parent = getpid();; parent = t->process[below++].pid) {
        for (int64_t i = kept; i < t->n; i++)
            if (t->process[i].parent == parent)
                swap(&t->process[i], &t->process[kept++]);
        if (below == kept)
            break;
    }
    t->n = 0;
    for (int64_t i = 0; i < kept; i++)
        if (t->process[i].state != 'Z' && t->process[i].state != 'X')
            t->process[t->n++] = t->process[i];
    return EBB_OK;
}

void ebb_tree_free(ebb_tree_t *t)
{
    ebb_free(t->process);
    *t = (ebb_tree_t){0};
}

bool ebb_process_is_rank(pid_t pid)
{
    size_t bytes;
    char *environment = ebb_proc_environment(pid, &bytes);
    bool found = environment && (ebb_proc_variable(environment, bytes, "OMPI_COMM_WORLD_RANK") ||
                                 ebb_proc_variable(environment, bytes, "PMIX_RANK") ||
                                 ebb_proc_variable(environment, bytes, "PMI_RANK"));
    ebb_free(environment);
    return found;
}

bool ebb_process_catches(pid_t pid, int number)
{
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    (void)ebb_proc_read(path, text, sizeof text);
    const char *line = strstr(text, "\nSigCgt:");
    return line && strtoull(line + strlen("\nSigCgt:"), NULL, 16) >> (number - 1) & 1;
}

static void collect(void)
{
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
}

int ebb_tree_kill(double seconds)
{
    ebb_tree_t tree = {0};
    int64_t deadline = ebb_now_ns() + (int64_t)(seconds * 1e9);
    const struct timespec pause = {.tv_nsec = 5000000};
    for (;;) {
        collect();
        if (ebb_tree_read(&tree) != EBB_OK || tree.n == 0 || ebb_now_ns() > deadline)
            break;
        for (int64_t i = 0; i < tree.n; i++)
            kill(tree.process[i].pid, SIGKILL);
        nanosleep(&pause, NULL);
    }
    int left = (int)tree.n;
    ebb_tree_free(&tree);
    return left;
}
