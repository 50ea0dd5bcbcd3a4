/* The loader beside the machine's limits.
 *
 * First an epoch is checked: every row once, and sums that a caller can compare with what another program reads. Then
 * the limits, then for each thread count the loader in each order, from a warm and from a cold page cache. Passes of
 * decompression alone run before, between and after the loader's, so that both see the same machine.
 *
 * Warm: one loader, whose epochs follow each other as in training; the first is not counted. Cold: a new loader for
 * each pass, since the old one has read ahead. The loader's memory is chosen so that it cannot keep the data set
 * decoded, where the caller does not say otherwise; what keeping it brings is a figure of its own. */
#include "bench/internal.h"
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_MEMORY ((int64_t)1 << 30)
#define KEPT           0.05 /* rows decoded for each delivered, below which a data set counts as kept */

typedef struct passes {
    int n;
    double t[EBB_BENCH_MAX_PASSES];
} passes_t;

typedef struct bench {
    const ebb_dataset_t *ds;
    const ebb_dataset_info_t *info;
    ebb_bench_loader_options_t options;
    const ebb_bench_listener_t *listener;
    ebb_bench_loader_setting_t setting;
    ebb_bench_chunks_t chunks;
    int thread[EBB_BENCH_MAX_THREADS], n_threads, most_threads;
    uint8_t **buffer; /* (most_threads) for reading and copying */
    int64_t buffer_bytes;
    int64_t decoded; /* bytes of the data set as batches hold it */
    bool kept;       /* the memory in use keeps it */
    bool clearable;
    double cold_read; /* seconds that all threads take to read the files, cold */
    int64_t pace_ns;  /* what a paced consumer spends on a batch */
    cpu_set_t cores;
    passes_t decode, check, least; /* at the present number of threads */
} bench_t;

/* What a pass delivered. */
typedef struct tally {
    int64_t rows, nnz;
    double value_sum;
    int64_t column_sum;
    uint8_t *seen; /* (rows) where sums and rows are wanted */
} tally_t;

/* ---- passes ---- */

static int compare_f64(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(passes_t *p)
{
    qsort(p->t, (size_t)p->n, sizeof *p->t, compare_f64);
    return p->n > 0 ? (p->t[(p->n - 1) / 2] + p->t[p->n / 2]) / 2 : 0;
}

static void add_pass(passes_t *p, int64_t began_ns)
{
    if (p->n < EBB_BENCH_MAX_PASSES)
        p->t[p->n++] = (double)(ebb_now_ns() - began_ns) * 1e-9;
}

/* Sorts the passes. */
static void set_times(ebb_bench_figure_t *f, passes_t *p)
{
    f->seconds = median(p);
    f->passes = p->n;
    f->fastest = p->n > 0 ? p->t[0] : 0;
    f->slowest = p->n > 0 ? p->t[p->n - 1] : 0;
}

static void doing(const bench_t *b, const char *text)
{
    if (b->listener->doing)
        b->listener->doing(b->listener->user, text);
}

static void tell(const bench_t *b, const ebb_bench_figure_t *f)
{
    if (b->listener->figure)
        b->listener->figure(b->listener->user, f);
}

/* From now on this thread, and those it starts, stay on the first n of the process's cores. */
static void bind_cores(const bench_t *b, int n)
{
    cpu_set_t some;
    CPU_ZERO(&some);
    for (int c = 0; c < CPU_SETSIZE && CPU_COUNT(&some) < n; c++)
        if (CPU_ISSET(c, &b->cores))
            CPU_SET(c, &some);
    (void)sched_setaffinity(0, sizeof some, &some);
}

/* ---- one pass of the loader ---- */

static void add_entries(const ebb_batch_t *batch, int64_t n, tally_t *t)
{
    enum { SOME = 1024 };
    int32_t col[SOME];
    float val[SOME];
    for (int64_t i = 0, some; i < n; i += some) {
        some = n - i < SOME ? n - i : SOME;
        ebb_batch_widen(batch, i, some, batch->columns ? col : NULL, val);
        for (int64_t k = 0; k < some; k++) {
            t->value_sum += (double)val[k];
            t->column_sum += batch->columns ? col[k] : 0;
        }
    }
}

static ebb_status_t add_batch(const bench_t *b, const ebb_batch_t *batch, tally_t *t)
{
    t->rows += batch->rows;
    t->nnz += batch->nnz;
    if (!t->seen)
        return EBB_OK;
    for (int64_t i = 0; i < batch->rows; i++)
        if (t->seen[batch->row[i]]++)
            return EBB_FAIL(EBB_EBUG, "row %lld was delivered twice", (long long)batch->row[i]);
    add_entries(batch, b->info->sparse ? batch->nnz : batch->rows * b->info->cols, t);
    return EBB_OK;
}

/* A consumer that works without this machine's cores. */
static void spend(int64_t ns)
{
    struct timespec t = {ns / 1000000000, ns % 1000000000};
    nanosleep(&t, NULL);
}

/* The steps of a pass, across the end of an epoch where they are counted. batch_ns: how long each batch is held. */
static ebb_status_t run_pass(const bench_t *b, ebb_loader_t *loader, int64_t batch_ns, tally_t *t)
{
    const ebb_batch_t *batch;
    for (int64_t step = 0; b->options.steps == 0 || step < b->options.steps;) {
        ebb_status_t status = ebb_loader_acquire(loader, &batch);
        if (status == EBB_END && b->options.steps == 0)
            break;
        if (status == EBB_END)
            continue;
        EBB_TRY(status);
        status = add_batch(b, batch, t);
        if (batch_ns > 0)
            spend(batch_ns);
        ebb_loader_release(loader, batch);
        EBB_TRY(status);
        step++;
    }
    if (b->options.steps == 0 && t->rows != b->info->rows)
        return EBB_FAIL(EBB_EBUG, "an epoch gave %lld of %lld rows", (long long)t->rows, (long long)b->info->rows);
    return EBB_OK;
}

static ebb_status_t create_loader(const bench_t *b, bool shuffle, int threads, int64_t memory, ebb_loader_t **loader_p)
{
    ebb_loader_options_t o = {.order = b->options.order, .memory_bytes = memory, .stored = b->options.stored};
    o.order.shuffle = shuffle;
    o.threads = threads > 1 ? threads - 1 : 1; /* the consumer decodes when it would wait */
    return ebb_loader_create(b->ds, &o, loader_p);
}

/* Rows decoded for each row delivered, between two readings. */
static double decoded_share(const bench_t *b, const ebb_loader_stats_t *before, const ebb_loader_stats_t *after)
{
    double epochs = (double)(after->rows - before->rows) / (double)b->info->rows;
    return (double)(after->bytes_decoded - before->bytes_decoded) / (double)b->decoded / epochs;
}

/* ---- beforehand: a check, and how much memory makes every epoch decode ---- */

/* An epoch that is checked, unless that was done, and one that shows how much of it is decoded again. */
static ebb_status_t try_memory(bench_t *b, int64_t memory, double *decoded_p)
{
    ebb_loader_t *loader;
    ebb_loader_stats_t before, after;
    tally_t first = {0}, second = {0};
    bool check = b->setting.memory_bytes == 0 && b->options.steps == 0;
    EBB_TRY(create_loader(b, b->options.orders != EBB_BENCH_SEQUENTIAL, b->most_threads, memory, &loader));
    ebb_status_t status = check ? ebb_alloc("rows seen", (size_t)b->info->rows, (void **)&first.seen) : EBB_OK;
    if (status == EBB_OK)
        status = run_pass(b, loader, 0, &first);
    ebb_loader_stats(loader, &before);
    if (status == EBB_OK)
        status = run_pass(b, loader, 0, &second);
    ebb_loader_stats(loader, &after);
    ebb_loader_destroy(loader);
    if (check) {
        b->setting.value_sum = first.value_sum;
        b->setting.column_sum = first.column_sum;
    }
    ebb_free(first.seen);
    EBB_TRY(status);
    *decoded_p = decoded_share(b, &before, &after);
    return EBB_OK;
}

/* The loader's default memory, or the most below it that leaves next to nothing decoded for the next epoch. */
static ebb_status_t choose_memory(bench_t *b)
{
    int64_t memory = b->decoded + b->decoded / 2 + (64 << 20), given = b->options.memory_bytes;
    memory = given > 0 ? given : memory < DEFAULT_MEMORY ? memory : DEFAULT_MEMORY;
    for (;;) {
        double decoded;
        ebb_status_t status = try_memory(b, memory, &decoded);
        if (status == EBB_EINVAL && b->setting.memory_bytes > 0) {
            ebb_error_clear();
            return EBB_OK;
        }
        if (status == EBB_EINVAL && given == 0 && memory < DEFAULT_MEMORY) {
            ebb_error_clear();
            memory = DEFAULT_MEMORY;
            continue;
        }
        EBB_TRY(status);
        b->setting.memory_bytes = memory;
        b->kept = decoded < KEPT;
        if (decoded > 0.95 || given > 0)
            return EBB_OK;
        memory = memory / 4 * 3;
    }
}

/* ---- limits ---- */

static ebb_status_t copy_task(void *user, int thread, int64_t i)
{
    bench_t *b = user;
    memcpy(b->buffer[thread], b->buffer[thread] + b->buffer_bytes / 2, (size_t)b->buffer_bytes / 2);
    return EBB_OK;
}

/* Memory of the size of a loader's batches, a part for each thread. */
static int64_t ring_bytes(const bench_t *b, int threads)
{
    enum { BATCHES = 3 };
    int64_t epoch = b->options.stored ? b->chunks.decoded_bytes : b->decoded;
    double batch = (double)epoch / (double)b->info->rows * (double)b->options.order.batch;
    int64_t bytes = (int64_t)(BATCHES * batch / threads);
    bytes = bytes < EBB_BENCH_LEAST_RING ? EBB_BENCH_LEAST_RING : bytes;
    return bytes < b->buffer_bytes ? bytes : b->buffer_bytes;
}

static ebb_status_t decode_pass(bench_t *b, int threads, ebb_pool_t *pool, bool counts)
{
    int64_t began = ebb_now_ns();
    EBB_TRY(ebb_bench_chunks_decode(&b->chunks, pool));
    if (counts)
        add_pass(&b->decode, began);
    bool checked;
    began = ebb_now_ns();
    EBB_TRY(ebb_bench_chunks_check(&b->chunks, pool, &checked));
    if (counts && checked)
        add_pass(&b->check, began);
    if (b->options.caches == EBB_BENCH_COLD)
        return EBB_OK;
    began = ebb_now_ns();
    EBB_TRY(ebb_bench_chunks_least(&b->chunks, pool, b->buffer, ring_bytes(b, threads), b->options.stored));
    if (counts)
        add_pass(&b->least, began);
    return EBB_OK;
}

static ebb_status_t decode_passes(bench_t *b, int threads, ebb_pool_t *pool, int n)
{
    char text[64];
    snprintf(text, sizeof text, "decompression alone, %d threads", threads);
    doing(b, text);
    for (int i = b->decode.n == 0 ? -1 : 0; i < n; i++)
        EBB_TRY(decode_pass(b, threads, pool, i >= 0));
    return EBB_OK;
}

static void tell_chunks(bench_t *b, ebb_bench_what_t what, int threads, passes_t *p)
{
    ebb_bench_figure_t f = {.what = what, .threads = threads};
    set_times(&f, p);
    f.bytes = (double)b->chunks.decoded_bytes * b->chunks.sampled;
    f.rows = (double)b->info->rows * b->chunks.sampled;
    f.nnz = (double)b->info->nnz * b->chunks.sampled;
    tell(b, &f);
}

static ebb_status_t measure_copy(bench_t *b, ebb_pool_t *pool)
{
    ebb_bench_figure_t f = {.what = EBB_BENCH_MEMCPY, .threads = b->most_threads};
    passes_t p = {0};
    int64_t tasks = 4 * b->most_threads;
    doing(b, "memcpy");
    for (int i = -1; i < b->options.passes; i++) {
        int64_t began = ebb_now_ns();
        EBB_TRY(ebb_pool_run(pool, tasks, copy_task, b));
        if (i >= 0)
            add_pass(&p, began);
    }
    f.bytes = (double)tasks * (double)(b->buffer_bytes / 2);
    set_times(&f, &p);
    tell(b, &f);
    return EBB_OK;
}

static ebb_status_t measure_read(bench_t *b, ebb_pool_t *pool, bool cold)
{
    ebb_bench_figure_t f = {.what = EBB_BENCH_READ, .threads = b->most_threads, .cold = cold};
    passes_t p = {0};
    double kept;
    doing(b, cold ? "reading the files, cold" : "reading the files, warm");
    for (int i = cold ? 0 : -1; i < b->options.passes; i++) {
        if (cold)
            EBB_TRY(ebb_bench_files_forget(b->ds, &kept));
        int64_t began = ebb_now_ns();
        EBB_TRY(ebb_bench_files_read(b->ds, pool, b->buffer));
        if (i >= 0)
            add_pass(&p, began);
    }
    f.bytes = (double)ebb_bench_files_bytes(b->ds);
    set_times(&f, &p);
    if (cold)
        b->cold_read = f.seconds;
    tell(b, &f);
    return EBB_OK;
}

static ebb_status_t measure_machine(bench_t *b)
{
    ebb_pool_t *pool;
    bind_cores(b, b->most_threads);
    EBB_TRY(ebb_pool_create(b->most_threads, &pool));
    ebb_status_t status = measure_copy(b, pool);
    if (status == EBB_OK && b->options.caches != EBB_BENCH_COLD)
        status = measure_read(b, pool, false);
    if (status == EBB_OK && b->clearable)
        status = measure_read(b, pool, true);
    ebb_pool_destroy(pool);
    return status;
}

/* ---- the loader ---- */

/* Fill in what the times and the loader's own counts say. */
static void set_loader_figure(const bench_t *b, ebb_bench_figure_t *f, passes_t *p, const tally_t *t,
                              const ebb_loader_stats_t *before, const ebb_loader_stats_t *after)
{
    double all = 0;
    for (int i = 0; i < p->n; i++)
        all += p->t[i];
    set_times(f, p);
    f->rows = (double)t->rows / p->n;
    f->nnz = (double)t->nnz / p->n;
    f->bytes = f->rows / (double)b->info->rows * (double)b->chunks.decoded_bytes;
    f->stall = (double)(after->stall_ns - before->stall_ns) * 1e-9 / all;
    f->memory_bytes = after->memory_bytes;
    f->decoded = decoded_share(b, before, after);
}

static ebb_status_t warm_passes(bench_t *b, ebb_bench_figure_t *f, int64_t memory)
{
    ebb_loader_t *loader;
    ebb_loader_stats_t before = {0}, after = {0};
    passes_t p = {0};
    tally_t all = {0};
    EBB_TRY(create_loader(b, f->shuffled, f->threads + f->paced, memory, &loader));
    ebb_status_t status = EBB_OK;
    for (int i = -1; i < b->options.passes && status == EBB_OK; i++) {
        int64_t began = ebb_now_ns();
        tally_t t = {0};
        status = run_pass(b, loader, f->paced ? b->pace_ns : 0, &t);
        if (i < 0) {
            ebb_loader_stats(loader, &before);
            continue;
        }
        add_pass(&p, began);
        all.rows += t.rows;
        all.nnz += t.nnz;
    }
    ebb_loader_stats(loader, &after);
    ebb_loader_destroy(loader);
    EBB_TRY(status);
    set_loader_figure(b, f, &p, &all, &before, &after);
    return EBB_OK;
}

static ebb_status_t cold_passes(bench_t *b, ebb_bench_figure_t *f, int64_t memory)
{
    ebb_loader_stats_t none = {0}, sum = {0}, after;
    passes_t p = {0};
    tally_t all = {0};
    double kept;
    for (int i = 0; i < b->options.passes; i++) {
        ebb_loader_t *loader;
        tally_t t = {0};
        EBB_TRY(create_loader(b, f->shuffled, f->threads, memory, &loader));
        ebb_status_t status = ebb_bench_files_forget(b->ds, &kept);
        int64_t began = ebb_now_ns();
        if (status == EBB_OK)
            status = run_pass(b, loader, 0, &t);
        add_pass(&p, began);
        ebb_loader_stats(loader, &after);
        ebb_loader_destroy(loader);
        EBB_TRY(status);
        all.rows += t.rows;
        all.nnz += t.nnz;
        sum.rows += after.rows;
        sum.bytes_decoded += after.bytes_decoded;
        sum.stall_ns += after.stall_ns;
        sum.memory_bytes = after.memory_bytes;
    }
    set_loader_figure(b, f, &p, &all, &none, &sum);
    return EBB_OK;
}

static ebb_status_t measure_loader(bench_t *b, ebb_bench_figure_t *f)
{
    char text[128];
    int64_t memory = b->setting.memory_bytes;
    snprintf(text, sizeof text, "loader, %s, %s, %d thread%s", f->shuffled ? "shuffled" : "sequential",
             f->kept    ? "kept in memory"
             : f->paced ? "paced"
             : f->cold  ? "cold"
                        : "warm",
             f->threads, f->threads > 1 ? "s" : "");
    doing(b, text);
    f->what = EBB_BENCH_LOADER;
    if (f->kept && !b->kept)
        memory = b->decoded * 5 + (256 << 20);
    EBB_TRY(f->cold ? cold_passes(b, f, memory) : warm_passes(b, f, memory));
    if (!f->paced)
        b->pace_ns = (int64_t)(1.25e9 * f->seconds / f->rows * (double)b->options.order.batch);
    return EBB_OK;
}

/* ---- all of it at one number of threads ---- */

enum { MAX_LOADER_FIGURES = 7 };

static int plan_figures(const bench_t *b, int threads, ebb_bench_figure_t *f)
{
    int n = 0;
    for (int cold = 0; cold < 2; cold++)
        for (int sequential = 0; sequential < 2; sequential++) {
            bool order = b->options.orders == EBB_BENCH_BOTH_ORDERS || (int)b->options.orders == sequential;
            bool cache = b->options.caches == EBB_BENCH_BOTH_CACHES || (int)b->options.caches == cold;
            ebb_bench_figure_t g = {
                .threads = threads, .shuffled = !sequential, .cold = cold, .kept = b->kept && !cold};
            if (!order || !cache || (cold && !b->clearable))
                continue;
            f[n++] = g;
            g.paced = true;
            if (!cold && !sequential)
                f[n++] = g;
        }
    double room = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) / 4;
    if (!b->kept && b->options.memory_bytes == 0 && b->options.orders != EBB_BENCH_SEQUENTIAL &&
        b->options.caches != EBB_BENCH_COLD && (double)b->decoded * 5 + (256 << 20) < room)
        f[n++] = (ebb_bench_figure_t){.threads = threads, .shuffled = true, .kept = true};
    return n;
}

static void set_share(const bench_t *b, ebb_bench_figure_t *f, double decode_seconds)
{
    double part = f->rows / (double)b->info->rows, limit = decode_seconds / b->chunks.sampled * part;
    if (f->cold && b->cold_read * part > limit)
        limit = b->cold_read * part;
    f->share = limit * (f->decoded < 1 ? f->decoded : 1) / f->seconds;
}

static ebb_status_t measure_threads(bench_t *b, int threads)
{
    ebb_bench_figure_t f[MAX_LOADER_FIGURES];
    ebb_pool_t *pool;
    ebb_status_t status;
    int n = plan_figures(b, threads, f), some = (b->options.passes + 1) / 2;
    b->decode.n = b->check.n = b->least.n = 0;
    bind_cores(b, threads);
    EBB_TRY(ebb_pool_create(threads, &pool));
    status = decode_passes(b, threads, pool, n > 0 ? some : b->options.passes);
    for (int i = 0; i < n && status == EBB_OK; i++) {
        status = measure_loader(b, &f[i]);
        if (status == EBB_OK)
            status = decode_passes(b, threads, pool, some);
    }
    ebb_pool_destroy(pool);
    EBB_TRY(status);
    tell_chunks(b, EBB_BENCH_DECODE, threads, &b->decode);
    if (b->check.n > 0)
        tell_chunks(b, EBB_BENCH_CHECK, threads, &b->check);
    if (b->least.n > 0)
        tell_chunks(b, EBB_BENCH_LEAST, threads, &b->least);
    for (int i = 0; i < n; i++) {
        set_share(b, &f[i], median(&b->decode));
        tell(b, &f[i]);
    }
    return EBB_OK;
}

/* ---- all of it ---- */

static ebb_status_t choose_threads(bench_t *b)
{
    const ebb_bench_loader_options_t *o = &b->options;
    int cores = ebb_cores() < EBB_BENCH_MAX_THREADS ? ebb_cores() : EBB_BENCH_MAX_THREADS;
    for (int i = 0; o->threads && i < o->n_threads && i < EBB_BENCH_MAX_THREADS; i++) {
        if (o->threads[i] < 1 || o->threads[i] > EBB_BENCH_MAX_THREADS)
            return EBB_FAIL(EBB_EINVAL, "threads to measure must be 1 to %d, not %d", EBB_BENCH_MAX_THREADS,
                            o->threads[i]);
        b->thread[b->n_threads++] = o->threads[i];
    }
    for (int t = 1; !o->threads && t < cores; t *= 2)
        b->thread[b->n_threads++] = t;
    if (!o->threads)
        b->thread[b->n_threads++] = cores;
    for (int i = 0; i < b->n_threads; i++)
        b->most_threads = b->thread[i] > b->most_threads ? b->thread[i] : b->most_threads;
    return EBB_OK;
}

static ebb_status_t make_buffers(bench_t *b)
{
    int64_t bytes = ((int64_t)512 << 20) / b->most_threads, most = 128 << 20, least = 2 * EBB_BENCH_PIECE;
    b->buffer_bytes = bytes > most ? most : bytes < least ? least : bytes;
    EBB_TRY(EBB_NEW_ARRAY("buffers", b->most_threads, &b->buffer));
    for (int t = 0; t < b->most_threads; t++)
        EBB_TRY(ebb_alloc("buffer", (size_t)b->buffer_bytes, (void **)&b->buffer[t]));
    return EBB_OK;
}

static ebb_status_t prepare(bench_t *b)
{
    int64_t memory = (int64_t)sysconf(_SC_PHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE) / 8;
    EBB_TRY(choose_threads(b));
    EBB_TRY(ebb_order_init(&b->options.order, b->info));
    b->decoded = b->info->sparse ? (b->info->nnz + b->info->rows) * 8 : b->info->nnz * 4;
    doing(b, "checking an epoch");
    EBB_TRY(choose_memory(b));
    doing(b, "reading the chunks into memory");
    EBB_TRY(
        ebb_bench_chunks_init(&b->chunks, b->ds, b->most_threads, memory < DEFAULT_MEMORY ? memory : DEFAULT_MEMORY));
    EBB_TRY(make_buffers(b));
    ebb_bench_loader_setting_t *s = &b->setting;
    if (b->options.caches != EBB_BENCH_WARM)
        EBB_TRY(ebb_bench_files_forget(b->ds, &s->uncleared));
    b->clearable = b->options.caches != EBB_BENCH_WARM && s->uncleared <= 0.01;
    s->info = b->info;
    s->order = b->options.order;
    s->codec = b->chunks.codec;
    s->chunks = b->chunks.total;
    s->packed_bytes = b->chunks.packed_bytes;
    s->decoded_bytes = b->chunks.decoded_bytes;
    s->sampled = b->chunks.sampled;
    s->steps = b->options.steps;
    s->passes = b->options.passes;
    return EBB_OK;
}

static ebb_status_t run(bench_t *b)
{
    EBB_TRY(prepare(b));
    if (b->listener->setting)
        b->listener->setting(b->listener->user, &b->setting);
    EBB_TRY(measure_machine(b));
    for (int i = 0; i < b->n_threads; i++)
        EBB_TRY(measure_threads(b, b->thread[i]));
    return EBB_OK;
}

static void cleanup(bench_t *b)
{
    for (int t = 0; b->buffer && t < b->most_threads; t++)
        ebb_free(b->buffer[t]);
    ebb_free(b->buffer);
    ebb_bench_chunks_cleanup(&b->chunks);
    (void)sched_setaffinity(0, sizeof b->cores, &b->cores);
    ebb_free(b);
}

ebb_status_t ebb_bench_loader(const ebb_dataset_t *ds, const ebb_bench_loader_options_t *options,
                              const ebb_bench_listener_t *listener)
{
    bench_t *b;
    if (options->passes < 0 || options->passes > EBB_BENCH_MAX_PASSES / 8 || options->steps < 0)
        return EBB_FAIL(EBB_EINVAL, "passes must be 0 to %d and steps not negative, not %d and %lld",
                        EBB_BENCH_MAX_PASSES / 8, options->passes, (long long)options->steps);
    EBB_TRY(EBB_NEW("benchmark", &b));
    b->ds = ds;
    b->info = ebb_dataset_info(ds);
    b->options = *options;
    b->options.passes = options->passes > 0 ? options->passes : 5;
    b->listener = listener;
    sched_getaffinity(0, sizeof b->cores, &b->cores);
    ebb_status_t status = run(b);
    cleanup(b);
    return status;
}
