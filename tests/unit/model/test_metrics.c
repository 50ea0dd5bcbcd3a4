/* Metrics against brute force, and equal words for any split of the rows. */
#include "model_data.h"

#include <math.h>
#include <pthread.h>
#include <ebb/model.h>

enum { ROWS = 600, CLASSES = 7 };

static float pred[ROWS * CLASSES], p1[ROWS], real[ROWS * 2], y[ROWS * 2];
static int32_t label[ROWS], label2[ROWS];
static double row_loss[ROWS], row_weight[ROWS];

static void make_rows(void)
{
    for (int r = 0; r < ROWS; r++) {
        double sum = 0;
        for (int c = 0; c < CLASSES; c++) {
            pred[r * CLASSES + c] = (float)exp(floor(2 * test_normal((uint64_t)r, (uint64_t)c))); /* ties */
            sum += (double)pred[r * CLASSES + c];
        }
        for (int c = 0; c < CLASSES; c++)
            pred[r * CLASSES + c] = (float)((double)pred[r * CLASSES + c] / sum);
        p1[r] = (float)(1 / (1 + exp(-floor(40 * test_normal((uint64_t)r, 20)) / 10))); /* ties */
        label[r] = (int32_t)(ebb_rng_u64(1, EBB_RNG_TEST, (uint64_t)r, 0) % CLASSES);
        label2[r] = ebb_rng_uniform(1, EBB_RNG_TEST, (uint64_t)r, 1) < p1[r];
        for (int k = 0; k < 2; k++) {
            real[r * 2 + k] = (float)test_normal((uint64_t)r, 30 + (uint64_t)k);
            y[r * 2 + k] = (float)test_normal((uint64_t)r, 32 + (uint64_t)k);
        }
        row_loss[r] = fabs(test_normal((uint64_t)r, 40));
        row_weight[r] = (double)(1 + r % 3) / 2;
    }
}

static double value(ebb_metrics_t *m, const char *name)
{
    for (int i = 0; i < ebb_metrics_count(m); i++) {
        double v;
        if (strcmp(ebb_metrics_get(m, i, &v, NULL), name) == 0)
            return v;
    }
    fail_msg("no metric %s", name);
    return 0;
}

static ebb_metrics_t *create(const char *names, ebb_loss_kind_t kind, int64_t outputs)
{
    ebb_loss_t loss = {.kind = kind, .huber_delta = 1};
    ebb_metrics_t *m;
    assert_ok(ebb_metrics_create(names, &loss, outputs, &m));
    return m;
}

#define assert_near(a, b) assert_true(fabs((a) - (b)) <= 1e-12 * (1 + fabs(b)))

static void classes_agree_with_counting(void **state)
{
    ebb_metrics_t *m = create("loss,accuracy,top_3,log_loss", EBB_LOSS_SOFTMAX_CE, CLASSES);
    assert_ok(ebb_metrics_add(m, ROWS, pred, label, NULL, row_loss, row_weight));
    double weight = 0, loss = 0, right = 0, top3 = 0, log_loss = 0;
    for (int r = 0; r < ROWS; r++) {
        const float *p = pred + r * CLASSES;
        int before = 0;
        for (int c = 0; c < CLASSES; c++)
            before += p[c] > p[label[r]] || (p[c] == p[label[r]] && c < label[r]);
        weight += row_weight[r];
        loss += row_loss[r];
        right += before == 0 ? row_weight[r] : 0;
        top3 += before < 3 ? row_weight[r] : 0;
        log_loss -= row_weight[r] * log((double)p[label[r]]);
    }
    assert_near(value(m, "loss"), loss / weight);
    assert_near(value(m, "accuracy"), right / weight);
    assert_near(value(m, "top_3"), top3 / weight);
    assert_near(value(m, "log_loss"), log_loss / weight);
    ebb_metrics_destroy(m);
}

static void auc_agrees_with_counting_pairs(void **state)
{
    ebb_metrics_t *m = create("loss,accuracy,log_loss,auc", EBB_LOSS_BINARY_CE, 1);
    assert_ok(ebb_metrics_add(m, ROWS, p1, label2, NULL, row_loss, row_weight));
    double good = 0, all = 0, right = 0, weight = 0, log_loss = 0;
    for (int a = 0; a < ROWS; a++) {
        for (int b = 0; b < ROWS; b++) {
            if (label2[a] == 1 && label2[b] == 0) {
                double w = row_weight[a] * row_weight[b];
                good += p1[a] > p1[b] ? w : p1[a] == p1[b] ? w / 2 : 0;
                all += w;
            }
        }
        weight += row_weight[a];
        right += (p1[a] > 0.5f) == label2[a] ? row_weight[a] : 0;
        log_loss -= row_weight[a] * log(label2[a] ? (double)p1[a] : 1 - (double)p1[a]);
    }
    assert_near(value(m, "auc"), good / all);
    assert_near(value(m, "accuracy"), right / weight);
    assert_near(value(m, "log_loss"), log_loss / weight);
    ebb_metrics_destroy(m);
}

static void auc_tells_scores_at_both_ends_apart(void **state)
{
    ebb_metrics_t *m = create("auc", EBB_LOSS_BINARY_CE, 1);
    float p[] = {0.0f, 1e-9f, 1.01e-9f, 0.4999f, 0.5f, 0.5001f, 0.99999f, 0.999995f, 1.0f};
    double w[] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    for (int split = 1; split < 9; split++) {
        int32_t l[9];
        for (int i = 0; i < 9; i++)
            l[i] = i >= split;
        ebb_metrics_reset(m);
        assert_ok(ebb_metrics_add(m, 9, p, l, NULL, w, w));
        assert_true(value(m, "auc") == 1.0);
        for (int i = 0; i < 9; i++)
            l[i] = i < split;
        ebb_metrics_reset(m);
        assert_ok(ebb_metrics_add(m, 9, p, l, NULL, w, w));
        assert_true(value(m, "auc") == 0.0);
    }
    ebb_metrics_destroy(m);
}

static void real_targets_agree_with_summing(void **state)
{
    ebb_metrics_t *m = create(NULL, EBB_LOSS_HUBER, 2);
    assert_ok(ebb_metrics_add(m, ROWS, real, NULL, y, row_loss, row_weight));
    double weight = 0, squares = 0, sizes = 0;
    for (int r = 0; r < ROWS; r++) {
        weight += row_weight[r];
        for (int k = 0; k < 2; k++) {
            double e = (double)real[r * 2 + k] - (double)y[r * 2 + k];
            squares += row_weight[r] * e * e / 2;
            sizes += row_weight[r] * fabs(e) / 2;
        }
    }
    assert_near(value(m, "rmse"), sqrt(squares / weight));
    assert_near(value(m, "mae"), sizes / weight);
    ebb_metrics_destroy(m);
}

/* Rows dealt to `parts` states in another order, their words added as ranks would. */
static void any_split_gives_the_same_figures(void **state)
{
    ebb_metrics_t *whole = create(NULL, EBB_LOSS_BINARY_CE, 1);
    assert_ok(ebb_metrics_add(whole, ROWS, p1, label2, NULL, row_loss, row_weight));
    for (int parts = 2; parts <= 5; parts++) {
        ebb_metrics_t *sum = create(NULL, EBB_LOSS_BINARY_CE, 1);
        int64_t n;
        int64_t *words = ebb_metrics_words(sum, &n);
        for (int k = 0; k < parts; k++) {
            ebb_metrics_t *part = create(NULL, EBB_LOSS_BINARY_CE, 1);
            for (int r = ROWS - 1 - k; r >= 0; r -= parts)
                assert_ok(ebb_metrics_add(part, 1, p1 + r, label2 + r, NULL, row_loss + r, row_weight + r));
            const int64_t *from = ebb_metrics_words(part, &n);
            for (int64_t i = 0; i < n; i++)
                words[i] += from[i];
            ebb_metrics_destroy(part);
        }
        for (int i = 0; i < ebb_metrics_count(sum); i++) {
            double a, b;
            ebb_metrics_get(sum, i, &a, NULL);
            ebb_metrics_get(whole, i, &b, NULL);
            assert_memory_equal(&a, &b, sizeof a);
        }
        ebb_metrics_destroy(sum);
    }
    ebb_metrics_destroy(whole);
}

static void *add_half(void *user)
{
    for (int r = 0; r < ROWS; r += 2)
        if (ebb_metrics_add(user, 2, p1 + r, label2 + r, NULL, row_loss + r, row_weight + r) != EBB_OK)
            return user;
    return NULL;
}

static void threads_may_add_at_once_and_give_equal_words(void **state)
{
    ebb_metrics_t *one = create(NULL, EBB_LOSS_BINARY_CE, 1), *many = create(NULL, EBB_LOSS_BINARY_CE, 1);
    pthread_t t[3];
    for (int i = 0; i < 3; i++) {
        assert_null(add_half(one));
        assert_int_equal(pthread_create(&t[i], NULL, add_half, many), 0);
    }
    for (int i = 0; i < 3; i++) {
        void *failed;
        pthread_join(t[i], &failed);
        assert_null(failed);
    }
    int64_t n;
    const int64_t *a = ebb_metrics_words(one, &n), *b = ebb_metrics_words(many, &n);
    assert_memory_equal(a, b, (size_t)n * sizeof *a);
    ebb_metrics_destroy(one);
    ebb_metrics_destroy(many);
}

static void undefined_figures_are_nan(void **state)
{
    ebb_metrics_t *m = create("loss,accuracy,log_loss,auc", EBB_LOSS_BINARY_CE, 1);
    assert_true(isnan(value(m, "accuracy")) && isnan(value(m, "auc")));
    int32_t ones[3] = {1, 1, 1};
    assert_ok(ebb_metrics_add(m, 3, p1, ones, NULL, row_loss, row_weight));
    assert_true(isnan(value(m, "auc")) && !isnan(value(m, "accuracy")));
    float nan = NAN;
    ebb_metrics_reset(m);
    assert_ok(ebb_metrics_add(m, 1, &nan, ones, NULL, row_loss, row_weight));
    assert_true(value(m, "accuracy") == 0.0 && isnan(value(m, "log_loss")));
    ebb_metrics_destroy(m);
}

static void names_that_do_not_suit_are_refused(void **state)
{
    ebb_loss_t softmax = {.kind = EBB_LOSS_SOFTMAX_CE}, squared = {.kind = EBB_LOSS_SQUARED};
    ebb_metrics_t *m;
    assert_fails(ebb_metrics_create("acuracy", &softmax, 3, &m), EBB_EUSAGE, "did you mean \"accuracy\"?");
    assert_fails(ebb_metrics_create("auc", &softmax, 3, &m), EBB_EUSAGE, "two classes");
    assert_fails(ebb_metrics_create("top_4", &softmax, 3, &m), EBB_EUSAGE, "from 1 to the model's 3 outputs");
    assert_fails(ebb_metrics_create("top_x", &softmax, 3, &m), EBB_EUSAGE, "from 1 to the model's 3 outputs");
    assert_fails(ebb_metrics_create("rmse", &softmax, 3, &m), EBB_EUSAGE, "needs a real target");
    assert_fails(ebb_metrics_create("accuracy", &squared, 1, &m), EBB_EUSAGE, "needs classes");
    assert_ok(ebb_metrics_create("loss", &softmax, 3, &m));
    int32_t wrong = 3;
    assert_fails(ebb_metrics_add(m, 1, pred, &wrong, NULL, row_loss, row_weight), EBB_EDATA, "label 3 is not a class");
    ebb_metrics_destroy(m);
}

int main(void)
{
    make_rows();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classes_agree_with_counting),
        cmocka_unit_test(auc_agrees_with_counting_pairs),
        cmocka_unit_test(auc_tells_scores_at_both_ends_apart),
        cmocka_unit_test(real_targets_agree_with_summing),
        cmocka_unit_test(any_split_gives_the_same_figures),
        cmocka_unit_test(threads_may_add_at_once_and_give_equal_words),
        cmocka_unit_test(undefined_figures_are_nan),
        cmocka_unit_test(names_that_do_not_suit_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
