/* Ranks and how they talk: a table of operations that a transport fills (self, mpi), and wires between devices (through
 * host memory, or NCCL).
 *
 * Only the thread that created a communicator may call into it (MPI_THREAD_FUNNELED). "Collective" functions must be
 * called by all ranks in the same order. Sizes are 64-bit; a transport cuts long messages itself.
 */
#ifndef EBB_COMM_H
#define EBB_COMM_H

#include <ebb/base.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EBB_COMM_VERSION 1u

typedef struct ebb_comm ebb_comm_t;

typedef enum ebb_reduce { EBB_SUM, EBB_MIN, EBB_MAX, EBB_BOR } ebb_reduce_t;
typedef enum ebb_comm_type { EBB_COMM_I64, EBB_COMM_F32, EBB_COMM_F64 } ebb_comm_type_t; /* EBB_BOR: I64 only */

/* A message under way; owned by the caller, opaque words filled by the transport. */
typedef struct ebb_request {
    uint64_t word[4];
} ebb_request_t;

/* What a transport provides. All entries are required. state: the transport's own. */
typedef struct ebb_comm_ops {
    uint32_t version; /* EBB_COMM_VERSION the transport was built with */
    const char *name;
    ebb_status_t (*barrier)(void *state);
    ebb_status_t (*bcast)(void *state, void *buf, int64_t bytes, int root);
    /* In place. F32/F64 sums are in the transport's own order: for figures and for `sync: fast`, never for bits. */
    ebb_status_t (*allreduce)(void *state, void *buf, int64_t count, ebb_comm_type_t type, ebb_reduce_t op);
    /* recv: size x bytes, in rank order. */
    ebb_status_t (*allgather)(void *state, const void *send, int64_t bytes, void *recv);
    /* recv: counts[r] bytes of rank r at offset displs[r]; send may lie in place. */
    ebb_status_t (*allgatherv)(void *state, const void *send, int64_t bytes, void *recv, const int64_t *counts,
                               const int64_t *displs);
    /* send and recv: size x bytes. */
    ebb_status_t (*alltoall)(void *state, const void *send, int64_t bytes, void *recv);
    ebb_status_t (*isend)(void *state, const void *buf, int64_t bytes, int peer, int tag, ebb_request_t *req);
    ebb_status_t (*irecv)(void *state, void *buf, int64_t bytes, int peer, int tag, ebb_request_t *req);
    ebb_status_t (*waitall)(void *state, int n, ebb_request_t *reqs);
    /* Ends every rank's process at once; does not return. For errors that cannot be agreed upon. */
    void (*abort)(void *state, int code);
    void (*destroy)(void *state);
} ebb_comm_ops_t;

/* Make a communicator from a transport's table; fails with EBB_EUNAVAILABLE if the version or an entry is missing. */
EBB_API ebb_status_t ebb_comm_create(const ebb_comm_ops_t *ops, void *state, int rank, int size, int local_rank,
                                     int local_size, ebb_comm_t **comm_p) EBB_MUST_CHECK;
/* One rank, no transport. */
EBB_API ebb_status_t ebb_comm_self(ebb_comm_t **comm_p) EBB_MUST_CHECK;
/* MPI_COMM_WORLD. Initialises MPI if nobody did (and then finalises it in destroy). Collective. Sets the log's rank. */
EBB_API ebb_status_t ebb_comm_mpi(ebb_comm_t **comm_p) EBB_MUST_CHECK;
/* What the environment asks for: mpi under mpirun, srun or another PMI launcher, else self. */
EBB_API ebb_status_t ebb_comm_default(ebb_comm_t **comm_p) EBB_MUST_CHECK;
/* Collective. */
EBB_API void ebb_comm_destroy(ebb_comm_t *comm);

EBB_API const char *ebb_comm_name(const ebb_comm_t *comm);
EBB_API int ebb_comm_rank(const ebb_comm_t *comm);
EBB_API int ebb_comm_size(const ebb_comm_t *comm);
EBB_API int ebb_comm_local_rank(const ebb_comm_t *comm); /* among the ranks of this host */
EBB_API int ebb_comm_local_size(const ebb_comm_t *comm);
/* This rank's share of its host's cores, at least 1: those it is bound to, divided among the ranks bound to the same.
 */
EBB_API int ebb_comm_cores(const ebb_comm_t *comm);

/* The operations of the table; see ebb_comm_ops_t. All but isend, irecv, waitall and abort are collective. */
EBB_API ebb_status_t ebb_comm_barrier(ebb_comm_t *comm);
EBB_API ebb_status_t ebb_comm_bcast(ebb_comm_t *comm, void *buf, int64_t bytes, int root);
EBB_API ebb_status_t ebb_comm_allreduce(ebb_comm_t *comm, void *buf, int64_t count, ebb_comm_type_t type,
                                        ebb_reduce_t op);
EBB_API ebb_status_t ebb_comm_allgather(ebb_comm_t *comm, const void *send, int64_t bytes, void *recv);
EBB_API ebb_status_t ebb_comm_allgatherv(ebb_comm_t *comm, const void *send, int64_t bytes, void *recv,
                                         const int64_t *counts, const int64_t *displs);
EBB_API ebb_status_t ebb_comm_alltoall(ebb_comm_t *comm, const void *send, int64_t bytes, void *recv);
EBB_API ebb_status_t ebb_comm_isend(ebb_comm_t *comm, const void *buf, int64_t bytes, int peer, int tag,
                                    ebb_request_t *req);
EBB_API ebb_status_t ebb_comm_irecv(ebb_comm_t *comm, void *buf, int64_t bytes, int peer, int tag, ebb_request_t *req);
EBB_API ebb_status_t ebb_comm_waitall(ebb_comm_t *comm, int n, ebb_request_t *reqs);
EBB_API void ebb_comm_abort(ebb_comm_t *comm, int code);

/* All ranks agree on an outcome: each passes its own status; if any failed, every rank returns the failure of the
 * lowest rank that failed, with that rank's message in ebb_error(). EBB_ESTOPPED and EBB_END give way to errors.
 * Collective; the way out of every collective function that can fail on one rank alone. */
EBB_API ebb_status_t ebb_comm_agree(ebb_comm_t *comm, ebb_status_t mine) EBB_MUST_CHECK;

/* ---- wires: messages between the memories of devices ----
 * Where gradients live on devices, slices of them go from device to device by a wire: through host memory and an
 * ebb_comm_t (`mpi`), or by NCCL. Pointers are the device's. Exchanges are begun, before the device has come to what
 * they follow if need be; what follows them on the device is given to it after an event, and need not be waited for by
 * the host either. A wire is used by the thread that uses the communicator. */

#define EBB_WIRE_VERSION 3u

/* One message: to a peer, or from it. Between two ranks the n-th one sent is the n-th one received. */
typedef struct ebb_part {
    void *ptr;
    int64_t bytes; /* 0: no message */
    int peer;
    bool send;
} ebb_part_t;

typedef struct ebb_wire_ops {
    uint32_t version; /* EBB_WIRE_VERSION */
    const char *name;
    /* Begin messages, none of which waits for another of the call. What is begun is carried out in its order, once the
     * device has reached n_after events (what its backend's exec_event gives: a cudaEvent_t of CUDA's), as these are
     * now; the call need not wait for that. The lists are read now; what is sent is not written to and what is
     * received not touched until it is through. Collective in one order, but for ranks without messages. */
    ebb_status_t (*begin)(void *state, int n_after, void *const *after, int64_t n, const ebb_part_t *part);
    /* Begin to give slices of buf to all, counts[r] bytes at displs[r] being rank r's. In place. Collective. */
    ebb_status_t (*gather)(void *state, int n_after, void *const *after, void *buf, const int64_t *counts,
                           const int64_t *displs);
    /* An event of the device (for its backend's exec_await_event) that is reached when all that was begun is through;
     * NULL: it is through. Valid until the next call. Not collective. */
    ebb_status_t (*event)(void *state, void **event_p);
    /* Wait until all that was begun is through, and tell what went wrong with it; after an error of NCCL nothing can be
     * exchanged any more. Not collective. */
    ebb_status_t (*finish)(void *state);
    /* Sum in the transport's own order, in place, of what is complete, and wait for it: for `sync: fast`. Collective.
     */
    ebb_status_t (*allreduce)(void *state, float *buf, int64_t count);
    void (*destroy)(void *state); /* gives up what is under way */
} ebb_wire_ops_t;

typedef struct ebb_wire {
    const ebb_wire_ops_t *ops;
    void *state;
} ebb_wire_t;

/* What a wire's shared object exports under the name ebb_wire_entry. device: the backend's number of the device; limit:
 * seconds after which a call without progress gives up (0: never). Collective. */
typedef ebb_status_t (*ebb_wire_entry_t)(uint32_t version, ebb_comm_t *comm, int device, double limit,
                                         ebb_wire_t *wire);

/* Load libebb_<name>.so, looked for where backends are, and make a wire. Collective; EBB_EUNAVAILABLE on all ranks if
 * it is missing on one. */
EBB_API ebb_status_t ebb_wire_open(const char *name, ebb_comm_t *comm, int device, double limit,
                                   ebb_wire_t **wire_p) EBB_MUST_CHECK;
EBB_API void ebb_wire_close(ebb_wire_t *wire);
/* The operations of the table. */
EBB_API ebb_status_t ebb_wire_begin(const ebb_wire_t *wire, int n_after, void *const *after, int64_t n,
                                    const ebb_part_t *part);
EBB_API ebb_status_t ebb_wire_gather(const ebb_wire_t *wire, int n_after, void *const *after, void *buf,
                                     const int64_t *counts, const int64_t *displs);
EBB_API ebb_status_t ebb_wire_event(const ebb_wire_t *wire, void **event_p);
EBB_API ebb_status_t ebb_wire_finish(const ebb_wire_t *wire);
EBB_API ebb_status_t ebb_wire_allreduce(const ebb_wire_t *wire, float *buf, int64_t count);

#ifdef __cplusplus
}
#endif
#endif
