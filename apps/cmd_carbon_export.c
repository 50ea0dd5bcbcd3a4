/* ebb carbon export: the forecast, and when jobs had best start, in a small file that batch systems read without asking
 * anybody. Lines of text; cluster/slurm/job_submit.lua is a reader:
 *
 *     ebb-carbon 1
 *     zone GB
 *     source ...                          and signal, scope
 *     written 1686556800                  seconds since 1970
 *     valid-until 1686564000              older than that it says nothing
 *     begin 1686556800                    of the forecast
 *     step 1800
 *     now 232.1                           gCO2e/kWh; - where it is not known
 *     threshold 151.0                     below it lie the cleanest quarter of the hours to come
 *     forecast 232.1 228.0 - ...          one value a step
 *     start 1 0:0 0:0 3600:12 ...         of a job of 1 hour that must end within 1, 2, 3, ... hours from begin:
 *     start 2 - 0:0 ...                   the seconds after begin to start at, and the percentage of grams it saves
 *     end
 */
#include "carbon_source.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"

#include <ebb/plan.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define LONGEST_JOB 48 /* hours */
#define CLEAN_SHARE 0.25

typedef struct export_options {
    source_options_t source;
    double hours, step, min_saving;
    char *every, *valid;
} export_options_t;

static const ebb_option_t options[] = {
    {.name = "hours",
     .letter = 'n',
     .type = EBB_OPT_F64,
     .offset = offsetof(export_options_t, hours),
     .def = "48",
     .unit = "hours",
     .min = 1,
     .max = 168,
     .help = "how far to look ahead: longer deadlines are taken for this"},
    {.name = "step",
     .type = EBB_OPT_F64,
     .offset = offsetof(export_options_t, step),
     .def = "30",
     .unit = "minutes",
     .min = 5,
     .max = 60,
     .help = "length of a step"},
    {.name = "every",
     .type = EBB_OPT_STRING,
     .offset = offsetof(export_options_t, every),
     .unit = "duration",
     .help = "write again so often, until a signal comes (10m); without it once"},
    {.name = "valid",
     .type = EBB_OPT_STRING,
     .offset = offsetof(export_options_t, valid),
     .def = "2h",
     .unit = "duration",
     .help = "how long readers may believe the file"},
    {.name = "min-saving",
     .type = EBB_OPT_F64,
     .offset = offsetof(export_options_t, min_saving),
     .def = "2",
     .unit = "percent",
     .min = 0,
     .max = 100,
     .help = "less than this is not worth waiting for"},
    SOURCE_OPTIONS(export_options_t),
    {0},
};

static bool is_known(const ebb_carbon_forecast_t *f, int64_t i)
{
    return f->rung[i] != EBB_CARBON_NOTHING;
}

static void add_value(ebb_text_t *out, const ebb_carbon_forecast_t *f, int64_t i)
{
    if (is_known(f, i))
        ebb_text_add(out, " %.1f", f->g[i]);
    else
        ebb_text_add(out, " -");
}

static int compare(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static ebb_status_t add_threshold(ebb_text_t *out, const ebb_carbon_forecast_t *f)
{
    double *known;
    int64_t n = 0;
    EBB_TRY(EBB_NEW_ARRAY("intensities", f->n, &known));
    for (int64_t i = 0; i < f->n; i++)
        if (is_known(f, i))
            known[n++] = f->g[i];
    qsort(known, (size_t)n, sizeof *known, compare);
    if (n > 0)
        ebb_text_add(out, "threshold %.1f\n", known[(int64_t)(CLEAN_SHARE * (double)n)]);
    else
        ebb_text_add(out, "threshold -\n");
    ebb_free(known);
    return EBB_OK;
}

/* Steps from the beginning of which all is known: nothing is planned beyond. */
static int64_t known_steps(const ebb_carbon_forecast_t *f)
{
    int64_t n = 0;
    while (n < f->n && is_known(f, n))
        n++;
    return n;
}

typedef struct starts {
    ebb_planner_t *planner;
    ebb_plan_t now, best;
    ebb_plan_horizon_t horizon;
    double min_saving;
} starts_t;

/* One job: "3600:12", or "-" where it does not fit. */
static ebb_status_t add_start(ebb_text_t *out, starts_t *s, int hours, int deadline)
{
    ebb_plan_size_t size = {.ranks = 1, .rate = 1, .power_w = 1000};
    ebb_plan_job_t job = {.work = 3600.0 * hours, .sizes = &size, .n_sizes = 1, .deadline_s = 3600.0 * deadline};
    ebb_plan_horizon_t h = s->horizon;
    if (hours > deadline) {
        ebb_text_add(out, " -");
        return EBB_OK;
    }
    h.n = (int64_t)fmin((double)h.n, ceil(job.deadline_s / h.slot_s));
    if ((double)h.n * h.slot_s < job.work) { /* not known so far ahead: at once */
        ebb_text_add(out, " 0:0");
        return EBB_OK;
    }
    job.deadline_s = fmin(job.deadline_s, (double)h.n * h.slot_s);
    EBB_TRY(ebb_plan_make(s->planner, EBB_PLAN_ASAP, &h, &job, &s->now));
    EBB_TRY(ebb_plan_make(s->planner, EBB_PLAN_DEFER, &h, &job, &s->best));
    double saving = s->now.grams > 0 ? 100 * (1 - s->best.grams / s->now.grams) : 0;
    bool worth = saving > 0 && saving >= s->min_saving;
    ebb_text_add(out, " %.0f:%.0f", worth ? floor(s->best.start_s) : 0, worth ? saving : 0);
    return EBB_OK;
}

static ebb_status_t add_rows(ebb_text_t *out, starts_t *s, int deadlines)
{
    int longest = deadlines < LONGEST_JOB ? deadlines : LONGEST_JOB;
    for (int hours = 1; hours <= longest; hours++) {
        ebb_text_add(out, "start %d", hours);
        for (int deadline = 1; deadline <= deadlines; deadline++)
            EBB_TRY(add_start(out, s, hours, deadline));
        ebb_text_add(out, "\n");
    }
    return EBB_OK;
}

static ebb_status_t add_starts(ebb_text_t *out, const export_options_t *o, const ebb_carbon_forecast_t *f)
{
    starts_t s = {.min_saving = o->min_saving,
                  .horizon = {.n = known_steps(f), .slot_s = (double)f->step_s, .g_per_kwh = f->g}};
    EBB_TRY(ebb_planner_create(&s.planner));
    ebb_status_t status = add_rows(out, &s, (int)o->hours);
    ebb_plan_free(&s.now);
    ebb_plan_free(&s.best);
    ebb_planner_destroy(s.planner);
    return status;
}

/* Times are the system's, also where the forecast is of another day (--at). */
static ebb_status_t compose(ebb_text_t *out, const export_options_t *o, double valid_s, const ebb_carbon_forecast_t *f)
{
    long long now = (long long)ebb_system_seconds();
    ebb_text_add(out, "ebb-carbon 1\nzone %s\nsource %s\nsignal %s\nscope %s\n", f->zone, f->source,
                 ebb_carbon_signal_name(f->signal), ebb_carbon_scope_name(f->scope));
    ebb_text_add(out, "written %lld\nvalid-until %lld\nbegin %lld\nstep %lld\nnow", now, now + (long long)valid_s,
                 now / 60 * 60, (long long)f->step_s);
    add_value(out, f, 0);
    ebb_text_add(out, "\n");
    EBB_TRY(add_threshold(out, f));
    ebb_text_add(out, "forecast");
    for (int64_t i = 0; i < f->n; i++)
        add_value(out, f, i);
    ebb_text_add(out, "\n");
    EBB_TRY(add_starts(out, o, f));
    ebb_text_add(out, "end\n");
    return out->failed ? EBB_FAIL(EBB_ENOMEM, "out of memory: text") : EBB_OK;
}

static ebb_status_t export(const export_options_t *o, double valid_s, const char *path)
{
    ebb_carbon_forecast_t f;
    ebb_text_t out = {0};
    int64_t begin, step = (int64_t)(60 * o->step), n = (int64_t)ceil(3600 * floor(o->hours) / (double)step);
    EBB_TRY(ebb_source_look(&o->source, step, n, &begin, &f));
    ebb_status_t status = compose(&out, o, valid_s, &f);
    if (status == EBB_OK)
        status = ebb_file_replace(path, out.s, out.n);
    if (status == EBB_OK && !o->every && !o->source.json)
        printf("%s: %.1f gCO2e/kWh now, %s%s%s\n", path, f.g[0], f.source,
               f.rung[0] == EBB_CARBON_LIVE ? "" : ", from ",
               f.rung[0] == EBB_CARBON_LIVE ? "" : ebb_carbon_rung_name((ebb_carbon_rung_t)f.rung[0]));
    ebb_text_free(&out);
    ebb_carbon_forecast_free(&f);
    return status;
}

typedef struct again {
    const export_options_t *options;
    double valid_s;
    const char *path;
} again_t;

/* What fails once begun is told and tried again: readers start jobs at once when the file is too old. */
static void export_again(void *user)
{
    const again_t *a = user;
    if (export(a->options, a->valid_s, a->path) == EBB_OK)
        return;
    EBB_WARN("carbon", "%s: not written: %s", a->path, ebb_error()->message);
    ebb_error_clear();
}

static ebb_status_t run(void *target, int n_operands, char **operands)
{
    const export_options_t *o = target;
    double every_s = 0, valid_s;
    if (o->every && ebb_parse_duration(o->every, &every_s) != EBB_OK)
        return ebb_error_prefix("--every: ");
    if (ebb_parse_duration(o->valid, &valid_s) != EBB_OK)
        return ebb_error_prefix("--valid: ");
    if (o->every && (every_s < 1 || every_s > valid_s))
        return EBB_FAIL(EBB_EUSAGE, "--every: from a second to --valid (%s), else the file is too old between",
                        o->valid);
    EBB_TRY(export(o, valid_s, operands[0]));
    if (o->every)
        ebb_repeat(every_s, export_again, &(again_t){o, valid_s, operands[0]});
    return EBB_OK;
}

static const ebb_example_t examples[] = {
    {"From a timer or cron, on the host of slurmctld", "ebb carbon export --source neso /run/ebb/carbon"},
    {"As a service", "ebb carbon export --zone DE --every 10m /run/ebb/carbon"},
    {0},
};

const ebb_command_t cmd_carbon_export = {
    .name = "carbon export",
    .help = "Keep a small file of the forecast and best starts for batch systems",
    .operands = "FILE",
    .about =
        "Writes intensity now, the forecast, and for jobs of whole hours and deadlines of whole hours when to start\n"
        "and what that saves. The file is replaced as a whole and says until when it may be believed.\n"
        "\n"
        "With cluster/slurm/job_submit.lua in Slurm's configuration folder, and JobSubmitPlugins=lua, a batch script\n"
        "with `#SBATCH --comment=ebb:deadline=24h` is given the begin time that the file tells. The controller asks\n"
        "no network; a file that is missing, broken or too old means that jobs start at once.\n",
    .min_operands = 1,
    .max_operands = 1,
    .options = options,
    .options_bytes = sizeof(export_options_t),
    .examples = examples,
    .run = run,
};
