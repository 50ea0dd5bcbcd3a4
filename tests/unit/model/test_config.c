/* The model section: what is accepted, what it becomes, and the words for what is wrong. */
#include "model_data.h"
#include "ref_backend.h"
#include "base/alloc.h"

#include <math.h>

static test_data_t sparse2, sparse5, dense5, real;

#define LIST(...) "{\"layers\":[" __VA_ARGS__ "]}"

static ebb_model_t *make(const test_data_t *d, const char *config)
{
    ebb_model_t *model;
    assert_ok(ebb_model_create(config, &d->info, &model));
    return model;
}

static void refuses(const test_data_t *d, const char *config, const char *words)
{
    ebb_model_t *model;
    ebb_status_t status = ebb_model_create(config, &d->info, &model);
    if (status == EBB_OK || !strstr(ebb_error()->message, words))
        fail_msg("%s: got %s \"%s\", wanted \"%s\"", config, ebb_status_name(status), ebb_error()->message, words);
    assert_null(model);
    ebb_error_clear();
}

static void errors_name_the_place_and_the_nearest_key(void **state)
{
    refuses(&sparse5, LIST("\"linear\",\"relu\",{\"linear\":{\"outt\":3}}"),
            "model.layers[2].linear: unknown key \"outt\"; did you mean \"out\"?");
    refuses(&sparse5, LIST("{\"linaer\":{}}"), "model.layers[0]: unknown layer \"linaer\"; did you mean \"linear\"?");
    refuses(&sparse5, LIST("{\"zzzzzzzzzzz\":{}}"),
            "linear, embedding, fm, layer_norm, dropout, relu, gelu, tanh, sigmoid");
    refuses(&sparse5, "{\"layer\":[]}", "model: unknown key \"layer\"; did you mean \"layers\"?");
    refuses(&sparse5, "{\"loss\":\"softmax\"}", "neither \"layers\" nor \"plugin\"");
    refuses(&sparse5, "{\"loss\":\"softmax_cross_entrpy\",\"layers\":[\"linear\"]}",
            "did you mean \"softmax_cross_entropy\"?");
    refuses(&real, "{\"loss\":{\"huber\":{\"detla\":1}},\"layers\":[\"linear\"]}",
            "model.loss.huber: unknown key \"detla\"; did you mean \"delta\"?");
    refuses(&sparse5, LIST("{\"linear\":{\"out\":2.5}},\"linear\""),
            "model.layers[0].linear.out: 2.5 is not a whole number");
    refuses(&sparse5, LIST("{\"linear\":{\"out\":\"many\"}},\"linear\""),
            "model.layers[0].linear.out: \"many\" is not a whole number");
    refuses(&sparse5, LIST("{\"linear\":{\"bias\":1}}"), "model.layers[0].linear.bias: 1 is not true or false");
    refuses(&sparse5, LIST("{\"linear\":{\"out\":0}},\"linear\""), "out of range");
    refuses(&sparse5, LIST("{\"linear\":{\"out\":4}},\"relu\",{\"dropout\":{\"p\":1.5}},\"linear\""),
            "model.layers[2].dropout.p: 1.5 is out of range");
    refuses(&sparse5, LIST("\"relu\",{\"relu\":{\"x\":1}}"),
            "model.layers[1].relu: unknown key \"x\"; it takes no options");
    refuses(&sparse5, LIST("{\"linear\":{},\"relu\":{}}"), "model.layers[0]: a layer is one name with its options");
    refuses(&sparse5, LIST("{\"linear\":[]}"), "model.layers[0].linear: its options must be a map");
    refuses(&sparse5, "{\"layers\":{}}", "model.layers: must be a list");
    refuses(&sparse5, LIST(""), "model.layers: must be a list");
    refuses(&sparse5, "[]", "model: must be a map");
    refuses(&sparse5, "{", "model");
}

static void layers_that_do_not_fit_are_refused(void **state)
{
    refuses(&sparse5, LIST("\"linear\",\"relu\",\"linear\""), "model.layers[0].linear: needs \"out\"");
    refuses(&sparse5, LIST("{\"linear\":{\"out\":7}}"), "gives 7 outputs, but the loss needs 5");
    refuses(&sparse5, LIST("\"fm\""), "gives 1 outputs, but the loss needs 5");
    refuses(&sparse5, LIST("\"layer_norm\",\"linear\""),
            "model.layers[0].layer_norm: cannot read the sparse data set \"made\"");
    refuses(&dense5, LIST("\"embedding\",\"linear\""), "model.layers[0].embedding: needs sparse data");
    refuses(&sparse5, LIST("{\"linear\":{\"out\":4}},\"fm\",\"linear\""),
            "model.layers[1].fm: must be the first layer");
    refuses(&dense5, LIST("\"relu\""), "outputs");
}

static void losses_are_chosen_by_the_target_and_checked_against_it(void **state)
{
    const struct {
        const test_data_t *data;
        ebb_loss_kind_t kind;
        int64_t outputs;
    } expected[] = {
        {&sparse2, EBB_LOSS_BINARY_CE, 1}, {&sparse5, EBB_LOSS_SOFTMAX_CE, 5}, {&real, EBB_LOSS_SQUARED, 2}};
    for (size_t i = 0; i < 3; i++) {
        ebb_model_t *model = make(expected[i].data, LIST("\"linear\""));
        assert_int_equal(ebb_model_loss(model)->kind, expected[i].kind);
        assert_int_equal(ebb_model_outputs(model), expected[i].outputs);
        ebb_model_destroy(model);
    }
    refuses(&sparse5, "{\"loss\":\"binary_cross_entropy\",\"layers\":[\"linear\"]}",
            "has 5; use softmax_cross_entropy");
    refuses(&sparse5, "{\"loss\":\"squared\",\"layers\":[\"linear\"]}",
            "squared needs a real target, but data set \"made\" has 5 classes");
    refuses(&real, "{\"loss\":\"softmax_cross_entropy\",\"layers\":[\"linear\"]}",
            "softmax_cross_entropy needs classes");
    test_data_t none = sparse2;
    none.info.target = EBB_TARGET_NONE;
    refuses(&none, LIST("\"linear\""), "has no target");
    none = sparse2;
    none.info.classes = 1;
    refuses(&none, LIST("\"linear\""), "has 1 class");
}

static void parameters_are_named_placed_and_scaled(void **state)
{
    ebb_model_t *model = make(&sparse5, LIST("{\"linear\":{\"out\":7}},\"relu\",{\"layer_norm\":{}},{\"linear\":{"
                                             "\"out\":3,\"bias\":false}},\"tanh\",{\"linear\":{\"init\":0.5}}"));
    const ebb_layout_t *l = ebb_model_layout(model);
    const char *names[] = {"0.linear.weight", "0.linear.bias",   "2.layer_norm.gamma", "2.layer_norm.beta",
                           "3.linear.weight", "5.linear.weight", "5.linear.bias"};
    assert_int_equal(l->n_params, 7);
    assert_int_equal(l->n_tables, 1);
    for (int i = 0; i < 7; i++) {
        assert_string_equal(l->params[i].name, names[i]);
        assert_true(l->params[i].kind == EBB_PARAM_ROWS || l->params[i].offset % 16 == 0);
    }
    double nnz = (double)sparse5.info.nnz / (double)sparse5.info.rows;
    assert_true(fabs((double)l->params[0].scale - sqrt(3 * 2 / nnz)) < 1e-6);
    assert_true(fabs((double)l->params[4].scale - sqrt(3 / 7.0)) < 1e-6);
    assert_true(l->params[5].scale == (float)(sqrt(3) * 0.5));
    assert_true(l->params[0].decay && !l->params[1].decay && !l->params[2].decay);
    assert_int_equal(l->dense_floats, 16 + 16 + 16 + 32 + 16 + 16);
    char text[1024];
    assert_ok(ebb_model_describe(model, text, sizeof text));
    assert_non_null(strstr(text, "linear + relu  40 -> 7 (sparse)"));
    ebb_model_destroy(model);
}

static void weights_depend_on_seed_parameter_and_element_alone(void **state)
{
    ebb_model_t *model = make(&sparse2, LIST("{\"fm\":{\"rank\":4,\"init\":0.5}}")),
                *one = make(&sparse5, LIST("\"linear\""));
    const ebb_layout_t *l = ebb_model_layout(model);
    ebb_weights_t a, b, zero;
    assert_ok(ebb_weights_create(&ref_backend, l, &a));
    assert_ok(ebb_weights_create(&ref_backend, l, &b));
    assert_ok(ebb_weights_init(&ref_backend, l, 9, &a));
    assert_ok(ebb_weights_init(&ref_backend, l, 9, &b));
    assert_memory_equal(a.table[0], b.table[0], 40 * 5 * sizeof(float));
    for (int e = 0; e < 200; e++)
        assert_true(a.table[0][e] ==
                    (e % 5 == 0
                         ? 0.0f
                         : (float)(sqrt(3) * 0.5) * (2.0f * ebb_rng_uniform(9, EBB_RNG_INIT, 0, (uint64_t)e) - 1.0f)));
    assert_ok(ebb_weights_init(&ref_backend, l, 10, &b));
    assert_memory_not_equal(a.table[0], b.table[0], 40 * 5 * sizeof(float));
    assert_ok(ebb_weights_create(&ref_backend, ebb_model_layout(one), &zero));
    assert_ok(ebb_weights_init(&ref_backend, ebb_model_layout(one), 9, &zero));
    for (int e = 0; e < 200; e++)
        assert_true(zero.table[0][e] == 0.0f); /* a lone linear layer starts at 0 */
    ebb_weights_destroy(&ref_backend, l, &a);
    ebb_weights_destroy(&ref_backend, l, &b);
    ebb_weights_destroy(&ref_backend, ebb_model_layout(one), &zero);
    ebb_model_destroy(model);
    ebb_model_destroy(one);
}

static void layouts_refuse_what_cannot_be_placed(void **state)
{
    ebb_layout_t *layout;
    ebb_param_t p[EBB_MAX_TABLES + 1];
    memset(p, 0, sizeof p);
    for (int i = 0; i <= EBB_MAX_TABLES; i++) {
        snprintf(p[i].name, sizeof p[i].name, "t%d", i);
        p[i].kind = EBB_PARAM_ROWS;
        p[i].rows = p[i].cols = 2;
    }
    assert_fails(ebb_layout_create(EBB_MAX_TABLES + 1, p, &layout), EBB_EINVAL, "at most 8 row-sparse tables");
    snprintf(p[1].name, sizeof p[1].name, "t0");
    assert_fails(ebb_layout_create(2, p, &layout), EBB_EINVAL, "\"t0\" is declared twice");
    p[0].rows = 0;
    assert_fails(ebb_layout_create(1, p, &layout), EBB_EINVAL, "\"t0\": its shape (0, 2)");
    p[0].name[0] = 0;
    assert_fails(ebb_layout_create(1, p, &layout), EBB_EINVAL, "parameter 0 has no name");
}

static void every_failed_allocation_is_reported_and_leaks_nothing(void **state)
{
    ebb_status_t status = EBB_ENOMEM;
    for (int n = 0; status != EBB_OK; n++) {
        ebb_model_t *model;
        ebb_alloc_fail_after(n);
        status = ebb_model_create(LIST("{\"embedding\":{\"dim\":3}},\"linear\""), &sparse5.info, &model);
        ebb_alloc_fail_after(-1);
        assert_true(status == EBB_OK || status == EBB_ENOMEM);
        ebb_error_clear();
        ebb_model_destroy(model);
        assert_true(n < 50);
    }
}

static void help_tells_every_layer_loss_and_option(void **state)
{
    char *text;
    assert_ok(ebb_model_help(&text));
    const char *words[] = {"linear",  "out",        "bias", "embedding", "dim",   "fm",      "rank",
                           "dropout", "layer_norm", "gelu", "huber",     "delta", "poisson", "plugin"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        assert_non_null(strstr(text, words[i]));
    free(text);
}

int main(void)
{
    test_data_make(&sparse2, true, 20, 40, 2, 0);
    test_data_make(&sparse5, true, 20, 40, 5, 0);
    test_data_make(&dense5, false, 20, 40, 5, 0);
    test_data_make(&real, true, 20, 40, 0, 2);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_name_the_place_and_the_nearest_key),
        cmocka_unit_test(layers_that_do_not_fit_are_refused),
        cmocka_unit_test(losses_are_chosen_by_the_target_and_checked_against_it),
        cmocka_unit_test(parameters_are_named_placed_and_scaled),
        cmocka_unit_test(weights_depend_on_seed_parameter_and_element_alone),
        cmocka_unit_test(layouts_refuse_what_cannot_be_placed),
        cmocka_unit_test(every_failed_allocation_is_reported_and_leaks_nothing),
        cmocka_unit_test(help_tells_every_layer_loss_and_option),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
