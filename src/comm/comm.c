/* Communicators: a checked table of operations with the rank's place, the choice of a transport, and the agreement of
 * all ranks on one outcome.
 *
 * Collective rules are those of the table (ebb/comm.h). A communicator is used by one thread, so nothing here locks.
 */
#include <ebb/comm.h>
#include "comm/transport.h"
#include "base/alloc.h"
#include "base/pulse.h"
#include "base/threads.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ebb_comm {
    ebb_comm_ops_t ops;
    void *state;
    int rank, size;
    int local_rank, local_size, cores;
};

/* An error as it travels: ebb_error_t without its pointer. */
typedef struct wire_error {
    int32_t status, line, rank;
    char file[116];
    char message[sizeof((ebb_error_t *)0)->message];
} wire_error_t;

static const char *missing_entry(const ebb_comm_ops_t *ops)
{
    const struct {
        const char *name;
        bool there;
    } entry[] = {
        {"name", ops->name != NULL},           {"barrier", ops->barrier != NULL},
        {"bcast", ops->bcast != NULL},         {"allreduce", ops->allreduce != NULL},
        {"allgather", ops->allgather != NULL}, {"allgatherv", ops->allgatherv != NULL},
        {"alltoall", ops->alltoall != NULL},   {"isend", ops->isend != NULL},
        {"irecv", ops->irecv != NULL},         {"waitall", ops->waitall != NULL},
        {"abort", ops->abort != NULL},         {"destroy", ops->destroy != NULL},
    };
    for (size_t i = 0; i < sizeof entry / sizeof *entry; i++)
        if (!entry[i].there)
            return entry[i].name;
    return NULL;
}

ebb_status_t ebb_comm_create(const ebb_comm_ops_t *ops, void *state, int rank, int size, int local_rank, int local_size,
                             ebb_comm_t **comm_p)
{
    ebb_comm_t *comm;
    *comm_p = NULL;
    if (ops->version != EBB_COMM_VERSION)
        return EBB_FAIL(EBB_EUNAVAILABLE,
                        "transport %s was built for interface version %u, this is version %u: rebuild it",
                        ops->name ? ops->name : "(unnamed)", ops->version, EBB_COMM_VERSION);
    const char *missing = missing_entry(ops);
    if (missing)
        return EBB_FAIL(EBB_EUNAVAILABLE, "transport %s lacks the operation %s", ops->name ? ops->name : "(unnamed)",
                        missing);
    if (size < 1 || rank < 0 || rank >= size || local_size < 1 || local_rank < 0 || local_rank >= local_size)
        return EBB_FAIL(EBB_EINVAL, "transport %s: rank %d of %d (%d of %d on this host) is out of range", ops->name,
                        rank, size, local_rank, local_size);
    EBB_TRY(EBB_NEW("communicator", &comm));
    int cores = ebb_cores() / local_size;
    *comm = (ebb_comm_t){*ops, state, rank, size, local_rank, local_size, cores > 0 ? cores : 1};
    *comm_p = comm;
    return EBB_OK;
}

void ebb_comm_destroy(ebb_comm_t *comm)
{
    if (!comm)
        return;
    comm->ops.destroy(comm->state);
    ebb_free(comm);
}

const char *const ebb_comm_rank_names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID", NULL};

int ebb_comm_launched_rank(void)
{
    for (const char *const *name = ebb_comm_rank_names; *name; name++)
        if (getenv(*name))
            return atoi(getenv(*name));
    return -1;
}

bool ebb_comm_launched(void)
{
    static const char *const sign[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE"};
    for (size_t i = 0; i < sizeof sign / sizeof *sign; i++)
        if (getenv(sign[i]))
            return true;
    return false;
}

ebb_status_t ebb_comm_default(ebb_comm_t **comm_p)
{
    *comm_p = NULL;
    if (ebb_comm_launched())
        return ebb_comm_mpi(comm_p);
    /* srun without PMI would start so many lonely runs that overwrite one another. */
    const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
    if (tasks && atoi(tasks) > 1)
        return EBB_FAIL(EBB_EUNAVAILABLE,
                        "srun started %s tasks without a way to find one another: use srun --mpi=pmix or --mpi=pmi2",
                        tasks);
    return ebb_comm_self(comm_p);
}

const char *ebb_comm_name(const ebb_comm_t *comm)
{
    return comm->ops.name;
}

int ebb_comm_rank(const ebb_comm_t *comm)
{
    return comm->rank;
}

int ebb_comm_size(const ebb_comm_t *comm)
{
    return comm->size;
}

int ebb_comm_local_rank(const ebb_comm_t *comm)
{
    return comm->local_rank;
}

int ebb_comm_cores(const ebb_comm_t *comm)
{
    return comm->cores;
}

void ebb_comm_set_cores(ebb_comm_t *comm, int cores)
{
    comm->cores = cores > 0 ? cores : 1;
}

int ebb_comm_local_size(const ebb_comm_t *comm)
{
    return comm->local_size;
}

/* Between these, other ranks are to blame when nothing happens. */
static void waiting(void)
{
    ebb_pulse_wait(true);
}

static ebb_status_t waited(ebb_status_t status)
{
    ebb_pulse_wait(false);
    return status;
}

ebb_status_t ebb_comm_barrier(ebb_comm_t *comm)
{
    waiting();
    return waited(comm->ops.barrier(comm->state));
}

ebb_status_t ebb_comm_bcast(ebb_comm_t *comm, void *buf, int64_t bytes, int root)
{
    waiting();
    return waited(comm->ops.bcast(comm->state, buf, bytes, root));
}

ebb_status_t ebb_comm_allreduce(ebb_comm_t *comm, void *buf, int64_t count, ebb_comm_type_t type, ebb_reduce_t op)
{
    if (op == EBB_BOR && type != EBB_COMM_I64)
        return EBB_FAIL(EBB_EBUG, "bits can be joined in 64-bit integers only");
    waiting();
    return waited(comm->ops.allreduce(comm->state, buf, count, type, op));
}

ebb_status_t ebb_comm_allgather(ebb_comm_t *comm, const void *send, int64_t bytes, void *recv)
{
    waiting();
    return waited(comm->ops.allgather(comm->state, send, bytes, recv));
}

ebb_status_t ebb_comm_allgatherv(ebb_comm_t *comm, const void *send, int64_t bytes, void *recv, const int64_t *counts,
                                 const int64_t *displs)
{
    if (counts[comm->rank] != bytes)
        return EBB_FAIL(EBB_EBUG, "allgatherv: %lld bytes to send, but counts say %lld", (long long)bytes,
                        (long long)counts[comm->rank]);
    waiting();
    return waited(comm->ops.allgatherv(comm->state, send, bytes, recv, counts, displs));
}

ebb_status_t ebb_comm_alltoall(ebb_comm_t *comm, const void *send, int64_t bytes, void *recv)
{
    waiting();
    return waited(comm->ops.alltoall(comm->state, send, bytes, recv));
}

ebb_status_t ebb_comm_isend(ebb_comm_t *comm, const void *buf, int64_t bytes, int peer, int tag, ebb_request_t *req)
{
    return comm->ops.isend(comm->state, buf, bytes, peer, tag, req);
}

ebb_status_t ebb_comm_irecv(ebb_comm_t *comm, void *buf, int64_t bytes, int peer, int tag, ebb_request_t *req)
{
    return comm->ops.irecv(comm->state, buf, bytes, peer, tag, req);
}

ebb_status_t ebb_comm_waitall(ebb_comm_t *comm, int n, ebb_request_t *reqs)
{
    waiting();
    return waited(comm->ops.waitall(comm->state, n, reqs));
}

void ebb_comm_abort(ebb_comm_t *comm, int code)
{
    comm->ops.abort(comm->state, code);
}

/* ---- agreement ---- */

enum { CLASS_ERROR, CLASS_STOPPED, CLASS_END, CLASS_OK };

static int64_t class_of(ebb_status_t status)
{
    switch (status) {
    case EBB_OK: return CLASS_OK;
    case EBB_END: return CLASS_END;
    case EBB_ESTOPPED: return CLASS_STOPPED;
    default: return CLASS_ERROR;
    }
}

static void pack_error(ebb_status_t status, int rank, wire_error_t *wire)
{
    const ebb_error_t *err = ebb_error();
    memset(wire, 0, sizeof *wire);
    wire->status = status;
    wire->rank = rank;
    if (err->status == EBB_OK) { /* returned without a record */
        snprintf(wire->message, sizeof wire->message, "%s", ebb_status_name(status));
        return;
    }
    wire->line = err->line;
    snprintf(wire->file, sizeof wire->file, "%s", err->file ? err->file : "");
    snprintf(wire->message, sizeof wire->message, "%s", err->message);
}

static ebb_status_t unpack_error(const wire_error_t *wire)
{
    static _Thread_local char file[sizeof wire->file];
    ebb_error_t err = {.status = (ebb_status_t)wire->status, .file = file, .line = wire->line, .rank = wire->rank};
    memcpy(file, wire->file, sizeof file);
    memcpy(err.message, wire->message, sizeof err.message);
    ebb_error_clear();
    return ebb_error_set(&err);
}

ebb_status_t ebb_comm_agree(ebb_comm_t *comm, ebb_status_t mine)
{
    if (comm->size == 1)
        return mine;
    /* The smallest key belongs to the worst class and, within it, to the lowest rank. */
    int64_t key = class_of(mine) << 32 | comm->rank;
    waiting();
    ebb_status_t status = waited(comm->ops.allreduce(comm->state, &key, 1, EBB_COMM_I64, EBB_MIN));
    if (status != EBB_OK)
        return status;
    int64_t worst = key >> 32;
    if (worst == CLASS_OK || worst == CLASS_END)
        return worst == CLASS_OK ? EBB_OK : EBB_END;
    int root = (int)(key & INT32_MAX);
    wire_error_t wire = {0};
    if (root == comm->rank)
        pack_error(mine, root, &wire);
    EBB_TRY(ebb_comm_bcast(comm, &wire, sizeof wire, root));
    return unpack_error(&wire);
}
