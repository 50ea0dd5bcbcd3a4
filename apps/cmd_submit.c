/* ebb submit: enter a run or any command into the queue. */
#include "carbon_source.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"

#include <ebb/jobs.h>
#include <ebb/slurm.h>
#include <ebb/train.h>

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

typedef struct submit_options {
    source_options_t source;
    char *name, *deadline, *max_wait, *range, *restart_time, *profile;
    ebb_string_list_t set, after, sbatch;
    int policy, pause;
    int64_t ranks, cpus, gpus;
    double hours, power, pue;
    bool rerun, slurm;
} submit_options_t;

enum { POLICY_AUTO = 0, PAUSE_AUTO = 0 };
static const char *const policy_choices[] = {"auto", "asap", "defer", "pause", "elastic", NULL};
static const char *const pause_choices[] = {"auto", "never", "freeze", "checkpoint", NULL};

#define TEXT(field_, name_, unit_, def_, help_)                                                                        \
    {                                                                                                                  \
        .name = name_, .type = EBB_OPT_STRING, .offset = offsetof(submit_options_t, field_), .def = def_,              \
        .unit = unit_, .help = help_                                                                                   \
    }
#define COUNT(field_, name_, letter_, def_, min_, unit_, help_)                                                        \
    {                                                                                                                  \
        .name = name_, .letter = letter_, .type = EBB_OPT_I64, .offset = offsetof(submit_options_t, field_),           \
        .def = def_, .unit = unit_, .min = min_, .max = 1e6, .help = help_                                             \
    }
#define NUMBER(field_, name_, unit_, min_, help_)                                                                      \
    {                                                                                                                  \
        .name = name_, .type = EBB_OPT_F64, .offset = offsetof(submit_options_t, field_), .def = "0", .unit = unit_,   \
        .min = min_, .max = INFINITY, .help = help_                                                                    \
    }

static const ebb_option_t options[] = {
    TEXT(name, "name", "name", NULL, "name of the job, and of its run; without it the run's, or the command's"),
    TEXT(deadline, "deadline", "time or duration", NULL,
         "latest end, as 24h from now or as a time; it is kept whatever it costs in grams"),
    {.name = "policy",
     .letter = 'p',
     .type = EBB_OPT_CHOICE,
     .offset = offsetof(submit_options_t, policy),
     .def = "auto",
     .choices = policy_choices,
     .help =
         "when it runs: at once, in one window, in any windows, on any ranks; auto: elastic with --ranks-range, else "
         "asap without a deadline, and with one pause for a run file and defer for a command"},
    COUNT(ranks, "ranks", 'n', "0", 0, "ranks", "of a run file: how many ranks; 0: one, or the least of --ranks-range"),
    TEXT(range, "ranks-range", "least:most", NULL,
         "of a run file: numbers of ranks that policy elastic may choose from, as in 1:8"),
    {.name = "after",
     .type = EBB_OPT_LIST,
     .offset = offsetof(submit_options_t, after),
     .unit = "job",
     .help = "not before that job is done (exit code 0)"},
    TEXT(max_wait, "max-wait", "duration", NULL,
         "latest start after submission; without it as late as the deadline allows"),
    NUMBER(hours, "hours", "hours", 0, "how long it runs on --ranks, where no profile tells; 0: unknown, taken for 1"),
    NUMBER(power, "power", "watts", 0,
           "what it draws on --ranks at the plug, where no profile tells; 0: unknown, taken for 150 a rank"),
    NUMBER(pue, "pue", NULL, 0, "power usage effectiveness of the site; 0: 1"),
    TEXT(profile, "profile", "file", NULL,
         "measured sizes, as ebb profile writes them; without it profile.json in the run's folder"),
    TEXT(restart_time, "restart-time", "duration", "60s",
         "lost at each start after a pause and at each change of ranks; where the agent sees a run's starts take more, "
         "that"),
    COUNT(cpus, "cpus", 0, "1", 0, "slots", "slots of the agent that a rank takes"),
    COUNT(gpus, "gpus", 0, "0", 0, "devices", "GPUs that a rank takes"),
    {.name = "pause-by",
     .type = EBB_OPT_CHOICE,
     .offset = offsetof(submit_options_t, pause),
     .def = "auto",
     .choices = pause_choices,
     .help = "how it is stopped in the middle: not at all, by freezing all its processes, or by SIGTERM upon which it "
             "exits 75 and can be started again; auto: checkpoint for a run file, freeze for a command"},
    {.name = "rerun",
     .type = EBB_OPT_FLAG,
     .offset = offsetof(submit_options_t, rerun),
     .help = "a command may be started anew if the machine fails while it runs; without it, it is then given up"},
    {.name = "set",
     .type = EBB_OPT_LIST,
     .offset = offsetof(submit_options_t, set),
     .help = "KEY=VALUE overrides a key of the run file; may be given more than once"},
    {.name = "slurm",
     .type = EBB_OPT_FLAG,
     .offset = offsetof(submit_options_t, slurm),
     .help = "hand it to Slurm: one batch job for each stretch of the plan"},
    {.name = "sbatch",
     .type = EBB_OPT_LIST,
     .offset = offsetof(submit_options_t, sbatch),
     .unit = "option",
     .help = "with --slurm: an option of sbatch, as in --sbatch=--partition=gpu; may be given more than once"},
    SOURCE_NAME_OPTIONS(submit_options_t),
    {0},
};

static const ebb_example_t examples[] = {
    {"Train when the grid is clean, by tomorrow", "ebb submit run.yaml --deadline 24h --hours 6 --zone DE"},
    {"On as many ranks as the hour deserves",
     "ebb submit run.yaml --policy elastic --ranks 2 --ranks-range 1:8 --deadline 2d --hours 10"},
    {"Any command, in its best window", "ebb submit --name backup --deadline 12h --hours 1 -- ./backup.sh /data"},
    {"The same through Slurm, on nodes with GPUs",
     "ebb submit --slurm --sbatch=--partition=gpu run.yaml --gpus 1 --policy elastic --ranks-range 1:8 --deadline 2d"},
    {"One after the other", "ebb submit --after clicks -- ebb eval runs/clicks data/clicks/valid"},
    {0},
};

/* ---- from options to the spec ---- */

/* Of the grid's source, in a job's environment. */
enum { SOURCE, ZONE, FROM_FILE, URL, COLUMN, SCOPE, SIGNAL, VARIABLES };
static const char *const variables[VARIABLES] = {"EBB_CARBON_SOURCE", "EBB_CARBON_ZONE",   "EBB_CARBON_FILE",
                                                 "EBB_CARBON_URL",    "EBB_CARBON_COLUMN", "EBB_CARBON_SCOPE",
                                                 "EBB_CARBON_SIGNAL"};

typedef struct draft {
    ebb_queue_spec_t spec;
    char **word, **environment;
    char *of_run[VARIABLES]; /* of the run file's carbon section; owned */
    char *added[VARIABLES];  /* NAME=VALUE of the options, else of the run file; owned */
    int64_t *after;
    char folder[PATH_MAX], path[PATH_MAX], run_folder[PATH_MAX], profile[PATH_MAX], name[256];
    char file[PATH_MAX];
} draft_t;

static void free_draft(draft_t *d)
{
    for (int i = 0; i < VARIABLES; i++) {
        ebb_free(d->of_run[i]);
        ebb_free(d->added[i]);
    }
    ebb_free(d->word);
    ebb_free(d->environment);
    ebb_free(d->after);
    ebb_free(d);
}

static ebb_status_t absolute(const char *folder, const char *path, char out[PATH_MAX])
{
    int n = snprintf(out, PATH_MAX, "%s%s%s", path[0] == '/' ? "" : folder, path[0] == '/' ? "" : "/", path);
    return n < PATH_MAX ? EBB_OK : EBB_FAIL(EBB_EUSAGE, "%.60s...: path too long", path);
}

static ebb_status_t duration(const char *option, const char *text, double *seconds_p)
{
    *seconds_p = 0;
    return !text || ebb_parse_duration(text, seconds_p) == EBB_OK ? EBB_OK : ebb_error_prefix("--%s: ", option);
}

static ebb_status_t find_deadline(const char *text, double *time_p)
{
    double now = ebb_wall_seconds(), seconds;
    int64_t time;
    *time_p = 0;
    if (!text)
        return EBB_OK;
    if (ebb_parse_duration(text, &seconds) == EBB_OK) {
        *time_p = now + seconds;
    } else {
        ebb_error_clear();
        if (ebb_carbon_parse_time(text, &time) != EBB_OK) {
            ebb_error_clear();
            return EBB_FAIL(EBB_EUSAGE,
                            "--deadline: \"%.60s\" is neither a duration (24h) nor a time (2026-11-22T17:00Z)", text);
        }
        *time_p = (double)time;
    }
    if (*time_p <= now)
        return EBB_FAIL(EBB_EUSAGE, "--deadline: %s has passed", text);
    return *time_p - now < 400.0 * 86400 ? EBB_OK : EBB_FAIL(EBB_EUSAGE, "--deadline: more than 400 days away");
}

static ebb_status_t find_ranks(const submit_options_t *o, ebb_queue_spec_t *s)
{
    long long least = o->ranks > 0 ? o->ranks : 1, most = least;
    int end = 0;
    if (o->range &&
        (sscanf(o->range, "%lld%*1[:-]%lld%n", &least, &most, &end) != 2 || o->range[end] || least < 1 || most < least))
        return EBB_FAIL(EBB_EUSAGE, "--ranks-range: \"%.40s\": wanted LEAST:MOST, as in 1:8", o->range);
    s->ranks = o->ranks > 0 ? o->ranks : least;
    s->least_ranks = least;
    s->most_ranks = most;
    if (s->ranks < least || s->ranks > most)
        return EBB_FAIL(EBB_EUSAGE, "--ranks %lld is not within --ranks-range %s", (long long)s->ranks, o->range);
    if (!s->run && (o->ranks > 1 || o->range || o->set.n > 0))
        return EBB_FAIL(EBB_EUSAGE,
                        "--ranks, --ranks-range and --set are for run files; a command starts its own ranks "
                        "(its slots are --cpus)");
    return EBB_OK;
}

static void find_policy(const submit_options_t *o, ebb_queue_spec_t *s)
{
    s->pause = o->pause != PAUSE_AUTO ? (ebb_queue_pause_t)(o->pause - 1)
               : s->run               ? EBB_PAUSE_CHECKPOINT
               : o->slurm             ? EBB_PAUSE_NEVER
                                      : EBB_PAUSE_FREEZE;
    s->policy = o->policy != POLICY_AUTO                ? (ebb_plan_policy_t)(o->policy - 1)
                : s->run && o->range                    ? EBB_PLAN_ELASTIC
                : !o->deadline                          ? EBB_PLAN_ASAP
                : s->run && s->pause != EBB_PAUSE_NEVER ? EBB_PLAN_PAUSE
                                                        : EBB_PLAN_DEFER;
}

/* ---- what is run ---- */

static bool is_run_file(int n, char **operands)
{
    const char *dot = strrchr(operands[0], '.');
    return n == 1 && dot && (strcmp(dot, ".yaml") == 0 || strcmp(dot, ".yml") == 0);
}

static ebb_status_t take_carbon(draft_t *d, const ebb_run_carbon_t *carbon)
{
    const char *const text[VARIABLES] = {
        [SOURCE] = carbon->source,
        [ZONE] = carbon->zone,
        [FROM_FILE] = carbon->file,
        [URL] = carbon->url,
        [COLUMN] = carbon->column,
        [SCOPE] = carbon->scope > 0 ? ebb_scope_choices[carbon->scope] : NULL,
        [SIGNAL] = carbon->signal > 0 ? ebb_signal_choices[carbon->signal] : NULL,
    };
    for (int i = 0; i < VARIABLES; i++)
        if (text[i] && *text[i] && !(d->of_run[i] = ebb_strdup(text[i])))
            return EBB_FAIL(EBB_ENOMEM, "out of memory: carbon of a run file");
    d->spec.pue = carbon->pue;
    return EBB_OK;
}

/* A run that has ended would only be refused when its hour comes. */
static ebb_status_t check_unfinished(const char *folder)
{
    char path[PATH_MAX];
    json_t *record;
    snprintf(path, sizeof path, "%.*s/run.json", PATH_MAX - 16, folder);
    if (!ebb_file_exists(path))
        return EBB_OK;
    EBB_TRY(ebb_json_load(path, &record));
    const char *outcome = json_string_value(json_object_get(record, "outcome"));
    bool finished = outcome && strcmp(outcome, "finished") == 0;
    json_decref(record);
    return finished ? EBB_FAIL(EBB_EUSAGE, "%s: holds a finished run: give another --name, or remove it", folder)
                    : EBB_OK;
}

static ebb_status_t read_run(const submit_options_t *o, draft_t *d, const char *file)
{
    ebb_run_config_t *config;
    char set[300];
    const char *sets[258];
    int n = 0;
    if (o->set.n > 256)
        return EBB_FAIL(EBB_EUSAGE, "--set: more than 256; put the settings into the run file");
    for (; n < o->set.n; n++)
        sets[n] = o->set.item[n];
    if (o->name) {
        snprintf(set, sizeof set, "run.name=%.256s", o->name);
        sets[n++] = set;
    }
    EBB_TRY(ebb_run_config_load(file, n, sets, &config));
    snprintf(d->name, sizeof d->name, "%s", ebb_run_config_name(config));
    ebb_status_t status = absolute(d->folder, ebb_run_config_dir(config), d->run_folder);
    if (status == EBB_OK)
        status = take_carbon(d, ebb_run_config_carbon(config));
    ebb_run_config_free(config);
    d->spec.run_folder = d->run_folder;
    if (status == EBB_OK)
        status = check_unfinished(d->run_folder);
    return status == EBB_OK ? absolute(d->folder, file, d->path) : status;
}

static ebb_status_t take_run(const submit_options_t *o, draft_t *d, char *file)
{
    int n = 0;
    EBB_TRY(read_run(o, d, file));
    EBB_TRY(EBB_NEW_ARRAY("words of a job", 4 + 2 * (int64_t)o->set.n, &d->word));
    d->word[n++] = d->path;
    if (o->name) {
        d->word[n++] = (char *)"--name";
        d->word[n++] = o->name;
    }
    for (int i = 0; i < o->set.n; i++) {
        d->word[n++] = (char *)"--set";
        d->word[n++] = o->set.item[i];
    }
    return EBB_OK;
}

static ebb_status_t take_command(draft_t *d, int n, char **operands)
{
    const char *slash = strrchr(operands[0], '/');
    snprintf(d->name, sizeof d->name, "%s", slash && slash[1] ? slash + 1 : operands[0]);
    EBB_TRY(EBB_NEW_ARRAY("words of a job", n + 1, &d->word));
    memcpy(d->word, operands, sizeof *operands * (size_t)n);
    return EBB_OK;
}

/* ---- its environment ---- */

static bool is_replaced(const draft_t *d, const char *variable)
{
    size_t n = strcspn(variable, "=");
    if (strncmp(variable, "EBB_CARBON_TOKEN=", 17) == 0) /* never written anywhere: the agent has its own */
        return true;
    for (int i = 0; i < VARIABLES; i++)
        if (d->added[i] && strncmp(d->added[i], variable, n + 1) == 0)
            return true;
    return false;
}

static ebb_status_t add_variable(draft_t *d, int *n_p, const char *name, const char *value)
{
    ebb_text_t text = {0};
    if (!value)
        return EBB_OK;
    ebb_text_add(&text, "%s=%s", name, value);
    d->added[*n_p] = text.failed ? NULL : ebb_strdup(text.s);
    ebb_text_free(&text);
    return d->added[(*n_p)++] ? EBB_OK : EBB_FAIL(EBB_ENOMEM, "out of memory: environment");
}

/* The grid's source: as the options say, else the run file, else the environment. */
static ebb_status_t find_environment(const submit_options_t *o, draft_t *d)
{
    const source_options_t *s = &o->source;
    const char *said[VARIABLES] = {[SOURCE] = s->source, [ZONE] = s->zone, [FROM_FILE] = s->file, [URL] = s->url};
    int added = 0;
    int64_t n = 0;
    for (int i = 0; i < VARIABLES; i++)
        said[i] = said[i] ? said[i] : d->of_run[i];
    if (said[FROM_FILE]) {
        EBB_TRY(absolute(d->folder, said[FROM_FILE], d->file));
        said[FROM_FILE] = d->file;
    }
    for (int i = 0; i < VARIABLES; i++)
        EBB_TRY(add_variable(d, &added, variables[i], said[i]));
    for (char **v = environ; *v; v++)
        n++;
    EBB_TRY(EBB_NEW_ARRAY("environment of a job", n + added + 1, &d->environment));
    n = 0;
    for (char **v = environ; *v; v++)
        if (!is_replaced(d, *v))
            d->environment[n++] = *v;
    for (int i = 0; i < added; i++)
        d->environment[n++] = d->added[i];
    d->spec.environment = d->environment;
    return EBB_OK;
}

/* ---- together ---- */

static ebb_status_t find_after(const submit_options_t *o, ebb_queue_t *queue, draft_t *d)
{
    ebb_queue_job_t job = {0};
    EBB_TRY(EBB_NEW_ARRAY("ids of jobs", o->after.n + 1, &d->after));
    for (int i = 0; i < o->after.n; i++) {
        EBB_TRY(ebb_queue_find(queue, o->after.item[i], &job));
        d->after[i] = job.id;
        ebb_queue_job_free(&job);
    }
    d->spec.after = d->after;
    d->spec.n_after = o->after.n;
    return EBB_OK;
}

static ebb_status_t make_spec(const submit_options_t *o, int n, char **operands, draft_t *d)
{
    ebb_queue_spec_t *s = &d->spec;
    if (!getcwd(d->folder, sizeof d->folder))
        return EBB_FAIL(EBB_EIO, "the present folder cannot be found");
    s->run = is_run_file(n, operands);
    EBB_TRY(s->run ? take_run(o, d, operands[0]) : take_command(d, n, operands));
    s->word = d->word;
    s->folder = d->folder;
    s->name = o->name ? o->name : d->name;
    EBB_TRY(find_ranks(o, s));
    find_policy(o, s);
    s->cpus = o->cpus;
    s->gpus = o->gpus;
    s->hours = o->hours;
    s->power_w = o->power;
    s->pue = o->pue > 0 ? o->pue : s->pue;
    s->rerun = o->rerun || s->run;
    EBB_TRY(find_deadline(o->deadline, &s->deadline));
    EBB_TRY(duration("max-wait", o->max_wait, &s->max_wait_s));
    EBB_TRY(duration("restart-time", o->restart_time, &s->restart_s));
    if (o->profile)
        EBB_TRY(absolute(d->folder, o->profile, d->profile));
    s->profile = o->profile ? d->profile : NULL;
    if (o->profile && !ebb_file_exists(d->profile))
        return EBB_FAIL(EBB_ENOINPUT, "--profile: %s: there is no such file", o->profile);
    return find_environment(o, d);
}

static ebb_status_t hand_to_slurm(const submit_options_t *o, ebb_queue_t *queue, draft_t *d)
{
    char self[PATH_MAX], *sbatch[64] = {NULL};
    int64_t id = 0;
    ebb_slurm_options_t slurm = {.self = self, .sbatch = sbatch};
    if (o->sbatch.n >= 64)
        return EBB_FAIL(EBB_EUSAGE, "--sbatch: more than 63");
    for (int i = 0; i < o->sbatch.n; i++)
        sbatch[i] = o->sbatch.item[i];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0)
        return ebb_file_error("/proc/self/exe", "read");
    self[n] = 0;
    ebb_status_t status = ebb_slurm_submit(queue, &d->spec, &slurm, &id);
    if (status == EBB_EUNAVAILABLE && id > 0) {
        EBB_WARN("submit", "%s; the job is kept, and handed over by the next ebb queue or ebb slurm",
                 ebb_error()->message);
        ebb_error_clear();
        status = EBB_OK;
    }
    EBB_TRY(status);
    printf("job %lld \"%s\" submitted to Slurm: policy %s\n", (long long)id, d->spec.name,
           ebb_plan_policy_name(d->spec.policy));
    return EBB_OK;
}

static ebb_status_t enter(const submit_options_t *o, ebb_queue_t *queue, draft_t *d)
{
    int64_t id;
    EBB_TRY(find_after(o, queue, d));
    if (o->slurm)
        return hand_to_slurm(o, queue, d);
    EBB_TRY(ebb_queue_submit(queue, &d->spec, NULL, &id));
    printf("job %lld \"%s\" submitted: policy %s\n", (long long)id, d->spec.name, ebb_plan_policy_name(d->spec.policy));
    if (!ebb_agent_lives(ebb_queue_path(queue)))
        printf("no agent is at work: nothing is started until `ebb agent` is\n");
    return EBB_OK;
}

static ebb_status_t run(void *target, int n_operands, char **operands)
{
    const submit_options_t *o = target;
    ebb_queue_t *queue;
    draft_t *d;
    EBB_TRY(EBB_NEW("job", &d));
    ebb_status_t status = make_spec(o, n_operands, operands, d);
    if (status == EBB_OK)
        status = ebb_queue_open(NULL, &queue);
    if (status == EBB_OK) {
        status = enter(o, queue, d);
        ebb_queue_close(queue);
    }
    free_draft(d);
    return status;
}

const ebb_command_t cmd_submit = {
    .name = "submit",
    .help = "Enter a run or any command into the queue, to run when the grid is clean",
    .operands = "RUN.yaml | -- COMMAND...",
    .about =
        "The job is carried out by ebb agent: when, and of a run on how many ranks, follows from its policy, its\n"
        "deadline and the forecast of the grid's carbon intensity, and is planned again as forecasts change. A\n"
        "deadline that can be met is met. Without a forecast the job runs at once. It starts in this folder with\n"
        "this environment (but for EBB_CARBON_TOKEN, which the agent must have itself).\n"
        "\n"
        "A run file is carried out by ebb run: it is paused by a checkpoint and given other ranks, and ends with the\n"
        "same model, bit for bit. Other commands are deferred, or paused by stopping their processes.\n"
        "\n"
        "With --slurm the job becomes a chain of Slurm jobs with begin times, one for each stretch of its plan, and\n"
        "needs no agent; ebb queue, why, cancel, hold and release know it, and ebb slurm plans it again. The state\n"
        "folder (EBB_STATE_DIR) must be seen by the nodes.\n",
    .min_operands = 1,
    .max_operands = ANY_OPERANDS,
    .options = options,
    .options_bytes = sizeof(submit_options_t),
    .examples = examples,
    .run = run,
};
