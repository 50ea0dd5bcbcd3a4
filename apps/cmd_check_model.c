/* ebb check-model: hold a model, built-in or plug-in, to the rules the engine relies on, on a few rows of real data. */
#include "commands.h"
#include "base/alloc.h"
#include "base/yaml.h"

#include <ebb/compute.h>
#include <ebb/model.h>
#include <ebb/shard.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct check_options {
    char *data, *dataset, *model, *backend, *against;
    int64_t rows, seed;
    ebb_string_list_t set;
} check_options_t;

static const ebb_option_t options[] = {
    {"data", 'd', EBB_OPT_STRING, offsetof(check_options_t, data), NULL, NULL, 0, 0, NULL,
     "data set whose rows are used, instead of the run file's data.train"},
    {"dataset", 0, EBB_OPT_STRING, offsetof(check_options_t, dataset), NULL, NULL, 0, 0, NULL,
     "what to read inside a foreign HDF5 file"},
    {"model", 'm', EBB_OPT_STRING, offsetof(check_options_t, model), NULL, NULL, 0, 0, NULL,
     "the model as YAML or JSON, instead of the run file's section"},
    {"set", 0, EBB_OPT_LIST, offsetof(check_options_t, set), NULL, NULL, 0, 0, NULL,
     "override a key of the run file, key=value"},
    {"rows", 'n', EBB_OPT_I64, offsetof(check_options_t, rows), "32", "rows", 1, 4096, NULL,
     "rows to use, spread over the data set"},
    {"seed", 0, EBB_OPT_I64, offsetof(check_options_t, seed), "1", NULL, 0, 1e15, NULL,
     "seed of the weights and of the elements tried"},
    {"backend", 0, EBB_OPT_STRING, offsetof(check_options_t, backend), "cpu", NULL, 0, 0, NULL, "backend to check on"},
    {"against", 0, EBB_OPT_STRING, offsetof(check_options_t, against), "cuda", NULL, 0, 0, NULL,
     "second backend to compare with; left out where it is not here"},
    {0},
};

/* ---- rows ---- */

typedef struct sample {
    ebb_host_rows_t rows;
    int64_t *rowptr;
    int32_t *col, *label;
    float *val, *x, *y;
} sample_t;

static void sample_free(sample_t *s)
{
    ebb_free(s->rowptr);
    ebb_free(s->col);
    ebb_free(s->label);
    ebb_free(s->val);
    ebb_free(s->x);
    ebb_free(s->y);
}

static int64_t spread(const ebb_dataset_info_t *info, int64_t n, int64_t k)
{
    return (int64_t)((__int128)info->rows * k / n);
}

static ebb_status_t read_sparse(ebb_reader_t *reader, const ebb_dataset_info_t *info, int64_t n, sample_t *s)
{
    for (int64_t k = 0; k < n; k++) {
        int64_t ends[2];
        EBB_TRY(ebb_reader_rowptr(reader, spread(info, n, k), 1, 0, ends));
        s->rowptr[k + 1] = s->rowptr[k] + ends[1];
    }
    EBB_TRY(EBB_NEW_ARRAY("columns", s->rowptr[n], &s->col));
    EBB_TRY(EBB_NEW_ARRAY("values", s->rowptr[n], &s->val));
    for (int64_t k = 0; k < n; k++)
        EBB_TRY(ebb_reader_csr(reader, spread(info, n, k), 1, s->col + s->rowptr[k], s->val + s->rowptr[k]));
    return EBB_OK;
}

/* Finite differences want values of about 1: pixels and counts are scaled down by their largest. */
static void scale_down(float *v, int64_t n)
{
    float largest = 0.0f;
    for (int64_t i = 0; i < n; i++)
        largest = fmaxf(largest, fabsf(v[i]));
    for (int64_t i = 0; largest > 4.0f && i < n; i++)
        v[i] /= largest;
}

static ebb_status_t read_rows(ebb_reader_t *reader, const ebb_dataset_info_t *info, int64_t n, sample_t *s)
{
    EBB_TRY(EBB_NEW_ARRAY("row pointers", n + 1, &s->rowptr));
    EBB_TRY(EBB_NEW_ARRAY("labels", n, &s->label));
    EBB_TRY(EBB_NEW_ARRAY("targets", n * (info->target_cols + 1), &s->y));
    if (info->sparse) {
        EBB_TRY(read_sparse(reader, info, n, s));
        scale_down(s->val, s->rowptr[n]);
    } else {
        EBB_TRY(EBB_NEW_ARRAY("dense rows", n * info->cols, &s->x));
        for (int64_t k = 0; k < n; k++)
            EBB_TRY(ebb_reader_dense(reader, spread(info, n, k), 1, s->x + k * info->cols));
        scale_down(s->x, n * info->cols);
    }
    bool classes = info->target == EBB_TARGET_CLASS;
    for (int64_t k = 0; k < n && info->target != EBB_TARGET_NONE; k++)
        EBB_TRY(ebb_reader_targets(reader, spread(info, n, k), 1, classes ? s->label + k : NULL,
                                   classes ? NULL : s->y + k * info->target_cols, NULL));
    s->rows = (ebb_host_rows_t){.rows = n,
                                .rowptr = s->rowptr,
                                .col = s->col,
                                .val = s->val,
                                .x = s->x,
                                .label = classes ? s->label : NULL,
                                .y = classes ? NULL : s->y};
    return EBB_OK;
}

static ebb_status_t sample_read(const ebb_dataset_t *ds, int64_t n, sample_t *s)
{
    const ebb_dataset_info_t *info = ebb_dataset_info(ds);
    if (info->rows < 1)
        return EBB_FAIL(EBB_EDATA, "data set \"%s\" has no rows", info->name);
    ebb_reader_t *reader;
    EBB_TRY(ebb_reader_create(ds, 0, &reader));
    ebb_status_t status = read_rows(reader, info, n < info->rows ? n : info->rows, s);
    ebb_reader_destroy(reader);
    return status;
}

/* ---- what to check ---- */

/* Run file, or one made of --model alone. */
static ebb_status_t load_run(const check_options_t *o, int n, char **operands, ebb_yaml_t *run)
{
    if (n == 0 && (!o->model || !o->data))
        return EBB_FAIL(EBB_EUSAGE, "name a run file, or give --model and --data");
    if (n > 0)
        EBB_TRY(ebb_yaml_load(operands[0], run));
    else
        EBB_TRY(ebb_yaml_parse("{}", 2, "--model", run));
    for (int i = 0; i < o->set.n; i++)
        EBB_TRY(ebb_yaml_set(run, o->set.item[i]));
    if (!o->model)
        return EBB_OK;
    ebb_yaml_t model = {0};
    EBB_TRY(ebb_yaml_parse(o->model, strlen(o->model), "--model", &model));
    json_object_set(run->root, "model", model.root);
    ebb_yaml_free(&model);
    return EBB_OK;
}

static ebb_status_t find_parts(const check_options_t *o, const ebb_yaml_t *run, const char **data_p, char **config_p)
{
    *data_p = o->data ? o->data : json_string_value(json_object_get(json_object_get(run->root, "data"), "train"));
    if (!*data_p)
        return EBB_FAIL(EBB_EUSAGE, "%s: data.train names no data set; give one with --data", run->origin);
    const json_t *model = json_object_get(run->root, "model");
    if (!model)
        return EBB_FAIL(EBB_EUSAGE, "%s: has no section \"model\"; give one with --model", run->origin);
    *config_p = ebb_json_dump(model);
    return *config_p ? EBB_OK : EBB_FAIL(EBB_ENOMEM, "out of memory: model section");
}

static void print_check(void *user, const ebb_check_t *check)
{
    if (check->skipped)
        printf("%-52s %10s %8s  skipped: %s\n", check->name, "-", "-", check->note);
    else
        printf("%-52s %10.2g %8.2g  %s%s%s\n", check->name, check->worst, check->limit, check->passed ? "ok" : "FAILED",
               !check->passed && check->note[0] ? ": " : "", check->passed ? "" : check->note);
}

static ebb_status_t check_on(const check_options_t *o, const char *config, const ebb_dataset_info_t *info,
                             const sample_t *sample)
{
    ebb_backend_t *backend, *other = NULL;
    EBB_TRY(ebb_backend_open(o->backend, 0, &backend));
    if (o->against && o->against[0] && strcmp(o->against, o->backend) != 0 &&
        ebb_backend_open(o->against, 0, &other) != EBB_OK)
        ebb_error_clear();
    printf("%-52s %10s %8s\n", "check", "worst", "limit");
    ebb_status_t status =
        ebb_model_check(config, info, &sample->rows, backend, other, (uint64_t)o->seed, print_check, NULL);
    ebb_backend_close(other);
    ebb_backend_close(backend);
    return status;
}

static ebb_status_t check_model(const check_options_t *o, const char *data, const char *config)
{
    ebb_dataset_t *ds;
    EBB_TRY(ebb_dataset_open(data, o->dataset, &ds));
    sample_t sample = {0};
    ebb_model_t *model = NULL;
    char text[4096];
    ebb_status_t status;
    EBB_TRY_GOTO(status, ebb_model_create(config, ebb_dataset_info(ds), &model), done);
    EBB_TRY_GOTO(status, ebb_model_describe(model, text, sizeof text), done);
    EBB_TRY_GOTO(status, sample_read(ds, o->rows, &sample), done);
    printf("%s\n", text);
    status = check_on(o, config, ebb_dataset_info(ds), &sample);
done:
    ebb_model_destroy(model);
    sample_free(&sample);
    ebb_dataset_close(ds);
    return status;
}

static ebb_status_t run(void *user, int n_operands, char **operands)
{
    const check_options_t *o = user;
    ebb_yaml_t yaml = {0};
    const char *data = NULL;
    char *config = NULL;
    ebb_status_t status = load_run(o, n_operands, operands, &yaml);
    if (status == EBB_OK)
        status = find_parts(o, &yaml, &data, &config);
    if (status == EBB_OK && (status = check_model(o, data, config)) != EBB_OK && !o->model)
        ebb_yaml_locate_error(&yaml, "model");
    free(config);
    ebb_yaml_free(&yaml);
    return status;
}

static const ebb_example_t examples[] = {
    {"Check the model of a run file", "ebb check-model run.yaml"},
    {"Check a plug-in on some data", "ebb check-model --data data/clicks --model '{plugin: ./mine.so}'"},
    {0},
};

const ebb_command_t cmd_check_model = {
    .name = "check-model",
    .help = "Check a model's gradients and that its bits depend on nothing they should not",
    .operands = "[RUN.yaml]",
    .about =
        "Runs a model, built-in or plug-in, on a few rows and compares its gradients with finite differences of the\n"
        "loss; checks that a poisoned workspace, another thread and row-sparse gradients give the same bits, that\n"
        "pieces of the rows add up to the whole and empty rows add nothing, that weights are left alone, and that two\n"
        "backends agree. Worst errors are relative. The exit code is 65 if a check fails.\n",
    .max_operands = 1,
    .options = options,
    .options_bytes = sizeof(check_options_t),
    .examples = examples,
    .run = run,
};
