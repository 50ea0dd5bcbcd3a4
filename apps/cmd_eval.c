/* ebb eval: the metrics of a trained model on a data set. */
#include "commands.h"
#include "base/clock.h"
#include "base/json.h"

#include <ebb/comm.h>
#include <ebb/train.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct eval_options {
    char *metrics, *dataset;
    bool json;
    int64_t threads;
} eval_options_t;

static const ebb_option_t options[] = {
    {.name = "metrics",
     .letter = 'm',
     .type = EBB_OPT_STRING,
     .offset = offsetof(eval_options_t, metrics),
     .help = "loss,accuracy,top_K,log_loss,auc,rmse,mae; default: those of the run"},
    {OPTION_DATASET(eval_options_t, DATASET_WITH_TARGETS)},
    {.name = "json",
     .type = EBB_OPT_FLAG,
     .offset = offsetof(eval_options_t, json),
     .def = "false",
     .help = "print one JSON object"},
    {OPTION_THREADS(eval_options_t)},
    {0},
};

static const ebb_example_t examples[] = {
    {"Evaluate a run's model on its validation data", "ebb eval runs/sections"},
    {"Evaluate on other data, over 4 ranks", "mpirun -n 4 ebb eval runs/sections data/test --metrics accuracy,top_5"},
    {0},
};

static ebb_status_t print_json(const char *model, const char *data, int64_t rows, double seconds, int n,
                               const ebb_metric_value_t *value)
{
    json_t *metrics = json_object();
    for (int i = 0; i < n; i++)
        json_object_set_new(metrics, value[i].name, isnan(value[i].value) ? json_null() : json_real(value[i].value));
    json_t *all = json_pack("{s:s, s:s, s:I, s:f, s:o}", "model", model, "data", data, "rows", (json_int_t)rows,
                            "seconds", seconds, "metrics", metrics);
    char *text = all ? json_dumps(all, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(all);
    if (!text)
        return EBB_FAIL(EBB_ENOMEM, "out of memory");
    puts(text);
    free(text);
    return EBB_OK;
}

static void print_table(const char *data, int64_t rows, double seconds, int n, const ebb_metric_value_t *value)
{
    char count[32];
    printf("%s: %s rows in %.2f s\n", data, ebb_format_count((double)rows, count, sizeof count), seconds);
    for (int i = 0; i < n; i++)
        printf("  %-10s %.6f\n", value[i].name, value[i].value);
}

static ebb_status_t evaluate(ebb_comm_t *comm, const eval_options_t *o, int n_operands, char **operands)
{
    ebb_predictor_t *p;
    const ebb_metric_value_t *value;
    int n;
    char path[PATH_MAX];
    int64_t rows, start = ebb_now_ns();
    json_t *config = NULL;
    EBB_TRY(ebb_predictor_open(comm, ebb_run_named(operands[0], path), (int)o->threads, &p));
    const char *data = n_operands > 1 ? operands[1] : NULL;
    ebb_status_t status = EBB_OK;
    if (!data) {
        const char *text = ebb_predictor_config(p);
        status = ebb_json_parse(text, strlen(text), "the model's configuration", &config);
        data = json_string_value(json_object_get(json_object_get(config, "data"), "valid"));
        if (status == EBB_OK && !data)
            status = EBB_FAIL(EBB_EUSAGE, "eval: the run had no validation data; name the data set to evaluate on");
    }
    if (status == EBB_OK)
        status = ebb_predictor_evaluate(p, data, o->dataset, o->metrics, &n, &value, &rows);
    double seconds = (double)(ebb_now_ns() - start) * 1e-9;
    if (status == EBB_OK && ebb_comm_rank(comm) == 0) {
        if (o->json)
            status = print_json(operands[0], data, rows, seconds, n, value);
        else
            print_table(data, rows, seconds, n, value);
    }
    json_decref(config);
    ebb_predictor_close(p);
    return status;
}

static ebb_status_t run(void *opts, int n_operands, char **operands)
{
    ebb_comm_t *comm;
    EBB_TRY(ebb_comm_default(&comm));
    ebb_status_t status = evaluate(comm, opts, n_operands, operands);
    ebb_comm_destroy(comm);
    return status;
}

const ebb_command_t cmd_eval = {
    .name = "eval",
    .help = "Evaluate a trained model on a data set",
    .operands = "MODEL [DATA]",
    .about = "MODEL is a run's folder or a model file; DATA a data set with the same columns and targets, by default\n"
             "the run's validation data. The figures are the same for any number of ranks and threads.\n",
    .min_operands = 1,
    .max_operands = 2,
    .options = options,
    .options_bytes = sizeof(eval_options_t),
    .examples = examples,
    .run = run,
};
