/* Text: a growing buffer, figures for people and back, and the nearest word for a mistyped one. */
#include "base/text.h"
#include "base/alloc.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define LONGEST_WORD 63 /* longer ones are never near to anything */

/* Room for n more bytes and the final zero. */
static bool make_room(ebb_text_t *t, size_t n)
{
    if (t->failed)
        return false;
    if (t->n + n + 1 <= t->capacity)
        return true;
    size_t capacity = (t->n + n + 1) * 2;
    void *s;
    if (ebb_alloc("text", capacity, &s) != EBB_OK) {
        t->failed = true;
        return false;
    }
    if (t->n > 0)
        memcpy(s, t->s, t->n);
    ebb_free(t->s);
    t->s = s;
    t->capacity = capacity;
    return true;
}

void ebb_text_append(ebb_text_t *t, const char *bytes, size_t n)
{
    if (!make_room(t, n))
        return;
    memcpy(t->s + t->n, bytes, n);
    t->n += n;
    t->s[t->n] = 0;
}

void ebb_text_add(ebb_text_t *t, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0 || !make_room(t, (size_t)n))
        return;
    va_start(args, fmt);
    vsnprintf(t->s + t->n, (size_t)n + 1, fmt, args);
    va_end(args);
    t->n += (size_t)n;
}

void ebb_text_free(ebb_text_t *t)
{
    ebb_free(t->s);
    *t = (ebb_text_t){0};
}

/* Three significant figures with a prefix of 1000s: " kMGTP"[i]. */
static const char *format_scaled(double value, const char *const *units, int n_units, char *text, size_t size)
{
    int i = 0;
    double v = fabs(value);
    while (i + 1 < n_units && v >= 999.5) {
        v /= 1000;
        i++;
    }
    int decimals = i == 0 && v == floor(v) ? 0 : v >= 99.95 ? 0 : v >= 9.995 ? 1 : 2;
    snprintf(text, size, "%s%.*f%s%s", value < 0 ? "-" : "", decimals, v, units[i][0] ? " " : "", units[i]);
    return text;
}

const char *ebb_format_bytes(double bytes, char *text, size_t size)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    return format_scaled(bytes, units, 6, text, size);
}

const char *ebb_format_count(double count, char *text, size_t size)
{
    static const char *const units[] = {"", "k", "M", "G", "T", "P"};
    return format_scaled(count, units, 6, text, size);
}

const char *ebb_format_duration(double seconds, char *text, size_t size)
{
    if (!(seconds >= 0 && seconds < 1e10)) {
        snprintf(text, size, "?");
        return text;
    }
    long long s = llround(seconds);
    if (s >= 3600)
        snprintf(text, size, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(text, size, "%lld:%02lld", s / 60, s % 60);
    return text;
}

ebb_status_t ebb_parse_i64(const char *text, int64_t *value_p)
{
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (end == text || *end || isspace((unsigned char)*text))
        return EBB_FAIL(EBB_EUSAGE, "\"%.80s\" is not a whole number", text);
    if (errno == ERANGE)
        return EBB_FAIL(EBB_EUSAGE, "%.80s does not fit into 64 bits", text);
    *value_p = v;
    return EBB_OK;
}

ebb_status_t ebb_parse_f64(const char *text, double *value_p)
{
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || isspace((unsigned char)*text))
        return EBB_FAIL(EBB_EUSAGE, "\"%.80s\" is not a number", text);
    if (!isfinite(v))
        return EBB_FAIL(EBB_EUSAGE, "%.80s is not a finite number", text);
    *value_p = v;
    return EBB_OK;
}

static bool unit_factor(const char *unit, double *factor_p)
{
    static const char letters[] = "KMGTPE";
    *factor_p = 1;
    if (!*unit || strcasecmp(unit, "B") == 0)
        return true;
    const char *letter = strchr(letters, toupper((unsigned char)*unit));
    if (!letter)
        return false;
    bool decimal = strcasecmp(unit + 1, "B") == 0;
    if (!decimal && unit[1] && strcasecmp(unit + 1, "iB") != 0)
        return false;
    *factor_p = pow(decimal ? 1000 : 1024, (double)(letter - letters + 1));
    return true;
}

ebb_status_t ebb_parse_bytes(const char *text, int64_t *bytes_p)
{
    size_t digits = strspn(text, "0123456789");
    if (digits > 0 && !text[digits])
        return ebb_parse_i64(text, bytes_p);
    char *end = NULL;
    double factor, v = isdigit((unsigned char)*text) || *text == '.' ? strtod(text, &end) : -1;
    while (end && *end == ' ')
        end++;
    if (!end || end == text || v < 0 || !unit_factor(end, &factor))
        return EBB_FAIL(EBB_EUSAGE, "\"%.80s\" is not a size; write for example 65536, 512M, 1.5GiB or 100MB", text);
    if (!(v * factor < 9.2e18))
        return EBB_FAIL(EBB_EUSAGE, "%.80s is too large for a size", text);
    *bytes_p = (int64_t)(v * factor);
    return EBB_OK;
}

ebb_status_t ebb_parse_duration(const char *text, double *seconds_p)
{
    static const char units[] = "smhdw";
    static const double lengths[] = {1, 60, 3600, 86400, 604800};
    const char *s = text, *unit;
    double sum = 0;
    bool good = *s != 0 && strcmp(text, "0") != 0;
    while (good && *s) {
        char *end;
        double v = isdigit((unsigned char)*s) || *s == '.' ? strtod(s, &end) : -1;
        good = v >= 0 && *end && (unit = strchr(units, *end)) && isfinite(v);
        if (good) {
            sum += v * lengths[unit - units];
            s = end + 1;
        }
    }
    if ((!good && strcmp(text, "0") != 0) || !(sum < 1e12))
        return EBB_FAIL(EBB_EUSAGE, "\"%.80s\" is not a duration; write for example 90s, 30m, 24h, 2d or 1h30m", text);
    *seconds_p = sum;
    return EBB_OK;
}

static int same_letter(char a, char b)
{
    a = a == '_' ? '-' : (char)tolower((unsigned char)a);
    b = b == '_' ? '-' : (char)tolower((unsigned char)b);
    return a == b;
}

static int min3(int a, int b, int c)
{
    int m = a < b ? a : b;
    return m < c ? m : c;
}

/* Edit distance with swaps of neighbours (optimal string alignment), rows of the table kept three at a time. */
static int edit_distance(const char *a, const char *b)
{
    int rows[3][LONGEST_WORD + 1];
    int n = (int)strlen(a), m = (int)strlen(b);
    for (int j = 0; j <= m; j++)
        rows[0][j] = j;
    for (int i = 1; i <= n; i++) {
        int *row = rows[i % 3], *above = rows[(i + 2) % 3], *above2 = rows[(i + 1) % 3];
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            row[j] = min3(row[j - 1] + 1, above[j] + 1, above[j - 1] + !same_letter(a[i - 1], b[j - 1]));
            bool swap = i > 1 && j > 1 && same_letter(a[i - 1], b[j - 2]) && same_letter(a[i - 2], b[j - 1]);
            if (swap && above2[j - 2] + 1 < row[j])
                row[j] = above2[j - 2] + 1;
        }
    }
    return rows[n % 3][m];
}

/* A shortened or lengthened word is near too: "opt" and "optimizers" to "optimizer". */
static bool one_begins_other(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b);
    n = n < m ? n : m;
    return n >= 3 && strncasecmp(a, b, n) == 0;
}

const char *ebb_text_nearest(const char *word, const char *const *candidates)
{
    const char *best = NULL, *extended = NULL;
    int length = (int)strlen(word), limit = (length + 2) / 3, best_distance = limit + 1;
    if (length == 0 || length > LONGEST_WORD)
        return NULL;
    for (; *candidates; candidates++) {
        if (strlen(*candidates) > LONGEST_WORD)
            continue;
        int distance = edit_distance(word, *candidates);
        if (distance < best_distance && distance < (int)strlen(*candidates)) {
            best_distance = distance;
            best = *candidates;
        }
        if (!extended && one_begins_other(word, *candidates))
            extended = *candidates;
    }
    return best ? best : extended;
}
