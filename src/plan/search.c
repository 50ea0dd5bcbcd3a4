/* The searches for whole slots, and the policy `defer`.
 *
 * Least window: a running sum over adjacent values. Least sum: quickselect (Hoare, "Find", CACM 1961) with the median
 * of three as pivot, then one pass; values equal to the k-th are taken as often as needed, so ties cost nothing. */
#include "plan/internal.h"

#include <math.h>
#include <string.h>

int64_t ebb_plan_least_window(const double *value, int64_t n, int64_t k, double *sum_p)
{
    double sum = 0, best;
    int64_t start = 0;
    for (int64_t i = 0; i < k; i++)
        sum += value[i];
    best = sum;
    for (int64_t i = 1; i + k <= n; i++) {
        sum += value[i + k - 1] - value[i - 1];
        /* rounding of the running sum is no reason to start later */
        if (sum < best - 1e-12 * fabs(best)) {
            best = sum;
            start = i;
        }
    }
    if (sum_p) {
        best = 0;
        for (int64_t i = start; i < start + k; i++)
            best += value[i];
        *sum_p = best;
    }
    return start;
}

static double median3(double a, double b, double c)
{
    return a < b ? (b < c ? b : a < c ? c : a) : (a < c ? a : b < c ? c : b);
}

/* k-th smallest (from 0); partly sorts v. */
static double select_kth(double *v, int64_t n, int64_t k)
{
    int64_t lo = 0, hi = n - 1;
    while (lo < hi) {
        double pivot = median3(v[lo], v[(lo + hi) / 2], v[hi]);
        int64_t i = lo, j = hi;
        while (i <= j) {
            while (v[i] < pivot)
                i++;
            while (v[j] > pivot)
                j--;
            if (i <= j) {
                double t = v[i];
                v[i++] = v[j];
                v[j--] = t;
            }
        }
        if (k <= j)
            hi = j;
        else if (k >= i)
            lo = i;
        else
            return v[k];
    }
    return v[k];
}

double ebb_plan_least_sum(const double *value, int64_t n, int64_t k, double *scratch, double *kth_p)
{
    double sum = 0;
    int64_t below = 0;
    if (k < 1)
        return 0;
    memcpy(scratch, value, (size_t)n * sizeof *value);
    double kth = select_kth(scratch, n, k - 1);
    for (int64_t i = 0; i < k; i++) {
        below += scratch[i] < kth;
        sum += scratch[i] < kth ? scratch[i] : 0;
    }
    if (kth_p)
        *kth_p = kth;
    return sum + (double)(k - below) * kth;
}

double ebb_plan_integral(const ebb_planner_t *planner, double t)
{
    const ebb_plan_horizon_t *h = planner->horizon;
    double slots = t / h->slot_s;
    int64_t i = (int64_t)slots;
    if (i >= h->n)
        return planner->integral[h->n] + (t - (double)h->n * h->slot_s) * planner->mean_rate;
    return planner->integral[i] + (slots - (double)i) * h->slot_s * planner->rate[i];
}

double ebb_plan_rate_at(const ebb_planner_t *planner, double t)
{
    const ebb_plan_horizon_t *h = planner->horizon;
    int64_t i = (int64_t)(t / h->slot_s + TIME_EPS / h->slot_s);
    return i < h->n ? planner->rate[i] : planner->mean_rate;
}

typedef struct window {
    double start_s, cost;
} window_t;

static bool restarts_at(const ebb_plan_job_t *job, double start)
{
    return job->state == EBB_PLAN_PAUSED || (job->state == EBB_PLAN_RUNNING && start > TIME_EPS);
}

static double length_at(const ebb_plan_job_t *job, double start)
{
    return job->work / job->sizes[job->base].rate + (restarts_at(job, start) ? job->restart_s : 0);
}

static void try_start(const ebb_planner_t *planner, double start, window_t *best)
{
    const ebb_plan_job_t *job = planner->job;
    double end = start + length_at(job, start), slack = isfinite(best->cost) ? 1e-12 * fabs(best->cost) : 0;
    if (start < 0 || (start > 0 && (start > planner->latest_start_s || end > planner->deadline_s + TIME_EPS)))
        return;
    double cost =
        job->sizes[job->base].power_w * (ebb_plan_integral(planner, end) - ebb_plan_integral(planner, start)) +
        planner->time_rate * end;
    if (restarts_at(job, start))
        cost += job->restart_j * ebb_plan_rate_at(planner, start);
    if (job->state != EBB_PLAN_FRESH)
        cost += job->idle_w * ebb_plan_integral(planner, start);
    if (cost < best->cost - slack || (cost <= best->cost + slack && start < best->start_s)) {
        best->cost = cost;
        best->start_s = start;
    }
}

ebb_status_t ebb_plan_defer(ebb_planner_t *planner, ebb_plan_t *plan)
{
    const ebb_plan_horizon_t *h = planner->horizon;
    const ebb_plan_job_t *job = planner->job;
    double later = length_at(job, 1);
    window_t best = {.start_s = 0, .cost = INFINITY};
    try_start(planner, 0, &best);
    for (int64_t i = 0; i <= h->n; i++) {
        try_start(planner, (double)i * h->slot_s, &best);
        try_start(planner, (double)i * h->slot_s - later, &best);
    }
    try_start(planner, planner->latest_start_s, &best);
    try_start(planner, planner->deadline_s - later, &best);
    return ebb_plan_add(plan, best.start_s, best.start_s + length_at(job, best.start_s), job->base);
}
