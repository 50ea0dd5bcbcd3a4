/* Wires: what arrives, begun at once or after work of a device, and what comes of errors. That of NCCL on a double of
 * NCCL over MPI: also in which order it calls, and that an error or a standstill on one rank ends the call on all
 * within the limit. test_wire [error|async|hang [CALL]]: with that fault on the last rank; close: what is begun is
 * given up; staged: the wire through host memory. */
#include "support.h"
#include "plain_backend.h"
#include "sync/wire.h"
#include <ebb/comm.h>

#include <stdarg.h>
#include <stdio.h>
#include <time.h>

enum { MOST = 8, LIMIT = 2, BEGINS = 3, WORDS = 1000 };

static ebb_comm_t *comm;
static ebb_wire_t *wire;
static int rank, ranks;
static char trace[256];

static float value(int from, int to, int i)
{
    return (float)(1000 * from + 100 * to + i);
}

/* What is under way of the n-th begin. */
static float out[BEGINS][MOST][2 * MOST], in[BEGINS][MOST][2 * MOST];

/* Rank r sends r + 1 floats and one more to everybody, itself left out. */
static ebb_status_t begin(int nth)
{
    ebb_part_t part[5 * MOST];
    int n = 0;
    for (int r = 0; r < ranks; r++) {
        if (r == rank)
            continue;
        for (int i = 0; i <= rank + 1; i++)
            out[nth][r][i] = value(rank, r, i + 20 * nth);
        memset(in[nth][r], 0, sizeof in[nth][r]);
        part[n++] = (ebb_part_t){out[nth][r], 4 * (rank + 1), r, true};
        part[n++] = (ebb_part_t){out[nth][r] + rank + 1, 4, r, true};
        part[n++] = (ebb_part_t){NULL, 0, r, true};
        part[n++] = (ebb_part_t){in[nth][r], 4 * (r + 1), r, false};
        part[n++] = (ebb_part_t){in[nth][r] + r + 1, 4, r, false};
    }
    return ebb_wire_begin(wire, 0, NULL, n, part);
}

static ebb_status_t finish(int begins)
{
    EBB_TRY(ebb_wire_finish(wire));
    for (int nth = 0; nth < begins; nth++)
        for (int r = 0; r < ranks; r++)
            for (int i = 0; r != rank && i <= r + 1; i++)
                if (in[nth][r][i] != value(r, rank, i + 20 * nth))
                    return EBB_FAIL(EBB_EBUG, "rank %d got %g of rank %d", rank, (double)in[nth][r][i], r);
    return EBB_OK;
}

static ebb_status_t exchange_once(void)
{
    EBB_TRY(begin(0));
    return finish(1);
}

static void messages_arrive_in_their_order(void **state)
{
    for (int i = 0; i < 5; i++)
        assert_ok(exchange_once());
}

static void what_was_begun_several_times_is_finished_at_once(void **state)
{
    for (int nth = 0; nth < BEGINS; nth++)
        assert_ok(begin(nth));
    assert_ok(finish(BEGINS));
    assert_ok(ebb_wire_finish(wire)); /* nothing is under way */
}

static void messages_of_one_call_may_follow_no_event(void **state)
{
    int to = (rank + 1) % ranks, from = (rank + ranks - 1) % ranks, got = -1;
    const ebb_part_t part[] = {{&rank, sizeof rank, to, true}, {&got, sizeof got, from, false}};
    assert_ok(ebb_wire_begin(wire, 0, NULL, ranks > 1 ? 2 : 0, part));
    assert_ok(ebb_wire_finish(wire));
    assert_int_equal(got, ranks > 1 ? from : -1);
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
    assert_ok(ebb_wire_gather(wire, 0, NULL, buf, counts, displs));
    assert_ok(ebb_wire_finish(wire));
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

/* ---- after work of a device ---- */

typedef struct device {
    ebb_backend_t *backend;
    const ebb_backend_ops_t *ops;
    ebb_exec_t *x[2]; /* each writes one half of what is sent */
    float *out, *in;  /* (WORDS), (MOST, WORDS): the device's */
    void *mark[2];
} device_t;

static void open_device(device_t *d)
{
    void *ptr;
    assert_ok(ebb_backend_open("cuda_double", 0, &d->backend));
    d->ops = d->backend->ops;
    for (int i = 0; i < 2; i++)
        assert_ok(d->ops->exec_create(d->backend->dev, &d->x[i]));
    assert_ok(d->ops->alloc(d->backend->dev, WORDS * sizeof *d->out, "sent", &ptr));
    d->out = ptr;
    assert_ok(d->ops->alloc(d->backend->dev, MOST * WORDS * sizeof *d->in, "received", &ptr));
    d->in = ptr;
}

static void close_device(device_t *d)
{
    for (int i = 0; i < 2; i++)
        d->ops->exec_destroy(d->x[i]);
    d->ops->free(d->backend->dev, d->out);
    d->ops->free(d->backend->dev, d->in);
    ebb_backend_close(d->backend);
}

static void write_marked(device_t *d, int salt)
{
    float now[WORDS];
    for (int i = 0; i < WORDS; i++)
        now[i] = value(rank, salt, i);
    for (int half = 0; half < 2; half++) {
        size_t words = WORDS / 2, at = words * (size_t)half;
        assert_ok(d->ops->upload(d->x[half], d->out + at, now + at, words * sizeof *now));
        assert_ok(d->ops->exec_mark(d->x[half], EBB_MARKS - 1));
        assert_ok(d->ops->exec_event(d->x[half], EBB_MARKS - 1, &d->mark[half]));
    }
}

/* To all other ranks, and from them. */
static void begin_after_marks(device_t *d)
{
    ebb_part_t part[2 * MOST];
    int n = 0;
    for (int r = 0; r < ranks; r++)
        if (r != rank) {
            part[n++] = (ebb_part_t){d->out, WORDS * sizeof *d->out, r, true};
            part[n++] = (ebb_part_t){d->in + r * WORDS, WORDS * sizeof *d->in, r, false};
        }
    assert_ok(ebb_wire_begin(wire, 2, d->mark, n, part));
}

static void check_received(device_t *d, int salt)
{
    float now[WORDS];
    for (int r = 0; r < ranks; r++) {
        if (r == rank)
            continue;
        assert_ok(d->ops->download(d->x[0], now, d->in + r * WORDS, sizeof now));
        assert_ok(d->ops->exec_sync(d->x[0]));
        for (int i = 0; i < WORDS; i++)
            assert_true(now[i] == value(r, salt, i));
    }
}

/* Finished without having waited for the device: the wire's stream did. Then after work that is done, as the trace
 * tells below. */
static void what_is_begun_after_marks_carries_what_was_written_before_them(void **state)
{
    device_t d;
    open_device(&d);
    write_marked(&d, 1);
    begin_after_marks(&d);
    assert_ok(d.ops->exec_mark(d.x[0], EBB_MARKS - 1)); /* which moves nothing that was begun */
    assert_ok(ebb_wire_finish(wire));
    check_received(&d, 1);
    write_marked(&d, 2);
    assert_ok(d.ops->exec_sync(d.x[0]));
    assert_ok(d.ops->exec_sync(d.x[1]));
    begin_after_marks(&d);
    assert_ok(ebb_wire_finish(wire));
    check_received(&d, 2);
    close_device(&d);
}

/* ---- what NCCL was asked for ---- */

static void expect(FILE *f, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void expect(FILE *f, const char *format, ...)
{
    char line[128], want[128];
    va_list args;
    va_start(args, format);
    vsnprintf(want, sizeof want, format, args);
    va_end(args);
    assert_non_null(fgets(line, sizeof line, f));
    line[strcspn(line, "\n")] = 0;
    assert_string_equal(line, want);
}

static void expect_exchange(FILE *f)
{
    if (ranks == 1)
        return;
    expect(f, "group");
    for (int r = 0; r < ranks; r++) {
        if (r == rank)
            continue;
        expect(f, "send %d to %d", 4 * (rank + 1), r);
        expect(f, "send 4 to %d", r);
        expect(f, "recv %d from %d", 4 * (r + 1), r);
        expect(f, "recv 4 from %d", r);
    }
    expect(f, "end");
}

static void expect_ring(FILE *f)
{
    if (ranks == 1)
        return;
    expect(f, "group");
    expect(f, "send 4 to %d", (rank + 1) % ranks);
    expect(f, "recv 4 from %d", (rank + ranks - 1) % ranks);
    expect(f, "end");
}

static void expect_collectives(FILE *f)
{
    expect(f, "allgather 8");
    if (ranks > 1) { /* of one rank alone all slices are of one size */
        expect(f, "group");
        for (int r = 1; r < ranks; r++)
            expect(f, "broadcast %d of %d", 4 * r, r);
        expect(f, "end");
    } else {
        expect(f, "allgather 0");
    }
    expect(f, "allreduce 20");
}

static void expect_after_marks(FILE *f, const char *group)
{
    if (ranks == 1)
        return;
    expect(f, "%s", group);
    for (int r = 0; r < ranks; r++) {
        if (r == rank)
            continue;
        expect(f, "send %d to %d", 4 * WORDS, r);
        expect(f, "recv %d from %d", 4 * WORDS, r);
    }
    expect(f, "end");
}

/* After the tests above, call by call. */
static void calls_come_in_groups_in_the_order_of_the_messages(void **state)
{
    char path[300], line[128];
    ebb_wire_close(wire);
    wire = NULL;
    snprintf(path, sizeof path, "%s.%d", trace, rank);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    expect(f, "init ranks %d blocking 0", ranks);
    for (int i = 0; i < 5 + BEGINS; i++)
        expect_exchange(f);
    expect_ring(f);
    expect_collectives(f);
    expect_after_marks(f, "group after work under way");
    expect_after_marks(f, "group");
    expect(f, "finalize");
    expect(f, "destroy");
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
    ebb_status_t begun = EBB_OK, status = opened ? EBB_OK : ebb_error()->status;
    for (int i = 0; opened && i < 20 && status == EBB_OK; i++) {
        start = now();
        status = begun = begin(0);
        if (begun == EBB_OK)
            status = finish(1);
    }
    printf("rank %d after %.1f s: %s\n", rank, now() - start, ebb_error()->message);
    bool good = status == EBB_EPEER && now() - start < LIMIT + 20 && strncmp(ebb_error()->message, "NCCL: ", 6) == 0;
    if (strcmp(kind, "hang") == 0 && begun != EBB_OK) /* a standstill is met where it is waited for */
        good = false;
    if (opened)
        good = good && ebb_comm_agree(comm, status) == EBB_EPEER;
    ebb_error_clear();
    if (opened && exchange_once() != EBB_EPEER) /* aborted: no call does anything any more */
        good = false;
    ebb_wire_close(wire);
    return good ? 0 : 1;
}

/* The last rank begins nothing, and nobody waits for it: a wire is closed at once. */
static int close_under_way(void)
{
    double start = now();
    bool good = rank == ranks - 1 || begin(0) == EBB_OK;
    ebb_wire_close(wire);
    printf("rank %d after %.1f s\n", rank, now() - start);
    return good && now() - start < 20 ? 0 : 1; /* the limit is longer */
}

#define OF_ANY_WIRE                                                                                                    \
    cmocka_unit_test(messages_arrive_in_their_order),                                                                  \
        cmocka_unit_test(what_was_begun_several_times_is_finished_at_once),                                            \
        cmocka_unit_test(messages_of_one_call_may_follow_no_event),                                                    \
        cmocka_unit_test(slices_of_one_size_and_of_several_reach_all), cmocka_unit_test(sums_are_those_of_all_ranks)

static int go_through_host_memory(void)
{
    const struct CMUnitTest tests[] = {
        OF_ANY_WIRE,
    };
    ebb_wire_t staged;
    ebb_exec_t *x;
    if (plain_exec_create(plain_backend.dev, &x) != EBB_OK ||
        ebb_wire_staged(comm, plain_backend.ops, x, &staged) != EBB_OK)
        return 1;
    wire = &staged;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    staged.ops->destroy(staged.state);
    plain_exec_destroy(x);
    return failed;
}

static int go_by_nccl(const char *mode, const char *call)
{
    const struct CMUnitTest tests[] = {
        OF_ANY_WIRE,
        cmocka_unit_test(what_is_begun_after_marks_carries_what_was_written_before_them),
        cmocka_unit_test(calls_come_in_groups_in_the_order_of_the_messages),
    };
    bool closes = mode && strcmp(mode, "close") == 0;
    if (mode && !closes) {
        char fault[64];
        snprintf(fault, sizeof fault, "%d:%d:%s", ranks - 1, call ? atoi(call) : 3, mode);
        setenv("EBB_NCCL_FAULT", fault, 1);
    } else if (!mode) {
        setenv("EBB_NCCL_TRACE", trace, 1);
    }
    bool opened = ebb_wire_open("nccl_double", comm, 0, closes ? 100 : LIMIT, &wire) == EBB_OK;
    if (mode && !closes)
        return meet_fault(mode, opened);
    if (!opened)
        fprintf(stderr, "%s\n", ebb_error()->message);
    return !opened ? 1 : closes ? close_under_way() : cmocka_run_group_tests(tests, NULL, NULL);
}

int main(int argc, char **argv)
{
    long long id = getpid();
    if (ebb_comm_default(&comm) != EBB_OK)
        return 1;
    rank = ebb_comm_rank(comm);
    ranks = ebb_comm_size(comm);
    if (ebb_comm_bcast(comm, &id, sizeof id, 0) != EBB_OK)
        return 1;
    snprintf(trace, sizeof trace, "%s/ebb-nccl-%lld", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", id);
    int64_t failed = argc > 1 && strcmp(argv[1], "staged") == 0
                         ? go_through_host_memory()
                         : go_by_nccl(argc > 1 ? argv[1] : NULL, argc > 2 ? argv[2] : NULL);
    if (ebb_comm_allreduce(comm, &failed, 1, EBB_COMM_I64, EBB_MAX) != EBB_OK)
        failed = 1;
    ebb_comm_destroy(comm);
    return failed != 0;
}
