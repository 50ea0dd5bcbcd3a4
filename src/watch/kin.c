/* A rank that waits in MPI's start-up or end looks at its messages some thousand times a second and sleeps between: so
 * it is awake, but uses little of a processor and no disk. One that does no more than that stands still; one whose main
 * thread is not even woken sleeps. Reading is no measure: the threads that look here read, too. */
#include "watch/kin.h"
#include "base/alloc.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BUSY_PART = 5, /* 1 / so much of a processor is work */ ENV_BYTES = 1 << 18 /* of an environment */ };

static const char *const rank_names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"};
static const char *const size_names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"};

static int first_number(const char *const *name, size_t n, int none)
{
    for (size_t i = 0; i < n; i++)
        if (getenv(name[i]))
            return atoi(getenv(name[i]));
    return none;
}

int ebb_kin_own_rank(void)
{
    return first_number(rank_names, sizeof rank_names / sizeof *rank_names, -1);
}

int ebb_kin_job_size(void)
{
    return first_number(size_names, sizeof size_names / sizeof *size_names, 0);
}

/* ---- /proc ---- */

static ssize_t read_file(pid_t pid, const char *name, char *text, size_t size)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/%s", (long)pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = 0, got = 1;
    while (fd >= 0 && got > 0 && (size_t)n < size - 1) {
        got = read(fd, text + n, size - 1 - (size_t)n);
        n += got > 0 ? got : 0;
    }
    if (fd >= 0)
        close(fd);
    text[n] = 0;
    return n;
}

typedef struct stat_line {
    char state;
    pid_t parent;
    int64_t faults, ticks;
} stat_line_t;

/* The second field, in parentheses, may hold anything. */
static bool read_stat(pid_t pid, stat_line_t *s)
{
    char text[1024];
    long parent;
    unsigned long faults, user, system;
    read_file(pid, "stat", text, sizeof text);
    const char *end = strrchr(text, ')');
    if (!end || sscanf(end, ") %c %ld %*d %*d %*d %*d %*u %*u %*u %lu %*u %lu %lu", &s->state, &parent, &faults, &user,
                       &system) != 5)
        return false;
    s->parent = (pid_t)parent;
    s->faults = (int64_t)faults;
    s->ticks = (int64_t)(user + system);
    return s->state != 'Z' && s->state != 'X';
}

/* The number after a word; 0 without it. */
static int64_t number_after(const char *text, const char *word)
{
    const char *at = strstr(text, word);
    return at ? strtoll(at + strlen(word), NULL, 10) : 0;
}

/* Bytes moved to and from disks; voluntary and other switches of the main thread. */
static void read_counts(pid_t pid, int64_t *bytes_p, int64_t *switches_p)
{
    char text[4096];
    read_file(pid, "io", text, sizeof text);
    *bytes_p = number_after(text, "\nread_bytes: ") + number_after(text, "\nwrite_bytes: ");
    read_file(pid, "status", text, sizeof text);
    *switches_p =
        number_after(text, "\nvoluntary_ctxt_switches:") + number_after(text, "\nnonvoluntary_ctxt_switches:");
}

static int rank_in(const char *environment, ssize_t n)
{
    for (size_t i = 0; i < sizeof rank_names / sizeof *rank_names; i++) {
        size_t length = strlen(rank_names[i]);
        for (const char *at = environment; at < environment + n; at += strlen(at) + 1)
            if (strncmp(at, rank_names[i], length) == 0 && at[length] == '=')
                return atoi(at + length + 1);
    }
    return -1;
}

static int rank_of(pid_t pid)
{
    char *text;
    if (ebb_alloc("environment", ENV_BYTES, (void **)&text) != EBB_OK) {
        ebb_error_clear();
        return -1;
    }
    int rank = rank_in(text, read_file(pid, "environ", text, ENV_BYTES));
    ebb_free(text);
    return rank;
}

/* ---- the ranks ---- */

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
    stat_line_t s;
    while (proc && (d = readdir(proc))) {
        pid_t pid = (pid_t)atol(d->d_name);
        if (pid <= 0 || is_known(kin, pid) || !read_stat(pid, &s) || s.parent != getppid())
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

static void look_at(ebb_kin_rank_t *r, int64_t now, int64_t before)
{
    stat_line_t s;
    int64_t bytes, switches;
    if (!read_stat(r->pid, &s) || s.parent != getppid()) {
        set_state(r, true, false, now);
        return;
    }
    set_state(r, false, s.state == 'T' || s.state == 't', now);
    read_counts(r->pid, &bytes, &switches);
    int64_t used_ns = (s.ticks - r->cpu_ticks) * (1000000000 / sysconf(_SC_CLK_TCK));
    if (s.state == 'D' || s.faults != r->faults || bytes != r->bytes || used_ns * BUSY_PART > now - before)
        r->still_ns = now;
    if (switches != r->switches)
        r->asleep_ns = now;
    r->cpu_ticks = s.ticks;
    r->faults = s.faults;
    r->bytes = bytes;
    r->switches = switches;
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
 * hangs within its call; where all do the same, the first stands for all. */
static bool stands_still(const ebb_kin_t *kin, int64_t now, int64_t limit, int *rank_p)
{
    int sleeper = -1, first = -1;
    bool awake = false;
    for (int64_t i = 0; i < kin->n; i++) {
        const ebb_kin_rank_t *r = &kin->rank[i];
        if (r->gone)
            continue;
        if (now - r->still_ns < limit)
            return false;
        first = first < 0 ? r->rank : first;
        if (now - r->asleep_ns >= limit)
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
