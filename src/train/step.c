/* One optimiser step: lanes compute, their gradients are summed along the canonical tree, owners update, all gather.
 *
 * A lane's numbers depend on its rows alone: which thread or rank computes it changes nothing. Losses, weights and the
 * order hash are added exactly (as integers), in one small all-reduce that also carries failures and requests to stop,
 * so that all ranks take the same turn.
 *
 * A device is given a whole step's lanes at once: the forward passes and losses of all, then the backward passes. The
 * host waits for the losses, which lie in one array for the batch, and the ranks agree on the step while the device is
 * at the backward passes. With several ranks the lanes of a rank go through these in step, bucket by bucket of the
 * gradient from the last layers to the first. Contexts beside those of the passes then exchange, sum and update each
 * bucket as soon as all lanes have come with it, and give the new weights to all, while the others compute the next
 * bucket; only the next step's passes begin after all that. The host waits for none of it and turns to the next batch.
 * This takes memory for the activations of all lanes: where that is not there, or with train.accumulate, passes come
 * lane by lane, losses are known when all are done, and sums and updates follow. The bits are the same. Beyond the
 * losses the host waits
 *  - once a step and table of row-sparse gradients, for the number of rows of the lanes' sum; with train.accumulate
 *    for that of each lane's pieces; and for a lane's own, where memory for as many as it can have would be much;
 *  - with train.clip_norm, for the gradient's norm, before which nothing is updated;
 *  - where messages go through host memory, or ranks add without order (train.sync fast), for messages. */
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

/* Rows [from, to) of a lane, whose passes leave what they need for one another in `place`. */
typedef struct rows {
    const ebb_lane_rows_t *lane;
    int64_t from, to;
    const ebb_place_t *place;
} rows_t;

/* Part of the passes over some rows: all, forward pass and loss, backward pass, or from 0 on a bucket of that. */
enum { PART_ALL = -3, PART_FORWARD = -2, PART_BACKWARD = -1 };

/* What a context is given of them. */
typedef struct passes {
    ebb_run_t *run;
    const ebb_place_t *place;
    const ebb_piece_t *piece;
    const ebb_pass_t *pass;
    int part;
    int64_t first; /* row of the batch */
    ebb_grads_t *grads;
} passes_t;

static ebb_status_t give_forward(const passes_t *p)
{
    ebb_run_t *run = p->run;
    const ebb_loss_t *loss = ebb_model_loss(run->model);
    EBB_TRY(ebb_model_forward(run->model, p->pass, &p->piece->in, p->place->out));
    EBB_TRY(p->pass->ops->loss(p->pass->exec, loss->kind, loss->huber_delta, p->piece->in.rows,
                               ebb_model_outputs(run->model), p->place->out, p->piece->label, p->piece->y,
                               p->piece->weight, run->device_class_weights, run->row_loss + p->first,
                               run->row_weight + p->first, p->place->dout));
    ebb_pulse_tick();
    return EBB_OK;
}

static ebb_status_t give_passes(void *user)
{
    const passes_t *p = user;
    const ebb_model_t *model = p->run->model;
    if (p->part >= 0)
        return ebb_model_backward_bucket(model, p->pass, &p->piece->in, p->place->dout, p->grads, p->part);
    if (p->part != PART_BACKWARD)
        EBB_TRY(give_forward(p));
    if (p->part == PART_FORWARD)
        return EBB_OK;
    return ebb_model_backward(model, p->pass, &p->piece->in, p->place->dout, p->grads);
}

/* What the part of the passes depends on. */
static void make_key(const passes_t *p, ebb_replay_key_t *key)
{
    memset(key, 0, sizeof *key);
    if (p->part < 0 || p->part == ebb_layout_buckets(p->run->layout) - 1) /* the first layer's */
        key->x = p->piece->in.x;
    if (p->part == PART_ALL || p->part == PART_FORWARD) {
        key->label = p->piece->label;
        key->y = p->piece->y;
        key->weight = p->piece->weight;
        key->out = p->place->out;
        key->row_loss = p->run->row_loss + p->first;
    }
    if (p->grads) {
        key->dense = p->grads->dense;
        key->accumulate = p->grads->accumulate;
    }
    key->workspace = p->place->workspace;
    key->dout = p->place->dout;
    key->rows = p->piece->in.rows;
    key->part = p->part;
}

/* Waits for nothing. grads: of a backward pass, else NULL. */
static ebb_status_t compute(ebb_run_t *run, int thread, const rows_t *rows, int part, ebb_grads_t *grads)
{
    int32_t lane = rows->lane->lane;
    int64_t first = rows->lane->first + rows->from, n = rows->to - rows->from, offset = rows->from;
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
                       .workspace = rows->place->workspace,
                       .training = true,
                       .seed = (uint64_t)run->config->seed,
                       .step = run->step,
                       .lane = lane,
                       .row0 = offset};
    if (!run->device_batch)
        EBB_TRY(ebb_stage_rows(&run->workers, thread, &piece));
    passes_t passes = {run, rows->place, &piece, &pass, part, first, grads};
    ebb_replay_key_t key;
    make_key(&passes, &key);
    return ebb_replay(run->workers.worker[thread].replay, &key, give_passes, &passes);
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

/* Piece p of a lane, for a thread that takes one at a time. */
static rows_t piece_of(const ebb_run_t *run, int thread, const ebb_lane_rows_t *lane, int64_t p)
{
    int64_t pieces = run->config->accumulate;
    return (rows_t){.lane = lane,
                    .from = lane->n * p / pieces,
                    .to = lane->n * (p + 1) / pieces,
                    .place = &run->workers.worker[thread].place};
}

static ebb_status_t pass_lane(ebb_run_t *run, int thread, const ebb_lane_rows_t *lane)
{
    ebb_exec_t *exec = run->workers.exec[thread];
    ebb_grads_t *grads;
    int64_t pieces = run->config->accumulate;
    note_order(run, lane, &run->words[thread]);
    ebb_pulse_tick();
    if (lane->n == 0)
        return ebb_sync_lane_done(run->sync, lane->lane, 0, false, exec);
    EBB_TRY(ebb_sync_lane_grads(run->sync, lane->lane, 0, is_whole(run, lane->n), exec, &grads));
    for (int64_t p = 0; p < pieces; p++) {
        rows_t rows = piece_of(run, thread, lane, p);
        if (rows.from == rows.to)
            continue;
        EBB_TRY(compute(run, thread, &rows, PART_ALL, grads));
        if (pieces > 1)
            EBB_TRY(ebb_sync_lane_piece(run->sync, lane->lane, exec));
    }
    return ebb_sync_lane_done(run->sync, lane->lane, 0, true, exec);
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

/* A part of the passes of a device's lanes. */
typedef struct share_job {
    ebb_run_t *run;
    int part;
} share_job_t;

/* The part of a lane whose passes leave what they need in the lane's own place. */
static ebb_status_t pass_part(ebb_run_t *run, int thread, const ebb_lane_rows_t *lane, int part)
{
    ebb_exec_t *exec = run->workers.exec[thread];
    rows_t rows = {.lane = lane, .to = lane->n, .place = &run->workers.lane[lane->lane - run->lane0]};
    ebb_grads_t *grads;
    ebb_pulse_tick();
    if (part == PART_FORWARD) {
        note_order(run, lane, &run->words[thread]);
        return lane->n > 0 ? compute(run, thread, &rows, part, NULL) : EBB_OK;
    }
    int bucket = part == PART_BACKWARD ? 0 : part;
    if (lane->n == 0)
        return ebb_sync_lane_done(run->sync, lane->lane, bucket, false, exec);
    EBB_TRY(ebb_sync_lane_grads(run->sync, lane->lane, bucket, is_whole(run, lane->n), exec, &grads));
    EBB_TRY(compute(run, thread, &rows, part, grads));
    return ebb_sync_lane_done(run->sync, lane->lane, bucket, true, exec);
}

/* All lanes of a context, which is always given the same ones. */
static ebb_status_t give_share(void *user, int thread, int64_t context)
{
    const share_job_t *job = user;
    ebb_run_t *run = job->run;
    int64_t n = run->batch->n_lanes, contexts = run->workers.threads;
    ebb_status_t status = EBB_OK;
    ebb_signals_hold();
    for (int64_t i = n * context / contexts; i < n * (context + 1) / contexts && status == EBB_OK; i++) {
        const ebb_lane_rows_t *lane = &run->batch->lanes[i];
        status =
            job->part == PART_ALL ? pass_lane(run, (int)context, lane) : pass_part(run, (int)context, lane, job->part);
    }
    ebb_signals_release();
    return status;
}

static ebb_status_t give_lanes(ebb_run_t *run, int part)
{
    share_job_t job = {run, part};
    return ebb_pool_run(run->workers.pool, run->workers.threads, give_share, &job);
}

/* Losses are waited for by what follows (await_losses), and nothing that is given after them. */
static ebb_status_t post_losses(const ebb_run_t *run)
{
    for (int t = 0; t < run->workers.threads; t++)
        EBB_TRY(run->workers.backend->ops->exec_post(run->workers.exec[t], EBB_MARK_LOSSES));
    return EBB_OK;
}

/* Whether giving a step may wait for the device: for numbers of rows, or for copies from memory that is not pinned. */
static bool may_wait(const ebb_run_t *run)
{
    return run->layout->n_tables > 0 || run->config->accumulate > 1 || !run->ahead;
}

static ebb_status_t give_step(ebb_run_t *run)
{
    const ebb_workers_t *w = &run->workers;
    if (may_wait(run))
        EBB_TRY(ebb_sync_settle(run->sync));
    if (run->buckets == 0) {
        EBB_TRY(give_lanes(run, PART_ALL));
        EBB_TRY(ebb_sync_ready(run->sync, 0, w->threads, w->exec));
        return post_losses(run);
    }
    EBB_TRY(give_lanes(run, PART_FORWARD));
    EBB_TRY(post_losses(run));
    for (int i = 0; i < run->buckets; i++) {
        EBB_TRY(give_lanes(run, run->buckets == 1 ? PART_BACKWARD : i));
        EBB_TRY(ebb_sync_ready(run->sync, i, w->threads, w->exec));
    }
    return EBB_OK;
}

static ebb_status_t compute_lanes(ebb_run_t *run)
{
    ebb_status_t status = ebb_workers_hold(&run->workers, run->layout, &run->weights);
    if (status == EBB_OK && works_at_once(run))
        status = ebb_pool_run(run->workers.pool, run->batch->n_lanes, compute_lane, run);
    else if (status == EBB_OK)
        status = give_step(run);
    ebb_workers_release(&run->workers);
    if (status == EBB_OK && run->ahead)
        status = ebb_ahead_passed(run->ahead);
    return status;
}

static ebb_status_t add_lane(void *user, int thread, int64_t index)
{
    ebb_run_t *run = user;
    add_losses(run, thread, &run->batch->lanes[index]);
    return EBB_OK;
}

/* The one wait of a step for a device, which goes on with what it was given after the losses. Exchanges of the step
 * before, which come before the losses, are waited for by looking after them, so that their errors are met. */
static ebb_status_t await_losses(ebb_run_t *run)
{
    if (works_at_once(run))
        return EBB_OK;
    EBB_TRY(ebb_sync_settle(run->sync));
    for (int t = 0; t < run->workers.threads; t++)
        EBB_TRY(run->workers.backend->ops->exec_wait(run->workers.exec[t], EBB_MARK_LOSSES));
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
        rows_t rows = piece_of(run, 0, lane, p);
        ebb_grads_t *grads;
        if (rows.from == rows.to)
            continue;
        EBB_TRY(ebb_sync_lane_grads(run->sync, lane->lane, 0, false, run->workers.exec[0], &grads));
        EBB_TRY(compute(run, 0, &rows, PART_ALL, grads));
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
    for (int t = 0; t < run->workers.threads && status == EBB_OK; t++) /* backward passes may be under way */
        status = run->workers.backend->ops->exec_sync(run->workers.exec[t]);
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

static bool clips(const ebb_run_t *run)
{
    return run->optim_options.clip_norm > 0;
}

static ebb_status_t clip(ebb_run_t *run, double *scale)
{
    double norm2;
    EBB_TRY(ebb_sync_norm2(run->sync, &norm2));
    if (!isfinite(norm2))
        return explain(run, "gradient", false);
    run->grad_norm = sqrt(norm2) * *scale;
    *scale *= ebb_optim_clip(&run->optim_options, norm2, *scale);
    return EBB_OK;
}

/* A device is given the exchange, sum and update of each bucket, and goes on with backward passes meanwhile. */
static ebb_status_t update_on_device(ebb_run_t *run, double scale)
{
    int n = ebb_layout_buckets(run->layout);
    ebb_sums_t *sums;
    for (int i = 0; i < n && clips(run); i++)
        EBB_TRY(ebb_sync_reduce_bucket(run->sync, i, &sums));
    if (clips(run))
        EBB_TRY(clip(run, &scale));
    for (int i = 0; i < n; i++) {
        if (!clips(run))
            EBB_TRY(ebb_sync_reduce_bucket(run->sync, i, &sums));
        ebb_pulse_stage("updating weights");
        EBB_TRY(ebb_optim_step_bucket(run->optim, i, run->step, scale, sums, &run->weights, &run->lr));
        EBB_TRY(ebb_sync_gather_bucket(run->sync, i, &run->weights));
    }
    return EBB_OK;
}

static ebb_status_t update(ebb_run_t *run, double weight)
{
    ebb_sums_t *sums;
    double scale = weight > 0 ? 1.0 / weight : 0.0;
    if (!works_at_once(run) && run->config->sync == EBB_SYNC_CANONICAL)
        return update_on_device(run, scale);
    EBB_TRY(clips(run) ? ebb_sync_reduce(run->sync, &sums) : ebb_sync_reduce_parts(run->sync, &sums));
    if (clips(run))
        EBB_TRY(clip(run, &scale));
    int64_t before = ebb_now_ns();
    ebb_pulse_stage("updating weights");
    EBB_TRY(ebb_optim_step(run->optim, run->step, scale, sums, &run->weights, &run->lr));
    run->sync_ns -= ebb_now_ns() - before; /* the caller counts all of this as exchange; updating is work */
    ebb_pulse_stage("exchanging weights");
    return ebb_sync_gather(run->sync, &run->weights);
}

/* After an error of a step, before its device's memory is given back: the exchanges of the step before, in which all
 * ranks take part. */
static void settle_quietly(ebb_run_t *run)
{
    ebb_error_t first = *ebb_error();
    if (ebb_sync_settle(run->sync) != EBB_OK) {
        ebb_error_clear();
        (void)ebb_error_set(&first);
    }
}

ebb_status_t ebb_run_settle(ebb_run_t *run)
{
    return alone(run, ebb_sync_settle(run->sync));
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
        status = await_losses(run);
    if (status == EBB_OK)
        status = ebb_sweep_judge(run);
    if (status == EBB_OK && run->ahead) /* those that were not ready before */
        status = ebb_ahead_look(run->ahead);
    ebb_pulse_stage("exchanging gradients");
    int64_t before_sync = ebb_now_ns();
    if (!works_at_once(run) && (status == EBB_EPEER || status == EBB_EUNAVAILABLE))
        status = alone(run, status); /* others may wait for what they have begun with this rank */
    status = agree_on_step(run, status, want_save, words_p);
    if (status != EBB_OK)
        settle_quietly(run);
    else if (!isfinite(ebb_exact_value(&(*words_p)->loss)))
        status = explain(run, "loss", true);
    if (status == EBB_OK)
        status = alone(run, update(run, ebb_exact_value(&(*words_p)->weight)));
    run->sync_ns += ebb_now_ns() - before_sync;
    if (status == EBB_OK)
        run->rows_done += (*words_p)->rows;
    ebb_loader_release(run->loader, run->batch);
    run->batch = NULL;
    return status;
}
