/* Models learn what they can express, and what a linear one cannot. */
#include "descend.h"

#include <math.h>

static ebb_backend_t *cpu;

/* Loss after some steps of descent. */
static double learn(const test_data_t *data, const char *config, int steps, float rate)
{
    descend_t d;
    descend_create(&d, cpu, config, data);
    double loss = descend_run(&d, data, steps, rate);
    descend_destroy(&d);
    return loss;
}

/* Two categorical columns of four values each, one-hot; the class is whether both are odd or both even: no linear
 * function of the columns tells it. */
static void make_parity(test_data_t *d)
{
    test_data_make(d, true, 16, 8, 2, 0);
    for (int r = 0; r < 16; r++) {
        d->rowptr[r + 1] = 2 * (r + 1);
        d->col[2 * r] = r / 4;
        d->col[2 * r + 1] = 4 + r % 4;
        d->val[2 * r] = d->val[2 * r + 1] = 1.0f;
        d->label[r] = (r / 4 + r % 4) % 2;
    }
    d->info.nnz = 32;
    d->fields[0].end = d->fields[1].begin = 4;
    d->fields[1].end = 8;
    d->info.n_fields = 2;
}

static void interactions_need_more_than_a_linear_model(void **state)
{
    test_data_t *d = malloc(sizeof *d);
    make_parity(d);
    double linear = learn(d, "{\"layers\":[\"linear\"]}", 300, 1.0f);
    double fm = learn(d, "{\"layers\":[{\"fm\":{\"rank\":4,\"init\":0.1}}]}", 300, 1.0f);
    double embedding = learn(
        d, "{\"layers\":[{\"embedding\":{\"dim\":4,\"init\":0.5}},{\"linear\":{\"out\":16}},\"relu\",\"linear\"]}", 300,
        1.0f);
    double mlp = learn(d, "{\"layers\":[{\"linear\":{\"out\":32}},\"relu\",\"linear\"]}", 300, 1.0f);
    assert_true(linear > 0.99 * log(2));
    assert_true(fm < 0.05 && embedding < 0.05 && mlp < 0.05);
    free(d);
}

static void dense_networks_fit_made_up_labels(void **state)
{
    test_data_t *d = malloc(sizeof *d);
    test_data_make(d, false, 32, 20, 5, 0);
    double relu =
        learn(d, "{\"layers\":[{\"linear\":{\"out\":64}},\"relu\",{\"linear\":{\"out\":32}},\"relu\",\"linear\"]}", 300,
              0.3f);
    double norm = learn(
        d, "{\"layers\":[{\"linear\":{\"out\":64}},\"layer_norm\",\"gelu\",{\"dropout\":{\"p\":0.1}},\"linear\"]}", 300,
        0.3f);
    assert_true(relu < 0.05 && norm < 0.1);
    free(d);
}

/* Least squares has a known answer: on 12 rows of 20 columns the residual is 0. */
static void regression_reaches_the_exact_fit(void **state)
{
    test_data_t *d = malloc(sizeof *d);
    test_data_make(d, false, 12, 20, 0, 2);
    assert_true(learn(d, "{\"layers\":[\"linear\"]}", 2000, 0.2f) < 1e-6);
    assert_true(learn(d, "{\"loss\":\"huber\",\"layers\":[\"linear\"]}", 2000, 0.2f) < 1e-4);
    free(d);
}

int main(void)
{
    if (ebb_backend_open("cpu", 0, &cpu) != EBB_OK)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(interactions_need_more_than_a_linear_model),
        cmocka_unit_test(dense_networks_fit_made_up_labels),
        cmocka_unit_test(regression_reaches_the_exact_fit),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ebb_backend_close(cpu);
    return failed;
}
