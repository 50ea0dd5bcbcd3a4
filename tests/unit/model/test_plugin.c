/* Plug-ins: the example is loaded, passes the checks of a model and learns; broken ones are refused with words. */
#include "descend.h"
#include "ref_backend.h"

#include <math.h>

#define CONFIG "{\"plugin\":\"" PLUGIN_WIDE_DEEP "\",\"hidden\":11}"

static test_data_t data;

static void ignore(void *user, const ebb_check_t *check)
{
    if (!check->passed)
        print_message("%s: %g > %g at %s\n", check->name, check->worst, check->limit, check->note);
}

static void the_example_passes_the_checks_on_cpu(void **state)
{
    ebb_backend_t *cpu;
    assert_ok(ebb_backend_open("cpu", 0, &cpu));
    assert_ok(ebb_model_check(CONFIG, &data.info, &data.rows, cpu, &ref_backend, 3, ignore, NULL));
    ebb_backend_close(cpu);
}

static void the_example_learns(void **state)
{
    ebb_backend_t *cpu;
    descend_t d;
    char text[512];
    assert_ok(ebb_backend_open("cpu", 0, &cpu));
    descend_create(&d, cpu, CONFIG, &data);
    assert_ok(ebb_model_describe(d.model, text, sizeof text));
    assert_non_null(strstr(text, "wide_deep"));
    double first = descend_run(&d, &data, 1, 0.5f), last = descend_run(&d, &data, 300, 0.5f);
    assert_true(first > 0.8 * log(4) && last < 0.1 * first); /* made-up labels, but fewer rows than weights */
    descend_destroy(&d);
    ebb_backend_close(cpu);
}

/* The gradients of one pass, in d->g; bucket -1: the whole backward pass. */
static void run_pass(descend_t *d, int bucket)
{
    const ebb_layout_t *layout = ebb_model_layout(d->model);
    ebb_pass_t pass = {.ops = d->b->ops, .exec = d->x, .weights = &d->w, .workspace = d->workspace, .training = true};
    ebb_input_t in = {.rows = data.rows.rows, .sparse = true};
    in.csr =
        (ebb_csr_t){in.rows, data.info.cols, data.rowptr, data.col, data.val, data.rowptr[in.rows] - data.rowptr[0]};
    ebb_grads_t grads = descend_grads(d);
    memset(grads.dense, 0xff, (size_t)layout->dense_floats * sizeof *grads.dense);
    assert_ok(ebb_model_forward(d->model, &pass, &in, d->out));
    for (int64_t i = 0; i < in.rows * ebb_model_outputs(d->model); i++)
        d->dout[i] = (float)test_normal(1, (uint64_t)i);
    if (bucket < 0)
        assert_ok(ebb_model_backward(d->model, &pass, &in, d->dout, &grads));
    else
        assert_ok(ebb_model_backward_bucket(d->model, &pass, &in, d->dout, &grads, bucket));
}

static void a_plugin_has_one_bucket_which_is_the_whole_pass(void **state)
{
    ebb_backend_t *cpu;
    descend_t d[2];
    const int64_t *begin;
    assert_ok(ebb_backend_open("cpu", 0, &cpu));
    for (int i = 0; i < 2; i++) {
        descend_create(&d[i], cpu, CONFIG, &data);
        run_pass(&d[i], i - 1);
    }
    const ebb_layout_t *layout = ebb_model_layout(d[0].model);
    assert_int_equal(ebb_model_buckets(d[0].model, &begin), 1);
    assert_int_equal(begin[0], 0);
    assert_fails(ebb_model_backward_bucket(d[0].model, NULL, NULL, NULL, NULL, 1), EBB_EINVAL,
                 "model \"wide_deep\": there is no bucket 1 of 1");
    for (int i = 0; i < layout->n_params; i++) {
        int64_t n;
        const float *whole = ebb_weights_param(layout, &d[0].g, i, &n);
        assert_memory_equal(whole, ebb_weights_param(layout, &d[1].g, i, NULL), (size_t)n * sizeof *whole);
    }
    for (int i = 0; i < 2; i++)
        descend_destroy(&d[i]);
    ebb_backend_close(cpu);
}

static void broken_plugins_are_refused(void **state)
{
    ebb_model_t *model;
    assert_fails(ebb_model_create("{\"plugin\":\"./nowhere.so\"}", &data.info, &model), EBB_ENOINPUT,
                 "./nowhere.so: there is no such file");
    assert_fails(ebb_model_create("{\"plugin\":\"/dev/null\"}", &data.info, &model), EBB_EUNAVAILABLE, "cannot load");
    assert_fails(ebb_model_create("{\"plugin\":\"libm.so.6\"}", &data.info, &model), EBB_EINVAL,
                 "exports no \"ebb_model_entry\"");
    assert_fails(ebb_model_create("{\"plugin\":3}", &data.info, &model), EBB_EUSAGE, "must be the path");
    assert_fails(ebb_model_create("{\"plugin\":\"x\",\"layers\":[]}", &data.info, &model), EBB_EUSAGE, "not both");
    ebb_dataset_info_t dense = data.info;
    dense.sparse = false; /* the example answers with a status alone */
    assert_fails(ebb_model_create(CONFIG, &dense, &model), EBB_EINVAL, "model \"wide_deep\": create failed");
}

static void tables_are_checked_for_version_and_entries(void **state)
{
    ebb_model_ops_t ops = {.version = EBB_MODEL_VERSION + 1};
    assert_fails(ebb_model_ops_check(&ops), EBB_EINVAL, "version 4, this Ebb needs 3");
    ops.version = EBB_MODEL_VERSION;
    ops.name = "half";
    assert_fails(ebb_model_ops_check(&ops), EBB_EINVAL,
                 "its table lacks create, destroy, declare, bind, workspace_bytes, forward, backward");
}

int main(void)
{
    test_data_make(&data, true, 24, 40, 4, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_example_passes_the_checks_on_cpu),
        cmocka_unit_test(the_example_learns),
        cmocka_unit_test(a_plugin_has_one_bucket_which_is_the_whole_pass),
        cmocka_unit_test(broken_plugins_are_refused),
        cmocka_unit_test(tables_are_checked_for_version_and_entries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
