/* The report of a run: everything its folder holds, read once; and as JSON. */
#include "report/internal.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A run that is paused waits for its page. */
int64_t ebb_report_lines_bytes = 4 << 20;

/* ---- reading ---- */

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static ebb_status_t add_step(ebb_report_t *r, const json_t *line, const json_t *before)
{
    EBB_TRY(ebb_grow("points of a report", (void **)&r->progress, &r->progress_capacity, r->n_progress + 1,
                     sizeof *r->progress));
    ebb_progress_point_t *p = &r->progress[r->n_progress++];
    *p = (ebb_progress_point_t){number(line, "step"), number(line, "loss"), NAN, NAN};
    double seconds = number(line, "seconds") - number(before, "seconds");
    double rows =
        number(line, "rows_per_s") * number(line, "seconds") - number(before, "rows_per_s") * number(before, "seconds");
    if (seconds > 0) { /* else a resumed run, whose clock began again */
        p->rows_per_s = fmax(rows / seconds, 0);
        p->stall = fmin(fmax((number(line, "stall_seconds") - number(before, "stall_seconds")) / seconds, 0), 1);
    }
    return EBB_OK;
}

static ebb_status_t add_epoch(ebb_report_t *r, const json_t *line)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)line, key, value)
    {
        if (strncmp(key, "valid_", 6) != 0 || !json_is_number(value))
            continue;
        if (!r->valid_name[0])
            snprintf(r->valid_name, sizeof r->valid_name, "%s", key + 6);
        if (strcmp(r->valid_name, key + 6) != 0)
            continue;
        EBB_TRY(
            ebb_grow("points of a report", (void **)&r->valid, &r->valid_capacity, r->n_valid + 1, sizeof *r->valid));
        r->valid[r->n_valid++] = (ebb_valid_point_t){number(line, "step"), json_number_value(value)};
    }
    return EBB_OK;
}

/* A file of steps: its lines one after the other, and the last one that was passed over. */
typedef struct lines {
    FILE *in;
    int64_t each, steps; /* one step of so many is taken; steps so far */
    char *text, *passed;
    size_t room, passed_room;
    ssize_t n, passed_n; /* 0: none */
} lines_t;

static void pass_over(lines_t *l)
{
    char *text = l->text;
    size_t room = l->room;
    l->text = l->passed;
    l->room = l->passed_room;
    l->passed = text;
    l->passed_room = room;
    l->passed_n = l->n;
}

static json_t *parse_passed(lines_t *l)
{
    json_t *line = json_loadb(l->passed, (size_t)l->passed_n, 0, NULL);
    l->passed_n = 0;
    return line;
}

/* The next line that is to be taken; false: there is none. */
static bool next_line(lines_t *l)
{
    static const char start[] = "{\"kind\":\"step\",";
    while ((l->n = getline(&l->text, &l->room, l->in)) > 0) {
        bool step = strncmp(l->text, start, sizeof start - 1) == 0;
        if (!step || l->steps++ % l->each == 0)
            return true;
        pass_over(l);
    }
    return false;
}

/* A torn or foreign line is left out. */
static ebb_status_t read_lines(ebb_report_t *r, lines_t *l)
{
    json_t *before = NULL;
    ebb_status_t status = EBB_OK;
    while (status == EBB_OK && next_line(l)) {
        json_t *line = json_loadb(l->text, (size_t)l->n, 0, NULL);
        const char *kind = json_string_value(json_object_get(line, "kind"));
        if (kind && strcmp(kind, "epoch") == 0)
            status = add_epoch(r, line);
        if (!kind || strcmp(kind, "step") != 0) {
            json_decref(line);
            continue;
        }
        if (l->passed_n > 0) {
            json_decref(before);
            before = parse_passed(l);
        }
        status = add_step(r, line, before);
        json_decref(before);
        before = line;
    }
    json_decref(before);
    if (status == EBB_OK && l->passed_n > 0) { /* the curves end where the steps do */
        json_t *line = parse_passed(l);
        status = line ? add_step(r, line, NULL) : EBB_OK;
        json_decref(line);
    }
    return status;
}

static ebb_status_t read_metrics(ebb_report_t *r)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/metrics.jsonl", r->path);
    lines_t l = {.in = fopen(path, "re")};
    if (!l.in)
        return EBB_OK;
    l.each = 1 + ebb_file_size(path) / ebb_report_lines_bytes;
    ebb_status_t status = read_lines(r, &l);
    fclose(l.in);
    free(l.text);
    free(l.passed);
    return status;
}

static ebb_status_t read_run(ebb_report_t *r)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/run.json", r->path);
    json_decref(r->run);
    r->run = NULL;
    EBB_TRY(ebb_json_load(path, &r->run));
    const char *name = json_string_value(json_object_get(r->run, "name"));
    if (name)
        snprintf(r->name, sizeof r->name, "%s", name);
    double submitted = number(r->run, "submitted");
    r->submitted = submitted > 0 ? submitted : 0;
    return read_metrics(r);
}

static ebb_status_t read_ledger(ebb_report_t *r)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s%s", r->path, r->is_run ? "/ledger.db" : "");
    if (!r->is_run || ebb_file_exists(path))
        EBB_TRY(ebb_ledger_read(path, &r->rows, &r->n));
    ebb_ledger_add_up(r->rows, r->n, r->submitted, &r->sums);
    return EBB_OK;
}

ebb_status_t ebb_report_open(const char *path, ebb_report_t **report_p)
{
    ebb_report_t *r;
    *report_p = NULL;
    EBB_TRY(EBB_NEW("report", &r));
    const char *slash = strrchr(path, '/');
    snprintf(r->path, sizeof r->path, "%s", path);
    snprintf(r->name, sizeof r->name, "%s", slash && slash[1] ? slash + 1 : path);
    r->is_run = ebb_file_is_dir(path);
    r->run = json_object();
    ebb_status_t status = r->run ? EBB_OK : EBB_FAIL(EBB_ENOMEM, "out of memory for a report");
    if (status == EBB_OK && r->is_run)
        status = read_run(r);
    if (status == EBB_OK)
        status = read_ledger(r);
    if (status != EBB_OK) {
        ebb_report_close(r);
        return status;
    }
    *report_p = r;
    return EBB_OK;
}

void ebb_report_close(ebb_report_t *r)
{
    if (!r)
        return;
    json_decref(r->run);
    ebb_ledger_free(r->rows);
    ebb_free(r->progress);
    ebb_free(r->valid);
    ebb_free(r);
}

const ebb_ledger_sums_t *ebb_report_sums(const ebb_report_t *r)
{
    return &r->sums;
}

const ebb_ledger_row_t *ebb_report_rows(const ebb_report_t *r, int64_t *n_p)
{
    *n_p = r->n;
    return r->rows;
}

void ebb_report_span(const ebb_report_t *r, double *begin_p, double *end_p)
{
    *begin_p = r->n > 0 ? r->rows[0].begin : 0;
    *end_p = *begin_p;
    for (int64_t i = 0; i < r->n; i++) {
        *begin_p = fmin(*begin_p, r->rows[i].begin);
        *end_p = fmax(*end_p, r->rows[i].end);
    }
}

double ebb_report_units(const ebb_report_t *r, const char **unit_p)
{
    double rows = number(json_object_get(r->run, "work"), "rows");
    *unit_p = rows > 0 ? "million rows trained on" : r->is_run ? "run" : "ledger";
    return rows > 0 ? rows / 1e6 : 1;
}

double ebb_report_sci(const ebb_report_t *r)
{
    const char *unit;
    double embodied = isnan(r->sums.embodied_g) ? 0 : r->sums.embodied_g;
    return (r->sums.grams + embodied) / ebb_report_units(r, &unit);
}

/* ---- JSON ---- */

/* Unknown figures are null. */
static json_t *real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *utc(double time)
{
    char text[32];
    if (!(time > 0))
        return json_null();
    ebb_format_utc(time, text, sizeof text);
    return json_string(text);
}

static json_t *energy_object(const ebb_report_t *r)
{
    const ebb_ledger_sums_t *s = &r->sums;
    json_t *o = json_object();
    json_object_set_new(o, "job_joules", real(s->job_j));
    json_object_set_new(o, "job_joules_low", real(s->job_low_j));
    json_object_set_new(o, "job_joules_high", real(s->job_high_j));
    json_object_set_new(o, "others_joules", real(s->others_j));
    json_object_set_new(o, "idle_joules", real(s->idle_j));
    json_object_set_new(o, "hosts_joules", real(s->node_j));
    json_object_set_new(o, "measured_joules", real(s->measured_j));
    json_object_set_new(o, "measured_share", real(s->node_j > 0 ? s->measured_j / s->node_j : NAN));
    json_object_set_new(o, "gpu_joules", real(s->gpu_j));
    json_object_set_new(o, "facility_joules", real(s->facility_j));
    json_object_set_new(o, "cpu_seconds", real(s->cpu_seconds));
    json_object_set_new(o, "mean_watts", real(s->host_s > 0 ? s->job_j / s->host_s : NAN));
    json_object_set_new(o, "gpus", ebb_report_gpus(r));
    return o;
}

static bool same_intensity(const ebb_ledger_row_t *a, const ebb_ledger_row_t *b)
{
    return a->rung == b->rung && a->signal == b->signal && a->scope == b->scope && strcmp(a->source, b->source) == 0 &&
           strcmp(a->zone, b->zone) == 0;
}

/* Joules and grams of work by where the intensity came from, in the order of first use. */
static json_t *intensity_list(const ebb_report_t *r)
{
    enum { MOST = 64 };
    const ebb_ledger_row_t *kind[MOST];
    double joules[MOST] = {0}, grams[MOST] = {0};
    int n = 0;
    json_t *list = json_array();
    for (int64_t i = 0; i < r->n; i++) {
        const ebb_ledger_row_t *row = &r->rows[i];
        int k = 0;
        if (!row->host[0])
            continue;
        while (k < n && !same_intensity(kind[k], row))
            k++;
        if (k == n && n < MOST)
            kind[n++] = row;
        k = k < MOST ? k : MOST - 1;
        joules[k] += row->job_j;
        grams[k] += row->job_j / 3.6e6 * row->pue * row->intensity;
    }
    for (int k = 0; k < n; k++) {
        json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:f}", "from", ebb_carbon_rung_name(kind[k]->rung), "source",
                              kind[k]->source, "zone", kind[k]->zone, "signal", ebb_carbon_signal_name(kind[k]->signal),
                              "scope", ebb_carbon_scope_name(kind[k]->scope), "job_joules", joules[k]);
        json_object_set_new(o, "grams_co2e", real(grams[k]));
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *carbon_object(const ebb_report_t *r)
{
    const ebb_ledger_sums_t *s = &r->sums;
    json_t *o = json_object();
    json_object_set_new(o, "grams_co2e", real(s->grams));
    json_object_set_new(o, "grams_co2e_low", real(isnan(s->grams) ? NAN : s->low_g));
    json_object_set_new(o, "grams_co2e_high", real(isnan(s->grams) ? NAN : s->high_g));
    json_object_set_new(o, "known_grams_co2e", real(isnan(s->grams) ? NAN : s->known_g));
    json_object_set_new(o, "assumed_grams_co2e", real(isnan(s->grams) ? NAN : s->assumed_g));
    json_object_set_new(o, "unknown_joules", real(s->unknown_j));
    json_object_set_new(o, "mean_intensity", real(s->facility_j > 0 ? s->grams / (s->facility_j / 3.6e6) : NAN));
    json_object_set_new(o, "pue", real(s->job_j > 0 ? s->facility_j / s->job_j : NAN));
    json_object_set_new(o, "idle_grams_co2e", real(isnan(s->grams) ? NAN : s->idle_g));
    json_object_set_new(o, "asap_grams_co2e", real(s->asap_g));
    json_object_set_new(o, "saved_percent", real(s->asap_g > 0 ? 100 * (1 - s->grams / s->asap_g) : NAN));
    json_object_set_new(o, "embodied_grams_co2e", real(s->embodied_g));
    json_object_set_new(o, "mixed", json_boolean(s->mixed));
    json_object_set_new(o, "intensities", intensity_list(r));
    return o;
}

static json_t *sci_object(const ebb_report_t *r)
{
    const char *unit;
    char text[96];
    double units = ebb_report_units(r, &unit);
    json_t *o = json_object();
    snprintf(text, sizeof text, "gCO2e per %s", unit);
    json_object_set_new(o, "value", real(ebb_report_sci(r)));
    json_object_set_new(o, "unit", json_string(text));
    json_object_set_new(o, "units", real(units));
    json_object_set_new(o, "operational_grams_co2e", real(r->sums.grams));
    json_object_set_new(o, "embodied_grams_co2e", real(r->sums.embodied_g));
    return o;
}

static void copy(const ebb_report_t *r, json_t *to, const char *key)
{
    json_t *value = json_object_get(r->run, key);
    if (value)
        json_object_set(to, key, value);
}

json_t *ebb_report_object(const ebb_report_t *r)
{
    static const char *const copied[] = {
        "outcome",          "error",  "started",  "ended",   "work",     "seconds", "metrics", "weights_sha256",
        "optimizer_sha256", "starts", "restarts", "resizes", "rollbacks"};
    json_t *o = json_object(), *ledger = json_object(), *time = json_object();
    json_object_set_new(o, "name", json_string(r->name));
    for (size_t i = 0; i < sizeof copied / sizeof *copied; i++)
        copy(r, o, copied[i]);
    json_object_set_new(time, "submitted", utc(r->submitted));
    json_object_set_new(time, "first_work", utc(r->sums.begin));
    json_object_set_new(time, "last_work", utc(r->sums.end));
    json_object_set_new(time, "work_seconds", real(r->sums.work_s));
    json_object_set_new(time, "host_seconds", real(r->sums.host_s));
    json_object_set_new(o, "time", time);
    json_object_set_new(o, "energy", energy_object(r));
    json_object_set_new(o, "carbon", carbon_object(r));
    json_object_set_new(o, "sci", sci_object(r));
    json_object_set_new(ledger, "rows", json_integer(r->n));
    json_object_set_new(ledger, "hash", json_string(r->n > 0 ? r->rows[r->n - 1].hash : EBB_LEDGER_GENESIS));
    json_object_set_new(o, "ledger", ledger);
    return o;
}

char *ebb_report_json(const ebb_report_t *r)
{
    json_t *o = ebb_report_object(r);
    char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
    json_decref(o);
    return text;
}
