/* Any bytes given as a shard end in an error or in rows whose every number is in range. The manifest is that of the
 * seeds: the first byte chooses a sparse or a dense data set. The chunk table is looked for by its first word, as a
 * manifest would name it. */
#include "base/alloc.h"
#include "shard/layout.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ROWS = 60, COLS = 50, NNZ = 900 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static ebb_dataset_t *made(bool sparse, const char *path, const uint8_t *data, size_t size)
{
    void *memory, *shard;
    const uint64_t magic = EBB_INDEX_MAGIC;
    const uint8_t *at = memmem(data, size, &magic, sizeof magic);
    if (!at || ebb_alloc("data set", sizeof(ebb_dataset_t), &memory) != EBB_OK)
        return NULL;
    if (ebb_alloc("shard", sizeof(ebb_shard_t), &shard) != EBB_OK)
        abort();
    ebb_dataset_t *ds = memory;
    ds->shard = shard;
    ds->info = (ebb_dataset_info_t){.name = "fuzz",
                                    .rows = ROWS,
                                    .cols = COLS,
                                    .nnz = sparse ? NNZ : ROWS * COLS,
                                    .sparse = sparse,
                                    .value_type = sparse ? EBB_I16 : EBB_F16,
                                    .target = EBB_TARGET_CLASS,
                                    .target_cols = 1,
                                    .classes = 3,
                                    .weighted = true,
                                    .chunk_elements = EBB_MOST_CHUNK_ELEMENTS,
                                    .n_shards = 1};
    ds->shard[0] = (ebb_shard_t){.path = ebb_strdup(path),
                                 .rows = ROWS,
                                 .nnz = ds->info.nnz,
                                 .bytes = (int64_t)size,
                                 .index_offset = at - data,
                                 .index_bytes = (int64_t)(size - (size_t)(at - data)) / 8 * 8};
    ds->shard[0].file = ds->shard[0].path;
    return ds;
}

static void read_rows(ebb_reader_t *reader, bool sparse, int64_t row, int64_t n)
{
    static int64_t rowptr[ROWS + 1];
    static int32_t col[NNZ], label[ROWS];
    static float val[ROWS * COLS], weight[ROWS];
    if (!sparse && ebb_reader_dense(reader, row, n, val) != EBB_OK)
        ebb_error_clear();
    if (sparse && ebb_reader_rowptr(reader, row, n, 0, rowptr) == EBB_OK)
        for (int64_t i = 0; i < n; i++)
            if (rowptr[i + 1] < rowptr[i] || rowptr[i + 1] > NNZ)
                abort();
    ebb_error_clear();
    if (sparse && ebb_reader_csr(reader, row, n, col, val) != EBB_OK)
        ebb_error_clear();
    if (ebb_reader_targets(reader, row, n, label, NULL, weight) == EBB_OK)
        for (int64_t i = 0; i < n; i++)
            if (label[i] < 0 || label[i] > 2)
                abort();
    ebb_error_clear();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static char path[64];
    ebb_reader_t *reader;
    if (size < 1)
        return 0;
    if (fd < 0) {
        fd = memfd_create("shard", 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    bool sparse = data[0] & 1;
    ebb_dataset_t *ds = made(sparse, path, data + 1, size - 1);
    if (!ds)
        return 0;
    if (ftruncate(fd, 0) != 0 || pwrite(fd, data + 1, size - 1, 0) != (ssize_t)(size - 1))
        abort();
    if (ebb_shard_read_index(&ds->shard[0], 0, &ds->info) == EBB_OK &&
        ebb_reader_create(ds, 1 << 20, &reader) == EBB_OK) {
        read_rows(reader, sparse, 0, ROWS);
        read_rows(reader, sparse, 7, 20);
        ebb_reader_destroy(reader);
    }
    ebb_error_clear();
    ebb_dataset_close(ds);
    return 0;
}
