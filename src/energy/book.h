/* Dividing an interval's energy. */
#ifndef EBB_ENERGY_BOOK_H
#define EBB_ENERGY_BOOK_H

#include <ebb/energy.h>

/* The host, as far as estimates need it. */
typedef struct ebb_host {
    int cpus;   /* hardware threads */
    double gib; /* memory */
    bool amd;
} ebb_host_t;

typedef struct ebb_interval {
    double seconds;
    double busy;      /* processor seconds of the whole host */
    double job;       /* of the job */
    double cpu_j;     /* measured; negative: not measured */
    double gpu_j;     /* measured */
    double own_gpu_j; /* of the GPUs that work for the job */
} ebb_interval_t;

/* Add an interval to the sums. A pure function of its arguments. */
void ebb_energy_book(const ebb_host_t *host, const ebb_interval_t *interval, ebb_energy_t *sum);
/* "20 to 41 W": what the host is taken to draw, idle and busy. */
void ebb_energy_estimate_name(const ebb_host_t *host, char *text, size_t size);

#endif
