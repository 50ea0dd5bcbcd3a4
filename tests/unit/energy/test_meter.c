/* Joules from replayed counters: wraps, lost permissions, files that vanish and jump; shares that add up to the node.
 */
#include "support.h"
#include "energy/book.h"
#include "energy/counters.h"

#include <ebb/energy.h>
#include <math.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char *root;

static void write_zone(const char *zone, const char *name, double joules, double wrap)
{
    char path[256], text[64];
    snprintf(path, sizeof path, "sys/class/powercap/%s/name", zone);
    test_write(root, path, name);
    snprintf(path, sizeof path, "sys/class/powercap/%s/max_energy_range_uj", zone);
    snprintf(text, sizeof text, "%.0f\n", wrap * 1e6);
    test_write(root, path, text);
    snprintf(path, sizeof path, "sys/class/powercap/%s/energy_uj", zone);
    snprintf(text, sizeof text, "%.0f\n", joules * 1e6);
    test_write(root, path, text);
}

static void remove_energy(const char *zone)
{
    char path[512];
    snprintf(path, sizeof path, "%s/sys/class/powercap/%s/energy_uj", root, zone);
    assert_int_equal(unlink(path), 0);
}

static int setup(void **state)
{
    root = test_mkdir();
    return 0;
}

static int teardown(void **state)
{
    test_rmdir(root);
    return 0;
}

static void assert_joules(double got, double want)
{
    if (!(fabs(got - want) < 1e-6))
        fail_msg("%.9g J, wanted %.9g", got, want);
}

static void packages_and_dram_count_cores_and_psys_do_not(void **state)
{
    ebb_counters_t c;
    char name[64];
    write_zone("intel-rapl:0", "package-0\n", 100, 65532);
    write_zone("intel-rapl:0:0", "core\n", 50, 65532);
    write_zone("intel-rapl:0:1", "dram\n", 20, 65532);
    write_zone("intel-rapl:1", "psys\n", 500, 65532);
    write_zone("intel-rapl-mmio:0", "package-0\n", 100, 65532);
    assert_ok(ebb_counters_open(root, &c));
    ebb_counters_name(&c, name, sizeof name);
    assert_string_equal(name, "package-0, dram");
    write_zone("intel-rapl:0", "package-0\n", 130, 65532);
    write_zone("intel-rapl:0:0", "core\n", 70, 65532);
    write_zone("intel-rapl:0:1", "dram\n", 25, 65532);
    write_zone("intel-rapl:1", "psys\n", 550, 65532);
    ebb_reading_t r = ebb_counters_read(&c, 1);
    assert_joules(r.cpu_j, 35);
    assert_int_equal(r.lost, 0);
    ebb_counters_close(&c);
}

static void a_wrap_is_undone(void **state)
{
    ebb_counters_t c;
    write_zone("intel-rapl:0", "package-0\n", 65530, 65532);
    assert_ok(ebb_counters_open(root, &c));
    write_zone("intel-rapl:0", "package-0\n", 40, 65532);
    ebb_reading_t r = ebb_counters_read(&c, 1);
    assert_joules(r.cpu_j, 42);
    assert_int_equal(r.lost, 0);
    ebb_counters_close(&c);
}

static void a_jump_that_no_processor_can_draw_counts_nothing_and_the_next_reading_does(void **state)
{
    ebb_counters_t c;
    write_zone("intel-rapl:0", "package-0\n", 1000, 262143);
    assert_ok(ebb_counters_open(root, &c));
    write_zone("intel-rapl:0", "package-0\n", 3, 262143); /* began again: as a wrap it would be 261 kJ */
    ebb_reading_t r = ebb_counters_read(&c, 1);
    assert_joules(r.cpu_j, 0);
    assert_int_equal(r.lost, 1);
    write_zone("intel-rapl:0", "package-0\n", 53, 262143);
    r = ebb_counters_read(&c, 1);
    assert_joules(r.cpu_j, 50);
    assert_int_equal(r.lost, 0);
    ebb_counters_close(&c);
}

static void a_file_that_goes_and_comes_back_never_becomes_joules(void **state)
{
    ebb_counters_t c;
    write_zone("intel-rapl:0", "package-0\n", 1000, 262143);
    write_zone("intel-rapl:1", "package-1\n", 1000, 262143);
    assert_ok(ebb_counters_open(root, &c));
    remove_energy("intel-rapl:1");
    write_zone("intel-rapl:0", "package-0\n", 1010, 262143);
    ebb_reading_t r = ebb_counters_read(&c, 1);
    assert_joules(r.cpu_j, 10);
    assert_int_equal(r.cpu_lost, 1);
    write_zone("intel-rapl:0", "package-0\n", 1020, 262143);
    write_zone("intel-rapl:1", "package-1\n", 1900, 262143); /* 900 J in between, which nobody saw */
    r = ebb_counters_read(&c, 1);
    assert_joules(r.cpu_j, 10);
    assert_int_equal(r.cpu_lost, 1);
    write_zone("intel-rapl:0", "package-0\n", 1030, 262143);
    write_zone("intel-rapl:1", "package-1\n", 1930, 262143);
    r = ebb_counters_read(&c, 1);
    assert_joules(r.cpu_j, 40);
    assert_int_equal(r.cpu_lost, 0);
    test_write(root, "sys/class/powercap/intel-rapl:1/energy_uj", "garbage\n");
    r = ebb_counters_read(&c, 1);
    assert_int_equal(r.cpu_lost, 1);
    ebb_counters_close(&c);
}

static void sockets_of_amds_driver_count_where_there_is_no_powercap(void **state)
{
    ebb_counters_t c;
    char name[64];
    test_write(root, "sys/class/hwmon/hwmon3/energy1_label", "Ecore000\n");
    test_write(root, "sys/class/hwmon/hwmon3/energy1_input", "5000000\n");
    test_write(root, "sys/class/hwmon/hwmon3/energy2_label", "Esocket0\n");
    test_write(root, "sys/class/hwmon/hwmon3/energy2_input", "70000000\n");
    assert_ok(ebb_counters_open(root, &c));
    ebb_counters_name(&c, name, sizeof name);
    assert_string_equal(name, "Esocket0");
    test_write(root, "sys/class/hwmon/hwmon3/energy2_input", "82500000\n");
    assert_joules(ebb_counters_read(&c, 1).cpu_j, 12.5);
    ebb_counters_close(&c);
}

static const ebb_host_t host = {.cpus = 8, .gib = 64};

/* Four ranks of one host and somebody else: each books its own share of the same intervals. */
static void shares_of_four_ranks_and_others_and_idle_are_the_node(void **state)
{
    ebb_energy_t rank[4] = {0};
    double jobs = 0;
    for (int k = 0; k < 50; k++)
        for (int r = 0; r < 4; r++) {
            double busy = 1.0 + k % 6;
            ebb_interval_t i = {
                .seconds = 1, .busy = busy, .job = busy * (0.1 + 0.05 * r), .cpu_j = k % 7 == 3 ? -1 : 40.0 + k};
            ebb_energy_book(&host, &i, &rank[r]);
        }
    for (int r = 0; r < 4; r++) {
        jobs += rank[r].job_j;
        assert_joules(rank[r].job_j + rank[r].others_j + rank[r].idle_j, rank[r].node_j);
        assert_joules(rank[r].node_j, rank[0].node_j);
        assert_joules(rank[r].idle_j, rank[0].idle_j);
        assert_true(rank[r].job_low_j <= rank[r].job_j && rank[r].job_j <= rank[r].job_high_j);
    }
    double node = rank[0].node_j;
    assert_true(fabs(jobs - (node - rank[0].idle_j) * (0.1 + 0.15 + 0.2 + 0.25)) < 0.01 * node);
}

static void what_is_measured_has_no_interval_and_gpus_go_to_who_uses_them(void **state)
{
    ebb_energy_t mine = {0}, theirs = {0};
    ebb_interval_t i = {.seconds = 2, .busy = 4, .job = 1, .cpu_j = 200, .gpu_j = 1000, .own_gpu_j = 1000};
    ebb_energy_book(&host, &i, &mine);
    i.own_gpu_j = 0;
    ebb_energy_book(&host, &i, &theirs);
    assert_joules(mine.node_j, 1200);
    assert_joules(mine.measured_j, 1200);
    assert_joules(mine.job_low_j, mine.job_j);
    assert_joules(mine.job_high_j, mine.job_j);
    assert_joules(mine.job_j - theirs.job_j, 1000);
    assert_joules(theirs.others_j - mine.others_j, 1000);
}

static void of_several_jobs_each_has_its_own_gpus(void **state)
{
    static const struct {
        const char *gpus;
        bool own[3];
    } cases[] = {{NULL, {1, 1, 1}},         {"", {0, 0, 0}},
                 {"2", {0, 0, 1}},          {"0,2", {1, 0, 1}},
                 {"12", {0, 0, 0}},         {"GPU-bb", {0, 1, 0}},
                 {"GPU-aa1,1", {1, 1, 0}},  {"-1", {0, 0, 0}},
                 {"NoDevFiles", {0, 0, 0}}, {"MIG-GPU-aa1/1/0", {1, 1, 1}}};
    ebb_counter_t counter[4] = {{.name = "package-0"},
                                {.gpu = &counter, .use = {.index = 0, .uuid = "GPU-aa1"}},
                                {.gpu = &counter, .use = {.index = 1, .uuid = "GPU-bb2"}},
                                {.gpu = &counter, .use = {.index = 2, .uuid = "GPU-cc3"}}};
    ebb_counters_t c = {.n = 4, .counter = counter};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        ebb_counters_choose(&c, cases[k].gpus);
        assert_false(counter[0].others);
        for (int g = 0; g < 3; g++)
            if (counter[g + 1].others == cases[k].own[g])
                fail_msg("\"%s\": GPU %d", cases[k].gpus ? cases[k].gpus : "(none)", g);
    }
    ebb_energy_t sum[3] = {0};
    for (int job = 0; job < 3; job++) {
        ebb_interval_t i = {
            .seconds = 1, .busy = 1, .job = 0.3, .cpu_j = 30, .gpu_j = 600, .own_gpu_j = 100 * (job + 1)};
        ebb_energy_book(&host, &i, &sum[job]);
        assert_joules(sum[job].job_j + sum[job].others_j + sum[job].idle_j, sum[job].node_j);
    }
    double jobs = sum[0].job_j + sum[1].job_j + sum[2].job_j;
    assert_true(fabs(jobs - 600 - 0.9 * (30 - sum[0].idle_j)) < 1e-9); /* no card is charged twice */
}

/* ---- what NVML tells of GPUs beside their joules ---- */

typedef struct fake_gpu {
    int code, memory_code; /* that the calls return */
    ebb_nvml_utilization_t utilization;
    unsigned long long used, millijoules;
    int asked; /* how often, for anything but joules */
} fake_gpu_t;

static int fake_energy(void *device, unsigned long long *millijoules)
{
    *millijoules = ((fake_gpu_t *)device)->millijoules;
    return 0;
}

static int fake_utilization(void *device, ebb_nvml_utilization_t *utilization)
{
    fake_gpu_t *gpu = device;
    gpu->asked++;
    *utilization = gpu->utilization;
    return gpu->code;
}

static int fake_memory(void *device, ebb_nvml_memory_t *memory)
{
    fake_gpu_t *gpu = device;
    gpu->asked++;
    *memory = (ebb_nvml_memory_t){.total = 80000, .used = gpu->used};
    return gpu->memory_code;
}

static ebb_counters_t counters_of(int n, fake_gpu_t *gpu, ebb_counter_t *counter)
{
    for (int i = 0; i < n; i++) {
        counter[i] = (ebb_counter_t){.gpu = &gpu[i], .use = {.index = i}, .most_watts = 4000, .read = true};
        snprintf(counter[i].use.uuid, sizeof counter[i].use.uuid, "GPU-%d", i);
    }
    return (ebb_counters_t){.n = n,
                            .counter = counter,
                            .nvml = {.energy = fake_energy, .utilization = fake_utilization, .memory = fake_memory}};
}

static void assert_gauge(const ebb_gauge_t *g, double seconds, double mean, double max)
{
    assert_joules(g->seconds, seconds);
    assert_joules(g->mean, mean);
    assert_joules(g->max, max);
}

static void a_gpu_is_as_busy_as_its_readings_say_weighted_by_the_time_they_stand_for(void **state)
{
    fake_gpu_t gpu = {.utilization = {100, 40}, .used = 3000};
    ebb_counter_t counter;
    ebb_gpu_use_t use[EBB_METER_GPUS];
    ebb_counters_t c = counters_of(1, &gpu, &counter);
    ebb_counters_choose(&c, NULL);
    ebb_counters_read(&c, 3);
    gpu = (fake_gpu_t){.utilization = {20, 60}, .used = 7000, .millijoules = 50000};
    ebb_counters_read(&c, 1);
    gpu.utilization = (ebb_nvml_utilization_t){77, 77};
    ebb_counters_read(&c, 0); /* read again at once: stands for no time */
    assert_int_equal(ebb_counters_gpus(&c, use), 1);
    assert_gauge(&use->busy, 4, 80, 100);
    assert_gauge(&use->memory_busy, 4, 45, 60);
    assert_gauge(&use->memory_used, 4, 4000, 7000);
    assert_joules(use->memory_bytes, 80000);
    assert_true(use->metered);
    assert_joules(use->joules, 50);
}

static void what_nvml_cannot_tell_has_no_figure_and_a_time_without_one_weighs_nothing(void **state)
{
    enum { NOT_SUPPORTED = 3, NO_PERMISSION = 4 };
    fake_gpu_t gpu = {.code = NOT_SUPPORTED, .memory_code = NO_PERMISSION, .utilization = {50, 50}, .used = 1};
    ebb_counter_t counter;
    ebb_gpu_use_t use[EBB_METER_GPUS];
    ebb_counters_t c = counters_of(1, &gpu, &counter);
    ebb_counters_choose(&c, NULL);
    ebb_counters_read(&c, 5);
    assert_int_equal(ebb_counters_gpus(&c, use), 1);
    assert_gauge(&use->busy, 0, 0, 0);
    assert_gauge(&use->memory_used, 0, 0, 0);
    assert_joules(use->memory_bytes, 0);
    gpu.code = 0;
    ebb_counters_read(&c, 2);
    gpu.code = NOT_SUPPORTED;
    gpu.utilization.gpu = 0;
    ebb_counters_read(&c, 5);
    ebb_counters_gpus(&c, use);
    assert_gauge(&use->busy, 2, 50, 50);
    assert_gauge(&use->memory_used, 0, 0, 0);
}

static void only_the_jobs_gpus_are_asked_how_busy_they_are(void **state)
{
    static const struct {
        const char *gpus;
        int n, asked[3];
    } cases[] = {{"1", 1, {0, 2, 0}}, {"0,GPU-2", 2, {2, 0, 2}}, {"", 0, {0, 0, 0}}, {NULL, 3, {2, 2, 2}}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        fake_gpu_t gpu[3] = {{.utilization = {1, 1}}, {.utilization = {1, 1}}, {.utilization = {1, 1}}};
        ebb_counter_t counter[3];
        ebb_gpu_use_t use[EBB_METER_GPUS];
        ebb_counters_t c = counters_of(3, gpu, counter);
        ebb_counters_choose(&c, cases[k].gpus);
        for (int i = 0; i < 3; i++)
            gpu[i].millijoules = 7000;
        ebb_reading_t r = ebb_counters_read(&c, 1);
        assert_joules(r.gpu_j, 21);
        assert_joules(r.own_gpu_j, 7 * cases[k].n);
        assert_int_equal(ebb_counters_gpus(&c, use), cases[k].n);
        for (int i = 0; i < 3; i++)
            assert_int_equal(gpu[i].asked, cases[k].asked[i]);
    }
}

/* Clocks of processes and of the host tick apart: a job cannot have used more than everybody. */
static void a_job_is_never_charged_more_than_the_node_draws_beyond_idling(void **state)
{
    ebb_energy_t e = {0}, none = {0};
    ebb_interval_t i = {.seconds = 1, .busy = 0.9, .job = 1.0, .cpu_j = 50};
    ebb_energy_book(&host, &i, &e);
    assert_joules(e.others_j, 0);
    assert_joules(e.job_j + e.idle_j, 50);
    i = (ebb_interval_t){.seconds = 1, .busy = -3, .job = -1, .cpu_j = 50};
    ebb_energy_book(&host, &i, &none);
    assert_joules(none.job_j, 0);
    assert_joules(none.idle_j, 50);
}

static void sleep_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static void a_meter_adds_up_what_its_thread_reads_and_tells_its_source(void **state)
{
    ebb_meter_t *m;
    ebb_energy_t e;
    write_zone("intel-rapl:0", "package-0\n", 10, 65532);
    assert_ok(ebb_meter_start(&(ebb_meter_options_t){.interval = 0.01, .root = root}, &m));
    write_zone("intel-rapl:0", "package-0\n", 15, 65532);
    sleep_ms(60);
    write_zone("intel-rapl:0", "package-0\n", 18, 65532);
    ebb_meter_read(m, &e);
    ebb_meter_stop(m);
    assert_joules(e.measured_j, 8);
    assert_int_equal(e.gaps, 0);
    assert_string_equal(e.source, "measured: package-0");
    assert_joules(e.node_j, e.job_j + e.others_j + e.idle_j);
    test_write(root, "sys/class/powercap/intel-rapl:0/name", "core\n");
    assert_ok(ebb_meter_start(&(ebb_meter_options_t){.root = root}, &m));
    ebb_meter_read(m, &e);
    ebb_meter_stop(m);
    assert_joules(e.measured_j, 0);
    assert_non_null(strstr(e.source, "estimated: processor time of "));
}

/* A GPU that falls off may hold its driver's calls for long; here it is the job's processor time that is slow to tell.
 */
typedef struct slow {
    pthread_mutex_t lock; /* held: telling lasts */
    int asked;
} slow_t;

static double slow_cpu(void *user)
{
    slow_t *slow = user;
    __atomic_fetch_add(&slow->asked, 1, __ATOMIC_RELAXED);
    pthread_mutex_lock(&slow->lock);
    pthread_mutex_unlock(&slow->lock);
    return 0;
}

static void a_reading_that_lasts_keeps_nobody_waiting_for_the_gpus_of_the_last_one(void **state)
{
    slow_t slow = {.lock = PTHREAD_MUTEX_INITIALIZER};
    ebb_gpu_use_t use[EBB_METER_GPUS];
    ebb_meter_t *m;
    ebb_meter_options_t o = {.interval = 0.01, .cpu = slow_cpu, .cpu_user = &slow, .root = root};
    assert_ok(ebb_meter_start(&o, &m));
    pthread_mutex_lock(&slow.lock);
    int before = __atomic_load_n(&slow.asked, __ATOMIC_RELAXED), now = before;
    for (int k = 0; k < 2000 && now == before; k++) {
        sleep_ms(5);
        now = __atomic_load_n(&slow.asked, __ATOMIC_RELAXED);
    }
    assert_true(now > before);
    alarm(60); /* else it would wait for ever */
    assert_int_equal(ebb_meter_gpus(m, use), 0);
    alarm(0);
    pthread_mutex_unlock(&slow.lock);
    ebb_meter_stop(m);
}

static void descendants_are_counted_also_the_children_of_children(void **state)
{
    double before = ebb_energy_descendants(NULL), after = before;
    int go[2];
    char byte;
    assert_int_equal(pipe(go), 0);
    pid_t pid = fork();
    if (pid == 0) {
        bool grandchild = fork() == 0;
        for (volatile int64_t i = 0; grandchild && i < 300000000; i++)
            continue;
        close(go[1]);
        _exit(read(go[0], &byte, 1) != 0);
    }
    for (int k = 0; k < 4000 && after <= before + 0.05; k++) {
        sleep_ms(5);
        after = ebb_energy_descendants(NULL);
    }
    assert_true(after > before + 0.05);
    close(go[1]);
    close(go[0]);
    waitpid(pid, NULL, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(packages_and_dram_count_cores_and_psys_do_not),
        TEST(a_wrap_is_undone),
        TEST(a_jump_that_no_processor_can_draw_counts_nothing_and_the_next_reading_does),
        TEST(a_file_that_goes_and_comes_back_never_becomes_joules),
        TEST(sockets_of_amds_driver_count_where_there_is_no_powercap),
        TEST(shares_of_four_ranks_and_others_and_idle_are_the_node),
        TEST(what_is_measured_has_no_interval_and_gpus_go_to_who_uses_them),
        TEST(of_several_jobs_each_has_its_own_gpus),
        TEST(a_gpu_is_as_busy_as_its_readings_say_weighted_by_the_time_they_stand_for),
        TEST(what_nvml_cannot_tell_has_no_figure_and_a_time_without_one_weighs_nothing),
        TEST(only_the_jobs_gpus_are_asked_how_busy_they_are),
        TEST(a_job_is_never_charged_more_than_the_node_draws_beyond_idling),
        TEST(a_meter_adds_up_what_its_thread_reads_and_tells_its_source),
        TEST(a_reading_that_lasts_keeps_nobody_waiting_for_the_gpus_of_the_last_one),
        TEST(descendants_are_counted_also_the_children_of_children),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
