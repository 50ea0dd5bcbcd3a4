/* ebb train: a run from its run file, or resumed from its checkpoints. Rank 0 shows and records; all ranks compute. */
#include "commands.h"
#include "launch.h"
#include "profile.h"
#include "run_books.h"
#include "train_show.h"
#include "base/clock.h"
#include "base/file.h"

#include <ebb/comm.h>
#include <ebb/report.h>
#include <ebb/train.h>
#include <ebb/watch.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct train_options {
    char *resume;
    ebb_string_list_t set;
    bool help_run, force, keep_books, quiet;
    int64_t log_every, ranks;
} train_options_t;

static const ebb_option_t options[] = {
    {.name = "set",
     .letter = 's',
     .type = EBB_OPT_LIST,
     .offset = offsetof(train_options_t, set),
     .help = "KEY=VALUE overrides a key of the run file; may be given more than once"},
    {.name = "resume",
     .letter = 'r',
     .type = EBB_OPT_STRING,
     .offset = offsetof(train_options_t, resume),
     .help = "go on with the run in this folder (runs/NAME) from its newest good checkpoint, on any number of ranks"},
    {.name = "ranks",
     .letter = 'n',
     .type = EBB_OPT_I64,
     .offset = offsetof(train_options_t, ranks),
     .def = "0",
     .unit = "ranks",
     .min = 0,
     .max = 65536,
     .help = "start so many ranks by mpirun where the command is not under it already; 0: one for each GPU with "
             "train.backend cuda, else 1"},
    {.name = "force",
     .type = EBB_OPT_FLAG,
     .offset = offsetof(train_options_t, force),
     .def = "false",
     .help = "start anew where a run of this name exists already"},
    {.name = "keep-books",
     .type = EBB_OPT_FLAG,
     .offset = offsetof(train_options_t, keep_books),
     .def = "false",
     .help = "with --force: what failed attempts took stays in the run's books of energy and carbon"},
    {.name = "log-every",
     .type = EBB_OPT_I64,
     .offset = offsetof(train_options_t, log_every),
     .def = "0",
     .unit = "steps",
     .min = 0,
     .max = 1e15,
     .help = "steps between lines of metrics.jsonl; 0: about one a second"},
    {.name = "quiet",
     .letter = 'q',
     .type = EBB_OPT_FLAG,
     .offset = offsetof(train_options_t, quiet),
     .def = "false",
     .help = "show nothing but errors"},
    {.name = "help-run",
     .type = EBB_OPT_FLAG,
     .offset = offsetof(train_options_t, help_run),
     .def = "false",
     .help = "list every key of a run file and end"},
    {0},
};

static const ebb_example_t examples[] = {
    {"Train as run.yaml says, on this machine's cores", "ebb train run.yaml"},
    {"The same model, bit for bit, on 4 ranks", "mpirun -n 4 ebb train run.yaml"},
    {"Another learning rate", "ebb train run.yaml --set train.optimizer.adam.lr=0.01 --set run.name=faster"},
    {"Go on after a stop, on 2 ranks", "mpirun -n 2 ebb train --resume runs/sections"},
    {0},
};

/* What the observer needs between calls. */
typedef struct watch {
    ebb_watch_t **watchdog;
    const train_options_t *options;
    const ebb_run_config_t *config;
    ebb_comm_t *comm;
    ebb_record_t *record; /* NULL on other ranks than 0, where recording does nothing */
    const run_books_t *books;
    ebb_status_t status; /* of the record: told when the run is over */
    int64_t epochs, last_log_ns, lost_lines;
    int64_t step, steps, epoch_steps, batch, rows; /* done; in all; of an epoch; of a step; of the data */
    int64_t rows_done;                             /* since this start, in */
    double seconds;
    ebb_epoch_report_t last_epoch;
    bool have_epoch;
} watch_t;

/* ---- signals: the first asks the run to stop after its step, the second of a kind ends the process ---- */

static void on_signal(int number)
{
    ebb_train_stop();
    signal(number, SIG_DFL);
}

static void catch_signals(void)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGUSR1};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
        sigaction(numbers[i], &action, NULL);
    }
}

/* ---- observing ---- */

static void keep(watch_t *s, ebb_status_t status)
{
    if (s->status == EBB_OK)
        s->status = status;
}

/* A line that cannot be written ends no run: the first is told, all are counted. */
static void keep_line(watch_t *s, ebb_status_t status)
{
    if (status == EBB_OK)
        return;
    if (s->lost_lines++ == 0)
        EBB_WARN("train", "%s; lines of metrics.jsonl are lost, training goes on", ebb_error()->message);
    ebb_error_clear();
}

/* Remove the models and checkpoints of an earlier run of this name, and nothing else that may lie in its folder. */
ebb_status_t ebb_remove_models(const char *folder)
{
    static const char *const names[] = {"model.h5", "best.h5", NULL};
    char path[PATH_MAX];
    for (int i = 0; names[i]; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        if (unlink(path) != 0 && errno != ENOENT)
            return ebb_file_error(path, "remove");
    }
    snprintf(path, sizeof path, "%s/checkpoints", folder);
    return ebb_file_is_dir(path) ? ebb_checkpoint_prune(path, 0) : EBB_OK;
}

static void on_start(void *user, const char *facts_json)
{
    watch_t *s = user;
    json_t *facts = NULL, *value;
    const char *key;
    keep(s, ebb_json_parse(facts_json, strlen(facts_json), "facts", &facts));
    if (s->record && !s->options->resume) /* only now is it sure that the new run can begin */
        keep(s, ebb_remove_models(ebb_record_folder(s->record)));
    int threads = (int)json_integer_value(json_object_get(facts, "threads"));
    const char *device = json_string_value(json_object_get(facts, "device"));
    keep(s, ebb_record_start(s->record, s->comm, device, threads, ebb_argc, ebb_argv));
    s->epoch_steps = json_integer_value(json_object_get(facts, "epoch_steps"));
    s->batch = json_integer_value(json_object_get(facts, "batch"));
    s->rows = json_integer_value(json_object_get(json_object_get(facts, "data"), "rows"));
    json_object_foreach(facts, key, value)
    {
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        keep(s,
             text ? ebb_record_set_json(s->record, key, text) : EBB_FAIL(EBB_ENOMEM, "out of memory for the record"));
        free(text);
    }
    keep(s, ebb_record_write(s->record));
    if (s->record && !s->options->quiet)
        train_show_start(ebb_run_config_name(s->config), facts);
    json_decref(facts);
}

/* How busy the GPUs of rank 0's host were until the meter's last reading. */
static void line_gpus(const watch_t *s)
{
    double seconds, busy;
    if (!run_books_gpus(s->books, &seconds, &busy))
        return;
    ebb_record_line_f64(s->record, "gpu_seconds", seconds);
    ebb_record_line_f64(s->record, "gpu_busy_seconds", busy);
}

static void on_step(void *user, const ebb_step_report_t *r)
{
    watch_t *s = user;
    int64_t now = ebb_now_ns(), every = s->options->log_every;
    s->step = r->step;
    s->steps = r->steps;
    s->rows_done = r->rows_done;
    s->seconds = r->seconds;
    if (!s->record)
        return;
    if (!s->options->quiet)
        train_show_step(r, s->have_epoch ? &s->last_epoch : NULL);
    if (every > 0 ? r->step % every != 0 : now - s->last_log_ns < 1000000000)
        return;
    s->last_log_ns = now;
    ebb_record_line(s->record, "step");
    ebb_record_line_i64(s->record, "epoch", r->epoch);
    ebb_record_line_i64(s->record, "step", r->step);
    ebb_record_line_f64(s->record, "loss", r->loss);
    ebb_record_line_f64(s->record, "lr", r->lr);
    if (!isnan(r->grad_norm))
        ebb_record_line_f64(s->record, "grad_norm", r->grad_norm);
    ebb_record_line_f64(s->record, "seconds", r->seconds);
    ebb_record_line_f64(s->record, "rows_per_s", r->seconds > 0 ? (double)r->rows_done / r->seconds : 0.0);
    ebb_record_line_f64(s->record, "stall_seconds", r->stall_seconds);
    ebb_record_line_f64(s->record, "sync_seconds", r->sync_seconds);
    line_gpus(s);
    keep_line(s, ebb_record_line_end(s->record));
}

static void on_epoch(void *user, const ebb_epoch_report_t *r)
{
    watch_t *s = user;
    if (!s->record)
        return;
    s->last_epoch = *r;
    s->have_epoch = true;
    if (!s->options->quiet)
        train_show_epoch(r, s->epochs);
    ebb_record_line(s->record, "epoch");
    ebb_record_line_i64(s->record, "epoch", r->epoch);
    ebb_record_line_i64(s->record, "step", r->step);
    ebb_record_line_f64(s->record, "train_loss", r->train_loss);
    ebb_record_line_string(s->record, "order_hash", r->order_hash);
    ebb_record_line_f64(s->record, "seconds", r->seconds);
    for (int i = 0; i < r->n_metrics; i++) {
        char key[64];
        snprintf(key, sizeof key, "valid_%s", r->metrics[i].name);
        ebb_record_line_f64(s->record, key, r->metrics[i].value);
    }
    if (r->n_metrics > 0)
        ebb_record_line_i64(s->record, "best", r->best);
    keep_line(s, ebb_record_line_end(s->record));
}

/* From now on there is something to go on from. */
static void advise_resume(const watch_t *s)
{
    char advice[PATH_MAX + 64];
    snprintf(advice, sizeof advice, "go on with: ebb train --resume %s", ebb_run_config_dir(s->config));
    ebb_watch_advise(*s->watchdog, advice);
}

static void on_checkpoint(void *user, const ebb_saved_t *saved, const char *error)
{
    watch_t *s = user;
    if (!error)
        advise_resume(s);
    if (!s->record)
        return;
    ebb_record_line(s->record, error ? "checkpoint_failed" : "checkpoint");
    ebb_record_line_i64(s->record, "step", saved->step);
    ebb_record_line_string(s->record, "path", saved->path);
    ebb_record_line_f64(s->record, "wait_seconds", saved->wait_seconds);
    ebb_record_line_f64(s->record, "write_seconds", saved->write_seconds);
    ebb_record_line_f64(s->record, "cpu_seconds", saved->cpu_seconds);
    if (error)
        ebb_record_line_string(s->record, "error", error);
    keep_line(s, ebb_record_line_end(s->record));
}

static ebb_status_t record_rollback(watch_t *s, const ebb_rollback_t *r)
{
    json_t *entry = json_pack("{s:I, s:I, s:f, s:s}", "step", (json_int_t)r->step, "to_step", (json_int_t)r->to_step,
                              "rate", r->rate, "reason", r->reason);
    char *text = entry ? json_dumps(entry, JSON_COMPACT) : NULL;
    json_decref(entry);
    ebb_status_t status = text ? ebb_record_append(s->record, "rollbacks", text)
                               : EBB_FAIL(EBB_ENOMEM, "out of memory for the run record");
    free(text);
    EBB_TRY(status);
    return ebb_record_write(s->record);
}

/* Lines of the steps that did not count go. */
static void on_rollback(void *user, const ebb_rollback_t *r)
{
    watch_t *s = user;
    s->have_epoch = false;
    if (!s->record)
        return;
    keep_line(s, ebb_record_rewind(s->record, r->to_step));
    keep_line(s, record_rollback(s, r));
    ebb_record_line(s->record, "rollback");
    ebb_record_line_i64(s->record, "step", r->to_step);
    ebb_record_line_i64(s->record, "from_step", r->step);
    ebb_record_line_f64(s->record, "rate", r->rate);
    ebb_record_line_string(s->record, "reason", r->reason);
    keep_line(s, ebb_record_line_end(s->record));
}

/* ---- the run ---- */

static ebb_status_t load_resumed(ebb_comm_t *comm, const train_options_t *o, ebb_run_config_t **config_p,
                                 int64_t *step_p)
{
    char folder[PATH_MAX], path[PATH_MAX], named[PATH_MAX];
    const char *run = ebb_run_named(o->resume, named);
    ebb_checkpoint_meta_t meta = {0};
    snprintf(folder, sizeof folder, "%s/checkpoints", run);
    ebb_status_t found = EBB_OK;
    if (!ebb_file_is_dir(run))
        found = EBB_FAIL(EBB_ENOINPUT, "%s: no such run folder; --resume takes the folder of a run, as in runs/NAME",
                         o->resume);
    EBB_TRY(ebb_comm_agree(comm, found));
    ebb_status_t status = ebb_checkpoint_newest(comm, folder, path, sizeof path);
    if (status == EBB_ENOINPUT)
        return ebb_error_prefix("%s: there is no checkpoint to resume from: ", run);
    EBB_TRY(status);
    EBB_TRY(ebb_checkpoint_read_meta(path, &meta));
    *step_p = meta.step;
    status = ebb_run_config_resume(meta.config, o->set.n, (const char *const *)o->set.item, config_p);
    ebb_checkpoint_meta_free(&meta);
    EBB_TRY(status);
    /* The run goes on in the folder that was named, wherever that is now. */
    snprintf(folder, sizeof folder, "%s", run);
    for (size_t n = strlen(folder); n > 1 && folder[n - 1] == '/'; n--)
        folder[n - 1] = 0;
    return ebb_run_config_move(*config_p, folder);
}

static ebb_status_t load_config(ebb_comm_t *comm, const train_options_t *o, int n_operands, char **operands,
                                ebb_run_config_t **config_p, int64_t *step_p)
{
    *step_p = 0;
    if (o->resume && n_operands > 0)
        return EBB_FAIL(EBB_EUSAGE,
                        "train: a resumed run has its run file with it; give either a run file or --resume");
    if (o->resume)
        return load_resumed(comm, o, config_p, step_p);
    if (n_operands == 0)
        return EBB_FAIL(
            EBB_EUSAGE,
            "train: name a run file, or --resume runs/NAME; `ebb train --help-run` lists what a run file may hold");
    return ebb_run_config_load(operands[0], o->set.n, (const char *const *)o->set.item, config_p);
}

/* What a run will compute on, before there are ranks: of a run to be resumed, its record says. */
static ebb_status_t find_backend(const train_options_t *o, int n_operands, char **operands, char backend[64],
                                 int64_t *lanes_p)
{
    char path[PATH_MAX], named[PATH_MAX];
    ebb_run_config_t *config;
    if (o->resume) {
        snprintf(path, sizeof path, "%s/run.json", ebb_run_named(o->resume, named));
        json_t *record = json_load_file(path, 0, NULL), *run = json_object_get(record, "config");
        const char *name = json_string_value(json_object_get(json_object_get(run, "train"), "backend"));
        snprintf(backend, 64, "%s", name ? name : "cpu");
        *lanes_p = json_integer_value(json_object_get(run, "lanes"));
        json_decref(record);
        return EBB_OK;
    }
    if (n_operands == 0) /* told later */
        return EBB_OK;
    EBB_TRY(ebb_run_config_load(operands[0], o->set.n, (const char *const *)o->set.item, &config));
    snprintf(backend, 64, "%s", ebb_run_config_backend(config));
    *lanes_p = ebb_run_config_lanes(config);
    ebb_run_config_free(config);
    return EBB_OK;
}

/* Returns in the ranks, and where one is enough. */
static ebb_status_t start_ranks(const train_options_t *o, int n_operands, char **operands)
{
    char backend[64] = "cpu";
    int64_t lanes = 1;
    if (o->ranks == 1 || launch_done())
        return EBB_OK;
    EBB_TRY(find_backend(o, n_operands, operands, backend, &lanes));
    return launch_ranks(o->ranks, backend, lanes);
}

static ebb_status_t open_record(watch_t *s, int64_t step)
{
    const char *folder = ebb_run_config_dir(s->config);
    if (ebb_comm_rank(s->comm) != 0)
        return EBB_OK;
    if (s->options->resume) {
        EBB_TRY(ebb_record_open(folder, &s->record));
        EBB_TRY(ebb_record_rewind(s->record, step));
    } else {
        EBB_TRY(ebb_record_create(folder, s->options->force, &s->record));
        if (!s->options->keep_books)
            EBB_TRY(run_books_remove(folder));
    }
    return ebb_record_set_json(s->record, "config", ebb_run_config_json(s->config));
}

/* Rows that data.on_corrupt: skip has left out. */
static ebb_status_t record_skipped(watch_t *s, const ebb_train_result_t *r)
{
    if (r->rows_skipped == 0 || !s->record)
        return EBB_OK;
    EBB_TRY(ebb_record_set_i64(s->record, "skipped.rows", r->rows_skipped));
    EBB_TRY(ebb_record_set_json(s->record, "skipped.chunks", "[]"));
    for (int i = 0; i < r->n_skipped; i++) {
        json_t *chunk = json_pack("{s:I, s:I, s:s}", "row", (json_int_t)r->skipped[i].row, "rows",
                                  (json_int_t)r->skipped[i].rows, "reason", r->skipped[i].reason);
        char *text = chunk ? json_dumps(chunk, JSON_COMPACT) : NULL;
        ebb_status_t status = text ? ebb_record_append(s->record, "skipped.chunks", text)
                                   : EBB_FAIL(EBB_ENOMEM, "out of memory for the run record");
        free(text);
        json_decref(chunk);
        EBB_TRY(status);
    }
    return EBB_OK;
}

static ebb_status_t record_result(watch_t *s, const ebb_train_result_t *r)
{
    EBB_TRY(record_skipped(s, r));
    if (s->lost_lines > 0)
        EBB_TRY(ebb_record_set_i64(s->record, "lost_lines", s->lost_lines));
    EBB_TRY(ebb_record_set_i64(s->record, "steps", r->steps));
    EBB_TRY(ebb_record_set_i64(s->record, "epochs", r->epochs));
    EBB_TRY(ebb_record_set_f64(s->record, "seconds", r->seconds));
    EBB_TRY(ebb_record_set_string(s->record, "weights_sha256", r->weights_sha256));
    EBB_TRY(ebb_record_set_string(s->record, "optimizer_sha256", r->optimizer_sha256));
    EBB_TRY(ebb_record_set_string(s->record, "model_path", r->model_path));
    for (int i = 0; i < r->n_metrics; i++) {
        char key[64];
        snprintf(key, sizeof key, "metrics.%s", r->metrics[i].name);
        EBB_TRY(ebb_record_set_f64(s->record, key, r->metrics[i].value));
    }
    return EBB_OK;
}

/* The watchdog ends the run: its record would say "running" for ever. */
static void on_watchdog(void *user, const char *why)
{
    const watch_t *s = user;
    if (ebb_record_fail(ebb_run_config_dir(s->config), why) != EBB_OK)
        ebb_error_clear();
}

static int64_t rows_of(const watch_t *s, int64_t steps)
{
    int64_t epochs = s->epoch_steps > 0 ? steps / s->epoch_steps : 0;
    return epochs * s->rows + (steps - epochs * s->epoch_steps) * s->batch;
}

/* Rows that have come to count, for figures per row. */
static ebb_status_t record_work(watch_t *s)
{
    if (s->step == 0)
        return EBB_OK;
    EBB_TRY(ebb_record_set_i64(s->record, "work.steps", s->step));
    return ebb_record_set_i64(s->record, "work.rows", rows_of(s, s->step));
}

#define LASTED_S 20 /* from which a start tells what its number of ranks does and draws */

/* For plans of what is left, and of the next such run. */
static ebb_status_t write_profile(const watch_t *s, const ebb_report_t *report)
{
    char path[PATH_MAX], key[65];
    int64_t n;
    profile_size_t size = {.seconds = s->seconds};
    const ebb_ledger_row_t *rows = ebb_report_rows(report, &n);
    if (s->seconds < LASTED_S || !profile_power(rows, n, ebb_comm_size(s->comm), &size))
        return EBB_OK;
    size.rows_per_s = (double)s->rows_done / s->seconds;
    snprintf(path, sizeof path, "%s/profile.json", ebb_record_folder(s->record));
    EBB_TRY(ebb_run_config_key(s->config, key));
    return profile_put(path, key, (double)rows_of(s, s->steps), &size);
}

/* The run is over, whatever comes of its page and profile. */
static void write_page(const watch_t *s)
{
    char path[PATH_MAX];
    ebb_report_t *report = NULL;
    ebb_error_t first = *ebb_error();
    if (!s->record)
        return;
    ebb_error_clear();
    snprintf(path, sizeof path, "%s/report.html", ebb_record_folder(s->record));
    ebb_status_t status = ebb_report_open(ebb_record_folder(s->record), &report);
    if (status == EBB_OK)
        status = ebb_report_html(report, path);
    if (status == EBB_OK)
        status = write_profile(s, report);
    if (status != EBB_OK)
        EBB_WARN("report", "%s", ebb_error()->message);
    ebb_report_close(report);
    ebb_error_clear();
    if (first.status != EBB_OK)
        ebb_error_set(&first);
}

static void on_alone(void *user, const char *why)
{
    on_watchdog(user, why);
}

static ebb_status_t train_recorded(watch_t *s)
{
    ebb_train_result_t result = {0};
    ebb_observer_t observer = {.user = s,
                               .alone = on_alone,
                               .start = on_start,
                               .step = on_step,
                               .epoch = on_epoch,
                               .checkpoint = on_checkpoint,
                               .rollback = on_rollback};
    ebb_ledger_sums_t sums = {0};
    run_books_t books;
    double submitted = run_books_submitted(s->record);
    EBB_TRY(run_books_start(s->comm, s->config, submitted, &books));
    s->books = &books;
    ebb_status_t status = ebb_train(s->comm, s->config, s->options->resume != NULL, &observer, &result);
    run_books_stop(&books);
    if (status == EBB_OK || status == EBB_ESTOPPED)
        keep(s, run_books_record(s->comm, s->record, submitted, &books, &sums));
    if (status == EBB_OK && s->status == EBB_OK)
        s->status = record_result(s, &result);
    if (status == EBB_OK)
        status = ebb_comm_agree(s->comm, s->status);
    keep(s, record_work(s));
    ebb_status_t written = ebb_record_finish(s->record, status);
    write_page(s);
    if (status == EBB_OK && s->record && !s->options->quiet)
        train_show_result(&result, &sums);
    return status != EBB_OK ? status : ebb_comm_agree(s->comm, written);
}

/* The watchdog as the run file wants it, which is known only now. */
static void set_watchdog(const watch_t *s)
{
    double seconds = ebb_run_config_watchdog(s->config);
    if (seconds > 0) {
        ebb_watch_limit(*s->watchdog, seconds);
    } else {
        ebb_watch_stop(*s->watchdog);
        *s->watchdog = NULL;
    }
    if (s->options->resume)
        advise_resume(s);
}

static ebb_status_t train(ebb_comm_t *comm, ebb_watch_t **watchdog, const train_options_t *o, int n_operands,
                          char **operands)
{
    ebb_run_config_t *config = NULL;
    int64_t step;
    EBB_TRY(ebb_comm_agree(comm, load_config(comm, o, n_operands, operands, &config, &step)));
    watch_t s = {
        .watchdog = watchdog, .options = o, .config = config, .comm = comm, .epochs = ebb_run_config_epochs(config)};
    set_watchdog(&s);
    ebb_status_t status = ebb_comm_agree(comm, open_record(&s, step));
    ebb_watch_on_end(*watchdog, status == EBB_OK ? on_watchdog : NULL, &s);
    if (status == EBB_OK)
        status = train_recorded(&s);
    ebb_watch_on_end(*watchdog, NULL, NULL);
    ebb_record_destroy(s.record);
    ebb_run_config_free(config);
    return status;
}

/* run.watchdog, as far as one process can tell before there are ranks; what is wrong with the run file is told later.
 */
static double early_watchdog(const train_options_t *o, int n_operands, char **operands)
{
    char path[PATH_MAX], named[PATH_MAX];
    ebb_run_config_t *config;
    double seconds = EBB_WATCH_SECONDS;
    ebb_status_t status = EBB_EUSAGE;
    if (o->resume) {
        snprintf(path, sizeof path, "%s/run.json", ebb_run_named(o->resume, named));
        json_t *record = json_load_file(path, 0, NULL);
        char *text = json_dumps(json_object_get(record, "config"), 0);
        if (text)
            status = ebb_run_config_resume(text, o->set.n, (const char *const *)o->set.item, &config);
        free(text);
        json_decref(record);
    } else if (n_operands > 0) {
        status = ebb_run_config_load(operands[0], o->set.n, (const char *const *)o->set.item, &config);
    }
    if (status == EBB_OK) {
        seconds = ebb_run_config_watchdog(config);
        ebb_run_config_free(config);
    }
    ebb_error_clear();
    return seconds;
}

/* A communicator, and a watch over its ranks. */
static ebb_status_t meet(const train_options_t *o, int n_operands, char **operands, ebb_comm_t **comm_p,
                         ebb_watch_t **watchdog_p, double *limit_p)
{
    ebb_watch_guard_t *guard = ebb_watch_guard_begin(false, EBB_WATCH_SECONDS, ebb_status_exit_code(EBB_EPEER),
                                                     "start it again; run.watchdog sets the time");
    *watchdog_p = NULL;
    *limit_p = early_watchdog(o, n_operands, operands);
    ebb_watch_guard_limit(guard, *limit_p);
    ebb_status_t status = ebb_comm_default(comm_p);
    if (status == EBB_OK)
        status = ebb_watch_start(*comm_p, watchdog_p);
    ebb_watch_guard_end(guard);
    return status;
}

/* What the run has come to stands in its record: be there a rank that cannot leave, it is not undone. */
static void part(ebb_comm_t *comm, double limit, ebb_status_t status)
{
    ebb_watch_guard_t *guard =
        ebb_watch_guard_begin(true, limit, ebb_status_exit_code(status == EBB_OK ? EBB_EPEER : status),
                              "what the run came to stands in its run.json");
    ebb_comm_destroy(comm);
    ebb_watch_guard_end(guard);
}

static ebb_status_t run(void *opts, int n_operands, char **operands)
{
    const train_options_t *o = opts;
    ebb_comm_t *comm;
    if (o->help_run) {
        char *text = ebb_run_config_help(ebb_stdout_width());
        if (!text)
            return EBB_FAIL(EBB_ENOMEM, "out of memory");
        fputs(text, stdout);
        free(text);
        return EBB_OK;
    }
    EBB_TRY(start_ranks(o, n_operands, operands));
    catch_signals();
    ebb_watch_t *watchdog;
    double limit;
    ebb_status_t status = meet(o, n_operands, operands, &comm, &watchdog, &limit);
    if (status == EBB_OK)
        status = train(comm, &watchdog, o, n_operands, operands);
    ebb_watch_stop(watchdog);
    part(comm, limit, status);
    return status;
}

const ebb_command_t cmd_train = {
    .name = "train",
    .help = "Train a model as a run file says",
    .operands = "[RUN.yaml]",
    .about = "The run's folder (run.dir/run.name) gets run.json, metrics.jsonl, checkpoints and model.h5. SIGTERM,\n"
             "SIGINT or SIGUSR1 to any rank finishes the step, writes a checkpoint and exits 75: resume with\n"
             "--resume, on any number of ranks. The model is the same, bit for bit, however many ranks and threads\n"
             "there are and however often the run was stopped. Checkpoints are written while training goes on; one\n"
             "that cannot be written is told and tried again at the next, and only the last one fails the run.\n",
    .min_operands = 0,
    .max_operands = 1,
    .options = options,
    .options_bytes = sizeof(train_options_t),
    .examples = examples,
    .run = run,
};
