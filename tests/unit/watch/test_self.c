/* What a rank tells of itself, on a clock that the test turns. */
#include "support.h"
#include "base/pulse.h"
#include "watch/self.h"

#include <time.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rank_that_was_quick_and_now_only_burns_time_gets_no_more),
        cmocka_unit_test(steps_that_always_took_long_get_ten_times_as_long),
        cmocka_unit_test(what_is_done_once_may_take_its_time),
        cmocka_unit_test(waiting_for_others_may_take_its_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
