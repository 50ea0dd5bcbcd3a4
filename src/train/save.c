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
    json_t *json = json_pack("{s:s, s:o, s:o, s:o, s:I, s:b, s:f}", "epoch_order", order, "epoch_loss",
                             exact_to_json(&p->epoch_loss), "epoch_weight", exact_to_json(&p->epoch_weight), "best",
                             isnan(p->best) ? json_null() : json_real(p->best), "since_best", (json_int_t)p->since_best,
                             "ended_early", (int)p->ended_early, "rate", p->rate);
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
    const json_t *rate = json_object_get(json, "rate");
    p->rate = json_is_number(rate) ? json_number_value(rate) : 1;
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

/* A model, a checkpoint that is waited for anyway or that does not fit into memory beside the run: written while all
 * wait. */
static ebb_status_t save_now(ebb_run_t *run, const char *path, bool with_optim, const char *weights_sha256,
                             ebb_checkpoint_meta_t *meta)
{
    ebb_checkpoint_state_t state = ebb_run_state(run, with_optim);
    state.weights_sha256 = weights_sha256;
    return ebb_checkpoint_save(&state, path, meta);
}

static void note_saved(ebb_run_t *run, const ebb_saved_t *saved)
{
    if (run->failed_saves > 0 && ebb_comm_rank(run->comm) == 0)
        EBB_WARN("train", "checkpoints are written again: step %lld", (long long)saved->step);
    run->failed_saves = 0;
    run->saved_step = saved->step;
    memcpy(run->weights_sha256, saved->weights_sha256, sizeof run->weights_sha256);
    memcpy(run->optimizer_sha256, saved->optimizer_sha256, sizeof run->optimizer_sha256);
    if (run->observer->checkpoint)
        run->observer->checkpoint(run->observer->user, saved, NULL);
}

bool ebb_run_may_pass(ebb_status_t status)
{
    return status == EBB_EIO || status == EBB_ENOSPC || status == EBB_ENOINPUT || status == EBB_ENOMEM;
}

static ebb_status_t not_saved(ebb_run_t *run, ebb_status_t status, const ebb_saved_t *saved, bool last)
{
    char newest[64] = "there is none before it";
    if (run->saved_step >= 0)
        snprintf(newest, sizeof newest, "the newest is of step %lld", (long long)run->saved_step);
    if (!ebb_run_may_pass(status))
        return status;
    ebb_error_prefix("no checkpoint of step %lld (%s): ", (long long)saved->step, newest);
    if (last)
        return status;
    int64_t failures = ++run->failed_saves;
    if (ebb_comm_rank(run->comm) == 0 && (failures & (failures - 1)) == 0) /* the 1st, 2nd, 4th, ... in a row */
        EBB_WARN("train", "%s; training goes on and tries again at the next one", ebb_error()->message);
    if (run->observer->checkpoint)
        run->observer->checkpoint(run->observer->user, saved, ebb_error()->message);
    ebb_error_clear();
    return EBB_OK;
}

ebb_status_t ebb_run_saved(ebb_run_t *run, bool last)
{
    ebb_saved_t saved;
    if (!ebb_saver_pending(run->saver))
        return EBB_OK;
    ebb_pulse_stage("writing a checkpoint");
    ebb_status_t status = ebb_saver_end(run->saver, &saved);
    if (status != EBB_OK)
        return not_saved(run, status, &saved, last);
    note_saved(run, &saved);
    return EBB_OK;
}

ebb_status_t ebb_run_go_on_saving(ebb_run_t *run)
{
    bool over;
    EBB_TRY(ebb_saver_go_on(run->saver, &over));
    return over ? ebb_run_saved(run, false) : EBB_OK;
}

static void tell_no_room(ebb_run_t *run)
{
    if (ebb_comm_rank(run->comm) == 0 && !run->told_no_room)
        EBB_WARN("train", "%s: training waits while checkpoints are written", ebb_error()->message);
    run->told_no_room = true;
    ebb_error_clear();
}

/* Without a snapshot. */
static ebb_status_t save_in_place(ebb_run_t *run, const char *path, ebb_checkpoint_meta_t *meta, bool last)
{
    char folder[PATH_MAX];
    ebb_saved_t saved = {.step = run->step};
    int64_t start = ebb_now_ns();
    bool first = ebb_comm_rank(run->comm) == 0;
    snprintf(saved.path, sizeof saved.path, "%s", path);
    snprintf(folder, sizeof folder, "%s/checkpoints", run->config->dir);
    ebb_status_t status = ebb_comm_agree(run->comm, first ? ebb_file_mkdirs(folder) : EBB_OK);
    if (status == EBB_OK)
        status = save_now(run, path, true, NULL, meta);
    if (status == EBB_OK)
        status =
            ebb_comm_agree(run->comm, first ? ebb_checkpoint_prune(folder, (int)run->config->checkpoint_keep) : EBB_OK);
    if (status != EBB_OK)
        return not_saved(run, status, &saved, last);
    saved.wait_seconds = saved.write_seconds = (double)(ebb_now_ns() - start) * 1e-9;
    memcpy(saved.weights_sha256, meta->weights_sha256, sizeof saved.weights_sha256);
    memcpy(saved.optimizer_sha256, meta->optimizer_sha256, sizeof saved.optimizer_sha256);
    note_saved(run, &saved);
    return EBB_OK;
}

static ebb_status_t begin_save(ebb_run_t *run, bool wait)
{
    char folder[PATH_MAX], path[PATH_MAX];
    ebb_checkpoint_meta_t meta;
    ebb_checkpoint_state_t state = ebb_run_state(run, true);
    snprintf(folder, sizeof folder, "%s/checkpoints", run->config->dir);
    EBB_TRY(ebb_checkpoint_path(folder, run->step, path, sizeof path));
    ebb_pulse_step(run->step);
    ebb_pulse_stage("writing a checkpoint");
    EBB_TRY(ebb_finite_weights(run));
    ebb_status_t status = ebb_comm_agree(run->comm, fill_meta(run, &meta));
    if (status == EBB_OK && wait && ebb_checkpoint_in_place(&state)) {
        status = save_in_place(run, path, &meta, wait);
    } else if (status == EBB_OK) {
        status = ebb_saver_begin(run->saver, &state, path, (int)run->config->checkpoint_keep, &meta);
        if (status == EBB_ENOMEM) {
            tell_no_room(run);
            status = save_in_place(run, path, &meta, wait);
        }
    }
    ebb_checkpoint_meta_free(&meta);
    run->last_save_ns = ebb_now_ns();
    return status;
}

ebb_status_t ebb_run_save(ebb_run_t *run, bool wait)
{
    EBB_TRY(ebb_run_saved(run, false));
    if (run->saved_step != run->step)
        EBB_TRY(begin_save(run, wait));
    return wait ? ebb_run_saved(run, true) : EBB_OK;
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
    ebb_optim_set_rate(run->optim, run->progress.rate);
    ebb_checkpoint_meta_free(&meta);
    return ebb_comm_agree(run->comm, status);
}

ebb_status_t ebb_run_save_model(ebb_run_t *run, const char *path, const char *weights_sha256)
{
    ebb_checkpoint_meta_t meta;
    bool first = ebb_comm_rank(run->comm) == 0;
    ebb_pulse_step(run->step);
    ebb_pulse_stage("writing the model");
    EBB_TRY(ebb_comm_agree(run->comm, first ? ebb_file_mkdirs(run->config->dir) : EBB_OK));
    if (!weights_sha256) /* else a checkpoint of these weights was written already */
        EBB_TRY(ebb_finite_weights(run));
    ebb_status_t status = ebb_comm_agree(run->comm, fill_meta(run, &meta));
    if (status == EBB_OK)
        status = save_now(run, path, false, weights_sha256, &meta);
    ebb_checkpoint_meta_free(&meta);
    return status;
}

ebb_status_t ebb_run_load_model(ebb_run_t *run, const char *path)
{
    ebb_checkpoint_meta_t meta = {0};
    ebb_checkpoint_state_t state = ebb_run_state(run, false);
    ebb_status_t status = ebb_checkpoint_load(&state, path, &meta);
    ebb_checkpoint_meta_free(&meta);
    return status;
}
