/* Dense products by cuBLASLt in true float32 (or with factors rounded to tf32 or bf16). Bias and ReLU are fused into
 * them; other activations follow in a kernel of their own (cuBLASLt's GELU is the one with tanh, ours has erf).
 *
 * Bits: a context asks for an algorithm once for each product_t and keeps the answer. Whatever else the answer could
 * depend on is fixed, so that every lane on every GPU of one kind gets the same one: the size of the work space, and
 * what the operands lie on, which is promised from the leading dimensions alone (an operand that happens to lie
 * otherwise is copied first). NVIDIA's manual promises the same bits at every run of one version on GPUs of one
 * architecture with the same number of multiprocessors, for cublasLtMatmul with the caller's own work space whatever
 * other streams do (cuBLAS, "Results Reproducibility").
 *
 * After the first product of its kind nothing here allocates or waits, so that a CUDA graph can take it up. */
#include "compute/cuda/math.h"

#include <stdlib.h>
#include <string.h>

/* The widest load of a GPU is of WIDE bytes: so much, and no more, is asked of what operands lie on. */
static const uint32_t WIDE = 16, NARROW = sizeof(float);
static const int64_t FLOATS = WIDE / sizeof(float), HALVES = WIDE / sizeof(uint16_t);
static const size_t BLAS_ROOM = (size_t)32 << 20;

/* A product that is cut along its sums must add its parts in a fixed order. Parts in the work space are added "in a
 * separate step", in one order; of a reduction in place, into the result, the manual says that counters "guarantee the
 * sequentiality", which is no promise of an order (cublasLtReductionScheme_t). */
enum { REDUCTIONS = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE };

static bool blas_is(cublasStatus_t *status, cublasStatus_t now)
{
    *status = now;
    return now == CUBLAS_STATUS_SUCCESS;
}

ebb_status_t ebb_cuda_blas_start(ebb_exec_t *x)
{
    cublasStatus_t s;
    if (x->blas)
        return EBB_OK;
    x->plan = x->plan ? x->plan : (plan_t *)calloc(PLANS, sizeof *x->plan);
    if (!x->plan)
        return EBB_FAIL(EBB_ENOMEM, "plans of dense products: out of memory");
    EBB_TRY(ebb_cuda_room(x, &x->blas_room, BLAS_ROOM, 1, "work space of cuBLAS"));
    if (!blas_is(&s, cublasLtCreate(&x->blas)))
        return EBB_FAIL(EBB_EUNAVAILABLE, "cuBLAS cannot be started: %s", cublasLtGetStatusString(s));
    return EBB_OK;
}

void ebb_cuda_blas_end(ebb_exec_t *x)
{
    if (x->blas)
        (void)cublasLtDestroy(x->blas);
    free(x->plan);
}

/* ---- plans ---- */

/* What an operand of floats is promised to lie on: no more than its rows do. */
static uint32_t alignment_of(int64_t ld)
{
    return ld % FLOATS == 0 ? WIDE : NARROW;
}

/* X, rows of `cols` side by side: for cuBLAS, which counts columns first, its transpose. */
static cublasStatus_t describe_layout(cublasLtMatrixLayout_t layout, cudaDataType_t type, int64_t rows, int64_t cols,
                                      int64_t ld)
{
    return cublasLtMatrixLayoutInit(layout, type, (uint64_t)cols, (uint64_t)rows, ld);
}

/* The transpose of the product, from the operands the other way round. */
static cublasStatus_t describe(const product_t *p, uint32_t epilogue, plan_t *plan)
{
    const int32_t ta = p->tb ? CUBLAS_OP_T : CUBLAS_OP_N, tb = p->ta ? CUBLAS_OP_T : CUBLAS_OP_N;
    const void *bias = (const void *)(uintptr_t)WIDE; /* looked at for what it lies on alone */
    cudaDataType_t type = p->precision == EBB_PRECISION_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    cublasLtMatmulDesc_t desc = &plan->desc;
    cublasStatus_t s;
    plan->epilogue = epilogue;
    (void)(blas_is(&s, describe_layout(&plan->a, type, p->ta ? p->K : p->M, p->ta ? p->M : p->K, p->lda)) &&
           blas_is(&s, describe_layout(&plan->b, type, p->tb ? p->N : p->K, p->tb ? p->K : p->N, p->ldb)) &&
           blas_is(&s, describe_layout(&plan->c, CUDA_R_32F, p->M, p->N, p->ldc)) &&
           blas_is(&s, cublasLtMatmulDescInit(
                           desc, p->precision == EBB_PRECISION_TF32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F,
                           CUDA_R_32F)) &&
           blas_is(&s, cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta)) &&
           blas_is(&s, cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb)) &&
           blas_is(&s,
                   cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue)) &&
           blas_is(&s, cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias)));
    return s;
}

static cublasStatus_t prefer(const product_t *p, cublasLtMatmulPreference_t preference)
{
    const uint64_t room = BLAS_ROOM;
    const uint32_t reductions = REDUCTIONS;
    const bool halves = p->precision == EBB_PRECISION_BF16; /* which we place ourselves */
    const uint32_t lies[] = {halves ? WIDE : alignment_of(p->ldb), halves ? WIDE : alignment_of(p->lda),
                             alignment_of(p->ldc), alignment_of(p->ldc)};
    static const cublasLtMatmulPreferenceAttributes_t operand[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    cublasStatus_t s;
    bool done = blas_is(&s, cublasLtMatmulPreferenceInit(preference)) &&
                blas_is(&s, cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                                 &room, sizeof room)) &&
                blas_is(&s, cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                                 &reductions, sizeof reductions));
    for (int i = 0; i < 4 && done; i++)
        done = blas_is(&s, cublasLtMatmulPreferenceSetAttribute(preference, operand[i], &lies[i], sizeof lies[i]));
    return s;
}

static cublasStatus_t choose(ebb_exec_t *x, const product_t *p, uint32_t epilogue, plan_t *plan)
{
    cublasLtMatmulPreferenceOpaque_t preference;
    cublasLtMatmulHeuristicResult_t best;
    cublasStatus_t s;
    int found = 0;
    if (blas_is(&s, describe(p, epilogue, plan)) && blas_is(&s, prefer(p, &preference)) &&
        blas_is(&s, cublasLtMatmulAlgoGetHeuristic(x->blas, &plan->desc, &plan->b, &plan->a, &plan->c, &plan->c,
                                                   &preference, 1, &best, &found)))
        s = found > 0 ? best.state : CUBLAS_STATUS_NOT_SUPPORTED;
    if (s == CUBLAS_STATUS_SUCCESS)
        plan->algorithm = best.algo;
    return s;
}

static ebb_status_t blas_failed(const product_t *p, cublasStatus_t s)
{
    static const char *const names[] = {"float32", "tf32", "bf16"};
    return EBB_FAIL(EBB_EUNAVAILABLE, "cuBLAS product of (%lld,%lld) by (%lld,%lld) in %s failed: %s", (long long)p->M,
                    (long long)p->K, (long long)p->K, (long long)p->N, names[p->precision], cublasLtGetStatusString(s));
}

/* The place of a product's plan, or the free one that it would take. */
static plan_t *place_of(ebb_exec_t *x, const product_t *p)
{
    uint64_t words[sizeof *p / sizeof(uint64_t)], hash = 0;
    memcpy(words, p, sizeof *p);
    for (uint64_t word : words)
        hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
    for (uint64_t at = hash >> 32;; at++) {
        plan_t *plan = &x->plan[at % PLANS];
        if (plan->product.M == 0 || memcmp(&plan->product, p, sizeof *p) == 0)
            return plan;
    }
}

/* A table that gets full begins anew: the answers will be the same. An epilogue that is not offered for a product is
 * left out of it, and follows in a kernel. */
static ebb_status_t plan_of(ebb_exec_t *x, const product_t *p, plan_t **plan_p)
{
    plan_t *plan = place_of(x, p);
    *plan_p = plan;
    if (plan->product.M != 0)
        return EBB_OK;
    if (x->plans == PLANS / 2) {
        memset(x->plan, 0, PLANS * sizeof *x->plan);
        x->plans = 0;
        *plan_p = plan = place_of(x, p);
    }
    cublasStatus_t s = choose(x, p, (uint32_t)p->epilogue, plan);
    if (s != CUBLAS_STATUS_SUCCESS && p->epilogue != CUBLASLT_EPILOGUE_DEFAULT)
        s = choose(x, p, CUBLASLT_EPILOGUE_DEFAULT, plan);
    if (s != CUBLAS_STATUS_SUCCESS)
        return blas_failed(p, s);
    plan->product = *p;
    x->plans++;
    return EBB_OK;
}

/* ---- operands ---- */

/* To the nearest bf16, ties to even. */
DEVICE uint16_t bf16_of(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return (uint16_t)(nan ? bits >> 16 | 0x40u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

KERNEL to_bf16_kernel(int64_t n, int64_t cols, const float *in, int64_t ld, uint16_t *out, int64_t ld_out)
{
    EACH(i, n)
    {
        out[i / cols * ld_out + i % cols] = bf16_of(in[i / cols * ld + i % cols]);
    }
}

struct alignas(8) halves {
    uint16_t v[4];
};

/* The same of n times four floats that lie side by side already. */
KERNEL to_bf16_fours_kernel(int64_t n, const float *in, uint16_t *out)
{
    EACH(i, n)
    {
        floats<4> four = ((const floats<4> *)in)[i];
        halves result;
        for (int l = 0; l < 4; l++)
            result.v[l] = bf16_of(four.v[l]);
        ((halves *)out)[i] = result;
    }
}

KERNEL copy_rows_kernel(int64_t n, int64_t cols, int64_t ld, const float *in, float *out)
{
    EACH(i, n)
    {
        out[i / cols * ld + i % cols] = in[i / cols * ld + i % cols];
    }
}

/* Rows of floats in a room of their own, where they lie as promised. */
static ebb_status_t copy_rows(ebb_exec_t *x, room_t *room, int64_t rows, int64_t cols, int64_t ld, const float *in)
{
    EBB_TRY(ebb_cuda_room(x, room, rows * ld, sizeof(float), "operands of a dense product"));
    LAUNCH(copy_rows_kernel, rows * cols, x, cols, ld, in, (float *)room->ptr);
    return EBB_OK;
}

static bool lies_as_promised(const float *p, int64_t ld)
{
    return (uintptr_t)p % alignment_of(ld) == 0;
}

/* Rows of floats to bf16, new ones ld_out apart. */
static void round_rows(ebb_exec_t *x, int64_t rows, int64_t cols, const float *in, int64_t ld, uint16_t *out,
                       int64_t ld_out)
{
    if (ld == cols && cols == ld_out && rows * cols % 4 == 0 && are_aligned(in))
        LAUNCH(to_bf16_fours_kernel, rows * cols / 4, x, in, out);
    else
        LAUNCH(to_bf16_kernel, rows * cols, x, cols, in, ld, out, ld_out);
}

/* Held weights as place_factor would lay them out, or NULL. */
static const uint16_t *rounded_before(const held_t *held, int64_t rows, int64_t cols, const float *p, int64_t ld)
{
    uintptr_t begin = (uintptr_t)held->w, at = (uintptr_t)p;
    int64_t skip = (int64_t)((at - begin) / sizeof *p);
    if (!held->w || !held->rounded || at < begin || skip + rows * cols > held->n)
        return NULL;
    return ld == cols && cols % HALVES == 0 && skip % HALVES == 0 ? (const uint16_t *)held->room.ptr + skip : NULL;
}

/* A factor in bf16, its rows on full words. */
static ebb_status_t place_halves(ebb_exec_t *x, room_t *room, int64_t rows, int64_t cols, const void **p, int64_t *ld)
{
    const float *in = (const float *)*p;
    int64_t wide = (cols + HALVES - 1) / HALVES * HALVES;
    *p = rounded_before(&x->device->held, rows, cols, in, *ld);
    if (*p)
        return EBB_OK;
    EBB_TRY(ebb_cuda_room(x, room, rows * wide, sizeof(uint16_t), "factors in bf16"));
    round_rows(x, rows, cols, in, *ld, (uint16_t *)room->ptr, wide);
    *p = room->ptr;
    *ld = wide;
    return EBB_OK;
}

static ebb_status_t place_factor(ebb_exec_t *x, room_t *room, int64_t rows, int64_t cols, const void **p, int64_t *ld)
{
    const float *in = (const float *)*p;
    if (x->device->precision == EBB_PRECISION_BF16)
        return place_halves(x, room, rows, cols, p, ld);
    if (lies_as_promised(in, *ld))
        return EBB_OK;
    EBB_TRY(copy_rows(x, room, rows, cols, *ld, in));
    *p = room->ptr;
    return EBB_OK;
}

/* A graph that took up a product of held weights reads their room again when it is replayed: it stays where it is
 * unless more are held than ever before. */
ebb_status_t ebb_cuda_hold_weights(ebb_exec_t *x, int64_t n, const float *w)
{
    held_t *held = &x->device->held;
    held->w = NULL;
    EBB_TRY(ebb_cuda_use(x));
    held->rounded = n > 0 && x->device->precision == EBB_PRECISION_BF16;
    if (held->rounded) {
        EBB_TRY(ebb_cuda_room(x, &held->room, n, sizeof(uint16_t), "weights in bf16"));
        round_rows(x, 1, n, w, n, (uint16_t *)held->room.ptr, n);
        LAUNCHED("weights in bf16");
    }
    held->n = n;
    held->w = n > 0 ? w : NULL;
    return EBB_OK;
}

/* ---- products ---- */

KERNEL epilogue_kernel(int64_t n, int64_t N, float *C, int64_t ldc, const float *bias, ebb_act_t act)
{
    EACH(i, n)
    {
        int64_t row = i / N, column = i % N;
        float *c = C + row * ldc + column;
        *c = act_of(act, bias ? *c + bias[column] : *c);
    }
}

KERNEL clear_kernel(int64_t n, int64_t N, float *C, int64_t ldc)
{
    EACH(i, n)
    {
        C[i / N * ldc + i % N] = 0.0f;
    }
}

static cublasLtEpilogue_t epilogue_of(const float *bias, ebb_act_t act)
{
    if (act == EBB_ACT_RELU)
        return bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
    return bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

/* Of what is to follow the product only that is left which was not fused. */
static ebb_status_t multiply(ebb_exec_t *x, const product_t *p, const void *A, const void *B, float beta, float *C,
                             const float **bias, ebb_act_t *act)
{
    const float one = 1.0f;
    plan_t *plan;
    cublasStatus_t s = CUBLAS_STATUS_SUCCESS;
    EBB_TRY(plan_of(x, p, &plan));
    if (plan->epilogue & CUBLASLT_EPILOGUE_BIAS) {
        s = cublasLtMatmulDescSetAttribute(&plan->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias, sizeof *bias);
        *bias = NULL;
    }
    if (plan->epilogue & CUBLASLT_EPILOGUE_RELU)
        *act = EBB_ACT_NONE;
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmul(x->blas, &plan->desc, &one, B, &plan->b, A, &plan->a, &beta, C, &plan->c, C, &plan->c,
                           &plan->algorithm, x->blas_room.ptr, BLAS_ROOM, x->stream);
    return s == CUBLAS_STATUS_SUCCESS ? EBB_OK : blas_failed(p, s);
}

/* A result that does not lie as promised is made elsewhere and brought home. */
static ebb_status_t multiply_elsewhere(ebb_exec_t *x, const product_t *p, const void *A, const void *B, float beta,
                                       float *C, const float **bias, ebb_act_t *act)
{
    EBB_TRY(copy_rows(x, &x->result, p->M, p->N, p->ldc, C));
    float *result = (float *)x->result.ptr;
    EBB_TRY(multiply(x, p, A, B, beta, result, bias, act));
    LAUNCH(copy_rows_kernel, p->M * p->N, x, p->N, p->ldc, result, C);
    return EBB_OK;
}

static ebb_status_t product(ebb_exec_t *x, bool ta, bool tb, int64_t M, int64_t N, int64_t K, const void *A,
                            int64_t lda, const void *B, int64_t ldb, float beta, float *C, int64_t ldc,
                            const float **bias, ebb_act_t *act)
{
    EBB_TRY(place_factor(x, &x->factor_a, ta ? K : M, ta ? M : K, &A, &lda));
    EBB_TRY(place_factor(x, &x->factor_b, tb ? N : K, tb ? K : N, &B, &ldb));
    const product_t p = {
        M, N, K, lda, ldb, ldc, ta, tb, (int32_t)x->device->precision, (int32_t)epilogue_of(*bias, *act)};
    if (*bias && (uintptr_t)*bias % WIDE != 0) {
        EBB_TRY(copy_rows(x, &x->bias, 1, N, N, *bias));
        *bias = (const float *)x->bias.ptr;
    }
    return lies_as_promised(C, ldc) ? multiply(x, &p, A, B, beta, C, bias, act)
                                    : multiply_elsewhere(x, &p, A, B, beta, C, bias, act);
}

ebb_status_t ebb_cuda_set_precision(void *dev, ebb_precision_t precision)
{
    cuda_device_t *device = (cuda_device_t *)dev;
    if (precision == EBB_PRECISION_BF16 && device->properties.major < 8)
        return EBB_FAIL(EBB_EUNAVAILABLE, "%s computes no bf16: it takes a GPU of compute capability 8.0 or newer",
                        device->properties.name);
    device->precision = precision;
    return EBB_OK;
}

static bool fits_blas(int64_t n)
{
    return n <= INT32_MAX;
}

ebb_status_t ebb_cuda_gemm(ebb_exec_t *x, bool ta, bool tb, int64_t M, int64_t N, int64_t K, const float *A,
                           int64_t lda, const float *B, int64_t ldb, float beta, float *C, int64_t ldc,
                           const float *bias, ebb_act_t act)
{
    if (M < 0 || N < 0 || K < 0 || lda < (ta ? M : K) || ldb < (tb ? K : N) || ldc < N)
        return EBB_FAIL(
            EBB_EINVAL, "gemm of (%lld,%lld) by (%lld,%lld): leading dimensions %lld, %lld, %lld are too small",
            (long long)M, (long long)K, (long long)K, (long long)N, (long long)lda, (long long)ldb, (long long)ldc);
    if (!fits_blas(M) || !fits_blas(N) || !fits_blas(K) || !fits_blas(lda) || !fits_blas(ldb) || !fits_blas(ldc))
        return EBB_FAIL(EBB_EINVAL, "gemm of (%lld,%lld) by (%lld,%lld): too large for cuBLAS", (long long)M,
                        (long long)K, (long long)K, (long long)N);
    if (M == 0 || N == 0)
        return EBB_OK;
    EBB_TRY(ebb_cuda_use(x));
    EBB_TRY(ebb_cuda_check_written(x, C, (size_t)(M * ldc) * sizeof *C));
    if (K > 0) {
        EBB_TRY(ebb_cuda_blas_start(x));
        EBB_TRY(product(x, ta, tb, M, N, K, A, lda, B, ldb, beta, C, ldc, &bias, &act));
    } else if (beta == 0.0f) {
        LAUNCH(clear_kernel, M * N, x, N, C, ldc);
    }
    if (bias || act != EBB_ACT_NONE)
        LAUNCH(epilogue_kernel, M * N, x, N, C, ldc, bias, act);
    LAUNCHED("dense product");
    return EBB_OK;
}
