/* The CPU backend's own parts: execution context, grouping by column, dense products. */
#ifndef EBB_COMPUTE_CPU_CPU_H
#define EBB_COMPUTE_CPU_CPU_H

#include <ebb/compute.h>
#include "compute/cpu/kernels.h"

enum { SLOTS = 8 };

/* A row-sparse result that stays the context's own until the next call with its slot. */
typedef struct slot {
    int32_t *idx;
    float *val;
    int64_t idx_capacity, val_capacity;
} slot_t;

/* Non-zeros in the order of their columns' ranks. */
typedef struct placed {
    int64_t *begin;
    entry_t *entries;
    int64_t begin_capacity, entries_capacity;
} placed_t;

/* Work space of grouping. The bitmaps are clear between calls. Arrays grow and are never shrunk. */
typedef struct group {
    uint64_t *bits, *summary; /* bit c of bits: column c is met; bit w of summary: word w of bits is not 0 */
    int32_t *base;            /* per word of bits: number of columns met before it */
    int64_t columns;          /* that the bitmaps have room for */
    int32_t *rank, *source;   /* per non-zero */
    int64_t rank_capacity, source_capacity;
    placed_t placed;
} group_t;

struct ebb_exec {
    const kernels_t *kernels;
    slot_t slot[SLOTS];
    group_t group;
};

/* Rank the columns of X's non-zeros: *idx_p ascending, group->rank per non-zero. source: NULL or per non-zero,
 * negative to leave it out. */
ebb_status_t ebb_group_rank(const kernels_t *kernels, group_t *group, const ebb_csr_t *X, const int32_t *source,
                            int32_t **idx_p, int64_t *idx_capacity, int64_t *met_p);
/* After that: the non-zeros in rank order. */
ebb_status_t ebb_group_place(const kernels_t *kernels, const group_t *group, const ebb_csr_t *X, const int32_t *source,
                             int64_t met, placed_t *placed);
/* Room for the table of per non-zero sources. */
ebb_status_t ebb_group_source(group_t *group, int64_t n);
void ebb_group_cleanup(group_t *group);

static inline int64_t csr_nonzeros(const ebb_csr_t *X)
{
    return X->rows > 0 ? X->rowptr[X->rows] - X->rowptr[0] : 0;
}

ebb_status_t ebb_cpu_gemm(ebb_exec_t *x, bool ta, bool tb, int64_t M, int64_t N, int64_t K, const float *A, int64_t lda,
                          const float *B, int64_t ldb, float beta, float *C, int64_t ldc, const float *bias,
                          ebb_act_t act);

/* Kernels of the best instruction set here, or of the one that EBB_ISA names. */
ebb_status_t ebb_cpu_kernels(const kernels_t **kernels_p);
ebb_status_t ebb_cpu_open(ebb_backend_t *backend);
ebb_status_t ebb_cpu_describe(void *dev, char *text, size_t size);
ebb_status_t ebb_cpu_alloc(void *dev, size_t bytes, const char *what, void **ptr_p);
void ebb_cpu_free(void *dev, void *ptr);
ebb_status_t ebb_cpu_exec_create(void *dev, ebb_exec_t **x_p);
void ebb_cpu_exec_destroy(ebb_exec_t *x);
extern const ebb_backend_ops_t ebb_cpu_ops;

#endif
