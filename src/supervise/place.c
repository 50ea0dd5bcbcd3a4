/* A tmpfs that is mounted nowhere, reached as /proc/PID/fd/N: however its holders end, the kernel frees it. Mounting
 * needs rights that a process has in a user namespace of its own, so a helper makes it in one and hands over the
 * descriptor; nothing else happens in that namespace.
 *
 * Or private folders: BASE/ebb-UID-XXXXXX, mode 0700, with a file "lock" that is flocked as long as the supervisor or
 * its helper lives. What is not locked is nobody's any more. Symbolic links are never followed. */
#include "supervise/place.h"
#include "base/file.h"
#include "base/lock.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define YOUNG_SECONDS 60 /* a folder without a lock may be one that is being made */

static const ebb_place_t nowhere = {.mount_fd = -1, .lock_fd = -1};
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

/* ---- a file system without a name ---- */

/* Its descriptor, or -1. */
static int mount_tmpfs(void)
{
    int mount = -1, context = fsopen("tmpfs", FSOPEN_CLOEXEC);
    if (context < 0)
        return -1;
    if (fsconfig(context, FSCONFIG_SET_STRING, "mode", "0700", 0) == 0 &&
        fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
        mount = fsmount(context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
    close(context);
    return mount;
}

static bool write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        close(fd);
    return done;
}

/* With the user's own numbers, so that its files are the user's outside too. */
static bool enter_namespace(void)
{
    char users[64], groups[64];
    snprintf(users, sizeof users, "%ld %ld 1", (long)geteuid(), (long)geteuid());
    snprintf(groups, sizeof groups, "%ld %ld 1", (long)getegid(), (long)getegid());
    return unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 && write_text("/proc/self/setgroups", "deny") &&
           write_text("/proc/self/uid_map", users) && write_text("/proc/self/gid_map", groups);
}

/* A message of one byte with a descriptor beside it. */
typedef union control {
    struct cmsghdr head;
    char room[CMSG_SPACE(sizeof(int))];
} control_t;

static bool send_fd(int to, int fd)
{
    char byte = 0;
    control_t control = {.head = {.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec data = {&byte, 1};
    struct msghdr m = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
    return sendmsg(to, &m, 0) == 1;
}

static int receive_fd(int from)
{
    char byte;
    int fd = -1;
    control_t control = {{0}};
    struct iovec data = {&byte, 1};
    struct msghdr m = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    if (recvmsg(from, &m, MSG_CMSG_CLOEXEC) == 1 && control.head.cmsg_type == SCM_RIGHTS &&
        control.head.cmsg_len == CMSG_LEN(sizeof fd))
        memcpy(&fd, CMSG_DATA(&control.head), sizeof fd);
    return fd;
}

/* By a helper in a namespace of its own. */
static int mount_for_user(void)
{
    int pair[2], mount = -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return -1;
    pid_t helper = fork();
    if (helper == 0) {
        int fd = enter_namespace() ? mount_tmpfs() : -1;
        _exit(fd >= 0 && send_fd(pair[1], fd) ? 0 : 1);
    }
    close(pair[1]);
    if (helper > 0) {
        mount = receive_fd(pair[0]);
        waitpid(helper, NULL, 0);
    }
    close(pair[0]);
    return mount;
}

/* Old kernels may give one that others cannot use. */
static bool is_usable(const char *path)
{
    char inside[96];
    snprintf(inside, sizeof inside, "%s/try", path);
    return mkdir(inside, 0700) == 0 && rmdir(inside) == 0;
}

static bool mount_place(ebb_place_t *place)
{
    place->mount_fd = mount_tmpfs();
    if (place->mount_fd < 0)
        place->mount_fd = mount_for_user();
    snprintf(place->path, sizeof place->path, "/proc/%ld/fd/%d", (long)getpid(), place->mount_fd);
    if (place->mount_fd < 0 || is_usable(place->path))
        return place->mount_fd >= 0;
    close(place->mount_fd);
    place->mount_fd = -1;
    return false;
}

/* ---- either ---- */

ebb_status_t ebb_place_make(ebb_place_t *place)
{
    *place = nowhere;
    return mount_place(place) ? EBB_OK : ebb_place_make_folder(place);
}

ebb_status_t ebb_place_make_folder(ebb_place_t *place)
{
    bool made = false;
    *place = nowhere;
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
    if (place->mount_fd >= 0)
        close(place->mount_fd);
    place->mount_fd = -1;
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
