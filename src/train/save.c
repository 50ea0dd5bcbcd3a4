/* A run's checkpoints and models. */
#include "train/run.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/pulse.h"
#include "train/data_record.h"
#include "train/finite.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

ebb_checkpoint_state_t ebb_run_state(ebb_run_t *run, bool with_optim)
{
    return (ebb_checkpoint_state_t){.comm = run->comm,
                                    .backend = run->workers.backend,
                                    .exec = run->workers.exec[0],
                                    .layout = run->layout,
                                    .weights = &run->weights,
                                    .optim = with_optim ? run->optim : NULL};
}

static json_t *exact_to_json(const ebb_exact_t *sum)
{
    json_t *words = json_array();
    for (int i = 0; i < EBB_EXACT_WORDS; i++)
        json_array_append_new(words, json_integer(sum->word[i]));
    return words;
}

static void exact_from_json(const json_t *words, ebb_exact_t *sum)
{
    for (int i = 0; i < EBB_EXACT_WORDS; i++)
        sum->word[i] = json_integer_value(json_array_get(words, (size_t)i));
}

static char *write_progress(const ebb_run_progress_t *p)
{
    char order[24];
    snprintf(order, sizeof order, "%016llx", (unsigned long long)p->epoch_order);
    json_t *json = json_pack("{s:s, s:o, s:o, s:o, s:I, s:b}", "epoch_order", order, "epoch_loss",
                             exact_to_json(&p->epoch_loss), "epoch_weight", exact_to_json(&p->epoch_weight), "best",
                             isnan(p->best) ? json_null() : json_real(p->best), "since_best", (json_int_t)p->since_best,
                             "ended_early", (int)p->ended_early);
    char *text = json ? ebb_json_dump(json) : NULL;
    json_decref(json);
    return text;
}

static ebb_status_t read_progress(const char *text, ebb_run_progress_t *p)
{
    json_t *json;
    EBB_TRY(ebb_json_parse(text, strlen(text), "the checkpoint's progress", &json));
    const char *order = json_string_value(json_object_get(json, "epoch_order"));
    const json_t *best = json_object_get(json, "best");
    p->epoch_order = order ? strtoull(order, NULL, 16) : 0;
    p->best = json_is_number(best) ? json_number_value(best) : NAN;
    p->since_best = json_integer_value(json_object_get(json, "since_best"));
    p->ended_early = json_is_true(json_object_get(json, "ended_early"));
    exact_from_json(json_object_get(json, "epoch_loss"), &p->epoch_loss);
    exact_from_json(json_object_get(json, "epoch_weight"), &p->epoch_weight);
    json_decref(json);
    return EBB_OK;
}

static ebb_status_t fill_meta(ebb_run_t *run, ebb_checkpoint_meta_t *meta)
{
    *meta = (ebb_checkpoint_meta_t){.step = run->step, .lanes = run->order.lanes};
    ebb_loader_cursor(run->loader, &meta->cursor);
    meta->config = ebb_strdup(run->config->json);
    meta->progress = write_progress(&run->progress);
    meta->dataset = ebb_data_record_write(run->info);
    return meta->config && meta->progress && meta->dataset ? EBB_OK
                                                           : EBB_FAIL(EBB_ENOMEM, "out of memory for a checkpoint");
}

static ebb_status_t save_to(ebb_run_t *run, const char *path, bool with_optim, const char *weights_sha256)
{
    ebb_checkpoint_meta_t meta;
    ebb_checkpoint_state_t state = ebb_run_state(run, with_optim);
    state.weights_sha256 = weights_sha256;
    ebb_pulse_step(run->step);
    ebb_pulse_stage(with_optim ? "writing a checkpoint" : "writing the model");
    if (!weights_sha256) /* else a checkpoint of these weights was written already */
        EBB_TRY(ebb_finite_weights(run));
    ebb_status_t status = ebb_comm_agree(run->comm, fill_meta(run, &meta));
    if (status == EBB_OK)
        status = ebb_checkpoint_save(&state, path, &meta);
    if (status == EBB_OK && with_optim) {
        memcpy(run->weights_sha256, meta.weights_sha256, sizeof run->weights_sha256);
        memcpy(run->optimizer_sha256, meta.optimizer_sha256, sizeof run->optimizer_sha256);
    }
    ebb_checkpoint_meta_free(&meta);
    return status;
}

ebb_status_t ebb_run_save(ebb_run_t *run)
{
    char folder[PATH_MAX], path[PATH_MAX];
    int64_t start = ebb_now_ns();
    bool first = ebb_comm_rank(run->comm) == 0;
    snprintf(folder, sizeof folder, "%s/checkpoints", run->config->dir);
    EBB_TRY(ebb_comm_agree(run->comm, first ? ebb_file_mkdirs(folder) : EBB_OK));
    EBB_TRY(ebb_checkpoint_path(folder, run->step, path, sizeof path));
    EBB_TRY(save_to(run, path, true, NULL));
    EBB_TRY(
        ebb_comm_agree(run->comm, first ? ebb_checkpoint_prune(folder, (int)run->config->checkpoint_keep) : EBB_OK));
    run->last_save_ns = ebb_now_ns();
    if (run->observer->checkpoint)
        run->observer->checkpoint(run->observer->user, run->step, path, (double)(run->last_save_ns - start) * 1e-9);
    return EBB_OK;
}

ebb_status_t ebb_run_restore(ebb_run_t *run)
{
    char folder[PATH_MAX], path[PATH_MAX];
    ebb_checkpoint_meta_t meta = {0};
    ebb_checkpoint_state_t state = ebb_run_state(run, true);
    snprintf(folder, sizeof folder, "%s/checkpoints", run->config->dir);
    ebb_pulse_stage("reading a checkpoint");
    EBB_TRY(ebb_checkpoint_newest(run->comm, folder, path, sizeof path));
    EBB_TRY(ebb_checkpoint_load(&state, path, &meta));
    run->step = meta.step;
    ebb_status_t status = EBB_OK;
    if (meta.lanes != run->order.lanes)
        status = EBB_FAIL(EBB_EDATA, "%s: was made with %d lanes, the run has %d", path, meta.lanes, run->order.lanes);
    if (status == EBB_OK)
        status = read_progress(meta.progress, &run->progress);
    if (status == EBB_OK)
        status = ebb_loader_restore(run->loader, &meta.cursor);
    ebb_checkpoint_meta_free(&meta);
    return ebb_comm_agree(run->comm, status);
}

ebb_status_t ebb_run_save_model(ebb_run_t *run, const char *path, const char *weights_sha256)
{
    return save_to(run, path, false, weights_sha256);
}

ebb_status_t ebb_run_load_model(ebb_run_t *run, const char *path)
{
    ebb_checkpoint_meta_t meta = {0};
    ebb_checkpoint_state_t state = ebb_run_state(run, false);
    ebb_status_t status = ebb_checkpoint_load(&state, path, &meta);
    ebb_checkpoint_meta_free(&meta);
    return status;
}
