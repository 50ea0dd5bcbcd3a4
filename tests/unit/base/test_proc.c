/* What /proc tells. */
#include "support.h"
#include "base/alloc.h"
#include "base/proc.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* A child that waits, under a name that looks like the rest of the line. */
static pid_t start_child(void)
{
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_NAME, "a) Z 1 (b");
        for (;;)
            pause();
    }
    return child;
}

static void end_child(pid_t child)
{
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

static void a_name_with_parentheses_does_not_shift_the_fields(void **state)
{
    ebb_proc_stat_t s = {0};
    pid_t child = start_child();
    for (int i = 0; i < 1000 && !(ebb_proc_stat(child, &s) && strcmp(s.name, "a) Z 1 (b") == 0 && s.state == 'S'); i++)
        usleep(10000);
    end_child(child);
    assert_string_equal(s.name, "a) Z 1 (b");
    assert_int_equal(s.state, 'S');
    assert_int_equal(s.parent, getpid());
}

static void processor_time_is_what_was_used(void **state)
{
    ebb_proc_stat_t s;
    double used = 0;
    volatile double x = 1;
    while (used < 0.2) {
        for (int i = 0; i < 1000000; i++)
            x = x * 1.000001;
        used = (double)clock() / CLOCKS_PER_SEC;
    }
    assert_true(ebb_proc_stat(getpid(), &s));
    double seconds = (double)s.ticks / (double)sysconf(_SC_CLK_TCK);
    assert_true(seconds > used - 0.05 && seconds < (double)clock() / CLOCKS_PER_SEC + 0.05);
}

static void who_began_later_has_the_later_start(void **state)
{
    ebb_proc_stat_t own, child_stat;
    usleep(30000); /* more than a tick */
    pid_t child = start_child();
    bool found = ebb_proc_stat(child, &child_stat);
    end_child(child);
    assert_true(found && ebb_proc_stat(getpid(), &own));
    assert_true(child_stat.started > own.started);
}

static void nobody_has_no_stat_and_no_environment(void **state)
{
    ebb_proc_stat_t s;
    size_t bytes;
    pid_t child = start_child();
    end_child(child);
    assert_false(ebb_proc_stat(child, &s));
    assert_null(ebb_proc_environment(child, &bytes));
}

static void a_variable_is_found_by_its_whole_name(void **state)
{
    static const char words[] = "RANKS=7\0RANK=3\0EMPTY=";
    assert_string_equal(ebb_proc_variable(words, sizeof words, "RANK"), "3");
    assert_string_equal(ebb_proc_variable(words, sizeof words, "EMPTY"), "");
    assert_null(ebb_proc_variable(words, sizeof words, "RAN"));
}

static void the_environment_is_that_of_the_start(void **state)
{
    size_t bytes;
    setenv("EBB_TEST_LATER", "1", 1);
    char *environment = ebb_proc_environment(getpid(), &bytes);
    assert_non_null(environment);
    assert_non_null(ebb_proc_variable(environment, bytes, "PATH"));
    assert_null(ebb_proc_variable(environment, bytes, "EBB_TEST_LATER"));
    ebb_free(environment);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_name_with_parentheses_does_not_shift_the_fields),
        cmocka_unit_test(processor_time_is_what_was_used),
        cmocka_unit_test(who_began_later_has_the_later_start),
        cmocka_unit_test(nobody_has_no_stat_and_no_environment),
        cmocka_unit_test(a_variable_is_found_by_its_whole_name),
        cmocka_unit_test(the_environment_is_that_of_the_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
