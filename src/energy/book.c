/* Estimates and shares. Watts per hardware thread, idle and busy, are those that Cloud Carbon Footprint's coefficients
 * (ccf-coefficients, from SPECpower_ssj2008 results) give for server processors: Intel Haswell 1.90 and 5.99, Broadwell
 * 0.71 and 3.54, Skylake 0.64 and 4.05, Cascade Lake 0.64 and 3.80; AMD EPYC Naples 0.82 and 2.55, Rome 0.47 and 1.64,
 * Milan 0.45 and 1.87. Memory is 0.392 W per GiB. The interval spans them, but for Haswell's idle watts, which are far
 * apart from all others. */
#include "energy/book.h"

#include <stdio.h>

typedef struct watts {
    double idle, busy; /* per hardware thread */
} watts_t;

static const watts_t intel = {0.64, 3.80}, amd = {0.47, 1.87}, least = {0.45, 1.64}, most = {0.82, 5.99};

#define MEMORY_WATTS 0.392

/* Watts without work, and joules per processor second of work on top. */
static double idle_watts(const ebb_host_t *host, watts_t w)
{
    return host->cpus * w.idle + host->gib * MEMORY_WATTS;
}

static double extra(watts_t w)
{
    return w.busy - w.idle;
}

static double at_most(double a, double b)
{
    return a < b ? a : b;
}

static double at_least(double a, double b)
{
    return a > b ? a : b;
}

void ebb_energy_book(const ebb_host_t *host, const ebb_interval_t *i, ebb_energy_t *sum)
{
    watts_t typical = host->amd ? amd : intel;
    double job = at_least(i->job, 0), busy = at_least(at_most(i->busy, i->seconds * host->cpus), job);
    double idle = idle_watts(host, typical) * i->seconds, active = busy * extra(typical);
    bool measured = i->cpu_j >= 0;
    if (measured) {
        double whole = idle + active, node = i->cpu_j;
        idle = whole > 0 ? node * idle / whole : node;
        active = node - idle;
        sum->measured_j += node;
    }
    double share = busy > 0 ? active * job / busy : 0;
    sum->seconds += i->seconds;
    sum->cpu_seconds += job;
    sum->idle_j += idle;
    sum->job_j += share + i->own_gpu_j;
    sum->others_j += active - share + i->gpu_j - i->own_gpu_j;
    sum->node_j += idle + active + i->gpu_j;
    sum->gpu_j += i->gpu_j;
    sum->own_gpu_j += i->own_gpu_j;
    sum->measured_j += i->gpu_j;
    sum->job_low_j += i->own_gpu_j + (measured ? share : job * extra(least));
    sum->job_high_j += i->own_gpu_j + (measured ? share : job * extra(most));
}

void ebb_energy_estimate_name(const ebb_host_t *host, char *text, size_t size)
{
    watts_t typical = host->amd ? amd : intel;
    double idle = idle_watts(host, typical);
    snprintf(text, size, "processor time of %d hardware threads and %.0f GiB, %.3g W idle to %.3g W busy", host->cpus,
             host->gib, idle, idle + host->cpus * extra(typical));
}
