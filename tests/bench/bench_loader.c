/* What a shuffled epoch costs against the machine's own limit: zstd decompression of the same chunks, already in
 * memory.
 *
 * usage: bench_loader DIR [REPEATS [MEMORY_MIB [BLOCK_ROWS [WINDOW]]]]
 *        bench_loader --make counts|text|dense ROWS DIR   (made-up data: cells x genes, hashed text, pixels)
 *
 * Every line is the median of REPEATS (default 5) runs, with the smallest and the largest; warm cache. The loader's
 * memory is kept under what the data set takes decoded (unless MEMORY_MIB says otherwise), so that every epoch decodes
 * every block. The last column is the share of the raw rate of the same number of threads. The loader's consumer
 * decodes when it would wait, so "loader, T threads" is run with T - 1 read-ahead threads and one consumer, but at
 * least one read-ahead thread: on one thread the process is bound to one core. */
#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/threads.h"
#include "shard/layout.h"
#include <ebb/loader.h>

#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

enum { MAX_REPEATS = 101, MAX_THREADS = 64, READ_ROWS = 4096 };

typedef struct packed_chunk {
    const uint8_t *in;
    size_t in_bytes, out_bytes;
    bool compressed;
} packed_chunk_t;

typedef struct bench {
    ebb_dataset_t *ds;
    const ebb_dataset_info_t *info;
    packed_chunk_t *chunk;
    int64_t n_chunks, most, decoded, packed;
    ebb_loader_options_t options;
    int threads;
    void *out[MAX_THREADS];
    ZSTD_DCtx *dctx[MAX_THREADS];
    ebb_reader_t *reader[MAX_THREADS];
    void *buffer[MAX_THREADS][3];
    int64_t entries;
    ebb_loader_t *loader;
} bench_t;

static void die(const char *what)
{
    fprintf(stderr, "bench_loader: %s: %s\n", what, ebb_error()->message);
    exit(1);
}

#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        if ((call) != EBB_OK)                                                                                          \
            die(#call);                                                                                                \
    } while (0)

/* ---- made-up data ---- */

static int compare_i32(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return x < y ? -1 : x > y;
}

/* Column numbers by Zipf's law, as in counts and text; ascending and unique. */
static int64_t made_row(int64_t row, int64_t cols, int64_t mean, int32_t *col, float *val)
{
    int64_t want = mean / 2 + (int64_t)(ebb_rng_u64(1, EBB_RNG_TEST, (uint64_t)row, 0) % (uint64_t)(mean + 1)), n = 0;
    for (int64_t j = 0; j < want; j++) {
        double u = (double)ebb_rng_uniform(2, EBB_RNG_TEST, (uint64_t)row, (uint64_t)j);
        col[j] = (int32_t)(ebb_mix64((uint64_t)pow((double)cols, u)) % (uint64_t)cols);
    }
    qsort(col, (size_t)want, sizeof *col, compare_i32);
    for (int64_t j = 0; j < want; j++)
        if (j == 0 || col[j] != col[n - 1])
            col[n++] = col[j];
    for (int64_t j = 0; j < n; j++) {
        float u = ebb_rng_uniform(3, EBB_RNG_TEST, (uint64_t)row, (uint64_t)j);
        val[j] = (float)(int)(1 / (u + 0.05f));
    }
    return n;
}

static void make(const char *kind, int64_t rows, const char *dir)
{
    enum { STEP = 1024 };
    bool dense = strcmp(kind, "dense") == 0, text = strcmp(kind, "text") == 0;
    static const char *names[] = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};
    int64_t cols = dense ? 784 : text ? 1 << 18 : 20000, mean = text ? 32 : 600, class_rows[10] = {0};
    ebb_dataset_plan_t plan = {.name = kind,
                               .rows = rows,
                               .cols = cols,
                               .sparse = !dense,
                               .value_type = dense ? EBB_U8 : EBB_F32,
                               .target = EBB_TARGET_CLASS,
                               .target_cols = 1,
                               .classes = 10,
                               .class_names = names,
                               .shard_rows = 1 << 20,
                               .level = 9};
    int n_shards = (int)((rows + plan.shard_rows - 1) / plan.shard_rows);
    ebb_shard_summary_t *summary;
    int64_t *rowptr;
    int32_t *col, *label;
    float *val;
    MUST(ebb_file_mkdirs(dir));
    MUST(EBB_NEW_ARRAY("summaries", n_shards, &summary));
    MUST(EBB_NEW_ARRAY("rows", STEP + 1, &rowptr));
    MUST(EBB_NEW_ARRAY("rows", STEP, &label));
    MUST(EBB_NEW_ARRAY("rows", STEP * 2000, &col));
    MUST(EBB_NEW_ARRAY("rows", STEP * 2000, &val));
    for (int s = 0; s < n_shards; s++) {
        ebb_shard_writer_t *w;
        int64_t row = s * plan.shard_rows, end = row + plan.shard_rows < rows ? row + plan.shard_rows : rows;
        MUST(ebb_shard_writer_create(dir, &plan, s, ebb_cores(), &w));
        for (; row < end; row += STEP) {
            int64_t n = end - row < STEP ? end - row : STEP;
            for (int64_t i = 0; i < n; i++) {
                label[i] = (int32_t)((row + i) * 10 / rows);
                class_rows[label[i]]++;
                if (!dense)
                    rowptr[i + 1] = rowptr[i] + made_row(row + i, cols, mean, col + rowptr[i], val + rowptr[i]);
                for (int64_t j = 0; dense && j < cols; j++) {
                    uint64_t h = ebb_mix64((uint64_t)((row + i) * cols + j));
                    val[i * cols + j] =
                        ((row + i) * 3 + j) % 28 < 14 ? (h % 7 ? (float)(j % 250) : (float)(h % 256)) : 0;
                }
            }
            MUST(ebb_shard_writer_append(w, n, dense ? NULL : rowptr, dense ? NULL : col, dense ? NULL : val,
                                         dense ? val : NULL, label, NULL, NULL));
        }
        MUST(ebb_shard_writer_commit(w, &summary[s]));
        ebb_shard_writer_destroy(w);
    }
    MUST(ebb_manifest_write(dir, &plan, n_shards, summary, class_rows));
    ebb_free(summary);
    ebb_free(rowptr);
    ebb_free(label);
    ebb_free(col);
    ebb_free(val);
}

/* ---- what is measured ---- */

static void load_array(bench_t *b, const ebb_shard_t *shard, const ebb_array_t *a, int fd)
{
    int64_t n = a->present && a->chunk ? a->grid_rows * a->grid_cols : 0;
    for (int64_t c = 0; c < n; c++) {
        const ebb_chunk_t *chunk = &a->chunk[c];
        uint8_t *in;
        MUST(ebb_alloc("chunk", chunk->bytes, (void **)&in));
        MUST(ebb_file_pread(fd, shard->path, in, chunk->bytes, chunk->offset));
        bool plain = a->codec != EBB_CODEC_ZSTD || (chunk->mask & a->codec_bit);
        int64_t bytes = ebb_array_chunk_bytes(a, c);
        b->chunk[b->n_chunks++] = (packed_chunk_t){in, chunk->bytes, (size_t)bytes, !plain};
        b->most = bytes > b->most ? bytes : b->most;
        b->decoded += bytes;
        b->packed += chunk->bytes;
    }
}

static void load_chunks(bench_t *b)
{
    int64_t n = 0;
    for (int s = 0; s < b->info->n_shards; s++)
        for (int role = 0; role < EBB_ROLES; role++)
            n += b->ds->shard[s].array[role].present
                     ? b->ds->shard[s].array[role].grid_rows * b->ds->shard[s].array[role].grid_cols
                     : 0;
    MUST(EBB_NEW_ARRAY("chunks", n, &b->chunk));
    for (int s = 0; s < b->info->n_shards; s++) {
        const ebb_shard_t *shard = &b->ds->shard[s];
        int fd;
        MUST(ebb_file_open(shard->path, O_RDONLY, 0, &fd));
        for (int role = 0; role < EBB_ROLES; role++)
            if (role != EBB_ROLE_ROWID)
                load_array(b, shard, &shard->array[role], fd);
        close(fd);
    }
}

static ebb_status_t raw_task(void *user, int thread, int64_t i)
{
    bench_t *b = user;
    const packed_chunk_t *c = &b->chunk[i];
    if (!c->compressed)
        memcpy(b->out[thread], c->in, c->in_bytes);
    else if (ZSTD_isError(ZSTD_decompressDCtx(b->dctx[thread], b->out[thread], c->out_bytes, c->in, c->in_bytes)))
        return EBB_FAIL(EBB_ECORRUPT, "chunk %lld", (long long)i);
    return EBB_OK;
}

static ebb_status_t read_task(void *user, int thread, int64_t i)
{
    bench_t *b = user;
    int64_t row0 = i * READ_ROWS, n = b->info->rows - row0 < READ_ROWS ? b->info->rows - row0 : READ_ROWS;
    void **buffer = b->buffer[thread];
    if (!b->info->sparse)
        return ebb_reader_dense(b->reader[thread], row0, n, buffer[1]);
    EBB_TRY(ebb_reader_rowptr(b->reader[thread], row0, n, 0, buffer[0]));
    int64_t nnz = ((int64_t *)buffer[0])[n];
    if (nnz > b->entries)
        return EBB_FAIL(EBB_EBUG, "%lld entries", (long long)nnz);
    return ebb_reader_csr(b->reader[thread], row0, n, buffer[1], buffer[2]);
}

static void run_pool(bench_t *b, int64_t count, ebb_task_t task)
{
    ebb_pool_t *pool;
    MUST(ebb_pool_create(b->threads, &pool));
    MUST(ebb_pool_run(pool, count, task, b));
    ebb_pool_destroy(pool);
}

static void raw(bench_t *b)
{
    run_pool(b, b->n_chunks, raw_task);
}

static void sequential(bench_t *b)
{
    run_pool(b, (b->info->rows + READ_ROWS - 1) / READ_ROWS, read_task);
}

static void epoch(bench_t *b)
{
    const ebb_batch_t *batch;
    ebb_status_t status;
    int64_t rows = 0;
    while ((status = ebb_loader_acquire(b->loader, &batch)) == EBB_OK) {
        rows += batch->rows;
        ebb_loader_release(b->loader, batch);
    }
    if (status != EBB_END || rows != b->info->rows)
        die("epoch");
}

static int compare_f64(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Median seconds. */
static double measure(bench_t *b, const char *what, void (*run)(bench_t *), int repeats, double limit)
{
    double t[MAX_REPEATS];
    for (int i = -1; i < repeats; i++) { /* the first one warms up */
        int64_t began = ebb_now_ns();
        run(b);
        if (i >= 0)
            t[i] = (double)(ebb_now_ns() - began) * 1e-9;
    }
    qsort(t, (size_t)repeats, sizeof *t, compare_f64);
    double s = t[repeats / 2];
    printf("%-28s %d  %8.4f  %8.4f .. %8.4f %9.3f %9.1f %8.2f   ", what, b->threads, s, t[0], t[repeats - 1],
           (double)b->info->rows / s * 1e-6, (double)b->info->nnz / s * 1e-6, (double)b->decoded / s * 1e-9);
    printf(limit > 0 ? "%.2f\n" : "-\n", limit / s);
    fflush(stdout);
    return s;
}

static void bind_cores(int n)
{
    static cpu_set_t all;
    if (CPU_COUNT(&all) == 0)
        sched_getaffinity(0, sizeof all, &all);
    cpu_set_t some;
    CPU_ZERO(&some);
    for (int c = 0; c < CPU_SETSIZE && CPU_COUNT(&some) < n; c++)
        if (CPU_ISSET(c, &all))
            CPU_SET(c, &some);
    sched_setaffinity(0, sizeof some, &some);
}

static void run_loader(bench_t *b, bool shuffle, int64_t memory, int repeats, double limit, const char *what)
{
    ebb_loader_stats_t before, after;
    b->options.order.shuffle = shuffle;
    b->options.memory_bytes = memory;
    b->options.threads = b->threads > 1 ? b->threads - 1 : 1;
    MUST(ebb_loader_create(b->ds, &b->options, &b->loader));
    ebb_loader_stats(b->loader, &before);
    measure(b, what, epoch, repeats, limit);
    ebb_loader_stats(b->loader, &after);
    printf("    decoded %.2f x the data set an epoch, %.1f MiB held, %lld allocations after the first batch\n",
           (double)after.bytes_decoded / (double)(b->info->nnz * (b->info->sparse ? 8 : 4)) / (repeats + 1),
           (double)after.memory_bytes / (1 << 20), (long long)after.allocations);
    ebb_loader_destroy(b->loader);
}

int main(int argc, char **argv)
{
    bench_t *b;
    if (argc == 5 && strcmp(argv[1], "--make") == 0) {
        make(argv[2], atoll(argv[3]), argv[4]);
        return 0;
    }
    if (argc < 2)
        return fprintf(stderr, "usage: bench_loader DIR [REPEATS [MEMORY_MIB [BLOCK_ROWS [WINDOW]]]] | --make "
                               "counts|text|dense ROWS DIR\n"),
               64;
    int repeats = argc > 2 ? atoi(argv[2]) : 5, cores = ebb_cores() < MAX_THREADS ? ebb_cores() : MAX_THREADS;
    repeats = repeats < 1 ? 1 : repeats > MAX_REPEATS ? MAX_REPEATS : repeats;
    MUST(EBB_NEW("bench", &b));
    MUST(ebb_dataset_open(argv[1], NULL, &b->ds));
    b->info = ebb_dataset_info(b->ds);
    load_chunks(b);
    b->options = (ebb_loader_options_t){.order = {.seed = 1, .batch = 4096 < b->info->rows ? 4096 : b->info->rows}};
    b->options.order.block_rows = argc > 4 ? atoll(argv[4]) : 0;
    b->options.order.window_blocks = argc > 5 ? atoi(argv[5]) : 0;
    MUST(ebb_order_init(&b->options.order, b->info));
    b->entries = b->info->sparse ? b->info->nnz / b->info->rows * READ_ROWS * 2 + 65536 : READ_ROWS * b->info->cols;
    for (int t = 0; t < cores; t++) {
        b->dctx[t] = ZSTD_createDCtx();
        MUST(ebb_alloc("chunk", (size_t)b->most, &b->out[t]));
        MUST(ebb_reader_create(b->ds, 0, &b->reader[t]));
        MUST(ebb_alloc("rows", (READ_ROWS + 1) * 8, &b->buffer[t][0]));
        MUST(ebb_alloc("rows", (size_t)b->entries * 4, &b->buffer[t][1]));
        MUST(ebb_alloc("rows", (size_t)b->entries * 4, &b->buffer[t][2]));
    }
    int64_t in_memory = b->info->nnz * (b->info->sparse ? 8 : 4);
    int64_t memory = argc > 3 && atoll(argv[3]) > 0
                         ? (int64_t)atoll(argv[3]) << 20
                         : in_memory * 3 / 2 + (64 << 20); /* less than twice: not kept decoded */
    printf("%s: %lld rows, %lld entries, %lld chunks, %.1f MB packed, %.1f MB decoded; blocks of %lld rows, windows of "
           "%d\n",
           b->info->name, (long long)b->info->rows, (long long)b->info->nnz, (long long)b->n_chunks,
           (double)b->packed * 1e-6, (double)b->decoded * 1e-6, (long long)b->options.order.block_rows,
           b->options.order.window_blocks);
    printf("%-28s %s %9s  %20s %9s %9s %8s   share\n", "", "threads", "median s", "smallest, largest", "M rows/s",
           "M nnz/s", "GB/s");
    for (b->threads = 1; b->threads <= cores; b->threads++) {
        bind_cores(b->threads);
        double limit = measure(b, "zstd in memory", raw, repeats, 0);
        measure(b, "reader, storage order", sequential, repeats, limit);
        run_loader(b, false, memory, repeats, limit, "loader, storage order");
        run_loader(b, true, memory, repeats, limit, "loader, shuffled");
        run_loader(b, true, in_memory * 5 + (256 << 20), repeats, limit, "loader, shuffled, kept");
    }
    return 0;
}
