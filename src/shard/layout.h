/* What the shard stage knows of a file: its arrays and where their chunks lie. Shared by writer, reader, verify and the
 * opening of foreign files. */
#ifndef EBB_SHARD_LAYOUT_H
#define EBB_SHARD_LAYOUT_H

#include <ebb/shard.h>
#include "base/crew.h"
#include "shard/elem.h"

/* Elements in a chunk of X, at least and at most; see ebb_chunk_elements. */
#define EBB_CHUNK_ELEMENTS      16384
#define EBB_MOST_CHUNK_ELEMENTS 65536
#define EBB_CHUNK_ROWS                                                                                                 \
    8192 /* of indptr, targets and weights: a shuffled block needs few of them, so their chunks are small */
#define EBB_INDEX_MAGIC   0x5845444e49424245ull /* "EBBINDEX" */
#define EBB_INDEX_VERSION 1

/* What an array is for; the numbers are part of the format. */
typedef enum ebb_role {
    EBB_ROLE_DATA,
    EBB_ROLE_INDICES,
    EBB_ROLE_INDPTR, /* sparse X */
    EBB_ROLE_X,      /* dense X */
    EBB_ROLE_Y,
    EBB_ROLE_WEIGHT,
    EBB_ROLE_ROWID,
    EBB_ROLES
} ebb_role_t;

typedef enum ebb_codec {
    EBB_CODEC_NONE,
    EBB_CODEC_ZSTD,
    EBB_CODEC_DEFLATE,
    EBB_CODEC_LZF,
    EBB_CODEC_HDF5 /* libhdf5 reads it */
} ebb_codec_t;

/* One stored chunk. bytes 0: never written, all zeros. */
typedef struct ebb_chunk {
    int64_t offset;
    uint32_t bytes;
    uint32_t mask; /* HDF5 filter mask: bit i set: filter i was not applied */
    uint64_t xxh3; /* of the stored bytes */
} ebb_chunk_t;

/* A 1-D (cols = 1) or 2-D array cut into a grid of chunks, row by row. */
typedef struct ebb_array {
    const char *name; /* "X/indices"; owned by the shard when foreign, else static */
    bool present;
    bool shuffled; /* byte shuffle before the codec */
    bool padded;   /* chunks at the edge are stored whole */
    bool hashed;
    ebb_elem_t elem;
    ebb_codec_t codec;
    uint32_t shuffle_bit, codec_bit; /* of the filter mask */
    int64_t rows, cols;
    int64_t chunk_rows, chunk_cols;
    int64_t grid_rows, grid_cols;
    ebb_chunk_t *chunk; /* (grid_rows * grid_cols), owned; NULL for EBB_CODEC_HDF5 */
    int64_t h5;         /* open dataset for EBB_CODEC_HDF5 */
} ebb_array_t;

/* The rows that begin in one chunk of X; bands.h. */
typedef struct ebb_band {
    int64_t row;    /* the first of them, in the shard */
    int64_t offset; /* of the band's record */
    uint32_t bytes;
    uint32_t tail; /* entries beyond the chunk of a row that began in it or before */
    uint64_t xxh3;
} ebb_band_t;

typedef struct ebb_shard {
    char *path;       /* owned */
    const char *file; /* last part of path */
    int64_t row0, rows, nnz, bytes;
    int64_t index_offset, index_bytes;
    char sha256[65];
    ebb_array_t array[EBB_ROLES];
    ebb_band_t *band; /* (bands) owned; none in foreign files */
    int64_t bands;
} ebb_shard_t;

struct ebb_dataset {
    ebb_dataset_info_t info;
    char *path, *name;
    char hash[65];
    char **class_names;
    int64_t *class_rows;
    ebb_field_t *fields;
    ebb_shard_t *shard;
    ebb_row_blocks_t blocks;
    char *names;     /* of a foreign file's arrays */
    int32_t *labels; /* foreign targets, whole; else NULL */
    float *reals;
    int64_t h5_file; /* open file of EBB_CODEC_HDF5 arrays, else 0 */
};

ebb_elem_t ebb_value_elem(ebb_value_type_t type);
/* Elements in a chunk of X: as many as 64 KiB hold, in X/data and X/indices alike. Longer chunks of narrow types take
 * fewer bytes and less time (bytes of 784 columns: a fifth and a third less than at 16384); but a shuffled block is one
 * chunk, and many small blocks mix better than few large ones, so of less data they are shorter. */
int64_t ebb_chunk_elements(const ebb_dataset_plan_t *plan);
/* Name in the file of an array of our own layout. */
const char *ebb_role_name(ebb_role_t role, ebb_target_kind_t target, int64_t target_cols);
/* Set the grid from extents and chunk shape; false when sizes are negative or overflow. */
bool ebb_array_grid(ebb_array_t *array);
/* Decoded bytes of a chunk as the codec delivers them. */
int64_t ebb_array_chunk_bytes(const ebb_array_t *array, int64_t chunk);
/* Shape of our own arrays: element type, chunk shape. rows is left 0. False if the data set has no such array. */
bool ebb_array_plan(ebb_array_t *array, ebb_role_t role, const ebb_dataset_info_t *info);

/* The index block of a shard, 64-bit little-endian words; FORMAT.md. *words_p is owned by the caller. */
ebb_status_t ebb_index_encode(const ebb_shard_t *shard, int number, int64_t cols, uint64_t **words_p, int64_t *n_p);
/* Read it into shard->array, distrusting everything; file_bytes bounds all offsets. */
ebb_status_t ebb_index_decode(ebb_shard_t *shard, int number, const ebb_dataset_info_t *info, const uint64_t *words,
                              int64_t n);
void ebb_shard_clear(ebb_shard_t *shard);

/* Read manifest.json of folder `path` into ds (info, shards without their indexes). */
ebb_status_t ebb_manifest_read(const char *path, ebb_dataset_t *ds);
/* The same from text, for tests and fuzzing. */
ebb_status_t ebb_manifest_parse(const char *text, size_t bytes, const char *folder, ebb_dataset_t *ds);
/* Read and check the index block of each shard. */
ebb_status_t ebb_shard_read_index(ebb_shard_t *shard, int number, const ebb_dataset_info_t *info);

/* Open an HDF5 file that is not ours. by_columns: CSC is accepted and read as its transpose, else refused. */
ebb_status_t ebb_foreign_open(const char *path, const char *dataset, bool *by_columns, ebb_dataset_t **ds_p);
void ebb_foreign_close(ebb_dataset_t *ds);
/* Decode one chunk of an EBB_CODEC_HDF5 array into buf, unshuffled, in this machine's byte order. Takes libhdf5's lock.
 */
ebb_status_t ebb_foreign_read_chunk(const ebb_array_t *array, const char *path, int64_t chunk, void *buf);

/* ---- codec ---- */

#define EBB_NO_CHUNK (-1)

/* Shuffle n elements of `size` bytes into planes. */
void ebb_shuffle(size_t size, const void *in, int64_t n, void *out);
/* Take elements [first, first + count) of n decoded ones (planes when shuffled) to int32, float32, int64. Widening that
 * loses
 * (|integer| > 2^24 to float, values beyond the type) gives false. */
bool ebb_take_i32(ebb_elem_t elem, bool shuffled, const void *in, int64_t n, int64_t first, int64_t count,
                  int32_t *out);
bool ebb_take_f32(ebb_elem_t elem, bool shuffled, const void *in, int64_t n, int64_t first, int64_t count, float *out);
bool ebb_take_i64(ebb_elem_t elem, bool shuffled, const void *in, int64_t n, int64_t first, int64_t count,
                  int64_t *out);
/* Towards zero, and at most the largest half, so that the caller can see what was lost; infinities and NaN stay. */
uint16_t ebb_float_to_half(float f);
/* float32 to a stored type; index of the first value it cannot hold exactly (NaN and infinities included), or -1. */
int64_t ebb_put_f32(ebb_elem_t elem, const float *in, int64_t n, void *out);
/* For tests: 0 portable, 1 AVX2 or NEON, 2 AVX-512; not above what the CPU has. Returns the level in force. */
int ebb_codec_level(int level);
/* The level in force. */
int ebb_codec_level_now(void);

/* A writer whose chunks are compressed by the caller's crew. */
ebb_status_t ebb_shard_writer_create_with(const char *dir, const ebb_dataset_plan_t *plan, int index, ebb_crew_t *crew,
                                          ebb_shard_writer_t **w_p);

/* Readers of arrays for verify and the opening of foreign files; see reader.c. */
ebb_status_t ebb_reader_chunk(ebb_reader_t *reader, int shard, ebb_role_t role, int64_t chunk, bool checksum,
                              const void **raw_p);
ebb_status_t ebb_reader_take(ebb_reader_t *reader, int shard, ebb_role_t role, int64_t row0, int64_t n, ebb_elem_t as,
                             void *out);

#endif
