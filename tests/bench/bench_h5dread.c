/* The same rows through H5Dread, as a C program without Ebb would read them: blocks of rows in a shuffled order, each
 * with one H5Dread of its values, one of its columns and one of its row pointers, converted to float32 and int32.
 *
 * usage: bench_h5dread BLOCK_ROWS CACHE_MIB PROCESSES PASSES FILE...       (.h5 shards of one data set, or an .h5ad)
 *
 * libhdf5 lets one thread in at a time, so more cores are used by processes, each with its own files open and every
 * PROCESSESth block. Prints one line of JSON: seconds of each pass (of the slowest process, after one that is not
 * counted), rows, sums of values and columns. */
#include "base/clock.h"
#include "base/rng.h"
#include "shard/h5.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_FILES = 64, MAX_PASSES = 64, MAX_PROCESSES = 64 };

typedef struct file {
    hid_t data, indices, indptr, x;
    int64_t rows, cols, row0;
} file_t;

typedef struct result {
    double seconds[MAX_PASSES];
    double value_sum;
    int64_t rows, column_sum;
} result_t;

typedef struct reading {
    file_t file[MAX_FILES];
    int n_files;
    int64_t block_rows, rows;
    int64_t *rowptr;
    int32_t *col;
    float *val;
    int64_t capacity;
    result_t *result; /* shared with the parent */
} reading_t;

static void must(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "bench_h5dread: cannot %s\n", what);
    exit(1);
}

static hid_t open_dataset(hid_t file, const char *name, size_t cache)
{
    hid_t dapl = H5Pcreate(H5P_DATASET_ACCESS);
    must(H5Pset_chunk_cache(dapl, 12421, cache, H5D_CHUNK_CACHE_W0_DEFAULT) >= 0, "set the chunk cache");
    hid_t h5 = H5Dopen2(file, name, dapl);
    must(h5 >= 0, name);
    H5Pclose(dapl);
    return h5;
}

static void open_file(reading_t *r, const char *path, size_t cache)
{
    file_t *f = &r->file[r->n_files++];
    hsize_t size[2] = {0, 1};
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    must(file >= 0, path);
    hid_t x = H5Oopen(file, "X", H5P_DEFAULT);
    must(x >= 0, "find X");
    bool sparse = H5Iget_type(x) == H5I_GROUP;
    H5Oclose(x);
    f->x = sparse ? 0 : open_dataset(file, "X", cache);
    f->data = sparse ? open_dataset(file, "X/data", cache) : 0;
    f->indices = sparse ? open_dataset(file, "X/indices", cache) : 0;
    f->indptr = sparse ? open_dataset(file, "X/indptr", cache) : 0;
    hid_t space = H5Dget_space(sparse ? f->indptr : f->x);
    H5Sget_simple_extent_dims(space, size, NULL);
    H5Sclose(space);
    f->rows = (int64_t)size[0] - sparse;
    f->cols = (int64_t)size[1];
    f->row0 = r->rows;
    r->rows += f->rows;
}

static void read_part(hid_t h5, hid_t type, int64_t first, int64_t n, int64_t cols, void *out)
{
    hsize_t at[2] = {(hsize_t)first, 0}, count[2] = {(hsize_t)n, (hsize_t)cols};
    hid_t space = H5Dget_space(h5), memory = H5Screate_simple(cols > 0 ? 2 : 1, count, NULL);
    must(H5Sselect_hyperslab(space, H5S_SELECT_SET, at, NULL, count, NULL) >= 0 &&
             H5Dread(h5, type, memory, space, H5P_DEFAULT, out) >= 0,
         "read");
    H5Sclose(memory);
    H5Sclose(space);
}

static void make_room(reading_t *r, int64_t entries)
{
    if (entries <= r->capacity)
        return;
    r->capacity = entries + entries / 2;
    free(r->col);
    free(r->val);
    r->col = malloc((size_t)r->capacity * 4);
    r->val = malloc((size_t)r->capacity * 4);
    must(r->col && r->val, "get memory");
}

/* Rows [row0, row0 + n) of a file; how many entries. */
static int64_t read_rows(reading_t *r, const file_t *f, int64_t row0, int64_t n)
{
    if (f->x) {
        make_room(r, n * f->cols);
        read_part(f->x, H5T_NATIVE_FLOAT, row0, n, f->cols, r->val);
        return n * f->cols;
    }
    read_part(f->indptr, H5T_NATIVE_INT64, row0, n + 1, 0, r->rowptr);
    int64_t first = r->rowptr[0], nnz = r->rowptr[n] - first;
    make_room(r, nnz);
    if (nnz > 0) {
        read_part(f->data, H5T_NATIVE_FLOAT, first, nnz, 0, r->val);
        read_part(f->indices, H5T_NATIVE_INT32, first, nnz, 0, r->col);
    }
    return nnz;
}

static void sum_up(reading_t *r, const file_t *f, int64_t rows, int64_t entries)
{
    r->result->rows += rows;
    for (int64_t i = 0; i < entries; i++)
        r->result->value_sum += (double)r->val[i];
    for (int64_t i = 0; i < entries && !f->x; i++)
        r->result->column_sum += r->col[i];
}

/* Blocks never cross files. */
static void run_pass(reading_t *r, int pass, int process, int processes)
{
    int64_t blocks = 0, first[MAX_FILES + 1];
    for (int i = 0; i < r->n_files; i++) {
        first[i] = blocks;
        blocks += (r->file[i].rows + r->block_rows - 1) / r->block_rows;
    }
    first[r->n_files] = blocks;
    for (int64_t i = process; i < blocks; i += processes) {
        int64_t block = (int64_t)ebb_permute((uint64_t)pass + 2, (uint64_t)blocks, (uint64_t)i);
        int k = 0;
        while (block >= first[k + 1])
            k++;
        const file_t *f = &r->file[k];
        int64_t row0 = (block - first[k]) * r->block_rows;
        int64_t n = f->rows - row0 < r->block_rows ? f->rows - row0 : r->block_rows;
        int64_t entries = read_rows(r, f, row0, n);
        if (pass < 0)
            sum_up(r, f, n, entries);
    }
}

static void work(result_t *result, char **argv, int n_files, int process)
{
    static reading_t r;
    int processes = atoi(argv[3]), passes = atoi(argv[4]);
    r.result = result;
    r.block_rows = atoll(argv[1]);
    r.rowptr = malloc((size_t)(r.block_rows + 1) * 8);
    must(r.rowptr != NULL, "get memory");
    ebb_h5_lock(); /* registers the zstd filter */
    for (int i = 0; i < n_files; i++)
        open_file(&r, argv[5 + i], (size_t)atoll(argv[2]) << 20);
    for (int pass = -1; pass < passes; pass++) {
        int64_t began = ebb_now_ns();
        run_pass(&r, pass, process, processes);
        if (pass >= 0)
            result->seconds[pass] = (double)(ebb_now_ns() - began) * 1e-9;
    }
    ebb_h5_unlock();
}

static void print_results(const result_t *result, int processes, int passes)
{
    double value_sum = 0;
    int64_t rows = 0, column_sum = 0;
    printf("{\"seconds\": [");
    for (int p = 0; p < passes; p++) {
        double slowest = 0;
        for (int i = 0; i < processes; i++)
            slowest = result[i].seconds[p] > slowest ? result[i].seconds[p] : slowest;
        printf("%s%.6f", p ? ", " : "", slowest);
    }
    for (int i = 0; i < processes; i++) {
        value_sum += result[i].value_sum;
        rows += result[i].rows;
        column_sum += result[i].column_sum;
    }
    printf("], \"rows\": %lld, \"value_sum\": %.17g, \"column_sum\": %lld}\n", (long long)rows, value_sum,
           (long long)column_sum);
}

int main(int argc, char **argv)
{
    int processes = argc > 5 ? atoi(argv[3]) : 0, passes = argc > 5 ? atoi(argv[4]) : 0;
    if (argc < 6 || atoll(argv[1]) < 1 || processes < 1 || processes > MAX_PROCESSES || passes < 1 ||
        passes > MAX_PASSES || argc - 5 > MAX_FILES)
        return fprintf(stderr, "usage: bench_h5dread BLOCK_ROWS CACHE_MIB PROCESSES PASSES FILE...\n"), 64;
    result_t *result =
        mmap(NULL, sizeof *result * MAX_PROCESSES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(result != MAP_FAILED, "get memory");
    for (int i = 0; i < processes; i++)
        if (fork() == 0) {
            work(&result[i], argv, argc - 5, i);
            _exit(0);
        }
    for (int i = 0, status; i < processes; i++)
        must(wait(&status) > 0 && status == 0, "finish: a process failed");
    print_results(result, processes, passes);
    return 0;
}
