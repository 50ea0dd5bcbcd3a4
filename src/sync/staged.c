/* The wire through host memory: every message is copied down into one buffer, sent over the communicator, and copied up
 * from another, all before the call returns. What is sent is complete for the wire's context. */
#include "sync/wire.h"
#include "base/alloc.h"

enum { TAG = 1002 };

typedef struct room {
    char *ptr;
    int64_t bytes;
} room_t;

typedef struct staged {
    ebb_comm_t *comm;
    const ebb_backend_ops_t *ops;
    ebb_exec_t *exec;
    room_t host;
    ebb_request_t *request;
    int64_t requests;
} staged_t;

static ebb_status_t staged_begin(void *state, int n_after, void *const *after, int64_t n, const ebb_part_t *part)
{
    staged_t *s = state;
    int64_t bytes = 0, at = 0;
    int under_way = 0;
    for (int64_t i = 0; i < n; i++)
        bytes += part[i].bytes;
    EBB_TRY(ebb_grow("messages between devices", (void **)&s->host.ptr, &s->host.bytes, bytes, 1));
    EBB_TRY(ebb_grow("messages between devices", (void **)&s->request, &s->requests, n, sizeof *s->request));
    for (int64_t i = 0; i < n; at += part[i++].bytes)
        if (!part[i].send && part[i].bytes > 0)
            EBB_TRY(
                ebb_comm_irecv(s->comm, s->host.ptr + at, part[i].bytes, part[i].peer, TAG, &s->request[under_way++]));
    at = 0;
    for (int64_t i = 0; i < n; at += part[i++].bytes)
        if (part[i].send)
            EBB_TRY(s->ops->download(s->exec, s->host.ptr + at, part[i].ptr, (size_t)part[i].bytes));
    EBB_TRY(s->ops->exec_sync(s->exec));
    at = 0;
    for (int64_t i = 0; i < n; at += part[i++].bytes)
        if (part[i].send && part[i].bytes > 0)
            EBB_TRY(
                ebb_comm_isend(s->comm, s->host.ptr + at, part[i].bytes, part[i].peer, TAG, &s->request[under_way++]));
    EBB_TRY(ebb_comm_waitall(s->comm, under_way, s->request));
    at = 0;
    for (int64_t i = 0; i < n; at += part[i++].bytes)
        if (!part[i].send)
            EBB_TRY(s->ops->upload(s->exec, part[i].ptr, s->host.ptr + at, (size_t)part[i].bytes));
    return s->ops->exec_sync(s->exec);
}

static ebb_status_t staged_event(void *state, void **event_p)
{
    *event_p = NULL;
    return EBB_OK;
}

static ebb_status_t staged_finish(void *state)
{
    return EBB_OK;
}

static ebb_status_t staged_gather(void *state, int n_after, void *const *after, void *buf, const int64_t *counts,
                                  const int64_t *displs)
{
    staged_t *s = state;
    int rank = ebb_comm_rank(s->comm);
    int64_t end = 0;
    for (int r = 0; r < ebb_comm_size(s->comm); r++)
        end = displs[r] + counts[r] > end ? displs[r] + counts[r] : end;
    EBB_TRY(ebb_grow("messages between devices", (void **)&s->host.ptr, &s->host.bytes, end, 1));
    char *mine = s->host.ptr + displs[rank];
    EBB_TRY(s->ops->download(s->exec, mine, (char *)buf + displs[rank], (size_t)counts[rank]));
    EBB_TRY(s->ops->exec_sync(s->exec));
    EBB_TRY(ebb_comm_allgatherv(s->comm, mine, counts[rank], s->host.ptr, counts, displs));
    for (int r = 0; r < ebb_comm_size(s->comm); r++)
        if (r != rank)
            EBB_TRY(s->ops->upload(s->exec, (char *)buf + displs[r], s->host.ptr + displs[r], (size_t)counts[r]));
    return s->ops->exec_sync(s->exec);
}

static ebb_status_t staged_allreduce(void *state, float *buf, int64_t count)
{
    staged_t *s = state;
    size_t bytes = (size_t)count * sizeof *buf;
    EBB_TRY(ebb_grow("messages between devices", (void **)&s->host.ptr, &s->host.bytes, (int64_t)bytes, 1));
    EBB_TRY(s->ops->download(s->exec, s->host.ptr, buf, bytes));
    EBB_TRY(s->ops->exec_sync(s->exec));
    EBB_TRY(ebb_comm_allreduce(s->comm, s->host.ptr, count, EBB_COMM_F32, EBB_SUM));
    EBB_TRY(s->ops->upload(s->exec, buf, s->host.ptr, bytes));
    return s->ops->exec_sync(s->exec);
}

static void staged_destroy(void *state)
{
    staged_t *s = state;
    ebb_free(s->host.ptr);
    ebb_free(s->request);
    ebb_free(s);
}

ebb_status_t ebb_wire_staged(ebb_comm_t *comm, const ebb_backend_ops_t *ops, ebb_exec_t *exec, ebb_wire_t *wire)
{
    static const ebb_wire_ops_t staged_ops = {.version = EBB_WIRE_VERSION,
                                              .name = "mpi",
                                              .begin = staged_begin,
                                              .gather = staged_gather,
                                              .event = staged_event,
                                              .finish = staged_finish,
                                              .allreduce = staged_allreduce,
                                              .destroy = staged_destroy};
    staged_t *s;
    EBB_TRY(EBB_NEW("wire through host memory", &s));
    *s = (staged_t){.comm = comm, .ops = ops, .exec = exec};
    *wire = (ebb_wire_t){&staged_ops, s};
    return EBB_OK;
}
