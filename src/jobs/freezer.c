/* Files of cgroup v2: linux/Documentation/admin-guide/cgroup-v2.rst, "cgroup.freeze" and "cgroup.events". */
#include "jobs/freezer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PREFIX "ebb-job-" /* and the keeper's pid */

enum { LOOKS = 500, LOOK_NS = 2000000 };

/* ---- where ---- */

static bool mount_point(char path[PATH_MAX])
{
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    const struct mntent *m;
    bool found = false;
    while (mounts && !found && (m = getmntent(mounts)))
        found = strcmp(m->mnt_type, "cgroup2") == 0 && snprintf(path, PATH_MAX, "%s", m->mnt_dir) < PATH_MAX;
    if (mounts)
        endmntent(mounts);
    return found;
}

/* The group of this process. */
static bool own_group(char path[PATH_MAX])
{
    char mount[PATH_MAX], *line = NULL;
    size_t room = 0;
    ssize_t n;
    bool found = false;
    FILE *groups = mount_point(mount) ? fopen("/proc/self/cgroup", "re") : NULL;
    while (groups && !found && (n = getline(&line, &room, groups)) > 0) {
        line[n - 1] = 0;
        found = strncmp(line, "0::/", 4) == 0 && snprintf(path, PATH_MAX, "%s%s", mount, line + 3) < PATH_MAX;
    }
    free(line); /* getline's */
    if (groups)
        fclose(groups);
    return found;
}

/* Groups of keepers that were killed; one that still has processes stays. */
static void remove_old(const char *parent)
{
    DIR *dir = opendir(parent);
    const struct dirent *entry;
    while (dir && (entry = readdir(dir))) {
        long pid = strncmp(entry->d_name, PREFIX, strlen(PREFIX)) == 0 ? atol(entry->d_name + strlen(PREFIX)) : 0;
        if (pid > 0 && kill((pid_t)pid, 0) != 0 && errno == ESRCH)
            unlinkat(dirfd(dir), entry->d_name, AT_REMOVEDIR);
    }
    if (dir)
        closedir(dir);
}

void ebb_freezer_create(ebb_freezer_t *f)
{
    char parent[PATH_MAX];
    f->path[0] = 0;
    if (!own_group(parent))
        return;
    remove_old(parent);
    int n = snprintf(f->path, sizeof f->path, "%s/" PREFIX "%ld", parent, (long)getpid());
    if (n + 16 > (int)sizeof f->path || mkdir(f->path, 0755) != 0) /* 16: its files */
        f->path[0] = 0;
}

void ebb_freezer_destroy(ebb_freezer_t *f)
{
    if (f->path[0])
        rmdir(f->path);
    f->path[0] = 0;
}

/* ---- its files ---- */

static int open_file(const ebb_freezer_t *f, const char *name, int flags)
{
    char path[PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/%s", f->path, name);
    return open(path, flags | O_CLOEXEC);
}

static bool write_file(const ebb_freezer_t *f, const char *name, const char *text)
{
    int fd = open_file(f, name, O_WRONLY);
    bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        close(fd);
    return good;
}

void ebb_freezer_enter(const ebb_freezer_t *f)
{
    if (f->path[0])
        (void)write_file(f, "cgroup.procs", "0");
}

/* Lines are "populated 0|1" and "frozen 0|1". */
static bool is_so(const ebb_freezer_t *f, const char *line)
{
    char text[128];
    int fd = open_file(f, "cgroup.events", O_RDONLY);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = 0;
    return strstr(text, line) != NULL;
}

bool ebb_freezer_set(const ebb_freezer_t *f, bool frozen)
{
    const struct timespec pause = {.tv_nsec = LOOK_NS};
    if (!f->path[0] || !is_so(f, "populated 1") || !write_file(f, "cgroup.freeze", frozen ? "1" : "0"))
        return false;
    for (int look = 0; look < LOOKS; look++) {
        if (is_so(f, frozen ? "frozen 1" : "frozen 0"))
            return true;
        nanosleep(&pause, NULL);
    }
    if (frozen)
        (void)write_file(f, "cgroup.freeze", "0");
    return false;
}
