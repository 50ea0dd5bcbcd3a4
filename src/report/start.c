/* What a start of a run says of itself: who, where, with which libraries. Collective: every rank sends its host and
 * device. */
#include "report/internal.h"

#include "base/alloc.h"
#include "base/clock.h"

#include <dnnl.h>
#include <hdf5.h>
#include <mpi.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

/* What one rank tells; plain bytes. */
typedef struct seat {
    char host[128], device[200];
    int32_t threads;
    int64_t pid;
} seat_t;

static void fill_seat(const char *device, int threads, seat_t *seat)
{
    *seat = (seat_t){.threads = threads, .pid = (int64_t)getpid()};
    gethostname(seat->host, sizeof seat->host - 1);
    snprintf(seat->device, sizeof seat->device, "%s", device ? device : "");
}

static json_t *versions(void)
{
    char mpi[MPI_MAX_LIBRARY_VERSION_STRING] = "", hdf5[32], dnnl[32];
    unsigned major, minor, patch;
    int n;
    MPI_Get_library_version(mpi, &n);
    mpi[strcspn(mpi, ",\n")] = 0;
    H5get_libversion(&major, &minor, &patch);
    snprintf(hdf5, sizeof hdf5, "%u.%u.%u", major, minor, patch);
    const dnnl_version_t *v = dnnl_version();
    snprintf(dnnl, sizeof dnnl, "%d.%d.%d", v->major, v->minor, v->patch);
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "ebb", ebb_version(), "mpi", mpi, "hdf5", hdf5, "zstd",
                     ZSTD_versionString(), "onednn", dnnl, "jansson", jansson_version_str(), "compiler", __VERSION__);
}

/* Hosts in the order of their first ranks, with how many ranks each. */
static json_t *hosts(const seat_t *seat, int ranks)
{
    json_t *list = json_array();
    for (int r = 0; r < ranks; r++) {
        json_t *host = NULL;
        for (size_t i = 0; !host && i < json_array_size(list); i++) {
            json_t *h = json_array_get(list, i);
            if (strcmp(json_string_value(json_object_get(h, "host")), seat[r].host) == 0)
                host = h;
        }
        if (!host) {
            host = json_pack("{s:s, s:i, s:i, s:s}", "host", seat[r].host, "ranks", 0, "threads", (int)seat[r].threads,
                             "device", seat[r].device);
            json_array_append_new(list, host);
        }
        json_t *n = json_object_get(host, "ranks");
        json_integer_set(n, json_integer_value(n) + 1);
    }
    return list;
}

static json_t *command(int argc, char *const *argv)
{
    json_t *list = json_array();
    for (int i = 0; i < argc; i++) {
        json_t *word = json_string(argv[i]);
        json_array_append_new(list, word ? word : json_string("(not UTF-8)"));
    }
    return list;
}

static ebb_status_t note(ebb_record_t *r, const seat_t *seat, int ranks, const char *transport, int argc,
                         char *const *argv)
{
    char started[32];
    ebb_format_utc(ebb_wall_seconds(), started, sizeof started);
    json_t *entry =
        json_pack("{s:s, s:o, s:i, s:i, s:s, s:I, s:o, s:o}", "started", started, "command", command(argc, argv),
                  "ranks", ranks, "threads", (int)seat[0].threads, "transport", transport, "pid",
                  (json_int_t)seat[0].pid, "hosts", hosts(seat, ranks), "versions", versions());
    if (!entry || json_array_append_new(json_object_get(r->json, "starts"), entry) != 0)
        return EBB_FAIL(EBB_ENOMEM, "out of memory for the run's record");
    return EBB_OK;
}

ebb_status_t ebb_record_start(ebb_record_t *record, ebb_comm_t *comm, const char *device, int threads, int argc,
                              char *const *argv)
{
    seat_t mine, *all = NULL;
    int ranks = ebb_comm_size(comm);
    fill_seat(device, threads, &mine);
    ebb_status_t status = EBB_NEW_ARRAY("hosts of the ranks", ranks, &all);
    EBB_TRY_GOTO(status, ebb_comm_agree(comm, status), done);
    EBB_TRY_GOTO(status, ebb_comm_allgather(comm, &mine, sizeof mine, all), done);
    status = ebb_comm_agree(comm, record ? note(record, all, ranks, ebb_comm_name(comm), argc, argv) : EBB_OK);
done:
    ebb_free(all);
    return status;
}
