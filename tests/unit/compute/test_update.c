/* Update rules against plain float64 over many steps; rows against slices in bits. */
#include "compute_test.h"

enum { N = 83, STEPS = 50 };

typedef struct trial {
    const char *name;
    ebb_optim_hyper_t h;
} trial_t;

static const trial_t trials[] = {
    {"sgd", {.kind = EBB_OPTIM_SGD, .lr = 0.1f}},
    {"sgd l2", {.kind = EBB_OPTIM_SGD, .lr = 0.1f, .l2 = 0.05f}},
    {"sgd l1", {.kind = EBB_OPTIM_SGD, .lr = 0.05f, .l1 = 0.3f}},
    {"sgd momentum", {.kind = EBB_OPTIM_SGD, .lr = 0.02f, .momentum = 0.9f, .l2 = 0.01f}},
    {"sgd nesterov", {.kind = EBB_OPTIM_SGD, .lr = 0.02f, .momentum = 0.9f, .nesterov = true}},
    {"adagrad", {.kind = EBB_OPTIM_ADAGRAD, .lr = 0.1f, .eps = 1e-6f, .l2 = 0.02f}},
    {"adagrad l1", {.kind = EBB_OPTIM_ADAGRAD, .lr = 0.1f, .eps = 1e-6f, .l1 = 0.2f}},
    {"adam", {.kind = EBB_OPTIM_ADAM, .lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f}},
    {"adam l1 l2",
     {.kind = EBB_OPTIM_ADAM, .lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-3f, .l1 = 0.5f, .l2 = 0.1f}},
    {"adamw", {.kind = EBB_OPTIM_ADAMW, .lr = 0.01f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-3f, .l2 = 0.1f}},
    {"ftrl", {.kind = EBB_OPTIM_FTRL, .lr = 0.1f, .beta1 = 1.0f, .l1 = 0.3f, .l2 = 0.2f}},
    {"ftrl plain", {.kind = EBB_OPTIM_FTRL, .lr = 0.1f, .beta1 = 0.5f}},
};
enum { TRIALS = sizeof trials / sizeof *trials };

static double soft(double w, double threshold)
{
    return fabs(w) <= threshold ? 0 : w > 0 ? w - threshold : w + threshold;
}

/* One weight, straight from the papers. */
static void reference_step(const ebb_optim_hyper_t *h, double sum, double *w, double *s0, double *s1)
{
    double lr = (double)h->lr, l1 = (double)h->l1, l2 = (double)h->l2, b1 = (double)h->beta1, b2 = (double)h->beta2;
    double eps = (double)h->eps, mu = (double)h->momentum, g = sum * (double)h->scale;
    if (h->kind != EBB_OPTIM_ADAMW && h->kind != EBB_OPTIM_FTRL)
        g += l2 * *w;
    switch (h->kind) {
    case EBB_OPTIM_SGD:
        *s0 = mu * *s0 + g;
        *w = soft(*w - lr * (h->nesterov ? g + mu * *s0 : *s0), lr * l1);
        break;
    case EBB_OPTIM_ADAGRAD: {
        *s0 += g * g;
        double rate = lr / (sqrt(*s0) + eps);
        *w = soft(*w - rate * g, rate * l1);
        break;
    }
    case EBB_OPTIM_ADAM:
    case EBB_OPTIM_ADAMW: {
        *s0 = b1 * *s0 + (1 - b1) * g;
        *s1 = b2 * *s1 + (1 - b2) * g * g;
        double m = *s0 / (1 - pow(b1, (double)h->t)), v = *s1 / (1 - pow(b2, (double)h->t));
        if (h->kind == EBB_OPTIM_ADAMW)
            *w -= lr * l2 * *w;
        *w = soft(*w - lr * m / (sqrt(v) + eps), lr * l1);
        break;
    }
    case EBB_OPTIM_FTRL: {
        double sigma = (sqrt(*s1 + g * g) - sqrt(*s1)) / lr;
        *s0 += g - sigma * *w;
        *s1 += g * g;
        *w = -soft(*s0, l1) / ((b1 + sqrt(*s1)) / lr + l2);
        break;
    }
    }
}

/* Gradient sums (two samples) of a noisy quadratic: every weight is pulled towards its own target. */
static void gradient(const float *w, const float *target, float *g)
{
    for (int i = 0; i < N; i++)
        g[i] = 2 * (w[i] - target[i]) + uniform(-0.5f, 0.5f);
}

static void every_rule_follows_float64_over_fifty_steps(void **state)
{
    EACH_ISA(x) for (int k = 0; k < TRIALS; k++)
    {
        ebb_optim_hyper_t h = trials[k].h;
        bool ftrl = h.kind == EBB_OPTIM_FTRL;
        float *w = random_floats(N, ftrl ? 0 : 1), *target = random_floats(N, 1), g[N], s0[N] = {0}, s1[N] = {0};
        double want[N], w0[N] = {0}, w1[N] = {0};
        for (int i = 0; i < N; i++)
            want[i] = (double)w[i];
        h.scale = 0.5f;
        for (h.t = 1; h.t <= STEPS; h.t++) {
            gradient(w, target, g);
            int states = ebb_optim_states(h.kind, h.momentum);
            assert_ok(ops->update(x, &h, N, w, g, states > 0 ? s0 : NULL, states > 1 ? s1 : NULL));
            for (int i = 0; i < N; i++)
                reference_step(&h, (double)g[i], want + i, w0 + i, w1 + i);
        }
        assert_near(trials[k].name, N, w, want, 1, 1e-5); /* 50 roundings of 6e-8 and their feedback */
        free(w), free(target);
    }
}

static void rows_get_the_same_bits_as_slices(void **state)
{
    enum { ROWS = 40, TABLE = 100, LOCAL = 60 };
    static const int64_t widths[] = {1, 3, 15, 16, 17, 64};
    EACH_ISA(x) for (int k = 0; k < TRIALS * 6; k++)
    {
        ebb_optim_hyper_t h = trials[k / 6].h;
        int64_t width = widths[k % 6];
        int states = ebb_optim_states(h.kind, h.momentum);
        float *w = random_floats(TABLE * width, 1), *g = random_floats(ROWS * width, 1);
        float *s0 = random_floats(LOCAL * width, 1), *s1 = random_floats(LOCAL * width, 1);
        int32_t idx_w[ROWS], idx_s[ROWS];
        for (int64_t i = 0; i < LOCAL * width; i++)
            s0[i] = fabsf(s0[i]), s1[i] = fabsf(s1[i]);
        float *ww = copied(w, TABLE * width), *t0 = copied(s0, LOCAL * width), *t1 = copied(s1, LOCAL * width);
        h.scale = 0.25f, h.t = 3;
        for (int i = 0; i < ROWS; i++) {
            idx_s[i] = i + i / 3;
            idx_w[i] = idx_s[i] + 20;
            int64_t a = idx_w[i] * width, b = idx_s[i] * width;
            assert_ok(ops->update(x, &h, width, ww + a, g + i * width, t0 + b, t1 + b));
        }
        assert_ok(
            ops->update_rows(x, &h, ROWS, width, idx_w, idx_s, w, g, states > 0 ? s0 : NULL, states > 1 ? s1 : NULL));
        assert_memory_equal(w, ww, (size_t)(TABLE * width) * sizeof *w);
        if (states > 0)
            assert_memory_equal(s0, t0, (size_t)(LOCAL * width) * sizeof *w);
        if (states > 1)
            assert_memory_equal(s1, t1, (size_t)(LOCAL * width) * sizeof *w);
        free(w), free(g), free(s0), free(s1), free(ww), free(t0), free(t1);
    }
}

static void l1_gives_true_zeros(void **state)
{
    EACH_ISA(x) for (int k = 0; k < TRIALS; k++)
    {
        ebb_optim_hyper_t h = trials[k].h;
        float w[N], g[N] = {0}, s0[N] = {0}, s1[N] = {0};
        if (h.l1 == 0.0f)
            continue;
        for (int i = 0; i < N; i++)
            w[i] = uniform(-1e-4f, 1e-4f);
        h.scale = 1, h.t = 1;
        assert_ok(ops->update(x, &h, N, w, g, s0, s1));
        for (int i = 0; i < N; i++)
            assert_true(w[i] == 0.0f);
    }
}

static void padding_without_gradient_stays_positive_zero(void **state)
{
    EACH_ISA(x) for (int k = 0; k < TRIALS; k++)
    {
        ebb_optim_hyper_t h = trials[k].h;
        float w[N] = {0}, g[N] = {0}, s0[N] = {0}, s1[N] = {0}, zero[N] = {0};
        h.eps = 0, h.scale = 1, h.beta1 = h.kind == EBB_OPTIM_FTRL ? 0 : h.beta1;
        for (h.t = 1; h.t < 4; h.t++)
            assert_ok(ops->update(x, &h, N, w, g, s0, s1));
        assert_memory_equal(w, zero, sizeof w);
        assert_memory_equal(s0, zero, sizeof w);
        assert_memory_equal(s1, zero, sizeof w);
    }
}

static void a_nan_gradient_is_not_hidden(void **state)
{
    EACH_ISA(x) for (int k = 0; k < TRIALS; k++)
    {
        ebb_optim_hyper_t h = trials[k].h;
        float w[1] = {1}, g[1] = {NAN}, s0[1] = {0}, s1[1] = {0};
        h.scale = 1, h.t = 1;
        assert_ok(ops->update(x, &h, 1, w, g, s0, s1));
        assert_true(isnan(w[0]));
    }
}

static void missing_state_is_refused(void **state)
{
    ebb_exec_t *x = exec_of(0);
    ebb_optim_hyper_t h = {.kind = EBB_OPTIM_ADAM, .t = 1};
    float v[1] = {0};
    int32_t idx[1] = {0};
    assert_fails(ops->update(x, &h, 1, v, v, v, NULL), EBB_EINVAL, "2 values per weight");
    assert_fails(ops->update_rows(x, &h, 1, 1, idx, idx, v, v, NULL, v), EBB_EINVAL, "2 values per weight");
    ops->exec_destroy(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rule_follows_float64_over_fifty_steps),
        cmocka_unit_test(rows_get_the_same_bits_as_slices),
        cmocka_unit_test(l1_gives_true_zeros),
        cmocka_unit_test(padding_without_gradient_stays_positive_zero),
        cmocka_unit_test(a_nan_gradient_is_not_hidden),
        cmocka_unit_test(missing_state_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
