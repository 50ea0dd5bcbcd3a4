/* Memory of grouping by column; the passes themselves are kernels (group.inc). Everything belongs to one context, grows
 * during warm-up and is reused. */
#include "compute/cpu/cpu.h"
#include "base/alloc.h"

#include <limits.h>

void ebb_group_cleanup(group_t *group)
{
    ebb_free(group->bits);
    ebb_free(group->summary);
    ebb_free(group->base);
    ebb_free(group->rank);
    ebb_free(group->source);
    ebb_free(group->placed.begin);
    ebb_free(group->placed.entries);
    *group = (group_t){0};
}

static ebb_status_t fit_columns(group_t *group, int64_t columns)
{
    if (columns <= group->columns)
        return EBB_OK;
    int64_t words = (columns + 63) / 64;
    ebb_free(group->bits);
    ebb_free(group->summary);
    ebb_free(group->base);
    group->bits = group->summary = NULL;
    group->base = NULL;
    group->columns = 0;
    EBB_TRY(EBB_NEW_ARRAY("bitmap of columns", words, &group->bits));
    EBB_TRY(EBB_NEW_ARRAY("summary of columns", (words + 63) / 64, &group->summary));
    EBB_TRY(EBB_NEW_ARRAY("ranks of columns", words, &group->base));
    group->columns = columns;
    return EBB_OK;
}

ebb_status_t ebb_group_rank(const kernels_t *kernels, group_t *group, const ebb_csr_t *X, const int32_t *source,
                            int32_t **idx_p, int64_t *idx_capacity, int64_t *met_p)
{
    int64_t n = csr_nonzeros(X);
    *met_p = 0;
    if (n > INT32_MAX)
        return EBB_FAIL(EBB_EINVAL, "%lld non-zeros in one piece of a batch: at most 2^31 - 1; use a smaller batch",
                        (long long)n);
    EBB_TRY(fit_columns(group, X->cols));
    EBB_TRY(ebb_grow("ranks of non-zeros", (void **)&group->rank, &group->rank_capacity, n, sizeof *group->rank));
    EBB_TRY(ebb_grow("columns of a gradient", (void **)idx_p, idx_capacity, n, sizeof **idx_p));
    if (n > 0)
        *met_p = kernels->group_rank(n, X->col + X->rowptr[0], source, group->bits, group->summary,
                                     (X->cols + 4095) / 4096, group->base, *idx_p, group->rank);
    return EBB_OK;
}

ebb_status_t ebb_group_place(const kernels_t *kernels, const group_t *group, const ebb_csr_t *X, const int32_t *source,
                             int64_t met, placed_t *placed)
{
    int64_t n = csr_nonzeros(X);
    EBB_TRY(ebb_grow("entries by column", (void **)&placed->begin, &placed->begin_capacity, met + 2,
                     sizeof *placed->begin));
    EBB_TRY(ebb_grow("entries by column", (void **)&placed->entries, &placed->entries_capacity, n,
                     sizeof *placed->entries));
    if (n > 0)
        kernels->group_place(X, source, group->rank, met, placed->begin, placed->entries);
    else
        placed->begin[0] = 0;
    return EBB_OK;
}

ebb_status_t ebb_group_source(group_t *group, int64_t n)
{
    return ebb_grow("fields of non-zeros", (void **)&group->source, &group->source_capacity, n, sizeof(int32_t));
}
