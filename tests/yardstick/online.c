/* Plans made on line, as forecasts come true, on real forecasts; what elastic plans save.
 *
 *     yardstick_online FOLDER_OF_DATA          exit 0 if every demand is met
 *
 * Forecasts: DACF's day-ahead ones of 2021 for four regions, jobs of 2 to 12 h that arrive at 00:00 UTC and end within
 * 24 h, planned again every hour, when the intensity of the running hour is known ("now"; beside it, for comparison,
 * only that of the hour before: "late"). Great Britain in 2023 with its holes: jobs every 12 hours. Elastic:
 * CarbonScaler's profiles, jobs of 24 h on one node with the deadline at 24 h, on up to seven nodes. Exit 77 where the
 * data are absent. */
#include <ebb/carbon.h>
#include <ebb/plan.h>
#include "base/alloc.h"
#include "base/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *folder;
static ebb_planner_t *planner;
static int failures;

static void must(ebb_status_t status)
{
    if (status != EBB_OK) {
        fprintf(stderr, "%s\n", ebb_error()->message);
        exit(1);
    }
}

static ebb_carbon_series_t read_series(const char *name, const char *column)
{
    char path[4096];
    ebb_carbon_series_t s;
    ebb_carbon_read_options_t options = {.column = column};
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (access(path, R_OK) != 0) {
        printf("SKIPPED: no real data %s here\n", name);
        exit(77);
    }
    must(ebb_carbon_read(path, &options, &s));
    return s;
}

static void demand(const char *what, double got, double least)
{
    bool good = got >= least;
    failures += !good;
    printf("%-68s %9.4f  at least %7.4f%s\n", what, got, least, good ? "" : "  FAILED");
}

/* ---- on line, day by day ---- */

typedef struct online {
    const double *actual, *forecast;
    int64_t begin, days, hours;
    int lag; /* hours after which an hour is known: 0 or 1 */
} online_t;

/* Hours in which the job runs on one day; state of a job that is planned anew every hour. */
static double run_day(const online_t *o, int64_t day, ebb_plan_track_t *track)
{
    ebb_plan_t plan = {0}, asap = {0};
    ebb_plan_size_t size = {1, 1, 1000};
    double used = 0, need = (double)o->hours * 3600;
    ebb_plan_state_t state = EBB_PLAN_FRESH;
    for (int64_t h = 0; h < 24; h++) {
        int64_t at = 24 * day + h, known = at - o->lag;
        double g[24];
        if (known >= 0)
            ebb_plan_track_see(track, o->begin + 3600 * known, o->actual[known], o->forecast[known]);
        if (need < 1)
            continue;
        memcpy(g, o->forecast + at, sizeof(double) * (size_t)(24 - h));
        ebb_plan_track_correct(track, o->begin + 3600 * at, 3600, 24 - h, g);
        ebb_plan_horizon_t horizon = {.n = 24 - h, .slot_s = 3600, .g_per_kwh = g};
        ebb_plan_job_t job = {.work = need, .sizes = &size, .n_sizes = 1, .state = state};
        must(ebb_plan_make(planner, EBB_PLAN_ASAP, &horizon, &job, &asap));
        must(ebb_plan_make(planner, EBB_PLAN_PAUSE, &horizon, &job, &plan));
        bool now = plan.start_s < 1;
        if (!now && state == EBB_PLAN_FRESH)
            now = !ebb_plan_is_worth_waiting(track, 1 - plan.grams / asap.grams);
        state = now ? EBB_PLAN_RUNNING : state == EBB_PLAN_FRESH ? EBB_PLAN_FRESH : EBB_PLAN_PAUSED;
        used += now ? o->actual[at] : 0;
        need -= now ? 3600 : 0;
    }
    failures += need > 1; /* a missed deadline */
    ebb_plan_free(&plan);
    ebb_plan_free(&asap);
    return used;
}

/* Savings of on-line plans and of the optimum. */
static void run_days(const online_t *o, double *saved_p, double *best_p)
{
    ebb_plan_track_t track = {0};
    double used = 0, now = 0, best = 0, scratch[24];
    for (int64_t day = 0; day < o->days; day++) {
        double grams = run_day(o, day, &track);
        if (day == 0)
            continue;
        used += grams;
        best += ebb_plan_least_sum(o->actual + 24 * day, 24, o->hours, scratch, NULL);
        for (int64_t h = 0; h < o->hours; h++)
            now += o->actual[24 * day + h];
    }
    *saved_p = 1 - used / now;
    *best_p = 1 - best / now;
}

static double *values(const ebb_carbon_series_t *s)
{
    double *value = calloc((size_t)s->n, sizeof *value);
    for (int64_t i = 0; i < s->n; i++)
        value[i] = s->point[i].g;
    return value;
}

static void day_ahead(const char *region, double least)
{
    static const int64_t hours[] = {2, 4, 6, 8, 12};
    char name[64], what[128];
    snprintf(name, sizeof name, "dayahead2021/%s.csv", region);
    ebb_carbon_series_t a = read_series(name, "actual"), f = read_series(name, "forecast_day_ahead");
    double *actual = values(&a), *forecast = values(&f), saved, best, late;
    for (int i = 0; i < 5; i++) {
        online_t o = {actual, forecast, a.point[0].begin, a.n / 24, hours[i], 1};
        run_days(&o, &late, &best);
        o.lag = 0;
        run_days(&o, &saved, &best);
        snprintf(what, sizeof what, "%s %2d h: saves %.2f %% of %.2f (late %.2f): %s", region, (int)hours[i],
                 100 * saved, 100 * best, 100 * late, least > 0 ? "share of optimum" : "saved, worst case");
        demand(what, least > 0 ? saved / best : fmin(saved, late), least > 0 ? least : -0.005);
    }
    free(actual);
    free(forecast);
    ebb_carbon_series_free(&a);
    ebb_carbon_series_free(&f);
}

/* A forecast that has nothing to do with what comes: after some days the job starts now. */
static void useless_forecasts(void)
{
    enum { DAYS = 120 };
    static double actual[24 * DAYS], forecast[24 * DAYS];
    double saved, best;
    for (int64_t i = 0; i < 24 * DAYS; i++) {
        actual[i] = 300 + 80 * ebb_rng_normal(1, EBB_RNG_TEST, (uint64_t)i, 0);
        forecast[i] = 300 + 80 * ebb_rng_normal(2, EBB_RNG_TEST, (uint64_t)i, 0);
        actual[i] = fmax(actual[i], 20);
        forecast[i] = fmax(forecast[i], 20);
    }
    online_t o = {actual, forecast, 86400 * 18000, DAYS, 6, 1};
    run_days(&o, &saved, &best);
    demand("noise for a forecast: saved, against starting now", saved, -0.02);
}

/* ---- Great Britain with its holes ---- */

typedef struct running_job {
    double need;
    bool begun, running;
} running_job_t;

/* Half an hour of a plan; what it loses to a restart is no work. */
static void run_slot(const ebb_plan_t *plan, const ebb_plan_job_t *job, running_job_t *r)
{
    bool was = r->running;
    r->running = false;
    for (int64_t i = 0; i < plan->n_segments && plan->segment[i].begin_s < 1800; i++) {
        const ebb_plan_segment_t *s = &plan->segment[i];
        bool restarts = r->begun && !(was && s->begin_s < 1);
        double work = fmin(s->end_s, 1800) - s->begin_s - (restarts ? job->restart_s : 0);
        r->need -= fmax(0, work);
        r->begun = true;
        r->running = s->end_s > 1800 - 1e-6;
    }
}

static int64_t run_gb_job(const ebb_carbon_series_t *forecast, const ebb_carbon_zone_t *zone, int64_t arrival,
                          double hours)
{
    enum { SLOTS = 48 };
    ebb_plan_size_t size = {1, 1, 1000};
    ebb_plan_t plan = {0};
    running_job_t r = {.need = 3600 * hours};
    for (int64_t t = 0; t < SLOTS && r.need > 1; t++) {
        ebb_carbon_ladder_t ladder = {.live = forecast, .typical = zone};
        ebb_carbon_forecast_t f;
        must(ebb_carbon_climb_down(&ladder, arrival + 1800 * t, 1800, SLOTS - t, &f));
        ebb_plan_horizon_t horizon = {.n = SLOTS - t, .slot_s = 1800, .g_per_kwh = f.g};
        ebb_plan_job_t job = {.work = r.need,
                              .sizes = &size,
                              .n_sizes = 1,
                              .restart_s = 60,
                              .state = r.running ? EBB_PLAN_RUNNING
                                       : r.begun ? EBB_PLAN_PAUSED
                                                 : EBB_PLAN_FRESH};
        must(ebb_plan_make(planner, EBB_PLAN_PAUSE, &horizon, &job, &plan));
        run_slot(&plan, &job, &r);
        ebb_carbon_forecast_free(&f);
    }
    ebb_plan_free(&plan);
    return r.need > 1;
}

static void great_britain(void)
{
    ebb_carbon_series_t s = read_series("gb_neso_2023.csv", "forecast");
    const ebb_carbon_zone_t *zone = ebb_carbon_zone("GB", EBB_CARBON_SCOPE_UNKNOWN);
    int64_t missed = 0, jobs = 0;
    for (int64_t t = s.point[0].begin; t + 86400 < s.point[s.n - 1].end; t += 43200, jobs++)
        missed += run_gb_job(&s, zone, t, (double)(2 + jobs % 4 * 6));
    printf("GB 2023: %lld jobs, holes of %.1f h\n", (long long)jobs, (double)s.hole_s / 3600);
    demand("GB 2023: share of deadlines met", 1 - (double)missed / (double)jobs, 1);
    ebb_carbon_series_free(&s);
}

/* ---- elastic ---- */

static int64_t read_profile(const char *workload, ebb_plan_size_t size[16])
{
    char path[4096], line[512], name[64];
    long long nodes;
    double rate, power;
    int64_t n = 0;
    snprintf(path, sizeof path, "%s/../jobs/scale_profiles.csv", folder);
    FILE *file = fopen(path, "r");
    if (!file) {
        printf("SKIPPED: no real data scale_profiles.csv here\n");
        exit(77);
    }
    while (fgets(line, sizeof line, file) && n < 16)
        if (sscanf(line, "%63[^,],%lld,%lf,%lf", name, &nodes, &rate, &power) == 4 && nodes > 0 &&
            strcmp(name, workload) == 0)
            size[n++] = (ebb_plan_size_t){nodes, rate, power};
    fclose(file);
    return n;
}

/* Mean saving over all arrivals of a year. */
static double elastic_saving(const double *ci, int64_t n, const ebb_plan_size_t *size, int64_t sizes, double overhead_s)
{
    ebb_plan_t plan = {0};
    double sum = 0;
    int64_t count = 0;
    for (int64_t i = 0; i + 24 <= n; i += overhead_s > 0 ? 24 : 1, count++) {
        ebb_plan_horizon_t h = {.n = 24, .slot_s = 3600, .g_per_kwh = ci + i};
        ebb_plan_job_t job = {.work = 86400 * size[0].rate,
                              .sizes = size,
                              .n_sizes = sizes,
                              .restart_s = overhead_s,
                              .resize_s = overhead_s};
        must(ebb_plan_make(planner, EBB_PLAN_ASAP, &h, &job, &plan));
        double base = plan.grams;
        must(ebb_plan_make(planner, EBB_PLAN_ELASTIC, &h, &job, &plan));
        sum += 1 - plan.grams / base;
    }
    ebb_plan_free(&plan);
    return sum / (double)count;
}

static void elastic(void)
{
    static const struct {
        const char *zone;
        double expected;
    } zones[] = {{"DE", 0.17}, {"US-CAL-CISO", 0.27}, {"AU-SA", 0.42}};
    static const char *const workloads[] = {"nbody100k", "nbody10k", "resnet18", "densenet121", "vgg16"};
    for (int w = 0; w < 5; w++) {
        ebb_plan_size_t size[16];
        int64_t sizes = read_profile(workloads[w], size);
        for (int z = 0; z < 3; z++) {
            char what[128];
            ebb_carbon_series_t s = read_series("em2022_zones.csv", zones[z].zone);
            double *ci = values(&s), saved = elastic_saving(ci, s.n, size, sizes, 0);
            snprintf(what, sizeof what, "elastic %s in %s, no slack: saved (with 60 s a change %.3f)", workloads[w],
                     zones[z].zone, elastic_saving(ci, s.n, size, sizes, 60));
            demand(what, saved, w == 0 ? zones[z].expected - 0.005 : 0);
            free(ci);
            ebb_carbon_series_free(&s);
        }
    }
}

int main(int argc, char **argv)
{
    folder = argc > 1 ? argv[1] : "../shared/data/carbon";
    ebb_log_set_level(EBB_LOG_ERROR);
    must(ebb_planner_create(&planner));
    day_ahead("CISO", 0.95);
    day_ahead("DE", 0.93);
    day_ahead("SE", 0);
    day_ahead("ISNE", 0);
    useless_forecasts();
    great_britain();
    elastic();
    ebb_planner_destroy(planner);
    return failures > 0;
}
