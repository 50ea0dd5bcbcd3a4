/* ebb meter: the energy of any command. */
#include "carbon_source.h"
#include "energy_show.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/json.h"

#include <ebb/ledger.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct meter_options {
    double interval, intensity, pue;
    bool json, gpus;
    char *output, *ledger;
} meter_options_t;

static const ebb_option_t options[] = {
    {"interval", 'i', EBB_OPT_F64, offsetof(meter_options_t, interval), "1", "s", 0.01, 3600, NULL,
     "time between readings of the counters"},
    {"gpus", 0, EBB_OPT_FLAG, offsetof(meter_options_t, gpus), NULL, NULL, 0, 0, NULL,
     "the host's GPUs work for the command: their energy is the command's, and how busy they were is told; where "
     "CUDA_VISIBLE_DEVICES is set, of those GPUs"},
    {"intensity", 0, EBB_OPT_F64, offsetof(meter_options_t, intensity), NULL, "g/kWh", 0, 5000, NULL,
     "carbon intensity of the grid: tells the emissions too"},
    {"pue", 0, EBB_OPT_F64, offsetof(meter_options_t, pue), "1", NULL, 1, 10, NULL,
     "power usage effectiveness of the building, for the emissions"},
    {"json", 0, EBB_OPT_FLAG, offsetof(meter_options_t, json), NULL, NULL, 0, 0, NULL, "print one JSON object"},
    {"output", 'o', EBB_OPT_STRING, offsetof(meter_options_t, output), NULL, NULL, 0, 0, NULL,
     "write the figures to this file instead of standard error"},
    {"ledger", 0, EBB_OPT_STRING, offsetof(meter_options_t, ledger), NULL, "file", 0, 0, NULL,
     "append every interval, with the intensity that EBB_CARBON_SOURCE, _ZONE and _FILE tell, to a ledger that "
     "ebb report reads and cluster/audit verifies"},
    {0},
};

static const ebb_example_t examples[] = {
    {"What a compilation takes", "ebb meter -- make -j8"},
    {"Books of a month of nightly jobs", "ebb meter --ledger nightly.db -- ./nightly"},
    {"Figures of a training script for other programs", "ebb meter --gpus --json -o energy.json -- python3 train.py"},
    {0},
};

static volatile sig_atomic_t child_pid;

static void forward(int number)
{
    if (child_pid > 0)
        kill((pid_t)child_pid, number);
}

/* SIGINT and SIGQUIT of a terminal reach the command by themselves; the meter must outlive them. */
static void catch_signals(void)
{
    static const int passed[] = {SIGTERM, SIGHUP, SIGUSR1, SIGUSR2};
    for (size_t i = 0; i < sizeof passed / sizeof *passed; i++) {
        struct sigaction action = {.sa_handler = forward, .sa_flags = SA_RESTART};
        sigaction(passed[i], &action, NULL);
    }
    signal(SIGINT, SIG_IGN);
    signal(SIGQUIT, SIG_IGN);
}

static ebb_status_t start(char **command, pid_t *pid_p)
{
    int pipes[2];
    if (pipe2(pipes, O_CLOEXEC) != 0)
        return EBB_FAIL(EBB_EIO, "pipe: %s", strerror(errno));
    pid_t pid = fork();
    if (pid == 0) {
        execvp(command[0], command);
        int code = errno;
        ssize_t told = write(pipes[1], &code, sizeof code);
        _exit(told == sizeof code ? 127 : 126);
    }
    int code = pid < 0 ? errno : 0;
    close(pipes[1]);
    if (pid > 0 && read(pipes[0], &code, sizeof code) == sizeof code)
        waitpid(pid, NULL, 0);
    close(pipes[0]);
    if (code != 0)
        return EBB_FAIL(code == ENOENT ? EBB_ENOINPUT : EBB_EUNAVAILABLE, "%s: cannot be started: %s", command[0],
                        strerror(code));
    *pid_p = pid;
    return EBB_OK;
}

/* Its exit status as a shell tells it. */
static int wait_for(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    while (waitpid(-1, NULL, WNOHANG) > 0) /* orphans that came to us */
        continue;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* ---- showing ---- */

/* Grams of CO2 equivalents. */
static double grams(const meter_options_t *o, double j)
{
    return j / 3.6e6 * o->pue * o->intensity;
}

static void show_gpus(FILE *out, const json_t *gpus)
{
    ebb_text_t lines = {0};
    energy_gpus_text(gpus, "", &lines);
    fputs(lines.s ? lines.s : "", out);
    ebb_text_free(&lines);
}

static void show(FILE *out, const meter_options_t *o, const ebb_energy_t *e, const json_t *gpus)
{
    char a[64], b[64], time[32];
    bool estimated = e->job_high_j > e->job_low_j;
    fprintf(out, "command %s", energy_text(e->job_j, a, sizeof a));
    if (estimated)
        fprintf(out, ", between %s and %s", energy_text(e->job_low_j, a, sizeof a),
                energy_text(e->job_high_j, b, sizeof b));
    if (o->intensity > 0)
        fprintf(out, "; %.3g g CO2e at %g g/kWh and PUE %g", grams(o, e->job_j), o->intensity, o->pue);
    if (e->seconds < 60)
        snprintf(time, sizeof time, "%.3g s", e->seconds);
    else
        ebb_format_duration(e->seconds, time, sizeof time);
    fprintf(out, "\nhost    %s in %s", energy_text(e->node_j, a, sizeof a), time);
    fprintf(out, ": %.0f %% the command, %.0f %% others, %.0f %% idle", 100 * e->job_j / e->node_j,
            100 * e->others_j / e->node_j, 100 * e->idle_j / e->node_j);
    fprintf(out, "; %.3g processor seconds\nby      %s", e->cpu_seconds, e->source);
    if (e->gaps > 0)
        fprintf(out, "; counters were lost %lld time%s, then estimated", (long long)e->gaps, e->gaps == 1 ? "" : "s");
    fputc('\n', out);
    show_gpus(out, gpus);
}

static ebb_status_t show_json(FILE *out, const meter_options_t *o, const ebb_energy_t *e, json_t *gpus)
{
    json_t *json = json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:s}", "seconds", e->seconds,
                             "cpu_seconds", e->cpu_seconds, "job_joules", e->job_j, "job_joules_low", e->job_low_j,
                             "job_joules_high", e->job_high_j, "others_joules", e->others_j, "idle_joules", e->idle_j,
                             "node_joules", e->node_j, "measured_joules", e->measured_j, "gpu_joules", e->gpu_j, "gaps",
                             (json_int_t)e->gaps, "source", e->source);
    if (json && json_array_size(gpus) > 0)
        json_object_set(json, "gpus", gpus);
    if (json && o->intensity > 0)
        json_object_set_new(json, "job_grams_co2e", json_real(grams(o, e->job_j)));
    bool good = json && json_dumpf(json, out, JSON_COMPACT) == 0 && fputc('\n', out) == '\n';
    json_decref(json);
    return good ? EBB_OK : EBB_FAIL(EBB_EIO, "the figures cannot be written");
}

static ebb_status_t report(const meter_options_t *o, const ebb_energy_t *e, json_t *gpus)
{
    FILE *out = o->output ? fopen(o->output, "we") : stderr;
    if (!out)
        return ebb_file_error(o->output, "open");
    ebb_status_t status = EBB_OK;
    if (o->json)
        status = show_json(out, o, e, gpus);
    else
        show(out, o, e, gpus);
    if (o->output && fclose(out) != 0 && status == EBB_OK)
        status = ebb_file_error(o->output, "write");
    return status;
}

/* A meter, or books that have one. */
typedef struct metering {
    ebb_meter_t *meter;
    ebb_books_t *books;
} metering_t;

static ebb_status_t begin(const meter_options_t *o, metering_t *m)
{
    ebb_carbon_settings_t grid;
    ebb_meter_options_t how = {.interval = o->interval,
                               .uses_gpus = o->gpus,
                               .gpus = getenv("CUDA_VISIBLE_DEVICES"),
                               .cpu = ebb_energy_descendants,
                               .root = getenv("EBB_METER_ROOT")}; /* tests put a folder before /sys and /proc */
    if (!o->ledger)
        return ebb_meter_start(&how, &m->meter);
    ebb_books_options_t books = {.path = o->ledger, .meter = how, .pue = o->pue, .name = "meter"};
    if (ebb_source_for_books(&(source_options_t){0}, &grid))
        books.source = &grid.options;
    ebb_status_t status = ebb_books_start(&books, &m->books);
    ebb_carbon_settings_free(&grid);
    return status;
}

static ebb_status_t end(metering_t *m)
{
    ebb_meter_stop(m->meter);
    return ebb_books_stop(m->books);
}

/* The command's GPUs, as they were at the end. */
static json_t *gpus_of(const metering_t *m)
{
    ebb_gpu_use_t gpu[EBB_METER_GPUS];
    json_t *list = json_array();
    int n = m->books ? ebb_books_gpus(m->books, gpu) : ebb_meter_gpus(m->meter, gpu);
    for (int i = 0; i < n; i++)
        json_array_append_new(list, energy_gpu_json(&gpu[i]));
    return list;
}

static ebb_status_t meter_command(const meter_options_t *o, char **command)
{
    metering_t m = {0};
    ebb_energy_t energy;
    pid_t pid;
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    catch_signals();
    EBB_TRY(begin(o, &m));
    ebb_status_t status = start(command, &pid);
    if (status == EBB_OK) {
        child_pid = pid;
        ebb_command_exit = wait_for(pid);
        child_pid = 0;
        if (m.books)
            ebb_books_energy(m.books, &energy);
        else
            ebb_meter_read(m.meter, &energy);
        json_t *gpus = gpus_of(&m);
        status = report(o, &energy, gpus);
        json_decref(gpus);
    }
    ebb_status_t ended = end(&m);
    return status != EBB_OK ? status : ended;
}

static ebb_status_t run(void *opts, int n_operands, char **operands)
{
    char **command; /* ends with NULL, as the system wants it */
    EBB_TRY(EBB_NEW_ARRAY("command", n_operands + 1, &command));
    memcpy(command, operands, (size_t)n_operands * sizeof *command);
    ebb_status_t status = meter_command(opts, command);
    ebb_free(command);
    return status;
}

const ebb_command_t cmd_meter = {
    .name = "meter",
    .help = "Tell the energy that a command takes",
    .operands = "COMMAND [ARGUMENT]...",
    .about = "Runs the command and reads the host's counters of energy meanwhile: RAPL, AMD's sockets, NVIDIA's GPUs.\n"
             "Without any it estimates from processor time and says so, with an interval. The command is charged its\n"
             "share of what the host draws beyond idling, by processor time; idling is told apart. Reading RAPL takes\n"
             "root on most systems. The exit code is the command's.\n",
    .min_operands = 1,
    .max_operands = ANY_OPERANDS,
    .options = options,
    .options_bytes = sizeof(meter_options_t),
    .examples = examples,
    .run = run,
};
