/* HDF5 files that are not ours. */
#include "shard/layout.h"

ebb_status_t ebb_foreign_open(const char *path, const char *dataset, bool *by_columns, ebb_dataset_t **ds_p)
{
    *ds_p = NULL;
    return EBB_FAIL(EBB_EUNAVAILABLE, "%s: foreign files cannot be opened in this build: pack it", path);
}

void ebb_foreign_close(ebb_dataset_t *ds)
{
}

ebb_status_t ebb_foreign_read_chunk(const ebb_array_t *array, const char *path, int64_t chunk, void *buf)
{
    return EBB_FAIL(EBB_EBUG, "%s: %s: not a foreign array", path, array->name);
}
