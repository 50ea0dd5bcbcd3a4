#include "loader/strata.h"
#include "base/rng.h"

#define NUMBER_SHIFT 36
#define GOLDEN       40503 /* of 65536: the golden section */

static int64_t common_divisor(int64_t a, int64_t b)
{
    while (b > 0) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static uint64_t draw(const ebb_strata_t *s, uint64_t index)
{
    return ebb_rng_u64(s->seed, EBB_RNG_BLOCKS, s->epoch, index);
}

/* Uniform in 0 .. n - 1. */
static int64_t draw_below(const ebb_strata_t *s, uint64_t index, int64_t n)
{
    return (int64_t)((unsigned __int128)draw(s, index) * (uint64_t)n >> 64);
}

void ebb_strata_init(ebb_strata_t *s, const ebb_order_epoch_t *e, uint64_t number, int64_t n)
{
    const int64_t rounds = n / ebb_order_largest_window(e->order);
    *s = (ebb_strata_t){.n = n, .rounds = rounds > 1 ? rounds : 1, .seed = e->order->seed, .epoch = (uint64_t)e->epoch};
    s->each = n / s->rounds;
    s->more = n % s->rounds;
    s->stride = ebb_part(s->each, GOLDEN, 65536);
    while (common_divisor(s->each, s->stride) != 1)
        s->stride++;
    s->start = draw_below(s, 0, s->each);
    s->number = (number + 1) << NUMBER_SHIFT;
    s->key = draw(s, s->number);
}

static int64_t stratum_at(const ebb_strata_t *s, int64_t at)
{
    return at < s->each ? (at * s->stride + s->start) % s->each : s->each; /* each < 2^31 */
}

/* Blocks of a stratum; the last, number `each`, has the rest. */
static int64_t size_of(const ebb_strata_t *s, int64_t stratum)
{
    return stratum == s->each ? s->more : s->rounds;
}

/* All strata have one shuffled order of their blocks, which each begins elsewhere. */
static int64_t offset_of(const ebb_strata_t *s, int64_t stratum)
{
    return draw_below(s, s->number + (uint64_t)stratum + 1, size_of(s, stratum));
}

/* Rounds have `each` places, and some of them one more. */
static int64_t round_begin(const ebb_strata_t *s, int64_t round)
{
    return ebb_part(s->n, round, s->rounds);
}

int64_t ebb_strata_block(const ebb_strata_t *s, int64_t place)
{
    int64_t round = (int64_t)(((__int128)(place + 1) * s->rounds - 1) / s->n), begin = round_begin(s, round);
    int64_t stratum = stratum_at(s, place - begin), size = size_of(s, stratum);
    int64_t turn = stratum < s->each ? round : begin - round * s->each;
    int64_t i = (turn + offset_of(s, stratum)) % size;
    return stratum * s->rounds + (int64_t)ebb_permute(s->key, (uint64_t)size, (uint64_t)i);
}

int64_t ebb_strata_place(const ebb_strata_t *s, int64_t block)
{
    int64_t stratum = block / s->rounds, size = size_of(s, stratum);
    int64_t i = (int64_t)ebb_unpermute(s->key, (uint64_t)size, (uint64_t)(block % s->rounds));
    int64_t turn = (i - offset_of(s, stratum) + size) % size, at = 0;
    if (stratum == s->each)
        return round_begin(s, ((turn + 1) * s->rounds - 1) / s->more) + s->each;
    while (stratum_at(s, at) != stratum)
        at++;
    return round_begin(s, turn) + at;
}

void ebb_strata_table(const ebb_strata_t *s, uint32_t *work, uint32_t *block)
{
    uint32_t *first = work, *turn = first + s->each, *image = turn + s->each;
    const uint32_t rounds = (uint32_t)s->rounds;
    int64_t place = 0;
    for (int64_t at = 0; at < s->each; at++) {
        int64_t stratum = stratum_at(s, at);
        first[at] = (uint32_t)stratum * rounds;
        turn[at] = (uint32_t)offset_of(s, stratum);
    }
    for (uint32_t i = 0; i < rounds; i++)
        image[i] = (uint32_t)ebb_permute(s->key, rounds, i);
    for (int64_t r = 0; r < s->rounds; r++) {
        for (int64_t at = 0; at < s->each; at++) {
            block[place++] = first[at] + image[turn[at]];
            turn[at] = turn[at] + 1 < rounds ? turn[at] + 1 : 0;
        }
        if (place < round_begin(s, r + 1)) {
            block[place] = (uint32_t)ebb_strata_block(s, place);
            place++;
        }
    }
}
