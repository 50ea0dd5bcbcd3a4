/* A run's folder of checkpoints: names, the newest good one, and clearing out old ones. Damage is reported once, as a
 * warning. */
#include "checkpoint/internal.h"

#include "base/alloc.h"
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct entry {
    int64_t step;
    bool temporary;
    char name[NAME_MAX + 1];
} entry_t;

typedef struct listing {
    entry_t *entry; /* newest first */
    int64_t n, capacity;
} listing_t;

ebb_status_t ebb_checkpoint_path(const char *dir, int64_t step, char *path, size_t size)
{
    if (snprintf(path, size, "%s/step-%09" PRId64 ".h5", dir, step) >= (int)size)
        return EBB_FAIL(EBB_EINVAL, "checkpoint path too long: %.80s...", dir);
    return EBB_OK;
}

/* "step-000001000.h5", or the same with ".tmp-PID". */
static bool parse_name(const char *name, entry_t *entry)
{
    char *end;
    if (strncmp(name, "step-", 5) != 0 || name[5] < '0' || name[5] > '9')
        return false;
    errno = 0;
    entry->step = strtoll(name + 5, &end, 10);
    if (errno != 0 || strncmp(end, ".h5", 3) != 0)
        return false;
    entry->temporary = strncmp(end + 3, ".tmp-", 5) == 0;
    snprintf(entry->name, sizeof entry->name, "%s", name);
    return entry->temporary || end[3] == 0;
}

static int newest_first(const void *a, const void *b)
{
    int64_t x = ((const entry_t *)a)->step, y = ((const entry_t *)b)->step;
    return (x < y) - (x > y);
}

static ebb_status_t list(const char *dir, listing_t *l)
{
    entry_t entry;
    ebb_status_t status = EBB_OK;
    *l = (listing_t){0};
    DIR *d = opendir(dir);
    if (!d)
        return ebb_file_error(dir, "open folder of checkpoints");
    for (struct dirent *e; status == EBB_OK && (e = readdir(d));) {
        if (!parse_name(e->d_name, &entry))
            continue;
        status = ebb_grow("checkpoint list", (void **)&l->entry, &l->capacity, l->n + 1, sizeof *l->entry);
        if (status == EBB_OK)
            l->entry[l->n++] = entry;
    }
    closedir(d);
    if (l->n > 1)
        qsort(l->entry, (size_t)l->n, sizeof *l->entry, newest_first);
    return status;
}

static ebb_status_t join(const char *dir, const char *name, char *path, size_t size)
{
    if (snprintf(path, size, "%s/%s", dir, name) >= (int)size)
        return EBB_FAIL(EBB_EINVAL, "checkpoint path too long: %.80s...", dir);
    return EBB_OK;
}

static ebb_status_t newest(const char *dir, char *path, size_t size)
{
    listing_t l;
    ebb_status_t status = list(dir, &l);
    int64_t damaged = 0;
    for (int64_t i = 0; status == EBB_OK && i < l.n; i++) {
        if (l.entry[i].temporary)
            continue;
        EBB_TRY_GOTO(status, join(dir, l.entry[i].name, path, size), done);
        ebb_status_t bad = ebb_checkpoint_verify(path);
        if (bad == EBB_OK)
            goto done;
        if (bad == EBB_ENOMEM) {
            status = bad;
            goto done;
        }
        EBB_WARN("checkpoint", "%s; using the one before it", ebb_error()->message);
        ebb_error_clear();
        damaged++;
    }
    if (status == EBB_OK)
        status = EBB_FAIL(EBB_ENOINPUT, "%s: no checkpoint that can be loaded%s", dir,
                          damaged ? " (all are damaged); start the run anew" : "");
done:
    ebb_free(l.entry);
    return status;
}

ebb_status_t ebb_checkpoint_newest(ebb_comm_t *comm, const char *dir, char *path, size_t size)
{
    memset(path, 0, size);
    EBB_TRY(ebb_comm_agree(comm, ebb_comm_rank(comm) == 0 ? newest(dir, path, size) : EBB_OK));
    return ebb_comm_bcast(comm, path, (int64_t)size, 0);
}

static ebb_status_t rewind_folder(const char *dir, int64_t below, int64_t *step_p)
{
    listing_t l;
    entry_t entry;
    char path[PATH_MAX];
    ebb_status_t status = list(dir, &l);
    for (int64_t i = 0; status == EBB_OK && i < l.n; i++) {
        if (l.entry[i].temporary || l.entry[i].step < below)
            continue;
        status = join(dir, l.entry[i].name, path, sizeof path);
        if (status == EBB_OK && unlink(path) != 0 && errno != ENOENT)
            status = ebb_file_error(path, "remove checkpoint");
    }
    ebb_free(l.entry);
    *step_p = -1;
    if (status == EBB_OK)
        status = newest(dir, path, sizeof path);
    if (status == EBB_ENOINPUT) {
        ebb_error_clear();
        return EBB_OK;
    }
    if (status == EBB_OK && parse_name(strrchr(path, '/') + 1, &entry))
        *step_p = entry.step;
    return status;
}

ebb_status_t ebb_checkpoint_rewind(ebb_comm_t *comm, const char *dir, int64_t below, int64_t *step_p)
{
    EBB_TRY(ebb_comm_agree(comm, ebb_comm_rank(comm) == 0 ? rewind_folder(dir, below, step_p) : EBB_OK));
    return ebb_comm_bcast(comm, step_p, sizeof *step_p, 0);
}

ebb_status_t ebb_checkpoint_list(const char *dir, ebb_checkpoint_entry_t **entry_p, int64_t *n_p)
{
    listing_t l;
    char path[PATH_MAX];
    struct stat st;
    ebb_status_t status = list(dir, &l);
    *entry_p = NULL;
    *n_p = 0;
    if (status == EBB_OK)
        status = EBB_NEW_ARRAY("checkpoint list", l.n, entry_p);
    for (int64_t i = 0; status == EBB_OK && i < l.n; i++) {
        status = join(dir, l.entry[i].name, path, sizeof path);
        if (status != EBB_OK || stat(path, &st) != 0)
            continue; /* it was removed meanwhile */
        ebb_checkpoint_entry_t *e = &(*entry_p)[(*n_p)++];
        *e = (ebb_checkpoint_entry_t){.step = l.entry[i].step,
                                      .bytes = (int64_t)st.st_size,
                                      .modified = (double)st.st_mtim.tv_sec + (double)st.st_mtim.tv_nsec * 1e-9,
                                      .temporary = l.entry[i].temporary};
        memcpy(e->name, l.entry[i].name, sizeof e->name);
    }
    ebb_free(l.entry);
    if (status != EBB_OK) {
        ebb_free(*entry_p);
        *entry_p = NULL;
    }
    return status;
}

void ebb_checkpoint_list_free(ebb_checkpoint_entry_t *entry)
{
    ebb_free(entry);
}

ebb_status_t ebb_checkpoint_prune(const char *dir, int keep)
{
    listing_t l;
    char path[PATH_MAX];
    int kept = 0;
    ebb_status_t status = list(dir, &l);
    for (int64_t i = 0; status == EBB_OK && i < l.n; i++) {
        EBB_TRY_GOTO(status, join(dir, l.entry[i].name, path, sizeof path), done);
        /* A torn file does not count as one of the k, so that k good ones stay. */
        bool spare = !l.entry[i].temporary && kept < keep;
        if (spare && ebb_ckpt_complete(path))
            kept++;
        else if (!spare && unlink(path) != 0 && errno != ENOENT)
            status = ebb_file_error(path, "remove old checkpoint");
    }
done:
    ebb_free(l.entry);
    return status;
}
