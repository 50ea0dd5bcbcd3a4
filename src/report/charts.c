/* The charts of a report. Curves of long runs are brought down to a few hundred points: means over columns. */
#include "report/internal.h"
#include "report/plot.h"

#include "base/alloc.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDE = 900, NARROW = 440, COLUMNS = 300, JOB = 0, OTHERS, IDLE, PARTS };

/* ---- over time ---- */

/* What the ledger says of each of COLUMNS slices of time. */
typedef struct slices {
    double begin, width;
    double x[COLUMNS + 1], g[COLUMNS + 1];
    double watts[COLUMNS][PARTS];
    double work[COLUMNS]; /* seconds in which a host worked, over hosts */
} slices_t;

/* Power is joules over real seconds; a slice in which a host worked for a part only has that part of it. */
static void add_row(const ebb_ledger_row_t *row, slices_t *s, double *known)
{
    int first = (int)fmax((row->begin - s->begin) / s->width, 0);
    for (int k = first; k < COLUMNS; k++) {
        double from = fmax(row->begin, s->begin + k * s->width), to = fmin(row->end, s->begin + (k + 1) * s->width);
        if (s->begin + k * s->width >= row->end)
            break;
        if (to <= from)
            continue;
        if (!isnan(row->intensity)) {
            s->g[k] += row->intensity * (to - from);
            known[k] += to - from;
        }
        if (!row->host[0] || row->seconds <= 0)
            continue;
        double part = (to - from) / s->width / row->seconds;
        s->watts[k][JOB] += row->job_j * part;
        s->watts[k][OTHERS] += row->others_j * part;
        s->watts[k][IDLE] += row->idle_j * part;
        s->work[k] += to - from;
    }
}

static void slice(const ebb_report_t *r, slices_t *s)
{
    double end, known[COLUMNS] = {0};
    *s = (slices_t){0};
    ebb_report_span(r, &s->begin, &end);
    s->width = fmax(end - s->begin, 1) / COLUMNS;
    for (int64_t i = 0; i < r->n; i++)
        add_row(&r->rows[i], s, known);
    for (int k = 0; k < COLUMNS; k++) {
        s->x[k] = s->begin + k * s->width;
        s->g[k] = known[k] > 0 ? s->g[k] / known[k] : NAN;
    }
    s->x[COLUMNS] = s->begin + COLUMNS * s->width;
    s->g[COLUMNS] = s->g[COLUMNS - 1];
}

static ebb_plot_t time_plot(const slices_t *s, double top)
{
    return (ebb_plot_t){.x0 = s->x[0], .x1 = s->x[COLUMNS], .y1 = top > 0 ? top : 1};
}

/* Spans in which at least one host worked, joined where they all but touch. */
static void shade_work(const ebb_report_t *r, ebb_plot_t *p)
{
    double begin = NAN, end = NAN, near = (p->x1 - p->x0) / 900;
    for (int64_t i = 0; i <= r->n; i++) {
        const ebb_ledger_row_t *row = i < r->n ? &r->rows[i] : NULL;
        if (row && !row->host[0])
            continue;
        if (row && row->begin <= end + near && row->begin >= begin) {
            end = fmax(end, row->end);
            continue;
        }
        if (!isnan(begin))
            ebb_plot_rect(p, "work", begin, fmax(end, begin + near), p->y0, p->y1);
        begin = row ? row->begin : NAN;
        end = row ? row->end : NAN;
    }
}

/* Where it would have run at once: a bar at the bottom. */
static void draw_asap(const ebb_report_t *r, ebb_plot_t *p)
{
    double from = r->submitted > 0 && r->submitted < r->sums.begin ? r->submitted : r->sums.begin;
    double height = (p->y1 - p->y0) * 0.035;
    ebb_plot_rect(p, "asap", from, from + r->sums.work_s, p->y0, p->y0 + height);
}

/* Changes of the number of ranks, and starts. */
static void mark_ranks(const ebb_report_t *r, ebb_plot_t *p)
{
    int64_t ranks = 0;
    double last = -INFINITY, near = (p->x1 - p->x0) / 18;
    for (int64_t i = 0; i < r->n; i++) {
        char text[32];
        if (!r->rows[i].host[0] || r->rows[i].ranks == ranks || r->rows[i].ranks == 0)
            continue;
        ranks = r->rows[i].ranks;
        snprintf(text, sizeof text, "%lld rank%s", (long long)ranks, ranks == 1 ? "" : "s");
        ebb_plot_mark(p, r->rows[i].begin, r->rows[i].begin - last > near ? text : "");
        last = r->rows[i].begin;
    }
}

void ebb_chart_grid(const ebb_report_t *r, ebb_text_t *out)
{
    slices_t *s;
    if (isnan(r->sums.highest) || r->n == 0 || EBB_NEW("slices of a chart", &s) != EBB_OK) {
        ebb_error_clear();
        return;
    }
    slice(r, s);
    ebb_plot_t p = time_plot(s, r->sums.highest * 1.08);
    double at = 0;
    ebb_plot_begin(&p, out, WIDE, 260, "Carbon intensity of the grid, and when the job ran", "g CO\u2082e / kWh");
    shade_work(r, &p);
    if (!isnan(r->sums.asap_g))
        draw_asap(r, &p);
    ebb_plot_line(&p, "line grid-line", s->x, s->g, COLUMNS + 1, true);
    mark_ranks(r, &p);
    ebb_plot_times(&p);
    ebb_plot_legend(&p, &at, "grid-swatch", "intensity");
    ebb_plot_legend(&p, &at, "work", "the job ran");
    if (!isnan(r->sums.asap_g))
        ebb_plot_legend(&p, &at, "asap", "would have run, started at once");
    ebb_plot_end(&p);
    ebb_free(s);
}

static void draw_power(ebb_plot_t *p, const slices_t *s)
{
    static const char *const classes[PARTS] = {"power-job", "power-others", "power-idle"};
    double below[COLUMNS + 1] = {0};
    for (int part = 0; part < PARTS; part++) {
        ebb_text_add(p->out, "<path class=\"%s\" d=\"M%.1f %.1f", classes[part], ebb_plot_x(p, s->x[0]),
                     ebb_plot_y(p, below[0]));
        for (int k = 0; k < COLUMNS; k++)
            ebb_text_add(p->out, "V%.1fH%.1f", ebb_plot_y(p, below[k] + s->watts[k][part]), ebb_plot_x(p, s->x[k + 1]));
        for (int k = COLUMNS - 1; k >= 0; k--)
            ebb_text_add(p->out, "V%.1fH%.1f", ebb_plot_y(p, below[k]), ebb_plot_x(p, s->x[k]));
        ebb_text_add(p->out, "z\"/>\n");
        for (int k = 0; k < COLUMNS; k++)
            below[k] += s->watts[k][part];
    }
}

void ebb_chart_power(const ebb_report_t *r, ebb_text_t *out)
{
    slices_t *s;
    double top = 0, at = 0;
    if (r->sums.work_rows == 0 || EBB_NEW("slices of a chart", &s) != EBB_OK) {
        ebb_error_clear();
        return;
    }
    slice(r, s);
    for (int k = 0; k < COLUMNS; k++)
        top = fmax(top, s->watts[k][JOB] + s->watts[k][OTHERS] + s->watts[k][IDLE]);
    ebb_plot_t p = time_plot(s, top * 1.05);
    ebb_plot_begin(&p, out, WIDE, 230, "Power of the hosts while the job ran", "watts");
    draw_power(&p, s);
    ebb_plot_times(&p);
    ebb_plot_legend(&p, &at, "power-job", "this job");
    ebb_plot_legend(&p, &at, "power-others", "other processes");
    ebb_plot_legend(&p, &at, "power-idle", "idling");
    ebb_plot_end(&p);
    ebb_free(s);
}

/* ---- over steps ---- */

typedef struct curve {
    int n;
    double x[COLUMNS], y[COLUMNS], least, most;
} curve_t;

/* Means over columns of one member of the points. */
static void thin(const ebb_report_t *r, size_t member, curve_t *c)
{
    double each = fmax((double)r->n_progress / COLUMNS, 1);
    *c = (curve_t){.least = INFINITY, .most = -INFINITY};
    for (int64_t i = 0; i < r->n_progress && c->n < COLUMNS;) {
        int64_t end = (int64_t)fmin(ceil((c->n + 1) * each), (double)r->n_progress);
        double sum = 0, count = 0;
        for (; i < end; i++) {
            double value;
            memcpy(&value, (const char *)&r->progress[i] + member, sizeof value);
            sum += isfinite(value) ? value : 0;
            count += isfinite(value);
        }
        c->x[c->n] = r->progress[end - 1].step;
        c->y[c->n] = count > 0 ? sum / count : NAN;
        if (count > 0) {
            c->least = fmin(c->least, c->y[c->n]);
            c->most = fmax(c->most, c->y[c->n]);
        }
        c->n++;
    }
}

static double last_step(const ebb_report_t *r)
{
    double progress = r->n_progress > 0 ? r->progress[r->n_progress - 1].step : 0;
    double valid = r->n_valid > 0 ? r->valid[r->n_valid - 1].step : 0;
    return fmax(progress, valid);
}

static void draw_curve(const ebb_report_t *r, size_t member, double scale, double top, const char *title,
                       const char *unit, const char *class, ebb_text_t *out)
{
    curve_t c;
    thin(r, member, &c);
    if (!(c.most > -INFINITY))
        return;
    for (int i = 0; i < c.n; i++)
        c.y[i] *= scale;
    ebb_plot_t p = {.x1 = last_step(r), .y1 = fmax(c.most * scale * 1.05, top)};
    ebb_plot_begin(&p, out, NARROW, 220, title, unit);
    ebb_plot_line(&p, class, c.x, c.y, c.n, false);
    ebb_plot_numbers(&p, "step");
    ebb_plot_end(&p);
}

/* Evaluations on the same chart where they are a loss too. */
void ebb_chart_loss(const ebb_report_t *r, ebb_text_t *out)
{
    draw_curve(r, offsetof(ebb_progress_point_t, loss), 1, 0, "Training loss", "mean of a step's rows",
               "line loss-line", out);
    if (r->n_valid == 0)
        return;
    double x[COLUMNS], y[COLUMNS], least = INFINITY, most = -INFINITY;
    char title[128];
    int n = 0;
    for (int64_t i = r->n_valid > COLUMNS ? r->n_valid - COLUMNS : 0; i < r->n_valid; i++) {
        x[n] = r->valid[i].step;
        y[n] = r->valid[i].value;
        least = fmin(least, y[n]);
        most = fmax(most, y[n++]);
    }
    double margin = fmax((most - least) * 0.1, 1e-9);
    ebb_plot_t p = {.x1 = last_step(r), .y0 = fmax(least - margin, 0), .y1 = most + margin};
    snprintf(title, sizeof title, "Validation %s", r->valid_name);
    ebb_plot_begin(&p, out, NARROW, 220, title, r->valid_name);
    ebb_plot_line(&p, "line valid-line", x, y, n, false);
    ebb_plot_numbers(&p, "step");
    ebb_plot_end(&p);
}

void ebb_chart_throughput(const ebb_report_t *r, ebb_text_t *out)
{
    draw_curve(r, offsetof(ebb_progress_point_t, rows_per_s), 1, 0, "Throughput", "rows / s", "line rows-line", out);
}

void ebb_chart_stall(const ebb_report_t *r, ebb_text_t *out)
{
    draw_curve(r, offsetof(ebb_progress_point_t, stall), 100, 5, "Waiting for the loader", "% of the time",
               "line stall-line", out);
}
