/* Files: whole reads and writes, and replacing a file so that a crash leaves the old or the new one, never a part. */
#ifndef EBB_BASE_FILE_H
#define EBB_BASE_FILE_H

#include <ebb/base.h>
#include <sys/types.h>

/* Errors name the path and what the system said; ENOSPC/EDQUOT give EBB_ENOSPC, ENOENT EBB_ENOINPUT. */
ebb_status_t ebb_file_open(const char *path, int flags, mode_t mode, int *fd_p) EBB_MUST_CHECK;
/* All of it, or EBB_EDATA "truncated". */
ebb_status_t ebb_file_pread(int fd, const char *path, void *buf, size_t bytes, int64_t offset);
ebb_status_t ebb_file_pwrite(int fd, const char *path, const void *buf, size_t bytes, int64_t offset);
/* Whole file; *text_p is zero-terminated; free with ebb_free. */
ebb_status_t ebb_file_read_all(const char *path, char **text_p, size_t *bytes_p);
/* Write path.tmp-THREAD, fsync, rename to path, fsync the folder. A device or pipe at path is written as it stands. */
ebb_status_t ebb_file_replace(const char *path, const void *data, size_t bytes);
/* The last part of that, for a file written by other means. */
ebb_status_t ebb_file_commit(const char *tmp, const char *path);
/* mkdir -p; each folder made is synced into the one above. */
ebb_status_t ebb_file_mkdirs(const char *path);
bool ebb_file_exists(const char *path);
/* A device, a pipe or a socket: never to be renamed over, /dev/stdout for one. */
bool ebb_file_streams(const char *path);
/* A file, or a folder with all that is in it; links are not followed. False: errno says why. */
bool ebb_file_remove_tree(const char *path);
bool ebb_file_is_dir(const char *path);
int64_t ebb_file_size(const char *path); /* -1 if absent */
/* Record an error from errno: "path: verb: reason". */
ebb_status_t ebb_file_error(const char *path, const char *verb);

#endif
