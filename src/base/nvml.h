/* NVIDIA's management library, which comes with the driver: loaded where it is, so that nothing is linked with it. The
 * few signatures needed are declared here. Every function returns NVML's code, 0 where it could; what a GPU, a driver
 * or the permissions do not allow has a code of its own. */
#ifndef EBB_BASE_NVML_H
#define EBB_BASE_NVML_H

#include <stdbool.h>

/* Percent of the driver's last sampling period, of a sixth of a second to one. */
typedef struct ebb_nvml_utilization {
    unsigned gpu;    /* in which a kernel ran */
    unsigned memory; /* in which memory was read or written */
} ebb_nvml_utilization_t;

typedef struct ebb_nvml_memory {
    unsigned long long total, free, used; /* bytes */
} ebb_nvml_memory_t;

typedef struct ebb_nvml {
    void *library; /* NULL: not loaded */
    int (*init)(void);
    int (*shutdown)(void);
    int (*count)(unsigned *count);
    int (*handle)(unsigned index, void **device_p);
    int (*uuid)(void *device, char *text, unsigned size);
    int (*name)(void *device, char *text, unsigned size);
    int (*power)(void *device, unsigned *milliwatts);
    int (*energy)(void *device, unsigned long long *millijoules);
    int (*utilization)(void *device, ebb_nvml_utilization_t *utilization);
    int (*memory)(void *device, ebb_nvml_memory_t *memory);
} ebb_nvml_t;

/* false: there is none, or one that is too old. */
bool ebb_nvml_load(ebb_nvml_t *nvml);
void ebb_nvml_unload(ebb_nvml_t *nvml);

#endif
