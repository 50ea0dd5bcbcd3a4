/* The loader: read-ahead threads take tasks (decode a block, gather a batch) from the plan; the consumer leases
 * batches.
 *
 * All state is guarded by one lock; tasks run without it and are coarse (a block: about a millisecond). Gathering the
 * next batch goes before decoding; blocks are decoded in the order of need. When the consumer finds no batch ready it
 * works too rather than sleep, so that a rank with one core loses nothing. Windows are released when every step
 * up to their last has been gathered.
 *
 * Progress: buffers suffice for one window per lane. A step that needs more (windows of several lanes ending in it)
 * while nothing can be released gets buffers beyond the limit, which are kept.
 *
 * Faults: a block that cannot be decoded keeps its error; a batch that needs a row of it is delivered as that error,
 * and so is each later acquire until the loader is moved. With skip_corrupt the rows of a damaged block are left out.
 */
#include <ebb/loader.h>
#include "base/alloc.h"
#include "base/clock.h"
#include "loader/batch.h"
#include "loader/deal.h"
#include "loader/transform.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { DEFAULT_DEPTH = 3, MAX_THREADS = 256, KEPT_FAULTS = 32 };
enum { HINTS_AHEAD = 64, HINTS_A_TASK = 8 }; /* blocks that the kernel is told of before they are read */
#define DEFAULT_MEMORY ((int64_t)1 << 30)

typedef struct task {
    ebb_block_t *block;
    ebb_slot_t *slot;
    ebb_plan_deal_t deal; /* team NULL: none */
    struct {
        int64_t row0, rows;
    } hint[HINTS_A_TASK]; /* rows that are decoded soon */
    int hints;
} task_t;

typedef struct worker {
    struct ebb_loader *loader;
    ebb_reader_t *reader;
    ebb_dealer_t dealer;
    pthread_t id;
} worker_t;

struct ebb_loader {
    const ebb_dataset_info_t *info;
    ebb_order_t order;
    int32_t *lanes;
    ebb_blocks_t blocks;
    ebb_plan_t plan;
    ebb_batches_t batches;
    int threads, started;
    worker_t *worker; /* (threads + 1): the last one is the consumer */
    pthread_mutex_t lock;
    pthread_cond_t work, ready; /* for threads; for the consumer */
    bool quit, paused;
    int running, filling, held;
    int64_t next_fill, next_deliver; /* seq */
    int64_t epoch, step;             /* of the next batch */
    ebb_error_t error;               /* of planning */
    ebb_loader_stats_t stats;
    int64_t allocations_before;
    ebb_loader_fault_t fault[KEPT_FAULTS]; /* skipped blocks */
    int faults;
};

/* ---- tasks ---- */

static ebb_slot_t *find_slot(ebb_loader_t *l, ebb_slot_state_t state, int64_t seq)
{
    for (int i = 0; i < l->batches.n; i++) {
        ebb_slot_t *slot = &l->batches.slot[i];
        if (slot->state == state && (state == EBB_SLOT_FREE || slot->seq == seq))
            return slot;
    }
    return NULL;
}

/* Where reads wait for a device: blocks further on in the queue, which the kernel may fetch meanwhile. They have their
 * buffers already, so the loader's memory bounds how far this goes. */
static void take_hints(ebb_loader_t *l, const worker_t *me, task_t *task)
{
    const ebb_block_t *block;
    while (ebb_reader_waits(me->reader) && task->hints < HINTS_A_TASK &&
           (block = ebb_plan_next_hint(&l->plan, HINTS_AHEAD))) {
        task->hint[task->hints].row0 = block->row0;
        task->hint[task->hints++].rows = block->rows;
    }
}

/* Under the lock. gather: a batch may be gathered too; else only a block decoded. */
static bool take_task(ebb_loader_t *l, const worker_t *me, bool gather, task_t *task)
{
    *task = (task_t){0};
    if (l->paused || l->quit)
        return false;
    bool stuck = l->plan.seq == l->next_fill && l->filling == 0;
    if (ebb_plan_advance(&l->plan, stuck) != EBB_OK) {
        l->error = *ebb_error();
        ebb_error_clear();
    }
    ebb_slot_t *slot = gather ? find_slot(l, EBB_SLOT_FREE, 0) : NULL;
    if (slot && ebb_plan_ready(&l->plan, l->next_fill)) {
        ebb_slot_begin(&l->batches, slot, l->next_fill++);
        l->filling++;
        task->slot = slot;
    } else if (!ebb_plan_next_deal(&l->plan, &task->deal)) {
        task->deal.team = NULL;
        task->block = ebb_plan_next_block(&l->plan);
        if (task->block)
            take_hints(l, me, task);
    }
    if (!task->slot && !task->block && !task->deal.team)
        return false;
    l->running++;
    pthread_cond_signal(&l->work); /* there may be more for another thread */
    return true;
}

/* The error without the rows that were asked for: one text for all blocks that a damaged chunk spoils. */
static void name_fault(const ebb_error_t *error, char text[256])
{
    const char *from = strstr(error->message, " (read for rows "), *to = from ? strchr(from, ')') : NULL;
    if (to)
        snprintf(text, 256, "%.*s%s", (int)(from - error->message), error->message, to + 1);
    else
        snprintf(text, 256, "%s", error->message);
}

/* Once for each damaged chunk, although its blocks are decoded in every epoch. */
static void note_fault(ebb_loader_t *l, const ebb_block_t *block)
{
    int i = 0;
    char text[256];
    name_fault(&block->error, text);
    while (i < l->faults && strcmp(l->fault[i].message, text) != 0)
        i++;
    if (i == KEPT_FAULTS)
        return;
    ebb_loader_fault_t *fault = &l->fault[i];
    if (i == l->faults) {
        l->faults++;
        *fault = (ebb_loader_fault_t){.row0 = block->row0, .rows = block->rows};
        memcpy(fault->message, text, sizeof fault->message);
        ebb_log(EBB_LOG_WARN, "loader", "rows are left out, near %lld: %s", (long long)block->row0, text);
    }
    int64_t end = fault->row0 + fault->rows, block_end = block->row0 + block->rows;
    fault->row0 = block->row0 < fault->row0 ? block->row0 : fault->row0;
    fault->rows = (block_end > end ? block_end : end) - fault->row0;
}

static void finish_block(ebb_loader_t *l, ebb_block_t *block, ebb_status_t status)
{
    block->state = status == EBB_OK ? EBB_BLOCK_READY : EBB_BLOCK_FAILED;
    if (status == EBB_OK)
        return;
    block->error = *ebb_error();
    ebb_error_clear();
    if (l->batches.skip_corrupt && block->error.status == EBB_ECORRUPT)
        note_fault(l, block);
}

int ebb_loader_faults(ebb_loader_t *l, int most, ebb_loader_fault_t *faults)
{
    pthread_mutex_lock(&l->lock);
    int n = l->faults < most ? l->faults : most;
    memcpy(faults, l->fault, (size_t)n * sizeof *faults);
    pthread_mutex_unlock(&l->lock);
    return n;
}

static void finish_slot(ebb_loader_t *l, ebb_slot_t *slot)
{
    int64_t oldest = l->next_fill;
    slot->state = EBB_SLOT_READY;
    l->filling--;
    for (int i = 0; i < l->batches.n; i++)
        if (l->batches.slot[i].state == EBB_SLOT_FILLING && l->batches.slot[i].seq < oldest)
            oldest = l->batches.slot[i].seq;
    ebb_plan_release(&l->plan, oldest);
}

/* Entries of each row of a block, which another loader may have; of rows that are left out 0. */
static ebb_status_t block_lengths(ebb_loader_t *l, worker_t *me, int64_t id, const ebb_block_t *block, int64_t skip,
                                  int64_t n, int32_t *length)
{
    const int64_t *rowptr = me->dealer.rowptr;
    if (block && block->state == EBB_BLOCK_READY) {
        rowptr = block->rowptr;
    } else {
        int64_t rows = ebb_order_block_rows(&l->order, id), row0 = ebb_order_block_row(&l->order, id);
        ebb_status_t status = ebb_reader_rowptr(me->reader, row0, rows, 0, me->dealer.rowptr);
        if (status == EBB_ECORRUPT && l->batches.skip_corrupt) {
            ebb_error_clear();
            memset(length, 0, (size_t)n * sizeof *length);
            return EBB_OK;
        }
        EBB_TRY(status);
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t entries = rowptr[skip + i + 1] - rowptr[skip + i];
        length[i] = (int32_t)(entries < 1 << 30 ? entries : 1 << 30);
    }
    return EBB_OK;
}

static ebb_status_t window_lengths(ebb_loader_t *l, worker_t *me, const ebb_order_window_t *w,
                                   ebb_block_t *const *block, int32_t *length)
{
    int64_t done = 0;
    for (int32_t k = 0; k < w->places; k++) {
        int64_t skip = k == 0 ? w->head : 0, n = w->start[k + 1] - w->start[k] - skip;
        n = n < w->rows - done ? n : w->rows - done;
        EBB_TRY(block_lengths(l, me, w->block[k], block ? block[k] : NULL, skip, n, length + done));
        done += n;
    }
    return EBB_OK;
}

/* Under the lock: what of a team's windows is in memory, and where their rows go. */
static void begin_deal(ebb_loader_t *l, ebb_dealer_t *d, const ebb_plan_deal_t *deal)
{
    const ebb_plan_team_t *team = deal->team;
    for (int32_t i = 0, at = 0; i < team->to - team->from; i++) {
        const ebb_plan_lane_t *lane = &l->plan.lane[team->first + at];
        ebb_dealer_lane_t *to = &d->lane[i];
        to->planned = NULL;
        if (at == team->n || lane->lane != team->from + i)
            continue;
        to->planned = ebb_plan_window_of(&l->plan, lane, deal->epoch, deal->step);
        to->row = to->planned ? ebb_plan_dealt(&l->plan, lane, to->planned) : NULL;
        at += at + 1 < team->n;
    }
}

/* The windows of a team, those of other loaders' lanes too: lengths, and how the rows are dealt. */
static ebb_status_t deal_team(ebb_loader_t *l, worker_t *me, const ebb_plan_deal_t *deal, bool *dealt_p)
{
    ebb_dealer_t *d = &me->dealer;
    int32_t n = deal->team->to - deal->team->from;
    ebb_order_epoch_t epoch;
    ebb_order_epoch_init(&l->order, deal->epoch, &epoch);
    for (int32_t i = 0; i < n; i++) {
        ebb_dealer_lane_t *lane = &d->lane[i];
        const ebb_plan_window_t *w = lane->planned;
        if (!w)
            EBB_TRY(ebb_order_window_at(&epoch, &d->group, deal->team->from + i, deal->step, &lane->other));
        lane->window = w ? &w->at : &lane->other;
        EBB_TRY(window_lengths(l, me, lane->window, w ? w->block : NULL, ebb_dealer_lengths(d, i)));
    }
    *dealt_p = ebb_deal_windows(d, n);
    for (int32_t i = 0; i < n && *dealt_p; i++)
        if (d->lane[i].planned)
            ebb_dealt_rows(d, i, d->lane[i].row);
    return EBB_OK;
}

/* Under the lock. */
static void finish_deal(ebb_loader_t *l, ebb_dealer_t *d, const ebb_plan_deal_t *deal, ebb_status_t status, bool dealt)
{
    for (int32_t i = 0; i < deal->team->to - deal->team->from; i++) {
        ebb_plan_window_t *w = d->lane[i].planned;
        if (!w)
            continue;
        if (status != EBB_OK)
            w->error = *ebb_error();
        w->dealt = dealt ? d->lane[i].row : NULL;
        w->deal = EBB_DEAL_DONE;
    }
    if (status != EBB_OK)
        ebb_error_clear();
}

/* Called and left with the lock held. */
static void run_task(ebb_loader_t *l, worker_t *me, const task_t *task)
{
    ebb_status_t status = EBB_OK;
    bool dealt = false;
    if (task->deal.team)
        begin_deal(l, &me->dealer, &task->deal);
    pthread_mutex_unlock(&l->lock);
    for (int i = 0; i < task->hints; i++)
        ebb_reader_hint(me->reader, task->hint[i].row0, task->hint[i].rows);
    if (task->slot)
        ebb_slot_fill(&l->batches, task->slot);
    else if (task->deal.team)
        status = deal_team(l, me, &task->deal, &dealt);
    else
        status = ebb_block_decode(&l->blocks, task->block, me->reader);
    pthread_mutex_lock(&l->lock);
    if (task->slot)
        finish_slot(l, task->slot);
    else if (task->deal.team)
        finish_deal(l, &me->dealer, &task->deal, status, dealt);
    else
        finish_block(l, task->block, status);
    l->running--;
    pthread_cond_signal(&l->work);
    pthread_cond_signal(&l->ready);
}

static void *worker_main(void *arg)
{
    worker_t *me = arg;
    ebb_loader_t *l = me->loader;
    task_t task;
    pthread_mutex_lock(&l->lock);
    while (!l->quit) {
        if (take_task(l, me, true, &task))
            run_task(l, me, &task);
        else
            pthread_cond_wait(&l->work, &l->lock);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* ---- create and destroy ---- */

static ebb_status_t check_lanes(const ebb_order_t *order, const int32_t *lanes, int32_t n)
{
    if (n < 1)
        return EBB_FAIL(EBB_EINVAL, "a loader needs at least one lane");
    for (int32_t i = 0; i < n; i++)
        if (lanes[i] < 0 || lanes[i] >= order->lanes || (i > 0 && lanes[i] <= lanes[i - 1]))
            return EBB_FAIL(EBB_EINVAL, "lane %d (number %d of the loader's lanes) is out of order or not in 0 .. %d",
                            lanes[i], i, order->lanes - 1);
    return EBB_OK;
}

static ebb_status_t copy_lanes(ebb_loader_t *l, const ebb_loader_options_t *options, int32_t *n_p)
{
    int32_t n = options->lanes ? options->n_lanes : l->order.lanes;
    if (options->lanes)
        EBB_TRY(check_lanes(&l->order, options->lanes, n));
    EBB_TRY(EBB_NEW_ARRAY("lanes", n, &l->lanes));
    for (int32_t i = 0; i < n; i++)
        l->lanes[i] = options->lanes ? options->lanes[i] : i;
    *n_p = n;
    return EBB_OK;
}

/* How many blocks to hold: one window per lane and the rows of one step must fit; half as much again is for reading
 * ahead; the whole data set if it takes no more than half of the budget, since then nothing is decoded twice. */
static ebb_status_t block_limit(const ebb_loader_t *l, int32_t n_lanes, int64_t max_rows, int depth, int64_t budget,
                                int64_t *limit_p)
{
    int64_t all = ebb_order_blocks(&l->order);
    int64_t window = n_lanes * ebb_order_window_places(&l->order);
    int64_t least = window < all ? window : all;
    int64_t block = ebb_block_bytes(&l->order, l->info, &l->blocks.form),
            batches = ebb_batch_bytes(&l->batches, max_rows) * depth;
    int64_t need = least * block + batches;
    if (budget < need)
        return EBB_FAIL(EBB_EINVAL,
                        "loader memory of %.1f MiB is too small: %d lanes with windows of %d blocks of %lld rows and "
                        "%d batches need %.1f MiB; "
                        "raise the memory, or lower the window, the block rows or the batch",
                        (double)budget / (1 << 20), n_lanes, l->order.window_blocks, (long long)l->order.block_rows,
                        depth, (double)need / (1 << 20) + 0.05);
    int64_t ahead = window / 2 > l->order.window_blocks ? window / 2 : l->order.window_blocks;
    int64_t want = all * block <= (budget - batches) / 2 ? all : window + ahead;
    int64_t room = (budget - batches) / block;
    want = want < room ? want : room;
    *limit_p = want < all ? want : all;
    return EBB_OK;
}

/* Blocks of a data set that is kept are often smaller than chunks: a reader then gets room for chunks that many blocks
 * share. Otherwise the reader's own choice. */
static size_t cache_bytes(const ebb_loader_t *l, int64_t limit)
{
    int64_t all = ebb_order_blocks(&l->order);
    int64_t room = l->info->nnz * (l->info->sparse ? 16 : 8), least = 8 << 20,
            most = 32 << 20; /* indices get a quarter */
    if (limit < all)
        return 0;
    return (size_t)(room < least ? least : room > most ? most : room);
}

/* Signals are for the process's own threads. */
static ebb_status_t start_threads(ebb_loader_t *l)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (l->started < l->threads &&
           pthread_create(&l->worker[l->started].id, NULL, worker_main, &l->worker[l->started]) == 0)
        l->started++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (l->started < l->threads)
        return EBB_FAIL(EBB_ENOMEM, "cannot start read-ahead thread %d of %d", l->started + 1, l->threads);
    return EBB_OK;
}

/* What batches hold. */
static ebb_status_t init_types(ebb_loader_t *l, const ebb_loader_options_t *options)
{
    if (options->stored && !ebb_transform_is_none(&options->transform))
        return EBB_FAIL(EBB_EINVAL,
                        "values as they are stored cannot be changed: leave row_sum, log1p, row_l2 and scale "
                        "out, or take batches of floats");
    l->batches.info = l->info;
    l->batches.transform = options->transform;
    l->batches.stored = options->stored;
    ebb_batches_types(&l->batches);
    return EBB_OK;
}

static ebb_status_t init(ebb_loader_t *l, const ebb_dataset_t *ds, const ebb_loader_options_t *options)
{
    int32_t n_lanes = 0;
    int64_t limit = 0, max_rows = 0;
    int depth = options->depth > 0 ? options->depth : DEFAULT_DEPTH;
    l->info = ebb_dataset_info(ds);
    l->order = options->order;
    l->threads = options->threads > 0 ? options->threads : 1;
    if (options->threads < 0 || l->threads > MAX_THREADS)
        return EBB_FAIL(EBB_EINVAL, "read-ahead threads must be 1 to %d, not %d", MAX_THREADS, options->threads);
    EBB_TRY(ebb_order_init(&l->order, l->info));
    if (l->order.blocks)
        ebb_stored_form(ds, &l->blocks.form);
    EBB_TRY(init_types(l, options));
    EBB_TRY(copy_lanes(l, options, &n_lanes));
    for (int32_t i = 0; i < n_lanes; i++)
        max_rows += ebb_order_lane_share(&l->order, l->lanes[i]);
    EBB_TRY(block_limit(l, n_lanes, max_rows, depth, options->memory_bytes > 0 ? options->memory_bytes : DEFAULT_MEMORY,
                        &limit));
    EBB_TRY(ebb_blocks_init(&l->blocks, &l->order, l->info, limit));
    EBB_TRY(ebb_plan_init(&l->plan, &l->order, &l->blocks, l->lanes, n_lanes, depth));
    l->batches.plan = &l->plan;
    l->batches.form = &l->blocks.form;
    l->batches.alloc = options->alloc;
    l->batches.free = options->free;
    l->batches.alloc_user = options->alloc_user;
    l->batches.skip_corrupt = options->skip_corrupt;
    EBB_TRY(ebb_batches_init(&l->batches, depth));
    EBB_TRY(EBB_NEW_ARRAY("read-ahead threads", l->threads + 1, &l->worker));
    for (int i = 0; i <= l->threads; i++) {
        l->worker[i].loader = l;
        EBB_TRY(ebb_reader_create(ds, cache_bytes(l, limit), &l->worker[i].reader));
        if (l->plan.deals)
            EBB_TRY(ebb_dealer_init(&l->worker[i].dealer, &l->order));
    }
    ebb_plan_reset(&l->plan, 0, 0);
    return start_threads(l);
}

ebb_status_t ebb_loader_create(const ebb_dataset_t *ds, const ebb_loader_options_t *options, ebb_loader_t **loader_p)
{
    ebb_loader_t *l;
    *loader_p = NULL;
    EBB_TRY(EBB_NEW("loader", &l));
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->work, NULL);
    pthread_cond_init(&l->ready, NULL);
    l->paused = true; /* until the first acquire: a restored run must not read the first epoch's windows */
    ebb_status_t status = init(l, ds, options);
    if (status != EBB_OK) {
        ebb_loader_destroy(l);
        return status;
    }
    *loader_p = l;
    return EBB_OK;
}

void ebb_loader_destroy(ebb_loader_t *l)
{
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    l->quit = true;
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
    for (int i = 0; i < l->started; i++)
        pthread_join(l->worker[i].id, NULL);
    for (int i = 0; l->worker && i <= l->threads; i++) {
        ebb_reader_destroy(l->worker[i].reader);
        ebb_dealer_free(&l->worker[i].dealer);
    }
    ebb_free(l->worker);
    ebb_batches_cleanup(&l->batches);
    ebb_plan_cleanup(&l->plan);
    ebb_blocks_cleanup(&l->blocks);
    pthread_cond_destroy(&l->ready);
    pthread_cond_destroy(&l->work);
    pthread_mutex_destroy(&l->lock);
    ebb_free(l->lanes);
    ebb_free(l);
}

/* ---- lease ---- */

static int64_t allocations(const ebb_loader_t *l)
{
    return atomic_load(&l->blocks.allocations) + atomic_load(&l->batches.allocations);
}

static ebb_status_t deliver(ebb_loader_t *l, ebb_slot_t *slot, const ebb_batch_t **batch_p)
{
    if (slot->error.status != EBB_OK)
        return ebb_error_set(&slot->error);
    slot->state = EBB_SLOT_HELD;
    l->held++;
    l->next_deliver++;
    l->step++;
    if (l->stats.batches++ == 0)
        l->allocations_before = allocations(l);
    l->stats.rows += slot->batch.rows;
    l->stats.nnz += slot->batch.nnz;
    l->stats.rows_skipped += slot->skipped;
    *batch_p = &slot->batch;
    return EBB_OK;
}

/* Work or wait until the next batch is there; with the lock held. */
static ebb_status_t wait_for_batch(ebb_loader_t *l, ebb_slot_t **slot_p)
{
    task_t task;
    for (;;) {
        *slot_p = find_slot(l, EBB_SLOT_READY, l->next_deliver);
        if (*slot_p)
            return EBB_OK;
        bool soon = find_slot(l, EBB_SLOT_FILLING, l->next_deliver) != NULL; /* a block meanwhile: they are small */
        if (take_task(l, &l->worker[l->threads], !soon, &task)) {
            run_task(l, &l->worker[l->threads], &task);
            continue;
        }
        if (l->error.status != EBB_OK) {
            ebb_status_t status = ebb_error_set(&l->error);
            l->error.status = EBB_OK;
            return status;
        }
        pthread_cond_wait(&l->ready, &l->lock);
    }
}

ebb_status_t ebb_loader_acquire(ebb_loader_t *l, const ebb_batch_t **batch_p)
{
    ebb_slot_t *slot;
    *batch_p = NULL;
    if (l->step >= l->plan.steps) {
        l->epoch++;
        l->step = 0;
        return EBB_END;
    }
    if (l->held >= l->batches.n)
        return EBB_FAIL(EBB_EINVAL, "all %d batches are held: release one first", l->batches.n);
    int64_t began = ebb_now_ns();
    pthread_mutex_lock(&l->lock);
    if (l->paused) {
        l->paused = false;
        pthread_cond_broadcast(&l->work);
    }
    ebb_status_t status = wait_for_batch(l, &slot);
    l->stats.stall_ns += ebb_now_ns() - began;
    if (status == EBB_OK)
        status = deliver(l, slot, batch_p);
    pthread_mutex_unlock(&l->lock);
    return status;
}

const ebb_batch_t *ebb_loader_peek(ebb_loader_t *l, int ahead)
{
    pthread_mutex_lock(&l->lock);
    const ebb_slot_t *slot = find_slot(l, EBB_SLOT_READY, l->next_deliver + ahead);
    const ebb_batch_t *batch = slot && slot->error.status == EBB_OK ? &slot->batch : NULL;
    pthread_mutex_unlock(&l->lock);
    return batch;
}

void ebb_loader_release(ebb_loader_t *l, const ebb_batch_t *batch)
{
    if (!batch)
        return;
    pthread_mutex_lock(&l->lock);
    for (int i = 0; i < l->batches.n; i++)
        if (&l->batches.slot[i].batch == batch && l->batches.slot[i].state == EBB_SLOT_HELD) {
            l->batches.slot[i].state = EBB_SLOT_FREE;
            l->held--;
        }
    pthread_cond_signal(&l->work);
    pthread_mutex_unlock(&l->lock);
}

/* ---- cursor ---- */

ebb_status_t ebb_loader_seek(ebb_loader_t *l, int64_t epoch, int64_t step)
{
    int64_t steps = l->plan.steps;
    if (epoch < 0 || step < 0 || step > steps || epoch > INT64_MAX / steps - 2)
        return EBB_FAIL(EBB_EINVAL, "cannot go to epoch %lld step %lld: an epoch has %lld steps", (long long)epoch,
                        (long long)step, (long long)steps);
    if (l->held > 0)
        return EBB_FAIL(EBB_EINVAL, "%d batches are still held: release them before moving the loader", l->held);
    pthread_mutex_lock(&l->lock);
    l->paused = true;
    while (l->running > 0)
        pthread_cond_wait(&l->ready, &l->lock);
    for (int i = 0; i < l->batches.n; i++)
        l->batches.slot[i].state = EBB_SLOT_FREE;
    ebb_plan_reset(&l->plan, epoch, step);
    l->epoch = epoch;
    l->step = step;
    l->next_fill = l->next_deliver = 0;
    l->error.status = EBB_OK;
    l->paused = false;
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
    return EBB_OK;
}

static uint8_t hex_digit(char c)
{
    return (uint8_t)(c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : 0);
}

static void data_hash(const ebb_loader_t *l, uint8_t hash[16])
{
    const char *hex = l->info->hash;
    memset(hash, 0, 16);
    for (int i = 0; hex && i < 16 && hex[2 * i] && hex[2 * i + 1]; i++)
        hash[i] = (uint8_t)(hex_digit(hex[2 * i]) << 4 | hex_digit(hex[2 * i + 1]));
}

void ebb_loader_cursor(const ebb_loader_t *l, ebb_cursor_t *cursor)
{
    memset(cursor, 0, sizeof *cursor);
    cursor->seed = l->order.seed;
    cursor->epoch = l->epoch;
    cursor->step = l->step;
    data_hash(l, cursor->data_hash);
}

ebb_status_t ebb_loader_restore(ebb_loader_t *l, const ebb_cursor_t *cursor)
{
    uint8_t hash[16];
    data_hash(l, hash);
    if (memcmp(hash, cursor->data_hash, sizeof hash) != 0)
        return EBB_FAIL(EBB_EDATA,
                        "the cursor belongs to other data than %s: resume with the data set the run was started on",
                        l->info->name);
    if (cursor->seed != l->order.seed)
        return EBB_FAIL(
            EBB_EDATA,
            "the cursor belongs to seed %llu, the loader has %llu: resume with the seed the run was started with",
            (unsigned long long)cursor->seed, (unsigned long long)l->order.seed);
    return ebb_loader_seek(l, cursor->epoch, cursor->step);
}

void ebb_loader_stats(const ebb_loader_t *l, ebb_loader_stats_t *stats)
{
    *stats = l->stats;
    stats->bytes_decoded = atomic_load(&l->blocks.decoded_bytes);
    double whole = (double)l->info->nnz * (l->info->sparse ? 8 : 4) + (l->info->sparse ? (double)l->info->rows * 8 : 0);
    stats->bytes_read = whole > 0 ? (int64_t)((double)l->info->bytes / whole * (double)stats->bytes_decoded) : 0;
    stats->memory_bytes = atomic_load(&l->blocks.bytes) + atomic_load(&l->batches.bytes);
    stats->allocations = l->stats.batches > 0 ? allocations(l) - l->allocations_before : 0;
}

int64_t ebb_loader_max_lane_rows(const ebb_loader_t *l)
{
    int64_t most = 0;
    for (int32_t i = 0; i < l->plan.n_lanes; i++)
        most = l->plan.lane[i].share > most ? l->plan.lane[i].share : most;
    return most;
}
