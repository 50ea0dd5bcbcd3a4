/* Ranks tell one another what they compute on. Canonical sums have equal bits on devices of one kind only, so others
 * are refused. NCCL joins ranks that have a GPU each; ranks that share one send through host memory. */
#include "train/devices.h"
#include "base/alloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One rank's, as it travels. */
typedef struct seat {
    char host[64], kind[96], id[64];
    int32_t number;
} seat_t;

static ebb_status_t find_seat(const ebb_backend_t *backend, seat_t *seat)
{
    ebb_device_info_t info;
    EBB_TRY(backend->ops->device_info(backend->dev, &info));
    gethostname(seat->host, sizeof seat->host - 1);
    snprintf(seat->kind, sizeof seat->kind, "%s", info.kind);
    snprintf(seat->id, sizeof seat->id, "%s", info.id);
    seat->number = info.number;
    return EBB_OK;
}

static ebb_status_t tell(ebb_devices_t *d, const seat_t *seat)
{
    char text[256];
    for (int r = 0; r < d->ranks; r++) {
        snprintf(text, sizeof text, "%s: %s, GPU %d", seat[r].host, seat[r].kind, seat[r].number);
        d->told[r] = ebb_strdup(text);
        if (!d->told[r])
            return EBB_FAIL(EBB_ENOMEM, "out of memory");
    }
    return EBB_OK;
}

/* The first rank whose GPU is of another kind than rank 0's; 0: none. */
static int other_kind(const seat_t *seat, int ranks)
{
    for (int r = 1; r < ranks; r++)
        if (strcmp(seat[r].kind, seat[0].kind) != 0)
            return r;
    return 0;
}

static bool same_device(const seat_t *a, const seat_t *b)
{
    return strcmp(a->host, b->host) == 0 && strcmp(a->id, b->id) == 0;
}

/* Two ranks on one GPU, or false. */
static bool are_shared(const seat_t *seat, int ranks, int *a_p, int *b_p)
{
    for (int b = 1; b < ranks; b++)
        for (int a = 0; a < b; a++)
            if (same_device(&seat[a], &seat[b])) {
                *a_p = a;
                *b_p = b;
                return true;
            }
    return false;
}

static bool may_share(void)
{
    const char *text = getenv("NCCL_MULTI_RANK_GPU_ENABLE");
    return text && strcmp(text, "1") == 0;
}

/* What goes with a backend cuda<suffix> is called nccl<suffix>. Where NCCL was not insisted on, it may be missing. */
static ebb_status_t open_nccl(ebb_devices_t *d, ebb_comm_t *comm, const ebb_backend_t *backend, int number, bool insist,
                              double limit)
{
    char name[32];
    const char *suffix = strncmp(backend->ops->name, "cuda", 4) == 0 ? backend->ops->name + 4 : "";
    snprintf(name, sizeof name, "nccl%.20s", suffix);
    ebb_status_t status = ebb_wire_open(name, comm, number, limit, &d->wire);
    if (status != EBB_EUNAVAILABLE || insist)
        return status;
    if (ebb_comm_rank(comm) == 0)
        EBB_WARN("train", "gradients go through host memory, since NCCL cannot be used: %s", ebb_error()->message);
    ebb_error_clear();
    return EBB_OK;
}

/* What all ranks find alike: kinds, and whether the choice can be had. */
static ebb_status_t check(const ebb_devices_t *d, const seat_t *seat, bool canonical, ebb_wire_choice_t choice,
                          bool *nccl_p)
{
    int a, b, other = other_kind(seat, d->ranks);
    if (other > 0 && canonical)
        return EBB_FAIL(EBB_EUSAGE,
                        "rank %d computes on %s of %s, rank 0 on %s of %s: canonical sums have equal bits on GPUs of "
                        "one kind only; use GPUs of one kind, or train.sync=fast",
                        other, seat[other].kind, seat[other].host, seat[0].kind, seat[0].host);
    bool shared = are_shared(seat, d->ranks, &a, &b) && !may_share();
    if (shared && choice == EBB_TRAIN_WIRE_NCCL)
        return EBB_FAIL(EBB_EUSAGE,
                        "ranks %d and %d share GPU %d of %s, which NCCL does not do: start one rank a GPU, or set "
                        "train.wire=mpi",
                        a, b, seat[a].number, seat[a].host);
    *nccl_p = d->ranks > 1 && choice != EBB_TRAIN_WIRE_MPI && !shared;
    return EBB_OK;
}

ebb_status_t ebb_devices_open(ebb_devices_t *d, ebb_comm_t *comm, const ebb_backend_t *backend, bool canonical,
                              ebb_wire_choice_t choice, double limit)
{
    seat_t mine = {0}, *seat = NULL;
    bool nccl = false;
    *d = (ebb_devices_t){.ranks = ebb_comm_size(comm)};
    if (backend->ops->caps & EBB_CAP_HOST_MEMORY)
        return EBB_OK;
    ebb_status_t status = find_seat(backend, &mine);
    if (status == EBB_OK)
        status = EBB_NEW_ARRAY("devices", d->ranks, &seat);
    if (status == EBB_OK)
        status = EBB_NEW_ARRAY("devices", d->ranks, &d->told);
    status = ebb_comm_agree(comm, status);
    if (status == EBB_OK)
        status = ebb_comm_allgather(comm, &mine, sizeof mine, seat);
    if (status == EBB_OK)
        status = check(d, seat, canonical, choice, &nccl);
    if (status == EBB_OK)
        status = tell(d, seat);
    status = ebb_comm_agree(comm, status);
    if (status == EBB_OK && nccl)
        status = open_nccl(d, comm, backend, mine.number, choice == EBB_TRAIN_WIRE_NCCL, limit);
    ebb_free(seat);
    return status;
}

void ebb_devices_close(ebb_devices_t *d)
{
    ebb_wire_close(d->wire);
    for (int r = 0; d->told && r < d->ranks; r++)
        ebb_free(d->told[r]);
    ebb_free(d->told);
    *d = (ebb_devices_t){0};
}

/* ---- memory ---- */

static int64_t pass_bytes(const ebb_device_need_t *n, int64_t rows)
{
    int64_t outputs = 2 * rows * ebb_model_outputs(n->model) * (int64_t)sizeof(float);
    return n->threads * (ebb_model_workspace_bytes(n->model, rows) + outputs);
}

static int64_t ahead_bytes(const ebb_device_need_t *n, int64_t rows)
{
    return ebb_ahead_bytes(n->ahead, rows * n->pieces, n->lanes);
}

/* Rows of a piece with which all fits into so many bytes; a little is left for what else a device does. */
static int64_t most_rows(const ebb_device_need_t *n, int64_t bytes)
{
    int64_t lo = 0, hi = n->rows;
    while (lo < hi) {
        int64_t mid = (lo + hi + 1) / 2;
        if (pass_bytes(n, mid) + ahead_bytes(n, mid) <= bytes / 16 * 15)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

static double mib(int64_t bytes)
{
    return (double)bytes / (1 << 20);
}

ebb_status_t ebb_devices_too_small(const ebb_backend_t *backend, const ebb_device_need_t *n)
{
    ebb_device_info_t info;
    ebb_error_clear();
    EBB_TRY(backend->ops->device_info(backend->dev, &info));
    int64_t spare = info.spare_bytes - n->gradients, rows = most_rows(n, spare);
    int64_t passes = pass_bytes(n, n->rows), ahead = ahead_bytes(n, n->rows);
    if (rows == 0)
        return EBB_FAIL(
            EBB_ENOMEM,
            "out of GPU memory: %.0f MiB are free on %s (GPU %d) beside weights, gradients and optimiser state, too "
            "little for one row of each lane; use more ranks, fewer train.threads or a smaller model",
            mib(spare > 0 ? spare : 0), info.kind, info.number);
    return EBB_FAIL(EBB_ENOMEM,
                    "out of GPU memory: passes over %lld rows a lane on %d thread%s need %.0f MiB, batches copied "
                    "ahead %.0f MiB, and %.0f MiB are free on %s (GPU %d): the largest train.batch that fits is about "
                    "%lld; or %s",
                    (long long)n->rows, n->threads, n->threads == 1 ? "" : "s", mib(passes), mib(ahead),
                    mib(spare > 0 ? spare : 0), info.kind, info.number, (long long)(rows * n->batch_row),
                    passes > ahead ? "raise train.accumulate" : "use more ranks");
}
