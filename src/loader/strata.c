#include "loader/strata.h"
#include "base/rng.h"

/* Of 65536: the golden section, and the square root of 2, less 1: what is spread by one is not by the other. */
enum { GOLDEN = 40503, SILVER = 27146, STRIDES = 8 };

enum { START, KEY, STRATUM }; /* draws of an epoch: STRATUM + number of the stratum */

/* How evenly runs of multiples of a stride are spread over 0 .. n - 1: the sum of the partial quotients of stride / n,
 * which bounds their discrepancy; the lower, the better. `most` where it is no lower, or not every number is come to.
 */
static int64_t unevenness(int64_t n, int64_t stride, int64_t most)
{
    int64_t sum = 0;
    while (stride > 0 && sum < most) {
        int64_t rest = n % stride;
        sum += n / stride;
        n = stride;
        stride = rest;
    }
    return n == 1 && sum < most ? sum : most;
}

/* The best one near the golden section. */
static int64_t best_stride(int64_t n)
{
    int64_t first = ebb_part(n, GOLDEN, 65536), best = 1, least = INT64_MAX;
    for (int64_t stride = first > 1 ? first : 1; stride < first + STRIDES; stride++) {
        int64_t uneven = unevenness(n, stride, least);
        best = uneven < least ? stride : best;
        least = uneven < least ? uneven : least;
    }
    return best;
}

static uint64_t draw(const ebb_strata_t *s, uint64_t index)
{
    return ebb_rng_u64(s->order->seed, EBB_RNG_BLOCKS, (uint64_t)s->epoch, index);
}

/* 32 random bits to a number in 0 .. n - 1, n < 2^32. */
static int64_t below(uint64_t bits, int64_t n)
{
    return (int64_t)((bits & UINT32_MAX) * (uint64_t)n >> 32);
}

/* In how many runs n blocks are cut, of about a window each. */
static int64_t windows_of(const ebb_order_t *order, int64_t n)
{
    int64_t window = ebb_order_largest_window(order), fewer = n / window;
    if (fewer == 0)
        return 1;
    return window - n / (fewer + 1) < n / fewer - window ? fewer + 1 : fewer;
}

static void init(ebb_strata_t *s, const ebb_order_epoch_t *e, int64_t n, int64_t lanes)
{
    *s = (ebb_strata_t){.order = e->order, .epoch = e->epoch, .n = n, .turns = windows_of(e->order, n / lanes)};
    s->rounds = lanes * s->turns;
    s->each = n / s->rounds;
    s->more = n % s->rounds;
    s->stride = best_stride(s->each);
    s->start = below(draw(s, START), s->each);
    s->key = draw(s, KEY);
}

void ebb_strata_init(ebb_strata_t *s, const ebb_order_epoch_t *e, int64_t n)
{
    init(s, e, n, n < e->order->lanes ? 1 : e->order->lanes);
}

static int64_t modulo(int64_t a, int64_t n)
{
    return (a % n + n) % n;
}

void ebb_strata_init_part(ebb_strata_t *s, const ebb_order_epoch_t *e, int64_t n, int64_t begin, int64_t rows)
{
    const ebb_order_t *o = e->order;
    int32_t lane = (int32_t)ebb_part(begin + rows / 2, o->lanes, o->rows);
    int64_t share = ebb_order_lane_share(o, lane), first, others;
    init(s, e, n, 1);
    ebb_order_team_windows(o, lane, &first, &others);
    int64_t time = ebb_part(e->blocks, begin - ebb_part(o->rows, lane, o->lanes) - first * share, o->rows);
    int64_t behind = ebb_part(time, o->batch - share * o->lanes, share * o->lanes);
    s->time = modulo(time + lane, s->each * s->rounds);
    int64_t late = behind + s->each / 2; /* to the nearest round */
    s->turn = modulo((late - modulo(late, s->each)) / s->each, s->turns);
    s->shift = ebb_part(s->rounds, lane * best_stride(o->lanes) % o->lanes, o->lanes);
}

/* Where a lane is in the sequence of strata when its rounds begin. Lanes are spread over it, so that what their windows
 * lack or have twice is so, counted from where their first windows end, which are shorter. */
static int64_t sequence_begin(const ebb_strata_t *s, int64_t lane)
{
    int64_t team = ebb_order_team_of(s->order, (int32_t)lane), teams = ebb_order_teams(s->order);
    int64_t time = s->each - ebb_part(s->each, team + 3, teams + 2);
    return (s->start + ebb_part(s->each, lane * SILVER % 65536, 65536) + time * s->stride) % s->each;
}

static int64_t stratum_at(const ebb_strata_t *s, int64_t begin, int64_t at)
{
    return ((s->time + at) % s->each * s->stride + begin) % s->each; /* each < 2^31 */
}

/* Where a stratum's turns begin, in the shuffled order that all have in common, and in the stratum. */
typedef struct offset {
    int64_t turn, block;
} offset_t;

static offset_t offset_of(const ebb_strata_t *s, int64_t stratum)
{
    uint64_t bits = draw(s, STRATUM + (uint64_t)stratum);
    return (offset_t){below(bits, s->turns), below(bits >> 32, s->rounds)};
}

static int64_t shuffled_turn(const ebb_strata_t *s, int64_t turn)
{
    return (int64_t)ebb_permute(s->key, (uint64_t)s->turns, (uint64_t)turn);
}

/* Rounds have `each` places, and some of them one more. */
static int64_t round_begin(const ebb_strata_t *s, int64_t round)
{
    return ebb_part(s->n, round, s->rounds);
}

/* The shorter stratum, which comes last: a lane has blocks [first, first + n) of it, counted from one by chance, in a
 * shuffled order. */
typedef struct rest {
    int64_t begin, first, n;
} rest_t;

static rest_t rest_of(const ebb_strata_t *s, int64_t lane)
{
    int64_t lanes = s->rounds / s->turns, first = ebb_part(s->more, lane, lanes);
    return (rest_t){offset_of(s, s->each).block % s->more, first, ebb_part(s->more, lane + 1, lanes) - first};
}

static int64_t rest_block(const ebb_strata_t *s, int64_t lane, int64_t turn)
{
    rest_t r = rest_of(s, lane);
    int64_t i = r.first + (int64_t)ebb_permute(s->key, (uint64_t)r.n, (uint64_t)(turn - r.first));
    return s->each * s->rounds + (i + r.begin) % s->more;
}

static int64_t rest_turn(const ebb_strata_t *s, int64_t block)
{
    int64_t i = modulo(block - s->each * s->rounds - rest_of(s, 0).begin, s->more);
    rest_t r = rest_of(s, ((i + 1) * (s->rounds / s->turns) - 1) / s->more);
    return r.first + (int64_t)ebb_unpermute(s->key, (uint64_t)r.n, (uint64_t)(i - r.first));
}

int64_t ebb_strata_block(const ebb_strata_t *s, int64_t place)
{
    int64_t round = (int64_t)(((__int128)(place + 1) * s->rounds - 1) / s->n), begin = round_begin(s, round);
    int64_t at = place - begin, lane = round / s->turns;
    if (at == s->each)
        return rest_block(s, lane, begin - round * s->each);
    int64_t stratum = stratum_at(s, sequence_begin(s, lane), at);
    offset_t offset = offset_of(s, stratum);
    int64_t turn = (round + s->turn + (s->time + at) / s->each + offset.turn) % s->turns;
    int64_t i = s->shift + lane * s->turns + shuffled_turn(s, turn) + offset.block;
    return stratum * s->rounds + i % s->rounds;
}

int64_t ebb_strata_place(const ebb_strata_t *s, int64_t block)
{
    int64_t stratum = block / s->rounds, at = 0;
    if (stratum >= s->each)
        return round_begin(s, ((rest_turn(s, block) + 1) * s->rounds - 1) / s->more) + s->each;
    offset_t offset = offset_of(s, stratum);
    int64_t i = modulo(block % s->rounds - s->shift - offset.block, s->rounds), lane = i / s->turns;
    int64_t begin = sequence_begin(s, lane);
    while (stratum_at(s, begin, at) != stratum)
        at++;
    int64_t turn = (int64_t)ebb_unpermute(s->key, (uint64_t)s->turns, (uint64_t)(i % s->turns));
    turn = modulo(turn - s->turn - (s->time + at) / s->each - offset.turn, s->turns);
    return round_begin(s, lane * s->turns + turn) + at;
}

/* Where the blocks of a lane are in the strata that its rounds go through. */
typedef struct walk {
    uint32_t stratum, turn, shift;
} walk_t;

static void walk_begin(const ebb_strata_t *s, int64_t lane, walk_t *w)
{
    int64_t begin = sequence_begin(s, lane);
    for (int64_t at = 0; at < s->each; at++) {
        int64_t stratum = stratum_at(s, begin, at);
        offset_t offset = offset_of(s, stratum);
        w[at].stratum = (uint32_t)(stratum * s->rounds);
        w[at].turn = (uint32_t)((s->turn + (s->time + at) / s->each + offset.turn) % s->turns);
        w[at].shift = (uint32_t)((s->shift + lane * s->turns + offset.block) % s->rounds);
    }
}

void ebb_strata_table(const ebb_strata_t *s, uint32_t *work, uint32_t *block)
{
    const uint32_t rounds = (uint32_t)s->rounds, turns = (uint32_t)s->turns;
    walk_t *walk = (walk_t *)work;
    uint32_t *shuffled = work + 3 * s->each;
    int64_t place = 0;
    for (uint32_t i = 0; i < turns; i++)
        shuffled[i] = (uint32_t)shuffled_turn(s, i);
    for (int64_t r = 0; r < s->rounds; r++) {
        if (r % s->turns == 0)
            walk_begin(s, r / s->turns, walk);
        for (walk_t *w = walk; w < walk + s->each; w++) {
            uint32_t i = w->shift + shuffled[w->turn];
            block[place++] = w->stratum + (i < rounds ? i : i - rounds);
            w->turn = w->turn + 1 < turns ? w->turn + 1 : 0;
        }
        if (place < round_begin(s, r + 1))
            block[place++] = (uint32_t)rest_block(s, r / s->turns, round_begin(s, r) - r * s->each);
    }
}
