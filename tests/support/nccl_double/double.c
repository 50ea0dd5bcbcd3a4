/* NCCL's double. Every operation becomes messages of MPI_COMM_WORLD between buffers of its own, into which device
 * memory is copied by loops (the C library's functions are the sanitiser's, which holds them to the poison). A group is
 * put into its stream by the first poll after it, as if by NCCL's own thread; when the stream comes to it, its messages
 * are posted, and the stream goes on when all are there. */
#include "nccl.h"
#include "gate.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TAG = 31000 };

typedef struct message {
    MPI_Request request;
    char *buf;
    const char *from; /* NULL: it is received */
    char *to;         /* where it goes once it is here */
    size_t bytes;
    int peer;
    bool add; /* floats are added to what is there */
} message_t;

/* Operations that were given together, or one alone. */
typedef struct group {
    ncclComm_t comm; /* NULL: aborted */
    struct group *next;
    cudaStream_t stream;
    message_t *message;
    int n;
    ncclResult_t code; /* of what it was given */
    bool queued, posted, hangs;
} group_t;

struct ncclComm {
    int rank, ranks, calls;
    ncclResult_t fault;    /* told by the next poll */
    group_t *group;        /* all that have not come through */
    group_t *init;         /* making the communicator */
    group_t *open, *given; /* being filled; not in its stream yet */
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
           : code == ncclInvalidUsage    ? "invalid usage"
                                         : "no error";
}

const char *ncclGetLastError(ncclComm_t comm)
{
    return "told by the double";
}

/* The fault that was asked for this rank's call; counts calls. */
static ncclResult_t begin_call(ncclComm_t c, group_t *g)
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
        g->hangs = true;
    else
        c->fault = ncclRemoteError;
    return ncclSuccess;
}

/* ---- groups ---- */

static group_t *new_group(ncclComm_t c, cudaStream_t stream)
{
    group_t *g = calloc(1, sizeof *g);
    *g = (group_t){.comm = c, .next = c->group, .stream = stream};
    c->group = g;
    return g;
}

static void free_group(group_t *g)
{
    for (group_t **at = g->comm ? &g->comm->group : NULL; at && *at; at = &(*at)->next)
        if (*at == g) {
            *at = g->next;
            break;
        }
    free(g->message);
    free(g);
}

static void add_message(group_t *g, const void *send, void *recv, size_t bytes, int peer, bool add)
{
    g->message = realloc(g->message, sizeof *g->message * (size_t)(g->n + 1));
    g->message[g->n++] =
        (message_t){.request = MPI_REQUEST_NULL, .from = send, .to = recv, .bytes = bytes, .peer = peer, .add = add};
}

static void post(message_t *m)
{
    m->buf = malloc(m->bytes + 1);
    if (m->from)
        copy(m->buf, m->from, m->bytes);
    if (m->from)
        MPI_Isend(m->buf, (int)m->bytes, MPI_BYTE, m->peer, TAG, MPI_COMM_WORLD, &m->request);
    else
        MPI_Irecv(m->buf, (int)m->bytes, MPI_BYTE, m->peer, TAG, MPI_COMM_WORLD, &m->request);
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

/* The stream has come to a group: whether it is through. An aborted one is. */
static bool pass(void *state)
{
    group_t *g = state;
    if (g->hangs && g->comm)
        return false;
    for (int i = 0; g->comm && !g->posted && i < g->n; i++)
        post(&g->message[i]);
    g->posted = true;
    for (int i = 0; g->comm && i < g->n; i++) {
        int done = 0;
        MPI_Test(&g->message[i].request, &done, MPI_STATUS_IGNORE);
        if (!done)
            return false;
    }
    for (int i = 0; g->comm && i < g->n; i++)
        deliver(&g->message[i]);
    free_group(g);
    return true;
}

static ncclResult_t check_ids(ncclComm_t c)
{
    for (int r = 0; r < c->ranks; r++)
        if (memcmp(&c->others[r], &c->id, sizeof c->id) != 0)
            c->fault = ncclInvalidArgument;
    return c->fault;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *code)
{
    *code = c->fault != ncclSuccess ? c->fault : ncclInProgress;
    if (c->fault != ncclSuccess)
        return ncclSuccess;
    if (c->given) {
        c->given->queued = true;
        ebb_double_gate(c->given->stream, pass, c->given);
        c->given = NULL;
    } else if (!c->init) {
        *code = ncclSuccess;
    } else if (pass(c->init)) {
        c->init = NULL;
        *code = check_ids(c);
    }
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
    c->others = calloc((size_t)ranks, sizeof id);
    c->others[rank] = id;
    c->init = new_group(c, NULL);
    for (int r = 0; r < ranks; r++)
        if (r != rank) {
            add_message(c->init, &c->id, NULL, sizeof id, r, false);
            add_message(c->init, NULL, &c->others[r], sizeof id, r, false);
        }
    ncclResult_t code = begin_call(c, c->init);
    return code == ncclSuccess ? ncclInProgress : code;
}

static void abandon(message_t *m)
{
    int done = 1;
    if (m->request != MPI_REQUEST_NULL) {
        if (m->to)
            MPI_Cancel(&m->request);
        MPI_Test(&m->request, &done, MPI_STATUS_IGNORE);
    }
    if (done)
        free(m->buf);
    else
        MPI_Request_free(&m->request); /* its buffer is left to the process's end */
}

static void release(ncclComm_t c)
{
    while (c->group) {
        group_t *g = c->group;
        for (int i = 0; i < g->n && g->posted; i++)
            abandon(&g->message[i]);
        c->group = g->next;
        g->comm = NULL;
        if (!g->queued) /* else its stream comes to it */
            free_group(g);
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
    if (depth > 0) {
        fprintf(stderr, "NCCL's double: an abort within a group would be put off until its end\n");
        abort();
    }
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

/* Operations outside a group are a group of their own. Nothing is taken before a poll has told that what was given last
 * is in its stream. */
static ncclResult_t open_operation(ncclComm_t c, cudaStream_t stream)
{
    if (c->init || c->given)
        return ncclInvalidUsage;
    if (c->open)
        return c->open->code;
    c->open = new_group(c, stream);
    if (depth > 0) {
        group_comm = c;
        TRACE(c, "group%s\n", ebb_double_awaits(stream) ? " after work under way" : "");
    }
    return c->open->code = begin_call(c, c->open);
}

/* The end of a group, and of an operation outside of one. */
static ncclResult_t close_group(ncclComm_t c)
{
    group_t *g = c->open;
    ncclResult_t code = g ? g->code : ncclInvalidUsage;
    c->open = NULL;
    if (code == ncclSuccess) {
        c->given = g;
        return ncclInProgress;
    }
    if (g)
        free_group(g);
    return code;
}

static ncclResult_t close_operation(ncclComm_t c, ncclResult_t code)
{
    return depth > 0 ? code : close_group(c);
}

ncclResult_t ncclGroupEnd(void)
{
    if (--depth > 0 || !group_comm)
        return ncclSuccess;
    TRACE(group_comm, "end\n");
    return close_group(group_comm);
}

static size_t size_of(ncclDataType_t type)
{
    return type == ncclFloat ? sizeof(float) : 1;
}

ncclResult_t ncclSend(const void *buf, size_t count, ncclDataType_t type, int peer, ncclComm_t c, cudaStream_t stream)
{
    ncclResult_t code = open_operation(c, stream);
    TRACE(c, "send %zu to %d\n", count * size_of(type), peer);
    if (code == ncclSuccess)
        add_message(c->open, buf, NULL, count * size_of(type), peer, false);
    return close_operation(c, code);
}

ncclResult_t ncclRecv(void *buf, size_t count, ncclDataType_t type, int peer, ncclComm_t c, cudaStream_t stream)
{
    ncclResult_t code = open_operation(c, stream);
    TRACE(c, "recv %zu from %d\n", count * size_of(type), peer);
    if (code == ncclSuccess)
        add_message(c->open, NULL, buf, count * size_of(type), peer, false);
    return close_operation(c, code);
}

ncclResult_t ncclBroadcast(const void *send, void *recv, size_t count, ncclDataType_t type, int root, ncclComm_t c,
                           cudaStream_t stream)
{
    ncclResult_t code = open_operation(c, stream);
    TRACE(c, "broadcast %zu of %d\n", count * size_of(type), root);
    for (int r = 0; code == ncclSuccess && r < c->ranks; r++) {
        if (root == c->rank && r != root)
            add_message(c->open, send, NULL, count * size_of(type), r, false);
        else if (root != c->rank && r == root)
            add_message(c->open, NULL, recv, count * size_of(type), r, false);
    }
    return close_operation(c, code);
}

ncclResult_t ncclAllGather(const void *send, void *recv, size_t count, ncclDataType_t type, ncclComm_t c,
                           cudaStream_t stream)
{
    ncclResult_t code = open_operation(c, stream);
    size_t bytes = count * size_of(type);
    TRACE(c, "allgather %zu\n", bytes);
    for (int r = 0; code == ncclSuccess && r < c->ranks; r++)
        if (r != c->rank) {
            add_message(c->open, send, NULL, bytes, r, false);
            add_message(c->open, NULL, (char *)recv + bytes * (size_t)r, bytes, r, false);
        }
    return close_operation(c, code);
}

ncclResult_t ncclAllReduce(const void *send, void *recv, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t c, cudaStream_t stream)
{
    ncclResult_t code = open_operation(c, stream);
    size_t bytes = count * size_of(type);
    TRACE(c, "allreduce %zu\n", bytes);
    for (int r = 0; code == ncclSuccess && r < c->ranks; r++)
        if (r != c->rank) {
            add_message(c->open, send, NULL, bytes, r, false);
            add_message(c->open, NULL, recv, bytes, r, true);
        }
    return close_operation(c, code);
}
