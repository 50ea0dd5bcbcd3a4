/* Asking for the grid's intensity. Each question has a thread of its own, detached: whoever goes last, the thread or
 * the books, frees what they share. */
#include "ledger/internal.h"
#include "base/alloc.h"
#include "base/clock.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { STEP_S = 300, MARGIN_S = 900, MARGIN_REAL_S = 30, AHEAD_S = 48 * 3600, AHEAD_REAL_S = 60, BACK_S = 14 * 86400 };

#define EVERY_NS ((int64_t)300 * 1000000000) /* between questions */

struct ebb_asker {
    pthread_mutex_t lock;
    pthread_cond_t answer;
    int holders;
    bool asking, answered;
    double from; /* earliest time that is wanted */
    int64_t asked_ns;
    ebb_carbon_forecast_t past, forecast; /* until the first question, and from the last on; n 0: nothing known */
    /* the source, with its texts */
    bool have_source;
    ebb_carbon_source_options_t source;
    char *text[7];
};

/* ---- life ---- */

static ebb_status_t copy_text(ebb_asker_t *a, int i, const char **text_p)
{
    if (!*text_p)
        return EBB_OK;
    a->text[i] = ebb_strdup(*text_p);
    *text_p = a->text[i];
    return a->text[i] ? EBB_OK : EBB_FAIL(EBB_ENOMEM, "out of memory for a source of intensities");
}

static ebb_status_t copy_source(ebb_asker_t *a, const ebb_carbon_source_options_t *source)
{
    a->source = *source;
    a->have_source = true;
    const char **text[] = {&a->source.zone,      &a->source.file,        &a->source.url,      &a->source.token,
                           &a->source.cache_dir, &a->source.read.column, &a->source.read.zone};
    ebb_status_t status = EBB_OK;
    for (int i = 0; i < 7 && status == EBB_OK; i++)
        status = copy_text(a, i, text[i]);
    return status;
}

static void let_go(ebb_asker_t *a)
{
    pthread_mutex_lock(&a->lock);
    bool last = --a->holders == 0;
    pthread_mutex_unlock(&a->lock);
    if (!last)
        return;
    if (a->text[3])
        explicit_bzero(a->text[3], strlen(a->text[3])); /* the token */
    for (int i = 0; i < 7; i++)
        ebb_free(a->text[i]);
    ebb_carbon_forecast_free(&a->past);
    ebb_carbon_forecast_free(&a->forecast);
    pthread_cond_destroy(&a->answer);
    pthread_mutex_destroy(&a->lock);
    ebb_free(a);
}

ebb_status_t ebb_asker_create(const ebb_carbon_source_options_t *source, ebb_asker_t **asker_p)
{
    ebb_asker_t *a;
    pthread_condattr_t monotonic;
    *asker_p = NULL;
    EBB_TRY(EBB_NEW("asker for intensities", &a));
    pthread_mutex_init(&a->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&a->answer, &monotonic);
    pthread_condattr_destroy(&monotonic);
    a->holders = 1;
    a->answered = !source;
    ebb_status_t status = source ? copy_source(a, source) : EBB_OK;
    if (status != EBB_OK) {
        let_go(a);
        return status;
    }
    *asker_p = a;
    return EBB_OK;
}

void ebb_asker_release(ebb_asker_t *a)
{
    if (a)
        let_go(a);
}

/* ---- asking ---- */

/* From `begin` until some time after `end`. The ladder wants to know what is believed at `begin`. */
static ebb_status_t look(ebb_asker_t *a, double begin, double end, ebb_carbon_forecast_t *f)
{
    int64_t step = (int64_t)(begin / STEP_S), n = (int64_t)(end / STEP_S) + 1 - step;
    ebb_status_t status = ebb_carbon_look(&a->source, (int64_t)ebb_wall_seconds(), step * STEP_S, STEP_S, n, f);
    if (status != EBB_OK) {
        EBB_WARN("ledger", "intensity of the grid is not known: %s", ebb_error()->message);
        ebb_error_clear();
    }
    return status;
}

/* A span of the wall clock, or what passes in so many real seconds where that is more. */
static double span(double wall_s, double real_s)
{
    return fmax(wall_s, real_s * ebb_clock_rate());
}

/* Nothing is wanted of the time before `from`: a file that begins there says all. */
static void *ask(void *user)
{
    ebb_asker_t *a = user;
    ebb_carbon_forecast_t past = {0}, f = {0};
    double now = ebb_wall_seconds();
    double from = fmax(a->from, now - BACK_S);                        /* a->from stays as the first question had it */
    double waiting = fmax(from, now - span(MARGIN_S, MARGIN_REAL_S)); /* rows that wait begin there or later */
    bool good = look(a, waiting, now + span(AHEAD_S, AHEAD_REAL_S), &f) == EBB_OK;
    if (good && a->past.n == 0 && from < waiting) /* only this thread sets it */
        look(a, from, now, &past);
    pthread_mutex_lock(&a->lock);
    if (good) {
        ebb_carbon_forecast_free(&a->forecast);
        a->forecast = f;
    }
    if (past.n > 0)
        a->past = past;
    a->answered = true;
    a->asking = false;
    pthread_cond_broadcast(&a->answer);
    pthread_mutex_unlock(&a->lock);
    let_go(a);
    return NULL;
}

/* Signals are for the threads of the program. */
static void start_thread(ebb_asker_t *a)
{
    pthread_attr_t detached;
    pthread_t thread;
    sigset_t all, before;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int code = pthread_create(&thread, &detached, ask, a);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&detached);
    if (code != 0) {
        a->holders--;
        a->asking = false;
        a->answered = true;
    }
}

void ebb_asker_refresh(ebb_asker_t *a, double from)
{
    if (!a->have_source)
        return;
    double now = ebb_wall_seconds();
    pthread_mutex_lock(&a->lock);
    if (a->asked_ns == 0)
        a->from = from;
    const ebb_carbon_forecast_t *f = &a->forecast;
    bool short_of = f->n == 0 || now > (double)(f->begin + f->n * f->step_s) - span(AHEAD_S, AHEAD_REAL_S) / 4;
    int64_t since = ebb_now_ns() - a->asked_ns;
    if (!a->asking && (a->asked_ns == 0 || since > EVERY_NS || (short_of && since > EVERY_NS / 60))) {
        a->asking = true;
        a->asked_ns = ebb_now_ns();
        a->holders++;
        start_thread(a);
    }
    pthread_mutex_unlock(&a->lock);
}

bool ebb_asker_answered(ebb_asker_t *a, double wait_s)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)wait_s;
    pthread_mutex_lock(&a->lock);
    while (wait_s > 0 && !a->answered && pthread_cond_timedwait(&a->answer, &a->lock, &until) == 0)
        continue;
    bool answered = a->answered;
    pthread_mutex_unlock(&a->lock);
    return answered;
}

/* ---- telling ---- */

/* Mean over the steps, by time; one step that is not known leaves the whole not known. */
static void look_up(const ebb_carbon_forecast_t *f, ebb_ledger_row_t *row)
{
    double sum = 0, known = 0;
    int64_t i = (int64_t)floor((row->begin - (double)f->begin) / (double)f->step_s);
    ebb_carbon_rung_t least = EBB_CARBON_LIVE;
    if (i < 0 || row->end > (double)(f->begin + f->n * f->step_s))
        return;
    for (; i < f->n && (double)(f->begin + i * f->step_s) < row->end; i++) {
        double begin = (double)(f->begin + i * f->step_s), end = begin + (double)f->step_s;
        double s = fmin(end, row->end) - fmax(begin, row->begin);
        if (f->rung[i] == EBB_CARBON_NOTHING)
            return;
        least = f->rung[i] > least ? (ebb_carbon_rung_t)f->rung[i] : least;
        sum += f->g[i] * s;
        known += s;
    }
    if (!(known > 0))
        return;
    row->intensity = sum / known;
    row->rung = least;
    const ebb_carbon_zone_t *typical = least == EBB_CARBON_TYPICAL ? ebb_carbon_zone(f->zone, f->scope) : NULL;
    row->signal = typical ? typical->signal : f->signal;
    row->scope = typical ? typical->scope : f->scope;
    snprintf(row->source, sizeof row->source, "%s", typical ? typical->source : f->source);
}

void ebb_asker_tell(ebb_asker_t *a, ebb_ledger_row_t *row)
{
    row->intensity = NAN;
    row->rung = EBB_CARBON_NOTHING;
    if (a->source.zone)
        snprintf(row->zone, sizeof row->zone, "%s", a->source.zone);
    pthread_mutex_lock(&a->lock);
    if (a->forecast.zone[0])
        snprintf(row->zone, sizeof row->zone, "%s", a->forecast.zone);
    if (a->forecast.n > 0)
        look_up(&a->forecast, row);
    if (isnan(row->intensity) && a->past.n > 0)
        look_up(&a->past, row);
    pthread_mutex_unlock(&a->lock);
}
