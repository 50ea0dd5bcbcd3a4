/* Data sets on disk: a folder of compressed HDF5 shards with a manifest, or a foreign HDF5 file read as one.
 *
 * A folder holds manifest.json, written last, and shard-00000.h5, ... A shard is an AnnData file: X is a csr_matrix
 * group (data, indices, indptr) or a 2-D dataset; classes are the categorical obs/y, one real target obs/y, several
 * obsm/y; weights are obs/weight; obs/_index holds global row numbers. Targets are in obs because AnnData refuses
 * unknown groups at the top. Chunks are byte-shuffled zstd frames; uns/ebb/index holds where each lies and its XXH3.
 * src/shard/FORMAT.md has it byte by byte.
 */
#ifndef EBB_SHARD_H
#define EBB_SHARD_H

#include <ebb/base.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EBB_MANIFEST_VERSION 1

typedef enum ebb_value_type {
    EBB_F32,
    EBB_F16,
    EBB_U8,
    EBB_I8,
    EBB_U16,
    EBB_I16,
    EBB_I32 /* |v| <= 2^24 */
} ebb_value_type_t;
typedef enum ebb_target_kind { EBB_TARGET_NONE, EBB_TARGET_CLASS, EBB_TARGET_REAL } ebb_target_kind_t;

EBB_API size_t ebb_value_type_size(ebb_value_type_t type);
EBB_API const char *ebb_value_type_name(ebb_value_type_t type); /* "f32", ... */

/* A named group of columns, e.g. one categorical column of a CSV file hashed to a range. */
typedef struct ebb_field {
    char name[64];
    int32_t begin, end; /* columns [begin, end) */
    bool categorical;   /* else numeric */
} ebb_field_t;

enum { EBB_SECTION_LEVELS = 4 };

/* Runs of rows that are cheapest to read together, because reading one decodes chunks that no other needs. In data sets
 * of more than some thousand blocks, groups cut a fixed random order of the blocks into equal parts, whose rows are
 * counted here; many groups are joined to sections, and many of those again. An order over all blocks then needs a pass
 * over one group and, on the way to it, one over the parts of one section of each level: no more in the largest of data
 * sets. */
typedef struct ebb_row_blocks {
    int64_t n;
    const int64_t *row; /* (n + 1) first row of each; row[n]: the rows of the data set */
    int64_t min_rows, max_rows;
    int64_t max_entries;       /* at least those of the largest block */
    int64_t bands, most_bands; /* chunks of X in all, and of one block at most */
    int64_t most_tail;         /* entries that a chunk's last row has beyond it, at most */
    bool whole;                /* no chunk's rows were cut into several blocks */
    int64_t groups;            /* group g: blocks ebb_group_block(i), i from ebb_group_first(g) to that of g + 1 */
    const int64_t *group_rows; /* (groups) */
    int levels;                /* of sections; 0: all groups are in one */
    struct {
        int64_t n; /* section i of n joins parts [parts * i / n, parts * (i + 1) / n) of those of the level below */
        const int64_t *rows; /* (n) */
    } section[EBB_SECTION_LEVELS];
    const int64_t *entry;   /* (n + 1) entries before each, about, where they share a chunk; NULL: not known */
    const uint32_t *member; /* (n) ebb_group_block, where groups are made alike in entries a row; or NULL */
} ebb_row_blocks_t;
/* The first part of section i, where n sections share the parts. */
EBB_API int64_t ebb_section_first(int64_t parts, int64_t i, int64_t n);
EBB_API int64_t ebb_group_first(const ebb_row_blocks_t *blocks, int64_t g);
EBB_API int64_t ebb_group_block(const ebb_row_blocks_t *blocks, int64_t i);

/* What a data set is. Borrowed from the data set that gives it. */
typedef struct ebb_dataset_info {
    const char *name;
    int64_t rows, cols;
    int64_t nnz; /* stored entries; rows * cols when dense */
    bool sparse;
    ebb_value_type_t value_type; /* as stored; readers always give float32 */
    ebb_target_kind_t target;
    int64_t target_cols;            /* 1 for classes; width of y for reals; 0 for none */
    int64_t classes;                /* number of classes, else 0 */
    const char *const *class_names; /* (classes); "-1", "+1", ">50K"; in the order of the class numbers */
    const int64_t *class_rows;      /* (classes) rows of each class */
    bool weighted;                  /* there is a weight per row */
    int n_fields;
    const ebb_field_t *fields; /* ascending; 0 of them when the source had none */
    int64_t bytes;             /* of all shards; of a foreign file, what the arrays in use take */
    int64_t chunk_elements;    /* nominal */
    int n_shards;
    const char *hash; /* hex SHA-256 that identifies the data: of the manifest, or of a foreign file's index */
    const ebb_row_blocks_t *blocks; /* NULL: not known (foreign files, older shards) */
} ebb_dataset_info_t;

typedef struct ebb_dataset ebb_dataset_t;
typedef struct ebb_reader ebb_reader_t;

/* Open a data set folder, or a .h5ad / 10x / plain HDF5 file as it is. dataset: NULL, or inside a foreign HDF5 file the
 * group or 2-D dataset to read, optionally with the targets' path after a colon ("raw/X:obs/bulk_labels"). Reads the
 * manifest and the shards' own chunk tables with pread; a foreign file is indexed through libhdf5, under the
 * process-wide lock. Readers never enter libhdf5, except for foreign filters and types that it alone understands. */
EBB_API ebb_status_t ebb_dataset_open(const char *path, const char *dataset, ebb_dataset_t **ds_p) EBB_MUST_CHECK;
EBB_API void ebb_dataset_close(ebb_dataset_t *ds);
EBB_API const ebb_dataset_info_t *ebb_dataset_info(const ebb_dataset_t *ds);
/* File name, first global row, row count and bytes of a shard. */
EBB_API ebb_status_t ebb_dataset_shard(const ebb_dataset_t *ds, int shard, const char **file_p, int64_t *row0_p,
                                       int64_t *rows_p, int64_t *bytes_p);

/* A reader decodes rows for one thread: it owns a decompressor and a small cache of decoded chunks. Many readers may
 * share a data set. Every chunk's XXH3 is checked before it is decoded; a fault names shard, dataset, chunk and row.
 * cache_bytes: budget for decoded chunks, 0 for the default (8 MiB). */
EBB_API ebb_status_t ebb_reader_create(const ebb_dataset_t *ds, size_t cache_bytes,
                                       ebb_reader_t **reader_p) EBB_MUST_CHECK;
EBB_API void ebb_reader_destroy(ebb_reader_t *reader);
/* Did reads of late wait for a device? Then whoever knows which rows come next should say so: the kernel is asked to
 * fetch their chunks meanwhile. Costs a microsecond a chunk; never fails. */
EBB_API bool ebb_reader_waits(const ebb_reader_t *reader);
EBB_API void ebb_reader_hint(ebb_reader_t *reader, int64_t row0, int64_t n);
/* Row pointers of rows [row0, row0 + n): (n + 1) values, out[0] = base. */
EBB_API ebb_status_t ebb_reader_rowptr(ebb_reader_t *reader, int64_t row0, int64_t n, int64_t base, int64_t *rowptr);
/* Entries of rows [row0, row0 + n) in storage order, as many as their row pointers say, as int32 and float32. */
EBB_API ebb_status_t ebb_reader_csr(ebb_reader_t *reader, int64_t row0, int64_t n, int32_t *col, float *val);
/* Dense rows [row0, row0 + n): (n, cols) float32. */
EBB_API ebb_status_t ebb_reader_dense(ebb_reader_t *reader, int64_t row0, int64_t n, float *x);
/* Targets and weights of rows [row0, row0 + n). label (n) for classes; y (n, target_cols) for reals, or for classes
 * the class number as float when asked for; weight (n), 1 where the data set has none. Each may be NULL. */
EBB_API ebb_status_t ebb_reader_targets(ebb_reader_t *reader, int64_t row0, int64_t n, int32_t *label, float *y,
                                        float *weight);

/* ---- writing ---- */

/* What the writer must know before the first row; the packer learns it in a first pass over the sources. */
typedef struct ebb_dataset_plan {
    const char *name;
    int64_t rows, cols;
    int64_t nnz; /* sparse: about how many entries there are, for the length of chunks; 0: not known, short ones */
    bool sparse;
    ebb_value_type_t value_type;
    ebb_target_kind_t target;
    int64_t target_cols;
    int64_t classes;
    const char *const *class_names;
    bool weighted;
    int n_fields;
    const ebb_field_t *fields;
    int64_t shard_rows;     /* rows per shard, the last one fewer */
    int level;              /* zstd level */
    const char *provenance; /* JSON object: sources with bytes and hashes, options; copied into the manifest */
} ebb_dataset_plan_t;

typedef struct ebb_shard_writer ebb_shard_writer_t;

/* What a finished shard says of itself, for the manifest; plain data, so that ranks can exchange it. */
typedef struct ebb_shard_summary {
    int32_t index;
    char file[32]; /* "shard-00007.h5" */
    int64_t row0, rows, nnz, bytes;
    int64_t index_offset, index_bytes; /* where its chunk table lies */
    char sha256[65];
} ebb_shard_summary_t;

/* Write shard `index` of a data set under construction in folder `dir` (a temporary name until commit). Rows must be
 * appended in order. threads: how many compress chunks. Shards are independent: different threads or ranks may
 * write different ones, but libhdf5 is entered under a process-wide lock. Same rows, same bytes. */
EBB_API ebb_status_t ebb_shard_writer_create(const char *dir, const ebb_dataset_plan_t *plan, int index, int threads,
                                             ebb_shard_writer_t **w_p) EBB_MUST_CHECK;
/* Append n rows. Sparse: rowptr (n+1), rowptr[0] = 0, columns ascending within a row, val (nnz); dense: x (n, cols).
 * label or y as in the plan; weight if weighted. Values must be representable in plan->value_type. */
EBB_API ebb_status_t ebb_shard_writer_append(ebb_shard_writer_t *w, int64_t n, const int64_t *rowptr,
                                             const int32_t *col, const float *val, const float *x, const int32_t *label,
                                             const float *y, const float *weight);
/* Flush, write the chunk table, fsync, rename to its final name. */
EBB_API ebb_status_t ebb_shard_writer_commit(ebb_shard_writer_t *w, ebb_shard_summary_t *summary);
/* Releases; without a commit before, removes the temporary file. */
EBB_API void ebb_shard_writer_destroy(ebb_shard_writer_t *w);
/* Write the manifest (temporary name, fsync, rename, fsync of the folder): from then on the data set opens.
 * shards: all n_shards summaries in order; class_rows (classes). */
EBB_API ebb_status_t ebb_manifest_write(const char *dir, const ebb_dataset_plan_t *plan, int n_shards,
                                        const ebb_shard_summary_t *shards, const int64_t *class_rows);

/* ---- checking ---- */

typedef struct ebb_fault {
    int shard;           /* -1: the manifest */
    const char *dataset; /* "X/indices" ... */
    int64_t chunk, row;  /* -1 where unknown; row is global */
    char message[256];
} ebb_fault_t;

/* Check everything: manifest against shards, shard hashes, chunk table against HDF5's own index, every chunk's hash and
 * zstd checksum, row pointers monotone, columns in range, ascending and unique, values finite, labels classes. report
 * is called once per fault (from one thread at a time); EBB_ECORRUPT if there was any. threads: decoding threads. */
EBB_API ebb_status_t ebb_dataset_verify(const char *path, int threads,
                                        void (*report)(void *user, const ebb_fault_t *fault), void *user);

/* ---- packing ---- */

/* Options of a pack; zero-initialise, then set. Sizes of 0 mean the default. */
typedef struct ebb_pack_options {
    const char *from;  /* svmlight, items, csv, tsv, idx, npy, h5ad, 10x, hdf5, deb822; NULL: guess from content */
    const char *split; /* "train=0.9,valid=0.1", or NULL */
    uint64_t split_seed;
    const char *name;           /* NULL: from the destination's name */
    int64_t cols;               /* force the number of columns; 0: from the data */
    bool one_based, zero_based; /* svmlight index base; default: one-based unless an index 0 occurs */
    const char *columns; /* csv: "age:numeric,job:categorical,t:text,y:target,w:weight,id:ignore", '*' for the rest */
    bool no_header;      /* csv */
    char delimiter;      /* csv; 0: guess among , ; tab | */
    int64_t skip_lines;  /* text formats: lines at the beginning of each source that are no data */
    const char *trim_target; /* csv: characters to take off the end of targets ("." for "<=50K."), or NULL */
    int hash_bits;           /* columns per hashed csv/text field: 2^bits; default 18 in all */
    const char *target;      /* hdf5: path of the targets; idx, npy: their file; csv: name of their column */
    const char *task;        /* "class", "real", NULL: guess (few distinct integers or text: class) */
    const char *dataset;     /* hdf5: path of X (group or dataset) */
    bool dense, sparse;      /* force the layout; default as the source is */
    int64_t shard_bytes;     /* uncompressed bytes per shard; default 256 MiB */
    int64_t memory_bytes;    /* bound on buffers; default 512 MiB, at least 2 MiB a thread */
    int level;               /* zstd; default 9 */
    int threads;             /* 0: all cores of this rank's share that the memory feeds */
    bool force;              /* replace an existing data set */
    bool progress;           /* rate and ETA on stderr */
    const char *like; /* a data set whose columns, classes and encodings to take; a label of no class is an error */
    const volatile int *stop; /* becomes non-zero to end the pack early (EBB_ESTOPPED), keeping nothing; may be NULL */
} ebb_pack_options_t;

struct ebb_comm;
/* Pack sources into dest. Collective over comm (struct ebb_comm is ebb_comm_t of comm.h); same bytes out for any number
 * of ranks and threads. An interrupted pack leaves nothing that opens. */
EBB_API ebb_status_t ebb_pack(struct ebb_comm *comm, int n_sources, const char *const *sources, const char *dest,
                              const ebb_pack_options_t *options);

#ifdef __cplusplus
}
#endif
#endif
