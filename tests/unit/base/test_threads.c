/* The thread pool: every task once, errors of the lowest task, runs that follow each other at any distance; and who
 * takes signals meanwhile. */
#include "support.h"
#include "base/signals.h"
#include "base/threads.h"

#include <signal.h>
#include <stdatomic.h>
#include <time.h>

typedef struct tally {
    atomic_int met[100];
    int fail_from, threads;
} tally_t;

static ebb_status_t count(void *user, int thread, int64_t index)
{
    tally_t *t = user;
    if (thread < 0 || thread >= t->threads)
        return EBB_FAIL(EBB_EBUG, "thread %d", thread);
    atomic_fetch_add(&t->met[index], 1);
    return t->fail_from >= 0 && index >= t->fail_from ? EBB_FAIL(EBB_EDATA, "task %d", (int)index) : EBB_OK;
}

static void every_task_runs_once_however_close_runs_follow(void **state)
{
    for (int threads = 1; threads <= 5; threads += 2) {
        ebb_pool_t *pool;
        assert_ok(ebb_pool_create(threads, &pool));
        for (int run = 0; run < 3000; run++) {
            tally_t t = {.fail_from = -1, .threads = threads};
            int n = run % 7 == 0 ? run % 100 : run % 5;
            assert_ok(ebb_pool_run(pool, n, count, &t));
            for (int i = 0; i < 100; i++)
                assert_int_equal(atomic_load(&t.met[i]), i < n);
            if (run % 1000 == 999) /* long enough for workers to fall asleep */
                nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        }
        ebb_pool_destroy(pool);
    }
}

static void the_error_is_that_of_the_lowest_failing_task(void **state)
{
    ebb_pool_t *pool;
    assert_ok(ebb_pool_create(3, &pool));
    for (int run = 0; run < 300; run++) {
        char want[32];
        tally_t t = {.fail_from = run % 50, .threads = 3};
        snprintf(want, sizeof want, "task %d", run % 50);
        assert_fails(ebb_pool_run(pool, 100, count, &t), EBB_EDATA, want);
    }
    ebb_pool_destroy(pool);
}

static bool holds_signals(void)
{
    sigset_t now;
    assert_int_equal(pthread_sigmask(SIG_BLOCK, NULL, &now), 0);
    return sigismember(&now, SIGTERM) && sigismember(&now, SIGALRM);
}

static volatile sig_atomic_t taken;

static void take(int number)
{
    taken = number;
}

static void signals_wait_until_the_outermost_hold_ends(void **state)
{
    sigset_t before, after;
    signal(SIGUSR2, take);
    sigemptyset(&before);
    sigaddset(&before, SIGHUP);
    assert_int_equal(pthread_sigmask(SIG_SETMASK, &before, NULL), 0);
    ebb_signals_hold();
    ebb_signals_hold();
    raise(SIGUSR2);
    assert_true(holds_signals());
    ebb_signals_release();
    assert_true(holds_signals());
    assert_int_equal(taken, 0);
    ebb_signals_release();
    assert_int_equal(taken, SIGUSR2);
    assert_int_equal(pthread_sigmask(SIG_BLOCK, NULL, &after), 0);
    assert_true(sigismember(&after, SIGHUP));
    assert_false(holds_signals());
    sigemptyset(&before);
    assert_int_equal(pthread_sigmask(SIG_SETMASK, &before, NULL), 0);
}

static ebb_status_t note_mask(void *user, int thread, int64_t index)
{
    atomic_int *wrong = user;
    atomic_fetch_add(wrong, holds_signals() != (thread > 0));
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); /* the others get some too */
    return EBB_OK;
}

static void all_threads_of_a_pool_but_the_caller_hold_signals_back(void **state)
{
    ebb_pool_t *pool;
    atomic_int wrong = 0;
    assert_ok(ebb_pool_create(3, &pool));
    assert_ok(ebb_pool_run(pool, 30, note_mask, &wrong));
    assert_int_equal(atomic_load(&wrong), 0);
    ebb_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_runs_once_however_close_runs_follow),
        cmocka_unit_test(the_error_is_that_of_the_lowest_failing_task),
        cmocka_unit_test(signals_wait_until_the_outermost_hold_ends),
        cmocka_unit_test(all_threads_of_a_pool_but_the_caller_hold_signals_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
