/* The policy `pause`: any number of windows at one size.
 *
 * Where stopping is free, the cheapest slots. Else a dynamic programme over a grid of quanta: R[w] and P[w] are the
 * least costs at the present moment with w quanta of work done, running or paused. One byte a cell remembers how it was
 * reached. A restart lasts a whole number of quanta on the grid, but begins restart_s before the work does, so that its
 * energy is exact; the last quantum of work is charged for the part that is needed. */
#include "plan/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST_CELLS       ((int64_t)64 << 20)
#define MOST_EXACT_CELLS 3e5

typedef struct keyed_slot {
    double key;
    int64_t slot;
} keyed_slot_t;

static int by_key(const void *a, const void *b)
{
    const keyed_slot_t *x = a, *y = b;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return x->slot < y->slot ? -1 : x->slot > y->slot;
}

static double slot_end(const ebb_planner_t *planner, int64_t slot)
{
    return fmin((double)(slot + 1) * planner->horizon->slot_s, planner->deadline_s);
}

/* used[slot]: seconds. The slot that is used in part joins its neighbour, if one is used. */
static ebb_status_t add_slots(ebb_planner_t *planner, const double *used, int64_t n, ebb_plan_t *plan)
{
    for (int64_t i = 0; i < n; i++) {
        double begin = (double)i * planner->horizon->slot_s, end = slot_end(planner, i);
        if (used[i] <= 0)
            continue;
        bool follows = i > 0 && used[i - 1] > 0, leads = i + 1 < n && used[i + 1] > 0;
        if (!follows && leads)
            begin = end - used[i];
        EBB_TRY(ebb_plan_add(plan, begin, begin + used[i], planner->job->base));
    }
    return EBB_OK;
}

static ebb_status_t take_cheapest(ebb_planner_t *planner, ebb_plan_t *plan)
{
    const ebb_plan_horizon_t *h = planner->horizon;
    const ebb_plan_job_t *job = planner->job;
    double need = job->work / job->sizes[job->base].rate, *used;
    int64_t n = (int64_t)ceil(planner->deadline_s / h->slot_s - 1e-9);
    keyed_slot_t *order;
    EBB_TRY(SCRATCH(&planner->order, "planner: order of slots", n, &order));
    EBB_TRY(SCRATCH(&planner->step, "planner: use of slots", n, &used));
    for (int64_t i = 0; i < n; i++)
        order[i] = (keyed_slot_t){planner->rate[i], i};
    qsort(order, (size_t)n, sizeof *order, by_key);
    memset(used, 0, (size_t)n * sizeof *used);
    for (int64_t i = 0; i < n && need > TIME_EPS; i++) {
        int64_t slot = order[i].slot;
        double room = slot_end(planner, slot) - (double)slot * h->slot_s;
        used[slot] = fmin(room, need);
        need -= used[slot];
    }
    return add_slots(planner, used, n, plan);
}

/* ---- the dynamic programme ---- */

enum { BY_RESTART = 1, BY_START = 2, PAUSED_NOW = 4 };

typedef struct grid {
    ebb_planner_t *planner;
    double q, last_s;  /* quantum; seconds of the last quantum of work that are needed */
    int64_t t, w, r;   /* quanta until the deadline, of work, of a restart */
    double *run, *old; /* R of now and of the last quantum: w + 1 each */
    double *paused;    /* ring of r + 1 layers of P */
    uint8_t *choice;   /* t x (w + 1) */
    int64_t best_t;    /* quanta passed when the best plan ends; 0: none */
    double best;
} grid_t;

static bool divides(double q, double time)
{
    double parts = time / q;
    return fabs(parts - nearbyint(parts)) < 1e-9 * fmax(1, parts);
}

/* The coarsest grid that divides slot, duration and restart time, if it is small; else one that divides slot and
 * duration, of about five minutes. */
static double choose_quantum(const ebb_planner_t *planner, double need)
{
    static const int parts[] = {1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60};
    double slot = planner->horizon->slot_s, fine = slot / ceil(slot / 300);
    if (planner->job->quantum_s > 0)
        return planner->job->quantum_s;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        double q = slot / parts[i];
        if (planner->deadline_s / q * (need / q) > MOST_EXACT_CELLS)
            break;
        if (divides(q, need) && divides(q, planner->job->restart_s))
            return q;
    }
    return fine;
}

static ebb_status_t size_grid(grid_t *g, double need)
{
    ebb_planner_t *planner = g->planner;
    int64_t cells;
    g->q = choose_quantum(planner, need);
    for (;; g->q *= 2) {
        double t = ceil(planner->deadline_s / g->q - 1e-9), w = fmax(1, ceil(need / g->q - 1e-9));
        if (t * (w + 1) > (double)MOST_CELLS)
            continue;
        g->t = (int64_t)t;
        g->w = (int64_t)w;
        break;
    }
    g->r = (int64_t)ceil(planner->job->restart_s / g->q - 1e-9);
    g->r = g->r < g->t ? g->r : g->t;
    g->last_s = need - (double)(g->w - 1) * g->q;
    cells = (g->w + 1) * (g->r + 3);
    EBB_TRY(SCRATCH(&planner->layer, "planner: layers of costs", cells, &g->run));
    g->old = g->run + g->w + 1;
    g->paused = g->old + g->w + 1;
    for (int64_t i = 0; i < cells; i++)
        g->run[i] = INFINITY;
    return SCRATCH(&planner->choice, "planner: choices", g->t * (g->w + 1), &g->choice);
}

static double span(const grid_t *g, double from, double to)
{
    return ebb_plan_integral(g->planner, to) - ebb_plan_integral(g->planner, from);
}

/* Cost of a restart whose work begins at quantum t: idling until it begins, its time at full power, its joules. */
static double restart_cost(const grid_t *g, int64_t t)
{
    const ebb_plan_job_t *job = g->planner->job;
    double work = (double)t * g->q, begin = work - job->restart_s;
    if (t < g->r)
        return INFINITY;
    return job->idle_w * span(g, (double)(t - g->r) * g->q, begin) +
           job->sizes[job->base].power_w * span(g, begin, work) + job->restart_j * ebb_plan_rate_at(g->planner, begin);
}

static double *paused_at(const grid_t *g, int64_t t)
{
    return g->paused + t % (g->r + 1) * (g->w + 1);
}

/* Quantum t for the amounts of work from which the deadline can still be met. */
static void advance(grid_t *g, int64_t t)
{
    const ebb_plan_job_t *job = g->planner->job;
    double *run = g->run, *old = g->old, *stopped = paused_at(g, t), *later = paused_at(g, t + 1);
    const double *restart = paused_at(g, t >= g->r ? t - g->r : 0);
    double begin = (double)t * g->q, power = job->sizes[job->base].power_w;
    double c = power * span(g, begin, begin + g->q), idle = job->idle_w * span(g, begin, begin + g->q);
    double again = restart_cost(g, t), last = power * span(g, begin, begin + g->last_s);
    int64_t lo = g->w - (g->t - t), hi = t < g->w - 1 ? t : g->w - 1;
    uint8_t *choice = g->choice + t * (g->w + 1);
    lo = lo > 0 ? lo : 0;
    /* P of r quanta ago is read before its layer of the ring becomes that of the next moment */
    for (int64_t w = lo; w <= hi; w++) {
        double on = old[w], off = restart[w] + again;
        run[w + 1] = (on <= off ? on : off) + (w + 1 < g->w ? c : last);
        choice[w] = on <= off ? 0 : BY_RESTART;
    }
    if (lo == 0 && job->state == EBB_PLAN_FRESH) {
        bool may = job->max_wait_s == 0 || begin <= fmax(0, job->max_wait_s) + TIME_EPS;
        run[1] = may ? (g->w > 1 ? c : last) : INFINITY;
        choice[0] = may ? BY_START : 0;
    }
    for (int64_t w = lo; w <= hi; w++) {
        bool stop = old[w] < stopped[w];
        later[w] = (stop ? old[w] : stopped[w]) + idle;
        choice[w] |= stop ? PAUSED_NOW : 0;
    }
    run[0] = INFINITY;
}

static void note_end(grid_t *g, int64_t t)
{
    double end = (double)t * g->q + g->last_s, cost = g->run[g->w] + g->planner->time_rate * end;
    if (end <= g->planner->deadline_s + TIME_EPS && cost < g->best) {
        g->best = cost;
        g->best_t = t + 1;
    }
}

static void run_grid(grid_t *g)
{
    ebb_plan_state_t state = g->planner->job->state;
    g->best = INFINITY;
    g->old[0] = state == EBB_PLAN_RUNNING ? 0 : INFINITY;
    paused_at(g, 0)[0] = state == EBB_PLAN_PAUSED ? 0 : INFINITY;
    for (int64_t t = 0; t < g->t; t++) {
        advance(g, t);
        note_end(g, t);
        double *swap = g->run;
        g->run = g->old;
        g->old = swap;
    }
}

/* Walk back from the end; segments are found last first. */
static ebb_status_t trace(const grid_t *g, ebb_plan_t *plan)
{
    const ebb_plan_job_t *job = g->planner->job;
    int64_t t = g->best_t, w = g->w;
    double end = (double)(t - 1) * g->q + g->last_s;
    bool running = true;
    while (t > 0) {
        if (!running) {
            t--;
            running = g->choice[t * (g->w + 1) + w] & PAUSED_NOW;
            end = (double)t * g->q;
            continue;
        }
        uint8_t how = g->choice[--t * (g->w + 1) + --w];
        double begin = (double)t * g->q;
        if ((how & (BY_RESTART | BY_START)) || t == 0) {
            bool restart = !(how & BY_START) && (how & BY_RESTART);
            EBB_TRY(ebb_plan_add(plan, restart ? begin - job->restart_s : begin, end, job->base));
            t -= restart ? g->r : 0;
            running = false;
        }
        if (how & BY_START)
            break;
    }
    for (int64_t i = 0, j = plan->n_segments - 1; i < j; i++, j--) {
        ebb_plan_segment_t swap = plan->segment[i];
        plan->segment[i] = plan->segment[j];
        plan->segment[j] = swap;
    }
    return EBB_OK;
}

static ebb_status_t search_grid(ebb_planner_t *planner, ebb_plan_t *plan)
{
    grid_t g = {.planner = planner};
    EBB_TRY(size_grid(&g, planner->job->work / planner->job->sizes[planner->job->base].rate));
    run_grid(&g);
    if (g.best_t == 0)
        return ebb_plan_defer(planner, plan);
    return trace(&g, plan);
}

static bool waits_too_long(const ebb_plan_job_t *job, const ebb_plan_t *plan)
{
    return job->state == EBB_PLAN_FRESH && job->max_wait_s != 0 &&
           plan->segment[0].begin_s > fmax(0, job->max_wait_s) + TIME_EPS;
}

ebb_status_t ebb_plan_pause(ebb_planner_t *planner, ebb_plan_t *plan)
{
    const ebb_plan_job_t *job = planner->job;
    bool free = job->restart_s == 0 && job->restart_j == 0 && job->idle_w == 0 && job->time_weight_g == 0;
    if (free) {
        EBB_TRY(take_cheapest(planner, plan));
        if (!waits_too_long(job, plan))
            return EBB_OK;
        plan->n_segments = 0;
    }
    EBB_TRY(search_grid(planner, plan));
    /* the grid may hide a window that meets a boundary between its points */
    ebb_plan_t window = {0};
    ebb_status_t status = ebb_plan_defer(planner, &window);
    if (status == EBB_OK && ebb_plan_cost(planner, &window) < ebb_plan_cost(planner, plan)) {
        plan->n_segments = 0;
        status = ebb_plan_add(plan, window.segment[0].begin_s, window.segment[0].end_s, job->base);
    }
    ebb_plan_free(&window);
    return status;
}
