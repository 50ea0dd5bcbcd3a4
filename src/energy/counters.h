/* Counters of energy that only ever rise, but for wraps. */
#ifndef EBB_ENERGY_COUNTERS_H
#define EBB_ENERGY_COUNTERS_H

#include <ebb/energy.h>
#include "base/nvml.h"

#include <limits.h>

enum { EBB_COUNTERS = EBB_METER_GPUS };

typedef struct ebb_counter {
    char name[48];       /* "package-0", "dram", "GPU 1" */
    char path[PATH_MAX]; /* of a file of microjoules; empty: NVML */
    void *gpu;           /* NVML's handle */
    ebb_gpu_use_t use;   /* of a GPU */
    bool others;         /* a GPU that does not work for the job */
    double wrap;         /* joules at which it starts again; 0: never */
    double most_watts;   /* more cannot be */
    double last;         /* joules */
    bool read;           /* last is valid */
} ebb_counter_t;

typedef struct ebb_counters {
    int n;
    ebb_counter_t *counter; /* (n) */
    ebb_nvml_t nvml;
} ebb_counters_t;

/* What one interval brought. */
typedef struct ebb_reading {
    double cpu_j, gpu_j;
    double own_gpu_j; /* of the GPUs' joules: the job's */
    int lost;         /* counters that could not be read or believed */
    int cpus;         /* counters that are not GPUs' */
    int cpu_lost;     /* of them */
} ebb_reading_t;

/* Find the counters under root/sys; all may be absent. Each is read once as its base. */
ebb_status_t ebb_counters_open(const char *root, ebb_counters_t *counters);
/* The GPUs that work for the job, as ebb_meter_options_t.gpus names them; before that all do. */
void ebb_counters_choose(ebb_counters_t *counters, const char *gpus);
/* Joules since the last reading, `seconds` ago. */
ebb_reading_t ebb_counters_read(ebb_counters_t *counters, double seconds);
/* The job's GPUs as they have been until the last reading; how many. */
int ebb_counters_gpus(const ebb_counters_t *counters, ebb_gpu_use_t gpus[EBB_METER_GPUS]);
/* "RAPL package-0, dram; GPU 0" */
void ebb_counters_name(const ebb_counters_t *counters, char *text, size_t size);
void ebb_counters_close(ebb_counters_t *counters);

#endif
