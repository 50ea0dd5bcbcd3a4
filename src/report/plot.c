/* Charts as SVG. */
#include "report/plot.h"
#include "base/clock.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { TICKS = 5 };

void ebb_html_text(ebb_text_t *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '<')
            ebb_text_add(out, "&lt;");
        else if (*text == '>')
            ebb_text_add(out, "&gt;");
        else if (*text == '&')
            ebb_text_add(out, "&amp;");
        else if (*text == '"')
            ebb_text_add(out, "&quot;");
        else
            ebb_text_append(out, text, 1);
    }
}

double ebb_plot_x(const ebb_plot_t *p, double value)
{
    return p->left + (value - p->x0) / (p->x1 - p->x0) * (p->width - p->left - p->right);
}

double ebb_plot_y(const ebb_plot_t *p, double value)
{
    return p->height - p->bottom - (value - p->y0) / (p->y1 - p->y0) * (p->height - p->top - p->bottom);
}

/* 1, 2, 2.5 or 5 times a power of ten, at least span / TICKS. */
static double round_step(double span)
{
    static const double steps[] = {1, 2, 2.5, 5, 10};
    double raw = span / TICKS, power = pow(10, floor(log10(raw)));
    for (int i = 0; i < 5; i++)
        if (steps[i] * power >= raw * (1 - 1e-9))
            return steps[i] * power;
    return 10 * power;
}

/* As short as tells two ticks apart: "0.05", "12", "3k". */
static void add_number(ebb_text_t *out, double value, double step)
{
    int digits = step >= 1 ? 0 : (int)ceil(-log10(step) - 1e-9);
    if (fabs(step * pow(10, digits) - round(step * pow(10, digits))) > 1e-6)
        digits++;
    if (fabs(value) < step / 1e6)
        ebb_text_add(out, "0");
    else if (step >= 1e6)
        ebb_text_add(out, "%.4gM", value / 1e6);
    else if (step >= 1e3)
        ebb_text_add(out, "%.6gk", value / 1e3);
    else
        ebb_text_add(out, "%.*f", digits < 9 ? digits : 9, value);
}

static void draw_y_axis(ebb_plot_t *p, const char *unit)
{
    double step = round_step(p->y1 - p->y0);
    p->y0 = p->y0 == 0 ? 0 : floor(p->y0 / step + 1e-9) * step;
    p->y1 = ceil(p->y1 / step - 1e-9) * step;
    for (double v = p->y0; v <= p->y1 + step / 2; v += step) {
        double y = ebb_plot_y(p, v);
        ebb_text_add(p->out, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", p->left,
                     p->width - p->right, y, y);
        ebb_text_add(p->out, "<text class=\"tick\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">", p->left - 8, y + 4);
        add_number(p->out, v, step);
        ebb_text_add(p->out, "</text>\n");
    }
    ebb_text_add(p->out, "<text class=\"unit\" x=\"0\" y=\"%.1f\">", p->top - 10);
    ebb_html_text(p->out, unit);
    ebb_text_add(p->out, "</text>\n");
}

void ebb_plot_begin(ebb_plot_t *p, ebb_text_t *out, double width, double height, const char *title, const char *unit)
{
    p->out = out;
    p->width = width;
    p->height = height;
    p->left = 56;
    p->right = 14;
    p->top = 46;
    p->bottom = 40;
    if (!(p->y1 > p->y0))
        p->y1 = p->y0 + 1;
    if (!(p->x1 > p->x0))
        p->x1 = p->x0 + 1;
    ebb_text_add(out, "<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"", width, height);
    ebb_html_text(out, title);
    ebb_text_add(out, "\">\n<text class=\"title\" x=\"0\" y=\"15\">");
    ebb_html_text(out, title);
    ebb_text_add(out, "</text>\n");
    draw_y_axis(p, unit);
}

void ebb_plot_end(ebb_plot_t *p)
{
    ebb_text_add(p->out, "</svg>\n");
}

static void draw_x_tick(ebb_plot_t *p, double value, const char *text)
{
    double x = ebb_plot_x(p, value), y = p->height - p->bottom;
    ebb_text_add(p->out, "<line class=\"axis\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", x, x, y, y + 5);
    ebb_text_add(p->out, "<text class=\"tick\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s</text>\n", x, y + 18,
                 text);
}

static void draw_x_line(ebb_plot_t *p, const char *label)
{
    double y = p->height - p->bottom;
    ebb_text_add(p->out, "<line class=\"axis\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", p->left,
                 p->width - p->right, y, y);
    ebb_text_add(p->out, "<text class=\"tick\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n",
                 p->width - p->right, p->height - 5, label);
}

/* Seconds between ticks that leave each a hundred pixels. */
static double time_step(const ebb_plot_t *p)
{
    static const double steps[] = {1,    2,    5,    10,    15,    30,    60,    120,    300,    600,     900,
                                   1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800, 1209600, 2592000};
    double least = (p->x1 - p->x0) * 90 / (p->width - p->left - p->right);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        if (steps[i] >= least)
            return steps[i];
    return ceil(least / 2592000) * 2592000;
}

void ebb_plot_times(ebb_plot_t *p)
{
    double step = time_step(p);
    int day = -1;
    draw_x_line(p, "time (UTC)");
    for (double t = ceil(p->x0 / step) * step; t <= p->x1; t += step) {
        time_t seconds = (time_t)t;
        struct tm tm;
        char text[32];
        gmtime_r(&seconds, &tm);
        if (tm.tm_yday == day)
            strftime(text, sizeof text, "%H:%M", &tm);
        else if (step < 86400)
            strftime(text, sizeof text, "%d %b %H:%M", &tm);
        else
            strftime(text, sizeof text, "%d %b", &tm);
        if (step < 60)
            strftime(text, sizeof text, "%T", &tm);
        day = tm.tm_yday;
        draw_x_tick(p, t, text);
    }
}

void ebb_plot_numbers(ebb_plot_t *p, const char *label)
{
    double step = round_step(p->x1 - p->x0);
    draw_x_line(p, label);
    for (double v = ceil(p->x0 / step) * step; v <= p->x1 + step / 1e6; v += step) {
        ebb_text_t text = {0};
        add_number(&text, v, step);
        draw_x_tick(p, v, text.s ? text.s : "");
        ebb_text_free(&text);
    }
}

void ebb_plot_line(ebb_plot_t *p, const char *class, const double *x, const double *y, int64_t n, bool step)
{
    bool pen = false;
    ebb_text_add(p->out, "<path class=\"%s\" d=\"", class);
    for (int64_t i = 0; i < n; i++) {
        if (isnan(y[i])) {
            pen = false;
            continue;
        }
        double px = ebb_plot_x(p, x[i]), py = ebb_plot_y(p, y[i]);
        if (pen && step)
            ebb_text_add(p->out, "H%.1f", px);
        ebb_text_add(p->out, "%s%.1f %.1f", pen ? "L" : "M", px, py);
        if (!pen && (i + 1 == n || isnan(y[i + 1]))) /* a point by itself */
            ebb_text_add(p->out, "h1");
        pen = true;
    }
    ebb_text_add(p->out, "\"/>\n");
}

void ebb_plot_rect(ebb_plot_t *p, const char *class, double x0, double x1, double y0, double y1)
{
    double left = ebb_plot_x(p, fmax(x0, p->x0)), right = ebb_plot_x(p, fmin(x1, p->x1));
    double top = ebb_plot_y(p, fmin(y1, p->y1)), bottom = ebb_plot_y(p, fmax(y0, p->y0));
    if (right > left && bottom > top)
        ebb_text_add(p->out, "<rect class=\"%s\" x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\"/>\n", class, left,
                     top, right - left, bottom - top);
}

void ebb_plot_mark(ebb_plot_t *p, double x, const char *text)
{
    double px = ebb_plot_x(p, x);
    bool end = px > p->width - p->right - 60;
    ebb_text_add(p->out, "<line class=\"mark\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", px, px, p->top - 4,
                 p->height - p->bottom);
    ebb_text_add(p->out, "<text class=\"note\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", px + (end ? -3 : 3),
                 p->top + 6, end ? "end" : "start");
    ebb_html_text(p->out, text);
    ebb_text_add(p->out, "</text>\n");
}

void ebb_plot_legend(ebb_plot_t *p, double *at, const char *class, const char *text)
{
    double x = p->left + 110 + *at, y = p->top - 20;
    ebb_text_add(p->out, "<rect class=\"%s swatch\" x=\"%.1f\" y=\"%.1f\" width=\"12\" height=\"10\" rx=\"2\"/>", class,
                 x, y);
    ebb_text_add(p->out, "<text class=\"tick\" x=\"%.1f\" y=\"%.1f\">", x + 17, y + 9);
    ebb_html_text(p->out, text);
    ebb_text_add(p->out, "</text>\n");
    *at += 32 + 6.6 * (double)strlen(text);
}
