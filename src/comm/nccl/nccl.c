/* The wire by NCCL, libebb_nccl.so. Its communicator is made from an id that rank 0 draws and the other transport
 * spreads, in non-blocking mode (blocking = 0): no call of NCCL waits, the wire polls the communicator and its stream.
 * So an error on another rank or a lost GPU is met within the polling, and a call without progress for `limit` seconds
 * (the watchdog's) is given up: the communicator is aborted, and every rank comes back with an error. Should even the
 * abort hang, the watchdog ends the job, since no sign of life comes from here after the limit.
 *
 * All messages of a begin are one group on the wire's stream, which is let wait for the events first. NCCL may not have
 * put them there when begin returns, since connections are made by threads of its own: the next call waits for that.
 * Slices of all ranks go by ncclAllGather where they are of one size, else by one broadcast a rank in a group. */
#include <ebb/comm.h>

#include <cuda_runtime.h>
#include <nccl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct nccl {
    ebb_comm_t *comm;
    ncclComm_t nccl; /* NULL: none, or aborted */
    cudaStream_t stream;
    cudaEvent_t event; /* the last that was asked for */
    int device, rank, ranks;
    double limit;
    bool under_way; /* messages were begun and are not known to have arrived */
} nccl_t;

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static ebb_status_t cuda_failed(const nccl_t *w, cudaError_t code, const char *what)
{
    return EBB_FAIL(EBB_EUNAVAILABLE, "NCCL: %s: GPU %d: CUDA says %s (%s)", what, w->device, cudaGetErrorString(code),
                    cudaGetErrorName(code));
}

/* Nothing can be sent any more; whoever waits for this rank hears of it. */
static void give_up(nccl_t *w)
{
    if (w->nccl)
        (void)ncclCommAbort(w->nccl);
    w->nccl = NULL;
    w->under_way = false;
}

static ebb_status_t failed(nccl_t *w, ncclResult_t code, const char *what)
{
    const char *detail = w->nccl ? ncclGetLastError(w->nccl) : "";
    ebb_status_t status = EBB_FAIL(EBB_EPEER, "NCCL: %s on rank %d: %s%s%s (NCCL_DEBUG=WARN tells more)", what, w->rank,
                                   ncclGetErrorString(code), detail && *detail ? ": " : "", detail ? detail : "");
    give_up(w);
    return status;
}

static ebb_status_t too_long(nccl_t *w, const char *what)
{
    give_up(w);
    return EBB_FAIL(EBB_EPEER,
                    "NCCL: %s on rank %d: no end after %g s (run.watchdog): another rank or a GPU is stuck or lost",
                    what, w->rank, w->limit);
}

/* Wait until NCCL has taken what it was given and, with `done`, until the stream has carried it out. */
static ebb_status_t settle(nccl_t *w, bool done, const char *what)
{
    double start = seconds();
    ncclResult_t code = ncclInProgress;
    cudaError_t stream = cudaErrorNotReady;
    for (;;) {
        ncclResult_t asked = ncclCommGetAsyncError(w->nccl, &code);
        if (asked != ncclSuccess || (code != ncclSuccess && code != ncclInProgress))
            return failed(w, asked != ncclSuccess ? asked : code, what);
        if (code == ncclSuccess && done)
            stream = cudaStreamQuery(w->stream);
        if (stream != cudaSuccess && stream != cudaErrorNotReady) {
            give_up(w);
            return cuda_failed(w, stream, what);
        }
        if (code == ncclSuccess && (!done || stream == cudaSuccess)) {
            w->under_way = w->under_way && !done;
            return EBB_OK;
        }
        if (w->limit > 0 && seconds() - start > w->limit)
            return too_long(w, what);
        sched_yield();
    }
}

static bool is_well(ncclResult_t code)
{
    return code == ncclSuccess || code == ncclInProgress;
}

#define NCCL_TRY(w, call, what)                                                                                        \
    do {                                                                                                               \
        ncclResult_t code_ = (call);                                                                                   \
        if (!is_well(code_))                                                                                           \
            return failed((w), code_, (what));                                                                         \
    } while (0)

static ebb_status_t usable(const nccl_t *w, const char *what)
{
    if (!w->nccl)
        return EBB_FAIL(EBB_EPEER, "NCCL: the communicator was aborted after an error");
    cudaError_t code = cudaSetDevice(w->device);
    return code == cudaSuccess ? EBB_OK : cuda_failed(w, code, "choosing a GPU");
}

/* Before NCCL or the stream is given anything: NCCL may be at work on what it was given last. */
static ebb_status_t ready(nccl_t *w, const char *what)
{
    EBB_TRY(usable(w, what));
    return settle(w, false, what);
}

/* code: of the group's operations so far. Also ends it after an error, or nothing would ever leave this thread again,
 * not even an abort. */
static ebb_status_t end_group(nccl_t *w, ncclResult_t code, const char *what)
{
    ncclResult_t end = ncclGroupEnd();
    NCCL_TRY(w, code, what);
    NCCL_TRY(w, end, what);
    return EBB_OK;
}

static const char exchanging[] = "exchanging gradients and weights";

static ncclResult_t give_message(nccl_t *w, const ebb_part_t *part)
{
    size_t bytes = (size_t)part->bytes;
    if (bytes == 0)
        return ncclSuccess;
    w->under_way = true;
    return part->send ? ncclSend(part->ptr, bytes, ncclChar, part->peer, w->nccl, w->stream)
                      : ncclRecv(part->ptr, bytes, ncclChar, part->peer, w->nccl, w->stream);
}

/* Let the stream, which NCCL has been given all that was begun for, wait for events. */
static ebb_status_t follow(nccl_t *w, int n_after, void *const *after, const char *what)
{
    EBB_TRY(ready(w, what));
    for (int i = 0; i < n_after; i++) {
        cudaError_t code = cudaStreamWaitEvent(w->stream, after[i], 0);
        if (code != cudaSuccess)
            return cuda_failed(w, code, what);
    }
    return EBB_OK;
}

static ebb_status_t nccl_begin(void *state, int n_after, void *const *after, int64_t n, const ebb_part_t *part)
{
    nccl_t *w = state;
    EBB_TRY(follow(w, n_after, after, exchanging));
    NCCL_TRY(w, ncclGroupStart(), exchanging);
    ncclResult_t code = ncclSuccess;
    for (int64_t i = 0; i < n && is_well(code); i++)
        code = give_message(w, &part[i]);
    return end_group(w, code, exchanging);
}

static ebb_status_t nccl_finish(void *state)
{
    nccl_t *w = state;
    EBB_TRY(usable(w, exchanging));
    return settle(w, true, exchanging);
}

static bool are_equal(const nccl_t *w, const int64_t *counts, const int64_t *displs)
{
    for (int r = 0; r < w->ranks; r++)
        if (counts[r] != counts[0] || displs[r] != displs[0] + r * counts[0])
            return false;
    return true;
}

static ebb_status_t nccl_gather(void *state, int n_after, void *const *after, void *buf, const int64_t *counts,
                                const int64_t *displs)
{
    static const char what[] = "gathering weights";
    nccl_t *w = state;
    char *at = buf;
    EBB_TRY(follow(w, n_after, after, what));
    w->under_way = true;
    if (are_equal(w, counts, displs)) {
        NCCL_TRY(w,
                 ncclAllGather(at + displs[w->rank], at + displs[0], (size_t)counts[0], ncclChar, w->nccl, w->stream),
                 what);
        return EBB_OK;
    }
    NCCL_TRY(w, ncclGroupStart(), what);
    ncclResult_t code = ncclSuccess;
    for (int r = 0; r < w->ranks && is_well(code); r++)
        if (counts[r] > 0)
            code = ncclBroadcast(at + displs[r], at + displs[r], (size_t)counts[r], ncclChar, r, w->nccl, w->stream);
    return end_group(w, code, what);
}

/* NCCL has put all that was begun into the stream before the event is. */
static ebb_status_t nccl_event(void *state, void **event_p)
{
    nccl_t *w = state;
    EBB_TRY(ready(w, exchanging));
    cudaError_t code = cudaEventRecord(w->event, w->stream);
    if (code != cudaSuccess)
        return cuda_failed(w, code, exchanging);
    *event_p = w->event;
    return EBB_OK;
}

static ebb_status_t nccl_allreduce(void *state, float *buf, int64_t count)
{
    static const char what[] = "adding gradients";
    nccl_t *w = state;
    EBB_TRY(ready(w, what));
    NCCL_TRY(w, ncclAllReduce(buf, buf, (size_t)count, ncclFloat, ncclSum, w->nccl, w->stream), what);
    return settle(w, true, what);
}

static void release(nccl_t *w)
{
    if (w->event)
        (void)cudaEventDestroy(w->event);
    if (w->stream)
        (void)cudaStreamDestroy(w->stream);
    free(w);
}

static void nccl_destroy(void *state)
{
    nccl_t *w = state;
    (void)cudaSetDevice(w->device);
    if (w->under_way)
        give_up(w);
    if (w->nccl && ncclCommFinalize(w->nccl) <= ncclSuccess)
        (void)ncclCommDestroy(w->nccl);
    else if (w->nccl && settle(w, false, "taking leave") == EBB_OK)
        (void)ncclCommDestroy(w->nccl);
    release(w);
}

static ebb_status_t join(nccl_t *w, const ncclUniqueId *id)
{
    static const char what[] = "making a communicator";
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    cudaError_t code = cudaSetDevice(w->device);
    if (code == cudaSuccess)
        code = cudaStreamCreateWithFlags(&w->stream, cudaStreamNonBlocking);
    if (code == cudaSuccess)
        code = cudaEventCreateWithFlags(&w->event, cudaEventDisableTiming);
    if (code != cudaSuccess)
        return cuda_failed(w, code, what);
    NCCL_TRY(w, ncclCommInitRankConfig(&w->nccl, w->ranks, *id, w->rank, &config), what);
    return settle(w, false, what);
}

static const ebb_wire_ops_t table = {.version = EBB_WIRE_VERSION,
                                     .name = "nccl",
                                     .begin = nccl_begin,
                                     .gather = nccl_gather,
                                     .event = nccl_event,
                                     .finish = nccl_finish,
                                     .allreduce = nccl_allreduce,
                                     .destroy = nccl_destroy};

/* Rank 0's id to all. */
static ebb_status_t draw_id(const nccl_t *w, ncclUniqueId *id)
{
    ebb_status_t status = EBB_OK;
    ncclResult_t code = w->rank == 0 ? ncclGetUniqueId(id) : ncclSuccess;
    if (code != ncclSuccess)
        status = EBB_FAIL(EBB_EUNAVAILABLE, "NCCL cannot be started: %s (NCCL_DEBUG=WARN tells more)",
                          ncclGetErrorString(code));
    EBB_TRY(ebb_comm_agree(w->comm, status));
    return ebb_comm_bcast(w->comm, id, sizeof *id, 0);
}

EBB_API ebb_status_t ebb_wire_entry(uint32_t version, ebb_comm_t *comm, int device, double limit, ebb_wire_t *wire);

ebb_status_t ebb_wire_entry(uint32_t version, ebb_comm_t *comm, int device, double limit, ebb_wire_t *wire)
{
    ncclUniqueId id = {0};
    ebb_status_t status = EBB_OK;
    nccl_t *w = calloc(1, sizeof *w);
    if (version != EBB_WIRE_VERSION)
        status = EBB_FAIL(EBB_EUNAVAILABLE, "the NCCL wire speaks version %u", EBB_WIRE_VERSION);
    else if (!w)
        status = EBB_FAIL(EBB_ENOMEM, "NCCL: out of memory");
    status = ebb_comm_agree(comm, status);
    if (status == EBB_OK) {
        *w = (nccl_t){
            .comm = comm, .device = device, .rank = ebb_comm_rank(comm), .ranks = ebb_comm_size(comm), .limit = limit};
        status = draw_id(w, &id);
    }
    if (status == EBB_OK)
        status = ebb_comm_agree(comm, join(w, &id));
    if (status != EBB_OK) {
        if (w) {
            give_up(w);
            release(w);
        }
        return status;
    }
    *wire = (ebb_wire_t){&table, w};
    return EBB_OK;
}
