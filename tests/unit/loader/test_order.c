/* The order: exact for sizes that divide nothing, frozen, and as good a shuffle as a real one. */
#include "support.h"
#include "base/alloc.h"
#include "base/rng.h"
#include "loader/order.h"
#include "seek.h"

#include <math.h>

static ebb_order_t order_of(int64_t rows, int32_t lanes, int64_t batch, int64_t block_rows, int32_t window_blocks)
{
    ebb_order_t order = {.lanes = lanes,
                         .batch = batch,
                         .block_rows = block_rows,
                         .window_blocks = window_blocks,
                         .seed = 7,
                         .shuffle = true};
    ebb_dataset_info_t info = {
        .name = "made up", .rows = rows, .cols = 1000, .nnz = rows * 30, .sparse = true, .chunk_elements = 65536};
    assert_ok(ebb_order_init(&order, &info));
    return order;
}

/* Visit an epoch by steps, as the loader does; each row must come once. */
static void visit(const ebb_order_t *o, int64_t epoch)
{
    char *seen = calloc((size_t)o->rows, 1);
    int64_t *step_rows = calloc((size_t)o->batch, sizeof *step_rows);
    int64_t visited = 0, steps = ebb_order_steps(o), first[25] = {0};
    int64_t *list = calloc((size_t)o->rows, sizeof *list);
    for (int32_t l = 0; l < o->lanes; l++)
        first[l + 1] = first[l] + ebb_order_lane_list(o, epoch, l, list + first[l]);
    assert_int_equal(first[o->lanes], o->rows);
    for (int64_t s = 0; s < steps; s++) {
        int64_t in_step = 0, n = ebb_order_step_rows(o, epoch, s, step_rows);
        for (int32_t l = 0; l < o->lanes; l++) {
            int64_t share = ebb_order_lane_share(o, l), rows = ebb_order_lane_rows(o, l);
            for (int64_t p = s * share; p < rows && p < (s + 1) * share; p++, in_step++) {
                int64_t row = list[first[l] + p];
                assert_int_equal(step_rows[in_step], row);
                assert_true(p % 17 != 0 || ebb_order_row(o, epoch, l, p) == row);
                assert_in_range(row, 0, o->rows - 1);
                assert_false(seen[row]);
                seen[row] = 1;
            }
        }
        assert_in_range(in_step, 1, o->batch);
        assert_int_equal(n, in_step);
        visited += in_step;
    }
    assert_int_equal(visited, o->rows);
    free(step_rows);
    free(list);
    free(seen);
}

static void every_row_comes_once_an_epoch_for_sizes_that_divide_nothing(void **state)
{
    static const int64_t rows[] = {1, 2, 23, 24, 25, 97, 1000, 1009, 4096};
    static const int32_t lanes[] = {1, 2, 3, 24};
    static const int64_t blocks[] = {1, 2, 7, 16, 5000};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
        for (size_t l = 0; l < sizeof lanes / sizeof *lanes; l++)
            for (size_t b = 0; b < sizeof blocks / sizeof *blocks; b++)
                for (int32_t window = 1; window <= 9; window += 4) {
                    if (rows[r] < lanes[l])
                        continue;
                    ebb_order_t o = order_of(rows[r], lanes[l], lanes[l] + 31, blocks[b], window);
                    visit(&o, 0);
                    visit(&o, 5);
                    o.shuffle = false;
                    visit(&o, 0);
                }
}

/* Blocks of 1 to 40 rows. */
static ebb_row_blocks_t *unequal_blocks(int64_t n, int64_t groups)
{
    ebb_row_blocks_t *blocks = calloc(1, sizeof *blocks);
    int64_t *row = calloc((size_t)n + 1, 8), *sum = calloc((size_t)groups, 8), *entry = calloc((size_t)n + 1, 8);
    *blocks = (ebb_row_blocks_t){
        .n = n, .row = row, .entry = entry, .groups = groups, .group_rows = sum, .min_rows = 1, .max_rows = 40};
    for (int64_t i = 0; i < n; i++) {
        row[i + 1] = row[i] + 1 + (int64_t)(ebb_mix64((uint64_t)i) % 40);
        entry[i + 1] = entry[i] + 1000;
    }
    for (int64_t g = 0; g < groups; g++)
        for (int64_t i = ebb_group_first(blocks, g); i < ebb_group_first(blocks, g + 1); i++)
            sum[g] += row[ebb_group_block(blocks, i) + 1] - row[ebb_group_block(blocks, i)];
    return blocks;
}

static void free_blocks(ebb_row_blocks_t *blocks)
{
    free((void *)(uintptr_t)blocks->row);
    free((void *)(uintptr_t)blocks->group_rows);
    free((void *)(uintptr_t)blocks->entry);
    free(blocks);
}

static void every_row_comes_once_with_blocks_of_unequal_rows(void **state)
{
    for (int64_t n = 1; n <= 101; n += 25 + n)
        for (int64_t groups = 1; groups <= (n < 4 ? n : 4); groups += 2)
            for (int32_t lanes = 1; lanes <= 5; lanes += 4)
                for (int32_t window = 1; window <= 9; window += 4) {
                    ebb_row_blocks_t *blocks = unequal_blocks(n, groups);
                    ebb_order_t o = {.rows = blocks->row[n],
                                     .lanes = lanes,
                                     .batch = lanes + 61,
                                     .block_rows = 40,
                                     .window_blocks = window,
                                     .seed = 3,
                                     .blocks = blocks};
                    for (int shuffle = 0; shuffle < 2 && o.rows >= lanes; shuffle++) {
                        o.shuffle = shuffle;
                        visit(&o, 2);
                        o.profile = blocks; /* blocks as uneven as can be are dealt to windows */
                        visit(&o, 2);
                        o.profile = NULL;
                    }
                    free_blocks(blocks);
                }
}

/* Windows of a lane follow each other without gap, and hold the blocks that their rows are of. */
static void check_windows(const ebb_order_t *o, int64_t epoch)
{
    ebb_order_epoch_t e;
    ebb_order_group_t group;
    ebb_order_window_t w = {0}, inside = {0};
    ebb_order_epoch_init(o, epoch, &e);
    assert_ok(ebb_order_group_init(o, &group));
    for (int32_t l = 0; l < o->lanes; l++) {
        int64_t share = ebb_order_lane_share(o, l), rows = ebb_order_lane_rows(o, l), number = 0;
        int64_t *list = calloc((size_t)rows, sizeof *list);
        assert_int_equal(ebb_order_lane_list(o, epoch, l, list), rows);
        for (int64_t p = 0; p < rows; p += w.rows, number++) {
            assert_ok(ebb_order_window_at(&e, &group, l, p / share, &w));
            assert_int_equal(w.begin, p);
            assert_int_equal(w.number, number);
            assert_int_equal(w.begin, w.step * share);
            assert_true(w.rows >= 1 && w.rows + w.head <= w.start[w.places]);
            assert_ok(ebb_order_window_at(&e, &group, l, (p + w.rows - 1) / share, &inside));
            assert_int_equal(inside.begin, w.begin);
            assert_int_equal(inside.rows, w.rows);
            assert_int_equal(inside.mix.add[3], w.mix.add[3]);
            for (uint32_t i = 0; i < w.rows; i += 13) {
                uint32_t place, row;
                ebb_order_locate(&w, ebb_order_mix(&w.mix, i), &place, &row);
                assert_in_range(row, 0, ebb_order_block_rows(o, w.block[place]) - 1);
                assert_int_equal(ebb_order_block_row(o, w.block[place]) + row, list[p + i]);
            }
        }
        free(list);
    }
    ebb_order_window_free(&w);
    ebb_order_window_free(&inside);
    ebb_order_group_free(&group);
}

static void windows_of_unequal_blocks_tile_their_lane(void **state)
{
    ebb_row_blocks_t *blocks = unequal_blocks(900, 3);
    ebb_order_t o = {.rows = blocks->row[900],
                     .lanes = 5,
                     .batch = 64,
                     .block_rows = 40,
                     .window_blocks = 7,
                     .seed = 3,
                     .shuffle = true,
                     .blocks = blocks};
    check_windows(&o, 4);
    o.profile = blocks;
    check_windows(&o, 4);
    free_blocks(blocks);
}

static void windows_tile_their_lane(void **state)
{
    for (int32_t window = 1; window <= 8; window++) {
        ebb_order_t o = order_of(10007, 5, 64, 37, window);
        check_windows(&o, 3);
        o.shuffle = false;
        check_windows(&o, 0);
    }
    ebb_order_t many = order_of(100003, 3, 64, 3, 8); /* of so many blocks no table is kept */
    check_windows(&many, 1);
}

static void first_windows_are_staggered_over_the_teams(void **state)
{
    ebb_order_t o = order_of(240000, 24, 240, 10, 24);
    ebb_order_epoch_t e;
    ebb_order_group_t group;
    ebb_order_window_t w = {0};
    ebb_order_epoch_init(&o, 0, &e);
    assert_ok(ebb_order_group_init(&o, &group));
    for (int32_t l = 0; l < 24; l++) {
        assert_ok(ebb_order_window_at(&e, &group, l, 0, &w));
        assert_int_equal(w.steps, (l / 3 + 3) * 24 / 10);
    }
    ebb_order_window_free(&w);
    ebb_order_group_free(&group);
}

/* Of a data set sorted by length, every window of every lane has the mean of entries per row. */
static void windows_have_the_same_entries_a_row(void **state)
{
    enum { N = 4000 };
    {
        int64_t row[N + 1] = {0}, entry[N + 1] = {0}, sum = 0;
        double worst = 0;
        for (int64_t i = 0; i < N; i++) {
            double rows = 160 * exp(1.2 * ebb_rng_normal(1, EBB_RNG_TEST, (uint64_t)i, 0));
            row[i + 1] = row[i] + (int64_t)ceil(rows > 8000 ? 8000 : rows);
            entry[i + 1] = entry[i] + 16384;
        }
        sum = row[N];
        ebb_row_blocks_t blocks = {.n = N, .row = row, .entry = entry, .groups = 1, .group_rows = &sum};
        ebb_order_t o = {.rows = sum, .lanes = 24, .batch = 1024, .block_rows = 8000, .window_blocks = 96, .seed = 3};
        ebb_order_epoch_t e;
        ebb_order_group_t group;
        ebb_order_window_t w = {0};
        o.shuffle = true;
        o.blocks = o.profile = &blocks;
        ebb_order_epoch_init(&o, 2, &e);
        assert_ok(ebb_order_group_init(&o, &group));
        for (int32_t l = 0; l < 24; l++)
            for (int64_t p = 0; p < ebb_order_lane_rows(&o, l); p += w.rows) {
                double entries = 0, mean = (double)entry[N] / (double)sum;
                assert_ok(ebb_order_window_at(&e, &group, l, p / ebb_order_lane_share(&o, l), &w));
                for (int32_t k = 0; k < w.places; k++) {
                    int64_t b = w.block[k], from = k == 0 ? w.head : 0, rows = w.start[k + 1] - w.start[k] - from;
                    int64_t left = w.rows + w.head - w.start[k] - from;
                    rows = rows < left ? rows : left;
                    entries += 16384.0 * (double)rows / (double)(row[b + 1] - row[b]);
                }
                if (w.rows > 1000) /* not what a lane with fewer rows a step has left */
                    worst = fmax(worst, fabs(entries / (double)w.rows / mean - 1));
            }
        print_message("a window's entries per row are off the mean by up to %.2f %%\n", worst * 100);
        assert_true(worst < 0.02);
        ebb_order_window_free(&w);
        ebb_order_group_free(&group);
    }
}

/* Of more blocks than one table has, which are cut into groups of few windows each: there too. */
static void windows_of_groups_have_nearly_the_same_entries_a_row(void **state)
{
    made_blocks_t m;
    seeker_t s;
    make_packed_blocks(1000000, 370, 1, &m);
    assert_true(m.blocks.groups > 1);
    ebb_order_t o = {.lanes = 24, .batch = 1024, .seed = 3, .shuffle = true};
    assert_ok(ebb_order_init(&o, &m.info));
    assert_ok(seeker_init(&s, &o));
    const int64_t *row = m.blocks.row;
    double squares = 0, windows = 0, mean = (double)m.info.nnz / (double)m.info.rows;
    for (int64_t step = 0; step < o.rows / o.batch; step += 5) {
        assert_ok(seek_to(&s, 2, step));
        for (int32_t l = 0; l < o.lanes; l++) {
            const ebb_order_window_t *w = &s.window[l];
            double entries = 0;
            for (int32_t k = 0; k < w->places; k++) {
                int64_t from = k == 0 ? w->head : 0, here = w->start[k + 1] - w->start[k] - from;
                int64_t left = w->rows + w->head - w->start[k] - from;
                double rows = (double)(row[w->block[k] + 1] - row[w->block[k]]);
                entries += 16384.0 * (double)(here < left ? here : left) / rows;
            }
            double off = entries / (double)w->rows / mean - 1;
            squares += off * off;
            windows++;
        }
    }
    print_message("a window's entries per row are off the mean by %.2f %% (root of mean square)\n",
                  100 * sqrt(squares / windows));
    assert_true(sqrt(squares / windows) < 0.02);
    seeker_free(&s);
    free_packed_blocks(&m);
}

/* Blocks laid out and sections passed for all lanes: no more at a thousand million rows than at a million. */
static void a_seek_takes_no_more_work_the_more_rows_there_are(void **state)
{
    enum { LANES = 24, GROUP = 288, SECTION = 64, MOST = LANES * (3 * GROUP / 2 + 3 * SECTION) };
    for (int64_t rows = 1000000; rows <= 1000000000; rows *= 10)
        for (int64_t per_row = 30; per_row <= 370 && rows / 10 * per_row <= 3000000000; per_row += 340) {
            made_blocks_t m;
            seeker_t s;
            make_packed_blocks(rows, per_row, 0, &m);
            ebb_order_t o = {.lanes = LANES, .batch = 4096, .seed = 1, .shuffle = true};
            assert_ok(ebb_order_init(&o, &m.info));
            assert_ok(seeker_init(&s, &o));
            int64_t steps = ebb_order_steps(&o), most = 0;
            for (int64_t i = 0, before = 0; i < 60; i++) {
                uint64_t draw = ebb_mix64((uint64_t)i + 1);
                assert_ok(seek_to(&s, i, (int64_t)(draw % (uint64_t)steps)));
                most = seek_work(&s) - before > most ? seek_work(&s) - before : most;
                before = seek_work(&s);
            }
            print_message("%lld rows in %lld blocks: at most %lld a seek\n", (long long)rows, (long long)m.blocks.n,
                          (long long)most);
            assert_in_range(most, 1, MOST);
            seeker_free(&s);
            free_packed_blocks(&m);
        }
}

/* Sections of sections: every group is found once, where the order begins it. */
static void groups_of_all_sections_follow_each_other_without_gap(void **state)
{
    made_blocks_t m;
    ebb_order_epoch_t e;
    ebb_order_group_t g;
    make_packed_blocks(200000000, 370, 0, &m);
    assert_true(m.blocks.levels >= 2);
    ebb_order_t o = {.lanes = 24, .batch = 4096, .seed = 1, .shuffle = true};
    assert_ok(ebb_order_init(&o, &m.info));
    ebb_order_epoch_init(&o, 3, &e);
    assert_ok(ebb_order_group_init(&o, &g));
    char *seen = calloc((size_t)m.blocks.n, 1);
    int64_t groups = 0, blocks = 0;
    for (int64_t at = 0; at < o.rows; at += g.rows, groups++) {
        ebb_order_group_at(&e, at, &g);
        assert_int_equal(g.begin, at);
        for (int64_t k = 0; k < g.n; k++)
            blocks += !seen[g.block[k]]++;
    }
    assert_int_equal(groups, m.blocks.groups);
    assert_int_equal(blocks, m.blocks.n);
    free(seen);
    ebb_order_group_free(&g);
    free_packed_blocks(&m);
}

static void unshuffled_lanes_are_runs_of_consecutive_rows(void **state)
{
    ebb_order_t o = order_of(1003, 4, 8, 16, 3);
    o.shuffle = false;
    int64_t row = 0;
    for (int32_t l = 0; l < 4; l++)
        for (int64_t p = 0; p < ebb_order_lane_rows(&o, l); p++)
            assert_int_equal(ebb_order_row(&o, 9, l, p), row++);
}

static void lanes_and_shares_differ_by_at_most_one(void **state)
{
    ebb_order_t o = order_of(1009, 24, 100, 16, 8);
    int64_t rows = 0, share = 0;
    for (int32_t l = 0; l < 24; l++) {
        assert_in_range(ebb_order_lane_rows(&o, l), 42, 43);
        assert_in_range(ebb_order_lane_share(&o, l), 4, 5);
        rows += ebb_order_lane_rows(&o, l);
        share += ebb_order_lane_share(&o, l);
    }
    assert_int_equal(rows, 1009);
    assert_int_equal(share, 100);
    assert_int_equal(ebb_order_steps(&o), 11);
}

/* If one of these changes, runs recorded before can no longer be continued: make a new format version, not a new hash.
 */
static void order_never_changes(void **state)
{
    static const struct {
        int64_t rows;
        int32_t lanes;
        int64_t batch, block_rows;
        int32_t window;
        bool shuffle;
        int64_t epoch;
        const char *hash;
    } frozen[] = {
        {10007, 24, 100, 37, 8, true, 0, "e0ba8f932bba53f1e14695d151fc7f9b"},
        {10007, 24, 100, 37, 8, true, 1, "523bb7436edf6546e2f6e5cb8a269159"},
        {10007, 24, 100, 37, 8, false, 0, "563ad5a2052feede8e3087373633ebd1"},
        {50000, 3, 64, 512, 4, true, 12, "ec2832c24246814d28d5949145129f97"},
        {1, 1, 1, 1, 1, true, 0, "2c0a8a99dc147d5445c3b49d035665b2"},
    };
    for (size_t i = 0; i < sizeof frozen / sizeof *frozen; i++) {
        char hex[33];
        ebb_order_t o =
            order_of(frozen[i].rows, frozen[i].lanes, frozen[i].batch, frozen[i].block_rows, frozen[i].window);
        o.shuffle = frozen[i].shuffle;
        ebb_order_hash(&o, frozen[i].epoch, hex);
        assert_string_equal(hex, frozen[i].hash);
    }
}

static void order_of_unequal_blocks_never_changes(void **state)
{
    static const struct {
        int64_t groups;
        const char *hash;
    } frozen[] = {{1, "88d70a2ea03fd842457ec8963a9f5f32"}, {35, "a714879f7b7577b9a63448e11976e3ae"}};
    for (size_t i = 0; i < sizeof frozen / sizeof *frozen; i++) {
        char hex[33];
        ebb_row_blocks_t *blocks = unequal_blocks(9000, frozen[i].groups);
        ebb_order_t o = {.rows = blocks->row[9000],
                         .lanes = 24,
                         .batch = 1000,
                         .block_rows = 40,
                         .window_blocks = 96,
                         .seed = 3,
                         .shuffle = true,
                         .blocks = blocks,
                         .profile = blocks};
        ebb_order_hash(&o, 4, hex);
        assert_string_equal(hex, frozen[i].hash);
        free_blocks(blocks);
    }
}

static void seed_and_epoch_change_the_order(void **state)
{
    ebb_order_t a = order_of(10000, 4, 64, 16, 8), b = a;
    char ha[33], hb[33];
    b.seed++;
    ebb_order_hash(&a, 0, ha);
    ebb_order_hash(&b, 0, hb);
    assert_string_not_equal(ha, hb);
    ebb_order_hash(&a, 1, hb);
    assert_string_not_equal(ha, hb);
}

static void a_row_of_a_thousand_million_is_found_at_once(void **state)
{
    ebb_order_t o = order_of(1000000000, 24, 4096, 0, 0);
    int64_t sum = 0;
    for (int i = 0; i < 20000; i++) {
        int64_t p = (int64_t)(ebb_rng_u64(1, EBB_RNG_TEST, (uint64_t)i, 0) % 41666666);
        sum += ebb_order_row(&o, i, i % 24, p);
    }
    double mean = (double)sum / 20000; /* uniform: 5e8 with standard deviation 2e6 */
    assert_true(fabs(mean - 5e8) < 1.2e7);
}

static double entropy(const int64_t *count, int n, int64_t total)
{
    double h = 0;
    for (int i = 0; i < n; i++)
        if (count[i])
            h -= (double)count[i] / (double)total * log((double)count[i] / (double)total);
    return h;
}

/* Labels sorted in storage, the worst case: mean entropy of the labels in a batch, against the same of true shuffles.
 */
static void batches_of_label_sorted_data_mix_the_labels_at_the_default_window(void **state)
{
    enum { CLASSES = 10, BATCH = 1024 };
    ebb_order_t o = order_of(200000, 24, BATCH, 0, 0);
    int64_t full = o.rows / BATCH;
    double ours = 0, random = 0;
    for (int64_t s = 0; s < full; s++) {
        int64_t mine[CLASSES] = {0}, theirs[CLASSES] = {0}, row[BATCH], n;
        n = ebb_order_step_rows(&o, 2, s, row);
        for (int64_t i = 0; i < n; i++)
            mine[row[i] * CLASSES / o.rows]++;
        for (int64_t i = 0; i < n; i++)
            theirs[ebb_permute(99, (uint64_t)o.rows, (uint64_t)(s * BATCH + i)) * CLASSES / (uint64_t)o.rows]++;
        ours += entropy(mine, CLASSES, n);
        random += entropy(theirs, CLASSES, n);
    }
    print_message("label entropy a batch: %.4f, true shuffle %.4f (block %lld, window %d)\n", ours / (double)full,
                  random / (double)full, (long long)o.block_rows, o.window_blocks);
    assert_true(ours > 0.99 * random);
}

static int compare_rows(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Kolmogorov-Smirnov: how far the rows of a batch are from uniform. Sorts them. */
static double distance_from_uniform(int64_t *row, int64_t n, int64_t rows)
{
    double worst = 0;
    qsort(row, (size_t)n, sizeof *row, compare_rows);
    for (int64_t i = 0; i < n; i++) {
        double at = ((double)row[i] + 0.5) / (double)rows;
        worst = fmax(worst, fmax(at - (double)i / (double)n, (double)(i + 1) / (double)n - at));
    }
    return worst;
}

/* The mean of it over batches of 2 million rows, blocks log-normal in rows; that of true shuffles is known. */
static double mean_distance(double sigma)
{
    enum { BATCH = 1024, STEPS = 1900 };
    const double root = sqrt(BATCH), random = 0.868731 / (root + 0.12 + 0.11 / root); /* Stephens, JASA 69 (1974) */
    made_blocks_t m;
    int64_t row[BATCH];
    double ours = 0;
    make_packed_blocks(2000000, 370, sigma, &m);
    ebb_order_t o = {.lanes = 24, .batch = BATCH, .seed = 3, .shuffle = true};
    assert_ok(ebb_order_init(&o, &m.info));
    for (int64_t s = 0; s < STEPS; s++)
        ours += distance_from_uniform(row, ebb_order_step_rows(&o, 2, s, row), o.rows) / STEPS;
    print_message("distance of a batch from uniform: %.4f, true shuffle %.4f\n", ours, random);
    free_packed_blocks(&m);
    return ours / random;
}

/* Blocks at random, without strata, would leave them 17 % farther. */
static void batches_are_as_close_to_uniform_as_those_of_a_true_shuffle(void **state)
{
    assert_true(mean_distance(0) <
                1.025); /* 1.006 over many epochs of 20 million rows; of so few steps known to 0.7 % */
}

static void batches_of_blocks_that_differ_in_rows_are_nearly_as_close(void **state)
{
    assert_true(mean_distance(0.3) < 1.07); /* 1.03 of more rows; 1.10 before blocks were dealt as they are stored */
}

/* Of a uniform shuffle the mean distance between a row's number and its turn is a third of the rows. */
static void rows_move_as_far_as_in_a_true_shuffle(void **state)
{
    ebb_order_t o = order_of(200000, 24, 1024, 0, 0);
    double sum = 0;
    int64_t turn = 0;
    int64_t *row = malloc((size_t)o.rows * sizeof *row);
    for (int32_t l = 0; l < o.lanes; l++) {
        int64_t n = ebb_order_lane_list(&o, 0, l, row);
        for (int64_t p = 0; p < n; p++, turn++)
            sum += fabs((double)(row[p] - turn));
    }
    free(row);
    double mean = sum / (double)o.rows / (double)o.rows;
    print_message("mean displacement %.4f of the rows\n", mean);
    assert_true(fabs(mean - 1.0 / 3) < 0.02);
}

/* Inside a window: place i goes to place j with equal chance over windows (chi-square over 16 x 16 cells), and
 * neighbours do not stay neighbours. */
static void windows_are_shuffled_evenly(void **state)
{
    enum { N = 128 * 16, CELLS = 16, EPOCHS = 40 };
    static int64_t count[CELLS][CELLS];
    ebb_order_t o = order_of(N, 1, 16, 128, 16);
    int64_t neighbours = 0;
    memset(count, 0, sizeof count);
    for (int64_t epoch = 0; epoch < EPOCHS; epoch++) {
        ebb_order_epoch_t e;
        ebb_order_group_t group;
        ebb_order_window_t w = {0};
        ebb_order_epoch_init(&o, epoch, &e);
        assert_ok(ebb_order_group_init(&o, &group));
        assert_ok(ebb_order_window_at(&e, &group, 0, 0, &w));
        assert_int_equal(w.rows, N);
        uint32_t last = 0;
        for (uint32_t i = 0; i < N; i++) {
            uint32_t at = ebb_order_mix(&w.mix, i);
            count[i * CELLS / N][at * CELLS / N]++;
            neighbours += i > 0 && (at == last + 1 || last == at + 1);
            last = at;
        }
        ebb_order_window_free(&w);
        ebb_order_group_free(&group);
    }
    double chi = 0, expected = (double)N * EPOCHS / (CELLS * CELLS);
    for (int i = 0; i < CELLS; i++)
        for (int j = 0; j < CELLS; j++)
            chi += ((double)count[i][j] - expected) * ((double)count[i][j] - expected) / expected;
    print_message("chi-square %.0f for 225 degrees, neighbours %lld (2 a window expected)\n", chi,
                  (long long)neighbours);
    assert_true(chi < 225 + 6 * sqrt(2 * 225));
    assert_true(neighbours < 6 * EPOCHS);
}

static void defaults_suit_the_data(void **state)
{
    ebb_order_t o = {0};
    ebb_dataset_info_t sparse = {
        .name = "s", .rows = 100000000, .cols = 1000, .nnz = 3200000000, .sparse = true, .chunk_elements = 65536};
    ebb_dataset_info_t dense = {.name = "d", .rows = 10000000, .cols = 784, .nnz = 7840000000, .chunk_elements = 65536};
    assert_ok(ebb_order_init(&o, &sparse));
    assert_int_equal(o.lanes, 24);
    assert_int_equal(o.block_rows, 8192); /* 4 chunks of 2,048 rows */
    o = (ebb_order_t){0};
    assert_ok(ebb_order_init(&o, &dense));
    assert_int_equal(o.block_rows, 83 * 4); /* whole chunks of 83 rows */
    o = (ebb_order_t){0};
    dense.cols = 200000;
    assert_ok(ebb_order_init(&o, &dense));
    assert_int_equal(o.block_rows, 2); /* of 800 kB each */
    o = (ebb_order_t){0};
    sparse.rows = 25;
    sparse.nnz = 25 * 32;
    assert_ok(ebb_order_init(&o, &sparse));
    assert_int_equal(o.batch, 25);
    assert_int_equal(o.block_rows, 16);
}

static void mistakes_are_named_with_their_cure(void **state)
{
    ebb_dataset_info_t info = {
        .name = "few", .rows = 10, .cols = 3, .nnz = 30, .sparse = true, .chunk_elements = 65536};
    ebb_order_t o = {.batch = 100};
    assert_fails(ebb_order_init(&o, &info), EBB_EINVAL, "set lanes to 10 or fewer");
    o = (ebb_order_t){.lanes = 4, .batch = 3};
    assert_fails(ebb_order_init(&o, &info), EBB_EINVAL, "raise the batch to 4");
    o = (ebb_order_t){.lanes = -1, .batch = 3};
    assert_fails(ebb_order_init(&o, &info), EBB_EINVAL, "at least 1");
    o = (ebb_order_t){.lanes = 2, .batch = 3, .block_rows = -5};
    assert_fails(ebb_order_init(&o, &info), EBB_EINVAL, "block rows");
    o = (ebb_order_t){.lanes = 2, .batch = 3, .window_blocks = -5};
    assert_fails(ebb_order_init(&o, &info), EBB_EINVAL, "window");
    o = (ebb_order_t){.rows = 11, .lanes = 2, .batch = 3};
    assert_fails(ebb_order_init(&o, &info), EBB_EINVAL, "11 rows");
    info.rows = 0;
    o = (ebb_order_t){0};
    assert_fails(ebb_order_init(&o, &info), EBB_EINVAL, "no rows");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_comes_once_an_epoch_for_sizes_that_divide_nothing),
        cmocka_unit_test(every_row_comes_once_with_blocks_of_unequal_rows),
        cmocka_unit_test(windows_of_unequal_blocks_tile_their_lane),
        cmocka_unit_test(windows_tile_their_lane),
        cmocka_unit_test(first_windows_are_staggered_over_the_teams),
        cmocka_unit_test(windows_have_the_same_entries_a_row),
        cmocka_unit_test(windows_of_groups_have_nearly_the_same_entries_a_row),
        cmocka_unit_test(a_seek_takes_no_more_work_the_more_rows_there_are),
        cmocka_unit_test(groups_of_all_sections_follow_each_other_without_gap),
        cmocka_unit_test(unshuffled_lanes_are_runs_of_consecutive_rows),
        cmocka_unit_test(lanes_and_shares_differ_by_at_most_one),
        cmocka_unit_test(order_never_changes),
        cmocka_unit_test(order_of_unequal_blocks_never_changes),
        cmocka_unit_test(seed_and_epoch_change_the_order),
        cmocka_unit_test(a_row_of_a_thousand_million_is_found_at_once),
        cmocka_unit_test(batches_of_label_sorted_data_mix_the_labels_at_the_default_window),
        cmocka_unit_test(batches_are_as_close_to_uniform_as_those_of_a_true_shuffle),
        cmocka_unit_test(batches_of_blocks_that_differ_in_rows_are_nearly_as_close),
        cmocka_unit_test(rows_move_as_far_as_in_a_true_shuffle),
        cmocka_unit_test(windows_are_shuffled_evenly),
        cmocka_unit_test(defaults_suit_the_data),
        cmocka_unit_test(mistakes_are_named_with_their_cure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
