/* Intensity from JSON: the replies of the services, told apart by their shape, and Ebb's own.
 *
 * What a reply says of itself (zone, unit, kind) is checked and kept; what a service's manual says (NESO counts direct
 * emissions and imports, Electricity Maps life-cycle unless asked otherwise, WattTime's co2_moer is marginal in
 * lb/MWh) is filled in. Values of the past and of the future come in one list from NESO: those with an "actual" have
 * come true. */
#include "carbon/internal.h"
#include "base/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define G_PER_KWH_OF_LB_PER_MWH 0.45359237

typedef struct reply {
    const char *origin;
    const ebb_carbon_read_options_t *options;
    ebb_carbon_series_t *series;
    double factor;  /* to g/kWh */
    int64_t step_s; /* of every point; 0: not said */
    bool forecast;
} reply_t;

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static ebb_status_t time_of(const reply_t *r, const json_t *object, const char *key, int64_t *time_p)
{
    const json_t *value = json_object_get(object, key);
    char place[200];
    if (json_is_integer(value)) {
        *time_p = json_integer_value(value);
        return EBB_OK;
    }
    if (!json_is_string(value))
        return EBB_FAIL(EBB_EDATA, "%s: \"%s\" is missing", r->origin, key);
    snprintf(place, sizeof place, "%.150s: ", r->origin);
    if (ebb_carbon_parse_time(json_string_value(value), time_p) != EBB_OK)
        return ebb_error_prefix("%s", place);
    return EBB_OK;
}

static void set_default(ebb_carbon_series_t *s, ebb_carbon_signal_t signal, ebb_carbon_scope_t scope)
{
    if (s->signal == EBB_CARBON_SIGNAL_UNKNOWN)
        s->signal = signal;
    if (s->scope == EBB_CARBON_SCOPE_UNKNOWN)
        s->scope = scope;
}

static ebb_status_t check_zone(const reply_t *r, const char *zone)
{
    const char *want = r->options ? r->options->zone : NULL;
    if (want && *zone && strcmp(want, zone) != 0)
        return EBB_FAIL(EBB_EDATA, "%s: is about zone %.40s, not %.40s", r->origin, zone, want);
    if (*zone)
        snprintf(r->series->zone, sizeof r->series->zone, "%s", zone);
    return EBB_OK;
}

/* One point: its value, null or absent ones counted. */
static ebb_status_t take(const reply_t *r, int64_t begin, int64_t end, const json_t *value, bool forecast,
                         bool estimated)
{
    double g = json_is_number(value) ? r->factor * json_number_value(value) : NAN;
    if (value && !json_is_number(value) && !json_is_null(value))
        g = -1; /* a text or a list: impossible */
    if (end == 0 && r->step_s > 0)
        end = begin + r->step_s;
    return ebb_carbon_take(r->series, r->options, begin, end, g, forecast, estimated);
}

/* ---- UK NESO ---- */

static ebb_status_t take_neso(const reply_t *r, const json_t *rows)
{
    size_t i;
    json_t *row;
    set_default(r->series, EBB_CARBON_AVERAGE, EBB_CARBON_DIRECT);
    json_array_foreach(rows, i, row)
    {
        const json_t *intensity = json_object_get(row, "intensity");
        const json_t *actual = json_object_get(intensity, "actual");
        bool came_true = json_is_number(actual) && json_number_value(actual) > 0;
        int64_t begin, end;
        EBB_TRY(time_of(r, row, "from", &begin));
        EBB_TRY(time_of(r, row, "to", &end));
        EBB_TRY(take(r, begin, end, came_true ? actual : json_object_get(intensity, "forecast"), !came_true, false));
    }
    return EBB_OK;
}

static ebb_status_t take_neso_region(const reply_t *r, const json_t *region)
{
    const char *postcode = text_of(region, "postcode");
    char zone[64];
    json_int_t id = json_integer_value(json_object_get(region, "regionid"));
    if (*postcode)
        snprintf(zone, sizeof zone, "GB-%.20s", postcode);
    else
        snprintf(zone, sizeof zone, "GB-%lld", (long long)id);
    EBB_TRY(check_zone(r, zone));
    return take_neso(r, json_object_get(region, "data"));
}

/* ---- Electricity Maps ---- */

static void note_emap_kind(const reply_t *r, const json_t *row)
{
    const char *kind = text_of(row, "emissionFactorType");
    ebb_carbon_scope_t said = strcmp(kind, "direct") == 0      ? EBB_CARBON_DIRECT
                              : strcmp(kind, "lifecycle") == 0 ? EBB_CARBON_LIFECYCLE
                                                               : EBB_CARBON_SCOPE_UNKNOWN;
    if (said != EBB_CARBON_SCOPE_UNKNOWN)
        r->series->scope = said;
}

static ebb_status_t take_emap_row(const reply_t *r, const json_t *row)
{
    int64_t begin;
    EBB_TRY(time_of(r, row, "datetime", &begin));
    note_emap_kind(r, row);
    return take(r, begin, 0, json_object_get(row, "carbonIntensity"), r->forecast,
                json_is_true(json_object_get(row, "isEstimated")));
}

static ebb_status_t take_emap(reply_t *r, const json_t *root)
{
    const json_t *list = json_object_get(root, "forecast");
    size_t i;
    json_t *row;
    EBB_TRY(check_zone(r, text_of(root, "zone")));
    r->forecast = list != NULL;
    list = list ? list : json_object_get(root, "history");
    list = list ? list : json_object_get(root, "data");
    if (json_object_get(root, "updatedAt") && time_of(r, root, "updatedAt", &r->series->generated_at) != EBB_OK)
        ebb_error_clear();
    if (!list)
        EBB_TRY(take_emap_row(r, root));
    json_array_foreach(list, i, row) EBB_TRY(take_emap_row(r, row));
    set_default(r->series, EBB_CARBON_AVERAGE, EBB_CARBON_LIFECYCLE);
    return EBB_OK;
}

/* ---- WattTime ---- */

static ebb_status_t note_unit(reply_t *r, const char *unit)
{
    static const struct {
        const char *name;
        double factor;
    } units[] = {{"lbs_co2_per_mwh", G_PER_KWH_OF_LB_PER_MWH},
                 {"lb_co2_per_mwh", G_PER_KWH_OF_LB_PER_MWH},
                 {"lbs/MWh", G_PER_KWH_OF_LB_PER_MWH},
                 {"lb/MWh", G_PER_KWH_OF_LB_PER_MWH},
                 {"kg/MWh", 1},
                 {"t/MWh", 1000},
                 {"kg/kWh", 1000},
                 {"gCO2eq/kWh", 1},
                 {"gCO2/kWh", 1},
                 {"g/kWh", 1}};
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(unit, units[i].name) == 0) {
            r->factor = units[i].factor;
            return EBB_OK;
        }
    }
    return EBB_FAIL(EBB_EDATA, "%s: unit \"%.40s\" is not an intensity's (lbs_co2_per_mwh, gCO2eq/kWh)", r->origin,
                    unit);
}

static ebb_status_t take_watttime_rows(const reply_t *r, const json_t *rows)
{
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        int64_t begin;
        EBB_TRY(time_of(r, row, "point_time", &begin));
        EBB_TRY(take(r, begin, 0, json_object_get(row, "value"), r->forecast, false));
    }
    return EBB_OK;
}

/* Newest of several forecasts. */
static const json_t *newest_forecast(const reply_t *r, const json_t *list, int64_t *made_p)
{
    const json_t *newest = NULL;
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item)
    {
        int64_t made;
        if (time_of(r, item, "generated_at", &made) != EBB_OK)
            ebb_error_clear();
        else if (!newest || made > *made_p) {
            newest = json_object_get(item, "forecast");
            *made_p = made;
        }
    }
    return newest;
}

static ebb_status_t take_watttime(reply_t *r, const json_t *root)
{
    const json_t *meta = json_object_get(root, "meta"), *rows = json_object_get(root, "data");
    const char *type = text_of(meta, "signal_type");
    if (*type && strcmp(type, "co2_moer") != 0 && strcmp(type, "co2_aoer") != 0)
        return EBB_FAIL(EBB_EDATA, "%s: signal %.40s is not carbon; ask for co2_moer", r->origin, type);
    set_default(r->series, strcmp(type, "co2_aoer") == 0 ? EBB_CARBON_AVERAGE : EBB_CARBON_MARGINAL, EBB_CARBON_DIRECT);
    EBB_TRY(check_zone(r, text_of(meta, "region")));
    EBB_TRY(note_unit(r, *text_of(meta, "units") ? text_of(meta, "units") : "lbs_co2_per_mwh"));
    r->step_s = json_integer_value(json_object_get(meta, "data_point_period_seconds"));
    r->step_s = r->step_s > 0 && r->step_s <= 86400 ? r->step_s : 0;
    r->forecast = json_object_get(meta, "generated_at") || json_object_get(meta, "generated_at_period_seconds");
    if (json_object_get(meta, "generated_at"))
        EBB_TRY(time_of(r, meta, "generated_at", &r->series->generated_at));
    if (json_object_get(json_array_get(rows, 0), "forecast"))
        rows = newest_forecast(r, rows, &r->series->generated_at);
    return take_watttime_rows(r, rows);
}

/* ---- Carbon Aware SDK ---- */

static ebb_status_t take_casdk_forecast(const reply_t *r, const json_t *item)
{
    size_t i;
    json_t *row;
    EBB_TRY(check_zone(r, text_of(item, "location")));
    if (json_object_get(item, "generatedAt"))
        EBB_TRY(time_of(r, item, "generatedAt", &r->series->generated_at));
    json_array_foreach(json_object_get(item, "forecastData"), i, row)
    {
        int64_t begin;
        double minutes = json_number_value(json_object_get(row, "duration"));
        EBB_TRY(time_of(r, row, "timestamp", &begin));
        int64_t end = minutes > 0 && minutes < 1e5 ? begin + (int64_t)(60 * minutes) : 0;
        EBB_TRY(take(r, begin, end, json_object_get(row, "value"), true, false));
    }
    return EBB_OK;
}

static ebb_status_t take_casdk(const reply_t *r, const json_t *root)
{
    const json_t *first = json_array_get(root, 0);
    size_t i;
    json_t *row;
    set_default(r->series, EBB_CARBON_SIGNAL_UNKNOWN, EBB_CARBON_SCOPE_UNKNOWN);
    if (json_object_get(first, "forecastData"))
        return take_casdk_forecast(r, first);
    json_array_foreach(root, i, row)
    {
        int64_t begin;
        EBB_TRY(check_zone(r, text_of(row, "location")));
        EBB_TRY(time_of(r, row, "time", &begin));
        EBB_TRY(take(r, begin, 0, json_object_get(row, "rating"), false, false));
    }
    return EBB_OK;
}

/* ---- Ebb's own ---- */

static ebb_status_t take_own(const reply_t *r, const json_t *root)
{
    size_t i;
    json_t *row;
    EBB_TRY(check_zone(r, text_of(root, "zone")));
    set_default(r->series, ebb_carbon_signal_named(text_of(root, "signal")),
                ebb_carbon_scope_named(text_of(root, "scope")));
    if (json_is_integer(json_object_get(root, "generated_at")) || json_is_string(json_object_get(root, "generated_at")))
        EBB_TRY(time_of(r, root, "generated_at", &r->series->generated_at));
    json_array_foreach(json_object_get(root, "points"), i, row)
    {
        int64_t begin, end = 0;
        EBB_TRY(time_of(r, row, "begin", &begin));
        if (json_object_get(row, "end"))
            EBB_TRY(time_of(r, row, "end", &end));
        EBB_TRY(take(r, begin, end, json_object_get(row, "g"), json_is_true(json_object_get(row, "forecast")),
                     json_is_true(json_object_get(row, "estimated"))));
    }
    return EBB_OK;
}

/* ---- which is it? ---- */

static ebb_status_t refuse_error(const reply_t *r, const json_t *root)
{
    const json_t *error = json_object_get(root, "error");
    const char *text = json_string_value(error);
    if (!text && json_is_object(error))
        text = *text_of(error, "message") ? text_of(error, "message") : text_of(error, "code");
    if (!text && json_object_size(root) == 1)
        text = json_string_value(json_object_get(root, "message"));
    if (!text)
        return EBB_OK;
    return EBB_FAIL(EBB_EUNAVAILABLE, "%s: the service answers: %.200s", r->origin, text);
}

static ebb_status_t take_reply(reply_t *r, const json_t *root)
{
    const json_t *data = json_object_get(root, "data"), *first = json_array_get(data, 0);
    if (json_is_array(root))
        return take_casdk(r, root);
    EBB_TRY(refuse_error(r, root));
    if (json_object_get(root, "points"))
        return take_own(r, root);
    if (json_object_get(root, "meta"))
        return take_watttime(r, root);
    if (json_object_get(first, "intensity"))
        return take_neso(r, data);
    if (json_is_object(data))
        return take_neso_region(r, data);
    if (json_is_array(json_object_get(first, "data")))
        return take_neso_region(r, first);
    if (json_object_get(root, "zone"))
        return take_emap(r, root);
    if (json_is_array(data) && json_array_size(data) == 0)
        return EBB_OK;
    return EBB_FAIL(EBB_EDATA, "%s: not a reply of a service that is known (an object with %d members)", r->origin,
                    (int)json_object_size(root));
}

ebb_status_t ebb_carbon_parse_json(const char *text, size_t bytes, const char *origin,
                                   const ebb_carbon_read_options_t *options, ebb_carbon_series_t *series)
{
    reply_t r = {.origin = origin, .options = options, .series = series, .factor = 1};
    json_t *root;
    EBB_TRY(ebb_json_parse(text, bytes, origin, &root));
    ebb_status_t status = take_reply(&r, root);
    json_decref(root);
    return status;
}
