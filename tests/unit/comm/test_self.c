/* The table's handshake, the transport of one rank, and the choice of a transport. */
#include "support.h"
#include "base/alloc.h"
#include <ebb/comm.h>

static ebb_status_t nothing_barrier(void *state)
{
    return EBB_OK;
}

static void table_of_another_version_or_with_a_hole_is_refused(void **state)
{
    ebb_comm_t *comm;
    ebb_comm_ops_t ops = {.version = EBB_COMM_VERSION + 1, .name = "old"};
    assert_fails(ebb_comm_create(&ops, NULL, 0, 1, 0, 1, &comm), EBB_EUNAVAILABLE, "version");
    assert_null(comm);
    ops.version = EBB_COMM_VERSION;
    ops.barrier = nothing_barrier;
    assert_fails(ebb_comm_create(&ops, NULL, 0, 1, 0, 1, &comm), EBB_EUNAVAILABLE, "bcast");
}

static void collectives_of_one_rank_copy(void **state)
{
    ebb_comm_t *comm;
    assert_ok(ebb_comm_self(&comm));
    assert_string_equal(ebb_comm_name(comm), "self");
    assert_int_equal(ebb_comm_size(comm), 1);
    assert_int_equal(ebb_comm_local_size(comm), 1);
    int64_t a = 7, b = 0, count = 8, at = 8, pair[2] = {0};
    assert_ok(ebb_comm_barrier(comm));
    assert_ok(ebb_comm_allreduce(comm, &a, 1, EBB_COMM_I64, EBB_SUM));
    assert_ok(ebb_comm_allgather(comm, &a, 8, &b));
    assert_int_equal(b, 7);
    assert_ok(ebb_comm_allgatherv(comm, &a, 8, pair, &count, &at));
    assert_int_equal(pair[1], 7);
    ebb_comm_destroy(comm);
}

static void messages_to_oneself_meet_in_either_order_by_tag(void **state)
{
    ebb_comm_t *comm;
    ebb_request_t req[4];
    assert_ok(ebb_comm_self(&comm));
    int32_t a = 1, b = 2, x = 0, y = 0;
    assert_ok(ebb_comm_isend(comm, &a, 4, 0, 5, &req[0]));
    assert_ok(ebb_comm_irecv(comm, &y, 4, 0, 6, &req[1]));
    assert_ok(ebb_comm_irecv(comm, &x, 4, 0, 5, &req[2]));
    assert_ok(ebb_comm_isend(comm, &b, 4, 0, 6, &req[3]));
    assert_ok(ebb_comm_waitall(comm, 4, req));
    assert_int_equal(x, 1);
    assert_int_equal(y, 2);
    assert_ok(ebb_comm_isend(comm, &a, 4, 0, 9, &req[0]));
    assert_fails(ebb_comm_waitall(comm, 1, req), EBB_EBUG, "no other half");
    ebb_comm_destroy(comm);
}

static void agreement_of_one_rank_is_its_own(void **state)
{
    ebb_comm_t *comm;
    assert_ok(ebb_comm_self(&comm));
    assert_ok(ebb_comm_agree(comm, EBB_OK));
    assert_fails(ebb_comm_agree(comm, EBB_FAIL(EBB_EDATA, "row 7")), EBB_EDATA, "row 7");
    ebb_comm_destroy(comm);
}

static void without_a_launcher_the_default_is_self(void **state)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE",
                                        "SLURM_STEP_NUM_TASKS"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unsetenv(names[i]);
    setenv("SLURM_PROCID", "0", 1); /* inside a batch script */
    ebb_comm_t *comm;
    assert_ok(ebb_comm_default(&comm));
    assert_string_equal(ebb_comm_name(comm), "self");
    ebb_comm_destroy(comm);
    setenv("SLURM_STEP_NUM_TASKS", "4", 1);
    assert_fails(ebb_comm_default(&comm), EBB_EUNAVAILABLE, "--mpi=pmix");
}

static void running_out_of_memory_is_reported(void **state)
{
    ebb_comm_t *comm;
    for (int i = 0; i < 2; i++) {
        ebb_alloc_fail_after(i);
        assert_fails(ebb_comm_self(&comm), EBB_ENOMEM, "communicator");
        assert_null(comm);
    }
    ebb_alloc_fail_after(-1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table_of_another_version_or_with_a_hole_is_refused),
        cmocka_unit_test(collectives_of_one_rank_copy),
        cmocka_unit_test(messages_to_oneself_meet_in_either_order_by_tag),
        cmocka_unit_test(agreement_of_one_rank_is_its_own),
        cmocka_unit_test(without_a_launcher_the_default_is_self),
        cmocka_unit_test(running_out_of_memory_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
