/* Packing over ranks: the bytes of one rank alone, and one error for all. */
#include "pack.h"

static ebb_comm_t *world;
static char dir[4096];

static void share_folder(void)
{
    if (ebb_comm_rank(world) == 0) {
        char *made = test_mkdir();
        snprintf(dir, sizeof dir, "%s", made);
        free(made);
    }
    assert_ok(ebb_comm_bcast(world, dir, sizeof dir, 0));
}

static void remove_folder(void)
{
    assert_ok(ebb_comm_barrier(world));
    if (ebb_comm_rank(world) == 0)
        test_rmdir(strdup(dir));
}

static void pack_alone(const char *source, const char *dest, ebb_pack_options_t options)
{
    ebb_comm_t *self;
    assert_ok(ebb_comm_self(&self));
    options.threads = 1;
    assert_ok(ebb_pack(self, 1, &source, dest, &options));
    ebb_comm_destroy(self);
}

static void any_ranks_write_the_bytes_of_one(void **state)
{
    ebb_pack_options_t options = {
        .shard_bytes = 40000, .memory_bytes = 4 << 20, .threads = 2, .name = "data", .split = "train=0.6,valid=0.3"};
    share_folder();
    const char *source = in_dir(dir, "source");
    if (ebb_comm_rank(world) == 0) {
        write_svmlight(source, 5000);
        pack_alone(source, in_dir(dir, "alone"), options);
    }
    assert_ok(ebb_comm_barrier(world));
    assert_ok(ebb_pack(world, 1, &source, in_dir(dir, "together"), &options));
    if (ebb_comm_rank(world) == 0) {
        assert_true(same_folders(in_dir(dir, "alone"), in_dir(dir, "together")));
        assert_int_equal(count_entries(dir), 3);
    }
    remove_folder();
}

static void all_ranks_tell_of_the_first_fault_and_leave_nothing(void **state)
{
    ebb_pack_options_t options = {.memory_bytes = 4 << 20, .threads = 2};
    share_folder();
    const char *source = in_dir(dir, "source");
    if (ebb_comm_rank(world) == 0) {
        write_svmlight(source, 5000);
        FILE *f = fopen(source, "r+b");
        fseek(f, 100000, SEEK_SET);
        fputs("\n1 5:bad\n", f);
        fseek(f, 300000, SEEK_SET);
        fputs("\n1 5:worse\n", f);
        fclose(f);
    }
    assert_ok(ebb_comm_barrier(world));
    assert_fails(ebb_pack(world, 1, &source, in_dir(dir, "dest"), &options), EBB_EDATA, "\"5:bad\"");
    assert_ok(ebb_comm_barrier(world));
    assert_int_equal(count_entries(dir), 1);
    remove_folder();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_ranks_write_the_bytes_of_one),
        cmocka_unit_test(all_ranks_tell_of_the_first_fault_and_leave_nothing),
    };
    if (ebb_comm_mpi(&world) != EBB_OK)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    ebb_comm_destroy(world);
    return failed;
}
