/* The transport of a single rank: collectives copy, and a message meets its receiver in a short list of the unmatched.
 */
#include <ebb/comm.h>
#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

#define MAX_UNMATCHED 64

typedef struct half {
    const void *send; /* one of the two is set */
    void *recv;
    int64_t bytes;
    int tag;
} half_t;

typedef struct self {
    int n;
    half_t unmatched[MAX_UNMATCHED];
} self_t;

static ebb_status_t self_barrier(void *state)
{
    return EBB_OK;
}

static ebb_status_t self_bcast(void *state, void *buf, int64_t bytes, int root)
{
    return EBB_OK;
}

static ebb_status_t self_allreduce(void *state, void *buf, int64_t count, ebb_comm_type_t type, ebb_reduce_t op)
{
    return EBB_OK;
}

static ebb_status_t self_copy(void *state, const void *send, int64_t bytes, void *recv)
{
    if (bytes > 0 && send != recv)
        memmove(recv, send, (size_t)bytes);
    return EBB_OK;
}

static ebb_status_t self_allgatherv(void *state, const void *send, int64_t bytes, void *recv, const int64_t *counts,
                                    const int64_t *displs)
{
    return self_copy(state, send, bytes, (char *)recv + displs[0]);
}

static ebb_status_t deliver(const half_t *send, const half_t *recv)
{
    if (send->bytes > recv->bytes)
        return EBB_FAIL(EBB_EBUG, "message %d of %lld bytes met a buffer of %lld", send->tag, (long long)send->bytes,
                        (long long)recv->bytes);
    return self_copy(NULL, send->send, send->bytes, recv->recv);
}

/* Match with the oldest half of the other kind and the same tag, or wait in the list. */
static ebb_status_t post(self_t *self, const half_t *mine)
{
    for (int i = 0; i < self->n; i++) {
        half_t other = self->unmatched[i];
        if (other.tag != mine->tag || (other.send != NULL) == (mine->send != NULL))
            continue;
        memmove(&self->unmatched[i], &self->unmatched[i + 1], (size_t)(self->n - i - 1) * sizeof other);
        self->n--;
        return mine->send ? deliver(mine, &other) : deliver(&other, mine);
    }
    if (self->n == MAX_UNMATCHED)
        return EBB_FAIL(EBB_EBUG, "more than %d messages of a rank to itself wait for their other half", MAX_UNMATCHED);
    self->unmatched[self->n++] = *mine;
    return EBB_OK;
}

static ebb_status_t self_isend(void *state, const void *buf, int64_t bytes, int peer, int tag, ebb_request_t *req)
{
    if (peer != 0)
        return EBB_FAIL(EBB_EBUG, "there is no rank %d", peer);
    return post(state, &(half_t){.send = buf ? buf : "", .bytes = bytes, .tag = tag});
}

static ebb_status_t self_irecv(void *state, void *buf, int64_t bytes, int peer, int tag, ebb_request_t *req)
{
    if (peer != 0)
        return EBB_FAIL(EBB_EBUG, "there is no rank %d", peer);
    return post(state, &(half_t){.recv = buf, .bytes = bytes, .tag = tag});
}

static ebb_status_t self_waitall(void *state, int n, ebb_request_t *reqs)
{
    const self_t *self = state;
    if (self->n > 0)
        return EBB_FAIL(EBB_EBUG, "message %d of a rank to itself has no other half", self->unmatched[0].tag);
    return EBB_OK;
}

static void self_abort(void *state, int code)
{
    _Exit(code);
}

static void self_destroy(void *state)
{
    ebb_free(state);
}

static const ebb_comm_ops_t self_ops = {
    .version = EBB_COMM_VERSION,
    .name = "self",
    .barrier = self_barrier,
    .bcast = self_bcast,
    .allreduce = self_allreduce,
    .allgather = self_copy,
    .allgatherv = self_allgatherv,
    .alltoall = self_copy,
    .isend = self_isend,
    .irecv = self_irecv,
    .waitall = self_waitall,
    .abort = self_abort,
    .destroy = self_destroy,
};

ebb_status_t ebb_comm_self(ebb_comm_t **comm_p)
{
    self_t *self;
    *comm_p = NULL;
    EBB_TRY(EBB_NEW("communicator", &self));
    ebb_status_t status = ebb_comm_create(&self_ops, self, 0, 1, 0, 1, comm_p);
    if (status != EBB_OK)
        ebb_free(self);
    return status;
}
