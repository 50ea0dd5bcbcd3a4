/* ebb report, ebb compare: what a run drew, emitted and reached. */
#include "chart.h"
#include "commands.h"
#include "energy_show.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"

#include <ebb/report.h>

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ebb_status_t open_report(const char *name, ebb_report_t **report_p)
{
    char path[PATH_MAX], found[PATH_MAX], ledger[PATH_MAX];
    snprintf(path, sizeof path, "%s", ebb_run_named(name, found));
    for (size_t n = strlen(path); n > 1 && path[n - 1] == '/';)
        path[--n] = 0;
    if (!ebb_file_exists(path))
        return EBB_FAIL(EBB_ENOINPUT, "%s: no such run: give the name of a folder in runs/, a folder, or a ledger",
                        name);
    snprintf(ledger, sizeof ledger, "%s/run.json", path);
    if (ebb_file_is_dir(path) && !ebb_file_exists(ledger))
        return EBB_FAIL(EBB_ENOINPUT, "%s: no run: there is no run.json in it", path);
    return ebb_report_open(path, report_p);
}

/* ---- report ---- */

typedef struct report_options {
    bool json, html;
    char *output;
} report_options_t;

static const ebb_option_t options[] = {
    {.name = "json", .type = EBB_OPT_FLAG, .offset = offsetof(report_options_t, json), .help = "print JSON"},
    {.name = "html",
     .type = EBB_OPT_FLAG,
     .offset = offsetof(report_options_t, html),
     .help = "write one self-contained page, report.html in the run's folder, and print where it is"},
    {.name = "output",
     .letter = 'o',
     .type = EBB_OPT_STRING,
     .offset = offsetof(report_options_t, output),
     .unit = "file",
     .help = "of the page, in place of report.html"},
    {0},
};

static const ebb_example_t examples[] = {
    {"What a run took and emitted", "ebb report sections"},
    {"A page to send around", "ebb report runs/sections --html -o sections.html"},
    {"Figures, and their audit by a program that shares no code",
     "ebb report sections --json > report.json && cluster/audit runs/sections report.json"},
    {0},
};

enum { SLICES = 96 };

/* Intensity over time with the hours of work below; nothing if it is not known. */
static void show_chart(const ebb_report_t *report, ebb_text_t *out)
{
    double g[SLICES] = {0}, known[SLICES] = {0}, last = NAN;
    char mark[SLICES];
    int64_t n;
    const ebb_ledger_row_t *rows = ebb_report_rows(report, &n);
    const ebb_ledger_sums_t *s = ebb_report_sums(report);
    double begin = n > 0 ? floor(rows[0].begin / 60) * 60 : 0, step = ceil(fmax(s->end - begin, 60) / SLICES);
    if (isnan(s->highest) || s->end - begin < 1200)
        return;
    memset(mark, ' ', sizeof mark);
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = (int64_t)((rows[i].begin - begin) / step); k >= 0 && k < SLICES; k++) {
            double from = fmax(rows[i].begin, begin + (double)k * step),
                   to = fmin(rows[i].end, begin + (double)(k + 1) * step);
            if (to <= from)
                break;
            if (rows[i].host[0])
                mark[k] = '#';
            g[k] += isnan(rows[i].intensity) ? 0 : rows[i].intensity * (to - from);
            known[k] += isnan(rows[i].intensity) ? 0 : to - from;
        }
    for (int k = 0; k < SLICES; k++) {
        last = known[k] > 0 ? g[k] / known[k] : last;
        g[k] = isnan(last) ? 0 : last;
    }
    ebb_text_add(out, "g/kWh\n");
    ebb_chart(out, g, mark, SLICES, (int64_t)begin, (int64_t)step, ebb_stdout_width());
}

static void show_energy(const ebb_ledger_sums_t *s, ebb_text_t *out)
{
    char a[64], b[64];
    ebb_text_add(out, "energy  %s", energy_text(s->job_j, a, sizeof a));
    if (s->job_high_j > s->job_low_j * (1 + 1e-9))
        ebb_text_add(out, ", between %s and %s", energy_text(s->job_low_j, a, sizeof a),
                     energy_text(s->job_high_j, b, sizeof b));
    ebb_text_add(out, "; hosts %s, %.0f %% idling, %.0f %% measured\n", energy_text(s->node_j, a, sizeof a),
                 s->node_j > 0 ? 100 * s->idle_j / s->node_j : 0, s->node_j > 0 ? 100 * s->measured_j / s->node_j : 0);
}

static void show_carbon(const ebb_report_t *report, ebb_text_t *out)
{
    const ebb_ledger_sums_t *s = ebb_report_sums(report);
    int64_t n;
    const ebb_ledger_row_t *rows = ebb_report_rows(report, &n);
    if (isnan(s->grams)) {
        ebb_text_add(out, "carbon  not known: name the grid's zone by carbon.zone or EBB_CARBON_ZONE\n");
        return;
    }
    ebb_text_add(out, "carbon  %.4g g CO2e", s->grams);
    if (s->high_g > s->low_g * (1 + 1e-9))
        ebb_text_add(out, ", between %.3g and %.3g", s->low_g, s->high_g);
    ebb_text_add(out, "; %.0f g/kWh on average, PUE %.3g\n", s->grams / (s->facility_j / 3.6e6),
                 s->facility_j / s->job_j);
    if (s->asap_g > 0)
        ebb_text_add(out, "        %.4g g had it started at once and never paused: %.1f %% %s\n", s->asap_g,
                     fabs(100 * (1 - s->grams / s->asap_g)), s->grams <= s->asap_g ? "saved" : "more");
    for (int64_t i = n - 1; i >= 0; i--)
        if (rows[i].host[0] && !isnan(rows[i].intensity)) {
            ebb_text_add(out, "grid    %s, %s: %s, %s\n", rows[i].zone, rows[i].source,
                         ebb_carbon_signal_name(rows[i].signal), ebb_carbon_scope_name(rows[i].scope));
            break;
        }
    for (int k = EBB_CARBON_CACHED; k <= EBB_CARBON_TYPICAL; k++)
        if (s->rung_j[k] > 0)
            ebb_text_add(out, "        %.0f %% of the energy by %s\n", 100 * s->rung_j[k] / s->job_j,
                         ebb_carbon_rung_name((ebb_carbon_rung_t)k));
    if (s->unknown_j > 0)
        ebb_text_add(out,
                     "        %.0f %% of the energy at an intensity that is not known, taken as the highest seen\n",
                     100 * s->unknown_j / s->job_j);
    if (s->mixed)
        ebb_text_add(out, "        intensities of different kinds are in one sum\n");
}

static ebb_status_t show(const ebb_report_t *report, const json_t *json)
{
    ebb_text_t out = {0};
    char time[32];
    const ebb_ledger_sums_t *s = ebb_report_sums(report);
    const json_t *sci = json_object_get(json, "sci"), *time_of = json_object_get(json, "time");
    const char *outcome = json_string_value(json_object_get(json, "outcome"));
    ebb_text_add(&out, "run     %s%s%s\n", json_string_value(json_object_get(json, "name")), outcome ? ": " : "",
                 outcome ? outcome : "");
    if (s->work_rows > 0) {
        ebb_text_add(&out, "time    %s to %s, working %s of it\n",
                     json_string_value(json_object_get(time_of, "first_work")),
                     json_string_value(json_object_get(time_of, "last_work")),
                     ebb_format_duration(s->work_s, time, sizeof time));
        show_energy(s, &out);
        energy_gpus_text(json_object_get(json_object_get(json, "energy"), "gpus"), "        ", &out);
        show_carbon(report, &out);
    } else {
        ebb_text_add(&out, "energy  not known: there is no ledger\n");
    }
    if (json_is_number(json_object_get(sci, "value")))
        ebb_text_add(&out, "SCI     %.4g %s%s\n", json_number_value(json_object_get(sci, "value")),
                     json_string_value(json_object_get(sci, "unit")),
                     isnan(s->embodied_g) ? ", embodied emissions not counted" : "");
    show_chart(report, &out);
    if (!out.failed)
        fputs(out.s, stdout);
    ebb_status_t status = out.failed ? EBB_FAIL(EBB_ENOMEM, "out of memory for a report") : EBB_OK;
    ebb_text_free(&out);
    return status;
}

static ebb_status_t write_page(const report_options_t *o, const char *name, const ebb_report_t *report)
{
    char path[PATH_MAX], found[PATH_MAX];
    const char *run = ebb_run_named(name, found);
    if (!o->output && !ebb_file_is_dir(run))
        return EBB_FAIL(EBB_EUSAGE, "%s is a ledger alone: say where the page goes by --output", name);
    snprintf(path, sizeof path, "%s/report.html", run);
    EBB_TRY(ebb_report_html(report, o->output ? o->output : path));
    printf("%s\n", o->output ? o->output : path);
    return EBB_OK;
}

static ebb_status_t run(void *opts, int n_operands, char **operands)
{
    const report_options_t *o = opts;
    ebb_report_t *report;
    json_t *json = NULL;
    EBB_TRY(open_report(operands[0], &report));
    char *text = ebb_report_json(report);
    ebb_status_t status = text ? ebb_json_parse(text, strlen(text), "the report", &json)
                               : EBB_FAIL(EBB_ENOMEM, "out of memory for a report");
    if (status == EBB_OK && (o->html || o->output))
        status = write_page(o, operands[0], report);
    else if (status == EBB_OK && o->json)
        puts(text);
    else if (status == EBB_OK)
        status = show(report, json);
    json_decref(json);
    free(text);
    ebb_report_close(report);
    return status;
}

const ebb_command_t cmd_report = {
    .name = "report",
    .help = "Tell what a run drew, emitted and reached",
    .operands = "NAME|FOLDER|LEDGER",
    .about =
        "Reads the run's record, metrics and ledger, whose chain of hashes is verified first. Emissions are the job's\n"
        "joules times PUE times the grid's intensity at that time; where that was not known they are taken as the\n"
        "highest seen, and how much is told. SCI = (E*I + M) / R, R a million rows trained on.\n",
    .min_operands = 1,
    .max_operands = 1,
    .options = options,
    .options_bytes = sizeof(report_options_t),
    .examples = examples,
    .run = run,
};

/* ---- compare ---- */

typedef struct compare_options {
    bool json;
} compare_options_t;

static const ebb_option_t compare_table[] = {
    {.name = "json", .type = EBB_OPT_FLAG, .offset = offsetof(compare_options_t, json), .help = "print JSON"},
    {0},
};

static const ebb_example_t compare_examples[] = {
    {"Did the plan cost bits or accuracy, and what did it save?", "ebb compare asap elastic"},
    {0},
};

/* A member by a dotted path. */
static const json_t *find(const json_t *object, const char *path)
{
    char key[64];
    const char *dot;
    while ((dot = strchr(path, '.'))) {
        snprintf(key, sizeof key, "%.*s", (int)(dot - path), path);
        object = json_object_get(object, key);
        path = dot + 1;
    }
    return json_object_get(object, path);
}

typedef struct figure {
    const char *name, *path, *unit;
    double scale;
} figure_t;

static const figure_t figures[] = {
    {"work", "time.work_seconds", "s", 1},
    {"energy", "energy.job_joules", "Wh", 1 / 3600.0},
    {"measured", "energy.measured_share", "%", 100},
    {"emissions", "carbon.grams_co2e", "g", 1},
    {"if at once", "carbon.asap_grams_co2e", "g", 1},
    {"intensity", "carbon.mean_intensity", "g/kWh", 1},
    {"SCI", "sci.value", "g", 1},
};

static void compare_row(ebb_text_t *out, const char *name, const json_t *a, const json_t *b, double scale)
{
    char x[32] = "not known", y[32] = "not known", change[32] = "";
    double va = json_number_value(a) * scale, vb = json_number_value(b) * scale;
    if (json_is_number(a))
        snprintf(x, sizeof x, "%.5g", va);
    if (json_is_number(b))
        snprintf(y, sizeof y, "%.5g", vb);
    if (json_is_number(a) && json_is_number(b) && va != 0 && va != vb)
        snprintf(change, sizeof change, "%+.1f %%", 100 * (vb / va - 1));
    ebb_text_add(out, "%-20s %14s %14s  %s\n", name, x, y, change);
}

static void compare_bits(ebb_text_t *out, const json_t *a, const json_t *b)
{
    const char *x = json_string_value(json_object_get(a, "weights_sha256"));
    const char *y = json_string_value(json_object_get(b, "weights_sha256"));
    const char *p = json_string_value(json_object_get(a, "optimizer_sha256"));
    const char *q = json_string_value(json_object_get(b, "optimizer_sha256"));
    if (!x || !y)
        ebb_text_add(out, "bits                 not known: %s has no result\n", x ? "the second" : "the first");
    else
        ebb_text_add(out, "bits                 weights %s, optimiser state %s\n",
                     strcmp(x, y) == 0 ? "equal" : "differ", p && q && strcmp(p, q) == 0 ? "equal" : "differs");
}

static void compare(ebb_text_t *out, const json_t *a, const json_t *b)
{
    const char *name;
    json_t *value;
    ebb_text_add(out, "%-20s %14.14s %14.14s\n", "", json_string_value(json_object_get(a, "name")),
                 json_string_value(json_object_get(b, "name")));
    compare_bits(out, a, b);
    json_object_foreach(json_object_get(a, "metrics"), name, value)
    {
        char label[64];
        snprintf(label, sizeof label, "valid %s", name);
        compare_row(out, label, value, json_object_get(json_object_get(b, "metrics"), name), 1);
    }
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++) {
        char label[64];
        snprintf(label, sizeof label, "%s, %s", figures[i].name, figures[i].unit);
        compare_row(out, label, find(a, figures[i].path), find(b, figures[i].path), figures[i].scale);
    }
}

static ebb_status_t load(const char *name, json_t **json_p)
{
    ebb_report_t *report;
    EBB_TRY(open_report(name, &report));
    char *text = ebb_report_json(report);
    ebb_report_close(report);
    ebb_status_t status = text ? ebb_json_parse(text, strlen(text), "the report", json_p)
                               : EBB_FAIL(EBB_ENOMEM, "out of memory for a report");
    free(text);
    return status;
}

static ebb_status_t run_compare(void *opts, int n_operands, char **operands)
{
    const compare_options_t *o = opts;
    json_t *a = NULL, *b = NULL;
    ebb_text_t out = {0};
    ebb_status_t status = load(operands[0], &a);
    if (status == EBB_OK)
        status = load(operands[1], &b);
    if (status == EBB_OK && o->json) {
        json_t *both = json_pack("[O, O]", a, b);
        json_dumpf(both, stdout, JSON_INDENT(2));
        putchar('\n');
        json_decref(both);
    } else if (status == EBB_OK) {
        compare(&out, a, b);
        fputs(out.s ? out.s : "", stdout);
    }
    ebb_text_free(&out);
    json_decref(a);
    json_decref(b);
    return status;
}

const ebb_command_t cmd_compare = {
    .name = "compare",
    .help = "Set two runs side by side: bits, accuracy, time, energy, carbon",
    .operands = "A B",
    .about = "Each is a run's name in runs/, its folder, or a ledger. With --json the two reports, as a list.\n",
    .min_operands = 2,
    .max_operands = 2,
    .options = compare_table,
    .options_bytes = sizeof(compare_options_t),
    .examples = compare_examples,
    .run = run_compare,
};
