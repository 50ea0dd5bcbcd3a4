/* ebb plan: when to run a job, on how many ranks, and what that saves. */
#include "carbon_source.h"
#include "chart.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"

#include <ebb/plan.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct plan_options {
    source_options_t source;
    int policy;
    int64_t ranks;
    double hours, work, power, idle_power, pue, max_power, restart_energy, resize_energy, price_weight, time_weight,
        slot;
    char *deadline, *max_wait, *restart_time, *resize_time, *profile, *workload, *price, *truth;
    ebb_string_list_t sizes;
} plan_options_t;

#define NUMBER(field_, name_, unit_, def_, min_, help_)                                                                \
    {                                                                                                                  \
        .name = name_, .type = EBB_OPT_F64, .offset = offsetof(plan_options_t, field_), .def = def_, .unit = unit_,    \
        .min = min_, .max = INFINITY, .help = help_                                                                    \
    }
#define TEXT(field_, name_, unit_, def_, help_)                                                                        \
    {                                                                                                                  \
        .name = name_, .type = EBB_OPT_STRING, .offset = offsetof(plan_options_t, field_), .def = def_, .unit = unit_, \
        .help = help_                                                                                                  \
    }

static const char *const policy_choices[] = {"asap", "defer", "pause", "elastic", NULL};

static const ebb_option_t options[] = {
    {.name = "policy",
     .letter = 'p',
     .type = EBB_OPT_CHOICE,
     .offset = offsetof(plan_options_t, policy),
     .def = "pause",
     .choices = policy_choices,
     .help = "which plan to print in full: at once, one window, any windows, any sizes"},
    NUMBER(hours, "hours", "hours", "0", 0, "how long the job runs on --ranks; or give --work"),
    NUMBER(work, "work", "work", "0", 0, "what is to be done, in the unit of the sizes' rate x seconds"),
    TEXT(deadline, "deadline", "time or duration", NULL,
         "latest end, as 24h from the beginning or as a time; without it a day more than the job needs"),
    TEXT(max_wait, "max-wait", "duration", NULL,
         "latest start after the beginning; without it as late as the deadline allows"),
    NUMBER(power, "power", "watts", "500", 0.001, "what the job draws at the plug, where no size says it"),
    {.name = "size",
     .type = EBB_OPT_LIST,
     .offset = offsetof(plan_options_t, sizes),
     .unit = "ranks:rate:watts",
     .help = "a rank count, the work per second it does, and what it draws"},
    TEXT(profile, "profile", "file", NULL,
         "sizes as `ebb profile` writes them, or a CSV file: columns ranks (or nodes), throughput, power_w, perhaps "
         "workload"),
    TEXT(workload, "workload", "name", NULL, "rows of the profile to take"),
    {.name = "ranks",
     .letter = 'r',
     .type = EBB_OPT_I64,
     .offset = offsetof(plan_options_t, ranks),
     .def = "0",
     .unit = "ranks",
     .min = 0,
     .max = 1e9,
     .help = "size for asap, defer and pause; 0: the first one"},
    NUMBER(pue, "pue", NULL, "1", 1, "power usage effectiveness of the site"),
    NUMBER(idle_power, "idle-power", "watts", "0", 0, "drawn while paused, where nodes are kept"),
    NUMBER(max_power, "max-power", "watts", "0", 0, "leave out sizes that draw more; 0: no limit"),
    TEXT(restart_time, "restart-time", "duration", "60s", "lost at each start after a pause"),
    NUMBER(restart_energy, "restart-energy", "joules", "0", 0, "and joules besides"),
    TEXT(resize_time, "resize-time", "duration", "60s", "lost at each change of size"),
    NUMBER(resize_energy, "resize-energy", "joules", "0", 0, "and joules besides"),
    TEXT(price, "price", "file", NULL, "CSV of prices per kWh, as of intensities"),
    NUMBER(price_weight, "price-weight", "grams", "0", 0, "grams of CO2e that one unit of money is worth"),
    NUMBER(time_weight, "time-weight", "grams", "0", 0, "grams of CO2e that an hour of earlier end is worth"),
    NUMBER(slot, "slot", "minutes", "30", 1, "length of the slots that are planned"),
    TEXT(truth, "truth", "file", NULL,
         "intensities that came true: what the plan emits there, and the best plan in hindsight"),
    SOURCE_OPTIONS(plan_options_t),
    {0},
};

typedef struct problem {
    const plan_options_t *o;
    ebb_plan_job_t job;
    ebb_plan_horizon_t horizon, truth; /* truth.g_per_kwh NULL: not known */
    ebb_plan_size_t *sizes;
    int64_t capacity, begin;
    double *price, *true_g;
    ebb_carbon_forecast_t forecast;
    ebb_planner_t *planner;
    ebb_plan_t plan[4], best; /* by policy; in hindsight */
} problem_t;

/* ---- sizes ---- */

static ebb_status_t add_size(problem_t *p, int64_t ranks, double rate, double power)
{
    EBB_TRY(ebb_grow("sizes", (void **)&p->sizes, &p->capacity, p->job.n_sizes + 1, sizeof *p->sizes));
    p->sizes[p->job.n_sizes++] = (ebb_plan_size_t){ranks, rate, power};
    return EBB_OK;
}

static ebb_status_t parse_size(problem_t *p, const char *text)
{
    long long ranks;
    double rate, power;
    int end = 0;
    if (sscanf(text, "%lld:%lf:%lf%n", &ranks, &rate, &power, &end) != 3 || text[end] || ranks < 1)
        return EBB_FAIL(EBB_EUSAGE, "--size: \"%.60s\": wanted RANKS:RATE:WATTS, as in 4:3.6:1100", text);
    return add_size(p, ranks, rate, power);
}

static int column_of(char *heading, const char *const *names)
{
    int found = -1, i = 0;
    for (char *name; (name = strsep(&heading, ",")); i++)
        for (const char *const *n = names; *n; n++)
            if (strcmp(name, *n) == 0)
                found = i;
    return found;
}

typedef struct profile_columns {
    int ranks, rate, power, workload;
} profile_columns_t;

static ebb_status_t read_heading(const char *path, const char *line, profile_columns_t *c)
{
    static const char *const ranks[] = {"ranks", "nodes", NULL}, *const rate[] = {"throughput", "rate", NULL},
                             *const power[] = {"power_w", "watts", NULL}, *const workload[] = {"workload", NULL};
    int *column[] = {&c->ranks, &c->rate, &c->power, &c->workload};
    const char *const *names[] = {ranks, rate, power, workload};
    for (int i = 0; i < 4; i++) {
        char copy[1024];
        snprintf(copy, sizeof copy, "%s", line);
        *column[i] = column_of(copy, names[i]);
    }
    if (c->ranks < 0 || c->rate < 0 || c->power < 0)
        return EBB_FAIL(EBB_EDATA, "%s:1: wanted columns ranks (or nodes), throughput and power_w", path);
    return EBB_OK;
}

static ebb_status_t read_row(problem_t *p, const char *path, int line, char *row, const profile_columns_t *c)
{
    char *field[32] = {0}, *cell;
    int n = 0;
    while ((cell = strsep(&row, ",")) && n < 32)
        field[n++] = cell;
    if (n <= c->ranks || n <= c->rate || n <= c->power || n <= c->workload)
        return EBB_FAIL(EBB_EDATA, "%s:%d: too few columns", path, line);
    if (p->o->workload && (c->workload < 0 || strcmp(field[c->workload], p->o->workload) != 0))
        return EBB_OK;
    double rate = atof(field[c->rate]), power = atof(field[c->power]);
    int64_t ranks = atoll(field[c->ranks]);
    if (ranks < 1) /* idle, in some profiles */
        return EBB_OK;
    if (!(rate > 0 && power > 0))
        return EBB_FAIL(EBB_EDATA, "%s:%d: throughput and power must be above 0", path, line);
    return add_size(p, ranks, rate, power);
}

/* As `ebb profile` writes it; its work is rows. */
static ebb_status_t read_profile_json(problem_t *p, const char *path)
{
    json_t *profile, *size;
    size_t i;
    EBB_TRY(ebb_json_load(path, &profile));
    ebb_status_t status = EBB_OK;
    json_array_foreach(json_object_get(profile, "sizes"), i, size)
    {
        double rate = json_number_value(json_object_get(size, "rows_per_s"));
        double power = json_number_value(json_object_get(size, "watts"));
        int64_t ranks = json_integer_value(json_object_get(size, "ranks"));
        if (status == EBB_OK && ranks > 0 && rate > 0 && power > 0)
            status = add_size(p, ranks, rate, power);
    }
    json_decref(profile);
    if (status == EBB_OK && p->job.n_sizes == 0)
        return EBB_FAIL(EBB_EDATA, "%s: no size: wanted {\"sizes\": [{ranks, rows_per_s, watts}, ...]}", path);
    return status;
}

static ebb_status_t read_profile(problem_t *p, const char *path)
{
    char *text;
    size_t bytes;
    profile_columns_t c = {-1, -1, -1, -1};
    EBB_TRY(ebb_file_read_all(path, &text, &bytes));
    if (text[strspn(text, " \t\r\n")] == '{') {
        ebb_free(text);
        return read_profile_json(p, path);
    }
    char *rest = text, *row;
    ebb_status_t status = EBB_OK;
    for (int line = 1; status == EBB_OK && (row = strsep(&rest, "\n")); line++) {
        row[strcspn(row, "\r")] = 0;
        if (line == 1)
            status = read_heading(path, row, &c);
        else if (*row)
            status = read_row(p, path, line, row, &c);
    }
    ebb_free(text);
    if (status == EBB_OK && p->job.n_sizes == 0)
        return EBB_FAIL(EBB_EDATA, "%s: no size%s%s", path, p->o->workload ? " of workload " : "",
                        p->o->workload ? p->o->workload : "");
    return status;
}

static ebb_status_t find_sizes(problem_t *p)
{
    for (int i = 0; i < p->o->sizes.n; i++)
        EBB_TRY(parse_size(p, p->o->sizes.item[i]));
    if (p->o->profile)
        EBB_TRY(read_profile(p, p->o->profile));
    if (p->job.n_sizes == 0)
        EBB_TRY(add_size(p, p->o->ranks > 0 ? p->o->ranks : 1, 1, p->o->power));
    p->job.sizes = p->sizes;
    while (p->o->ranks > 0 && p->job.base < p->job.n_sizes && p->sizes[p->job.base].ranks != p->o->ranks)
        p->job.base++;
    if (p->job.base == p->job.n_sizes)
        return EBB_FAIL(EBB_EUSAGE, "--ranks: no size of %lld ranks is known", (long long)p->o->ranks);
    return EBB_OK;
}

/* ---- the problem ---- */

static ebb_status_t duration(const char *option, const char *text, double *seconds_p)
{
    *seconds_p = 0;
    return !text || ebb_parse_duration(text, seconds_p) == EBB_OK ? EBB_OK : ebb_error_prefix("--%s: ", option);
}

static ebb_status_t find_job(problem_t *p)
{
    const plan_options_t *o = p->o;
    ebb_plan_job_t *job = &p->job;
    double wait;
    EBB_TRY(find_sizes(p));
    if ((o->hours > 0) == (o->work > 0))
        return EBB_FAIL(EBB_EUSAGE, "give --hours or --work");
    job->work = o->work > 0 ? o->work : o->hours * 3600 * p->sizes[job->base].rate;
    job->pue = o->pue;
    job->idle_w = o->idle_power;
    job->max_power_w = o->max_power;
    job->restart_j = o->restart_energy;
    job->resize_j = o->resize_energy;
    job->price_weight = o->price_weight;
    job->time_weight_g = o->time_weight;
    EBB_TRY(duration("restart-time", o->restart_time, &job->restart_s));
    EBB_TRY(duration("resize-time", o->resize_time, &job->resize_s));
    EBB_TRY(duration("max-wait", o->max_wait, &wait));
    job->max_wait_s = !o->max_wait ? 0 : wait > 0 ? wait : -1;
    return EBB_OK;
}

/* Seconds from the beginning to the deadline: a duration at once, a time when the beginning is known. */
static ebb_status_t find_deadline(problem_t *p, double length)
{
    const char *text = p->o->deadline;
    int64_t time;
    double seconds = length + 86400;
    if (text && ebb_parse_duration(text, &seconds) != EBB_OK) {
        ebb_error_clear();
        if (ebb_carbon_parse_time(text, &time) != EBB_OK) {
            ebb_error_clear();
            return EBB_FAIL(EBB_EUSAGE,
                            "--deadline: \"%.60s\" is neither a duration (24h) nor a time (2026-11-22T17:00Z)", text);
        }
        int64_t begin = (int64_t)ebb_wall_seconds();
        if (p->o->source.at)
            EBB_TRY(ebb_carbon_parse_time(p->o->source.at, &begin));
        seconds = (double)(time - begin / 60 * 60);
        if (seconds <= 0)
            return EBB_FAIL(EBB_EUSAGE, "--deadline: %s has passed; for a file of the past say --at", text);
    }
    if (!(seconds < 400.0 * 86400))
        return EBB_FAIL(EBB_EUSAGE, "--deadline: more than 400 days away");
    p->job.deadline_s = seconds;
    return EBB_OK;
}

/* The series' steps on the problem's horizon; those it lacks are of `fill`, or of the mean. */
static ebb_status_t sample_file(problem_t *p, const char *path, bool any, const double *fill, double **values_p)
{
    ebb_carbon_series_t series;
    ebb_carbon_read_options_t read = {.zone = any ? NULL : p->o->source.zone, .any = any, .zeros = p->o->source.zeros};
    const ebb_plan_horizon_t *h = &p->horizon;
    int64_t known;
    EBB_TRY(ebb_carbon_read(path, &read, &series));
    ebb_status_t status = EBB_NEW_ARRAY("values of slots", h->n, values_p);
    if (status == EBB_OK) {
        ebb_carbon_sample(&series, p->begin, (int64_t)h->slot_s, h->n, *values_p, &known);
        double sum = 0;
        for (int64_t i = 0; i < h->n; i++)
            sum += isnan((*values_p)[i]) ? 0 : (*values_p)[i];
        for (int64_t i = 0; i < h->n; i++)
            if (isnan((*values_p)[i]))
                (*values_p)[i] = fill ? fill[i] : sum / (double)(known > 0 ? known : 1);
        if (known == 0)
            status = EBB_FAIL(EBB_EDATA, "%s: no value in the time that is planned", path);
        else if (known < h->n)
            EBB_WARN("plan", "%s: %lld of %lld slots have no value", path, (long long)(h->n - known), (long long)h->n);
    }
    ebb_carbon_series_free(&series);
    return status;
}

static ebb_status_t look_ahead(problem_t *p)
{
    double length = p->job.work / p->sizes[p->job.base].rate;
    int64_t slot = (int64_t)(60 * p->o->slot);
    EBB_TRY(find_deadline(p, length));
    int64_t n = (int64_t)ceil(fmax(p->job.deadline_s, length) / (double)slot - 1e-9);
    EBB_TRY(ebb_source_look(&p->o->source, slot, n, &p->begin, &p->forecast));
    p->horizon = (ebb_plan_horizon_t){.n = n, .slot_s = (double)slot, .g_per_kwh = p->forecast.g};
    if (p->o->price)
        EBB_TRY(sample_file(p, p->o->price, true, NULL, &p->price));
    p->horizon.price_per_kwh = p->price;
    p->truth = p->horizon;
    p->truth.g_per_kwh = NULL;
    if (p->o->truth)
        EBB_TRY(sample_file(p, p->o->truth, false, p->forecast.g, &p->true_g));
    p->truth.g_per_kwh = p->true_g;
    return EBB_OK;
}

/* ---- plans ---- */

static bool is_elastic(const problem_t *p)
{
    return p->job.n_sizes > 1;
}

static ebb_status_t make_plans(problem_t *p)
{
    int chosen = p->o->policy;
    EBB_TRY(ebb_planner_create(&p->planner));
    for (int k = 0; k < 4; k++)
        if (k != EBB_PLAN_ELASTIC || is_elastic(p) || chosen == k)
            EBB_TRY(ebb_plan_make(p->planner, (ebb_plan_policy_t)k, &p->horizon, &p->job, &p->plan[k]));
    if (!p->true_g)
        return EBB_OK;
    EBB_TRY(ebb_plan_make(p->planner, (ebb_plan_policy_t)chosen, &p->truth, &p->job, &p->best));
    for (int k = 0; k < 4; k++)
        if (p->plan[k].n_segments > 0)
            EBB_TRY(ebb_plan_account(&p->truth, &p->job, &p->plan[k]));
    return EBB_OK;
}

/* Nothing is known of the grid: whatever the policy, the job starts now. */
static bool is_blind(const problem_t *p)
{
    return p->forecast.count[EBB_CARBON_NOTHING] == p->forecast.n;
}

static double saved(const problem_t *p, double grams)
{
    double asap = p->plan[EBB_PLAN_ASAP].grams;
    return asap > 0 ? 100 * (1 - grams / asap) : 0;
}

/* ---- text ---- */

static void add_segments(const problem_t *p, const ebb_plan_t *plan, ebb_text_t *out)
{
    for (int64_t i = 0; i < plan->n_segments; i++) {
        const ebb_plan_segment_t *s = &plan->segment[i];
        const ebb_plan_size_t *size = &p->sizes[s->size];
        char begin[32], end[32], length[32];
        ebb_text_add(out, "  %s to %s  %8s  %lld rank%s, %.0f W\n", ebb_minute(p->begin + (int64_t)s->begin_s, begin),
                     ebb_minute(p->begin + llround(s->end_s), end),
                     ebb_format_duration(s->end_s - s->begin_s, length, sizeof length), (long long)size->ranks,
                     size->ranks == 1 ? "" : "s", size->power_w);
    }
}

static void add_comparison(const problem_t *p, ebb_text_t *out)
{
    char end[32];
    ebb_text_add(out, "%-9s %12s %8s %10s %6s %8s  end\n", "policy", "gCO2e", "saved", "kWh", "stops", "resizes");
    for (int k = 0; k < 4; k++) {
        const ebb_plan_t *plan = &p->plan[k];
        if (plan->n_segments == 0)
            continue;
        ebb_text_add(out, "%-9s %12.1f %7.1f%% %10.3f %6lld %8lld  %s%s%s\n",
                     ebb_plan_policy_name((ebb_plan_policy_t)k), plan->grams, saved(p, plan->grams), plan->kwh,
                     (long long)plan->restarts, (long long)plan->resizes,
                     ebb_minute(p->begin + llround(plan->end_s), end), plan->late ? "  late" : "",
                     k == p->o->policy ? "  <-" : "");
    }
    if (p->true_g)
        ebb_text_add(out, "%-9s %12.1f %7.1f%% %10.3f %6lld %8lld  %s in hindsight\n", "optimum", p->best.grams,
                     saved(p, p->best.grams), p->best.kwh, (long long)p->best.restarts, (long long)p->best.resizes,
                     ebb_plan_policy_name(p->o->policy));
}

/* '#', or with several sizes the rank count's place among them: 1 to 9. */
static void mark_slots(const problem_t *p, const ebb_plan_t *plan, char *mark)
{
    memset(mark, ' ', (size_t)p->horizon.n);
    for (int64_t k = 0; k < plan->n_segments; k++) {
        const ebb_plan_segment_t *s = &plan->segment[k];
        char sign = !is_elastic(p) ? '#' : s->size < 9 ? (char)('1' + s->size) : '+';
        for (int64_t i = (int64_t)(s->begin_s / p->horizon.slot_s); i < p->horizon.n; i++) {
            if ((double)i * p->horizon.slot_s >= s->end_s - 1)
                break;
            mark[i] = sign;
        }
    }
}

static ebb_status_t show(const problem_t *p)
{
    const ebb_plan_t *plan = &p->plan[p->o->policy];
    ebb_text_t out = {0};
    char *mark, end[32];
    EBB_TRY(EBB_NEW_ARRAY("marks of a chart", p->horizon.n + 1, &mark));
    mark_slots(p, plan, mark);
    ebb_source_describe(&p->forecast, &out);
    if (is_blind(p))
        ebb_text_add(&out, "nothing is known of the grid: the job starts now\n");
    ebb_chart(&out, p->forecast.g, mark, p->horizon.n, p->begin, (int64_t)p->horizon.slot_s, ebb_stdout_width());
    ebb_text_add(&out, "\n%s, deadline %s\n", ebb_plan_policy_name(p->o->policy),
                 ebb_minute(p->begin + llround(p->job.deadline_s), end));
    add_segments(p, plan, &out);
    if (plan->late)
        ebb_text_add(&out, "  the deadline cannot be met; the job runs at once\n");
    ebb_text_add(&out, "\n");
    if (p->true_g)
        ebb_text_add(&out, "on the intensities of %s:\n", p->o->truth);
    add_comparison(p, &out);
    ebb_free(mark);
    ebb_status_t status = out.failed ? EBB_FAIL(EBB_ENOMEM, "out of memory: output") : EBB_OK;
    if (status == EBB_OK)
        fputs(out.s, stdout);
    ebb_text_free(&out);
    return status;
}

/* ---- JSON ---- */

static json_t *plan_json(const problem_t *p, const ebb_plan_t *plan)
{
    json_t *segments = json_array();
    char begin[32], end[32];
    for (int64_t i = 0; i < plan->n_segments; i++) {
        const ebb_plan_segment_t *s = &plan->segment[i];
        json_array_append_new(segments,
                              json_pack("{s:f, s:f, s:I, s:f}", "begin_s", s->begin_s, "end_s", s->end_s, "ranks",
                                        (json_int_t)p->sizes[s->size].ranks, "power_w", p->sizes[s->size].power_w));
    }
    return json_pack("{s:s, s:s, s:s, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:b, s:f, s:o}", "policy",
                     ebb_plan_policy_name(plan->policy), "start", ebb_minute(p->begin + (int64_t)plan->start_s, begin),
                     "end", ebb_minute(p->begin + llround(plan->end_s), end), "start_s", plan->start_s, "end_s",
                     plan->end_s, "kwh", plan->kwh, "gco2e", plan->grams, "saved_pct", saved(p, plan->grams), "price",
                     plan->price, "restarts", (json_int_t)plan->restarts, "resizes", (json_int_t)plan->resizes, "late",
                     (int)plan->late, "bound_gco2e", plan->bound_g, "segments", segments);
}

static ebb_status_t show_json(const problem_t *p)
{
    json_t *json = json_object(), *plans = json_object();
    for (int k = 0; k < 4; k++)
        if (p->plan[k].n_segments > 0)
            json_object_set_new(plans, ebb_plan_policy_name((ebb_plan_policy_t)k), plan_json(p, &p->plan[k]));
    json_object_set_new(json, "source", ebb_source_json(&p->forecast));
    json_object_set_new(json, "deadline_s", json_real(p->job.deadline_s));
    json_object_set_new(json, "plan", plan_json(p, &p->plan[p->o->policy]));
    json_object_set_new(json, "plans", plans);
    if (p->true_g)
        json_object_set_new(json, "optimum", plan_json(p, &p->best));
    char *text = json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    json_decref(json);
    if (!text)
        return EBB_FAIL(EBB_ENOMEM, "out of memory: JSON");
    puts(text);
    free(text);
    return EBB_OK;
}

static void free_problem(problem_t *p)
{
    for (int k = 0; k < 4; k++)
        ebb_plan_free(&p->plan[k]);
    ebb_plan_free(&p->best);
    ebb_planner_destroy(p->planner);
    ebb_carbon_forecast_free(&p->forecast);
    ebb_free(p->sizes);
    ebb_free(p->price);
    ebb_free(p->true_g);
}

static ebb_status_t run(void *target, int n_operands, char **operands)
{
    problem_t p = {.o = target};
    ebb_status_t status = find_job(&p);
    if (status == EBB_OK)
        status = look_ahead(&p);
    if (status == EBB_OK)
        status = make_plans(&p);
    if (status == EBB_OK)
        status = p.o->source.json ? show_json(&p) : show(&p);
    free_problem(&p);
    return status;
}

static const ebb_example_t examples[] = {
    {"Four hours at 800 W within a day, by Germany's typical day",
     "ebb plan --zone DE --hours 4 --power 800 --deadline 24h"},
    {"The live forecast of Great Britain, in one window",
     "ebb plan --source neso --hours 6 --deadline 48h --policy defer"},
    {"Sizes as measured",
     "ebb plan --zone GB --hours 12 --size 1:1:300 --size 2:1.9:590 --size 4:3.5:1160 --policy elastic"},
    {"What a forecast would have been worth",
     "ebb plan --file de.csv --column forecast_day_ahead --truth de.csv --hours 6 --deadline 24h"},
    {0},
};

const ebb_command_t cmd_plan = {
    .name = "plan",
    .help = "When to run a job so that it emits least and ends in time",
    .operands = "",
    .about =
        "Prints the grid's intensity with the hours in which the job would run, the windows, and what each policy\n"
        "emits beside starting at once. A deadline that can be met is met, whatever it costs in grams; one that\n"
        "cannot is told, and the job runs at once. If nothing is known of the grid the job starts now.\n"
        "\n"
        "Restarts and resizes are charged with time and energy, the nodes' idle power with every pause. All plans\n"
        "are exact (pause on a grid of minutes) but elastic where resizing costs, which is near a bound that\n"
        "--json shows. With --truth plans are made on the forecast and charged with what came true.\n",
    .options = options,
    .options_bytes = sizeof(plan_options_t),
    .examples = examples,
    .run = run,
};
