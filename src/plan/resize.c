/* `elastic` where changes cost: a dynamic programme over (slot, size) with a price on work.
 *
 * For a price per work the cheapest choice of a size (or a pause) for every slot is a shortest path: a slot's choice
 * depends on the last one only through "the same size", "another size" or "paused", so the best of each suffices and a
 * slot costs O(sizes). Bisection finds the price at which enough work is done (Lagrangian relaxation; Everett 1963).
 * The surplus is then cut from boundaries of segments, dearest first. The relaxation's value is a lower bound. */
#include "plan/internal.h"

#include <math.h>
#include <string.h>

#define ROUNDS      32
#define FROM_START  (-1) /* not begun before this slot */
#define FROM_PAUSE  (-2)
#define NOT_RUNNING (-3) /* in a path: paused, not begun or done */
#define MOST_CUTS   4096

typedef struct net {
    ebb_planner_t *planner;
    const ebb_plan_job_t *job;
    int64_t n, s;       /* steps until the deadline, sizes */
    double step_s;      /* a step is a slot, or so many that a restart fits */
    double price;       /* grams per work */
    double *now, *next; /* s + 1 values: running at each size, paused */
    int32_t *from;      /* n x (s + 1) */
    int32_t *path, *best_path;
    double best_cost, bound;
} net_t;

static double step_begin(const net_t *net, int64_t i)
{
    return fmin((double)i * net->step_s, net->planner->deadline_s);
}

static ebb_status_t size_net(net_t *net)
{
    ebb_planner_t *planner = net->planner;
    double longest = fmax(net->job->restart_s, net->job->resize_s), slot = planner->horizon->slot_s;
    net->step_s = slot * fmax(1, ceil(longest / slot - 1e-9));
    net->n = (int64_t)ceil(planner->deadline_s / net->step_s - 1e-9);
    net->s = net->job->n_sizes;
    EBB_TRY(SCRATCH(&planner->layer, "planner: layers of costs", 2 * (net->s + 1), &net->now));
    net->next = net->now + net->s + 1;
    EBB_TRY(SCRATCH(&planner->choice, "planner: choices", net->n * (net->s + 1), &net->from));
    EBB_TRY(SCRATCH(&planner->path, "planner: paths", 2 * net->n, &net->path));
    net->best_path = net->path + net->n;
    return EBB_OK;
}

typedef struct step {
    double span;   /* integral of the rate over it */
    double rate;   /* at its beginning */
    double length; /* seconds */
    bool may_start;
} net_step_t;

static net_step_t look_at_step(const net_t *net, int64_t i)
{
    double begin = step_begin(net, i), end = step_begin(net, i + 1);
    const ebb_plan_job_t *job = net->job;
    return (net_step_t){.span = ebb_plan_integral(net->planner, end) - ebb_plan_integral(net->planner, begin),
                        .rate = ebb_plan_rate_at(net->planner, begin),
                        .length = end - begin,
                        .may_start = job->state == EBB_PLAN_FRESH &&
                                     (job->max_wait_s == 0 || begin <= fmax(0, job->max_wait_s) + TIME_EPS)};
}

/* The best and the second best running size. */
static void best_two(const double *value, int64_t s, int64_t *first_p, int64_t *second_p)
{
    int64_t a = -1, b = -1;
    for (int64_t k = 0; k < s; k++) {
        if (a < 0 || value[k] < value[a]) {
            b = a;
            a = k;
        } else if (b < 0 || value[k] < value[b]) {
            b = k;
        }
    }
    *first_p = a;
    *second_p = b;
}

static void advance(net_t *net, int64_t i)
{
    const ebb_plan_job_t *job = net->job;
    net_step_t st = look_at_step(net, i);
    int32_t *from = net->from + i * (net->s + 1);
    int64_t first, second;
    best_two(net->now, net->s, &first, &second);
    for (int64_t k = 0; k < net->s; k++) {
        const ebb_plan_size_t *size = &job->sizes[k];
        if (!ebb_plan_allowed(job, k)) {
            net->next[k] = INFINITY;
            continue;
        }
        int64_t other = first == k ? second : first;
        double best = net->now[k], lost = net->price * size->rate;
        from[k] = (int32_t)k;
        double again = net->now[net->s] + job->restart_j * st.rate + lost * job->restart_s;
        if (st.length >= job->restart_s && again < best) {
            best = again;
            from[k] = FROM_PAUSE;
        }
        double change = other < 0 ? INFINITY : net->now[other] + job->resize_j * st.rate + lost * job->resize_s;
        if (st.length >= job->resize_s && change < best) {
            best = change;
            from[k] = (int32_t)other;
        }
        if (st.may_start && 0 < best) {
            best = 0;
            from[k] = FROM_START;
        }
        net->next[k] = best + size->power_w * st.span - lost * st.length;
    }
    double stop = first < 0 ? INFINITY : net->now[first];
    from[net->s] = stop < net->now[net->s] ? (int32_t)first : FROM_PAUSE;
    net->next[net->s] = fmin(stop, net->now[net->s]) + job->idle_w * st.span;
}

/* Work of a path, with the work lost to changes. */
static double work_of(const net_t *net, const int32_t *path)
{
    const ebb_plan_job_t *job = net->job;
    double work = 0;
    bool begun = job->state != EBB_PLAN_FRESH;
    int32_t last = job->state == EBB_PLAN_RUNNING ? (int32_t)job->base : NOT_RUNNING;
    for (int64_t i = 0; i < net->n; i++) {
        if (path[i] >= 0) {
            double lost = last == path[i] ? 0 : last >= 0 ? job->resize_s : begun ? job->restart_s : 0;
            work += job->sizes[path[i]].rate * (step_begin(net, i + 1) - step_begin(net, i) - lost);
            begun = true;
        }
        last = path[i];
    }
    return work;
}

static void trace(net_t *net, int64_t steps, int64_t size)
{
    for (int64_t i = 0; i < net->n; i++)
        net->path[i] = NOT_RUNNING;
    for (int64_t i = steps - 1, k = size; i >= 0; i--) {
        int32_t from = net->from[i * (net->s + 1) + k];
        net->path[i] = k < net->s ? (int32_t)k : NOT_RUNNING;
        if (from == FROM_START)
            break;
        k = from == FROM_PAUSE ? net->s : from;
    }
}

/* The cheapest path for the present price; its value bounds every plan's cost from below. */
static double cheapest_path(net_t *net)
{
    double best = INFINITY;
    int64_t best_steps = 0, best_size = 0;
    ebb_plan_state_t state = net->job->state;
    for (int64_t k = 0; k < net->s; k++)
        net->now[k] = state == EBB_PLAN_RUNNING && k == net->job->base ? 0 : INFINITY;
    net->now[net->s] = state == EBB_PLAN_PAUSED ? 0 : INFINITY;
    for (int64_t i = 0; i < net->n; i++) {
        advance(net, i);
        for (int64_t k = 0; k < net->s; k++) {
            double value = net->next[k] + net->planner->time_rate * step_begin(net, i);
            if (value < best) {
                best = value;
                best_steps = i + 1;
                best_size = k;
            }
        }
        double *swap = net->now;
        net->now = net->next;
        net->next = swap;
    }
    trace(net, best_steps, best_size);
    net->bound = fmax(net->bound, best + net->price * net->job->work);
    return best;
}

/* ---- from a path to a plan ---- */

static ebb_status_t add_path(const net_t *net, const int32_t *path, ebb_plan_t *plan)
{
    plan->n_segments = 0;
    for (int64_t i = 0; i < net->n; i++)
        if (path[i] >= 0)
            EBB_TRY(ebb_plan_add(plan, step_begin(net, i), step_begin(net, i + 1), path[i]));
    return EBB_OK;
}

typedef struct cut {
    int64_t segment;
    bool at_end;
    double gain; /* grams per work */
    double most; /* seconds */
} cut_t;

/* Time that can be cut within one slot and without touching the overhead. */
static cut_t look_at_end(const net_t *net, const ebb_plan_t *plan, int64_t i)
{
    const ebb_plan_segment_t *s = &plan->segment[i];
    const ebb_plan_size_t *size = &net->job->sizes[s->size];
    bool last = i + 1 == plan->n_segments;
    double slot = net->planner->horizon->slot_s, overhead, joules;
    double boundary = (ceil(s->end_s / slot - 1e-9) - 1) * slot;
    ebb_plan_overhead(net->job, plan, i, &overhead, &joules);
    if (!last && s[1].begin_s - s->end_s <= TIME_EPS)
        return (cut_t){.gain = -INFINITY};
    double rate = ebb_plan_rate_at(net->planner, fmax(boundary, s->begin_s));
    double saved = last ? size->power_w * rate + net->planner->time_rate : (size->power_w - net->job->idle_w) * rate;
    return (cut_t){i, true, saved / size->rate, s->end_s - fmax(boundary, s->begin_s + overhead)};
}

static cut_t look_at_begin(const net_t *net, const ebb_plan_t *plan, int64_t i)
{
    const ebb_plan_segment_t *s = &plan->segment[i];
    const ebb_plan_job_t *job = net->job;
    double slot = net->planner->horizon->slot_s, overhead, joules;
    double boundary = (floor(s->begin_s / slot + 1e-9) + 1) * slot;
    bool fresh = i == 0 && job->state == EBB_PLAN_FRESH, waits = fresh && job->max_wait_s != 0;
    ebb_plan_overhead(job, plan, i, &overhead, &joules);
    /* a restart moves along with its energy, which is only the same within the slot: leave those alone */
    if (!fresh || overhead > 0)
        return (cut_t){.gain = -INFINITY};
    double most = fmin(boundary, s->end_s) - s->begin_s;
    if (waits)
        most = fmin(most, fmax(0, job->max_wait_s) - s->begin_s);
    return (cut_t){i, false,
                   job->sizes[s->size].power_w * ebb_plan_rate_at(net->planner, s->begin_s) / job->sizes[s->size].rate,
                   most};
}

static cut_t best_cut(const net_t *net, const ebb_plan_t *plan)
{
    cut_t best = {.gain = -INFINITY};
    for (int64_t i = 0; i < plan->n_segments; i++) {
        cut_t both[2] = {look_at_end(net, plan, i), look_at_begin(net, plan, i)};
        for (int k = 0; k < 2; k++)
            if (both[k].most > TIME_EPS && both[k].gain > best.gain)
                best = both[k];
    }
    return best;
}

/* Cut the surplus of work; a segment is never cut away in whole, that is the path's business. */
static void cut_surplus(const net_t *net, double surplus, ebb_plan_t *plan)
{
    for (int n = 0; n < MOST_CUTS && surplus > 0; n++) {
        cut_t cut = best_cut(net, plan);
        if (cut.gain <= 0)
            return;
        ebb_plan_segment_t *s = &plan->segment[cut.segment];
        double rate = net->job->sizes[s->size].rate, time = fmin(cut.most, surplus / rate);
        if (s->end_s - s->begin_s - time < 2 * TIME_EPS)
            return;
        if (cut.at_end)
            s->end_s -= time;
        else
            s->begin_s += time;
        surplus -= time * rate;
    }
}

static ebb_status_t consider(net_t *net, double work, ebb_plan_t *plan)
{
    EBB_TRY(add_path(net, net->path, plan));
    cut_surplus(net, work - net->job->work, plan);
    double cost = ebb_plan_cost(net->planner, plan);
    if (cost < net->best_cost) {
        net->best_cost = cost;
        memcpy(net->best_path, net->path, (size_t)net->n * sizeof *net->path);
    }
    return EBB_OK;
}

/* Grams per work at which running the dearest way in the dearest slot would still pay. */
static double highest_price(const net_t *net)
{
    double rate = 0, dearest = 0;
    for (int64_t i = 0; i < net->planner->horizon->n; i++)
        rate = fmax(rate, net->planner->rate[i]);
    for (int64_t k = 0; k < net->s; k++)
        dearest = fmax(dearest, net->job->sizes[k].power_w / net->job->sizes[k].rate);
    return 1e-9 + 4 * rate * dearest;
}

/* Cost of a path by the value it had: the programme's value is cost - price x work. */
typedef struct bracket {
    double work, cost;
} bracket_t;

static bracket_t look_at_price(net_t *net, double price)
{
    net->price = price;
    double value = cheapest_path(net), work = work_of(net, net->path);
    return (bracket_t){work, value + price * work};
}

/* Between a path with too little work and one with enough lies the price at which both cost the same; it gives a path
 * between them, or shows that there is none cheaper (then the bound is the best there is). */
static ebb_status_t search_price(net_t *net, ebb_plan_t *plan)
{
    bracket_t low = {0, 0}, high = {0, 0};
    double need = net->job->work, price = highest_price(net);
    net->best_cost = INFINITY;
    for (int round = 0; round < ROUNDS && high.work < need; round++, price *= 4)
        high = look_at_price(net, price);
    if (high.work < need)
        return EBB_OK;
    EBB_TRY(consider(net, high.work, plan));
    for (int round = 0; round < ROUNDS; round++) {
        price = (high.cost - low.cost) / (high.work - low.work);
        bracket_t path = look_at_price(net, price);
        if (path.work >= need)
            EBB_TRY(consider(net, path.work, plan));
        if (path.cost - price * path.work >= high.cost - price * high.work - 1e-12 * fabs(high.cost))
            break;
        if (path.work >= need)
            high = path;
        else
            low = path;
    }
    return EBB_OK;
}

ebb_status_t ebb_plan_resize(ebb_planner_t *planner, ebb_plan_t *plan, bool *feasible_p)
{
    net_t net = {.planner = planner, .job = planner->job};
    EBB_TRY(size_net(&net));
    EBB_TRY(search_price(&net, plan));
    *feasible_p = isfinite(net.best_cost);
    plan->n_segments = 0;
    if (!*feasible_p)
        return EBB_OK;
    plan->bound_g = net.bound;
    EBB_TRY(add_path(&net, net.best_path, plan));
    cut_surplus(&net, work_of(&net, net.best_path) - net.job->work, plan);
    return EBB_OK;
}
