/* What a seek to a random step of a random epoch costs before anything is read: laying out the windows that hold the
 * step, of all 24 lanes, with the memory that a loader keeps.
 *
 * usage: bench_seek [ROWS...]      default 1000000 100000000 1000000000
 *
 * Only the order is asked, so ROWS may be what no disk holds. Blocks are as a packed data set has them, of 30 or 370
 * non-zeros a row: all alike ("even"), or of log-normal sizes as rows of unequal lengths make them ("uneven", every
 * window then being dealt the mean of non-zeros a row). "dense": blocks of equal numbers of rows, found by arithmetic.
 * Wanted: below 1 ms, whatever ROWS is. */
#include "bench.h"
#include "seek.h"

#include <math.h>

enum { SEEKS = 200 };

static void study(const char *what, int64_t rows, int64_t per_row, double sigma)
{
    made_blocks_t m;
    ebb_order_t o = {.lanes = 24, .batch = 4096, .seed = 1, .shuffle = true};
    make_packed_blocks(rows, per_row, sigma, &m);
    bench_ok(ebb_order_init(&o, &m.info));
    seeker_t s;
    bench_ok(seeker_init(&s, &o));
    double t[SEEKS];
    int64_t steps = ebb_order_steps(&o);
    for (int i = -10; i < SEEKS; i++) {
        uint64_t draw = ebb_mix64((uint64_t)i + 1000);
        int64_t began = bench_now_ns();
        bench_ok(seek_to(&s, (int64_t)(draw >> 44), (int64_t)(draw % (uint64_t)steps)));
        if (i >= 0)
            t[i] = 1e-6 * (double)(bench_now_ns() - began);
    }
    qsort(t, SEEKS, sizeof *t, compare_doubles);
    printf("%-7s %11lld %5lld %9lld %7lld | %7.3f %7.3f %7.3f ms\n", what, (long long)rows, (long long)per_row,
           (long long)ebb_order_blocks(&o), (long long)(o.blocks ? o.blocks->groups : 0), t[SEEKS / 2],
           t[SEEKS * 99 / 100], t[SEEKS - 1]);
    fflush(stdout);
    seeker_free(&s);
    free_packed_blocks(&m);
}

int main(int argc, char **argv)
{
    int64_t usual[] = {1000000, 10000000, 100000000, 1000000000};
    int n = argc > 1 ? argc - 1 : 4;
    printf("a seek to a random step, order work of 24 lanes; of %d: median, 99th percentile, worst\n", SEEKS);
    printf("%-7s %11s %5s %9s %7s\n", "blocks", "rows", "nnz", "blocks", "groups");
    for (int i = 0; i < n; i++) {
        int64_t rows = argc > 1 ? atoll(argv[i + 1]) : usual[i];
        study("dense", rows, 0, 0);
        for (int64_t per_row = 30; per_row <= 370; per_row += 340) {
            study("even", rows, per_row, 0);
            study("uneven", rows, per_row, 1);
        }
    }
    return 0;
}
