/* Progress on stderr: a line redrawn in place on a terminal, plain lines every few seconds otherwise.
 *
 * Updates may come from any thread; the one that finds the time to print has come takes the lock, the others go on. */
#include "base/progress.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/text.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define TERMINAL_INTERVAL_NS 100000000LL
#define PLAIN_INTERVAL_NS    5000000000LL

struct ebb_progress {
    const char *what, *unit;
    int64_t total, start_ns;
    bool enabled, finished;
    atomic_llong done, next_ns;
    pthread_mutex_t lock;
};

bool ebb_is_terminal(int fd)
{
    const char *term = getenv("TERM");
    return isatty(fd) == 1 && !(term && strcmp(term, "dumb") == 0);
}

bool ebb_progress_is_terminal(void)
{
    return ebb_is_terminal(STDERR_FILENO);
}

static size_t terminal_width(void)
{
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

/* The last column stays free: terminals wrap when it is written. */
static int fitting_bytes(const char *text)
{
    size_t n = strlen(text), width = terminal_width() - 1;
    if (n <= width)
        return (int)n;
    while (width > 0 && ((unsigned char)text[width] & 0xc0) == 0x80)
        width--;
    return (int)width;
}

static atomic_bool line_is_open; /* the terminal's cursor stands behind a line that will be redrawn */

static void print_line(const char *text, bool final)
{
    if (!ebb_progress_is_terminal())
        fprintf(stderr, "%s\n", text);
    else if (final) /* stays, so it is shown in whole, whatever lines it takes */
        fprintf(stderr, "\r\033[K%s\n", text);
    else
        fprintf(stderr, "\r%.*s\033[K", fitting_bytes(text), text);
    fflush(stderr);
    atomic_store(&line_is_open, !final && ebb_progress_is_terminal());
}

void ebb_progress_interrupt(void)
{
    if (atomic_exchange(&line_is_open, false))
        fputs("\r\033[K", stderr);
}

static int64_t interval_ns(void)
{
    return ebb_progress_is_terminal() ? TERMINAL_INTERVAL_NS : PLAIN_INTERVAL_NS;
}

ebb_status_t ebb_progress_create(const char *what, const char *unit, int64_t total, bool enabled, ebb_progress_t **p_p)
{
    ebb_progress_t *p;
    *p_p = NULL;
    EBB_TRY(EBB_NEW("progress", &p));
    p->what = what;
    p->unit = unit;
    p->total = total;
    p->enabled = enabled;
    p->start_ns = ebb_now_ns();
    atomic_store(&p->next_ns, p->start_ns + interval_ns());
    pthread_mutex_init(&p->lock, NULL);
    *p_p = p;
    return EBB_OK;
}

static const char *format_amount(const ebb_progress_t *p, double amount, const char *per, char *text, size_t size)
{
    char figure[32];
    if (strcmp(p->unit, "bytes") == 0)
        snprintf(text, size, "%s%s", ebb_format_bytes(amount, figure, sizeof figure), per);
    else
        snprintf(text, size, "%s %s%s", ebb_format_count(amount, figure, sizeof figure), p->unit, per);
    return text;
}

static void print_progress(const ebb_progress_t *p, int64_t now, bool final)
{
    char line[256], amount[64], figure[64];
    double seconds = (double)(now - p->start_ns) * 1e-9, done = (double)atomic_load(&p->done);
    double rate = seconds > 0 ? done / seconds : 0;
    int n = snprintf(line, sizeof line, "%s: %s", p->what, format_amount(p, done, "", amount, sizeof amount));
    if (p->total > 0 && !final)
        n += snprintf(line + n, sizeof line - (size_t)n, " of %s (%.0f %%)",
                      format_amount(p, (double)p->total, "", figure, sizeof figure), 100 * done / (double)p->total);
    format_amount(p, rate, "/s", amount, sizeof amount);
    if (final)
        snprintf(line + n, sizeof line - (size_t)n, " in %s, %s", ebb_format_duration(seconds, figure, sizeof figure),
                 amount);
    else if (p->total > 0 && rate > 0)
        snprintf(line + n, sizeof line - (size_t)n, ", %s, %s left", amount,
                 ebb_format_duration(((double)p->total - done) / rate, figure, sizeof figure));
    else
        snprintf(line + n, sizeof line - (size_t)n, ", %s", amount);
    print_line(line, final);
}

void ebb_progress_update(ebb_progress_t *p, int64_t done)
{
    atomic_store(&p->done, done);
    if (!p->enabled)
        return;
    int64_t now = ebb_now_ns();
    if (now < atomic_load(&p->next_ns) || pthread_mutex_trylock(&p->lock) != 0)
        return;
    if (!p->finished && now >= atomic_load(&p->next_ns)) {
        atomic_store(&p->next_ns, now + interval_ns());
        print_progress(p, now, false);
    }
    pthread_mutex_unlock(&p->lock);
}

void ebb_progress_finish(ebb_progress_t *p)
{
    pthread_mutex_lock(&p->lock);
    if (p->enabled && !p->finished)
        print_progress(p, ebb_now_ns(), true);
    p->finished = true;
    pthread_mutex_unlock(&p->lock);
}

void ebb_progress_destroy(ebb_progress_t *p)
{
    if (!p)
        return;
    pthread_mutex_destroy(&p->lock);
    ebb_free(p);
}

void ebb_progress_line(double seconds, bool final, const char *text)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static int64_t next_ns;
    pthread_mutex_lock(&lock);
    int64_t now = ebb_now_ns();
    if (final || now >= next_ns) {
        next_ns = now + (ebb_progress_is_terminal() ? TERMINAL_INTERVAL_NS : (int64_t)(seconds * 1e9));
        print_line(text, final);
    }
    pthread_mutex_unlock(&lock);
}
