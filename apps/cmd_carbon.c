/* ebb carbon now, forecast and zones: what is known of the grid's carbon intensity, and how well. */
#include "carbon_source.h"
#include "chart.h"
#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct carbon_options {
    source_options_t source;
    double hours, step;
} carbon_options_t;

typedef struct zones_options {
    bool json;
} zones_options_t;

static const ebb_option_t now_options[] = {SOURCE_OPTIONS(carbon_options_t), {0}};

static const ebb_option_t forecast_options[] = {
    {.name = "hours",
     .letter = 'n',
     .type = EBB_OPT_F64,
     .offset = offsetof(carbon_options_t, hours),
     .def = "48",
     .unit = "hours",
     .min = 0.1,
     .max = 8784,
     .help = "how far to look ahead"},
    {.name = "step",
     .type = EBB_OPT_F64,
     .offset = offsetof(carbon_options_t, step),
     .def = "60",
     .unit = "minutes",
     .min = 1,
     .max = 1440,
     .help = "length of a step"},
    SOURCE_OPTIONS(carbon_options_t),
    {0},
};

static const ebb_option_t zones_options[] = {
    {.name = "json", .type = EBB_OPT_FLAG, .offset = offsetof(zones_options_t, json), .help = "print JSON"},
    {0},
};

static ebb_status_t print_text(ebb_text_t *out)
{
    ebb_status_t status = out->failed ? EBB_FAIL(EBB_ENOMEM, "out of memory: output") : EBB_OK;
    if (status == EBB_OK)
        fputs(out->s, stdout);
    ebb_text_free(out);
    return status;
}

static ebb_status_t print_json(json_t *json)
{
    char *text = json ? json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(10)) : NULL;
    json_decref(json);
    if (!text)
        return EBB_FAIL(EBB_ENOMEM, "out of memory: JSON");
    puts(text);
    free(text);
    return EBB_OK;
}

typedef struct range {
    double least, most, mean;
    int64_t at_least, at_most;
} range_t;

static range_t range_of(const ebb_carbon_forecast_t *f)
{
    range_t r = {.least = INFINITY, .most = -INFINITY};
    for (int64_t i = 0; i < f->n; i++) {
        r.mean += f->g[i] / (double)f->n;
        if (f->g[i] < r.least) {
            r.least = f->g[i];
            r.at_least = f->begin + i * f->step_s;
        }
        if (f->g[i] > r.most) {
            r.most = f->g[i];
            r.at_most = f->begin + i * f->step_s;
        }
    }
    return r;
}

static ebb_status_t nothing_known(const ebb_carbon_forecast_t *f)
{
    if (f->count[EBB_CARBON_NOTHING] < f->n)
        return EBB_OK;
    return EBB_FAIL(EBB_EUNAVAILABLE, "nothing is known of the intensity%s%s", f->trouble[0] ? ": " : "", f->trouble);
}

static void add_summary(ebb_text_t *out, const ebb_carbon_forecast_t *f)
{
    char least[32], most[32];
    range_t r = range_of(f);
    ebb_text_add(out, "next %.0f h: mean %.0f, least %.0f at %s, most %.0f at %s (gCO2e/kWh)\n",
                 (double)(f->n * f->step_s) / 3600, r.mean, r.least, ebb_minute(r.at_least, least), r.most,
                 ebb_minute(r.at_most, most));
}

static ebb_status_t show_now(const carbon_options_t *o, const ebb_carbon_forecast_t *f)
{
    char time[32];
    ebb_text_t out = {0};
    EBB_TRY(nothing_known(f));
    const char *rung = ebb_carbon_rung_name((ebb_carbon_rung_t)f->rung[0]);
    if (o->source.json) {
        json_t *json = ebb_source_json(f);
        json_object_set_new(json, "g_per_kwh", f->rung[0] == EBB_CARBON_NOTHING ? json_null() : json_real(f->g[0]));
        json_object_set_new(json, "from", json_string(rung));
        return print_json(json);
    }
    if (f->rung[0] == EBB_CARBON_NOTHING)
        ebb_text_add(&out, "%s  not known\n", ebb_minute(f->begin, time));
    else
        ebb_text_add(&out, "%s  %.1f gCO2e/kWh (%s)\n", ebb_minute(f->begin, time), f->g[0], rung);
    ebb_source_describe(f, &out);
    add_summary(&out, f);
    ebb_chart(&out, f->g, NULL, f->n, f->begin, f->step_s, ebb_stdout_width());
    return print_text(&out);
}

static ebb_status_t run_now(void *target, int n_operands, char **operands)
{
    const carbon_options_t *o = target;
    ebb_carbon_forecast_t f;
    int64_t begin;
    EBB_TRY(ebb_source_look(&o->source, 1800, 48, &begin, &f));
    ebb_status_t status = show_now(o, &f);
    ebb_carbon_forecast_free(&f);
    return status;
}

static json_t *points_json(const ebb_carbon_forecast_t *f)
{
    json_t *points = json_array();
    for (int64_t i = 0; i < f->n; i++) {
        char time[32];
        bool known = f->rung[i] != EBB_CARBON_NOTHING;
        json_array_append_new(points, json_pack("{s:s, s:o, s:s}", "begin", ebb_minute(f->begin + i * f->step_s, time),
                                                "g", known ? json_real(f->g[i]) : json_null(), "from",
                                                ebb_carbon_rung_name((ebb_carbon_rung_t)f->rung[i])));
    }
    return points;
}

static ebb_status_t show_forecast(const carbon_options_t *o, const ebb_carbon_forecast_t *f)
{
    ebb_text_t out = {0};
    EBB_TRY(nothing_known(f));
    if (o->source.json) {
        json_t *json = ebb_source_json(f);
        json_object_set_new(json, "points", points_json(f));
        return print_json(json);
    }
    ebb_source_describe(f, &out);
    add_summary(&out, f);
    ebb_chart(&out, f->g, NULL, f->n, f->begin, f->step_s, ebb_stdout_width());
    return print_text(&out);
}

static ebb_status_t run_forecast(void *target, int n_operands, char **operands)
{
    const carbon_options_t *o = target;
    ebb_carbon_forecast_t f;
    int64_t begin, step = (int64_t)(60 * o->step), n = (int64_t)ceil(3600 * o->hours / (double)step);
    EBB_TRY(ebb_source_look(&o->source, step, n, &begin, &f));
    ebb_status_t status = show_forecast(o, &f);
    ebb_carbon_forecast_free(&f);
    return status;
}

/* Mean of a zone, and of its cleanest and dirtiest hour of a month. */
static range_t range_of_zone(const ebb_carbon_zone_t *z)
{
    range_t r = {.least = INFINITY, .most = -INFINITY};
    for (int m = 0; m < 12; m++) {
        for (int h = 0; h < 24; h++) {
            double g = z->tenths[m][h] / 10.0;
            r.mean += g / (12 * 24);
            r.least = fmin(r.least, g);
            r.most = fmax(r.most, g);
        }
    }
    return r;
}

static ebb_status_t run_zones(void *target, int n_operands, char **operands)
{
    const zones_options_t *o = target;
    json_t *array = o->json ? json_array() : NULL;
    if (!o->json)
        printf("%-13s %-21s %-8s %-10s %4s %6s %6s %6s  gCO2e/kWh by month and hour\n", "zone", "place", "signal",
               "scope", "year", "least", "mean", "most");
    for (const ebb_carbon_zone_t *z = ebb_carbon_zones(); z->name; z++) {
        range_t r = range_of_zone(z);
        if (o->json)
            json_array_append_new(array, json_pack("{s:s, s:s, s:s, s:s, s:i, s:s, s:f, s:f, s:f}", "zone", z->name,
                                                   "place", z->place, "signal", ebb_carbon_signal_name(z->signal),
                                                   "scope", ebb_carbon_scope_name(z->scope), "year", z->year, "source",
                                                   z->source, "least", r.least, "mean", r.mean, "most", r.most));
        else
            printf("%-13s %-21s %-8s %-10s %4d %6.0f %6.0f %6.0f\n", z->name, z->place,
                   ebb_carbon_signal_name(z->signal), ebb_carbon_scope_name(z->scope), z->year, r.least, r.mean,
                   r.most);
    }
    return o->json ? print_json(array) : EBB_OK;
}

static const ebb_example_t now_examples[] = {
    {"By the typical day of a zone", "ebb carbon now --zone DE"},
    {"From Great Britain's grid operator; no token is needed", "ebb carbon now --source neso"},
    {0},
};
static const ebb_example_t forecast_examples[] = {
    {"The next two days", "EBB_CARBON_TOKEN_FILE=~/.emaps ebb carbon forecast --source electricitymaps --zone DE"},
    {"A file, from some hour on", "ebb carbon forecast --file gb.csv --at 2023-06-12T08:00Z --hours 24 --step 30"},
    {0},
};
static const ebb_example_t zones_examples[] = {{"Names only", "ebb carbon zones --json | jq -r '.[].zone'"}, {0}};

const ebb_command_t cmd_carbon_now = {
    .name = "carbon now",
    .help = "The grid's carbon intensity now",
    .operands = "",
    .about =
        "Prints the intensity of this moment with its source and kind, and a chart of the next day.\n"
        "\n"
        "If the source does not answer in time, or with nulls, zeros, another zone or a stale curve, a lower rung\n"
        "is taken and named: what the source said earlier (the cache), the same hours of the last days, the zone's\n"
        "typical day. Services want a token in EBB_CARBON_TOKEN, or in the file that EBB_CARBON_TOKEN_FILE names,\n"
        "which nobody else may read: electricitymaps its token, watttime NAME:PASSWORD.\n",
    .options = now_options,
    .options_bytes = sizeof(carbon_options_t),
    .examples = now_examples,
    .run = run_now,
};

const ebb_command_t cmd_carbon_forecast = {
    .name = "carbon forecast",
    .help = "The grid's carbon intensity in the hours to come",
    .operands = "",
    .about = "Prints a chart, or with --json every step with the rung of the ladder it comes from. See carbon now.\n",
    .options = forecast_options,
    .options_bytes = sizeof(carbon_options_t),
    .examples = forecast_examples,
    .run = run_forecast,
};

const ebb_command_t cmd_carbon_zones = {
    .name = "carbon zones",
    .help = "Zones of which Ebb knows the typical day",
    .operands = "",
    .about = "Typical days are means by month and hour of published hourly data; year and kind of signal stand beside "
             "them.\n"
             "Services know many more zones, under names of their own.\n",
    .options = zones_options,
    .options_bytes = sizeof(zones_options_t),
    .examples = zones_examples,
    .run = run_zones,
};
