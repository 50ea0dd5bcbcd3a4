/* Published savings of carbon-aware scheduling, reproduced from the published data: yardsticks A to E.
 *
 *     yardstick_carbon [--short] FOLDER_OF_DATA      prints published / reproduced / difference; exit 0 if all agree
 *
 * A, B  Wiesner et al., "Let's Wait Awhile", Middleware 2021: project and nightly jobs in DE, GB, FR.
 * C     Sukprasert et al., "On the Limitations of Carbon-Aware Temporal and Spatial Workload Shifting", EuroSys 2024:
 *       the offline optimum of 28 zones x 7 lengths x 3 slacks.
 * D     Hanafy et al., "Going Green for Less Green" (GAIA), ASPLOS 2024: figure 8.
 * E     day-ahead forecasts of DACF, four regions, against the optimum and yesterday's curve.
 *
 * The searches are the library's; only the rules of each paper are written here. Exit 77 where the data are absent. */
#include <ebb/carbon.h>
#include <ebb/plan.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "noise.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BEGIN_2020 1577836800
#define MOST_ROWS  8192
#define FIELDS     16

static const char *folder;
static bool brief;
static int failures, compared;
static double *scratch;

static void must(ebb_status_t status)
{
    if (status != EBB_OK) {
        fprintf(stderr, "%s\n", ebb_error()->message);
        exit(1);
    }
}

static const char *path_of(const char *name)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void compare(const char *yardstick, const char *what, double published, double reproduced, double tolerance)
{
    double difference = reproduced - published;
    bool good = fabs(difference) <= tolerance;
    compared++;
    failures += !good;
    if (!good || !brief)
        printf("%-2s %-60s %14.6f %14.6f %12.2e %s\n", yardstick, what, published, reproduced, difference,
               good ? "" : "DIFFERS");
}

/* ---- tables of text ---- */

typedef struct table {
    int rows;
    char *text, **field; /* rows x FIELDS */
} table_t;

static void skip(const char *name)
{
    printf("SKIPPED: no real data %s here\n", name);
    exit(77);
}

static table_t read_table(const char *name)
{
    table_t t = {0};
    size_t bytes;
    if (access(path_of(name), R_OK) != 0)
        skip(name);
    must(ebb_file_read_all(path_of(name), &t.text, &bytes));
    must(EBB_NEW_ARRAY("table", MOST_ROWS * FIELDS, &t.field));
    char *rest = t.text, *line, *text;
    while ((line = strsep(&rest, "\n")) && *line && t.rows < MOST_ROWS) {
        for (int n = 0; (text = strsep(&line, ",\r")) && n < FIELDS; n++)
            t.field[t.rows * FIELDS + n] = text;
        t.rows++;
    }
    return t;
}

static void free_table(table_t *t)
{
    ebb_free(t->text);
    ebb_free(t->field);
}

static const char *cell(const table_t *t, int row, int col)
{
    const char *text = t->field[row * FIELDS + col];
    return text ? text : "";
}

static double number(const table_t *t, int row, int col)
{
    return atof(cell(t, row, col));
}

/* Values of a file's column (or zone) in order; the time of the first. */
static double *read_values(const char *name, const char *column, int64_t step, int64_t from, int64_t *n_p)
{
    ebb_carbon_series_t s = {0};
    ebb_carbon_read_options_t options = {.column = column};
    if (access(path_of(name), R_OK) != 0)
        skip(name);
    must(ebb_carbon_read(path_of(name), &options, &s));
    double *value = calloc((size_t)s.n + 1, sizeof *value);
    *n_p = 0;
    for (int64_t i = 0; i < s.n; i++)
        if (s.point[i].begin >= from && s.point[i].begin % step == 0)
            value[(*n_p)++] = s.point[i].g;
    ebb_carbon_series_free(&s);
    return value;
}

/* ---- A and B: Let's Wait Awhile ---- */

#define SEEDS 10

static void add_noise(const double *ci, int64_t n, double sigma, int seed, double *out)
{
    noise_t noise;
    double mean = 0;
    noise_init(&noise, (uint32_t)seed);
    for (int64_t i = 0; i < n; i++)
        mean += ci[i] / (double)n;
    for (int64_t i = 0; i < n; i++)
        out[i] = ci[i] + (sigma > 0 ? sigma * mean * noise_normal(&noise) : 0);
}

/* Minutes since Wednesday, 2020-01-01 -> the deadline by a rule. */
static int64_t deadline_of(const char *rule, int64_t end)
{
    int64_t day = end / 1440, minute = end % 1440, weekday = (day + 2) % 7, nine = day * 1440 + 540;
    if (strcmp(rule, "semi_weekly") == 0) {
        bool to_thursday =
            (weekday == 0 && minute > 540) || weekday == 1 || weekday == 2 || (weekday == 3 && minute <= 540);
        return nine + 1440 * (to_thursday ? (3 - weekday) : (7 - weekday) % 7);
    }
    if (weekday == 5)
        return nine + 2 * 1440;
    if (weekday == 6 || minute > 17 * 60)
        return nine + 1440;
    return minute < 540 ? nine : end;
}

typedef struct lwa_job {
    int64_t slot, slots, end; /* of half an hour; minutes */
} lwa_job_t;

/* True intensity of the slots that a job takes when it sees `seen` slots of a forecast. */
static double emission(const double *ci, const double *forecast, int64_t at, int64_t n, int64_t seen,
                       bool interruptible)
{
    double sum = 0, kth;
    const double *f = forecast + at;
    if (interruptible) {
        ebb_plan_least_sum(f, seen, n, scratch, &kth);
        for (int64_t i = 0; i < seen; i++)
            sum += f[i] <= kth ? ci[at + i] : 0;
        return sum;
    }
    int64_t start = ebb_plan_least_window(f, seen, n, NULL);
    for (int64_t i = 0; i < n; i++)
        sum += ci[at + start + i];
    return sum;
}

static double lwa_total(const double *ci, const double *forecast, int64_t slots, const lwa_job_t *job, int64_t n,
                        const char *rule, bool interruptible)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t wait = rule ? (deadline_of(rule, job[i].end) - job[i].end) / 30 : 0;
        int64_t seen = job[i].slots + wait + 1;
        seen = job[i].slot + seen <= slots ? seen : slots - job[i].slot;
        sum += emission(ci, forecast, job[i].slot, job[i].slots, seen, interruptible);
    }
    return sum;
}

static int64_t read_lwa_jobs(lwa_job_t *job)
{
    table_t t = read_table("../jobs/lwa_ml_2020.csv");
    for (int i = 1; i < t.rows; i++) {
        int64_t arrival = (int64_t)number(&t, i, 1), duration = (int64_t)number(&t, i, 2);
        job[i - 1] = (lwa_job_t){arrival / 30, duration / 30, arrival + duration};
    }
    int64_t n_jobs = t.rows - 1;
    free_table(&t);
    return n_jobs;
}

static void yardstick_a(const char *region)
{
    static lwa_job_t job[MOST_ROWS];
    char name[64], what[128];
    int64_t n, jobs = read_lwa_jobs(job);
    table_t t = read_table("lwa2020/expected_ml.csv");
    snprintf(name, sizeof name, "lwa2020/%s_ci.csv", region);
    double *ci = read_values(name, "Carbon Intensity", 1800, BEGIN_2020, &n), *noisy = calloc((size_t)n, sizeof *ci);
    double base = lwa_total(ci, ci, n, job, jobs, NULL, false);
    for (int r = 1; r < t.rows; r++) {
        if (strcmp(cell(&t, r, 0), region) != 0)
            continue;
        double sigma = number(&t, r, 3), sum = 0;
        int seeds = sigma > 0 ? SEEDS : 1;
        for (int seed = 0; seed < seeds; seed++) {
            add_noise(ci, n, sigma, seed, noisy);
            sum += lwa_total(ci, noisy, n, job, jobs, cell(&t, r, 1), number(&t, r, 2) > 0) / seeds;
        }
        double published = number(&t, r, *cell(&t, r, 4) ? 4 : 5);
        snprintf(what, sizeof what, "%s %s %s, noise %.0f %%: saved %%", region, cell(&t, r, 1),
                 number(&t, r, 2) > 0 ? "interruptible" : "contiguous", 100 * sigma);
        compare("A", what, published, 100 * (1 - sum / base), sigma > 0 ? 0.05 : 0.001);
    }
    free(ci);
    free(noisy);
    free_table(&t);
}

/* Mean intensity of a nightly slot at 01:00 that may move by w slots either way. */
static double nightly(const double *ci, const double *forecast, int64_t w)
{
    double sum = 0;
    for (int64_t day = 0; day < 365; day++) {
        int64_t at = day * 48 + 2 - w;
        if (at >= 0)
            sum += ci[at + ebb_plan_least_window(forecast + at, 2 * w + 1, 1, NULL)];
    }
    return sum / 365;
}

static void yardstick_b(const char *region)
{
    char name[64], what[128];
    int64_t n;
    table_t t = read_table("lwa2020/expected_nightly.csv");
    snprintf(name, sizeof name, "lwa2020/%s_ci.csv", region);
    double *ci = read_values(name, "Carbon Intensity", 1800, BEGIN_2020, &n), *noisy = calloc((size_t)n, sizeof *ci);
    for (int r = 1; r < t.rows; r++) {
        int64_t w = (int64_t)number(&t, r, 1);
        double sum = 0, base = nightly(ci, ci, 0);
        if (strcmp(cell(&t, r, 0), region) != 0)
            continue;
        snprintf(what, sizeof what, "%s nightly +-%lld half-hours, noise 0 %%: saved %%", region, (long long)w);
        compare("B", what, number(&t, r, 4), 100 * (1 - nightly(ci, ci, w) / base), 0.001);
        for (int seed = 0; seed < SEEDS; seed++) {
            add_noise(ci, n, 0.05, seed, noisy);
            sum += nightly(ci, noisy, w) / SEEDS;
        }
        snprintf(what, sizeof what, "%s nightly +-%lld half-hours, noise 5 %%: saved %%", region, (long long)w);
        compare("B", what, number(&t, r, 2), 100 * (1 - sum / base), 0.05);
    }
    free(ci);
    free(noisy);
    free_table(&t);
}

/* ---- C: offline optimum ---- */

static void optimum(const double *ci, int64_t n, int64_t j, int64_t slack, double mean[3])
{
    int64_t arrivals = n - j;
    memset(mean, 0, 3 * sizeof *mean);
    for (int64_t i = 0; i < arrivals; i++) {
        int64_t seen = i + slack + j <= n ? slack + j : n - i;
        double now = 0, window;
        for (int64_t k = 0; k < j; k++)
            now += ci[i + k];
        ebb_plan_least_window(ci + i, seen, j, &window);
        mean[0] += now;
        mean[1] += window;
        mean[2] += ebb_plan_least_sum(ci + i, seen, j, scratch, NULL);
    }
    for (int k = 0; k < 3; k++)
        mean[k] /= (double)arrivals;
}

static void yardstick_c(void)
{
    static const char *const names[] = {"at once", "contiguous", "interruptible"};
    table_t t = read_table("em2022_optimum.csv");
    char zone[64] = "", what[128];
    double *ci = NULL, mean[3], worst = 0;
    int64_t n = 0, cells = 0;
    for (int r = 1; r < t.rows; r++) {
        int64_t j = (int64_t)number(&t, r, 1), slack = (int64_t)number(&t, r, 2);
        if (brief && (strcmp(cell(&t, r, 0), "DE") != 0 || slack > 168))
            continue;
        if (strcmp(zone, cell(&t, r, 0)) != 0) {
            snprintf(zone, sizeof zone, "%s", cell(&t, r, 0));
            free(ci);
            ci = read_values("em2022_zones.csv", zone, 1, 0, &n);
        }
        optimum(ci, n, j, slack, mean);
        for (int k = 0; k < 3; k++) {
            double published = number(&t, r, 4 + k), error = fabs(mean[k] - published);
            double relative = fmax(0, error - 5e-7) / published; /* published with six decimals */
            worst = fmax(worst, relative);
            if (relative > 1e-8 || (strcmp(zone, "DE") == 0 && slack == 24 && k > 0)) {
                snprintf(what, sizeof what, "%s, %lld h, slack %lld h, %s: mean g", zone, (long long)j,
                         (long long)slack, names[k]);
                compare("C", what, published, mean[k], 1e-8 * published + 5e-7);
            }
        }
        cells++;
    }
    snprintf(what, sizeof what, "%lld cells x 3: largest relative difference beyond rounding", (long long)cells);
    compare("C", what, 0, worst, 1e-8);
    free(ci);
    free_table(&t);
}

/* ---- D: GAIA ---- */

#define HOUR_STEPS 720

typedef struct gaia {
    double *ci; /* per step */
    int64_t steps;
    double mean_length[2];
} gaia_t;

typedef struct gaia_job {
    int64_t arrival, length, wait;
    double cpus, mean_length;
} gaia_job_t;

static double run_at(const gaia_t *g, int64_t start, int64_t length)
{
    double sum = 0;
    for (int64_t i = start; i < start + length && i < g->steps; i++)
        sum += g->ci[i];
    return sum;
}

static double lowest_slot(const gaia_t *g, const gaia_job_t *j)
{
    return run_at(g, j->arrival + ebb_plan_least_window(g->ci + j->arrival, j->wait + 1, 1, NULL), j->length);
}

/* Offsets of whole hours, judged by the class's mean length. */
static double by_offset(const gaia_t *g, const gaia_job_t *j, bool carbon_time)
{
    double best = INFINITY, now = 0;
    int64_t best_offset = 0, length = (int64_t)j->mean_length;
    for (int64_t offset = 0; offset <= j->wait; offset += HOUR_STEPS) {
        double sum = run_at(g, j->arrival + offset, length);
        now = offset == 0 ? sum : now;
        double score = carbon_time ? -(now - sum) / (double)(offset + length) : sum;
        if (score < best) {
            best = score;
            best_offset = offset;
        }
    }
    return run_at(g, j->arrival + best_offset, j->length);
}

static double lowest_window(const gaia_t *g, const gaia_job_t *j)
{
    return by_offset(g, j, false);
}

static double carbon_time(const gaia_t *g, const gaia_job_t *j)
{
    return by_offset(g, j, true);
}

/* Quantile of the next day's steps by linear interpolation. */
static double quantile(const gaia_t *g, int64_t at, double q)
{
    int64_t n = 24 * HOUR_STEPS;
    double place = q * (double)(n - 1), low, high;
    ebb_plan_least_sum(g->ci + at, n, (int64_t)place + 1, scratch, &low);
    ebb_plan_least_sum(g->ci + at, n, (int64_t)place + 2, scratch, &high);
    return low + (place - floor(place)) * (high - low);
}

static double threshold(const gaia_t *g, const gaia_job_t *j)
{
    double sum = 0, limit = quantile(g, j->arrival, 0.3);
    int64_t done = 0, waited = 0;
    for (int64_t t = j->arrival; done < j->length; t++) {
        if (g->ci[t] < limit || waited >= j->wait) {
            sum += g->ci[t];
            done++;
        } else {
            waited++;
        }
    }
    return sum;
}

static double wait_awhile(const gaia_t *g, const gaia_job_t *j)
{
    return ebb_plan_least_sum(g->ci + j->arrival, j->length + j->wait, j->length, scratch, NULL);
}

static double no_wait(const gaia_t *g, const gaia_job_t *j)
{
    return run_at(g, j->arrival, j->length);
}

static double gaia_total(const gaia_t *g, const gaia_job_t *job, int n,
                         double (*policy)(const gaia_t *, const gaia_job_t *))
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += job[i].cpus * policy(g, &job[i]);
    return sum / HOUR_STEPS / 1000;
}

static int read_gaia(gaia_t *g, gaia_job_t *job)
{
    int64_t n, count[2] = {0};
    double *hours = read_values("em2022_zones.csv", "AU-SA", 1, 0, &n);
    table_t t = read_table("../jobs/gaia_pai_1k.csv");
    g->steps = (n - 7000) * HOUR_STEPS;
    g->ci = calloc((size_t)g->steps, sizeof *g->ci);
    for (int64_t i = 0; i < g->steps; i++)
        g->ci[i] = hours[7000 + i / HOUR_STEPS];
    for (int i = 1; i < t.rows; i++) {
        gaia_job_t *j = &job[i - 1];
        *j = (gaia_job_t){(int64_t)(number(&t, i, 0) / 5), (int64_t)(number(&t, i, 1) / 5), 0, number(&t, i, 2), 0};
        for (int k = 0; k < 2; k++) { /* of lengths that are not truncated yet */
            double length = number(&t, i, 1) / 5;
            if (k == 0 ? length <= 1440 : length >= 1440) {
                g->mean_length[k] += length;
                count[k]++;
            }
        }
    }
    for (int k = 0; k < 2; k++)
        g->mean_length[k] /= (double)count[k];
    for (int i = 0; i < t.rows - 1; i++) {
        bool small = job[i].length < 1440;
        job[i].wait = (small ? 6 : 24) * HOUR_STEPS;
        job[i].mean_length = g->mean_length[small ? 0 : 1];
    }
    free(hours);
    int n_jobs = t.rows - 1;
    free_table(&t);
    return n_jobs;
}

static void yardstick_d(void)
{
    static double (*const policies[])(const gaia_t *, const gaia_job_t *) = {no_wait,     lowest_slot, lowest_window,
                                                                             carbon_time, threshold,   wait_awhile};
    static gaia_job_t job[MOST_ROWS];
    gaia_t g = {0};
    int n = read_gaia(&g, job);
    table_t t = read_table("../jobs/gaia_expected_fig8.csv");
    double base = gaia_total(&g, job, n, no_wait);
    compare("D", "baseline, g", 562.1712563, base, 1e-6);
    for (int p = 0; p < 6; p++)
        compare("D", cell(&t, p + 1, 0), number(&t, p + 1, 2), gaia_total(&g, job, n, policies[p]) / base, 1e-6);
    free(g.ci);
    free_table(&t);
}

/* ---- E: day-ahead forecasts ---- */

enum { BY_FORECAST, BY_OPTIMUM, BY_YESTERDAY };

static double day_ahead(const double *ci, const double *forecast, int64_t days, int64_t hours, bool interruptible)
{
    double sum = 0, now = 0, kth;
    for (int64_t d = 1; d < days; d++) {
        const double *f = forecast + 24 * d, *a = ci + 24 * d;
        for (int64_t i = 0; i < hours; i++)
            now += a[i];
        if (!interruptible) {
            int64_t start = ebb_plan_least_window(f, 24, hours, NULL);
            for (int64_t i = 0; i < hours; i++)
                sum += a[start + i];
            continue;
        }
        ebb_plan_least_sum(f, 24, hours, scratch, &kth);
        int64_t taken = 0;
        for (int64_t i = 0; i < 24; i++)
            taken += f[i] < kth;
        for (int64_t i = 0; i < 24; i++) { /* of the hours that equal the k-th, the first ones */
            bool tie = f[i] == kth && taken < hours;
            taken += tie;
            sum += f[i] < kth || tie ? a[i] : 0;
        }
    }
    return 100 * (1 - sum / now);
}

static void yardstick_e(void)
{
    static const char *const names[] = {"forecast", "optimum", "yesterday"};
    table_t t = read_table("dayahead2021/efficiency.csv");
    for (int r = 1; r < t.rows; r++) {
        char name[64], what[128];
        int64_t n, hours = (int64_t)number(&t, r, 1);
        snprintf(name, sizeof name, "dayahead2021/%s.csv", cell(&t, r, 0));
        double *ci = read_values(name, "actual", 1, 0, &n), *f = read_values(name, "forecast_day_ahead", 1, 0, &n);
        for (int k = 0; k < 6; k++) {
            const double *by = k % 3 == BY_FORECAST ? f : k % 3 == BY_OPTIMUM ? ci : ci - 24;
            snprintf(what, sizeof what, "%s %lld h %s, by %s: saved %%", cell(&t, r, 0), (long long)hours,
                     k < 3 ? "contiguous" : "interruptible", names[k % 3]);
            compare("E", what, number(&t, r, 2 + k), day_ahead(ci, by, n / 24, hours, k >= 3), 0.001);
        }
        free(ci);
        free(f);
    }
    free_table(&t);
}

int main(int argc, char **argv)
{
    static const char *const regions[] = {"ger", "gb", "fr"};
    double begin = (double)ebb_now_ns() * 1e-9;
    brief = argc > 1 && strcmp(argv[1], "--short") == 0;
    folder = argc > 1 + brief ? argv[1 + brief] : "../shared/data/carbon";
    scratch = calloc(1 << 20, sizeof *scratch);
    printf("%-2s %-60s %14s %14s %12s\n", "", "", "published", "reproduced", "difference");
    for (int i = 0; i < 3; i++)
        yardstick_a(regions[i]);
    for (int i = 0; i < 3; i++)
        yardstick_b(regions[i]);
    yardstick_c();
    yardstick_d();
    yardstick_e();
    printf("%d figures compared, %d differ, %.1f s\n", compared, failures, (double)ebb_now_ns() * 1e-9 - begin);
    free(scratch);
    return failures > 0;
}
