/* The transport over MPI, on whatever ranks the test was started with. */
#include "support.h"
#include <ebb/comm.h>

#include <sched.h>
#include <time.h>

static ebb_comm_t *comm;
static int rank, size;

static void default_under_a_launcher_is_mpi(void **state)
{
    assert_string_equal(ebb_comm_name(comm), "mpi");
    assert_true(rank < size);
    assert_int_equal(ebb_comm_local_size(comm), size); /* tests run on one host */
    assert_int_equal(ebb_comm_local_rank(comm), rank);
    ebb_comm_t *second;
    assert_ok(ebb_comm_mpi(&second)); /* beside the first, which alone finalises */
    ebb_comm_destroy(second);
    assert_ok(ebb_comm_barrier(comm));
}

static int cores_of_second_communicator(void)
{
    ebb_comm_t *second;
    assert_ok(ebb_comm_mpi(&second));
    int cores = ebb_comm_cores(second);
    ebb_comm_destroy(second);
    return cores;
}

static void cores_are_divided_among_the_ranks_bound_to_them(void **state)
{
    cpu_set_t all, one;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    int n = CPU_COUNT(&all), last = CPU_SETSIZE - 1;
    assert_int_equal(cores_of_second_communicator(), n / size > 0 ? n / size : 1); /* tests bind nobody */
    while (!CPU_ISSET(last, &all))
        last--;
    CPU_ZERO(&one);
    CPU_SET(last, &one);
    if (rank == 0) /* all others may run there too, and elsewhere */
        assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    int cores = cores_of_second_communicator();
    if (rank == 0)
        assert_int_equal(cores, 1);
    else if (size == 2 && n > 1) /* every core but that one, which is half its own */
        assert_int_equal(cores, n - 1);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
}

/* Seconds that this thread has computed. */
static double computed(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* All on one core: while the first is away, the others together must leave most of it to whoever wants it. */
static void ranks_that_share_a_core_leave_it_while_they_wait(void **state)
{
    ebb_comm_t *crowd;
    cpu_set_t all, one;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    int first = 0;
    while (!CPU_ISSET(first, &all))
        first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_ok(ebb_comm_mpi(&crowd));
    assert_ok(ebb_comm_barrier(crowd));
    double before = computed();
    if (rank == 0)
        nanosleep(&(struct timespec){1, 0}, NULL);
    int64_t sum = 1;
    assert_ok(ebb_comm_allreduce(crowd, &sum, 1, EBB_COMM_I64, EBB_SUM));
    assert_int_equal(sum, size);
    double busy = computed() - before;
    assert_ok(ebb_comm_allreduce(crowd, &busy, 1, EBB_COMM_F64, EBB_SUM));
    assert_true(busy < 0.5);
    ebb_comm_destroy(crowd);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
}

static void reductions_give_sum_min_max_and_bits(void **state)
{
    int64_t v[4] = {rank, rank, rank, (int64_t)1 << rank};
    assert_ok(ebb_comm_allreduce(comm, &v[0], 1, EBB_COMM_I64, EBB_SUM));
    assert_ok(ebb_comm_allreduce(comm, &v[1], 1, EBB_COMM_I64, EBB_MIN));
    assert_ok(ebb_comm_allreduce(comm, &v[2], 1, EBB_COMM_I64, EBB_MAX));
    assert_ok(ebb_comm_allreduce(comm, &v[3], 1, EBB_COMM_I64, EBB_BOR));
    assert_int_equal(v[0], size * (size - 1) / 2);
    assert_int_equal(v[1], 0);
    assert_int_equal(v[2], size - 1);
    assert_int_equal(v[3], ((int64_t)1 << size) - 1);
    float f[3] = {1.5f, 2.0f, (float)rank};
    double d = 0.5;
    assert_ok(ebb_comm_allreduce(comm, f, 3, EBB_COMM_F32, EBB_SUM));
    assert_ok(ebb_comm_allreduce(comm, &d, 1, EBB_COMM_F64, EBB_SUM));
    assert_true(f[0] == 1.5f * (float)size && f[2] == (float)(size * (size - 1) / 2) && d == 0.5 * size);
    assert_fails(ebb_comm_allreduce(comm, f, 3, EBB_COMM_F32, EBB_BOR), EBB_EBUG, "64-bit integers");
}

static void gathers_put_every_part_in_rank_order(void **state)
{
    int32_t mine[2] = {rank, -rank}, all[2 * 16], in_place[16], from[16], to[16];
    assert_ok(ebb_comm_allgather(comm, mine, sizeof mine, all));
    for (int r = 0; r < size; r++)
        assert_true(all[2 * r] == r && all[2 * r + 1] == -r);
    in_place[rank] = 100 + rank;
    assert_ok(ebb_comm_allgather(comm, &in_place[rank], 4, in_place));
    for (int r = 0; r < size; r++) {
        assert_int_equal(in_place[r], 100 + r);
        from[r] = 10 * rank + r;
    }
    assert_ok(ebb_comm_alltoall(comm, from, 4, to));
    for (int r = 0; r < size; r++)
        assert_int_equal(to[r], 10 * r + rank);
}

static void uneven_gather_works_in_place_and_beside(void **state)
{
    int64_t counts[16], displs[16], at = 0;
    for (int r = 0; r < size; r++) {
        counts[r] = 3 * r; /* rank 0 has nothing */
        displs[r] = at;
        at += counts[r];
    }
    char out[256], mine[64];
    memset(mine, 'a' + rank, sizeof mine);
    for (int way = 0; way < 2; way++) {
        memset(out, 0, sizeof out);
        memcpy(out + displs[rank], mine, (size_t)counts[rank]);
        assert_ok(ebb_comm_allgatherv(comm, way ? mine : out + displs[rank], counts[rank], out, counts, displs));
        for (int r = 0; r < size; r++)
            for (int64_t i = 0; i < counts[r]; i++)
                assert_int_equal(out[displs[r] + i], 'a' + r);
    }
    assert_fails(ebb_comm_allgatherv(comm, mine, counts[rank] + 1, out, counts, displs), EBB_EBUG, "counts say");
}

static void broadcast_reaches_all_from_any_root(void **state)
{
    for (int root = 0; root < size; root++) {
        int64_t v = rank == root ? 77 + root : 0;
        assert_ok(ebb_comm_bcast(comm, &v, sizeof v, root));
        assert_int_equal(v, 77 + root);
    }
}

static void messages_go_round_the_ring_and_to_oneself(void **state)
{
    ebb_request_t req[4];
    int32_t to_next[2] = {rank, 1}, to_self = 5, from_prev[2] = {0}, from_self = 0;
    assert_ok(ebb_comm_irecv(comm, from_prev, sizeof from_prev, (rank + size - 1) % size, 3, &req[0]));
    assert_ok(ebb_comm_irecv(comm, &from_self, 4, rank, 4, &req[1]));
    assert_ok(ebb_comm_isend(comm, to_next, sizeof to_next, (rank + 1) % size, 3, &req[2]));
    assert_ok(ebb_comm_isend(comm, &to_self, 4, rank, 4, &req[3]));
    assert_ok(ebb_comm_waitall(comm, 4, req));
    assert_int_equal(from_prev[0], (rank + size - 1) % size);
    assert_int_equal(from_self, 5);
    assert_fails(ebb_comm_isend(comm, to_next, 4, size, 1, &req[0]), EBB_EBUG, "no rank");
    assert_fails(ebb_comm_isend(comm, to_next, 4, 0, -1, &req[0]), EBB_EBUG, "tag");
}

static void agreement_carries_the_lowest_failing_ranks_error_to_all(void **state)
{
    assert_ok(ebb_comm_agree(comm, EBB_OK));
    ebb_status_t mine = EBB_OK;
    if (rank == size - 1)
        mine = EBB_FAIL(EBB_EDATA, "rank %d found row 9 odd", rank);
    assert_fails(ebb_comm_agree(comm, mine), EBB_EDATA, "found row 9 odd");
    mine = EBB_FAIL(EBB_EIO, "rank %d could not write", rank);
    ebb_status_t agreed = ebb_comm_agree(comm, mine);
    assert_int_equal(agreed, EBB_EIO);
    assert_string_equal(ebb_error()->message, "rank 0 could not write");
    assert_int_equal(ebb_error()->rank, 0);
    assert_non_null(strstr(ebb_error()->file, "test_mpi.c"));
    ebb_error_clear();
}

static void stopping_and_the_end_give_way_to_errors(void **state)
{
    assert_int_equal(ebb_comm_agree(comm, rank == 0 ? EBB_END : EBB_OK), EBB_END);
    assert_int_equal(ebb_comm_agree(comm, rank == size - 1 ? EBB_FAIL(EBB_ESTOPPED, "SIGTERM") : EBB_END),
                     EBB_ESTOPPED);
    ebb_error_clear();
    ebb_status_t mine = rank == size - 1 ? EBB_FAIL(EBB_EIO, "disk") : EBB_ESTOPPED;
    assert_fails(ebb_comm_agree(comm, mine), EBB_EIO, "disk");
    /* a status without a record still says something */
    assert_fails(ebb_comm_agree(comm, EBB_ENOSPC), EBB_ENOSPC, size > 1 ? "no space left" : "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(default_under_a_launcher_is_mpi),
        cmocka_unit_test(cores_are_divided_among_the_ranks_bound_to_them),
        cmocka_unit_test(ranks_that_share_a_core_leave_it_while_they_wait),
        cmocka_unit_test(reductions_give_sum_min_max_and_bits),
        cmocka_unit_test(gathers_put_every_part_in_rank_order),
        cmocka_unit_test(uneven_gather_works_in_place_and_beside),
        cmocka_unit_test(broadcast_reaches_all_from_any_root),
        cmocka_unit_test(messages_go_round_the_ring_and_to_oneself),
        cmocka_unit_test(agreement_carries_the_lowest_failing_ranks_error_to_all),
        cmocka_unit_test(stopping_and_the_end_give_way_to_errors),
    };
    if (ebb_comm_default(&comm) != EBB_OK) {
        fprintf(stderr, "%s\n", ebb_error()->message);
        return 1;
    }
    rank = ebb_comm_rank(comm);
    size = ebb_comm_size(comm);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    int64_t any = failed;
    if (ebb_comm_allreduce(comm, &any, 1, EBB_COMM_I64, EBB_MAX) != EBB_OK)
        any = 1;
    ebb_comm_destroy(comm);
    return any != 0;
}
