/* The meter's thread: read, divide, add up. Between readings it sleeps; ebb_meter_read reads at once on the caller's
 * thread, with the lock held. */
#include <ebb/energy.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "energy/book.h"
#include "energy/counters.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

struct ebb_meter {
    ebb_meter_options_t options;
    char root[512];
    ebb_counters_t counters;
    ebb_host_t host;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stop;
    int64_t last_ns;
    double last_busy, last_job;
    bool lost; /* a counter is, at the moment */
    ebb_energy_t sum;
    pthread_mutex_t gpus_lock; /* of the copy below: never held while a counter is read, which may take long */
    int n_gpus;
    ebb_gpu_use_t gpus[EBB_METER_GPUS];
};

/* ---- the host ---- */

/* Processor seconds of all processes since the host began: user, nice, system, interrupts; not idle, waiting, stolen.
 */
static double busy_seconds(const ebb_meter_t *m)
{
    char path[600];
    unsigned long long t[7] = {0};
    snprintf(path, sizeof path, "%s/proc/stat", m->root);
    FILE *f = fopen(path, "re");
    int n =
        f ? fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu", &t[0], &t[1], &t[2], &t[3], &t[4], &t[5], &t[6]) : 0;
    if (f)
        fclose(f);
    return n == 7 ? (double)(t[0] + t[1] + t[2] + t[5] + t[6]) / (double)sysconf(_SC_CLK_TCK) : 0;
}

static void look_at_host(ebb_meter_t *m)
{
    char path[600], line[256] = "";
    snprintf(path, sizeof path, "%s/proc/cpuinfo", m->root);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f) && strncmp(line, "vendor_id", 9) != 0)
        continue;
    if (f)
        fclose(f);
    m->host.amd = strstr(line, "AuthenticAMD") != NULL;
    m->host.cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
    m->host.gib = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) / (1 << 30);
}

static double seconds_of(const struct rusage *u)
{
    return (double)(u->ru_utime.tv_sec + u->ru_stime.tv_sec) +
           1e-6 * (double)(u->ru_utime.tv_usec + u->ru_stime.tv_usec);
}

/* This process and the children it has waited for. */
static double own_cpu(void *user)
{
    struct rusage self, children;
    getrusage(RUSAGE_SELF, &self);
    getrusage(RUSAGE_CHILDREN, &children);
    return seconds_of(&self) + seconds_of(&children);
}

/* ---- an interval ---- */

static void publish_gpus(ebb_meter_t *m)
{
    pthread_mutex_lock(&m->gpus_lock);
    m->n_gpus = ebb_counters_gpus(&m->counters, m->gpus);
    pthread_mutex_unlock(&m->gpus_lock);
}

/* An interval in which a processor's counter was lost is estimated as a whole: its other counters say too little. */
static void look(ebb_meter_t *m)
{
    int64_t now = ebb_now_ns();
    double busy = busy_seconds(m), job = m->options.cpu(m->options.cpu_user);
    ebb_interval_t i = {
        .seconds = (double)(now - m->last_ns) * 1e-9, .busy = busy - m->last_busy, .job = job - m->last_job};
    ebb_reading_t r = ebb_counters_read(&m->counters, i.seconds);
    i.cpu_j = r.cpus > 0 && r.cpu_lost == 0 ? r.cpu_j : -1;
    i.gpu_j = r.gpu_j;
    i.own_gpu_j = r.own_gpu_j;
    publish_gpus(m);
    m->sum.gaps += r.lost > 0 && !m->lost;
    m->lost = r.lost > 0;
    ebb_energy_book(&m->host, &i, &m->sum);
    m->last_ns = now;
    m->last_busy = busy;
    m->last_job = job;
}

static void *run(void *user)
{
    ebb_meter_t *m = user;
    pthread_mutex_lock(&m->lock);
    while (!m->stop) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        int64_t ns = until.tv_nsec + (int64_t)(m->options.interval * 1e9);
        until.tv_sec += ns / 1000000000;
        until.tv_nsec = ns % 1000000000;
        if (pthread_cond_timedwait(&m->wake, &m->lock, &until) != 0 && !m->stop)
            look(m);
    }
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

/* Counters that are there but have told nothing so far are most likely for root alone. */
static void name_source(const ebb_meter_t *m, char *source, size_t size)
{
    char counters[96], estimate[128];
    bool silent = m->sum.measured_j <= 0 && m->lost;
    ebb_counters_name(&m->counters, counters, sizeof counters);
    ebb_energy_estimate_name(&m->host, estimate, sizeof estimate);
    if (m->counters.n > 0 && !silent)
        snprintf(source, size, "measured: %s", counters);
    else
        snprintf(source, size, "estimated: %s%s%s%s", estimate, silent ? "; " : "", silent ? counters : "",
                 silent ? " cannot be read" : "");
}

/* Signals are for the threads of the program. */
static ebb_status_t start_thread(ebb_meter_t *m)
{
    pthread_condattr_t monotonic;
    sigset_t all, before;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&m->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&m->lock, NULL);
    pthread_mutex_init(&m->gpus_lock, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int code = pthread_create(&m->thread, NULL, run, m);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code == 0 ? EBB_OK : EBB_FAIL(EBB_ENOMEM, "the meter's thread cannot be started: %s", strerror(code));
}

ebb_status_t ebb_meter_start(const ebb_meter_options_t *options, ebb_meter_t **meter_p)
{
    ebb_meter_t *m;
    *meter_p = NULL;
    EBB_TRY(EBB_NEW("energy meter", &m));
    m->options = *options;
    m->options.interval = options->interval > 0 ? options->interval : 1.0;
    m->options.cpu = options->cpu ? options->cpu : own_cpu;
    snprintf(m->root, sizeof m->root, "%s", options->root ? options->root : "");
    look_at_host(m);
    ebb_status_t status = ebb_counters_open(m->root, &m->counters);
    if (status == EBB_OK)
        ebb_counters_choose(&m->counters, options->uses_gpus ? options->gpus : "");
    m->options.gpus = NULL;
    m->last_ns = ebb_now_ns();
    m->last_busy = busy_seconds(m);
    m->last_job = m->options.cpu(m->options.cpu_user);
    if (status == EBB_OK)
        status = start_thread(m);
    if (status != EBB_OK) {
        ebb_counters_close(&m->counters);
        ebb_free(m);
        return status;
    }
    *meter_p = m;
    return EBB_OK;
}

void ebb_meter_read(ebb_meter_t *m, ebb_energy_t *energy)
{
    pthread_mutex_lock(&m->lock);
    look(m);
    *energy = m->sum;
    name_source(m, energy->source, sizeof energy->source);
    pthread_mutex_unlock(&m->lock);
}

int ebb_meter_gpus(ebb_meter_t *m, ebb_gpu_use_t gpus[EBB_METER_GPUS])
{
    pthread_mutex_lock(&m->gpus_lock);
    int n = m->n_gpus;
    memcpy(gpus, m->gpus, (size_t)n * sizeof *gpus);
    pthread_mutex_unlock(&m->gpus_lock);
    return n;
}

void ebb_meter_stop(ebb_meter_t *m)
{
    if (!m)
        return;
    pthread_mutex_lock(&m->lock);
    m->stop = true;
    pthread_cond_signal(&m->wake);
    pthread_mutex_unlock(&m->lock);
    pthread_join(m->thread, NULL);
    pthread_cond_destroy(&m->wake);
    pthread_mutex_destroy(&m->lock);
    pthread_mutex_destroy(&m->gpus_lock);
    ebb_counters_close(&m->counters);
    ebb_free(m);
}
