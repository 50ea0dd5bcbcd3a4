/* The watchdog's messages and judgement, without clocks and sockets. */
#include "support.h"
#include "watch/judge.h"

#include <string.h>

#define SECOND ((int64_t)1000000000)
#define LIMIT  (10 * SECOND)
#define NOW    (1000 * SECOND)

enum { RANKS = 4 };

static void all_well(ebb_watch_peer_t peer[RANKS])
{
    memset(peer, 0, RANKS * sizeof *peer);
    for (int r = 0; r < RANKS; r++)
        peer[r] = (ebb_watch_peer_t){.heard_ns = NOW - SECOND, .step = 812, .stage = "computing gradients"};
}

static ebb_watch_cause_t judge(const ebb_watch_peer_t peer[RANKS], int *rank_p)
{
    return ebb_watch_judge(peer, RANKS, NOW, LIMIT, rank_p);
}

static void a_message_comes_back_as_it_was(void **state)
{
    const ebb_watch_message_t m = {.type = EBB_WATCH_BEAT,
                                   .rank = 3,
                                   .cause = EBB_WATCH_STUCK,
                                   .waiting = true,
                                   .steady = true,
                                   .patience = 17,
                                   .step = INT64_MAX - 5,
                                   .idle_ms = 12345,
                                   .still_ms = UINT32_MAX,
                                   .text = "writing a checkpoint"};
    uint8_t bytes[EBB_WATCH_MESSAGE];
    ebb_watch_message_t got;
    ebb_watch_pack(&m, bytes);
    assert_true(ebb_watch_unpack(bytes, RANKS, &got));
    assert_int_equal(got.type, m.type);
    assert_int_equal(got.rank, 3);
    assert_int_equal(got.cause, m.cause);
    assert_true(got.waiting && got.steady && got.patience == 17);
    assert_true(got.step == m.step && got.idle_ms == m.idle_ms && got.still_ms == m.still_ms);
    assert_string_equal(got.text, m.text);
}

static void what_is_no_message_of_this_job_is_refused(void **state)
{
    const ebb_watch_message_t m = {.type = EBB_WATCH_BEAT, .rank = 3, .text = "evaluating"};
    uint8_t bytes[EBB_WATCH_MESSAGE];
    ebb_watch_message_t got;
    ebb_watch_pack(&m, bytes);
    assert_false(ebb_watch_unpack(bytes, 3, &got)); /* no such rank */
    const struct {
        int at, value;
    } wrong[] = {{0, 'x'}, {4, 0}, {4, 9}, {5, 1}, {11, 0x80}, {12, 77}, {32, '\n'}, {33, 0x1b}, {34, 0xff}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        ebb_watch_pack(&m, bytes);
        bytes[wrong[i].at] = (uint8_t)wrong[i].value;
        assert_false(ebb_watch_unpack(bytes, RANKS, &got));
    }
    ebb_watch_pack(&m, bytes);
    memset(bytes + 32, 'a', EBB_WATCH_TEXT); /* without an end */
    assert_false(ebb_watch_unpack(bytes, RANKS, &got));
}

static void healthy_ranks_are_left_alone(void **state)
{
    ebb_watch_peer_t peer[RANKS];
    int rank;
    all_well(peer);
    assert_int_equal(judge(peer, &rank), EBB_WATCH_FINE);
    peer[1].waiting = peer[2].waiting = true;
    peer[1].idle_ms = peer[2].idle_ms = 200000; /* for the others, which work */
    peer[1].still_ms = peer[2].still_ms = 200000;
    assert_int_equal(judge(peer, &rank), EBB_WATCH_FINE);
    peer[0].still_ms = 200000; /* long in one call, but busy */
    assert_int_equal(judge(peer, &rank), EBB_WATCH_FINE);
    peer[3].lost = peer[3].left = true; /* in order */
    assert_int_equal(judge(peer, &rank), EBB_WATCH_FINE);
}

static void a_lost_rank_comes_before_a_silent_and_that_before_a_stuck_one(void **state)
{
    ebb_watch_peer_t peer[RANKS];
    int rank;
    all_well(peer);
    peer[0].waiting = true;
    peer[1].idle_ms = peer[1].still_ms = 10000;
    assert_int_equal(judge(peer, &rank), EBB_WATCH_STUCK);
    assert_int_equal(rank, 1);
    peer[2].heard_ns = NOW - LIMIT;
    assert_int_equal(judge(peer, &rank), EBB_WATCH_SILENT);
    assert_int_equal(rank, 2);
    peer[3].lost = true;
    assert_int_equal(judge(peer, &rank), EBB_WATCH_LOST);
    assert_int_equal(rank, 3);
}

static void a_rank_is_stuck_only_while_another_waits(void **state)
{
    ebb_watch_peer_t peer[RANKS];
    int rank;
    all_well(peer);
    peer[2].idle_ms = peer[2].still_ms = 60000;
    assert_int_equal(judge(peer, &rank), EBB_WATCH_FINE);
    peer[0].waiting = true;
    assert_int_equal(judge(peer, &rank), EBB_WATCH_STUCK);
    assert_int_equal(rank, 2);
    peer[2].idle_ms = 9999;
    assert_int_equal(judge(peer, &rank), EBB_WATCH_FINE);
    peer[2].still_ms = EBB_WATCH_PATIENT * 10000; /* busy, but for too long */
    assert_int_equal(judge(peer, &rank), EBB_WATCH_STUCK);
}

static void a_busy_rank_has_as_many_times_the_limit_as_it_learnt(void **state)
{
    ebb_watch_peer_t peer[RANKS];
    int rank;
    all_well(peer);
    peer[0].waiting = true;
    for (int times = 1; times <= 3; times++) {
        peer[2].patience = times;
        peer[2].still_ms = (uint32_t)times * 10000 - 1;
        assert_int_equal(judge(peer, &rank), EBB_WATCH_FINE);
        peer[2].still_ms++;
        assert_int_equal(judge(peer, &rank), EBB_WATCH_STUCK);
        assert_int_equal(rank, 2);
    }
}

static void the_only_rank_is_stalled_when_a_step_does_not_end(void **state)
{
    ebb_watch_peer_t peer = {.heard_ns = NOW, .steady = true, .patience = 2, .still_ms = 19999};
    char line[400];
    int rank;
    assert_int_equal(ebb_watch_judge(&peer, 1, NOW, LIMIT, &rank), EBB_WATCH_FINE);
    peer.still_ms = 20000;
    assert_int_equal(ebb_watch_judge(&peer, 1, NOW, LIMIT, &rank), EBB_WATCH_STALLED);
    assert_int_equal(rank, 0);
    ebb_watch_sentence(EBB_WATCH_STALLED, 0, "node7", &peer, 10, line, sizeof line);
    assert_non_null(strstr(line, "rank 0 on node7 is stuck: no progress for 10 s or more"));
    peer.steady = false; /* it evaluates, or opens its data */
    assert_int_equal(ebb_watch_judge(&peer, 1, NOW, LIMIT, &rank), EBB_WATCH_FINE);
}

static void the_only_rank_is_stalled_when_it_does_nothing_whatever_it_is_about(void **state)
{
    ebb_watch_peer_t peer = {.heard_ns = NOW, .patience = EBB_WATCH_PATIENT, .still_ms = 10000, .idle_ms = 9999};
    int rank;
    for (int steady = 0; steady < 2; steady++) {
        peer.steady = steady;
        peer.idle_ms = 9999; /* busy, or waiting for a disk, a moment ago */
        assert_int_equal(ebb_watch_judge(&peer, 1, NOW, LIMIT, &rank), EBB_WATCH_FINE);
        peer.idle_ms = 10000;
        assert_int_equal(ebb_watch_judge(&peer, 1, NOW, LIMIT, &rank), EBB_WATCH_STALLED);
        assert_int_equal(rank, 0);
    }
}

static void ranks_that_all_wait_for_one_another_are_ended_late(void **state)
{
    ebb_watch_peer_t peer[RANKS];
    int rank;
    all_well(peer);
    for (int r = 0; r < RANKS; r++) {
        peer[r].waiting = true;
        peer[r].idle_ms = peer[r].still_ms = EBB_WATCH_PATIENT * 10000 - 1;
    }
    peer[2].step = 811;
    assert_int_equal(judge(peer, &rank), EBB_WATCH_FINE);
    for (int r = 0; r < RANKS; r++)
        peer[r].still_ms++;
    assert_int_equal(judge(peer, &rank), EBB_WATCH_DEADLOCK);
    assert_int_equal(rank, 2);
}

static void a_sleeper_among_pollers_hangs_in_its_call(void **state)
{
    ebb_watch_peer_t peer[RANKS];
    int rank;
    all_well(peer);
    for (int r = 0; r < RANKS; r++) {
        peer[r].waiting = true;
        peer[r].still_ms = 10000;
    }
    assert_int_equal(judge(peer, &rank), EBB_WATCH_FINE); /* a long exchange */
    peer[2].idle_ms = 10000;
    assert_int_equal(judge(peer, &rank), EBB_WATCH_STUCK);
    assert_int_equal(rank, 2);
    peer[1].waiting = false; /* the others wait for this one, which works */
    peer[1].still_ms = 10;
    assert_int_equal(judge(peer, &rank), EBB_WATCH_FINE);
    peer[1].waiting = true;
    peer[1].still_ms = 10000;
    for (int r = 0; r < RANKS; r++)
        peer[r].idle_ms = 10000; /* a library that sleeps while it waits */
    assert_int_equal(judge(peer, &rank), EBB_WATCH_FINE);
}

static void the_line_names_rank_host_step_and_stage(void **state)
{
    ebb_watch_peer_t peer = {.step = 812, .stage = "exchanging gradients"};
    char line[400], small[20];
    int n = ebb_watch_sentence(EBB_WATCH_LOST, 3, "node7", &peer, 10, line, sizeof line);
    assert_string_equal(line, "rank 3 on node7 does not answer: killed, or its host is lost; last seen at "
                              "step 812, exchanging gradients");
    assert_int_equal(n, (int)strlen(line));
    assert_int_equal(ebb_watch_sentence(EBB_WATCH_STUCK, 3, "node7", &peer, 10, small, sizeof small), 19);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_message_comes_back_as_it_was),
        cmocka_unit_test(what_is_no_message_of_this_job_is_refused),
        cmocka_unit_test(healthy_ranks_are_left_alone),
        cmocka_unit_test(a_lost_rank_comes_before_a_silent_and_that_before_a_stuck_one),
        cmocka_unit_test(a_rank_is_stuck_only_while_another_waits),
        cmocka_unit_test(a_busy_rank_has_as_many_times_the_limit_as_it_learnt),
        cmocka_unit_test(the_only_rank_is_stalled_when_a_step_does_not_end),
        cmocka_unit_test(the_only_rank_is_stalled_when_it_does_nothing_whatever_it_is_about),
        cmocka_unit_test(ranks_that_all_wait_for_one_another_are_ended_late),
        cmocka_unit_test(a_sleeper_among_pollers_hangs_in_its_call),
        cmocka_unit_test(the_line_names_rank_host_step_and_stage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
