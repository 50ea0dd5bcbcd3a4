/* NCCL's double. Every operation becomes messages of MPI_COMM_WORLD between buffers of its own, into which device
 * memory is copied by loops (the C library's functions are the sanitiser's, which holds them to the poison). */
#include "nccl.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TAG = 31000, MOST = 4096 };

typedef struct message {
    MPI_Request request;
    char *buf;
    char *to; /* where it goes once it is here; NULL: it was sent */
    size_t bytes;
    int add; /* floats are added to what is there */
} message_t;

struct ncclComm {
    int rank, ranks, calls, hangs;
    ncclResult_t fault; /* told by the next poll */
    message_t message[MOST];
    int n;
    FILE *trace;
    ncclUniqueId id;
    ncclUniqueId *others; /* (ranks) */
};

static int depth;             /* of groups */
static ncclComm_t group_comm; /* of the group's operations */

static void copy(char *to, const char *from, size_t bytes)
{
    volatile char *t = to;
    const volatile char *f = from;
    for (size_t i = 0; i < bytes; i++)
        t[i] = f[i];
}

#define TRACE(c, ...)                                                                                                  \
    do {                                                                                                               \
        if ((c)->trace) {                                                                                              \
            fprintf((c)->trace, __VA_ARGS__);                                                                          \
            fflush((c)->trace);                                                                                        \
        }                                                                                                              \
    } while (0)

const char *ncclGetErrorString(ncclResult_t code)
{
    return code == ncclSystemError       ? "unhandled system error"
           : code == ncclRemoteError     ? "remote process exited or there was a network error"
           : code == ncclInvalidArgument ? "invalid argument"
                                         : "no error";
}

const char *ncclGetLastError(ncclComm_t comm)
{
    return "told by the double";
}

/* The fault that was asked for this rank's call; counts calls. */
static ncclResult_t begin_call(ncclComm_t c)
{
    int rank, call;
    char kind[16];
    const char *fault = getenv("EBB_NCCL_FAULT");
    int mine = c->calls++;
    if (!fault || sscanf(fault, "%d:%d:%15s", &rank, &call, kind) != 3 || rank != c->rank || call != mine)
        return ncclSuccess;
    if (strcmp(kind, "error") == 0)
        return ncclSystemError;
    if (strcmp(kind, "hang") == 0)
        c->hangs = 1;
    else
        c->fault = ncclRemoteError;
    return ncclSuccess;
}

static void add_message(ncclComm_t c, const void *send, void *recv, size_t bytes, int peer, int add)
{
    if (c->n == MOST)
        abort();
    message_t *m = &c->message[c->n++];
    *m = (message_t){.buf = malloc(bytes + 1), .to = recv, .bytes = bytes, .add = add};
    if (send)
        copy(m->buf, send, bytes);
    if (c->hangs)
        m->request = MPI_REQUEST_NULL;
    else if (send)
        MPI_Isend(m->buf, (int)bytes, MPI_BYTE, peer, TAG, MPI_COMM_WORLD, &m->request);
    else
        MPI_Irecv(m->buf, (int)bytes, MPI_BYTE, peer, TAG, MPI_COMM_WORLD, &m->request);
}

static void deliver(message_t *m)
{
    if (m->to && m->add)
        for (size_t i = 0; i < m->bytes; i += sizeof(float)) {
            float a, b;
            copy((char *)&a, m->to + i, sizeof a);
            copy((char *)&b, m->buf + i, sizeof b);
            a += b;
            copy(m->to + i, (const char *)&a, sizeof a);
        }
    else if (m->to)
        copy(m->to, m->buf, m->bytes);
    free(m->buf);
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *code)
{
    *code = c->fault;
    if (c->fault != ncclSuccess)
        return ncclSuccess;
    *code = ncclInProgress;
    for (int i = 0; i < c->n; i++) {
        int done = 0;
        MPI_Test(&c->message[i].request, &done, MPI_STATUS_IGNORE);
        if (!done || c->hangs)
            return ncclSuccess;
    }
    if (c->hangs)
        return ncclSuccess;
    for (int i = 0; i < c->n; i++)
        deliver(&c->message[i]);
    c->n = 0;
    *code = ncclSuccess;
    for (int r = 0; c->others && r < c->ranks; r++)
        if (memcmp(&c->others[r], &c->id, sizeof c->id) != 0)
            *code = c->fault = ncclInvalidArgument;
    free(c->others);
    c->others = NULL;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    FILE *random = fopen("/dev/urandom", "rb");
    size_t n = random ? fread(id, sizeof *id, 1, random) : 0;
    if (random)
        fclose(random);
    return n == 1 ? ncclSuccess : ncclSystemError;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t *config)
{
    ncclComm_t c = calloc(1, sizeof *c);
    const char *path = getenv("EBB_NCCL_TRACE");
    char name[4096];
    c->rank = rank;
    c->ranks = ranks;
    c->id = id;
    if (path) {
        snprintf(name, sizeof name, "%s.%d", path, rank);
        c->trace = fopen(name, "w");
    }
    TRACE(c, "init ranks %d blocking %d\n", ranks, config->blocking);
    *comm = c;
    ncclResult_t code = begin_call(c);
    if (code != ncclSuccess)
        return code;
    c->others = calloc((size_t)ranks, sizeof id);
    for (int r = 0; r < ranks; r++)
        if (r != rank) {
            add_message(c, &id, NULL, sizeof id, r, 0);
            add_message(c, NULL, &c->others[r], sizeof id, r, 0);
        }
    c->others[rank] = id;
    return ncclInProgress;
}

static void release(ncclComm_t c)
{
    for (int i = 0; i < c->n; i++) {
        message_t *m = &c->message[i];
        int done = 1;
        if (m->request != MPI_REQUEST_NULL) {
            if (m->to)
                MPI_Cancel(&m->request);
            MPI_Test(&m->request, &done, MPI_STATUS_IGNORE);
        }
        if (done)
            free(m->buf);
        else if (m->request != MPI_REQUEST_NULL)
            MPI_Request_free(&m->request); /* its buffer is left to the process's end */
    }
    free(c->others);
    if (c->trace)
        fclose(c->trace);
    free(c);
}

ncclResult_t ncclCommFinalize(ncclComm_t c)
{
    TRACE(c, "finalize\n");
    return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t c)
{
    TRACE(c, "destroy\n");
    release(c);
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t c)
{
    TRACE(c, "abort\n");
    release(c);
    return ncclSuccess;
}

ncclResult_t ncclGroupStart(void)
{
    depth++;
    group_comm = NULL;
    return ncclSuccess;
}

/* Operations outside a group are a group of their own. */
static ncclResult_t open_operation(ncclComm_t c)
{
    if (depth == 0)
        return begin_call(c);
    if (!group_comm) {
        group_comm = c;
        TRACE(c, "group\n");
        return begin_call(c);
    }
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void)
{
    depth--;
    if (group_comm)
        TRACE(group_comm, "end\n");
    return group_comm ? ncclInProgress : ncclSuccess;
}

static size_t size_of(ncclDataType_t type)
{
    return type == ncclFloat ? sizeof(float) : 1;
}

ncclResult_t ncclSend(const void *buf, size_t count, ncclDataType_t type, int peer, ncclComm_t c, cudaStream_t stream)
{
    ncclResult_t code = open_operation(c);
    TRACE(c, "send %zu to %d\n", count * size_of(type), peer);
    if (code == ncclSuccess)
        add_message(c, buf, NULL, count * size_of(type), peer, 0);
    return code;
}

ncclResult_t ncclRecv(void *buf, size_t count, ncclDataType_t type, int peer, ncclComm_t c, cudaStream_t stream)
{
    ncclResult_t code = open_operation(c);
    TRACE(c, "recv %zu from %d\n", count * size_of(type), peer);
    if (code == ncclSuccess)
        add_message(c, NULL, buf, count * size_of(type), peer, 0);
    return code;
}

ncclResult_t ncclBroadcast(const void *send, void *recv, size_t count, ncclDataType_t type, int root, ncclComm_t c,
                           cudaStream_t stream)
{
    ncclResult_t code = open_operation(c);
    TRACE(c, "broadcast %zu of %d\n", count * size_of(type), root);
    for (int r = 0; code == ncclSuccess && r < c->ranks; r++) {
        if (root == c->rank && r != root)
            add_message(c, send, NULL, count * size_of(type), r, 0);
        else if (root != c->rank && r == root)
            add_message(c, NULL, recv, count * size_of(type), r, 0);
    }
    return code;
}

ncclResult_t ncclAllGather(const void *send, void *recv, size_t count, ncclDataType_t type, ncclComm_t c,
                           cudaStream_t stream)
{
    ncclResult_t code = open_operation(c);
    size_t bytes = count * size_of(type);
    TRACE(c, "allgather %zu\n", bytes);
    for (int r = 0; code == ncclSuccess && r < c->ranks; r++)
        if (r != c->rank) {
            add_message(c, send, NULL, bytes, r, 0);
            add_message(c, NULL, (char *)recv + bytes * (size_t)r, bytes, r, 0);
        }
    return code;
}

ncclResult_t ncclAllReduce(const void *send, void *recv, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t c, cudaStream_t stream)
{
    ncclResult_t code = open_operation(c);
    size_t bytes = count * size_of(type);
    TRACE(c, "allreduce %zu\n", bytes);
    for (int r = 0; code == ncclSuccess && r < c->ranks; r++)
        if (r != c->rank) {
            add_message(c, send, NULL, bytes, r, 0);
            add_message(c, NULL, recv, bytes, r, 1);
        }
    return code;
}
