/* The dense vector: of each bucket every owner gets its part of every piece; then each finishes the tree on what it
 * owns, at once or where the sums are used. */
#include "sync/steps.h"

#include <string.h>

#define DIRECT ((int64_t)8 << 10) /* floats from which a piece that is one buffer is sent from where it lies */

typedef struct sum_job {
    ebb_sync_t *sync;
    const ebb_view_t *view;
    int32_t node;
    int64_t begin, end;
    float *out; /* (end - begin) */
} sum_job_t;

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

static void see_own_nodes(const ebb_sync_t *s, int share)
{
    buffer_t *const *buf = bucket_with(s, share)->node_buf;
    for (int32_t i = 0; i < 2 * s->tree.lanes - 1; i++)
        s->share[share].view[i] = (ebb_view_t){.p = buf[i] ? buf[i]->dense : NULL};
}

/* Sum of floats [at, at + n) below a node, -0 turned into +0. out may be the thread's scratch. */
static ebb_status_t sum_floats(const ebb_sync_t *s, const ebb_view_t *view, int thread, int32_t node, int64_t at,
                               int64_t n, float *out)
{
    ebb_tree_sum_t sum = ebb_sync_tree_sum(s, thread, at, n);
    const float *found;
    sum.view = view;
    EBB_TRY(ebb_tree_sum(&sum, node, &found));
    return s->backend->ops->add(s->exec[thread], n, found ? found : s->zeros, s->zeros, out);
}

static ebb_status_t sum_slab(void *user, int thread, int64_t index)
{
    const sum_job_t *job = user;
    const ebb_sync_t *s = job->sync;
    int64_t at = job->begin + index * s->slab;
    int64_t n = ebb_min64(s->slab, job->end - at);
    return sum_floats(s, job->view, thread, job->node, at, n, job->out + (at - job->begin));
}

static ebb_status_t sum_share(ebb_sync_t *s, int share, int32_t node, int64_t begin, int64_t end, float *out)
{
    sum_job_t job = {s, s->share[share].view, node, begin, end, out};
    return ebb_pool_run(s->pool, (end - begin + s->slab - 1) / s->slab, sum_slab, &job);
}

/* What a peer owns of a bucket, of each own piece: from where it lies, or summed among its other floats. */
static ebb_status_t send_share(ebb_sync_t *s, int share, int peer)
{
    const ebb_own_t own = ebb_sync_own(s->layout, share, peer, s->ranks);
    int64_t n = own.end - own.begin, all = ebb_sync_own_floats(s->layout, peer, s->ranks);
    int pieces = pieces_of(s, s->rank);
    for (int p = 0; p < pieces; p++) {
        int32_t node = s->piece[s->piece0[s->rank] + p];
        const buffer_t *buf = bucket_with(s, share)->node_buf[node];
        const float *from = buf ? buf->dense + own.begin : NULL;
        if (!buf || (!s->device && n < DIRECT)) {
            EBB_TRY(ebb_sync_room(s, &s->send[peer], all * pieces * 4));
            float *sum = (float *)s->send[peer].data + all * p + own.local;
            EBB_TRY(sum_share(s, share, node, own.begin, own.end, sum));
            from = sum;
        }
        EBB_TRY(ebb_sync_note_send(s, from, n * 4, peer, p));
    }
    return EBB_OK;
}

/* Where a peer's piece p of the own floats of a bucket comes to lie. */
static float *received(const ebb_sync_t *s, int share, int peer, int p)
{
    return (float *)s->recv[peer].data + s->own_floats * p + s->share[share].own.local;
}

static ebb_status_t receive_share(ebb_sync_t *s, int share, int peer)
{
    const ebb_own_t *own = &s->share[share].own;
    EBB_TRY(ebb_sync_room(s, &s->recv[peer], s->own_floats * pieces_of(s, peer) * 4));
    for (int p = 0; p < pieces_of(s, peer); p++)
        EBB_TRY(ebb_sync_note_receive(s, received(s, share, peer, p), (own->end - own->begin) * 4, peer, p));
    return EBB_OK;
}

ebb_status_t ebb_sync_dense_send(ebb_sync_t *s, int share)
{
    see_own_nodes(s, share);
    for (int i = 1; i < s->ranks; i++)
        EBB_TRY(receive_share(s, share, (s->rank + s->ranks - i) % s->ranks));
    for (int i = 1; i < s->ranks; i++)
        EBB_TRY(send_share(s, share, (s->rank + i) % s->ranks));
    return EBB_OK;
}

ebb_status_t ebb_sync_dense_finish(ebb_sync_t *s, int share)
{
    const ebb_own_t *own = &s->share[share].own;
    see_own_nodes(s, share);
    for (int r = 0; r < s->ranks; r++)
        for (int p = 0; r != s->rank && p < pieces_of(s, r); p++)
            s->share[share].view[s->piece[s->piece0[r] + p]] =
                (ebb_view_t){.p = received(s, share, r, p), .origin = own->begin};
    return s->leave_dense ? EBB_OK : sum_share(s, share, 0, own->begin, own->end, s->dense_sum + own->local);
}

ebb_status_t ebb_sync_form_dense(const ebb_sync_t *s, int thread, int64_t begin, int64_t end, ebb_dense_use_t use,
                                 void *user)
{
    const ebb_view_t *view = s->share[ebb_layout_bucket_of(s->layout, begin)].view;
    float *sum = s->scratch + s->scratch_floats * thread;
    for (int64_t at = begin; at < end; at += s->slab) {
        int64_t n = ebb_min64(s->slab, end - at);
        EBB_TRY(sum_floats(s, view, thread, 0, at, n, sum));
        EBB_TRY(use(user, thread, at, n, sum));
    }
    return EBB_OK;
}
