/* A rank's own state, looked at once a second by its watching thread. */
#include "watch/self.h"
#include "base/proc.h"
#include "base/pulse.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define SECOND      ((int64_t)1000000000)
#define BUSY_PPM    20000 /* 2 % of a core: far above what watching takes */
#define STEPS_KNOWN 3     /* steps after which it is known how long they take */
#define LEARNT      10    /* times the longest standstill so far is no delay any more */

static int64_t cpu_used(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return ((int64_t)u.ru_utime.tv_sec + u.ru_stime.tv_sec) * SECOND + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000;
}

static int64_t main_switches(void)
{
    int64_t sleeps, switches;
    ebb_proc_switches(getpid(), &sleeps, &switches);
    return switches;
}

static bool task_waits_for_disk(const char *task)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/self/task/%.16s/stat", task);
    (void)ebb_proc_read(path, text, sizeof text);
    const char *name_end = strrchr(text, ')');
    return name_end && strncmp(name_end, ") D", 3) == 0;
}

/* Is a thread in uninterruptible sleep, as in fsync? */
static bool waits_for_disk(void)
{
    DIR *tasks = opendir("/proc/self/task");
    struct dirent *d;
    bool found = false;
    while (tasks && !found && (d = readdir(tasks)))
        found = task_waits_for_disk(d->d_name);
    if (tasks)
        closedir(tasks);
    return found;
}

void ebb_watch_self_begin(ebb_watch_self_t *self, int64_t now_ns)
{
    ebb_pulse_t pulse = ebb_pulse();
    int64_t cpu = cpu_used();
    *self = (ebb_watch_self_t){.ticks = pulse.ticks,
                               .cpu_ns = cpu,
                               .switches = main_switches(),
                               .spin_cpu_ns = cpu,
                               .looked_ns = now_ns,
                               .busy_ns = now_ns,
                               .progress_ns = now_ns};
}

void ebb_watch_self_excuse(ebb_watch_self_t *self, int64_t ns)
{
    self->looked_ns += ns;
    self->busy_ns += ns;
    self->progress_ns += ns;
}

static uint32_t milliseconds(int64_t ns)
{
    return ns > 0 ? (uint32_t)(ns / 1000000) : 0;
}

/* How many times the limit this rank may be busy without progress: as earlier steps teach, once it has used so much
 * processor time since it was last seen to wait for a disk. Nothing else is held against it: disks and crowded machines
 * are slow when they please. */
static int32_t patience(const ebb_watch_self_t *self, const ebb_pulse_t *pulse, int64_t limit_ns)
{
    int64_t times = (LEARNT * self->longest_ns + limit_ns - 1) / limit_ns;
    bool known = pulse->steady && !pulse->waiting && pulse->done >= STEPS_KNOWN;
    times = times > 1 ? times : 1;
    bool spins = known && times < EBB_WATCH_PATIENT && self->cpu_ns - self->spin_cpu_ns >= times * limit_ns;
    return spins ? (int32_t)times : EBB_WATCH_PATIENT;
}

static void note_progress(ebb_watch_self_t *self, int64_t now_ns)
{
    int64_t still = self->steady ? self->looked_ns - self->progress_ns : 0;
    self->longest_ns = still > self->longest_ns ? still : self->longest_ns;
    self->busy_ns = self->progress_ns = now_ns;
    self->spin_cpu_ns = self->cpu_ns;
}

/* Nothing has gone on since the look before; but the rank may have been busy. */
static void note_standstill(ebb_watch_self_t *self, bool worked, int64_t now_ns)
{
    bool disk = waits_for_disk();
    if (disk)
        self->spin_cpu_ns = self->cpu_ns;
    if (worked || (disk && now_ns - self->busy_ns > SECOND))
        self->busy_ns = now_ns;
}

/* Whoever waits for others looks for their messages now and then: of a crowded machine it may get little for that. */
static bool works(ebb_watch_self_t *self, bool waiting, int64_t now_ns)
{
    int64_t cpu = cpu_used(), switches = main_switches();
    bool used = (cpu - self->cpu_ns) * (1000000 / BUSY_PPM) > now_ns - self->looked_ns;
    bool awake = waiting && switches != self->switches;
    self->cpu_ns = cpu;
    self->switches = switches;
    return used || awake;
}

void ebb_watch_self_look(ebb_watch_self_t *self, int rank, int64_t now_ns, int64_t limit_ns, ebb_watch_message_t *beat)
{
    ebb_pulse_t pulse = ebb_pulse();
    bool worked = works(self, pulse.waiting, now_ns);
    if (pulse.ticks != self->ticks)
        note_progress(self, now_ns);
    else
        note_standstill(self, worked, now_ns);
    self->ticks = pulse.ticks;
    self->steady = pulse.steady;
    self->looked_ns = now_ns;
    *beat = (ebb_watch_message_t){.type = EBB_WATCH_BEAT,
                                  .rank = rank,
                                  .waiting = pulse.waiting,
                                  .steady = pulse.steady,
                                  .patience = patience(self, &pulse, limit_ns),
                                  .step = pulse.step,
                                  .idle_ms = milliseconds(now_ns - self->busy_ns),
                                  .still_ms = milliseconds(now_ns - self->progress_ns)};
    snprintf(beat->text, sizeof beat->text, "%s", pulse.stage);
}
