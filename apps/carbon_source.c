/* The options of a source of intensities: from the command line, else from EBB_CARBON_*; and what a look gave, for
 * people and as JSON. */
#include "carbon_source.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const ebb_scope_choices[] = {"any", "direct", "lifecycle", NULL};
const char *const ebb_signal_choices[] = {"any", "average", "marginal", NULL};

static ebb_status_t need_zone(const ebb_carbon_source_options_t *o)
{
    if (o->kind != EBB_CARBON_TYPICAL_DAY || (o->zone && ebb_carbon_zone(o->zone, o->read.scope)))
        return EBB_OK;
    if (!o->zone)
        return EBB_FAIL(
            EBB_EUSAGE,
            "a zone is needed: --zone or EBB_CARBON_ZONE; `ebb carbon zones` lists those with a typical day");
    return EBB_FAIL(EBB_EUSAGE, "no typical day of zone \"%.60s\"; `ebb carbon zones` lists them", o->zone);
}

/* A file of the past is looked at from its beginning. */
static ebb_status_t begin_of_file(const ebb_carbon_source_options_t *o, int64_t now, int64_t *begin_p)
{
    ebb_carbon_series_t series;
    EBB_TRY(ebb_carbon_ask(o, now, &series));
    bool covers = series.point[series.n - 1].end > now && series.point[0].begin <= now + 7200;
    *begin_p = covers ? now : series.point[0].begin;
    ebb_carbon_series_free(&series);
    return EBB_OK;
}

static ebb_status_t find_begin(const source_options_t *options, const ebb_carbon_source_options_t *o, int64_t now,
                               int64_t *begin_p)
{
    *begin_p = now;
    if (options->at && ebb_carbon_parse_time(options->at, begin_p) != EBB_OK) {
        ebb_error_clear();
        return EBB_FAIL(EBB_EUSAGE, "--at: \"%.60s\" is not a time; write for example 2026-11-22T17:00Z", options->at);
    }
    if (!options->at && o->kind == EBB_CARBON_FILE)
        return begin_of_file(o, now, begin_p);
    return EBB_OK;
}

static ebb_carbon_words_t words_of(const source_options_t *o)
{
    return (ebb_carbon_words_t){.source = o->source,
                                .zone = o->zone,
                                .file = o->file,
                                .url = o->url,
                                .column = o->column,
                                .scope = o->scope > 0 ? ebb_scope_choices[o->scope] : NULL,
                                .signal = o->signal > 0 ? ebb_signal_choices[o->signal] : NULL};
}

static ebb_status_t resolve(const source_options_t *options, ebb_carbon_settings_t *s)
{
    ebb_carbon_words_t said = words_of(options);
    EBB_TRY(ebb_carbon_settings_of(&said, NULL, s));
    s->options.budget_s = options->timeout;
    s->options.read.zeros = options->zeros;
    if (options->no_cache)
        s->options.cache_dir = NULL;
    return need_zone(&s->options);
}

bool ebb_source_for_books(const source_options_t *o, ebb_carbon_settings_t *s)
{
    ebb_status_t status = resolve(o, s);
    if (!s->source && !s->zone && !s->file) { /* nobody wants any */
        ebb_error_clear();
        return false;
    }
    if (status == EBB_OK)
        return true;
    EBB_WARN("carbon", "intensity is booked as unknown: %s", ebb_error()->message);
    ebb_error_clear();
    return false;
}

ebb_status_t ebb_source_look(const source_options_t *options, int64_t step_s, int64_t n, int64_t *begin_p,
                             ebb_carbon_forecast_t *forecast)
{
    ebb_carbon_settings_t s;
    int64_t now = (int64_t)ebb_wall_seconds();
    ebb_status_t status = resolve(options, &s);
    if (status == EBB_OK)
        status = find_begin(options, &s.options, now, begin_p);
    if (status == EBB_OK) {
        *begin_p = *begin_p / 60 * 60;
        status = ebb_carbon_look(&s.options, options->at ? *begin_p : now, *begin_p, step_s, n, forecast);
    }
    ebb_carbon_settings_free(&s);
    return status;
}

const char *ebb_minute(int64_t time, char text[32])
{
    ebb_format_utc((double)time, text, 32);
    snprintf(text + 16, 16, "Z");
    return text;
}

void ebb_source_describe(const ebb_carbon_forecast_t *f, ebb_text_t *out)
{
    const char *comma = "";
    ebb_text_add(out, "source  %s%s%s: %s, %s\n", f->zone, f->zone[0] ? ", " : "", f->source[0] ? f->source : "none",
                 ebb_carbon_signal_name(f->signal), ebb_carbon_scope_name(f->scope));
    if (f->count[EBB_CARBON_LIVE] == f->n)
        return;
    ebb_text_add(out, "known   ");
    for (int r = 0; r < EBB_CARBON_RUNGS; r++) {
        if (f->count[r] == 0)
            continue;
        ebb_text_add(out, "%s%.1f h from %s", comma, (double)(f->count[r] * f->step_s) / 3600,
                     ebb_carbon_rung_name((ebb_carbon_rung_t)r));
        comma = ", ";
    }
    if (f->scale != 1)
        ebb_text_add(out, " (scaled by %.2f)", f->scale);
    ebb_text_add(out, "\n");
    if (f->trouble[0])
        ebb_text_add(out, "trouble %s\n", f->trouble);
}

json_t *ebb_source_json(const ebb_carbon_forecast_t *f)
{
    char begin[32];
    json_t *hours = json_object();
    for (int r = 0; r < EBB_CARBON_RUNGS; r++)
        json_object_set_new(hours, ebb_carbon_rung_name((ebb_carbon_rung_t)r),
                            json_real((double)(f->count[r] * f->step_s) / 3600));
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:f, s:o, s:s}", "zone", f->zone, "source", f->source, "signal",
                     ebb_carbon_signal_name(f->signal), "scope", ebb_carbon_scope_name(f->scope), "begin",
                     ebb_minute(f->begin, begin), "step_s", (json_int_t)f->step_s, "typical_scale", f->scale,
                     "hours_from", hours, "trouble", f->trouble);
}
