/* One optimiser step: lanes compute, their gradients are summed along the canonical tree, owners update, all gather.
 *
 * A lane's numbers depend on its rows alone: which thread or rank computes it changes nothing. Losses, weights and the
 * order hash are added exactly (as integers), in one small all-reduce that also carries failures and requests to stop,
 * so that all ranks take the same turn.
 *
 * A device is given a whole step's lanes at once, and then waited for once: each context's rows have their losses in
 * one array for the batch, whose weight the update needs and whose sums all ranks agree on. Sums and updates are only
 * given to it; they run while the host turns to the next batch. Beyond this the host waits
 *  - once a step and table of row-sparse gradients, for the number of rows of the lanes' sum; with train.accumulate
 *    for that of each lane's pieces; and for a lane's own, where memory for as many as it can have would be much;
 *  - with train.clip_norm, for the gradient's norm;
 *  - with several ranks, where a wire takes over what the device made. */
#include "train/finite.h"
#include "train/stage.h"
#include "base/clock.h"
#include "base/pulse.h"
#include "base/rng.h"
#include "base/signals.h"

#include <math.h>
#include <string.h>

volatile int ebb_run_stop_asked;

void ebb_train_stop(void)
{
    ebb_run_stop_asked = 1;
    ebb_pulse_leave();
}

/* b: the batch, or its copy on the device. */
static ebb_input_t input_rows(const ebb_run_t *run, const ebb_batch_t *b, int64_t first, int64_t n)
{
    const int64_t *rowptr = run->batch->rowptr;
    if (!run->info->sparse)
        return (ebb_input_t){.rows = n, .x = b->x + first * run->info->cols};
    return (ebb_input_t){.rows = n,
                         .sparse = true,
                         .csr = {.rows = n,
                                 .cols = run->info->cols,
                                 .rowptr = b->rowptr + first,
                                 .col = b->col,
                                 .val = b->val,
                                 .nnz = rowptr[first + n] - rowptr[first]}};
}

/* Row of x that a lane's row `offset`, row `first` of the batch, is where passes read it. */
static int64_t row_of(const ebb_run_t *run, int32_t lane, int64_t first, int64_t offset)
{
    return run->device_batch && !run->info->sparse ? run->device_batch->lanes[lane - run->lane0].first + offset : first;
}

/* Threads come with lanes in any order; the least one stays. */
static void note_bad_lane(ebb_run_t *run, int64_t lane)
{
    int64_t least = __atomic_load_n(&run->bad_lane, __ATOMIC_RELAXED);
    while (lane < least)
        if (__atomic_compare_exchange_n(&run->bad_lane, &least, lane, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            break;
}

/* Passes over a piece of a lane. */
typedef struct passes {
    ebb_run_t *run;
    const ebb_worker_t *me;
    const ebb_piece_t *piece;
    const ebb_pass_t *pass;
    int64_t first; /* row of the batch */
    ebb_grads_t *grads;
} passes_t;

static ebb_status_t give_passes(void *user)
{
    const passes_t *p = user;
    ebb_run_t *run = p->run;
    const ebb_loss_t *loss = ebb_model_loss(run->model);
    EBB_TRY(ebb_model_forward(run->model, p->pass, &p->piece->in, p->me->out));
    EBB_TRY(p->pass->ops->loss(p->pass->exec, loss->kind, loss->huber_delta, p->piece->in.rows,
                               ebb_model_outputs(run->model), p->me->out, p->piece->label, p->piece->y,
                               p->piece->weight, run->device_class_weights, run->row_loss + p->first,
                               run->row_weight + p->first, p->me->dout));
    ebb_pulse_tick();
    return ebb_model_backward(run->model, p->pass, &p->piece->in, p->me->dout, p->grads);
}

/* Forward, loss and backward pass of n rows from batch row `first`; offset: of the first within its lane. Waits for
 * nothing. */
static ebb_status_t compute_piece(ebb_run_t *run, int thread, int32_t lane, int64_t first, int64_t n, int64_t offset,
                                  ebb_grads_t *grads)
{
    const ebb_worker_t *me = &run->workers.worker[thread];
    const ebb_batch_t *b = run->device_batch ? run->device_batch : run->batch;
    ebb_piece_t piece = {.in = input_rows(run, b, row_of(run, lane, first, offset), n),
                         .cols = run->info->cols,
                         .targets = run->info->target_cols,
                         .label = b->label ? b->label + first : NULL,
                         .y = b->y ? b->y + first * run->info->target_cols : NULL,
                         .weight = b->weight ? b->weight + first : NULL};
    ebb_pass_t pass = {.ops = run->workers.backend->ops,
                       .exec = run->workers.exec[thread],
                       .weights = &run->weights,
                       .workspace = me->workspace,
                       .training = true,
                       .seed = (uint64_t)run->config->seed,
                       .step = run->step,
                       .lane = lane,
                       .row0 = offset};
    if (!run->device_batch)
        EBB_TRY(ebb_stage_rows(&run->workers, thread, &piece));
    passes_t passes = {run, me, &piece, &pass, first, grads};
    ebb_replay_key_t key;
    memset(&key, 0, sizeof key);
    key.x = piece.in.x;
    key.label = piece.label;
    key.y = piece.y;
    key.weight = piece.weight;
    key.workspace = me->workspace;
    key.out = me->out;
    key.dout = me->dout;
    key.dense = grads->dense;
    key.row_loss = run->row_loss + first;
    key.rows = n;
    key.accumulate = grads->accumulate;
    return ebb_replay(me->replay, &key, give_passes, &passes);
}

/* A lane's losses and weights, once its context was waited for. */
static void add_losses(ebb_run_t *run, int thread, const ebb_lane_rows_t *lane)
{
    ebb_step_words_t *words = &run->words[thread];
    int64_t odd = ebb_exact_odd(&words->loss);
    for (int64_t i = lane->first; i < lane->first + lane->n; i++) {
        ebb_exact_add(&words->loss, run->row_loss[i]);
        ebb_exact_add(&words->weight, run->row_weight[i]);
    }
    if (ebb_exact_odd(&words->loss) != odd)
        note_bad_lane(run, lane->lane);
}

/* Fold the rows of a lane into the hash of what was delivered; a sum, so lanes may come in any order. */
static void note_order(const ebb_run_t *run, const ebb_lane_rows_t *lane, ebb_step_words_t *words)
{
    uint64_t place = ebb_mix64((uint64_t)run->step << 16 ^ (uint64_t)lane->lane);
    for (int64_t i = 0; i < lane->n; i++) {
        uint64_t h =
            ebb_mix64((uint64_t)run->batch->row[lane->first + i] ^ (place + (uint64_t)i * 0x9E3779B97F4A7C15u));
        words->order_low += (int64_t)(h & 0xffffffffu);
        words->order_high += (int64_t)(h >> 32);
    }
    words->rows += lane->n;
}

/* Which lane comes next but `turn`: the threads' first lanes lie far apart, so that a lane's left neighbour, to whose
 * sum it may add its gradient, is likely to be complete when its turn comes. */
static int64_t lane_of_turn(int64_t turn, int64_t lanes, int64_t threads)
{
    int64_t each = lanes / threads, rest = turn - each * threads, t = 0;
    if (rest < 0)
        return lanes * (turn % threads) / threads + turn / threads;
    for (;; t++)
        if (lanes * (t + 1) / threads - lanes * t / threads > each && rest-- == 0)
            return lanes * (t + 1) / threads - 1;
}

static bool is_whole(const ebb_run_t *run, int64_t rows)
{
    return rows == run->whole_rows[0] || rows == run->whole_rows[1];
}

static ebb_status_t pass_lane(ebb_run_t *run, int thread, const ebb_lane_rows_t *lane)
{
    ebb_exec_t *exec = run->workers.exec[thread];
    ebb_grads_t *grads;
    int64_t pieces = run->config->accumulate;
    note_order(run, lane, &run->words[thread]);
    ebb_pulse_tick();
    if (lane->n == 0)
        return ebb_sync_lane_done(run->sync, lane->lane, false, exec);
    EBB_TRY(ebb_sync_lane_grads(run->sync, lane->lane, is_whole(run, lane->n), exec, &grads));
    for (int64_t p = 0; p < pieces; p++) {
        int64_t from = lane->n * p / pieces, to = lane->n * (p + 1) / pieces;
        if (from == to)
            continue;
        EBB_TRY(compute_piece(run, thread, lane->lane, lane->first + from, to - from, from, grads));
        if (pieces > 1)
            EBB_TRY(ebb_sync_lane_piece(run->sync, lane->lane, exec));
    }
    return ebb_sync_lane_done(run->sync, lane->lane, true, exec);
}

static bool works_at_once(const ebb_run_t *run)
{
    return (run->workers.backend->ops->caps & EBB_CAP_HOST_MEMORY) != 0;
}

/* Products hold signals back; once a lane is cheaper. */
static ebb_status_t compute_lane(void *user, int thread, int64_t turn)
{
    ebb_run_t *run = user;
    const ebb_lane_rows_t *lane = &run->batch->lanes[lane_of_turn(turn, run->batch->n_lanes, run->workers.threads)];
    ebb_signals_hold();
    ebb_status_t status = pass_lane(run, thread, lane);
    ebb_signals_release();
    if (status == EBB_OK)
        status = run->workers.backend->ops->exec_sync(run->workers.exec[thread]);
    if (status == EBB_OK)
        add_losses(run, thread, lane);
    return status;
}

/* All lanes of a context of a device, which is always given the same ones. */
static ebb_status_t give_share(void *user, int thread, int64_t context)
{
    ebb_run_t *run = user;
    int64_t n = run->batch->n_lanes, contexts = run->workers.threads;
    ebb_status_t status = EBB_OK;
    ebb_signals_hold();
    for (int64_t i = n * context / contexts; i < n * (context + 1) / contexts && status == EBB_OK; i++)
        status = pass_lane(run, (int)context, &run->batch->lanes[i]);
    ebb_signals_release();
    return status;
}

static ebb_status_t compute_lanes(ebb_run_t *run)
{
    ebb_pool_t *pool = run->workers.pool;
    ebb_status_t status = ebb_workers_hold(&run->workers, run->layout, &run->weights);
    if (status == EBB_OK)
        status = works_at_once(run) ? ebb_pool_run(pool, run->batch->n_lanes, compute_lane, run)
                                    : ebb_pool_run(pool, run->workers.threads, give_share, run);
    ebb_workers_release(&run->workers);
    return status;
}

static ebb_status_t add_lane(void *user, int thread, int64_t index)
{
    ebb_run_t *run = user;
    add_losses(run, thread, &run->batch->lanes[index]);
    return EBB_OK;
}

/* The one wait of a step for a device: all lanes are under way. */
static ebb_status_t await_lanes(ebb_run_t *run)
{
    if (works_at_once(run))
        return EBB_OK;
    for (int t = 0; t < run->workers.threads; t++)
        EBB_TRY(run->workers.backend->ops->exec_sync(run->workers.exec[t]));
    return ebb_pool_run(run->workers.pool, run->batch->n_lanes, add_lane, run);
}

/* Add this rank's words up, then all ranks'. A failure anywhere is everybody's. */
static ebb_status_t agree_on_step(ebb_run_t *run, ebb_status_t mine, bool want_save, const ebb_step_words_t **words_p)
{
    int threads = run->workers.threads;
    ebb_step_words_t *sum = &run->words[threads];
    memset(sum, 0, sizeof *sum);
    for (int t = 0; t < threads; t++) {
        const int64_t *from = (const int64_t *)&run->words[t];
        for (int64_t i = 0; i < EBB_STEP_WORDS; i++)
            ((int64_t *)sum)[i] += from[i];
    }
    ebb_exact_normalize(&sum->loss);
    ebb_exact_normalize(&sum->weight);
    sum->failed = mine != EBB_OK;
    sum->stop = ebb_run_stop_asked != 0;
    sum->save = want_save;
    sum->saved = ebb_saver_ended(run->saver);
    EBB_TRY(ebb_comm_allreduce(run->comm, sum, EBB_STEP_WORDS, EBB_COMM_I64, EBB_SUM));
    *words_p = sum;
    return sum->failed ? ebb_comm_agree(run->comm, mine) : EBB_OK;
}

/* Compute a lane's gradient once more to find the parameter where it is not finite; -1: none. */
static ebb_status_t find_bad_param(ebb_run_t *run, const ebb_lane_rows_t *lane, int64_t *param_p)
{
    int64_t pieces = run->config->accumulate;
    *param_p = -1;
    for (int64_t p = 0; p < pieces && *param_p < 0; p++) {
        int64_t from = lane->n * p / pieces, to = lane->n * (p + 1) / pieces;
        ebb_grads_t *grads;
        if (from == to)
            continue;
        EBB_TRY(ebb_sync_lane_grads(run->sync, lane->lane, false, run->workers.exec[0], &grads));
        EBB_TRY(compute_piece(run, 0, lane->lane, lane->first + from, to - from, from, grads));
        EBB_TRY(ebb_finite_grads(run, grads, param_p));
    }
    return EBB_OK;
}

/* A loss is bad in the lanes that said so; a gradient in the first lane where it is found. All ranks have seen the same
 * number, so all come here. */
static ebb_status_t explain(ebb_run_t *run, const char *what, bool loss)
{
    int64_t bad_lane = INT64_MAX, param = -1, of_loss = run->bad_lane;
    ebb_status_t status = EBB_OK;
    for (int32_t i = 0; i < run->batch->n_lanes && status == EBB_OK && bad_lane == INT64_MAX; i++) {
        const ebb_lane_rows_t *lane = &run->batch->lanes[i];
        if (loss && lane->lane != of_loss)
            continue;
        status = find_bad_param(run, lane, &param);
        if (loss || param >= 0)
            bad_lane = lane->lane;
    }
    EBB_TRY(ebb_comm_agree(run->comm, status));
    return ebb_finite_explain(run, what, bad_lane, param);
}

/* Between the agreement on a step and its end an error (a GPU that falls off, a wire that breaks) is one rank's own,
 * while the others wait for its messages: nothing is left but to tell it and to end all. */
static ebb_status_t alone(ebb_run_t *run, ebb_status_t status)
{
    if (status == EBB_OK || status == EBB_ENONFINITE || ebb_comm_size(run->comm) == 1)
        return status;
    ebb_log(EBB_LOG_ERROR, "train", "step %lld: %s", (long long)run->step + 1, ebb_error()->message);
    if (run->observer->alone)
        run->observer->alone(run->observer->user, ebb_error()->message);
    ebb_comm_abort(run->comm, ebb_status_exit_code(status));
    return status;
}

static ebb_status_t update(ebb_run_t *run, double weight)
{
    ebb_sums_t *sums;
    double scale = weight > 0 ? 1.0 / weight : 0.0;
    bool clip = run->optim_options.clip_norm > 0;
    EBB_TRY(clip ? ebb_sync_reduce(run->sync, &sums) : ebb_sync_reduce_parts(run->sync, &sums));
    if (clip) {
        double norm2;
        EBB_TRY(ebb_sync_norm2(run->sync, &norm2));
        if (!isfinite(norm2))
            return explain(run, "gradient", false);
        run->grad_norm = sqrt(norm2) * scale;
        scale *= ebb_optim_clip(&run->optim_options, norm2, scale);
    }
    int64_t before = ebb_now_ns();
    ebb_pulse_stage("updating weights");
    EBB_TRY(ebb_optim_step(run->optim, run->step, scale, sums, &run->weights, &run->lr));
    run->sync_ns -= ebb_now_ns() - before; /* the caller counts all of this as exchange; updating is work */
    ebb_pulse_stage("exchanging weights");
    return ebb_sync_gather(run->sync, &run->weights);
}

/* The batch where passes read it; the next ones follow while they work. */
static ebb_status_t carry_batch(ebb_run_t *run)
{
    run->device_batch = NULL;
    if (!run->ahead)
        return EBB_OK;
    EBB_TRY(ebb_ahead_take(run->ahead, run->batch, &run->device_batch));
    return ebb_ahead_look(run->ahead);
}

ebb_status_t ebb_run_step(ebb_run_t *run, bool want_save, const ebb_step_words_t **words_p)
{
    ebb_pulse_step(run->step);
    ebb_pulse_stage("loading rows");
    ebb_status_t status = ebb_loader_acquire(run->loader, &run->batch);
    if (status == EBB_END)
        return EBB_END;
    memset(run->words, 0, (size_t)run->workers.threads * sizeof *run->words);
    run->bad_lane = INT64_MAX;
    ebb_pulse_stage("computing gradients");
    if (status == EBB_OK)
        status = ebb_sweep_take(run);
    if (status == EBB_OK)
        status = ebb_sync_begin(run->sync);
    if (status == EBB_OK)
        status = carry_batch(run);
    if (status == EBB_OK)
        status = compute_lanes(run);
    if (status == EBB_OK)
        status = await_lanes(run);
    if (status == EBB_OK)
        status = ebb_sweep_judge(run);
    if (status == EBB_OK && run->ahead) /* those that were not ready before */
        status = ebb_ahead_look(run->ahead);
    ebb_pulse_stage("exchanging gradients");
    int64_t before_sync = ebb_now_ns();
    status = agree_on_step(run, status, want_save, words_p);
    if (status == EBB_OK)
        status = isfinite(ebb_exact_value(&(*words_p)->loss)) ? EBB_OK : explain(run, "loss", true);
    if (status == EBB_OK)
        status = alone(run, update(run, ebb_exact_value(&(*words_p)->weight)));
    run->sync_ns += ebb_now_ns() - before_sync;
    if (status == EBB_OK)
        run->rows_done += (*words_p)->rows;
    ebb_loader_release(run->loader, run->batch);
    run->batch = NULL;
    return status;
}
