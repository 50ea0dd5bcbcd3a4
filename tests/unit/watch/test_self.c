/* What a rank tells of itself, on a clock that the test turns. */
#include "support.h"
#include "base/pulse.h"
#include "watch/self.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <spawn.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SECOND ((int64_t)1000000000)
#define LIMIT  (10 * SECOND)

/* Seconds since the start that the rank's looks are made at; real processor time is used between them. */
static int64_t now;

static void use_processor(void)
{
    struct timespec t;
    int64_t from = -1, at;
    do {
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
        at = (int64_t)t.tv_sec * SECOND + t.tv_nsec;
        from = from < 0 ? at : from;
    } while (at - from < SECOND / 100);
}

/* A hundredth of real time is a second here: looks come 10 ms apart, and so is the limit scaled. */
static ebb_watch_message_t look(ebb_watch_self_t *self)
{
    ebb_watch_message_t beat;
    now += SECOND / 100;
    use_processor();
    ebb_watch_self_look(self, 0, now, LIMIT / 100, &beat);
    return beat;
}

/* Five steps of so many looks each. */
static void begin(ebb_watch_self_t *self, int looks)
{
    now = SECOND;
    ebb_pulse_step(0);
    ebb_watch_self_begin(self, now);
    for (int step = 1; step <= 5; step++) {
        ebb_pulse_steady(true);
        ebb_pulse_step(step);
        for (int i = 0; i < looks; i++)
            look(self);
        ebb_pulse_steady(false);
    }
    ebb_pulse_steady(true);
}

static void a_rank_that_was_quick_and_now_only_burns_time_gets_no_more(void **state)
{
    ebb_watch_self_t self;
    ebb_watch_message_t beat = {0};
    begin(&self, 1);
    for (int i = 0; i < 10; i++)
        beat = look(&self);
    assert_true(beat.steady);
    assert_int_equal(beat.patience, 1);
    assert_int_equal(beat.still_ms, 100);
}

static void steps_that_always_took_long_get_ten_times_as_long(void **state)
{
    ebb_watch_self_t self;
    begin(&self, 4); /* a progress is noted by the look after it: three tenths of the limit */
    for (int i = 0; i < 12; i++)
        assert_int_equal(look(&self).patience, EBB_WATCH_PATIENT);
    for (int i = 12; i < 30; i++)
        look(&self);
    assert_int_equal(look(&self).patience, 3);
}

static void what_is_done_once_may_take_its_time(void **state)
{
    ebb_watch_self_t self;
    begin(&self, 1);
    ebb_pulse_steady(false);
    for (int i = 0; i < 12; i++) {
        ebb_watch_message_t beat = look(&self);
        assert_false(beat.steady);
        assert_int_equal(beat.patience, EBB_WATCH_PATIENT);
    }
}

static void waiting_for_others_may_take_its_time(void **state)
{
    ebb_watch_self_t self;
    begin(&self, 1);
    ebb_pulse_wait(true);
    for (int i = 0; i < 12; i++)
        assert_int_equal(look(&self).patience, EBB_WATCH_PATIENT);
    ebb_pulse_wait(false);
}

/* Looks by another thread, as they are made, as often as told; idle_ms: what the last tells. */
typedef struct looks {
    ebb_watch_self_t self;
    int n;
    uint32_t idle_ms;
} looks_t;

static void *look_from_aside(void *arg)
{
    looks_t *l = arg;
    ebb_watch_message_t beat = {0};
    for (int i = 0; i < l->n; i++) {
        struct timespec t = {0, 20000000};
        nanosleep(&t, NULL);
        now += SECOND;
        ebb_watch_self_look(&l->self, 0, now, LIMIT, &beat);
    }
    l->idle_ms = beat.idle_ms;
    return NULL;
}

/* What another thread's looks see of this one, which polls now and then, or is not woken. */
static uint32_t idle_while_waiting(bool polls)
{
    looks_t l = {.n = 20};
    pthread_t thread;
    int done = EBUSY;
    begin(&l.self, 1);
    ebb_pulse_wait(true);
    assert_int_equal(pthread_create(&thread, NULL, look_from_aside, &l), 0);
    while (polls && (done = pthread_tryjoin_np(thread, NULL)) == EBUSY) {
        struct timespec t = {0, 5000000};
        nanosleep(&t, NULL);
    }
    if (done == EBUSY)
        pthread_join(thread, NULL);
    ebb_pulse_wait(false);
    return l.idle_ms;
}

static void a_rank_that_looks_for_messages_is_awake_however_little_it_gets_of_a_processor(void **state)
{
    assert_in_range(idle_while_waiting(true), 0, 2000);
}

static void a_rank_whose_main_thread_is_not_woken_is_idle(void **state)
{
    assert_in_range(idle_while_waiting(false), 15000, 21000);
}

static _Atomic pid_t starter;

static bool starter_waits(void)
{
    char path[64], text[256] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)starter);
    FILE *in = fopen(path, "re");
    bool waits = in && fgets(text, sizeof text, in) && strstr(text, ") D");
    if (in)
        fclose(in);
    return waits;
}

/* A thread that starts a process waits for it to be another program as it would wait for a disk. */
static void *start_slowly(void *arg)
{
    char *const command[] = {"true", NULL};
    posix_spawn_file_actions_t actions;
    pid_t child;
    starter = gettid();
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, arg, O_RDONLY, 0); /* until somebody opens it for writing */
    int error = posix_spawnp(&child, "true", &actions, NULL, command, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error == 0)
        waitpid(child, NULL, 0);
    return NULL;
}

static void a_disk_that_was_waited_for_is_no_excuse_for_ever(void **state)
{
    char fifo[512], *folder = test_mkdir();
    ebb_watch_self_t self;
    pthread_t thread;
    snprintf(fifo, sizeof fifo, "%s/fifo", folder);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    begin(&self, 1);
    assert_int_equal(pthread_create(&thread, NULL, start_slowly, fifo), 0);
    while (!starter_waits())
        sched_yield();
    for (int i = 0; i < 30; i++)
        assert_int_equal(look(&self).patience, EBB_WATCH_PATIENT);
    int fd = open(fifo, O_WRONLY);
    pthread_join(thread, NULL);
    close(fd);
    for (int i = 0; i < 12; i++)
        look(&self);
    assert_int_equal(look(&self).patience, 1);
    test_rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rank_that_was_quick_and_now_only_burns_time_gets_no_more),
        cmocka_unit_test(steps_that_always_took_long_get_ten_times_as_long),
        cmocka_unit_test(what_is_done_once_may_take_its_time),
        cmocka_unit_test(waiting_for_others_may_take_its_time),
        cmocka_unit_test(a_rank_that_looks_for_messages_is_awake_however_little_it_gets_of_a_processor),
        cmocka_unit_test(a_rank_whose_main_thread_is_not_woken_is_idle),
        cmocka_unit_test(a_disk_that_was_waited_for_is_no_excuse_for_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
