/* The double's products. */
#include "compute/cuda/cuda.h"
#include "counts.h"

#include <atomic>
#include <functional>
#include <stdlib.h>
#include <string.h>

/* From which length a product is split in two, and which pieces a vector load needs to lie on. */
enum { LONG = 48, WIDE = 16 };

struct double_blas {
    int unused;
};

extern std::atomic<int64_t> ebb_double_products, ebb_double_heuristics;

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_NOT_SUPPORTED ? "not supported by the double" : "an error of the double";
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    *handle = (cublasLtHandle_t)calloc(1, sizeof **handle);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    free(handle);
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- descriptors ---- */

cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayout_t layout, cudaDataType_t type, uint64_t rows,
                                        uint64_t cols, int64_t ld)
{
    *layout = cublasLtMatrixLayoutOpaque_t{type, rows, cols, ld};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDesc_t desc, cublasComputeType_t compute, cudaDataType_t scale)
{
    *desc = cublasLtMatmulDescOpaque_t{compute, scale, CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, NULL};
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t set(void *to, size_t size, const void *value, size_t bytes)
{
    if (!to || !value || size != bytes)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, value, size);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes)
{
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return set(&desc->ta, sizeof desc->ta, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB: return set(&desc->tb, sizeof desc->tb, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return set(&desc->epilogue, sizeof desc->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return set(&desc->bias, sizeof desc->bias, value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreference_t preference)
{
    *preference = cublasLtMatmulPreferenceOpaque_t{0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void *value,
                                                    size_t bytes)
{
    cublasLtMatmulPreferenceOpaque_t *p = preference;
    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return set(&p->workspace, sizeof p->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return set(&p->reductions, sizeof p->reductions, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: {
        uint32_t *to = &p->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES];
        return set(to, sizeof *to, value, bytes);
    }
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

/* ---- problems ---- */

typedef struct problem {
    int64_t m, n, k, lda, ldb, ldc;
    int32_t ta, tb, type, compute;
    uint32_t epilogue, unused;
} problem_t;

static uint64_t number_of(const problem_t *p)
{
    uint64_t number = 1469598103934665603u;
    for (size_t i = 0; i < sizeof *p; i++)
        number = (number ^ ((const unsigned char *)p)[i]) * 1099511628211u;
    return number;
}

static bool is_layout(const cublasLtMatrixLayoutOpaque_t *l)
{
    return l && l->rows > 0 && l->cols > 0 && l->rows <= INT32_MAX && l->cols <= INT32_MAX && l->ld >= (int64_t)l->rows;
}

/* D = op(A) op(B) + C: shapes that fit, and a row of NVIDIA's table of types. */
static cublasStatus_t check(const cublasLtMatmulDescOpaque_t *desc, const cublasLtMatrixLayoutOpaque_t *a,
                            const cublasLtMatrixLayoutOpaque_t *b, const cublasLtMatrixLayoutOpaque_t *c,
                            const cublasLtMatrixLayoutOpaque_t *d, problem_t *p)
{
    if (!is_layout(a) || !is_layout(b) || !is_layout(c) || !is_layout(d) || desc->scale != CUDA_R_32F)
        return CUBLAS_STATUS_INVALID_VALUE;
    memset(p, 0, sizeof *p);
    p->m = (int64_t)d->rows;
    p->n = (int64_t)d->cols;
    p->k = (int64_t)(desc->ta == CUBLAS_OP_N ? a->cols : a->rows);
    uint64_t a_rows = desc->ta == CUBLAS_OP_N ? a->rows : a->cols, b_rows = desc->tb == CUBLAS_OP_N ? b->rows : b->cols;
    uint64_t b_cols = desc->tb == CUBLAS_OP_N ? b->cols : b->rows;
    if (a_rows != d->rows || b_cols != d->cols || b_rows != (uint64_t)p->k || c->rows != d->rows ||
        c->cols != d->cols || c->ld != d->ld)
        return CUBLAS_STATUS_INVALID_VALUE;
    bool tf32 = desc->compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    if (a->type != b->type || c->type != CUDA_R_32F || d->type != CUDA_R_32F || (tf32 && a->type != CUDA_R_32F))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    p->lda = a->ld;
    p->ldb = b->ld;
    p->ldc = d->ld;
    p->ta = desc->ta;
    p->tb = desc->tb;
    p->type = a->type;
    p->compute = desc->compute;
    p->epilogue = desc->epilogue;
    return CUBLAS_STATUS_SUCCESS;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* The largest power of two that all of it is a multiple of. */
static uint32_t alignment_of(uint64_t bits)
{
    return bits == 0 ? 256 : least(256, (uint32_t)(bits & -bits));
}

/* What the operands can be relied upon to lie on; a bias tells by its pointer, which is not followed. */
static void promise(const cublasLtMatmulDescOpaque_t *desc, const cublasLtMatmulPreferenceOpaque_t *preference,
                    uint32_t promised[5])
{
    memcpy(promised, preference->alignment, sizeof preference->alignment);
    promised[4] = desc->epilogue & CUBLASLT_EPILOGUE_BIAS ? alignment_of((uintptr_t)desc->bias) : 256;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t *results, int *found)
{
    problem_t p;
    *found = 0;
    ebb_double_heuristics++;
    cublasStatus_t status = wanted > 0 ? check(desc, a, b, c, d, &p) : CUBLAS_STATUS_INVALID_VALUE;
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    if (p.m == 1 && p.epilogue != CUBLASLT_EPILOGUE_DEFAULT) /* epilogues are not there for every shape */
        return CUBLAS_STATUS_NOT_SUPPORTED;
    cublasLtMatmulAlgo_t algorithm = {};
    size_t element = p.type == CUDA_R_16BF ? 2 : 4, both = 2 * (size_t)(p.m * p.n) * sizeof(float);
    uint32_t rows = alignment_of((uint64_t)(p.lda * (int64_t)element) | (uint64_t)(p.ldb * (int64_t)element) |
                                 (uint64_t)p.ldc * sizeof(float));
    promise(desc, preference, algorithm.alignment);
    bool wide = rows >= WIDE;
    for (uint32_t one : algorithm.alignment)
        wide = wide && one >= WIDE;
    for (uint32_t &one : algorithm.alignment)
        one = wide ? one : (uint32_t)element;
    algorithm.problem = number_of(&p);
    algorithm.backwards = !wide;
    algorithm.splits = 1;
    if (p.k >= LONG && preference->reductions & CUBLASLT_REDUCTION_SCHEME_INPLACE) {
        algorithm.reduction = CUBLASLT_REDUCTION_SCHEME_INPLACE;
        algorithm.splits = 2;
    } else if (p.k >= LONG && preference->reductions & CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE &&
               both <= preference->workspace) {
        algorithm.reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
        algorithm.splits = 2;
        algorithm.workspace = both;
    }
    memset(results, 0, sizeof *results);
    results->algo = algorithm;
    results->workspaceSize = algorithm.workspace;
    results->wavesCount = 1.0f;
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- products ---- */

/* Element i as the tensor cores see it: tf32 keeps 10 bits of the mantissa. */
static float factor_at(const void *p, int64_t i, const problem_t *problem)
{
    uint32_t bits = problem->type == CUDA_R_16BF ? (uint32_t)((const uint16_t *)p)[i] << 16 : ((const uint32_t *)p)[i];
    float value;
    if (problem->type == CUDA_R_32F && problem->compute == CUBLAS_COMPUTE_32F_FAST_TF32)
        bits = (bits + 0x1000u) & ~0x1fffu;
    memcpy(&value, &bits, sizeof value);
    return value;
}

typedef struct call {
    problem_t p;
    cublasLtMatmulAlgo_t algorithm;
    const void *A, *B;
    const float *bias;
    float *C, *workspace;
    float alpha, beta;
    bool swapped; /* what is reduced in place is added in whatever order */
} call_t;

/* Terms [begin, end) of element (i, j). */
static float part_of(const call_t *c, int64_t i, int64_t j, int64_t begin, int64_t end)
{
    const problem_t *p = &c->p;
    float sum = 0.0f;
    for (int64_t t = begin; t < end; t++) {
        int64_t q = c->algorithm.backwards ? end - 1 - (t - begin) : t;
        sum += factor_at(c->A, p->ta == CUBLAS_OP_N ? q * p->lda + i : i * p->lda + q, p) *
               factor_at(c->B, p->tb == CUBLAS_OP_N ? j * p->ldb + q : q * p->ldb + j, p);
    }
    return sum;
}

static float element_of(const call_t *c, int64_t i, int64_t j)
{
    const problem_t *p = &c->p;
    if (c->algorithm.splits == 1)
        return part_of(c, i, j, 0, p->k);
    float parts[2] = {part_of(c, i, j, 0, p->k / 3), part_of(c, i, j, p->k / 3, p->k)};
    if (c->algorithm.reduction == CUBLASLT_REDUCTION_SCHEME_INPLACE)
        return c->swapped ? part_of(c, i, j, 0, p->k) : parts[0] + parts[1];
    float *room = c->workspace + 2 * (j * p->m + i);
    room[0] = parts[0];
    room[1] = parts[1];
    return room[0] + room[1];
}

static void carry_out(const call_t *c)
{
    const problem_t *p = &c->p;
    for (int64_t j = 0; j < p->n; j++)
        for (int64_t i = 0; i < p->m; i++) {
            float *to = c->C + j * p->ldc + i, value = c->alpha * element_of(c, i, j);
            value = c->beta == 0.0f ? value : value + c->beta * *to;
            value = p->epilogue & CUBLASLT_EPILOGUE_BIAS ? value + c->bias[i] : value;
            *to = p->epilogue & CUBLASLT_EPILOGUE_RELU && !(value > 0.0f) ? 0.0f : value;
        }
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha, const void *A,
                              cublasLtMatrixLayout_t a, const void *B, cublasLtMatrixLayout_t b, const void *beta,
                              const void *C, cublasLtMatrixLayout_t c, void *D, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t *algorithm, void *workspace, size_t bytes, cudaStream_t stream)
{
    static std::atomic<int> calls;
    call_t call;
    cublasStatus_t status = check(desc, a, b, c, d, &call.p);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    const void *bias = desc->epilogue & CUBLASLT_EPILOGUE_BIAS ? desc->bias : workspace;
    const void *operands[] = {A, B, C, D, bias};
    if (!algorithm)
        return CUBLAS_STATUS_INVALID_VALUE;
    for (int i = 0; i < 5; i++)
        if (!operands[i] || (uintptr_t)operands[i] % algorithm->alignment[i] != 0)
            return CUBLAS_STATUS_INVALID_VALUE;
    if (C != D || algorithm->problem != number_of(&call.p) || bytes < algorithm->workspace ||
        (uintptr_t)workspace % WIDE != 0)
        return CUBLAS_STATUS_INVALID_VALUE;
    call.algorithm = *algorithm;
    call.A = A;
    call.B = B;
    call.C = (float *)D;
    call.bias = (const float *)bias;
    call.workspace = (float *)workspace;
    call.alpha = *(const float *)alpha;
    call.beta = *(const float *)beta;
    call.swapped = calls++ % 2 == 1;
    ebb_double_products++;
    ebb_double_enqueue(stream, [=] { carry_out(&call); });
    return CUBLAS_STATUS_SUCCESS;
}
