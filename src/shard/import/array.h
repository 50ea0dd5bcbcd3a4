/* Arrays of numbers in a file, as IDX and .npy have them. */
#ifndef EBB_SHARD_IMPORT_ARRAY_H
#define EBB_SHARD_IMPORT_ARRAY_H

#include "shard/import/import.h"

enum { EBB_ARRAY_DIMS = 8 };

typedef enum ebb_number_kind { EBB_UNSIGNED, EBB_SIGNED, EBB_FLOAT } ebb_number_kind_t;

typedef struct ebb_array_header {
    ebb_number_kind_t kind;
    int bytes; /* of an element */
    bool big_endian;
    bool fortran; /* the first index runs fastest */
    int n_dims;
    int64_t dim[EBB_ARRAY_DIMS];
    int64_t begin;      /* of the elements in the file */
    int64_t rows, cols; /* dim[0], and the product of the others */
} ebb_array_header_t;

/* Parses a header from the first n bytes of a file. */
typedef ebb_status_t (*ebb_array_parse_header_t)(const void *head, int64_t n, const char *path,
                                                 ebb_array_header_t *header);
ebb_status_t ebb_idx_header(const void *head, int64_t n, const char *path, ebb_array_header_t *header);
ebb_status_t ebb_npy_header(const void *head, int64_t n, const char *path, ebb_array_header_t *header);

/* Sets rows and cols; refuses empty and huge ones. */
ebb_status_t ebb_array_check(ebb_array_header_t *header, const char *path);
/* Operations of a format: the array in source->stream, and the targets in the file `target` (NULL: none). */
ebb_status_t ebb_array_open(ebb_importer_t *importer, ebb_source_t *source, ebb_array_parse_header_t parse,
                            const char *target);
void ebb_array_close(ebb_importer_t *importer, ebb_source_t *source);
ebb_status_t ebb_array_parse(const ebb_importer_t *importer, const ebb_source_t *source, ebb_piece_t *piece,
                             ebb_block_t *block);

#endif
