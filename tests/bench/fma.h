/* The FMA peak of the CPU that runs this: chains of independent fused multiply-adds in registers, nothing else. */
#ifndef EBB_TESTS_BENCH_FMA_H
#define EBB_TESTS_BENCH_FMA_H

#ifdef __x86_64__
#include <immintrin.h>
#endif

enum { FMA_CHAINS = 12, FMA_LOOPS = 20000 };

static volatile float fma_sink;

#ifdef __x86_64__
__attribute__((target("avx512f"))) static void fma_avx512(void *user)
{
    __m512 a[FMA_CHAINS], b = _mm512_set1_ps(0.999f), c = _mm512_set1_ps(0.001f), sum = c;
    for (int i = 0; i < FMA_CHAINS; i++)
        a[i] = _mm512_set1_ps((float)i);
    for (int k = 0; k < FMA_LOOPS; k++)
#pragma GCC unroll 12
        for (int i = 0; i < FMA_CHAINS; i++)
            a[i] = _mm512_fmadd_ps(a[i], b, c);
    for (int i = 0; i < FMA_CHAINS; i++)
        sum = _mm512_add_ps(sum, a[i]);
    fma_sink = _mm512_cvtss_f32(sum);
}

__attribute__((target("avx2,fma"))) static void fma_avx2(void *user)
{
    __m256 a[FMA_CHAINS], b = _mm256_set1_ps(0.999f), c = _mm256_set1_ps(0.001f), sum = c;
    for (int i = 0; i < FMA_CHAINS; i++)
        a[i] = _mm256_set1_ps((float)i);
    for (int k = 0; k < FMA_LOOPS; k++)
#pragma GCC unroll 12
        for (int i = 0; i < FMA_CHAINS; i++)
            a[i] = _mm256_fmadd_ps(a[i], b, c);
    for (int i = 0; i < FMA_CHAINS; i++)
        sum = _mm256_add_ps(sum, a[i]);
    fma_sink = _mm256_cvtss_f32(sum);
}
#endif

static void fma_scalar(void *user)
{
    float a[FMA_CHAINS] = {0}, sum = 0;
    for (int k = 0; k < FMA_LOOPS; k++)
        for (int i = 0; i < FMA_CHAINS; i++)
            a[i] = __builtin_fmaf(a[i], 0.999f, 0.001f);
    for (int i = 0; i < FMA_CHAINS; i++)
        sum += a[i];
    fma_sink = sum;
}

/* A run of the loop, and the floating-point operations that it does. */
static void (*fma_loop(double *flop_p))(void *)
{
    double chains = 2.0 * FMA_CHAINS * FMA_LOOPS;
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx512f"))
        return *flop_p = 16 * chains, fma_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return *flop_p = 8 * chains, fma_avx2;
#endif
    return *flop_p = chains, fma_scalar;
}

#endif
