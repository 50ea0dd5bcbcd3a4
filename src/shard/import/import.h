/* What the packer asks of a source format: one table of operations, one row in the list of formats.
 *
 * A format reads either TEXT (a stream cut into pieces at record boundaries, wherever they fall) or ROWS (pieces of as
 * many rows each; bytes of fixed size, or a file that the importer reads itself). The packer scans all sources once,
 * asks the importer to settle what it learned (settle), and reads them again for the rows. Pieces are parsed by many
 * threads at a time; the importer's state is read-only then, but for sums it merges under its own lock, in a way that
 * no order matters.
 */
#ifndef EBB_SHARD_IMPORT_IMPORT_H
#define EBB_SHARD_IMPORT_IMPORT_H

#include <ebb/comm.h>
#include <ebb/shard.h>
#include "base/json.h"
#include "shard/import/block.h"
#include "shard/import/stream.h"

typedef struct ebb_source {
    const char *path;
    ebb_stream_t *stream; /* NULL where the importer reads the file itself */
    bool sequential;      /* a stream of it is compressed: pieces are fetched in order by one thread */
    int64_t begin, end;   /* text or records: bytes [begin, end) of the stream; end -1: unknown until it is read */
    int64_t rows;         /* ROWS formats: how many, else -1 */
    int64_t record_bytes; /* ROWS from a stream: bytes a row; 0: the importer reads rows itself */
    ebb_stream_t *side;   /* ROWS: targets in a file of their own */
    int64_t side_begin, side_record_bytes;
    int64_t row_cost; /* ROWS: bytes a parsed row takes about, for the size of pieces */
    void *own;        /* the importer's, released by its close */
    bool *quoted;     /* TEXT with quotes: whether the nominal begin of each piece lies inside quotes */
} ebb_source_t;

typedef struct ebb_piece {
    int64_t number; /* within its source */
    char *buffer;   /* owned */
    int64_t capacity;
    char *text; /* within buffer; ends with a newline and a zero beyond `bytes` */
    int64_t bytes;
    int64_t offset;     /* of text[0] in the stream */
    int64_t row0, rows; /* ROWS */
    char *side;
    int64_t side_capacity;
    void *own; /* ROWS: per-slot state of the importer (a reader), released by its release */
} ebb_piece_t;

/* What the packer knows after the scan; settle may change it. */
typedef struct ebb_scan {
    ebb_block_stats_t stats;
    ebb_labels_t labels;
    int64_t cols;
    int32_t index_base;
    bool sparse;
    ebb_value_type_t value_type;
    int n_fields;
    ebb_field_t *fields; /* borrowed from the importer */
} ebb_scan_t;

typedef struct ebb_importer {
    const struct ebb_format *format;
    void *state;
    const ebb_pack_options_t *options;
    ebb_source_t *source; /* (n_sources), once they are open */
    int n_sources;
    ebb_comm_t *comm;
    int32_t index_base; /* of the data set to be like; -1: none */
} ebb_importer_t;

typedef struct ebb_format {
    const char *name;
    const char *what;    /* "LIBSVM / svmlight text" */
    bool text;           /* TEXT, else ROWS */
    bool quotes;         /* TEXT: a newline inside double quotes ends no record */
    bool dense;          /* blocks are dense */
    const char *targets; /* what --target names, of a format whose sources may come without targets */
    /* How surely the file is of this format, 0 .. 100; head: the first n decompressed bytes, zero-terminated. */
    int (*probe)(const char *head, int64_t n, const char *path);
    ebb_status_t (*create)(ebb_importer_t *importer); /* NULL: no state */
    void (*destroy)(ebb_importer_t *importer);
    /* Look at one source; the stream is open already (unless own_files). Sources are opened in order, on every rank. */
    bool own_files;
    ebb_status_t (*open)(ebb_importer_t *importer, ebb_source_t *source);
    void (*close)(ebb_importer_t *importer, ebb_source_t *source);
    /* TEXT: first begin of a record at or after pos (text[pos] lies inside quotes if quoted; text[pos - 1] is readable
     * if pos > 0); -1: not in text[0, n). */
    int64_t (*boundary)(const char *text, int64_t n, int64_t pos, bool quoted);
    ebb_status_t (*parse)(const ebb_importer_t *importer, const ebb_source_t *source, ebb_piece_t *piece,
                          ebb_block_t *block);
    void (*release)(ebb_piece_t *piece);
    /* Collective, after the scan: merge what the state gathered over the ranks, decide columns, fields, value type. */
    ebb_status_t (*settle)(ebb_importer_t *importer, ebb_scan_t *scan);
    /* What another data set needs to be encoded alike (--like), and the reverse, before the scan. New reference; NULL:
     * nothing. */
    json_t *(*encoding)(const ebb_importer_t *importer);
    ebb_status_t (*adopt)(ebb_importer_t *importer, const json_t *encoding);
} ebb_format_t;

extern const ebb_format_t ebb_format_svmlight, ebb_format_items, ebb_format_csv, ebb_format_tsv, ebb_format_idx,
    ebb_format_npy, ebb_format_hdf5, ebb_format_h5ad, ebb_format_10x, ebb_format_deb822;

/* NULL-terminated. */
extern const ebb_format_t *const ebb_formats[];

/* By name; the error lists the names. */
ebb_status_t ebb_format_find(const char *name, const ebb_format_t **format_p);
/* By content, from the line after the skipped ones on. */
ebb_status_t ebb_format_guess(const char *path, int64_t skip_lines, const ebb_format_t **format_p);

/* A boundary for formats of one record a line. */
int64_t ebb_boundary_line(const char *text, int64_t n, int64_t pos, bool quoted);

#endif
