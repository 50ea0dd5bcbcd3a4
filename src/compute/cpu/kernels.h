/* The kernels of one instruction set. All sets give the same bits: what is summed along a row uses a fixed number of
 * interleaved partial sums, everything else is one chain of explicit operations per element. */
#ifndef EBB_COMPUTE_CPU_KERNELS_H
#define EBB_COMPUTE_CPU_KERNELS_H

#include <ebb/compute.h>

/* A non-zero after grouping by column: its value and the row of the gradient it meets. */
typedef ebb_term_t entry_t;

typedef struct loss_args {
    ebb_loss_kind_t kind;
    float huber_delta;
    int64_t rows, width;
    const float *out;
    const int32_t *label;
    const float *y, *weight, *class_weight;
    double *row_loss;
    const double *row_weight; /* of each row, filled before the call */
    float *dout;
} loss_args_t;

typedef struct kernels {
    const char *name; /* "avx512" */

    /* C = act(C + bias), row by row; bias may be NULL. */
    void (*epilogue)(int64_t M, int64_t N, float *C, int64_t ldc, const float *bias, ebb_act_t act);
    void (*bias_grad)(int64_t M, int64_t N, const float *dY, float beta, float *db);
    void (*act_forward)(ebb_act_t act, int64_t n, const float *in, float *out);
    void (*act_backward)(ebb_act_t act, int64_t n, const float *in, const float *out, const float *dout, float *din);
    void (*layernorm_forward)(int64_t M, int64_t N, const float *in, const float *gamma, const float *beta, float eps,
                              float *out, float *mean, float *rstd);
    void (*layernorm_backward)(int64_t M, int64_t N, const float *in, const float *gamma, const float *mean,
                               const float *rstd, const float *dout, float *din, float *dgamma, float *dbeta);
    void (*dropout)(int64_t n, float p, const uint64_t key[2], uint64_t index0, const float *in, float *out);

    void (*csr_gemm)(const ebb_csr_t *X, int64_t H, const float *W, int64_t ldw, const float *bias, ebb_act_t act,
                     float *Y);
    /* Grouping by column, see group.inc. */
    int64_t (*group_rank)(int64_t n, const int32_t *col, const int32_t *source, uint64_t *bits, uint64_t *summary,
                          int64_t summary_words, int32_t *base, int32_t *idx, int32_t *rank);
    void (*group_place)(const ebb_csr_t *X, const int32_t *source, const int32_t *rank, int64_t met, int64_t *begin,
                        entry_t *entries);
    void (*rank_scatter)(const ebb_csr_t *X, const int32_t *source, const int32_t *rank, int64_t H, const float *dY,
                         float *val);
    /* val[k] = sum of entries begin[k] .. begin[k+1]-1 of val * dY[source * H ...]; prefetches for up to `known`. */
    void (*group_sum)(int64_t n, const int64_t *begin, int64_t known, const entry_t *entries, int64_t H,
                      const float *dY, float *val);
    void (*csr_grad_dense)(const ebb_csr_t *X, int64_t H, const float *dY, float *G);
    void (*fm_forward)(const ebb_csr_t *X, int64_t k, const float *T, const float *bias, float *out, float *sums);
    void (*fm_group)(int64_t n, const int32_t *idx, const int64_t *begin, const entry_t *entries, int64_t k,
                     const float *T, const float *sums, const float *dout, float *val);
    void (*fm_grad_dense)(const ebb_csr_t *X, int64_t k, const float *T, const float *sums, const float *dout,
                          float *G);
    /* source: row of Y, seen as (rows * n_fields, dim), that each non-zero meets, or -1. */
    void (*embed_forward)(const ebb_csr_t *X, const int32_t *source, int64_t dim, const float *T, float *Y);
    void (*embed_grad_dense)(const ebb_csr_t *X, const int32_t *source, int64_t dim, const float *dY, float *G);

    void (*loss)(const loss_args_t *a);
    void (*link)(ebb_loss_kind_t kind, int64_t rows, int64_t width, const float *out, float *pred);

    void (*add)(int64_t n, const float *a, const float *b, float *out);
    double (*sumsq)(int64_t n, const float *a);
    void (*update)(const ebb_optim_hyper_t *h, int64_t n, float *w, const float *g, float *s0, float *s1);
    void (*update_rows)(const ebb_optim_hyper_t *h, int64_t n, int64_t width, const int32_t *idx_w,
                        const int32_t *idx_s, float *w, const float *g, float *s0, float *s1);
} kernels_t;

extern const kernels_t ebb_kernels_scalar;
#ifdef __x86_64__
extern const kernels_t ebb_kernels_avx2, ebb_kernels_avx512;
#endif

#endif
