/* Losses and links against float64 formulas and finite differences, also at extreme outputs. */
#include "compute_test.h"

enum { ROWS = 70, WIDEST = 70 };

static double loss_reference(ebb_loss_kind_t kind, double delta, int64_t width, const double *o, int64_t label,
                             const double *y)
{
    double sum = 0;
    if (kind == EBB_LOSS_SOFTMAX_CE) {
        for (int64_t j = 0; j < width; j++)
            if (j != label)
                sum += exp(o[j] - o[label]);
        return log1p(sum);
    }
    for (int64_t j = 0; j < width; j++) {
        double d = o[j] - y[j];
        switch (kind) {
        case EBB_LOSS_BINARY_CE:
            sum += y[j] * log1p(exp(-o[j])) + (1 - y[j]) * (o[j] + log1p(exp(-o[j])));
            break;
        case EBB_LOSS_SQUARED:
            sum += 0.5 * d * d;
            break;
        case EBB_LOSS_HUBER:
            sum += fabs(d) <= delta ? 0.5 * d * d : delta * (fabs(d) - 0.5 * delta);
            break;
        case EBB_LOSS_POISSON:
            sum += exp(o[j]) - y[j] * o[j];
            break;
        default:
            break;
        }
    }
    return sum;
}

typedef struct problem {
    ebb_loss_kind_t kind;
    int64_t width;
    bool labels; /* class numbers, not reals */
    float *out, *y, *weight, class_weight[WIDEST];
    int32_t label[ROWS];
} problem_t;

static problem_t random_problem(ebb_loss_kind_t kind, int64_t width, bool labels)
{
    problem_t p = {.kind = kind, .width = width, .labels = labels};
    p.out = random_floats(ROWS * width, 4);
    p.y = random_floats(ROWS * width, 3);
    p.weight = random_floats(ROWS, 1);
    for (int64_t i = 0; i < ROWS * width && (kind == EBB_LOSS_BINARY_CE || kind == EBB_LOSS_POISSON); i++)
        p.y[i] = kind == EBB_LOSS_POISSON ? (float)below(9) : i % 3 ? (float)(i % 2) : fabsf(p.y[i]) / 3;
    for (int64_t r = 0; r < ROWS; r++) {
        p.weight[r] = r % 7 ? fabsf(p.weight[r]) : 0;
        p.label[r] = (int32_t)below(kind == EBB_LOSS_SOFTMAX_CE ? width : 2);
    }
    for (int64_t c = 0; c < WIDEST; c++)
        p.class_weight[c] = uniform(0.5f, 2);
    return p;
}

static void check_row(const problem_t *p, int64_t r, double row_loss, double row_weight, const float *dout)
{
    double o[WIDEST], y[WIDEST], w = (double)p->weight[r];
    if (p->labels)
        w *= (double)p->class_weight[p->label[r]];
    for (int64_t j = 0; j < p->width; j++) {
        o[j] = (double)p->out[r * p->width + j];
        y[j] = p->labels ? p->label[r] : (double)p->y[r * p->width + j];
    }
    double want = w * loss_reference(p->kind, 1.5, p->width, o, p->label[r], y);
    assert_true(row_weight == w);
    assert_true(fabs(row_loss - want) <= 1e-6 * (fabs(want) + w)); /* exp of a rounded float difference */
    for (int64_t j = 0; j < p->width; j++) {
        double h = 1e-4, old = o[j];
        o[j] = old + h;
        double up = loss_reference(p->kind, 1.5, p->width, o, p->label[r], y);
        o[j] = old - h;
        double slope = w * (up - loss_reference(p->kind, 1.5, p->width, o, p->label[r], y)) / (2 * h);
        assert_near("dout", 1, dout + j, &slope, 1, 2e-6);
        o[j] = old;
    }
}

static void check_problem(ebb_loss_kind_t kind, int64_t width, bool labels)
{
    problem_t p = random_problem(kind, width, labels);
    double row_loss[ROWS], row_weight[ROWS], again[ROWS];
    EACH_ISA(x)
    {
        float *dout = poisoned(ROWS * width);
        assert_ok(ops->loss(x, kind, 1.5f, ROWS, width, p.out, labels ? p.label : NULL, labels ? NULL : p.y, p.weight,
                            p.class_weight, row_loss, row_weight, dout));
        for (int64_t r = 0; r < ROWS; r++)
            check_row(&p, r, row_loss[r], row_weight[r], dout + r * width);
        assert_ok(ops->loss(x, kind, 1.5f, ROWS, width, p.out, labels ? p.label : NULL, labels ? NULL : p.y, p.weight,
                            p.class_weight, again, row_weight, NULL));
        assert_memory_equal(again, row_loss, sizeof again);
        free(dout);
    }
    free(p.out), free(p.y), free(p.weight);
}

static void every_loss_equals_float64_and_its_gradient_finite_differences(void **state)
{
    for (int64_t width = 1; width <= WIDEST; width += width < 4 ? 1 : 11) {
        check_problem(EBB_LOSS_SOFTMAX_CE, width, true);
        check_problem(EBB_LOSS_BINARY_CE, width, false);
        check_problem(EBB_LOSS_SQUARED, width, false);
        check_problem(EBB_LOSS_HUBER, width, false);
        check_problem(EBB_LOSS_POISSON, width, false);
    }
    check_problem(EBB_LOSS_BINARY_CE, 1, true);
}

static void weights_default_to_one(void **state)
{
    float out[2] = {0, 0}, dout[2];
    int32_t label[1] = {1};
    double row_loss, row_weight;
    EACH_ISA(x)
    {
        assert_ok(
            ops->loss(x, EBB_LOSS_SOFTMAX_CE, 0, 1, 2, out, label, NULL, NULL, NULL, &row_loss, &row_weight, dout));
        assert_true(row_weight == 1.0 && fabs(row_loss - log(2)) < 1e-7 && dout[0] == 0.5f && dout[1] == -0.5f);
    }
}

static void extreme_outputs_stay_finite_and_right(void **state)
{
    float z[4] = {1000, -1000, 1000, -1000}, dout[4], wide[6] = {1e4f, 0, -1e4f, -1e4f, 0, 1e4f}, dwide[6];
    int32_t label[4] = {1, 0, 0, 1}, which[2] = {0, 0};
    double loss[4], weight[4];
    EACH_ISA(x)
    {
        assert_ok(ops->loss(x, EBB_LOSS_BINARY_CE, 0, 4, 1, z, label, NULL, NULL, NULL, loss, weight, dout));
        assert_true(loss[0] == 0 && loss[1] == 0 && loss[2] == 1000 && loss[3] == 1000);
        assert_true(dout[0] == 0 && dout[1] == 0 && dout[2] == 1 && dout[3] == -1);
        assert_ok(ops->loss(x, EBB_LOSS_SOFTMAX_CE, 0, 2, 3, wide, which, NULL, NULL, NULL, loss, weight, dwide));
        assert_true(loss[0] == 0 && loss[1] == 2e4 && dwide[0] == 0 && dwide[3] == -1 && dwide[5] == 1);
    }
}

static void a_confident_right_answer_keeps_its_small_loss(void **state)
{
    float out[2] = {20, 0}, dout[2];
    int32_t label[1] = {0};
    double loss, weight, want = log1p(exp(-20));
    EACH_ISA(x)
    {
        assert_ok(ops->loss(x, EBB_LOSS_SOFTMAX_CE, 0, 1, 2, out, label, NULL, NULL, NULL, &loss, &weight, dout));
        assert_true(fabs(loss / want - 1) < 1e-6 && fabs((double)dout[0] / -want - 1) < 1e-6);
    }
}

static void a_nan_output_gives_a_nan_loss(void **state)
{
    float out[3] = {0, NAN, 1}, dout[3];
    int32_t label[1] = {0};
    double loss, weight;
    EACH_ISA(x)
    {
        assert_ok(ops->loss(x, EBB_LOSS_SOFTMAX_CE, 0, 1, 3, out, label, NULL, NULL, NULL, &loss, &weight, dout));
        assert_true(isnan(loss));
        assert_ok(ops->loss(x, EBB_LOSS_BINARY_CE, 0, 1, 1, out + 1, label, NULL, NULL, NULL, &loss, &weight, dout));
        assert_true(isnan(loss));
    }
}

static void labels_that_are_not_classes_and_missing_targets_are_refused(void **state)
{
    float out[6] = {0}, y[6] = {0};
    int32_t high[2] = {0, 3}, negative[2] = {-1, 0};
    double loss[2], weight[2];
    ebb_exec_t *x = exec_of(0);
    assert_fails(ops->loss(x, EBB_LOSS_SOFTMAX_CE, 0, 2, 3, out, high, NULL, NULL, NULL, loss, weight, NULL), EBB_EDATA,
                 "label 3");
    assert_fails(ops->loss(x, EBB_LOSS_SOFTMAX_CE, 0, 2, 3, out, negative, NULL, NULL, NULL, loss, weight, NULL),
                 EBB_EDATA, "label -1");
    assert_fails(ops->loss(x, EBB_LOSS_BINARY_CE, 0, 2, 1, out, high, NULL, NULL, NULL, loss, weight, NULL), EBB_EDATA,
                 "row 1");
    assert_fails(ops->loss(x, EBB_LOSS_SOFTMAX_CE, 0, 2, 3, out, NULL, y, NULL, NULL, loss, weight, NULL), EBB_EINVAL,
                 "labels");
    assert_fails(ops->loss(x, EBB_LOSS_SQUARED, 0, 2, 3, out, high, NULL, NULL, NULL, loss, weight, NULL), EBB_EINVAL,
                 "targets");
    ops->exec_destroy(x);
}

static void links_equal_float64(void **state)
{
    for (int kind = EBB_LOSS_SOFTMAX_CE; kind <= EBB_LOSS_POISSON; kind++)
        for (int64_t width = 1; width < 40; width += 19)
            EACH_ISA(x)
            {
                float *out = random_floats(ROWS * width, 5), *pred = poisoned(ROWS * width);
                assert_ok(ops->link(x, (ebb_loss_kind_t)kind, ROWS, width, out, pred));
                for (int64_t i = 0; i < ROWS * width; i++) {
                    double o = (double)out[i], sum = 0, want = o;
                    for (int64_t j = i / width * width; j < (i / width + 1) * width; j++)
                        sum += exp((double)out[j]);
                    if (kind == EBB_LOSS_SOFTMAX_CE)
                        want = exp(o) / sum;
                    else if (kind == EBB_LOSS_BINARY_CE)
                        want = 1 / (1 + exp(-o));
                    else if (kind == EBB_LOSS_POISSON)
                        want = exp(o);
                    assert_near("pred", 1, pred + i, &want, 0, 1e-6); /* as above */
                }
                assert_ok(ops->link(x, (ebb_loss_kind_t)kind, ROWS, width, out, out));
                assert_memory_equal(out, pred, (size_t)(ROWS * width) * sizeof *out);
                free(out), free(pred);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_loss_equals_float64_and_its_gradient_finite_differences),
        cmocka_unit_test(weights_default_to_one),
        cmocka_unit_test(extreme_outputs_stay_finite_and_right),
        cmocka_unit_test(a_confident_right_answer_keeps_its_small_loss),
        cmocka_unit_test(a_nan_output_gives_a_nan_loss),
        cmocka_unit_test(labels_that_are_not_classes_and_missing_targets_are_refused),
        cmocka_unit_test(links_equal_float64),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
