/* Private folders: BASE/ebb-UID-XXXXXX, mode 0700, with a file "lock" that is flocked as long as the supervisor or its
 * helper lives. What is not locked is nobody's any more. Symbolic links are never followed. */
#include "supervise/place.h"
#include "base/file.h"
#include "base/lock.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define YOUNG_SECONDS 60 /* a folder without a lock may be one that is being made */

static const char *const bases[] = {"/dev/shm", "/tmp"};

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    if (kind == FTW_DP || kind == FTW_DNR)
        rmdir(path);
    else
        unlink(path);
    return 0;
}

static void remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

static bool is_left_behind(const char *path)
{
    char lock[PATH_MAX];
    struct stat st;
    if (lstat(path, &st) != 0 || !S_ISDIR(st.st_mode) || st.st_uid != getuid())
        return false;
    snprintf(lock, sizeof lock, "%s/lock", path);
    int fd = open(lock, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return time(NULL) - st.st_mtime > YOUNG_SECONDS;
    bool free_now = flock(fd, LOCK_EX | LOCK_NB) == 0;
    close(fd);
    return free_now;
}

static void sweep(const char *base)
{
    char prefix[32], path[PATH_MAX];
    DIR *all = opendir(base);
    snprintf(prefix, sizeof prefix, "ebb-%ld-", (long)getuid());
    for (struct dirent *d; all && (d = readdir(all));) {
        if (strncmp(d->d_name, prefix, strlen(prefix)) != 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", base, d->d_name);
        if (is_left_behind(path))
            remove_tree(path);
    }
    if (all)
        closedir(all);
}

ebb_status_t ebb_place_make(ebb_place_t *place)
{
    bool made = false;
    place->lock_fd = -1;
    for (size_t i = 0; i < sizeof bases / sizeof *bases && !made; i++) {
        sweep(bases[i]);
        snprintf(place->path, sizeof place->path, "%s/ebb-%ld-XXXXXX", bases[i], (long)getuid());
        made = mkdtemp(place->path) != NULL;
    }
    if (!made)
        return ebb_file_error("/dev/shm and /tmp", "make a folder in");
    ebb_status_t status = ebb_folder_lock(place->path, "lock", &place->lock_fd);
    if (status != EBB_OK)
        remove_tree(place->path);
    return status;
}

void ebb_place_remove(ebb_place_t *place)
{
    if (place->lock_fd < 0)
        return;
    remove_tree(place->path);
    close(place->lock_fd);
    place->lock_fd = -1;
}

ebb_status_t ebb_place_use(const ebb_place_t *place)
{
    static const char *const names[] = {"OMPI_MCA_orte_tmpdir_base", "OMPI_MCA_btl_vader_backing_directory"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (setenv(names[i], place->path, 0) != 0)
            return EBB_FAIL(EBB_ENOMEM, "out of memory for the environment");
    return EBB_OK;
}
