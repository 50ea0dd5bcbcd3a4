/* Hashed features: a value or the words of a text become columns of a range by XXH3. */
#ifndef EBB_SHARD_IMPORT_TOKENS_H
#define EBB_SHARD_IMPORT_TOKENS_H

#include "shard/import/block.h"

typedef struct ebb_hash_range {
    int32_t begin;
    uint32_t columns;
    uint64_t salt; /* keeps the features of several fields in one range apart; 0: none */
} ebb_hash_range_t;

int32_t ebb_hash_column(const ebb_hash_range_t *range, const char *text, int64_t bytes);
/* An entry of 1 for a value as it stands. */
ebb_status_t ebb_tokens_put(ebb_block_t *block, const ebb_hash_range_t *range, const char *text, int64_t bytes);
/* One for every word: runs of letters, digits and bytes beyond ASCII, in lower case. */
ebb_status_t ebb_tokens_words(ebb_block_t *block, const ebb_hash_range_t *range, const char *text, int64_t bytes);
/* Sort the entries of the row from `from` on, and join equal columns: their values add up, or stay 1 if binary. */
ebb_status_t ebb_tokens_merge(ebb_block_t *block, int64_t from, bool binary);

#endif
