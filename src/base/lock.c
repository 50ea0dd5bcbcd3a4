/* A lock on a folder: an exclusive flock on a file in it, in which the holder writes who it is. The kernel drops it
 * when the holder dies, also by SIGKILL; the text is only for the message. Where a file system has no locks the text
 * alone must do: a live process of this host named in it refuses, everything else is taken as stale.
 */
#include "base/lock.h"

#include "base/clock.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

typedef struct holder {
    char host[256], since[32];
    long pid;
} holder_t;

static bool read_holder(int fd, holder_t *h)
{
    char text[400];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    if (n <= 0)
        return false;
    text[n] = 0;
    return sscanf(text, "host %255s pid %ld since %31s", h->host, &h->pid, h->since) == 3;
}

static ebb_status_t write_holder(int fd, const char *path)
{
    char text[400], since[32], host[256] = "unknown";
    gethostname(host, sizeof host - 1);
    ebb_format_utc(ebb_wall_seconds(), since, sizeof since);
    int n = snprintf(text, sizeof text, "host %s pid %ld since %s\n", *host ? host : "unknown", (long)getpid(), since);
    if (ftruncate(fd, 0) != 0)
        return ebb_file_error(path, "write");
    return ebb_file_pwrite(fd, path, text, (size_t)n, 0);
}

/* Without locks: is the process that wrote the file still there, as far as can be seen from here? */
static bool holder_lives(const holder_t *h)
{
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    return strcmp(host, h->host) == 0 && h->pid > 0 && h->pid != (long)getpid() &&
           (kill((pid_t)h->pid, 0) == 0 || errno == EPERM);
}

static ebb_status_t refuse(const char *folder, bool known, const holder_t *h)
{
    if (!known)
        return EBB_FAIL(EBB_EUSAGE, "%s: in use by another process: wait for it, or give this run another run.name",
                        folder);
    return EBB_FAIL(EBB_EUSAGE,
                    "%s: in use by process %ld on %s since %s: wait for it, or give this run another run.name", folder,
                    h->pid, h->host, h->since);
}

/* *busy_p: somebody holds it, also a second later: a holder that is dying has let go by then, and so has one that only
 * looked (ebb_folder_locked). */
static bool try_lock(int fd, bool *busy_p)
{
    for (int tries = 0;; tries++) {
        bool locked = flock(fd, LOCK_EX | LOCK_NB) == 0;
        *busy_p = !locked && errno == EWOULDBLOCK;
        if (!*busy_p || tries == 20)
            return locked;
        nanosleep(&(struct timespec){0, 50000000}, NULL);
    }
}

ebb_status_t ebb_folder_lock(const char *folder, const char *file, int *fd_p)
{
    char path[PATH_MAX];
    holder_t h;
    *fd_p = -1;
    if (snprintf(path, sizeof path, "%s/%s", folder, file) >= (int)sizeof path)
        return EBB_FAIL(EBB_EINVAL, "path too long: %.80s...", folder);
    EBB_TRY(ebb_file_open(path, O_RDWR | O_CREAT, 0666, fd_p));
    bool busy, locked = try_lock(*fd_p, &busy), known = read_holder(*fd_p, &h);
    ebb_status_t status = EBB_OK;
    if (busy || (!locked && known && holder_lives(&h)))
        status = refuse(folder, known, &h);
    if (status == EBB_OK)
        status = write_holder(*fd_p, path);
    if (status != EBB_OK) {
        close(*fd_p);
        *fd_p = -1;
    }
    return status;
}

bool ebb_folder_locked(const char *folder, const char *file)
{
    char path[PATH_MAX];
    holder_t h;
    snprintf(path, sizeof path, "%s/%s", folder, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return false;
    bool free_now = flock(fd, LOCK_SH | LOCK_NB) == 0, busy = !free_now && errno == EWOULDBLOCK;
    bool held = busy || (!free_now && read_holder(fd, &h) && holder_lives(&h));
    close(fd);
    return held;
}
