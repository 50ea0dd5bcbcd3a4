/* The first rank of each host meters the host for all its ranks: their processor time is read by their process ids. */
#include "run_books.h"
#include "carbon_source.h"
#include "energy_show.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define YEAR_S (365.25 * 86400)

typedef struct seat {
    char host[64], gpus[512];
    bool sees_all; /* no GPUs are named */
    int64_t pid;
} seat_t;

static void take_seat(seat_t *seat)
{
    const char *gpus = getenv("CUDA_VISIBLE_DEVICES");
    *seat = (seat_t){.pid = (int64_t)getpid(), .sees_all = !gpus || strlen(gpus) >= sizeof seat->gpus};
    gethostname(seat->host, sizeof seat->host - 1);
    snprintf(seat->gpus, sizeof seat->gpus, "%s", seat->sees_all ? "" : gpus);
}

/* GPUs that ranks of the host see, one or all each; those that nobody sees may be another job's. */
static ebb_status_t join_gpus(const seat_t *all, int ranks, const char *host, char **gpus_p)
{
    ebb_text_t list = {0};
    ebb_text_add(&list, "%s", "");
    for (int r = 0; r < ranks; r++) {
        if (strcmp(all[r].host, host) != 0)
            continue;
        if (all[r].sees_all) {
            ebb_text_free(&list);
            return EBB_OK;
        }
        ebb_text_add(&list, "%s,", all[r].gpus);
    }
    *gpus_p = list.failed ? NULL : ebb_strdup(list.s);
    ebb_text_free(&list);
    return *gpus_p ? EBB_OK : EBB_FAIL(EBB_ENOMEM, "out of memory: GPUs of a host");
}

/* Process ids of the ranks on this host, and the GPUs they see. */
static ebb_status_t find_ranks(ebb_comm_t *comm, ebb_pids_t *pids, char **gpus_p)
{
    seat_t mine, *all = NULL;
    int ranks = ebb_comm_size(comm);
    take_seat(&mine);
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
    if (status == EBB_OK)
        status = join_gpus(all, ranks, mine.host, gpus_p);
    ebb_free(all);
    return ebb_comm_agree(comm, status);
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
                                          .gpus = b->gpus,
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

static double own_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

ebb_status_t run_books_start(ebb_comm_t *comm, const ebb_run_config_t *config, double submitted, run_books_t *b)
{
    *b = (run_books_t){0};
    EBB_TRY(find_ranks(comm, &b->pids, &b->gpus));
    b->cpu_seconds = own_seconds();
    return ebb_comm_agree(comm, ebb_comm_local_rank(comm) == 0 ? start(comm, config, submitted, b) : EBB_OK);
}

bool run_books_gpus(const run_books_t *b, double *seconds_p, double *busy_p)
{
    ebb_gpu_use_t gpu[EBB_METER_GPUS];
    int n = b->books ? ebb_books_gpus(b->books, gpu) : 0;
    *seconds_p = *busy_p = 0;
    for (int i = 0; i < n; i++) {
        *seconds_p += gpu[i].busy.seconds;
        *busy_p += gpu[i].busy.seconds * gpu[i].busy.mean / 100;
    }
    return *seconds_p > 0;
}

void run_books_stop(run_books_t *b)
{
    b->cpu_seconds = own_seconds() - b->cpu_seconds;
    if (b->books) {
        ebb_books_energy(b->books, &b->energy);
        b->n_used = ebb_books_gpus(b->books, b->used);
    }
    if (ebb_books_stop(b->books) != EBB_OK) {
        EBB_WARN("ledger", "%s", ebb_error()->message);
        ebb_error_clear();
    }
    ebb_free(b->pids.pid);
    ebb_free(b->pids.seen);
    ebb_free(b->gpus);
    b->books = NULL;
    b->pids = (ebb_pids_t){0};
    b->gpus = NULL;
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

/* What a rank and, where it is the first one there, its host drew in this start. */
typedef struct drawn {
    char host[64];
    double cpu_seconds, job_j, gpu_j;
    int64_t gpus; /* that are told of */
} drawn_t;

static json_t *rank_joules(const drawn_t *all, int n, int rank)
{
    double cpu_seconds = 0, job_j = 0, gpu_j = 0;
    int ranks = 0;
    for (int r = 0; r < n; r++) {
        if (strcmp(all[r].host, all[rank].host) != 0)
            continue;
        ranks++;
        cpu_seconds += all[r].cpu_seconds;
        job_j += all[r].job_j;
        gpu_j += all[r].gpu_j;
    }
    double share = cpu_seconds > 0 ? all[rank].cpu_seconds / cpu_seconds : 1.0 / ranks;
    return json_pack("{s:i, s:s, s:f, s:f}", "rank", rank, "host", all[rank].host, "cpu_seconds", all[rank].cpu_seconds,
                     "joules", (job_j - gpu_j) * share + gpu_j / ranks);
}

static ebb_status_t record_ranks(ebb_record_t *record, const drawn_t *all, int n)
{
    json_t *list = json_array();
    for (int r = 0; r < n; r++)
        json_array_append_new(list, rank_joules(all, n, r));
    char *text = json_dumps(list, JSON_COMPACT);
    json_decref(list);
    ebb_status_t status = text ? ebb_record_append(record, "energy.starts", text)
                               : EBB_FAIL(EBB_ENOMEM, "out of memory: joules of ranks");
    free(text);
    return status;
}

static ebb_status_t record_gpu(ebb_record_t *record, const char *host, int64_t start, const ebb_gpu_use_t *gpu)
{
    json_t *entry = energy_gpu_json(gpu);
    json_object_set_new(entry, "start", json_integer(start));
    json_object_set_new(entry, "host", json_string(host));
    char *text = json_dumps(entry, JSON_COMPACT);
    json_decref(entry);
    ebb_status_t status =
        text ? ebb_record_append(record, "energy.gpus", text) : EBB_FAIL(EBB_ENOMEM, "out of memory: a GPU's record");
    free(text);
    return status;
}

/* Place of this start in the list of starts. */
static int64_t start_of(const ebb_record_t *record)
{
    char *text = ebb_record_get(record, "starts");
    json_t *starts = text ? json_loads(text, 0, NULL) : NULL;
    int64_t n = (int64_t)json_array_size(starts);
    json_decref(starts);
    free(text);
    return n - 1;
}

/* Each host's first rank tells of its GPUs; all send as many places as the one that has most. */
static ebb_status_t tell_gpus(ebb_comm_t *comm, ebb_record_t *record, const run_books_t *b, const drawn_t *all)
{
    ebb_gpu_use_t *gpu = NULL;
    int n = ebb_comm_size(comm);
    int64_t most = 0, start = record ? start_of(record) : 0;
    for (int r = 0; r < n; r++)
        most = all[r].gpus > most ? all[r].gpus : most;
    if (most == 0)
        return EBB_OK;
    EBB_TRY(ebb_comm_agree(comm, EBB_NEW_ARRAY("GPUs of ranks", n * most, &gpu)));
    ebb_status_t status = ebb_comm_allgather(comm, b->used, most * (int64_t)sizeof *gpu, gpu);
    for (int r = 0; record && r < n; r++)
        for (int64_t i = 0; i < all[r].gpus && status == EBB_OK; i++)
            status = record_gpu(record, all[r].host, start, &gpu[r * most + i]);
    ebb_free(gpu);
    return status;
}

static ebb_status_t tell_ranks(ebb_comm_t *comm, ebb_record_t *record, const run_books_t *b)
{
    drawn_t mine = {.cpu_seconds = b->cpu_seconds,
                    .job_j = b->energy.job_j,
                    .gpu_j = b->energy.own_gpu_j,
                    .gpus = b->n_used},
            *all = NULL;
    int n = ebb_comm_size(comm);
    gethostname(mine.host, sizeof mine.host - 1);
    EBB_TRY(ebb_comm_agree(comm, EBB_NEW_ARRAY("joules of ranks", n, &all)));
    ebb_status_t status = ebb_comm_allgather(comm, &mine, sizeof mine, all);
    if (status == EBB_OK)
        status = tell_gpus(comm, record, b, all);
    if (status == EBB_OK && record)
        status = record_ranks(record, all, n);
    ebb_free(all);
    return ebb_comm_agree(comm, status);
}

ebb_status_t run_books_record(ebb_comm_t *comm, ebb_record_t *record, double submitted, const run_books_t *books,
                              ebb_ledger_sums_t *sums)
{
    *sums = (ebb_ledger_sums_t){0};
    EBB_TRY(tell_ranks(comm, record, books));
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
