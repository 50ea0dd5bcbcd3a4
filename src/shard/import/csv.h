/* What the files of the CSV importer share: columns, and how their cells are encoded. */
#ifndef EBB_SHARD_IMPORT_CSV_H
#define EBB_SHARD_IMPORT_CSV_H

#include <pthread.h>

#include "base/exact.h"
#include "shard/import/import.h"

enum { EBB_CSV_MAX_BINS = 1000, EBB_CSV_BUCKETS = 65536 };

typedef enum csv_kind {
    CSV_UNSET,
    CSV_NUMERIC,
    CSV_CATEGORICAL,
    CSV_TEXT,
    CSV_TARGET,
    CSV_WEIGHT,
    CSV_IGNORE
} csv_kind_t;
typedef enum csv_transform { CSV_PLAIN, CSV_LOG1P, CSV_STANDARD, CSV_BINS } csv_transform_t;

typedef struct csv_column {
    char name[64];
    csv_kind_t kind;
    csv_transform_t transform;
    int bins;
    int32_t begin, end; /* output columns */
    int32_t missing;    /* output column of a missing value, or -1 */
    /* learned in the scan; sums merge in any order */
    int64_t any_missing, count;
    ebb_exact_t sum, squares;
    int64_t *buckets; /* CSV_BINS: rows by the upper 16 bits of the value in sortable form */
    double mean, deviation;
    float *edge;           /* (n_edges) ascending: bin = number of edges <= value */
    int n_edges, edge_bin; /* edge_bin: bin that the last edge begins */
} csv_column_t;

typedef struct csv {
    char delimiter;
    bool header;
    long long first_line;  /* of the text, behind those skipped */
    const char *trim;      /* characters to take off the end of targets */
    bool adopted;          /* columns came from another data set */
    int n, target, weight; /* columns; numbers of the target's and the weight's, -1 for none */
    csv_column_t *column;
    ebb_field_t *fields;
    int n_fields;
    pthread_mutex_t lock; /* guards the sums of columns in the scan */
} csv_t;

/* A cell, unquoted and trimmed. */
typedef struct csv_cell {
    const char *text;
    int64_t bytes;
    bool quoted;
} csv_cell_t;

/* Cuts the row at *p_p (text ends with a newline at end) into at most max cells; moves *p_p behind it and *line_p on by
 * its newlines. Quotes are undone in place. *n_p: cells there are, also beyond max. */
ebb_status_t csv_cut(char **p_p, char *end, char delimiter, int max, csv_cell_t *cells, int *n_p, int64_t *line_p);
bool csv_is_missing(const csv_cell_t *cell);

/* csv_columns.c */
ebb_status_t csv_columns_begin(csv_t *csv, const ebb_pack_options_t *options, const char *path, char *head, int64_t n,
                               int64_t *begin_p);
ebb_status_t csv_columns_settle(csv_t *csv, const ebb_pack_options_t *options, ebb_comm_t *comm, ebb_scan_t *scan);
void csv_columns_layout(csv_t *csv, const ebb_pack_options_t *options);
json_t *csv_columns_json(const csv_t *csv);
ebb_status_t csv_columns_adopt(csv_t *csv, const json_t *json);

/* A bucket for a finite value, ascending with it; and the least value of a bucket. */
uint32_t csv_bucket(float value);
float csv_bucket_floor(uint32_t bucket);

#endif
