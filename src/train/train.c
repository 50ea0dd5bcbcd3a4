/* The run from its first to its last step: steps, epochs' ends, evaluation, early stopping, checkpoints. */
#include <ebb/train.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/pulse.h"
#include "train/run.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROLLBACKS_MOST = 10 };

static void report_step(ebb_run_t *run, const ebb_step_words_t *words)
{
    if (!run->observer->step)
        return;
    ebb_loader_stats_t stats;
    ebb_loader_stats(run->loader, &stats);
    int64_t epoch_step = (run->step - 1) % run->epoch_steps + 1;
    double weight = ebb_exact_value(&words->weight);
    ebb_step_report_t report = {
        .epoch = (run->step - 1) / run->epoch_steps,
        .epochs = run->config->epochs,
        .step = run->step,
        .steps = run->total_steps,
        .epoch_step = epoch_step,
        .epoch_steps = run->epoch_steps,
        .loss = weight > 0 ? ebb_exact_value(&words->loss) / weight : 0,
        .lr = run->lr,
        .grad_norm = run->grad_norm,
        .rows = words->rows,
        .rows_done = run->rows_done,
        .seconds = (double)(ebb_now_ns() - run->start_ns) * 1e-9,
        .stall_seconds = (double)stats.stall_ns * 1e-9,
        .sync_seconds = (double)run->sync_ns * 1e-9,
    };
    run->observer->step(run->observer->user, &report);
}

/* ---- evaluation ---- */

typedef struct evaluation {
    int n;
    ebb_metric_value_t value[16];
} evaluation_t;

static ebb_status_t evaluate(ebb_run_t *run, evaluation_t *e)
{
    ebb_scan_t scan = {.workers = &run->workers, .model = run->model, .weights = &run->weights, .data = run->valid};
    ebb_run_config_transform(run->config, &scan.transform);
    ebb_pulse_stage("evaluating");
    EBB_TRY(ebb_scan_evaluate(run->comm, &scan, run->metrics));
    e->n = ebb_metrics_count(run->metrics);
    e->n = e->n < 16 ? e->n : 16;
    for (int i = 0; i < e->n; i++)
        e->value[i].name = ebb_metrics_get(run->metrics, i, &e->value[i].value, &e->value[i].more_is_better);
    return EBB_OK;
}

/* The metric that tells which weights are best: early stopping's, else the first. */
static const ebb_metric_value_t *watched(const ebb_run_t *run, const evaluation_t *e)
{
    const char *name = run->config->early_metric;
    for (int i = 0; name && i < e->n; i++)
        if (strcmp(e->value[i].name, name) == 0)
            return &e->value[i];
    return &e->value[0];
}

static bool is_better(const ebb_metric_value_t *m, double best, double min_delta)
{
    if (isnan(m->value))
        return false;
    return isnan(best) || (m->more_is_better ? m->value > best + min_delta : m->value < best - min_delta);
}

/* Keep the best weights in best.h5; note when patience is at an end. */
static ebb_status_t judge(ebb_run_t *run, const evaluation_t *e, bool *best_p)
{
    const ebb_metric_value_t *m = watched(run, e);
    char path[PATH_MAX];
    *best_p = is_better(m, run->progress.best, run->config->early_min_delta);
    if (!*best_p) {
        run->progress.since_best++;
        run->progress.ended_early =
            run->config->early_metric && run->progress.since_best >= run->config->early_patience;
        return EBB_OK;
    }
    run->progress.best = m->value;
    run->progress.since_best = 0;
    snprintf(path, sizeof path, "%s/best.h5", run->config->dir);
    ebb_status_t status = ebb_run_save_model(run, path, NULL);
    if (run->config->early_metric || !ebb_run_may_pass(status)) /* early stopping ends with these weights */
        return status;
    if (ebb_comm_rank(run->comm) == 0)
        EBB_WARN("train", "the best weights so far were not saved: %s; training goes on", ebb_error()->message);
    ebb_error_clear();
    return EBB_OK;
}

static ebb_status_t end_epoch(ebb_run_t *run, evaluation_t *e)
{
    ebb_epoch_report_t report = {.epoch = (run->step - 1) / run->epoch_steps,
                                 .step = run->step,
                                 .seconds = (double)(ebb_now_ns() - run->start_ns) * 1e-9};
    double weight = ebb_exact_value(&run->progress.epoch_weight);
    report.train_loss = weight > 0 ? ebb_exact_value(&run->progress.epoch_loss) / weight : 0;
    snprintf(report.order_hash, sizeof report.order_hash, "%016llx", (unsigned long long)run->progress.epoch_order);
    bool due = (report.epoch + 1) % run->config->eval_every == 0 || run->step == run->total_steps;
    if (run->valid && due) {
        EBB_TRY(evaluate(run, e));
        EBB_TRY(judge(run, e, &report.best));
        report.n_metrics = e->n;
        report.metrics = e->value;
    }
    if (run->observer->epoch)
        run->observer->epoch(run->observer->user, &report);
    memset(&run->progress.epoch_loss, 0, sizeof run->progress.epoch_loss);
    memset(&run->progress.epoch_weight, 0, sizeof run->progress.epoch_weight);
    run->progress.epoch_order = 0;
    return EBB_OK;
}

/* ---- the loop ---- */

/* By time. While one is being written none falls due; one that falls due by steps waits for it. */
static bool save_due(const ebb_run_t *run)
{
    double minutes = (double)(ebb_now_ns() - run->last_save_ns) * 1e-9 / 60.0;
    return run->config->checkpoint_minutes > 0 && minutes >= run->config->checkpoint_minutes &&
           !ebb_saver_pending(run->saver);
}

static void note_step(ebb_run_t *run, const ebb_step_words_t *words)
{
    run->step++;
    ebb_exact_merge(&run->progress.epoch_loss, &words->loss);
    ebb_exact_merge(&run->progress.epoch_weight, &words->weight);
    ebb_exact_normalize(&run->progress.epoch_loss);
    ebb_exact_normalize(&run->progress.epoch_weight);
    run->progress.epoch_order += (uint64_t)words->order_low + ((uint64_t)words->order_high << 32);
    report_step(run, words);
}

/* The loader says EBB_END once between epochs; the next acquire begins the next one. */
static ebb_status_t next_step(ebb_run_t *run, bool want_save, const ebb_step_words_t **words_p)
{
    ebb_pulse_steady(true);
    ebb_status_t status = ebb_run_step(run, want_save, words_p);
    if (status == EBB_END)
        status = ebb_run_step(run, want_save, words_p);
    ebb_pulse_steady(false);
    return status;
}

/* All ranks come here together; agreeing lets one of them tell. */
static ebb_status_t stopped(const ebb_run_t *run)
{
    return ebb_comm_agree(run->comm,
                          EBB_FAIL(EBB_ESTOPPED, "stopped after step %lld of %lld; go on with: ebb train --resume %s",
                                   (long long)run->step, (long long)run->total_steps, run->config->dir));
}

static ebb_status_t loop(ebb_run_t *run, evaluation_t *e)
{
    while (run->step < run->total_steps && !run->progress.ended_early) {
        const ebb_step_words_t *words;
        bool want_save = ebb_comm_rank(run->comm) == 0 && save_due(run);
        EBB_TRY(next_step(run, want_save, &words));
        note_step(run, words);
        bool every = run->config->checkpoint_steps > 0 && run->step % run->config->checkpoint_steps == 0;
        bool stop = words->stop > 0, save = every || words->save > 0 || stop;
        bool saved = words->saved > 0 && words->saved == ebb_saver_voices(run->saver);
        bool ends = run->step % run->epoch_steps == 0 || run->step == run->total_steps;
        if (ends || saved || save) /* what ranks do now is no part of a step */
            EBB_TRY(ebb_run_settle(run));
        if (ends)
            EBB_TRY(end_epoch(run, e));
        if (saved)
            EBB_TRY(ebb_run_go_on_saving(run));
        if (save)
            EBB_TRY(ebb_run_save(run, stop));
        if (stop && run->step < run->total_steps && !run->progress.ended_early)
            return stopped(run);
    }
    return EBB_OK;
}

/* ---- the end ---- */

/* A chunk whose rows are in lanes of several ranks is named once. */
static void add_skipped(ebb_train_result_t *result, const ebb_loader_fault_t *fault)
{
    int k = 0, most = sizeof result->skipped / sizeof *result->skipped;
    while (k < result->n_skipped && strcmp(result->skipped[k].reason, fault->message) != 0)
        k++;
    if (k == most)
        return;
    ebb_skipped_t *s = &result->skipped[k];
    if (k == result->n_skipped) {
        result->n_skipped++;
        *s = (ebb_skipped_t){.row = fault->row0, .rows = fault->rows};
        memcpy(s->reason, fault->message, sizeof s->reason);
    }
    int64_t end = s->row + s->rows, fault_end = fault->row0 + fault->rows;
    s->row = fault->row0 < s->row ? fault->row0 : s->row;
    s->rows = (fault_end > end ? fault_end : end) - s->row;
}

static int by_row(const void *a, const void *b)
{
    int64_t x = ((const ebb_skipped_t *)a)->row, y = ((const ebb_skipped_t *)b)->row;
    return x < y ? -1 : x > y;
}

/* What each rank has left out, told to all. */
static ebb_status_t collect_skipped(ebb_run_t *run, ebb_train_result_t *result)
{
    enum { MOST = sizeof result->skipped / sizeof *result->skipped };
    int ranks = ebb_comm_size(run->comm);
    ebb_loader_stats_t stats;
    ebb_loader_fault_t *mine, *all;
    ebb_loader_stats(run->loader, &stats);
    result->rows_skipped = stats.rows_skipped;
    EBB_TRY(ebb_comm_allreduce(run->comm, &result->rows_skipped, 1, EBB_COMM_I64, EBB_SUM));
    if (result->rows_skipped == 0)
        return EBB_OK;
    ebb_status_t status = EBB_NEW_ARRAY("skipped rows", (int64_t)MOST * (ranks + 1), &mine);
    EBB_TRY(ebb_comm_agree(run->comm, status));
    all = mine + MOST;
    ebb_loader_faults(run->loader, MOST, mine);
    status = ebb_comm_allgather(run->comm, mine, MOST * (int64_t)sizeof *mine, all);
    for (int64_t i = 0; status == EBB_OK && i < (int64_t)MOST * ranks; i++)
        if (all[i].rows > 0)
            add_skipped(result, &all[i]);
    qsort(result->skipped, (size_t)result->n_skipped, sizeof *result->skipped, by_row);
    ebb_free(mine);
    return status;
}

static ebb_status_t finish(ebb_run_t *run, evaluation_t *e, ebb_train_result_t *result)
{
    char best[PATH_MAX];
    if (run->valid && e->n == 0) /* resumed when all steps were done */
        EBB_TRY(evaluate(run, e));
    memcpy(result->weights_sha256, run->weights_sha256, sizeof result->weights_sha256);
    memcpy(result->optimizer_sha256, run->optimizer_sha256, sizeof result->optimizer_sha256);
    snprintf(best, sizeof best, "%s/best.h5", run->config->dir);
    bool other = run->config->early_metric && !isnan(run->progress.best); /* weights than the last checkpoint's */
    if (other)
        EBB_TRY(ebb_run_load_model(run, best));
    snprintf(result->model_path, sizeof result->model_path, "%s/model.h5", run->config->dir);
    EBB_TRY(ebb_run_save_model(run, result->model_path, other ? NULL : run->weights_sha256));
    EBB_TRY(collect_skipped(run, result));
    result->steps = run->step;
    result->epochs = run->step / run->epoch_steps;
    result->seconds = (double)(ebb_now_ns() - run->start_ns) * 1e-9;
    result->n_metrics = e->n;
    for (int i = 0; i < e->n; i++) {
        result->metrics[i] = e->value[i];
        snprintf(result->metric_names[i], sizeof result->metric_names[i], "%s", e->value[i].name);
        result->metrics[i].name = result->metric_names[i];
    }
    return EBB_OK;
}

/* ---- going back from numbers that are not finite ---- */

typedef struct way_back {
    int64_t times;
    ebb_error_t error; /* of the last time */
    int64_t step;      /* steps done when it was met */
    int64_t to_step;   /* of the checkpoint gone back to; -1: none, the run begins anew */
    double rate;
} way_back_t;

static void tell_start(const ebb_run_t *run)
{
    char *facts = ebb_run_facts(run);
    if (run->observer->start && facts)
        run->observer->start(run->observer->user, facts);
    free(facts);
}

/* The run stands where it goes on from; its rate is that of the failure, halved, and is saved at once, so that a run
 * that is killed now goes on in the same way. */
static ebb_status_t begin_rollback(ebb_run_t *run, const way_back_t *back)
{
    ebb_rollback_t report = {
        .step = back->step, .to_step = run->step, .rate = back->rate, .reason = back->error.message};
    run->progress.rate = back->rate;
    ebb_optim_set_rate(run->optim, back->rate);
    if (ebb_comm_rank(run->comm) == 0)
        EBB_WARN("train", "%s; going back to step %lld with %g of the learning rate", back->error.message,
                 (long long)run->step, back->rate);
    if (run->observer->rollback)
        run->observer->rollback(run->observer->user, &report);
    return ebb_run_save(run, true);
}

static ebb_status_t run_it(ebb_run_t *run, bool resume, const way_back_t *back, ebb_train_result_t *result)
{
    evaluation_t e = {0};
    if (back->times > 0 ? back->to_step >= 0 : resume)
        EBB_TRY(ebb_run_restore(run));
    else
        EBB_TRY(ebb_comm_agree(run->comm, ebb_optim_start(run->optim, &run->weights)));
    run->start_ns = run->last_save_ns = ebb_now_ns();
    if (back->times > 0)
        EBB_TRY(begin_rollback(run, back));
    else
        tell_start(run);
    EBB_TRY(loop(run, &e));
    EBB_TRY(ebb_run_save(run, true));
    return finish(run, &e, result);
}

/* After a failure that was agreed upon, find the checkpoint to go back to: the newest, which may be one that is being
 * written; where that led here again, or to a step before, an older one; at last the beginning. */
static bool find_way_back(ebb_run_t *run, way_back_t *back)
{
    char folder[PATH_MAX];
    ebb_saved_t saved;
    if (run->config->on_nonfinite != EBB_NONFINITE_ROLLBACK || back->times == ROLLBACKS_MOST)
        return false;
    ebb_error_t error = *ebb_error();
    ebb_error_clear();
    if (ebb_saver_pending(run->saver) && ebb_saver_end(run->saver, &saved) != EBB_OK)
        ebb_error_clear(); /* what could not be written is not gone back to */
    snprintf(folder, sizeof folder, "%s/checkpoints", run->config->dir);
    bool again = back->times > 0 && run->step <= back->step;
    if (ebb_checkpoint_rewind(run->comm, folder, again ? back->to_step : INT64_MAX, &back->to_step) != EBB_OK) {
        back->to_step = -1;
        ebb_error_clear();
    }
    *back = (way_back_t){.times = back->times + 1,
                         .error = error,
                         .step = run->step,
                         .to_step = back->to_step,
                         .rate = run->progress.rate * 0.5};
    return true;
}

/* After a failure that was agreed upon: what was begun is a good checkpoint. */
static void complete_save(ebb_run_t *run)
{
    ebb_saved_t saved;
    ebb_error_t error = *ebb_error();
    if (!run->saver || !ebb_saver_pending(run->saver))
        return;
    ebb_error_clear();
    if (ebb_saver_end(run->saver, &saved) != EBB_OK && ebb_comm_rank(run->comm) == 0)
        EBB_WARN("checkpoint", "%s", ebb_error()->message);
    ebb_error_clear();
    ebb_error_set(&error);
}

ebb_status_t ebb_train(ebb_comm_t *comm, const ebb_run_config_t *config, bool resume, const ebb_observer_t *observer,
                       ebb_train_result_t *result)
{
    ebb_run_t run;
    way_back_t back = {0};
    bool again;
    memset(result, 0, sizeof *result);
    ebb_pulse_stage("opening data and model");
    ebb_status_t status = ebb_comm_agree(comm, ebb_comm_rank(comm) == 0 ? ebb_file_mkdirs(config->dir) : EBB_OK);
    if (status != EBB_OK)
        return status;
    do {
        status = ebb_run_init(&run, comm, config, observer);
        if (status == EBB_OK)
            status = run_it(&run, resume, &back, result);
        again = status == EBB_ENONFINITE && find_way_back(&run, &back);
        if (status != EBB_OK && status != EBB_EPEER)
            complete_save(&run);
        ebb_run_cleanup(&run);
    } while (again);
    return status;
}
