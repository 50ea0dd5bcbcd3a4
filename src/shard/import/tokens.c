/* Hashed features. */
#include "shard/import/tokens.h"
#include "base/hash.h"
#include "base/rng.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_WORD = 256, FEW = 40 };

int32_t ebb_hash_column(const ebb_hash_range_t *range, const char *text, int64_t bytes)
{
    uint64_t h = ebb_xxh3(text, (size_t)bytes);
    if (range->salt)
        h = ebb_mix64(h ^ range->salt);
    return range->begin + (int32_t)(h % range->columns);
}

ebb_status_t ebb_tokens_put(ebb_block_t *b, const ebb_hash_range_t *range, const char *text, int64_t bytes)
{
    EBB_TRY(ebb_block_reserve(b, 1, 1));
    b->col[b->nnz] = ebb_hash_column(range, text, bytes);
    b->val[b->nnz++] = 1;
    return EBB_OK;
}

static inline bool word_byte(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c >= 128;
}

ebb_status_t ebb_tokens_words(ebb_block_t *b, const ebb_hash_range_t *range, const char *text, int64_t bytes)
{
    char word[MAX_WORD];
    for (int64_t i = 0; i < bytes;) {
        int64_t n = 0;
        for (; i < bytes && !word_byte((unsigned char)text[i]); i++)
            ;
        for (; i < bytes && word_byte((unsigned char)text[i]); i++)
            if (n < MAX_WORD)
                word[n++] = (char)(text[i] >= 'A' && text[i] <= 'Z' ? text[i] + 32 : text[i]);
        if (n > 0)
            EBB_TRY(ebb_tokens_put(b, range, word, n));
    }
    return EBB_OK;
}

static int ascending(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static void sort_columns(int32_t *col, int64_t n)
{
    if (n > FEW) {
        qsort(col, (size_t)n, sizeof *col, ascending);
        return;
    }
    for (int64_t i = 1; i < n; i++) {
        int32_t c = col[i];
        int64_t k = i;
        for (; k > 0 && col[k - 1] > c; k--)
            col[k] = col[k - 1];
        col[k] = c;
    }
}

/* Hashed entries are all 1, so only columns need sorting. */
ebb_status_t ebb_tokens_merge(ebb_block_t *b, int64_t from, bool binary)
{
    int64_t n = from;
    sort_columns(b->col + from, b->nnz - from);
    for (int64_t i = from; i < b->nnz; i++) {
        if (n > from && b->col[n - 1] == b->col[i]) {
            b->val[n - 1] += binary ? 0 : 1;
            continue;
        }
        b->col[n] = b->col[i];
        b->val[n++] = 1;
    }
    b->nnz = n;
    return EBB_OK;
}
