/* Outlooks: each asks its source in a thread, at most one at a time, when a slot of a quarter of an hour has passed;
 * after a failure not before ten times the time that it took, so that a fast clock does not make of a dead source a
 * busy one. The record of a source compares every hour with what was forecast for it a day before. */
#include "jobs/outlook.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "carbon/settings.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DAY        86400
#define AHEAD_DAYS 3
#define PATIENCE   10  /* times the time of a failed look */
#define BUDGET_S   6.0 /* for all tries together */

struct ebb_outlook {
    ebb_outlook_t *next;
    ebb_carbon_settings_t settings;
    double until; /* look at least so far */
    ebb_carbon_forecast_t forecast;
    int64_t version;
    ebb_plan_track_t track;
    double ahead[48]; /* by hour since 1970 mod 48: what was forecast for it a day before; 0: nothing */
    int64_t hour;     /* the last one that was compared */
    /* The look under way: owned by the thread between `busy` set and `ready` set. */
    pthread_t thread;
    bool busy;
    atomic_bool ready;
    ebb_status_t status;
    ebb_carbon_forecast_t answer;
    int64_t at, n;
    int64_t started_ns, not_before_ns;
    double slot; /* of the last look */
};

struct ebb_outlooks {
    ebb_outlook_t *first;
    ebb_queue_t *queue;
};

ebb_status_t ebb_outlooks_create(ebb_queue_t *queue, ebb_outlooks_t **all_p)
{
    EBB_TRY(EBB_NEW("outlooks", all_p));
    (*all_p)->queue = queue;
    return EBB_OK;
}

static void destroy(ebb_outlook_t *o)
{
    if (o->busy)
        pthread_join(o->thread, NULL);
    if (o->busy && o->status == EBB_OK)
        ebb_carbon_forecast_free(&o->answer);
    ebb_carbon_forecast_free(&o->forecast);
    ebb_carbon_settings_free(&o->settings);
    ebb_free(o);
}

void ebb_outlooks_destroy(ebb_outlooks_t *all)
{
    while (all && all->first) {
        ebb_outlook_t *next = all->first->next;
        destroy(all->first);
        all->first = next;
    }
    ebb_free(all);
}

/* ---- finding ---- */

static void recall(ebb_outlooks_t *all, ebb_outlook_t *o)
{
    size_t bytes;
    ebb_plan_track_t track;
    if (ebb_queue_recall(all->queue, o->settings.key, &track, sizeof track, &bytes) != EBB_OK)
        ebb_error_clear();
    else if (bytes == sizeof track)
        o->track = track;
}

ebb_status_t ebb_outlook_find(ebb_outlooks_t *all, const ebb_queue_spec_t *spec, double until,
                              ebb_outlook_t **outlook_p)
{
    ebb_carbon_settings_t settings;
    ebb_outlook_t *o;
    ebb_status_t understood = ebb_carbon_settings_of(NULL, spec->environment, &settings);
    if (understood == EBB_ENOMEM)
        return understood;
    for (o = all->first; o && strcmp(o->settings.key, settings.key) != 0; o = o->next)
        ;
    if (understood != EBB_OK && !o)
        EBB_WARN("agent", "%s: %s", settings.key, ebb_error()->message);
    ebb_error_clear();
    if (o) {
        ebb_carbon_settings_free(&settings);
    } else {
        ebb_status_t status = EBB_NEW("outlook", &o);
        if (status != EBB_OK) {
            ebb_carbon_settings_free(&settings);
            return status;
        }
        o->settings = settings;
        o->settings.options.budget_s = BUDGET_S;
        o->next = all->first;
        all->first = o;
        recall(all, o);
    }
    o->until = fmax(o->until, until);
    *outlook_p = o;
    return EBB_OK;
}

/* ---- looking ---- */

static void *look(void *arg)
{
    ebb_outlook_t *o = arg;
    ebb_error_clear();
    o->status = ebb_carbon_look(&o->settings.options, o->at, o->at / EBB_OUTLOOK_STEP * EBB_OUTLOOK_STEP,
                                EBB_OUTLOOK_STEP, o->n, &o->answer);
    if (o->status != EBB_OK)
        EBB_WARN("agent", "%s: %s; jobs of it start at once", o->settings.key, ebb_error()->message);
    ebb_error_clear();
    atomic_store(&o->ready, true);
    return NULL;
}

static void begin_look(ebb_outlook_t *o, double now)
{
    double until = fmax(o->until, now + AHEAD_DAYS * (double)DAY);
    o->at = (int64_t)now;
    o->n = (int64_t)ceil((until - now) / EBB_OUTLOOK_STEP) + 2;
    o->slot = floor(now / EBB_OUTLOOK_STEP);
    o->started_ns = ebb_now_ns();
    atomic_store(&o->ready, false);
    o->busy = pthread_create(&o->thread, NULL, look, o) == 0;
    o->not_before_ns = o->started_ns + 1000000000;
}

static double at_hour(const ebb_carbon_forecast_t *f, int64_t hour)
{
    int64_t i = (hour * 3600 - f->begin) / f->step_s, n = 3600 / f->step_s;
    double sum = 0;
    if (hour * 3600 < f->begin || i + n > f->n)
        return 0;
    for (int64_t k = i; k < i + n; k++) {
        if (f->rung[k] > EBB_CARBON_CACHED)
            return 0;
        sum += f->g[k];
    }
    return sum / (double)n;
}

/* Compare the running hour, as it is seen now, with what was said of it a day ago; note what is said of tomorrow. */
static void judge(ebb_outlooks_t *all, ebb_outlook_t *o)
{
    int64_t hour = (o->at + 3599) / 3600; /* the first one that the answer holds in whole */
    double actual = at_hour(&o->forecast, hour), said = o->ahead[hour % 48],
           tomorrow = at_hour(&o->forecast, hour + 24);
    if (hour <= o->hour)
        return;
    o->hour = hour;
    o->ahead[hour % 48] = 0;
    if (actual > 0 && said > 0)
        ebb_plan_track_see(&o->track, hour * 3600, actual, said);
    o->ahead[(hour + 24) % 48] = tomorrow;
    if (actual > 0 && said > 0 && ebb_queue_keep(all->queue, o->settings.key, &o->track, sizeof o->track) != EBB_OK)
        ebb_error_clear();
}

static void take_answer(ebb_outlooks_t *all, ebb_outlook_t *o)
{
    int64_t took = ebb_now_ns() - o->started_ns;
    pthread_join(o->thread, NULL);
    o->busy = false;
    o->version++;
    bool failed = o->status != EBB_OK || o->answer.trouble[0];
    if (failed)
        o->not_before_ns = ebb_now_ns() + PATIENCE * took;
    if (o->status != EBB_OK)
        return;
    ebb_carbon_forecast_free(&o->forecast);
    o->forecast = o->answer;
    o->answer = (ebb_carbon_forecast_t){0};
    judge(all, o);
}

void ebb_outlooks_tend(ebb_outlooks_t *all, double now)
{
    for (ebb_outlook_t *o = all->first; o; o = o->next) {
        if (o->busy && atomic_load(&o->ready))
            take_answer(all, o);
        bool short_ = o->forecast.n > 0 && (double)(o->forecast.begin + o->forecast.n * o->forecast.step_s) < o->until;
        bool due = o->version == 0 || floor(now / EBB_OUTLOOK_STEP) > o->slot || short_;
        if (!o->busy && due && ebb_now_ns() >= o->not_before_ns)
            begin_look(o, now);
    }
}

/* ---- asking ---- */

int64_t ebb_outlook_version(const ebb_outlook_t *o)
{
    return o->version;
}

bool ebb_outlook_waits(const ebb_outlook_t *o)
{
    return o->version == 0;
}

const ebb_plan_track_t *ebb_outlook_track(const ebb_outlook_t *o)
{
    return &o->track;
}

static double value_at(const ebb_carbon_forecast_t *f, double time)
{
    double place = (time - (double)f->begin) / (double)f->step_s;
    int64_t i = place < 0 ? 0 : (int64_t)place;
    return f->g[i < f->n ? i : f->n - 1];
}

/* Mean over a step by its quarters: exact where steps and slots divide each other and meet. */
static double mean_over(const ebb_carbon_forecast_t *f, double begin, double step_s)
{
    enum { PARTS = 8 };
    double sum = 0;
    for (int k = 0; k < PARTS; k++)
        sum += value_at(f, begin + (k + 0.5) / PARTS * step_s);
    return sum / PARTS;
}

bool ebb_outlook_sample(const ebb_outlook_t *o, double now, double step_s, int64_t n, double *g)
{
    const ebb_carbon_forecast_t *f = &o->forecast;
    if (f->n == 0 || f->count[EBB_CARBON_NOTHING] == f->n)
        return false;
    for (int64_t i = 0; i < n; i++)
        g[i] = mean_over(f, now + (double)i * step_s, step_s);
    ebb_plan_track_correct(&o->track, (int64_t)now, step_s, n, g);
    for (int64_t i = 0; i < n; i++)
        g[i] = fmax(g[i], 0);
    return true;
}

void ebb_outlook_describe(const ebb_outlook_t *o, char *text, size_t size)
{
    const ebb_carbon_forecast_t *f = &o->forecast;
    if (f->n == 0)
        snprintf(text, size, "nothing is known of the grid");
    else
        snprintf(text, size, "%s%s%s (%s)", f->source, f->zone[0] ? ", " : "", f->zone,
                 ebb_carbon_rung_name((ebb_carbon_rung_t)f->rung[0]));
}
