/* Books: rows chained by hashes, sums that never take what is not known for clean, joules of replayed counters, and
 * sources that hang. */
#include "support.h"
#include "base/pulse.h"

#include <arpa/inet.h>
#include <ebb/ledger.h>
#include <math.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sqlite3.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

static char *folder, path[512];

static int setup(void **state)
{
    folder = test_mkdir();
    snprintf(path, sizeof path, "%s/ledger.db", folder);
    return 0;
}

static int teardown(void **state)
{
    test_rmdir(folder);
    return 0;
}

static void assert_near(double got, double want)
{
    if (!(fabs(got - want) <= 1e-12 * fabs(want) + 1e-12))
        fail_msg("%.17g, wanted %.17g", got, want);
}

/* An hour of work from `hour` on, at 100 W of 150 that the host draws. */
static ebb_ledger_row_t work(const char *host, double hour, double intensity)
{
    ebb_ledger_row_t r = {.ranks = 4,
                          .begin = 3600 * hour,
                          .end = 3600 * (hour + 1),
                          .seconds = 3600,
                          .node_j = 5.4e5,
                          .job_j = 3.6e5,
                          .idle_j = 1.8e5,
                          .job_low_j = 3e5,
                          .job_high_j = 4e5,
                          .intensity = intensity,
                          .rung = isnan(intensity) ? EBB_CARBON_NOTHING : EBB_CARBON_LIVE,
                          .signal = EBB_CARBON_AVERAGE,
                          .scope = EBB_CARBON_DIRECT,
                          .pue = 1.5,
                          .embodied_g = NAN};
    snprintf(r.host, sizeof r.host, "%s", host);
    snprintf(r.meter, sizeof r.meter, "measured: package-0");
    return r;
}

static ebb_ledger_row_t grid(double hour, double intensity)
{
    ebb_ledger_row_t r = work("", hour, intensity);
    r.ranks = 0;
    r.seconds = r.node_j = r.job_j = r.idle_j = r.job_low_j = r.job_high_j = 0;
    return r;
}

static void append(ebb_ledger_row_t *rows, int64_t n)
{
    ebb_ledger_t *l;
    assert_ok(ebb_ledger_open(path, &l));
    assert_ok(ebb_ledger_append(l, rows, n));
    ebb_ledger_close(l);
}

static void execute(const char *sql)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

static void rows_come_back_as_they_went_in_and_a_second_opening_goes_on(void **state)
{
    ebb_ledger_row_t in[3] = {work("a", 0, 123.456789012345678), work("b", 1, NAN), grid(2, 1.0 / 3)}, *out;
    int64_t n;
    snprintf(in[0].source, sizeof in[0].source, "two\nlines=\xff");
    append(in, 2);
    append(in + 2, 1);
    assert_ok(ebb_ledger_read(path, &out, &n));
    assert_int_equal(n, 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(out[i].seq, i + 1);
        assert_string_equal(out[i].host, in[i].host);
        assert_string_equal(out[i].hash, in[i].hash);
        assert_true(out[i].begin == in[i].begin && out[i].job_j == in[i].job_j);
    }
    assert_true(out[0].intensity == in[0].intensity && isnan(out[1].intensity));
    assert_string_equal(out[0].source, "two?lines=?");
    ebb_ledger_free(out);
    assert_fails(ebb_ledger_read("/nowhere/ledger.db", &out, &n), EBB_ENOINPUT, "no ledger");
}

static void every_change_of_a_row_and_every_hole_is_found(void **state)
{
    static const char *const changes[] = {
        "UPDATE interval SET job_j = job_j * 0.999999 WHERE seq = 2",
        "UPDATE interval SET intensity = 0 WHERE seq = 1",
        "UPDATE interval SET intensity = NULL WHERE seq = 3",
        "UPDATE interval SET host = 'c' WHERE seq = 2",
        "UPDATE interval SET signal = 'marginal' WHERE seq = 2",
        "UPDATE interval SET hash = (SELECT hash FROM interval WHERE seq = 1) WHERE seq = 3",
        "DELETE FROM interval WHERE seq = 2",
        "DELETE FROM interval WHERE seq = 1",
        "DELETE FROM interval WHERE seq = 2; UPDATE interval SET seq = 2 WHERE seq = 3",
    };
    for (size_t k = 0; k < sizeof changes / sizeof *changes; k++) {
        ebb_ledger_row_t in[3] = {work("a", 0, 100), work("a", 1, 200), work("b", 2, 300)}, *out;
        int64_t n;
        append(in, 3);
        assert_ok(ebb_ledger_read(path, &out, &n));
        ebb_ledger_free(out);
        execute(changes[k]);
        assert_fails(ebb_ledger_read(path, &out, &n), EBB_ECORRUPT, "row");
        assert_null(out);
        unlink(path);
    }
}

static void two_hosts_append_at_once_and_the_chain_holds(void **state)
{
    ebb_ledger_row_t *out;
    int64_t n;
    pid_t pid[2];
    for (int p = 0; p < 2; p++) {
        pid[p] = fork();
        for (int i = 0; pid[p] == 0 && i < 20; i++) {
            ebb_ledger_t *l;
            ebb_ledger_row_t row = work(p == 0 ? "a" : "b", i, 100);
            if (ebb_ledger_open(path, &l) != EBB_OK || ebb_ledger_append(l, &row, 1) != EBB_OK)
                _exit(1);
            ebb_ledger_close(l);
        }
        if (pid[p] == 0)
            _exit(0);
    }
    for (int p = 0; p < 2; p++) {
        int status;
        waitpid(pid[p], &status, 0);
        assert_int_equal(status, 0);
    }
    assert_ok(ebb_ledger_read(path, &out, &n));
    assert_int_equal(n, 40);
    ebb_ledger_free(out);
}

static void *hold_the_file(void *arg)
{
    const struct timespec pause = {.tv_nsec = 100000000};
    sqlite3 *db = arg;
    nanosleep(&pause, NULL);
    return sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) == SQLITE_OK ? db : NULL;
}

static void waiting_for_another_hosts_transaction_is_no_standstill(void **state)
{
    ebb_ledger_row_t rows[] = {work("node1", 0, 100), work("node1", 1, 100)};
    sqlite3 *other;
    pthread_t thread;
    void *released;
    append(rows, 1);
    assert_int_equal(sqlite3_open(path, &other), SQLITE_OK);
    assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    uint64_t before = ebb_pulse().ticks;
    assert_int_equal(pthread_create(&thread, NULL, hold_the_file, other), 0);
    append(rows + 1, 1);
    pthread_join(thread, &released);
    assert_ptr_equal(released, other);
    sqlite3_close(other);
    assert_true(ebb_pulse().ticks > before);
}

static void sums_are_joules_times_pue_times_intensity(void **state)
{
    ebb_ledger_row_t rows[2] = {work("a", 0, 100), work("b", 1, 300)};
    ebb_ledger_sums_t s;
    rows[1].embodied_g = 7;
    ebb_ledger_add_up(rows, 2, 0, &s);
    assert_near(s.job_j, 7.2e5);
    assert_near(s.facility_j, 1.08e6);
    assert_near(s.grams, 0.1 * 1.5 * 100 + 0.1 * 1.5 * 300);
    assert_near(s.low_g, s.grams * 3 / 3.6);
    assert_near(s.high_g, s.grams * 4 / 3.6);
    assert_near(s.idle_g, s.grams / 2);
    assert_near(s.embodied_g, 7);
    assert_near(s.asap_g, s.grams);
    assert_false(s.mixed);
    rows[1].signal = EBB_CARBON_MARGINAL;
    ebb_ledger_add_up(rows, 2, 0, &s);
    assert_true(s.mixed);
}

static void what_is_not_known_counts_as_the_highest_seen_and_never_as_clean(void **state)
{
    ebb_ledger_row_t rows[3] = {work("a", 0, 100), work("a", 1, NAN), work("a", 2, 250)};
    ebb_ledger_sums_t s;
    ebb_ledger_add_up(rows, 3, 0, &s);
    assert_near(s.known_g, 0.15 * 350);
    assert_near(s.assumed_g, 0.15 * 250);
    assert_near(s.grams, 0.15 * 600);
    assert_near(s.unknown_j, 3.6e5);
    ebb_ledger_add_up(rows + 1, 1, 0, &s);
    assert_true(isnan(s.grams) && isnan(s.asap_g) && isnan(s.low_g));
    assert_near(s.unknown_j, 3.6e5);
}

/* Submitted at 0; runs in hours 2 and 5, on two hosts. At once: hours 0 and 1. */
static void asap_is_the_same_joules_without_pauses_from_the_submission_on(void **state)
{
    ebb_ledger_row_t rows[] = {grid(0, 500), grid(1, 400), work("a", 2, 100), work("b", 2, 100),
                               grid(3, 450), grid(4, 450), work("a", 5, 50),  work("b", 5, 50)};
    ebb_ledger_sums_t s;
    ebb_ledger_add_up(rows, 8, 0.5, &s);
    assert_near(s.grams, 0.15 * 300);
    assert_near(s.work_s, 7200);
    assert_true(fabs(s.asap_g - 0.15 * 1800) < 0.02); /* half a second later than the hours begin */
    ebb_ledger_add_up(rows, 8, 7200, &s);
    assert_near(s.asap_g, 0.15 * (200 + 900));
    rows[0].intensity = NAN;
    ebb_ledger_add_up(rows, 8, 0.5, &s);
    assert_true(isnan(s.asap_g));
}

/* ---- keeping books ---- */

static void write_joules(double joules)
{
    char text[64];
    snprintf(text, sizeof text, "%.0f\n", joules * 1e6);
    test_write(folder, "root/sys/class/powercap/intel-rapl:0/energy_uj", text);
}

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

/* Counters of 65 J wrap twice; then the file vanishes, and comes back far away. */
static void books_hold_what_the_counter_rose_by_and_nothing_that_it_jumped_by(void **state)
{
    char root[600];
    ebb_books_t *b;
    ebb_ledger_row_t *rows;
    int64_t n;
    ebb_ledger_sums_t s;
    ebb_energy_t e;
    snprintf(root, sizeof root, "%s/root", folder);
    test_write(folder, "root/sys/class/powercap/intel-rapl:0/name", "package-0\n");
    test_write(folder, "root/sys/class/powercap/intel-rapl:0/max_energy_range_uj", "65000000\n");
    write_joules(60);
    ebb_books_options_t o = {.path = path, .ranks = 1, .meter = {.interval = 0.02, .root = root}, .pue = 1.2};
    assert_ok(ebb_books_start(&o, &b));
    for (int k = 1; k <= 10; k++) {
        write_joules(fmod(60 + 10.0 * k, 65));
        ebb_books_energy(b, &e);
    }
    char file[700];
    snprintf(file, sizeof file, "%s/sys/class/powercap/intel-rapl:0/energy_uj", root);
    assert_int_equal(unlink(file), 0);
    ebb_books_energy(b, &e);
    write_joules(64);
    ebb_books_energy(b, &e);
    write_joules(60); /* a wrap would be 61 J */
    sleep_ms(60);
    assert_ok(ebb_books_stop(b));
    assert_ok(ebb_ledger_read(path, &rows, &n));
    ebb_ledger_add_up(rows, n, 0, &s);
    assert_true(n >= 1);
    assert_near(s.job_j + s.others_j + s.idle_j, s.node_j);
    double estimated = s.node_j - s.measured_j; /* of the short time without a counter */
    assert_true(fabs(s.measured_j - 161) < 1e-6);
    assert_true(estimated >= 0 && estimated < 1e4 * s.host_s);
    assert_true(isnan(s.grams) && s.unknown_j == s.job_j);
    ebb_ledger_free(rows);
}

static void four_processes_of_a_node_are_one_row_with_their_processor_time(void **state)
{
    int64_t pid[4];
    double seen[4] = {0};
    ebb_pids_t pids = {4, pid, seen};
    ebb_books_t *b;
    ebb_ledger_row_t *rows;
    int64_t n;
    ebb_ledger_sums_t s;
    int go[2];
    assert_int_equal(pipe(go), 0);
    for (int p = 0; p < 4; p++)
        if ((pid[p] = fork()) == 0) {
            char byte;
            close(go[1]);
            for (volatile int64_t i = 0; i < 50000000; i++)
                continue;
            _exit(read(go[0], &byte, 1) != 0);
        }
    ebb_books_options_t o = {.path = path, .ranks = 4, .meter = {.cpu = ebb_energy_pids, .cpu_user = &pids}};
    assert_ok(ebb_books_start(&o, &b));
    double last = -1;
    for (int k = 0; k < 600 && (seen[3] < 0.01 || ebb_energy_pids(&pids) > last); k++) {
        last = ebb_energy_pids(&pids);
        sleep_ms(50);
    }
    close(go[1]);
    close(go[0]);
    for (int p = 0; p < 4; p++)
        waitpid((pid_t)pid[p], NULL, 0);
    double all = ebb_energy_pids(&pids); /* also of those that have ended */
    assert_ok(ebb_books_stop(b));
    assert_true(all >= last && last > 0.02);
    assert_ok(ebb_ledger_read(path, &rows, &n));
    ebb_ledger_add_up(rows, n, 0, &s);
    assert_true(s.cpu_seconds <= all + 1e-9 && s.cpu_seconds > 0);
    assert_true(s.job_j > 0);
    assert_near(s.job_j + s.others_j + s.idle_j, s.node_j);
    ebb_ledger_free(rows);
}

/* Takes connections and says nothing. */
static int silent_server(char url[64])
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, size), 0);
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &size), 0);
    snprintf(url, 64, "http://127.0.0.1:%d", ntohs(at.sin_port));
    return fd;
}

static void a_source_that_hangs_holds_up_nobody_and_its_hours_are_not_known(void **state)
{
    char url[64];
    int server = silent_server(url);
    ebb_carbon_source_options_t source = {.kind = EBB_CARBON_CASDK, .zone = "nowhere", .url = url, .budget_s = 15};
    ebb_books_options_t o = {.path = path, .source = &source, .grid = true, .since = 1};
    ebb_books_t *b;
    ebb_ledger_row_t *rows;
    int64_t n;
    ebb_ledger_sums_t s;
    double began = seconds_now();
    assert_ok(ebb_books_start(&o, &b));
    assert_true(seconds_now() - began < 1);
    assert_ok(ebb_books_stop(b));
    assert_true(seconds_now() - began < 10); /* the source may take 15 */
    close(server);
    assert_ok(ebb_ledger_read(path, &rows, &n));
    ebb_ledger_add_up(rows, n, 0, &s);
    assert_true(n > 1 && s.work_rows >= 1);
    assert_true(isnan(s.highest) && isnan(s.grams) && s.unknown_j == s.job_j);
    ebb_ledger_free(rows);
}

static void rows_tell_the_typical_day_and_the_grid_before_the_start(void **state)
{
    ebb_carbon_source_options_t source = {.kind = EBB_CARBON_TYPICAL_DAY, .zone = "DE"};
    ebb_books_options_t o = {.path = path, .source = &source, .grid = true, .since = (double)time(NULL) - 7200};
    ebb_books_t *b;
    ebb_ledger_row_t *rows;
    int64_t n;
    ebb_ledger_sums_t s;
    for (int start = 0; start < 2; start++) {
        assert_ok(ebb_books_start(&o, &b));
        assert_ok(ebb_books_stop(b));
    }
    assert_ok(ebb_ledger_read(path, &rows, &n));
    ebb_ledger_add_up(rows, n, o.since, &s);
    assert_true(n - s.work_rows >= 4); /* half hours; the second start adds the time between the two alone */
    assert_true(n - s.work_rows <= 6);
    assert_near(s.unknown_j, 0);
    assert_true(s.highest > 10 && s.grams >= 0 && s.asap_g >= 0);
    for (int64_t i = 0; i < n; i++) {
        assert_int_equal(rows[i].rung, EBB_CARBON_TYPICAL);
        assert_string_equal(rows[i].zone, "DE");
        assert_true(i == 0 || rows[i].begin >= rows[i - 1].end);
    }
    assert_true(fabs(rows[0].begin - o.since) < 1);
    ebb_ledger_free(rows);
}

static void a_ledger_that_cannot_be_written_fails_no_job_and_is_told(void **state)
{
    ebb_books_t *b;
    ebb_books_options_t o = {.path = "/nowhere/ledger.db"};
    assert_ok(ebb_books_start(&o, &b));
    assert_fails(ebb_books_stop(b), EBB_EIO, "could not be written");
}

static void a_file_for_prometheus_has_the_sums(void **state)
{
    char file[600], text[4096] = "";
    ebb_carbon_source_options_t source = {.kind = EBB_CARBON_TYPICAL_DAY, .zone = "DE"};
    snprintf(file, sizeof file, "%s/ebb.prom", folder);
    ebb_books_options_t o = {.path = path, .source = &source, .prometheus = file, .name = "a \"run\""};
    ebb_books_t *b;
    assert_ok(ebb_books_start(&o, &b));
    assert_ok(ebb_books_stop(b));
    FILE *f = fopen(file, "r");
    assert_non_null(f);
    assert_true(fread(text, 1, sizeof text - 1, f) > 0);
    fclose(f);
    assert_non_null(strstr(text, "# TYPE ebb_energy_joules_total counter\n"));
    assert_non_null(strstr(text, "ebb_energy_joules_total{job_name=\"a \\\"run\\\"\",host="));
    assert_non_null(strstr(text, "ebb_carbon_intensity_grams_per_kwh{"));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(rows_come_back_as_they_went_in_and_a_second_opening_goes_on),
        TEST(every_change_of_a_row_and_every_hole_is_found),
        TEST(two_hosts_append_at_once_and_the_chain_holds),
        TEST(waiting_for_another_hosts_transaction_is_no_standstill),
        TEST(sums_are_joules_times_pue_times_intensity),
        TEST(what_is_not_known_counts_as_the_highest_seen_and_never_as_clean),
        TEST(asap_is_the_same_joules_without_pauses_from_the_submission_on),
        TEST(books_hold_what_the_counter_rose_by_and_nothing_that_it_jumped_by),
        TEST(four_processes_of_a_node_are_one_row_with_their_processor_time),
        TEST(a_source_that_hangs_holds_up_nobody_and_its_hours_are_not_known),
        TEST(rows_tell_the_typical_day_and_the_grid_before_the_start),
        TEST(a_ledger_that_cannot_be_written_fails_no_job_and_is_told),
        TEST(a_file_for_prometheus_has_the_sums),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
