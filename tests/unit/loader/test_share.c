/* Counted leases: dropped in any order and thread, they outlive what they were made of, and nothing waits or leaks. */
#include "shards.h"
#include <ebb/share.h>

#include <pthread.h>

enum { LANES = 4, BATCH = 100, ROWS = 2001, DEPTH = 6 };

typedef struct fixture {
    char *dir;
    ebb_dataset_plan_t plan;
    ebb_shared_dataset_t *ds;
    ebb_shared_loader_t *loader;
} fixture_t;

static fixture_t make_fixture(int threads)
{
    fixture_t f = {.dir = test_mkdir(), .plan = made_plan(false, EBB_F32, ROWS, 7)};
    ebb_loader_options_t options = {
        .order = {.lanes = LANES, .batch = BATCH, .seed = 11, .shuffle = true}, .threads = threads, .depth = DEPTH};
    f.plan.shard_rows = ROWS;
    make_dataset(f.dir, &f.plan, 1, 500);
    assert_ok(ebb_shared_dataset_open(f.dir, NULL, &f.ds));
    assert_ok(ebb_shared_loader_create(f.ds, &options, &f.loader));
    return f;
}

static ebb_lease_t *next(ebb_shared_loader_t *loader)
{
    ebb_lease_t *lease;
    assert_ok(ebb_lease_create(&lease));
    assert_null(ebb_lease_batch(lease));
    assert_ok(ebb_lease_acquire(lease, loader));
    return lease;
}

static bool is_right(const fixture_t *f, const ebb_batch_t *b)
{
    for (int64_t r = 0; r < b->rows; r++)
        for (int64_t c = 0; c < f->plan.cols; c++)
            if (b->x[r * f->plan.cols + c] != made_value(&f->plan, b->row[r], c))
                return false;
    return true;
}

static void a_batch_outlives_its_loader_and_its_data_set(void **state)
{
    fixture_t f = make_fixture(2);
    ebb_lease_t *first = next(f.loader), *second = next(f.loader), *empty;
    assert_ok(ebb_lease_create(&empty));
    assert_int_equal(ebb_shared_loader_held(f.loader), 2);
    ebb_shared_dataset_drop(f.ds);
    ebb_shared_loader_drop(f.loader);
    assert_true(is_right(&f, ebb_lease_batch(first)));
    ebb_lease_drop(first);
    assert_true(is_right(&f, ebb_lease_batch(second)));
    ebb_lease_drop(second);
    ebb_lease_drop(empty);
    ebb_lease_drop(NULL);
    test_rmdir(f.dir);
}

static void dropping_makes_room(void **state)
{
    fixture_t f = make_fixture(1);
    ebb_lease_t *held[DEPTH], *more;
    for (int i = 0; i < DEPTH; i++)
        held[i] = next(f.loader);
    assert_ok(ebb_lease_create(&more));
    assert_fails(ebb_lease_acquire(more, f.loader), EBB_EINVAL, "held");
    assert_fails(ebb_shared_loader_seek(f.loader, 0, 3), EBB_EINVAL, "held");
    for (int i = 0; i < DEPTH; i++)
        ebb_lease_drop(held[i]);
    assert_ok(ebb_shared_loader_seek(f.loader, 0, 3));
    assert_ok(ebb_lease_acquire(more, f.loader));
    assert_int_equal(ebb_lease_batch(more)->step, 3);
    assert_fails(ebb_lease_acquire(more, f.loader), EBB_EINVAL, "already");
    ebb_lease_drop(more);
    ebb_shared_loader_drop(f.loader);
    ebb_shared_dataset_drop(f.ds);
    test_rmdir(f.dir);
}

static void a_lease_may_own_a_loader(void **state)
{
    fixture_t f = make_fixture(1);
    ebb_loader_options_t options = {.order = {.lanes = LANES, .batch = BATCH, .seed = 1, .shuffle = true}};
    ebb_shared_loader_t *loader, *none;
    ebb_lease_t *owner, *batch;
    assert_ok(ebb_lease_create(&owner));
    assert_ok(ebb_lease_create_loader(owner, f.ds, &options, &loader));
    assert_fails(ebb_lease_create_loader(owner, f.ds, &options, &none), EBB_EINVAL, "already");
    batch = next(loader);
    ebb_lease_drop(owner);
    ebb_shared_loader_drop(f.loader);
    ebb_shared_dataset_drop(f.ds);
    assert_true(is_right(&f, ebb_lease_batch(batch)));
    ebb_lease_drop(batch);
    test_rmdir(f.dir);
}

/* Of DLPack's struct the words that a consumer reads. */
static void a_dlpack_deleter_drops_the_lease(void **state)
{
    fixture_t f = make_fixture(1);
    ebb_lease_t *lease = next(f.loader);
    struct {
        void *data;
        int32_t device, id, ndim;
        uint8_t code, bits;
        uint16_t lanes;
        int64_t *shape, *strides;
        uint64_t offset;
        void *context;
        void (*deleter)(void *self);
    } *tensor = ebb_lease_dlpack(lease);
    assert_int_equal(tensor->device, 1);
    assert_int_equal(tensor->ndim, 1);
    assert_int_equal(tensor->shape[0], 1);
    assert_int_equal(tensor->bits * tensor->lanes, 8);
    tensor->deleter(tensor);
    assert_int_equal(ebb_shared_loader_held(f.loader), 0);
    ebb_shared_loader_drop(f.loader);
    ebb_shared_dataset_drop(f.ds);
    test_rmdir(f.dir);
}

typedef struct user {
    const fixture_t *f;
    ebb_lease_t *lease;
    bool right;
} user_t;

static void *use_and_drop(void *arg)
{
    user_t *user = arg;
    user->right = is_right(user->f, ebb_lease_batch(user->lease));
    ebb_lease_drop(user->lease);
    return NULL;
}

static void batches_may_be_dropped_by_any_thread_while_another_acquires(void **state)
{
    enum { USERS = DEPTH - 1, STEPS = 400 };
    fixture_t f = make_fixture(2);
    user_t user[USERS];
    pthread_t id[USERS];
    for (int step = 0, end = 0; step < STEPS; step++) {
        int i = step % USERS;
        if (step >= USERS) {
            pthread_join(id[i], NULL);
            assert_true(user[i].right);
        }
        user[i] = (user_t){.f = &f};
        assert_ok(ebb_lease_create(&user[i].lease));
        while ((end = ebb_lease_acquire(user[i].lease, f.loader)) == EBB_END)
            ;
        assert_int_equal(end, EBB_OK);
        assert_int_equal(pthread_create(&id[i], NULL, use_and_drop, &user[i]), 0);
    }
    ebb_shared_loader_drop(f.loader); /* the last user ends it */
    ebb_shared_dataset_drop(f.ds);
    for (int i = 0; i < USERS; i++)
        pthread_join(id[i], NULL);
    test_rmdir(f.dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_batch_outlives_its_loader_and_its_data_set),
        cmocka_unit_test(dropping_makes_room),
        cmocka_unit_test(a_lease_may_own_a_loader),
        cmocka_unit_test(a_dlpack_deleter_drops_the_lease),
        cmocka_unit_test(batches_may_be_dropped_by_any_thread_while_another_acquires),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
