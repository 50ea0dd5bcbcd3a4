/* The HDF5 file that a shard's writer fills: groups, arrays and attributes as AnnData has them, chunks appended as they
 * come, the index at the end. It has a temporary name until the writer renames it.
 *
 * libhdf5 is told nothing that varies (no times, fixed format bounds). Disk space is reserved before libhdf5 writes,
 * because libhdf5 cannot close a file that it failed to write. Each call takes libhdf5's lock itself; after an error
 * only ebb_writer_file_drop is left. */
#ifndef EBB_SHARD_WRITER_FILE_H
#define EBB_SHARD_WRITER_FILE_H

#include "shard/bands.h"
#include "shard/h5.h"
#include "shard/layout.h"

#include <limits.h>

typedef struct ebb_writer_file {
    char path[PATH_MAX]; /* the temporary name */
    const ebb_dataset_info_t *info;
    ebb_shard_t *shard; /* its arrays are planned; the file sets where things lie */
    int level;          /* of zstd, noted in the arrays' filters */
    bool created;       /* the file exists and is ours to remove */
    int fd;             /* to reserve space with; -1 */
    int64_t reserved;
    hid_t h5;               /* -1 */
    hid_t array[EBB_ROLES]; /* -1 */
} ebb_writer_file_t;

/* Nothing is opened yet; info and shard are borrowed until the end. */
void ebb_writer_file_init(ebb_writer_file_t *file, const ebb_dataset_info_t *info, ebb_shard_t *shard, int level);
/* Make file->path with empty arrays for those that the shard has. */
ebb_status_t ebb_writer_file_create(ebb_writer_file_t *file);
/* Write chunk number `chunk` of an array, whose rows up to the chunk's end are `rows`; *offset_p: where it lies. */
ebb_status_t ebb_writer_file_chunk(ebb_writer_file_t *file, ebb_role_t role, int64_t chunk, int64_t rows,
                                   const void *data, size_t bytes, int64_t *offset_p);
/* Write bands, index and shape, and close: shard->bytes and the places of band records and index are set. */
ebb_status_t ebb_writer_file_finish(ebb_writer_file_t *file, int number, const ebb_band_maker_t *bands);
/* Close without keeping anything, and remove the file unless `created` was cleared. */
void ebb_writer_file_drop(ebb_writer_file_t *file);

#endif
