/* The run record: what is set is in run.json, lines survive a crash and a resume, two runs do not share a folder. */
#include "support.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"
#include "report/internal.h"

#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

typedef struct fixture {
    char *dir, run[4096], lines[4200], json[4200];
} fixture_t;

static int setup(void **p)
{
    fixture_t *f = calloc(1, sizeof *f);
    f->dir = test_mkdir();
    snprintf(f->run, sizeof f->run, "%s/runs/first", f->dir);
    snprintf(f->lines, sizeof f->lines, "%s/metrics.jsonl", f->run);
    snprintf(f->json, sizeof f->json, "%s/run.json", f->run);
    *p = f;
    return 0;
}

static int teardown(void **p)
{
    fixture_t *f = *p;
    test_rmdir(f->dir);
    free(f);
    return 0;
}

static void assert_file(const char *path, const char *want)
{
    char *text;
    size_t n;
    assert_ok(ebb_file_read_all(path, &text, &n));
    assert_string_equal(text, want);
    ebb_free(text);
}

static const char *member(const json_t *json, const char *key)
{
    return json_string_value(json_object_get(json, key));
}

static void run_json_holds_what_was_set_and_how_it_ended(void **p)
{
    fixture_t *f = *p;
    ebb_record_t *r;
    ebb_comm_t *comm;
    json_t *json;
    char *argv[] = {"ebb", "train", "run.yaml"}, *text;
    assert_ok(ebb_comm_self(&comm));
    assert_ok(ebb_record_create(f->run, false, &r));
    assert_ok(ebb_record_start(r, comm, "a processor", 3, 3, argv));
    assert_ok(ebb_record_set_json(r, "config", "{\"lanes\":24}"));
    assert_ok(ebb_record_set_string(r, "data.train.hash", "abc"));
    assert_ok(ebb_record_set_i64(r, "data.train.rows", 1ll << 53 | 1));
    assert_ok(ebb_record_set_f64(r, "metrics.loss", 0.1));
    assert_ok(ebb_record_set_f64(r, "metrics.auc", NAN));
    assert_ok(ebb_record_append(r, "epochs", "{\"epoch\":0}"));
    assert_ok(ebb_record_append(r, "epochs", "{\"epoch\":1}"));
    assert_ok(ebb_record_write(r));
    assert_ok(ebb_json_load(f->json, &json));
    assert_string_equal(member(json, "outcome"), "running");
    assert_null(json_object_get(json, "ended"));
    json_decref(json);
    assert_ok(ebb_record_finish(r, EBB_OK));
    ebb_record_destroy(r);
    assert_ok(ebb_json_load(f->json, &json));
    assert_string_equal(member(json, "format"), "ebb-run");
    assert_string_equal(member(json, "name"), "first");
    assert_string_equal(member(json, "outcome"), "finished");
    assert_int_equal(strlen(member(json, "ended")), 20);
    json_t *train = json_object_get(json_object_get(json, "data"), "train");
    assert_true(json_integer_value(json_object_get(train, "rows")) == (1ll << 53 | 1));
    assert_true(json_is_null(json_object_get(json_object_get(json, "metrics"), "auc")));
    assert_int_equal(json_array_size(json_object_get(json, "epochs")), 2);
    assert_null(json_object_get(json, "energy"));
    json_t *entry = json_array_get(json_object_get(json, "starts"), 0);
    json_t *host = json_array_get(json_object_get(entry, "hosts"), 0);
    assert_string_equal(member(host, "device"), "a processor");
    assert_int_equal(json_integer_value(json_object_get(host, "threads")), 3);
    assert_string_equal(member(json_object_get(entry, "versions"), "ebb"), ebb_version());
    assert_string_equal(json_string_value(json_array_get(json_object_get(entry, "command"), 2)), "run.yaml");
    assert_string_equal(member(entry, "outcome"), "finished");
    json_decref(json);
    assert_ok(ebb_record_open(f->run, &r));
    text = ebb_record_get(r, "config.lanes");
    assert_string_equal(text, "24");
    free(text);
    assert_null(ebb_record_get(r, "config.nothing.here"));
    ebb_record_destroy(r);
    ebb_comm_destroy(comm);
}

static void a_failed_run_keeps_its_error(void **p)
{
    fixture_t *f = *p;
    ebb_record_t *r;
    json_t *json;
    assert_ok(ebb_record_create(f->run, false, &r));
    ebb_status_t failure = EBB_FAIL(EBB_EDATA, "shard \"x\" is bad");
    assert_ok(ebb_record_finish(r, failure));
    assert_string_equal(ebb_error()->message, "shard \"x\" is bad");
    ebb_error_clear();
    ebb_record_destroy(r);
    assert_ok(ebb_json_load(f->json, &json));
    assert_string_equal(member(json, "outcome"), "failed");
    assert_string_equal(member(json, "error"), "shard \"x\" is bad");
    json_decref(json);
    assert_ok(ebb_record_open(f->run, &r));
    assert_ok(ebb_record_finish(r, EBB_ESTOPPED));
    ebb_record_destroy(r);
    assert_ok(ebb_json_load(f->json, &json));
    assert_string_equal(member(json, "outcome"), "stopped");
    assert_null(member(json, "error"));
    json_decref(json);
}

static void line(ebb_record_t *r, int64_t step, double loss)
{
    ebb_record_line(r, "train");
    ebb_record_line_i64(r, "step", step);
    ebb_record_line_f64(r, "loss", loss);
    assert_ok(ebb_record_line_end(r));
}

static void lines_are_json_and_give_every_double_back(void **p)
{
    fixture_t *f = *p;
    ebb_record_t *r;
    json_t *json;
    const double value[] = {0.1, 1.0 / 3, 1e300, -5e-324, 123456789.0, -0.0};
    assert_ok(ebb_record_create(f->run, false, &r));
    for (size_t i = 0; i < sizeof value / sizeof *value; i++) {
        ebb_record_line(r, "say \"hi\"\\\n\x01");
        ebb_record_line_f64(r, "value", value[i]);
        ebb_record_line_f64(r, "none", INFINITY);
        assert_ok(ebb_record_line_end(r));
    }
    ebb_record_destroy(r);
    FILE *in = fopen(f->lines, "r");
    char text[400];
    for (size_t i = 0; i < sizeof value / sizeof *value; i++) {
        assert_non_null(fgets(text, sizeof text, in));
        assert_ok(ebb_json_parse(text, strlen(text), "line", &json));
        assert_string_equal(member(json, "kind"), "say \"hi\"\\\n\x01");
        assert_true(json_number_value(json_object_get(json, "value")) == value[i]);
        assert_true(json_is_null(json_object_get(json, "none")));
        json_decref(json);
    }
    assert_null(fgets(text, sizeof text, in));
    fclose(in);
}

static void resuming_drops_a_torn_line_and_lines_beyond_the_step(void **p)
{
    fixture_t *f = *p;
    ebb_record_t *r;
    assert_ok(ebb_record_create(f->run, false, &r));
    for (int step = 10; step <= 40; step += 10)
        line(r, step, 0.5);
    ebb_record_destroy(r);
    FILE *out = fopen(f->lines, "a");
    fputs("{\"kind\":\"train\",\"step\":5", out);
    fclose(out);
    assert_ok(ebb_record_open(f->run, &r));
    assert_ok(ebb_record_rewind(r, 20));
    line(r, 21, 0.25);
    ebb_record_destroy(r);
    assert_file(f->lines,
                "{\"kind\":\"train\",\"step\":10,\"loss\":0.5}\n{\"kind\":\"train\",\"step\":20,\"loss\":0.5}\n"
                "{\"kind\":\"train\",\"step\":21,\"loss\":0.25}\n");
    assert_ok(ebb_record_open(f->run, &r));
    assert_ok(ebb_record_rewind(r, 0));
    ebb_record_destroy(r);
    assert_file(f->lines, "");
}

static void line_of(ebb_record_t *r, const char *kind, int64_t step)
{
    ebb_record_line(r, kind);
    ebb_record_line_i64(r, "step", step);
    assert_ok(ebb_record_line_end(r));
}

static void lines_that_are_told_late_go_with_those_around_them(void **p)
{
    fixture_t *f = *p;
    ebb_record_t *r;
    assert_ok(ebb_record_create(f->run, false, &r));
    line_of(r, "step", 20);
    line_of(r, "step", 21);
    line_of(r, "checkpoint", 20);
    assert_ok(ebb_record_rewind(r, 20));
    ebb_record_destroy(r);
    assert_file(f->lines, "{\"kind\":\"step\",\"step\":20}\n");
}

static void a_long_file_is_looked_at_from_its_end_alone(void **p)
{
    fixture_t *f = *p;
    ebb_record_t *r;
    assert_ok(ebb_record_create(f->run, false, &r));
    ebb_record_destroy(r);
    FILE *out = fopen(f->lines, "a");
    fputs("what no one needs to read\n", out);
    fclose(out);
    assert_ok(ebb_record_open(f->run, &r)); /* torn, as far as it is the end */
    ebb_record_destroy(r);
    assert_file(f->lines, "");
    out = fopen(f->lines, "a");
    fputs("what no one needs to read\n{\"kind\":\"step\",\"step\":1}\n{\"kind\":\"step\",\"step\":2}\n\0\0", out);
    fwrite("\0\0\n\0", 1, 4, out);
    fclose(out);
    assert_ok(ebb_record_open(f->run, &r));
    assert_ok(ebb_record_rewind(r, 1));
    ebb_record_destroy(r);
    assert_file(f->lines, "what no one needs to read\n{\"kind\":\"step\",\"step\":1}\n");
}

/* Ten rows a second, from a clock that begins again at step 501; nothing waits. */
static void a_page_of_many_steps_takes_some_with_what_went_just_before_them(void **p)
{
    fixture_t *f = *p;
    ebb_record_t *r;
    ebb_report_t *report;
    int64_t before = ebb_report_lines_bytes;
    assert_ok(ebb_record_create(f->run, false, &r));
    for (int step = 1; step <= 1000; step++) {
        ebb_record_line(r, "step");
        ebb_record_line_i64(r, "step", step);
        ebb_record_line_f64(r, "seconds", step > 500 ? 2.0 * (step - 500) : step);
        ebb_record_line_f64(r, "rows_per_s", 10);
        ebb_record_line_f64(r, "stall_seconds", 0);
        assert_ok(ebb_record_line_end(r));
    }
    ebb_record_destroy(r);
    ebb_report_lines_bytes = ebb_file_size(f->lines) / 6;
    assert_ok(ebb_report_open(f->run, &report));
    ebb_report_lines_bytes = before;
    assert_int_equal(report->n_progress, 1000 / 7 + 2);
    for (int64_t i = 1; i < report->n_progress; i++) {
        const ebb_progress_point_t *at = &report->progress[i];
        assert_true(at->step == (i < report->n_progress - 1 ? 1 + 7 * (double)i : 1000));
        assert_true(isnan(at->rows_per_s) || fabs(at->rows_per_s - 10) < 1e-9);
        assert_true(isnan(at->rows_per_s) == (at->step == 1000));
    }
    ebb_report_close(report);
}

static void a_line_that_does_not_fit_leaves_whole_lines(void **p)
{
    fixture_t *f = *p;
    ebb_record_t *r;
    struct rlimit old, small;
    assert_ok(ebb_record_create(f->run, false, &r));
    line(r, 1, 0.5);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = (rlim_t)ebb_file_size(f->lines) + 10;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    ebb_record_line(r, "train");
    ebb_record_line_i64(r, "step", 2);
    ebb_status_t status = ebb_record_line_end(r);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(status, EBB_ENOSPC);
    ebb_error_clear();
    ebb_record_destroy(r);
    assert_file(f->lines, "{\"kind\":\"train\",\"step\":1,\"loss\":0.5}\n");
}

static void two_runs_in_one_folder_are_refused_until_the_first_has_died(void **p)
{
    fixture_t *f = *p;
    ebb_record_t *r;
    char byte, pid_text[64];
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        if (ebb_record_create(f->run, false, &r) == EBB_OK) {
            ebb_record_line(r, "step");
            if (ebb_record_line_end(r) == EBB_OK && write(ready[1], "x", 1) == 1)
                pause();
        }
        _exit(1);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    snprintf(pid_text, sizeof pid_text, "in use by process %d on ", (int)pid);
    assert_fails(ebb_record_create(f->run, false, &r), EBB_EUSAGE, pid_text);
    assert_fails(ebb_record_open(f->run, &r), EBB_EUSAGE, "another run.name");
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_fails(ebb_record_create(f->run, false, &r), EBB_EUSAGE, "--resume");
    assert_ok(ebb_record_open(f->run, &r));
    ebb_record_destroy(r);
    assert_ok(ebb_record_create(f->run, true, &r)); /* replaced, and so empty: nothing to lose from now on */
    ebb_record_destroy(r);
    assert_ok(ebb_record_create(f->run, false, &r));
    ebb_record_destroy(r);
    close(ready[0]);
    close(ready[1]);
}

static void foreign_and_missing_folders_are_named(void **p)
{
    fixture_t *f = *p;
    ebb_record_t *r;
    assert_fails(ebb_record_open(f->run, &r), EBB_ENOINPUT, "no run.json");
    assert_fails(ebb_record_create("", false, &r), EBB_EUSAGE, "folder of a run");
    assert_fails(ebb_record_create("/proc/none/x", false, &r), EBB_ENOINPUT, "/proc/none");
    assert_ok(ebb_file_mkdirs(f->run));
    assert_ok(ebb_file_replace(f->json, "{\"format\":\"other\",\"version\":1}", 30));
    assert_fails(ebb_record_open(f->run, &r), EBB_EDATA, "not the record of a run");
    assert_ok(ebb_file_replace(f->json, "{\"format\":\"ebb-", 15));
    assert_fails(ebb_record_open(f->run, &r), EBB_EDATA, "run.json:1");
}

static void without_a_record_nothing_happens(void **p)
{
    ebb_record_line(NULL, "train");
    ebb_record_line_i64(NULL, "a", 1);
    ebb_record_line_f64(NULL, "a", 1);
    ebb_record_line_string(NULL, "a", "b");
    assert_ok(ebb_record_line_end(NULL));
    assert_ok(ebb_record_set_i64(NULL, "a", 1));
    assert_ok(ebb_record_append(NULL, "a", "1"));
    assert_ok(ebb_record_rewind(NULL, 1));
    assert_ok(ebb_record_finish(NULL, EBB_OK));
    assert_null(ebb_record_folder(NULL));
    ebb_record_destroy(NULL);
}

static void lines_do_not_allocate_after_the_first(void **p)
{
    fixture_t *f = *p;
    ebb_record_t *r;
    assert_ok(ebb_record_create(f->run, false, &r));
    line(r, 1000000, 1.0 / 3);
    int64_t before = ebb_alloc_count();
    for (int i = 0; i < 100; i++)
        line(r, i, 1.0 / 3);
    assert_int_equal(ebb_alloc_count(), before);
    ebb_record_destroy(r);
}

static void a_run_that_cannot_finish_its_record_is_marked_as_failed(void **p)
{
    fixture_t *f = *p;
    ebb_record_t *r;
    char *text;
    size_t bytes;
    assert_ok(ebb_record_create(f->run, false, &r));
    assert_ok(ebb_record_fail(f->run, "rank 2 on node7 does not answer"));
    assert_ok(ebb_file_read_all(f->json, &text, &bytes));
    assert_non_null(strstr(text, "\"failed\""));
    assert_non_null(strstr(text, "\"rank 2 on node7 does not answer\""));
    assert_non_null(strstr(text, "\"ended\""));
    ebb_free(text);
    assert_ok(ebb_record_finish(r, EBB_OK));
    assert_ok(ebb_record_fail(f->run, "too late"));
    assert_ok(ebb_file_read_all(f->json, &text, &bytes));
    assert_null(strstr(text, "too late"));
    ebb_free(text);
    ebb_record_destroy(r);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(run_json_holds_what_was_set_and_how_it_ended),
        TEST(a_failed_run_keeps_its_error),
        TEST(lines_are_json_and_give_every_double_back),
        TEST(resuming_drops_a_torn_line_and_lines_beyond_the_step),
        TEST(lines_that_are_told_late_go_with_those_around_them),
        TEST(a_long_file_is_looked_at_from_its_end_alone),
        TEST(a_page_of_many_steps_takes_some_with_what_went_just_before_them),
        TEST(a_line_that_does_not_fit_leaves_whole_lines),
        TEST(two_runs_in_one_folder_are_refused_until_the_first_has_died),
        TEST(a_run_that_cannot_finish_its_record_is_marked_as_failed),
        TEST(foreign_and_missing_folders_are_named),
        TEST(without_a_record_nothing_happens),
        TEST(lines_do_not_allocate_after_the_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
