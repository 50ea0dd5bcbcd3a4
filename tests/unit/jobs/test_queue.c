/* The queue: jobs come back as they were entered, moves happen once, time is accounted for, transactions are whole. */
#include "support.h"
#include "base/clock.h"

#include <ebb/jobs.h>

#include <signal.h>
#include <sys/wait.h>

static char *words[] = {"sh", "-c", "echo \"a b\" >\xc3\xa4", NULL};
static char *environment[] = {"A=1", "B=x y", "BAD=\xff", NULL};

static ebb_queue_spec_t plain(const char *name)
{
    return (ebb_queue_spec_t){
        .name = name, .word = words, .folder = "/tmp", .ranks = 1, .least_ranks = 1, .most_ranks = 1, .cpus = 1};
}

static int setup(void **state)
{
    *state = test_mkdir();
    return 0;
}

static int teardown(void **state)
{
    test_rmdir(*state);
    return 0;
}

static ebb_queue_t *fresh(void **state)
{
    ebb_queue_t *q;
    char path[4200];
    snprintf(path, sizeof path, "%s/state", (const char *)*state);
    assert_ok(ebb_queue_open(path, &q));
    return q;
}

static int64_t submit(ebb_queue_t *q, const ebb_queue_spec_t *spec)
{
    int64_t id;
    assert_ok(ebb_queue_submit(q, spec, NULL, &id));
    return id;
}

static ebb_queue_state_t state_of(ebb_queue_t *q, int64_t id)
{
    ebb_queue_job_t job = {0};
    assert_ok(ebb_queue_get(q, id, &job));
    ebb_queue_state_t s = job.state;
    ebb_queue_job_free(&job);
    return s;
}

static bool move(ebb_queue_t *q, int64_t id, unsigned from, ebb_queue_state_t to)
{
    bool moved;
    assert_ok(ebb_queue_move(q, &(ebb_queue_change_t){.id = id, .from = from, .to = to, .reason = "test"}, &moved));
    return moved;
}

static void a_job_comes_back_as_it_was_entered(void **state)
{
    ebb_queue_t *q = fresh(state);
    ebb_queue_job_t job = {0};
    int64_t first =
                submit(q,
                       &(ebb_queue_spec_t){
                           .name = "a", .word = words, .folder = "/", .ranks = 1, .least_ranks = 1, .most_ranks = 1}),
            after[] = {first};
    ebb_queue_spec_t s = {.name = "nacht \xc3\xa4",
                          .run = true,
                          .word = words,
                          .folder = "/tmp/x",
                          .run_folder = "/tmp/x/runs/a",
                          .environment = environment,
                          .policy = EBB_PLAN_ELASTIC,
                          .pause = EBB_PAUSE_CHECKPOINT,
                          .ranks = 4,
                          .least_ranks = 1,
                          .most_ranks = 8,
                          .cpus = 2,
                          .gpus = 1,
                          .deadline = 1e9 + 0.5,
                          .max_wait_s = 60,
                          .after = after,
                          .n_after = 1,
                          .hours = 2.25,
                          .power_w = 900,
                          .restart_s = 30,
                          .pue = 1.2,
                          .profile = "/p.json",
                          .rerun = true};
    int64_t id = submit(q, &s);
    assert_int_equal(id, first + 1);
    assert_ok(ebb_queue_find(q, "nacht \xc3\xa4", &job));
    const ebb_queue_spec_t *b = &job.spec;
    assert_int_equal(job.id, id);
    assert_string_equal(b->word[2], words[2]);
    assert_null(b->word[3]);
    assert_string_equal(b->environment[1], "B=x y");
    assert_null(b->environment[2]); /* what is not UTF-8 is left out */
    assert_string_equal(b->folder, "/tmp/x");
    assert_string_equal(b->run_folder, "/tmp/x/runs/a");
    assert_string_equal(b->profile, "/p.json");
    assert_true(b->run && b->rerun && b->policy == EBB_PLAN_ELASTIC && b->pause == EBB_PAUSE_CHECKPOINT);
    assert_true(b->ranks == 4 && b->least_ranks == 1 && b->most_ranks == 8 && b->cpus == 2 && b->gpus == 1);
    assert_true(b->deadline == s.deadline && b->max_wait_s == 60 && b->hours == 2.25 && b->power_w == 900);
    assert_true(b->restart_s == 30 && b->pue == 1.2 && b->n_after == 1 && b->after[0] == first);
    assert_true(job.state == EBB_QUEUED && job.ranks == 4 && !job.slurm[0] && job.submitted > 1e9);
    ebb_queue_job_free(&job);
    ebb_queue_close(q);
}

static void what_cannot_be_is_refused_and_not_entered(void **state)
{
    ebb_queue_t *q = fresh(state);
    ebb_queue_list_t list = {0};
    int64_t id, none = 99;
    ebb_queue_spec_t bad[6];
    for (int i = 0; i < 6; i++)
        bad[i] = plain("x");
    bad[0].after = &none;
    bad[0].n_after = 1;
    bad[1].ranks = 0;
    bad[2].policy = EBB_PLAN_ELASTIC;
    bad[3].policy = EBB_PLAN_PAUSE;
    bad[4].name = "a/b";
    bad[5].pue = 0.5;
    static const char *const why[] = {"does not exist",   "ranks", "cannot be resized",
                                      "cannot be paused", "slash", "usage"};
    for (int i = 0; i < 6; i++)
        assert_fails(ebb_queue_submit(q, &bad[i], NULL, &id), EBB_EINVAL, why[i]);
    assert_ok(ebb_queue_read(q, EBB_QUEUE_ANY, &list));
    assert_int_equal(list.n, 0);
    ebb_queue_close(q);
}

static void of_two_moves_one_happens(void **state)
{
    ebb_queue_t *q = fresh(state), *other;
    ebb_queue_spec_t s = plain("x");
    int64_t id = submit(q, &s), version = ebb_queue_version(q);
    assert_ok(ebb_queue_open(ebb_queue_path(q), &other));
    assert_true(move(other, id, EBB_QUEUE_BIT(EBB_QUEUED), EBB_STARTING));
    assert_false(move(q, id, EBB_QUEUE_BIT(EBB_QUEUED), EBB_CANCELLED));
    assert_int_equal(state_of(q, id), EBB_STARTING);
    assert_int_not_equal(ebb_queue_version(q), version);
    assert_true(move(q, id, 0, EBB_CANCELLED));
    assert_false(move(other, id, 0, EBB_QUEUED)); /* what is over stays over */
    ebb_queue_close(other);
    ebb_queue_close(q);
}

static void time_and_history_are_kept(void **state)
{
    ebb_queue_t *q = fresh(state);
    ebb_queue_spec_t s = plain("x");
    ebb_queue_job_t job = {0};
    ebb_queue_event_t *event;
    int64_t id = submit(q, &s), n;
    static const ebb_queue_state_t way[] = {EBB_STARTING, EBB_RUNNING, EBB_PAUSING, EBB_PAUSED,
                                            EBB_STARTING, EBB_RUNNING, EBB_DONE};
    for (size_t i = 0; i < sizeof way / sizeof *way; i++) {
        assert_true(move(q, id, 0, way[i]));
        usleep(10000);
    }
    assert_ok(ebb_queue_get(q, id, &job));
    assert_true(job.pauses == 1 && job.running_since == 0 && job.begun > job.submitted && job.ended > job.begun);
    assert_true(job.running_s >= 0.03 && job.running_s < job.ended - job.begun);
    assert_ok(ebb_queue_history(q, id, &event, &n));
    assert_int_equal(n, 8);
    for (int64_t i = 1; i < n; i++) {
        assert_int_equal(event[i].to, way[i - 1]);
        assert_true(event[i].time >= event[i - 1].time);
    }
    free(event);
    ebb_queue_job_free(&job);
    ebb_queue_close(q);
}

static void a_resize_splits_the_stretch(void **state)
{
    ebb_queue_t *q = fresh(state);
    ebb_queue_spec_t s = plain("x");
    ebb_queue_job_t job = {0};
    int64_t id = submit(q, &s);
    move(q, id, 0, EBB_RUNNING);
    usleep(20000);
    assert_ok(ebb_queue_resized(q, id, 3, 0.25, "more"));
    assert_ok(ebb_queue_get(q, id, &job));
    assert_true(job.ranks == 3 && job.done == 0.25 && job.resizes == 1 && job.running_s >= 0.02);
    assert_true(job.running_since >= job.begun + 0.02 && job.state == EBB_RUNNING);
    ebb_queue_job_free(&job);
    ebb_queue_close(q);
}

/* Four processes enter and move at once, one of them is killed in the middle: every job is there in whole. */
static void many_write_at_once_and_one_is_killed(void **state)
{
    ebb_queue_t *q = fresh(state);
    ebb_queue_list_t list = {0};
    pid_t child[4];
    for (int c = 0; c < 4; c++) {
        child[c] = fork();
        if (child[c] == 0) {
            ebb_queue_t *own;
            ebb_queue_spec_t s = plain("x");
            int64_t id;
            if (ebb_queue_open(ebb_queue_path(q), &own) != EBB_OK)
                _exit(1);
            for (int i = 0; i < (c == 0 ? 1000000 : 25); i++)
                if (ebb_queue_submit(own, &s, NULL, &id) != EBB_OK ||
                    ebb_queue_move(own, &(ebb_queue_change_t){.id = id, .to = EBB_HELD}, NULL) != EBB_OK)
                    _exit(1);
            _exit(0);
        }
    }
    int status, good = 0;
    for (int c = 1; c < 4; c++)
        good += waitpid(child[c], &status, 0) == child[c] && status == 0;
    kill(child[0], SIGKILL);
    waitpid(child[0], &status, 0);
    assert_int_equal(good, 3);
    assert_ok(ebb_queue_read(q, EBB_QUEUE_ANY, &list));
    assert_true(list.n >= 75);
    for (int64_t i = 0; i < list.n; i++)
        assert_int_equal(list.job[i].id, i + 1);
    ebb_queue_list_free(&list);
    ebb_queue_close(q);
}

static void values_are_kept_and_nobody_else_reads_the_queue(void **state)
{
    ebb_queue_t *q = fresh(state);
    double value[2] = {1.5, 2.5}, back[2] = {0};
    size_t bytes;
    char path[4200];
    struct stat st;
    assert_ok(ebb_queue_recall(q, "track DE", back, sizeof back, &bytes));
    assert_int_equal(bytes, 0);
    assert_ok(ebb_queue_keep(q, "track DE", value, sizeof value));
    assert_ok(ebb_queue_recall(q, "track DE", back, sizeof back, &bytes));
    assert_true(bytes == sizeof back && back[1] == 2.5);
    snprintf(path, sizeof path, "%s/queue.db", ebb_queue_path(q));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 077, 0);
    ebb_queue_close(q);
}

static void estimates_come_from_a_profile_else_from_what_is_said(void **state)
{
    char path[4200];
    ebb_queue_estimate_t e;
    ebb_queue_spec_t s = plain("x");
    assert_ok(ebb_queue_estimate(&s, &e));
    assert_true(e.guessed && !e.measured && e.n == 1 && e.size[0].power_w == 150 && e.work == 3600);
    ebb_queue_estimate_free(&e);
    s = (ebb_queue_spec_t){.name = "y",
                           .policy = EBB_PLAN_ELASTIC,
                           .run = true,
                           .ranks = 2,
                           .least_ranks = 1,
                           .most_ranks = 4,
                           .hours = 3,
                           .power_w = 400};
    assert_ok(ebb_queue_estimate(&s, &e));
    assert_true(!e.guessed && e.n == 4 && e.base == 1 && e.size[1].power_w == 400);
    assert_float_equal(e.work, 3 * 3600 * 1.9, 1e-6);
    for (int i = 1; i < 4; i++)
        assert_true(e.size[i].rate > e.size[i - 1].rate && e.size[i].power_w > e.size[i - 1].power_w);
    ebb_queue_estimate_free(&e);
    snprintf(path, sizeof path, "%s/profile.json", (const char *)*state);
    FILE *f = fopen(path, "w");
    fputs("{\"key\": \"k\", \"rows\": 36000, \"sizes\": [{\"ranks\": 4, \"rows_per_s\": 30, \"watts\": 700},"
          " {\"ranks\": 2, \"rows_per_s\": 20, \"watts\": 500}, {\"ranks\": 9, \"rows_per_s\": 1, \"watts\": 1}]}",
          f);
    fclose(f);
    s.profile = path;
    assert_ok(ebb_queue_estimate(&s, &e));
    assert_true(e.measured && e.n == 2 && e.base == 0 && e.size[1].rate == 30 && e.work == 3 * 3600 * 20);
    ebb_queue_estimate_free(&e);
    s.hours = 0;
    assert_ok(ebb_queue_estimate(&s, &e));
    assert_true(e.work == 36000 && !e.guessed);
    ebb_queue_estimate_free(&e);
}

static void jobs_that_are_long_over_are_forgotten_but_not_those_that_others_wait_for(void **state)
{
    ebb_queue_t *q;
    ebb_queue_job_t job = {0};
    ebb_queue_event_t *event;
    char path[4200];
    int64_t old, wanted, waiting, live, again, n, events;
    ebb_queue_spec_t s = plain("x");
    assert_ok(ebb_queue_open(*state, &q));
    assert_ok(ebb_queue_submit(q, &s, NULL, &live));
    assert_ok(ebb_queue_submit(q, &s, NULL, &wanted));
    ebb_queue_spec_t after = plain("y");
    after.after = &wanted;
    after.n_after = 1;
    assert_ok(ebb_queue_submit(q, &after, NULL, &waiting));
    assert_ok(ebb_queue_submit(q, &s, NULL, &old));
    assert_ok(ebb_queue_move(q, &(ebb_queue_change_t){.id = wanted, .to = EBB_DONE}, NULL));
    assert_ok(ebb_queue_move(q, &(ebb_queue_change_t){.id = old, .to = EBB_FAILED}, NULL));
    snprintf(path, sizeof path, "%s/jobs", ebb_queue_path(q));
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/jobs/%lld", ebb_queue_path(q), (long long)old);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_ok(ebb_queue_get(q, old, &job));
    double ended = job.ended;
    ebb_queue_job_free(&job);
    assert_ok(ebb_queue_prune(q, ended - 1, &n));
    assert_int_equal(n, 0);
    assert_ok(ebb_queue_prune(q, ended + 10, &n));
    assert_int_equal(n, 1);
    assert_fails(ebb_queue_get(q, old, &job), EBB_ENOINPUT, "");
    assert_ok(ebb_queue_history(q, old, &event, &events));
    assert_int_equal(events, 0);
    assert_int_equal(access(path, F_OK), -1);
    assert_ok(ebb_queue_get(q, wanted, &job));
    ebb_queue_job_free(&job);
    assert_ok(ebb_queue_submit(q, &s, NULL, &again));
    assert_true(again > old);
    assert_ok(ebb_queue_move(q, &(ebb_queue_change_t){.id = waiting, .to = EBB_CANCELLED}, NULL));
    assert_ok(ebb_queue_prune(q, ended + 100, &n));
    assert_int_equal(n, 2);
    free(event);
    ebb_queue_close(q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(jobs_that_are_long_over_are_forgotten_but_not_those_that_others_wait_for, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_job_comes_back_as_it_was_entered, setup, teardown),
        cmocka_unit_test_setup_teardown(what_cannot_be_is_refused_and_not_entered, setup, teardown),
        cmocka_unit_test_setup_teardown(of_two_moves_one_happens, setup, teardown),
        cmocka_unit_test_setup_teardown(time_and_history_are_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(a_resize_splits_the_stretch, setup, teardown),
        cmocka_unit_test_setup_teardown(many_write_at_once_and_one_is_killed, setup, teardown),
        cmocka_unit_test_setup_teardown(values_are_kept_and_nobody_else_reads_the_queue, setup, teardown),
        cmocka_unit_test_setup_teardown(estimates_come_from_a_profile_else_from_what_is_said, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
