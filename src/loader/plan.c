/* The plan. Windows are taken in the order of the steps that first need them, lane after lane, so that with any number
 * of buffers the earliest need is met first. When the step being planned finds no buffer, planning stops and goes on
 * where it was once a window has been released; a half-planned window keeps what it has pinned. */
#include "loader/plan.h"
#include "base/alloc.h"

enum { AHEAD = 3 }; /* windows a lane may be ahead of the step that is planned */

int64_t ebb_plan_windows_per_step(const ebb_order_t *order)
{
    int64_t share = (order->batch + order->lanes - 1) / order->lanes;
    int64_t window = (order->blocks ? order->blocks->min_rows : order->block_rows) * order->window_blocks;
    int64_t n =
        (share + window - 1) / window; /* and a part at either end, and those that a short block or a group ends */
    return n + 3 + (order->blocks ? 1 + n * order->window_blocks / (order->blocks->n / order->blocks->groups) : 0);
}

static ebb_status_t make_groups(ebb_plan_t *p)
{
    const ebb_order_t *o = p->order;
    int64_t most = ebb_order_group_most(o), n = o->blocks && o->blocks->groups > 1 ? p->n_lanes : 1;
    EBB_TRY(EBB_NEW_ARRAY("groups of blocks", n, &p->groups));
    if (most > 0)
        EBB_TRY(EBB_NEW_ARRAY("groups of blocks", n * (most + 1), &p->group_starts));
    for (int64_t i = 0; i < n; i++) {
        p->groups[i].place = -1;
        p->groups[i].start = most > 0 ? p->group_starts + i * (most + 1) : NULL;
    }
    for (int32_t l = 0; l < p->n_lanes; l++)
        p->lane[l].group = &p->groups[n > 1 ? l : 0];
    return EBB_OK;
}

ebb_status_t ebb_plan_init(ebb_plan_t *p, const ebb_order_t *order, ebb_blocks_t *blocks, const int32_t *lanes,
                           int32_t n_lanes)
{
    ebb_plan_window_t *window;
    p->order = order;
    p->blocks = blocks;
    p->n_lanes = n_lanes;
    p->steps = ebb_order_steps(order);
    ebb_order_epoch_init(order, 0, &p->epoch);
    p->missing = (uint32_t)p->epoch.missing;
    p->ring_size = ebb_plan_windows_per_step(order) + AHEAD;
    int64_t windows = p->ring_size * n_lanes, pins = windows * order->window_blocks;
    EBB_TRY(EBB_NEW_ARRAY("lane plans", n_lanes, &p->lane));
    EBB_TRY(EBB_NEW_ARRAY("planned windows", windows, &window));
    p->lane[0].ring = window;
    EBB_TRY(EBB_NEW_ARRAY("planned blocks", pins, &p->storage));
    p->queue_size = pins;
    EBB_TRY(EBB_NEW_ARRAY("decode queue", pins, &p->queue));
    if (order->blocks)
        EBB_TRY(EBB_NEW_ARRAY("planned blocks", windows * (order->window_blocks + 1), &p->starts));
    for (int64_t i = 0; i < windows; i++) {
        window[i].block = p->storage + i * order->window_blocks;
        window[i].start = order->blocks ? p->starts + i * (order->window_blocks + 1) : NULL;
    }
    for (int32_t l = 0; l < n_lanes; l++) {
        p->lane[l].ring = window + l * p->ring_size;
        p->lane[l].lane = lanes[l];
        p->lane[l].rows = ebb_order_lane_rows(order, lanes[l]);
        p->lane[l].share = ebb_order_lane_share(order, lanes[l]);
    }
    return make_groups(p);
}

void ebb_plan_cleanup(ebb_plan_t *p)
{
    if (p->lane)
        ebb_free(p->lane[0].ring);
    ebb_free(p->lane);
    ebb_free(p->storage);
    ebb_free(p->starts);
    ebb_free(p->groups);
    ebb_free(p->group_starts);
    ebb_free(p->queue);
}

static void pop_window(ebb_plan_t *p, ebb_plan_lane_t *lane)
{
    ebb_plan_window_t *w = ebb_plan_window(p, lane, lane->head++);
    for (int32_t k = 0; k < w->pinned; k++)
        ebb_blocks_unpin(p->blocks, w->block[k]);
    w->pinned = 0;
}

void ebb_plan_reset(ebb_plan_t *p, int64_t epoch, int64_t step)
{
    p->base = epoch * p->steps + step;
    p->seq = 0;
    p->at_lane = 0;
    p->queue_head = p->queue_tail = 0;
    ebb_order_epoch_init(p->order, ebb_plan_epoch(p, 0), &p->epoch);
    for (int32_t l = 0; l < p->n_lanes; l++) {
        ebb_plan_lane_t *lane = &p->lane[l];
        int64_t end;
        while (lane->head < lane->tail)
            pop_window(p, lane);
        lane->epoch = p->epoch.epoch;
        ebb_plan_rows(lane, ebb_plan_step(p, 0), &lane->end, &end);
    }
}

static void begin_window(ebb_plan_t *p, ebb_plan_lane_t *lane)
{
    ebb_plan_window_t *w = ebb_plan_window(p, lane, lane->tail++);
    ebb_order_window_at(&p->epoch, lane->group, w->start, lane->lane, lane->end, &w->at);
    lane->end = w->at.begin + w->at.rows;
    w->epoch = p->epoch.epoch;
    w->last_seq = p->epoch.epoch * p->steps + (lane->end - 1) / lane->share - p->base;
    w->pinned = 0;
    w->ready = false;
}

/* Pin what the window still lacks; *done_p: all of it. */
static ebb_status_t pin_window(ebb_plan_t *p, ebb_plan_window_t *w, bool beyond, bool *done_p)
{
    *done_p = false;
    while (w->pinned < w->at.places) {
        ebb_block_t *block;
        bool fresh;
        int64_t id = ebb_order_window_block(&p->epoch, &w->at, w->pinned);
        EBB_TRY(ebb_blocks_pin(p->blocks, id, beyond, &block, &fresh));
        if (!block)
            return EBB_OK;
        w->block[w->pinned++] = block;
        if (fresh)
            p->queue[p->queue_tail++ % p->queue_size] = block;
    }
    *done_p = true;
    return EBB_OK;
}

/* Windows of one lane for the step being planned; *done_p: it has them all. */
static ebb_status_t plan_lane(ebb_plan_t *p, ebb_plan_lane_t *lane, bool beyond, bool *done_p)
{
    int64_t begin, end;
    ebb_plan_rows(lane, ebb_plan_step(p, p->seq), &begin, &end);
    if (lane->epoch != p->epoch.epoch) {
        lane->epoch = p->epoch.epoch;
        lane->end = 0;
    }
    for (;;) {
        ebb_plan_window_t *last = lane->tail > lane->head ? ebb_plan_window(p, lane, lane->tail - 1) : NULL;
        *done_p = true;
        if (last && last->pinned < last->at.places)
            EBB_TRY(pin_window(p, last, beyond, done_p));
        if (!*done_p || begin == end || lane->end >= end)
            return EBB_OK;
        *done_p = lane->tail - lane->head < p->ring_size;
        if (!*done_p)
            return EBB_OK;
        begin_window(p, lane);
    }
}

/* The first step after p->seq at which a lane needs a window that is not planned. */
static int64_t next_need(const ebb_plan_t *p)
{
    int64_t this_epoch = p->epoch.epoch * p->steps - p->base, need = this_epoch + p->steps;
    for (int32_t l = 0; l < p->n_lanes; l++) {
        const ebb_plan_lane_t *lane = &p->lane[l];
        int64_t at = this_epoch + lane->end / lane->share;
        if (lane->end < lane->rows && at < need)
            need = at;
    }
    return need > p->seq ? need : p->seq + 1;
}

ebb_status_t ebb_plan_advance(ebb_plan_t *p, bool beyond)
{
    int64_t first = p->seq;
    for (;;) {
        for (; p->at_lane < p->n_lanes; p->at_lane++) {
            bool done;
            EBB_TRY(plan_lane(p, &p->lane[p->at_lane], beyond && p->seq == first, &done));
            if (!done)
                return EBB_OK;
        }
        p->at_lane = 0;
        p->seq = next_need(p);
        if (ebb_plan_step(p, p->seq) == 0)
            ebb_order_epoch_init(p->order, ebb_plan_epoch(p, p->seq), &p->epoch);
    }
}

ebb_block_t *ebb_plan_next_block(ebb_plan_t *p)
{
    return p->queue_head < p->queue_tail ? p->queue[p->queue_head++ % p->queue_size] : NULL;
}

void ebb_plan_release(ebb_plan_t *p, int64_t seq)
{
    for (int32_t l = 0; l < p->n_lanes; l++) {
        ebb_plan_lane_t *lane = &p->lane[l];
        while (lane->head < lane->tail && ebb_plan_window(p, lane, lane->head)->last_seq < seq)
            pop_window(p, lane);
    }
}

static bool window_ready(ebb_plan_window_t *w)
{
    for (int32_t k = 0; k < w->at.places && !w->ready; k++)
        if (w->block[k]->state == EBB_BLOCK_QUEUED)
            return false;
    w->ready = true;
    return true;
}

bool ebb_plan_ready(ebb_plan_t *p, int64_t seq)
{
    if (seq >= p->seq)
        return false;
    int64_t epoch = ebb_plan_epoch(p, seq), step = ebb_plan_step(p, seq);
    for (int32_t l = 0; l < p->n_lanes; l++) {
        ebb_plan_lane_t *lane = &p->lane[l];
        int64_t begin, end;
        ebb_plan_rows(lane, step, &begin, &end);
        for (int64_t i = lane->head; i < lane->tail && begin < end; i++) {
            ebb_plan_window_t *w = ebb_plan_window(p, lane, i);
            if (w->epoch > epoch || (w->epoch == epoch && w->at.begin >= end))
                break;
            if (w->last_seq >= seq && !window_ready(w))
                return false;
        }
    }
    return true;
}
