/* Copying of whole rows from where decoded blocks lie into a batch. */
#ifndef EBB_LOADER_COPY_H
#define EBB_LOADER_COPY_H

#include <stdbool.h>
#include <stdint.h>

/* Rows r of n: entries to[r] .. to[r + 1] of col and val come from col_from[r] and val_from[r]. Both sides may be read
 * and written up to EBB_COPY_SLACK elements past a row. */
typedef struct ebb_copy {
    int64_t n;
    const int64_t *to;
    const int32_t *const *col_from;
    const float *const *val_from;
    int32_t *col;
    float *val;
} ebb_copy_t;

void ebb_copy_rows(const ebb_copy_t *c, int64_t first, int64_t end);
/* Ask for memory that is read soon. */
void ebb_copy_fetch(const void *p, int64_t bytes);
/* For tests: 0 portable, 1 AVX2, 2 AVX-512; not above what the CPU has. Returns the level in force. */
int ebb_copy_level(int level);

#endif
