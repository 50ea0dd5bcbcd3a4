/* Keeping books: a thread that reads the meter, asks what the grid was like, and appends a row. Rows that cannot be
 * written yet, or whose intensity is still being asked for, wait in `pending`. All that the thread does not share is
 * its own; `lock` guards `stop` alone, and the meter has its own lock. */
#include "ledger/internal.h"
#include "base/alloc.h"
#include "base/clock.h"

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { GRID_STEP_S = 1800, MOST_GRID_ROWS = 14 * 48 };

#define SHORTEST_S   1.0 /* intervals at first, while a fifteenth of the run is shorter still */
#define LONGEST_S    10.0
#define FIRST_WAIT_S 20.0 /* that rows wait for a source's first answer */
#define LAST_WAIT_S  2.0

struct ebb_books {
    ebb_books_options_t options;
    char path[4096], prometheus[4096], name[256], host[64];
    ebb_meter_t *meter;
    ebb_asker_t *asker;
    ebb_ledger_t *ledger; /* NULL until it can be opened */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stop;
    /* the thread's own */
    int64_t start_ns;
    double last_wall;
    ebb_energy_t last;
    ebb_ledger_row_t *pending;
    int64_t n, capacity;
    bool told;
    ebb_ledger_sums_t sums; /* of this start, for Prometheus */
};

/* ---- the file ---- */

static void trouble(ebb_books_t *b)
{
    if (!b->told)
        EBB_WARN("ledger", "%s; rows wait, the job goes on", ebb_error()->message);
    b->told = true;
    ebb_error_clear();
}

static bool open_ledger(ebb_books_t *b)
{
    if (!b->ledger && ebb_ledger_open(b->path, &b->ledger) != EBB_OK)
        trouble(b);
    return b->ledger != NULL;
}

/* ---- rows ---- */

static ebb_ledger_row_t *new_row(ebb_books_t *b)
{
    if (ebb_grow("rows of the ledger", (void **)&b->pending, &b->capacity, b->n + 1, sizeof *b->pending) != EBB_OK) {
        ebb_error_clear();
        return NULL;
    }
    ebb_ledger_row_t *row = &b->pending[b->n++];
    *row = (ebb_ledger_row_t){.ranks = b->options.ranks,
                              .intensity = NAN,
                              .rung = EBB_CARBON_NOTHING,
                              .pue = b->options.pue,
                              .embodied_g = NAN};
    return row;
}

/* What making the host emitted, for the part of its life and of its processor time that the job had. */
static double embodied(const ebb_books_t *b, double seconds, double cpu_seconds)
{
    double whole = seconds * (double)sysconf(_SC_NPROCESSORS_ONLN);
    double share = b->options.meter.uses_gpus ? 1 : whole > 0 ? fmin(cpu_seconds / whole, 1) : 0;
    if (!(b->options.embodied_g > 0 && b->options.lifetime_s > 0))
        return NAN;
    return b->options.embodied_g * seconds / b->options.lifetime_s * share;
}

/* Read the meter: a row of what came since the last. */
static void book(ebb_books_t *b)
{
    ebb_energy_t e;
    ebb_meter_read(b->meter, &e);
    double now = ebb_wall_seconds();
    ebb_ledger_row_t *row = new_row(b);
    if (!row) /* no memory: the next row is longer */
        return;
    snprintf(row->host, sizeof row->host, "%s", b->host);
    snprintf(row->meter, sizeof row->meter, "%s", e.source);
    row->begin = b->last_wall;
    row->end = now > b->last_wall ? now : b->last_wall; /* a clock that was put back */
    row->seconds = e.seconds - b->last.seconds;
    row->cpu_seconds = e.cpu_seconds - b->last.cpu_seconds;
    row->job_j = e.job_j - b->last.job_j;
    row->others_j = e.others_j - b->last.others_j;
    row->idle_j = e.idle_j - b->last.idle_j;
    row->node_j = e.node_j - b->last.node_j;
    row->measured_j = e.measured_j - b->last.measured_j;
    row->gpu_j = e.gpu_j - b->last.gpu_j;
    row->job_low_j = e.job_low_j - b->last.job_low_j;
    row->job_high_j = e.job_high_j - b->last.job_high_j;
    row->embodied_g = embodied(b, row->seconds, row->cpu_seconds);
    b->last = e;
    b->last_wall = row->end;
}

/* Where books begin: at the last row of an earlier start, else at `since`; until now the grid alone is booked. */
static double find_begin(ebb_books_t *b)
{
    double last = 0, earliest = b->last_wall - (double)MOST_GRID_ROWS * GRID_STEP_S;
    if (!b->options.grid || !open_ledger(b))
        return b->last_wall;
    if (ebb_ledger_last_end(b->ledger, &last) != EBB_OK)
        trouble(b);
    double begin = last > 0 ? last : b->options.since > 0 ? b->options.since : b->last_wall;
    return fmin(fmax(begin, earliest), b->last_wall);
}

static void book_grid(ebb_books_t *b, double from)
{
    while (from < b->last_wall - 1) {
        ebb_ledger_row_t *row = new_row(b);
        if (!row)
            return;
        row->ranks = 0;
        row->begin = from;
        row->end = fmin((floor(from / GRID_STEP_S) + 1) * GRID_STEP_S, b->last_wall);
        from = row->end;
    }
}

/* ---- writing ---- */

static void export(ebb_books_t *b)
{
    if (!b->prometheus[0] || b->n == 0)
        return;
    const ebb_ledger_row_t *last = &b->pending[b->n - 1];
    if (ebb_ledger_prometheus(b->prometheus, b->name, b->host, &b->sums, last) != EBB_OK)
        trouble(b);
}

/* Write what waits. last: nothing can wait any longer. */
static void flush(ebb_books_t *b, bool last)
{
    double waited = (double)(ebb_now_ns() - b->start_ns) * 1e-9;
    bool answered = ebb_asker_answered(b->asker, last ? LAST_WAIT_S : 0);
    if (b->n == 0 || (!answered && !last && waited < FIRST_WAIT_S))
        return;
    if (!open_ledger(b))
        return;
    for (int64_t i = 0; i < b->n; i++)
        ebb_asker_tell(b->asker, &b->pending[i]);
    if (ebb_ledger_append(b->ledger, b->pending, b->n) != EBB_OK) {
        trouble(b);
        return;
    }
    for (int64_t i = 0; i < b->n; i++)
        ebb_ledger_count(&b->pending[i], &b->sums);
    export(b);
    b->n = 0;
    b->told = false;
}

/* ---- the thread ---- */

/* A fifteenth of the time so far, from 1 to 10 s, so that a short run has a curve and a long one a small file. */
static double pace(const ebb_books_t *b)
{
    double elapsed = (double)(ebb_now_ns() - b->start_ns) * 1e-9;
    return fmin(fmax(elapsed / 15, SHORTEST_S), LONGEST_S);
}

static bool rest(ebb_books_t *b)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t ns = until.tv_nsec + (int64_t)(pace(b) * 1e9);
    until.tv_sec += ns / 1000000000;
    until.tv_nsec = ns % 1000000000;
    pthread_mutex_lock(&b->lock);
    while (!b->stop && pthread_cond_timedwait(&b->wake, &b->lock, &until) == 0)
        continue;
    bool stop = b->stop;
    pthread_mutex_unlock(&b->lock);
    return !stop;
}

static void *keep(void *user)
{
    ebb_books_t *b = user;
    double from = find_begin(b);
    ebb_asker_refresh(b->asker, from);
    book_grid(b, from);
    while (rest(b)) {
        book(b);
        ebb_asker_refresh(b->asker, from);
        flush(b, false);
    }
    book(b);
    flush(b, true);
    return NULL;
}

/* Signals are for the threads of the program. */
static ebb_status_t start_thread(ebb_books_t *b)
{
    pthread_condattr_t monotonic;
    sigset_t all, before;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&b->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&b->lock, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int code = pthread_create(&b->thread, NULL, keep, b);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code == 0 ? EBB_OK : EBB_FAIL(EBB_ENOMEM, "the books' thread cannot be started: %s", strerror(code));
}

ebb_status_t ebb_books_start(const ebb_books_options_t *options, ebb_books_t **books_p)
{
    ebb_books_t *b;
    ebb_status_t status;
    *books_p = NULL;
    EBB_TRY(EBB_NEW("books", &b));
    b->options = *options;
    b->options.pue = options->pue > 0 ? options->pue : 1;
    snprintf(b->path, sizeof b->path, "%s", options->path);
    snprintf(b->prometheus, sizeof b->prometheus, "%s", options->prometheus ? options->prometheus : "");
    snprintf(b->name, sizeof b->name, "%s", options->name ? options->name : "");
    gethostname(b->host, sizeof b->host - 1);
    ebb_ledger_begin(&b->sums);
    b->start_ns = ebb_now_ns();
    b->last_wall = ebb_wall_seconds();
    EBB_TRY_GOTO(status, ebb_asker_create(options->source, &b->asker), fail);
    EBB_TRY_GOTO(status, ebb_meter_start(&options->meter, &b->meter), fail);
    EBB_TRY_GOTO(status, start_thread(b), fail);
    *books_p = b;
    return EBB_OK;
fail:
    ebb_meter_stop(b->meter);
    ebb_asker_release(b->asker);
    ebb_free(b);
    return status;
}

void ebb_books_energy(ebb_books_t *b, ebb_energy_t *energy)
{
    ebb_meter_read(b->meter, energy);
}

int ebb_books_gpus(ebb_books_t *b, ebb_gpu_use_t gpus[EBB_METER_GPUS])
{
    return ebb_meter_gpus(b->meter, gpus);
}

ebb_status_t ebb_books_stop(ebb_books_t *b)
{
    if (!b)
        return EBB_OK;
    pthread_mutex_lock(&b->lock);
    b->stop = true;
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->lock);
    pthread_join(b->thread, NULL);
    int64_t lost = b->n;
    ebb_status_t status = EBB_OK;
    if (lost > 0)
        status = EBB_FAIL(EBB_EIO, "%s: %lld rows could not be written", b->path, (long long)lost);
    ebb_meter_stop(b->meter);
    ebb_asker_release(b->asker);
    ebb_ledger_close(b->ledger);
    pthread_cond_destroy(&b->wake);
    pthread_mutex_destroy(&b->lock);
    ebb_free(b->pending);
    ebb_free(b);
    return status;
}
