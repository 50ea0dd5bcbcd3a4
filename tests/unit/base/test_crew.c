/* The crew of threads: every task runs once, outcomes come back to who waits, and a single thread is enough. */
#include "support.h"
#include "base/crew.h"

#include <stdatomic.h>
#include <string.h>

enum { TASKS = 200, RING = 7 };

typedef struct work {
    int number;
    atomic_int runs;
    int fail;
} work_t;

static ebb_status_t count_run(void *user, int thread)
{
    work_t *w = user;
    atomic_fetch_add(&w->runs, 1);
    return w->fail ? EBB_FAIL(EBB_EDATA, "task %d", w->number) : EBB_OK;
}

static void every_task_runs_once_and_reports_to_its_waiter(void **state)
{
    for (int threads = 1; threads <= 4; threads++) {
        static work_t work[TASKS];
        ebb_crew_task_t task[RING] = {0};
        ebb_crew_t *crew;
        memset(work, 0, sizeof work);
        assert_int_equal(ebb_crew_create(threads, &crew), EBB_OK);
        assert_int_equal(ebb_crew_threads(crew), threads);
        for (int i = 0; i < TASKS + RING - 1; i++) {
            if (i < TASKS) {
                work[i] = (work_t){.number = i, .fail = i % 10 == 3};
                ebb_crew_submit(crew, &task[i % RING], count_run, &work[i]);
            }
            int oldest = i - (RING - 1);
            if (oldest < 0)
                continue;
            ebb_status_t status = ebb_crew_wait(crew, &task[oldest % RING]);
            assert_int_equal(status, work[oldest].fail ? EBB_EDATA : EBB_OK);
            if (work[oldest].fail) {
                char text[32];
                snprintf(text, sizeof text, "task %d", oldest);
                assert_string_equal(ebb_error()->message, text);
                ebb_error_clear();
            }
            assert_int_equal(work[oldest].runs, 1);
        }
        ebb_crew_destroy(crew);
    }
}

static void dropped_tasks_leave_no_error_and_never_run_later(void **state)
{
    for (int threads = 1; threads <= 3; threads++) {
        work_t work[RING];
        ebb_crew_task_t task[RING] = {0};
        ebb_crew_t *crew;
        assert_int_equal(ebb_crew_create(threads, &crew), EBB_OK);
        for (int i = 0; i < RING; i++) {
            work[i] = (work_t){.number = i, .fail = 1};
            ebb_crew_submit(crew, &task[i], count_run, &work[i]);
        }
        for (int i = RING - 1; i >= 0; i--)
            ebb_crew_drop(crew, &task[i]);
        int runs = 0;
        for (int i = 0; i < RING; i++)
            runs += work[i].runs;
        assert_true(runs <= RING && (threads > 1 || runs == 0));
        assert_int_equal(ebb_error()->status, EBB_OK);
        assert_int_equal(ebb_crew_wait(crew, &task[0]), EBB_OK); /* nothing of it is left */
        ebb_crew_destroy(crew);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_runs_once_and_reports_to_its_waiter),
        cmocka_unit_test(dropped_tasks_leave_no_error_and_never_run_later),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
