/* The cpu backend's operations, as the layers call them, against the published inputs and outputs of ONNX's node tests.
 */
#include "onnx_tensor.h"

#include <ebb/compute.h>
#include <math.h>

static ebb_backend_t *cpu;
static ebb_exec_t *x;
static onnx_tensor_t in[3], want;
static float got[4096];

/* Read a node test of n inputs or skip. */
#define load(test, n)                                                                                                  \
    do {                                                                                                               \
        static const char *const files_[] = {"input_0", "input_1", "input_2"};                                         \
        for (int k_ = 0; k_ < (n); k_++)                                                                               \
            skip_without(onnx_read((test), files_[k_], &in[k_]) ? "" : NULL, "onnx-node/" test);                       \
        skip_without(onnx_read((test), "output_0", &want) ? "" : NULL, "onnx-node/" test);                             \
    } while (0)

static void agrees(const float *value, int64_t n)
{
    assert_int_equal(n, want.n);
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)value[i] - (double)want.f[i]) <= 1e-6 + 1e-6 * fabs((double)want.f[i])))
            fail_msg("element %lld: %.9g, wanted %.9g", (long long)i, (double)value[i], (double)want.f[i]);
}

/* Gemm with the third input as a vector bias (epilogue) or as C to be added to. */
static void gemm(bool ta, bool tb, double alpha, double beta)
{
    int64_t M = in[0].dim[ta], K = in[0].dim[!ta], N = in[1].dim[!tb];
    for (int64_t i = 0; i < in[0].n; i++)
        in[0].f[i] *= (float)alpha;
    for (int64_t i = 0; i < in[2].n; i++)
        in[2].f[i] *= (float)beta;
    bool vector = in[2].n == N;
    memcpy(got, in[2].f, sizeof got);
    assert_ok(cpu->ops->gemm(x, ta, tb, M, N, K, in[0].f, in[0].dim[1], in[1].f, in[1].dim[1], vector ? 0.0f : 1.0f,
                             got, N, vector ? in[2].f : NULL, EBB_ACT_NONE));
    agrees(got, M * N);
}

static void gemm_with_vector_bias(void **state)
{
    load("test_gemm_default_vector_bias", 3);
    gemm(false, false, 1, 1);
}

static void gemm_with_matrix_bias(void **state)
{
    load("test_gemm_default_matrix_bias", 3);
    gemm(false, false, 1, 1);
}

static void gemm_transposed_a(void **state)
{
    load("test_gemm_transposeA", 3);
    gemm(true, false, 1, 1);
}

static void gemm_transposed_b(void **state)
{
    load("test_gemm_transposeB", 3);
    gemm(false, true, 1, 1);
}

static void gemm_all_attributes(void **state)
{
    load("test_gemm_all_attributes", 3);
    gemm(true, true, 0.25, 0.35);
}

static void activation(ebb_act_t act)
{
    assert_ok(cpu->ops->act_forward(x, act, in[0].n, in[0].f, got));
    agrees(got, in[0].n);
}

static void relu(void **state)
{
    load("test_relu", 1);
    activation(EBB_ACT_RELU);
}

static void hyperbolic_tangent(void **state)
{
    load("test_tanh", 1);
    activation(EBB_ACT_TANH);
}

static void logistic_sigmoid(void **state)
{
    load("test_sigmoid", 1);
    activation(EBB_ACT_SIGMOID);
}

static void softmax_of_large_numbers(void **state)
{
    load("test_softmax_large_number", 1);
    assert_ok(cpu->ops->link(x, EBB_LOSS_SOFTMAX_CE, in[0].dim[0], in[0].dim[1], in[0].f, got));
    agrees(got, in[0].n);
}

static void softmax(void **state)
{
    load("test_softmax_example", 1);
    assert_ok(cpu->ops->link(x, EBB_LOSS_SOFTMAX_CE, in[0].dim[0], in[0].dim[1], in[0].f, got));
    agrees(got, in[0].n);
}

static void cross_entropy(bool mean, bool weighted)
{
    int64_t rows = in[0].dim[0];
    int32_t label[64];
    double loss[64], weight[64], sum = 0, total = 0;
    for (int64_t r = 0; r < rows; r++)
        label[r] = (int32_t)in[1].i[r];
    assert_ok(cpu->ops->loss(x, EBB_LOSS_SOFTMAX_CE, 1, rows, in[0].dim[1], in[0].f, label, NULL, NULL,
                             weighted ? in[2].f : NULL, loss, weight, got));
    for (int64_t r = 0; r < rows; r++) {
        sum += loss[r];
        total += weight[r];
    }
    float value = (float)(mean ? sum / total : sum);
    agrees(&value, 1);
}

static void cross_entropy_summed(void **state)
{
    load("test_sce_sum", 2);
    cross_entropy(false, false);
}

static void cross_entropy_averaged(void **state)
{
    load("test_sce_mean", 2);
    cross_entropy(true, false);
}

static void cross_entropy_with_class_weights(void **state)
{
    load("test_sce_mean_weight", 3);
    cross_entropy(true, true);
}

static void layer_normalisation(void **state)
{
    load("test_layer_normalization_2d_axis1", 3);
    float mean[64], rstd[64];
    assert_ok(
        cpu->ops->layernorm_forward(x, in[0].dim[0], in[0].dim[1], in[0].f, in[1].f, in[2].f, 1e-5f, got, mean, rstd));
    agrees(got, in[0].n);
}

int main(void)
{
    if (ebb_backend_open("cpu", 0, &cpu) != EBB_OK || cpu->ops->exec_create(cpu->dev, &x) != EBB_OK) {
        fprintf(stderr, "cpu: %s\n", ebb_error()->message);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gemm_with_vector_bias),
        cmocka_unit_test(gemm_with_matrix_bias),
        cmocka_unit_test(gemm_transposed_a),
        cmocka_unit_test(gemm_transposed_b),
        cmocka_unit_test(gemm_all_attributes),
        cmocka_unit_test(relu),
        cmocka_unit_test(hyperbolic_tangent),
        cmocka_unit_test(logistic_sigmoid),
        cmocka_unit_test(softmax_of_large_numbers),
        cmocka_unit_test(softmax),
        cmocka_unit_test(cross_entropy_summed),
        cmocka_unit_test(cross_entropy_averaged),
        cmocka_unit_test(cross_entropy_with_class_weights),
        cmocka_unit_test(layer_normalisation),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    cpu->ops->exec_destroy(x);
    ebb_backend_close(cpu);
    return failed;
}
