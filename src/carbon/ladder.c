/* The ladder: live source, cached forecast, yesterday's curve, typical day, nothing.
 *
 * Each step of the wanted time is filled from the best rung that knows it. A rung whose numbers cannot be right as a
 * whole is left out first, and why is told. A typical day of another year or another kind of signal is scaled to the
 * mean level of the steps that are known better, if there are six hours of them. */
#include "carbon/internal.h"
#include "base/alloc.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define DAY 86400

const char *ebb_carbon_rung_name(ebb_carbon_rung_t rung)
{
    static const char *const names[] = {"live", "cached forecast", "yesterday's curve", "typical day", "nothing"};
    return rung >= EBB_CARBON_LIVE && rung <= EBB_CARBON_NOTHING ? names[rung] : "unknown";
}

void ebb_carbon_forecast_free(ebb_carbon_forecast_t *forecast)
{
    ebb_free(forecast->g);
    ebb_free(forecast->rung);
    *forecast = (ebb_carbon_forecast_t){0};
}

/* Can the series be what the source means to say about `now`? why: what is wrong, if not. */
static bool is_credible(const ebb_carbon_series_t *s, int64_t now, char *why, size_t size)
{
    int64_t first = s->point[0].begin, last = s->point[s->n - 1].end;
    bool stuck = s->n >= 24 && last - first >= DAY;
    for (int64_t i = 1; stuck && i < s->n; i++)
        stuck = s->point[i].g == s->point[0].g;
    if (last <= now)
        snprintf(why, size, "stale: ends %.1f h ago", (double)(now - last) / 3600);
    else if (first > now + 2 * 3600)
        snprintf(why, size, "begins in %.1f h only: a clock is off", (double)(first - now) / 3600);
    else if (stuck)
        snprintf(why, size, "stuck: %lld equal values", (long long)s->n);
    else
        return true;
    return false;
}

static void fill(ebb_carbon_forecast_t *f, ebb_carbon_rung_t rung, const double *g)
{
    for (int64_t i = 0; i < f->n; i++) {
        if (isnan(f->g[i]) && !isnan(g[i])) {
            f->g[i] = g[i];
            f->rung[i] = (uint8_t)rung;
        }
    }
}

static void describe(ebb_carbon_forecast_t *f, const char *zone, const char *source, ebb_carbon_signal_t signal,
                     ebb_carbon_scope_t scope)
{
    if (f->source[0])
        return;
    snprintf(f->zone, sizeof f->zone, "%s", zone);
    snprintf(f->source, sizeof f->source, "%s", source);
    f->signal = signal;
    f->scope = scope;
}

static bool same_kind(const ebb_carbon_forecast_t *f, const ebb_carbon_series_t *s)
{
    return !f->source[0] || (f->signal == s->signal && f->scope == s->scope);
}

static void fill_series(ebb_carbon_forecast_t *f, ebb_carbon_rung_t rung, const ebb_carbon_series_t *s, double *scratch)
{
    if (!s || s->n == 0 || !same_kind(f, s))
        return;
    if (rung != EBB_CARBON_YESTERDAY) {
        ebb_carbon_sample(s, f->begin, f->step_s, f->n, scratch, NULL);
        fill(f, rung, scratch);
    }
    for (int days = 1; rung == EBB_CARBON_YESTERDAY && days <= 7 + f->n * f->step_s / DAY; days++) {
        ebb_carbon_sample(s, f->begin - (int64_t)days * DAY, f->step_s, f->n, scratch, NULL);
        fill(f, rung, scratch);
    }
    for (int64_t i = 0; i < f->n; i++)
        if (f->rung[i] == rung && !isnan(f->g[i]))
            describe(f, s->zone, s->source, s->signal, s->scope);
}

static double typical_at(const ebb_carbon_zone_t *zone, const ebb_carbon_forecast_t *f, int64_t i)
{
    return ebb_carbon_typical(zone, f->begin + i * f->step_s + f->step_s / 2);
}

static void fill_typical(ebb_carbon_forecast_t *f, const ebb_carbon_zone_t *zone)
{
    double known = 0, typical = 0;
    int64_t steps = 0;
    if (!zone)
        return;
    for (int64_t i = 0; i < f->n; i++) {
        if (isnan(f->g[i]))
            continue;
        known += f->g[i];
        typical += typical_at(zone, f, i);
        steps++;
    }
    if (steps * f->step_s >= 6 * 3600 && typical > 0)
        f->scale = known / typical;
    describe(f, zone->name, zone->source, zone->signal, zone->scope);
    for (int64_t i = 0; i < f->n; i++) {
        if (isnan(f->g[i])) {
            f->g[i] = f->scale * typical_at(zone, f, i);
            f->rung[i] = EBB_CARBON_TYPICAL;
        }
    }
}

/* Unknown steps count as the dearest: nothing is moved there for its emissions. */
static void fill_rest(ebb_carbon_forecast_t *f)
{
    double highest = 0;
    for (int64_t i = 0; i < f->n; i++)
        highest = f->g[i] > highest ? f->g[i] : highest;
    for (int64_t i = 0; i < f->n; i++) {
        if (isnan(f->g[i]))
            f->g[i] = highest;
        f->count[f->rung[i]]++;
    }
}

/* A step down that nobody asked for is told; a source that is a typical day is none. */
static void tell(const ebb_carbon_forecast_t *f)
{
    for (int r = EBB_CARBON_CACHED; r <= EBB_CARBON_NOTHING; r++)
        if (f->count[r] > 0)
            EBB_LOG(f->trouble[0] ? EBB_LOG_INFO : EBB_LOG_DEBUG, "carbon", "%s: %.1f of %.1f h from %s%s%s",
                    f->zone[0] ? f->zone : "no zone", (double)(f->count[r] * f->step_s) / 3600,
                    (double)(f->n * f->step_s) / 3600, ebb_carbon_rung_name((ebb_carbon_rung_t)r),
                    f->trouble[0] ? ": " : "", f->trouble);
}

static const ebb_carbon_series_t *believe(const ebb_carbon_series_t *s, int64_t now, char *trouble, size_t size)
{
    char why[128];
    if (!s || s->n == 0 || is_credible(s, now, why, sizeof why))
        return s;
    snprintf(trouble, size, "%.100s: %s", s->source, why);
    return NULL;
}

ebb_status_t ebb_carbon_climb_down(const ebb_carbon_ladder_t *ladder, int64_t begin, int64_t step_s, int64_t n,
                                   ebb_carbon_forecast_t *f)
{
    double *scratch;
    char ignored[256];
    *f = (ebb_carbon_forecast_t){.begin = begin, .step_s = step_s, .n = n, .scale = 1};
    if (n < 1 || n > 10000000 || step_s < 1)
        return EBB_FAIL(EBB_EINVAL, "forecast of %lld steps of %lld s", (long long)n, (long long)step_s);
    ebb_status_t status = EBB_NEW_ARRAY("forecast", n, &f->g);
    if (status == EBB_OK)
        status = EBB_NEW_ARRAY("rungs of a forecast", n, &f->rung);
    if (status == EBB_OK)
        status = EBB_NEW_ARRAY("scratch of a forecast", n, &scratch);
    if (status != EBB_OK) {
        ebb_carbon_forecast_free(f);
        return status;
    }
    for (int64_t i = 0; i < n; i++) {
        f->g[i] = NAN;
        f->rung[i] = EBB_CARBON_NOTHING;
    }
    snprintf(f->trouble, sizeof f->trouble, "%s", ladder->trouble ? ladder->trouble : "");
    fill_series(f, EBB_CARBON_LIVE, believe(ladder->live, begin, f->trouble, sizeof f->trouble), scratch);
    fill_series(f, EBB_CARBON_CACHED, believe(ladder->cached, begin, ignored, sizeof ignored), scratch);
    fill_series(f, EBB_CARBON_YESTERDAY, ladder->history, scratch);
    fill_series(f, EBB_CARBON_YESTERDAY, ladder->live, scratch);
    fill_series(f, EBB_CARBON_YESTERDAY, ladder->cached, scratch);
    fill_typical(f, ladder->typical);
    fill_rest(f);
    tell(f);
    ebb_free(scratch);
    return EBB_OK;
}
