/* Transposing in bounded memory: a first walk over all columns counts the entries of every row; then as many rows as
 * the budget allows (the window) are collected in another walk, and the next ones when they are asked for. A walk
 * visits columns in ascending order, so the entries of a row come out sorted.
 *
 * Threads read from the window under a shared lock; one that misses its rows loads the window that begins with them.
 */
#include "shard/import/transpose.h"
#include "base/alloc.h"
#include "shard/layout.h"

#include <pthread.h>
#include <string.h>

enum { BLOCK = 64 * 1024 };

struct ebb_transpose {
    const ebb_dataset_t *ds;
    ebb_reader_t *reader;
    int64_t rows, cols, nnz, capacity;
    int64_t *rowptr; /* (rows + 1) */
    pthread_rwlock_t lock;
    /* the window: rows [begin, end), their entries from rowptr[begin] on */
    int64_t begin, end;
    int64_t *next; /* (rows of the window) where its next entry goes */
    int64_t next_cap, col_cap, val_cap;
    int32_t *col;
    float *val;
    /* of a walk */
    int64_t *colptr; /* (BLOCK + 1) */
    int32_t *block_row;
    float *block_val;
};

typedef void (*visit_t)(ebb_transpose_t *t, const int32_t *row, const float *val, int64_t n, int32_t col);

static void count(ebb_transpose_t *t, const int32_t *row, const float *val, int64_t n, int32_t col)
{
    for (int64_t i = 0; i < n; i++)
        t->rowptr[row[i] + 1]++;
}

static void collect(ebb_transpose_t *t, const int32_t *row, const float *val, int64_t n, int32_t col)
{
    for (int64_t i = 0; i < n; i++) {
        if (row[i] < t->begin || row[i] >= t->end)
            continue;
        int64_t at = t->next[row[i] - t->begin]++;
        t->col[at] = col;
        t->val[at] = val[i];
    }
}

/* Entries [at, at + n) of the file. */
static ebb_status_t load_entries(ebb_transpose_t *t, int64_t at, int64_t n, bool values)
{
    EBB_TRY(ebb_reader_take(t->reader, 0, EBB_ROLE_INDICES, at, n, EBB_ELEM_I32, t->block_row));
    if (values)
        EBB_TRY(ebb_reader_take(t->reader, 0, EBB_ROLE_DATA, at, n, EBB_ELEM_F32, t->block_val));
    for (int64_t i = 0; i < n; i++)
        if (t->block_row[i] < 0 || t->block_row[i] >= t->rows)
            return EBB_FAIL(EBB_EDATA, "%s: entry %lld: row %d is not in 0 .. %lld", t->ds->path, (long long)(at + i),
                            t->block_row[i], (long long)t->rows - 1);
    return EBB_OK;
}

static ebb_status_t walk(ebb_transpose_t *t, visit_t visit, bool values)
{
    int64_t at = 0, loaded = 0, from = 0; /* entries [from, loaded) are in the block */
    for (int64_t col0 = 0, n; col0 < t->cols; col0 += n) {
        n = t->cols - col0 < BLOCK ? t->cols - col0 : BLOCK;
        EBB_TRY(ebb_reader_take(t->reader, 0, EBB_ROLE_INDPTR, col0, n + 1, EBB_ELEM_I64, t->colptr));
        for (int64_t c = 0; c < n; c++) {
            if (t->colptr[c] != at || t->colptr[c + 1] < at || t->colptr[c + 1] > t->nnz)
                return EBB_FAIL(EBB_EDATA, "%s: column pointers do not ascend at column %lld", t->ds->path,
                                (long long)(col0 + c));
            while (at < t->colptr[c + 1]) {
                if (at == loaded) {
                    from = at;
                    loaded = t->nnz - at < BLOCK ? t->nnz : at + BLOCK;
                    EBB_TRY(load_entries(t, from, loaded - from, values));
                }
                int64_t stop = t->colptr[c + 1] < loaded ? t->colptr[c + 1] : loaded;
                visit(t, t->block_row + (at - from), t->block_val + (at - from), stop - at, (int32_t)(col0 + c));
                at = stop;
            }
        }
    }
    return EBB_OK;
}

static ebb_status_t load_window(ebb_transpose_t *t, int64_t begin, int64_t least)
{
    int64_t end = begin + least;
    while (end < t->rows && t->rowptr[end + 1] - t->rowptr[begin] <= t->capacity)
        end++;
    int64_t nnz = t->rowptr[end] - t->rowptr[begin];
    t->begin = t->end = 0; /* nothing, should this fail */
    EBB_TRY(ebb_grow("rows of a window", (void **)&t->next, &t->next_cap, end - begin, sizeof *t->next));
    EBB_TRY(ebb_grow("columns of a window", (void **)&t->col, &t->col_cap, nnz, sizeof *t->col));
    EBB_TRY(ebb_grow("values of a window", (void **)&t->val, &t->val_cap, nnz, sizeof *t->val));
    for (int64_t r = begin; r < end; r++)
        t->next[r - begin] = t->rowptr[r] - t->rowptr[begin];
    t->begin = begin;
    t->end = end;
    ebb_status_t status = walk(t, collect, true);
    if (status != EBB_OK)
        t->begin = t->end = 0;
    return status;
}

static ebb_status_t copy_rows(const ebb_transpose_t *t, int64_t row0, int64_t n, ebb_block_t *b)
{
    int64_t first = t->rowptr[row0], nnz = t->rowptr[row0 + n] - first, from = first - t->rowptr[t->begin];
    EBB_TRY(ebb_block_reserve(b, n, nnz));
    for (int64_t i = 0; i <= n; i++)
        b->rowptr[i] = t->rowptr[row0 + i] - first;
    memcpy(b->col, t->col + from, (size_t)nnz * sizeof *b->col);
    memcpy(b->val, t->val + from, (size_t)nnz * sizeof *b->val);
    return EBB_OK;
}

static bool holds(const ebb_transpose_t *t, int64_t row0, int64_t n)
{
    return row0 >= t->begin && row0 + n <= t->end;
}

ebb_status_t ebb_transpose_read(ebb_transpose_t *t, int64_t row0, int64_t n, ebb_block_t *block)
{
    pthread_rwlock_rdlock(&t->lock);
    bool there = holds(t, row0, n);
    ebb_status_t status = there ? copy_rows(t, row0, n, block) : EBB_OK;
    pthread_rwlock_unlock(&t->lock);
    if (there)
        return status;
    pthread_rwlock_wrlock(&t->lock);
    status = holds(t, row0, n) ? EBB_OK : load_window(t, row0, n);
    if (status == EBB_OK)
        status = copy_rows(t, row0, n, block);
    pthread_rwlock_unlock(&t->lock);
    return status;
}

static ebb_status_t begin(ebb_transpose_t *t, int64_t memory_bytes)
{
    const ebb_dataset_info_t *info = ebb_dataset_info(t->ds);
    t->rows = info->cols;
    t->cols = info->rows;
    t->nnz = info->nnz;
    t->capacity = memory_bytes / (int64_t)(sizeof *t->col + sizeof *t->val);
    EBB_TRY(EBB_NEW_ARRAY("row pointers", t->rows + 1, &t->rowptr));
    EBB_TRY(EBB_NEW_ARRAY("column pointers", BLOCK + 1, &t->colptr));
    EBB_TRY(EBB_NEW_ARRAY("rows of entries", BLOCK, &t->block_row));
    EBB_TRY(EBB_NEW_ARRAY("values of entries", BLOCK, &t->block_val));
    EBB_TRY(ebb_reader_create(t->ds, 0, &t->reader));
    EBB_TRY(walk(t, count, false));
    for (int64_t r = 0; r < t->rows; r++)
        t->rowptr[r + 1] += t->rowptr[r];
    return EBB_OK;
}

ebb_status_t ebb_transpose_create(const ebb_dataset_t *ds, int64_t memory_bytes, ebb_transpose_t **t_p)
{
    ebb_transpose_t *t;
    *t_p = NULL;
    EBB_TRY(EBB_NEW("transpose", &t));
    t->ds = ds;
    pthread_rwlock_init(&t->lock, NULL);
    ebb_status_t status = begin(t, memory_bytes);
    if (status == EBB_OK)
        *t_p = t;
    else
        ebb_transpose_destroy(t);
    return status;
}

void ebb_transpose_destroy(ebb_transpose_t *t)
{
    if (!t)
        return;
    ebb_reader_destroy(t->reader);
    ebb_free(t->rowptr);
    ebb_free(t->next);
    ebb_free(t->col);
    ebb_free(t->val);
    ebb_free(t->colptr);
    ebb_free(t->block_row);
    ebb_free(t->block_val);
    pthread_rwlock_destroy(&t->lock);
    ebb_free(t);
}
