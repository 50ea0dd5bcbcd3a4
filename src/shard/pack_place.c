/* The destination folder. A data set is built in the hidden sibling ".NAME.packing", which rank 0 holds locked, and
 * renamed when it is complete; a failed pack removes it, a killed one leaves it to the next pack of that name. An
 * existing data set is replaced by exchanging the two names.
 */
#include "shard/pack.h"
#include "base/alloc.h"
#include "base/file.h"
#include "base/text.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static ebb_status_t join(char **path_p, const char *a, const char *between, const char *b)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s%s%s", a, between, b) >= (int)sizeof path)
        return EBB_FAIL(EBB_EUSAGE, "path too long: %.100s...", a);
    *path_p = ebb_strdup(path);
    return *path_p ? EBB_OK : EBB_FAIL(EBB_ENOMEM, "no memory for a path");
}

/* Is it a data set, a folder of data sets, or empty: something --force may replace? */
static bool is_data_set(const char *path, int depth)
{
    char inner[PATH_MAX];
    snprintf(inner, sizeof inner, "%s/manifest.json", path);
    if (ebb_file_exists(inner))
        return true;
    DIR *dir = depth > 0 ? opendir(path) : NULL;
    if (!dir)
        return false;
    bool all = true;
    for (struct dirent *e; all && (e = readdir(dir));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        snprintf(inner, sizeof inner, "%s/%s", path, e->d_name);
        all = ebb_file_is_dir(inner) && is_data_set(inner, depth - 1);
    }
    closedir(dir);
    return all;
}

static bool is_empty_folder(const char *path)
{
    return ebb_file_is_dir(path) && rmdir(path) == 0 && mkdir(path, 0777) == 0;
}

static ebb_status_t check_dest(const ebb_pack_t *p)
{
    if (!ebb_file_exists(p->dest) || is_empty_folder(p->dest))
        return EBB_OK;
    if (!ebb_file_is_dir(p->dest) || !is_data_set(p->dest, 1))
        return EBB_FAIL(EBB_EUSAGE, "%s: exists and is not a data set; choose another destination", p->dest);
    if (!p->o.force)
        return EBB_FAIL(EBB_EUSAGE, "%s: exists already; replace it with --force or choose another destination",
                        p->dest);
    return EBB_OK;
}

/* Make and lock the folder of construction; what a killed pack left there goes. */
static ebb_status_t make_tmp(ebb_pack_t *p)
{
    bool stale = mkdir(p->tmp, 0777) != 0;
    if (stale && errno != EEXIST)
        return ebb_file_error(p->tmp, "make folder");
    EBB_TRY(ebb_file_open(p->tmp, O_RDONLY | O_DIRECTORY, 0, &p->lock));
    if (flock(p->lock, LOCK_EX | LOCK_NB) != 0) {
        close(p->lock);
        p->lock = -1;
        return EBB_FAIL(EBB_EUSAGE, "%s: another pack is writing it; wait for that one or choose another destination",
                        p->dest);
    }
    if (!stale)
        return EBB_OK;
    close(p->lock);
    p->lock = -1;
    (void)ebb_file_remove_tree(p->tmp);
    if (mkdir(p->tmp, 0777) != 0)
        return ebb_file_error(p->tmp, "make folder");
    EBB_TRY(ebb_file_open(p->tmp, O_RDONLY | O_DIRECTORY, 0, &p->lock));
    return flock(p->lock, LOCK_EX | LOCK_NB) == 0 ? EBB_OK : ebb_file_error(p->tmp, "lock");
}

static ebb_status_t make_folders(ebb_pack_t *p)
{
    char parent[PATH_MAX];
    const char *slash = strrchr(p->dest, '/');
    EBB_TRY(check_dest(p));
    if (slash && slash != p->dest) {
        snprintf(parent, sizeof parent, "%.*s", (int)(slash - p->dest), p->dest);
        EBB_TRY(ebb_file_mkdirs(parent));
    }
    EBB_TRY(make_tmp(p));
    for (int i = 0; p->o.split && i < p->n_parts; i++)
        EBB_TRY(ebb_file_mkdirs(p->part[i].dir));
    return EBB_OK;
}

ebb_status_t ebb_pack_place_begin(ebb_pack_t *p)
{
    const char *slash = strrchr(p->dest, '/'), *base = slash ? slash + 1 : p->dest;
    char parent[PATH_MAX] = "", hidden[PATH_MAX];
    if (slash)
        snprintf(parent, sizeof parent, "%.*s", (int)(slash - p->dest + 1), p->dest);
    snprintf(hidden, sizeof hidden, ".%s.packing", base);
    EBB_TRY(join(&p->tmp, parent, "", hidden));
    for (int i = 0; i < p->n_parts; i++) {
        ebb_pack_part_t *part = &p->part[i];
        EBB_TRY(join(&part->dir, p->tmp, p->o.split ? "/" : "", part->name));
        EBB_TRY(join(&part->title, p->o.name ? p->o.name : base, p->o.split ? "/" : "", part->name));
    }
    return ebb_comm_agree(p->comm, p->rank == 0 ? make_folders(p) : EBB_OK);
}

static ebb_status_t sync_parent(const char *path)
{
    char parent[PATH_MAX];
    int fd;
    const char *slash = strrchr(path, '/');
    snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash - path + 1) : 1, slash ? path : ".");
    EBB_TRY(ebb_file_open(parent, O_RDONLY | O_DIRECTORY, 0, &fd));
    /* Some network file systems cannot sync a folder (EINVAL). */
    ebb_status_t status = fsync(fd) != 0 && errno != EINVAL ? ebb_file_error(parent, "sync") : EBB_OK;
    close(fd);
    return status;
}

static ebb_status_t move_into_place(ebb_pack_t *p)
{
    EBB_TRY(check_dest(p));
    if (rename(p->tmp, p->dest) == 0)
        return sync_parent(p->dest);
    if (errno != EEXIST && errno != ENOTEMPTY)
        return ebb_file_error(p->dest, "rename into place");
    if (renameat2(AT_FDCWD, p->tmp, AT_FDCWD, p->dest, RENAME_EXCHANGE) != 0) {
        /* A file system without exchange: for a moment there is neither. */
        (void)ebb_file_remove_tree(p->dest);
        if (rename(p->tmp, p->dest) != 0)
            return ebb_file_error(p->dest, "rename into place");
        return sync_parent(p->dest);
    }
    EBB_TRY(sync_parent(p->dest));
    (void)ebb_file_remove_tree(p->tmp);
    return EBB_OK;
}

ebb_status_t ebb_pack_place_commit(ebb_pack_t *p)
{
    ebb_status_t status = EBB_OK;
    for (int i = 0; p->rank == 0 && i < p->n_parts && status == EBB_OK; i++) {
        const ebb_pack_part_t *part = &p->part[i];
        status = ebb_manifest_write(part->dir, &part->plan, (int)part->n_shards, p->summary + part->first_shard,
                                    part->class_rows);
    }
    if (p->rank == 0 && status == EBB_OK)
        status = move_into_place(p);
    if (p->rank == 0 &&
        status == EBB_OK) { /* the lock is on what has moved; the old name may be another pack's by now */
        close(p->lock);
        p->lock = -1;
    }
    return ebb_comm_agree(p->comm, status);
}

void ebb_pack_place_abandon(ebb_pack_t *p)
{
    if (p->lock < 0)
        return;
    if (p->tmp && ebb_file_is_dir(p->tmp))
        (void)ebb_file_remove_tree(p->tmp);
    close(p->lock);
    p->lock = -1;
}
