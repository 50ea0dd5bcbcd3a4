/* The run file: one table of keys, which feeds the checks, the record of the run and `ebb train --help-run`. */
#include "train/config.h"
#include "train/config_subtrees.h"
#include "base/alloc.h"
#include "base/hash.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define KEY(n, t, field, d, u, lo, hi, c, h) EBB_CONFIG_ROW(ebb_run_config_t, n, t, field, d, u, lo, hi, c, h)

static const char *const sync_choices[] = {"canonical", "fast", NULL};
static const char *const corrupt_choices[] = {"fail", "skip", NULL};
static const char *const nonfinite_choices[] = {"stop", "rollback", NULL};
static const char *const precision_choices[] = {"fp32", "tf32", "bf16", NULL};
static const char *const wire_choices[] = {"auto", "mpi", "nccl", NULL};
static const char *const rows_choices[] = {"auto", "sparse", "dense", NULL};

static const char *const scope_choices[] = {"any", "direct", "lifecycle", NULL};
static const char *const signal_choices[] = {"any", "average", "marginal", NULL};

static const ebb_option_t run_table[] = {
    {KEY("run.name", EBB_OPT_STRING, name, NULL, NULL, 0, 0, NULL, "name of the run; default: the run file's name")},
    {KEY("run.dir", EBB_OPT_STRING, dir_base, "runs", NULL, 0, 0, NULL, "folder that holds the runs' folders")},
    {KEY("run.watchdog", EBB_OPT_F64, watchdog, "10", "seconds", 0, 86400, NULL,
         "end the job when a rank is silent, or stuck, for so long (at least 2; more if it is busy); 0: never")},
    {KEY("data.train", EBB_OPT_STRING, train, NULL, NULL, 0, 0, NULL,
         "data set to train on: a folder made by ebb pack, or a .h5ad, 10x or HDF5 file (required)")},
    {KEY("data.valid", EBB_OPT_STRING, valid, NULL, NULL, 0, 0, NULL, "data set to evaluate on")},
    {KEY("data.dataset", EBB_OPT_STRING, dataset, NULL, NULL, 0, 0, NULL,
         "in a foreign HDF5 file: path of X, and after a colon of the targets")},
    {KEY("data.row_sum", EBB_OPT_F64, row_sum, "0", NULL, 0, INFINITY, NULL,
         "scale every row to this sum (0: do not); cell counts: 10000")},
    {KEY("data.log1p", EBB_OPT_FLAG, log1p, "false", NULL, 0, 0, NULL, "replace values by log(1 + value)")},
    {KEY("data.row_l2", EBB_OPT_FLAG, row_l2, "false", NULL, 0, 0, NULL, "scale every row to Euclidean length 1")},
    {KEY("data.scale", EBB_OPT_F64, scale, "1", NULL, 0, 0, NULL, "multiply all values; pixels: 0.00392157")},
    {KEY("data.shuffle", EBB_OPT_FLAG, shuffle, "true", NULL, 0, 0, NULL, "draw rows in random order")},
    {KEY("data.block_rows", EBB_OPT_I64, block_rows, "0", "rows", 0, 1 << 30, NULL,
         "rows that stay together in the shuffle; 0: those that share a chunk")},
    {KEY("data.window_blocks", EBB_OPT_I64, window_blocks, "0", "blocks", 0, 1 << 20, NULL,
         "blocks of a lane whose rows are mixed; more mixes better and takes more memory; 0: 96, or "
         "fewer where that takes much memory")},
    {KEY("data.memory", EBB_OPT_BYTES, memory_bytes, "1GiB", "bytes", 1 << 20, INFINITY, NULL,
         "budget of the loader, per rank")},
    {KEY("data.threads", EBB_OPT_I64, loader_threads, "1", "threads", 1, 256, NULL,
         "threads that read ahead, per rank")},
    {KEY("data.on_corrupt", EBB_OPT_CHOICE, on_corrupt, "fail", NULL, 0, 0, corrupt_choices,
         "what to do about rows of damaged chunks of the training data; skip leaves them out, the same rows for any "
         "number of ranks, and says so in run.json")},
    {KEY("data.depth", EBB_OPT_I64, depth, "3", "batches", 1, 64, NULL, "batches made ready ahead")},
    {KEY("lanes", EBB_OPT_I64, lanes, "24", NULL, 1, 4096, NULL,
         "logical workers; ranks may be 1 to this many; part of what defines the result")},
    {KEY("model", EBB_OPT_JSON, model, NULL, NULL, 0, 0, NULL, "loss and layers, or a plug-in; see below (required)")},
    {KEY("train.epochs", EBB_OPT_I64, epochs, "1", "epochs", 0, INFINITY, NULL, "passes over the training data")},
    {KEY("train.max_steps", EBB_OPT_I64, max_steps, "0", "steps", 0, INFINITY, NULL,
         "stop after this many steps; 0: no limit")},
    {KEY("train.batch", EBB_OPT_I64, batch, "1536", "rows", 1, 1 << 30, NULL, "rows per step over all ranks")},
    {KEY("train.accumulate", EBB_OPT_I64, accumulate, "1", "pieces", 1, 1 << 20, NULL,
         "cut each lane's rows of a step into pieces, to save memory for activations")},
    {KEY("train.seed", EBB_OPT_I64, seed, "1", NULL, 0, INFINITY, NULL,
         "seed of the order of rows, the first weights and dropout")},
    {KEY("train.optimizer", EBB_OPT_JSON, optimizer, NULL, NULL, 0, 0, NULL,
         "sgd, adagrad, adam, adamw or ftrl with its settings; see below; default: adam")},
    {KEY("train.schedule", EBB_OPT_JSON, schedule, NULL, NULL, 0, 0, NULL,
         "learning rate over steps: constant, step, cosine or one_cycle; see below; default: constant")},
    {KEY("train.clip_norm", EBB_OPT_F64, clip_norm, "0", NULL, 0, INFINITY, NULL,
         "clip the gradient's global norm; 0: do not")},
    {KEY("train.class_weights", EBB_OPT_JSON, class_weights_spec, NULL, NULL, 0, 0, NULL,
         "balanced, or {class name: weight, ...}")},
    {KEY("train.early_stopping", EBB_OPT_JSON, early_stopping_spec, NULL, NULL, 0, 0, NULL,
         "{metric: NAME, patience: EVALUATIONS, min_delta: X} on the validation data")},
    {KEY("train.threads", EBB_OPT_I64, threads, "0", "threads", 0, 4096, NULL,
         "threads that compute, per rank; 0: the cores of the host divided by its ranks, for GPUs 4 at most")},
    {KEY("train.on_nonfinite", EBB_OPT_CHOICE, on_nonfinite, "stop", NULL, 0, 0, nonfinite_choices,
         "what to do when a loss, gradient, weight or state is not finite; rollback goes back to the newest checkpoint "
         "with half the learning rate, up to 10 times, and says so in run.json")},
    {KEY("train.sync", EBB_OPT_CHOICE, sync, "canonical", NULL, 0, 0, sync_choices,
         "how gradients are added; fast depends on the rank count and is for comparison")},
    {KEY("train.rows", EBB_OPT_CHOICE, rows, "auto", NULL, 0, 0, rows_choices,
         "how gradients of tables travel; changes time, never the result")},
    {KEY("train.backend", EBB_OPT_STRING, backend, "cpu", NULL, 0, 0, NULL,
         "what computes, and where weights, gradients and optimiser state live: cpu, cuda (a GPU for each rank, in "
         "turn)")},
    {KEY("train.precision", EBB_OPT_CHOICE, precision, "fp32", NULL, 0, 0, precision_choices,
         "of dense products with train.backend cuda: tf32 and bf16 round their factors; sums, weights and optimiser "
         "state "
         "stay fp32")},
    {KEY("train.wire", EBB_OPT_CHOICE, wire, "auto", NULL, 0, 0, wire_choices,
         "how gradients go from GPU to GPU: nccl, or mpi, through host memory; auto: nccl where each rank has a GPU of "
         "its "
         "own; changes time, never the result")},
    {KEY("eval.metrics", EBB_OPT_STRING, metrics, NULL, NULL, 0, 0, NULL,
         "loss,accuracy,top_K,log_loss,auc,rmse,mae; default: those that suit the loss")},
    {KEY("eval.every", EBB_OPT_I64, eval_every, "1", "epochs", 1, INFINITY, NULL,
         "evaluate on the validation data after every so many epochs, and after the last")},
    {KEY("checkpoint.every_steps", EBB_OPT_I64, checkpoint_steps, "0", "steps", 0, INFINITY, NULL,
         "write a checkpoint every so many steps, in the background; 0: by time alone")},
    {KEY("checkpoint.every_minutes", EBB_OPT_F64, checkpoint_minutes, "10", "minutes", 0, INFINITY, NULL,
         "and whenever so much time has passed; 0: not by time")},
    {KEY("checkpoint.keep", EBB_OPT_I64, checkpoint_keep, "2", "checkpoints", 1, INFINITY, NULL,
         "how many of the newest to keep")},
    {KEY("carbon.source", EBB_OPT_STRING, carbon.source, NULL, NULL, 0, 0, NULL,
         "where the grid's carbon intensity comes from, for the books: file, neso, electricitymaps, watttime, casdk or "
         "typical; without it $EBB_CARBON_SOURCE, else file if there is one, else typical; tokens stand in "
         "$EBB_CARBON_TOKEN alone")},
    {KEY("carbon.zone", EBB_OPT_STRING, carbon.zone, NULL, NULL, 0, 0, NULL,
         "zone of the grid, as the source names it; without it $EBB_CARBON_ZONE, else intensity is booked as unknown")},
    {KEY("carbon.file", EBB_OPT_STRING, carbon.file, NULL, NULL, 0, 0, NULL,
         "CSV or JSON of intensities; without it $EBB_CARBON_FILE")},
    {KEY("carbon.column", EBB_OPT_STRING, carbon.column, NULL, NULL, 0, 0, NULL,
         "column of a CSV file that has several; without it $EBB_CARBON_COLUMN")},
    {KEY("carbon.scope", EBB_OPT_CHOICE, carbon.scope, "any", NULL, 0, 0, scope_choices,
         "emissions to count, where the source has both; what a file counts that does not say; without it "
         "$EBB_CARBON_SCOPE")},
    {KEY("carbon.signal", EBB_OPT_CHOICE, carbon.signal, "any", NULL, 0, 0, signal_choices,
         "what the intensities of a file are that does not say; without it $EBB_CARBON_SIGNAL")},
    {KEY("carbon.url", EBB_OPT_STRING, carbon.url, NULL, NULL, 0, 0, NULL,
         "address of the service; without it $EBB_CARBON_URL, else the service's own")},
    {KEY("carbon.pue", EBB_OPT_F64, carbon.pue, "0", NULL, 0, 10, NULL,
         "power usage effectiveness of the building; 0: $EBB_CARBON_PUE, else 1")},
    {KEY("carbon.embodied", EBB_OPT_F64, carbon.embodied_kg, "0", "kg CO2e", 0, INFINITY, NULL,
         "emitted by making one host, of which the run bears its share; 0: $EBB_CARBON_EMBODIED, else not counted")},
    {KEY("carbon.lifetime", EBB_OPT_F64, carbon.lifetime_years, "4", "years", 0.1, 100, NULL,
         "over which that is spread")},
    {KEY("carbon.prometheus", EBB_OPT_STRING, carbon.prometheus, NULL, NULL, 0, 0, NULL,
         "folder of node_exporter's textfile collector, which gets a file of the run's power and emissions from each "
         "host; without it $EBB_PROMETHEUS_DIR, else none")},
    {0},
};

/* Keys that may differ when a run is resumed: they change where and how fast it runs, or how long, but no number (or
 * how it gets past damaged data). */
static const char *const resumable[] = {"run.",
                                        "data.train",
                                        "data.valid",
                                        "data.memory",
                                        "data.threads",
                                        "data.depth",
                                        "data.on_corrupt",
                                        "train.on_nonfinite",
                                        "train.epochs",
                                        "train.max_steps",
                                        "train.threads",
                                        "train.rows",
                                        "train.wire",
                                        "train.early_stopping",
                                        "eval.",
                                        "checkpoint.",
                                        "carbon.",
                                        NULL};

/* ---- the tree against the table ---- */

static const ebb_option_t *find_key(const char *path)
{
    for (const ebb_option_t *row = run_table; row->name; row++)
        if (strcmp(row->name, path) == 0)
            return row;
    return NULL;
}

static bool is_section(const char *path)
{
    size_t n = strlen(path);
    for (const ebb_option_t *row = run_table; row->name; row++)
        if (strncmp(row->name, path, n) == 0 && row->name[n] == '.')
            return true;
    return false;
}

static ebb_status_t unknown_run_key(const ebb_yaml_t *yaml, const char *path)
{
    const char *names[sizeof run_table / sizeof *run_table] = {0};
    for (int i = 0; run_table[i].name; i++)
        names[i] = run_table[i].name;
    return ebb_config_unknown_key(yaml, path, path, names);
}

static ebb_status_t read_tree(const ebb_yaml_t *yaml, const char *prefix, const json_t *object, ebb_run_config_t *c)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        char path[256], origin[512];
        snprintf(path, sizeof path, "%s%s%s", prefix, *prefix ? "." : "", key);
        const ebb_option_t *row = find_key(path);
        if (row) {
            snprintf(origin, sizeof origin, "%s: %s", ebb_yaml_where(yaml, path), path);
            EBB_TRY(ebb_option_set_json(row, c, value, origin));
        } else if (!is_section(path)) {
            return unknown_run_key(yaml, path);
        } else if (json_is_object(value)) {
            EBB_TRY(read_tree(yaml, path, value, c));
        } else if (!json_is_null(value)) {
            return EBB_FAIL(EBB_EUSAGE, "%s: %s: expected keys below it, as in {%s: {...}}", ebb_yaml_where(yaml, path),
                            path, path);
        }
    }
    return EBB_OK;
}

static ebb_status_t default_name(ebb_run_config_t *c, const char *origin)
{
    if (c->name)
        return EBB_OK;
    const char *base = strrchr(origin, '/');
    c->name = ebb_strdup(base ? base + 1 : origin);
    if (!c->name)
        return EBB_FAIL(EBB_ENOMEM, "out of memory");
    char *dot = strrchr(c->name, '.');
    if (dot && dot > c->name)
        *dot = 0;
    return EBB_OK;
}

static ebb_status_t check(const ebb_yaml_t *yaml, ebb_run_config_t *c)
{
    if (!c->train)
        return EBB_FAIL(EBB_EUSAGE, "%s: data.train is missing: name the data set to train on", yaml->origin);
    if (!json_is_object(c->model))
        return EBB_FAIL(EBB_EUSAGE, "%s: the model section is missing or no mapping: give model: {layers: [...]}",
                        yaml->origin);
    if (strchr(c->name, '/') || !*c->name)
        return EBB_FAIL(EBB_EUSAGE, "%s: run.name: \"%s\" cannot name a folder", ebb_yaml_where(yaml, "run.name"),
                        c->name);
    if (c->batch < c->lanes)
        return EBB_FAIL(EBB_EUSAGE,
                        "%s: train.batch: %lld rows are fewer than the %lld lanes; raise train.batch or lower lanes",
                        ebb_yaml_where(yaml, "train.batch"), (long long)c->batch, (long long)c->lanes);
    if (c->accumulate > c->batch / c->lanes)
        return EBB_FAIL(EBB_EUSAGE, "%s: train.accumulate: a lane has %lld rows a step, fewer than %lld pieces",
                        ebb_yaml_where(yaml, "train.accumulate"), (long long)(c->batch / c->lanes),
                        (long long)c->accumulate);
    return EBB_OK;
}

ebb_status_t ebb_run_config_build(const ebb_yaml_t *yaml, ebb_run_config_t **config_p)
{
    ebb_run_config_t *c = NULL;
    json_t *record = NULL;
    ebb_status_t status;
    *config_p = NULL;
    EBB_TRY(EBB_NEW("run configuration", &c));
    EBB_TRY_GOTO(status, ebb_options_defaults(run_table, c), fail);
    EBB_TRY_GOTO(status, read_tree(yaml, "", yaml->root, c), fail);
    EBB_TRY_GOTO(status, default_name(c, yaml->origin), fail);
    EBB_TRY_GOTO(status, check(yaml, c), fail);
    EBB_TRY_GOTO(status, ebb_config_read_rules(yaml, c), fail);
    EBB_TRY_GOTO(status, ebb_config_read_early_stopping(yaml, c), fail);
    EBB_TRY_GOTO(status, ebb_config_read_class_weights(yaml, c), fail);
    EBB_TRY_GOTO(status, ebb_options_json(run_table, c, &record), fail);
    ebb_text_t dir = {0};
    ebb_text_add(&dir, "%s/%s", c->dir_base, c->name);
    c->dir = dir.s;
    c->json = ebb_json_dump(record);
    json_decref(record);
    if (!c->dir || !c->json) {
        status = EBB_FAIL(EBB_ENOMEM, "out of memory for the run configuration");
        goto fail;
    }
    *config_p = c;
    return EBB_OK;
fail:
    ebb_run_config_free(c);
    return status;
}

/* Apply overrides to a parsed tree and build from it; the configuration keeps the tree. */
static ebb_status_t set_and_build(ebb_yaml_t *yaml, int n_sets, const char *const *sets, ebb_run_config_t **config_p)
{
    ebb_status_t status = EBB_OK;
    for (int i = 0; i < n_sets && status == EBB_OK; i++)
        status = ebb_yaml_set(yaml, sets[i]);
    if (status == EBB_OK)
        status = ebb_run_config_build(yaml, config_p);
    if (status == EBB_OK)
        (*config_p)->yaml = *yaml;
    else
        ebb_yaml_free(yaml);
    return status;
}

ebb_status_t ebb_run_config_load(const char *path, int n_sets, const char *const *sets, ebb_run_config_t **config_p)
{
    ebb_yaml_t yaml = {0};
    *config_p = NULL;
    EBB_TRY(ebb_yaml_load(path, &yaml));
    return set_and_build(&yaml, n_sets, sets, config_p);
}

static ebb_status_t check_resumable(const char *assignment)
{
    size_t key = strcspn(assignment, "=");
    for (int i = 0; resumable[i]; i++) {
        size_t n = strlen(resumable[i]);
        bool whole = resumable[i][n - 1] != '.';
        if (strncmp(assignment, resumable[i], n) == 0 && (!whole || n == key || assignment[n] == '.'))
            return EBB_OK;
    }
    return EBB_FAIL(EBB_EUSAGE,
                    "--set %s: cannot change when a run is resumed, it would not be the same model; start a new run",
                    assignment);
}

ebb_status_t ebb_run_config_resume(const char *json, int n_sets, const char *const *sets, ebb_run_config_t **config_p)
{
    ebb_yaml_t yaml = {0};
    *config_p = NULL;
    for (int i = 0; i < n_sets; i++)
        EBB_TRY(check_resumable(sets[i]));
    EBB_TRY(ebb_yaml_parse(json, strlen(json), "the checkpoint's configuration", &yaml)); /* JSON is YAML */
    return set_and_build(&yaml, n_sets, sets, config_p);
}

void ebb_run_config_free(ebb_run_config_t *c)
{
    if (!c)
        return;
    ebb_options_free(run_table, c);
    ebb_yaml_free(&c->yaml);
    ebb_free(c->early_metric);
    ebb_free(c->dir);
    free(c->json);
    ebb_free(c);
}

const char *ebb_run_config_json(const ebb_run_config_t *config)
{
    return config->json;
}

const char *ebb_run_config_name(const ebb_run_config_t *config)
{
    return config->name;
}

const char *ebb_run_config_dir(const ebb_run_config_t *config)
{
    return config->dir;
}

int64_t ebb_run_config_epochs(const ebb_run_config_t *config)
{
    return config->epochs;
}

const char *ebb_run_config_backend(const ebb_run_config_t *config)
{
    return config->backend;
}

int64_t ebb_run_config_lanes(const ebb_run_config_t *config)
{
    return config->lanes;
}

double ebb_run_config_watchdog(const ebb_run_config_t *config)
{
    return config->watchdog;
}

ebb_status_t ebb_run_config_key(const ebb_run_config_t *config, char key[65])
{
    static const char *const sections[] = {"run", "carbon", "checkpoint", "eval"},
                             *const settings[] = {"epochs",   "max_steps",      "seed",
                                                  "schedule", "early_stopping", "on_nonfinite"};
    json_t *json;
    ebb_sha256_t *sha;
    EBB_TRY(ebb_json_parse(config->json, strlen(config->json), "the run's configuration", &json));
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++)
        json_object_del(json, sections[i]);
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        json_object_del(json_object_get(json, "train"), settings[i]);
    json_object_del(json_object_get(json, "data"), "valid");
    char *text = ebb_json_dump(json);
    json_decref(json);
    ebb_status_t status = text ? ebb_sha256_create(&sha) : EBB_FAIL(EBB_ENOMEM, "out of memory for a configuration");
    if (status == EBB_OK) {
        ebb_sha256_update(sha, text, strlen(text));
        ebb_sha256_final(sha, key);
        ebb_sha256_destroy(sha);
    }
    free(text);
    return status;
}

const ebb_run_carbon_t *ebb_run_config_carbon(const ebb_run_config_t *config)
{
    return &config->carbon;
}

ebb_status_t ebb_run_config_move(ebb_run_config_t *config, const char *dir)
{
    char *copy = ebb_strdup(dir);
    if (!copy)
        return EBB_FAIL(EBB_ENOMEM, "out of memory");
    ebb_free(config->dir);
    config->dir = copy;
    return EBB_OK;
}

char *ebb_run_config_help(int width)
{
    ebb_text_t out = {0};
    char *models;
    ebb_text_add(&out, "Keys of a run file. --set KEY=VALUE overrides any of them.\n\n");
    ebb_options_help_keys(run_table, &out, width);
    ebb_config_help_subtrees(&out, width);
    if (ebb_model_help(&models) == EBB_OK)
        ebb_text_add(&out, "\nmodel: {...}\n%s", models);
    free(models);
    return out.s;
}

/* ---- what the step loop asks ---- */

void ebb_run_config_transform(const ebb_run_config_t *c, ebb_transform_t *t)
{
    *t = (ebb_transform_t){.row_sum = (float)c->row_sum,
                           .log1p = c->log1p,
                           .row_l2 = c->row_l2,
                           .scale = c->scale == 1.0 ? 0.0f : (float)c->scale};
}
