/* The loader over made-up data: contents, order, lanes, seeking, faults, memory. */
#include "dealt.h"
#include "fake_shard.h"
#include "base/alloc.h"
#include "base/rng.h"

#include <math.h>
#include <sched.h>

static ebb_loader_options_t options_of(int32_t lanes, int64_t batch, int64_t block_rows, int32_t window_blocks)
{
    return (ebb_loader_options_t){.order = {.lanes = lanes,
                                            .batch = batch,
                                            .block_rows = block_rows,
                                            .window_blocks = window_blocks,
                                            .seed = 3,
                                            .shuffle = true}};
}

static void check_row(const ebb_dataset_t *ds, const ebb_batch_t *b, int64_t r)
{
    int64_t row = b->row[r];
    if (ds->info.sparse) {
        assert_int_equal(b->rowptr[r + 1] - b->rowptr[r], row_nnz(ds, row));
        for (int64_t j = 0; j < row_nnz(ds, row); j++) {
            assert_int_equal(b->col[b->rowptr[r] + j], row_col(row, j));
            assert_true(b->val[b->rowptr[r] + j] == row_val(row, j));
        }
    } else {
        for (int64_t j = 0; j < ds->info.cols; j++)
            assert_true(b->x[r * ds->info.cols + j] == row_val(row, j));
    }
    if (ds->info.target == EBB_TARGET_CLASS)
        assert_int_equal(b->label[r], row % 10);
    else
        for (int64_t j = 0; j < ds->info.target_cols; j++)
            assert_true(b->y[r * ds->info.target_cols + j] == (float)row + (float)j / 8);
    if (ds->info.weighted)
        assert_true(b->weight[r] == (float)row / 2);
    else
        assert_null(b->weight);
}

static int64_t length_of(const void *ds, int64_t row)
{
    return row_nnz(ds, row);
}

/* What a lane has in a step. */
static int64_t expect(const ebb_dataset_t *ds, const ebb_order_t *order, int64_t epoch, int32_t lane, int64_t step,
                      int64_t *row)
{
    return dealt_step(order, epoch, lane, step, ds->info.sparse ? length_of : NULL, ds, row);
}

/* Every row of the batch is the one the order asks for, with its contents. */
static void check_batch(const ebb_dataset_t *ds, const ebb_order_t *order, const ebb_batch_t *b)
{
    int64_t at = 0;
    for (int32_t l = 0; l < b->n_lanes; l++) {
        const ebb_lane_rows_t *lane = &b->lanes[l];
        int64_t share = ebb_order_lane_share(order, lane->lane), rows = ebb_order_lane_rows(order, lane->lane);
        int64_t left = rows - b->step * share, want = left < 0 ? 0 : left < share ? left : share;
        assert_int_equal(lane->first, at);
        assert_int_equal(lane->n, want);
        int64_t *row = calloc((size_t)share, sizeof *row);
        assert_int_equal(expect(ds, order, b->epoch, lane->lane, b->step, row), want);
        for (int64_t i = 0; i < want; i++, at++) {
            assert_int_equal(b->row[at], row[i]);
            check_row(ds, b, at);
        }
        free(row);
    }
    assert_int_equal(at, b->rows);
    if (ds->info.sparse)
        assert_int_equal(b->rowptr[b->rows], b->nnz);
}

static void check_epochs(ebb_dataset_t *ds, const ebb_loader_options_t *options, int64_t epochs)
{
    ebb_loader_t *l;
    const ebb_batch_t *b;
    ebb_order_t order = options->order;
    assert_ok(ebb_order_init(&order, &ds->info));
    assert_ok(ebb_loader_create(ds, options, &l));
    for (int64_t epoch = 0; epoch < epochs; epoch++) {
        for (int64_t step = 0; step < ebb_order_steps(&order); step++) {
            assert_ok(ebb_loader_acquire(l, &b));
            assert_int_equal(b->epoch, epoch);
            assert_int_equal(b->step, step);
            check_batch(ds, &order, b);
            ebb_loader_release(l, b);
        }
        assert_int_equal(ebb_loader_acquire(l, &b), EBB_END);
        assert_null(b);
    }
    ebb_loader_destroy(l);
}

static void batches_hold_the_rows_that_the_order_names(void **state)
{
    static const struct {
        int64_t rows;
        int32_t lanes;
        int64_t batch, block;
        int32_t window;
    } cases[] = {
        {1, 1, 1, 1, 1},       {2, 2, 5, 16, 8},    {997, 3, 64, 16, 2}, {1000, 24, 100, 7, 3},
        {5003, 5, 333, 37, 4}, {500, 2, 400, 3, 1}, {300, 1, 50, 1, 1},  {4096, 4, 64, 64, 8},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int sparse = 0; sparse < 2; sparse++)
            for (int threads = 1; threads <= 3; threads += 2) {
                ebb_dataset_t ds = fake(cases[i].rows, sparse);
                ebb_loader_options_t options =
                    options_of(cases[i].lanes, cases[i].batch, cases[i].block, cases[i].window);
                options.threads = threads;
                options.depth = threads;
                check_epochs(&ds, &options, 3);
                options.order.shuffle = false;
                check_epochs(&ds, &options, 2);
            }
}

static void real_targets_and_weights_follow_their_rows(void **state)
{
    ebb_dataset_t ds = fake(1009, true);
    ebb_loader_options_t options = options_of(4, 100, 16, 2);
    ds.info.target = EBB_TARGET_REAL;
    ds.info.target_cols = 3;
    ds.info.weighted = true;
    check_epochs(&ds, &options, 2);
}

/* One rank's lanes are the same lanes' part of the whole. */
static void a_part_of_the_lanes_gets_the_same_rows(void **state)
{
    static const int32_t lanes[] = {1, 4, 5};
    ebb_dataset_t ds = fake(2000, true);
    ebb_loader_options_t options = options_of(7, 100, 16, 2);
    options.lanes = lanes;
    options.n_lanes = 3;
    check_epochs(&ds, &options, 2);
}

/* The least memory there can be: read-ahead stops short of nothing. */
static int64_t least_memory(ebb_dataset_t *ds, ebb_loader_options_t options)
{
    ebb_loader_t *l;
    double mib;
    options.memory_bytes = 1;
    assert_int_equal(ebb_loader_create(ds, &options, &l), EBB_EINVAL);
    const char *need = strstr(ebb_error()->message, "batches need ");
    assert_non_null(need);
    assert_int_equal(sscanf(need, "batches need %lf MiB", &mib), 1);
    ebb_error_clear();
    return (int64_t)(mib * (1 << 20));
}

static void the_least_memory_that_is_named_is_enough(void **state)
{
    for (int32_t window = 1; window < 6; window += 2) {
        ebb_dataset_t ds = fake(20000, true);
        ebb_loader_options_t options = options_of(6, 600, 16, window);
        options.memory_bytes = least_memory(&ds, options);
        check_epochs(&ds, &options, 2);
    }
}

static void a_data_set_that_fits_is_decoded_once(void **state)
{
    ebb_dataset_t ds = fake(3000, true);
    ebb_loader_options_t options = options_of(5, 100, 16, 2);
    check_epochs(&ds, &options, 4);
    assert_int_equal(atomic_load(&ds.decoded), 3000);
}

/* The fake reader says that its device is slow. Each block is told of at most once before it is decoded. */
static void a_slow_device_is_told_what_comes_next(void **state)
{
    ebb_dataset_t ds = fake(20000, true);
    ebb_loader_options_t options = options_of(5, 100, 16, 8);
    options.memory_bytes = least_memory(&ds, options) * 5 / 4;
    check_epochs(&ds, &options, 2);
    assert_in_range(atomic_load(&ds.hinted), 5000, atomic_load(&ds.decoded) + 64 * 16);
}

static void one_that_does_not_fit_is_decoded_about_once_an_epoch(void **state)
{
    ebb_dataset_t ds = fake(20000, true);
    ebb_loader_options_t options = options_of(5, 100, 16, 8);
    options.memory_bytes = least_memory(&ds, options) * 5 / 4;
    check_epochs(&ds, &options, 3);
    /* twice: the block cut by a lane's end (4 an epoch), and what is read ahead into the fourth epoch */
    assert_in_range(atomic_load(&ds.decoded), 20000, 60000 + 3 * 4 * 16 + 5 * 8 * 4 * 16);
}

static uint64_t batch_hash(const ebb_batch_t *b)
{
    uint64_t h = ebb_mix64((uint64_t)b->epoch * 1000003 + (uint64_t)b->step);
    for (int64_t i = 0; i < b->rows; i++)
        h = ebb_mix64(h ^ (uint64_t)b->row[i]);
    return h;
}

/* Kill at a random step, restore in a new loader with other threads: the sequence goes on as if nothing had happened.
 */
static void killed_and_restored_the_sequence_of_rows_is_the_same(void **state)
{
    enum { TOTAL = 90 };
    uint64_t want[TOTAL];
    ebb_dataset_t ds = fake(1500, true);
    ebb_loader_options_t options = options_of(4, 50, 16, 3);
    ebb_loader_t *l;
    const ebb_batch_t *b;
    assert_ok(ebb_loader_create(&ds, &options, &l));
    for (int i = 0; i < TOTAL;) {
        ebb_status_t status = ebb_loader_acquire(l, &b);
        if (status == EBB_END)
            continue;
        assert_ok(status);
        want[i++] = batch_hash(b);
        ebb_loader_release(l, b);
    }
    ebb_cursor_t cursor = {0};
    int kills = 0;
    for (int i = 0; i < TOTAL; kills++) {
        ebb_loader_destroy(l);
        options.threads = 1 + kills % 3;
        assert_ok(ebb_loader_create(&ds, &options, &l));
        if (i > 0)
            assert_ok(ebb_loader_restore(l, &cursor));
        int64_t run = (int64_t)(ebb_rng_u64(5, EBB_RNG_TEST, (uint64_t)kills, 0) % 7);
        for (int64_t k = 0; k < run && i < TOTAL; k++) {
            ebb_status_t status = ebb_loader_acquire(l, &b);
            if (status == EBB_OK) {
                assert_true(batch_hash(b) == want[i]);
                i++;
                ebb_loader_release(l, b);
            } else {
                assert_int_equal(status, EBB_END);
            }
        }
        ebb_loader_cursor(l, &cursor);
    }
    ebb_loader_destroy(l);
    assert_true(kills > 10);
}

static void seeking_goes_anywhere_even_while_threads_work(void **state)
{
    ebb_dataset_t ds = fake(3000, true);
    ebb_loader_options_t options = options_of(4, 100, 16, 3);
    ebb_order_t order = options.order;
    ebb_loader_t *l;
    const ebb_batch_t *b;
    options.threads = 2;
    options.memory_bytes = least_memory(&ds, options);
    assert_ok(ebb_order_init(&order, &ds.info));
    assert_ok(ebb_loader_create(&ds, &options, &l));
    for (uint64_t i = 0; i < 60; i++) {
        int64_t epoch = (int64_t)(ebb_rng_u64(8, EBB_RNG_TEST, i, 0) % 1000),
                step = (int64_t)(ebb_rng_u64(8, EBB_RNG_TEST, i, 1) % 30);
        assert_ok(ebb_loader_seek(l, epoch, step));
        for (uint64_t k = 0; k < i % 3; k++, step++) {
            ebb_status_t status = ebb_loader_acquire(l, &b);
            if (step == 30) {
                assert_int_equal(status, EBB_END);
                break;
            }
            assert_ok(status);
            assert_int_equal(b->epoch, epoch);
            assert_int_equal(b->step, step);
            check_batch(&ds, &order, b);
            ebb_loader_release(l, b);
        }
    }
    ebb_loader_destroy(l);
}

static void the_cursor_at_the_end_of_an_epoch_leads_to_the_next(void **state)
{
    ebb_dataset_t ds = fake(100, true);
    ebb_loader_options_t options = options_of(2, 50, 16, 3);
    ebb_loader_t *l;
    const ebb_batch_t *b;
    ebb_cursor_t cursor;
    assert_ok(ebb_loader_create(&ds, &options, &l));
    assert_ok(ebb_loader_seek(l, 4, 2)); /* an epoch has 2 steps */
    assert_int_equal(ebb_loader_acquire(l, &b), EBB_END);
    ebb_loader_cursor(l, &cursor);
    assert_int_equal(cursor.epoch, 5);
    assert_int_equal(cursor.step, 0);
    assert_ok(ebb_loader_acquire(l, &b));
    assert_int_equal(b->epoch, 5);
    assert_fails(ebb_loader_seek(l, 0, 0), EBB_EINVAL, "still held");
    ebb_loader_release(l, b);
    assert_fails(ebb_loader_seek(l, 0, 3), EBB_EINVAL, "2 steps");
    assert_fails(ebb_loader_seek(l, -1, 0), EBB_EINVAL, "epoch -1");
    ebb_loader_destroy(l);
}

static void as_many_batches_as_the_depth_may_be_held(void **state)
{
    ebb_dataset_t ds = fake(1000, true);
    ebb_loader_options_t options = options_of(2, 50, 16, 3);
    ebb_order_t order = options.order;
    ebb_loader_t *l;
    const ebb_batch_t *held[4], *b;
    options.depth = 4;
    assert_ok(ebb_order_init(&order, &ds.info));
    assert_ok(ebb_loader_create(&ds, &options, &l));
    for (int i = 0; i < 4; i++)
        assert_ok(ebb_loader_acquire(l, &held[i]));
    assert_fails(ebb_loader_acquire(l, &b), EBB_EINVAL, "release one first");
    for (int i = 0; i < 4; i++)
        check_batch(&ds, &order, held[i]);
    ebb_loader_release(l, held[2]);
    assert_ok(ebb_loader_acquire(l, &b));
    assert_int_equal(b->step, 4);
    check_batch(&ds, &order, held[0]);
    ebb_loader_destroy(l); /* with batches held */
}

static void batches_that_are_ready_are_seen_before_they_are_acquired_also_over_the_epochs_end(void **state)
{
    ebb_dataset_t ds = fake(1000, true);
    ebb_loader_options_t options = options_of(2, 50, 16, 3);
    ebb_order_t order = options.order;
    ebb_loader_t *l;
    ebb_cursor_t before, after;
    const ebb_batch_t *b, *seen;
    assert_ok(ebb_order_init(&order, &ds.info));
    assert_ok(ebb_loader_create(&ds, &options, &l));
    assert_null(ebb_loader_peek(l, 0)); /* nobody asked for rows yet */
    int64_t steps = ebb_order_steps(&order);
    for (int64_t step = 0; step < steps + 2; step++) {
        ebb_status_t status = ebb_loader_acquire(l, &b);
        if (status == EBB_END)
            status = ebb_loader_acquire(l, &b);
        assert_ok(status);
        ebb_loader_cursor(l, &before);
        while (!(seen = ebb_loader_peek(l, 0)))
            sched_yield();
        check_batch(&ds, &order, seen);
        assert_int_equal(seen->step, (step + 1) % steps);
        assert_int_equal(seen->epoch, (step + 1) / steps);
        const ebb_batch_t *further = ebb_loader_peek(l, 1);
        assert_true(!further || further->step == (step + 2) % steps);
        ebb_loader_cursor(l, &after);
        assert_memory_equal(&before, &after, sizeof before);
        ebb_loader_release(l, b);
    }
    ebb_loader_destroy(l);
}

static void a_damaged_row_fails_the_batch_that_would_have_had_it(void **state)
{
    ebb_dataset_t ds = fake(2000, true);
    ebb_loader_options_t options = options_of(4, 100, 16, 3);
    ebb_order_t order = options.order;
    ebb_loader_t *l;
    const ebb_batch_t *b;
    int64_t first_bad = -1;
    ds.bad_row = 777;
    assert_ok(ebb_order_init(&order, &ds.info));
    for (int64_t s = 0; s < ebb_order_steps(&order) && first_bad < 0; s++)
        for (int32_t l4 = 0; l4 < 4; l4++) {
            int64_t row[25], n = expect(&ds, &order, 0, l4, s, row);
            for (int64_t i = 0; i < n; i++)
                if (row[i] / 16 == 777 / 16)
                    first_bad = first_bad < 0 ? s : first_bad;
        }
    assert_ok(ebb_loader_create(&ds, &options, &l));
    for (int64_t s = 0; s < first_bad; s++) {
        assert_ok(ebb_loader_acquire(l, &b));
        ebb_loader_release(l, b);
    }
    for (int again = 0; again < 2; again++)
        assert_fails(ebb_loader_acquire(l, &b), EBB_ECORRUPT, "chunk 3: damaged near row 777");
    assert_ok(ebb_loader_seek(l, 0, 0)); /* and can be moved away */
    if (first_bad > 0) {
        assert_ok(ebb_loader_acquire(l, &b));
        ebb_loader_release(l, b);
    }
    ebb_loader_destroy(l);
}

/* Over both epochs: all rows but those of the damaged block, in the lanes and order they would have had. */
static void damaged_rows_are_left_out_alike_however_lanes_are_shared(void **state)
{
    ebb_dataset_t ds = fake(2000, true);
    ds.bad_row = 777;
    for (int loaders = 1; loaders <= 4; loaders += 3) {
        int64_t rows = 0, skipped = 0;
        for (int k = 0; k < loaders; k++) {
            const int32_t lanes[4] = {k, 1, 2, 3};
            ebb_loader_options_t options = options_of(4, 100, 16, 3);
            ebb_loader_fault_t fault[4];
            ebb_loader_stats_t stats;
            ebb_loader_t *l;
            const ebb_batch_t *b;
            options.skip_corrupt = true;
            options.lanes = lanes;
            options.n_lanes = loaders == 1 ? 4 : 1;
            assert_ok(ebb_loader_create(&ds, &options, &l));
            for (int epoch = 0; epoch < 2; epoch++)
                while (ebb_loader_acquire(l, &b) == EBB_OK) {
                    int64_t at = 0;
                    for (int32_t i = 0; i < b->n_lanes; i++) {
                        assert_int_equal(b->lanes[i].first, at);
                        int64_t row[25];
                        options.order.rows = 2000;
                        assert_int_equal(expect(&ds, &options.order, b->epoch, b->lanes[i].lane, b->step, row), 25);
                        for (int k25 = 0; k25 < 25; k25++) {
                            if (row[k25] / 16 == 777 / 16)
                                continue;
                            assert_int_equal(b->row[at], row[k25]);
                            check_row(&ds, b, at++);
                        }
                        assert_int_equal(b->lanes[i].first + b->lanes[i].n, at);
                    }
                    assert_int_equal(b->rows, at);
                    rows += b->rows;
                    ebb_loader_release(l, b);
                }
            ebb_loader_stats(l, &stats);
            skipped += stats.rows_skipped;
            assert_int_equal(stats.rows_skipped > 0, ebb_loader_faults(l, 4, fault) > 0);
            if (stats.rows_skipped > 0) {
                assert_int_equal(ebb_loader_faults(l, 4, fault), 1);
                assert_int_equal(fault[0].row0, 777 / 16 * 16);
                assert_int_equal(fault[0].rows, 16);
                assert_non_null(strstr(fault[0].message, "damaged near row 777"));
            }
            ebb_loader_destroy(l);
        }
        assert_int_equal(skipped, 2 * 16);
        assert_int_equal(rows, 2 * (2000 - 16));
    }
}

static void cursors_of_other_data_or_seeds_are_refused(void **state)
{
    ebb_dataset_t ds = fake(100, true);
    ebb_loader_options_t options = options_of(2, 50, 16, 3);
    ebb_loader_t *l;
    ebb_cursor_t cursor;
    assert_true(sizeof cursor < 64);
    assert_ok(ebb_loader_create(&ds, &options, &l));
    ebb_loader_cursor(l, &cursor);
    assert_int_equal(cursor.data_hash[1], 0x11);
    assert_int_equal(cursor.data_hash[15], 0xff);
    assert_ok(ebb_loader_restore(l, &cursor));
    cursor.data_hash[3]++;
    assert_fails(ebb_loader_restore(l, &cursor), EBB_EDATA, "other data than fake");
    cursor.data_hash[3]--;
    cursor.seed++;
    assert_fails(ebb_loader_restore(l, &cursor), EBB_EDATA, "seed 4");
    ebb_loader_destroy(l);
}

static void nothing_is_allocated_once_batches_flow(void **state)
{
    for (int skew = 0; skew < 2; skew++) {
        ebb_dataset_t ds = fake(20000, true);
        ds.skew = skew * 30;
        ebb_loader_options_t options = options_of(4, 200, 32, 4);
        ebb_loader_stats_t stats;
        ebb_loader_t *l;
        const ebb_batch_t *b;
        options.threads = 2;
        options.memory_bytes = least_memory(&ds, options) * 3 / 2;
        assert_ok(ebb_loader_create(&ds, &options, &l));
        int64_t before = 0, warm_up = skew ? 1500 : 10; /* rows 30 times longer than told: buffers grow once */
        for (int i = 0; i < 1900; i++) {
            ebb_status_t status = ebb_loader_acquire(l, &b);
            if (status == EBB_OK)
                ebb_loader_release(l, b);
            if (i == warm_up)
                before = ebb_alloc_count();
        }
        /* few buffers have not met one of the longest blocks by then: which, the threads' order decides */
        assert_in_range(ebb_alloc_count() - before, 0, skew ? 6 : 0);
        ebb_loader_stats(l, &stats);
        if (!skew)
            assert_int_equal(stats.allocations, 0);
        assert_true(stats.memory_bytes > 0 && stats.rows > 0 && stats.nnz > 0 && stats.bytes_decoded > 0);
        if (!skew)
            assert_true(stats.memory_bytes <= options.memory_bytes);
        ebb_loader_destroy(l);
    }
}

static void every_allocation_may_fail_and_nothing_leaks(void **state)
{
    ebb_dataset_t ds = fake(500, true);
    ebb_loader_options_t options = options_of(2, 50, 16, 3);
    ebb_loader_t *l;
    int64_t n = 0;
    for (;; n++) {
        ebb_alloc_fail_after(n);
        ebb_status_t status = ebb_loader_create(&ds, &options, &l);
        ebb_alloc_fail_after(-1);
        if (status == EBB_OK)
            break;
        assert_int_equal(status, EBB_ENOMEM);
        assert_null(l);
        ebb_error_clear();
    }
    ebb_loader_destroy(l);
    assert_true(n > 20);
}

static void options_out_of_range_are_refused(void **state)
{
    static const int32_t twice[] = {1, 1}, outside[] = {0, 2};
    ebb_dataset_t ds = fake(500, true);
    ebb_loader_options_t options = options_of(2, 50, 16, 3);
    ebb_loader_t *l;
    options.lanes = twice;
    options.n_lanes = 2;
    assert_fails(ebb_loader_create(&ds, &options, &l), EBB_EINVAL, "lane 1");
    options.lanes = outside;
    assert_fails(ebb_loader_create(&ds, &options, &l), EBB_EINVAL, "lane 2");
    options.n_lanes = 0;
    assert_fails(ebb_loader_create(&ds, &options, &l), EBB_EINVAL, "at least one lane");
    options = options_of(2, 50, 16, 3);
    options.threads = 1000;
    assert_fails(ebb_loader_create(&ds, &options, &l), EBB_EINVAL, "1 to 256");
    options = options_of(2, 1, 16, 3);
    assert_fails(ebb_loader_create(&ds, &options, &l), EBB_EINVAL, "raise the batch");
}

static int blocks_out;

static void *counted_alloc(void *user, size_t bytes)
{
    *(int64_t *)user += (int64_t)bytes;
    blocks_out++;
    return malloc(bytes);
}

static void counted_free(void *user, void *ptr)
{
    blocks_out--;
    free(ptr);
}

static void batch_memory_comes_from_the_caller_if_it_wants(void **state)
{
    int64_t bytes = 0;
    ebb_dataset_t ds = fake(500, true);
    ebb_loader_options_t options = options_of(2, 50, 16, 3);
    options.alloc = counted_alloc;
    options.free = counted_free;
    options.alloc_user = &bytes;
    check_epochs(&ds, &options, 2);
    assert_true(bytes > 0);
    assert_int_equal(blocks_out, 0);
}

/* Against the same in double. */
static void transforms_do_what_they_say(void **state)
{
    ebb_dataset_t ds = fake(400, true);
    ebb_loader_options_t options = options_of(2, 50, 16, 3);
    ebb_loader_t *l;
    const ebb_batch_t *b;
    options.transform = (ebb_transform_t){.row_sum = 1e4f, .log1p = true, .row_l2 = true, .scale = 0.5f};
    assert_ok(ebb_loader_create(&ds, &options, &l));
    while (ebb_loader_acquire(l, &b) == EBB_OK) {
        for (int64_t r = 0; r < b->rows; r++) {
            int64_t row = b->row[r], n = row_nnz(&ds, row);
            double sum = 0, square = 0;
            for (int64_t j = 0; j < n; j++)
                sum += (double)row_val(row, j);
            for (int64_t j = 0; j < n; j++)
                square += pow(log1p((double)row_val(row, j) * 1e4 / sum), 2);
            for (int64_t j = 0; j < n; j++) {
                double want = log1p((double)row_val(row, j) * 1e4 / sum) / sqrt(square) * 0.5;
                assert_true(fabs((double)b->val[b->rowptr[r] + j] / want - 1) < 5e-7);
            }
        }
        ebb_loader_release(l, b);
    }
    ebb_loader_destroy(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_hold_the_rows_that_the_order_names),
        cmocka_unit_test(real_targets_and_weights_follow_their_rows),
        cmocka_unit_test(a_part_of_the_lanes_gets_the_same_rows),
        cmocka_unit_test(the_least_memory_that_is_named_is_enough),
        cmocka_unit_test(a_data_set_that_fits_is_decoded_once),
        cmocka_unit_test(a_slow_device_is_told_what_comes_next),
        cmocka_unit_test(one_that_does_not_fit_is_decoded_about_once_an_epoch),
        cmocka_unit_test(killed_and_restored_the_sequence_of_rows_is_the_same),
        cmocka_unit_test(seeking_goes_anywhere_even_while_threads_work),
        cmocka_unit_test(the_cursor_at_the_end_of_an_epoch_leads_to_the_next),
        cmocka_unit_test(as_many_batches_as_the_depth_may_be_held),
        cmocka_unit_test(batches_that_are_ready_are_seen_before_they_are_acquired_also_over_the_epochs_end),
        cmocka_unit_test(a_damaged_row_fails_the_batch_that_would_have_had_it),
        cmocka_unit_test(damaged_rows_are_left_out_alike_however_lanes_are_shared),
        cmocka_unit_test(cursors_of_other_data_or_seeds_are_refused),
        cmocka_unit_test(nothing_is_allocated_once_batches_flow),
        cmocka_unit_test(every_allocation_may_fail_and_nothing_leaks),
        cmocka_unit_test(options_out_of_range_are_refused),
        cmocka_unit_test(batch_memory_comes_from_the_caller_if_it_wants),
        cmocka_unit_test(transforms_do_what_they_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
