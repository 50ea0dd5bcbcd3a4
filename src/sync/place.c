/* Who owns what: pure functions of sizes and ranks. */
#include <ebb/sync.h>
#include "sync/place.h"

int64_t ebb_sync_unit(int64_t dense_floats)
{
    int64_t unit = 16;
    while (unit < 4096 && dense_floats / (2 * unit) >= 1024)
        unit *= 2;
    return unit;
}

void ebb_sync_dense_range(const ebb_layout_t *layout, int rank, int ranks, int64_t *begin_p, int64_t *end_p)
{
    int64_t unit = ebb_sync_unit(layout->dense_floats);
    int64_t units = (layout->dense_floats + unit - 1) / unit;
    int64_t begin = units * rank / ranks * unit, end = units * (rank + 1) / ranks * unit;
    *begin_p = begin < layout->dense_floats ? begin : layout->dense_floats;
    *end_p = end < layout->dense_floats ? end : layout->dense_floats;
}

int64_t ebb_sync_table_rows(int64_t rows, int rank, int ranks)
{
    int64_t blocks = rows / 64, own = blocks / ranks + (blocks % ranks > rank);
    return own * 64 + (blocks % ranks == rank ? rows % 64 : 0);
}
