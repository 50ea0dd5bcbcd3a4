/* Intensity from CSV files, in place: a heading names the columns, rows may come in any order.
 *
 * The column of times is "time", "datetime", "timestamp", "from", ... or the first; that of values is the one asked
 * for, the zone's own (files with a column per zone), a well-known name, or the only other one. */
#include "carbon/internal.h"
#include "base/text.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MOST_COLUMNS 512

typedef struct columns {
    int n, time, end, value, zone, estimated, unit;
    bool forecast; /* the values' column is one */
} columns_t;

/* Fields of the line at *text, ended in place; the next line is returned. */
static char *split_line(char *text, char **field, int *n_p)
{
    int n = 0;
    char *s = text;
    for (;;) {
        bool quoted = *s == '"';
        char *begin = quoted ? ++s : s, *end;
        s += quoted ? strcspn(s, "\"\n") : strcspn(s, ",;\t\n");
        end = s;
        if (quoted && *s == '"')
            s++;
        s += strcspn(s, ",;\t\n");
        char stop = *s;
        while (end > begin && (end[-1] == '\r' || end[-1] == ' '))
            end--;
        *end = 0;
        if (n < MOST_COLUMNS)
            field[n++] = begin + strspn(begin, " ");
        if (stop == 0 || stop == '\n') {
            *n_p = n;
            return stop ? s + 1 : NULL;
        }
        s++;
    }
}

static int column_named(char **field, int n, const char *const *names)
{
    for (; *names; names++)
        for (int i = 0; i < n; i++)
            if (strcasecmp(field[i], *names) == 0)
                return i;
    return -1;
}

static ebb_status_t no_column(const char *origin, const char *what, char **field, int n)
{
    ebb_text_t list = {0};
    for (int i = 0; i < n && i < 40; i++)
        ebb_text_add(&list, "%s%.40s", i ? ", " : "", field[i]);
    ebb_status_t status = EBB_FAIL(EBB_EDATA, "%s:1: no column %s among %s", origin, what, list.s ? list.s : "none");
    ebb_text_free(&list);
    return status;
}

/* Is every column but the time's and those understood taken by zones? Then the zone's name is the column. */
static ebb_status_t find_value(const char *origin, const ebb_carbon_read_options_t *o, char **field, columns_t *c)
{
    static const char *const names[] = {"actual",           "carbon_intensity_avg",
                                        "carbon_intensity", "Carbon Intensity",
                                        "carbonIntensity",  "intensity",
                                        "ci_direct",        "ci_lifecycle",
                                        "g_per_kwh",        "g",
                                        "gCO2/kWh",         "value",
                                        "forecast",         NULL};
    const char *asked[] = {o && o->column ? o->column : NULL, NULL}, *zone[] = {o ? o->zone : NULL, NULL};
    const char *scoped[] = {o && o->scope == EBB_CARBON_LIFECYCLE ? "ci_lifecycle" : "ci_direct", NULL};
    if (asked[0]) {
        c->value = column_named(field, c->n, asked);
        return c->value >= 0 ? EBB_OK : no_column(origin, asked[0], field, c->n);
    }
    c->value = zone[0] ? column_named(field, c->n, zone) : -1;
    if (c->value < 0 && o && o->scope != EBB_CARBON_SCOPE_UNKNOWN)
        c->value = column_named(field, c->n, scoped);
    if (c->value < 0)
        c->value = column_named(field, c->n, names);
    if (c->value < 0 && c->n == 2)
        c->value = 1 - c->time;
    return c->value >= 0 ? EBB_OK : no_column(origin, "of intensities (choose it by column or zone)", field, c->n);
}

static ebb_status_t read_heading(const char *origin, const ebb_carbon_read_options_t *o, char **field, int n,
                                 columns_t *c)
{
    static const char *const time[] = {"zone_datetime", "time_utc",  "time",  "datetime",   "Datetime (UTC)",
                                       "from_utc",      "from",      "begin", "point_time", "oootime",
                                       "date",          "timestamp", NULL};
    static const char *const end[] = {"to_utc", "to", "end", NULL};
    static const char *const zone[] = {"zone_name", "zone", "region", "location", NULL};
    static const char *const estimated[] = {"estimated", "isEstimated", NULL};
    static const char *const unit[] = {"carbon_intensity_unit", "unit", "units", NULL};
    c->n = n;
    c->time = column_named(field, n, time);
    c->time = c->time >= 0 ? c->time : 0;
    c->end = column_named(field, n, end);
    c->zone = column_named(field, n, zone);
    c->estimated = column_named(field, n, estimated);
    c->unit = column_named(field, n, unit);
    EBB_TRY(find_value(origin, o, field, c));
    c->forecast = strcasestr(field[c->value], "forecast") != NULL;
    return EBB_OK;
}

/* What the heading says of the values. */
static void describe(const char *name, const ebb_carbon_read_options_t *o, ebb_carbon_series_t *series)
{
    if (o && o->scope == EBB_CARBON_SCOPE_UNKNOWN && strcasestr(name, "direct"))
        series->scope = EBB_CARBON_DIRECT;
    if (!o && strcasestr(name, "direct"))
        series->scope = EBB_CARBON_DIRECT;
    if (series->scope == EBB_CARBON_SCOPE_UNKNOWN && strcasestr(name, "lifecycle"))
        series->scope = EBB_CARBON_LIFECYCLE;
    if (series->signal == EBB_CARBON_SIGNAL_UNKNOWN && strcasestr(name, "moer"))
        series->signal = EBB_CARBON_MARGINAL;
}

static ebb_status_t take_zone(const char *origin, int64_t line, const char *zone, const ebb_carbon_read_options_t *o,
                              ebb_carbon_series_t *series, bool *take_p)
{
    *take_p = true;
    if (o && o->zone && strcmp(zone, o->zone) != 0) {
        *take_p = false;
        return EBB_OK;
    }
    if (!series->zone[0])
        snprintf(series->zone, sizeof series->zone, "%s", zone);
    if (strcmp(series->zone, zone) != 0)
        return EBB_FAIL(EBB_EDATA, "%s:%lld: zone %.40s after zone %.40s; choose one by zone", origin, (long long)line,
                        zone, series->zone);
    return EBB_OK;
}

static ebb_status_t take_row(const char *origin, int64_t line, const columns_t *c, char **field, int n,
                             const ebb_carbon_read_options_t *o, ebb_carbon_series_t *series)
{
    int64_t begin, end = 0;
    bool take = true;
    char *stop;
    if (n <= c->time || ebb_carbon_parse_time(field[c->time], &begin) != EBB_OK)
        return n <= c->time ? EBB_FAIL(EBB_EDATA, "%s:%lld: no time", origin, (long long)line)
                            : ebb_error_prefix("%s:%lld: ", origin, (long long)line);
    if (c->end >= 0 && c->end < n && field[c->end][0] && ebb_carbon_parse_time(field[c->end], &end) != EBB_OK)
        return ebb_error_prefix("%s:%lld: ", origin, (long long)line);
    if (c->zone >= 0 && c->zone < n)
        EBB_TRY(take_zone(origin, line, field[c->zone], o, series, &take));
    if (!take)
        return EBB_OK;
    const char *text = c->value < n ? field[c->value] : "";
    if (!*text || strcasecmp(text, "null") == 0 || strcasecmp(text, "nan") == 0 || strcasecmp(text, "na") == 0) {
        return ebb_carbon_take(series, o, begin, end, NAN, false, false);
    }
    double g = strtod(text, &stop);
    if (*stop || !isfinite(g))
        return EBB_FAIL(EBB_EDATA, "%s:%lld: \"%.40s\" is not an intensity", origin, (long long)line, text);
    bool estimated = c->estimated >= 0 && c->estimated < n && strcasecmp(field[c->estimated], "true") == 0;
    return ebb_carbon_take(series, o, begin, end, g, c->forecast, estimated);
}

/* gCO2eq/kWh, gCO2/kWh, g/kWh are what is wanted; others have no place in a column of text. */
static ebb_status_t check_unit(const char *origin, int64_t line, const char *unit)
{
    if (!*unit || (strncasecmp(unit, "g", 1) == 0 && strcasestr(unit, "/kWh")))
        return EBB_OK;
    return EBB_FAIL(EBB_EDATA, "%s:%lld: unit \"%.40s\"; wanted gCO2eq/kWh", origin, (long long)line, unit);
}

ebb_status_t ebb_carbon_parse_csv(char *text, size_t bytes, const char *origin, const ebb_carbon_read_options_t *o,
                                  ebb_carbon_series_t *series)
{
    char *field[MOST_COLUMNS];
    columns_t c;
    int n;
    int64_t line = 1;
    if (memchr(text, 0, bytes))
        return EBB_FAIL(EBB_EDATA, "%s: not text: neither CSV nor JSON", origin);
    text += strncmp(text, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
    char *next = split_line(text, field, &n);
    EBB_TRY(read_heading(origin, o, field, n, &c));
    describe(field[c.value], o, series);
    if (o && o->zone && strcasecmp(field[c.value], o->zone) == 0)
        snprintf(series->zone, sizeof series->zone, "%s", o->zone);
    while (next && *next) {
        char *row = next;
        line++;
        next = split_line(row, field, &n);
        if (n == 1 && !field[0][0])
            continue;
        if (c.unit >= 0 && c.unit < n)
            EBB_TRY(check_unit(origin, line, field[c.unit]));
        EBB_TRY(take_row(origin, line, &c, field, n, o, series));
    }
    return EBB_OK;
}
