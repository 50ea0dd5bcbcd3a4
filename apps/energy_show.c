/* Each rank meters its own share of its host; the figures of a host are those of its first rank. */
#include "energy_show.h"
#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is recorded and added up: name, place, whether it is the host's. */
static const struct {
    const char *name;
    size_t offset;
    bool of_host;
} figures[] = {
    {"job_joules", offsetof(ebb_energy_t, job_j), false},
    {"job_joules_low", offsetof(ebb_energy_t, job_low_j), false},
    {"job_joules_high", offsetof(ebb_energy_t, job_high_j), false},
    {"cpu_seconds", offsetof(ebb_energy_t, cpu_seconds), false},
    {"host_joules", offsetof(ebb_energy_t, node_j), true},
    {"host_idle_joules", offsetof(ebb_energy_t, idle_j), true},
    {"gpu_joules", offsetof(ebb_energy_t, gpu_j), true},
};

enum { FIGURES = sizeof figures / sizeof *figures };

static double *figure(ebb_energy_t *e, int i)
{
    return (double *)((char *)e + figures[i].offset);
}

static double recorded(const ebb_record_t *record, const char *key)
{
    char *text = ebb_record_get(record, key);
    double value = text ? strtod(text, NULL) : 0;
    free(text);
    return value;
}

ebb_status_t energy_record(ebb_comm_t *comm, ebb_meter_t *meter, ebb_record_t *record, ebb_energy_t *total)
{
    double sum[FIGURES];
    ebb_meter_read(meter, total);
    for (int i = 0; i < FIGURES; i++)
        sum[i] = figures[i].of_host && ebb_comm_local_rank(comm) != 0 ? 0 : *figure(total, i);
    EBB_TRY(ebb_comm_allreduce(comm, sum, FIGURES, EBB_COMM_F64, EBB_SUM));
    for (int i = 0; i < FIGURES; i++) {
        char key[64];
        snprintf(key, sizeof key, "energy.%s", figures[i].name);
        *figure(total, i) = sum[i] + recorded(record, key);
        EBB_TRY(ebb_record_set_f64(record, key, *figure(total, i)));
    }
    return ebb_record_set_string(record, "energy.source", total->source);
}

const char *energy_text(double j, char *text, size_t size)
{
    if (j < 1e3)
        snprintf(text, size, "%.3g J", j);
    else if (j < 3.6e6)
        snprintf(text, size, "%.3g kJ (%.3g Wh)", j / 1e3, j / 3600);
    else
        snprintf(text, size, "%.3g MJ (%.4g kWh)", j / 1e6, j / 3.6e6);
    return text;
}
