/* ebb run: a training run under a supervisor. Makes the command lines that the supervisor starts the ranks with. */
#include "commands.h"
#include "run_books.h"
#include "base/alloc.h"
#include "base/file.h"

#include <ebb/report.h>
#include <ebb/supervise.h>
#include <ebb/train.h>
#include <ebb/watch.h>

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct run_options {
    int64_t ranks, max_restarts, log_every;
    char *name, *dir, *launcher, *resume;
    ebb_string_list_t set;
    bool force, quiet;
} run_options_t;

static const ebb_option_t options[] = {
    {.name = "ranks",
     .letter = 'n',
     .type = EBB_OPT_I64,
     .offset = offsetof(run_options_t, ranks),
     .def = "0",
     .unit = "ranks",
     .min = 0,
     .max = 1e6,
     .help = "how many ranks to begin with; 0: as many as the Slurm allocation has tasks, else 1"},
    {.name = "name",
     .type = EBB_OPT_STRING,
     .offset = offsetof(run_options_t, name),
     .unit = "name",
     .help = "name of the run; without it the run file's run.name, or the command's"},
    {.name = "max-restarts",
     .type = EBB_OPT_I64,
     .offset = offsetof(run_options_t, max_restarts),
     .def = "3",
     .unit = "restarts",
     .min = 0,
     .max = 1e9,
     .help = "give up after so many restarts in a row without a newer good checkpoint between them"},
    {.name = "set",
     .letter = 's',
     .type = EBB_OPT_LIST,
     .offset = offsetof(run_options_t, set),
     .help = "KEY=VALUE overrides a key of the run file; may be given more than once"},
    {.name = "resume",
     .letter = 'r',
     .type = EBB_OPT_STRING,
     .offset = offsetof(run_options_t, resume),
     .unit = "folder",
     .help = "go on with the run in this folder (runs/NAME) without its run file"},
    {.name = "force",
     .type = EBB_OPT_FLAG,
     .offset = offsetof(run_options_t, force),
     .def = "false",
     .help = "start anew where a run of this name exists already, instead of going on with it"},
    {.name = "dir",
     .type = EBB_OPT_STRING,
     .offset = offsetof(run_options_t, dir),
     .unit = "folder",
     .help = "of a command: the run's folder, whose checkpoints show progress; without it runs/NAME"},
    {.name = "launcher",
     .type = EBB_OPT_STRING,
     .offset = offsetof(run_options_t, launcher),
     .def = "mpirun --quiet --bind-to none",
     .unit = "command",
     .help = "what starts several ranks; -np RANKS and the command follow it"},
    {.name = "log-every",
     .type = EBB_OPT_I64,
     .offset = offsetof(run_options_t, log_every),
     .def = "0",
     .unit = "steps",
     .min = 0,
     .max = 1e15,
     .help = "steps between lines of metrics.jsonl; 0: about one a second"},
    {.name = "quiet",
     .letter = 'q',
     .type = EBB_OPT_FLAG,
     .offset = offsetof(run_options_t, quiet),
     .def = "false",
     .help = "show nothing but failures, pauses and restarts"},
    {0},
};

static const ebb_example_t examples[] = {
    {"Train on 4 ranks, whatever happens to them", "ebb run --ranks 4 run.yaml"},
    {"The same as a command", "ebb run --ranks 4 -- ebb train run.yaml --set train.epochs=9"},
    {"Another program, which resumes by itself", "ebb run --ranks 4 --name mine --dir out -- ./train out"},
    {"Go on after a pause or a reboot", "ebb run --ranks 2 run.yaml"},
    {0},
};

/* ---- words of a command line ---- */

typedef struct words {
    char *word[11 + 2 * 256];
    int n;
} words_t;

static ebb_status_t add(words_t *w, const char *word)
{
    if (w->n + 1 >= (int)(sizeof w->word / sizeof *w->word))
        return EBB_FAIL(EBB_EUSAGE, "run: too many words; put the settings into the run file");
    w->word[w->n++] = (char *)word;
    return EBB_OK;
}

#define MOST_CHANGES 64

/* What a run file becomes. */
typedef struct plan {
    char self[PATH_MAX], log_every[32], dir[PATH_MAX], name[256];
    int lanes;
    double watchdog;
    words_t begin, anew, go_on;
    char *change[MOST_CHANGES]; /* KEY=VALUE of the run file that the run goes on with; owned */
    int n_changes;
    bool exists; /* an unfinished run of this configuration */
} plan_t;

static ebb_status_t find_self(char self[PATH_MAX])
{
    ssize_t n = readlink("/proc/self/exe", self, PATH_MAX - 1);
    if (n < 0)
        return ebb_file_error("/proc/self/exe", "read");
    self[n] = 0;
    return EBB_OK;
}

static ebb_status_t add_common(const run_options_t *o, plan_t *p, words_t *w)
{
    snprintf(p->log_every, sizeof p->log_every, "%lld", (long long)o->log_every);
    EBB_TRY(add(w, "--log-every"));
    EBB_TRY(add(w, p->log_every));
    EBB_TRY(add(w, "--ranks")); /* alone is alone, also where there are several GPUs */
    EBB_TRY(add(w, "1"));
    return o->quiet ? add(w, "--quiet") : EBB_OK;
}

static ebb_status_t add_train(const run_options_t *o, plan_t *p, const char *file, bool force, words_t *w)
{
    EBB_TRY(add(w, p->self));
    EBB_TRY(add(w, "train"));
    EBB_TRY(add(w, file));
    for (int i = 0; i < o->set.n; i++) {
        EBB_TRY(add(w, "--set"));
        EBB_TRY(add(w, o->set.item[i]));
    }
    if (force) {
        EBB_TRY(add(w, "--force"));
        EBB_TRY(add(w, "--keep-books"));
    }
    return add_common(o, p, w);
}

static ebb_status_t add_resume(const run_options_t *o, plan_t *p, words_t *w)
{
    EBB_TRY(add(w, p->self));
    EBB_TRY(add(w, "train"));
    EBB_TRY(add(w, "--resume"));
    EBB_TRY(add(w, p->dir));
    for (int i = 0; o->resume && i < o->set.n; i++) {
        EBB_TRY(add(w, "--set"));
        EBB_TRY(add(w, o->set.item[i]));
    }
    for (int i = 0; i < p->n_changes; i++) {
        EBB_TRY(add(w, "--set"));
        EBB_TRY(add(w, p->change[i]));
    }
    return add_common(o, p, w);
}

/* ---- a run that is there already ---- */

static bool is_where_and_how(const char *path)
{
    return strncmp(path, "run.", 4) == 0 && strcmp(path, "run.watchdog") != 0;
}

/* A key that the run file sets otherwise than the run was begun with: taken over if it changes no number. */
static ebb_status_t take_change(const char *dir, const char *was, const char *path, const json_t *value, plan_t *p)
{
    char *dump = json_is_null(value) ? NULL : json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    ebb_text_t set = {0};
    ebb_run_config_t *config = NULL;
    ebb_text_add(&set, "%s=%s", path, dump ? dump : "");
    free(dump);
    if (set.failed)
        return EBB_FAIL(EBB_ENOMEM, "out of memory");
    ebb_status_t status = ebb_run_config_resume(was, 1, (const char *const[]){set.s}, &config);
    ebb_run_config_free(config);
    if (status == EBB_OK && p->n_changes < MOST_CHANGES) {
        p->change[p->n_changes++] = set.s;
        return EBB_OK;
    }
    ebb_text_free(&set);
    ebb_error_clear();
    return EBB_FAIL(
        EBB_EUSAGE,
        "%s: holds a run of another configuration (%s differs): go on with it by ebb run --resume %s, start "
        "anew with --force, or give another --name",
        dir, path, dir);
}

static ebb_status_t take_changes(const char *dir, const char *was, const json_t *old, const json_t *now,
                                 const char *prefix, plan_t *p)
{
    const char *key;
    json_t *value;
    char path[256];
    json_object_foreach((json_t *)now, key, value)
    {
        const json_t *before = json_object_get(old, key);
        snprintf(path, sizeof path, "%s%s%s", prefix, *prefix ? "." : "", key);
        if (json_equal(value, before) || is_where_and_how(path))
            continue;
        if (!*prefix && json_is_object(value) && json_is_object(before) && strcmp(key, "model") != 0)
            EBB_TRY(take_changes(dir, was, before, value, path, p));
        else
            EBB_TRY(take_change(dir, was, path, value, p));
    }
    return EBB_OK;
}

static ebb_status_t adapt(const char *dir, const json_t *old, const ebb_run_config_t *config, plan_t *p)
{
    json_t *now;
    const char *text = ebb_run_config_json(config);
    char *was = json_dumps(old, JSON_COMPACT);
    if (!was)
        return EBB_FAIL(EBB_ENOMEM, "out of memory");
    ebb_status_t status = ebb_json_parse(text, strlen(text), "the run file", &now);
    if (status == EBB_OK) {
        status = take_changes(dir, was, old, now, "", p);
        json_decref(now);
    }
    free(was);
    return status;
}

static ebb_status_t check_run(const char *dir, const ebb_run_config_t *config, plan_t *p)
{
    char path[PATH_MAX];
    json_t *record;
    snprintf(path, sizeof path, "%s/run.json", dir);
    if (!ebb_file_exists(path))
        return EBB_OK;
    EBB_TRY(ebb_json_load(path, &record));
    p->exists = true;
    const char *outcome = json_string_value(json_object_get(record, "outcome"));
    ebb_status_t status = EBB_OK;
    if (outcome && strcmp(outcome, "finished") == 0)
        status = EBB_FAIL(EBB_EUSAGE, "%s: holds a finished run: start anew with --force, or give another --name", dir);
    else if (json_object_get(record, "config"))
        status = adapt(dir, json_object_get(record, "config"), config, p);
    json_decref(record);
    return status;
}

static ebb_status_t clear(const char *dir)
{
    ebb_record_t *record;
    EBB_TRY(ebb_record_create(dir, true, &record));
    ebb_status_t status = ebb_remove_models(dir);
    if (status == EBB_OK)
        status = run_books_remove(dir);
    ebb_record_destroy(record);
    return status;
}

/* ---- from the command line to the plan ---- */

static ebb_status_t read_config(const ebb_run_config_t *config, plan_t *p)
{
    json_t *json;
    const char *text = ebb_run_config_json(config);
    EBB_TRY(ebb_json_parse(text, strlen(text), "the run file", &json));
    p->lanes = (int)json_integer_value(json_object_get(json, "lanes"));
    json_decref(json);
    p->watchdog = ebb_run_config_watchdog(config);
    snprintf(p->dir, sizeof p->dir, "%s", ebb_run_config_dir(config));
    snprintf(p->name, sizeof p->name, "%s", ebb_run_config_name(config));
    return EBB_OK;
}

static ebb_status_t set_name(run_options_t *o)
{
    char text[PATH_MAX];
    const ebb_option_t *row = options;
    while (strcmp(row->name, "set") != 0)
        row++;
    snprintf(text, sizeof text, "run.name=%s", o->name);
    return ebb_option_set(row, o, text, "--name");
}

static ebb_status_t plan_run_file(run_options_t *o, const char *file, plan_t *p)
{
    ebb_run_config_t *config;
    if (o->name)
        EBB_TRY(set_name(o));
    EBB_TRY(ebb_run_config_load(file, o->set.n, (const char *const *)o->set.item, &config));
    ebb_status_t status = read_config(config, p);
    if (status == EBB_OK)
        status = o->force ? clear(p->dir) : check_run(p->dir, config, p);
    ebb_run_config_free(config);
    EBB_TRY(status);
    EBB_TRY(add_train(o, p, file, p->exists, &p->begin)); /* what is there without a checkpoint is begun anew */
    EBB_TRY(add_train(o, p, file, true, &p->anew));
    return add_resume(o, p, &p->go_on);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static ebb_status_t plan_resume(run_options_t *o, plan_t *p)
{
    char path[PATH_MAX];
    json_t *record;
    ebb_run_config_t *config;
    snprintf(p->dir, sizeof p->dir, "%s", ebb_run_named(o->resume, path));
    snprintf(path, sizeof path, "%.*s/run.json", PATH_MAX - 16, p->dir);
    if (!ebb_file_exists(path))
        return EBB_FAIL(EBB_ENOINPUT, "%s: no run to resume: there is no run.json in it", o->resume);
    EBB_TRY(ebb_json_load(path, &record));
    char *text = json_dumps(json_object_get(record, "config"), JSON_COMPACT);
    json_decref(record);
    if (!text)
        return EBB_FAIL(EBB_EDATA, "%s: there is no configuration in it", path);
    ebb_status_t status = ebb_run_config_resume(text, o->set.n, (const char *const *)o->set.item, &config);
    free(text);
    EBB_TRY(status);
    status = read_config(config, p);
    ebb_run_config_free(config);
    for (size_t n = strlen(p->dir); n > 1 && p->dir[n - 1] == '/'; n--)
        p->dir[n - 1] = 0;
    if (status == EBB_OK)
        status = add_resume(o, p, &p->go_on);
    p->begin = p->anew = p->go_on;
    return status;
}

static ebb_status_t plan_command(const run_options_t *o, int n, char **operands, plan_t *p)
{
    snprintf(p->name, sizeof p->name, "%s", o->name ? o->name : base_name(operands[0]));
    if (strchr(p->name, '/') || !p->name[0])
        return EBB_FAIL(EBB_EUSAGE, "--name: \"%s\" cannot name a folder", p->name);
    snprintf(p->dir, sizeof p->dir, "%s%s", o->dir ? "" : "runs/", o->dir ? o->dir : p->name);
    p->watchdog = EBB_WATCH_SECONDS;
    for (int i = 0; i < n; i++)
        EBB_TRY(add(&p->begin, operands[i]));
    p->anew = p->go_on = p->begin;
    return EBB_OK;
}

/* Is the only operand a command after all? */
static bool is_run_file(const char *path)
{
    const char *dot = strrchr(path, '.');
    return (dot && (strcmp(dot, ".yaml") == 0 || strcmp(dot, ".yml") == 0)) ||
           (ebb_file_exists(path) && access(path, X_OK) != 0);
}

static ebb_status_t make_plan(run_options_t *o, int n, char **operands, plan_t *p)
{
    EBB_TRY(find_self(p->self));
    if (n >= 2 && strcmp(base_name(operands[0]), "ebb") == 0 && strcmp(operands[1], "train") == 0)
        EBB_TRY(ebb_options_parse(options, o, n - 1, operands + 1, &n, &operands));
    if (o->resume && n > 0)
        return EBB_FAIL(EBB_EUSAGE, "run: a resumed run has its run file with it; give either a run file or --resume");
    if (o->resume)
        return plan_resume(o, p);
    if (n == 0)
        return EBB_FAIL(EBB_EUSAGE, "run: name a run file, or after -- a command, or --resume runs/NAME");
    return n == 1 && is_run_file(operands[0]) ? plan_run_file(o, operands[0], p) : plan_command(o, n, operands, p);
}

static ebb_status_t choose_ranks(const run_options_t *o, const plan_t *p, int *ranks_p)
{
    const char *tasks = getenv("SLURM_NTASKS");
    *ranks_p = (int)o->ranks;
    if (*ranks_p == 0)
        *ranks_p = tasks && atoi(tasks) > 0 ? atoi(tasks) : 1;
    if (p->lanes > 0 && o->ranks > p->lanes)
        return EBB_FAIL(EBB_EUSAGE, "--ranks %d: the run has %d lanes, so it takes 1 to %d ranks", *ranks_p, p->lanes,
                        p->lanes);
    if (p->lanes > 0 && *ranks_p > p->lanes)
        *ranks_p = p->lanes;
    return EBB_OK;
}

static ebb_status_t check_alone(void)
{
    if (getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMI_SIZE"))
        return EBB_FAIL(EBB_EUSAGE, "run: starts the ranks itself; call it without mpirun, with --ranks N");
    return EBB_OK;
}

static ebb_status_t run(void *opts, int n_operands, char **operands)
{
    run_options_t *o = opts;
    plan_t *p;
    int ranks;
    EBB_TRY(check_alone());
    EBB_TRY(EBB_NEW("plan of a run", &p));
    ebb_status_t status = make_plan(o, n_operands, operands, p);
    if (status == EBB_OK)
        status = choose_ranks(o, p, &ranks);
    if (status == EBB_OK) {
        ebb_supervise_options_t s = {.name = p->name,
                                     .folder = p->dir,
                                     .begin = p->begin.word,
                                     .begin_anew = p->anew.word,
                                     .go_on = p->go_on.word,
                                     .launcher = o->launcher,
                                     .ranks = ranks,
                                     .most_ranks = p->lanes,
                                     .max_restarts = (int)o->max_restarts,
                                     .stopped_limit = p->watchdog,
                                     .quiet = o->quiet};
        status = ebb_supervise(&s, &ebb_command_exit);
    }
    for (int i = 0; i < p->n_changes; i++)
        ebb_free(p->change[i]);
    ebb_free(p);
    return status;
}

const ebb_command_t cmd_run = {
    .name = "run",
    .help = "Train under a supervisor that restarts, resizes and pauses the run",
    .operands = "RUN.yaml | -- COMMAND...",
    .about =
        "Starts the ranks of a run by mpirun (one rank without it), on this machine or in a Slurm allocation, and\n"
        "watches them. After a failure the run goes on from its newest good checkpoint with the ranks that are left;\n"
        "ebb scale gives it another number of them. SIGINT, SIGTERM and SIGUSR1 pause it by a checkpoint: it exits "
        "75,\n"
        "and the same command goes on; a second signal ends it at once. The model is the same, bit for bit, whatever\n"
        "happened. No process and no file in shared memory is left behind, even if the supervisor is killed.\n"
        "\n"
        "A command that is not ebb train is started as it is, first and again, and should resume by itself; without\n"
        "checkpoints in its folder, every restart counts as one without progress. Restarts and resizes are noted in\n"
        "run.json, with step, reason, ranks and time. Exit status 69: given up after too many restarts.\n",
    .min_operands = 0,
    .max_operands = ANY_OPERANDS,
    .options = options,
    .options_bytes = sizeof(run_options_t),
    .examples = examples,
    .run = run,
};
