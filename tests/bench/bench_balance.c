/* How evenly the ranks share the non-zeros of a step: max / mean over the ranks, as mean over the steps of an epoch,
 * 99th percentile and worst, with rows in the plain shuffle ("before") and as they are dealt ("after").
 *
 * usage: bench_balance [ROWS [BATCH [LANES]]]      default: several batches, a million rows, 24 lanes
 *
 * Row lengths are log-normal with mean 100, as they come and sorted (the worst case: blocks of equal rows). Where one
 * row has more than a rank's part of a step no order can do better than "bound": the same with each batch's rows dealt
 * to ranks at will. */
#include "bench.h"
#include "balance.h"

/* At least what the longest row of each step costs. */
static double bound(const double *load, const double *longest, const ebb_order_t *o, int ranks)
{
    int64_t steps = o->rows / o->batch;
    double *ratio = calloc((size_t)steps, sizeof *ratio);
    for (int64_t s = 0; s < steps; s++) {
        double all = 0;
        for (int32_t l = 0; l < o->lanes; l++)
            all += load[s * o->lanes + l];
        ratio[s] = fmax(1, longest[s] / (all / ranks));
    }
    qsort(ratio, (size_t)steps, sizeof *ratio, compare_ratios);
    double p99 = ratio[(steps * 99 + 99) / 100 - 1];
    free(ratio);
    return p99;
}

static void study(int64_t rows, int64_t batch, int32_t lanes, double sigma, bool sorted)
{
    made_rows_t m;
    ebb_order_t o = {.lanes = lanes, .batch = batch, .seed = 1, .shuffle = true};
    make_rows(rows, 100, sigma, sorted, &m);
    bench_ok(ebb_order_init(&o, &m.info));
    ebb_order_t plain = o;
    plain.profile = NULL;
    size_t n = (size_t)(ebb_order_steps(&o) * lanes);
    double *before = calloc(n, sizeof *before), *after = calloc(n, sizeof *after);
    double *longest = calloc(n, sizeof *longest);
    int64_t began = ebb_now_ns();
    lane_loads(&plain, &m, 0, false, before);
    int64_t middle = ebb_now_ns();
    lane_loads(&o, &m, 0, true, after);
    double cost = (double)(ebb_now_ns() - middle - (middle - began)) / (double)rows;
    int64_t *row = calloc((size_t)batch, sizeof *row);
    for (int64_t s = 0; s < rows / batch && s < 2000; s++) {
        int64_t k = ebb_order_step_rows(&plain, 0, s, row);
        for (int64_t i = 0; i < k; i++)
            longest[s] = fmax(longest[s], m.length[row[i]]);
    }
    for (int ranks = 2; ranks <= lanes; ranks = ranks == 8 ? lanes > 8 ? lanes : 9 : 2 * ranks) {
        balance_t a = balance_of(&o, before, ranks), b = balance_of(&o, after, ranks);
        printf("%5.1f %-8s %6lld %5d | %7.3f %7.3f %7.3f | %7.4f %7.4f %7.4f | %7.3f %6.1f\n", sigma,
               sorted ? "sorted" : "as come", (long long)batch, ranks, a.mean, a.p99, a.worst, b.mean, b.p99, b.worst,
               bound(before, longest, &o, ranks), cost);
    }
    free(row);
    free(longest);
    free(before);
    free(after);
    free_rows(&m);
}

int main(int argc, char **argv)
{
    int64_t rows = argc > 1 ? atoll(argv[1]) : 1000000, batch = argc > 2 ? atoll(argv[2]) : 0;
    int32_t lanes = argc > 3 ? atoi(argv[3]) : 24;
    printf("%lld rows, %d lanes: max / mean non-zeros of a rank in a step\n", (long long)rows, lanes);
    printf("%5s %-8s %6s %5s | %7s %7s %7s | %7s %7s %7s | %7s %6s\n", "sigma", "rows", "batch", "ranks", "before",
           "p99", "max", "after", "p99", "max", "bound", "ns/row");
    for (double sigma = 1; sigma <= 1.5; sigma += 0.5)
        for (int sorted = 0; sorted < 2; sorted++)
            for (int64_t b = 1024; b <= 4096; b *= 4)
                if (batch == 0 || b == 1024)
                    study(rows, batch > 0 ? batch : b, lanes, sigma, sorted);
    return 0;
}
