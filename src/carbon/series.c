/* Series: points in order of time, what is between them, and means over steps. */
#include "carbon/internal.h"
#include "base/alloc.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *ebb_carbon_signal_name(ebb_carbon_signal_t signal)
{
    return signal == EBB_CARBON_AVERAGE ? "average" : signal == EBB_CARBON_MARGINAL ? "marginal" : "unknown";
}

const char *ebb_carbon_scope_name(ebb_carbon_scope_t scope)
{
    return scope == EBB_CARBON_DIRECT ? "direct" : scope == EBB_CARBON_LIFECYCLE ? "life-cycle" : "unknown";
}

ebb_carbon_signal_t ebb_carbon_signal_named(const char *name)
{
    for (int s = EBB_CARBON_AVERAGE; name && s <= EBB_CARBON_MARGINAL; s++)
        if (strcmp(name, ebb_carbon_signal_name((ebb_carbon_signal_t)s)) == 0)
            return (ebb_carbon_signal_t)s;
    return EBB_CARBON_SIGNAL_UNKNOWN;
}

ebb_carbon_scope_t ebb_carbon_scope_named(const char *name)
{
    if (name && strcmp(name, "lifecycle") == 0)
        return EBB_CARBON_LIFECYCLE;
    for (int s = EBB_CARBON_DIRECT; name && s <= EBB_CARBON_LIFECYCLE; s++)
        if (strcmp(name, ebb_carbon_scope_name((ebb_carbon_scope_t)s)) == 0)
            return (ebb_carbon_scope_t)s;
    return EBB_CARBON_SCOPE_UNKNOWN;
}

void ebb_carbon_series_free(ebb_carbon_series_t *series)
{
    ebb_free(series->point);
    *series = (ebb_carbon_series_t){0};
}

ebb_status_t ebb_carbon_add(ebb_carbon_series_t *series, const ebb_carbon_point_t *point)
{
    EBB_TRY(ebb_grow("points of a series", (void **)&series->point, &series->capacity, series->n + 1,
                     sizeof *series->point));
    series->point[series->n++] = *point;
    return EBB_OK;
}

ebb_status_t ebb_carbon_take(ebb_carbon_series_t *series, const ebb_carbon_read_options_t *options, int64_t begin,
                             int64_t end, double g, bool forecast, bool estimated)
{
    bool any = options && options->any;
    if (begin < 0 || begin > LATEST_S || end > LATEST_S) {
        series->bad++;
        return EBB_OK;
    }
    if (isnan(g)) {
        series->nulls++;
    } else if (!any && (g < 0 || g > HIGHEST_G || (end != 0 && end <= begin))) {
        series->bad++;
        g = NAN;
    } else if (g == 0 && !any && !(options && options->zeros)) {
        series->zeros++;
        g = NAN;
    }
    if (end != 0 && end <= begin)
        end = 0;
    ebb_carbon_point_t point = {begin, end, g, forecast, estimated};
    return ebb_carbon_add(series, &point);
}

/* ---- settling ---- */

static int by_begin(const void *a, const void *b)
{
    const ebb_carbon_point_t *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

/* Points of one beginning become one with the mean of their different values, or none if it has none. */
static void join_repeated(ebb_carbon_series_t *series)
{
    ebb_carbon_point_t *p = series->point;
    int64_t out = 0;
    for (int64_t i = 0; i < series->n;) {
        double sum = 0;
        int64_t j = i, different = 0;
        ebb_carbon_point_t joined = p[i];
        for (; j < series->n && p[j].begin == p[i].begin; j++) {
            bool seen = isnan(p[j].g);
            for (int64_t k = i; k < j && !seen; k++)
                seen = p[k].g == p[j].g;
            sum += seen ? 0 : p[j].g;
            different += !seen;
            joined.end = p[j].end > joined.end ? p[j].end : joined.end;
            joined.estimated |= p[j].estimated;
            joined.forecast &= p[j].forecast;
        }
        series->repeated += j - i - 1;
        joined.g = different > 0 ? sum / (double)different : NAN;
        p[out++] = joined;
        i = j;
    }
    series->n = out;
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* The (lower) median of the times between beginnings. */
static ebb_status_t usual_step(const ebb_carbon_series_t *series, int64_t *step_p)
{
    int64_t *step;
    *step_p = 3600;
    if (series->n < 2)
        return EBB_OK;
    EBB_TRY(EBB_NEW_ARRAY("steps of a series", series->n - 1, &step));
    for (int64_t i = 0; i + 1 < series->n; i++)
        step[i] = series->point[i + 1].begin - series->point[i].begin;
    qsort(step, (size_t)series->n - 1, sizeof *step, by_value);
    *step_p = step[(series->n - 2) / 2];
    ebb_free(step);
    return EBB_OK;
}

/* Points without a value have bounded those before them; what is between the others are holes. */
static void drop_empty(ebb_carbon_series_t *series)
{
    int64_t out = 0;
    for (int64_t i = 0; i < series->n; i++)
        if (!isnan(series->point[i].g))
            series->point[out++] = series->point[i];
    series->n = out;
    for (int64_t i = 0; i + 1 < out; i++) {
        const ebb_carbon_point_t *p = &series->point[i];
        series->holes += p->end < p[1].begin;
        series->hole_s += p[1].begin - p->end;
    }
}

ebb_status_t ebb_carbon_settle(ebb_carbon_series_t *series)
{
    int64_t step;
    if (series->n == 0)
        return EBB_OK;
    qsort(series->point, (size_t)series->n, sizeof *series->point, by_begin);
    join_repeated(series);
    EBB_TRY(usual_step(series, &step));
    int64_t longest = step > 3600 ? step : 3600;
    series->holes = series->hole_s = 0;
    for (int64_t i = 0; i < series->n; i++) {
        ebb_carbon_point_t *p = &series->point[i];
        bool last = i + 1 == series->n;
        if (p->end <= p->begin) /* not said: the usual step at the end of the series */
            p->end = p->begin + (last ? step : longest);
        if (last)
            break;
        if (p->end > p[1].begin)
            p->end = p[1].begin;
    }
    drop_empty(series);
    return EBB_OK;
}

/* ---- reading ---- */

int64_t ebb_carbon_find(const ebb_carbon_series_t *series, int64_t time)
{
    int64_t lo = 0, hi = series->n; /* the first point that begins after time */
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (series->point[mid].begin <= time)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo > 0 && time < series->point[lo - 1].end ? lo - 1 : -1;
}

/* First point that ends after time. */
static int64_t first_after(const ebb_carbon_series_t *series, int64_t time)
{
    int64_t lo = 0, hi = series->n;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (series->point[mid].end <= time)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

void ebb_carbon_sample(const ebb_carbon_series_t *series, int64_t begin, int64_t step_s, int64_t n, double *g,
                       int64_t *known_p)
{
    int64_t known = 0, k = first_after(series, begin);
    for (int64_t i = 0; i < n; i++) {
        int64_t from = begin + i * step_s, to = from + step_s;
        double sum = 0, covered = 0;
        while (k < series->n && series->point[k].end <= from)
            k++;
        for (int64_t j = k; j < series->n && series->point[j].begin < to; j++) {
            const ebb_carbon_point_t *p = &series->point[j];
            double length = (double)((p->end < to ? p->end : to) - (p->begin > from ? p->begin : from));
            sum += length * p->g;
            covered += length;
        }
        g[i] = covered > 0 && 2 * covered >= (double)step_s ? sum / covered : NAN;
        known += !isnan(g[i]);
    }
    if (known_p)
        *known_p = known;
}

/* ---- times ---- */

static const char *take_digits(const char *s, int n, int *value_p)
{
    *value_p = 0;
    for (int i = 0; i < n; i++) {
        if (s[i] < '0' || s[i] > '9')
            return NULL;
        *value_p = *value_p * 10 + (s[i] - '0');
    }
    return s + n;
}

static bool is_leap(int year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

static bool is_date(int year, int month, int day)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    return year >= 1970 && year < 9999 && month >= 1 && month <= 12 && day >= 1 &&
           day <= days[month - 1] + (month == 2 && is_leap(year));
}

/* Days from 1970-01-01, by counting years from March (Howard Hinnant, "chrono-compatible low-level date algorithms").
 */
static int64_t days_of(int year, int month, int day)
{
    int y = year - (month <= 2), m = month > 2 ? month - 3 : month + 9;
    int era = y / 400, of_era = y - era * 400;
    int of_year = (153 * m + 2) / 5 + day - 1;
    return (int64_t)era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

/* "", "Z", "+01:00", "-0330", " UTC" */
static const char *take_offset(const char *s, int *offset_p)
{
    int hours, minutes = 0, sign = *s == '-' ? -1 : 1;
    *offset_p = 0;
    if (strncmp(s, " UTC", 4) == 0)
        return s + 4;
    if (*s == 'Z' || *s == 'z')
        return s + 1;
    if (*s != '+' && *s != '-')
        return s;
    s = take_digits(s + 1, 2, &hours);
    if (s && *s)
        s = take_digits(s + (*s == ':'), 2, &minutes);
    if (!s || hours > 18 || minutes > 59)
        return NULL;
    *offset_p = sign * (hours * 3600 + minutes * 60);
    return s;
}

static const char *take_clock(const char *s, int *seconds_p)
{
    int hour, minute, second = 0;
    s = take_digits(s, 2, &hour);
    s = s && *s == ':' ? take_digits(s + 1, 2, &minute) : NULL;
    if (s && *s == ':')
        s = take_digits(s + 1, 2, &second);
    if (s && (*s == '.' || *s == ','))
        s += 1 + strspn(s + 1, "0123456789");
    if (!s || hour > 24 || minute > 59 || second > 60)
        return NULL;
    *seconds_p = hour * 3600 + minute * 60 + second;
    return s;
}

static const char *take_date(const char *s, int64_t *days_p)
{
    int year, month = 0, day = 0;
    s = take_digits(s, 4, &year);
    s = s && (*s == '-' || *s == '/') ? take_digits(s + 1, 2, &month) : NULL;
    s = s && (*s == '-' || *s == '/') ? take_digits(s + 1, 2, &day) : NULL;
    if (!s || !is_date(year, month, day))
        return NULL;
    *days_p = days_of(year, month, day);
    return s;
}

ebb_status_t ebb_carbon_parse_time(const char *text, int64_t *time_p)
{
    int64_t days;
    int seconds = 0, offset = 0;
    size_t digits = strspn(text, "0123456789");
    if (digits >= 9 && digits <= 13 && (text[digits] == 0 || text[digits] == '.')) {
        *time_p = strtoll(text, NULL, 10) / (digits > 11 ? 1000 : 1); /* milliseconds have 13 digits until 2286 */
        return EBB_OK;
    }
    const char *s = take_date(text, &days);
    if (s && (*s == 'T' || *s == 't' || *s == ' ')) {
        s = take_clock(s + 1, &seconds);
        s = s ? take_offset(s, &offset) : NULL;
    }
    if (!s || *s)
        return EBB_FAIL(EBB_EDATA, "\"%.60s\" is not a time; wanted for example 2026-11-22T17:00Z", text);
    *time_p = days * 86400 + seconds - offset;
    return EBB_OK;
}
