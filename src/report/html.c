/* One page that needs nothing else: style, drawings and tables. */
#include "report/internal.h"
#include "report/plot.h"

#include "base/clock.h"
#include "base/file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char style[] =
    ":root{color-scheme:light dark;--paper:#fbfaf7;--card:#ffffff;--ink:#1f2328;--soft:#5c6670;--rule:#e2e0da;"
    "--work:#2e9e6b33;--job:#2e8b63;--others:#c9a24d;--idle:#c3c8cf;--grid:#5b54c4;--asap:#d9662b;--loss:#b3396a;"
    "--valid:#2676b8;--rows:#2e8b63;--stall:#c07a1c}"
    "@media(prefers-color-scheme:dark){:root{--paper:#15181c;--card:#1d2126;--ink:#e8e6e1;--soft:#9aa4af;"
    "--rule:#343a42;--work:#43c48a33;--job:#43b383;--others:#b08c3c;--idle:#4d5560;--grid:#9d97ff;--asap:#ff9259;"
    "--loss:#f07aa6;--valid:#6cb4ee;--rows:#43b383;--stall:#e2a34c}}"
    "*{box-sizing:border-box}"
    "body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.45 system-ui,-apple-system,'Segoe UI',"
    "'DejaVu Sans',sans-serif}"
    "main{max-width:980px;margin:0 auto;padding:28px 20px 48px}"
    "h1{font-size:25px;margin:0 0 2px;letter-spacing:-.01em;overflow-wrap:anywhere}h2{font-size:16px;margin:28px 0 8px}"
    "p{margin:4px 0;color:var(--soft)}"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(205px,1fr));gap:12px;margin:20px 0}"
    ".tile,.card{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:12px 16px}"
    ".tile b{display:block;font-size:23px;font-weight:600;letter-spacing:-.01em}"
    ".tile span{color:var(--soft);font-size:13px;display:block}.tile "
    "i{font-style:normal;font-size:13px;color:var(--soft)}"
    ".card{padding:14px 18px;margin:0 0 "
    "14px}.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(380px,1fr));"
    "gap:14px}.pair .card{margin:0}"
    "svg{display:block;width:100%;height:auto;overflow:visible}"
    "svg text{font:12px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:var(--ink)}"
    "svg .title{font-size:14.5px;font-weight:600}svg .tick,svg .unit{fill:var(--soft)}svg "
    ".note{font-size:11px;fill:var(--soft)}"
    ".grid{stroke:var(--rule)}.axis{stroke:var(--soft)}.mark{stroke:var(--soft);stroke-dasharray:2 3}"
    ".line{fill:none;stroke-width:1.7;stroke-linejoin:round;stroke-linecap:round}.grid-line{stroke:var(--grid)}"
    ".loss-line{stroke:var(--loss)}.valid-line{stroke:var(--valid)}.rows-line{stroke:var(--rows)}"
    ".stall-line{stroke:var(--stall)}"
    ".work{fill:var(--work)}.asap{fill:var(--asap)}.grid-swatch{fill:var(--grid)}.power-job{fill:var(--job)}"
    ".power-others{fill:var(--others)}.power-idle{fill:var(--idle)}"
    "table{border-collapse:collapse;width:100%;font-size:14px}th{text-align:left;font-weight:500;color:var(--soft)}"
    "td,th{padding:5px 14px 5px 0;border-bottom:1px solid var(--rule);vertical-align:top}tr:last-child "
    "td{border-bottom:0}"
    "td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}th.n{text-align:right}"
    "code{font:12.5px ui-monospace,'DejaVu Sans Mono',monospace;overflow-wrap:anywhere}"
    ".scroll{overflow-x:auto}@media print{.tile,.card{break-inside:avoid}}";

/* ---- figures ---- */

/* Three digits and a prefix: "12.3 kJ", "0.45 g". */
static const char *figure(double value, const char *unit, char text[48])
{
    static const struct {
        double scale;
        const char *prefix;
    } prefixes[] = {{1e9, "G"}, {1e6, "M"}, {1e3, "k"}, {1, ""}, {1e-3, "m"}, {1e-6, "\u00b5"}};
    if (isnan(value)) {
        snprintf(text, 48, "not known");
        return text;
    }
    size_t i = 0;
    while (i < 5 && fabs(value) < prefixes[i].scale * 0.9995)
        i++;
    double shown = value == 0 ? 0 : value / prefixes[i].scale;
    int digits = fabs(shown) < 9.995 ? 2 : fabs(shown) < 99.95 ? 1 : 0;
    snprintf(text, 48, "%.*f %s%s", shown == 0 ? 0 : digits, shown, value == 0 ? "" : prefixes[i].prefix, unit);
    return text;
}

static const char *watt_hours(double joules, char text[48])
{
    return figure(joules / 3600, "Wh", text);
}

static const char *minute(double time, char text[32])
{
    ebb_format_utc(time, text, 32);
    text[10] = ' ';
    text[16] = 0;
    return text;
}

/* ---- head ---- */

static void add_tile(ebb_text_t *out, const char *name, const char *value, const char *note)
{
    ebb_text_add(out, "<div class=\"tile\"><span>%s</span><b>", name);
    ebb_html_text(out, value);
    ebb_text_add(out, "</b><i>");
    ebb_html_text(out, note);
    ebb_text_add(out, "</i></div>\n");
}

static void add_energy_tile(const ebb_report_t *r, ebb_text_t *out)
{
    const ebb_ledger_sums_t *s = &r->sums;
    char value[48], low[48], high[48], note[160];
    bool exact = s->job_high_j <= s->job_low_j * (1 + 1e-9);
    if (exact)
        snprintf(note, sizeof note, "measured; %s with idling and others", watt_hours(s->node_j, low));
    else
        snprintf(note, sizeof note, "%s: %s to %s", s->measured_j > 0 ? "partly estimated" : "estimated",
                 watt_hours(s->job_low_j, low), watt_hours(s->job_high_j, high));
    add_tile(out, "Energy of the job", watt_hours(s->job_j, value), note);
}

static void add_carbon_tile(const ebb_report_t *r, ebb_text_t *out)
{
    const ebb_ledger_sums_t *s = &r->sums;
    char value[48], low[48], high[48], note[160];
    if (isnan(s->grams))
        snprintf(note, sizeof note, "no intensity: set carbon.zone");
    else if (s->unknown_j > 0)
        snprintf(note, sizeof note, "%.0f %% of the energy at unknown intensity, taken as the highest",
                 100 * s->unknown_j / s->job_j);
    else
        snprintf(note, sizeof note, "%s to %s; mean %.0f g/kWh", figure(s->low_g, "g", low),
                 figure(s->high_g, "g", high), s->grams / (s->facility_j / 3.6e6));
    add_tile(out, "Emissions, CO\u2082e", figure(s->grams, "g", value), note);
}

static void add_asap_tile(const ebb_report_t *r, ebb_text_t *out)
{
    const ebb_ledger_sums_t *s = &r->sums;
    char value[48], note[160], asap[48];
    double change = 100 * (s->grams / s->asap_g - 1);
    if (!(s->asap_g > 0) || isnan(s->grams)) {
        add_tile(out, "Against starting at once", "not known", "the grid of those hours is not known");
        return;
    }
    snprintf(value, sizeof value, "%s%.1f %%", change <= -0.05 ? "\u2212" : change >= 0.05 ? "+" : "", fabs(change));
    snprintf(note, sizeof note, "%s without waiting and pauses", figure(s->asap_g, "g", asap));
    add_tile(out, "Against starting at once", value, note);
}

static void add_sci_tile(const ebb_report_t *r, ebb_text_t *out)
{
    const char *unit;
    char value[48], embodied[48], note[160];
    double m = r->sums.embodied_g;
    ebb_report_units(r, &unit);
    if (isnan(m))
        snprintf(note, sizeof note, "per %s; M not counted", unit);
    else
        snprintf(note, sizeof note, "per %s; M %s", unit, figure(m, "g", embodied));
    add_tile(out, "SCI = (E\u00b7I + M) / R", figure(ebb_report_sci(r), "g", value), note);
}

static void add_head(const ebb_report_t *r, ebb_text_t *out)
{
    char a[32], b[32], time[32];
    const char *outcome = json_string_value(json_object_get(r->run, "outcome"));
    ebb_text_add(out, "<h1>");
    ebb_html_text(out, r->name);
    ebb_text_add(out, "</h1>\n<p>");
    if (outcome)
        ebb_html_text(out, outcome);
    if (r->sums.work_rows > 0)
        ebb_text_add(out, "%s%s to %s UTC, working %s of it", outcome ? " \u00b7 " : "", minute(r->sums.begin, a),
                     minute(r->sums.end, b), ebb_format_duration(r->sums.work_s, time, sizeof time));
    if (r->submitted > 0)
        ebb_text_add(out, " \u00b7 submitted %s UTC", minute(r->submitted, a));
    ebb_text_add(out, "</p>\n");
    if (r->sums.work_rows == 0)
        return;
    ebb_text_add(out, "<div class=\"tiles\">\n");
    add_carbon_tile(r, out);
    add_asap_tile(r, out);
    add_energy_tile(r, out);
    add_sci_tile(r, out);
    ebb_text_add(out, "</div>\n");
}

/* ---- charts ---- */

static void add_card(const ebb_report_t *r, void (*chart)(const ebb_report_t *, ebb_text_t *), ebb_text_t *out)
{
    ebb_text_t drawing = {0};
    chart(r, &drawing);
    const char *end, *at = drawing.s ? drawing.s : "";
    for (; (end = strstr(at, "</svg>")); at = end + 7) { /* a card for each drawing */
        ebb_text_add(out, "<div class=\"card\">");
        ebb_text_append(out, at, (size_t)(end + 7 - at));
        ebb_text_add(out, "</div>\n");
    }
    out->failed |= drawing.failed;
    ebb_text_free(&drawing);
}

static void add_charts(const ebb_report_t *r, ebb_text_t *out)
{
    add_card(r, ebb_chart_grid, out);
    add_card(r, ebb_chart_power, out);
    ebb_text_add(out, "<div class=\"pair\">\n");
    add_card(r, ebb_chart_loss, out);
    add_card(r, ebb_chart_throughput, out);
    add_card(r, ebb_chart_stall, out);
    ebb_text_add(out, "</div>\n");
}

/* ---- tables ---- */

static void add_cell(ebb_text_t *out, const char *text)
{
    ebb_text_add(out, "<td>");
    ebb_html_text(out, text && *text ? text : "\u2013");
    ebb_text_add(out, "</td>");
}

static void add_certainty(const ebb_report_t *r, ebb_text_t *out)
{
    json_t *report = ebb_report_object(r), *entry;
    size_t i;
    const char *const columns[] = {"from", "signal", "scope", "zone", "source"};
    ebb_text_add(out, "<h2>How sure</h2>\n<div class=\"card scroll\"><table><tr><th>intensity from</th><th>signal</th>"
                      "<th>emissions</th><th>zone</th><th>source</th><th class=\"n\">energy</th><th "
                      "class=\"n\">CO\u2082e</th></tr>\n");
    json_array_foreach(json_object_get(json_object_get(report, "carbon"), "intensities"), i, entry)
    {
        char text[48];
        json_t *grams = json_object_get(entry, "grams_co2e");
        ebb_text_add(out, "<tr>");
        for (int c = 0; c < 5; c++)
            add_cell(out, json_string_value(json_object_get(entry, columns[c])));
        ebb_text_add(out, "<td class=\"n\">%s</td>",
                     watt_hours(json_number_value(json_object_get(entry, "job_joules")), text));
        ebb_text_add(out, "<td class=\"n\">%s</td></tr>\n",
                     figure(json_is_number(grams) ? json_number_value(grams) : NAN, "g", text));
    }
    ebb_text_add(out, "</table>\n<p>");
    const ebb_ledger_sums_t *s = &r->sums;
    char a[48], b[48], c[48];
    ebb_text_add(out, "%.0f %% of what the hosts drew was measured. ",
                 s->node_j > 0 ? 100 * s->measured_j / s->node_j : 0);
    ebb_text_add(out, "Hosts: %s, of which this job %s and idling %s, which is not charged to it. ",
                 watt_hours(s->node_j, a), watt_hours(s->job_j, b), watt_hours(s->idle_j, c));
    ebb_text_add(out, "PUE %.3g. ", s->job_j > 0 ? s->facility_j / s->job_j : 1.0);
    for (int64_t k = r->n - 1; k >= 0; k--)
        if (r->rows[k].host[0]) {
            ebb_text_add(out, "By ");
            ebb_html_text(out, r->rows[k].meter);
            ebb_text_add(out, ".");
            break;
        }
    if (s->mixed)
        ebb_text_add(
            out,
            " <b>Intensities of different kinds (average and marginal, or direct and life-cycle) are in one sum.</b>");
    ebb_text_add(out, "</p></div>\n");
    json_decref(report);
}

/* Mean and maximum of a figure; scale: what it is divided by. */
static void add_gauge(ebb_text_t *out, const json_t *gpu, const char *key, double scale, const char *unit)
{
    static const char *const parts[] = {"mean", "max"};
    const json_t *gauge = json_object_get(gpu, key);
    for (int i = 0; i < 2; i++) {
        double value = json_number_value(json_object_get(gauge, parts[i])) / scale;
        if (json_is_object(gauge))
            ebb_text_add(out, "<td class=\"n\">%.*f %s</td>", value < 99.95 ? 1 : 0, value, unit);
        else
            ebb_text_add(out, "<td class=\"n\">not known</td>");
    }
}

static void add_gpu(ebb_text_t *out, const json_t *gpu)
{
    json_t *joules = json_object_get(gpu, "joules");
    char text[48];
    ebb_text_add(out, "<tr>");
    add_cell(out, json_string_value(json_object_get(gpu, "host")));
    ebb_text_add(out, "<td class=\"n\">%lld</td>", (long long)json_integer_value(json_object_get(gpu, "index")));
    add_cell(out, json_string_value(json_object_get(gpu, "name")));
    add_gauge(out, gpu, "busy_percent", 1, "%");
    add_gauge(out, gpu, "memory_busy_percent", 1, "%");
    add_gauge(out, gpu, "memory_used_bytes", 1 << 30, "GiB");
    ebb_text_add(out, "<td class=\"n\">%s</td></tr>\n",
                 watt_hours(json_is_number(joules) ? json_number_value(joules) : NAN, text));
}

static void add_gpus(const ebb_report_t *r, ebb_text_t *out)
{
    static const char *const columns[] = {"busy",        "at most", "memory busy", "at most",
                                          "memory used", "at most", "energy"};
    json_t *gpu, *gpus = ebb_report_gpus(r);
    size_t i, n = json_array_size(gpus);
    if (n > 0)
        ebb_text_add(out, "<h2>GPUs</h2>\n<div class=\"card scroll\"><table><tr><th>host</th><th class=\"n\">GPU</th>"
                          "<th>name</th>");
    for (i = 0; n > 0 && i < sizeof columns / sizeof *columns; i++)
        ebb_text_add(out, "<th class=\"n\">%s</th>", columns[i]);
    ebb_text_add(out, n > 0 ? "</tr>\n" : "");
    json_array_foreach(gpus, i, gpu) add_gpu(out, gpu);
    ebb_text_add(out, n > 0 ? "</table></div>\n" : "");
    json_decref(gpus);
}

static void add_starts(const ebb_report_t *r, ebb_text_t *out)
{
    json_t *start, *starts = json_object_get(r->run, "starts");
    size_t i;
    if (json_array_size(starts) == 0)
        return;
    ebb_text_add(out, "<h2>Starts</h2>\n<div class=\"card scroll\"><table><tr><th class=\"n\">ranks</th><th>hosts</th>"
                      "<th>started</th><th>ended</th><th>outcome</th></tr>\n");
    json_array_foreach(starts, i, start)
    {
        json_t *host;
        size_t h;
        ebb_text_t hosts = {0};
        json_array_foreach(json_object_get(start, "hosts"), h, host)
            ebb_text_add(&hosts, "%s%s", h == 0 ? "" : ", ", json_string_value(json_object_get(host, "host")));
        ebb_text_add(out, "<tr><td class=\"n\">%lld</td>",
                     (long long)json_integer_value(json_object_get(start, "ranks")));
        add_cell(out, hosts.s);
        add_cell(out, json_string_value(json_object_get(start, "started")));
        add_cell(out, json_string_value(json_object_get(start, "ended")));
        add_cell(out, json_string_value(json_object_get(start, "outcome")));
        ebb_text_add(out, "</tr>\n");
        ebb_text_free(&hosts);
    }
    ebb_text_add(out, "</table></div>\n");
}

/* Lists that the supervisor keeps. */
static void add_changes(const ebb_report_t *r, const char *key, const char *heading, ebb_text_t *out)
{
    json_t *change, *list = json_object_get(r->run, key);
    size_t i;
    if (json_array_size(list) == 0)
        return;
    ebb_text_add(out,
                 "<h2>%s</h2>\n<div class=\"card scroll\"><table><tr><th>time</th><th class=\"n\">step</th>"
                 "<th class=\"n\">ranks before</th><th class=\"n\">ranks</th><th>reason</th></tr>\n",
                 heading);
    json_array_foreach(list, i, change)
    {
        static const char *const numbers[] = {"step", "ranks_before", "ranks"};
        ebb_text_add(out, "<tr>");
        add_cell(out, json_string_value(json_object_get(change, "time")));
        for (int k = 0; k < 3; k++)
            ebb_text_add(out, "<td class=\"n\">%lld</td>",
                         (long long)json_integer_value(json_object_get(change, numbers[k])));
        add_cell(out, json_string_value(json_object_get(change, "reason")));
        ebb_text_add(out, "</tr>\n");
    }
    ebb_text_add(out, "</table></div>\n");
}

static void add_result(const ebb_report_t *r, ebb_text_t *out)
{
    static const char *const keys[] = {"weights_sha256", "optimizer_sha256"}, *const names[] = {"weights",
                                                                                                "optimiser state"};
    const char *name;
    json_t *value;
    ebb_text_add(out, "<h2>Result and evidence</h2>\n<div class=\"card\"><table>\n");
    json_object_foreach(json_object_get(r->run, "metrics"), name, value)
    {
        ebb_text_add(out, "<tr><td>validation ");
        ebb_html_text(out, name);
        ebb_text_add(out, "</td><td>%.5g</td></tr>\n", json_number_value(value));
    }
    for (int k = 0; k < 2; k++) {
        const char *hash = json_string_value(json_object_get(r->run, keys[k]));
        if (hash)
            ebb_text_add(out, "<tr><td>SHA-256 of %s</td><td><code>%s</code></td></tr>\n", names[k], hash);
    }
    if (r->n > 0)
        ebb_text_add(out, "<tr><td>ledger</td><td>%lld rows, chain verified up to <code>%s</code></td></tr>\n",
                     (long long)r->n, r->rows[r->n - 1].hash);
    ebb_text_add(out, "</table></div>\n");
}

ebb_status_t ebb_report_html(const ebb_report_t *r, const char *path)
{
    ebb_text_t out = {0};
    ebb_text_add(&out, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
                       "content=\"width=device-width,initial-scale=1\"><title>");
    ebb_html_text(&out, r->name);
    ebb_text_add(&out, "</title><style>%s</style></head><body><main>\n", style);
    add_head(r, &out);
    add_charts(r, &out);
    if (r->sums.work_rows > 0)
        add_certainty(r, &out);
    add_gpus(r, &out);
    add_starts(r, &out);
    add_changes(r, "restarts", "Restarts", &out);
    add_changes(r, "resizes", "Resizes", &out);
    add_result(r, &out);
    ebb_text_add(&out, "<p>Made by Ebb %s.</p></main></body></html>\n", ebb_version());
    ebb_status_t status =
        out.failed ? EBB_FAIL(EBB_ENOMEM, "out of memory for %s", path) : ebb_file_replace(path, out.s, out.n);
    ebb_text_free(&out);
    return status;
}
