/* Wall time that runs fast. The environment is read once a process, so each case is a process of its own. */
#include "support.h"
#include "base/clock.h"

#include <math.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* Exit code of `check` in a child with EBB_CLOCK set so. */
static int with_clock(const char *value, int (*check)(void))
{
    pid_t child = fork();
    if (child == 0) {
        setenv("EBB_CLOCK", value, 1);
        _exit(check());
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* 3600 seconds pass in each real one, from 1,000,000 at the moment 0 of the system's clock. */
static int is_an_hour_a_second(void)
{
    double before = ebb_system_seconds(), wall = ebb_wall_seconds(), after = ebb_system_seconds();
    return ebb_clock_rate() == 3600 && wall >= 1e6 + before * 3600 && wall <= 1e6 + after * 3600 ? 0 : 1;
}

static int is_the_systems(void)
{
    double before = ebb_system_seconds(), wall = ebb_wall_seconds(), after = ebb_system_seconds();
    return ebb_clock_rate() == 1 && wall >= before && wall <= after ? 0 : 1;
}

static void wall_time_runs_as_the_environment_says(void **state)
{
    assert_int_equal(with_clock("1000000:0:3600", is_an_hour_a_second), 0);
}

static void nonsense_and_nothing_leave_the_systems_clock(void **state)
{
    const char *bad[] = {"", "12", "0:0:0", "0:0:-1", "0:0:nan", "inf:0:1", "1:2:3x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(with_clock(bad[i], is_the_systems), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wall_time_runs_as_the_environment_says),
        cmocka_unit_test(nonsense_and_nothing_leave_the_systems_clock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
