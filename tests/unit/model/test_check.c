/* Every layer and loss passes the checks of a model on the reference backend and on `cpu`; and a
 * wrong model fails them. */
#include "model_data.h"
#include "ref_backend.h"

typedef struct tally {
    int checks, failed;
    char first[256];
    bool show;
} tally_t;

static void count(void *user, const ebb_check_t *check)
{
    tally_t *t = user;
    t->checks++;
    if (!check->passed && t->failed++ == 0)
        snprintf(t->first, sizeof t->first, "%s: %g > %g at %s", check->name, check->worst, check->limit, check->note);
}

static ebb_backend_t *cpu;

static void passes(bool sparse, int64_t classes, int64_t target_cols, const char *config)
{
    test_data_t *d = malloc(sizeof *d);
    test_data_make(d, sparse, 23, 31, classes, target_cols);
    for (int i = 0; i < 2; i++) {
        tally_t t = {0};
        ebb_status_t status =
            ebb_model_check(config, &d->info, &d->rows, i ? cpu : &ref_backend, i ? &ref_backend : NULL, 5, count, &t);
        if (status != EBB_OK)
            fail_msg("%s on %s: %s; %s", config, i ? "cpu" : "reference", ebb_error()->message, t.first);
        assert_true(t.checks >= 8);
    }
    free(d);
}

#define LAYERS(...) "{\"layers\":[" __VA_ARGS__ "]}"

static void sparse_models_pass(void **state)
{
    passes(true, 2, 0, LAYERS("{\"linear\":{}}"));
    passes(true, 5, 0, LAYERS("{\"linear\":{}}"));
    passes(true, 5, 0, LAYERS("{\"linear\":{\"bias\":false}}"));
    passes(true, 5, 0, LAYERS("{\"linear\":{\"out\":17}},{\"relu\":{}},{\"linear\":{}}"));
    passes(true, 2, 0, LAYERS("{\"fm\":{\"rank\":4}}"));
    passes(true, 0, 1, LAYERS("{\"fm\":{\"rank\":3}}"));
    passes(true, 4, 0, LAYERS("{\"embedding\":{\"dim\":6}},{\"linear\":{\"out\":9}},\"tanh\",{\"linear\":{}}"));
}

static void dense_models_pass(void **state)
{
    passes(false, 3, 0, LAYERS("{\"linear\":{}}"));
    passes(false, 3, 0,
           LAYERS("{\"linear\":{\"out\":20}},{\"relu\":{}},{\"linear\":{\"out\":8}},\"relu\",{\"linear\":{}}"));
    passes(false, 3, 0, LAYERS("{\"linear\":{\"out\":20}},{\"gelu\":{}},{\"dropout\":{\"p\":0.3}},{\"linear\":{}}"));
    passes(false, 3, 0, LAYERS("{\"linear\":{\"out\":20}},{\"sigmoid\":{}},{\"layer_norm\":{}},{\"linear\":{}}"));
    passes(false, 3, 0,
           LAYERS("{\"layer_norm\":{}},{\"linear\":{\"out\":12}},{\"layer_norm\":{}},{\"tanh\":{}},{\"linear\":{}}"));
    passes(
        false, 3, 0,
        LAYERS("{\"dropout\":{\"p\":0.2}},{\"linear\":{\"out\":12}},{\"relu\":null},{\"dropout\":{}},{\"linear\":{}}"));
    passes(false, 3, 0, LAYERS("{\"linear\":{\"out\":3}},\"gelu\""));
    passes(false, 3, 0, LAYERS("{\"linear\":{\"out\":3}},\"tanh\""));
    passes(false, 3, 0, LAYERS("{\"linear\":{\"out\":3}},{\"dropout\":{}}"));
}

static void every_loss_passes(void **state)
{
    passes(true, 2, 0,
           "{\"loss\":\"softmax_cross_entropy\","
           "\"layers\":[{\"linear\":{}}]}");
    passes(true, 2, 0,
           "{\"loss\":\"binary_cross_entropy\","
           "\"layers\":[{\"linear\":{}}]}");
    passes(true, 0, 1,
           "{\"loss\":\"squared\","
           "\"layers\":[{\"linear\":{}}]}");
    passes(true, 0, 3,
           "{\"loss\":\"squared\","
           "\"layers\":[{\"linear\":{}}]}");
    passes(true, 0, 2,
           "{\"loss\":{\"huber\":{\"delta\":0.7}},"
           "\"layers\":[{\"linear\":{}}]}");
    passes(true, 0, 1,
           "{\"loss\":\"poisson\","
           "\"layers\":[{\"linear\":{}}]}");
}

/* A backend whose relu passes gradients through everywhere. */
static ebb_status_t wrong_act_backward(ebb_exec_t *x, ebb_act_t act, int64_t n, const float *in, const float *out,
                                       const float *dout, float *din)
{
    if (din != dout)
        memcpy(din, dout, (size_t)n * sizeof *din);
    return EBB_OK;
}

static void a_wrong_gradient_fails_and_is_named(void **state)
{
    test_data_t *d = malloc(sizeof *d);
    test_data_make(d, true, 23, 31, 4, 0);
    ebb_backend_ops_t wrong_ops = ref_ops;
    wrong_ops.act_backward = wrong_act_backward;
    ebb_backend_t wrong = {.ops = &wrong_ops};
    tally_t t = {0};
    assert_fails(ebb_model_check(LAYERS("{\"linear\":{\"out\":17}},\"relu\",{\"linear\":{}}"), &d->info, &d->rows,
                                 &wrong, NULL, 5, count, &t),
                 EBB_EDATA, "checks of the model failed");
    assert_non_null(strstr(t.first, "gradient of 0.linear"));
    free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sparse_models_pass),
        cmocka_unit_test(dense_models_pass),
        cmocka_unit_test(every_loss_passes),
        cmocka_unit_test(a_wrong_gradient_fails_and_is_named),
    };
    if (ebb_backend_open("cpu", 0, &cpu) != EBB_OK) {
        fprintf(stderr, "cpu: %s\n", ebb_error()->message);
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ebb_backend_close(cpu);
    return failed;
}
