/* Dense products by oneDNN's sgemm on one thread, then bias and activation over C while it is in cache. sgemm keeps no
 * state per shape and gives the same bits whatever the alignment (tests/unit/compute/test_gemm.c). oneDNN's runtime is
 * OpenMP: the calling thread's team size is set to 1 around the call, because a lane is one thread; another thread's
 * setting is not touched.
 *
 * oneDNN's AVX-512 kernels use the stack pointer as one more register (seen in 2.6.3): a signal delivered meanwhile has
 * its frame written over whatever that points to, the heap included. Signals wait until the product is done; threads
 * that hold them back anyway, and callers that hold them for several products, pay nothing for that. */
#include "base/signals.h"
#include "compute/cpu/cpu.h"

#include <oneapi/dnnl/dnnl.h>
#include <string.h>

/* From OpenMP's runtime; <omp.h> does not come with every compiler. */
extern int omp_get_max_threads(void);
extern void omp_set_num_threads(int threads);

static ebb_status_t check_shape(bool ta, bool tb, int64_t M, int64_t N, int64_t K, int64_t lda, int64_t ldb,
                                int64_t ldc)
{
    if (M < 0 || N < 0 || K < 0 || lda < (ta ? M : K) || ldb < (tb ? K : N) || ldc < N)
        return EBB_FAIL(
            EBB_EINVAL, "gemm of (%lld,%lld) by (%lld,%lld): leading dimensions %lld, %lld, %lld are too small",
            (long long)M, (long long)K, (long long)K, (long long)N, (long long)lda, (long long)ldb, (long long)ldc);
    return EBB_OK;
}

ebb_status_t ebb_cpu_gemm(ebb_exec_t *x, bool ta, bool tb, int64_t M, int64_t N, int64_t K, const float *A, int64_t lda,
                          const float *B, int64_t ldb, float beta, float *C, int64_t ldc, const float *bias,
                          ebb_act_t act)
{
    EBB_TRY(check_shape(ta, tb, M, N, K, lda, ldb, ldc));
    if (M == 0 || N == 0)
        return EBB_OK;
    if (K > 0) {
        int threads = omp_get_max_threads();
        if (threads != 1)
            omp_set_num_threads(1);
        ebb_signals_hold();
        dnnl_status_t s = dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', M, N, K, 1.0f, A, lda, B, ldb, beta, C, ldc);
        ebb_signals_release();
        if (threads != 1)
            omp_set_num_threads(threads);
        if (s != dnnl_success)
            return EBB_FAIL(s == dnnl_out_of_memory ? EBB_ENOMEM : EBB_EBUG,
                            "oneDNN sgemm of (%lld,%lld) by (%lld,%lld) failed with status %d", (long long)M,
                            (long long)K, (long long)K, (long long)N, (int)s);
    } else if (beta == 0.0f) {
        for (int64_t r = 0; r < M; r++)
            memset(C + r * ldc, 0, (size_t)N * sizeof *C);
    }
    if (bias || act != EBB_ACT_NONE)
        x->kernels->epilogue(M, N, C, ldc, bias, act);
    return EBB_OK;
}
