/* Activations and their slopes. exp, erf and tanh are CUDA's: within some ulp of the CPU's, not bit-equal. */
#ifndef EBB_COMPUTE_CUDA_MATH_H
#define EBB_COMPUTE_CUDA_MATH_H

#include "compute/cuda/cuda.h"

#include <math.h>

DEVICE float act_of(ebb_act_t act, float v)
{
    switch (act) {
    case EBB_ACT_RELU: return v > 0.0f ? v : 0.0f;
    case EBB_ACT_GELU: return 0.5f * v * (1.0f + erff(v * 0.70710678f));
    case EBB_ACT_TANH: return tanhf(v);
    case EBB_ACT_SIGMOID: {
        float u = expf(-fabsf(v));
        return (v >= 0.0f ? 1.0f : u) / (1.0f + u);
    }
    default: return v;
    }
}

DEVICE float act_slope(ebb_act_t act, float in, float out)
{
    switch (act) {
    case EBB_ACT_RELU: return out > 0.0f ? 1.0f : 0.0f;
    case EBB_ACT_GELU: {
        float density = 0.39894228f * expf(-0.5f * in * in);
        return fmaf(in, density, 0.5f * (1.0f + erff(in * 0.70710678f)));
    }
    case EBB_ACT_TANH: return fmaf(-out, out, 1.0f);
    case EBB_ACT_SIGMOID: return out * (1.0f - out);
    default: return 1.0f;
    }
}

/* The interval that holds j: begin[i] <= j < begin[i + 1], i < n; the last one where some are empty. */
DEVICE int64_t interval_of(int64_t j, int64_t n, const int64_t *begin)
{
    int64_t lo = 0, hi = n;
    while (hi - lo > 1) {
        int64_t mid = lo + (hi - lo) / 2;
        if (begin[mid] <= j)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

#endif
