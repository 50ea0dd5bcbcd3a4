/* Which models add a gradient in one addition per float. */
#include "model_data.h"

static ebb_backend_t *cpu;

static bool whole(bool sparse, int64_t rows, const char *config)
{
    ebb_model_t *model;
    bool answer = false;
    test_data_t *d = malloc(sizeof *d);
    test_data_make(d, sparse, 23, 31, 3, 0);
    assert_ok(ebb_model_create(config, &d->info, &model));
    assert_ok(ebb_model_adds_whole(model, cpu, 31, rows, &answer));
    ebb_model_destroy(model);
    free(d);
    return answer;
}

#define MLP  "{\"layers\":[{\"linear\":{\"out\":40}},{\"relu\":{}},{\"linear\":{\"out\":8}},\"tanh\",{\"linear\":{}}]}"
#define NORM "{\"layers\":[{\"linear\":{\"out\":40}},{\"layer_norm\":{}},{\"relu\":{}},{\"linear\":{}}]}"

static void products_of_few_rows_are_added_whole(void **state)
{
#ifndef __x86_64__
    skip();
#endif
    assert_true(whole(false, 16, MLP));
    assert_true(whole(false, 33, MLP));
}

static void products_of_several_blocks_of_rows_are_not(void **state)
{
#ifndef __x86_64__
    skip();
#endif
    assert_false(whole(false, 1000, MLP));
}

static void gradients_added_row_by_row_are_not(void **state)
{
    assert_false(whole(false, 16, NORM));
}

static void a_product_fused_onto_the_sum_is_not(void **state)
{
#ifndef __x86_64__
    skip();
#endif
    /* one output: oneDNN takes the product for a matrix times a vector, by fused multiply-adds onto the sum */
    assert_false(whole(false, 16, "{\"layers\":[{\"linear\":{\"out\":1}},\"tanh\",{\"linear\":{}}]}"));
}

static void tables_and_lanes_without_rows_are_not(void **state)
{
    assert_false(whole(true, 16, MLP));
    assert_false(whole(false, 0, MLP));
}

static int open_cpu(void **state)
{
    return ebb_backend_open("cpu", 0, &cpu) == EBB_OK ? 0 : -1;
}

static int close_cpu(void **state)
{
    ebb_backend_close(cpu);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_of_few_rows_are_added_whole),
        cmocka_unit_test(products_of_several_blocks_of_rows_are_not),
        cmocka_unit_test(gradients_added_row_by_row_are_not),
        cmocka_unit_test(a_product_fused_onto_the_sum_is_not),
        cmocka_unit_test(tables_and_lanes_without_rows_are_not),
    };
    return cmocka_run_group_tests(tests, open_cpu, close_cpu);
}
