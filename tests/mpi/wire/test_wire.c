/* The NCCL wire on a double of NCCL over MPI: what arrives, in which order it calls, and that an error or a standstill
 * on one rank ends the call on all within the limit. test_wire [error|async|hang]: with that fault on the last rank. */
#include "support.h"
#include <ebb/comm.h>

#include <stdio.h>
#include <time.h>

enum { MOST = 8, LIMIT = 2 };

static ebb_comm_t *comm;
static ebb_wire_t *wire;
static int rank, ranks;
static char trace[256];

static float value(int from, int to, int i)
{
    return (float)(1000 * from + 100 * to + i);
}

/* Rank r sends r + 1 floats and one more to everybody, itself left out. */
static ebb_status_t exchange_once(void)
{
    static float out[MOST][2 * MOST], in[MOST][2 * MOST];
    ebb_part_t part[4 * MOST];
    int n = 0;
    for (int r = 0; r < ranks; r++) {
        if (r == rank)
            continue;
        for (int i = 0; i <= rank + 1; i++)
            out[r][i] = value(rank, r, i);
        memset(in[r], 0, sizeof in[r]);
        part[n++] = (ebb_part_t){out[r], 4 * (rank + 1), r, true};
        part[n++] = (ebb_part_t){out[r] + rank + 1, 4, r, true};
        part[n++] = (ebb_part_t){NULL, 0, r, true};
        part[n++] = (ebb_part_t){in[r], 4 * (r + 1), r, false};
        part[n++] = (ebb_part_t){in[r] + r + 1, 4, r, false};
    }
    EBB_TRY(ebb_wire_exchange(wire, n, part));
    for (int r = 0; r < ranks; r++)
        for (int i = 0; r != rank && i <= r + 1; i++)
            if (in[r][i] != value(r, rank, i))
                return EBB_FAIL(EBB_EBUG, "rank %d got %g of rank %d", rank, (double)in[r][i], r);
    return EBB_OK;
}

static void messages_arrive_in_their_order(void **state)
{
    for (int i = 0; i < 5; i++)
        assert_ok(exchange_once());
}

static void gather(bool equal)
{
    int64_t counts[MOST], displs[MOST], at = 0;
    float buf[MOST * MOST] = {0};
    for (int r = 0; r < ranks; r++) {
        counts[r] = equal ? 8 : 4 * r;
        displs[r] = at;
        at += counts[r];
    }
    for (int64_t i = 0; i < counts[rank] / 4; i++)
        buf[displs[rank] / 4 + i] = value(rank, 0, (int)i);
    assert_ok(ebb_wire_allgatherv(wire, buf, counts, displs));
    for (int r = 0; r < ranks; r++)
        for (int64_t i = 0; i < counts[r] / 4; i++)
            assert_true(buf[displs[r] / 4 + i] == value(r, 0, (int)i));
}

static void slices_of_one_size_and_of_several_reach_all(void **state)
{
    gather(true);
    gather(false);
}

static void sums_are_those_of_all_ranks(void **state)
{
    float buf[5];
    for (int i = 0; i < 5; i++)
        buf[i] = (float)(rank + i);
    assert_ok(ebb_wire_allreduce(wire, buf, 5));
    for (int i = 0; i < 5; i++)
        assert_true(buf[i] == (float)(ranks * (ranks - 1) / 2 + ranks * i));
}

/* After the tests above: what NCCL was asked for, call by call. */
static void calls_come_in_groups_in_the_order_of_the_messages(void **state)
{
    char path[300], line[128], want[128];
    ebb_wire_close(wire);
    wire = NULL;
    snprintf(path, sizeof path, "%s.%d", trace, rank);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
#define EXPECT(...)                                                                                                    \
    do {                                                                                                               \
        snprintf(want, sizeof want, __VA_ARGS__);                                                                      \
        assert_non_null(fgets(line, sizeof line, f));                                                                  \
        line[strcspn(line, "\n")] = 0;                                                                                 \
        assert_string_equal(line, want);                                                                               \
    } while (0)
    EXPECT("init ranks %d blocking 0", ranks);
    for (int i = 0; ranks > 1 && i < 5; i++) {
        EXPECT("group");
        for (int r = 0; r < ranks; r++) {
            if (r == rank)
                continue;
            EXPECT("send %d to %d", 4 * (rank + 1), r);
            EXPECT("send 4 to %d", r);
            EXPECT("recv %d from %d", 4 * (r + 1), r);
            EXPECT("recv 4 from %d", r);
        }
        EXPECT("end");
    }
    EXPECT("allgather 8");
    if (ranks > 1) { /* of one rank alone all slices are of one size */
        EXPECT("group");
        for (int r = 1; r < ranks; r++)
            EXPECT("broadcast %d of %d", 4 * r, r);
        EXPECT("end");
    } else {
        EXPECT("allgather 0");
    }
    EXPECT("allreduce 20");
    EXPECT("finalize");
    EXPECT("destroy");
    assert_null(fgets(line, sizeof line, f));
    fclose(f);
    unlink(path);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Every rank comes back with an error within the limit (and some time for a busy machine), and all agree on one. */
static int meet_fault(const char *kind, bool opened)
{
    double start = now();
    ebb_status_t status = opened ? EBB_OK : ebb_error()->status;
    for (int i = 0; opened && i < 20 && status == EBB_OK; i++) {
        start = now();
        status = exchange_once();
    }
    printf("rank %d after %.1f s: %s\n", rank, now() - start, ebb_error()->message);
    bool good = status == EBB_EPEER && now() - start < LIMIT + 20 && strncmp(ebb_error()->message, "NCCL: ", 6) == 0;
    if (opened)
        good = good && ebb_comm_agree(comm, status) == EBB_EPEER;
    ebb_error_clear();
    if (opened && exchange_once() != EBB_EPEER) /* aborted: no call does anything any more */
        good = false;
    ebb_wire_close(wire);
    return good ? 0 : 1;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_arrive_in_their_order),
        cmocka_unit_test(slices_of_one_size_and_of_several_reach_all),
        cmocka_unit_test(sums_are_those_of_all_ranks),
        cmocka_unit_test(calls_come_in_groups_in_the_order_of_the_messages),
    };
    long long id = getpid();
    int failed = 1;
    if (ebb_comm_default(&comm) != EBB_OK)
        return 1;
    rank = ebb_comm_rank(comm);
    ranks = ebb_comm_size(comm);
    if (ebb_comm_bcast(comm, &id, sizeof id, 0) != EBB_OK)
        return 1;
    snprintf(trace, sizeof trace, "%s/ebb-nccl-%lld", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", id);
    if (argc > 1) {
        char fault[64];
        int call = argc > 2 ? atoi(argv[2]) : 3;
        snprintf(fault, sizeof fault, "%d:%d:%s", ranks - 1, call, argv[1]);
        setenv("EBB_NCCL_FAULT", fault, 1);
    } else {
        setenv("EBB_NCCL_TRACE", trace, 1);
    }
    bool opened = ebb_wire_open("nccl_double", comm, 0, LIMIT, &wire) == EBB_OK;
    if (argc > 1)
        failed = meet_fault(argv[1], opened);
    else if (!opened)
        fprintf(stderr, "%s\n", ebb_error()->message);
    else
        failed = cmocka_run_group_tests(tests, NULL, NULL);
    int64_t any = failed;
    if (ebb_comm_allreduce(comm, &any, 1, EBB_COMM_I64, EBB_MAX) != EBB_OK)
        any = 1;
    ebb_comm_destroy(comm);
    return any != 0;
}
