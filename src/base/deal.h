/* Dealing items of unequal size over bins so that the bins' sums come out alike.
 *
 * An item's size is signed: how far it is from the mean. Items are taken from the farthest to the nearest; what is
 * above the mean goes to the bin with the lowest sum, what is below it to the one with the highest. So large items are
 * followed by small ones that make up for them, and the last, which are near the mean, may fill whatever room is left.
 * (Taking sizes themselves in descending order would not do: bins of a given number of items would have to be filled up
 * with small ones, as many as happen to be missing.)
 *
 * Bins wait in a queue of 4,096 buckets of sums: some nanoseconds an item. All integers, so that every machine deals
 * alike. One thread. */
#ifndef EBB_BASE_DEAL_H
#define EBB_BASE_DEAL_H

#include <ebb/base.h>

enum { EBB_DEAL_KEYS = 1024, EBB_DEAL_BUCKETS = 4096 };

typedef struct ebb_deal_bin {
    int64_t sum, room;
    int32_t next;
} ebb_deal_bin_t;

typedef struct ebb_deal {
    ebb_deal_bin_t *bin;
    int64_t width;               /* of a bucket */
    uint64_t beyond, reciprocal; /* sums that far off are in the last bucket; 2^64 / width, 0 where that is not exact */
    uint64_t summary, word[EBB_DEAL_BUCKETS / 64];
    int32_t head[EBB_DEAL_BUCKETS];
    uint32_t count[EBB_DEAL_KEYS + 1];
} ebb_deal_t;

/* Indexes 0 .. n - 1 by falling magnitude of size, within some per cent; equal ones stay in order. */
void ebb_deal_sort(ebb_deal_t *d, const int32_t *size, int64_t n, uint32_t *sorted);

/* An empty queue of bins; sums are told apart to `width`, and bounded by 2,048 times that. */
void ebb_deal_begin(ebb_deal_t *d, ebb_deal_bin_t *bin, int64_t width);

/* How exact the order of magnitudes is: the same key is the same for dealing. Falls as the size grows. */
static inline uint32_t ebb_deal_key(int32_t size)
{
    uint32_t m = size < 0 ? 0u - (uint32_t)size : (uint32_t)size;
    uint32_t e = m < 32 ? 0 : 27 - (uint32_t)__builtin_clz(m); /* m >> e has 5 bits */
    return EBB_DEAL_KEYS - 1 - (e * 32 + (m >> e));
}

/* The bucket of a sum: its quotient by the width, rounded towards zero, without the division, which was a third of the
 * time of dealing. */
static inline int64_t ebb_deal_bucket(const ebb_deal_t *d, int64_t sum)
{
    const uint64_t magnitude = sum < 0 ? 0 - (uint64_t)sum : (uint64_t)sum;
    uint64_t q = EBB_DEAL_BUCKETS / 2;
    if (magnitude < d->beyond)
        q = d->reciprocal > 0 ? (uint64_t)((unsigned __int128)magnitude * d->reciprocal >> 64)
                              : magnitude / (uint64_t)d->width;
    int64_t b = EBB_DEAL_BUCKETS / 2 + (sum < 0 ? -(int64_t)q : (int64_t)q);
    return b < EBB_DEAL_BUCKETS ? b : EBB_DEAL_BUCKETS - 1;
}

static inline void ebb_deal_add(ebb_deal_t *d, int32_t i)
{
    int64_t b = ebb_deal_bucket(d, d->bin[i].sum);
    d->bin[i].next = d->head[b];
    d->head[b] = i;
    d->word[b >> 6] |= 1ull << (b & 63);
    d->summary |= 1ull << (b >> 6);
}

static inline int ebb_deal_edge(uint64_t word, bool lowest)
{
    return lowest ? __builtin_ctzll(word) : 63 - __builtin_clzll(word);
}

/* The bucket after b that is not empty, towards higher sums from the lowest or the other way; b -1: the first. -1: no
 * more. */
static inline int32_t ebb_deal_next(const ebb_deal_t *d, int32_t b, bool lowest)
{
    uint64_t words = d->summary;
    if (b >= 0) {
        uint64_t beyond = lowest ? ~1ull << (b & 63) : (1ull << (b & 63)) - 1, word = d->word[b >> 6] & beyond;
        if (word)
            return (b & ~63) + ebb_deal_edge(word, lowest);
        words &= lowest ? ~1ull << (b >> 6) : (1ull << (b >> 6)) - 1;
    }
    if (!words)
        return -1;
    int w = ebb_deal_edge(words, lowest);
    return w * 64 + ebb_deal_edge(d->word[w], lowest);
}

/* Takes the bin out of the queue that *link leads to: the head of bucket b, or the next of a bin there. */
static inline int32_t ebb_deal_unlink(ebb_deal_t *d, int32_t b, int32_t *link)
{
    int32_t i = *link;
    *link = d->bin[i].next;
    if (d->head[b] < 0) {
        d->word[b >> 6] &= ~(1ull << (b & 63));
        if (!d->word[b >> 6])
            d->summary &= ~(1ull << (b >> 6));
    }
    return i;
}

/* Takes the bin with the lowest sum, or with the highest, out of the queue; -1 when it is empty. */
static inline int32_t ebb_deal_take(ebb_deal_t *d, bool lowest)
{
    int32_t b = ebb_deal_next(d, -1, lowest);
    return b < 0 ? -1 : ebb_deal_unlink(d, b, &d->head[b]);
}

#endif
