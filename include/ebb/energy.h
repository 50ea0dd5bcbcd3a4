/* Energy of this host and of a job on it.
 *
 * Counters of joules are read about once a second: RAPL through powercap (packages, and DRAM where it is apart; core
 * and uncore are parts of the package, psys would count it twice), energy files of hwmon (AMD sockets), and NVML for
 * GPUs, loaded when there is a driver. Each counter's wrap is undone; a counter that cannot be read (permissions,
 * unplugged) or jumps further than any such device could draw counts nothing until it has been read twice again, and
 * the time in between is estimated: a fault never becomes joules.
 *
 * Without counters power is estimated from processor time: idle and busy watts per hardware thread and watts per GiB of
 * memory after Cloud Carbon Footprint's coefficients (from SPECpower results; Haswell to EPYC Milan), the typical
 * machine with the least and the most of them as interval.
 *
 * Every interval is divided: idle, what the host would draw without work (of a measured interval that share which the
 * estimate has); the rest to the job and to others by processor time. job + others + idle = node, always. GPUs belong
 * to the job if it says that it uses them, all or those that it names, else to others: of several jobs on a host each
 * is charged its own cards. Of its GPUs the meter also keeps how busy they were and how much memory they had in use.
 */
#ifndef EBB_ENERGY_H
#define EBB_ENERGY_H

#include <ebb/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Sums since the meter began; joules and seconds. */
typedef struct ebb_energy {
    double seconds;
    double cpu_seconds;                     /* of the job */
    double node_j, job_j, others_j, idle_j; /* node = job + others + idle */
    double measured_j;                      /* of the node's: read from counters */
    double job_low_j, job_high_j;           /* equal job_j where all is measured */
    double gpu_j, own_gpu_j;                /* of the node's: GPUs, measured; of them, the job's */
    int64_t gaps;                           /* times a counter was lost */
    char source[256];                       /* "measured: RAPL package-0, package-1, dram" or "estimated: ..." */
} ebb_energy_t;

/* A figure over the time in which it could be read; seconds 0: never, and then nothing is known of it. */
typedef struct ebb_gauge {
    double seconds, mean, max; /* mean: weighted by time */
} ebb_gauge_t;

enum { EBB_METER_GPUS = 64 };

/* A GPU that works for the job, since the meter began. What NVML cannot tell (of older GPUs, of those that MIG has
 * split, without permission) has no seconds. */
typedef struct ebb_gpu_use {
    char uuid[96], name[96]; /* empty: not known */
    int index;               /* by the bus */
    bool metered;            /* joules are known */
    double joules;
    ebb_gauge_t busy, memory_busy; /* percent of the time in which a kernel ran; in which memory was read or written */
    ebb_gauge_t memory_used;       /* bytes, by all processes */
    double memory_bytes;           /* in all */
} ebb_gpu_use_t;

/* Processor seconds that the job has used until now; called on the meter's thread. */
typedef double (*ebb_energy_cpu_t)(void *user);

typedef struct ebb_meter_options {
    double interval;  /* seconds between readings; 0: 1 */
    bool uses_gpus;   /* the host's GPUs work for the job */
    const char *gpus; /* those of them that do, as CUDA_VISIBLE_DEVICES has it: "0,2" by the bus, or UUIDs; a part of a
                         card (MIG) counts as all of them. NULL: all. Borrowed until the meter has started */
    ebb_energy_cpu_t cpu; /* NULL: this process and the children it has waited for */
    void *cpu_user;
    const char *root; /* "" or NULL; tests put a folder before /sys and /proc */
} ebb_meter_options_t;

typedef struct ebb_meter ebb_meter_t;

/* Begin; a thread of the meter's own reads. A host without any counter is no error. One meter counts a host once: of
 * several ranks on a host let one report the node's figures, and each its own job_j. Not collective. */
EBB_API ebb_status_t ebb_meter_start(const ebb_meter_options_t *options, ebb_meter_t **meter_p) EBB_MUST_CHECK;
/* Read now, and what has come together. Any thread. */
EBB_API void ebb_meter_read(ebb_meter_t *meter, ebb_energy_t *energy);
/* The job's GPUs of this host as they were when the meter was read last; returns how many. Any thread; does not wait
 * for a reading that is under way. */
EBB_API int ebb_meter_gpus(ebb_meter_t *meter, ebb_gpu_use_t gpus[EBB_METER_GPUS]);
EBB_API void ebb_meter_stop(ebb_meter_t *meter);

/* For ebb_meter_options_t.cpu: processor seconds of all descendants of this process, the living and those waited for;
 * the process itself left out. Whose parent dies is still counted if this process is a subreaper (prctl). user: unused.
 */
EBB_API double ebb_energy_descendants(void *user);

/* Processes of this host whose energy is told together: the ranks of a run. */
typedef struct ebb_pids {
    int n;
    int64_t *pid; /* (n), borrowed */
    double *seen; /* (n), borrowed, zeroed: what each had used when last seen, which counts also when it has ended */
} ebb_pids_t;
/* For ebb_meter_options_t.cpu: their processor seconds; user: an ebb_pids_t that lives as long as the meter. */
EBB_API double ebb_energy_pids(void *user);

#ifdef __cplusplus
}
#endif
#endif
