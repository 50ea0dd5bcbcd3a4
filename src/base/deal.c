/* Dealing: sorting by magnitude (one counting pass over keys with a few bits of fraction) and the queue's beginning. */
#include "base/deal.h"

#include <string.h>

void ebb_deal_sort(ebb_deal_t *d, const int32_t *size, int64_t n, uint32_t *sorted)
{
    uint32_t at = 0, first = EBB_DEAL_KEYS, last = 0;
    memset(d->count, 0, sizeof d->count);
    for (int64_t i = 0; i < n; i++) {
        uint32_t key = ebb_deal_key(size[i]);
        d->count[key]++;
        first = key < first ? key : first;
        last = key > last ? key : last;
    }
    for (uint32_t k = first; k <= last; k++) { /* few of the keys: most that is sorted is short and of like sizes */
        uint32_t here = d->count[k];
        d->count[k] = at;
        at += here;
    }
    for (int64_t i = 0; i < n; i++)
        sorted[d->count[ebb_deal_key(size[i])]++] = (uint32_t)i;
}

void ebb_deal_begin(ebb_deal_t *d, ebb_deal_bin_t *bin, int64_t width)
{
    d->bin = bin;
    const int64_t most = INT64_MAX / (EBB_DEAL_BUCKETS / 2), exact = 1 << 26; /* beyond * width <= 2^64 */
    d->width = width < 1 ? 1 : width > most ? most : width;
    d->beyond = (uint64_t)d->width * (EBB_DEAL_BUCKETS / 2);
    d->reciprocal = d->width > 1 && d->width <= exact ? UINT64_MAX / (uint64_t)d->width + 1 : 0;
    d->summary = 0;
    memset(d->word, 0, sizeof d->word);
    memset(d->head, -1, sizeof d->head);
}
