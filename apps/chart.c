/* Charts of columns: eighths of a character where the terminal can show them, else '#'. */
#include "chart.h"
#include "base/progress.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

enum { ROWS = 8, LABEL = 7, MOST_COLUMNS = 128 };

bool ebb_stdout_is_utf8(void)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *value = getenv(names[i]);
        if (value && *value)
            return strcasestr(value, "utf-8") || strcasestr(value, "utf8");
    }
    return false;
}

typedef struct columns {
    int n;
    int64_t each; /* steps in a column */
    double value[MOST_COLUMNS], top;
    char mark[MOST_COLUMNS];
    bool colours;
} columns_t;

static void gather(columns_t *c, const double *value, const char *mark, int64_t n, int width)
{
    int64_t most = width - LABEL < MOST_COLUMNS ? width - LABEL : MOST_COLUMNS;
    c->each = (n + most - 1) / most;
    c->n = (int)((n + c->each - 1) / c->each);
    c->top = 1;
    for (int k = 0; k < c->n; k++) {
        double sum = 0;
        int64_t count = 0;
        c->mark[k] = ' ';
        for (int64_t i = k * c->each; i < n && i < (k + 1) * c->each; i++) {
            sum += value[i];
            count++;
            if (mark && mark[i] > c->mark[k])
                c->mark[k] = mark[i];
        }
        c->value[k] = sum / (double)count;
        c->top = fmax(c->top, c->value[k]);
    }
}

/* A terminal that has not been told otherwise (no-color.org) shows in green when the job runs. */
static bool has_colours(void)
{
    const char *none = getenv("NO_COLOR");
    return ebb_is_terminal(STDOUT_FILENO) && !(none && *none);
}

static void paint(ebb_text_t *out, const columns_t *c, int k)
{
    bool runs = k < c->n && c->mark[k] != ' ', did = k > 0 && c->mark[k - 1] != ' ';
    if (c->colours && runs != did)
        ebb_text_add(out, "%s", runs ? "\033[32m" : "\033[0m");
}

static void add_rows(ebb_text_t *out, const columns_t *c, bool utf8)
{
    static const char *const eighths[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    for (int row = ROWS - 1; row >= 0; row--) {
        if (row % 4 == 3)
            ebb_text_add(out, "%5.0f  ", c->top * (row + 1) / ROWS);
        else
            ebb_text_add(out, "%*s", LABEL, "");
        for (int k = 0; k < c->n; k++) {
            double level = 8 * (c->value[k] / c->top * ROWS - row);
            paint(out, c, k);
            int eighth = level >= 8 ? 8 : level <= 0 ? 0 : (int)(level + 0.5);
            ebb_text_add(out, "%s", utf8 ? eighths[eighth] : eighth >= 4 ? "#" : " ");
        }
        paint(out, c, c->n);
        ebb_text_add(out, "\n");
    }
}

/* "12:00" under the first column of an hour that has room for it; days begin with their date. */
static void add_hours(ebb_text_t *out, const columns_t *c, int64_t begin, int64_t step_s)
{
    int64_t width = c->each * step_s, every = 3600;
    int64_t free_from = 0;
    while (every < 7 * width || 86400 % every)
        every += every < 86400 ? 3600 : 86400;
    ebb_text_add(out, "%*s", LABEL, "");
    for (int64_t k = 0; k < c->n; k++) {
        int64_t time = begin + k * width, next = time + width, hour = (time + every - 1) / every * every;
        char label[16];
        time_t at = (time_t)hour;
        struct tm tm;
        if (k < free_from)
            continue;
        if (hour >= next || k + 6 > c->n) {
            ebb_text_add(out, " ");
            continue;
        }
        gmtime_r(&at, &tm);
        if (tm.tm_hour == 0)
            snprintf(label, sizeof label, "%02d-%02d", tm.tm_mon + 1, tm.tm_mday);
        else
            snprintf(label, sizeof label, "%02d:%02d", tm.tm_hour, tm.tm_min);
        ebb_text_add(out, "%s", label);
        free_from = k + 5;
    }
    ebb_text_add(out, " UTC\n");
}

void ebb_chart(ebb_text_t *out, const double *value, const char *mark, int64_t n, int64_t begin, int64_t step_s,
               int width)
{
    columns_t c;
    bool utf8 = ebb_stdout_is_utf8();
    gather(&c, value, mark, n, width);
    c.colours = has_colours();
    add_rows(out, &c, utf8);
    if (mark) {
        ebb_text_add(out, "%-*s", LABEL, "  runs");
        for (int k = 0; k < c.n; k++) {
            paint(out, &c, k);
            if (c.mark[k] == '#' && utf8)
                ebb_text_add(out, "█");
            else
                ebb_text_add(out, "%c", c.mark[k] == ' ' ? '.' : c.mark[k]);
        }
        paint(out, &c, c.n);
        ebb_text_add(out, "\n");
    }
    add_hours(out, &c, begin, step_s);
}
