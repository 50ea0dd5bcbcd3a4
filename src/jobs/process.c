/* The agent's side of a job's processes: starting keepers, looking at what they left, ending what was left over. */
#include "jobs/process.h"
#include "base/file.h"
#include "base/json.h"
#include "base/lock.h"
#include "base/proc.h"
#include "jobs/keeper.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SWEEPS 200 /* of 10 ms */

void ebb_attempt_folder(const char *state, int64_t id, char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%s/jobs/%lld", state, (long long)id);
}

/* ---- what to start ---- */

static json_t *command_of(const ebb_queue_job_t *job, const char *self, int64_t ranks)
{
    json_t *list = json_array();
    if (job->spec.run) {
        json_array_append_new(list, json_string(self));
        json_array_append_new(list, json_string("run"));
        json_array_append_new(list, json_string("--ranks"));
        json_array_append_new(list, json_sprintf("%lld", (long long)ranks));
    }
    for (char *const *w = job->spec.word; *w; w++)
        json_array_append_new(list, json_string(*w));
    return list;
}

static bool is_ours(const char *variable)
{
    static const char *const names[] = {"EBB_JOB_", "EBB_STATE_DIR=", "EBB_CLOCK="};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strncmp(variable, names[i], strlen(names[i])) == 0)
            return true;
    return false;
}

static bool has_variable(char *const *environment, const char *name)
{
    size_t n = strlen(name);
    for (; environment && *environment; environment++)
        if (strncmp(*environment, name, n) == 0 && (*environment)[n] == '=')
            return true;
    return false;
}

extern char **environ;

/* The job's own variables, then what Ebb tells it; settings of the carbon source that it lacks come from the agent. */
static json_t *environment_of(const ebb_queue_job_t *job, const char *state, const char *gpu)
{
    char *const *own = job->spec.environment ? job->spec.environment : environ;
    const char *clock = getenv("EBB_CLOCK");
    json_t *list = json_array(), *text;
    for (char *const *v = own; *v; v++)
        if (!is_ours(*v) && (text = json_string(*v)))
            json_array_append_new(list, text);
    for (char *const *v = environ; own != environ && *v; v++) {
        char name[128];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(*v, "="), *v);
        bool token = strcmp(name, "EBB_CARBON_TOKEN") == 0; /* not for files */
        if (strncmp(name, "EBB_CARBON_", 11) == 0 && !token && !has_variable(own, name) && (text = json_string(*v)))
            json_array_append_new(list, text);
    }
    json_array_append_new(list, json_sprintf("EBB_STATE_DIR=%s", state));
    json_array_append_new(list, json_sprintf("EBB_JOB_ID=%lld", (long long)job->id));
    json_array_append_new(list, json_sprintf("EBB_JOB_NAME=%s", job->spec.name));
    json_array_append_new(list, json_sprintf("EBB_JOB_SUBMITTED=%.3f", job->submitted));
    json_array_append_new(list, json_sprintf("EBB_JOB_POLICY=%s", ebb_plan_policy_name(job->spec.policy)));
    if (job->spec.deadline > 0)
        json_array_append_new(list, json_sprintf("EBB_JOB_DEADLINE=%.3f", job->spec.deadline));
    if (clock)
        json_array_append_new(list, json_sprintf("EBB_CLOCK=%s", clock));
    if (*gpu)
        json_array_append_new(list, json_sprintf("CUDA_VISIBLE_DEVICES=%s", gpu));
    return list;
}

static ebb_status_t write_start(const char *state, const char *folder, const char *self, const ebb_queue_job_t *job,
                                int64_t attempt, int64_t ranks, const char *gpu)
{
    char path[PATH_MAX];
    json_t *json = json_pack("{s:o, s:o, s:s, s:b}", "command", command_of(job, self, ranks), "environment",
                             environment_of(job, state, gpu), "folder", job->spec.folder, "group", (int)!job->spec.run);
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    snprintf(path, sizeof path, "%s/start-%lld.json", folder, (long long)attempt);
    ebb_status_t status =
        text ? ebb_file_replace(path, text, strlen(text)) : EBB_FAIL(EBB_ENOMEM, "%s: out of memory", path);
    free(text);
    return status;
}

/* In the child: between fork and exec only what is safe beside the threads of the agent. */
static _Noreturn void become_keeper(const char *self, char *const *word)
{
    sigset_t none;
    sigemptyset(&none);
    setsid();
    sigprocmask(SIG_SETMASK, &none, NULL);
    execv(self, word);
    _exit(127);
}

ebb_status_t ebb_attempt_start(const char *state, const char *self, const ebb_queue_job_t *job, int64_t attempt,
                               int64_t ranks, const char *gpu)
{
    char folder[PATH_MAX], number[32];
    ebb_attempt_folder(state, job->id, folder);
    EBB_TRY(ebb_file_mkdirs(folder));
    EBB_TRY(write_start(state, folder, self, job, attempt, ranks, gpu));
    snprintf(number, sizeof number, "%lld", (long long)attempt);
    char *const word[] = {(char *)self, (char *)"keep-job", folder, number, NULL};
    pid_t pid = fork();
    if (pid == 0)
        become_keeper(self, word);
    return pid > 0 ? EBB_OK : EBB_FAIL(EBB_EIO, "cannot start a process: %s", strerror(errno));
}

/* ---- looking ---- */

static bool read_end(const char *folder, int64_t attempt, int *code_p)
{
    char path[PATH_MAX];
    json_t *json = NULL;
    snprintf(path, sizeof path, "%s/end-%lld.json", folder, (long long)attempt);
    if (!ebb_file_exists(path))
        return false;
    if (ebb_json_load(path, &json) != EBB_OK)
        ebb_error_clear();
    *code_p = json ? (int)json_integer_value(json_object_get(json, "code")) : 70;
    json_decref(json);
    return true;
}

/* A keeper's claim names its pid, an agent's is empty; false: there is none. */
static bool read_claim(const char *folder, int64_t attempt, long *pid_p)
{
    char path[PATH_MAX], text[64] = "";
    *pid_p = 0;
    snprintf(path, sizeof path, "%s/begun-%lld", folder, (long long)attempt);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n > 0 && sscanf(text, "keeper %ld", pid_p) != 1)
        *pid_p = 0;
    return true;
}

/* The order matters: the end is written before the lock is let go. */
ebb_attempt_state_t ebb_attempt_look(const char *state, int64_t id, int64_t attempt, int *code_p)
{
    char folder[PATH_MAX];
    long pid;
    ebb_attempt_folder(state, id, folder);
    bool kept = ebb_folder_locked(folder, EBB_KEEPER_LOCK);
    if (read_end(folder, attempt, code_p))
        return EBB_ATTEMPT_ENDED;
    if (!read_claim(folder, attempt, &pid))
        return EBB_ATTEMPT_NONE;
    return kept ? EBB_ATTEMPT_RUNS : pid == 0 ? EBB_ATTEMPT_REVOKED : EBB_ATTEMPT_LOST;
}

ebb_attempt_state_t ebb_attempt_revoke(const char *state, int64_t id, int64_t attempt, int *code_p)
{
    char folder[PATH_MAX];
    ebb_attempt_folder(state, id, folder);
    if (ebb_file_mkdirs(folder) != EBB_OK) {
        ebb_error_clear();
        return ebb_attempt_look(state, id, attempt, code_p);
    }
    return ebb_keeper_claim(folder, attempt, 0) ? EBB_ATTEMPT_REVOKED : ebb_attempt_look(state, id, attempt, code_p);
}

/* A pid could have been given to another process: the descriptor is taken first, and is the keeper's if the lock is
 * still held then. */
bool ebb_attempt_tell(const char *state, int64_t id, int64_t attempt, ebb_keeper_word_t word)
{
    char folder[PATH_MAX];
    long pid;
    ebb_attempt_folder(state, id, folder);
    if (!read_claim(folder, attempt, &pid) || pid <= 0)
        return false;
    int fd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
    if (fd < 0)
        return false;
    bool told =
        ebb_folder_locked(folder, EBB_KEEPER_LOCK) && syscall(SYS_pidfd_send_signal, fd, (int)word, NULL, 0) == 0;
    close(fd);
    return told;
}

/* ---- what lost its keeper ---- */

static bool has_line(const char *text, size_t n, const char *wanted)
{
    for (const char *v = text; v < text + n; v += strlen(v) + 1)
        if (strcmp(v, wanted) == 0)
            return true;
    return false;
}

static bool belongs_to(long pid, const char *id, const char *state)
{
    static char text[1 << 20]; /* the agent has one thread that comes here */
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/environ", pid);
    size_t n = ebb_proc_read(path, text, sizeof text);
    return has_line(text, n, id) && has_line(text, n, state);
}

static int kill_those(const char *id, const char *state)
{
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    int n = 0;
    while (proc && (entry = readdir(proc))) {
        char *end;
        long pid = strtol(entry->d_name, &end, 10);
        if (*end || pid <= 1 || pid == getpid() || !belongs_to(pid, id, state))
            continue;
        kill((pid_t)pid, SIGKILL);
        n++;
    }
    if (proc)
        closedir(proc);
    return n;
}

int ebb_attempt_sweep(const char *state, int64_t id)
{
    const struct timespec pause = {.tv_nsec = 10000000};
    char id_text[64], state_text[PATH_MAX + 16];
    int n = 0;
    snprintf(id_text, sizeof id_text, "EBB_JOB_ID=%lld", (long long)id);
    snprintf(state_text, sizeof state_text, "EBB_STATE_DIR=%s", state);
    for (int i = 0; i < SWEEPS && (n = kill_those(id_text, state_text)) > 0; i++)
        nanosleep(&pause, NULL);
    return n;
}
