/* Drawing charts as SVG: a frame with labelled axes, lines, areas. Colours are CSS classes of the page, so that light
 * and dark are the page's business. */
#ifndef EBB_REPORT_PLOT_H
#define EBB_REPORT_PLOT_H

#include "base/text.h"

typedef struct ebb_plot {
    ebb_text_t *out;
    double x0, x1, y0, y1;           /* ranges of values; y0 <= y1 are widened to round numbers by ebb_plot_begin */
    double width, height;            /* of the drawing, in pixels */
    double left, right, top, bottom; /* of the frame */
} ebb_plot_t;

/* Open the drawing, with its title, the y axis and its unit ("g CO2e / kWh"), and grid lines. y1 is rounded up, y0 down
 * unless it is 0. */
void ebb_plot_begin(ebb_plot_t *plot, ebb_text_t *out, double width, double height, const char *title,
                    const char *unit);
/* Ticks of the x axis: hours and days of UTC, or numbers with a label below. */
void ebb_plot_times(ebb_plot_t *plot);
void ebb_plot_numbers(ebb_plot_t *plot, const char *label);
void ebb_plot_end(ebb_plot_t *plot);

double ebb_plot_x(const ebb_plot_t *plot, double value);
double ebb_plot_y(const ebb_plot_t *plot, double value);
/* A line through n points; a point that is NAN interrupts it. step: each y holds until the next x. */
void ebb_plot_line(ebb_plot_t *plot, const char *class, const double *x, const double *y, int64_t n, bool step);
/* Between two values over [x0, x1). */
void ebb_plot_rect(ebb_plot_t *plot, const char *class, double x0, double x1, double y0, double y1);
/* A vertical line with a word at its head. */
void ebb_plot_mark(ebb_plot_t *plot, double x, const char *text);
/* An entry of the legend, right of the title; *at: where the next one goes, 0 at first. */
void ebb_plot_legend(ebb_plot_t *plot, double *at, const char *class, const char *text);
/* Text with <, > and & escaped. */
void ebb_html_text(ebb_text_t *out, const char *text);

#endif
