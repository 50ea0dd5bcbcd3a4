/* How near the reader comes to zstd itself, on one thread. The compressed chunks lie in memory and are decompressed
 * into one buffer, then the same data set is read as CSR from the page cache, in ascending blocks and in shuffled ones.
 * Rates are of uncompressed bytes as stored. Arguments: FOLDER [ROWS], default 400000 rows of 30 entries in 30000
 * columns, level 9. */
#include "bench.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/threads.h"
#include "shard/layout.h"

#include <fcntl.h>
#include <unistd.h>
#include <zstd.h>

enum { ENTRIES = 30, COLS = 30000, STEP = 10000 };

typedef struct bench {
    const char *dir;
    ebb_dataset_t *ds;
    ebb_reader_t *reader;
    int64_t rows, block;
    bool shuffled;
    int32_t *col;
    float *val;
    uint8_t *stored, *out;
    ZSTD_DCtx *dctx;
} bench_t;

/* Text-like counts: frequent columns are small numbers, most values are 1. */
static int64_t make_rows(int64_t row0, int64_t n, int64_t *ptr, int32_t *col, float *val, int32_t *label)
{
    int64_t m = 0;
    ptr[0] = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t last = -1;
        for (int k = 0; k < ENTRIES; k++) {
            float u = ebb_rng_uniform(1, EBB_RNG_TEST, (uint64_t)(row0 + i), (uint64_t)k);
            int32_t c = last + 1 + (int32_t)(u * u * u * (2.0f * COLS / ENTRIES));
            if (c >= COLS)
                break;
            col[m] = last = c;
            val[m++] = 1 + (float)(int)(6 * u * u * u * u);
        }
        ptr[i + 1] = m;
        label[i] = (int32_t)(ebb_mix64((uint64_t)(row0 + i)) % 3);
    }
    return m;
}

static void write_data(const bench_t *b)
{
    static const char *const names[] = {"a", "b", "c"};
    const ebb_dataset_plan_t plan = {.name = "bench",
                                     .rows = b->rows,
                                     .cols = COLS,
                                     .sparse = true,
                                     .value_type = EBB_F32,
                                     .target = EBB_TARGET_CLASS,
                                     .target_cols = 1,
                                     .classes = 3,
                                     .class_names = names,
                                     .shard_rows = b->rows,
                                     .level = 9};
    ebb_shard_writer_t *w;
    ebb_shard_summary_t summary;
    int64_t class_rows[3] = {0}, *ptr = malloc((STEP + 1) * 8), nnz = 0;
    int32_t *label = malloc(STEP * 4);
    double start = 1e-9 * (double)ebb_now_ns();
    bench_ok(ebb_file_mkdirs(b->dir));
    bench_ok(ebb_shard_writer_create(b->dir, &plan, 0, ebb_cores(), &w));
    for (int64_t row = 0; row < b->rows; row += STEP) {
        int64_t n = b->rows - row < STEP ? b->rows - row : STEP;
        nnz += make_rows(row, n, ptr, b->col, b->val, label);
        bench_ok(ebb_shard_writer_append(w, n, ptr, b->col, b->val, NULL, label, NULL, NULL));
        for (int64_t i = 0; i < n; i++)
            class_rows[label[i]]++;
    }
    bench_ok(ebb_shard_writer_commit(w, &summary));
    ebb_shard_writer_destroy(w);
    bench_ok(ebb_manifest_write(b->dir, &plan, 1, &summary, class_rows));
    double seconds = 1e-9 * (double)ebb_now_ns() - start;
    printf("written: %lld rows, %lld entries, %.1f MB to %.1f MB in %.1f s (%.0f MB/s, level 9, %d threads)\n",
           (long long)b->rows, (long long)nnz, (double)nnz * 6e-6, (double)summary.bytes * 1e-6, seconds,
           (double)nnz * 6e-6 / seconds, ebb_cores());
    free(ptr);
    free(label);
}

/* All chunks of data and indices. */
static void raw(void *user)
{
    bench_t *b = user;
    uint8_t *at = b->stored;
    for (int role = EBB_ROLE_DATA; role <= EBB_ROLE_INDICES; role++) {
        const ebb_array_t *a = &b->ds->shard[0].array[role];
        for (int64_t c = 0; c < a->grid_rows; c++) {
            ZSTD_decompressDCtx(b->dctx, b->out, (size_t)ebb_array_chunk_bytes(a, c), at, a->chunk[c].bytes);
            at += a->chunk[c].bytes;
        }
    }
}

static void read_stored(bench_t *b)
{
    int fd;
    uint8_t *at = b->stored = malloc((size_t)b->ds->info.bytes);
    bench_ok(ebb_file_open(b->ds->shard[0].path, O_RDONLY, 0, &fd));
    for (int role = EBB_ROLE_DATA; role <= EBB_ROLE_INDICES; role++) {
        const ebb_array_t *a = &b->ds->shard[0].array[role];
        for (int64_t c = 0; c < a->grid_rows; c++) {
            bench_ok(ebb_file_pread(fd, "shard", at, a->chunk[c].bytes, a->chunk[c].offset));
            at += a->chunk[c].bytes;
        }
    }
    close(fd);
}

static void read_csr(void *user)
{
    bench_t *b = user;
    int64_t blocks = b->rows / b->block;
    for (int64_t i = 0; i < blocks; i++) {
        int64_t row = (b->shuffled ? (int64_t)ebb_permute(7, (uint64_t)blocks, (uint64_t)i) : i) * b->block;
        bench_ok(ebb_reader_csr(b->reader, row, b->block, b->col, b->val));
    }
}

static void show(const bench_t *b, const char *what, timing_t t, double limit)
{
    double bytes = (double)b->ds->info.nnz * 6, entries = (double)b->ds->info.nnz;
    printf("%-34s %8.2f GB/s %8.0f M entries/s   quartiles %.1f .. %.1f ms   %5.1f %% of zstd\n", what,
           bytes / t.median * 1e-9, entries / t.median * 1e-6, t.low * 1e3, t.high * 1e3, 100 * limit / t.median);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return fprintf(stderr, "usage: bench_shard FOLDER [ROWS]\n"), 64;
    bench_t b = {.dir = argv[1], .rows = argc > 2 ? atoll(argv[2]) : 400000, .dctx = ZSTD_createDCtx()};
    char what[64];
    b.col = malloc((size_t)65536 * ENTRIES * 4);
    b.val = malloc((size_t)65536 * ENTRIES * 4);
    b.out = malloc(EBB_MOST_CHUNK_ELEMENTS * 8);
    write_data(&b);
    bench_ok(ebb_dataset_open(b.dir, NULL, &b.ds));
    bench_ok(ebb_reader_create(b.ds, 0, &b.reader));
    read_stored(&b);
    double limit = bench_time(raw, &b).median;
    show(&b, "zstd alone, chunks in memory", bench_time(raw, &b), limit);
    for (int shuffled = 0; shuffled < 2; shuffled++)
        for (b.block = 2048; b.block <= 32768; b.block *= 4) {
            b.shuffled = shuffled;
            snprintf(what, sizeof what, "reader, %s blocks of %lld rows", shuffled ? "shuffled" : "ascending",
                     (long long)b.block);
            show(&b, what, bench_time(read_csr, &b), limit);
        }
    ebb_reader_destroy(b.reader);
    ebb_dataset_close(b.ds);
    ZSTD_freeDCtx(b.dctx);
    free(b.col);
    free(b.val);
    free(b.out);
    free(b.stored);
    return 0;
}
