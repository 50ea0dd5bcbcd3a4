/* The first rank of each host meters the host for all its ranks: their processor time is read by their process ids. */
#include "run_books.h"
#include "carbon_source.h"
#include "base/alloc.h"
#include "base/file.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define YEAR_S (365.25 * 86400)

typedef struct seat {
    char host[64];
    int64_t pid;
} seat_t;

/* Process ids of the ranks on this host. */
static ebb_status_t find_ranks(ebb_comm_t *comm, ebb_pids_t *pids)
{
    seat_t mine = {.pid = (int64_t)getpid()}, *all = NULL;
    int ranks = ebb_comm_size(comm);
    gethostname(mine.host, sizeof mine.host - 1);
    ebb_status_t status = EBB_NEW_ARRAY("hosts of the ranks", ranks, &all);
    if (status == EBB_OK)
        status = EBB_NEW_ARRAY("processes of the host", ranks, &pids->pid);
    if (status == EBB_OK)
        status = EBB_NEW_ARRAY("their processor time", ranks, &pids->seen);
    status = ebb_comm_agree(comm, status);
    if (status == EBB_OK)
        status = ebb_comm_allgather(comm, &mine, sizeof mine, all);
    for (int r = 0; status == EBB_OK && r < ranks; r++)
        if (strcmp(all[r].host, mine.host) == 0)
            pids->pid[pids->n++] = all[r].pid;
    ebb_free(all);
    return status;
}

static double or_environment(double value, const char *name, double otherwise)
{
    const char *text = value > 0 ? NULL : getenv(name);
    double given = text ? strtod(text, NULL) : 0;
    return value > 0 ? value : given > 0 && isfinite(given) ? given : otherwise;
}

/* "DIR/ebb-NAME-HOST.prom" */
static bool prometheus_path(const ebb_run_config_t *config, char path[PATH_MAX])
{
    char host[64] = "";
    const char *folder = ebb_run_config_carbon(config)->prometheus, *env = getenv("EBB_PROMETHEUS_DIR");
    folder = folder ? folder : env && *env ? env : NULL;
    gethostname(host, sizeof host - 1);
    return folder &&
           snprintf(path, PATH_MAX, "%s/ebb-%s-%s.prom", folder, ebb_run_config_name(config), host) < PATH_MAX;
}

static ebb_status_t start(ebb_comm_t *comm, const ebb_run_config_t *config, double submitted, run_books_t *b)
{
    char path[PATH_MAX], prometheus[PATH_MAX];
    ebb_carbon_settings_t grid;
    const ebb_run_carbon_t *c = ebb_run_config_carbon(config);
    snprintf(path, sizeof path, "%s/ledger.db", ebb_run_config_dir(config));
    ebb_books_options_t options = {.path = path,
                                   .name = ebb_run_config_name(config),
                                   .ranks = ebb_comm_size(comm),
                                   .grid = ebb_comm_rank(comm) == 0,
                                   .since = submitted,
                                   .pue = or_environment(c->pue, "EBB_CARBON_PUE", 1),
                                   .embodied_g = 1000 * or_environment(c->embodied_kg, "EBB_CARBON_EMBODIED", 0),
                                   .lifetime_s = c->lifetime_years * YEAR_S};
    options.meter = (ebb_meter_options_t){.uses_gpus = strcmp(ebb_run_config_backend(config), "cpu") != 0,
                                          .cpu = ebb_energy_pids,
                                          .cpu_user = &b->pids,
                                          .root = getenv("EBB_METER_ROOT")};
    options.prometheus = prometheus_path(config, prometheus) ? prometheus : NULL;
    source_options_t asked = {.source = c->source,
                              .zone = c->zone,
                              .file = c->file,
                              .column = c->column,
                              .url = c->url,
                              .scope = c->scope,
                              .signal = c->signal};
    options.source = ebb_source_for_books(&asked, &grid) ? &grid.options : NULL;
    ebb_status_t status = ebb_books_start(&options, &b->books);
    ebb_carbon_settings_free(&grid);
    return status;
}

ebb_status_t run_books_start(ebb_comm_t *comm, const ebb_run_config_t *config, double submitted, run_books_t *b)
{
    *b = (run_books_t){0};
    EBB_TRY(find_ranks(comm, &b->pids));
    return ebb_comm_agree(comm, ebb_comm_local_rank(comm) == 0 ? start(comm, config, submitted, b) : EBB_OK);
}

void run_books_stop(run_books_t *b)
{
    if (ebb_books_stop(b->books) != EBB_OK) {
        EBB_WARN("ledger", "%s", ebb_error()->message);
        ebb_error_clear();
    }
    ebb_free(b->pids.pid);
    ebb_free(b->pids.seen);
    *b = (run_books_t){0};
}

/* ---- the record ---- */

static ebb_status_t record_sums(ebb_record_t *record, const ebb_ledger_sums_t *s, const char *source)
{
    const struct {
        const char *key;
        double value;
    } figures[] = {
        {"energy.job_joules", s->job_j},           {"energy.job_joules_low", s->job_low_j},
        {"energy.job_joules_high", s->job_high_j}, {"energy.cpu_seconds", s->cpu_seconds},
        {"energy.host_joules", s->node_j},         {"energy.host_idle_joules", s->idle_j},
        {"energy.gpu_joules", s->gpu_j},           {"energy.measured_joules", s->measured_j},
        {"carbon.grams_co2e", s->grams},           {"carbon.unknown_joules", s->unknown_j},
        {"carbon.asap_grams_co2e", s->asap_g},     {"carbon.embodied_grams_co2e", s->embodied_g},
    };
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++)
        EBB_TRY(ebb_record_set_f64(record, figures[i].key, figures[i].value));
    return ebb_record_set_string(record, "energy.source", source);
}

static ebb_status_t record_ledger(ebb_record_t *record, double submitted, ebb_ledger_sums_t *sums)
{
    char path[PATH_MAX];
    ebb_ledger_row_t *rows;
    int64_t n;
    snprintf(path, sizeof path, "%s/ledger.db", ebb_record_folder(record));
    EBB_TRY(ebb_ledger_read(path, &rows, &n));
    ebb_ledger_add_up(rows, n, submitted, sums);
    ebb_status_t status = record_sums(record, sums, n > 0 ? rows[n - 1].meter : "");
    if (status == EBB_OK)
        status = ebb_record_set_i64(record, "ledger.rows", n);
    if (status == EBB_OK)
        status = ebb_record_set_string(record, "ledger.hash", n > 0 ? rows[n - 1].hash : EBB_LEDGER_GENESIS);
    ebb_ledger_free(rows);
    return status;
}

ebb_status_t run_books_record(ebb_comm_t *comm, ebb_record_t *record, double submitted, ebb_ledger_sums_t *sums)
{
    *sums = (ebb_ledger_sums_t){0};
    EBB_TRY(ebb_comm_barrier(comm)); /* all hosts' rows are in */
    if (record && record_ledger(record, submitted, sums) != EBB_OK) {
        EBB_WARN("ledger", "%s", ebb_error()->message);
        ebb_error_clear();
    }
    return EBB_OK;
}

ebb_status_t run_books_remove(const char *folder)
{
    static const char *const names[] = {"ledger.db", "ledger.db-journal", "report.html"};
    char path[PATH_MAX];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        if (unlink(path) != 0 && errno != ENOENT)
            return ebb_file_error(path, "remove");
    }
    return EBB_OK;
}

double run_books_submitted(ebb_record_t *record)
{
    char *recorded = ebb_record_get(record, "submitted");
    const char *told = getenv("EBB_JOB_SUBMITTED");
    double time = recorded ? strtod(recorded, NULL) : told ? strtod(told, NULL) : 0;
    free(recorded);
    if (!(time > 0 && isfinite(time)))
        return 0;
    if (ebb_record_set_f64(record, "submitted", time) != EBB_OK)
        ebb_error_clear();
    return time;
}
