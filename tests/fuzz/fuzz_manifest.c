/* Any text given as a manifest ends in an error or in counts that agree with each other. */
#include "base/alloc.h"
#include "shard/layout.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const ebb_dataset_t *ds)
{
    int64_t rows = 0;
    for (int i = 0; i < ds->info.n_shards; i++) {
        const ebb_shard_t *s = &ds->shard[i];
        if (s->row0 != rows || s->rows < 0 || s->index_offset < 0 || s->index_bytes > s->bytes - s->index_offset)
            abort();
        rows += s->rows;
    }
    if (rows != ds->info.rows || ds->info.cols < 1)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    void *ds;
    if (ebb_alloc("data set", sizeof(ebb_dataset_t), &ds) != EBB_OK)
        abort();
    if (ebb_manifest_parse((const char *)data, size, "fuzz", ds) == EBB_OK)
        check(ds);
    ebb_error_clear();
    ebb_dataset_close(ds);
    return 0;
}
