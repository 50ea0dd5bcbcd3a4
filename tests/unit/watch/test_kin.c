/* What one rank sees of the others of its host: processes of one parent, of which one is another's to hurt. The one
 * that looks is a child as well, as it is under a launcher. */
#include "support.h"
#include "base/clock.h"
#include "watch/kin.h"

#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LOOK_NS  ((int64_t)120000000) /* many ticks of processor time */
#define LIMIT_NS (10 * LOOK_NS)

enum { RANKS = 3 };

static pid_t child[RANKS];

static void start(int rank, const char *script)
{
    char number[64];
    snprintf(number, sizeof number, "OMPI_COMM_WORLD_RANK=%d", rank);
    char *argv[] = {"sh", "-c", (char *)script, NULL}, *env[] = {number, NULL};
    assert_int_equal(posix_spawn(&child[rank], "/bin/sh", NULL, NULL, argv, env), 0);
}

/* As a rank looks at its messages: this program again. Often: as where each look takes long for how little it sleeps.
 */
static _Noreturn void look_at_messages(bool often)
{
    struct timespec t = {0, often ? 30000 : 500000};
    for (;;) {
        for (int64_t until = ebb_now_ns() + 40000; often && ebb_now_ns() < until;)
            ;
        nanosleep(&t, NULL);
    }
}

static void start_looking(int rank, const char *how)
{
    char self[PATH_MAX], script[PATH_MAX + 32];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(n > 0);
    self[n] = 0;
    snprintf(script, sizeof script, "exec '%s' %s", self, how);
    start(rank, script);
}

static void start_looking_at_messages(int rank)
{
    start_looking(rank, "messages");
}

static int start_sleepers(void **state)
{
    for (int r = 0; r < RANKS; r++)
        start(r, "exec sleep 1000");
    return 0;
}

static int end_all(void **state)
{
    for (int r = 0; r < RANKS; r++) {
        kill(child[r], SIGKILL);
        waitpid(child[r], NULL, 0);
    }
    return 0;
}

static ebb_watch_cause_t looked;
static int looked_rank;

/* So many looks by a sibling, of a job of `size` ranks; hurt is done to rank 1 after the first. A verdict before the
 * limit is a failure. */
static void look(int size, bool leaving, int looks, int hurt)
{
    pid_t looker = fork();
    int status;
    if (looker == 0) {
        ebb_kin_t kin = {.size = size};
        int rank = 0;
        ebb_watch_cause_t cause = EBB_WATCH_FINE;
        int64_t begin = ebb_now_ns();
        for (int i = 0; i < looks; i++) {
            struct timespec t = {0, LOOK_NS};
            int64_t now = ebb_now_ns() - begin + 1;
            ebb_kin_look(&kin, now);
            cause = ebb_kin_judge(&kin, leaving, now, LIMIT_NS, &rank);
            if (cause != EBB_WATCH_FINE && now < LIMIT_NS)
                _exit(255);
            if (i == 0 && hurt)
                kill(child[1], hurt);
            nanosleep(&t, NULL);
        }
        _exit(cause * 16 + rank);
    }
    assert_int_equal(waitpid(looker, &status, 0), looker);
    assert_true(WIFEXITED(status));
    assert_int_not_equal(WEXITSTATUS(status), 255);
    looked = WEXITSTATUS(status) / 16;
    looked_rank = WEXITSTATUS(status) % 16;
}

static void a_rank_that_is_stopped_is_named(void **state)
{
    look(2 * RANKS, false, 16, SIGSTOP);
    assert_int_equal(looked, EBB_WATCH_SILENT);
    assert_int_equal(looked_rank, 1);
}

static void a_rank_that_goes_on_is_forgiven(void **state)
{
    kill(child[1], SIGSTOP);
    look(2 * RANKS, false, 16, SIGCONT);
    assert_int_equal(looked, EBB_WATCH_FINE);
}

static void a_rank_that_is_gone_was_killed_at_the_start_and_may_have_left_at_the_end(void **state)
{
    look(2 * RANKS, false, 16, SIGKILL);
    assert_int_equal(looked, EBB_WATCH_LOST);
    assert_int_equal(looked_rank, 1);
    end_all(NULL);
    start_sleepers(NULL);
    look(2 * RANKS, true, 16, SIGKILL);
    assert_int_equal(looked, EBB_WATCH_FINE);
}

static void a_job_within_one_host_that_does_nothing_is_stuck(void **state)
{
    look(RANKS, false, 16, 0);
    assert_int_equal(looked, EBB_WATCH_STALLED);
    assert_int_equal(looked_rank, 0);
}

static void ranks_of_another_host_may_be_at_work(void **state)
{
    look(RANKS + 1, false, 16, 0);
    assert_int_equal(looked, EBB_WATCH_FINE);
}

static void who_sleeps_among_those_that_look_at_their_messages_is_the_reason(void **state)
{
    end_all(NULL);
    start_looking_at_messages(0);
    start_looking_at_messages(1);
    start(2, "exec sleep 1000");
    look(RANKS, false, 16, 0);
    assert_int_equal(looked, EBB_WATCH_STALLED);
    assert_int_equal(looked_rank, 2);
}

static void looking_at_messages_is_no_work_however_often_it_is_done(void **state)
{
    end_all(NULL);
    for (int r = 0; r < RANKS; r++)
        start_looking(r, "often");
    look(RANKS, false, 20, 0);
    assert_int_equal(looked, EBB_WATCH_STALLED);
}

static void a_rank_that_computes_holds_nobody_up(void **state)
{
    end_all(NULL);
    for (int r = 0; r < RANKS; r++)
        start(r, r == 1 ? "while :; do :; done" : "exec sleep 1000");
    look(RANKS, false, 20, 0);
    assert_int_equal(looked, EBB_WATCH_FINE);
}

static void pin_to_the_first_processor(pid_t pid)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(0, &set);
    assert_int_equal(sched_setaffinity(pid, sizeof set, &set), 0);
}

enum { OTHERS = 9 };

static pid_t other[OTHERS];

/* Processes that want all of the first processor, which rank 1 must share with them. */
static void crowd_the_first_processor(void)
{
    char *argv[] = {"sh", "-c", "while :; do :; done", NULL}, *env[] = {NULL};
    for (int i = 0; i < OTHERS; i++) {
        assert_int_equal(posix_spawn(&other[i], "/bin/sh", NULL, NULL, argv, env), 0);
        pin_to_the_first_processor(other[i]);
    }
    pin_to_the_first_processor(child[1]);
}

static void end_the_crowd(void)
{
    for (int i = 0; i < OTHERS; i++) {
        kill(other[i], SIGKILL);
        waitpid(other[i], NULL, 0);
    }
}

static void a_rank_that_others_keep_from_its_processor_holds_nobody_up(void **state)
{
    end_all(NULL);
    for (int r = 0; r < RANKS; r++)
        start(r, r == 1 ? "while :; do :; done" : "exec sleep 1000");
    crowd_the_first_processor();
    look(RANKS, false, 20, 0);
    end_the_crowd();
    assert_int_equal(looked, EBB_WATCH_FINE);
}

static void a_rank_that_waits_does_no_work_where_it_also_waits_for_its_processor(void **state)
{
    end_all(NULL);
    start(0, "exec sleep 1000");
    start_looking_at_messages(1);
    start(2, "exec sleep 1000");
    crowd_the_first_processor();
    look(RANKS, false, 20, 0);
    end_the_crowd();
    assert_int_equal(looked, EBB_WATCH_STALLED);
}

static void silence_while_the_looker_did_not_run_is_nobodys_fault(void **state)
{
    ebb_kin_rank_t rank = {.stopped = true, .changed_ns = 1, .still_ns = 1, .asleep_ns = 1};
    ebb_kin_t kin = {.rank = &rank, .n = 1, .size = 1, .looked_ns = 1};
    int named;
    assert_int_equal(ebb_kin_judge(&kin, false, LIMIT_NS + 1, LIMIT_NS, &named), EBB_WATCH_SILENT);
    ebb_kin_excuse(&kin, LIMIT_NS);
    assert_int_equal(ebb_kin_judge(&kin, false, LIMIT_NS + 1, LIMIT_NS, &named), EBB_WATCH_FINE);
}

static void who_fell_asleep_after_it_ceased_to_work_is_the_reason_too(void **state)
{
    int64_t now = 2 * LIMIT_NS;
    ebb_kin_rank_t rank[] = {{.rank = 0, .still_ns = 1, .asleep_ns = now}, {.rank = 1, .still_ns = 1}};
    ebb_kin_t kin = {.rank = rank, .n = 2, .size = 2, .looked_ns = now};
    int named;
    rank[1].asleep_ns = now - LIMIT_NS * 3 / 4;
    assert_int_equal(ebb_kin_judge(&kin, false, now, LIMIT_NS, &named), EBB_WATCH_STALLED);
    assert_int_equal(named, 1);
    rank[1].asleep_ns = now - LIMIT_NS / 4;
    assert_int_equal(ebb_kin_judge(&kin, false, now, LIMIT_NS, &named), EBB_WATCH_STALLED);
    assert_int_equal(named, 0);
}

static void nobody_is_stuck_while_others_are_going(void **state)
{
    int64_t now = 2 * LIMIT_NS;
    ebb_kin_rank_t rank[] = {{.rank = 0, .gone = true, .changed_ns = now - LIMIT_NS / 4}, {.rank = 1, .still_ns = 1}};
    ebb_kin_t kin = {.rank = rank, .n = 2, .size = 2, .looked_ns = now};
    int named;
    for (int leaving = 0; leaving < 2; leaving++)
        assert_int_equal(ebb_kin_judge(&kin, leaving, now, LIMIT_NS, &named), EBB_WATCH_FINE);
    assert_int_equal(ebb_kin_judge(&kin, true, now + LIMIT_NS, LIMIT_NS, &named), EBB_WATCH_STALLED);
    assert_int_equal(named, 1);
}

#define WITH_RANKS(test) cmocka_unit_test_setup_teardown(test, start_sleepers, end_all)

int main(int argc, char **argv)
{
    if (argc > 1)
        look_at_messages(strcmp(argv[1], "often") == 0);
    const struct CMUnitTest tests[] = {
        WITH_RANKS(a_rank_that_is_stopped_is_named),
        WITH_RANKS(a_rank_that_goes_on_is_forgiven),
        WITH_RANKS(a_rank_that_is_gone_was_killed_at_the_start_and_may_have_left_at_the_end),
        WITH_RANKS(a_job_within_one_host_that_does_nothing_is_stuck),
        WITH_RANKS(ranks_of_another_host_may_be_at_work),
        WITH_RANKS(who_sleeps_among_those_that_look_at_their_messages_is_the_reason),
        WITH_RANKS(looking_at_messages_is_no_work_however_often_it_is_done),
        WITH_RANKS(a_rank_that_computes_holds_nobody_up),
        WITH_RANKS(a_rank_that_others_keep_from_its_processor_holds_nobody_up),
        WITH_RANKS(a_rank_that_waits_does_no_work_where_it_also_waits_for_its_processor),
        cmocka_unit_test(silence_while_the_looker_did_not_run_is_nobodys_fault),
        cmocka_unit_test(who_fell_asleep_after_it_ceased_to_work_is_the_reason_too),
        cmocka_unit_test(nobody_is_stuck_while_others_are_going),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
