/* The CUDA backend where there is a GPU and the backend is installed; skipped visibly elsewhere. */
#include "support.h"

#include <dlfcn.h>
#include <ebb/compute.h>

static bool driver_is_here(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    int (*init)(unsigned) = driver ? (int (*)(unsigned))dlsym(driver, "cuInit") : NULL;
    return init && init(0) == 0;
}

static void device_memory_gives_back_what_was_put_in(void **state)
{
    ebb_backend_t *b;
    ebb_exec_t *x;
    void *p;
    float in[1000], out[1000] = {0};
    for (int i = 0; i < 1000; i++)
        in[i] = (float)i;
    assert_ok(ebb_backend_open("cuda", 0, &b));
    assert_ok(b->ops->exec_create(b->dev, &x));
    assert_ok(b->ops->alloc(b->dev, sizeof in, "test", &p));
    assert_ok(b->ops->upload(x, p, in, sizeof in));
    assert_ok(b->ops->download(x, out, p, sizeof in));
    assert_ok(b->ops->exec_sync(x));
    assert_memory_equal(in, out, sizeof in);
    b->ops->free(b->dev, p);
    b->ops->exec_destroy(x);
    ebb_backend_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(device_memory_gives_back_what_was_put_in)};
    ebb_backend_t *b;
    if (!driver_is_here()) {
        puts("SKIPPED: no NVIDIA driver with a GPU here");
        return 77;
    }
    if (ebb_backend_open("cuda", 0, &b) != EBB_OK) {
        printf("SKIPPED: %s\n", ebb_error()->message);
        return 77;
    }
    ebb_backend_close(b);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
