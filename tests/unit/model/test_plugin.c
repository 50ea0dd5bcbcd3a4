/* Plug-ins: the example is loaded, passes the checks of a model and learns; broken ones are refused with words. */
#include "model_data.h"
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

/* Plain gradient descent on all weights, table gradients as dense arrays. Returns the loss before the last step. */
static double descend(ebb_model_t *model, ebb_backend_t *b, ebb_weights_t *w, int steps, float rate)
{
    const ebb_layout_t *layout = ebb_model_layout(model);
    const ebb_loss_t *loss = ebb_model_loss(model);
    int64_t rows = data.rows.rows, width = ebb_model_outputs(model);
    ebb_weights_t g;
    assert_ok(ebb_weights_create(b, layout, &g));
    ebb_exec_t *x;
    assert_ok(b->ops->exec_create(b->dev, &x));
    void *workspace;
    assert_ok(b->ops->alloc(b->dev, (size_t)ebb_model_workspace_bytes(model, rows), "workspace", &workspace));
    float *out = calloc((size_t)(rows * width), sizeof *out), *dout = calloc((size_t)(rows * width), sizeof *dout);
    double row_loss[DATA_MAX_ROWS], row_weight[DATA_MAX_ROWS], sum = 0;
    uint64_t touched[EBB_MAX_TABLES][1] = {{0}};
    for (int step = 0; step < steps; step++) {
        ebb_pass_t pass = {.ops = b->ops, .exec = x, .weights = w, .workspace = workspace, .training = true};
        ebb_input_t in = {.rows = rows, .sparse = true, .csr = {rows, data.info.cols, data.rowptr, data.col, data.val}};
        ebb_grads_t grads = {.dense = g.dense};
        for (int t = 0; t < layout->n_tables; t++) {
            grads.table_dense[t] = g.table[t];
            grads.touched[t] = touched[t];
            const ebb_param_t *p = &layout->params[layout->table_param[t]];
            memset(g.table[t], 0, (size_t)(p->rows * p->cols) * sizeof(float));
        }
        assert_ok(ebb_model_forward(model, &pass, &in, out));
        assert_ok(b->ops->loss(x, loss->kind, loss->huber_delta, rows, width, out, data.label, NULL, NULL, NULL,
                               row_loss, row_weight, dout));
        assert_ok(ebb_model_backward(model, &pass, &in, dout, &grads));
        sum = 0;
        for (int64_t r = 0; r < rows; r++)
            sum += row_loss[r] / (double)rows;
        for (int i = 0; i < layout->n_params; i++) {
            int64_t n;
            float *to = ebb_weights_param(layout, w, i, &n), *from = ebb_weights_param(layout, &g, i, NULL);
            for (int64_t e = 0; e < n; e++)
                to[e] -= rate / (float)rows * from[e];
        }
    }
    free(out);
    free(dout);
    b->ops->free(b->dev, workspace);
    b->ops->exec_destroy(x);
    ebb_weights_destroy(b, layout, &g);
    return sum;
}

static void the_example_learns(void **state)
{
    ebb_backend_t *cpu;
    ebb_model_t *model;
    ebb_weights_t w;
    assert_ok(ebb_backend_open("cpu", 0, &cpu));
    assert_ok(ebb_model_create(CONFIG, &data.info, &model));
    char text[512];
    assert_ok(ebb_model_describe(model, text, sizeof text));
    assert_non_null(strstr(text, "wide_deep"));
    assert_ok(ebb_weights_create(cpu, ebb_model_layout(model), &w));
    assert_ok(ebb_weights_init(cpu, ebb_model_layout(model), 1, &w));
    double first = descend(model, cpu, &w, 1, 0.5f), last = descend(model, cpu, &w, 300, 0.5f);
    assert_true(first > 0.8 * log(4) && last < 0.1 * first); /* made-up labels, but fewer rows than weights */
    ebb_weights_destroy(cpu, ebb_model_layout(model), &w);
    ebb_model_destroy(model);
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
    assert_fails(ebb_model_ops_check(&ops), EBB_EINVAL, "version 2, this Ebb needs 1");
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
        cmocka_unit_test(broken_plugins_are_refused),
        cmocka_unit_test(tables_are_checked_for_version_and_entries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
