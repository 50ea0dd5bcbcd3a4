/* Data sets that are made up, for benchmarks: what they hold depends on the kind and the number of rows alone.
 *
 * usage: make_data counts|text|dense ROWS DIR
 *
 * counts   cells x 20,000 genes, 600 whole numbers a row, column numbers by Zipf's law
 * text     262,144 hashed words, 32 a row
 * dense    784 pixels of a byte
 *
 * The rows are sorted by class, of which there are 10. */
#include "base/alloc.h"
#include "base/file.h"
#include "base/rng.h"
#include "base/threads.h"
#include <ebb/shard.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void die(const char *what)
{
    fprintf(stderr, "make_data: %s: %s\n", what, ebb_error()->message);
    exit(1);
}

#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        if ((call) != EBB_OK)                                                                                          \
            die(#call);                                                                                                \
    } while (0)

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
                               .nnz = rows * mean, /* somewhat more than there are, as columns repeat */
                               .sparse = !dense,
                               .value_type = EBB_U8, /* the narrowest that holds them, as pack chooses */
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

int main(int argc, char **argv)
{
    if (argc != 4 || atoll(argv[2]) < 1)
        return fprintf(stderr, "usage: make_data counts|text|dense ROWS DIR\n"), 64;
    make(argv[1], atoll(argv[2]), argv[3]);
    return 0;
}
