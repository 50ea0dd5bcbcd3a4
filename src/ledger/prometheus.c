/* What a running job drew and emitted, for node_exporter's textfile collector. The file is replaced as a whole. */
#include "ledger/internal.h"
#include "base/file.h"
#include "base/text.h"

#include <math.h>

static void add_label(ebb_text_t *t, const char *value)
{
    ebb_text_add(t, "\"");
    for (; *value; value++) {
        if (*value == '"' || *value == '\\')
            ebb_text_add(t, "\\");
        ebb_text_add(t, "%c", *value == '\n' ? ' ' : *value);
    }
    ebb_text_add(t, "\"");
}

typedef struct labels {
    const char *name, *host;
} labels_t;

/* part: another label, as `part="job"`; NULL: none. A figure that is not known is left out. */
static void add_value(ebb_text_t *t, const char *metric, const labels_t *labels, const char *part, double value)
{
    if (isnan(value))
        return;
    ebb_text_add(t, "%s{job_name=", metric);
    add_label(t, labels->name);
    ebb_text_add(t, ",host=");
    add_label(t, labels->host);
    if (part)
        ebb_text_add(t, ",part=\"%s\"", part);
    ebb_text_add(t, "} %.17g\n", value);
}

static void add_heading(ebb_text_t *t, const char *metric, const char *type, const char *help)
{
    ebb_text_add(t, "# HELP %s %s\n# TYPE %s %s\n", metric, help, metric, type);
}

ebb_status_t ebb_ledger_prometheus(const char *path, const char *name, const char *host, const ebb_ledger_sums_t *s,
                                   const ebb_ledger_row_t *last)
{
    ebb_text_t t = {0};
    labels_t labels = {name, host};
    add_heading(&t, "ebb_energy_joules_total", "counter",
                "Energy of the host while the job ran: its own, others', idling.");
    add_value(&t, "ebb_energy_joules_total", &labels, "job", s->job_j);
    add_value(&t, "ebb_energy_joules_total", &labels, "others", s->others_j);
    add_value(&t, "ebb_energy_joules_total", &labels, "idle", s->idle_j);
    add_heading(&t, "ebb_energy_measured_joules_total", "counter", "The part of the host's that counters measured.");
    add_value(&t, "ebb_energy_measured_joules_total", &labels, NULL, s->measured_j);
    add_heading(&t, "ebb_energy_unknown_intensity_joules_total", "counter",
                "The job's joules for which no carbon intensity is known: in no sum of grams.");
    add_value(&t, "ebb_energy_unknown_intensity_joules_total", &labels, NULL, s->unknown_j);
    add_heading(&t, "ebb_emissions_grams_co2e_total", "counter", "The job's emissions at known carbon intensity.");
    add_value(&t, "ebb_emissions_grams_co2e_total", &labels, NULL, s->known_g);
    add_heading(&t, "ebb_cpu_seconds_total", "counter", "The job's processor time.");
    add_value(&t, "ebb_cpu_seconds_total", &labels, NULL, s->cpu_seconds);
    if (last) {
        add_heading(&t, "ebb_power_watts", "gauge", "The job's power in the last interval.");
        add_value(&t, "ebb_power_watts", &labels, NULL, last->seconds > 0 ? last->job_j / last->seconds : NAN);
        add_heading(&t, "ebb_carbon_intensity_grams_per_kwh", "gauge",
                    "Of the grid in the last interval, where known.");
        add_value(&t, "ebb_carbon_intensity_grams_per_kwh", &labels, NULL, last->intensity);
    }
    ebb_status_t status = t.failed ? EBB_FAIL(EBB_ENOMEM, "out of memory: %s", path) : ebb_file_replace(path, t.s, t.n);
    ebb_text_free(&t);
    return status;
}
