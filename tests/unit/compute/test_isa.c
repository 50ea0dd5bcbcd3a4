/* Scalar, AVX2 and AVX-512 give the same bits; elementary functions are within 2 ulp. */
#include "compute_test.h"

typedef struct results {
    float *v;
    int64_t n, room;
} results_t;

static void keep(results_t *r, const void *p, int64_t floats)
{
    if (r->n + floats > r->room)
        r->v = realloc(r->v, (size_t)(r->room = 2 * (r->n + floats)) * sizeof *r->v);
    memcpy(r->v + r->n, p, (size_t)floats * sizeof *r->v);
    r->n += floats;
}

static void keep_rows(results_t *r, const ebb_rows_t *rows)
{
    keep(r, rows->idx, rows->n);
    keep(r, rows->val, rows->n * rows->width);
}

enum { ROWS = 37, COLS = 150 };

static void run_sparse(ebb_exec_t *x, int64_t H, results_t *r)
{
    static const int32_t fields[] = {0, 50, 90, 150};
    sparse_t s = random_sparse(ROWS, COLS, 50);
    float *T = random_floats(COLS * (H + 1), 1), *Y = poisoned(3 * ROWS * H), *dY = random_floats(3 * ROWS * H, 1);
    float *G = calloc((size_t)(COLS * (H + 1)), sizeof *G), out[ROWS];
    uint64_t touched[3] = {0};
    ebb_rows_t rows;
    assert_ok(ops->csr_gemm(x, &s.X, H, T, H, T, EBB_ACT_GELU, Y));
    keep(r, Y, ROWS * H);
    assert_ok(ops->csr_grad(x, 0, &s.X, H, dY, &rows));
    keep_rows(r, &rows);
    ebb_terms_t terms = {0};
    assert_ok(ops->csr_terms(x, &s.X, H, dY, &terms));
    assert_ok(ops->terms_sum(x, &terms, 0, terms.n, G));
    keep(r, G, terms.n * H);
    memset(G, 0, (size_t)(COLS * (H + 1)) * sizeof *G);
    ops->terms_free(NULL, &terms);
    assert_ok(ops->fm_forward(x, &s.X, H, T, NULL, out, Y));
    keep(r, out, ROWS);
    assert_ok(ops->fm_grad(x, 0, &s.X, H, T, Y, out, &rows));
    keep_rows(r, &rows);
    assert_ok(ops->fm_grad_dense(x, &s.X, H, T, Y, out, G, touched));
    assert_ok(ops->csr_grad_dense(x, &s.X, H, dY, G, touched));
    assert_ok(ops->embed_grad_dense(x, &s.X, 3, fields, H, dY, G, touched));
    keep(r, G, COLS * (H + 1));
    assert_ok(ops->embed_forward(x, &s.X, 3, fields, H, T, Y));
    keep(r, Y, 3 * ROWS * H);
    free(T), free(Y), free(dY), free(G);
    free_sparse(&s);
}

static void run_elementwise(ebb_exec_t *x, int64_t N, results_t *r)
{
    int64_t n = ROWS * N;
    float *in = random_floats(n, 8), *out = poisoned(n), *d = poisoned(n), mean[ROWS], rstd[ROWS];
    float *gamma = random_floats(N, 1), *dg = poisoned(N), *db = poisoned(N);
    uint64_t key[2] = {5, 6};
    double sums[3];
    for (int a = EBB_ACT_RELU; a <= EBB_ACT_SIGMOID; a++) {
        assert_ok(ops->act_forward(x, (ebb_act_t)a, n, in, out));
        keep(r, out, n);
        assert_ok(ops->act_backward(x, (ebb_act_t)a, n, in, out, in, d));
        keep(r, d, n);
    }
    assert_ok(ops->layernorm_forward(x, ROWS, N, in, gamma, gamma, 1e-5f, out, mean, rstd));
    keep(r, out, n);
    assert_ok(ops->layernorm_backward(x, ROWS, N, in, gamma, mean, rstd, out, d, 0, dg, db));
    keep(r, d, n), keep(r, dg, N), keep(r, db, N);
    assert_ok(ops->dropout(x, n, 0.5f, key, 3, in, out));
    keep(r, out, n);
    assert_ok(ops->bias_grad(x, ROWS, N, in, 0, db));
    keep(r, db, N);
    assert_ok(ops->sumsq(x, n, (n + 2) / 3, in, sums));
    keep(r, sums, 2 * (n < 3 ? n : 3));
    free(in), free(out), free(d), free(gamma), free(dg), free(db);
}

static void run_losses(ebb_exec_t *x, int64_t width, results_t *r)
{
    float *out = random_floats(ROWS * width, 6), *y = random_floats(ROWS * width, 1), *d = poisoned(ROWS * width);
    int32_t label[ROWS], binary[ROWS];
    double loss[ROWS], weight[ROWS];
    for (int i = 0; i < ROWS; i++)
        label[i] = (int32_t)below(width), binary[i] = (int32_t)below(2);
    for (int k = EBB_LOSS_SOFTMAX_CE; k <= EBB_LOSS_POISSON; k++) {
        assert_ok(ops->loss(x, (ebb_loss_kind_t)k, 1, ROWS, width, out, k ? NULL : label, k ? y : NULL, NULL, NULL,
                            loss, weight, d));
        keep(r, loss, 2 * ROWS), keep(r, d, ROWS * width);
        assert_ok(ops->link(x, (ebb_loss_kind_t)k, ROWS, width, out, d));
        keep(r, d, ROWS * width);
    }
    assert_ok(ops->loss(x, EBB_LOSS_BINARY_CE, 0, ROWS, 1, out, binary, NULL, NULL, NULL, loss, weight, d));
    keep(r, loss, 2 * ROWS), keep(r, d, ROWS);
    free(out), free(y), free(d);
}

static void run_updates(ebb_exec_t *x, int64_t n, results_t *r)
{
    float *w = random_floats(n, 1), *g = random_floats(n, 1), *s0 = calloc((size_t)n, 4), *s1 = calloc((size_t)n, 4);
    for (int k = EBB_OPTIM_SGD; k <= EBB_OPTIM_FTRL; k++) {
        ebb_optim_hyper_t h = {.kind = (ebb_optim_kind_t)k,
                               .lr = 0.03f,
                               .scale = 0.7f,
                               .l1 = 0.01f,
                               .l2 = 0.02f,
                               .momentum = 0.9f,
                               .beta1 = 0.9f,
                               .beta2 = 0.99f,
                               .eps = 1e-6f,
                               .t = 2};
        memset(s0, 0, (size_t)n * 4), memset(s1, 0, (size_t)n * 4);
        for (int i = 0; i < 3; i++)
            assert_ok(ops->update(x, &h, n, w, g, s0, s1));
        keep(r, w, n), keep(r, s0, n), keep(r, s1, n);
    }
    free(w), free(g), free(s0), free(s1);
}

static void all_instruction_sets_give_the_same_bits(void **state)
{
    static const int64_t widths[] = {1, 2, 7, 8, 15, 16, 31, 33, 64, 100, 128, 257};
    for (int i = 0; i < 12; i++) {
        results_t of[3] = {{0}};
        uint64_t start = draws;
        EACH_ISA(x)
        {
            results_t *r = &of[isa_];
            draws = start; /* the same inputs */
            run_sparse(x, widths[i], r);
            run_elementwise(x, widths[i], r);
            run_losses(x, widths[i], r);
            run_updates(x, widths[i] * 7, r);
        }
        for (int isa = 1; isa < 3; isa++) {
            for (int64_t k = 0; k < of[isa].n; k++)
                if (memcmp(of[isa].v + k, of[0].v + k, sizeof(float)) != 0)
                    fail_msg("width %lld, isa %d, value %lld of %lld: %a, scalar has %a", (long long)widths[i], isa,
                             (long long)k, (long long)of[0].n, (double)of[isa].v[k], (double)of[0].v[k]);
            assert_true(of[isa].n == 0 || of[isa].n == of[0].n);
        }
        for (int isa = 0; isa < 3; isa++)
            free(of[isa].v);
    }
}

static double ulps(float got, double want)
{
    float nearest = (float)want;
    double unit = (double)(nextafterf(fabsf(nearest), INFINITY) - fabsf(nearest));
    return fabs((double)got - want) / unit;
}

static double reference(int function, double v)
{
    switch (function) {
    case 0: return exp(v);
    case 1: return 1 / (1 + exp(-v));
    case 2: return tanh(v);
    default: return v >= 0 ? 1 + erf(v / 1.4142135623730951) : erfc(-v / 1.4142135623730951);
    }
}

/* The functions seen through the table: exp by the link of poisson, the others by activations. */
static void elementary_functions_are_within_two_ulp(void **state)
{
    enum { N = 100000 };
    static const float limits[] = {103, 80, 12, 3};
    float *in = malloc(N * sizeof *in), *out = malloc(N * sizeof *out);
    EACH_ISA(x) for (int f = 0; f < 3 && isa_ == 2; f++)
    {
        double worst = 0;
        for (int i = 0; i < N; i++)
            in[i] = i % 4 ? limits[f] * ((float)i * (2.0f / N) - 1) : uniform(-1, 1);
        if (f == 0)
            assert_ok(ops->link(x, EBB_LOSS_POISSON, N, 1, in, out));
        else
            assert_ok(ops->act_forward(x, f == 1 ? EBB_ACT_SIGMOID : EBB_ACT_TANH, N, in, out));
        for (int i = 0; i < N; i++) {
            double want = reference(f, (double)in[i]), e = fabs(want) > 3e38 ? 0 : ulps(out[i], want);
            worst = e > worst ? e : worst;
        }
        print_message("function %d: worst error %.2f ulp\n", f, worst);
        assert_true(worst <= 2.5);
    }
    free(in), free(out);
}

static void elementary_functions_have_their_limits(void **state)
{
    float in[8] = {INFINITY, -INFINITY, 0, -0.0f, 1e30f, -1e30f, NAN, 1e-40f}, out[8];
    EACH_ISA(x)
    {
        assert_ok(ops->link(x, EBB_LOSS_POISSON, 8, 1, in, out));
        assert_true(isinf(out[0]) && out[1] == 0 && out[2] == 1 && isinf(out[4]) && out[5] == 0 && isnan(out[6]) &&
                    out[7] == 1);
        assert_ok(ops->act_forward(x, EBB_ACT_TANH, 8, in, out));
        assert_true(out[0] == 1 && out[1] == -1 && out[2] == 0 && signbit(out[3]) && out[4] == 1 && isnan(out[6]) &&
                    out[7] == in[7]);
        assert_ok(ops->act_forward(x, EBB_ACT_SIGMOID, 8, in, out));
        assert_true(out[0] == 1 && out[1] == 0 && out[2] == 0.5f && isnan(out[6]));
        assert_ok(ops->act_forward(x, EBB_ACT_GELU, 8, in, out));
        assert_true(out[2] == 0 && out[4] == 1e30f && out[5] == 0 && isnan(out[6]));
        assert_ok(ops->act_forward(x, EBB_ACT_RELU, 8, in, out));
        assert_true(isinf(out[0]) && out[1] == 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_instruction_sets_give_the_same_bits),
        cmocka_unit_test(elementary_functions_are_within_two_ulp),
        cmocka_unit_test(elementary_functions_have_their_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
