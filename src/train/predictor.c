/* A trained model in use: evaluation and prediction. */
#include <ebb/train.h>
#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "train/config.h"
#include "train/data_record.h"
#include "train/scan.h"
#include "train/stage.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

struct ebb_predictor {
    ebb_comm_t *comm;
    ebb_workers_t workers;
    ebb_run_config_t *config;
    ebb_data_record_t *trained;
    ebb_checkpoint_meta_t meta;
    ebb_model_t *model;
    ebb_weights_t weights;
    bool have_weights;
    ebb_metrics_t *metrics;
    ebb_metric_value_t *values;
};

/* The model file that path stands for; empty where it is a run's folder without model.h5. */
static ebb_status_t find_file(const char *path, char *file, size_t size)
{
    if (!ebb_file_exists(path))
        return EBB_FAIL(EBB_ENOINPUT, "%s: no such run or model", path);
    snprintf(file, size, ebb_file_is_dir(path) ? "%s/model.h5" : "%s", path);
    if (!ebb_file_exists(file))
        *file = 0;
    return EBB_OK;
}

/* A run's folder stands for its model.h5, else its newest good checkpoint; a file for itself. Rank 0 decides. */
static ebb_status_t find_model(ebb_comm_t *comm, const char *path, char *file, size_t size)
{
    char folder[PATH_MAX];
    memset(file, 0, size);
    EBB_TRY(ebb_comm_agree(comm, ebb_comm_rank(comm) == 0 ? find_file(path, file, size) : EBB_OK));
    EBB_TRY(ebb_comm_bcast(comm, file, (int64_t)size, 0));
    if (*file)
        return EBB_OK;
    snprintf(folder, sizeof folder, "%s/checkpoints", path);
    ebb_status_t status = ebb_checkpoint_newest(comm, folder, file, size);
    return status == EBB_ENOINPUT ? ebb_error_prefix("%s: holds neither model.h5 nor a checkpoint: ", path) : status;
}

/* Everything but the values of the weights. Not collective. */
static ebb_status_t build(ebb_predictor_t *p, const char *file, int threads)
{
    EBB_TRY(ebb_checkpoint_read_meta(file, &p->meta));
    EBB_TRY(ebb_run_config_resume(p->meta.config, 0, NULL, &p->config));
    EBB_TRY(ebb_data_record_read(p->meta.dataset, &p->trained));
    EBB_TRY(ebb_workers_init(&p->workers, p->comm, p->config->backend, (ebb_precision_t)p->config->precision, threads));
    char *model = ebb_json_dump(p->config->model);
    if (!model)
        return EBB_FAIL(EBB_ENOMEM, "out of memory");
    ebb_status_t status = ebb_model_create(model, ebb_data_record_info(p->trained), &p->model);
    free(model);
    EBB_TRY(status);
    EBB_TRY(ebb_weights_create(p->workers.backend, ebb_model_layout(p->model), &p->weights));
    p->have_weights = true;
    return EBB_OK;
}

static ebb_status_t load(ebb_predictor_t *p, const char *path, int threads)
{
    char file[PATH_MAX];
    EBB_TRY(find_model(p->comm, path, file, sizeof file));
    EBB_TRY(ebb_comm_agree(p->comm, build(p, file, threads)));
    ebb_checkpoint_meta_free(&p->meta);
    ebb_checkpoint_state_t state = {.comm = p->comm,
                                    .backend = p->workers.backend,
                                    .exec = p->workers.exec[0],
                                    .layout = ebb_model_layout(p->model),
                                    .weights = &p->weights};
    return ebb_checkpoint_load(&state, file, &p->meta);
}

ebb_status_t ebb_predictor_open(ebb_comm_t *comm, const char *path, int threads, ebb_predictor_t **predictor_p)
{
    ebb_predictor_t *p;
    *predictor_p = NULL;
    EBB_TRY(ebb_comm_agree(comm, EBB_NEW("predictor", &p)));
    p->comm = comm;
    ebb_status_t status = load(p, path, threads);
    if (status != EBB_OK) {
        ebb_predictor_close(p);
        return status;
    }
    *predictor_p = p;
    return EBB_OK;
}

void ebb_predictor_close(ebb_predictor_t *p)
{
    if (!p)
        return;
    ebb_metrics_destroy(p->metrics);
    ebb_free(p->values);
    if (p->have_weights)
        ebb_weights_destroy(p->workers.backend, ebb_model_layout(p->model), &p->weights);
    ebb_workers_cleanup(&p->workers);
    ebb_model_destroy(p->model);
    ebb_data_record_free(p->trained);
    ebb_checkpoint_meta_free(&p->meta);
    ebb_run_config_free(p->config);
    ebb_free(p);
}

int64_t ebb_predictor_outputs(const ebb_predictor_t *p)
{
    return ebb_model_outputs(p->model);
}

const char *ebb_predictor_class(const ebb_predictor_t *p, int64_t c)
{
    const ebb_dataset_info_t *info = ebb_data_record_info(p->trained);
    return c >= 0 && c < info->classes ? info->class_names[c] : NULL;
}

const char *ebb_predictor_config(const ebb_predictor_t *p)
{
    return p->meta.config;
}

/* Open data and set up a scan of it with this model. */
static ebb_status_t open_data(ebb_predictor_t *p, const char *path, const char *dataset, bool targets,
                              ebb_dataset_t **data_p, ebb_scan_t *scan)
{
    *data_p = NULL;
    EBB_TRY(ebb_dataset_open(path, dataset ? dataset : p->config->dataset, data_p));
    EBB_TRY(ebb_scan_check(ebb_dataset_info(*data_p), ebb_data_record_info(p->trained), targets));
    *scan = (ebb_scan_t){.workers = &p->workers, .model = p->model, .weights = &p->weights, .data = *data_p};
    ebb_run_config_transform(p->config, &scan->transform);
    return EBB_OK;
}

static ebb_status_t collect(ebb_predictor_t *p, int *n_p, const ebb_metric_value_t **values_p)
{
    int n = ebb_metrics_count(p->metrics);
    ebb_free(p->values);
    EBB_TRY(EBB_NEW_ARRAY("metric values", n, &p->values));
    for (int i = 0; i < n; i++)
        p->values[i].name = ebb_metrics_get(p->metrics, i, &p->values[i].value, &p->values[i].more_is_better);
    *n_p = n;
    *values_p = p->values;
    return EBB_OK;
}

ebb_status_t ebb_predictor_evaluate(ebb_predictor_t *p, const char *path, const char *dataset, const char *metrics,
                                    int *n_p, const ebb_metric_value_t **values_p, int64_t *rows_p)
{
    ebb_dataset_t *data;
    ebb_scan_t scan;
    ebb_metrics_destroy(p->metrics);
    p->metrics = NULL;
    ebb_status_t status = open_data(p, path, dataset, true, &data, &scan);
    if (status == EBB_OK)
        status = ebb_metrics_create(metrics ? metrics : p->config->metrics, ebb_model_loss(p->model),
                                    ebb_model_outputs(p->model), &p->metrics);
    status = ebb_comm_agree(p->comm, status);
    if (status == EBB_OK)
        status = ebb_scan_evaluate(p->comm, &scan, p->metrics);
    if (status == EBB_OK) {
        *rows_p = ebb_dataset_info(data)->rows;
        status = collect(p, n_p, values_p);
    }
    ebb_dataset_close(data);
    return status;
}

/* Buffers of a prediction: this rank's part of a round, the whole round, and where each rank's part lies in it. */
typedef struct round {
    float *part, *whole;
    int64_t *counts, *displs; /* (ranks), bytes */
} round_t;

/* Ranks compute neighbouring parts of [row0, row1); rank 0 writes them in order. */
static ebb_status_t predict_round(ebb_predictor_t *p, const ebb_scan_t *scan, int64_t row0, int64_t row1, round_t *b,
                                  ebb_predict_write_t write, void *user)
{
    int rank = ebb_comm_rank(p->comm), ranks = ebb_comm_size(p->comm);
    int64_t outputs = ebb_model_outputs(p->model), row_bytes = outputs * (int64_t)sizeof(float), first, last;
    for (int r = 0; r < ranks; r++) {
        ebb_scan_share(row1 - row0, r, ranks, &first, &last);
        b->counts[r] = (last - first) * row_bytes;
        b->displs[r] = first * row_bytes;
    }
    ebb_scan_share(row1 - row0, rank, ranks, &first, &last);
    EBB_TRY(ebb_comm_agree(p->comm, ebb_scan_predict(scan, row0 + first, row0 + last, b->part)));
    EBB_TRY(ebb_comm_allgatherv(p->comm, b->part, b->counts[rank], b->whole, b->counts, b->displs));
    return ebb_comm_agree(p->comm, rank == 0 ? write(user, row0, row1 - row0, outputs, b->whole) : EBB_OK);
}

static ebb_status_t round_init(round_t *b, int64_t floats, int ranks)
{
    EBB_TRY(EBB_NEW_ARRAY("predictions", floats, &b->part));
    EBB_TRY(EBB_NEW_ARRAY("predictions", floats, &b->whole));
    EBB_TRY(EBB_NEW_ARRAY("part sizes", ranks, &b->counts));
    return EBB_NEW_ARRAY("part offsets", ranks, &b->displs);
}

static ebb_status_t predict_all(ebb_predictor_t *p, const ebb_scan_t *scan, ebb_predict_write_t write, void *user)
{
    int64_t rows = ebb_dataset_info(scan->data)->rows;
    int64_t round = (int64_t)EBB_SCAN_BLOCK * 16 * p->workers.threads * ebb_comm_size(p->comm);
    round_t b = {0};
    EBB_TRY(ebb_comm_allreduce(p->comm, &round, 1, EBB_COMM_I64, EBB_MAX)); /* thread counts may differ */
    round = round < rows ? round : rows;
    ebb_status_t status =
        ebb_comm_agree(p->comm, round_init(&b, round * ebb_model_outputs(p->model), ebb_comm_size(p->comm)));
    for (int64_t row = 0; row < rows && status == EBB_OK; row += round)
        status = predict_round(p, scan, row, row + round < rows ? row + round : rows, &b, write, user);
    ebb_free(b.part);
    ebb_free(b.whole);
    ebb_free(b.counts);
    ebb_free(b.displs);
    return status;
}

ebb_status_t ebb_predictor_run(ebb_predictor_t *p, const char *path, const char *dataset, ebb_predict_write_t write,
                               void *user)
{
    ebb_dataset_t *data;
    ebb_scan_t scan;
    ebb_status_t status = ebb_comm_agree(p->comm, open_data(p, path, dataset, false, &data, &scan));
    if (status == EBB_OK)
        status = predict_all(p, &scan, write, user);
    ebb_dataset_close(data);
    return status;
}
