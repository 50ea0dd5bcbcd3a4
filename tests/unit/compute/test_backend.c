/* Opening backends: what is missing, stale or incomplete is named and nothing of it is used. */
#include "compute_test.h"

static void the_cpu_opens_describes_itself_and_passes_the_check(void **state)
{
    ebb_backend_t *b;
    char text[256];
    assert_ok(ebb_backend_open("cpu", 0, &b));
    assert_ok(ebb_backend_check(b->ops));
    assert_ok(b->ops->describe(b->dev, text, sizeof text));
    assert_non_null(strstr(text, "oneDNN"));
    assert_true(b->ops->caps & EBB_CAP_HOST_MEMORY);
    ebb_backend_close(b);
    ebb_backend_close(NULL);
}

static void memory_is_zeroed_aligned_and_can_be_copied(void **state)
{
    ebb_backend_t *b;
    ebb_exec_t *x;
    void *p, *q;
    char text[] = "sixteen letters";
    assert_ok(ebb_backend_open("cpu", 0, &b));
    assert_ok(b->ops->exec_create(b->dev, &x));
    assert_ok(b->ops->alloc(b->dev, 16, "test", &p));
    assert_ok(b->ops->alloc(b->dev, 16, "test", &q));
    assert_true((uintptr_t)p % 64 == 0 && *(char *)p == 0);
    assert_ok(b->ops->upload(x, p, text, 16));
    assert_ok(b->ops->copy(x, q, p, 16));
    assert_ok(b->ops->zero(x, p, 16));
    assert_ok(b->ops->download(x, text, q, 16));
    assert_ok(b->ops->exec_sync(x));
    assert_string_equal(text, "sixteen letters");
    assert_int_equal(*(char *)p, 0);
    b->ops->free(b->dev, p);
    b->ops->free(b->dev, q);
    b->ops->exec_destroy(x);
    ebb_backend_close(b);
}

static void a_backend_that_is_not_installed_says_where_it_was_looked_for(void **state)
{
    ebb_backend_t *b;
    setenv("EBB_BACKEND_PATH", "/nonexistent/one:/nonexistent/two", 1);
    assert_fails(ebb_backend_open("cuda", 0, &b), EBB_EUNAVAILABLE, "/nonexistent/one:/nonexistent/two");
    unsetenv("EBB_BACKEND_PATH");
    assert_fails(ebb_backend_open("cuda", 0, &b), EBB_EUNAVAILABLE, "libebb_cuda.so");
    assert_null(b);
}

static void names_that_are_paths_are_refused(void **state)
{
    ebb_backend_t *b;
    assert_fails(ebb_backend_open("../evil", 0, &b), EBB_EUSAGE, "../evil");
    assert_fails(ebb_backend_open("", 0, &b), EBB_EUSAGE, "cannot be a backend");
    assert_fails(ebb_backend_open(NULL, 0, &b), EBB_EUSAGE, "cannot be a backend");
}

static void stale_incomplete_and_foreign_objects_are_named(void **state)
{
    ebb_backend_t *b;
    char stale[64];
    snprintf(stale, sizeof stale, "libebb_fake1.so: its table has version %u", EBB_BACKEND_VERSION + 1);
    setenv("EBB_BACKEND_PATH", EBB_TEST_FAKES, 1);
    assert_fails(ebb_backend_open("fake1", 0, &b), EBB_EUNAVAILABLE, stale);
    assert_fails(ebb_backend_open("fake2", 0, &b), EBB_EUNAVAILABLE, "lacks the operation update_rows");
    assert_fails(ebb_backend_open("fake3", 0, &b), EBB_EUNAVAILABLE, "refused");
    assert_fails(ebb_backend_open("fake5", 0, &b), EBB_EUNAVAILABLE, "lacks the operation device_info");
    assert_fails(ebb_backend_open("fake4", 0, &b), EBB_EUNAVAILABLE, "does not export ebb_backend_entry");
    unsetenv("EBB_BACKEND_PATH");
    unsetenv("FAKE_CLOSED");
}

static void a_device_without_events_is_refused(void **state)
{
    ebb_backend_ops_t table;
    memset(&table, 1, sizeof table); /* complete, as far as anybody can see */
    table.version = EBB_BACKEND_VERSION;
    table.caps = 0;
    assert_ok(ebb_backend_check(&table));
    table.exec_event = NULL;
    assert_fails(ebb_backend_check(&table), EBB_EUNAVAILABLE, "lacks the operation exec_event");
    table.caps = EBB_CAP_HOST_MEMORY;
    assert_ok(ebb_backend_check(&table));
}

static void a_file_that_is_no_object_is_named(void **state)
{
    ebb_backend_t *b;
    char *dir = test_mkdir(), path[5000];
    snprintf(path, sizeof path, "%s/libebb_text.so", dir);
    FILE *f = fopen(path, "w");
    fputs("not an object", f);
    fclose(f);
    setenv("EBB_BACKEND_PATH", dir, 1);
    assert_fails(ebb_backend_open("text", 0, &b), EBB_EUNAVAILABLE, "cannot be loaded");
    unsetenv("EBB_BACKEND_PATH");
    test_rmdir(dir);
}

static void a_complete_backend_opens_and_is_closed_once(void **state)
{
    ebb_backend_t *b;
    setenv("EBB_BACKEND_PATH", ":/nonexistent:" EBB_TEST_FAKES, 1);
    assert_ok(ebb_backend_open("fake0", 0, &b));
    assert_string_equal(b->ops->name, "fake");
    assert_null(getenv("FAKE_CLOSED"));
    ebb_backend_close(b);
    assert_string_equal(getenv("FAKE_CLOSED"), "once");
    unsetenv("FAKE_CLOSED");
    unsetenv("EBB_BACKEND_PATH");
}

static void an_instruction_set_that_does_not_exist_is_refused(void **state)
{
    ebb_backend_t *b;
    setenv("EBB_ISA", "sse9", 1);
    assert_fails(ebb_backend_open("cpu", 0, &b), EBB_EUSAGE, "sse9");
    setenv("EBB_ISA", "scalar", 1);
    assert_ok(ebb_backend_open("cpu", 0, &b));
    ebb_backend_close(b);
    unsetenv("EBB_ISA");
}

static void running_out_of_memory_is_reported(void **state)
{
    ebb_backend_t *b;
    ebb_exec_t *x;
    ebb_alloc_fail_after(0);
    assert_fails(ebb_backend_open("cpu", 0, &b), EBB_ENOMEM, "backend");
    ebb_alloc_fail_after(0);
    assert_fails(ops->exec_create(NULL, &x), EBB_ENOMEM, "context");
    ebb_alloc_fail_after(-1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_cpu_opens_describes_itself_and_passes_the_check),
        cmocka_unit_test(memory_is_zeroed_aligned_and_can_be_copied),
        cmocka_unit_test(a_backend_that_is_not_installed_says_where_it_was_looked_for),
        cmocka_unit_test(names_that_are_paths_are_refused),
        cmocka_unit_test(stale_incomplete_and_foreign_objects_are_named),
        cmocka_unit_test(a_device_without_events_is_refused),
        cmocka_unit_test(a_file_that_is_no_object_is_named),
        cmocka_unit_test(a_complete_backend_opens_and_is_closed_once),
        cmocka_unit_test(an_instruction_set_that_does_not_exist_is_refused),
        cmocka_unit_test(running_out_of_memory_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
