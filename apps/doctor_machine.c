/* ebb doctor: processor, memory, file systems and limits, as the kernel tells them. */
#include "doctor.h"
#include "base/text.h"
#include "base/threads.h"

#include <ebb/compute.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define MIB (1024.0 * 1024.0)

/* First line of a small file without its newline; false if unreadable. */
static bool read_line(const char *path, char *text, size_t size)
{
    FILE *f = fopen(path, "re");
    bool ok = f && fgets(text, (int)size, f);
    if (f)
        fclose(f);
    if (ok)
        text[strcspn(text, "\n")] = 0;
    return ok;
}

/* Value of the first line "key : value" of a file such as /proc/cpuinfo. */
static bool read_key(const char *path, const char *key, char *text, size_t size)
{
    char line[1024];
    bool found = false;
    FILE *f = fopen(path, "re");
    while (f && !found && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (!colon || strncmp(line, key, strlen(key)) != 0)
            continue;
        colon += 1 + strspn(colon + 1, " \t");
        colon[strcspn(colon, "\n")] = 0;
        snprintf(text, size, "%s", colon);
        found = true;
    }
    if (f)
        fclose(f);
    return found;
}

/* What the backend itself says it will run. */
static void check_cpu(doctor_t *d)
{
    ebb_backend_t *backend = NULL;
    char text[300] = "";
    ebb_status_t status = ebb_backend_open("cpu", 0, &backend);
    if (status == EBB_OK)
        status = backend->ops->describe(backend->dev, text, sizeof text);
    if (status == EBB_OK) {
        doctor_row_t *row = doctor_add(d, "cpu", DOCTOR_OK, "%s", text);
        if (strstr(text, "scalar"))
            doctor_cure(row,
                        "without AVX2 and FMA (or with EBB_ISA=scalar) training is several times slower; its results "
                        "are the same");
    } else {
        doctor_add(d, "cpu", DOCTOR_UNUSABLE, "%.390s", ebb_error()->message)->required = true;
        ebb_error_clear();
    }
    ebb_backend_close(backend);
}

/* Cores that a container's quota allows, 0 for no quota. */
static double quota_cores(void)
{
    char text[64];
    double quota, period;
    if (!read_line("/sys/fs/cgroup/cpu.max", text, sizeof text) || sscanf(text, "%lf %lf", &quota, &period) != 2)
        return 0;
    return period > 0 ? quota / period : 0;
}

static void check_cores(doctor_t *d)
{
    int usable = ebb_cores();
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    double quota = quota_cores();
    char limit[64] = "";
    if (quota > 0)
        snprintf(limit, sizeof limit, ", quota of %.3g", quota);
    doctor_row_t *row = doctor_add(d, "cores", DOCTOR_OK, "%d usable of %ld online%s", usable, online, limit);
    if (usable < online)
        doctor_cure(row,
                    "the affinity mask holds the rest back; start with `taskset -c 0-%ld`, or mpirun --bind-to none",
                    online - 1);
    else if (quota > 0 && quota < usable)
        doctor_cure(row, "give --threads %d to stay within the quota", quota < 1 ? 1 : (int)quota);
}

static void check_memory(doctor_t *d)
{
    char text[64], total_text[32], available_text[32], limit_text[64] = "";
    double total = 0, available = 0;
    if (read_key("/proc/meminfo", "MemTotal", text, sizeof text))
        total = atof(text) * 1024;
    if (read_key("/proc/meminfo", "MemAvailable", text, sizeof text))
        available = atof(text) * 1024;
    if (read_line("/sys/fs/cgroup/memory.max", text, sizeof text) && atof(text) > 0 && atof(text) < total) {
        char figure[32];
        snprintf(limit_text, sizeof limit_text, ", limit %s", ebb_format_bytes(atof(text), figure, sizeof figure));
    }
    bool enough = available >= 512 * MIB;
    doctor_row_t *row = doctor_add(d, "memory", enough ? DOCTOR_OK : DOCTOR_UNUSABLE, "%s, %s available%s",
                                   ebb_format_bytes(total, total_text, sizeof total_text),
                                   ebb_format_bytes(available, available_text, sizeof available_text), limit_text);
    if (!enough)
        doctor_cure(row, "less than 512 MiB is free: end other programs, or lower data.memory and --memory");
}

static void check_huge_pages(doctor_t *d)
{
    char text[128];
    const char *path = "/sys/kernel/mm/transparent_hugepage/enabled";
    if (!read_line(path, text, sizeof text)) {
        doctor_add(d, "huge pages", DOCTOR_MISSING, "the kernel has no transparent huge pages");
        return;
    }
    bool never = strstr(text, "[never]") != NULL;
    doctor_row_t *row = doctor_add(d, "huge pages", never ? DOCTOR_UNUSABLE : DOCTOR_OK, "transparent: %s", text);
    if (never)
        doctor_cure(row, "for a few per cent of speed: echo madvise | sudo tee %s", path);
}

static void check_space(doctor_t *d, const char *name, const char *path, double need, const char *cure)
{
    struct statvfs fs;
    char figure[32];
    if (statvfs(path, &fs) != 0) {
        doctor_cure(doctor_add(d, name, DOCTOR_MISSING, "%s: %s", path, strerror(errno)), "%s", cure);
        return;
    }
    double available = (double)fs.f_bavail * (double)fs.f_frsize;
    bool writable = access(path, W_OK) == 0;
    bool ok = writable && available >= need;
    doctor_row_t *row =
        doctor_add(d, name, ok ? DOCTOR_OK : DOCTOR_UNUSABLE, "%s: %s free%s", path,
                   ebb_format_bytes(available, figure, sizeof figure), writable ? "" : ", not writable");
    if (!ok)
        doctor_cure(row, "%s", cure);
}

static void check_open_files(doctor_t *d)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    bool ok = limit.rlim_cur >= 256;
    doctor_row_t *row = doctor_add(d, "open files", ok ? DOCTOR_OK : DOCTOR_UNUSABLE, "at most %llu",
                                   (unsigned long long)limit.rlim_cur);
    if (!ok)
        doctor_cure(row, "each shard keeps a file open: ulimit -n 4096");
}

void doctor_check_machine(doctor_t *d)
{
    const char *tmp = getenv("TMPDIR");
    check_cpu(d);
    check_cores(d);
    check_memory(d);
    check_huge_pages(d);
    check_space(d, "/dev/shm", "/dev/shm", 64 * MIB,
                "ranks of one machine talk through it: mount it, in a container with --shm-size=1g");
    check_space(d, "TMPDIR", tmp && *tmp ? tmp : "/tmp", 64 * MIB, "export TMPDIR=FOLDER with free space");
    check_open_files(d);
}
