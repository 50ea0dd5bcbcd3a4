/* Which rank writes what where several ranks write one file.
 *
 * Weights are whole on every rank, each dense array's states lie in contiguous parts on their owners: each rank writes
 * an equal share of the first and its own of the second, contiguous within each array. States of tables lie in blocks
 * of 64 rows, dealt in turns: so small pieces of so many writers side by side are what parallel file systems are worst
 * at, and rank 0 gathers them.
 */
#include "checkpoint/internal.h"

#include "base/file.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

bool ebb_ckpt_may_split(const ebb_layout_t *layout, const ebb_ckpt_array_t *array, int param)
{
    return array->state < 0 || layout->params[param].kind == EBB_PARAM_DENSE;
}

/* What a rank owns of the bucket of a dense parameter. */
static ebb_own_t own_of(const ebb_layout_t *layout, const ebb_param_t *p, int rank, int ranks)
{
    return ebb_sync_own(layout, ebb_layout_bucket_of(layout, p->offset), rank, ranks);
}

void ebb_ckpt_part(const ebb_layout_t *layout, const ebb_ckpt_array_t *array, int param, int rank, int ranks,
                   int64_t *first_p, int64_t *n_p)
{
    const ebb_param_t *p = &layout->params[param];
    int64_t begin = p->rows * rank / ranks * p->cols, end = p->rows * (rank + 1) / ranks * p->cols;
    if (p->kind == EBB_PARAM_DENSE) {
        int64_t floats = ebb_ckpt_floats(array);
        const ebb_own_t own = own_of(layout, p, rank, ranks);
        begin = own.begin > p->offset ? own.begin - p->offset : 0;
        end = own.end < p->offset + floats ? own.end - p->offset : floats;
    }
    *first_p = begin;
    *n_p = end > begin ? end - begin : 0;
}

ebb_status_t ebb_ckpt_copy_part(const ebb_checkpoint_state_t *state, const ebb_ckpt_array_t *array, int param,
                                int64_t first, int64_t n, float *host)
{
    const ebb_param_t *p = &state->layout->params[param];
    const ebb_backend_ops_t *ops = state->backend->ops;
    const ebb_own_t own = own_of(state->layout, p, ebb_comm_rank(state->comm), ebb_comm_size(state->comm));
    const float *from;
    if (array->state >= 0)
        from = ebb_optim_state_dense(state->optim, array->state) + own.local + (p->offset + first - own.begin);
    else
        from =
            (p->kind == EBB_PARAM_DENSE ? state->weights->dense + p->offset : state->weights->table[p->offset]) + first;
    EBB_TRY(ops->download(state->exec, host, from, (size_t)n * sizeof *host));
    return ops->exec_sync(state->exec);
}

/* A name that nobody can have met before: what a network file system remembers is not asked. */
static ebb_status_t make_mark(const char *folder, char *mark, size_t size)
{
    char path[PATH_MAX];
    uint64_t chance = 0;
    int fd;
    (void)!getrandom(&chance, sizeof chance, 0);
    snprintf(mark, size, ".ranks.tmp-%ld-%016" PRIx64, (long)getpid(), chance);
    EBB_TRY(ebb_file_mkdirs(folder));
    snprintf(path, sizeof path, "%s/%s", folder, mark);
    EBB_TRY(ebb_file_open(path, O_WRONLY | O_CREAT | O_EXCL, 0666, &fd));
    close(fd);
    return EBB_OK;
}

ebb_status_t ebb_ckpt_find_sharing(ebb_comm_t *comm, const char *folder, bool *shared_p)
{
    char mark[64] = "", path[PATH_MAX];
    int rank = ebb_comm_rank(comm);
    int64_t blind = INT64_MAX; /* the lowest rank that does not see it */
    *shared_p = false;
    EBB_TRY(ebb_comm_agree(comm, rank == 0 ? make_mark(folder, mark, sizeof mark) : EBB_OK));
    ebb_status_t status = ebb_comm_bcast(comm, mark, sizeof mark, 0);
    snprintf(path, sizeof path, "%s/%s", folder, mark);
    if (status == EBB_OK && !ebb_file_exists(path))
        blind = rank;
    if (status == EBB_OK)
        status = ebb_comm_allreduce(comm, &blind, 1, EBB_COMM_I64, EBB_MIN);
    if (rank == 0)
        unlink(path);
    EBB_TRY(status);
    *shared_p = blind == INT64_MAX;
    if (!*shared_p && rank == 0)
        EBB_INFO("checkpoint", "rank %" PRId64 " does not see %s: rank 0 gathers checkpoints and writes them alone",
                 blind, folder);
    return EBB_OK;
}
