/* Files. */
#include "base/file.h"
#include "base/alloc.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

ebb_status_t ebb_file_error(const char *path, const char *verb)
{
    int e = errno;
    ebb_status_t status = e == ENOENT                  ? EBB_ENOINPUT
                          : e == ENOSPC || e == EDQUOT ? EBB_ENOSPC
                          : e == ENOMEM                ? EBB_ENOMEM
                                                       : EBB_EIO;
    return EBB_FAIL(status, "%s: cannot %s: %s", path, verb, strerror(e));
}

ebb_status_t ebb_file_open(const char *path, int flags, mode_t mode, int *fd_p)
{
    *fd_p = open(path, flags | O_CLOEXEC, mode);
    return *fd_p < 0 ? ebb_file_error(path, flags & O_CREAT ? "create" : "open") : EBB_OK;
}

ebb_status_t ebb_file_pread(int fd, const char *path, void *buf, size_t bytes, int64_t offset)
{
    char *p = buf;
    while (bytes > 0) {
        ssize_t n = pread(fd, p, bytes, offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ebb_file_error(path, "read");
        if (n == 0)
            return EBB_FAIL(EBB_EDATA, "%s: truncated: %zu bytes missing at offset %lld", path, bytes,
                            (long long)offset);
        p += n;
        bytes -= (size_t)n;
        offset += n;
    }
    return EBB_OK;
}

ebb_status_t ebb_file_pwrite(int fd, const char *path, const void *buf, size_t bytes, int64_t offset)
{
    const char *p = buf;
    while (bytes > 0) {
        ssize_t n = pwrite(fd, p, bytes, offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ebb_file_error(path, "write");
        p += n;
        bytes -= (size_t)n;
        offset += n;
    }
    return EBB_OK;
}

ebb_status_t ebb_file_read_all(const char *path, char **text_p, size_t *bytes_p)
{
    int fd;
    struct stat st;
    void *text = NULL;
    ebb_status_t status = EBB_OK;
    *text_p = NULL;
    EBB_TRY(ebb_file_open(path, O_RDONLY, 0, &fd));
    if (fstat(fd, &st) != 0) {
        status = ebb_file_error(path, "stat");
        goto done;
    }
    if (!S_ISREG(st.st_mode)) {
        status = EBB_FAIL(EBB_ENOINPUT, "%s: %s", path,
                          S_ISDIR(st.st_mode) ? "is a folder; name a file" : "not a regular file");
        goto done;
    }
    EBB_TRY_GOTO(status, ebb_alloc(path, (size_t)st.st_size + 1, &text), done);
    EBB_TRY_GOTO(status, ebb_file_pread(fd, path, text, (size_t)st.st_size, 0), done);
    *text_p = text;
    *bytes_p = (size_t)st.st_size;
    text = NULL;
done:
    ebb_free(text);
    close(fd);
    return status;
}

static ebb_status_t sync_folder_of(const char *path)
{
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", path);
    const char *folder = dirname(copy);
    int fd;
    EBB_TRY(ebb_file_open(folder, O_RDONLY | O_DIRECTORY, 0, &fd));
    /* Some network file systems cannot sync a folder (EINVAL); there the rename is all one can have. */
    ebb_status_t status = fsync(fd) != 0 && errno != EINVAL ? ebb_file_error(folder, "sync") : EBB_OK;
    close(fd);
    return status;
}

ebb_status_t ebb_file_commit(const char *tmp, const char *path)
{
    int fd;
    EBB_TRY(ebb_file_open(tmp, O_RDONLY, 0, &fd));
    ebb_status_t status = fsync(fd) != 0 ? ebb_file_error(tmp, "sync") : EBB_OK;
    close(fd);
    EBB_TRY(status);
    if (rename(tmp, path) != 0)
        return ebb_file_error(path, "rename into place");
    return sync_folder_of(path);
}

bool ebb_file_streams(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
}

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *walk)
{
    return remove(path);
}

bool ebb_file_remove_tree(const char *path)
{
    return nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS) == 0;
}

static ebb_status_t write_as_it_stands(const char *path, const void *data, size_t bytes)
{
    FILE *f = fopen(path, "we");
    bool good = f && fwrite(data, 1, bytes, f) == bytes;
    if (f && fclose(f) != 0)
        good = false;
    return good ? EBB_OK : ebb_file_error(path, "write");
}

ebb_status_t ebb_file_replace(const char *path, const void *data, size_t bytes)
{
    char tmp[PATH_MAX];
    int fd;
    if (ebb_file_streams(path))
        return write_as_it_stands(path, data, bytes);
    snprintf(tmp, sizeof tmp, "%s.tmp-%ld", path, (long)gettid());
    EBB_TRY(ebb_file_open(tmp, O_WRONLY | O_CREAT | O_TRUNC, 0666, &fd));
    ebb_status_t status = ebb_file_pwrite(fd, tmp, data, bytes, 0);
    if (close(fd) != 0 && status == EBB_OK)
        status = ebb_file_error(tmp, "write");
    if (status == EBB_OK)
        status = ebb_file_commit(tmp, path);
    if (status != EBB_OK)
        unlink(tmp);
    return status;
}

/* A folder that survives a power cut as soon as something in it does. */
static ebb_status_t make_folder(const char *path)
{
    if (mkdir(path, 0777) == 0)
        return sync_folder_of(path);
    return errno == EEXIST ? EBB_OK : ebb_file_error(path, "make folder");
}

ebb_status_t ebb_file_mkdirs(const char *path)
{
    char copy[PATH_MAX];
    if (snprintf(copy, sizeof copy, "%s", path) >= (int)sizeof copy)
        return EBB_FAIL(EBB_EINVAL, "path too long: %.80s...", path);
    for (char *p = copy + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = 0;
        EBB_TRY(make_folder(copy));
        *p = '/';
    }
    EBB_TRY(make_folder(copy));
    if (!ebb_file_is_dir(copy))
        return EBB_FAIL(EBB_EIO, "%s: is not a folder", copy);
    return EBB_OK;
}

bool ebb_file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

bool ebb_file_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int64_t ebb_file_size(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (int64_t)st.st_size : -1;
}
