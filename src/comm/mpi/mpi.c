/* The transport over MPI: a private duplicate of MPI_COMM_WORLD.
 *
 * MPI counts are ints. Messages of up to INT_MAX bytes go as they are; a longer one is described by a derived type, so
 * that it stays one message; collectives whose total is beyond INT_MAX are cut (bcast, allreduce) or done by messages,
 * since displacements are ints too. MPI is asked for MPI_THREAD_FUNNELED: one thread calls. Errors come back as
 * EBB_EPEER with MPI's text.
 *
 * MPI waits by looking without end. Where every rank has a core of its own that is the fastest. Where ranks share cores
 * it keeps everybody else from theirs: Open MPI gives way by sched_yield, and on Linux 6.18 eight ranks on two cores
 * that do so let other processes wait for up to a minute (measured: 75 s, against 0.06 s now). There collectives are
 * begun, and waiting is looking a few times and then sleeping between looks.
 */
#include <ebb/comm.h>
#include "base/alloc.h"
#include "comm/transport.h"

#include <limits.h>
#include <mpi.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#define BLOCK    ((int64_t)1 << 20) /* unit of derived types */
#define CUT      ((int64_t)1 << 30) /* bytes of one part of a cut collective */
#define TAG_MOVE 32001              /* of our own messages; callers' tags lie below 32000 */
#define MAX_TAG  32000

enum { LOOKS = 16, FIRST_SLEEP_NS = 5000, LONGEST_SLEEP_NS = 50000 }; /* of ranks that share cores */

typedef struct mpi {
    MPI_Comm comm;
    int rank, size;
    bool ours;    /* we initialised MPI */
    bool crowded; /* there are fewer cores than ranks here */
    MPI_Request *reqs;
    int64_t reqs_cap;
    int *counts, *displs; /* (size) */
} mpi_t;

_Static_assert(sizeof(MPI_Request) <= sizeof(ebb_request_t), "a request must fit");

static ebb_status_t mpi_error(int rc, const char *what)
{
    char text[MPI_MAX_ERROR_STRING] = "unknown error";
    int n = 0;
    MPI_Error_string(rc, text, &n);
    return EBB_FAIL(EBB_EPEER, "%s: %.300s", what, text);
}

#define MPI_TRY(call, what)                                                                                            \
    do {                                                                                                               \
        int rc_ = (call);                                                                                              \
        if (rc_ != MPI_SUCCESS)                                                                                        \
            return mpi_error(rc_, (what));                                                                             \
    } while (0)

/* ---- waiting ---- */

/* Until n requests are through, leaving the core to others. */
static int wait_asleep(int n, MPI_Request *reqs)
{
    struct timespec sleep = {0, FIRST_SLEEP_NS};
    for (int look = 0;; look++) {
        int done = 0, rc = MPI_Testall(n, reqs, &done, MPI_STATUSES_IGNORE);
        if (rc != MPI_SUCCESS || done)
            return rc;
        if (look < LOOKS)
            continue;
        nanosleep(&sleep, NULL);
        sleep.tv_nsec = 2 * sleep.tv_nsec < LONGEST_SLEEP_NS ? 2 * sleep.tv_nsec : LONGEST_SLEEP_NS;
    }
}

static int wait_all(const mpi_t *m, int n, MPI_Request *reqs)
{
    return m->crowded ? wait_asleep(n, reqs) : MPI_Waitall(n, reqs, MPI_STATUSES_IGNORE);
}

/* A collective in its two forms: MPI_block(args), or MPI_begin(args, request) and wait asleep. */
#define COLLECTIVE(m, block, begin, ...)                                                                               \
    do {                                                                                                               \
        MPI_Request req_;                                                                                              \
        int code_ = (m)->crowded ? MPI_##begin(__VA_ARGS__, &req_) : MPI_##block(__VA_ARGS__);                         \
        MPI_TRY(code_, "MPI_" #block);                                                                                 \
        if ((m)->crowded)                                                                                              \
            MPI_TRY(wait_asleep(1, &req_), "MPI_" #block);                                                             \
    } while (0)

/* ---- operations ---- */

static ebb_status_t mpi_barrier(void *state)
{
    mpi_t *m = state;
    COLLECTIVE(m, Barrier, Ibarrier, m->comm);
    return EBB_OK;
}

static ebb_status_t mpi_bcast(void *state, void *buf, int64_t bytes, int root)
{
    mpi_t *m = state;
    for (int64_t at = 0; at < bytes; at += CUT) {
        int n = (int)(bytes - at < CUT ? bytes - at : CUT);
        COLLECTIVE(m, Bcast, Ibcast, (char *)buf + at, n, MPI_BYTE, root, m->comm);
    }
    return EBB_OK;
}

static ebb_status_t mpi_allreduce(void *state, void *buf, int64_t count, ebb_comm_type_t type, ebb_reduce_t op)
{
    static const int width[] = {[EBB_COMM_I64] = 8, [EBB_COMM_F32] = 4, [EBB_COMM_F64] = 8};
    const MPI_Datatype types[] = {
        [EBB_COMM_I64] = MPI_INT64_T, [EBB_COMM_F32] = MPI_FLOAT, [EBB_COMM_F64] = MPI_DOUBLE};
    const MPI_Op ops[] = {[EBB_SUM] = MPI_SUM, [EBB_MIN] = MPI_MIN, [EBB_MAX] = MPI_MAX, [EBB_BOR] = MPI_BOR};
    mpi_t *m = state;
    int64_t cut = CUT / width[type];
    for (int64_t at = 0; at < count; at += cut) {
        int n = (int)(count - at < cut ? count - at : cut);
        COLLECTIVE(m, Allreduce, Iallreduce, MPI_IN_PLACE, (char *)buf + at * width[type], n, types[type], ops[op],
                   m->comm);
    }
    return EBB_OK;
}

/* A type of `bytes` bytes: blocks, then the rest. */
static int long_type(int64_t bytes, MPI_Datatype *type_p)
{
    MPI_Datatype block, blocks;
    int rc = MPI_Type_contiguous((int)BLOCK, MPI_BYTE, &block);
    if (rc != MPI_SUCCESS)
        return rc;
    rc = MPI_Type_contiguous((int)(bytes / BLOCK), block, &blocks);
    MPI_Type_free(&block);
    if (rc != MPI_SUCCESS)
        return rc;
    int length[] = {1, (int)(bytes % BLOCK)};
    MPI_Aint at[] = {0, (MPI_Aint)(bytes / BLOCK * BLOCK)};
    MPI_Datatype part[] = {blocks, MPI_BYTE};
    rc = MPI_Type_create_struct(2, length, at, part, type_p);
    MPI_Type_free(&blocks);
    return rc == MPI_SUCCESS ? MPI_Type_commit(type_p) : rc;
}

static ebb_status_t start(mpi_t *m, const void *send, void *recv, int64_t bytes, int peer, int tag, MPI_Request *req)
{
    MPI_Datatype type = MPI_BYTE;
    int count = (int)bytes;
    *req = MPI_REQUEST_NULL;
    if (bytes > INT_MAX) {
        MPI_TRY(long_type(bytes, &type), "MPI_Type_create_struct");
        count = 1;
    }
    int rc = send ? MPI_Isend(send, count, type, peer, tag, m->comm, req)
                  : MPI_Irecv(recv, count, type, peer, tag, m->comm, req);
    if (bytes > INT_MAX)
        MPI_Type_free(&type); /* lives on until the message is through */
    if (rc == MPI_SUCCESS)
        return EBB_OK;
    return mpi_error(rc, send ? "MPI_Isend" : "MPI_Irecv");
}

static ebb_status_t check_message(const mpi_t *m, int peer, int tag)
{
    if (peer < 0 || peer >= m->size)
        return EBB_FAIL(EBB_EBUG, "there is no rank %d among %d", peer, m->size);
    if (tag < 0 || tag >= MAX_TAG)
        return EBB_FAIL(EBB_EBUG, "message tag %d is not within 0 .. %d", tag, MAX_TAG - 1);
    return EBB_OK;
}

static ebb_status_t mpi_isend(void *state, const void *buf, int64_t bytes, int peer, int tag, ebb_request_t *req)
{
    MPI_Request request;
    EBB_TRY(check_message(state, peer, tag));
    ebb_status_t status = start(state, buf ? buf : "", NULL, bytes, peer, tag, &request);
    memcpy(req, &request, sizeof request);
    return status;
}

static ebb_status_t mpi_irecv(void *state, void *buf, int64_t bytes, int peer, int tag, ebb_request_t *req)
{
    MPI_Request request;
    EBB_TRY(check_message(state, peer, tag));
    ebb_status_t status = start(state, NULL, buf, bytes, peer, tag, &request);
    memcpy(req, &request, sizeof request);
    return status;
}

static ebb_status_t wait_for(mpi_t *m, int n)
{
    int rc = wait_all(m, n, m->reqs);
    return rc == MPI_SUCCESS ? EBB_OK : mpi_error(rc, "MPI_Waitall");
}

static ebb_status_t mpi_waitall(void *state, int n, ebb_request_t *reqs)
{
    mpi_t *m = state;
    EBB_TRY(ebb_grow("MPI requests", (void **)&m->reqs, &m->reqs_cap, n, sizeof *m->reqs));
    for (int i = 0; i < n; i++)
        memcpy(&m->reqs[i], &reqs[i], sizeof *m->reqs);
    return wait_for(m, n);
}

/* Collectives too long for int counts, by messages: rank p gets part p of `send` (each part `bytes` long, stride apart;
 * stride 0: the same part for all) and puts what rank i sent at recv + displs[i]. */
static ebb_status_t move(mpi_t *m, const char *send, int64_t bytes, int64_t stride, char *recv, const int64_t *counts,
                         const int64_t *displs)
{
    int n = 0;
    EBB_TRY(ebb_grow("MPI requests", (void **)&m->reqs, &m->reqs_cap, 2 * (int64_t)m->size, sizeof *m->reqs));
    for (int i = 1; i < m->size; i++) {
        int peer = (m->rank + i) % m->size;
        int64_t count = counts ? counts[peer] : bytes;
        EBB_TRY(start(m, NULL, recv + (displs ? displs[peer] : bytes * peer), count, peer, TAG_MOVE, &m->reqs[n++]));
        EBB_TRY(start(m, send + stride * peer, NULL, bytes, peer, TAG_MOVE, &m->reqs[n++]));
    }
    char *mine = recv + (displs ? displs[m->rank] : bytes * m->rank);
    if (mine != send + stride * m->rank)
        memmove(mine, send + stride * m->rank, (size_t)bytes);
    return wait_for(m, n);
}

static ebb_status_t mpi_allgather(void *state, const void *send, int64_t bytes, void *recv)
{
    mpi_t *m = state;
    if (bytes * m->size > INT_MAX)
        return move(m, send, bytes, 0, recv, NULL, NULL);
    const void *from = send == (char *)recv + bytes * m->rank ? MPI_IN_PLACE : send;
    COLLECTIVE(m, Allgather, Iallgather, from, (int)bytes, MPI_BYTE, recv, (int)bytes, MPI_BYTE, m->comm);
    return EBB_OK;
}

static ebb_status_t mpi_allgatherv(void *state, const void *send, int64_t bytes, void *recv, const int64_t *counts,
                                   const int64_t *displs)
{
    mpi_t *m = state;
    int64_t total = 0, end = 0;
    for (int i = 0; i < m->size; i++) {
        total += counts[i];
        end = displs[i] + counts[i] > end ? displs[i] + counts[i] : end;
    }
    if (total > INT_MAX || end > INT_MAX)
        return move(m, send, bytes, 0, recv, counts, displs);
    for (int i = 0; i < m->size; i++) {
        m->counts[i] = (int)counts[i];
        m->displs[i] = (int)displs[i];
    }
    const void *from = send == (char *)recv + displs[m->rank] ? MPI_IN_PLACE : send;
    COLLECTIVE(m, Allgatherv, Iallgatherv, from, (int)bytes, MPI_BYTE, recv, m->counts, m->displs, MPI_BYTE, m->comm);
    return EBB_OK;
}

static ebb_status_t mpi_alltoall(void *state, const void *send, int64_t bytes, void *recv)
{
    mpi_t *m = state;
    if (bytes * m->size > INT_MAX)
        return move(m, send, bytes, bytes, recv, NULL, NULL);
    COLLECTIVE(m, Alltoall, Ialltoall, send, (int)bytes, MPI_BYTE, recv, (int)bytes, MPI_BYTE, m->comm);
    return EBB_OK;
}

static void mpi_abort(void *state, int code)
{
    const mpi_t *m = state;
    MPI_Abort(m->comm, code);
    _Exit(code);
}

static void mpi_destroy(void *state)
{
    mpi_t *m = state;
    if (m->comm != MPI_COMM_NULL)
        MPI_Comm_free(&m->comm);
    if (m->ours)
        MPI_Finalize();
    ebb_free(m->reqs);
    ebb_free(m->counts);
    ebb_free(m->displs);
    ebb_free(m);
}

static const ebb_comm_ops_t mpi_ops = {
    .version = EBB_COMM_VERSION,
    .name = "mpi",
    .barrier = mpi_barrier,
    .bcast = mpi_bcast,
    .allreduce = mpi_allreduce,
    .allgather = mpi_allgather,
    .allgatherv = mpi_allgatherv,
    .alltoall = mpi_alltoall,
    .isend = mpi_isend,
    .irecv = mpi_irecv,
    .waitall = mpi_waitall,
    .abort = mpi_abort,
    .destroy = mpi_destroy,
};

static ebb_status_t initialise(mpi_t *m)
{
    int there = 0, gone = 0, level = MPI_THREAD_SINGLE;
    MPI_Finalized(&gone);
    if (gone)
        return EBB_FAIL(EBB_EUNAVAILABLE, "MPI has already been finalised in this process and cannot start again");
    MPI_Initialized(&there);
    if (there) {
        MPI_Query_thread(&level);
    } else {
        /* hwloc would look for X displays on "localhost"; without an /etc/hosts that waits seconds for a name server.
         */
        setenv("HWLOC_COMPONENTS", "-gl", false);
        int rc = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level);
        if (rc != MPI_SUCCESS)
            return EBB_FAIL(EBB_EUNAVAILABLE, "MPI_Init_thread failed with code %d", rc);
        m->ours = true;
    }
    if (level < MPI_THREAD_FUNNELED)
        EBB_WARN("comm", "this MPI was started without thread support (level %d); using it from one thread only",
                 level);
    return EBB_OK;
}

/* Cores that this rank may count on, when each core is divided among the ranks of the host that may run on it. */
static int share_of_cores(const cpu_set_t *set, int rank, int size)
{
    double share = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        int users = 0;
        for (int r = 0; r < size; r++)
            users += CPU_ISSET(cpu, &set[r]) != 0;
        if (CPU_ISSET(cpu, &set[rank]))
            share += 1.0 / users;
    }
    return (int)(share + 1e-6);
}

static ebb_status_t divide_cores(MPI_Comm host, int rank, int size, int *cores_p)
{
    cpu_set_t *set, mine;
    CPU_ZERO(&mine);
    (void)sched_getaffinity(0, sizeof mine, &mine); /* more than CPU_SETSIZE cores: counts as none, so as 1 */
    EBB_TRY(EBB_NEW_ARRAY("bindings", size, &set));
    int rc = MPI_Allgather(&mine, (int)sizeof mine, MPI_BYTE, set, (int)sizeof mine, MPI_BYTE, host);
    *cores_p = share_of_cores(set, rank, size);
    ebb_free(set);
    return rc == MPI_SUCCESS ? EBB_OK : mpi_error(rc, "MPI_Allgather");
}

static ebb_status_t local_place(mpi_t *m, int *rank_p, int *size_p, int *cores_p)
{
    MPI_Comm host;
    MPI_TRY(MPI_Comm_split_type(m->comm, MPI_COMM_TYPE_SHARED, m->rank, MPI_INFO_NULL, &host), "MPI_Comm_split_type");
    MPI_Comm_rank(host, rank_p);
    MPI_Comm_size(host, size_p);
    ebb_status_t status = divide_cores(host, *rank_p, *size_p, cores_p);
    MPI_Comm_free(&host);
    return status;
}

/* Do ranks share cores, on any host? All wait alike then, since a collective has one form for all. */
static ebb_status_t look_for_crowds(mpi_t *m, int cores)
{
    int crowded = cores < 1;
    MPI_TRY(MPI_Allreduce(MPI_IN_PLACE, &crowded, 1, MPI_INT, MPI_MAX, m->comm), "MPI_Allreduce");
    m->crowded = crowded != 0;
    if (m->crowded)
        (void)prctl(PR_SET_TIMERSLACK, 1UL); /* of this thread, which is the one that waits: short sleeps are short */
    return EBB_OK;
}

static ebb_status_t join_world(mpi_t *m, int *local_rank_p, int *local_size_p, int *cores_p)
{
    MPI_TRY(MPI_Comm_dup(MPI_COMM_WORLD, &m->comm), "MPI_Comm_dup");
    MPI_TRY(MPI_Comm_set_errhandler(m->comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    MPI_Comm_rank(m->comm, &m->rank);
    MPI_Comm_size(m->comm, &m->size);
    EBB_TRY(local_place(m, local_rank_p, local_size_p, cores_p));
    EBB_TRY(look_for_crowds(m, *cores_p));
    EBB_TRY(EBB_NEW_ARRAY("MPI counts", m->size, &m->counts));
    return EBB_NEW_ARRAY("MPI counts", m->size, &m->displs);
}

ebb_status_t ebb_comm_mpi(ebb_comm_t **comm_p)
{
    mpi_t *m;
    int local_rank = 0, local_size = 1, cores = 1;
    ebb_status_t status;
    *comm_p = NULL;
    EBB_TRY(EBB_NEW("communicator", &m));
    m->comm = MPI_COMM_NULL;
    EBB_TRY_GOTO(status, initialise(m), fail);
    EBB_TRY_GOTO(status, join_world(m, &local_rank, &local_size, &cores), fail);
    EBB_TRY_GOTO(status, ebb_comm_create(&mpi_ops, m, m->rank, m->size, local_rank, local_size, comm_p), fail);
    ebb_comm_set_cores(*comm_p, cores);
    ebb_log_set_rank(m->rank, m->size);
    return EBB_OK;
fail:
    mpi_destroy(m);
    return status;
}
