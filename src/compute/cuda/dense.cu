/* Activations, layer normalisation and dropout; the sums over rows that gradients of biases and of layer normalisation
 * are, in pieces of PIECE rows, the pieces in order. */
#include "compute/cuda/math.h"

enum { PIECE = 32 };

/* ---- sums over rows ---- */

/* partial (pieces, N): sums of PIECE rows each of a, and of a times b where b is given. */
KERNEL row_pieces_kernel(int64_t n, int64_t M, int64_t N, const float *a, const float *b, float *partial)
{
    EACH(i, n)
    {
        int64_t piece = i / N, column = i % N;
        int64_t end = (piece + 1) * PIECE < M ? (piece + 1) * PIECE : M;
        float sum = 0.0f;
        for (int64_t r = piece * PIECE; r < end; r++)
            sum = b ? fmaf(a[r * N + column], b[r * N + column], sum) : sum + a[r * N + column];
        partial[i] = sum;
    }
}

KERNEL add_pieces_kernel(int64_t N, int64_t pieces, const float *partial, float beta, float *out)
{
    EACH(column, N)
    {
        float sum = 0.0f;
        for (int64_t p = 0; p < pieces; p++)
            sum += partial[p * N + column];
        out[column] = beta == 0.0f ? sum : out[column] + sum;
    }
}

/* out (N) = beta out + sum over rows of a, or of a b. */
static ebb_status_t sum_over_rows(ebb_exec_t *x, int64_t M, int64_t N, const float *a, const float *b, float beta,
                                  float *out)
{
    int64_t pieces = (M + PIECE - 1) / PIECE;
    EBB_TRY(ebb_cuda_room(x, &x->partial, pieces * N, sizeof(float), "partial sums"));
    float *partial = (float *)x->partial.ptr;
    LAUNCH(row_pieces_kernel, pieces * N, x, M, N, a, b, partial);
    LAUNCH(add_pieces_kernel, N, x, pieces, partial, beta, out);
    LAUNCHED("sum over rows");
    return EBB_OK;
}

ebb_status_t ebb_cuda_bias_grad(ebb_exec_t *x, int64_t M, int64_t N, const float *dY, float beta, float *db)
{
    return sum_over_rows(x, M, N, dY, NULL, beta, db);
}

/* ---- element by element ---- */

KERNEL act_kernel(int64_t n, ebb_act_t act, const float *in, float *out)
{
    EACH(i, n)
    {
        out[i] = act_of(act, in[i]);
    }
}

KERNEL act_back_kernel(int64_t n, ebb_act_t act, const float *in, const float *out, const float *dout, float *din)
{
    EACH(i, n)
    {
        float slope = act_slope(act, in ? in[i] : 0.0f, out ? out[i] : 0.0f);
        din[i] = slope == 0.0f && act == EBB_ACT_RELU ? 0.0f : dout[i] * slope;
    }
}

ebb_status_t ebb_cuda_act_forward(ebb_exec_t *x, ebb_act_t act, int64_t n, const float *in, float *out)
{
    if (act == EBB_ACT_NONE && in == out)
        return EBB_OK;
    EBB_TRY(ebb_cuda_use(x));
    LAUNCH(act_kernel, n, x, act, in, out);
    LAUNCHED("activation");
    return EBB_OK;
}

ebb_status_t ebb_cuda_act_backward(ebb_exec_t *x, ebb_act_t act, int64_t n, const float *in, const float *out,
                                   const float *dout, float *din)
{
    if (act == EBB_ACT_GELU ? !in : act != EBB_ACT_NONE && !out)
        return EBB_FAIL(EBB_EINVAL, "activation %d: its backward pass needs the %s of the forward pass", (int)act,
                        act == EBB_ACT_GELU ? "input" : "output");
    EBB_TRY(ebb_cuda_use(x));
    LAUNCH(act_back_kernel, n, x, act, in, out, dout, din);
    LAUNCHED("gradient of an activation");
    return EBB_OK;
}

/* Word n % 4 of philox 4x32-10 (Salmon et al. 2011), as compute.h says. */
DEVICE uint32_t philox_word(uint64_t key0, uint64_t key1, uint64_t n)
{
    uint32_t k0 = (uint32_t)key0, k1 = (uint32_t)(key0 >> 32);
    uint32_t c[4] = {(uint32_t)(n / 4), (uint32_t)(n / 4 >> 32), (uint32_t)key1, (uint32_t)(key1 >> 32)};
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c[0], p1 = (uint64_t)0xCD9E8D57u * c[2];
        c[0] = (uint32_t)(p1 >> 32) ^ c[1] ^ k0;
        c[1] = (uint32_t)p1;
        c[2] = (uint32_t)(p0 >> 32) ^ c[3] ^ k1;
        c[3] = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c[n % 4];
}

KERNEL dropout_kernel(int64_t n, float p, float scale, uint64_t key0, uint64_t key1, uint64_t index0, const float *in,
                      float *out)
{
    EACH(i, n)
    {
        float u = (float)(philox_word(key0, key1, index0 + (uint64_t)i) >> 8) * 0x1p-24f;
        out[i] = u >= p ? in[i] * scale : 0.0f;
    }
}

ebb_status_t ebb_cuda_dropout(ebb_exec_t *x, int64_t n, float p, const uint64_t key[2], uint64_t index0,
                              const float *in, float *out)
{
    if (!(p >= 0.0f && p < 1.0f))
        return EBB_FAIL(EBB_EINVAL, "dropout with probability %g: it must be at least 0 and below 1", (double)p);
    EBB_TRY(ebb_cuda_not_noted(x, "dropout"));
    EBB_TRY(ebb_cuda_use(x));
    LAUNCH(dropout_kernel, n, x, p, 1.0f / (1.0f - p), key[0], key[1], index0, in, out);
    LAUNCHED("dropout");
    return EBB_OK;
}

/* ---- layer normalisation: a block a row ---- */

KERNEL norm_kernel(int64_t N, const float *in, const float *gamma, const float *beta, float eps, float *out,
                   float *mean, float *rstd)
{
    SHARED float part[BLOCK_THREADS], center, scale;
    int64_t row = BLOCK_INDEX;
    const float *v = in + row * N;
    EACH_THREAD(t)
    {
        part[t] = 0.0f;
        for (int64_t j = t; j < N; j += BLOCK_THREADS)
            part[t] += v[j];
    }
    BARRIER;
    BLOCK_SUM(part)
    EACH_THREAD(t)
    {
        if (t == 0)
            center = part[0] / (float)N;
    }
    BARRIER;
    EACH_THREAD(t)
    {
        part[t] = 0.0f;
        for (int64_t j = t; j < N; j += BLOCK_THREADS)
            part[t] += (v[j] - center) * (v[j] - center);
    }
    BARRIER;
    BLOCK_SUM(part)
    EACH_THREAD(t)
    {
        if (t == 0) {
            scale = 1.0f / sqrtf(part[0] / (float)N + eps);
            mean[row] = center;
            rstd[row] = scale;
        }
    }
    BARRIER;
    EACH_THREAD(t)
    {
        for (int64_t j = t; j < N; j += BLOCK_THREADS)
            out[row * N + j] = fmaf((v[j] - center) * scale, gamma[j], beta[j]);
    }
}

/* din, and xhat (the normalised input), which the gradient of gamma is then summed from. */
KERNEL norm_back_kernel(int64_t N, const float *in, const float *gamma, const float *mean, const float *rstd,
                        const float *dout, float *din, float *xhat)
{
    SHARED float part_g[BLOCK_THREADS], part_gx[BLOCK_THREADS];
    int64_t row = BLOCK_INDEX;
    const float *v = in + row * N, *d = dout + row * N;
    float *normal = xhat + row * N, m = mean[row], s = rstd[row];
    EACH_THREAD(t)
    {
        part_g[t] = part_gx[t] = 0.0f;
        for (int64_t j = t; j < N; j += BLOCK_THREADS) {
            normal[j] = (v[j] - m) * s;
            part_g[t] += d[j] * gamma[j];
            part_gx[t] += d[j] * gamma[j] * normal[j];
        }
    }
    BARRIER;
    BLOCK_SUM(part_g)
    BLOCK_SUM(part_gx)
    EACH_THREAD(t)
    {
        float mean_g = part_g[0] / (float)N, mean_gx = part_gx[0] / (float)N;
        for (int64_t j = t; j < N; j += BLOCK_THREADS)
            din[row * N + j] = s * fmaf(-normal[j], mean_gx, d[j] * gamma[j] - mean_g);
    }
}

ebb_status_t ebb_cuda_layernorm_forward(ebb_exec_t *x, int64_t M, int64_t N, const float *in, const float *gamma,
                                        const float *beta, float eps, float *out, float *mean, float *rstd)
{
    if (N < 1)
        return EBB_FAIL(EBB_EINVAL, "layer normalisation of rows without columns");
    EBB_TRY(ebb_cuda_use(x));
    LAUNCH_BLOCKS(norm_kernel, M, x, N, in, gamma, beta, eps, out, mean, rstd);
    LAUNCHED("layer normalisation");
    return EBB_OK;
}

/* din may lie over dout, from which dbeta and dgamma are summed: that comes before. */
ebb_status_t ebb_cuda_layernorm_backward(ebb_exec_t *x, int64_t M, int64_t N, const float *in, const float *gamma,
                                         const float *mean, const float *rstd, const float *dout, float *din, float acc,
                                         float *dgamma, float *dbeta)
{
    EBB_TRY(ebb_cuda_room(x, &x->source, 2 * M * N, sizeof(float), "layer normalisation"));
    float *xhat = (float *)x->source.ptr, *result = xhat + M * N;
    LAUNCH_BLOCKS(norm_back_kernel, M, x, N, in, gamma, mean, rstd, dout, result, xhat);
    LAUNCHED("gradient of layer normalisation");
    EBB_TRY(sum_over_rows(x, M, N, dout, xhat, acc, dgamma));
    EBB_TRY(sum_over_rows(x, M, N, dout, NULL, acc, dbeta));
    return ebb_cuda_copy(x, din, result, (size_t)(M * N) * sizeof *din);
}
