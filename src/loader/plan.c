/* The plan. Windows are taken in the order of the steps that first need them, lane after lane, so that with any number
 * of buffers the earliest need is met first. When the step being planned finds no buffer, planning stops and goes on
 * where it was once a window has been released; a half-planned window keeps what it has pinned. */
#include "loader/plan.h"
#include "base/alloc.h"

enum { HELD = 3, AHEAD = 3 }; /* windows of a lane: being gathered from; ahead of the step that is planned */

static ebb_status_t make_groups(ebb_plan_t *p)
{
    p->n_groups = p->order->blocks && p->order->blocks->groups > 1 ? p->n_lanes : 1;
    EBB_TRY(EBB_NEW_ARRAY("groups of blocks", p->n_groups, &p->groups));
    for (int64_t i = 0; i < p->n_groups; i++)
        EBB_TRY(ebb_order_group_init(p->order, &p->groups[i]));
    for (int32_t l = 0; l < p->n_lanes; l++)
        p->lane[l].group = &p->groups[p->n_groups > 1 ? l : 0];
    return EBB_OK;
}

static ebb_status_t make_teams(ebb_plan_t *p, int depth)
{
    const ebb_order_t *o = p->order;
    EBB_TRY(EBB_NEW_ARRAY("teams of lanes", p->n_lanes, &p->team));
    for (int32_t l = 0; l < p->n_lanes; l++) {
        ebb_plan_team_t team = {.first = l, .n = 1};
        ebb_order_team(o, p->lane[l].lane, &team.from, &team.to);
        if (p->n_teams > 0 && p->team[p->n_teams - 1].from == team.from)
            p->team[p->n_teams - 1].n++;
        else
            p->team[p->n_teams++] = team;
    }
    p->deals = o->shuffle && p->blocks->info->sparse;
    if (!p->deals)
        return EBB_OK;
    int64_t steps = ebb_order_window_steps(o), share = (o->batch + o->lanes - 1) / o->lanes;
    p->deal_rooms = 2 + (depth - 1) / steps;
    p->deal_rows = steps * share < o->rows ? steps * share : o->rows;
    EBB_TRY(EBB_NEW_ARRAY("dealt rows", p->deal_rooms * p->deal_rows * p->n_lanes, &p->dealt));
    for (int32_t l = 0; l < p->n_lanes; l++)
        p->lane[l].dealt = p->dealt + l * p->deal_rooms * p->deal_rows;
    return EBB_OK;
}

ebb_status_t ebb_plan_init(ebb_plan_t *p, const ebb_order_t *order, ebb_blocks_t *blocks, const int32_t *lanes,
                           int32_t n_lanes, int depth)
{
    p->order = order;
    p->blocks = blocks;
    p->steps = ebb_order_steps(order);
    ebb_order_epoch_init(order, 0, &p->epoch);
    p->ring_size = HELD + AHEAD;
    EBB_TRY(EBB_NEW_ARRAY("lane plans", n_lanes, &p->lane));
    EBB_TRY(EBB_NEW_ARRAY("planned windows", p->ring_size * n_lanes, &p->windows));
    p->n_lanes = n_lanes;
    for (int64_t i = 0; i < p->ring_size * n_lanes; i++) {
        ebb_plan_window_t *w = &p->windows[i];
        EBB_TRY(ebb_order_window_reserve(order, &w->at));
        EBB_TRY(ebb_grow("blocks of a window", (void **)&w->block, &w->room, w->at.room, sizeof *w->block));
    }
    for (int32_t l = 0; l < n_lanes; l++) {
        p->lane[l].ring = p->windows + l * p->ring_size;
        p->lane[l].lane = lanes[l];
        p->lane[l].rows = ebb_order_lane_rows(order, lanes[l]);
        p->lane[l].share = ebb_order_lane_share(order, lanes[l]);
    }
    EBB_TRY(make_teams(p, depth));
    return make_groups(p);
}

void ebb_plan_cleanup(ebb_plan_t *p)
{
    for (int64_t i = 0; i < p->n_lanes * p->ring_size; i++) {
        ebb_order_window_free(&p->windows[i].at);
        ebb_free(p->windows[i].block);
    }
    for (int64_t i = 0; p->groups && i < p->n_groups; i++)
        ebb_order_group_free(&p->groups[i]);
    ebb_free(p->windows);
    ebb_free(p->lane);
    ebb_free(p->team);
    ebb_free(p->groups);
    ebb_free(p->dealt);
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
    p->queue = p->unhinted = NULL;
    p->hinted = 0;
    ebb_order_epoch_init(p->order, ebb_plan_epoch(p, 0), &p->epoch);
    for (int32_t l = 0; l < p->n_lanes; l++) {
        ebb_plan_lane_t *lane = &p->lane[l];
        int64_t end;
        while (lane->head < lane->tail)
            pop_window(p, lane);
        lane->epoch = p->epoch.epoch;
        ebb_plan_rows(lane, ebb_plan_step(p, 0), &lane->end, &end);
    }
    for (int32_t t = 0; t < p->n_teams; t++)
        p->team[t].deal_seq = 0;
}

static ebb_status_t begin_window(ebb_plan_t *p, ebb_plan_lane_t *lane)
{
    ebb_plan_window_t *w = ebb_plan_window(p, lane, lane->tail);
    EBB_TRY(ebb_order_window_at(&p->epoch, lane->group, lane->lane, lane->end / lane->share, &w->at));
    EBB_TRY(ebb_grow("blocks of a window", (void **)&w->block, &w->room, w->at.places, sizeof(ebb_block_t *)));
    lane->tail++;
    lane->end = w->at.begin + w->at.rows;
    w->epoch = p->epoch.epoch;
    w->last_seq = p->epoch.epoch * p->steps + (lane->end - 1) / lane->share - p->base;
    w->pinned = 0;
    w->ready = false;
    w->deal = p->deals ? EBB_DEAL_WAITS : EBB_DEAL_DONE;
    w->dealt = NULL;
    w->error.status = EBB_OK;
    return EBB_OK;
}

static void enqueue(ebb_plan_t *p, ebb_block_t *block)
{
    block->queued = NULL;
    if (p->queue)
        p->queue_end->queued = block;
    else
        p->queue = block;
    p->queue_end = block;
    if (!p->unhinted)
        p->unhinted = block;
}

/* Pin what the window still lacks; *done_p: all of it. */
static ebb_status_t pin_window(ebb_plan_t *p, ebb_plan_window_t *w, bool beyond, bool *done_p)
{
    *done_p = false;
    while (w->pinned < w->at.places) {
        ebb_block_t *block;
        bool fresh;
        EBB_TRY(ebb_blocks_pin(p->blocks, w->at.block[w->pinned], beyond, &block, &fresh));
        if (!block)
            return EBB_OK;
        w->block[w->pinned++] = block;
        if (fresh)
            enqueue(p, block);
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
        EBB_TRY(begin_window(p, lane));
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
    ebb_block_t *block = p->queue;
    if (!block)
        return NULL;
    p->queue = block->queued;
    if (p->unhinted == block)
        p->unhinted = block->queued;
    else
        p->hinted--;
    return block;
}

ebb_block_t *ebb_plan_next_hint(ebb_plan_t *p, int ahead)
{
    ebb_block_t *block = p->unhinted;
    if (!block || p->hinted >= ahead)
        return NULL;
    p->unhinted = block->queued;
    p->hinted++;
    return block;
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

ebb_plan_window_t *ebb_plan_window_of(const ebb_plan_t *p, const ebb_plan_lane_t *lane, int64_t epoch, int64_t step)
{
    for (int64_t i = lane->head; i < lane->tail; i++) {
        ebb_plan_window_t *w = ebb_plan_window(p, lane, i);
        if (w->epoch == epoch && step >= w->at.step && step < w->at.step + w->at.steps)
            return w;
    }
    return NULL;
}

bool ebb_plan_ready(ebb_plan_t *p, int64_t seq)
{
    if (seq >= p->seq)
        return false;
    int64_t epoch = ebb_plan_epoch(p, seq), step = ebb_plan_step(p, seq);
    for (int32_t l = 0; l < p->n_lanes; l++) {
        ebb_plan_window_t *w = ebb_plan_window_of(p, &p->lane[l], epoch, step);
        if (w && (!window_ready(w) || w->deal != EBB_DEAL_DONE))
            return false;
    }
    return true;
}

/* ---- dealing ---- */

uint32_t *ebb_plan_dealt(const ebb_plan_t *p, const ebb_plan_lane_t *lane, const ebb_plan_window_t *w)
{
    int64_t i = lane->head;
    while (ebb_plan_window(p, lane, i) != w)
        i++;
    return lane->dealt + i % p->deal_rooms * p->deal_rows;
}

/* Is the window decoded, and is there room for its rows? */
static bool can_deal(const ebb_plan_t *p, const ebb_plan_lane_t *lane, ebb_plan_window_t *w)
{
    int64_t i = lane->head;
    while (ebb_plan_window(p, lane, i) != w)
        i++;
    return i < lane->head + p->deal_rooms && window_ready(w);
}

/* The windows that hold step deal_seq of a team: how many there are, and the last step of them; -1: not all can be
 * dealt.
 */
static int32_t team_windows(const ebb_plan_t *p, const ebb_plan_team_t *team, int64_t *last)
{
    int64_t epoch = ebb_plan_epoch(p, team->deal_seq), step = ebb_plan_step(p, team->deal_seq);
    int32_t n = 0;
    *last = team->deal_seq;
    for (int32_t i = 0; i < team->n; i++) {
        const ebb_plan_lane_t *lane = &p->lane[team->first + i];
        ebb_plan_window_t *w = ebb_plan_window_of(p, lane, epoch, step);
        if (!w || w->deal != EBB_DEAL_WAITS) /* dealt for an earlier step: its rows end before its steps do */
            continue;
        if (!can_deal(p, lane, w))
            return -1;
        n++;
        *last = w->last_seq > *last ? w->last_seq : *last;
    }
    return n;
}

bool ebb_plan_next_deal(ebb_plan_t *p, ebb_plan_deal_t *deal)
{
    for (int32_t t = 0; p->deals && t < p->n_teams; t++) {
        ebb_plan_team_t *team = &p->team[t];
        int32_t n = 0;
        int64_t last = team->deal_seq;
        while (team->deal_seq < p->seq && (n = team_windows(p, team, &last)) == 0)
            team->deal_seq++; /* the tail of the epoch, where these lanes have no rows */
        if (n <= 0 || team->deal_seq >= p->seq)
            continue;
        *deal = (ebb_plan_deal_t){
            .team = team, .epoch = ebb_plan_epoch(p, team->deal_seq), .step = ebb_plan_step(p, team->deal_seq)};
        for (int32_t i = 0; i < team->n; i++) {
            ebb_plan_window_t *w = ebb_plan_window_of(p, &p->lane[team->first + i], deal->epoch, deal->step);
            if (w)
                w->deal = EBB_DEAL_RUNS;
        }
        team->deal_seq = last + 1;
        return true;
    }
    return false;
}
