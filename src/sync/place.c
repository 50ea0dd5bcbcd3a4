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

/* Without its place among the own arrays. */
static ebb_own_t own_part(const ebb_layout_t *layout, int bucket, int rank, int ranks)
{
    int64_t begin, end, unit = ebb_sync_unit(layout->dense_floats);
    ebb_layout_bucket(layout, bucket, &begin, &end);
    int64_t units = (end - begin + unit - 1) / unit;
    int64_t from = begin + units * rank / ranks * unit, to = begin + units * (rank + 1) / ranks * unit;
    return (ebb_own_t){.begin = from < end ? from : end, .end = to < end ? to : end};
}

ebb_own_t ebb_sync_own(const ebb_layout_t *layout, int bucket, int rank, int ranks)
{
    ebb_own_t own = own_part(layout, bucket, rank, ranks);
    for (int i = bucket + 1; i < ebb_layout_buckets(layout); i++) {
        ebb_own_t before = own_part(layout, i, rank, ranks);
        own.local += before.end - before.begin;
    }
    return own;
}

int64_t ebb_sync_own_floats(const ebb_layout_t *layout, int rank, int ranks)
{
    ebb_own_t last = ebb_sync_own(layout, 0, rank, ranks);
    return last.local + last.end - last.begin;
}

int64_t ebb_sync_table_rows(int64_t rows, int rank, int ranks)
{
    int64_t blocks = rows / 64, own = blocks / ranks + (blocks % ranks > rank);
    return own * 64 + (blocks % ranks == rank ? rows % 64 : 0);
}
