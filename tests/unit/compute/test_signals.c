/* Signals that come during products leave memory and results alone: what a stop by SIGTERM, a timer or a profiler
 * needs. */
#include "compute_test.h"

#include <signal.h>
#include <sys/time.h>

static volatile sig_atomic_t signals;

static void count(int number)
{
    (void)number;
    signals++;
}

static void storm(long microseconds)
{
    const struct sigaction action = {.sa_handler = count, .sa_flags = SA_RESTART};
    const struct itimerval every = {{0, microseconds}, {0, microseconds}};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
}

static void signals_during_products_change_nothing(void **state)
{
    static const int64_t shapes[][3] = {{27, 300, 37}, {27, 40, 300}, {27, 5, 40}, {37, 300, 27}, {300, 40, 27}};
    ebb_backend_t *b;
    ebb_exec_t *x;
    assert_ok(ebb_backend_open("cpu", 0, &b));
    assert_ok(b->ops->exec_create(b->dev, &x));
    storm(100);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int64_t m = shapes[s][0], n = shapes[s][1], k = shapes[s][2];
        float *a = calloc((size_t)(m * k), 4), *w = calloc((size_t)(k * n), 4);
        float *want = calloc((size_t)(m * n), 4), *c = calloc((size_t)(m * n), 4);
        for (int64_t i = 0; i < m * k; i++)
            a[i] = (float)(i % 7) - 3;
        for (int64_t i = 0; i < k * n; i++)
            w[i] = (float)(i % 5) - 2;
        assert_ok(b->ops->gemm(x, false, false, m, n, k, a, k, w, n, 0.0f, want, n, NULL, EBB_ACT_NONE));
        for (int i = 0; i < 4000; i++) {
            assert_ok(b->ops->gemm(x, false, false, m, n, k, a, k, w, n, 0.0f, c, n, NULL, EBB_ACT_NONE));
            assert_memory_equal(c, want, (size_t)(m * n) * 4);
        }
        free(a);
        free(w);
        free(want);
        free(c);
    }
    storm(0);
    assert_true(signals > 0);
    b->ops->exec_destroy(x);
    ebb_backend_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(signals_during_products_change_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
