/* The dense vector: every owner gets its slice of every piece; then each finishes the tree on its slice, at once or
 * where the sums are used. */
#include "sync/steps.h"

#include <string.h>

#define DIRECT ((int64_t)8 << 10) /* floats from which a piece that is one buffer is sent from where it lies */

typedef struct slice_job {
    ebb_sync_t *sync;
    int32_t node;
    int64_t begin, end;
    float *out; /* (end - begin) */
} slice_job_t;

ebb_tree_sum_t ebb_sync_tree_sum(const ebb_sync_t *s, int thread, int64_t at, int64_t n)
{
    return (ebb_tree_sum_t){.tree = &s->tree,
                            .view = s->view,
                            .ops = s->backend->ops,
                            .exec = s->exec[thread],
                            .scratch = s->scratch + s->scratch_floats * thread,
                            .stride = s->slab_stride,
                            .at = at,
                            .n = n};
}

static void see_own_nodes(ebb_sync_t *s)
{
    for (int32_t i = 0; i < 2 * s->tree.lanes - 1; i++)
        s->dense_view[i] = (ebb_view_t){.p = s->node_buf[i] ? s->node_buf[i]->dense : NULL};
}

/* Sum of floats [at, at + n) below a node, -0 turned into +0. out may be the thread's scratch. */
static ebb_status_t sum_floats(const ebb_sync_t *s, int thread, int32_t node, int64_t at, int64_t n, float *out)
{
    ebb_tree_sum_t sum = ebb_sync_tree_sum(s, thread, at, n);
    const float *found;
    sum.view = s->dense_view;
    EBB_TRY(ebb_tree_sum(&sum, node, &found));
    return s->backend->ops->add(s->exec[thread], n, found ? found : s->zeros, s->zeros, out);
}

/* One slab of a slice. */
static ebb_status_t sum_slab(void *user, int thread, int64_t index)
{
    const slice_job_t *job = user;
    const ebb_sync_t *s = job->sync;
    int64_t at = job->begin + index * s->slab;
    int64_t n = ebb_min64(s->slab, job->end - at);
    return sum_floats(s, thread, job->node, at, n, job->out + (at - job->begin));
}

static ebb_status_t sum_slice(ebb_sync_t *s, int32_t node, int64_t begin, int64_t end, float *out)
{
    slice_job_t job = {s, node, begin, end, out};
    return ebb_pool_run(s->pool, (end - begin + s->slab - 1) / s->slab, sum_slab, &job);
}

static ebb_status_t send_slice(ebb_sync_t *s, int peer)
{
    int64_t begin, end;
    int pieces = pieces_of(s, s->rank);
    ebb_sync_dense_range(s->layout, peer, s->ranks, &begin, &end);
    EBB_TRY(ebb_sync_room(s, &s->send[peer], (end - begin) * pieces * 4));
    for (int p = 0; p < pieces; p++) {
        int32_t node = s->piece[s->piece0[s->rank] + p];
        const float *from = (float *)s->send[peer].data + (end - begin) * p;
        if (s->node_buf[node] && (s->device || end - begin >= DIRECT))
            from = s->node_buf[node]->dense + begin;
        else
            EBB_TRY(sum_slice(s, node, begin, end, (float *)s->send[peer].data + (end - begin) * p));
        EBB_TRY(ebb_sync_send(s, from, (end - begin) * 4, peer, p));
    }
    return EBB_OK;
}

static ebb_status_t receive_slices(ebb_sync_t *s, int peer)
{
    int64_t floats = s->dense1 - s->dense0;
    EBB_TRY(ebb_sync_room(s, &s->recv[peer], floats * pieces_of(s, peer) * 4));
    for (int p = 0; p < pieces_of(s, peer); p++)
        EBB_TRY(ebb_sync_receive(s, (float *)s->recv[peer].data + floats * p, floats * 4, peer, p));
    return EBB_OK;
}

ebb_status_t ebb_sync_dense_send(ebb_sync_t *s)
{
    see_own_nodes(s);
    for (int i = 1; i < s->ranks; i++)
        EBB_TRY(receive_slices(s, (s->rank + s->ranks - i) % s->ranks));
    for (int i = 1; i < s->ranks; i++)
        EBB_TRY(send_slice(s, (s->rank + i) % s->ranks));
    return EBB_OK;
}

ebb_status_t ebb_sync_dense_finish(ebb_sync_t *s)
{
    see_own_nodes(s);
    for (int r = 0; r < s->ranks; r++)
        for (int p = 0; r != s->rank && p < pieces_of(s, r); p++)
            s->dense_view[s->piece[s->piece0[r] + p]] =
                (ebb_view_t){.p = (float *)s->recv[r].data + (s->dense1 - s->dense0) * p, .origin = s->dense0};
    return s->leave_dense ? EBB_OK : sum_slice(s, 0, s->dense0, s->dense1, s->dense_sum);
}

ebb_status_t ebb_sync_form_dense(const ebb_sync_t *s, int thread, int64_t begin, int64_t end, ebb_dense_use_t use,
                                 void *user)
{
    float *sum = s->scratch + s->scratch_floats * thread;
    for (int64_t at = begin; at < end; at += s->slab) {
        int64_t n = ebb_min64(s->slab, end - at);
        EBB_TRY(sum_floats(s, thread, 0, at, n, sum));
        EBB_TRY(use(user, thread, at, n, sum));
    }
    return EBB_OK;
}
