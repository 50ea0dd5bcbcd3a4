/* Adding up the rows of a ledger. */
#include "ledger/internal.h"
#include "base/alloc.h"

#include <math.h>
#include <stdlib.h>

static bool is_work(const ebb_ledger_row_t *row)
{
    return row->host[0] != 0;
}

static double grams(const ebb_ledger_row_t *row, double joules, double intensity)
{
    return joules / 3.6e6 * row->pue * intensity;
}

/* ---- spans of time, by begin ---- */

typedef struct span {
    double begin, end, intensity;
} span_t;

static int by_begin(const void *a, const void *b)
{
    const span_t *x = a, *y = b;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* Work's spans, joined over hosts: not overlapping. */
static int64_t join(span_t *span, int64_t n)
{
    int64_t k = 0;
    qsort(span, (size_t)n, sizeof *span, by_begin);
    for (int64_t i = 0; i < n; i++) {
        if (k > 0 && span[i].begin <= span[k - 1].end)
            span[k - 1].end = fmax(span[k - 1].end, span[i].end);
        else
            span[k++] = span[i];
    }
    return k;
}

/* Time worked before t. */
static double worked_until(const span_t *span, int64_t n, double t)
{
    double sum = 0;
    for (int64_t i = 0; i < n && span[i].begin < t; i++)
        sum += fmin(span[i].end, t) - span[i].begin;
    return sum;
}

/* Spans of the grid: several hosts tell the same hours; the first to tell a moment is believed. */
static int64_t cut(span_t *span, int64_t n)
{
    int64_t k = 0;
    qsort(span, (size_t)n, sizeof *span, by_begin);
    for (int64_t i = 0; i < n; i++) {
        double begin = k > 0 ? fmax(span[i].begin, span[k - 1].end) : span[i].begin;
        if (begin < span[i].end)
            span[k++] = (span_t){begin, span[i].end, span[i].intensity};
    }
    return k;
}

/* Mean of a curve over [begin, end); NAN if more than a tenth of it is not known. */
static double mean(const span_t *curve, int64_t n, double begin, double end)
{
    double sum = 0, known = 0;
    int64_t lo = 0, hi = n;
    while (lo < hi) { /* the first span that ends after begin */
        int64_t mid = (lo + hi) / 2;
        if (curve[mid].end <= begin)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (int64_t i = lo; i < n && curve[i].begin < end; i++) {
        double s = fmin(end, curve[i].end) - fmax(begin, curve[i].begin);
        sum += curve[i].intensity * s;
        known += s;
    }
    return known >= 0.9 * (end - begin) && known > 0 ? sum / known : NAN;
}

/* Every row of work moved forward by the time in which nothing had run since `submitted`. */
static ebb_status_t start_at_once(const ebb_ledger_row_t *rows, int64_t n, double submitted, ebb_ledger_sums_t *s)
{
    span_t *work = NULL, *curve = NULL;
    int64_t n_work = 0, n_curve = 0;
    EBB_TRY(EBB_NEW_ARRAY("spans of work", n + 1, &work));
    ebb_status_t status = EBB_NEW_ARRAY("spans of the grid", n + 1, &curve);
    for (int64_t i = 0; status == EBB_OK && i < n; i++) {
        if (is_work(&rows[i]))
            work[n_work++] = (span_t){rows[i].begin, rows[i].end, 0};
        if (!isnan(rows[i].intensity) && rows[i].end > rows[i].begin)
            curve[n_curve++] = (span_t){rows[i].begin, rows[i].end, rows[i].intensity};
    }
    if (status == EBB_OK) {
        n_curve = cut(curve, n_curve);
        n_work = join(work, n_work);
        s->work_s = worked_until(work, n_work, INFINITY);
        s->asap_g = 0;
    }
    double from = submitted > 0 && submitted < s->begin ? submitted : s->begin;
    for (int64_t i = 0; status == EBB_OK && i < n; i++) {
        if (!is_work(&rows[i]) || rows[i].job_j <= 0)
            continue;
        double begin = from + worked_until(work, n_work, rows[i].begin);
        s->asap_g += grams(&rows[i], rows[i].job_j, mean(curve, n_curve, begin, begin + rows[i].end - rows[i].begin));
    }
    ebb_free(work);
    ebb_free(curve);
    return status;
}

/* ---- sums ---- */

void ebb_ledger_begin(ebb_ledger_sums_t *s)
{
    *s = (ebb_ledger_sums_t){.highest = NAN, .grams = NAN, .embodied_g = NAN, .asap_g = NAN};
}

void ebb_ledger_count(const ebb_ledger_row_t *r, ebb_ledger_sums_t *s)
{
    s->rows++;
    if (!is_work(r))
        return;
    bool known = !isnan(r->intensity);
    double g = known ? r->intensity : s->highest; /* NAN where nothing is known at all */
    s->begin = s->work_rows == 0 ? r->begin : fmin(s->begin, r->begin);
    s->end = s->work_rows == 0 ? r->end : fmax(s->end, r->end);
    s->work_rows++;
    s->host_s += r->seconds;
    s->cpu_seconds += r->cpu_seconds;
    s->node_j += r->node_j;
    s->job_j += r->job_j;
    s->others_j += r->others_j;
    s->idle_j += r->idle_j;
    s->measured_j += r->measured_j;
    s->gpu_j += r->gpu_j;
    s->job_low_j += r->job_low_j;
    s->job_high_j += r->job_high_j;
    s->facility_j += r->job_j * r->pue;
    s->rung_j[r->rung] += r->job_j;
    if (known)
        s->known_g += grams(r, r->job_j, g);
    else
        s->unknown_j += r->job_j;
    if (!known)
        s->assumed_g += grams(r, r->job_j, g);
    s->low_g += grams(r, r->job_low_j, g);
    s->high_g += grams(r, r->job_high_j, g);
    s->idle_g += grams(r, r->idle_j, g);
    if (!isnan(r->embodied_g))
        s->embodied_g = (isnan(s->embodied_g) ? 0 : s->embodied_g) + r->embodied_g;
}

void ebb_ledger_add_up(const ebb_ledger_row_t *rows, int64_t n, double submitted, ebb_ledger_sums_t *s)
{
    const ebb_ledger_row_t *first = NULL;
    ebb_ledger_begin(s);
    for (int64_t i = 0; i < n; i++)
        if (!isnan(rows[i].intensity))
            s->highest = isnan(s->highest) ? rows[i].intensity : fmax(s->highest, rows[i].intensity);
    for (int64_t i = 0; i < n; i++) {
        ebb_ledger_count(&rows[i], s);
        if (!is_work(&rows[i]) || isnan(rows[i].intensity))
            continue;
        first = first ? first : &rows[i];
        s->mixed |= rows[i].signal != first->signal || rows[i].scope != first->scope;
    }
    s->grams = isnan(s->highest) ? NAN : s->known_g + s->assumed_g;
    if (s->work_rows == 0 || start_at_once(rows, n, submitted, s) != EBB_OK)
        ebb_error_clear();
}
