/* The optimiser's step: convergence, independence of ranks and threads, penalties only where they belong. */
#include "support.h"
#include "plain_backend.h"
#include "base/rng.h"
#include "base/threads.h"
#include <ebb/optim.h>

enum { DENSE_A = 40000, BIAS = 7, ROWS = 300, COLS = 5 };

static ebb_param_t params[] = {
    {.name = "a", .kind = EBB_PARAM_DENSE, .rows = DENSE_A / 4, .cols = 4, .decay = true, .offset = 0},
    {.name = "table", .kind = EBB_PARAM_ROWS, .rows = ROWS, .cols = COLS, .decay = true, .offset = 0},
    {.name = "bias", .kind = EBB_PARAM_DENSE, .rows = 1, .cols = BIAS, .decay = false, .offset = DENSE_A},
};
static ebb_layout_t layout = {
    .n_params = 3, .params = params, .dense_floats = DENSE_A + 16, .n_tables = 1, .table_param = {1}};

typedef struct machine {
    ebb_pool_t *pool;
    ebb_exec_t *exec[4];
    int threads;
} machine_t;

static machine_t machine(int threads)
{
    machine_t m = {.threads = threads};
    assert_ok(ebb_pool_create(threads, &m.pool));
    for (int i = 0; i < threads; i++)
        assert_ok(plain_exec_create(NULL, &m.exec[i]));
    return m;
}

static void stop(machine_t *m)
{
    ebb_pool_destroy(m->pool);
    for (int i = 0; i < m->threads; i++)
        plain_exec_destroy(m->exec[i]);
}

static ebb_weights_t random_weights(void)
{
    ebb_weights_t w = {.dense = calloc((size_t)layout.dense_floats, 4), .table = {calloc(ROWS * COLS, 4)}};
    for (int i = 0; i < DENSE_A + BIAS; i++)
        w.dense[i] = ebb_rng_normal(1, EBB_RNG_TEST, 0, (uint64_t)i);
    for (int i = 0; i < ROWS * COLS; i++)
        w.table[0][i] = ebb_rng_normal(1, EBB_RNG_TEST, 1, (uint64_t)i);
    return w;
}

static void free_weights(ebb_weights_t *w)
{
    free(w->dense);
    free(w->table[0]);
}

/* The sums that rank owns at a step: every third row is touched, another third each step. */
typedef struct my_sums {
    ebb_sums_t sums;
    int32_t row[ROWS], local[ROWS];
    float val[ROWS * COLS];
} my_sums_t;

static void make_sums(int64_t step, int rank, int ranks, my_sums_t *s)
{
    memset(s, 0, sizeof *s);
    s->sums.dense_floats = ebb_sync_own_floats(&layout, rank, ranks);
    s->sums.dense = calloc((size_t)s->sums.dense_floats + 1, 4);
    for (int b = 0; b < ebb_layout_buckets(&layout); b++) {
        ebb_own_t own = ebb_sync_own(&layout, b, rank, ranks);
        for (int64_t i = own.begin; i < own.end && i < DENSE_A + BIAS; i++)
            s->sums.dense[own.local + i - own.begin] = ebb_rng_normal(2, EBB_RNG_TEST, (uint64_t)step, (uint64_t)i);
    }
    int n = 0;
    for (int32_t r = (int32_t)(step % 3); r < ROWS; r += 3) {
        if (r / 64 % ranks != rank)
            continue;
        s->row[n] = r;
        s->local[n] = (int32_t)ebb_sync_local_row(r, ranks);
        for (int c = 0; c < COLS; c++)
            s->val[n * COLS + c] = ebb_rng_normal(3, EBB_RNG_TEST, (uint64_t)step, (uint64_t)(r * COLS + c));
        n++;
    }
    s->sums.table[0].n = n;
    s->sums.table[0].row = s->row;
    s->sums.table[0].local = s->local;
    s->sums.table[0].val = s->val;
}

static const ebb_optim_hyper_t rules[] = {
    {.kind = EBB_OPTIM_SGD, .lr = 0.1f, .momentum = 0.9f, .nesterov = true, .l1 = 0.001f, .l2 = 0.01f},
    {.kind = EBB_OPTIM_SGD, .lr = 0.1f},
    {.kind = EBB_OPTIM_ADAGRAD, .lr = 0.3f, .eps = 1e-8f, .l2 = 0.01f},
    {.kind = EBB_OPTIM_ADAM, .lr = 0.05f, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-8f, .l1 = 0.001f},
    {.kind = EBB_OPTIM_ADAMW, .lr = 0.05f, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-8f, .l2 = 0.01f},
    {.kind = EBB_OPTIM_FTRL, .lr = 0.3f, .beta1 = 1.0f, .l1 = 0.001f, .l2 = 0.01f},
};
enum { N_RULES = sizeof rules / sizeof *rules, STEPS = 7 };

/* Steps by `ranks` owners in turn, all on the same weights; states are put together at global places. */
static void run_owners(const ebb_optim_hyper_t *rule, int ranks, int threads, ebb_weights_t *w, float *dense_state[2],
                       float *table_state[2])
{
    machine_t m = machine(threads);
    ebb_optim_options_t options = {.hyper = *rule, .schedule = {.kind = EBB_SCHEDULE_CONSTANT, .warmup_steps = 3}};
    if (rule->kind == EBB_OPTIM_FTRL)
        options.schedule.warmup_steps = 0;
    static my_sums_t sums;
    double lr;
    for (int rank = 0; rank < ranks; rank++) {
        ebb_optim_t *optim;
        assert_ok(ebb_optim_create(&options, &plain_backend, m.pool, m.exec, &layout, rank, ranks, &optim));
        assert_ok(ebb_optim_start(optim, w));
        for (int64_t step = 0; step < STEPS; step++) {
            make_sums(step, rank, ranks, &sums);
            if (layout.n_buckets == 0)
                assert_ok(ebb_optim_step(optim, step, 0.125, &sums.sums, w, &lr));
            for (int b = 0; b < layout.n_buckets; b++)
                assert_ok(ebb_optim_step_bucket(optim, b, step, 0.125, &sums.sums, w, &lr));
            free(sums.sums.dense);
        }
        assert_true(lr == (double)rule->lr);
        for (int s = 0; s < ebb_optim_state_count(optim); s++) {
            assert_true(strlen(ebb_optim_state_name(optim, s)) > 0);
            for (int b = 0; b < ebb_layout_buckets(&layout); b++) {
                ebb_own_t own = ebb_sync_own(&layout, b, rank, ranks);
                memcpy(dense_state[s] + own.begin, ebb_optim_state_dense(optim, s) + own.local,
                       (size_t)(own.end - own.begin) * 4);
            }
            for (int64_t l = 0; l < ebb_sync_table_rows(ROWS, rank, ranks); l++)
                memcpy(table_state[s] + ebb_sync_global_row(l, rank, ranks) * COLS,
                       ebb_optim_state_table(optim, s, 0) + l * COLS, COLS * 4);
        }
        ebb_optim_destroy(optim);
    }
    stop(&m);
}

static void weights_and_the_union_of_states_do_not_depend_on_ranks_threads_or_buckets(void **state)
{
    static float dense[2][2][DENSE_A + 16], table[2][2][ROWS * COLS];
    const int others[][3] = {{3, 2, 0}, {5, 3, 2}, {8, 1, 0}, {1, 2, 2}};
    for (int r = 0; r < N_RULES; r++) {
        memset(dense, 0, sizeof dense);
        memset(table, 0, sizeof table);
        ebb_weights_t one = random_weights();
        run_owners(&rules[r], 1, 1, &one, (float *[]){dense[0][0], dense[0][1]}, (float *[]){table[0][0], table[0][1]});
        for (int i = 0; i < 4; i++) {
            layout.n_buckets = others[i][2];
            layout.bucket_begin[0] = DENSE_A;
            ebb_weights_t many = random_weights();
            run_owners(&rules[r], others[i][0], others[i][1], &many, (float *[]){dense[1][0], dense[1][1]},
                       (float *[]){table[1][0], table[1][1]});
            layout.n_buckets = 0;
            assert_memory_equal(one.dense, many.dense, (DENSE_A + 16) * 4);
            assert_memory_equal(one.table[0], many.table[0], ROWS * COLS * 4);
            assert_memory_equal(dense[0], dense[1], sizeof dense[0]);
            assert_memory_equal(table[0], table[1], sizeof table[0]);
            free_weights(&many);
        }
        for (int i = DENSE_A + BIAS; i < DENSE_A + 16; i++)
            assert_true(one.dense[i] == 0.0f); /* padding */
        free_weights(&one);
    }
}

/* A step on the sums of three lanes, there or left in parts; w and state: afterwards. */
static void step_on_lanes(bool in_parts, ebb_weights_t *w, float *state)
{
    machine_t m = machine(2);
    ebb_optim_options_t options = {.hyper = rules[3]};
    ebb_comm_t *comm;
    ebb_sync_t *sync;
    ebb_optim_t *optim;
    ebb_sums_t *sums;
    double lr;
    assert_ok(ebb_comm_self(&comm));
    assert_ok(
        ebb_sync_create(comm, &plain_backend, m.pool, m.exec, &layout, 3, EBB_SYNC_CANONICAL, EBB_ROWS_AUTO, &sync));
    assert_ok(ebb_optim_create(&options, &plain_backend, m.pool, m.exec, &layout, 0, 1, &optim));
    assert_ok(ebb_sync_begin(sync));
    for (int32_t lane = 0; lane < 3; lane++) {
        ebb_grads_t *grads;
        assert_ok(ebb_sync_lane_grads(sync, lane, 0, false, m.exec[0], &grads));
        for (int i = 0; i < DENSE_A + BIAS; i++)
            grads->dense[i] = ebb_rng_normal(4, EBB_RNG_TEST, (uint64_t)lane, (uint64_t)i);
        assert_ok(ebb_sync_lane_done(sync, lane, 0, true, m.exec[0]));
    }
    assert_ok(in_parts ? ebb_sync_reduce_parts(sync, &sums) : ebb_sync_reduce(sync, &sums));
    assert_true(in_parts == !sums->dense);
    assert_ok(ebb_optim_step(optim, 0, 0.125, sums, w, &lr));
    memcpy(state, ebb_optim_state_dense(optim, 0), sizeof(float) * (size_t)layout.dense_floats);
    ebb_optim_destroy(optim);
    ebb_sync_destroy(sync);
    ebb_comm_destroy(comm);
    stop(&m);
}

static void sums_left_in_parts_make_the_same_step_as_those_that_are_there(void **state)
{
    static float m[2][DENSE_A + 16];
    ebb_weights_t w[2] = {random_weights(), random_weights()}, before = random_weights();
    for (int i = 0; i < 2; i++)
        step_on_lanes(i, &w[i], m[i]);
    assert_memory_equal(w[0].dense, w[1].dense, sizeof m[0]);
    assert_memory_equal(m[0], m[1], sizeof m[0]);
    assert_memory_not_equal(w[0].dense, before.dense, sizeof m[0]);
    for (int i = 0; i < 2; i++)
        free_weights(&w[i]);
    free_weights(&before);
}

static void penalties_spare_parameters_without_decay(void **state)
{
    machine_t m = machine(2);
    ebb_optim_options_t options = {.hyper = {.kind = EBB_OPTIM_SGD, .lr = 0.5f, .l2 = 0.5f, .l1 = 0.01f}};
    ebb_optim_t *optim;
    ebb_weights_t w = random_weights(), before = random_weights();
    static my_sums_t sums;
    double lr;
    make_sums(0, 0, 1, &sums);
    memset(sums.sums.dense, 0, (DENSE_A + 16) * 4);
    memset(sums.val, 0, sizeof sums.val);
    assert_ok(ebb_optim_create(&options, &plain_backend, m.pool, m.exec, &layout, 0, 1, &optim));
    assert_ok(ebb_optim_step(optim, 0, 1.0, &sums.sums, &w, &lr));
    for (int i = 0; i < DENSE_A; i++)
        assert_true(w.dense[i] != before.dense[i]);
    assert_memory_equal(w.dense + DENSE_A, before.dense + DENSE_A, BIAS * 4);
    for (int r = 0; r < ROWS; r++) /* only touched rows are penalised */
        assert_int_equal(memcmp(w.table[0] + r * COLS, before.table[0] + r * COLS, COLS * 4) != 0, r % 3 == 0);
    ebb_optim_destroy(optim);
    free(sums.sums.dense);
    free_weights(&w);
    free_weights(&before);
    stop(&m);
}

/* min 1/2 sum_i c_i (w_i - i/50)^2. */
static void every_rule_finds_the_minimum_of_a_quadratic(void **state)
{
    ebb_param_t one = {.name = "w", .kind = EBB_PARAM_DENSE, .rows = 1, .cols = 20};
    ebb_layout_t small = {.n_params = 1, .params = &one, .dense_floats = 32};
    for (int r = 0; r < N_RULES; r++) {
        machine_t m = machine(1);
        ebb_optim_options_t options = {.hyper = rules[r],
                                       .schedule = {.kind = EBB_SCHEDULE_COSINE, .total_steps = 1500}};
        if (options.hyper.kind == EBB_OPTIM_FTRL)
            options.schedule.kind = EBB_SCHEDULE_CONSTANT;
        options.hyper.l1 = options.hyper.l2 = 0.0f;
        ebb_optim_t *optim;
        float weight[32] = {0}, g[32] = {0};
        ebb_weights_t w = {.dense = weight};
        ebb_sums_t sums = {.dense_floats = 32, .dense = g};
        double lr;
        for (int i = 0; i < 20; i++)
            weight[i] = ebb_rng_normal(1, EBB_RNG_TEST, 0, (uint64_t)i);
        assert_ok(ebb_optim_create(&options, &plain_backend, m.pool, m.exec, &small, 0, 1, &optim));
        assert_ok(ebb_optim_start(optim, &w));
        for (int64_t step = 0; step < 1500; step++) {
            for (int i = 0; i < 20; i++)
                g[i] = 4.0f * (1.0f + 0.1f * (float)i) * (weight[i] - (float)i / 50);
            assert_ok(ebb_optim_step(optim, step, 0.25, &sums, &w, &lr));
        }
        for (int i = 0; i < 20; i++)
            if (!(fabsf(weight[i] - (float)i / 50) < 1e-3f))
                fail_msg("rule %d: weight %d is %g, the minimum is at %g", r, i, (double)weight[i], i / 50.0);
        ebb_optim_destroy(optim);
        stop(&m);
    }
}

static void ftrl_keeps_a_weight_whose_gradient_is_small(void **state)
{
    machine_t m = machine(1);
    ebb_optim_options_t options = {.hyper = rules[5]};
    ebb_optim_t *optim;
    ebb_weights_t w = random_weights(), before = random_weights();
    static my_sums_t sums;
    double lr;
    make_sums(0, 0, 1, &sums);
    assert_ok(ebb_optim_create(&options, &plain_backend, m.pool, m.exec, &layout, 0, 1, &optim));
    assert_ok(ebb_optim_start(optim, &w));
    assert_ok(ebb_optim_step(optim, 0, 1e-6, &sums.sums, &w, &lr));
    for (int i = 0; i < DENSE_A + BIAS; i++)
        assert_true(fabsf(w.dense[i] - before.dense[i]) < 1e-4f);
    for (int i = 0; i < ROWS * COLS; i++)
        assert_true(fabsf(w.table[0][i] - before.table[0][i]) < 1e-4f);
    ebb_optim_destroy(optim);
    free(sums.sums.dense);
    free_weights(&w);
    free_weights(&before);
    stop(&m);
}

static void ftrl_with_a_schedule_is_refused(void **state)
{
    machine_t m = machine(1);
    ebb_optim_options_t options = {.hyper = rules[5], .schedule = {.kind = EBB_SCHEDULE_COSINE, .total_steps = 10}};
    ebb_optim_t *optim;
    assert_fails(ebb_optim_create(&options, &plain_backend, m.pool, m.exec, &layout, 0, 1, &optim), EBB_EUSAGE, "ftrl");
    options.schedule = (ebb_schedule_t){.warmup_steps = 5};
    assert_fails(ebb_optim_create(&options, &plain_backend, m.pool, m.exec, &layout, 0, 1, &optim), EBB_EUSAGE,
                 "constant");
    stop(&m);
}

static void wrong_slices_and_want_of_memory_are_reported(void **state)
{
    machine_t m = machine(1);
    ebb_optim_options_t options = {.hyper = rules[3]};
    ebb_optim_t *optim;
    for (int i = 0; i < 6; i++) {
        ebb_alloc_fail_after(i);
        assert_fails(ebb_optim_create(&options, &plain_backend, m.pool, m.exec, &layout, 0, 1, &optim), EBB_ENOMEM,
                     "optimiser");
        assert_null(optim);
    }
    ebb_alloc_fail_after(-1);
    assert_ok(ebb_optim_create(&options, &plain_backend, m.pool, m.exec, &layout, 0, 2, &optim));
    static my_sums_t sums;
    ebb_weights_t w = {0};
    double lr;
    make_sums(0, 1, 2, &sums);
    assert_fails(ebb_optim_step(optim, 0, 1.0, &sums.sums, &w, &lr), EBB_EBUG, "optimiser owns");
    free(sums.sums.dense);
    ebb_optim_destroy(optim);
    stop(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_and_the_union_of_states_do_not_depend_on_ranks_threads_or_buckets),
        cmocka_unit_test(sums_left_in_parts_make_the_same_step_as_those_that_are_there),
        cmocka_unit_test(penalties_spare_parameters_without_decay),
        cmocka_unit_test(every_rule_finds_the_minimum_of_a_quadratic),
        cmocka_unit_test(ftrl_keeps_a_weight_whose_gradient_is_small),
        cmocka_unit_test(ftrl_with_a_schedule_is_refused),
        cmocka_unit_test(wrong_slices_and_want_of_memory_are_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
