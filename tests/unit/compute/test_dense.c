/* Dense products, activations, layer normalisation, dropout and sums against float64. */
#include "compute_test.h"

#include <pthread.h>

static double act_reference(ebb_act_t act, double v)
{
    switch (act) {
    case EBB_ACT_RELU:
        return v > 0 ? v : 0;
    case EBB_ACT_GELU:
        return 0.5 * v * (1 + erf(v / sqrt(2)));
    case EBB_ACT_TANH:
        return tanh(v);
    case EBB_ACT_SIGMOID:
        return 1 / (1 + exp(-v));
    default:
        return v;
    }
}

static void gemm_equals_float64_for_all_transposes_shapes_and_epilogues(void **state)
{
    static const int64_t shapes[][3] = {{1, 1, 1},    {3, 5, 7}, {17, 10, 33}, {64, 33, 1},
                                        {5, 128, 20}, {4, 3, 0}, {0, 3, 4}};
    EACH_ISA(x) for (int i = 0; i < 7 * 4; i++)
    {
        int64_t M = shapes[i / 4][0], N = shapes[i / 4][1], K = shapes[i / 4][2], ldc = N + i % 3;
        bool ta = i & 1, tb = i & 2;
        int64_t lda = (ta ? M : K) + i % 2, ldb = (tb ? K : N) + 2 * (i % 2);
        float *A = random_floats((ta ? K : M) * lda, 1), *B = random_floats((tb ? N : K) * ldb, 1);
        float *C = random_floats(M * ldc, 1), *old = copied(C, M * ldc), *bias = i % 3 ? random_floats(N, 1) : NULL;
        float beta = i % 5 == 0 ? 1.0f : 0.0f;
        ebb_act_t act = (ebb_act_t)(i % 5);
        if (beta == 0.0f)
            for (int64_t k = 0; k < M * ldc; k++)
                C[k] = k % ldc < N ? NAN : C[k];
        assert_ok(ops->gemm(x, ta, tb, M, N, K, A, lda, B, ldb, beta, C, ldc, bias, act));
        for (int64_t m = 0; m < M; m++)
            for (int64_t n = 0; n < ldc; n++) {
                double want = (double)old[m * ldc + n];
                if (n < N) {
                    want = (beta != 0.0f ? want : 0.0) + (bias ? (double)bias[n] : 0.0);
                    for (int64_t k = 0; k < K; k++)
                        want += (double)(ta ? A[k * lda + m] : A[m * lda + k]) *
                                (double)(tb ? B[n * ldb + k] : B[k * ldb + n]);
                    want = act_reference(act, want);
                }
                assert_near("C", 1, C + m * ldc + n, &want, 10, 1e-6);
            }
        free(A), free(B), free(C), free(old), free(bias);
    }
}

static void gemm_refuses_leading_dimensions_that_are_too_small(void **state)
{
    ebb_exec_t *x = exec_of(0);
    float a[4] = {0};
    assert_fails(ops->gemm(x, false, false, 2, 2, 2, a, 1, a, 2, 0, a, 2, NULL, EBB_ACT_NONE), EBB_EINVAL, "too small");
    ops->exec_destroy(x);
}

typedef struct product {
    int64_t shift; /* of every operand, in floats */
    const float *A, *B;
    float *C;
} product_t;

enum { GM = 170, GN = 96, GK = 130 };

static void *multiply(void *user)
{
    product_t *p = user;
    ebb_exec_t *x;
    int64_t room = GM * GK + GK * GN + GM * GN + 64;
    float *block = calloc((size_t)room, sizeof *block);
    float *A = block + p->shift, *B = A + GM * GK, *C = B + GK * GN;
    memcpy(A, p->A, (size_t)(GM * GK) * sizeof *A);
    memcpy(B, p->B, (size_t)(GK * GN) * sizeof *B);
    if (ops->exec_create(NULL, &x) == EBB_OK &&
        ops->gemm(x, false, false, GM, GN, GK, A, GK, B, GN, 0, C, GN, NULL, EBB_ACT_NONE) == EBB_OK)
        memcpy(p->C, C, (size_t)(GM * GN) * sizeof *C);
    ops->exec_destroy(x);
    free(block);
    return NULL;
}

static void gemm_gives_the_same_bits_at_any_alignment_context_and_thread(void **state)
{
    enum { RUNS = 17 };
    float *A = random_floats(GM * GK, 1), *B = random_floats(GK * GN, 1), *C[RUNS];
    for (int i = 0; i < RUNS; i++) {
        product_t p = {i, A, B, C[i] = poisoned(GM * GN)};
        pthread_t thread;
        if (i % 2) {
            assert_int_equal(pthread_create(&thread, NULL, multiply, &p), 0);
            pthread_join(thread, NULL);
        } else {
            multiply(&p);
        }
        assert_memory_equal(C[i], C[0], (size_t)(GM * GN) * sizeof *A);
    }
    for (int i = 0; i < RUNS; i++)
        free(C[i]);
    free(A), free(B);
}

static void bias_gradient_is_the_column_sum_in_row_order(void **state)
{
    EACH_ISA(x) for (int64_t N = 1; N < 200; N += 33)
    {
        const int64_t M = 50;
        float *dY = random_floats(M * N, 1), *db = poisoned(N), *want = calloc(200, sizeof *want);
        for (int64_t k = 0; k < M * N; k++)
            want[k % N] += dY[k];
        assert_ok(ops->bias_grad(x, M, N, dY, 0, db));
        assert_memory_equal(db, want, (size_t)N * sizeof *db);
        for (int64_t j = 0; j < N; j++) {
            db[j] *= 3;
            want[j] = db[j] + want[j]; /* not what adding row by row to db would give */
        }
        assert_ok(ops->bias_grad(x, M, N, dY, 1, db));
        assert_memory_equal(db, want, (size_t)N * sizeof *db);
        free(dY), free(db), free(want);
    }
}

static void activations_equal_float64_and_their_gradients_finite_differences(void **state)
{
    enum { N = 1003 };
    EACH_ISA(x) for (int a = EBB_ACT_NONE; a <= EBB_ACT_SIGMOID; a++)
    {
        ebb_act_t act = (ebb_act_t)a;
        float *in = random_floats(N, 6), *out = poisoned(N), *dout = random_floats(N, 1), *din = poisoned(N);
        double want[N], slope[N];
        for (int i = 0; i < N; i++) {
            double v = (double)in[i], h = 1e-5;
            want[i] = act_reference(act, v);
            slope[i] = (double)dout[i] * (act_reference(act, v + h) - act_reference(act, v - h)) / (2 * h);
        }
        assert_ok(ops->act_forward(x, act, N, in, out));
        assert_near("out", N, out, want, 0.5, 3e-7);
        assert_ok(ops->act_backward(x, act, N, act == EBB_ACT_GELU ? in : NULL, out, dout, din));
        assert_near("din", N, din, slope, 1, 1e-6);
        /* in place: the same bits */
        assert_ok(ops->act_backward(x, act, N, in, out, dout, dout));
        assert_memory_equal(dout, din, N * sizeof *din);
        assert_ok(ops->act_forward(x, act, N, in, in));
        assert_memory_equal(in, out, N * sizeof *in);
        free(in), free(out), free(dout), free(din);
    }
}

static void backward_without_what_it_needs_is_refused(void **state)
{
    ebb_exec_t *x = exec_of(0);
    float v[1] = {0};
    assert_fails(ops->act_backward(x, EBB_ACT_GELU, 1, NULL, v, v, v), EBB_EINVAL, "input");
    assert_fails(ops->act_backward(x, EBB_ACT_TANH, 1, v, NULL, v, v), EBB_EINVAL, "output");
    ops->exec_destroy(x);
}

static double layernorm_reference(int64_t N, const double *row, const float *gamma, const float *beta, double eps,
                                  const float *dout, double *out)
{
    double mean = 0, var = 0, sum = 0;
    for (int64_t j = 0; j < N; j++)
        mean += row[j] / (double)N;
    for (int64_t j = 0; j < N; j++)
        var += (row[j] - mean) * (row[j] - mean) / (double)N;
    for (int64_t j = 0; j < N; j++) {
        double y = (row[j] - mean) / sqrt(var + eps) * (double)gamma[j] + (double)beta[j];
        sum += y * (double)dout[j];
        if (out)
            out[j] = y;
    }
    return sum;
}

static void layernorm_equals_float64_and_its_gradients_finite_differences(void **state)
{
    static const int64_t widths[] = {1, 2, 15, 16, 17, 50};
    EACH_ISA(x) for (int i = 0; i < 6; i++)
    {
        int64_t M = 7, N = widths[i];
        float *in = random_floats(M * N, 3), *gamma = random_floats(N, 2), *beta = random_floats(N, 2), eps = 1e-2f;
        float *out = poisoned(M * N), *mean = poisoned(M), *rstd = poisoned(M), *dout = random_floats(M * N, 1);
        float *din = poisoned(M * N), *dgamma = poisoned(N), *dbeta = poisoned(N);
        double *want = malloc((size_t)(M * N) * 8), *slope = malloc((size_t)(M * N) * 8), row[50];
        double *wg = calloc((size_t)N, 8), *wb = calloc((size_t)N, 8);
        for (int64_t r = 0; r < M; r++) {
            for (int64_t j = 0; j < N; j++)
                row[j] = (double)in[r * N + j];
            layernorm_reference(N, row, gamma, beta, (double)eps, dout + r * N, want + r * N);
            for (int64_t j = 0; j < N; j++) {
                double h = 1e-5, old = row[j];
                row[j] = old + h;
                double up = layernorm_reference(N, row, gamma, beta, (double)eps, dout + r * N, NULL);
                row[j] = old - h;
                slope[r * N + j] =
                    (up - layernorm_reference(N, row, gamma, beta, (double)eps, dout + r * N, NULL)) / (2 * h);
                row[j] = old;
                wb[j] += (double)dout[r * N + j];
                wg[j] += (double)dout[r * N + j] * (want[r * N + j] - (double)beta[j]) / (double)gamma[j];
            }
        }
        assert_ok(ops->layernorm_forward(x, M, N, in, gamma, beta, eps, out, mean, rstd));
        assert_near("out", M * N, out, want, 1, 2e-6);
        assert_ok(ops->layernorm_backward(x, M, N, in, gamma, mean, rstd, dout, din, 0, dgamma, dbeta));
        assert_near("din", M * N, din, slope, 10, 2e-6);
        assert_near("dgamma", N, dgamma, wg, 10, 2e-6);
        assert_near("dbeta", N, dbeta, wb, 10, 2e-6);
        assert_ok(ops->layernorm_backward(x, M, N, in, gamma, mean, rstd, dout, din, 1, dgamma, dbeta));
        for (int64_t j = 0; j < N; j++)
            wg[j] *= 2, wb[j] *= 2;
        assert_near("2 dgamma", N, dgamma, wg, 10, 2e-6);
        assert_near("2 dbeta", N, dbeta, wb, 10, 2e-6);
        free(in), free(gamma), free(beta), free(out), free(mean), free(rstd), free(dout), free(din), free(dgamma);
        free(dbeta), free(want), free(slope), free(wg), free(wb);
    }
}

static void dropout_keeps_by_counter_and_scales(void **state)
{
    enum { N = 5000 };
    uint64_t key[2] = {0x123456789abcdefu, 42};
    EACH_ISA(x)
    {
        float *in = random_floats(N, 1), *out = poisoned(N), *part = poisoned(N);
        int64_t kept = 0;
        assert_ok(ops->dropout(x, N, 0.3f, key, 0, in, out));
        for (int64_t i = 0; i < N; i++) {
            uint32_t word[4], k[2] = {(uint32_t)key[0], (uint32_t)(key[0] >> 32)};
            ebb_philox(k, (uint32_t[]){(uint32_t)(i / 4), 0, (uint32_t)key[1], 0}, word);
            bool keep = (float)(word[i % 4] >> 8) * 0x1p-24f >= 0.3f;
            assert_true(out[i] == (keep ? in[i] * (1.0f / (1.0f - 0.3f)) : 0.0f));
            kept += keep;
        }
        assert_true(kept > 0.67 * N && kept < 0.73 * N);
        for (int64_t at = 0, n; at < N; at += n) { /* in pieces of any length */
            n = 1 + below(300);
            n = n < N - at ? n : N - at;
            assert_ok(ops->dropout(x, n, 0.3f, key, (uint64_t)at, in + at, part + at));
        }
        assert_memory_equal(part, out, N * sizeof *out);
        assert_ok(ops->dropout(x, N, 0.3f, key, 0, in, in));
        assert_memory_equal(in, out, N * sizeof *out);
        assert_fails(ops->dropout(x, N, 1.0f, key, 0, in, out), EBB_EINVAL, "below 1");
        free(in), free(out), free(part);
    }
}

static void sums_of_squares_are_per_segment_in_eight_interleaved_parts(void **state)
{
    enum { N = 1000, SEGMENT = 333 };
    EACH_ISA(x)
    {
        float *a = random_floats(N, 100), *b = random_floats(N, 1), *c = poisoned(N);
        double got[4];
        assert_ok(ops->sumsq(x, N, SEGMENT, a, got));
        for (int s = 0; s < 4; s++) {
            double p[8] = {0};
            for (int i = s * SEGMENT; i < N && i < (s + 1) * SEGMENT; i++)
                p[(i - s * SEGMENT) % 8] += (double)a[i] * (double)a[i];
            assert_true(got[s] == ((p[0] + p[1]) + (p[2] + p[3])) + ((p[4] + p[5]) + (p[6] + p[7])));
        }
        assert_ok(ops->add(x, N, a, b, c));
        for (int i = 0; i < N; i++)
            assert_true(c[i] == a[i] + b[i]);
        assert_ok(ops->add(x, N, a, b, a));
        assert_memory_equal(a, c, N * sizeof *a);
        assert_fails(ops->sumsq(x, N, 0, a, got), EBB_EINVAL, "segments");
        free(a), free(b), free(c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gemm_equals_float64_for_all_transposes_shapes_and_epilogues),
        cmocka_unit_test(gemm_refuses_leading_dimensions_that_are_too_small),
        cmocka_unit_test(gemm_gives_the_same_bits_at_any_alignment_context_and_thread),
        cmocka_unit_test(bias_gradient_is_the_column_sum_in_row_order),
        cmocka_unit_test(activations_equal_float64_and_their_gradients_finite_differences),
        cmocka_unit_test(backward_without_what_it_needs_is_refused),
        cmocka_unit_test(layernorm_equals_float64_and_its_gradients_finite_differences),
        cmocka_unit_test(dropout_keeps_by_counter_and_scales),
        cmocka_unit_test(sums_of_squares_are_per_segment_in_eight_interleaved_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
