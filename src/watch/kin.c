/* A rank that waits in MPI's start-up or end looks at its messages some thousand times a second and sleeps between: so
 * it is awake, but uses little of a processor and no disk. One that does no more than that stands still; one whose main
 * thread is not even woken sleeps. Reading is no measure: the threads that look here read, too. */
#include "watch/kin.h"
#include "base/alloc.h"
#include "base/proc.h"
#include "comm/transport.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUSY_PART 5       /* 1 / so much of a processor, used or waited for, is work */
#define RUN_NS    1000000 /* whoever uses as much between two sleeps would not sleep, had it the processor */
#define GLANCE_NS 100000  /* whoever uses less between two sleeps looks at messages */

static const char *const size_names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", NULL};

int ebb_kin_job_size(void)
{
    for (const char *const *name = size_names; *name; name++)
        if (getenv(*name))
            return atoi(getenv(*name));
    return 0;
}

/* ---- /proc ---- */

static void read_counts(pid_t pid, const ebb_proc_stat_t *s, ebb_kin_counts_t *c)
{
    char path[64], text[4096], *end = text;
    *c = (ebb_kin_counts_t){.used_ns = s->ticks * (1000000000 / sysconf(_SC_CLK_TCK)), .faults = s->faults};
    snprintf(path, sizeof path, "/proc/%ld/io", (long)pid);
    (void)ebb_proc_read(path, text, sizeof text);
    c->bytes = ebb_proc_number(text, "\nread_bytes: ") + ebb_proc_number(text, "\nwrite_bytes: ");
    ebb_proc_switches(pid, &c->sleeps, &c->switches);
    snprintf(path, sizeof path, "/proc/%ld/schedstat", (long)pid);
    (void)ebb_proc_read(path, text, sizeof text);
    c->main_ns = strtoll(text, &end, 10);
    c->queued_ns = strtoll(end, NULL, 10);
}

static int rank_of(pid_t pid)
{
    size_t bytes;
    char *environment = ebb_proc_environment(pid, &bytes);
    const char *rank = NULL;
    for (const char *const *name = ebb_comm_rank_names; environment && !rank && *name; name++)
        rank = ebb_proc_variable(environment, bytes, *name);
    int number = rank ? atoi(rank) : -1;
    ebb_free(environment);
    return number;
}

/* ---- the ranks ---- */

/* Does it live, below our parent? */
static bool is_kin(pid_t pid, ebb_proc_stat_t *s)
{
    return ebb_proc_stat(pid, s) && s->state != 'Z' && s->state != 'X' && s->parent == getppid();
}

static bool is_known(const ebb_kin_t *kin, pid_t pid)
{
    for (int64_t i = 0; i < kin->n; i++)
        if (kin->rank[i].pid == pid)
            return true;
    return false;
}

static void add(ebb_kin_t *kin, pid_t pid, int rank, int64_t now)
{
    ebb_kin_rank_t new = {.pid = pid, .rank = rank, .changed_ns = now, .still_ns = now, .asleep_ns = now};
    int64_t at = kin->n;
    if (ebb_grow("ranks", (void **)&kin->rank, &kin->capacity, kin->n + 1, sizeof *kin->rank) != EBB_OK) {
        ebb_error_clear();
        return;
    }
    for (; at > 0 && kin->rank[at - 1].rank > rank; at--)
        kin->rank[at] = kin->rank[at - 1];
    kin->rank[at] = new;
    kin->n++;
}

static void find_new(ebb_kin_t *kin, int64_t now)
{
    DIR *proc = opendir("/proc");
    struct dirent *d;
    ebb_proc_stat_t s;
    while (proc && (d = readdir(proc))) {
        pid_t pid = (pid_t)atol(d->d_name);
        if (pid <= 0 || is_known(kin, pid) || !is_kin(pid, &s))
            continue;
        int rank = rank_of(pid);
        if (rank >= 0)
            add(kin, pid, rank, now);
    }
    if (proc)
        closedir(proc);
}

static void set_state(ebb_kin_rank_t *r, bool gone, bool stopped, int64_t now)
{
    if (r->gone != gone || r->stopped != stopped)
        r->changed_ns = now;
    r->gone = gone;
    r->stopped = stopped;
}

/* Did it do anything since, within ns, but look at its messages? How long its main thread runs between two sleeps tells
 * looking, which may add up to a good part of a processor, from work; and where it has to wait for a processor, so does
 * a rank that only wants to look. */
static bool worked(const ebb_kin_counts_t *c, const ebb_kin_counts_t *since, char state, int64_t ns)
{
    int64_t busy_ns = c->used_ns - since->used_ns, main_ns = c->main_ns - since->main_ns,
            sleeps = c->sleeps - since->sleeps;
    if (main_ns < sleeps * GLANCE_NS)
        busy_ns -= main_ns;
    if (main_ns >= sleeps * RUN_NS)
        busy_ns += c->queued_ns - since->queued_ns;
    return state == 'D' || c->faults != since->faults || c->bytes != since->bytes || busy_ns * BUSY_PART > ns ||
           (state == 'R' && c->switches == since->switches);
}

static void look_at(ebb_kin_rank_t *r, int64_t now, int64_t before)
{
    ebb_proc_stat_t s;
    ebb_kin_counts_t c;
    if (!is_kin(r->pid, &s)) {
        set_state(r, true, false, now);
        return;
    }
    set_state(r, false, s.state == 'T' || s.state == 't', now);
    read_counts(r->pid, &s, &c);
    if (worked(&c, &r->seen, s.state, now - before))
        r->still_ns = now;
    if (c.switches != r->seen.switches)
        r->asleep_ns = now;
    r->seen = c;
}

void ebb_kin_look(ebb_kin_t *kin, int64_t now_ns)
{
    if (kin->size == 0 || kin->n < kin->size)
        find_new(kin, now_ns);
    for (int64_t i = 0; i < kin->n; i++)
        look_at(&kin->rank[i], now_ns, kin->looked_ns);
    kin->looked_ns = now_ns;
}

void ebb_kin_excuse(ebb_kin_t *kin, int64_t ns)
{
    kin->looked_ns += ns;
    for (int64_t i = 0; i < kin->n; i++) {
        kin->rank[i].changed_ns += ns;
        kin->rank[i].still_ns += ns;
        kin->rank[i].asleep_ns += ns;
    }
}

/* All ranks of the job are here, and none does anything but wait. Whoever sleeps while others look at their messages
 * hangs within its call, if it began to sleep somewhat later than it ceased to work; where all do the same, the first
 * stands for all. One that has just gone is news: the launcher may be ending the others. */
static bool stands_still(const ebb_kin_t *kin, int64_t now, int64_t limit, int *rank_p)
{
    int sleeper = -1, first = -1;
    bool awake = false;
    for (int64_t i = 0; i < kin->n; i++) {
        const ebb_kin_rank_t *r = &kin->rank[i];
        if (now - r->changed_ns < limit)
            return false;
        if (r->gone)
            continue;
        if (now - r->still_ns < limit)
            return false;
        first = first < 0 ? r->rank : first;
        if (now - r->asleep_ns >= limit / 2)
            sleeper = sleeper < 0 ? r->rank : sleeper;
        else
            awake = true;
    }
    *rank_p = sleeper >= 0 && awake ? sleeper : first;
    return first >= 0 && kin->size > 0 && kin->n == kin->size;
}

ebb_watch_cause_t ebb_kin_judge(const ebb_kin_t *kin, bool leaving, int64_t now_ns, int64_t limit_ns, int *rank_p)
{
    for (int64_t i = 0; i < kin->n; i++) {
        const ebb_kin_rank_t *r = &kin->rank[i];
        *rank_p = r->rank;
        if (now_ns - r->changed_ns < limit_ns)
            continue;
        if (r->gone && !leaving)
            return EBB_WATCH_LOST;
        if (r->stopped)
            return EBB_WATCH_SILENT;
    }
    return stands_still(kin, now_ns, limit_ns, rank_p) ? EBB_WATCH_STALLED : EBB_WATCH_FINE;
}

int ebb_kin_lowest(const ebb_kin_t *kin)
{
    for (int64_t i = 0; i < kin->n; i++)
        if (!kin->rank[i].gone && !kin->rank[i].stopped)
            return kin->rank[i].rank;
    return -1;
}

const ebb_kin_rank_t *ebb_kin_find(const ebb_kin_t *kin, int rank)
{
    for (int64_t i = 0; i < kin->n; i++)
        if (kin->rank[i].rank == rank)
            return &kin->rank[i];
    return NULL;
}

void ebb_kin_free(ebb_kin_t *kin)
{
    ebb_free(kin->rank);
    *kin = (ebb_kin_t){0};
}
