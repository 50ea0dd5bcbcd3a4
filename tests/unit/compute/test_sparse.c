/* Sparse products and their gradients against float64, for every instruction set; row-sparse against dense in bits. */
#include "compute_test.h"

static const int64_t widths[] = {1, 2, 3, 8, 9, 16, 17, 60, 64, 65, 100, 128, 200, 256, 300};
enum { WIDTHS = sizeof widths / sizeof *widths };

static double dense_product(const ebb_csr_t *X, int64_t r, const float *W, int64_t ldw, int64_t h)
{
    double sum = 0;
    for (int64_t j = X->rowptr[r]; j < X->rowptr[r + 1]; j++)
        sum += (double)X->val[j] * (double)W[X->col[j] * ldw + h];
    return sum;
}

static void product_equals_float64_with_and_without_bias_and_activation(void **state)
{
    EACH_ISA(x) for (int i = 0; i < WIDTHS; i++)
    {
        int64_t rows = 11, cols = 97, H = widths[i], ldw = H + i % 3;
        sparse_t s = random_sparse(rows, cols, 40);
        float *W = random_floats(cols * ldw - (ldw - H), 1), *bias = i % 2 ? random_floats(H, 1) : NULL;
        float *Y = poisoned(rows * H);
        double *want = malloc((size_t)(rows * H) * sizeof *want);
        ebb_act_t act = i % 3 == 2 ? EBB_ACT_RELU : EBB_ACT_NONE;
        for (int64_t k = 0; k < rows * H; k++) {
            want[k] = dense_product(&s.X, k / H, W, ldw, k % H) + (bias ? (double)bias[k % H] : 0.0);
            want[k] = act == EBB_ACT_RELU && want[k] < 0 ? 0 : want[k];
        }
        assert_ok(ops->csr_gemm(x, &s.X, H, W, ldw, bias, act, Y));
        assert_near("Y", rows * H, Y, want, 10, 1e-6);
        free(W), free(bias), free(Y), free(want);
        free_sparse(&s);
    }
}

/* What row-sparse and dense gradients must agree in: bits, columns, bitmap. */
static void check_rows_against_dense(const ebb_rows_t *rows, const float *G, const uint64_t *touched, int64_t cols)
{
    int64_t k = 0;
    for (int64_t c = 0; c < cols; c++) {
        bool met = touched[c / 64] >> (c % 64) & 1;
        if (!met)
            continue;
        assert_true(k < rows->n);
        assert_int_equal(rows->idx[k], c);
        assert_memory_equal(rows->val + k * rows->width, G + c * rows->width, (size_t)rows->width * sizeof *G);
        k++;
    }
    assert_int_equal(k, rows->n);
}

static void gradient_equals_float64_and_rows_equal_dense_bit_for_bit(void **state)
{
    EACH_ISA(x) for (int i = 0; i < WIDTHS; i++)
    {
        int64_t rows = 23, cols = i % 2 ? 97 : 70000, H = widths[i];
        sparse_t s = random_sparse(rows, cols, 40);
        float *dY = random_floats(rows * H, 1), *G = calloc((size_t)(cols * H), sizeof *G);
        double *want = calloc((size_t)(cols * H), sizeof *want);
        uint64_t *touched = calloc((size_t)(cols + 63) / 64, 8);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t j = s.rowptr[r]; j < s.rowptr[r + 1]; j++)
                for (int64_t h = 0; h < H; h++)
                    want[s.col[j] * H + h] += (double)s.val[j] * (double)dY[r * H + h];
        ebb_rows_t out;
        assert_ok(ops->csr_grad_dense(x, &s.X, H, dY, G, touched));
        assert_near("G", cols * H, G, want, 10, 1e-6);
        assert_ok(ops->csr_grad(x, i % 8, &s.X, H, dY, &out));
        check_rows_against_dense(&out, G, touched, cols);
        /* added into what is there */
        assert_ok(ops->csr_grad_dense(x, &s.X, H, dY, G, touched));
        for (int64_t k = 0; k < cols * H; k++)
            want[k] *= 2;
        assert_near("2 G", cols * H, G, want, 10, 1e-6);
        free(dY), free(G), free(want), free(touched);
        free_sparse(&s);
    }
}

static void terms_summed_later_and_in_any_parts_equal_the_gradient_bit_for_bit(void **state)
{
    EACH_ISA(x) for (int i = 0; i < WIDTHS; i++)
    {
        int64_t rows = 23, H = widths[i];
        sparse_t s = random_sparse(rows, i % 2 ? 97 : 70000, 40);
        float *dY = random_floats(rows * H, 1);
        ebb_csr_t later = {
            .rows = rows - 9, .cols = s.X.cols, .rowptr = s.X.rowptr + 9, .col = s.X.col, .val = s.X.val};
        ebb_terms_t terms = {0};
        ebb_rows_t want;
        for (int k = 0; k < 2; k++) { /* the second time in the arrays of the first */
            const ebb_csr_t *X = k == 0 ? &s.X : &later;
            assert_ok(ops->csr_grad(x, 0, X, H, dY, &want));
            float *mine = copied(dY, rows * H);
            assert_ok(ops->csr_terms(x, X, H, mine, &terms));
            memset(mine, 0xff, (size_t)(rows * H) * sizeof *mine); /* the terms keep their own */
            assert_int_equal(terms.n, want.n);
            assert_int_equal(terms.width, H);
            assert_memory_equal(terms.idx, want.idx, (size_t)want.n * sizeof *want.idx);
            float *val = poisoned(want.n * H);
            for (int64_t at = 0, part = 1; at < want.n; at += part, part = at % 3 + 1)
                assert_ok(ops->terms_sum(x, &terms, at, want.n - at < part ? want.n - at : part, val + at * H));
            assert_memory_equal(val, want.val, (size_t)(want.n * H) * sizeof *val);
            free(val), free(mine);
        }
        assert_fails(ops->terms_sum(x, &terms, terms.n, 1, dY), EBB_EINVAL, "of a gradient of");
        ops->terms_free(NULL, &terms);
        free(dY);
        free_sparse(&s);
    }
}

static void terms_of_nothing_are_nothing_and_nothing_allocates_after_warm_up(void **state)
{
    int64_t rowptr[] = {7, 7, 7};
    ebb_csr_t none = {0, 10, rowptr, NULL, NULL, 0}, empty = {2, 10, rowptr, NULL, NULL, 0};
    ebb_exec_t *x = exec_of(0);
    sparse_t s = random_sparse(20, 500, 30);
    float *dY = random_floats(20 * 64, 1);
    ebb_terms_t terms = {0};
    assert_ok(ops->csr_terms(x, &none, 64, dY, &terms));
    assert_int_equal(terms.n, 0);
    assert_ok(ops->csr_terms(x, &s.X, 64, dY, &terms));
    int64_t before = ebb_alloc_count();
    assert_ok(ops->csr_terms(x, &empty, 64, dY, &terms));
    assert_int_equal(terms.n, 0);
    assert_ok(ops->csr_terms(x, &s.X, 64, dY, &terms));
    assert_int_equal(ebb_alloc_count(), before);
    ops->terms_free(NULL, &terms);
    ops->exec_destroy(x);
    free(dY);
    free_sparse(&s);
}

static void terms_without_memory_are_refused_and_can_be_made_again(void **state)
{
    sparse_t s = random_sparse(20, 500, 30);
    float *dY = random_floats(20 * 16, 1);
    for (int64_t n = 0, failed = 1; failed; n++) {
        ebb_exec_t *x = exec_of(0);
        ebb_terms_t terms = {0};
        ebb_alloc_fail_after(n);
        failed = ops->csr_terms(x, &s.X, 16, dY, &terms) != EBB_OK;
        ebb_alloc_fail_after(-1);
        if (failed) {
            ebb_error_clear();
            assert_int_equal(terms.n, 0);
            assert_ok(ops->csr_terms(x, &s.X, 16, dY, &terms));
        } else {
            assert_true(n >= 8);
        }
        assert_true(terms.n > 0);
        ops->terms_free(NULL, &terms);
        ops->exec_destroy(x);
    }
    free(dY);
    free_sparse(&s);
}

static void a_touched_column_whose_sum_is_zero_stays(void **state)
{
    int64_t rowptr[] = {0, 1, 2};
    int32_t col[] = {5, 5};
    float val[] = {1, -1}, dY[] = {3, 3};
    ebb_csr_t X = {2, 10, rowptr, col, val, 2};
    EACH_ISA(x)
    {
        ebb_rows_t out;
        assert_ok(ops->csr_grad(x, 0, &X, 1, dY, &out));
        assert_int_equal(out.n, 1);
        assert_int_equal(out.idx[0], 5);
        assert_true(out.val[0] == 0.0f);
    }
}

static void empty_inputs_give_empty_gradients_and_bias_rows(void **state)
{
    int64_t rowptr[] = {7, 7, 7};
    ebb_csr_t none = {0, 10, rowptr, NULL, NULL, 0}, empty = {2, 10, rowptr, NULL, NULL, 0};
    float W[20] = {0}, bias[2] = {1, 2}, Y[4], dY[4] = {0};
    EACH_ISA(x)
    {
        ebb_rows_t out;
        assert_ok(ops->csr_grad(x, 0, &none, 2, dY, &out));
        assert_int_equal(out.n, 0);
        assert_ok(ops->csr_grad(x, 0, &empty, 2, dY, &out));
        assert_int_equal(out.n, 0);
        assert_ok(ops->csr_gemm(x, &none, 2, W, 2, bias, EBB_ACT_NONE, Y));
        assert_ok(ops->csr_gemm(x, &empty, 2, W, 2, bias, EBB_ACT_NONE, Y));
        assert_true(Y[0] == 1 && Y[1] == 2 && Y[2] == 1 && Y[3] == 2);
    }
}

static void slots_keep_their_gradients_apart_and_nothing_allocates_after_warm_up(void **state)
{
    ebb_exec_t *x = exec_of(0);
    sparse_t s = random_sparse(20, 500, 30), t = random_sparse(20, 300, 20);
    float *dY = random_floats(20 * 64, 1);
    ebb_rows_t a, b, c;
    assert_ok(ops->csr_grad(x, 0, &s.X, 64, dY, &a));
    float *kept = copied(a.val, a.n * 64);
    assert_ok(ops->csr_grad(x, 1, &t.X, 64, dY, &b));
    assert_memory_equal(a.val, kept, (size_t)(a.n * 64) * sizeof *kept);
    int64_t before = ebb_alloc_count();
    assert_ok(ops->csr_grad(x, 0, &s.X, 64, dY, &c));
    assert_ok(ops->csr_grad(x, 1, &t.X, 64, dY, &b));
    assert_int_equal(ebb_alloc_count(), before);
    assert_memory_equal(c.val, kept, (size_t)(c.n * 64) * sizeof *kept);
    assert_fails(ops->csr_grad(x, 8, &s.X, 64, dY, &c), EBB_EINVAL, "slot 8");
    free(dY), free(kept);
    free_sparse(&s), free_sparse(&t);
    ops->exec_destroy(x);
}

static void every_failed_allocation_is_reported_and_the_next_call_works(void **state)
{
    sparse_t s = random_sparse(20, 500, 30);
    float *dY = random_floats(20 * 16, 1);
    ebb_rows_t out;
    int failures = 0;
    for (int64_t n = 0;; n++) {
        ebb_exec_t *x = exec_of(0);
        ebb_alloc_fail_after(n);
        ebb_status_t status = ops->csr_grad(x, 0, &s.X, 16, dY, &out);
        ebb_alloc_fail_after(-1);
        if (status != EBB_OK) {
            assert_int_equal(status, EBB_ENOMEM);
            ebb_error_clear();
            failures++;
            assert_ok(ops->csr_grad(x, 0, &s.X, 16, dY, &out));
        }
        ops->exec_destroy(x);
        if (status == EBB_OK)
            break;
    }
    assert_true(failures >= 6);
    free(dY);
    free_sparse(&s);
}

/* ---- factorization machine ---- */

static double fm_reference(const ebb_csr_t *X, int64_t r, int64_t k, const double *T, double bias)
{
    double out = bias;
    for (int64_t j = X->rowptr[r]; j < X->rowptr[r + 1]; j++)
        out += (double)X->val[j] * T[X->col[j] * (1 + k)];
    for (int64_t f = 1; f <= k; f++) {
        double s = 0, q = 0;
        for (int64_t j = X->rowptr[r]; j < X->rowptr[r + 1]; j++) {
            double t = (double)X->val[j] * T[X->col[j] * (1 + k) + f];
            s += t;
            q += t * t;
        }
        out += 0.5 * (s * s - q);
    }
    return out;
}

static void fm_equals_float64_and_its_gradient_equals_finite_differences(void **state)
{
    static const int64_t factors[] = {1, 4, 8, 15, 16, 17, 40};
    EACH_ISA(x) for (int i = 0; i < 7; i++)
    {
        int64_t rows = 9, cols = 31, k = factors[i], ld = 1 + k;
        sparse_t s = random_sparse(rows, cols, 12);
        float *T = random_floats(cols * ld, 1), bias = 0.25f, *out = poisoned(rows), *sums = poisoned(rows * k);
        float *dout = random_floats(rows, 1), *G = calloc((size_t)(cols * ld), sizeof *G);
        double *D = malloc((size_t)(cols * ld) * sizeof *D), *want = malloc((size_t)(cols * ld) * sizeof *want);
        uint64_t touched[1] = {0};
        for (int64_t c = 0; c < cols * ld; c++)
            D[c] = (double)T[c];
        assert_ok(ops->fm_forward(x, &s.X, k, T, &bias, out, sums));
        for (int64_t r = 0; r < rows; r++) {
            double y = fm_reference(&s.X, r, k, D, 0.25);
            assert_near("out", 1, out + r, &y, 100, 1e-6);
        }
        for (int64_t c = 0; c < cols * ld; c++) { /* quadratic in each weight: central differences are exact */
            want[c] = 0;
            for (int64_t r = 0; r < rows; r++) {
                double h = 0.5, old = D[c];
                D[c] = old + h;
                double up = fm_reference(&s.X, r, k, D, 0);
                D[c] = old - h;
                want[c] += (double)dout[r] * (up - fm_reference(&s.X, r, k, D, 0)) / (2 * h);
                D[c] = old;
            }
        }
        ebb_rows_t grad;
        assert_ok(ops->fm_grad_dense(x, &s.X, k, T, sums, dout, G, touched));
        assert_near("G", cols * ld, G, want, 10, 2e-6);
        assert_ok(ops->fm_grad(x, 3, &s.X, k, T, sums, dout, &grad));
        check_rows_against_dense(&grad, G, touched, cols);
        free(T), free(out), free(sums), free(dout), free(G), free(D), free(want);
        free_sparse(&s);
    }
}

/* ---- embedding ---- */

static void embedding_sums_each_field_and_its_gradient_is_the_transpose(void **state)
{
    static const int32_t begin[] = {2, 10, 11, 40, 64}; /* columns 0, 1 and 64.. are in no field */
    enum { FIELDS = 4, COLS = 70, ROWS = 13 };
    static const int64_t dims[] = {1, 3, 8, 16, 20, 64};
    EACH_ISA(x) for (int i = 0; i < 6; i++)
    {
        int64_t dim = dims[i], wide = FIELDS * dim;
        sparse_t s = random_sparse(ROWS, COLS, 30);
        float *T = random_floats(COLS * dim, 1), *Y = poisoned(ROWS * wide), *dY = random_floats(ROWS * wide, 1);
        float *G = calloc((size_t)(COLS * dim), sizeof *G);
        double *want = calloc((size_t)(ROWS * wide), sizeof *want),
               *slope = calloc((size_t)(COLS * dim), sizeof *slope);
        uint64_t touched[2] = {0}, met[2] = {0};
        for (int64_t r = 0; r < ROWS; r++)
            for (int64_t j = s.rowptr[r]; j < s.rowptr[r + 1]; j++)
                for (int f = 0; f < FIELDS; f++) {
                    int32_t c = s.col[j];
                    if (c < begin[f] || c >= begin[f + 1])
                        continue;
                    met[c / 64] |= (uint64_t)1 << (c % 64);
                    for (int64_t d = 0; d < dim; d++) {
                        want[r * wide + f * dim + d] += (double)s.val[j] * (double)T[c * dim + d];
                        slope[c * dim + d] += (double)s.val[j] * (double)dY[r * wide + f * dim + d];
                    }
                }
        ebb_rows_t grad;
        assert_ok(ops->embed_forward(x, &s.X, FIELDS, begin, dim, T, Y));
        assert_near("Y", ROWS * wide, Y, want, 10, 1e-6);
        assert_ok(ops->embed_grad_dense(x, &s.X, FIELDS, begin, dim, dY, G, touched));
        assert_near("G", COLS * dim, G, slope, 10, 1e-6);
        assert_memory_equal(touched, met, sizeof met);
        assert_ok(ops->embed_grad(x, 0, &s.X, FIELDS, begin, dim, dY, &grad));
        check_rows_against_dense(&grad, G, touched, COLS);
        free(T), free(Y), free(dY), free(G), free(want), free(slope);
        free_sparse(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(product_equals_float64_with_and_without_bias_and_activation),
        cmocka_unit_test(gradient_equals_float64_and_rows_equal_dense_bit_for_bit),
        cmocka_unit_test(terms_summed_later_and_in_any_parts_equal_the_gradient_bit_for_bit),
        cmocka_unit_test(terms_of_nothing_are_nothing_and_nothing_allocates_after_warm_up),
        cmocka_unit_test(terms_without_memory_are_refused_and_can_be_made_again),
        cmocka_unit_test(a_touched_column_whose_sum_is_zero_stays),
        cmocka_unit_test(empty_inputs_give_empty_gradients_and_bias_rows),
        cmocka_unit_test(slots_keep_their_gradients_apart_and_nothing_allocates_after_warm_up),
        cmocka_unit_test(every_failed_allocation_is_reported_and_the_next_call_works),
        cmocka_unit_test(fm_equals_float64_and_its_gradient_equals_finite_differences),
        cmocka_unit_test(embedding_sums_each_field_and_its_gradient_is_the_transpose),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
