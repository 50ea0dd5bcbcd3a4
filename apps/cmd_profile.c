/* ebb profile: runs a configuration for a few seconds on each number of ranks. Each trial is a real `ebb train` in a
 * folder of its own, which is watched through its metrics and its ledger, and then ended. */
#include "commands.h"
#include "profile.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"

#include <ebb/report.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct profile_options {
    char *ranks, *launcher, *output;
    ebb_string_list_t set;
    double seconds;
    bool json;
} profile_options_t;

static const ebb_option_t options[] = {
    {.name = "ranks",
     .letter = 'n',
     .type = EBB_OPT_STRING,
     .offset = offsetof(profile_options_t, ranks),
     .def = "1",
     .unit = "list",
     .help = "numbers of ranks to try, as in 1,2,4"},
    {.name = "seconds",
     .type = EBB_OPT_F64,
     .offset = offsetof(profile_options_t, seconds),
     .def = "5",
     .unit = "s",
     .min = 1,
     .max = 3600,
     .help = "how long to watch each, once it trains"},
    {.name = "set",
     .letter = 's',
     .type = EBB_OPT_LIST,
     .offset = offsetof(profile_options_t, set),
     .help = "KEY=VALUE overrides a key of the run file; may be given more than once"},
    {.name = "launcher",
     .type = EBB_OPT_STRING,
     .offset = offsetof(profile_options_t, launcher),
     .def = "mpirun --quiet --bind-to none",
     .unit = "command",
     .help = "what starts several ranks; -np RANKS and the command follow it"},
    {.name = "output",
     .letter = 'o',
     .type = EBB_OPT_STRING,
     .offset = offsetof(profile_options_t, output),
     .unit = "file",
     .help = "where the sizes go; without it profile.json in the folder that the run will have"},
    {.name = "json", .type = EBB_OPT_FLAG, .offset = offsetof(profile_options_t, json), .help = "print the file"},
    {0},
};

static const ebb_example_t examples[] = {
    {"What 1, 2 and 4 ranks do and draw", "ebb profile run.yaml --ranks 1,2,4"},
    {"A plan for the whole run by it",
     "ebb plan --policy elastic --work 9e7 --profile runs/run/profile.json --zone DE"},
    {0},
};

enum { MOST_WORDS = 300 };

/* ---- a trial ---- */

typedef struct trial {
    const profile_options_t *o;
    const char *file;
    int64_t ranks;
    char folder[PATH_MAX], log[PATH_MAX], ledger[PATH_MAX], self[PATH_MAX];
    pid_t pid;
} trial_t;

/* Settings under which it trains for ever, saves nothing, and asks nobody. */
static const char *const settings[] = {"train.epochs=1000000000",
                                       "train.max_steps=0",
                                       "train.early_stopping=null",
                                       "eval.every=1000000000",
                                       "checkpoint.every_steps=0",
                                       "checkpoint.every_minutes=0",
                                       "carbon.source=typical",
                                       "carbon.zone=DE",
                                       "run.name=trial",
                                       NULL};

/* The launcher's words are cut at spaces, in `text`, which they point into. */
static ebb_status_t compose(const trial_t *t, char *text, size_t size, char dir[PATH_MAX], char ranks[32], char **word)
{
    int n = 0;
    char *rest = text, *part;
    snprintf(text, size, "%s", t->o->launcher);
    while (t->ranks > 1 && (part = strsep(&rest, " ")) && n < 32)
        if (*part)
            word[n++] = part;
    if (t->ranks > 1) {
        snprintf(ranks, 32, "%lld", (long long)t->ranks);
        word[n++] = "-np";
        word[n++] = ranks;
    }
    word[n++] = (char *)t->self;
    word[n++] = "train";
    word[n++] = (char *)t->file;
    word[n++] = "--quiet";
    word[n++] = "--ranks"; /* alone is alone, also where there are several GPUs */
    word[n++] = "1";
    snprintf(dir, PATH_MAX, "run.dir=%.*s", PATH_MAX - 16, t->folder);
    for (int i = 0; i < t->o->set.n && n + 32 < MOST_WORDS; i++) {
        word[n++] = "--set";
        word[n++] = t->o->set.item[i];
    }
    for (int i = 0; settings[i]; i++) {
        word[n++] = "--set";
        word[n++] = (char *)settings[i];
    }
    word[n++] = "--set";
    word[n++] = dir;
    word[n] = NULL;
    return 2 * t->o->set.n + 64 < MOST_WORDS ? EBB_OK : EBB_FAIL(EBB_EUSAGE, "profile: too many settings");
}

static _Noreturn void become(const trial_t *t, char **word)
{
    int null = open("/dev/null", O_RDONLY), log = open(t->log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, t->ranks > 1 ? SIGTERM : SIGKILL); /* a launcher has ranks to end */
    dup2(null, STDIN_FILENO);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 0);
    unsetenv("EBB_PROMETHEUS_DIR");
    unsetenv("EBB_JOB_SUBMITTED");
    execvp(word[0], word);
    dprintf(STDERR_FILENO, "%s: %s\n", word[0], strerror(errno));
    _exit(127);
}

static ebb_status_t start(trial_t *t)
{
    char *word[MOST_WORDS], text[4096], dir[PATH_MAX], ranks[32];
    EBB_TRY(compose(t, text, sizeof text, dir, ranks, word));
    t->pid = fork();
    if (t->pid == 0)
        become(t, word);
    return t->pid > 0 ? EBB_OK : EBB_FAIL(EBB_EIO, "cannot start a process: %s", strerror(errno));
}

/* As a launcher likes it, then by force; what it saves at its end is thrown away. */
static void end(trial_t *t)
{
    for (int i = 0; t->pid > 0 && i < 600; i++) {
        if (i == 0)
            kill(t->pid, SIGTERM);
        if (i == 500)
            kill(-t->pid, SIGKILL);
        if (waitpid(t->pid, NULL, WNOHANG) == t->pid)
            t->pid = 0;
        nanosleep(&(struct timespec){0, 20000000}, NULL);
    }
}

/* Rows and seconds from the first line of metrics.jsonl to the last; false if there are fewer than two. */
static bool watch(const trial_t *t, double *rows_p, double *seconds_p)
{
    char path[PATH_MAX], line[4096];
    double first_rows = 0, first_s = 0;
    int n = 0;
    snprintf(path, sizeof path, "%.*s/trial/metrics.jsonl", PATH_MAX - 32, t->folder);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        json_t *o = strchr(line, '\n') ? json_loads(line, 0, NULL) : NULL;
        double s = json_number_value(json_object_get(o, "seconds"));
        double rows = s * json_number_value(json_object_get(o, "rows_per_s"));
        if (rows > 0 && n++ == 0) {
            first_rows = rows;
            first_s = s;
        }
        if (rows > 0) {
            *rows_p = rows - first_rows;
            *seconds_p = s - first_s;
        }
        json_decref(o);
    }
    if (f)
        fclose(f);
    return n > 1 && *seconds_p > 0;
}

static ebb_status_t gone(const trial_t *t)
{
    char *text = NULL;
    size_t bytes = 0;
    if (ebb_file_read_all(t->log, &text, &bytes) != EBB_OK)
        ebb_error_clear();
    ebb_status_t status = EBB_FAIL(EBB_EUNAVAILABLE, "%lld ranks: training ended: %.400s", (long long)t->ranks,
                                   text && bytes > 0 ? text + (bytes > 400 ? bytes - 400 : 0) : "it said nothing");
    ebb_free(text);
    return status;
}

static ebb_status_t observe(trial_t *t, profile_size_t *size)
{
    double rows = 0, seconds = 0;
    int64_t begun = ebb_now_ns();
    while (!watch(t, &rows, &seconds) || seconds < t->o->seconds) {
        if (waitpid(t->pid, NULL, WNOHANG) == t->pid) {
            t->pid = 0;
            return gone(t);
        }
        if ((double)(ebb_now_ns() - begun) * 1e-9 > 120 + 10 * t->o->seconds)
            return EBB_FAIL(EBB_EUNAVAILABLE, "%lld ranks: no two steps within %.0f s", (long long)t->ranks,
                            120 + 10 * t->o->seconds);
        nanosleep(&(struct timespec){0, 50000000}, NULL);
    }
    size->rows_per_s = rows / seconds;
    size->seconds = seconds;
    return EBB_OK;
}

static ebb_status_t read_power(const trial_t *t, profile_size_t *size)
{
    ebb_ledger_row_t *rows;
    int64_t n;
    EBB_TRY(ebb_ledger_read(t->ledger, &rows, &n));
    bool found = profile_power(rows, n, t->ranks, size);
    ebb_ledger_free(rows);
    return found ? EBB_OK : EBB_FAIL(EBB_EDATA, "%lld ranks: nothing was metered", (long long)t->ranks);
}

static void clear(const trial_t *t)
{
    char path[PATH_MAX];
    static const char *const names[] = {"trial/run.json", "trial/metrics.jsonl", "trial/lock", "trial", "log"};
    snprintf(path, sizeof path, "%.*s/trial", PATH_MAX - 16, t->folder);
    if (ebb_remove_models(path) != EBB_OK)
        ebb_error_clear();
    for (const char *const *name = (const char *const[]){"ledger.db", "ledger.db-journal", "report.html",
                                                         "profile.json", "checkpoints", NULL};
         *name; name++) {
        snprintf(path, sizeof path, "%.*s/trial/%s", PATH_MAX - 32, t->folder, *name);
        remove(path);
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%.*s/%s", PATH_MAX - 32, t->folder, names[i]);
        remove(path);
    }
    if (rmdir(t->folder) != 0)
        EBB_WARN("profile", "%s: something is left in it", t->folder);
}

static ebb_status_t try_ranks(trial_t *t, profile_size_t *size)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(t->folder, sizeof t->folder, "%.3000s/ebb-profile-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(t->folder))
        return ebb_file_error(t->folder, "make");
    snprintf(t->log, sizeof t->log, "%.*s/log", PATH_MAX - 32, t->folder);
    snprintf(t->ledger, sizeof t->ledger, "%.*s/trial/ledger.db", PATH_MAX - 32, t->folder);
    ebb_status_t status = start(t);
    if (status == EBB_OK)
        status = observe(t, size);
    end(t);
    if (status == EBB_OK)
        status = read_power(t, size);
    clear(t);
    return status;
}

/* ---- the command ---- */

typedef struct whole {
    char key[65], path[PATH_MAX];
    double rows; /* of the whole run; 0: not known */
} whole_t;

/* Rows of all epochs, or of max_steps where that is less. */
static ebb_status_t find_rows(const ebb_run_config_t *config, double *rows_p)
{
    json_t *json;
    const char *text = ebb_run_config_json(config);
    ebb_dataset_t *data;
    EBB_TRY(ebb_json_parse(text, strlen(text), "the run file", &json));
    const json_t *train = json_object_get(json, "train"), *source = json_object_get(json, "data");
    double most = (double)json_integer_value(json_object_get(train, "max_steps")) *
                  (double)json_integer_value(json_object_get(train, "batch"));
    ebb_status_t status = ebb_dataset_open(json_string_value(json_object_get(source, "train")),
                                           json_string_value(json_object_get(source, "dataset")), &data);
    json_decref(json);
    EBB_TRY(status);
    *rows_p = (double)ebb_dataset_info(data)->rows * (double)ebb_run_config_epochs(config);
    ebb_dataset_close(data);
    *rows_p = most > 0 ? fmin(most, *rows_p) : *rows_p;
    return EBB_OK;
}

static ebb_status_t read_whole(const profile_options_t *o, const char *file, whole_t *w)
{
    ebb_run_config_t *config;
    EBB_TRY(ebb_run_config_load(file, o->set.n, (const char *const *)o->set.item, &config));
    ebb_status_t status = ebb_run_config_key(config, w->key);
    if (status == EBB_OK)
        status = find_rows(config, &w->rows);
    snprintf(w->path, sizeof w->path, "%s", o->output ? o->output : "");
    if (!o->output) {
        snprintf(w->path, sizeof w->path, "%s/profile.json", ebb_run_config_dir(config));
        if (status == EBB_OK)
            status = ebb_file_mkdirs(ebb_run_config_dir(config));
    }
    ebb_run_config_free(config);
    return status;
}

static ebb_status_t next_ranks(char **list, int64_t *ranks_p)
{
    const char *word = strsep(list, ",");
    if (ebb_parse_i64(word, ranks_p) == EBB_OK && *ranks_p >= 1 && *ranks_p <= 1000000)
        return EBB_OK;
    ebb_error_clear();
    return EBB_FAIL(EBB_EUSAGE, "--ranks: \"%.40s\" is no number of ranks; write for example 1,2,4", word);
}

static ebb_status_t profile(const profile_options_t *o, const char *file, char *list)
{
    whole_t w = {0};
    trial_t t = {.o = o, .file = file};
    ssize_t n = readlink("/proc/self/exe", t.self, sizeof t.self - 1);
    if (n < 0)
        return ebb_file_error("/proc/self/exe", "read");
    EBB_TRY(read_whole(o, file, &w));
    while (list) {
        profile_size_t size = {0};
        EBB_TRY(next_ranks(&list, &t.ranks));
        EBB_TRY(try_ranks(&t, &size));
        EBB_TRY(profile_put(w.path, w.key, w.rows, &size));
        if (!o->json)
            printf("%6lld rank%s  %12.4g rows/s  %8.4g W %s\n", (long long)size.ranks, size.ranks == 1 ? " " : "s",
                   size.rows_per_s, size.watts, size.measured ? "measured" : "estimated");
        fflush(stdout);
    }
    if (!o->json) {
        printf("%s\n", w.path);
        return EBB_OK;
    }
    char *text;
    size_t bytes;
    EBB_TRY(ebb_file_read_all(w.path, &text, &bytes));
    fputs(text, stdout);
    ebb_free(text);
    return EBB_OK;
}

static ebb_status_t run(void *opts, int n_operands, char **operands)
{
    const profile_options_t *o = opts;
    char *list = ebb_strdup(o->ranks);
    if (!list)
        return EBB_FAIL(EBB_ENOMEM, "out of memory");
    ebb_status_t status = profile(o, operands[0], list);
    ebb_free(list);
    return status;
}

const ebb_command_t cmd_profile = {
    .name = "profile",
    .help = "Measure what a run does and draws on each number of ranks",
    .operands = "RUN.yaml",
    .about = "Trains for a few seconds on each number of ranks, in a temporary folder, and writes rows per second and\n"
             "watts beyond idling into profile.json, which plans of that run go by. A run that lasts adds its own.\n",
    .min_operands = 1,
    .max_operands = 1,
    .options = options,
    .options_bytes = sizeof(profile_options_t),
    .examples = examples,
    .run = run,
};
