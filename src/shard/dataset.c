/* Opening and closing data sets: a folder of our shards, or a foreign HDF5 file. A native open reads the manifest and
 * one index block per shard, with pread. */
#include "shard/layout.h"
#include "base/alloc.h"
#include "base/file.h"
#include "shard/bands.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

/* A folder without a manifest may hold data sets, as `ebb pack --split` makes them: name one. */
static ebb_status_t no_manifest(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    char inner[PATH_MAX], found[PATH_MAX] = "";
    while (dir && (entry = readdir(dir))) {
        int n = snprintf(inner, sizeof inner, "%s/%s/manifest.json", path, entry->d_name);
        if (n < (int)sizeof inner && entry->d_name[0] != '.' && ebb_file_exists(inner) &&
            (!found[0] || strcmp(entry->d_name, found) < 0))
            snprintf(found, sizeof found, "%s", entry->d_name);
    }
    if (dir)
        closedir(dir);
    if (found[0])
        return EBB_FAIL(EBB_ENOINPUT, "%s: is a folder of data sets: name one of them, for example %s/%s", path, path,
                        found);
    return EBB_FAIL(EBB_ENOINPUT, "%s: has no manifest.json, so it is not a whole data set: make one with ebb pack",
                    path);
}

static ebb_status_t open_folder(const char *path, ebb_dataset_t *ds)
{
    char manifest[PATH_MAX];
    snprintf(manifest, sizeof manifest, "%s/manifest.json", path);
    if (!ebb_file_exists(manifest))
        return no_manifest(path);
    EBB_TRY(ebb_manifest_read(path, ds));
    for (int i = 0; i < ds->info.n_shards; i++)
        EBB_TRY(ebb_shard_read_index(&ds->shard[i], i, &ds->info));
    return ebb_bands_blocks(ds);
}

ebb_status_t ebb_dataset_open(const char *path, const char *dataset, ebb_dataset_t **ds_p)
{
    ebb_dataset_t *ds;
    ebb_status_t status;
    *ds_p = NULL;
    if (!ebb_file_exists(path))
        return EBB_FAIL(EBB_ENOINPUT, "%s: no such file or folder", path);
    if (!ebb_file_is_dir(path))
        return ebb_foreign_open(path, dataset, NULL, ds_p);
    if (dataset)
        return EBB_FAIL(EBB_EINVAL, "%s: is a data set folder: \"%s\" can only be chosen inside an HDF5 file", path,
                        dataset);
    EBB_TRY(EBB_NEW("data set", &ds));
    ds->path = ebb_strdup(path);
    status = ds->path ? open_folder(path, ds) : EBB_FAIL(EBB_ENOMEM, "out of memory for a name");
    if (status != EBB_OK) {
        ebb_dataset_close(ds);
        return status;
    }
    ds->info.name = ds->name;
    ds->info.hash = ds->hash;
    ds->info.class_names = (const char *const *)ds->class_names;
    ds->info.class_rows = ds->class_rows;
    ds->info.fields = ds->fields;
    *ds_p = ds;
    return EBB_OK;
}

void ebb_dataset_close(ebb_dataset_t *ds)
{
    if (!ds)
        return;
    ebb_foreign_close(ds);
    for (int i = 0; ds->shard && i < ds->info.n_shards; i++)
        ebb_shard_clear(&ds->shard[i]);
    for (int64_t i = 0; ds->class_names && i < ds->info.classes; i++)
        ebb_free(ds->class_names[i]);
    ebb_free(ds->shard);
    ebb_free((void *)(uintptr_t)ds->blocks.row);
    ebb_free((void *)(uintptr_t)ds->blocks.group_rows);
    ebb_free((void *)(uintptr_t)ds->blocks.entry);
    ebb_free((void *)(uintptr_t)ds->blocks.member);
    ebb_free(ds->class_names);
    ebb_free(ds->class_rows);
    ebb_free(ds->fields);
    ebb_free(ds->names);
    ebb_free(ds->labels);
    ebb_free(ds->reals);
    ebb_free(ds->path);
    ebb_free(ds->name);
    ebb_free(ds);
}

const ebb_dataset_info_t *ebb_dataset_info(const ebb_dataset_t *ds)
{
    return &ds->info;
}

ebb_status_t ebb_dataset_shard(const ebb_dataset_t *ds, int shard, const char **file_p, int64_t *row0_p,
                               int64_t *rows_p, int64_t *bytes_p)
{
    if (shard < 0 || shard >= ds->info.n_shards)
        return EBB_FAIL(EBB_EINVAL, "%s: shard %d of %d", ds->info.name, shard, ds->info.n_shards);
    const ebb_shard_t *s = &ds->shard[shard];
    *file_p = s->file;
    *row0_p = s->row0;
    *rows_p = s->rows;
    *bytes_p = s->bytes;
    return EBB_OK;
}
