/* ebb train: a run from its run file, or resumed from its checkpoints. Rank 0 shows and records; all ranks compute. */
#include "commands.h"
#include "train_show.h"
#include "base/clock.h"
#include "base/file.h"

#include <ebb/comm.h>
#include <ebb/report.h>
#include <ebb/train.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct train_options {
    char *resume;
    ebb_string_list_t set;
    bool help_run, force, quiet;
    int64_t log_every;
} train_options_t;

static const ebb_option_t options[] = {
    {.name = "set", .letter = 's', .type = EBB_OPT_LIST, .offset = offsetof(train_options_t, set),
     .help = "KEY=VALUE overrides a key of the run file; may be given more than once"},
    {.name = "resume", .letter = 'r', .type = EBB_OPT_STRING, .offset = offsetof(train_options_t, resume),
     .help = "go on with the run in this folder (runs/NAME) from its newest good checkpoint, on any number of ranks"},
    {.name = "force", .type = EBB_OPT_FLAG, .offset = offsetof(train_options_t, force), .def = "false",
     .help = "start anew where a run of this name exists already"},
    {.name = "log-every", .type = EBB_OPT_I64, .offset = offsetof(train_options_t, log_every), .def = "0", .unit = "steps", .min = 0, .max = 1e15,
     .help = "steps between lines of metrics.jsonl; 0: about one a second"},
    {.name = "quiet", .letter = 'q', .type = EBB_OPT_FLAG, .offset = offsetof(train_options_t, quiet), .def = "false", .help = "show nothing but errors"},
    {.name = "help-run", .type = EBB_OPT_FLAG, .offset = offsetof(train_options_t, help_run), .def = "false", .help = "list every key of a run file and end"},
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
typedef struct session {
    const train_options_t *options;
    const ebb_run_config_t *config;
    ebb_record_t *record; /* rank 0 alone */
    bool resumed;
    ebb_status_t status;  /* of the record: told when the run is over */
    int64_t epochs, last_log_ns;
    ebb_epoch_report_t last_epoch;
    bool have_epoch;
} session_t;

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

static void keep(session_t *s, ebb_status_t status)
{
    if (s->status == EBB_OK)
        s->status = status;
}

static void log_line(session_t *s, json_t *line)
{
    keep(s, line ? ebb_record_log(s->record, line) : EBB_FAIL(EBB_ENOMEM, "out of memory for a metrics line"));
    json_decref(line);
}

static void on_start(void *user, const char *facts_json)
{
    session_t *s = user;
    json_t *facts = NULL;
    if (!s->record)
        return;
    ebb_status_t status = ebb_json_parse(facts_json, strlen(facts_json), "facts", &facts);
    if (status == EBB_OK && !s->options->quiet)
        train_show_start(ebb_run_config_name(s->config), facts);
    keep(s, status == EBB_OK ? ebb_record_start(s->record, facts) : status);
    json_decref(facts);
}

static void on_step(void *user, const ebb_step_report_t *r)
{
    session_t *s = user;
    int64_t now = ebb_now_ns();
    if (!s->record)
        return;
    if (!s->options->quiet)
        train_show_step(r, s->have_epoch ? &s->last_epoch : NULL);
    bool due = s->options->log_every > 0 ? r->step % s->options->log_every == 0 : now - s->last_log_ns >= 1000000000;
    if (!due)
        return;
    s->last_log_ns = now;
    json_t *line = json_pack("{s:I, s:I, s:f, s:f, s:I, s:f, s:f, s:f, s:f}", "epoch", (json_int_t)r->epoch, "step", (json_int_t)r->step, "loss", r->loss, "lr", r->lr, "rows",
                             (json_int_t)r->rows, "seconds", r->seconds, "rows_per_s", r->seconds > 0 ? (double)r->rows_done / r->seconds : 0.0, "stall_seconds", r->stall_seconds,
                             "sync_seconds", r->sync_seconds);
    if (line && !isnan(r->grad_norm))
        json_object_set_new(line, "grad_norm", json_real(r->grad_norm));
    log_line(s, line);
}

static json_t *metrics_json(int n, const ebb_metric_value_t *value)
{
    json_t *metrics = json_object();
    for (int i = 0; i < n; i++)
        json_object_set_new(metrics, value[i].name, isnan(value[i].value) ? json_null() : json_real(value[i].value));
    return metrics;
}

static void on_epoch(void *user, const ebb_epoch_report_t *r)
{
    session_t *s = user;
    if (!s->record)
        return;
    s->last_epoch = *r;
    s->have_epoch = true;
    if (!s->options->quiet)
        train_show_epoch(r, s->epochs);
    log_line(s, json_pack("{s:I, s:I, s:f, s:s, s:f, s:b, s:o}", "epoch", (json_int_t)r->epoch, "step", (json_int_t)r->step, "train_loss", r->train_loss, "order_hash", r->order_hash,
                          "seconds", r->seconds, "best", (int)r->best, "metrics", metrics_json(r->n_metrics, r->metrics)));
}

static void on_checkpoint(void *user, int64_t step, const char *path, double seconds)
{
    session_t *s = user;
    if (s->record)
        log_line(s, json_pack("{s:I, s:s, s:f}", "step", (json_int_t)step, "checkpoint", path, "write_seconds", seconds));
}

/* ---- the run ---- */

static ebb_status_t load_resumed(ebb_comm_t *comm, const train_options_t *o, ebb_run_config_t **config_p, int64_t *step_p)
{
    char folder[PATH_MAX], path[PATH_MAX], moved[PATH_MAX];
    ebb_checkpoint_meta_t meta = {0};
    snprintf(folder, sizeof folder, "%s/checkpoints", o->resume);
    if (!ebb_file_is_dir(o->resume))
        return EBB_FAIL(EBB_ENOINPUT, "%s: no such run folder; --resume takes the folder of a run, as in runs/NAME", o->resume);
    ebb_status_t status = ebb_checkpoint_newest(comm, folder, path, sizeof path);
    if (status == EBB_ENOINPUT)
        return ebb_error_prefix("%s: there is no checkpoint to resume from: ", o->resume);
    EBB_TRY(status);
    EBB_TRY(ebb_checkpoint_read_meta(path, &meta));
    *step_p = meta.step;
    status = ebb_run_config_resume(meta.config, o->set.n, (const char *const *)o->set.item, config_p);
    ebb_checkpoint_meta_free(&meta);
    EBB_TRY(status);
    /* The run goes on in the folder that was named, wherever that is now. */
    if (!realpath(o->resume, moved))
        return ebb_file_error(o->resume, "find");
    return ebb_run_config_move(*config_p, moved);
}

static ebb_status_t load_config(ebb_comm_t *comm, const train_options_t *o, int n_operands, char **operands, ebb_run_config_t **config_p, int64_t *step_p)
{
    *step_p = 0;
    if (o->resume && n_operands > 0)
        return EBB_FAIL(EBB_EUSAGE, "train: a resumed run has its run file with it; give either a run file or --resume");
    if (o->resume)
        return load_resumed(comm, o, config_p, step_p);
    if (n_operands == 0)
        return EBB_FAIL(EBB_EUSAGE, "train: name a run file, or --resume runs/NAME; `ebb train --help-run` lists what a run file may hold");
    return ebb_run_config_load(operands[0], o->set.n, (const char *const *)o->set.item, config_p);
}

static ebb_status_t end_record(session_t *s, ebb_status_t status, const ebb_train_result_t *r)
{
    json_t *end = json_object();
    json_object_set_new(end, "steps", json_integer(r->steps));
    json_object_set_new(end, "epochs", json_integer(r->epochs));
    json_object_set_new(end, "seconds", json_real(r->seconds));
    if (status == EBB_OK) {
        json_object_set_new(end, "weights_sha256", json_string(r->weights_sha256));
        json_object_set_new(end, "optimizer_sha256", json_string(r->optimizer_sha256));
        json_object_set_new(end, "model", json_string(r->model_path));
        json_object_set_new(end, "metrics", metrics_json(r->n_metrics, r->metrics));
    }
    const char *outcome = status == EBB_OK ? "completed" : status == EBB_ESTOPPED ? "stopped" : "failed";
    ebb_status_t written = ebb_record_end(s->record, outcome, status == EBB_OK ? NULL : ebb_error()->message, end);
    json_decref(end);
    return status != EBB_OK ? status : written;
}

static ebb_status_t train(ebb_comm_t *comm, const train_options_t *o, int n_operands, char **operands)
{
    ebb_run_config_t *config = NULL;
    ebb_train_result_t result = {0};
    int64_t step;
    EBB_TRY(ebb_comm_agree(comm, load_config(comm, o, n_operands, operands, &config, &step)));
    session_t s = {.options = o, .config = config, .resumed = o->resume != NULL, .epochs = ebb_run_config_epochs(config)};
    ebb_observer_t observer = {.user = &s, .start = on_start, .step = on_step, .epoch = on_epoch, .checkpoint = on_checkpoint};
    ebb_status_t status = EBB_OK;
    if (ebb_comm_rank(comm) == 0)
        status = ebb_record_open(ebb_run_config_dir(config), ebb_run_config_json(config), s.resumed, o->force, step, &s.record);
    status = ebb_comm_agree(comm, status);
    if (status == EBB_OK) {
        catch_signals();
        status = ebb_train(comm, config, s.resumed, &observer, &result);
        if (status == EBB_OK)
            status = ebb_comm_agree(comm, s.status);
        if (s.record)
            status = end_record(&s, status, &result);
        if (status == EBB_OK && s.record && !o->quiet)
            train_show_result(&result);
    }
    ebb_record_close(s.record);
    ebb_run_config_free(config);
    return status;
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
    EBB_TRY(ebb_comm_default(&comm));
    ebb_status_t status = train(comm, o, n_operands, operands);
    ebb_comm_destroy(comm);
    return status;
}

const ebb_command_t cmd_train = {
    .name = "train",
    .help = "Train a model as a run file says",
    .operands = "[RUN.yaml]",
    .about = "The run's folder (run.dir/run.name) gets run.json, metrics.jsonl, checkpoints and model.h5. SIGTERM, SIGINT or SIGUSR1 to any\n"
             "rank finishes the step, writes a checkpoint and exits 75: resume with --resume, on any number of ranks. The model is the\n"
             "same, bit for bit, however many ranks and threads there are and however often the run was stopped.\n",
    .min_operands = 0,
    .max_operands = 1,
    .options = options,
    .options_bytes = sizeof(train_options_t),
    .examples = examples,
    .run = run,
};
