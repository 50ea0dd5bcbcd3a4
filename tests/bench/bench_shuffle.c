/* How good the loader's shuffle is on data sorted by label, beside a true random permutation of the rows.
 *
 * usage: bench_shuffle [ROWS [NONZEROS_A_ROW [CLASSES [BATCH [LANES [SPREAD]]]]]]
 * default 1000000 rows of 600, 10 classes, batch 1024, 24 lanes, blocks of equal rows; SPREAD: of rows a block,
 * log-normal
 *
 * Only the order is asked, so ROWS may be what no disk holds. Row r has label r * CLASSES / ROWS. For window sizes from
 * eight blocks up, and for the default (marked *), over steps spread over an epoch, 30000 of them at most:
 * entropy   mean entropy of a batch's labels, relative to the same mean of the true permutation (1: as good)
 * distance  mean Kolmogorov-Smirnov distance of a batch's row numbers from uniform; of the true permutation in the last
 *           line
 * move      mean distance between a row's place in storage and in the epoch, as a share of the epoch; 1/3 for a true
 *           permutation
 * blocks    that a batch is drawn from; memory: what the windows of all lanes hold decoded
 * order     work a row */
#include "bench.h"
#include "base/rng.h"
#include "seek.h"
#include <ebb/loader.h>

#include <math.h>

enum { MAX_STEPS = 30000 };

typedef struct quality {
    double entropy, distance, move, ns;
} quality_t;

typedef struct study {
    int64_t rows, classes, batch;
    int64_t *row, *count;
} study_t;

static int compare_i64(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static double label_entropy(const study_t *s, int64_t n)
{
    double h = 0;
    memset(s->count, 0, (size_t)s->classes * sizeof *s->count);
    for (int64_t i = 0; i < n; i++)
        s->count[(int64_t)((__int128)s->row[i] * s->classes / s->rows)]++;
    for (int64_t k = 0; k < s->classes; k++)
        if (s->count[k])
            h -= (double)s->count[k] / (double)n * log((double)s->count[k] / (double)n);
    return h;
}

static double distance_from_uniform(const study_t *s, int64_t n)
{
    double worst = 0;
    qsort(s->row, (size_t)n, sizeof *s->row, compare_i64);
    for (int64_t i = 0; i < n; i++) {
        double at = ((double)s->row[i] + 0.5) / (double)s->rows;
        worst = fmax(worst, fmax(at - (double)i / (double)n, (double)(i + 1) / (double)n - at));
    }
    return worst;
}

/* Add what one batch, lying in s->row in the order of delivery, contributes. */
static void add_batch(study_t *s, quality_t *q, int64_t n, double where)
{
    for (int64_t i = 0; i < n; i++)
        q->move += fabs((double)s->row[i] / (double)s->rows - where) / (double)n;
    q->entropy += label_entropy(s, n);
    q->distance += distance_from_uniform(s, n);
}

static quality_t mean(quality_t q, int64_t steps)
{
    return (quality_t){q.entropy / (double)steps, q.distance / (double)steps, q.move / (double)steps,
                       q.ns / (double)steps};
}

/* Full batches of the order, evenly spaced over an epoch. */
static quality_t study_order(study_t *s, const ebb_order_t *order)
{
    quality_t q = {0};
    int64_t full = order->rows / order->batch, steps = full < MAX_STEPS ? full : MAX_STEPS;
    for (int64_t k = 0; k < steps; k++) {
        int64_t step = full * k / steps, began = ebb_now_ns(), n = ebb_order_step_rows(order, 0, step, s->row);
        q.ns += (double)(ebb_now_ns() - began) / (double)n;
        add_batch(s, &q, n, (double)step / (double)full);
    }
    return mean(q, steps);
}

static quality_t study_permutation(study_t *s)
{
    quality_t q = {0};
    int64_t full = s->rows / s->batch, steps = full < MAX_STEPS ? full : MAX_STEPS;
    for (int64_t k = 0; k < steps; k++) {
        int64_t step = full * k / steps, began = ebb_now_ns();
        for (int64_t i = 0; i < s->batch; i++)
            s->row[i] = (int64_t)ebb_permute(7, (uint64_t)s->rows, (uint64_t)(step * s->batch + i));
        q.ns += (double)(ebb_now_ns() - began) / (double)s->batch;
        add_batch(s, &q, s->batch, (double)step / (double)full);
    }
    return mean(q, steps);
}

static void print_line(const char *what, double blocks, double mib, quality_t q, double entropy)
{
    printf("%-16s %8.0f %9.1f %10.5f %10.5f %8.3f %8.0f\n", what, blocks, mib, q.entropy / entropy, q.distance, q.move,
           q.ns);
}

int main(int argc, char **argv)
{
    int64_t given[] = {1000000, 600, 10, 1024, 24};
    for (int i = 1; i < argc && i <= 5; i++)
        given[i - 1] = atoll(argv[i]);
    double spread = argc > 6 ? atof(argv[6]) : 0;
    study_t s = {.rows = given[0], .classes = given[2], .batch = given[3]};
    made_blocks_t m;
    make_packed_blocks(s.rows, given[1], spread, &m);
    s.row = malloc((size_t)s.batch * sizeof *s.row);
    s.count = malloc((size_t)s.classes * sizeof *s.count);
    ebb_order_t usual = {.lanes = (int32_t)given[4], .batch = s.batch, .seed = 1, .shuffle = true};
    bench_ok(ebb_order_init(&usual, &m.info));
    quality_t best = study_permutation(&s);
    printf("%lld rows of %lld non-zeros sorted by label, %lld classes, batch %lld, %d lanes, blocks of %lld rows\n",
           (long long)s.rows, (long long)given[1], (long long)s.classes, (long long)s.batch, usual.lanes,
           (long long)usual.block_rows);
    printf("%-16s %8s %9s %10s %10s %8s %8s\n", "window", "blocks", "MiB", "entropy", "distance", "move", "ns a row");
    for (int32_t w = 8; w <= 256; w = w == 64 ? 96 : w == 96 ? 128 : 2 * w) {
        ebb_order_t order = usual;
        char name[32];
        order.window_blocks = w;
        if (ebb_order_init(&order, &m.info) != EBB_OK)
            break;
        snprintf(name, sizeof name, "%d block%s%s", w, w > 1 ? "s" : "", w == usual.window_blocks ? " *" : "");
        double blocks = fmin((double)w * order.lanes, (double)s.rows / (double)order.block_rows);
        print_line(name, blocks, blocks * (double)(order.block_rows * given[1]) * 8 / (1 << 20),
                   study_order(&s, &order), best.entropy);
    }
    print_line("true permutation", (double)s.rows, 0, best, best.entropy);
    free_packed_blocks(&m);
    free(s.row);
    free(s.count);
    return 0;
}
