/* Setting a run up and taking it down. */
#include "train/run.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "train/stage.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WHOLE_FLOATS ((int64_t)16 << 10) /* gradients from which lanes are worth joining */

static ebb_status_t open_data(ebb_run_t *run)
{
    const ebb_run_config_t *c = run->config;
    EBB_TRY(ebb_dataset_open(c->train, c->dataset, &run->data));
    run->info = ebb_dataset_info(run->data);
    if (run->info->target == EBB_TARGET_NONE)
        return EBB_FAIL(
            EBB_EDATA, "%s: has no targets to learn; pack it with --target, or name them in data.dataset after a colon",
            c->train);
    if (!c->valid)
        return EBB_OK;
    EBB_TRY(ebb_dataset_open(c->valid, c->dataset, &run->valid));
    return ebb_scan_check(ebb_dataset_info(run->valid), run->info, true);
}

static ebb_status_t build_model(ebb_run_t *run)
{
    char *text = ebb_json_dump(run->config->model);
    if (!text)
        return EBB_FAIL(EBB_ENOMEM, "out of memory");
    ebb_status_t status = ebb_model_create(text, run->info, &run->model);
    free(text);
    if (status != EBB_OK)
        return ebb_yaml_locate_error(&run->config->yaml, "model");
    if (!(run->workers.backend->ops->caps & EBB_CAP_HOST_MEMORY))
        ebb_model_use_buckets(run->model);
    run->layout = ebb_model_layout(run->model);
    EBB_TRY(ebb_weights_create(run->workers.backend, run->layout, &run->weights));
    run->have_weights = true;
    EBB_TRY(ebb_weights_init(run->workers.backend, run->layout, (uint64_t)run->config->seed, &run->weights));
    EBB_TRY(ebb_workers_hold(&run->workers, run->layout, &run->weights)); /* takes its room before batches get theirs */
    ebb_workers_release(&run->workers);
    return EBB_OK;
}

/* Early stopping's metric must be among those evaluated: better told now than after the first epoch. */
static ebb_status_t check_early_metric(const ebb_run_t *run)
{
    const char *name = run->config->early_metric;
    bool found = !name;
    for (int i = 0; i < ebb_metrics_count(run->metrics) && !found; i++) {
        double value;
        bool more_is_better;
        found = strcmp(ebb_metrics_get(run->metrics, i, &value, &more_is_better), name) == 0;
    }
    return found ? EBB_OK
                 : EBB_FAIL(
                       EBB_EUSAGE,
                       "train.early_stopping.metric: \"%s\" is not among the metrics evaluated; add it to eval.metrics",
                       name);
}

static ebb_status_t build_measures(ebb_run_t *run)
{
    const ebb_run_config_t *c = run->config;
    ebb_status_t status =
        ebb_metrics_create(c->metrics, ebb_model_loss(run->model), ebb_model_outputs(run->model), &run->metrics);
    if (status != EBB_OK)
        return ebb_error_prefix("%s: eval.metrics: ", ebb_yaml_where(&c->yaml, "eval.metrics"));
    status = check_early_metric(run);
    if (status == EBB_OK)
        status = ebb_run_config_class_weights(c, run->info, &run->class_weights);
    return status == EBB_OK ? EBB_OK : ebb_yaml_locate_error(&c->yaml, "train");
}

static ebb_status_t build_loader(ebb_run_t *run)
{
    const ebb_run_config_t *c = run->config;
    int rank = ebb_comm_rank(run->comm), ranks = ebb_comm_size(run->comm);
    run->order = (ebb_order_t){.lanes = (int32_t)c->lanes,
                               .batch = c->batch,
                               .block_rows = c->block_rows,
                               .window_blocks = (int32_t)c->window_blocks,
                               .seed = (uint64_t)c->seed,
                               .shuffle = c->shuffle};
    EBB_TRY(ebb_order_init(&run->order, run->info));
    run->lane0 = ebb_lane_first(run->order.lanes, rank, ranks);
    run->lane1 = ebb_lane_first(run->order.lanes, rank + 1, ranks);
    int32_t n = run->lane1 - run->lane0, *lanes;
    EBB_TRY(EBB_NEW_ARRAY("lanes", n, &lanes));
    for (int32_t i = 0; i < n; i++)
        lanes[i] = run->lane0 + i;
    ebb_loader_options_t options = {.order = run->order,
                                    .lanes = lanes,
                                    .n_lanes = n,
                                    .threads = (int)c->loader_threads,
                                    .memory_bytes = c->memory_bytes,
                                    .depth = (int)c->depth,
                                    .skip_corrupt = c->on_corrupt == 1};
    const ebb_backend_t *backend = run->workers.backend;
    if (!(backend->ops->caps & EBB_CAP_HOST_MEMORY)) {
        options.alloc = backend->ops->host_alloc;
        options.free = backend->ops->host_free;
        options.alloc_user = backend->dev;
    }
    ebb_run_config_transform(c, &options.transform);
    ebb_status_t status = ebb_loader_create(run->data, &options, &run->loader);
    ebb_free(lanes);
    return status;
}

/* Steps in all, and the schedule that depends on them. */
static void plan_steps(ebb_run_t *run)
{
    const ebb_run_config_t *c = run->config;
    run->epoch_steps = ebb_order_steps(&run->order);
    if (__builtin_mul_overflow(run->epoch_steps, c->epochs, &run->total_steps))
        run->total_steps = INT64_MAX;
    if (c->max_steps > 0 && c->max_steps < run->total_steps)
        run->total_steps = c->max_steps;
    run->optim_options = c->optim;
    run->optim_options.schedule.total_steps = run->total_steps;
    double warmup = c->warmup_steps < 1 ? c->warmup_steps * (double)run->total_steps : c->warmup_steps;
    run->optim_options.schedule.warmup_steps = (int64_t)llround(warmup);
}

/* Rows of the largest piece that a pass handles at once. */
static int64_t piece_rows(const ebb_run_t *run)
{
    int64_t most = 0;
    for (int32_t lane = run->lane0; lane < run->lane1; lane++) {
        int64_t share = ebb_order_lane_share(&run->order, lane);
        most = share > most ? share : most;
    }
    int64_t pieces = run->config->accumulate;
    return (most + pieces - 1) / pieces;
}

/* Of this rank, at most. */
static int64_t batch_rows(const ebb_run_t *run)
{
    int64_t rows = 0;
    for (int32_t lane = run->lane0; lane < run->lane1; lane++)
        rows += ebb_order_lane_share(&run->order, lane);
    return rows;
}

/* Of all lanes, so that none waits until another's are read. */
static ebb_status_t make_losses(ebb_run_t *run)
{
    int64_t rows = batch_rows(run);
    EBB_TRY(
        ebb_pinned_make(run->workers.backend, "row losses", (size_t)(2 * rows) * sizeof *run->row_loss, &run->losses));
    run->row_loss = run->losses.ptr;
    run->row_weight = run->row_loss + rows;
    return EBB_OK;
}

/* The lanes of a full step have one or two numbers of rows; try them out where passes over the gradients cost time. */
static ebb_status_t find_whole_rows(ebb_run_t *run)
{
    if (run->config->accumulate > 1 || run->info->sparse || run->layout->dense_floats < WHOLE_FLOATS)
        return EBB_OK;
    int64_t few = run->order.batch / run->order.lanes, more = few + (run->order.batch % run->order.lanes > 0);
    for (int64_t rows = few; rows <= more; rows++) {
        bool whole;
        EBB_TRY(ebb_model_adds_whole(run->model, run->workers.backend, run->info->cols, rows, &whole));
        run->whole_rows[rows - few] = whole ? rows : 0;
    }
    return EBB_OK;
}

static ebb_status_t init_local(ebb_run_t *run)
{
    EBB_TRY(open_data(run));
    EBB_TRY(ebb_workers_init(&run->workers, run->comm, run->config->backend, (ebb_precision_t)run->config->precision,
                             (int)run->config->threads));
    EBB_TRY(build_model(run));
    EBB_TRY(build_measures(run));
    EBB_TRY(build_loader(run));
    EBB_TRY(ebb_ahead_create(&run->workers, run->info, run->loader, &run->ahead));
    plan_steps(run);
    EBB_TRY(find_whole_rows(run));
    EBB_TRY(ebb_stage_classes(&run->workers, run->class_weights, run->info->classes, &run->device_class_weights));
    EBB_TRY(make_losses(run));
    if (!run->info->sparse && run->losses.pinned && ebb_model_is_steady(run->model))
        EBB_TRY(ebb_workers_replay(&run->workers));
    EBB_TRY(ebb_sweep_init(&run->sweep, run->workers.backend, run->layout));
    return EBB_NEW_ARRAY("step sums", run->workers.threads + 1, &run->words);
}

/* Whether lanes may run in step, so that losses are known, and buckets of the gradient exchanged, while others are
 * computed. */
static bool may_overlap(const ebb_run_t *run)
{
    const char *text = getenv("EBB_OVERLAP");
    return run->ahead && run->config->sync == EBB_SYNC_CANONICAL && run->config->accumulate == 1 &&
           !(text && strcmp(text, "0") == 0);
}

/* Whether a device has room for what steps and evaluation will take; a sixteenth is left for what else it does. */
static ebb_status_t check_room_to_come(const ebb_run_t *run, int64_t rows)
{
    const ebb_workers_t *w = &run->workers;
    ebb_device_info_t info;
    int64_t need = ebb_sync_step_bytes(run->sync);
    if (run->valid && rows < EBB_SCAN_BLOCK)
        need += w->threads * ebb_model_workspace_bytes(run->model, EBB_SCAN_BLOCK);
    EBB_TRY(w->backend->ops->device_info(w->backend->dev, &info));
    if (need <= info.spare_bytes / 16 * 15)
        return EBB_OK;
    return EBB_FAIL(EBB_ENOMEM, "activations of all lanes leave %lld of the %lld MiB that steps take",
                    (long long)info.spare_bytes >> 20, (long long)need >> 20);
}

/* Where there is no room for all lanes at once, they come one after another. */
static ebb_status_t make_room_for_lanes(ebb_run_t *run, int64_t rows, int32_t lanes)
{
    ebb_status_t status = ebb_workers_fit_lanes(&run->workers, run->model, rows, lanes);
    if (status == EBB_OK)
        status = check_room_to_come(run, rows);
    if (status == EBB_ENOMEM) {
        ebb_workers_free_lanes(&run->workers);
        EBB_INFO("train", "sums and updates follow the backward pass: %s", ebb_error()->message);
        ebb_error_clear();
        return EBB_OK;
    }
    EBB_TRY(status);
    run->buckets = ebb_comm_size(run->comm) > 1 ? ebb_layout_buckets(run->layout) : 1;
    return run->buckets > 1 ? ebb_sync_use_buckets(run->sync) : EBB_OK;
}

/* Buffers of batches and passes; where a device has no room for them, what would fit. */
static ebb_status_t make_room(ebb_run_t *run)
{
    ebb_workers_t *w = &run->workers;
    int64_t accumulate = run->config->accumulate;
    ebb_device_need_t need = {.model = run->model,
                              .ahead = run->ahead,
                              .threads = w->threads,
                              .lanes = run->lane1 - run->lane0,
                              .rows = piece_rows(run),
                              .gradients = ebb_sync_step_bytes(run->sync)};
    need.pieces = need.lanes * accumulate;
    need.batch_row = run->order.lanes * accumulate;
    ebb_status_t status = ebb_ahead_reserve(run->ahead, batch_rows(run), need.lanes);
    if (status == EBB_OK)
        status = ebb_workers_fit(w, run->model, need.rows);
    if (status == EBB_OK && may_overlap(run))
        status = make_room_for_lanes(run, need.rows, need.lanes);
    if (status != EBB_ENOMEM || w->backend->ops->caps & EBB_CAP_HOST_MEMORY)
        return status;
    ebb_ahead_empty(run->ahead);
    return ebb_devices_too_small(w->backend, &need);
}

static ebb_status_t too_many_ranks(const ebb_run_config_t *config, int ranks)
{
    return EBB_FAIL(EBB_EUSAGE, "%d ranks are more than the run's %lld lanes; start at most %lld ranks, or raise lanes",
                    ranks, (long long)config->lanes, (long long)config->lanes);
}

ebb_status_t ebb_run_init(ebb_run_t *run, ebb_comm_t *comm, const ebb_run_config_t *config,
                          const ebb_observer_t *observer)
{
    static const ebb_observer_t nobody;
    memset(run, 0, sizeof *run);
    run->comm = comm;
    run->config = config;
    run->observer = observer ? observer : &nobody;
    run->progress.best = NAN;
    run->progress.rate = 1;
    run->grad_norm = NAN;
    run->saved_step = -1;
    int ranks = ebb_comm_size(comm);
    EBB_TRY(ebb_comm_agree(comm, ranks > config->lanes ? too_many_ranks(config, ranks) : init_local(run)));
    ebb_workers_t *w = &run->workers;
    EBB_TRY(ebb_devices_open(&run->devices, comm, w->backend, config->sync == EBB_SYNC_CANONICAL,
                             (ebb_wire_choice_t)config->wire, config->watchdog));
    EBB_TRY(ebb_sync_create(comm, w->backend, w->pool, w->side, run->layout, run->order.lanes,
                            (ebb_sync_mode_t)config->sync, (ebb_rows_mode_t)config->rows, &run->sync));
    if (run->devices.wire)
        ebb_sync_use_wire(run->sync, run->devices.wire);
    int owner, owners;
    ebb_sync_place(run->sync, &owner, &owners);
    EBB_TRY(ebb_comm_agree(comm, ebb_optim_create(&run->optim_options, w->backend, w->pool, w->side, run->layout, owner,
                                                  owners, &run->optim)));
    /* A run that saves by time alone may well end before it does, and then needs no snapshot. */
    const ebb_layout_t *soon = config->checkpoint_steps > 0 ? run->layout : NULL;
    EBB_TRY(ebb_comm_agree(comm, ebb_saver_create(comm, soon, ebb_optim_state_count(run->optim), &run->saver)));
    run->start_ns = run->last_save_ns = ebb_now_ns();
    return ebb_comm_agree(comm, make_room(run));
}

void ebb_run_cleanup(ebb_run_t *run)
{
    ebb_saver_destroy(run->saver);
    ebb_optim_destroy(run->optim);
    ebb_sync_destroy(run->sync);
    ebb_devices_close(&run->devices);
    ebb_ahead_destroy(run->ahead);
    ebb_loader_destroy(run->loader);
    ebb_metrics_destroy(run->metrics);
    if (run->have_weights)
        ebb_weights_destroy(run->workers.backend, run->layout, &run->weights);
    if (run->workers.backend) {
        ebb_pinned_free(run->workers.backend, &run->losses);
        ebb_sweep_cleanup(&run->sweep, run->workers.backend);
    }
    ebb_workers_cleanup(&run->workers);
    ebb_model_destroy(run->model);
    ebb_free(run->class_weights);
    ebb_free(run->words);
    ebb_dataset_close(run->valid);
    ebb_dataset_close(run->data);
}

static json_t *devices_of(const ebb_devices_t *d)
{
    json_t *list = json_array();
    for (int r = 0; r < d->ranks; r++)
        json_array_append_new(list, json_string(d->told[r]));
    return list;
}

char *ebb_run_facts(const ebb_run_t *run)
{
    char device[256] = "", layers[4096] = "";
    int states = ebb_optim_state_count(run->optim);
    const ebb_backend_t *backend = run->workers.backend;
    int64_t floats = ebb_layout_floats(run->layout), weight_bytes = floats * (int64_t)sizeof(float),
            state_bytes = weight_bytes * states;
    if (backend->ops->describe(backend->dev, device, sizeof device) != EBB_OK ||
        ebb_model_describe(run->model, layers, sizeof layers) != EBB_OK)
        ebb_error_clear();
    json_t *facts = json_pack(
        "{s:{s:s, s:s, s:I, s:I, s:I, s:I, s:b}, s:s, s:I, s:I, s:I, s:I, s:I, s:i, s:i, s:s, s:s, s:I, s:I, "
        "s:{s:I, s:I, s:I}}", //
        "data", "name", run->info->name, "hash", run->info->hash, "rows", (json_int_t)run->info->rows, "cols",
        (json_int_t)run->info->cols, "nnz", (json_int_t)run->info->nnz, "classes", (json_int_t)run->info->classes,
        "sparse", (int)run->info->sparse, //
        "model", layers, "parameters", (json_int_t)floats, "lanes", (json_int_t)run->order.lanes, "batch",
        (json_int_t)run->order.batch, "block_rows", (json_int_t)run->order.block_rows, "window_blocks",
        (json_int_t)run->order.window_blocks, "ranks", ebb_comm_size(run->comm), "threads", run->workers.threads,
        "backend", backend->ops->name, "device", device, "epoch_steps", (json_int_t)run->epoch_steps, "total_steps",
        (json_int_t)run->total_steps, "memory", "weights", (json_int_t)weight_bytes, "state", (json_int_t)state_bytes,
        "snapshot", (json_int_t)ebb_saver_bytes(run->layout, states));
    if (facts && run->devices.told)
        json_object_set_new(facts, "devices", devices_of(&run->devices));
    if (facts && run->devices.told) /* of the gradient, each exchanged and updated while the next is computed */
        json_object_set_new(facts, "buckets", json_integer(run->buckets));
    if (facts && run->devices.told)
        json_object_set_new(facts, "wire", json_string(run->devices.wire ? run->devices.wire->ops->name : "mpi"));
    char *text = facts ? ebb_json_dump(facts) : NULL;
    json_decref(facts);
    return text;
}
